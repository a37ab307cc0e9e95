"""Numbers as people read them."""

from __future__ import annotations

from runtime._histogram import Histogram
from runtime._stats import HistogramStats


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


def percentile_text(histogram: HistogramStats, p: float) -> str:
    return seconds(percentile(histogram, p)) if histogram["count"] else "-"


def p99(histogram: HistogramStats) -> str:
    return percentile_text(histogram, 99)
