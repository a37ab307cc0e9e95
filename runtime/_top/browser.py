"""A table that the server has, of which a part is shown: where in it a user is.

The part is a window of rows, one of which is chosen. It follows the chosen one's key when others
come before it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from runtime._top.question import MOST


class Browser:
    """Keys move in it; `/` begins a filter, which the server applies while it is typed."""

    def __init__(self) -> None:
        self.filter = ""
        self.typing = False
        self.top = 0  # the first row of the window
        self.chosen = 0
        self.lines = 1  # of the window
        self._rows = 0  # that there are
        self._keys: Sequence[Hashable] = ()  # of the rows that are known, which begin at _offset
        self._offset = 0

    def resize(self, lines: int) -> None:
        """Say how many rows are shown."""
        self.lines = max(1, min(lines, MOST))
        self._scroll()

    def take(self, keys: Sequence[Hashable], offset: int, rows: int) -> None:
        """The rows from offset on have these keys, and there are so many in all."""
        key = self._key()
        self._keys, self._offset, self._rows = keys, offset, rows
        if key is not None and key != self._key() and key in keys:
            self.chosen = offset + keys.index(key)
        self._scroll()

    def press(self, key: str) -> bool:
        """Do what the key means; False if it means nothing here."""
        if self.typing:
            return self._type(key)
        steps = {
            "down": 1,
            "j": 1,
            "up": -1,
            "k": -1,
            "page down": self.lines,
            "page up": -self.lines,
            "end": self._rows,
            "G": self._rows,
            "home": -self._rows,
            "g": -self._rows,
        }
        if key in steps:
            self.chosen += steps[key]
            if key.startswith("page"):
                self.top += steps[key]
            self._scroll()
        elif key == "/":
            self.typing = True
        elif key == "esc" and self.filter:
            self._search("")
        else:
            return False
        return True

    def _type(self, key: str) -> bool:
        if key == "enter":
            self.typing = False
        elif key == "esc":
            self.typing = False
            self._search("")
        elif key == "backspace":
            self._search(self.filter[:-1])
        elif len(key) == 1 and key.isprintable():
            self._search(self.filter + key)
        else:
            return False
        return True

    def _search(self, text: str) -> None:
        self.filter = text
        self.top = self.chosen = 0
        self._keys = ()

    def _key(self) -> Hashable:
        at = self.chosen - self._offset
        return self._keys[at] if 0 <= at < len(self._keys) else None

    def _scroll(self) -> None:
        """Keep the chosen row in the table, and in the window."""
        self.chosen = max(0, min(self.chosen, self._rows - 1))
        self.top = max(0, min(self.top, self._rows - self.lines))
        self.top = max(min(self.top, self.chosen), self.chosen - self.lines + 1)
