"""compute_gosched.py's handlers on socketify (C++, uWebSockets): two processes on one port."""

import os
import signal
import sys
from typing import Any

from socketify import App, AppListenOptions

from compute import turn


def hello(response: Any, request: Any) -> None:
    response.write_header("Content-Type", "text/plain")
    response.end("Hello, World")


def compute(response: Any, request: Any) -> None:
    response.write_header("Content-Type", "text/plain")
    response.end(str(turn(int(request.get_parameter(0)))))


signal.signal(signal.SIGTERM, signal.SIG_DFL)
os.fork()
host, port = sys.argv[1].split(":")
app = App()
app.get("/", hello)
app.get("/:n", compute)
app.listen(AppListenOptions(port=int(port), host=host), lambda config: None)
app.run()
