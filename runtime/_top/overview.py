"""The overview as lines of text: pure functions of what was counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.text import Text

from runtime._stats import HistogramStats
from runtime._top.counters import Counted
from runtime._top.figures import count, p99, percentile, percentile_text, rate, seconds, size, span
from runtime._top.layout import (
    STEPS,
    Column,
    cut,
    figure,
    labelled,
    room_for,
    shared,
    table,
    width_of,
)
from runtime._top.rates import CONNECTION_STATES, SPARE, P, Rates, Reading, Route, Worker
from runtime._top.source import printable

SORTS: Mapping[str, Callable[[Route], float]] = {
    "requests": lambda route: route.requests,
    "p99": lambda route: percentile(route.duration, 99),
    "errors": lambda route: route.errors,
}
TREND = 60  # samples in the curve of the requests
STALE = 4.0  # seconds since a worker has written its counters down: it does not come to it
ROOMY = 18  # lines; with less there are no blank ones between the tables
STATUS_STYLES = {"2": "green", "3": "cyan", "4": "yellow", "5": "bold red"}
STATE_STYLES = {"running": "green", "runnable": "yellow", "waiting": "blue"}


def picture(counted: Counted, sort: str, width: int, height: int) -> list[Text]:
    """What there is room for."""
    body = summary(counted, width)
    if height < ROOMY:
        del body[-1]
    del body[height:]
    gap = 1 if height >= ROOMY else 0
    for lines in shared(tables(counted.reading, sort, width), height - len(body), gap):
        lines[-1].truncate(width)
        body += lines
    return body


def report(counted: Counted, sort: str, width: int) -> list[Text]:
    """Everything, on a page without end."""
    lines = summary(counted, width)
    for rows in tables(counted.reading, sort, width):
        lines += [Text(), *rows]
    return lines


def summary(counted: Counted, width: int) -> list[Text]:
    """A line for each thing that is counted for the whole server."""
    r, total = counted.reading, counted.reading.total
    requests = [figure(rate(total.requests), "/s")]
    requests += [
        figure(rate(n), f" {name}", STATUS_STYLES.get(name[0], "red"))
        for name, n in sorted(total.statuses.items())
        if n > 0
    ]
    requests += [
        figure(size(total.bytes_read), "/s in"),
        figure(size(total.bytes_written), "/s out"),
        figure(f"{r.served:,}", " so far", ""),
    ]
    states = total.connections
    connections = [figure(f"{states.get('all', 0):,}", "")]
    connections += [figure(f"{states.get(n, 0):,}", f" {n}") for n in CONNECTION_STATES]
    connections += [figure(rate(total.accepted), "/s new")]
    goroutines = [figure(f"{total.goroutines:,}", "")]
    goroutines += [
        figure(f"{n:,}", f" {state}", STATE_STYLES.get(state, ""))
        for state, n in total.states.items()
    ]
    goroutines += [
        figure(rate(total.created), "/s started"),
        figure(f"{total.global_runq:,}", " in global queue"),
        figure(f"{total.threads:,}", " threads"),
        figure(f"{total.blocking:,}", " blocking calls"),
    ]
    lines = [
        labelled("requests", requests, width),
        labelled("connections", connections, width),
        labelled("goroutines", goroutines, width),
        labelled("waited to run", percentiles(total.latency), width),
        labelled("ran", percentiles(total.run), width),
    ]
    room = width - lines[0].cell_len - 2
    if len(counted.trend) > 1 and room >= 8:
        lines[0].append("  ")
        lines[0].append(sparkline(counted.trend[-min(room, TREND) :]), "cyan")
    return lines


def percentiles(histogram: HistogramStats) -> list[Text]:
    if not histogram["count"]:
        return [Text("nothing", "dim")]
    points = [(50, "p50"), (90, "p90"), (99, "p99"), (99.9, "p99.9")]
    return [
        Text.assemble((f"{name} ", "dim"), seconds(percentile(histogram, p))) for p, name in points
    ]


# --- the tables ---------------------------------------------------------------------------------


def tables(reading: Reading, sort: str, width: int) -> list[list[Text]]:
    """Workers (if there are several), Ps and routes: each with a line of titles."""
    several = len(reading.workers) > 1
    found = [_workers(reading.workers, width)] if several else []
    found.append(_ps(reading.total.ps, several, width))
    if reading.total.routes:
        found.append(_routes(reading.total.routes, sort, width))
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
            Column("p99 wait", rates(lambda r: p99(r.latency)), 4),
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
    wide = sum(width_of(column) + 2 for column in columns)
    bar = min(40, width - wide if width - wide >= 10 else 10)
    bars = Column("", [utilisation(p.busy, p.spinning, bar) for p in ps], 0, left=True)
    columns.insert(1, bars)
    return table(columns, width)


def _routes(routes: Sequence[Route], sort: str, width: int) -> list[Text]:
    by = SORTS[sort]
    routes = sorted(routes, key=lambda r: (-by(r), -r.total, r.route, r.method))

    def each(cell: Callable[[Route], str]) -> list[str]:
        return [cell(route) for route in routes]

    def answers(first: str) -> list[Text]:
        sums = [sum(n for s, n in r.statuses.items() if s[:1] == first) for r in routes]
        return [Text(rate(n) if n else "", STATUS_STYLES[first]) for n in sums]

    def title(name: str, key: str) -> str:
        return f"{name}▼" if key == sort else name

    columns = [
        Column(title("req/s", "requests"), each(lambda r: rate(r.requests))),
        Column(title("4xx", "errors"), answers("4"), 2),
        Column(title("5xx", "errors"), answers("5"), 2),
        Column("p50", each(lambda r: percentile_text(r.duration, 50)), 1),
        Column(title("p99", "p99"), each(lambda r: p99(r.duration))),
        Column("total", each(lambda r: count(r.total)), 4),
    ]
    names = [printable(f"{r.method} {r.route or '(no route)'}") for r in routes]
    room = room_for(names, columns, width, 16)
    cells = [cut(name, room) for name in names]
    return table([Column("route", cells, left=True), *columns], width)


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
