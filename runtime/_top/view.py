"""A reading as lines of text, for any size: pure functions, which know nothing of a terminal.

No line is wider than asked for, and there are at most as many as asked for. Where room is short,
what matters less is left out whole: columns of a table, parts of a line, then rows. Colours only
repeat what the text says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from runtime._histogram import Histogram
from runtime._stats import HistogramStats
from runtime._top.rates import CONNECTION_STATES, SPARE, P, Rates, Reading, Route, Worker
from runtime._top.source import printable

SORTS: Mapping[str, tuple[str, Callable[[Route], float]]] = {
    "1": ("requests", lambda route: route.requests),
    "2": ("p99", lambda route: percentile(route.duration, 99)),
    "3": ("errors", lambda route: route.errors),
}
KEYS = ("q quit", "p pause", "sort by: 1 requests", "2 p99", "3 errors")
STALE = 4.0  # seconds since a worker has written its counters down: it does not come to it
ROOMY = 20  # lines; with less there are no blank ones between the tables
STATUS_STYLES = {"2": "green", "3": "cyan", "4": "yellow", "5": "bold red"}
STEPS = "▁▂▃▄▅▆▇█"
ASCII = str.maketrans(f"{STEPS}░▒µ…▼", "__..--=#.-u~v")  # for terminals that have no more
STATE_STYLES = {"running": "green", "runnable": "yellow", "waiting": "blue"}


@dataclass(frozen=True, slots=True)
class Frame:
    """All that a picture shows."""

    name: str  # of the server
    reading: Reading
    trend: Sequence[float] = ()  # requests a second, the newest last
    sort: str = "1"
    paused: bool = False
    trouble: str = ""  # why there are no newer samples


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    cells: Sequence[str | Text]
    rank: int = 0  # columns with the highest are left out first
    left: bool = False


def picture(frame: Frame, width: int, height: int) -> list[Text]:
    """The whole screen."""
    if width < 1 or height < 1:
        return []
    head = [_title(frame, width)]
    body = summary(frame, width)
    if height < ROOMY:
        del body[-1]
    foot = [_foot(frame, width)] if height > 4 else []
    body = body[: max(0, height - len(head) - len(foot))]
    room = height - len(head) - len(body) - len(foot)
    for lines in _shared(tables(frame, width), room, 1 if height >= ROOMY else 0):
        lines[-1].truncate(width)
        body += lines
    body += [Text()] * (height - len(head) - len(body) - len(foot))
    if frame.trouble:  # it is what was, not what is
        for line in body:
            line.stylize("dim")
    return head + body + foot


def report(frame: Frame, width: int) -> list[Text]:
    """Everything, on a page without end."""
    lines = [_title(frame, width), *summary(frame, width)]
    for table in tables(frame, width):
        lines += [Text(), *table]
    return lines


# --- the lines on top ---------------------------------------------------------------------------


def _title(frame: Frame, width: int) -> Text:
    r = frame.reading
    state = Text("live", "bold green")
    if frame.paused:
        state = Text("paused", "bold yellow")
    if frame.trouble:
        state = Text("disconnected", "bold red")
    left = [
        Text(printable(frame.name), "bold"),
        Text(f"up {span(r.uptime)}"),
        Text(f"gosched {printable(r.version)}", "dim"),
        Text(f"Python {printable(r.python)}{'' if r.gil else ' without GIL'}", "dim"),
    ]
    line = _fit(left, max(0, width - state.cell_len - 2))
    line.append(" " * (width - line.cell_len - state.cell_len))
    line.append_text(state)
    line.truncate(width)
    return line


def _foot(frame: Frame, width: int) -> Text:
    parts = [Text(key, "dim") for key in KEYS]
    if frame.trouble:
        parts = [Text(frame.trouble, "red")]
    return _fit(parts, width)


def summary(frame: Frame, width: int) -> list[Text]:
    """A line for each thing that is counted for the whole server."""
    r, total = frame.reading, frame.reading.total
    requests = [_figure(rate(total.requests), "/s")]
    requests += [
        _figure(rate(n), f" {name}", STATUS_STYLES.get(name[0], "red"))
        for name, n in sorted(total.statuses.items())
        if n > 0
    ]
    requests += [
        _figure(size(total.bytes_read), "/s in"),
        _figure(size(total.bytes_written), "/s out"),
        _figure(f"{r.served:,}", " so far", ""),
    ]
    states = total.connections
    connections = [_figure(f"{states.get('all', 0):,}", "")]
    connections += [_figure(f"{states.get(n, 0):,}", f" {n}") for n in CONNECTION_STATES]
    connections += [_figure(rate(total.accepted), "/s new")]
    goroutines = [_figure(f"{total.goroutines:,}", "")]
    goroutines += [
        _figure(f"{n:,}", f" {state}", STATE_STYLES.get(state, ""))
        for state, n in total.states.items()
    ]
    goroutines += [
        _figure(rate(total.created), "/s started"),
        _figure(f"{total.global_runq:,}", " in global queue"),
        _figure(f"{total.threads:,}", " threads"),
        _figure(f"{total.blocking:,}", " blocking calls"),
    ]
    lines = [
        _labelled("requests", requests, width),
        _labelled("connections", connections, width),
        _labelled("goroutines", goroutines, width),
        _labelled("waited to run", _percentiles(total.latency), width),
        _labelled("ran", _percentiles(total.run), width),
    ]
    room = width - lines[0].cell_len - 2
    if len(frame.trend) > 1 and room >= 8:
        lines[0].append("  ")
        lines[0].append(sparkline(frame.trend[-min(room, 60) :]), "cyan")
    return lines


def _percentiles(histogram: HistogramStats) -> list[Text]:
    if not histogram["count"]:
        return [Text("nothing", "dim")]
    points = [(50, "p50"), (90, "p90"), (99, "p99"), (99.9, "p99.9")]
    return [
        Text.assemble((f"{name} ", "dim"), seconds(percentile(histogram, p))) for p, name in points
    ]


def _figure(value: str, unit: str, style: str = "bold") -> Text:
    return Text.assemble((value, style or "bold"), (unit, "" if style == "bold" else style))


def _labelled(label: str, parts: Sequence[Text], width: int) -> Text:
    return _fit([Text(f"{label:<13}", "dim"), *parts], width, first_gap=1)


# --- the tables ---------------------------------------------------------------------------------


def tables(frame: Frame, width: int) -> list[list[Text]]:
    """Workers (if there are several), Ps and routes: each with a line of titles."""
    reading = frame.reading
    several = len(reading.workers) > 1
    found = [_workers(reading.workers, width)] if several else []
    found.append(_ps(reading.total.ps, several, width))
    if reading.total.routes:
        found.append(_routes(reading.total.routes, frame.sort, width))
    return found


def _workers(workers: Sequence[Worker], width: int) -> list[Text]:
    def each(cell: Callable[[Worker], str]) -> list[str]:
        return [cell(worker) for worker in workers]

    def seen(age: float) -> Text:
        return Text(f"{span(age)} ago", "bold red" if age >= STALE else "")

    def rates(cell: Callable[[Rates], str]) -> list[str]:
        return [cell(worker.rates) for worker in workers]

    return table(
        [
            Column("worker", each(lambda w: str(w.id))),
            Column("pid", each(lambda w: str(w.pid)), 2),
            Column("busy", [_percent(worker.rates.busy) for worker in workers]),
            Column("req/s", rates(lambda r: rate(r.requests))),
            Column("conns", rates(lambda r: count(r.connections["all"])), 1),
            Column("goroutines", rates(lambda r: count(r.goroutines)), 3),
            Column("p99 wait", rates(lambda r: _p99(r.latency)), 4),
            Column("up", each(lambda w: span(w.uptime)), 2),
            Column("restarts", each(lambda w: str(w.restarts)), 3),
            Column("seen", [seen(worker.age) for worker in workers], 5),
        ],
        width,
    )


def _ps(ps: Sequence[P], several: bool, width: int) -> list[Text]:
    def each(cell: Callable[[P], str]) -> list[str]:
        return [cell(p) for p in ps]

    def name(p: P) -> str:
        own = "spare" if p.id == SPARE else str(p.id)
        return f"{p.worker}/{own}" if several else own

    columns = [
        Column("P", each(name), left=True),
        Column("busy", [_percent(p.busy) for p in ps]),
        Column("queue", each(lambda p: count(p.queued))),
        Column("ran/s", each(lambda p: rate(p.ran)), 3),
        Column("switch/s", each(lambda p: rate(p.switches)), 1),
        Column("steal/s", each(lambda p: rate(p.steals)), 2),
        Column("preempt/s", each(lambda p: rate(p.preemptions)), 4),
        Column("poll/s", each(lambda p: rate(p.polls)), 5),
        Column("timers", each(lambda p: count(p.timers)), 3),
    ]
    wide = sum(_width(column) + 2 for column in columns)
    bar = min(40, width - wide if width - wide >= 10 else 10)
    bars = Column("", [utilisation(p.busy, p.spinning, bar) for p in ps], 0, left=True)
    columns.insert(1, bars)
    return table(columns, width)


def _routes(routes: Sequence[Route], sort: str, width: int) -> list[Text]:
    by = SORTS[sort][1]
    routes = sorted(routes, key=lambda r: (-by(r), -r.total, r.route, r.method))

    def each(cell: Callable[[Route], str]) -> list[str]:
        return [cell(route) for route in routes]

    def answers(first: str) -> list[Text]:
        sums = [sum(n for s, n in r.statuses.items() if s[:1] == first) for r in routes]
        return [Text(rate(n) if n else "", STATUS_STYLES[first]) for n in sums]

    def title(name: str, key: str) -> str:
        return f"{name}▼" if key == sort else name

    columns = [
        Column(title("req/s", "1"), each(lambda r: rate(r.requests))),
        Column(title("4xx", "3"), answers("4"), 2),
        Column(title("5xx", "3"), answers("5"), 2),
        Column("p50", each(lambda r: _percentile(r.duration, 50)), 1),
        Column(title("p99", "2"), each(lambda r: _p99(r.duration))),
        Column("total", each(lambda r: count(r.total)), 4),
    ]
    names = [printable(f"{r.method} {r.route or '(no route)'}") for r in routes]
    rest = sum(_width(column) + 2 for column in columns)
    longest = max(map(len, names))
    room = max(min(longest, 16), min(longest, width - rest))
    cut = [_cut(name, room) for name in names]
    return table([Column("route", cut, left=True), *columns], width)


def table(columns: Sequence[Column], width: int) -> list[Text]:
    """Columns of one height, under their titles; those that do not fit are left out by rank."""
    kept = list(columns)
    while len(kept) > 1 and sum(_width(c) for c in kept) + 2 * (len(kept) - 1) > width:
        kept.remove(max(reversed(kept), key=lambda column: column.rank))
    lines = [Text() for _ in range(len(columns[0].cells) + 1)]
    for i, column in enumerate(kept):
        wide = _width(column)
        for line, cell in zip(lines, [Text(column.title, "dim"), *column.cells], strict=True):
            text = _text(cell)
            gap = " " * (wide - text.cell_len)
            line.append("  " if i else "")
            line.append_text(text + gap if column.left else Text(gap) + text)
    for line in lines:
        line.truncate(width)
    return lines


def _width(column: Column) -> int:
    return max([len(column.title), *(_text(cell).cell_len for cell in column.cells)])


def _text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def _shared(tables: Sequence[list[Text]], room: int, gap: int) -> list[list[Text]]:
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


def _fit(parts: Sequence[Text], width: int, first_gap: int = 2) -> Text:
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


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


# --- bars ---------------------------------------------------------------------------------------


def utilisation(busy: float, spinning: float, width: int) -> Text:
    """A bar: what was busy, then what only looked for work, then idle."""
    style = "green" if busy < 0.6 else "yellow" if busy < 0.9 else "red"
    cells = round(busy * width)
    spun = min(width - cells, round(spinning * width))
    return Text.assemble(
        ("█" * cells, style),
        ("▒" * spun, "blue"),
        ("░" * (width - cells - spun), "bright_black"),
    )


def sparkline(values: Sequence[float]) -> str:
    """One character a value, as high as it is beside the greatest."""
    top = max(values, default=0.0) or 1.0
    return "".join(STEPS[round(value / top * (len(STEPS) - 1))] for value in values)


def _percent(share: float) -> Text:
    return Text(f"{share:.0%}", "bold red" if share >= 0.9 else "")


# --- numbers ------------------------------------------------------------------------------------


def rate(value: float) -> str:
    """A few digits: 0, 0.25, 9.5, 120, 4,230, 45.1k, 3.2M."""
    if value >= 10_000:
        return count(value)
    if value == 0:
        return "0"
    digits = 2 if value < 0.995 else 1 if value < 9.95 else 0
    return f"{value:,.{digits}f}"


def count(value: float) -> str:
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.1f}{unit}" if scaled < 100 else f"{scaled:.0f}{unit}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def seconds(value: float) -> str:
    """A short duration: 850 ns, 12 µs, 1.4 ms, 2.5 s."""
    for limit, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.1f} {unit}" if scaled < 10 else f"{scaled:.0f} {unit}"
    return f"{value * 1e9:.0f} ns"


def span(value: float) -> str:
    """A long one: 8s, 5m03s, 2h10m, 3d04h."""
    whole = int(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"


def percentile(histogram: HistogramStats, p: float) -> float:
    """In seconds; 0 of nothing."""
    buckets = [(low, high, count) for low, high, count in histogram["buckets"]]
    return Histogram(histogram["sum_ns"], buckets).percentile(p)


def _percentile(histogram: HistogramStats, p: float) -> str:
    return seconds(percentile(histogram, p)) if histogram["count"] else "-"


def _p99(histogram: HistogramStats) -> str:
    return _percentile(histogram, 99)
