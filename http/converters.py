"""Converters of a pattern's wildcards, such as ``int`` in ``/items/{id:int}``."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uuid import UUID


class Converter:
    """What turns the text of a wildcard into a value, and back. Never changed."""

    __slots__ = ("format", "name", "parse")

    def __init__(
        self, name: str, parse: Callable[[str], Any], format: Callable[[Any], str] = str
    ) -> None:
        self.name = name
        self.parse = parse  # ValueError: the text is none of it
        self.format = format


def _filter(pattern: str, make: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    matches = re.compile(pattern).fullmatch

    def parse(text: str) -> Any:
        if not matches(text):
            raise ValueError(f"{text!r} is no {what}")
        return make(text)

    return parse


def _make_uuid(text: str) -> UUID:
    from uuid import UUID

    return UUID(text)


def _format_float(value: float) -> str:
    return format(Decimal(repr(float(value))), "f")  # never with an exponent


_HEX4 = "[0-9A-Fa-f]{4}"

# Which of them is "int" is known to csrc/py_http_route.c, too.
INT = Converter("int", _filter("-?[0-9]+", int, "whole number"))

BUILT_IN = {
    c.name: c
    for c in (
        Converter("str", str),
        INT,
        Converter("float", _filter(r"-?[0-9]+(\.[0-9]+)?", float, "decimal number"), _format_float),
        Converter(
            "uuid", _filter(f"{_HEX4}{_HEX4}-({_HEX4}-){{3}}{_HEX4 * 3}", _make_uuid, "UUID")
        ),
        # One name within a directory, never the directory itself, its parent or a path.
        Converter("filename", _filter(r"(?!\.\.?\Z)[^/\\\x00-\x1f\x7f]+", str, "file name")),
    )
}
