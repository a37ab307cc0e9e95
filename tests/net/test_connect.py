"""NetFD's own sockets: made, bound and connected without the socket module."""

import errno
import fcntl
import os
import socket

import pytest

import runtime
from runtime import net
from runtime._core import NetFD
from runtime._net import resolve

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0


@pytest.fixture
def listener():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        yield listener


def new_socket(listener, peer=None):
    peer = tuple(listener.addr) if peer is None else peer
    return net.Conn.new_socket(socket.AF_INET, socket.SOCK_STREAM, peer)


def test_new_socket_is_neither_blocking_nor_inherited(listener):
    conn = net.dial("tcp", str(listener.addr))
    assert fcntl.fcntl(conn.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK
    assert fcntl.fcntl(conn.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    conn.close()


def test_new_socket_of_an_unknown_family_is_an_os_error():
    with pytest.raises(OSError, match="socket: ") as caught:
        NetFD.new_socket(-1, socket.SOCK_STREAM, None)
    assert caught.value.errno in (errno.EAFNOSUPPORT, errno.EINVAL)


def test_connected_socket_carries_data_both_ways(listener):
    conn = new_socket(listener)
    assert conn.peer == tuple(listener.addr)
    conn.connect()
    with conn, listener.accept(NEVER) as other:
        conn.write(b"there")
        assert other.read_exactly(5) == b"there"
        other.write(b"back")
        assert conn.read_exactly(4) == b"back"
        other.close()
        assert conn.read() == b""  # the end is seen after a short read


def test_connect_to_what_is_connected_already_changes_nothing(listener):
    conn = new_socket(listener)
    conn.connect()
    conn.connect(0)
    conn.wait_connected(0)
    conn.close()


@pytest.mark.parametrize("peer", [None, "127.0.0.1:80", ("example.org", 80), ("127.0.0.1", -1)])
def test_connect_to_what_is_no_address_is_a_value_error(listener, peer):
    conn = net.Conn.new_socket(socket.AF_INET, socket.SOCK_STREAM, peer)
    with pytest.raises(ValueError, match="no address"):
        conn.connect()
    conn.close()


def test_closed_socket_neither_binds_nor_connects(listener):
    conn = new_socket(listener)
    conn.close()
    with pytest.raises(net.ClosedError, match="connect"):
        conn.connect()
    with pytest.raises(net.ClosedError, match="bind"):
        conn.bind(("127.0.0.1", 0))


def test_bind_gives_the_local_address(listener):
    conn = new_socket(listener)
    conn.bind(("127.0.0.1", 0))
    assert conn.getsockname()[1] != 0
    with pytest.raises(OSError, match="bind: "):
        conn.bind(("127.0.0.1", 0))  # once only
    with pytest.raises(ValueError, match="no address"):
        conn.bind(("nowhere.invalid", 0))
    conn.close()


def test_refused_connect_says_so():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        conn = net.Conn.new_socket(socket.AF_INET, socket.SOCK_STREAM, s.getsockname())
        with pytest.raises(ConnectionRefusedError, match="connect: "):
            conn.connect()
        conn.close()


def test_close_wakes_who_waits_to_be_connected():
    # Nobody answers: the queue of the listener is full.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(3):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(full.getsockname())
            fillers.append(s)
        conn = net.Conn.new_socket(socket.AF_INET, socket.SOCK_STREAM, full.getsockname())
        g = runtime.go(conn.connect)
        while g.wait_reason != "IO wait":
            runtime.gosched()
        conn.close()
        with pytest.raises(net.ClosedError):
            g.join(NEVER)
        for s in fillers:
            s.close()


@pytest.mark.parametrize("local", [":0", "127.0.0.1:0", "0.0.0.0:0"])
def test_dial_from_any_address_of_this_end(listener, local):
    with net.dial("tcp", str(listener.addr), local_addr=local) as conn:
        assert conn.local_addr.host == "127.0.0.1"


def test_connected_datagram_socket_knows_its_peer():
    with (
        net.listen_packet("udp", "127.0.0.1:0") as server,
        net.dial("udp", str(server.local_addr)) as conn,
    ):
        conn.write(b"question")
        data, sender = server.recv_from()
        assert data == b"question"
        assert sender == conn.local_addr
        server.send_to(b"answer", sender)
        assert conn.read() == b"answer"


@pytest.mark.parametrize(
    ("host", "sockaddr"),
    [
        ("127.0.0.1", ("127.0.0.1", 7)),
        ("::1", ("::1", 7, 0, 0)),
        ("0:0:0::1", ("::1", 7, 0, 0)),
        ("2001:DB8::A", ("2001:db8::a", 7, 0, 0)),
        ("fe80::1%1", ("fe80::1", 7, 0, 1)),
    ],
)
def test_literal_addresses_are_decoded(host, sockaddr):
    assert resolve.literal(host, 7).sockaddr == sockaddr


@pytest.mark.parametrize(
    "host",
    [
        *("", "1.2.3", "1.2.3.4.5", "01.2.3.4", "256.1.1.1", " 127.0.0.1", "127.0.0.1\0"),
        *("\u0661.2.3.4", "\ud800", "\ud800::"),
        *("::1%", "::1%a%b", ":::", "1::2::3", "::g", "[::1]", "::1\0"),
    ],
)
def test_what_is_no_literal_address_is_a_name(host):
    assert resolve.literal(host, 7) is None
