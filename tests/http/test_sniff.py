"""The content type of bodies whose handler sets none, as Go and the WHATWG have it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import http

TEXT, BINARY, HTML = (
    "text/plain; charset=utf-8",
    "application/octet-stream",
    "text/html; charset=utf-8",
)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", TEXT),
        (b"\x01\x02\x03", BINARY),
        (b"<HtMl><bOdY>blah blah blah</body></html>", HTML),
        (b"   <!DOCTYPE HTML>...", HTML),
        (b"\n<?xml!", "text/xml; charset=utf-8"),
        (b"\r\n\t\f <!--x", TEXT),
        (b"\r\n\t\f <!-- x", HTML),
        (b"<!doctype html>", HTML),
        (b"<a>", HTML),
        (b"<a", TEXT),
        (b"<ab>", TEXT),
        (b"<B ", HTML),
        (b"<br/>", TEXT),
        (b"<h1>x", HTML),
        (b"<p\n>", TEXT),
        (b"GIF87a", "image/gif"),
        (b"GIF89a...", "image/gif"),
        (b"GIF88a", TEXT),
        (b"BM...", "image/bmp"),
        (b"\x89PNG\r\n\x1a\nxx", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"RIFF1234WEBPVP8 ", "image/webp"),
        (b"RIFF1234AVI ", "video/avi"),
        (b"RIFF1234WAVEfmt ", "audio/wave"),
        (b"RIFF1234XXXX", TEXT),
        (b"FORM1234AIFFx", "audio/aiff"),
        (b"MThd\x00\x00\x00\x06\x00\x01", "audio/midi"),
        (b"ID3\x03\x00", "audio/mpeg"),
        (b"OggS\x00\x02", "application/ogg"),
        (b"\x00\x00\x01\x00", "image/x-icon"),
        (b"\x00\x00\x02\x00", "image/x-icon"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom<\x06", "video/mp4"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp41<\x06", "video/mp4"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00mp4avc1isom", BINARY),
        (b"\x00\x00\x02\x18ftypmp42\x00\x00\x00\x00", BINARY),
        (b"\x1a\x45\xdf\xa3", "video/webm"),
        (b"%PDF-1.7", "application/pdf"),
        (b"%!PS-Adobe-3", "application/postscript"),
        (b"\xfe\xffab", "text/plain; charset=utf-16be"),
        (b"\xff\xfeab", "text/plain; charset=utf-16le"),
        (b"\xef\xbb\xbf\x01", TEXT),
        (b"\xef\xbb\xbf", TEXT),
        (b"\x1f\x8b\x08", "application/x-gzip"),
        (b"PK\x03\x04", "application/zip"),
        (b"Rar!\x1a\x07\x00", "application/x-rar-compressed"),
        (b"Rar!\x1a\x07\x01\x00", "application/x-rar-compressed"),
        (b"\x00asm\x01", "application/wasm"),
        (b"\x00\x01\x00\x00", "font/ttf"),
        (b"OTTO\x00", "font/otf"),
        (b"ttcf\x00", "font/collection"),
        (b"wOFF\x00", "font/woff"),
        (b"wOF2\x00", "font/woff2"),
        (b"\x02" * 34 + b"LP", "application/vnd.ms-fontobject"),
        (b"plain\x1b[0m text", TEXT),
        (b"a" * 511 + b"\x00", BINARY),
        (b"a" * 512 + b"\x00", TEXT),
        (b" " * 600 + b"<html>", TEXT),
        ("snow ☃ é".encode(), TEXT),
    ],
)
def test_detect_content_type(data, kind):
    assert http.detect_content_type(data) == kind


@given(st.binary(max_size=64), st.integers(0, 9))
def test_detect_content_type_of_bytes_that_no_text_has(data, at):
    is_text = all(b in b"\t\n\x0c\r\x1b" or b >= 0x20 for b in data.lstrip(b"\t\n\x0c\r "))
    kind = http.detect_content_type(b"." + data)
    leads = (TEXT,) if is_text and b"LP" not in data else (BINARY, "application/vnd.ms-fontobject")
    assert kind in leads or (is_text and kind == "application/vnd.ms-fontobject")


@given(st.binary(max_size=700))
def test_detect_content_type_looks_at_512_bytes(data):
    kind = http.detect_content_type(data)
    assert kind == http.detect_content_type(bytearray(data[:512]))
    assert "/" in kind


@pytest.mark.parametrize("value", [1, None, "text"])
def test_detect_content_type_of_what_is_no_bytes(value):
    with pytest.raises(TypeError):
        http.detect_content_type(value)


# --- in responses ---------------------------------------------------------------------------------


def kind_of(serve, handler, method="GET"):
    r = serve(handler).ask(f"{method} / HTTP/1.1\r\nHost: t\r\n\r\n", method)
    assert r.status == 200
    return r.all("content-type")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("<html>", HTML),
        (b"<html>", HTML),
        (b"words", TEXT),
        ("\x00", BINARY),
        (b"%PDF-", "application/pdf"),
    ],
)
def test_response_type_is_sniffed(serve, value, kind, method):
    assert kind_of(serve, lambda w, r: value, method) == [kind]
    assert kind_of(serve, lambda w, r: w.write(value), method) == [kind]


def test_response_type_is_that_of_what_came_first(serve):
    def several(w, r):
        for piece in (b"%P", "DF-", "1.7"):
            w.write(piece)

    def streamed(w, r):
        w.write("<h1>")
        w.flush()
        w.write(b"\x00")

    def large(w, r):
        w.write(b"\x89PNG\r\n\x1a\n" + bytes(100_000))

    def large_second(w, r):
        w.write("<p>")
        w.write(bytes(100_000))

    assert kind_of(serve, several) == ["application/pdf"]
    assert kind_of(serve, streamed) == [HTML]
    assert kind_of(serve, large) == ["image/png"]
    assert kind_of(serve, large_second) == [HTML]


def test_response_type_is_not_guessed_without_a_body(serve):
    def flushed(w, r):
        w.flush()
        w.write("<html>")

    assert kind_of(serve, flushed) == []
    assert kind_of(serve, lambda w, r: None) == []
    assert kind_of(serve, lambda w, r: w.write(b"")) == []


def test_response_type_of_encoded_bodies_is_not_guessed(serve):
    def handler(w, r):
        w.headers["Content-Encoding"] = "gzip"
        return b"\x1f\x8b\x08"

    assert kind_of(serve, handler) == []


def test_response_type_can_be_turned_off(serve):
    def handler(w, r):
        w.headers["Content-Type"] = ""
        return "<html>"

    assert kind_of(serve, handler) == []


def test_response_type_of_json_stays(serve):
    assert kind_of(serve, lambda w, r: {"<html>": 1}) == ["application/json"]
