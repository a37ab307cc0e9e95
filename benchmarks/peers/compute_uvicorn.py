"""compute_gosched.py's handlers on uvicorn with uvloop and httptools: two workers, bare ASGI."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from compute import turn


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    path = scope["path"]
    body = b"Hello, World" if path == "/" else str(turn(int(path[1:]))).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    host, port = sys.argv[1].split(":")
    uvicorn.run(
        "compute_uvicorn:app",
        host=host,
        port=int(port),
        workers=2,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
    )
