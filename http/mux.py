"""ServeMux: chooses the handler of a request by method, host and path, with the rules of Go 1.22.

Theory
------
A pattern is a set of requests: a set of methods times a set of paths, on one host or on every host.
Two patterns for the same host may be registered together only if their sets are disjoint or one
contains the other. So the patterns that match a given request always form a chain, and "the most
specific one wins" has exactly one answer, which no order of registration can change.

All patterns of one host live in a tree with one level for each path segment. At a node the literal
child is tried before the wildcard child, and that before the node's "rest of the path" leaf. Of two
patterns in a chain the more specific one is never more general in any segment, so this order meets
it first. The methods sit in the leaves: a leaf without the request's method is passed over as if it
were not there.

Invariants
----------
- ``_routes`` only grows, under ``_lock``. A table is current when it was built from as many routes
  as there are.
- A published ``_Table``, its trees and its dictionaries are never changed again: readers need no
  lock.
- ``_exact`` holds only paths for which the tree would give the same answer. An empty one is always
  correct, which is how a registration makes every later lookup see it: the lookup misses, finds no
  table and builds one.
- Nothing that a client sends is ever stored, so no client can make the mux grow.

Rejected: a cache of recent paths (an attacker would choose its keys); one large regular expression
(linear in the number of routes); a tree for each method, as Go has (two or three walks where one is
enough).
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, overload
from urllib.parse import quote, unquote

__all__ = ["PatternConflictError", "PatternError", "ServeMux"]

Handler = Callable[[Any, Any], Any]
_H = TypeVar("_H", bound=Handler)


class _Headers(Protocol):
    def set(self, name: str, value: str, /) -> object: ...


class _ResponseWriter(Protocol):
    @property
    def headers(self) -> _Headers: ...
    def write_header(self, status: int, /) -> object: ...
    def write(self, data: Any, /) -> object: ...


class _Request(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def raw_path(self) -> str: ...
    @property
    def raw_query(self) -> str: ...

    pattern: str
    path_values: dict[str, str]


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


# --- patterns -------------------------------------------------------------------------------------

_LITERAL = 0  # text: the segment, percent-decoded; empty only in unclean patterns for CONNECT
_WILD = 1  # {name}: one segment that is not empty
_END = 2  # {$}: nothing but the trailing slash
_REST = 3  # {name...}, or a trailing slash (text ""): everything that is left, also nothing

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2, token
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
# What a path may hold unescaped, besides letters, digits and "-._" (RFC 3986 section 3.3).
_PATH_SAFE = "/!$&'()*+,;=:@~"


class _Segment:
    """One part of a pattern's path: a kind and its text."""

    __slots__ = ("kind", "text")

    def __init__(self, kind: int, text: str) -> None:
        self.kind = kind
        self.text = text  # the literal, or the wildcard's name


class _Route:
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
    segments: tuple[_Segment, ...]
    where: str  # "file:line" of the registration
    # The indices below count in path.split("/"), whose element 0 is the empty text before the first
    # slash.
    one: int  # index of the value if there is exactly one wildcard and it is single, else 0
    name: str  # name of that wildcard
    wilds: tuple[tuple[str, int], ...]  # every single wildcard
    rest: tuple[str, int] | None  # the named rest wildcard

    def __init__(
        self, pattern: str, method: str, host: str, segments: tuple[_Segment, ...]
    ) -> None:
        self.pattern = pattern
        self.method = method
        self.host = host
        self.segments = segments
        self.where = ""
        self.wilds = tuple((s.text, i) for i, s in enumerate(segments, 1) if s.kind == _WILD)
        last = segments[-1]
        self.rest = (last.text, len(segments)) if last.kind == _REST and last.text else None
        single = len(self.wilds) == 1 and self.rest is None
        self.name, self.one = self.wilds[0] if single else ("", 0)

    @property
    def open_ended(self) -> bool:
        """Whether it matches a whole subtree."""
        return self.segments[-1].kind == _REST

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


def _unescape(segment: str) -> str:
    """Decode percent-escapes. A segment with an invalid escape is taken as it is, as Go does."""
    if "%" not in segment or _BAD_ESCAPE.search(segment):
        return segment
    return unquote(segment)


def _clean(path: str) -> str:
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


def _parse_segment(text: str, last: bool) -> _Segment:
    """Parse what stands between two slashes. ValueError says what is wrong with it."""
    brace = text.find("{")
    if brace < 0:
        return _Segment(_LITERAL, _unescape(text))
    if brace > 0:
        raise ValueError("a wildcard must be a whole segment (must start with '{')")
    if text[-1] != "}":
        raise ValueError("a wildcard must be a whole segment (must end with '}')")
    name = text[1:-1]
    if name == "$":
        if not last:
            raise ValueError("{$} must be at the end of the pattern")
        return _Segment(_END, "")
    kind = _WILD
    if name.endswith("..."):
        name, kind = name[:-3], _REST
        if not last:
            raise ValueError("a {name...} wildcard must be at the end of the pattern")
    if not name:
        raise ValueError("a wildcard needs a name")
    if not name.isidentifier():
        raise ValueError(f"bad wildcard name {name!r} (must be an identifier)")
    return _Segment(kind, name)


def _parse_host(host: str, method: str) -> None:
    """Check the host of a pattern. ValueError says what is wrong with it."""
    if "{" in host:
        raise ValueError("host contains '{' (missing initial '/'?)")
    if any(c <= " " or c in '"#?@\\<>}\x7f' for c in host):
        raise ValueError("invalid host")
    # A port in a pattern could never match: it is stripped from every request but CONNECT.
    if method != "CONNECT" and _strip_port(host) != host:
        raise ValueError("host contains a port (ports are ignored when matching)")
    if host.count(":") > 1 and not host.startswith("["):
        raise ValueError("an IPv6 address must be in brackets")


def _parse(pattern: str) -> _Route:
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
    if method != "CONNECT" and path != _clean(path):
        raise fail(slash, path, f"an unclean path can never match (use {_clean(path)!r})")

    segments: list[_Segment] = []
    names: set[str] = set()
    offset = slash + 1
    texts = path[1:].split("/")
    for i, text in enumerate(texts, 1):
        last = i == len(texts)
        if last and not text:
            segments.append(_Segment(_REST, ""))
            break
        try:
            segment = _parse_segment(text, last)
        except ValueError as e:
            raise fail(offset, text, str(e)) from None
        if segment.kind in (_WILD, _REST):
            if segment.text in names:
                raise fail(offset, text, f"duplicate wildcard name {segment.text!r}")
            names.add(segment.text)
        segments.append(segment)
        offset += len(text) + 1
    return _Route(pattern, method, host.lower(), tuple(segments))


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


def _compare_segments(a: _Segment, b: _Segment) -> int:
    if a.kind == b.kind:
        return 0 if a.kind != _LITERAL or a.text == b.text else _DISJOINT
    if a.kind == _REST:
        return _A_HAS_MORE
    if a.kind == _WILD and b.kind == _LITERAL and b.text:
        return _A_HAS_MORE
    if b.kind == _REST or (b.kind == _WILD and a.kind == _LITERAL and a.text):
        return _B_HAS_MORE
    return _DISJOINT  # {$} and a segment with text


def _compare_paths(a: tuple[_Segment, ...], b: tuple[_Segment, ...]) -> int:
    shorter = a if len(a) < len(b) else b
    if len(a) != len(b) and shorter[-1].kind != _REST:
        return _DISJOINT
    relation = 0
    # A rest wildcard, where the shorter one ends, stands for all that is left.
    for x, y in zip(a, b, strict=False):
        part = _compare_segments(x, y)
        if part == _DISJOINT:
            return _DISJOINT
        relation |= part
    return relation


def _sample(segment: _Segment) -> str:
    """A text for one segment; for a rest wildcard the empty one."""
    if segment.kind == _REST or segment.kind == _END:
        return ""
    if segment.kind == _WILD:
        return quote(segment.text, safe=_PATH_SAFE)
    return _quote_literal(segment.text)


def _quote_literal(text: str) -> str:
    quoted = quote(text, safe=_PATH_SAFE[1:])
    return quoted.replace(".", "%2E") if text in (".", "..") else quoted


def _example(a: tuple[_Segment, ...], b: tuple[_Segment, ...], only_a: bool) -> str:
    """A path that A and B both match, or with ``only_a`` one that A matches and B does not.

    There must be such a path.
    """
    out = ""
    pending = only_a
    for x, y in zip(a, b, strict=False):
        more = x if y.kind == _REST or (y.kind == _WILD and x.kind == _LITERAL) else y
        text = _sample(more)
        if pending and _compare_segments(x, y) == _A_HAS_MORE:
            pending = False
            if x.kind == _REST:
                # Nothing after the slash is no match for a literal or {name}; anything is none for
                # {$}.
                return out + "/" + ("x" if y.kind == _END else "")
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


def _check_conflict(new: _Route, old: _Route) -> None:
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


# --- the tree -------------------------------------------------------------------------------------


class _Leaf:
    """The routes of one path pattern, by method."""

    __slots__ = ("any", "methods")

    def __init__(self) -> None:
        self.methods: dict[str, _Route] = {}  # in a sealed tree also HEAD, for GET
        self.any: _Route | None = None  # the route without a method

    def add(self, route: _Route) -> None:
        if route.method:
            self.methods[route.method] = route
        else:
            self.any = route

    def get(self, method: str) -> _Route | None:
        return self.methods.get(method) or self.any

    def routes(self) -> Iterator[_Route]:
        yield from self.methods.values()
        if self.any is not None:
            yield self.any


class _Node:
    """What is known after some segments of a path; after a trailing slash stands the segment ""."""

    __slots__ = ("above", "forked", "leaf", "literals", "rest", "up", "wild")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}  # by decoded text; "" is {$}
        self.wild: _Node | None = None
        # Matches the remaining segments, of which there must be one, if only "":
        self.rest: _Leaf | None = None
        self.leaf: _Leaf | None = None  # matches if no segments remain
        # Set by _seal:
        self.up: _Leaf | None = None  # the nearest rest leaf, of this node or one above
        self.above: _Leaf | None = None  # the same without this node's own
        self.forked = False  # on the way here a wildcard child was passed over for a literal one


def _insert(node: _Node, route: _Route) -> None:
    for segment in route.segments:
        if segment.kind == _REST:
            if node.rest is None:
                node.rest = _Leaf()
            node.rest.add(route)
            return
        if segment.kind == _WILD:
            if node.wild is None:
                node.wild = _Node()
            node = node.wild
        else:
            node = node.literals.setdefault(segment.text, _Node())  # the text of {$} is ""
    if node.leaf is None:
        node.leaf = _Leaf()
    node.leaf.add(route)


def _meeting(node: _Node, segments: tuple[_Segment, ...], i: int) -> Iterator[_Route]:
    """All routes below ``node`` that match some path that ``segments[i:]`` matches too."""
    if i == len(segments):
        if node.leaf is not None:
            yield from node.leaf.routes()
        return
    if node.rest is not None:
        yield from node.rest.routes()
    kind, text = segments[i].kind, segments[i].text
    if kind == _REST:
        for child in _children(node):
            yield from _all_routes(child)
    elif kind == _WILD:
        for key, child in node.literals.items():
            if key:
                yield from _meeting(child, segments, i + 1)
        if node.wild is not None:
            yield from _meeting(node.wild, segments, i + 1)
    else:
        if text in node.literals:
            yield from _meeting(node.literals[text], segments, i + 1)
        if text and node.wild is not None:
            yield from _meeting(node.wild, segments, i + 1)


def _children(node: _Node) -> Iterator[_Node]:
    yield from node.literals.values()
    if node.wild is not None:
        yield node.wild


def _all_routes(node: _Node) -> Iterator[_Route]:
    for leaf in (node.leaf, node.rest):
        if leaf is not None:
            yield from leaf.routes()
    for child in _children(node):
        yield from _all_routes(child)


def _seal(node: _Node, above: _Leaf | None, forked: bool) -> None:
    """Complete the derived fields of a finished tree."""
    for leaf in (node.leaf, node.rest):
        if leaf is not None and "GET" in leaf.methods:
            leaf.methods.setdefault("HEAD", leaf.methods["GET"])
    node.above = above
    node.up = node.rest or above
    node.forked = forked
    for child in node.literals.values():
        _seal(child, node.up, forked or node.wild is not None)
    if node.wild is not None:
        _seal(node.wild, node.up, forked)


# (routes by method or None, handler and pattern of the route without a method or None and "")
_Exact = tuple[dict[str, tuple[Handler, str]] | None, Handler | None, str]


def _collect_exact(node: _Node, path: str, out: dict[str, _Exact]) -> None:
    """Fill ``out`` with the paths that one dictionary lookup can answer.

    These are the paths spelled by literals alone. A path that ends in a slash may have two leaves,
    of which {$} is the more specific.
    """
    for key, leaves in ((path, (node.leaf,)), (path + "/", (node.rest, _end_leaf(node)))):
        methods: dict[str, _Route] = {}
        any_route: _Route | None = None
        for leaf in leaves:
            if leaf is not None:
                methods.update(leaf.methods)
                any_route = leaf.any or any_route
        routes = [*methods.values(), any_route] if any_route is not None else [*methods.values()]
        # A named rest wildcard has a value, even here. An unclean key must redirect instead.
        if routes and not any(r.has_values for r in routes) and _clean(key) == key:
            by_method = {m: (r.handler, r.pattern) for m, r in methods.items()} or None
            if any_route is None:
                out[key] = (by_method, None, "")
            else:
                out[key] = (by_method, any_route.handler, any_route.pattern)
    for text, child in node.literals.items():
        if text:
            _collect_exact(child, f"{path}/{quote(text, safe=_PATH_SAFE[1:])}", out)


def _end_leaf(node: _Node) -> _Leaf | None:
    end = node.literals.get("")
    return None if end is None else end.leaf


def _split(path: str) -> list[str]:
    """The decoded segments of a path; the first is the empty text before the first slash."""
    segs = path.split("/")
    if "%" in path:
        segs = [_unescape(s) for s in segs]
    return segs


def _search(node: _Node, segs: list[str], i: int, method: str) -> _Route | None:
    """The most specific route for ``segs[i:]``.

    Each node is visited at most once, so no path costs more than the number of nodes.
    """
    if i == len(segs):
        return None if node.leaf is None else node.leaf.get(method)
    seg = segs[i]
    child = node.literals.get(seg)
    if child is not None:
        found = _search(child, segs, i + 1, method)
        if found is not None:
            return found
    if node.wild is not None and seg:
        found = _search(node.wild, segs, i + 1, method)
        if found is not None:
            return found
    return None if node.rest is None else node.rest.get(method)


def _collect_methods(node: _Node, segs: list[str], i: int, out: set[str]) -> None:
    """Add the methods of every route whose path matches ``segs[i:]``."""
    if i == len(segs):
        if node.leaf is not None:
            out.update(node.leaf.methods)
        return
    child = node.literals.get(segs[i])
    if child is not None:
        _collect_methods(child, segs, i + 1, out)
    if node.wild is not None and segs[i]:
        _collect_methods(node.wild, segs, i + 1, out)
    if node.rest is not None:
        out.update(node.rest.methods)


class _Table:
    """Everything a lookup needs, built from the first ``size`` routes and never changed."""

    __slots__ = ("exact", "hosts", "root", "size", "start", "starts")

    def __init__(self, routes: tuple[_Route, ...]) -> None:
        self.size = len(routes)
        self.root = _Node()  # patterns for every host
        self.hosts: dict[str, _Node] = {}  # patterns for one
        for route in routes:
            _insert(self.hosts.setdefault(route.host, _Node()) if route.host else self.root, route)
        for node in (self.root, *self.hosts.values()):
            _seal(node, None, False)
        # These consume the empty text before the first slash.
        self.start = self._before(self.root)
        self.starts = {host: self._before(node) for host, node in self.hosts.items()}
        self.exact: dict[str, _Exact] = {}
        _collect_exact(self.root, "", self.exact)

    @staticmethod
    def _before(node: _Node) -> _Node:
        start = _Node()
        start.literals[""] = node
        return start

    def trees(self, host: str, connect: bool) -> tuple[_Node, ...]:
        """The trees to search for a request's host, in order."""
        if self.hosts:
            host = host.lower()
            own = self.hosts.get(host if connect else _strip_port(host))
            if own is not None:
                return own, self.root
        return (self.root,)


def _strip_port(host: str) -> str:
    """``host`` without ``:port``. The brackets of an IPv6 address stay."""
    if ":" not in host:
        return host
    if host.startswith("["):
        end = host.find("]")
        return host[: end + 1] if host[end + 1 : end + 2] == ":" else host
    return host if host.count(":") > 1 else host[: host.index(":")]


# --- replies of the mux's own ---------------------------------------------------------------------


def _error(w: _ResponseWriter, status: int, text: str) -> None:
    # Go's http.Error.
    w.headers.set("Content-Type", "text/plain; charset=utf-8")
    w.headers.set("X-Content-Type-Options", "nosniff")
    w.write_header(status)
    w.write(text + "\n")


def _not_found(w: _ResponseWriter, r: _Request) -> None:
    _error(w, 404, "404 page not found")


def _bad_request(w: _ResponseWriter, r: _Request) -> None:
    # "*" is for the server as a whole (RFC 9112 section 3.2.4), never for a handler.
    w.headers.set("Connection", "close")
    _error(w, 400, "Bad Request")


def _method_not_allowed(allow: str) -> Handler:
    def method_not_allowed(w: _ResponseWriter, r: _Request) -> None:
        w.headers.set("Allow", allow)
        _error(w, 405, "Method Not Allowed")

    return method_not_allowed


def _redirect(path: str, query: str) -> Handler:
    """A handler that redirects to ``path``, which must be clean, and ``query``; both escaped."""
    # Whatever could end the header, or make a browser see another host ("/\host"), is
    # percent-encoded.
    location = quote(path, safe=_PATH_SAFE + "%[]", errors="replace")
    if query:
        location += "?" + quote(query, safe=_PATH_SAFE + "%[]?^`{|}", errors="replace")

    def redirect(w: _ResponseWriter, r: _Request) -> None:
        # Go's http.Redirect.
        w.headers.set("Location", location)
        if r.method in ("GET", "HEAD"):
            w.headers.set("Content-Type", "text/html; charset=utf-8")
        w.write_header(301)
        if r.method == "GET":
            href = location.replace("&", "&amp;").replace("'", "&#39;")
            w.write(f'<a href="{href}">Moved Permanently</a>.\n\n')

    return redirect


# --- the mux --------------------------------------------------------------------------------------


class _Lock:
    """A lock whose holder may be preempted.

    A goroutine that waits in the operating system keeps its thread, so if the holder is a goroutine
    of that same thread it never runs again. Coming back to the interpreter now and then lets the
    scheduler switch to it.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        while not self._lock.acquire(timeout=0.001):
            pass

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


class _Missing:
    """The type of the default of ``handler``, so that None is seen as the mistake that it is."""


_MISSING = _Missing()


class ServeMux:
    """A request multiplexer: calls the handler whose pattern matches best. Go's ``http.ServeMux``.

    A mux is itself a handler, so it can be served, wrapped, or registered in another mux::

        mux = ServeMux()

        @mux.handle("GET /items/{id}")
        def item(w, r):
            return {"id": r.path_value("id")}

        mux.handle("/static/", files)
        serve(":8080", mux)

    **Patterns** have the form ``[METHOD ][HOST]/path``:

    - ``/index.html`` matches that path, for any method and host.
    - ``GET /`` matches GET and HEAD requests; any other method matches only itself. Methods are
      case-sensitive.
    - ``example.com/`` matches that host only, in any case and with any port.
    - ``/static/`` ends in a slash and matches the whole subtree; ``/`` matches every path.
    - ``/items/{id}`` matches one segment, which is not empty; ``r.path_value("id")`` returns it.
    - ``/files/{path...}`` matches all that is left of the path, also nothing; it must come last.
    - ``/{$}`` matches only the path ``/``; ``{$}`` must come last.

    Segments are split at the slashes of the path as it was sent and percent-decoded afterwards:
    ``/a%2Fb`` is one segment, ``a/b``. So a value may contain slashes and dots: do not use it as a
    file name unchecked.

    **Precedence**: the most specific pattern wins, whatever the order of registration. One pattern
    is more specific than another if it matches a proper subset of the other's requests. If two
    patterns match some request in common and neither is more specific, the second is refused. A
    pattern with a host wins over any without.

    **Redirects** (status 301, query kept): paths with ``//``, ``.`` or ``..`` to their clean form,
    except for CONNECT; and ``/static`` to ``/static/`` if only the latter is registered.

    **Otherwise** the reply is 405 with ``Allow`` if the path matches with another method, else 404.

    Patterns can be registered at any time, by any thread. The request gets ``r.pattern``, the
    pattern that matched ("" if none did), and, if that has wildcards, ``r.path_values``.
    """

    __slots__ = ("__weakref__", "_exact", "_lock", "_registered", "_routes", "_table")

    def __init__(self) -> None:
        self._lock = _Lock()  # guards all writes to the fields below
        self._routes: list[_Route] = []  # in order of registration; only appended to
        # Trees by host, to find conflicts; read and written under _lock.
        self._registered: dict[str, _Node] = {}
        self._table: _Table | None = None  # None: a route was added since it was built
        self._exact: dict[str, _Exact] = {}  # _table.exact, or empty if there are hosts or no table

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self._routes)} routes>"

    @overload
    def handle(self, pattern: str) -> Callable[[_H], _H]: ...

    @overload
    def handle(self, pattern: str, handler: Handler) -> None: ...

    def handle(
        self, pattern: str, handler: Handler | _Missing = _MISSING
    ) -> Callable[[_H], _H] | None:
        """Register ``handler`` for ``pattern``. Go's ``ServeMux.Handle``.

        Without ``handler`` it is a decorator, which returns the function unchanged::

            @mux.handle("POST /items")
            def create(w, r): ...

        A handler is called as ``handler(w, r)``, and what it returns is returned by the mux.

        Raises:
            PatternError: the pattern is invalid (a ValueError).
            PatternConflictError: it conflicts with a registered one (a PatternError).
            TypeError: the pattern is not a str or the handler is not callable.
        """
        return self._handle(pattern, handler)

    @overload
    def handle_func(self, pattern: str) -> Callable[[_H], _H]: ...

    @overload
    def handle_func(self, pattern: str, fn: Handler) -> None: ...

    def handle_func(
        self, pattern: str, fn: Handler | _Missing = _MISSING
    ) -> Callable[[_H], _H] | None:
        """The same as :meth:`handle`. Go's ``ServeMux.HandleFunc``."""
        return self._handle(pattern, fn)

    def _handle(self, pattern: str, handler: Handler | _Missing) -> Callable[[_H], _H] | None:
        route = _parse(pattern)
        frame = sys._getframe(2)  # the caller of handle or handle_func
        route.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if not isinstance(handler, _Missing):
            self._add(route, handler)
            return None

        def decorate(fn: _H) -> _H:
            self._add(route, fn)
            return fn

        return decorate

    def _add(self, route: _Route, handler: Handler) -> None:
        if not callable(handler):
            raise TypeError(
                f"handler of {route.pattern!r} must be callable, not {type(handler).__name__}"
            )
        route.handler = handler
        with self._lock:
            tree = self._registered.get(route.host)
            if tree is None:
                tree = self._registered[route.host] = _Node()
            for other in _meeting(tree, route.segments, 0):
                _check_conflict(route, other)
            _insert(tree, route)
            self._routes.append(route)
            self._table = None
            self._exact = {}

    def routes(self) -> list[tuple[str, Handler]]:
        """All registered ``(pattern, handler)``, in order of registration."""
        return [(route.pattern, route.handler) for route in tuple(self._routes)]

    def handler(self, r: _Request) -> tuple[Handler, str]:
        """The handler for ``r`` and the pattern it was registered with. Go's ``ServeMux.Handler``.

        It always returns a handler: for a redirect one that redirects, with the pattern that will
        match afterwards; if nothing matches one that replies 404 or 405, with the pattern "". ``r``
        is not changed, so it gets no path values.
        """
        handler, pattern, _, _ = self._resolve(r)
        return handler, pattern

    def serve_http(self, w: _ResponseWriter, r: _Request) -> Any:
        """Call the handler for ``r`` and return what it returns. Go's ``ServeMux.ServeHTTP``.

        The mux itself is callable and does the same; a server that keeps the bound method
        ``mux.serve_http`` saves the lookup of ``__call__``.
        """
        path = r.raw_path
        hit = self._exact.get(path)
        if hit is None:
            return self._serve_tree(w, r, path)
        methods, handler, pattern = hit
        if methods is not None:
            own = methods.get(r.method)
            if own is not None:
                handler, pattern = own
        if handler is None:
            return self._serve_slow(w, r)
        r.pattern = pattern
        return handler(w, r)

    __call__ = serve_http

    def _serve_tree(self, w: _ResponseWriter, r: _Request, path: str) -> Any:
        """Walk the tree without looking back; whatever needs that is for ``_serve_slow``."""
        table = self._table or self._compile()
        if "//" in path or "/." in path:
            return self._serve_slow(w, r)
        segs = path.split("/")
        if "%" in path:
            segs = _split(path)
        node = table.start
        method = r.method
        if table.hosts:
            if method == "CONNECT":
                return self._serve_slow(w, r)  # its port counts
            node = table.starts.get(_strip_port(r.host.lower()), node)
        for seg in segs:
            child = node.literals.get(seg)
            if child is None:
                child = node.wild
                if child is None or not seg:
                    # Nothing goes on from here. If no wildcard was passed over, the nearest rest
                    # leaf is the answer; and as no pattern of this tree spells the whole path, none
                    # can want a slash added to it.
                    leaf = None if node.forked else node.up
                    break
            node = child
        else:
            leaf = node.leaf
        if leaf is None:
            return self._serve_slow(w, r)
        route = leaf.methods.get(method) or leaf.any
        if route is None:
            return self._serve_slow(w, r)
        r.pattern = route.pattern
        if route.one:
            r.path_values = {route.name: segs[route.one]}
        elif route.wilds or route.rest:
            r.path_values = route.values(segs)
        return route.handler(w, r)

    def _serve_slow(self, w: _ResponseWriter, r: _Request) -> Any:
        """Serve any request by the full rules."""
        handler, r.pattern, route, segs = self._resolve(r)
        if route is not None and route.has_values:
            r.path_values = route.values(segs)
        return handler(w, r)

    def _resolve(self, r: _Request) -> tuple[Handler, str, _Route | None, list[str]]:
        """The handler and pattern; also, unless the reply is our own, route and segments."""
        table = self._table or self._compile()
        method = r.method
        raw = r.raw_path
        if raw == "*":
            return _bad_request, "", None, []
        connect = method == "CONNECT"
        cleaned = _clean(raw)
        path = raw if connect else cleaned
        if path[:1] != "/":
            return _not_found, "", None, []  # CONNECT host:port has no path
        trees = table.trees(r.host, connect)
        segs = _split(path)
        route = _match(trees, segs, method)
        if segs[-1] and path == cleaned and (route is None or route.open_ended):
            # Not matched exactly. Is "path/", by a pattern that spells all of it?
            slashed = _match(trees, [*segs, ""], method)
            if slashed is not None and (
                not slashed.open_ended or len(slashed.segments) == len(segs)
            ):
                return _redirect(cleaned + "/", r.raw_query), slashed.pattern, None, []
        if path != raw:
            return _redirect(path, r.raw_query), "" if route is None else route.pattern, None, []
        if route is not None:
            return route.handler, route.pattern, route, segs
        allow: set[str] = set()
        for tree in trees:
            _collect_methods(tree, segs, 1, allow)
            if segs[-1]:
                _collect_methods(tree, [*segs, ""], 1, allow)  # another method would be redirected
        if allow:
            return _method_not_allowed(", ".join(sorted(allow))), "", None, []
        return _not_found, "", None, []

    def _compile(self) -> _Table:
        """Build and publish the table."""
        while True:
            table = _Table(tuple(self._routes))
            with self._lock:
                if table.size == len(self._routes):
                    self._exact = {} if table.hosts else table.exact
                    self._table = table
                    return table


def _match(trees: tuple[_Node, ...], segs: list[str], method: str) -> _Route | None:
    for tree in trees:
        route = _search(tree, segs, 1, method)
        if route is not None:
            return route
    return None
