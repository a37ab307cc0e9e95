"""Forms: what decodes the body of a request as one, and keeps what it has found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime._core import Mutex
from runtime._http.errors import BodyTooLargeError
from runtime._http.multipart import MultipartForm, MultipartReader, read_form
from runtime._http.values import Values, parse_urlencoded

if TYPE_CHECKING:
    from runtime._core import Request

MAX_URLENCODED = 10 << 20  # bytes, as in Go
MAX_MEMORY = 32 << 20  # of uploaded files
MAX_PARTS = 1000
MAX_VALUE_BYTES = 10 << 20  # of all fields that are no files


class Forms:
    """What form(), post_form(), multipart() and multipart_form() of one Request do."""

    __slots__ = ("_form", "_lock", "_multipart", "_post", "_request", "_streamed")

    def __init__(self, request: Request) -> None:
        self._request: Request | None = request  # None: the handler has returned
        self._form: Values | None = None
        self._post: Values | None = None
        self._multipart: MultipartForm | None = None
        self._streamed = False
        self._lock = Mutex()  # several goroutines or threads may ask; one of them reads

    def form(self) -> Values:
        with self._lock:
            if self._form is None:
                form = Values({name: list(items) for name, items in self._posted().items()})
                for name, items in self._live().query.items():
                    form.setdefault(name, []).extend(items)
                self._form = form
            return self._form

    def post_form(self) -> Values:
        with self._lock:
            return self._posted()

    def _posted(self) -> Values:
        if self._post is None:
            kind = (self._live().headers.get("content-type") or "").partition(";")[0]
            kind = kind.strip().lower()
            if kind == "application/x-www-form-urlencoded":
                self._post = parse_urlencoded(self._read(MAX_URLENCODED))
            elif self._multipart is not None or (
                kind == "multipart/form-data" and not self._streamed
            ):
                self._post = self._whole().values
            else:
                self._post = Values()
        return self._post

    def multipart_form(
        self,
        *,
        max_memory: int = MAX_MEMORY,
        max_parts: int = MAX_PARTS,
        max_value_bytes: int = MAX_VALUE_BYTES,
    ) -> MultipartForm:
        with self._lock:
            return self._whole(max_memory, max_parts, max_value_bytes)

    def _whole(
        self,
        max_memory: int = MAX_MEMORY,
        max_parts: int = MAX_PARTS,
        max_value_bytes: int = MAX_VALUE_BYTES,
    ) -> MultipartForm:
        if self._multipart is None:
            reader = self._reader(max_parts)
            self._multipart = read_form(reader, max_memory, max_value_bytes)
        return self._multipart

    def multipart(self, *, max_parts: int = MAX_PARTS) -> MultipartReader:
        with self._lock:
            return self._reader(max_parts)

    def _reader(self, max_parts: int) -> MultipartReader:
        request = self._live()
        if self._streamed:
            raise RuntimeError(
                "the body is read as multipart already: one of multipart() and multipart_form() "
                "can be used, once"
            )
        content_type = request.headers.get("content-type") or ""
        reader = MultipartReader(request.body, content_type, max_parts=max_parts)
        self._streamed = True
        return reader

    def close(self) -> None:
        """The handler has returned: close what was uploaded."""
        self._request = None
        if self._multipart is not None:
            self._multipart.close()

    def _live(self) -> Request:
        if self._request is None:
            raise RuntimeError("the handler of this request has returned: its connection is gone")
        return self._request

    def _read(self, limit: int) -> bytes:
        request = self._live()
        pieces, size = [], request.content_length
        if size <= limit:
            size = 0
            while piece := request.body.read(65536):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    break
        if size > limit:
            raise BodyTooLargeError(f"a form body may have {limit} bytes")
        return b"".join(pieces)
