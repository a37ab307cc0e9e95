"""Buffers around connections and other streams.

Python's io.BufferedReader does not serve: read(n) of it waits for n bytes, lines have no limit,
and what came before an error is lost.  It is for code that wants a file: see files.py.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from runtime._net.stream import UnexpectedEOFError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_SIZE = 65536  # bytes


class _Source(Protocol):
    def read(self, n: int, /) -> bytes: ...


class _Sink(Protocol):
    def write(self, data: bytes, /) -> Any: ...


class LimitError(ValueError):
    """A line, or what else was looked for, is longer than the limit.

    Go: bufio.ErrTooLong, bufio.ErrBufferFull.
    """


class Reader:
    """Reads from a stream ahead, size bytes at a time, so that small pieces cost little.

        reader = net.bufio.Reader(conn)
        line = reader.read_line()

    The stream is anything whose read(n) returns up to n bytes, and b"" at the end: a
    connection, a file in binary mode.  What the stream raises is raised by the call that needed
    more, and loses nothing.  It is for one goroutine at a time.

    Go: bufio.Reader.
    """

    __slots__ = ("_at", "_buffer", "_size", "_source")

    def __init__(self, source: _Source, size: int = _SIZE) -> None:
        if size < 1:
            raise ValueError(f"Reader(size): it must be 1 or more, not {size}")
        self._source = source
        self._size = size
        self._buffer = bytearray()
        self._at = 0  # what is before has been read

    @property
    def buffered(self) -> int:
        """How many bytes can be read without reading from the stream.

        Go: bufio.Reader.Buffered.
        """
        return len(self._buffer) - self._at

    def read(self, n: int = _SIZE, /) -> bytes:
        """Up to n bytes: what is buffered, or else what the stream has; b"" at its end.

        Go: bufio.Reader.Read.
        """
        if n < 0:
            raise ValueError(f"read(n): n must be 0 or more, not {n}")
        if not self.buffered and n:
            if n >= self._size:
                return self._source.read(n)  # there is no sense in copying it
            self._fill(self._size)
        return self._take(min(n, self.buffered))

    def read_into(self, buffer: WriteableBuffer, /) -> int:
        """As read(), into a buffer; the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise BufferError("read_into() needs a buffer that can be written to")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read_exactly(self, n: int, /) -> bytes:
        """n bytes.  Raises UnexpectedEOFError, which has what there was, if the stream ends.

        Go: io.ReadFull.
        """
        if n < 0:
            raise ValueError(f"read_exactly(n): n must be 0 or more, not {n}")
        while self.buffered < n:
            if not self._fill(max(self._size, n - self.buffered)):
                raise UnexpectedEOFError(self._take(self.buffered))
        return self._take(n)

    def peek(self, n: int, /) -> bytes:
        """The next n bytes, which stay to be read; fewer only if the stream ends before.

        Raises LimitError if n is more than the size of the buffer.

        Go: bufio.Reader.Peek.
        """
        if n < 0:
            raise ValueError(f"peek(n): n must be 0 or more, not {n}")
        if n > self._size:
            raise LimitError(f"peek({n}): the buffer holds {self._size} bytes")
        while self.buffered < n and self._fill(self._size):
            pass
        return bytes(self._buffer[self._at : self._at + n])

    def discard(self, n: int, /) -> int:
        """Skip n bytes; returns how many, which are fewer only if the stream ends before.

        Go: bufio.Reader.Discard.
        """
        if n < 0:
            raise ValueError(f"discard(n): n must be 0 or more, not {n}")
        left = n
        while left:
            if not self.buffered and not self._fill(self._size):
                break
            skipped = min(left, self.buffered)
            self._skip(skipped)
            left -= skipped
        return n - left

    def read_until(self, delimiter: bytes = b"\n", limit: int = _SIZE) -> bytes:
        """Up to and including the delimiter.

        Raises UnexpectedEOFError if the stream ends before it (with partial empty where the
        stream ends between two), and LimitError if it does not come within limit bytes, which
        stay to be read.

        Go: bufio.Reader.ReadBytes, with a limit.
        """
        if not delimiter:
            raise ValueError("read_until(): the delimiter is empty")
        searched = 0
        while True:
            at = self._buffer.find(delimiter, self._at + searched, self._at + limit)
            if at >= 0:
                return self._take(at + len(delimiter) - self._at)
            if self.buffered >= limit:
                raise LimitError(f"no delimiter within {limit} bytes")
            searched = max(0, self.buffered - len(delimiter) + 1)
            if not self._fill(min(self._size, limit - self.buffered)):
                raise UnexpectedEOFError(self._take(self.buffered))

    def read_line(self, limit: int = _SIZE) -> bytes | None:
        """The next line without its end, "\\n" or "\\r\\n"; None at the end of the stream.

        The last line need not have an end.  Raises LimitError if it, with its end, is longer
        than limit bytes, which stay to be read.

        Go: textproto.Reader.ReadLineBytes, with a limit.
        """
        try:
            line = self.read_until(b"\n", limit)
        except UnexpectedEOFError as e:
            return e.partial or None
        return line[:-2] if line.endswith(b"\r\n") else line[:-1]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """The next line, as read_line()."""
        line = self.read_line()
        if line is None:
            raise StopIteration
        return line

    def _fill(self, n: int) -> bool:
        """Read up to n bytes more; False at the end."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        data = self._source.read(n)
        self._buffer += data
        return bool(data)

    def _take(self, n: int) -> bytes:
        data = bytes(memoryview(self._buffer)[self._at : self._at + n])
        self._skip(n)
        return data

    def _skip(self, n: int) -> None:
        self._at += n
        if self._at == len(self._buffer):
            self._buffer.clear()
            self._at = 0


class Writer:
    """Joins small writes to a stream: they are kept until size bytes have come, or flush().

        with net.bufio.Writer(conn) as writer:
            for row in rows:
                writer.write(row)

    After a write to the stream has failed, all further calls raise the same error.  Leaving the
    with block flushes; the stream stays open.  It is for one goroutine at a time.

    Go: bufio.Writer.
    """

    __slots__ = ("_buffer", "_error", "_sink", "_size")

    def __init__(self, sink: _Sink, size: int = _SIZE) -> None:
        if size < 1:
            raise ValueError(f"Writer(size): it must be 1 or more, not {size}")
        self._sink = sink
        self._size = size
        self._buffer = bytearray()
        self._error: BaseException | None = None

    @property
    def buffered(self) -> int:
        """How many bytes wait to be written.  Go: bufio.Writer.Buffered."""
        return len(self._buffer)

    @property
    def available(self) -> int:
        """How many more bytes there is room for.  Go: bufio.Writer.Available."""
        return max(0, self._size - len(self._buffer))

    def write(self, data: ReadableBuffer, /) -> int:
        """Write the bytes, perhaps later; returns how many those are.  Go: bufio.Writer.Write."""
        self._check()
        view = memoryview(data).cast("B")
        size = len(view)
        if size <= self._size - len(self._buffer):
            self._buffer += view
            return size
        if self._buffer:
            room = self._size - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            self.flush()
        if len(view) >= self._size:
            self._write(bytes(view))
        else:
            self._buffer += view
        return size

    def flush(self) -> None:
        """Write what is buffered to the stream.  Go: bufio.Writer.Flush."""
        self._check()
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self._write(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.flush()

    def _write(self, data: bytes) -> None:
        try:
            self._sink.write(data)
        except BaseException as e:
            self._error = e
            raise

    def _check(self) -> None:
        if isinstance(self._error, Exception):
            raise self._error
        if self._error is not None:
            raise BrokenPipeError("write: an earlier write was cancelled") from self._error


Split = Callable[[bytes, bool], tuple[int, bytes | None]]


def scan_lines(data: bytes, at_end: bool) -> tuple[int, bytes | None]:
    """A split function: lines, without their ends "\\n" or "\\r\\n".  Go: bufio.ScanLines."""
    end = data.find(b"\n")
    if end < 0:
        return (len(data), data) if at_end and data else (0, None)
    return end + 1, data[: end - 1] if data[:end].endswith(b"\r") else data[:end]


def scan_words(data: bytes, at_end: bool) -> tuple[int, bytes | None]:
    """A split function: words between white space.  Go: bufio.ScanWords."""
    rest = data.lstrip()
    start = len(data) - len(rest)
    words = rest.split(None, 1)
    if not words or (len(words[0]) == len(rest) and not at_end):
        return start, None
    return start + len(words[0]), words[0]


class Scanner:
    """The lines, or other pieces, of a stream, each at most limit bytes long.

        for line in net.bufio.Scanner(conn):
            print(line)

    split(data, at_end) looks at the bytes that are there and returns how many of them are used
    up, and a piece or None where more is needed; at_end says that there is no more.  It is
    `scan_lines`, `scan_words` or a function of yours.

    Iteration ends with the stream, and raises LimitError where a piece is longer than limit,
    and what reading raises.

    Go: bufio.Scanner, which returns False and keeps the error.
    """

    __slots__ = ("_buffer", "_ended", "_limit", "_lines", "_source", "_split")

    def __init__(self, source: _Source, split: Split = scan_lines, limit: int = _SIZE) -> None:
        if limit < 1:
            raise ValueError(f"Scanner(limit): it must be 1 or more, not {limit}")
        self._source = source
        self._split = split
        self._lines = Reader(source) if split is scan_lines else None
        self._limit = limit
        self._buffer = b""
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._lines is None:
            return self._next()
        line = self._lines.read_line(self._limit + 2)  # with the end
        if line is None:
            raise StopIteration
        if len(line) > self._limit:
            raise LimitError(f"a piece of more than {self._limit} bytes")
        return line

    def _next(self) -> bytes:
        while True:
            if self._buffer or self._ended:
                used, piece = self._split(self._buffer, self._ended)
                if not 0 <= used <= len(self._buffer):
                    raise ValueError(f"split() has used {used} of {len(self._buffer)} bytes")
                self._buffer = self._buffer[used:]
                if piece is not None:
                    if not used and self._ended:
                        raise ValueError("split() returns a piece and uses nothing up")
                    if len(piece) > self._limit:
                        raise LimitError(f"a piece of more than {self._limit} bytes")
                    return piece
                if self._ended:
                    raise StopIteration
                if used and self._buffer:
                    continue
            # One byte more, for what ends the piece.
            if len(self._buffer) > self._limit:
                raise LimitError(f"a piece of more than {self._limit} bytes")
            # What is read ahead is copied for each piece.
            data = self._source.read(min(4096, self._limit + 1 - len(self._buffer)))
            self._buffer += data
            self._ended = not data
