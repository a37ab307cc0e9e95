"""The rows of http_table.py on granian (Rust, hyper), RSGI, one worker, one thread of each kind."""

import asyncio
import json
import os
import sys
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops

LARGE = bytes(65536)


async def app(scope: Any, protocol: Any) -> None:
    path, kind, body = scope.path, "text/plain", b"Hello, World"
    if path == "/browser":
        get = scope.headers.get
        body = b"Hello, World" if get("user-agent") and get("accept") and get("cookie") else b"?"
    elif path == "/json":
        kind = "application/json"
        body = json.dumps(json.loads(await protocol()), separators=(",", ":")).encode()
    elif path.startswith("/users/"):
        body = path[7:].encode()
    elif path == "/sleep":
        await asyncio.sleep(0.001)
    elif path == "/large":
        body = LARGE
    protocol.response_bytes(
        200, [("content-type", kind), ("content-length", str(len(body)))], body
    )


if __name__ == "__main__":
    host, port = sys.argv[1].split(":")
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    Granian(
        "work_granian:app",
        address=host,
        port=int(port),
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        loop=Loops.uvloop,
        workers=1,
        runtime_threads=1,
        websockets=False,
        log_enabled=False,
    ).serve()
