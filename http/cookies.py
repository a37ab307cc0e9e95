"""Cookies, as RFC 6265bis has them: lenient in what is read, strict in what is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal, Protocol

__all__ = ["Cookie", "set_cookie"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
# As Go: printable ASCII but for quotes, backslash and semicolon. RFC 6265bis has no blanks and no
# commas either, but they are common; such a value is sent in quotes.
_BAD_IN_VALUE = re.compile(r"[^ !#-:<-\[\]-~]")
_BAD_IN_PATH = re.compile(r"[^ -:<-~]")
_LABEL = "[0-9A-Za-z]([0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
_DOMAIN = re.compile(rf"\.?{_LABEL}(\.{_LABEL})*")
_OWS = " \t"

MAX_COOKIES = 3000  # of one request; Go's
MAX_PAIR = 4096  # bytes of name and value that clients must keep (RFC 6265bis section 5.6)
MAX_ATTRIBUTE = 1024


@dataclass(slots=True)
class Cookie:
    """A cookie, from a request or for a response. Go's ``http.Cookie``.

        http.set_cookie(w, http.Cookie("sid", token, path="/", http_only=True, secure=True,
                                       same_site="Lax", max_age=3600))

    One from a request has a name, a value, and ``quoted``.

    Attributes:
        name: a token; case counts.
        value: printable ASCII without ``"``, ``;`` and ``\\``; encode anything else, for instance
            with ``urllib.parse.quote``.
        path: the paths it is sent for; "" is the directory of the request.
        domain: it is sent to this host and all below it; "" to this host only.
        expires: when it ends, an aware datetime; None with the client's session.
        max_age: the same as seconds from now, and stronger; 0 deletes the cookie at once.
        secure: only over TLS.
        http_only: not for scripts.
        same_site: "Strict", "Lax" or "None"; None leaves it to the client.
        partitioned: kept apart for each top-level site.
        quoted: the value is sent in double quotes, or was.
    """

    name: str
    value: str = ""
    path: str = ""
    domain: str = ""
    expires: datetime | None = None
    max_age: int | None = None
    secure: bool = False
    http_only: bool = False
    same_site: Literal["Strict", "Lax", "None"] | None = None
    partitioned: bool = False
    quoted: bool = False

    def check(self) -> None:
        """Raise ValueError, with the reason, if clients would refuse it. Go's ``Cookie.Valid``."""
        name = self.name.lower()
        if not _TOKEN.fullmatch(self.name):
            raise ValueError(f"cookie name {self.name!r} is not a token")
        if bad := _BAD_IN_VALUE.search(self.value):
            raise self._wrong(f"its value cannot have {bad[0]!r}")
        if len(self.name) + len(self.value) > MAX_PAIR:
            raise self._wrong(f"name and value are longer than {MAX_PAIR} bytes")
        if self.path and self.path[0] != "/":
            raise self._wrong(f"its path {self.path!r} does not begin with a slash")
        if bad := _BAD_IN_PATH.search(self.path):
            raise self._wrong(f"its path cannot have {bad[0]!r}")
        if len(self.path) > MAX_ATTRIBUTE:
            raise self._wrong(f"its path is longer than {MAX_ATTRIBUTE} bytes")
        if self.domain and not (_DOMAIN.fullmatch(self.domain) and len(self.domain) <= 255):
            raise self._wrong(f"{self.domain!r} is not a domain")
        if self.expires is not None and self.expires.utcoffset() is None:
            raise self._wrong("expires has no time zone")
        if self.expires is not None and self.expires.astimezone(UTC).year < 1601:
            raise self._wrong("expires is before 1601")
        if self.same_site not in (None, "Strict", "Lax", "None"):
            raise self._wrong(f"same_site is 'Strict', 'Lax' or 'None', not {self.same_site!r}")
        if not self.secure:
            for what, wants in (
                ("a partitioned cookie", self.partitioned),
                ("one with same_site 'None'", self.same_site == "None"),
                ("one named __Secure-...", name.startswith("__secure-")),
                ("one named __Host-...", name.startswith("__host-")),
            ):
                if wants:
                    raise self._wrong(f"{what} must be secure")
        if name.startswith("__host-") and (self.path != "/" or self.domain):
            raise self._wrong("one named __Host-... needs the path '/' and no domain")

    def _wrong(self, why: str) -> ValueError:
        return ValueError(f"cookie {self.name!r}: {why}")

    def __str__(self) -> str:
        """The value of a Set-Cookie field. Raises ValueError as ``check`` does."""
        self.check()
        quoted = self.quoted or " " in self.value or "," in self.value
        out = f'{self.name}="{self.value}"' if quoted else f"{self.name}={self.value}"
        if self.path:
            out += f"; Path={self.path}"
        if self.domain:
            out += f"; Domain={self.domain.removeprefix('.')}"
        if self.expires is not None:
            when = format_datetime(self.expires.astimezone(UTC), usegmt=True)
            out += f"; Expires={when}"
        if self.max_age is not None:
            out += f"; Max-Age={max(int(self.max_age), 0)}"
        if self.http_only:
            out += "; HttpOnly"
        if self.secure:
            out += "; Secure"
        if self.same_site is not None:
            out += f"; SameSite={self.same_site}"
        if self.partitioned:
            out += "; Partitioned"
        return out


class _Headers(Protocol):
    def add(self, name: str, value: str, /) -> object: ...


class _ResponseWriter(Protocol):
    @property
    def headers(self) -> _Headers: ...


def set_cookie(w: _ResponseWriter, cookie: Cookie) -> None:
    """Add a Set-Cookie field to the response. Go's ``http.SetCookie``.

    Raises ValueError, with the reason, for a cookie that clients would refuse; Go drops those.
    """
    w.headers.add("Set-Cookie", str(cookie))


def parse_cookies(lines: list[str]) -> tuple[Cookie, ...]:
    """The cookies of a request's Cookie fields; what is malformed is left out. Go's readCookies."""
    if sum(line.count(";") + 1 for line in lines) > MAX_COOKIES:
        return ()
    cookies = []
    for line in lines:
        for part in line.split(";"):
            name, _, value = part.strip(_OWS).partition("=")
            name = name.strip(_OWS)
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            if quoted:
                value = value[1:-1]
            if _TOKEN.fullmatch(name) and not _BAD_IN_VALUE.search(value):
                cookies.append(Cookie(name, value, quoted=quoted))
    return tuple(cookies)
