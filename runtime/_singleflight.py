"""singleflight: of calls for the same key one is made, and all get what comes of it.

A call is a Once in a map: the first who gets there makes it, and the others wait, until it has
ended, however that was.  Those who find it in the map add themselves to its users; before it
ends that number is closed.  Who finds it closed takes the call out of the map, if nobody has
done so, and looks again.  So there is no lock, and nothing that could be left undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from runtime import _core
from runtime._core import Chan, Event, Goroutine, Int64, Map, Once
from runtime._exceptions import duplicate

if TYPE_CHECKING:
    from runtime._core import _Context

_K = TypeVar("_K")
_T = TypeVar("_T")

_CLOSED = -(2**62)
_always = Event()
_always.set()


class Result(NamedTuple, Generic[_T]):
    """What do_chan() sends."""

    value: _T | None
    error: BaseException | None
    shared: bool  # whether others get the same


class _Call(Generic[_T]):
    """A call that several may want.  What is below `once` is good once that is done."""

    __slots__ = ("error", "lost", "once", "owner", "shared", "users", "value")

    def __init__(self) -> None:
        self.owner: Goroutine[Any] | None = None  # makes it
        self.users = Int64()  # who want it, but for the first; negative: it has ended
        self.once = Once()
        self.value: _T | None = None
        self.error: BaseException | None = None
        self.lost = True  # it has come to nothing that concerns anybody else
        self.shared = False


class _Run(Generic[_T]):
    """One caller's way to make a call."""

    __slots__ = ("call", "fn", "ran")

    def __init__(self, call: _Call[_T], fn: Callable[[], _T]) -> None:
        self.call, self.fn, self.ran = call, fn, False

    def __call__(self) -> None:
        call, self.ran = self.call, True
        try:
            call.owner = _core.current()
            call.value = self.fn()
            call.lost = False
        except Exception as e:
            call.error = duplicate(e)
            raise
        finally:
            call.owner = None
            call.shared = call.users.swap(_CLOSED) > 0


class Group(Generic[_K, _T]):
    """Calls for keys: while one for a key runs, others for that key wait for its result.

        flights = singleflight.Group()
        page, shared = flights.do(url, lambda: fetch(url))

    Keys are of any hashable type.

    Go: golang.org/x/sync/singleflight.Group.
    """

    def __init__(self) -> None:
        self._calls: Map[_K, _Call[_T]] = Map()

    def do(
        self,
        key: _K,
        fn: Callable[[], _T],
        /,
        timeout: float | None = None,
        *,
        ctx: _Context | None = None,
    ) -> tuple[_T, bool]:
        """Call fn(), or wait for a call for the same key that runs; (result, shared).

        shared says whether several callers get the result.  If fn raises an Exception each caller
        gets one like it.  If something else has ended the call, such as the cancellation of the
        goroutine that made it, the next caller calls its own fn.

        While another call runs, raises TimeoutError after timeout seconds; ctx.err() when the
        context ctx ends.  RuntimeError if fn calls do() for its own key.

        Go: singleflight.Group.Do.
        """
        _check(fn)
        _always.wait(timeout, ctx=ctx)  # bad arguments, or a context that has ended
        while True:
            run = self._find(key, fn)
            outcome = self._finish(key, run, timeout, ctx)
            if outcome is not None:
                return outcome

    def do_chan(self, key: _K, fn: Callable[[], _T], /) -> Chan[Result[_T]]:
        """As do(), but in a goroutine of its own; returns a channel that will get the Result.

        Go: singleflight.Group.DoChan.
        """
        _check(fn)
        chan: Chan[Result[_T]] = Chan(1)
        _core.go(self._answer, chan, key, self._find(key, fn))
        return chan

    def forget(self, key: _K, /) -> None:
        """Let the next do() for key call its fn, also while a call runs.

        Go: singleflight.Group.Forget.
        """
        self._calls.delete(key)

    def _find(self, key: _K, fn: Callable[[], _T]) -> _Run[_T]:
        """Join the call for key, or the one that may be made now."""
        while True:
            call, loaded = self._calls.load_or_store(key, _Call())
            if not loaded or call.users.add() > 0:
                return _Run(call, fn)
            self._calls.compare_and_delete(key, call)

    def _finish(
        self, key: _K, run: _Run[_T], timeout: float | None, ctx: _Context | None
    ) -> tuple[_T, bool] | None:
        """Make the call, or wait for it; None: it has come to nothing."""
        call = run.call
        if call.owner is _core.current():
            raise RuntimeError(
                f"singleflight: the call for {key!r} calls do() for the same key, "
                "which would wait for itself"
            )
        try:
            call.once.do(run, timeout, ctx=ctx)
        finally:
            if run.ran:
                self._calls.compare_and_delete(key, call)
        if call.error is not None:
            raise duplicate(call.error)
        return None if call.lost else (call.value, call.shared)  # type: ignore[return-value]

    def _answer(self, chan: Chan[Result[_T]], key: _K, run: _Run[_T]) -> None:
        """The goroutine of do_chan()."""
        call = run.call
        result: Result[_T] = Result(None, None, False)
        try:
            outcome = self._finish(key, run, None, None) or self.do(key, run.fn)
            result = Result(outcome[0], None, outcome[1])
        except Exception as e:
            result = Result(None, e, call.shared)
        except BaseException as e:
            error = RuntimeError(f"singleflight: the call was ended by {type(e).__name__}")
            result = Result(None, error, False)
            raise
        finally:
            chan.try_send(result)


def _check(fn: Any) -> None:
    if not callable(fn):
        raise TypeError(
            f"singleflight needs a callable, got {type(fn).__name__}; "
            "write do(key, f), not do(key, f())"
        )
