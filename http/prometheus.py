"""Metrics for Prometheus: http.prometheus.

    mux.handle("GET /metrics", http.prometheus.handler())

What the runtime and the HTTP servers count is made into the text that Prometheus asks for by
prometheus-client, an optional package. In a worker it is that of all workers together, by what
they have published: about a second old, but the same whichever worker is asked, so that no
counter is seen to go down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtime import _stats
from runtime._stats import HistogramStats, RouteCounts, Snapshot

try:
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
except ImportError as e:
    raise ImportError(
        "http.prometheus needs the package prometheus-client: pip install 'gosched[prometheus]'"
    ) from e

if TYPE_CHECKING:
    from prometheus_client.registry import Collector as _Registry

__all__ = ["Collector", "handler"]

# Upper bounds in seconds. From 5 ms on those that OpenTelemetry advises for
# http.server.request.duration; handlers here are often much faster.
_REQUESTS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025),
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
_TURNS = (1e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1)

_P_COUNTERS = {
    "workers": ("greenlets_started", "Greenlets that were made to run goroutines."),
    "ticks": ("goroutine_runs", "Times a goroutine was picked to run."),
    "runnext_hits": ("runnext_hits", "Of them from runnext: they were just handed something."),
    "switches": ("switches", "Switches from one goroutine's stack to another."),
    "steals": ("steals", "Times a P has found something to steal."),
    "stolen": ("stolen_goroutines", "Goroutines taken from the queues of other Ps."),
    "global": ("global_takes", "Goroutines taken from the global queue."),
    "inbox_takes": ("inbox_takes", "Goroutines that another thread has made runnable."),
    "overflows": ("overflows", "Times half of a P's queue went to the global one."),
    "preemptions": ("preemptions", "Goroutines that were made to let others run."),
    "polls": ("polls", "Looks at the poller."),
    "blocking_polls": ("blocking_polls", "Of them those that might wait."),
    "poll_events": ("poll_events", "Events of the poller."),
    "wakeups": ("wakeups", "Times a thread that had nothing to run was woken by another."),
    "timers_fired": ("timers_fired", "Timers that came due."),
}


def handler(registry: _Registry | None = None) -> Callable[[Any, Any], None]:
    """A handler that answers with all metrics, in the format that the client accepts.

        mux.handle("GET /metrics", http.prometheus.handler())
        mux.handle("GET /metrics", http.prometheus.handler(prometheus_client.REGISTRY))

    ``registry`` has metrics of the program's own to be joined, those of this process. A name that
    it has as well as the runtime is taken from it. Text 0.0.4 and 1.0.0 and OpenMetrics 1.0.0 can
    be asked for by Accept, and ``name[]`` in the query asks for some only. The text is not
    compressed.

    Whoever may read metrics learns the routes of the program: keep it from strangers.
    """
    if registry is not None and not callable(getattr(registry, "collect", None)):
        raise TypeError(f"handler(): registry must have a method collect(), got {registry!r}")
    ours = Collector()

    def metrics(w: Any, r: Any) -> None:
        encode, content_type = _encoder(r.headers.get("Accept") or "")
        text = encode(_Joined(registry, ours, frozenset(r.query.get_all("name[]"))))
        w.headers["Content-Type"] = content_type
        w.write(text)

    return metrics


class Collector:
    """What a registry of prometheus-client asks for the runtime's metrics.

        prometheus_client.REGISTRY.register(http.prometheus.Collector())
    """

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        found = _published()
        alive = [w.snapshot for w in found if w.id >= 0]
        every = _stats.total(w.snapshot for w in found)
        now = _stats.total(alive)["stats"] if alive else every["stats"]
        yield from _process(every, len(alive))
        restarts: dict[str, float] = {}
        for w in found:  # while one is replaced there are two of the same id
            if w.id >= 0:
                restarts[str(w.id)] = max(w.restarts, restarts.get(str(w.id), 0))
        yield _gauges_by("worker", "worker_restarts", "Times it was replaced.", restarts)
        yield from _gauges(now)
        yield from _counters(every)
        yield from _histograms(every)


class _Joined:
    """The families of both, of one name once; with names only samples that are called so."""

    def __init__(self, registry: Any, ours: Collector, names: frozenset[str]) -> None:
        self._registry, self._ours, self._names = registry, ours, names

    def collect(self) -> Iterator[Metric]:
        seen = set()
        for source in (self._registry, self._ours):
            for family in source.collect() if source is not None else ():
                if source is self._ours and family.name in seen:
                    continue
                seen.add(family.name)
                if self._names:
                    kept = [s for s in family.samples if s.name in self._names]
                    if not kept:
                        continue
                    some = Metric(family.name, family.documentation, family.type, family.unit)
                    some.samples = kept
                    family = some
                yield family


def _encoder(accept: str) -> tuple[Callable[[Any], bytes], str]:
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none
        encode, content_type = choose_encoder("")
    return encode, content_type


def _published() -> list[Any]:
    from runtime._http.workers.info import published

    return published()


# --- families -------------------------------------------------------------------------------------


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"gosched_{name}", text, value=value)


def _gauges_by(label: str, name: str, text: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"gosched_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"gosched_{name}", text, value=value)


def _process(every: Snapshot, workers: int) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "gosched",
        "The runtime.",
        value={
            "version": every["version"],
            "python": every["python"],
            "gil": "true" if every["gil"] else "false",
        },
    )
    yield _gauge("workers", "Processes whose metrics these are.", workers)
    started = every["started"]
    yield _gauge("start_time_seconds", "When the first of them started, in Unix time.", started)


def _gauges(now: _stats.Stats) -> Iterator[Metric]:
    ps = now["ps"]
    states: Any = now["states"]
    yield _gauges_by("state", "goroutines", "Goroutines that are alive.", states)
    yield _gauge("gomaxprocs", "Ps that may run goroutines at the same time.", now["gomaxprocs"])
    yield _gauges_by(
        "queue",
        "runq_length",
        "Runnable goroutines in queues.",
        {"local": sum(p["runq"] for p in ps), "global": now["global_runq"]},
    )
    ms = now["ms"]
    yield _gauges_by(
        "state",
        "threads",
        "Threads that run goroutines.",
        {"idle": ms["idle"], "running": max(0, ms["count"] - ms["idle"])},
    )
    yield _gauge("spinning_threads", "Of them those that look for work.", ms["spinning"])
    yield _gauge("timers", "Timers that are not due yet.", sum(p["timers"] for p in ps))
    yield _gauge("descriptors", "Descriptors in pollers.", sum(p["descriptors"] for p in ps))
    greenlets = sum(p["idle_workers"] for p in ps)
    yield _gauge("idle_greenlets", "Greenlets that are kept for further goroutines.", greenlets)
    blocking = now["blocking"]
    yield _gauges_by(
        "state",
        "blocking_threads",
        "Threads of runtime.blocking().",
        {"idle": blocking["idle"], "busy": max(0, blocking["threads"] - blocking["idle"])},
    )
    yield _gauge("blocking_queue_length", "Calls that wait for such a thread.", blocking["queued"])
    http = now["http"]
    yield _gauges_by(
        "state",
        "http_connections",
        "Open connections of HTTP servers.",
        {
            "reading": http["reading"],
            "idle": http["idle"],
            "active": http["active"],
            "closing": http["closing"],
        },
    )
    yield _gauge("http_waiting_requests", "Requests that wait for their turn.", http["waiting"])


def _counters(every: Snapshot) -> Iterator[Metric]:
    stats = every["stats"]
    yield _counter("goroutines_created", "Goroutines that were started.", stats["created"])
    yield _counter("goroutines_finished", "Goroutines that have ended.", stats["finished"])
    ps: Sequence[Any] = stats["ps"]
    for key, (name, text) in _P_COUNTERS.items():
        yield _counter(name, text, sum(p[key] for p in ps))
    idle = sum(p["idle_ns"] for p in ps) / 1e9
    yield _counter("idle_seconds", "Time that threads have slept in their pollers.", idle)
    spinning = sum(p["spinning_ns"] for p in ps) / 1e9
    yield _counter("spinning_seconds", "Time that threads have looked for work.", spinning)
    yield _counter("blocking_calls", "Calls of runtime.blocking().", stats["blocking"]["done"])
    http = stats["http"]
    yield _counter("http_connections_accepted", "Connections of HTTP servers.", http["accepted"])
    yield _counter("http_requests", "Requests that handlers have answered.", http["requests"])
    yield _counter("http_received_bytes", "Read from connections.", http["bytes_read"])
    yield _counter("http_sent_bytes", "Written to connections.", http["bytes_written"])


def _histograms(every: Snapshot) -> Iterator[Metric]:
    for key, name, text in (
        ("latency", "scheduling_latency", "How long goroutines wait for their turn, one in 16."),
        ("run", "run", "How long goroutines run until they let others run, one in 16."),
    ):
        h: HistogramStats = every["histograms"][key]  # type: ignore[literal-required]
        family = HistogramMetricFamily(f"gosched_{name}_seconds", text, labels=())
        family.add_metric((), _cumulated(h, _TURNS), h["sum_ns"] / 1e9)
        yield family
    yield _requests(every["routes"])


def _requests(routes: Iterable[RouteCounts]) -> Metric:
    """OpenTelemetry's http.server.request.duration, by its names for Prometheus."""
    family = HistogramMetricFamily(
        "http_server_request_duration_seconds",
        "Duration of HTTP server requests.",
        labels=("http_request_method", "http_route", "http_response_status_code"),
    )
    for r in routes:
        method = "_OTHER" if r["method"] == "OTHER" else r["method"]
        for status, h in _stats.durations_by_status(r).items():
            labels = (method, r["route"], "" if status == "0" else status)
            family.add_metric(labels, _cumulated(h, _REQUESTS), h["sum_ns"] / 1e9)
    return family


def _cumulated(h: HistogramStats, bounds: Sequence[float]) -> list[tuple[str, float]]:
    """How many durations were not longer than each of the bounds, in seconds, and +Inf.

    A fine bucket counts where its middle is, which is 1/32 from all durations in it at most.
    """
    out: list[tuple[str, float]] = []
    seen, at, buckets = 0, 0, h["buckets"]
    for bound in bounds:
        while at < len(buckets) and buckets[at][0] + buckets[at][1] <= 2e9 * bound:
            seen += buckets[at][2]
            at += 1
        out.append((repr(float(bound)), seen))
    out.append(("+Inf", h["count"]))
    return out
