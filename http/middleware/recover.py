"""Handlers that fail: what the client is told of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from runtime._core import _status_text
from runtime._http.chain import Handler, Middleware, callee
from runtime._http.errors import HTTPError, which
from runtime._http.middleware.writer import forget

_logger = logging.getLogger("runtime.http")


def recover(
    answer: Callable[[Any, Any], Any] | str | bytes | dict[str, Any] | list[Any] | None = None,
    *,
    logger: logging.Logger | None = None,
) -> Middleware:
    """Answer 500 where a handler has failed, in the program's own words.

        mux.use(request_id(), recover("<!doctype html><h1>Sorry</h1><p>Error {id}"))
        mux.use(recover(lambda w, r: {"error": "internal", "path": r.path}))

    ``answer`` is a handler, for which the exception is ``r.state["error"]``; or the body: a str,
    in which ``{id}`` stands for the id that request_id() has given, bytes, or what is sent as
    JSON; without it a short text. The status is 500, unless the handler chooses one before it
    writes; its body is best returned.

    What the failed handler has written is taken back, with its header fields that describe
    content. Once a part of it is on its way that cannot be done: the exception goes on to the
    server, which logs it and cuts the connection, so that the client can tell. So do an HTTPError
    and what the end of the connection raises; the server knows what they mean.

    The exception is logged, by ``logger`` or the logger ``runtime.http``, with the request's id;
    ``route`` and ``request_id`` are attributes of the record. Of the exception itself nothing is
    sent. Put it around what may fail and within access_log(), which is to see the 500.

    Raises TypeError for an answer that is none.
    """
    respond: Callable[[Any, Any], Any] | None = None
    if answer is not None and not isinstance(answer, str | bytes | dict | list):
        respond = callee(answer, "recover(answer)")
    log = logger or _logger

    def failed(w: Any, r: Any, exc: Exception) -> Any:
        if isinstance(exc, HTTPError) or not forget(w):
            raise exc
        trace = r.state.get("trace")
        request_id = "" if trace is None else trace.trace_id
        log.error(
            "a handler failed (%s)",
            which(r),
            exc_info=exc,
            extra={"route": r.pattern, "request_id": request_id},
        )
        value: Any
        if respond is not None:
            r.state["error"] = exc
            value = respond(w, r)
            if isinstance(value, int):
                return value
        elif isinstance(answer, str):
            value = answer.replace("{id}", request_id)
        else:
            value = _status_text(500) + "\n" if answer is None else answer
        if value is not None and w.status == 0 and not w.bytes_written:
            w.write_header(500)
        return value

    def around(handler: Any) -> Handler:
        target = callee(handler, "recover()")

        def recovering(w: Any, r: Any) -> Any:
            try:
                return target(w, r)
            except Exception as exc:
                return failed(w, r, exc)

        return recovering

    return around
