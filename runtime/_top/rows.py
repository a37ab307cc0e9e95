"""What a debug page answers about goroutines: the rows of its tables, and one with its stack.

All text in them is printable. What is no such answer is a SourceError.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from runtime._top.rates import JSON, number
from runtime._top.source import known_shape, printable


@dataclass(frozen=True, slots=True)
class Who:
    id: int
    name: str

    def __str__(self) -> str:
        unnamed = self.name == f"goroutine-{self.id}"
        return f"#{self.id}" if unnamed else f"#{self.id} {self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the program; 0 if that is not known."""

    function: str
    file: str
    line: int

    @property
    def short(self) -> str:
        """Without the directories that all files have in common, mostly."""
        name = "/".join(self.file.split("/")[-2:])
        return f"{name}:{self.line}" if self.line else name

    @property
    def long(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Group:
    """Goroutines started at one place, in one state, that wait for the same kind of thing."""

    started_at: Place | None
    state: str
    reason: str  # what they wait for; "" if they do not
    count: int
    longest: float  # seconds that the first of them waits
    sample: Sequence[Who]  # the oldest

    @property
    def key(self) -> Hashable:
        return self.started_at, self.state, self.reason

    @property
    def people(self) -> Sequence[Who]:
        return self.sample


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that goroutines wait for, and who can end that, if it is one goroutine."""

    what: str
    reason: str
    count: int
    longest: float
    sample: Sequence[Who]
    holder: Who | None
    holder_does: str  # what that waits for itself, or its state
    deadlock: bool  # the holder waits, by way of others, for itself

    @property
    def key(self) -> Hashable:
        return self.what, self.reason

    @property
    def people(self) -> Sequence[Who]:
        return [*self.sample, self.holder] if self.holder else self.sample


Row = TypeVar("Row", bound=Group | Wait)


@dataclass(frozen=True, slots=True)
class Rows(Generic[Row]):
    """A part of a table."""

    pid: int
    total: int  # goroutines
    groups: int
    objects: int  # that are waited for
    found: int  # rows that the filter leaves
    offset: int  # of the first one here
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Stack:
    """One goroutine."""

    who: Who
    state: str
    reason: str
    waited: float  # seconds
    started_at: Place | None
    p: int | None
    locked: bool  # to its thread
    frames: Sequence[Place]  # the innermost call first
    more: int  # frames that are left out
    waits_on: Sequence[str]
    holders: Sequence[Who]


def rows_of(make: Callable[[JSON], Row], answer: JSON) -> Rows[Row]:
    with known_shape():
        return Rows(
            number(answer, "pid"),
            number(answer, "total"),
            number(answer, "groups"),
            number(answer, "objects"),
            number(answer, "shown"),
            number(answer, "offset"),
            [make(row) for row in answer["rows"]],
        )


def group(row: JSON) -> Group:
    return Group(
        _place(row["spawned_at"]),
        _text(row, "state"),
        _text(row, "wait_reason"),
        number(row, "count"),
        _seconds(row, "longest"),
        _people(row["sample"]),
    )


def wait(row: JSON) -> Wait:
    holder = row["holder"]
    return Wait(
        _text(row, "what"),
        _text(row, "wait_reason"),
        number(row, "count"),
        _seconds(row, "longest"),
        _people(row["sample"]),
        None if holder is None else _who(holder),
        "" if holder is None else _text(holder, "wait_reason") or _text(holder, "state"),
        row.get("deadlock") is True,
    )


def stack_of(answer: JSON) -> Stack:
    with known_shape():
        return Stack(
            _who(answer),
            _text(answer, "state"),
            _text(answer, "wait_reason"),
            _seconds(answer, "wait_duration"),
            _place(answer["spawned_at"]),
            None if answer["p"] is None else number(answer, "p"),
            answer["locked"] is True,
            [_frame(frame) for frame in answer["stack"]],
            number(answer, "more_frames"),
            [_text(on, "what") for on in answer["waits_on"]],
            _people(answer["holders"]),
        )


def _text(values: JSON, name: str) -> str:
    value: Any = values[name]
    return "" if value is None else printable(str(value))


def _seconds(values: JSON, name: str) -> float:
    return 0.0 if values.get(name) is None else float(number(values, name))


def _who(values: JSON) -> Who:
    return Who(number(values, "id"), _text(values, "name"))


def _people(values: Sequence[JSON]) -> Sequence[Who]:
    return [_who(each) for each in values]


def _place(values: JSON | None) -> Place | None:
    return None if values is None else _frame(values)


def _frame(values: JSON) -> Place:
    return Place(_text(values, "function"), _text(values, "file"), number(values, "line"))
