"""http.event_stream: server-sent events."""

from __future__ import annotations

import pytest

import runtime
from runtime import http, httptest
from runtime.testing import bubble

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: t\r\n\r\n"


@pytest.fixture(params=["socket", "stream"])
def transport(request):
    return request.param


def events(body: str) -> list[dict[str, str]]:
    """Parsed as the HTML standard says (section 9.2.6)."""
    found, current = [], {}
    for line in body.replace("\r\n", "\n").split("\n"):
        if line == "":
            if "data" in current:
                found.append(current | {"data": current["data"][:-1]})
            current = {}
            continue
        name, _, value = line.partition(":")
        value = value[1:] if value[:1] == " " else value
        if name == "data":
            current["data"] = current.get("data", "") + value + "\n"
        elif name:
            current[name] = value
    return found


def test_events_as_a_browser_reads_them(serve):
    def handler(w, r):
        with http.event_stream(w, r, retry=2.5) as stream:
            stream.send("hello")
            stream.send("two\nlines\r\nor three\rfour", event="text", id=7)
            stream.comment("nobody\nsees this")
            stream.send({"é": [1, None]}, id="x", retry=1)
            stream.send("")

    response = serve(handler).get()
    assert response["content-type"] == "text/event-stream"
    assert response["cache-control"] == "no-store"
    assert response.body.startswith(b"retry: 2500\n\n")
    assert events(response.body.decode()) == [
        {"data": "hello"},
        {"data": "two\nlines\nor three\nfour", "event": "text", "id": "7"},
        {"data": '{"é":[1,null]}', "id": "x", "retry": "1000"},
        {"data": ""},
    ]


def test_events_arrive_one_by_one(serve):
    go_on: runtime.Chan = runtime.Chan()

    def handler(w, r):
        with http.event_stream(w, r) as stream:
            for n in range(3):
                go_on.recv(timeout=SAFETY)
                stream.send(n)

    with serve(handler).connect() as c:
        c.send(GET)
        assert c.head().status == 200
        for n in range(3):
            go_on.send(None, timeout=SAFETY)
            while f"data: {n}\n\n".encode() not in c.buf:
                assert c._more()


def test_last_event_id(serve):
    def handler(w, r):
        with http.event_stream(w, r) as stream:
            stream.send(repr(stream.last_event_id))

    server = serve(handler)
    assert b"data: ''" in server.get().body
    with server.connect() as c:
        c.send("GET / HTTP/1.1\r\nHost: t\r\nLast-Event-ID: 41\r\n\r\n")
        assert b"data: '41'" in c.response().body


def test_client_that_goes_ends_the_stream(serve):
    begun, ended = runtime.Chan(1), runtime.Chan(1)

    def handler(w, r):
        with http.event_stream(w, r) as stream:
            begun.send(None)
            try:
                while True:
                    stream.send("x")
                    runtime.sleep(0.001)
            except ConnectionError as exc:
                ended.send(exc)

    server = serve(handler)
    with server.connect() as c:
        c.send(GET)
        begun.recv(timeout=SAFETY)
    assert isinstance(ended.recv(timeout=SAFETY), ConnectionError)
    server.until(connections=0)


@pytest.mark.parametrize("slow", ["wait", "drop", "close"])
def test_slow_client(serve, slow):
    """It reads nothing until the handler has told what became of its events."""
    n, size = 120, 100_000
    told: runtime.Chan = runtime.Chan(1)

    def handler(w, r):
        with http.event_stream(w, r, buffer=4, slow=slow) as stream:
            try:
                for i in range(n):
                    stream.send("x" * size, id=i)
                    runtime.gosched()
            except TimeoutError:
                told.send("closed")
                raise
            told.send(stream.dropped)

    server = serve(handler, write_timeout=SAFETY)
    with server.connect(rcvbuf=4096) as c:
        c.send(GET)
        if slow == "wait":
            got = events(c.response().body.decode())
            assert [int(e["id"]) for e in got] == list(range(n))
            assert told.recv(timeout=SAFETY) == 0
        elif slow == "drop":
            dropped = told.recv(timeout=SAFETY)
            assert dropped > 20
            got = [int(e["id"]) for e in events(c.response().body.decode())]
            assert len(got) == n - dropped
            assert got == sorted(got) and got[-1] == n - 1
        else:
            assert told.recv(timeout=SAFETY) == "closed"


def test_quiet_stream_is_kept_alive():
    def check():
        def handler(w, r):
            with http.event_stream(w, r, keep_alive=10) as stream:
                runtime.sleep(35)
                stream.send("late")

        with httptest.Server(handler) as server:
            with server.client() as client:
                text = client.get("/").text
            assert text == ":\n\n" * 3 + "data: late\n\n"

    bubble(check)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"slow": "stop"}, "slow"), ({"keep_alive": 0}, "keep_alive"), ({"buffer": 0}, "buffer"),
     ({"retry": -1}, "retry")],
)  # fmt: skip
def test_event_stream_that_makes_no_sense_is_refused_before_it_begins(options, message):
    w, r = httptest.ResponseRecorder(), httptest.new_request("GET", "/")
    with pytest.raises(ValueError, match=message):
        http.event_stream(w, r, **options)
    assert not w.flushed


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_event_fields_are_one_line(serve, bad):
    def handler(w, r):
        with http.event_stream(w, r) as stream:
            for fields in ({"event": bad}, {"id": bad}):
                with pytest.raises(ValueError, match="one line"):
                    stream.send("x", **fields)
            with pytest.raises(ValueError, match="retry"):
                stream.send("x", retry=float("inf"))
        with pytest.raises(RuntimeError, match="closed"):
            stream.send("x")
        stream.close()

    assert serve(handler).get().body == b""
