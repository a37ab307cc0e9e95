"""Two workers with metrics; prints the address, and serves until it is stopped."""

import socket

from runtime import http

mux = http.ServeMux()
mux.handle("GET /items/{id}", lambda w, r: r.path_value("id"))
mux.handle("GET /metrics", http.prometheus.handler())
mux.handle("GET /who", lambda w, r: [[i.id, i.pid] for i in http.workers()])

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
print(f"127.0.0.1:{port}", flush=True)
http.serve(mux, f"127.0.0.1:{port}", workers=2)
