"""ServeMux: chooses the handler of a request by method, host and path, with the rules of Go 1.22.

What a pattern is and why the most specific one is always unique: pattern.py. Which may be
registered together: tree.py. Requests that simply match are served in C, without coming here:
csrc/py_http_mux.c. This file holds registration, and the full rules for all other requests.

Invariants
----------
- Registration, of all muxes, happens under one lock: what is registered with a mounted mux is
  registered with those it is mounted in, too, or with none of them.
- ``_routes`` and ``_trees`` only grow. A published table is current: what adds a route
  withdraws the tables of all muxes that get it, and the next request builds a new one.
- Nothing that a client sends is ever stored, so no client can make the mux grow.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, NamedTuple, Protocol, TypeVar, overload
from urllib.parse import quote

from runtime import _core
from runtime._http import replies
from runtime._http.chain import Middleware, chain
from runtime._http.converters import BUILT_IN, Converter
from runtime._http.pattern import (
    PATH_SAFE,
    Handler,
    PatternError,
    Route,
    check_conflict,
    clean_path,
    mounted,
    parse_pattern,
    quote_query,
    split_path,
    strip_port,
)
from runtime._http.tree import Node, insert, meeting

__all__ = ["RouteInfo", "ServeMux"]

_H = TypeVar("_H", bound=Handler)


class _Request(replies.Request, Protocol):
    @property
    def host(self) -> str: ...
    @property
    def raw_query(self) -> str: ...

    pattern: str
    path_values: dict[str, Any]


# --- replies of the mux's own ---------------------------------------------------------------------


def _bad_request(w: replies.ResponseWriter, r: object) -> None:
    # "*" is for the server as a whole (RFC 9112 section 3.2.4), never for a handler.
    w.headers.set("Connection", "close")
    replies.error(w, "Bad Request", 400)


def _method_not_allowed(allow: str) -> Handler:
    def method_not_allowed(w: replies.ResponseWriter, r: object) -> None:
        w.headers.set("Allow", allow)
        replies.error(w, "Method Not Allowed", 405)

    return method_not_allowed


def _redirect(path: str, query: str) -> Handler:
    """A handler that redirects to ``path``, which must be clean, and ``query``; both escaped."""
    # Whatever could end the header, or make a browser see another host ("/\\host"), is
    # percent-encoded.
    location = quote(path, safe=PATH_SAFE + "%[]", errors="replace")
    if query:
        location += "?" + quote_query(query)

    def redirect(w: replies.ResponseWriter, r: replies.Request) -> None:
        replies.send_redirect(w, r, location, 307)

    return redirect


# --- registration ---------------------------------------------------------------------------------


class _Lock:
    """A lock whose holder may be preempted.

    A goroutine that waits in the operating system keeps its thread, so if the holder is a goroutine
    of that same thread it never runs again. Coming back to the interpreter now and then lets the
    scheduler switch to it.
    """

    __slots__ = ("_holder", "_lock")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._holder: object = None

    def __enter__(self) -> None:
        me = _core.current()
        if self._holder is me:
            raise RuntimeError("a middleware must not register routes while it is put around one")
        while not self._lock.acquire(timeout=0.001):
            pass
        self._holder = me

    def __exit__(self, *exc: object) -> None:
        self._holder = None
        self._lock.release()


# Guards registration with all muxes, and the building of tables.
_lock = _Lock()
os.register_at_fork(after_in_child=_lock.reset)  # its holder may not be there


def _caller() -> str:
    """Where the program has called us: "file:line"."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("runtime._http."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


class RouteInfo(NamedTuple):
    """One registered route, as ``ServeMux.routes()`` lists it."""

    pattern: str
    """The pattern; of a mounted mux's route, with the prefix."""
    handler: Handler
    name: str
    """The name for ``url()``; "" for none."""
    where: str
    """Where it was registered: "file:line"."""


class _Mount(NamedTuple):
    """A mux is mounted in another."""

    outer: ServeMux
    prefix: Route
    name: str


class _Missing:
    """The type of the default of ``handler``, so that None is seen as the mistake that it is."""


_MISSING = _Missing()


class ServeMux(_core.Mux):
    """A request multiplexer: calls the handler whose pattern matches best. Go's ``http.ServeMux``.

    A mux is itself a handler, so it can be served, wrapped, or registered in another mux::

        mux = ServeMux()

        @mux.handle("GET /items/{id}")
        def item(w, r):
            return {"id": r.path_value("id")}

        mux.handle("/static/", files)
        serve(mux, ":8080")

    **Patterns** have the form ``[METHOD ][HOST]/path``:

    - ``/index.html`` matches that path, for any method and host.
    - ``GET /`` matches GET and HEAD requests; any other method matches only itself. Methods are
      case-sensitive.
    - ``example.com/`` matches that host only, in any case and with any port.
    - ``/static/`` ends in a slash and matches the whole subtree; ``/`` matches every path.
    - ``/items/{id}`` matches one segment, which is not empty; ``r.path_value("id")`` returns it.
    - ``/files/{path...}`` matches all that is left of the path, also nothing; it must come last.
    - ``/items/{id:int}`` has a converter: ``r.path_value("id")`` is an ``int``. There are ``str``,
      ``int``, ``float``, ``uuid``, ``filename`` (safe as a file's name) and those added with
      ``converter``. Converters have no part in matching: what the text of a wildcard is decides
      nothing but whether the request is answered with 404.
    - ``/{$}`` matches only the path ``/``; ``{$}`` must come last.

    Segments are split at the slashes of the path as it was sent and percent-decoded afterwards:
    ``/a%2Fb`` is one segment, ``a/b``. So a value may contain slashes and dots: do not use it as a
    file name unchecked.

    **Precedence**: the most specific pattern wins, whatever the order of registration. One pattern
    is more specific than another if it matches a proper subset of the other's requests. If two
    patterns match some request in common and neither is more specific, the second is refused. A
    pattern with a host wins over any without.

    **Redirects** (status 307, as Go does from 1.26 on; the query is kept): paths with ``//``, ``.``
    or ``..`` to their clean form, except for CONNECT; and ``/static`` to ``/static/`` if only the
    latter is registered.

    **Otherwise** the reply is 405 with ``Allow`` if the path matches with another method, else 404.

    Patterns can be registered at any time, by any thread. The request gets ``r.pattern``, the
    pattern that matched ("" if none did), and ``r.path_values``.
    """

    __slots__ = ("__weakref__", "_converters", "_mounts", "_names", "_routes", "_trees", "_use")

    def __init__(self) -> None:
        # All are written under _lock.
        self._routes: list[Route] = []  # in order of registration
        self._trees: dict[str, Node] = {"": Node()}  # by host
        self._names: dict[str, Route] = {}
        self._converters = BUILT_IN
        self._mounts: list[_Mount] = []  # where this one is mounted
        self._use: tuple[Middleware, ...] = ()  # around the handlers of all routes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self._routes)} routes>"

    @overload
    def handle(
        self, pattern: str, *, name: str = "", use: Iterable[Middleware] = ()
    ) -> Callable[[_H], _H]: ...

    @overload
    def handle(
        self, pattern: str, handler: Handler, *, name: str = "", use: Iterable[Middleware] = ()
    ) -> None: ...

    def handle(
        self,
        pattern: str,
        handler: Handler | _Missing = _MISSING,
        *,
        name: str = "",
        use: Iterable[Middleware] = (),
    ) -> Callable[[_H], _H] | None:
        """Register ``handler`` for ``pattern``. Go's ``ServeMux.Handle``.

        Without ``handler`` it is a decorator, which returns the function unchanged::

            @mux.handle("POST /items")
            def create(w, r): ...

        A handler is called as ``handler(w, r)``, and what it returns is returned by the mux. With
        a ``name`` the route can be found by ``url``. The middleware in ``use`` is put around the
        handler, the first outermost, within that of the mux (see ``use``).

        Raises:
            PatternError: the pattern is invalid (a ValueError).
            PatternConflictError: it conflicts with a registered one (a PatternError).
            ValueError: the name is taken.
            TypeError: the pattern is not a str or the handler is not callable.
        """
        route = parse_pattern(pattern, self._converters)
        route.where = _caller()
        route.name = name
        around = tuple(use)
        if not isinstance(handler, _Missing):
            self._add(route, handler, around)
            return None

        def decorate(fn: _H) -> _H:
            self._add(route, fn, around)
            return fn

        return decorate

    handle_func = handle
    """The same as ``handle``. Go's ``ServeMux.HandleFunc``."""

    def use(self, *middleware: Middleware) -> None:
        """Put middleware around the handlers of all routes, the first outermost.

            mux.use(middleware.request_id(), middleware.security_headers())

        Each is a function that is given a handler and returns one. It runs when a route has
        matched, so it sees ``r.pattern`` and the path values, and it does not run for replies of
        the mux's own (redirects, 404, 405): for these wrap the mux, as with ``chain``. Around the
        routes of a mounted mux there is first that of the mux it is mounted in. It comes before
        the routes: RuntimeError where there are some. TypeError for what is not callable.
        """
        for wrap in middleware:
            if not callable(wrap):
                raise TypeError(f"use(): a middleware is callable, not {type(wrap).__name__}")
        with _lock:
            if self._routes:
                raise RuntimeError(
                    f"use() must come before the routes: {self._routes[0].pattern!r} was "
                    f"registered at {self._routes[0].where}"
                )
            self._use += middleware

    def mount(self, prefix: str, sub: ServeMux, *, name: str = "") -> None:
        """Put all routes of ``sub``, and those it will get, below ``prefix``, ``[HOST]/path/``.

            api = ServeMux()
            api.handle("GET /items/{id}", show, name="item")
            mux.mount("/api/{tenant}/", api, name="api")
            mux.url("api:item", tenant="acme", id=5)        # /api/acme/items/5

        They become routes of this mux: the most specific pattern wins over all of them,
        conflicts are refused, ``routes()`` lists them, and they cost what any other route costs.
        Their handlers see what they see without the mount: ``r.path`` begins after the prefix,
        which is in ``r.stripped``. ``r.pattern`` is the whole pattern, ``r.path_value`` has the
        values of both. A ``name`` stands, with a colon, before the names of the routes.

        Raises:
            PatternError: the prefix is invalid, or has a method, or does not end in a slash.
            PatternConflictError: a route conflicts with one that is there.
            ValueError: a name is taken, or a mux would be mounted in itself.
        """
        if not isinstance(sub, ServeMux):
            raise TypeError(f"only a ServeMux can be mounted, not {type(sub).__name__}")
        root = parse_pattern(prefix, self._converters)
        root.where = _caller()
        if root.method or not root.open_ended or root.path[-1] != "/":
            what = f"invalid prefix {prefix!r}: it must be [HOST]/path/, with a slash at its end"
            raise PatternError(what, prefix)
        mount = _Mount(self, root, name)
        with _lock:
            if self._is_within(sub):
                raise ValueError(f"mount({prefix!r}): a mux cannot be mounted in itself")
            added: list[tuple[ServeMux, Route]] = []
            for route in sub._routes:
                self._spread(self._wrapped(mounted(root, name, route)), added)
            _register(added)
            sub._mounts.append(mount)

    def _is_within(self, mux: ServeMux) -> bool:
        return self is mux or any(m.outer._is_within(mux) for m in self._mounts)

    def _spread(self, route: Route, added: list[tuple[ServeMux, Route]]) -> None:
        """Collect what must be registered, here and where this mux is mounted."""
        added.append((self, route))
        for mount in self._mounts:
            outer = mount.outer
            outer._spread(outer._wrapped(mounted(mount.prefix, mount.name, route)), added)

    def _wrapped(self, route: Route) -> Route:
        """The route, fresh, with this mux's middleware around it."""
        if self._use:
            route.target = chain(route.target, *self._use)
        return route

    def _add(self, route: Route, handler: Handler, use: tuple[Middleware, ...]) -> None:
        if not callable(handler):
            raise TypeError(
                f"handler of {route.pattern!r} must be callable, not {type(handler).__name__}"
            )
        route.handler = handler
        route.target = chain(handler, *use)
        with _lock:
            added: list[tuple[ServeMux, Route]] = []
            self._spread(self._wrapped(route), added)
            _register(added)

    def converter(
        self, name: str, parse: Callable[[str], Any], format: Callable[[Any], str] = str
    ) -> None:
        """Add a converter, to be used as ``{wildcard:name}`` in patterns registered from now on.

            mux.converter("hex", lambda text: int(text, 16), hex)

        ``parse`` gets the text of the wildcard, percent-decoded, and returns its value. If it
        raises ValueError the request is answered with 404. ``format`` is its inverse, for ``url``.

        Raises ValueError where there is a converter of that name already.
        """
        if not name.isidentifier():
            raise ValueError(f"bad name of a converter: {name!r} (must be an identifier)")
        if not callable(parse) or not callable(format):
            raise TypeError(f"converter {name!r}: parse and format must be callable")
        with _lock:
            if name in self._converters:
                raise ValueError(f"there is a converter {name!r} already")
            self._converters = {**self._converters, name: Converter(name, parse, format)}

    def routes(self) -> list[RouteInfo]:
        """All routes, in order of registration, with those of mounted muxes."""
        return [RouteInfo(r.pattern, r.handler, r.name, r.where) for r in tuple(self._routes)]

    def url(self, name: str, /, **values: Any) -> str:
        """The URL of the route with that name, with the wildcards replaced by ``values``.

            mux.handle("GET /users/{id:int}/files/{path...}", send, name="file")
            mux.url("file", id=5, path="a b/c")             # /users/5/files/a%20b/c

        Values are percent-encoded: those of single wildcards with their slashes, and in each
        segment ".", "..", too. A converter formats its value; without one it is a str or int. The
        URL of a route with a host begins with ``//host``. For a query add
        ``"?" + urllib.parse.urlencode(...)``.

        Raises:
            LookupError: no route has that name.
            TypeError: a value is missing, or for no wildcard, or of a wrong type.
            ValueError: a value does not fit: the converter refuses it, or it is empty.
        """
        route = self._names.get(name)
        if route is None:
            known = ", ".join(sorted(self._names)) or "none has a name"
            raise LookupError(f"no route is named {name!r} (there are: {known})")
        return route.url(values)

    # --- lookups ---

    def handler(self, r: _Request) -> tuple[Handler, str]:
        """The handler for ``r`` and the pattern it was registered with. Go's ``ServeMux.Handler``.

        It always returns a handler: for a redirect one that redirects, with the pattern that will
        match afterwards; if nothing matches one that replies 404 or 405, with the pattern "". ``r``
        is not changed, so it gets no path values.
        """
        handler, pattern, _, _ = self._resolve(r)
        return handler, pattern

    def _serve_slow(self, w: replies.ResponseWriter, r: Any) -> Any:
        """Serve any request by the full rules; called by ``serve_http``."""
        handler, r.pattern, route, r.path_values = self._resolve(r)
        if route is None:
            return handler(w, r)
        if not route.strip:
            return route.target(w, r)
        path = r.raw_path
        n = 0
        for _ in range(route.strip):
            n = path.index("/", n + 1)
        r._strip(n)
        try:
            return route.target(w, r)
        finally:
            r._strip(-n)

    def _resolve(self, r: _Request) -> tuple[Handler, str, Route | None, dict[str, Any]]:
        """The handler and pattern; also, unless the reply is our own, route and path values."""
        table = self._table or self._compile()
        method = r.method
        raw = r.raw_path
        if raw == "*":
            return _bad_request, "", None, {}
        connect = method == "CONNECT"
        cleaned = clean_path(raw)
        path = raw if connect else cleaned
        if path[:1] != "/":
            return replies.not_found, "", None, {}  # CONNECT host:port has no path
        host = r.host.lower()
        if not connect:
            host = strip_port(host)
        segs = split_path(path)[1:]
        route = table.find(host, segs, method)
        if segs[-1] and path == cleaned and (route is None or route.open_ended):
            # Not matched exactly. Is "path/", by a pattern that spells all of it?
            slashed = table.find(host, [*segs, ""], method)
            if slashed is not None and (not slashed.open_ended or slashed.depth == len(segs) + 1):
                location = r.stripped + cleaned + "/"
                return _redirect(location, r.raw_query), slashed.pattern, None, {}
        if path != raw:
            pattern = "" if route is None else route.pattern
            return _redirect(r.stripped + path, r.raw_query), pattern, None, {}
        if route is not None:
            values = route.values(segs)
            if not route.convert(values):
                return replies.not_found, "", None, {}
            return route.handler, route.pattern, route, values
        allow = table.allowed(host, segs)
        if segs[-1]:
            allow |= table.allowed(host, [*segs, ""])  # another method would be redirected
        if allow:
            return _method_not_allowed(", ".join(sorted(allow))), "", None, {}
        return replies.not_found, "", None, {}

    def _compile(self) -> _core.MuxTable:
        """Build and publish the table, unless there is one by now."""
        with _lock:
            table = self._table
            if table is None:
                hosts = {host: tree for host, tree in self._trees.items() if host}
                table = _core.MuxTable(self._trees[""], hosts)
                self._publish(table)
            return table


def _register(added: list[tuple[ServeMux, Route]]) -> None:
    """Register all of them or, with an exception, none. Under _lock."""
    fresh: dict[ServeMux, tuple[dict[str, Node], set[str]]] = {}
    for mux, route in added:
        trees, names = fresh.setdefault(mux, ({}, set()))
        for tree in (mux._trees.get(route.host), trees.get(route.host)):
            if tree is not None:
                for other in meeting(tree, route.segments, 0):
                    check_conflict(route, other)
        if route.name and (route.name in mux._names or route.name in names):
            raise ValueError(
                f"a route is named {route.name!r} already (a mux that is mounted needs a name "
                "if its routes' names are taken)"
            )
        insert(trees.setdefault(route.host, Node()), route)
        names.add(route.name)
    for mux, route in added:
        mux._publish(None)
        insert(mux._trees.setdefault(route.host, Node()), route)
        mux._routes.append(route)
        if route.name:
            mux._names[route.name] = route
