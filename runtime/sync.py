"""What goroutines and threads share memory with, as in Go's package sync.

    from runtime import sync

    mu = sync.Mutex()
    with mu:
        counter += 1

Everything works between goroutines of all Ps and plain threads.  What waits takes
timeout= (seconds) and ctx= (a context); when it fails it has had no effect.
"""

from runtime._barrier import Barrier, BrokenBarrierError
from runtime._core import (
    Cond,
    Event,
    Map,
    Mutex,
    Once,
    RLocker,
    RWMutex,
    Semaphore,
    WaitGroup,
)
from runtime._once import once_func, once_value
from runtime._pool import Pool

__all__ = [
    "Barrier",
    "BrokenBarrierError",
    "Cond",
    "Event",
    "Map",
    "Mutex",
    "Once",
    "Pool",
    "RLocker",
    "RWMutex",
    "Semaphore",
    "WaitGroup",
    "once_func",
    "once_value",
]
