"""What HTTP servers count: requests by route, connections by state, bytes."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

import runtime
from programs import run
from runtime import _stats, context, http

SAFETY = 60.0


class Since:
    """What was counted since it was made, by (method, route)."""

    def __init__(self, wait_until: Callable[[str, Callable[[], bool]], None]) -> None:
        self.wait_until = wait_until
        self.before = self._now()

    @staticmethod
    def _now() -> dict[tuple[str, str], http.RouteStats]:
        return {(s.method, s.route): s for s in http.route_stats()}

    def statuses(self) -> dict[tuple[str, str], dict[int, int]]:
        found = {}
        for key, s in self._now().items():
            old = self.before[key].statuses if key in self.before else {}
            new = {code: n - old.get(code, 0) for code, n in s.statuses.items()}
            if any(new.values()):
                found[key] = {code: n for code, n in new.items() if n}
        return found

    def until(self, want: dict[tuple[str, str], dict[int, int]]) -> None:
        """Wait until that was counted: a response leaves a little earlier."""
        self.wait_until(f"{want} are counted", lambda: self.statuses() == want)


@pytest.fixture(params=["socket", "stream"])
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def since(wait_until) -> Since:
    return Since(wait_until)


def fail(w: Any, r: Any) -> None:
    raise RuntimeError("planned")


def items() -> http.ServeMux:
    mux = http.ServeMux()
    mux.handle("GET /items/{id}", lambda w, r: r.path_value("id"))
    mux.handle("POST /items/{id:int}", lambda w, r: 201)
    mux.handle("/fail", fail)
    mux.handle("/tea", lambda w, r: http.error(w, "no", 418))
    mux.handle("example.org/host", lambda w, r: "x")
    return mux


def test_requests_are_counted_by_route_method_and_status(serve, since):
    server = serve(items())
    with server.connect() as c:
        for _ in range(3):
            c.send("GET /items/7 HTTP/1.1\r\nHost: t\r\n\r\n").response()
        c.send("HEAD /items/8 HTTP/1.1\r\nHost: t\r\n\r\n").response("HEAD")
        c.send("POST /items/8 HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n").response()
        c.send("BREW /tea HTTP/1.1\r\nHost: t\r\n\r\n").response()
        c.send("GET /fail HTTP/1.1\r\nHost: t\r\n\r\n").response()
        c.send("GET /nowhere HTTP/1.1\r\nHost: t\r\n\r\n").response()
        c.send("DELETE /items/1 HTTP/1.1\r\nHost: t\r\n\r\n").response()
        c.send("GET /host HTTP/1.1\r\nHost: example.org\r\n\r\n").response()
    since.until(
        {
            ("GET", "/items/{id}"): {200: 3},
            ("HEAD", "/items/{id}"): {200: 1},
            ("POST", "/items/{id:int}"): {201: 1},
            ("OTHER", "/tea"): {418: 1},
            ("GET", "/fail"): {500: 1},
            ("GET", ""): {404: 1},
            ("DELETE", ""): {405: 1},
            ("GET", "example.org/host"): {200: 1},
        }
    )


def test_pipelined_requests_are_counted_each(serve, since):
    server = serve(items())
    with server.connect() as c:
        c.send("GET /items/7 HTTP/1.1\r\nHost: t\r\n\r\n" * 50 + "GET /tea HT")
        for _ in range(50):
            assert c.response().status == 200
        assert c.send("TP/1.1\r\nHost: t\r\n\r\n").response().status == 418
    since.until({("GET", "/items/{id}"): {200: 50}, ("GET", "/tea"): {418: 1}})


def test_durations_cover_the_handler_and_waiting_for_the_client(serve, since, wait_until):
    """A tenth of a second each: a handler that sleeps, and a client that does not read."""
    mux = http.ServeMux()
    mux.handle("/slow", lambda w, r: runtime.sleep(0.1))
    reading = threading.Event()

    def large(w, r):
        w.write(b"x" * (8 << 20))

    mux.handle("/large", large)
    server = serve(mux)
    server.get("/slow")
    with server.connect(rcvbuf=1 << 16) as c:
        c.send("GET /large HTTP/1.1\r\nHost: t\r\n\r\n")
        wait_until("it is sent", lambda: server.stats()["active"] == 1)
        reading.wait(0.1)
        assert len(c.response().body) == 8 << 20
    since.until({("GET", "/slow"): {200: 1}, ("GET", "/large"): {200: 1}})
    for s in http.route_stats():
        if s.route in ("/slow", "/large"):
            assert s.duration.percentile(100) >= 0.1 * 31 / 32
            assert s.duration.sum >= 0.1
            assert s.duration.count == sum(s.statuses.values())


def test_the_route_is_what_was_matched_last(serve, since):
    """By a mux in another, by one that was given a copy of the request, by the handler itself."""
    inner = http.ServeMux()
    inner.handle("/inner/{x}", lambda w, r: "x")
    mux = http.ServeMux()
    mux.handle("/inner/", inner)
    mux.mount("/sub/", inner)

    def copied(w, r):
        return inner(w, r.with_context(context.with_value(r.context, "key", 1)))

    def named(w, r):
        r.pattern = "/named by the handler"
        return "x"

    copies = http.ServeMux()
    copies.handle("/inner/", copied)
    copies.handle("/named", named)
    server = serve(mux)
    server.get("/inner/1")
    server.get("/sub/inner/1")
    since.until({("GET", "/inner/{x}"): {200: 1}, ("GET", "/sub/inner/{x}"): {200: 1}})
    server = serve(copies)
    server.get("/inner/1")
    server.get("/named")
    since.until(
        {
            ("GET", "/inner/{x}"): {200: 2},
            ("GET", "/sub/inner/{x}"): {200: 1},
            ("GET", "/named by the handler"): {200: 1},
        }
    )


def test_what_ends_without_a_response_has_status_0(serve, since, wait_until):
    mux = http.ServeMux()

    def hijacked(w, r):
        conn, _ = w.hijack()
        conn.close()

    gone = threading.Event()

    def abandoned(w, r):
        r.context.done().recv_ok(SAFETY)
        gone.set()
        raise ConnectionResetError

    mux.handle("/hijacked", hijacked)
    mux.handle("/abandoned", abandoned)
    server = serve(mux)
    with server.connect() as c:
        c.send("GET /hijacked HTTP/1.1\r\nHost: t\r\n\r\n")
        assert c.ended()
    with server.connect() as c:
        c.send("GET /abandoned HTTP/1.1\r\nHost: t\r\n\r\n")
        wait_until("it runs", lambda: server.stats()["active"] == 1)
        c.reset()
    assert gone.wait(SAFETY)
    wait_until("both are counted", lambda: len(since.statuses()) == 2)
    got = since.statuses()
    assert got["GET", "/hijacked"] == {0: 1}
    # It was answered, but to nobody.
    assert sum(got["GET", "/abandoned"].values()) == 1


def test_a_response_that_breaks_off_has_the_status_it_began_with(serve, since):
    def broken(w, r):
        w.write_header(202)
        w.write("x")
        w.flush()
        raise RuntimeError("planned")

    server = serve(broken)
    with server.connect() as c:
        c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").head()
        c.rest()
    since.until({("GET", ""): {202: 1}})


def test_who_is_turned_away_is_counted(serve, since):
    inside, go_on = threading.Event(), runtime.Chan()

    def handler(w, r):
        inside.set()
        go_on.recv_ok()

    server = serve(handler, max_requests=1, max_waiting=0)
    with server.connect() as c:
        c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert inside.wait(SAFETY)
        assert server.get("/").status == 503
        go_on.close()
        assert c.response().status == 200
    since.until({("GET", ""): {200: 1, 503: 1}})


def test_connections_are_counted_by_state(serve, wait_until):
    inside, go_on = threading.Semaphore(0), runtime.Chan()

    def handler(w, r):
        if r.path == "/wait":
            inside.release()
            go_on.recv_ok()
        return "x"

    def now():
        return {key: runtime.stats()["http"][key] - before[key] for key in before}

    before = runtime.stats()["http"]
    server = serve(handler)
    conns = [server.connect() for _ in range(6)]
    for c in conns[:3]:
        c.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
        assert inside.acquire(timeout=SAFETY)
    for c in conns[3:5]:
        c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response()
    conns[5].send("GET / HT")
    want = {"connections": 6, "active": 3, "idle": 2, "reading": 1, "closing": 0, "accepted": 6}
    wait_until(f"they are counted: {now()}", lambda: want.items() <= now().items())
    go_on.close()
    for c in conns[:3]:
        c.response()
    for c in conns:
        c.close()
    want = {"connections": 0, "active": 0, "idle": 0, "reading": 0, "closing": 0, "accepted": 6}
    wait_until(f"they are gone: {now()}", lambda: want.items() <= now().items())
    assert now()["requests"] == 5


def test_all_bytes_are_counted(serve, tmp_path, wait_until):
    """Heads and bodies, of each kind, read and written."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(300_000))

    def handler(w, r):
        if r.path == "/file":
            http.serve_file(w, r, file)
        elif r.path == "/chunks":
            for _ in range(3):
                w.write(b"y" * 70_000)
                w.flush()
        else:
            return r.body.read()

    before = runtime.stats()["http"]
    server = serve(handler)
    bodies = [b"z" * 200_000, b""]
    requests = [
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 200000\r\n\r\n" + bodies[0],
        b"GET /file HTTP/1.1\r\nHost: t\r\n\r\n",
        b"GET /chunks HTTP/1.1\r\nHost: t\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"no request\r\n\r\n",
    ]
    received = 0
    for request in requests:
        with server.connect() as c:
            sender = threading.Thread(target=c.send, args=(request,))
            sender.start()
            take, c.buf = c.sock.recv, b""

            def counting(n: int, take: Any = take) -> bytes:
                nonlocal received
                data = take(n)
                received += len(data)
                return data

            c._more = lambda c=c, counting=counting: _more(c, counting)
            c.exactly = lambda n, c=c: _exactly(c, n)
            c.response()
            sender.join()
    sent = sum(map(len, requests))

    def now():
        s = runtime.stats()["http"]
        return tuple(s[key] - before[key] for key in ("bytes_read", "bytes_written"))

    wait_until(f"{(sent, received)} bytes are counted: {now()}", lambda: now() == (sent, received))


def _more(c, counting):
    data = counting(1 << 16)
    c.buf += data
    return bool(data)


def _exactly(c, n):
    while len(c.buf) < n:
        assert c._more()
    data, c.buf = c.buf[:n], c.buf[n:]
    return data


def test_sums_hold_under_random_load(serve, procs, since, wait_until):
    """Requests, routes, connections and bytes, whoever has counted them."""
    before = runtime.stats()["http"]
    server = serve(items())
    targets = {"/items/1": 200, "/tea": 418, "/fail": 500, "/none": 404}
    asked: dict[int, int] = dict.fromkeys(targets.values(), 0)
    lock, failures = threading.Lock(), []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        mine = dict.fromkeys(asked, 0)
        try:
            for _ in range(8):
                with server.connect() as c:
                    for _ in range(rng.randrange(1, 8)):
                        names = [rng.choice(list(targets)) for _ in range(rng.randrange(1, 5))]
                        heads = (f"GET {name} HTTP/1.1\r\nHost: t\r\n\r\n" for name in names)
                        c.send("".join(heads))
                        for name in names:
                            assert c.response().status == targets[name]
                            mine[targets[name]] += 1
        except BaseException as e:
            failures.append(e)
        with lock:
            for status, n in mine.items():
                asked[status] += n

    threads = [threading.Thread(target=client, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    since.until(
        {
            ("GET", "/items/{id}"): {200: asked[200]},
            ("GET", "/tea"): {418: asked[418]},
            ("GET", "/fail"): {500: asked[500]},
            ("GET", ""): {404: asked[404]},
        }
    )
    server.until(connections=0)
    after = runtime.stats()["http"]
    assert after["requests"] - before["requests"] == sum(asked.values())
    assert after["accepted"] - before["accepted"] == 32
    open_before = before["connections"]
    wait_until("they are closed", lambda: runtime.stats()["http"]["connections"] == open_before)


MANY = """
import socket, threading
import runtime
from runtime import http

mux = http.ServeMux()
for i in range(1200):
    mux.handle(f"/r{i}", lambda w, r: w.write_header(int(r.query.get("status", 200))))
server = http.Server(mux, "127.0.0.1:0")
server.listen()
runtime.go(server.serve)

def ask():
    host, port = server.addr.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as s:
        def get(method, target):
            s.sendall(f"{method} {target} HTTP/1.1\\r\\nHost: t\\r\\n\\r\\n".encode())
            while b"\\r\\n\\r\\n" not in s.recv(65536):
                pass
        for i in range(1200):
            get("HEAD", f"/r{i}")
        for i in range(4000):
            get("HEAD", f"/r{i % 9}?status={200 + i % 700}")
        for i in range(300):
            get("POST", f"/r{1199 - i % 2}?status={200 + i}")
        get("HEAD", "/r0")

runtime.blocking(ask)
server.close()
rows = http.route_stats()
"""


def test_routes_and_statuses_without_end_are_counted_as_others():
    """No request is lost, and memory is bounded."""
    done = run(
        MANY
        + """
by_route = {s.route: sum(s.statuses.values()) for s in rows if s.method == "HEAD"}
total = sum(sum(s.statuses.values()) for s in rows)
print(total, runtime.stats()["http"]["requests"])
print(len(by_route), by_route["/r0"] >= 2, "/r1021" in by_route, "/r1022" in by_route)
print(by_route["other"] >= 178)
print(sum(len(s.statuses) for s in rows) <= 4096 + 128 + 1)
print(all(s.duration.count == sum(s.statuses.values()) for s in rows))
others = {s.method for s in rows if s.route == "other"}
print(sorted(others))
"""
    )
    assert (done.stderr, done.stdout.splitlines()) == (
        "",
        [
            "5501 5501",
            "1023 True True False",
            "True",
            "True",
            "True",
            "['HEAD', 'OTHER']",
        ],
    )


def test_a_forked_child_counts_its_own_requests():
    done = run(
        MANY.replace("1200", "3").replace("4000", "5").replace("range(300)", "range(0)")
        + """
import os
print(sum(sum(s.statuses.values()) for s in rows), flush=True)
pid = os.fork()
if pid == 0:
    print(http.route_stats(), runtime.stats()["http"], flush=True)
    server = http.Server(mux, "127.0.0.1:0")
    server.listen()
    runtime.go(server.serve)
    runtime.blocking(ask)
    print(sum(sum(s.statuses.values()) for s in http.route_stats()), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
""",
        "-Wignore::DeprecationWarning",
    )
    zero = dict.fromkeys(runtime.stats()["http"], 0)
    assert (done.stderr, done.stdout.splitlines()) == ("", ["9", f"[] {zero}", "9"])


def test_a_snapshot_carries_routes_by_status(serve, since):
    server = serve(items())
    server.get("/items/1")
    server.ask("POST /tea HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
    server.get("/items/1")
    since.until({("GET", "/items/{id}"): {200: 2}, ("POST", "/tea"): {418: 1}})
    snapshot = json.loads(json.dumps(_stats.snapshot()))
    found = {(r["method"], r["route"]): r for r in snapshot["routes"]}
    want = {(s.method, s.route): s for s in http.route_stats()}
    assert found.keys() == want.keys()
    for key, s in want.items():
        assert found[key]["statuses"] == {str(code): n for code, n in s.statuses.items()}
        assert found[key]["duration"]["count"] == s.duration.count
        by_status = _stats.durations_by_status(found[key])
        assert {k: h["count"] for k, h in by_status.items()} == found[key]["statuses"]
        assert ("by_status" in found[key]) == (len(s.statuses) > 1)
