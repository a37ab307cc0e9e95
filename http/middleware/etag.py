"""Entity tags made of the content, and 304 for who has it already (RFC 9110 sections 8.8.3, 13)."""

from __future__ import annotations

import sys
from typing import Any

import runtime
from runtime._core import GoExit, _tag_fresh, _weak_etag
from runtime._http.chain import Handler, Middleware, callee
from runtime._http.conditions import none_match
from runtime._http.controller import ResponseController
from runtime._http.middleware.writer import Around, joined, listed
from runtime._http.replies import unpack
from runtime._http.values import dump_json

_MAX_SIZE = 1 << 20
_LARGE = 64 * 1024  # bytes of which another thread makes a strong tag


def _strong_etag(data: str | bytes) -> str:
    import hashlib  # with all of OpenSSL

    content = data.encode() if isinstance(data, str) else data
    return f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'


def _declines(headers: Any) -> bool:
    return "ETag" in headers or listed(headers, "Cache-Control", "no-store")


class _Writer(Around):
    """Holds a response back until it is whole, or until it turns out that it gets no tag."""

    __slots__ = ("_status",)

    _mutex: Any

    def __init__(self, w: Any, limit: int) -> None:
        self._w = w
        self._limit = limit
        self._held = []
        self._size = self._status = 0  # the status is 200, once the handler has chosen that
        self._begun = False

    @property
    def status(self) -> int:
        inner: int = self._w.status
        return self._status or inner

    @property
    def bytes_written(self) -> int:
        if self._begun:
            inner: int = self._w.bytes_written
            return inner
        return len(joined(self._held))

    def write_header(self, status: int, /) -> None:
        if not self._begun:
            if self._held or self._status:
                raise RuntimeError(
                    f"write_header({status}): the response has begun already, "
                    f"with status {self.status or 200}"
                )
            if status == 200 and self._w.status == 0:
                self._status = status
                return
        self._w.write_header(status)

    def respond(self, value: object, /) -> None:
        if value is None or self._begun:
            self._w.respond(value)
            return
        status, body, is_json = unpack(value)
        if self._held or (status and self.status):
            raise TypeError(
                "a handler must either write or return the response; this one did and "
                f"returned a {type(value).__name__}"
            )
        if status == 200:
            self._status = status
        elif status:
            with self._mutex:
                self._pass_on()
            self._w.respond(value)
            return
        if is_json and "Content-Type" not in self._w.headers:
            self._w.headers.set("Content-Type", "application/json")
        if body is not None:
            self.write(body)

    def flush(self) -> None:
        with self._mutex:
            self._pass_on()
        ResponseController(self._w).flush()

    def send_file(self, file: Any, offset: int = 0, count: int | None = None) -> None:
        with self._mutex:
            self._pass_on()
        self._w.send_file(file, offset, count)

    def hijack(self) -> Any:
        with self._mutex:
            self._pass_on()
        return self._w.hijack()

    def _forget(self) -> bool:
        take_back = getattr(self._w, "_forget", None)
        with self._mutex:
            if take_back is None or not take_back():
                return False
            self._take()
            self._size, self._status, self._begun = 0, 0, False
            return True

    def _write_on(self, data: Any) -> None:
        self._w.write(data)

    def _write_out(self) -> None:
        with self._mutex:
            self._pass_on()

    def _pass_on(self) -> None:
        if not self._begun:
            self._begun = True
            if self._status:
                self._w.write_header(self._status)
        for piece in self._take():
            self._w.write(piece)

    def _whole(self) -> str | bytes | None:
        """The body, which is all there will be; None: there is none, or it was passed on."""
        with self._mutex:
            if self._begun or not self._held:
                self._pass_on()
                return None
            self._begun = True
            held = self._take()
            return held[0] if len(held) == 1 else joined(held)


def etag(*, strong: bool = False, max_size: int = _MAX_SIZE) -> Middleware:
    """Give responses an ETag made of their content, and answer 304 where the client has that.

        mux.use(compress(), etag())

    It is for GET and HEAD with status 200 and up to ``max_size`` bytes, which are held back until
    the handler is done; a larger response, one with an ETag of its own, with
    ``Cache-Control: no-store``, a file, and one that is flushed are passed on as they are. What a
    304 saves is the transfer: the handler has run.

    The tag is weak, and made by a fast hash (XXH64). A ``strong`` one promises the same bytes: it
    is 128 bits of BLAKE2b. Of compress() and this one put compress() outside, as above: then what
    a client has is not compressed again, and tags do not depend on the coding, but compressed
    content has a weak tag in any case. The other order works, too.

    A tag tells who can see it whether content is the same as elsewhere: it is no secret.

    Raises ValueError for a negative size.
    """
    if not max_size >= 0:
        raise ValueError(f"etag(): max_size is a number of bytes, not {max_size!r}")

    limit = max_size + 1
    few = max_size // 4  # characters that are not too many whatever they are
    most = int(min(max_size, sys.maxsize))

    def tagged(w: Any, r: Any, status: int, body: str | bytes) -> Any:
        """Respond with a whole body; status: as the handler has chosen it."""
        size = len(body)
        if size > few and type(body) is str and not body.isascii():
            size = len(body.encode())
        headers, chosen = w.headers, w.status  # 0: not chosen yet, which will be 200
        if size > max_size or (chosen and chosen != 200) or (headers and _declines(headers)):
            if status:
                w.write_header(status)
            return body
        if not strong:
            tag = _weak_etag(body)
        elif size <= _LARGE:
            tag = _strong_etag(body)
        else:
            tag = runtime.blocking(_strong_etag, body)
        headers.set("ETag", tag)
        if r._values("If-None-Match") and chosen == 0 and not none_match(r.headers, tag):
            for name in ("Content-Type", "Content-Length", "Content-Encoding", "Last-Modified"):
                headers.delete(name)
            w.write_header(304)
            return None
        if status:
            w.write_header(status)
        return body

    def around(handler: Any) -> Handler:
        target = callee(handler, "etag()")

        def tagging(w: Any, r: Any) -> Any:
            method = r.method
            if method != "GET" and method != "HEAD":
                return target(w, r)
            out = _Writer(w, limit)
            try:
                value = target(out, r)
            except GoExit:  # a handler may end this way
                body = out._whole()
                if body is not None:
                    w.respond(tagged(w, r, out._status, body))
                raise
            held, kind = out._held, type(value)
            if value is None and len(held) == 1 and not out._begun:
                out._begun = True
                body = held.pop()
            elif (kind is str or kind is bytes) and not held and not out._begun:
                body = value
            elif (kind is dict or kind is list) and not held and not out._begun:
                body = dump_json(value)
                if "Content-Type" not in w.headers:
                    w.headers.set("Content-Type", "application/json")
            else:
                if value is not None:
                    out.respond(value)
                body = out._whole()
                if body is None:
                    return None
            if not strong and not out._status and _tag_fresh(w, r, body, most):
                return body
            return tagged(w, r, out._status, body)

        return tagging

    return around
