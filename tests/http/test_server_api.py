"""Request, Body, Headers, ResponseWriter and return values, as handlers use them."""

from __future__ import annotations

import contextvars
import email.utils
import gc
import json
import logging
import time
import weakref
from typing import Any

import pytest

import runtime
from runtime import http

SAFETY = 60.0


def get(target: str, fields: str = "", version: str = "1.1") -> str:
    return f"GET {target} HTTP/{version}\r\nHost: test\r\n{fields}\r\n"


def post(body: bytes, fields: str = "", target: str = "/") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


def records(caplog) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.name == "runtime.http"]


# --- Request --------------------------------------------------------------------------------------


def seen(serve, request: str | bytes, *names: str) -> dict[str, Any]:
    """What these attributes of the request are, in the handler."""
    got: dict[str, Any] = {}

    def handler(w, r):
        got.update({name: getattr(r, name) for name in names})
        got["again"] = {name: getattr(r, name) for name in names}

    with serve(handler).connect() as c:
        assert c.send(request).response().status == 200
    assert got.pop("again") == got
    return got


def test_request_line_is_split(serve):
    assert seen(
        serve,
        get("/a%20b/%C3%A9?x=1&y=%20"),
        *("method", "path", "raw_path", "raw_query", "target", "proto", "host"),
    ) == {
        "method": "GET",
        "path": "/a b/é",
        "raw_path": "/a%20b/%C3%A9",
        "raw_query": "x=1&y=%20",
        "target": "/a%20b/%C3%A9?x=1&y=%20",
        "proto": "HTTP/1.1",
        "host": "test",
    }


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/", "/"),
        ("/%", "/%"),
        ("/%4", "/%4"),
        ("/%zz%41", "/%zzA"),
        ("/%ff", "/\ufffd"),
        ("/%00", "/\0"),
        ("/a+b", "/a+b"),
        ("/%2F", "//"),
        ("*", "*"),
    ],
)
def test_path_is_decoded(serve, raw, path):
    method = "OPTIONS" if raw == "*" else "GET"
    got = seen(serve, f"{method} {raw} HTTP/1.1\r\nHost: t\r\n\r\n", "path", "raw_path")
    assert got == {"path": path, "raw_path": raw}


def test_absolute_target_gives_host_and_path(serve):
    got = seen(
        serve,
        "GET http://other:81?q HTTP/1.1\r\nHost: test\r\n\r\n",
        *("host", "path", "raw_path", "raw_query", "target"),
    )
    assert got == {
        "host": "other:81",
        "path": "/",
        "raw_path": "/",
        "raw_query": "q",
        "target": "http://other:81?q",
    }


def test_proto_and_host_of_http_1_0(serve):
    got = seen(serve, "GET / HTTP/1.0\r\n\r\n", "proto", "host")
    assert got == {"proto": "HTTP/1.0", "host": ""}


def test_query_is_values(serve):
    query = seen(serve, get("/?a=1&b=%C3%A9&a=2&c=&d&e=x+y"), "query")["query"]
    assert isinstance(query, http.Values)
    assert query == {"a": ["1", "2"], "b": ["é"], "c": [""], "d": [""], "e": ["x y"]}
    assert (query.get("a"), query.get("z"), query.get("z", "-")) == ("1", None, "-")
    assert (query.get_all("a"), query.get_all("z")) == (["1", "2"], [])


def test_query_is_empty_without_one(serve):
    assert seen(serve, get("/"), "query", "raw_query") == {"query": {}, "raw_query": ""}


def test_query_with_too_many_fields_is_400(serve):
    server = serve(lambda w, r: str(len(r.query)), max_target_bytes=60000)
    assert server.get("/?" + "&".join(["a"] * 10_000)).status == 200
    assert server.get("/?" + "&".join(["a"] * 10_001)).status == 400


def test_request_headers(serve):
    fields = "X-One: 1\r\nx-two:  a b \r\nX-ONE: \xe9\r\nEmpty:\r\n"
    request = get("/", fields).encode("latin-1")
    headers = seen(serve, request, "headers")["headers"]
    # They outlive the request.
    assert headers["x-one"] == "1"
    assert headers.get_all("X-one") == ["1", "é"]
    assert headers.get("X-TWO") == "a b"
    assert headers["empty"] == ""
    assert "x-two" in headers and "x-three" not in headers
    assert headers.items() == [
        ("Host", "test"),
        ("X-One", "1"),
        ("x-two", "a b"),
        ("X-ONE", "é"),
        ("Empty", ""),
    ]
    assert list(headers) == ["Host", "X-One", "x-two", "X-ONE", "Empty"]
    assert len(headers) == 5
    with pytest.raises(KeyError, match="nope"):
        headers["nope"]


def test_request_with_more_headers_than_are_kept_inline(serve):
    fields = "".join(f"N{i}: {i}\r\n" for i in range(100))
    headers = seen(serve, get("/", fields), "headers")["headers"]
    assert [headers[f"n{i}"] for i in range(100)] == [str(i) for i in range(100)]


def test_remote_addr_is_the_peers(serve):
    server = serve(lambda w, r: r.remote_addr)
    with server.connect() as c:
        here = ":".join(map(str, c.sock.getsockname()))
        assert c.send(get("/")).response().body.decode() == here


def test_request_repr(serve):
    assert serve(lambda w, r: repr(r)).get("/x?y").body == b"<Request GET /x?y>"


def test_content_length_of_each_kind(serve):
    server = serve(lambda w, r: str(r.content_length))
    assert server.get().body == b"0"
    assert server.ask(post(b"abc")).body == b"3"
    chunked = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert server.ask(chunked).body == b"-1"


def test_path_value_and_pattern(serve):
    mux = http.ServeMux()

    @mux.handle("GET /items/{id}/{rest...}")
    def item(w, r):
        return [r.path_value("id"), r.path_value("rest"), r.path_value("no"), r.pattern]

    got = json.loads(serve(mux).get("/items/a%2Fb/c/d").body)
    assert got == ["a/b", "c/d", "", "GET /items/{id}/{rest...}"]


def test_path_values_without_mux(serve):
    def handler(w, r):
        before = [r.path_value("x"), r.pattern, dict(r.path_values)]
        r.path_values = {"x": "1"}
        r.pattern = "/p"
        with pytest.raises(TypeError, match="must be a dict"):
            r.path_values = None
        return [*before, r.path_value("x"), r.pattern]

    assert json.loads(serve(handler).get().body) == ["", "", {}, "1", "/p"]


def test_attributes_cannot_be_set(serve):
    def handler(w, r):
        for name in ("method", "path", "headers", "nonsense"):
            with pytest.raises(AttributeError):
                setattr(r, name, "x")

    assert serve(handler).get().status == 200


# --- bodies ---------------------------------------------------------------------------------------


def test_body_read_whole_and_then_empty(serve):
    def handler(w, r):
        return [len(r.body.read()), len(r.body.read()), len(r.body.read(5))]

    assert json.loads(serve(handler).ask(post(b"x" * 100_000)).body) == [100_000, 0, 0]


def test_body_read_in_parts(serve):
    def handler(w, r):
        parts = [r.body.read(0), r.body.read(3), r.body.read(None), r.body.read(-1)]
        return [p.decode() for p in parts]

    assert json.loads(serve(handler).ask(post(b"abcdef")).body) == ["", "abc", "def", ""]


def test_body_is_iterable(serve):
    data = bytes(range(256)) * 1000

    def handler(w, r):
        assert iter(r.body) is r.body
        return b"".join(r.body)

    assert serve(handler).ask(post(data)).body == data


def test_body_read_gives_what_is_there(serve):
    pieces = []

    def handler(w, r):
        w.flush()
        while piece := r.body.read(100):
            pieces.append(piece)
            w.write("ok")
            w.flush()

    with serve(handler).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\n").head()
        for part in (b"ab", b"c", b"def"):
            assert c.send(part).chunk() == b"ok"
        assert c.chunk() == b""
    assert pieces == [b"ab", b"c", b"def"]


@pytest.mark.parametrize("args", [(1, 2), ("x",), (1.5,)])
def test_body_read_with_wrong_arguments(serve, args):
    def handler(w, r):
        with pytest.raises(TypeError):
            r.body.read(*args)

    assert serve(handler).ask(post(b"x")).status == 200


def test_json_body(serve):
    server = serve(lambda w, r: {"got": r.json()})
    assert json.loads(server.ask(post(b'{"a": [1, null, "\xc3\xa9"]}')).body) == {
        "got": {"a": [1, None, "é"]}
    }


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_json_body_that_is_none_is_400_and_not_logged(serve, body, caplog):
    assert serve(lambda w, r: r.json()).ask(post(body)).status == 400
    assert records(caplog) == []


def test_form_body(serve):
    server = serve(lambda w, r: [r.form(), r.form() is r.form()])
    kind = "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n"
    got = server.ask(post(b"a=1&b=x+y&a=%C3%A9", kind, "/?a=q&z=2"))
    assert json.loads(got.body) == [{"a": ["1", "é", "q"], "b": ["x y"], "z": ["2"]}, True]
    assert server.ask(post(b"a=\xff", kind)).status == 400
    # Another type is left in the body.
    assert json.loads(server.ask(post(b"a=1")).body) == [{}, True]


# --- the response ---------------------------------------------------------------------------------


def test_response_has_date_and_no_server(serve):
    before = int(time.time())
    r = serve(lambda w, r: "x").get()
    when = email.utils.parsedate_to_datetime(r["date"])
    assert before - 1 <= when.timestamp() <= time.time() + 1
    assert r["date"] == email.utils.format_datetime(when, usegmt=True)
    assert r.all("server") == []
    assert r.all("connection") == []


def test_date_of_the_handler_replaces_ours(serve):
    def handler(w, r):
        w.headers["Date"] = "Thu, 01 Jan 1970 00:00:00 GMT"

    assert serve(handler).get()["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"


TEXT, BINARY, JSON = "text/plain; charset=utf-8", "application/octet-stream", "application/json"


@pytest.mark.parametrize(
    ("value", "status", "kind", "body"),
    [
        ("héllo", 200, TEXT, "héllo".encode()),
        ("", 200, TEXT, b""),
        (b"\0\xff", 200, BINARY, b"\0\xff"),
        (b"", 200, None, b""),
        ({"é": [1, None]}, 200, JSON, '{"é":[1,null]}'.encode()),
        ([], 200, JSON, b"[]"),
        ({}, 200, JSON, b"{}"),
        (None, 200, None, b""),
        (201, 201, None, b""),
        (204, 204, None, b""),
        (304, 304, None, b""),
        (404, 404, TEXT, b"Not Found\n"),
        (500, 500, TEXT, b"Internal Server Error\n"),
        (299, 299, None, b""),
        (499, 499, None, b""),
    ],
)
def test_returned_value_is_the_response(serve, value, status, kind, body):
    r = serve(lambda w, r: value).get()
    assert (r.status, r.body) == (status, body)
    assert r.all("content-type") == ([kind] if kind else [])
    assert r.all("content-length") == ([] if status in (204, 304) else [str(len(body))])


@pytest.mark.parametrize("size", [16384, 16385, 65536, 65537, 300_000])
@pytest.mark.parametrize("kind", ["str", "bytes"])
def test_returned_body_of_any_size_has_a_length(serve, size, kind):
    r = serve(lambda w, r: "é" * (size // 2) if kind == "str" else bytes(size)).get()
    assert r["content-length"] == str(size // 2 * 2 if kind == "str" else size)


def test_returned_content_type_can_be_chosen(serve):
    def handler(w, r):
        w.headers["content-type"] = "text/html"
        return "<p>"

    assert serve(handler).get()["Content-Type"] == "text/html"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), TypeError),
        (True, TypeError),
        (1.5, TypeError),
        ((), TypeError),
        (bytearray(b"x"), TypeError),
        (0, ValueError),
        (100, ValueError),
        (600, ValueError),
        (-1, ValueError),
        (10**30, (OverflowError, ValueError)),
        ({1: object()}, TypeError),
        ("\ud800", UnicodeEncodeError),
        (["\ud800"], UnicodeEncodeError),
    ],
)
def test_returned_value_that_is_none_is_500_and_one_record(serve, value, error, caplog):
    server = serve(lambda w, r: value)
    with server.connect() as c:
        assert c.send(get("/")).response().status == 500
        assert c.send(get("/")).response().status == 500
    assert len(records(caplog)) == 2
    exc = records(caplog)[0].exc_info
    assert exc is not None and isinstance(exc[1], error)


@pytest.mark.parametrize("value", ["y", 404])
def test_response_both_written_and_returned_is_an_error(serve, value, caplog):
    def handler(w, r):
        w.write("x")
        return value

    assert serve(handler).get().status == 500
    assert "either write or return" in caplog.text


def test_two_statuses_are_an_error(serve, caplog):
    def handler(w, r):
        w.write_header(201)
        return 404

    assert serve(handler).get().status == 500
    assert "either write or return" in caplog.text


def test_status_chosen_before_a_returned_body_is_sent_with_it(serve):
    def handler(w, r):
        w.write_header(201)
        return {"id": 7}

    r = serve(handler).get()
    assert (r.status, r.body, r["content-type"]) == (201, b'{"id":7}', "application/json")


def test_write_of_each_kind(serve):
    def handler(w, r):
        for piece in ("é", b"b", bytearray(b"c"), memoryview(b"d"), "", b""):
            assert w.write(piece) is None

    r = serve(handler).get()
    assert (r.body, r["content-type"], r["content-length"]) == ("é".encode() + b"bcd", TEXT, "5")


@pytest.mark.parametrize("value", [1, None, ["x"], object()])
def test_write_of_another_type_raises(serve, value):
    def handler(w, r):
        with pytest.raises(TypeError, match="str or bytes"):
            w.write(value)
        return "fine"

    assert serve(handler).get().body == b"fine"


def test_write_text_that_is_not_unicode_raises(serve):
    def handler(w, r):
        w.write("a")
        with pytest.raises(UnicodeEncodeError):
            w.write("\udcff")
        w.write("b")

    assert serve(handler).get().body == b"ab"


def test_many_small_writes_are_one_response(serve):
    def handler(w, r):
        for i in range(1000):
            w.write(f"{i},")

    r = serve(handler).get()
    body = "".join(f"{i}," for i in range(1000)).encode()
    assert (r.body, r["content-length"]) == (body, str(len(body)))


@pytest.mark.parametrize("piece", [1, 1000, 16384, 16385, 65536, 65537, 1 << 20])
def test_writes_beyond_the_buffer_are_streamed(serve, piece):
    def handler(w, r):
        for i in range(3 + (70_000 // piece)):
            w.write(bytes([i % 251]) * piece)

    r = serve(handler).get()
    assert r["transfer-encoding"] == "chunked"
    n = 3 + (70_000 // piece)
    assert r.body == b"".join(bytes([i % 251]) * piece for i in range(n))


def test_one_write_larger_than_the_buffer(serve):
    r = serve(lambda w, r: w.write(b"x" * 5_000_000)).get()
    assert r.body == b"x" * 5_000_000


def test_status_and_write_header(serve):
    def handler(w, r):
        assert w.status == 0
        w.write_header(201)
        assert w.status == 201
        with pytest.raises(RuntimeError, match="begun already, with status 201"):
            w.write_header(500)
        w.write("made")
        with pytest.raises(RuntimeError, match="begun already"):
            w.write_header(500)

    r = serve(handler).get()
    assert (r.status, r.reason, r.body) == (201, "Created", b"made")


def test_write_header_after_write_raises(serve):
    def handler(w, r):
        w.write("x")
        with pytest.raises(RuntimeError, match="begun already, with status 200"):
            w.write_header(404)

    assert serve(handler).get().status == 200


@pytest.mark.parametrize("status", [0, 1, 100, 102, 199, 1000, -5])
def test_write_header_out_of_range_raises(serve, status):
    def handler(w, r):
        with pytest.raises(ValueError, match="200 to 999"):
            w.write_header(status)

    assert serve(handler).get().status == 200


@pytest.mark.parametrize("status", ["200", 2.0, None])
def test_write_header_of_another_type_raises(serve, status):
    def handler(w, r):
        with pytest.raises(TypeError):
            w.write_header(status)

    assert serve(handler).get().status == 200


def test_status_without_a_name(serve):
    r = serve(lambda w, r: w.write_header(799)).get()
    assert (r.status, r.reason) == (799, "")


def test_response_headers(serve):
    def handler(w, r):
        w.headers["X-A"] = "1"
        w.headers.add("Set-Cookie", "a=1")
        w.headers.add("set-cookie", "b=2")
        w.headers.set("x-a", 2)
        w.headers["X-Latin"] = "é"
        w.headers["X-Gone"] = "x"
        w.headers.delete("x-GONE")
        w.headers["X-Gone2"] = "x"
        del w.headers["x-gone2"]
        with pytest.raises(KeyError):
            del w.headers["x-gone2"]
        w.headers.delete("never")
        assert w.headers is w.headers
        assert "x-latin" in w.headers and len(w.headers) == 4

    r = serve(handler).get()
    assert [f for f in r.fields if f[0] not in ("Date", "Content-Length")] == [
        ("Set-Cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-a", "2"),
        ("X-Latin", "é"),
    ]


BAD = ["\r", "\n", "\0", "\x7f", "\x01", "\r\nX: y"]


@pytest.mark.parametrize("bad", BAD)
def test_header_injection_is_impossible(bad):
    headers = http.Headers()
    for value in (bad, f"a{bad}b", f"{bad}b", f"b{bad}"):
        for put in (headers.set, headers.add, headers.__setitem__):
            with pytest.raises(ValueError, match="cannot carry"):
                put("X", value)
            with pytest.raises(ValueError, match="not a valid header name"):
                put(value, "x")
    assert headers.items() == []


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", "é", "\u20ac", "(a)", "a\t"])
def test_header_name_must_be_a_token(name):
    with pytest.raises(ValueError, match="not a valid header name"):
        http.Headers()[name] = "x"


def test_header_value_must_be_latin_1_text():
    headers = http.Headers()
    with pytest.raises(ValueError, match="cannot carry"):
        headers["a"] = "\u20ac"
    for value in (None, b"x", 1.5, ["x"]):
        with pytest.raises(TypeError):
            headers["a"] = value
    with pytest.raises(TypeError):
        headers[b"a"] = "x"
    with pytest.raises(TypeError):
        headers.set("a")
    with pytest.raises(TypeError):
        headers.get()
    with pytest.raises(TypeError):
        http.Headers({"a": "b"})


def test_headers_alone():
    headers = http.Headers()
    for i in range(100):
        headers.add(f"n{i % 10}", str(i))
    assert len(headers) == 100
    assert headers.get_all("N3") == [str(i) for i in range(3, 100, 10)]
    headers["N3"] = "only"
    assert headers.get_all("n3") == ["only"] and len(headers) == 91
    assert repr(http.Headers()) == "<Headers []>"
    assert headers.get("zz") is None and headers.get("zz", 5) == 5


# --- framing the handler asked for ----------------------------------------------------------------


def test_declared_length_streams_without_chunks(serve):
    def handler(w, r):
        w.headers["Content-Length"] = 6
        for piece in ("ab", "cd", "ef"):
            w.write(piece)
            w.flush()

    with serve(handler).connect() as c:
        for _ in range(2):
            r = c.send(get("/")).response()
            assert (r["content-length"], r.body) == ("6", b"abcdef")


def test_declared_length_that_is_short_cuts_the_connection(serve, caplog):
    def handler(w, r):
        w.headers["Content-Length"] = 6
        w.write("abc")
        w.flush()

    with serve(handler).connect() as c:
        assert c.send(get("/")).head()["content-length"] == "6"
        assert c.rest() == b"abc"
    assert len(records(caplog)) == 1 and "declared Content-Length 6 and wrote 3" in caplog.text


def test_declared_length_that_is_exceeded_raises(serve, caplog):
    def handler(w, r):
        w.headers["Content-Length"] = 3
        w.write("abc")
        w.flush()
        with pytest.raises(ValueError, match="more was written than the declared"):
            w.write("d")
        raise KeyError("seen")

    with serve(handler).connect() as c:
        c.send(get("/")).head()
        assert c.rest() == b"abc"
    assert "seen" in caplog.text


@pytest.mark.parametrize("body", ["ab", "abcd"])
def test_declared_length_that_is_wrong_before_anything_was_sent_is_500(serve, body, caplog):
    def handler(w, r):
        w.headers["Content-Length"] = 3
        w.write(body)

    with serve(handler).connect() as c:
        assert c.send(get("/")).response().status == 500
        assert c.send(get("/")).response().status == 500
    assert len(records(caplog)) == 2


@pytest.mark.parametrize("value", ["x", "", "-1", "1 2", "1" * 30, "+1"])
def test_declared_length_that_is_no_number_is_500(serve, value, caplog):
    def handler(w, r):
        w.headers["Content-Length"] = value
        w.write("x")

    assert serve(handler).get().status == 500
    assert "must be a number" in caplog.text


def test_handlers_framing_fields_are_ours(serve):
    def handler(w, r):
        w.headers["Transfer-Encoding"] = "chunked"
        w.headers["Connection"] = "keep-alive, X-Hop"
        w.write("x")

    r = serve(handler).get()
    assert (r.all("transfer-encoding"), r.all("connection"), r.body) == ([], [], b"x")


def test_handler_can_close_the_connection(serve):
    def handler(w, r):
        w.headers["Connection"] = "close"
        return "bye"

    with serve(handler).connect() as c:
        assert c.send(get("/")).response()["connection"] == "close"
        assert c.ended()


def test_flush_sends_piece_by_piece(serve):
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        w.flush()
        for i in range(3):
            gate.recv()
            w.write(f"piece {i}")
            w.flush()

    with serve(handler).connect() as c:
        assert c.send(get("/")).head()["transfer-encoding"] == "chunked"
        for i in range(3):
            gate.send(None, timeout=SAFETY)
            assert c.chunk() == f"piece {i}".encode()
        assert c.chunk() == b""
        assert c.send(get("/")).head().status == 200
        gate.send(None)
        gate.send(None)
        gate.send(None)


def test_headers_changed_after_flush_have_no_effect(serve):
    def handler(w, r):
        w.headers["A"] = "1"
        w.flush()
        w.headers["B"] = "2"
        with pytest.raises(RuntimeError):
            w.write_header(500)
        w.write("x")

    r = serve(handler).get()
    assert (r["a"], r.all("b"), r.status) == ("1", [], 200)


@pytest.mark.parametrize("how", ["return", "write", "flush", "large", "declared"])
@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_body_for_head_204_and_304(serve, how, status, method):
    size = 200_000 if how == "large" else 10

    def handler(w, r):
        if how == "declared":
            w.headers["Content-Length"] = size
        if how == "return":
            return bytes(size) if status == 200 else status
        w.write_header(status)
        if how == "flush":
            w.flush()
        w.write(bytes(size))

    with serve(handler).connect() as c:
        for _ in range(2):
            c.send(f"{method} / HTTP/1.1\r\nHost: t\r\n\r\n")
            r = c.response(method)
            assert r.status == status
            if status != 200:
                assert r.all("content-length") + r.all("transfer-encoding") == []
            elif how in ("return", "write", "declared"):
                assert r["content-length"] == str(size)
        # Nothing was left over that would now be taken for a response.
        c.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").response()
        assert c.ended()


# --- errors ---------------------------------------------------------------------------------------


def test_exception_is_500_without_a_word_and_one_record(serve, caplog):
    def handler(w, r):
        w.headers["X-Secret"] = "1"
        w.write("secret")
        raise ZeroDivisionError("secret")

    with serve(handler).connect() as c:
        for _ in range(2):
            r = c.send(get("/x?y=1")).response()
            assert (r.status, r.body) == (500, b"Internal Server Error\n")
            assert r.all("x-secret") == []
    assert len(records(caplog)) == 2
    record = records(caplog)[0]
    assert record.getMessage() == "a handler failed (GET /x?y=1)"
    assert record.exc_info is not None and record.exc_info[0] is ZeroDivisionError


def test_exception_after_the_head_cuts_the_connection(serve, caplog):
    def handler(w, r):
        w.write("begun")
        w.flush()
        raise ZeroDivisionError

    with serve(handler).connect() as c:
        c.send(get("/") + get("/")).head()
        assert c.chunk() == b"begun"
        assert c.rest() == b""
    assert [r.getMessage() for r in records(caplog)] == [
        "a handler failed after it had begun to respond (GET /)"
    ]


@pytest.mark.parametrize("status", [400, 403, 418, 430, 499, 503, 599])
def test_http_error_is_its_status_and_not_logged(serve, status, caplog):
    def handler(w, r):
        raise http.HTTPError(status)

    r = serve(handler).get()
    assert r.status == status
    assert r.body == f"{r.reason}\n".encode()
    assert records(caplog) == []


CONTENT = {
    "Content-Type": "image/png",
    "Content-Length": "5000",
    "Content-Encoding": "gzip",
    "Content-Disposition": "attachment",
    "Content-Digest": "sha-256=:AAAA:",
    "Repr-Digest": "sha-256=:AAAA:",
    "Transfer-Encoding": "chunked",
    "Cache-Control": "max-age=3600",
    "ETag": '"x"',
    "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT",
    "Date": "Sun, 06 Nov 1994 08:49:37 GMT",
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_http_error_has_the_fields_that_were_set_but_for_those_of_the_content(serve, method):
    def handler(w, r):
        for name, value in CONTENT.items():
            w.headers.set(name.lower(), value)
        w.headers["Access-Control-Allow-Origin"] = "https://app.example"
        w.headers.add("Set-Cookie", "a=1")
        w.headers.add("Set-Cookie", "b=" + "x" * 4000)
        w.write("gone")
        raise http.HTTPError(403)

    with serve(handler).connect() as c:
        for _ in range(2):
            c.send(get("/").replace("GET", method, 1))
            r = c.response(method)
            assert (r.status, r.body) == (403, b"Forbidden\n" if method == "GET" else b"")
            assert r.all("content-type") == ["text/plain; charset=utf-8"]
            assert r["content-length"] == "10"
            assert len(r.all("date")) == 1 and r["date"] != CONTENT["Date"]
            assert r["access-control-allow-origin"] == "https://app.example"
            assert r.all("set-cookie") == ["a=1", "b=" + "x" * 4000]
            for name in CONTENT.keys() - {"Content-Type", "Content-Length", "Date"}:
                assert r.all(name.lower()) == []


def test_http_error_of_a_handler_that_closes_the_connection_says_so(serve):
    def handler(w, r):
        w.headers["Connection"] = "close"
        raise http.HTTPError(404)

    with serve(handler).connect() as c:
        r = c.send(get("/")).response()
        assert r.all("connection") == ["close"]
        assert c.rest() == b""


def test_http_error_may_ask_for_another_protocol(serve):
    def handler(w, r):
        w.headers["Upgrade"] = "websocket"
        w.headers["Connection"] = "Upgrade"
        raise http.HTTPError(426)

    r = serve(handler).get()
    assert (r.status, r["upgrade"], r["connection"]) == (426, "websocket", "Upgrade")


def test_body_beyond_the_limit_is_answered_with_the_fields_that_were_set(serve):
    def handler(w, r):
        w.headers["X-Request-Id"] = "7"
        r.body.read()

    with serve(handler, max_body_bytes=10).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n")
        r = c.send(b"x" * 20 + b"\r\n").response()
        assert (r.status, r["x-request-id"], r["connection"]) == (413, "7", "close")


def test_failed_handlers_fields_are_not_sent(serve, caplog):
    def handler(w, r):
        w.headers["Set-Cookie"] = "session=1"
        raise ZeroDivisionError

    r = serve(handler).get()
    assert (r.status, r.all("set-cookie")) == (500, [])


def test_http_error_with_another_status_is_refused():
    for status in (200, 399, 600, 0):
        with pytest.raises(ValueError, match="400 to 599"):
            http.HTTPError(status)
    assert str(http.HTTPError(404)) == "Not Found"
    assert str(http.HTTPError(404, "why")) == "why"
    assert (http.BadRequestError().status, http.BodyTooLargeError().status) == (400, 413)


@pytest.mark.parametrize("status", [None, "x", 200, 10**20])
def test_http_error_with_a_broken_status_is_500(serve, status, caplog):
    class Odd(http.HTTPError):
        def __init__(self) -> None:
            self.status = status

    def handler(w, r):
        raise Odd

    assert serve(handler).get().status == 500
    assert len(records(caplog)) == 1


@pytest.mark.parametrize("error", [TimeoutError, ConnectionError, ConnectionRefusedError])
@pytest.mark.parametrize("fields", ["", "Connection: close\r\n"])
def test_handlers_own_io_errors_are_500(serve, error, fields, caplog):
    """Such as those of a database: they are not this connection's."""

    def handler(w, r):
        raise error("of the handler's own")

    assert serve(handler).get("/", fields).status == 500
    assert len(records(caplog)) == 1


def test_failing_log_handler_does_not_break_the_server(serve, monkeypatch):
    unraisable = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)

    def emit(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the log is full")

    monkeypatch.setattr("runtime._http.server.logger.error", emit)

    def handler(w, r):
        raise ZeroDivisionError

    with serve(handler).connect() as c:
        for _ in range(2):
            assert c.send(get("/")).response().status == 500
    assert [type(u.exc_value) for u in unraisable] == [RuntimeError, RuntimeError]
    unraisable.clear()


def test_goexit_in_a_handler_ends_it_with_what_it_wrote(serve):
    def handler(w, r):
        w.write("so far")
        runtime.goexit()

    with serve(handler).connect() as c:
        for _ in range(2):
            assert c.send(get("/")).response().body == b"so far"


def test_handler_with_the_wrong_signature_is_500(serve, caplog):
    assert serve(lambda w: None).get().status == 500
    assert len(records(caplog)) == 1


def test_deep_recursion_in_a_handler_is_500(serve, caplog):
    def handler(w, r):
        return handler(w, r)

    with serve(handler).connect() as c:
        for _ in range(2):
            assert c.send(get("/")).response().status == 500
    assert len(records(caplog)) == 2


# --- after the handler has returned ---------------------------------------------------------------


def test_request_and_writer_after_the_handler_has_returned(serve):
    kept: list[Any] = []

    def handler(w, r):
        kept.extend([w, r, r.headers, r.body])
        return "x"

    server = serve(handler)
    assert server.ask(post(b"body", "X-A: 1\r\n", "/p?q=1")).body == b"x"
    # Others take the buffers meanwhile.
    for i in range(50):
        assert server.get(f"/{'z' * i}", "X-B: 2\r\n").status == 200
    w, r, headers, body = kept[:4]
    for call in (lambda: w.write("x"), lambda: w.write_header(200), w.flush):
        with pytest.raises(RuntimeError, match="the response is complete"):
            call()
    for call in (body.read, lambda: next(body), r.json, r.body.read, lambda: next(r.body)):
        with pytest.raises(RuntimeError, match="its connection is gone"):
            call()
    assert r.remote_addr.startswith("127.0.0.1:")
    assert headers["x-a"] == "1" and r.headers["x-a"] == "1"
    assert (r.method, r.target, r.path, r.query) == ("POST", "/p?q=1", "/p", {"q": ["1"]})
    assert w.status == 200
    w.headers["late"] = "1"


def test_headers_outlive_their_request(serve):
    kept: list[Any] = []
    server = serve(lambda w, r: kept.append(r.headers))
    server.get("/", "X-A: first\r\n")
    for _ in range(50):
        server.get("/", f"X-A: {'z' * 100}\r\n")
    assert kept[0]["x-a"] == "first"
    assert kept[0].items() == [("Host", "test"), ("X-A", "first")]


def test_requests_in_cycles_are_collected(serve, wait_until):
    class Marker:
        pass

    refs: list[weakref.ref[Marker]] = []

    def handler(w, r):
        marker = Marker()
        refs.append(weakref.ref(marker))
        r.path_values = {"marker": marker, "self": r, "body": r.body}

    server = serve(handler)
    for _ in range(5):
        server.get()
    server.until(connections=0)

    def collected() -> bool:  # the server's thread may still let go of the last one
        gc.collect()
        return [ref() for ref in refs] == [None] * 5

    wait_until("they are collected", collected)


def until_parked(g):
    """Give way until that goroutine waits for I/O."""
    while g.wait_reason != "IO wait":
        runtime.gosched()


def test_goroutine_still_writing_when_the_handler_returns_fails(serve):
    """It waits for a client that does not read; the connection must outlive its wait."""
    failed: runtime.Chan = runtime.Chan(1)

    def background(w):
        try:
            w.write(bytes(50_000_000))
        except ConnectionError as exc:
            failed.send(exc)

    def handler(w, r):
        if r.path == "/":
            until_parked(runtime.go(background, w))

    server = serve(handler)
    with server.connect(rcvbuf=4096) as c:
        c.send(get("/"))
        assert isinstance(failed.recv(timeout=SAFETY), ConnectionError)
        server.until(connections=0)
    assert server.get("/other").status == 200


def test_goroutine_still_reading_when_the_handler_returns_fails(serve):
    failed: runtime.Chan = runtime.Chan(1)

    def background(r):
        try:
            r.body.read()
        except ConnectionError as exc:
            failed.send(exc)

    def handler(w, r):
        until_parked(runtime.go(background, r))
        return "done"

    server = serve(handler)
    with server.connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc")
        assert isinstance(failed.recv(timeout=SAFETY), ConnectionError)
        assert c.response().body == b"done"
        assert c.ended()


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_two_goroutines_reading_one_body(serve, framing):
    """The second is told; the connection stays in order."""
    second: runtime.Chan = runtime.Chan(1)

    def reader(r, first):
        until_parked(first)
        try:
            r.body.read()
        except RuntimeError as exc:
            second.send(str(exc))

    def handler(w, r):
        runtime.go(reader, r, runtime.current())
        return r.body.read()

    with serve(handler).connect() as c:
        c.send(f"POST / HTTP/1.1\r\nHost: t\r\n{framing}\r\n\r\n")
        assert "at the same time" in second.recv(timeout=SAFETY)
        c.send(b"0123456789" if "10" in framing else b"a\r\n0123456789\r\n0\r\n\r\n")
        assert c.response().body == b"0123456789"


def test_two_goroutines_writing_one_response(serve):
    """The second is told; what the first writes stays whole."""
    second: runtime.Chan = runtime.Chan(1)
    data = bytes(range(250)) * 100_000

    def writer(w, first):
        until_parked(first)
        try:
            w.write(b"wrong")
            w.flush()
        except RuntimeError as exc:
            second.send(str(exc))

    def handler(w, r):
        runtime.go(writer, w, runtime.current())
        w.write(data)

    with serve(handler).connect(rcvbuf=4096) as c:
        c.send(get("/"))
        assert "at the same time" in second.recv(timeout=SAFETY)
        assert c.response().body == data


# --- goroutines -----------------------------------------------------------------------------------


def test_handler_may_use_goroutines_and_channels(serve):
    def handler(w, r):
        ch: runtime.Chan = runtime.Chan()
        n = int(r.query.get("n"))
        for i in range(n):
            runtime.go(ch.send, i)
        return [ch.recv() for _ in range(n)]

    assert sorted(json.loads(serve(handler).get("/?n=100").body)) == list(range(100))


def test_sleeping_handlers_sleep_at_the_same_time(serve):
    """All are in their sleep before the first may leave it."""
    n = 1000
    inside: list[None] = []
    all_in: runtime.Chan = runtime.Chan()
    last = runtime.Mutex()

    def handler(w, r):
        inside.append(None)
        if len(inside) == n and last.try_lock():
            all_in.close()
        while not all_in.closed:
            runtime.sleep(0.01)
        return "slept"

    server = serve(handler)
    conns = [server.connect() for _ in range(n)]
    for c in conns:
        c.send(get("/"))
    for c in conns:
        assert c.response().body == b"slept"
        c.close()
    assert len(inside) == n


def test_context_variables_are_each_requests_own(serve):
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def handler(w, r):
        before = var.get()
        var.set(r.path)
        runtime.gosched()
        return [before, var.get()]

    with serve(handler).connect() as c:
        c.send(get("/1") + get("/2") + get("/3"))
        for i in (1, 2, 3):
            assert json.loads(c.response().body) == ["unset", f"/{i}"]
        assert json.loads(c.send(get("/4")).response().body) == ["unset", "/4"]


def test_goroutine_of_a_handler_inherits_its_context(serve):
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def handler(w, r):
        var.set(r.path)
        return runtime.go(var.get).join()

    assert serve(handler).get("/x").body == b"/x"


# --- muxes and the rest of the API ----------------------------------------------------------------


def test_default_mux_and_decorators(serve, monkeypatch):
    mux = http.ServeMux()
    monkeypatch.setattr("runtime._http.server.default_mux", mux)

    http.handle("/plain", lambda w, r: "plain")
    http.handle_func("/func", lambda w, r: "func")

    @http.handle("/decorated")
    def decorated(w, r):
        return "decorated"

    @http.handle_func("POST /decorated")
    def decorated_post(w, r):
        return "posted"

    server = serve()
    for name in ("plain", "func", "decorated"):
        assert server.get(f"/{name}").body == name.encode()
    assert server.ask(post(b"", target="/decorated")).body == b"posted"
    assert server.get("/none").status == 404


def test_handler_object_with_serve_http(serve):
    class Handler:
        def __call__(self, w, r):
            raise AssertionError("serve_http comes first")

        def serve_http(self, w, r):
            return "served"

    assert serve(Handler()).get().body == b"served"


def test_mux_errors(serve):
    mux = http.ServeMux()
    mux.handle("GET /thing", lambda w, r: "got")
    mux.handle("PUT /thing", lambda w, r: "put")
    mux.handle("/dir/", lambda w, r: "dir")
    server = serve(mux)
    r = server.ask("POST /thing HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
    assert (r.status, r["allow"]) == (405, "GET, HEAD, PUT")
    assert server.get("/nothing").status == 404
    r = server.get("/dir")
    assert (r.status, r["location"]) == (307, "/dir/")
    assert server.ask("HEAD /thing HTTP/1.1\r\nHost: t\r\n\r\n", "HEAD").status == 200


def test_stats_count_connections_and_requests(serve):
    server = serve(lambda w, r: "x")
    with server.connect() as a, server.connect() as b:
        a.send(get("/")).response()
        a.send(get("/")).response()
        server.until(accepted=2, requests=2, connections=2, idle=1, reading=1)
        b.send(get("/")).response()
        server.until(requests=3, idle=2, reading=0, active=0, closing=0)
    server.until(connections=0, accepted=2)


def test_server_refuses_what_makes_no_sense():
    with pytest.raises(TypeError, match="callable"):
        http.Server(5)
    for option in ("read_header_timeout", "idle_timeout", "read_timeout", "write_timeout"):
        for value in (0, -1, float("nan")):
            with pytest.raises(ValueError, match=option):
                http.Server(print, **{option: value})
        with pytest.raises(TypeError):
            http.Server(print, **{option: "x"})
    for option, value in {
        "max_header_bytes": 1,
        "max_headers": 0,
        "max_target_bytes": 0,
        "max_body_bytes": -1,
        "max_connections": 0,
    }.items():
        with pytest.raises(ValueError):
            http.Server(print, **{option: value})


def test_types_cannot_be_made_or_changed():
    from runtime import _core

    for kind in (http.Request, http.ResponseWriter, http.Body):
        with pytest.raises(TypeError):
            kind()
    for kind in (http.Request, http.ResponseWriter, http.Body, http.Headers, _core.HTTPServer):
        with pytest.raises(TypeError):
            kind.extra = 1


def test_handlers_are_counted_in_the_histograms(serve):
    server = serve(lambda w, r: "hello")
    before = runtime.histograms()
    with server.connect() as c:
        for _ in range(320):
            c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response()
    after = runtime.histograms()
    assert (after.latency - before.latency).count >= 10
    assert (after.run - before.run).count >= 10
