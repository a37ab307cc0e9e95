"""Tracers, profilers, monitoring, pdb, coverage and dumps of stacks, in goroutines.

Python's trace and profile functions belong to a thread, so they see all goroutines that it
runs; what they keep of a frame must be there again when its goroutine comes back.
"""

import cProfile
import faulthandler
import gc
import importlib.util
import inspect
import io
import json
import linecache
import pstats
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import greenlet
import pytest

import runtime
from programs import environment
from runtime import Chan, Mutex, WaitGroup, current, go, gosched, sleep

# A thread's tracer sees the goroutines that this thread runs: here all but those on_another_m().
pytestmark = pytest.mark.usefixtures("one_p")
NEW_IN_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")


@pytest.fixture(autouse=True)
def tools() -> Iterator[None]:
    """Give back the trace and profile functions of whoever runs the tests."""
    trace, profile = sys.gettrace(), sys.getprofile()
    yield
    sys.settrace(trace)
    sys.setprofile(profile)


def run(*args: str | Path, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end; the time limit is only a safety net."""
    return subprocess.run(
        [sys.executable, *map(str, args)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=110,
        env=environment(**{"GOMAXPROCS": "1"} | env),
    )


def on_another_m(fn: Callable[..., Any], *args: Any) -> Any:
    answer: Chan[Any] = Chan(1)
    thread = threading.Thread(target=lambda: answer.send(go(fn, *args)))
    thread.start()
    thread.join()
    return answer.recv().join()


def wait_until_parked(*gs: runtime.Goroutine[Any]) -> None:
    while any(g.state != "waiting" for g in gs):
        gosched()


class Recorder:
    """A trace or profile function: what happened in certain functions, by goroutine."""

    def __init__(self, *functions: Any) -> None:
        self.codes = {fn.__code__ for fn in functions}
        self.events: dict[int, list[Any]] = defaultdict(list)

    def record(self, frame: FrameType, event: str, arg: object) -> None:
        what: Any = frame.f_lineno - frame.f_code.co_firstlineno
        if event.startswith("c_"):
            what = getattr(arg, "__name__", None)
        self.events[current().id].append((frame.f_code.co_name, event, what))

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code not in self.codes:
            return None
        self.record(frame, event, arg)
        return self


# --- functions to be traced -----------------------------------------------------------------------


def callee(x: int) -> int:
    y = x + 1
    return y


def straight(wait: Callable[[], object]) -> int:
    a = 1
    wait()
    b = callee(a)
    wait()
    wait()
    return b


def parks_in_callees(wait: Callable[[], object]) -> int:
    for _ in range(2):
        straight(wait)
        wait()
    return 0


CALLEE = [("callee", "call", 0), ("callee", "line", 1), ("callee", "line", 2)]
CALLEE += [("callee", "return", 2)]
STRAIGHT = [("straight", "call", 0)] + [("straight", "line", n) for n in (1, 2, 3)]
STRAIGHT += CALLEE + [("straight", "line", n) for n in (4, 5, 6)] + [("straight", "return", 6)]
IN_CALLEES = [("parks_in_callees", "call", 0)]
for _ in range(2):
    IN_CALLEES += [("parks_in_callees", "line", n) for n in (1, 2)]
    IN_CALLEES += [*STRAIGHT, ("parks_in_callees", "line", 3)]
IN_CALLEES += [("parks_in_callees", "line", n) for n in (1, 4)]
IN_CALLEES += [("parks_in_callees", "return", 4)]


class Waits:
    """Ways to park; all goroutines that use one get on."""

    def __init__(self) -> None:
        self.ch: Chan[int] = Chan()
        self.mu = Mutex()
        self.over = False

    def yields(self) -> None:
        gosched()

    def sleeps(self) -> None:
        sleep(0.0001)

    def receives(self) -> None:
        self.ch.recv()

    def sends(self) -> None:
        self.ch.send(1)

    def times_out(self) -> None:
        with pytest.raises(TimeoutError):
            Chan().recv(timeout=0.0001)

    def joins(self) -> None:
        go(gosched).join()

    def locks(self) -> None:
        with self.mu:
            gosched()

    def waits(self) -> None:
        wg = WaitGroup()
        wg.add()
        go(lambda: (gosched(), wg.done()))
        wg.wait()

    def switches_greenlets(self) -> None:
        greenlet.greenlet(gosched).switch()

    def in_c(self) -> None:
        sorted([2, 1], key=lambda _: gosched() or 0)

    def feed(self) -> None:
        while not self.over:
            if not self.ch.try_send(1):
                self.ch.try_recv()
            gosched()


WAITS = [name for name in vars(Waits) if not name.startswith("_") and name != "feed"]


@pytest.fixture(params=WAITS)
def wait(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    waits = Waits()
    feeder = go(waits.feed)
    yield getattr(waits, request.param)
    waits.over = True
    feeder.join()


# --- sys.settrace ---------------------------------------------------------------------------------


def test_trace_of_several_goroutines_has_every_line(wait: Callable[[], None]) -> None:
    recorder = Recorder(straight, callee, parks_in_callees)
    sys.settrace(recorder)
    gs = [go(parks_in_callees, wait) for _ in range(5)]
    for g in gs:
        g.join()
    sys.settrace(None)
    go(parks_in_callees, wait).join()
    assert dict(recorder.events) == {g.id: IN_CALLEES for g in gs}


def test_trace_set_by_a_goroutine_as_a_debugger_does(wait: Callable[[], None]) -> None:
    recorder = Recorder(straight, callee)

    def body() -> None:
        frame = sys._getframe()
        wait()
        frame.f_trace = recorder.record  # its own lines, too
        sys.settrace(recorder)
        wait()
        straight(wait)
        wait()
        sys.settrace(None)

    g = go(body)
    g.join()
    lines = [("body", "line", n) for n in (5, 6, 7, 8)]
    assert recorder.events[g.id] == [*lines[:2], *STRAIGHT, *lines[2:]]


def test_trace_functions_of_frames_stay_with_them(wait: Callable[[], None]) -> None:
    """As with a debugger that steps in several goroutines at the same time."""
    strangers: list[FrameType] = []
    events: list[list[str]] = []

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code is not straight.__code__:
            return None
        mine: list[str] = []
        events.append(mine)

        def local(its: FrameType, event: str, arg: object) -> Any:
            if its is not frame:
                strangers.append(its)
            mine.append(event)
            return local

        return local

    sys.settrace(trace)
    gs = [go(straight, wait) for _ in range(5)]
    for g in gs:
        g.join()
    sys.settrace(None)
    assert strangers == []
    assert events == [["line"] * 6 + ["return"]] * 5


def test_trace_set_while_goroutines_are_parked_reaches_what_they_call_then() -> None:
    chs: list[Chan[int]] = [Chan() for _ in range(5)]
    recorder = Recorder(callee)
    gs = [go(straight, ch.recv) for ch in chs]
    gs.append(go(lambda: sorted([0], key=lambda x: straight(chs[0].recv))))
    wait_until_parked(*gs)
    sys.settrace(recorder)
    for _ in range(3):
        for ch in [*chs, chs[0]]:
            ch.send(1)
    for g in gs:
        g.join()
    sys.settrace(None)
    assert dict(recorder.events) == {g.id: CALLEE for g in gs}


def test_trace_removed_while_goroutines_are_parked_in_traced_calls() -> None:
    ch: Chan[int] = Chan()
    recorder = Recorder(straight, callee)
    sys.settrace(recorder)
    gs = [go(straight, ch.recv) for _ in range(5)]
    wait_until_parked(*gs)
    sys.settrace(None)
    seen = sum(map(len, recorder.events.values()))
    for _ in range(15):
        ch.send(1)
    for g in gs:
        g.join()
    assert sum(map(len, recorder.events.values())) == seen == 15
    sys.settrace(recorder)
    g = go(straight, gosched)
    g.join()
    sys.settrace(None)
    assert recorder.events[g.id] == STRAIGHT


def test_trace_function_that_fails_fails_its_goroutine_alone() -> None:
    class TraceError(Exception):
        pass

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code is callee.__code__ and event == "line":
            raise TraceError
        return trace

    ch: Chan[int] = Chan()
    parked = [go(straight, ch.recv) for _ in range(3)]
    wait_until_parked(*parked)
    sys.settrace(trace)
    failing = go(straight, gosched)
    with pytest.raises(TraceError):
        failing.join()
    assert sys.gettrace() is None  # Python's rule: it is removed
    for _ in range(9):
        ch.send(1)
    assert [g.join() for g in parked] == [2] * 3
    recorder = Recorder(straight, callee)
    sys.settrace(recorder)
    g = go(straight, gosched)
    g.join()
    sys.settrace(None)
    assert recorder.events[g.id] == STRAIGHT


def test_trace_function_may_park_and_hides_nothing_of_the_others(
    wait: Callable[[], None],
) -> None:
    """Python calls no trace function while it is in one; that is a goroutine's own affair."""

    class Parks(Recorder):
        def record(self, frame: FrameType, event: str, arg: object) -> None:
            super().record(frame, event, arg)
            wait()

    recorder = Parks(straight, callee)
    sys.settrace(recorder)
    gs = [go(straight, gosched) for _ in range(5)]
    for g in gs:
        g.join()
    sys.settrace(None)
    assert dict(recorder.events) == {g.id: STRAIGHT for g in gs}
    recorder = Recorder(straight, callee)
    sys.settrace(recorder)
    again = [go(straight, wait) for _ in range(5)]
    for g in again:
        g.join()
    sys.settrace(None)
    assert dict(recorder.events) == {g.id: STRAIGHT for g in again}


def test_trace_function_that_stays_parked_does_not_end_tracing() -> None:
    gate: Chan[int] = Chan()
    recorder = Recorder(straight, callee)

    def held() -> None:
        pass

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code is held.__code__:
            gate.recv()
        return recorder(frame, event, arg)

    sys.settrace(trace)
    first = go(held)
    wait_until_parked(first)
    gs = [go(straight, gosched) for _ in range(3)]
    for g in gs:
        g.join()
    gate.send(1)
    first.join()
    last = go(straight, gosched)
    last.join()
    sys.settrace(None)
    assert dict(recorder.events) == {g.id: STRAIGHT for g in (*gs, last)}


def test_trace_leaves_the_whole_recursion_limit() -> None:
    def deep(n: int) -> int:
        return deep(n - 1) + 1 if n else 0

    def endless() -> None:
        endless()

    def body() -> int:
        straight(gosched)
        traced.recv_ok()
        with pytest.raises(RecursionError):
            endless()
        gosched()
        return deep(sys.getrecursionlimit() - 100)

    traced: Chan[None] = Chan()
    recorder = Recorder(straight, callee)
    sys.settrace(recorder)
    gs = [go(body) for _ in range(3)]
    wait_until_parked(*gs)
    assert dict(recorder.events) == {g.id: STRAIGHT for g in gs}
    sys.settrace(None)
    gs += [go(body) for _ in range(3)]
    wait_until_parked(*gs)
    traced.close()
    assert [g.join() for g in gs] == [sys.getrecursionlimit() - 100] * 6


def test_trace_on_another_m_is_its_own() -> None:
    recorder = Recorder(straight, callee)

    def traced() -> int:
        straight(gosched)
        return threading.get_ident()

    def body() -> list[int]:
        mine: list[int] = []
        sys.settrace(recorder)
        while len(mine) < 3:
            gs = [go(traced) for _ in range(3)]  # the main thread may take some
            mine += [g.id for g in gs if g.join() == threading.get_ident()]
        sys.settrace(None)
        return mine

    here = go(straight, gosched)
    mine = on_another_m(body)
    here.join()
    assert recorder.events == dict.fromkeys(mine, STRAIGHT)


@NEW_IN_3_12
def test_trace_set_in_all_threads_reaches_goroutines_on_all_ms() -> None:
    recorder = Recorder(straight, callee)
    while on_another_m(threading.get_ident) == threading.get_ident():
        pass  # until there is one
    old = threading.gettrace()
    threading.settrace_all_threads(recorder)
    try:
        here = [go(straight, gosched) for _ in range(3)]
        on_another_m(straight, gosched)
        for g in here:
            g.join()
    finally:
        threading.settrace_all_threads(old)
    assert list(recorder.events.values()) == [STRAIGHT] * 4


# --- sys.setprofile, cProfile ---------------------------------------------------------------------


def profiled(ch: Chan[int]) -> int:
    total = ch.recv()
    total += callee(total)
    ch.recv()
    return total


PROFILED = [
    ("profiled", "call", 0),
    *[("profiled", event, "recv") for event in ("c_call", "c_return")],
    ("callee", "call", 0),
    ("callee", "return", 2),
    *[("profiled", event, "recv") for event in ("c_call", "c_return")],
    ("profiled", "return", 4),
]


def test_profile_of_several_goroutines_has_every_call_and_return() -> None:
    chs: list[Chan[int]] = [Chan() for _ in range(5)]
    recorder = Recorder(profiled, callee)
    sys.setprofile(recorder)
    gs = [go(profiled, ch) for ch in chs]
    for _ in range(2):
        for ch in chs:
            ch.send(1)
    for g in gs:
        g.join()
    sys.setprofile(None)
    assert dict(recorder.events) == {g.id: PROFILED for g in gs}


def test_profile_set_in_one_goroutine_and_removed_in_another() -> None:
    ch: Chan[int] = Chan()
    recorder = Recorder(callee)

    def sets() -> None:
        sys.setprofile(recorder)
        ch.recv()
        callee(1)

    def removes() -> None:
        callee(2)
        sys.setprofile(None)
        callee(3)

    for _ in range(3):
        recorder.events.clear()
        first = go(sets)
        wait_until_parked(first)
        second = go(removes)
        second.join()
        ch.send(1)
        first.join()
        calls = [(name, event) for name, event, _ in recorder.events[second.id]]
        assert calls == [("callee", "call"), ("callee", "return")]
        assert recorder.events[first.id] == []
        assert sys.getprofile() is None


def test_profile_function_may_park() -> None:
    class Parks(Recorder):
        def record(self, frame: FrameType, event: str, arg: object) -> None:
            super().record(frame, event, arg)
            gosched()

    chs: list[Chan[int]] = [Chan(2) for _ in range(5)]
    recorder = Parks(profiled, callee)
    sys.setprofile(recorder)
    gs = [go(profiled, ch) for ch in chs]
    for _ in range(2):
        for ch in chs:
            ch.send(1)
    for g in gs:
        g.join()
    sys.setprofile(None)
    assert dict(recorder.events) == {g.id: PROFILED for g in gs}


def calls_of(profile: cProfile.Profile) -> dict[str, int]:
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    return {name: calls for (_, _, name), (_, calls, *_) in stats.items()}


def test_cprofile_counts_calls_of_all_goroutines() -> None:
    chs: list[Chan[int]] = [Chan() for _ in range(10)]
    with cProfile.Profile() as profile:
        gs = [go(profiled, ch) for ch in chs]
        for _ in range(2):
            for ch in chs:
                ch.send(1)
        for g in gs:
            g.join()
    calls = calls_of(profile)
    assert (calls["profiled"], calls["callee"]) == (10, 10)
    assert calls["<method 'recv' of 'runtime.Chan' objects>"] == 20


def test_cprofile_in_one_goroutine_while_others_run() -> None:
    ch: Chan[int] = Chan()

    def body() -> dict[str, int]:
        with cProfile.Profile() as profile:
            for _ in range(3):
                straight(gosched)
        return calls_of(profile)

    others = [go(straight, ch.recv) for _ in range(5)]
    wait_until_parked(*others)
    g = go(body)
    for _ in range(15):
        ch.send(1)
    assert g.join()["straight"] >= 3
    for g in others:
        assert g.join() == 2


def test_cprofile_left_on_by_a_goroutine_that_has_ended() -> None:
    profile = cProfile.Profile()
    go(profile.enable).join()
    for g in [go(straight, gosched) for _ in range(5)]:
        g.join()
    go(profile.disable).join()
    assert calls_of(profile)["straight"] == 5
    for g in [go(straight, gosched) for _ in range(5)]:
        g.join()
    assert calls_of(profile)["straight"] == 5


def test_cprofile_of_goroutines_at_the_same_time_is_refused_or_works() -> None:
    """From 3.12 on there can be one; before, the last one that was enabled counts."""

    def body() -> int:
        profile = cProfile.Profile()
        try:
            profile.enable()
        except ValueError:
            return 0
        straight(gosched)
        profile.disable()
        return 1

    gs = [go(body) for _ in range(10)]
    assert sum(g.join() for g in gs) >= 1
    sys.setprofile(None)
    with cProfile.Profile() as profile:
        go(straight, gosched).join()
    assert calls_of(profile)["straight"] == 1


def test_cprofile_of_a_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from runtime import *\n"
        "def body(n):\n"
        "    gosched()\n"
        "    sleep(0.0001)\n"
        "for g in [go(body, n) for n in range(7)]:\n"
        "    g.join()\n"
    )
    done = run("-m", "cProfile", "-s", "ncalls", program)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    # Calls that overlap look recursive: "calls/primitive calls".
    assert [row[0].split("/")[0] for row in rows if row and row[-1].endswith("2(body)")] == ["7"]


# --- sys.monitoring -------------------------------------------------------------------------------


class Monitor:
    """A tool of sys.monitoring that counts what happens in certain functions."""

    TOOL = 0  # sys.monitoring.DEBUGGER_ID

    def __init__(self, *functions: Any) -> None:
        self.codes: dict[CodeType, str] = {fn.__code__: fn.__name__ for fn in functions}
        self.events: list[tuple[str, str]] = []     # what counts right without a GIL, too

    def count(self, code: CodeType, event: str) -> None:
        self.events.append((self.codes[code], event))

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        return Counter(self.events)

    def __enter__(self) -> "Monitor":
        mon = sys.monitoring
        events = {"PY_START": "start", "PY_RETURN": "return", "LINE": "line"}
        mon.use_tool_id(self.TOOL, "test")
        for name, event in events.items():

            def callback(code: CodeType, *args: Any, event: str = event) -> None:
                self.count(code, event)

            mon.register_callback(self.TOOL, getattr(mon.events, name), callback)
        for code in self.codes:
            mon.set_local_events(
                self.TOOL, code, mon.events.PY_START | mon.events.PY_RETURN | mon.events.LINE
            )
        return self

    def __exit__(self, *args: object) -> None:
        for code in self.codes:
            sys.monitoring.set_local_events(self.TOOL, code, 0)
        for name in ("PY_START", "PY_RETURN", "LINE"):
            sys.monitoring.register_callback(
                self.TOOL, getattr(sys.monitoring.events, name), None
            )
        sys.monitoring.free_tool_id(self.TOOL)


def counts_of(n: int) -> dict[tuple[str, str], int]:
    """What n runs of straight() count."""
    once = {("straight", "start"): 1, ("straight", "line"): 6, ("straight", "return"): 1}
    once |= {("callee", "start"): 1, ("callee", "line"): 2, ("callee", "return"): 1}
    return {key: n * count for key, count in once.items()}


@NEW_IN_3_12
def test_monitoring_of_several_goroutines_has_every_event(wait: Callable[[], None]) -> None:
    with Monitor(straight, callee) as monitor:
        gs = [go(straight, wait) for _ in range(5)]
        for g in gs:
            g.join()
    assert monitor.counts == counts_of(5)


@NEW_IN_3_12
def test_monitoring_sees_goroutines_on_all_ms() -> None:
    with Monitor(straight, callee) as monitor:
        here = go(straight, gosched)
        on_another_m(straight, gosched)
        here.join()
    assert monitor.counts == counts_of(2)


@NEW_IN_3_12
def test_monitoring_callback_may_park_and_hides_nothing_of_the_others(
    wait: Callable[[], None],
) -> None:
    class Parks(Monitor):
        def count(self, code: CodeType, event: str) -> None:
            super().count(code, event)
            wait()

    with Parks(straight, callee) as monitor:
        for g in [go(straight, gosched) for _ in range(5)]:
            g.join()
    assert monitor.counts == counts_of(5)
    with Monitor(straight, callee) as monitor:
        for g in [go(straight, wait) for _ in range(5)]:
            g.join()
    assert monitor.counts == counts_of(5)


@NEW_IN_3_12
def test_monitoring_callback_that_fails_fails_its_goroutine_alone() -> None:
    class Fails(Monitor):
        def count(self, code: CodeType, event: str) -> None:
            super().count(code, event)
            if current().name == "fails" and event == "return":
                raise KeyError(event)

    with Fails(straight, callee) as monitor:
        gs = [go(straight, gosched) for _ in range(3)]
        failing = go.named("fails")(straight, gosched)
        with pytest.raises(KeyError, match="return"):
            failing.join()
        assert [g.join() for g in gs] == [2] * 3
    assert monitor.counts["straight", "start"] == 4
    assert monitor.counts["straight", "return"] == 3


@NEW_IN_3_12
def test_monitoring_tools_of_others_are_left_to_them() -> None:
    """Also once goroutines have computed for long."""
    source = """
        import sys, time
        from runtime import *

        def busy():
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                pass

        for g in [go(busy) for _ in range(3)]:
            g.join()
        m = sys.monitoring
        ids = (m.DEBUGGER_ID, m.COVERAGE_ID, m.PROFILER_ID, m.OPTIMIZER_ID)
        print([m.get_tool(i) for i in ids])
        for i in ids:
            m.use_tool_id(i, "mine")
    """
    done = run("-c", textwrap.dedent(source))
    assert (done.stdout, done.stderr) == ("[None, None, None, None]\n", "")


# --- pdb ------------------------------------------------------------------------------------------

PDB = """
import sys
from runtime import *

ch = Chan()
log = []

def helper(v):
    w = v * 2
    return w

def consumer(n):
    name = f"consumer {n}"
    v = ch.recv()
    log.append(name)
    w = helper(v)
    gosched()
    return w + n

def own(fn):
    # A line that pdb passes is off from 3.14 on, in all frames of its code, until it stops.
    if sys.version_info < (3, 14):
        return fn
    return type(fn)(fn.__code__.replace(), globals())

def other():
    while len(log) < 3:
        gosched()

def start():
    gs = [go(own(consumer), i) for i in range(3)]
    go(other)
    for i in range(3):
        ch.send(i * 10)
    return gs

gs = start()
print("results", sorted(g.join() for g in gs))
"""


def pdb(tmp_path: Path, source: str, commands: str, *options: str) -> list[str]:
    """Run a program under pdb with commands from a file; the lines of source it showed, and
    what the program and the commands have printed.
    """
    program = tmp_path / "program.py"
    program.write_text(source)
    done = run(*options, program, stdin=textwrap.dedent(commands))
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stderr == ""
    lines = [line.replace("(Pdb) ", "") for line in done.stdout.splitlines()]
    return [line for line in lines if line and not line.startswith("> ")]


def line_of(source: str, text: str) -> int:
    return 1 + [text in line for line in source.splitlines()].index(True)


def test_pdb_steps_over_a_channel_receive(tmp_path: Path) -> None:
    line = line_of(PDB, "v = ch.recv()")
    shown = pdb(
        tmp_path,
        PDB,
        f"""
        tbreak {line}, n == 1
        continue
        next
        p name, v in (0, 10, 20)
        next
        next
        p w == v * 2
        next
        next
        continue
        quit
        """,
        "-m",
        "pdb",
    )
    assert [text for text in shown if text.startswith(("->", "(", "True", "results"))] == [
        "-> import sys",
        "-> v = ch.recv()",
        "-> log.append(name)",
        "('consumer 1', True)",
        "-> w = helper(v)",
        "-> gosched()",
        "True",
        "-> return w + n",
        "-> return w + n",  # --Return--
        *[text for text in shown if text.startswith("results")],
        "-> import sys",  # the program is restarted
    ]
    assert len([text for text in shown if text.startswith("results")]) == 1


def test_pdb_breaks_in_each_goroutine(tmp_path: Path) -> None:
    shown = pdb(
        tmp_path,
        PDB,
        f"""
        break {line_of(PDB, "w = v * 2")}
        continue
        p "stop", v
        up
        p name == log[-1]
        continue
        p "stop", v
        where
        continue
        p "stop", v
        step
        step
        step
        clear 1
        continue
        quit
        """,
        "-m",
        "pdb",
    )
    stops = [text for text in shown if text.startswith("('stop'")]
    assert sorted(stops) == ["('stop', 0)", "('stop', 10)", "('stop', 20)"]
    assert "True" in shown
    assert shown.count("-> return w") == 2  # at the line, and at the return
    assert len([text for text in shown if text.startswith("results")]) == 1


@pytest.mark.parametrize("place", ["go(body).join()", "on_another_m()"])
def test_pdb_set_trace_in_a_goroutine(tmp_path: Path, place: str) -> None:
    shown = pdb(
        tmp_path,
        f"""
import threading
from runtime import *

ch = Chan()

def body():
    go(ch.send, 5)
    go(sleep, 0.001)
    breakpoint()
    v = ch.recv()
    print("received", v)
    return v

def on_another_m():
    thread = threading.Thread(target=lambda: go(body).join())
    thread.start()
    thread.join()

{place}
print("end")
""",
        # From 3.13 on it stops in the line of breakpoint(), before in the next.
        ("next" if sys.version_info >= (3, 13) else "")
        + """
        next
        p v
        !go(print, "from the debugger").join()
        next
        next
        continue
        """,
    )
    assert shown[shown.index("-> v = ch.recv()") :] == [
        "-> v = ch.recv()",
        '-> print("received", v)',
        "5",
        "from the debugger",
        "received 5",
        "-> return v",
        "--Return--",
        "-> return v",
        "end",
    ]


def test_pdb_post_mortem_of_a_failed_goroutine(tmp_path: Path) -> None:
    shown = pdb(
        tmp_path,
        """
import pdb
from runtime import *

def inner(n):
    gosched()
    return 1 // n

def body(n):
    return list(map(inner, [n]))

g = go(body, 0)
try:
    g.join()
except ZeroDivisionError as e:
    pdb.post_mortem(e.__traceback__)
print("end")
""",
        """
        p n
        up
        p n, inner.__name__
        up
        p g.done()
        quit
        """,
    )
    assert [text for text in shown if not text.startswith("->")] == [
        "0",
        "(0, 'inner')",
        "True",
        "end",
    ]


# --- coverage -------------------------------------------------------------------------------------

COVERED = """\
import helpers
from runtime import *

ch = Chan()
def body(n):
    x = n
    if x > 100:
        never = 1
        never = 2
    v = ch.recv()
    y = local(v)
    gosched()
    z = helpers.deep(5, y)
    helpers.parks(ch)
    return z + len(list(helpers.generator(3)))
def local(v):
    sleep(0.0001)
    if v < 0:
        never = 3
    return v
gs = [go(body, i) for i in range(20)]
for _ in range(2):
    for i in range(20):
        ch.send(i)
        helpers.deep(1, i)
for g in gs:
    g.join()
"""
HELPERS = """\
# Lines that come after a switch here are lines that are not executed over there.
from runtime import *


def deep(n, y):
    if n == 0:
        gosched()
        return y
    r = deep(n - 1, y)
    gosched()
    return r
def parks(ch):
    try:
        ch.recv()
    finally:
        gosched()
    return None
def generator(n):
    for i in range(n):
        gosched()
        yield i
def never():
    never = 4
    return never
"""
NOT_COVERED = {"covered.py": [8, 9, 19], "helpers.py": [23, 24]}


def coverage(tmp_path: Path, core: str, *options: str, one_file: bool = False) -> Any:
    """The lines that were not executed, by file."""
    if one_file:
        source = COVERED.replace("import helpers\n", HELPERS).replace("helpers.", "")
        files = {"covered.py": source}
    else:
        files = {"covered.py": COVERED, "helpers.py": HELPERS}
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    config = tmp_path / "coveragerc"
    config.write_text(f"[run]\nsource = {tmp_path}\ndata_file = {tmp_path}/data\n")
    rc = f"--rcfile={config}"
    done = run(
        "-m", "coverage", "run", rc, *options, tmp_path / "covered.py", COVERAGE_CORE=core
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    report = tmp_path / "report.json"
    done = run("-m", "coverage", "json", rc, "-o", report)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["files"]
    return {Path(name).name: data["missing_lines"] for name, data in found.items()}


@pytest.mark.skipif(
    importlib.util.find_spec("coverage.tracer") is None,
    reason="coverage was built without its C tracer, which alone knows of greenlets",
)
@pytest.mark.parametrize(
    "options",
    ["", "--branch", "--concurrency=greenlet", "--concurrency=greenlet,thread --branch"],
    ids=["plain", "branches", "greenlet", "greenlet, thread and branches"],
)
def test_coverage_of_one_file(tmp_path: Path, options: str) -> None:
    shift = len(HELPERS.splitlines()) - 1
    expected = sorted(NOT_COVERED["helpers.py"] + [n + shift for n in NOT_COVERED["covered.py"]])
    missing = coverage(tmp_path, "ctrace", *options.split(), one_file=True)
    assert missing == {"covered.py": expected}


@NEW_IN_3_12
def test_coverage_of_several_files(tmp_path: Path) -> None:
    """Coverage's tracer looks which file is executed at calls and returns, but a goroutine comes
    back in the middle of a function; sys.monitoring tells it with each line.
    """
    assert coverage(tmp_path, "sysmon") == NOT_COVERED


# --- stacks ---------------------------------------------------------------------------------------


def recursive(n: int, frames: list[FrameType], ch: Chan[int]) -> int:
    if n:
        # Python and C frames in turn.
        return sorted([n - 1], key=lambda x: recursive(x, frames, ch))[0]
    frames.append(sys._getframe())
    return ch.recv()


def walk(frame: FrameType | None) -> list[str]:
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def chain(n: int) -> list[str]:
    return ["recursive", *["<lambda>", "recursive"] * n]


def test_frames_of_parked_goroutines_can_be_walked() -> None:
    frames: list[FrameType] = []
    ch: Chan[int] = Chan()
    gs = [go(recursive, n, frames, ch) for n in range(10)]
    wait_until_parked(*gs)
    # Others use the C stack meanwhile.
    others: list[FrameType] = []
    for g in [go(lambda n=n: sorted([n], key=lambda _: gosched() or 0)) for n in range(20)]:
        g.join()
    more = [go(recursive, 20, others, ch) for _ in range(3)]
    wait_until_parked(*more)
    gc.collect()
    assert sorted(map(walk, frames), key=len) == [chain(n) for n in range(10)]
    for frame in frames:
        assert [entry.name for entry in traceback.extract_stack(frame)] == walk(frame)[::-1]
        assert inspect.getframeinfo(frame).function == "recursive"
        assert inspect.getouterframes(frame)[-1].function == "recursive"
        assert frame.f_locals["ch"] is ch
        with pytest.raises(RuntimeError):
            frame.clear()  # it is executing
    for _ in range(13):
        ch.send(1)
    for g in [*gs, *more]:
        g.join()
    # Afterwards they are as any frame that has ended.
    for frame in frames:
        assert walk(frame)[0] == "recursive"
        traceback.extract_stack(frame)
        frame.clear()


def test_frames_of_goroutines_of_another_m_can_be_walked() -> None:
    frames: list[FrameType] = []
    ch: Chan[int] = Chan()
    running: Chan[int] = Chan()
    over = False

    def computes() -> None:
        running.send(1)
        while not over:
            callee(1)

    parked: list[Any] = []
    thread = threading.Thread(target=lambda: parked.append(go(recursive, 5, frames, ch)))
    thread.start()
    thread.join()
    wait_until_parked(*parked)
    busy: list[Any] = []
    thread = threading.Thread(target=lambda: busy.append(go(computes)))
    thread.start()
    running.recv()
    thread.join()
    for _ in range(100):
        assert walk(frames[0]) == chain(5)
        for frame in sys._current_frames().values():
            traceback.extract_stack(frame)
    over = True
    busy[0].join()
    ch.send(1)
    parked[0].join()


def test_stack_of_a_running_goroutine_is_its_own() -> None:
    def stack(n: int) -> tuple[list[str], list[str]]:
        if n:
            return stack(n - 1)
        gosched()
        inspected = [info.function for info in inspect.stack()]
        return [entry.name for entry in traceback.extract_stack()], inspected

    gs = [go(stack, n) for n in range(5)]
    for n, g in enumerate(gs):
        names = ["stack"] * (n + 1)
        assert g.join() == (names, names)


def test_traceback_of_a_parked_goroutine_s_exception_can_be_walked() -> None:
    """It handles an exception when it parks, and so do others."""
    ch: Chan[int] = Chan()
    handled: list[BaseException] = []

    def fails(n: int) -> None:
        if n:
            sorted([n - 1], key=fails)
        raise KeyError(n)

    def body(n: int) -> None:
        try:
            fails(n)
        except KeyError as e:
            handled.append(e)
            ch.recv()
            assert sys.exc_info()[1] is e

    gs = [go(body, n) for n in range(5)]
    wait_until_parked(*gs)
    for e in handled:
        assert e.__traceback__ is not None
        tb = traceback.extract_tb(e.__traceback__)
        assert {entry.name for entry in tb} == {"body", "fails"}
        assert walk(e.__traceback__.tb_frame) == ["body"]
        traceback.print_exception(e, file=io.StringIO())
    for _ in gs:
        ch.send(1)
    for g in gs:
        g.join()


def dump(tmp_path: Path) -> str:
    """What faulthandler dumps of all threads."""
    with (tmp_path / "dump").open("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read()


def test_faulthandler_dumps_while_goroutines_are_parked(tmp_path: Path) -> None:
    frames: list[FrameType] = []
    ch: Chan[int] = Chan()
    gs = [go(recursive, n, frames, ch) for n in range(10)]
    answer: Chan[Any] = Chan(1)
    thread = threading.Thread(target=lambda: answer.send(go(recursive, 3, frames, ch)))
    thread.start()
    thread.join()
    gs.append(answer.recv())
    wait_until_parked(*gs)
    assert f"in {dump.__name__}" in dump(tmp_path)
    inside = go(dump, tmp_path).join()
    assert f"in {dump.__name__}" in inside
    assert "test_faulthandler" not in inside.partition("Current thread")[2]
    assert f"in {dump.__name__}" in on_another_m(dump, tmp_path)
    for _ in gs:
        ch.send(1)
    for g in gs:
        g.join()


HANGS = """
import faulthandler, os, signal, threading
from runtime import *

def recursive(n, wait):
    return sorted([0], key=lambda _: recursive(n - 1, wait)) if n else wait()

for n in range(10):
    go(recursive, n, Chan().recv)
    go(recursive, n, lambda: sleep(1000))
started = Chan()
thread = threading.Thread(target=lambda: started.send(go(recursive, 5, Chan().recv)))
thread.start()
aux = started.recv()
thread.join()
while aux.state != "waiting":
    gosched()
"""


def test_faulthandler_watchdog_of_a_program_in_which_all_wait() -> None:
    done = run("-c", HANGS + "faulthandler.dump_traceback_later(0.3, exit=True)\nsleep(1000)\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Timeout")
    stacks = done.stderr.split("Thread 0x")[1:]
    assert len([s for s in stacks if "  File " in s]) == 2  # others run no Python
    assert "in recursive" in done.stderr


def test_faulthandler_dumps_on_a_signal_a_program_in_which_all_wait() -> None:
    """The way to look into a program that hangs."""
    source = """
faulthandler.register(signal.SIGUSR1)
go(os.write, 1, b"ready\\n")
try:
    sleep(1000)
except KeyboardInterrupt:
    print("interrupted")
"""
    with subprocess.Popen(
        [sys.executable, "-c", HANGS + source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        try:
            assert child.stdout.readline() == "ready\n"
            for _ in range(3):
                stat = Path(f"/proc/{child.pid}/stat")
                while stat.read_text().rpartition(")")[2].split()[0] == "R":
                    pass
                child.send_signal(signal.SIGUSR1)
                for line in child.stderr:
                    if line.startswith("Current thread"):
                        child.stderr.readline()
                        break
            child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=60)
        finally:
            child.kill()
    assert (child.returncode, out) == (0, "interrupted\n")


def test_tracemalloc_traces_goroutines() -> None:
    """It walks the stack at each allocation, also at those of the scheduler."""
    source = """
        import tracemalloc
        from runtime import *

        def body(n):
            if n:
                return sorted([n - 1], key=body)
            gosched()
            kept.append(bytearray(10_000))
            sleep(0.0001)
            return go(lambda: bytearray(10)).join()

        kept = []
        tracemalloc.start(25)
        for _ in range(3):
            for g in [go(body, n % 10) for n in range(50)]:
                g.join()
        stats = tracemalloc.take_snapshot().statistics("traceback")
        print(sum(s.size for s in stats if s.traceback[-1].lineno == 8))
        print(sorted({len(s.traceback) for s in stats if s.size > 10_000}))
    """
    done = run("-c", textwrap.dedent(source).strip())
    size = 150 * (10_000 + 1)
    assert done.stderr == ""
    found, depths = done.stdout.splitlines()
    assert size <= int(found) <= size + 150 * 100
    assert depths == str(list(range(1, 11)))


def test_linecache_and_warnings_name_the_goroutine_s_line(recwarn: Any) -> None:
    import warnings

    def body() -> None:
        gosched()
        warnings.warn("from a goroutine", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        go(body).join()
    assert [(w.filename, linecache.getline(w.filename, w.lineno).strip()) for w in caught] == [
        (__file__, 'warnings.warn("from a goroutine", UserWarning, stacklevel=1)')
    ]


def test_signal_handler_gets_the_frame_of_the_goroutine_it_interrupts() -> None:
    frames: list[FrameType | None] = []

    def body() -> None:
        signal.raise_signal(signal.SIGUSR2)
        gosched()

    old = signal.signal(signal.SIGUSR2, lambda signum, frame: frames.append(frame))
    try:
        go(body).join()
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert [walk(frame) for frame in frames] == [["body"]]
