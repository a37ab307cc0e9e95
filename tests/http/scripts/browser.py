"""A site for a browser: browser.py.

Prints its address, then what the page at / has found, as JSON: the page fetches, posts, uploads
and listens to events, and posts the results to /done.
"""

import json
from pathlib import Path

from runtime import http

mux = http.ServeMux()
page = Path(__file__).with_name("browser.html").read_text()


@mux.handle("GET /{$}")
def index(w, r):
    w.headers["Content-Type"] = "text/html; charset=utf-8"
    return page


@mux.handle("GET /part.js")
def script(w, r):
    w.headers["Content-Type"] = "text/javascript"
    return "window.parts = (window.parts || 0) + 1;"


@mux.handle("GET /part.svg")
def image(w, r):
    w.headers["Content-Type"] = "image/svg+xml"
    return '<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"></svg>'


@mux.handle("/hello")
def hello(w, r):
    return "Hello, World"


@mux.handle("POST /echo")
def echo(w, r):
    return r.body.read()


@mux.handle("POST /form")
def form(w, r):
    return r.form()


@mux.handle("GET /bytes/{n}")
def some_bytes(w, r):
    return bytes(int(r.path_value("n")))


@mux.handle("GET /stream/{n}")
def stream(w, r):
    for i in range(int(r.path_value("n"))):
        w.write(f"{i}\n")
        w.flush()


@mux.handle("GET /forever")
def forever(w, r):
    while True:
        w.write(bytes(65536))


@mux.handle("GET /events")
def events(w, r):
    """Three events a connection; the browser comes back for more and says where it is."""
    w.headers["Content-Type"] = "text/event-stream"
    w.headers["Cache-Control"] = "no-store"
    first = int(r.headers.get("Last-Event-ID", "0")) + 1
    w.write("retry: 1\n\n")
    for i in range(first, first + 3):
        w.write(f"id: {i}\ndata: event {i}\n\n")
        w.flush()


@mux.handle("GET /moved")
def moved(w, r):
    w.headers["Location"] = "/hello"
    return 302


@mux.handle("GET /none")
def none(w, r):
    return 204


@mux.handle("GET /stats")
def stats(w, r):
    return server.stats()


@mux.handle("POST /done")
def done(w, r):
    print(json.dumps(r.json()), flush=True)
    return 204


server = http.Server(mux, "127.0.0.1:0")
server.listen()
print(server.addr, flush=True)
server.serve()
