"""conn_state: what a server tells of its connections."""

from __future__ import annotations

import threading

import pytest

import runtime
from runtime import http
from runtime.http import ConnState

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
CLOSE = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


@pytest.fixture(params=["socket", "stream"])
def transport(request):
    return request.param


class Seen:
    def __init__(self) -> None:
        self.events: runtime.Chan = runtime.Chan(1 << 14)

    def __call__(self, conn, state):
        self.events.send((conn, state))

    def next(self):
        return self.events.recv(timeout=SAFETY)


@pytest.fixture
def seen():
    return Seen()


def test_states_of_a_connection(serve, seen):
    server = serve(lambda w, r: r.remote_addr, conn_state=seen)
    with server.connect() as c:
        conn, state = seen.next()
        assert state is ConnState.NEW and state == "new"
        addr = c.send(GET).response().body.decode()
        assert (conn.id, conn.remote_addr) == (1, addr)
        assert addr in repr(conn)
        assert [seen.next() for _ in range(2)] == [(conn, "active"), (conn, "idle")]
        c.send(CLOSE).response()
        assert [seen.next() for _ in range(2)] == [(conn, "active"), (conn, "closed")]
    with server.connect():
        other, state = seen.next()
        assert (other.id, state) == (2, "new")
    assert seen.next() == (other, "closed")


def test_failing_hook_is_logged_and_harmless(serve, caplog, wait_until):
    def hook(conn, state):
        raise ZeroDivisionError

    server = serve(lambda w, r: "ok", conn_state=hook)
    assert server.get().body == b"ok"
    server.until(connections=0)
    wait_until("all is told", lambda: len(caplog.records) >= 3)
    assert {r.getMessage() for r in caplog.records} == {"conn_state failed"}


def test_hook_that_blocks_holds_nothing_up(serve):
    gate: runtime.Chan = runtime.Chan()
    states: runtime.Chan = runtime.Chan(100)

    def hook(conn, state):
        gate.recv_ok()
        states.send(str(state))

    server = serve(lambda w, r: "ok", conn_state=hook)
    for _ in range(3):
        assert server.get("/", "Connection: close\r\n").body == b"ok"
    gate.close()
    got = [states.recv(timeout=SAFETY) for _ in range(9)]
    assert got == ["new", "active", "closed"] * 3


def test_every_connection_begins_and_ends(serve, seen, procs):
    server = serve(lambda w, r: "ok", conn_state=seen)

    def client():
        for i in range(20):
            with server.connect() as c:
                c.send(GET)
                if i % 2:
                    assert c.response().body == b"ok"

    threads = [threading.Thread(target=client) for _ in range(8)]
    for t in threads:
        t.start()
    states: dict[int, list[str]] = {}
    closed = 0
    while closed < 160:
        conn, state = seen.next()
        states.setdefault(conn.id, []).append(state)
        closed += state == "closed"
    for t in threads:
        t.join(SAFETY)
    assert sorted(states) == list(range(1, 161))
    for of_one in states.values():
        assert of_one[0] == "new" and of_one[-1] == "closed"
        assert of_one[1:-1] in ([], ["active"], ["active", "idle"])


def test_hook_must_be_callable():
    with pytest.raises(TypeError, match="conn_state"):
        http.Server(lambda w, r: None, conn_state=1)
