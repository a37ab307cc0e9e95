"""runtime.blocking and the pool of threads behind it."""

import contextvars
import gc
import os
import random
import textwrap
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from programs import run
from runtime import (
    Cancelled,
    Chan,
    Goroutine,
    _blocking,
    blocking,
    context,
    go,
    set_max_blocking,
    sleep,
)
from waits import Gate, parked, until


def end_of_idle_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the threads that are idle, and from now on all as soon as they are."""
    monkeypatch.setattr(_blocking, "IDLE_TIME", 0.001)
    while _blocking._wake():
        pass


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool without a thread."""
    end_of_idle_threads(monkeypatch)
    until(lambda: not _blocking._threads)
    monkeypatch.undo()


@pytest.fixture
def limit(no_threads: None) -> Iterator[Callable[[int], int]]:
    """set_max_blocking, taken back after the test; nobody waits before and afterwards."""
    assert not _blocking._queue
    before = set_max_blocking(512)
    yield set_max_blocking
    set_max_blocking(before)
    assert not _blocking._queue


# --- the call -----------------------------------------------------------------------------------


def test_blocking_returns_the_result() -> None:
    assert blocking(divmod, 7, 2) == (3, 1)
    assert blocking(dict, a=1, b=2) == {"a": 1, "b": 2}
    assert blocking(lambda *args, **kwargs: (args, kwargs), 1, x=2) == ((1,), {"x": 2})
    assert blocking(dict, fn=1, self=2, call=3) == {"fn": 1, "self": 2, "call": 3}


@pytest.mark.parametrize(
    "exc", [ValueError("x"), StopIteration(1), SystemExit(3), KeyboardInterrupt(), Cancelled()]
)
def test_blocking_raises_what_the_call_raises(exc: BaseException) -> None:
    def fail() -> None:
        raise exc

    with pytest.raises(type(exc)) as caught:
        blocking(fail)
    assert caught.value is exc


def test_blocking_error_shows_both_sides() -> None:
    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        blocking(fail)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_blocking_error_shows_both_sides", "blocking", "fail"]


def test_blocking_runs_on_a_daemon_thread_of_the_pool() -> None:
    thread = blocking(threading.current_thread)
    assert thread is not threading.current_thread()
    assert thread.name.startswith("gosched-blocking-")
    assert thread.daemon
    assert thread.native_id != threading.get_native_id()


def test_blocking_lets_other_goroutines_run() -> None:
    gate = Gate("done")
    g = go(blocking, gate)
    until(gate.begun.is_set)
    assert go(lambda: "runs").join() == "runs"
    assert not g.done()
    gate.open()
    assert g.join() == "done"


def test_blocking_many_at_once(limit: Callable[[int], int]) -> None:
    together = threading.Barrier(100)
    gs = [go(blocking, together.wait, 120) for _ in range(100)]
    assert {g.join() for g in gs} == set(range(100))


def test_blocking_needs_a_callable() -> None:
    with pytest.raises(TypeError, match=r"write blocking\(f, x\)"):
        blocking(len("x"))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        blocking()  # type: ignore[call-arg]


@pytest.mark.parametrize("timeout", ["1", float("nan"), object()])
def test_blocking_bad_timeout_does_not_begin(timeout: Any) -> None:
    ran: list[int] = []
    with pytest.raises((TypeError, ValueError)):
        blocking(ran.append, 1, timeout=timeout)
    blocking(len, "")
    assert not ran


def test_blocking_wrong_arguments_raise_in_the_caller() -> None:
    with pytest.raises(TypeError, match="positional"):
        blocking(lambda: None, 1)


var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


def test_blocking_sees_the_callers_context() -> None:
    def change() -> str:
        seen = var.get()
        var.set("changed")
        return seen

    def body() -> tuple[str, str]:
        var.set("caller")
        return blocking(change), var.get()

    assert go(body).join() == ("caller", "caller")
    assert blocking(var.get) == "unset"


class Thing:
    pass


def test_blocking_keeps_nothing() -> None:
    refs: list[weakref.ref[Thing]] = []

    def new() -> Thing:
        thing = Thing()
        refs.append(weakref.ref(thing))
        return thing

    def call() -> None:
        argument = new()
        var.set(new())  # type: ignore[arg-type]

        def fail(*args: Any) -> None:
            local = new()  # noqa: F841
            raise ValueError(new())

        blocking(lambda x: new(), argument)
        try:
            blocking(fail, argument)
        except ValueError:
            pass

    gc.disable()
    try:
        go(call).join()
        assert len(refs) == 5
        # Without the GIL what a thread has made goes when that thread next runs.
        until(lambda: blocking(len, "") or not any(ref() for ref in refs))
    finally:
        gc.enable()


# --- timeout and cancel -------------------------------------------------------------------------


def test_blocking_timeout_while_the_call_goes_on() -> None:
    gate = Gate("dropped")
    timeout = 0.001
    while not gate.begun.is_set():  # one that had not begun in time never will
        with pytest.raises(TimeoutError, match="blocking"):
            blocking(gate, timeout=timeout)
        timeout *= 2
    assert not gate.ended.is_set()
    gate.open()
    until(gate.ended.is_set)


@pytest.mark.parametrize("timeout", [0, -1, float("-inf"), 0.00001])
def test_blocking_no_time_at_all(timeout: float) -> None:
    gate = Gate()
    with pytest.raises(TimeoutError):
        blocking(gate, timeout=timeout)
    gate.open()
    assert not _blocking._queue


def test_blocking_in_time() -> None:
    assert blocking(len, "abc", timeout=1000) == 3
    assert blocking(len, "abc", timeout=float("inf")) == 3


def test_blocking_own_timeout_error_of_the_call() -> None:
    def fail() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        blocking(fail, timeout=1000)


def test_blocking_failure_after_the_timeout_is_silent() -> None:
    done = run(
        """
        import threading
        from runtime import *

        def fail():
            go_on.wait()
            raise ValueError

        go_on = threading.Event()
        for timeout in 0.001, 0:
            try:
                blocking(fail, timeout=timeout)
            except TimeoutError:
                print("timeout")
        g = go(blocking, fail)
        while g.state != "waiting":
            gosched()
        g.cancel()
        go_on.set()
        print(blocking(lambda: "next"))
        """,
        "-X",
        "dev",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "timeout\ntimeout\nnext\n", "")


def test_blocking_cancelled_caller_leaves_the_call_alone() -> None:
    gate = Gate()
    g = parked(go(blocking, gate))
    until(gate.begun.is_set)
    assert g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    assert not gate.ended.is_set()
    gate.open()
    until(gate.ended.is_set)


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_blocking_given_up_in_the_queue_never_runs(how: str, limit: Callable[[int], int]) -> None:
    limit(1)
    ran: list[str] = []
    gate = Gate()
    first = go(blocking, gate)
    until(gate.begun.is_set)
    if how == "timeout":
        given_up = [go(blocking, ran.append, "lost", timeout=0.001) for _ in range(3)]
        last = parked(go(blocking, ran.append, "last"))
    else:
        given_up = [parked(go(blocking, ran.append, "lost")) for _ in range(3)]
        last = parked(go(blocking, ran.append, "last"))
        for g in reversed(given_up):
            g.cancel()
    for g in given_up:
        with pytest.raises((TimeoutError, Cancelled)):
            g.join()
    assert len(_blocking._queue) == 1
    gate.open()
    first.join()
    last.join()
    assert ran == ["last"]


def test_blocking_ends_with_its_context_and_leaves_the_call_alone() -> None:
    ctx, cancel = context.with_cancel()
    gate = Gate()
    g = parked(go(blocking, gate, ctx=ctx))
    until(gate.begun.is_set)
    cancel()
    with pytest.raises(context.Canceled):
        g.join()
    assert not gate.ended.is_set()
    gate.open()
    until(gate.ended.is_set)
    ran: list[int] = []
    with pytest.raises(context.Canceled):
        blocking(ran.append, 1, ctx=ctx)
    assert not ran and not _blocking._queue


def test_blocking_deadline_of_its_context() -> None:
    gate = Gate()
    with context.with_timeout(None, 0.001) as ctx, pytest.raises(context.DeadlineExceeded):
        blocking(gate, timeout=1000, ctx=ctx)
    with context.with_timeout(None, 1000) as ctx:
        assert blocking(len, "abc", ctx=ctx) == 3
        with pytest.raises(TimeoutError, match="blocking"):
            blocking(gate, timeout=0, ctx=ctx)
        # Within the pool as well, where a call without limits would run right there.
        with pytest.raises(context.DeadlineExceeded):
            blocking(lambda: blocking(gate, ctx=context.with_timeout(ctx, 0.001).ctx))
    gate.open()


@pytest.mark.parametrize("ctx", [1, "ctx", object()])
def test_blocking_with_something_else_for_a_context_does_not_begin(ctx: Any) -> None:
    ran: list[int] = []
    with pytest.raises(TypeError, match="ctx must be a context or None"):
        blocking(ran.append, 1, ctx=ctx)
    assert not ran


# --- the pool -----------------------------------------------------------------------------------


def test_pool_uses_an_idle_thread_again(no_threads: None) -> None:
    first = blocking(threading.current_thread)
    for _ in range(10):
        until(_blocking.idle_threads)
        assert blocking(threading.current_thread) is first
    until(_blocking.idle_threads)
    assert _blocking.idle_threads() == len(_blocking._threads) == 1


def test_pool_uses_the_thread_that_was_busy_last(no_threads: None) -> None:
    gates = [Gate() for _ in range(5)]
    gs = [go(blocking, lambda gate: (gate(), threading.current_thread())[1], g) for g in gates]
    for gate in gates:
        until(gate.begun.is_set)
    for n, (gate, g) in enumerate(zip(gates, gs, strict=True)):
        gate.open()
        last = g.join()
        until(lambda n=n: _blocking.idle_threads() == n + 1)
    for _ in range(3):
        assert blocking(threading.current_thread) is last
        until(lambda: _blocking.idle_threads() == 5)


def test_pool_idle_threads_end(no_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocking, "IDLE_TIME", 0.001)
    together = threading.Barrier(10)
    for g in [go(blocking, together.wait, 120) for _ in range(10)]:
        g.join()
    until(lambda: not _blocking._threads)
    assert _blocking.idle_threads() == 0
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("gosched-blocking")])
    assert blocking(len, "abc") == 3


def test_pool_calls_racing_with_the_end_of_idle_threads(
    limit: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blocking, "IDLE_TIME", 0.00005)

    def caller(seed: int) -> int:
        rnd = random.Random(seed)
        for n in range(150):
            assert blocking(abs, -n) == n
            sleep(rnd.choice([0, 0.00003, 0.00005, 0.0001]))
        return seed

    limit(2)
    assert [g.join() for g in [go(caller, i) for i in range(6)]] == list(range(6))
    until(lambda: not _blocking._threads)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_pool_never_exceeds_the_limit(n: int, limit: Callable[[int], int]) -> None:
    limit(n)
    running = 0
    most = 0
    lock = threading.Lock()

    def work(i: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        os.sched_yield()
        with lock:
            running -= 1
        return i

    assert [g.join() for g in [go(blocking, work, i) for i in range(200)]] == list(range(200))
    assert 1 <= most <= n
    assert len(_blocking._threads) <= n


def test_pool_calls_beyond_the_limit_run_in_order(limit: Callable[[int], int]) -> None:
    limit(1)
    order: list[int] = []
    gate = Gate()
    gs = [go(blocking, gate)]
    until(gate.begun.is_set)
    gs += [parked(go(blocking, order.append, i)) for i in range(50)]
    gate.open()
    for g in gs:
        g.join()
    assert order == list(range(50))


def test_pool_raised_limit_starts_waiting_calls(limit: Callable[[int], int]) -> None:
    limit(1)
    gates = [Gate() for _ in range(6)]
    gs = [parked(go(blocking, gate)) for gate in gates]
    until(gates[0].begun.is_set)
    assert not any(gate.begun.is_set() for gate in gates[1:])
    limit(4)
    for gate in gates[:4]:
        until(gate.begun.is_set)
    assert not any(gate.begun.is_set() for gate in gates[4:])
    limit(100)
    for gate in gates:
        until(gate.begun.is_set)
        gate.open()
    for g in gs:
        g.join()
    assert len(_blocking._threads) == 6


def test_pool_lowered_limit_ends_threads_and_calls_go_on(limit: Callable[[int], int]) -> None:
    gates = [Gate(i) for i in range(6)]
    gs = [go(blocking, gate) for gate in gates]
    for gate in gates:
        until(gate.begun.is_set)
    for i in (0, 1):
        gates[i].open()
        gs[i].join()
    until(lambda: _blocking.idle_threads() == 2)
    limit(2)
    until(lambda: len(_blocking._threads) == 4)
    waiting = [parked(go(blocking, len, "abc")) for _ in range(3)]
    for i in (2, 3):
        gates[i].open()
        assert gs[i].join() == i
    until(lambda: len(_blocking._threads) == 2)
    gates[4].open()
    assert [g.join() for g in waiting] == [3, 3, 3]
    assert gs[4].join() == 4
    gates[5].open()
    assert gs[5].join() == 5


def test_set_max_blocking_returns_the_limit_until_now(limit: Callable[[int], int]) -> None:
    assert limit(3) == 512
    assert limit(True) == 3
    assert limit(10**9) == 1
    assert limit(512) == 10**9


@pytest.mark.parametrize("n", [0, -1, -(10**30)])
def test_set_max_blocking_less_than_one_is_refused(n: int, limit: Callable[[int], int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        limit(n)
    with pytest.raises(TypeError):
        limit(1.5)  # type: ignore[arg-type]
    assert limit(512) == 512


def test_pool_without_threads_that_cannot_start_one_raises(
    no_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as m:
        m.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            blocking(len, "abc")
        gs = [go(blocking, len, "abc") for _ in range(3)]
        for g in gs:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                g.join()
        assert not _blocking._threads
    assert blocking(len, "abc") == 3


def test_pool_that_cannot_start_another_thread_waits_for_those_it_has(
    no_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gate = Gate()
    first = go(blocking, gate)
    until(gate.begun.is_set)
    monkeypatch.setattr(threading.Thread, "start", start)
    gs = [parked(go(blocking, abs, -i)) for i in range(5)]
    gate.open()
    first.join()
    assert [g.join() for g in gs] == list(range(5))


def test_pool_start_that_fails_fails_the_calls_that_counted_on_it(
    limit: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(1)
    starting, fail = threading.Event(), threading.Event()
    errors: list[str] = []

    def start(self: threading.Thread) -> None:
        starting.set()
        fail.wait()
        raise RuntimeError("can't start new thread")

    def caller() -> None:
        try:
            blocking(len, "abc")
        except RuntimeError as e:
            errors.append(str(e))

    starter = threading.Thread(target=caller)
    real_start = threading.Thread.start
    with monkeypatch.context() as m:
        m.setattr(threading.Thread, "start", start)
        real_start(starter)
        until(starting.is_set)
        gs = [parked(go(caller)) for _ in range(3)]
        fail.set()
        for g in gs:
            g.join()
        starter.join()
    assert errors == ["runtime.blocking(): cannot start a thread: can't start new thread"] * 4


def test_pool_interrupted_start_fails_nobody_for_good(
    limit: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(1)

    def start(self: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            blocking(len, "abc")
    assert blocking(len, "abc") == 3


# --- who calls, and what the call does ----------------------------------------------------------


def test_blocking_from_a_plain_thread() -> None:
    results: Chan[Any] = Chan(2)
    gate = Gate()

    def body() -> None:
        results.send(blocking(threading.current_thread))
        try:
            blocking(gate, timeout=0.001)
        except TimeoutError as e:
            results.send(e)

    thread = threading.Thread(target=body)
    thread.start()
    assert results.recv().name.startswith("gosched-blocking-")
    assert isinstance(results.recv(), TimeoutError)
    gate.open()
    thread.join()


def test_blocking_from_a_goroutine_of_a_plain_thread() -> None:
    results: Chan[Any] = Chan(1)
    thread = threading.Thread(
        target=lambda: results.send(go(blocking, lambda: go(abs, -3).join()).join())
    )
    thread.start()
    assert results.recv() == 3
    thread.join()


def test_blocking_call_uses_the_runtime() -> None:
    ch: Chan[int] = Chan()
    doubled: Chan[int] = Chan()

    def call() -> int:
        g = go(lambda: doubled.recv() + 1)
        doubled.send(ch.recv() * 2)
        sleep(0.0001)
        return g.join()

    g = go(blocking, call)
    ch.send(20)
    assert g.join() == 41


def test_blocking_inside_blocking_needs_no_second_thread(limit: Callable[[int], int]) -> None:
    limit(1)

    def inner() -> tuple[threading.Thread, str]:
        seen = var.get()
        var.set("inner")
        return threading.current_thread(), seen

    def outer() -> Any:
        var.set("outer")
        return threading.current_thread(), blocking(inner), var.get()

    thread, (same, seen), after = blocking(outer)
    assert same is thread
    assert (seen, after) == ("outer", "outer")
    with pytest.raises(ZeroDivisionError):
        blocking(lambda: blocking(lambda: 1 / 0))
    with pytest.raises(TimeoutError):
        blocking(lambda: blocking(len, "", timeout=0.001))  # that one needs another thread


def test_blocking_in_a_finalizer() -> None:
    closed: list[int] = []

    class File:
        def __init__(self, n: int) -> None:
            self.n, self.itself = n, self

        def __del__(self) -> None:
            blocking(closed.append, self.n)

    def caller(i: int) -> None:
        for n in range(20):
            File(i * 20 + n)
            blocking(gc.collect)

    for g in [go(caller, i) for i in range(3)]:
        g.join()
    until(lambda: sorted(closed) == list(range(60)))


def test_blocking_deadlock_error_when_only_idle_threads_are_left() -> None:
    done = run(
        """
        import threading
        from runtime import *

        ch = Chan(1)
        go(lambda: ch.send(blocking(threading.Event().wait, 0.05)))
        print(ch.recv())
        try:
            ch.recv()
        except DeadlockError:
            print("deadlock")
        """
    )
    assert (done.returncode, done.stdout) == (0, "False\ndeadlock\n")
    assert done.stderr.startswith("fatal error: all goroutines are asleep - deadlock!\n")


# --- fork ---------------------------------------------------------------------------------------


FORKS = {
    "no thread yet": "",
    "idle threads": """
together = threading.Barrier(3)
for g in [go(blocking, together.wait) for _ in range(3)]:
    g.join()
""",
    "busy threads": """
for _ in range(3):
    go(blocking, time.sleep, 1000)
while len(_blocking._threads) < 3 or _blocking._queue:
    gosched()
""",
    "at the limit": """
set_max_blocking(1)
for _ in range(5):
    go(blocking, time.sleep, 1000)
while len(_blocking._queue) != 4:
    gosched()
""",
}


@pytest.mark.parametrize("situation", FORKS.values(), ids=FORKS.keys())
def test_fork_child_has_a_pool_of_its_own(situation: str) -> None:
    done = run(
        "import os, threading, time\n"
        "from runtime import *\n"
        "from runtime import _blocking\n"
        + situation
        + textwrap.dedent(
            """
            for _ in range(3):
                pid = os.fork()
                if pid == 0:
                    results = [g.join(60) for g in [go(blocking, abs, -n) for n in range(5)]]
                    try:
                        blocking(time.sleep, 1000, timeout=0.001)
                    except TimeoutError:
                        os._exit(sum(results))
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            set_max_blocking(100)
            print(blocking(abs, -5))
            """
        ),
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n10\n10\n5\n", "")


def test_fork_by_a_call() -> None:
    done = run(
        """
        import multiprocessing, os, subprocess, sys, time
        from runtime import *

        def fork():
            pid = os.fork()
            if pid == 0:
                os._exit(blocking(abs, -7))
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def fork_and_return():
            pid = os.fork()
            return pid and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def process():
            p = multiprocessing.get_context("fork").Process(
                target=lambda: print(blocking(abs, -8), flush=True)
            )
            p.start()
            p.join()
            return p.exitcode

        print([g.join() for g in [go(blocking, fork) for _ in range(5)]])
        print(blocking(process), flush=True)
        print(blocking(subprocess.run, [sys.executable, "-c", "exit(9)"]).returncode, flush=True)
        print(blocking(fork_and_return))
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[7, 7, 7, 7, 7]\n8\n0\n9\n0\n"


def test_fork_at_any_moment_of_a_busy_pool() -> None:
    done = run(
        """
        import os, random, threading
        from runtime import *
        from runtime import _blocking

        _blocking.IDLE_TIME = 0.0002
        set_max_blocking(5)
        ended = False

        def caller(seed):
            rnd = random.Random(seed)
            while not ended:
                try:
                    blocking(threading.Event().wait, rnd.choice([0, 0.0001]),
                             timeout=rnd.choice([None, 0.0001]))
                except TimeoutError:
                    pass

        callers = [go(caller, i) for i in range(10)]
        threads = [threading.Thread(target=caller, args=(i,)) for i in range(3)]
        for t in threads:
            t.start()
        for i in range(40):
            sleep(0.0003)
            pid = os.fork()
            if pid == 0:
                os._exit(sum(g.join(60) for g in [go(blocking, abs, -n) for n in range(8)]))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 28
        ended = True
        for g in callers:
            g.join()
        for t in threads:
            t.join()
        print("end")
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# --- the end of the program ---------------------------------------------------------------------


ENDS = {
    "blocked for ever": "for _ in range(20): go(blocking, os.read, r, 1)\nbusy(20)",
    "computing": "go(blocking, spin)\nbusy(1)",
    "waiting for a channel": "for _ in range(20): go(blocking, Chan().recv)\nbusy(20)",
    "waiting for their turn": """
set_max_blocking(1)
for _ in range(20): go(blocking, os.read, r, 1)
while len(_blocking._queue) != 19: gosched()
""",
    "idle": "for g in [go(blocking, together.wait) for _ in range(20)]: g.join()",
    "given up": "try: blocking(os.read, r, 1, timeout=0.001)\nexcept TimeoutError: pass",
}


@pytest.mark.parametrize("options", [[], ["-X", "dev"]], ids=["plain", "dev"])
@pytest.mark.parametrize("situation", ENDS.values(), ids=ENDS.keys())
def test_main_returns_and_the_program_ends(situation: str, options: list[str]) -> None:
    done = run(
        "import atexit, os, threading\n"
        "from runtime import *\n"
        "from runtime import _blocking\n"
        "atexit.register(print, 'atexit')\n"
        "r, w = os.pipe()\n"
        "together = threading.Barrier(20)\n"
        "def spin():\n"
        "    while True: pass\n"
        "def busy(n):\n"
        "    while len(_blocking._threads) < n or _blocking._queue: gosched()\n"
        f"{situation}\nprint('end')\n",
        *options,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\natexit\n", "")


def test_blocking_late_in_the_life_of_the_program() -> None:
    done = run(
        """
        import atexit, sys
        import runtime

        class Late:
            def __del__(self):
                assert sys.is_finalizing()
                print("finalizer", runtime.blocking(abs, -2))
                print("finalizer", runtime.blocking(abs, -3, timeout=60))

        sys.last_value = Late()  # goes early in the interpreter's end
        atexit.register(lambda: print("atexit", runtime.blocking(abs, -1)))
        runtime.blocking(abs, -1)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "atexit 1\nfinalizer 2\nfinalizer 3\n"


def test_blocking_interrupted_by_ctrl_c() -> None:
    done = run(
        """
        import os, signal, threading
        from runtime import *

        def call(ended):
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait()

        for _ in range(3):
            ended = threading.Event()
            try:
                print("not interrupted", blocking(call, ended))
            except KeyboardInterrupt:
                ended.set()
            assert blocking(abs, -1) == 1
        print("end")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# --- anything at any time -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_blocking_stress(
    seed: int, limit: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call returns its own result, or its caller was told otherwise; nothing stays."""
    monkeypatch.setattr(_blocking, "IDLE_TIME", 0.0003)
    rnd = random.Random(seed)
    sleeping = threading.Event()
    ran: list[int] = []
    outcomes: list[tuple[int, str]] = []

    def work(n: int, seconds: float, how: str) -> int:
        ran.append(n)
        if seconds:
            sleeping.wait(seconds)
        if how == "raise":
            raise LookupError(n)
        if how == "nest":
            return blocking(abs, -n)
        if how == "runtime":
            return go(lambda: n).join()
        return n

    def call(n: int, timeout: float | None) -> None:
        seconds = rnd.choice([0, 0, 0.0001, 0.001])
        how = rnd.choice(["return", "return", "raise", "nest", "runtime"])
        try:
            assert blocking(work, n, seconds, how, timeout=timeout) == n
            outcomes.append((n, "ran"))
        except LookupError as e:
            assert e.args == (n,)
            outcomes.append((n, "ran"))
        except TimeoutError:
            outcomes.append((n, "gave up"))
        except Cancelled:
            outcomes.append((n, "gave up"))

    def several(first: int) -> None:
        for n in range(first, first + 20):
            call(n, rnd.choice([None, None, 0, 0.0001, 0.001]))

    limit(rnd.choice([1, 2, 5]))
    gs = [go(several, i * 20) for i in range(20)]
    threads = [threading.Thread(target=several, args=(i * 20,)) for i in range(20, 23)]
    for thread in threads:
        thread.start()
    while not all(g.done() for g in gs):
        sleep(rnd.choice([0, 0.0002]))
        if rnd.random() < 0.5:
            rnd.choice(gs).cancel()
        if rnd.random() < 0.2:
            limit(rnd.choice([1, 2, 5, 100]))
    for thread in threads:
        thread.join()
    for g in gs:
        if g.exception() is not None:
            assert isinstance(g.exception(), Cancelled)  # between two calls, or before it began
    assert not _blocking._queue
    until(lambda: not _blocking._threads)
    assert _blocking.idle_threads() == 0
    assert len(set(ran)) == len(ran)
    assert {n for n, how in outcomes if how == "ran"} <= set(ran)
    assert len({n for n, _ in outcomes}) == len(outcomes)


class PoolModel(RuleBasedStateMachine):
    """The calls that run are the oldest that have not ended, as many as the limit allows."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 512
        self.before = set_max_blocking(512)
        self.running: list[tuple[Gate, Goroutine[Any]]] = []
        self.waiting: list[tuple[Gate, Goroutine[Any]]] = []

    def settle(self) -> None:
        while self.waiting and len(self.running) < self.limit:
            self.running.append(self.waiting.pop(0))

    @rule(n=st.integers(1, 4))
    def call(self, n: int) -> None:
        for _ in range(n):
            gate = Gate()
            gate.result = gate
            self.waiting.append((gate, parked(go(blocking, gate))))
        self.settle()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        gate, g = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        gate.open()
        assert g.join() is gate
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        gate, g = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert g.cancel()
        with pytest.raises(Cancelled):
            g.join()
        gate.open()

    @rule(n=st.integers(1, 5))
    def set_limit(self, n: int) -> None:
        assert set_max_blocking(n) == self.limit
        self.limit = n
        self.settle()

    @rule()
    def let_idle_threads_end(self) -> None:
        with pytest.MonkeyPatch.context() as m:
            end_of_idle_threads(m)
            until(lambda: len(_blocking._threads) == len(self.running))

    @invariant()
    def the_oldest_run(self) -> None:
        for gate, g in self.running:
            until(gate.begun.is_set)
            assert not g.done()
        for gate, g in self.waiting:
            assert not gate.begun.is_set()
            assert not g.done()
        assert len(_blocking._queue) == len(self.waiting)
        until(lambda: len(_blocking._threads) <= max(self.limit, len(self.running)))

    def teardown(self) -> None:
        for gate, _ in self.running + self.waiting:
            gate.open()
        for _, g in self.running + self.waiting:
            g.join()
        set_max_blocking(self.before)


test_pool_is_what_its_model_says = PoolModel.TestCase
