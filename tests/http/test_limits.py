"""Time-outs, limits, slow and vanishing clients.

Time-outs are set to fractions of a second and waited for; nothing is measured.
"""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

import runtime
from runtime import http

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(params=["socket", "stream"])
def transport(request):
    return request.param


def hello(w, r):
    return "hello"


# --- time-outs ------------------------------------------------------------------------------------


def test_slow_head_is_408(serve):
    server = serve(hello, read_header_timeout=0.05)
    with server.connect_in_time(0.05, "GET / HTTP/1.1\r\nHo") as c:
        r = c.response()
        assert (r.status, r["connection"]) == (408, "close")
        assert c.ended()


def test_slow_head_after_a_good_request_is_408(serve):
    server = serve(hello, read_header_timeout=0.05)
    with server.connect_in_time(0.05, GET + "GET / HTTP/1.1\r\nHo") as c:
        assert c.response().status == 200
        assert c.response().status == 408
        assert c.ended()


def test_head_that_trickles_in_is_408(serve):
    """Each byte in time is not enough: the limit is for the whole head."""
    server = serve(hello, read_header_timeout=0.1)
    with server.connect_in_time(0.1, "GET / HTTP/1.1\r\nX: ") as c:
        assert c.trickle("x").response().status == 408


def test_connection_without_a_byte_is_closed(serve):
    server = serve(hello, read_header_timeout=0.05)
    with server.connect() as c:
        assert c.ended()
    server.until(connections=0)


def test_idle_connection_is_closed(serve):
    server = serve(hello, idle_timeout=0.05)
    with server.connect() as c:
        assert c.send(GET).response().status == 200
        assert c.ended()
    server.until(connections=0)


def test_many_idle_connections_are_closed(serve):
    server = serve(hello, idle_timeout=0.05)
    conns = [server.connect() for _ in range(100)]
    for c in conns:
        c.send(GET)
    for c in conns:
        assert c.response().status == 200
        assert c.ended()
        c.close()


def test_timeouts_of_none_are_none(serve):
    server = serve(
        hello, read_header_timeout=None, idle_timeout=None, read_timeout=None, write_timeout=None
    )
    with server.connect() as c:
        assert c.send("GET / HTTP/1.1\r\n").send("Host: t\r\n\r\n").response().status == 200
        assert c.send(GET).response().status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_body_that_does_not_come_is_408(serve, framing, caplog):
    server = serve(lambda w, r: r.body.read(), read_timeout=0.05)
    with server.connect() as c:
        r = c.send(f"POST / HTTP/1.1\r\nHost: t\r\n{framing}\r\n\r\n").response()
        assert (r.status, r["connection"]) == (408, "close")
        assert c.ended()
    assert not caplog.records


def test_body_time_out_can_be_caught(serve):
    def handler(w, r):
        with pytest.raises(TimeoutError, match="reading the request body"):
            r.body.read()
        return "late"

    with serve(handler, read_timeout=0.05).connect() as c:
        assert c.send(POST).response().body == b"late"
        assert c.ended()


def test_handlers_own_time_out_is_500(serve, caplog):
    def handler(w, r):
        runtime.Chan().recv(timeout=0.001)

    with serve(handler).connect() as c:
        c.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert c.response().status == 500
    assert len(caplog.records) == 1


def test_unread_body_that_does_not_come_ends_the_connection(serve):
    server = serve(hello, read_timeout=0.05)
    with server.connect() as c:
        assert c.send(POST).response().body == b"hello"
        assert c.ended()


def test_client_that_reads_nothing_is_given_up(serve):
    errors: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        try:
            while True:
                w.write(bytes(1 << 20))
        except TimeoutError as exc:
            errors.send(str(exc))
            raise

    server = serve(handler, write_timeout=0.05)
    with server.connect(rcvbuf=4096) as c:
        c.send(GET)
        assert "sending a response" in errors.recv(timeout=SAFETY)
        server.until(connections=0)


def test_writes_after_one_that_failed_fail_too(serve):
    """They would follow a hole in the response."""
    errors: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        w.headers["Content-Length"] = 200_000_000
        with pytest.raises(TimeoutError):
            w.write(bytes(100_000_000))
        with pytest.raises(ConnectionError):
            w.write(bytes(100_000_000))
        with pytest.raises(ConnectionError):
            w.flush()
        errors.send(None)

    server = serve(handler, write_timeout=0.05)
    with server.connect(rcvbuf=4096) as c:
        c.send(GET)
        errors.recv(timeout=SAFETY)
        assert int(c.head()["content-length"]) == 200_000_000
        while c._more():
            pass
        assert len(c.buf) < 100_000_000


# --- backpressure ---------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [100, 20_000, 1_000_000])
def test_writer_waits_for_a_slow_reader(serve, piece):
    """The handler parks when the sockets' buffers are full, whatever the size of its writes."""
    total = 200_000_000
    state = {"written": 0, "done": False}
    parked: runtime.Chan = runtime.Chan(1)

    def watch(goroutine, w):
        # The handler waits in write(): nothing else in it parks.
        while goroutine.wait_reason != "IO wait":
            runtime.gosched()
        parked.send(state["written"])

    def handler(w, r):
        runtime.go(watch, runtime.current(), w)
        data = bytes(piece)
        while state["written"] < total:
            w.write(data)
            state["written"] += piece
        state["done"] = True

    server = serve(handler)
    with server.connect(rcvbuf=65536) as c:
        c.send(GET)
        # What the buffers of two sockets can hold, far less than all.
        assert parked.recv(timeout=SAFETY) < 50_000_000
        c.head()
        for _ in range(10):
            c.chunk()
        assert not state["done"]
    server.until(connections=0)
    assert not state["done"]


def test_slow_reader_gets_everything(serve):
    data = bytes(range(256)) * 40_000
    with serve(lambda w, r: data).connect(rcvbuf=4096) as c:
        for _ in range(2):
            assert c.send(GET).response().body == data


def test_reader_takes_no_more_than_it_is_asked_for(serve):
    """An upload nobody reads stays in the sockets' buffers: the client must stop sending."""
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        gate.recv()
        return str(len(r.body.read()))

    size = 100_000_000
    with serve(handler, max_body_bytes=None).connect() as c:
        c.send(f"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n")
        c.sock.setblocking(False)
        sent = 0
        block = bytes(1 << 20)
        full = 0
        while full < 1000:
            try:
                sent += c.sock.send(block[: size - sent])
                full = 0
            except BlockingIOError:
                full += 1
        assert sent < size
        gate.send(None, timeout=SAFETY)
        c.sock.settimeout(SAFETY)
        while sent < size:
            sent += c.sock.send(block[: size - sent])
        assert c.response().body == str(size).encode()


# --- clients that vanish --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "phase",
    ["connected", "head", "upload", "handler", "download", "idle", "drain", "linger", "pipelined"],
)
def test_client_vanishes(serve, phase, how, caplog):
    """In every phase of a connection, many times; nothing is left, nothing is logged."""
    gate: runtime.Chan = runtime.Chan()
    ended: list[Any] = []

    def handler(w, r):
        try:
            match r.path:
                case "/read":
                    r.body.read()
                case "/wait":
                    gate.recv()
                case "/write":
                    while True:
                        w.write(bytes(65536))
        finally:
            ended.append(r.path)

    server = serve(handler, max_body_bytes=10_000_000)
    rounds = 30
    server.get("/warm")
    ended.clear()
    gc.collect()
    before = len(gc.get_objects())
    for i in range(rounds):
        c = server.connect(rcvbuf=4096)
        match phase:
            case "connected":
                server.until(reading=1)
            case "head":
                c.send("GET / HTTP/1.1\r\nHost: ")
            case "upload":
                c.send("POST /read HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\nabc")
                server.until(active=1)
            case "handler":
                c.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
                server.until(active=1)
            case "download":
                c.send("GET /write HTTP/1.1\r\nHost: t\r\n\r\n")
                c.head()
            case "idle":
                c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response()
            case "drain":
                c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9999\r\n\r\nabc").response()
                server.until(closing=1)
            case "linger":
                c.send("GARBAGE\r\n\r\n").response()
                server.until(closing=1)
            case "pipelined":
                c.send("GET /a HTTP/1.1\r\nHost: t\r\n\r\n" * 20)
                c.send("GET /write HTTP/1.1\r\nHost: t\r\n\r\n")
                c.response()
        c.reset() if how == "reset" else c.close()
        if phase == "handler":
            gate.send(None, timeout=SAFETY)
        server.until(connections=0, accepted=i + 2)
    assert not caplog.records
    assert len(ended) == {
        "connected": 0,
        "head": 0,
        "linger": 0,
        "pipelined": 21 * rounds,
    }.get(phase, rounds)
    assert server.get("/after").status == 200
    server.until(connections=0)
    del c
    ended.clear()
    gc.collect()
    assert len(gc.get_objects()) < before + rounds


def test_writing_to_a_client_that_has_gone_raises(serve):
    errors: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        try:
            while True:
                w.write(bytes(65536))
        except ConnectionError as exc:
            with pytest.raises(ConnectionError):
                w.flush()
            errors.send(str(exc))

    server = serve(handler)
    c = server.connect()
    c.send(GET).head()
    c.reset()
    assert errors.recv(timeout=SAFETY) == "the client has closed the connection"
    server.until(connections=0)


# --- numbers of things ----------------------------------------------------------------------------


def test_connections_over_the_limit_wait_their_turn(serve):
    server = serve(hello, max_connections=2)
    a, b, c = (server.connect() for _ in range(3))
    for conn in (a, b):
        assert conn.send(GET).response().status == 200
    c.send(GET)
    server.until(connections=2, accepted=2)
    a.close()
    assert c.response().status == 200
    b.close()
    c.close()
    server.until(connections=0, accepted=3)


def test_connections_at_the_limit_take_turns(serve):
    server = serve(hello, max_connections=1)
    for _ in range(200):
        assert server.get("/", "Connection: close\r\n").body == b"hello"


def test_many_connections_at_once_from_threads(serve):
    server = serve(hello)
    failures: list[BaseException] = []

    def client():
        try:
            for _ in range(50):
                with server.connect() as c:
                    for _ in range(3):
                        assert c.send(GET).response().body == b"hello"
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=client) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(SAFETY)
    assert failures == []
    server.until(connections=0, requests=8 * 50 * 3)


def test_max_headers_is_a_limit_not_a_count(serve):
    server = serve(hello, max_headers=3)
    assert server.get("/", "A: 1\r\nB: 2\r\n").status == 200
    assert server.get("/", "A: 1\r\nB: 2\r\nC: 3\r\n").status == 431


def test_server_options_are_keyword_only():
    with pytest.raises(TypeError):
        http.Server(hello, ":0", 5)
