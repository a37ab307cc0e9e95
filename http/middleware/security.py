"""Header fields that tell browsers what not to do with a response."""

from __future__ import annotations

from typing import Any

from runtime._http.chain import Handler, Middleware, callee

# As of the OWASP Secure Headers Project.
_DEFAULTS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; object-src 'none'; "
    "base-uri 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def security_headers(
    fields: dict[str, str | None] | None = None, *, hsts: float | None = None
) -> Middleware:
    """Header fields for browsers in each response, unless the handler sets others.

        mux.use(security_headers({"X-Frame-Options": "SAMEORIGIN"}, hsts=31536000))

    By default: Content-Security-Policy (all from this host, no plug-ins, in nobody's frame),
    Cross-Origin-Opener-Policy and Cross-Origin-Resource-Policy (same-origin), Referrer-Policy,
    X-Content-Type-Options: nosniff, X-Frame-Options: DENY. ``fields`` changes and adds some; None
    leaves one out. With ``hsts``, in seconds, responses over https (``r.scheme``: see
    `real_address` for proxies) say Strict-Transport-Security, with includeSubDomains (RFC 6797).

    They are set before the handler is called, which may replace or delete them. Raises ValueError
    for what is no header field.
    """
    wanted = {**_DEFAULTS, **(fields or {})}
    pairs = tuple((name, value) for name, value in wanted.items() if value is not None)
    _check(pairs)
    if hsts is not None and not hsts >= 0:
        raise ValueError(f"security_headers(): hsts is a number of seconds, not {hsts}")
    transport = "" if hsts is None else f"max-age={int(hsts)}; includeSubDomains"

    def around(handler: Any) -> Handler:
        target = callee(handler, "security_headers()")

        def secured(w: Any, r: Any) -> Any:
            put = w.headers.set
            for name, value in pairs:
                put(name, value)
            if transport and r.scheme == "https":
                put("Strict-Transport-Security", transport)
            return target(w, r)

        return secured

    return around


def _check(pairs: tuple[tuple[str, str], ...]) -> None:
    from runtime._core import Headers

    fields = Headers()
    for name, value in pairs:
        fields.set(name, value)
