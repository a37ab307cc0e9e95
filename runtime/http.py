"""An HTTP/1.1 server whose handlers are plain functions, one goroutine a request.

    from runtime import http

    http.handle_func("/", lambda w, r: w.write("Hello, World"))
    http.listen_and_serve(":8080")
"""

from runtime._core import Body, Headers, Request, ResponseWriter, detect_content_type
from runtime._http.errors import BadRequestError, BodyTooLargeError, HTTPError, MaxBytesError
from runtime._http.files import file_server, serve_content, serve_file
from runtime._http.maxbytes import MaxBytesReader, max_bytes_handler
from runtime._http.multipart import FormFile, MultipartForm, MultipartReader, Part
from runtime._http.mux import ServeMux
from runtime._http.pattern import PatternConflictError, PatternError
from runtime._http.server import (
    Server,
    default_mux,
    handle,
    handle_func,
    listen_and_serve,
    serve,
)
from runtime._http.values import Values

__all__ = [
    "BadRequestError",
    "Body",
    "BodyTooLargeError",
    "FormFile",
    "HTTPError",
    "Headers",
    "MaxBytesError",
    "MaxBytesReader",
    "MultipartForm",
    "MultipartReader",
    "Part",
    "PatternConflictError",
    "PatternError",
    "Request",
    "ResponseWriter",
    "ServeMux",
    "Server",
    "Values",
    "default_mux",
    "detect_content_type",
    "file_server",
    "handle",
    "handle_func",
    "listen_and_serve",
    "max_bytes_handler",
    "serve",
    "serve_content",
    "serve_file",
]
