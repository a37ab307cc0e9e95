"""Passwords that are stored as hashes.

To verify one costs what it costs an attacker to try one: tens of milliseconds of computing, which
happen on threads of the blocking pool, as many at a time as there are processors. A browser sends
the password with each request, so what was right is remembered for some minutes, as a keyed digest.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping

import runtime
from runtime._core import Int64, Semaphore
from runtime._cpu import default_procs
from runtime._http.errors import HTTPError
from runtime._http.middleware.recent import Recent
from runtime._singleflight import Group

_REMEMBERED = 1024  # passwords that were right
_LIFETIME = 300.0  # seconds for which they are
_PATIENCE = 10.0  # seconds that a request waits for its turn to have a password verified
_WAITING = 256  # requests that do
_LN, _R, _P = 14, 8, 1  # 16 MiB and some 40 ms
_MEMORY = 256 << 20  # bytes that scrypt may need, at most

_SCRYPT = re.compile(r"\$scrypt\$ln=(\d+),r=(\d+),p=(\d+)\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
# Those of passlib, whose base64 has a dot for the plus, and those of Django.
_PBKDF2 = re.compile(r"\$pbkdf2-(sha256|sha512)\$(\d+)\$([A-Za-z0-9./]+)\$([A-Za-z0-9./]+)")
_DJANGO = re.compile(r"pbkdf2_(sha256)\$(\d+)\$([^$]+)\$([A-Za-z0-9+/]+=*)")
_BCRYPT = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")

_Verify = Callable[[bytes], bool]


def _decode(text: str) -> bytes:
    text = text.replace(".", "+").rstrip("=")
    return b64decode(text + "=" * (-len(text) % 4), validate=True)


def _encode(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _scrypt(password: bytes, salt: bytes, ln: int, r: int, p: int, size: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=1 << ln, r=r, p=p, maxmem=_MEMORY, dklen=size)


def hash_password(password: str) -> str:
    """A hash of a password, to be stored, by scrypt with a random salt.

        python -c "from runtime.http.middleware import hash_password as h; print(h(input()))"

    The form is that of PHC: ``$scrypt$ln=14,r=8,p=1$SALT$HASH``. It takes 16 MiB and some 40 ms, in
    which the thread does nothing else.
    """
    salt = secrets.token_bytes(16)
    digest = _scrypt(password.encode(), salt, _LN, _R, _P, 32)
    return f"$scrypt$ln={_LN},r={_R},p={_P}${_encode(salt)}${_encode(digest)}"


def _verifier(stored: str) -> _Verify:
    """What compares a password with a hash; ValueError if that is none that is known."""
    if match := _SCRYPT.fullmatch(stored):
        ln, r, p = (int(match[i]) for i in (1, 2, 3))
        salt, digest = _decode(match[4]), _decode(match[5])
        if not (1 <= ln <= 22 and r >= 1 and p >= 1 and (128 * r << ln) + 128 * r * p < _MEMORY):
            raise ValueError("its parameters need more than 256 MiB")
        return lambda password: hmac.compare_digest(
            _scrypt(password, salt, ln, r, p, len(digest)), digest
        )
    if match := _PBKDF2.fullmatch(stored) or _DJANGO.fullmatch(stored):
        name, rounds, digest = match[1], int(match[2]), _decode(match[4])
        salt = _decode(match[3]) if stored[0] == "$" else match[3].encode()
        if not 1 <= rounds <= 100_000_000:
            raise ValueError("so many rounds are not possible")
        return lambda password: hmac.compare_digest(
            hashlib.pbkdf2_hmac(name, password, salt, rounds, len(digest)), digest
        )
    if _BCRYPT.fullmatch(stored):
        try:
            import bcrypt
        except ImportError:
            raise ImportError(
                "hashed(): hashes of bcrypt need the package bcrypt: pip install bcrypt",
                name="bcrypt",
            ) from None
        known = stored.encode()
        # It looks at 72 bytes; some versions refuse longer passwords, and those with a NUL.
        return lambda password: b"\0" not in password and bcrypt.checkpw(password[:72], known)
    raise ValueError(
        "known are $scrypt$, $pbkdf2-sha256$, $pbkdf2-sha512$, pbkdf2_sha256$ and $2b$"
    )


class hashed:
    """Passwords for `basic_auth` that are stored as hashes.

        users = hashed({"ann": "$scrypt$ln=14,r=8,p=1$wPhg...$Uo7m..."})
        users = hashed(lambda user: db.password_hash(user))      # None: there is no such user
        mux.handle("/admin/", pages, use=[basic_auth(users)])

    ``store`` has the hashes by user, or is a function that looks one up. Hashes are those of
    `hash_password`, of passlib (``$scrypt$``, ``$pbkdf2-sha256$``, ``$pbkdf2-sha512$``), of Django
    (``pbkdf2_sha256$``), and those of bcrypt where that package is installed.

    They are compared in constant time. A user who is not known takes as long as one who is: the
    password is compared with ``decoy``, by default the first hash of a mapping, else one of
    `hash_password`; it should cost what the others do. Meanwhile only the goroutine of the request
    waits; as many are compared at a time as there are processors, and if 256 requests wait, or one
    has waited for 10 seconds, the answer is 503. 1,024 right passwords are remembered for five
    minutes, and forgotten at once when the stored hash changes or the user is removed.

    Raises ValueError for a hash of another form, ImportError without bcrypt: at once for those of a
    mapping, else when a user with such a hash asks.
    """

    def __init__(
        self, store: Mapping[str, str] | Callable[[str], str | None], *, decoy: str | None = None
    ) -> None:
        self._find: Callable[[str], str | None]
        if callable(store):
            self._find = store
        else:
            users = dict(store)
            for user, known in users.items():
                if ":" in user:
                    raise ValueError(f"hashed(): no colon can be in a user's name: {user!r}")
                self._verifier(user, known)
            self._find = users.get
            decoy = decoy or next(iter(users.values()), None)
        self._decoy = decoy or hash_password(secrets.token_urlsafe())
        self._verifier("", self._decoy)
        self._secret = secrets.token_bytes(32)
        self._right: Recent[bytes, float] = Recent(_REMEMBERED)  # digests: until when
        self._flights: Group[bytes, bool] = Group()
        self._turns = Semaphore(default_procs())
        self._waiting = Int64()

    def __call__(self, user: str, password: str) -> bool:
        """Is it the password of that user?"""
        stored = self._find(user)
        known = self._decoy if stored is None else stored
        # Whether he is there counts, too: the decoy may be the hash of one who was removed.
        text = f"{stored is None} {len(user)} {len(password)} {user}{password}{known}"
        digest = hashlib.sha256(self._secret + text.encode()).digest()
        if self._remembers(digest):
            return True
        if self._waiting.add() > _WAITING:
            self._waiting.add(-1)
            raise HTTPError(503, "hashed(): too many passwords wait to be verified")
        try:
            verify = self._verifier(user, known)

            def compare() -> bool:
                if self._remembers(digest):  # one that has just ended
                    return True
                right = self._compare(verify, password.encode()) and stored is not None
                if right:
                    self._right.put(digest, time.monotonic() + _LIFETIME)
                return right

            right, _ = self._flights.do(digest, compare)
            return right
        finally:
            self._waiting.add(-1)

    def _remembers(self, digest: bytes) -> bool:
        return self._right.get(digest, 0.0) > time.monotonic()

    def _compare(self, verify: _Verify, password: bytes) -> bool:
        try:
            self._turns.acquire(timeout=_PATIENCE)
        except TimeoutError:
            raise HTTPError(503, "hashed(): a password waits too long to be verified") from None
        try:
            return runtime.blocking(verify, password)
        finally:
            self._turns.release()

    def _verifier(self, user: str, known: str) -> _Verify:
        try:
            return _verifier(known)
        except ValueError as e:
            raise ValueError(f"hashed(): the hash of {user!r} cannot be used: {e}") from None
