"""What worker processes serve in tests.  $WORKERS_MODE is a file that says how they begin."""

import ctypes
import os
import time
from pathlib import Path

import runtime
from runtime import http

app = http.ServeMux()
app.mount("/debug/", http.debug.handler())
number = 5


def begin(id):
    """As the mode says."""
    mode = Path(os.environ["WORKERS_MODE"]).read_text() if "WORKERS_MODE" in os.environ else ""
    if mode == "fail":
        raise RuntimeError("the mode is to fail")
    if mode == "exit":
        os._exit(7)
    if mode == "hang":
        time.sleep(1000)
    runtime.go.named(f"only-in-{os.getpid()}")(runtime.sleep, 3600)


@app.handle("/")
def pid(w, r):
    return str(os.getpid())


@app.handle("/workers")
def workers(w, r):
    return [
        {
            "id": x.id,
            "pid": x.pid,
            "age": x.age,
            "restarts": x.restarts,
            "requests": x.snapshot["stats"]["http"]["requests"],
            "connections": x.snapshot["stats"]["http"]["connections"],
            "ps": len(x.snapshot["stats"]["ps"]),
        }
        for x in http.workers()
    ]


@app.handle("/procs")
def procs(w, r):
    return str(runtime.gomaxprocs())


@app.handle("/address")
def address(w, r):
    return r.remote_addr


@app.handle("/mixed/{status}/{size}")
@app.handle("/other/{status}/{size}")
def mixed(w, r):
    """So many bytes with that status, many of them in chunks; 418 has a text of its own."""
    r.body.read()
    w.headers["Worker"] = str(os.getpid())
    status, size = int(r.path_value("status")), int(r.path_value("size"))
    if status == 418:
        return status
    w.write_header(status)
    for _ in range(size // 100_000):
        w.write(b"x" * 100_000)
        w.flush()
    w.write(b"x" * (size % 100_000))
    return None


@app.handle("/counts")
def counts(w, r):
    w.headers["Worker"] = str(os.getpid())
    return [
        {"pid": x.pid, "http": x.snapshot["stats"]["http"], "routes": x.snapshot["routes"]}
        for x in http.workers()
    ]


@app.handle("/metrics")
def metrics(w, r):
    return http.prometheus.handler()(w, r)


@app.handle("/hold")
def hold(w, r):
    """Say so by making a file, and wait until another one is there."""
    Path(r.query.get("held")).touch()
    while not os.path.exists(r.query.get("until")):
        runtime.sleep(0.005)
    return str(os.getpid())


@app.handle("/block")
def block(w, r):
    """Say so by making a file, and block the thread, or all of them by keeping the GIL."""
    Path(r.query.get("held")).touch()
    while True:
        if r.query.get("gil"):
            ctypes.PyDLL(None).sleep(1000)
        time.sleep(1000)


def make():
    """A factory."""
    return app


server = http.Server(app, max_requests=3)
restarting = http.Server(app, hot_restart=True)
