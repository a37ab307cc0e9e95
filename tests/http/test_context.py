"""r.context: what ends it, and what does not."""

from __future__ import annotations

import threading

import pytest

import runtime
from runtime import context, http

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(params=["socket", "stream"])
def transport(request):
    return request.param


class Held:
    """A handler that waits until its context ends; `ended` gets why."""

    def __init__(self) -> None:
        self.begun: runtime.Chan = runtime.Chan(16)
        self.ended: runtime.Chan = runtime.Chan(16)

    def __call__(self, w, r):
        ctx = r.context
        self.begun.send(ctx)
        try:
            runtime.Chan().recv(timeout=SAFETY, ctx=ctx)
        except context.Canceled as exc:
            self.ended.send(exc.__cause__)
        return "late"

    def wait(self):
        return self.ended.recv(timeout=SAFETY)


@pytest.fixture
def held():
    return Held()


def test_context_is_live_and_the_same_while_the_handler_runs(serve):
    def handler(w, r):
        assert isinstance(r.context, context.Context)
        assert r.context is r.context
        assert r.context.err() is None
        assert r.context.deadline() is None
        assert "request" in repr(r.context)
        return "ok"

    assert serve(handler).get().body == b"ok"


def test_context_ends_when_the_handler_returns(serve):
    kept = runtime.Chan(1)

    def handler(w, r):
        kept.send(r.context)

    with serve(handler).connect() as c:
        assert c.send(GET).response().status == 200
        ctx = kept.recv(timeout=SAFETY)
        with pytest.raises(context.Canceled):
            runtime.Chan().recv(timeout=SAFETY, ctx=ctx)
        assert ctx.err().__cause__ is None


def test_context_ends_when_the_handler_fails(serve, caplog):
    kept = runtime.Chan(1)

    def handler(w, r):
        kept.send(r.context)
        raise ZeroDivisionError

    assert serve(handler).get().status == 500
    with pytest.raises(context.Canceled):
        runtime.Chan().recv(timeout=SAFETY, ctx=kept.recv(timeout=SAFETY))


def test_context_of_a_request_that_is_over_has_ended(serve):
    kept = runtime.Chan(1)
    server = serve(lambda w, r: kept.send(r))
    with server.connect() as c:
        c.send(GET + GET)
        r = kept.recv(timeout=SAFETY)
        kept.recv(timeout=SAFETY)  # so the first is over
    assert isinstance(r.context.err(), context.Canceled)
    assert r.context is r.context


@pytest.mark.parametrize("end", ["close", "reset", "half_close"])
def test_context_ends_when_the_client_goes(serve, held, end):
    server = serve(held)
    with server.connect() as c:
        c.send(GET)
        held.begun.recv(timeout=SAFETY)
        getattr(c, end)()
        cause = held.wait()
    assert isinstance(cause, ConnectionError)
    assert "the client has closed the connection" in str(cause)


@pytest.mark.parametrize("transport", ["socket"])  # of a stream this is not known, as in Go
@pytest.mark.parametrize("sent", [GET + GET, GET + "x" * 30_000, POST + "12345"])
def test_context_ends_when_the_client_goes_with_input_unread(serve, held, sent):
    with serve(held).connect() as c:
        c.send(sent)
        held.begun.recv(timeout=SAFETY)
        c.half_close()
        assert isinstance(held.wait(), ConnectionError)


@pytest.mark.parametrize(("first", "then"), [(GET, GET), (POST, "1234567890" + GET)])
def test_pipelined_request_does_not_end_the_context(serve, first, then):
    go_on: runtime.Chan = runtime.Chan()
    begun: runtime.Chan = runtime.Chan(2)

    def handler(w, r):
        begun.send(r.context)
        go_on.recv(timeout=SAFETY)
        return "fine" if r.context.err() is None else "ended"

    with serve(handler).connect() as c:
        c.send(first)
        begun.recv(timeout=SAFETY)
        c.send(then)
        for _ in range(2):
            go_on.send(None, timeout=SAFETY)
        for _ in range(2):
            assert c.response().body == b"fine"


def test_context_ends_while_the_handler_computes(serve):
    begun: runtime.Chan = runtime.Chan(1)
    ended: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        ctx = r.context
        begun.send(None)
        while ctx.err() is None:
            pass
        ended.send(None)

    with serve(handler).connect() as c:
        c.send(GET)
        begun.recv(timeout=SAFETY)
        c.reset()
        ended.recv(timeout=SAFETY)


def test_context_made_after_the_client_has_gone_has_ended(serve):
    begun: runtime.Chan = runtime.Chan(1)
    ended: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        begun.send(None)
        with pytest.raises(ConnectionError):
            r.body.read()
        ended.send(r.context.err())

    with serve(handler).connect() as c:
        c.send(POST)
        begun.recv(timeout=SAFETY)
        c.close()
        assert isinstance(ended.recv(timeout=SAFETY), context.Canceled)


def test_closing_the_server_ends_contexts(serve, held):
    server = serve(held)
    with server.connect() as c:
        c.send(GET)
        held.begun.recv(timeout=SAFETY)
        server.server.close()
        assert "the server was closed" in str(held.wait())
        assert c.ended()


def test_shutdown_ends_contexts_only_when_its_time_is_up(serve, held):
    server = serve(held)
    with server.connect() as c:
        c.send(GET)
        ctx = held.begun.recv(timeout=SAFETY)
        done = []
        thread = threading.Thread(target=lambda: done.append(server.server.shutdown(0.05)))
        thread.start()
        server.until_refused()
        assert "the server was closed" in str(held.wait())
        thread.join(SAFETY)
        assert done == [False] and ctx.err() is not None


def test_contexts_descend_from_the_base(serve, held):
    base, cancel = context.with_cancel(context.with_value(None, "who", "base"))
    server = serve(held, base_context=base)
    with server.connect() as c:
        c.send(GET)
        ctx = held.begun.recv(timeout=SAFETY)
        assert ctx.value("who") == "base"
        cancel()
        assert held.wait() is None
        assert c.response().body == b"late"


def test_base_context_may_be_a_function_called_once(serve, held):
    calls = []

    def base():
        calls.append(1)
        return context.with_value(None, "n", len(calls))

    server = serve(lambda w, r: str(r.context.value("n")), base_context=base)
    assert [server.get().body for _ in range(3)] == [b"1"] * 3
    assert calls == [1]


@pytest.mark.parametrize("base", [1, "ctx", object()])
def test_base_context_must_be_a_context(base):
    with pytest.raises(TypeError, match="context"):
        http.Server(lambda w, r: None, base_context=base)


def test_contexts_do_not_stay_with_the_base(serve):
    """What has ended is forgotten, however many there were."""
    base, _ = context.with_cancel()
    server = serve(lambda w, r: str(r.context.err()), base_context=base)
    with server.connect() as c:
        for _ in range(20):
            assert c.send(GET).response().body == b"None"
    server.until(connections=0)
    assert not server.server._contexts._root._children


# --- with_context ---------------------------------------------------------------------------------


def test_with_context_is_a_copy_with_that_context(serve):
    fields = "".join(f"X-{i}: {i}\r\n" for i in range(40))

    def inner(w, r):
        assert r.headers["X-39"] == "39"
        assert r.path_value("name") == "me" and r.pattern == "POST /of/{name}"
        return f"{r.context.value('k')} {r.method} {r.path} {r.query.get('q')} {r.body.read()!r}"

    def outer(w, r):
        copy = r.with_context(context.with_value(r.context, "k", "v"))
        assert copy is not r and copy.context is not r.context
        assert copy.body is r.body
        copy.path_values = {**copy.path_values}
        text = inner(w, copy)
        assert r.body.read() == b""
        return text

    mux = http.ServeMux()
    mux.handle("POST /of/{name}", outer)
    with serve(mux).connect() as c:
        head = f"POST /of/me?q=1 HTTP/1.1\r\nHost: t\r\n{fields}Content-Length: 5\r\n\r\nhello"
        for _ in range(3):
            assert c.send(head).response().body == b"v POST /of/me 1 b'hello'"


def test_copy_reads_json_and_the_form(serve):
    def handler(w, r):
        copy = r.with_context(context.background()).with_context(r.context)
        if r.path == "/json":
            return copy.json()
        assert copy.form() is r.form()
        return dict(copy.form())

    server = serve(handler)
    post = "POST {} HTTP/1.1\r\nHost: t\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n{}"
    body = server.ask(post.format("/json", "application/json", 7, '{"a":1}')).body
    assert body == b'{"a": 1}' or body == b'{"a":1}'
    form = post.format("/form", "application/x-www-form-urlencoded", 3, "a=1")
    assert server.ask(form).status == 200


def test_copy_outlives_the_request(serve):
    kept = runtime.Chan(1)
    server = serve(lambda w, r: kept.send(r.with_context(context.background())))
    with server.connect() as c:
        assert c.send(GET).response().status == 200
    r = kept.recv(timeout=SAFETY)
    server.until(connections=0)
    assert r.path == "/" and r.headers["host"] == "test" and r.context is context.background()
    with pytest.raises(RuntimeError, match="has returned"):
        r.body.read()


@pytest.mark.parametrize("bad", [None, 1, "x"])
def test_with_context_needs_a_context(serve, bad):
    def handler(w, r):
        with pytest.raises(TypeError):
            r.with_context(bad)
        return "ok"

    assert serve(handler).get().body == b"ok"


# --- several threads ------------------------------------------------------------------------------


def test_contexts_end_under_load_with_clients_that_go(serve, procs):
    """Each request waits for its end in several goroutines; nothing is left behind."""
    ended = runtime.Chan(1 << 12)

    def handler(w, r):
        def wait():
            with pytest.raises(context.Canceled):
                runtime.Chan().recv(timeout=SAFETY, ctx=r.context)
            ended.send(None)

        gs = [runtime.go(wait) for _ in range(3)]
        if r.path == "/wait":
            for g in gs:
                g.join()

    server = serve(handler)
    for i in range(60):
        with server.connect() as c:
            if i % 2:
                c.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
                server.until(active=1)
                if i % 3:
                    c.reset()
            else:
                assert c.send(GET).response().status == 200
        for _ in range(3):
            ended.recv(timeout=SAFETY)
    server.until(connections=0)


def test_body_that_a_copy_is_given_is_the_requests(serve):
    limited = http.max_bytes_handler(lambda w, r: r.body.read(), 10)

    def handler(w, r):
        return limited(w, r.with_context(context.with_value(r.context, "k", "v")))

    body = "14\r\n" + "x" * 20 + "\r\n0\r\n\r\n"
    head = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serve(handler).connect() as c:
        assert c.send(head + body).response().status == 413


def test_copy_has_the_trailers(serve):
    def handler(w, r):
        copy = r.with_context(context.with_value(r.context, "k", "v"))
        copy.body.read()
        return dict(copy.trailers.items())

    head = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serve(handler).connect() as c:
        assert c.send(head + "0\r\nX-Sum: 5\r\n\r\n").response().body == b'{"X-Sum":"5"}'
