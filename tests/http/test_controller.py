"""What a handler sets for its own request: ResponseController, timeout_handler."""

from __future__ import annotations

import pytest

import runtime
from runtime import context, http

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"
CHUNKED = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=["socket", "stream"])
def transport(request):
    return request.param


# --- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_head", [POST, CHUNKED])
@pytest.mark.parametrize("seconds", [0.05, 0, -1])
def test_read_deadline_ends_reading(serve, request_head, seconds):
    def handler(w, r):
        http.ResponseController(w).set_read_deadline(seconds)
        with pytest.raises(TimeoutError, match="reading the request body"):
            r.body.read()
        return "late"

    with serve(handler).connect() as c:
        r = c.send(request_head).response()
        assert (r.body, r["connection"]) == (b"late", "close")
        assert c.ended()


def test_read_deadline_that_has_passed_fails_with_data_there(serve):
    def handler(w, r):
        http.ResponseController(w).set_read_deadline(0)
        return r.body.read()

    with serve(handler).connect() as c:
        assert c.send(POST + "0123456789").response().status == 408


def test_read_deadline_heeded_by_who_waits_already(serve):
    def handler(w, r):
        g = runtime.go(r.body.read)
        while g.state != "waiting":
            runtime.gosched()
        http.ResponseController(w).set_read_deadline(0)
        with pytest.raises(TimeoutError):
            g.join()
        return "late"

    with serve(handler, read_timeout=None).connect() as c:
        assert c.send(POST).response().body == b"late"


def test_read_deadline_takes_the_place_of_the_servers_limits(serve):
    waits: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        http.ResponseController(w).set_read_deadline(None)
        waits.send(None)
        return r.body.read()

    server = serve(handler, read_timeout=0.01, body_timeout=0.01, min_read_rate=1 << 30,
                   rate_grace=0.001)  # fmt: skip
    with server.connect() as c:
        for piece in (POST, *"0123456789"):
            c.send(piece)
            if piece == POST:
                waits.recv(timeout=SAFETY)
            runtime.sleep(0.003)
        assert c.response().body == b"0123456789"


def test_deadlines_are_the_requests_own(serve):
    def handler(w, r):
        if r.path == "/set":
            http.ResponseController(w).set_read_deadline(0)
            http.ResponseController(w).set_write_deadline(1000)
            return "set"
        return r.body.read()

    with serve(handler).connect() as c:
        assert c.send(GET.replace("/ ", "/set ")).response().body == b"set"
        assert c.send(POST + "0123456789").response().body == b"0123456789"


def test_write_deadline_ends_a_response_that_is_not_taken(serve):
    errors: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        http.ResponseController(w).set_write_deadline(0.05)
        try:
            while True:
                w.write(bytes(1 << 20))
        except TimeoutError as exc:
            errors.send(str(exc))
            raise

    server = serve(handler, write_timeout=None, min_write_rate=None)
    with server.connect(rcvbuf=4096) as c:
        c.send(GET)
        assert "sending a response" in errors.recv(timeout=SAFETY)
        server.until(connections=0)


def test_write_deadline_that_has_passed_fails_at_once(serve):
    errors: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        http.ResponseController(w).set_write_deadline(0)
        with pytest.raises(TimeoutError, match="sending a response") as info:
            http.ResponseController(w).flush()
        errors.send(info.value)

    with serve(handler).connect() as c:
        c.send(GET)
        errors.recv(timeout=SAFETY)
        assert c.ended()


def test_write_deadline_of_none_lifts_the_servers(serve):
    go_on: runtime.Chan = runtime.Chan(1)
    size = 16 << 20

    def handler(w, r):
        http.ResponseController(w).set_write_deadline(None)
        go_on.send(None)
        return bytes(size)

    server = serve(handler, write_timeout=0.01, min_write_rate=1 << 30, rate_grace=0.001)
    with server.connect(rcvbuf=4096) as c:
        c.send(GET)
        go_on.recv(timeout=SAFETY)
        runtime.sleep(0.05)
        assert len(c.response().body) == size


@pytest.mark.parametrize("bad", ["x", float("nan")])
def test_deadline_must_be_a_number(serve, bad):
    def handler(w, r):
        with pytest.raises((TypeError, ValueError)):
            http.ResponseController(w).set_read_deadline(bad)
        return "ok"

    assert serve(handler).get().body == b"ok"


def test_controller_of_a_response_that_is_complete(serve):
    kept: runtime.Chan = runtime.Chan(1)
    server = serve(lambda w, r: kept.send(http.ResponseController(w)))
    with server.connect() as c:
        assert c.send(GET).response().status == 200
    server.until(connections=0)
    rc = kept.recv(timeout=SAFETY)
    for call in (rc.flush, lambda: rc.set_read_deadline(1), lambda: rc.set_write_deadline(None)):
        with pytest.raises(RuntimeError, match="has returned"):
            call()


def test_controller_finds_the_writer_inside_another(serve):
    class Counting:
        def __init__(self, w):
            self.w = w

        def unwrap(self):
            return self.w

    def handler(w, r):
        rc = http.ResponseController(Counting(Counting(w)))
        rc.set_write_deadline(5)
        rc.enable_full_duplex()
        w.write("a")
        rc.flush()
        with pytest.raises(http.NotSupportedError, match="Nothing"):
            http.ResponseController(type("Nothing", (), {})()).flush()

    with serve(handler).connect() as c:
        r = c.send(GET).response()
        assert (r.body, r["transfer-encoding"]) == (b"a", "chunked")


def test_full_duplex_needs_nothing(serve):
    def handler(w, r):
        http.ResponseController(w).enable_full_duplex()
        for piece in r.body:
            w.write(piece.upper())
            w.flush()

    with serve(handler).connect() as c:
        assert c.send(CHUNKED).send("3\r\nabc\r\n").head().status == 200
        assert c.chunk() == b"ABC"
        c.send("1\r\nd\r\n0\r\n\r\n")
        assert c.chunk() == b"D"


# --- timeout_handler ------------------------------------------------------------------------------


def test_timeout_handler_passes_a_response_on(serve):
    def handler(w, r):
        w.headers["X-A"] = "1"
        w.headers.add("X-B", "2")
        w.headers.add("X-B", "3")
        w.write_header(201)
        assert w.status == 201
        w.write("he")
        w.write(b"l")
        w.write(bytearray(b"lo"))

    r = serve(http.timeout_handler(handler, SAFETY)).get()
    assert (r.status, r.body, r["x-a"], r.all("x-b")) == (201, b"hello", "1", ["2", "3"])


@pytest.mark.parametrize(
    ("value", "status", "body"),
    [("text", 200, b"text"), (404, 404, b"Not Found\n"), (None, 200, b""), (["a"], 200, b'["a"]')],
)
def test_timeout_handler_passes_a_result_on(serve, value, status, body):
    r = serve(http.timeout_handler(lambda w, r: value, SAFETY)).get()
    assert (r.status, r.body) == (status, body)


@pytest.mark.parametrize(
    ("message", "body", "kind"),
    [("too slow", b"too slow", "text/plain"), ("", b"<h1>Timeout</h1>", "text/html")],
)
def test_timeout_handler_answers_503_when_the_time_is_up(serve, message, body, kind):
    late: runtime.Chan = runtime.Chan(2)

    def handler(w, r):
        w.headers["X-Secret"] = "1"
        try:
            w.write("half a response")
        except http.HandlerTimeoutError:  # the time was up before it began
            late.send(False)
            return
        with pytest.raises(context.DeadlineExceeded):
            runtime.Chan().recv(timeout=SAFETY, ctx=r.context)
        with pytest.raises(http.HandlerTimeoutError):
            while True:
                w.write("more")
        with pytest.raises(http.HandlerTimeoutError):
            w.write_header(200)
        late.send(True)

    times = 0
    with serve(http.timeout_handler(handler, 0.02, message)).connect() as c:
        while times < 2:  # the connection goes on
            r = c.send(GET).response()
            assert r.status == 503 and body in r.body and kind in r["content-type"]
            assert r.all("x-secret") == []
            times += late.recv(timeout=SAFETY)


def test_timeout_handler_is_not_held_up_by_a_handler_that_computes(serve):
    stop: runtime.Chan = runtime.Chan()

    def handler(w, r):
        while not stop.closed:
            pass

    try:
        assert serve(http.timeout_handler(handler, 0.02)).get().status == 503
    finally:
        stop.close()


def test_timeout_handler_raises_what_the_handler_raises(serve, caplog):
    def handler(w, r):
        w.write("nothing of this is sent")
        if r.path == "/teapot":
            raise http.HTTPError(418, "short and stout")
        raise ZeroDivisionError

    server = serve(http.timeout_handler(handler, SAFETY))
    assert server.get("/teapot").status == 418
    assert not caplog.records
    r = server.get("/fail")
    assert (r.status, b"nothing" in r.body) == (500, False)
    assert len(caplog.records) == 1


def test_timeout_handler_logs_what_a_late_handler_raises(serve, caplog, wait_until):
    def handler(w, r):
        with pytest.raises(context.DeadlineExceeded):
            runtime.Chan().recv(timeout=SAFETY, ctx=r.context)
        raise (ZeroDivisionError if r.path == "/" else http.HandlerTimeoutError)

    server = serve(http.timeout_handler(handler, 0.02))
    assert server.get("/expected").status == 503
    assert server.get("/").status == 503
    wait_until("it is logged", lambda: len(caplog.records) > 0)
    assert [r.getMessage() for r in caplog.records] == [
        "a handler failed after its time was up (GET /)"
    ]


def test_timeout_handler_lets_go_when_the_client_does(serve):
    begun, ended = runtime.Chan(1), runtime.Chan(1)

    def handler(w, r):
        begun.send(None)
        with pytest.raises(context.Canceled):
            runtime.Chan().recv(timeout=SAFETY, ctx=r.context)
        ended.send(None)

    server = serve(http.timeout_handler(handler, SAFETY))
    with server.connect() as c:
        c.send(GET)
        begun.recv(timeout=SAFETY)
        c.reset()
        ended.recv(timeout=SAFETY)
        server.until(connections=0)


def test_timeout_handler_reads_the_body_and_late_reads_fail(serve):
    late: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        try:
            return r.body.read()
        except (RuntimeError, ConnectionError) as exc:
            late.send(exc)

    server = serve(http.timeout_handler(handler, SAFETY))
    assert server.ask(POST + "0123456789").body == b"0123456789"
    with serve(http.timeout_handler(handler, 0.05)).connect() as c:
        assert c.send(POST).response().status == 503
        assert "has returned" in str(late.recv(timeout=SAFETY))


def test_timeout_handler_around_a_mux_and_goexit(serve):
    mux = http.ServeMux()
    mux.handle("/{name}", lambda w, r: r.path_value("name"))
    mux.handle("/exit", lambda w, r: runtime.goexit())
    server = serve(http.timeout_handler(mux, SAFETY))
    assert server.get("/me").body == b"me"
    assert server.get("/exit").status == 200


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_timeout_handler_needs_a_time(seconds):
    with pytest.raises(ValueError, match="seconds"):
        http.timeout_handler(lambda w, r: None, seconds)


def test_timeout_handler_needs_a_handler():
    with pytest.raises(TypeError, match="callable"):
        http.timeout_handler(1, 1)


def test_timeout_handler_under_load(serve, procs):
    """Handlers that are just in time or just too late: each client gets one whole answer."""

    def handler(w, r):
        runtime.sleep(0.002)
        w.write("in ")
        w.write("time")

    server = serve(http.timeout_handler(handler, 0.002, "late"))
    conns = [server.connect() for _ in range(16)]
    for _ in range(20):
        for c in conns:
            c.send(GET)
        for c in conns:
            r = c.response()
            assert (r.status, r.body) in [(200, b"in time"), (503, b"late")]
    for c in conns:
        c.close()


def test_write_deadline_that_passes_when_all_is_sent_ends_nothing(serve):
    def handler(w, r):
        controller = http.ResponseController(w)
        controller.set_write_deadline(0.5)
        w.headers["Content-Length"] = 2
        w.write("ok")
        controller.flush()
        runtime.sleep(0.55)

    with serve(handler).connect() as c:
        for _ in range(2):
            assert c.send(GET).response().body == b"ok"


def test_timeout_handler_replaces_fields_that_were_set_before(serve):
    def inner(w, r):
        w.headers["Cache-Control"] = "no-store"
        w.headers.add("X-Both", "1")
        w.headers.add("X-Both", "2")

    timed = http.timeout_handler(inner, SAFETY)

    def outer(w, r):
        w.headers["Cache-Control"] = "public"
        w.headers["X-Outer"] = "kept"
        timed(w, r)

    with serve(outer).connect() as c:
        r = c.send(GET).response()
    assert (r["cache-control"], r["x-outer"]) == ("no-store", "kept")
    assert r.all("x-both") == ["1", "2"]


def test_timeout_handler_adds_to_and_takes_away_fields_that_were_set_before(serve):
    def inner(w, r):
        assert w.headers["X-Gone"] == "1"
        del w.headers["X-Gone"]
        w.headers.add("Set-Cookie", "b=2")
        w.headers.add("Vary", "Accept-Encoding")
        if r.path == "/refused":
            raise http.HTTPError(403)

    timed = http.timeout_handler(inner, SAFETY)

    def outer(w, r):
        w.headers["X-Gone"] = "1"
        w.headers["Set-Cookie"] = "a=1"
        w.headers["Vary"] = "Origin"
        timed(w, r)

    server = serve(outer)
    for target, status in (("/", 200), ("/refused", 403)):
        r = server.get(target)
        assert (r.status, r.all("x-gone")) == (status, [])
        assert r.all("set-cookie") == ["a=1", "b=2"]
        assert r.all("vary") == ["Origin", "Accept-Encoding"]


def test_timeout_handler_that_is_late_has_the_fields_that_were_set_before_alone(serve):
    def inner(w, r):
        w.headers["Vary"] = "Accept"
        w.headers["Set-Cookie"] = "b=2"
        r.context.done().recv_ok()

    timed = http.timeout_handler(inner, 0.01)

    def outer(w, r):
        w.headers["Vary"] = "Origin"
        return timed(w, r)

    r = serve(outer).get()
    assert (r.status, r.all("vary"), r.all("set-cookie")) == (503, ["Origin"], [])
