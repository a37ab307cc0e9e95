"""pytest: tests that run in a goroutine.

    @pytest.mark.goroutine
    def test_pipeline(): ...

    @pytest.mark.goroutine(fake_clock=True, timeout=10)
    def test_retries_for_an_hour(): ...

The marker's options:

    fake_clock  run the test in a bubble: see runtime.testing.bubble
    leaks       False: goroutines may be left behind; otherwise they fail the test, by name
    timeout     seconds of real time until the test fails, with the stacks of its goroutines

A goroutine that fails, and that nobody has joined, fails the test, too.  Fixtures are set up
outside of the goroutine; with a fake clock, channels have to be made in the test itself.

The fixture `goroutine_leak_check` fails tests of any kind that leave goroutines behind, the
fixtures they use included.

Installed with the package, as a plugin of the name gosched: `-p no:gosched` turns it off.
"""

from __future__ import annotations

import functools
import inspect
import math
import unittest
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, NoReturn, Self

import pytest

import runtime
from runtime import _bubble
from runtime._core import Goroutine
from runtime._errors import describe_failure
from runtime._inspect import goroutines
from runtime._leaks import LeakCheck, LeakError, leak_check

_YIELDS = 200  # turns for a test to end that was cancelled


class _Options(NamedTuple):
    fake_clock: bool = False
    leaks: bool = True
    timeout: float | None = None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "goroutine(fake_clock=False, leaks=True, timeout=None): run the test in a goroutine; "
        "fake_clock: in a bubble, in which time takes no time; leaks=False: goroutines may be "
        "left behind; timeout: in seconds of real time.",
    )


@pytest.fixture
def goroutine_leak_check() -> Iterator[None]:
    """Fail the test if it leaves goroutines behind; see runtime.testing.leak_check."""
    try:
        with leak_check():
            yield
    except LeakError as e:
        text = str(e)
    else:
        return
    pytest.fail(text, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    marker = pyfuncitem.get_closest_marker("goroutine")
    if marker is None:
        return (yield)
    options = _parse(pyfuncitem, marker)
    test = pyfuncitem.obj

    @functools.wraps(test)
    def in_goroutine(**args: Any) -> Any:
        __tracebackhide__ = True
        return _run(pyfuncitem, functools.partial(test, **args), options)

    pyfuncitem.obj = in_goroutine
    try:
        return (yield)
    finally:
        pyfuncitem.obj = test


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("goroutine")
    if marker is not None:
        _parse(item, marker)


def _parse(item: pytest.Item, marker: pytest.Mark) -> _Options:
    try:
        options = _Options(**marker.kwargs)
    except TypeError:
        _wrong(item, f"the options are {', '.join(_Options._fields)}, not {[*marker.kwargs]}")
    if marker.args:
        _wrong(item, f"the options have names: {', '.join(_Options._fields)}")
    timeout = options.timeout
    if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
        _wrong(item, f"timeout must be more than 0 seconds, or None, not {timeout!r}")
    if not isinstance(item, pytest.Function) or (
        item.cls is not None and issubclass(item.cls, unittest.TestCase)
    ):
        _wrong(item, "a test that runs in a goroutine is a function, and no unittest.TestCase")
    if inspect.iscoroutinefunction(item.obj):
        _wrong(item, "a test that runs in a goroutine is a plain function, without async")
    return options


def _wrong(item: pytest.Item, why: str) -> NoReturn:
    pytest.fail(f"@pytest.mark.goroutine at {item.nodeid}: {why}", pytrace=False)


def _run(item: pytest.Function, test: Callable[[], Any], options: _Options) -> Any:
    __tracebackhide__ = True
    left = []
    with _Failures() as failures:
        check = LeakCheck()
        check.__enter__()
        try:
            if options.fake_clock:
                result = _bubble.run(test, (), {}, options.timeout)
            else:
                result = _join(runtime.go.named(item.name)(test), options.timeout)
        except BaseException as e:
            if failures.texts:
                item.add_report_section("call", "goroutines", "\n".join(failures.texts))
            if not isinstance(e, _bubble.TimedOut):
                raise
            failures.texts[:] = [str(e)]
        else:
            left = check.find() if options.leaks else []
    if left:
        failures.texts.append(str(LeakError(left)))
    if failures.texts:
        pytest.fail("\n".join(failures.texts), pytrace=False)
    return result


def _join(g: Goroutine[Any], timeout: float | None) -> Any:
    __tracebackhide__ = True
    try:
        return g.join(timeout)
    except BaseException as e:
        if g.done():
            raise
        if isinstance(e, TimeoutError):
            e = _bubble.TimedOut(timeout, [i for i in goroutines(stacks=True) if i.goroutine is g])
        g.cancel()
        for _ in range(_YIELDS):
            if g.done():
                break
            runtime.gosched()
        raise e from None


class _Failures:
    """Collects what runtime.excepthook is told of meanwhile."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __enter__(self) -> Self:
        self._before = runtime.excepthook
        runtime.excepthook = self
        return self

    def __call__(self, goroutine: Goroutine[Any], exc: BaseException, /) -> None:
        self.texts.append(describe_failure(goroutine, exc))

    def __exit__(self, *args: object) -> None:
        if runtime.excepthook is self:
            runtime.excepthook = self._before
