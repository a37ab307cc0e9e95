"""The HTTP/1 request parser, csrc/rt_http1*.c, by property and against h11 and llhttp.

The C files are built into a library of their own, once with vector code and once without, and
called through cffi.  tests/c/test_http1.c has the case by case tests.
"""

import re

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import http1_parser
from http1_parser import MAX_FIELDS, MAX_HEAD, MAX_TARGET

STATUSES = {400, 414, 417, 431, 501, 505}

TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
METHODS = ["", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]


@pytest.fixture(scope="session", params=["vector", "portable"])
def parser(request, tmp_path_factory):
    flags = ["-DRT_HTTP1_PORTABLE"] if request.param == "portable" else []
    return http1_parser.build(tmp_path_factory.mktemp("http1"), *flags)


def examples(n):
    # No deadline: a loaded machine is no failure.
    return settings(max_examples=n, deadline=None)


# ---- generated requests -------------------------------------------------------------------

tokens = st.lists(st.sampled_from(TOKEN), min_size=1, max_size=32).map(bytes)
vchars = st.integers(0x21, 0x7E).filter(lambda c: c != ord("#"))
targets = st.lists(vchars, max_size=60).map(lambda t: b"/" + bytes(t))
value_bytes = st.one_of(st.integers(0x20, 0x7E), st.integers(0x80, 0xFF), st.just(9))
values = st.lists(value_bytes, max_size=60).map(lambda v: bytes(v).strip(b" \t"))
ows = st.sampled_from([b"", b" ", b"\t", b"  \t "])
hosts = st.sampled_from([b"a", b"example.com:8080", b"127.0.0.1", b"[::1]:80", b"", b"a%2db~_"])
KNOWN = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"}


@st.composite
def requests(draw):
    """A valid request head, and what the parser should make of it."""
    # CONNECT takes another form of target.
    method = draw(st.one_of(st.sampled_from(METHODS[1:6]).map(str.encode), tokens))
    method = b"GET" if method == b"CONNECT" else method
    target = draw(targets)
    minor = draw(st.sampled_from([1, 1, 1, 0]))
    host = draw(hosts)
    fields = draw(st.lists(st.tuples(tokens, values), max_size=8))
    fields = [(n, v) for n, v in fields if n.lower() not in KNOWN]
    extra = [(b"Host", host)]
    length, chunked = -1, False
    match draw(st.integers(0, 2)):
        case 1:
            length = draw(st.integers(0, 2**63 - 1))
            extra.append((b"content-length", str(length).encode()))
        case 2 if minor:
            chunked = True
            extra.append((b"TRANSFER-encoding", draw(st.sampled_from([b"chunked", b"Chunked"]))))
    close, keep = draw(st.booleans()), draw(st.booleans())
    options = [b"close"] * close + [b"Keep-Alive"] * keep + draw(st.lists(tokens, max_size=2))
    options = [o for o in options if o.lower() != b"upgrade"]
    close = b"close" in [o.lower() for o in options]
    keep = b"keep-alive" in [o.lower() for o in options]
    if options:
        extra.append((b"Connection", b" , ".join(draw(st.permutations(options)))))
    for field in extra:
        fields.insert(draw(st.integers(0, len(fields))), field)
    head = b"%b %b HTTP/1.%d\r\n" % (method, target, minor)
    for name, value in fields:
        head += name + b":" + draw(ows) + value + draw(ows) + b"\r\n"
    head += b"\r\n"
    path, mark, query = target.partition(b"?")
    known = method.decode() in METHODS
    return head, {
        "length": len(head),
        "method": method,
        "method_id": METHODS.index(method.decode()) if known else 0,
        "target": target,
        "path": path,
        "query": query if mark else None,
        "host": host,
        "minor": minor,
        "content_length": length,
        "chunked": chunked,
        "keep_alive": not close and (minor == 1 or keep),
        "expect_continue": False,
        "upgrade": False,
        "fields": fields,
    }


PIECES = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b",", b"\0", b"\x0b", b"\x7f", b"\x80",
    b"#", b"?", b"*", b"@", b"[", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/1.2", b"HTTP/2.0",
    b"http://b", b"https://b/", b"Host: a\r\n", b"Host: \r\n", b"Content-Length: 5\r\n",
    b"Content-Length: 0000000000000000000000005\r\n", b"content-length: +5\r\n",
    b"Content-Length: 5, 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\r\n",
    b"transfer-encoding: gzip, chunked\r\n", b"Transfer-Encoding : chunked\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Expect: x\r\n",
    b"X: y\r\n z\r\n", b"CONNECT ", b"OPTIONS ", b"0", b"5", b"f", b";", b"0\r\n", b"5\r\nhello",
]  # fmt: skip


@st.composite
def mutated(draw, inputs):
    """An input that is valid but for a few insertions, deletions and replacements."""
    data = draw(inputs)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        # Half of the time where it hurts: at the start of a line.
        if draw(st.booleans()) and b"\n" in data[at:]:
            at = data.index(b"\n", at) + 1
        cut = draw(st.sampled_from([0, 0, 1, 2, 8]))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=2)))
        data = data[:at] + piece + data[at + cut :]
    return data


heads = mutated(requests().map(lambda r: r[0]))
cuts = st.lists(st.integers(0, 600), max_size=6)


# ---- heads --------------------------------------------------------------------------------


@examples(100)
@given(requests(), cuts, st.binary(max_size=40))
@example((b"GET / HTTP/1.0\r\n\r\n", None), [], b"")
def test_head_valid_request_parses_to_its_parts(parser, request_, cuts, rest):
    head, want = request_
    got = parser.head(head + rest, cuts)
    if want is not None:
        assert got == want
    for end in range(0, len(head), 7):
        assert parser.head(head[:end]) == 0


@examples(150)
@given(heads, cuts)
def test_head_any_split_gives_the_same_answer(parser, data, cuts):
    # The bare LF at the end leaves no request unanswered.
    data += b"\n\n"
    whole = parser.head(data)
    assert whole != 0
    assert parser.head(data, cuts) == whole
    assert parser.head(data, range(1, len(data))) == whole


@examples(100)
@given(heads, st.integers(0, 600))
def test_head_early_refusal_is_the_final_one(parser, data, end):
    data += b"\n\n"
    early = parser.head(data[:end])
    if early != 0:
        assert early == parser.head(data)


@examples(200)
@given(st.one_of(st.binary(max_size=300), heads))
def test_head_any_bytes_give_a_known_answer(parser, data):
    rc, req = parser.feed(data)
    if rc < 0:
        assert -rc in STATUSES
        assert parser.ffi.string(req.error)
    else:
        assert rc <= len(data)


def test_head_errors_name_the_fault(parser):
    rc, req = parser.feed(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
    assert rc == -400
    assert b"colon" in parser.ffi.string(req.error)


def test_head_limits_refuse_before_the_end(parser):
    assert parser.head(b"GET /" + b"a" * MAX_TARGET) == -414
    assert parser.head(b"GET /" + b"a" * (MAX_TARGET - 1)) == 0
    start = b"GET / HTTP/1.1\r\n"
    assert parser.head(start + b"X: y\r\n" * MAX_FIELDS + b"X") == -431
    assert parser.head(start + b"X: y\r\n" * MAX_FIELDS + b"\r") == 0
    assert parser.head(start + b"X: " + b"y" * MAX_HEAD) == -431


# ---- h11 ------------------------------------------------------------------------------------


def h11_head(data):
    """h11's Request, None if it wants more, or its error."""
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    conn.receive_data(data)
    try:
        event = conn.next_event()
    except h11.RemoteProtocolError as e:
        return e
    return event if isinstance(event, h11.Request) else None


def stricter_h11(data, head):
    """Does h11 refuse this head for a reason that the RFCs do not share?"""
    # RFC 9112 2.2: a server SHOULD ignore one empty line before the request line.
    if data.startswith(b"\r\n"):
        return True
    # RFC 9110 8.6: Content-Length is 1*DIGIT; h11 stops at 20 digits, leading zeros included.
    return any(n.lower() == b"content-length" and len(v) > 20 for n, v in head["fields"])


@examples(300)
@given(heads)
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0000000000000000000000005\r\n\r\n")
@example(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
@example(b"GET / HTTP/1.2\r\nHost: a\r\n\r\n")
def test_head_accepted_is_accepted_by_h11(parser, data):
    ours = parser.head(data)
    if not isinstance(ours, dict):
        return
    theirs = h11_head(data[: ours["length"]])
    if not isinstance(theirs, h11.Request):
        assert stricter_h11(data, ours), theirs
        return
    assert theirs.method == ours["method"]
    assert theirs.target == ours["target"]
    assert min(theirs.http_version, b"1.1") == b"1.%d" % ours["minor"]
    # h11 lower-cases the value of Transfer-Encoding.
    fields = [(n, v.lower() if n.lower() == b"transfer-encoding" else v) for n, v in ours["fields"]]
    assert theirs.headers.raw_items() == fields


@examples(100)
@given(requests())
def test_head_valid_request_is_accepted_by_h11(parser, request_):
    head, want = request_
    assert parser.head(head) == want
    assert isinstance(h11_head(head), h11.Request)


# ---- llhttp ---------------------------------------------------------------------------------


class Collector:
    def __init__(self):
        self.fields, self.url = [], b""
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        self.fields.append((name, value))

    def on_headers_complete(self):
        self.keep_alive = self.parser.should_keep_alive()


@examples(300)
@given(heads)
def test_head_accepted_reads_the_same_in_llhttp(parser, data):
    ours = parser.head(data)
    # llhttp knows a fixed set of methods only, and these two switch protocols in it.
    if not isinstance(ours, dict) or ours["method_id"] in (0, METHODS.index("CONNECT")):
        return
    if ours["upgrade"]:
        return
    seen = Collector()
    head = data[: ours["length"]]
    if re.search(rb"HTTP/1\.[2-9]\r", head):  # RFC 9110 2.5: read as 1.1; llhttp refuses
        return
    try:
        seen.parser.feed_data(head)
    except httptools.HttpParserError:
        # RFC 9112 5.1: a value may have tabs around it; llhttp wants spaces in framing fields.
        assert re.search(rb"\n(transfer-encoding|content-length):[^\n]*\t", head, re.I)
        return
    assert seen.parser.get_method() == ours["method"]
    assert seen.url == ours["target"]
    assert [(n, v.strip(b" \t")) for n, v in seen.fields] == ours["fields"]
    # RFC 9112 9.3: close goes first; in HTTP/1.0 llhttp lets keep-alive do so.
    close = any(n.lower() == b"connection" and b"close" in v.lower() for n, v in ours["fields"])
    if ours["minor"] == 1 or not close:
        assert seen.keep_alive == ours["keep_alive"]


# ---- chunked bodies -------------------------------------------------------------------------

extensions = st.sampled_from([b"", b"", b"", b";a", b";a=b", b'; a="b c"\t', b";\xff"])
trailers = st.lists(st.tuples(tokens, values), max_size=3)


@st.composite
def chunked_bodies(draw):
    body, encoded = b"", b""
    for chunk in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)):
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(chunk)
        encoded += size + draw(extensions) + b"\r\n" + chunk + b"\r\n"
        body += chunk
    encoded += b"0" * draw(st.integers(1, 16)) + draw(extensions) + b"\r\n"
    for name, value in draw(trailers):
        encoded += name + b":" + draw(ows) + value + draw(ows) + b"\r\n"
    return encoded + b"\r\n", body


@examples(100)
@given(chunked_bodies(), cuts, st.binary(max_size=20))
def test_chunked_valid_body_decodes_to_its_data(parser, encoded, cuts, rest):
    data, body = encoded
    assert parser.body(data + rest, cuts) == (1, len(data), body)
    assert parser.body(data[:-1])[0] == 0


@examples(150)
@given(mutated(chunked_bodies().map(lambda b: b[0])), cuts)
def test_chunked_any_split_gives_the_same_answer(parser, data, cuts):
    whole = parser.body(data)
    assert whole[0] in (0, 1, -400, -431)
    assert parser.body(data, cuts) == whole
    assert parser.body(data, range(1, len(data))) == whole


def h11_body(data):
    """h11's reading of a chunked body: (bytes used, body), None if it wants more, or its error."""
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    body = b""
    try:
        while (event := conn.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return len(data) - len(conn.trailing_data[0]), body
    except h11.RemoteProtocolError as e:
        return e
    return None


@examples(300)
@given(mutated(chunked_bodies().map(lambda b: b[0])))
def test_chunked_accepted_reads_the_same_in_h11(parser, data):
    rc, used, body = parser.body(data)
    if rc != 1:
        return
    theirs = h11_body(data)
    if isinstance(theirs, h11.RemoteProtocolError):
        # h11 judges framing fields in trailers too; RFC 9110 6.5.1 has them ignored.
        assert re.search(rb"\n(content-length|transfer-encoding):", data, re.I), theirs
        return
    assert theirs == (used, body)
