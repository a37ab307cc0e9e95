"""Who asks: passwords and keys.

How long a refusal takes tells nothing of what would be right: keys and passwords are looked up in
a dict, which compares texts only where their hashes are equal, and these depend on a secret of the
process.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from runtime._core import _status_text
from runtime._http.chain import Handler, callee

_SCOPE = re.compile(r"[!#-\[\]-~]+")  # RFC 6749 section 3.3


class Refusal(NamedTuple):
    """Why a request is not answered."""

    status: int
    fields: tuple[tuple[str, str], ...]
    """Of the response's head."""


def challenge(value: str) -> Refusal:
    """401, with that in WWW-Authenticate."""
    return Refusal(401, (("WWW-Authenticate", value),))


def refuse(w: Any, refusal: Refusal) -> None:
    """Answer with it."""
    for name, _ in refusal.fields:
        w.headers.delete(name)
    for name, value in refusal.fields:
        w.headers.add(name, value)
    w.write_header(refusal.status)
    w.write(_status_text(refusal.status) + "\n")


def check_realm(realm: str, what: str) -> str:
    """The realm; ValueError if it cannot be quoted."""
    if '"' in realm or "\\" in realm or not realm.isprintable():
        raise ValueError(f"{what}: {realm!r} cannot be quoted as a realm")
    return realm


def check_scopes(scopes: Iterable[str], what: str) -> str:
    """The scopes with spaces in between; ValueError if one of them cannot be a scope."""
    if isinstance(scopes, str):
        raise TypeError(f"{what}: scopes are a collection, not a str: {scopes!r}")
    found = list(scopes)
    for scope in found:
        if not isinstance(scope, str) or _SCOPE.fullmatch(scope) is None:
            raise ValueError(f"{what}: {scope!r} cannot be a scope")
    return " ".join(found)


class Authentication:
    """A middleware that finds out who asks, by itself or as one of `any_of`."""

    def __init__(self, what: str, check: Callable[[Any], Refusal | None]) -> None:
        self.check = check
        """Sets r.state["user"] and returns None, or returns why it does not."""
        self._what = what

    def __repr__(self) -> str:
        return f"<middleware {self._what}>"

    def __call__(self, handler: Any) -> Handler:
        target, check = callee(handler, self._what), self.check

        def authenticated(w: Any, r: Any) -> Any:
            refusal = check(r)
            if refusal is not None:
                return refuse(w, refusal)
            return target(w, r)

        return authenticated


def any_of(*ways: Authentication) -> Authentication:
    """Ask for one of several: the first that finds out who asks counts.

        mux.use(any_of(jwt_auth(jwks_url=URL, algorithms=["RS256"]), api_key(KEYS, header="X-Key")))

    Each is a ``basic_auth``, ``api_key`` or ``jwt_auth``. If none is content the answer is 401 with
    the challenges of all of them; 503 if one of them could not tell. Raises TypeError for others.
    """
    if not ways:
        raise ValueError("any_of(): name at least one way to authenticate")
    for way in ways:
        if not isinstance(way, Authentication):
            raise TypeError(
                "any_of(): each is a basic_auth(), api_key() or jwt_auth(), "
                f"not {type(way).__name__}"
            )
    checks = [way.check for way in ways]

    def check(r: Any) -> Refusal | None:
        refusals = []
        for one in checks:
            refusal = one(r)
            if refusal is None:
                return None
            refusals.append(refusal)
        fields = tuple(field for refusal in refusals for field in refusal.fields)
        return Refusal(max(refusal.status for refusal in refusals), fields)

    return Authentication("any_of()", check)


def basic_auth(
    check: Mapping[str, str] | Callable[[str, str], object], *, realm: str = "restricted"
) -> Authentication:
    """Ask for a user and a password (RFC 7617); answer 401 without.

        admin = basic_auth(hashed({"ann": "$scrypt$ln=14,r=8,p=1$wPhg...$Uo7m..."}))
        admin = basic_auth({"ann": os.environ["ANN_PASSWORD"]})
        admin = basic_auth(lambda user, password: directory.bind(user, password))
        mux.handle("/admin/", pages, use=[admin])

    ``check`` is a function of both that tells whether they are right, such as `hashed`, or
    passwords by user. The user is then ``r.state["user"]``. Only over TLS is a password safe on its
    way.
    """
    value = f'Basic realm="{check_realm(realm, "basic_auth()")}", charset="UTF-8"'
    refusal = challenge(value)
    verify: Callable[[str, str], object]
    users: dict[str | None, str] = {}  # by what browsers send
    if callable(check):
        verify = check
    else:
        pairs = dict.fromkeys(check.items(), True)
        for user, password in check.items():
            if ":" in user:
                raise ValueError(f"basic_auth(): no colon can be in a user's name: {user!r}")
            users["Basic " + b64encode(f"{user}:{password}".encode()).decode()] = user

        def verify(user: str, password: str) -> object:
            return pairs.get((user, password))

    def authenticate(r: Any) -> Refusal | None:
        user = users.get(r.headers.get("Authorization"))
        if user is None:
            pair = r.basic_auth()
            if pair is None or not verify(*pair):
                return refusal
            user = pair[0]
        r.state["user"] = user
        return None

    return Authentication("basic_auth()", authenticate)


def api_key(
    keys: Mapping[str, str] | Iterable[str] | Callable[[str], object],
    *,
    header: str = "Authorization",
    realm: str = "restricted",
    scopes: Mapping[str, Iterable[str]] | Callable[[Any], Iterable[str]] | None = None,
) -> Authentication:
    """Ask for a key; answer 401 without.

        mux.use(api_key({"3f8a...": "billing", "77c1...": "shop"}))
        mux.use(api_key(lookup, header="X-API-Key"))
        mux.use(api_key({"3f8a...": "billing"}, scopes={"billing": ["items:read"]}))

    ``keys`` are those that are valid, or a mapping of them to whose they are, or a function of the
    key that returns whose it is (None, False: nobody's). It is sent as ``Authorization: Bearer
    KEY`` (RFC 6750), or alone in another ``header``. Whose it is, or True, is then
    ``r.state["user"]``. Clients without a key are told the ``realm``.

    With ``scopes``, by whose the key is or a function of that, `require_scopes` lets a key do what
    it is for: ``r.state["claims"]`` is ``{"sub": user, "scope": "items:read"}``. Who is not in the
    mapping has none. Raises ValueError for an empty key, and for what cannot be a scope.
    """
    find: Callable[[str], object]
    if isinstance(keys, str):
        raise TypeError("api_key(): keys is a collection of keys, not a str")
    if callable(keys):
        find = keys
    else:
        owners = dict(keys) if isinstance(keys, Mapping) else dict.fromkeys(keys, True)
        if "" in owners:
            raise ValueError("api_key(): a key is empty")
        find = owners.get

    allowed: Callable[[Any], str] | None = None
    if callable(scopes):
        scopes_of = scopes

        def allowed(owner: Any) -> str:
            return check_scopes(scopes_of(owner), "api_key()")

    elif scopes is not None:
        granted = {owner: check_scopes(given, "api_key()") for owner, given in scopes.items()}

        def allowed(owner: Any) -> str:
            return granted.get(owner, "")

    bearer = header.lower() == "authorization"
    value = f'realm="{check_realm(realm, "api_key()")}"'
    refusal = challenge(f"Bearer {value}" if bearer else f'ApiKey {value}, header="{header}"')

    def authenticate(r: Any) -> Refusal | None:
        key = r.headers.get(header)
        if bearer and key is not None:
            key = key[7:].strip() if key[:7].lower() == "bearer " else None
        owner = find(key) if key else None
        if owner is None or owner is False:
            return refusal
        if allowed is not None:
            r.state["claims"] = {"sub": owner, "scope": allowed(owner)}
        r.state["user"] = owner
        return None

    return Authentication("api_key()", authenticate)
