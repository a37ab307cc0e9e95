"""error, not_found, redirect, basic_auth and JSON, over real connections."""

from __future__ import annotations

import base64
import json
import re

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from runtime import http
from runtime.http import HTTPStatus

TEXT = "text/plain; charset=utf-8"


def test_error_replies_with_plain_text(serve):
    def handler(w, r):
        w.headers["Content-Length"] = 3
        w.headers["Content-Type"] = "application/json"
        w.headers["Content-Encoding"] = "gzip"
        http.error(w, "no <b>é</b>", HTTPStatus.IM_A_TEAPOT if r.path == "/tea" else 503)

    server = serve(handler)
    for path, status in (("/", 503), ("/tea", 418)):
        r = server.get(path)
        assert (r.status, r.body.decode()) == (status, "no <b>é</b>\n")
        assert (r["content-type"], r["x-content-type-options"]) == (TEXT, "nosniff")
        assert r["content-encoding"] == "gzip"  # as in Go, for those who compress on the way


def test_not_found_is_a_handler(serve):
    assert http.not_found_handler() is http.not_found
    r = serve(http.not_found).get()
    assert (r.status, r.body, r["content-type"]) == (404, b"404 page not found\n", TEXT)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/x", "/x"),
        ("/x/", "/x/"),
        ("/x?q=/../&r", "/x?q=/../&r"),
        ("/x#/../y", "/x#/../y"),
        ("x", "/dir/x"),
        ("x/../y?q", "/dir/y?q"),
        ("../x", "/x"),
        ("../../../x/", "/x/"),
        ("./", "/dir/"),
        ("", "/dir/"),
        ("?q=1", "/dir/?q=1"),
        ("/a//b/./c/..", "/a/b"),
        ("http://other.test/a/../b", "http://other.test/a/../b"),
        ("//other.test/x", "//other.test/x"),
        ("mailto:a@b.test", "mailto:a@b.test"),
        ("///other.test/x", "/other.test/x"),
        ("/..//other.test", "/other.test"),
        (".//other.test", "/dir/other.test"),
        ("/\\other.test", "/%5Cother.test"),
        ("\\\\other.test", "/dir/%5C%5Cother.test"),
        ("/\t/other.test", "/%09/other.test"),
        ("\t//other.test", "/dir/%09/other.test"),
        (" //other.test", "/dir/%20/other.test"),
        ("java\nscript:x", "/dir/java%0Ascript:x"),
        ("/x\r\nSet-Cookie: a=b", "/x%0D%0ASet-Cookie:%20a=b"),
        ("/é?ü=\udc80", "/%C3%A9?%C3%BC=?"),
        ("/a%2Fb%20c", "/a%2Fb%20c"),
        ("1:2", "/dir/1:2"),
        ("/<\"'>", "/%3C%22'%3E"),
        ("/[x]", "/[x]"),
    ],
)
def test_redirect_makes_the_url_absolute_and_safe(serve, url, location):
    r = serve(lambda w, r: http.redirect(w, r, url, 302)).get("/dir/page?q")
    assert (r.status, r["location"]) == (302, location)
    assert r["content-type"] == "text/html; charset=utf-8"
    href = location.replace("&", "&amp;").replace("'", "&#39;")
    assert r.body.decode() == f'<a href="{href}">Found</a>.\n\n'


@given(st.text(max_size=40))
def test_redirect_cannot_be_made_to_leave_or_to_end_the_header(url):
    class Writer:
        def __init__(self):
            self.headers = http.Headers()

        def write_header(self, status):
            assert status == 307

        def write(self, data):
            assert re.fullmatch(r'<a href="[^"<>]*">Temporary Redirect</a>\.\n\n', data)

    class Request:
        method, raw_path, stripped = "GET", "/a/b", ""

    w = Writer()
    http.redirect(w, Request(), "/" + url.lstrip("/"), 307)
    assert re.fullmatch(r"/([^/\\\x00-\x20\x7f-\uffff][!-~]*)?", w.headers["Location"])


def test_redirect_body_is_for_get_only_and_where_no_type_is_set(serve):
    def typed(w, r):
        w.headers["Content-Type"] = "application/json"
        http.redirect(w, r, "/x", HTTPStatus.SEE_OTHER)

    server = serve(http.redirect_handler("/x", 308))
    r = server.ask("HEAD / HTTP/1.1\r\nHost: t\r\n\r\n", "HEAD")
    assert (r.status, r["content-type"]) == (308, "text/html; charset=utf-8")
    r = server.ask("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
    assert (r.status, r["location"], r.all("content-type"), r.body) == (308, "/x", [], b"")
    r = serve(typed).get()
    assert (r.status, r["content-type"], r.body) == (303, "application/json", b"")


@pytest.mark.parametrize("code", [200, 299, 400, 0, 1000])
def test_redirect_with_another_status_is_refused(serve, code):
    with pytest.raises(ValueError, match="300 to 399"):
        http.redirect_handler("/", code)
    assert serve(lambda w, r: http.redirect(w, r, "/", code)).get().status == 500


def test_redirect_is_followed_by_clients(serve):
    mux = http.ServeMux()
    mux.handle("/start", lambda w, r: http.redirect(w, r, "tree?é=1", 303))
    mux.handle("/tree/", lambda w, r: {"path": r.path, "é": r.query.get("é")})
    server = serve(mux)
    with requests.Session() as session:
        session.trust_env = False
        got = session.get(f"{server.url}/start", timeout=60)
    assert got.json() == {"path": "/tree/", "é": "1"}
    assert [r.status_code for r in got.history] == [303, 307]


# --- basic_auth -----------------------------------------------------------------------------------


def basic(pair: bytes) -> str:
    return "Basic " + base64.b64encode(pair).decode()


@pytest.mark.parametrize(
    ("field", "pair"),
    [
        (basic(b"Aladdin:open sesame"), ["Aladdin", "open sesame"]),
        (basic(b"a:b:c"), ["a", "b:c"]),
        (basic(b":"), ["", ""]),
        (basic("é:ü".encode()), ["é", "ü"]),
        (basic("é:ü".encode("latin-1")), ["é", "ü"]),
        ("bAsIc YTpi", ["a", "b"]),
        (None, None),
        ("", None),
        ("Basic", None),
        ("Basic ", None),
        ("BasicYTpi", None),
        ("Bearer YTpi", None),
        ("Basic YTpi!", None),
        ("Basic YTp", None),
        ("Basic Y T p i", None),
        (basic(b"no colon"), None),
    ],
)
def test_basic_auth_of_a_field(serve, field, pair):
    server = serve(lambda w, r: [r.basic_auth()])
    line = "" if field is None else f"Authorization: {field}\r\n"
    assert json.loads(server.get("/", line).body) == [pair]


def test_basic_auth_by_clients(serve, tool):
    server = serve(lambda w, r: list(r.basic_auth()))
    out = tool("curl", "-sS", "--noproxy", "*", "-u", "us er:p:w é", server.url)
    assert json.loads(out) == ["us er", "p:w é"]
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(server.url, auth=("u", "p"), timeout=60).json() == ["u", "p"]


# --- JSON -----------------------------------------------------------------------------------------


def post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"NaN", b"[Infinity]", b"[-Infinity]", b"\xff", b'"\xe9"', "1".encode("utf-16"),
        b"\xef\xbb\xbf{}", b"[" * 100_000, b"1 2", b"{'a': 1}", b"9" * 10_000,
    ],
    ids=range(13),
)  # fmt: skip
def test_json_that_is_none_is_a_400_that_tells_the_program_why(serve, body):
    seen = []

    def handler(w, r):
        try:
            r.json()
        except http.BadRequestError as e:
            seen.append(str(e))
            raise

    r = serve(handler).ask(post(body))
    assert (r.status, r.body) == (400, b"Bad Request\n")
    assert seen[0].startswith("the body is not JSON: ")


def test_json_too_large_is_a_413(serve):
    server = serve(lambda w, r: r.json(), max_body_bytes=100)
    assert server.ask(post(json.dumps(["x" * 200]).encode())).status == 413
    chunked = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + (
        b"80\r\n" + b"[" * 128 + b"\r\n"
    )
    assert server.ask(chunked).status == 413


def test_returned_json_is_utf8_and_valid_or_a_500(serve, caplog):
    values = [{"é": ["😀", None, True, 1.5]}, [float("nan")], [float("inf")], {"a": object()}]
    server = serve(lambda w, r: values[int(r.path[1:])])
    r = server.get("/0")
    assert (r.status, r["content-type"]) == (200, "application/json")
    assert r.body.decode() == '{"é":["😀",null,true,1.5]}'
    for i in (1, 2, 3):
        r = server.get(f"/{i}")
        assert (r.status, r.body) == (500, b"Internal Server Error\n")


def test_json_with_a_status_is_returned_after_write_header(serve):
    def handler(w, r):
        w.write_header(HTTPStatus.CREATED)
        return {"id": 1}

    r = serve(handler).get()
    assert (r.status, r.body, r["content-type"]) == (201, b'{"id":1}', "application/json")
