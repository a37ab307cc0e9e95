"""Fixtures of the network tests: real sockets, nothing left open."""

import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

runtime = pytest.importorskip("runtime", reason="the extension modules are not built")
from runtime import net  # noqa: E402


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/dev/fd"))


def registered() -> list[int]:
    return [p["descriptors"] for p in runtime.stats()["ps"]]


@pytest.fixture(scope="session")
def auxiliary_thread() -> None:
    """Start the runtime's own thread for plain threads: its poller stays open."""
    thread = threading.Thread(target=lambda: runtime.go(int).join())
    thread.start()
    thread.join()


@pytest.fixture(autouse=True)
def nothing_left_open(auxiliary_thread: None) -> Iterator[None]:
    before = descriptors(), registered()
    yield
    assert (descriptors(), registered()) == before


@pytest.fixture
def parked() -> Callable[..., None]:
    """Wait until goroutines wait for I/O."""

    def wait(*goroutines: runtime.Goroutine) -> None:
        for g in goroutines:
            while g.wait_reason != "IO wait":
                assert not g.done(), "it ended instead of waiting"
                runtime.gosched()

    return wait


@pytest.fixture
def tcp() -> Iterator[tuple[net.Conn, net.Conn]]:
    """Both ends of a TCP connection."""
    with (
        net.listen("tcp", "127.0.0.1:0") as listener,
        net.dial("tcp", str(listener.addr)) as client,
        listener.accept() as server,
    ):
        yield client, server


@pytest.fixture
def unix() -> Iterator[tuple[net.Conn, net.Conn]]:
    """Both ends of a unix connection."""
    a, b = socket.socketpair()
    with net.Conn(a.detach()) as left, net.Conn(b.detach()) as right:
        yield left, right


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> tuple[net.Conn, net.Conn]:
    """Both ends of a connection, of either kind."""
    ends: tuple[net.Conn, net.Conn] = request.getfixturevalue(request.param)
    return ends
