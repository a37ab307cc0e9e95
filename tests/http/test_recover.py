"""http.middleware: recover, body_limit and time_out."""

from __future__ import annotations

import gzip
import logging

import pytest

import runtime
from runtime import http, httptest
from runtime.http import middleware
from runtime.testing import bubble

SAFETY = 60.0
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n"


@pytest.fixture(params=["socket", "stream"])
def transport(request):
    return request.param


DIGESTS = ("Content-Digest", "Content-MD5", "Repr-Digest", "Digest")


def fail(w, r):
    w.headers["ETag"] = '"x"'
    w.headers["Content-Type"] = "image/png"
    w.headers["Content-Length"] = 7
    for name in DIGESTS:
        w.headers[name] = "sha-256=:AAAA:"
    w.headers["X-Kept"] = "1"
    if r.query.get("status"):
        w.write_header(201)
    if r.query.get("write"):
        w.write("partial")
    raise LookupError("secret detail")


# --- recover --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/", "/?status=1", "/?write=1", "/?status=1&write=1"])
@pytest.mark.parametrize(
    ("answer", "body", "kind"),
    [
        (None, b"Internal Server Error\n", "text/plain; charset=utf-8"),
        ("<html>error {id}", f"<html>error {TRACE}".encode(), "text/html; charset=utf-8"),
        (b"sorry", b"sorry", "text/plain; charset=utf-8"),
        ({"error": 1}, b'{"error":1}', "application/json"),
        (
            lambda w, r: {"kind": type(r.state["error"]).__name__},
            b'{"kind":"LookupError"}',
            "application/json",
        ),
    ],
)
def test_failure_is_answered_and_logged(serve, caplog, target, answer, body, kind):
    mux = http.ServeMux()
    mux.use(middleware.request_id(), middleware.recover(answer))
    mux.handle("/", fail)
    with caplog.at_level(logging.ERROR, "runtime.http"):
        response = serve(mux).get(target, PARENT)
    assert (response.status, response.body, response["content-type"]) == (500, body, kind)
    assert response["x-kept"] == "1" and response["x-request-id"] == TRACE
    assert [response.all(name.lower()) for name in ("etag", *DIGESTS)] == [[]] * 5
    (record,) = caplog.records
    assert record.getMessage() == f"a handler failed (GET {target}, request {TRACE})"
    assert (record.route, record.request_id) == ("/", TRACE)
    assert record.exc_info[0] is LookupError


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (lambda w, r: 503, 503, b"Service Unavailable\n"),
        (lambda w, r: w.write_header(502) or "down", 502, b"down"),
        (lambda w, r: w.write_header(502) or w.write("down"), 502, b"down"),
        (lambda w, r: http.redirect(w, r, "/sorry", 303), 303, None),
    ],
)
def test_answer_that_is_a_handler_chooses_the_status(serve, answer, status, body):
    log = logging.getLogger("test.recover")
    log.propagate = False
    response = serve(middleware.recover(answer, logger=log)(fail)).get("/?write=1")
    assert response.status == status
    assert body is None or response.body == body


def test_answer_that_fails_is_the_servers_own(serve, caplog):
    def worse(w, r):
        w.write("almost")
        raise KeyError("again")

    with caplog.at_level(logging.ERROR, "runtime.http"):
        response = serve(middleware.recover(worse)(fail)).get()
    assert (response.status, response.body) == (500, b"Internal Server Error\n")
    assert [record.exc_info[0] for record in caplog.records] == [LookupError, KeyError]


def test_http_errors_and_good_responses_pass(serve):
    def handler(w, r):
        if r.path == "/teapot":
            raise http.HTTPError(418)
        return "fine"

    server = serve(middleware.recover("no")(handler))
    assert server.get("/teapot").status == 418
    assert server.get("/").body == b"fine"


def test_response_that_has_begun_is_cut_and_logged_once_with_its_id(serve, caplog):
    def handler(w, r):
        w.write("begun")
        w.flush()
        raise LookupError

    around = middleware.chain(handler, middleware.request_id(), middleware.recover("sorry"))
    with caplog.at_level(logging.ERROR, "runtime.http"), serve(around).connect() as c:
        c.send(f"GET / HTTP/1.1\r\nHost: t\r\n{PARENT}\r\n")
        assert c.head().status == 200
        assert c.rest() == b"5\r\nbegun\r\n"  # and no last chunk
    (record,) = caplog.records
    assert record.getMessage() == (
        f"a handler failed after it had begun to respond (GET /, request {TRACE})"
    )


def test_client_that_goes_is_no_failure(serve, caplog):
    failed: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        try:
            r.body.read()
        except BaseException as exc:
            failed.send(type(exc))
            raise

    server = serve(middleware.recover("sorry")(handler))
    with caplog.at_level(logging.ERROR, "runtime.http"), server.connect() as c:
        c.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nabc").half_close()
        assert c.ended()
    assert issubclass(failed.recv(timeout=SAFETY), ConnectionError)
    assert caplog.records == []


HOLDING = {
    "compress": [middleware.compress(["gzip"])],
    "etag": [middleware.etag()],
    "time_out": [middleware.time_out(SAFETY)],
    "compress and etag": [middleware.compress(["gzip"]), middleware.etag()],
}


@pytest.mark.parametrize("name", HOLDING)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("size", [10, 5000])
def test_with_others_that_hold_a_response_back(serve, name, inside, size):
    def handler(w, r):
        w.headers["Content-Type"] = "text/css"
        w.write("x" * size)
        w.write("y" * size)
        raise LookupError

    log = logging.getLogger("test.recover")
    log.propagate = False
    recover = middleware.recover("sorry " * 1000, logger=log)
    around = [*HOLDING[name], recover] if inside else [recover, *HOLDING[name]]
    server = serve(middleware.chain(handler, *around))
    response = server.get("/", "Accept-Encoding: gzip\r\n")
    assert response.status == 500
    assert response["content-type"] == "text/plain; charset=utf-8"
    coded = inside and "compress" in name
    assert response.all("content-encoding") == (["gzip"] if coded else [])
    body = gzip.decompress(response.body) if coded else response.body
    assert body == b"sorry " * 1000


def test_recorder_takes_back_what_was_written():
    log = logging.getLogger("test.recover")
    log.propagate = False
    handler = middleware.recover("sorry", logger=log)(fail)
    w = httptest.record(handler, httptest.new_request("GET", "/?write=1&status=1"))
    assert (w.status, w.text) == (500, "sorry")

    def flushed(w, r):
        w.flush()
        fail(w, r)

    with pytest.raises(LookupError):
        httptest.record(middleware.recover("sorry")(flushed), httptest.new_request("GET", "/"))


def test_writer_that_cannot_take_back_is_answered_for_while_it_is_untouched():
    class Own:
        def __init__(self):
            self.headers, self.status, self.bytes_written = http.Headers(), 0, 0

        def write_header(self, status):
            self.status = status

    log = logging.getLogger("test.recover")
    log.propagate = False
    r = httptest.new_request("GET", "/")
    w = Own()
    assert middleware.recover("sorry", logger=log)(fail)(w, r) == "sorry"
    assert w.status == 500
    with pytest.raises(LookupError):
        middleware.recover("sorry", logger=log)(fail)(w, r)


def test_answer_that_is_none_is_refused():
    with pytest.raises(TypeError, match="a handler is needed, not int"):
        middleware.recover(500)


# --- body_limit -----------------------------------------------------------------------------------


def test_body_limit_by_length_and_by_what_comes(serve):
    calls: list[int] = []

    def handler(w, r):
        calls.append(r.content_length)
        return str(len(r.body.read()))

    server = serve(middleware.body_limit(5)(handler))

    def post(head, body):
        return server.ask(f"POST / HTTP/1.1\r\nHost: t\r\n{head}\r\n{body}")

    assert post("Content-Length: 5\r\n", "12345").body == b"5"
    assert post("", "").body == b"0"
    assert post("Transfer-Encoding: chunked\r\n", "5\r\n12345\r\n0\r\n\r\n").body == b"5"
    assert calls == [5, 0, -1]
    assert post("Content-Length: 6\r\n", "123456").status == 413
    assert post("Content-Length: 6\r\nExpect: 100-continue\r\n", "").status == 413
    assert calls == [5, 0, -1]  # not even called
    response = post("Transfer-Encoding: chunked\r\n", "6\r\n123456\r\n0\r\n\r\n")
    assert response.status == 413 and response["connection"] == "close"
    assert calls == [5, 0, -1, -1]


def test_body_limit_inside_recover_and_the_lowest_of_two(serve):
    handler = middleware.chain(
        lambda w, r: r.body.read(),
        *(middleware.recover("no"), middleware.body_limit(5), middleware.body_limit(3)),
    )
    request = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n0\r\n\r\n"
    server = serve(handler)
    assert server.ask(request.format("3\r\nabc")).body == b"abc"
    assert server.ask(request.format("4\r\nabcd")).status == 413


@pytest.mark.parametrize(
    ("n", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)]
)
def test_body_limit_that_is_none_is_refused(n, error):
    with pytest.raises(error, match=r"body_limit\(\)"):
        middleware.body_limit(n)


# --- time_out -------------------------------------------------------------------------------------


def test_time_out_answers_503():
    def main():
        def handler(w, r):
            if r.path == "/slow":
                runtime.sleep(10)
            return "in time"

        server = httptest.Server(middleware.time_out(5, "too late")(handler))
        with server, server.client() as client:
            assert client.get("/").text == "in time"
            response = client.get("/slow")
            assert (response.status, response.text) == (503, "too late")
            runtime.sleep(10)

    bubble(main)


def test_time_out_within_cors_and_around_compress_keeps_what_both_say(serve):
    handler = middleware.chain(
        lambda w, r: {"text": "x" * 5000},
        *(middleware.cors(["https://app.example"]), middleware.time_out(SAFETY)),
        middleware.compress(["gzip"]),
    )
    r = serve(handler).get("/", "Origin: https://app.example\r\nAccept-Encoding: gzip\r\n")
    assert r["content-encoding"] == "gzip"
    assert r["access-control-allow-origin"] == "https://app.example"
    assert r.all("vary") == ["Origin", "Accept-Encoding"]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_time_out_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match=r"time_out\(\): seconds must be a positive number"):
        middleware.time_out(seconds)
