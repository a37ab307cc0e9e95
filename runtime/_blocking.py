"""Calls that block their thread, made on a pool of threads; and the futures of other libraries.

A call waits in `_queue` until a thread takes it, and its caller waits on a channel that is
closed when it is done.  There is no lock: a goroutine can lose its turn, and a finalizer can
come here, between any two steps, and then whoever owned a lock might need this very thread to
go on.  Instead every step is one operation on a dict or list, and whoever makes a change looks
afterwards, never before, whether somebody has to act on it:

- a caller adds its call to the queue, then wakes an idle thread or starts one;
- a thread that finds no call adds itself to the idle ones, then looks at the queue again;
- a thread that ends removes itself from `_threads`, then looks at the queue again.

So either the caller sees the thread or the thread sees the call.  Idle threads are taken last
in, first out: those that are not needed get old and end.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import math
import operator
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from runtime import _core
from runtime._core import Chan, Int64

if TYPE_CHECKING:
    from runtime._core import _Context

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

IDLE_TIME = 10.0  # seconds a thread waits for a call before it ends

_limit = 512  # threads
_threads: dict[threading.Thread, None] = {}  # that exist, or are being started
_queue: dict[_Call, bool] = {}  # calls no thread has taken, oldest first
_idle: list[Chan[None]] = []  # one of each waiting thread, closed to wake it
_done = Int64()  # calls that have ended
_numbers = itertools.count(1)
_here = threading.local()  # .pool is set on the pool's threads

# Says whether the calling thread, while it waits, can be left out when all goroutines wait.
_service_thread: Callable[[bool], None] | None = getattr(_core, "_service_thread", None)


class _Call:
    """A call under way.  The thread that ran it sets result or error, then closes done."""

    __slots__ = ("args", "context", "done", "error", "fn", "kwargs", "result")

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.context = contextvars.copy_context()
        self.done: Chan[None] = Chan()
        self.done._wait_as("syscall")
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.context.run(self.fn, *self.args, **self.kwargs)
        except BaseException as e:
            self.error = e.with_traceback(e.__traceback__ and e.__traceback__.tb_next)
        finally:
            del self.fn, self.args, self.kwargs, self.context
            _done.add()
            self.done.close()
            del self  # the error refers to this frame, by way of its own frames

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.done.close()


def blocking(
    fn: Callable[..., _T],
    /,
    *args: Any,
    timeout: float | None = None,
    ctx: _Context | None = None,
    **kwargs: Any,
) -> _T:
    """Call fn(*args, **kwargs) on a thread of its own, while only the calling goroutine waits.

        address = runtime.blocking(socket.gethostbyname, "example.org", timeout=5)

    For what would otherwise stop all goroutines of the thread: files, name lookups, drivers
    written in C.  Returns what fn returns and raises what it raises.  fn runs in a copy of the
    caller's contextvars context, and may use this package as any plain thread may.

    Up to `set_max_blocking` calls run at a time; further ones wait their turn.  Raises
    TimeoutError after timeout seconds, turn and call together, and ctx.err() when the context
    ctx ends: a call that has begun goes on, and what comes of it is dropped, as it is when the
    caller is cancelled; one that has not begun never will.  Raises RuntimeError if no thread
    can be started and none is there.

    Keyword arguments of fn that are called timeout or ctx need functools.partial.  A call made
    by another one on the same thread, without the two, runs right there.
    """
    if not callable(fn):
        raise TypeError(
            f"blocking() needs a callable, got {type(fn).__name__}; "
            "write blocking(f, x), not blocking(f(x))"
        )
    _check_limits(timeout, ctx)
    inside = timeout is None and ctx is None and getattr(_here, "pool", False)
    if inside or sys.is_finalizing():  # then the pool's threads do not run any more
        return contextvars.copy_context().run(fn, *args, **kwargs)
    call = _Call(fn, args, kwargs)
    try:
        _submit(call)
        _wait(call.done, timeout, ctx, "runtime.blocking()")
    except BaseException:
        _queue.pop(call, False)
        raise
    if call.error is None:
        result: _T = call.result
        return result
    try:
        raise call.error
    finally:
        del call  # this frame is in the error's traceback


def set_max_blocking(n: int, /) -> int:
    """Let at most n calls of `blocking` run at the same time; returns the limit until now.

    It is 512 at first.  Lowering it interrupts nothing: threads beyond the new limit end after
    their call.  Raises ValueError if n is less than 1.

    Go: debug.SetMaxThreads, but calls beyond the limit wait.
    """
    global _limit
    n = operator.index(n)
    if n < 1:
        raise ValueError(f"set_max_blocking(n): n must be 1 or more, not {n}")
    previous, _limit = _limit, n
    for _ in range(len(_threads) - n):
        if not _wake():
            break
    for _ in range(len(_queue)):
        if not _grow():
            break
    return previous


def idle_threads() -> int:
    """How many threads of the pool wait for a call."""
    return len(_idle)


def stats() -> dict[str, int]:
    """Threads and calls, as numbers."""
    return {
        "threads": len(_threads),
        "idle": len(_idle),
        "queued": len(_queue),
        "done": _done.load(),
    }


# --- the pool -----------------------------------------------------------------------------------


def _submit(call: _Call) -> None:
    _queue[call] = True
    if not _wake():
        _grow()


def _wake() -> bool:
    """Wake the thread that has been idle for the shortest time; False if there is none."""
    try:
        inbox = _idle.pop()
    except IndexError:
        return False
    inbox.close()
    return True


def _grow() -> bool:
    """Start a thread unless the limit is reached; True if that was done.

    If it cannot be started, the calls in the queue are left to the other threads; if there
    are none, they fail.
    """
    if len(_threads) >= _limit:
        return False
    name = f"gosched-blocking-{next(_numbers)}"
    thread = threading.Thread(target=_work, name=name, daemon=True)
    try:
        if not _reserve(thread):
            return False
        # An empty context: some Pythons hand a copy of it to the thread, for as long as it lives.
        contextvars.Context().run(thread.start)
    except BaseException as e:
        _threads.pop(thread, None)
        if not _threads:
            while (call := _take()) is not None:
                call.fail(RuntimeError(f"runtime.blocking(): cannot start a thread: {e}"))
        if not isinstance(e, RuntimeError | MemoryError):
            raise
        return False
    return True


def _reserve(thread: threading.Thread) -> bool:
    """Enter thread into `_threads` if the limit allows."""
    while True:
        _threads[thread] = None
        if len(_threads) <= _limit:
            return True
        del _threads[thread]
        if len(_threads) >= _limit:
            return False
        # Several tried at once and gave way to each other.


def _take() -> _Call | None:
    """The oldest call of the queue, which is now the caller's."""
    while True:
        try:
            call = next(iter(_queue))
        except StopIteration:
            return None
        except RuntimeError:  # the dict changed in between
            continue
        if _queue.pop(call, False):
            return call


def _work() -> None:
    """What a thread of the pool does."""
    thread = threading.current_thread()
    _here.pool = True
    try:
        while (call := _next(thread)) is not None:
            call.run()
            del call  # not kept while the thread is idle
    finally:
        _threads.pop(thread, None)
        if _queue and not _wake():
            _grow()


def _next(thread: threading.Thread) -> _Call | None:
    """Wait for a call; None: the thread shall end."""
    while thread in _threads and len(_threads) <= _limit:  # it is not in there after a fork
        call = _take()
        if call is not None:
            return call
        inbox: Chan[None] = Chan()
        _idle.append(inbox)
        expired = False
        try:
            if not _queue and len(_threads) <= _limit:
                if _wait_idle(inbox):
                    continue
                expired = True
        except BaseException:
            with contextlib.suppress(ValueError):
                _idle.remove(inbox)
            raise
        try:
            _idle.remove(inbox)
        except ValueError:  # somebody is about to wake this thread
            continue
        if expired:
            return None
    return None


def _wait_idle(inbox: Chan[None]) -> bool:
    """Wait until the thread is needed; False after IDLE_TIME."""
    if _service_thread is not None:
        _service_thread(True)
    try:
        inbox.recv_ok(IDLE_TIME)
    except TimeoutError:
        return False
    finally:
        if _service_thread is not None:
            _service_thread(False)
    return True


def _forget() -> None:
    """In the child of a fork: its parent's threads, and so the calls they make, are not here."""
    _threads.clear()
    _queue.clear()
    _idle.clear()


os.register_at_fork(after_in_child=_forget)

# --- futures ------------------------------------------------------------------------------------


class _Future(Protocol[_T_co]):
    def add_done_callback(self, fn: Callable[[Any], object], /) -> object: ...
    def result(self) -> _T_co: ...


def wait_future(
    future: _Future[_T], timeout: float | None = None, *, ctx: _Context | None = None
) -> _T:
    """Wait until a future of another library is done, and return or raise its result.

        with ThreadPoolExecutor() as pool:
            page = runtime.wait_future(pool.submit(fetch, url), timeout=10)

    Only the calling goroutine waits.  A future is a concurrent.futures.Future, or anything
    else with add_done_callback(fn), which calls fn(future) once the future is done, on any
    thread, and at once if it is done already; and result(), which then returns its result or
    raises its exception.

    A future of asyncio may be waited for while its event loop runs on another thread, or once
    it is done.

    Raises CancelledError, the future's own, if that was cancelled; TimeoutError after timeout
    seconds, and ctx.err() when the context ctx ends, which leaves the future as it is.
    """
    for method in ("add_done_callback", "result"):
        if not callable(getattr(future, method, None)):
            raise TypeError(
                f"wait_future() needs a future, with the methods add_done_callback() and "
                f"result(); {type(future).__name__} has no {method}()"
            )
    _check_limits(timeout, ctx)
    done: Chan[None] = Chan(1)
    done._wait_as("future")
    _when_done(future, lambda _: done.try_send(None))
    _wait(done, timeout, ctx, "runtime.wait_future()")
    return future.result()


def _when_done(future: Any, call: Callable[[Any], object]) -> None:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not asyncio.isfuture(future):
        future.add_done_callback(call)
    elif future.done():
        call(future)
    else:  # it belongs to its loop's thread
        future.get_loop().call_soon_threadsafe(future.add_done_callback, call)


# --- both ---------------------------------------------------------------------------------------


_over: Chan[None] = Chan()
_over.close()


def _check_limits(timeout: float | None, ctx: _Context | None) -> None:
    if timeout is not None and math.isnan(timeout):
        raise ValueError("a time in seconds must be a number, not NaN")
    _over.recv_ok(ctx=ctx)  # fails as all calls do if that has ended, or is no context


def _wait(done: Chan[None], timeout: float | None, ctx: _Context | None, what: str) -> None:
    """Wait until something is sent to done, or it is closed."""
    try:
        done.recv_ok(timeout, ctx=ctx)
    except TimeoutError as e:
        if type(e) is not TimeoutError:  # a DeadlineExceeded
            raise
        raise TimeoutError(f"{what}: the time is up") from None
