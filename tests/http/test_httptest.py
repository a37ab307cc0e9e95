"""runtime.httptest: recorded responses, and a server and a client in memory."""

from __future__ import annotations

import httpx
import pytest

import runtime
from runtime import http, httptest, testing
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


def test_recorder_refuses_what_a_response_writer_refuses():
    w = httptest.ResponseRecorder()
    with pytest.raises(ValueError, match="final status"):
        w.write_header(99)
    w.write("x")
    with pytest.raises(RuntimeError, match="begun already, with status 200"):
        w.write_header(404)


def returns(value):
    return lambda w, r: value


def fails(w, r):
    raise http.HTTPError(403, "secret")


def writes_and_returns(w, r):
    w.write("x")
    return "y"


@pytest.mark.parametrize(
    "handler",
    [
        returns(None),
        returns("text"),
        returns(b"bytes"),
        returns({"a": 1}),
        returns([1, 2]),
        returns(204),
        returns(404),
        returns(299),
        fails,
        lambda w, r: w.write_header(418),
    ],
)
def test_record_and_a_server_agree(handler):
    recorded = httptest.record(handler, httptest.new_request("GET", "/")).response()
    with httptest.Server(handler) as server:
        served = server.client().get("/")
    assert (recorded.status, recorded.body) == (served.status, served.body)
    assert recorded.headers.get("content-type") == served.headers.get("content-type")


@pytest.mark.parametrize("handler", [returns(1.5), returns(True), writes_and_returns])
def test_record_refuses_what_a_server_refuses(handler):
    with pytest.raises(TypeError):
        httptest.record(handler, httptest.new_request("GET", "/"))


def test_record_lets_other_exceptions_out():
    with pytest.raises(ZeroDivisionError):
        httptest.record(lambda w, r: 1 // 0, httptest.new_request("GET", "/"))


def test_record_of_a_mux():
    mux = http.ServeMux()
    mux.handle("GET /users/{id}", lambda w, r: {"id": int(r.path_value("id"))})
    assert httptest.record(mux, httptest.new_request("GET", "/users/7")).json() == {"id": 7}
    assert httptest.record(mux, httptest.new_request("PUT", "/users/7")).status == 405


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
