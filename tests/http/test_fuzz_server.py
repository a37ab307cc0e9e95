"""Properties of the whole server: any cut of any requests, and any bytes at all."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

# --- requests, and what must be answered ----------------------------------------------------------

TOKEN = st.text("abcXYZ019-_!", min_size=1, max_size=12)
TEXT = st.text("".join(map(chr, [*range(0x21, 0x7F), *range(0xA0, 0x100)])), max_size=30)
BODY = st.binary(max_size=200) | st.integers(0, 40_000).map(bytes)


class Sent(NamedTuple):
    data: bytes
    want: dict[str, Any]
    head: bool


@st.composite
def requests(draw: Any) -> Sent:
    method = draw(st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "X-Y"]))
    path = "/" + draw(TOKEN)
    query = draw(st.none() | TOKEN)
    # Names of our own, so that none has a meaning.
    fields = [("x-" + draw(TOKEN), draw(TEXT)) for _ in range(draw(st.integers(0, 4)))]
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    body = b"" if framing == "none" else draw(BODY)
    lines = [f"{method} {path}{'' if query is None else '?' + query} HTTP/1.1", "Host: t"]
    lines += [f"{n}:{draw(st.sampled_from(['', ' ', chr(9)]))}{v} " for n, v in fields]
    wire = body
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        size = draw(st.integers(max(1, len(body) // 50), 50_000))
        cut = [body[i : i + size] for i in range(0, len(body), size)]
        wire = b"".join(b"%X;ext\r\n%b\r\n" % (len(c), c) for c in cut) + b"0\r\nT: 1\r\n\r\n"
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    how = draw(st.sampled_from(["return", "write", "stream", "skip"]))
    # What the handler is to do goes into the path, whose answer has no body for HEAD.
    data = head.replace(path.encode(), f"/{how}{path}".encode(), 1) + wire
    want = {
        "method": method,
        "path": f"/{how}{path}",
        "query": query or "",
        "fields": [[n.lower(), v] for n, v in fields],
        "body": None if how == "skip" else [len(body), sum(body)],
    }
    return Sent(data, want, method == "HEAD")


def report(w, r):
    how = r.path.split("/")[1]
    body = None if how == "skip" else r.body.read()
    found = {
        "method": r.method,
        "path": r.path,
        "query": r.raw_query,
        "fields": [[n.lower(), v] for n, v in r.headers.items() if n.startswith("x-")],
        "body": None if body is None else [len(body), sum(body)],
    }
    if how in ("return", "skip"):
        return found
    text = json.dumps(found)
    w.headers["Content-Type"] = "application/json"
    for i in range(0, len(text), 50):
        w.write(text[i : i + 50])
        if how == "stream":
            w.flush()


FUZZ = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=150,
)


@FUZZ
@given(
    sent=st.lists(requests(), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=30),
)
def test_any_cut_of_any_requests_gives_the_same_responses(fuzz_report, sent, cuts):
    data = b"".join(s.data for s in sent)
    places = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    with fuzz_report.connect() as c:
        for a, b in itertools.pairwise(places):
            c.send(data[a:b])
        for s in sent:
            r = c.response("HEAD" if s.head else "GET")
            assert r.status == 200
            assert s.head or json.loads(r.body) == s.want
        # Nothing more comes.
        c.send("GET /return/end HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert json.loads(c.response().body)["path"] == "/return/end"
        assert c.ended()


# --- anything -------------------------------------------------------------------------------------

PIECES = [
    b"GET / HTTP/1.1\r\n",
    b"GET /",
    b"POST /read HTTP/1.1\r\n",
    b"HEAD /stream HTTP/1.0\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b" HTTP/1.1",
    b"Host: t\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"hello",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"\0",
    b"\xff" * 100,
    b"x" * 3000,
    b"A: b\r\n" * 40,
]
ANYTHING = st.lists(st.sampled_from(PIECES) | st.binary(max_size=50), max_size=20).map(b"".join)


@FUZZ
@given(
    data=ANYTHING, cut=st.integers(0, 10_000), ending=st.sampled_from(["half", "reset", "close"])
)
@example(data=b"", cut=0, ending="half")
@example(data=b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 50, cut=1000, ending="reset")
def test_any_bytes_give_responses_and_an_end(fuzz_any, data, cut, ending):
    """Whole responses, then a close; and the server serves on."""
    c = fuzz_any.connect()
    try:
        for part in (data[:cut], data[cut:]):
            c.send(part)
        if ending == "half":
            c.half_close()
            received = c.rest()
            assert received == b"" or received.startswith(b"HTTP/1.1 ")
    except (ConnectionError, BrokenPipeError):
        pass  # refused, and closed with our bytes unread
    finally:
        c.reset() if ending == "reset" else c.close()
    with fuzz_any.connect() as c:
        assert c.send("GET /ok HTTP/1.1\r\nHost: t\r\n\r\n").response().body == b"ok"


def anything(w, r):
    match r.path:
        case "/ok":
            return "ok"
        case "/read":
            return str(len(r.body.read()))
        case "/stream":
            for _ in range(3):
                w.write("x" * 40_000)
        case _:
            return [r.path, r.query, r.host, r.headers.items()]


@pytest.fixture
def fuzz_report(serve):
    running = serve(report)
    yield running
    running.until(connections=0)


@pytest.fixture
def fuzz_any(serve, caplog):
    running = serve(anything, max_body_bytes=50_000, max_header_bytes=8192, max_headers=30)
    yield running
    running.until(connections=0)
    assert not caplog.records


# --- every prefix, every byte ---------------------------------------------------------------------

SAMPLE = (
    b"POST /read?q=%41 HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\n"
    b"GET /stream HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
)


def test_every_prefix_of_a_request_ends_well(serve):
    server = serve(anything)
    for n in range(len(SAMPLE)):
        with server.connect() as c:
            received = c.send(SAMPLE[:n]).half_close().rest()
            assert received == b"" or received.startswith(b"HTTP/1.1 ")
    assert server.ask("GET /ok HTTP/1.1\r\nHost: t\r\n\r\n").body == b"ok"
    server.until(connections=0)


def test_every_byte_of_a_request_replaced_ends_well(serve):
    server = serve(anything)
    for n, byte in itertools.product(range(len(SAMPLE)), b"\0\r\n :\xff5"):
        with server.connect() as c:
            c.send(SAMPLE[:n] + bytes([byte]) + SAMPLE[n + 1 :]).half_close()
            received = c.rest()
            assert received == b"" or received.startswith(b"HTTP/1.1 ")
    assert server.ask("GET /ok HTTP/1.1\r\nHost: t\r\n\r\n").body == b"ok"
    server.until(connections=0)
