"""multipart/form-data: parts as they come, whole forms, files in memory and on disk."""

from __future__ import annotations

import builtins
import gc
import io
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

import runtime
from runtime import http
from runtime._http.multipart import MultipartReader, base_name, read_form

CRLF = b"\r\n"


def part(head: str, body: bytes = b"", boundary: str = "B") -> bytes:
    return b"--" + boundary.encode() + CRLF + head.encode() + CRLF * 2 + body + CRLF


def field(name: str, body: bytes = b"", filename: str | None = None) -> bytes:
    extra = "" if filename is None else f'; filename="{filename}"'
    return part(f'Content-Disposition: form-data; name="{name}"{extra}', body)


END = b"--B--\r\n"


def post(body: bytes, kind: str = "multipart/form-data; boundary=B") -> bytes:
    fields = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"POST / HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode() + body


def errors(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "runtime.http"]


def temporary_files() -> int:
    """How many of this process's descriptors are files that have no name."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        count += target.startswith(tempfile.gettempdir()) and target.endswith("(deleted)")
    return count


def describe(w: Any, r: Any) -> Any:
    form = r.multipart_form(max_memory=1000)
    return {
        "values": form.values,
        "files": [
            [f.name, f.filename, f.content_type, f.size, f.in_memory, f.read().decode("latin-1")]
            for files in form.files.values()
            for f in files
        ],
    }


# --- whole forms ----------------------------------------------------------------------------------


def test_multipart_form_of_values_and_files(serve):
    body = (
        field("a", b"1")
        + field("a", "é\r\n--b".encode())
        + part(
            'Content-Disposition: form-data; name="f"; filename="x.bin"\r\n'
            "Content-Type: application/x-thing",
            b"\x00\xff",
        )
        + field("f", b"z" * 2000, "large.txt")
        + field("empty", b"", "none.txt")
        + END
    )
    got = json.loads(serve(describe).ask(post(body)).body)
    assert got == {
        "values": {"a": ["1", "é\r\n--b"]},
        "files": [
            ["f", "x.bin", "application/x-thing", 2, True, "\x00\xff"],
            ["f", "large.txt", "", 2000, False, "z" * 2000],
            ["empty", "none.txt", "", 0, True, ""],
        ],
    }


def test_multipart_form_is_the_same_each_time(serve):
    def handler(w, r):
        form = r.multipart_form()
        assert r.multipart_form(max_memory=1) is form
        assert form.file("f").filename == "n" and form.file("nothing") is None
        return [r.post_form(), r.form(), form.values.get("a")]

    server = serve(handler)
    with server.connect() as c:
        c.send(
            post(field("a", b"1") + field("f", b"x", "n") + END).replace(b"POST /", b"POST /?q=1")
        )
        assert json.loads(c.response().body) == [{"a": ["1"]}, {"a": ["1"], "q": ["1"]}, "1"]


def test_form_reads_multipart_bodies(serve):
    server = serve(lambda w, r: [r.form(), [f.size for f in r.multipart_form().files["f"]]])
    body = field("a", b"1") + field("f", b"xyz", "n") + END
    assert json.loads(server.ask(post(body)).body) == [{"a": ["1"]}, [3]]


@pytest.mark.parametrize(
    "body", [END, b"--B--", b"\r\n" + END, b"preamble\r\n" + END + b"epilogue"]
)
def test_multipart_form_may_be_empty(serve, body):
    assert json.loads(serve(describe).ask(post(body)).body) == {"values": {}, "files": []}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", None),
        (b"nothing of the kind", None),
        (b"--B\r\n", None),
        (field("a", b"1"), None),
        (field("a", b"1") + b"--B-", None),
        (part("Content-Type: text/plain", b"1") + END, None),
        (part('Content-Disposition: attachment; name="a"', b"1") + END, None),
        (part("no colon") + END, None),
        (b"--B\n" + field("a", b"1") + END, None),
        (b"--B\r\nContent-Disposition: form-data\n\n\r\n" + END, None),
        (part('Content-Disposition: form-data; name="a"\r\nContent-Length: 7', b"1") + END, None),
        (part('Content-Disposition: form-data; name="a"\r\nContent-Length: -7', b"1") + END, None),
        (b"--B\r\nContent-Disposition: form-data; name=\xff\r\n\r\n" + CRLF + END, None),
        (END, "multipart/form-data"),
        (END, "multipart/form-data; boundary="),
        (END, "multipart/form-data; boundary=" + "x" * 300),
        (END, "multipart/mixed; boundary=B"),
        (END, "text/plain"),
        (END, ""),
    ],
)
@pytest.mark.parametrize("how", ["form", "stream"])
def test_multipart_that_is_malformed_is_400(serve, body, kind, how, caplog):
    def handler(w, r):
        return describe(w, r) if how == "form" else [p.read().decode() for p in r.multipart()]

    request = post(body) if kind is None else post(body, kind)
    assert serve(handler).ask(request).status == 400
    assert errors(caplog) == []


@pytest.mark.parametrize("cut", [10, 60, 100, 1000])
def test_multipart_that_ends_early_is_400(serve, cut):
    body = field("f", b"x" * 5000, "n") + END
    before = temporary_files()
    assert serve(describe).ask(post(body[:cut])).status == 400
    assert temporary_files() == before


@pytest.mark.parametrize(
    "body",
    [
        b"".join(field(str(i)) for i in range(6)) + END,
        field("v", b"x" * 101) + END,
        field("v", b"x" * 60) + field("w", b"x" * 41) + END,
        part("Content-Disposition: form-data; name=a\r\nX: " + "y" * 9000) + END,
        part("Content-Disposition: form-data; name=a" + "\r\nX: y" * 40) + END,
    ],
)
def test_multipart_over_a_limit_is_413(serve, body, caplog):
    server = serve(lambda w, r: r.multipart_form(max_parts=5, max_value_bytes=100).values)
    assert server.ask(post(body)).status == 413
    assert errors(caplog) == []


def test_multipart_in_a_limited_body_is_413(serve):
    def handler(w, r):
        r.body = http.MaxBytesReader(w, r.body, 5000)
        return describe(w, r)

    server = serve(handler)
    before = temporary_files()
    assert server.ask(post(field("f", b"x" * 4000, "n") + END)).status == 200
    assert server.ask(post(field("f", b"x" * 6000, "n") + END)).status == 413
    assert temporary_files() == before


# --- files ----------------------------------------------------------------------------------------


def test_multipart_memory_is_for_all_files_together(serve):
    def handler(w, r):
        form = r.multipart_form(max_memory=100)
        return [[f.size, f.in_memory] for f in form.files["f"]]

    sizes = [60, 41, 40, 1, 0]
    body = b"".join(field("f", b"x" * n, "n") for n in sizes) + END
    assert json.loads(serve(handler).ask(post(body)).body) == [
        [60, True],
        [41, False],
        [40, True],
        [1, False],
        [0, True],
    ]


def test_multipart_files_are_gone_after_the_handler(serve, wait_until):
    kept: list[Any] = []
    before = temporary_files()

    def handler(w, r):
        form = r.multipart_form(max_memory=10)
        kept.extend((r, form, *form.files["f"]))
        assert temporary_files() == before + 2
        return "ok"

    large = field("f", b"x" * (9 << 20), "large")  # so large that a thread closes it
    body = field("f", b"12345", "a") + field("f", b"x" * 100, "b") + large + END
    assert serve(handler).ask(post(body)).body == b"ok"
    wait_until("the files are closed", lambda: temporary_files() == before)
    wait_until("the large one says so", lambda: kept[-1].file.closed)
    assert all(f.file.closed for f in kept[2:])


def test_multipart_files_are_gone_after_a_failure(serve, wait_until):
    before = temporary_files()

    def handler(w, r):
        r.multipart_form(max_memory=10)
        raise http.HTTPError(418)

    server = serve(handler)
    assert server.ask(post(field("f", b"x" * 100, "b") + END)).status == 418
    wait_until("the file is closed", lambda: temporary_files() == before)


def test_multipart_file_is_saved(serve, tmp_path):
    def handler(w, r):
        for f in r.multipart_form(max_memory=10).files["f"]:
            f.file.read(3)
            f.save(tmp_path / f.filename)
            with pytest.raises(FileExistsError):
                f.save(tmp_path / f.filename)
        return "ok"

    body = field("f", b"12345", "small") + field("f", b"x" * 3_000_000, "large") + END
    assert serve(handler).ask(post(body)).body == b"ok"
    assert (tmp_path / "small").read_bytes() == b"12345"
    assert (tmp_path / "large").read_bytes() == b"x" * 3_000_000


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("plain.txt", "plain.txt"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("C:\\\\dir\\\\file.txt", "file.txt"),
        ("..", ""),
        ("a/..", ""),
        ("dir/", ""),
        (" . ", ""),
        ("a\x00b\x1fc", "abc"),
        ("é☃", "é☃"),
        ("%22q%22", '"q"'),
    ],
)
def test_multipart_filename_is_only_a_name(serve, sent, name):
    def handler(w, r):
        (f,) = r.multipart_form().files["f"]
        return {"name": f.filename}

    assert json.loads(serve(handler).ask(post(field("f", b"x", sent) + END)).body) == {"name": name}


@given(st.text())
def test_base_name_stays_below_a_directory(text):
    name = base_name(text)
    assert name not in (".", "..")
    assert not set(name) & set("/\\\x00\n\r")
    if name:
        assert Path("/root", name).parent == Path("/root")


def test_multipart_without_the_package_says_what_to_install(serve, caplog, monkeypatch):
    original = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "multipart":
            raise ModuleNotFoundError("No module named 'multipart'", name="multipart")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert serve(describe).ask(post(END)).status == 500
    assert "pip install 'gosched[multipart]'" in caplog.text


def test_multipart_spool_that_fails_is_500_and_leaves_nothing(serve, caplog, monkeypatch):
    before = temporary_files()
    made = []

    class Full(io.FileIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    def temporary(**kwargs):
        fd = os.open(tempfile.gettempdir(), os.O_RDWR | os.O_TMPFILE, 0o600)
        made.append(Full(fd, "w+"))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary)
    server = serve(describe)
    assert server.ask(post(field("f", b"x" * 5000, "n") + END)).status == 500
    assert len(errors(caplog)) == 1
    server.until(active=0)
    while not made[0].closed:
        os.sched_yield()
    assert temporary_files() == before


# --- streaming ------------------------------------------------------------------------------------


def test_multipart_parts_come_as_they_are_sent(serve):
    def handler(w, r):
        for p in r.multipart():
            w.write(f"{p.name}:")
            w.flush()
            for piece in p:
                w.write(piece)
                w.flush()

    with serve(handler).connect() as c:
        body = field("a", b"12") + field("b", b"3", "f") + END
        c.send(post(body)[: -len(body)])
        c.send(body[:60]).head()
        assert c.chunk() == b"a:"
        c.send(body[60:])
        got = b""
        while piece := c.chunk():
            got += piece
        assert got == b"12b:3"


def test_multipart_parts_not_read_are_skipped(serve):
    def handler(w, r):
        seen = []
        previous = None
        for p in r.multipart():
            assert previous is None or previous.read() == b""
            seen.append([p.name, p.filename, p.is_file, p.content_type, p.read(2).decode()])
            previous = p
        return seen

    body = (
        field("a", b"x" * 200_000)
        + part(
            'content-disposition: form-data; name="b"; filename="n"\r\ncontent-type: text/x',
            b"123",
        )
        + field("c")
        + END
    )
    assert json.loads(serve(handler).ask(post(body)).body) == [
        ["a", "", False, "", "xx"],
        ["b", "n", True, "text/x", "12"],
        ["c", "", False, "", ""],
    ]


def test_multipart_can_be_read_once(serve):
    def handler(w, r):
        parts = list(r.multipart())
        for again in (r.multipart, r.multipart_form):
            with pytest.raises(RuntimeError, match="already"):
                again()
        return [len(parts), r.form()]

    assert json.loads(serve(handler).ask(post(field("a", b"1") + END)).body) == [1, {}]


@pytest.mark.parametrize("method", ["multipart", "multipart_form"])
def test_multipart_takes_keywords_only(serve, method):
    def handler(w, r):
        with pytest.raises(TypeError, match="keyword arguments only"):
            getattr(r, method)(5)
        with pytest.raises(TypeError):
            getattr(r, method)(nonsense=5)
        return "fine"

    assert serve(handler).ask(post(END)).body == b"fine"


# --- round trips ----------------------------------------------------------------------------------

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters='"\\\r\n%;'), min_size=1, max_size=12
)
FIELDS = st.lists(
    st.tuples(
        NAMES, st.one_of(st.binary(max_size=300), st.tuples(NAMES, st.binary(max_size=5000)))
    ),
    max_size=6,
)


class Trickle:
    """A body that comes in pieces."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step = io.BytesIO(data), step

    def read(self, n: int = -1, /) -> bytes:
        return self.data.read(min(n, self.step))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FIELDS, st.integers(1, 9000), st.integers(0, 6000))
def test_multipart_round_trip(fields, step, memory):
    """What urllib3, and so requests, encodes."""
    body, kind = encode_multipart_formdata(fields)
    form = read_form(MultipartReader(Trickle(body, step), kind), memory, 1 << 20)
    values: dict[str, list[str]] = {}
    files: dict[str, list[tuple[str, bytes]]] = {}
    for name, value in fields:
        if isinstance(value, tuple):
            files.setdefault(name, []).append((base_name(value[0]), value[1]))
        else:
            values.setdefault(name, []).append(value.decode("utf-8", "replace"))
    assert form.values == values
    got = {name: [(f.filename, f.read()) for f in fs] for name, fs in form.files.items()}
    assert got == files
    held = sum(f.size for fs in form.files.values() for f in fs if f.in_memory)
    assert held <= memory
    form.close()


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_multipart_of_anything_fails_cleanly(data, step):
    body = b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\n" + data + b"\r\n--B--"
    for text in (body, data, b"--B" + data):
        try:
            form = read_form(
                MultipartReader(Trickle(text, step), "multipart/form-data; boundary=B"), 10, 1000
            )
        except http.HTTPError as exc:
            assert exc.status in (400, 413)
        else:
            form.close()


# --- clients --------------------------------------------------------------------------------------


def test_curl_uploads_files(serve, tool, tmp_path):
    (tmp_path / "up.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5_000_000))
    (tmp_path / "notes.txt").write_text("a note")

    def handler(w, r):
        form = r.multipart_form(max_memory=1 << 20)
        files = [f for fs in form.files.values() for f in fs]
        return {
            "values": form.values,
            "files": [[f.name, f.filename, f.content_type, f.size, f.in_memory] for f in files],
            "same": form.files["png"][0].read() == (tmp_path / "up.png").read_bytes(),
        }

    out = tool(
        *("curl", "-sS", "-F", "title=é x", "-F", f"png=@{tmp_path}/up.png"),
        *(
            "-F",
            f"n=@{tmp_path}/notes.txt;type=text/x-note;filename=../other.txt",
            serve(handler).url,
        ),
    )
    assert json.loads(out) == {
        "values": {"title": ["é x"]},
        "files": [
            ["png", "up.png", "image/png", 5_000_008, False],
            ["n", "other.txt", "text/x-note", 6, True],
        ],
        "same": True,
    }


def test_requests_uploads_files(serve):
    server = serve(describe)
    with requests.Session() as s:
        s.trust_env = False
        r = s.post(
            server.url,
            data={"a": ["1", "é"]},
            files={"f": ("é.txt", b"text", "text/plain"), "g": ("g", b"q" * 5000)},
            timeout=60,
        )
    assert r.json() == {
        "values": {"a": ["1", "é"]},
        "files": [
            ["f", "é.txt", "text/plain", 4, True, "text"],
            ["g", "g", "", 5000, False, "q" * 5000],
        ],
    }


# --- the scheduler --------------------------------------------------------------------------------


def test_multipart_spooling_lets_others_run(serve, monkeypatch):
    """A disk that does not answer stops nobody but the upload."""
    stuck, seen = threading.Event(), threading.Event()
    original = tempfile.TemporaryFile

    def slow(**kwargs):
        seen.set()
        assert stuck.wait(60)
        return original(**kwargs)

    monkeypatch.setattr(tempfile, "TemporaryFile", slow)
    server = serve(lambda w, r: describe(w, r) if r.method == "POST" else "hello")
    with server.connect() as c:
        c.send(post(field("f", b"x" * 5000, "n") + END))
        assert seen.wait(60)
        assert server.get().body == b"hello"
        stuck.set()
        assert c.response().status == 200


def test_multipart_that_is_cancelled_while_it_spools_leaves_nothing(monkeypatch):
    stuck, seen = threading.Event(), threading.Event()
    original = tempfile.TemporaryFile
    before, others = temporary_files(), runtime.num_goroutine()

    def slow(**kwargs):
        seen.set()
        assert stuck.wait(60)
        return original(**kwargs)

    monkeypatch.setattr(tempfile, "TemporaryFile", slow)
    body = field("f", b"x" * 5000, "n") + END

    def read():
        reader = MultipartReader(io.BytesIO(body), "multipart/form-data; boundary=B")
        return read_form(reader, 10, 1000)

    g = runtime.go(read)
    while not seen.is_set():
        runtime.sleep(0.001)
    g.cancel()
    with pytest.raises(runtime.Cancelled):
        g.join()
    stuck.set()
    while temporary_files() > before or runtime.num_goroutine() > others:
        runtime.sleep(0.001)
    gc.collect()
