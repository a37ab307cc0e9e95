"""Starting and ending: addresses, threads, signals, shutdown, running out of descriptors."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import ports
import pytest

import runtime
from programs import environment
from runtime import http, net

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
SCRIPTS = Path(__file__).parent / "scripts"


def hello(w, r):
    return "hello"


# --- addresses ------------------------------------------------------------------------------------


def test_port_0_takes_a_free_one():
    server = http.Server(hello, "127.0.0.1:0")
    assert server.addr == "127.0.0.1:0"
    server.listen()
    host, _, port = server.addr.rpartition(":")
    assert host == "127.0.0.1" and int(port) > 0
    addr = server.addr
    server.listen()
    assert server.addr == addr
    server.close()


@pytest.mark.parametrize("addr", [":0", "[::]:0", "[::1]:0", "localhost:0", "0.0.0.0:0"])
def test_addresses_that_work(serve, addr):
    server = serve(lambda w, r: r.remote_addr, addr)
    host, port = server.where
    here = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(host, host)
    with socket.create_connection((here, port), SAFETY) as sock:
        sock.sendall(GET.replace("1.1", "1.0").encode())
        body = sock.makefile("rb").read().partition(b"\r\n\r\n")[2].decode()
        name = sock.getsockname()
    assert body == (f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}")


def test_every_interface_serves_ipv4_and_ipv6(serve):
    port = serve(hello, ":0").where[1]
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port), SAFETY) as sock:
            sock.sendall(GET.encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "addr",
    ["", "8080", "localhost", ":", "a:b", ":65536", ":-1", ":\u00b2", "::1:80", "[::1:80", ":8 0",
     "unix:", "a..b:80"],
)  # fmt: skip
def test_address_that_makes_no_sense_is_a_value_error(addr):
    with pytest.raises(ValueError, match="address"):
        http.Server(hello, addr).listen()


@pytest.mark.parametrize("addr", ["192.0.2.1:0", "no-such-host.invalid:80", "[2001:db8::1]:0"])
def test_address_that_is_not_ours_is_an_os_error_that_names_it(addr):
    with pytest.raises(OSError) as info:
        http.Server(hello, addr).listen()
    assert f"cannot listen on {addr}: " in str(info.value)


def test_port_in_use_is_an_os_error_that_names_it(serve):
    server = serve(hello)
    with pytest.raises(OSError) as info:
        http.Server(hello, server.addr).listen()
    assert info.value.errno == errno.EADDRINUSE
    assert f"cannot listen on {server.addr}: Address already in use" in str(info.value)
    with pytest.raises(OSError):
        http.Server(hello, server.addr).serve()


def test_listen_and_serve_on_a_port_in_use_is_one_line_and_status_1(serve):
    addr = serve(hello).addr
    p = subprocess.run(
        [sys.executable, str(SCRIPTS / "listen_and_serve.py"), addr],
        capture_output=True,
        text=True,
        timeout=SAFETY,
        env=environment(),
    )
    assert p.returncode == 1
    assert p.stderr == f"gosched: cannot listen on {addr}: Address already in use\n"
    assert p.stdout == ""


def test_port_can_be_used_again_at_once(serve):
    with ports.reserved() as addr:
        first = serve(hello, addr)
        # Connections of the first server are still in TIME_WAIT.
        assert first.get("/", "Connection: close\r\n").status == 200
        first.server.close()
        first.join()
        assert serve(hello, addr).get().status == 200


def test_unix_socket(serve, tmp_path):
    path = tmp_path / "socket"
    server = serve(lambda w, r: r.remote_addr, f"unix:{path}")
    assert server.addr == f"unix:{path}"
    with server.connect() as c:
        for _ in range(2):
            assert c.send(GET).response().body == b"@"
    # The file goes with the server, so that the next one can use the path.
    server.server.close()
    server.join()
    assert not path.exists()
    again = serve(hello, f"unix:{path}")
    assert again.get().status == 200


def test_unix_socket_in_use_is_an_os_error_and_left_alone(serve, tmp_path):
    path = tmp_path / "socket"
    server = serve(hello, f"unix:{path}")
    other = http.Server(hello, f"unix:{path}")
    with pytest.raises(OSError, match="Address already in use"):
        other.listen()
    other.close()
    assert server.get().status == 200


def test_unix_socket_path_that_is_too_long_is_an_os_error(tmp_path):
    addr = f"unix:{tmp_path}/{'x' * 200}"
    with pytest.raises(OSError, match=f"cannot listen on {addr}: .*too long"):
        http.Server(hello, addr).listen()


@pytest.mark.parametrize("first", ["@", "\0"])
def test_unix_socket_in_the_abstract_namespace(serve, first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = serve(hello, f"unix:{first}gosched-test-{os.getpid()}")
    assert list(tmp_path.iterdir()) == []
    server.addr = f"unix:\0{server.addr[6:]}"
    assert server.get().status == 200


def test_unix_socket_with_a_relative_path_is_removed(serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = serve(hello, "unix:socket")
    assert server.get().status == 200
    server.server.close()
    assert list(tmp_path.iterdir()) == []


# --- where it runs --------------------------------------------------------------------------------


def in_thread(fn):
    """What fn returns when run by a plain thread, which the caller gives way to."""
    result: runtime.Chan = runtime.Chan(1)

    def run():
        try:
            result.send((fn(), None))
        except BaseException as exc:
            result.send((None, exc))

    thread = threading.Thread(target=run)
    thread.start()
    value, exc = result.recv(timeout=SAFETY)
    thread.join(SAFETY)
    if exc is not None:
        raise exc
    return value


def fetch(addr: str) -> bytes:
    host, _, port = addr.rpartition(":")
    with socket.create_connection((host, int(port)), SAFETY) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return sock.makefile("rb").read().partition(b"\r\n\r\n")[2]


def test_server_in_a_goroutine_of_the_main_thread():
    before = runtime.gomaxprocs(1)  # no other thread shall begin it
    try:
        server = http.Server(lambda w, r: str(threading.get_ident()), "127.0.0.1:0")
        server.listen()
        g = runtime.go(server.serve)
        assert in_thread(lambda: fetch(server.addr)) == str(threading.get_ident()).encode()
        assert server.shutdown(SAFETY) is True
        g.join(timeout=SAFETY)
        assert server.stats()["connections"] == 0
    finally:
        runtime.gomaxprocs(before)


def test_two_servers_in_one_process(serve):
    a, b = serve(lambda w, r: "a"), serve(lambda w, r: "b")
    c = http.Server(lambda w, r: "c", "127.0.0.1:0")
    c.listen()
    g = runtime.go(c.serve)
    for _ in range(3):
        assert (a.get().body, b.get().body) == (b"a", b"b")
        assert in_thread(lambda: fetch(c.addr)) == b"c"
    c.close()
    g.join(timeout=SAFETY)
    assert a.get().body == b"a"


def test_server_is_shut_down_by_another_thread():
    """The server's connections belong to the main thread."""
    server = http.Server(hello, "127.0.0.1:0")
    server.listen()
    g = runtime.go(server.serve)

    def client():
        assert fetch(server.addr) == b"hello"
        with socket.create_connection(server.addr.split(":"), SAFETY) as sock:
            sock.sendall(GET.encode())
            assert sock.recv(1000).endswith(b"hello")
            result = server.shutdown(SAFETY)
            assert sock.recv(1000) == b""
        return result

    assert in_thread(client) is True
    g.join(timeout=SAFETY)


def test_server_is_closed_by_another_thread():
    server = http.Server(lambda w, r: runtime.Chan().recv(), "127.0.0.1:0")
    server.listen()
    g = runtime.go(server.serve)

    def client():
        with socket.create_connection(server.addr.split(":"), SAFETY) as sock:
            sock.sendall(GET.encode())
            while server.stats()["active"] == 0:
                os.sched_yield()
            server.close()
            assert server.stats()["active"] == 1
            assert sock.recv(1000) == b""
        with pytest.raises(ConnectionRefusedError):
            fetch(server.addr)

    in_thread(client)
    g.join(timeout=SAFETY)


def test_closing_from_many_threads_while_clients_come_and_go(serve):
    """Whatever is under way on the server's thread must not be pulled from under it."""
    for _ in range(20):
        running = serve(hello)
        stop = threading.Event()

        def client(running=running, stop=stop):
            while not stop.is_set():
                try:
                    with running.connect() as c:
                        c.send(GET).response()
                except (OSError, AssertionError):
                    return

        clients = [threading.Thread(target=client) for _ in range(3)]
        closers = [threading.Thread(target=running.server.close) for _ in range(3)]
        for t in clients:
            t.start()
        running.until(idle=0)
        for t in closers:
            t.start()
        running.join()
        stop.set()
        for t in [*clients, *closers]:
            t.join(SAFETY)
            assert not t.is_alive()


def test_serving_twice_is_an_error(serve):
    running = serve(hello)
    running.get()
    with pytest.raises(RuntimeError, match="being served already"):
        running.server.serve()
    assert running.get().status == 200
    running.server.close()
    running.join()
    with pytest.raises(RuntimeError, match="was closed"):
        running.server.serve()


def test_server_that_never_served():
    server = http.Server(hello, "127.0.0.1:0")
    assert server.stats()["connections"] == 0
    server.listen()
    addr = server.addr
    assert server.shutdown() is True
    server.close()
    again = http.Server(hello, addr)
    again.listen()
    again.close()
    assert http.Server(hello).shutdown() is True


# --- shutdown -------------------------------------------------------------------------------------


def test_shutdown_closes_idle_connections(serve):
    running = serve(hello)
    with running.connect() as c, running.connect() as silent:
        c.send(GET).response()
        running.until(connections=2)
        assert running.server.shutdown(SAFETY) is True
        assert c.ended() and silent.ended()
    running.join()
    with pytest.raises(ConnectionRefusedError):
        running.connect()


def test_shutdown_finishes_requests_in_flight(serve):
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        gate.recv()
        return "finished"

    running = serve(handler)
    result: list[bool] = []
    with running.connect() as c:
        c.send(GET)
        running.until(active=1)
        stopper = threading.Thread(target=lambda: result.append(running.server.shutdown(SAFETY)))
        stopper.start()
        running.until_refused()
        gate.send(None, timeout=SAFETY)
        r = c.response()
        assert (r.body, r["connection"]) == (b"finished", "close")
        assert c.ended()
        stopper.join(SAFETY)
    assert result == [True]
    running.join()


def test_shutdown_answers_pipelined_requests_that_were_read(serve):
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        gate.recv_ok()
        return r.path

    running = serve(handler)
    with running.connect() as c:
        c.send("".join(f"GET /{i} HTTP/1.1\r\nHost: t\r\n\r\n" for i in range(3)))
        running.until(active=1)
        running.server._core.begin_shutdown()
        running.until_refused()
        gate.close()
        assert c.response()["connection"] == "close"
        assert c.ended()
    assert running.server.shutdown(SAFETY) is True


def test_shutdown_that_takes_too_long_closes_and_is_false(serve):
    gate: runtime.Chan = runtime.Chan()
    running = serve(lambda w, r: gate.recv_ok()[0])
    with running.connect() as c:
        c.send(GET)
        running.until(active=1)
        assert running.server.shutdown(0.05) is False
        running.join()
        assert c.ended()
    gate.close()
    running.until(connections=0)


def test_shutdown_waits_for_half_a_request(serve):
    running = serve(hello)
    result: list[bool] = []
    with running.connect() as c:
        c.send(GET + "GET / HTTP/1.1\r\n").response()
        running.until(reading=1)
        stopper = threading.Thread(target=lambda: result.append(running.server.shutdown(SAFETY)))
        stopper.start()
        running.until_refused()
        r = c.send("Host: t\r\n\r\n").response()
        assert (r.status, r["connection"]) == (200, "close")
        assert c.ended()
        stopper.join(SAFETY)
    assert result == [True]


def test_shutdown_while_a_body_is_skipped(serve):
    """The connection ends once the body has come, not after the idle time-out."""
    running = serve(hello)
    result: list[bool] = []
    with running.connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nabc").response()
        running.until(closing=1)
        stopper = threading.Thread(target=lambda: result.append(running.server.shutdown(SAFETY)))
        stopper.start()
        running.until_refused()
        c.send("def")
        assert c.ended()
        stopper.join(SAFETY)
    assert result == [True]
    running.join()


def test_close_ends_connections_and_fails_handlers(serve):
    errors: runtime.Chan = runtime.Chan(3)

    def handler(w, r):
        if r.path == "/":
            return
        try:
            if r.path == "/read":
                r.body.read()
            while True:
                w.write(bytes(65536))
        except ConnectionError as exc:
            errors.send(str(exc))

    running = serve(handler)
    with running.connect() as a, running.connect(rcvbuf=4096) as b, running.connect() as c:
        a.send("POST /read HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\n")
        b.send("GET /write HTTP/1.1\r\nHost: t\r\n\r\n")
        # What nobody has read when it is closed would reset the connection.
        c.send(GET + "GET / HT").response()
        running.until(active=2, reading=1)
        running.server.close()
        running.join()
        for _ in range(2):
            assert errors.recv(timeout=SAFETY) == (
                "the server was closed while the request was running"
            )
        assert a.ended() and c.ended()
    running.until(connections=0)


@pytest.mark.parametrize("framing", ["Content-Length: 6", "Transfer-Encoding: chunked"])
def test_close_fails_io_that_begins_afterwards(serve, framing):
    gate: runtime.Chan = runtime.Chan()
    errors: runtime.Chan = runtime.Chan(3)

    def handler(w, r):
        gate.recv_ok()
        for call in (r.body.read, lambda: w.write(bytes(65536)), w.flush):
            try:
                call()
            except ConnectionError as exc:
                errors.send(str(exc))

    running = serve(handler)
    with running.connect() as c:
        c.send(f"POST / HTTP/1.1\r\nHost: t\r\n{framing}\r\n\r\n")
        running.until(active=1)
        running.server.close()
        running.join()
        gate.close()
        assert errors.recv(timeout=SAFETY) == "the server was closed while the request was running"
        assert "the server was closed" in errors.recv(timeout=SAFETY)
        assert c.ended()
    running.until(connections=0)


def test_handler_may_shut_its_own_server_down(serve):
    def handler(w, r):
        runtime.go(running.server.shutdown)
        runtime.gosched()
        return "the last"

    running = serve(handler)
    r = running.get()
    assert (r.body, r["connection"]) == (b"the last", "close")
    running.join()


def test_handler_may_close_its_own_server(serve):
    running = serve(lambda w, r: running.server.close())
    with running.connect() as c:
        c.send(GET)
        assert c.ended()
    running.join()
    running.until(connections=0)


# --- signals --------------------------------------------------------------------------------------

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("signum", SIGNALS)
def test_signal_ends_an_idle_server_quietly(app, signum):
    with app.connect() as c:
        c.send("GET /hello HTTP/1.1\r\nHost: t\r\n\r\n").response()
        assert app.stop(signum) == (0, "")
        assert c.ended()


@pytest.mark.parametrize("signum", SIGNALS)
def test_signal_lets_requests_in_flight_finish(app, signum):
    with app.connect() as held, app.connect() as other:
        other.send("GET /hello HTTP/1.1\r\nHost: t\r\n\r\nGET /rele").response()
        held.send("GET /hold/a HTTP/1.1\r\nHost: t\r\n\r\n")
        assert app.read_line() == "holding"
        app.send_signal(signum)
        app.until_refused()
        # A request whose head was on its way is served, too.
        r = other.send("ase/a HTTP/1.1\r\nHost: t\r\n\r\n").response()
        assert (r.status, r["connection"]) == (204, "close")
        r = held.response()
        assert (r.body, r["connection"]) == (b"held", "close")
    assert (app.wait(), app.stderr()) == (0, "")


@pytest.mark.parametrize("second", SIGNALS)
def test_second_signal_ends_the_server_at_once(app, second):
    with app.connect() as c:
        c.send("GET /stuck HTTP/1.1\r\nHost: t\r\n\r\n")
        assert app.read_line() == "stuck"
        app.send_signal(signal.SIGTERM)
        app.until_refused()
        assert app.stop(second) == (0, "")
        assert c.ended()


def test_shutdown_timeout_ends_the_server_after_a_signal(program):
    app = program("app.py", "127.0.0.1:0", '{"shutdown_timeout": 0.05}')
    with app.connect() as c:
        c.send("GET /stuck HTTP/1.1\r\nHost: t\r\n\r\n")
        assert app.read_line() == "stuck"
        assert app.stop() == (0, "")
        assert c.ended()


def test_signal_under_load(app):
    """Every response that was begun is whole."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def client():
        try:
            while not stop.is_set():
                with app.connect() as c:
                    while True:
                        c.send("GET /bytes/100000 HTTP/1.1\r\nHost: t\r\n\r\n")
                        r = c.response()
                        assert len(r.body) == 100_000
                        if r.all("connection"):
                            break
        except OSError:
            pass  # closed between two requests
        except AssertionError as exc:
            if "within a line: b''" not in str(exc):
                failures.append(exc)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for t in threads:
        t.start()
    while app.stats()["requests"] < 100:
        pass
    code, err = app.stop()
    stop.set()
    for t in threads:
        t.join(SAFETY)
    assert (code, err, failures) == (0, "", [])


def test_system_exit_in_a_handler_ends_the_program(app):
    with app.connect() as c:
        c.send("GET /exit/7 HTTP/1.1\r\nHost: t\r\n\r\n")
        assert (app.wait(), app.stderr()) == (7, "")


def test_keyboard_interrupt_in_a_handler_ends_the_program(app):
    with app.connect() as c:
        c.send("GET /interrupt HTTP/1.1\r\nHost: t\r\n\r\n")
        assert app.wait() in (1, 130, -signal.SIGINT)
        assert app.stderr().rstrip().endswith("KeyboardInterrupt")


def test_programs_own_signal_handlers_are_left_alone():
    code = """
import os, signal, runtime
from runtime import http, net
seen = []
signal.signal(signal.SIGTERM, lambda *a: seen.append("TERM"))
server = http.Server(print, "127.0.0.1:0")
def stop():
    while signal.getsignal(signal.SIGINT) is before:
        runtime.gosched()
    os.kill(os.getpid(), signal.SIGTERM)
    while not seen:
        runtime.gosched()
    assert seen == ["TERM"]
    os.kill(os.getpid(), signal.SIGINT)
before = signal.getsignal(signal.SIGINT)
runtime.go(stop)
server.serve()
assert signal.getsignal(signal.SIGINT) is before
"""
    p = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=SAFETY,
        env=environment(),
    )
    assert (p.returncode, p.stderr, p.stdout) == (0, "", "")


def test_listen_and_serve_is_over_after_a_signal():
    with ports.reserved() as addr:
        p = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "listen_and_serve.py"), addr],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        while p.poll() is None:
            try:
                assert fetch(addr) == b"Hello, World"
                break
            except ConnectionRefusedError:
                os.sched_yield()
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=SAFETY)
    assert (p.returncode, out, err) == (0, "over\n", "")


# --- running out of descriptors -------------------------------------------------------------------


def test_server_without_descriptors_serves_on_and_does_not_spin(program):
    app = program("few_descriptors.py", "10")
    conns = [app.connect() for _ in range(30)]
    for c in conns:
        c.send(GET)
    # As many as there is room for are served; one of them can ask for the statistics.
    for c in conns[:5]:
        assert c.response().body == b"Hello"
    first = conns[0]

    def stats():
        import json

        body = first.send("GET /stats HTTP/1.1\r\nHost: t\r\n\r\n").response().body
        return json.loads(body)

    accepted = stats()["accepted"]
    assert 5 <= accepted < 30
    # A thousand looks at the poller of which each is one of our requests, or a retry
    # after a pause of 5 ms or more: never one after the other for nothing.
    before, began = stats()["polls"], time.monotonic()
    for _ in range(100):
        assert stats()["accepted"] == accepted
    most = 1000 + 400 * (time.monotonic() - began)  # where each request takes long
    assert stats()["polls"] - before < most
    # The others are served as descriptors become free.
    for c in conns[1:5]:
        c.close()
    for c in conns[5:]:
        assert c.response().body == b"Hello"
        c.close()
    assert stats()["accepted"] == 30
    first.close()
    assert app.stop() == (0, "")


@pytest.mark.parametrize("whose", ["its own", "inherited"])
def test_connections_that_came_before_it_is_served_do_not_delay_what_is_sent(whose):
    """What is sent in pieces does not wait for acknowledgements, TCP_NODELAY says so."""
    nodelay: runtime.Chan = runtime.Chan(2)

    def handler(w, r):
        conn, _ = w.hijack()
        nodelay.send(conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        conn.close()

    server = http.Server(handler, "127.0.0.1:0")
    if whose == "its own":
        server.listen()
        addr, listeners = server.addr, []
    else:
        plain = socket.create_server(("127.0.0.1", 0))
        plain.setblocking(False)
        listeners = [net.listener_from_fd(plain.detach())]
        addr = str(listeners[0].addr)
    host, port = addr.split(":")
    with (
        socket.create_connection((host, int(port))) as early,
        socket.create_connection((host, int(port))) as other,
    ):
        g = runtime.go(server.serve, *listeners)
        for conn in (early, other):
            conn.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            assert nodelay.recv(timeout=60) != 0
        assert server.shutdown(60)
        g.join()
