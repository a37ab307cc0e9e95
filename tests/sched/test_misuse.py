"""Waiting where that is impossible: a clear error, and nothing is broken afterwards."""

import subprocess
import sys
import textwrap

import pytest

import runtime
from programs import environment
from runtime import current, go

PRELUDE = """
import contextlib, os, signal, threading
import runtime
from runtime import Chan, Group, Mutex, WaitGroup, go, gosched, sleep

def attempt(fn):
    try:
        fn()
    except RuntimeError as e:
        print(e)
    else:
        print("no error")
"""


def run_checked(source: str, *options: str, check: str | None = "1") -> list[str]:
    """The lines that a program prints when waits are checked."""
    env = environment()
    for name in ("GOSCHED_CHECK_WAITS", "PYTHONDEVMODE"):
        env.pop(name, None)
    if check is not None:
        env["GOSCHED_CHECK_WAITS"] = check
    done = subprocess.run(
        [sys.executable, *options, "-c", PRELUDE + textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=120,  # only a safety net
        env=env,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_gomaxprocs_out_of_range_is_refused() -> None:
    before = runtime.gomaxprocs()
    for n in (0, -1, 257):
        with pytest.raises(ValueError, match=f"1 to 256, not {n}"):
            runtime.gomaxprocs(n)
    with pytest.raises(TypeError):
        runtime.gomaxprocs("2")  # type: ignore[arg-type]
    assert runtime.gomaxprocs() == before


def test_join_of_itself_is_refused() -> None:
    def run() -> None:
        with pytest.raises(RuntimeError, match="cannot join itself"):
            current().join()

    go(run).join()


def test_unlock_os_thread_without_lock_is_refused() -> None:
    with pytest.raises(RuntimeError, match="without lock_os_thread"):
        runtime.unlock_os_thread()


# --- GOSCHED_CHECK_WAITS --------------------------------------------------------------------------

LOCKS = {
    "lock": ("threading.Lock()", "_thread.lock"),
    "rlock": ("threading.RLock()", "_thread.RLock"),
    "condition": ("threading.Condition()", "Condition"),
    "semaphore": ("threading.BoundedSemaphore()", "BoundedSemaphore"),
    "of a generator": ("guard()", "_thread.lock"),
    "on an exit stack": ("stack()", "_thread.lock"),
}


@pytest.mark.parametrize("lock", LOCKS)
def test_wait_in_a_block_with_a_lock_is_refused(lock: str) -> None:
    make, name = LOCKS[lock]
    lines = run_checked(
        f"""
        @contextlib.contextmanager
        def guard():
            with threading.Lock():
                yield

        def stack():
            s = contextlib.ExitStack()
            s.enter_context(threading.Lock())
            return s

        def wait():
            with {make}:
                with contextlib.suppress(ValueError):
                    sleep(0.001)

        attempt(wait)
        go(attempt, wait).join()
        """
    )
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f'sleep in a block that holds a {name} ("<string>", line ')
        assert "in wait)" in line
        assert "use runtime.Mutex" in line


WAITS = {
    "chan receive": "Chan().recv()",
    "chan send": "Chan().send(1)",
    "join": "go(group.wait).join()",
    "sync.Mutex.Lock": "taken.lock()",
    "sync.WaitGroup.Wait": "group.wait()",
    "gosched()": "gosched()",
    "sleep": "sleep(0.001)",
    "syscall": "runtime.blocking(gate.wait)",
}


@pytest.mark.parametrize("what", WAITS)
def test_every_wait_is_checked_and_harms_nothing(what: str) -> None:
    lines = run_checked(
        f"""
        taken, group, gate = Mutex(), WaitGroup(), threading.Event()
        taken.lock()
        group.add(1)
        lock = threading.Lock()

        def wait():
            with lock:
                {WAITS[what]}

        attempt(wait)
        taken.unlock()
        group.done()
        gate.set()
        with taken:
            group.wait()
            sleep(0.001)
        print(lock.locked())
        """
    )
    assert lines[0].startswith(f"{what} in a block that holds a _thread.lock")
    assert lines[1:] == ["False"]


def test_what_need_not_wait_is_not_refused() -> None:
    lines = run_checked(
        """
        ch, mutex = Chan(1), Mutex()

        def use():
            with threading.Lock():
                ch.send(1)
                ch.recv()
                with mutex:
                    pass
                done.join()
                go(gosched)

        done = go(int)
        done.join()
        attempt(use)
        """
    )
    assert lines == ["no error"]


def test_plain_thread_may_wait_with_a_lock() -> None:
    lines = run_checked(
        """
        ch = Chan()

        def use():
            with threading.Lock():
                print(ch.recv())

        thread = threading.Thread(target=attempt, args=(use,))
        thread.start()
        ch.send("sent")
        thread.join()
        """
    )
    assert lines == ["sent", "no error"]


def test_wait_in_a_signal_handler_is_refused() -> None:
    lines = run_checked(
        """
        def wait(*args):
            attempt(gosched)
            attempt(lambda: sleep(0.001))
            attempt(lambda: done.try_send(None))

        done = Chan(1)
        signal.signal(signal.SIGUSR1, wait)
        os.kill(os.getpid(), signal.SIGUSR1)
        done.recv()
        """
    )
    assert [line.partition(" (")[0] for line in lines] == [
        "gosched() in a signal handler",
        "sleep in a signal handler",
        "no error",
    ]
    assert '"<string>", line ' in lines[0]
    assert "in wait)" in lines[0]


HELD = """
def wait():
    with threading.Lock():
        sleep(0.001)

attempt(wait)
"""


@pytest.mark.parametrize(
    ("options", "check", "refused"),
    [
        ([], None, False),
        (["-X", "dev"], None, True),
        (["-X", "dev"], "0", False),
        ([], "1", True),
    ],
)
def test_waits_are_checked_on_request(
    options: list[str], check: str | None, refused: bool
) -> None:
    lines = run_checked(HELD, *options, check=check)
    assert (lines != ["no error"]) is refused
