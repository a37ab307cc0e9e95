"""Histograms of the scheduler: how long goroutines wait until they run, and how long they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runtime import _core


class Bucket(NamedTuple):
    """How many durations (samples) were at least `low` and less than `high` seconds."""

    low: float
    high: float
    samples: int


class Histogram:
    """Durations that were counted, in buckets; it does not change any more.

    Buckets are narrow: a percentile is at most 1/32 off, or, below a microsecond, 32 ns.

        latency = runtime.histograms().latency
        print(f"{latency.count} samples, p99 {latency.percentile(99) * 1e6:.0f} µs")

    The difference of two of the same kind is what was counted in between, the sum of two what
    both have counted.
    """

    __slots__ = ("_buckets", "_sum", "count")

    def __init__(self, total: int, buckets: list[tuple[int, int, int]]) -> None:
        self._sum = total  # ns, as all here
        self._buckets = buckets
        self.count: int = sum(count for _, _, count in buckets)
        """How many durations were counted."""

    @property
    def sum(self) -> float:
        """All durations together, in seconds."""
        return self._sum / 1e9

    @property
    def mean(self) -> float:
        """Their mean in seconds; 0.0 if there are none."""
        return self._sum / self.count / 1e9 if self.count else 0.0

    def percentile(self, p: float) -> float:
        """The duration in seconds that p percent of all do not exceed; 0.0 if there are none.

        Raises ValueError unless p is from 0 to 100.
        """
        if not 0 <= p <= 100:
            raise ValueError(f"percentile(p): p must be from 0 to 100, not {p!r}")
        rank = max(1.0, self.count * p / 100)
        seen = 0
        for low, high, count in self._buckets:
            seen += count
            if seen >= rank:
                return (low + high) / 2e9
        return 0.0

    def __iter__(self) -> Iterator[Bucket]:
        """The buckets that are not empty, shortest durations first."""
        for low, high, count in self._buckets:
            yield Bucket(low / 1e9, high / 1e9, count)

    def __sub__(self, earlier: Histogram) -> Histogram:
        if not isinstance(earlier, Histogram):
            return NotImplemented
        before = {low: count for low, _, count in earlier._buckets}
        counts = [(low, high, count - before.get(low, 0)) for low, high, count in self._buckets]
        return Histogram(self._sum - earlier._sum, [bucket for bucket in counts if bucket[2]])

    def __add__(self, other: Histogram) -> Histogram:
        if not isinstance(other, Histogram):
            return NotImplemented
        counts = {(low, high): count for low, high, count in self._buckets}
        for low, high, count in other._buckets:
            counts[low, high] = counts.get((low, high), 0) + count
        buckets = [(low, high, count) for (low, high), count in sorted(counts.items())]
        return Histogram(self._sum + other._sum, buckets)

    def __repr__(self) -> str:
        shown = ", ".join(f"p{p} {self.percentile(p):.2g} s" for p in (50, 99))
        return f"<Histogram of {self.count}: {shown}>"


class Histograms(NamedTuple):
    """What `histograms` returns."""

    latency: Histogram
    run: Histogram


def histograms() -> Histograms:
    """How long goroutines were runnable until they ran, and then ran until they let others run.

    Counted all the time, on all Ps, for one in 16 of the goroutines that become runnable; what
    a thread that runs no goroutines starts is counted from when a P takes it.

        before = runtime.histograms()
        work()
        now = runtime.histograms()
        print((now.latency - before.latency).percentile(99))

    Go: runtime/metrics, /sched/latencies:seconds.
    """
    latency, run = _core._histograms()
    return Histograms(Histogram(*latency), Histogram(*run))
