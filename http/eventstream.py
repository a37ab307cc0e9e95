"""Server-sent events (HTML standard, section 9.2): event_stream().

What is sent goes through a bounded channel to a goroutine that writes it, so that the handler need
not wait for a slow client unless it wants to, and so that something is written in a quiet spell:
else nobody would notice that the client, or a proxy in between, has gone.
"""

from __future__ import annotations

import math
from contextlib import suppress
from types import TracebackType
from typing import Any

import runtime
from runtime._core import Chan, ChanClosed
from runtime._http.values import dump_json

__all__ = ["EventStream", "event_stream"]

_POLICIES = ("wait", "drop", "close")
_TOGETHER = 64  # events written at a time


def _line(name: str, value: str) -> str:
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"{name} of an event must be one line, without NUL: {value!r}")
    return f"{name}: {value}\n"


class EventStream:
    """A response that is a stream of events; made by `event_stream`."""

    def __init__(
        self, w: Any, r: Any, retry: float | None, keep_alive: float, buffer: int, slow: str
    ) -> None:
        if slow not in _POLICIES:
            raise ValueError(f"event_stream(): slow is one of {', '.join(_POLICIES)}, not {slow!r}")
        if not keep_alive > 0:
            raise ValueError(f"event_stream(): keep_alive must be positive, not {keep_alive}")
        if buffer < 1:
            raise ValueError(f"event_stream(): buffer must be 1 or more, not {buffer}")
        first = "" if retry is None else self._retry(retry) + "\n"
        self._w, self._context = w, r.context
        self._keep_alive = None if math.isinf(keep_alive) else keep_alive
        self._slow = slow
        self._queue: Chan[str] = Chan(buffer)
        self._failure: BaseException | None = None
        self.last_event_id: str = r.headers.get("Last-Event-ID") or ""
        """The id of the last event that the client has got, where it connects again."""
        self.dropped = 0
        """Events that were left out for a slow client."""
        headers = w.headers
        headers.set("Content-Type", "text/event-stream")
        headers.set("Cache-Control", "no-store")
        headers.set("X-Accel-Buffering", "no")  # nginx would hold events back
        headers.delete("Content-Length")
        if first:
            w.write(first)
        w.flush()
        self._writer = runtime.go.named("http.event_stream")(self._write)

    def send(
        self,
        data: Any,
        *,
        event: str = "",
        id: str | int | None = None,
        retry: float | None = None,
    ) -> None:
        """Send an event: a str, whose lines are kept, or what is sent as JSON.

        event is its type ("message" for the client if it is empty), id what a client that connects
        again says in Last-Event-ID, retry after how many seconds it does so.

        If the client does not keep up and the buffer is full, this waits, leaves out the oldest
        event, or ends the stream, as event_stream() was told. Raises ConnectionError, or
        TimeoutError, once the client is gone or given up; ValueError for a line end in event or id.
        """
        head = _line("event", event) if event else ""
        if id is not None:
            head += _line("id", str(id))
        if retry is not None:
            head += self._retry(retry)
        text = data if isinstance(data, str) else dump_json(data)
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        self._put(head + "data: " + text.replace("\n", "\ndata: ") + "\n\n")

    def comment(self, text: str = "") -> None:
        """Send what clients ignore."""
        self._put(":" + " ".join(text.splitlines()) + "\n\n")

    def close(self) -> None:
        """Send what is left, and end the stream; twice is harmless."""
        with suppress(ChanClosed):
            self._queue.close()
        self._writer.join()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @staticmethod
    def _retry(seconds: float) -> str:
        if not 0 <= seconds < math.inf:
            raise ValueError(f"retry is a number of seconds, not {seconds}")
        return f"retry: {round(1000 * seconds)}\n"

    def _put(self, text: str) -> None:
        queue = self._queue
        try:
            if self._slow == "wait":
                queue.send(text)
                return
            while not queue.try_send(text):
                if self._slow == "close":
                    self._fail(TimeoutError("the client does not keep up with the events"))
                else:
                    _, dropped = queue.try_recv()
                    self.dropped += dropped
        except ChanClosed:
            raise self._failure or RuntimeError("the event stream is closed") from None

    def _fail(self, failure: BaseException) -> None:
        self._failure = self._failure or failure
        with suppress(ChanClosed):
            self._queue.close()
        with suppress(ChanClosed):
            while self._queue.try_recv()[1]:
                pass

    def _write(self) -> None:
        queue, w = self._queue, self._w
        try:
            while True:
                try:
                    text, ok = queue.recv_ok(timeout=self._keep_alive, ctx=self._context)
                except TimeoutError as exc:
                    if self._context.err() is not None:
                        raise ConnectionError("the client has gone") from exc
                    text, ok = ":\n\n", True
                if not ok or text is None:
                    return
                pieces = [text]
                with suppress(ChanClosed):
                    while len(pieces) < _TOGETHER and (more := queue.try_recv()[0]) is not None:
                        pieces.append(more)
                w.write("".join(pieces))
                w.flush()
        except Exception as exc:
            self._fail(exc if isinstance(exc, OSError) else ConnectionError(str(exc)))


def event_stream(
    w: Any,
    r: Any,
    *,
    retry: float | None = None,
    keep_alive: float = 15.0,
    buffer: int = 64,
    slow: str = "wait",
) -> EventStream:
    """Begin a response of server-sent events, which browsers read with EventSource.

        def ticks(w, r):
            with http.event_stream(w, r) as stream:
                for n in itertools.count(int(stream.last_event_id or 0)):
                    stream.send({"n": n}, event="tick", id=n)
                    runtime.sleep(1)

    retry tells the client after how many seconds to connect again. After keep_alive seconds without
    an event a comment is sent. buffer events wait for a client that does not keep up; with one more
    send() waits (``slow="wait"``), drops the oldest (``"drop"``; see `dropped`), or ends the stream
    with TimeoutError (``"close"``).

    Raises ValueError for arguments that make no sense.
    """
    return EventStream(w, r, retry, keep_alive, buffer, slow)
