"""Bubbles: functions that run with a clock of their own, and how they end.

The core tells when all goroutines of a bubble have ended, or none can ever go on; the rest is
done here, by whoever has called `bubble`, outside of it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from runtime import _core, _inspect
from runtime._core import DeadlockError, Goroutine

_P = ParamSpec("_P")
_T = TypeVar("_T")


def wait() -> None:
    """Wait until every other goroutine of the bubble is durably blocked.

    RuntimeError outside of a bubble, and while another goroutine of the bubble is in wait().

    Go: synctest.Wait.
    """
    _core._bubble_wait()


def bubble(fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    b = _core.Bubble()
    g = b.start(fn, *args, **kwargs)
    while not b.run():
        g.cancel(DeadlockError("all goroutines of the bubble are blocked"))
    return g.join()
