"""GET of a small document, on a plain thread, by urllib."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.request
from typing import Any


def download(
    url: str,
    sockets: list[socket.socket],
    *,
    timeout: float,
    most: int,
    context: ssl.SSLContext | None,
    proxies: bool,
) -> bytes:
    """The body of the response; OSError or ValueError if it is not a 200 of up to `most` bytes.

    No redirect is followed; proxies: use those of the environment. `sockets` gets those that are
    used, for whoever does not want to wait any longer: timeout, in seconds, is that of each step.
    """

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class SecureConnection(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Connection, req)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(SecureConnection, req, context=context)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(None if proxies else {}),
        Plain(),
        Secure(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    until = time.monotonic() + timeout
    pieces, size = [], 0
    with opener.open(request, timeout=timeout) as response:
        if response.status != 200:
            raise OSError(f"the status is {response.status}")
        while piece := response.read1(65536):
            size += len(piece)
            if size > most:
                raise ValueError(f"it has more than {most} bytes")
            if time.monotonic() > until:
                raise TimeoutError(f"it takes longer than {timeout} s")
            pieces.append(piece)
    return b"".join(pieces)
