"""A rate limit that processes and machines share, through the package limits: Redis and others.

The strategy is its sliding window counter: two numbers for each client, that of the last fixed
window weighted by how much of it still lies in the sliding one. So it takes constant memory and
time for any limit, where the exact log of requests (limits' moving window) takes one entry a
request; and unlike one fixed window it does not let twice as many through around its end. It is
exact for requests that come evenly, and counts in the storage's own time.

The clients of these storages block their thread, so they are called by runtime.blocking(). The
number of calls at once is bounded, as is the time of each. A storage that has failed is
asked again by one request a second, while the others go on without it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import time
from typing import Any

import runtime
from runtime._core import Int64, RateLimiter, Semaphore, client_address

logger = logging.getLogger("runtime.http")

_CALLS = 16  # at once
_PAUSE = 1_000_000_000  # ns until a storage that has failed is asked again
_QUIET = 60_000_000_000  # ns between two lines in the log
_LONGEST = 64  # characters of a key that is stored as it is
_DECISIONS = {
    "local": "each process limits for itself",
    "allow": "all requests pass",
    "deny": "all requests are refused",
}


def _open(uri: str, timeout: float) -> Any:
    """The strategy of the package limits, with its storage."""
    try:
        from limits.storage import storage_from_string
        from limits.strategies import SlidingWindowCounterRateLimiter
    except ImportError as e:
        raise ImportError(
            "rate_limit(storage=...) needs the package limits: pip install 'gosched[redis]'"
        ) from e
    options: dict[str, Any] = {}
    if re.match("(redis|valkey)", uri):
        options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": None}
    try:
        return SlidingWindowCounterRateLimiter(storage_from_string(uri, **options))
    except Exception as e:
        if re.search("prerequisite|minimum version", str(e)):  # of the storage's own package
            raise ImportError(f"rate_limit(): {e}; for Redis: pip install 'gosched[redis]'") from e
        raise ValueError(
            f"rate_limit(): the storage {_shown(uri)!r} cannot be used: {_shown(str(e))}; "
            'it is a URI such as "redis://localhost:6379"'
        ) from e


def _shown(text: str) -> str:
    """URIs without user and password."""
    return re.sub("//[^/]*@", "//", text)


def _stored(key: str | bytes) -> str:
    """A key as the storage has it: short, and nothing odd in it."""
    if isinstance(key, str) and len(key) <= _LONGEST and key.isascii() and key.isprintable():
        return key
    if isinstance(key, str):
        key = key.encode("utf-8", "surrogatepass")
    elif not isinstance(key, bytes):
        raise TypeError(
            f"a key to limit by is str or bytes (or None for no limit), not {type(key).__name__}"
        )
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def look(
    limit: int, period: int, before: int, before_ends: float, now: int, now_ends: float
) -> tuple[int, int, int]:
    """Requests left, seconds until there is one, and until all are there again.

    Counted were ``before`` in the window before, which count less and less for ``before_ends``
    seconds, and ``now`` in this one, which count for ``now_ends``: as they are for what exceeds a
    period, then less and less.
    """
    weighted = math.floor(before * before_ends / period) + now
    left = max(0, limit - weighted)
    if now >= limit:
        wait = now_ends - period
    else:
        wait = before_ends - (limit - now) * period / max(before, 1)
    full = now_ends if now else before_ends
    return left, max(1, math.ceil(wait)), max(1, math.ceil(full))


class SharedLimiter:
    """As a RateLimiter: a str, the value of the field RateLimit, or in how many seconds to ask.

    "" is a request that passes uncounted, 0 one that does not because nobody can tell.
    """

    def __init__(
        self,
        uri: str,
        count: int,
        period: int,
        name: str,
        local: RateLimiter,
        ipv6_prefix: int,
        on_error: str,
        timeout: float,
    ) -> None:
        if on_error not in _DECISIONS:
            raise ValueError(
                f"rate_limit(): on_error is one of {', '.join(_DECISIONS)}, not {on_error!r}"
            )
        if not 0 < timeout <= 3600:
            raise ValueError(f"rate_limit(): storage_timeout is seconds, not {timeout}")
        self._strategy = _open(uri, timeout)
        from limits import RateLimitItemPerSecond  # installed, or _open() had raised

        self._item = RateLimitItemPerSecond(count, period, namespace="gosched")
        self._uri = _shown(uri)
        self._name = name
        self._local = local
        self._ipv6_prefix = ipv6_prefix
        self._on_error = on_error
        self._timeout = timeout
        self._calls = Semaphore(_CALLS)
        self._down = Int64()  # when to ask again, monotonic ns; 0: it works
        self._logged = Int64()  # when the log may say so again

    def take(self, r: Any) -> str | int:
        return self.take_key(client_address(r, self._ipv6_prefix))

    def take_key(self, key: str | bytes) -> str | int:
        answer = self._ask(_stored(key))
        if answer is not None:
            return answer
        if self._on_error == "local":
            return self._local.take_key(key)
        return "" if self._on_error == "allow" else 0

    def _ask(self, key: str) -> str | int | None:
        """None: the storage does not answer."""
        down = self._down.load()
        if down:
            now = time.monotonic_ns()
            if now < down or not self._down.compare_and_swap(down, now + _PAUSE):
                return None
        try:
            self._calls.acquire(timeout=self._timeout)
            try:
                answer = runtime.blocking(self._hit, key, timeout=self._timeout)
            finally:
                self._calls.release()
        except Exception as e:
            self._failed(e)
            return None
        if down:
            self._down.store(0)
            logger.warning("rate_limit(): the storage %s answers again", self._uri)
        return answer

    def _hit(self, key: str) -> str | int:
        taken = self._strategy.hit(self._item, self._name, key)
        window = self._strategy.storage.get_sliding_window(
            self._item.key_for(self._name, key), self._item.get_expiry()
        )
        left, wait, full = look(self._item.amount, self._item.get_expiry(), *window)
        if not taken:
            return wait
        return f'"{self._name}";r={left};t={full if left else wait}'

    def _failed(self, error: Exception) -> None:
        now = time.monotonic_ns()
        self._down.store(now + _PAUSE)
        logged = self._logged.load()
        if now >= logged and self._logged.compare_and_swap(logged, now + _QUIET):
            logger.warning(
                "rate_limit(): the storage %s does not answer, and %s: %s: %s",
                self._uri,
                _DECISIONS[self._on_error],
                type(error).__name__,
                _shown(str(error)),
            )
