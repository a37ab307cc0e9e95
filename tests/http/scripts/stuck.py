"""A server whose goroutines are worth looking at: a crowd, a lock that is wanted, a deadlock.

Prints its address, then serves until it gets a signal.
"""

import sys

import runtime
from runtime import http

KINDS = 120  # places where a goroutine is started: more than the page tells at a time


def hold(mine, wanted, holds, go_on):
    with mine:
        holds.send(None)
        go_on.recv_ok()
        with wanted:
            pass


def beat():
    while True:
        runtime.sleep(0.001)


crowd = runtime.Chan()
for n in range(20):
    runtime.go.named(f"receiver-{n}")(crowd.recv)
for n in range(KINDS):
    source = "\n" * n + "runtime.go.named(f'kind-{n}')(runtime.sleep, 3600)"
    exec(compile(source, "/srv/kinds.py", "exec"))
runtime.go.named("beat")(beat)

a, b, c = runtime.Mutex(), runtime.Mutex(), runtime.Mutex()
holds, go_on = runtime.Chan(), runtime.Chan()
runtime.go.named("ann")(hold, a, b, holds, go_on)
runtime.go.named("bob")(hold, b, a, holds, go_on)
runtime.go.named("holder")(hold, c, runtime.Mutex(), holds, runtime.Chan())
for _ in range(3):
    holds.recv()
go_on.close()
runtime.go.named("blocked")(c.lock)

mux = http.ServeMux()
mux.mount("/debug/", http.debug.handler())
server = http.Server(mux, sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0")
server.listen()
print(server.addr, flush=True)
server.serve()
