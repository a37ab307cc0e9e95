"""How often each client may ask.

What a client has used is kept in a table in C by the generic cell rate algorithm (csrc/rt_gcra.h),
or by a storage that several processes share (sharedlimit.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Literal

from runtime._core import RateLimiter, client_address
from runtime._http.chain import Handler, Middleware, callee
from runtime._http.replies import error

__all__ = ["client_address", "rate_limit"]

_RATE = re.compile(r"\s*(\d+)\s*(?:/|per\b)\s*(?:(\d+)\s*)?([a-z]+)\s*", re.IGNORECASE | re.ASCII)
_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}
_NAME = re.compile(r"[ !#-\[\]-~]{1,64}")  # a String of RFC 9651 that needs no escapes
_MOST = 1_000_000  # requests a second
_LONGEST = 366 * 86400  # seconds


def parse_rate(text: str) -> tuple[int, int]:
    """ "100/minute" as a number of requests and of seconds; ValueError if it is nothing like it."""
    match = _RATE.fullmatch(text)
    unit = _UNITS.get(match[3].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(
            f"rate_limit(): {text!r} is no rate: it is a number, a slash, and second, minute, "
            'hour or day, such as "100/minute" or "5/10 seconds"'
        )
    count, period = int(match[1]), int(match[2] or 1) * unit
    if count < 1 or not 1 <= period <= _LONGEST or count > _MOST * period:
        raise ValueError(
            f"rate_limit(): {text!r}: a rate is at least 1 request in 366 days and at most "
            "1,000,000 in a second"
        )
    return count, period


def rate_limit(
    rate: str,
    *,
    burst: int | None = None,
    key: Callable[[Any], str | bytes | None] | None = None,
    name: str = "default",
    headers: bool = True,
    deny: Handler | None = None,
    max_keys: int = 131_072,
    ipv6_prefix: int = 64,
    storage: str | None = None,
    on_error: Literal["local", "allow", "deny"] = "local",
    storage_timeout: float = 0.25,
) -> Middleware:
    """Let each client ask so often, and answer 429 to what is beyond that.

        mux.use(rate_limit("100/minute", burst=20))
        mux.handle("POST /login", login, use=[rate_limit("5/minute", name="login")])
        mux.use(rate_limit("1000/hour", key=lambda r: r.state.get("user") or client_address(r)))

    ``rate`` is a number of requests in a number of seconds, minutes, hours or days: "10/second",
    "5/10 minutes". ``burst`` of them, by default all, may come at once, and then one each period /
    number: in any time t a client gets at most burst + number * t / period requests.

    Clients are told apart by their address: see `client_address`; put `real_address` around it
    behind proxies. ``key`` is a function of the request that returns something else to count by,
    a str or bytes, or None for a request that is not limited. All handlers that one rate_limit()
    is put around share its counts; another one, on a route, has its own.

    Responses have the fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers):
    ``"default";q=100;w=60`` and ``"default";r=19;t=2``, where r requests are left, and all of
    burst in t seconds; where r is 0, t is the time until there is one again. ``name`` stands for
    the limit there. With ``headers=False`` they have not. A refused request is answered by
    ``deny``, or with 429; Retry-After says when there is one again.

    There is room for ``max_keys`` clients, 32 to 64 bytes each. When there are more, a new one
    takes the place of one that has used least, and has that counted as its own: no client ever
    gets more than its limit, new ones may get less for a while.

    With ``storage``, a URI for the package limits such as "redis://localhost:6379", processes and
    machines share what clients have used, by a sliding window counter; there is no ``burst``
    then. Needs ``pip install 'gosched[redis]'``. Where it does not answer in ``storage_timeout``
    seconds, ``on_error`` decides: "local": each process limits for itself as if there were no
    storage, "allow": all requests pass, "deny": all are answered with 503. It is asked again after
    a second; the log says so, once a minute at most.

    Raises ValueError for a rate or a number that is out of range, ImportError without the package.
    """
    count, period = parse_rate(rate)
    if burst is not None and (isinstance(burst, bool) or not isinstance(burst, int) or burst < 1):
        raise ValueError(f"rate_limit(): burst is a number of requests, 1 or more, not {burst!r}")
    if key is not None and not callable(key):
        raise TypeError("rate_limit(): key is a function of the request, or None")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"rate_limit(): name is 1 to 64 printable ASCII characters without quotes and "
            f"backslashes, not {name!r}"
        )
    limiter: Any = RateLimiter(
        -(-period * 1_000_000_000 // count),
        burst or count,
        max_keys,
        f'"{name}"',
        os.urandom(16),
        ipv6_prefix,
    )
    if storage is not None:
        from runtime._http.middleware.sharedlimit import SharedLimiter

        if burst is not None:
            raise ValueError("rate_limit(): a limit with a storage has no burst")
        limiter = SharedLimiter(
            storage, count, period, name, limiter, ipv6_prefix, on_error, storage_timeout
        )
    policy = f'"{name}";q={count};w={period}'
    refuse = _too_many if deny is None else callee(deny, "rate_limit(deny)")
    take = limiter.take if key is None else _by_key(key, limiter.take_key)

    def around(handler: Any) -> Handler:
        target = callee(handler, "rate_limit()")

        def limited(w: Any, r: Any) -> Any:
            left = take(r)
            if left.__class__ is int:
                return refused(w, r, left)
            if left and headers:
                add = w.headers.add
                add("RateLimit-Policy", policy)
                add("RateLimit", left)
            return target(w, r)

        return limited

    def refused(w: Any, r: Any, seconds: int) -> Any:
        out = w.headers
        out.set("Retry-After", seconds or 1)
        if not seconds:
            return error(w, "it cannot be told now who asks too often", 503)
        if headers:
            out.add("RateLimit-Policy", policy)
            out.add("RateLimit", f'"{name}";r=0;t={seconds}')
        return refuse(w, r)

    return around


def _by_key(
    key: Callable[[Any], str | bytes | None], take_key: Callable[[Any], str | int]
) -> Callable[[Any], str | int]:
    def take(r: Any) -> str | int:
        found = key(r)
        return "" if found is None else take_key(found)

    return take


def _too_many(w: Any, r: Any) -> None:
    error(w, "too many requests", 429)
