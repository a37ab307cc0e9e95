"""The demo that `make run` starts: a server whose own scheduler can be watched in a browser.

    GET  /                greets, and links to the rest
    GET  /debug/          the live page: http.debug.handler()
    GET  /stats           runtime.stats() as JSON
    GET  /items/{id:int}  takes its time now and then; some are not there
    POST /spawn?n=1000    start n goroutines that sleep for a few seconds

So that there is something to see it has a little to do by itself: goroutines that pass messages,
work on jobs, wait for a lock, and visitors who ask the server for pages.

Usage: python examples/demo.py [--addr HOST:PORT] [--idle]
"""

import argparse
import random
import sys
from contextlib import suppress

import runtime
from runtime import http, net
from runtime.http import middleware
from runtime.sync import Mutex

HOME = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>gosched</title>
<h1>Hello from a goroutine</h1>
<p><a href="/debug/">Watch the scheduler</a>, and then give it something to do:
<form method="post" action="/spawn?n=1000"><button>Spawn 1,000 goroutines</button></form>
<form method="post" action="/spawn?n=50000"><button>Spawn 50,000 goroutines</button></form>
<p>The counters as JSON: <a href="/stats">/stats</a>
</html>
"""
MAX_SPAWN = 100_000  # goroutines for one POST /spawn

mux = http.ServeMux()
mux.use(middleware.cross_origin_protection())
mux.mount("/debug/", http.debug.handler())


@mux.handle_func("GET /{$}")
def home(w, r):
    w.headers.set("Content-Type", "text/html; charset=utf-8")
    return HOME


@mux.handle_func("GET /stats")
def stats(w, r):
    return runtime.stats()  # a dict is sent as JSON


@mux.handle_func("GET /items/{id:int}")
def item(w, r):
    number = r.path_value("id")
    if number % 10 == 0:
        return 404
    runtime.sleep(random.expovariate(1 / 0.004))  # as if it asked a database
    return {"id": number}


@mux.handle_func("POST /spawn")
def spawn(w, r):
    text = r.query.get("n", "1000")
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= MAX_SPAWN:
        return 400
    for _ in range(int(text)):
        runtime.go(runtime.sleep, random.uniform(1, 5))
    if "text/html" in (r.headers.get("Accept") or ""):
        return http.redirect(w, r, "/", 303)
    return {"spawned": int(text)}


# --- something to see ---------------------------------------------------------------------------


def player(ball: runtime.Chan) -> None:
    for n in ball:
        runtime.sleep(0.005)
        ball.send(n + 1)


def producer(jobs: runtime.Chan) -> None:
    while True:
        for _ in range(random.randint(1, 20)):
            jobs.send(random.uniform(0.0001, 0.002))
        runtime.sleep(random.uniform(0.05, 0.3))


def worker(jobs: runtime.Chan, account: Mutex) -> None:
    for seconds in jobs:
        runtime.sleep(seconds)
        with account:
            if random.random() < 0.01:  # now and then the others have to wait for a while
                runtime.sleep(0.5)


def crowd() -> None:
    """Now and then many begin at once, and have to queue for the P."""
    while True:
        runtime.sleep(random.uniform(1, 4))
        for _ in range(random.randint(20, 100)):
            runtime.go(sum, range(2000))


def visitor(address: str) -> None:
    """Asks the server for pages, each on a new connection."""
    while True:
        path = random.choice(["/", "/items/7", "/items/12", "/items/30", "/stats"])
        request = f"GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"
        with suppress(OSError), net.dial("tcp", address, timeout=5) as conn:
            conn.write(request.encode())
            while conn.read(65536):
                pass
        runtime.sleep(random.expovariate(8))


def start_load(address: str) -> None:
    """A few percent of a core; it ends with the program."""
    ball, jobs, account = runtime.Chan(), runtime.Chan(32), Mutex()
    runtime.go.named("ping")(player, ball)
    runtime.go.named("pong")(player, ball)
    ball.send(0)
    for n in range(4):
        runtime.go.named(f"worker-{n}")(worker, jobs, account)
    runtime.go.named("producer")(producer, jobs)
    runtime.go.named("crowd")(crowd)
    for n in range(4):
        runtime.go.named(f"visitor-{n}")(visitor, address)


def main() -> None:
    parser = argparse.ArgumentParser(description="gosched demo server")
    parser.add_argument("--addr", default="127.0.0.1:8080", help="HOST:PORT (default: %(default)s)")
    parser.add_argument("--idle", action="store_true", help="nothing to do but what is asked for")
    options = parser.parse_args()

    server = http.Server(mux, options.addr)
    try:
        server.listen()
    except OSError as exc:
        sys.exit(
            f"demo: {exc.strerror}; choose another address: make run ARGS='--addr 127.0.0.1:8081'"
        )
    host, _, port = server.addr.rpartition(":")
    shown = f"127.0.0.1:{port}" if host in ("", "0.0.0.0", "[::]") else server.addr
    if not options.idle:
        start_load(shown)
    print(f"listening on http://{shown} - watch the scheduler at http://{shown}/debug/", flush=True)
    server.serve()


if __name__ == "__main__":
    main()
