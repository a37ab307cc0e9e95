"""Exceptions of handlers that stand for a response."""

from __future__ import annotations

from typing import Any

from runtime._core import _status_text

__all__ = ["BadRequestError", "BodyTooLargeError", "HTTPError", "MaxBytesError"]


class HTTPError(Exception):
    """Raised by a handler: answer with this status, 400 to 599, and a plain text body.

    The message is for the program's own use; the client sees the status only.  Header fields that
    were set before are sent, those of middleware say, but for those that describe content.

        raise HTTPError(403, "not the owner")
    """

    status: int = 500

    def __init__(self, status: int, message: str = "") -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"HTTPError({status}): the status must be 400 to 599")
        self.status = int(status)
        super().__init__(message or _status_text(int(status)))


class BadRequestError(HTTPError, ValueError):
    """What the client sent cannot be understood: 400."""

    def __init__(self, message: str = "") -> None:
        super().__init__(400, message)


class BodyTooLargeError(HTTPError):
    """The request body is larger than a limit, such as the server's max_body_bytes: 413."""

    def __init__(self, message: str = "") -> None:
        super().__init__(413, message)


class MaxBytesError(BodyTooLargeError):
    """The request body is larger than a MaxBytesReader lets through.  Go: http.MaxBytesError."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request body is larger than {limit} bytes")
        self.limit = limit
        """The number of bytes it lets through."""

    def __reduce__(self) -> tuple[type[MaxBytesError], tuple[int]]:
        return MaxBytesError, (self.limit,)


def which(r: Any) -> str:
    """A request, for a log: method, target, and its id where middleware has given it one."""
    trace = r.state.get("trace")
    return f"{r.method} {r.target}" + (f", request {trace.trace_id}" if trace is not None else "")
