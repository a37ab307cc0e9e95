"""Dispatches by our ServeMux: python mux_gosched.py ROUTES PATH COUNT prints ns for each.

What is timed is mux(w, r) with the request and response of a real connection, and a handler
that reads the path value.
"""

import socket
import sys
import threading
import time

import mux_routes
from runtime import http

ROUTES, PATH, COUNT = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def user(w: http.ResponseWriter, r: http.Request) -> None:
    r.path_value("id")


mux = http.ServeMux()
for pattern in mux_routes.patterns(ROUTES):
    mux.handle(f"GET {pattern}", user)
best = float("inf")


def handler(w: http.ResponseWriter, r: http.Request) -> None:
    global best
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(COUNT):
            mux(w, r)
        best = min(best, time.perf_counter() - began)


server = http.Server(handler, "127.0.0.1:0")
server.listen()


def ask() -> None:
    host, port = server.addr.split(":")
    with socket.create_connection((host, int(port))) as conn:
        conn.sendall(f"GET {PATH} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        conn.recv(1000)
    server.close()


threading.Thread(target=ask).start()
server.serve()
print(best / COUNT * 1e9)
