"""One goroutine with its stack, and the others of its row beside it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from runtime._top import tables
from runtime._top.layout import fit
from runtime._top.question import Question, stack
from runtime._top.rates import JSON
from runtime._top.rows import Stack, Who, stack_of


class Detail:
    """Keys scroll in the stack, and go to the next goroutine of those that were named."""

    def __init__(self, people: Sequence[Who]) -> None:
        self._people = people
        self._at = 0
        self._stack: Stack | None = None
        self._ended = False
        self._top = 0  # the first line that is shown
        self._lines = 1  # of a page

    @property
    def question(self) -> Question:
        return stack(self._people[self._at].id)

    @property
    def hints(self) -> Sequence[str]:
        """Which keys it has."""
        return ("Esc back", "h l others") if len(self._people) > 1 else ("Esc back",)

    def take(self, answer: JSON) -> None:
        self._ended = not answer
        if answer:
            self._stack = stack_of(answer)

    def press(self, key: str) -> bool:
        """Do what the key means; False if it means nothing here."""
        page = max(1, self._lines - 1)
        steps = {"down": 1, "j": 1, "up": -1, "k": -1, "page down": page, "page up": -page}
        beside = {"right": 1, "l": 1, "left": -1, "h": -1}
        if key in steps:
            self._top += steps[key]
        elif key in beside:
            self._at = (self._at + beside[key]) % len(self._people)
            self._stack, self._ended, self._top = None, False, 0
        else:
            return False
        return True

    def picture(self, width: int, height: int) -> list[Text]:
        who = self._people[self._at]
        parts = [Text(f"goroutine {who}", "bold")]
        if len(self._people) > 1:
            parts.append(Text(f"{self._at + 1} of {len(self._people)}", "dim"))
        if self._ended:
            parts.append(Text("has ended", "yellow"))
        lines = tables.stack(self._stack, width) if self._stack else []
        self._lines = height - 1
        self._top = max(0, min(self._top, len(lines) - self._lines))
        return [fit(parts, width), *lines[self._top :]][:height]
