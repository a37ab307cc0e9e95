"""Signals to a running program: Ctrl-C reaches main, handlers may wake goroutines.

The programs tell by a line on their standard output when the signal may come.  It is
written by a goroutine that runs because main is parked already.
"""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from programs import environment

PRELUDE = """
import os, signal, sys, threading
from runtime import *

def ready():
    os.write(1, b"ready\\n")  # print() holds a lock while the answer to this may come already

def ready_once_main_waits():
    while main.state != "waiting":  # this may run on another P
        gosched()
    ready()

main = current()

def spin():
    ready()
    while True:
        pass
"""


def wait_until_asleep(pid: int) -> None:
    """Wait until the process waits for something: here, until all goroutines are parked."""
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "R":
        pass


def run(source: str, *signals: int, asleep: bool = False) -> tuple[int, str, str]:
    """Run a program; send one of the signals for each line "ready" it prints."""
    lines = []
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Some of these handlers wait.
        env=environment(GOSCHED_CHECK_WAITS="0"),
    ) as child:
        assert child.stdout is not None
        try:
            for signum in signals:
                for line in child.stdout:
                    if line == "ready\n":
                        if asleep:
                            wait_until_asleep(child.pid)
                        child.send_signal(signum)
                        break
                    lines.append(line)
            out, err = child.communicate(timeout=120)  # only a safety net
        finally:
            child.kill()
    return child.returncode, "".join(lines) + out, err


BLOCKED_MAIN = {
    "recv": "Chan().recv()",
    "recv with timeout": "Chan().recv(timeout=1000)",
    "send": "Chan().send(1)",
    "iteration": "for _ in Chan(): pass",
    "sleep": "sleep(1000)",
    "join": "go(Chan().recv).join()",
    "join with timeout": "go(Chan().recv).join(1000)",
    "wait": "wg = WaitGroup(); wg.add(); wg.wait()",
    "lock": "mu = Mutex(); mu.lock(); mu.lock()",
    "goexit": "goexit()",
    "gosched": "while True: gosched()",
}
OTHERS = {
    "all blocked": "go(ready); go(Chan().recv); go(sleep, 1000)",
    "tight loop": "go(spin)",
    "two yielding": """
def yields():
    while True:
        gosched()
go(yields); go(yields); go(ready)
""",
    "ping pong": """
a, b = Chan(), Chan()
def ping():
    while True:
        a.send(1); b.recv()
def pong():
    ready()
    while True:
        a.recv(); b.send(1)
go(ping); go(pong)
""",
    # Kept: its end would run weakref callbacks of threading's own in main, where CPython loses a
    # KeyboardInterrupt ("Exception ignored in").
    "aux M in a tight loop": "thread = threading.Thread(target=lambda: go(spin)); thread.start()",
    "daemon thread blocked": """
def thread():
    go(ready)
    Chan().recv()
threading.Thread(target=thread, daemon=True).start()
""",
}


# Main must park once in gosched(), where it cannot while a goroutine never yields.
@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("main", BLOCKED_MAIN.values(), ids=BLOCKED_MAIN.keys())
def test_sigint_reaches_blocked_main(main: str, others: str) -> None:
    code, out, err = run(
        f"""
try:
    {others.strip().replace(chr(10), chr(10) + "    ")}
    {main}
except KeyboardInterrupt:
    print("interrupted")
""",
        signal.SIGINT,
    )
    assert (code, out, err) == (0, "interrupted\n", "")


def test_sigint_reaches_main_that_runs_python() -> None:
    code, out, err = run(
        """
        try:
            ready()
            while True:
                pass
        except KeyboardInterrupt:
            print("interrupted")
        """,
        signal.SIGINT,
    )
    assert (code, out, err) == (0, "interrupted\n", "")


def test_sigint_uncaught_ends_the_program_as_usual() -> None:
    code, _, err = run("go(ready)\nsleep(1000)\n", signal.SIGINT)
    assert code == -signal.SIGINT
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert err.count("Traceback") == 1


def test_sigint_many_times_main_goes_on_and_goroutines_survive() -> None:
    code, out, err = run(
        """
        requests, answers = Chan(), Chan()

        def server():
            for x in requests:
                answers.send(x * x)

        go(server)
        for i in range(5):
            try:
                go(ready)
                Chan().recv(timeout=1000)
            except KeyboardInterrupt:
                requests.send(i)
                print(answers.recv())
        """,
        *[signal.SIGINT] * 5,
    )
    assert (code, err) == (0, "")
    assert out == "0\n1\n4\n9\n16\n"


def test_sigint_leaves_the_tight_loop_running() -> None:
    code, out, err = run(
        """
        stop = False

        def loop():
            ready_once_main_waits()
            while not stop:
                pass
            return "loop ended by itself"

        g = go(loop)
        try:
            g.join()
        except KeyboardInterrupt:
            stop = True
        print(g.join())
        """,
        signal.SIGINT,
    )
    assert (code, out, err) == (0, "loop ended by itself\n", "")


def test_sigint_interrupted_wait_takes_nothing() -> None:
    code, out, err = run(
        """
        ch, mu, wg = Chan(), Mutex(), WaitGroup()
        mu.lock()
        wg.add()
        go(sleep, 1000)
        for wait in (ch.recv, lambda: ch.send("lost"), mu.lock, wg.wait):
            try:
                go(ready)
                wait()
            except KeyboardInterrupt:
                print("interrupted")
        assert ch.try_recv() == (None, False)
        assert not ch.try_send("nobody receives")
        mu.unlock()
        assert mu.try_lock()
        go(ch.send, "kept")
        print(ch.recv())
        """,
        *[signal.SIGINT] * 4,
    )
    assert (code, out, err) == (0, "interrupted\n" * 4 + "kept\n", "")


def test_sigint_default_handler_of_the_program_works_too() -> None:
    code, out, err = run(
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            go(ready)
            sleep(1000)
        except KeyboardInterrupt:
            print("interrupted")
        """,
        signal.SIGINT,
    )
    assert (code, out, err) == (0, "interrupted\n", "")


def test_sigint_ignored_is_ignored() -> None:
    code, out, err = run(
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ch = Chan()
        signal.signal(signal.SIGUSR1, lambda *a: ch.close())
        go(ready)
        go(ready)
        ch.recv_ok()
        print("end")
        """,
        signal.SIGINT,
        signal.SIGUSR1,
    )
    assert (code, out, err) == (0, "end\n", "")


def test_sigint_handler_set_before_the_import_is_kept() -> None:
    code, out, err = run(
        """
        import subprocess
        code = '''
        import signal
        def mine(*args): pass
        signal.signal(signal.SIGINT, mine)
        import runtime
        print(signal.getsignal(signal.SIGINT) is mine)
        '''.replace("        ", "")
        subprocess.run([sys.executable, "-c", code])
        """
    )
    assert (code, out, err) == (0, "True\n", "")


def test_sigterm_default_ends_the_process() -> None:
    for others in OTHERS.values():
        code, out, err = run(f"{others}\nChan().recv()\n", signal.SIGTERM)
        assert (code, out, err) == (-signal.SIGTERM, "", "")


# --- the program's own handlers -------------------------------------------------------------------


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS.keys())
def test_handler_may_close_a_channel_main_waits_for(others: str) -> None:
    code, out, err = run(
        f"""
stop = Chan()
def handler(*args):
    stop.close()
    if threading.current_thread() is threading.main_thread() and runtime_spins:
        gosched()
runtime_spins = {others == OTHERS["tight loop"]}
signal.signal(signal.SIGTERM, handler)
{others}
print(stop.recv_ok())
""",
        signal.SIGTERM,
    )
    assert (code, out, err) == (0, "(None, False)\n", "")


def test_handler_may_send_without_waiting() -> None:
    code, out, err = run(
        """
        ch = Chan(10)
        signal.signal(signal.SIGUSR1, lambda s, f: ch.try_send(signal.Signals(s).name))
        signal.signal(signal.SIGUSR2, lambda s, f: ch.send(signal.Signals(s).name))
        for _ in range(4):
            go(ready)
            print(ch.recv())
        """,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGUSR2,
        signal.SIGUSR1,
    )
    assert (code, out, err) == (0, "SIGUSR1\nSIGUSR2\nSIGUSR2\nSIGUSR1\n", "")


def test_handler_may_hand_a_value_to_a_parked_goroutine() -> None:
    code, out, err = run(
        """
        ch = Chan()
        signal.signal(signal.SIGUSR1, lambda *a: ch.send("handed over"))
        g = go(ch.recv)
        while g.state != "waiting":  # another P may have it
            gosched()
        go(ready)
        print(g.join())
        """,
        signal.SIGUSR1,
    )
    assert (code, out, err) == (0, "handed over\n", "")


def test_handler_may_spawn_what_blocks() -> None:
    code, out, err = run(
        """
        ch = Chan()
        signal.signal(signal.SIGUSR1, lambda *a: go(ch.send, "spawned"))
        go(ready)
        print(ch.recv())
        """,
        signal.SIGUSR1,
    )
    assert (code, out, err) == (0, "spawned\n", "")


def test_handler_that_raises_interrupts_main() -> None:
    code, out, err = run(
        """
        class Stop(Exception):
            pass

        def handler(*args):
            raise Stop("now")

        signal.signal(signal.SIGUSR1, handler)
        survivor = go(gosched)
        try:
            go(ready_once_main_waits)
            Chan().recv()
        except Stop as e:
            print(repr(e))
        survivor.join()
        print("goes on")
        """,
        signal.SIGUSR1,
        asleep=True,
    )
    assert (code, out, err) == (0, "Stop('now')\ngoes on\n", "")


def test_handler_that_exits_ends_the_program() -> None:
    code, out, err = run(
        """
        signal.signal(signal.SIGTERM, lambda *a: sys.exit(6))
        for _ in range(100):
            go(Chan().recv)
        go(ready)
        Chan().recv()
        """,
        signal.SIGTERM,
    )
    assert (code, out, err) == (6, "", "")


@pytest.mark.parametrize(
    "call",
    ["Chan().recv()", "Chan().send(1)", "sleep(1)", "gosched()", "go(len, 'x').join()", "goexit()",
     "mu.lock()", "wg.wait()", "current()"],
)  # fmt: skip
def test_handler_that_would_block_while_all_wait_gets_runtime_error(call: str) -> None:
    code, out, err = run(
        f"""
mu, wg = Mutex(), WaitGroup()
mu.lock(); wg.add()
def handler(*args):
    {call}
signal.signal(signal.SIGUSR1, handler)
try:
    go(ready_once_main_waits)
    Chan().recv()
except RuntimeError as e:
    print(e)
print(go(lambda: "goes on").join())
""",
        signal.SIGUSR1,
        asleep=True,
    )
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert "the scheduler itself runs this code" in first
    assert "runtime.go()" in first
    assert second == "goes on"


def test_handler_may_block_while_a_goroutine_runs() -> None:
    code, out, err = run(
        """
        ch, back = Chan(), Chan()
        signal.signal(signal.SIGUSR1, lambda *a: back.send(ch.recv()))
        stop = False

        def loop():
            ready_once_main_waits()
            while not stop:
                gosched()

        g = go(loop)
        go(ch.send, "through the handler")
        print(back.recv())
        stop = True
        g.join()
        """,
        signal.SIGUSR1,
    )
    assert code in (0, 1)  # 1: it came while the scheduler itself ran
    assert out == "through the handler\n" or "the scheduler itself" in err


def test_handler_may_start_processes_that_can_be_ended() -> None:
    code, out, err = run(
        """
        import subprocess
        ch = Chan(1)

        def handler(*args):
            child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
            child.terminate()
            with child:
                ch.try_send(child.wait())

        signal.signal(signal.SIGUSR1, handler)
        go(ready)
        print(ch.recv())
        """,
        signal.SIGUSR1,
    )
    assert (code, out, err) == (0, f"{-signal.SIGTERM}\n", "")


def test_signals_in_a_burst_are_all_handled() -> None:
    code, out, err = run(
        """
        ch = Chan(100)
        names = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGWINCH, signal.SIGURG]
        for s in names:
            signal.signal(s, lambda s, f: ch.try_send(s))
        for s in names:
            os.kill(os.getpid(), s)
        print(sorted(ch.recv() for _ in names) == sorted(names))
        """
    )
    assert (code, out, err) == (0, "True\n", "")


def test_alarm_wakes_main_that_sleeps() -> None:
    code, out, err = run(
        """
        ch = Chan()
        signal.signal(signal.SIGALRM, lambda *a: ch.close())
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        print(ch.recv_ok(timeout=1000))
        """
    )
    assert (code, out, err) == (0, "(None, False)\n", "")


def test_threads_and_processes_of_goroutines_have_no_blocked_signals() -> None:
    code, out, err = run(
        """
        import subprocess

        def mask():
            child = subprocess.run([sys.executable, "-S", "-c",
                "import signal; print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"],
                capture_output=True, text=True)
            return len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), int(child.stdout)

        print(mask(), go(mask).join())
        ch = Chan()
        threading.Thread(target=lambda: ch.send(go(mask).join())).start()
        print(ch.recv())
        """
    )
    assert (code, out, err) == (0, "(0, 0) (0, 0)\n(0, 0)\n", "")


def test_sigint_in_c_code_that_holds_a_lock_does_not_leave_it_half_way() -> None:
    # The goroutine blocks in write() inside a buffered file, which looks for signals there.
    code, out, err = run(
        """
        import io, pathlib
        gomaxprocs(1)  # the goroutine runs on the main thread
        r, w = os.pipe()
        os.set_blocking(w, False)
        full = 0
        try:
            while True:
                full += os.write(w, b"." * 65536)
        except BlockingIOError:
            pass
        os.set_blocking(w, True)
        file = io.BufferedWriter(io.FileIO(w, "w"))
        stat = pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/stat")

        def interrupt():
            while stat.read_text().rpartition(")")[2].split()[0] == "R" or not writing:
                pass
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            while len(got) < full + 10 + 5:
                got.extend(os.read(r, 65536))

        def write():
            global writing
            writing = True
            file.write(b"goroutine!")
            file.flush()

        got, writing = bytearray(), False
        drain = threading.Thread(target=interrupt)
        drain.start()
        g = go(write)
        try:
            g.join()
        except KeyboardInterrupt:
            print("interrupted")
        file.write(b"main!")
        file.flush()
        g.join()
        drain.join()
        file.close()
        print(bytes(got[full:]))
        """
    )
    assert (code, out, err) == (0, "interrupted\nb'goroutine!main!'\n", "")
