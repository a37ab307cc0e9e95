"""The rows of http_table.py on this project's runtime."""

import sys
import time

import runtime
from runtime import http

LARGE = bytes(65536)
mux = http.ServeMux()
mux.handle("GET /{$}", lambda w, r: w.write("Hello, World"))


@mux.handle("GET /browser")
def browser(w, r):
    get = r.headers.get
    w.write("Hello, World" if get("User-Agent") and get("Accept") and get("Cookie") else "?")


@mux.handle("POST /json")
def echo(w, r):
    return r.json()


@mux.handle("GET /users/{id}")
def user(w, r):
    w.headers["Content-Type"] = "text/plain"
    w.write(r.path_value("id"))


@mux.handle("GET /sleep")
def sleep(w, r):
    runtime.sleep(0.001)
    w.write("Hello, World")


@mux.handle("GET /large")
def large(w, r):
    w.headers["Content-Type"] = "text/plain"
    w.write(LARGE)


@mux.handle("GET /spin")
def spin(w, r):
    """For http_overload.py."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pass
    w.write("Hello, World")


for i in range(95):
    mux.handle(f"GET /other{i}/{{id}}", user)

http.listen_and_serve(sys.argv[1], mux)
