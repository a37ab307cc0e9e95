"""Connections that handlers take over: upgrades, CONNECT (Go's Hijacker)."""

from __future__ import annotations

import gc
import socket
import threading

import pytest

import runtime
from runtime import http, net

SAFETY = 60.0
UPGRADE = "GET /echo HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


@pytest.fixture(params=["socket", "stream"])
def transport(request):
    return request.param


def get(target="/", fields=""):
    return f"GET {target} HTTP/1.1\r\nHost: t\r\n{fields}\r\n"


def echo(w, r):
    """A small protocol of lines, entered with Upgrade."""
    if r.headers.get("upgrade") != "echo":
        w.headers["Upgrade"] = "echo"
        w.headers["Connection"] = "Upgrade"
        return 426
    w.headers["Upgrade"] = "echo"
    w.headers["Connection"] = "Upgrade"
    w.write_header(101)
    conn, reader = w.hijack()
    with conn:
        for line in reader:
            conn.write(b"echo " + line + b"\n")
            if line == b"bye":
                break


def upgraded(c):
    r = c.head()
    assert (r.status, r.reason) == (101, "Switching Protocols")
    assert (r["upgrade"], r["connection"]) == ("echo", "Upgrade")
    assert r.all("content-length") == r.all("transfer-encoding") == r.all("content-type") == []
    return c


# --- upgrades -------------------------------------------------------------------------------------


def test_upgrade_to_another_protocol(serve):
    server = serve(echo)
    with server.connect() as c:
        upgraded(c.send(UPGRADE))
        assert c.send("one\n").exactly(9) == b"echo one\n"
        c.send("bye\nmore\n")
        assert c.rest() == b"echo bye\n"
    server.until(connections=0, active=0, requests=1)


def test_upgrade_after_other_requests(serve):
    with serve(echo).connect() as c:
        for _ in range(3):
            r = c.send(get()).response()
            assert (r.status, r["upgrade"]) == (426, "echo")
        upgraded(c.send(UPGRADE)).send("bye\n")
        assert c.rest() == b"echo bye\n"


@pytest.mark.parametrize("early", [1, 5, 5000, 200_000])
def test_what_came_with_the_head_is_read_first(serve, early):
    """Also behind pipelined requests, whose responses leave before."""
    data = bytes(range(65, 91)) * (early // 26 + 1)
    data = data[:early]

    def handler(w, r):
        if r.path != "/take":
            return r.path
        conn, reader = w.hijack()
        with conn:
            conn.write(b"got " + reader.read_exactly(early))

    with serve(handler).connect() as c:
        sender = threading.Thread(
            target=c.send, args=(get("/1").encode() + get("/take").encode() + data,)
        )
        sender.start()
        try:
            assert c.response().body == b"/1"
            assert c.rest() == b"got " + data
        finally:
            sender.join(SAFETY)


def test_connection_itself_gives_what_came_with_the_head(serve):
    def handler(w, r):
        conn, _ = w.hijack()
        with conn:
            conn.write(conn.read_exactly(5))

    with serve(handler).connect() as c:
        assert c.send(get() + "early").rest() == b"early"


def test_body_is_raw_after_hijack(serve):
    """As in Go: what was not read of the body is what comes first."""

    def handler(w, r):
        assert r.body.read(2) == b"ab"
        conn, reader = w.hijack()
        with conn:
            conn.write(reader.read_exactly(3))

    with serve(handler).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nabcde")
        assert c.rest() == b"cde"


def test_response_that_was_begun_is_sent(serve):
    def handler(w, r):
        w.headers["X-A"] = "b"
        w.write("first ")
        conn, _ = w.hijack()
        with conn:
            conn.write(b"raw")

    with serve(handler).connect() as c:
        r = c.send(get()).head()
        assert (r["x-a"], r["transfer-encoding"], r.all("connection")) == ("b", "chunked", [])
        assert c.chunk() == b"first "
        assert c.rest() == b"raw"


# --- the connection -------------------------------------------------------------------------------


def test_hijacked_connection_outlives_handler_and_server(serve):
    taken: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        taken.send(w.hijack())
        # r, w and what they refer to go; the connection stays.

    server = serve(handler)
    with server.connect() as c:
        c.send(get())
        conn, reader = taken.recv(timeout=SAFETY)
        server.until(connections=0, active=0)
        assert server.server.shutdown(SAFETY)
        gc.collect()
        c.send("hello\n")
        assert reader.read_line() == b"hello"
        conn.write(b"world")
        conn.close()
        assert c.rest() == b"world"


def test_hijacked_connection_survives_close_of_the_server(serve):
    taken: runtime.Chan = runtime.Chan()
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        taken.send(w.hijack()[0])
        gate.recv()

    server = serve(handler)
    with server.connect() as c:
        c.send(get())
        conn = taken.recv(timeout=SAFETY)
        server.server.close()
        server.join()  # though the handler still runs
        with conn:
            conn.write(b"alive")
            assert c.exactly(5) == b"alive"
        gate.close()


def test_shutdown_does_not_wait_for_hijacked_connections(serve):
    gate: runtime.Chan = runtime.Chan()
    taken: runtime.Chan = runtime.Chan()

    def handler(w, r):
        conn, _ = w.hijack()
        taken.send(None)
        with conn:
            gate.recv()

    server = serve(handler)
    with server.connect() as c:
        c.send(get())
        taken.recv(timeout=SAFETY)
        assert server.server.shutdown(SAFETY)
        server.join()
        gate.close()
        assert c.ended()


@pytest.mark.parametrize("addr", ["127.0.0.1:0", "[::1]:0", "unix"])
def test_connection_has_type_and_addresses(serve, addr, tmp_path):
    seen: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        conn, _ = w.hijack()
        with conn:
            seen.send((type(conn), str(conn.remote_addr), r.remote_addr, conn.closed))

    server = serve(handler, f"unix:{tmp_path}/s" if addr == "unix" else addr)
    with server.connect() as c:
        c.send(get())
        assert c.ended()
        kind, remote, said, closed = seen.recv(timeout=SAFETY)
        assert kind is (net.UnixConn if addr == "unix" else net.TCPConn)
        assert not closed
        if addr != "unix":
            assert remote == said
            assert remote.rpartition(":")[2] == str(c.sock.getsockname()[1])


def test_connection_has_deadlines(serve):
    def handler(w, r):
        conn, reader = w.hijack()
        with conn:
            conn.set_read_deadline(0.01)
            with pytest.raises(TimeoutError):
                reader.read()
            conn.write(b"timed out")

    with serve(handler, read_timeout=0.001).connect() as c:
        assert c.send(get()).rest() == b"timed out"


def test_hijacked_connections_do_not_count_against_max_connections(serve):
    taken: runtime.Chan = runtime.Chan(10)
    server = serve(lambda w, r: taken.send(w.hijack()[0]), max_connections=1)
    clients = []
    for _ in range(3):
        clients.append(server.connect())
        clients[-1].send(get())
        taken.recv(timeout=SAFETY).close()
    for c in clients:
        assert c.ended()
        c.close()


# --- misuse ---------------------------------------------------------------------------------------


def test_writer_and_body_raise_after_hijack(serve):
    failures: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        conn, _ = w.hijack()
        with conn:
            for use in (
                lambda: w.write("x"),
                lambda: w.write_header(200),
                w.flush,
                lambda: w.write_informational(103),
                w.hijack,
                r.body.read,
            ):
                with pytest.raises(http.HijackedError):
                    use()
            failures.send(isinstance(http.HijackedError("x"), RuntimeError))

    with serve(handler).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\n")
        assert c.ended()
    assert failures.recv(timeout=SAFETY)


def test_handler_that_fails_after_hijack_is_logged(serve, caplog):
    def handler(w, r):
        with w.hijack()[0] as conn:
            conn.write(b"raw")
            raise ZeroDivisionError

    server = serve(handler)
    with server.connect() as c:
        assert c.send(get()).rest() == b"raw"
    server.until(requests=1)
    assert ["hijacked" in r.message for r in caplog.records] == [True]


def test_body_returned_after_hijack_is_logged_not_sent(serve, caplog):
    def handler(w, r):
        with w.hijack()[0] as conn:
            conn.write(b"raw")
        return "response"

    server = serve(handler)
    with server.connect() as c:
        assert c.send(get()).rest() == b"raw"
    server.until(requests=1)
    assert [r.exc_info[0] for r in caplog.records] == [http.HijackedError]


def test_hijack_after_the_handler_raises(serve):
    kept = []
    server = serve(lambda w, r: kept.append(w) or "x")
    server.get()
    with pytest.raises(RuntimeError, match="has returned"):
        kept[0].hijack()


def test_hijack_while_the_body_is_read_raises(serve):
    done: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        reader = runtime.go(r.body.read)
        while reader.state != "waiting":
            runtime.gosched()
        with pytest.raises(RuntimeError, match="body"):
            w.hijack()
        done.send(None)
        return reader.join()

    with serve(handler).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\n")
        done.recv(timeout=SAFETY)
        assert c.send("hello").response().body == b"hello"


def test_hijack_in_another_goroutine(serve):
    def handler(w, r):
        conn, reader = runtime.go(w.hijack).join()
        with conn:
            conn.write(reader.read_line())

    with serve(handler).connect() as c:
        assert c.send(get() + "hello\n").rest() == b"hello"


@pytest.mark.parametrize("close", [False, True])
def test_hijack_by_a_plain_thread(serve, close):
    """While the connection's own thread is stuck in the handler, and then after it."""
    taken: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        thread = threading.Thread(target=lambda: taken.send(w.hijack()))
        thread.start()
        thread.join(SAFETY)

    server = serve(handler)
    with server.connect() as c:
        c.send(get() + "early")
        conn, reader = taken.recv(timeout=SAFETY)
        with conn:
            server.until(connections=0, active=0)
            if close:
                server.server.close()
            conn.write(reader.read_exactly(5))
            assert c.exactly(5) == b"early"
            c.send("late\n")
            assert reader.read_line() == b"late"
    server.until(connections=0)


def test_many_hijacks_with_several_ps(serve, procs):
    n = 60

    def handler(w, r):
        conn, reader = w.hijack()

        def talk():
            with conn:
                for line in reader:
                    conn.write(line + b"\n")

        runtime.go(talk)

    server = serve(handler)
    clients = [server.connect() for _ in range(n)]
    try:
        for i, c in enumerate(clients):
            c.send(get() + f"{i}\n")
        for i, c in enumerate(clients):
            assert c.exactly(len(f"{i}\n")) == f"{i}\n".encode()
        server.until(connections=0, active=0, requests=n)
        for c in clients:
            assert c.half_close().ended()
    finally:
        for c in clients:
            c.close()


def test_client_that_is_gone(serve):
    """The handler has the connection, and finds out."""
    gate: runtime.Chan = runtime.Chan()
    result: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        gate.recv(timeout=SAFETY)
        conn, _ = w.hijack()
        with conn:
            try:
                result.send(conn.read())
            except OSError as exc:
                result.send(type(exc))

    with serve(handler).connect() as c:
        c.send(get())
        c.reset()
        gate.send(None, timeout=SAFETY)
        assert result.recv(timeout=SAFETY) in (b"", ConnectionResetError, ConnectionAbortedError)


# --- CONNECT --------------------------------------------------------------------------------------


def proxy(w, r):
    """A forward proxy for CONNECT."""
    if r.method != "CONNECT":
        return 405
    try:
        upstream = net.dial("tcp", r.host, timeout=SAFETY)
    except OSError:
        return 502
    w.write_header(200)
    client, reader = w.hijack()

    def pump(source, sink):
        try:
            while data := source.read():
                sink.write(data)
            sink.close_write()
        except OSError:
            client.close()
            upstream.close()

    with client, upstream:
        back = runtime.go(pump, upstream, client)
        pump(reader, upstream)
        back.join()


def test_connect_tunnels_both_ways(serve):
    server, target = serve(proxy), serve(lambda w, r: r.path)
    with server.connect() as c:
        c.send(f"CONNECT {target.addr} HTTP/1.1\r\nHost: {target.addr}\r\n\r\n")
        r = c.head()
        assert r.status == 200
        assert r.all("content-length") == r.all("transfer-encoding") == r.all("connection") == []
        for i in range(3):
            assert c.send(get(f"/{i}")).response().body == f"/{i}".encode()
        assert c.half_close().ended()


def test_connect_to_nowhere_is_refused(serve):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # and does not listen
        addr = f"127.0.0.1:{s.getsockname()[1]}"
        r = serve(proxy).ask(f"CONNECT {addr} HTTP/1.1\r\nHost: {addr}\r\n\r\n")
    assert (r.status, r["connection"]) == (502, "close")


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_curl_through_the_proxy(serve, tool, size):
    server = serve(proxy)
    target = serve(lambda w, r: b"x" * size if r.method == "GET" else r.body.read())
    options = ("curl", "--silent", "--show-error", "--fail", "--noproxy", "", "--proxytunnel",
               "--proxy", server.url)  # fmt: skip
    assert tool(*options, f"{target.url}/a") == b"x" * size
    assert tool(*options, "--data-binary", "@-", target.url, data=b"y" * size) == b"y" * size
