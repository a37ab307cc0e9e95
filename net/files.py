"""Files made of connections."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class _Conn(Protocol):
    def read_into(self, buffer: Any, /) -> int: ...
    def write(self, data: Any, /) -> int: ...
    def close(self) -> None: ...


class _RawConn(io.RawIOBase):
    """A connection as a raw file; closing it leaves the connection open."""

    def __init__(self, conn: _Conn, reads: bool, writes: bool) -> None:
        self._conn, self._reads, self._writes = conn, reads, writes

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self._conn.read_into(buffer)

    def write(self, data: ReadableBuffer, /) -> int:
        return self._conn.write(data)


def makefile(
    conn: _Conn,
    mode: str = "r",
    buffering: int = -1,
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Any:
    """A file of Python's io that reads from and writes to the connection.

        with conn.makefile("rw") as file:
            print("hello", file=file, flush=True)
            answer = file.readline()

    mode is "r", "w" or "rw", with "b" for bytes.  buffering is the size of the buffer, -1 for
    the usual one, 0 (with "b") for none; the others are those of io.TextIOWrapper.  Closing the
    file flushes it and leaves the connection open.

    One goroutine may use a file at a time; one for reading and one for writing may be used by
    two.

    Raises ValueError for another mode.

    Python: socket.socket.makefile.
    """
    kinds = set(mode)
    if not kinds & {"r", "w"} or kinds - {"r", "w", "b"} or len(kinds) != len(mode):
        raise ValueError(f'makefile(): mode is "r", "w" or "rw", and "b", not {mode!r}')
    binary, reads, writes = "b" in kinds, "r" in kinds, "w" in kinds
    raw = _RawConn(conn, reads, writes)
    if buffering == 0:
        if not binary:
            raise ValueError("makefile(): a text file needs a buffer")
        return raw
    size = io.DEFAULT_BUFFER_SIZE if buffering < 0 else buffering
    buffered: Any
    if reads and writes:
        buffered = io.BufferedRWPair(raw, raw, size)
    elif reads:
        buffered = io.BufferedReader(raw, size)
    else:
        buffered = io.BufferedWriter(raw, size)
    if binary:
        return buffered
    return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)


def regular(file: object) -> int | None:
    """The descriptor of a regular file; None if it is something else."""
    try:
        fd: int = file.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError):  # io.UnsupportedOperation is one
        return None
    return fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
