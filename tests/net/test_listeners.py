"""All kinds of listeners are used in the same way."""

import contextlib
import socket

import pytest
from certs import Authority

import runtime
from contexts import Context, Ended
from runtime import net
from waits import until

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0
SOON = 0.02
KINDS = ["tcp", "unix", "unixpacket", "tls", "proxy", "tls over proxy", "descriptor"]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certs")).server_context()


@pytest.fixture(params=KINDS)
def listener(request, context, tmp_path):
    kind = request.param
    network = kind if kind.startswith("unix") else "tcp"
    address = str(tmp_path / "socket") if network != "tcp" else "127.0.0.1:0"
    made = net.listen(network, address)
    if "proxy" in kind:
        made = net.ProxyListener(made, trusted=["127.0.0.1"])
    if "tls" in kind:
        made = net.tls.TLSListener(made, context)
    if kind == "descriptor":
        copy = made.file()
        made.close()
        made = net.listener_from_fd(copy.detach())
    with made:
        yield made


def dial(listener):
    networks = {socket.SOCK_STREAM: "unix", socket.SOCK_SEQPACKET: "unixpacket"}
    with listener.file() as s:
        network = networks[s.type] if s.family == socket.AF_UNIX else "tcp"
    return net.dial(network, str(listener.addr))


def waiting(listener, **limits):
    g = runtime.go(listener.accept, **limits)
    while g.wait_reason != "IO wait":
        assert not g.done()
        runtime.gosched()
    return g


def test_accept_ends_with_its_timeout(listener):
    for limits in ({"timeout": SOON}, {"timeout": 0}, {"timeout": -1}):
        with pytest.raises(TimeoutError):
            listener.accept(**limits)
    with pytest.raises(TimeoutError):
        listener.accept(SOON)
    with dial(listener):
        listener.accept(NEVER).close()


def test_accept_ends_with_its_context(listener):
    ctx = Context()
    g = waiting(listener, ctx=ctx)
    ctx.end()
    with pytest.raises(Ended):
        g.join(NEVER)
    with pytest.raises(Ended):
        listener.accept(ctx=ctx)
    g = waiting(listener, timeout=NEVER, ctx=Context())
    with dial(listener):
        g.join(NEVER).close()


def test_accept_ends_with_the_deadline_and_its_cancel(listener):
    listener.set_deadline(0)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.set_deadline(None)
    g = waiting(listener)
    listener.set_deadline(SOON)
    with pytest.raises(TimeoutError):
        g.join(NEVER)
    listener.set_deadline(None)
    g = waiting(listener)
    g.cancel()
    with pytest.raises(runtime.Cancelled):
        g.join(NEVER)
    with dial(listener):
        listener.accept(NEVER).close()


def test_close_ends_accept_and_iteration(listener):
    def count():
        n = 0
        for conn in listener:
            conn.close()
            n += 1
        return n

    counter = runtime.go(count)
    for _ in range(3):
        with dial(listener) as conn:
            assert conn.read() == b""
    g = runtime.go(listener.accept)
    while not all(x.wait_reason == "IO wait" for x in (g, counter)):
        runtime.gosched()
    assert not listener.closed
    listener.close()
    listener.close()
    assert listener.closed and "closed" in repr(listener)
    assert counter.join(NEVER) == 3
    with pytest.raises(net.ClosedError):
        g.join(NEVER)
    for use in (listener.accept, listener.fileno, listener.file, lambda: listener.set_deadline(1)):
        with pytest.raises(net.ClosedError):
            use()


def test_descriptor_can_be_had_and_duplicated(listener):
    with listener.file() as s:
        assert s.fileno() != listener.fileno()
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert not s.get_inheritable()
        with net.listener_from_fd(s.detach()) as again, dial(listener), again.accept(NEVER):
            pass


def test_tls_listener_takes_the_options_of_listen(context):
    seen = []
    with (
        net.tls.listen(
            "tcp",
            "127.0.0.1:0",
            context,
            reuse_port=True,
            backlog=5,
            keep_alive=77,
            control=lambda network, address, fd: seen.append((network, address)),
        ) as one,
        net.tls.listen("tcp", str(one.addr), context, reuse_port=True) as other,
    ):
        assert seen == [("tcp4", "127.0.0.1:0")]
        gs = [runtime.go(listener.accept) for listener in (one, other)]
        with net.dial("tcp", str(one.addr)):
            until(lambda: any(g.done() for g in gs))
            for g, seconds in zip(gs, (77, 15), strict=True):
                g.cancel()
                with contextlib.suppress(runtime.Cancelled), g.join(NEVER) as conn:
                    option = conn.conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                    assert option == seconds


def test_rejected_connections_do_not_prolong_accept():
    with net.ProxyListener(net.listen("tcp", "127.0.0.1:0"), trusted=["10.0.0.0/8"]) as listener:
        stop = []

        def strangers():
            while not stop:
                with (
                    contextlib.suppress(OSError),
                    net.dial("tcp", str(listener.addr), timeout=1) as conn,
                ):
                    conn.set_deadline(1)
                    conn.read()

        g = runtime.go(strangers)
        with pytest.raises(TimeoutError):
            listener.accept(0.1)
        stop.append(True)
        listener.close()
        g.join(NEVER)


def test_proxied_connections_are_of_the_kind_of_their_socket(tmp_path):
    for network, address, kind in (
        ("tcp", "127.0.0.1:0", net.TCPConn),
        ("unix", str(tmp_path / "s"), net.UnixConn),
    ):
        with (
            net.ProxyListener(
                net.listen(network, address), trusted=["127.0.0.1", "unix"]
            ) as listener,
            net.dial(network, str(listener.addr)) as client,
            listener.accept(NEVER) as conn,
        ):
            assert isinstance(conn, kind) and isinstance(conn, net.ProxyConn)
            # None of these waits for the header.
            conn.set_no_delay(False)
            conn.set_keep_alive(30)
            conn.set_linger(None)
            conn.set_read_buffer(20_000)
            conn.set_write_buffer(20_000)
            conn.set_deadline(NEVER)
            conn.write([b"first", b" word"])
            assert client.read_exactly(10) == b"first word"
            if network == "tcp":
                assert not conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            else:
                conn.send_fds(b"x", [0])
                _, fds = client.recv_fds(1, 1)
                net.Conn(fds[0]).close()
            client.write(b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n")
            assert conn.remote_addr == ("192.0.2.1", 1)


def test_every_way_to_read_a_proxied_connection_skips_the_header(tmp_path):
    header = b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n"
    path = str(tmp_path / "s")

    def into(conn):
        buffer = bytearray(5)
        assert conn.read_into(buffer) == 5
        return bytes(buffer)

    def passed(conn):
        data, fds = conn.recv_fds(5, 1)
        net.Conn(fds[0]).close()
        return data

    with net.ProxyListener(net.listen("unix", path), trusted=["unix"]) as listener:
        for read in (
            lambda c: c.read(),
            into,
            lambda c: c.read_exactly(5),
            lambda c: c.read_until(b"o"),
            lambda c: c.recv_from()[0],
            lambda c: c.makefile("rb").read(5),
            lambda c: net.bufio.Reader(c).read_exactly(5),
            passed,
        ):
            with net.dial("unix", path) as client, listener.accept(NEVER) as conn:
                client.write(header)
                g = runtime.go(read, conn)
                while g.wait_reason != "IO wait":
                    runtime.gosched()
                if read is passed:
                    client.send_fds(b"hello", [client])
                else:
                    client.write(b"hello")
                assert g.join(NEVER) == b"hello"
