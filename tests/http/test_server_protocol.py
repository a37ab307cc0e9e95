"""HTTP/1.1 on the wire (RFC 9110, RFC 9112): framing, keep-alive, pipelining, refusals."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import h11
import pytest

import runtime
from runtime import http

SAFETY = 60.0


@pytest.fixture(params=["socket", "stream"])
def transport(request):
    return request.param


def echo(w, r):
    """Method, path and body, so that each response tells which request it is for."""
    return f"{r.method} {r.path} {r.body.read().decode('latin-1')}"


def get(target: str, fields: str = "", version: str = "1.1") -> str:
    return f"GET {target} HTTP/{version}\r\nHost: test\r\n{fields}\r\n"


def chunked(*pieces: bytes, target: str = "/", trailer: bytes = b"") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces)
    return head + body + b"0\r\n" + trailer + b"\r\n"


# --- keep-alive -----------------------------------------------------------------------------------


def test_connection_is_kept_by_http_1_1(serve):
    with serve(echo).connect() as c:
        for i in range(100):
            r = c.send(get(f"/{i}")).response()
            assert (r.body, r.all("connection")) == (f"GET /{i} ".encode(), [])


@pytest.mark.parametrize("value", ["close", "Close", "x, close", "close , x"])
def test_connection_close_is_obeyed_and_announced(serve, value):
    with serve(echo).connect() as c:
        r = c.send(get("/", f"Connection: {value}\r\n")).response()
        assert r["connection"] == "close"
        assert c.ended()


def test_http_1_0_is_closed(serve):
    with serve(echo).connect() as c:
        r = c.send("GET / HTTP/1.0\r\n\r\n").response()
        assert (r.body, r["connection"]) == (b"GET / ", "close")
        assert c.ended()


def test_http_1_0_with_keep_alive_is_kept(serve):
    with serve(echo).connect() as c:
        for i in range(3):
            r = c.send(get(f"/{i}", "Connection: keep-alive\r\n", "1.0")).response()
            assert (r.body, r["connection"]) == (f"GET /{i} ".encode(), "keep-alive")


def test_http_1_0_stream_ends_with_the_connection(serve):
    def handler(w, r):
        w.write("a")
        w.flush()
        w.write("b")

    with serve(handler).connect() as c:
        r = c.send(get("/", "Connection: keep-alive\r\n", "1.0")).response()
        assert (r.body, r.trailing) == (b"ab", True)


def test_half_closed_client_gets_its_response(serve):
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        body = r.body.read()
        gate.recv()
        return body

    with serve(handler).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc").half_close()
        gate.send(None, timeout=SAFETY)
        assert c.response().body == b"abc"
        assert c.ended()


# --- pipelining -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 31, 32, 33, 200])
def test_pipelined_requests_are_answered_in_order(serve, n):
    with serve(echo).connect() as c:
        c.send("".join(get(f"/{i}") for i in range(n)))
        for i in range(n):
            assert c.response().body == f"GET /{i} ".encode()
        assert c.send(get("/last", "Connection: close\r\n")).response().body == b"GET /last "
        assert c.ended()


def test_pipelined_responses_are_joined(serve):
    """One send for all: they arrive with the first recv()."""
    ready: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        if r.path == "/9":
            ready.send(None)
        return r.path

    with serve(handler).connect() as c:
        c.send("".join(get(f"/{i}") for i in range(10)))
        ready.recv(timeout=SAFETY)
        first = c.sock.recv(1 << 16)
        assert first.count(b"HTTP/1.1 200 OK") == 10


def test_pipelined_large_responses(serve):
    def handler(w, r):
        return r.path[1:] * 50_000

    with serve(handler).connect() as c:
        c.send("".join(get(f"/{i}") for i in range(10)))
        for i in range(10):
            assert c.response().body == f"{i}".encode() * 50_000


def test_pipelined_requests_with_bodies(serve):
    requests = []
    expected = []
    for i in range(30):
        body = b"b%d" % i * (i * 40)
        if i % 3 == 0:
            requests.append(get(f"/{i}").encode())
            expected.append(f"GET /{i} ".encode())
            continue
        if i % 3 == 1:
            head = f"PUT /{i} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
            requests.append(head.encode() + body)
            expected.append(f"PUT /{i} ".encode() + body)
        else:
            requests.append(chunked(body, b"tail", target=f"/{i}"))
            expected.append(f"POST /{i} ".encode() + body + b"tail")
        if not body and i % 3 == 2:
            raise AssertionError("an empty chunk ends the body")
    with serve(echo).connect() as c:
        c.send(b"".join(requests))
        for want in expected:
            assert c.response().body == want


def test_bad_request_after_good_ones_does_not_harm_them(serve):
    with serve(echo).connect() as c:
        c.send(get("/1") + get("/2") + "GARBAGE\r\n\r\n" + get("/3"))
        assert c.response().body == b"GET /1 "
        assert c.response().body == b"GET /2 "
        r = c.response()
        assert (r.status, r["connection"]) == (400, "close")
        assert c.ended()


def test_nothing_after_connection_close_is_answered(serve):
    with serve(echo).connect() as c:
        c.send(get("/1", "Connection: close\r\n") + get("/2"))
        assert c.response().body == b"GET /1 "
        assert c.ended()


def test_pipelined_requests_wait_for_a_handler_that_parks(serve):
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        if r.path == "/wait":
            gate.recv()
        return r.path

    with serve(handler).connect() as c:
        c.send(get("/wait") + get("/1"))
        c.send(get("/2"))
        gate.send(None, timeout=SAFETY)
        assert [c.response().body for _ in range(3)] == [b"/wait", b"/1", b"/2"]


def test_pipelining_clients_do_not_starve_others(serve):
    """A client that never stops sending, and one that asks once."""
    server = serve(lambda w, r: "x")
    with server.connect() as busy, server.connect() as other:
        busy.send(get("/") * 5000)
        assert other.send(get("/")).response().status == 200
        for _ in range(5000):
            assert busy.response().status == 200


# --- request bodies -------------------------------------------------------------------------------


def test_body_with_a_length(serve):
    with serve(echo).connect() as c:
        for n in (0, 1, 8000, 9000, 100_000, 1_000_000):
            c.send(f"POST /{n} HTTP/1.1\r\nHost: t\r\nContent-Length: {n}\r\n\r\n" + "x" * n)
            assert c.response().body == f"POST /{n} ".encode() + b"x" * n


def test_body_in_chunks(serve):
    with serve(echo).connect() as c:
        for pieces in ([], [b"a"], [b"a", b"bc"], [b"x" * 70_000, b"y" * 9000], [b"z"] * 3000):
            assert c.send(chunked(*pieces)).response().body == b"POST / " + b"".join(pieces)


def test_chunk_extensions_and_trailers_are_dropped(serve):
    body = b'3;a=b;c="d"\r\nabc\r\n0;x\r\nX-Trailer: 1\r\n\r\n'
    head = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serve(echo).connect() as c:
        for _ in range(2):
            assert c.send(head + body).response().body == b"POST / abc"


@pytest.mark.parametrize(
    "body", [b"x\r\n", b"1\r\nabc", b"-1\r\n", b"1 \n", b"fffffffffffffffff\r\n", b"1;\x00\r\n"]
)
@pytest.mark.parametrize("half_close", [False, True])
def test_malformed_chunks_are_400(serve, body, half_close, caplog):
    head = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serve(echo).connect() as c:
        c.send(head + b"2\r\nab\r\n" + body)
        if half_close:
            c.half_close()
        assert c.response().status == 400
        assert c.ended()
    assert not caplog.records


def test_malformed_chunks_in_an_unread_body_end_the_connection(serve):
    head = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serve(lambda w, r: "unread").connect() as c:
        assert c.send(head + b"zz\r\n" + get("/").encode()).response().body == b"unread"
        assert c.ended()


@pytest.mark.parametrize(
    "framing", ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nab"]
)
def test_client_that_ends_within_the_body(serve, framing, caplog):
    errors: list[BaseException] = []

    def handler(w, r):
        try:
            r.body.read()
        except ConnectionError as exc:
            errors.append(exc)
            raise

    server = serve(handler)
    with server.connect() as c:
        c.send(f"POST / HTTP/1.1\r\nHost: t\r\n{framing}").half_close()
        assert c.ended()
    assert "in the middle of the body" in str(errors[0])
    assert not caplog.records


# --- Expect: 100-continue -------------------------------------------------------------------------

EXPECT = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"


def test_continue_is_sent_when_the_body_is_read(serve):
    with serve(echo).connect() as c:
        for _ in range(3):
            c.send(EXPECT)
            assert c.line() == b"HTTP/1.1 100 Continue"
            assert c.line() == b""
            r = c.send("hello").response()
            assert (r.status, r.body, r.all("connection")) == (200, b"POST / hello", [])


def test_continue_is_not_sent_when_the_body_is_unread(serve):
    with serve(lambda w, r: 403).connect() as c:
        r = c.send(EXPECT).response()
        # The body may follow or not: only the end of the connection is clear.
        assert (r.status, r["connection"]) == (403, "close")
        assert c.ended()


def test_continue_is_not_sent_when_the_handler_fails(serve, caplog):
    def handler(w, r):
        raise ZeroDivisionError

    with serve(handler).connect() as c:
        r = c.send(EXPECT).response()
        assert (r.status, r["connection"]) == (500, "close")
        assert c.ended()


def test_continue_is_not_sent_within_a_response(serve):
    def handler(w, r):
        w.write("early ")
        w.flush()
        w.write(r.body.read())

    with serve(handler).connect() as c:
        r = c.send(EXPECT).head()
        assert (r.status, r["connection"]) == (200, "close")
        assert c.chunk() == b"early "
        c.send("hello")
        assert c.chunk() == b"hello"
        assert c.chunk() == b""
        assert c.ended()


def test_continue_follows_pipelined_responses(serve):
    with serve(echo).connect() as c:
        c.send(get("/1") + EXPECT)
        assert c.response().body == b"GET /1 "
        assert c.line() == b"HTTP/1.1 100 Continue"
        c.line()
        assert c.send("hello").response().body == b"POST / hello"


def test_continue_is_not_sent_without_a_body(serve):
    with serve(echo).connect() as c:
        for _ in range(2):
            r = c.send(get("/", "Expect: 100-continue\r\n")).response()
            assert (r.status, r.all("connection")) == (200, [])


def test_continue_is_not_sent_to_http_1_0(serve):
    with serve(echo).connect() as c:
        c.send(EXPECT.replace("1.1", "1.0"))
        assert c.send("hello").response().body == b"POST / hello"


def test_body_sent_without_waiting_for_continue(serve):
    with serve(echo).connect() as c:
        c.send(EXPECT + "hello")
        assert c.head().status == 100
        assert c.response().body == b"POST / hello"
        assert c.send(get("/2")).response().body == b"GET /2 "


# --- bodies nobody reads --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 100_000, 256 * 1024])
@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_unread_body_is_skipped(serve, size, kind):
    server = serve(lambda w, r: r.path)
    size -= 1000 if kind == "chunked" and size > 1000 else 0
    with server.connect() as c:
        for i in range(3):
            if kind == "chunked":
                c.send(chunked(bytes(size), target=f"/{i}"))
            else:
                c.send(f"POST /{i} HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n")
                c.send(bytes(size))
            assert c.response().body == f"/{i}".encode()
    server.until(accepted=1, requests=3, connections=0)


def test_unread_body_is_skipped_as_it_comes(serve):
    server = serve(lambda w, r: r.path)
    with server.connect() as c:
        c.send("POST /1 HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc")
        assert c.response().body == b"/1"
        server.until(closing=1)
        c.send("def")
        c.send("ghi" + get("/2"))
        assert c.response().body == b"/2"
        server.until(closing=0)


def test_partly_read_body_is_skipped(serve):
    with serve(lambda w, r: r.body.read(3)).connect() as c:
        for _ in range(2):
            c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\n\r\nabcdef")
            assert c.response().body == b"abc"


def test_large_unread_body_of_known_length_closes_the_connection(serve):
    size = 256 * 1024 + 1
    with serve(lambda w, r: "unread").connect() as c:
        c.send(f"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n")
        r = c.response()
        assert (r.body, r["connection"]) == (b"unread", "close")
        # It lingers: what still comes does not destroy the response.
        c.send(bytes(size))
        assert c.ended()


@pytest.mark.parametrize("later", [False, True])
def test_large_unread_body_in_chunks_closes_the_connection(serve, later):
    """The response arrives all the same: the connection is not reset."""
    server = serve(lambda w, r: "unread")
    request = chunked(*[bytes(65536)] * 8)
    with server.connect() as c:
        if later:
            c.send(request[:200])
            server.until(closing=1)
            c.send(request[200:])
        else:
            c.send(request)
        assert c.response().body == b"unread"
        assert c.ended()


# --- refusals -------------------------------------------------------------------------------------

REFUSED = {
    "no method": (400, "\x01 / HTTP/1.1\r\nHost: t\r\n\r\n"),
    "bare line feed": (400, "GET / HTTP/1.1\nHost: t\n\n"),
    "no host": (400, "GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    "space before colon": (400, "GET / HTTP/1.1\r\nHost : t\r\n\r\n"),
    "folded line": (400, "GET / HTTP/1.1\r\nHost: t\r\nA: b\r\n c\r\n\r\n"),
    "NUL in value": (400, "GET / HTTP/1.1\r\nHost: t\r\nA: \0\r\n\r\n"),
    "target with a space": (400, "GET /a b HTTP/1.1\r\nHost: t\r\n\r\n"),
    "length twice": (400, get("/", "Content-Length: 1\r\nContent-Length: 1\r\n")),
    "length and coding": (400, get("/", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")),
    "length is no number": (400, get("/", "Content-Length: +1\r\n")),
    "length overflows": (400, get("/", "Content-Length: 99999999999999999999\r\n")),
    "coding in HTTP/1.0": (400, get("/", "Transfer-Encoding: chunked\r\n", "1.0")),
    "POST in HTTP/1.0 without length": (411, "POST / HTTP/1.0\r\n\r\n"),
    "PUT in HTTP/1.0 without length": (411, "PUT / HTTP/1.0\r\n\r\n"),
    "body too large": (413, get("/", "Content-Length: 1001\r\n")),
    "target too long": (414, get("/" + "x" * 500)),
    "expectation unknown": (417, get("/", "Expect: a-miracle\r\n")),
    "head too large": (431, get("/", f"A: {'x' * 2000}\r\n")),
    "too many fields": (431, get("/", "A: b\r\n" * 20)),
    "coding unknown": (501, get("/", "Transfer-Encoding: gzip, chunked\r\n")),
    "version unknown": (505, get("/", version="2.0")),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("feed", ["whole", "bytes"])
def test_refusal(serve, name, feed, caplog):
    status, request = REFUSED[name]
    server = serve(
        echo, max_header_bytes=1500, max_headers=15, max_target_bytes=400, max_body_bytes=1000
    )
    with server.connect() as c:
        if feed == "whole":
            c.send(request)
        else:
            try:
                for ch in request:
                    c.send(ch)
            except OSError:
                pass  # refused before the end; the answer is there
        r = c.response()
        assert r.status == status
        assert r["connection"] == "close"
        assert r["content-type"] == "text/plain; charset=utf-8"
        assert re.fullmatch(re.escape(r.reason.encode()) + b": [ -~]+\n", r.body)
        assert c.ended()
    assert not caplog.records
    assert server.get("/after").body == b"GET /after "
    server.until(connections=0)


def test_refusal_while_the_client_still_sends_is_not_lost(serve):
    """An upload that is too large: the client reads the 413 after half a megabyte."""
    with serve(echo, max_body_bytes=10).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 500000\r\n\r\n")
        c.send(bytes(500_000))
        assert c.response().status == 413
        assert c.ended()


def test_body_over_the_limit_in_chunks_is_413(serve, caplog):
    with serve(echo, max_body_bytes=10).connect() as c:
        assert c.send(chunked(b"x" * 10)).response().status == 200
        r = c.send(chunked(b"x" * 5, b"y" * 6)).response()
        assert (r.status, r["connection"]) == (413, "close")
        assert c.ended()
    assert not caplog.records


def test_body_too_large_can_be_caught(serve):
    def handler(w, r):
        try:
            r.body.read()
        except http.BodyTooLargeError as exc:
            w.write_header(413)
            w.write(f"mine: {exc.status}")

    with serve(handler, max_body_bytes=10).connect() as c:
        r = c.send(chunked(b"x" * 11)).response()
        assert (r.status, r.body) == (413, b"mine: 413")
        assert c.ended()


def test_body_without_limit(serve):
    server = serve(lambda w, r: str(len(r.body.read())), max_body_bytes=None)
    assert server.ask(chunked(*[bytes(1 << 20)] * 3)).body == str(3 << 20).encode()


def test_body_limit_of_zero(serve):
    server = serve(echo, max_body_bytes=0)
    assert server.ask("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n").status == 200
    assert server.ask("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx").status == 413
    assert server.ask(chunked()).status == 200
    assert server.ask(chunked(b"x")).status == 413


def test_empty_lines_before_a_request(serve):
    with serve(echo).connect() as c:
        for _ in range(3):
            assert c.send("\r\n" + get("/x")).response().body == b"GET /x "


def test_client_that_says_nothing(serve):
    server = serve(echo)
    with server.connect() as c:
        server.until(reading=1)
        assert c.half_close().ended()
    with server.connect() as c:
        c.send("GET / HT").half_close()
        assert c.ended()
    server.until(connections=0, requests=0)


def test_trailing_data_is_the_next_request(serve):
    with serve(echo).connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabcX")
        assert c.response().body == b"POST / abc"
        c.send("YZ / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert c.response().body == b"XYZ / "


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "X-OWN", "get"]
)
def test_any_method_reaches_the_handler(serve, method):
    r = serve(echo).ask(f"{method} / HTTP/1.1\r\nHost: t\r\n\r\n")
    assert r.body == f"{method} / ".encode()


def test_connect_and_options_reach_the_handler(serve):
    server = serve(lambda w, r: [r.method, r.target, r.path, r.host])
    got = json.loads(server.ask("CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:443\r\n\r\n").body)
    assert got == ["CONNECT", "a.b:443", "", "a.b:443"]
    got = json.loads(server.ask("OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n").body)
    assert got == ["OPTIONS", "*", "*", "t"]


def test_upgrade_is_ignored(serve):
    r = serve(echo).get("/", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
    assert (r.status, r.body) == (200, b"GET / ")


def test_head_can_be_as_large_as_allowed(serve):
    server = serve(lambda w, r: str(len(r.headers["a"])), max_header_bytes=65536)
    room = 65536 - len(get("/", "A: \r\n"))
    assert server.get("/", f"A: {'x' * room}\r\n").body == str(room).encode()
    assert server.get("/", f"A: {'x' * (room + 1)}\r\n").status == 431


# --- how requests are cut up ----------------------------------------------------------------------


def test_requests_byte_by_byte(serve):
    requests = (
        get("/1?x=y", "A: b\r\n").encode()
        + b"POST /2 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello"
        + chunked(b"ab", b"cde", target="/3", trailer=b"T: x\r\n")
        + get("/4", "Connection: close\r\n").encode()
    )
    with serve(echo).connect() as c:
        for i in range(len(requests)):
            c.send(requests[i : i + 1])
        bodies = [c.response().body for _ in range(4)]
        assert bodies == [b"GET /1 ", b"POST /2 hello", b"POST /3 abcde", b"GET /4 "]
        assert c.ended()


def test_responses_agree_with_h11(serve):
    """An independent parser in the client's role, which checks the framing strictly."""

    def handler(w, r):
        match r.path:
            case "/stream":
                for piece in ("a", "b" * 70_000, "c"):
                    w.write(piece)
                    w.flush()
            case "/declared":
                w.headers["Content-Length"] = 3
                w.flush()
                w.write("abc")
            case "/204":
                return 204
            case "/fail":
                raise http.HTTPError(403)
            case _:
                return r.body.read()

    server = serve(handler)
    with server.connect() as c:
        conn = h11.Connection(h11.CLIENT)
        for method, path, body in [
            ("GET", "/stream", b""),
            ("HEAD", "/stream", b""),
            ("GET", "/declared", b""),
            ("POST", "/echo", b"x" * 100_000),
            ("HEAD", "/declared", b""),
            ("DELETE", "/204", b""),
            ("GET", "/fail", b""),
            ("POST", "/echo", b""),
        ]:
            fields = [("Host", "t")]
            if method == "POST":
                fields.append(("Transfer-Encoding", "chunked"))
            c.send(conn.send(h11.Request(method=method, target=path, headers=fields)) or b"")
            if body:
                c.send(conn.send(h11.Data(data=body)) or b"")
            c.send(conn.send(h11.EndOfMessage()) or b"")
            got = b""
            status = 0
            while True:
                event: Any = conn.next_event()
                if event is h11.NEED_DATA:
                    conn.receive_data(c.sock.recv(1 << 16))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    got += event.data
                elif isinstance(event, h11.EndOfMessage):
                    break
            want = {"/stream": b"a" + b"b" * 70_000 + b"c", "/declared": b"abc", "/204": b""}
            if method == "HEAD":
                assert got == b""
            elif path == "/fail":
                assert (status, got) == (403, b"Forbidden\n")
            else:
                assert got == want.get(path, body)
            conn.start_next_cycle()


def test_large_bodies_both_ways(serve):
    data = bytes(range(256)) * 20_000
    server = serve(lambda w, r: r.body.read())
    with server.connect() as c:
        c.send(f"PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        assert c.response().body == data
        c.send(chunked(*(data[i : i + 50_000] for i in range(0, len(data), 50_000))))
        assert c.response().body == data


def test_body_echoed_while_it_comes(serve):
    """Read and written at the same time, more than the sockets' buffers hold."""
    import threading

    def handler(w, r):
        for piece in r.body:
            w.write(piece)

    data = bytes(range(256)) * 40_000
    with serve(handler, max_body_bytes=None).connect() as c:
        head = f"PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        sender = threading.Thread(target=c.send, args=(head + data,))
        sender.start()
        try:
            assert c.response().body == data
        finally:
            c.sock.shutdown(socket.SHUT_RDWR)
            sender.join(SAFETY)
