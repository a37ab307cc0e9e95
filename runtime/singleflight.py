"""Calls of which one at a time is enough, as in Go's golang.org/x/sync/singleflight.

    from runtime import singleflight

    flights = singleflight.Group[str, bytes]()
    page, shared = flights.do(url, lambda: fetch(url))
"""

from runtime._singleflight import Group, Result

__all__ = ["Group", "Result"]
