"""Timers and tickers.  Deadlines are now or so far away that they never come, but for those of
tests that wait for one to come.
"""

import contextlib
import contextvars
import gc
import math
import random
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import runtime
from programs import run
from runtime import (
    Cancelled,
    Chan,
    WaitGroup,
    current,
    go,
    gosched,
    recv,
    select,
    sleep,
)
from runtime.time import Ticker, Timer, after, after_func, monotonic, now, since, tick
from waits import parked, settle, until

FAR = 3600.0
SOON = 0.001


def in_goroutine(fn: Callable[[], Any]) -> Any:
    return go(fn).join()


def in_thread(fn: Callable[[], Any]) -> Any:
    out: list[Any] = []

    def body() -> None:
        try:
            out.append((fn(), None))
        except BaseException as e:
            out.append((None, e))

    thread = threading.Thread(target=body)
    thread.start()
    until(lambda: not thread.is_alive())
    value, error = out[0]
    if error is not None:
        raise error
    return value


def in_goroutine_of_a_thread(fn: Callable[[], Any]) -> Any:
    return in_thread(lambda: go(fn).join())


PLACES = [in_goroutine, in_thread, in_goroutine_of_a_thread]
everywhere = pytest.mark.parametrize("place", [lambda fn: fn(), *PLACES])


@pytest.fixture(params=[1, 4])
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    before = runtime.gomaxprocs(request.param)
    yield request.param
    runtime.gomaxprocs(before)


def pending() -> int:
    return sum(p["timers"] for p in runtime.stats()["ps"])


@pytest.fixture
def left_by_others() -> int:
    """Timers that are there already, of goroutines that earlier tests have left."""
    return pending()


# --- the clock ------------------------------------------------------------------------------


def test_now_never_goes_back() -> None:
    times = [now() for _ in range(1000)]
    assert times == sorted(times)
    assert monotonic is now


def test_since_is_the_time_that_has_passed() -> None:
    start = now()
    sleep(SOON)
    before = now()
    assert SOON <= before - start <= since(start) <= now() - start


# --- after ----------------------------------------------------------------------------------


@everywhere
def test_after_gives_the_time_once(place: Any) -> None:
    def body() -> None:
        start = now()
        ch = after(SOON)
        t = ch.recv()
        assert start + SOON <= t + 1e-9
        assert t <= now()
        with pytest.raises(TimeoutError):
            ch.recv(0)

    place(body)


@pytest.mark.parametrize("seconds", [0, -1, -math.inf, 0.0, -5e-324])
def test_after_no_time_is_due_at_once(seconds: float) -> None:
    t = now()
    value, ok = after(seconds).try_recv()
    assert ok
    assert value is not None
    assert t - 1e-6 <= value <= now()


@pytest.mark.parametrize("seconds", [1e9, 9e9, 1e300, math.inf])
def test_after_for_ever_does_not_overflow(seconds: float) -> None:
    ch = after(seconds)
    assert ch.try_recv() == (None, False)
    with pytest.raises(TimeoutError):
        ch.recv(SOON)
    timer = Timer(seconds)
    assert timer.stop()
    assert not timer.stop()


def test_after_channel_looks_unbuffered() -> None:
    ch = after(0)
    assert (len(ch), ch.capacity, ch.closed) == (0, 0, False)
    assert ch.try_recv()[1]
    assert (len(ch), ch.capacity, ch.closed) == (0, 0, False)
    assert not hasattr(ch, "send")
    assert not hasattr(ch, "close")


def test_after_several_come_in_order_of_their_times() -> None:
    seen: Any = Chan(16)
    delays = [0.005, 0.001, 0.009, 0.003, 0.007]

    def wait(d: float) -> None:
        time = after(d).recv()
        seen.send((time, d))

    for d in delays:
        go(wait, d)
    got = [seen.recv() for _ in delays]
    if runtime.gomaxprocs() == 1:
        times = [time for time, _ in got]
        assert times == sorted(times)
    assert sorted(d for _, d in got) == sorted(delays)


def test_after_one_of_several_receivers_gets_the_time() -> None:
    ch = after(SOON)
    out: Any = Chan(8)
    gs = [go(lambda: out.send(ch.recv())) for _ in range(4)]
    out.recv()
    others = [g for g in gs if not g.done()]
    until(lambda: sum(g.done() for g in gs) == 1)
    for g in others:
        g.cancel()
    assert out.try_recv() == (None, False)


def test_timer_receiver_is_cancelled_leaves_the_time_for_others() -> None:
    timer = Timer(FAR)
    g = parked(go(timer.c.recv))
    g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    timer.reset(SOON)
    assert timer.c.recv() <= now()


def test_timer_receive_times_out_leaves_the_time_for_others() -> None:
    timer = Timer(FAR)
    with pytest.raises(TimeoutError):
        timer.c.recv(0.0001)
    timer.reset(SOON)
    assert timer.c.recv() <= now()


def test_after_in_iteration_gives_one_value() -> None:
    ch = after(0)
    it = iter(ch)
    assert next(it) <= now()


# --- select ---------------------------------------------------------------------------------


@everywhere
def test_select_ends_with_the_first_that_is_due(place: Any, left_by_others: int) -> None:
    def body() -> None:
        start = now()
        i, t, ok = select(recv(Chan()), recv(after(FAR)), recv(after(SOON)), recv(tick(FAR)))
        assert (i, ok) == (2, True)
        assert start + SOON <= t + 1e-9
        assert t <= now()
        assert select(recv(after(FAR)), recv(after(0))).index == 1
        assert select(recv(after(FAR)), default=True) == (-1, None, False)
        assert select(recv(after(0)), default=True).index == 0

    place(body)
    assert pending() <= left_by_others


def test_select_value_comes_before_the_time_is_up(left_by_others: int) -> None:
    ch: Any = Chan()
    g = go(lambda: [select(recv(ch), recv(after(FAR))).value for _ in range(100)])
    for i in range(100):
        ch.send(i)
    assert g.join() == list(range(100))
    assert pending() <= left_by_others


@everywhere
def test_select_is_woken_by_reset(place: Any) -> None:
    timer, ticker = Timer(FAR), Ticker(FAR)
    g = go(lambda: [select(recv(timer.c), recv(ticker.c)).index for _ in range(2)])
    parked(g)
    place(lambda: timer.reset(0))
    parked(g)
    place(lambda: ticker.reset(1e-6))
    assert g.join() == [0, 1]


def test_select_same_timer_in_several_cases_and_selects() -> None:
    timer = Timer(SOON)
    out: Any = Chan(8)
    gs = [go(lambda: out.send(select(recv(timer.c), recv(timer.c), timeout=60))) for _ in range(3)]
    out.recv()
    timer.reset(0)
    out.recv()
    timer.reset(0)
    out.recv()
    for g in gs:
        g.join()
    assert timer.c.try_recv() == (None, False)


# --- Timer ----------------------------------------------------------------------------------


@everywhere
def test_timer_expires_once(place: Any) -> None:
    def body() -> None:
        start = now()
        timer = Timer(SOON)
        assert timer.c.recv() + 1e-9 >= start + SOON
        assert not timer.stop()
        assert timer.c.try_recv() == (None, False)

    place(body)


def test_timer_has_one_channel() -> None:
    timer = Timer(FAR)
    assert timer.c == timer.c
    assert timer.stop()


def test_timer_stopped_in_time_gives_nothing() -> None:
    timer = Timer(0)
    assert timer.stop()
    assert timer.c.try_recv() == (None, False)
    assert not timer.stop()


@pytest.mark.parametrize("asked", [False, True])
def test_timer_stopped_after_it_expired_and_before_it_was_received(asked: bool) -> None:
    timer = Timer(0)
    ch = timer.c if asked else None
    assert timer.stop()
    ch = ch or timer.c
    assert ch.try_recv() == (None, False)
    assert len(ch) == 0


def test_timer_reset_leaves_nothing_stale() -> None:
    timer = Timer(0)
    ch = timer.c
    assert timer.reset(FAR)
    assert ch.try_recv() == (None, False)
    assert timer.reset(0)
    assert ch.try_recv()[1]
    assert not timer.reset(0)
    assert ch.try_recv()[1]
    assert ch.try_recv() == (None, False)
    assert not timer.stop()


@everywhere
def test_timer_reset_wakes_who_waits_already(place: Any) -> None:
    timer = Timer(FAR)
    g = go(timer.c.recv)
    parked(g)
    assert place(lambda: timer.reset(0.0001))
    assert g.join() <= now()


@everywhere
def test_timer_stopped_while_one_waits_can_be_reset(place: Any) -> None:
    timer = Timer(FAR)
    g = go(timer.c.recv)
    parked(g)
    assert place(timer.stop)
    assert not g.done()
    assert not place(lambda: timer.reset(0))
    assert g.join() <= now()


def test_timer_reset_to_later_while_one_waits_does_not_come_early() -> None:
    while True:
        timer = Timer(0.002)
        g = go(timer.c.recv)
        until(lambda g=g: g.state in ("waiting", "dead"))
        start = now()
        if timer.reset(0.01):
            break
        g.join()  # it had come already
    assert g.join() + 1e-9 >= start + 0.01


def test_timer_thread_waits_and_goroutine_resets() -> None:
    timer = Timer(FAR)
    out: list[float] = []
    waits = threading.Event()

    def body() -> None:
        waits.set()
        out.append(timer.c.recv())

    thread = threading.Thread(target=body)
    thread.start()
    until(waits.is_set)
    timer.reset(0)
    until(lambda: not thread.is_alive())
    assert out[0] <= now()


def test_timer_main_thread_never_schedules_and_threads_get_theirs() -> None:
    """Their timers do not depend on an M that sits in a call."""
    timer = Timer(FAR)
    out: list[Any] = []

    def body() -> None:
        timer.reset(SOON)
        out.append(timer.c.recv())
        out.append(after(SOON).recv())
        done = threading.Event()
        after_func(SOON, done.set)
        assert done.wait(120)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert len(out) == 2


def test_timer_of_an_m_that_sits_in_a_call_is_run_by_another() -> None:
    done = threading.Event()
    timer = after_func(SOON, done.set)
    assert done.wait(120)  # blocks this thread, and with it the P of the timer
    assert not timer.stop()


def test_timer_busy_goroutine_makes_way() -> None:
    done: list[int] = []
    after_func(SOON, done.append, 1)
    while not done:
        pass


# --- after_func -----------------------------------------------------------------------------


@everywhere
def test_after_func_calls_it_in_a_goroutine_of_its_own(place: Any) -> None:
    out: Any = Chan(1)

    def body(*args: int) -> None:
        out.send((args, current()))

    def start() -> Any:
        after_func(SOON, body, 1, 2, 3, 4, 5)
        return current()

    starter = place(start)
    args, g = out.recv()
    assert args == (1, 2, 3, 4, 5)
    assert g is not starter
    assert g.spawned_at[2].endswith("start")


@everywhere
def test_after_func_stopped_in_time_is_not_called(place: Any) -> None:
    called: list[int] = []
    timer = place(lambda: after_func(FAR, called.append, 1))
    assert place(timer.stop)
    assert not place(timer.stop)
    assert called == []


def test_after_func_stopped_too_late_has_begun() -> None:
    begun: Any = Chan()
    timer = after_func(0, begun.send, 1)
    begun.recv()
    assert not timer.stop()


def test_after_func_reset_calls_it_again() -> None:
    out: Any = Chan(4)
    timer = after_func(0, out.send, 1)
    out.recv()
    assert not timer.reset(0)
    out.recv()
    assert not timer.reset(FAR)
    assert timer.reset(FAR)
    assert timer.reset(0)
    out.recv()
    assert not timer.stop()
    assert out.try_recv() == (None, False)


def test_after_func_reset_to_later_while_pending_is_called_once() -> None:
    while True:
        out: Any = Chan(4)
        start = now()
        timer = after_func(0.001, lambda out=out: out.send(now()))
        if timer.reset(0.005):
            break
        timer.stop()  # it had been called already
    assert out.recv() + 1e-9 >= start + 0.005
    sleep(0.002)
    assert out.try_recv() == (None, False)


def test_after_func_may_restart_itself() -> None:
    out: Any = Chan()
    n = 0

    def again() -> None:
        nonlocal n
        n += 1
        if n < 100:
            timer.reset(0)
        else:
            out.send(n)

    timer = after_func(0, again)
    assert out.recv() == 100


def test_after_func_that_restarts_itself_does_not_starve_others() -> None:
    stop: list[int] = []

    def again() -> None:
        if not stop:
            timer.reset(0)

    timer = after_func(0, again)
    for _ in range(100):
        gosched()
        after(0.00001).recv()
    stop.append(1)
    timer.stop()


def test_after_func_may_block() -> None:
    ch: Any = Chan()
    out: Any = Chan()
    after_func(0, lambda: out.send(ch.recv()))
    ch.send(7)
    assert out.recv() == 7


def test_after_func_equal_times_begin_in_order() -> None:
    out: list[int] = []
    wg: Any = WaitGroup()
    before = runtime.gomaxprocs(1)

    def one(i: int) -> None:
        out.append(i)
        wg.done()

    try:
        wg.add(50)
        for i in range(50):
            after_func(0, one, i)
        wg.wait()
        assert out == list(range(50))
    finally:
        runtime.gomaxprocs(before)


def test_after_func_runs_in_a_copy_of_the_callers_context() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")
    out: Any = Chan()

    def body() -> None:
        before = var.get()
        var.set("of the function")
        out.send(before)

    def start() -> Any:
        var.set("of the caller")
        timer = after_func(0, body)
        var.set("of the caller, later")
        return timer

    timer = go(start).join()
    assert out.recv() == "of the caller"
    timer.reset(0)
    assert out.recv() == "of the caller"
    assert var.get() == "none"


def test_after_func_failure_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: Any = Chan(1)
    monkeypatch.setattr(runtime, "excepthook", lambda g, e: reported.send((g.spawned_at[2], e)))
    after_func(0, lambda: 1 / 0)
    where, error = reported.recv()
    assert isinstance(error, ZeroDivisionError)
    assert where.endswith("failure_is_reported")


def test_after_func_without_a_reference_is_called() -> None:
    out: Any = Chan()
    after_func(SOON, out.send, 1)
    gc.collect()
    assert out.recv() == 1


def test_after_func_has_no_channel() -> None:
    timer = after_func(FAR, print)
    with pytest.raises(AttributeError, match="after_func"):
        _ = timer.c
    assert not hasattr(timer, "c")
    timer.stop()


def test_after_func_lets_go_of_what_it_refers_to() -> None:
    class Thing:
        pass

    def make() -> tuple[Any, Any]:
        thing = Thing()
        timer = after_func(FAR, lambda t: None, thing)
        return timer, weakref.ref(thing)

    timer, ref = make()
    assert ref() is not None
    timer.stop()
    assert ref() is not None  # it may be reset
    wr = weakref.ref(timer)
    del timer
    gc.collect()
    assert wr() is None
    assert ref() is None


class Owner:
    """It refers to a timer that refers to it."""

    def __init__(self, seconds: float) -> None:
        self.called: Any = Chan(2)
        self.timer = after_func(seconds, self.call)

    def call(self) -> None:
        self.called.send(1)


def test_after_func_cycle_is_collected_once_it_is_stopped() -> None:
    owner = Owner(FAR)
    timer, ref = owner.timer, weakref.ref(owner)
    del owner
    gc.collect()
    assert ref() is not None  # it will be called
    timer.stop()
    timer.reset(FAR)
    gc.collect()
    assert ref() is not None
    timer.stop()
    del timer
    gc.collect()
    assert ref() is None


def test_after_func_cycle_is_collected_once_it_was_called() -> None:
    owner = Owner(SOON)
    ref = weakref.ref(owner)
    called = owner.called
    del owner
    gc.collect()
    called.recv()
    until(lambda: gc.collect() is not None and ref() is None)


# --- Ticker ---------------------------------------------------------------------------------


@everywhere
def test_ticker_ticks_on_its_grid(place: Any) -> None:
    def body() -> None:
        start = now()
        ticker = Ticker(SOON)
        made = now()
        ticks = [ticker.c.recv() for _ in range(5)]
        ticker.stop()
        for i, t in enumerate(ticks):
            k = round((t - ticks[0]) / SOON)
            assert t - ticks[0] == pytest.approx(k * SOON, abs=1e-7)
            assert k >= i
        assert start + SOON - 1e-7 <= ticks[0] <= made + SOON + 1e-7

    place(body)


def on_grid(t: float, period: float) -> bool:
    return t / period == pytest.approx(round(t / period), abs=1e-3)


def test_ticker_slow_receiver_gets_one_tick_and_stays_on_the_grid() -> None:
    ticker = Ticker(SOON)
    first = ticker.c.recv()
    sleep(0.0105)
    asleep = now()
    late, ok = ticker.c.try_recv()
    assert ok
    assert late is not None
    assert late < asleep  # of all it has missed the first
    assert on_grid(late - first, SOON)
    next_ = ticker.c.recv()
    assert next_ >= asleep
    assert on_grid(next_ - first, SOON)


def test_ticker_stopped_gives_nothing_until_reset() -> None:
    ticker = Ticker(1e-9)
    ticker.stop()
    assert ticker.c.try_recv() == (None, False)
    ticker.stop()
    ticker.reset(1e-9)
    assert ticker.c.recv() <= now()
    ticker.reset(FAR)
    assert ticker.c.try_recv() == (None, False)


def test_ticker_reset_begins_anew() -> None:
    ticker = Ticker(FAR)
    g = go(lambda: [ticker.c.recv() for _ in range(3)])
    parked(g)
    start = now()
    ticker.reset(0.002)
    ticks = g.join()
    assert ticks[0] + 1e-9 >= start + 0.002
    ticker.stop()


def test_ticker_iteration_ends_when_it_is_stopped() -> None:
    with Ticker(SOON) as ticker:
        ticks = []
        for t in ticker:
            ticks.append(t)
            if len(ticks) == 3:
                ticker.stop()
    assert len(ticks) == 3
    assert list(ticker) == []


@everywhere
def test_ticker_stop_ends_iterations_and_leaves_receivers(place: Any) -> None:
    ticker = Ticker(FAR)
    iterate = [go(lambda: list(ticker)) for _ in range(3)]
    receive = go(ticker.c.recv)
    for g in [*iterate, receive]:
        parked(g)
    place(ticker.stop)
    assert [g.join() for g in iterate] == [[], [], []]
    assert not receive.done()
    ticker.reset(SOON)
    assert receive.join() <= now()


def test_ticker_thread_iterates() -> None:
    ticker = Ticker(SOON)
    seen: list[float] = []

    def body() -> None:
        for t in ticker:
            seen.append(t)
            if len(seen) == 3:
                ticker.stop()

    thread = threading.Thread(target=body)
    thread.start()
    until(lambda: not thread.is_alive())
    assert len(seen) == 3


def test_ticker_iteration_is_cancelled() -> None:
    ticker = Ticker(FAR)
    g = go(lambda: list(ticker))
    parked(g)
    g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    ticker.reset(1e-9)
    assert next(ticker) <= now()


def test_ticker_context_manager_stops_it() -> None:
    with Ticker(1e-9) as ticker:
        assert next(ticker) <= now()
    assert ticker.c.try_recv() == (None, False)


def test_tick_gives_a_tickers_channel() -> None:
    ch = tick(SOON)
    a, b = ch.recv(), ch.recv()
    assert on_grid(b - a, SOON)


# --- garbage --------------------------------------------------------------------------------


def blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.parametrize("make", [Timer, Ticker])
def test_timer_that_nobody_refers_to_is_gone(make: Any) -> None:
    thing = make(FAR)
    with pytest.raises(TimeoutError):
        thing.c.recv(SOON)
    ref = weakref.ref(thing)
    del thing
    assert ref() is None


@pytest.mark.parametrize("make", [after, tick, lambda s: Timer(s).c, lambda s: Ticker(s).c, Timer])
def test_channel_that_nobody_refers_to_is_gone(make: Any) -> None:
    def body() -> None:
        for _ in range(200):
            thing = make(FAR)
            assert select(recv(getattr(thing, "c", thing)), default=True).index == -1
            with pytest.raises(TimeoutError):
                getattr(thing, "c", thing).recv(1e-6)

    body()
    before = blocks()
    body()
    assert blocks() - before < 150


def test_timer_nobody_waits_for_is_in_no_heap() -> None:
    settle()  # what others have left waits
    before = pending()
    keep: list[Any] = [after(FAR), Timer(FAR), Ticker(FAR)]
    for c in (keep[0], keep[1].c, keep[2].c):
        with pytest.raises(TimeoutError):
            c.recv(0.0001)
    assert pending() <= before
    functions = [after_func(FAR, print) for _ in range(before + 5)]
    assert pending() >= before + 5
    for f in functions:
        f.stop()
    assert pending() <= before


def test_timer_channel_outlives_its_timer() -> None:
    assert Timer(SOON).c.recv() <= now()
    c = Ticker(SOON).c
    gc.collect()
    assert c.recv() < c.recv()


# --- misuse ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Ticker, tick])
@pytest.mark.parametrize("seconds", [0, -1, 0.0, -math.inf, math.nan])
def test_ticker_period_must_be_more_than_0(make: Any, seconds: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        make(seconds)


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_ticker_reset_period_must_be_more_than_0(seconds: float) -> None:
    ticker = Ticker(FAR)
    with pytest.raises(ValueError, match=r"Ticker.reset.*more than 0"):
        ticker.reset(seconds)


CALLS: dict[str, Callable[[Any], Any]] = {
    "after": after,
    "Timer": Timer,
    "Timer.reset": lambda s: Timer(FAR).reset(s),
    "after_func": lambda s: after_func(s, print),
    "Ticker": Ticker,
    "tick": tick,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("bad", [None, "1", [], object()])
def test_seconds_must_be_a_number(name: str, bad: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(.*seconds must be a number, not"):
        CALLS[name](bad)


@pytest.mark.parametrize("name", ["after", "Timer", "Timer.reset", "after_func"])
def test_seconds_must_not_be_nan(name: str) -> None:
    with pytest.raises(ValueError, match="a number"):
        CALLS[name](math.nan)


def test_wrong_arguments_are_told() -> None:
    wrong: list[Callable[[], Any]] = [
        after,  # type: ignore[list-item]
        lambda: after(1, 2),  # type: ignore[call-arg]
        tick,  # type: ignore[list-item]
        Timer,  # type: ignore[list-item]
        lambda: Timer(1).reset(),  # type: ignore[call-arg]
        lambda: Ticker(1).reset(),  # type: ignore[call-arg]
        lambda: after_func(1),  # type: ignore[call-arg]
        lambda: after_func(1, print()),  # type: ignore[func-returns-value, arg-type]
        lambda: since("x"),  # type: ignore[arg-type]
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()


def test_timers_say_what_they_are() -> None:
    timer = Timer(FAR)
    assert repr(timer).startswith("<Timer pending")
    _ = timer.c
    assert repr(timer).startswith("<Timer pending")
    timer.stop()
    assert repr(timer).startswith("<Timer stopped")
    f = after_func(FAR, print)
    assert repr(f) == f"<Timer pending of {print!r}>"
    f.stop()
    assert repr(f) == f"<Timer stopped of {print!r}>"
    ticker = Ticker(FAR)
    assert repr(ticker).startswith("<Ticker running")
    ticker.stop()
    assert repr(ticker).startswith("<Ticker stopped")


# --- deadlocks ------------------------------------------------------------------------------


def test_deadlock_pending_function_is_none() -> None:
    done = run(
        """
        import threading
        from runtime import Chan, DeadlockError, go
        from runtime.time import Timer, after, after_func

        ch = Chan()
        after_func(0.05, ch.send, 1)
        assert ch.recv() == 1
        thread = threading.Thread(target=lambda: after_func(0.05, ch.send, 2))
        thread.start()
        thread.join()
        assert ch.recv() == 2
        after(0.05).recv()
        go(lambda: after(0.05).recv()).join()
        keep = Timer(3600)  # nobody waits for it
        try:
            ch.recv()
        except DeadlockError:
            print("deadlock")
        stopped = Timer(3600)
        stopped.stop()
        try:
            stopped.c.recv()
        except DeadlockError:
            print("deadlock")
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "deadlock\ndeadlock\n"


# --- exit and fork --------------------------------------------------------------------------


@pytest.mark.parametrize("procs", ["1", "4"])
def test_exit_with_pending_timers_is_silent(procs: str) -> None:
    done = run(
        """
        import threading
        from runtime import go, sleep
        from runtime.time import Ticker, Timer, after, after_func

        def start():
            keep.extend([Timer(3600), Ticker(3600), after(3600)])
            keep.extend([after_func(s, print, "late") for s in (3600, 3600, 30)])
            go(keep[0].c.recv)
            go(list, keep[1])

        keep = []
        start()
        go(start).join()
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        threading.Thread(target=keep[0].c.recv, daemon=True).start()
        sleep(0.001)
        """,
        "-X",
        "dev",
        GOMAXPROCS=procs,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FORK = """
import os, signal, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import runtime
from runtime import Chan, go, sleep
from runtime.time import Ticker, Timer, after, after_func, now

out = Chan(64)
waited, timer, ticker, far = Timer(3600), Timer(0.01), Ticker(0.001), Timer(3600)
functions = [after_func(3600, out.send, 1)]
go(waited.c.recv)
go(ticker.c.recv)
thread = threading.Thread(target=lambda: functions.append(after_func(3600, out.send, 1)))
thread.start()
thread.join()
sleep(0.0001)

def body():
    functions.extend(after_func(0.4, out.send, 1) for _ in range(2))
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        # What was to be called is called in the parent only.
        assert [f.stop() for f in functions] == [False] * 4
        sleep(0.45)
        assert out.try_recv() == (None, False)
        functions[0].reset(0)
        assert out.recv() == 1
        # Channels go on as they are.
        assert timer.c.recv() <= now()
        a, b = ticker.c.recv(), ticker.c.recv()
        assert a < b
        assert far.stop() and not far.reset(0) and far.c.recv() <= now()
        assert waited.reset(0)
        assert waited.c.recv() <= now()
        after_func(0, out.send, 2)
        assert out.recv() == 2
        got = []
        t = threading.Thread(target=lambda: got.append(after(0.001).recv()))
        t.start()
        while t.is_alive():
            sleep(0.001)
        assert len(got) == 1
        os.write(1, b"child\\n")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert functions[0].stop()
    assert functions[1].stop()
    assert out.recv() == out.recv() == 1
    assert out.try_recv() == (None, False)

BODY
os.write(1, b"parent\\n")
"""


@pytest.mark.parametrize(
    "where",
    [
        "body()",
        "go(body).join()",
        "threading.Thread(target=lambda: out2.send(go(body).join())).start(); out2.recv(60)",
        "t = threading.Thread(target=body); t.start(); t.join()",
    ],
)
@pytest.mark.parametrize("procs", ["1", "2"])
def test_fork_channels_go_on_and_functions_are_the_parents(where: str, procs: str) -> None:
    source = textwrap.dedent(FORK).replace("BODY", f"out2 = Chan()\n{where}")
    done = run(source, GOMAXPROCS=procs)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "child\nparent\n"
    assert done.stderr == ""


# --- models ---------------------------------------------------------------------------------

TIMERS = 3
times = st.sampled_from([0.0, FAR])


class TimerMachine(RuleBasedStateMachine):
    """Timers whose time is now or never, beside what is known of them."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[Timer] = []
        self.state: list[str] = []  # "due", "far", "stopped"
        self.channels: dict[int, Any] = {}
        self.waiting: dict[int, Any] = {}  # a receiver that waits

    @initialize(first=st.lists(times, min_size=TIMERS, max_size=TIMERS))
    def make(self, first: list[float]) -> None:
        self.timers = [Timer(s) for s in first]
        self.state = ["due" if s == 0 else "far" for s in first]

    def set(self, i: int, state: str) -> None:
        self.state[i] = state
        if state == "due" and i in self.waiting:
            assert self.waiting.pop(i).join(60) <= now()
            self.state[i] = "stopped"

    def elsewhere(self, where: int, fn: Callable[[], Any]) -> Any:
        return fn() if where == 0 else PLACES[where - 1](fn)

    indices = st.integers(0, TIMERS - 1)
    wheres = st.sampled_from([0, 0, 0, 0, 1, 2, 3])

    @rule(i=indices, where=wheres)
    def stop(self, i: int, where: int) -> None:
        assert self.elsewhere(where, self.timers[i].stop) == (self.state[i] != "stopped")
        self.set(i, "stopped")

    @rule(i=indices, seconds=times, where=wheres)
    def reset(self, i: int, seconds: float, where: int) -> None:
        timer = self.timers[i]
        pending = self.elsewhere(where, lambda: timer.reset(seconds))
        assert pending == (self.state[i] != "stopped")
        self.set(i, "due" if seconds == 0 else "far")

    @rule(i=indices)
    def ask_for_channel(self, i: int) -> None:
        self.channels[i] = self.timers[i].c

    @rule(i=indices)
    def forget_channel(self, i: int) -> None:
        self.channels.pop(i, None)

    @rule(i=indices, where=wheres, timeout=st.sampled_from([None, 0.0]))
    def receive(self, i: int, where: int, timeout: float | None) -> None:
        c = self.timers[i].c
        if self.state[i] == "due":
            if timeout is None:
                assert self.elsewhere(where, c.try_recv)[1]
            else:
                assert self.elsewhere(where, c.recv) <= now()
            self.state[i] = "stopped"
        elif timeout is None:
            assert self.elsewhere(where, c.try_recv) == (None, False)
        else:
            with pytest.raises(TimeoutError):
                self.elsewhere(where, lambda: c.recv(timeout))

    @rule(i=indices)
    def wait(self, i: int) -> None:
        if self.state[i] != "due" and i not in self.waiting:
            self.waiting[i] = parked(go(self.timers[i].c.recv))

    @rule(i=indices)
    def cancel(self, i: int) -> None:
        if i in self.waiting:
            g = self.waiting.pop(i)
            g.cancel()
            with pytest.raises(Cancelled):
                g.join()

    @invariant()
    def channels_look_empty(self) -> None:
        assert all(len(c) == 0 for c in self.channels.values())

    @invariant()
    def who_waits_waits(self) -> None:
        assert all(not g.done() for g in self.waiting.values())

    def teardown(self) -> None:
        for g in self.waiting.values():
            g.cancel()


@pytest.mark.usefixtures("procs")
def test_timer_random_operations_match_model() -> None:
    run_state_machine_as_test(
        TimerMachine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )


class FunctionMachine(RuleBasedStateMachine):
    """The same of after_func(): what is due is called when others may run."""

    indices = st.integers(0, TIMERS - 1)

    def __init__(self) -> None:
        super().__init__()
        self.calls: Any = Chan(1024)
        self.timers: list[Timer] = []
        self.state: list[str] = []

    @initialize(first=st.lists(times, min_size=TIMERS, max_size=TIMERS))
    def make(self, first: list[float]) -> None:
        self.timers = [after_func(s, self.calls.send, i) for i, s in enumerate(first)]
        self.state = ["due" if s == 0 else "far" for s in first]
        self.settle()

    def settle(self) -> None:
        due = [i for i, state in enumerate(self.state) if state == "due"]
        assert sorted(self.calls.recv(60) for _ in due) == due
        for i in due:
            self.state[i] = "stopped"

    @rule(i=indices)
    def stop(self, i: int) -> None:
        assert self.timers[i].stop() == (self.state[i] == "far")
        self.state[i] = "stopped"

    @rule(i=indices, seconds=times, again=times, twice=st.booleans())
    def reset(self, i: int, seconds: float, again: float, twice: bool) -> None:
        assert self.timers[i].reset(FAR) == (self.state[i] == "far")
        if twice:
            assert self.timers[i].reset(again + FAR)
        assert self.timers[i].reset(seconds)
        self.state[i] = "due" if seconds == 0 else "far"
        self.settle()

    @invariant()
    def nothing_else_is_called(self) -> None:
        assert self.calls.try_recv() == (None, False)

    def teardown(self) -> None:
        for timer in self.timers:
            timer.stop()


@pytest.mark.usefixtures("procs")
def test_after_func_random_operations_match_model() -> None:
    run_state_machine_as_test(
        FunctionMachine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )


# --- races ----------------------------------------------------------------------------------


class Tally:
    """What was started, and what was prevented, by one goroutine or thread."""

    def __init__(self) -> None:
        self.started = self.prevented = 0


def race(body: Callable[[random.Random, Tally], None], seed: int) -> Tally:
    """Several goroutines, on several Ps, and threads run body; the sum of their tallies."""
    tallies = [Tally() for _ in range(6)]

    def one(i: int) -> None:
        body(random.Random(seed * 100 + i), tallies[i])

    gs = [go(one, i) for i in range(4)]
    threads = [threading.Thread(target=one, args=(i,)) for i in (4, 5)]
    for t in threads:
        t.start()
    for g in gs:
        g.join()
    until(lambda: not any(t.is_alive() for t in threads))
    total = Tally()
    for tally in tallies:
        total.started += tally.started
        total.prevented += tally.prevented
    return total


@pytest.mark.parametrize("seed", range(6))
def test_after_func_stop_and_reset_races_call_it_once_or_prevent_it(seed: int, procs: int) -> None:
    calls: Any = Chan(100000)
    timers = [after_func(FAR, calls.send, 1) for _ in range(4)]

    def body(rnd: random.Random, tally: Tally) -> None:
        for _ in range(150):
            timer = rnd.choice(timers)
            if rnd.random() < 0.3:
                tally.prevented += timer.stop()
            else:
                tally.prevented += timer.reset(rnd.choice([0, 0, 1e-5, 1e-4, FAR]))
                tally.started += 1
            if rnd.random() < 0.2:
                sleep(rnd.choice([0, 1e-5, 1e-4]))

    total = race(body, seed)
    total.started += len(timers)
    total.prevented += sum(t.stop() for t in timers)
    for _ in range(total.started - total.prevented):
        calls.recv(60)
    sleep(SOON)
    assert calls.try_recv() == (None, False)


@pytest.mark.parametrize("seed", range(6))
def test_timer_stop_and_reset_races_give_the_value_once_or_prevent_it(
    seed: int, procs: int
) -> None:
    timers = [Timer(FAR) for _ in range(3)]
    values: Any = Chan(100000)
    quit_: list[int] = []

    def receive(c: Any) -> None:
        while not quit_:
            with contextlib.suppress(TimeoutError):
                values.send(c.recv(1e-3))

    def body(rnd: random.Random, tally: Tally) -> None:
        for _ in range(150):
            timer = rnd.choice(timers)
            what = rnd.random()
            if what < 0.3:
                tally.prevented += timer.stop()
            elif what < 0.8:
                tally.prevented += timer.reset(rnd.choice([0, 0, 1e-5, 1e-4, FAR]))
                tally.started += 1
            elif what < 0.9:
                value, ok = timer.c.try_recv()
                if ok:
                    values.send(value)
            else:
                sleep(rnd.choice([0, 1e-5, 1e-4]))

    receivers = [go(receive, t.c) for t in timers for _ in range(2)]
    threads = [threading.Thread(target=receive, args=(timers[0].c,))]
    threads[0].start()
    total = race(body, seed)
    total.started += len(timers)
    total.prevented += sum(t.stop() for t in timers)
    quit_.append(1)
    for g in receivers:
        g.join()
    until(lambda: not threads[0].is_alive())
    assert len(values) == total.started - total.prevented


@pytest.mark.parametrize("seed", range(4))
def test_ticker_stop_and_reset_races_lose_no_receiver(seed: int, procs: int) -> None:
    ticker = Ticker(1e-5)
    ticks: list[list[float]] = [[] for _ in range(4)]

    def receive(mine: list[float]) -> None:
        while len(mine) < 50:
            mine.append(ticker.c.recv())

    receivers = [go(receive, mine) for mine in ticks]
    rnd = random.Random(seed)
    while not all(g.done() for g in receivers):
        what = rnd.random()
        if what < 0.2:
            ticker.stop()
        elif what < 0.4:
            in_thread(lambda: ticker.reset(2e-5))
        sleep(rnd.choice([0, 1e-5]))
        ticker.reset(rnd.choice([1e-5, 1e-4]))
    for g in receivers:
        g.join()
    ticker.stop()
    assert all(mine == sorted(mine) for mine in ticks)
    everything = [t for mine in ticks for t in mine]
    assert len(set(everything)) == len(everything) == 200


def test_channels_dropped_while_they_fire_leave_nothing(procs: int, left_by_others: int) -> None:
    def body(rnd: random.Random, tally: Tally) -> None:
        for _ in range(100):
            ch = after(rnd.choice([1e-5, 2e-5, 5e-5]))
            with contextlib.suppress(TimeoutError):
                ch.recv(rnd.choice([0, 1e-5, 2e-5, 5e-5]))

    race(body, 0)
    before = blocks()
    race(body, 1)
    sleep(SOON)
    until(lambda: blocks() - before < 300)
    assert pending() <= left_by_others


# --- many -----------------------------------------------------------------------------------


def test_many_functions_are_stopped_or_called() -> None:
    n = 20000
    calls: Any = Chan(n)
    rnd = random.Random(1)
    before = pending()
    timers = [after_func(rnd.choice([0.01, FAR]), calls.send, 1) for _ in range(n)]
    stopped = sum(t.stop() for t in rnd.sample(timers, n // 2))
    far = sum(t.reset(FAR) for t in timers)
    assert stopped + far <= n
    assert sum(t.stop() for t in timers) == n
    late = n - stopped - far
    for _ in range(late):
        calls.recv(60)
    assert calls.try_recv() == (None, False)
    assert pending() <= before
