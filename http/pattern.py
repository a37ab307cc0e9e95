"""Patterns of ServeMux: how they are written, and which of them may be registered together.

Theory
------
A pattern is a set of requests: a set of methods times a set of paths, on one host or on every host.
Two patterns for the same host may be registered together only if their sets are disjoint or one
contains the other. So the patterns that match a given request always form a chain, and "the most
specific one wins" has exactly one answer, which no order of registration can change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

__all__ = ["PatternConflictError", "PatternError"]

Handler = Callable[[Any, Any], Any]


class PatternError(ValueError):
    """A pattern was refused. The message says what is wrong, and where.

    Attributes:
        pattern: the pattern as it was given.
        offset: index in ``pattern`` of what is wrong; -1 if the pattern as a whole is refused.
    """

    def __init__(self, message: str, pattern: str, offset: int = -1) -> None:
        super().__init__(message)
        self.pattern = pattern
        self.offset = offset

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.pattern, self.offset)


class PatternConflictError(PatternError):
    """A pattern conflicts with one that is already registered.

    Both match some request, and neither is more specific than the other. The message names both
    patterns and where each was registered, and shows requests that tell them apart.

    Attributes:
        pattern: the pattern that was refused.
        other: the pattern that was there before.
        example: a path, percent-encoded, that both match.
    """

    def __init__(self, message: str, pattern: str, other: str, example: str) -> None:
        super().__init__(message, pattern)
        self.other = other
        self.example = example

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.pattern, self.other, self.example)


# --- paths and hosts, of patterns and of requests -------------------------------------------------

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
# What a path may hold unescaped, besides letters, digits and "-._" (RFC 3986 section 3.3).
PATH_SAFE = "/!$&'()*+,;=:@~"


def _unescape(segment: str) -> str:
    """Decode percent-escapes. A segment with an invalid escape is taken as it is, as Go does."""
    if "%" not in segment or _BAD_ESCAPE.search(segment):
        return segment
    return unquote(segment)


def clean_path(path: str) -> str:
    """The canonical form of an escaped path: one leading slash, no "//", no "." or ".." segments.

    A trailing slash stays. Go's cleanPath. Because the result starts with exactly one slash, no
    browser takes it for a network-path reference (RFC 3986 section 4.2) to another host.
    """
    if path[:1] == "/" and "//" not in path and "/." not in path:
        return path
    out: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if out:
                out.pop()
        elif segment and segment != ".":
            out.append(segment)
    cleaned = "/" + "/".join(out)
    return cleaned + "/" if out and path[-1] == "/" else cleaned


def split_path(path: str) -> list[str]:
    """The decoded segments of a path; the first is the empty text before the first slash."""
    segs = path.split("/")
    if "%" in path:
        segs = [_unescape(s) for s in segs]
    return segs


def strip_port(host: str) -> str:
    """``host`` without ``:port``. The brackets of an IPv6 address stay."""
    if ":" not in host:
        return host
    if host.startswith("["):
        end = host.find("]")
        return host[: end + 1] if host[end + 1 : end + 2] == ":" else host
    return host if host.count(":") > 1 else host[: host.index(":")]


# --- patterns -------------------------------------------------------------------------------------

# The kinds of a segment.
LITERAL = 0  # text: the segment, percent-decoded; empty only in unclean patterns for CONNECT
WILD = 1  # {name}: one segment that is not empty
END = 2  # {$}: nothing but the trailing slash
REST = 3  # {name...}, or a trailing slash (text ""): everything that is left, also nothing

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2, token


class Segment:
    """One part of a pattern's path: a kind and its text."""

    __slots__ = ("kind", "text")

    def __init__(self, kind: int, text: str) -> None:
        self.kind = kind
        self.text = text  # the literal, or the wildcard's name


class Route:
    """A registered pattern with its handler. Never changed once it is registered."""

    __slots__ = (
        "handler",
        "host",
        "method",
        "name",
        "one",
        "pattern",
        "rest",
        "segments",
        "where",
        "wilds",
    )

    handler: Handler
    pattern: str  # as given
    method: str  # "" is any
    host: str  # lower case; "" is any
    segments: tuple[Segment, ...]
    where: str  # "file:line" of the registration
    # The indices below count in path.split("/"), whose element 0 is the empty text before the first
    # slash.
    one: int  # index of the value if there is exactly one wildcard and it is single, else 0
    name: str  # name of that wildcard
    wilds: tuple[tuple[str, int], ...]  # every single wildcard
    rest: tuple[str, int] | None  # the named rest wildcard

    def __init__(self, pattern: str, method: str, host: str, segments: tuple[Segment, ...]) -> None:
        self.pattern = pattern
        self.method = method
        self.host = host
        self.segments = segments
        self.where = ""
        self.wilds = tuple((s.text, i) for i, s in enumerate(segments, 1) if s.kind == WILD)
        last = segments[-1]
        self.rest = (last.text, len(segments)) if last.kind == REST and last.text else None
        single = len(self.wilds) == 1 and self.rest is None
        self.name, self.one = self.wilds[0] if single else ("", 0)

    @property
    def open_ended(self) -> bool:
        """Whether it matches a whole subtree."""
        return self.segments[-1].kind == REST

    @property
    def has_values(self) -> bool:
        return bool(self.wilds) or self.rest is not None

    def values(self, segs: list[str]) -> dict[str, str]:
        """The values of all wildcards, from the decoded segments of a path that matches."""
        out = {}
        for name, i in self.wilds:
            out[name] = segs[i]
        if self.rest is not None:
            name, i = self.rest
            out[name] = "/".join(segs[i:])
        return out


def _parse_segment(text: str, last: bool) -> Segment:
    """Parse what stands between two slashes. ValueError says what is wrong with it."""
    brace = text.find("{")
    if brace < 0:
        return Segment(LITERAL, _unescape(text))
    if brace > 0:
        raise ValueError("a wildcard must be a whole segment (must start with '{')")
    if text[-1] != "}":
        raise ValueError("a wildcard must be a whole segment (must end with '}')")
    name = text[1:-1]
    if name == "$":
        if not last:
            raise ValueError("{$} must be at the end of the pattern")
        return Segment(END, "")
    kind = WILD
    if name.endswith("..."):
        name, kind = name[:-3], REST
        if not last:
            raise ValueError("a {name...} wildcard must be at the end of the pattern")
    if not name:
        raise ValueError("a wildcard needs a name")
    if not name.isidentifier():
        raise ValueError(f"bad wildcard name {name!r} (must be an identifier)")
    return Segment(kind, name)


def _parse_host(host: str, method: str) -> None:
    """Check the host of a pattern. ValueError says what is wrong with it."""
    if "{" in host:
        raise ValueError("host contains '{' (missing initial '/'?)")
    if any(c <= " " or c in '"#?@\\<>}\x7f' for c in host):
        raise ValueError("invalid host")
    # A port in a pattern could never match: it is stripped from every request but CONNECT.
    if method != "CONNECT" and strip_port(host) != host:
        raise ValueError("host contains a port (ports are ignored when matching)")
    if host.count(":") > 1 and not host.startswith("["):
        raise ValueError("an IPv6 address must be in brackets")


def parse_pattern(pattern: str) -> Route:
    """Parse ``[METHOD ][HOST]/[PATH]``; PatternError says what is wrong and where."""
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a str, not {type(pattern).__name__}")

    def fail(offset: int, part: str, what: str) -> PatternError:
        at = f" at offset {offset}: {part!r}" if part else f" at offset {offset}"
        return PatternError(f"invalid pattern {pattern!r}: {what}{at}", pattern, offset)

    if not pattern:
        raise PatternError("invalid pattern '': it is empty", pattern, 0)
    method, start = "", 0
    blank = re.search("[ \t]+", pattern)
    slash = pattern.find("/")
    if blank and not 0 <= slash < blank.start():
        method, start = pattern[: blank.start()], blank.end()
        if not _METHOD.fullmatch(method):
            raise fail(0, method, "invalid method")
        slash = pattern.find("/", start)
    elif blank:
        what = "blank in a path (a method comes first; a space is %20)"
        raise fail(blank.start(), pattern[blank.start() :], what)
    if slash < 0:
        raise fail(start, pattern[start:], "no '/' (a pattern is [METHOD ][HOST]/path)")
    host, path = pattern[start:slash], pattern[slash:]
    try:
        _parse_host(host.lower(), method)
    except ValueError as e:
        raise fail(start, host, str(e)) from None
    if method != "CONNECT" and path != clean_path(path):
        raise fail(slash, path, f"an unclean path can never match (use {clean_path(path)!r})")

    segments: list[Segment] = []
    names: set[str] = set()
    offset = slash + 1
    texts = path[1:].split("/")
    for i, text in enumerate(texts, 1):
        last = i == len(texts)
        if last and not text:
            segments.append(Segment(REST, ""))
            break
        try:
            segment = _parse_segment(text, last)
        except ValueError as e:
            raise fail(offset, text, str(e)) from None
        if segment.kind in (WILD, REST):
            if segment.text in names:
                raise fail(offset, text, f"duplicate wildcard name {segment.text!r}")
            names.add(segment.text)
        segments.append(segment)
        offset += len(text) + 1
    return Route(pattern, method, host.lower(), tuple(segments))


# --- precedence and conflicts ---------------------------------------------------------------------
#
# The relation of two sets A and B that meet is two bits; it is 0 when they are equal, 3 when they
# only overlap. The relation of two products (method times path; segment times segment) is the "or"
# of their factors' relations, and products are disjoint as soon as one pair of factors is.

_A_HAS_MORE = 1  # A is not within B
_B_HAS_MORE = 2  # B is not within A
_DISJOINT = -1


def _swap(relation: int) -> int:
    return (0, _B_HAS_MORE, _A_HAS_MORE, 3)[relation]


def _compare_methods(a: str, b: str) -> int:
    if a == b:
        return 0
    if not a or (a == "GET" and b == "HEAD"):
        return _A_HAS_MORE
    if not b or (b == "GET" and a == "HEAD"):
        return _B_HAS_MORE
    return _DISJOINT


def _compare_segments(a: Segment, b: Segment) -> int:
    if a.kind == b.kind:
        return 0 if a.kind != LITERAL or a.text == b.text else _DISJOINT
    if a.kind == REST:
        return _A_HAS_MORE
    if a.kind == WILD and b.kind == LITERAL and b.text:
        return _A_HAS_MORE
    if b.kind == REST or (b.kind == WILD and a.kind == LITERAL and a.text):
        return _B_HAS_MORE
    return _DISJOINT  # {$} and a segment with text


def _compare_paths(a: tuple[Segment, ...], b: tuple[Segment, ...]) -> int:
    shorter = a if len(a) < len(b) else b
    if len(a) != len(b) and shorter[-1].kind != REST:
        return _DISJOINT
    relation = 0
    # A rest wildcard, where the shorter one ends, stands for all that is left.
    for x, y in zip(a, b, strict=False):
        part = _compare_segments(x, y)
        if part == _DISJOINT:
            return _DISJOINT
        relation |= part
    return relation


def _sample(segment: Segment) -> str:
    """A text for one segment; for a rest wildcard the empty one."""
    if segment.kind == REST or segment.kind == END:
        return ""
    if segment.kind == WILD:
        return quote(segment.text, safe=PATH_SAFE)
    return _quote_literal(segment.text)


def _quote_literal(text: str) -> str:
    quoted = quote(text, safe=PATH_SAFE[1:])
    return quoted.replace(".", "%2E") if text in (".", "..") else quoted


def _example(a: tuple[Segment, ...], b: tuple[Segment, ...], only_a: bool) -> str:
    """A path that A and B both match, or with ``only_a`` one that A matches and B does not.

    There must be such a path.
    """
    out = ""
    pending = only_a
    for x, y in zip(a, b, strict=False):
        more = x if y.kind == REST or (y.kind == WILD and x.kind == LITERAL) else y
        text = _sample(more)
        if pending and _compare_segments(x, y) == _A_HAS_MORE:
            pending = False
            if x.kind == REST:
                # Nothing after the slash is no match for a literal or {name}; anything is none for
                # {$}.
                return out + "/" + ("x" if y.kind == END else "")
            text = _sample(x)
            if text == _sample(y):
                text += "x"
        out += "/" + text
    for segment in (a if len(a) > len(b) else b)[min(len(a), len(b)) :]:
        # The shorter one ended in a rest wildcard, which stands for the first segment too.
        out += "/" + _sample(segment)
    return out


def _example_method(a: str, b: str, only_a: bool) -> str:
    """A method that both match, or with ``only_a`` one that A matches and B does not."""
    if not only_a:
        # The more specific one: it is "" only if both are.
        return (b if _compare_methods(a, b) == _A_HAS_MORE else a) or "GET"
    return a or ("POST" if b in ("GET", "HEAD") else "GET")


def check_conflict(new: Route, old: Route) -> None:
    """Raise if both, of the same host, match some request and neither is more specific."""
    methods = _compare_methods(new.method, old.method)
    paths = _compare_paths(new.segments, old.segments)
    if methods == _DISJOINT or paths == _DISJOINT or methods | paths in (_A_HAS_MORE, _B_HAS_MORE):
        return
    path = _example(new.segments, old.segments, False)
    method = _example_method(new.method, old.method, False)
    lines = [
        f"pattern {new.pattern!r} (registered at {new.where}) conflicts with "
        f"pattern {old.pattern!r} (registered at {old.where}):"
    ]
    if methods | paths == 0:
        lines.append(f"both match exactly the same requests, such as '{method} {path}'")
    else:
        lines.append(f"both match '{method} {path}', and neither is more specific:")
        for a, b, by_path in ((new, old, paths), (old, new, _swap(paths))):
            if by_path & _A_HAS_MORE:
                only = f"{method} {_example(a.segments, b.segments, True)}"
            else:
                only = f"{_example_method(a.method, b.method, True)} {path}"
            lines.append(f"only {a.pattern!r} matches '{only}'")
    raise PatternConflictError("\n".join(lines), new.pattern, old.pattern, path)
