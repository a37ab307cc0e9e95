"""Stall reports: who keeps others waiting in a call, and where."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import programs

# On the spare P, so that no other P can take what waits.
PRELUDE = """
import ctypes, os, sys, threading, time
from runtime import *

waits = Chan()

def on_spare(fn, *args):
    def body():
        go(waits.recv_ok)
        sleep(0)                    # it is parked now
        g = go(fn, *args)
        g.join()
    t = threading.Thread(target=lambda: go(body).join())
    t.start()
    t.join()

def somebody_waits():
    go(sleep, 0.001)
    sleep(0)
"""


def line(n: int) -> int:
    """The number of the n-th line of a test's program."""
    return PRELUDE.count("\n") + 1 + n


def program(source: str) -> list[str]:
    return [sys.executable, "-c", PRELUDE + textwrap.dedent(source)]


SETTINGS = {"GOMAXPROCS": "1", "GOSCHED_STALL_MS": "20"}


def run(source: str, **env: str) -> subprocess.CompletedProcess[str]:
    return programs.run(PRELUDE + textwrap.dedent(source), **SETTINGS | env)


def run_until_reported(source: str, where: str) -> tuple[str, str]:
    """Run a program that blocks in a read of its standard input until it has reported that.

    Returns what it has written on standard output, and the report, which has `where` in it: on
    a busy machine anything else may be reported, too.
    """
    with subprocess.Popen(
        program(source),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=programs.environment(**SETTINGS),
    ) as child:
        try:
            assert child.stderr is not None
            report: list[str] = []
            for line in child.stderr:
                if line.startswith("gosched: "):
                    report.clear()
                report.append(line)
                if "GOSCHED_STALL_MS=0" in line and where in "".join(report):
                    break
            out, err = child.communicate("x", timeout=120)
        finally:
            child.kill()
    assert child.returncode == 0, err
    return out, "".join(report)


def test_call_that_blocks_is_reported() -> None:
    out, err = run_until_reported(
        """
        def read():
            somebody_waits()
            return outer()

        def outer():
            return os.read(0, 1)    # here

        on_spare(read)
        print("end")
        """,
        "in outer",
    )
    assert out == "end\n"
    first, *stack, advice = err.splitlines()
    assert re.fullmatch(
        r"gosched: goroutine \d+ \[goroutine-\d+\] has blocked its thread for \d+ ms in a call, "
        r"while others waited for P256",
        first,
    )
    stack = [line for line in stack if line.startswith("  File")]  # some come with their source
    assert stack[-1] == f'  File "<string>", line {line(6)}, in outer'
    assert stack[-2].endswith("in read")
    assert "runtime.blocking(fn, *args)" in advice


def test_report_names_goroutine_and_source_line(tmp_path: Path) -> None:
    (tmp_path / "blocker.py").write_text("import os\n\ndef body():\n    return os.read(0, 1)\n")
    _, err = run_until_reported(
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        import blocker
        def body():
            somebody_waits()
            blocker.body()
        on_spare(lambda: go.named("the reader")(body).join())
        """,
        "[the reader]",
    )
    assert "[the reader] has blocked its thread" in err
    lines = err.splitlines()
    at = lines.index(f'  File "{tmp_path / "blocker.py"}", line 4, in body')
    assert lines[at + 1] == "    return os.read(0, 1)"


def test_main_goroutine_that_blocks_is_reported() -> None:
    _, err = run_until_reported(
        """
        g = go(sleep, 0.001)
        sleep(0)                    # it waits on this P
        os.read(0, 1)
        g.join()
        """,
        f", line {line(3)}, in <module>",
    )
    assert re.match(r"gosched: goroutine \d+ \[main\] has blocked its thread", err)


def test_call_that_keeps_the_gil_is_reported() -> None:
    done = run(
        """
        def keep():
            somebody_waits()
            ctypes.PyDLL(None).usleep(200_000)
        on_spare(keep)
        print("end")
        """
    )
    assert (done.returncode, done.stdout) == (0, "end\n")
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        found = re.search(r"gosched: (.*) has kept the GIL for \d+ ms in a call(.*),", done.stderr)
        assert found, done.stderr
        if found[2] != " that has returned":  # sysmon got a processor in time
            assert re.fullmatch(r"goroutine \d+ \[\S+\]", found[1])
            assert f'File "<string>", line {line(3)}, in keep' in done.stderr
        assert "in smaller pieces" in done.stderr


def test_main_goroutine_that_keeps_the_gil_is_reported() -> None:
    done = run(
        """
        g = go(sleep, 0.001)
        sleep(0)
        ctypes.PyDLL(None).usleep(200_000)
        g.join()
        """
    )
    assert done.returncode == 0
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        assert "[main] has kept the GIL" in done.stderr
        if "in a call that has returned" not in done.stderr:  # sysmon got a processor in time
            assert f'File "<string>", line {line(3)}, in <module>' in done.stderr


NOT_REPORTED = {
    "nobody waits": "time.sleep(0.6)",
    "nobody waits in a goroutine": "go(time.sleep, 0.6).join()",
    "it parks": "go(sleep, 0.6).join(); sleep(0.6)",
    "Python code": """
g = go(sleep, 0.001)
end = time.perf_counter() + 0.6
while time.perf_counter() < end: pass
g.join()
""",
    "Python code that is not preempted": """
with nopreempt():
    g = go(sleep, 0.001)
    sleep(0)
    end = time.perf_counter() + 0.6
    while time.perf_counter() < end: pass
g.join()
""",
    "Python code while threads compute": """
def hog():
    while not over: pass
over = False
threads = [threading.Thread(target=hog) for _ in range(3)]
for t in threads: t.start()
g = go(sleep, 0.001)
end = time.perf_counter() + 0.9
while time.perf_counter() < end: pass
over = True
g.join()
for t in threads: t.join()
""",
    "blocking() does it": "gs = [go(blocking, time.sleep, 0.6) for _ in range(3)]\n"
    "for g in gs: g.join()",
    "short calls": """
g = go(sleep, 0.9)
end = time.perf_counter() + 0.6
while time.perf_counter() < end: time.sleep(0.001)
g.join()
""",
}


@pytest.mark.parametrize("source", NOT_REPORTED.values(), ids=NOT_REPORTED.keys())
def test_what_is_not_reported(source: str) -> None:
    done = run(source, GOSCHED_STALL_MS="300")
    assert (done.returncode, done.stderr) == (0, "")


def test_reports_can_be_turned_off() -> None:
    done = run(
        """
        g = go(sleep, 0.001)
        sleep(0)
        time.sleep(0.2)
        g.join()
        """,
        GOSCHED_STALL_MS="0",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_preemption_off_stalls_are_reported_all_the_same() -> None:
    done = run(
        """
        g = go(sleep, 0.001)
        sleep(0)
        time.sleep(1)
        end = time.perf_counter() + 0.6
        while time.perf_counter() < end: pass
        g.join()
        """,
        GOSCHED_PREEMPT="0",
        GOSCHED_STALL_MS="300",
    )
    assert done.returncode == 0
    assert done.stderr.count(f", line {line(3)}, in <module>") == 1


def test_line_that_stalls_again_and_again_is_reported_once() -> None:
    done = run(
        """
        def body():
            somebody_waits()
            time.sleep(0.1)
        for _ in range(15):
            on_spare(body)
        """
    )
    assert done.returncode == 0
    assert done.stderr.count(f", line {line(3)}, in body") == 1


def test_forked_child_reports_for_itself() -> None:
    done = run(
        """
        import warnings
        warnings.simplefilter("ignore")
        g = go(sleep, 0.001)
        sleep(0)
        pid = os.fork()
        if pid == 0:
            g = go(sleep, 0.001)
            sleep(0)
            time.sleep(1)
            g.join()
            os._exit(3)
        status = blocking(os.waitpid, pid, 0)[1]
        print(os.waitstatus_to_exitcode(status))
        """
    )
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert f", line {line(9)}, in <module>" in done.stderr


@pytest.mark.parametrize("value", ["-1", "1.5", "soon", "", "99999999999999999999"])
def test_setting_that_is_wrong_is_reported_and_ignored(value: str) -> None:
    done = run("pass", GOSCHED_STALL_MS=value)
    assert done.returncode == 0
    assert done.stderr == (
        f"gosched: GOSCHED_STALL_MS={value} ignored: expected milliseconds (0: no reports)\n"
    )
