"""How long requests took, by route: http.route_stats()."""

from __future__ import annotations

from typing import NamedTuple

from runtime import _stats
from runtime._histogram import Histogram


class RouteStats(NamedTuple):
    """The requests of one method to one route, so far.

    Attributes:
        method: ``"GET"`` and so on; ``"OTHER"`` for those that RFC 9110 and 5789 do not name.
        route: the pattern that the mux has matched, without its method; ``""`` where there was
            none, ``"other"`` for all routes beyond the 1,022 first.
        statuses: how many got each status; those without a response are under 0.
        duration: how long they took.
    """

    method: str
    route: str
    statuses: dict[int, int]
    duration: Histogram


def route_stats() -> list[RouteStats]:
    """What all servers of this process have answered so far, by route and method.

        for s in http.route_stats():
            print(s.method, s.route, s.statuses, s.duration.percentile(99))

    A request takes from when its head was read until its response was given to the socket, a
    handler's wait for its turn included; where a pipelined request is there already, until
    the response is complete. It is counted then. Requests that are refused before a handler is
    chosen, for a malformed head for instance, are not counted.
    """
    return [
        RouteStats(
            r["method"],
            r["route"],
            {int(status): n for status, n in r["statuses"].items()},
            _stats.as_histogram(r["duration"]),
        )
        for r in _stats.routes()
    ]
