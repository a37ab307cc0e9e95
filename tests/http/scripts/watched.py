"""A server with a debug page, to be watched: watched.py [address [prefix]].

Prints its address, then serves until it gets a signal.
"""

import os
import sys

import runtime
from runtime import _stats, http

mux = http.ServeMux()
prefix = sys.argv[2] if len(sys.argv) > 2 else "/debug/"


@mux.handle("GET /hello")
def hello(w, r):
    w.write("Hello, World")


@mux.handle("GET /items/{id:int}")
def item(w, r):
    runtime.sleep(0.002)
    return {"id": r.path_value("id")}


@mux.handle(f"GET {prefix}api/snapshot")
def snapshot(w, r):
    me = {"id": 0, "pid": os.getpid(), "age": 0.0, "restarts": 0, "snapshot": _stats.snapshot()}
    return {"workers": [me], "self": 0}


server = http.Server(mux, sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0")
server.listen()
print(server.addr, flush=True)
server.serve()
