"""Hot restart: real processes, under load; not one client is refused or reset."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class Restarting:
    """A program with hot restart, and those that have followed it."""

    def __init__(self, program, wait_until, directory: Path, address: str, mode: str) -> None:
        self.mode = directory / "mode"
        self.mode.write_text(mode)
        self.wait_until = wait_until
        self.program = program("restart.py", address, str(self.mode), start_new_session=True)
        self.pids = [int(self.program.read_line())]
        assert self.pids == [self.program.proc.pid]
        assert self.pid() == self.pids[0]  # now it heeds signals

    def restart(self) -> int:
        """Restart and wait until the old process is over: the new one's id."""
        os.kill(self.pids[-1], signal.SIGUSR2)
        lines = [self.program.read_line() for _ in range(3)]
        lines.remove(self.program.addr)
        lines.remove(f"over {self.pids[-1]}")
        self.pids.append(int(lines[0]))
        return self.pids[-1]

    def pid(self) -> int:
        return int(self.program.get().body)

    def end(self) -> None:
        os.kill(self.pids[-1], signal.SIGTERM)
        assert self.program.read_line() == f"over {self.pids[-1]}"


@pytest.fixture
def restarting(program, wait_until, tmp_path):
    started = []

    def start(address="127.0.0.1:0", mode="serve"):
        started.append(Restarting(program, wait_until, tmp_path, address, mode))
        return started[-1]

    yield start
    for r in started:
        with suppress(ProcessLookupError):  # those that followed it are of its session
            os.killpg(r.program.proc.pid, signal.SIGKILL)


class Load:
    """Clients that ask all the time: on connections of their own, and kept alive."""

    def __init__(self, program) -> None:
        self.program = program
        self.stop = threading.Event()
        self.pids: set[int] = set()
        self.failures: list[BaseException] = []
        self.threads = [
            threading.Thread(target=self._run, args=(keep,)) for keep in (False, True, True)
        ]
        for t in self.threads:
            t.start()

    def _run(self, keep: bool) -> None:
        try:
            while not self.stop.is_set():
                with self.program.connect() as c:
                    while not self.stop.is_set():
                        r = c.send(GET).response()
                        assert r.status == 200
                        self.pids.add(int(r.body))
                        if not keep or r.all("connection") == ["close"]:
                            break
        except BaseException as exc:
            self.failures.append(exc)

    def end(self) -> None:
        self.stop.set()
        for t in self.threads:
            t.join(SAFETY)
            assert not t.is_alive()
        if self.failures:
            raise self.failures[0]


@pytest.mark.parametrize("unix", [False, True])
def test_restart_under_load_loses_nothing(restarting, tmp_path, unix):
    r = restarting(f"unix:{tmp_path}/socket" if unix else "127.0.0.1:0")
    load = Load(r.program)
    for _ in range(2):  # the new one can do it, too
        new = r.restart()
        assert r.pid() == new
        r.wait_until("the load sees it", lambda new=new: new in load.pids or load.failures)
    load.end()
    assert load.pids == set(r.pids)
    r.end()
    assert "ERROR" not in r.program.stderr() and "Traceback" not in r.program.stderr()
    if unix:
        assert not (tmp_path / "socket").exists()


def test_restart_under_wrk_loses_nothing(restarting, wrk):
    r = restarting()
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(wrk(r.program.url, "-c16", "-d2s")))
    thread.start()
    r.restart()
    thread.join(SAFETY)
    assert done and done[0] > 0
    r.end()


def test_requests_in_flight_are_finished_by_the_old_one(restarting):
    r = restarting()
    with r.program.connect() as c:
        c.send(GET.replace("/ ", "/hold "))
        assert r.program.read_line() == "holding"
        old = r.pids[-1]
        r.restart()
        response = c.response()
        assert (int(response.body), response["connection"]) == (old, "close")
        assert c.ended()
    r.end()


@pytest.mark.parametrize(
    ("mode", "why"),
    [("exit", "it has ended with status 3"), ("hang", "it did not serve within 0.5 seconds")],
)
def test_new_program_that_does_not_serve_leaves_the_old_one(restarting, mode, why):
    r = restarting(mode=mode)
    load = Load(r.program)
    os.kill(r.pids[0], signal.SIGUSR2)
    line = f"ERROR hot restart failed, this program goes on: {why}\n"
    r.wait_until("it is logged", lambda: line in r.program.stderr())
    assert r.program.stderr().count("\n") == 1
    assert r.pid() == r.pids[0]
    if mode == "exit":
        r.mode.write_text("serve")  # a good one can follow
        new = r.restart()
        r.wait_until("the load sees it", lambda: new in load.pids or load.failures)
    load.end()
    r.end()


def test_old_program_that_ends_meanwhile_takes_the_new_one_with_it(restarting, wait_until):
    r = restarting(mode="wait")
    os.kill(r.pids[0], signal.SIGUSR2)
    tasks = Path(f"/proc/{r.pids[0]}/task")

    def child():
        found = [p.read_text().split() for p in tasks.glob("*/children")]
        return [int(pid) for pids in found for pid in pids]

    wait_until("it has a child", lambda: bool(child()))
    (pid,) = child()
    os.kill(r.pids[0], signal.SIGTERM)
    assert r.program.wait() == 0
    wait_until("the child is gone", lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("mode", ["listeners", "proxied"])
def test_listeners_given_to_serve_are_inherited(restarting, mode):
    r = restarting(mode=mode)
    path = Path(f"{r.mode}.socket")
    load = Load(r.program)
    new = r.restart()
    assert r.pid() == new
    tcp, r.program.addr = r.program.addr, f"unix:{path}"
    assert r.pid() == new
    r.program.addr = tcp
    r.wait_until("the load sees it", lambda: new in load.pids or load.failures)
    load.end()
    r.end()
    assert not path.exists()


def test_all_servers_of_the_program_are_restarted(restarting):
    r = restarting(mode="two")
    first = r.program.addr
    for _ in range(2):
        new = r.restart()
        for addr in (first, f"unix:{r.mode}.second"):
            r.program.addr = addr
            assert r.pid() == new
        r.program.addr = first
    r.end()


def test_without_hot_restart_the_signal_is_not_touched(program):
    p = program("app.py")
    assert p.get("/hello").status == 200
    p.send_signal(signal.SIGUSR2)
    assert p.wait() == -signal.SIGUSR2
