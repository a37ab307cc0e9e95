"""A dict that is bounded: what was put in first goes."""

from __future__ import annotations

from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class Recent(Generic[_K, _V]):
    """Up to `size` entries. Any thread may use it, and none waits for another."""

    __slots__ = ("_entries", "_size", "get")

    def __init__(self, size: int) -> None:
        self._entries: dict[_K, _V] = {}
        self._size = size
        self.get = self._entries.get

    def put(self, key: _K, value: _V) -> None:
        entries = self._entries
        entries.pop(key, None)  # it becomes the last one
        entries[key] = value
        while len(entries) > self._size:
            try:
                entries.pop(next(iter(entries)), None)
            except (RuntimeError, StopIteration):
                return  # others are changing it: the next one who puts something in goes on
