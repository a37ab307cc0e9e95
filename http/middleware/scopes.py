"""What a token or key allows (RFC 6749 section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from runtime._http.chain import Handler, Middleware, callee
from runtime._http.middleware.auth import Refusal, challenge, check_realm, check_scopes, refuse


def _granted(claims: Mapping[str, Any]) -> str:
    """What the claims say, each scope between spaces: scope, or scp."""
    value = claims.get("scope")
    if value is None:
        value = claims.get("scp")
    if isinstance(value, list):  # as some providers have it
        value = " ".join(scope for scope in value if isinstance(scope, str) and " " not in scope)
    return f" {value} " if isinstance(value, str) else ""


def require_scopes(
    *scopes: str, match: Literal["all", "any"] = "all", realm: str = "restricted"
) -> Middleware:
    """Ask for a token or key with these scopes; answer 403 without. It is put within `jwt_auth`,
    or `api_key` with ``scopes``.

        mux.use(jwt_auth(jwks_url=URL, algorithms=["RS256"], audience="shop"))
        mux.handle("GET /items", items, use=[require_scopes("items:read")])
        mux.handle("POST /items", add, use=[require_scopes("items:write", "admin", match="any")])

    Scopes are those of ``r.state["claims"]``: of the claim ``scope`` (RFC 6749 section 3.3), or of
    ``scp``, words with spaces in between or a list. All of them are needed, or with
    ``match="any"`` one. The answer names them, as RFC 6750 section 3 says; it is 401 where there
    are no claims. Raises ValueError for none, and for what cannot be a scope.
    """
    if not scopes:
        raise ValueError("require_scopes(): name at least one scope")
    check_scopes(scopes, "require_scopes()")
    if match not in ("all", "any"):
        raise ValueError(f"require_scopes(): match is 'all' or 'any', not {match!r}")
    check_realm(realm, "require_scopes()")
    needed = [f" {scope} " for scope in dict.fromkeys(scopes)]
    wanted = len(needed) if match == "all" else 1
    missing = challenge(f'Bearer realm="{realm}"')
    told = f'Bearer realm="{realm}", error="insufficient_scope", scope="{" ".join(scopes)}"'
    insufficient = Refusal(403, (("WWW-Authenticate", told),))

    def around(handler: Any) -> Handler:
        target = callee(handler, "require_scopes()")

        def authorized(w: Any, r: Any) -> Any:
            claims = r.state.get("claims")
            if not isinstance(claims, Mapping):
                return refuse(w, missing)
            granted, found = _granted(claims), 0
            for scope in needed:
                found += scope in granted
            if found < wanted:
                return refuse(w, insufficient)
            return target(w, r)

        return authorized

    return around
