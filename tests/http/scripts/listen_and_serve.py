"""listen_and_serve.py address: the program of the documentation, and "over" when it has ended."""

import sys

from runtime import http

http.handle_func("/", lambda w, r: w.write("Hello, World"))
http.listen_and_serve(sys.argv[1])
print("over")
