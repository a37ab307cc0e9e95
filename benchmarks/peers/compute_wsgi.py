"""compute_gosched.py's handlers as a WSGI application."""

from collections.abc import Callable, Iterable
from typing import Any

from compute import turn


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    body = b"Hello, World" if path == "/" else str(turn(int(path[1:]))).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
