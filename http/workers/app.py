"""Finding what to serve: "module:attribute"."""

from __future__ import annotations

import importlib
from typing import Any

from runtime._http.workers.plan import UsageError

ATTRIBUTES = ("app", "mux", "handler")  # tried in this order if none is named


def find(spec: str, factory: bool = False) -> Any:
    """The handler, mux or Server that spec names; with factory, what a call of it returns.

    UsageError: there is no such thing.  What the module raises while it is imported, and what the
    factory raises, passes.
    """
    module_name, colon, path = spec.partition(":")
    parts = path.split(".") if path else []
    names = [*module_name.split("."), *parts]
    if not all(name.isidentifier() for name in names) or (colon and not path):
        raise UsageError(f'{spec!r}: want "module:attribute", as in shop.web:app')
    module = _import(module_name)
    if not path:
        parts = [next((name for name in ATTRIBUTES if hasattr(module, name)), "")]
        if not parts[0]:
            known = ", ".join(ATTRIBUTES)
            raise UsageError(
                f"module {module_name!r} has none of {known}; name another one: {module_name}:NAME"
            )
    found: Any = module
    for name in parts:
        try:
            found = getattr(found, name)
        except AttributeError:
            what = ".".join(parts)
            raise UsageError(f"module {module_name!r} has no attribute {what!r}") from None
    named = f"{module_name}:{'.'.join(parts)}"
    if factory:
        if not callable(found):
            raise UsageError(f"{named} is no factory: {type(found).__name__} is not callable")
        found = found()
        named += "()"
    if not callable(getattr(found, "serve_http", found)) and not is_server(found):
        raise UsageError(f"{named} is no handler: {type(found).__name__} is not callable")
    return found


def is_server(found: Any) -> bool:
    from runtime._http.server import Server

    return isinstance(found, Server)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if name == missing or name.startswith(missing + "."):  # not one that it needs itself
            raise UsageError(f"cannot import {name!r}: no module named {missing!r}") from None
        raise
