"""Responses stay well-formed whatever a handler does: injection, lengths, 1xx, statuses."""

from __future__ import annotations

import pytest

import runtime
from runtime import http

SAFETY = 60.0


def get(target="/", fields="", version="1.1", method="GET"):
    return f"{method} {target} HTTP/{version}\r\nHost: t\r\n{fields}\r\n"


# --- header injection -----------------------------------------------------------------------------

BAD_VALUES = ["a\r\nX: y", "a\rb", "a\nb", "\0", "a\x7f", "\x0b", "\x1b[0m", "€", "\udcff"]
BAD_NAMES = ["", "a b", "a:", "a\r\nX", "\n", "\0", "é", "a\x7f", "(x)", "a\t", " a"]


@pytest.mark.parametrize("value", BAD_VALUES)
@pytest.mark.parametrize("how", ["set", "add", "item", "informational"])
def test_value_that_ends_the_line_raises(serve, value, how):
    def handler(w, r):
        with pytest.raises(ValueError, match="X-Name"):
            match how:
                case "set":
                    w.headers.set("X-Name", value)
                case "add":
                    w.headers.add("X-Name", value)
                case "item":
                    w.headers["X-Name"] = value
                case _:
                    w.write_informational(103, {"X-Name": value})
        return "intact"

    r = serve(handler).get()
    assert (r.status, r.body, r.all("x")) == (200, b"intact", [])


@pytest.mark.parametrize("name", BAD_NAMES)
def test_name_that_is_no_token_raises(serve, name):
    def handler(w, r):
        for setter in (w.headers.set, w.headers.add, w.headers.__setitem__):
            with pytest.raises(ValueError) as caught:
                setter(name, "x")
            assert repr(name) in str(caught.value)
        return "intact"

    assert serve(handler).get().body == b"intact"


# --- what a handler may say of the framing --------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        [("Transfer-Encoding", "gzip")],
        [("Transfer-Encoding", "gzip, chunked")],
        [("Transfer-Encoding", "identity")],
        [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "1")],
        [("Content-Length", "-1")],
        [("Content-Length", "")],
        [("Content-Length", "1x")],
        [("Content-Length", "1, 1")],
        [("Content-Length", "99999999999999999999")],
        [("Content-Length", "1"), ("Content-Length", "1")],
        [("Content-Length", "1"), ("Content-Length", "2")],
    ],
)
@pytest.mark.parametrize("flush", [False, True])
def test_framing_of_the_handler_that_is_wrong_is_500(serve, fields, flush, caplog):
    def handler(w, r):
        for name, value in fields:
            w.headers.add(name, value)
        w.write("x")
        if flush:
            w.flush()

    with serve(handler).connect() as c:
        assert c.send(get()).response().status == 500
        assert c.send(get()).response().status == 500
    assert len(caplog.records) == 2
    assert fields[0][0] in str(caplog.records[0].exc_info[1])


def test_coding_chunked_may_be_set(serve):
    def handler(w, r):
        w.headers["Transfer-Encoding"] = "Chunked"
        w.write("a")
        w.flush()
        w.write("b")

    assert serve(handler).get().body == b"ab"


@pytest.mark.parametrize("written", [0, 2, 4, 70_000])
@pytest.mark.parametrize("flush", [False, True])
def test_length_that_does_not_match_never_reaches_the_client_as_whole(
    serve, written, flush, caplog
):
    def handler(w, r):
        w.headers["Content-Length"] = 3
        if flush:
            w.flush()
        w.write("x" * written)

    with serve(handler).connect() as c:
        c.send(get() + get())
        r = c.head()
        if r.status == 500:
            assert not flush
        else:
            assert r["content-length"] == "3"
            assert len(c.rest()) < 3
    assert 1 <= len(caplog.records) <= 2
    assert "Content-Length" in str(caplog.records[0].exc_info[1])


def test_write_over_the_declared_length_raises_where_it_is_written(serve, caplog):
    caught = []

    def handler(w, r):
        w.headers["Content-Length"] = 3
        w.flush()
        w.write("ab")
        try:
            w.write("cd")
        except ValueError as exc:
            caught.append(str(exc))

    with serve(handler).connect() as c:
        c.send(get())
        assert c.head()["content-length"] == "3"
        assert c.rest() == b"ab"
    assert "3 bytes" in caught[0]
    assert len(caplog.records) == 1


def test_short_body_closes_the_connection_and_is_logged_once(serve, caplog):
    def handler(w, r):
        w.headers["Content-Length"] = 3
        w.flush()
        w.write("ab")

    with serve(handler).connect() as c:
        c.send(get())
        assert c.head()["content-length"] == "3"
        assert c.rest() == b"ab"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("status", [204, 304, 205])
@pytest.mark.parametrize("how", ["write", "flush", "length", "return"])
def test_status_without_content_has_none(serve, status, how):
    def handler(w, r):
        if how == "return":
            return status
        if how == "length":
            w.headers["Content-Length"] = 3
        w.write_header(status)
        if how != "flush":
            w.write("abc")
        w.flush()

    with serve(handler).connect() as c:
        for _ in range(2):
            r = c.send(get()).head()
            assert r.status == status
            # RFC 9110 8.6, 15.3.6: no length in a 204; one of 0 in a 205.
            assert r.all("content-length") == (["0"] if status == 205 else [])
            assert r.all("transfer-encoding") == []
        assert c.send(get("/", "Connection: close\r\n")).head()["connection"] == "close"
        assert c.ended()


@pytest.mark.parametrize("how", ["write", "stream", "length", "return"])
def test_head_has_the_fields_of_get_and_no_body(serve, how):
    def handler(w, r):
        match how:
            case "return":
                return "abc"
            case "length":
                w.headers["Content-Length"] = 3
            case "stream":
                w.flush()
        w.write("abc")

    with serve(handler).connect() as c:
        want = c.send(get()).response()
        for _ in range(2):
            r = c.send(get(method="HEAD")).response("HEAD")
            assert r.status == 200
            assert r.all("content-length") == want.all("content-length")
        assert c.send(get()).response().body == b"abc"


@pytest.mark.parametrize("status", [-1, 0, 1, 99, 100, 102, 103, 199, 1000, 10**6])
def test_status_out_of_range_raises(serve, status):
    def handler(w, r):
        with pytest.raises(ValueError, match=str(status)):
            w.write_header(status)
        with pytest.raises(OverflowError):
            w.write_header(10**30)
        with pytest.raises(TypeError):
            w.write_header("200")
        return "fine"

    assert serve(handler).get().body == b"fine"


@pytest.mark.parametrize("status", [200, 299, 418, 599, 600, 999])
def test_status_in_range_is_sent(serve, status):
    assert serve(lambda w, r: w.write_header(status)).get().status == status


def test_switching_protocols_without_hijack_is_500(serve, caplog):
    r = serve(lambda w, r: w.write_header(101)).get()
    assert r.status == 500
    assert "hijack" in str(caplog.records[0].exc_info[1])


# --- Connection -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("option", ["close", "Close", "x, close"])
def test_handler_can_close_the_connection(serve, version, option):
    def handler(w, r):
        w.headers["Connection"] = option
        return "x"

    with serve(handler).connect() as c:
        r = c.send(get("/", "Connection: keep-alive\r\n", version)).response()
        assert (r.body, r["connection"]) == (b"x", "close")
        assert c.ended()


def test_handler_cannot_keep_a_connection_alive(serve):
    def handler(w, r):
        w.headers["Connection"] = "keep-alive"
        return "x"

    with serve(handler).connect() as c:
        assert c.send(get("/", "Connection: close\r\n")).response()["connection"] == "close"
        assert c.ended()


def test_connection_option_that_names_a_field_goes_with_it(serve):
    """RFC 9110 15.5.22, 7.8: a 426 says what to upgrade to."""

    def handler(w, r):
        w.headers["Upgrade"] = "websocket"
        w.headers["Connection"] = "Upgrade"
        return 426

    with serve(handler).connect() as c:
        for _ in range(2):
            r = c.send(get()).response()
            assert (r.status, r["connection"], r["upgrade"]) == (426, "Upgrade", "websocket")


# --- CONNECT without hijack -----------------------------------------------------------------------


def test_connect_granted_without_hijack_ends_with_the_connection(serve):
    """RFC 9110 9.3.6: neither length nor coding; what follows is never read as a request."""

    def handler(w, r):
        w.write("tunnel")

    with serve(handler).connect() as c:
        c.send("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n" + get("/smuggled"))
        r = c.response()
        assert (r.status, r.body, r.trailing) == (200, b"tunnel", True)
        assert c.ended()


def test_connect_refused_closes_the_connection(serve):
    with serve(lambda w, r: 403).connect() as c:
        c.send("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n" + get("/smuggled"))
        r = c.response()
        assert (r.status, r["connection"], r["content-length"]) == (403, "close", "10")
        assert c.ended()


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 1\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
)
def test_connect_with_a_body_is_400(serve, framing):
    with serve(lambda w, r: 200).connect() as c:
        r = c.send(f"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n{framing}").response()
        assert (r.status, r["connection"]) == (400, "close")
        assert c.ended()


# --- informational responses ----------------------------------------------------------------------


def interim(c):
    r = c.head()
    assert r.status < 200
    return r.status, r.reason, r.fields


@pytest.mark.parametrize(
    "headers", [{"Link": "</a>"}, [("Link", "</a>")], (p for p in [("Link", "</a>")])]
)
def test_informational_comes_before_the_response(serve, headers):
    gate: runtime.Chan = runtime.Chan()

    def handler(w, r):
        w.write_informational(103, headers)
        gate.recv(timeout=SAFETY)
        w.write_informational(102)
        return "final"

    with serve(handler).connect() as c:
        c.send(get())
        assert interim(c) == (103, "Early Hints", [("Link", "</a>")])
        gate.send(None, timeout=SAFETY)
        assert interim(c) == (102, "Processing", [])
        assert c.response().body == b"final"


def test_informational_takes_headers(serve):
    def handler(w, r):
        h = http.Headers()
        h.add("Link", "</a>")
        h.add("Link", "</b>")
        w.headers["X-Final"] = "1"
        w.write_informational(103, headers=h)
        return "final"

    with serve(handler).connect() as c:
        assert interim(c.send(get()))[2] == [("Link", "</a>"), ("Link", "</b>")]
        assert c.response()["x-final"] == "1"


def test_informational_follows_pipelined_responses(serve):
    def handler(w, r):
        if r.path == "/2":
            w.write_informational(103)
        return r.path

    with serve(handler).connect() as c:
        c.send(get("/1") + get("/2") + get("/3"))
        assert c.response().body == b"/1"
        assert interim(c)[0] == 103
        assert [c.response().body for _ in range(2)] == [b"/2", b"/3"]


def test_informational_is_not_sent_to_http_1_0(serve):
    def handler(w, r):
        w.write_informational(103, {"Link": "</a>"})
        return "final"

    with serve(handler).connect() as c:
        r = c.send(get(version="1.0")).response()
        assert (r.status, r.body) == (200, b"final")
        assert c.ended()


def test_informational_after_the_head_raises(serve):
    def handler(w, r):
        w.write_header(201)
        w.write_informational(103)
        w.flush()
        with pytest.raises(RuntimeError, match="201"):
            w.write_informational(103)

    with serve(handler).connect() as c:
        assert interim(c.send(get()))[0] == 103
        assert c.response().status == 201


@pytest.mark.parametrize("status", [-1, 0, 99, 101, 200, 404, 1000])
def test_informational_with_another_status_raises(serve, status):
    def handler(w, r):
        with pytest.raises(ValueError, match=str(status)):
            w.write_informational(status)
        return "final"

    assert serve(handler).get().body == b"final"


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding"])
def test_informational_that_frames_a_body_raises(serve, name):
    def handler(w, r):
        with pytest.raises(ValueError, match="no body"):
            w.write_informational(103, {name: "1"})
        for bad in (5, [("a",)], [1], [("a", 1.5)]):
            with pytest.raises((TypeError, ValueError)):
                w.write_informational(103, bad)
        return "final"

    assert serve(handler).get().body == b"final"


def test_continue_can_be_sent_by_hand(serve):
    def handler(w, r):
        w.write_informational(100)
        return r.body.read()

    expect = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    with serve(handler).connect() as c:
        for _ in range(2):
            assert interim(c.send(expect))[0] == 100
            r = c.send("hello").response()
            assert (r.body, r.all("connection")) == (b"hello", [])


def test_length_of_what_was_not_written_for_head_is_not_told(serve):
    server = serve(lambda w, r: w.write_header(200))
    with server.connect() as c:
        r = c.send("HEAD / HTTP/1.1\r\nHost: t\r\n\r\n").response("HEAD")
        assert (r.status, r.all("content-length")) == (200, [])
        assert c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response()["content-length"] == "0"
