"""What all kinds of connections have in common: whatever they run over, they behave alike."""

import contextlib
import os
import resource
import signal
import socket

import pytest
from certs import Authority

import runtime
from runtime import net
from waits import parked

pytestmark = pytest.mark.parametrize("procs", [1, 4], indirect=True)

NEVER = 60.0
SOON = 0.02
MUCH = 30_000_000  # bytes, more than all buffers on the way hold
KINDS = ["tcp", "unix", "proxied", "pipe", "tls"]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("certs"))
    return authority.client_context(), authority.server_context()


def sockets(kind):
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(net.listen("tcp", "127.0.0.1:0"))
        if kind == "proxied":
            listener = net.ProxyListener(listener, trusted=["127.0.0.1"])
        client = net.dial("tcp", str(listener.addr))
        server = listener.accept(NEVER)
    if kind == "proxied":
        client.write(b"PROXY UNKNOWN\r\n")
        assert server.proxy_header.version == 1
    return client, server


@pytest.fixture(params=KINDS)
def ends(request, contexts):
    """Both ends of a connection; if it is TLS, after the handshake."""
    kind = request.param
    if kind == "unix":
        a, b = (net.UnixConn(s.detach()) for s in socket.socketpair())
    elif kind == "pipe":
        a, b = net.pipe()
    else:
        a, b = sockets(kind)
    if kind == "tls":
        a = net.tls.client(a, contexts[0], server_hostname="localhost")
        b = net.tls.server(b, contexts[1])
        g = runtime.go(b.write, b"x")
        assert a.read() == b"x"
        g.join(NEVER)
    with a, b:
        yield a, b


def all_waiting(*gs):
    return [parked(g) for g in gs]


def is_tls(conn):
    return isinstance(conn, net.tls.TLSConn)


WAYS_TO_READ = {
    "read": lambda c: c.read(),
    "read_into": lambda c: c.read_into(bytearray(10)),
    "read_exactly": lambda c: c.read_exactly(10),
    "read_until": lambda c: c.read_until(b"|"),
    "Reader": lambda c: net.bufio.Reader(c).read_line(),
    "Scanner": lambda c: next(net.bufio.Scanner(c)),
    "file": lambda c: c.makefile("rb").read(10),
    "text": lambda c: c.makefile("r").readline(),
}


def write_to_file(conn):
    with conn.makefile("wb") as f:
        f.write(bytes(MUCH))


def write_buffered(conn):
    with net.bufio.Writer(conn) as writer:
        writer.write(bytes(MUCH))


WAYS_TO_WRITE = {
    "write": lambda c, f: c.write(bytes(MUCH)),
    "list": lambda c, f: c.write([bytes(MUCH // 2), bytes(MUCH // 2)]),
    "sendfile": lambda c, f: c.sendfile(f),
    "Writer": lambda c, f: write_buffered(c),
    "file": lambda c, f: write_to_file(c),
}


@pytest.fixture(scope="module")
def big_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "big"
    with open(path, "wb") as f:
        f.truncate(MUCH)
    with open(path, "rb") as f:
        yield f


# ---- deadlines, close and cancel against every call ----


@pytest.mark.parametrize("how", WAYS_TO_READ)
def test_reading_ends_with_the_deadline_and_goes_on_with_a_later_one(procs, ends, how):
    a, b = ends
    read = WAYS_TO_READ[how]
    a.set_read_deadline(SOON)
    with pytest.raises(TimeoutError):
        read(a)
    with pytest.raises(TimeoutError):
        read(a)
    a.set_read_deadline(None)
    g = parked(runtime.go(read, a))
    a.set_read_deadline(NEVER)
    parked(g)
    a.set_read_deadline(0)
    with pytest.raises(TimeoutError):
        g.join(NEVER)
    a.set_deadline(NEVER)
    line = "one line|\n" if how == "text" else b"one line|\n"
    g = runtime.go(b.write, b"one line|\n")
    got = read(a)
    g.join(NEVER)
    assert got in (line, line[:-1], 10, 1)  # a pipe gives what there is room for


@pytest.mark.parametrize("how", WAYS_TO_READ)
def test_reading_ends_with_close_and_cancel(procs, ends, how):
    a, _ = ends
    g = parked(runtime.go(WAYS_TO_READ[how], a))
    g.cancel()
    with pytest.raises(runtime.Cancelled):
        g.join(NEVER)
    g = parked(runtime.go(WAYS_TO_READ[how], a))
    a.close()
    with pytest.raises(net.ClosedError):
        g.join(NEVER)
    with pytest.raises(net.ClosedError):
        WAYS_TO_READ[how](a)


@pytest.mark.parametrize("how", WAYS_TO_WRITE)
@pytest.mark.parametrize("end", ["deadline", "cancel", "close"])
def test_writing_to_who_does_not_read_parks_until_it_is_ended(procs, ends, big_file, how, end):
    a, _ = ends
    g = parked(runtime.go(WAYS_TO_WRITE[how], a, big_file))
    reader = parked(runtime.go(a.read))  # the other direction does not care
    if end == "deadline":
        a.set_write_deadline(0)
    elif end == "cancel":
        g.cancel()
    else:
        a.close()
    kind = {"deadline": TimeoutError, "cancel": runtime.Cancelled, "close": net.ClosedError}[end]
    with pytest.raises(kind):
        g.join(NEVER)
    if end == "close":
        with pytest.raises(net.ClosedError):
            reader.join(NEVER)
        with pytest.raises(net.ClosedError):
            a.write(b"x")
    else:
        parked(reader).cancel()
        with pytest.raises(runtime.Cancelled):
            reader.join(NEVER)


def test_write_deadline_that_has_passed_fails_at_once_and_can_be_renewed(procs, ends):
    a, b = ends
    a.set_write_deadline(0)
    with pytest.raises(TimeoutError):
        a.write(b"x")
    a.set_write_deadline(None)
    if is_tls(a):  # what the peer has got is not known
        with pytest.raises(TimeoutError):
            a.write(b"x")
        return
    g = runtime.go(a.write, b"x")
    assert b.read() == b"x"
    g.join(NEVER)


# ---- slow readers and writers ----


def test_writer_waits_for_a_slow_reader_and_memory_stays(procs, ends):
    a, b = ends
    block, total = bytes(65536), 40 << 20

    def write():
        for _ in range(total // len(block)):
            a.write(block)

    g = parked(runtime.go(write))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = 0
    while got < total:
        got += len(b.read(1000 if got < 100_000 else 1 << 20))
    g.join(NEVER)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KB


def test_single_bytes_are_put_together(procs, ends):
    a, b = ends
    message = bytes(range(256))
    g = runtime.go(b.read_exactly, len(message))
    for i in range(len(message)):
        a.write(message[i : i + 1])
    assert g.join(NEVER) == message


def test_signals_do_not_disturb_transfers(procs, ends):
    """EINTR: a thread is hit by a signal all the time."""
    a, b = ends
    size = 4 << 20
    old = signal.signal(signal.SIGALRM, lambda *args: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        g = runtime.go(a.write, bytes(size))
        assert len(b.read_exactly(size)) == size
        assert g.join(NEVER) == size
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


# ---- writing ----


def test_several_buffers_are_one_write(procs, ends):
    a, b = ends
    parts = [b"one", bytearray(b"two"), memoryview(b"three"), b""]
    for data, size in ((parts, 11), (tuple(parts), 11), ([], 0)):
        g = runtime.go(a.write, data)
        assert b.read_exactly(size) == b"onetwothree"[:size]
        assert g.join(NEVER) == size
    for wrong in (["text"], [b"x", None], "text", None, 5):
        with pytest.raises(TypeError):
            a.write(wrong)


def test_writes_of_many_goroutines_are_not_interleaved(procs, ends):
    a, b = ends
    size = 50_000

    def write(letter):
        for _ in range(3):
            a.write(letter * size)
            a.write([letter * 10, letter * (size - 10)])

    gs = [runtime.go(write, bytes([letter])) for letter in b"abcd"]
    for _ in range(4 * 3 * 2):
        block = b.read_exactly(size)
        assert len(set(block)) == 1
    for g in gs:
        g.join(NEVER)


@pytest.mark.parametrize(("offset", "count"), [(0, None), (10, None), (10, 5), (0, 0), (200, 5)])
def test_file_is_sent_from_where_it_is_asked(procs, ends, tmp_path, offset, count):
    a, b = ends
    data = os.urandom(100)
    (tmp_path / "f").write_bytes(data)
    expected = data[offset:] if count is None else data[offset : offset + count]
    with open(tmp_path / "f", "rb") as f:
        f.read(50)
        g = runtime.go(a.sendfile, f, offset, count)
        assert b.read_exactly(len(expected)) == expected
        assert g.join(NEVER) == len(expected)
        assert f.tell() == 50
        for wrong in ((-1,), (0, -1)):
            with pytest.raises(ValueError, match="0 or more"):
                a.sendfile(f, *wrong)


# ---- the end ----


def test_half_closed_connection_still_receives(procs, ends):
    a, b = ends
    g = runtime.go(b.read)
    a.close_write()
    assert g.join(NEVER) == b""
    with pytest.raises(BrokenPipeError):
        a.write(b"x")
    g = runtime.go(b.write, b"answer")
    assert a.read_exactly(6) == b"answer"
    g.join(NEVER)


def test_end_is_seen_by_every_way_to_read(procs, ends):
    a, b = ends

    def send():
        b.write(b"rest")
        b.close_write()

    g = runtime.go(send)
    assert a.read_exactly(2) == b"re"
    with pytest.raises(net.UnexpectedEOFError) as e:
        a.read_exactly(10)
    assert e.value.partial == b"st"
    g.join(NEVER)
    assert a.read() == b"" and a.read_into(bytearray(5)) == 0
    for way in (a.read_until, lambda: a.read_exactly(1)):
        with pytest.raises(net.UnexpectedEOFError):
            way()
    assert net.bufio.Reader(a).read_line() is None
    assert list(net.bufio.Scanner(a)) == []
    assert a.makefile("rb").read() == b""
    assert a.read_exactly(0) == b""


def test_closed_connection_refuses_everything(procs, ends):
    a, _ = ends
    a.close()
    a.close()
    assert a.closed and "closed" in repr(a)
    for use in (
        a.read,
        lambda: a.read(0) or a.read(),
        lambda: a.write(b"x"),
        lambda: a.write([b"x"]),
        a.close_write,
        lambda: a.set_deadline(1),
        lambda: a.set_read_deadline(1),
        lambda: a.set_write_deadline(None),
    ):
        with pytest.raises(net.ClosedError):
            use()
    assert a.remote_addr.network in ("tcp", "unix")


def test_kinds_have_the_same_methods(procs, ends):
    a, _ = ends
    for name in (
        "read", "read_into", "read_exactly", "read_until", "unread", "write", "sendfile",
        "close", "close_write", "closed", "set_deadline", "set_read_deadline",
        "set_write_deadline", "local_addr", "remote_addr", "makefile", "__enter__", "__exit__",
    ):  # fmt: skip
        assert hasattr(a, name), name
