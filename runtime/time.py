"""Timers, tickers and the clock they run on, in the manner of Go's package time.

    from runtime.time import Ticker, Timer, after, after_func

    after(0.5).recv()                       # a channel that gives the time, once
    timer = after_func(1.5, print, "late")  # a call in a goroutine of its own
    timer.stop()                            # True: it was in time
    with Ticker(1.0) as ticker:             # a steady beat
        for t in ticker:
            ...

All times are seconds, as floats, on the clock of `now()`.
"""

from __future__ import annotations

from runtime._core import Ticker, Timer, after, after_func, now, since, sleep, tick

monotonic = now

__all__ = [
    "Ticker",
    "Timer",
    "after",
    "after_func",
    "monotonic",
    "now",
    "since",
    "sleep",
    "tick",
]
