"""Memory that the supervisor shares with its workers.

It is made before they are forked, and cut into cells, each of which one process writes and all
read: the directory, which the supervisor writes, and one for each process.  A cell has room for
two values.  The writer fills the one that is not current, then makes it so; if it is killed
half-way the old value stays.  Who reads checks a checksum, and tries again: no lock is needed, and
nobody can be kept waiting.
"""

from __future__ import annotations

import marshal
import mmap
import zlib
from typing import Any

_HEAD = 64  # bytes of a cell before its values, as words of 8 bytes:
_VERSION, _BEAT, _HURRY = 0, 5, 6  # what is current is the value version % 2
_LENGTH, _SUM = (1, 3), (2, 4)  # of the two values
_ROOM = 1 << 23  # bytes of a cell; pages that nobody has written to take none
_TRIES = 100
_PLAIN, _COMPRESSED = b"p", b"z"


class Cell:
    """A value of some bytes, and a counter."""

    __slots__ = ("_values", "_words")

    def __init__(self, memory: memoryview) -> None:
        self._words = memory[:_HEAD].cast("Q")
        half = (len(memory) - _HEAD) // 2
        self._values = memory[_HEAD : _HEAD + half], memory[_HEAD + half : _HEAD + 2 * half]

    @property
    def room(self) -> int:
        """The length of the longest value."""
        return len(self._values[0])

    def write(self, value: bytes) -> None:
        """Make it the current value.  ValueError if it is too long."""
        words = self._words
        version = words[_VERSION] + 1
        which = version % 2
        if len(value) > self.room:
            raise ValueError(f"{len(value)} bytes are too many for a cell of {self.room}")
        self._values[which][: len(value)] = value
        words[_LENGTH[which]] = len(value)
        words[_SUM[which]] = zlib.crc32(value)
        words[_VERSION] = version

    def read(self) -> bytes | None:
        """The current value; None: there is none yet, or it changes too fast."""
        words = self._words
        for _ in range(_TRIES):
            version = words[_VERSION]
            if version == 0:
                return None
            which = version % 2
            length = min(words[_LENGTH[which]], self.room)
            value = bytes(self._values[which][:length])
            if zlib.crc32(value) == words[_SUM[which]]:
                return value
        return None

    def put(self, value: Any) -> bool:
        """Write what marshal can write.  False: it is too long, and the value is the one before."""
        data = _PLAIN + marshal.dumps(value)
        if len(data) > self.room:
            data = _COMPRESSED + zlib.compress(memoryview(data)[1:], 1)
        if len(data) > self.room:
            return False
        self.write(data)
        return True

    def get(self) -> Any:
        """What was put() last; None as from read()."""
        data = self.read()
        if data is None:
            return None
        rest = memoryview(data)[1:]
        return marshal.loads(rest if data[:1] == _PLAIN else zlib.decompress(rest))

    @property
    def version(self) -> int:
        """How often there was a new value."""
        return self._words[_VERSION]

    @property
    def beat(self) -> int:
        """A counter that whoever owns the cell counts up while it is well."""
        return self._words[_BEAT]

    def count_beat(self) -> None:
        self._words[_BEAT] += 1

    @property
    def hurry(self) -> bool:
        """Is its owner to end at once?  The supervisor says so."""
        return self._words[_HURRY] != 0

    def set_hurry(self) -> None:
        self._words[_HURRY] = 1

    def clear(self) -> None:
        """As it was in the beginning: for the next one who writes it."""
        for i in range(len(self._words)):
            self._words[i] = 0


class Memory:
    """The directory and `cells` cells."""

    def __init__(self, cells: int) -> None:
        self._map = mmap.mmap(-1, _ROOM * (1 + cells))
        whole = memoryview(self._map)
        made = [Cell(whole[i * _ROOM : (i + 1) * _ROOM]) for i in range(1 + cells)]
        self.directory = made[0]
        self.cells = made[1:]
