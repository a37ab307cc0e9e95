"""The hello application that the WSGI peers serve."""

from collections.abc import Callable, Iterable
from typing import Any

BODY = b"Hello, World"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", HEADERS)
    return [BODY]
