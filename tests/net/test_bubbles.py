"""The network in bubbles of runtime.testing: pipes have their clock, all else real time."""

import socket
import threading
import time

import pytest
from certs import Authority

import runtime
from runtime import net, testing
from runtime.time import now

HOUR = 3600.0
NEVER = 60.0
SOON = 0.02


def times_out(fn, *args):
    """How long it took, by the clock of the caller."""
    began = now()
    with pytest.raises(TimeoutError):
        fn(*args)
    return now() - began


# ---- pipes ----


@testing.bubble()
def test_deadlines_of_pipes_are_on_the_clock_of_the_bubble():
    a, b = net.pipe()
    a.set_read_deadline(HOUR)
    assert times_out(a.read) == HOUR
    a.set_read_deadline(HOUR)
    runtime.sleep(HOUR / 2)
    assert times_out(a.read_exactly, 10) == HOUR / 2
    a.set_write_deadline(HOUR)
    gs = [runtime.go(times_out, a.write, data) for data in (b"x", b"waits for its turn")]
    assert [g.join() for g in gs] == [HOUR, HOUR]
    a.set_deadline(None)
    g = runtime.go(a.write, b"in time")
    assert b.read() == b"in time"
    g.join()


@testing.bubble()
def test_users_of_a_pipe_are_durably_blocked():
    a, b = net.pipe()
    got = []
    reader = runtime.go(lambda: got.append(b.read()))
    writers = [runtime.go(b.write, b"x") for _ in range(2)]
    testing.wait()
    assert [g.state for g in (reader, *writers)] == ["waiting"] * 3
    a.write(b"hello")
    testing.wait()
    assert got == [b"hello"]
    a.close()
    for g in writers:
        with pytest.raises(BrokenPipeError):
            g.join()


def test_pipe_that_nobody_uses_is_a_deadlock():
    def body():
        _, b = net.pipe()
        b.read()

    with pytest.raises(runtime.DeadlockError):
        testing.bubble(body)


@testing.bubble()
def test_pipe_is_served_while_the_clock_jumps():
    a, b = net.pipe()

    def serve():
        with b:
            while data := b.read():
                runtime.sleep(HOUR)
                b.write(data.upper())

    g = runtime.go(serve)
    for word in (b"one", b"two"):
        a.set_deadline(HOUR + 1)
        a.write(word)
        assert a.read() == word.upper()
    a.set_deadline(HOUR - 1)
    a.write(b"three")
    assert times_out(a.read) == HOUR - 1
    a.close()
    with pytest.raises(BrokenPipeError):
        g.join()
    assert now() == 3 * HOUR


def test_deadlines_of_tls_are_on_the_clock_of_its_connection(tmp_path):
    authority = Authority(tmp_path)
    contexts = authority.client_context(), authority.server_context()

    @testing.bubble()
    def body():
        a, b = net.pipe()
        alone = net.tls.client(b, contexts[0], server_hostname="localhost")
        g = runtime.go(times_out, alone.handshake, HOUR)
        a.read()  # takes the greeting
        assert g.join() == HOUR

        a, b = net.pipe()
        client = net.tls.client(a, contexts[0], server_hostname="localhost")
        server = net.tls.server(b, contexts[1])
        g = runtime.go(server.write, b"hello")
        assert client.read_exactly(5) == b"hello"
        g.join()
        client.set_read_deadline(HOUR)
        runtime.sleep(HOUR / 2)
        client.set_write_deadline(2 * HOUR)  # leaves the other one alone
        assert times_out(client.read) == HOUR / 2

    body()


# ---- sockets ----


@testing.bubble()
def test_sockets_wait_in_real_time():
    began = time.monotonic()
    with net.listen("tcp", "127.0.0.1:0") as listener:
        assert times_out(listener.accept, SOON) == 0
        with net.dial("tcp", str(listener.addr), timeout=NEVER) as a, listener.accept(NEVER) as b:
            a.set_read_deadline(SOON)
            assert times_out(a.read) == 0
            g = runtime.go(b.write, b"x")
            a.set_read_deadline(NEVER)
            assert a.read() == b"x"
            g.join()
    assert time.monotonic() - began >= 2 * SOON


def test_what_was_made_in_a_bubble_is_used_outside():
    def body():
        listener = net.listen("tcp", "127.0.0.1:0")
        return listener, net.dial("tcp", str(listener.addr))

    listener, client = testing.bubble(body)
    with client, listener.accept(NEVER) as server:
        server.write(b"x")
        assert client.read() == b"x"
    g = runtime.go(listener.accept)
    while g.wait_reason != "IO wait":
        runtime.gosched()
    listener.close()
    with pytest.raises(net.ClosedError):
        g.join(NEVER)


def test_names_are_looked_up_in_real_time(monkeypatch):
    """By one of a bubble and one outside, who share the lookup."""
    begun, go_on, real = threading.Event(), threading.Event(), socket.getaddrinfo

    def getaddrinfo(*args):
        begun.set()
        assert go_on.wait(NEVER)
        return real("127.0.0.1", *args[1:])

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = net.Resolver()
    found = []

    def look_up():
        assert begun.wait(NEVER)
        g = runtime.go(resolver.lookup_host, "a.name")
        while g.wait_reason != "IO wait":
            runtime.gosched()
        go_on.set()
        found.append(g.join(NEVER))

    outside = threading.Thread(target=look_up)

    def body():
        first = runtime.go(resolver.lookup_host, "a.name")
        while not begun.is_set():
            runtime.gosched()
        assert times_out(lambda: resolver.lookup_host("a.name", timeout=SOON)) == 0
        outside.start()
        runtime.blocking(outside.join)
        found.append(first.join())

    testing.bubble(body)
    assert found == [["127.0.0.1"]] * 2


def test_second_address_is_tried_in_real_time(monkeypatch):
    addresses = ["127.0.0.2", "127.0.0.1"]
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *args: [(socket.AF_INET, 1, 6, "", (address, 0)) for address in addresses],
    )
    # The first one does not answer: its queue is full.
    with net.listen("tcp", "127.0.0.1:0") as listener, socket.socket() as silent:
        silent.bind(("127.0.0.2", listener.addr.port))
        silent.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for s in fillers:
            s.setblocking(False)
            s.connect_ex(silent.getsockname())
        began = time.monotonic()

        def body():
            address, resolver = f"a.name:{listener.addr.port}", net.Resolver(cache_time=0)
            with net.dial("tcp", address, timeout=NEVER, resolver=resolver) as conn:
                assert conn.remote_addr.host == "127.0.0.1"
            assert now() == 0
            listener.accept(NEVER).close()

        testing.bubble(body)
        assert time.monotonic() - began >= 0.25
        for s in fillers:
            s.close()
