"""singleflight: of calls for the same key one is made, and all get what comes of it.

There is no lock: who comes first puts its call into a map, and takes it out when it has ended.
Others add themselves to the call's users.  The one whose call it is closes that number after
it has taken the call out, so whoever finds it closed looks at the map again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from runtime import _core
from runtime._core import Chan, Event, Goroutine, Int64, Map
from runtime._exceptions import duplicate

if TYPE_CHECKING:
    from runtime._core import _Context

_K = TypeVar("_K")
_T = TypeVar("_T")

_CLOSED = -(2**62)


class Result(NamedTuple, Generic[_T]):
    """What do_chan() sends."""

    value: _T | None
    error: BaseException | None
    shared: bool  # whether others get the same


class _Call(Generic[_T]):
    __slots__ = ("done", "error", "lost", "owner", "shared", "users", "value")

    def __init__(self) -> None:
        self.owner: Goroutine[Any] | None = None  # runs it
        self.users = Int64()  # others that get its result; negative: too late
        self.done = Event()
        # Read by others once done is set:
        self.value: _T | None = None
        self.error: BaseException | None = None
        self.lost = True  # it has come to nothing that concerns anybody else
        self.shared = False


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
        while True:
            mine: _Call[_T] = _Call()
            call, loaded = self._calls.load_or_store(key, mine)
            if not loaded:
                return self._run(key, mine, fn)
            if call.owner is _core.current():
                raise RuntimeError(
                    f"singleflight: the call for {key!r} calls do() for the same key, "
                    "which would wait for itself"
                )
            if call.users.add() > 0:
                result = self._wait(call, timeout, ctx)
                if result is not None:
                    return result

    def do_chan(self, key: _K, fn: Callable[[], _T], /) -> Chan[Result[_T]]:
        """As do(), but in a goroutine of its own; returns a channel that will get the Result.

        Go: singleflight.Group.DoChan.
        """
        while True:
            mine: _Call[_T] = _Call()
            call, loaded = self._calls.load_or_store(key, mine)
            if not loaded or call.users.add() > 0:
                break
        chan: Chan[Result[_T]] = Chan(1)
        try:
            _core.go(self._answer, chan, key, call, fn, loaded)
        except BaseException:
            if not loaded:
                self._end(key, call)
            raise
        return chan

    def forget(self, key: _K, /) -> None:
        """Let the next do() for key call its fn, also while a call runs.

        Go: singleflight.Group.Forget.
        """
        self._calls.delete(key)

    def _run(self, key: _K, call: _Call[_T], fn: Callable[[], _T]) -> tuple[_T, bool]:
        """Make the call."""
        try:
            call.owner = _core.current()
            value = call.value = fn()
            call.lost = False
        except Exception as e:
            call.error = duplicate(e)
            raise
        finally:
            self._end(key, call)
        return value, call.shared

    def _end(self, key: _K, call: _Call[_T]) -> None:
        call.owner = None
        try:
            self._calls.compare_and_delete(key, call)
        finally:
            call.shared = call.users.swap(_CLOSED) > 0
            call.done.set()

    def _wait(
        self, call: _Call[_T], timeout: float | None, ctx: _Context | None
    ) -> tuple[_T, bool] | None:
        """The outcome of somebody else's call, or None if there is none."""
        call.done.wait(timeout, ctx=ctx)
        if call.error is not None:
            raise duplicate(call.error)
        return None if call.lost else (call.value, True)  # type: ignore[return-value]

    def _answer(
        self,
        chan: Chan[Result[_T]],
        key: _K,
        call: _Call[_T],
        fn: Callable[[], _T],
        loaded: bool,
    ) -> None:
        """The goroutine of do_chan()."""
        result: Result[_T] | None = None
        try:
            if loaded:
                outcome = self._wait(call, None, None) or self.do(key, fn)
            else:
                outcome = self._run(key, call, fn)
            result = Result(outcome[0], None, outcome[1])
        except Exception as e:
            result = Result(None, e, loaded or call.shared)
        except BaseException as e:
            error = RuntimeError(f"singleflight: the call was ended by {type(e).__name__}")
            result = Result(None, error, False)
            raise
        finally:
            if result is not None:
                chan.try_send(result)
