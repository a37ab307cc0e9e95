"""Network addresses: "host:port" strings, and what connections and listeners report.

The rules for "host:port", and the error messages, are those of Go's net package.
"""

from __future__ import annotations

import os
import socket
from typing import Any, NamedTuple


class AddrError(OSError, ValueError):
    """An address or a network name that makes no sense.

    Go: net.AddrError, net.UnknownNetworkError.
    """


class TCPAddr(NamedTuple):
    """The address of one end of a TCP connection; ``str()`` gives "host:port".

    It is a tuple (host, port) as the socket module uses.  host is a literal IP address,
    with "%zone" after it where IPv6 needs that.

    Go: net.TCPAddr.
    """

    host: str
    port: int

    @property
    def network(self) -> str:
        """Always "tcp"."""
        return "tcp"

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


class UDPAddr(NamedTuple):
    """The address of one end of a UDP socket; ``str()`` gives "host:port".

    It is a tuple (host, port), as TCPAddr is.

    Go: net.UDPAddr.
    """

    host: str
    port: int

    @property
    def network(self) -> str:
        """Always "udp"."""
        return "udp"

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


class UnixAddr(NamedTuple):
    """The address of a Unix-domain socket; ``str()`` gives the path.

    "" is a socket without a name (the usual one of a client), "@name" one in Linux's
    abstract name space.

    Go: net.UnixAddr.
    """

    path: str

    @property
    def network(self) -> str:
        """Always "unix"."""
        return "unix"

    def __str__(self) -> str:
        return self.path


Addr = TCPAddr | UDPAddr | UnixAddr


def _check_text(address: object, example: str) -> None:
    """TypeError if an address is not a str."""
    if not isinstance(address, str):
        kind = type(address).__name__
        raise TypeError(f"an address is a str such as {example!r}, not {kind}")


def split_host_port(hostport: str) -> tuple[str, str]:
    """Split "host:port", "[host]:port" or "[host%zone]:port" into host and port.

    An IPv6 address must be in brackets.  Both parts may be empty, and the port need not be
    a number.  Raises AddrError.

    >>> split_host_port("[::1]:80")
    ('::1', '80')

    Go: net.SplitHostPort.
    """
    _check_text(hostport, "host:port")
    colon = hostport.rfind(":")
    if colon < 0:
        raise _addr_error(hostport, "missing port in address")
    if hostport[0] == "[":
        end = hostport.find("]")
        if end < 0:
            raise _addr_error(hostport, "missing ']' in address")
        if end + 1 != colon:
            # The "]" is the end, or not followed by the last colon.
            if hostport[end + 1 : end + 2] == ":":
                raise _addr_error(hostport, "too many colons in address")
            raise _addr_error(hostport, "missing port in address")
        host, after_open, after_close = hostport[1:end], 1, end + 1
    else:
        host, after_open, after_close = hostport[:colon], 0, 0
        if ":" in host:
            raise _addr_error(hostport, "too many colons in address")
    if "[" in hostport[after_open:]:
        raise _addr_error(hostport, "unexpected '[' in address")
    if "]" in hostport[after_close:]:
        raise _addr_error(hostport, "unexpected ']' in address")
    return host, hostport[colon + 1 :]


def join_host_port(host: str, port: int | str) -> str:
    """Join host and port to "host:port", with brackets around a host that has colons.

    >>> join_host_port("::1", 80)
    '[::1]:80'

    Go: net.JoinHostPort.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def lookup_port(service: str) -> int:
    """The number of a TCP port: a number as text, or a service name; "" is 0.

    Go: net.LookupPort.
    """
    if service.isdecimal() and service.isascii():
        if len(service) <= 20 and int(service) <= 65535:
            return int(service)
        raise _addr_error(service, "invalid port")
    if not service:
        return 0
    if service[0] in "+-":
        raise _addr_error(service, "invalid port")
    try:
        return socket.getservbyname(service, "tcp")
    except OSError:
        raise AddrError(f"lookup tcp/{service}: unknown port") from None


def from_sockaddr(address: Any, ip: type[TCPAddr] | type[UDPAddr] = TCPAddr) -> Addr | None:
    """An address in the form of the socket module as an Addr; None if it is of no kind known."""
    match address:
        case (str() as host, int() as port):
            return ip(host, port)
        case (str() as host, int() as port, _, int() as scope):
            # IPv4 peers of a socket for both.
            if host.startswith("::ffff:") and "." in host:
                host = host[7:]
            return ip(f"{host}%{_zone(scope)}" if scope else host, port)
        case str():
            return UnixAddr(address)
        case bytes():
            return UnixAddr("@" + os.fsdecode(address[1:]))
    return None


def unix_sockaddr(path: str) -> str | bytes:
    """The path of a Unix-domain socket in the form of the socket module.

    Raises AddrError for an empty path.
    """
    _check_text(path, "/run/app.sock")
    if not path:
        raise AddrError("missing path of a unix socket")
    return b"\0" + os.fsencode(path[1:]) if path[0] == "@" else path


def _zone(scope: int) -> str:
    try:
        return socket.if_indextoname(scope)
    except OSError:
        return str(scope)


def _addr_error(address: str, problem: str) -> AddrError:
    return AddrError(f"address {address}: {problem}")
