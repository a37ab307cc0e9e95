"""Dialling: addresses, names, time-outs."""

import socket
import threading
import time

import pytest

import runtime
from runtime import net

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0
SOON = 0.05


@pytest.fixture
def listener():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        yield listener


def refused_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answer_with(monkeypatch, *addresses):
    def getaddrinfo(host, port, family=0, type=0):
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_refused_connection_names_the_address():
    port = refused_port()
    with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{port}"):
        net.dial("tcp", f"127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["", "127.0.0.1", "localhost", "0.0.0.0"])
def test_local_hosts_are_found(listener, host):
    with net.dial("tcp", f"{host}:{listener.addr.port}", timeout=NEVER) as conn:
        assert conn.remote_addr.port == listener.addr.port
        listener.accept().close()


def test_dial_over_ipv6():
    with (
        net.listen("tcp6", "[::1]:0") as listener,
        net.dial("tcp", f"[0:0::0001]:{listener.addr.port}") as client,
        listener.accept() as server,
    ):
        assert client.remote_addr == listener.addr
        assert str(server.remote_addr).startswith("[::1]:")


def test_other_goroutines_run_while_a_name_is_looked_up(listener, monkeypatch):
    lookup = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(*args):
        assert threading.current_thread() is not threading.main_thread()
        assert lookup.wait(NEVER)
        return real("127.0.0.1", *args[1:])

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    g = runtime.go(net.dial, "tcp", f"some.name:{listener.addr.port}")
    while g.wait_reason != "chan receive":
        runtime.gosched()
    lookup.set()
    g.join(NEVER).close()
    listener.accept().close()


def test_unknown_name_is_named(monkeypatch):
    def getaddrinfo(*args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror, match=r"not known.*no\.such\.name"):
        net.dial("tcp", "no.such.name:80")


def test_name_that_cannot_be_encoded_is_an_os_error():
    with pytest.raises(OSError, match="lookup"):
        net.dial("tcp", "a" * 64 + ".example:80")


def test_next_address_is_tried_when_one_fails(listener, monkeypatch):
    answer_with(monkeypatch, "127.0.0.2", "127.0.0.1")
    with net.dial("tcp", f"two.addresses:{listener.addr.port}") as conn:
        assert conn.remote_addr.host == "127.0.0.1"
        listener.accept().close()


def test_first_error_is_raised_when_all_addresses_fail(monkeypatch):
    answer_with(monkeypatch, "127.0.0.1", "127.0.0.2")
    with pytest.raises(ConnectionRefusedError, match=r"two\.addresses"):
        net.dial("tcp", f"two.addresses:{refused_port()}")


def test_lookup_that_takes_too_long_times_out(monkeypatch):
    lookup, ended = threading.Event(), threading.Event()

    def getaddrinfo(*args):
        lookup.wait(NEVER)
        ended.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(TimeoutError, match=r"lookup slow\.name"):
        net.dial("tcp", "slow.name:80", timeout=SOON)
    lookup.set()
    assert ended.wait(NEVER)


def test_connect_that_takes_too_long_times_out():
    # A listener whose queue is full ignores who else comes.
    with net.listen("tcp", "127.0.0.1:0", backlog=0) as listener:
        queue = []
        try:
            with pytest.raises(TimeoutError, match=str(listener.addr)):
                while True:
                    queue.append(net.dial("tcp", str(listener.addr), timeout=SOON))
        finally:
            for conn in queue:
                conn.close()


def test_timeout_does_not_limit_the_connection(listener):
    with net.dial("tcp", str(listener.addr), timeout=SOON) as conn, listener.accept() as server:
        start = time.monotonic()
        runtime.sleep(2 * SOON)
        assert time.monotonic() - start >= 2 * SOON
        server.write(b"x")
        assert conn.read() == b"x"
        conn.write(b"x")


def test_unix_dial_waits_for_room_in_the_queue(tmp_path):
    path = str(tmp_path / "socket")
    with net.listen("unix", path, backlog=0) as listener:
        first = net.dial("unix", path)
        with pytest.raises(TimeoutError, match="socket"):
            net.dial("unix", path, timeout=SOON)
        g = runtime.go(net.dial, "unix", path)
        while g.wait_reason != "sleep":
            runtime.gosched()
        listener.accept().close()
        g.join(NEVER).close()
        listener.accept().close()
        first.close()


def test_dial_in_a_plain_thread(listener):
    done = runtime.Chan(1)

    def dial():
        with net.dial("tcp", f"localhost:{listener.addr.port}", timeout=NEVER) as conn:
            conn.write(b"x")
            done.send(conn.read())

    thread = threading.Thread(target=dial)
    thread.start()
    with listener.accept() as conn:
        conn.write(conn.read())
    assert done.recv(NEVER) == b"x"
    thread.join()
