"""Draining, shutdown callbacks, several listeners, and what a shutdown does to connections."""

from __future__ import annotations

import socket
import threading

import pytest

import runtime
from runtime import context, http, net

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def hello(w, r):
    return "hello"


class Shutdown(threading.Thread):
    """server.shutdown(...) in a thread; join() gives its result."""

    def __init__(self, server: http.Server, *args, **kwargs) -> None:
        super().__init__(daemon=True)
        self.call = lambda: server.shutdown(*args, **kwargs)
        self.start()

    def run(self) -> None:
        self.result = self.call()

    def end(self) -> bool:
        self.join(SAFETY)
        assert not self.is_alive()
        return self.result


# --- draining -------------------------------------------------------------------------------------


def test_drain_delay_goes_on_accepting_and_says_close(serve, wait_until):
    server = serve(lambda w, r: str(server.server.draining), drain_delay=SAFETY)
    with server.connect() as idle:
        r = idle.send(GET).response()
        assert (r.body, r.all("connection")) == (b"False", [])
        shutdown = Shutdown(server.server)
        wait_until("it drains", lambda: server.server.draining)
        for _ in range(3):
            r = server.get()  # on a connection of its own
            assert (r.body, r["connection"]) == (b"True", "close")
        r = idle.send(GET).response()
        assert (r.body, r["connection"]) == (b"True", "close")
        assert idle.ended()
        server.server.close()
        shutdown.end()


def test_drain_delay_is_over_in_time(serve):
    server = serve(hello, drain_delay=0.05)
    assert server.server.draining is False
    assert Shutdown(server.server).end() is True
    assert server.server.draining is True
    server.join()


def test_time_of_shutdown_includes_the_drain_delay(serve):
    gate: runtime.Chan = runtime.Chan()
    server = serve(lambda w, r: gate.recv_ok()[0], drain_delay=SAFETY)
    with server.connect() as c:
        c.send(GET)
        server.until(active=1)
        assert Shutdown(server.server, 0.05).end() is False
        assert c.ended()
        gate.close()


def test_signal_drains_and_a_second_one_does_not_wait(program):
    p = program("app.py", "127.0.0.1:0", '{"drain_delay": 600}')
    with p.connect() as c:
        assert c.send(GET.replace("/ ", "/hello ")).response().status == 200
        p.send_signal(15)
        # Told by the responses: it drains.
        while p.get("/hello").all("connection") != ["close"]:
            pass
        assert p.stop()[0] == 0


@pytest.mark.parametrize("delay", [-1, float("nan")])
def test_drain_delay_must_be_a_time(delay):
    with pytest.raises(ValueError, match="drain_delay"):
        http.Server(hello, drain_delay=delay)


# --- shutdown -------------------------------------------------------------------------------------


def test_shutdown_ends_when_the_context_does(serve):
    gate: runtime.Chan = runtime.Chan()
    server = serve(lambda w, r: gate.recv_ok()[0])
    ctx, cancel = context.with_cancel()
    with server.connect() as c:
        c.send(GET)
        server.until(active=1)
        shutdown = Shutdown(server.server, ctx=ctx)
        server.until_refused()
        cancel()
        assert shutdown.end() is False
        assert c.ended()
        gate.close()


@pytest.mark.parametrize("delay", [0.0, SAFETY])
def test_shutdown_with_a_context_that_has_a_deadline(serve, delay):
    gate: runtime.Chan = runtime.Chan()
    server = serve(lambda w, r: gate.recv_ok()[0], drain_delay=delay)
    with server.connect() as c:
        c.send(GET)
        server.until(active=1)
        with context.with_timeout(None, 0.05) as ctx:
            assert Shutdown(server.server, ctx=ctx).end() is False
        assert c.ended()
        gate.close()


def test_functions_are_called_at_shutdown(serve):
    called: runtime.Chan = runtime.Chan(4)
    server = serve(hello)
    server.server.register_on_shutdown(lambda: called.send("a"))
    server.server.register_on_shutdown(lambda: called.send("b"))
    assert Shutdown(server.server).end() is True
    assert {called.recv(timeout=SAFETY) for _ in range(2)} == {"a", "b"}
    assert Shutdown(server.server).end() is True  # once only
    assert called.try_recv() == (None, False)


def test_function_for_shutdown_must_be_callable():
    with pytest.raises(TypeError, match="callable"):
        http.Server(hello).register_on_shutdown(1)


def test_request_on_its_way_during_shutdown_is_answered(serve):
    """A connection that has just become idle is not reset under a request."""
    server = serve(hello, idle_timeout=None)  # so nobody can say that it is not new
    with server.connect() as c:
        assert c.send(GET).response().status == 200
        server.server._core.begin_shutdown()
        server.until_refused()
        r = c.send(GET).response()
        assert (r.status, r["connection"]) == (200, "close")
        assert c.ended()


def test_shutdown_closes_what_stays_idle(serve):
    server = serve(hello, idle_timeout=None)
    with server.connect() as idle, server.connect() as silent:
        assert idle.send(GET).response().status == 200
        server.until(connections=2)
        assert Shutdown(server.server).end() is True
        assert idle.ended() and silent.ended()


def test_connections_in_the_queue_of_the_listener_are_served(serve):
    """What the kernel has accepted before the shutdown is not reset by it."""
    begun, go_on = runtime.Chan(1), runtime.Chan()

    def handler(w, r):
        if r.path == "/spin":  # nothing is accepted meanwhile
            with runtime.nopreempt():
                begun.send(None)
                while not go_on.closed:
                    pass
        return "served"

    server = http.Server(handler, "127.0.0.1:0")
    before = runtime.gomaxprocs(1)
    try:
        server.listen()
        g = runtime.go(server.serve)
        host, port = server.addr.split(":")
        results: list[bytes] = []

        def client():
            with socket.create_connection((host, int(port)), SAFETY) as spin:
                spin.sendall(GET.replace("/ ", "/spin ").encode())
                begun.recv(timeout=SAFETY)
                waiting = [socket.create_connection((host, int(port)), SAFETY) for _ in range(5)]
                for sock in waiting:
                    sock.sendall(GET.encode())
                shutdown = Shutdown(server)
                while not server.draining:
                    pass
                go_on.close()
                for sock in [spin, *waiting]:
                    with sock:
                        results.append(sock.makefile("rb").read())
                assert shutdown.end() is True

        thread = threading.Thread(target=client)
        thread.start()
        g.join(timeout=SAFETY)
        while thread.is_alive():
            runtime.sleep(0.001)
        assert len(results) == 6
        assert all(r.startswith(b"HTTP/1.1 200") for r in results)
    finally:
        runtime.gomaxprocs(before)


def test_unix_socket_file_of_the_next_server_is_left_alone(serve, tmp_path):
    addr = f"unix:{tmp_path}/socket"
    first = serve(hello, addr)
    first.server.close()
    first.join()
    second = serve(hello, addr)
    first.server.close()
    assert second.get().body == b"hello"


# --- several listeners ----------------------------------------------------------------------------


def in_thread(server, *listeners):
    thread = threading.Thread(target=server.serve, args=listeners, daemon=True)
    thread.start()
    return thread


def test_several_listeners_are_served(tmp_path):
    listeners = [
        net.listen("tcp", "127.0.0.1:0"),
        net.listen("tcp", "127.0.0.1:0"),
        net.listen("unix", f"{tmp_path}/socket"),
    ]
    targets = [str(listener.addr) for listener in listeners]
    server = http.Server(hello, "127.0.0.1:1")
    thread = in_thread(server, *listeners)
    for target in targets:
        if target.startswith("127"):
            host, _, port = target.partition(":")
            sock = socket.create_connection((host, int(port)), SAFETY)
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(SAFETY)
            sock.connect(target)
        with sock:
            sock.sendall(GET.replace("1.1", "1.0").encode())
            assert sock.makefile("rb").read().endswith(b"hello")
    assert server.addr == targets[0]
    assert server.shutdown(SAFETY) is True
    thread.join(SAFETY)
    assert not thread.is_alive()
    assert all(listener.closed for listener in listeners)
    assert not (tmp_path / "socket").exists()
    for listener in listeners:
        listener.close()


def test_listeners_and_the_servers_own_address():
    server = http.Server(hello, "127.0.0.1:0")
    server.listen()
    extra = net.listen("tcp", "127.0.0.1:0")
    addrs = [server.addr, str(extra.addr)]
    thread = in_thread(server, extra)
    for addr in addrs:
        host, port = addr.split(":")
        with socket.create_connection((host, int(port)), SAFETY) as sock:
            sock.sendall(GET.replace("1.1", "1.0").encode())
            assert sock.makefile("rb").read().endswith(b"hello")
    server.close()
    thread.join(SAFETY)


def test_what_is_no_listener_is_refused_and_nothing_is_taken():
    server = http.Server(hello, "127.0.0.1:0")
    good = net.listen("tcp", "127.0.0.1:0")
    with pytest.raises(TypeError, match="listener"):
        server.serve(good, 5)
    assert not good.closed
    closed = net.listen("tcp", "127.0.0.1:0")
    closed.close()
    with pytest.raises(net.ClosedError):
        server.serve(good, closed)
    assert not good.closed
    good.close()
    server.close()


def test_too_many_listeners_close_those_that_were_taken():
    server = http.Server(hello, "127.0.0.1:0")
    listeners = [net.listen("tcp", "127.0.0.1:0") for _ in range(17)]
    with pytest.raises(ValueError, match="at most 16 listeners"):
        server.serve(*listeners)
    assert server.stats()["connections"] == 0
    for listener in listeners:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(str(listener.addr).split(":"), SAFETY)
        listener.close()


# --- handlers that fail ---------------------------------------------------------------------------


def test_failure_is_one_record_and_nothing_is_leaked(serve, caplog):
    def handler(w, r):
        w.headers["X-Secret"] = "1"
        w.write("a secret")
        raise RuntimeError("password=1234")

    r = serve(handler).get("/private?x=1")
    assert (r.status, r.body) == (500, b"Internal Server Error\n")
    assert r.all("x-secret") == []
    assert [rec.getMessage() for rec in caplog.records] == ["a handler failed (GET /private?x=1)"]
