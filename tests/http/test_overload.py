"""Clients that do their worst, in numbers, while others are to be served.

See test_limits.py for each of them alone.
"""

from __future__ import annotations

import select
from contextlib import suppress
from typing import Any

import pytest

SAFETY = 60.0
GET = b"GET /hello HTTP/1.1\r\nHost: t\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = b"GET /hello HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"

pytestmark = pytest.mark.usefixtures("no_quarantine")


def fill(conns: list[Any], data: bytes) -> list[int]:
    """Send data over and over on each until none takes any more for a while; how much it was."""
    sent = dict.fromkeys(conns, 0)
    by_socket = {c.sock: c for c in conns}
    for sock in by_socket:
        sock.setblocking(False)
    while ready := select.select([], by_socket, [], 1.0)[1]:
        for sock in ready:
            c = by_socket[sock]
            with suppress(BlockingIOError):
                sent[c] += sock.send(memoryview(data)[sent[c] % len(data) :])
    for sock in by_socket:
        sock.settimeout(SAFETY)
    return list(sent.values())


def test_thousand_half_open_connections_keep_nobody_waiting(procs, program, wrk):
    app = program("app.py", "127.0.0.1:0", '{"read_header_timeout": null}')
    half: list[Any] = []
    for i in range(1000):
        c = app.connect()
        half.append(c)
        match i % 5:
            case 0:
                pass  # not a byte
            case 1:
                c.send(GET[:-3])
            case 2:
                c.send(POST + b"ab")
            case 3:
                c.send(CHUNKED + b"5\r\na")
            case 4:
                c.send(CLOSE).response()  # answered, and then not closed
    # Those that wait for their bodies run, and one asks for this.
    app.until(active=401, reading=400, goroutines=402)
    assert wrk(f"{app.url}/hello", "-c16") > 0
    with app.connect() as c:
        for _ in range(100):
            assert c.send(GET).response().body == b"Hello, World"
    # All of them may still go on.
    for i, c in enumerate(half):
        match i % 5:
            case 0:
                assert c.send(GET).response().status == 200
            case 1:
                assert c.send(GET[-3:]).response().status == 200
            case 2:
                assert c.send(b"cdefghij").response().body == b"abcdefghij"
            case 3:
                assert c.send(b"bcde\r\n0\r\n\r\n").response().body == b"abcde"
        c.close()
    app.until(connections=1)
    assert app.stop() == (0, "")


def test_flood_of_pipelined_requests_is_bounded_by_the_sockets(procs, app):
    """Who reads no responses is not read from any more, and costs only its buffers."""
    with app.connect() as warm:
        warm.send(GET * 2000)
        for _ in range(2000):
            warm.response()
    with app.connect() as c:
        length = len(c.send(CLOSE).rest()) - len("Connection: close\r\n")
    before = app.rss()
    floods = [app.connect(rcvbuf=4096) for _ in range(8)]
    sent = fill(floods, GET * 1000)
    # A response is larger than a request: the server would hold all of them.
    assert sum(sent) > 4_000_000
    assert app.rss() < before + 8_000_000
    with app.connect() as c:
        for _ in range(100):
            assert c.send(GET).response().body == b"Hello, World"
    for c, n in zip(floods, sent, strict=True):
        whole, part = divmod(n, len(GET))
        assert c.exactly(whole * length).count(b"\r\n\r\nHello, World") == whole
        c.send(GET[part:])
        assert c.response().body == b"Hello, World"
    for c in floods:
        c.reset()
    app.until(connections=1)
    assert app.stop() == (0, "")


def test_many_who_read_nothing_cost_what_the_sockets_hold(procs, app):
    app.get("/stream/10", "Connection: close\r\n")
    before = app.rss()
    slow = [
        app.connect(rcvbuf=4096).send(b"GET /stream/100000 HTTP/1.1\r\nHost: t\r\n\r\n")
        for _ in range(200)
    ]
    app.until(active=201)
    for c in slow:
        c.head()
    assert app.rss() < before + 200 * 200_000
    with app.connect() as c:
        for _ in range(100):
            assert c.send(GET).response().body == b"Hello, World"
    for c in slow:
        c.reset()
    app.until(connections=1)
    assert app.stop() == (0, "")


REQUESTS = (
    GET
    + b"POST /echo HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
    + b"POST /pipe HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n"
    + b"3\r\nabc\r\n0\r\nT: x\r\n\r\n"
)


def test_reset_after_every_byte_of_requests_leaves_nothing(procs, app):
    """With and without waiting until the server has taken them."""
    for n in range(len(REQUESTS) + 1):
        app.connect().send(REQUESTS[:n]).reset()
        c = app.connect().send(GET + REQUESTS[:n])
        c.response()
        c.reset()
        # Byte by byte, so that the server sees each state of its parser.
        if n % 16 == 0:
            c = app.connect()
            for i in range(n):
                c.send(REQUESTS[i : i + 1])
            c.reset()
    app.until(connections=1, goroutines=2)
    with app.connect() as c:
        assert c.send(GET).response().body == b"Hello, World"
    assert app.stop() == (0, "")


@pytest.mark.parametrize("path", ["/hello", "/stream/2", "/nowhere"])
def test_reset_after_every_byte_of_a_response_leaves_nothing(procs, app, path):
    """Of a head, and of a body that is larger than what the sockets hold."""
    request = f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n"
    with app.connect() as c:
        length = len(c.send(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).rest())
    for n in range(min(length - len("Connection: close\r\n"), 400)):
        c = app.connect(rcvbuf=4096).send(request)
        received = 0
        while received < n:
            received += len(c.sock.recv(n - received))
        c.reset()
    app.until(connections=1, goroutines=2)
    with app.connect() as c:
        assert c.send(GET).response().body == b"Hello, World"
    assert app.stop() == (0, "")


def test_spinning_handlers_do_not_keep_others_from_being_served(procs, app):
    """They spin until a request that comes later tells them to end."""
    spinners = [
        app.connect().send("GET /spin/x HTTP/1.1\r\nHost: t\r\n\r\n") for _ in range(2)
    ]
    for _ in spinners:
        assert app.read_line() == "spinning"
    conns = [app.connect() for _ in range(8)]
    for _ in range(5):
        for c in conns:
            assert c.send(GET).response().body == b"Hello, World"
    assert app.stats()["active"] == 3
    assert app.get("/release/x", "Connection: close\r\n").status == 204
    for c in spinners:
        assert c.response().body == b"spun"
    for c in spinners + conns:
        c.close()
    app.until(connections=1)
    assert app.stop() == (0, "")
