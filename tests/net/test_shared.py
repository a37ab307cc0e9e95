"""Connections shared by goroutines of several Ps and plain threads.

Nothing may be lost, taken twice or left waiting, whatever happens at the same time.
GOSCHED_STRESS_ROUNDS=N repeats each test's rounds N times.
"""

import contextlib
import os
import random
import socket
import threading
from collections import Counter

import pytest

import runtime
from runtime import net

pytestmark = pytest.mark.usefixtures("procs")

ROUNDS = int(os.environ.get("GOSCHED_STRESS_ROUNDS", "1"))
NEVER = 120.0


class Together:
    """Goroutines and plain threads that begin at once, so that what is meant to collide does."""

    def __init__(self):
        self.start = runtime.Chan()
        self.ends = []
        self.threads = []

    def add(self, i, function, *args):
        """A plain thread for some of i, a goroutine for the others."""
        (self.thread if i % 3 == 0 else self.go)(function, *args)

    def go(self, function, *args):
        self.ends.append(runtime.go(self._run, function, args))

    def thread(self, function, *args):
        outcome = runtime.Chan(1)

        def run():
            try:
                outcome.send((self._run(function, args), None))
            except BaseException as e:
                outcome.send((None, e))

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()
        self.ends.append(outcome)

    def _run(self, function, args):
        self.start.recv_ok()
        return function(*args)

    def begin(self):
        self.start.close()

    def join(self):
        """Wait for all; the results, in the order of go() and thread()."""
        if not self.start.closed:
            self.begin()
        results = []
        for end in self.ends:
            if isinstance(end, runtime.Chan):
                result, error = end.recv(NEVER)
                if error is not None:
                    raise error
                results.append(result)
            else:
                results.append(end.join(NEVER))
        for thread in self.threads:
            thread.join()
        return results


def unix_pair():
    a, b = socket.socketpair()
    return net.Conn(a.detach()), net.Conn(b.detach())


def tcp_pair():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        return net.dial("tcp", str(listener.addr)), listener.accept()


PAIRS = pytest.mark.parametrize("make_pair", [tcp_pair, unix_pair], ids=["tcp", "unix"])


# ---- echo ----


def test_echo_over_many_connections_loses_nothing():
    listener = net.listen("tcp", "127.0.0.1:0")

    def echo(conn):
        with conn:
            while data := conn.read():
                conn.write(data)

    def serve():
        for conn in listener:
            runtime.go(echo, conn)

    def client(seed):
        rng = random.Random(seed)
        with net.dial("tcp", str(listener.addr), timeout=NEVER) as conn:
            conn.set_deadline(NEVER)
            for _ in range(20 * ROUNDS):
                message = rng.randbytes(rng.choice([1, 10, 1000, 30_000]))
                conn.write(message)
                assert conn.read_exactly(len(message)) == message
            conn.close_write()
            assert conn.read() == b""

    acceptors = [runtime.go(serve) for _ in range(4)]
    clients = Together()
    for i in range(64):
        clients.add(i, client, i)
    clients.join()
    listener.close()
    for g in acceptors:
        g.join(NEVER)


# ---- one connection, many users ----


@PAIRS
def test_bytes_of_many_writers_reach_many_readers_once(make_pair):
    """While deadlines change, bytes are put back, and the other direction is in use, too."""
    client, server = make_pair()
    count = 400 * ROUNDS
    stop = []

    def write(i):
        for _ in range(count):
            client.write(bytes([i]) * 100)

    def read(seed):
        rng = random.Random(seed)
        seen = Counter()
        while True:
            try:
                data = server.read(rng.choice([1, 50, 5000]))
            except TimeoutError:
                runtime.gosched()  # until the deadline is moved
                continue
            if not data:
                return seen
            if rng.random() < 0.2:
                server.unread(data)
            else:
                seen.update(data)

    def answer():
        for i in range(count):
            server.write(b"%6d" % i)

    def take_answers():
        return [int(client.read_exactly(6)) for _ in range(count)]

    def move_deadlines(seed):
        rng = random.Random(seed)
        while not stop:
            server.set_read_deadline(rng.choice([None, NEVER, 0, 0.0001]))
            client.set_write_deadline(rng.choice([None, NEVER]))
            server.set_write_deadline(rng.choice([None, NEVER]))
            repr(client), client.getsockname(), server.closed
            runtime.sleep(0.0001)

    readers, writers, movers = Together(), Together(), Together()
    for i in range(6):
        readers.add(i, read, i)
        writers.add(i, write, i)
    writers.go(answer)
    writers.thread(take_answers)
    for i in range(2):
        movers.add(i, move_deadlines, i)
    readers.begin()
    movers.begin()
    assert writers.join()[-1] == list(range(count))
    stop.append(True)
    movers.join()
    server.set_deadline(None)
    client.close_write()
    assert sum(readers.join(), Counter()) == dict.fromkeys(range(6), 100 * count)
    client.close()
    server.close()


def use(operation):
    """Repeat it until it returns something empty, or the connection is closed here or there."""
    with contextlib.suppress(net.ClosedError, BrokenPipeError, ConnectionResetError):
        while operation():
            pass


@PAIRS
def test_close_while_everything_is_used_ends_everything(make_pair):
    def once(seed):
        client, server = make_pair()
        users = Together()
        for i, operation in enumerate(
            [
                client.read,
                lambda: client.read_into(bytearray(10)),
                lambda: client.write(bytes(100)),
                lambda: client.write(bytes(1 << 20)),
                lambda: client.set_deadline(NEVER) is None,
                lambda: client.set_read_deadline(None) is None,
                lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
                lambda: client.getsockname() is not None,
                lambda: repr(client) and not client.closed,
                lambda: client.unread(b"x") or not client.closed,
                lambda: server.write(bytes(100)),
                server.read,
            ]
        ):
            users.add(i + seed, use, operation)
        for i in range(3):
            users.add(i, client.close)
        users.join()
        assert client.closed
        server.close()

    for seed in range(30 * ROUNDS):
        once(seed)


def test_descriptor_of_a_closed_connection_is_not_used_any_more():
    """Its number is given to a socket that nobody must read from or write to."""

    def once(seed):
        client, server = unix_pair()
        users = Together()
        for i, operation in enumerate([client.read, lambda: client.write(b"wrong")] * 2):
            users.add(i + seed, use, operation)
        users.go(use, lambda: server.write(b"x"))
        users.begin()
        if seed % 2:
            runtime.gosched()
        client.close()
        left, right = socket.socketpair()  # one of them most likely has the number
        with left, right:
            for a, b in ((left, right), (right, left)):
                b.settimeout(NEVER)
                a.sendall(b"right")
                assert b.recv(100) == b"right"
        server.close()
        users.join()

    for seed in range(100 * ROUNDS):
        once(seed)


def test_detached_descriptor_is_left_alone():
    for _ in range(50 * ROUNDS):
        client, server = unix_pair()

        def read(conn=client):
            data = b""
            with contextlib.suppress(net.ClosedError):
                while True:
                    data += conn.read(10)
            return data

        readers = Together()
        for i in range(4):
            readers.add(i, read)
        readers.begin()
        server.write(bytes(1000))
        with socket.socket(fileno=client.detach()) as s:
            s.setblocking(True)
            server.close_write()
            rest = b"".join(iter(lambda s=s: s.recv(100), b""))
        assert sum(map(len, readers.join())) + len(rest) == 1000
        server.close()


def test_bytes_put_back_by_many_are_read_once():
    client, server = unix_pair()
    users = Together()
    count = 300 * ROUNDS

    def put_back(i):
        for _ in range(count):
            client.unread(bytes([i]) * 3)

    def read(seed):
        rng = random.Random(seed)
        seen = Counter()
        with contextlib.suppress(TimeoutError):
            while True:
                seen.update(client.read(rng.choice([1, 2, 7, 1000])))
        return seen

    for i in range(4):
        users.add(i, put_back, i)
    users.join()
    client.set_deadline(0.5)
    users = Together()
    for i in range(4):
        users.add(i, put_back, i)
        users.add(i, read, i)
    seen = sum((result for result in users.join() if result is not None), Counter())
    client.set_deadline(60)
    seen.update(client.read_exactly(4 * 2 * 3 * count - seen.total()))
    assert seen == dict.fromkeys(range(4), 2 * 3 * count)
    client.set_deadline(0.01)
    assert not read(0)
    client.close()
    server.close()


# ---- connections that come and go ----


def test_connections_come_and_go_with_many_acceptors():
    listener = net.listen("tcp", "127.0.0.1:0")

    def accept():
        count = 0
        while True:
            try:
                conn = listener.accept()
            except TimeoutError:
                runtime.gosched()  # until the deadline is moved
                continue
            except net.ClosedError:
                return count
            count += 1
            runtime.go(answer, conn)

    def answer(conn):
        with conn:
            conn.write(conn.read_exactly(4))

    def dial(i):
        for n in range(25 * ROUNDS):
            with net.dial("tcp", str(listener.addr), timeout=NEVER) as conn:
                message = b"%2d%2d" % (i, n % 100)
                conn.write(message)
                assert conn.read_exactly(4) == message

    def move_deadline():
        for i in range(200 * ROUNDS):
            listener.set_deadline([None, 0, 0.0001, NEVER][i % 4])
            runtime.gosched()
        listener.set_deadline(None)

    acceptors = Together()
    for i in range(6):
        acceptors.add(i, accept)
    acceptors.begin()
    clients = Together()
    for i in range(16):
        clients.add(i, dial, i)
    clients.go(move_deadline)
    clients.join()
    closers = Together()
    closers.thread(listener.close)
    closers.go(listener.close)
    closers.join()
    assert sum(acceptors.join()) == 16 * 25 * ROUNDS


def test_port_is_free_once_the_listener_is_closed():
    for _ in range(20 * ROUNDS):
        listener = net.listen("tcp", "127.0.0.1:0")

        def accept(listener=listener):
            with contextlib.suppress(net.ClosedError):
                while True:
                    listener.accept().close()

        def dial(listener=listener):
            with contextlib.suppress(OSError):
                for _ in range(10):
                    net.dial("tcp", str(listener.addr)).close()
                    runtime.gosched()

        users = Together()
        for i in range(3):
            users.add(i, accept)
        users.go(dial)
        users.begin()
        runtime.gosched()
        listener.close()
        net.listen("tcp", str(listener.addr)).close()
        users.join()


def test_forgotten_connections_come_and_go():
    """Their state is used again at once, while edges for the old ones are under way."""

    def churn(i):
        for _ in range(50 * ROUNDS):
            client, server = unix_pair()
            g = runtime.go(client.read)
            server.write(b"%d" % i)
            assert g.join(NEVER) == b"%d" % i
            server.write(b"unread")
            client.close()
            server.close()
            del client, server

    users = Together()
    for i in range(8):
        users.add(i, churn, i)
    users.join()


# ---- a thread that is stuck ----


@pytest.mark.parametrize("procs", [1], indirect=True)  # the reader shall be the main thread's
@PAIRS
def test_writer_goes_on_while_the_thread_of_a_waiting_reader_is_stuck(make_pair, parked):
    def registered():
        return [p["descriptors"] for p in runtime.stats()["ps"]]

    client, server = make_pair()
    before = registered()
    reader = runtime.go(client.read)
    parked(reader)
    size = 16 << 20
    received = []
    threads = [
        threading.Thread(target=lambda: client.write(bytes(size))),
        threading.Thread(target=lambda: received.append(len(server.read_exactly(size)))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(NEVER)  # not a scheduling point: nothing polls here
    assert received == [size]
    server.write(b"x")
    assert reader.join(NEVER) == b"x"
    # Only the main thread's poller and, for the server, that of plain threads are used still.
    while sum(registered()) > sum(before) + 2:
        runtime.gosched()
    client.close()
    server.close()
    assert all(now <= then for now, then in zip(registered(), before, strict=False))


# ---- fork ----


@pytest.mark.parametrize("procs", [1], indirect=True)  # the parent reads nothing meanwhile
def test_forked_child_waits_for_inherited_connections(parked):
    client, server = tcp_pair()
    reader = runtime.go(client.read)  # has the turn, and registers it with the parent's poller
    parked(reader)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            client.set_deadline(NEVER)
            g = runtime.go(client.read)
            parked(g)
            os.write(server.fileno(), b"to the child")
            if g.join(NEVER) == b"to the child":
                client.close()
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    server.write(b"to the parent")
    assert reader.join(NEVER) == b"to the parent"
    client.close()
    server.close()
