"""What goes wrong: errors say what was being done, shortages pass, and nothing spins or is lost."""

import contextlib
import errno
import os
import socket
import struct
import subprocess
import threading

import pytest

import programs
import runtime
from runtime import net
from runtime._core import NetFD

NEVER = 60.0


def reset(conn):
    """Close a connection so that its peer gets a reset."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


# ---- what an error says ----


@pytest.mark.parametrize(
    ("operation", "use"),
    [
        ("read", lambda c: c.read()),
        ("read_into", lambda c: c.read_into(bytearray(9))),
        ("recv_from", lambda c: c.recv_from()),
    ],
)
def test_reset_names_the_operation(tcp, operation, use):
    a, b = tcp
    reset(b)
    with pytest.raises(ConnectionResetError, match=f"^\\[Errno 104\\] {operation}: ") as e:
        use(a)
    assert e.value.errno == errno.ECONNRESET


def test_broken_pipe_names_the_operation(pair, tmp_path):
    a, b = pair
    b.close()
    (tmp_path / "f").write_bytes(b"x" * 10)
    with open(tmp_path / "f", "rb") as f:
        for operation, use in (
            ("write", lambda: a.write(b"x")),
            ("write", lambda: a.write([b"x"])),
            ("sendfile", lambda: a.sendfile(f)),
        ):
            with pytest.raises(OSError, match=f"{operation}: ") as e:
                while True:  # TCP learns it by the answer to the first
                    use()
            assert e.value.errno in (errno.EPIPE, errno.ECONNRESET)


def test_closed_connection_names_the_operation(pair):
    a, _ = pair
    a.close()
    for operation, use in (
        ("read", a.read),
        ("write", lambda: a.write([b"x"])),
        ("recv_fds", lambda: a.recv_fds(1, 1)),
        ("send_fds", lambda: a.send_fds(b"x", [0])),
        ("accept", a.accept),
        ("setsockopt", lambda: a.setsockopt(1, 1, 1)),
        ("dup", a.file),
    ):
        with pytest.raises(net.ClosedError, match=f"^{operation}: "):
            use()


def test_refused_dial_names_operation_and_address():
    with net.listen("tcp", "127.0.0.1:0") as gone:
        address = str(gone.addr)
    with pytest.raises(ConnectionRefusedError, match="connect: .*" + address):
        net.dial("tcp", address)


def test_listen_and_unix_dial_name_the_operation_and_the_address(tmp_path):
    here = str(tmp_path / "socket")
    nowhere = str(tmp_path / "none" / "socket")
    with net.listen("tcp", "127.0.0.1:0") as taken, net.listen("unix", here):
        address = str(taken.addr)
        for use, network, where, number in (
            (net.listen, "tcp", address, errno.EADDRINUSE),
            (net.listen, "unix", here, errno.EADDRINUSE),
            (net.listen, "unix", nowhere, errno.ENOENT),
            (net.listen_packet, "udp", "192.0.2.1:1", errno.EADDRNOTAVAIL),
            (net.listen_packet, "unixgram", nowhere, errno.ENOENT),
            (net.dial, "unix", nowhere, errno.ENOENT),
        ):
            operation = "connect" if use is net.dial else "bind"
            with pytest.raises(OSError, match=f"{operation}: ") as e:
                use(network, where)
            assert e.value.errno == number and where in str(e.value)


# ---- descriptors that cannot be waited for ----


def test_files_are_refused_at_once(tmp_path):
    with open(tmp_path / "f", "wb") as f:
        with pytest.raises(PermissionError, match=r"file.*runtime\.blocking"):
            NetFD(f.fileno())
        assert os.get_blocking(f.fileno())
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(PermissionError):
        NetFD(fd)
    os.close(fd)


def test_closed_descriptor_is_refused():
    fd = os.dup(0)
    os.close(fd)
    with pytest.raises(OSError, match="NetFD: ") as e:
        NetFD(fd)
    assert e.value.errno == errno.EBADF


def test_descriptor_that_was_closed_behind_its_back_is_an_error():
    a, b = socket.socketpair()
    with b:
        fd = NetFD(a.fileno())
        a.close()
        with pytest.raises(OSError, match="read: ") as e:
            fd.read()
        assert e.value.errno == errno.EBADF
        fd.detach()


def test_descriptor_number_is_used_again_at_once(parked):
    """Each new connection gets the number of the one closed while somebody waited on it."""
    numbers = set()
    for i in range(50):
        a, b = socket.socketpair()
        with NetFD_pair(a, b) as (left, right):
            numbers.add(left.fileno())
            g = runtime.go(left.read)
            parked(g)
            if i % 2:
                right.write(b"%d" % i)
                assert g.join(NEVER) == b"%d" % i
            else:
                left.close()
                with pytest.raises(net.ClosedError):
                    g.join(NEVER)
    assert len(numbers) <= 4


@contextlib.contextmanager
def NetFD_pair(a, b):
    left, right = NetFD(a.detach()), NetFD(b.detach())
    try:
        yield left, right
    finally:
        left.close()
        right.close()


# ---- time-outs and contexts ----


class Context:
    """As the runtime's, as far as calls that wait look at it."""

    def __init__(self):
        self._done = runtime.Chan()

    def done(self):
        return self._done

    def err(self):
        return RuntimeError("ended") if self._done.closed else None

    def end(self):
        self._done.close()


@pytest.mark.usefixtures("procs")
def test_accept_ends_with_its_timeout_and_its_context(parked):
    with net.listen("tcp", "127.0.0.1:0") as listener:
        with pytest.raises(TimeoutError):
            listener.accept(0.001)
        ctx = Context()
        # One has the turn, the others wait for it.
        gs = [runtime.go(listener.accept, ctx=ctx) for _ in range(3)]
        late = [runtime.go(listener.accept, timeout=0.005) for _ in range(2)]
        last = runtime.go(listener.accept)
        parked(*gs, last)
        for g in late:
            with pytest.raises(TimeoutError):
                g.join(NEVER)
        ctx.end()
        for g in gs:
            with pytest.raises(RuntimeError, match="ended"):
                g.join(NEVER)
        with pytest.raises(RuntimeError, match="ended"):
            listener.accept(ctx=ctx)
        with net.dial("tcp", str(listener.addr)):
            last.join(NEVER).close()


def test_deadline_of_the_listener_counts_besides_the_timeout(parked):
    with net.listen("tcp", "127.0.0.1:0") as listener:
        g = runtime.go(listener.accept, timeout=NEVER)
        parked(g)
        listener.set_deadline(0)
        with pytest.raises(TimeoutError):
            g.join(NEVER)


def test_accept_arguments_are_checked():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        fd = NetFD(listener.file().detach())
        for args, kwargs in (
            ((NetFD, 1, 2), {}),
            ((), {"type": NetFD}),
            ((NetFD,), {"when": 1}),
            ((), {"ctx": 1}),
            ((int,), {"timeout": 1}),
        ):
            with pytest.raises(TypeError):
                fd.accept(*args, **kwargs)
        with pytest.raises(TimeoutError):
            fd.accept(timeout=0)
        fd.close()


def test_connect_ends_with_its_timeout_and_its_context():
    # Nobody answers: the queue of the listener is full.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers, conns = [], []
        for _ in range(3):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(listener.getsockname())
            fillers.append(s)
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(listener.getsockname())
        fd = NetFD(s.detach())
        conns.append(fd)
        with pytest.raises(TimeoutError):
            fd.wait_connected(0.005)
        ctx = Context()
        g = runtime.go(fd.wait_connected, ctx=ctx)
        while g.wait_reason != "IO wait":
            runtime.gosched()
        ctx.end()
        with pytest.raises(RuntimeError, match="ended"):
            g.join(NEVER)
        for each in (*fillers, *conns):
            each.close()


# ---- shortages ----

EXHAUSTED = """
import os, resource, socket
import runtime
from runtime import net, http

soft = resource.getrlimit(resource.RLIMIT_NOFILE)
kind = os.environ["KIND"]

def events():
    return sum(p["poll_events"] for p in runtime.stats()["ps"])

served = []

if kind == "listener":
    listener = net.listen("tcp", "127.0.0.1:0")
    address = str(listener.addr)

    def serve(conn):
        with conn:
            while data := conn.read():
                conn.write(data)

    def accept():
        for conn in listener:
            served.append(conn)
            runtime.go(serve, conn)

    runtime.go(accept)
else:
    def handler(w, r):
        w.write(b"hello")
    server = http.Server(handler, "127.0.0.1:0")
    server.listen()
    address = server.addr
    runtime.go(server.serve)

# One connection that works throughout.
first = net.dial("tcp", address)
def use(conn):
    if kind == "listener":
        conn.write(b"ping")
        assert conn.read_exactly(4) == b"ping"
    else:
        conn.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        data = b""
        while not data.endswith(b"hello"):
            data += conn.read()
use(first)

waiting = [socket.socket() for _ in range(5)]
for s in waiting:
    s.setblocking(False)
hoard = []
limit = max(map(int, os.listdir("/dev/fd"))) + 8
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, soft[1]))
try:
    while True:
        hoard.append(os.dup(0))
except OSError:
    pass
for s in waiting:
    s.connect_ex(tuple(first.remote_addr))
before = events()
for _ in range(20):
    use(first)  # the others go on while there is nothing to accept with
    runtime.sleep(0.01)
seen = events() - before
for fd in hoard:
    os.close(fd)
resource.setrlimit(resource.RLIMIT_NOFILE, soft)
for s in waiting:
    conn = net.Conn(s.detach())
    conn.wait_connected()
    conn.set_deadline(60)
    use(conn)
    conn.close()
use(first)
print("ok" if seen < 500 else f"it spins: {seen} events")
"""


@pytest.mark.parametrize("kind", ["listener", "http"])
def test_exhausted_descriptors_pass_without_spinning(kind):
    done = programs.run(EXHAUSTED, "-W", "ignore", KIND=kind)
    assert (done.stdout, done.stderr) == ("ok\n", "")


SHUT = """
import socket
import runtime
from runtime import http, net

server = http.Server(lambda w, r: "hello", "127.0.0.1:0")
server.listen()
fd = server._socket.fileno()
g = runtime.go(server.serve)
with net.dial("tcp", server.addr) as conn:
    conn.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    conn.set_deadline(60)
    while conn.read():
        pass

def events():
    return sum(p["poll_events"] for p in runtime.stats()["ps"])

# From now on accept() fails with what will not pass.
with socket.socket(fileno=fd) as listener:
    listener.shutdown(socket.SHUT_RD)
    before = events()
    runtime.sleep(0.3)
    seen = events() - before
    server.close()
    g.join(60)
    listener.detach()
print("ok" if seen < 100 else f"it spins: {seen} events")
"""


def test_server_whose_listener_fails_does_not_spin():
    done = programs.run(SHUT, "-W", "ignore")
    assert (done.stdout, done.stderr) == ("ok\n", "")


# ---- peers that behave badly ----


@pytest.mark.usefixtures("procs")
def test_single_bytes_are_put_together(tcp, parked):
    a, b = tcp
    message = bytes(range(256)) * 4
    g = runtime.go(b.read_exactly, len(message))
    for i in range(len(message)):
        a.write(message[i : i + 1])
        if i % 64 == 0:
            runtime.gosched()
    assert g.join(NEVER) == message


@pytest.mark.usefixtures("procs")
@pytest.mark.parametrize("waits", ["read", "write", "both", "nothing", "unread data"])
def test_reset_in_every_state(tcp, parked, waits):
    a, b = tcp
    writer = runtime.go(a.write, b"x" * (1 << 24)) if waits in ("write", "both") else None
    reader = runtime.go(a.read) if waits in ("read", "both") else None
    parked(*(g for g in (writer, reader) if g is not None))
    if waits == "unread data":
        b.write(b"never read")
        a.write(b"never read either")
    reset(b)
    errors = 0
    for g in (writer, reader):
        if g is not None:
            try:
                assert g.join(NEVER) == b""  # the reader, where the writer was told
            except ConnectionError:
                errors += 1
    assert errors >= (waits in ("read", "write", "both"))
    with pytest.raises(ConnectionError):
        while True:
            a.write(b"x")
            runtime.sleep(0)
    with contextlib.suppress(ConnectionError):
        assert a.read() in (b"", b"never read")


@pytest.mark.usefixtures("procs")
def test_half_open_connection_times_out_and_keeps_its_data(tcp, parked):
    a, b = tcp
    g = runtime.go(a.read_exactly, 10)
    b.write(b"half")
    parked(g)
    a.set_read_deadline(0.001)
    with pytest.raises(TimeoutError):
        g.join(NEVER)
    a.set_read_deadline(None)
    b.write(b"and rest")
    assert a.read_exactly(12) == b"halfand rest"


def test_slow_reader_parks_the_writer_and_memory_stays(tcp, parked):
    import resource

    a, b = tcp
    block = b"x" * 65536
    total = 200 << 20

    def write():
        for _ in range(total // len(block)):
            a.write(block)

    g = runtime.go(write)
    parked(g)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = 0
    while got < total:
        got += len(b.read(1 << 16))
    g.join(NEVER)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KB


@pytest.mark.usefixtures("procs")
def test_past_deadline_wakes_and_later_ones_rearm(pair, parked):
    a, b = pair
    for _ in range(20):
        g = runtime.go(a.read)
        parked(g)
        a.set_read_deadline(-1)
        with pytest.raises(TimeoutError):
            g.join(NEVER)
        a.set_read_deadline(NEVER)
        g = runtime.go(a.read)
        parked(g)
        b.write(b"x")
        assert g.join(NEVER) == b"x"


@pytest.mark.usefixtures("procs")
def test_signals_do_not_disturb_transfers(tcp):
    """EINTR: a thread is hit by a signal all the time."""
    import signal

    a, b = tcp
    size = 20 << 20
    old = signal.signal(signal.SIGALRM, lambda *args: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        g = runtime.go(a.write, b"x" * size)
        assert len(b.read_exactly(size)) == size
        assert g.join(NEVER) == size
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


# ---- other programs ----


def test_netcat_is_served_and_serves(tmp_path):
    with net.listen("tcp", "127.0.0.1:0") as listener:
        nc = subprocess.Popen(
            ["nc", "-N", *map(str, listener.addr)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with nc, listener.accept(NEVER) as conn:
            nc.stdin.write(b"x" * 100_000)
            nc.stdin.close()
            assert conn.read_exactly(100_000) == b"x" * 100_000
            assert conn.read() == b""
            conn.write([b"good", b"bye"])
            conn.close_write()
            assert nc.stdout.read() == b"goodbye"


def test_socat_echoes_over_unix_sockets(tmp_path):
    path = str(tmp_path / "echo")
    socat = subprocess.Popen(["socat", f"UNIX-LISTEN:{path}", "PIPE"])
    try:
        conn = None
        while conn is None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                conn = net.dial("unix", path)
            runtime.sleep(0.001)
        for _ in range(20):
            # Less than its pipe holds: socat itself blocks when the pipe is full, and for ever.
            message = os.urandom(50_000)
            g = runtime.go(conn.write, message)
            assert conn.read_exactly(len(message)) == message
            g.join(NEVER)
        conn.close()
    finally:
        socat.kill()
        socat.wait()


def test_socat_sends_packets_over_unixpacket(tmp_path):
    path = str(tmp_path / "packets")
    with net.listen("unixpacket", path) as listener:
        socat = subprocess.Popen(
            ["socat", "-u", "STDIN", f"UNIX-CONNECT:{path},type=5"], stdin=subprocess.PIPE
        )
        with socat, listener.accept(NEVER) as conn:
            socat.stdin.write(b"one packet")
            socat.stdin.close()
            assert conn.read() == b"one packet"
            assert conn.read() == b""


def test_threads_and_goroutines_take_turns_at_writing(pair):
    a, b = pair
    size = 300_000

    def write(letter):
        a.write([letter * (size // 2)] * 2)

    threads = [threading.Thread(target=write, args=(c,)) for c in (b"t", b"u")]
    gs = [runtime.go(write, c) for c in (b"g", b"h")]
    for t in threads:
        t.start()
    blocks = [b.read_exactly(size) for _ in range(4)]
    assert sorted(block[:1] for block in blocks) == [b"g", b"h", b"t", b"u"]
    assert all(len(set(block)) == 1 for block in blocks)
    for t in threads:
        t.join()
    for g in gs:
        g.join(NEVER)
