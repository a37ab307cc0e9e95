"""Tests of concurrent code: bubbles with a clock of their own.

    from runtime import testing

    @testing.bubble
    def test_timeout():
        with pytest.raises(TimeoutError):
            Chan().recv(timeout=3600)      # takes no time

`runtime.testing.pytest_plugin` is for pytest.

Go: testing/synctest.
"""

from runtime._bubble import bubble, wait
from runtime._explore import ExploreError, Report, explore, replay
from runtime._explore_report import Switch

__all__ = ["ExploreError", "Report", "Switch", "bubble", "explore", "replay", "wait"]
