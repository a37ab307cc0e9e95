"""The smallest server. Usage: python examples/hello.py [ADDRESS]"""

import sys

from runtime import http

http.handle_func("/", lambda w, r: w.write("Hello, World"))
http.listen_and_serve(sys.argv[1] if len(sys.argv) > 1 else ":8080")
