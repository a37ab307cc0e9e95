"""Bubbles: functions that run with a clock of their own, and how they end.

The core says when all goroutines of a bubble have ended, or when none of them can ever go on.
What follows from that is done here, by whoever has called `bubble`, outside of it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from runtime import _core
from runtime._core import DeadlockError, Goroutine
from runtime._inspect import GoroutineInfo, describe, goroutines

_P = ParamSpec("_P")
_T = TypeVar("_T")

_SHOWN = 20  # goroutines that a message describes
_PATIENCE = 3  # times that goroutines are cancelled without any of them ending


@overload
def bubble(fn: None = None, /) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...
@overload
def bubble(fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
def bubble(fn: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Any:
    """Run fn(*args, **kwargs) in a bubble: a goroutine for which time takes no time.

        def test_timeout():
            def body():
                with pytest.raises(TimeoutError):
                    Chan().recv(timeout=3600)
            testing.bubble(body)

        @testing.bubble()               # each call of the function has a bubble of its own
        def test_sleep():
            runtime.sleep(86400)

    fn and all goroutines that are started in it belong to the bubble.  Its clock stands still
    while any of them can run, and while one waits for something from outside; once all are
    *durably* blocked, it jumps to the next of their timers.  Durable is what only the bubble can
    end: a sleep, the channels made in it, select over such, WaitGroup, Cond, and join() of its
    goroutines.  Not durable: I/O, blocking(), a Mutex, and channels made outside.  A channel that
    was made in a bubble cannot be used outside of it: RuntimeError.

    bubble() returns once all goroutines of the bubble have ended, with what fn returned or
    raised.  When fn has ended, time stops.  If all goroutines are blocked for ever, DeadlockError
    names them and their stacks: raised in fn where it waits, or by bubble() when fn has ended.
    Goroutines left then are cancelled.  If the caller is interrupted (by Ctrl-C, cancel(), ...)
    all of the bubble are cancelled, and it waits for their end; a second time it does not.

    RuntimeError in a bubble: they do not nest.

    Go: synctest.Test.
    """
    if fn is None:
        return _decorate
    return run(fn, args, kwargs)


def _decorate(fn: Callable[_P, _T]) -> Callable[_P, _T]:
    @functools.wraps(fn)
    def in_bubble(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return run(fn, args, kwargs)

    return in_bubble


def wait() -> None:
    """Wait until every other goroutine of the bubble is durably blocked; see `bubble`.

        ctx = ...
        cancel()
        testing.wait()      # what cancel() has set off is done
        assert stopped

    RuntimeError outside of a bubble, and while another goroutine of it is in wait().

    Go: synctest.Wait.
    """
    _core._bubble_wait()


def run(
    fn: Callable[..., _T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float | None = None,
) -> _T:
    """`bubble`, but after timeout seconds of real time all are cancelled and TimedOut is raised."""
    b = _core.Bubble()
    root = b.start(fn, *args, **kwargs)
    told: DeadlockError | None = None  # what the root was told
    left = ""  # who was blocked when the root had ended
    interrupt: BaseException | None = None
    fewest, tries = sys.maxsize, 0
    while True:
        try:
            if b.run(None if interrupt else timeout):
                break
            members = _members(b)
            if interrupt is None and not root.done():
                text = _list(members)
                told = DeadlockError(f"all goroutines of the bubble are blocked:\n\n{text}")
                root.cancel(told)
                continue
            left = left or _list(members)
            tries = tries + 1 if len(members) >= fewest else 0
            fewest = min(fewest, len(members))
            if tries == _PATIENCE:
                break  # they wait for ever, cancelled or not
            b.cancel()
        except BaseException as e:
            if interrupt is not None:
                raise
            interrupt = e
            try:
                if timeout is not None and isinstance(e, TimeoutError):
                    interrupt = TimedOut(timeout, _members(b))
            finally:
                b.cancel()
    try:
        if interrupt is not None:
            raise interrupt
        return _outcome(root, left, told)
    finally:
        del interrupt, told, root  # this frame is in their tracebacks


class TimedOut(Exception):
    """A test has not ended in time."""

    def __init__(self, timeout: float | None, infos: list[GoroutineInfo]) -> None:
        super().__init__(f"not ended after {timeout} seconds:\n\n{_list(infos)}")


def _outcome(root: Goroutine[_T], left: str, told: DeadlockError | None) -> _T:
    error = root.exception()
    if left and error is None:
        raise DeadlockError(
            f"the function of the bubble has ended, goroutines that are blocked remain:\n\n{left}"
        )
    if left and error is not told and error is not None:
        error.add_note(f"goroutines that were blocked in the bubble remained:\n\n{left}")
    del error
    return root.join()


def _members(b: _core.Bubble) -> list[GoroutineInfo]:
    return [g for g in goroutines(stacks=True) if g.bubble == b.id]


def _list(infos: list[GoroutineInfo]) -> str:
    more = len(infos) - _SHOWN
    texts = [describe(g) for g in infos[:_SHOWN]]
    return "\n".join([*texts, f"and {more} more"] if more > 0 else texts)
