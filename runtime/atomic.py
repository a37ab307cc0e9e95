"""Values that goroutines and threads change without a lock, as in Go's package sync/atomic.

    from runtime import atomic

    hits = atomic.Int64()
    hits.add()

Each method is one step to everybody else, also on builds without the GIL.
"""

from runtime._core import Bool, Int64, Value

__all__ = ["Bool", "Int64", "Value"]
