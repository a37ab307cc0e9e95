"""What happened between two samples of the same server.

A sample is what `GET api/snapshot` of the debug page answers. Its counters only grow, so a rate
is their difference over the difference of the snapshots' own times; each worker has its own
times, and the rates of all together are the sum of the workers'.

No rate is negative, whatever comes: a counter that went down counts as one that stood still. A
worker that is new counts from its start. Counters that are missing are 0, so a server of another
version is shown as far as it goes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from runtime._stats import HistogramStats, sum_histograms

JSON: TypeAlias = Mapping[str, Any]

CONNECTION_STATES = ("active", "idle", "reading", "waiting", "closing")
NOTHING: HistogramStats = {"count": 0, "sum_ns": 0, "buckets": []}
SPARE = 256  # the id of the P that helps out while the main goroutine blocks its thread


@dataclass(frozen=True, slots=True)
class P:
    """One P. What is counted is per second, busy and spinning are shares of the time (0 to 1)."""

    worker: int
    id: int
    busy: float
    spinning: float
    queued: int  # goroutines that wait for it now
    ran: float  # goroutines, until they waited or ended
    switches: float
    steals: float
    preemptions: float
    polls: float
    timers: int  # that are pending now


@dataclass(frozen=True, slots=True)
class Route:
    """A route in the interval; requests and statuses are per second."""

    method: str
    route: str
    requests: float
    statuses: Mapping[str, float]
    duration: HistogramStats
    total: int  # requests since the start

    @property
    def errors(self) -> float:
        """Requests a second that failed: 4xx, 5xx, or without an answer."""
        return sum(n for status, n in self.statuses.items() if status[:1] in ("4", "5", "0"))


@dataclass(frozen=True, slots=True)
class Rates:
    """A process, or several together: what it does now, and did a second in the interval."""

    ps: tuple[P, ...] = ()
    goroutines: int = 0
    states: Mapping[str, int] = field(default_factory=dict)
    global_runq: int = 0
    threads: int = 0
    blocking: int = 0  # calls that run in threads of their own
    created: float = 0.0
    finished: float = 0.0
    connections: Mapping[str, int] = field(default_factory=dict)  # by state, and "all"
    accepted: float = 0.0
    requests: float = 0.0
    bytes_read: float = 0.0
    bytes_written: float = 0.0
    routes: tuple[Route, ...] = ()
    latency: HistogramStats = field(default_factory=NOTHING.copy)
    run: HistogramStats = field(default_factory=NOTHING.copy)

    @property
    def busy(self) -> float:
        """The mean of the Ps."""
        return sum(p.busy for p in self.ps) / len(self.ps) if self.ps else 0.0

    @property
    def statuses(self) -> Mapping[str, float]:
        """Answers a second by class, "2xx" to "5xx"; "unanswered" those that got none."""
        found: dict[str, float] = {}
        for route in self.routes:
            for status, n in route.statuses.items():
                name = "unanswered" if status == "0" else f"{status[:1]}xx"
                found[name] = found.get(name, 0.0) + n
        return found


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process of the server; its age is how many seconds ago its counters were read."""

    id: int
    pid: int
    age: float
    restarts: int
    uptime: float
    rates: Rates


@dataclass(frozen=True, slots=True)
class Reading:
    """The whole server."""

    workers: tuple[Worker, ...]
    total: Rates
    served: int  # requests so far, those of ended workers too
    version: str
    python: str
    gil: bool
    uptime: float


class Meter:
    """Makes readings of a server's samples, which it is given one after another."""

    def __init__(self) -> None:
        # Which process it is -> its last two snapshots; the earlier one is None at first.
        self._last: dict[tuple[int, int, float], tuple[JSON | None, JSON]] = {}

    def read(self, sample: JSON) -> Reading:
        """What the server does, and did since the sample before (the first: since its start).

        Others may have been asked more often than a worker writes its counters down. One whose
        snapshot is the one already seen keeps its rates.
        """
        last, self._last = self._last, {}
        workers, ended = [], Rates()
        for entry in sample["workers"]:
            now = entry["snapshot"]
            if number(entry, "id") < 0:  # the sum of those that have ended
                ended = replace(rates(now, now), ps=())
                continue
            key = (number(entry, "id"), number(entry, "pid"), number(now, "started"))
            before, seen = last.get(key, (None, None))
            if seen is not None and number(now, "time") > number(seen, "time"):
                before = seen
            self._last[key] = before, now
            workers.append(
                Worker(
                    key[0],
                    key[1],
                    number(entry, "age"),
                    number(entry, "restarts"),
                    max(0.0, number(now, "time") - number(now, "started")),
                    rates(before, now, key[0]),
                )
            )
        entries = sample["workers"]
        me = entries[sample["self"]]["snapshot"]
        return Reading(
            tuple(workers),
            total([*(worker.rates for worker in workers), ended]),
            sum(number(_http(entry["snapshot"]), "requests") for entry in entries),
            str(me.get("version", "?")),
            str(me.get("python", "?")),
            bool(me.get("gil", True)),
            max(0.0, number(me, "time") - min(number(e["snapshot"], "started") for e in entries)),
        )


def rates(before: JSON | None, now: JSON, worker: int = 0) -> Rates:
    """What a process did between two of its snapshots, or since it started."""
    before = before or {}
    began = number(before, "time") or number(now, "started")
    seconds = number(now, "time") - began
    stats, earlier = now.get("stats", {}), before.get("stats", {})
    web, web_earlier = _http(now), _http(before)

    def grown(new: JSON, old: JSON, name: str) -> float:
        return per_second(number(new, name) - number(old, name), seconds)

    old_ps = {number(p, "id"): p for p in earlier.get("ps", ())}
    old_routes = {(r["method"], r["route"]): r for r in before.get("routes", ())}
    ps = []
    for p in stats.get("ps", ()):
        old = old_ps.get(number(p, "id"), {})
        if number(p, "id") == SPARE and grown(p, old, "ticks") == 0:
            continue
        idle, spinning = (
            min(1.0, grown(p, old, name) / 1e9) for name in ("idle_ns", "spinning_ns")
        )
        ps.append(
            P(
                worker,
                number(p, "id"),
                max(0.0, 1 - idle - spinning) if seconds > 0 else 0.0,
                min(spinning, 1 - idle),
                number(p, "runq") + number(p, "inbox"),
                grown(p, old, "ticks"),
                grown(p, old, "switches"),
                grown(p, old, "steals"),
                grown(p, old, "preemptions"),
                grown(p, old, "polls"),
                number(p, "timers"),
            )
        )
    histograms, old_histograms = now.get("histograms", {}), before.get("histograms", {})
    blocking = stats.get("blocking", {})
    return Rates(
        ps=tuple(ps),
        goroutines=number(stats, "goroutines"),
        states={state: number(stats["states"], state) for state in stats.get("states", ())},
        global_runq=number(stats, "global_runq"),
        threads=number(stats.get("ms", {}), "count"),
        blocking=max(0, number(blocking, "threads") - number(blocking, "idle")),
        created=grown(stats, earlier, "created"),
        finished=grown(stats, earlier, "finished"),
        connections={name: number(web, name) for name in CONNECTION_STATES}
        | {"all": number(web, "connections")},
        accepted=grown(web, web_earlier, "accepted"),
        requests=grown(web, web_earlier, "requests"),
        bytes_read=grown(web, web_earlier, "bytes_read"),
        bytes_written=grown(web, web_earlier, "bytes_written"),
        routes=tuple(
            _route(old_routes.get((r["method"], r["route"]), {}), r, seconds)
            for r in now.get("routes", ())
        ),
        latency=difference(old_histograms.get("latency", {}), histograms.get("latency", {})),
        run=difference(old_histograms.get("run", {}), histograms.get("run", {})),
    )


def total(parts: Iterable[Rates]) -> Rates:
    """All of them together: the Ps beside each other, everything else summed."""
    parts = list(parts)
    routes: dict[tuple[str, str], list[Route]] = {}
    for part in parts:
        for route in part.routes:
            routes.setdefault((route.method, route.route), []).append(route)
    return Rates(
        ps=tuple(p for part in parts for p in part.ps),
        goroutines=sum(part.goroutines for part in parts),
        states=_summed(part.states for part in parts),
        global_runq=sum(part.global_runq for part in parts),
        threads=sum(part.threads for part in parts),
        blocking=sum(part.blocking for part in parts),
        created=sum(part.created for part in parts),
        finished=sum(part.finished for part in parts),
        connections=_summed(part.connections for part in parts),
        accepted=sum(part.accepted for part in parts),
        requests=sum(part.requests for part in parts),
        bytes_read=sum(part.bytes_read for part in parts),
        bytes_written=sum(part.bytes_written for part in parts),
        routes=tuple(
            Route(
                method,
                route,
                sum(r.requests for r in same),
                _summed(r.statuses for r in same),
                sum_histograms(r.duration for r in same),
                sum(r.total for r in same),
            )
            for (method, route), same in routes.items()
        ),
        latency=sum_histograms(part.latency for part in parts),
        run=sum_histograms(part.run for part in parts),
    )


def difference(before: JSON, now: JSON) -> HistogramStats:
    """What a histogram has counted in between."""
    old = {low: count for low, _, count in before.get("buckets", ())}
    buckets = [
        [int(low), int(high), int(count - old.get(low, 0))]
        for low, high, count in now.get("buckets", ())
        if count > old.get(low, 0)
    ]
    return {
        "count": sum(count for _, _, count in buckets),
        "sum_ns": max(0, number(now, "sum_ns") - number(before, "sum_ns")),
        "buckets": buckets,
    }


def number(values: JSON, name: str) -> Any:
    """A counter; 0 if it is missing. Raises ValueError for what is none."""
    value = values.get(name, 0)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}")
    return value


def per_second(count: float, seconds: float) -> float:
    return max(0.0, count / seconds) if seconds > 0 else 0.0


def _http(snapshot: JSON) -> JSON:
    found: JSON = snapshot.get("stats", {}).get("http", {})
    return found


def _route(before: JSON, now: JSON, seconds: float) -> Route:
    old, counts = before.get("statuses", {}), now["statuses"]
    statuses = {
        status: per_second(number(counts, status) - number(old, status), seconds)
        for status in counts
    }
    return Route(
        str(now["method"]),
        str(now["route"]),
        sum(statuses.values()),
        statuses,
        difference(before.get("duration", {}), now.get("duration", {})),
        sum(counts.values()),
    )


def _summed(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    sums: Counter[str] = Counter()
    for part in parts:
        sums.update(part)
    return dict(sums)
