"""The rows of http_table.py on uvicorn with uvloop and httptools: a bare ASGI application."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

LARGE = bytes(65536)


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    path, kind, body = scope["path"], b"text/plain", b"Hello, World"
    if path == "/browser":
        headers = dict(scope["headers"])
        found = b"user-agent" in headers and b"accept" in headers and b"cookie" in headers
        body = b"Hello, World" if found else b"?"
    elif path == "/json":
        received, more = b"", True
        while more:
            message = await receive()
            received += message["body"]
            more = message["more_body"]
        kind = b"application/json"
        body = json.dumps(json.loads(received), separators=(",", ":")).encode()
    elif path.startswith("/users/"):
        body = path[7:].encode()
    elif path == "/sleep":
        await asyncio.sleep(0.001)
    elif path == "/large":
        body = LARGE
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


host, port = sys.argv[1].split(":")
uvicorn.run(
    app,
    host=host,
    port=int(port),
    loop="uvloop",
    http="httptools",
    lifespan="off",
    access_log=False,
    log_level="error",
    timeout_keep_alive=300,  # seconds: idle connections are measured too
)
