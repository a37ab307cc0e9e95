"""Connections in memory."""

import random
import threading

import pytest
from certs import Authority
from hypothesis import given
from hypothesis import strategies as st

import runtime
from runtime import net
from waits import parked

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0
SOON = 0.02


@pytest.fixture
def ends():
    return net.pipe()


def test_write_waits_until_all_is_read(ends):
    a, b = ends
    g = parked(runtime.go(a.write, b"abcdef"))
    assert b.read(2) == b"ab"
    parked(g)
    assert b.read(3) == b"cde"
    parked(g)
    assert b.read() == b"f"
    assert g.join(NEVER) == 6


def test_read_returns_one_write_at_a_time(ends):
    a, b = ends
    writers = [parked(runtime.go(a.write, data)) for data in (b"one", b"two")]
    assert [b.read(), b.read()] == [b"one", b"two"]
    for g in writers:
        g.join(NEVER)


def test_both_directions_at_once(ends):
    def talk(conn, seed):
        rng = random.Random(seed)
        sent = rng.randbytes(100_000)

        def send():
            at = 0
            while at < len(sent):
                n = rng.choice([1, 10, 5000])
                conn.write(memoryview(sent)[at : at + n])
                at += n
            conn.close_write()

        g = runtime.go(send)
        received = b"".join(iter(lambda: conn.read(rng.choice([1, 7, 4096])), b""))
        g.join(NEVER)
        return sent, received

    one, other = [runtime.go(talk, conn, i) for i, conn in enumerate(ends)]
    assert one.join(NEVER) == other.join(NEVER)[::-1]


@given(
    writes=st.lists(st.binary(max_size=20), max_size=8),
    reads=st.lists(st.integers(1, 25), min_size=1),
    ends_itself=st.booleans(),
)
def test_stream_is_what_was_written(writes, reads, ends_itself):
    a, b = net.pipe()

    def write():
        for data in writes:
            assert a.write(data) == len(data)
        if ends_itself:
            a.close_write()
        else:
            a.close()

    g = runtime.go(write)
    got = bytearray()
    turn = 0
    while data := b.read(reads[turn % len(reads)]):
        assert len(data) <= reads[turn % len(reads)]
        got += data
        turn += 1
    assert got == b"".join(writes)
    g.join(NEVER)


def test_whole_pieces_and_bytes_put_back(ends):
    a, b = ends
    g = runtime.go(a.write, b"line\nabc")
    assert b.read_until() == b"line\n"
    b.unread(b"0")
    buffer = bytearray(1)
    assert b.read_into(buffer) == 1
    assert buffer == b"0"
    assert b.read_exactly(3) == b"abc"
    g.join(NEVER)
    a.close()
    with pytest.raises(net.UnexpectedEOFError):
        b.read_exactly(1)


def test_nothing_is_read_or_written_at_once(ends):
    a, b = ends
    assert a.write(b"") == 0
    assert b.read(0) == b""
    with pytest.raises(ValueError, match="0 or more"):
        b.read(-1)
    with pytest.raises(BufferError):
        b.read_into(b"x")


def test_close_of_this_end_wakes_its_users(ends):
    a, _ = ends
    users = [parked(runtime.go(a.read)), parked(runtime.go(a.write, b"x"))]
    users.append(parked(runtime.go(a.write, b"waits its turn")))
    a.close()
    a.close()
    assert a.closed and "closed" in repr(a)
    for g in users:
        with pytest.raises(net.ClosedError):
            g.join(NEVER)
    for use in (a.read, lambda: a.write(b"x"), a.close_write, lambda: a.set_deadline(1)):
        with pytest.raises(net.ClosedError):
            use()


def test_close_of_the_other_end_is_the_end(ends):
    a, b = ends
    reader, writer = parked(runtime.go(a.read)), parked(runtime.go(a.write, b"x"))
    b.close()
    assert reader.join(NEVER) == b""
    with pytest.raises(BrokenPipeError, match="the peer"):
        writer.join(NEVER)
    assert a.read() == b""


def test_half_closed_pipe_still_receives(ends):
    a, b = ends
    reader = parked(runtime.go(b.read))
    a.close_write()
    assert reader.join(NEVER) == b""
    with pytest.raises(BrokenPipeError, match="this end"):
        a.write(b"x")
    g = runtime.go(b.write, b"answer")
    assert a.read() == b"answer"
    g.join(NEVER)


def test_deadlines_end_waits_and_can_be_moved(ends):
    a, b = ends
    for use, setter in (
        (a.read, a.set_read_deadline),
        (lambda: a.write(b"x"), a.set_write_deadline),
        (a.read, a.set_deadline),
    ):
        setter(SOON)
        with pytest.raises(TimeoutError):
            use()
        with pytest.raises(TimeoutError):
            use()
        setter(None)
        g = parked(runtime.go(use))
        setter(NEVER)
        parked(g)
        setter(0)
        with pytest.raises(TimeoutError):
            g.join(NEVER)
        setter(None)
    g = runtime.go(a.write, b"x")
    assert b.read() == b"x"
    g.join(NEVER)


def test_write_that_times_out_has_given_what_was_read(ends):
    a, b = ends
    g = parked(runtime.go(a.write, b"abc"))
    assert b.read(1) == b"a"
    parked(g)
    a.set_write_deadline(0)
    with pytest.raises(TimeoutError):
        g.join(NEVER)
    a.set_write_deadline(None)
    g = runtime.go(a.write, b"next")
    assert b.read() == b"next"
    g.join(NEVER)


def test_cancelled_users_leave_the_pipe_in_order(ends):
    a, b = ends
    for use in (a.read, lambda: a.write(b"x")):
        g = parked(runtime.go(use))
        g.cancel()
        with pytest.raises(runtime.Cancelled):
            g.join(NEVER)
    g = runtime.go(a.write, b"y")
    assert b.read() == b"y"
    g.join(NEVER)


def test_many_users_lose_nothing_while_deadlines_move(ends):
    a, b = ends
    count, stop = 200, []

    def write(i):
        for _ in range(count):
            a.write(bytes([i]) * 5)

    def read(seed):
        rng, got = random.Random(seed), bytearray()
        while True:
            try:
                data = b.read(rng.choice([1, 3, 100]))
            except TimeoutError:
                runtime.gosched()
                continue
            if not data:
                return got
            got += data

    def move():
        rng = random.Random(1)
        while not stop:
            b.set_read_deadline(rng.choice([None, 0, 0.0001, NEVER]))
            a.set_deadline(rng.choice([None, NEVER]))
            runtime.sleep(0.0001)
        b.set_deadline(None)

    writers = [runtime.go(write, i) for i in range(4)]
    readers = [runtime.go(read, i) for i in range(4)]
    mover = runtime.go(move)
    for g in writers:
        g.join(NEVER)
    stop.append(True)
    mover.join(NEVER)
    a.close()
    got = b"".join(g.join(NEVER) for g in readers)
    assert sorted(got) == sorted(b"".join(bytes([i]) * 5 * count for i in range(4)))


def test_plain_threads_use_it(ends):
    a, b = ends
    thread = threading.Thread(target=lambda: a.write(a.read_exactly(3) * 2))
    thread.start()
    b.write(b"abc")
    assert b.read_exactly(6) == b"abcabc"
    thread.join()


def test_tls_runs_over_it(ends, tmp_path):
    authority = Authority(tmp_path)
    client = net.tls.client(ends[0], authority.client_context(), server_hostname="localhost")
    server = net.tls.server(ends[1], authority.server_context())

    def serve():
        server.write(b"hello")  # the client must read before it writes: so do the tickets
        return server.read(), server.read()

    g = runtime.go(serve)
    assert client.read() == b"hello"
    client.write(b"abc")
    client.close()
    assert g.join(NEVER) == (b"abc", b"")
