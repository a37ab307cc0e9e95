"""The hello server on uvicorn with uvloop and httptools: a bare ASGI application."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"12")],
}
BODY = {"type": "http.response.body", "body": b"Hello, World"}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    await send(START)
    await send(BODY)


if __name__ == "__main__":
    host, port = sys.argv[1].split(":")
    workers = int(os.environ.get("BENCH_WORKERS", "1"))
    uvicorn.run(
        app if workers == 1 else "hello_uvicorn:app",
        host=host,
        port=int(port),
        workers=workers,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
        timeout_keep_alive=300,  # seconds: idle connections are measured too
    )
