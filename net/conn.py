"""Connections."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

from runtime._core import ClosedError, NetFD
from runtime._net.addr import Addr, TCPAddr, UnixAddr, from_sockaddr

__all__ = ["ClosedError", "Conn", "UnexpectedEOFError"]

_CHUNK = 1 << 18  # bytes; the most that one read allocates


class UnexpectedEOFError(EOFError):
    """The peer ended the stream before all that was asked for had come.

    Go: io.ErrUnexpectedEOF, and io.EOF when partial is empty.
    """

    partial: bytes
    """What had come; it has been consumed."""

    def __init__(self, partial: bytes) -> None:
        super().__init__(f"the stream ended after {len(partial)} bytes")
        self.partial = partial


class Conn(NetFD):
    """A stream connection, as `dial` and `Listener.accept` return it.

    Reads and writes park the calling goroutine (or block the calling plain thread) until
    they can go on.  One goroutine may read while another writes; several readers or several
    writers take turns.  `close` wakes all of them with ClosedError.

        with net.dial("tcp", "127.0.0.1:7777") as conn:
            conn.write(b"hello")
            print(conn.read())

    Go: net.Conn, net.TCPConn, net.UnixConn.
    """

    __slots__ = ()

    @property
    def local_addr(self) -> Addr:
        """The address of this end.  Raises ClosedError.

        Go: net.Conn.LocalAddr.
        """
        return from_sockaddr(self.getsockname()) or UnixAddr("")

    @property
    def remote_addr(self) -> Addr:
        """The address of the other end; known after `close` as well.

        Go: net.Conn.RemoteAddr.
        """
        return from_sockaddr(self.peer) or UnixAddr("")

    def read_exactly(self, n: int) -> bytes:
        """Read n bytes, waiting for all of them.

        Raises UnexpectedEOFError if the stream ends before, ValueError if n is negative, and
        what `read` raises; after a TimeoutError nothing is lost: the next read
        returns what had come.

        Go: io.ReadFull.
        """
        data = self.read(min(n, _CHUNK))
        if len(data) == n:
            return data
        parts = []
        missing = n
        try:
            while data:
                parts.append(data)
                missing -= len(data)
                if missing == 0:
                    return b"".join(parts)
                data = self.read(min(missing, _CHUNK))
        except TimeoutError:
            self.unread(b"".join(parts))
            raise
        raise UnexpectedEOFError(b"".join(parts))

    def read_until(self, delimiter: bytes = b"\n", limit: int = 65536) -> bytes:
        """Read up to and including the delimiter.

        Raises UnexpectedEOFError if the stream ends before it (with partial empty where the
        stream ends between two), ValueError if it does not come within limit bytes, and what
        `read` raises; after ValueError and TimeoutError nothing is lost: the next read
        returns what had come.

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
        except (TimeoutError, ValueError):
            self.unread(bytes(data))
            raise
        self.unread(bytes(data[end:]))
        return bytes(data[:end])

    def close_write(self) -> None:
        """Tell the peer that nothing more will be sent; reading goes on.

        Go: net.TCPConn.CloseWrite.
        """
        self.shutdown(socket.SHUT_WR)

    def set_no_delay(self, on: bool = True) -> None:
        """Send small writes at once (the default), or let the system join them.

        Nothing happens on a connection that is not TCP.

        Go: net.TCPConn.SetNoDelay.
        """
        if isinstance(self.local_addr, TCPAddr):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(on))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        try:
            state = f"{self.local_addr} fd={self.fileno()}"
        except ClosedError:  # perhaps just now
            state = "closed"
        return f"<Conn {self.remote_addr.network} {state} -> {self.remote_addr}>"
