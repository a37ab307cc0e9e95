"""The rows of http_table.py on a bare uvloop protocol with httptools: no framework, no limits."""

import asyncio
import json
import sys
from typing import Any

import httptools
import uvloop

LARGE = bytes(65536)


def response(body: bytes, kind: str = "text/plain") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Work(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:  # uvloop's are no asyncio.Transport
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        self.url, self.body = b"", b""
        self.headers: dict[bytes, bytes] = {}

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        path, write = self.url, self.transport.write
        if path == b"/":
            write(response(b"Hello, World"))
        elif path == b"/browser":
            h = self.headers
            found = b"user-agent" in h and b"accept" in h and b"cookie" in h
            write(response(b"Hello, World" if found else b"?"))
        elif path == b"/json":
            out = json.dumps(json.loads(self.body), separators=(",", ":"))
            write(response(out.encode(), "application/json"))
        elif path.startswith(b"/users/"):
            write(response(path[7:]))
        elif path == b"/sleep":
            loop.call_later(0.001, write, response(b"Hello, World"))
        elif path == b"/large":
            write(response(LARGE))


async def serve(host: str, port: int) -> None:
    global loop
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Work, host, port, backlog=1024)
    await server.serve_forever()


host, port = sys.argv[1].split(":")
uvloop.run(serve(host, int(port)))
