"""Whole responses of Go's net/http: errors and redirects."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import quote

from runtime._core import _status_text
from runtime._http.pattern import PATH_SAFE, clean_path
from runtime._http.values import dump_json

__all__ = ["error", "not_found", "not_found_handler", "redirect", "redirect_handler"]


class Headers(Protocol):
    def __contains__(self, name: str, /) -> bool: ...
    def set(self, name: str, value: str, /) -> object: ...
    def delete(self, name: str, /) -> object: ...


class ResponseWriter(Protocol):
    @property
    def headers(self) -> Headers: ...
    def write_header(self, status: int, /) -> object: ...
    def write(self, data: Any, /) -> object: ...


class Request(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> str: ...
    @property
    def stripped(self) -> str: ...


def error(w: ResponseWriter, message: str, code: int) -> None:
    """Reply with a status and ``message``, as plain text with a line end. Go's ``http.Error``.

    A Content-Length that was set is removed, other headers stay. The handler should return then.
    To end a handler from deep inside, raise ``HTTPError`` instead.
    """
    w.headers.delete("Content-Length")
    w.headers.set("Content-Type", "text/plain; charset=utf-8")
    w.headers.set("X-Content-Type-Options", "nosniff")
    w.write_header(code)
    w.write(message + "\n")


def unpack(value: object) -> tuple[int, str | bytes | None, bool]:
    """What a handler has returned: status (0: as it was chosen), body, whether that is JSON."""
    if isinstance(value, str | bytes):
        return 0, value, False
    if isinstance(value, dict | list):
        return 0, dump_json(value), True
    if isinstance(value, int) and not isinstance(value, bool):
        if not 200 <= value <= 599:
            raise ValueError(f"a handler returned {value}, which is no status code")
        text = _status_text(value)
        return int(value), text + "\n" if value >= 400 and text else None, False
    raise TypeError(
        f"a handler returned a {type(value).__name__}; it may return None, str, bytes, "
        "dict, list or a status code"
    )


def not_found(w: ResponseWriter, r: object) -> None:
    """Reply with 404. It is a handler itself. Go's ``http.NotFound``."""
    error(w, "404 page not found", 404)


def not_found_handler() -> Callable[[Any, Any], None]:
    """A handler that replies with 404. Go's ``http.NotFoundHandler``."""
    return not_found


# Its scheme or host is its own: not relative to the request's path.
_ABSOLUTE = re.compile("[A-Za-z][A-Za-z0-9+.-]*:|//[^/?#]")


def redirect(w: ResponseWriter, r: Request, url: str, code: int) -> None:
    """Redirect to ``url``, with a status of 300 to 399. Go's ``http.Redirect``.

    A URL without scheme and host is made an absolute path: what does not begin with a slash is
    relative to the request's path. Characters that a URL cannot have are percent-encoded, so
    neither a line end nor "/\\host" can come through; for a URL given by a client still check that
    it leads where you want. GET requests get a short HTML body, unless a Content-Type was set::

        http.redirect(w, r, "/login?next=" + quote(r.path), http.HTTPStatus.SEE_OTHER)

    Raises ValueError for another status.
    """
    if not 300 <= code <= 399:
        raise ValueError(f"redirect(): the status must be 300 to 399, not {code}")
    url = quote(url, safe=PATH_SAFE + "%[]?#", errors="replace")
    if not _ABSOLUTE.match(url):
        if url[:1] != "/":
            here = r.stripped + r.raw_path
            url = here[: here.rfind("/") + 1] + url if here[:1] == "/" else "/" + url
            url = quote(url, safe=PATH_SAFE + "%[]?#", errors="replace")
        end = min(i for i in (url.find("?"), url.find("#"), len(url)) if i >= 0)
        url = clean_path(url[:end]) + url[end:]
    send_redirect(w, r, url, code)


def send_redirect(w: ResponseWriter, r: Request, location: str, code: int) -> None:
    """Redirect to ``location``, which must be escaped."""
    with_body = "Content-Type" not in w.headers
    w.headers.set("Location", location)
    if with_body and r.method in ("GET", "HEAD"):
        w.headers.set("Content-Type", "text/html; charset=utf-8")
    w.write_header(code)
    if with_body and r.method == "GET":
        href = location.replace("&", "&amp;").replace("'", "&#39;")
        w.write(f'<a href="{href}">{_status_text(code)}</a>.\n\n')


def redirect_handler(url: str, code: int) -> Callable[[Any, Any], None]:
    """A handler that redirects each request to ``url``. Go's ``http.RedirectHandler``."""
    if not 300 <= code <= 399:
        raise ValueError(f"redirect_handler(): the status must be 300 to 399, not {code}")

    def redirects(w: ResponseWriter, r: Request) -> None:
        redirect(w, r, url, code)

    return redirects
