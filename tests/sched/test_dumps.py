"""Stacks of all goroutines printed on a signal, and what is printed of a deadlock."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from programs import environment, run
from runtime import (
    StackFrame,
    _inspect,
)


class Program:
    """A running script, whose standard output is read line by line."""

    def __init__(self, source: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**variables),
        )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout

    def wait_asleep(self) -> None:
        """Until its main thread sleeps in the kernel."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "S":
            pass

    def expect(self, line: str) -> None:
        assert self.stdout.readline() == line + "\n"

    def read_dump(self) -> str:
        """The next dump on standard error, up to the line "end of dump"."""
        assert self.process.stderr is not None
        lines = []
        while (line := self.process.stderr.readline()) and line != "end of dump\n":
            lines.append(line)
        return "".join(lines)

    def send(self, signum: int) -> None:
        self.process.send_signal(signum)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def program(source: str, **variables: str) -> Iterator[Program]:
    p = Program(source, **variables)
    try:
        yield p
    finally:
        p.kill()


IDLE = """
import os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from runtime import *

def waiter():
    Chan().recv()

def ready():
    while main.state != "waiting":
        gosched()
    os.write(1, b"ready\\n")

ch, main = Chan(1), current()
other = go.named("other")(waiter)
signal.signal(signal.SIGUSR1, lambda *a: ch.try_send("usr1"))
while other.state != "waiting":
    gosched()
gomaxprocs(PROCS)
go(ready)
print(ch.recv(), flush=True)
"""

BUSY = """
import signal, sys
from runtime import *

def compute():
    while not stop:
        pass

def on_usr1(*args):
    global stop
    stop = True

stop = False
signal.signal(signal.SIGUSR1, on_usr1)
gomaxprocs(PROCS)
g = go(compute)
print("ready", flush=True)
g.join()
print("done", flush=True)
"""


@pytest.mark.parametrize("n", ["1", "3"])
def test_sigquit_while_all_wait_prints_stacks_and_exits_with_2(n: str) -> None:
    with program(IDLE.replace("PROCS", n)) as p:
        p.expect("ready")
        p.wait_asleep()
        p.send(signal.SIGQUIT)
        status, out, err = p.end()
    assert (status, out) == (2, "")
    assert err.startswith("SIGQUIT: quit\n\ngoroutine 1 [chan receive]:\n__main__.<module>(...)\n")
    assert re.search(r"\n\ngoroutine \d+ 'other' \[chan receive\]:\n__main__.waiter\(...\)\n", err)
    assert "Traceback" not in err


@pytest.mark.parametrize("n", ["1", "3"])
def test_sigquit_while_a_goroutine_computes(n: str) -> None:
    with program(BUSY.replace("PROCS", n)) as p:
        p.expect("ready")
        p.send(signal.SIGQUIT)
        status, out, err = p.end()
    assert (status, out) == (2, "")
    assert err.startswith("SIGQUIT: quit\n\ngoroutine ")
    assert "__main__.<module>(...)\n" in err


@pytest.mark.parametrize("source", [IDLE, BUSY], ids=["idle", "busy"])
@pytest.mark.parametrize("n", ["1", "3"])
def test_sigquit_dump_mode_goes_on(n: str, source: str) -> None:
    source = source.replace("PROCS", n)
    with program(source, GOSCHED_SIGQUIT="dump") as p:
        p.expect("ready")
        for _ in range(3):
            p.send(signal.SIGQUIT)
            line = p.process.stderr.readline()  # type: ignore[union-attr]
            while line != "SIGQUIT: quit\n":
                line = p.process.stderr.readline()  # type: ignore[union-attr]
        p.send(signal.SIGUSR1)
        status, out, err = p.end()
    assert status == 0
    assert out in ("usr1\n", "done\n")
    assert "Traceback" not in err


def test_sigquit_off_is_left_to_the_system() -> None:
    with program(IDLE.replace("PROCS", "1"), GOSCHED_SIGQUIT="off") as p:
        p.expect("ready")
        p.send(signal.SIGQUIT)
        assert p.end() == (-signal.SIGQUIT, "", "")


def test_sigquit_other_mode_is_told_and_ignored() -> None:
    done = run("import runtime; print('ok')", GOSCHED_SIGQUIT="core")
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert done.stderr == "runtime: GOSCHED_SIGQUIT='core' is none of exit, dump, off: ignored\n"


def test_sigquit_handler_of_the_program_stays() -> None:
    done = run(
        """
        import signal, threading

        def handler(*args): ...
        for before in handler, signal.SIG_IGN:
            signal.signal(signal.SIGQUIT, before)
            import runtime
            assert signal.getsignal(signal.SIGQUIT) is before
            runtime._inspect.install()
            assert signal.getsignal(signal.SIGQUIT) is before
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_sigquit_registered_with_faulthandler_stays() -> None:
    done = run(
        """
        import faulthandler, signal
        faulthandler.register(signal.SIGQUIT)
        import runtime
        signal.raise_signal(signal.SIGQUIT)
        print("goes on")
        """
    )
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert "Current thread" in done.stderr


def test_sigquit_is_left_alone_when_another_thread_imports() -> None:
    done = run(
        """
        import signal, threading

        t = threading.Thread(target=lambda: __import__("runtime"))
        t.start()
        t.join()
        assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@contextlib.contextmanager
def restored(signum: int) -> Iterator[None]:
    before = signal.getsignal(signum)
    try:
        yield
    finally:
        signal.signal(signum, before)


def test_dump_on_signal_writes_to_a_descriptor() -> None:
    with restored(signal.SIGUSR2), tempfile.TemporaryFile("w+") as out:
        runtime.dump_on_signal(signal.SIGUSR2, file=out.fileno())
        signal.raise_signal(signal.SIGUSR2)
        out.seek(0)
        text = out.read()
    assert text.startswith("SIGUSR2: user defined signal 2\n\ngoroutine 1 [running]:\n")
    assert f"{__name__}.{sys._getframe().f_code.co_qualname}(...)\n" in text


def test_dump_on_signal_writes_to_files(tmp_path: Path) -> None:
    with restored(signal.SIGUSR2):
        with open(tmp_path / "dump", "w") as f:
            runtime.dump_on_signal(signal.SIGUSR2, file=f)
            signal.raise_signal(signal.SIGUSR2)
        assert (tmp_path / "dump").read_text().startswith("SIGUSR2: ")
        memory = io.StringIO()
        runtime.dump_on_signal(signal.SIGUSR2, file=memory)
        signal.raise_signal(signal.SIGUSR2)
        assert memory.getvalue().startswith("SIGUSR2: ")


def test_dump_on_signal_of_a_real_time_signal(tmp_path: Path) -> None:
    signum = signal.SIGRTMIN + 3
    memory = io.StringIO()
    with restored(signum):
        runtime.dump_on_signal(signum, file=memory)
        signal.raise_signal(signum)
    assert memory.getvalue().startswith(f"signal {signum}: real-time signal 3\n\n")


def test_dump_on_signal_falls_back_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def write(self, text: str) -> None:
            raise OSError("disk full")

    with restored(signal.SIGUSR2):
        runtime.dump_on_signal(signal.SIGUSR2, file=Broken())
        signal.raise_signal(signal.SIGUSR2)
    assert "SIGUSR2: " in capfd.readouterr().err


def test_dump_on_signal_gives_up_a_reader_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_inspect, "WRITE_PATIENCE", 0.01)
    r, w = os.pipe()
    os.set_blocking(w, False)
    _inspect.write(w, "x" * 10_000_000)
    assert os.read(r, 10) == b"x" * 10
    os.close(r)
    _inspect.write(w, "x")  # a broken pipe raises nothing
    os.close(w)
    _inspect.write(w, "x")  # nor does a closed one


def test_dump_on_signal_wrong_file_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="file must be a file, not object"):
        runtime.dump_on_signal(signal.SIGUSR2, file=object())  # type: ignore[arg-type]


def test_dump_on_signal_in_a_thread_is_a_value_error() -> None:
    errors: list[BaseException] = []

    def thread() -> None:
        try:
            runtime.dump_on_signal(signal.SIGUSR2)
        except ValueError as e:
            errors.append(e)

    t = threading.Thread(target=thread)
    t.start()
    t.join()
    assert "main thread" in str(errors[0])


def test_dump_on_signal_does_not_hide_a_deadlock() -> None:
    done = run(
        """
        import signal
        import runtime

        runtime.dump_on_signal(signal.SIGUSR1)
        runtime.Chan().recv()
        """
    )
    assert done.returncode == 1
    assert "DeadlockError" in done.stderr


def test_stacks_end_where_a_goroutine_waits_while_the_scheduler_looks_for_deadlocks() -> None:
    """It does that on the stack of whoever was the last to wait."""
    done = run(
        """
        import sys
        from runtime import *

        def profile(frame, event, arg):
            if frame.f_code.co_name == "may_deadlock":
                sys.setprofile(None)
                print(stack(all=True), end="")

        def wait():
            Chan().recv()

        sys.setprofile(profile)
        try:
            wait()
        except DeadlockError:
            pass
        """
    )
    assert done.returncode == 0
    assert re.fullmatch(
        r"goroutine 1 \[chan receive\]:\n"
        r"__main__.wait\(...\)\n.*\n__main__.<module>\(...\)\n.*\n",
        done.stdout,
    )


def test_dump_while_stderr_is_being_written() -> None:
    """No "reentrant call" of the buffer the signal interrupts, nor a deadlock."""
    source = """
        import os, signal, sys, threading
        from runtime import *

        gomaxprocs(2)
        stop = False
        def writer():
            while not stop:
                sys.stderr.write("x" * 1000 + "\\n")
                gosched()
        gs = [go(writer) for _ in range(4)]
        print("ready", flush=True)
        threading.Thread(target=sys.stdin.read).start()
        def watch():
            global stop
            while any(t.is_alive() for t in threading.enumerate()[1:] if t.daemon is False):
                gosched()
            stop = True
        go(watch).join()
        for g in gs:
            g.join()
        print("done")
    """
    with program(source, GOSCHED_SIGQUIT="dump") as p:
        p.expect("ready")
        assert p.process.stderr is not None
        for _ in range(20):
            p.send(signal.SIGQUIT)
            while p.process.stderr.readline() != "SIGQUIT: quit\n":
                pass
        status, out, err = p.end()
    assert (status, out) == (0, "done\n")
    assert "reentrant" not in err
    assert "Traceback" not in err


def test_deadlock_report_without_stderr() -> None:
    done = run(
        """
        import os, sys
        from runtime import *

        os.close(2)
        try:
            Chan().recv()
        except DeadlockError:
            print("deadlock")
        sys.stderr = sys.__stderr__ = None
        try:
            Chan().recv()
        except DeadlockError:
            print("deadlock")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "deadlock\ndeadlock\n", "")


def test_stack_frame_is_a_tuple() -> None:
    assert StackFrame("f.py", 3, "m.f") == ("f.py", 3, "m.f")
