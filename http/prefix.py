"""strip_prefix: a handler that sees paths without their first segments."""

from __future__ import annotations

from typing import Any

from runtime._http.pattern import Handler, clean_path, split_path
from runtime._http.replies import not_found

__all__ = ["strip_prefix"]


def strip_prefix(prefix: str, handler: Handler) -> Handler:
    """A handler that calls ``handler`` with ``prefix`` taken off the path. Go's ``StripPrefix``.

        mux.handle("/static/", strip_prefix("/static", files))

    ``prefix`` is whole segments, whether it ends in a slash or not: "/a" is taken off "/a/b" and
    "/a", and leaves "/b" and "/", but not off "/ab". Any other path is answered with 404. While
    ``handler`` runs, ``r.path`` and ``r.raw_path`` are without the prefix and ``r.stripped`` is
    what was taken off; ``r.target`` is as it was sent. Redirects, of a mux or by ``redirect``, are
    made with it. To put a mux below a path, ``ServeMux.mount`` is better.

    Raises ValueError for a prefix that does not begin with a slash, or that is not clean.
    """
    if not callable(handler):
        raise TypeError(f"strip_prefix(): not a handler: {type(handler).__name__}")
    if prefix[:1] != "/" or clean_path(prefix) != prefix:
        raise ValueError(f"strip_prefix({prefix!r}): a prefix is a clean path, such as '/static'")
    wanted = split_path(prefix.rstrip("/"))
    target: Any = getattr(handler, "serve_http", handler)

    def stripped(w: Any, r: Any) -> Any:
        path = r.raw_path
        raw = path.split("/", len(wanted))[: len(wanted)]
        if split_path("/".join(raw)) != wanted:
            return not_found(w, r)
        n = sum(map(len, raw)) + len(raw) - 1
        r._strip(n)
        try:
            return target(w, r)
        finally:
            r._strip(-n)

    return stripped
