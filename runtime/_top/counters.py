"""The counters of a server, sample by sample: the latest reading, and what it was before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from runtime._stats import HistogramStats
from runtime._top.rates import JSON, Meter, Reading
from runtime._top.source import known_shape

KEPT = 600  # samples
_GAP = 3  # intervals without a sample: what happened meanwhile is no column of its own


@dataclass(frozen=True, slots=True)
class Interval:
    """How long goroutines waited to run in the time up to `end`; None: nobody has asked then."""

    end: float  # seconds since the epoch, by our clock
    latency: HistogramStats | None


@dataclass(frozen=True, slots=True)
class Counted:
    """What there is to show, the newest last."""

    reading: Reading
    trend: Sequence[float] = ()  # requests a second
    intervals: Sequence[Interval] = ()


class Counters:
    """Samples go in, `shown` comes out; None before the first one."""

    def __init__(self, interval: float) -> None:
        self.shown: Counted | None = None
        self._interval = interval
        self._meter = Meter()
        self._trend: deque[float] = deque(maxlen=KEPT)
        self._intervals: deque[Interval] = deque(maxlen=KEPT)
        self._asked: float | None = None

    def take(self, sample: JSON, hold: bool = False) -> None:
        """Count a sample; with hold, leave what is shown. Raises SourceError if it is none."""
        with known_shape():
            reading = self._meter.read(sample)
        now = time.time()
        if self._asked is not None:
            gap = now - self._asked > _GAP * self._interval + 1
            self._intervals.append(Interval(now, None if gap else reading.total.latency))
            self._trend.append(reading.total.requests)
        self._asked = now
        if not hold or self.shown is None:
            self.shown = Counted(reading, tuple(self._trend), tuple(self._intervals))
