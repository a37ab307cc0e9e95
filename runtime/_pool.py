"""Pools of objects to be used again."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

_pools: dict[int, weakref.ref[Pool[Any]]] = {}  # by id()

# A collection of this generation looks at all objects, or is part of one that does.
_FULL = 2 if sys.version_info < (3, 14) else 1
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    _FULL = 0


class Pool(Generic[_T]):
    """Objects that are costly to make and can be used again.

        buffers = sync.Pool(new=lambda: bytearray(65536))
        buffer = buffers.get()
        try:
            ...
        finally:
            buffers.put(buffer)

    An object may vanish from the pool at any time: what two full garbage collections find unused
    is dropped.  So a pool is no place for what must be closed, or counted.

    Go: sync.Pool.
    """

    __slots__ = ("__weakref__", "_items", "_new", "_old")

    def __init__(self, new: Callable[[], _T] | None = None) -> None:
        if new is not None and not callable(new):
            raise TypeError(f"Pool(new): it must be callable, not {type(new).__name__}")
        self._new = new
        # A step on a list is atomic; the last one put is the likeliest to be in a cache.
        self._items: list[_T] = []
        self._old: list[_T] = []  # that a collection has found unused
        me = id(self)
        if not _pools and _collect not in gc.callbacks:
            gc.callbacks.append(_collect)
        _pools[me] = weakref.ref(self, lambda _: _pools.pop(me, None))

    def get(self) -> _T:
        """An object of the pool, or new(), or None if there is no new.  Go: sync.Pool.Get."""
        try:
            return self._items.pop()
        except IndexError:
            pass
        try:
            return self._old.pop()
        except IndexError:
            return self._new() if self._new is not None else None  # type: ignore[return-value]

    def put(self, item: _T, /) -> None:
        """Give an object to whoever comes next.  Go: sync.Pool.Put."""
        self._items.append(item)


def _collect(phase: str, info: dict[str, int]) -> None:
    """Called by the collector."""
    if phase == "start" and info["generation"] >= _FULL:
        for ref in list(_pools.values()):
            pool = ref()
            if pool is not None:
                pool._old, pool._items = pool._items, []
