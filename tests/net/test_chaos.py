"""Connections through a proxy that delays, cuts into pieces, stalls, resets and falls silent."""

import contextlib
import io
import os
import random
import ssl

import pytest
from certs import Authority
from chaos import Chaos

import runtime
from runtime import net

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0
SOON = 0.02


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("certs"))
    return authority.client_context(), authority.server_context()


@contextlib.contextmanager
def through(**how):
    """Both ends of a connection with the proxy in between, and the proxy."""
    with (
        net.listen("tcp", "127.0.0.1:0") as listener,
        Chaos(listener.addr.port, **how) as proxy,
        net.dial("tcp", proxy.address) as client,
        listener.accept(NEVER) as server,
    ):
        yield client, server, proxy


@contextlib.contextmanager
def tls_through(contexts, **how):
    client_context, server_context = contexts
    with through(**how) as (client, server, proxy):
        yield (
            net.tls.client(client, client_context, server_hostname="localhost"),
            net.tls.server(server, server_context),
            proxy,
        )


@pytest.fixture(params=["tcp", "tls"])
def passage(request, contexts):
    """through(), with TLS or without."""
    if request.param == "tcp":
        return through
    return lambda **how: tls_through(contexts, **how)


# ---- every method ----


@pytest.mark.parametrize(
    ("pieces", "pause"), [((1,), 0), ((1, 100), 0.0003), ((3000, 65536), 0.0003)]
)
def test_every_way_to_write_and_read_arrives_whole(passage, tmp_path, pieces, pause):
    data = random.Random(1).randbytes(1500)
    (tmp_path / "file").write_bytes(data)
    parts = [data[:1], b"", bytearray(data[1:900]), memoryview(data)[900:]]

    def write(conn):
        conn.write(data)
        conn.write(parts)
        with open(tmp_path / "file", "rb") as f:
            assert conn.sendfile(f, 100, 1000) == 1000
        assert conn.sendfile(io.BytesIO(data)) == len(data)
        with net.bufio.Writer(conn, 100) as writer:
            for i in range(0, len(data), 7):
                writer.write(data[i : i + 7])
        with conn.makefile("w", newline="\n") as f:
            print("one line\nanother", file=f)
        conn.write(b"until|until|\r\nlast")
        conn.close_write()

    with passage(pieces=pieces, pause=pause) as (client, server, _):
        client.set_deadline(NEVER)
        server.set_deadline(NEVER)
        g = runtime.go(write, client)
        assert server.read_exactly(len(data)) == data
        buffer, at = bytearray(len(data)), 0
        while at < len(data):
            at += server.read_into(memoryview(buffer)[at:])
        assert buffer == data
        got = b""
        while len(got) < 1000:
            got += server.read(1000 - len(got))
        assert got == data[100:1100]
        assert server.read_exactly(len(data)) == data
        assert server.read_exactly(len(data)) == data
        assert server.read_until() == b"one line\n"
        assert server.read_until(b"other\n") == b"another\n"
        assert server.read_until(b"|") == b"until|"
        reader = net.bufio.Reader(server)
        assert reader.read_line() == b"until|"
        assert reader.read_exactly(4) == b"last"
        assert reader.read_line() is None
        server.write(b"answer")
        assert client.read_exactly(6) == b"answer"
        server.close()
        assert client.read() == b""
        g.join(NEVER)


@pytest.mark.parametrize("seed", range(3))
def test_both_directions_at_once_lose_nothing(passage, seed):
    messages = [random.Random(seed + i).randbytes(30_000) for i in range(2)]

    def talk(conn, message):
        def write():
            rng, at = random.Random(seed), 0
            while at < len(message):
                at += conn.write(message[at : at + rng.choice([1, 100, 10_000])])
            conn.close_write()

        g = runtime.go(write)
        got = b"".join(iter(conn.read, b""))
        g.join(NEVER)
        return got

    with passage(seed=seed, pieces=(1, 50, 5000), pause=0.0002) as (client, server, _):
        gs = [runtime.go(talk, c, m) for c, m in zip((client, server), messages, strict=True)]
        assert [g.join(NEVER) for g in gs] == messages[::-1]


# ---- stalls ----


def test_stall_ends_reads_at_their_deadline_and_nothing_is_lost(passage):
    with passage(pieces=(1, 2)) as (client, server, proxy):
        g = runtime.go(server.write, b"before")
        assert client.read_exactly(6) == b"before"
        g.join(NEVER)
        proxy.stall()
        server.write(b"one\ntwo\n" + b"x" * 100)
        for read in (
            lambda: client.read_until(b"\n\n"),
            lambda: client.read_exactly(500),
            lambda: client.read_into(bytearray(10)) and client.read_exactly(500),
            net.bufio.Reader(client).read_line,
            client.makefile("rb").read,
        ):
            client.set_read_deadline(SOON)
            with pytest.raises(TimeoutError):
                read()
        client.set_read_deadline(NEVER)
        proxy.resume()
        assert client.read_until() == b"one\n"
        assert client.read_exactly(104) == b"two\n" + b"x" * 100


def test_stall_parks_writers_until_their_deadline(passage):
    with passage() as (client, server, proxy):
        g = runtime.go(server.read, 1)
        client.write(b"x")
        g.join(NEVER)
        proxy.stall()
        g = runtime.go(client.write, b"x" * 50_000_000)
        while g.wait_reason != "IO wait":
            runtime.gosched()
        client.set_write_deadline(0)
        with pytest.raises(TimeoutError):
            g.join(NEVER)
        g = runtime.go(client.read)
        proxy.resume()
        server.close()  # reading goes on as long as there is something to read
        with contextlib.suppress(ConnectionResetError):
            assert g.join(NEVER) == b""


def test_slow_network_is_not_too_slow_for_deadlines_that_are_moved(passage):
    """As servers do: a new deadline for each piece."""
    with passage(pieces=(100,), pause=0.002) as (client, server, _):
        g = runtime.go(server.write, b"x" * 3000)
        got = 0
        while got < 3000:
            client.set_read_deadline(NEVER)
            got += len(client.read())
        g.join(NEVER)


# ---- resets ----


@pytest.mark.parametrize("waits", ["read", "write", "read and write", "handshake"])
def test_reset_wakes_who_waits(passage, contexts, waits):
    with passage() as (client, server, proxy):
        users = [client.read] if "read" in waits else []
        if "write" in waits:
            users.append(lambda: client.write(b"x" * 50_000_000))
        if waits == "handshake":
            client = net.tls.client(client, contexts[0], server_hostname="localhost")
            users.append(client.handshake)
        elif isinstance(client, net.tls.TLSConn):
            g = runtime.go(server.handshake)
            client.handshake()
            g.join(NEVER)
        gs = [runtime.go(use) for use in users]
        for g in gs:
            while g.wait_reason != "IO wait":
                assert not g.done()
                runtime.gosched()
        proxy.reset()
        kinds = []
        for g in gs:
            # The one who is told is told of the reset, another one that it is over.
            with pytest.raises((ConnectionError, net.UnexpectedEOFError)) as e:
                if g.join(NEVER) == b"":
                    raise net.UnexpectedEOFError(b"")
            kinds.append(type(e.value))
        assert ConnectionResetError in kinds or BrokenPipeError in kinds


@pytest.mark.parametrize("how", ["reset", "end"])
@pytest.mark.parametrize("seed", range(4))
def test_cut_anywhere_gives_a_prefix_and_ends_all(passage, how, seed):
    """Whatever was under way: nothing hangs, and all that was read is right."""
    cut = random.Random(seed).randrange(1, 4000)
    message = bytes(range(250)) * 20

    def exchange(conn):
        """What was read, and the error, if any."""
        g = runtime.go(conn.write, message)
        got, error = bytearray(), None
        try:
            while data := conn.read(100):
                got += data
        except (OSError, EOFError) as e:
            error = e
        conn.close()
        with contextlib.suppress(OSError, EOFError):
            g.join(NEVER)
        return bytes(got), error

    with passage(seed=seed, pieces=(1, 10, 1000), cut=cut, how=how) as (client, server, _):
        secure = isinstance(client, net.tls.TLSConn)
        for g in [runtime.go(exchange, conn) for conn in (client, server)]:
            got, error = g.join(NEVER)
            assert message.startswith(got)
            assert len(got) <= cut
            if error is not None:
                assert isinstance(error, ConnectionError | net.tls.TruncatedError | ssl.SSLError)
            else:
                assert not secure, "the end of TLS cannot be forged"


def test_end_in_the_middle_says_what_there_was():
    with through(cut=5, how="end") as (client, server, _):
        server.write(b"123456789")
        with pytest.raises(net.UnexpectedEOFError) as e:
            client.read_exactly(9)
        assert e.value.partial == b"12345"
        assert client.read() == b""
        client.write(b"12345")  # the other direction is as good as before
        assert server.read_exactly(5) == b"12345"


# ---- peers that are half there ----


def test_silent_peer_is_waited_for_until_the_deadline(passage):
    with passage(cut=3, how="silence") as (client, server, _):
        server.set_deadline(NEVER)
        client.set_deadline(SOON)
        g = runtime.go(lambda: server.write(b"123456789"))
        with pytest.raises(TimeoutError):
            client.read_exactly(9)
        client.close()
        server.set_deadline(0)
        with contextlib.suppress(OSError, EOFError):
            g.join(NEVER)


def test_half_open_connection_is_ended_by_close():
    with through(cut=3, how="silence") as (client, server, _):
        for conn, other in ((client, server), (server, client)):
            conn.write(b"123456")
            assert other.read_exactly(3) == b"123"
        gs = [runtime.go(conn.read_exactly, 100) for conn in (client, server)]
        for g in gs:
            while g.wait_reason != "IO wait":
                runtime.gosched()
        for conn, g in zip((client, server), gs, strict=True):
            conn.close()
            with pytest.raises(net.ClosedError):
                g.join(NEVER)


# ---- what is built on connections ----


@pytest.mark.parametrize("version", [1, 2])
def test_proxy_header_in_single_bytes_is_understood(version):
    lines = b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n"
    v2 = bytes.fromhex("0D0A0D0A000D0A515549540A 21 11 000c c0000201 c6336402 0001 0002")
    with (
        net.ProxyListener(
            net.listen("tcp", "127.0.0.1:0"), trusted=["127.0.0.1"], header_timeout=None
        ) as listener,
        Chaos(listener.addr.port, pieces=(1,), pause=0.0005) as proxy,
        net.dial("tcp", proxy.address) as client,
        listener.accept(NEVER) as server,
    ):
        client.write((lines if version == 1 else v2) + b"hello")
        assert server.remote_addr == ("192.0.2.1", 1)
        assert server.read_exactly(5) == b"hello"


def test_many_connections_at_once():
    with (
        net.listen("tcp", "127.0.0.1:0") as listener,
        Chaos(listener.addr.port, pieces=(1, 10, 1000), pause=0.001) as proxy,
    ):
        echoes = []

        def serve():
            for conn in listener:
                echoes.append(runtime.go(echo, conn))

        def echo(conn):
            with conn:
                while data := conn.read():
                    conn.write(data)

        def use(i):
            message = os.urandom(500)
            with net.dial("tcp", proxy.address) as conn:
                conn.write(message)
                assert conn.read_exactly(500) == message

        acceptor = runtime.go(serve)
        for g in [runtime.go(use, i) for i in range(30)]:
            g.join(NEVER)
        listener.close()
        acceptor.join(NEVER)
        for g in echoes:
            g.join(NEVER)
