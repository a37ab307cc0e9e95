"""What our parser makes of requests, beside h11 and llhttp (by way of httptools).

Requests that are valid, nearly so, or mutated go to all three.  Each message is accepted, with a
reading (method, target, fields, body, and where it ends), or it is not.  Every difference must be
in one of the tables, which say by what part of the RFCs it is right:

STRICTER    we refuse what another accepts; by the sentence our refusal gives
LENIENT     we accept what another refuses; with what to change so that it accepts, too, and
            reads the same.  So nothing is accepted that both refuse: each has refused for a
            reason of its own that is listed, and for nothing else
READINGS    all accept, but another reads it differently

A difference that is in no table fails.
"""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import h11
import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import http1_parser


class Reading(NamedTuple):
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    end: int  # where the message ends; what follows is not its


# --- the three ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    return http1_parser.build(tmp_path_factory.mktemp("differential"))


def ours(parser, data: bytes) -> Reading | None:
    head = parser.head(data)
    if not isinstance(head, dict):
        return None
    at, body = head["length"], b""
    if head["chunked"]:
        rc, used, body = parser.body(data[at:])
        if rc != 1:
            return None
        at += used
    elif head["content_length"] > 0:
        body = data[at : at + head["content_length"]]
        at += head["content_length"]
        if at > len(data):
            return None
    return Reading(head["method"], head["target"], names_folded(head["fields"]), body, at)


def names_folded(fields):
    return tuple((n.lower(), v.strip(b" \t")) for n, v in fields)


def by_h11(data: bytes) -> Reading | None:
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(data)
    request, body = None, b""
    try:
        while True:
            event = conn.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:  # it wants more
                return None
    except h11.RemoteProtocolError:
        return None
    fields = names_folded(request.headers.raw_items())
    return Reading(
        request.method, request.target, fields, body, len(data) - len(conn.trailing_data[0])
    )


class Collector:
    def __init__(self):
        self.target = self.body = b""
        self.fields = []
        self.whole = self.in_body = False

    def on_url(self, url):
        self.target += url

    def on_header(self, name, value):
        if not self.in_body:  # else it is a trailer
            self.fields.append((re.sub(rb"(?i)^(upgrad)-$", rb"\1e", name), value))

    def on_headers_complete(self):
        self.in_body = True

    def on_body(self, data):
        self.body += data

    def on_message_complete(self):
        self.whole = True


def by_llhttp(data: bytes) -> Reading | None:
    # It takes what follows an offer to upgrade for another protocol at once, content included.
    # RFC 9110 7.8: the protocol changes after the request, and only if the answer is 101.
    data = re.sub(rb"(?i)(\nupgrad)e:", rb"\1-:", data)
    seen = Collector()
    parser = httptools.HttpRequestParser(seen)
    end = 0
    try:
        # Byte by byte: it does not tell where in its input a message ends.
        while not seen.whole and end < len(data):
            end += 1
            parser.feed_data(data[end - 1 : end])
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    if not seen.whole:
        return None
    return Reading(parser.get_method(), seen.target, names_folded(seen.fields), seen.body, end)


PEERS: dict[str, Callable[[bytes], Reading | None]] = {"h11": by_h11, "llhttp": by_llhttp}


# --- the tables -----------------------------------------------------------------------------------

BOTH = {"h11", "llhttp"}
# Our sentence: who accepts it, and why we do not.
STRICTER: dict[str, tuple[set[str], str]] = {
    # Request lines.
    "bare CR": ({"llhttp"}, "RFC 9112 2.2: a bare CR is invalid"),
    "malformed method": ({"llhttp"}, "RFC 9112 2.2: one empty line, of CRLF, may come before"),
    "method too long": ({"h11"}, "RFC 9112 3: longer than any that is implemented: 501"),
    "malformed request target": (BOTH, "RFC 9112 3, 3.2: one space; one of four forms; no CTLs"),
    "target * is for OPTIONS only": (BOTH, "RFC 9112 3.2.4"),
    "CONNECT needs host:port as its target": (BOTH, "RFC 9112 3.2.3, RFC 9110 9.3.6"),
    "invalid host in the request target": (BOTH, "RFC 9110 4.2.1: not empty, 4.2.4: no userinfo"),
    "malformed HTTP version": (BOTH, "RFC 9112 2.2, 2.3, 3: one space before, CRLF after"),
    "HTTP version not supported": (BOTH, "RFC 9110 15.6.6: another major version, 505"),
    # Fields.
    "bare LF": (BOTH, "RFC 9112 2.2: it MAY be taken for a line's end; proxies differ"),
    "folded field line (RFC 9112 5.2)": ({"h11"}, "5.2: a server MUST reject or replace it"),
    "control character in a field value": ({"h11"}, "RFC 9110 5.5: CTLs are invalid; bare LF"),
    "no Host (RFC 9112 3.2)": ({"llhttp"}, "3.2: MUST be 400; llhttp leaves it to its user"),
    "more than one Host": ({"llhttp"}, "RFC 9112 3.2: MUST be 400"),
    "invalid Host": (BOTH, "RFC 9112 3.2: MUST be 400"),
    "unknown expectation": (BOTH, "RFC 9110 10.1.1: MAY be 417"),
    # Framing.
    "CONNECT with a body": (BOTH, "RFC 9110 9.3.6: it has no content"),
    "Content-Length beside Transfer-Encoding": ({"h11"}, "RFC 9112 6.1: MAY be 400"),
    "more than one Content-Length": ({"h11"}, "RFC 9112 6.3: equal ones MAY be merged"),
    "invalid Content-Length": ({"h11"}, "RFC 9112 6.3: a list of equal ones MAY be merged"),
    "Transfer-Encoding in HTTP/1.0": (BOTH, "RFC 9112 6.1: its framing is faulty"),
    "the last transfer coding is not chunked (RFC 9112 6.3)": (
        {"llhttp"},
        "6.3: MUST be 400; so is a second line, which could only make it one of two codings",
    ),
    "invalid Transfer-Encoding": (BOTH, "RFC 9112 6.1, 7: chunked, once and bare; 5.2: folded"),
    "transfer coding not implemented": ({"llhttp"}, "RFC 9112 6.1: 501"),
    # Chunked bodies.
    "malformed chunk size": ({"h11"}, "RFC 9112 7.1: no space after the size, no bare LF"),
    "chunk size too large": (BOTH, "RFC 9112 7.1: 16 digits, leading zeros included"),
    "chunk extension too long": (BOTH, "RFC 9112 7.1.1: a server ought to limit them"),
    "control character in a chunk extension": ({"h11"}, "RFC 9112 7.1.1: tokens and strings"),
    "bare CR in a chunk size line": ({"h11"}, "RFC 9112 2.2: a bare CR is invalid"),
    "malformed trailer field name": ({"h11"}, "RFC 9112 2.2: bare LF, 5.2: folded lines"),
    "control character in a trailer field": ({"h11"}, "RFC 9110 5.5, RFC 9112 2.2: bare LF"),
    "trailer section too long": (BOTH, "RFC 9112 7.1.2, RFC 9110 5.4: a server may limit it"),
    "too many trailer fields": (BOTH, "the same"),
    "framing field in the trailer section": (BOTH, "RFC 9110 6.5.1: MUST NOT be sent"),
}


class Lenient(NamedTuple):
    peer: str
    pattern: bytes  # what it refuses
    replacement: bytes  # by something it accepts
    why: str


LENIENT = [
    Lenient("h11", rb"\A\r\n", b"", "RFC 9112 2.2: a server SHOULD ignore an empty line before"),
    Lenient(
        "h11",
        rb"(?i)(\ncontent-length:[ \t]*)0+(?=[0-9])",
        rb"\1",
        "RFC 9110 8.6: any number of digits; h11 takes 20",
    ),
    Lenient(
        "llhttp",
        rb"\A((?:\r\n)?[!-~]+ [!-~]+ )HTTP/1\.[2-9]\r\n",
        rb"\1HTTP/1.1\r\n",
        "RFC 9110 2.5: a higher minor version is read as the highest known",
    ),
    Lenient(
        "llhttp",
        rb"\A(\r\n)?(?!CONNECT |OPTIONS )[!-~]+ ",
        rb"\1POST ",
        "RFC 9110 9.1: any token is a method; llhttp has a list",
    ),
    Lenient(
        "llhttp",
        rb"(?i)(\ntransfer-encoding:[^\r\n]*?)[ \t]+\r\n",
        rb"\1\r\n",
        "RFC 9112 5.1: a tab after a value is as good as a space",
    ),
    Lenient(
        "llhttp",
        rb"(\r\n[0-9a-fA-F]+);[\t -~\x80-\xff]*\r\n",
        rb"\1\r\n",
        "RFC 9112 7.1.1: extensions that are not known are ignored: no more is asked of them than "
        "that they stay within their line",
    ),
]


class Differently(NamedTuple):
    peer: str
    applies: Callable[[Reading, Reading], bool]
    why: str


def codings_folded(r: Reading) -> Reading:
    fields = ((n, v.lower() if n == b"transfer-encoding" else v) for n, v in r.fields)
    return r._replace(fields=tuple(fields))


READINGS = [
    Differently(
        "h11",
        lambda mine, theirs: codings_folded(mine) == theirs,
        "RFC 9112 7: names of codings ignore case; h11 shows them in lower case",
    ),
]


# --- the check ------------------------------------------------------------------------------------


def repaired(peer: str, data: bytes) -> bytes:
    for entry in LENIENT:
        if entry.peer == peer:
            data = re.sub(entry.pattern, entry.replacement, data)
    return data


def compare(parser, peer: str, data: bytes) -> str:
    """"" if they agree or the difference is listed; else what it is."""
    mine = ours(parser, data)
    why = parser.why
    theirs = PEERS[peer](data)
    if mine is None:
        if theirs is None or peer in STRICTER.get(why, (set(), ""))[0]:
            return ""
        return f"we refuse ({why!r}) what {peer} accepts as {theirs}"
    if theirs is None:
        changed = repaired(peer, data)
        mine, theirs = ours(parser, changed), PEERS[peer](changed)
        if mine is None or theirs is None:
            return f"we accept what {peer} refuses; changed to {changed!r}: {mine}, {theirs}"
    if mine == theirs or any(d.peer == peer and d.applies(mine, theirs) for d in READINGS):
        return ""
    return f"we read {mine}, {peer} {theirs}"


def agree(parser, data: bytes) -> None:
    for peer in PEERS:
        assert compare(parser, peer, data) == "", data


# --- requests -------------------------------------------------------------------------------------


def mostly(*common: bytes, odd: list[bytes], of: int = 8) -> st.SearchStrategy[bytes]:
    """One of the common ones, or in one of so many cases an odd one."""
    return st.integers(1, of).flatmap(lambda n: st.sampled_from(odd if n == of else common))


METHOD = mostly(
    b"GET", b"POST", b"PUT", b"OPTIONS", b"HEAD", b"CONNECT",
    odd=[b"get", b"", b"G ET", b"GET ", b"XYZ", b"M-SEARCH", b"PRI", b"G@T", b"\x00GET", b"A" * 40,
         b"GET\t", b"PROPFIND", b"\r\nGET", b"\r\n\r\nGET", b"\nGET", b" GET"],
)  # fmt: skip
TARGET = mostly(
    b"/", b"/a?b=c", b"/%41%zz", b"/~x;y=1",
    odd=[b"*", b"a:1", b"a:0", b"a", b"[::1]:443", b"http://a/", b"http://a", b"HTTP://A/x?y",
         b"https://a:8/", b"http://", b"http:///x", b"ftp://a/", b"http://u@a/", b"//a", b"?a",
         b"", b"/a b", b"/a\tb", b"/#x", b"/\x80", b"/\xff", b"/\x7f", b"/\x00", b"/{|}^`\"<>\\",
         b"/" + b"a" * 300],
)  # fmt: skip
VERSION = mostly(
    b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0",
    odd=[b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1", b"HTTP/1.", b"HTTP/1.10",
         b"HTTP/01.1", b"http/1.1", b"HTTP/1.1 ", b" HTTP/1.1", b"HTTP /1.1", b"", b"HTTP/+1.1",
         b"RTSP/1.0", b"ICE/1.0", b"HTTP/1,1"],
)  # fmt: skip
EOL = mostly(b"\r\n", odd=[b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n", b"\t\r\n", b"\r\n ", b""])
FIELD = mostly(
    b"X: y", b"x-y:z", b"A:\tb ", b"Cookie: a=b; c=d", b"Connection: close", b"E:",
    b"Connection: keep-alive, x",
    odd=[b"X : y", b" X: y", b"\tX: y", b": y", b"X", b"X y", b"X\x00: y", b"X: \x00", b"X: a\rb",
         b"X: a\x0bb", b"X: \x7f", b"X: \x80\xff", b"X\x80: y", b"X: a\r\n b", b"X: a\r\n\tb",
         b"(X): y", b"X@Y: z", b"X:" + b"y" * 300, b"\"X\": y", b"X/Y: z", b"X\t: y", b"X:y\x01"],
)  # fmt: skip
HOST = mostly(
    b"Host: a", b"host:a.b:80", b"Host: [::1]:8",
    odd=[b"Host:", b"Host: a b", b"Host: a, b", b"Host: a@b", b"Host: a/b", b"Host: a:b",
         b"Host: [::1", b"Host: a\r\nHost: a", b"Host : a", b"Host: \x80", b"X: no-host",
         b"Host: a%20b", b"Host: a%2", b"Host: a_b", b"Host: a:"],
)  # fmt: skip
FRAMING = mostly(
    b"X: y", b"Content-Length: 5", b"content-length:0", b"Transfer-Encoding: chunked",
    b"transfer-encoding:CHUNKED",
    odd=[b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\nContent-Length: 6",
         b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: -5",
         b"Content-Length: 0x5", b"Content-Length: 5 5", b"Content-Length:", b"Content-Length: ,5",
         b"Content-Length: 005", b"Content-Length: 0000000000000000000000005",
         b"Content-Length: 99999999999999999999", b"Content-Length: 18446744073709551621",
         b"Content-Length: 5.0", b"Content-Length: 5;", b"Content-Length:\t5",
         b"Content-Length:5\t",
         b"Content-Length: 5\r\nTransfer-Encoding: chunked",
         b"Transfer-Encoding: chunked\r\nContent-Length: 5",
         b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
         b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
         b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
         b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: gzip, chunked",
         b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding: gzip",
         b"Transfer-Encoding: identity", b"Transfer-Encoding:", b"Transfer-Encoding: ,chunked",
         b"Transfer-Encoding: chunked,", b"Transfer-Encoding: chunked;q=1",
         b"Transfer-Encoding: \"chunked\"", b"Transfer-Encoding: xchunked",
         b"Transfer-Encoding: chunkedx", b"Transfer-Encoding: chunked\x00",
         b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding : chunked",
         b"Transfer-Encoding:\tchunked", b"Transfer-Encoding: chunked\t",
         b"Transfer-Encoding:\r\n chunked", b"Transfer_Encoding: chunked",
         b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked",
         b"Expect: 100-continue", b"Expect: x", b"Expect: 100-continue, x",
         b"Connection: upgrade\r\nUpgrade: x", b"Upgrade: h2c", b"Connection: upgrade",
         b"Connection: content-length\r\nContent-Length: 5",
         b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 5",
         b"Connection: upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked"],
    of=3,
)  # fmt: skip
SIZE = mostly(
    b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b"00a\r\n0123456789\r\n", b"A\r\n0123456789\r\n",
    b'1;a="b;c"\r\nx\r\n',
    odd=[b"5 \r\nhello\r\n", b" 5\r\nhello\r\n", b"5\t\r\nhello\r\n", b"5 ;a\r\nhello\r\n",
         b"5\nhello\r\n", b"5\r\nhello\n", b"5\rhello\r\n", b"5\r\nhello", b"5\r\nhello\r",
         b"5\r\nhell\r\n", b"5\r\nhelloo\r\n", b"+5\r\nhello\r\n", b"-5\r\nhello\r\n",
         b"0x5\r\nhello\r\n", b"5_\r\nhello\r\n", b"\r\nhello\r\n", b"g\r\nhello\r\n",
         b"10000000000000005\r\nhello\r\n", b"00000000000000005\r\nhello\r\n",
         b"0000000000000005\r\nhello\r\n", b"5;\r\nhello\r\n", b"5; a = b\r\nhello\r\n",
         b"5;a\nb\r\nhello\r\n", b"5;a\rb\r\nhello\r\n", b"5;\x00\r\nhello\r\n",
         b"5;\x80\r\nhello\r\n",
         b"5;a=\"b\r\nhello\r\n", b"5;a=b;c\r\nhello\r\n", b"5,\r\nhello\r\n",
         b"5\x00\r\nhello\r\n",
         b"ffffffffffffffff\r\nhello\r\n", b"5;" + b"a" * 300 + b"\r\nhello\r\n",
         b"5;a\x7f\r\nhello\r\n", b"5;a=\x01\r\nhello\r\n", b"5;=\r\nhello\r\n",
         b"5\x0b\r\nhello\r\n"],
)  # fmt: skip
LAST = mostly(
    b"0\r\n", b"000\r\n", b"0;x\r\n",
    odd=[b"0\n", b"0\r", b"", b"0 \r\n", b"00000000000000000\r\n", b"-0\r\n"],
)  # fmt: skip
TRAILER = mostly(
    b"", b"X: y\r\n", b"x:\t y \r\nZ:\r\n",
    odd=[b"X : y\r\n", b" X: y\r\n", b"X: a\r\n b\r\n", b"X\r\n", b": y\r\n", b"X: y\n",
         b"X: \x00\r\n",
         b"X: a\rb\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
         b"Host: b\r\n",
         b"Transfer-Encoding: gzip\r\n", b"X: \x80\r\n", b"X\x80: y\r\n", b"X: \x7f\r\n",
         b"GET / HTTP/1.1\r\n", b"Trailer: x\r\n", b"Content-Length: x\r\n",
         b"Transfer-Encoding: chunked, gzip\r\n"],
)  # fmt: skip


@st.composite
def chunked(draw) -> bytes:
    chunks = b"".join(draw(st.lists(SIZE, max_size=3)))
    end = draw(mostly(b"\r\n", odd=[b"\n", b"\r", b"", b"\r\r\n"]))
    return chunks + draw(LAST) + draw(TRAILER) + end


@st.composite
def heads(draw) -> bytes:
    lines = [draw(FIELD) for _ in range(draw(st.integers(0, 2)))]
    lines += [draw(HOST), draw(FRAMING)]
    lines = draw(st.permutations(lines))
    space = mostly(b" ", odd=[b"  ", b"\t", b"", b" \t", b"\r"])
    first = draw(METHOD) + draw(space) + draw(TARGET) + draw(space) + draw(VERSION)
    return b"".join(line + draw(EOL) for line in [first, *lines]) + draw(EOL)


@st.composite
def messages(draw) -> bytes:
    head = draw(heads())
    if b"chunked" in head.lower() and draw(st.integers(0, 7)):
        body = draw(chunked())
    else:
        body = draw(st.sampled_from([b"", b"hello", b"hell", b"0\r\n\r\n"]))
    following = [b"", b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n", b"x"]
    return head + body + draw(st.sampled_from(following))


@st.composite
def mutated(draw) -> bytes:
    data = draw(messages())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\x00", b",",
                                      b"0", b"5", b";"]) | st.binary(max_size=2))  # fmt: skip
        data = data[:at] + piece + data[at + draw(st.sampled_from([0, 0, 1, 2])) :]
    return data


CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SUITE = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}


def corpus() -> list[pathlib.Path]:
    return sorted((pathlib.Path(__file__).parents[1] / "corpus" / "http1").iterdir())


@pytest.mark.parametrize("path", corpus(), ids=lambda p: p.name)
def test_corpus_is_read_as_by_others(parser, path):
    data = path.read_bytes()
    agree(parser, data)
    agree(parser, CHUNKED_HEAD + data)


@settings(max_examples=1000, **SUITE)
@given(messages() | mutated())
def test_requests_are_read_as_by_others(parser, data):
    agree(parser, data)


@settings(max_examples=400, **SUITE)
@given(chunked())
def test_chunked_bodies_are_read_as_by_others(parser, body):
    agree(parser, CHUNKED_HEAD + body)


def test_what_is_listed_is_true(parser):
    """Each kind of request on which we are more lenient, by an example that is repaired."""
    cases = {
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n": ["h11"],
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0000000000000000000000\r\n\r\n": ["h11"],
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n": ["llhttp"],
        b"XYZ / HTTP/1.1\r\nHost: a\r\n\r\n": ["llhttp"],
        CHUNKED_HEAD[:-4] + b"\t\r\n\r\n0\r\n\r\n": ["llhttp"],
        CHUNKED_HEAD + b"0;\x80\r\n\r\n": ["llhttp"],
    }
    for data, refused_by in cases.items():
        assert ours(parser, data) is not None
        assert [peer for peer in PEERS if PEERS[peer](data) is None] == refused_by
    assert len(cases) == len(LENIENT)


def test_sentences_of_the_table_are_the_parsers():
    source = "".join(path.read_text() for path in http1_parser.CSRC.glob("rt_http1*.c"))
    assert [why for why in STRICTER if f'"{why}"' not in source] == []


@pytest.mark.soak
def test_soak_requests_are_read_as_by_others(parser):
    """As above with other requests each time, for GOSCHED_SOAK_SECONDS."""
    until = time.monotonic() + float(os.environ.get("GOSCHED_SOAK_SECONDS", "600"))
    options = SUITE | {"derandomize": False}

    @settings(max_examples=5000, **options)
    @given(messages() | mutated() | chunked().map(CHUNKED_HEAD.__add__))
    def round_(data):
        agree(parser, data)

    while time.monotonic() < until:
        round_()
