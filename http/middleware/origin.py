"""Protection against cross-site request forgery by what browsers say of a request.

As Go's http.CrossOriginProtection: no tokens and no state. A browser tells in Sec-Fetch-Site
whether the page that made a request is of the same origin; one that does not sends Origin. A
request with neither comes from no browser, so there is nobody whose cookies could be abused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from runtime._http.chain import Handler, Middleware, callee
from runtime._http.replies import error

_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))  # RFC 9110 section 9.2.1


def check_origin(origin: str, what: str) -> str:
    """The origin, if it is one as browsers send it; ValueError otherwise."""
    parts = urlsplit(origin)
    if not parts.scheme or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(
            f"{what}: {origin!r} is no origin: it is scheme://host or scheme://host:port"
        )
    return origin


def cross_origin_protection(
    trusted: Iterable[str] = (),
    *,
    bypass: Callable[[Any], object] | None = None,
    deny: Handler | None = None,
) -> Middleware:
    """Refuse requests that browsers make on behalf of another site, but for GET, HEAD, OPTIONS.

        mux.use(cross_origin_protection(["https://admin.example.com"]))

    ``trusted`` are origins whose requests are let through, and those for which ``bypass(r)`` is
    true. Others are answered by ``deny``, or with 403. Handlers of the safe methods must change
    nothing, as always.

    Raises ValueError for an origin that is none.

    Go: http.CrossOriginProtection, with AddTrustedOrigin, AddInsecureBypassPattern (as ``bypass``)
    and SetDenyHandler.
    """
    if isinstance(trusted, str):
        raise TypeError("cross_origin_protection(): trusted is a collection of origins, not a str")
    origins = frozenset(check_origin(o, "cross_origin_protection()") for o in trusted)
    refuse = _forbidden if deny is None else callee(deny, "cross_origin_protection(deny)")

    def around(handler: Any) -> Handler:
        target = callee(handler, "cross_origin_protection()")

        def protected(w: Any, r: Any) -> Any:
            if r.method in _SAFE:
                return target(w, r)
            site = r.headers.get("Sec-Fetch-Site")
            if site == "same-origin" or site == "none":
                return target(w, r)
            origin = r.headers.get("Origin")
            # Without Sec-Fetch-Site: the host it was sent to.  Its scheme is not known here, so
            # http and https are one; with HSTS nobody gets at the former.
            if not site and (not origin or _is_of(origin, r.host)):
                return target(w, r)
            if origin in origins or (bypass is not None and bypass(r)):
                return target(w, r)
            return refuse(w, r)

        return protected

    return around


def _is_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # such as http://[
        return False


def _forbidden(w: Any, r: Any) -> None:
    error(w, "cross-origin request refused", 403)
