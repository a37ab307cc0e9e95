"""runtime.testing.bubble(): a clock of its own, durable waits, how it ends."""

import contextlib
import contextvars
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtime
from programs import run
from runtime import (
    Cancelled,
    Chan,
    ChanClosed,
    DeadlockError,
    Goroutine,
    Group,
    Mutex,
    WaitGroup,
    blocking,
    context,
    current,
    go,
    goroutines,
    gosched,
    net,
    recv,
    select,
    send,
    sleep,
    sync,
    testing,
)
from runtime.time import Ticker, Timer, after, after_func, now, tick
from waits import Gate, until

DAY = 86400.0


def in_thread(fn: Callable[[], Any]) -> Any:
    """What fn returns, or raises, on a plain thread; this one waits as a goroutine."""
    return blocking(fn)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("runtime._leaks.GRACE", 60.0)  # the machine may be busy
    with testing.leak_check():
        yield


@pytest.fixture(params=[1, 4])
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    before = runtime.gomaxprocs(request.param)
    yield request.param
    runtime.gomaxprocs(before)


# --- the clock ------------------------------------------------------------------------------------


def test_clock_of_each_bubble_starts_at_zero() -> None:
    for _ in range(3):
        assert testing.bubble(now) == 0


def test_clock_sleep_takes_exactly_its_time_and_none_outside() -> None:
    def body() -> list[float]:
        seen = []
        for seconds in (1, 0.25, 1e9, 0):
            sleep(seconds)
            seen.append(now())
        return seen

    assert testing.bubble(body) == [1, 1.25, 1e9 + 1.25, 1e9 + 1.25]


def test_clock_is_the_real_one_after_the_bubble() -> None:
    testing.bubble(sleep, 1e9)
    assert abs(now() - time.monotonic()) < 1e8


def test_clock_time_outs_are_by_it() -> None:
    def body() -> list[float]:
        seen = []
        ch, wg = Chan(), WaitGroup()
        wg.add()
        for fn in (
            lambda: ch.recv(timeout=10),
            lambda: ch.send(1, timeout=20),
            lambda: ch.recv_ok(timeout=30),
            lambda: wg.wait(timeout=40),
            lambda: go(sleep, 1000).join(timeout=50),
        ):
            with pytest.raises(TimeoutError):
                fn()
            seen.append(now())
        sleep(1000)
        return seen

    assert testing.bubble(body) == [10, 30, 60, 100, 150]


def test_clock_wakes_sleepers_in_order_of_deadline_then_of_start() -> None:
    def body() -> list[Any]:
        log: list[Any] = []

        def sleeper(i: int, seconds: float) -> None:
            sleep(seconds)
            log.append((now(), i))

        gs = [go(sleeper, i, s) for i, s in enumerate([3, 1, 2, 1, 3, 2, 1])]
        for g in gs:
            g.join()
        return log

    assert testing.bubble(body) == [(1, 1), (1, 3), (1, 6), (2, 2), (2, 5), (3, 0), (3, 4)]


def test_clock_stands_still_while_anything_runs() -> None:
    def body() -> None:
        g = go(sleep, 1)
        for _ in range(1000):
            gosched()
            sum(range(100))
        assert now() == 0 and not g.done()
        g.join()
        assert now() == 1

    testing.bubble(body)


def test_clock_stands_still_during_a_blocking_call() -> None:
    gate = Gate("result")

    def body() -> float:
        g = go(sleep, 1)
        call = go(blocking, gate, timeout=0.5)
        blocking(gate.begun.wait)
        for _ in range(100):
            gosched()
        before = now()
        assert not g.done()
        gate.open()
        assert call.join() == "result"
        g.join()
        return before

    assert testing.bubble(body) == 0


def test_clock_stands_still_while_one_waits_for_a_channel_from_outside() -> None:
    outside: Chan[int] = Chan()

    def body() -> None:
        g = go(sleep, 1)
        assert outside.recv() == 1
        assert now() == 0 and not g.done()
        g.join()

    def sender() -> None:
        until(lambda: any(g.wait_reason == "chan receive" and g.bubble for g in goroutines()))
        outside.send(1)

    g = go(sender)
    testing.bubble(body)
    g.join()


def test_clock_stands_still_during_io_whose_time_outs_are_real() -> None:
    def body() -> None:
        with net.listen("tcp", "127.0.0.1:0") as listener:
            accepting = go(listener.accept)
            with net.dial("tcp", str(listener.addr)) as conn, accepting.join() as peer:
                sleeper = go(sleep, 1)
                conn.write(b"x")
                assert peer.read(1) == b"x"
                peer.set_read_deadline(0.01)
                with pytest.raises(TimeoutError):
                    peer.read(1)
                assert now() == 0
                sleeper.join()

    testing.bubble(body)


def test_clock_time_outs_beyond_its_end_never_come() -> None:
    def body() -> None:
        with pytest.raises(TimeoutError):
            Chan().recv(timeout=9e9)
        with pytest.raises(DeadlockError):
            Chan().recv(timeout=9e9)

    testing.bubble(body)


def test_clock_many_sleepers_of_a_day_take_none() -> None:
    def body() -> float:
        gs = [go(sleep, DAY + i % 100) for i in range(10_000)]
        for g in gs:
            g.join()
        return now()

    assert testing.bubble(body) == DAY + 99


PLANS = st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=8)


def simulate(plans: list[list[int]]) -> list[tuple[int, int]]:
    """When which goroutine runs, if each sleeps for the seconds of its plan; 0 yields."""
    log, runnable = [], [(i, iter(plan)) for i, plan in enumerate(plans)]
    timers: list[Any] = []
    clock = seq = 0
    while runnable or timers:
        if not runnable:
            clock = timers[0][0]
            while timers and timers[0][0] == clock:
                runnable.append(heappop(timers)[2:])
        i, plan = runnable.pop(0)
        log.append((clock, i))
        seconds = next(plan, None)
        if seconds:
            seq += 1
            heappush(timers, (clock + seconds, seq, i, plan))
        elif seconds == 0:
            runnable.append((i, plan))
    return log


@given(PLANS)
def test_clock_runs_goroutines_as_a_model_does(plans: list[list[int]]) -> None:
    log = []

    def sleeper(i: int) -> None:
        log.append((now(), i))
        for seconds in plans[i]:
            sleep(seconds)
            log.append((now(), i))

    def body() -> None:
        gs = [go(sleeper, i) for i in range(len(plans))]
        for g in gs:
            g.join()

    testing.bubble(body)
    assert log == simulate(plans)


# --- timers and tickers ---------------------------------------------------------------------------


def test_timer_fires_at_its_time_and_not_before() -> None:
    def body() -> list[float]:
        timers = [Timer(5), Timer(3)]
        seen = [timers[1].c.recv(), timers[0].c.recv(), after(10).recv(), now()]
        stopped = Timer(1)
        sleep(2)
        assert stopped.stop() and not stopped.reset(7)
        return [*seen, stopped.c.recv()]

    assert testing.bubble(body) == [3, 5, 15, 15, 24]


def test_ticker_ticks_by_the_bubbles_clock() -> None:
    def body() -> list[float]:
        with Ticker(0.5) as ticker:
            seen = [next(ticker) for _ in range(3)]
            sleep(10)
            seen += [next(ticker), next(ticker)]
        return [*seen, tick(100).recv()]

    assert testing.bubble(body) == [0.5, 1, 1.5, 2, 12, 112]


def test_ticker_that_nobody_receives_from_does_not_hide_a_deadlock() -> None:
    def body() -> None:
        with Ticker(1), pytest.raises(DeadlockError):
            Chan().recv()

    testing.bubble(body)


def test_after_func_runs_in_a_goroutine_of_the_bubble() -> None:
    def body() -> None:
        ch = Chan[Any]()

        def later(x: int) -> None:
            ch.send((x, now(), go(now).join()))
            sleep(1)
            ch.send(now())

        after_func(60, later, 7)
        assert ch.recv() == (7, 60, 60)
        testing.wait()
        assert ch.recv() == 61

    testing.bubble(body)


def test_after_func_that_is_pending_at_the_end_never_runs() -> None:
    log: list[Any] = []

    class Callback:
        def __call__(self) -> None:
            log.append("called")

        def __del__(self) -> None:
            log.append("dropped")

    def body() -> None:
        after_func(60, Callback())
        go(after_func, 30, Callback())
        testing.wait()
        assert log == []

    testing.bubble(body)
    until(lambda: len(log) == 2)
    assert log == ["dropped", "dropped"]


def test_after_func_stopped_in_time_does_not_run() -> None:
    def body() -> None:
        t = after_func(5, log.append, 1)
        sleep(4)
        assert t.stop()
        sleep(10)
        t.reset(1)
        sleep(2)

    log: list[int] = []
    testing.bubble(body)
    assert log == [1]


def test_timers_of_a_bubble_cannot_be_used_outside() -> None:
    def body() -> list[Any]:
        return [Timer(5), after_func(5, print), Ticker(5)]

    timer, func, ticker = testing.bubble(body)
    uses = [timer.stop, func.stop, ticker.stop, lambda: timer.c, lambda: next(ticker)]
    uses += [partial(t.reset, 1) for t in (timer, func, ticker)]
    for use in [*uses, ticker.c.recv, ticker.c.try_recv]:
        for where in (lambda f: f(), in_thread, testing.bubble):
            with pytest.raises(RuntimeError, match="cannot be used outside"):
                where(use)
    assert "Timer" in repr(timer) and "Ticker" in repr(ticker)


def test_timers_from_outside_stay_real_in_a_bubble() -> None:
    timer = Timer(0.001)

    def body() -> None:
        g = go(sleep, 1000)
        assert timer.c.recv() > 0
        assert now() == 0
        g.join()

    testing.bubble(body)


def test_select_waits_by_the_bubbles_clock() -> None:
    def body() -> list[Any]:
        a, b = Chan[int](), Chan[int]()
        seen = []
        with pytest.raises(TimeoutError):
            select(recv(a), send(b, 1), timeout=5)
        seen.append(now())
        assert select(recv(a), recv(after(10))) == (1, 15, True)
        go(lambda: sleep(1) or a.send(9))
        seen += select(recv(None), recv(b), recv(a))
        with pytest.raises(DeadlockError):
            select()
        return [*seen, now()]

    assert testing.bubble(body) == [5, 2, 9, True, 16]


def test_select_with_a_channel_from_outside_is_not_durable() -> None:
    outside: Chan[int] = Chan()

    def body() -> None:
        g = go(sleep, 1)
        assert select(recv(Chan()), recv(outside)) == (1, 5, True)
        assert now() == 0
        g.join()

    g = go(testing.bubble, body)
    until(lambda: any(i.wait_reason == "select" and i.bubble for i in goroutines()))
    outside.send(5)
    g.join()


def test_contexts_end_by_the_bubbles_clock() -> None:
    def body() -> list[float]:
        seen = []
        ctx, cancel = context.with_timeout(context.background(), 5)
        assert ctx.err() is None
        with pytest.raises(context.DeadlineExceeded):
            Chan().recv(ctx=ctx)
        seen.append(now())
        ctx, cancel = context.with_cancel(context.background())
        context.after_func(ctx, lambda: seen.append(now()))
        go(lambda: sleep(3) or cancel())
        with pytest.raises(context.Canceled):
            busy().wait(ctx=ctx)
        testing.wait()
        return seen

    def busy() -> WaitGroup:
        wg = WaitGroup()
        wg.add()
        return wg

    assert testing.bubble(body) == [5, 8]


def test_context_from_outside_is_not_durable() -> None:
    ctx, cancel = context.with_cancel(context.background())

    def body() -> None:
        g = go(sleep, 1)
        with pytest.raises(context.Canceled):
            Chan().recv(ctx=ctx)
        assert now() == 0
        g.join()

    g = go(testing.bubble, body)
    until(lambda: any(i.wait_reason == "chan receive" and i.bubble for i in goroutines()))
    cancel()
    g.join()


@pytest.mark.parametrize("kind", ["Cond", "Semaphore", "Event", "WaitGroup", "Barrier"])
def test_sync_waits_are_durable(kind: str) -> None:
    def body() -> None:
        mu = Mutex()
        cond, sema, event, wg = sync.Cond(mu), sync.Semaphore(1), sync.Event(), WaitGroup()
        barrier = sync.Barrier(2)
        sema.acquire()
        wg.add()

        def wait_cond() -> None:
            with mu:
                cond.wait()

        waits = {
            "Cond": (wait_cond, cond.broadcast),
            "Semaphore": (sema.acquire, sema.release),
            "Event": (event.wait, event.set),
            "WaitGroup": (wg.wait, wg.done),
            "Barrier": (barrier.wait, barrier.wait),
        }
        wait, wake = waits[kind]
        g = go(wait)
        sleep(10)
        assert now() == 10 and g.state == "waiting"
        wake()
        g.join()

    testing.bubble(body)


# --- wait() ---------------------------------------------------------------------------------------


def test_wait_returns_when_all_others_are_blocked() -> None:
    def body() -> list[str]:
        log, ch = [], Chan[None]()

        def worker() -> None:
            for _ in range(10):
                gosched()
            log.append("began")
            ch.recv()
            log.append("got it")
            sleep(1)
            log.append("slept")

        go(worker)
        testing.wait()
        assert log == ["began"]
        ch.send(None)
        testing.wait()
        assert log == ["began", "got it"] and now() == 0
        sleep(1)
        testing.wait()
        return log

    assert testing.bubble(body) == ["began", "got it", "slept"]


def test_wait_alone_returns_at_once() -> None:
    testing.bubble(testing.wait)


def test_wait_waits_for_a_blocking_call() -> None:
    gate = Gate()

    def body() -> None:
        g = go(blocking, gate)
        go(opener)
        testing.wait()
        assert g.done()

    def opener() -> None:
        blocking(gate.begun.wait)
        gate.open()

    testing.bubble(body)


def test_wait_in_two_goroutines_raises() -> None:
    def body() -> None:
        first = current()

        def second() -> None:
            while first.wait_reason != "synctest.Wait":
                gosched()
            with pytest.raises(RuntimeError, match=r"another goroutine .* is in wait"):
                testing.wait()
            log.append("refused")

        log: list[str] = []
        go(second)
        testing.wait()
        assert log == ["refused"]

    testing.bubble(body)


def test_wait_outside_of_a_bubble_raises() -> None:
    for where in (lambda f: f(), lambda f: go(f).join(), in_thread):
        with pytest.raises(RuntimeError, match="for goroutines of a bubble"):
            where(testing.wait)


def test_wait_can_be_cancelled() -> None:
    def body() -> None:
        g = go(testing.wait)
        outside.try_recv()
        while g.wait_reason != "synctest.Wait":
            gosched()
        g.cancel()
        with pytest.raises(Cancelled):
            g.join()
        testing.wait()

    outside = Chan(1)
    testing.bubble(body)


# --- who belongs to it ----------------------------------------------------------------------------


def test_members_are_pinned_to_one_thread(procs: int) -> None:
    def body() -> set[int]:
        def spread(depth: int) -> None:
            threads.add(threading.get_ident())
            for g in [go(spread, depth - 1) for _ in range(4) if depth]:
                g.join()

        threads: set[int] = set()
        spread(3)
        assert {g.bubble for g in goroutines() if g.goroutine is current()} != {None}
        return threads

    assert len(testing.bubble(body)) == 1


def test_members_are_marked_in_what_goroutines_tell() -> None:
    def body() -> None:
        inner = go(sleep, 1)
        testing.wait()
        infos = {g.goroutine: g for g in goroutines(stacks=True)}
        here = infos[current()].bubble
        assert here is not None and infos[inner].bubble == here
        assert sum(g.bubble == here for g in infos.values()) == 2
        assert f"[sleep, bubble {here}]" in runtime.stack(all=True)
        inner.join()

    assert all(g.bubble is None for g in goroutines())
    testing.bubble(body)


def test_members_inherit_the_context() -> None:
    var = contextvars.ContextVar("var", default="none")

    def body() -> list[str]:
        seen = [var.get(), go(var.get).join()]
        var.set("inner")
        return [*seen, go(var.get).join()]

    assert testing.bubble(body) == ["none", "none", "inner"]
    context = contextvars.copy_context()
    context.run(var.set, "outer")
    assert context.run(testing.bubble, body) == ["outer", "outer", "inner"]
    assert context.run(var.get) == "outer"


def test_members_are_not_what_other_threads_spawn() -> None:
    def body() -> None:
        g = blocking(lambda: go(now))
        assert g.join() > 0

    testing.bubble(body)


def test_bubble_in_a_bubble_raises() -> None:
    def body() -> None:
        for where in (lambda f: f(), lambda f: go(f).join()):
            with pytest.raises(RuntimeError, match="within a bubble"):
                where(lambda: testing.bubble(now))

    testing.bubble(body)


# --- channels -------------------------------------------------------------------------------------

USES = [
    Chan.recv,
    Chan.recv_ok,
    Chan.try_recv,
    Chan.close,
    next,
    lambda ch: ch.send(1),
    lambda ch: ch.try_send(1),
    lambda ch: ch.recv(timeout=0),
    lambda ch: ch.receiver().recv(),
    lambda ch: select(recv(Chan()), recv(ch), default=True),
    lambda ch: select(send(Chan(1), 1), send(ch, 1)),
]


@pytest.mark.parametrize("use", USES)
def test_channel_of_a_bubble_cannot_be_used_outside(use: Callable[[Any], Any]) -> None:
    def body() -> Chan[int]:
        ch, closed = Chan[int](1), Chan[int]()
        ch.send(5)
        closed.close()
        for there in (ch, closed):
            with pytest.raises(RuntimeError, match="cannot be used outside"):
                in_thread(partial(use, there))
        assert ch.recv() == 5
        ch.send(6)
        return ch

    ch = testing.bubble(body)
    for where in (lambda f: f(), lambda f: go(f).join(), in_thread, testing.bubble):
        with pytest.raises(RuntimeError, match="cannot be used outside"):
            where(lambda: use(ch))
    assert len(ch) == 1 and ch.capacity == 1 and not ch.closed and "1/1" in repr(ch)


def test_channel_from_outside_can_be_used_in_a_bubble() -> None:
    requests: Chan[int] = Chan()
    answers: Chan[int] = Chan(1)

    def server() -> None:
        for x in requests:
            answers.send(x * x)

    def body() -> list[int]:
        squares = []
        for i in range(5):
            requests.send(i)
            squares.append(answers.recv())
        requests.close()
        return squares

    g = go(server)
    assert testing.bubble(body) == [0, 1, 4, 9, 16]
    g.join()


def test_channel_closed_in_a_bubble_is_drained_and_then_closed() -> None:
    def body() -> list[int]:
        ch = Chan[int](3)
        for i in range(3):
            ch.send(i)
        ch.close()
        got = list(ch)
        for use in (ch.recv, ch.close, lambda: ch.send(1)):
            with pytest.raises(ChanClosed):
                use()
        assert ch.recv_ok() == (None, False)
        return got

    assert testing.bubble(body) == [0, 1, 2]


# --- how it ends ----------------------------------------------------------------------------------


def test_bubble_returns_what_its_function_returns() -> None:
    assert testing.bubble(divmod, 17, 5) == (3, 2)
    assert testing.bubble(dict, a=1) == {"a": 1}


def test_bubble_raises_what_its_function_raises_with_its_traceback() -> None:
    def fails() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here") as info:
        testing.bubble(fails)
    assert traceback.extract_tb(info.value.__traceback__)[-1].name == "fails"


def test_bubble_decorator_gives_each_call_its_own() -> None:
    @testing.bubble()
    def body(x: int, *, y: int) -> tuple[float, int]:
        """Docs."""
        begun = now()
        sleep(5)
        return begun, x + y

    assert body(1, y=2) == (0, 3) and body(3, y=4) == (0, 7)
    assert body.__name__ == "body" and body.__doc__ == "Docs."


def test_bubble_waits_for_all_its_goroutines() -> None:
    log = []

    def late() -> None:
        for _ in range(100):
            gosched()
        log.append(blocking(lambda: "late"))

    def body() -> None:
        for _ in range(3):
            go(late)

    testing.bubble(body)
    assert log == ["late"] * 3


def test_bubble_goexit_of_its_function_ends_it() -> None:
    assert testing.bubble(runtime.goexit) is None


def test_bubble_takes_only_functions() -> None:
    with pytest.raises(TypeError, match="callable"):
        testing.bubble(3)  # type: ignore[arg-type]


def test_deadlock_is_raised_where_the_function_waits() -> None:
    def body() -> str:
        stuck = go.named("stuck")(Chan().send, 1)
        try:
            Chan[str]().recv()
        except DeadlockError as e:
            text = str(e)
            stuck.cancel()
            assert traceback.extract_tb(e.__traceback__)[-1].name == "body"
            return text
        raise AssertionError

    text = testing.bubble(body)
    assert "all goroutines of the bubble are blocked" in text
    assert "'stuck' [chan send, bubble" in text and "[chan receive, bubble" in text
    assert "test_bubble.py:" in text


def test_deadlock_ends_the_bubble_and_all_its_goroutines() -> None:
    log = []

    def waits() -> None:
        try:
            Chan().recv()
        finally:
            log.append("cleaned up")

    def body() -> None:
        go(waits)
        waits()

    with pytest.raises(DeadlockError, match="are blocked") as info:
        testing.bubble(body)
    assert log == ["cleaned up"] * 2
    assert "waits" in [f.name for f in traceback.extract_tb(info.value.__traceback__)]
    assert not hasattr(info.value, "__notes__")


@pytest.mark.parametrize("wait", [lambda: Chan().recv(), lambda: sleep(1)])
def test_deadlock_names_who_is_left_when_the_function_has_ended(wait: Callable[[], Any]) -> None:
    def body() -> None:
        go.named("left behind")(wait)

    with pytest.raises(DeadlockError, match=r"(?s)has ended.*'left behind' \["):
        testing.bubble(body)


def test_deadlock_with_an_error_of_the_function_is_told_in_a_note() -> None:
    def body() -> None:
        go.named("left behind")(Chan().recv)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first") as info:
        testing.bubble(body)
    (note,) = info.value.__notes__
    assert "'left behind' [chan receive" in note


def test_deadlock_goroutines_that_cannot_be_cancelled_are_left() -> None:
    free = []

    def stubborn() -> None:
        while not free:
            with contextlib.suppress(Cancelled):
                Chan().recv()

    def body() -> Goroutine[None]:
        return go.named("stubborn")(stubborn)

    with pytest.raises(DeadlockError, match="stubborn"):
        testing.bubble(body)
    (g,) = [g for g in goroutines() if g.name == "stubborn"]
    assert g.bubble is not None
    free.append(True)
    g.goroutine.cancel()


def test_bubble_whose_caller_is_cancelled_cancels_all() -> None:
    log = []

    def waits(i: int) -> None:
        try:
            outside.recv()
        finally:
            sleep(1)
            log.append(i)

    def body() -> None:
        go(waits, 1)
        waits(2)

    outside = Chan()
    g = go(testing.bubble, body)
    # Both are in what they clean up after.
    until(lambda: sum(i.bubble is not None and i.state == "waiting" for i in goroutines()) == 2)
    g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    assert sorted(log) == [1, 2]


def test_bubble_is_interrupted_by_ctrl_c() -> None:
    done = run(
        """
        import os, signal, runtime
        from runtime import testing
        def body():
            try:
                runtime.go(os.kill, os.getpid(), signal.SIGINT)
                while True:
                    runtime.sleep(1)
            finally:
                print("cleaned up")
        try:
            testing.bubble(body)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert done.stdout.split("\n") == ["cleaned up", "interrupted", ""], done.stderr


# --- what else there is ---------------------------------------------------------------------------


def test_bubbles_of_several_goroutines_do_not_meet(procs: int) -> None:
    def body(i: int) -> float:
        ch = Chan[int]()
        g = go(lambda: [sleep(i) for _ in range(100)] and ch.send(1))
        ch.recv()
        g.join()
        return now()

    gs = [go(testing.bubble, body, i) for i in range(20)]
    assert [g.join() for g in gs] == [100 * i for i in range(20)]


def test_bubble_of_plain_threads(procs: int) -> None:
    def body(i: int) -> float:
        gs = [go(sleep, i) for _ in range(10)]
        testing.wait()
        for g in gs:
            g.join()
        return now()

    def deadlock() -> str:
        try:
            testing.bubble(lambda: go.named("left")(Chan().recv) and None)
        except DeadlockError as e:
            return str(e)
        raise AssertionError

    results = [Chan[Any](1) for _ in range(8)]
    threads = [
        threading.Thread(target=lambda i=i, ch=ch: ch.send(testing.bubble(body, i)))
        for i, ch in enumerate(results)
    ]
    for t in threads:
        t.start()
    assert [ch.recv() for ch in results] == list(range(8))
    for t in threads:
        t.join()
    assert "'left'" in in_thread(deadlock)


def test_bubble_beside_busy_goroutines_goes_on(one_p: None) -> None:
    def busy() -> None:
        while not over:
            gosched()

    over: list[bool] = []
    others = [go(busy) for _ in range(3)]
    try:
        assert testing.bubble(lambda: [sleep(1) for _ in range(10)] and now()) == 10
        with pytest.raises(DeadlockError):
            testing.bubble(lambda: Chan().recv())
    finally:
        over.append(True)
    for g in others:
        g.join()


def test_bubble_with_group_and_cancel(procs: int) -> None:
    def body() -> float:
        def fails() -> None:
            sleep(3)
            raise ValueError("one of the group")

        with pytest.raises(ExceptionGroup), Group() as grp:
            grp.go(sleep, DAY)
            grp.go(Chan().recv)
            grp.go(fails)
            sleep(DAY)
        return now()

    assert testing.bubble(body) == 3


def test_bubble_with_mutex_is_no_deadlock_while_it_is_held() -> None:
    def body() -> None:
        mu, wg = Mutex(), WaitGroup()

        def worker() -> None:
            with mu:
                gosched()
            sleep(1)
            wg.done()

        wg.add(10)
        for _ in range(10):
            go(worker)
        wg.wait()
        assert now() == 1

    testing.bubble(body)


def test_bubble_with_a_locked_thread() -> None:
    def body() -> float:
        runtime.lock_os_thread()
        g = go(sleep, 2)
        sleep(1)
        runtime.unlock_os_thread()
        g.join()
        return now()

    assert testing.bubble(body) == 2


def test_bubble_member_cancelled_from_outside() -> None:
    def body() -> None:
        started.send(current())
        with pytest.raises(Cancelled):
            outside.recv()
        sleep(1)

    started, outside = Chan(1), Chan()
    g = go(testing.bubble, body)
    member = started.recv()
    until(lambda: member.state == "waiting")
    in_thread(member.cancel)
    g.join()


def test_bubble_goroutine_can_be_joined_from_outside() -> None:
    handles: Chan[Goroutine[str]] = Chan(1)

    def body() -> None:
        g = go(lambda: sleep(5) or "result")
        handles.send(g)
        outside.recv()
        g.join()

    outside = Chan()
    g = go(testing.bubble, body)
    member = handles.recv()
    assert not member.done()
    outside.send(None)
    assert member.join() == "result"
    g.join()


def test_bubble_join_of_a_goroutine_from_outside_is_not_durable() -> None:
    gate = Chan()
    other = go(gate.recv)

    def body() -> None:
        sleeper = go(sleep, 1)
        other.join()
        assert not sleeper.done()
        sleeper.join()

    g = go(testing.bubble, body)
    until(lambda: any(i.wait_reason == "join" and i.bubble for i in goroutines()))
    gate.send(None)
    g.join()


def test_bubble_fork_child_is_in_none() -> None:
    done = run(
        """
        import os, runtime
        from runtime import Chan, go, sleep, testing
        from runtime.time import now
        def body():
            ch = Chan(1)
            go(sleep, 5)
            sleep(1)
            pid = os.fork()
            if pid == 0:
                assert now() > 10
                ch.send("child")
                assert ch.recv() == "child"
                sleep(0.001)
                g = go(sleep, 0.001)
                g.join()
                assert testing.bubble(sleep, 1000) is None
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            sleep(10)
        testing.bubble(body)
        print("done")
        """
    )
    assert done.stdout == "done\n", done.stderr


def test_bubble_global_deadlock_ends_it() -> None:
    done = run(
        """
        import runtime
        from runtime import Chan, DeadlockError, testing
        def body(outside):
            try:
                outside.recv()
            finally:
                print("cleaned up")
        try:
            testing.bubble(body, Chan())
        except DeadlockError:
            print("deadlock")
        """
    )
    assert done.stdout.split() == ["cleaned", "up", "deadlock"], done.stderr
    assert "all goroutines are asleep" in done.stderr
