"""Functions that are called once, and whose outcome everybody gets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from runtime._core import Once
from runtime._exceptions import duplicate

_T = TypeVar("_T")


def once_value(fn: Callable[[], _T], /) -> Callable[[], _T]:
    """A function that calls fn() the first time and returns that result each time.

        @sync.once_value
        def config() -> Config:
            return load("app.toml")

    Others wait while the first call runs.  If fn raises an Exception, each call raises one like
    it.  If something else has ended it, such as the cancellation of the goroutine that came
    first, later calls raise RuntimeError.

    Go: sync.OnceValue.
    """
    if not callable(fn):
        raise TypeError(f"once_value() needs a callable, got {type(fn).__name__}")
    once = Once()
    result: list[_T] = []
    error: BaseException | None = None

    def run() -> None:
        nonlocal error
        try:
            result.append(fn())
        except Exception as e:
            error = duplicate(e)
            raise
        except BaseException as e:
            name = getattr(fn, "__qualname__", None) or repr(fn)
            error = RuntimeError(f"the one call of {name} was ended by {type(e).__name__}")
            raise

    @functools.wraps(fn)
    def value() -> _T:
        if not once.done:
            once.do(run)
        if error is not None:
            raise duplicate(error)
        return result[0]

    return value


def once_func(fn: Callable[[], object], /) -> Callable[[], None]:
    """A function that calls fn() the first time and does nothing after that.

    Others wait while the first call runs.  Exceptions are raised as once_value() does.

    Go: sync.OnceFunc.
    """
    value = once_value(fn)

    @functools.wraps(fn)
    def func() -> None:
        value()

    return func
