"""ServeMux: chooses the handler of a request by method, host and path, with the rules of Go 1.22.

What a pattern is and why the most specific one is always unique: pattern.py. How it is found by
path: tree.py.

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

Rejected: a cache of recent paths (an attacker would choose its keys).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload
from urllib.parse import quote

from runtime._http.pattern import (
    PATH_SAFE,
    Handler,
    Route,
    check_conflict,
    clean_path,
    parse_pattern,
    split_path,
    strip_port,
)
from runtime._http.tree import (
    Exact,
    Node,
    collect_exact,
    collect_methods,
    insert,
    meeting,
    seal,
    search,
)

__all__ = ["ServeMux"]

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


# --- tables ---------------------------------------------------------------------------------------


class _Table:
    """Everything a lookup needs, built from the first ``size`` routes and never changed."""

    __slots__ = ("exact", "hosts", "root", "size", "start", "starts")

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.size = len(routes)
        self.root = Node()  # patterns for every host
        self.hosts: dict[str, Node] = {}  # patterns for one
        for route in routes:
            insert(self.hosts.setdefault(route.host, Node()) if route.host else self.root, route)
        for node in (self.root, *self.hosts.values()):
            seal(node, None, False)
        # These consume the empty text before the first slash.
        self.start = self._before(self.root)
        self.starts = {host: self._before(node) for host, node in self.hosts.items()}
        self.exact: dict[str, Exact] = {}
        collect_exact(self.root, "", self.exact)

    @staticmethod
    def _before(node: Node) -> Node:
        start = Node()
        start.literals[""] = node
        return start

    def trees(self, host: str, connect: bool) -> tuple[Node, ...]:
        """The trees to search for a request's host, in order."""
        if self.hosts:
            host = host.lower()
            own = self.hosts.get(host if connect else strip_port(host))
            if own is not None:
                return own, self.root
        return (self.root,)


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
    location = quote(path, safe=PATH_SAFE + "%[]", errors="replace")
    if query:
        location += "?" + quote(query, safe=PATH_SAFE + "%[]?^`{|}", errors="replace")

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
        self._routes: list[Route] = []  # in order of registration; only appended to
        # Trees by host, to find conflicts; read and written under _lock.
        self._registered: dict[str, Node] = {}
        self._table: _Table | None = None  # None: a route was added since it was built
        self._exact: dict[str, Exact] = {}  # _table.exact, or empty if there are hosts or no table

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
        route = parse_pattern(pattern)
        frame = sys._getframe(2)  # the caller of handle or handle_func
        route.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if not isinstance(handler, _Missing):
            self._add(route, handler)
            return None

        def decorate(fn: _H) -> _H:
            self._add(route, fn)
            return fn

        return decorate

    def _add(self, route: Route, handler: Handler) -> None:
        if not callable(handler):
            raise TypeError(
                f"handler of {route.pattern!r} must be callable, not {type(handler).__name__}"
            )
        route.handler = handler
        with self._lock:
            tree = self._registered.get(route.host)
            if tree is None:
                tree = self._registered[route.host] = Node()
            for other in meeting(tree, route.segments, 0):
                check_conflict(route, other)
            insert(tree, route)
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
            segs = split_path(path)
        node = table.start
        method = r.method
        if table.hosts:
            if method == "CONNECT":
                return self._serve_slow(w, r)  # its port counts
            node = table.starts.get(strip_port(r.host.lower()), node)
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

    def _resolve(self, r: _Request) -> tuple[Handler, str, Route | None, list[str]]:
        """The handler and pattern; also, unless the reply is our own, route and segments."""
        table = self._table or self._compile()
        method = r.method
        raw = r.raw_path
        if raw == "*":
            return _bad_request, "", None, []
        connect = method == "CONNECT"
        cleaned = clean_path(raw)
        path = raw if connect else cleaned
        if path[:1] != "/":
            return _not_found, "", None, []  # CONNECT host:port has no path
        trees = table.trees(r.host, connect)
        segs = split_path(path)
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
            collect_methods(tree, segs, 1, allow)
            if segs[-1]:
                collect_methods(tree, [*segs, ""], 1, allow)  # another method would be redirected
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


def _match(trees: tuple[Node, ...], segs: list[str], method: str) -> Route | None:
    for tree in trees:
        route = search(tree, segs, 1, method)
        if route is not None:
            return route
    return None
