"""What the runtime counts, as plain dicts that JSON can carry: `stats`, and whole snapshots.

A snapshot is everything one process has counted; those of several processes can be added up.
Counters only ever grow, so what happened in between is the difference of two.  A child that
was forked begins at 0.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Any, TypedDict

from runtime import _blocking, _core
from runtime._histogram import Histogram

# A functional TypedDict: "global" is a keyword.
_Global = TypedDict("_Global", {"global": int})


class _OfTotal(TypedDict, total=False):
    worker: int  # which of several processes it belongs to; see `total`


class PStats(_Global, _OfTotal):
    """One P with its M: queues as they are now, and what it has done so far."""

    id: int  # 256: the spare one

    # Now:
    runq: int  # runnable goroutines in its queues, that of runnext included
    runnext: int  # of them in runnext: 1 or 0
    inbox: int  # 1: other threads have left some there that are not in its queues yet
    timers: int
    descriptors: int  # registered with its poller
    workers: int  # greenlets ever started to run goroutines
    idle_workers: int  # kept to be used again
    sleeping: bool  # its M has nothing to run, and is in the poller or about to be

    # So far:
    ticks: int  # goroutines picked to run
    runnext_hits: int  # of them from runnext
    switches: int  # from one goroutine's stack to another
    steals: int  # times it found something to steal
    stolen: int  # goroutines it took then
    # "global": goroutines taken from the global queue
    inbox_takes: int  # goroutines taken from its inbox
    overflows: int  # times half of its queue went to the global one
    preemptions: int
    polls: int  # looks at the poller
    blocking_polls: int  # of them those that might wait
    poll_events: int
    wakeups: int  # times another thread woke its M
    timers_fired: int
    idle_ns: int  # asleep in the poller
    spinning_ns: int  # looking for work without having any


class GoroutineStates(TypedDict):
    """Goroutines that are alive, by state."""

    running: int
    runnable: int
    waiting: int


class MStats(TypedDict):
    """Threads that run goroutines."""

    count: int
    idle: int  # asleep in their pollers, or about to be
    spinning: int  # looking for work without having any


class BlockingStats(TypedDict):
    """The threads of `runtime.blocking`."""

    threads: int
    idle: int
    queued: int  # calls that wait for a thread
    done: int  # calls that have ended


class HTTPStats(TypedDict):
    """All HTTP servers of the process together."""

    connections: int  # open now; by state:
    reading: int  # waiting for a request head, or the rest of one
    idle: int  # kept alive between two requests
    active: int  # a handler runs
    closing: int  # skipping what is left of a body, or waiting for the client to close
    waiting: int  # requests that wait for their turn at max_requests
    accepted: int
    requests: int  # served
    bytes_read: int
    bytes_written: int


class Stats(TypedDict):
    """What `runtime.stats` returns."""

    gomaxprocs: int
    goroutines: int  # alive: created - finished + 1, the main one
    created: int
    finished: int
    spinning: int  # Ms that look for work
    global_runq: int
    states: GoroutineStates
    ps: list[PStats]
    ms: MStats
    blocking: BlockingStats
    http: HTTPStats


class HistogramStats(TypedDict):
    """A histogram of durations."""

    count: int
    sum_ns: int
    buckets: list[list[int]]  # [low, high, count] of those that are not empty, in ns


class SchedulerHistograms(TypedDict):
    """Those of `runtime.histograms`."""

    latency: HistogramStats
    run: HistogramStats


class _ByStatus(TypedDict, total=False):
    by_status: dict[str, HistogramStats]  # where there is more than one


class RouteCounts(_ByStatus):
    """The requests of one method to one route."""

    method: str
    route: str
    statuses: dict[str, int]  # how many got each status; "0": no response
    duration: HistogramStats


class Snapshot(TypedDict):
    """All counters of a process, or of several."""

    pid: int  # 0: of several
    time: float  # when it was taken, in Unix seconds
    started: float  # when the process has imported runtime, in Unix seconds
    python: str
    gil: bool
    version: str
    stats: Stats
    histograms: SchedulerHistograms
    routes: list[RouteCounts]


_started = time.time()


def _restart() -> None:
    global _started
    _started = time.time()


os.register_at_fork(after_in_child=_restart)


def stats() -> Stats:
    """A snapshot of the runtime's counters: a dict of numbers, and of dicts and lists of such.

        runtime.stats()["goroutines"]

    The values are read one after the other while others go on: sums are exact only when
    nothing runs, but no counter is ever seen to go down.

    RuntimeError in finalizers that run when the interpreter has taken its modules down.

    Go: runtime/metrics, and expvar.
    """
    if _core is None or _blocking is None:
        raise RuntimeError("stats(): the interpreter is shutting down")
    return {**_core.stats(), "blocking": _blocking.stats()}  # type: ignore[typeddict-item]


def _histogram(total: int, buckets: list[tuple[int, int, int]]) -> HistogramStats:
    return {
        "count": sum(n for _, _, n in buckets),
        "sum_ns": total,
        "buckets": [list(bucket) for bucket in buckets],
    }


def as_histogram(h: HistogramStats) -> Histogram:
    """The same as an object."""
    return Histogram(h["sum_ns"], [(low, high, n) for low, high, n in h["buckets"]])


def snapshot() -> Snapshot:
    """Everything this process has counted so far."""
    from runtime import __version__

    latency, run = _core._histograms()
    return {
        "pid": os.getpid(),
        "time": time.time(),
        "started": _started,
        "python": sys.version.split()[0],
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "version": __version__,
        "stats": stats(),
        "histograms": {"latency": _histogram(*latency), "run": _histogram(*run)},
        "routes": routes(),
    }


def routes() -> list[RouteCounts]:
    """What the HTTP servers of this process have counted, by route and method."""
    found: dict[tuple[str, str], dict[str, HistogramStats]] = {}
    for route, method, status, histogram in sorted(_core._http_routes()):
        h = _histogram(*histogram)
        if h["count"]:
            found.setdefault((route, method), {})[str(status)] = h
    return [make_route(method, route, by_status) for (route, method), by_status in found.items()]


# --- several processes --------------------------------------------------------------------------


def total(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of several processes' snapshots, which are left as they are.

    Counters, histograms and routes are added up; the Ps of all are in one list, each with the
    index of its snapshot as "worker", unless it has one already.  time is that of the latest
    snapshot, started that of the earliest process.  Raises ValueError if there is none.
    """
    several = list(snapshots)
    if not several:
        raise ValueError("total() needs one snapshot or more")
    newest = max(several, key=lambda s: s["time"])
    ps: list[PStats] = []
    for worker, s in enumerate(several):
        ps += [p if "worker" in p else {**p, "worker": worker} for p in s["stats"]["ps"]]
    summed: dict[str, Any] = _sum_numbers([{**s["stats"], "ps": []} for s in several])
    return {
        "pid": 0,
        "time": newest["time"],
        "started": min(s["started"] for s in several),
        "python": newest["python"],
        "gil": newest["gil"],
        "version": newest["version"],
        "stats": {**summed, "ps": ps},  # type: ignore[typeddict-item]
        "histograms": {
            "latency": sum_histograms(s["histograms"]["latency"] for s in several),
            "run": sum_histograms(s["histograms"]["run"] for s in several),
        },
        "routes": sum_routes(route for s in several for route in s["routes"]),
    }


def _sum_numbers(dicts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums of what has the same key; a key that some lack counts as 0 there."""
    out: dict[str, Any] = {}
    for d in dicts:
        for key, value in d.items():
            if isinstance(value, dict):
                out[key] = _sum_numbers([out.get(key, {}), value])
            elif isinstance(value, int | float):
                out[key] = out.get(key, 0) + value
    return out


def sum_histograms(histograms: Iterable[HistogramStats]) -> HistogramStats:
    """One histogram of what several have counted."""
    count = ns = 0
    buckets: dict[tuple[int, int], int] = {}
    for h in histograms:
        count += h["count"]
        ns += h["sum_ns"]
        for low, high, n in h["buckets"]:
            buckets[low, high] = buckets.get((low, high), 0) + n
    return {
        "count": count,
        "sum_ns": ns,
        "buckets": [[low, high, n] for (low, high), n in sorted(buckets.items())],
    }


def durations_by_status(route: RouteCounts) -> dict[str, HistogramStats]:
    """The durations of a route's requests, by status."""
    if "by_status" in route:
        return route["by_status"]
    return dict.fromkeys(route["statuses"], route["duration"])


def make_route(method: str, route: str, by_status: dict[str, HistogramStats]) -> RouteCounts:
    """A route's statistics, of its durations by status."""
    made: RouteCounts = {
        "method": method,
        "route": route,
        "statuses": {status: h["count"] for status, h in by_status.items()},
        "duration": sum_histograms(by_status.values()),
    }
    if len(by_status) > 1:
        made["by_status"] = by_status
    return made


def sum_routes(routes: Iterable[RouteCounts]) -> list[RouteCounts]:
    """One entry for each method and route, sorted by these."""
    merged: dict[tuple[str, str], dict[str, list[HistogramStats]]] = {}
    for r in routes:
        statuses = merged.setdefault((r["route"], r["method"]), {})
        for status, h in durations_by_status(r).items():
            statuses.setdefault(status, []).append(h)
    return [
        make_route(method, route, {code: sum_histograms(hs) for code, hs in sorted(by.items())})
        for (route, method), by in sorted(merged.items())
    ]
