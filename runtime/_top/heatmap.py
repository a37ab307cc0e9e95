"""Latency over time: a column for each interval, a row for each range of durations.

The denser a cell, the more goroutines have waited so long until they ran. Densities are
logarithmic: one that waited long is seen beside thousands that did not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rich.text import Text

from runtime._stats import HistogramStats
from runtime._top.counters import Interval
from runtime._top.figures import count, seconds
from runtime._top.layout import fit

_FIRST, _ROWS = 6, 52  # half octaves from 64 ns to 4 s
_SHADES = "░▒▓█"
_STYLES = ("blue", "cyan", "yellow", "bold red")
_LABEL = 9  # cells left of the map
_COUNT = 7  # and right of it


def by_row(histogram: HistogramStats) -> list[int]:
    """How many were in each half octave."""
    found = [0] * _ROWS
    for low, high, n in histogram["buckets"]:
        row = math.floor((math.log2(max((low + high) / 2, 1)) - _FIRST) * 2)
        found[max(0, min(_ROWS - 1, row))] += n
    return found


def picture(intervals: Sequence[Interval], width: int, height: int) -> list[Text]:
    """The latest intervals that there is room for, the newest at the right edge."""
    plot = width - _LABEL - _COUNT
    seen = intervals[-plot:] if plot > 0 else ()
    counts = [None if each.latency is None else by_row(each.latency) for each in seen]
    columns = [each for each in counts if each is not None]
    if height < 3 or not any(map(any, columns)):
        return [fit([Text("nothing yet: no goroutine had to wait", "dim")], width)][:height]
    ranges = _ranges(columns, height - 2)
    most = max(sum(column[low:high]) for column in columns for low, high in ranges)
    lines = []
    for low, high in ranges:
        cells = [sum(column[low:high]) if column else 0 for column in counts]
        line = Text(_label(low), "dim")
        line = Text().append_text(line).append(" " * (plot - len(cells)))
        for n in cells:
            line.append_text(_cell(n, most))
        lines.append(line.append(f"{count(cells[-1]) if cells[-1] else '':>{_COUNT}}"))
    return [*lines, _times(seen, plot), _legend(seen[-1], width)]


def report(histogram: HistogramStats, width: int) -> list[Text]:
    """One interval alone: bars."""
    column = by_row(histogram)
    if not any(column):
        return [fit([Text("no goroutine had to wait")], width)]
    most = max(column)
    bar = max(1, min(60, width - _LABEL - _COUNT))
    lines = []
    for low, high in _ranges([column], _ROWS):
        n = sum(column[low:high])
        cells = "█" * (math.ceil(n / most * bar) if n else 0)
        lines.append(Text(f"{_label(low)}{count(n):>{_COUNT - 1}} {cells}"))
        lines[-1].truncate(width)
    return lines


def _ranges(columns: Sequence[Sequence[int]], height: int) -> list[tuple[int, int]]:
    """Which rows to show as one line, the longest durations first: all that are not empty."""
    used = [row for column in columns for row, n in enumerate(column) if n]
    first, last = min(used), max(used)
    step = -(-(last - first + 1) // height)
    return [(low, low + step) for low in range(first, last + 1, step)][::-1]


def _label(row: int) -> str:
    return f"{seconds(2 ** (_FIRST + row / 2) / 1e9):>{_LABEL - 2}}  "


def _cell(n: int, most: int) -> Text:
    if n == 0:
        return Text(" ")
    step = min(len(_SHADES) - 1, int(math.log1p(n) / math.log1p(most) * len(_SHADES)))
    return Text(_SHADES[step], _STYLES[step])


def _times(seen: Sequence[Interval], plot: int) -> Text:
    """When the first and the last interval were, below their columns."""
    first, last = (time.strftime("%H:%M:%S", time.localtime(seen[i].end)) for i in (0, -1))
    line = last if len(seen) < len(first + last) + 2 else first + last.rjust(len(seen) - len(first))
    return Text(" " * _LABEL + line.rjust(plot)[-plot:], "dim")


def _legend(latest: Interval, width: int) -> Text:
    shades = Text.assemble("few ", *zip(_SHADES, _STYLES, strict=True), " many")
    n = latest.latency["count"] if latest.latency else 0
    return fit([shades, Text(f"right: of the latest {count(n)}"), Text("1 in 16 is timed")], width)
