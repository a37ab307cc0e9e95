"""GOSCHED_TRACE: a line about the scheduler every so many milliseconds, as in Go."""

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from programs import environment

SUMMARY = re.compile(
    r"SCHED \d+ms: gomaxprocs=\d+ idleprocs=\d+ threads=\d+ spinningthreads=\d+ idlethreads=\d+ "
    r"runqueue=\d+ \[\d+( \d+)*\]"
)
P_LINE = re.compile(
    r"  P\d+: status=[01] schedtick=\d+ m=\d+ runqsize=\d+ timerslen=\d+ descriptors=\d+ "
    r"polls=\d+ preemptions=\d+"
)
M_LINE = re.compile(
    r"  M\d+: p=\d+ curg=(nil|\d+) spinning=(true|false) blocked=(true|false) idleworkers=\d+"
)
G_LINE = re.compile(r"  G\d+: status=(1|2|4)\(([^)]*)\) m=(nil|\d+) lockedm=(nil|\d+)")

# Runs until it has been traced as often as somebody wants to read.
PROGRAM = """
import os, sys
from runtime import *

go(Chan().recv)
go(sleep, 1000)
blocking(os.read, 0, 1)
print("end")
"""


def start(source: str, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**{"GOMAXPROCS": "1"} | env),
    )


def summaries(wanted: int) -> Callable[[list[str]], bool]:
    """Whether so many have come, of which the last says that nothing runs."""

    def enough(lines: list[str]) -> bool:
        found = [line for line in lines if line.startswith("SCHED ")]
        return len(found) >= wanted and "gomaxprocs=1 idleprocs=1 " in found[-1]

    return enough


def trace(
    source: str, setting: str, enough: Callable[[list[str]], bool], **env: str
) -> list[str]:
    """The lines on standard error until a summary comes with which they are enough.

    Then the program ends.
    """
    with start(source, GOSCHED_TRACE=setting, **env) as child:
        try:
            assert child.stderr is not None
            lines: list[str] = []
            while not (lines and lines[-1].startswith("SCHED ") and enough(lines)):
                line = child.stderr.readline()
                assert line, "the program has ended"
                lines.append(line.rstrip("\n"))
            out, _ = child.communicate("x", timeout=120)
        finally:
            child.kill()
    assert (child.returncode, out) == (0, "end\n")
    return lines


def test_summary_comes_again_and_again() -> None:
    lines = trace(PROGRAM, "schedtrace=20", summaries(5))
    assert all(map(SUMMARY.fullmatch, lines))
    times = [int(re.findall(r"\d+", line)[0]) for line in lines]
    assert times == sorted(times)


def test_summary_counts_goroutines_that_wait_for_their_turn() -> None:
    lines = trace(
        """
        from runtime import *
        import os
        def hog():
            while not over:
                pass
        over = []
        for _ in range(5):
            go(hog)
        blocking(os.read, 0, 1)
        over.append(1)
        print("end")
        """,
        "schedtrace=10",
        lambda lines: lines[-1].endswith("[4]"),
    )
    assert SUMMARY.fullmatch(lines[-1])


def test_detail_adds_ps_ms_and_gs() -> None:
    def reasons(lines: list[str]) -> set[str]:
        return {match[2] for line in lines if (match := G_LINE.fullmatch(line))}

    lines = trace(
        PROGRAM,
        "scheddetail=1,schedtrace=20",
        lambda lines: summaries(4)(lines) and {"chan receive", "sleep"} <= reasons(lines),
    )
    kinds = "".join(line.strip()[0] for line in lines)
    assert re.fullmatch(r"(SP+M+G+)+S", kinds)
    patterns = {"S": SUMMARY, "P": P_LINE, "M": M_LINE, "G": G_LINE}
    for kind, line in zip(kinds, lines, strict=True):
        assert patterns[kind].fullmatch(line), line


def test_detail_says_who_runs() -> None:
    """Those of one summary agree, unless somebody has begun or ended just then."""

    def enough(lines: list[str]) -> bool:
        *_, one, _ = "\n".join(lines).split("SCHED ")
        details = one.split("\n")[1:]
        running = {match[0].split(":")[0][3:] for line in details
                   if (match := G_LINE.fullmatch(line)) and match[1] == "2"}  # fmt: skip
        current = {match[1] for line in details if (match := M_LINE.fullmatch(line))} - {"nil"}
        return len(current) == 1 and current == running and current != {"1"}

    trace(
        """
        from runtime import *
        import os
        def hog():
            while not over:
                pass
        over = []
        g = go(hog)
        blocking(os.read, 0, 1)
        over.append(1)
        g.join()
        os.write(1, b"end\\n")
        os._exit(0)
        """,
        "schedtrace=10,scheddetail=1",
        enough,
    )


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL"
)
def test_summary_needs_no_gil() -> None:
    lines = trace(
        """
        import ctypes, os
        from runtime import *
        go(int).join()
        ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)
        print("end")
        """,
        "schedtrace=10",
        lambda lines: len(lines) >= 5,
        GOSCHED_STALL_MS="0",
    )
    assert all(map(SUMMARY.fullmatch, lines))


@pytest.mark.parametrize(
    "value", ["yes", "schedtrace", "schedtrace=", "schedtrace=-5", "scheddetail=2",
              "schedtrace=10,unknown=1", "schedtrace=1000000000000000"],
)  # fmt: skip
def test_setting_that_is_wrong_is_reported_and_ignored(value: str) -> None:
    with start("import runtime; runtime.go(int).join()", GOSCHED_TRACE=value) as child:
        out, err = child.communicate(timeout=120)
    assert (child.returncode, out) == (0, "")
    assert err == (
        f"gosched: GOSCHED_TRACE={value} ignored: expected e.g. schedtrace=1000,scheddetail=1 "
        "(ms; 0 or 1)\n"
    )


def test_setting_of_zero_traces_nothing() -> None:
    with start("import runtime; runtime.sleep(0.05)", GOSCHED_TRACE="schedtrace=0") as child:
        out, err = child.communicate(timeout=120)
    assert (child.returncode, out, err) == (0, "", "")
