"""Settings of the whole suite."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# On a loaded machine anything may block a thread for so long that it is reported.
os.environ.setdefault("GOSCHED_STALL_MS", "0")

import runtime

# No deadline: a loaded machine is no failure.
settings.register_profile("gosched", deadline=None)
settings.load_profile("gosched")


@pytest.fixture
def one_p() -> Iterator[None]:
    """For tests of the order in which one P runs things."""
    before = runtime.gomaxprocs(1)
    yield
    runtime.gomaxprocs(before)


def pytest_runtest_logstart(nodeid: str) -> None:
    """Which test a run that had to be killed has ended in."""
    if path := os.environ.get("GOSCHED_LAST_TEST"):
        Path(path).write_text(nodeid)
