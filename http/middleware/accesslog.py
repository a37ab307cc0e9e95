"""A line for each request: the access log.

A request pays for making its line; writing happens elsewhere, many lines at a time. What waits to
be written is bounded: if the file takes no more, lines are lost, and a line says how many.
"""

from __future__ import annotations

import atexit
import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Protocol

import runtime
from runtime._core import Mutex
from runtime._http.chain import Handler, callee
from runtime._http.errors import HTTPError

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_PAUSE = 0.1  # seconds for which lines are gathered
_MOST = 65536  # lines that wait


class _File(Protocol):
    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


class AccessEntry:
    """What there is to say of a request."""

    __slots__ = (
        "agent",
        "at",
        "client",
        "duration",
        "method",
        "proto",
        "referer",
        "route",
        "size",
        "status",
        "target",
        "trace",
        "user",
    )

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
        """As a record of logging has them."""
        return {name: getattr(self, name) for name in AccessEntry.__slots__ if name != "at"}


class _Clock:
    """The time as the common log format has it, made once a second."""

    def __init__(self) -> None:
        self._last: tuple[int, str] = (-1, "")

    def __call__(self, at: float) -> str:
        second, text = self._last
        if second != int(at):
            second = int(at)
            t = time.localtime(second)
            offset = t.tm_gmtoff // 60
            sign = "-" if offset < 0 else "+"
            text = (
                f"{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:{t.tm_hour:02}:"
                f"{t.tm_min:02}:{t.tm_sec:02} {sign}{abs(offset) // 60:02}{abs(offset) % 60:02}"
            )
            self._last = second, text
        return text


_clock = _Clock()


def _safe(text: str) -> str:
    """What a client has sent, in quotes: no line end and no quote of its own."""
    if not text:
        return "-"
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return quoted(text)[1:-1]


def _word(text: str) -> str:
    """The same, without quotes."""
    return _safe(text).replace(" ", "\\u0020")


def common(e: AccessEntry) -> str:
    """The common log format of NCSA's httpd."""
    return (
        f"{_word(e.client)} - {_word(e.user)} [{_clock(e.at)}] "
        f'"{e.method} {_safe(e.target)} {e.proto}" {e.status} {e.size or "-"}'
    )


def combined(e: AccessEntry) -> str:
    """The combined log format: with referer and user agent."""
    return f'{common(e)} "{_safe(e.referer)}" "{_safe(e.agent)}"'


def json_line(e: AccessEntry) -> str:
    """A JSON object; times in seconds."""
    return (
        f'{{"time":{e.at:.6f},"client":{quoted(e.client)},"user":{quoted(e.user)},'
        f'"method":{quoted(e.method)},"target":{quoted(e.target)},"route":{quoted(e.route)},'
        f'"proto":"{e.proto}","status":{e.status},"size":{e.size},"duration":{e.duration:.6f},'
        f'"referer":{quoted(e.referer)},"agent":{quoted(e.agent)},"trace":{quoted(e.trace)}}}'
    )


_FORMATS: dict[str, Callable[[AccessEntry], str]] = {
    "common": common,
    "combined": combined,
    "json": json_line,
}


class access_log:
    """A line for each request, to stderr, a file, or a logger.

        mux.use(access_log())                                    # common log format
        http.serve(":80", access_log("json", file=open("access.log", "a"))(mux))
        mux.use(access_log("combined", logger=logging.getLogger("access")))

    ``format`` is ``"common"``, ``"combined"``, ``"json"``, or a function of the entry that returns
    a line; an entry has ``client``, ``user``, ``method``, ``target``, ``route``, ``proto``,
    ``status``, ``size`` (of the body, bytes), ``duration`` (of the handler, seconds), ``referer``,
    ``agent``, ``trace`` and ``at``. With a ``logger`` each line is a record of level INFO that has
    these as attributes, by ``extra``; that costs several times as much.

    Lines are written after a tenth of a second, many at a time, by a thread of the blocking pool,
    and at the end of the program; ``flush()`` writes them now. If 65,536 wait, further ones are
    lost, and a line says how many. Control characters and quotes that a client sends are escaped.
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
        line = _FORMATS.get(format) if isinstance(format, str) else format
        if line is None or not callable(line):
            known = ", ".join(_FORMATS)
            raise ValueError(f"access_log({format!r}): there are {known}, and functions")
        self._line = line
        self._file = file
        self._logger = logger
        self._waiting: deque[Any] = deque()
        self._writing = Mutex()
        self._due = False  # somebody is going to write
        self._lost = 0
        atexit.register(self.flush)

    def __call__(self, handler: Any) -> Handler:
        target = callee(handler, "access_log()")
        line, logger, note, now = self._line, self._logger, self._note, time.perf_counter

        def logged(w: Any, r: Any) -> None:
            began = now()
            try:
                value = target(w, r)
                if value is not None:
                    w.respond(value)
            except BaseException as exc:
                status = exc.status if isinstance(exc, HTTPError) else w.status or 500
                entry = AccessEntry(r, status, w.bytes_written, now() - began)
                note(line(entry), entry if logger else None)
                raise
            entry = AccessEntry(r, w.status or 200, w.bytes_written, now() - began)
            note(line(entry), entry if logger else None)

        return logged

    def flush(self) -> None:
        """Write what waits."""
        with self._writing:
            waiting, logger = self._waiting, self._logger
            lines = [waiting.popleft() for _ in range(len(waiting))]
            lost, self._lost = self._lost, 0
            if lost:
                lines.append((f"access log: {lost} lines were lost", None))
            if logger is not None:
                for text, entry in lines:
                    extra = None if entry is None else entry.fields()
                    logger.info("%s", text, extra=extra)
            elif lines:
                file = self._file if self._file is not None else sys.stderr
                file.write("\n".join(text for text, _ in lines) + "\n")
                file.flush()

    def _note(self, text: str, entry: AccessEntry | None) -> None:
        if len(self._waiting) >= _MOST:
            self._lost += 1
            return
        self._waiting.append((text, entry))
        if not self._due:
            self._due = True
            try:
                runtime.go.named("http.access_log")(self._write_later)
            except BaseException:
                self._due = False
                raise

    def _write_later(self) -> None:
        try:
            runtime.sleep(_PAUSE)
        finally:
            self._due = False  # what comes from here on may not be seen below
            runtime.blocking(self.flush)
