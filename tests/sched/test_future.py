"""runtime.wait_future: goroutines that wait for futures of whatever kind."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import pytest

from programs import run
from runtime import (
    Cancelled,
    Chan,
    Goroutine,
    blocking,
    context,
    go,
    wait_future,
)
from waits import Gate, parked, until


def test_wait_future_of_a_thread_pool() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert wait_future(pool.submit(abs, -3)) == 3
        with pytest.raises(ZeroDivisionError):
            wait_future(pool.submit(divmod, 1, 0))
        gate = Gate("late")
        g = go(wait_future, pool.submit(gate))
        until(gate.begun.is_set)
        assert go(lambda: "runs").join() == "runs"
        gate.open()
        assert g.join() == "late"


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_wait_future_of_a_process_pool(method: str) -> None:
    done = run(
        f"""
        import multiprocessing, os
        from concurrent.futures import ProcessPoolExecutor
        from runtime import *

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            with ProcessPoolExecutor(2, context) as pool:
                gs = [go(wait_future, pool.submit(pow, n, 2)) for n in range(20)]
                print(sum(g.join() for g in gs))
                try:
                    wait_future(pool.submit(divmod, 1, 0))
                except ZeroDivisionError:
                    print("raised")
                print(wait_future(pool.submit(os.getpid)) != os.getpid())
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2470\nraised\nTrue\n", "")


def test_wait_future_finished_already() -> None:
    future: Future[str] = Future()
    future.set_result("now")
    assert wait_future(future) == "now"
    assert wait_future(future, timeout=0) == "now"
    failed: Future[str] = Future()
    error = ValueError()
    failed.set_exception(error)
    with pytest.raises(ValueError) as caught:
        wait_future(failed)
    assert caught.value is error


def test_wait_future_set_by_a_goroutine() -> None:
    future: Future[int] = Future()
    waiting = [parked(go(wait_future, future)) for _ in range(10)]
    go(future.set_result, 7)
    assert [g.join() for g in waiting] == [7] * 10


def test_wait_future_from_a_plain_thread() -> None:
    future: Future[int] = Future()
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(wait_future(future))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    future.set_result(7)
    for thread in threads:
        thread.join()
    assert results == [7] * 3


def test_wait_future_cancelled() -> None:
    future: Future[int] = Future()
    g = parked(go(wait_future, future))
    assert future.cancel()
    with pytest.raises(CancelledError):
        g.join()


def test_wait_future_timeout_leaves_the_future_alone() -> None:
    future: Future[int] = Future()
    with pytest.raises(TimeoutError, match="wait_future"):
        wait_future(future, timeout=0.001)
    with pytest.raises(TimeoutError):
        wait_future(future, timeout=0)
    assert not future.done()
    g = parked(go(wait_future, future))
    g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    assert not future.cancelled()
    go(future.set_result, 1)
    assert wait_future(future, timeout=1000) == 1


class Minimal:
    """Only what wait_future() asks for; calls back more than once."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], object]] = []
        self.outcome: Any = None

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        self.callbacks.append(fn)

    def result(self) -> Any:
        return self.outcome

    def finish(self, outcome: Any) -> None:
        self.outcome = outcome
        for fn in self.callbacks * 2:
            fn(self)


def test_wait_future_of_another_kind() -> None:
    future = Minimal()
    gs = [parked(go(wait_future, future)) for _ in range(3)]
    future.finish("own")
    assert [g.join() for g in gs] == ["own"] * 3
    future = Minimal()
    g = parked(go(wait_future, future))
    thread = threading.Thread(target=future.finish, args=("thread",))
    thread.start()
    assert g.join() == "thread"
    thread.join()


@pytest.mark.parametrize(
    "other",
    [None, 3, "future", object(), Future, blocking, Goroutine],
    ids=["None", "int", "str", "object", "Future", "function", "Goroutine"],
)
def test_wait_future_of_something_else_is_a_type_error(other: Any) -> None:
    if other is Future:
        other = type("NoResult", (), {"add_done_callback": lambda self, fn: None})()
    with pytest.raises(TypeError, match=r"needs a future, .* has no "):
        wait_future(other)


@pytest.mark.parametrize("timeout", ["1", float("nan")])
def test_wait_future_bad_timeout(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        wait_future(Future(), timeout=timeout)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_wait_future_of_asyncio(loop: asyncio.AbstractEventLoop) -> None:
    async def square(n: int) -> int:
        await asyncio.sleep(0.0001)
        return n * n

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError

    gs = [go(wait_future, asyncio.run_coroutine_threadsafe(square(n), loop)) for n in range(10)]
    assert sum(g.join() for g in gs) == 285

    async def task(coro: Any) -> asyncio.Task[Any]:
        return asyncio.ensure_future(coro)

    def start(coro: Any) -> asyncio.Task[Any]:
        return wait_future(asyncio.run_coroutine_threadsafe(task(coro), loop))

    tasks = [start(square(n)) for n in range(10)]
    assert sum(g.join() for g in [go(wait_future, t) for t in tasks]) == 285
    assert wait_future(tasks[3]) == 9
    with pytest.raises(LookupError):
        wait_future(start(fail()))
    never = start(asyncio.sleep(3600))
    with pytest.raises(TimeoutError):
        wait_future(never, timeout=0.001)
    assert not never.done()
    g = parked(go(wait_future, never))
    loop.call_soon_threadsafe(never.cancel)
    with pytest.raises(asyncio.CancelledError):
        g.join()


def test_wait_future_ends_with_its_context() -> None:
    future: Future[int] = Future()
    ctx, cancel = context.with_cancel()
    g = parked(go(wait_future, future, ctx=ctx))
    assert g.wait_reason == "future"
    cancel()
    with pytest.raises(context.Canceled):
        g.join()
    future.set_result(5)
    with pytest.raises(context.Canceled):
        wait_future(future, ctx=ctx)
    with context.with_timeout(None, 1000) as ctx:
        assert wait_future(future, ctx=ctx) == 5
        with pytest.raises(TimeoutError, match="wait_future"):
            wait_future(Future(), 0, ctx=ctx)
    with context.with_timeout(None, 0.001) as ctx, pytest.raises(context.DeadlineExceeded):
        wait_future(Future(), ctx=ctx)
    with pytest.raises(TypeError, match="ctx must be a context or None"):
        wait_future(future, ctx=5)  # type: ignore[arg-type]


def test_wait_future_of_a_closed_asyncio_loop() -> None:
    loop = asyncio.new_event_loop()
    done, never = loop.create_future(), loop.create_future()
    done.set_result(1)
    loop.close()
    assert wait_future(done) == 1
    with pytest.raises(RuntimeError, match="closed"):
        wait_future(never)


@pytest.mark.parametrize("seed", range(5))
def test_wait_future_that_is_done_when_the_time_is_up(seed: int) -> None:
    rnd = random.Random(seed)
    futures: Chan[Future[int] | None] = Chan()

    def finish() -> None:
        while (future := futures.recv()) is not None:
            threading.Event().wait(rnd.random() * 0.0004)
            future.set_result(id(future))

    thread = threading.Thread(target=finish)
    thread.start()
    for _ in range(300):
        future: Future[int] = Future()
        futures.send(future)
        try:
            assert wait_future(future, timeout=0.0002) == id(future)
        except TimeoutError:
            assert wait_future(future) == id(future)
    futures.send(None)
    thread.join()
