"""What a schedule of `explore` was and why it has failed, as text."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple

from runtime import _core, _inspect
from runtime._explore_points import is_program_file

# A schedule as it has run: who, and the number of the point it was preempted at, or 0.
Plan = list[tuple[int, int]]


class Switch(NamedTuple):
    """A goroutine of an explored schedule has run, up to here."""

    goroutine: str  # "goroutine 0 main": its number in the schedule, its name or function
    why: str  # it stopped: "preempted", "waits: chan receive", "yields", "ends"
    file: str  # where; "" at its end
    line: int
    function: str


class Failure(NamedTuple):
    """Why a schedule has failed."""

    cause: str  # as ExploreError.cause
    who: int | None  # which goroutine has failed
    text: str  # in one line
    stacks: str  # of those that are left, or ""
    error: BaseException | None

    def same(self, other: Failure | None) -> bool:
        """Would a programmer say that it is the same bug?"""
        return (
            other is not None
            and self.cause == other.cause
            and type(self.error) is type(other.error)
            and _raised_at(self.error) == _raised_at(other.error)
        )


def _raised_at(error: BaseException | None) -> tuple[str, int] | None:
    """The innermost line of the program."""
    at = None
    tb: TracebackType | None = error.__traceback__ if error is not None else None
    while tb is not None:
        if is_program_file(tb.tb_frame.f_code.co_filename):
            at = tb.tb_frame.f_code.co_filename, tb.tb_lineno
        tb = tb.tb_next
    return at


def write_plan(seed: int, plan: Plan) -> str:
    return f"{seed}:" + ",".join(f"{who}@{at}" if at else str(who) for who, at in plan)


def read_plan(text: str) -> tuple[int, Plan | None]:
    """The seed, and the plan if there is one, of what the user gives as a seed."""
    seed, colon, rest = text.partition(":")
    items = [item.partition("@") for item in rest.split(",") if item]
    try:
        plan = [(int(who), int(at or 0)) for who, _, at in items]
        return int(seed), plan if colon else None
    except ValueError:
        raise ValueError(
            f"{text!r} is no seed: it must be an int, or a schedule as in ExploreError.schedule"
        ) from None


def stacks_of(goroutines: Iterable[_core.Goroutine[Any]]) -> str:
    """Where those that have not ended are; numbers are those of the schedule."""
    numbers = {g.id: n for n, g in enumerate(goroutines) if not g.done()}
    texts = []
    for info in _inspect.goroutines(stacks=True):
        if info.id in numbers:
            number = numbers[info.id]
            name = info.name if info.name != f"goroutine-{info.id}" else f"goroutine-{number}"
            spawned_at = info.spawned_at if number else None
            info = info._replace(id=number, name=name, spawned_at=spawned_at, bubble=None)
            texts.append((number, _inspect.describe(info)))
    return "\n".join(text for _, text in sorted(texts)).rstrip()


def labels(ex: _core._Explorer) -> list[str]:
    """A name for each goroutine, the same in all processes; ex has kept a trace."""
    found = []
    for number, (g, fn) in enumerate(zip(ex.goroutines, ex.functions or (), strict=False)):
        name = g.name
        if name == f"goroutine-{g.id}":
            name = _inspect.entry_of(fn).function.rpartition(".")[2]
        found.append(f"goroutine {number} {name}")
    return found


def _place(frames: list[tuple[str, int, str]]) -> tuple[str, int, str]:
    """The innermost frame of the program; frames are outermost first."""
    for frame in reversed(frames):
        if is_program_file(frame[0]):
            return frame
    return frames[-1] if frames else ("", 0, "")


def switches_of(ex: _core._Explorer) -> tuple[Switch, ...]:
    """What ex, which has kept a trace, has run."""
    names = labels(ex)
    return tuple(
        Switch(names[number], f"{how}: {reason}" if reason else how, *_place(frames))
        for number, how, reason, frames in ex.trace or ()
    )


def table(switches: tuple[Switch, ...]) -> str:
    """One line for each, with its line of source."""
    rows = []
    for s in switches:
        where = f"{os.path.basename(s.file)}:{s.line}" if s.file else ""
        source = linecache.getline(s.file, s.line).strip() if s.file else ""
        rows.append((s.goroutine, s.why, where, source))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    return "\n".join(
        "  " + "  ".join(text.ljust(w) for text, w in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    )
