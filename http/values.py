"""Values: what a query string or a form holds, and decoding of bodies."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from runtime._http.errors import BadRequestError

__all__ = ["Values"]

MAX_FIELDS = 10_000  # of one query or form


class Values(dict[str, list[str]]):
    """Names to lists of values, in the order they were sent.  Go: url.Values.

    values.get("q")        # the first value, or None
    values["tag"]          # all values, or KeyError
    """

    def get(self, name: str, default: Any = None) -> Any:
        """Return the first value of that name, or default."""
        values = super().get(name)
        return values[0] if values else default

    def get_all(self, name: str) -> list[str]:
        """Return all values of that name, an empty list if there are none."""
        return super().get(name, [])


def _add(values: Values, text: str) -> None:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as exc:
        raise BadRequestError(f"malformed query or form: {exc}") from None
    for name, value in pairs:
        values.setdefault(name, []).append(value)


def parse_query(text: str) -> Values:
    """Decode a query string, percent-escapes and plus signs included."""
    values = Values()
    if text:
        _add(values, text)
    return values


def parse_urlencoded(data: bytes) -> Values:
    """Decode a body of the type application/x-www-form-urlencoded."""
    values = Values()
    try:
        _add(values, data.decode("ascii"))
    except UnicodeDecodeError:
        raise BadRequestError("a form body must be ASCII, percent-escaped") from None
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def load_json(data: bytes) -> Any:
    """Decode a JSON body (RFC 8259): UTF-8, without NaN and infinities."""
    try:
        return _decode(str(data, "utf-8"))
    except (ValueError, RecursionError) as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from None


dump_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
