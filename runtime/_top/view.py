"""The whole screen as lines of text, for any size: the view that is shown, and what is around it.

No line is wider than asked for, and there are at most as many as asked for. Colours only repeat
what the text says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from runtime._top.layout import fit
from runtime._top.names import NAMES
from runtime._top.source import printable
from runtime._top.views import View

_FOOT_FROM = 5  # lines of a screen that has a last line with the keys


@dataclass(frozen=True, slots=True)
class Frame:
    """All that a picture shows."""

    name: str  # of the server
    view: View
    current: str = NAMES[0]  # that view's name
    paused: bool = False
    trouble: str = ""  # why there is nothing newer


def room(height: int) -> int:
    """The lines of the view itself."""
    return max(0, height - 2 if height >= _FOOT_FROM else height - 1)


def picture(frame: Frame, width: int, height: int) -> list[Text]:
    """The whole screen."""
    if width < 1 or height < 1:
        return []
    lines = room(height)
    body = frame.view.picture(width, lines)
    body += [Text()] * (lines - len(body))
    if frame.trouble:  # it is what was, not what is
        body = [line.copy() for line in body]
        for line in body:
            line.stylize("dim")
    return [_title(frame, width), *body, *([_foot(frame, width)] if height >= _FOOT_FROM else [])]


def report(frame: Frame, width: int) -> list[Text]:
    """Everything, on a page without end."""
    return [_title(frame, width), *frame.view.report(width)]


def _title(frame: Frame, width: int) -> Text:
    state = Text("live", "bold green")
    if frame.paused:
        state = Text("paused", "bold yellow")
    if frame.trouble:
        state = Text("disconnected", "bold red")
    left = [Text(printable(frame.name), "bold"), *frame.view.title()]
    line = fit(left, max(0, width - state.cell_len - 2))
    line.append(" " * (width - line.cell_len - state.cell_len))
    line.append_text(state)
    line.truncate(width)
    return line


def _foot(frame: Frame, width: int) -> Text:
    if frame.trouble:
        return fit([Text(frame.trouble, "red")], width)
    names = [
        Text(f"{i} {name}", "bold" if name == frame.current else "dim")
        for i, name in enumerate(NAMES, 1)
    ]
    hints: Sequence[str] = (*frame.view.hints(), "p pause")
    return fit([Text("q quit", "dim"), *names, *(Text(hint, "dim") for hint in hints)], width)
