"""One exception for several callers."""

from __future__ import annotations

import contextlib
import copy
from types import MemberDescriptorType
from typing import Any

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def duplicate(exc: BaseException) -> BaseException:
    """Another exception that says the same as exc, with its traceback.

    Raising writes into the exception, so one that several threads raise at a time is more than a
    build without the GIL takes; elsewhere its traceback would grow with each of them.  exc must
    not be raised any more.  No __init__ of the program's is called.
    """
    other: BaseException
    try:
        other = _copy(exc)
        if type(other) is not type(exc):
            raise TypeError
    except Exception:
        other = RuntimeError(f"{type(exc).__name__}: {exc}")
        other.__cause__ = exc
        return other
    if hasattr(exc, "__notes__"):
        other.__notes__ = list(exc.__notes__)
    other.__traceback__ = exc.__traceback__
    other.__context__ = exc.__context__
    other.__cause__ = exc.__cause__
    other.__suppress_context__ = exc.__suppress_context__
    return other


def _copy(exc: Any) -> Any:
    cls: Any = type(exc)
    base: Any = next(c for c in cls.__mro__ if not c.__flags__ & _HEAP_TYPE)
    if cls.__reduce__ is not base.__reduce__ or cls.__reduce_ex__ is not base.__reduce_ex__:
        return copy.copy(exc)  # it knows best
    _, args, *state = exc.__reduce__()
    other = base.__new__(cls, *args)
    base.__init__(other, *args)
    if state and state[0] is not None:
        other.__setstate__(state[0])
    for c in cls.__mro__:  # slots, and what some of the built-in ones forget
        for name, member in vars(c).items():
            if isinstance(member, MemberDescriptorType) and not name.startswith("__"):
                value = getattr(exc, name, None)
                if value is not getattr(other, name, None):
                    with contextlib.suppress(AttributeError, TypeError):  # read-only
                        setattr(other, name, value)
    return other
