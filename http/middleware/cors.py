"""Cross-origin resource sharing (the Fetch standard, section 3.2): who else's pages may ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from runtime._http.chain import Handler, Middleware, callee
from runtime._http.middleware.origin import check_origin


def cors(
    origins: str | Iterable[str] | Callable[[str], object],
    *,
    methods: Iterable[str] = ("GET", "HEAD", "POST"),
    headers: Iterable[str] = (),
    expose: Iterable[str] = (),
    credentials: bool = False,
    max_age: float = 600,
) -> Middleware:
    """Let pages of other origins read responses, and answer their browsers' preflight requests.

        serve(chain(mux, cors(["https://app.example.com"], methods=["GET", "PUT"])), ":8080")

    ``origins``: one, several, or a function of the origin that tells; ``"*"`` is any. ``methods``
    and ``headers`` are those that a preflight allows (``["*"]``: any, also Authorization, which the
    wildcard of the standard leaves out), for ``max_age`` seconds; ``expose`` are fields of
    responses that pages may see. With ``credentials`` browsers send cookies along.

    Put it around the mux rather than its routes: a preflight is an OPTIONS request, for which
    there may be no route. Raises ValueError for an origin that is none, and for ``"*"`` together
    with credentials, which browsers refuse.
    """
    allowed: Callable[[str], object]
    any_origin = False
    if callable(origins):
        allowed = origins
    else:
        known = {origins} if isinstance(origins, str) else set(origins)
        any_origin = "*" in known
        listed = frozenset(check_origin(o, "cors()") for o in known - {"*"})
        allowed = (lambda origin: True) if any_origin else listed.__contains__
    if any_origin and credentials:
        raise ValueError('cors(): "*" and credentials exclude each other: name the origins')
    for name, value in (("methods", methods), ("headers", headers), ("expose", expose)):
        if isinstance(value, str):
            raise TypeError(f"cors(): {name} is a collection of names, not a str")
    if not max_age >= 0:
        raise ValueError(f"cors(): max_age is a number of seconds, not {max_age}")
    method_list, header_list, expose_list = (
        ", ".join(names) for names in (methods, headers, expose)
    )
    # A wildcard is one only without credentials, and never for Authorization: there the browser's
    # wish is repeated.
    repeat_method = credentials and "*" in method_list.split(", ")
    repeat_headers = "*" in header_list.split(", ")
    age = str(int(max_age))

    def around(handler: Any) -> Handler:
        target = callee(handler, "cors()")

        def shared(w: Any, r: Any) -> Any:
            origin = r.headers.get("Origin")
            asked = r.headers.get("Access-Control-Request-Method") if origin else None
            preflight = asked is not None and r.method == "OPTIONS"
            out = w.headers
            if not any_origin:
                out.add("Vary", "Origin")
            if preflight:
                out.add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
            if origin and allowed(origin):
                out.set("Access-Control-Allow-Origin", "*" if any_origin else origin)
                if credentials:
                    out.set("Access-Control-Allow-Credentials", "true")
                if not preflight:
                    if expose_list:
                        out.set("Access-Control-Expose-Headers", expose_list)
                    return target(w, r)
                out.set("Access-Control-Allow-Methods", asked if repeat_method else method_list)
                wanted = r.headers.get("Access-Control-Request-Headers")
                if wanted and repeat_headers:
                    out.set("Access-Control-Allow-Headers", wanted)
                elif header_list:
                    out.set("Access-Control-Allow-Headers", header_list)
                out.set("Access-Control-Max-Age", age)
            if preflight:
                return 204  # without the fields the browser refuses
            return target(w, r)

        return shared

    return around
