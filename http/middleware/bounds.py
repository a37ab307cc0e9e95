"""What a request may take: bytes of a body, and time."""

from __future__ import annotations

from typing import Any

from runtime._http.chain import Handler, Middleware, callee
from runtime._http.errors import MaxBytesError
from runtime._http.maxbytes import MaxBytesReader
from runtime._http.timeout import timeout_handler


def body_limit(n: int) -> Middleware:
    """Answer 413 to requests whose body has more than n bytes.

        mux.handle("POST /notes", add, use=[body_limit(1 << 20)])

    Where the length is said beforehand the handler is not called; else the read that meets a byte
    beyond raises MaxBytesError, as that of http.MaxBytesReader does. Of several the lowest holds,
    the server's max_body_bytes among them: one around a mux cannot be raised for a route.

    Raises ValueError if n is negative.

    Go: http.MaxBytesHandler.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"body_limit(): a number of bytes is needed, not {type(n).__name__}")
    if n < 0:
        raise ValueError(f"body_limit(): n must be 0 or more, not {n}")

    def around(handler: Any) -> Handler:
        target = callee(handler, "body_limit()")

        def limited(w: Any, r: Any) -> Any:
            length = r.content_length
            if length > n:
                raise MaxBytesError(n)
            if length < 0:
                r.body = MaxBytesReader(w, r.body, n)
            return target(w, r)

        return limited

    return around


def time_out(seconds: float, message: str = "") -> Middleware:
    """Answer 503 where the handler takes longer, as http.timeout_handler() does.

        mux.handle("/report", report, use=[time_out(5, "try again later")])

    The response is held back until the handler has returned: it cannot stream, be taken over, or
    have trailers. Raises ValueError unless seconds is a positive number.

    Go: http.TimeoutHandler.
    """
    if not seconds > 0:
        raise ValueError(f"time_out(): seconds must be a positive number, not {seconds}")
    return lambda handler: timeout_handler(handler, seconds, message)
