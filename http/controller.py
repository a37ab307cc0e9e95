"""ResponseController: what a handler may set for its own request."""

from __future__ import annotations

from typing import Any

__all__ = ["NotSupportedError", "ResponseController"]


class NotSupportedError(RuntimeError):
    """The ResponseWriter cannot do that.  Go: http.ErrNotSupported."""


class ResponseController:
    """Controls how the response to one request is sent.

        rc = http.ResponseController(w)
        rc.set_write_deadline(None)         # an endless stream of events
        rc.set_read_deadline(3600)          # an upload from far away

    w is a ResponseWriter, or an object around one whose method unwrap() returns what is inside:
    each call goes to the outermost one that has the method, and raises NotSupportedError
    where none has.

    Go: http.ResponseController.
    """

    __slots__ = ("_w",)

    def __init__(self, w: Any) -> None:
        self._w = w

    def set_read_deadline(self, seconds: float | None) -> None:
        """Let reading the body fail with TimeoutError from so many seconds from now on.

        None: never.  It takes the place of the server's read_timeout, body_timeout and
        min_read_rate for this request; what waits already heeds it, too.

        Go: ResponseController.SetReadDeadline, which takes a point in time.
        """
        self._method("set_read_deadline")(seconds)

    def set_write_deadline(self, seconds: float | None) -> None:
        """Let sending the response fail with TimeoutError from so many seconds from now on.

        None: never.  It takes the place of the server's write_timeout and min_write_rate for
        this request.

        Go: ResponseController.SetWriteDeadline, which takes a point in time.
        """
        self._method("set_write_deadline")(seconds)

    def flush(self) -> None:
        """Send what was written so far.  Go: ResponseController.Flush."""
        self._method("flush")()

    def enable_full_duplex(self) -> None:
        """Allow reading the body after the response has begun: nothing to do here.

        A handler may always read and write in turn, or in two goroutines at once.  Go's server
        reads the rest of the body before it sends a response, unless this was called.

        Go: ResponseController.EnableFullDuplex.
        """
        self._method("write")

    def _method(self, name: str) -> Any:
        w = self._w
        while True:
            method = getattr(w, name, None)
            if method is not None:
                return method
            unwrap = getattr(w, "unwrap", None)
            if unwrap is None:
                kind = type(self._w).__name__
                raise NotSupportedError(f"{name}: a {kind} cannot do that")
            w = unwrap()
