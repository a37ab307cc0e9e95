"""An id for each request, which logs, other services and the client can name.

It follows W3C Trace Context: what came with a valid traceparent keeps its trace-id.
"""

from __future__ import annotations

import os
import random
from typing import Any, NamedTuple

from runtime._http.chain import Handler, Middleware, callee

_DIGITS = "0123456789abcdef"
_LENGTH = 55  # of version 00; a later one may have more after it (section 3.2.2)


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


# Ids must be unique, not secret: a system call for each would cost more than all the rest.
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)


def parse_traceparent(text: str) -> TraceParent | None:
    """What a traceparent field says (W3C Trace Context section 3.2); None if it is not valid."""
    trace, parent = text[3:35], text[36:52]
    if (
        text[2:3] + text[35:36] + text[52:53] != "---"
        or (text[:2] + trace + parent + text[53:_LENGTH]).strip(_DIGITS)
        or text[:2] == "ff"
        or not (len(text) == _LENGTH or (text[:2] != "00" and text[_LENGTH : _LENGTH + 1] == "-"))
        or not trace.strip("0")
        or not parent.strip("0")
    ):
        return None
    return TraceParent(trace, parent, text[54] in "13579bdf")


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
    bits = _random.getrandbits

    def around(handler: Any) -> Handler:
        target = callee(handler, "request_id()")

        def identified(w: Any, r: Any) -> Any:
            sent = r.headers.get("traceparent") if trust else None
            came = parse_traceparent(sent) if sent else None
            if came is None:
                trace = TraceParent(f"{bits(128):032x}", f"{bits(64):016x}", False)
            else:
                trace = TraceParent(came.trace_id, f"{bits(64):016x}", came.sampled)
            r.state["trace"] = trace
            if header is not None:
                w.headers.set(header, trace.trace_id)
            return target(w, r)

        return identified

    return around
