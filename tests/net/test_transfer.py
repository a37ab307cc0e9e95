"""What connections transfer besides plain buffers: several at once, files, descriptors; options."""

import array
import errno
import io
import os
import random
import socket
import struct
import subprocess
import sys
import textwrap

import pytest

import runtime
from runtime import net
from runtime._core import NetFD

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def make_narrow(*conns):
    """Have the system buffer little, so that writers soon wait."""
    for conn in conns:
        conn.set_write_buffer(50_000)


def read_all(conn):
    parts = []
    while data := conn.read():
        parts.append(data)
    return b"".join(parts)


# ---- several buffers ----


@pytest.mark.parametrize("kind", [list, tuple])
def test_buffers_are_written_in_order(pair, kind):
    a, b = pair
    parts = kind([b"one", bytearray(b"two"), b"", memoryview(b"three"), array.array("B", b"four")])
    assert a.write(parts) == 15
    assert b.read_exactly(15) == b"onetwothreefour"
    assert a.write(kind([])) == 0
    assert a.write(kind([b"", b""])) == 0


def test_more_buffers_than_a_call_takes_wait_for_the_reader(pair, parked):
    a, b = pair
    rng = random.Random(1)
    parts = [rng.randbytes(rng.choice([0, 1, 10, 5000])) for _ in range(5000)]
    g = runtime.go(a.write, parts)
    parked(g)
    assert b.read_exactly(sum(map(len, parts))) == b"".join(parts)
    assert g.join(NEVER) == sum(map(len, parts))


def test_buffers_are_held_while_they_are_written(pair, parked):
    a, b = pair
    big = bytearray(1 << 22)
    parts = [big, b"end"]
    g = runtime.go(a.write, parts)
    parked(g)
    with pytest.raises(BufferError):
        big.clear()
    parts.clear()  # the list is not
    b.read_exactly(len(big))
    assert b.read_exactly(3) == b"end"
    g.join(NEVER)
    big.clear()


@pytest.mark.parametrize("parts", [["text"], [b"x", None], [b"x", 1], [memoryview(b"abcd")[::2]]])
def test_what_is_no_buffer_is_refused_and_nothing_is_written(pair, parts):
    a, b = pair
    with pytest.raises((TypeError, BufferError)):
        a.write(parts)
    a.write(b"y")
    assert b.read() == b"y"


def test_writes_of_every_kind_are_not_interleaved(pair, tmp_path):
    a, b = pair
    size = 100_000
    (tmp_path / "f").write_bytes(b"f" * size)

    def lists():
        a.write([b"l" * (size // 10)] * 10)

    def plain():
        a.write(b"p" * size)

    def file():
        with open(tmp_path / "f", "rb") as f:
            a.sendfile(f)

    gs = [runtime.go(f) for _ in range(4) for f in (lists, plain, file)]
    seen = [b.read_exactly(size) for _ in gs]
    assert all(len(set(block)) == 1 for block in seen)
    assert sorted(block[:1] for block in seen) == [b"f"] * 4 + [b"l"] * 4 + [b"p"] * 4
    for g in gs:
        g.join(NEVER)


def test_pipe_takes_several_buffers(parked):
    r, w = os.pipe()
    reader, writer = NetFD(r), NetFD(w)
    g = runtime.go(writer.write, [b"x" * 100_000, b"y" * 100_000])
    parked(g)
    data = b""
    while len(data) < 200_000:
        data += reader.read()
    assert data == b"x" * 100_000 + b"y" * 100_000
    g.join(NEVER)
    reader.close()
    writer.close()


# ---- files ----


@pytest.fixture
def data():
    return random.Random(7).randbytes(3_000_000)


@pytest.fixture
def file(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    with open(path, "rb") as f:
        yield f


def test_sendfile_sends_all_while_the_reader_is_slow(pair, parked, file, data):
    a, b = pair
    file.seek(17)  # does not matter
    make_narrow(a, b)
    g = runtime.go(a.sendfile, file)
    parked(g)
    assert b.read_exactly(len(data)) == data
    assert g.join(NEVER) == len(data)
    assert file.tell() == 17


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, 0), (0, 1), (10, 20), (2_999_999, None), (2_999_999, 5), (3_000_001, 5)],
)
def test_sendfile_sends_a_part(pair, file, data, offset, count):
    a, b = pair
    expected = data[offset:] if count is None else data[offset : offset + count]
    assert a.sendfile(file, offset, count) == len(expected)
    a.close_write()
    assert read_all(b) == expected


def test_sendfile_of_what_is_no_regular_file(pair):
    a, b = pair
    assert a.sendfile(io.BytesIO(b"0123456789"), 2, 5) == 5
    assert a.sendfile(io.BytesIO(b"abc")) == 3
    r, w = os.pipe()
    os.write(w, b"piped")
    os.close(w)
    with open(r, "rb") as pipe:
        assert a.sendfile(pipe) == 5
    a.close_write()
    assert read_all(b) == b"23456abcpiped"


def test_sendfile_of_a_file_without_a_size_reads_it(pair):
    """The system sends none of /proc/self/status by itself, or all."""
    a, b = pair
    with open("/proc/version", "rb") as f:
        n = a.sendfile(f)
        a.close_write()
        assert n > 0
        assert read_all(b) == f.read()


def test_sendfile_into_a_pipe(file, data, parked):
    r, w = os.pipe()
    reader, writer = NetFD(r), net.Conn(w)
    g = runtime.go(writer.sendfile, file)
    parked(g)
    got = b""
    while len(got) < len(data):
        got += reader.read()
    assert got == data
    assert g.join(NEVER) == len(data)
    reader.close()
    writer.close()


def test_sendfile_arguments_are_checked(pair, tmp_path, file):
    a, _ = pair
    for args in ((file, -1), (file, 0, -1), (io.BytesIO(), -1)):
        with pytest.raises(ValueError):
            a.sendfile(*args)
    with open(tmp_path / "w", "wb") as f:
        f.write(b"x")
        f.flush()
        with pytest.raises(OSError, match="sendfile: ") as e:
            a.sendfile(f)
        assert e.value.errno == errno.EBADF
    with pytest.raises(AttributeError):
        a.sendfile("name")
    a.close()
    with pytest.raises(net.ClosedError):
        a.sendfile(file)


def test_sendfile_deadline_and_close_end_the_wait(pair, parked, file):
    a, b = pair
    make_narrow(a, b)
    g = runtime.go(a.sendfile, file)
    parked(g)
    a.set_write_deadline(0)
    with pytest.raises(TimeoutError):
        g.join(NEVER)
    a.set_write_deadline(None)
    g = runtime.go(a.sendfile, file)
    parked(g)
    a.close()
    with pytest.raises(net.ClosedError):
        g.join(NEVER)


# ---- descriptors ----


@pytest.fixture(params=["unix", "unixpacket"])
def unix_pair(request):
    kind = socket.SOCK_STREAM if request.param == "unix" else socket.SOCK_SEQPACKET
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    with net.UnixConn(a.detach()) as left, net.UnixConn(b.detach()) as right:
        yield left, right


def test_descriptors_travel_and_are_the_receivers(unix_pair, parked, tmp_path):
    a, b = unix_pair
    g = runtime.go(b.recv_fds, 100, 5)
    parked(g)
    with open(tmp_path / "f", "wb") as f, socket.socket() as s:
        assert a.send_fds(b"here", [f, s.fileno()]) == 4
        data, fds = g.join(NEVER)
        assert data == b"here"
        assert len(fds) == 2
        assert not any(os.get_inheritable(fd) for fd in fds)
        assert not {f.fileno(), s.fileno()} & set(fds)
        os.write(fds[0], b"written by the receiver")
    assert (tmp_path / "f").read_bytes() == b"written by the receiver"
    for fd in fds:
        os.close(fd)


def test_descriptors_come_with_their_bytes():
    a, b = socket.socketpair()
    with net.UnixConn(a.detach()) as a, net.UnixConn(b.detach()) as b:
        a.write(b"before")
        with open(os.devnull) as f:
            a.send_fds(memoryview(b"with"), (f,))
        a.write(b"after")
        data, fds = b.recv_fds(100, 3)
        assert data == b"beforewith"  # and nothing that came after them
        assert len(fds) == 1
        os.close(fds[0])
        b.unread(b"put back")
        assert b.recv_fds(3, 1) == (b"put", [])
        assert b.recv_fds(100, 1) == (b" back", [])


def test_much_data_with_descriptors_waits_for_the_reader(parked):
    a, b = socket.socketpair()
    with net.UnixConn(a.detach()) as a, net.UnixConn(b.detach()) as b, open(os.devnull) as f:
        g = runtime.go(a.send_fds, b"x" * 1_000_000, [f])
        parked(g)
        data, fds = b.recv_fds(10, 1)
        assert (data, len(fds)) == (b"x" * 10, 1)
        os.close(fds[0])
        assert b.read_exactly(999_990) == b"x" * 999_990
        assert g.join(NEVER) == 1_000_000


def test_too_many_descriptors_are_closed_and_reported(unix_pair):
    a, b = unix_pair
    before = len(os.listdir("/dev/fd"))
    with open(os.devnull) as f:
        for room in (0, 1, 2):
            a.send_fds(b"x", [f] * 3)
            with pytest.raises(OSError, match="recv_fds") as e:
                b.recv_fds(10, room)
            assert e.value.errno == errno.EMSGSIZE
        a.send_fds(b"x", [f] * 3)
        _, fds = b.recv_fds(10, 3)
        assert len(fds) == 3
        for fd in fds:
            os.close(fd)
    assert len(os.listdir("/dev/fd")) <= before


def test_descriptor_arguments_are_checked(unix_pair):
    a, b = unix_pair
    with open(os.devnull) as f:
        with pytest.raises(ValueError, match="one byte"):
            a.send_fds(b"", [f])
        with pytest.raises(ValueError, match="253"):
            a.send_fds(b"x", [f] * 254)
        for wrong in (["x"], [-1], [None], 1):
            with pytest.raises((TypeError, ValueError)):
                a.send_fds(b"x", wrong)
        a.send_fds(b"x", [f] * 253)
        for args in ((0, 1), (1, -1), (1, 254)):
            with pytest.raises(ValueError):
                b.recv_fds(*args)
        _, fds = b.recv_fds(1, 253)
        assert len(fds) == 253
        for fd in fds:
            os.close(fd)
    with pytest.raises(OSError, match="send_fds") as e:
        closed = os.dup(0)
        os.close(closed)
        a.send_fds(b"x", [closed])
    assert e.value.errno == errno.EBADF
    a.send_fds(b"none", [])
    assert b.recv_fds(9, 0) == (b"none", [])


def test_child_process_gets_a_connection(tmp_path):
    """A listener's connection is handed to another program, which answers on it."""
    child = """
        import sys
        from runtime import net
        with net.dial("unix", sys.argv[1]) as control:
            _, (fd,) = control.recv_fds(1, 1)
        with net.Conn(fd) as conn:
            conn.write(conn.read().upper())
    """
    path = str(tmp_path / "control")
    with (
        net.listen("unix", path) as control,
        net.listen("tcp", "127.0.0.1:0") as listener,
        net.dial("tcp", str(listener.addr)) as client,
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(child), path]) as process,
    ):
        with listener.accept() as server, control.accept(NEVER) as peer:
            peer.send_fds(b"x", [server])
        client.set_deadline(NEVER)
        client.write(b"hello")
        assert client.read() == b"HELLO"
        assert client.read() == b""
        assert process.wait(60) == 0


# ---- options ----


def test_keep_alive_is_on_for_both_ends_and_can_be_changed():
    def idle(conn):
        on = conn.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return on and conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)

    with (
        net.listen("tcp", "127.0.0.1:0", keep_alive=33) as listener,
        net.dial("tcp", str(listener.addr)) as client,
        listener.accept() as server,
    ):
        assert idle(server) == 33
        client.set_keep_alive(44)
        assert idle(client) == 44
        client.set_keep_alive(None)
        assert not idle(client)
        for wrong in (0, -1, 40_000, float("nan")):
            with pytest.raises(ValueError):
                client.set_keep_alive(wrong)
    with (
        net.listen("tcp", "127.0.0.1:0", keep_alive=None) as listener,
        net.dial("tcp", str(listener.addr)),
        listener.accept() as server,
    ):
        assert not idle(server)


def test_linger_of_nothing_resets_the_connection(tcp, parked):
    a, b = tcp
    g = runtime.go(b.read)
    parked(g)
    a.set_linger(0)
    a.close()
    with pytest.raises(ConnectionResetError, match="read: "):
        g.join(NEVER)


def test_linger_is_set_and_taken_back(tcp):
    a, _ = tcp
    for seconds in (3, None):
        a.set_linger(seconds)
        on, time = struct.unpack("ii", a.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
        assert (time if on else None) == seconds


def test_buffers_of_the_system_have_the_size_asked_for(pair):
    a, _ = pair
    for set_size, option in (
        (a.set_read_buffer, socket.SO_RCVBUF),
        (a.set_write_buffer, socket.SO_SNDBUF),
    ):
        set_size(20_000)
        assert 20_000 <= a.getsockopt(socket.SOL_SOCKET, option) <= 60_000


def test_options_may_be_structures(pair):
    a, _ = pair
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, struct.pack("i", 30_000))
    raw = a.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100)
    assert struct.unpack("i", raw)[0] == a.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    for args in ((1, 2, -1), (1, 2, 5000)):
        with pytest.raises(ValueError):
            a.getsockopt(*args)
    with pytest.raises(TypeError):
        a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, "x")
    with pytest.raises(OSError, match="setsockopt: "):
        a.setsockopt(socket.SOL_SOCKET, 9999, 1)


def test_file_is_a_duplicate_that_outlives_the_connection(pair):
    a, b = pair
    with a.file() as s:
        assert s.fileno() != a.fileno()
        assert not s.get_inheritable()
        a.close()
        with pytest.raises(net.ClosedError):
            a.file()
        s.send(b"still here")
        assert b.read() == b"still here"
        s.shutdown(socket.SHUT_WR)
        assert b.read() == b""


def test_close_read_ends_the_reader(pair, parked):
    a, b = pair
    g = runtime.go(a.read)
    parked(g)
    a.close_read()
    assert g.join(NEVER) == b""
    a.write(b"x")
    assert b.read() == b"x"


def test_listeners_descriptor_can_be_duplicated():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        with listener.file() as s:
            assert s.getsockname() == listener.addr
        with net.dial("tcp", str(listener.addr)):
            listener.accept().close()


def test_control_sees_the_socket_before_it_is_bound(tmp_path):
    seen = []

    def control(network, address, fd):
        with socket.socket(fileno=os.dup(fd)) as s:
            seen.append((network, address, s.getsockname()))

    path = str(tmp_path / "s")
    net.listen("tcp", "127.0.0.1:0", control=control).close()
    net.listen("unix", path, control=control).close()
    assert seen == [("tcp4", "127.0.0.1:0", ("0.0.0.0", 0)), ("unix", path, "")]


def test_types_of_connections_follow_the_network(tmp_path):
    for network, address, kind in (
        ("tcp", "127.0.0.1:0", net.TCPConn),
        ("unix", str(tmp_path / "s"), net.UnixConn),
    ):
        with (
            net.listen(network, address) as listener,
            net.dial(network, str(listener.addr)) as client,
            listener.accept() as server,
        ):
            assert type(client) is type(server) is kind
            assert repr(client).startswith(f"<{kind.__name__} {network} ")
