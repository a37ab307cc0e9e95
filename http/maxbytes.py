"""MaxBytesReader: a limit for one request's body, set by its handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from runtime._http.errors import MaxBytesError
from runtime._net.files import makefile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from runtime._core import Request, ResponseWriter

__all__ = ["MaxBytesReader", "max_bytes_handler"]

PIECE = 65536


class Reader(Protocol):
    """What a body is: read() returns b"" and read_into() 0 at its end."""

    def read(self, n: int = -1, /) -> bytes: ...
    def read_into(self, buffer: Any, /) -> int: ...


def read_all(body: Reader) -> bytes:
    return b"".join(iter(lambda: body.read(PIECE), b""))


class MaxBytesReader:
    """A body of which no more than n bytes can be read.

        r.body = http.MaxBytesReader(w, r.body, 1 << 20)
        item = r.json()

    The read that meets a byte beyond them raises MaxBytesError, as do all after it, and the
    connection is closed after the response.  Uncaught, the error is a 413.  Like any body it has
    read(n=-1), read_into(buffer), makefile() and iteration.

    Go: http.MaxBytesReader.
    """

    __slots__ = ("_body", "_left", "_writer", "limit")

    def __init__(self, w: ResponseWriter, body: Reader, n: int, /) -> None:
        self.limit = max(n, 0)
        self._left = self.limit  # -1: more has come
        self._writer = w
        self._body = body

    def read(self, n: int | None = -1, /) -> bytes:
        """Read up to n bytes, as soon as there are some; b"" at the end.  Without n: all."""
        if n is None or n < 0:
            return read_all(self)
        if n == 0:
            return b""
        # One byte more than is left tells the end of the body from one that goes on.
        data = self._body.read(min(n, self._check() + 1))
        self._take(len(data))
        return data

    def read_into(self, buffer: WriteableBuffer, /) -> int:
        """Read into a writable buffer: how many bytes, 0 at the end."""
        with memoryview(buffer) as view, view.cast("B") as octets:
            n = self._body.read_into(octets[: self._check() + 1])
        self._take(n)
        return n

    def makefile(self, *args: Any, **kwargs: Any) -> Any:
        """A file of Python's io that reads the body, as net.Conn.makefile() makes."""
        return makefile(self, *args, **kwargs)  # type: ignore[arg-type]

    def __iter__(self) -> MaxBytesReader:
        return self

    def __next__(self) -> bytes:
        data = self.read(PIECE)
        if not data:
            raise StopIteration
        return data

    def _check(self) -> int:
        if self._left < 0:
            raise MaxBytesError(self.limit)
        return self._left

    def _take(self, n: int) -> None:
        if n <= self._left:
            self._left -= n
            return
        self._left = -1
        self._writer.headers.set("Connection", "close")
        raise MaxBytesError(self.limit)


def max_bytes_handler(
    handler: Callable[[Any, Any], Any], n: int
) -> Callable[[ResponseWriter, Request], Any]:
    """A handler that calls handler with a body of no more than n bytes.

    Go: http.MaxBytesHandler.
    """
    call = getattr(handler, "serve_http", handler)

    def limited(w: ResponseWriter, r: Request) -> Any:
        r.body = MaxBytesReader(w, r.body, n)
        return call(w, r)

    return limited
