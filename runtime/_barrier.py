"""Barriers: where a number of goroutines wait for each other."""

from __future__ import annotations

import operator
from collections.abc import Callable
from threading import BrokenBarrierError
from typing import TYPE_CHECKING

from runtime._core import Cond

if TYPE_CHECKING:
    from runtime._core import _Context

__all__ = ["Barrier", "BrokenBarrierError"]


def _yes() -> bool:
    return True


class _Cycle:
    """From one release to the next."""

    __slots__ = ("broken", "count", "released")

    def __init__(self) -> None:
        self.count = 0  # how many have come
        self.released = self.broken = False


class Barrier:
    """Where parties goroutines or threads wait until all have come; then it can be used again.

    action, if given, is called by the last one before the others go on.

        barrier = sync.Barrier(4)
        ...
        index = barrier.wait()

    When one gives up (its time is up, it is cancelled, action fails) the barrier is broken: the
    others get BrokenBarrierError, and so does everybody until reset().  As threading.Barrier,
    but that the one whose time is up gets TimeoutError.

    Raises ValueError if parties is less than 1.
    """

    def __init__(self, parties: int, action: Callable[[], object] | None = None) -> None:
        self._parties = operator.index(parties)
        if self._parties < 1:
            raise ValueError(f"Barrier(parties): it must be 1 or more, not {parties}")
        if action is not None and not callable(action):
            raise TypeError(f"Barrier(action): it must be callable, not {type(action).__name__}")
        self._action = action
        self._cond = Cond()
        self._cycle = _Cycle()

    def wait(self, timeout: float | None = None, *, ctx: _Context | None = None) -> int:
        """Wait until all parties have come; return how many had come before, 0 to parties - 1.

        Raises BrokenBarrierError if the barrier is broken, or reset meanwhile; TimeoutError after
        timeout seconds, or ctx.err() when the context ctx ends, which break it.
        """
        with self._cond:
            # Bad arguments, and a context that has ended, break nothing.
            self._cond.wait_for(_yes, timeout, ctx=ctx)
            cycle = self._cycle
            if cycle.broken:
                raise BrokenBarrierError
            index = cycle.count
            cycle.count += 1
            try:
                if cycle.count == self._parties:
                    if self._action is not None:
                        self._action()
                    cycle.released = True
                    self._cycle = _Cycle()
                    self._cond.broadcast()
                else:
                    self._cond.wait_for(lambda: cycle.released or cycle.broken, timeout, ctx=ctx)
            except Exception:
                if not cycle.released:  # all have come, if only just
                    self._break(cycle)
                    raise
            except BaseException:
                self._break(cycle)
                raise
            if cycle.broken:
                raise BrokenBarrierError
            return index

    def reset(self) -> None:
        """Begin anew, also if the barrier is broken; those who wait get BrokenBarrierError."""
        with self._cond:
            cycle, self._cycle = self._cycle, _Cycle()
            self._break(cycle)

    def abort(self) -> None:
        """Break the barrier: those who wait, and who come, get BrokenBarrierError."""
        with self._cond:
            self._break(self._cycle)

    def _break(self, cycle: _Cycle) -> None:
        if not cycle.released:
            cycle.broken = True
            self._cond.broadcast()

    @property
    def parties(self) -> int:
        """How many must come."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        cycle = self._cycle
        return 0 if cycle.broken else cycle.count

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self._cycle.broken
