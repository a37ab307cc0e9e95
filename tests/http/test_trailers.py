"""Fields after chunked bodies (RFC 9110 6.5), of requests and of responses."""

from __future__ import annotations

import json

import pytest

from runtime import http

HEAD = b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"3\r\nabc\r\n"
SECTION = b"X-Sum: 1\r\nx-sum:\t2 \r\nEmpty:\r\n"
PAIRS = [["X-Sum", "1"], ["x-sum", "2"], ["Empty", ""]]


def report(w, r):
    """The body and the trailers, those before the body was read included."""
    before = r.trailers.items()
    body = r.body.read()
    return [before, body.decode(), r.trailers.items()]


# --- requests -------------------------------------------------------------------------------------


def test_request_trailers_are_there_once_the_body_was_read(serve):
    with serve(report).connect() as c:
        for _ in range(2):
            c.send(HEAD + CHUNK + b"0\r\n" + SECTION + b"\r\n")
            assert json.loads(c.response().body) == [[], "abc", PAIRS]


def test_request_trailers_byte_by_byte(serve):
    with serve(report).connect() as c:
        for byte in HEAD + CHUNK + b"0;ext\r\n" + SECTION + b"\r\n" + HEAD + b"0\r\n\r\n":
            c.send(bytes([byte]))
        assert json.loads(c.response().body) == [[], "abc", PAIRS]
        assert json.loads(c.response().body) == [[], "", []]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_request_trailers_with_small_reads(serve, size):
    def handler(w, r):
        body = b""
        while piece := r.body.read(size):
            assert not r.trailers
            body += piece
        return [body.decode(), r.trailers.items()]

    with serve(handler).connect() as c:
        c.send(HEAD + CHUNK + b"0\r\n" + SECTION + b"\r\n")
        assert json.loads(c.response().body) == ["abc", PAIRS]


def test_request_trailers_are_empty_without_any(serve):
    server = serve(report)
    assert json.loads(server.ask(HEAD + b"0\r\n\r\n").body) == [[], "", []]
    assert json.loads(server.get().body) == [[], "", []]
    sized = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nab"
    assert json.loads(server.ask(sized).body) == [[], "ab", []]


FORBIDDEN = [
    "Authorization", "Cache-Control", "Connection", "Content-Encoding", "Content-Range",
    "Content-Type", "Cookie", "Expect", "Host", "If-Match", "If-None-Match", "If-Range",
    "Keep-Alive", "Max-Forwards", "Pragma", "Proxy-Authorization", "Range", "Set-Cookie", "TE",
    "Trailer", "Upgrade", "WWW-Authenticate",
]  # fmt: skip
FRAMING = ["Content-Length", "Transfer-Encoding"]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_request_trailer_that_must_not_be_one_is_dropped(serve, name):
    with serve(report).connect() as c:
        for spelling in (name, name.lower(), name.upper()):
            c.send(HEAD + f"0\r\nA: b\r\n{spelling}: 5\r\nC: d\r\n\r\n".encode())
            assert json.loads(c.response().body) == [[], "", [["A", "b"], ["C", "d"]]]


def test_request_trailers_are_not_headers(serve):
    server = serve(lambda w, r: [len(r.body.read()), "x-role" in r.headers, "x-role" in r.trailers])
    assert json.loads(server.ask(HEAD + b"0\r\nX-Role: admin\r\n\r\n").body) == [0, False, True]


def test_request_trailers_outlive_the_handler(serve):
    kept = []

    def handler(w, r):
        r.body.read()
        kept.append(r)

    with serve(handler).connect() as c:
        for i in range(20):
            c.send(HEAD + b"0\r\nN: %d\r\n\r\n" % i)
            c.response()
    assert [r.trailers["n"] for r in kept] == [str(i) for i in range(20)]
    assert kept[0].trailers is kept[0].trailers


@pytest.mark.parametrize(
    "section",
    [
        b" A: b\r\n", b"A : b\r\n", b"A: b\r\n c\r\n", b"A\r\n", b": b\r\n", b"A: b\n",
        b"Content-Length: 5\r\n", b"transfer-encoding: chunked\r\n", b"A: \0\r\n",
        b"A: b\rc\r\n", b"A: " + b"x" * 8192 + b"\r\n", b"A: b\r\n" * 129,
    ],
)  # fmt: skip
def test_request_trailers_malformed_or_too_many_are_400(serve, section, caplog):
    with serve(report).connect() as c:
        r = c.send(HEAD + b"0\r\n" + section + b"\r\n").response()
        assert (r.status, r["connection"]) == (400, "close")
        assert c.ended()
    assert not caplog.records


def test_request_trailers_up_to_the_limits(serve):
    server = serve(lambda w, r: [len(r.body.read()), len(r.trailers)])
    assert json.loads(server.ask(HEAD + b"0\r\n" + b"A: b\r\n" * 128 + b"\r\n").body) == [0, 128]
    large = b"A: " + b"x" * (8192 - 5) + b"\r\n"
    assert json.loads(server.ask(HEAD + b"0\r\n" + large + b"\r\n").body) == [0, 1]


# --- responses ------------------------------------------------------------------------------------


def trailers_of(c, method="GET"):
    """A chunked response by hand: its head, body and trailer lines."""
    r = c.head()
    assert r["transfer-encoding"] == "chunked"
    body = b""
    while True:
        size = int(c.line(), 16)
        if size == 0:
            break
        body += c.exactly(size)
        assert c.exactly(2) == b"\r\n"
    lines = []
    while line := c.line():
        lines.append(line.decode("latin-1"))
    return r, body, lines


def test_response_trailers_follow_the_body(serve):
    def handler(w, r):
        w.trailers["X-Sum"] = "1"
        w.write("abc")
        w.trailers.add("X-Late", 2)

    with serve(handler).connect() as c:
        for _ in range(2):
            c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            r, body, lines = trailers_of(c)
            assert (body, lines) == (b"abc", ["X-Sum: 1", "X-Late: 2"])
            assert r["trailer"] == "X-Sum, X-Late"
            assert r.all("content-length") == []


def test_response_trailers_set_after_the_head_are_not_announced(serve):
    def handler(w, r):
        w.trailers["A"] = "1"
        w.write("ab")
        w.flush()
        w.write("c" * 70_000)
        w.trailers["A"] = "2"
        w.trailers["B"] = "\xe9"

    with serve(handler).connect() as c:
        c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        r, body, lines = trailers_of(c)
        assert (r["trailer"], lines) == ("A", ["A: 2", "B: \xe9"])
        assert body == b"ab" + b"c" * 70_000


def test_response_trailers_of_a_returned_body(serve):
    def handler(w, r):
        w.trailers["A"] = "1"
        return {"x": 1}

    with serve(handler).connect() as c:
        c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        r, body, lines = trailers_of(c)
        assert (r["content-type"], body, lines) == ("application/json", b'{"x":1}', ["A: 1"])


def test_response_trailers_unused_change_nothing(serve):
    def handler(w, r):
        assert len(w.trailers) == 0
        return "x"

    r = serve(handler).get()
    assert (r.body, r["content-length"], r.all("trailer")) == (b"x", "1", [])


@pytest.mark.parametrize(
    ("request_", "status"),
    [("GET / HTTP/1.0", 200), ("HEAD / HTTP/1.1", 200), ("GET / HTTP/1.1", 204),
     ("GET /length HTTP/1.1", 200)],
)  # fmt: skip
@pytest.mark.parametrize("flush", [False, True])
def test_response_trailers_are_dropped_without_chunks(serve, request_, status, flush):
    def handler(w, r):
        w.trailers["A"] = "1"
        if r.path == "/length":
            w.headers["Content-Length"] = 1
        w.write_header(status)
        if status != 204:
            w.write("x")
        if flush:
            w.flush()

    with serve(handler).connect() as c:
        c.send(f"{request_}\r\nHost: t\r\nConnection: close\r\n\r\n")
        method = request_.split()[0]
        r = c.response(method)
        assert r.status == status
        assert r.all("trailer") == []
        assert r.body == (b"x" if status == 200 and method == "GET" else b"")
        assert c.ended()


@pytest.mark.parametrize("name", [*FORBIDDEN, *FRAMING])
def test_response_trailer_that_must_not_be_one_raises(serve, name):
    def handler(w, r):
        with pytest.raises(ValueError, match=name):
            w.trailers[name] = "x"
        with pytest.raises(ValueError, match=name.lower()):
            w.trailers.add(name.lower(), "x")
        return len(w.trailers) or 200

    assert serve(handler).get().status == 200


def test_response_trailers_cannot_split_the_response(serve):
    def handler(w, r):
        bad = [("A\r\nB", "x"), ("A", "x\r\nB: y"), ("A", "\0"), ("", "x"), ("A", "€")]
        for name, value in bad:
            with pytest.raises(ValueError, match=r"header"):
                w.trailers[name] = value
        return 200

    assert serve(handler).get().status == 200


def test_trailers_of_a_response_are_read_by_h11(serve):
    import h11

    def handler(w, r):
        w.trailers["X-Sum"] = "1"
        w.write("abc")

    with serve(handler).connect() as c:
        conn = h11.Connection(h11.CLIENT)
        c.send(conn.send(h11.Request(method="GET", target="/", headers=[("Host", "t")])) or b"")
        conn.send(h11.EndOfMessage())
        while not isinstance(event := conn.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                conn.receive_data(c.sock.recv(1 << 16))
        assert list(event.headers) == [(b"x-sum", b"1")]


def test_headers_of_a_handler_stay_as_they_were(serve):
    """Only trailers are restricted."""

    def handler(w, r):
        w.headers["Set-Cookie"] = "a=b"
        h = http.Headers()
        h["Host"] = "x"
        return 200

    assert serve(handler).get()["set-cookie"] == "a=b"
