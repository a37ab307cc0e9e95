"""Builds and runs the C tests of ``tests/c``, one pytest item for each program.

Each runs under ASan + UBSan, the threaded ones under TSan as well, and the run
queues also with a capacity of 4.  ``make -C tests/c list`` says which there are.
The model of the scheduler's wake-ups (``tests/model``) is checked, too.
"""

import fcntl
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
C_DIR = ROOT / "tests" / "c"
BUILD = ROOT / "build"
TIMEOUT = 600  # seconds, for one program

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or shutil.which(os.environ.get("CC", "gcc")) is None,
    reason="needs make and a C compiler",
)


def _make(*targets: str) -> subprocess.CompletedProcess[str]:
    BUILD.mkdir(exist_ok=True)
    # Several pytest workers would compile the same objects.
    with open(BUILD / ".c-tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return subprocess.run(
            ["make", "-s", "-C", str(C_DIR), *targets],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )


def _programs() -> list[str]:
    if shutil.which("make") is None:
        return []
    return _make("--no-print-directory", "list").stdout.split()


def _setarch() -> list[str]:
    """TSan cannot map its shadow where the kernel randomises addresses widely."""
    cmd = ["setarch", "-R"]
    if (
        shutil.which("setarch")
        and subprocess.run([*cmd, "true"], capture_output=True).returncode == 0
    ):
        return cmd
    return []


@pytest.fixture(scope="module", autouse=True)
def built(request: pytest.FixtureRequest) -> None:
    """All programs that the chosen tests need, several at a time; each test sees to its own."""
    items = [item for item in request.session.items if item.fspath == request.fspath]
    chosen = [item.callspec.params["program"] for item in items if hasattr(item, "callspec")]
    _make("-k", f"-j{os.cpu_count()}", "bin/model/sched_model", *(f"bin/{p}" for p in chosen))


@pytest.mark.parametrize("program", _programs())
def test_c_program_passes(program: str) -> None:
    built = _make(f"bin/{program}")
    assert built.returncode == 0, f"{program} does not build:\n{built.stdout}"
    config, name = program.split("/")
    tsan = config.startswith("tsan")
    try:
        ran = subprocess.run(
            [*(_setarch() if tsan else []), str(BUILD / f"c-{config}" / name)],
            cwd=ROOT,
            env={
                **os.environ,
                "UBSAN_OPTIONS": "print_stacktrace=1",
                "TSAN_OPTIONS": "halt_on_error=1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired as exc:
        output = (exc.stdout or b"").decode(errors="replace")
        pytest.fail(
            f"{program} did not end within {TIMEOUT} s; its output:\n{output}", pytrace=False
        )
    if tsan and "unexpected memory mapping" in ran.stdout:
        pytest.skip("TSan does not run on this kernel")
    if ran.returncode != 0:
        pytest.fail(
            f"{program} ended with {ran.returncode}; its output:\n{ran.stdout}", pytrace=False
        )


def _model(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BUILD / "c-model" / "sched_model"), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )


def test_model_of_wake_ups_holds() -> None:
    built = _make("bin/model/sched_model")
    assert built.returncode == 0, built.stdout
    ran = _model()
    assert ran.returncode == 0, ran.stdout
    assert "states" in ran.stdout


def test_model_finds_planted_mistakes() -> None:
    built = _make("bin/model/sched_model")
    assert built.returncode == 0, built.stdout
    mistakes = _model("--mutants").stdout.split()
    assert mistakes
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ended = pool.map(lambda name: _model("--mutant", name).returncode, mistakes)
        missed = [name for name, code in zip(mistakes, ended, strict=True) if code != 1]
    assert not missed


def test_c_programs_are_listed() -> None:
    """The list would be empty, and nothing tested, if the Makefile were broken."""
    expected = {f"asan/{path.stem}" for path in C_DIR.glob("test_*.c")}
    assert expected
    assert expected <= set(_programs())
