"""Where answers come from: one HTTP connection to the debug page of a server."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from runtime._top.question import SNAPSHOT, Question

TIMEOUT = 5.0  # seconds for a connection, and for each part of an answer
MAX_ANSWER = 64 << 20  # bytes
PATH = "/debug/"
LOGIN = "give --user NAME:PASSWORD, or --header 'Name: value'"


class SourceError(Exception):
    """There is no answer; the message is one line that says why."""


class Address:
    """Where the page is: text as a user writes it, and a path for where that has none.

    "8080", ":8080", "host:8080", "http://host:8080/debug/", "https://host", "unix:/run/app.sock".
    Raises ValueError for what is no address.
    """

    def __init__(self, text: str, path: str | None = None) -> None:
        self.user: str | None = None
        self.unix: str | None = None
        self.tls = False
        self.host, self.port = "localhost", 80  # of a unix socket, for the Host field
        if text.startswith("unix:"):
            self.unix = text[5:]
            if not self.unix:
                raise ValueError("no path after unix:")
        else:
            parts = self._split(text)
            self.tls = parts.scheme == "https"
            self.host = parts.hostname or "127.0.0.1"
            self.port = parts.port or (443 if self.tls else 80)
            if parts.username is not None:
                self.user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            if path is None and parts.path not in ("", "/"):
                path = parts.path
        path = PATH if path is None else path
        if not path.isascii() or not path.isprintable() or set(path) & set(" ?#"):
            raise ValueError(f"{path!r} is not the path of a URL")
        self.path = f"/{path.strip('/')}/".replace("//", "/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "https://" if self.tls else ""
        self.name = text if self.unix else f"{scheme}{host}:{self.port}"

    @staticmethod
    def _split(text: str) -> SplitResult:
        if text.isdecimal():
            text = f":{text}"
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"{parts.scheme}:// is not spoken here, only http and https")
        if parts.port == 0 or not (parts.netloc.isascii() and parts.netloc.isprintable()):
            raise ValueError("no such port" if parts.port == 0 else "no host name")
        if parts.query or parts.fragment or " " in parts.netloc or not parts.netloc:
            raise ValueError("neither HOST:PORT nor the URL of a page")
        return parts


class Source:
    """Asks one server, over a connection that is kept.

    pid: the worker process whose goroutines are told; None: whichever answers.
    """

    def __init__(
        self,
        address: Address,
        headers: Iterable[tuple[str, str]] = (),
        pid: int | None = None,
    ) -> None:
        self.address = address
        self._pid = pid
        self._headers = {"Accept": "application/json", "User-Agent": "gosched-top", **dict(headers)}
        if address.user is not None:
            self._headers.setdefault("Authorization", basic(address.user))
        self._conn = self._connection()

    def _connection(self) -> http.client.HTTPConnection:
        a = self.address
        if a.unix is not None:
            return _UnixConnection(a.unix)
        if a.tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(a.host, a.port, timeout=TIMEOUT, context=context)
        return http.client.HTTPConnection(a.host, a.port, timeout=TIMEOUT)

    def ask(self, question: Question) -> dict[str, Any]:
        """The server's answer; an empty one of a goroutine that has ended. Raises SourceError."""
        # A server may close a connection that was idle just when a request is on its way.
        fresh = self._conn.sock is None
        try:
            return self._ask(question)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as exc:
            self._conn.close()
            if fresh:
                raise SourceError(self._reason(exc)) from None
        except (OSError, http.client.HTTPException, UnicodeError) as exc:
            self._conn.close()
            raise SourceError(self._reason(exc)) from None
        except SourceError:
            self._conn.close()
            raise
        return self.ask(question)

    def close(self) -> None:
        self._conn.close()

    def _ask(self, question: Question) -> dict[str, Any]:
        target = f"{self.address.path}{question.of(self._pid).target}"
        self._conn.request("GET", target, headers=self._headers)
        answer = self._conn.getresponse()
        if answer.status == 404 and question.name == "stack":  # a table has just told of it
            answer.read(MAX_ANSWER)
            return {}
        self._check(answer, question)
        body = answer.read(MAX_ANSWER + 1)
        try:
            if len(body) > MAX_ANSWER:
                raise ValueError
            found = json.loads(body)
            if question.name == "snapshot":
                found["workers"][found["self"]]["snapshot"]["stats"]["ps"]
            elif not isinstance(found, dict):
                raise ValueError
        except (ValueError, LookupError, TypeError, RecursionError):
            raise SourceError(self._foreign()) from None
        sample: dict[str, Any] = found
        return sample

    def _check(self, answer: http.client.HTTPResponse, question: Question) -> None:
        where, status = self._where(), answer.status
        if status == 401:
            raise SourceError(f"{where} asks for a login (401): {LOGIN}")
        if status == 403:
            raise SourceError(f"{where} refuses us (403): ask on the server's machine, or {LOGIN}")
        if status in (404, 502, 504) and self._pid is not None and question != SNAPSHOT:
            with suppress(ValueError, TypeError, LookupError, RecursionError):
                why = json.loads(answer.read(MAX_ANSWER))["error"]
                raise SourceError(f"{self.address.name}: {printable(str(why))}")
        if status == 404:
            hint = "" if question.name == "snapshot" else "; an older gosched has no such view"
            raise SourceError(
                f"{where} is not there (404): mount http.debug.handler() on the server, "
                f"or say with --path where it is{hint}"
            )
        if 300 <= status < 400:
            target = printable(answer.getheader("Location", "elsewhere"))
            raise SourceError(f"{where} redirects to {target}: give that address")
        if status != 200:
            raise SourceError(f"{where} answers {status} {printable(answer.reason)}")

    def _where(self) -> str:
        return f"{self.address.name}{self.address.path}"

    def _foreign(self) -> str:
        return f"{self._where()} answers, but is no debug page of gosched: is it another program?"

    def _reason(self, exc: Exception) -> str:
        name = self.address.name
        if isinstance(exc, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {name} is not trusted ({exc.verify_message}): "
                "name its authority in $SSL_CERT_FILE"
            )
        if isinstance(exc, ssl.SSLError):
            return f"{name} does not speak TLS: {exc.reason or exc}"
        if isinstance(exc, TimeoutError):
            return f"{name} does not answer within {TIMEOUT:g} s"
        if isinstance(exc, http.client.RemoteDisconnected | ConnectionResetError):
            return f"{name} closes the connection instead of answering"
        if isinstance(exc, http.client.HTTPException):
            return f"{name} does not speak HTTP ({printable(str(exc)) or type(exc).__name__})"
        why = exc.strerror if isinstance(exc, OSError) else None
        return f"cannot connect to {name}: {printable(why or str(exc))}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise


@contextmanager
def known_shape() -> Iterator[None]:
    """Turns what goes wrong with an answer of another shape than ours into a SourceError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        raise SourceError(
            f"the server's answer has another shape than this version reads ({exc!r})"
        ) from None


def basic(user: str) -> str:
    """The value of Authorization for "NAME:PASSWORD" (RFC 7617)."""
    return "Basic " + base64.b64encode(user.encode()).decode()


def header(text: str) -> tuple[str, str]:
    """The name and the value in "Name: value"; ValueError if that is no header field."""
    name, colon, value = text.partition(":")
    value = value.strip()
    token = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    if not (colon and token and value.isascii() and value.isprintable()):
        raise ValueError(f"{text!r} is not of the form 'Name: value'")
    return name, value


def printable(text: str) -> str:
    """Without what would move a terminal's cursor, or worse."""
    return "".join(c if c.isprintable() else "?" for c in text)
