"""An HTTP/1.1 server whose handlers are plain functions, one goroutine a request.

    from runtime import http

    http.handle_func("/", lambda w, r: w.write("Hello, World"))
    http.listen_and_serve(":8080")
"""

from runtime._core import Body, Headers, Request, ResponseWriter
from runtime._http.connstate import ConnInfo, ConnState
from runtime._http.controller import NotSupportedError, ResponseController
from runtime._http.errors import BadRequestError, BodyTooLargeError, HTTPError
from runtime._http.mux import ServeMux
from runtime._http.pattern import PatternConflictError, PatternError
from runtime._http.restart import inherited_listeners
from runtime._http.server import (
    Server,
    default_mux,
    handle,
    handle_func,
    listen_and_serve,
    serve,
)
from runtime._http.timeout import HandlerTimeoutError, timeout_handler
from runtime._http.values import Values

__all__ = [
    "BadRequestError",
    "Body",
    "BodyTooLargeError",
    "ConnInfo",
    "ConnState",
    "HTTPError",
    "HandlerTimeoutError",
    "Headers",
    "NotSupportedError",
    "PatternConflictError",
    "PatternError",
    "Request",
    "ResponseController",
    "ResponseWriter",
    "ServeMux",
    "Server",
    "Values",
    "default_mux",
    "handle",
    "handle_func",
    "inherited_listeners",
    "listen_and_serve",
    "serve",
    "timeout_handler",
]
