"""Waiting for what goroutines and threads do, and calls that wait to be let go."""

import threading
from collections.abc import Callable
from typing import Any

from runtime import Goroutine, goroutines, gosched, num_goroutine, sleep
from runtime.time import now

PATIENCE = 10.0  # seconds that settle() gives those who go on


def until(condition: Callable[[], Any]) -> None:
    """Return once the condition holds; other goroutines and threads run meanwhile."""
    while not condition():
        sleep(0.0005)


def _all_wait() -> bool:
    """Whether all goroutines but the caller do; it keeps no reference to any."""
    found = goroutines()
    # One that an M has just taken, and not begun, is only counted.
    everybody = sum(g.p is not None for g in found) >= num_goroutine()
    return everybody and all(g.state == "waiting" for g in found[1:])


def settle() -> None:
    """Let the others run until all wait or have ended; not for ever: some of them may go on."""
    for _ in range(3):
        gosched()
    end = now() + PATIENCE
    while not _all_wait() and now() < end:
        gosched()


def parked(g: Goroutine[Any]) -> Goroutine[Any]:
    """g, once it waits for something."""
    while g.state != "waiting":
        assert g.state != "dead"
        gosched()
    return g


class Gate:
    """A call that blocks: begun is set when it runs, and it goes on at open()."""

    def __init__(self, result: Any = None, error: BaseException | None = None) -> None:
        self.begun, self.opened, self.ended = (threading.Event() for _ in range(3))
        self.result, self.error = result, error
        self.open = self.opened.set

    def __call__(self) -> Any:
        self.begun.set()
        assert self.opened.wait(120)
        self.ended.set()
        if self.error is not None:
            raise self.error
        return self.result
