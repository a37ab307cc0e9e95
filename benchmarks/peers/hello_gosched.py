"""The hello server on this project's runtime."""

import sys

from runtime import http

http.handle_func("/", lambda w, r: w.write("Hello, World"))
http.listen_and_serve(sys.argv[1])
