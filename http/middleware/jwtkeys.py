"""Keys of JSON Web Tokens, each bound to the algorithms that it is made for.

A token names its algorithm itself, and whoever forges one writes what he likes. So what a key may
verify follows from the key alone: a public key never becomes the secret of an HMAC, and a curve has
one algorithm (RFC 8725 sections 2.1 and 3.1).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_SECRETS = {"HS256": 32, "HS384": 48, "HS512": 64}  # bytes of a key, at least (RFC 7518 3.2)
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {
    "secp256r1": "ES256",
    "secp384r1": "ES384",
    "secp521r1": "ES512",
    "secp256k1": "ES256K",
}
SYMMETRIC = frozenset(_SECRETS)
ASYMMETRIC = frozenset([*_RSA, *_CURVES.values(), "EdDSA"])


class Key(NamedTuple):
    """A key, prepared."""

    value: Any
    """What PyJWT takes: bytes, or a public key of the package cryptography."""
    algorithms: tuple[str, ...]
    """What it may verify."""


class KeySet:
    """Keys by their ids. It never changes."""

    __slots__ = ("_alone", "_by_id")

    def __init__(self, keys: Iterable[tuple[str | None, Key]], algorithms: frozenset[str]) -> None:
        """If no key has an id, and only one is for an algorithm, that is for tokens with any id."""
        self._by_id: dict[tuple[str, str], Any] = {}
        self._alone: dict[str, Any] = {}  # by algorithm, where there is one key only
        seen: dict[str, int] = {}
        for kid, key in keys:
            for algorithm in algorithms.intersection(key.algorithms):
                if kid is not None:
                    self._by_id.setdefault((kid, algorithm), key.value)
                self._alone[algorithm] = key.value
                seen[algorithm] = seen.get(algorithm, 0) + 1
        for algorithm, count in seen.items():
            if count > 1:
                del self._alone[algorithm]

    def __bool__(self) -> bool:
        return bool(self._by_id or self._alone)

    def find(self, kid: str | None, algorithm: str) -> Any:
        """The key that is meant, or None."""
        if kid is None or not self._by_id:
            return self._alone.get(algorithm)
        return self._by_id.get((kid, algorithm))


def pyjwt(what: str) -> Any:
    """The package PyJWT; ImportError that says how to get it."""
    try:
        import jwt
    except ImportError:
        raise ImportError(
            f"{what} needs the package PyJWT: pip install 'gosched[jwt]'", name="jwt"
        ) from None
    return jwt


def check_algorithms(algorithms: Iterable[str], what: str) -> frozenset[str]:
    """The algorithms; ValueError if there is none, or one that is not known, "none" included."""
    if isinstance(algorithms, str):
        raise TypeError(f"{what}: algorithms is a collection of names, not a str")
    pinned = frozenset(algorithms)
    if not pinned:
        raise ValueError(f"{what}: name the algorithms that your tokens are signed with")
    for name in pinned:
        if name not in SYMMETRIC and name not in ASYMMETRIC:
            known = ", ".join(sorted(SYMMETRIC | ASYMMETRIC))
            raise ValueError(f"{what}: {name!r} signs nothing; there are {known}")
    if not pinned <= SYMMETRIC:
        jwt = pyjwt(what)
        if not jwt.algorithms.has_crypto:
            raise ImportError(
                f"{what}: {', '.join(sorted(pinned - SYMMETRIC))} needs the package cryptography: "
                "pip install 'gosched[jwt]'",
                name="cryptography",
            )
    return pinned


def prepare(key: Any) -> Key:
    """A key of the program: a secret, a public key as PEM, a JWK, or an object of cryptography.

    ValueError if it is none of these, or weaker than RFC 7518 sections 3.2 and 3.3 allow.
    """
    if isinstance(key, Mapping):
        return from_jwk(key)
    if isinstance(key, str):
        key = key.encode()
    if not isinstance(key, bytes):
        return _public(key)
    if b"-----BEGIN" not in key:
        return _secret(key)
    if not pyjwt("a public key").algorithms.has_crypto:
        raise ImportError(
            "a key as PEM needs the package cryptography: pip install 'gosched[jwt]'",
            name="cryptography",
        )
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        public = load_pem_public_key(key)
    except ValueError:
        raise ValueError("it is PEM, but no public key: BEGIN PUBLIC KEY is needed") from None
    except UnsupportedAlgorithm as e:
        raise ValueError(f"it is of a kind that is not supported: {e}") from None
    return _public(public)


def from_jwk(jwk: Mapping[str, Any]) -> Key:
    """A JSON Web Key (RFC 7517). ValueError if it is none, not supported, or not for verifying."""
    jwt = pyjwt("a JWK")
    unusable: tuple[type[Exception], ...] = (jwt.PyJWTError, AttributeError, KeyError, TypeError)
    if jwt.algorithms.has_crypto:
        from cryptography.exceptions import UnsupportedAlgorithm

        unusable += (UnsupportedAlgorithm,)
    data = dict(jwk)
    operations = data.get("key_ops")
    if data.get("use", "sig") != "sig" or (
        operations is not None and (not isinstance(operations, list) or "verify" not in operations)
    ):
        raise ValueError("it is not for verifying signatures (use, key_ops)")
    try:
        match data.get("kty"):
            case "oct":
                key = _secret(jwt.algorithms.HMACAlgorithm.from_jwk(data))
            case "RSA":
                key = _public(jwt.algorithms.RSAAlgorithm.from_jwk(data))
            case "EC":
                key = _public(jwt.algorithms.ECAlgorithm.from_jwk(data))
            case "OKP":
                key = _public(jwt.algorithms.OKPAlgorithm.from_jwk(data))
            case kind:
                raise ValueError(f"there are no keys of type {kind!r}")
    except unusable as e:
        raise ValueError(f"it is no usable JWK: {e}") from None
    algorithm = data.get("alg")
    if algorithm is None:
        return key
    if algorithm not in key.algorithms:
        raise ValueError(f"its alg is {algorithm!r}, for which it is not made")
    return Key(key.value, (algorithm,))


def _secret(secret: bytes) -> Key:
    if not secret or _is_public(secret):
        raise ValueError("it is no secret: empty, or a public key, a certificate or a JWK as text")
    fitting = tuple(name for name, size in _SECRETS.items() if len(secret) >= size)
    if not fitting:
        raise ValueError(
            f"a secret of {len(secret)} bytes is too short: HS256 needs 32 (RFC 7518 section 3.2), "
            "as of secrets.token_bytes(32)"
        )
    return Key(secret, fitting)


def _is_public(data: bytes) -> bool:
    """Is it, in some encoding, a key that is known to others?"""
    if b"-----BEGIN" in data or data.startswith((b"ssh-", b"ecdsa-")):
        return True
    try:
        return isinstance(json.loads(data), dict)  # a JWK, or what holds one
    except (ValueError, RecursionError):
        pass
    if not pyjwt("a secret").algorithms.has_crypto:
        return False
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    for load in (load_der_public_key, x509.load_der_x509_certificate):
        try:
            load(data)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        return True
    return False


def _public(key: Any) -> Key:
    if pyjwt("a public key").algorithms.has_crypto:
        from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < 2048:
                raise ValueError(
                    f"an RSA key of {key.key_size} bits is too short: 2048 are needed "
                    "(RFC 7518 section 3.3)"
                )
            return Key(key, _RSA)
        if isinstance(key, ec.EllipticCurvePublicKey):
            algorithm = _CURVES.get(key.curve.name)
            if algorithm is None:
                raise ValueError(f"no algorithm uses the curve {key.curve.name}")
            return Key(key, (algorithm,))
        if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            return Key(key, ("EdDSA",))
    raise ValueError(
        f"a key is a secret, a public key as PEM, a JWK, or a public key of cryptography, "
        f"not {type(key).__name__}"
    )
