"""Who may see the live page.

It tells what the program does, line by line, so strangers are refused.  Without other means the
request must come from this machine, straight: the peer of the connection is a loopback address,
nothing says that a proxy has passed it on, and the Host field names this machine.  The latter is
what stops DNS rebinding, where a name of an attacker's suddenly means 127.0.0.1 and his page is of
the same origin as ours.

Whoever may see it, pages of other origins may not: neither read it nor have it in a frame.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from runtime._http.chain import Handler, Middleware, callee
from runtime._http.replies import error

# What proxies add.  Whose request it is then they may say, but anybody else may say it, too.
_FORWARDING = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Server",
    "X-Real-IP",
    "X-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "Via",
)

_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)

_STRANGER = (
    "The live page is shown to this machine only: connect to a loopback address, by its name or "
    'number (localhost, 127.0.0.1), without a proxy. Or mount it with auth=..., see "Watch the '
    'scheduler" in the documentation of gosched.'
)


def split_host(text: str) -> str:
    """The host of "host", "host:port" or "[v6]:port", in lower case."""
    if text[:1] == "[":
        return text[1:].partition("]")[0].lower()
    return (text.partition(":")[0] if text.count(":") == 1 else text).lower()


def is_loopback(host: str) -> bool:
    """Is it an address of this machine that no other machine can reach?"""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_local(r: Any) -> bool:
    """Was the request made on this machine, by this machine's name?"""
    state = r.state
    # real_address() has set the one, and kept the address of the connection in the other.
    peer = state.get("peer", r.remote_addr)
    if not all(is_loopback(split_host(addr)) for addr in (r.remote_addr, peer)):
        return False
    if peer == r.remote_addr and any(name in r.headers for name in _FORWARDING):
        return False
    host = split_host(r.host)
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host)


def is_same_origin(r: Any) -> bool:
    """Was it made by a page of this origin, or by no page?  Or it opens the page, in a tab."""
    headers = r.headers
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none") or (
            r.method == "GET"
            and headers.get("Sec-Fetch-Mode") == "navigate"
            and headers.get("Sec-Fetch-Dest") == "document"
        )
    origin = headers.get("Origin")
    try:
        return origin is None or urlsplit(origin).netloc == r.host
    except ValueError:  # such as http://[
        return False


def guard(auth: Middleware | None) -> Middleware:
    """Let in who is local or, with auth, who that lets in; from no other origin."""
    if auth is not None and not callable(auth):
        raise TypeError(f"handler(auth): a middleware is needed, not {type(auth).__name__}")

    def around(handler: Any) -> Handler:
        target = callee(handler, "debug.handler()")
        if auth is not None:
            target = callee(auth(target), "debug.handler(auth)")

        def guarded(w: Any, r: Any) -> Any:
            for name, value in _HEADERS:
                w.headers.set(name, value)
            w.headers.set("Cache-Control", "no-store")
            if auth is None and not is_local(r):
                return error(w, _STRANGER, 403)
            if not is_same_origin(r):
                return error(w, "The live page is not for pages of other origins.", 403)
            return target(w, r)

        return guarded

    return around
