"""DeadlockError: only when no goroutine can ever run again."""

import re

import pytest

from programs import run

REPORT = re.compile(r"fatal error: .* - deadlock!\n\n(?:goroutine .*:\n(?:.+\n)*\n)+")


def split(stderr: str) -> tuple[list[str], str]:
    """The deadlock reports in stderr, and what else there is."""
    return REPORT.findall(stderr), REPORT.sub("", stderr)


WAITS = {
    "chan receive": "Chan().recv()",
    "chan send": "Chan().send(1)",
    "join": "go(Chan().recv).join()",
    "sync.Mutex.Lock": "mu = Mutex(); mu.lock(); mu.lock()",
    "sync.WaitGroup.Wait": "wg = WaitGroup(); wg.add(); wg.wait()",
    "goexit": "goexit()",
}


@pytest.mark.parametrize(("reason", "wait"), WAITS.items(), ids=WAITS.keys())
def test_main_that_waits_for_ever_gets_deadlock_error(reason: str, wait: str) -> None:
    done = run(f"from runtime import *\n{wait}\n")
    assert done.returncode == 1
    assert "DeadlockError: all goroutines are asleep" in done.stderr
    assert f"waits in: {reason}" in done.stderr
    (report,), rest = split(done.stderr)
    assert f"\n\ngoroutine 1 [{reason}]:\n__main__.<module>(...)\n\t<string>:2\n" in report
    assert rest.startswith("Traceback")


def test_deadlock_with_many_parked_goroutines() -> None:
    done = run(
        """
        from runtime import *

        ch = Chan()
        for _ in range(1000):
            go(ch.recv)
        try:
            WaitGroup().wait()
            go(ch.recv).join()
        except DeadlockError:
            print("deadlock", num_goroutine())
        """
    )
    (report,), rest = split(done.stderr)
    assert (done.returncode, done.stdout, rest) == (0, "deadlock 1002\n", "")
    assert report.startswith("fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [")
    assert report.count("goroutine 1 [join]:\n__main__.<module>(...)\n\t<string>:9\n") == 1
    assert report.count(" [chan receive]:\nruntime.Chan.recv(...)\n\t<built-in>\n") == 1001
    assert report.count("created by <module>\n\t<string>:6\n") == 1000


def test_deadlock_can_be_caught_and_the_program_goes_on() -> None:
    done = run(
        """
        from runtime import *

        ch = Chan()
        for i in range(3):
            try:
                ch.recv()
            except DeadlockError:
                print("deadlock")
            go(ch.send, i)
            print(ch.recv())
        """
    )
    assert done.stdout == "deadlock\n0\ndeadlock\n1\ndeadlock\n2\n"
    reports, rest = split(done.stderr)
    assert (done.returncode, rest) == (0, "")
    assert len(reports) == 3


def test_deadlock_after_the_last_goroutine_has_ended() -> None:
    done = run(
        """
        from runtime import *

        ch = Chan()
        def body():
            for _ in range(3):
                sleep(0.001)
            print("body ends")
        go(body)
        try:
            ch.recv()
        except DeadlockError:
            print("deadlock")
        """
    )
    assert (done.stdout, split(done.stderr)[1]) == ("body ends\ndeadlock\n", "")


def test_deadlock_goexit_of_main_ends_the_program_when_the_others_have_ended() -> None:
    done = run(
        """
        from runtime import *

        def body():
            gosched()
            print("others go on")
        go(body)
        goexit()
        """
    )
    assert done.returncode == 1
    assert done.stdout == "others go on\n"
    assert "DeadlockError" in done.stderr
    assert "fatal error: no goroutines (main called runtime.goexit) - deadlock!" in done.stderr


def test_no_deadlock_while_a_timer_runs() -> None:
    done = run(
        """
        from runtime import *

        ch = Chan()
        def late():
            sleep(0.05)
            ch.send("timer")
        go(late)
        print(ch.recv())
        try:
            ch.recv(timeout=0.05)
        except TimeoutError:
            print("timeout")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "timer\ntimeout\n", "")


def test_no_deadlock_while_another_thread_lives_then_deadlock() -> None:
    done = run(
        """
        import threading
        from runtime import *

        ch, go_on = Chan(), threading.Event()
        def thread():
            go_on.wait()
            ch.send("thread")
        t = threading.Thread(target=thread)
        t.start()
        go(go_on.set)
        print(ch.recv())
        try:
            ch.recv()
        except DeadlockError:
            print("deadlock")
        """
    )
    reports, rest = split(done.stderr)
    assert (done.returncode, done.stdout, rest) == (0, "thread\ndeadlock\n", "")
    assert len(reports) == 1


def test_no_deadlock_while_a_goroutine_of_a_thread_can_run() -> None:
    done = run(
        """
        import threading
        from runtime import *

        ch = Chan()
        def body():
            sleep(0.02)
            for i in range(3):
                gosched()
            ch.send("aux")
        t = threading.Thread(target=lambda: go(body))
        t.start()
        t.join()
        print(ch.recv())
        try:
            ch.recv()
        except DeadlockError:
            print("deadlock")
        """
    )
    assert (done.returncode, done.stdout, split(done.stderr)[1]) == (0, "aux\ndeadlock\n", "")


def test_no_deadlock_when_the_program_has_a_signal_handler() -> None:
    done = run(
        """
        import os, signal, subprocess, sys
        from runtime import *

        ch = Chan(1)
        signal.signal(signal.SIGUSR1, lambda *a: ch.try_send("signal"))
        # The signal comes from a process that waits until this one sleeps.
        code = '''if True:
            import os, pathlib, signal, sys
            pid = int(sys.argv[1])
            stat = pathlib.Path(f"/proc/{pid}/stat")
            while stat.read_text().rpartition(")")[2].split()[0] != "S":
                pass
            os.kill(pid, signal.SIGUSR1)
        '''
        child = subprocess.Popen([sys.executable, "-S", "-c", code, str(os.getpid())])
        print(ch.recv())
        child.wait()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "signal\n", "")


def test_deadlock_when_the_signal_handler_was_taken_back() -> None:
    done = run(
        """
        import signal
        from runtime import *

        old = signal.signal(signal.SIGUSR1, lambda *a: None)
        signal.signal(signal.SIGUSR1, old)
        try:
            Chan().recv()
        except DeadlockError:
            print("deadlock")
        """
    )
    assert (done.returncode, done.stdout, split(done.stderr)[1]) == (0, "deadlock\n", "")
