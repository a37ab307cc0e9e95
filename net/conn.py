"""Connections."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

from runtime._core import ClosedError, NetFD
from runtime._net.addr import (
    Addr,
    AddrError,
    TCPAddr,
    UDPAddr,
    UnixAddr,
    from_sockaddr,
    lookup_port,
    split_host_port,
    unix_sockaddr,
)
from runtime._net.files import regular
from runtime._net.stream import Stream, UnexpectedEOFError

__all__ = [
    "ClosedError",
    "Conn",
    "PacketConn",
    "TCPConn",
    "UDPConn",
    "UnexpectedEOFError",
    "UnixConn",
    "adopt",
]

_KEEP_ALIVE_TIMES = [
    getattr(socket, name)
    for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL")  # the second is macOS's first
    if hasattr(socket, name)
]


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class _File(Protocol):
    def read(self, n: int, /) -> bytes: ...


class Conn(NetFD, Stream):
    """A connection, as `dial` and `Listener.accept` return it.

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

    def sendfile(self, file: _File, offset: int = 0, count: int | None = None) -> int:
        """Write the contents of a file opened in binary mode; returns the number of bytes.

        From a regular file count bytes from offset on are sent, by the system itself where it
        can, and no other write comes in between; where the file stands does not matter and is
        not changed.  What is no regular file (a pipe, an io.BytesIO) is read, after a seek to
        offset if that is not 0, and written piece by piece.  count None: up to the end.

        Reading a file blocks the thread until the system has it in memory.

        Raises ValueError for a negative offset or count, what `write` raises and what reading
        raises.

        Go: net.TCPConn.ReadFrom.
        """
        if offset < 0 or (count is not None and count < 0):
            raise ValueError("sendfile(): offset and count must be 0 or more")
        fd = regular(file)
        if fd is not None:
            return self.write_file(fd, offset, -1 if count is None else count)
        return super().sendfile(file, offset, count)

    def close_read(self) -> None:
        """Shut down the reading side: reads return b"" from now on.

        Go: net.TCPConn.CloseRead.
        """
        self.shutdown(socket.SHUT_RD)

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

    def set_keep_alive(self, seconds: float | None) -> None:
        """Have the system ask a silent peer whether it is still there, so often; None: never.

        A peer that does not answer several times ends the connection with TimeoutError.
        Nothing happens on a connection that is not TCP.  Raises ValueError for what is not 1 to
        32,767 seconds.

        Go: net.TCPConn.SetKeepAlive, SetKeepAlivePeriod.
        """
        if isinstance(self.local_addr, TCPAddr):
            for option in keep_alive_options(seconds):
                self.setsockopt(*option)

    def set_linger(self, seconds: int | None) -> None:
        """What happens to data that is not sent yet when the connection is closed.

        None: the system sends it (the default).  0: it is thrown away, and the peer gets a reset.
        More: `close` blocks the thread until it is sent, at most so many seconds.

        Go: net.TCPConn.SetLinger.
        """
        value = struct.pack("ii", seconds is not None, seconds or 0)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)

    def set_read_buffer(self, size: int) -> None:
        """Set the size in bytes of the system's buffer for what has come (SO_RCVBUF).

        Go: net.TCPConn.SetReadBuffer.
        """
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def set_write_buffer(self, size: int) -> None:
        """Set the size in bytes of the system's buffer for what is to be sent (SO_SNDBUF).

        Go: net.TCPConn.SetWriteBuffer.
        """
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def file(self) -> socket.socket:
        """A socket object with a duplicate of the descriptor, for what needs one.

        It is not inheritable, closed by the caller, and non-blocking: that it must stay, for
        the two descriptors share this.  Raises ClosedError.

        Go: net.TCPConn.File, which makes it blocking.
        """
        return duplicate(self)

    def __repr__(self) -> str:
        try:
            state = f"{self.local_addr} fd={self.fileno()}"
        except ClosedError:  # perhaps just now
            state = "closed"
        name = type(self).__name__
        return f"<{name} {self.remote_addr.network} {state} -> {self.remote_addr}>"


class TCPConn(Conn):
    """A TCP connection.

    Go: net.TCPConn.
    """

    __slots__ = ()


class PacketConn(Conn):
    """A socket that datagrams come to and leave from, as `listen_packet` returns it.

    One that `dial` has connected has `read` and `write`, too: a datagram each.

    Go: net.PacketConn.
    """

    __slots__ = ()


class UDPConn(PacketConn):
    """A UDP socket.

        server = net.listen_packet("udp", "127.0.0.1:5353")
        data, peer = server.recv_from()
        server.send_to(data, peer)

    Go: net.UDPConn.
    """

    __slots__ = ()

    @property
    def local_addr(self) -> Addr:
        """The address of this end.  Raises ClosedError."""
        return from_sockaddr(self.getsockname(), UDPAddr) or UnixAddr("")

    @property
    def remote_addr(self) -> Addr:
        """The address it is connected to; the unspecified one if to none."""
        return from_sockaddr(self.peer, UDPAddr) or UDPAddr("", 0)

    def recv_from(self, n: int = 65536, /) -> tuple[bytes, Addr]:
        """Wait for a datagram: what is in it, and the address of its sender.

        What is longer than n bytes is cut.  Raises what `read` raises.

        Go: net.UDPConn.ReadFrom.
        """
        data, sender = super().recv_from(n)
        return data, from_sockaddr(sender, UDPAddr) or UDPAddr("", 0)

    def recv_from_into(self, buffer: Any, /) -> tuple[int, Addr]:
        """As `recv_from`, into a writable buffer; returns the number of bytes, and the address.

        Go: net.UDPConn.ReadFrom.
        """
        n, sender = super().recv_from_into(buffer)
        return n, from_sockaddr(sender, UDPAddr) or UDPAddr("", 0)

    def send_to(self, data: Any, address: tuple[Any, ...] | str | None, /) -> int:
        """Send data as one datagram; returns the number of bytes.

        address is a UDPAddr or a tuple that begins with a literal IP address and a port, or
        "host:port" with a literal host; None: the peer that `dial` was given.  Raises ValueError
        for what is no such address, and what `write` raises.

        Go: net.UDPConn.WriteTo.
        """
        if isinstance(address, str):
            host, service = split_host_port(address)
            address = (host, lookup_port(service))
        return super().send_to(data, address)


class UnixConn(PacketConn):
    """A Unix-domain socket of any kind: "unix", "unixpacket" or "unixgram".

    Go: net.UnixConn.
    """

    __slots__ = ()

    def recv_from(self, n: int = 65536, /) -> tuple[bytes, Addr]:
        """Wait for a datagram: what is in it, and the address of its sender.

        A sender without an address has UnixAddr("").  What is longer than n bytes is cut.
        Raises what `read` raises.

        Go: net.UnixConn.ReadFrom.
        """
        data, sender = super().recv_from(n)
        return data, from_sockaddr(sender) or UnixAddr("")

    def recv_from_into(self, buffer: Any, /) -> tuple[int, Addr]:
        """As `recv_from`, into a writable buffer; returns the number of bytes, and the address.

        Go: net.UnixConn.ReadFrom.
        """
        n, sender = super().recv_from_into(buffer)
        return n, from_sockaddr(sender) or UnixAddr("")

    def send_to(self, data: Any, address: UnixAddr | str | None, /) -> int:
        """Send data as one datagram to the socket with that path; returns the number of bytes.

        Raises what `write` raises, and OSErrors for a path that leads to none.

        Go: net.UnixConn.WriteTo.
        """
        if address is None:
            return super().send_to(data, None)
        path = address if isinstance(address, str) else address.path
        return super().send_to(data, unix_sockaddr(path))

    def send_fds(self, data: Any, fds: Iterable[int | _HasFileno], /) -> int:
        """Write data, at least a byte, and pass open files with it; returns the number of bytes.

        fds holds descriptors or objects that have one, at most 253; the peer gets duplicates.

        Go: net.UnixConn.WriteMsgUnix with syscall.UnixRights.
        """
        return super().send_fds(data, fds)

    def recv_fds(self, n: int, maxfds: int, /) -> tuple[bytes, list[int]]:
        """Read at most n bytes, and the descriptors that were passed with them.

        They are the caller's to close, and not inheritable.  Raises what `read` raises, and
        OSError with errno EMSGSIZE if more than maxfds have come, or more than may be open: all
        of them are closed then.

        Go: net.UnixConn.ReadMsgUnix with syscall.ParseUnixRights.
        """
        return super().recv_fds(n, maxfds)


def conn_type(family: int, kind: int) -> type[Conn]:
    """The type of connections with sockets of that family and kind."""
    if family == socket.AF_UNIX:
        return UnixConn
    if family in (socket.AF_INET, socket.AF_INET6):
        return UDPConn if kind == socket.SOCK_DGRAM else TCPConn
    return Conn


@contextmanager
def doing(what: str, address: str | None = None) -> Iterator[None]:
    """An error of the system says what was being done, and to which address."""
    try:
        yield
    except OSError as e:
        if e.errno is None:  # the socket module's own
            raise AddrError(f"{address}: {e}") from None
        raise OSError(e.errno, f"{what}: {e.strerror}", address) from None


def open_socket(family: int, kind: int) -> socket.socket:
    """A new socket."""
    with doing("socket"):
        return socket.socket(family, kind)


def adopt(s: socket.socket, peer: object = None) -> Conn:
    """A connection with the socket's descriptor; where it cannot be made, s still has it."""
    conn = conn_type(s.family, s.type)(s.fileno(), peer)
    s.detach()
    return conn


def duplicate(fd: NetFD) -> socket.socket:
    """A socket object with a duplicate of the descriptor."""
    copy = fd.dup()
    try:
        return socket.socket(fileno=copy)
    except BaseException:
        os.close(copy)
        raise


@lru_cache(16)  # each new connection asks
def keep_alive_options(seconds: float | None) -> Sequence[tuple[int, int, int]]:
    """The socket options that turn keep-alive on or off, as arguments of setsockopt()."""
    if seconds is None:
        return ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0),)
    if not 1 <= seconds <= 32767:
        raise ValueError(f"keep-alive must be 1 to 32767 seconds or None, not {seconds}")
    times = [(socket.IPPROTO_TCP, option, round(seconds)) for option in _KEEP_ALIVE_TIMES]
    return ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *times)
