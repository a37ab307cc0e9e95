"""Whose request it is, where proxies stand before the server.

A proxy appends the address it was asked from to Forwarded (RFC 7239) or X-Forwarded-For. Anybody
can send such fields, so only what a trusted proxy has added is believed: the list is read from its
end, and the first address that is none of the trusted proxies is the client's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from runtime._http.chain import Handler, Middleware, callee

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAMED = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
}
_MOST = 64  # addresses in a field that are looked at
_REMEMBERED = 256  # characters of a field whose client is remembered, at most
# RFC 7239 section 4, backwards: token=token or token="quoted"; pairs are split by ";", elements by
# ",". Quotes within a value have an odd number of "\" before them, the one that opens it has "=".
_PAIR = re.compile(
    r'\s*("(?:\\\\)*(?!\\)(?:[^"]|"\\(?:\\\\)*(?!\\))*"|[^\s;,"]*)'
    r"=([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*([;,]|$)"
)


def _networks(trusted: Iterable[str]) -> tuple[tuple[_Network, ...], bool]:
    """The networks, and whether unix sockets are trusted, too."""
    networks: list[_Network] = []
    unix = False
    for text in trusted:
        if text == "unix":
            unix = True
            continue
        for network in _NAMED.get(text, (text,)):
            try:
                networks.append(ipaddress.ip_network(network))
            except ValueError as e:
                raise ValueError(
                    f"real_address(): {text!r} is no address, network, 'loopback', 'private' or "
                    f"'unix': {e}"
                ) from None
    return tuple(networks), unix


def _parse(text: str) -> tuple[_Address, str] | None:
    """An address as these fields have it, with its port ("" for none); None if it is hidden."""
    text = text.strip()
    if text[:1] == "[":
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and port[0] != ":"):
            return None
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address, port if port.isascii() and port.isdigit() and int(port) < 65536 else ""


def parse_forwarded(text: str) -> Iterator[dict[str, str]]:
    """The elements of a Forwarded field, nearest proxy first, up to one that is malformed.

    It is read from its end: what a proxy has appended is found whatever stands before it, an open
    quote, too.
    """
    element: dict[str, str] = {}
    backwards, at = text[::-1], 0
    while (match := _PAIR.match(backwards, at)) is not None:
        value, name, separator = match.groups()
        value = value[::-1]
        if value[:1] == '"':
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        element[name[::-1].lower()] = value
        if separator != ";":
            yield element
            element = {}
        if not separator:
            return
        at = match.end()


def _join(address: _Address, port: str) -> str:
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{host}:{port or 0}"


def real_address(
    trusted: Iterable[str] = ("loopback", "unix"), *, header: str = "X-Forwarded-For"
) -> Middleware:
    """Set ``r.remote_addr`` to the client's address where trusted proxies say it.

        http.serve(real_address(["10.0.0.0/8"])(mux), ":8080")
        http.serve(real_address(header="Forwarded")(mux), "unix:/run/app.sock")

    ``trusted`` are the proxies: addresses, networks, ``"loopback"``, ``"private"`` (RFC 1918 and
    fc00::/7), ``"unix"`` (whoever connects by a unix socket). ``header`` is the field that they
    append to: ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239); the other one, and others, are not
    looked at, for a client might send them. It is read from its end: what a client has put before
    that, quotes without an end included, does no harm. Requests from elsewhere, and those whose
    field does not end with an address, keep the address of the connection; so do those whose
    nearest proxy has hidden it. Without a port in the field it is 0. ``r.state["peer"]`` is the
    address of the connection where another one has taken its place, and not there otherwise.

    Raises ValueError for what is no network, and for another header.
    """
    if isinstance(trusted, str):
        raise TypeError("real_address(): trusted is a collection of networks, not a str")
    networks, unix = _networks(trusted)
    forwarded = header.lower() == "forwarded"
    if not forwarded and header.lower() != "x-forwarded-for":
        raise ValueError(f"real_address(): header is X-Forwarded-For or Forwarded, not {header!r}")

    def is_trusted(address: _Address) -> bool:
        return any(address in network for network in networks)

    # The same ones ask again: to look at an address costs more than all the rest.
    @lru_cache(maxsize=1024)
    def is_proxy(host: str) -> bool:
        """Is this the host of a connection from a trusted proxy?"""
        address = _parse(host)
        return (unix and host == "@") if address is None else is_trusted(address[0])

    @lru_cache(maxsize=1024)
    def client(text: str) -> str | None:
        """The address of the last hop that is not trusted."""
        hops: Iterable[str]
        if forwarded:
            hops = (element.get("for", "") for element in parse_forwarded(text))
        else:
            hops = reversed(text.rsplit(",", _MOST))
        found = None
        for hop in islice(hops, _MOST):
            parsed = _parse(hop)
            if parsed is None:
                break  # hidden, or garbage: who is behind it nobody can tell
            found = parsed
            if not is_trusted(parsed[0]):
                break
        return None if found is None else _join(*found)

    def around(handler: Any) -> Handler:
        target = callee(handler, "real_address()")

        def addressed(w: Any, r: Any) -> Any:
            text = r._values(header)
            if text is not None:
                peer = r.remote_addr
                if is_proxy(peer.rpartition(":")[0] or peer):
                    real = (client if len(text) <= _REMEMBERED else client.__wrapped__)(text)
                    if real is not None:
                        r.state["peer"] = peer
                        r.remote_addr = real
            return target(w, r)

        return addressed

    return around
