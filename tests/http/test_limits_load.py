"""Limits of how much is done at once and how slowly: requests, rates, keep-alive."""

from __future__ import annotations

import threading

import pytest

import runtime
from runtime import http
from waits import parked

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n"


class Gate:
    """A handler that waits to be let go, one request at a time."""

    def __init__(self) -> None:
        self.begun: runtime.Chan = runtime.Chan(1 << 12)
        self.go_on: runtime.Chan = runtime.Chan(1 << 12)
        self.lock = threading.Lock()
        self.running = self.most = 0

    def __call__(self, w, r):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.begun.send(r.path)
        self.go_on.recv_ok(timeout=SAFETY)
        with self.lock:
            self.running -= 1
        return r.path


@pytest.fixture
def gate():
    return Gate()


def path(i):
    return GET.replace("/ ", f"/{i} ", 1)


# --- concurrent requests --------------------------------------------------------------------------


def test_requests_over_the_limit_wait_in_order(serve, gate):
    server = serve(gate, max_requests=2, max_waiting=3)
    conns = []
    for i in range(5):
        conns.append(server.connect().send(path(i)))
        if i < 2:
            assert gate.begun.recv(timeout=SAFETY) == f"/{i}"
        else:
            server.until(waiting=i - 1)
    for i in range(5):
        gate.go_on.send(None)
        if i < 3:
            assert gate.begun.recv(timeout=SAFETY) == f"/{i + 2}"
            server.until(waiting=2 - i)
    for i, c in enumerate(conns):
        assert c.response().body == f"/{i}".encode()
        c.close()
    assert gate.most == 2


def test_request_beyond_the_queue_is_503_with_retry_after(serve, gate):
    server = serve(gate, max_requests=1, max_waiting=1)
    with server.connect() as a, server.connect() as b, server.connect() as c:
        a.send(GET)
        gate.begun.recv(timeout=SAFETY)
        b.send(GET)
        server.until(waiting=1)
        for _ in range(3):  # the connection stays
            r = c.send(GET).response()
            assert (r.status, r["retry-after"], r.all("connection")) == (503, "1", [])
        r = c.send(GET.replace("GET", "HEAD")).response("HEAD")
        assert (r.status, r["retry-after"]) == (503, "1")
        gate.go_on.close()
        for conn in (a, b):
            assert conn.response().status == 200
        assert c.send(GET).response().status == 200
    server.until(waiting=0, connections=0)


def test_no_queue_at_all(serve, gate):
    server = serve(gate, max_requests=1, max_waiting=0)
    with server.connect() as a:
        a.send(GET)
        gate.begun.recv(timeout=SAFETY)
        assert server.get().status == 503
        gate.go_on.close()
        assert a.response().status == 200
    assert server.get().status == 200


def test_request_that_waits_too_long_is_503(serve, gate):
    server = serve(gate, max_requests=1, waiting_timeout=0.05)
    with server.connect() as a:
        a.send(GET)
        gate.begun.recv(timeout=SAFETY)
        assert server.get().status == 503
        server.until(waiting=0)
        gate.go_on.close()
        assert a.response().status == 200


def test_body_of_a_refused_request_is_skipped(serve, gate):
    server = serve(gate, max_requests=1, max_waiting=0)
    with server.connect() as a, server.connect() as b, server.connect() as c:
        a.send(GET)
        gate.begun.recv(timeout=SAFETY)
        assert b.send(POST.format(5) + "hello").response().status == 503
        assert b.send(GET).response().status == 503
        head = POST.format(5).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")
        r = c.send(head).response()
        assert (r.status, r["connection"]) == (503, "close")
        gate.go_on.close()
        assert a.response().status == 200
        assert b.send(GET).response().status == 200


def test_place_is_free_again_after_a_failure(serve, caplog):
    def handler(w, r):
        if r.path == "/":
            raise ZeroDivisionError
        if r.path == "/exit":
            runtime.goexit()
        return "fine"

    server = serve(handler, max_requests=1, max_waiting=0)
    for _ in range(3):
        assert server.get("/").status == 500
        assert server.get("/exit").status == 200
        assert server.get("/fine").body == b"fine"


def test_client_that_goes_while_it_waits_leaves_the_queue_in_order(serve, gate):
    server = serve(gate, max_requests=1, max_waiting=4)
    with server.connect() as a, server.connect() as c:
        a.send(GET)
        gate.begun.recv(timeout=SAFETY)
        b = server.connect().send(GET)
        server.until(waiting=1)
        c.send(GET)
        server.until(waiting=2)
        b.reset()
        gate.go_on.close()
        assert a.response().status == c.response().status == 200
    server.until(waiting=0, connections=0)


def test_server_is_closed_while_requests_wait(serve, gate):
    server = serve(gate, max_requests=1, max_waiting=4)
    conns = [server.connect().send(GET) for _ in range(4)]
    gate.begun.recv(timeout=SAFETY)
    server.until(waiting=3)
    server.server.close()
    server.join()
    server.until(waiting=0)
    gate.go_on.close()
    for c in conns:
        assert c.ended()
        c.close()


def test_shutdown_serves_those_that_wait(serve, gate):
    server = serve(gate, max_requests=1, max_waiting=4)
    conns = [server.connect().send(GET) for _ in range(4)]
    gate.begun.recv(timeout=SAFETY)
    server.until(waiting=3)
    thread = threading.Thread(target=server.server.shutdown)
    thread.start()
    server.until_refused()
    gate.go_on.close()
    for c in conns:
        r = c.response()
        assert (r.status, r["connection"]) == (200, "close")
        c.close()
    thread.join(SAFETY)
    assert not thread.is_alive()


def test_limit_holds_under_load(serve, gate, procs):
    gate.go_on.close()
    server = serve(gate, max_requests=3, max_waiting=4)
    counts = {200: 0, 503: 0}
    lock = threading.Lock()

    def client():
        with server.connect() as c:
            for _ in range(50):
                status = c.send(GET).response().status
                with lock:
                    counts[status] += 1

    threads = [threading.Thread(target=client) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(SAFETY)
    assert counts[200] + counts[503] == 800 and counts[200] > 0
    assert gate.most <= 3 and gate.running == 0
    server.until(waiting=0, connections=0)


@pytest.mark.parametrize(
    "options",
    [
        {"max_requests": 0},
        {"max_requests": -1},
        {"max_waiting": -1},
        {"waiting_timeout": 0},
        {"body_timeout": -1},
        {"min_read_rate": -1},
        {"rate_grace": 0},
        {"max_requests_per_connection": 0},
    ],
)
def test_limit_out_of_range_is_a_value_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        http.Server(lambda w, r: None, **options)


# --- requests a connection ------------------------------------------------------------------------


def test_connection_ends_after_so_many_requests(serve):
    server = serve(lambda w, r: "x", max_requests_per_connection=3)
    with server.connect() as c:
        for last in (False, False, True):
            r = c.send(GET).response()
            assert r.all("connection") == (["close"] if last else [])
        assert c.ended()
    with server.connect() as c:
        c.send(GET * 5)
        for _ in range(3):
            assert c.response().body == b"x"
        assert c.ended()


# --- data rates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_sender_below_the_rate_is_408(serve, framing):
    server = serve(lambda w, r: r.body.read(), rate_grace=0.05, min_read_rate=1 << 20)
    with server.connect() as c:
        c.send(f"POST / HTTP/1.1\r\nHost: t\r\n{framing}\r\n\r\n")
        # Each byte comes in time.
        r = c.trickle("1\r\nx\r\n" if "chunked" in framing else "x").response()
        assert (r.status, r["connection"]) == (408, "close")


def test_sender_above_the_rate_may_take_longer_than_the_grace(serve):
    begun: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        begun.send(None)
        return str(len(r.body.read()))

    server = serve(handler, rate_grace=1.5, min_read_rate=100)
    with server.connect() as c:
        c.send(POST.format(50_018))
        begun.recv(timeout=SAFETY)
        c.send("x" * 50_000)
        for _ in range(18):  # more than the grace in all
            runtime.sleep(0.1)
            c.send("x")
        assert c.response().body == b"50018"


def test_time_the_handler_spends_elsewhere_is_not_the_clients(serve):
    waits: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        runtime.sleep(0.5)
        reader = parked(runtime.go(r.body.read))
        waits.send(None)
        return reader.join()

    server = serve(handler, rate_grace=0.4, min_read_rate=1 << 20)
    with server.connect() as c:
        c.send(POST.format(10))
        waits.recv(timeout=SAFETY)
        assert c.send("0123456789").response().body == b"0123456789"


def test_whole_body_has_a_time_limit_however_steadily_it_comes(serve):
    server = serve(lambda w, r: r.body.read(), body_timeout=0.1, min_read_rate=None)
    with server.connect() as c:
        assert c.send(POST.format(1 << 20)).trickle("x").response().status == 408


def test_reader_below_the_rate_is_given_up(serve):
    errors: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        try:
            while True:
                w.write(bytes(1 << 20))
        except TimeoutError as exc:
            errors.send(str(exc))
            raise

    server = serve(handler, rate_grace=0.05, min_write_rate=1 << 40, write_timeout=None)
    with server.connect(rcvbuf=4096) as c:
        c.send(GET)
        while True:
            c.sock.recv(10)
            try:
                assert "sending a response" in errors.recv(timeout=0.001)
                break
            except TimeoutError:
                pass
        server.until(connections=0)


def test_slow_reader_with_progress_is_not_given_up(serve):
    """The socket's buffer is several time-outs away from being writable."""
    size = 4 << 20
    server = serve(lambda w, r: bytes(size), write_timeout=1.0, min_write_rate=1000)
    with server.connect(rcvbuf=16384) as c:
        c.send(GET)
        assert c.head().status == 200
        left = size - len(c.buf)
        for _ in range(25):
            left -= len(c.sock.recv(1 << 12))
            runtime.sleep(0.1)
        while left > 0:
            got = len(c.sock.recv(1 << 16))
            assert got, f"cut off with {left} bytes missing"
            left -= got


def test_slow_reader_of_a_file_is_not_given_up(serve, tmp_path):
    """What sendfile() moves is progress, too."""
    size = 8 << 20
    path = tmp_path / "file"
    path.write_bytes(bytes(size))

    def handler(w, r):
        with open(path, "rb") as file:
            w.send_file(file)

    server = serve(handler, rate_grace=0.2, min_write_rate=1000)
    with server.connect(rcvbuf=16384) as c:
        assert c.send(GET).head().status == 200
        left = size - len(c.buf)
        while left > 0:
            got = len(c.sock.recv(1 << 16))
            assert got, f"cut off with {left} bytes missing"
            left -= got
            runtime.sleep(0.005)


def test_idle_connection_without_a_time_out_stays(serve):
    server = serve(lambda w, r: "hello", idle_timeout=None, read_header_timeout=0.05)
    with server.connect_in_time(0.05, GET) as c:
        assert c.response().body == b"hello"
        with server.connect_in_time(0.05, "GET") as late:
            assert late.response().status == 408  # so much time has passed by now
        assert c.send(GET).response().body == b"hello"
