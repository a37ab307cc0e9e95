"""What stream connections that are not descriptors share."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from runtime._core import ClosedError
from runtime._net.addr import Addr
from runtime._net.files import makefile, regular

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from runtime._core import _Context

_CHUNK = 1 << 18  # bytes; the most that one read allocates


class StreamConn(Protocol):
    """What any stream connection has: that of a socket, of TLS, of a pipe.  Go: net.Conn."""

    def read(self, n: int = 65536, /) -> bytes: ...
    def unread(self, data: bytes, /) -> None: ...
    def write(self, data: Any, /) -> int: ...
    def close(self) -> None: ...
    def set_deadline(self, seconds: float | None, /) -> None: ...
    def set_read_deadline(self, seconds: float | None, /) -> None: ...
    def set_write_deadline(self, seconds: float | None, /) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def local_addr(self) -> Addr: ...
    @property
    def remote_addr(self) -> Addr: ...


class StreamListener(Protocol):
    """What any listener for such connections has.  Go: net.Listener."""

    def accept(
        self, timeout: float | None = None, *, ctx: _Context | None = None
    ) -> StreamConn: ...
    def set_deadline(self, seconds: float | None) -> None: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    def file(self) -> socket.socket: ...
    @property
    def closed(self) -> bool: ...
    @property
    def addr(self) -> Addr: ...


class UnexpectedEOFError(EOFError):
    """The peer ended the stream before all that was asked for had come.

    Go: io.ErrUnexpectedEOF, and io.EOF when partial is empty.
    """

    partial: bytes
    """What had come; it has been consumed."""

    def __init__(self, partial: bytes) -> None:
        super().__init__(f"the stream ended after {len(partial)} bytes")
        self.partial = partial


class _Readable(Protocol):
    def read(self, n: int = ..., /) -> bytes: ...
    def unread(self, data: bytes, /) -> None: ...


class _Writable(Protocol):
    def write(self, data: Any, /) -> int: ...


class _File(Protocol):
    def read(self, n: int, /) -> bytes: ...


class _Closable(Protocol):
    def close(self) -> None: ...


_C = TypeVar("_C", bound=_Closable)
_Conn = TypeVar("_Conn")


class Stream:
    """read_exactly() and the like, for who has read(), unread(), write() and close()."""

    __slots__ = ()

    makefile = makefile
    _clock = staticmethod(time.monotonic)  # of its deadlines

    def read_exactly(self: _Readable, n: int) -> bytes:
        """Read n bytes, waiting for all of them.

        Raises UnexpectedEOFError if the stream ends before, ValueError if n is negative, and
        what `read` raises; after that nothing is lost: the next read returns what had come.

        Go: io.ReadFull.
        """
        if n < 0:
            raise ValueError(f"read_exactly(n): n must be 0 or more, not {n}")
        first = self.read(min(n, _CHUNK))
        if len(first) == n:
            return first
        data = bytearray(first)
        try:
            while len(data) < n:
                chunk = self.read(min(n - len(data), _CHUNK))
                if not chunk:
                    raise UnexpectedEOFError(bytes(data))
                data += chunk
        except BaseException as e:
            if type(e) is not UnexpectedEOFError:
                self.unread(bytes(data))
            raise
        return bytes(data)

    def read_until(self: _Readable, delimiter: bytes = b"\n", limit: int = 65536) -> bytes:
        """Read up to and including the delimiter.

        Raises UnexpectedEOFError if the stream ends before it (with partial empty where the
        stream ends between two), ValueError if it does not come within limit bytes, and what
        `read` raises; after the latter two nothing is lost: the next read returns what had come.

        Go: bufio.Reader.ReadBytes, with a limit.
        """
        if not delimiter:
            raise ValueError("read_until(): the delimiter is empty")
        size = len(delimiter)
        data = bytearray()
        searched = 0
        try:
            while True:
                chunk = self.read(max(1, min(65536, limit - len(data))))
                if not chunk:
                    raise UnexpectedEOFError(bytes(data))
                data += chunk
                end = data.find(delimiter, searched) + size
                if end >= size:
                    break
                if len(data) >= limit:
                    raise ValueError(f"no delimiter within {limit} bytes")
                searched = max(0, len(data) - size + 1)
        except BaseException as e:
            if type(e) is not UnexpectedEOFError:
                self.unread(bytes(data))
            raise
        self.unread(bytes(data[end:]))
        return bytes(data[:end])

    def sendfile(self: _Writable, file: _File, offset: int = 0, count: int | None = None) -> int:
        """Write the contents of a file opened in binary mode; returns the number of bytes.

        From a regular file count bytes from offset on are read and written piece by piece; where
        the file stands does not matter and is not changed.  What is no regular file (a pipe, an
        io.BytesIO) is read from where it stands, after a seek to offset if that is not 0.  count
        None: up to the end.

        Reading a file blocks the thread until the system has it in memory.  Raises ValueError
        for a negative offset or count, what `write` raises and what reading raises.

        Go: io.Copy.
        """
        if offset < 0 or (count is not None and count < 0):
            raise ValueError("sendfile(): offset and count must be 0 or more")
        fd = regular(file)
        if offset and fd is None:
            file.seek(offset)  # type: ignore[attr-defined]
        sent = 0
        while count is None or sent < count:
            n = _CHUNK if count is None else min(_CHUNK, count - sent)
            data = file.read(n) if fd is None else os.pread(fd, n, offset + sent)
            if not data:
                break
            sent += self.write(data)
        return sent

    def __enter__(self: _C) -> _C:
        return self

    def __exit__(
        self: _Closable,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def joined(data: ReadableBuffer | list[Any] | tuple[Any, ...]) -> memoryview:
    """What write() was given, a buffer or a list of some, as one."""
    if isinstance(data, list | tuple):
        data = b"".join(data)
    return memoryview(data).cast("B")


class Accepting(Generic[_Conn]):
    """Iteration and the with statement, for who has accept() and close()."""

    __slots__ = ()

    if TYPE_CHECKING:

        def accept(self, timeout: float | None = None, *, ctx: _Context | None = None) -> _Conn: ...
        def close(self) -> None: ...

    def __iter__(self) -> Iterator[_Conn]:
        """Accept connections until the listener is closed."""
        try:
            while True:
                yield self.accept()
        except ClosedError:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class ListenerOver(Accepting[_Conn]):
    """A listener whose connections are made of those of another one, its `_listener`."""

    _listener: StreamListener

    @property
    def addr(self) -> Addr:
        """The address it listens on."""
        return self._listener.addr

    @property
    def closed(self) -> bool:
        """True once close() was called."""
        return self._listener.closed

    def set_deadline(self, seconds: float | None) -> None:
        """Let accept() fail with TimeoutError from so many seconds from now on; None: never."""
        self._listener.set_deadline(seconds)

    def close(self) -> None:
        """Stop listening; connections that were accepted stay open."""
        self._listener.close()

    def fileno(self) -> int:
        """The descriptor; it still belongs to the listener."""
        return self._listener.fileno()

    def file(self) -> socket.socket:
        """A socket object with a duplicate of the descriptor; see Listener.file."""
        return self._listener.file()
