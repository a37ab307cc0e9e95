"""What a schedule of `explore` was, as text."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from runtime import _core, _inspect
from runtime._explore_points import is_program_file


class Switch(NamedTuple):
    """A goroutine of an explored schedule has run up to here."""

    goroutine: str  # "0 main": its number in the schedule, and its name or function
    why: str  # "preempted", "waits: chan receive", "yields", "ends"
    file: str  # where; "" at its end
    line: int
    function: str


class Shown(NamedTuple):
    text: str
    switches: tuple[Switch, ...]


def goroutine_labels(ex: _core._Explorer) -> list[str]:
    """A name for each goroutine, the same in all processes."""
    functions = ex.functions or []
    labels = []
    for number, g in enumerate(ex.goroutines):
        name = g.name if g.name != f"goroutine-{g.id}" else ""
        if not name and number < len(functions):
            name = _inspect._entry(functions[number]).function.rpartition(".")[2]
        labels.append(f"goroutine {number}" + f" {name}" * bool(name))
    return labels


def stacks_of(goroutines: Iterable[_core.Goroutine[Any]]) -> str:
    """Where those that have not ended are."""
    ids = {g.id for g in goroutines if not g.done()}
    infos = [info for info in _inspect.goroutines(stacks=True) if info.id in ids]
    return "\n".join(_inspect._text(info) for info in infos)


def _place(frames: list[tuple[str, int, str]]) -> tuple[str, int, str]:
    """The innermost frame of the program; frames are outermost first."""
    for frame in reversed(frames):
        if is_program_file(frame[0]):
            return frame
    return frames[-1] if frames else ("", 0, "")


def show_switches(ex: _core._Explorer) -> Shown:
    """What ex, which has kept a trace, has run."""
    labels = goroutine_labels(ex)
    switches = []
    for number, how, reason, frames in ex.trace or []:
        why = f"{how}: {reason}" if reason else how
        switches.append(Switch(labels[number], why, *_place(frames)))
    rows = []
    for s in switches:
        where = f"{os.path.basename(s.file)}:{s.line}" if s.file else ""
        source = linecache.getline(s.file, s.line).strip() if s.file else ""
        rows.append((s.goroutine, s.why, where, source))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    lines = [
        "  " + "  ".join(col.ljust(w) for col, w in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    ]
    return Shown("\n".join(lines), tuple(switches))
