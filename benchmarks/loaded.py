"""A server under wrk: what it did, and what that cost it."""

from collections.abc import Callable
from dataclasses import dataclass

import wrk
from harness import Program, Unavailable


@dataclass(frozen=True)
class Sample:
    """One server in one round. Latencies are in microseconds (None with pipelining)."""

    per_second: float
    cpu_us: float  # of all processes of the server, for each request
    cores: float  # that it kept busy
    p50: float | None
    p99: float | None
    errors: int


def measured(
    program: Program, load: Callable[[int], wrk.Load], *, warm_up: int, seconds: int
) -> Sample:
    """Load a server that runs for so many seconds, and then for those that count.

    Raises Unavailable if it answers nothing.
    """
    load(warm_up)
    before = program.cpu_seconds()
    result = load(seconds)
    used = program.cpu_seconds() - before
    program.check_alive()
    if result.requests == 0:
        raise Unavailable("answered no request under load")
    return Sample(
        per_second=result.requests / result.seconds,
        cpu_us=used / result.requests * 1e6,
        cores=used / result.seconds,
        p50=result.p50,
        p99=result.p99,
        errors=result.errors,
    )
