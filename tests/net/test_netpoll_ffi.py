"""The poller as Python sees it: ``runtime._netpoll``, with real sockets."""

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from runtime import _netpoll

ffi, lib = _netpoll.ffi, _netpoll.lib

MS = 1_000_000
IN, OUT, HUP, ERR = lib.RT_POLL_IN, lib.RT_POLL_OUT, lib.RT_POLL_HUP, lib.RT_POLL_ERR


class Poller:
    """A thin wrapper: integers as data, a dict of events."""

    def __init__(self) -> None:
        self.ops = lib.rt_netpoll_default()
        out = ffi.new("rt_netpoll **")
        assert self.ops.open(out) == 0
        self.np = out[0]
        self.events = ffi.new("rt_poll_event[]", 64)

    def add(self, fd: int, data: int) -> int:
        return self.ops.add(self.np, fd, ffi.cast("void *", data))

    def modify(self, fd: int, data: int) -> int:
        return self.ops.modify(self.np, fd, ffi.cast("void *", data))

    def remove(self, fd: int) -> int:
        return self.ops.remove(self.np, fd)

    def wake(self) -> int:
        return self.ops.wake(self.np)

    def wait(self, timeout_ns: int) -> dict[int, int]:
        n = self.ops.wait(self.np, self.events, 64, timeout_ns, ffi.NULL)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        modes: dict[int, int] = {}
        for e in self.events[0:n]:  # the directions may come one by one
            data = int(ffi.cast("uintptr_t", e.data))
            modes[data] = modes.get(data, 0) | e.mode
        return modes

    def close(self) -> None:
        self.ops.close(self.np)


@pytest.fixture
def poller() -> Iterator[Poller]:
    p = Poller()
    yield p
    p.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    a.setblocking(False)
    with a, b:
        yield a, b


def test_table_names_the_platforms_backend() -> None:
    ops = lib.rt_netpoll_default()
    usual = "epoll" if hasattr(select, "epoll") else "kqueue"
    assert ffi.string(ops.name).decode() == os.environ.get("GOSCHED_NETPOLL", usual)
    assert int(ffi.cast("uintptr_t", ops)) != 0
    assert ops == lib.rt_netpoll_default()


def test_open_close_leaves_no_descriptor() -> None:
    before = set(os.listdir("/dev/fd"))
    p = Poller()
    assert len(os.listdir("/dev/fd")) > len(before)
    p.close()
    assert len(os.listdir("/dev/fd")) <= len(before)


def test_socket_reports_edges(poller: Poller, pair: Any) -> None:
    a, b = pair
    assert poller.add(a.fileno(), 7) == 0
    assert poller.wait(0) == {7: OUT}
    assert poller.wait(0) == {}
    b.send(b"x")
    assert poller.wait(-1)[7] & IN
    assert poller.wait(0) == {}
    assert poller.modify(a.fileno(), 2**47 - 1) == 0
    assert poller.wait(0) == {2**47 - 1: IN | OUT}
    b.shutdown(socket.SHUT_WR)
    assert poller.wait(-1)[2**47 - 1] & (IN | HUP) == IN | HUP
    assert poller.remove(a.fileno()) == 0
    assert poller.wait(0) == {}


def test_refused_connection_reports_error(poller: Poller) -> None:
    with socket.socket() as bound, socket.socket() as s:
        bound.bind(("127.0.0.1", 0))
        s.setblocking(False)
        with pytest.raises(OSError):
            s.connect(bound.getsockname())
            raise ConnectionRefusedError
        assert poller.add(s.fileno(), 1) == 0
        assert poller.wait(-1)[1] & ERR


@pytest.mark.parametrize("operation", ["add", "modify", "remove"])
def test_closed_descriptor_is_ebadf(poller: Poller, operation: str) -> None:
    s = socket.socket()
    fd = s.fileno()
    s.close()
    args = (fd,) if operation == "remove" else (fd, 1)
    assert getattr(poller, operation)(*args) == -errno.EBADF


def test_regular_file_is_eperm(poller: Poller, tmp_path: Any) -> None:
    with open(tmp_path / "file", "w") as f:
        assert poller.add(f.fileno(), 1) == -errno.EPERM


def test_wait_timeout_is_not_early(poller: Poller) -> None:
    start = time.monotonic_ns()
    assert poller.wait(2 * MS) == {}
    assert time.monotonic_ns() - start >= 2 * MS


def test_wake_before_wait_ends_it_once(poller: Poller) -> None:
    assert [poller.wake() for _ in range(3)] == [0, 0, 0]
    assert poller.wait(-1) == {}
    start = time.monotonic_ns()
    assert poller.wait(1 * MS) == {}
    assert time.monotonic_ns() - start >= 1 * MS


def test_wake_from_thread_ends_wait(poller: Poller) -> None:
    # Also shows that the call releases the GIL: else the thread could not run.
    thread = threading.Timer(0.005, poller.wake)
    thread.start()
    assert poller.wait(-1) == {}
    thread.join()


def test_signal_interrupts_wait(poller: Poller) -> None:
    hits: list[int] = []
    old = signal.signal(signal.SIGALRM, lambda signum, frame: hits.append(signum))
    try:
        # Repeated, in case the first one comes before the wait.
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        with pytest.raises(InterruptedError):
            poller.wait(-1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert hits
