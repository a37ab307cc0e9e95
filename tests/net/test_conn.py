"""Connections: reading, writing, deadlines, closing, with goroutines and threads."""

import array
import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
import threading
import weakref

import pytest

import runtime
from runtime import net
from runtime._core import NetFD
from runtime.time import now
from waits import until

pytestmark = pytest.mark.usefixtures("procs")

MB = 1 << 20
NEVER = 60.0  # seconds; what should end before is broken if it does not
SOON = 0.02


def read_all(conn):
    return b"".join(iter(conn.read, b""))


def fill(conn):
    """Write until nothing more fits; returns the number of bytes."""
    written = 0
    with contextlib.suppress(BlockingIOError), socket.socket(fileno=os.dup(conn.fileno())) as s:
        while True:
            written += s.send(bytes(65536))
    return written


def run_threads(*functions):
    """Run plain threads to their end while goroutines go on; their results."""
    done = runtime.Chan(len(functions))

    def run(i, function):
        try:
            done.send((i, function(), None))
        except BaseException as e:
            done.send((i, None, e))

    threads = [threading.Thread(target=run, args=item) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    outcomes = sorted((done.recv(NEVER) for _ in threads), key=lambda outcome: outcome[0])
    for thread in threads:
        thread.join()
    for _, _, error in outcomes:
        if error is not None:
            raise error
    return [result for _, result, _ in outcomes]


# ---- reading and writing ----


def test_echo_returns_each_message(pair):
    client, server = pair

    def echo():
        while data := server.read():
            server.write(data)
        server.close_write()

    g = runtime.go(echo)
    for n in (1, 2, 100, 65535, 65536, 65537):
        message = os.urandom(n)
        assert client.write(message) == n
        assert client.read_exactly(n) == message
    client.close_write()
    assert client.read() == b""
    g.join(NEVER)


def test_read_waits_for_data_and_takes_what_is_there(pair, parked):
    client, server = pair
    g = runtime.go(client.read, 3)
    parked(g)
    server.write(b"abcdef")
    assert g.join(NEVER) == b"abc"
    assert client.read() == b"def"


def test_read_of_nothing_returns_at_once(pair):
    client, _ = pair
    assert client.read(0) == b""
    assert client.read_into(bytearray()) == 0


def test_read_arguments_are_checked(pair):
    client, _ = pair
    with pytest.raises(ValueError, match="0 or more, not -1"):
        client.read(-1)
    with pytest.raises(TypeError, match=r"read\(n=65536\)"):
        client.read(1, 2)
    with pytest.raises(TypeError):
        client.read("1")
    with pytest.raises(OverflowError):
        client.read(1 << 64)
    with pytest.raises(TypeError):
        client.write("text")
    with pytest.raises(BufferError):
        client.read_into(b"read-only")
    with pytest.raises(TypeError):
        client.unread(bytearray(b"x"))
    with pytest.raises(BufferError):
        client.write(memoryview(bytearray(10))[::2])


def test_read_into_fills_a_part_of_the_buffer(pair, parked):
    client, server = pair
    buffer = bytearray(b"........")
    g = runtime.go(client.read_into, memoryview(buffer)[2:7])
    parked(g)
    server.write(b"abc")
    assert g.join(NEVER) == 3
    assert buffer == b"..abc..."


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: array.array("B", b)])
def test_write_takes_any_buffer(pair, kind):
    client, server = pair
    assert client.write(kind(b"some bytes")) == 10
    assert client.write(kind(b"")) == 0
    assert server.read() == b"some bytes"


def test_big_transfer_waits_for_the_reader(pair, parked):
    client, server = pair
    data = random.Random(1).randbytes(32 * MB)

    def send():
        assert client.write(data) == len(data)
        client.close_write()

    g = runtime.go(send)
    parked(g)  # the buffers hold less
    digest, size = hashlib.sha256(), 0
    while chunk := server.read(100_000):
        digest.update(chunk)
        size += len(chunk)
    assert size == len(data)
    assert digest.digest() == hashlib.sha256(data).digest()
    g.join(NEVER)


@pytest.mark.parametrize("seed", range(10))
def test_random_sizes_in_both_directions_lose_nothing(pair, seed):
    rng = random.Random(seed)
    payloads = [rng.randbytes(rng.randrange(MB)) for _ in range(2)]

    def send(conn, data, rng):
        at = 0
        while at < len(data):
            n = rng.choice([1, 10, 1000, 70_000])
            conn.write(data[at : at + n])
            at += n
            if rng.random() < 0.3:
                runtime.gosched()
        conn.close_write()

    def receive(conn, rng):
        parts = []
        while part := conn.read(rng.choice([1, 100, 4096, 65536])):
            parts.append(part)
            if rng.random() < 0.3:
                runtime.gosched()
        return b"".join(parts)

    senders = [
        runtime.go(send, conn, data, random.Random(seed + i))
        for i, (conn, data) in enumerate(zip(pair, payloads, strict=True))
    ]
    receivers = [runtime.go(receive, conn, random.Random(seed - i)) for i, conn in enumerate(pair)]
    assert [g.join(NEVER) for g in receivers] == payloads[::-1]
    for g in senders:
        g.join(NEVER)


def test_end_that_comes_with_the_data_is_seen(tcp, parked):
    client, server = tcp
    g = runtime.go(client.read)
    parked(g)
    server.write(b"1")
    assert g.join(NEVER) == b"1"
    # An edge while nobody reads: data and the end together.
    server.write(b"2")
    server.close()
    runtime.sleep(SOON)  # dispatches the edge, or not: both must work
    assert client.read() == b"2"
    assert client.read() == b""
    assert client.read() == b""


def test_data_that_comes_while_nobody_reads_is_seen(pair, parked):
    client, server = pair
    g = runtime.go(client.read)
    parked(g)
    server.write(b"1")
    assert g.join(NEVER) == b"1"
    for message in (b"2", b"3"):
        server.write(message)
        runtime.sleep(0)
        assert client.read(65536) == message
        server.write(message)
        assert client.read(65536) == message


def test_half_closed_connection_still_sends(pair):
    client, server = pair
    client.close_write()
    assert server.read() == b""
    server.write(b"answer")
    server.close()
    assert read_all(client) == b"answer"


def test_unix_read_that_stops_at_a_passed_descriptor_goes_on(unix, parked):
    left, right = unix
    g = runtime.go(left.read)
    parked(g)
    right.write(b"1")
    assert g.join(NEVER) == b"1"
    with socket.socket(fileno=os.dup(right.fileno())) as s:
        s.sendmsg([b"2"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", s.fileno()))])
        s.send(b"3")
    left.set_deadline(NEVER)
    assert left.read_exactly(2) == b"23"


# ---- whole pieces ----


def test_read_exactly_waits_for_all(pair, parked):
    client, server = pair
    g = runtime.go(client.read_exactly, 6)
    parked(g)
    server.write(b"abc")
    parked(g)
    server.write(b"defghi")
    assert g.join(NEVER) == b"abcdef"
    assert client.read_exactly(0) == b""
    assert client.read() == b"ghi"


def test_read_exactly_at_the_end_keeps_the_part(pair):
    client, server = pair
    server.write(b"abc")
    server.close()
    with pytest.raises(net.UnexpectedEOFError, match="after 3 bytes") as e:
        client.read_exactly(4)
    assert e.value.partial == b"abc"
    with pytest.raises(EOFError) as e:
        client.read_exactly(1)
    assert e.value.partial == b""


def test_read_exactly_of_much_is_whole(pair):
    client, server = pair
    data = random.Random(2).randbytes(3 * MB + 1)
    g = runtime.go(server.write, data)
    assert client.read_exactly(len(data)) == data
    g.join(NEVER)


def test_read_exactly_time_out_loses_nothing(pair):
    client, server = pair
    server.write(b"abc")
    client.set_deadline(SOON)
    with pytest.raises(TimeoutError):
        client.read_exactly(4)
    client.set_deadline(None)
    server.write(b"d")
    assert client.read_exactly(4) == b"abcd"


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_read_until_splits_at_the_delimiter(pair, step, parked):
    client, server = pair
    text = b"one\r\n\r\ntwo\r\r\n\r\n\r\nrest"

    def send():
        for i in range(0, len(text), step):
            server.write(text[i : i + step])
            runtime.gosched()
        server.close_write()

    runtime.go(send)
    assert client.read_until(b"\r\n\r\n") == b"one\r\n\r\n"
    assert client.read_until(b"\r\n\r\n") == b"two\r\r\n\r\n"
    assert client.read_until(b"\r\n") == b"\r\n"
    assert client.read(1) == b"r"
    with pytest.raises(net.UnexpectedEOFError) as e:
        client.read_until(b"\n")
    assert e.value.partial == b"est"
    with pytest.raises(net.UnexpectedEOFError) as e:
        client.read_until(b"\n")
    assert e.value.partial == b""


def test_read_until_limit_counts_the_delimiter_and_loses_nothing(pair):
    client, server = pair
    server.write(b"12345\n67890")
    with pytest.raises(ValueError, match="within 5 bytes"):
        client.read_until(b"\n", 5)
    assert client.read_until(b"\n", 6) == b"12345\n"
    client.set_deadline(SOON)
    with pytest.raises(TimeoutError):
        client.read_until(b"\n")
    client.set_deadline(None)
    server.write(b"\n")
    assert client.read_until(b"\n") == b"67890\n"
    with pytest.raises(ValueError, match="empty"):
        client.read_until(b"")


def test_unread_bytes_come_first_and_in_order(pair):
    client, server = pair
    server.write(b"end")
    client.unread(b"")
    client.unread(b"cd")
    assert client.read(1) == b"c"
    client.unread(b"ab")
    assert client.read(2) == b"ab"
    buffer = bytearray(5)
    assert client.read_into(buffer) == 1
    assert buffer[:1] == b"d"
    assert client.read() == b"end"


# ---- deadlines ----


def test_read_deadline_ends_a_waiting_read(pair, parked):
    client, server = pair
    client.set_read_deadline(SOON)
    with pytest.raises(TimeoutError, match="read: the time is up"):
        client.read()
    with pytest.raises(TimeoutError):  # it stays
        client.read()
    client.set_read_deadline(None)
    server.write(b"x")
    assert client.read() == b"x"


def test_write_deadline_ends_a_waiting_write(pair):
    client, server = pair
    fill(client)
    client.set_write_deadline(SOON)
    with pytest.raises(TimeoutError, match="write: the time is up"):
        client.write(bytes(10 * MB))
    client.set_write_deadline(None)
    server.write(b"reads still work")
    assert client.read() == b"reads still work"


def test_past_deadline_fails_even_where_nothing_waits(pair):
    client, server = pair
    server.write(b"x")
    client.set_deadline(-1)
    with pytest.raises(TimeoutError):
        client.read()
    with pytest.raises(TimeoutError):
        client.write(b"x")
    client.set_deadline(None)
    assert client.read() == b"x"


@pytest.mark.parametrize("seconds", [0, -5.0, SOON])
def test_deadline_set_meanwhile_wakes_all_readers(pair, parked, seconds):
    client, _ = pair
    readers = [runtime.go(client.read) for _ in range(3)]
    parked(*readers)
    client.set_deadline(seconds)
    for g in readers:
        with pytest.raises(TimeoutError):
            g.join(NEVER)


def test_deadline_taken_back_meanwhile_lets_the_reader_wait(pair, parked):
    client, server = pair
    while True:
        start = now()
        client.set_deadline(SOON)
        g = runtime.go(client.read)
        until(lambda g=g: g.wait_reason == "IO wait" or g.done())
        client.set_deadline(None)
        if now() < start + SOON:  # it had not passed yet
            break
        g.cancel()
        with pytest.raises((TimeoutError, runtime.Cancelled)):
            g.join(NEVER)
    runtime.sleep(2 * SOON)
    parked(g)
    client.set_deadline(NEVER)
    parked(g)
    server.write(b"late")
    assert g.join(NEVER) == b"late"


def test_deadline_moved_closer_meanwhile_counts(pair, parked):
    client, _ = pair
    client.set_read_deadline(NEVER)
    g = runtime.go(client.read)
    parked(g)
    client.set_read_deadline(SOON)
    with pytest.raises(TimeoutError):
        g.join(NEVER / 2)


def test_deadline_that_is_no_time_is_refused(pair):
    client, _ = pair
    with pytest.raises(ValueError):
        client.set_deadline(float("nan"))
    with pytest.raises(TypeError):
        client.set_deadline("1")


# ---- closing ----


def test_close_wakes_readers_and_writers(pair, parked):
    client, _ = pair
    fill(client)
    waiting = [runtime.go(client.read) for _ in range(3)]
    waiting += [runtime.go(client.write, bytes(10 * MB)) for _ in range(3)]
    parked(*waiting)
    client.close()
    for g in waiting:
        with pytest.raises(net.ClosedError, match="use of closed network connection"):
            g.join(NEVER)


def test_closed_connection_refuses_everything(pair):
    client, _ = pair
    remote = client.remote_addr
    client.close()
    client.close()
    assert client.closed
    assert client.remote_addr == remote
    assert "closed" in repr(client)
    for call in (
        client.read,
        lambda: client.read_into(bytearray(1)),
        lambda: client.write(b"x"),
        lambda: client.write(b""),
        lambda: client.read_exactly(1),
        client.read_until,
        client.close_write,
        client.fileno,
        client.detach,
        client.set_no_delay,
        lambda: client.set_deadline(1),
        lambda: client.local_addr,
        lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
    ):
        with pytest.raises(net.ClosedError):
            call()


def test_closed_error_is_an_os_error():
    assert issubclass(net.ClosedError, OSError)
    assert net.ClosedError.__module__ == "runtime.net"


def test_close_in_the_middle_of_turns_leaves_nobody_behind(pair, parked):
    client, server = pair
    readers = [runtime.go(client.read, 1) for _ in range(4)]
    parked(*readers)
    server.write(b"x")  # wakes one, who hands the turn on
    runtime.go(client.close)
    outcomes = []
    for g in readers:
        try:
            outcomes.append(g.join(NEVER))
        except net.ClosedError:
            outcomes.append(None)
    assert outcomes.count(None) >= 3


def test_forgotten_connection_is_closed_with_a_warning(tcp):
    client, _ = tcp
    conn = net.Conn(os.dup(client.fileno()))
    gone = weakref.ref(conn)
    fd = conn.fileno()
    with pytest.warns(ResourceWarning, match="unclosed <Conn tcp"):
        del conn
    assert gone() is None
    with pytest.raises(OSError):
        os.fstat(fd)


def test_detached_descriptor_belongs_to_the_caller(pair, parked):
    client, server = pair
    g = runtime.go(client.read)
    parked(g)
    with socket.socket(fileno=client.detach()) as s:
        with pytest.raises(net.ClosedError):
            g.join(NEVER)
        s.send(b"x")
        assert server.read() == b"x"
        assert client.closed


def test_reset_by_peer_is_an_error(tcp, parked):
    client, server = tcp
    g = runtime.go(client.read)
    parked(g)
    # Linger for 0 seconds: close sends a reset.
    with socket.socket(fileno=server.detach()) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with pytest.raises(ConnectionResetError):
        g.join(NEVER)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        client.write(b"x")


def test_reset_wakes_a_waiting_writer(tcp, parked):
    client, server = tcp
    g = runtime.go(client.write, bytes(64 * MB))
    parked(g)
    server.close()  # with data unread: a reset
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        g.join(NEVER)


def test_interrupt_ends_a_read_and_leaves_the_connection_usable(pair, parked):
    client, server = pair
    main = runtime.current()
    runtime.go(lambda: (parked(main), signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        client.read()
    for message in (b"1", b"2"):
        runtime.go(server.write, message)
        assert client.read() == message


# ---- several at a time ----


def test_writes_of_many_goroutines_are_not_interleaved(pair):
    client, server = pair
    size, writers, rounds = 300_000, 6, 4

    def send(i):
        for _ in range(rounds):
            client.write(bytes([i]) * size)

    goroutines = [runtime.go(send, i) for i in range(writers)]
    seen = []
    for _ in range(writers * rounds):
        record = server.read_exactly(size)
        assert record == record[:1] * size
        seen.append(record[0])
    assert sorted(seen) == sorted(list(range(writers)) * rounds)
    for g in goroutines:
        g.join(NEVER)


def test_waiting_readers_are_served_in_order(pair, parked):
    client, server = pair
    readers = []
    for _ in range(5):
        readers.append(runtime.go(client.read, 1))
        parked(readers[-1])
    server.write(b"abcde")
    assert [g.join(NEVER) for g in readers] == [b"a", b"b", b"c", b"d", b"e"]


def test_one_reads_while_another_writes(pair, parked):
    client, server = pair
    reader = runtime.go(client.read)
    writer = runtime.go(client.write, bytes(16 * MB))
    parked(reader, writer)
    server.write(b"to the reader")
    assert reader.join(NEVER) == b"to the reader"
    assert len(server.read_exactly(16 * MB)) == 16 * MB
    assert writer.join(NEVER) == 16 * MB


def test_thousand_connections_echo():
    listener = net.listen("tcp", "127.0.0.1:0")

    def echo(conn):
        with conn:
            while data := conn.read():
                conn.write(data)

    def serve():
        for conn in listener:
            runtime.go(echo, conn)

    server = runtime.go(serve)
    clients = [net.dial("tcp", str(listener.addr)) for _ in range(1000)]
    for round in range(3):
        for i, conn in enumerate(clients):
            conn.write(b"%d %d\n" % (round, i))
        for i, conn in enumerate(clients):
            assert conn.read_until(b"\n") == b"%d %d\n" % (round, i)
    for conn in clients:
        conn.close_write()
    for conn in clients:
        assert conn.read() == b""
        conn.close()
    listener.close()
    server.join(NEVER)


# ---- plain threads ----


def test_plain_threads_talk_to_each_other(pair):
    client, server = pair
    data = random.Random(3).randbytes(8 * MB)

    def send():
        client.write(data)
        client.close_write()

    assert run_threads(send, lambda: read_all(server))[1] == data


def test_plain_thread_and_goroutine_ping_pong(pair):
    client, server = pair

    def play(conn):
        for i in range(200):
            conn.write(b"%d\n" % i)
            assert conn.read_until(b"\n") == b"%d\n" % i
        return "done"

    g = runtime.go(play, client)
    assert run_threads(lambda: play(server)) == ["done"]
    assert g.join(NEVER) == "done"


def test_plain_thread_is_woken_by_close_and_deadline(pair):
    client, server = pair
    entered = runtime.Chan(2)

    def wait(conn, error):
        entered.send(runtime.current())
        with pytest.raises(error):
            conn.read()

    def act():
        for thread in (entered.recv(), entered.recv()):
            while thread.state != "waiting":
                runtime.gosched()
        server.set_deadline(0)  # before the other end's close: that ends its stream
        client.close()

    runtime.go(act)
    run_threads(lambda: wait(client, net.ClosedError), lambda: wait(server, TimeoutError))


def test_plain_thread_deadline_ends_its_read(pair):
    client, _ = pair
    client.set_deadline(SOON)

    def wait():
        with pytest.raises(TimeoutError):
            client.read()

    run_threads(wait)


def test_goroutines_of_threads_go_on_while_the_main_thread_is_stuck(pair, parked):
    client, server = pair
    # Both descriptors are registered with the main thread's poller first.
    goroutines = [runtime.go(conn.read, 1) for conn in pair]
    parked(*goroutines)
    client.write(b"x")
    server.write(b"x")
    for g in goroutines:
        g.join(NEVER)

    def echo():
        while data := server.read():
            server.write(data)

    def main():
        g = runtime.go(echo)
        client.set_deadline(NEVER)
        for _ in range(10):
            client.write(b"ping")
            assert client.read() == b"ping"
        client.close_write()
        g.join(NEVER)
        ended.append(True)

    ended = []
    thread = threading.Thread(target=main)
    thread.start()
    thread.join(NEVER)  # not a scheduling point: nothing polls here
    assert ended


def test_connection_closed_by_a_thread_while_the_main_thread_polls(tcp):
    """Many times, so that some events are taken but not yet dispatched."""
    with net.listen("tcp", "127.0.0.1:0") as listener:
        stop = []

        def churn():
            for _ in range(300):
                with socket.create_connection(listener.addr) as s:
                    s.send(b"x")
                    conns.recv().close()
            stop.append(True)
            socket.create_connection(listener.addr).close()

        conns = runtime.Chan(1)
        thread = threading.Thread(target=churn)
        thread.start()
        while True:
            conn = listener.accept()
            if stop:
                conn.close()
                break
            assert conn.read() == b"x"
            runtime.go(pytest.raises, (EOFError, OSError), conn.read_exactly, 1)
            runtime.gosched()
            conns.send(conn)
        thread.join()


# ---- addresses and options ----


def test_addresses_of_tcp_connection_match(tcp):
    client, server = tcp
    assert client.local_addr == server.remote_addr
    assert client.remote_addr == server.local_addr
    assert client.remote_addr.network == "tcp"
    host, port = client.remote_addr
    assert str(client.remote_addr) == f"{host}:{port}"
    assert repr(client) == (
        f"<TCPConn tcp {client.local_addr} fd={client.fileno()} -> {client.remote_addr}>"
    )


def test_addresses_of_unnamed_unix_connection_are_empty(unix):
    left, _ = unix
    assert left.local_addr == left.remote_addr == net.UnixAddr("")
    assert left.local_addr.network == "unix"


def test_no_delay_is_on_for_both_ends(tcp):
    for conn in tcp:
        assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        conn.set_no_delay(False)
        assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        conn.set_no_delay()
        assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_no_delay_of_unix_connection_does_nothing(unix):
    unix[0].set_no_delay()


# ---- bare descriptors ----


def test_netfd_of_a_pipe_reads_and_writes(parked):
    r, w = os.pipe()
    reader, writer = NetFD(r), NetFD(w)
    assert not os.get_blocking(r)
    g = runtime.go(writer.write, bytes(MB))
    parked(g)
    got = 0
    while got < MB:
        got += len(reader.read(10_000))
    assert g.join(NEVER) == MB
    writer.close()
    assert reader.read() == b""
    reader.close()


def test_netfd_of_no_descriptor_is_refused():
    with pytest.raises(OSError):
        NetFD(-1)
    with pytest.raises(TypeError):
        NetFD("1")


@pytest.mark.parametrize("procs", [1], indirect=True)  # one poller
def test_netfd_that_cannot_be_polled_says_so(parked):
    a, b = socket.socketpair()
    with b:
        a.setblocking(False)
        one, other = NetFD(a.fileno()), NetFD(a.fileno())  # the same descriptor twice
        g = runtime.go(one.read)
        parked(g)
        with pytest.raises(FileExistsError):
            other.read()
        other.detach()
        b.send(b"x")
        assert g.join(NEVER) == b"x"
        one.detach()
        a.close()
