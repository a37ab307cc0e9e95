"""The PROXY protocol, versions 1 and 2: who the client of a proxy is.

https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt; sections are those of that text.

Headers are read by the goroutine that uses the connection, so that a silent client keeps
nobody else waiting; byte for byte what comes behind them is left to be read.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from runtime._core import Mutex
from runtime._net.addr import Addr, TCPAddr, UnixAddr
from runtime._net.conn import Conn, TCPConn, UnexpectedEOFError, UnixConn, keep_alive_options
from runtime._net.listener import Listener
from runtime._net.stream import ListenerOver

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from runtime._core import _Context

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V1_MAX = 107  # bytes, section 2.1
_V1 = re.compile(rb"PROXY (TCP4|TCP6) (\S+) (\S+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})\r\n", re.ASCII)
_CRC32C = 0x03  # section 2.2.3
_FAMILIES = {0x1: (socket.AF_INET, 4), 0x2: (socket.AF_INET6, 16)}
_UNIX_PATH = 108  # bytes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxyError(OSError, ValueError):
    """What came is no header of the PROXY protocol."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy says of a connection."""

    version: int
    """1 or 2."""
    source: Addr | None
    """The client; None: the proxy speaks for itself, or does not know."""
    destination: Addr | None
    """Where the client has connected to."""
    tlvs: tuple[tuple[int, bytes], ...] = ()
    """Types and values of further fields (version 2, section 2.2)."""


# --- the parser ---------------------------------------------------------------------------------


def parse_header(data: bytes) -> tuple[ProxyHeader, int] | int:
    """The header at the beginning of data and its length; or how long data must be to go on.

    Raises ProxyError as soon as data cannot be the beginning of a header.
    """
    if data[:12] == _SIGNATURE:
        return _parse_v2(data)
    if _SIGNATURE.startswith(data[:12]):  # as far as it goes, perhaps nothing
        return 16 if data else 1
    return _parse_v1(data)


def _parse_v1(data: bytes) -> tuple[ProxyHeader, int] | int:
    if not b"PROXY ".startswith(data[:6]):
        raise ProxyError(f"no PROXY protocol header: {data[:16]!r}")
    end = data.find(b"\r\n", 0, _V1_MAX)
    if end < 0:
        line = data[:_V1_MAX]
        if len(line) == _V1_MAX or b"\n" in line or b"\r" in line[:-1]:
            raise ProxyError(f"PROXY header without its end: {line!r}")
        return len(data) + 1
    line = data[: end + 2]
    if line == b"PROXY UNKNOWN\r\n" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(1, None, None), len(line)
    match = _V1.fullmatch(line)
    if match is None:
        raise ProxyError(f"malformed PROXY header: {line!r}")
    kind = ipaddress.IPv4Address if match[1] == b"TCP4" else ipaddress.IPv6Address
    ends = []
    for host, port in ((match[2], match[4]), (match[3], match[5])):
        try:
            ip = kind(host.decode("ascii"))
        except ValueError:  # UnicodeDecodeError is one
            raise ProxyError(f"malformed address in a PROXY header: {line!r}") from None
        if int(port) > 65535 or getattr(ip, "scope_id", None) is not None:
            raise ProxyError(f"malformed address in a PROXY header: {line!r}")
        ends.append(TCPAddr(str(ip), int(port)))
    return ProxyHeader(1, ends[0], ends[1]), len(line)


def _parse_v2(data: bytes) -> tuple[ProxyHeader, int] | int:
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise ProxyError(f"PROXY header of an unknown version or command: 0x{data[12]:02x}")
    if len(data) < 16:
        return 16
    family: int = data[13]
    size = int.from_bytes(data[14:16], "big")
    if len(data) < 16 + size:
        return 16 + size
    body = data[16 : 16 + size]
    if family >> 4 > 3 or family & 15 > 2:
        raise ProxyError(f"PROXY header of an unknown address family: 0x{family:02x}")
    source, destination, used = _addresses(family >> 4, body)
    tlvs = tuple(_tlvs(body[used:], data[:16] + body, 16 + used)) if used is not None else ()
    if data[12] == 0x20 or family & 15 == 0:  # LOCAL, or of no kind: the proxy's own
        source = destination = None
    return ProxyHeader(2, source, destination, tlvs), 16 + size


def _addresses(family: int, body: bytes) -> tuple[Addr | None, Addr | None, int | None]:
    """Both addresses, and where they end; None: nothing more is known of the rest."""
    if family == 0:
        return None, None, None
    if family == 3:
        if len(body) < 2 * _UNIX_PATH:
            raise ProxyError(f"PROXY header too short for unix addresses: {len(body)} bytes")
        a, b = (_unix_addr(body[i : i + _UNIX_PATH]) for i in (0, _UNIX_PATH))
        return a, b, 2 * _UNIX_PATH
    kind, n = _FAMILIES[family]
    if len(body) < 2 * n + 4:
        raise ProxyError(f"PROXY header too short for its addresses: {len(body)} bytes")
    ports = struct.unpack_from("!HH", body, 2 * n)
    hosts = [socket.inet_ntop(kind, body[i : i + n]) for i in (0, n)]
    return TCPAddr(hosts[0], ports[0]), TCPAddr(hosts[1], ports[1]), 2 * n + 4


def _unix_addr(path: bytes) -> UnixAddr:
    if path[:1] == b"\0":
        name = path[1:].rstrip(b"\0")
        return UnixAddr("@" + os.fsdecode(name) if name else "")
    return UnixAddr(os.fsdecode(path.partition(b"\0")[0]))


def _tlvs(rest: bytes, header: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(rest):
        if at + 3 > len(rest):
            raise ProxyError("PROXY header ends within a field")
        kind, size = struct.unpack_from("!BH", rest, at)
        value = rest[at + 3 : at + 3 + size]
        if len(value) < size:
            raise ProxyError("PROXY header ends within a field")
        if kind == _CRC32C:
            where = start + at + 3
            blank = header[:where] + bytes(size) + header[where + size :]
            if size != 4 or _crc32c(blank) != int.from_bytes(value, "big"):
                raise ProxyError("PROXY header with a wrong checksum")
        yield kind, value
        at += 3 + size


def _crc_table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _crc_table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# --- connections --------------------------------------------------------------------------------


class ProxyConn(Conn):
    """A connection from a proxy; remote_addr and local_addr are those of the proxy's client.

    It is a TCPConn or a UnixConn as well.

    The header is read when the connection is first read from, or asked for one of these.
    """

    __slots__ = ("_deadline", "_error", "_header", "_limit", "_timeout", "_turn")

    _header: ProxyHeader | None
    _error: tuple[type[Exception], object] | None  # and what it is made from
    _timeout: float | None  # for the header, seconds
    # On the clock of time.monotonic().
    _limit: float | None  # for the header
    _deadline: float | None  # for reading

    def __init__(self, fd: int, peer: object = None) -> None:
        self._header = self._error = self._timeout = self._limit = self._deadline = None
        self._turn = Mutex()

    @property
    def proxy_header(self) -> ProxyHeader:
        """What the proxy has said.

        Waits for it.  Raises ProxyError if something else came, UnexpectedEOFError, TimeoutError
        after the time for headers, and what `read` raises.  After an error the connection is of
        no use.
        """
        header = self._header
        if header is not None:
            return header
        with self._turn:
            if self._header is None:
                if self._error is not None:
                    raise self._error[0](self._error[1])
                self._header = self._read_header()
            return self._header

    @property
    def remote_addr(self) -> Addr:
        """The address of the proxy's client, or of the proxy where it speaks for itself."""
        return self.proxy_header.source or super().remote_addr

    @property
    def local_addr(self) -> Addr:
        """The address that the client has connected to."""
        return self.proxy_header.destination or super().local_addr

    @property
    def proxy_addr(self) -> Addr:
        """The address of the proxy."""
        return super().remote_addr

    def read(self, n: int = 65536, /) -> bytes:
        if self._header is None:
            self.proxy_header  # noqa: B018
        return super().read(n)

    def read_into(self, buffer: WriteableBuffer, /) -> int:
        if self._header is None:
            self.proxy_header  # noqa: B018
        return super().read_into(buffer)

    # The kinds of the socket have more to add to these.
    def recv_from(self, n: int = 65536, /) -> tuple[bytes, Any]:
        self.proxy_header  # noqa: B018
        return super().recv_from(n)

    def recv_from_into(self, buffer: WriteableBuffer, /) -> tuple[int, Any]:
        self.proxy_header  # noqa: B018
        return super().recv_from_into(buffer)

    def set_deadline(self, seconds: float | None, /) -> None:
        super().set_write_deadline(seconds)
        self.set_read_deadline(seconds)

    def set_read_deadline(self, seconds: float | None, /) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        super().set_read_deadline(seconds)

    def set_no_delay(self, on: bool = True) -> None:
        if isinstance(super().local_addr, TCPAddr):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(on))

    def set_keep_alive(self, seconds: float | None) -> None:
        if isinstance(super().local_addr, TCPAddr):
            for option in keep_alive_options(seconds):
                self.setsockopt(*option)

    def __repr__(self) -> str:
        return f"<ProxyConn {'closed' if self.closed else 'open'} -> {self.proxy_addr}>"

    def _read_header(self) -> ProxyHeader:
        if self._timeout is not None and self._limit is None:
            self._limit = time.monotonic() + self._timeout
        limits = [point for point in (self._limit, self._deadline) if point is not None]
        if limits:
            super().set_read_deadline(max(0.0, min(limits) - time.monotonic()))
        data = b""
        try:
            while isinstance(found := parse_header(data), int):
                piece = super().read(max(found, 256) - len(data))
                if not piece:
                    raise UnexpectedEOFError(data)
                data += piece
        except ProxyError as e:
            self._error = ProxyError, str(e)
            raise
        except UnexpectedEOFError:
            self._error = UnexpectedEOFError, data
            raise
        except BaseException:
            self.unread(data)  # it may go on, with another deadline
            raise
        finally:
            if limits and not self.closed:
                point = self._deadline
                left = None if point is None else max(0.0, point - time.monotonic())
                super().set_read_deadline(left)
        header, size = found
        self.unread(data[size:])
        return header


class _ProxyTCPConn(ProxyConn, TCPConn):
    __slots__ = ()


class _ProxyUnixConn(ProxyConn, UnixConn):
    __slots__ = ()

    def recv_fds(self, n: int, maxfds: int, /) -> tuple[bytes, list[int]]:
        self.proxy_header  # noqa: B018
        return super().recv_fds(n, maxfds)


class ProxyListener(ListenerOver[Conn]):
    """Accepts the connections of proxies, on another listener.

        listener = net.ProxyListener(net.listen("tcp", ":8080"), trusted=["10.0.0.0/8"])
        for conn in listener:
            print(conn.remote_addr)        # the client's

    trusted are the addresses and networks of the proxies; on a unix socket everybody is trusted
    with trusted=["unix"].  Their connections must begin with a header of the PROXY protocol,
    version 1 or 2, within header_timeout seconds of when it is looked for.  Anybody could write
    such headers, so those of others are not believed: their connections are closed at once, or,
    with untrusted="plain", accepted as they are.

    accept() does not wait for headers, which are left to the goroutine that uses the connection.

    Raises ValueError for something that is no network.
    """

    _listener: Listener

    def __init__(
        self,
        listener: Listener,
        *,
        trusted: Iterable[str],
        untrusted: Literal["reject", "plain"] = "reject",
        header_timeout: float | None = 10.0,
    ) -> None:
        if isinstance(trusted, str):
            raise TypeError("trusted is a list of networks, not a str")
        if untrusted not in ("reject", "plain"):
            raise ValueError(f'untrusted is "reject" or "plain", not {untrusted!r}')
        names = list(trusted)
        self._unix = "unix" in names
        self._trusted: list[Network] = [
            ipaddress.ip_network(name) for name in names if name != "unix"
        ]
        self._listener = listener
        self._plain = untrusted == "plain"
        self._timeout = header_timeout

    @property
    def listener(self) -> Listener:
        """The listener underneath."""
        return self._listener

    def accept(self, timeout: float | None = None, *, ctx: _Context | None = None) -> Conn:
        """Wait for the next connection; that of a proxy is a ProxyConn.  See Listener.accept.

        timeout is for all of it, also where connections are rejected meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            conn = self._listener.accept(left, ctx=ctx)
            try:
                if self._trusts(conn.remote_addr):
                    return self._proxied(conn)
            except BaseException:
                conn.close()
                raise
            if self._plain:
                return conn
            conn.close()

    def __repr__(self) -> str:
        return f"<ProxyListener {self._listener!r}>"

    def _trusts(self, peer: Addr) -> bool:
        if isinstance(peer, UnixAddr):
            return self._unix
        ip = ipaddress.ip_address(peer.host.partition("%")[0])
        return any(ip in network for network in self._trusted)

    def _proxied(self, conn: Conn) -> ProxyConn:
        peer = conn.peer
        kind = _ProxyUnixConn if isinstance(conn, UnixConn) else _ProxyTCPConn
        fd = conn.detach()
        try:
            proxied = kind(fd, peer)
        except BaseException:
            os.close(fd)
            raise
        proxied._timeout = self._timeout
        return proxied
