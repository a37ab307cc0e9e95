"""Two workers with metrics; prints the address, and serves until it is stopped."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "lib"))

import ports

from runtime import http

mux = http.ServeMux()
mux.handle("GET /items/{id}", lambda w, r: r.path_value("id"))
mux.handle("GET /metrics", http.prometheus.handler())
mux.handle("GET /who", lambda w, r: [[i.id, i.pid] for i in http.workers()])

with ports.reserved() as address:
    print(address, flush=True)
    http.serve(mux, address, workers=2)
