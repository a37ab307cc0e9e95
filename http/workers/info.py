"""workers(): what all workers have counted."""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import Any, NamedTuple

from runtime import _stats
from runtime._http.workers.memory import Cell, Memory
from runtime._stats import RouteCounts, Snapshot

_TRIES = 20
_MOST_ROUTES = 4096  # of ended workers that are told apart
_OTHER = "other"  # as the core calls those that it does not tell apart

logger = logging.getLogger("runtime.http")
# What says how it is now, and not what has happened so far.  An ended worker has none of it.
_NOW = {
    "gomaxprocs",
    "goroutines",
    "spinning",
    "global_runq",
    "running",
    "runnable",
    "waiting",
    "runq",
    "runnext",
    "inbox",
    "timers",
    "descriptors",
    "idle_workers",
    "sleeping",
    "count",
    "idle",
    "threads",
    "queued",
    "connections",
    "reading",
    "active",
    "closing",
}


class WorkerInfo(NamedTuple):
    """One worker process, as `workers` has found it."""

    id: int  # its slot, from 0; -1: the sum of those that have ended
    pid: int  # 0 for that sum
    age: float  # seconds since the snapshot was taken; 0.0 for the calling process
    restarts: int  # how often another process has taken over this slot
    snapshot: Snapshot


class Here(NamedTuple):
    """Which worker this process is."""

    memory: Memory
    id: int  # -1: the supervisor
    restarts: int
    cell: Cell | None
    doors: str | None  # the directory of peers.py; None: there is none

    def pids(self) -> set[int]:
        """The ids of all worker processes."""
        directory = self.memory.directory.get()
        return set() if directory is None else {pid for _, pid, _, _ in directory["workers"]}


_here: Here | None = None


def set_here(here: Here | None) -> None:
    global _here
    _here = here


def here() -> Here | None:
    """None: this process is no worker, and has none."""
    return _here


def workers() -> list[WorkerInfo]:
    """All worker processes with what they have counted: about a second old, but for the caller's.

        requests = sum(w.snapshot["stats"]["http"]["requests"] for w in http.workers())

    The last one, with id -1, is the sum of those that have ended, if any have: so sums do not
    go down when a worker is replaced. While that happens there are two with the same id. In a
    process that is no worker the list has this process alone.
    """
    return _look(fresh=True)


def published() -> list[WorkerInfo]:
    """The same by what each has written down last, the caller, too.

    Then a sum is the same whichever worker makes it: none of its counters goes down.
    """
    return _look(fresh=False)


def _look(fresh: bool) -> list[WorkerInfo]:
    if _here is None:
        return [WorkerInfo(0, os.getpid(), 0.0, 0, _stats.snapshot())]
    for _ in range(_TRIES):
        version = _here.memory.directory.version
        found = _read(_here, fresh)
        if _here.memory.directory.version == version:
            break  # nobody has ended meanwhile, who would be counted twice, or not at all
    return found


def _read(here: Here, fresh: bool) -> list[WorkerInfo]:
    directory = here.memory.directory.get() or {"workers": [], "ended": None}
    found: list[WorkerInfo] = []
    own = os.getpid()
    for id, pid, restarts, cell in directory["workers"]:
        if pid == own and fresh:
            continue
        snapshot: Snapshot | None = here.memory.cells[cell].get()
        if snapshot is not None and snapshot["pid"] == pid:
            age = max(0.0, time.time() - snapshot["time"])
            found.append(WorkerInfo(id, pid, age, restarts, snapshot))
    if here.id >= 0 and fresh:
        found.append(WorkerInfo(here.id, own, 0.0, here.restarts, _stats.snapshot()))
    found.sort(key=lambda w: w.id)
    ended: Snapshot | None = directory["ended"]
    if ended is not None:
        age = max(0.0, time.time() - ended["time"])
        found.append(WorkerInfo(-1, 0, age, 0, ended))
    if all(w.id < 0 for w in found):  # nobody has written anything yet
        found.insert(0, WorkerInfo(max(here.id, 0), own, 0.0, here.restarts, _stats.snapshot()))
    return found


def publish(cell: Cell) -> Snapshot:
    """Write down what this process has counted; without its routes if they are too many."""
    snapshot = _stats.snapshot()
    if not cell.put(snapshot):
        cell.put({**snapshot, "routes": []})
        _warn_of_routes()
    return snapshot


def publish_directory(
    cell: Cell, workers: list[tuple[int, int, int, int]], ended: Snapshot | None
) -> None:
    """Write down which workers there are (slot, pid, restarts, cell), and the sum of ended ones."""
    if not cell.put({"workers": workers, "ended": ended}) and ended is not None:
        cell.put({"workers": workers, "ended": {**ended, "routes": []}})
        _warn_of_routes()


@functools.cache
def _warn_of_routes() -> None:
    logger.warning("statistics of requests by route are left out: there is no room for so many")


def add_ended(ended: Snapshot | None, last: Snapshot) -> Snapshot:
    """The sum of ended workers with one more, of which this is the last snapshot.

    It has one P of each id, however many workers there have been.
    """
    last = _gone(last)
    if ended is None:
        return {**last, "pid": 0}
    both = _stats.total([ended, last])
    ps: dict[int, Any] = {}
    for p in both["stats"]["ps"]:
        before = ps.get(p["id"], {})
        ps[p["id"]] = {
            key: value if key == "id" or isinstance(value, bool) else before.get(key, 0) + value
            for key, value in p.items()
            if key != "worker"
        }
    both["stats"]["ps"] = list(ps.values())
    both["routes"] = _few_routes(both["routes"], ended["routes"])
    return both


def _few_routes(routes: list[RouteCounts], before: list[RouteCounts]) -> list[RouteCounts]:
    """What is beyond so many, as each worker may have its own ones, goes together.

    What was told apart before still is: its counters must not go down.
    """
    if len(routes) <= _MOST_ROUTES:
        return routes
    known = {(r["method"], r["route"]) for r in before}
    old = [r for r in routes if (r["method"], r["route"]) in known]
    new = [r for r in routes if (r["method"], r["route"]) not in known]
    room = max(0, _MOST_ROUTES - len(old))
    rest: list[Any] = [{**r, "route": _OTHER} for r in new[room:]]
    return _stats.sum_routes([*old, *new[:room], *rest])


def _gone(snapshot: Any) -> Any:
    """The same without what is no more."""
    stats = _without_now({**snapshot["stats"], "ps": []})
    stats["ps"] = [_without_now(p) for p in snapshot["stats"]["ps"]]
    return {**snapshot, "stats": stats}


def _without_now(counts: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in counts.items():
        if isinstance(value, dict):
            out[key] = _without_now(value)
        else:
            out[key] = type(value)() if key in _NOW else value
    return out
