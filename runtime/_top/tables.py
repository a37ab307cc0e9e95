"""The tables of goroutines and of what they wait for, and one goroutine, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from runtime._top.figures import count, span
from runtime._top.layout import Column, cut, fit, labelled, room_for, table
from runtime._top.overview import STATE_STYLES
from runtime._top.rows import Group, Place, Stack, Wait, Who

ROOMY = 60  # columns; with less the place where goroutines were started gets the room


def groups(rows: Sequence[Group], chosen: int | None, width: int) -> list[Text]:
    """A line of titles and one for each row; that with the index `chosen` is marked."""
    columns = [
        *_mark(len(rows), chosen),
        Column("count", [count(row.count) for row in rows]),
        Column("state", [_state(row) for row in rows], left=True),
    ]
    last = []
    if width >= ROOMY:
        people = [_people(row.sample[:3], row.count, width) for row in rows]
        columns.append(Column("for", [span(row.longest) if row.reason else "" for row in rows]))
        last.append(Column("some", people, 1, left=True))
    places = [_place(row.started_at) for row in rows]
    room = room_for(places, [*columns, *last], width, 12)
    columns.append(Column("started at", [cut(place, room) for place in places], left=True))
    return _lines([*columns, *last], chosen, width)


def waits(rows: Sequence[Wait], chosen: int | None, width: int) -> list[Text]:
    """Likewise: who waits, and who could end that."""
    people = [_people(row.sample[:1], row.count, width) for row in rows]
    columns = [
        *_mark(len(rows), chosen),
        Column("waiting", [count(row.count) for row in rows], 1),
        Column("who", people, left=True),
        Column("for", [span(row.longest) for row in rows], 2),
        Column("in", [row.reason for row in rows], 3, left=True),
    ]
    last = [Column("held by", [_people(_holder(row), 1, width) for row in rows], left=True)]
    if any(row.deadlock for row in rows):
        marks = [Text("DEADLOCK" if row.deadlock else "", "bold red") for row in rows]
        last.append(Column("", marks, left=True))
    last.append(Column("which is in", [row.holder_does for row in rows], 5, left=True))
    things = [row.what for row in rows]
    room = room_for(things, [*columns, *last], width, 12)
    columns.append(Column("what", [cut(thing, room) for thing in things], 4, left=True))
    return _lines([*columns, *last], chosen, width)


def stack(found: Stack, width: int) -> list[Text]:
    """Everything about one goroutine."""
    facts = [("state", found.state + (", locked to its thread" if found.locked else ""))]
    if found.reason:
        facts.append(("waits for", f"{found.reason}, {span(found.waited)}"))
    facts += [("waits on", what) for what in found.waits_on]
    facts += [("held by", str(who)) for who in found.holders]
    if found.started_at:
        facts.append(("started by", f"{found.started_at.function}  {found.started_at.long}"))
    if found.p is not None:
        facts.append(("P", str(found.p)))
    lines = [labelled(name, [Text(cut(value, max(1, width - 14)))], width) for name, value in facts]
    lines += [Text(), fit([Text("stack, the innermost call first", "dim")], width)]
    lines += [_frame(frame, width) for frame in found.frames]
    if found.more:
        lines.append(fit([Text(f"and {found.more:,} more", "dim")], width))
    return lines


def _frame(frame: Place, width: int) -> Text:
    function = cut(frame.function, max(1, width // 2))
    whole = len(function) + 2 + len(frame.long) <= width
    return fit([Text(function), Text(frame.long if whole else frame.short, "dim")], width)


def _mark(rows: int, chosen: int | None) -> list[Column]:
    return [] if chosen is None else [Column("", [">" if i == chosen else "" for i in range(rows)])]


def _lines(columns: Sequence[Column], chosen: int | None, width: int) -> list[Text]:
    lines = table(columns, width)
    if chosen is not None and 0 <= chosen < len(lines) - 1:
        lines[chosen + 1].stylize("reverse")
    return lines


def _state(row: Group) -> Text:
    return Text(row.reason or row.state, STATE_STYLES.get(row.state, ""))


def _place(at: Place | None) -> str:
    return f"{at.function}  {at.short}" if at else "by the runtime, or main"


def _holder(row: Wait) -> Sequence[Who]:
    return [row.holder] if row.holder else []


def _people(people: Sequence[Who], of: int, width: int) -> str:
    text = " ".join(map(str, people)) + (" …" if people and of > len(people) else "")
    return cut(text, max(12, width // 5))
