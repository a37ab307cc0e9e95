"""Compressed responses (RFC 9110 sections 8.4 and 12.5.3).

Whether a response is compressed is settled once its size is known to reach the threshold: what a
handler returns is looked at before it is sent; what a handler writes is held back until there is
enough of it, until a flush, or until the handler is done. From then on the writer around the
server's either passes everything on or compresses it. What is short needs none of that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import runtime
from runtime._core import GoExit, detect_content_type
from runtime._http.chain import Handler, Middleware, callee
from runtime._http.conditions import plain_is_accepted, preferred_codings
from runtime._http.controller import ResponseController
from runtime._http.middleware.codings import Coder, Coding, make_codings
from runtime._http.middleware.writer import Around, joined, listed
from runtime._http.replies import unpack
from runtime._http.values import dump_json

TYPES = (
    "text/*",
    "*+json",
    "*+xml",
    "application/graphql",
    "application/javascript",
    "application/json",
    "application/ndjson",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/xml",
    "application/yaml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/vnd.microsoft.icon",
    "image/x-icon",
)

_MIN_SIZE = 1024
_REMEMBERED = 256  # characters of a field that is remembered, at most
_SNIFF = 512  # bytes that tell a type
# With more bytes the thread would be busy for longer than it takes to have another one do it.
_LARGE = 16 * 1024
_PIECE = 256 * 1024  # bytes of a file, or of a large write, that are compressed at a time

# What has one of these is coded already, part of something, or would not match its digest, which
# is of what is coded (RFC 9530 sections 2 and 3).
_KEEP = (
    "Content-Encoding",
    "Content-Range",
    "Content-Digest",
    "Repr-Digest",
    "Content-MD5",
    "Digest",
)
_WITHOUT = frozenset((101, 204, 205, 206, 304))  # no content, or a part of it

_UNDECIDED, _PLAIN, _CODED, _ENDED = range(4)


class _Choice:
    """What a client accepts."""

    __slots__ = ("coding", "plain")

    def __init__(self, coding: Coding | None, plain: bool) -> None:
        self.coding = coding  # the best one; None: none
        self.plain = plain or coding is None  # nothing may be sent as it is otherwise


class _Rules:
    """What a middleware was told."""

    __slots__ = ("_choose", "compressible", "min_size")

    def __init__(
        self, codings: dict[str, Coding], min_size: int, types: Callable[[str], bool]
    ) -> None:
        offered = tuple(codings)

        def choose(accept: str) -> _Choice:
            names = preferred_codings.__wrapped__(accept, offered)
            coding = codings[names[0]] if names else None
            return _Choice(coding, plain_is_accepted(accept))

        self._choose = lru_cache(256)(choose)
        self.compressible = lru_cache(256)(types)
        self.min_size = min_size

    def accepted(self, r: Any) -> _Choice:
        """What the client of r accepts."""
        fields = r.headers.get_all("Accept-Encoding")
        accept = fields[0] if len(fields) == 1 else ",".join(fields)
        return (self._choose if len(accept) <= _REMEMBERED else self._choose.__wrapped__)(accept)


def _matcher(types: Iterable[str]) -> Callable[[str], bool]:
    """A function that tells whether a Content-Type is one of these."""
    if isinstance(types, str):
        raise TypeError("compress(): types is a collection of media types, not a str")
    exact, starts, ends = set(), [], []
    for kind in types:
        head, star, tail = kind.lower().partition("*")
        if (star and head and tail) or "*" in tail or (not star and head.count("/") != 1):
            raise ValueError(
                f"compress(): {kind!r} is no type: want one as text/html, text/* or *+json"
            )
        if not star:
            exact.add(head)
        elif tail:
            ends.append(tail)
        else:
            starts.append(head)
    first, last = tuple(starts), tuple(ends)

    def matches(content_type: str) -> bool:
        kind = content_type.partition(";")[0].strip().lower()
        return kind in exact or kind.startswith(first) or kind.endswith(last)

    return matches


def _weaken(headers: Any) -> None:
    """The coded content is not the same bytes: a strong ETag would lie (RFC 9110 8.8.3.3)."""
    etag = headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):
        headers.set("ETag", "W/" + etag)


def _vary(headers: Any) -> None:
    names = ",".join(headers.get_all("Vary")).lower()
    if "*" not in names and "accept-encoding" not in names:
        headers.add("Vary", "Accept-Encoding")


class _Writer(Around):
    """What the handler gets for w."""

    __slots__ = ("_r", "_rules")

    _state = _UNDECIDED  # changes with the mutex; _begun: it is another one
    _coder: Coder  # once it is coded:
    _dirty = False  # something was written that was not flushed
    _declared: str | None = None  # the handler's own Content-Length

    def __init__(self, w: Any, r: Any, rules: _Rules) -> None:
        self._w = w
        self._r = r
        self._rules = rules
        self._limit = rules.min_size
        self._held = []
        self._size = 0
        self._begun = False

    # --- ResponseWriter's methods ---

    @property
    def bytes_written(self) -> int:
        if self._state == _PLAIN:
            inner: int = self._w.bytes_written
            return inner
        return self._size if self._begun else len(joined(self._held))

    def write_header(self, status: int, /) -> None:
        if self._size and self._state != _PLAIN:
            raise RuntimeError(
                f"write_header({status}): the response has begun already, "
                f"with status {self._w.status or 200}"
            )
        self._w.write_header(status)

    def respond(self, value: object, /) -> None:
        with self._mutex:
            if value is None or self._state == _PLAIN:
                self._w.respond(value)
                return
            status, body, is_json = unpack(value)
            if self._begun or self._held:
                raise TypeError(
                    "a handler must either write or return the response; this one did and "
                    f"returned a {type(value).__name__}"
                )
            if body is None or (status and self._w.status):
                self._w.respond(value)
                return
            if status:
                self._w.write_header(status)
            if is_json and "Content-Type" not in self._w.headers:
                self._w.headers.set("Content-Type", "application/json")
            self._whole(body)

    def flush(self) -> None:
        with self._mutex:
            if self._state == _UNDECIDED:
                declared = self._declared_size()
                self._settle(self._limit if declared is None else declared)
            if self._state == _CODED and self._dirty:
                self._dirty = False
                self._w.write(self._coder.flush())
        ResponseController(self._w).flush()

    def send_file(self, file: Any, offset: int = 0, count: int | None = None) -> None:
        with self._mutex:
            n = -1
            if self._state == _ENDED:
                raise RuntimeError("send_file(): the response is complete")
            if self._state != _PLAIN:
                fd = file if isinstance(file, int) else file.fileno()
                n = _count(fd, offset, count)
            if n >= 0 and self._state == _UNDECIDED:
                first = b"" if self._held else os.pread(fd, _SNIFF, offset)
                self._settle(len(joined(self._held)) + n, first)
            if n < 0 or self._state != _CODED:
                self._w.send_file(file, offset, count)
                return
            self._size += n
            self._dirty = True
            while n > 0:
                read, coded = self._elsewhere(
                    _code_file, self._coder.write, fd, min(n, _PIECE), offset
                )
                if read == 0:
                    raise OSError("send_file(): the file has become shorter")
                if coded:
                    self._w.write(coded)
                n -= read
                offset += read

    def hijack(self) -> Any:
        with self._mutex:
            self._finish()
            self._begin(_PLAIN)
        return self._w.hijack()

    def _forget(self) -> bool:
        take_back = getattr(self._w, "_forget", None)
        with self._mutex:
            if take_back is None or not take_back():
                return False
            if self._state in (_CODED, _ENDED):
                self._w.headers.delete("Content-Encoding")
            self._take()
            self._size, self._state, self._begun = 0, _UNDECIDED, False
            return True

    def _write_on(self, data: Any) -> None:
        if self._state == _PLAIN:
            self._w.write(data)
            return
        with self._mutex:
            self._put(data if isinstance(data, bytes) else joined([data]))

    def _write_out(self) -> None:
        with self._mutex:
            if self._state == _UNDECIDED:
                self._settle(self._limit)
                return
            for piece in self._take():
                if self._state == _PLAIN:
                    self._w.write(piece)
                else:
                    self._put(joined([piece]))

    # --- what becomes of the response; with the mutex ---

    def _decide(self, first: bytes, size: int) -> Coding | None:
        """The coding for a body that begins so and has that size; sets the header fields."""
        w, choice = self._w, self._rules.accepted(self._r)
        headers = w.headers
        status = w.status
        if status in _WITHOUT or (size < self._limit and choice.plain):
            return None
        if any(name in headers for name in _KEEP):
            return None
        kind = headers.get("Content-Type")
        known = kind is not None
        if kind is None and first:
            kind = detect_content_type(first)
        if choice.plain and not self._compressible(kind or ""):
            return None
        if listed(headers, "Cache-Control", "no-transform"):
            return None
        _vary(headers)
        method = self._r.method
        if method == "HEAD" or method == "CONNECT":
            return None
        if choice.coding is not None and not known and kind:
            headers.set("Content-Type", kind)
        return choice.coding

    def _compressible(self, kind: str) -> bool:
        test = self._rules.compressible
        return test(kind) if len(kind) <= _REMEMBERED else test.__wrapped__(kind)

    def _coded(self, coding: Coding) -> None:
        """The header fields of content that has it."""
        headers = self._w.headers
        headers.set("Content-Encoding", coding.name)
        self._declared = headers.get("Content-Length")
        headers.delete("Content-Length")
        headers.delete("Accept-Ranges")  # which are ranges of the content without it
        _weaken(headers)

    def _begin(self, state: int) -> None:
        self._state = state
        self._begun = True

    def _settle(self, size: int, first: bytes = b"") -> None:
        """Go on as a stream: of `size` bytes, as far as is known."""
        if self._held:
            first = joined(self._held[:1])[:_SNIFF]
        coding = self._decide(first, size)
        if coding is None:
            self._begin(_PLAIN)
            for piece in self._take():
                self._w.write(piece)
            return
        self._coded(coding)
        self._coder = coding.start()
        self._size = 0
        self._begin(_CODED)
        if data := joined(self._take()):
            self._put(data)

    def _put(self, data: bytes) -> None:
        """Compress some of a stream."""
        if self._state != _CODED:
            raise RuntimeError("write(): the response is complete")
        self._size += len(data)
        self._dirty = True
        write = self._coder.write
        if len(data) <= _LARGE:
            if coded := write(data):
                self._w.write(coded)
            return
        for at in range(0, len(data), _PIECE):
            if coded := self._elsewhere(write, data[at : at + _PIECE]):
                self._w.write(coded)

    def _elsewhere(self, call: Callable[..., Any], *args: Any) -> Any:
        """runtime.blocking(): if it is not waited for to its end, the stream is in its hands."""
        try:
            return runtime.blocking(call, *args)
        except BaseException:
            self._begin(_ENDED)
            raise

    def _whole(self, body: str | bytes) -> None:
        """The body is all there will be."""
        data = body.encode() if isinstance(body, str) else body
        coding = self._decide(data[:_SNIFF], len(data))
        self._begin(_ENDED)
        coded = None
        if coding is not None:
            whole = coding.whole
            coded = whole(data) if len(data) <= _LARGE else runtime.blocking(whole, data)
            if len(coded) >= len(data) and self._rules.accepted(self._r).plain:
                coded = None
        if coding is None or coded is None:
            self._begin(_PLAIN)
            self._w.respond(body)
            return
        self._coded(coding)
        self._check_length(len(data))
        self._size = len(data)
        self._w.respond(coded)

    def _declared_size(self) -> int | None:
        length = self._w.headers.get("Content-Length", "")
        return int(length[:18]) if length.isascii() and length.isdigit() else None

    def _check_length(self, size: int) -> None:
        declared = self._declared
        if declared is not None and declared != str(size):
            raise ValueError(
                f"the handler declared Content-Length {declared} and wrote {size} bytes"
            )

    def _finish(self) -> None:
        if self._state == _CODED:
            self._begin(_ENDED)
            if coded := self._coder.finish():
                self._w.write(coded)
            self._check_length(self._size)
        elif self._state == _UNDECIDED and self._held:
            held = self._take()
            self._whole(held[0] if len(held) == 1 else joined(held))

    def _end(self) -> None:
        """The handler has returned."""
        with self._mutex:
            if self._state == _UNDECIDED and not self._held:
                self._end_bodyless()
            self._finish()
            self._begin(_PLAIN)  # the writer inside refuses what comes from now on

    def _end_bodyless(self) -> None:
        w = self._w
        if w.status == 304:
            # What the client has, has come through here: it is to find it again by that name.
            etag = w.headers.get("ETag")
            if etag and "W/" + etag in ",".join(self._r.headers.get_all("If-None-Match")):
                _weaken(w.headers)
        elif self._r.method == "HEAD":
            declared = self._declared_size()
            if declared is not None:
                self._decide(b"", declared)


def _count(fd: int, offset: int, count: int | None) -> int:
    """Bytes that send_file() is to send; -1: it is not the way it should be."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or not 0 <= offset <= info.st_size:
        return -1
    there = info.st_size - offset
    n = there if count is None else count
    return n if 0 <= n <= there else -1


def _code_file(write: Callable[[bytes], bytes], fd: int, n: int, offset: int) -> tuple[int, bytes]:
    data = os.pread(fd, n, offset)
    return len(data), write(data)


def compress(
    codings: Iterable[str] | None = None,
    *,
    min_size: int = _MIN_SIZE,
    types: Iterable[str] = TYPES,
    levels: Mapping[str, int] | None = None,
) -> Middleware:
    """Compress responses for clients that accept it: with zstd, brotli or gzip.

        mux.use(compress())
        mux.handle("GET /export", export, use=[compress(["gzip"], levels={"gzip": 1})])

    ``codings`` are those that are offered, best first, of ``"zstd"``, ``"br"`` and ``"gzip"``;
    by default all that are installed (extra ``compress``; on Python 3.14 zstd is there). The
    client's preferences go first, by Accept-Encoding. ``levels``: of a coding, instead of zstd 3,
    brotli 4 and gzip 6. ``min_size``, in bytes, is what a body must have; ``types`` which media
    types are compressed: exact ones, ``text/*``, or ``*+json``.

    Left alone is what has a Content-Encoding already, ranges, ``Cache-Control: no-transform``,
    HEAD, and a client that prefers content as it is. A client that refuses that (``identity;q=0``)
    gets even the smallest body compressed, if it accepts a coding. Responses that depend on
    Accept-Encoding say so in Vary; a strong ETag of what is compressed becomes weak (RFC 9110
    section 8.8.3.3).

    A body that is returned, and a short one that is written, has a Content-Length. One that
    streams is compressed as it comes, and flush() sends all that was written. Large pieces are
    compressed by a thread of the blocking pool, so that other goroutines go on.

    Compression tells by its length what a secret has in common with what an attacker may choose
    (BREACH): do not compress pages over TLS that have both a secret, such as a CSRF token, and
    text of the request.

    Raises ValueError for arguments that make no sense, ImportError for a coding that is named and
    not installed.
    """
    if isinstance(codings, str):
        raise TypeError("compress(): codings is a collection of names, not a str")
    if not min_size >= 0:
        raise ValueError(f"compress(): min_size is a number of bytes, not {min_size!r}")
    names = None if codings is None else tuple(codings)
    if names == ():
        raise ValueError("compress(): codings is empty")
    rules = _Rules(make_codings(names, levels), min_size, _matcher(types))
    accepted = rules.accepted
    few = min_size // 4  # characters that are short whatever they are

    def goes_as_it_is(body: str | bytes, r: Any) -> bool:
        """Is it too short to be looked at?"""
        n = len(body)
        if n >= few and (
            n >= min_size
            or not (isinstance(body, bytes) or body.isascii() or len(body.encode()) < min_size)
        ):
            return False
        # Only with a weight can plain content be refused.
        return ";" not in (r._values("Accept-Encoding") or "") or accepted(r).plain

    def around(handler: Any) -> Handler:
        target = callee(handler, "compress()")

        def compressed(w: Any, r: Any) -> Any:
            out = _Writer(w, r, rules)
            try:
                value = target(out, r)
            except GoExit:  # a handler may end this way
                out._end()
                raise
            if not out._begun:
                held = out._held
                kind = type(value)
                if held:
                    if value is None and len(held) == 1 and goes_as_it_is(held[0], r):
                        out._begin(_PLAIN)
                        return held.pop()
                elif kind is str or kind is bytes:
                    if goes_as_it_is(value, r):
                        return value
                elif kind is dict or kind is list:
                    value = dump_json(value)
                    if "Content-Type" not in w.headers:
                        w.headers.set("Content-Type", "application/json")
                    if goes_as_it_is(value, r):
                        return value
            if value is not None:
                out.respond(value)
            out._end()
            return None

        return compressed

    return around
