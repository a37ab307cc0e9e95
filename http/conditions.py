"""Conditional requests and ranges (RFC 9110 sections 13 and 14), as Go's ServeContent has them."""

from __future__ import annotations

import datetime
import email.utils
import functools
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from runtime._core import Headers

MAX_RANGES = 64  # of one request: each costs a head of its own in the response


class Range(NamedTuple):
    start: int
    length: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


class Unsatisfiable(Exception):
    """416: no range lies within the content, or the syntax is wrong."""


_SPEC = re.compile(r"[ \t]*(\d{0,18})[ \t]*-[ \t]*(\d{0,18})[ \t]*", re.ASCII)


def parse_ranges(header: str, size: int) -> list[Range]:
    """The ranges that are asked for; an empty list: send everything.

    Everything is sent where there is no range, where its unit is unknown (RFC 9110 section 14.2),
    and where the ranges have more bytes together than the content, or are too many: that is an
    attack or a broken client, as Go has it.
    """
    unit, equals, specs = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return []
    ranges: list[Range] = []
    total = 0
    outside = False
    for n, spec in enumerate(specs.split(",")):
        if n >= MAX_RANGES:
            return []
        if not spec.strip(" \t"):
            continue  # an empty element of a list
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise Unsatisfiable("invalid range")
        first, last = match[1], match[2]
        if not first:
            if not last:
                raise Unsatisfiable("invalid range")
            length = min(int(last), size)
            start = size - length
        else:
            start = int(first)
            if last and int(last) < start:
                raise Unsatisfiable("invalid range")
            length = (min(int(last) + 1, size) if last else size) - start
        if length <= 0:
            outside = True
            continue
        ranges.append(Range(start, length))
        total += length
    if not ranges and (outside or not specs.strip(" \t,")):
        if outside and size == 0:
            return []  # everything: some clients ask so of any content
        raise Unsatisfiable("range out of bounds" if outside else "invalid range")
    return [] if total > size else ranges


# --- validators -----------------------------------------------------------------------------------

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def is_etag(text: str) -> bool:
    return _ETAG.fullmatch(text) is not None


def _etags(header: str) -> list[str]:
    """The entity tags of a list, up to the first thing that is none."""
    tags: list[str] = []
    at = 0
    while True:
        while at < len(header) and header[at] in " \t,":
            at += 1
        match = _ETAG.match(header, at)
        if match is None:
            return tags
        tags.append(match[0])
        at = match.end()


def _strong_match(a: str, b: str) -> bool:
    return a == b and not a.startswith("W/") and a != ""


def _weak_match(a: str, b: str) -> bool:
    return a.removeprefix("W/") == b.removeprefix("W/")


@functools.lru_cache(512)
def http_date(seconds: int) -> str:
    return email.utils.formatdate(seconds, usegmt=True)


@functools.lru_cache(512)
def parse_date(text: str) -> int | None:
    """Seconds since the epoch; None for what is no HTTP date."""
    if not text.isascii() or len(text) > 40:
        return None
    try:
        when = email.utils.parsedate_to_datetime(text)
        # A date without a zone is one in asctime's form, which is UTC.
        return int(when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp())
    except (TypeError, ValueError, OverflowError):
        return None


def precondition(method: str, headers: Headers, etag: str, modified: int | None) -> int:
    """200: go on; 304 or 412: that is the answer.  In the order of RFC 9110 section 13.2.2.

    etag and modified, whole seconds, are the content's; "" and None for none.
    """
    if (match := _joined(headers, "if-match")) is not None:
        if not _any_match(match, etag, _strong_match):
            return 412
    elif modified is not None and (since := headers.get("if-unmodified-since")) is not None:
        when = parse_date(since)
        if when is not None and modified > when:
            return 412
    if "if-none-match" in headers:
        if not none_match(headers, etag):
            return 304 if method in ("GET", "HEAD") else 412
    elif (
        modified is not None
        and method in ("GET", "HEAD")
        and (since := headers.get("if-modified-since")) is not None
    ):
        when = parse_date(since)
        if when is not None and modified <= when:
            return 304
    return 200


def _joined(headers: Headers, name: str) -> str | None:
    """A field that is a list, which may come in several lines."""
    if name not in headers:
        return None
    return ",".join(headers.get_all(name))


def none_match(headers: Headers, etag: str) -> bool:
    """Does If-None-Match let content with that entity tag be sent?  False: 304, or 412."""
    match = _joined(headers, "if-none-match")
    return match is None or not _any_match(match, etag, _weak_match)


def _any_match(header: str, etag: str, match: object) -> bool:
    assert callable(match)
    if header.strip() == "*":
        return True
    return any(match(tag, etag) for tag in _etags(header))


def range_holds(header: str | None, etag: str, modified: int | None) -> bool:
    """Does If-Range let Range apply?  It needs a strong validator (RFC 9110 section 13.1.5)."""
    if header is None:
        return True
    header = header.strip()
    if header.startswith(('"', "W/")):
        return _strong_match(header, etag)
    return modified is not None and parse_date(header) == modified


# --- content codings ------------------------------------------------------------------------------


def coding_weights(accept: str) -> dict[str, float]:
    """The codings an Accept-Encoding names, and how much each is wanted: 0 to 1."""
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        coding, _, parameters = item.partition(";")
        weight = 1.0
        name, equals, value = parameters.partition("=")
        if equals and name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
        if 0.0 <= weight <= 1.0:
            weights[coding.strip()] = weight
    if "x-gzip" in weights:  # RFC 9110 section 8.4.1.3
        weights.setdefault("gzip", weights["x-gzip"])
    return weights


@functools.lru_cache(256)
def preferred_codings(accept: str, offered: tuple[str, ...]) -> tuple[str, ...]:
    """Of the codings offered, best first, those that Accept-Encoding admits, best first.

    Only such as are preferred to no coding at all (RFC 9110 section 12.5.3).
    """
    weights = coding_weights(accept)
    rest = weights.get("*", 0.0)
    plain = weights.get("identity", 0.0)
    scored = [(weights.get(coding, rest), coding) for coding in offered]
    usable = [(weight, coding) for weight, coding in scored if weight > 0 and weight >= plain]
    return tuple(coding for _, coding in sorted(usable, key=lambda item: -item[0]))


def plain_is_accepted(accept: str) -> bool:
    """Does Accept-Encoding admit content without any coding?"""
    weights = coding_weights(accept)
    return weights.get("identity", weights.get("*", 1.0)) > 0
