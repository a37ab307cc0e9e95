"""A server with a bit of everything: app.py [address [options as JSON]].

Prints its address, then serves until it gets a signal.
"""

import gc
import json
import os
import signal
import sys
import threading

import runtime
from runtime import http

mux = http.ServeMux()
gates: dict[str, runtime.Chan] = {}
healthy = False
free: list[bool] = []
signal.signal(signal.SIGUSR1, lambda signum, frame: free.append(True))


@mux.handle("/hello")
def hello(w, r):
    w.write("Hello, World")


@mux.handle("/echo")
def echo(w, r):
    return r.body.read()


@mux.handle("/pipe")
def pipe(w, r):
    for piece in r.body:
        w.write(piece)
        w.flush()


@mux.handle("/bytes/{n}")
def some_bytes(w, r):
    return bytes(int(r.path_value("n")))


@mux.handle("/stream/{n}")
def stream(w, r):
    for _ in range(int(r.path_value("n"))):
        w.write(bytes(65536))


@mux.handle("/sleep")
def sleep(w, r):
    runtime.sleep(float(r.query.get("s")))
    return "slept"


@mux.handle("/hold/{gate}")
def hold(w, r):
    """Say so on stdout, and wait for /release."""
    gate = gates.setdefault(r.path_value("gate"), runtime.Chan())
    os.write(1, b"holding\n")  # in one piece: several may say so
    gate.recv_ok()
    return "held"


@mux.handle("/release/{gate}")
def release(w, r):
    gates.pop(r.path_value("gate")).close()
    return 204


@mux.handle("/spin/{gate}")
def spin(w, r):
    """Say so on stdout, and compute until /release."""
    gate = gates.setdefault(r.path_value("gate"), runtime.Chan())
    os.write(1, b"spinning\n")  # in one piece: several may say so
    while not gate.closed:
        pass
    return "spun"


@mux.handle("/thread")
def thread(w, r):
    return str(threading.get_ident())


@mux.handle("/stuck")
def stuck(w, r):
    print("stuck", flush=True)
    runtime.Chan().recv()


@mux.handle("/fail")
def fail(w, r):
    raise ZeroDivisionError


@mux.handle("/hog")
def hog(w, r):
    """Take all memory, say so on stdout, and keep it until SIGUSR1."""
    kept: list[bytes] = []
    free.clear()
    for size in (1 << 20, 8000):
        try:
            while len(kept) < 1_000_000:
                kept.append(bytes(size))
        except MemoryError:
            pass
    os.write(1, b"hogged\n")
    while not free:
        runtime.sleep(0.01)
    kept.clear()
    return "hogged"


@mux.handle("/open")
def open_file(w, r):
    with open("/dev/null", "rb"):
        return 204


@mux.handle("/exit/{code}")
def leave(w, r):
    raise SystemExit(int(r.path_value("code")))


@mux.handle("/interrupt")
def interrupt(w, r):
    raise KeyboardInterrupt


@mux.handle("/form")
def form(w, r):
    return r.form()


@mux.handle("/health")
def health(w, r):
    return 200 if healthy else 503


@mux.handle("/healthy/{n}")
def set_health(w, r):
    global healthy
    healthy = r.path_value("n") == "1"
    return 204


@mux.handle("GET /stats")
def stats(w, r):
    return {**server.stats(), "goroutines": runtime.num_goroutine()}


@mux.handle("GET /objects")
def objects(w, r):
    gc.collect()
    return {"objects": len(gc.get_objects())}


@mux.handle("GET /polls")
def polls(w, r):
    return {"polls": sum(p["polls"] for p in runtime.stats()["ps"])}


address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0"
# On a loaded machine any client may be slower than it is allowed to be by default.
options = {"min_read_rate": None, "min_write_rate": None}
options |= json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
server = http.Server(mux, address, **options)
server.listen()
print(server.addr, flush=True)
server.serve()
