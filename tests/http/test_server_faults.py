"""A system that fails the server: few descriptors, little memory, stops, a clock that jumps.

The server is in a process of its own.  In none of these it may end, keep who could be served from
being served, or spin: over a quiet spell the process may use a fraction of the time that one that
spins would get even on a busy machine.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

GET = "GET /hello HTTP/1.1\r\nHost: t\r\n\r\n"
DAY = 86400
TICK = os.sysconf("SC_CLK_TCK")
FAKETIME = Path(
    os.environ.get("GOSCHED_FAKETIME")
    or f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketimeMT.so.1"
)


def cpu_time(app: Any) -> float:
    """Seconds that the process has computed for."""
    fields = Path(f"/proc/{app.proc.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def assert_does_not_spin(app: Any) -> None:
    """A spell in which nothing is asked of it."""
    began = cpu_time(app)
    time.sleep(0.5)
    assert cpu_time(app) - began < 0.1


@contextmanager
def limit(app: Any, what: int, value: int) -> Iterator[None]:
    """Lower a limit of the running server; it is back afterwards."""
    before = resource.prlimit(app.proc.pid, what)
    resource.prlimit(app.proc.pid, what, (value, before[1]))
    try:
        yield
    finally:
        resource.prlimit(app.proc.pid, what, before)


def hellos(app: Any, n: int = 1) -> None:
    with app.connect() as c:
        for _ in range(n):
            assert c.send(GET).response().body == b"Hello, World"


def start_all_threads(app: Any) -> None:
    conns = [app.connect().send(GET) for _ in range(32)]
    for c in conns:
        c.response()
        c.close()
    app.until(connections=1)


# --- descriptors ----------------------------------------------------------------------------------


def test_limit_of_descriptors_lowered_while_it_serves(procs, program, wait_until):
    app = program("app.py")
    start_all_threads(app)
    served = [app.connect() for _ in range(8)]
    for c in served:
        assert c.send(GET).response().status == 200
    with limit(app, resource.RLIMIT_NOFILE, 3):
        # These wait for a descriptor.
        waiting = [app.connect().send(GET) for _ in range(20)]
        for c in served:
            assert c.send(GET).response().body == b"Hello, World"
            # A handler without one fails for itself.
            assert c.send("GET /open HTTP/1.1\r\nHost: t\r\n\r\n").response().status == 500
            assert c.send(GET).response().status == 200
        assert_does_not_spin(app)
        for c in served:
            assert c.send(GET).response().status == 200
    for c in waiting:
        assert c.response().body == b"Hello, World"
    for c in served + waiting:
        c.close()
    app.until(connections=1)
    code, err = app.stop()
    assert code == 0
    assert err.count("a handler failed (GET /open)") == 8
    assert err.count("OSError: [Errno 24]") == 8


# --- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def asan_returns_null(monkeypatch):
    """AddressSanitizer ends a process that is out of memory, unless it is told not to."""
    options = os.environ.get("ASAN_OPTIONS", "")
    monkeypatch.setenv("ASAN_OPTIONS", f"{options}:allocator_may_return_null=1")


def size(app: Any) -> int:
    """The process's address space in bytes."""
    pages = Path(f"/proc/{app.proc.pid}/statm").read_text().split()[0]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def test_responses_too_large_for_the_memory_fail_alone(procs, program, asan_returns_null):
    app = program("app.py")
    start_all_threads(app)
    n = 8_000_000_000
    room = size(app) + n // 2
    with app.connect() as c, app.connect() as other, limit(app, resource.RLIMIT_AS, room):
        for _ in range(5):
            assert c.send(f"GET /bytes/{n} HTTP/1.1\r\nHost: t\r\n\r\n").response().status == 500
            # Nothing of the response had been sent: the connection goes on.
            assert c.send(GET).response().status == 200
            assert other.send(GET).response().body == b"Hello, World"
    hellos(app)
    app.until(connections=1)
    code, err = app.stop()
    assert code == 0
    assert err.count("a handler failed (GET /bytes/") == 5


def send_until_answered(c: Any, n: int) -> None:
    """Send up to n bytes of a body."""
    piece = memoryview(bytes(1 << 20))
    with suppress(ConnectionResetError, BrokenPipeError):
        while n:
            readable, _, _ = select.select([c.sock], [c.sock], [])
            if readable:
                return
            n -= c.sock.send(piece[:n])


def rest_or_reset(c: Any) -> bytes:
    with suppress(ConnectionResetError):
        while c._more():
            pass
    return c.buf


def test_server_out_of_memory_goes_on(procs, program, wait_until, asan_returns_null):
    """While a handler has taken all there is, others are served, fail, or are cut off."""
    app = program("app.py")
    start_all_threads(app)
    before = size(app)
    with limit(app, resource.RLIMIT_AS, before + 20_000_000):
        for _ in range(2):
            hog = app.connect().send("GET /hog HTTP/1.1\r\nHost: t\r\n\r\n")
            assert app.read_line() == "hogged"
            for path in ("/hello", "/bytes/100000", "/nowhere", "/form") * 10:
                with app.connect() as c:
                    c.send(f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
                    received = rest_or_reset(c)
                    assert re.match(rb"HTTP/1.1 (200|404|500) |$", received), received[:100]
            n = 50_000_000
            with app.connect() as c:
                # Else the server may wait for the little that is left of the body.
                close = "Connection: close\r\n"
                c.send(f"POST /echo HTTP/1.1\r\nHost: t\r\n{close}Content-Length: {n}\r\n\r\n")
                send_until_answered(c, n)
                assert re.match(rb"HTTP/1.1 500 |$", rest_or_reset(c))
            app.send_signal(signal.SIGUSR1)
            assert hog.response().body == b"hogged"
            hog.close()
            hellos(app, 20)
    app.until(connections=1)
    assert app.stop()[0] == 0


# --- stops ----------------------------------------------------------------------------------------


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextmanager
def stop(pid: int, wait_until: Callable[..., None]) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until("it has stopped", lambda: stopped(pid))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("procs", [1, 4], indirect=True)
def test_server_stopped_and_continued_under_load_loses_nothing(
    procs, program, wrk, wait_until
):
    app = program("app.py")
    ended = threading.Event()
    stops = []

    def keep_stopping() -> None:
        while not ended.is_set():
            with stop(app.proc.pid, wait_until):
                ended.wait(0.05)
            stops.append(None)
            ended.wait(0.05)

    thread = threading.Thread(target=keep_stopping)
    thread.start()
    try:
        assert wrk(f"{app.url}/hello", "-c32") > 0
    finally:
        ended.set()
        thread.join()
    assert stops
    hellos(app)
    app.until(connections=1)
    assert_does_not_spin(app)
    assert app.stop() == (0, "")


def alive(c: Any) -> bool:
    """Nothing has come, and no end."""
    return not select.select([c.sock], [], [], 0)[0]


def test_server_stopped_for_longer_than_its_time_outs_goes_on(program, wait_until):
    post = "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab"
    # On a busy machine a time-out may end before the server is stopped: they are longer next time.
    for timeout in (0.3, 1, 4, 16):
        options = dict.fromkeys(["read_header_timeout", "idle_timeout", "read_timeout"], timeout)
        app = program("app.py", "127.0.0.1:0", json.dumps(options))
        hellos(app)
        conns = idle, head, body, late, late_head, late_body, late_idle = [
            app.connect() for _ in range(7)
        ]
        for c in (idle, late_idle):
            c.send(GET).response()
        for c in (head, late_head):
            c.send("GET /hello HTTP/1.1\r\n")
        for c in (body, late_body):
            c.send(post)
        hellos(app)
        with stop(app.proc.pid, wait_until):
            in_time = all(alive(c) for c in conns)
            if in_time:
                late.send(GET)
                late_idle.send(GET)
                late_head.send("Host: t\r\n\r\n")
                late_body.send("cde")
                time.sleep(1.1 * timeout)
        if in_time:
            break
        for c in conns:
            c.close()
    # What is over time is told so; what came meanwhile came in time.
    assert head.response().status == 408
    assert body.response().status == 408
    assert idle.ended()
    for c in (late, late_head, late_idle):
        assert c.response().body == b"Hello, World"
    assert late_body.response().body == b"abcde"
    for c in conns:
        c.close()
    app.until(connections=1)
    assert_does_not_spin(app)
    assert app.stop() == (0, "")


def curl(url: str) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    options = ["-q", "-sS", "--noproxy", "*", "--max-time", "100"]
    return subprocess.Popen(
        ["curl", *options, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )


def test_client_stopped_in_a_download_goes_on_where_it_was(app, wait_until):
    n = 100_000_000
    with curl(f"{app.url}/bytes/{n}") as client:
        assert client.stdout is not None
        received = len(client.stdout.read(1_000_000))
        assert_does_not_spin(app)  # nor while the client reads nothing
        for _ in range(3):
            with stop(client.pid, wait_until):
                hellos(app, 20)
            received += len(client.stdout.read(1_000_000))
        received += len(client.stdout.read())
        assert (client.wait(), received) == (0, n)
    app.until(connections=1)
    assert app.stop() == (0, "")


def test_client_stopped_for_longer_than_the_time_out_is_given_up(program, wait_until):
    app = program("app.py", "127.0.0.1:0", '{"write_timeout": 0.1}')
    with curl(f"{app.url}/bytes/100000000") as client:
        assert client.stdout is not None
        client.stdout.read(1_000_000)
        with stop(client.pid, wait_until):
            app.until(connections=1, active=1)
            hellos(app, 20)
        client.stdout.read()
        assert client.wait() == 18  # a transfer that is incomplete
    assert app.stop() == (0, "")


# --- the clock ------------------------------------------------------------------------------------


class Clock:
    """What a program that runs under it takes for the time of the day."""

    def __init__(self, path: Path) -> None:
        assert FAKETIME.exists(), f"{FAKETIME} is needed: make installs it with .ci/tools"
        self._path = path
        self.move(0)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {FAKETIME}".strip(),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
            # Its remedy for an old C library makes waits of the monotonic clock spin.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def move(self, seconds: int) -> None:
        """Away from the real time by so much."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._path)


@pytest.fixture
def clock(tmp_path, monkeypatch):
    clock = Clock(tmp_path / "clock")
    for name, value in clock.environment().items():
        monkeypatch.setenv(name, value)
    yield clock


@pytest.fixture
def date_is(wait_until):
    """date_is(app, seconds): wait until its Date is so far from ours; it is cached for a moment."""

    def run(app: Any, seconds: int) -> None:
        def near() -> bool:
            date = parsedate_to_datetime(app.get("/hello", "Connection: close\r\n")["date"])
            return abs(date.timestamp() - time.time() - seconds) < 100

        wait_until(f"it is {seconds} s later", near)

    return run


def test_wall_clock_that_jumps_changes_the_date_and_nothing_else(procs, clock, program, date_is):
    options = {"read_header_timeout": 60, "idle_timeout": 60, "read_timeout": 60}
    app = program("app.py", "127.0.0.1:0", json.dumps(options))
    date_is(app, 0)
    idle, head, body, sleeper = (app.connect() for _ in range(4))
    idle.send(GET).response()
    head.send("GET /hello HTTP/1.1\r\n")
    body.send("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab")
    sleeper.send("GET /sleep?s=1 HTTP/1.1\r\nHost: t\r\n\r\n")
    app.until(active=3)
    for jump in (DAY, -400 * DAY, 0):
        clock.move(jump)
        date_is(app, jump)
        assert sleeper.response().body == b"slept"
        sleeper.send("GET /sleep?s=0.1 HTTP/1.1\r\nHost: t\r\n\r\n")
    assert_does_not_spin(app)
    # Waits end in time, and none too soon.
    assert sleeper.response().body == b"slept"
    assert head.send("Host: t\r\n\r\n").response().body == b"Hello, World"
    assert body.send("cde").response().body == b"abcde"
    assert idle.send(GET).response().body == b"Hello, World"
    for c in (idle, head, body, sleeper):
        c.close()
    app.until(connections=1)
    assert app.stop() == (0, "")


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_time_outs_end_in_time_after_the_wall_clock_has_jumped(clock, program, date_is, jump):
    post = "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab"
    options = {"read_header_timeout": 0.5, "idle_timeout": 0.5, "read_timeout": 0.5}
    app = program("app.py", "127.0.0.1:0", json.dumps(options))
    date_is(app, 0)
    clock.move(jump)
    date_is(app, jump)
    with (
        app.connect().send(GET) as idle,
        app.connect().send("GET /hello HTTP/1.1\r\n") as head,
        app.connect().send(post) as body,
    ):
        assert idle.response().status == 200
        clock.move(2 * jump)
        assert idle.ended()
        assert head.response().status == 408
        assert body.response().status == 408
    app.until(connections=1)
    assert app.stop() == (0, "")
