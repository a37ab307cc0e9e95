"""The program ends with its main goroutine: promptly, silently, with the right code."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import runtime

ROOT = Path(runtime.__file__).resolve().parents[1]


def run(source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; the time limit is only a safety net."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path},
    )


DEV = ["-X", "dev", "-W", "error"]

SITUATIONS = {
    "nothing else": "",
    "fresh goroutines": "for _ in range(1000): go(print, 'never')",
    "thousands parked": """
ch = Chan()
for _ in range(5000): go(ch.recv)
for _ in range(3): gosched()
""",
    "sleeping": """
for _ in range(100): go(sleep, 1000)
for _ in range(3): gosched()
""",
    "parked deep in C and generators": """
ch = Chan()
def gen():
    with mu:
        try:
            yield ch.recv()
        finally:
            ch.recv()
mu = Mutex()
for _ in range(100):
    go(sorted, range(3), key=lambda x: ch.recv())
    go(list, gen())
for _ in range(3): gosched()
""",
    "parked in an exception handler": """
ch = Chan()
def body():
    try:
        1 / 0
    except ZeroDivisionError:
        try:
            ch.recv()
        finally:
            print("never")
for _ in range(10): go(body)
for _ in range(3): gosched()
""",
    "aux M idle": """
t = threading.Thread(target=lambda: go(len, "x"))
t.start(); t.join()
""",
    "aux M with parked goroutines": """
ch = Chan(); up = Chan()
def spawner():
    for _ in range(1000): go(ch.recv)
    go(up.send, 1)
threading.Thread(target=spawner).start()
up.recv()
""",
    "aux M runs Python for ever": """
up = Chan()
def spin():
    up.send(1)
    while True: pass
threading.Thread(target=lambda: go(spin)).start()
up.recv()
""",
    "aux M in a system call": """
up = Chan()
def call():
    up.send(1)
    r, w = os.pipe()
    os.read(r, 1)
threading.Thread(target=lambda: go(call)).start()
up.recv()
""",
    "aux M spawns and yields for ever": """
up = Chan()
def spin():
    up.send(1)
    while True:
        go(len, "x")
        gosched()
threading.Thread(target=lambda: go(spin)).start()
up.recv()
""",
    "daemon threads blocked": """
ch = Chan(); mu = Mutex(); mu.lock(); wg = WaitGroup(); wg.add()
g = go(ch.recv)
up = Chan()
def thread(wait):
    up.send(1)
    wait()
for wait in (ch.recv, lambda: ch.recv(1000), mu.lock, wg.wait, g.join, lambda: sleep(1000)):
    threading.Thread(target=thread, args=(wait,), daemon=True).start()
    up.recv()
""",
    "handles and channels in globals": """
ch = Chan(10)
gs = [go(ch.send, i) for i in range(20)]
for _ in range(3): gosched()
cycle = [ch]; cycle.append(cycle); ch.try_recv(); ch.try_send(cycle)
""",
    "failed and asked": """
g = go(lambda: 1 / 0)
gosched()
assert g.exception()
""",
    "greenlets of the program": """
import greenlet
def body():
    greenlet.greenlet(Chan().recv).switch()
for _ in range(10): go(body)
for _ in range(3): gosched()
""",
}


@pytest.mark.parametrize("options", [[], DEV], ids=["plain", "dev"])
@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_main_returns_and_the_program_ends(situation: str, options: list[str]) -> None:
    done = run(
        "import atexit, os, threading\nfrom runtime import *\n"
        f"atexit.register(print, 'atexit')\n{situation}\nprint('end')\n",
        *options,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\natexit\n", "")


@pytest.mark.parametrize("situation", ["thousands parked", "aux M runs Python for ever"])
def test_sys_exit_in_main_sets_the_code(situation: str) -> None:
    done = run(
        f"import sys, threading\nfrom runtime import *\n{SITUATIONS[situation]}\nsys.exit(7)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_exception_in_main_is_shown_once() -> None:
    done = run(
        """
        from runtime import *

        ch = Chan()
        for _ in range(100):
            go(ch.recv)
        gosched()
        raise ValueError("main")
        """
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: main"
    assert done.stderr.count("Traceback") == 1


def test_failed_goroutine_with_a_global_handle_is_reported_at_exit() -> None:
    done = run(
        """
        from runtime import *

        g = go.named("kept")(lambda: 1 / 0)
        gosched()
        print("end")
        """
    )
    assert (done.returncode, done.stdout) == (0, "end\n")
    assert "[kept] failed" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_atexit_handlers_may_use_the_runtime() -> None:
    done = run(
        """
        import atexit
        from runtime import *

        ch = Chan()
        mine = Chan()

        @atexit.register
        def late():
            go(ch.send, "from atexit")
            print(ch.recv())
            print(go(lambda: "joined").join())
            sleep(0.001)
            try:
                mine.recv(timeout=0.001)
            except TimeoutError:
                print("timeout")

        go(mine.recv)
        gosched()
        mine.send(None)
        print("end")
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "end\nfrom atexit\njoined\ntimeout\n"


def test_main_thread_ends_before_other_threads_which_go_on() -> None:
    done = run(
        """
        import threading
        from runtime import *

        ch = Chan()
        ended = threading.Event()

        def consumer():
            ended.wait()
            for value in ch:
                print("got", value)

        def producer():
            ended.wait()
            for i in range(3):
                ch.send(i, timeout=60)
            ch.close()

        threading.Thread(target=consumer).start()
        threading.Thread(target=producer).start()
        print("main ends")
        ended.set()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "main ends\ngot 0\ngot 1\ngot 2\n"


def test_os_exit_in_a_goroutine() -> None:
    done = run("import os\nfrom runtime import *\ngo(os._exit, 5)\ngosched()\n")
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "")


def test_second_interpreter_is_refused() -> None:
    done = run(
        """
        import runtime
        try:
            import _xxsubinterpreters as interpreters
        except ImportError:
            import _interpreters as interpreters
        interp = interpreters.create()
        code = "try: import runtime\\nexcept ImportError: pass\\nelse: raise SystemExit('loaded')"
        interpreters.run_string(interp, code)
        print(runtime.go(lambda: "first one works").join())
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "first one works\n", "")
