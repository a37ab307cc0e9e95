"""ResponseRecorder: what a handler answers, kept in memory.

It decides as the server's writer does: when the head is fixed, what type the body has, which
framing is refused.  There is no connection: nothing waits, and none can be taken over.
"""

from __future__ import annotations

import json as _json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runtime import _core
from runtime._core import Headers, Request, detect_content_type
from runtime._http.controller import NotSupportedError
from runtime._http.errors import HTTPError
from runtime._http.replies import unpack
from runtime._http.server import Handler

if TYPE_CHECKING:
    from typing import NoReturn

    from _typeshed import HasFileno

__all__ = ["HeaderFields", "Response", "ResponseRecorder", "copy_fields", "record"]

HeaderFields = Mapping[str, Any] | Iterable[tuple[str, Any]]

_MAX_BUFFER = 64 * 1024  # bytes of body that the server's writer holds back
_MAX_COPY = 16 * 1024  # bytes of a file that it sends with others
_SNIFF = 512


def copy_fields(fields: HeaderFields | Headers | None) -> Headers:
    """New Headers with these fields."""
    pairs: Iterable[tuple[str, Any]]
    pairs = fields.items() if isinstance(fields, Mapping | Headers) else fields or ()
    copy = Headers()
    for name, value in pairs:
        copy.add(name, value)
    return copy


@dataclass(frozen=True, slots=True)
class Response:
    """What a client got."""

    status: int
    reason: str
    headers: Headers
    body: bytes
    trailers: Headers = field(default_factory=Headers)
    """The fields after the body, of a recorded response; Client does not read them."""

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body, decoded as JSON."""
        return _json.loads(self.body)


class ResponseRecorder:
    """A ResponseWriter that keeps the response.

        w = httptest.ResponseRecorder()
        handler(w, httptest.new_request("GET", "/"))
        assert w.status == 200 and w.body == b"Hello"

    request is for what depends on it: the response to HEAD has no body.  For handlers that
    return their response, or raise HTTPError, see `record`.

    Go: httptest.ResponseRecorder.
    """

    def __init__(self, request: Request | None = None) -> None:
        self.headers = Headers()
        """The header fields; after the first flush, changes do not show in response()."""
        self.trailers = _core._new_trailers()
        """The fields after the body; ValueError for those that cannot be trailers."""
        self.informational: list[tuple[int, Headers]] = []
        """What write_informational() has sent: status and fields of each."""
        self.flushed = False
        """Whether flush() was called."""
        self.read_deadline: float | None = None
        """The seconds that set_read_deadline() was given last."""
        self.write_deadline: float | None = None
        """The seconds that set_write_deadline() was given last."""
        self._head_only = request is not None and request.method == "HEAD"
        self._status = 0
        self._body = bytearray()
        self._written = 0  # bytes, those that nobody gets included
        self._wrote = self._text = self._json = self._ended = False
        # Once the head is fixed:
        self._head: Headers | None = None
        self._declared: int | None = None  # Content-Length of the handler
        self._no_body = self._chunked = False

    @property
    def status(self) -> int:
        """The status: what was chosen, 200 once anything was written, 0 before."""
        return self._status or (200 if self._wrote else 0)

    @property
    def bytes_written(self) -> int:
        """Bytes of the body so far."""
        return self._written

    @property
    def body(self) -> bytes:
        """The body so far, also where a client would get none, as of HEAD."""
        return bytes(self._body)

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self._body.decode()

    def json(self) -> Any:
        """The body, decoded as JSON."""
        return _json.loads(self._body)

    # --- ResponseWriter's methods ---

    def write(self, data: Any, /) -> None:
        """As ResponseWriter.write()."""
        is_text = isinstance(data, str)
        if is_text:
            data = data.encode()
        elif not isinstance(data, bytes):
            try:
                data = bytes(memoryview(data))
            except TypeError:
                kind = type(data).__name__
                raise TypeError(f"write() needs str or bytes, not {kind}") from None
        self._check()
        if self._written == 0:
            self._text = is_text
        self._add(data, self._written + len(data) > _MAX_BUFFER)

    def write_header(self, status: int, /) -> None:
        """As ResponseWriter.write_header()."""
        self._check()
        if not (200 <= status <= 999 or status == 101):
            raise ValueError(
                f"write_header({status}): a final status is 200 to 999, or 101 before hijack(); "
                "write_informational() sends others"
            )
        if self._status or self._written:
            raise RuntimeError(
                f"write_header({status}): the response has begun already, "
                f"with status {self._status or 200}"
            )
        self._status = int(status)
        self._wrote = True

    def respond(self, value: object, /) -> None:
        """As ResponseWriter.respond()."""
        self._check()
        if value is not None:
            self._returned(value)

    def flush(self) -> None:
        """As ResponseWriter.flush()."""
        self._check()
        self._wrote = self.flushed = True
        if self._head is None:
            self._begin(None, self._body)

    def write_informational(
        self, status: int, headers: HeaderFields | Headers | None = None
    ) -> None:
        """As ResponseWriter.write_informational(): see `informational`."""
        if not 100 <= status <= 199 or status == 101:
            raise ValueError(f"write_informational({status}): want 100, or 102 to 199")
        fields = copy_fields(headers)
        self._check()
        if self._head is not None:
            raise RuntimeError(
                f"write_informational({status}): the response has begun already, "
                f"with status {self._status}"
            )
        if "Content-Length" in fields or "Transfer-Encoding" in fields:
            raise ValueError(
                f"write_informational({status}): it has no body, so neither Content-Length nor "
                "Transfer-Encoding (RFC 9110 8.6, RFC 9112 6.1)"
            )
        self.informational.append((status, fields))

    def send_file(self, file: int | HasFileno, offset: int = 0, count: int | None = None) -> None:
        """As ResponseWriter.send_file()."""
        fd = file if isinstance(file, int) else file.fileno()
        if offset < 0:
            raise ValueError("send_file(): the offset must be 0 or more")
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError(
                "send_file() needs a regular file; write() sends what was read from another"
            )
        there = max(info.st_size - offset, 0)
        left = there if count is None else count
        if not 0 <= left <= there or offset > info.st_size:
            raise ValueError(
                f"send_file(): {left} bytes from {offset} are asked for, and the file has "
                f"{info.st_size}"
            )
        pieces = []
        large = left > _MAX_COPY
        while left > 0:
            piece = os.pread(fd, left, offset)
            if not piece:
                raise OSError("send_file(): the file has become shorter")
            pieces.append(piece)
            offset += len(piece)
            left -= len(piece)
        self._check()
        if self._written == 0 and not large:
            self._text = False
        self._add(b"".join(pieces), large)

    def hijack(self) -> NoReturn:
        """Raises NotSupportedError: there is no connection.  A Server's handlers can."""
        raise NotSupportedError("hijack: a ResponseRecorder cannot do that; httptest.Server can")

    def set_read_deadline(self, seconds: float | None, /) -> None:
        """Note it in read_deadline: a request's body is there, and nothing waits for it."""
        self.read_deadline = self._deadline(seconds)

    def set_write_deadline(self, seconds: float | None, /) -> None:
        """Note it in write_deadline: no write waits."""
        self.write_deadline = self._deadline(seconds)

    # --- the response ---

    def response(self) -> Response:
        """What a client would get, but for the Date; the handler has returned, then.

        Raises ValueError and RuntimeError for a response that the server would refuse, such as
        one that is shorter than its Content-Length.

        Go: ResponseRecorder.Result.
        """
        self._finish()
        body = b"" if self._no_body else self.body
        trailers = copy_fields(self.trailers if self._chunked else None)
        reason = _core._status_text(self._status)
        return Response(self._status, reason, copy_fields(self._head), body, trailers)

    def _forget(self) -> bool:
        if self._ended or self._head is not None:
            return False
        self._body.clear()
        self._status = self._written = 0
        self._wrote = self._text = self._json = False
        return True

    def _check(self) -> None:
        if self._ended:
            raise RuntimeError("the handler has returned: the response is complete")

    def _deadline(self, seconds: float | None) -> float | None:
        if seconds is not None and math.isnan(seconds):
            raise ValueError("a deadline in seconds must be a number, not NaN")
        self._check()
        return seconds

    def _add(self, data: bytes, stream: bool) -> None:
        """More of the body.  stream: no more is held back."""
        self._wrote = True
        if stream and self._head is None:
            self._begin(None, self._body or data)
        self._written += len(data)
        over = self._declared is not None and self._written > self._declared
        if data and over and not self._no_body:
            raise ValueError(
                f"more was written than the declared Content-Length of {self._declared} bytes"
            )
        self._body += data

    def _begin(self, length: int | None, body: bytes | bytearray) -> None:
        """Fix the head.  length: of the whole body; None: it is streamed.  body: how it begins."""
        declared = self._content_length()
        status = self._status or 200
        bodyless = status in (101, 204, 304)
        no_body = bodyless or status == 205 or self._head_only
        if status == 205:
            declared = 0  # RFC 9110 section 15.3.6
        if not no_body and None not in (length, declared) and length != declared:
            raise ValueError(
                f"the handler declared Content-Length {declared} and wrote {length} bytes"
            )
        head = Headers()
        for name, value in self.headers.items():
            lower = name.lower()
            if lower not in ("content-length", "transfer-encoding", "connection") and (
                value or lower != "content-type"
            ):
                head.add(name, value)
        encoded = any(self.headers.get_all("Content-Encoding"))
        if "Content-Type" not in self.headers and not encoded and not bodyless:
            if self._json:
                head.set("Content-Type", "application/json")
            elif body or self._text:
                head.set("Content-Type", detect_content_type(body[:_SNIFF]))
        self._chunked = length is None and declared is None and not no_body
        announced = length if declared is None else declared
        if self._head_only and declared is None and not self._written:
            announced = None  # the length a GET would have is not known
        if self._chunked:
            head.set("Transfer-Encoding", "chunked")
            if len(self.trailers):
                head.set("Trailer", ", ".join(self.trailers))
        elif announced is not None and not bodyless:
            head.set("Content-Length", announced)
        options = [
            option.strip().lower()
            for value in self.headers.get_all("Connection")
            for option in value.split(",")
        ]
        if "close" in options:
            head.set("Connection", "close")
        elif options and "keep-alive" not in options:
            head.set("Connection", ", ".join(self.headers.get_all("Connection")))
        self._status, self._head, self._declared, self._no_body = status, head, declared, no_body

    def _content_length(self) -> int | None:
        """The handler's Content-Length.  ValueError for framing that is not the server's."""
        lengths = self.headers.get_all("Content-Length")
        codings = self.headers.get_all("Transfer-Encoding")
        number = lengths[0] if len(lengths) == 1 else ""
        if lengths and not (number.isascii() and number.isdigit() and len(number) <= 18):
            raise ValueError("Content-Length must be a number of bytes, once")
        if lengths and codings:
            raise ValueError(
                "Content-Length and Transfer-Encoding exclude each other (RFC 9112 6.2)"
            )
        if codings and [coding.lower() for coding in codings] != ["chunked"]:
            raise ValueError(
                'Transfer-Encoding is the server\'s affair: a handler may only set it to "chunked"'
            )
        return int(number) if lengths else None

    def _finish(self) -> None:
        """The handler has returned."""
        if self._ended:
            return
        if self._status == 101:
            raise RuntimeError(
                "the handler chose status 101 (Switching Protocols) and did not hijack() the "
                "connection"
            )
        if self._head is None:
            whole = None if len(self.trailers) else len(self._body)
            self._begin(whole, self._body)
        if self._declared not in (None, self._written) and not self._no_body:
            raise ValueError(
                f"the handler declared Content-Length {self._declared} and wrote "
                f"{self._written} bytes"
            )
        self._ended = True

    def _returned(self, value: object) -> None:
        """Use what a handler has returned."""
        status, body, is_json = unpack(value)
        self._whole(value, body, status)
        self._json = is_json

    def _whole(self, value: object, body: str | bytes | None, status: int = 0) -> None:
        if self._head is not None or self._written or (self._status and status):
            raise TypeError(
                "a handler must either write or return the response; this one did and returned "
                f"a {type(value).__name__}"
            )
        self._status = self._status or status
        if body is not None:
            self._wrote, self._text = True, isinstance(body, str)
            self._body += body.encode() if isinstance(body, str) else body
            self._written = len(self._body)


def record(handler: Handler, request: Request) -> ResponseRecorder:
    """Call a handler and return its response, whether it was written, returned or an HTTPError.

        w = httptest.record(mux, httptest.new_request("GET", "/users/7"))
        assert (w.status, w.json()) == (200, {"id": 7})

    Other exceptions, for which a server answers 500, come out: so do those for a response that
    the server would refuse, as response() says.
    """
    w = ResponseRecorder(request)
    try:
        value = getattr(handler, "serve_http", handler)(w, request)
        w.respond(value)
        w._finish()
    except HTTPError as e:
        if w._head is not None:
            raise
        begun, w = w, ResponseRecorder(request)
        w.informational = begun.informational
        w.headers = copy_fields(begun.headers)
        for name in (*_core._CONTENT_FIELDS, "Date"):
            w.headers.delete(name)
        w.write_header(e.status)
        w.write(_core._status_text(e.status) + "\n")
        w._finish()
    return w
