"""The demo that `make run` starts: a server whose own scheduler can be watched in a browser.

    GET  /        a greeting
    GET  /stats   runtime.stats() as JSON
    GET  /debug/  a page that shows the counters live, and can spawn goroutines
    POST /spawn?n=1000   start n goroutines that sleep for a few seconds

Usage: python examples/demo.py [--addr HOST:PORT]
"""

import argparse
import random
import sys
from pathlib import Path
from urllib.parse import parse_qs

import runtime
from runtime import http

HOME = """<!doctype html>
<title>gosched</title>
<p>Hello from a goroutine. <a href="/debug/">Watch the scheduler</a>
"""
PAGE = Path(__file__).with_name("debug.html").read_text(encoding="utf-8")
MAX_SPAWN = 100_000  # goroutines for one POST /spawn

mux = http.ServeMux()


@mux.handle_func("GET /{$}")
def home(w, r):
    w.headers.set("Content-Type", "text/html; charset=utf-8")
    return HOME


@mux.handle_func("GET /stats")
def stats(w, r):
    return runtime.stats()  # a dict is sent as JSON


@mux.handle_func("GET /debug/{$}")
def debug(w, r):
    w.headers.set("Content-Type", "text/html; charset=utf-8")
    return PAGE


@mux.handle_func("POST /spawn")
def spawn(w, r):
    try:
        count = int(parse_qs(r.raw_query).get("n", ["1000"])[0])
    except ValueError:
        return 400
    if not 0 < count <= MAX_SPAWN:
        return 400
    for _ in range(count):
        runtime.go(runtime.sleep, random.uniform(1, 5))
    return {"spawned": count}


def ping_pong() -> None:
    """Two goroutines that pass a ball, so that an idle server still has something to show."""
    ball = runtime.Chan()

    def player() -> None:
        for n in ball:
            runtime.sleep(0.05)
            ball.send(n + 1)

    runtime.go.named("ping")(player)
    runtime.go.named("pong")(player)
    ball.send(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="gosched demo server")
    parser.add_argument("--addr", default="127.0.0.1:8080", help="HOST:PORT (default: %(default)s)")
    address = parser.parse_args().addr
    shown = f"http://127.0.0.1{address}" if address.startswith(":") else f"http://{address}"

    server = http.Server(mux, address)
    try:
        server.listen()
    except OSError as exc:
        sys.exit(
            f"demo: {exc.strerror}; choose another address: make run ARGS='--addr 127.0.0.1:8081'"
        )
    ping_pong()
    print(f"listening on {shown} - watch the scheduler at {shown}/debug/", flush=True)
    server.serve()


if __name__ == "__main__":
    main()
