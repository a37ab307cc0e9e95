"""Bearer tokens that are JSON Web Tokens (RFC 6750, RFC 7519).

What a token says of how to verify it is never believed: the program names the algorithms, a key
has those that it is made for (jwtkeys.py), and keys come from the program or its provider only, so
the header's jku, jwk, x5u and x5c are not looked at. A refusal says that a token is not valid, not
why; that is in the log, at level DEBUG.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runtime._http.middleware.auth import Authentication, Refusal, challenge, check_realm
from runtime._http.middleware.jwks import JWKS, KeysUnavailableError
from runtime._http.middleware.jwtkeys import (
    SYMMETRIC,
    Key,
    KeySet,
    check_algorithms,
    prepare,
    pyjwt,
)
from runtime._http.middleware.recent import Recent

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")  # RFC 7515 section 3.1

logger = logging.getLogger("runtime.http")


class _InvalidError(Exception):
    """Why a token is refused."""


class _Fixed:
    """Keys that stay as they are."""

    min_interval = 0.0

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def current(self) -> KeySet:
        return self._keys

    def find(self, kid: str | None, algorithm: str) -> tuple[KeySet, Any]:
        return self._keys, self._keys.find(kid, algorithm)


def _header(token: str) -> dict[str, Any]:
    """What a token says of its signature, which is not verified yet; PyJWT looks again."""
    part = token[: token.index(".")]
    header = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    if not isinstance(header, dict):
        raise _InvalidError("its header is no object")
    return header


class _Verified:
    """Tokens that were found valid, by their digests: memory has no token that could be used."""

    def __init__(self, size: int) -> None:
        # Until when, by which keys, the claims, and which of them are lists or objects.
        self._entries: Recent[bytes, tuple[float, KeySet, dict[str, Any], list[str]]]
        self._entries = Recent(size)

    def claims(self, digest: bytes, keys: KeySet | None) -> dict[str, Any] | None:
        """The claims of a token that is still valid: the caller's own."""
        entry = self._entries.get(digest)
        if entry is None or entry[1] is not keys or time.time() >= entry[0]:
            return None
        claims = entry[2].copy()
        for name in entry[3]:
            claims[name] = _copy(claims[name])
        return claims

    def add(self, digest: bytes, until: float, keys: KeySet, claims: dict[str, Any]) -> None:
        nested = [name for name, value in claims.items() if isinstance(value, dict | list)]
        self._entries.put(digest, (until, keys, _copy(claims), nested))


def _copy(value: Any) -> Any:
    """A copy of what came out of JSON."""
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _source(
    key: Any, keys: Mapping[str, Any] | JWKS | None, jwks_url: str | None, pinned: frozenset[str]
) -> _Fixed | JWKS:
    """Where keys come from; each must fit the algorithms."""
    if sum(source is not None for source in (key, keys, jwks_url)) != 1:
        raise TypeError("jwt_auth(): give one of key, keys and jwks_url")
    if not isinstance(keys, Mapping | JWKS | None):
        raise TypeError(
            f"jwt_auth(): keys is a mapping of ids to keys, or a JWKS, not {type(keys).__name__}"
        )
    if key is not None:
        if pinned & SYMMETRIC and pinned - SYMMETRIC:
            raise ValueError(
                f"jwt_auth(): {', '.join(sorted(pinned))} are symmetric and asymmetric: no key is "
                "for both"
            )
        one = _prepared("the key", key)
        for algorithm in sorted(pinned):
            if algorithm not in one.algorithms:
                raise ValueError(
                    f"jwt_auth(): the key is not for {algorithm}; it is for "
                    f"{', '.join(one.algorithms)}"
                )
        return _Fixed(KeySet([(None, one)], pinned))
    if isinstance(keys, Mapping):
        several = [(kid, _prepared(f"the key {kid!r}", value)) for kid, value in keys.items()]
        for kid, one in several:
            if not isinstance(kid, str):
                raise TypeError(f"jwt_auth(): the id of a key is a str, not {type(kid).__name__}")
            if not pinned.intersection(one.algorithms):
                raise ValueError(
                    f"jwt_auth(): the key {kid!r} is for {', '.join(one.algorithms)}, none of "
                    "which is in algorithms"
                )
        for algorithm in sorted(pinned):
            if not any(algorithm in one.algorithms for _, one in several):
                raise ValueError(f"jwt_auth(): there is no key for {algorithm}")
        return _Fixed(KeySet(several, pinned))
    if pinned & SYMMETRIC:
        raise ValueError(
            f"jwt_auth(): {', '.join(sorted(pinned & SYMMETRIC))} need a secret, and what a "
            "provider publishes is none"
        )
    return keys if isinstance(keys, JWKS) else JWKS(jwks_url or "")


def _prepared(what: str, key: Any) -> Key:
    try:
        return prepare(key)
    except ValueError as e:
        raise ValueError(f"jwt_auth(): {what}: {e}") from None


def _names(value: str | Iterable[str] | None) -> list[str] | None:
    return None if value is None else [value] if isinstance(value, str) else list(value)


def jwt_auth(
    *,
    algorithms: Iterable[str],
    key: Any = None,
    keys: Mapping[str, Any] | JWKS | None = None,
    jwks_url: str | None = None,
    audience: str | Iterable[str] | None = None,
    issuer: str | Iterable[str] | None = None,
    leeway: float = 0.0,
    require: Iterable[str] = ("exp",),
    user: str | Callable[[dict[str, Any]], object] = "sub",
    realm: str = "restricted",
    max_token_bytes: int = 8192,
    remember: int = 1024,
) -> Authentication:
    """Ask for a JSON Web Token, sent as ``Authorization: Bearer TOKEN``; answer 401 without.

        tokens = jwt_auth(jwks_url="https://login.example/.well-known/jwks.json",
                          algorithms=["RS256"], audience="shop", issuer="https://login.example/")
        tokens = jwt_auth(key=SECRET, algorithms=["HS256"], audience="shop")
        mux.handle("GET /items", items, use=[tokens, require_scopes("items:read")])

    The handler finds the claims, a dict, in ``r.state["claims"]``, and the claim ``user`` in
    ``r.state["user"]``; ``user`` may be a function of the claims, and None or False that it returns
    are refused.

    ``algorithms`` are those that tokens may be signed with: HS256, HS384, HS512, RS256, RS384,
    RS512, PS256, PS384, PS512, ES256, ES384, ES512, ES256K, EdDSA. One ``key`` verifies all tokens;
    or ``keys`` by their ids, the header's ``kid``, or those that a provider publishes: a `JWKS`, or
    its ``jwks_url``. A key is a secret (str or bytes), a public key as PEM, a JWK (a dict), or a
    public key of the package cryptography, and only verifies what keys of its type do.

    A token is refused that is not signed by such a key; that has expired (``exp``), is not valid
    yet (``nbf``) or from the future (``iat``), up to ``leeway`` seconds; that lacks a claim of
    ``require``; that is for nobody of ``audience``, or for anybody where there is none (``aud``);
    that is of none of ``issuer``, if there is one (``iss``); or that is longer than
    ``max_token_bytes``. Claims of up to ``remember`` valid tokens are remembered until they expire.

    Answers as RFC 6750 section 3 says; 503 while keys cannot be fetched and there are none. Needs
    PyJWT, and cryptography for all but HS: the extra ``gosched[jwt]``.

    Raises ValueError for algorithms and keys that do not fit, also for secrets of less than 32
    bytes and RSA keys of less than 2,048 bits; ImportError if a package is missing.
    """
    jwt = pyjwt("jwt_auth()")
    pinned = check_algorithms(algorithms, "jwt_auth()")
    source = _source(key, keys, jwks_url, pinned)
    audiences, issuers, required = _names(audience), _names(issuer), _names(require) or []
    if not leeway >= 0 or not math.isfinite(leeway):
        raise ValueError(f"jwt_auth(): leeway is a time in seconds, 0 or more, not {leeway!r}")
    if remember < 1 or max_token_bytes < 1:
        raise ValueError("jwt_auth(): remember and max_token_bytes are 1 or more")
    if not isinstance(user, str) and not callable(user):
        raise TypeError(
            f"jwt_auth(): user is a claim's name or a function, not {type(user).__name__}"
        )
    check_realm(realm, "jwt_auth()")
    missing = challenge(f'Bearer realm="{realm}"')
    invalid = challenge(f'Bearer realm="{realm}", error="invalid_token"')
    verified = _Verified(remember)

    def verify(token: str, digest: bytes) -> dict[str, Any]:
        header = _header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in pinned:
            raise _InvalidError(f"the algorithm {algorithm!r} is not allowed")
        if kid is not None and not isinstance(kid, str):
            raise _InvalidError("the id of its key is no string")
        if "crit" in header or "b64" in header:  # RFC 7515 section 4.1.11, RFC 7797
            raise _InvalidError("it needs extensions, of which there are none")
        known, found = source.find(kid, algorithm)
        if found is None:
            raise _InvalidError(f"there is no key {kid!r} for {algorithm}")
        claims: dict[str, Any] = jwt.decode(
            token,
            found,
            algorithms=[algorithm],
            audience=audiences,
            leeway=leeway,
            options={"require": required},
        )
        for name in ("exp", "nbf", "iat"):
            value = claims.get(name, 0)
            if type(value) not in (int, float) or not math.isfinite(value):
                raise _InvalidError(f"{name} is no number")
        if issuers is not None and claims.get("iss") not in issuers:
            raise _InvalidError("the issuer is another one")
        until = int(claims["exp"]) + leeway if "exp" in claims else math.inf
        verified.add(digest, until, known, claims)
        return claims

    def authenticate(r: Any) -> Refusal | None:
        field = r._values("Authorization")  # two of them are no token
        if field is None or field[:7].lower() != "bearer ":
            return missing
        token = field[7:].strip(" ")
        if len(token) > max_token_bytes:
            return invalid
        digest = hashlib.sha256(token.encode()).digest()
        claims = verified.claims(digest, source.current())
        if claims is None:
            if _TOKEN.fullmatch(token) is None:
                return invalid
            try:
                claims = verify(token, digest)
            except KeysUnavailableError as e:
                logger.debug("jwt_auth(): %s", e)
                return Refusal(503, (("Retry-After", str(math.ceil(source.min_interval))),))
            except Exception as e:  # whatever it was, it was made of what the client has sent
                logger.debug("jwt_auth(): a token was refused: %r", e)
                return invalid
        if isinstance(user, str):
            name = claims.get(user)
        else:
            name = user(claims)
            if name is None or name is False:
                return invalid
        r.state["claims"], r.state["user"] = claims, name
        return None

    return Authentication("jwt_auth()", authenticate)
