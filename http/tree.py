"""The tree of the patterns of one host, by path: what is registered, and what conflicts.

It has one level for each path segment. Lookups use a copy of it (csrc/py_http_mux_table.c), which
at each node tries the literal child before the wildcard child, and that before the node's "rest of
the path" leaf. The patterns that match a request form a chain (pattern.py), and the more specific
one of two is never more general in any segment, so this order meets it first. The methods sit in
the leaves: a leaf without the request's method is passed over as if it were not there.

Rejected: one large regular expression (linear in the number of routes); a tree for each method, as
Go has (two or three walks where one is enough).
"""

from __future__ import annotations

from collections.abc import Iterator

from runtime._http.pattern import REST, WILD, Route, Segment


class Leaf:
    """The routes of one path pattern, by method."""

    __slots__ = ("any", "methods")

    def __init__(self) -> None:
        self.methods: dict[str, Route] = {}
        self.any: Route | None = None  # the route without a method

    def add(self, route: Route) -> None:
        if route.method:
            self.methods[route.method] = route
        else:
            self.any = route

    def routes(self) -> Iterator[Route]:
        yield from self.methods.values()
        if self.any is not None:
            yield self.any


class Node:
    """What is known after some segments of a path; after a trailing slash stands the segment ""."""

    __slots__ = ("leaf", "literals", "rest", "wild")

    def __init__(self) -> None:
        self.literals: dict[str, Node] = {}  # by decoded text; "" is {$}
        self.wild: Node | None = None
        # Matches the remaining segments, of which there must be one, if only "":
        self.rest: Leaf | None = None
        self.leaf: Leaf | None = None  # matches if no segments remain


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
