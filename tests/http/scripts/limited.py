"""A server with a limit in a storage: limited.py storage rate on_error storage-timeout.

/free has none. Prints its address, and then what it logs.
"""

import logging
import sys

from runtime import http
from runtime.http import middleware

storage, rate, on_error, timeout = sys.argv[1:]
logging.basicConfig(stream=sys.stdout, format="%(message)s")
limit = middleware.rate_limit(
    rate,
    key=lambda r: r.headers.get("Key"),
    storage=storage,
    on_error=on_error,
    storage_timeout=float(timeout),
)
mux = http.ServeMux()
mux.handle("/free", lambda w, r: "free")
mux.handle("/", lambda w, r: "ok", use=[limit])
server = http.Server(mux, "127.0.0.1:0")
server.listen()
print(server.addr, flush=True)
server.serve()
