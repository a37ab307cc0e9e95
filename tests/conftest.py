"""Settings of the whole suite."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

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
