"""The hello server on this project's runtime."""

import os
import sys

from runtime import http

http.handle_func("/", lambda w, r: w.write("Hello, World"))
workers = int(os.environ.get("BENCH_WORKERS", "1"))
http.listen_and_serve(sys.argv[1], workers=workers if workers > 1 else None)
