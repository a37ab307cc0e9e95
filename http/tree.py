"""The tree that finds the patterns of one host by path.

It has one level for each path segment. At a node the literal child is tried before the wildcard
child, and that before the node's "rest of the path" leaf. The patterns that match a request form a
chain (pattern.py), and the more specific one of two is never more general in any segment, so this
order meets it first. The methods sit in the leaves: a leaf without the request's method is passed
over as if it were not there.

A tree grows by ``insert`` until ``seal`` completes it for lookups; after that it must not change.
``meeting``, which finds possible conflicts, works on a tree that still grows.

Rejected: one large regular expression (linear in the number of routes); a tree for each method, as
Go has (two or three walks where one is enough).
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from runtime._http.pattern import PATH_SAFE, REST, WILD, Handler, Route, Segment, clean_path


class Leaf:
    """The routes of one path pattern, by method."""

    __slots__ = ("any", "methods")

    def __init__(self) -> None:
        self.methods: dict[str, Route] = {}  # in a sealed tree also HEAD, for GET
        self.any: Route | None = None  # the route without a method

    def add(self, route: Route) -> None:
        if route.method:
            self.methods[route.method] = route
        else:
            self.any = route

    def get(self, method: str) -> Route | None:
        return self.methods.get(method) or self.any

    def routes(self) -> Iterator[Route]:
        yield from self.methods.values()
        if self.any is not None:
            yield self.any


class Node:
    """What is known after some segments of a path; after a trailing slash stands the segment ""."""

    __slots__ = ("above", "forked", "leaf", "literals", "rest", "up", "wild")

    def __init__(self) -> None:
        self.literals: dict[str, Node] = {}  # by decoded text; "" is {$}
        self.wild: Node | None = None
        # Matches the remaining segments, of which there must be one, if only "":
        self.rest: Leaf | None = None
        self.leaf: Leaf | None = None  # matches if no segments remain
        # Set by seal:
        self.up: Leaf | None = None  # the nearest rest leaf, of this node or one above
        self.above: Leaf | None = None  # the same without this node's own
        self.forked = False  # on the way here a wildcard child was passed over for a literal one


def insert(node: Node, route: Route) -> None:
    """Add ``route`` to the tree whose root is ``node``."""
    for segment in route.segments:
        if segment.kind == REST:
            if node.rest is None:
                node.rest = Leaf()
            node.rest.add(route)
            return
        if segment.kind == WILD:
            if node.wild is None:
                node.wild = Node()
            node = node.wild
        else:
            node = node.literals.setdefault(segment.text, Node())  # the text of {$} is ""
    if node.leaf is None:
        node.leaf = Leaf()
    node.leaf.add(route)


def meeting(node: Node, segments: tuple[Segment, ...], i: int) -> Iterator[Route]:
    """All routes below ``node`` that match some path that ``segments[i:]`` matches too."""
    if i == len(segments):
        if node.leaf is not None:
            yield from node.leaf.routes()
        return
    if node.rest is not None:
        yield from node.rest.routes()
    kind, text = segments[i].kind, segments[i].text
    if kind == REST:
        for child in _children(node):
            yield from _all_routes(child)
    elif kind == WILD:
        for key, child in node.literals.items():
            if key:
                yield from meeting(child, segments, i + 1)
        if node.wild is not None:
            yield from meeting(node.wild, segments, i + 1)
    else:
        if text in node.literals:
            yield from meeting(node.literals[text], segments, i + 1)
        if text and node.wild is not None:
            yield from meeting(node.wild, segments, i + 1)


def _children(node: Node) -> Iterator[Node]:
    yield from node.literals.values()
    if node.wild is not None:
        yield node.wild


def _all_routes(node: Node) -> Iterator[Route]:
    for leaf in (node.leaf, node.rest):
        if leaf is not None:
            yield from leaf.routes()
    for child in _children(node):
        yield from _all_routes(child)


def seal(node: Node, above: Leaf | None, forked: bool) -> None:
    """Complete the derived fields of a finished tree; for the root ``None`` and ``False``."""
    for leaf in (node.leaf, node.rest):
        if leaf is not None and "GET" in leaf.methods:
            leaf.methods.setdefault("HEAD", leaf.methods["GET"])
    node.above = above
    node.up = node.rest or above
    node.forked = forked
    for child in node.literals.values():
        seal(child, node.up, forked or node.wild is not None)
    if node.wild is not None:
        seal(node.wild, node.up, forked)


# (routes by method or None, handler and pattern of the route without a method or None and "")
Exact = tuple[dict[str, tuple[Handler, str]] | None, Handler | None, str]


def collect_exact(node: Node, path: str, out: dict[str, Exact]) -> None:
    """Fill ``out`` with the paths that one dictionary lookup can answer.

    These are the paths spelled by literals alone. A path that ends in a slash may have two leaves,
    of which {$} is the more specific.
    """
    for key, leaves in ((path, (node.leaf,)), (path + "/", (node.rest, _end_leaf(node)))):
        methods: dict[str, Route] = {}
        any_route: Route | None = None
        for leaf in leaves:
            if leaf is not None:
                methods.update(leaf.methods)
                any_route = leaf.any or any_route
        routes = [*methods.values(), any_route] if any_route is not None else [*methods.values()]
        # A named rest wildcard has a value, even here. An unclean key must redirect instead.
        if routes and not any(r.has_values for r in routes) and clean_path(key) == key:
            by_method = {m: (r.handler, r.pattern) for m, r in methods.items()} or None
            if any_route is None:
                out[key] = (by_method, None, "")
            else:
                out[key] = (by_method, any_route.handler, any_route.pattern)
    for text, child in node.literals.items():
        if text:
            collect_exact(child, f"{path}/{quote(text, safe=PATH_SAFE[1:])}", out)


def _end_leaf(node: Node) -> Leaf | None:
    end = node.literals.get("")
    return None if end is None else end.leaf


def search(node: Node, segs: list[str], i: int, method: str) -> Route | None:
    """The most specific route for ``segs[i:]``.

    Each node is visited at most once, so no path costs more than the number of nodes.
    """
    if i == len(segs):
        return None if node.leaf is None else node.leaf.get(method)
    seg = segs[i]
    child = node.literals.get(seg)
    if child is not None:
        found = search(child, segs, i + 1, method)
        if found is not None:
            return found
    if node.wild is not None and seg:
        found = search(node.wild, segs, i + 1, method)
        if found is not None:
            return found
    return None if node.rest is None else node.rest.get(method)


def collect_methods(node: Node, segs: list[str], i: int, out: set[str]) -> None:
    """Add the methods of every route whose path matches ``segs[i:]``."""
    if i == len(segs):
        if node.leaf is not None:
            out.update(node.leaf.methods)
        return
    child = node.literals.get(segs[i])
    if child is not None:
        collect_methods(child, segs, i + 1, out)
    if node.wild is not None and segs[i]:
        collect_methods(node.wild, segs, i + 1, out)
    if node.rest is not None:
        out.update(node.rest.methods)
