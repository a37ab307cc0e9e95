"""What is asked of a debug page: a name below api/, and its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

MOST = 100  # rows that a server tells at a time


@dataclass(frozen=True, slots=True)
class Question:
    """Two that are equal have the same answer, but for the time."""

    name: str
    parameters: tuple[tuple[str, str | int], ...] = ()

    @property
    def target(self) -> str:
        """The end of the URL."""
        query = urlencode(self.parameters)
        return f"api/{self.name}?{query}" if query else f"api/{self.name}"

    def of(self, pid: int | None) -> Question:
        """The same to a certain worker process; the snapshot is of all in any case."""
        if pid is None or self == SNAPSHOT:
            return self
        return Question(self.name, (*self.parameters, ("pid", pid)))


SNAPSHOT = Question("snapshot")


def rows(name: str, text: str, offset: int, limit: int) -> Question:
    """Some rows of a table, "goroutines" or "waits": of those in which the text is."""
    wanted: list[tuple[str, str | int]] = [("q", text)] if text else []
    wanted += [("offset", offset), ("limit", min(limit, MOST))]
    return Question(name, tuple(wanted))


def stack(id: int) -> Question:
    """One goroutine."""
    return Question("stack", (("id", id),))
