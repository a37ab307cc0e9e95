"""An HTTP/1.1 server whose handlers are plain functions, one goroutine a request.

    from runtime import http

    http.handle_func("/", lambda w, r: w.write("Hello, World"))
    http.listen_and_serve(":8080")
"""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from runtime._core import (
    Body,
    Headers,
    HijackedError,
    Request,
    ResponseWriter,
    detect_content_type,
)
from runtime._http.connstate import ConnInfo, ConnState
from runtime._http.controller import NotSupportedError, ResponseController
from runtime._http.cookies import Cookie, set_cookie
from runtime._http.errors import BadRequestError, BodyTooLargeError, HTTPError, MaxBytesError
from runtime._http.eventstream import EventStream, event_stream
from runtime._http.files import file_server, serve_content, serve_file
from runtime._http.maxbytes import MaxBytesReader, max_bytes_handler
from runtime._http.multipart import FormFile, MultipartForm, MultipartReader, Part
from runtime._http.mux import RouteInfo, ServeMux
from runtime._http.pattern import PatternConflictError, PatternError
from runtime._http.prefix import strip_prefix
from runtime._http.replies import error, not_found, not_found_handler, redirect, redirect_handler
from runtime._http.restart import inherited_listeners
from runtime._http.routestats import RouteStats, route_stats
from runtime._http.server import (
    Server,
    default_mux,
    handle,
    handle_func,
    listen_and_serve,
    listen_and_serve_tls,
    serve,
)
from runtime._http.timeout import HandlerTimeoutError, timeout_handler
from runtime._http.values import Values

if TYPE_CHECKING:
    from runtime._http import middleware as middleware
    from runtime._http import prometheus as prometheus
    from runtime._http.workers import WorkerInfo as WorkerInfo
    from runtime._http.workers import workers as workers

__all__ = [
    "BadRequestError",
    "Body",
    "BodyTooLargeError",
    "ConnInfo",
    "ConnState",
    "Cookie",
    "EventStream",
    "FormFile",
    "HTTPError",
    "HTTPStatus",
    "HandlerTimeoutError",
    "Headers",
    "HijackedError",
    "MaxBytesError",
    "MaxBytesReader",
    "MultipartForm",
    "MultipartReader",
    "NotSupportedError",
    "Part",
    "PatternConflictError",
    "PatternError",
    "Request",
    "ResponseController",
    "ResponseWriter",
    "RouteInfo",
    "RouteStats",
    "ServeMux",
    "Server",
    "Values",
    "WorkerInfo",
    "default_mux",
    "detect_content_type",
    "error",
    "event_stream",
    "file_server",
    "handle",
    "handle_func",
    "inherited_listeners",
    "listen_and_serve",
    "listen_and_serve_tls",
    "max_bytes_handler",
    "not_found",
    "not_found_handler",
    "redirect",
    "redirect_handler",
    "route_stats",
    "serve",
    "serve_content",
    "serve_file",
    "set_cookie",
    "strip_prefix",
    "timeout_handler",
    "workers",
]


def __getattr__(name: str) -> Any:
    if name == "middleware":  # only now: most programs need none of it
        from runtime._http import middleware

        return middleware
    if name == "prometheus":  # an extra
        from runtime._http import prometheus

        return prometheus
    if name in ("WorkerInfo", "workers"):
        from runtime._http import workers

        return getattr(workers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
