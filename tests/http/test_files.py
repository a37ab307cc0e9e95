"""Files as responses: send_file, serve_content, serve_file, file_server, ranges, conditions."""

from __future__ import annotations

import bz2
import datetime
import email
import functools
import gzip
import http.server
import io
import os
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import runtime
from runtime import http as http_server
from runtime._http import conditions, opening

BIG = bytes(range(256)) * 4096  # 1 MiB
OLD = 1_000_000_000  # 2001-09-09 01:46:40, seconds
OLD_DATE = "Sun, 09 Sep 2001 01:46:40 GMT"


def request(target: str = "/", fields: str = "", method: str = "GET", version: str = "1.1") -> str:
    return f"{method} {target} HTTP/{version}\r\nHost: test\r\n{fields}\r\n"


def fetch(server: Any, target: str = "/", fields: str = "", method: str = "GET") -> Any:
    return server.ask(request(target, fields, method), method)


def opened(below: Path) -> list[str]:
    """What this process has open of the files below a directory."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it is the one of the list
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in found if path.startswith(str(below))]


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(BIG)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory to serve, and things beside it that nobody may see."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("0123456789")
    (root / "page.html").write_text("<p>page")
    (root / "noext").write_text("<html>x")
    (root / "empty.txt").touch()
    (root / "big.bin").write_bytes(BIG)
    (root / "sub" / "index.html").write_text("<p>index")
    (root / "sub" / "deep" / "x.json").write_text("{}")
    (root / ".hidden").write_text("hidden")
    (root / ".well-known").mkdir()
    (root / ".well-known" / "it").write_text("known")
    (root / "sp ace %41&'<é>.txt").write_text("odd")
    (root / "inside").symlink_to("sub/deep/x.json")
    (root / "sub" / "up").symlink_to("../a.txt")
    (root / "leaves").symlink_to("../secret.txt")
    (root / "leaves_dir").symlink_to("../outside")
    (root / "absolute").symlink_to(root / "a.txt")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (OLD, OLD))
    return root


# --- send_file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (5, 3), (1000, 16384), (7, 16385), (100, 1_000_000)]
)
def test_send_file(serve, big, method, version, offset, count, length):
    want = BIG[offset:] if count is None else BIG[offset : offset + count]

    def handler(w, r):
        if length:
            w.headers["Content-Length"] = len(want)
        with open(big, "rb") as f:
            f.seek(99)
            assert w.send_file(f, offset, count) is None
            assert f.tell() == 99

    with serve(handler).connect() as c:
        r = c.send(request(method=method, version=version)).response(method)
        assert (r.status, r.body) == (200, b"" if method == "HEAD" else want)
        assert r.all("content-type") == ["application/octet-stream"]
        if length:
            assert r["content-length"] == str(len(want))


def test_send_file_among_other_writes(serve, big):
    def handler(w, r):
        with open(big, "rb") as f:
            w.write("<html>")
            w.send_file(f, 0, 100)
            w.send_file(f.fileno(), offset=1, count=20_000)
            w.write("middle")
            w.send_file(f, 2)
            w.write("end")

    want = b"<html>" + BIG[:100] + BIG[1:20_001] + b"middle" + BIG[2:] + b"end"
    with serve(handler).connect() as c:
        for _ in range(2):
            r = c.send(request()).response()
            assert (r.body, r["content-type"]) == (want, "text/html; charset=utf-8")


def test_send_file_of_nothing(serve, tmp_path):
    (tmp_path / "empty").touch()

    def handler(w, r):
        with open(tmp_path / "empty", "rb") as f:
            w.send_file(f)

    r = serve(handler).get()
    assert (r.status, r.body, r["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    ("args", "error", "match"),
    [
        ((-1,), ValueError, "0 or more"),
        ((0, -1), ValueError, "are asked for"),
        ((0, len(BIG) + 1), ValueError, "are asked for"),
        ((len(BIG) + 1,), ValueError, "are asked for"),
        ((1, len(BIG)), ValueError, "are asked for"),
        (("x",), TypeError, None),
        ((0, "x"), TypeError, None),
        ((0, 2**64), OverflowError, None),
    ],
)
def test_send_file_with_wrong_arguments(serve, big, args, error, match):
    def handler(w, r):
        with open(big, "rb") as f, pytest.raises(error, match=match):
            w.send_file(f, *args)
        return "fine"

    assert serve(handler).get().body == b"fine"


def test_send_file_of_what_is_none(serve, tmp_path):
    os.mkfifo(tmp_path / "fifo")

    def handler(w, r):
        with socket.socket() as s, pytest.raises(ValueError, match="regular file"):
            w.send_file(s)
        fd = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(ValueError, match="regular file"):
            w.send_file(fd)
        os.close(fd)
        with pytest.raises(OSError, match="Bad file"):
            w.send_file(fd)
        with pytest.raises(TypeError):
            w.send_file("name")
        fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        os.truncate(fd, 100)
        with pytest.raises(OSError, match="Bad file"):
            w.send_file(fd)
        os.close(fd)
        return "fine"

    assert serve(handler).get().body == b"fine"


def test_send_file_more_than_declared_ends_the_connection(serve, big, caplog):
    def handler(w, r):
        w.headers["Content-Length"] = 100_000
        with open(big, "rb") as f:
            w.send_file(f, 0, 90_000)
            w.send_file(f, 0, 20_000)

    with serve(handler).connect() as c:
        c.send(request()).head()
        assert c.rest() == BIG[:90_000]
    assert "Content-Length of 100000" in caplog.text


def test_send_file_that_becomes_shorter_ends_the_connection(serve, big, caplog):
    """Half of it is on its way when it is cut; the client must see that it is not whole."""
    cut = threading.Event()

    def shrinking(w, r):
        # More than any socket buffers, so that it is sent only as it is read.
        with open(big, "r+b") as f:
            size = 64 << 20
            f.truncate(size)
            w.headers["Content-Length"] = size
            g = runtime.go(w.send_file, f)
            while g.state != "waiting":
                runtime.gosched()
            f.truncate(100)
            cut.set()
            g.join()

    with serve(shrinking).connect(rcvbuf=65536) as c:
        c.send(request()).head()
        assert cut.wait(60)
        assert 0 < len(c.rest()) < 64 << 20
    assert "became shorter" in caplog.text


def test_send_file_waits_for_a_slow_client(serve, big):
    """While it does others are served; then all of it comes."""
    waits = threading.Event()

    def send(w):
        with open(big, "rb") as f:
            for _ in range(24):
                w.send_file(f)

    def handler(w, r):
        if r.path == "/other":
            return "other"
        w.headers["Content-Length"] = 24 * len(BIG)
        g = runtime.go(send, w)
        while g.state != "waiting":
            runtime.gosched()
        waits.set()
        g.join()

    server = serve(handler)
    with server.connect(rcvbuf=4096) as c:
        c.send(request())
        assert waits.wait(60)
        assert server.get("/other").body == b"other"
        assert c.response().body == BIG * 24


def test_send_file_lets_others_run_while_the_client_keeps_up(serve, tmp_path):
    """A socket that takes all there is is no reason for others to wait for the end."""
    size = 1 << 28
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", size)
    asked = threading.Event()
    seen = []

    def handler(w, r):
        if r.path == "/other":
            seen.append("other")
            return "other"
        w.headers["Content-Length"] = size
        w.flush()
        runtime.blocking(asked.wait, 60)
        with open(tmp_path / "huge", "rb") as f:
            w.send_file(f)
        seen.append("huge")

    server = serve(handler)
    with server.connect() as c, server.connect() as other:
        c.send(request()).head()
        other.send(request("/other"))
        asked.set()
        left = size
        while left:
            left -= len(c.exactly(min(left, 1 << 20)))
        assert other.response().body == b"other"
        server.until(active=0)
    assert seen == ["other", "huge"]


def test_send_file_to_a_client_that_goes_away(serve, big, caplog):
    gone = threading.Event()
    failures = []

    def handler(w, r):
        runtime.blocking(gone.wait, 60)
        with open(big, "rb") as f, pytest.raises(ConnectionError) as info:
            for _ in range(50):
                w.send_file(f)
        failures.append(info.value)
        raise info.value

    server = serve(handler)
    c = server.connect()
    c.send(request())
    server.until(active=1)
    c.reset()
    gone.set()
    server.until(connections=0)
    assert len(failures) == 1 and caplog.records == []


@pytest.mark.parametrize("where", ["goroutine", "thread"])
def test_send_file_elsewhere_than_in_the_handler(serve, big, where):
    def handler(w, r):
        with open(big, "rb") as f:
            if where == "goroutine":
                runtime.go(w.send_file, f).join()
            else:
                runtime.blocking(w.send_file, f)

    assert serve(handler).get().body == BIG


def test_send_file_that_outlives_the_handler(serve, big, caplog):
    """The handler returns while another goroutine is parked in it: it fails, the client sees."""
    errors = []
    failed = threading.Event()

    def send(w):
        with open(big, "rb") as f, pytest.raises((ConnectionError, RuntimeError)) as info:
            for _ in range(50):
                w.send_file(f)
        errors.append(str(info.value))
        failed.set()

    def handler(w, r):
        g = runtime.go(send, w)
        while g.state != "waiting":
            runtime.gosched()

    server = serve(handler)
    with server.connect(rcvbuf=4096) as c:
        c.send(request()).head()
        with pytest.raises((AssertionError, ConnectionError)):
            while c.chunk():
                pass
    assert failed.wait(60)
    assert len(errors) == 1 and "handler" in errors[0]


def test_send_file_after_the_response(serve, big):
    kept = []
    serve(lambda w, r: kept.append(w)).get()
    with open(big, "rb") as f, pytest.raises(RuntimeError, match="handler has returned"):
        kept[0].send_file(f)


def test_send_file_that_says_it_is_empty(serve):
    """As those of /proc do, whatever can be read from them."""

    def handler(w, r):
        with open("/proc/self/status", "rb") as f:
            w.send_file(f)
        return None

    assert serve(handler).get().body == b""


def test_send_file_while_the_server_closes(serve, big):
    errors = []
    waits = threading.Event()

    def send(w):
        with open(big, "rb") as f, pytest.raises(ConnectionError) as info:
            for _ in range(50):
                w.send_file(f)
        errors.append(str(info.value))

    def handler(w, r):
        g = runtime.go(send, w)
        while g.state != "waiting":
            runtime.gosched()
        waits.set()
        g.join()

    server = serve(handler)
    with server.connect(rcvbuf=4096) as c:
        c.send(request()).head()
        assert waits.wait(60)
        server.server.close()
        server.until(connections=0)
    assert len(errors) == 1 and "closed" in errors[0]


# --- serve_content: conditions --------------------------------------------------------------------


def content(data: bytes = b"0123456789", name: str = "x.txt", modtime: Any = OLD, etag: str = ""):
    def handler(w, r):
        if etag:
            w.headers["ETag"] = etag
        http_server.serve_content(w, r, name, modtime, io.BytesIO(data))

    return handler


def test_serve_content_whole(serve):
    r = fetch(serve(content(etag='"v1"')))
    assert (r.status, r.body) == (200, b"0123456789")
    assert r["content-type"] == "text/plain; charset=utf-8"
    assert r["accept-ranges"] == "bytes"
    assert r["last-modified"] == OLD_DATE
    assert (r["etag"], r["content-length"]) == ('"v1"', "10")


def test_serve_content_head_has_the_same_fields(serve):
    server = serve(content(etag='"v1"'))
    get, head = fetch(server), fetch(server, method="HEAD")
    without_date = [[f for f in r.fields if f[0].lower() != "date"] for r in (get, head)]
    assert without_date[0] == without_date[1]
    # RFC 9110 section 14.2: a range is of GET.
    assert fetch(server, "/", "Range: bytes=0-1\r\n", "HEAD").status == 200


@pytest.mark.parametrize(
    ("modtime", "date"),
    [
        (OLD + 0.9, OLD_DATE),
        (datetime.datetime.fromtimestamp(OLD, datetime.UTC), OLD_DATE),
        (None, None),
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
    ],
)
def test_serve_content_modtime(serve, modtime, date):
    assert fetch(serve(content(modtime=modtime))).all("last-modified") == ([date] if date else [])


BEFORE, AFTER = "Sun, 09 Sep 2001 01:46:39 GMT", "Sun, 09 Sep 2001 01:46:41 GMT"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ('If-Match: "v1"', 200),
        ('If-Match: "v0", "v1"', 200),
        ("If-Match: *", 200),
        ('If-Match: "v0"', 412),
        ('If-Match: W/"v1"', 412),
        ("If-Match: nonsense", 412),
        ('If-None-Match: "v1"', 304),
        ('If-None-Match: W/"v1"', 304),
        ('If-None-Match: "v0" , W/"v1"', 304),
        ('If-None-Match: "v0"\r\nIf-None-Match: "v1"', 304),
        ("If-None-Match: *", 304),
        ('If-None-Match: "v0"', 200),
        ("If-None-Match: v1", 200),
        (f"If-Modified-Since: {OLD_DATE}", 304),
        (f"If-Modified-Since: {AFTER}", 304),
        (f"If-Modified-Since: {BEFORE}", 200),
        ("If-Modified-Since: Sunday, 09-Sep-01 01:46:40 GMT", 304),
        ("If-Modified-Since: Sun Sep  9 01:46:40 2001", 304),
        ("If-Modified-Since: yesterday", 200),
        (f"If-Unmodified-Since: {BEFORE}", 412),
        (f"If-Unmodified-Since: {OLD_DATE}", 200),
        ("If-Unmodified-Since: yesterday", 200),
        # Tags come first, and then the dates do not count.
        (f'If-None-Match: "v0"\r\nIf-Modified-Since: {AFTER}', 200),
        (f'If-Match: "v1"\r\nIf-Unmodified-Since: {BEFORE}', 200),
        ('If-Match: "v1"\r\nIf-None-Match: "v1"', 304),
        ('If-Match: "v0"\r\nIf-None-Match: "v1"', 412),
    ],
)
def test_serve_content_conditions(serve, fields, status, method):
    if method == "POST" and status == 304:
        status = 200 if "If-Modified-Since" in fields else 412
    r = fetch(serve(content(etag='"v1"')), "/", fields + "\r\n", method)
    assert r.status == status
    assert r.all("etag") == ['"v1"']
    if status == 304:
        assert r.all("content-type") == r.all("content-length") == r.all("last-modified") == []
    if status == 200 and method != "HEAD":
        assert r.body == b"0123456789"


@pytest.mark.parametrize(
    ("condition", "etag", "status"),
    [
        ('"v1"', '"v1"', 206),
        ('"v0"', '"v1"', 200),
        ('W/"v1"', 'W/"v1"', 200),
        ('"v1"', "", 200),
        (OLD_DATE, "", 206),
        (AFTER, "", 200),
        (BEFORE, "", 200),
        ("nonsense", '"v1"', 200),
    ],
)
def test_serve_content_if_range(serve, condition, etag, status):
    fields = f"Range: bytes=2-3\r\nIf-Range: {condition}\r\n"
    r = fetch(serve(content(etag=etag)), "/", fields)
    assert (r.status, r.body) == (status, b"23" if status == 206 else b"0123456789")


def test_serve_content_with_an_etag_that_is_none(serve, caplog):
    assert fetch(serve(content(etag="v1"))).status == 500
    assert "must be in quotes" in caplog.text


# --- serve_content: ranges ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranges", "status", "content_range", "body"),
    [
        ("bytes=0-4", 206, "bytes 0-4/10", b"01234"),
        ("bytes=2-", 206, "bytes 2-9/10", b"23456789"),
        ("bytes=-5", 206, "bytes 5-9/10", b"56789"),
        ("bytes=-15", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=3-7", 206, "bytes 3-7/10", b"34567"),
        ("bytes=3-99", 206, "bytes 3-9/10", b"3456789"),
        ("bytes=9-", 206, "bytes 9-9/10", b"9"),
        ("bytes= 1 - 2 ,", 206, "bytes 1-2/10", b"12"),
        ("bytes=0-0,20-", 206, "bytes 0-0/10", b"0"),
        ("BYTES=1-1", 206, "bytes 1-1/10", b"1"),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=-0", 416, "bytes */10", None),
        ("bytes=5-4", 416, "bytes */10", None),
        ("bytes=a-4", 416, "bytes */10", None),
        ("bytes=-", 416, "bytes */10", None),
        ("bytes=", 416, "bytes */10", None),
        ("bytes=1-2-3", 416, "bytes */10", None),
        ("bytes=" + "9" * 400 + "-", 416, "bytes */10", None),
        ("items=0-4", 200, None, b"0123456789"),
        ("nonsense", 200, None, b"0123456789"),
        ("bytes=0-8,0-8", 200, None, b"0123456789"),
        ("bytes=" + ",".join(["0-0"] * 65), 200, None, b"0123456789"),
    ],
)
def test_serve_content_range(serve, ranges, status, content_range, body):
    r = fetch(serve(content()), "/", f"Range: {ranges}\r\n")
    assert r.status == status
    assert r.all("content-range") == ([content_range] if content_range else [])
    if status == 416:
        assert r.all("last-modified") == [] and r["content-type"] == "text/plain; charset=utf-8"
    else:
        assert (r.body, r["content-length"]) == (body, str(len(body)))


def test_serve_content_ranges_of_nothing(serve):
    server = serve(content(b""))
    for ranges, status in [
        ("bytes=0-", 200),
        ("bytes=-5", 200),
        ("bytes=0-0", 200),
        ("bytes=x", 416),
    ]:
        r = fetch(server, "/", f"Range: {ranges}\r\n")
        assert r.status == status


def parse_byteranges(r: Any) -> list[tuple[str, str | None, bytes]]:
    """The parts, by the standard library's parser of messages."""
    kind = r["content-type"]
    boundary = kind.partition("boundary=")[2]
    text = b"Content-Type: " + kind.encode() + b"\r\n\r\n" + r.body
    message = email.message_from_bytes(text)
    assert message.is_multipart() and message.defects == []
    assert r.body.startswith(b"--" + boundary.encode()) and r.body.endswith(b"--\r\n")
    parts = r.body.split(b"--" + boundary.encode())[1:-1]
    found = []
    for part in parts:
        head, _, data = part.partition(b"\r\n\r\n")
        fields = email.message_from_bytes(head.lstrip(b"\r\n"))
        found.append((fields["Content-Range"], fields["Content-Type"], data[:-2]))
    return found


def test_serve_content_several_ranges(serve, big):
    def handler(w, r):
        with open(big, "rb") as f:
            http_server.serve_content(w, r, "x.pdf", OLD, f)

    with serve(handler).connect() as c:
        r = c.send(request("/", "Range: bytes=0-9, 100-20099,-5\r\n")).response()
        assert r.status == 206
        n = len(BIG)
        assert parse_byteranges(r) == [
            (f"bytes 0-9/{n}", "application/pdf", BIG[:10]),
            (f"bytes 100-20099/{n}", "application/pdf", BIG[100:20100]),
            (f"bytes {n - 5}-{n - 1}/{n}", "application/pdf", BIG[-5:]),
        ]
        assert r.all("content-range") == []
        # The connection is in order.
        assert c.send(request("/", "Range: bytes=0-0\r\n")).response().body == BIG[:1]


ENDS = st.one_of(st.none(), st.integers(0, 30))


@given(st.lists(st.tuples(ENDS, ENDS), min_size=1, max_size=5), st.integers(0, 20))
def test_ranges_against_a_model(specs, size):
    def text(n: int | None) -> str:
        return "" if n is None else str(n)

    header = "bytes=" + ",".join(f"{text(a)}-{text(b)}" for a, b in specs)
    try:
        got = conditions.parse_ranges(header, size)
    except conditions.Unsatisfiable:
        got = None
    wrong = any((a is None and b is None) or (None not in (a, b) and b < a) for a, b in specs)
    data = range(size)
    want = []
    for a, b in specs:
        if a is None:
            picked = data[-b:] if b else data[:0]
        else:
            picked = data[a:] if b is None else data[a : b + 1]
        if picked:
            want.append((picked[0], len(picked)))
    if wrong:
        assert got is None
    elif not want:
        assert got is None if size else got == []
    elif sum(n for _, n in want) > size:
        assert got == []
    else:
        assert got == want


@given(st.text(max_size=40), st.integers(0, 100))
def test_ranges_of_anything_lie_within_the_content(text, size):
    for header in (text, "bytes=" + text):
        try:
            ranges = conditions.parse_ranges(header, size)
        except conditions.Unsatisfiable:
            continue
        for r in ranges:
            assert 0 <= r.start < size and 0 < r.length <= size - r.start


@given(st.text(max_size=40))
def test_dates_of_anything(text):
    when = conditions.parse_date(text)
    assert when is None or isinstance(when, int)


@given(st.integers(0, 4_000_000_000))
def test_dates_round_trip(seconds):
    assert conditions.parse_date(conditions.http_date(seconds)) == seconds


# --- serve_content: contents ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("x.html", b"", "text/html; charset=utf-8"),
        ("x.JS", b"1", "text/javascript; charset=utf-8"),
        ("x.svg", b"<svg>", "image/svg+xml"),
        ("x.tar.gz", b"x", "application/gzip"),
        ("x.py", b"x", "text/x-python; charset=utf-8"),
        ("x.nonsense", b"%PDF-", "application/pdf"),
        ("x", b"<html>", "text/html; charset=utf-8"),
        ("", b"\x00", "application/octet-stream"),
        ("x.br", b"\x00", "application/octet-stream"),
    ],
)
def test_serve_content_type(serve, name, data, kind):
    server = serve(content(data, name))
    assert fetch(server)["content-type"] == kind
    if data:
        assert fetch(server, "/", "Range: bytes=0-0\r\n")["content-type"] == kind


def test_serve_content_type_of_the_handler_stays(serve):
    def handler(w, r):
        w.headers["Content-Type"] = "text/x-mine"
        http_server.serve_content(w, r, "x.html", None, b"<p>")

    assert fetch(serve(handler))["content-type"] == "text/x-mine"


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "raw", "buffered", "random", "gzip", "bz2"])
def test_serve_content_of_each_kind(serve, big, tmp_path, kind):
    (tmp_path / "g").write_bytes(gzip.compress(BIG, 1))
    (tmp_path / "b").write_bytes(bz2.compress(BIG) if kind == "bz2" else b"")
    make = {
        "bytes": lambda: io.BytesIO(BIG),
        "bytearray": lambda: io.BytesIO(bytearray(BIG)),
        "raw": functools.partial(open, big, "rb", 0),
        "buffered": functools.partial(open, big, "rb"),
        "random": functools.partial(open, big, "r+b"),
        "gzip": functools.partial(gzip.open, tmp_path / "g"),
        "bz2": functools.partial(bz2.open, tmp_path / "b"),
    }[kind]

    def handler(w, r):
        with make() as f:
            f.seek(50)
            if kind == "random":
                f.write(BIG[50:60])  # not flushed yet
            plain = f.getvalue() if kind.startswith("byte") else f
            http_server.serve_content(w, r, "x", None, plain)

    server = serve(handler)
    assert fetch(server).body == BIG
    assert fetch(server, "/", "Range: bytes=1000-99999\r\n").body == BIG[1000:100_000]


def test_serve_content_that_becomes_shorter_ends_the_connection(serve, caplog):
    class Liar(io.BytesIO):
        def read(self, n=-1):
            return super().read(n)[: 1 if self.tell() > 200_000 else None][
                : 0 if self.tell() > 200_000 else None
            ]

    def handler(w, r):
        http_server.serve_content(w, r, "x.txt", None, Liar(bytes(500_000)))

    with serve(handler).connect() as c:
        r = c.send(request()).head()
        assert r["content-length"] == "500000"
        assert len(c.rest()) < 500_000
    assert "became shorter" in caplog.text


# --- serve_file -----------------------------------------------------------------------------------


def test_serve_file(serve, root):
    server = serve(lambda w, r: http_server.serve_file(w, r, root / r.query.get("f", "a.txt")))
    r = fetch(server)
    assert (r.status, r.body, r["last-modified"]) == (200, b"0123456789", OLD_DATE)
    assert fetch(server, "/", f"If-None-Match: {r['etag']}\r\n").status == 304
    assert fetch(server, "/", f"If-Range: {r['etag']}\r\nRange: bytes=1-2\r\n").body == b"12"
    assert fetch(server, "/?f=big.bin").body == BIG
    for name in ("nothing", "a.txt/x", "fifo", "%00", "loop", "x" * 300):
        assert fetch(server, f"/?f={name}").status == 404
    assert fetch(server, "/?f=sub").body == b"<p>index"
    assert fetch(server, "/x?f=sub")["location"] == "./x/?f=sub"
    assert fetch(server, "/?f=sub/deep").status == 404
    assert fetch(server, "/a/..%2f../b").status == 400


def test_serve_file_new_files_have_weak_tags(serve, tmp_path):
    (tmp_path / "new").write_text("x")
    now = time.time() + 3600
    os.utime(tmp_path / "new", (now, now))
    server = serve(lambda w, r: http_server.serve_file(w, r, tmp_path / "new"))
    assert fetch(server)["etag"].startswith('W/"')
    os.utime(tmp_path / "new", (OLD, OLD))
    assert fetch(server)["etag"].startswith('"')


# --- file_server ----------------------------------------------------------------------------------


def test_file_server(serve, root):
    server = serve(http_server.file_server(root))
    assert fetch(server, "/a.txt").body == b"0123456789"
    assert fetch(server, "/big.bin").body == BIG
    assert fetch(server, "/sub/deep/x.json")["content-type"] == "application/json"
    assert fetch(server, "/noext")["content-type"] == "text/html; charset=utf-8"
    r = fetch(server, "/empty.txt")
    assert (r.status, r.body, r["content-length"]) == (200, b"", "0")
    assert fetch(server, "/" + quote("sp ace %41&'<é>.txt")).body == b"odd"
    assert fetch(server, "/%61.txt").body == b"0123456789"
    assert fetch(server, "/.well-known/it").body == b"known"
    assert fetch(server, "/a.txt", method="HEAD")["content-length"] == "10"


def test_file_server_directories(serve, root):
    server = serve(http_server.file_server(root))
    assert fetch(server, "/sub/").body == b"<p>index"
    for target, location in [
        ("/sub?q=1", "./sub/?q=1"),
        ("/sub/index.html", "./"),
        ("/a.txt/", "../a.txt"),
        ("/sub/deep", "./deep/"),
    ]:
        r = fetch(server, target)
        assert (r.status, r["location"]) == (301, location)
    assert fetch(server, "/").status == 404
    assert fetch(server, "/sub/deep/").status == 404


def test_file_server_with_another_index(serve, root):
    server = serve(http_server.file_server(root, index="a.txt"))
    assert fetch(server, "/").body == b"0123456789"
    assert fetch(server, "/a.txt")["location"] == "./"
    assert fetch(serve(http_server.file_server(root, index="")), "/sub/").status == 404


def test_file_server_redirect_cannot_lead_elsewhere(serve, root):
    (root / "http:").mkdir()
    (root / "evil.com").mkdir()
    server = serve(http_server.file_server(root))
    assert fetch(server, "/http:")["location"] == "./http%3A/"
    assert fetch(server, "//evil.com")["location"] == "./evil.com/"


@pytest.mark.parametrize("way", ["mount", "strip_prefix"])
def test_file_server_redirects_keep_the_prefix(serve, root, way):
    files = http_server.file_server(root)

    def one(w, r):
        http_server.serve_file(w, r, root / "sub")

    mux = http_server.ServeMux()
    if way == "mount":
        inner, single = http_server.ServeMux(), http_server.ServeMux()
        inner.handle("/", files)
        single.handle("/", one)
        mux.mount("/in/{any}/static/", inner)
        mux.mount("/one/", single)
    else:
        mux.handle("/in/x/static/", http_server.strip_prefix("/in/x/static", files))
        mux.handle("/one/", http_server.strip_prefix("/one", one))
    server = serve(mux)
    for target, status, location in [
        ("/in/x/static/sub", 301, "/in/x/static/sub/"),
        ("/in/x/static/sub?q=%20", 301, "/in/x/static/sub/?q=%20"),
        ("/in/x/static/sub/index.html", 301, "/in/x/static/sub/"),
        ("/in/x/static/a.txt/", 301, "/in/x/static/a.txt"),
        ("/in/x/static", 307, "/in/x/static/"),
        ("/one/y", 301, "/one/y/"),
    ]:
        r = fetch(server, target)
        assert (r.status, urljoin(f"http://test{target}", r["location"])) == (
            status, f"http://test{location}",
        ), target  # fmt: skip
    assert fetch(server, "/in/x/static/sub/").body == b"<p>index"
    assert fetch(server, "/in/x/static/nothing").status == 404


def test_file_server_answers_that_are_no_content_are_those_of_error_and_redirect(serve, root):
    files = http_server.file_server(root)

    def handler(w, r):
        w.headers["Cache-Control"] = "max-age=9"
        w.headers["ETag"] = '"x"'
        files(w, r)

    server = serve(handler)
    r = fetch(server, "/nothing")
    assert (r.status, r.body, r["x-content-type-options"]) == (
        404, b"404 page not found\n", "nosniff",
    )  # fmt: skip
    for name in ("cache-control", "etag"):
        with pytest.raises(KeyError):
            r[name]
    r = fetch(server, "/sub?a=<\"'>")
    assert r["location"] == "./sub/?a=%3C%22'%3E"
    assert r.body == b"<a href=\"./sub/?a=%3C%22&#39;%3E\">Moved Permanently</a>.\n\n"


def test_file_server_lists_directories_if_asked(serve, root):
    server = serve(http_server.file_server(root, list_directories=True))
    assert fetch(server, "/sub/").body == b"<p>index"
    r = fetch(server, "/")
    assert r["content-type"] == "text/html; charset=utf-8"
    text = r.body.decode()
    assert ".hidden" not in text and ".well-known" not in text
    links = re.findall(r'<a href="([^"]*)">([^<]*)</a>', text)
    assert ("./sub/", "sub/") in links
    assert [shown for _, shown in links] == sorted(shown for _, shown in links)
    (odd,) = (href for href, shown in links if shown.startswith("sp ace"))
    assert "<é>" not in text and "&lt;é&gt;" in text
    assert fetch(server, "/" + odd.removeprefix("./")).body == b"odd"
    with_dots = serve(http_server.file_server(root, list_directories=True, dotfiles=True))
    assert ".hidden" in fetch(with_dots, "/").body.decode()
    assert fetch(with_dots, "/.hidden").body == b"hidden"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_file_server_only_reads(serve, root, method):
    r = fetch(serve(http_server.file_server(root)), "/a.txt", method=method)
    assert (r.status, r["allow"]) == (405, "GET, HEAD")


def test_file_server_below_a_mux(serve, root):
    mux = http_server.ServeMux()
    mux.handle("/sub/", http_server.file_server(root))
    server = serve(mux)
    assert fetch(server, "/sub/deep/x.json").body == b"{}"
    assert fetch(server, "/sub/%2e%2e/a.txt").status in (301, 404)


def test_file_server_cache_control(serve, root):
    server = serve(http_server.file_server(root, cache_control="max-age=60"))
    assert fetch(server, "/a.txt")["cache-control"] == "max-age=60"
    assert fetch(server, "/nothing").all("cache-control") == []
    assert fetch(server, "/a.txt", "Range: bytes=99-\r\n").all("cache-control") == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"follow_symlinks": True}, ValueError),
        ({"precompressed": ["deflate"]}, ValueError),
        ({"index": "a/b"}, ValueError),
    ],
)
def test_file_server_with_wrong_options(root, options, error):
    with pytest.raises(error):
        http_server.file_server(root, **options)


def test_file_server_of_no_directory(root):
    with pytest.raises(NotADirectoryError):
        http_server.file_server(root / "a.txt")


def test_file_server_follows_a_root_that_moves(serve, root, tmp_path):
    (tmp_path / "current").symlink_to(root)
    server = serve(http_server.file_server(tmp_path / "current"))
    assert fetch(server, "/a.txt").body == b"0123456789"
    (tmp_path / "next").symlink_to(root / "sub" / "deep")
    os.replace(tmp_path / "next", tmp_path / "current")
    assert fetch(server, "/a.txt").status == 404
    assert fetch(server, "/x.json").body == b"{}"


# --- what a path cannot reach ---------------------------------------------------------------------


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of opening below a directory."""
    monkeypatch.setattr(opening, "_system_resolves", request.param == "openat2")
    return request.param


def test_file_server_symlinks_stay_inside(serve, root, way):
    server = serve(http_server.file_server(root))
    for path, status in [
        ("/inside", 200),
        ("/sub/up", 200),
        ("/leaves", 404),
        ("/leaves_dir/secret.txt", 404),
        ("/absolute", 404),
        ("/loop", 404),
    ]:
        r = fetch(server, path)
        assert r.status == status and b"secret" not in r.body


def test_file_server_symlinks_never(serve, root, way):
    server = serve(http_server.file_server(root, follow_symlinks="never"))
    for path in ("/inside", "/sub/up", "/leaves", "/absolute", "/leaves_dir/secret.txt"):
        assert fetch(server, path).status == 404
    assert fetch(server, "/sub/deep/x.json").status == 200


def test_file_server_symlinks_always(serve, root):
    server = serve(http_server.file_server(root, follow_symlinks="always"))
    assert fetch(server, "/leaves").body == b"secret"
    assert fetch(server, "/leaves_dir/secret.txt").body == b"secret"
    assert fetch(server, "/absolute").body == b"0123456789"
    assert fetch(server, "/loop").status == 404


def test_file_server_only_regular_files(serve, root, way):
    server = serve(http_server.file_server(root))
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(root / "socket"))
        for path in ("/fifo", "/socket", "/fifo/", "/nothing", "/a.txt/b", "/" + "x" * 300):
            assert fetch(server, path).status == 404


def test_file_server_without_the_right(serve, root, way):
    (root / "locked").mkdir()
    (root / "locked" / "x").write_text("x")
    os.chmod(root / "locked", 0)
    status = fetch(serve(http_server.file_server(root)), "/locked/x").status
    assert status == (200 if os.geteuid() == 0 else 403)  # root may read everything


TRAVERSALS = [
    "/../secret.txt",
    "/sub/../../secret.txt",
    "/%2e%2e/secret.txt",
    "/..%2fsecret.txt",
    "/%2e%2e%2fsecret.txt",
    "/sub/..%2f..%2f..%2fsecret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/sub\\..\\..\\secret.txt",
    "/%00/../secret.txt",
    "/a.txt%00.html",
    "/%2fetc/passwd",
    "//etc/passwd",
    "/C:/secret.txt",
    "/C:%5csecret.txt",
    "/....//secret.txt",
    "/%252e%252e/secret.txt",
    "/..;/secret.txt",
    "/%c0%ae%c0%ae/secret.txt",
    "/\u2025/secret.txt",
    "/.hidden",
    "/sub/../.hidden",
    "/%2ehidden",
]


@pytest.mark.parametrize("target", TRAVERSALS)
def test_file_server_traversal_is_404(serve, root, way, target):
    r = fetch(
        serve(http_server.file_server(root, list_directories=True)), quote(target, safe="/%\\;:")
    )
    assert r.status in (400, 404)
    assert b"secret" not in r.body and b"hidden" not in r.body and b"root:" not in r.body


PIECES = st.sampled_from(
    ["..", ".", "", "%2e%2e", "%2e", "%2f", "%5c", "%00", "sub", "deep", "leaves_dir", "leaves",
     "secret.txt", "outside", "a.txt", "inside", "up", "x.json", "root", "loop", "etc", "passwd"]
)  # fmt: skip


class Fake:
    """As much of a request or a response as a file server needs."""

    def __init__(self, path: str) -> None:
        self.method, self.path, self.raw_query = "GET", path, ""
        self.headers = http_server.Headers()
        self.status, self.body = 200, b""

    def write_header(self, status: int) -> None:
        self.status = status

    def write(self, data: Any) -> None:
        self.body += data.encode() if isinstance(data, str) else data

    def send_file(self, fd: int, offset: int, count: int) -> None:
        self.body += os.pread(fd, count, offset)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(PIECES, max_size=8), st.sampled_from(["/", "%2f", "//", "\\"]))
def test_file_server_paths_never_leave_the_root(root, way, pieces, slash):
    w = Fake(unquote("/" + slash.join(pieces), errors="replace"))
    http_server.file_server(root, list_directories=True, dotfiles=True)(w, w)
    assert b"secret" not in w.body and b"root:" not in w.body
    assert w.status in (200, 301, 404)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(PIECES.filter(lambda p: "%" not in p), min_size=1, max_size=8))
def test_both_ways_of_opening_agree(root, pieces):
    path = "/".join(pieces).strip("/") or "."

    def outcome(system: bool, links: bool) -> Any:
        try:
            if system:
                fd = opening.open_below(str(root), path, "inside" if links else "never")
            else:
                fd = opening.walk(str(root), path, links)
        except OSError:
            return None
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    for links in (True, False):
        assert outcome(True, links) == outcome(False, links)


def test_opening_closes_what_it_opens(root, way):
    for path in (".", "a.txt", "sub/deep/x.json", "leaves", "loop", "nothing", "a.txt/x", "inside"):
        for links in ("inside", "never", "always"):
            try:
                os.close(opening.open_below(str(root), path, links))
            except OSError:
                pass
    with pytest.raises(ValueError):
        opening.open_below(str(root), "a\x00b", "inside")
    assert opened(root.parent) == []


def test_file_server_swapped_symlink_never_leaks(serve, root, tmp_path, way):
    """A directory that turns into a link outwards, again and again, while it is read."""
    (root / "flip").mkdir()
    (root / "flip" / "secret.txt").write_text("harmless")
    (root / "out").symlink_to("../outside")
    stop = threading.Event()
    failures = []

    def swap():
        while not stop.is_set():
            for one, other in (
                ("flip", "aside"),
                ("out", "flip"),
                ("flip", "out"),
                ("aside", "flip"),
            ):
                os.rename(root / one, root / other)

    def read():
        try:
            for _ in range(300):
                try:
                    fd = opening.open_below(str(root), "flip/secret.txt", "inside")
                except OSError:
                    continue
                with open(fd, "rb") as f:
                    assert f.read() == b"harmless"
        except BaseException as exc:
            failures.append(exc)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        read()
    finally:
        stop.set()
        swapper.join(60)
    assert failures == []


# --- precompressed --------------------------------------------------------------------------------


@pytest.fixture
def coded(root: Path) -> Path:
    (root / "app.js").write_text("plain js")
    (root / "app.js.br").write_bytes(b"brotli")
    (root / "app.js.gz").write_bytes(b"gzipped!")
    (root / "app.js.zst").mkdir()
    (root / "noext.gz").write_bytes(b"\x1f\x8b\x08")
    for path in root.iterdir():
        if path.name.startswith(("app", "noext")):
            os.utime(path, (OLD, OLD))
    return root


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("GZIP;Q=0.5", "gzip"),
        ("br;q=0.2, gzip;q=0.8", "gzip"),
        ("zstd", None),
        ("br;q=0", None),
        ("*", "br"),
        ("*;q=0.5, br;q=0", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("gzip;q=x", None),
        ("gzip;q=7", None),
        ("", None),
    ],
)
def test_file_server_precompressed(serve, coded, accept, coding):
    server = serve(http_server.file_server(coded, precompressed=("br", "zstd", "gzip")))
    r = fetch(server, "/app.js", f"Accept-Encoding: {accept}\r\n" if accept else "")
    bodies = {None: b"plain js", "br": b"brotli", "gzip": b"gzipped!"}
    assert r.body == bodies[coding]
    assert r.all("content-encoding") == ([coding] if coding else [])
    assert r["content-type"] == "text/javascript; charset=utf-8"
    assert r["vary"] == "Accept-Encoding"
    assert r["content-length"] == str(len(r.body))


def test_file_server_precompressed_details(serve, coded):
    server = serve(http_server.file_server(coded, precompressed="gzip"))
    accept = "Accept-Encoding: gzip\r\n"
    plain, r = fetch(server, "/app.js"), fetch(server, "/app.js", accept)
    assert plain["etag"] != r["etag"]
    again = fetch(server, "/app.js", accept + f"If-None-Match: {r['etag']}\r\n")
    assert (again.status, again["vary"]) == (304, "Accept-Encoding")
    part = fetch(server, "/app.js", accept + "Range: bytes=1-2\r\n")
    assert (part.status, part.body, part["content-encoding"]) == (206, b"zi", "gzip")
    # Sniffed is the content, not its coding.
    assert fetch(server, "/noext", accept)["content-type"] == "text/html; charset=utf-8"
    # One without a sibling, and a sibling alone.
    assert fetch(server, "/a.txt", accept).body == b"0123456789"
    (coded / "lone.gz").write_bytes(b"x")
    assert fetch(server, "/lone", accept).status == 404
    # Off by default.
    off = fetch(serve(http_server.file_server(coded)), "/app.js", accept)
    assert (off.body, off.all("vary")) == (b"plain js", [])


# --- clients --------------------------------------------------------------------------------------


def test_curl_ranges_resumes_and_conditions(serve, root, tmp_path, tool):
    url = serve(http_server.file_server(root)).url + "/big.bin"
    curl = functools.partial(tool, "curl", "-sS", "--fail")
    assert curl("-r", "1000-999999", url) == BIG[1000:1_000_000]
    assert curl("-r", "-10", url) == BIG[-10:]
    part = tmp_path / "part"
    part.write_bytes(BIG[:234_567])
    curl("-C", "-", "-o", str(part), url)
    assert part.read_bytes() == BIG
    assert curl("-z", OLD_DATE, "-w", "%{http_code}", url) == b"304"
    assert curl("-z", BEFORE, "-o", str(part), "-w", "%{http_code}", url) == b"200"
    etags = tmp_path / "etags"
    save = ("--etag-save", str(etags), "--etag-compare", str(etags))
    codes = [curl(*save, "-o", str(part), "-w", "%{http_code}", url) for _ in range(2)]
    assert codes == [b"200", b"304"]
    # Two transfers at once, over one connection, each of several ranges.
    out = curl("-r", "0-4,10-14", url)
    assert BIG[:5] in out and BIG[10:15] in out


def test_wget_resumes_and_mirrors(serve, root, tmp_path, tool):
    server = serve(http_server.file_server(root, list_directories=True))
    (tmp_path / "big.bin").write_bytes(BIG[:999])
    tool("wget", "-q", "-c", "-P", str(tmp_path), server.url + "/big.bin")
    assert (tmp_path / "big.bin").read_bytes() == BIG
    tool("wget", "-q", "-r", "-np", "-nH", "-P", str(tmp_path / "copy"), server.url + "/sub/deep/")
    assert (tmp_path / "copy" / "sub" / "deep" / "x.json").read_text() == "{}"


def test_requests_streams_a_file(serve, root):
    server = serve(http_server.file_server(root))
    with requests.Session() as s:
        s.trust_env = False
        with s.get(server.url + "/big.bin", stream=True, timeout=60) as r:
            assert b"".join(r.iter_content(10_000)) == BIG
        r = s.get(server.url + "/big.bin", headers={"Range": "bytes=5-9"}, timeout=60)
        assert (r.status_code, r.content) == (206, BIG[5:10])
        assert s.get(server.url + "/sub", timeout=60).text == "<p>index"


def test_same_answers_as_the_standard_librarys_server(serve, root):
    """Types, lengths and dates of what both serve."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    theirs = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))
    )
    thread = threading.Thread(target=theirs.serve_forever, daemon=True)
    thread.start()
    ours = serve(http_server.file_server(root))
    try:
        with requests.Session() as s:
            s.trust_env = False
            for path in ("/a.txt", "/page.html", "/big.bin", "/sub/", "/empty.txt", "/nothing"):
                a = s.get(f"http://127.0.0.1:{theirs.server_port}{path}", timeout=60)
                b = s.get(ours.url + path, timeout=60)
                assert a.status_code == b.status_code
                if a.status_code == 200:
                    assert a.content == b.content
                    for name in ("Content-Length", "Last-Modified"):
                        assert a.headers[name] == b.headers[name]
                    assert b.headers["Content-Type"].startswith(a.headers["Content-Type"])
    finally:
        theirs.shutdown()
        theirs.server_close()
        thread.join(60)


def test_files_are_served_by_several_procs(procs, serve, root):
    server = serve(http_server.file_server(root))
    failures: list[BaseException] = []

    def load() -> None:
        try:
            with server.connect() as c:
                for _ in range(20):
                    assert c.send(request("/big.bin")).response().body == BIG
                    assert c.send(request("/a.txt")).response().body == b"0123456789"
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert failures == []


def test_files_served_leave_no_descriptor(serve, root, tool):
    server = serve(http_server.file_server(root, list_directories=True, precompressed=["gzip"]))
    for target in ("/", "/a.txt", "/big.bin", "/sub", "/sub/", "/nothing", "/fifo", "/leaves"):
        for fields in ("", "Range: bytes=0-0,2-2\r\n", "Range: bytes=99999999-\r\n"):
            fetch(server, target, fields + "Accept-Encoding: gzip\r\n")
    server.until(connections=0)
    assert opened(root.parent) == []
