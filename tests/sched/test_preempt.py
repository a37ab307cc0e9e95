"""Preemption: goroutines that compute let others run, where they may be left, and only there.

What is said of the main thread's P is also tried on the spare one, whose goroutines a plain
thread has spawned: the two are preempted in different ways.
"""

import collections
import contextlib
import gc
import io
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import programs
from runtime import Cancelled, Chan, Mutex, current, go, gosched, net, nopreempt, sleep, stats

pytestmark = pytest.mark.usefixtures("one_p")

run = partial(programs.run, GOMAXPROCS="1")


def on_main(fn: Callable[..., Any], *args: Any) -> Any:
    return go(fn, *args).join()


def on_spare(fn: Callable[..., Any], *args: Any) -> Any:
    result = []
    thread = threading.Thread(target=lambda: result.append(go(fn, *args).join()))
    thread.start()
    thread.join()
    return result[0]


PLACES = {"main": on_main, "spare": on_spare}
everywhere = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())


def preemptions() -> int:
    return sum(p["preemptions"] for p in stats()["ps"])


class Others:
    """A goroutine that counts its turns, beside the one that makes it, on its thread.

    (The spare one may stand in for a thread that has got no processor for long.)
    """

    turns = 0  # of the latest of them
    home = 0  # its thread

    def __init__(self) -> None:
        Others.turns = 0
        Others.home = threading.get_ident()
        self.over = False
        while not Others.turns:
            self.g = go(self.body)
            while not Others.turns and not self.g.done():
                gosched()

    def body(self) -> None:
        while not self.over and threading.get_ident() == Others.home:
            Others.turns += 1
            gosched()

    def __enter__(self) -> "Others":
        return self

    def __exit__(self, *args: object) -> None:
        self.over = True
        self.g.join()


def compute(ms: int = 60) -> None:
    """Several slices of computing; notes whether others have run meanwhile."""
    before = Others.turns
    end = time.perf_counter() + ms / 1000
    while time.perf_counter() < end:
        pass
    left.append(Others.turns != before and threading.get_ident() == Others.home)


def compute_until_left() -> None:
    before = Others.turns
    while Others.turns == before:
        pass


left: list[bool] = []  # by compute(): was it left?


def assert_not_left(fn: Callable[[], object]) -> None:
    left.clear()
    with Others():
        fn()
    assert left
    assert not any(left)


# --- all sorts of code --------------------------------------------------------------------------


def while_loop(stop: list[Any]) -> None:
    while not stop:
        pass


def for_loop(stop: list[Any]) -> None:
    for _ in itertools.count():
        if stop:
            return


def for_loop_over_an_iterator_in_c(stop: list[Any]) -> None:
    for _ in iter(stop.__len__, 1):
        pass


def calls_without_a_loop(stop: list[Any]) -> None:
    def twice(depth: int) -> None:
        if depth and not stop:
            twice(depth - 1)
            twice(depth - 1)

    twice(200)


def comprehension(stop: list[Any]) -> None:
    [None for _ in iter(lambda: len(stop), 1) if stop]


def generator(stop: list[Any]) -> None:
    def values() -> Iterator[int]:
        i = 0
        while not stop:
            yield (i := i + 1)

    for _ in values():
        pass


def generators_in_generators(stop: list[Any]) -> None:
    def values(depth: int) -> Iterator[int]:
        if depth:
            yield from values(depth - 1)
        else:
            yield from iter(stop.__len__, 1)

    for _ in values(20):
        pass


def generator_driven_by_c(stop: list[Any]) -> None:
    def values() -> Iterator[int]:
        while not stop:
            yield 1

    collections.deque(values(), maxlen=0)


def function_called_by_c(stop: list[Any]) -> None:
    any(map(lambda _: bool(stop), itertools.repeat(None)))  # noqa: C417


def exceptions(stop: list[Any]) -> None:
    while not stop:
        try:
            raise ValueError
        except ValueError as e:
            assert e.args == ()


def exceptions_through_frames(stop: list[Any]) -> None:
    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise KeyError(depth)

    while not stop:
        with contextlib.suppress(KeyError):
            fail(30)


def finally_blocks(stop: list[Any]) -> None:
    while not stop:
        try:
            continue
        finally:
            len(stop)


def except_block(stop: list[Any]) -> None:
    try:
        raise ValueError("kept")
    except ValueError:
        while not stop:
            pass
        assert repr(sys.exc_info()[1]) == "ValueError('kept')"


def with_block(stop: list[Any]) -> None:
    with io.StringIO() as file:
        while not stop:
            file.seek(0)


def context(stop: list[Any]) -> None:
    with localcontext() as ctx:
        ctx.prec = 3
        while not stop:
            assert Decimal(1) / 3 == Decimal("0.333")


def garbage(stop: list[Any]) -> None:
    while not stop:
        node: list[Any] = []
        node.append(node)


def deep_recursion(stop: list[Any]) -> None:
    def down(depth: int) -> int:
        return 1 + down(depth - 1) if depth else 0

    while not stop:
        assert down(sys.getrecursionlimit() - 200) == sys.getrecursionlimit() - 200


HOGS = [
    while_loop, for_loop, for_loop_over_an_iterator_in_c, calls_without_a_loop, comprehension,
    generator, generators_in_generators, generator_driven_by_c, function_called_by_c, exceptions,
    exceptions_through_frames, finally_blocks, except_block, with_block, context, garbage,
    deep_recursion,
]  # fmt: skip


@everywhere
@pytest.mark.parametrize("hog", HOGS)
def test_any_code_lets_others_run(place: Any, hog: Callable[[list[Any]], None]) -> None:
    def body() -> None:
        stop: list[Any] = []
        gs = [go(hog, stop), go(hog, stop)]
        for _ in range(3):
            sleep(0.001)
        stop.append(1)
        for g in gs:
            g.join()

    place(body)


@pytest.mark.parametrize("hog", HOGS)
def test_main_goroutine_lets_others_run(hog: Callable[[list[Any]], None]) -> None:
    stop: list[Any] = []
    go(stop.append, 1)
    hog(stop)


@everywhere
def test_results_of_preempted_computations_are_right(place: Any) -> None:
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    def mixed(seed: int) -> int:
        x = seed
        for i, c in enumerate(itertools.cycle("gosched")):
            if i == 60_000:
                return x
            try:
                x = (x * 31 + ord(c) + fib(i % 7)) % 1000003
                if x % 3 == 0:
                    raise ArithmeticError(x)
            except ArithmeticError as e:
                x = sorted([*e.args, 17, x - 1], key=lambda v: v % 101)[1]
        raise AssertionError

    def body() -> None:
        before = preemptions()
        while preemptions() - before < 10:
            gs = [go(mixed, i) for i in range(8)]
            assert [g.join() for g in gs] == expected

    expected = [mixed(i) for i in range(8)]
    place(body)


@everywhere
def test_many_that_compute_all_get_their_turn(place: Any) -> None:
    def body() -> None:
        turns = [0] * 8
        over = []

        def hog(i: int) -> None:
            while not over:
                turns[i] += 1

        gs = [go(hog, i) for i in range(8)]
        for _ in range(2):
            turns[:] = [0] * 8
            while not all(turns):
                gosched()
        over.append(1)
        for g in gs:
            g.join()

    place(body)


@everywhere
def test_timers_and_sockets_go_on_while_others_compute(place: Any) -> None:
    def serve(listener: Any) -> None:
        with listener.accept() as conn:
            while data := conn.read(10):
                conn.write(data)

    def body() -> None:
        stop: list[Any] = []
        gs = [go(while_loop, stop), go(while_loop, stop)]
        with net.listen("tcp", "127.0.0.1:0") as listener:
            server = go(serve, listener)
            with net.dial("tcp", str(listener.addr)) as conn:
                for i in range(20):
                    conn.write(b"%d" % i)
                    assert conn.read(10) == b"%d" % i
                    if i % 5 == 0:
                        sleep(0.001)
            server.join()
        stop.append(1)
        for g in gs:
            g.join()

    place(body)


@everywhere
def test_goroutine_that_computes_under_a_trace_function_is_left(place: Any) -> None:
    events = 0

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal events
        events += 1
        return trace

    def hog(stop: list[Any]) -> None:
        while not stop:
            len(stop)

    def body() -> None:
        stop: list[Any] = []
        old = sys.gettrace()
        sys.settrace(trace)
        try:
            g = go(hog, stop)
            if sys.version_info < (3, 12) and place is on_spare:
                # The thread has but one place for a trace function, and it is taken.
                stop.append(1)
            sleep(0.001)
            stop.append(1)
            g.join()
        finally:
            sys.settrace(old)
        assert events

    place(body)


def test_trace_function_is_not_left() -> None:
    def trace(frame: Any, event: str, arg: object) -> None:
        if frame.f_code is traced.__code__:
            compute()

    def traced() -> None:
        pass

    def body() -> None:
        old = sys.gettrace()
        sys.settrace(trace)
        try:
            traced()
        finally:
            sys.settrace(old)

    assert_not_left(body)


@everywhere
def test_cancel_reaches_a_preempted_goroutine_where_it_blocks(place: Any) -> None:
    def body() -> None:
        told: list[Any] = []
        started = Chan[None](1)

        def hog() -> str:
            started.send(None)
            try:
                while not told:
                    pass
            except Cancelled:
                return "anywhere"
            try:
                gosched()
            except Cancelled:
                return "where it blocks"
            return "never"

        g = go(hog)
        started.recv()
        sleep(0.001)
        assert g.cancel()
        sleep(0.001)
        told.append(1)
        assert g.join() == "where it blocks"

    place(body)


def test_state_of_a_preempted_goroutine_is_runnable() -> None:
    homes: list[int] = []

    def hog(stop: list[Any]) -> None:
        homes.append(threading.get_ident())
        while_loop(stop)

    # The spare one may stand in for a thread that has got no processor for long.
    while not homes or homes[-1] != threading.get_ident():
        stop: list[Any] = []
        n = len(homes)
        g = go(hog, stop)
        while len(homes) == n:
            sleep(0.001)
        if homes[-1] == threading.get_ident():
            assert g.state == "runnable"
        stop.append(1)
        g.join()


# --- nothing remains ----------------------------------------------------------------------------


@everywhere
def test_nothing_stays_instrumented(place: Any) -> None:
    import dis

    def hog(stop: list[Any]) -> object:
        while not stop:
            step()
        return sys.gettrace(), sys.getprofile()

    def step() -> None:
        pass

    def instrumented() -> list[str]:
        names = [i.opname for fn in (hog, step) for i in dis.get_instructions(fn, adaptive=True)]
        return [name for name in names if name.startswith("INSTRUMENTED")]

    def body() -> None:
        before = preemptions()
        stop: list[Any] = []
        gs = [go(hog, stop), go(hog, stop)]
        while preemptions() - before < 10:
            sleep(0.001)
        stop.append(1)
        assert [g.join() for g in gs] == [(None, None)] * 2
        # Code that was suspended while events were on loses them when it runs again; on a busy
        # machine somebody may be asked to make way just now.
        while True:
            hog(stop)
            step()
            if instrumented() == []:
                break
            sleep(0.001)

    place(body)
    if sys.version_info >= (3, 12):
        for tool in range(6):
            if sys.monitoring.get_tool(tool) == "gosched":
                while sys.monitoring.get_events(tool) != 0:
                    sleep(0.001)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
def test_tool_id_taken_away_is_taken_again() -> None:
    done = run(
        """
        import sys, threading
        from runtime import *

        def hog(stop):
            while not stop: pass

        def body():
            for _ in range(3):
                stop = []
                gs = [go(hog, stop), go(hog, stop)]
                sleep(0.001)
                stop.append(1)
                for g in gs:
                    g.join()
                for tool in range(6):
                    if sys.monitoring.get_tool(tool) == "gosched":
                        sys.monitoring.free_tool_id(tool)

        t = threading.Thread(target=lambda: go(body).join())
        t.start()
        t.join()
        print("end")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
def test_tool_ids_all_taken_computing_goes_on() -> None:
    done = run(
        """
        import sys, threading
        for tool in range(6):
            sys.monitoring.use_tool_id(tool, "mine")
        from runtime import *

        def hog():
            for i in range(2_000_000): pass
            return i

        def body():
            assert go(hog).join() == go(hog).join() == 1_999_999

        t = threading.Thread(target=lambda: go(body).join())
        t.start()
        t.join()
        print([sys.monitoring.get_tool(tool) for tool in range(6)] == ["mine"] * 6)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_program_that_handles_sigurg_itself_is_preempted_all_the_same() -> None:
    done = run(
        """
        import signal
        handled = []
        signal.signal(signal.SIGURG, lambda *args: handled.append(1))
        from runtime import *
        stop = []
        go(stop.append, 1)
        while not stop: pass
        signal.raise_signal(signal.SIGURG)
        print(bool(handled))
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


# --- where a goroutine is not left --------------------------------------------------------------


@contextlib.contextmanager
def made_of(lock: Any) -> Iterator[None]:
    with lock:
        yield


@contextlib.contextmanager
def stacked(lock: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock)
        yield


def with_lock(lock: Any) -> None:
    with lock:
        compute()


def with_lock_among_others(lock: Any) -> None:
    with io.StringIO() as a, lock, io.StringIO() as b:
        for _ in range(3):
            try:
                with contextlib.suppress(ValueError), contextlib.nullcontext((a, b)):
                    compute(20)
            finally:
                len("")


def with_lock_in_an_exception_handler(lock: Any) -> None:
    try:
        with lock:
            try:
                raise ValueError
            except ValueError:
                compute()
                raise
    except ValueError:
        pass


def with_lock_of_a_caller(lock: Any) -> None:
    with lock:
        sorted([3, 2, 1], key=lambda x: compute(20) or x)


def with_lock_of_a_generator(lock: Any) -> None:
    def values() -> Iterator[None]:
        with lock:
            compute()
            yield

    list(values())


def with_context_manager_function(lock: Any) -> None:
    with made_of(lock):
        compute()


def with_exit_stack(lock: Any) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(io.StringIO())
        stack.enter_context(lock)
        compute()


def with_exit_stack_in_a_function(lock: Any) -> None:
    with stacked(lock):
        compute()


def acquired_and_released(lock: Any) -> None:
    lock.acquire()
    try:
        compute()
    finally:
        lock.release()


LOCKS = {
    "Lock": threading.Lock,
    "RLock": threading.RLock,
    "Condition": threading.Condition,
    "Semaphore": threading.Semaphore,
}
HOLDERS = [
    with_lock, with_lock_among_others, with_lock_in_an_exception_handler, with_lock_of_a_caller,
    with_lock_of_a_generator, with_context_manager_function, with_exit_stack,
    with_exit_stack_in_a_function, acquired_and_released,
]  # fmt: skip


@everywhere
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS.keys())
def test_holder_of_a_lock_of_the_thread_is_not_left(place: Any, holder: Any, lock: Any) -> None:
    place(assert_not_left, lambda: holder(lock()))


def take_with(lock: Any) -> None:
    with lock:
        len("")


def take_and_try(lock: Any) -> None:
    lock.acquire()
    try:
        len("")
    finally:
        lock.release()


class Watcher(Others):
    """Others that note whether a lock is taken when they come to run."""

    lock: Any
    found_taken = False

    def body(self) -> None:
        while not self.over and threading.get_ident() == Others.home:
            Others.turns += 1
            self.found_taken = self.found_taken or self.lock.locked()
            gosched()


@everywhere
@pytest.mark.parametrize("take", [take_with, take_and_try])
def test_holder_of_a_lock_is_not_left_just_after_taking_it(place: Any, take: Any) -> None:
    class Here(Watcher):
        lock = threading.Lock()

    def hog() -> bool:
        with Here() as others:
            end = preemptions() + 20
            while preemptions() < end:
                for _ in range(1000):
                    take(Here.lock)
        return others.found_taken

    assert place(hog) is False


@everywhere
def test_holder_of_a_lock_is_left_after_releasing_it(place: Any) -> None:
    def hog() -> None:
        with Others():
            with_lock_among_others(threading.Lock())
            compute_until_left()

    place(hog)


@everywhere
def test_holder_of_a_mutex_of_the_runtime_is_left(place: Any) -> None:
    def hog() -> None:
        with Others(), Mutex():
            compute_until_left()

    place(hog)


@everywhere
def test_import_is_not_left(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"slow_to_import_{place.__name__}"
    (tmp_path / f"{name}.py").write_text("import sys; sys.compute(); complete = True\n")
    monkeypatch.setattr(sys, "compute", compute, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))

    def body() -> None:
        gs = [go(lambda: __import__(name).complete) for _ in range(3)]
        assert_not_left(lambda: __import__(name))
        assert all(g.join() for g in gs)

    place(body)


@everywhere
def test_logging_handler_is_not_left(place: Any) -> None:
    import logging

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            compute()

    handler = Slow()
    record = logging.LogRecord("x", 10, "x", 1, "x", None, None)
    place(assert_not_left, lambda: handler.handle(record))


@everywhere
def test_raw_file_under_a_buffer_is_not_left(place: Any) -> None:
    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            compute()
            buffer[:1] = b"x"
            return 1

    def body() -> None:
        file = io.BufferedReader(Raw(), 1)
        assert_not_left(lambda: file.read(1))

    place(body)


@everywhere
def test_finalizers_run_by_the_collector_are_not_left(place: Any) -> None:
    class Finalized:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            compute()

    def body() -> None:
        Finalized()
        gc.collect()

    gc.collect()
    place(assert_not_left, body)


@everywhere
def test_repr_is_not_left(place: Any) -> None:
    class Slow:
        def __repr__(self) -> str:
            compute()
            return "Slow()"

    values = [Slow()]

    def body() -> None:
        g = go(repr, values)
        assert_not_left(lambda: repr(values))
        assert g.join() == repr(values) == "[Slow()]"

    place(body)


def test_signal_handler_is_not_left() -> None:
    done = run(
        """
        import signal, time
        from runtime import *
        turns = 0

        def other():
            global turns
            while True:
                turns += 1
                gosched()

        def handler(signum, frame):
            global seen
            before = turns
            end = time.perf_counter() + 0.06
            while time.perf_counter() < end:
                pass
            seen = turns - before

        class Handler:
            def handle(self, *args):
                handler(*args)

        go(other)
        sleep(0.001)
        for how in (handler, Handler().handle, lambda *args: handler(*args)):
            signal.signal(signal.SIGUSR1, how)
            signal.raise_signal(signal.SIGUSR1)
            print(seen)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n0\n0\n", "")


# --- nopreempt() --------------------------------------------------------------------------------


@everywhere
def test_nopreempt_section_is_not_left(place: Any) -> None:
    def section() -> None:
        with nopreempt():
            compute()

    place(assert_not_left, section)


@everywhere
def test_nopreempt_sections_nest(place: Any) -> None:
    def section() -> None:
        with nopreempt():
            with nopreempt():
                pass
            with contextlib.suppress(ValueError), nopreempt():
                raise ValueError
            compute()

    def after() -> None:
        with Others():
            section()
            compute_until_left()

    place(assert_not_left, section)
    place(after)


@everywhere
def test_nopreempt_stays_with_the_goroutine_that_parks(place: Any) -> None:
    def parked() -> None:
        with nopreempt():
            inside.send(None)
            resume.recv()
            compute()

    def body() -> None:
        g = go(parked)
        inside.recv()
        with Others():
            compute_until_left()  # that is not in the section
        assert_not_left(lambda: (resume.send(None), g.join()))

    inside, resume = Chan[None](1), Chan[None]()
    place(body)


@everywhere
def test_nopreempt_left_open_ends_with_the_goroutine(place: Any) -> None:
    def body() -> None:
        for _ in range(3):
            go(nopreempt().__enter__).join()
        with Others():
            compute_until_left()

    place(body)


def test_nopreempt_exit_without_enter_raises() -> None:
    with pytest.raises(RuntimeError, match="has not entered"):
        go(nopreempt().__exit__, None, None, None).join()
    with nopreempt(), pytest.raises(RuntimeError, match="has not entered"):
        go(nopreempt().__exit__, None, None, None).join()


def test_nopreempt_on_a_plain_thread_does_nothing() -> None:
    def body() -> None:
        with nopreempt(), nopreempt():
            results.append(current().name)

    results: list[str] = []
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert len(results) == 1


# --- settings, exit, fork -----------------------------------------------------------------------


def test_preemption_can_be_turned_off() -> None:
    program = """
        import threading, time
        from runtime import *

        def note(name):
            order.append(name)
            threads.add(threading.get_ident())

        def hog(name):
            end = time.perf_counter() + 0.06
            while time.perf_counter() < end:
                pass
            note(name)

        threads = ()
        while len(threads) != 1:  # where one has got no processor for long, others help
            order, threads = [], set()
            gs = [go(hog, "first"), go(note, "second")]
            for g in gs:
                g.join()
        print(*order)
        """
    done = run(program, GOSCHED_PREEMPT="0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "first second\n", "")


def test_preemption_setting_that_is_wrong_is_reported_and_ignored() -> None:
    done = run("import runtime", GOSCHED_PREEMPT="maybe")
    assert done.returncode == 0
    assert done.stderr == "gosched: GOSCHED_PREEMPT=maybe ignored: expected 0 or 1\n"


@pytest.mark.parametrize("options", [[], ["-X", "dev", "-W", "error"]], ids=["plain", "dev"])
def test_program_ends_while_goroutines_compute(options: list[str]) -> None:
    done = run(
        """
        import threading
        from runtime import *
        def hog():
            while True: pass
        for _ in range(3):
            go(hog)
        threading.Thread(target=lambda: [go(hog) for _ in range(3)]).start()
        for _ in range(5):
            sleep(0.001)
        print("end")
        """,
        *options,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_preempts_too() -> None:
    done = run(
        """
        import os, sys, threading
        from runtime import *

        def hog(stop):
            while not stop: pass

        def works():
            stop = []
            gs = [go(hog, stop), go(hog, stop)]
            sleep(0.001)
            stop.append(1)
            for g in gs:
                g.join()

        def everywhere():
            works()
            t = threading.Thread(target=lambda: go(works).join())
            t.start()
            t.join()

        everywhere()
        stop = []
        go(hog, stop)       # it computes when the process forks
        sleep(0.001)
        pid = os.fork()
        everywhere()
        stop.append(1)
        if pid == 0:
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")


def test_fork_while_a_thread_is_being_asked() -> None:
    done = run(
        """
        import os, threading, time
        from runtime import *

        def hog(stop):
            while not stop: pass

        def body():
            stop = []
            gs = [go(hog, stop) for _ in range(3)]
            while not over:
                sleep(0.001)
            stop.append(1)
            for g in gs:
                g.join()

        over = []
        t = threading.Thread(target=lambda: go(body).join())
        t.start()
        for i in range(30):
            time.sleep(0.001)
            pid = os.fork()
            if pid == 0:
                stop = []
                go(stop.append, 1)
                while not stop: pass
                os._exit(5)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
        over.append(1)
        t.join()
        print("end")
        """,
        "-W",
        "ignore",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_deadlock_is_still_found_after_sysmon_has_run_python() -> None:
    done = run(
        """
        import threading
        from runtime import *

        def hog(stop):
            while not stop: pass

        def body():
            stop = []
            gs = [go(hog, stop), go(hog, stop)]
            sleep(0.001)
            stop.append(1)
            for g in gs:
                g.join()

        t = threading.Thread(target=lambda: go(body).join())
        t.start()
        t.join()
        try:
            Chan().recv()
        except DeadlockError:
            print("deadlock")
        """
    )
    assert (done.returncode, done.stdout) == (0, "deadlock\n")


def threads(pid: int) -> dict[str, list[str]]:
    """The system call that each thread is in, with its arguments, by the thread's name."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found[(task / "comm").read_text().strip()] = (task / "syscall").read_text().split()
    return found


@pytest.mark.skipif(not Path("/proc/self/syscall").exists(), reason="needs Linux's /proc")
def test_idle_program_is_not_woken_by_sysmon() -> None:
    source = "import sys\nfrom runtime import *\ngo(int).join()\nprint('ready', flush=True)\n"
    source += "go(sleep, 1000).join()\n"
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        env=programs.environment(GOMAXPROCS="1"),
    ) as program:
        try:
            assert program.stdout is not None
            program.stdout.readline()
            # futex(address, operation, value, NULL: no time limit, ...)
            while threads(program.pid).get("gosched-sysmon", [])[4:5] != ["0x0"]:
                pass
        finally:
            program.kill()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_program_without_goroutines_has_no_sysmon() -> None:
    done = run(
        """
        from pathlib import Path
        import runtime
        names = lambda: [p.read_text() for p in Path("/proc/self/task").glob("*/comm")]
        print("gosched-sysmon\\n" in names())
        runtime.go(int).join()
        print("gosched-sysmon\\n" in names())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\nTrue\n", "")
