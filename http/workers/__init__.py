"""The processes that serve together."""

from __future__ import annotations

import os
from typing import NamedTuple

from runtime._stats import Snapshot, snapshot


class WorkerInfo(NamedTuple):
    """One of the processes that serve together."""

    id: int  # its slot, from 0; -1: the sum of those that have ended
    pid: int
    age: float  # seconds since its snapshot was taken
    restarts: int
    snapshot: Snapshot


def workers() -> list[WorkerInfo]:
    """All processes that serve together, this one included."""
    return [WorkerInfo(0, os.getpid(), 0.0, 0, snapshot())]
