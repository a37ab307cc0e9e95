"""Waiting where that is impossible: a clear error, and nothing is broken afterwards."""

import sys

import pytest

import runtime
from runtime import Chan, current, go, gosched, sleep

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


def test_waiting_in_a_key_function_works_or_is_refused() -> None:
    """list.sort() holds the list's lock while it calls key functions, where there is no GIL."""
    ch: Chan[int] = Chan()

    def key(n: int) -> int:
        assert current() is g
        gosched()
        sleep(0.001)
        return ch.recv()

    def run() -> list[int]:
        numbers = [1, 2, 3]
        numbers.sort(key=key)
        return numbers

    g = go(run)
    sender = go(lambda: [ch.send(-n) for n in range(3)])
    if FREE_THREADED:
        with pytest.raises(RuntimeError, match=r"gosched\(\) would wait while a built-in .* holds"):
            g.join()
        sender.cancel()
    else:
        assert g.join() == [3, 2, 1]
        sender.join()
    assert go(lambda: 1).join() == 1


def test_gomaxprocs_out_of_range_is_refused() -> None:
    before = runtime.gomaxprocs()
    for n in (0, -1, 257):
        with pytest.raises(ValueError, match=f"1 to 256, not {n}"):
            runtime.gomaxprocs(n)
    with pytest.raises(TypeError):
        runtime.gomaxprocs("2")  # type: ignore[arg-type]
    assert runtime.gomaxprocs() == before


def test_join_of_itself_is_refused() -> None:
    def run() -> None:
        with pytest.raises(RuntimeError, match="cannot join itself"):
            current().join()

    go(run).join()


def test_unlock_os_thread_without_lock_is_refused() -> None:
    with pytest.raises(RuntimeError, match="without lock_os_thread"):
        runtime.unlock_os_thread()
