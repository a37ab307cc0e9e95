"""Datagrams: UDP and unixgram sockets, and connections that keep message boundaries."""

import errno
import os
import socket
import subprocess

import pytest

import runtime
from runtime import net
from runtime._core import NetFD

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0


def ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def server():
    with net.listen_packet("udp", "127.0.0.1:0") as conn:
        yield conn


def test_datagram_is_answered_at_the_senders_address(server, parked):
    with net.listen_packet("udp4", "127.0.0.1:0") as client:
        g = runtime.go(server.recv_from)
        parked(g)
        assert client.send_to(b"ping", server.local_addr) == 4
        data, sender = g.join(NEVER)
        assert (data, sender) == (b"ping", client.local_addr)
        assert isinstance(sender, net.UDPAddr)
        assert sender.network == "udp"
        server.send_to(b"pong", sender)
        assert client.recv_from() == (b"pong", server.local_addr)


def test_addresses_are_taken_in_any_form(server):
    host, port = server.local_addr
    with net.listen_packet("udp", "127.0.0.1:0") as client:
        for address in (server.local_addr, (host, port), f"{host}:{port}", server.getsockname()):
            client.send_to(b"x", address)
            assert server.recv_from()[0] == b"x"


@pytest.mark.parametrize(
    "address",
    [
        ("localhost", 1),
        ("127.0.0.1", -1),
        ("127.0.0.1", 65536),
        ("127.0.0.1",),
        ("::1", 1),
        (b"127.0.0.1", "1"),
        ("", 1),
        17,
        "127.0.0.1",
        ("127.0.0.1\0", 1),
    ],
)
def test_address_that_is_none_is_a_value_error(server, address):
    with pytest.raises(ValueError):
        server.send_to(b"x", address)


def test_send_to_nobody_is_an_error(server):
    with pytest.raises(OSError, match=r"send_to: .*[Dd]estination") as e:
        server.send_to(b"x", None)
    assert e.value.errno == errno.EDESTADDRREQ


@needs_ipv6
def test_ipv6_and_mapped_ipv4_addresses():
    with (
        net.listen_packet("udp", ":0") as server,
        net.listen_packet("udp6", "[::1]:0") as six,
        net.listen_packet("udp4", "127.0.0.1:0") as four,
    ):
        port = server.local_addr.port
        six.send_to(b"6", ("::1", port))
        data, sender = server.recv_from()
        assert (data, sender) == (b"6", six.local_addr)
        server.send_to(b"six", sender)
        assert six.recv_from()[0] == b"six"
        four.send_to(b"4", ("127.0.0.1", port))
        data, sender = server.recv_from()
        assert (data, sender) == (b"4", four.local_addr)
        server.send_to(b"four", sender)  # an IPv4 address by a socket for both
        assert four.recv_from() == (b"four", ("127.0.0.1", port))
        with pytest.raises(ValueError):
            four.send_to(b"x", six.local_addr)


@needs_ipv6
def test_zone_of_an_ipv6_address_is_understood():
    with net.listen_packet("udp6", "[::1]:0") as conn:
        port = conn.local_addr.port
        for zone in ("lo", "1"):
            conn.send_to(b"x", (f"::1%{zone}", port))
            assert conn.recv_from()[0] == b"x"
        for zone in ("", "no-such-interface"):
            with pytest.raises(ValueError):
                conn.send_to(b"x", (f"::1%{zone}", port))


def test_connected_socket_reads_and_writes(server, parked):
    with net.dial("udp", str(server.local_addr)) as conn:
        assert isinstance(conn, net.UDPConn)
        assert conn.remote_addr == server.local_addr
        assert conn.write(b"one") == 3
        assert conn.send_to(b"two", None) == 3
        assert conn.write([b"th", b"", b"ree"]) == 5  # one datagram
        assert [server.recv_from()[0] for _ in range(3)] == [b"one", b"two", b"three"]
        g = runtime.go(conn.read)
        parked(g)
        server.send_to(b"answer", conn.local_addr)
        assert g.join(NEVER) == b"answer"


def test_empty_datagram_is_one(server):
    with net.dial("udp", str(server.local_addr)) as conn:
        for send in (
            lambda: conn.write(b""),
            lambda: conn.write([]),
            lambda: conn.write([b"", b""]),
            lambda: conn.send_to(b"", None),
        ):
            assert send() == 0
            assert server.recv_from() == (b"", conn.local_addr)


def test_long_datagram_is_cut(server):
    with net.dial("udp", str(server.local_addr)) as conn:
        conn.write(b"abcdef")
        conn.write(b"next")
        assert server.recv_from(3)[0] == b"abc"
        assert server.recv_from(100)[0] == b"next"
        conn.write(b"abcdef")
        assert server.recv_from(0)[0] == b""
        with pytest.raises(ValueError):
            server.recv_from(-1)


def test_recv_from_into_fills_a_part_of_the_buffer(server, parked):
    buffer = bytearray(b"........")
    with net.dial("udp", str(server.local_addr)) as conn:
        g = runtime.go(server.recv_from_into, buffer)
        parked(g)
        conn.write(b"abc")
        assert g.join(NEVER) == (3, conn.local_addr)
        assert buffer == b"abc....."
    with pytest.raises(BufferError):
        server.recv_from_into(b"read-only")


def test_datagram_that_is_too_long_is_refused(server):
    with net.dial("udp", str(server.local_addr)) as conn:
        with pytest.raises(OSError, match="write: ") as e:
            conn.write(b"x" * 70_000)
        assert e.value.errno == errno.EMSGSIZE
        with pytest.raises(OSError) as e:
            conn.write([b"x"] * 2000)  # more buffers than one call takes
        assert e.value.errno == errno.EMSGSIZE


def test_refused_datagram_is_told_the_reader():
    with net.listen_packet("udp", "127.0.0.1:0") as gone:
        address = str(gone.local_addr)
    with net.dial("udp", address) as conn:
        conn.write(b"x")
        with pytest.raises(ConnectionRefusedError, match="read: "):
            conn.read()


def test_deadline_and_close_end_the_wait(server, parked):
    g = runtime.go(server.recv_from)
    parked(g)
    server.set_deadline(-1)
    with pytest.raises(TimeoutError, match="recv_from"):
        g.join(NEVER)
    with pytest.raises(TimeoutError):
        server.send_to(b"x", server.local_addr)
    server.set_deadline(None)
    waiting = [runtime.go(server.recv_from), runtime.go(server.recv_from_into, bytearray(1))]
    parked(*waiting)
    server.close()
    for g in waiting:
        with pytest.raises(net.ClosedError):
            g.join(NEVER)
    for use in (server.recv_from, lambda: server.send_to(b"x", ("127.0.0.1", 1))):
        with pytest.raises(net.ClosedError):
            use()


def test_many_datagrams_by_several_receivers_are_taken_once(server):
    # Fewer than its buffer holds: none is lost.
    sent = [b"%d" % i for i in range(100)]

    def take(n):
        return [server.recv_from()[0] for _ in range(n)]

    gs = [runtime.go(take, 25) for _ in range(4)]
    with net.dial("udp", str(server.local_addr)) as conn:
        for data in sent:
            conn.write(data)
            runtime.gosched()
        assert sorted(d for g in gs for d in g.join(NEVER)) == sorted(sent)


def test_reuse_port_and_control_are_set_before_bind():
    seen = []

    def control(network, address, fd):
        with socket.socket(fileno=os.dup(fd)) as s:
            seen.append((network, address, s.getsockname()))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)

    with net.listen_packet("udp", "127.0.0.1:0", reuse_port=True, control=control) as one:
        assert seen == [("udp4", "127.0.0.1:0", ("0.0.0.0", 0))]
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        with net.listen_packet("udp", str(one.local_addr), reuse_port=True):
            pass
        with pytest.raises(OSError, match=str(one.local_addr)):
            net.listen_packet("udp", str(one.local_addr))

    def refuse(*args):
        raise KeyError(args[0])

    with pytest.raises(KeyError):
        net.listen_packet("udp", "127.0.0.1:0", control=refuse)


@pytest.mark.parametrize("network", ["tcp", "unix", "", "udp7"])
def test_network_without_datagrams_is_refused(network):
    with pytest.raises(net.AddrError, match="unknown network"):
        net.listen_packet(network, "127.0.0.1:0")


# ---- unixgram ----


def test_unixgram_finds_its_way_back(tmp_path, parked):
    path = str(tmp_path / "server")
    with (
        net.listen_packet("unixgram", path) as server,
        net.listen_packet("unixgram", str(tmp_path / "client")) as client,
    ):
        assert server.local_addr == net.UnixAddr(path)
        g = runtime.go(server.recv_from)
        parked(g)
        client.send_to(b"ping", net.UnixAddr(path))
        data, sender = g.join(NEVER)
        assert (data, sender) == (b"ping", client.local_addr)
        server.send_to(b"pong", sender)
        buffer = bytearray(9)
        assert client.recv_from_into(buffer) == (4, server.local_addr)


def test_unixgram_of_nobody_and_abstract_names():
    name = f"@gosched-gram-{os.getpid()}"
    with (
        net.listen_packet("unixgram", name) as server,
        net.dial("unixgram", name) as conn,
        net.listen_packet("unixgram", "") as other,
    ):
        conn.write(b"from a connection")
        assert server.recv_from() == (b"from a connection", net.UnixAddr(""))
        other.send_to(b"x", name)
        assert server.recv_from() == (b"x", net.UnixAddr(""))
        with pytest.raises(ConnectionRefusedError):
            other.send_to(b"x", name + "-gone")
        with pytest.raises(net.AddrError):
            other.send_to(b"x", "")


def test_unixgram_sender_waits_while_the_receivers_queue_is_full(tmp_path, parked):
    path = str(tmp_path / "s")
    with net.listen_packet("unixgram", path) as server, net.dial("unixgram", path) as conn:

        def send():
            for i in range(1000):
                conn.write(b"%d" % i)

        g = runtime.go(send)
        parked(g)
        assert [server.recv_from()[0] for _ in range(1000)] == [b"%d" % i for i in range(1000)]
        g.join(NEVER)


# ---- unixpacket ----


def test_unixpacket_keeps_message_boundaries(tmp_path):
    path = str(tmp_path / "s")
    with net.listen("unixpacket", path) as listener, net.dial("unixpacket", path) as client:
        assert isinstance(client, net.UnixConn)
        with listener.accept() as server:
            assert isinstance(server, net.UnixConn)
            client.write(b"one")
            client.write([b"t", b"wo"])
            client.write(b"abcdef")
            assert [server.read(), server.read(), server.read(3)] == [b"one", b"two", b"abc"]
            client.close()
            assert server.read() == b""
    assert not os.path.exists(path)


def test_unixpacket_writer_waits_for_the_reader(tmp_path, parked):
    path = str(tmp_path / "s")
    message = b"x" * 50_000
    with (
        net.listen("unixpacket", path) as listener,
        net.dial("unixpacket", path) as client,
        listener.accept() as server,
    ):

        def send():
            for _ in range(50):
                client.write(message)

        g = runtime.go(send)
        parked(g)
        for _ in range(50):
            assert server.read() == message
        g.join(NEVER)


# ---- others ----


def test_netcat_speaks_udp(server):
    with subprocess.Popen(
        ["nc", "-u", "-w", "60", *map(str, server.local_addr)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as nc:
        nc.stdin.write(b"ping\n")
        nc.stdin.flush()
        server.set_deadline(NEVER)
        data, sender = server.recv_from()
        assert data == b"ping\n"
        server.send_to(b"pong\n", sender)
        out = NetFD(os.dup(nc.stdout.fileno()))
        assert out.read() == b"pong\n"
        out.close()
        nc.kill()
