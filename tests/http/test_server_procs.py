"""A server on several Ps: who gets a connection, what all of it means, objects shared by threads.

Which thread a handler runs on tells which P its connection belongs to.
"""

from __future__ import annotations

import itertools
import random
import threading
from http.client import HTTPConnection
from typing import Any

import pytest

import runtime
from runtime import http, net

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: t\r\n\r\n"


def get(path: str) -> str:
    return f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n"


def post(body: bytes, path: str = "/", fields: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


def ident(w: Any = None, r: Any = None) -> str:
    return str(threading.get_ident())


def ask(c, request: str | bytes = GET) -> bytes:
    return c.send(request).response().body


def until_parked(g):
    """Give way until that goroutine waits for I/O."""
    while g.wait_reason != "IO wait":
        runtime.gosched()


def in_thread(fn, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=fn, args=args, daemon=True)
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(SAFETY)
        assert not thread.is_alive()


class Spread:
    """Connections that have been asked, by the thread that has answered."""

    def __init__(self, address, request: str = GET) -> None:
        self.address = address
        self.request = request
        self.conns: list[Any] = []
        self.by_thread: dict[bytes, list[Any]] = {}

    def one_more(self) -> bytes:
        c = self.address.connect()
        self.conns.append(c)
        thread = ask(c, self.request)
        self.by_thread.setdefault(thread, []).append(c)
        return thread

    def over(self, threads: int) -> Spread:
        """Connect until so many threads serve, and each two connections or more."""
        while len(self.by_thread) < threads or min(map(len, self.by_thread.values())) < 2:
            self.one_more()
            assert len(self.by_thread) <= threads
            assert len(self.conns) < 1000, "not all threads get connections"
        return self

    def drop(self) -> None:
        """Close all, and begin again."""
        for c in self.conns:
            c.close()
        self.address.until(connections=0)
        self.conns.clear()
        self.by_thread.clear()

    def settle(self) -> None:
        """Wait until the server, too, is done with every request: that is after its response."""
        self.address.until(idle=len(self.conns), active=0)

    def __enter__(self) -> Spread:
        return self

    def __exit__(self, *exc: object) -> None:
        for c in self.conns:
            c.close()


# --- who gets a connection ------------------------------------------------------------------------


def test_connections_are_spread_over_all_ps(procs, serve):
    with Spread(serve(ident)) as spread:
        spread.over(procs)
        # A plain thread serves: the main thread is left alone.
        assert str(threading.main_thread().ident).encode() not in spread.by_thread


def test_connections_of_a_server_in_the_main_goroutine_are_spread(procs, program):
    app = program("app.py")
    with Spread(app, get("/thread")) as spread:
        spread.over(procs)
    assert app.stop() == (0, "")


def test_a_connection_stays_on_its_thread(procs, serve):
    with Spread(serve(ident)) as spread:
        for thread, conns in spread.over(procs).by_thread.items():
            for c in conns:
                assert {ask(c) for _ in range(10)} == {thread}
                c.send(GET * 10)
                assert {c.response().body for _ in range(10)} == {thread}


def test_statistics_of_all_ps_are_summed_up(procs, serve):
    server = serve(ident)
    before = runtime.stats()["http"]
    with Spread(server) as spread:
        n = len(spread.over(procs).conns)
        server.until(connections=n, idle=n, accepted=n, requests=n)
        now = runtime.stats()["http"]
        assert now["accepted"] - before["accepted"] == n
        assert now["requests"] - before["requests"] == n
        assert now["connections"] - before["connections"] == n
    server.until(connections=0, idle=0)
    assert runtime.stats()["http"]["connections"] == before["connections"]


def test_a_thread_whose_handler_blocks_gets_no_connections(procs, serve):
    """Nor those which were handed to it already."""
    if procs == 1:
        return  # then nobody else could serve them
    go_on = threading.Event()

    def handler(w, r):
        if r.path == "/block":
            go_on.wait()
        return ident()

    server = serve(handler)
    with Spread(server) as spread:
        listens = spread.one_more()     # on ties the listener's own
        spread.over(procs).settle()
        thread, blocked = next((t, conns) for t, conns in spread.by_thread.items() if t != listens)
        blocked[0].send(get("/block"))
        server.until(active=1)
        try:
            for _ in range(4 * procs):
                assert spread.one_more() != thread
        finally:
            go_on.set()
        assert blocked[0].response().body == thread
        # It is back, and has the fewest.
        while spread.one_more() != thread:
            assert len(spread.conns) < 1000


def test_a_locked_thread_gets_no_connections(procs, serve):
    if procs == 1:
        return
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        if r.path == "/lock":
            runtime.lock_os_thread()
            w.write("locked")
            w.flush()
            gate.recv_ok()
            runtime.unlock_os_thread()
        return None if r.path == "/lock" else ident()

    server = serve(handler)
    with Spread(server) as spread:
        listens = spread.one_more()
        spread.over(procs)
        thread, conns = next((t, conns) for t, conns in spread.by_thread.items() if t != listens)
        conns[0].send(get("/lock")).head()
        for _ in range(2 * procs):
            assert spread.one_more() != thread
        gate.close()
        assert conns[0].chunk() == b"locked"
        assert conns[0].chunk() == b""


def test_gomaxprocs_changes_while_a_server_runs(serve):
    before = runtime.gomaxprocs(1)
    try:
        server = serve(ident)
        with Spread(server) as spread:
            first = spread.one_more()
            assert spread.one_more() == first
            runtime.gomaxprocs(4)
            spread.over(4)
            runtime.gomaxprocs(2)
            counts = {t: len(conns) for t, conns in spread.by_thread.items()}
            grown: set[bytes] = set()
            more = 0
            while len(grown) < 2 or more < 3 * max(counts.values()):
                grown.add(spread.one_more())
                more += 1
                assert more < 1000, "one of them gets no connections"
            assert len(grown) == 2 and first in grown
            runtime.gomaxprocs(1)
            assert {spread.one_more() for _ in range(5)} == {first}
            # Those that were there stay where they are.
            for thread, conns in spread.by_thread.items():
                assert {ask(c) for c in conns} == {thread}
            assert server.server.shutdown(SAFETY) is True
            for c in spread.conns:
                assert c.ended()
    finally:
        runtime.gomaxprocs(before)


# --- limits and ends ------------------------------------------------------------------------------


def test_max_connections_counts_those_of_all_ps(procs, serve):
    limit = 3 * procs
    server = serve(ident, max_connections=limit)
    rounds = 0
    with Spread(server) as spread:
        while len(spread.by_thread) < procs:  # a thread that the system does not run gets none
            spread.drop()
            rounds += 1
            for _ in range(limit):
                spread.one_more()
        waiting = [server.connect().send(GET) for _ in range(limit)]
        for c in spread.conns:
            assert ask(c) in spread.by_thread
        assert server.stats()["accepted"] == rounds * limit
        assert server.stats()["connections"] == limit
        # As one ends, whichever P it was on, the next is served.
        for old, new in zip(random.sample(spread.conns, limit), waiting, strict=True):
            old.close()
            assert new.response().status == 200
            server.until(connections=limit)
        for c in waiting:
            c.close()


def test_shutdown_ends_connections_on_all_ps(procs, serve):
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        if r.path == "/held":
            gate.recv_ok()
        return ident()

    server = serve(handler)
    result: list[bool] = []
    with Spread(server) as spread:
        spread.over(procs).settle()
        held = [conns[0] for conns in spread.by_thread.values()]
        for c in held:
            c.send(get("/held"))
        server.until(active=procs)
        stopper = in_thread(lambda: result.append(server.server.shutdown(SAFETY)))
        for c in spread.conns:
            if c not in held:
                assert c.ended()
        server.until_refused()
        server.until(connections=procs)
        gate.close()
        for thread, conns in spread.by_thread.items():
            r = conns[0].response()
            assert (r.body, r["connection"]) == (thread, "close")
            assert conns[0].ended()
        join(stopper)
    assert result == [True]
    server.join()


def test_close_fails_handlers_on_all_ps(procs, serve):
    errors: runtime.Chan = runtime.Chan(100)

    def handler(w, r):
        if r.path == "/":
            return ident()
        try:
            return r.body.read() if r.method == "POST" else w.write(bytes(50_000_000))
        except ConnectionError as exc:
            errors.send(str(exc))

    server = serve(handler)
    with Spread(server) as spread:
        spread.over(procs).settle()
        for reader, writer, *_ in spread.by_thread.values():
            reader.send("POST /r HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\n")
            writer.send(get("/w"))
        server.until(active=2 * procs)
        server.server.close()
        server.join()
        for _ in range(2 * procs):
            assert errors.recv(timeout=SAFETY) == (
                "the server was closed while the request was running"
            )
        for _, _, *others in spread.by_thread.values():
            for c in others:
                assert c.ended()
    server.until(connections=0)


def test_handlers_on_all_ps_close_their_server_at_once(procs, serve):
    together = threading.Barrier(procs)

    def handler(w, r):
        if r.path == "/close":
            together.wait(SAFETY)
            server.server.close()
        return ident()

    server = serve(handler)
    with Spread(server) as spread:
        spread.over(procs)
        for conns in spread.by_thread.values():
            conns[0].send(get("/close"))
        server.join()
        for c in spread.conns:
            assert c.ended()
    server.until(connections=0)


def test_close_does_not_wait_for_a_thread_whose_handler_blocks(procs, serve):
    if procs == 1:
        return  # then it is the thread that would have to close everything
    go_on = threading.Event()

    def handler(w, r):
        if r.path == "/block":
            go_on.wait()
        return ident()

    server = serve(handler)
    with Spread(server) as spread:
        listens = spread.one_more()
        spread.over(procs).settle()
        for thread, conns in spread.by_thread.items():
            if thread != listens:
                conns[0].send(get("/block"))
        server.until(active=procs - 1)
        try:
            server.server.close()
            server.join()
            for c in spread.by_thread[listens]:
                assert c.ended()
        finally:
            go_on.set()
        # When they are back, they close what is theirs.
        for c in spread.conns:
            c.rest()
    server.until(connections=0)


def test_cancelled_serve_stops_accepting_and_finishes_requests(procs):
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        gate.recv_ok()
        return "finished"

    server = http.Server(handler, "127.0.0.1:0")
    server.listen()
    g = runtime.go(server.serve)
    host, port = server.addr.split(":")
    got: list[bytes] = []

    def client():
        import socket

        with socket.create_connection((host, int(port)), SAFETY) as sock:
            sock.sendall(GET.encode())
            while server.stats()["active"] == 0:
                pass
            g.cancel()
            while not g.done():
                pass
            with pytest.raises(ConnectionRefusedError):
                while True:
                    socket.create_connection((host, int(port)), SAFETY).close()
            gate.close()
            got.append(sock.makefile("rb").read())

    done: runtime.Chan = runtime.Chan(1)
    thread = in_thread(lambda: (client(), done.send(None)))
    done.recv(timeout=SAFETY)
    join(thread)
    assert got[0].endswith(b"finished")
    with pytest.raises(runtime.Cancelled):
        g.join()
    with pytest.raises(RuntimeError, match="was closed"):
        server.serve()


@pytest.mark.parametrize("start", [in_thread, runtime.go])
def test_listeners_of_a_server_are_served_from_several_threads(procs, start):
    """As in Go: each call of serve() has its listener, wherever it is made."""
    runtime.lock_os_thread()  # the test blocks in its clients
    for _ in range(20):
        server = http.Server(lambda w, r: "hello")
        listeners = [net.listen("tcp", "127.0.0.1:0") for _ in range(4)]
        addrs = [str(listener.addr) for listener in listeners]
        calls = [start(server.serve, listener) for listener in listeners]
        for addr in addrs:
            client = HTTPConnection(addr, timeout=SAFETY)
            client.request("GET", "/")
            assert client.getresponse().read() == b"hello"
            client.close()
        assert server.shutdown(SAFETY) is True
        for call in calls:
            call.join(SAFETY)
        for addr in addrs:
            with pytest.raises(ConnectionRefusedError):
                HTTPConnection(addr).connect()
    runtime.unlock_os_thread()


def test_servers_come_and_go_while_clients_connect(procs, serve):
    for _ in range(10):
        server = serve(ident)
        stop = threading.Event()

        def client(server=server, stop=stop):
            while not stop.is_set():
                try:
                    with server.connect() as c:
                        ask(c)
                        c.send(GET * 3)
                        c.response()
                except (OSError, AssertionError):
                    return

        clients = [in_thread(client) for _ in range(6)]
        while server.stats()["requests"] < 50:
            pass
        enders = [server.server.close, server.server.shutdown, server.server.close]
        join(*map(in_thread, enders))
        server.join()
        stop.set()
        join(*clients)
        server.until(connections=0)


# --- objects of a request in other threads --------------------------------------------------------


def test_writing_by_goroutines_wherever_they_run(procs, serve):
    """Pieces may come in any order, but each is whole and none is lost."""

    def handler(w, r):
        w.headers["X-Pieces"] = "all"
        group = runtime.WaitGroup()
        for i in range(64):
            group.add()
            runtime.go(lambda i=i: (w.write(f"<{i:04}>"), group.done()))
        group.wait()

    server = serve(handler)
    with Spread(server) as spread:
        for _ in range(4 * procs):
            c = server.connect()
            spread.conns.append(c)
            for _ in range(5):
                r = c.send(GET).response()
                pieces = [r.body[i : i + 6] for i in range(0, len(r.body), 6)]
                assert sorted(pieces) == [f"<{i:04}>".encode() for i in range(64)]
                assert r["x-pieces"] == "all"


def test_threads_that_the_handler_blocks_for(procs, serve):
    """Its thread is stuck in join() meanwhile: nothing they do may need it."""

    def handler(w, r):
        def work():
            w.headers["X-Read"] = str(len(r.body.read()))
            w.write_header(201)
            for piece in ("a", b"b", r.path, r.remote_addr[:9], r.path_value("none")):
                w.write(piece)
            w.flush()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(SAFETY)

    with serve(handler).connect() as c:
        for path in ("/x", "/y"):
            r = c.send(post(b"0123456789", path)).response()
            assert (r.status, r["x-read"]) == (201, "10")
            assert r.body == b"ab" + path.encode() + b"127.0.0.1"


def as_thread_or_goroutine(kind: str, procs: int):
    """What starts fn() where it runs although this thread blocks; None: that there is not."""
    return in_thread if kind == "thread" else runtime.go if procs > 1 else None


@pytest.mark.parametrize("kind", ["thread", "goroutine"])
def test_the_handler_blocks_for_who_writes_more_than_the_client_takes(procs, serve, kind):
    """No event of the socket is heard of meanwhile by the handler's thread."""
    data = bytes(range(256)) * 40_000
    start = as_thread_or_goroutine(kind, procs)
    if start is None:
        return

    def handler(w, r):
        written = threading.Event()
        start(lambda: (w.write(data), w.flush(), w.write(data), w.flush(), written.set()))
        return None if written.wait(SAFETY) else "it waits in vain"

    with serve(handler).connect(rcvbuf=4096) as c:
        for _ in range(2):
            assert c.send(GET).response().body == data + data


@pytest.mark.parametrize("kind", ["thread", "goroutine"])
def test_the_handler_blocks_for_who_reads_what_the_client_sends(procs, serve, kind):
    start = as_thread_or_goroutine(kind, procs)
    if start is None:
        return

    def handler(w, r):
        read = threading.Event()

        def echo():
            while piece := r.body.read(4):
                w.write(piece)
                w.flush()
            read.set()

        start(echo)
        return None if read.wait(SAFETY) else "it waits in vain"

    with serve(handler).connect() as c:
        for _ in range(2):
            c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 20\r\n\r\n0000")
            c.head()
            assert c.chunk() == b"0000"
            for i in range(1, 5):
                c.send(f"{i:04}")
                assert c.chunk() == f"{i:04}".encode()
            assert c.chunk() == b""


@pytest.mark.parametrize("kind", ["thread", "goroutine"])
def test_the_handler_blocks_for_who_waits_for_a_client_in_vain(procs, serve, kind):
    """The time-out holds although the handler's thread is stuck."""
    start = as_thread_or_goroutine(kind, procs)
    if start is None:
        return
    result: list[str] = []

    def handler(w, r):
        over = threading.Event()

        def read():
            try:
                r.body.read()
            except TimeoutError as exc:
                result.append(str(exc))
            over.set()

        start(read)
        over.wait(SAFETY)

    with serve(handler, read_timeout=0.05).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 20\r\n\r\n0000")
        assert c.response().status == 200
    assert len(result) == 1 and "reading the request body" in result[0]


def test_a_thread_reads_a_body_that_comes_slowly(procs, serve):
    def handler(w, r):
        read: runtime.Chan = runtime.Chan()
        in_thread(lambda: read.send(r.body.read()))
        return read.recv(timeout=SAFETY)

    server = serve(handler)
    with Spread(server) as spread:
        for _ in range(2 * procs):
            c = server.connect()
            spread.conns.append(c)
            c.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        server.until(active=2 * procs)
        for i, c in enumerate(spread.conns):
            c.send("4\r\nabcd\r\n").send(f"4\r\n{i:04}\r\n0\r\n\r\n")
            assert c.response().body == f"abcd{i:04}".encode()


def test_a_thread_writes_to_a_client_that_reads_slowly(procs, serve):
    data = bytes(range(256)) * 20_000

    def handler(w, r):
        written: runtime.Chan = runtime.Chan()

        def work():
            w.write(data)
            w.flush()
            w.write(data)
            written.send(None)

        in_thread(work)
        written.recv(timeout=SAFETY)

    server = serve(handler)
    with Spread(server) as spread:
        for _ in range(procs):
            c = server.connect(rcvbuf=4096)
            spread.conns.append(c.send(GET))
        server.until(active=procs)
        for c in spread.conns:
            assert c.response().body == data + data


def test_a_response_that_is_over_takes_nothing_from_other_threads(procs, serve):
    """Neither does the one that follows on the connection get anything of it."""
    kept: runtime.Chan = runtime.Chan(100)
    over, stop = threading.Event(), threading.Event()
    refused = itertools.count()

    def write_to_the_dead():
        w, r = kept.recv(timeout=SAFETY)
        over.wait(SAFETY)
        while not stop.is_set():
            for call in (
                lambda: w.write("wrong"),
                w.flush,
                lambda: w.write_header(500),
                r.body.read,
                r.json,
            ):
                try:
                    call()
                except RuntimeError as exc:
                    assert "has returned" in str(exc)
                    next(refused)
                else:
                    raise AssertionError("it was taken")
            w.headers["X-Wrong"] = "wrong"
            assert r.path == "/0" and r.remote_addr

    def handler(w, r):
        if r.path == "/0":
            kept.send((w, r))
        w.write(r.path)

    server = serve(handler)
    with Spread(server) as spread:
        failures: list[BaseException] = []

        def attempt():
            try:
                write_to_the_dead()
            except BaseException as exc:
                failures.append(exc)

        threads = [in_thread(attempt) for _ in range(2)]
        for _ in threads:
            spread.conns.append(server.connect())
        for i in range(30):
            path = f"/{i}"
            for c in spread.conns:
                c.send(get(path))
            for c in spread.conns:
                r = c.response()
                assert (r.status, r.body) == (200, path.encode())
                assert r.all("x-wrong") == []
            over.set()
        while next(refused) < 1000 and not failures:
            pass
        stop.set()
        join(*threads)
        assert failures == []


def test_who_is_parked_in_a_request_that_ends_is_told_on_any_thread(procs, serve):
    told: runtime.Chan = runtime.Chan(100)

    def background(call):
        try:
            call()
        except (ConnectionError, RuntimeError) as exc:
            told.send(str(exc))

    def handler(w, r):
        if r.path == "/read":
            until_parked(runtime.go(background, r.body.read))
            return "done"
        if r.path == "/write":
            until_parked(runtime.go(background, lambda: w.write(bytes(50_000_000))))

    server = serve(handler)
    for _ in range(5 * procs):
        with server.connect() as a, server.connect(rcvbuf=4096) as b:
            a.send("POST /read HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc")
            b.send(get("/write"))
            assert a.response().body == b"done"
            assert a.ended()
            for _ in range(2):
                assert "the handler of this request has returned" in told.recv(timeout=SAFETY)
        server.until(connections=0)


def together(n: int, fn) -> list[Any]:
    """What fn() returns in n goroutines that start as close together as can be, and one thread."""
    results: runtime.Chan = runtime.Chan(n + 1)
    start = threading.Event()

    def run(wait):
        while not start.is_set():
            wait()
        try:
            results.send(fn())
        except BaseException as exc:
            results.send(exc)

    in_thread(run, start.wait)      # first: those that spin would hold up its start
    for _ in range(n):
        runtime.go(run, runtime.gosched)
    start.set()
    return [results.recv(timeout=SAFETY) for _ in range(n + 1)]


LAZY = ["method", "path", "raw_path", "query", "raw_query", "host", "headers", "remote_addr",
        "body", "path_values"]  # fmt: skip


def test_attributes_made_by_several_threads_are_one_object(procs, serve):
    def handler(w, r):
        different = {
            name
            for name in LAZY
            for found in [together(4, lambda name=name: getattr(r, name))]
            if any(value is not getattr(r, name) for value in found)
        }
        forms = together(4, r.form)
        headers = together(4, lambda: w.headers)
        if any(form is not r.form() for form in forms):
            different.add("form")
        if any(h is not w.headers for h in headers):
            different.add("w.headers")
        return sorted(different)

    server = serve(handler)
    fields = "Content-Type: application/x-www-form-urlencoded\r\n"
    for _ in range(10):
        r = server.ask(post(b"a=1&b=2", "/p%20q?x=1", fields))
        assert (r.status, r.body) == (200, b"[]")


def test_settable_attributes_while_others_read_them(procs, serve):
    def handler(w, r):
        def change():
            for i in range(200):
                r.pattern = f"/{i}"
                r.path_values = {"a": str(i)}
                assert r.pattern.startswith("/")
                assert r.path_value("a").isdigit()
                assert r.path_values.keys() == {"a"}
            return "ok"

        return together(4, change)

    assert serve(handler).get().body == b'["ok","ok","ok","ok","ok"]'


def test_headers_changed_by_several_threads(procs, serve):
    """Whatever the order, nothing is lost that nobody removes, and no value is torn."""

    def handler(w, r):
        numbers = itertools.count()

        def change():
            me = next(numbers)
            for i in range(100):
                w.headers.add("X-All", f"{me}-{i}")
                w.headers["X-Last"] = f"{me}-{i}"
                w.headers.set(f"X-Own-{me}", i)
                assert w.headers[f"x-own-{me}"] == str(i)
                assert "-" in w.headers.get("x-last", "-")
                for _ in range(12):
                    w.headers.add("X-Gone", "y" * i)
                w.headers.delete("x-gone")
                for name, value in w.headers.items():
                    assert name.startswith("X-") and value.isascii()
                assert len(list(w.headers)) > 0 and len(w.headers) > 0
                assert "x-all" in w.headers
                assert r.headers["host"] == "t" and r.headers.get_all("none") == []
                repr(w.headers)
            return "ok"

        done = together(3, change)
        w.headers.delete("x-gone")
        every = w.headers.get_all("x-all")
        w.headers.delete("x-all")
        return [done, len(every), len(set(every)), len(w.headers.get_all("x-last"))]

    server = serve(handler)
    for _ in range(3):
        r = server.ask(GET)
        assert r.body == b'[["ok","ok","ok","ok"],400,400,1]'
        assert [r[f"x-own-{me}"] for me in range(4)] == ["99"] * 4


def test_headers_changed_while_the_head_is_written(procs, serve):
    """The head is one of the states they were in."""
    stop = threading.Event()

    def handler(w, r):
        until: runtime.Chan = runtime.Chan(1)

        def change():
            until.send(None)
            for i in itertools.count():
                if stop.is_set() or w.status:
                    return
                for _ in range(i % 40):
                    w.headers.add("X-Many", "z" * (i % 300))
                w.headers.delete("X-Many")

        in_thread(change)
        until.recv()
        w.write("x" * 100_000)

    server = serve(handler)
    with server.connect() as c:
        for _ in range(100):
            r = c.send(GET).response()
            assert len(r.body) == 100_000
            assert set(r.all("x-many")) <= {"z" * n for n in range(300)}
            assert len(r.all("x-many")) < 40
    stop.set()


# --- load -----------------------------------------------------------------------------------------


def test_load_with_pipelining_and_slow_clients(procs, program, wrk, tmp_path):
    app = program("app.py")
    script = tmp_path / "pipeline.lua"
    script.write_text(
        "function init(args)\n"
        "  local one = wrk.format()\n"
        "  wrk.format = function() return string.rep(one, 16) end\n"
        "end\n"
    )
    with Spread(app, get("/thread")) as spread:
        spread.over(procs)
        slow = [app.connect(rcvbuf=4096).send(get("/bytes/3000000")) for _ in range(4 * procs)]
        for conns in spread.by_thread.values():
            conns[0].send("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nabc")
        assert wrk(f"{app.url}/hello", "-c32") > 0
        assert wrk(f"{app.url}/hello", "-c32", "-s", str(script)) > 0
        for conns in spread.by_thread.values():
            assert conns[0].send(b"def").response().body == b"abcdef"
        for c in slow:
            assert c.response().body == bytes(3_000_000)
            c.close()
        for thread, conns in spread.by_thread.items():
            assert {ask(c, get("/thread")) for c in conns} == {thread}
    app.until(connections=1)
    assert app.stop() == (0, "")


def test_short_connections_on_all_ps_leave_nothing(procs, program, wait_until):
    app = program("app.py")
    fields = "Connection: close\r\n"
    with Spread(app, get("/thread")) as spread:
        spread.over(procs)
        open_now = app.descriptors()

        def client():
            for i in range(200):
                if i % 3 == 0:
                    app.connect().close()
                elif i % 3 == 1:
                    assert app.get("/hello", fields).body == b"Hello, World"
                else:
                    with app.connect() as c:
                        c.send(get("/hello") * 3)
                        c.response()

        join(*(in_thread(client) for _ in range(6)))
        wait_until("descriptors are closed", lambda: app.descriptors() <= open_now)
    app.until(connections=1)
    assert app.stop() == (0, "")
