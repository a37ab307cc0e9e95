"""Tests of concurrent code: bubbles in which time takes no time, and a check for leaks.

    from runtime import Chan, testing

    @testing.bubble()
    def test_timeout():
        with pytest.raises(TimeoutError):
            Chan().recv(timeout=3600)

`runtime.testing.pytest_plugin` offers the same to pytest, as a marker.

Go: testing/synctest, go.uber.org/goleak.
"""

from runtime._bubble import bubble, wait
from runtime._explore import ExploreError, Report, explore, replay
from runtime._explore_report import Switch
from runtime._leaks import LeakError, leak_check

__all__ = [
    "ExploreError",
    "LeakError",
    "Report",
    "Switch",
    "bubble",
    "explore",
    "leak_check",
    "replay",
    "wait",
]
