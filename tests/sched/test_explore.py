"""explore() and replay(): planted bugs are found, told and run again exactly."""

import gc
import itertools
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import programs
import runtime
import waits
from runtime import (
    Chan,
    ChanClosed,
    Mutex,
    WaitGroup,
    blocking,
    go,
    gosched,
    recv,
    select,
    send,
    sleep,
    testing,
)
from runtime.testing import ExploreError, explore, replay
from runtime.time import after_func

Body = Callable[[], object]


def run_all(*fns: Body) -> None:
    """Run them as goroutines, to their end."""
    for g in [go(fn) for fn in fns]:
        g.join()


# --- planted bugs, each with what puts it right ---------------------------------------------


def lost_update(fixed: bool) -> Body:
    def body() -> None:
        counter, mu = SimpleNamespace(n=0), Mutex()

        def add() -> None:
            if fixed:
                with mu:
                    counter.n += 1
            else:
                counter.n += 1

        run_all(add, add)
        assert counter.n == 2

    return body


def lost_update_between_statements(fixed: bool) -> Body:
    def body() -> None:
        counter, mu, seen = SimpleNamespace(n=0), Mutex(), []

        def add() -> None:
            for i in range(10):
                with mu:
                    seen.append(i)
            if fixed:
                mu.lock()
            n = counter.n
            counter.n = n + 1
            if fixed:
                mu.unlock()

        run_all(add, add, add)
        assert counter.n == 3

    return body


def lock_order(fixed: bool) -> Body:
    def body() -> None:
        a, b = Mutex(), Mutex()

        def transfer(first: Mutex, second: Mutex) -> Body:
            def fn() -> None:
                with first, second:
                    pass

            return fn

        run_all(transfer(a, b), transfer(a, b) if fixed else transfer(b, a))

    return body


def close_and_send(fixed: bool) -> Body:
    def body() -> None:
        ch: Chan[int] = Chan(10)
        state, mu = SimpleNamespace(open=True), Mutex()

        def send() -> None:
            for i in range(3):
                if fixed:
                    with mu:
                        if state.open:
                            ch.send(i)
                elif state.open:
                    ch.send(i)

        def close() -> None:
            with mu:
                state.open = False
                ch.close()

        run_all(send, close)

    return body


def check_then_act(fixed: bool) -> Body:
    def body() -> None:
        items, mu = [1], Mutex()

        def take() -> None:
            if fixed:
                with mu:
                    if items:
                        items.pop()
            elif items:
                items.pop()

        run_all(take, take)

    return body


def missed_signal(fixed: bool) -> Body:
    def body() -> None:
        state = SimpleNamespace(ready=False, waiting=False)
        signal: Chan[None] = Chan(1 if fixed else 0)

        def wait() -> None:
            if not state.ready:
                state.waiting = True
                signal.recv()

        def notify() -> None:
            state.ready = True
            if fixed or state.waiting:
                signal.send(None)

        run_all(wait, notify)

    return body


def wait_group_added_late(fixed: bool) -> Body:
    def body() -> None:
        wg, done = WaitGroup(), []

        def work() -> None:
            if not fixed:
                wg.add(1)
            done.append(1)
            wg.done()

        for _ in range(2):
            if fixed:
                wg.add(1)
            go(work)
        wg.wait()
        assert done == [1, 1]

    return body


def lost_in_select(fixed: bool) -> Body:
    def body() -> None:
        items: Chan[int] = Chan(3)
        done: Chan[None] = Chan()
        got = []

        def consume() -> None:
            while True:
                chosen = select(recv(items), recv(done))
                if chosen.index == 0:
                    got.append(chosen.value)
                    continue
                while fixed and len(items):
                    got.append(items.recv())
                return

        g = go(consume)
        for i in range(3):
            items.send(i)
        done.close()
        g.join()
        assert got == [0, 1, 2]

    return body


def timer_stopped_too_late(fixed: bool) -> Body:
    def body() -> None:
        ended: list[str] = []

        def work() -> None:
            sleep(60)
            ended.append("work")

        timer = after_func(61 if fixed else 60, lambda: ended.append("alarm"))
        work()
        timer.stop()
        assert ended == ["work"]

    return body


def timed_out_by_a_tie(fixed: bool) -> Body:
    def body() -> None:
        ch: Chan[int] = Chan(1)

        def produce() -> None:
            sleep(3600)
            ch.send(1)

        go(produce)
        ch.recv(timeout=3601 if fixed else 3600)

    return body


BUGS: dict[Callable[[bool], Body], tuple[str, type[BaseException] | None]] = {
    lost_update: ("exception", AssertionError),
    lost_update_between_statements: ("exception", AssertionError),
    lock_order: ("deadlock", None),
    close_and_send: ("exception", ChanClosed),
    check_then_act: ("exception", IndexError),
    missed_signal: ("deadlock", None),
    wait_group_added_late: ("exception", AssertionError),
    lost_in_select: ("exception", AssertionError),
    timer_stopped_too_late: ("exception", AssertionError),
    timed_out_by_a_tie: ("exception", TimeoutError),
}
bugs = pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)


def find(fn: Body, **options: object) -> ExploreError:
    with pytest.raises(ExploreError) as caught:
        explore(fn, **options)  # type: ignore[arg-type]
    return caught.value


@bugs
def test_bug_planted_is_found(bug):
    cause, error = BUGS[bug]
    found = find(bug(False))
    assert found.tried <= 1000
    assert found.cause == cause
    assert error is None or isinstance(found.__cause__, error)


@bugs
@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_bug_planted_is_found_by_each_strategy(bug, strategy):
    assert find(bug(False), strategy=strategy).cause == BUGS[bug][0]


@bugs
def test_bug_put_right_is_not_found(bug):
    report = explore(bug(True))
    assert report.schedules == 1000
    assert report.distinct > 1 or bug in (timed_out_by_a_tie, timer_stopped_too_late)
    assert report.nondeterminism == ()


@bugs
def test_error_replays_by_seed_and_by_schedule(bug):
    found = find(bug(False))
    for seed in (found.seed, found.schedule):
        with pytest.raises(ExploreError) as caught:
            replay(bug(False), seed, trace=False)
        assert caught.value.cause == found.cause
        assert type(caught.value.__cause__) is type(found.__cause__)
    with pytest.raises(ExploreError) as caught:
        explore(bug(False), seeds=[found.seed])
    assert caught.value.tried == 1
    assert caught.value.switches == found.switches


@bugs
def test_schedule_made_shorter_has_few_preemptions(bug):
    found = find(bug(False))
    assert sum(s.why == "preempted" for s in found.switches) <= 1


def test_line_points_find_what_lies_between_lines():
    assert find(lost_update_between_statements(False), preempt="line").cause == "exception"
    explore(lost_update(False), preempt="line")  # one line: it is not divided


def test_no_points_only_waits_are_left_for_others():
    explore(lost_update_between_statements(False), preempt=None, seeds=range(200))
    assert find(wait_group_added_late(False), preempt=None).cause == "exception"


def test_bug_of_three_orderings_is_found():
    def body() -> None:
        s = SimpleNamespace(x=0, y=0, bad=False)

        def write() -> None:
            s.x = 1
            s.y = 1
            s.x = 2
            s.y = 2

        def read() -> None:
            if s.x == 1 and s.y == 1 and s.x == 2 and s.y == 1:
                s.bad = True

        run_all(write, read)
        assert not s.bad

    assert find(body, seeds=range(5000)).cause == "exception"


# --- what counts as a failure --------------------------------------------------------------


def test_goroutine_that_fails_unasked_fails_the_schedule():
    def fail() -> None:
        raise KeyError("nobody asks")

    found = find(lambda: go(fail) and None)
    assert isinstance(found.__cause__, KeyError)
    assert "goroutine 1 fail" in str(found)


def test_goroutine_that_is_asked_may_fail():
    def body() -> None:
        g = go(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            g.join()

    explore(body, seeds=range(50))


def test_goroutine_left_waiting_is_a_leak_unless_allowed():
    def body() -> None:
        go(Chan().recv)

    found = find(body)
    assert found.cause == "leak"
    assert "goroutine 1 [chan receive]" in str(found)
    assert explore(body, seeds=range(50), leaks=True).schedules == 50


def test_deadlock_shows_where_each_waits():
    found = find(lock_order(False))
    text = str(found)
    assert text.count("[sync.Mutex.Lock]:") == 2
    assert "goroutine 0 [join]:" in text


def test_livelock_is_ended_after_max_steps():
    def body() -> None:
        s = SimpleNamespace(turn=0)

        def spin() -> None:
            while s.turn != 2:
                s.turn = 1 - s.turn

        run_all(spin, spin)

    with testing.leak_check():
        assert find(body, max_steps=2000).cause == "livelock"


def test_livelock_of_yields_is_ended_without_points():
    def body() -> None:
        while True:
            gosched()

    assert find(body, max_steps=500, preempt=None).cause == "livelock"


def test_spinning_goroutine_is_not_alone_for_ever():
    def body() -> None:
        s = SimpleNamespace(ready=False)

        def wait() -> None:
            while not s.ready:
                pass

        def make_ready() -> None:
            s.ready = True

        run_all(wait, wait, make_ready)

    for strategy in ("random", "pct", "mixed"):
        explore(body, seeds=range(100), strategy=strategy)


def test_goroutines_of_a_failed_schedule_are_ended():
    ends = []

    def body() -> None:
        def hold() -> None:
            try:
                Chan().recv()
            finally:
                ends.append(1)

        go(hold)
        gosched()
        sleep(1)
        raise ValueError

    with testing.leak_check():
        find(body, shrink=False)
    assert ends


def test_goroutine_that_refuses_to_end_is_given_up():
    source = """
        from runtime import Chan, Mutex, go, testing
        def refuse():
            while True:
                try:
                    Chan().recv()
                except BaseException:
                    pass
        def race():
            counter = {"n": 0}
            def add():
                counter["n"] += 1
            gs = [go(add), go(add)]
            for g in gs:
                g.join()
            assert counter["n"] == 2
        for body in (lambda: go(refuse) and None, race):
            try:
                testing.explore(body, shrink=False)
            except testing.ExploreError as e:
                print(e.cause)
    """
    done = programs.run(source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leak\nexception\n", "")


def test_system_exit_ends_the_exploration():
    def body() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        explore(body)


# --- exactness ------------------------------------------------------------------------------

TRACE = """
    import sys
    from types import SimpleNamespace
    from runtime import Chan, Mutex, go, gosched, recv, select, send, sleep, testing

    def body():
        a, b = Chan(1), Chan(1)
        for _ in range(4):
            select(recv(a), send(a, 1), recv(b), send(b, 1))
        mu, ch, log = Mutex(), Chan(1), {}
        def work(name):
            for i in range(3):
                with mu:
                    log[name] = log.get(name, 0) + i
                ch.send(name)
                if i == 1:
                    sleep(0.5)
                gosched()
        def drain():
            for _ in range(9):
                try:
                    ch.recv(timeout=0.2)
                except TimeoutError:
                    ch.recv()
        gs = [go(work, n) for n in {"a", "b", "c"}]
        gs.append(go(drain))
        for g in gs:
            g.join()

    for strategy in ("random", "pct", "mixed"):
        for seed in range(12):
            testing.replay(body, seed, strategy=strategy)
"""


def test_seed_means_the_same_schedule_in_all_processes():
    first = programs.run(TRACE, PYTHONHASHSEED="1")
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("preempted") > 20
    for env in ({"PYTHONHASHSEED": "2"}, {"PYTHONHASHSEED": "3", "GOMAXPROCS": "4"}):
        again = programs.run(TRACE, **env)
        assert again.stderr == first.stderr


@st.composite
def scripts(draw: st.DrawFn) -> list[list[tuple[str, int]]]:
    """For each of some goroutines, what it does."""
    op = st.tuples(
        st.sampled_from(
            ["send", "recv", "lock", "add", "yield", "sleep", "spawn", "close", "select", "alarm"]
        ),
        st.integers(0, 2),
    )
    return draw(st.lists(st.lists(op, max_size=6), min_size=1, max_size=4))


def perform(script: list[list[tuple[str, int]]]) -> None:
    chans = [Chan(i) for i in range(3)]
    locks = [Mutex() for _ in range(3)]
    shared = SimpleNamespace(n=0)

    def act(ops: list[tuple[str, int]]) -> None:
        for op, i in ops:
            if op == "send":
                chans[i].send(i, timeout=1)
            elif op == "recv":
                chans[i].recv(timeout=2)
            elif op == "lock":
                with locks[i], locks[(i + 1) % 3]:
                    shared.n += 1
            elif op == "add":
                shared.n += i
            elif op == "yield":
                gosched()
            elif op == "sleep":
                sleep(i)
            elif op == "select":
                select(recv(chans[i]), send(chans[(i + 1) % 3], 5), recv(chans[2]), timeout=i)
            elif op == "alarm":
                after_func(i, act, ops[1:][:1])
            elif op == "spawn":
                go(act, ops[1:][:i])
            else:
                chans[i].close()

    for g in [go(act, ops) for ops in script]:
        g.join()


def outcome(fn: Body, seed: int | str) -> tuple[object, ...]:
    try:
        report = replay(fn, seed, trace=False)
    except ExploreError as e:
        return e.cause, e.schedule, e.switches, type(e.__cause__)
    return report.switches, report.steps


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(scripts(), st.integers(0, 2**64 - 1))
def test_any_program_replays_exactly(script, seed):
    def body() -> None:
        perform(script)

    first = outcome(body, seed)
    assert outcome(body, seed) == first
    if isinstance(first[0], str):
        assert outcome(body, str(first[1]))[2:] == first[2:]


def test_shorter_schedule_fails_by_the_same_line():
    def body() -> None:
        counter, flags = SimpleNamespace(n=0), []

        def add() -> None:
            counter.n += 1
            flags.append(1)

        run_all(add, add)
        assert len(flags) == 2
        assert counter.n == 2

    found = find(body)
    tb = found.__cause__.__traceback__
    while tb.tb_next is not None:
        tb = tb.tb_next
    assert tb.tb_lineno == body.__code__.co_firstlineno + 9


def test_collector_takes_no_steps_in_a_schedule():
    class Ring:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            self.me = None

    def body() -> None:
        for _ in range(50):
            Ring()
        gosched()

    before = gc.isenabled(), gc.get_threshold()
    gc.set_threshold(7)
    try:
        steps = {replay(body, 5, trace=False).steps for _ in range(5)}
    finally:
        gc.set_threshold(*before[1])
    assert len(steps) == 1
    assert gc.isenabled() == before[0]


# --- what is told ---------------------------------------------------------------------------


def test_message_tells_seed_cause_and_interleaving():
    found = find(lost_update(False))
    text = str(found)
    assert f"seed {found.seed} in goroutine 0 body: AssertionError" in text
    assert f"testing.replay(body, {found.seed})" in text
    assert "counter.n += 1" in text
    assert [s.why for s in found.switches] == ["waits: join", "preempted", "ends", "ends", "ends"]
    preempted = found.switches[1]
    assert preempted.file == __file__
    assert preempted.function.endswith("add")


def test_replay_prints_a_line_for_each_switch(capsys):
    found = find(lost_update(False))
    with pytest.raises(ExploreError):
        replay(lost_update(False), found.schedule)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(found.switches)
    assert "preempted" in lines[1]
    assert "test_explore.py:" in lines[1]


def test_report_counts_what_was_done():
    report = explore(lost_update(True), seeds=range(100))
    assert report.schedules == 100
    assert 1 < report.distinct <= 100
    assert report.goroutines == 3
    assert report.steps > report.switches > 300
    assert report.seconds > 0


def test_environment_chooses_the_seed(monkeypatch):
    found = find(lost_update(False))
    monkeypatch.setenv("GOSCHED_SEED", found.schedule)
    with pytest.raises(ExploreError) as caught:
        explore(lost_update(False), seeds=[])
    assert caught.value.schedule == found.schedule
    monkeypatch.setenv("GOSCHED_SEED", "x")
    with pytest.raises(ValueError, match="'x' is no seed"):
        explore(lost_update(False))


def test_timeout_ends_the_search():
    assert explore(lambda: None, seeds=itertools.count(), timeout=0.01).schedules > 0


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="needs a function"):
        explore(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strategy must be"):
        explore(print, strategy="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="preempt must be"):
        explore(print, preempt="word")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_steps"):
        explore(print, max_steps=0)
    with pytest.raises(TypeError, match="seeds must be ints"):
        explore(lambda: None, seeds=["1"])  # type: ignore[list-item]
    explore(lambda: None, seeds=[0])


def test_failure_that_does_not_come_again_is_told():
    runs = itertools.count()

    def body() -> None:
        if next(runs) == 3:
            raise ValueError("once")

    found = find(body)
    assert "depends on more than the seed" in str(found)
    assert isinstance(found.__cause__, ValueError)


# --- with the rest of the world ---------------------------------------------------------------


def test_time_stands_still_while_something_runs():
    def body() -> None:
        late = []

        def tick() -> None:
            sleep(86400)
            late.append(1)

        g = go(tick)
        for _ in range(100):
            gosched()
            assert not late
        g.join()

    explore(body, seeds=range(50))


def test_goroutines_outside_run_on():
    s = SimpleNamespace(n=0, stop=False)

    def outside() -> None:
        while not s.stop:
            s.n += 1
            gosched()

    g = go(outside)
    try:
        waits.until(lambda: s.n)
        found = find(lost_update(False))
        again = [outcome(lost_update(False), found.seed) for _ in range(3)]
        before = s.n
        while s.n == before:  # it goes on during one of them
            again.append(outcome(lost_update(False), found.seed))
    finally:
        s.stop = True
        g.join()
    assert len(set(again)) == 1


def test_plain_thread_may_explore():
    results: list[object] = []

    def thread() -> None:
        results.append(find(lost_update(False)).seed)
        results.append(explore(lost_update(True), seeds=range(50)).schedules)

    t = threading.Thread(target=thread)
    t.start()
    go(t.join).join()
    assert results == [find(lost_update(False)).seed, 50]


def test_goroutines_may_explore_one_after_another():
    gs = [go(find, lost_update(False)) for _ in range(4)]
    assert len({g.join().schedule for g in gs}) == 1


def test_within_a_bubble_is_refused():
    @testing.bubble
    def inside() -> None:
        with pytest.raises(RuntimeError, match="within a bubble"):
            explore(print)

    if callable(inside):
        inside()

    def nested() -> None:
        with pytest.raises(RuntimeError, match="another explore"):
            explore(print)

    explore(nested, seeds=[1])


def test_io_and_threads_are_reported():
    def io() -> None:
        me = runtime.current()
        assert blocking(waits.parked, me) is me  # it does wait for that

    report = explore(io, seeds=range(3))
    assert any("I/O" in why for why in report.nondeterminism)

    outside: Chan[int] = Chan()
    receivers: list[runtime.Goroutine[object]] = []

    def receive() -> None:
        receivers.append(runtime.current())
        outside.recv()

    def feed() -> None:
        for i in range(4):
            waits.until(lambda i=i: len(receivers) > i)
            waits.parked(receivers[i])
            outside.send(i)

    g = go(feed)
    report = explore(receive, seeds=range(3))
    g.join()
    assert any("outside" in why for why in report.nondeterminism)


def test_lock_of_the_thread_is_not_left():
    def body() -> None:
        lock, s = threading.Lock(), SimpleNamespace(n=0)

        def add() -> None:
            with lock:
                s.n += 1

        run_all(add, add)
        assert s.n == 2

    explore(body, seeds=range(300))


def test_lock_acquired_and_released_is_not_left():
    def body() -> None:
        lock, s = threading.Lock(), SimpleNamespace(n=0)

        def work() -> None:
            s.n += 1
            if s.n == 100:
                raise ValueError

        def add() -> None:
            lock.acquire()
            try:
                work()
            finally:
                lock.release()

        def add_with_failure() -> None:
            try:
                with lock:
                    s.n += 1
                    raise ValueError
            except ValueError:
                pass

        run_all(add, add, add_with_failure, add_with_failure)
        assert s.n == 4

    explore(body, seeds=range(300))


def test_nopreempt_is_respected():
    def body() -> None:
        s = SimpleNamespace(n=0)

        def add() -> None:
            with runtime.nopreempt():
                s.n += 1

        run_all(add, add)
        assert s.n == 2

    explore(body, seeds=range(300))


def test_trace_function_of_others_goes_on():
    source = """
        import sys, threading
        from types import SimpleNamespace
        from runtime import go, testing
        lines, opcodes = [], []
        def body():
            s = SimpleNamespace(n=0)
            def add():
                s.n += 1
            gs = [go(add), go(add)]
            for g in gs:
                g.join()
            assert s.n == 2
        def tracer(frame, event, arg):
            if frame.f_code.co_name in ("add", "after"):
                lines.append((frame.f_code.co_name, event))
            return tracer
        def after():
            pass
        sys.settrace(tracer)
        try:
            testing.explore(body)
        except testing.ExploreError as e:
            print(e.cause)
        after()
        assert sys.gettrace() is tracer
        sys.settrace(None)
        print(("add", "line") in lines, ("add", "return") in lines, ("after", "line") in lines)
    """
    done = programs.run(source)
    assert done.stdout == "exception\nTrue True True\n", done.stderr


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
def test_monitoring_tools_are_left_alone():
    mon = sys.monitoring
    for tool in (3, 4):
        if mon.get_tool(tool) is None:
            mon.use_tool_id(tool, "test")
    try:
        with pytest.raises(RuntimeError, match="no tool id"):
            explore(lost_update(False))
        explore(lost_update(False), preempt=None)
    finally:
        for tool in (3, 4):
            if mon.get_tool(tool) == "test":
                mon.free_tool_id(tool)
    find(lost_update(False))
    assert "gosched explore" not in [mon.get_tool(tool) for tool in range(6)]


def test_interrupt_ends_the_exploration():
    source = """
        import signal, threading, time
        import runtime
        from runtime import go, testing
        def body():
            def spin():
                while True:
                    pass
            gs = [go(spin), go(spin)]
            threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
            gs[0].join()
        try:
            testing.explore(body, max_steps=10**8)
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert programs.run(source).stdout == "interrupted\n"
