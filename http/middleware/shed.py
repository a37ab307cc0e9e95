"""So many handlers at once, and no queue that makes everybody late."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from runtime._core import ConcurrencyLimit
from runtime._http.chain import Handler, callee
from runtime._http.replies import error


class ConcurrencyStats(NamedTuple):
    """What a limit_concurrency() does."""

    running: int
    """Handlers that run now."""
    waiting: int
    """Requests that wait for a place now."""
    shed: int
    """Requests that were refused so far."""
    gone: int
    """Those whose client went away, or whose time was up, while they waited."""
    overloaded: bool
    """Whether more requests come than can be served, so that waiting ones are shed."""


class limit_concurrency:
    """Let no more than max_running handlers run at once, and shed what would wait too long.

        limit = limit_concurrency(50, exempt=lambda r: r.path == "/healthz")
        http.serve(limit(mux), ":8080")

    Up to ``max_waiting`` requests wait for a place, first come, first served, for ``max_wait``
    seconds at most. A burst goes through that way. When requests have had to wait for more than
    ``target_delay`` seconds throughout an ``interval`` (seconds), more come than can be served:
    then who has waited for twice the target is refused, and the last to come is served first,
    until a place is free again. So those that are served are served soon.

    A refused request is answered by ``deny``, or with 503; Retry-After says ``retry_after``
    seconds. A request whose client goes away, or whose ``r.context`` ends otherwise, leaves the
    queue. Requests for which ``exempt(r)`` is true are not counted and never wait. `stats` tells
    what is going on.

    All handlers that one object is put around share its places; ``mux.use`` puts it around each
    route, so a request for no route needs no place. A place is held until the handler returns.

    Raises ValueError for a number that is out of range.

    The method is controlled delay, CoDel, with adaptive LIFO, as in B. Maurer, "Fail at Scale", ACM
    Queue 13/8 (2015), and Facebook's folly. A server's own ``max_requests`` is a plain limit.
    """

    def __init__(
        self,
        max_running: int,
        *,
        target_delay: float = 0.005,
        interval: float = 0.1,
        max_waiting: int = 1000,
        max_wait: float = 1.0,
        retry_after: float = 1,
        exempt: Callable[[Any], object] | None = None,
        deny: Handler | None = None,
    ) -> None:
        for name, n, least in (("max_running", max_running, 1), ("max_waiting", max_waiting, 0)):
            if isinstance(n, bool) or not isinstance(n, int):
                raise TypeError(f"limit_concurrency(): {name} is an int, not {type(n).__name__}")
            if not least <= n < 1 << 31:
                raise ValueError(f"limit_concurrency(): {name} is {least} or more, not {n}")
        for name, seconds in (
            ("target_delay", target_delay),
            ("interval", interval),
            ("max_wait", max_wait),
            ("retry_after", retry_after),
        ):
            if not 0.000_001 <= seconds <= 1e6:
                raise ValueError(
                    f"limit_concurrency(): {name} is a number of seconds above 0 and up to a "
                    f"million, not {seconds}"
                )
        if exempt is not None and not callable(exempt):
            raise TypeError("limit_concurrency(): exempt is a function of the request, or None")
        self._limit = ConcurrencyLimit(
            max_running, max_waiting, *(int(s * 1e9) for s in (target_delay, interval, max_wait))
        )
        self._exempt = exempt
        self._deny = _unavailable if deny is None else callee(deny, "limit_concurrency(deny)")
        self._retry_after = str(math.ceil(retry_after))

    def stats(self) -> ConcurrencyStats:
        """What it does now, and has done so far."""
        return ConcurrencyStats(*self._limit.stats())

    def __call__(self, handler: Any) -> Handler:
        target = callee(handler, "limit_concurrency()")
        enter, leave = self._limit.enter, self._limit.leave
        exempt, deny, retry_after = self._exempt, self._deny, self._retry_after

        def limited(w: Any, r: Any) -> Any:
            if exempt is not None and exempt(r):
                return target(w, r)
            if not enter(r):
                w.headers.set("Retry-After", retry_after)
                return deny(w, r)
            try:
                return target(w, r)
            finally:
                leave()

        return limited


def _unavailable(w: Any, r: Any) -> None:
    error(w, "too many requests are being served", 503)
