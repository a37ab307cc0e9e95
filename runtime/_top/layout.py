"""Lines and tables that fit.

Where room is short, what matters less is left out whole: columns of a table, parts of a line,
then rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

STEPS = "▁▂▃▄▅▆▇█"
ASCII = str.maketrans(f"{STEPS}░▒▓µ…▼", "__..--=#.-+u~v")  # for terminals that have no more


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    cells: Sequence[str | Text]
    rank: int = 0  # columns with the highest are left out first
    left: bool = False


def table(columns: Sequence[Column], width: int) -> list[Text]:
    """Columns of one height, under their titles; those that do not fit are left out by rank."""
    kept = list(columns)
    while len(kept) > 1 and sum(width_of(c) for c in kept) + 2 * (len(kept) - 1) > width:
        kept.remove(max(reversed(kept), key=lambda column: column.rank))
    lines = [Text() for _ in range(len(columns[0].cells) + 1)]
    for i, column in enumerate(kept):
        wide = width_of(column)
        for line, cell in zip(lines, [Text(column.title, "dim"), *column.cells], strict=True):
            text = _text(cell)
            gap = " " * (wide - text.cell_len)
            line.append("  " if i else "")
            line.append_text(text + gap if column.left else Text(gap) + text)
    for line in lines:
        line.truncate(width)
    return lines


def width_of(column: Column) -> int:
    return max([len(column.title), *(_text(cell).cell_len for cell in column.cells)])


def _text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def shared(tables: Sequence[list[Text]], room: int, gap: int) -> list[list[Text]]:
    """The tables, blank lines before each, cut so that they fit into so many lines together.

    All get rows in turn, so a short one is whole before a long one has more than it.
    """
    rows = [0] * len(tables)
    opened: list[int] = []
    for i in range(len(tables)):
        if room >= gap + 2:  # titles, a row
            room -= gap + 2
            rows[i] = 1
            opened.append(i)
    while room > 0 and any(rows[i] < len(tables[i]) - 1 for i in opened):
        for i in opened:
            if room > 0 and rows[i] < len(tables[i]) - 1:
                rows[i] += 1
                room -= 1
    shown = []
    for i in opened:
        lines = [Text()] * gap + tables[i][: 1 + rows[i]]
        left = len(tables[i]) - 1 - rows[i]
        if left and rows[i] > 1:
            lines[-1] = Text(f"and {left + 1} more", "dim")
        shown.append(lines)
    return shown


def fit(parts: Sequence[Text], width: int, first_gap: int = 2) -> Text:
    """As many of the parts as fit, side by side; the first one is cut if it must be."""
    line = Text().append_text(parts[0])  # which does not lend its style to the others
    line.truncate(width)
    for i, part in enumerate(parts[1:]):
        gap = first_gap if i == 0 else 2
        if line.cell_len + gap + part.cell_len > width:
            break
        line.append(" " * gap)
        line.append_text(part)
    return line


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def figure(value: str, unit: str, style: str = "bold") -> Text:
    return Text.assemble((value, style or "bold"), (unit, "" if style == "bold" else style))


def labelled(label: str, parts: Sequence[Text], width: int) -> Text:
    return fit([Text(f"{label:<13}", "dim"), *parts], width, first_gap=1)


def room_for(cells: Sequence[str], others: Sequence[Column], width: int, least: int) -> int:
    """How wide a column of texts to be cut may be beside others: `least` if it needs that much."""
    longest = max(map(len, cells), default=0)
    rest = sum(width_of(column) + 2 for column in others)
    return max(min(longest, least), min(longest, width - rest))
