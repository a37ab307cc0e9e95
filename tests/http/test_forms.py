"""Bodies as forms and as files of Python's io, and their limits."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import http
from runtime._http.values import parse_urlencoded

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


def post(body: bytes, fields: str = "", target: str = "/") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


def chunked(body: bytes, fields: str = "", step: int = 7) -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n{fields}\r\n".encode()
    pieces = [body[i : i + step] for i in range(0, len(body), step)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def errors(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "runtime.http"]


# --- urlencoded -----------------------------------------------------------------------------------


def test_post_form_leaves_the_query_out(serve):
    server = serve(lambda w, r: [r.post_form(), r.form(), r.query, r.form() is r.form()])
    got = server.ask(post(b"a=1&b=x+y&a=%C3%A9&c", FORM, "/?a=q&z=2"))
    assert json.loads(got.body) == [
        {"a": ["1", "é"], "b": ["x y"], "c": [""]},
        {"a": ["1", "é", "q"], "b": ["x y"], "c": [""], "z": ["2"]},
        {"a": ["q"], "z": ["2"]},
        True,
    ]


def test_form_without_a_body_is_the_query(serve):
    server = serve(lambda w, r: [r.form(), r.post_form()])
    assert json.loads(server.get("/?q=1").body) == [{"q": ["1"]}, {}]


def test_form_of_another_type_leaves_the_body(serve):
    server = serve(lambda w, r: [r.form(), r.post_form(), r.body.read().decode()])
    assert json.loads(server.ask(post(b"a=1")).body) == [{}, {}, "a=1"]


@pytest.mark.parametrize("body", [b"a=\xff", b"&".join([b"a=1"] * 10_001)])
def test_form_that_is_malformed_is_400(serve, body, caplog):
    assert serve(lambda w, r: r.form()).ask(post(body, FORM)).status == 400
    assert errors(caplog) == []


MOST = 10 << 20  # bytes of a form


def test_form_over_10_mib_is_413(serve, caplog):
    server = serve(lambda w, r: {"n": len(r.form()["a"][0])})
    assert json.loads(server.ask(post(b"a=" + b"x" * (MOST - 2), FORM)).body) == {"n": MOST - 2}
    with server.connect() as c:  # announced: refused before it comes
        head = f"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {MOST + 1}\r\n{FORM}\r\n"
        r = c.send(head).response()
        assert (r.status, r["connection"]) == (413, "close")
    with server.connect() as c:
        r = c.send(chunked(b"a=" + b"x" * (MOST - 1), FORM, 1 << 20)).response()
        assert r.status == 413
    assert errors(caplog) == []


@given(st.dictionaries(st.text(min_size=1), st.lists(st.text(), min_size=1), max_size=8))
def test_form_round_trip(values):
    clean = {
        k.encode("utf-8", "replace").decode(): [v.encode("utf-8", "replace").decode() for v in vs]
        for k, vs in values.items()
    }
    merged: dict[str, list[str]] = {}
    for k, vs in clean.items():
        merged.setdefault(k, []).extend(vs)
    assert parse_urlencoded(urlencode(clean, doseq=True).encode()) == merged


def test_form_after_the_handler_is_over(serve):
    kept = []
    serve(lambda w, r: kept.append(r)).ask(post(b"a=1", FORM))
    for method in ("form", "post_form", "json"):
        with pytest.raises(RuntimeError, match="handler of this request has returned"):
            getattr(kept[0], method)()


# --- bodies as files ------------------------------------------------------------------------------


@pytest.mark.parametrize("encode", [post, chunked])
def test_body_is_a_file_to_json_and_shutil(serve, encode):
    data = json.dumps({"a": ["é"] * 3000}).encode()

    def load(w, r):
        return json.load(r.body)

    def copy(w, r):
        target = io.BytesIO()
        shutil.copyfileobj(r.body, target)
        return target.getvalue()

    assert json.loads(serve(load).ask(encode(data)).body) == json.loads(data)
    assert serve(copy).ask(encode(data)).body == data


@pytest.mark.parametrize("encode", [post, chunked])
def test_body_read_into(serve, encode):
    def handler(w, r):
        buffer = bytearray(10)
        got = b""
        while n := r.body.read_into(memoryview(buffer)[2:]):
            assert n <= 8
            got += buffer[2 : 2 + n]
        assert r.body.read_into(buffer) == 0 == r.body.read_into(bytearray())
        return got

    data = bytes(range(256)) * 8
    assert serve(handler).ask(encode(data)).body == data


@pytest.mark.parametrize("value", [b"x" * 8, "x", None, 7])
def test_body_read_into_what_is_no_writable_buffer(serve, value):
    def handler(w, r):
        with pytest.raises((TypeError, BufferError)):
            r.body.read_into(value)
        return r.body.read()

    assert serve(handler).ask(post(b"all")).body == b"all"


def test_body_by_lines(serve):
    def handler(w, r):
        return list(csv.reader(r.body.makefile(newline="")))

    rows = [["a", "é\n,"], ["1", "2"]] * 5000
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    assert json.loads(serve(handler).ask(chunked(text.getvalue().encode(), step=999)).body) == rows


def test_body_makefile_reads_lines_as_they_come(serve):
    def handler(w, r):
        for line in r.body.makefile("rb"):
            w.write(line.upper())
            w.flush()

    with serve(handler).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 8\r\n\r\n").send(b"ab\nc").head()
        assert c.chunk() == b"AB\n"
        assert c.send(b"d\ne\n").chunk() + c.chunk() == b"CD\nE\n"
        assert c.chunk() == b""


def test_body_makefile_for_writing_is_refused(serve):
    def handler(w, r):
        with pytest.raises(ValueError, match="mode"):
            r.body.makefile("a")
        return "fine"

    assert serve(handler).ask(post(b"x")).body == b"fine"


def test_body_can_be_replaced(serve):
    def handler(w, r):
        r.body = io.BytesIO(b'{"inner": 1}')
        with pytest.raises(TypeError, match="cannot be deleted"):
            del r.body
        return r.json()

    def form(w, r):
        r.body = io.BytesIO(b"a=inner")
        return r.form()

    server = serve(handler)
    with server.connect() as c:  # what was sent is skipped
        for _ in range(2):
            assert json.loads(c.send(post(b"not read")).response().body) == {"inner": 1}
    assert json.loads(serve(form).ask(post(b"a=outer", FORM)).body) == {"a": ["inner"]}


DRAINED = 256 << 10  # bytes of a body that the handler has left unread


def test_body_left_unread_is_drained_up_to_256_kib(serve):
    with serve(lambda w, r: "done").connect() as c:
        for request in (post(bytes(DRAINED)), chunked(bytes(DRAINED - 100), step=1 << 16)):
            r = c.send(request).response()
            assert (r.body, r.all("connection")) == (b"done", [])
        # The first byte of it says so already.
        head = f"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {DRAINED + 1}\r\n\r\n"
        r = c.send(head).response()
        assert (r.body, r["connection"]) == (b"done", "close")
        assert c.ended()


def test_body_without_a_length_left_unread_ends_the_connection_past_256_kib(serve):
    with serve(lambda w, r: "done").connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert c.response().body == b"done"
        for _ in range(5):
            c.send(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        assert c.ended()


# --- MaxBytesReader -------------------------------------------------------------------------------


@pytest.mark.parametrize("encode", [post, chunked])
@pytest.mark.parametrize("how", ["read", "pieces", "into", "iterate", "file", "json", "form"])
def test_max_bytes_reader(serve, encode, how, caplog):
    def handler(w, r):
        r.body = http.MaxBytesReader(w, r.body, 20)
        assert r.body.limit == 20
        if how == "read":
            return r.body.read()
        if how == "pieces":
            got = b""
            while piece := r.body.read(6):
                got += piece
            assert r.body.read() == r.body.read(0) == b""
            return got
        if how == "into":
            got, buffer = b"", bytearray(9)
            while n := r.body.read_into(buffer):
                got += buffer[:n]
            return got
        if how == "iterate":
            return b"".join(r.body)
        if how == "file":
            return r.body.makefile("rb").read()
        return r.json() if how == "json" else r.form()

    def body(n: int) -> bytes:
        return b'{"a":"' + b"x" * (n - 8) + b'"}' if how == "json" else b"a=" + b"y" * (n - 2)

    server = serve(handler)
    with server.connect() as c:
        assert c.send(encode(body(20), FORM)).response().status == 200
        r = c.send(encode(body(21), FORM)).response()
        assert r.status == 413
    assert errors(caplog) == []


def test_max_bytes_reader_caught_closes_the_connection(serve):
    seen = []

    def handler(w, r):
        body = http.MaxBytesReader(w, r.body, 3)
        for _ in range(2):
            with pytest.raises(http.MaxBytesError, match="larger than 3 bytes") as info:
                body.read()
            seen.append((info.value.limit, info.value.status))
        return "too much"

    with serve(handler).connect() as c:
        r = c.send(post(b"abcd")).response()
        assert (r.status, r.body, r["connection"]) == (200, b"too much", "close")
        assert c.ended()
    assert seen == [(3, 413)] * 2


@pytest.mark.parametrize("n", [0, -1])
def test_max_bytes_reader_of_nothing(serve, n):
    def handler(w, r):
        return http.MaxBytesReader(w, r.body, n).read()

    server = serve(handler)
    assert server.ask(post(b"")).status == 200
    assert server.ask(post(b"x")).status == 413


def test_max_bytes_handler(serve):
    mux = http.ServeMux()
    mux.handle("/", http.max_bytes_handler(lambda w, r: r.body.read(), 5))
    server = serve(http.max_bytes_handler(mux, 7))
    assert server.ask(post(b"12345")).body == b"12345"
    assert server.ask(post(b"123456")).status == 413


def test_max_bytes_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(http.MaxBytesError(7)))
    assert (error.limit, error.status, str(error)) == (
        7,
        413,
        "the request body is larger than 7 bytes",
    )
