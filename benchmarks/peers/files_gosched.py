"""The file server on this project's runtime: files_gosched.py ROOT HOST:PORT."""

import sys

from runtime import http

http.handle("/", http.file_server(sys.argv[1]))
http.listen_and_serve(sys.argv[2])
