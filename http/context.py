"""The contexts of a server's requests, which csrc/py_http_context.c asks for and ends."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from runtime import _core
from runtime._context import _CANCELED, _canceled, _checked, _End, _Node, _Value
from runtime.context import Context

if TYPE_CHECKING:
    from runtime._http.server import Server

Base: TypeAlias = Context | Callable[[], Context] | None

_SERVER = object()  # Go: ServerContextKey


class _RequestContext(_Node):
    __slots__ = ()

    def _label(self) -> str:
        return "request"


class Contexts:
    """Where the contexts of one server's requests come from: they end with it."""

    __slots__ = ("_base", "_root", "_server")

    def __init__(self, base: Base, server: Server) -> None:
        if base is not None and not callable(base):
            _checked(base)
        self._base = base
        self._server = weakref.ref(server)
        self._root: _Node | None = None

    def begin(self) -> None:
        """The server begins to serve: a base that is a function is called now."""
        if self._root is not None:
            return
        base = self._base
        parent = _checked(base() if callable(base) else base)
        root = _Node(_Value(parent, _SERVER, self._server))
        root._attach()
        self._root = root

    def end(self, why: str) -> None:
        """End all of them, and those that are made from now on."""
        if self._root is not None:
            self._root._end(_End(_canceled, ConnectionError(why)))

    def make(self) -> _RequestContext:
        ctx = _RequestContext(_checked(self._root))
        ctx._attach()
        return ctx


def server_of(ctx: Context) -> Server | None:
    """The server whose request has this context."""
    server: weakref.ref[Server] | None = ctx.value(_SERVER)
    return None if server is None else server()


def _make(contexts: Contexts | None) -> Context:
    return _RequestContext(_checked(None)) if contexts is None else contexts.make()


def _check(ctx: Context) -> None:
    if ctx is None:
        raise TypeError("with_context(ctx): a context is needed, not None")
    _checked(ctx)


def _end(ctx: _RequestContext, why: str | None) -> None:
    ctx._end(_CANCELED if why is None else _End(_canceled, ConnectionError(why)))


_core._set_http_contexts(_make, _check, _end)
