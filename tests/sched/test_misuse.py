"""Waiting where that is impossible: a clear error, and nothing is broken afterwards."""

import pytest

import runtime
from runtime import current, go


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
