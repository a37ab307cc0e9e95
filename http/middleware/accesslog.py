"""A line for each request: the access log.

A request pays for making its line; writing happens elsewhere, many lines at a time. What waits to
be written is bounded: if the file takes no more, lines are lost, and a line says how many. There is
one writer at a time: one that is stuck takes one thread of the blocking pool, not all of them.
"""

from __future__ import annotations

import atexit
import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import runtime
from runtime._core import Bool, GoExit, Int64, Mutex, _access_fields, _access_line
from runtime._http.chain import Handler, callee
from runtime._http.errors import HTTPError

_PAUSE = 0.1  # seconds for which lines are gathered
_MOST = 65536  # lines that wait


class _File(Protocol):
    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


_FIELDS = (  # as csrc/py_http_log.c has them
    "at",
    "client",
    "method",
    "target",
    "proto",
    "route",
    "status",
    "size",
    "duration",
    "user",
    "trace",
    "referer",
    "agent",
)


class AccessEntry:
    """What there is to say of a request."""

    __slots__ = _FIELDS

    def __init__(self, r: Any, status: int, size: int, duration: float) -> None:
        self.at = time.time()
        self.client: str = r.remote_addr.rpartition(":")[0] or r.remote_addr
        self.method: str = r.method
        self.target: str = r.target
        self.proto: str = r.proto
        self.route: str = r.pattern
        self.status = status
        self.size = size
        self.duration = duration
        state = r.state
        user = state.get("user")
        self.user = user if isinstance(user, str) else ""
        trace = state.get("trace")
        self.trace: str = "" if trace is None else trace.trace_id
        headers = r.headers
        self.referer: str = headers.get("Referer") or ""
        self.agent: str = headers.get("User-Agent") or ""

    def fields(self) -> dict[str, Any]:
        """As a dict by their names; so a record of logging has them."""
        return {name: getattr(self, name) for name in _FIELDS}


_FORMATS = {"common": 0, "combined": 1, "json": 2}  # LOG_* of csrc/py_http_log.c


def _maker(format: Any, entries: bool) -> Callable[[Any, int, int, float], Any]:
    """What makes a line of a request, its status, size and duration; or a line and its fields."""
    if not callable(format):
        plain = partial(_access_line, format)
        return (lambda *args: (plain(*args), _access_fields(*args))) if entries else plain

    def custom(*args: Any) -> Any:
        entry = AccessEntry(*args)
        return (format(entry), tuple(entry.fields().values())) if entries else format(entry)

    return custom


def _hand_over(logger: logging.Logger, text: str, values: tuple[Any, ...]) -> None:
    """As logger.info() does it, but for the time: the record is that of the request."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = dict(zip(_FIELDS, values, strict=True))
    record = logger.makeRecord(
        logger.name, logging.INFO, __file__, 0, "%s", (text,), None, "access_log", fields
    )
    at = fields["at"]
    record.relativeCreated += (at - record.created) * 1000
    record.created = at
    record.msecs = float(int(at % 1 * 1000))
    logger.handle(record)


class access_log:
    """A line for each request, to stderr, a file, or a logger.

        mux.use(access_log())                                    # common log format
        http.serve(access_log("json", file=open("access.log", "a"))(mux), ":80")
        mux.use(access_log("combined", logger=logging.getLogger("access")))

    ``format`` is ``"common"``, ``"combined"``, ``"json"``, or a function of the entry that returns
    a line; an entry has ``client``, ``user``, ``method``, ``target``, ``route``, ``proto``,
    ``status``, ``size`` (of the body, bytes), ``duration`` (of the handler, seconds), ``referer``,
    ``agent``, ``trace`` and ``at`` (Unix seconds, when it was over). With a ``logger`` each line
    is a record of level INFO that has these as attributes, and ``at`` as its time.

    Lines are written after a tenth of a second, many at a time, by a thread of the blocking pool,
    and at the end of the program; ``flush()`` writes them now. If 65,536 wait, further ones are
    lost, and so are those that cannot be written; a line says how many. Control characters and
    quotes that a client sends are escaped.
    """

    def __init__(
        self,
        format: str | Callable[[AccessEntry], str] = "common",
        *,
        file: _File | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        if file is not None and logger is not None:
            raise TypeError("access_log(): a file or a logger, not both")
        known = _FORMATS.get(format) if isinstance(format, str) else None
        if known is None and not callable(format):
            names = ", ".join(_FORMATS)
            raise ValueError(f"access_log({format!r}): there are {names}, and functions")
        self._file = file
        self._logger = logger
        self._line = _maker(format if known is None else known, logger is not None)
        self._waiting: deque[Any] = deque()
        self._writing = Mutex()
        self._due = Bool()  # somebody is going to write, or does
        self._lost = Int64()
        atexit.register(self.flush)

    def __call__(self, handler: Any) -> Handler:
        target = callee(handler, "access_log()")
        line, note, now = self._line, self._note, time.perf_counter

        def logged(w: Any, r: Any) -> None:
            began = now()
            try:
                value = target(w, r)
                if value is not None:
                    w.respond(value)
            except GoExit:  # a handler may end this way
                note(line(r, w.status or 200, w.bytes_written, now() - began))
                raise
            except BaseException as exc:
                status = exc.status if isinstance(exc, HTTPError) else w.status or 500
                note(line(r, status, w.bytes_written, now() - began))
                raise
            note(line(r, w.status or 200, w.bytes_written, now() - began))

        return logged

    def flush(self) -> None:
        """Write what waits. Where that fails it is lost, and the next line says how many were."""
        with self._writing:
            waiting, logger = self._waiting, self._logger
            lines = [waiting.popleft() for _ in range(len(waiting))]
            count, written = len(lines), 0
            lost = self._lost.swap(0)
            try:
                if logger is not None:
                    for text, values in lines:
                        _hand_over(logger, text, values)
                        written += 1
                    if lost:
                        logger.info("access log: %d lines were lost", lost)
                    return
                if lost:
                    lines.append(f"access log: {lost} lines were lost")
                if lines:
                    file = self._file if self._file is not None else sys.stderr
                    file.write("\n".join(lines) + "\n")
                    file.flush()
            except BaseException:
                self._lost.add(lost + count - written)
                raise

    def _note(self, line: Any) -> None:
        if len(self._waiting) >= _MOST:
            self._lost.add()
            return
        self._waiting.append(line)
        if not self._due.load():
            self._start()

    def _start(self) -> None:
        """Have what waits written, unless somebody is going to."""
        if not self._due.compare_and_swap(False, True):
            return
        try:
            runtime.go.named("http.access_log")(self._write_later)
        except BaseException:
            self._due.store(False)
            raise

    def _write_later(self) -> None:
        try:
            runtime.sleep(_PAUSE)
        finally:
            try:
                runtime.blocking(self.flush)
            finally:
                self._due.store(False)
                if self._waiting:  # whoever has added that saw that somebody was writing
                    self._start()
