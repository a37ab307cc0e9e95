"""The pytest plugin, as other projects meet it: pytest runs in processes of its own."""

import importlib.metadata
import subprocess
import sys
import textwrap
from pathlib import Path

from programs import environment


def pytest_run(where: Path, source: str, *options: str) -> str:
    """What pytest says about a file of tests."""
    (where / "test_it.py").write_text(textwrap.dedent(source))
    (where / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -W error\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:gosched", "-rA"]
    done = subprocess.run(
        [*command, "-p", "runtime.testing.pytest_plugin", *options],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(COLUMNS="300"),
    )
    return done.stdout + done.stderr


def outcome(text: str, test: str) -> str:
    """PASSED, FAILED or ERROR, and the reason."""
    (line,) = [s for s in text.splitlines() if s.split(" ")[1:2] == [f"test_it.py::{test}"]]
    return line


def section(text: str, test: str) -> str:
    """How the failure of a test is shown."""
    lines = text.splitlines()
    first = next(i for i, s in enumerate(lines) if s.startswith("___") and f" {test} " in s)
    rest = lines[first + 1 :]
    end = next(i for i, s in enumerate(rest) if s.startswith(("___", "===")))
    return "\n".join(rest[:end])


def test_plugin_is_registered_with_pytest() -> None:
    (entry,) = importlib.metadata.entry_points(group="pytest11", name="gosched")
    assert entry.value == "runtime.testing.pytest_plugin"
    assert entry.load().pytest_pyfunc_call is not None


def test_marker_runs_tests_in_goroutines_and_bubbles(tmp_path: Path) -> None:
    text = pytest_run(
        tmp_path,
        """
        import pytest, runtime
        from hypothesis import given, strategies as st
        from runtime import Chan, current, go, sleep

        @pytest.fixture
        def answer():
            assert current().name == "main"
            return 42

        def test_plain(answer):
            assert current().name == "main" and answer == 42

        @pytest.mark.goroutine
        def test_goroutine(answer, tmp_path):
            assert current().name == "test_goroutine" and answer == 42 and tmp_path.exists()
            ch = Chan()
            go(ch.send, 1)
            assert ch.recv() == 1

        @pytest.mark.goroutine(fake_clock=True, timeout=60)
        @pytest.mark.parametrize("days", [1, 1000])
        def test_bubble(days, answer):
            with pytest.raises(TimeoutError):
                Chan().recv(timeout=days * 86400)

        @pytest.mark.goroutine
        class TestMethods:
            def setup_method(self):
                self.x = 1

            def test_method(self, answer):
                assert current().name == "test_method" and self.x == 1

        @pytest.mark.goroutine(timeout=60)
        def test_skipped():
            pytest.skip("not today")

        @pytest.mark.goroutine(fake_clock=True)
        @pytest.mark.xfail(raises=KeyError, strict=True)
        def test_xfail():
            raise KeyError

        @pytest.mark.goroutine(fake_clock=True)
        @given(st.integers(0, 1000))
        def test_given(seconds):
            ch = Chan()
            go(lambda: sleep(seconds) or ch.send(seconds))
            assert ch.recv() == seconds

        @pytest.mark.goroutine(leaks=False)
        def test_may_leak():
            go(Chan().recv)
        """,
    )
    assert "7 passed, 1 skipped, 1 xfailed" in text, text


def test_marker_shows_failures_with_the_tests_own_traceback(tmp_path: Path) -> None:
    text = pytest_run(
        tmp_path,
        """
        import pytest, runtime
        from runtime import Chan, go, sleep

        def helper(x):
            assert x == 2

        @pytest.mark.goroutine
        def test_goroutine():
            helper(1)

        @pytest.mark.goroutine(fake_clock=True)
        def test_bubble():
            helper(1)

        @pytest.mark.goroutine(fake_clock=True)
        def test_deadlock():
            go.named("the other")(Chan().recv)
            Chan().recv()

        @pytest.mark.goroutine
        def test_leak():
            go.named("left behind")(Chan().recv)

        @pytest.mark.goroutine(fake_clock=True)
        def test_bubble_leak():
            go.named("left behind")(Chan().recv)

        @pytest.mark.goroutine
        def test_other_fails():
            def other():
                raise ValueError("in the other")
            go.named("other")(other)
            runtime.gosched()

        @pytest.mark.goroutine
        def test_both_fail():
            def other():
                raise ValueError("in the other")
            go.named("other")(other)
            runtime.gosched()
            helper(1)

        @pytest.mark.goroutine(timeout=0.5)
        def test_late():
            Chan().recv()

        @pytest.mark.goroutine(timeout=0.5, fake_clock=True)
        def test_late_bubble():
            while True:
                sleep(1)

        @pytest.mark.goroutine
        def test_time_out_of_its_own():
            Chan().recv(timeout=0)

        def test_fixture(goroutine_leak_check):
            go.named("left behind")(Chan().recv)
        """,
    )
    for test in ("test_goroutine", "test_bubble", "test_both_fail"):
        assert outcome(text, test).endswith("assert 1 == 2"), text
        shown = section(text, test)
        assert ">       assert x == 2" in shown and "helper(1)" in shown
        assert "runtime/" not in shown, shown
    shown = section(text, "test_deadlock")
    assert "'the other' [chan receive, bubble" in shown
    assert ">       Chan().recv()" in shown and "pytest_plugin.py" not in shown, shown
    shown = section(text, "test_leak")
    assert "a goroutine was left behind" in shown and "'left behind' [chan receive]" in shown
    assert "pytest_plugin.py" not in shown
    assert "'left behind' [chan receive" in section(text, "test_bubble_leak")
    for test in ("test_other_fails", "test_both_fail"):
        shown = section(text, test)
        assert "[other] failed; started at" in shown and "ValueError: in the other" in shown
    for test in ("test_late", "test_late_bubble"):
        shown = section(text, test)
        assert "not ended after 0.5 seconds" in shown and f".{test}(...)" in shown, shown
    assert "TimeoutError: Chan.recv()" in section(text, "test_time_out_of_its_own")
    assert "'left behind' [chan receive]" in section(text, "teardown of test_fixture")
    assert "10 failed, 1 passed, 1 error" in text, text


def test_marker_misused_is_an_error_that_says_how(tmp_path: Path) -> None:
    text = pytest_run(
        tmp_path,
        """
        import unittest
        import pytest

        @pytest.mark.goroutine(fake_clok=True)
        def test_option(): pass

        @pytest.mark.goroutine(True)
        def test_positional(): pass

        @pytest.mark.goroutine(timeout=-1)
        def test_timeout(): pass

        @pytest.mark.goroutine
        async def test_coroutine(): pass

        @pytest.mark.goroutine
        class TestCase(unittest.TestCase):
            def test_method(self): pass
        """,
    )
    assert "the options are fake_clock, leaks, timeout" in outcome(text, "test_option")
    assert "the options have names" in outcome(text, "test_positional")
    assert "timeout must be more than 0" in outcome(text, "test_timeout")
    assert "without async" in outcome(text, "test_coroutine")
    assert "no unittest.TestCase" in outcome(text, "TestCase::test_method")
    assert "5 errors" in text, text
