"""Listeners."""

import os
import socket
import subprocess
import sys
import threading

import pytest

import runtime
from runtime import net
from runtime._core import NetFD

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0
SOON = 0.02


def test_accept_deadline_ends_the_wait(parked):
    with net.listen("tcp", "127.0.0.1:0") as listener:
        listener.set_deadline(SOON)
        with pytest.raises(TimeoutError, match="accept: the time is up"):
            listener.accept()
        listener.set_deadline(None)
        g = runtime.go(listener.accept)
        parked(g)
        listener.set_deadline(0)
        with pytest.raises(TimeoutError):
            g.join(NEVER)


def test_close_wakes_everybody_who_accepts(parked):
    listener = net.listen("tcp", "127.0.0.1:0")
    goroutines = [runtime.go(listener.accept) for _ in range(3)]
    parked(*goroutines)
    listener.close()
    listener.close()
    assert listener.closed
    for g in goroutines:
        with pytest.raises(net.ClosedError, match="accept: use of closed network connection"):
            g.join(NEVER)
    with pytest.raises(net.ClosedError):
        listener.accept()
    with pytest.raises(net.ClosedError):
        listener.fileno()


def test_iteration_ends_when_the_listener_is_closed(parked):
    listener = net.listen("tcp", "127.0.0.1:0")

    def serve():
        count = 0
        for conn in listener:
            conn.close()
            count += 1
        return count

    g = runtime.go(serve)
    for _ in range(3):
        with net.dial("tcp", str(listener.addr)) as conn:
            assert conn.read() == b""
    parked(g)
    listener.close()
    assert g.join(NEVER) == 3


def test_several_goroutines_share_a_listener(parked):
    with net.listen("tcp", "127.0.0.1:0") as listener:
        goroutines = [runtime.go(listener.accept) for _ in range(5)]
        parked(*goroutines)
        clients = [net.dial("tcp", str(listener.addr)) for _ in goroutines]
        servers = [g.join(NEVER) for g in goroutines]
        assert {c.local_addr for c in clients} == {s.remote_addr for s in servers}
        for conn in clients + servers:
            conn.close()


def test_stdlib_client_in_a_thread_is_served():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        answers = []

        def client():
            with socket.create_connection(listener.addr, timeout=NEVER) as s:
                s.sendall(b"hello")
                s.shutdown(socket.SHUT_WR)
                answers.append(s.recv(100))

        thread = threading.Thread(target=client)
        thread.start()
        with listener.accept() as conn:
            assert conn.read_exactly(5) == b"hello"
            assert conn.read() == b""
            conn.write(b"bye")
        thread.join()
        assert answers == [b"bye"]


def test_accept_in_a_plain_thread():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        accepted = runtime.Chan(1)
        thread = threading.Thread(target=lambda: accepted.send(listener.accept()))
        thread.start()
        with net.dial("tcp", str(listener.addr)) as conn, accepted.recv(NEVER) as peer:
            assert conn.local_addr == peer.remote_addr
        thread.join()


def test_port_in_use_names_the_address():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        with pytest.raises(OSError, match=str(listener.addr)) as e:
            net.listen("tcp", str(listener.addr))
        assert e.value.strerror == "bind: Address already in use"


def test_address_that_is_not_ours_is_named():
    with pytest.raises(OSError, match=r"192\.0\.2\.1:80"):
        net.listen("tcp", "192.0.2.1:80")


def test_reuse_port_shares_the_port():
    with (
        net.listen("tcp", "127.0.0.1:0", reuse_port=True) as one,
        net.listen("tcp", str(one.addr), reuse_port=True) as other,
    ):
        assert one.addr == other.addr


@pytest.mark.parametrize(
    ("network", "address", "host"),
    [
        ("tcp", ":0", "::"),
        ("tcp4", ":0", "0.0.0.0"),
        ("tcp6", ":0", "::"),
        ("tcp", "0.0.0.0:0", "0.0.0.0"),
        ("tcp", "[::1]:0", "::1"),
        ("tcp", "localhost:0", "127.0.0.1"),
        ("tcp", "127.0.0.1:", "127.0.0.1"),
    ],
)
def test_host_decides_where_it_listens(network, address, host):
    with net.listen(network, address) as listener:
        assert listener.addr.host == host
        assert listener.addr.port > 0
        assert repr(listener) == f"<Listener tcp {listener.addr}>"


def test_listener_for_both_families_shows_plain_ipv4_peers():
    with (
        net.listen("tcp", ":0") as listener,
        net.dial("tcp4", f":{listener.addr.port}") as client,
        listener.accept() as server,
    ):
        assert server.remote_addr == client.local_addr
        assert server.remote_addr.host == "127.0.0.1"


def test_listener_for_ipv6_only_refuses_ipv4():
    with net.listen("tcp6", "[::]:0") as listener, pytest.raises(ConnectionRefusedError):
        net.dial("tcp4", f":{listener.addr.port}")


@pytest.mark.parametrize(
    ("network", "address", "message"),
    [
        ("sctp", ":0", "unknown network sctp"),
        ("tcp", "localhost", "address localhost: missing port in address"),
        ("tcp", ":70000", "address 70000: invalid port"),
        ("tcp", ":-1", "address -1: invalid port"),
        ("tcp", ":no-such-service", "lookup tcp/no-such-service: unknown port"),
        ("tcp4", "[::1]:0", "address ::1: no suitable address found"),
        ("tcp6", "127.0.0.1:0", "address 127.0.0.1: no suitable address found"),
        ("tcp", "[fe80::1%nowhere]:0", "address fe80::1%nowhere: no such network interface"),
        ("unix", "", "missing path of a unix socket"),
        ("unix", "/" + 200 * "x", "path too long"),
    ],
)
def test_senseless_address_is_one_clear_line(network, address, message):
    for function in (net.listen, net.dial):
        with pytest.raises(net.AddrError) as e:
            function(network, address)
        assert message in str(e.value)
        assert isinstance(e.value, OSError)
        assert isinstance(e.value, ValueError)


def test_backlog_is_passed_on():
    with net.listen("tcp", "127.0.0.1:0", backlog=7) as listener:
        # tcpi_sacked, which is the limit in a listener.
        with socket.socket(fileno=os.dup(listener.fileno())) as s:
            info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert int.from_bytes(info[28:32], sys.byteorder) == 7


# ---- unix ----


def test_unix_listener_removes_its_file(tmp_path):
    path = str(tmp_path / "socket")
    with net.listen("unix", path) as listener:
        assert str(listener.addr) == path
        with net.dial("unix", path) as client, listener.accept() as server:
            client.write(b"hello")
            assert server.read() == b"hello"
            assert client.remote_addr == server.local_addr == net.UnixAddr(path)
            assert server.remote_addr == net.UnixAddr("")
        with pytest.raises(OSError, match="socket"):
            net.listen("unix", path)
    assert not os.path.exists(path)
    with pytest.raises(FileNotFoundError, match="socket"):
        net.dial("unix", path)


def test_unix_listener_whose_file_is_gone_closes(tmp_path):
    path = str(tmp_path / "socket")
    with net.listen("unix", path):
        os.unlink(path)


def test_unix_abstract_name_needs_no_file():
    name = f"@gosched-test-{os.getpid()}"
    with (
        net.listen("unix", name) as listener,
        net.dial("unix", name) as client,
        listener.accept() as server,
    ):
        assert str(listener.addr) == name
        assert str(client.remote_addr) == name
        client.write(b"x")
        assert server.read() == b"x"


# ---- shortages and misuse ----

EMFILE = """
import resource, socket
import runtime
from runtime import net

listener = net.listen("tcp", "127.0.0.1:0")
with net.dial("tcp", str(listener.addr)) as conn:  # everything is loaded and registered
    listener.accept().close()
runtime.sleep(0.001)
waiting = socket.create_connection(listener.addr)
spare = socket.socket()
spare.setblocking(False)
limit = waiting.fileno() + 16
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
hoard = []
try:
    while True:
        hoard.append(socket.socket())
except OSError:
    pass
g = runtime.go(listener.accept)
while g.wait_reason != "IO wait":  # it pauses: there is something to accept
    assert not g.done()
    runtime.gosched()
hoard.pop().close()
conn = g.join(50)
waiting.send(b"x")
assert conn.read() == b"x"

assert spare.connect_ex(listener.addr) in (0, 115)
g = runtime.go(listener.accept)
while g.wait_reason != "IO wait":
    assert not g.done()
    runtime.gosched()
listener.close()  # ends the pause
try:
    g.join(50)
except net.ClosedError:
    print("ok")
conn.close()
"""


def test_accept_waits_while_there_are_too_many_open_files():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EMFILE], capture_output=True, text=True, timeout=110
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_accept_of_what_does_not_listen_is_an_error():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        with net.dial("tcp", str(listener.addr)) as conn, pytest.raises(OSError):
            conn.accept()
        listener.accept().close()


def test_accept_of_another_type_is_refused():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        fd = NetFD(os.dup(listener.fileno()))
        for wrong in (int, 1, "NetFD"):
            with pytest.raises(TypeError):
                fd.accept(wrong)
        with net.dial("tcp", str(listener.addr)):
            conn = fd.accept()
            assert type(conn) is NetFD
            conn.close()
        fd.close()


@pytest.mark.parametrize(
    ("make", "network", "address"),
    [
        (net.listen, "tcp", "127.0.0.1:0"),
        (net.listen, "unix", "@gosched-test-control"),
        (net.listen_packet, "udp", "127.0.0.1:0"),
        (net.listen_packet, "unixgram", "@gosched-test-control"),
    ],
)
def test_error_of_the_control_function_comes_through(make, network, address):
    error = OSError("of the program's own")

    def control(network, address, fd):
        raise error

    with pytest.raises(OSError) as e:
        make(network, address, control=control)
    assert e.value is error
