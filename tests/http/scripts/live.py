"""A server with the live page and something to look at: live.py [HOST:PORT [WORKERS]].

Prints its address. A goroutine named "holder" holds a Mutex that two others wait for, and there
are goroutines of 60 kinds. With several workers each has one named "only-in-NUMBER" instead, which
waits for a lock that its "holder-NUMBER" has.
"""

import sys

import runtime
from runtime import http
from runtime._http.workers import peers
from runtime.sync import Mutex

# On a loaded machine a worker may take longer to answer another one than it has by default.
peers._PATIENCE = 60.0
mux = http.ServeMux()
asked: list[str] = []  # targets of the page's requests


def noting(w, r):
    asked.append(r.target)
    return mux.serve_http(w, r)


mux.mount("/debug/", http.debug.handler())


@mux.handle_func("GET /hello/{name}")
def hello(w, r):
    return "hello"


@mux.handle_func("GET /fail")
def fail(w, r):
    return 500


@mux.handle_func("GET /asked")
def targets(w, r):
    return asked


@mux.handle_func("POST /park")
def park(w, r):
    """Start n goroutines that wait."""
    for _ in range(int(r.query.get("n"))):
        runtime.go.named("parked")(wait_here)
    return 204


@mux.handle_func("POST /queue")
def queue(w, r):
    """Start n goroutines each of which waits at a channel of its own."""
    for _ in range(int(r.query.get("n"))):
        runtime.go.named("queued")(runtime.Chan().recv)
    return 204


@mux.handle_func("POST /crowd")
def crowd(w, r):
    """Have n goroutines that are always ready to run, from now on."""
    global crowded
    crowded = n = int(r.query.get("n"))
    for _ in range(n):
        runtime.go(jostle)
    return 204


def jostle():
    while crowded:
        runtime.gosched()


crowded = 0
nobody: runtime.Chan[None] = runtime.Chan()
account = Mutex()


def wait_here():
    nobody.recv()


def hold():
    with account:
        wait_here()


def talk(ball):
    for n in ball:
        runtime.sleep(0.005)
        ball.send(n)


def begin(number: int) -> None:
    runtime.go.named(f"holder-{number}")(hold)
    runtime.gosched()
    runtime.go.named(f"only-in-{number}")(account.lock)


def start() -> None:
    runtime.go.named("holder")(hold)
    runtime.gosched()
    for n in (1, 2):
        runtime.go.named(f"blocked-{n}")(account.lock)
    runtime.go.named("<b id=injected>markup</b>")(nobody.recv)
    for n in range(60):
        exec(f"def kind_{n}():\n    runtime.go(nobody.recv)\nkind_{n}()", {**globals()})
    ball: runtime.Chan[int] = runtime.Chan()
    runtime.go(talk, ball)
    runtime.go(talk, ball)
    ball.send(0)


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0"
    if len(sys.argv) > 2:
        print(address, flush=True)
        http.serve(mux, address, workers=int(sys.argv[2]), on_worker_start=begin)
        sys.exit()
    start()
    server = http.Server(noting, address, min_read_rate=None, min_write_rate=None)
    server.listen()
    print(server.addr, flush=True)
    server.serve()
