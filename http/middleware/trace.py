"""An id for each request, which logs, other services and the client can name.

It follows W3C Trace Context: what came with a valid traceparent keeps its trace-id.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from runtime._core import _trace
from runtime._http.chain import Handler, Middleware, callee


class TraceParent(NamedTuple):
    """Where a request belongs in a trace."""

    trace_id: str
    """32 hexadecimal digits: the whole trace, and the request's id."""
    parent_id: str
    """16: this request; what it asks of others is its child."""
    sampled: bool
    """Whether the caller records the trace."""

    def __str__(self) -> str:
        """As the value of a header field traceparent."""
        return f"00-{self.trace_id}-{self.parent_id}-{'01' if self.sampled else '00'}"


def request_id(*, header: str | None = "X-Request-Id", trust: bool = True) -> Middleware:
    """Give each request an id, and say it in the response.

        mux.use(request_id())
        ...
        trace = r.state["trace"]
        requests.get(url, headers={"traceparent": str(trace)})

    The id is the trace-id of the request's traceparent (W3C Trace Context), or a random one where
    there is none, or it is not valid, or with ``trust=False``. For the handler it is
    ``r.state["trace"].trace_id``, for the client the field ``header`` (None: it is not told).
    """
    if header is not None and not isinstance(header, str):
        raise TypeError(f"request_id(): header is a str or None, not {type(header).__name__}")
    trusting = bool(trust)

    def around(handler: Any) -> Handler:
        target = callee(handler, "request_id()")

        def identified(w: Any, r: Any) -> Any:
            _trace(TraceParent, w, r, header, trusting)
            return target(w, r)

        return identified

    return around
