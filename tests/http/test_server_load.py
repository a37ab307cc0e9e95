"""Many connections and many requests: nothing is left behind.

The server is in a process of its own, whose descriptors and memory are looked at.  Memory is
compared after a warm-up of the same kind, and leaves room for what the allocator keeps.
"""

from __future__ import annotations

import json

import pytest

GET = b"GET /hello HTTP/1.1\r\nHost: t\r\n\r\n"


pytestmark = pytest.mark.usefixtures("no_quarantine")


def objects(app) -> int:
    return json.loads(app.get("/objects", "Connection: close\r\n").body)["objects"]


def connect_and_ask_twice(app, n: int) -> int:
    """Open n connections, ask twice on each, close them; the most descriptors in use.

    A hundred ask at a time: requests that wait hold buffers, and how many do would depend on who
    is faster.
    """
    conns = []
    try:
        for _ in range(n):
            conns.append(app.connect())
        for _ in range(2):
            for i in range(0, n, 100):
                for c in conns[i : i + 100]:
                    c.send(GET)
                for c in conns[i : i + 100]:
                    assert c.response().body == b"Hello, World"
        app.until(idle=n)
        return app.descriptors()
    finally:
        for c in conns:
            c.close()
        app.until(connections=1)


def start_all_threads(app):
    """Each has a poller, which has descriptors."""
    connect_and_ask_twice(app, 32)


def test_ten_thousand_connections_leave_nothing(app, wait_until):
    n = 10_000
    start_all_threads(app)
    empty = app.descriptors()
    assert connect_and_ask_twice(app, n) >= n
    wait_until("descriptors are closed", lambda: app.descriptors() <= empty)
    warm, count = app.rss(), objects(app)
    for _ in range(2):
        connect_and_ask_twice(app, n)
    wait_until("descriptors are closed", lambda: app.descriptors() <= empty)
    assert app.rss() < warm + 4_000_000
    assert objects(app) < count + 500
    assert app.stop() == (0, "")


def test_idle_connections_are_small(app):
    """Well below what a goroutine, a stack or a buffer for each would take."""
    n = 5000
    connect_and_ask_twice(app, 100)
    before = app.rss()
    conns = [app.connect() for _ in range(n)]
    for c in conns:
        assert c.send(GET).response().status == 200
    app.until(idle=n, goroutines=2)
    assert (app.rss() - before) / n < 2000
    for c in conns:
        c.close()
    assert app.stop() == (0, "")


@pytest.mark.parametrize("path", ["/hello", "/stats", "/bytes/20000"])
def test_requests_do_not_grow_the_process(app, wrk, path):
    wrk(app.url + path, "-c32")
    app.until(connections=1)
    before, count, requests = app.rss(), objects(app), 0
    wanted = 200_000 if path == "/hello" else 20_000
    while requests < wanted:
        requests += wrk(app.url + path, "-c32")
    app.until(connections=1)
    assert app.rss() < before + 1_000_000
    assert objects(app) < count + 100
    assert app.stop() == (0, "")


def test_failing_requests_do_not_grow_the_process(app, wait_until):
    def round_of_failures(n):
        for i in range(n):
            with app.connect() as c:
                match i % 5:
                    case 0:
                        c.send("GARBAGE\r\n\r\n").response()
                    case 1:
                        c.send("GET /fail HTTP/1.1\r\nHost: t\r\n\r\n").response()
                    case 2:
                        c.send("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab")
                    case 3:
                        c.send("GET /stream/100 HTTP/1.1\r\nHost: t\r\n\r\n").head()
                    case 4:
                        c.send("POST /hello HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab")
                        c.response()
                if i % 2:
                    c.reset()
        app.until(connections=1)

    start_all_threads(app)
    round_of_failures(500)
    before, count, fds = app.rss(), objects(app), app.descriptors()
    round_of_failures(2500)
    wait_until("descriptors are closed", lambda: app.descriptors() <= fds)
    assert app.rss() < before + 1_000_000
    assert objects(app) < count + 100
    code, err = app.stop()
    assert code == 0
    assert err.count("a handler failed (GET /fail)") == 600
