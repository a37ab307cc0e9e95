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

from runtime._http.converters import BUILT_IN, INT, Converter

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


def quote_query(query: str) -> str:
    """A raw query for a redirect: escaped are only what could end a header and what no URL has."""
    return quote(query, safe=PATH_SAFE + "%[]?^`{|}", errors="replace")



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

MAX_SEGMENTS = 256  # of a pattern; trees are as deep
MAX_WILDCARDS = 16  # HTTP_MAX_WILD of csrc/py_http.h

# What the lookup makes of the text of a wildcard: HTTP_WILD_* of csrc/py_http_mux.h.
_TEXT, _REST, _INT = 0, 1, 2

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2, token


class Segment:
    """One part of a pattern's path: a kind and its text."""

    __slots__ = ("converter", "kind", "text")

    def __init__(self, kind: int, text: str, converter: Converter | None = None) -> None:
        self.kind = kind
        self.text = text  # the literal, or the wildcard's name
        self.converter = converter  # of a wildcard; it has no part in matching


class Route:
    """A registered pattern with its handler. Never changed once it is registered."""

    __slots__ = (
        "converters",
        "converts",
        "depth",
        "handler",
        "host",
        "kinds",
        "method",
        "name",
        "names",
        "open_ended",
        "path",
        "pattern",
        "segments",
        "strip",
        "target",
        "where",
    )

    handler: Handler  # as given
    target: Callable[..., Any]  # what is called: the handler, or its serve_http
    name: str  # for url(), "" has none
    where: str  # "file:line" of the registration
    strip: int  # segments that belong to the prefixes it is mounted under

    def __init__(
        self, pattern: str, method: str, host: str, path: str, segments: tuple[Segment, ...]
    ) -> None:
        self.pattern = pattern  # as given
        self.method = method  # "" is any
        self.host = host  # lower case; "" is any
        self.path = path
        self.segments = segments
        self.depth = len(segments)
        # Whether it matches a whole subtree.
        self.open_ended = segments[-1].kind == REST
        wilds = [(i, s) for i, s in enumerate(segments) if s.kind in (WILD, REST) and s.text]
        self.names = tuple(s.text for _, s in wilds)
        # For each name: which segment it is, and what the lookup makes of it.
        self.kinds = tuple(
            (i, _REST if s.kind == REST else _INT if s.converter is INT else _TEXT)
            for i, s in wilds
        )
        self.converters = tuple((s.text, s.converter) for _, s in wilds if s.converter is not None)
        # Whether there are converters that the lookup leaves to convert().
        self.converts = any(
            s.converter is not None and kind != _INT
            for (_, s), (_, kind) in zip(wilds, self.kinds, strict=True)
        )
        self.name = ""
        self.where = ""
        self.strip = 0

    def values(self, segs: list[str]) -> dict[str, Any]:
        """The texts of all wildcards, from the decoded segments of a path that matches."""
        return {
            name: "/".join(segs[i:]) if kind == _REST else segs[i]
            for name, (i, kind) in zip(self.names, self.kinds, strict=True)
        }

    def convert(self, values: dict[str, Any]) -> bool:
        """Let the converters replace texts by their values. False if one refuses its text."""
        for name, converter in self.converters:
            text = values[name]
            if type(text) is str:  # the lookup converts whole numbers by itself
                try:
                    values[name] = converter.parse(text)
                except ValueError:
                    return False
        return True

    def url(self, values: dict[str, Any]) -> str:
        """The URL that gives these values; see ServeMux.url()."""
        if values.keys() != set(self.names):
            missing = [n for n in self.names if n not in values]
            extra = sorted(values.keys() - set(self.names))
            raise TypeError(
                f"url({self.name!r}): {self.pattern!r} "
                + "; ".join(
                    f"{what} {', '.join(names)}"
                    for what, names in (("needs", missing), ("has no wildcard", extra))
                    if names
                )
            )
        out = f"//{self.host}" if self.host else ""
        for segment in self.segments:
            if segment.kind == LITERAL:
                out += "/" + _quote_segment(segment.text)
            elif segment.kind == END or not segment.text:
                out += "/"
            else:
                text = self._format(segment, values[segment.text])
                parts = text.split("/") if segment.kind == REST else [text]
                out += "/" + "/".join(map(_quote_segment, parts))
        return out

    def _format(self, segment: Segment, value: Any) -> str:
        where = f"url({self.name!r}): {segment.text}={value!r}"
        converter = segment.converter
        if converter is None:
            if not isinstance(value, (str, int)):
                raise TypeError(f"{where}: a wildcard without a converter takes str or int")
            text = str(value)
        else:
            try:
                text = converter.format(value)
                converter.parse(text)
            except ValueError as e:
                raise ValueError(f"{where} is not for converter {converter.name!r}: {e}") from None
        if segment.kind == WILD and not text:
            raise ValueError(f"{where}: a segment cannot be empty")
        if segment.kind == REST and (text[:1] == "/" or "//" in text):
            raise ValueError(f"{where}: an empty segment would be cleaned away")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where} has characters that no URL can carry") from None
        return text


def mounted(prefix: Route, name: str, route: Route) -> Route:
    """``route`` as it is below ``prefix``, a pattern that ends in a slash."""
    if prefix.host and route.host and prefix.host != route.host:
        what = f"{route.pattern!r} is for another host than {prefix.pattern!r}, where it is mounted"
        raise PatternError(what, route.pattern)
    host, path = prefix.host or route.host, prefix.path + route.path[1:]
    method = f"{route.method} " if route.method else ""
    segments = prefix.segments[:-1] + route.segments
    out = Route(f"{method}{host}{path}", route.method, host, path, segments)
    doubled = [n for n in prefix.names if n in route.names]
    if doubled:
        what = f"pattern {out.pattern!r} has the wildcard name {doubled[0]!r} twice"
        raise PatternError(what, out.pattern)
    _check_size(out.pattern, out.segments)
    out.handler, out.target = route.handler, route.target
    out.name = f"{name}:{route.name}" if name and route.name else route.name
    out.where = f"{route.where}, mounted at {prefix.where}"
    out.strip = prefix.depth - 1 + route.strip
    return out


def _parse_segment(text: str, last: bool, converters: dict[str, Converter]) -> Segment:
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
    name, colon, by = name.partition(":")
    if not name:
        raise ValueError("a wildcard needs a name")
    if not name.isidentifier():
        raise ValueError(f"bad wildcard name {name!r} (must be an identifier)")
    if not colon:
        return Segment(kind, name)
    if by not in converters:
        known = ", ".join(sorted(converters))
        raise ValueError(f"unknown converter {by!r} (there are {known})")
    return Segment(kind, name, converters[by])


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


def _check_size(pattern: str, segments: tuple[Segment, ...]) -> None:
    wild = sum(s.kind in (WILD, REST) and s.text != "" for s in segments)
    for what, n, most in (
        ("segments", len(segments), MAX_SEGMENTS),
        ("wildcards", wild, MAX_WILDCARDS),
    ):
        if n > most:
            raise PatternError(f"pattern {pattern!r} has {n} {what}, at most {most} fit", pattern)


def parse_pattern(pattern: str, converters: dict[str, Converter] = BUILT_IN) -> Route:
    """Parse ``[METHOD ][HOST]/[PATH]``; PatternError says what is wrong and where."""
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a str, not {type(pattern).__name__}")

    def fail(offset: int, part: str, what: str) -> PatternError:
        at = f" at offset {offset}: {part!r}" if part else f" at offset {offset}"
        return PatternError(f"invalid pattern {pattern!r}: {what}{at}", pattern, offset)

    if not pattern:
        raise PatternError("invalid pattern '': it is empty", pattern, 0)
    try:
        pattern.encode()
    except UnicodeEncodeError as e:
        raise fail(e.start, pattern[e.start : e.end], "half a surrogate pair") from None
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
            segment = _parse_segment(text, last, converters)
        except ValueError as e:
            raise fail(offset, text, str(e)) from None
        if segment.kind in (WILD, REST):
            if segment.text in names:
                raise fail(offset, text, f"duplicate wildcard name {segment.text!r}")
            names.add(segment.text)
        segments.append(segment)
        offset += len(text) + 1
    _check_size(pattern, tuple(segments))
    return Route(pattern, method, host.lower(), path, tuple(segments))


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
    return _quote_segment(segment.text)


def _quote_segment(text: str) -> str:
    """Percent-encode one segment, so that neither a slash nor a dot in it means anything."""
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
    if new.converters or old.converters:
        lines.append("(converters have no part in matching)")
    raise PatternConflictError("\n".join(lines), new.pattern, old.pattern, path)
