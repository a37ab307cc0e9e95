"""A small, strict HTTP/1.1 client that checks servers before they are measured."""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from harness import Unavailable

TIMEOUT = 10.0  # seconds for any one read or write


@dataclass(frozen=True)
class Expectation:
    """One request and what a right answer to it is."""

    path: str = "/"
    method: str = "GET"
    payload: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    content_type: str = "text/plain"
    body: bytes = b"Hello, World"

    def request(self, address: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {address}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.payload:
            lines.append(f"Content-Length: {len(self.payload)}")
        return "\r\n".join([*lines, "", ""]).encode("ascii") + self.payload

    def check(self, stream: BinaryIO) -> None:
        """Read one response; Unavailable if it is not the one expected."""
        status, headers, body = read_response(stream)
        if status != self.status:
            raise Unavailable(f"answered {status}, not {self.status}")
        if not headers.get("content-type", "").startswith(self.content_type):
            raise Unavailable(f"content type is {headers.get('content-type')}")
        if body != self.body:
            raise Unavailable(f"answered {body[:40]!r}, not {self.body[:40]!r}")


HELLO = Expectation()


def read_response(stream: BinaryIO) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers (names in lower case) and the body of one response."""
    status_line = stream.readline()
    if not status_line:
        raise Unavailable("closed the connection instead of answering")
    status = int(status_line.split()[1])
    headers = {}
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" not in headers:
        raise Unavailable("the response has no Content-Length")
    return status, headers, stream.read(int(headers["content-length"]))


class Connection:
    """A keep-alive connection that checks what it gets."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._address = address
        try:
            self._sock = socket.create_connection((host, int(port)), TIMEOUT)
        except OSError as exc:
            raise Unavailable(f"no connection: {exc}") from None

    def exchange(self, expected: Expectation = HELLO, pipeline: int = 1) -> None:
        """Send `pipeline` requests in one write and check all responses."""
        try:
            self._sock.sendall(expected.request(self._address) * pipeline)
            with self._sock.makefile("rb") as stream:
                for _ in range(pipeline):
                    expected.check(stream)
        except (OSError, ValueError, IndexError) as exc:
            raise Unavailable(f"no valid response: {exc}") from None

    def close(self) -> None:
        """Close with a reset, so that no port stays behind in TIME_WAIT."""
        linger = struct.pack("ii", 1, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._sock.close()


def verify(address: str, expected: Expectation, pipeline: int) -> None:
    """Unavailable unless two requests, and a pipelined burst if asked, are answered."""
    conn = Connection(address)
    try:
        conn.exchange(expected)
        conn.exchange(expected)
        if pipeline > 1:
            conn.exchange(expected, pipeline)
    except Unavailable as exc:
        if pipeline > 1:
            raise Unavailable(f"{exc} (pipelining {pipeline})") from None
        raise
    finally:
        conn.close()
