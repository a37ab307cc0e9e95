"""A server with the live page, to be watched: watched.py [address [workers]].

Prints its address, then serves until it gets a signal.
"""

import sys

import runtime
from runtime import http

mux = http.ServeMux()
mux.mount("/debug/", http.debug.handler())
mux.mount("/private/", http.debug.handler(auth=http.middleware.basic_auth({"ops": "s:cret"})))


@mux.handle("GET /items/{id:int}")
def item(w, r):
    runtime.sleep(0.002)
    return {"id": r.path_value("id")}


address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0"
if len(sys.argv) > 2:
    print(address, flush=True)
    http.listen_and_serve(address, mux, workers=int(sys.argv[2]))
else:
    server = http.Server(mux, address)
    server.listen()
    print(server.addr, flush=True)
    server.serve()
