"""http.middleware.compress: content codings by negotiation."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import aiohttp
import httpx
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from runtime import http, httptest
from runtime._http.conditions import preferred_codings
from runtime.http import middleware

SAFETY = 60.0
TEXT = "Compressible, as most text is: öäü. " * 100
BYTES = TEXT.encode()
NOISE = random.Random(1).randbytes(5000)


class Plain:
    """Decodes what has no coding."""

    def decompress(self, data):
        return data


def decoder(coding):
    """Decodes a stream piece by piece."""
    if coding == "gzip":
        return zlib.decompressobj(31)
    if coding == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj()
    if coding == "br":
        import brotli

        class Brotli:
            def __init__(self):
                self.process = brotli.Decompressor().process

            def decompress(self, data):
                content = self.process(data)
                while more := self.process(b""):  # it gives a part at a time
                    content += more
                return content

        return Brotli()
    return Plain()


# Free-threaded Python 3.13 has no wheels of the others.
CODINGS = ["gzip"] + [
    coding for coding, module in (("br", "brotli"), ("zstd", "zstandard")) if find_spec(module)
]
per_coding = pytest.mark.parametrize("coding", CODINGS)


def ask(handler, method="GET", target="/", **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    w = httptest.record(handler, httptest.new_request(method, target, headers=fields))
    return w.response()


def plain(response):
    """The content of a response, decoded."""
    coding = response.headers.get("Content-Encoding")
    body = decoder(coding).decompress(response.body)
    if coding is not None and "Content-Length" in response.headers:
        assert response.headers["Content-Length"] == str(len(response.body))
    return body


def through(handler, accept="gzip", options=None, method="GET", **headers):
    """The response to a client that accepts such codings."""
    handler = middleware.compress(**(options or {}))(handler)
    return ask(handler, method, Accept_Encoding=accept, **headers)


# --- what is compressed ---------------------------------------------------------------------------


@per_coding
@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(
    ("value", "body", "kind"),
    [
        (TEXT, BYTES, "text/plain; charset=utf-8"),
        (BYTES, BYTES, "text/plain; charset=utf-8"),
        ("<html>" + TEXT, b"<html>" + BYTES, "text/html; charset=utf-8"),
        ({"a": "b" * 2000}, b'{"a":"' + b"b" * 2000 + b'"}', "application/json"),
        ([TEXT], f'["{TEXT}"]'.encode(), "application/json"),
    ],
)
def test_values_are_compressed_with_their_length_and_type(coding, written, value, body, kind):
    def handler(w, r):
        if not written:
            return value
        w.respond(value)

    response = through(handler, coding)
    assert response.status == 200
    assert response.headers["Content-Encoding"] == coding
    assert response.headers["Vary"] == "Accept-Encoding"
    assert response.headers["Content-Type"] == kind
    assert int(response.headers["Content-Length"]) < len(body) / 2
    assert plain(response) == body


@per_coding
def test_writes_without_flush_have_a_length(coding):
    def handler(w, r):
        w.headers["Content-Type"] = "text/css"
        w.write_header(404)
        for _ in range(10):
            w.write(TEXT)
            w.write(bytearray(b"x"))

    response = through(handler, coding)
    assert (response.status, response.headers["Content-Type"]) == (404, "text/css")
    assert response.headers["Content-Encoding"] == coding
    assert "Content-Length" in response.headers
    assert plain(response) == (BYTES + b"x") * 10


class Markup(str):
    """A str of a template engine."""


@pytest.mark.parametrize("text", [Markup("short é"), Markup(TEXT)])
def test_subclasses_of_str_are_str(text):
    for handler in (lambda w, r: text, lambda w, r: w.write(text), lambda w, r: w.respond(text)):
        assert plain(through(handler)) == text.encode()
        assert ask(middleware.etag()(handler)).body == text.encode()


def test_status_returned_or_chosen_before_stays():
    def handler(w, r):
        w.write_header(201)
        return TEXT

    assert through(handler).status == 201
    response = through(lambda w, r: 404, options={"min_size": 0, "types": ["text/*"]})
    assert (response.status, plain(response)) == (404, b"Not Found\n")


def test_size_at_the_threshold_is_compressed_and_below_it_is_not():
    for kind in (str, bytes):
        make = (lambda n: "x" * n) if kind is str else (lambda n: b"x" * n)
        below = through(lambda w, r: make(1023))  # noqa: B023
        assert "Content-Encoding" not in below.headers and "Vary" not in below.headers
        at = through(lambda w, r: make(1024))  # noqa: B023
        assert at.headers["Content-Encoding"] == "gzip"
    # What counts are bytes.
    assert "Content-Encoding" in through(lambda w, r: "é" * 512).headers
    assert "Content-Encoding" not in through(lambda w, r: "é" * 511).headers
    assert "Content-Encoding" in through(lambda w, r: w.write("é" * 512)).headers
    assert through(lambda w, r: w.write("é" * 511)).body == ("é" * 511).encode()
    short = through(lambda w, r: "x" * 100, options={"min_size": 100})
    assert short.headers["Content-Encoding"] == "gzip"


def test_short_json_is_json():
    response = through(lambda w, r: {"a": 1})
    assert (response.body, response.headers["Content-Type"]) == (b'{"a":1}', "application/json")

    def handler(w, r):
        w.headers["Content-Type"] = "application/problem+json"
        return {"a": "b" * 2000}

    response = through(handler)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Content-Encoding"] == "gzip"


def test_content_that_does_not_get_shorter_is_sent_as_it_is():
    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        return NOISE

    response = through(handler)
    assert response.body == NOISE
    assert "Content-Encoding" not in response.headers
    assert response.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", None),
        ("deflate", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZip", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("gzip;q=0.001", "gzip"),
        ("gzip;q=2", None),
        ("gzip;q=nonsense", None),
        ("gzip;q=0.5, identity;q=0.4", "gzip"),
        ("gzip;q=0.5, identity;q=0.6", None),
        ("*", "gzip"),
        ("*;q=0", None),
        ("gzip, *;q=0", "gzip"),
        ("*, gzip;q=0", None),
        ("identity", None),
        ("identity;q=0", None),
        (" gzip ; q=1 ,br;q=0", "gzip"),
        ("gzip;q=0.5," + "x" * 5000, "gzip"),
    ],
)
def test_coding_is_what_the_client_accepts(accept, chosen):
    response = through(lambda w, r: TEXT, accept, {"codings": ["gzip"]})
    assert response.headers.get("Content-Encoding") == chosen
    assert response.headers["Vary"] == "Accept-Encoding"
    assert plain(response) == BYTES


def test_client_without_accept_encoding_gets_plain_content_that_varies():
    response = ask(middleware.compress()(lambda w, r: TEXT))
    assert response.body == BYTES
    assert response.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("accept", "offered", "chosen"),
    [
        ("gzip, deflate, br, zstd", None, "zstd"),
        ("gzip, deflate, br", None, "br"),
        ("gzip, deflate, br, zstd", ["gzip", "br"], "gzip"),
        ("gzip;q=0.9, br;q=1.0, zstd;q=0.5", None, "br"),
        ("*", ["br", "gzip"], "br"),
        ("*;q=0.1, gzip", None, "gzip"),
    ],
)
def test_coding_of_several_is_the_clients_favourite_then_the_servers(accept, offered, chosen):
    assert preferred_codings(accept, tuple(offered or ("zstd", "br", "gzip")))[0] == chosen
    if len(CODINGS) == 3:
        options = None if offered is None else {"codings": offered}
        response = through(lambda w, r: TEXT, accept, options)
        assert response.headers["Content-Encoding"] == chosen


def test_accept_encoding_in_several_lines_is_one_list(serve):
    server = serve(middleware.compress(["gzip"])(lambda w, r: TEXT))
    response = server.get("/", "Accept-Encoding: deflate\r\nAccept-Encoding: gzip;q=0.5\r\n")
    assert response["content-encoding"] == "gzip"


@pytest.mark.parametrize("kind", ["text/plain", "image/png"])
def test_client_that_refuses_plain_content_gets_everything_coded(kind):
    def handler(w, r):
        w.headers["Content-Type"] = kind
        return "x"

    for accept in ("gzip, identity;q=0", "gzip, *;q=0"):
        response = through(handler, accept)
        assert response.headers["Content-Encoding"] == "gzip"
        assert plain(response) == b"x"
        response = through(lambda w, r: w.write("x"), accept)
        assert (response.headers["Content-Encoding"], plain(response)) == ("gzip", b"x")
    assert through(handler, "br;q=0, identity;q=0", {"codings": ["gzip"]}).body == b"x"


# --- what is left alone ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Encoding", "br"),
        ("Content-Encoding", "identity"),
        ("Content-Range", "bytes 0-3599/9999"),
        ("Content-Digest", "sha-256=:AAAA:"),
        ("Repr-Digest", "sha-256=:AAAA:"),
        ("Digest", "sha-256=AAAA"),
        ("Cache-Control", "public, No-Transform"),
        ("Content-Type", "image/png"),
        ("Content-Type", "application/octet-stream"),
        ("Content-Type", ""),
    ],
)
@pytest.mark.parametrize("written", [False, True])
def test_response_with_such_a_field_is_left_alone(name, value, written):
    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        w.headers["ETag"] = '"x"'
        w.headers[name] = value
        if not written:
            return BYTES
        w.write(BYTES[:2000])
        w.flush()
        w.write(BYTES[2000:])

    response = through(handler)
    assert response.body == BYTES
    assert response.headers["ETag"] == '"x"'
    assert "Vary" not in response.headers


@pytest.mark.parametrize("status", [204, 205, 206, 304])
def test_status_without_whole_content_is_left_alone(status):
    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        w.write_header(status)
        if status == 206:
            w.write(TEXT)

    response = through(handler)
    assert response.status == status
    assert "Content-Encoding" not in response.headers


def test_head_says_that_content_varies_and_has_no_coding():
    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        w.headers["Content-Length"] = len(BYTES)

    response = through(handler, method="HEAD")
    assert response.headers["Vary"] == "Accept-Encoding"
    assert response.headers["Content-Length"] == str(len(BYTES))
    assert "Content-Encoding" not in response.headers
    response = through(lambda w, r: TEXT, method="HEAD")
    assert response.headers["Vary"] == "Accept-Encoding" and response.body == b""


@pytest.mark.parametrize("vary", ["*", "accept-encoding", "Origin, Accept-Encoding"])
def test_vary_that_says_it_already_is_left_alone(vary):
    def handler(w, r):
        w.headers["Vary"] = vary
        return TEXT

    assert through(handler).headers.get_all("Vary") == [vary]


@pytest.mark.parametrize(
    ("types", "kind", "coded"),
    [
        (["image/png"], "image/png", True),
        (["image/png"], "text/plain", False),
        (["image/*"], "IMAGE/PNG; x=y", True),
        (["*+json"], "application/ld+json", True),
        (["*"], "application/octet-stream", True),
        ([], "text/plain", False),
    ],
)
def test_types_can_be_chosen(types, kind, coded):
    def handler(w, r):
        w.headers["Content-Type"] = kind
        return TEXT

    response = through(handler, options={"types": types})
    assert ("Content-Encoding" in response.headers) == coded


def test_json_and_svg_are_compressed_by_default_and_images_are_not():
    def handler(w, r):
        w.headers["Content-Type"] = r.query.get("t")
        return TEXT

    around = middleware.compress()(handler)
    for kind in ("application/json", "image/svg%2Bxml", "text/event-stream", "application/wasm"):
        assert "Vary" in ask(around, target=f"/?t={kind}", Accept_Encoding="gzip").headers
    for kind in ("image/png", "video/mp4", "application/zip", "font/woff2"):
        assert "Vary" not in ask(around, target=f"/?t={kind}", Accept_Encoding="gzip").headers


# --- validators and lengths -----------------------------------------------------------------------


def test_strong_etag_becomes_weak_where_content_is_coded():
    def handler(w, r):
        w.headers["ETag"] = r.query.get("tag")
        w.headers["Accept-Ranges"] = "bytes"
        return TEXT

    around = middleware.compress()(handler)
    response = ask(around, target="/?tag=%22v1%22", Accept_Encoding="gzip")
    assert response.headers["ETag"] == 'W/"v1"'
    assert "Accept-Ranges" not in response.headers
    response = ask(around, target="/?tag=W/%22v1%22", Accept_Encoding="gzip")
    assert response.headers["ETag"] == 'W/"v1"'
    response = ask(around, target="/?tag=%22v1%22")
    assert response.headers["ETag"] == '"v1"'
    assert response.headers["Accept-Ranges"] == "bytes"


def test_not_modified_names_the_tag_that_the_client_has():
    def handler(w, r):
        w.headers["ETag"] = '"v1"'
        http.serve_content(w, r, "x.txt", None, BYTES)

    fresh = through(handler)
    assert (fresh.status, fresh.headers["ETag"]) == (200, 'W/"v1"')
    for sent in ('W/"v1"', '"v1"'):
        again = through(handler, If_None_Match=sent)
        assert (again.status, again.headers["ETag"]) == (304, sent)
        assert "Content-Encoding" not in again.headers


def test_declared_length_is_replaced_and_must_be_right():
    def handler(w, r):
        w.headers["Content-Length"] = r.query.get("n")
        if r.query.get("write"):
            w.write(TEXT)
            return None
        return TEXT

    around = middleware.compress()(handler)
    for target in (f"/?n={len(BYTES)}", f"/?n={len(BYTES)}&write=1"):
        assert plain(ask(around, target=target, Accept_Encoding="gzip")) == BYTES
    for target in ("/?n=5", "/?n=5000&write=1"):
        with pytest.raises(ValueError, match=r"declared Content-Length .* and wrote 3900 bytes"):
            ask(around, target=target, Accept_Encoding="gzip")


# --- streams --------------------------------------------------------------------------------------


@per_coding
@pytest.mark.parametrize("transport", ["socket", "stream"])
def test_flush_sends_all_that_was_written(serve, coding):
    go_on: runtime.Chan = runtime.Chan()
    lines = [f"line {i}: {'öx' * 20 * i}\n" for i in range(10)]

    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        for line in lines:
            w.write(line)
            w.flush()
            w.flush()
            go_on.recv(timeout=SAFETY)

    server = serve(middleware.compress()(handler))
    decode = decoder(coding).decompress
    with server.connect() as c:
        c.send(f"GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: {coding}\r\n\r\n")
        head = c.head()
        assert head["content-encoding"] == coding
        assert head["transfer-encoding"] == "chunked"
        for line in lines:
            got = b""
            while got != line.encode():
                got += decode(c.chunk())
                assert line.encode().startswith(got)
            go_on.send(None)
        rest = b""
        while data := c.chunk():
            rest += decode(data)
        assert rest == b""


@per_coding
def test_events_arrive_one_by_one(serve, coding):
    go_on: runtime.Chan = runtime.Chan()

    def handler(w, r):
        with http.event_stream(w, r) as stream:
            for i in range(5):
                stream.send(f"event {i}")
                go_on.recv(timeout=SAFETY)

    server = serve(middleware.compress()(handler))
    decode = decoder(coding).decompress
    with server.connect() as c:
        c.send(f"GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: {coding}\r\n\r\n")
        assert c.head()["content-encoding"] == coding
        for i in range(5):
            got = b""
            while not got.endswith(b"\n\n"):
                got += decode(c.chunk())
            assert got == f"data: event {i}\n\n".encode()
            go_on.send(None)


def test_flush_before_any_type_is_known_leaves_the_stream_as_it_is():
    def handler(w, r):
        w.flush()
        w.write(TEXT)

    response = through(handler)
    assert response.body == BYTES and "Content-Encoding" not in response.headers


def test_flush_of_a_short_declared_body_leaves_it_as_it_is():
    def handler(w, r):
        w.headers["Content-Length"] = 5
        w.write("he")
        w.flush()
        w.write("llo")

    response = through(handler)
    assert (response.body, response.headers["Content-Length"]) == (b"hello", "5")


ACTIONS = st.lists(
    st.one_of(
        st.just(None),  # a flush
        st.text(max_size=40),
        st.binary(max_size=40),
        st.integers(0, 200_000),  # so many bytes
    ),
    max_size=12,
)


@per_coding
@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS, min_size=st.sampled_from([0, 1, 30, 1024, 100_000]), typed=st.booleans())
def test_any_sequence_of_writes_and_flushes_comes_out_as_it_went_in(
    coding, actions, min_size, typed
):
    wrote = bytearray()
    flushed: list[tuple[int, int]] = []  # bytes written, bytes that were sent by then

    def handler(w, r):
        if typed:
            w.headers["Content-Type"] = "text/plain"
        for action in actions:
            if action is None:
                w.flush()
                flushed.append((len(wrote), len(recorder.body)))
                continue
            piece = BYTES * (action // len(BYTES)) if isinstance(action, int) else action
            w.write(piece)
            wrote.extend(piece.encode() if isinstance(piece, str) else piece)
            assert w.bytes_written == len(wrote)

    request = httptest.new_request("GET", "/", headers={"Accept-Encoding": coding})
    recorder = httptest.ResponseRecorder(request)
    recorder.respond(middleware.compress([coding], min_size=min_size)(handler)(recorder, request))
    response = recorder.response()
    assert plain(response) == wrote
    for written, sent in flushed:
        coded = response.headers.get("Content-Encoding")
        assert decoder(coded).decompress(response.body[:sent]) == wrote[:written]


def test_goroutines_that_write_at_once_lose_nothing(serve, procs):
    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        group = runtime.WaitGroup()

        def write(i):
            for _ in range(50):
                w.write(f"{i:04}\n")
                runtime.gosched()
            group.done()

        group.add(10)
        for i in range(10):
            runtime.go(write, i)
        group.wait()

    server = serve(middleware.compress(["gzip"])(handler))
    body = gzip.decompress(server.get("/", "Accept-Encoding: gzip\r\n").body).decode()
    assert sorted(body.split("\n")) == sorted([f"{i:04}" for i in range(10)] * 50 + [""])


# --- the rest of a ResponseWriter -----------------------------------------------------------------


@per_coding
@pytest.mark.parametrize("size", [2000, 50_000, 700_000])
def test_files_are_compressed_and_their_ranges_are_not(serve, tmp_path, coding, size):
    content = (BYTES * (size // len(BYTES) + 1))[:size]
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.png").write_bytes(content)
    server = serve(middleware.compress()(http.file_server(tmp_path)))
    accept = f"Accept-Encoding: {coding}\r\n"
    response = server.get("/a.txt", accept)
    assert response["content-encoding"] == coding
    assert response["vary"] == "Accept-Encoding"
    assert response["etag"].startswith("W/")
    assert response.all("accept-ranges") == []
    assert decoder(coding).decompress(response.body) == content
    again = server.get("/a.txt", accept + f"If-None-Match: {response['etag']}\r\n")
    assert (again.status, again["etag"]) == (304, response["etag"])
    part = server.get("/a.txt", accept + "Range: bytes=10-19\r\n")
    assert (part.status, part.body) == (206, content[10:20])
    assert part.all("content-encoding") == []
    image = server.get("/a.png", accept)
    assert image.body == content and image["content-length"] == str(size)


def test_send_file_after_a_write_and_of_what_is_wrong(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(BYTES)

    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        w.write("first ")
        with open(path, "rb") as file:
            w.send_file(file, 10)
            w.send_file(file.fileno(), 0, 5)
            with pytest.raises(ValueError, match="bytes from 0 are asked for"):
                w.send_file(file, 0, 10_000)
            with pytest.raises(ValueError, match="offset"):
                w.send_file(file, -1)
        read, write = os.pipe()
        with pytest.raises(ValueError, match="regular file"):
            w.send_file(read)
        os.close(read)
        os.close(write)
        w.write(" last")

    response = through(handler)
    assert response.headers["Content-Encoding"] == "gzip"
    assert plain(response) == b"first " + BYTES[10:] + BYTES[:5] + b" last"


def test_precompressed_file_is_sent_as_it_is(serve, tmp_path):
    (tmp_path / "a.txt").write_bytes(BYTES)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(BYTES, 9))
    files = http.file_server(tmp_path, precompressed=["gzip"])
    server = serve(middleware.compress()(files))
    response = server.get("/a.txt", "Accept-Encoding: gzip\r\n")
    assert response.body == (tmp_path / "a.txt.gz").read_bytes()
    assert response.all("vary") == ["Accept-Encoding"]


def test_hijack_informational_and_trailers_go_through(serve):
    def handler(w, r):
        if r.path == "/hijack":
            w.write_header(101)
            conn, _ = w.hijack()
            with conn:
                conn.write(b"raw")
            return None
        w.write_informational(103, {"Link": "</a.css>; rel=preload"})
        w.trailers["X-Sum"] = "7"
        http.ResponseController(w).set_write_deadline(SAFETY)
        http.ResponseController(w).set_read_deadline(None)
        assert http.ResponseController(w).flush() is None if r.query.get("flush") else True
        return TEXT if not r.query.get("flush") else w.write(TEXT)

    server = serve(middleware.compress(["gzip"])(handler))
    accept = "Accept-Encoding: gzip\r\n"
    with server.connect() as c:
        c.send(f"GET /hijack HTTP/1.1\r\nHost: t\r\n{accept}Connection: upgrade\r\n\r\n")
        assert c.head().status == 101
        assert c.rest() == b"raw"
    with server.connect() as c:
        c.send(f"GET / HTTP/1.1\r\nHost: t\r\n{accept}\r\n")
        assert c.head().status == 103
        head = c.head()
        assert (head["content-encoding"], head["trailer"]) == ("gzip", "X-Sum")
        body = b""
        while (size := int(c.line(), 16)) != 0:
            body += c.exactly(size)
            assert c.exactly(2) == b"\r\n"
        assert c.line() == b"X-Sum: 7"
        assert gzip.decompress(body) == BYTES


def test_what_does_not_go_together_raises():
    def handler(w, r):
        w.write(TEXT)
        for call, error in [
            (lambda: w.write_header(500), RuntimeError),
            (lambda: w.respond("more"), TypeError),
            (lambda: w.write(5), TypeError),
        ]:
            with pytest.raises(error):
                call()

    assert plain(through(handler)) == BYTES

    def twice(w, r):
        w.respond(TEXT)
        with pytest.raises(RuntimeError, match="complete"):
            w.write("more")
        with open(__file__) as file, pytest.raises(RuntimeError, match="complete"):
            w.send_file(file)

    assert plain(through(twice)) == BYTES
    late = []
    through(lambda w, r: late.append(w))
    through(lambda w, r: late.append(w) or TEXT)
    through(lambda w, r: late.append(w) or "short")
    for w in late[:2]:
        with pytest.raises(RuntimeError, match="has returned"):
            w.write("x")
    with pytest.raises(TypeError, match="either write or return"):
        through(lambda w, r: w.write("x") or "y")


@pytest.mark.parametrize("flush", [False, True])
def test_handler_that_fails_is_answered_or_cut(serve, flush):
    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        w.write(TEXT)
        if flush:
            w.flush()
        raise http.HTTPError(418)

    server = serve(middleware.compress()(handler))
    with server.connect() as c:
        c.send("GET / HTTP/1.1\r\nHost: t\r\nAccept-Encoding: gzip\r\n\r\n")
        head = c.head()
        if not flush:
            assert head.status == 418 and head.all("content-encoding") == []
        else:
            assert head["content-encoding"] == "gzip"
            assert not c.rest().endswith(b"0\r\n\r\n")  # nobody takes it for whole


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("text", ["short", TEXT])
def test_handler_that_ends_itself_has_answered(serve, flush, text):
    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        w.write(text)
        if flush:
            w.flush()
        runtime.goexit()

    server = serve(middleware.chain(handler, middleware.compress(["gzip"]), middleware.etag()))
    response = server.get("/", "Accept-Encoding: gzip\r\n")
    coded = response.all("content-encoding")
    assert bool(coded) == (flush or text is TEXT)
    assert (gzip.decompress(response.body) if coded else response.body) == text.encode()


def test_time_out_inside_and_outside(serve):
    around = middleware.chain(
        lambda w, r: TEXT if r.path == "/" else w.flush(),
        *(middleware.compress(["gzip"]), middleware.time_out(SAFETY)),
    )
    assert gzip.decompress(serve(around).get("/", "Accept-Encoding: gzip\r\n").body) == BYTES
    around = middleware.chain(
        lambda w, r: TEXT if r.path == "/" else w.write(TEXT),
        *(middleware.time_out(SAFETY), middleware.compress(["gzip"])),
    )
    server = serve(around)
    for target in ("/", "/write"):
        assert gzip.decompress(server.get(target, "Accept-Encoding: gzip\r\n").body) == BYTES


def test_access_log_tells_sizes_of_its_place(tmp_path):
    sizes: list[tuple[str, int]] = []

    def log(name):
        return middleware.access_log(
            lambda e: sizes.append((name, e.size)) or "", file=open(os.devnull, "w")
        )

    inner, outer = log("inner"), log("outer")
    around = middleware.chain(lambda w, r: TEXT, outer, middleware.compress(), inner)
    response = ask(around, Accept_Encoding="gzip")
    assert sizes == [("inner", len(BYTES)), ("outer", len(response.body))]
    for logger in (inner, outer):
        logger.flush()
        logger._file.close()


# --- real clients ---------------------------------------------------------------------------------


def test_curl_requests_httpx_and_aiohttp_decode_it(serve, tool):
    def handler(w, r):
        if r.path == "/stream":
            w.headers["Content-Type"] = "text/plain"
            for i in range(50):
                w.write(TEXT)
                if i % 7 == 0:
                    w.flush()
            return None
        return TEXT * 50

    server = serve(middleware.compress()(handler))
    want = BYTES * 50
    for path in ("/", "/stream"):
        url = server.url + path
        assert tool("curl", "-sS", "--compressed", url) == want
        response = requests.get(url, timeout=SAFETY)
        assert response.content == want and "Content-Encoding" in response.headers
        reply = httpx.get(url, timeout=SAFETY)
        assert reply.content == want and "Content-Encoding" in reply.headers

        async def fetch(url=url):
            async with aiohttp.ClientSession() as session, session.get(url) as reply:
                assert "Content-Encoding" in reply.headers
                return await reply.read()

        assert asyncio.run(fetch()) == want


@per_coding
@pytest.mark.parametrize("level", [1, 9])
def test_large_body_of_any_level_comes_whole(serve, coding, level):
    rnd = random.Random(level)
    content = "".join(rnd.choices(["lorem ", "ipsum ", "dolor ", "sit\n"], k=100_000)).encode()

    def handler(w, r):
        w.headers["Content-Type"] = "text/plain"
        return content if r.path == "/" else w.write(content)

    server = serve(middleware.compress(levels={coding: level})(handler))
    for target in ("/", "/write"):
        response = server.get(target, f"Accept-Encoding: {coding}\r\n")
        assert len(response.body) < len(content) / 2
        assert decoder(coding).decompress(response.body) == content


def test_many_at_once_are_not_mixed_up(serve, procs):
    def handler(w, r):
        text = f"{r.path} " * int(r.query.get("n"))
        if r.query.get("way") == "return":
            return text
        w.headers["Content-Type"] = "text/plain"
        for at in range(0, len(text), 1000):
            w.write(text[at : at + 1000])
            if r.query.get("way") == "flush":
                w.flush()

    server = serve(middleware.chain(handler, middleware.compress(), middleware.etag()))

    def client(i):
        for n in range(12):
            way, size = ("return", "write", "flush")[n % 3], 10 ** (n % 5)
            coding = CODINGS[(i + n) % len(CODINGS)]
            target = f"/{i}-{n}?way={way}&n={size}"
            response = server.get(target, f"Accept-Encoding: {coding}\r\n")
            coded = response.all("content-encoding")
            body = decoder(*coded or [None]).decompress(response.body)
            assert body.decode() == f"/{i}-{n} " * size

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(client, range(6)))


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"codings": "gzip"}, TypeError, "a collection of names"),
        ({"codings": []}, ValueError, "codings is empty"),
        ({"codings": ["deflate"]}, ValueError, "'deflate' is none of zstd, br, gzip"),
        ({"levels": {"x": 1}}, ValueError, "'x' is none of"),
        ({"levels": {"gzip": 10}}, ValueError, "the level of gzip is 1 to 9, not 10"),
        ({"levels": {"gzip": "best"}}, ValueError, "the level of gzip"),
        ({"min_size": -1}, ValueError, "min_size is a number of bytes"),
        ({"types": "text/html"}, TypeError, "a collection of media types"),
        ({"types": ["html"]}, ValueError, "'html' is no type"),
        ({"types": ["a*b"]}, ValueError, "'a\\*b' is no type"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(options, error, message):
    with pytest.raises(error, match=message):
        middleware.compress(**options)


@pytest.mark.parametrize(
    ("coding", "modules"), [("br", ["brotli"]), ("zstd", ["zstandard", "compression.zstd"])]
)
def test_coding_that_is_not_installed_is_not_offered_and_an_error_by_name(
    monkeypatch, coding, modules
):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'gosched\[compress\]'"):
        middleware.compress([coding])
    assert through(lambda w, r: TEXT, f"{coding}, gzip;q=0.1").headers["Content-Encoding"] == "gzip"
