"""Who asks: passwords and keys.

How long a refusal takes tells nothing of what would be right: keys and passwords are looked up in
a dict, which compares texts only where their hashes are equal, and these depend on a secret of the
process.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runtime._core import _status_text
from runtime._http.chain import Handler, Middleware, callee


def _refuse(w: Any, challenge: str) -> None:
    w.headers.set("WWW-Authenticate", challenge)
    w.write_header(401)
    w.write(_status_text(401) + "\n")


def basic_auth(
    check: Mapping[str, str] | Callable[[str, str], object], *, realm: str = "restricted"
) -> Middleware:
    """Ask for a user and a password (RFC 7617); answer 401 without.

        admin = basic_auth({"ann": "secret"})
        admin = basic_auth(lambda user, password: verify(hashes.get(user, DUMMY), password))
        mux.handle("/admin/", pages, use=[admin])

    ``check`` is a function of both that tells whether they are right, or passwords by user. The
    user is then ``r.state["user"]``. Only over TLS is a password safe on its way.
    """
    if '"' in realm or "\\" in realm or not realm.isprintable():
        raise ValueError(f"basic_auth(): {realm!r} cannot be quoted as a realm")
    challenge = f'Basic realm="{realm}", charset="UTF-8"'
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

    def around(handler: Any) -> Handler:
        target = callee(handler, "basic_auth()")

        def authenticated(w: Any, r: Any) -> Any:
            user = users.get(r.headers.get("Authorization"))
            if user is None:
                pair = r.basic_auth()
                if pair is None or not verify(*pair):
                    return _refuse(w, challenge)
                user = pair[0]
            r.state["user"] = user
            return target(w, r)

        return authenticated

    return around


def api_key(
    keys: Mapping[str, str] | Iterable[str] | Callable[[str], object],
    *,
    header: str = "Authorization",
) -> Middleware:
    """Ask for a key; answer 401 without.

        mux.use(api_key({"3f8a...": "billing", "77c1...": "shop"}))
        mux.use(api_key(lookup, header="X-API-Key"))

    ``keys`` are those that are valid, or a mapping of them to whose they are, or a function of the
    key that returns whose it is (None, False: nobody's). It is sent as ``Authorization: Bearer
    KEY`` (RFC 6750), or alone in another ``header``. Whose it is, or True, is then
    ``r.state["user"]``.
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

    bearer = header.lower() == "authorization"

    def around(handler: Any) -> Handler:
        target = callee(handler, "api_key()")

        def authenticated(w: Any, r: Any) -> Any:
            key = r.headers.get(header)
            if bearer and key is not None:
                key = key[7:].strip() if key[:7].lower() == "bearer " else None
            owner = find(key) if key else None
            if owner is None or owner is False:
                return _refuse(w, "Bearer" if bearer else f'ApiKey header="{header}"')
            r.state["user"] = owner
            return target(w, r)

        return authenticated

    return around
