"""A check that nothing was left behind: see `leak_check`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from runtime import _core
from runtime._inspect import GoroutineInfo, describe, goroutines

_P = ParamSpec("_P")
_T = TypeVar("_T")

GRACE = 1.0  # seconds for goroutines that run to end, or to wait for something
_CALM = 3  # times that all goroutines are seen waiting, until that is believed
_YIELDS = 200  # turns for the others while those left behind wait


class LeakError(AssertionError):
    """Goroutines were left behind; its text names them, and `goroutines` has them."""

    def __init__(self, goroutines: list[GoroutineInfo]) -> None:
        n = len(goroutines)
        title = "a goroutine was" if n == 1 else f"{n} goroutines were"
        texts = "\n".join(map(describe, goroutines))
        super().__init__(f"{title} left behind:\n\n{texts}")
        self.goroutines = goroutines


class LeakCheck(contextlib.ContextDecorator):
    """What `leak_check()` returns: for a with statement, or to decorate a function."""

    _before: frozenset[int]

    def _recreate_cm(self) -> LeakCheck:
        return LeakCheck()

    def __enter__(self) -> None:
        self._before = frozenset(g.id for g in goroutines())

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        if exc is None:
            left = self.find()
            if left:
                raise LeakError(left)

    def find(self) -> list[GoroutineInfo]:
        """The goroutines that were not there before, once they have had a chance to end."""
        me = _core.current().id
        until = time.monotonic() + GRACE
        calm = turns = 0
        while True:
            others = [g for g in goroutines() if g.id != me]
            left = [g for g in others if g.id not in self._before and not _is_thread(g)]
            if not left:
                return []
            calm = calm + 1 if _all_wait(others) else 0
            turns += 1
            if calm >= _CALM or (turns >= _YIELDS and _all_wait(left)) or time.monotonic() > until:
                break
            _core.gosched()
        ids = {g.id for g in left}
        return [g for g in goroutines(stacks=True) if g.id in ids]


def _all_wait(infos: list[GoroutineInfo]) -> bool:
    return all(g.state == "waiting" for g in infos)


def _is_thread(g: GoroutineInfo) -> bool:
    """g is a plain thread that waits in an operation of the runtime."""
    return g.p is None and g.thread is not None


@overload
def leak_check(fn: None = None, /) -> LeakCheck: ...
@overload
def leak_check(fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
def leak_check(fn: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Any:
    """Fail if goroutines are left behind.

        with testing.leak_check():
            server = start()
            server.stop()

        @testing.leak_check()           # around each call of the function
        def test_pool(): ...

        testing.leak_check(fn, 1, 2)    # around this call; returns what fn returns

    LeakError, an AssertionError, names the goroutines that were not there before and are still
    there at the end, with where they were started, what they wait for, and their stacks.  Those
    that are about to end are let do so: the others run until all wait, or for a second at most.
    A goroutine that sleeps, or waits for I/O, is left behind.  Nothing is checked when the code
    has raised an exception.

    Go: go.uber.org/goleak.
    """
    if fn is None:
        return LeakCheck()
    with LeakCheck():
        return fn(*args, **kwargs)
