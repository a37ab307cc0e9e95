"""Connections over stream objects: the program's own listeners and connections."""

from __future__ import annotations

import errno
import logging
import socket
import threading

import pytest

import runtime
from runtime import http, httptest, net
from waits import until

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
def transport():
    return "stream"


def hello(w, r):
    return "hello"


class Least:
    """A connection that has nothing but what is needed."""

    def __init__(self, conn):
        self.conn = conn

    def read(self, n):
        return self.conn.read(n)

    def write(self, data):
        self.conn.write(data)

    def close(self):
        self.conn.close()

    def set_read_deadline(self, seconds):
        self.conn.set_read_deadline(seconds)

    def set_write_deadline(self, seconds):
        self.conn.set_write_deadline(seconds)


class Wrapping:
    """A listener that has nothing but what is needed: makes its connections by a function."""

    def __init__(self, wrap, listener=None):
        self.listener = listener or httptest.Listener()
        self.wrap = wrap

    def accept(self):
        return self.wrap(self.listener.accept())

    def close(self):
        self.listener.close()


class Serving:
    """A server of such a listener, in a goroutine."""

    def __init__(self, handler, wrap=Least, **options):
        self.listener = Wrapping(wrap)
        self.server = http.Server(handler, **options)
        self.g = runtime.go(self.server.serve, self.listener)
        self.dial = self.listener.listener.dial

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.close()
        self.g.join(SAFETY)
        until(lambda: self.server.stats()["connections"] == 0)

    def client(self):
        return httptest.Client(self.dial)


def ask(conn, request=GET):
    conn.set_deadline(SAFETY)
    conn.write(request.encode())
    return conn.read_until(b"\r\n\r\n")


# --- what a stream must have, and may do ----------------------------------------------------------


def test_least_of_a_connection_is_served():
    def handler(w, r):
        assert (r.remote_addr, r.tls) == ("@", None)
        return r.body.read()

    with Serving(handler) as s, s.client() as client:
        for body in (b"", b"x", b"y" * 200_000):
            assert client.post("/", body).body == body
        assert s.server.stats()["accepted"] == 1


def test_remote_addr_is_that_of_the_stream_also_when_the_connection_is_over():
    class Named(Least):
        remote_addr = net.TCPAddr("2001:db8::1", 99)

    kept = []

    def handler(w, r):
        kept.append(r)

    with Serving(handler, Named) as s, s.client() as client:
        client.get("/")
    assert kept[0].remote_addr == "[2001:db8::1]:99"


def test_short_writes_are_completed():
    class Slow(Least):
        def write(self, data):
            return self.conn.write(bytes(data)[:1000])

    body = bytes(range(256)) * 1000
    with Serving(lambda w, r: body, Slow) as s, s.client() as client:
        assert client.get("/").body == body


def test_bytes_one_by_one_make_a_request():
    class Slow(Least):
        def read(self, n):
            return self.conn.read(1)

    with Serving(lambda w, r: r.body.read(), Slow) as s, s.client() as client:
        assert client.post("/", [b"abc", b"defg"]).body == b"abcdefg"


@pytest.mark.parametrize(
    "data", [b"x" * 20_000, "text", None], ids=["too much", "no bytes", "nothing"]
)
def test_stream_that_does_not_keep_to_the_rules_loses_its_connection(data, caplog):
    class Wrong(Least):
        def read(self, n):
            return data

    with Serving(hello, Wrong) as s, s.dial() as conn:
        assert conn.read() == b""
    assert "a connection failed" in caplog.text


def test_stream_that_raises_loses_its_connection_and_others_go_on(caplog):
    broken = iter([True, False])

    class Broken(Least):
        def __init__(self, conn):
            super().__init__(conn)
            self.broken = next(broken)

        def read(self, n):
            return 1 // 0 if self.broken else super().read(n)

    with Serving(hello, Broken) as s:
        with s.dial() as conn:
            assert conn.read() == b""
        assert s.client().get("/").body == b"hello"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("error", [OSError(errno.ECONNRESET, "reset"), EOFError(), TimeoutError()])
def test_stream_that_breaks_is_no_news(error, caplog):
    class Broken(Least):
        def read(self, n):
            raise error

    with Serving(hello, Broken) as s, s.dial() as conn:
        assert conn.read() == b""
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_broken_write_ends_the_handler():
    errors = []

    class Broken(Least):
        def write(self, data):
            raise BrokenPipeError("gone")

    def handler(w, r):
        try:
            w.flush()
        except ConnectionError as e:
            errors.append(e)
            raise

    with Serving(handler, Broken) as s, s.dial() as conn:
        conn.write(GET.encode())
        assert conn.read() == b""
    assert len(errors) == 1


def test_error_of_write_that_is_a_bug_comes_out_of_the_handler(caplog):
    class Broken(Least):
        def write(self, data):
            return 1 // 0

    with Serving(lambda w, r: w.flush(), Broken) as s, s.dial() as conn:
        conn.write(GET.encode())
        assert conn.read() == b""
    assert "ZeroDivisionError" in caplog.text


# --- what others do with a request ----------------------------------------------------------------


def test_reader_of_the_body_that_is_left_behind_gets_an_error():
    results: runtime.Chan = runtime.Chan(1)

    def read(r):
        try:
            results.send(r.body.read())
        except Exception as e:
            results.send(e)

    def handler(w, r):
        reader = runtime.go(read, r)
        until(lambda: reader.state == "waiting")
        return "done"

    with Serving(handler) as s, s.dial() as conn:
        head = ask(conn, "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert isinstance(results.recv(timeout=SAFETY), ConnectionError)


def test_writer_that_is_left_behind_gets_an_error_and_the_connection_ends():
    results: runtime.Chan = runtime.Chan(1)

    def write(w):
        try:
            while True:
                w.write(b"x" * 100_000)
        except Exception as e:
            results.send(e)

    def handler(w, r):
        writer = runtime.go(write, w)
        until(lambda: writer.state == "waiting")

    with Serving(handler) as s, s.dial() as conn:
        conn.set_deadline(SAFETY)
        conn.write(GET.encode())
        assert isinstance(results.recv(timeout=SAFETY), ConnectionError)
        while conn.read():
            pass


def test_body_is_read_and_response_written_by_plain_threads(serve):
    def handler(w, r):
        def work():
            for piece in r.body:
                w.write(piece)
                w.flush()

        thread = threading.Thread(target=work)
        thread.start()
        runtime.blocking(thread.join)

    body = b"abcdefgh" * 20_000
    running = serve(handler)
    with running.connect() as c:
        sender = threading.Thread(
            target=c.send,
            args=(
                b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body),
            ),
        )
        sender.start()
        assert c.response().body == body
        sender.join()


def test_two_readers_of_one_body_are_an_error():
    errors: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        reader = runtime.go(r.body.read)
        until(lambda: reader.state == "waiting")
        try:
            r.body.read(1)
        except RuntimeError as e:
            errors.send(str(e))
        return reader.join()

    with Serving(handler) as s, s.dial() as conn:
        conn.set_deadline(SAFETY)
        conn.write(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n")
        assert "two goroutines read" in errors.recv(timeout=SAFETY)
        conn.write(b"ab")
        assert conn.read().endswith(b"\r\n\r\nab")


def test_contextvars_of_a_handler_are_not_seen_by_the_next(serve):
    import contextvars

    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def handler(w, r):
        before = var.get()
        var.set("set")
        return before

    with serve(handler).connect() as c:
        c.send(GET + GET)
        assert [c.response().body for _ in range(2)] == [b"unset"] * 2
        assert c.send(GET).response().body == b"unset"


# --- the end --------------------------------------------------------------------------------------


def test_close_fails_handlers_that_read_and_write():
    errors: runtime.Chan = runtime.Chan(2)

    def handler(w, r):
        try:
            if r.method == "POST":
                r.body.read()
            else:
                w.write(b"x" * 300_000)
        except ConnectionError as e:
            errors.send(str(e))
            raise

    with Serving(handler) as s:
        conns = [s.dial(), s.dial()]
        conns[0].write(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\n")
        conns[1].write(GET.encode())
        until(lambda: s.server.stats()["active"] == 2)
        s.server.close()
        s.g.join(SAFETY)
        for _ in conns:
            assert "server was closed" in errors.recv(timeout=SAFETY)


def test_shutdown_closes_silent_connections_and_finishes_requests():
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        if r.path == "/wait":
            gate.recv_ok()
        return "done"

    with Serving(handler) as s:
        fresh, idle, busy = s.dial(), s.dial(), s.dial()
        ask(idle)
        busy.write(b"GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
        until(lambda: s.server.stats()["active"] == 1 and s.server.stats()["idle"] == 1)
        stopping = runtime.go(s.server.shutdown, SAFETY)
        assert idle.read_exactly(4) == b"done"
        assert idle.read() == b""
        assert fresh.read() == b""
        gate.close()
        head = busy.read_until(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert busy.read_exactly(4) == b"done"
        assert busy.read() == b""
        assert stopping.join(SAFETY) is True
        with pytest.raises(ConnectionRefusedError):
            s.dial()


def test_shutdown_that_takes_too_long_closes_and_is_false():
    gate: runtime.Chan = runtime.Chan()
    with Serving(lambda w, r: gate.recv_ok()[0]) as s, s.dial() as conn:
        conn.write(GET.encode())
        until(lambda: s.server.stats()["active"] == 1)
        assert s.server.shutdown(0.02) is False
        s.g.join(SAFETY)
        assert conn.read() == b""
        gate.close()


def test_connections_come_and_go_while_the_server_is_closed(serve):
    """Whatever a connection is doing when the server is closed, it ends."""
    for _ in range(5):
        running = serve(lambda w, r: r.body.read())
        stop = threading.Event()

        def visit(running=running, stop=stop):
            while not stop.is_set():
                try:
                    running.ask("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc")
                except (OSError, AssertionError):
                    return

        threads = [threading.Thread(target=visit) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda running=running: running.stats()["requests"] >= 20)
        running.server.close()
        running.join()
        running.until(connections=0)
        stop.set()
        for thread in threads:
            thread.join(SAFETY)


def test_max_connections_lets_others_wait(serve):
    running = serve(hello, max_connections=2)
    with running.connect() as a, running.connect() as b:
        for c in (a, b):
            c.send(GET).response()
        with running.connect() as waits:
            waits.send(GET)
            assert running.stats()["connections"] == 2
            a.close()
            assert waits.response().body == b"hello"


# --- accepting ------------------------------------------------------------------------------------


def test_accept_goes_on_after_errors_that_pass(caplog):
    inner = httptest.Listener()
    errors = iter(
        [OSError(errno.EMFILE, "too many open files"), ConnectionAbortedError(), TimeoutError()]
    )

    class Failing(Wrapping):
        def accept(self):
            for e in errors:
                raise e
            return super().accept()

    server = http.Server(hello)
    g = runtime.go(server.serve, Failing(Least, inner))
    assert httptest.Client(inner.dial).get("/").body == b"hello"
    server.close()
    g.join(SAFETY)
    assert caplog.text.count("accept() failed") == 3


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), OSError(errno.EBADF, "bad")])
def test_accept_that_fails_ends_serve_with_its_error(error):
    class Failing(Wrapping):
        def accept(self):
            raise error

    failing, other = Failing(Least), httptest.Listener()
    server = http.Server(hello)
    with pytest.raises(type(error)):
        server.serve(failing, other)
    with pytest.raises(ConnectionRefusedError):
        other.dial()
    with pytest.raises(RuntimeError, match="closed"):
        server.serve()


def test_several_listeners_of_both_kinds_are_served_at_once(tmp_path):
    memory = httptest.Listener()
    tcp, unix = net.listen("tcp", "127.0.0.1:0"), net.listen("unix", str(tmp_path / "socket"))
    server = http.Server(lambda w, r: r.remote_addr)
    g = runtime.go(server.serve, memory, tcp, unix)
    assert httptest.Client(memory.dial).get("/").body == b"@"
    for network, listener in (("tcp", tcp), ("unix", unix)):
        client = httptest.Client(lambda n=network, at=str(listener.addr): net.dial(n, at))
        with client:
            assert client.get("/").body == (b"@" if network == "unix" else client_addr(client))
    server.close()
    g.join(SAFETY)
    assert tcp.closed and unix.closed
    assert not (tmp_path / "socket").exists()


def client_addr(client):
    return str(client._idle[0].conn.local_addr).encode()


def test_proxy_protocol_gives_the_address_of_the_client():
    tcp = net.listen("tcp", "127.0.0.1:0")
    server = http.Server(lambda w, r: r.remote_addr)
    g = runtime.go(server.serve, net.ProxyListener(tcp, trusted=["127.0.0.0/8"]))
    with net.dial("tcp", str(tcp.addr)) as conn:
        conn.write(b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 80\r\n")
        assert ask(conn).startswith(b"HTTP/1.1 200")
        assert conn.read_exactly(14) == b"192.0.2.7:5000"
    with net.dial("tcp", str(tcp.addr)) as conn:
        conn.write(GET.encode() * 2)  # no header
        with pytest.raises((ConnectionResetError, EOFError)):
            conn.read_exactly(1)
    server.close()
    g.join(SAFETY)


def test_plain_thread_serves_a_listener_of_streams():
    inner = net.listen("tcp", "127.0.0.1:0")
    server = http.Server(hello)
    thread = threading.Thread(target=server.serve, args=(Wrapping(Least, inner),))
    thread.start()
    with socket.create_connection(("127.0.0.1", inner.addr.port), SAFETY) as sock:
        sock.sendall(GET.encode())
        assert sock.recv(12) == b"HTTP/1.1 200"
    server.close()
    thread.join(SAFETY)
    assert not thread.is_alive()


def test_what_was_written_is_sent_where_the_handler_fails(caplog):
    def handler(w, r):
        w.flush()
        w.write("part of an answer")
        raise ZeroDivisionError

    with Serving(handler) as s:
        conn = s.dial()
        conn.set_deadline(SAFETY)
        conn.write(GET.encode())
        received = b""
        while data := conn.read():
            received += data
        assert b"part of an answer" in received


def test_served_twice_both_end():
    listeners = [httptest.Listener(), httptest.Listener()]
    server = http.Server(hello)
    serving = [runtime.go(server.serve, listener) for listener in listeners]
    for listener in listeners:
        with httptest.Client(listener.dial) as client:
            assert client.get("/").text == "hello"
    assert server.shutdown(SAFETY) is True
    for g in serving:
        g.join(SAFETY)


def test_listener_that_cannot_be_closed_leaves_the_others_to_be(caplog):
    class Broken(Wrapping):
        def close(self):
            super().close()
            raise ZeroDivisionError

    broken, good = Broken(Least), Wrapping(Least)
    server = http.Server(hello)
    g = runtime.go(server.serve, broken, good)
    with httptest.Client(good.listener.dial) as client:
        assert client.get("/").text == "hello"
    assert server.shutdown(SAFETY) is True
    g.join(SAFETY)
    assert "closing a listener failed" in caplog.text
    with pytest.raises(ConnectionRefusedError):
        good.listener.dial()
