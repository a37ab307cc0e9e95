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

__all__ = ["bubble", "wait"]
