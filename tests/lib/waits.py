"""Waiting for what goroutines and threads do, and calls that wait to be let go."""

import threading
from collections.abc import Callable
from typing import Any

from runtime import Goroutine, goroutines, gosched, sleep


def until(condition: Callable[[], Any]) -> None:
    """Return once the condition holds; other goroutines and threads run meanwhile."""
    while not condition():
        sleep(0.0005)


def settle() -> None:
    """Let the others run until all wait or have ended; not for ever: some of them may go on."""
    for _ in range(3):
        gosched()
    for _ in range(1000):
        if all(g.state == "waiting" for g in goroutines()[1:]):
            return
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
