"""What handlers and servers can do over streams as over sockets: TLS, pipes, the program's own."""

from __future__ import annotations

import pytest
from certs import Authority

import runtime
from runtime import context, http, httptest, net, testing
from runtime.net import tls
from runtime.time import now
from waits import parked, until

SAFETY = 60.0
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def cert(authority):
    return authority.issue("server", "localhost", "127.0.0.1")


class Serving:
    """A server and what dials it."""

    def __init__(self, server, listener, dial):
        self.server = server
        self.dial = dial
        self.g = runtime.go(server.serve, listener)

    def stats(self):
        return self.server.stats()

    def end(self):
        self.server.close()
        self.g.join(SAFETY)
        until(lambda: self.stats()["connections"] == 0)


@pytest.fixture(params=["pipe", "tls", "proxy"])
def start(request, authority, cert):
    """start(handler, **options): over pipes, TLS, and with the PROXY protocol."""
    started = []
    client_context = authority.client_context()

    def dial_tls(addr):
        return tls.client(net.dial("tcp", addr), client_context, server_hostname="localhost")

    def dial_proxy(addr):
        conn = net.dial("tcp", addr)
        conn.write(b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 80\r\n")
        return conn

    def run(handler, **options):
        if request.param == "pipe":
            listener = httptest.Listener()
            dial = listener.dial
        else:
            listener = net.listen("tcp", "127.0.0.1:0")
            addr = str(listener.addr)
            if request.param == "tls":
                options["tls"] = (cert.pem, cert.key)
                dial = lambda: dial_tls(addr)  # noqa: E731
            else:
                listener = net.ProxyListener(listener, trusted=["127.0.0.0/8"])
                dial = lambda: dial_proxy(addr)  # noqa: E731

        def limited():
            conn = dial()
            conn.set_deadline(SAFETY)
            return conn

        started.append(Serving(http.Server(handler, **options), listener, limited))
        return started[-1]

    yield run
    for serving in started:
        serving.end()


def response(conn):
    """The head of a response, and its body of known length."""
    head = conn.read_until(b"\r\n\r\n")
    length = [
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    return head, conn.read_exactly(length[0]) if length else b""


# --- hijack ---------------------------------------------------------------------------------------


def test_hijack_gives_the_stream_with_what_came_early(start):
    kinds: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        w.headers["Upgrade"] = "echo"
        w.headers["Connection"] = "Upgrade"
        w.write_header(101)
        conn, reader = w.hijack()
        kinds.send(type(conn))
        with conn:
            while line := reader.read_line():
                conn.write(b"echo " + line + b"\n")
                if line == b"bye":
                    break

    serving = start(handler)
    with serving.dial() as conn:
        conn.write(GET + b"early\n")
        assert conn.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        assert conn.read_exactly(11) == b"echo early\n"
        conn.write(b"bye\n")
        assert conn.read_exactly(9) == b"echo bye\n"
        assert conn.read() == b""
    kind = kinds.recv(timeout=SAFETY)
    assert issubclass(kind, (net.PipeConn, tls.TLSConn, net.ProxyConn))


def test_hijacked_stream_outlives_handler_and_server(start):
    taken: runtime.Chan = runtime.Chan(1)
    serving = start(lambda w, r: taken.send(w.hijack()), idle_timeout=0.01, read_timeout=0.01)
    with serving.dial() as conn:
        conn.write(GET)
        ours, reader = taken.recv(timeout=SAFETY)
        until(lambda: serving.stats()["connections"] == 0)
        assert serving.server.shutdown(SAFETY) is True
        serving.server.close()
        runtime.sleep(0.02)  # its time-outs are no more
        writer = runtime.go(conn.write, b"hello")
        assert reader.read_exactly(5) == b"hello"
        writer.join(SAFETY)
        writer = runtime.go(ours.write, b"world")
        assert conn.read_exactly(5) == b"world"
        writer.join(SAFETY)
        ours.close()
        assert conn.read() == b""


def test_hijack_by_another_goroutine_and_what_is_refused_then(start):
    errors: runtime.Chan = runtime.Chan(2)

    def handler(w, r):
        conn, _ = runtime.go(w.hijack).join()
        for call in (w.hijack, r.body.read):
            with pytest.raises(http.HijackedError) as info:
                call()
            errors.send(info.value)
        with conn:
            conn.write(b"raw")

    serving = start(handler)
    with serving.dial() as conn:
        conn.write(POST)
        assert conn.read_exactly(3) == b"raw"
        assert conn.read() == b""
    for _ in range(2):
        errors.recv(timeout=SAFETY)


def test_hijack_is_refused_while_another_goroutine_sends(start):
    refused: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        w.headers["Content-Length"] = 1 << 23
        writer = parked(runtime.go(w.write, bytes(1 << 23)))
        with pytest.raises(RuntimeError, match=r"at the same time|sends the response"):
            w.hijack()
        refused.send(None)
        writer.join()

    serving = start(handler)
    with serving.dial() as conn:
        conn.write(GET)
        refused.recv(timeout=SAFETY)
        conn.read_until(b"\r\n\r\n")
        assert len(conn.read_exactly(1 << 23)) == 1 << 23


def test_hijack_of_a_stream_without_unread_fails_where_bytes_came_early():
    class Least:
        def __init__(self, conn):
            self.read, self.write, self.close = conn.read, conn.write, conn.close
            self.set_read_deadline = conn.set_read_deadline
            self.set_write_deadline = conn.set_write_deadline

    class Listener(httptest.Listener):
        def accept(self, timeout=None, *, ctx=None):
            return Least(super().accept(timeout, ctx=ctx))

    errors: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        with pytest.raises(AttributeError, match="unread") as info:
            w.hijack()
        errors.send(info.value)

    listener = Listener()
    serving = Serving(http.Server(handler), listener, listener.dial)
    with serving.dial() as conn:
        conn.write(GET + b"early")
        errors.recv(timeout=SAFETY)
        assert conn.read() == b""
    serving.end()


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 16 << 10, 300_001, 3 << 20])
@pytest.mark.parametrize("chunked", [False, True])
def test_send_file(start, tmp_path, size, chunked):
    data = bytes(i % 251 for i in range(251)) * (size // 251 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])

    def handler(w, r):
        if not chunked:
            w.headers["Content-Length"] = size
        else:
            w.write(b"")
            w.flush()
        with open(path, "rb") as f:
            w.send_file(f)

    serving = start(handler)
    with httptest.Client(serving.dial) as client:
        for _ in range(2):
            assert client.get("/").body == data[:size]
        assert serving.stats()["accepted"] == 1


def test_send_file_that_nobody_takes_ends_at_the_deadline(start, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(64 << 20))
    errors: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        http.ResponseController(w).set_write_deadline(0.05)
        with open(path, "rb") as f, pytest.raises(TimeoutError) as info:
            w.send_file(f)
        errors.send(info.value)

    serving = start(handler, write_timeout=None)
    with serving.dial() as conn:
        conn.write(GET)
        assert "sending a response" in str(errors.recv(timeout=SAFETY))
        until(lambda: serving.stats()["connections"] == 0)


# --- shutdown -------------------------------------------------------------------------------------


def test_stream_that_was_idle_for_long_ends_at_once(start):
    serving = start(lambda w, r: "done")
    with serving.dial() as conn:
        conn.write(GET)
        assert response(conn)[1] == b"done"
        until(lambda: serving.stats()["idle"] == 1)
        runtime.sleep(0.5)
        serving.server._core.begin_shutdown()
        assert conn.read() == b""
        until(lambda: serving.stats()["connections"] == 0)


def test_request_on_its_way_at_shutdown_is_answered_with_close(start):
    serving = start(lambda w, r: "done")
    with serving.dial() as conn, serving.dial() as other:
        for c in (conn, other):
            c.write(GET)
            assert response(c)[1] == b"done"
        until(lambda: serving.stats()["idle"] == 2)
        serving.server._core.begin_shutdown()
        if serving.stats()["idle"] == 2:  # unless that took half a second
            conn.write(GET)
            head, body = response(conn)
            assert b"Connection: close" in head and body == b"done"
            assert conn.read() == b""
        serving.server._core.close_idle()
        assert other.read() == b""


def test_drain_says_close_on_streams(start):
    serving = start(lambda w, r: "done", drain_delay=SAFETY)
    with serving.dial() as conn:
        conn.write(GET)
        head, _ = response(conn)
        assert b"Connection: close" not in head
        stopping = runtime.go(serving.server.shutdown)
        until(lambda: serving.server.draining)
        conn.write(GET)
        head, _ = response(conn)
        assert b"Connection: close" in head
        assert conn.read() == b""
        serving.server.close()
        stopping.join(SAFETY)


# --- deadlines and rates --------------------------------------------------------------------------


def test_read_deadline_of_the_handler(start):
    def handler(w, r):
        http.ResponseController(w).set_read_deadline(0.05)
        with pytest.raises(TimeoutError, match="reading the request body"):
            r.body.read()
        return "late"

    with start(handler, read_timeout=None).dial() as conn:
        conn.write(POST)
        head, body = response(conn)
        assert b"Connection: close" in head and body == b"late"


def test_read_deadline_is_heeded_by_who_waits_already(start):
    def handler(w, r):
        g = parked(runtime.go(r.body.read))
        http.ResponseController(w).set_read_deadline(0)
        with pytest.raises(TimeoutError):
            g.join()
        return "late"

    with start(handler, read_timeout=None).dial() as conn:
        conn.write(POST)
        assert response(conn)[1] == b"late"


def test_no_read_deadline_lifts_the_servers_while_somebody_waits(start):
    lifted: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        http.ResponseController(w).set_read_deadline(None)
        g = parked(runtime.go(r.body.read))
        lifted.send(None)
        return g.join()

    serving = start(handler, read_timeout=0.01, body_timeout=0.01)
    with serving.dial() as conn:
        for _ in range(2):
            conn.write(POST)
            lifted.recv(timeout=SAFETY)
            runtime.sleep(0.03)
            conn.write(b"0123456789")
            assert response(conn)[1] == b"0123456789"


# --- contexts, the gate, conn_state ---------------------------------------------------------------


def test_context_ends_with_the_handler_and_with_the_server(start):
    contexts: runtime.Chan = runtime.Chan(2)

    def handler(w, r):
        contexts.send(r.context)
        if r.path == "/wait":
            with pytest.raises(context.Canceled):
                runtime.Chan().recv(ctx=r.context, timeout=SAFETY)

    serving = start(handler)
    with serving.dial() as conn:
        conn.write(GET)
        response(conn)
        ctx = contexts.recv(timeout=SAFETY)
        until(lambda: ctx.err() is not None)
        conn.write(GET.replace(b"/ ", b"/wait "))
        ctx = contexts.recv(timeout=SAFETY)
        assert ctx.err() is None
        serving.server.close()
        until(lambda: ctx.err() is not None)


def test_context_ends_when_a_write_finds_the_client_gone(start):
    gone: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        ctx = r.context
        try:
            while True:
                w.write(bytes(100_000))
        except ConnectionError:
            gone.send(ctx.err())
            raise

    serving = start(handler)
    conn = serving.dial()
    conn.write(GET)
    conn.read(1)
    conn.close()
    assert isinstance(gone.recv(timeout=SAFETY), context.Canceled)


def test_max_requests_refuses_and_queues(start):
    gate: runtime.Chan = runtime.Chan()
    serving = start(lambda w, r: gate.recv_ok()[0] or "done", max_requests=1, max_waiting=1)
    with serving.dial() as a, serving.dial() as b, serving.dial() as c:
        a.write(GET)
        until(lambda: serving.stats()["active"] == 1)
        b.write(GET)
        until(lambda: serving.stats()["waiting"] == 1)
        c.write(GET)
        head, _ = response(c)
        assert b" 503 " in head and b"Retry-After" in head
        gate.close()
        for conn in (a, b):
            assert response(conn)[1] == b"done"


def test_conn_state_of_streams(start):
    events: runtime.Chan = runtime.Chan(64)

    def handler(w, r):
        if r.path == "/take":
            conn, _ = w.hijack()
            conn.close()
        return r.remote_addr if r.path == "/" else None

    serving = start(handler, conn_state=lambda conn, state: events.send((conn, str(state))))

    def seen(n):
        return [events.recv(timeout=SAFETY) for _ in range(n)]

    with serving.dial() as conn:
        conn.write(GET)
        addr = response(conn)[1].decode()
        [(first, a), (_, b), (_, c)] = seen(3)
        assert [a, b, c] == ["new", "active", "idle"]
        assert first.remote_addr == addr
    assert seen(1) == [(first, "closed")]
    with serving.dial() as conn:
        conn.write(GET.replace(b"/ ", b"/take "))
        assert conn.read() == b""
        [(second, a), (_, b), (_, c)] = seen(3)
        assert (second.id, a, b, c) == (2, "new", "active", "hijacked")


def test_conn_state_of_sockets_says_hijacked(serve):
    events: runtime.Chan = runtime.Chan(64)

    def handler(w, r):
        conn, _ = w.hijack()
        conn.close()

    server = serve(handler, conn_state=lambda conn, state: events.send(str(state)))
    with server.connect() as c:
        assert c.send(GET).rest() == b""
    assert [events.recv(timeout=SAFETY) for _ in range(3)] == ["new", "active", "hijacked"]


def test_request_without_a_connection_has_a_context_and_a_body():
    r = httptest.new_request("POST", "/", b"abc")
    assert r.context.err() is None
    assert r.body.read() == b"abc"


# --- in bubbles -----------------------------------------------------------------------------------


@testing.bubble()
def test_deadlines_on_the_clock_of_a_bubble():
    def handler(w, r):
        http.ResponseController(w).set_read_deadline(100)
        with pytest.raises(TimeoutError):
            r.body.read()
        return str(now())

    with httptest.Server(handler, read_timeout=10) as server:
        conn = server.dial()
        conn.write(POST)
        assert response(conn)[1] == b"100.0"


@testing.bubble()
def test_body_timeout_and_rates_on_the_clock_of_a_bubble():
    def handler(w, r):
        try:
            return r.body.read()
        except TimeoutError:
            return str(now())

    with httptest.Server(handler, read_timeout=None, body_timeout=50, min_read_rate=None) as server:
        conn = server.dial()
        conn.write(POST)
        assert response(conn)[1] == b"50.0"
    start = now()
    with httptest.Server(
        handler, read_timeout=None, body_timeout=None, min_read_rate=1, rate_grace=5
    ) as server:
        conn = server.dial()
        conn.write(POST)
        assert float(response(conn)[1]) == start + 5


@testing.bubble()
def test_writes_slower_than_the_rate_end_on_the_clock_of_a_bubble():
    failed: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        try:
            w.write(bytes(1 << 20))
        except TimeoutError:
            failed.send(now())
            raise

    with httptest.Server(handler, write_timeout=None, min_write_rate=1024, rate_grace=5) as server:
        conn = server.dial()
        conn.write(GET)
        assert failed.recv() >= 64


@testing.bubble()
def test_gate_waits_on_the_clock_of_a_bubble():
    over: runtime.Chan = runtime.Chan()
    with httptest.Server(
        lambda w, r: over.recv_ok()[0], max_requests=1, waiting_timeout=30
    ) as server:
        a, b = server.dial(), server.dial()
        a.write(GET)
        testing.wait()
        b.write(GET)
        assert b" 503 " in response(b)[0]
        assert now() == 30
        over.close()
        response(a)


@testing.bubble()
def test_shutdown_and_conn_state_on_the_clock_of_a_bubble():
    events: runtime.Chan = runtime.Chan(64)
    with httptest.Server(
        lambda w, r: "x", conn_state=lambda conn, state: events.send(str(state))
    ) as server:
        old, young = server.dial(), server.dial()
        old.write(GET)
        response(old)
        runtime.sleep(5)
        young.write(GET)
        response(young)
        stopping = runtime.go(server.server.shutdown)
        assert (old.read(), now()) == (b"", 5)
        assert (young.read(), now()) == (b"", 5.5)
        assert stopping.join() is True
    testing.wait()
    got = [events.recv() for _ in range(8)]
    assert sorted(got) == ["active", "active", "closed", "closed", "idle", "idle", "new", "new"]
