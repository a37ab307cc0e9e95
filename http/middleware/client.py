"""Whose request it is, where proxies stand before the server.

A proxy appends the address it was asked from to Forwarded (RFC 7239) or X-Forwarded-For. Anybody
can send such fields, so only what a trusted proxy has added is believed: the list is read from its
end, and the first address that is none of the trusted proxies is the client's. The same proxies
say how, and for which host, they were asked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from runtime._core import _forwarding
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


# What proxies say of a WebSocket, too: RFC 6455 section 3.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_HOST = re.compile(r"[!$%&'()*+,;=:\[\]._~0-9A-Za-z-]+")  # RFC 3986 section 3.2.2, and the port


def _said(text: str, proxies: int) -> str:
    """What the farthest of so many has appended, or put alone in place of what others said."""
    return text.rsplit(",", proxies)[-proxies:][0].strip()


def real_address(
    trusted: Iterable[str] = ("loopback", "unix"),
    *,
    header: str = "X-Forwarded-For",
    host: bool = False,
) -> Middleware:
    """Set ``r.remote_addr`` and ``r.scheme`` to the client's where trusted proxies say them.

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

    ``r.scheme`` is then that of ``proto=`` in ``Forwarded``, or of ``X-Forwarded-Proto``, which
    the proxy has to set whatever the client sends; and with ``host`` ``r.host`` is that of
    ``host=``, or of ``X-Forwarded-Host``. Ask for the latter only where the proxy sets that field,
    too: many pass it on as it came.

    Raises ValueError for what is no network, and for another header.
    """
    if isinstance(trusted, str):
        raise TypeError("real_address(): trusted is a collection of networks, not a str")
    networks, unix = _networks(trusted)
    forwarded = header.lower() == "forwarded"
    if not forwarded and header.lower() != "x-forwarded-for":
        raise ValueError(f"real_address(): header is X-Forwarded-For or Forwarded, not {header!r}")

    proto_header = None if forwarded else "X-Forwarded-Proto"
    host_header = "X-Forwarded-Host" if host and not forwarded else None

    def is_trusted(address: _Address) -> bool:
        return any(address in network for network in networks)

    # The same ones ask again: to look at an address costs more than all the rest.
    @lru_cache(maxsize=1024)
    def is_proxy(name: str) -> bool:
        """Is this the host of a connection from a trusted proxy?"""
        address = _parse(name)
        return (unix and name == "@") if address is None else is_trusted(address[0])

    @lru_cache(maxsize=1024)
    def told(text: str) -> tuple[str | None, int, dict[str, str]]:
        """The last hop that is not trusted, how many proxies speak, and what is said of it."""
        elements: Iterable[dict[str, str]]
        if forwarded:
            elements = parse_forwarded(text)
        else:
            elements = ({"for": hop} for hop in reversed(text.rsplit(",", _MOST)))
        found, proxies = None, 0
        said: dict[str, str] = {}
        for element in islice(elements, _MOST):
            proxies += 1
            said |= element
            parsed = _parse(element.get("for", ""))
            if parsed is None:
                break  # hidden, or garbage: who is behind it nobody can tell
            found = parsed
            if not is_trusted(parsed[0]):
                break
        return None if found is None else _join(*found), proxies, said

    def around(handler: Any) -> Handler:
        target = callee(handler, "real_address()")

        def addressed(w: Any, r: Any) -> Any:
            found = _forwarding(r, header, proto_header, host_header)
            if found is None or not is_proxy(found[1]):
                return target(w, r)
            peer, _, text, proto, name = found
            proxies = 1
            if text is not None:
                look = told if len(text) <= _REMEMBERED else told.__wrapped__
                real, proxies, said = look(text)
                if real is not None:
                    r.state["peer"] = peer
                    r.remote_addr = real
                if forwarded:
                    proto, name = said.get("proto"), said.get("host")
            if proto:
                scheme = _SCHEMES.get(proto) or _SCHEMES.get(_said(proto, proxies).lower())
                if scheme is not None:
                    r.scheme = scheme
            if host and name:
                name = _said(name, proxies)
                if _HOST.fullmatch(name):
                    r.host = name
            return target(w, r)

        return addressed

    return around
