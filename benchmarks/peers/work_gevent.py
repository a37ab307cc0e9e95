"""The rows of http_table.py on gevent's pywsgi: a bare WSGI application."""

import json
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import gevent.socket
from gevent.pywsgi import WSGIServer

LARGE = bytes(65536)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path, kind, body = environ["PATH_INFO"], "text/plain", b"Hello, World"
    if path == "/browser":
        names = ("HTTP_USER_AGENT", "HTTP_ACCEPT", "HTTP_COOKIE")
        body = b"Hello, World" if all(environ.get(name) for name in names) else b"?"
    elif path == "/json":
        kind = "application/json"
        value = json.loads(environ["wsgi.input"].read())
        body = json.dumps(value, separators=(",", ":")).encode()
    elif path.startswith("/users/"):
        body = path[7:].encode()
    elif path == "/sleep":
        gevent.sleep(0.001)
    elif path == "/large":
        body = LARGE
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


host, port = sys.argv[1].split(":")
listener = gevent.socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
listener.bind((host, int(port)))
listener.listen(1024)
WSGIServer(listener, app, log=None).serve_forever()
