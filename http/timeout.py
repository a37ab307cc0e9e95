"""timeout_handler: a handler that must have answered after some time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import runtime
from runtime import context
from runtime._core import Chan, Headers
from runtime._http.replies import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime._core import Request

__all__ = ["HandlerTimeoutError", "timeout_handler"]

logger = logging.getLogger("runtime.http")

_PAGE = "<html><head><title>Timeout</title></head><body><h1>Timeout</h1></body></html>"  # Go's


class HandlerTimeoutError(TimeoutError):
    """What a handler's writes raise once its time is up.  Go: http.ErrHandlerTimeout."""


_Result = tuple[Any, BaseException | None]
_EXPECTED = HandlerTimeoutError | context.Canceled | context.DeadlineExceeded


class _Writer:
    """Collects a response; what comes after end() fails.

    It begins with the header fields that were set before, as any writer does: so a handler can add
    to them, and what it takes away is gone.
    """

    def __init__(self, w: Any) -> None:
        self.headers = _copied(w.headers, Headers())
        self._status = 0
        self._body: list[str | bytes] = []
        self.over = False

    @property
    def status(self) -> int:
        return self._status

    @property
    def bytes_written(self) -> int:
        return sum(len(piece.encode() if isinstance(piece, str) else piece) for piece in self._body)

    def respond(self, value: object, /) -> None:
        self._check()
        if value is None:
            return
        status, body, is_json = unpack(value)
        if self._body or (self._status and status):
            raise TypeError(
                "a handler must either write or return the response; this one did and returned "
                f"a {type(value).__name__}"
            )
        self._status = self._status or status
        if is_json and "Content-Type" not in self.headers:
            self.headers.set("Content-Type", "application/json")
        if body is not None:
            self.write(body)

    def write(self, data: Any, /) -> None:
        self._check()
        if not isinstance(data, str | bytes):
            data = bytes(memoryview(data))
        self._body.append(data)
        if self.over:  # meanwhile: nobody takes it any more
            self._check()

    def write_header(self, status: int, /) -> None:
        self._check()
        if not 200 <= status <= 999:
            raise ValueError(f"write_header({status}): a final status is 200 to 999")
        if self._status or self._body:
            raise RuntimeError(f"write_header({status}): the response has begun already")
        self._status = status

    def _forget(self) -> bool:
        self._status, self._body = 0, []
        return not self.over

    def copy_headers_to(self, w: Any) -> None:
        for name, _ in w.headers.items():
            w.headers.delete(name)
        _copied(self.headers, w.headers)

    def copy_to(self, w: Any) -> None:
        self.copy_headers_to(w)
        if self._status:
            w.write_header(self._status)
        for piece in self._body:
            w.write(piece)

    def _check(self) -> None:
        if self.over:
            raise HandlerTimeoutError("the time of the handler is up")


def _copied(fields: Headers, to: Headers) -> Headers:
    for name, value in fields.items():
        to.add(name, value)
    return to


def timeout_handler(
    handler: Callable[[Any, Any], Any], seconds: float, message: str = ""
) -> Callable[[Any, Any], Any]:
    """A handler that runs another one, and answers 503 with message if that takes longer.

        mux.handle("/report", http.timeout_handler(report, 5, "try again later"))

    The response is held back in memory until the handler has returned, so that nothing of it
    is seen if it is late, no header field either; w is no full ResponseWriter, then: it cannot
    flush.  The handler runs in a goroutine of its own.  When its time is up its r.context ends,
    its writes raise HandlerTimeoutError, and reading the body fails; what else it does is its own
    affair, and what it then raises is logged.  If the client goes, or the server is closed, it is
    let go the same way.  Header fields that were set before are there for it to add to or change;
    if it is late the answer has them as they were.

    Without a message the body is a small HTML page.  Raises ValueError unless seconds is a
    positive number.

    Go: http.TimeoutHandler.
    """
    if not seconds > 0:
        raise ValueError(f"timeout_handler(): seconds must be a positive number, not {seconds}")
    serve = getattr(handler, "serve_http", handler)
    if not callable(serve):
        raise TypeError(f"handler must be callable, not {type(handler).__name__}")

    def timed(w: Any, r: Request) -> Any:
        late = _Writer(w)
        done: Chan[_Result] = Chan(1)
        with context.with_timeout(r.context, seconds) as ctx:
            inner = r.with_context(ctx)

            def run() -> None:
                result: _Result
                try:
                    result = serve(late, inner), None
                except BaseException as exc:
                    result = None, exc
                done.send(result)
                if late.over:
                    _log_late(r, done)

            g = runtime.go.named("http.timeout_handler")(run)
            try:
                g.join(ctx=ctx)  # raises where there was no memory to run, or to send
            except (context.Canceled, context.DeadlineExceeded) as exc:
                late.over = True
                _log_late(r, done)
                w.write_header(503)
                if isinstance(exc, context.DeadlineExceeded):
                    if not message:
                        w.headers["Content-Type"] = "text/html; charset=utf-8"
                    w.write(message or _PAGE)
                return None
            except BaseException:  # the goroutine of the request is cancelled
                late.over = True
                raise
        late.over = True
        value, error = done.recv()
        if error is not None:
            late.copy_headers_to(w)  # for who answers it
            raise error
        late.copy_to(w)
        return value

    return timed


def _log_late(r: Request, done: Chan[_Result]) -> None:
    """Nobody waits for the result: whoever takes it out logs what the handler has raised."""
    result, ok = done.try_recv()
    exc = result[1] if ok and result is not None else None
    if exc is None or isinstance(exc, _EXPECTED):
        return
    where = f"{r.method} {r.target}"
    logger.error("a handler failed after its time was up (%s)", where, exc_info=exc)
