"""What there is to see of a server, as views between which a user switches.

Each knows what to ask the server for while it is shown, what keys mean to it, and its lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeAlias

from rich.text import Text

from runtime._top import heatmap, overview, tables
from runtime._top.browser import Browser
from runtime._top.counters import Counted, Counters
from runtime._top.detail import Detail
from runtime._top.figures import span
from runtime._top.layout import fit, labelled
from runtime._top.names import NAMES
from runtime._top.question import MOST, SNAPSHOT, Question, rows
from runtime._top.rates import JSON
from runtime._top.rows import Group, Row, Rows, Wait, group, rows_of, wait
from runtime._top.source import printable

Ask: TypeAlias = Callable[[Question], dict[str, Any]]
_ABOVE = 2  # lines above the rows of a table: the sums, and the titles


class View(Protocol):
    """One of them. Answers of another shape than ours are SourceErrors."""

    def title(self) -> list[Text]:
        """For the first line of the screen."""

    def hints(self) -> Sequence[str]:
        """Which keys it has."""

    def question(self, height: int) -> Question:
        """What to ask for while it has so many lines."""

    def take(self, answer: JSON, hold: bool = False) -> None:
        """The server's answer to that; with hold it does not change what is shown."""

    def press(self, key: str) -> bool:
        """Do what the key means; False if it means nothing here."""

    def picture(self, width: int, height: int) -> list[Text]:
        """At most so many lines."""

    def gather(self, ask: Ask, interval: float) -> None:
        """Ask for all that a report needs."""

    def report(self, width: int) -> list[Text]:
        """Everything, on a page without end."""


def views(interval: float) -> Mapping[str, View]:
    """All of them, by name, in the order of their keys."""
    counters = Counters(interval)
    made: tuple[View, ...] = (
        Overview(counters),
        Table("goroutines", group, tables.groups, _groups),
        Table("waits", wait, tables.waits, _objects),
        Latency(counters),
    )
    return dict(zip(NAMES, made, strict=True))


class _OfCounters:
    """What the views of the server's counters have in common."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def question(self, height: int) -> Question:
        return SNAPSHOT

    def take(self, answer: JSON, hold: bool = False) -> None:
        self._counters.take(answer, hold)

    def gather(self, ask: Ask, interval: float) -> None:
        self.take(ask(SNAPSHOT))
        time.sleep(interval)
        self.take(ask(SNAPSHOT))

    def title(self) -> list[Text]:
        if self._counters.shown is None:
            return []
        r = self._counters.shown.reading
        return [
            Text(f"up {span(r.uptime)}"),
            Text(f"gosched {printable(r.version)}", "dim"),
            Text(f"Python {printable(r.python)}{'' if r.gil else ' without GIL'}", "dim"),
        ]


class Overview(_OfCounters):
    """Everything that is counted, in figures."""

    def __init__(self, counters: Counters) -> None:
        super().__init__(counters)
        self._sort = "requests"

    def hints(self) -> Sequence[str]:
        return (f"s sorted by {self._sort}",)

    def press(self, key: str) -> bool:
        if key != "s":
            return False
        order = list(overview.SORTS)
        self._sort = order[(order.index(self._sort) + 1) % len(order)]
        return True

    def picture(self, width: int, height: int) -> list[Text]:
        counted = self._counters.shown
        return overview.picture(counted, self._sort, width, height) if counted else []

    def report(self, width: int) -> list[Text]:
        counted = self._counters.shown
        return overview.report(counted, self._sort, width) if counted else []


class Latency(_OfCounters):
    """How long goroutines waited until they ran, over time."""

    def title(self) -> list[Text]:
        return [Text("latency"), *super().title()]

    def hints(self) -> Sequence[str]:
        return ()

    def press(self, key: str) -> bool:
        return False

    def picture(self, width: int, height: int) -> list[Text]:
        counted = self._counters.shown
        if counted is None:
            return []
        lines = [self._percentiles(counted, width), Text()]
        return [*lines, *heatmap.picture(counted.intervals, width, height - 2)][:height]

    def report(self, width: int) -> list[Text]:
        counted = self._counters.shown
        if counted is None:
            return []
        bars = heatmap.report(counted.reading.total.latency, width)
        return [self._percentiles(counted, width), Text(), *bars]

    def _percentiles(self, counted: Counted, width: int) -> Text:
        parts = overview.percentiles(counted.reading.total.latency)
        return labelled("waited to run", parts, width)


class Table(Generic[Row]):
    """A table of goroutines that the server has; Enter shows the stack of one."""

    def __init__(
        self,
        name: str,
        make: Callable[[JSON], Row],
        draw: Callable[[Sequence[Row], int | None, int], list[Text]],
        sums: Callable[[Rows[Row]], str],
    ) -> None:
        self._name = name
        self._make = make
        self._draw = draw
        self._sums = sums
        self._browser = Browser()
        self._detail: Detail | None = None
        self._shown: Rows[Row] | None = None

    def title(self) -> list[Text]:
        parts = [Text(self._name)]
        if self._shown:
            parts.append(Text(f"process {self._shown.pid}"))
        return parts

    def hints(self) -> Sequence[str]:
        if self._detail:
            return self._detail.hints
        if self._browser.typing:
            return ("Enter keeps the filter", "Esc drops it")
        return ("Enter stack", "/ filter", "j k move")

    def question(self, height: int) -> Question:
        if self._detail:
            return self._detail.question
        browser = self._browser
        browser.resize(height - _ABOVE)
        return rows(self._name, browser.filter, browser.top, browser.lines)

    def take(self, answer: JSON, hold: bool = False) -> None:
        if hold:
            return
        if self._detail:
            self._detail.take(answer)
            return
        self._shown = rows_of(self._make, answer)
        keys = [row.key for row in self._shown.rows]
        self._browser.take(keys, self._shown.offset, self._shown.found)

    def press(self, key: str) -> bool:
        if self._detail:
            if key in ("esc", "enter", "backspace"):
                self._detail = None
                return True
            return self._detail.press(key)
        if self._browser.press(key):
            return True
        if key == "enter" and (row := self._chosen()) and row.people:
            self._detail = Detail(row.people)
            return True
        return False

    def picture(self, width: int, height: int) -> list[Text]:
        if self._detail:
            return self._detail.picture(width, height)
        if self._shown is None:
            return []
        at = self._browser.chosen - self._shown.offset
        return [self._head(self._shown, width), *self._rows(self._shown.rows, at, width)][:height]

    def gather(self, ask: Ask, interval: float) -> None:
        found: list[Row] = []
        while self._shown is None or (self._shown.rows and len(found) < self._shown.found):
            self._shown = rows_of(self._make, ask(rows(self._name, "", len(found), MOST)))
            found += self._shown.rows
        self._shown = replace(self._shown, rows=found)

    def report(self, width: int) -> list[Text]:
        if self._shown is None:
            return []
        lines = [fit([Text(self._sums(self._shown))], width), Text()]
        return lines + self._rows(self._shown.rows, None, width)

    def _chosen(self) -> Row | None:
        if self._shown is None:
            return None
        at = self._browser.chosen - self._shown.offset
        return self._shown.rows[at] if 0 <= at < len(self._shown.rows) else None

    def _rows(self, found: Sequence[Row], chosen: int | None, width: int) -> list[Text]:
        if not found:
            return [fit([Text("nothing of that kind", "dim")], width)]
        return self._draw(found, chosen, width)

    def _head(self, shown: Rows[Row], width: int) -> Text:
        parts = [Text(self._sums(shown))]
        last = shown.offset + len(shown.rows)
        if shown.rows and len(shown.rows) < shown.found:
            parts.append(Text(f"{shown.offset + 1} to {last} of {shown.found}", "dim"))
        if self._browser.filter or self._browser.typing:
            text = printable(self._browser.filter) + ("_" if self._browser.typing else "")
            parts.append(Text(f"filter: {text}", "yellow"))
        return fit(parts, width)


def _groups(shown: Rows[Group]) -> str:
    return f"{shown.total:,} goroutines in {shown.groups:,} groups"


def _objects(shown: Rows[Wait]) -> str:
    return f"{shown.objects:,} are waited for, by some of {shown.total:,} goroutines"
