"""Processes that goroutines start: multiprocessing, concurrent.futures, subprocess."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runtime
from programs import environment
from runtime import Chan, go, gosched


def in_main(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def in_goroutine(fn: Callable[..., Any], *args: Any) -> Any:
    return go(fn, *args).join()


def on_another_m(fn: Callable[..., Any], *args: Any) -> Any:
    answer: Chan[Any] = Chan(1)
    thread = threading.Thread(target=lambda: answer.send(go(fn, *args)))
    thread.start()
    thread.join()
    return answer.recv().join()


places = pytest.mark.parametrize("place", [in_main, in_goroutine, on_another_m])


def script(tmp_path: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program that processes of its own can import."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", *options, path],
        capture_output=True,
        text=True,
        timeout=110,  # only a safety net
        env=environment(),
    )


# --- multiprocessing ------------------------------------------------------------------------------

METHODS = ["fork", "forkserver", "spawn"]

PROGRAM = """
import multiprocessing, os, sys, threading
from concurrent.futures import ProcessPoolExecutor
from runtime import *

def square(n):
    ch = Chan()
    go(lambda: (sleep(0.001), ch.send(n * n)))
    return ch.recv(timeout=30)

def put(queue, n):
    queue.put(square(n))

def answer(conn):
    for n in iter(conn.recv, None):
        conn.send(square(n))

def count(value, lock):
    for _ in range(100):
        with lock:
            value.value += go(lambda: 1).join()

def ends(how):
    go(Chan().recv)             # parked when the process ends
    gosched()
    if how == "exit":
        sys.exit(7)
    if how == "exit of a goroutine":
        go(sys.exit, 8)
        sleep(1000)
    if how == "raise":
        raise ValueError("in the child")
    if how == "sleep":
        sleep(1000)

def on_another_m(fn, *args):
    answer = Chan(1)
    thread = threading.Thread(target=lambda: answer.send(go(fn, *args)))
    thread.start()
    thread.join()
    return answer.recv().join()

def context():
    return multiprocessing.get_context(METHOD)
"""


@pytest.fixture(params=METHODS)
def program(request: pytest.FixtureRequest) -> str:
    return f"METHOD = {request.param!r}\n" + PROGRAM


def test_multiprocessing_in_a_goroutine(program: str, tmp_path: Path) -> None:
    done = script(
        tmp_path,
        program
        + """
def main():
    ctx = context()
    queue, (here, there) = ctx.Queue(), ctx.Pipe()
    value, lock = ctx.Value("i", 0, lock=False), ctx.Lock()
    processes = [
        ctx.Process(target=put, args=(queue, 3)),
        ctx.Process(target=answer, args=(there,)),
        ctx.Process(target=count, args=(value, lock)),
    ]
    for process in processes:
        process.start()
    print("queue", queue.get())
    here.send(4)
    print("pipe", here.recv())
    here.send(None)
    count(value, lock)
    for process in processes:
        process.join()
    print("value", value.value)
    print("exit codes", [process.exitcode for process in processes])
    print("in the parent", square(5))

if __name__ == "__main__":
    parked = [go(Chan().recv) for _ in range(100)]
    gosched()
    go(main).join()
    on_another_m(main)
    assert all(g.state == "waiting" for g in parked)
""",
    )
    one = "queue 9\npipe 16\nvalue 200\nexit codes [0, 0, 0]\nin the parent 25\n"
    assert (done.stdout, done.stderr, done.returncode) == (one * 2, "", 0)


def test_multiprocessing_exit_codes(program: str, tmp_path: Path) -> None:
    done = script(
        tmp_path,
        program
        + """
def main():
    ctx = context()
    for how in ("return", "exit", "exit of a goroutine", "raise", "sleep"):
        process = ctx.Process(target=ends, args=(how,))
        process.start()
        if how == "sleep":
            process.terminate()
        process.join()
        print(how, process.exitcode)

if __name__ == "__main__":
    go(main).join()
""",
    )
    assert done.stdout == "return 0\nexit 7\nexit of a goroutine 8\nraise 1\nsleep -15\n"
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("ValueError: in the child\n")


def test_process_pools_in_goroutines(program: str, tmp_path: Path) -> None:
    done = script(
        tmp_path,
        program
        + """
def pool():
    with context().Pool(2) as pool:
        print("pool", pool.map(square, range(5)))
        print("apply", pool.apply_async(square, (6,)).get())

def executor():
    with ProcessPoolExecutor(2, mp_context=context()) as executor:
        print("executor", list(executor.map(square, range(5))))
        futures = [executor.submit(square, n) for n in range(5)]
        print("joined in goroutines", [go(f.result).join() for f in futures])

if __name__ == "__main__":
    for place in (lambda fn: go(fn).join(), on_another_m):
        place(pool)
        place(executor)
""",
    )
    squares = [0, 1, 4, 9, 16]
    one = f"pool {squares}\napply 36\nexecutor {squares}\njoined in goroutines {squares}\n"
    assert (done.stdout, done.stderr, done.returncode) == (one * 2, "", 0)


def test_functions_in_children_are_preempted(program: str, tmp_path: Path) -> None:
    """Whatever has started the child, or calls the function there, may hold locks."""
    done = script(
        tmp_path,
        program
        + """
def compute(n=1):
    seen = []
    go(seen.append, n)
    while not seen:
        pass
    return seen[0]

def main():
    process = context().Process(target=compute)
    process.start()
    process.join()
    print("process", process.exitcode)
    with context().Pool(1) as pool:
        print("pool", pool.apply(compute), pool.map(compute, [2, 3]))
    with ProcessPoolExecutor(1, mp_context=context()) as executor:
        print("executor", executor.submit(compute).result(), list(executor.map(compute, [2, 3])))

if __name__ == "__main__":
    go(main).join()
""",
    )
    wanted = "process 0\npool 1 [2, 3]\nexecutor 1 [2, 3]\n"
    assert (done.stdout, done.stderr, done.returncode) == (wanted, "", 0)


def test_multiprocessing_child_of_a_child(program: str, tmp_path: Path) -> None:
    done = script(
        tmp_path,
        program
        + """
def nested(queue, depth):
    if depth:
        process = context().Process(target=nested, args=(queue, depth - 1))
        process.start()
        process.join()
        assert process.exitcode == 0
    queue.put(square(depth))

def in_goroutine(queue, depth):
    go(nested, queue, depth).join()

if __name__ == "__main__":
    queue = context().Queue()
    process = context().Process(target=in_goroutine, args=(queue, 2))
    process.start()
    print([queue.get() for _ in range(3)])
    process.join()
    print(process.exitcode)
""",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[0, 1, 4]\n0\n", "", 0)


# --- subprocess -----------------------------------------------------------------------------------

PYTHON = [sys.executable, "-S", "-c"]


@places
def test_subprocess_run(place: Callable[..., Any]) -> None:
    done = place(
        lambda: subprocess.run(
            [*PYTHON, "import sys; print(sys.stdin.read()[::-1]); sys.exit(3)"],
            input="abc",
            capture_output=True,
            text=True,
        )
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "cba\n", "")


@places
def test_subprocess_check_and_time_out(place: Callable[..., Any]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        place(lambda: subprocess.run(["false"], check=True))
    with pytest.raises(subprocess.TimeoutExpired):
        place(lambda: subprocess.run(["sleep", "1000"], timeout=0.01))
    with pytest.raises(FileNotFoundError):
        place(lambda: subprocess.run(["/nonexistent"]))
    assert place(lambda: subprocess.check_output(["echo", "x"])) == b"x\n"
    assert place(os.system, "exit 3") == 3 << 8
    with place(os.popen, "echo y") as pipe:
        assert place(pipe.read) == "y\n"


@places
def test_subprocess_communicate_more_than_a_pipe_holds(place: Callable[..., Any]) -> None:
    data = os.urandom(300_000)

    def body() -> tuple[bytes, bytes]:
        with subprocess.Popen(
            ["sh", "-c", "tee /dev/stderr"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            return process.communicate(data)

    assert place(body) == (data, data)


@places
def test_subprocess_that_a_goroutine_talks_with(place: Callable[..., Any]) -> None:
    def body() -> list[bytes]:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            answers = []
            for i in range(10):
                process.stdin.write(b"%d\n" % i)
                process.stdin.flush()
                gosched()
                answers.append(process.stdout.readline())
            process.stdin.close()
            assert process.wait() == 0
        return answers

    assert place(body) == [b"%d\n" % i for i in range(10)]


def test_subprocesses_of_many_goroutines() -> None:
    def body(n: int) -> bytes:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            gosched()
            return process.communicate(b"%d" % n)[0]

    assert [g.join() for g in [go(body, n) for n in range(20)]] == [b"%d" % n for n in range(20)]


@places
def test_subprocess_preexec_fn_forks_and_the_parent_goes_on(place: Callable[..., Any]) -> None:
    ch: Chan[int] = Chan()
    parked = go(ch.recv)
    sleeps = go(runtime.sleep, 0.02)
    gosched()
    done = place(
        lambda: subprocess.run(
            ["sh", "-c", "echo $VALUE"],
            preexec_fn=lambda: os.environ.__setitem__("VALUE", go(lambda: "x").join()),
            stdout=subprocess.PIPE,
        )
    )
    assert done.returncode == 0
    sleeps.join(timeout=30)
    ch.send(1)
    assert parked.join() == 1


@places
def test_subprocess_inherits_nothing_of_the_runtime(place: Callable[..., Any]) -> None:
    """Neither descriptors, even where all are kept open, nor a blocked or ignored signal."""
    code = """
import os
for fd in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{fd}"))
    except FileNotFoundError:
        pass
print(open("/proc/self/status").read())
"""
    ch: Chan[int] = Chan()
    parked = go(ch.recv, timeout=1000)
    gosched()
    out = place(lambda: subprocess.check_output([*PYTHON, code], text=True, close_fds=False))
    ch.send(1)
    assert parked.join() == 1
    assert "eventpoll" not in out and "eventfd" not in out
    masks = dict(re.findall(r"^(Sig\w+):\s+([0-9a-f]+)$", out, re.MULTILINE))
    assert int(masks["SigBlk"], 16) == 0
    assert not int(masks["SigIgn"], 16) & (1 << (signal.SIGURG - 1))
    assert not int(masks["SigIgn"], 16) & (1 << (signal.SIGINT - 1))
