"""A server with 100 routes and the live page, for live_page.py: python live_gosched.py ADDRESS.

POST /park?n=... starts goroutines that wait.
"""

import sys
from typing import Any

import runtime
from runtime import http

nobody: runtime.Chan[None] = runtime.Chan()
mux = http.ServeMux()
mux.mount("/debug/", http.debug.handler())


@mux.handle("POST /park")
def park(w: Any, r: Any) -> int:
    for _ in range(int(r.query.get("n"))):
        runtime.go(nobody.recv)
    return 204


for i in range(100):
    mux.handle(f"GET /route{i}/{{id}}", lambda w, r: r.path_value("id"))
http.listen_and_serve(sys.argv[1], mux)
