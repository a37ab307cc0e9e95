"""http.middleware.etag: validators made of the content."""

from __future__ import annotations

import gzip
import re

import pytest

from runtime import _core, http, httptest
from runtime.http import middleware

BODY = "Some content, öäü. " * 100


def ask(handler, method="GET", target="/", **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    w = httptest.record(handler, httptest.new_request(method, target, headers=fields))
    return w.response()


def tagged(handler, options=None, **headers):
    return ask(middleware.etag(**(options or {}))(handler), **headers)


def in_pieces(w, r):
    for piece in (BODY[:7], BODY[7:500].encode(), BODY[500:]):
        w.write(piece)


def chosen(w, r):
    w.write_header(200)
    w.write(BODY)


@pytest.mark.parametrize(
    "handler",
    [
        lambda w, r: BODY,
        lambda w, r: BODY.encode(),
        lambda w, r: w.write(BODY),
        lambda w, r: w.write(bytearray(BODY.encode())),
        lambda w, r: w.respond(BODY),
        in_pieces,
        chosen,
    ],
)
def test_same_content_has_the_same_tag_and_is_not_sent_again(handler):
    first = tagged(handler)
    assert (first.status, first.text) == (200, BODY)
    assert first.headers["Content-Length"] == str(len(BODY.encode()))
    tag = first.headers["ETag"]
    assert tag == tagged(lambda w, r: BODY).headers["ETag"]
    assert re.fullmatch(r'W/"[0-9a-f]{16}"', tag)
    for sent in (tag, tag[2:], f'"other", {tag}', "*"):
        again = tagged(handler, If_None_Match=sent)
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        assert "Content-Type" not in again.headers and "Content-Length" not in again.headers
    assert tagged(handler, If_None_Match='"other"').text == BODY
    head = tagged(handler, method="HEAD")
    assert (head.status, head.headers["ETag"], head.body) == (200, tag, b"")
    assert tagged(handler, method="HEAD", If_None_Match=tag).status == 304


def test_other_content_has_another_tag():
    tags = {tagged(lambda w, r: "x" * n).headers["ETag"] for n in range(200)}  # noqa: B023
    tags |= {tagged(lambda w, r: {"n": n}).headers["ETag"] for n in range(200)}  # noqa: B023
    assert len(tags) == 400


def test_json_is_tagged_and_keeps_its_type():
    response = tagged(lambda w, r: {"a": [1, 2]})
    assert response.json() == {"a": [1, 2]}
    assert response.headers["Content-Type"] == "application/json"
    tag = response.headers["ETag"]
    assert tagged(lambda w, r: {"a": [1, 2]}, If_None_Match=tag).status == 304
    assert tagged(lambda w, r: w.respond([1]), If_None_Match=tag).json() == [1]


@pytest.mark.parametrize("size", [10, 200_000])
def test_strong_tag_is_strong(size):
    response = tagged(lambda w, r: "é" * size, {"strong": True})
    tag = response.headers["ETag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    assert tagged(lambda w, r: "é" * size, {"strong": True}, If_None_Match=tag).status == 304


def fields(text=BODY, **values):
    def handler(w, r):
        for name, value in values.items():
            w.headers[name.replace("_", "-")] = value
        return text

    return handler


def flushes(w, r):
    w.write(BODY[:10])
    w.flush()
    w.write(BODY[10:])


def status(number):
    def handler(w, r):
        w.write_header(number)
        return BODY

    return handler


@pytest.mark.parametrize(
    ("handler", "method", "tag"),
    [
        (fields(ETag='"mine"'), "GET", '"mine"'),
        (fields(Cache_Control="private, no-store"), "GET", None),
        (flushes, "GET", None),
        (status(201), "GET", None),
        (status(404), "GET", None),
        (lambda w, r: w.write_header(500) or w.write(BODY), "GET", None),
        (lambda w, r: BODY, "POST", None),
        (lambda w, r: BODY, "DELETE", None),
    ],
)
def test_other_responses_are_passed_on_as_they_are(handler, method, tag):
    response = tagged(handler, method=method, If_None_Match="*")
    assert response.text == BODY
    assert response.headers.get("ETag") == tag


@pytest.mark.parametrize("written", [False, True])
def test_response_over_the_size_gets_no_tag(written):
    def make(text):
        return lambda w, r: w.write(text) if written else text

    assert "ETag" in tagged(make("x" * 100), {"max_size": 100}).headers
    for text in ("x" * 101, "é" * 51):
        response = tagged(make(text), {"max_size": 100})
        assert (response.text, response.headers.get("ETag")) == (text, None)
    assert "ETag" not in tagged(make("x"), {"max_size": 0}).headers


def test_error_status_returned_and_nothing_at_all_get_no_tag():
    response = tagged(lambda w, r: 404, If_None_Match="*")
    assert (response.status, response.text) == (404, "Not Found\n")
    response = tagged(lambda w, r: w.respond(404), If_None_Match="*")
    assert (response.status, response.text) == (404, "Not Found\n")
    for value in (None, 204):
        response = tagged(lambda w, r: value, If_None_Match="*")  # noqa: B023
        assert (response.status, response.body) == (value or 200, b"")
    empty = tagged(lambda w, r: "")
    assert empty.headers["ETag"] == 'W/"ef46db3751d8e999"'  # XXH64 of nothing


def test_tag_is_xxh64():
    # The test vectors of the reference implementation, and some it has computed.
    for data, digest in [
        (b"a", "d24ec4f1a98c6e5b"),
        ("abc", "44bc2cf5ad770999"),
        (bytes(range(101)), "e99038495f85381e"),
    ]:
        assert _core._weak_etag(data) == f'W/"{digest}"'
    assert _core._weak_etag("é") == _core._weak_etag("é".encode())
    with pytest.raises(TypeError):
        _core._weak_etag(5)


def test_last_modified_goes_with_the_content():
    def handler(w, r):
        w.headers["Last-Modified"] = "Sun, 01 Mar 2026 00:00:00 GMT"
        w.headers["Cache-Control"] = "max-age=5"
        return BODY

    response = tagged(handler, If_None_Match="*")
    assert response.status == 304
    assert "Last-Modified" not in response.headers
    assert response.headers["Cache-Control"] == "max-age=5"


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("strong", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_with_compression_in_either_order(serve, written, strong, inside):
    around = [middleware.compress(["gzip"]), middleware.etag(strong=strong)]
    if inside:
        around.reverse()
    handler = (lambda w, r: w.write(BODY)) if written else (lambda w, r: BODY)
    server = serve(middleware.chain(handler, *around))
    accept = "Accept-Encoding: gzip\r\n"
    first = server.get("/", accept)
    assert first["content-encoding"] == "gzip"
    assert gzip.decompress(first.body) == BODY.encode()
    tag = first["etag"]
    assert tag.startswith('"') == (strong and inside)
    again = server.get("/", f"{accept}If-None-Match: {tag}\r\n")
    assert (again.status, again["etag"], again.body) == (304, tag, b"")
    assert again.all("content-encoding") == []
    plain = server.get("/")
    assert plain.body == BODY.encode()
    if inside:
        assert plain["etag"] != tag  # of other bytes
    else:
        assert plain["etag"].removeprefix("W/") == tag.removeprefix("W/")


def test_files_hijack_and_trailers_go_through(serve, tmp_path):
    (tmp_path / "a.txt").write_bytes(BODY.encode() * 50)
    files = http.file_server(tmp_path)

    def handler(w, r):
        if r.path == "/hijack":
            w.write_header(101)
            conn, _ = w.hijack()
            with conn:
                conn.write(b"raw")
            return None
        if r.path == "/trailers":
            w.write_informational(103)
            http.ResponseController(w).set_write_deadline(60)
            w.trailers["X-Sum"] = "7"
            return BODY
        return files(w, r)

    server = serve(middleware.etag()(handler))
    response = server.get("/a.txt")
    assert response.body == BODY.encode() * 50 and not response["etag"].startswith('W/"0')
    again = server.get("/a.txt", f"If-None-Match: {response['etag']}\r\n")
    assert again.status == 304
    assert server.get("/a.txt", "Range: bytes=0-3\r\n").body == b"Some"
    with server.connect() as c:
        c.send("GET /hijack HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\n\r\n")
        assert c.head().status == 101 and c.rest() == b"raw"
    with server.connect() as c:
        c.send("GET /trailers HTTP/1.1\r\nHost: t\r\n\r\n")
        assert c.head().status == 103
        assert c.head()["trailer"] == "X-Sum"


def test_what_does_not_go_together_raises():
    def handler(w, r):
        w.write("x")
        for call, error in [
            (lambda: w.write_header(200), RuntimeError),
            (lambda: w.respond("more"), TypeError),
            (lambda: w.write(5), TypeError),
        ]:
            with pytest.raises(error):
                call()
        assert (w.status, w.bytes_written) == (0, 1)
        w.flush()
        w.write("y")
        assert w.bytes_written == 2

    assert tagged(handler).text == "xy"
    with pytest.raises(TypeError, match="either write or return"):
        tagged(lambda w, r: w.write("x") or "y")
    with pytest.raises(ValueError, match="max_size is a number of bytes"):
        middleware.etag(max_size=-1)


def test_curl_is_told_that_nothing_has_changed(serve, tool, tmp_path):
    server = serve(middleware.etag()(lambda w, r: BODY))
    saved = str(tmp_path / "etag")
    args = ["curl", "-sS", "-w", "%{http_code}", "--etag-save", saved, "--etag-compare", saved]
    (tmp_path / "etag").write_text("")
    assert tool(*args, server.url) == BODY.encode() + b"200"
    assert tool(*args, server.url) == b"304"


@pytest.mark.parametrize("text", ["ASCII", b"bytes", "non-ASCII: é"])
def test_bodies_of_a_server(serve, text):
    """With the fields that decide about it, by the server's own writer."""
    answers = {
        "/returned": lambda w, r: text,
        "/written": lambda w, r: w.write(text),
        "/chosen": lambda w, r: w.write_header(200) or text,
        "/field": fields(text, X="y"),
        "/cached": fields(text, Cache_Control="max-age=5"),
        "/201": lambda w, r: w.write_header(201) or text,
        "/own": fields(text, ETag='"mine"'),
        "/no-store": fields(text, Cache_Control="no-store"),
    }
    data = text.encode() if isinstance(text, str) else text
    tag = _core._weak_etag(text)
    for size in (len(data) - 1, len(data)):
        around = middleware.etag(max_size=size)
        server = serve(lambda w, r: around(answers[r.path])(w, r))  # noqa: B023
        for path in answers:
            whole, other = server.get(path), server.get(path, 'If-None-Match: "other"\r\n')
            again = server.get(path, f"If-None-Match: {tag}\r\n")
            assert whole.body == other.body == data
            assert whole.all("etag") == other.all("etag")
            if path == "/own":
                assert whole["etag"] == '"mine"' and again.status == 200
            elif size < len(data) or path in ("/201", "/no-store"):
                assert whole.all("etag") == [] and again.body == data
            else:
                assert (whole["etag"], again.status, again.body) == (tag, 304, b"")
