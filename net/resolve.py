"""Host names and addresses to what the socket module wants."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import NamedTuple

from runtime._core import Chan
from runtime._net.addr import AddrError, lookup_port, split_host_port

_FAMILIES = {
    "tcp": socket.AF_UNSPEC,
    "tcp4": socket.AF_INET,
    "tcp6": socket.AF_INET6,
    "udp": socket.AF_UNSPEC,
    "udp4": socket.AF_INET,
    "udp6": socket.AF_INET6,
}
_MAX_LOOKUPS = 64  # threads at a time; further lookups wait


class Target(NamedTuple):
    """A socket address to connect or bind to."""

    family: socket.AddressFamily
    sockaddr: tuple[str, int] | tuple[str, int, int, int]


Found = list[Target] | OSError

_lookups: Chan[None] = Chan(_MAX_LOOKUPS)  # holds one item for each lookup under way


def resolve(network: str, address: str, timeout: float | None = None) -> list[Target]:
    """The socket addresses of "host:port", best first; an empty host gives none of its own.

    A literal address is decoded here; a name is looked up by a helper thread, because the
    system's resolver blocks.  Raises AddrError, socket.gaierror, or TimeoutError after
    timeout seconds.
    """
    family = _FAMILIES.get(network)
    if family is None:
        raise AddrError(f"unknown network {network}")
    host, service = split_host_port(address)
    port = lookup_port(service)
    if not host:
        return [Target(socket.AF_INET6, ("", port, 0, 0)), Target(socket.AF_INET, ("", port))]
    literal = _literal(host, port)
    if literal is not None:
        if family not in (socket.AF_UNSPEC, literal.family):
            raise AddrError(f"address {host}: no suitable address found")
        return [literal]
    found = _look_up(host, port, family, timeout)
    if isinstance(found, OSError):
        raise found
    return found


def _literal(host: str, port: int) -> Target | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    plain = str(ip).partition("%")[0]  # in its canonical form
    if isinstance(ip, ipaddress.IPv4Address):
        return Target(socket.AF_INET, (plain, port))
    if ip.scope_id is None:
        return Target(socket.AF_INET6, (plain, port, 0, 0))
    try:
        scope = int(ip.scope_id) if ip.scope_id.isdecimal() else socket.if_nametoindex(ip.scope_id)
    except OSError:
        raise AddrError(f"address {host}: no such network interface") from None
    return Target(socket.AF_INET6, (plain, port, 0, scope))


def _look_up(host: str, port: int, family: int, timeout: float | None) -> Found:
    answer: Chan[Found] = Chan(1)

    def look_up() -> None:
        try:
            answer.send(_getaddrinfo(host, port, family))
        finally:
            _lookups.recv()

    _lookups.send(None, timeout)
    try:
        threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    except RuntimeError as e:
        _lookups.recv()
        return OSError(f"lookup {host}: {e}")
    try:
        return answer.recv(timeout)
    except TimeoutError:
        raise TimeoutError(f"lookup {host}: the time is up") from None


def _getaddrinfo(host: str, port: int, family: int) -> Found:
    try:
        infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except socket.gaierror as e:
        return socket.gaierror(e.errno, e.strerror, host)
    except (OSError, UnicodeError) as e:
        return OSError(f"lookup {host}: {e}")
    return [Target(info[0], info[4]) for info in infos]  # type: ignore[arg-type]
