"""Worker processes: a supervisor and its workers are real processes, and so are their ends."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from programs import run
from runtime import http
from runtime._http.workers import info, sockets
from runtime._http.workers.memory import Cell, Memory
from runtime._http.workers.sockets import Address

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
CLOSE = "Connection: close\r\n"


class Load:
    """Clients that ask all the time, on connections of their own and kept alive ones.

    Every response must come and be good; with lenient=True a connection may break, but none
    may be refused.
    """

    def __init__(self, served, lenient: bool = False) -> None:
        self.served = served
        self.lenient = lenient
        self.over = threading.Event()
        self.pids: set[int] = set()
        self.count = 0
        self.failures: list[BaseException] = []
        self.threads = [
            threading.Thread(target=self._run, args=(keep,)) for keep in (False, True, True)
        ]
        for t in self.threads:
            t.start()

    def _run(self, keep: bool) -> None:
        while not self.over.is_set():
            try:
                self._ask(keep)
            except BaseException as exc:
                broken = isinstance(exc, ConnectionResetError | BrokenPipeError | AssertionError)
                if not (self.lenient and broken):
                    self.failures.append(exc)
                    return

    def _ask(self, keep: bool) -> None:
        with self.served.connect() as c:
            while not self.over.is_set():
                r = c.send(GET).response()
                assert r.status == 200
                self.pids.add(int(r.body))
                self.count += 1  # of one thread at a time: with several it is a lower bound
                if not keep or r.all("connection") == ["close"]:
                    return

    def end(self) -> None:
        self.over.set()
        for t in self.threads:
            t.join(SAFETY)
            assert not t.is_alive()
        if self.failures:
            raise self.failures[0]


@pytest.fixture
def loaded() -> Iterator:
    """loaded(served) -> Load, ended with the test."""
    started: list[Load] = []

    def start(served, **options) -> Load:
        started.append(Load(served, **options))
        return started[-1]

    yield start
    for load in started:
        load.over.set()


def gone(pid: int) -> bool:
    """Has the process ended?  It may not have been reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def can_be_bound(where: tuple[str, int]) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(where)
        except OSError:
            return False
        return True


def clean(log: str) -> str:
    """A log without anything that is not well."""
    assert not re.search(r"ERROR|Traceback|Error:", log), log
    return log


# --- serving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("procs", [1, 2])
@pytest.mark.parametrize("unix", [False, True])
def test_workers_share_an_address_until_they_are_stopped(
    supervised, loaded, wait_until, tmp_path, unix, procs
):
    addr = f"unix:{tmp_path}/socket" if unix else "127.0.0.1:0"
    s = supervised(addr, workers=2, env={"GOMAXPROCS": str(procs)}).until_serving(2)
    assert s.get("/procs").body == str(procs).encode()
    load = loaded(s)
    if not unix:  # else whoever comes first may get all
        wait_until("both answer", lambda: len(load.pids) == 2 or load.failures)
    wait_until("some are answered", lambda: load.count > 100 or load.failures)
    load.end()
    assert load.pids <= set(s.started())
    assert s.proc.pid not in load.pids
    log = clean(s.stop())
    assert "serve() has returned" in log
    assert all(gone(pid) for pid in s.started())
    # Each worker runs the handlers of atexit, but what belongs to the supervisor stays.
    assert log.count("directory True") == 3, log
    if unix:
        assert not (tmp_path / "socket").exists()
    else:
        assert can_be_bound(s.where)


def test_a_worker_is_told_its_number(supervised):
    s = supervised(workers=3).until_serving(3)
    found = s.workers()
    assert [w["id"] for w in found] == [0, 1, 2]
    assert {w["pid"] for w in found} == set(s.started())
    assert all(w["restarts"] == 0 and w["ps"] >= 1 for w in found)
    assert [w["age"] for w in found].count(0.0) == 1  # its own are fresh
    clean(s.stop())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stop_finishes_what_runs(supervised, wait_until, tmp_path, signum):
    s = supervised(workers=2).until_serving(2)
    held, until = tmp_path / "held", tmp_path / "until"
    with s.connect() as c:
        c.send(f"GET /hold?held={held}&until={until} HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until("it runs", held.exists)
        os.killpg(s.proc.pid, signum)  # to all of them, as a terminal or systemd does it
        s.until_refused()
        until.touch()
        r = c.response()
        assert (r.status, r["connection"]) == (200, "close")
        assert c.ended()
    assert s.proc.wait(SAFETY) == 0
    clean(s.stderr())


def test_second_interrupt_ends_what_runs(supervised, wait_until, tmp_path):
    s = supervised(workers=2, shutdown_timeout=1000).until_serving(2)
    held = tmp_path / "held"
    with s.connect() as c:
        c.send(f"GET /hold?held={held}&until=/never HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until("it runs", held.exists)
        s.send_signal(signal.SIGINT)
        s.until_refused()
        s.stop(signal.SIGINT)
        with pytest.raises(AssertionError, match="the connection ended"):
            c.response()


def test_worker_that_does_not_stop_in_time_is_killed(supervised, wait_until, tmp_path):
    # So long, and three seconds more, the one that is well may take.
    s = supervised(workers=2, shutdown_timeout=4).until_serving(2)
    held = tmp_path / "held"
    with s.connect() as c:
        c.send(f"GET /block?held={held} HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until("it blocks", held.exists)
        log = s.stop()
    assert log.count("has not stopped in time: killed") == 1
    assert log.count("was ended by SIGKILL") == 1
    assert log.count("has ended with status 0") == 1


# --- ends that nobody asked for -------------------------------------------------------------------


def test_killed_workers_are_replaced(supervised, loaded, wait_until):
    s = supervised(workers=2).until_serving(2)
    load = loaded(s, lenient=True)
    for n in range(2):
        pid = s.started()[n]
        os.kill(pid, signal.SIGKILL)
        new = s.until_started(3 + n)[-1]
        wait_until("it answers", lambda new=new: new in load.pids or load.failures)
        s.until_logged(rf"\(process {pid}\) was ended by SIGKILL; another one follows")
    load.end()  # and none was refused
    strict = loaded(s)
    wait_until("both answer", lambda: len(strict.pids) == 2 or strict.failures)
    strict.end()
    assert strict.pids == set(s.started()[2:])
    assert [w["restarts"] for w in s.workers()] == [1, 1, 0]
    s.stop()


def kill(s, slot: int) -> str:
    """Kill the worker that has begun to serve last in this slot: what is said of the next one.

    It serves when this returns, and has not before the pause was over.
    """
    serves = rf"worker {slot} \(process (\d+)\) serves"
    pids = re.findall(serves, s.stderr())
    began = time.monotonic()
    os.kill(int(pids[-1]), signal.SIGKILL)
    s.until_logged(serves, len(pids) + 1)
    took = time.monotonic() - began
    (then,) = re.findall(rf"\(process {pids[-1]}\) was ended by SIGKILL; (.*)", s.stderr())
    pause = re.fullmatch(r"another one follows(?: in (\d+\.\d) seconds)?", then)
    assert pause is not None and took >= float(pause[1] or 0)
    return pause[1] or ""


def test_worker_that_fails_again_and_again_is_replaced_after_longer_pauses(supervised):
    times = {"_LONGEST_PAUSE": 0.5, "_STEADY": 1000}
    s = supervised(workers=2, supervisor=times).until_serving(2)
    assert [kill(s, 0) for _ in range(6)] == ["", "0.1", "0.2", "0.4", "0.5", "0.5"]
    assert kill(s, 1) == ""  # each slot has its own count
    assert [w["restarts"] for w in s.workers()] == [6, 1, 0]
    s.stop()


@pytest.mark.parametrize(("steady", "pause"), [(0, ""), (1000, "0.2")])
def test_worker_that_has_served_long_enough_is_replaced_at_once(
    supervised, wait_until, tmp_path, steady, pause
):
    mode = tmp_path / "mode"
    mode.write_text("serve")
    times = {"_STEADY": steady, "_LONGEST_PAUSE": 0.2}
    s = supervised(workers=1, supervisor=times, env={"WORKERS_MODE": str(mode)}).until_serving(1)
    mode.write_text("exit")
    os.kill(s.started()[0], signal.SIGKILL)
    s.until_logged(r"has ended with status 7; another one follows in 0\.2 seconds")
    mode.write_text("serve")
    s.until_started(2)
    assert kill(s, 0) == pause
    s.stop()


def test_killed_supervisor_leaves_no_worker(supervised, loaded, wait_until):
    s = supervised(workers=2).until_serving(2)
    load = loaded(s, lenient=True)
    wait_until("both answer", lambda: len(load.pids) == 2 or load.failures)
    s.proc.kill()
    wait_until("they have ended", lambda: all(gone(pid) for pid in s.started()))
    wait_until("the port is free", lambda: can_be_bound(s.where))
    with suppress(ConnectionRefusedError):
        load.end()


def test_killed_supervisor_leaves_no_worker_that_is_stuck(supervised, wait_until, tmp_path):
    s = supervised(workers=1, shutdown_timeout=0.1).until_serving(1)
    held = tmp_path / "held"
    with s.connect() as c:
        c.send(f"GET /block?held={held}&gil=1 HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until("it blocks", held.exists)
        s.proc.kill()
        wait_until("it has ended", lambda: gone(s.started()[0]))
    wait_until("the port is free", lambda: can_be_bound(s.where))


def test_killed_supervisors_unix_socket_can_be_used_again(supervised, wait_until, tmp_path):
    addr = f"unix:{tmp_path}/socket"
    s = supervised(addr).until_serving(2)
    s.proc.kill()
    wait_until("they have ended", lambda: all(gone(pid) for pid in s.started()))
    again = supervised(addr).until_serving(2)
    assert again.get().status == 200
    clean(again.stop())


@pytest.mark.parametrize("gil", ["", "1"])
def test_stuck_worker_is_dumped_and_replaced(supervised, wait_until, tmp_path, gil):
    s = supervised(workers=2, worker_timeout=3, supervisor={"_PATIENCE": SAFETY}).until_serving(2)
    with s.connect() as c:
        c.send(f"GET /block?held={tmp_path}/held&gil={gil} HTTP/1.1\r\nHost: test\r\n\r\n")
        new = s.until_started(3)[-1]
        wait_until("it is listed", lambda: new in [w["pid"] for w in s.workers()])
    log = s.stop()
    stuck = re.search(r"\(process (\d+)\): its scheduler has not run for \d+ seconds", log)
    assert stuck is not None and int(stuck[1]) in s.started()[:2]
    assert re.search(r'File ".*workers_app\.py", line \d+ in block', log)  # of the dump
    assert f"(process {stuck[1]}) was ended by SIGABRT" in log


def test_workers_that_fail_to_begin_are_given_up(supervised, tmp_path):
    mode = tmp_path / "mode"
    mode.write_text("fail")
    s = supervised(workers=2, env={"WORKERS_MODE": str(mode)})
    assert s.proc.wait(SAFETY) == 3
    log = s.stderr()
    assert "RuntimeError: the mode is to fail" in log
    assert log.count("Traceback") == 1  # once is enough
    assert "giving up" in log


def test_worker_that_does_not_begin_in_time_is_given_up(supervised, tmp_path):
    mode = tmp_path / "mode"
    mode.write_text("hang")
    s = supervised(workers=1, worker_boot_timeout=0.05, env={"WORKERS_MODE": str(mode)})
    assert s.proc.wait(SAFETY) == 3
    assert "has not begun to serve in time: killed" in s.stderr()


# --- reloading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("unix", [False, True])
def test_reload_under_load_loses_nothing(supervised, loaded, wait_until, tmp_path, unix):
    s = supervised(f"unix:{tmp_path}/socket" if unix else "127.0.0.1:0").until_serving(2)
    load = loaded(s)
    for n in (4, 6):
        wait_until("some are answered", lambda: load.count > 10 or load.failures)
        s.send_signal(signal.SIGHUP)
        new = set(s.until_started(n)[-2:])
        wait_until("new ones answer", lambda new=new: load.pids & new or load.failures)
        s.until_logged("has ended with status 0", n - 2)
    load.end()
    assert all(gone(pid) for pid in s.started()[:4])
    assert [w["restarts"] for w in s.workers()] == [2, 2, 0]
    clean(s.stop())


def test_reload_under_wrk_loses_nothing(supervised, wrk, wait_until):
    s = supervised(workers=2).until_serving(2)
    over = threading.Event()
    done: list[int] = []

    def load() -> None:
        while not over.is_set():
            done.append(wrk(s.url, "-c32"))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        wait_until(
            "it has begun",
            lambda: not thread.is_alive() or sum(w["requests"] for w in s.workers()) > 1000,
        )
        s.send_signal(signal.SIGHUP)
        s.until_started(4)
        s.until_logged("has ended with status 0", 2)
        assert thread.is_alive()  # and there is still load, none of which has failed
    finally:
        over.set()
        thread.join(SAFETY)
    assert done and all(n > 0 for n in done)
    clean(s.stop())


def test_reload_lets_the_old_worker_finish_what_runs(supervised, wait_until, tmp_path):
    s = supervised(workers=1).until_serving(1)
    held, until = tmp_path / "held", tmp_path / "until"
    with s.connect() as c:
        c.send(f"GET /hold?held={held}&until={until} HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until("it runs", held.exists)
        s.send_signal(signal.SIGHUP)
        old, new = s.until_started(2)
        wait_until("the new one is alone", lambda: int(s.get().body) == new)
        until.touch()
        assert int(c.response().body) == old
        assert c.ended()
    clean(s.stop())


@pytest.mark.parametrize(
    ("mode", "why"),
    [("fail", "RuntimeError: the mode is to fail"), ("exit", "has ended with status 7")],
)
def test_reload_that_fails_leaves_the_old_ones(supervised, loaded, tmp_path, mode, why):
    file = tmp_path / "mode"
    file.write_text("serve")
    s = supervised(workers=2, env={"WORKERS_MODE": str(file)}).until_serving(2)
    load = loaded(s)
    file.write_text(mode)
    s.send_signal(signal.SIGHUP)
    s.until_logged(why)
    assert {w["pid"] for w in s.workers() if w["pid"]} == set(s.started())
    file.write_text("serve")  # a good one can follow
    s.send_signal(signal.SIGHUP)
    s.until_started(4)
    load.end()
    assert s.stop().count("ERROR") == 1


def test_one_worker_more_and_one_fewer_lose_nothing(supervised, loaded, wait_until):
    s = supervised(workers=1).until_serving(1)
    load = loaded(s)
    for n in range(2):
        s.send_signal(signal.SIGTTIN)
        new = s.until_started(2 + n)[-1]
        wait_until("it answers", lambda new=new: new in load.pids or load.failures)
        s.send_signal(signal.SIGTTOU)
        wait_until("it is gone", lambda: [w["id"] for w in s.workers()] == [0, -1])
        assert gone(new)
    load.end()
    s.send_signal(signal.SIGTTOU)
    s.until_logged("there can be 1 to ")
    assert s.get().status == 200
    s.stop()


def test_worker_that_is_wanted_again_while_it_goes_follows_it(supervised, wait_until):
    s = supervised(workers=2).until_serving(2)
    first = s.workers()[0]["pid"]
    s.send_signal(signal.SIGTTOU)
    s.until_logged("worker 1 is taken out of service")
    s.send_signal(signal.SIGTTIN)
    new = s.until_started(3)[-1]
    wait_until("both are listed", lambda: {w["pid"] for w in s.workers()} >= {first, new})
    answers: set[int] = set()
    wait_until("it gets connections", lambda: answers.add(int(s.get().body)) or new in answers)
    clean(s.stop())


def test_worker_is_replaced_after_its_requests(supervised, loaded, wait_until):
    most = {"worker_max_requests": 100, "worker_max_requests_jitter": 400}
    s = supervised(workers=2, **most).until_serving(2)
    load = loaded(s)
    s.until_started(6)
    load.end()
    log = clean(s.stop())
    served = [int(n) for n in re.findall(r"is replaced: it has served (\d+) requests", log)]
    assert len(served) >= 4 and all(100 <= n <= 500 for n in served)
    assert len(set(served)) > 1  # or all would be replaced at the same time


def test_hot_restart_is_refused(supervised):
    s = supervised(workers=1).until_serving(1)
    s.send_signal(signal.SIGUSR2)
    s.until_logged("SIGUSR2: no hot restart with workers; SIGHUP replaces them")
    assert s.get().status == 200
    s.stop()
    with pytest.raises(ValueError, match="hot_restart and workers exclude each other"):
        http.serve(None, "127.0.0.1:0", workers=2, hot_restart=True)


# --- sockets --------------------------------------------------------------------------------------


@pytest.fixture
def address() -> Iterator:
    made: list[Address] = []

    def make(addr: str) -> Address:
        made.append(Address(addr, 100))
        return made[-1]

    yield make
    for a in made:
        a.close()
        a.remove_file()


def connections(a: Address, n: int) -> list[int]:
    """Connect n times: how many of them each socket has got."""
    with ExitStack() as stack:
        for _ in range(n):
            stack.enter_context(socket.create_connection(a.sockets[0].getsockname()))
        counts = [0] * len(a.sockets)
        while sum(counts) < n:  # they may be complete a little later than their clients know
            ready = select.select(a.sockets, [], [], SAFETY)[0]
            assert ready, f"connections are missing: {counts}"
            for listening in ready:
                listening.accept()[0].close()
                counts[a.sockets.index(listening)] += 1
    return counts


def test_connections_are_spread_over_sockets_and_steered_away_from_the_last(address):
    a = address("127.0.0.1:0")
    assert len({a.socket(slot).getsockname() for slot in range(3)}) == 1
    counts = connections(a, 90)
    assert sum(counts) == 90 and all(counts)
    a.steer(2)
    assert not a.waiting(2)
    counts = connections(a, 90)
    assert sum(counts) == 90 and counts[2] == 0 and all(counts[:2])
    a.drop(2)
    counts = connections(a, 90)
    assert sum(counts) == 90 and all(counts)
    a.socket(2)  # another one
    counts = connections(a, 90)
    assert sum(counts) == 90 and all(counts)


def test_socket_knows_of_connections_that_wait(address, wait_until):
    a = address("127.0.0.1:0")
    assert not a.waiting(0)
    with socket.create_connection(a.sockets[0].getsockname()):
        wait_until("it waits", lambda: a.waiting(0))


@pytest.mark.parametrize("unix", [False, True])
def test_sockets_that_cannot_be_spread_are_one(address, monkeypatch, tmp_path, unix):
    monkeypatch.setattr(sockets, "_LINUX", False)
    a = address(f"unix:{tmp_path}/socket" if unix else "127.0.0.1:0")
    assert a.socket(0) is a.socket(1) is a.socket(2)
    a.steer(1)
    a.drop(1)
    assert not a.waiting(1)
    assert a.socket(0).fileno() >= 0


def test_socket_that_could_not_be_made_is_not_missed(address):
    a = address("127.0.0.1:0")
    a.socket(1)
    assert not a.waiting(2)
    a.drop(2)
    assert len(a.sockets) == 2 and all(s.fileno() >= 0 for s in a.sockets)


def test_unix_socket_of_somebody_else_is_left_alone(address, tmp_path):
    path = f"{tmp_path}/socket"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(OSError, match="Address already in use"):
            address(f"unix:{path}")
    a = address(f"unix:{path}")  # now it is stale
    os.unlink(path)
    Path(path).touch()
    a.close()
    a.remove_file()
    assert os.path.exists(path)
    with pytest.raises(OSError, match="Address already in use"):  # no socket: not ours to remove
        address(f"unix:{path}")


# --- statistics -----------------------------------------------------------------------------------


class Sum:
    """Asks for requests, and for their sum by a connection to one worker."""

    def __init__(self, served, wait_until) -> None:
        self.served, self.wait_until = served, wait_until
        self.asked = 0
        self.watch = served.connect()

    def ask(self, times: int) -> None:
        for _ in range(times):
            assert self.served.get("/", CLOSE).status == 200
        self.asked += times

    def workers(self) -> list:
        r = self.watch.send(GET.replace("/ ", "/workers ", 1)).response()
        self.asked += 1
        return json.loads(r.body)

    def until_all_are_counted(self) -> list:
        def counted() -> bool:
            nonlocal found
            found = self.workers()
            requests = sum(w["requests"] for w in found)
            assert requests < self.asked  # the one that asks for it is not over
            return requests == self.asked - 1

        found: list = []
        self.wait_until("all are counted", counted)
        return found

    def connect_again(self) -> None:
        self.watch.close()
        self.watch = self.served.connect()


def test_sum_of_requests_counts_each_once_whatever_becomes_of_workers(supervised, wait_until):
    s = supervised(workers=2).until_serving(2)
    total = Sum(s, wait_until)
    total.ask(30)
    found = total.until_all_are_counted()
    assert all(w["requests"] > 0 for w in found)
    (other,) = (w["pid"] for w in found if w["age"] > 0)
    os.kill(other, signal.SIGKILL)  # what it has counted is published already
    s.until_started(3)
    total.ask(20)
    assert [w["id"] for w in total.until_all_are_counted()] == [0, 1, -1]
    s.send_signal(signal.SIGHUP)
    s.until_started(5)
    total.ask(20)
    s.until_logged("has ended with status 0", 2)
    total.connect_again()
    last = total.until_all_are_counted()[-1]
    assert (last["id"], last["pid"], last["connections"], last["restarts"]) == (-1, 0, 0, 0)
    assert last["requests"] > 0
    total.watch.close()
    s.stop()


def test_workers_of_an_ordinary_process_are_itself():
    (found,) = http.workers()
    assert (found.id, found.pid, found.age, found.restarts) == (0, os.getpid(), 0.0, 0)
    assert found.snapshot["stats"]["goroutines"] >= 1


def test_sum_of_ended_workers_has_what_happened_and_nothing_that_is():
    done = run(
        """
        import json, runtime
        from runtime import _stats
        from runtime._http.workers.info import add_ended
        for _ in range(10):
            runtime.go(lambda: None).join()
        one = _stats.snapshot()
        one["routes"] = [_stats.make_route("GET", "/", {"200": one["histograms"]["run"]})]
        both = None
        for _ in range(3):
            both = add_ended(both, one)
        stats = both["stats"]
        assert stats["created"] == 3 * one["stats"]["created"]
        assert [p["ticks"] for p in stats["ps"]] == [3 * p["ticks"] for p in one["stats"]["ps"]]
        assert stats["goroutines"] == stats["states"]["running"] == stats["ms"]["count"] == 0
        assert both["histograms"]["run"]["count"] == 3 * one["histograms"]["run"]["count"]
        assert both["routes"][0]["statuses"]["200"] == 3 * one["histograms"]["run"]["count"]
        json.dumps(both)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=5))
def test_cell_holds_what_was_written_last(values: list[bytes]):
    cell = Cell(memoryview(bytearray(64 + 2 * 2000)))
    assert cell.read() is None
    for n, value in enumerate(values):
        cell.write(value)
        assert (cell.read(), cell.version) == (value, n + 1)
    with pytest.raises(ValueError, match="2001 bytes are too many"):
        cell.write(bytes(2001))
    assert cell.read() == (values[-1] if values else None)
    cell.count_beat()
    assert cell.beat == 1
    cell.set_hurry()
    assert cell.hurry
    cell.clear()
    assert (cell.read(), cell.beat, cell.hurry) == (None, 0, False)


def test_cell_is_read_whole_while_another_process_writes():
    memory = Memory(1)
    cell = memory.cells[0]
    pid = os.fork()
    if pid == 0:
        try:
            n = 0
            while True:
                n += 1
                cell.write(json.dumps([n] * (n % 5000)).encode())
        finally:
            os._exit(1)
    try:
        seen = 0
        while seen < 20:
            value = cell.read()
            if value is None:
                continue
            numbers = json.loads(value)
            assert len(set(numbers)) <= 1
            seen += len(numbers) > 0
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    value = cell.read()  # it was killed, maybe half-way
    assert value is not None and len(set(json.loads(value))) <= 1


def test_snapshot_that_is_too_long_is_published_without_routes(monkeypatch, caplog):
    cell = Cell(memoryview(bytearray(64 + 2 * 20000)))
    snapshot = info._stats.snapshot()
    routes = ["x" * 100_000]  # what can be compressed has room
    monkeypatch.setattr(info._stats, "snapshot", lambda: {**snapshot, "routes": routes})
    info.publish(cell)
    assert cell.get()["routes"] == routes and caplog.text == ""
    routes[0] = os.urandom(30_000).hex()
    info._warn_of_routes.cache_clear()
    for _ in range(2):
        info.publish(cell)
        assert {**snapshot, "routes": []} == cell.get()
    assert caplog.text.count("there is no room for so many") == 1


def test_routes_of_ended_workers_are_bounded(monkeypatch):
    monkeypatch.setattr(info, "_MOST_ROUTES", 10)
    h = {"count": 2, "sum_ns": 10, "buckets": [[0, 8, 2]]}
    ended, seen = None, set()
    for n in range(30, 0, -1):  # a later one comes first in the order of routes
        route = info._stats.make_route("GET", f"/{n:02}", {"200": h})
        ended = info.add_ended(ended, {**info._stats.snapshot(), "routes": [route]})
        told = {r["route"] for r in ended["routes"]}
        assert told >= seen  # no counter goes down
        seen = told
    assert len(ended["routes"]) <= 11
    assert sum(r["statuses"]["200"] for r in ended["routes"]) == 60
    assert [r["route"] for r in ended["routes"]].count("other") == 1


def test_statistics_before_any_were_written_are_those_of_the_caller(monkeypatch):
    memory = Memory(2)
    monkeypatch.setattr(info, "_here", info.Here(memory, 1, 3, memory.cells[0], None))
    for found in (info.published(), info.workers()):
        assert [(w.id, w.pid, w.restarts) for w in found] == [(1, os.getpid(), 3)]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"workers": 0}, ValueError, "workers must be 1 to 512, not 0"),
        ({"workers": 1.5}, TypeError, "workers must be an int, not float"),
        ({"worker_timeout": 0.5}, ValueError, "worker_timeout must be 1 seconds or more"),
        ({"worker_boot_timeout": "x"}, TypeError, "worker_boot_timeout must be a number"),
        ({"worker_max_requests": 0}, ValueError, "worker_max_requests must be 1 or more"),
        ({"worker_max_requests_jitter": -1}, ValueError, "jitter must be 0 or more"),
        ({"on_worker_start": 5}, TypeError, "on_worker_start must be callable, not int"),
        ({"idle_timeout": -1}, ValueError, "idle_timeout"),
        ({"nothing": 1}, TypeError, "nothing"),
    ],
)
def test_bad_options_are_refused_before_anything_is_started(options, error, text):
    with pytest.raises(error, match=text):
        http.serve(None, "127.0.0.1:0", **({"workers": 2} | options))


def test_workers_are_served_by_the_main_goroutine_only():
    def serve() -> None:
        http.serve(None, "127.0.0.1:0", workers=2)

    with pytest.raises(RuntimeError, match="by the main goroutine only"):
        runtime.go(serve).join()


def test_address_that_is_taken_is_refused(supervised):
    """Also by another supervisor, whose sockets would let a third party in."""
    s = supervised(workers=2).until_serving(2)
    with pytest.raises(SystemExit, match=f"gosched: cannot listen on {s.addr}: Address already"):
        http.serve(None, s.addr, workers=2)
    clean(s.stop())
