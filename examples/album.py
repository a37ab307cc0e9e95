"""An album of files: routes, a cookie, uploads, a file server, and an end without a cut.

Usage: python examples/album.py [ADDRESS [DIRECTORY]], then open the address in a browser.
Ctrl-C, or SIGTERM, lets requests that run come to their end.
"""

import html
import os
import sys
import tempfile
from urllib.parse import quote, unquote

from runtime import http

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080"
folder = sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()
mux = http.ServeMux()

PAGE = """<!doctype html><p>Hello, {name}. {count} files, <a href="/files/">all of them</a>.
<form method="post" action="/upload" enctype="multipart/form-data">
<input type="file" name="file"><button>Send</button></form>"""


@mux.handle("GET /{$}")
def index(w, r):
    visitor = r.cookie("name")
    name = html.escape(unquote(visitor.value)) if visitor else "stranger"
    return PAGE.format(name=name, count=len(os.listdir(folder)))


@mux.handle("GET /name/{name}")
def remember(w, r):
    http.set_cookie(w, http.Cookie("name", quote(r.path_value("name")), path="/", http_only=True))
    http.redirect(w, r, "/", http.HTTPStatus.SEE_OTHER)


@mux.handle("GET /newest/{n:int}")
def newest(w, r):
    files = sorted(os.scandir(folder), key=lambda entry: entry.stat().st_mtime, reverse=True)
    return [file.name for file in files[: r.path_value("n")]]


@mux.handle("POST /upload")
def upload(w, r):
    r.body = http.MaxBytesReader(w, r.body, 100 << 20)
    form = r.multipart_form()
    file = form.file("file")
    if file is None or not file.filename:
        raise http.HTTPError(400)
    try:
        file.save(os.path.join(folder, file.filename))  # filename is a base name only
    except FileExistsError:
        raise http.HTTPError(409) from None
    http.redirect(w, r, "/", http.HTTPStatus.SEE_OTHER)


files = http.file_server(folder, list_directories=True)
mux.handle("GET /files/", http.strip_prefix("/files", files))
http.Server(mux, address, shutdown_timeout=10).serve()
