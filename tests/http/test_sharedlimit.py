"""rate_limit(storage=...): limits that processes share through Redis, a real one."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from contextlib import ExitStack

import ports
import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs import run
from runtime import httptest
from runtime._http.middleware.sharedlimit import look
from runtime.http import middleware

SAFETY = 60.0
DAY = "20/day"
GET = "GET / HTTP/1.1\r\nHost: t\r\nKey: {}\r\n\r\n"


class Redis:
    """A redis-server, with a unix socket or over TCP."""

    def __init__(self, kind, folder, wait_until):
        self._folder = folder
        self._wait_until = wait_until
        self._port = ExitStack()
        if kind == "unix":
            path = str(folder / "redis.sock")
            self.uri, self._target = f"redis+unix://{path}", path
            self._options = {"port": "0", "unixsocket": path}
        else:
            address = self._port.enter_context(ports.reserved())
            port = address.rpartition(":")[2]
            self._target = ("127.0.0.1", int(port))
            self.uri = f"redis://{address}"
            self._options = {"port": port, "bind": "127.0.0.1"}
        self.start()

    def start(self):
        options = self._options | {"save": "", "dir": str(self._folder)}
        argv = [word for name, value in options.items() for word in (f"--{name}", value)]
        # The sanitizers' library is for the interpreter only.
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        self.proc = subprocess.Popen(
            ["redis-server", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
        )
        self._wait_until("Redis answers", self.answers)

    def answers(self):
        assert self.proc.poll() is None, "redis-server has ended"
        try:
            return self.ask("PING") == b"+PONG\r\n"
        except (ConnectionError, FileNotFoundError):
            return False

    def ask(self, command):
        """What it answers first, up to 64 KiB."""
        family = socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
        with socket.socket(family) as s:
            s.settimeout(SAFETY)
            s.connect(self._target)
            s.sendall(f"{command}\r\n".encode())
            return s.recv(1 << 16)

    def kill(self):
        self.proc.kill()
        self.proc.wait(SAFETY)

    def close(self):
        self.kill()
        self._port.close()


@pytest.fixture(params=["unix", "tcp"])
def redis(request, tmp_path, wait_until):
    server = Redis(request.param, tmp_path, wait_until)
    yield server
    server.close()


def get(served, key="k"):
    return served.get("/", f"Key: {key}\r\nConnection: close\r\n")


def test_two_processes_share_a_limit(redis, program):
    both = [program("limited.py", redis.uri, DAY, "deny", "30") for _ in range(2)]
    for i in range(20):
        response = get(both[i % 2])
        assert (response.status, response.body) == (200, b"ok")
        assert response["RateLimit-Policy"] == '"default";q=20;w=86400'
        left = re.fullmatch(r'"default";r=(\d+);t=(\d+)', response["RateLimit"])
        assert left is not None and int(left[1]) == 19 - i
        # All of it when this window and the one after are over, one when this one is.
        assert 0 <= (172800 if i < 19 else 86400) - int(left[2]) < SAFETY
    for served in both:
        refused = get(served)
        assert (refused.status, refused.body) == (429, b"too many requests\n")
        assert 0 <= 86400 - int(refused["Retry-After"]) < SAFETY
        assert get(served, "other").status == 200
        # No key, no limit.
        assert served.get("/", "Connection: close\r\n").all("RateLimit") == []


def test_clients_of_two_processes_get_exactly_the_limit_together(redis, program):
    both = [program("limited.py", redis.uri, DAY, "deny", "30") for _ in range(2)]
    found: Counter[int] = Counter()

    def client(served):
        with served.connect() as c:
            c.send(GET.format("k") * 15)
            for _ in range(15):
                found[c.response().status] += 1

    threads = [threading.Thread(target=client, args=(both[i % 2],)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {200: 20, 429: 70}


@pytest.mark.parametrize(
    ("on_error", "expected"),
    [
        ("local", {200: 20, 429: 10}),  # as many as without a storage, in this process
        ("allow", {200: 30}),
        ("deny", {503: 30}),
    ],
)
def test_redis_that_dies_leaves_it_to_on_error(redis, caplog, on_error, expected):
    handler = middleware.rate_limit(DAY, storage=redis.uri, on_error=on_error, storage_timeout=30)(
        lambda w, r: "ok"
    )
    r = httptest.new_request("GET", "/")
    assert httptest.record(handler, r).headers["RateLimit"].startswith('"default";r=19;')
    redis.kill()
    found = [httptest.record(handler, r) for _ in range(30)]
    assert Counter(response.status for response in found) == expected
    if on_error == "deny":
        assert found[-1].headers["Retry-After"] == "1" and "RateLimit" not in found[-1].headers
    # One line for all of them.
    [line] = caplog.messages
    assert "does not answer" in line and redis.uri.rpartition("/")[2] in line


def test_redis_that_dies_and_comes_back_is_asked_again(redis, program, wait_until):
    both = [program("limited.py", redis.uri, DAY, "local", "30") for _ in range(2)]
    for served in both:
        assert get(served).status == 200
    redis.kill()
    for served in both:
        assert get(served).status == 200
        assert "does not answer, and each process limits for itself" in served.read_line()
    redis.start()
    for i, served in enumerate(both):
        with served.connect() as c:

            def asked(c=c, key=f"new{i}"):
                c.send(GET.format(key)).response()
                return key.encode() in redis.ask(f"KEYS *{key}*")

            wait_until("it is asked again", asked)
        assert "answers again" in served.read_line()
    # It has forgotten what was before, and they share again.
    found = Counter(get(both[i % 2]).status for i in range(25))
    assert found == {200: 20, 429: 5}
    assert [served.stop()[0] for served in both] == [0, 0]


@given(
    limit=st.integers(1, 50),
    period=st.sampled_from([1, 10, 3600]),
    before=st.integers(0, 50),
    now=st.integers(0, 50),
    elapsed=st.floats(0, 1, exclude_max=True),
)
def test_time_that_is_told_is_when_there_is_one_again(limit, period, before, now, elapsed):
    """By limits' definition of its sliding window counter, `seconds` later."""
    before, now = min(before, limit), min(now, limit)

    def weighted(seconds):
        at = elapsed * period + seconds
        windows = [now, before]
        while at >= period:
            at -= period
            windows = [0, windows[0]]
        return math.floor(windows[1] * (period - at) / period) + windows[0]

    left, wait, full = look(
        limit,
        period,
        before,
        (1 - elapsed) * period,
        now,
        (2 - elapsed) * period,
    )
    assert left == max(0, limit - weighted(0))
    assert weighted(full + 1e-6) == 0
    if left == 0:
        assert weighted(wait + 1e-6) < limit
        assert wait == 1 or weighted(wait - 1 - 1e-6) >= limit


def test_redis_that_hangs_keeps_nobody_else_waiting(redis, program):
    served = program("limited.py", redis.uri, DAY, "deny", "60")
    assert get(served).status == 200
    redis.proc.send_signal(signal.SIGSTOP)
    try:
        with served.connect() as waits:
            waits.send(GET.format("k"))
            for _ in range(50):
                assert served.get("/free", "Connection: close\r\n").body == b"free"
            redis.proc.send_signal(signal.SIGCONT)
            assert waits.response().status == 200
    finally:
        redis.proc.send_signal(signal.SIGCONT)


def test_redis_that_hangs_is_not_waited_for_any_longer(redis, program):
    """Many at once: each waits for the time-out at most, those after the first not at all."""
    served = program("limited.py", redis.uri, DAY, "local", "0.2")
    assert get(served, "warm").status == 200
    redis.proc.send_signal(signal.SIGSTOP)
    try:
        conns = [served.connect().send(GET.format("k")) for _ in range(25)]
        assert Counter(c.response().status for c in conns) == {200: 20, 429: 5}
        for c in conns:
            c.close()
    finally:
        redis.proc.send_signal(signal.SIGCONT)


def test_keys_of_any_kind_are_apart_and_short_in_the_storage(redis):
    keys = ["k", b"k\0\xff", "k" * 5000, "k" * 5001, "é", "\udcff", "a/b", "", " "]
    handler = middleware.rate_limit(
        "1/day", storage=redis.uri, key=lambda r: keys[int(r.path[1:])], storage_timeout=60
    )(lambda w, r: "ok")
    for i in range(len(keys)):
        found = [httptest.record(handler, httptest.new_request("GET", f"/{i}")) for _ in range(2)]
        assert [r.status for r in found] == [200, 429], keys[i]
    stored = redis.ask("KEYS *").split(b"\r\n")
    assert len(stored) > len(keys) and max(map(len, stored)) < 150


def test_clients_are_their_addresses_in_the_storage_too(redis):
    handler = middleware.rate_limit("1/day", storage=redis.uri, storage_timeout=60)(lambda w, r: "")
    addresses = ("192.0.2.1:1", "192.0.2.1:2", "[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.2:1")
    found = [
        httptest.record(handler, httptest.new_request("GET", "/", remote_addr=a)).status
        for a in addresses
    ]
    assert found == [200, 429, 200, 429, 200]


def test_limit_without_the_package_says_what_to_install():
    result = run(
        """
        import sys
        sys.modules["limits"] = None
        from runtime.http import middleware
        middleware.rate_limit("1/day")
        assert "redis" not in sys.modules
        try:
            middleware.rate_limit("1/day", storage="redis://localhost")
        except ImportError as e:
            print(e)
        """
    )
    assert result.stderr == "" and result.returncode == 0
    assert result.stdout.strip().endswith("pip install 'gosched[redis]'")


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("no burst", {"burst": 5}),
        ("on_error is one of local, allow, deny, not 'raise'", {"on_error": "raise"}),
        ("storage_timeout", {"storage_timeout": 0}),
        ("storage_timeout", {"storage_timeout": float("nan")}),
        ("'nosql://host' cannot be used", {"storage": "nosql://user:secret@host"}),
        ("cannot be used", {"storage": ""}),
    ],
)
def test_argument_that_does_not_go_with_a_storage_raises(match, options):
    with pytest.raises(ValueError, match=match) as e:
        middleware.rate_limit("5/minute", **({"storage": "redis://localhost"} | options))
    assert "secret" not in str(e.value)
