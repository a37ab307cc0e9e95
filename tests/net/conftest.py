"""Fixtures of the network tests: real sockets, nothing left open."""

import contextlib
import gc
import os
import socket
from collections.abc import Callable, Iterator

import pytest

runtime = pytest.importorskip("runtime", reason="the extension modules are not built")
from runtime import net  # noqa: E402
from runtime.time import now  # noqa: E402

PROCS = [1, 2, 4]


def left_open() -> tuple[int, int]:
    """Open descriptors but those of pollers, and how many are registered with pollers."""
    kinds = []
    for fd in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the list's own
            kinds.append(os.readlink(f"/dev/fd/{fd}"))
    return (
        sum(not kind.startswith("anon_inode:") for kind in kinds),
        sum(p["descriptors"] for p in runtime.stats()["ps"]),
    )


@pytest.fixture(params=PROCS)
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test with several numbers of Ps."""
    before = runtime.gomaxprocs(request.param)
    yield request.param
    runtime.gomaxprocs(before)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    before = left_open()
    yield
    end = now() + 20
    while True:  # goroutines and threads may be about to close theirs
        descriptors, registered = left_open()
        if (descriptors <= before[0] and registered <= before[1]) or now() > end:
            break
        gc.collect()
        runtime.sleep(0.001)
    assert descriptors <= before[0]
    assert registered <= before[1]


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
