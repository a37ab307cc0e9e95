"""The keys of a provider of tokens, which it publishes under a URL and changes from time to time.

Who sends tokens chooses the key's id in them, so an unknown one may make us ask the provider, but
not often: one fetch at a time, for all who wait, and no two within some seconds. What was fetched
is used on while the provider is down, until it is so old that a key that was withdrawn must count
as gone.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import runtime
from runtime._core import Bool
from runtime._http.middleware.jwtkeys import ASYMMETRIC, Key, KeySet, from_jwk
from runtime._singleflight import Group

if TYPE_CHECKING:
    import ssl

_MOST_KEYS = 256
_now = time.monotonic

logger = logging.getLogger("runtime.http")


class KeysUnavailableError(Exception):
    """The provider cannot be asked, and what it has said is too old."""


class JWKS:
    """The keys that a provider of tokens publishes (RFC 7517 section 5), for `jwt_auth`.

        keys = JWKS("https://login.example/.well-known/jwks.json", timeout=2)
        mux.use(jwt_auth(keys=keys, algorithms=["RS256"], audience="shop"))

    They are fetched when the first token comes, again after ``lifetime`` seconds, in the
    background, and when a token names a key that is not among them; but at most every
    ``min_interval`` seconds, once for all requests that wait. While that fails those that are there
    are used on, until they are ``max_age`` seconds old; without any the answer is 503. A set that
    has no key is an answer, too: from then on no token is valid (401), as a warning says.

    A fetch takes at most ``timeout`` seconds and ``max_bytes`` bytes, follows no redirect, and
    heeds the proxies of the environment. ``context`` is for TLS: by default the system's
    certificates are trusted. Plain http is refused, but from this machine (``localhost``,
    ``127.0.0.1``, ``[::1]``) or with ``allow_http=True``: whoever sits in between could put in keys
    of his own.

    Raises ValueError for such a URL, and for times that are not positive.
    """

    def __init__(
        self,
        url: str,
        *,
        lifetime: float = 300.0,
        max_age: float = 86400.0,
        min_interval: float = 10.0,
        timeout: float = 5.0,
        max_bytes: int = 256 * 1024,
        context: ssl.SSLContext | None = None,
        allow_http: bool = False,
    ) -> None:
        if not isinstance(url, str):
            raise TypeError(f"JWKS(): url is a str, not {type(url).__name__}")
        parts = urlsplit(url)
        self._local = local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError(f"JWKS({url!r}): an http or https URL is needed")
        if parts.scheme == "http" and not local and not allow_http:
            raise ValueError(
                f"JWKS({url!r}): over http others can put in their own keys: use https, or "
                "JWKS(url, allow_http=True) in a network that is trusted"
            )
        limits = {
            "lifetime": lifetime,
            "max_age": max_age,
            "min_interval": min_interval,
            "timeout": timeout,
            "max_bytes": max_bytes,
        }
        for name, value in limits.items():
            if not value > 0:
                raise ValueError(f"JWKS(): {name} must be more than 0, not {value!r}")
        self.url = url
        self.min_interval = min_interval
        """Seconds between two fetches, at least."""
        self._lifetime, self._max_age = lifetime, max_age
        self._timeout, self._max_bytes = timeout, max_bytes
        self._context = context
        self._flights: Group[None, None] = Group()
        self._tried: float | None = None  # when the last fetch ended; written by the flight only
        # What was fetched: the keys, their texts, and when. Replaced as a whole.
        self._got: tuple[KeySet, str, float] | None = None
        self._refreshing = Bool()

    def __repr__(self) -> str:
        return f"JWKS({self.url!r})"

    def current(self) -> KeySet | None:
        """The keys, as long as they may be used; None without any. Does not wait."""
        got = self._got
        if got is None:
            return None
        age = _now() - got[2]
        if age >= self._max_age:
            return None
        if age >= self._lifetime and self._may_fetch():
            self._refresh_later()
        return got[0]

    def find(self, kid: str | None, algorithm: str) -> tuple[KeySet, Any]:
        """The keys, and the one that is meant, or None. May wait for a fetch.

        Raises KeysUnavailableError.
        """
        keys = self.current()
        if keys is not None and (key := keys.find(kid, algorithm)) is not None:
            return keys, key
        self._fetch_once()
        keys = self.current()
        if keys is None:
            raise KeysUnavailableError(f"there are no keys of {self.url}")
        return keys, keys.find(kid, algorithm)

    def _may_fetch(self) -> bool:
        return self._tried is None or _now() - self._tried >= self.min_interval

    def _refresh_later(self) -> None:
        if not self._refreshing.compare_and_swap(False, True):
            return
        try:
            runtime.go.named("http.jwks")(self._refresh)
        except BaseException:
            self._refreshing.store(False)
            raise

    def _refresh(self) -> None:
        try:
            self._fetch_once()
        finally:
            self._refreshing.store(False)

    def _fetch_once(self) -> None:
        """Fetch, or wait for who does, unless that was done a moment ago."""
        with suppress(TimeoutError):
            self._flights.do(None, self._fetch, timeout=2 * self._timeout)

    def _fetch(self) -> None:
        if not self._may_fetch():
            return
        try:
            text = self._download()
            keys, names = _parse(text)
        except Exception as e:
            got = self._got
            age = None if got is None else round(_now() - got[2])
            what = "there are none yet" if age is None else f"those of {age} s ago are kept"
            logger.warning("the keys of %s cannot be fetched, %s: %s", self.url, what, e)
        else:
            got = self._got
            # The same object while they are the same: tokens are remembered with it.
            same = got is not None and got[1] == names
            if not keys and not same:
                logger.warning(
                    "the keys of %s have none that verifies signatures: no token is valid", self.url
                )
            self._got = (got[0] if same and got else keys, names, _now())
        finally:
            self._tried = _now()

    def _download(self) -> bytes:
        sockets: list[socket.socket] = []
        try:
            return runtime.blocking(self._read, sockets, timeout=self._timeout)
        except TimeoutError:
            raise TimeoutError(f"it takes longer than {self._timeout} s") from None
        finally:
            # A provider that sends byte by byte does not keep the thread.
            for sock in sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _read(self, sockets: list[socket.socket]) -> bytes:
        """On a thread of the blocking pool: what the URL has."""
        from runtime._http.middleware.download import download

        return download(
            self.url,
            sockets,
            timeout=self._timeout,
            most=self._max_bytes,
            context=self._context,
            proxies=not self._local,
        )


def _parse(text: bytes) -> tuple[KeySet, str]:
    """The keys of a JWK Set that verify signatures, and a text that says which these are.

    Others are passed over (RFC 7517 section 5); where none is left all are withdrawn. ValueError
    for what is no JWK Set.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no JWK Set")
    found: list[tuple[str | None, Key]] = []
    for jwk in listed[:_MOST_KEYS]:
        if not isinstance(jwk, dict) or jwk.get("kty") == "oct":
            continue  # a secret that is published is none
        kid = jwk.get("kid")
        with suppress(ValueError):
            found.append((kid if isinstance(kid, str) else None, from_jwk(jwk)))
    return KeySet(found, ASYMMETRIC), json.dumps(listed, sort_keys=True)
