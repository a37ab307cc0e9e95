"""runtime.httptest: recorded responses, and a server and a client in memory."""

from __future__ import annotations

import http.client as client_http
import os

import httpx
import pytest

import runtime
from runtime import context, http, httptest, testing
from runtime.time import now

SAFETY = 60.0


# --- new_request ----------------------------------------------------------------------------------


def test_new_request_is_a_request():
    r = httptest.new_request("POST", "/a%20b?q=1&q=2", "höllo", {"X-Token": "t"})
    assert isinstance(r, http.Request)
    assert (r.method, r.path, r.raw_path, r.query["q"]) == ("POST", "/a b", "/a%20b", ["1", "2"])
    assert (r.host, r.headers["x-token"], r.proto) == ("example.com", "t", "HTTP/1.1")
    assert (r.content_length, r.body.read(2), r.body.read()) == (6, b"h\xc3", b"\xb6llo")
    assert (r.remote_addr, r.tls) == ("192.0.2.1:1234", None)


def test_new_request_of_a_url_has_its_host_and_tls():
    r = httptest.new_request("GET", "https://host.test:8443/x")
    assert (r.host, r.path, r.tls.server_name) == ("host.test:8443", "/x", "host.test")
    assert httptest.new_request("GET", "http://host.test/", headers={"Host": "h"}).tls is None


@pytest.mark.parametrize("n", [0, 1, 8191, 8192, 70_000])
def test_new_request_bodies_of_any_size(n):
    body = bytes(i % 251 for i in range(n))
    assert httptest.new_request("PUT", "/", body).body.read() == body
    pieces = [body[i : i + 1000] for i in range(0, n, 1000)]
    r = httptest.new_request("PUT", "/", pieces)
    assert r.content_length == -1
    assert b"".join(r.body) == body
    assert r.body.read() == b""


def test_new_request_of_json_and_of_a_form():
    r = httptest.new_request("POST", "/", json={"a": [1]})
    assert (r.headers["content-type"], r.json()) == ("application/json", {"a": [1]})
    r = httptest.new_request("POST", "/?b=2", "a=1", [("Content-Type", http_form)])
    assert r.form() == {"a": ["1"], "b": ["2"]}


http_form = "application/x-www-form-urlencoded"


def test_new_request_outlives_everything():
    bodies = [httptest.new_request("PUT", f"/{i}", f"{i}" * 3000).body for i in range(50)]
    assert [body.read() for body in bodies] == [f"{i}".encode() * 3000 for i in range(50)]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("GET", "/a b"), ValueError),
        (("GET", "/\r\nX: y"), ValueError),
        (("G T", "/"), ValueError),
        (("GET", "nowhere"), ValueError),
        (("GET", "/", None, {"X": "a\r\nb"}), ValueError),
        (("GET", "/", None, {"a b": "x"}), ValueError),
        (("GET", "/", b"x", {"Content-Length": "no"}), ValueError),
    ],
)
def test_new_request_refuses_what_is_none(args, error):
    with pytest.raises(error):
        httptest.new_request(*args)


def test_body_that_is_shorter_than_it_says_is_a_connection_error():
    r = httptest.new_request("PUT", "/", b"abc", {"Content-Length": 5})
    assert r.body.read(3) == b"abc"
    with pytest.raises(ConnectionError):
        r.body.read()


# --- recorders ------------------------------------------------------------------------------------


def test_recorder_keeps_what_is_written():
    w = httptest.ResponseRecorder()
    assert w.status == 0
    w.headers["X-A"] = "1"
    w.write_header(201)
    w.write("a")
    w.write(b"b")
    w.flush()
    w.headers["X-A"] = "2"
    w.write(memoryview(b"c"))
    assert (w.status, w.body, w.text, w.flushed) == (201, b"abc", "abc", True)
    got = w.response()
    assert (got.status, got.reason, got.headers["x-a"]) == (201, "Created", "1")
    assert got.headers["content-type"] == "text/plain; charset=utf-8"


def test_recorder_has_all_that_a_response_writer_has():
    public = {name for name in dir(http.ResponseWriter) if not name.startswith("_")}
    assert {"hijack", "send_file", "trailers"} <= public <= set(dir(httptest.ResponseRecorder()))


def test_recorder_refuses_what_a_response_writer_refuses():
    w = httptest.ResponseRecorder()
    with pytest.raises(ValueError, match="final status"):
        w.write_header(99)
    with pytest.raises(TypeError, match="needs str or bytes, not int"):
        w.write(5)
    with pytest.raises(ValueError, match="want 100, or 102 to 199"):
        w.write_informational(101)
    with pytest.raises(ValueError, match="neither Content-Length"):
        w.write_informational(103, {"Content-Length": 1})
    with pytest.raises(ValueError, match="cannot be a trailer"):
        w.trailers["Content-Length"] = 5
    with pytest.raises(ValueError, match="NaN"):
        w.set_read_deadline(float("nan"))
    with pytest.raises(TypeError):
        w.set_write_deadline("soon")
    assert w.response().status == 200
    w = httptest.ResponseRecorder()
    w.write("x")
    with pytest.raises(RuntimeError, match="begun already, with status 200"):
        w.write_header(404)
    w.flush()
    with pytest.raises(RuntimeError, match="begun already"):
        w.write_informational(103)
    assert (w.response().status, w.informational) == (200, [])
    for late in (w.flush, lambda: w.write("y"), lambda: w.set_read_deadline(1)):
        with pytest.raises(RuntimeError, match="the handler has returned"):
            late()


def test_recorder_notes_informational_responses_deadlines_and_trailers():
    w = httptest.ResponseRecorder()
    w.write_informational(103, {"Link": "</a.css>"})
    w.write_informational(102)
    assert [(status, fields.items()) for status, fields in w.informational] == [
        (103, [("Link", "</a.css>")]),
        (102, []),
    ]
    rc = http.ResponseController(w)
    rc.set_read_deadline(5)
    rc.set_write_deadline(0.5)
    assert (w.read_deadline, w.write_deadline) == (5.0, 0.5)
    rc.set_read_deadline(None)
    assert w.read_deadline is None
    w.trailers["X-Sum"] = "1"
    rc.flush()
    w.trailers["X-Late"] = "2"
    got = w.response()
    assert (got.headers["trailer"], got.trailers.items()) == (
        "X-Sum",
        [("X-Sum", "1"), ("X-Late", "2")],
    )


def test_recorder_sends_no_trailers_without_chunks():
    w = httptest.ResponseRecorder()
    w.headers["Content-Length"] = 1
    w.trailers["X-Sum"] = "1"
    w.write("x")
    assert len(w.response().trailers) == 0


def test_recorder_has_no_connection_to_hijack():
    w = httptest.ResponseRecorder()
    w.write_header(101)
    with pytest.raises(http.NotSupportedError, match=r"httptest\.Server"):
        w.hijack()
    with pytest.raises(RuntimeError, match="did not hijack"):
        w.response()


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_recorder_sends_files(tmp_path, size):
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(data)
    w = httptest.ResponseRecorder()
    with (tmp_path / "file").open("rb") as file:
        w.send_file(file)
        w.send_file(file.fileno(), size // 2, size // 4)
        for offset, count in ((-1, None), (0, size + 1), (size + 1, 0), (0, -1)):
            with pytest.raises(ValueError, match="send_file"):
                w.send_file(file, offset, count)
    assert w.response().body == data + data[size // 2 : size // 2 + size // 4]
    with (tmp_path / "file").open("rb") as file:
        ends = http.ServeMux()
        ends.handle("/{name}", lambda w, r: http.serve_file(w, r, tmp_path / "file"))
        assert httptest.record(ends, httptest.new_request("GET", "/x")).body == data
    reader, writer = os.pipe()
    try:
        with pytest.raises(ValueError, match="regular file"):
            httptest.ResponseRecorder().send_file(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_recorder_response_to_head_has_no_body():
    w = httptest.ResponseRecorder(httptest.new_request("HEAD", "/"))
    w.write("abc")
    got = w.response()
    assert (w.body, got.body, got.headers["content-length"]) == (b"abc", b"", "3")


def returns(value):
    return lambda w, r: value


def writes(*pieces, status=0, flush=False, **fields):
    """A handler that sets fields and a status and writes."""

    def handler(w, r):
        for name, value in fields.items():
            w.headers.add(name.replace("_", "-"), value)
        if status:
            w.write_header(status)
        for piece in pieces:
            w.write(piece)
            if flush:
                w.flush()

    return handler


def with_status(status, value):
    def handler(w, r):
        w.write_header(status)
        return value

    return handler


def fails(w, r):
    w.headers["X-Kept"] = "1"
    w.headers["ETag"] = '"lost"'
    w.write("lost")
    raise http.HTTPError(403, "secret")


def writes_and_returns(w, r):
    w.write("x")
    return "y"


def flushes_and_returns(w, r):
    w.flush()
    return "y"


def announces_trailers(w, r):
    w.trailers["X-Sum"] = 1
    w.write("abc")


def sends_this_file(w, r):
    with open(__file__, "rb") as file:
        w.send_file(file, 0, 20_000)


HANDLERS = [
    returns(None),
    returns("text"),
    returns(""),
    returns(b"bytes"),
    returns(b"\x00\x01"),
    returns("<html> "),
    returns(b"%PDF-1"),
    returns({"a": 1}),
    returns([1, 2]),
    returns("x" * 100_000),
    returns(204),
    returns(404),
    returns(413),
    returns(418),
    returns(299),
    returns(499),
    with_status(201, {"a": 1}),
    with_status(204, "nothing"),
    with_status(205, "nothing"),
    with_status(304, ""),
    with_status(999, b""),
    fails,
    announces_trailers,
    sends_this_file,
    lambda w, r: w.write_header(418),
    lambda w, r: w.flush(),
    lambda w, r: http.redirect(w, r, "/x", 302),
    lambda w, r: http.error(w, "no", 400),
    lambda w, r: http.serve_content(w, r, "a.css", 1e9, b"p {}"),
    writes("a", b"b"),
    writes(""),
    writes(b""),
    writes("", b"\x00"),
    writes(b"", "x"),
    writes("a", "b", flush=True),
    writes("a", "b" * 100_000),
    writes(b"\x89PNG\r\n\x1a\n", flush=True),
    writes("a", Content_Type="text/x"),
    writes("a", Content_Type=""),
    writes("a", Content_Encoding="gzip"),
    writes("a", Content_Encoding=""),
    writes("abc", Content_Length=3),
    writes("abc", Content_Length=3, flush=True),
    writes("a", Transfer_Encoding="chunked"),
    writes("a", Transfer_Encoding="Chunked", flush=True),
    writes("a", Connection="close"),
    writes("a", Connection="keep-alive"),
    writes("a", Connection="X-Token", X_Token=1),
    writes("a", status=304, Content_Length=7),
    writes("a", status=204, flush=True),
]


def all_but_the_date(headers):
    return sorted((n.lower(), v) for n, v in headers.items() if n.lower() != "date")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_record_and_a_server_agree(method):
    for i, handler in enumerate(HANDLERS):
        recorded = httptest.record(handler, httptest.new_request(method, "/")).response()
        with httptest.Server(handler) as server:
            served = server.client().request(method, "/")
        assert (recorded.status, recorded.reason, recorded.body) == (
            served.status, served.reason, served.body,
        ), i  # fmt: skip
        assert all_but_the_date(recorded.headers) == all_but_the_date(served.headers), i


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (returns(1.5), TypeError),
        (returns(True), TypeError),
        (returns(99), ValueError),
        (writes_and_returns, TypeError),
        (flushes_and_returns, TypeError),
        (with_status(201, 204), TypeError),
        (writes("abc", Content_Length=2), ValueError),
        (writes("a", Content_Length=2), ValueError),
        (writes("a", Content_Length="x"), ValueError),
        (writes("a", Content_Length=""), ValueError),
        (writes("a", Transfer_Encoding="gzip"), ValueError),
        (writes("a", Transfer_Encoding="chunked", Content_Length=1), ValueError),
        (writes(5), TypeError),
        (with_status(101, None), RuntimeError),
        (with_status(1000, None), ValueError),
    ],
)
def test_record_refuses_what_a_server_refuses(handler, error):
    with pytest.raises(error):
        httptest.record(handler, httptest.new_request("GET", "/"))
    with httptest.Server(handler) as server, server.client() as client:
        try:
            assert client.get("/").status == 500
        except (ConnectionError, client_http.HTTPException):
            assert handler is flushes_and_returns  # the head is gone


def test_record_notices_too_much_and_too_little_after_the_head():
    r = httptest.new_request("GET", "/")
    with pytest.raises(ValueError, match="more was written"):
        httptest.record(writes("ab", "c", flush=True, Content_Length=2), r)
    with pytest.raises(ValueError, match="declared Content-Length 4 and wrote 3"):
        httptest.record(writes("ab", "c", flush=True, Content_Length=4), r)


def test_record_lets_other_exceptions_out():
    with pytest.raises(ZeroDivisionError):
        httptest.record(lambda w, r: 1 // 0, httptest.new_request("GET", "/"))


def test_record_of_a_mux():
    mux = http.ServeMux()
    mux.handle("GET /users/{id}", lambda w, r: {"id": int(r.path_value("id"))})
    assert httptest.record(mux, httptest.new_request("GET", "/users/7")).json() == {"id": 7}
    assert httptest.record(mux, httptest.new_request("PUT", "/users/7")).status == 405


def test_record_of_a_mounted_mux_with_converters():
    sub = http.ServeMux()
    sub.handle("GET /{n:int}/{rest...}", lambda w, r: [*r.path_values.values(), r.path, r.pattern])
    mux = http.ServeMux()
    mux.mount("/in/{x}/", sub)
    w = httptest.record(mux, httptest.new_request("GET", "/in/a%20b/7/c/d"))
    assert w.json() == ["a b", 7, "c/d", "/7/c/d", "GET /in/{x}/{n:int}/{rest...}"]
    assert httptest.record(mux, httptest.new_request("GET", "/in/x/y/")).status == 404


def test_record_of_time_out_and_of_limits():
    ends = httptest.new_request("GET", "/")
    slow = http.timeout_handler(lambda w, r: r.context.done().recv_ok() and None, 0.001, "late")
    w = httptest.record(slow, ends)
    assert (w.status, w.body) == (503, b"late")
    fast = http.timeout_handler(lambda w, r: {"in": "time"}, 60)
    assert httptest.record(fast, ends).json() == {"in": "time"}

    def limited(w, r):
        return http.MaxBytesReader(w, r.body, 3).read()

    assert httptest.record(limited, httptest.new_request("PUT", "/", "abc")).body == b"abc"
    assert httptest.record(limited, httptest.new_request("PUT", "/", "abcd")).status == 413


# --- what handlers do with requests ---------------------------------------------------------------


def test_new_request_cookies_and_basic_auth():
    r = httptest.new_request(
        "GET", "/", headers=[("Cookie", "a=1; b=2; a=3"), ("Authorization", "Basic YTpi")]
    )
    assert (r.cookie("b").value, [c.value for c in r.cookies_named("a")]) == ("2", ["1", "3"])
    assert (r.basic_auth(), len(r.cookies)) == (("a", "b"), 3)
    bare = httptest.new_request("GET", "/")
    assert (bare.cookie("b"), bare.basic_auth(), bare.cookies) == (None, None, ())


def test_new_request_of_a_multipart_form():
    body = (
        "--X\r\nContent-Disposition: form-data; name=title\r\n\r\nhello\r\n"
        '--X\r\nContent-Disposition: form-data; name=f; filename="a.txt"\r\n\r\ndata\r\n'
        "--X--\r\n"
    )
    fields = {"Content-Type": "multipart/form-data; boundary=X"}
    for sent in (body, [body[:50].encode(), body[50:].encode()]):
        form = httptest.new_request("POST", "/", sent, fields).multipart_form()
        assert form.values["title"] == ["hello"]
        upload = form.file("f")
        assert (upload.filename, upload.read()) == ("a.txt", b"data")
        form.close()
    parts = httptest.new_request("POST", "/", body, fields).multipart()
    assert [(part.name, part.read()) for part in parts] == [("title", b"hello"), ("f", b"data")]


def test_new_request_context_and_values():
    r = httptest.new_request("GET", "/")
    assert (r.context.err(), r.path_values, r.pattern) == (None, {}, "")
    r.set_path_value("id", 7)
    ctx, cancel = context.with_cancel(r.context)
    inner = r.with_context(ctx)
    assert (inner.path_value("id"), inner.method, inner.context is ctx) == (7, "GET", True)
    cancel()
    assert isinstance(inner.context.err(), context.Canceled)
    assert r.context.err() is None


# --- the server and its client --------------------------------------------------------------------


def echo(w, r):
    w.headers["X-Method"] = r.method
    return r.body.read()


def test_client_keeps_its_connection():
    with httptest.Server(echo) as server, server.client() as client:
        for n in (0, 1, 100_000):
            assert client.post("/", b"x" * n).body == b"x" * n
        for ask in (client.get, client.put, client.delete, client.head):
            assert ask("/").headers["x-method"] == ask.__name__.upper()
        assert client.post("/", [b"a", b"b"]).text == "ab"
        assert server.server.stats()["accepted"] == 1


def test_client_reads_streams_and_bodies_that_end_with_the_connection():
    def handler(w, r):
        w.write("a")
        w.flush()
        w.write("b" * 200_000)

    with httptest.Server(handler) as server, server.client() as client:
        for fields in ({}, {"Connection": "close"}):
            assert client.get("/", headers=fields).text == "a" + "b" * 200_000


def test_client_gets_an_answer_that_does_not_wait_for_the_body():
    with httptest.Server(lambda w, r: 403) as server, server.client() as client:
        assert client.post("/", b"x" * 1_000_000).status == 403
        assert client.get("/").status == 403


def test_client_tries_again_where_an_idle_connection_was_closed():
    with httptest.Server(echo, idle_timeout=0.01) as server, server.client() as client:
        for _ in range(3):
            client.get("/")
            while server.server.stats()["connections"]:
                runtime.sleep(0.002)


def test_client_time_out():
    server = httptest.Server(lambda w, r: runtime.sleep(0.5))
    with server, pytest.raises(TimeoutError):
        server.client().get("/", timeout=0.02)


def test_closed_server_refuses():
    server = httptest.Server(echo)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        server.client().get("/")


def test_handler_that_fails_is_a_500(caplog):
    with httptest.Server(lambda w, r: 1 // 0) as server:
        assert server.client().get("/").status == 500
    assert "ZeroDivisionError" in caplog.text


def test_httpx_over_the_transport():
    def handler(w, r):
        w.headers.add("Set-Cookie", "a=1")
        return f"{r.path} {r.headers.get('cookie')} {len(r.body.read())}"

    server = httptest.Server(handler)
    client = httpx.Client(transport=server.transport(), base_url="http://example.com")
    with server, client:
        assert client.get("/x").text == "/x None 0"
        assert client.post("/y", content=b"abc").text == "/y a=1 3"


def test_many_clients_at_once():
    with httptest.Server(echo) as server, server.client() as client:
        group = [
            runtime.go(lambda i=i: client.post("/", f"{i}" * i, timeout=SAFETY).text)
            for i in range(50)
        ]
        assert [g.join(SAFETY) for g in group] == [f"{i}" * i for i in range(50)]


# --- in bubbles, where time takes no time ---------------------------------------------------------


@testing.bubble()
def test_idle_time_out_on_the_clock_of_a_bubble():
    with httptest.Server(echo, idle_timeout=120) as server:
        conn = server.dial()
        conn.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert conn.read().startswith(b"HTTP/1.1 200")
        assert (conn.read(), now()) == (b"", 120)


@testing.bubble()
def test_time_out_of_a_head_on_the_clock_of_a_bubble():
    with httptest.Server(echo, read_header_timeout=10) as server:
        silent, slow = server.dial(), server.dial()
        for byte in b"GET / HT":
            slow.write(bytes([byte]))
            runtime.sleep(1)
        assert slow.read().startswith(b"HTTP/1.1 408")
        assert (slow.read(), now()) == (b"", 10)
        assert (silent.read(), now()) == (b"", 10)


@testing.bubble()
def test_time_out_of_a_body_on_the_clock_of_a_bubble():
    with httptest.Server(echo, read_timeout=30, min_read_rate=None) as server:
        conn = server.dial()
        conn.write(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\na")
        runtime.sleep(29)
        conn.write(b"b")
        assert conn.read().startswith(b"HTTP/1.1 408")
        assert now() == 59
        assert conn.read() == b""


@testing.bubble()
def test_time_out_of_a_write_on_the_clock_of_a_bubble():
    failed: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        try:
            w.write(b"x" * 1_000_000)
        except TimeoutError:
            failed.send(now())
            raise

    with httptest.Server(handler, write_timeout=60) as server:
        conn = server.dial()
        conn.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert failed.recv() == 60
        while conn.read():
            pass


@testing.bubble()
def test_drain_and_linger_take_their_time_on_the_clock_of_a_bubble():
    with httptest.Server(lambda w, r: "x", read_timeout=30) as server:
        conn = server.dial()
        conn.write(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc")
        assert conn.read().endswith(b"x")
        assert (conn.read(), now()) == (b"", 30)
        while server.server.stats()["connections"]:
            runtime.sleep(0.5)
        assert now() == 32


@testing.bubble()
def test_shutdown_waits_for_requests_on_the_clock_of_a_bubble():
    def handler(w, r):
        runtime.sleep(5)
        return "done"

    with httptest.Server(handler) as server, server.client() as client:
        g = runtime.go(client.get, "/")
        testing.wait()
        assert server.server.shutdown(3600) is True
        assert (g.join().text, now()) == ("done", 5)


@testing.bubble()
def test_shutdown_gives_up_on_the_clock_of_a_bubble():
    def handler(w, r):
        runtime.sleep(3600)
        w.flush()

    with httptest.Server(handler) as server, server.client() as client:
        g = runtime.go(client.get, "/")
        testing.wait()
        assert server.server.shutdown(60) is False
        with pytest.raises(ConnectionError):
            g.join()
        assert now() == 60


@testing.bubble()
def test_goroutines_of_handlers_are_in_the_bubble():
    def handler(w, r):
        result: runtime.Chan = runtime.Chan(1)

        def work():
            runtime.sleep(1000)
            result.send("worked")

        runtime.go(work)
        return result.recv()

    with httptest.Server(handler) as server, server.client() as client:
        for i in (1, 2):
            assert (client.get("/").text, now()) == ("worked", i * 1000)


@testing.bubble()
def test_max_connections_in_a_bubble():
    with httptest.Server(echo, max_connections=1, idle_timeout=7) as server:
        first, second = server.client(), server.client()
        first.get("/")
        assert second.get("/").status == 200
        assert now() == 7


@testing.bubble()
def test_close_lets_nobody_begin_who_waits_for_a_place():
    begun = []

    def handler(w, r):
        begun.append(now())
        runtime.sleep(20)

    with httptest.Server(handler, max_requests=1) as server:
        gs = [runtime.go(server.client().get, "/") for _ in range(2)]
        testing.wait()
        runtime.sleep(3)
        server.server.close()
        assert now() == 3
        server._serving.join()  # it waits for no handler
        assert now() == 3
        for g in gs:
            with pytest.raises((ConnectionError, client_http.HTTPException)):
                g.join()
    assert begun == [0]


@testing.bubble()
def test_close_wakes_who_waits_for_room_for_a_connection():
    with httptest.Server(lambda w, r: runtime.sleep(20), max_connections=1) as server:
        first = runtime.go(server.client().get, "/")
        testing.wait()
        second = runtime.go(server.client().get, "/")
        runtime.sleep(3)
        server.server.close()
        server._serving.join()
        assert now() == 3
        for g in (first, second):
            with pytest.raises((ConnectionError, client_http.HTTPException)):
                g.join()
