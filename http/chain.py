"""Putting middleware around a handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Handler = Callable[[Any, Any], Any]
Middleware = Callable[[Any], Handler]


def callee(handler: Any, what: str) -> Handler:
    """What is called for a handler: its serve_http, or itself; TypeError if that is nothing."""
    target: Any = getattr(handler, "serve_http", handler)
    if not callable(target):
        raise TypeError(f"{what}: a handler is needed, not {type(handler).__name__}")
    found: Handler = target
    return found


def chain(handler: Any, *middleware: Middleware) -> Handler:
    """The handler with these around it, the first one outermost.

        serve(chain(mux, recover, log), ":8080")      # recover(log(mux))

    Raises TypeError if one of them is not callable, or does not return a handler.
    """
    target = callee(handler, "chain()")
    for wrap in reversed(middleware):
        if not callable(wrap):
            raise TypeError(f"chain(): a middleware is callable, not {type(wrap).__name__}")
        name = getattr(wrap, "__name__", type(wrap).__name__)
        target = callee(wrap(target), f"the middleware {name} must return a handler")
    return target
