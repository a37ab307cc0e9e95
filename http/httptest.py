"""Testing handlers: calling them directly, and a server and a client without sockets.

A Request is a real one, parsed by the server's own code. The client is the standard library's
http.client, over a connection in memory.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runtime import _core
from runtime._core import Chan, ChanClosed, ClosedError, Headers, Request, WaitGroup, go
from runtime._http import values
from runtime._http.recorder import HeaderFields, Response, ResponseRecorder, copy_fields, record
from runtime._http.server import Handler, default_mux
from runtime._http.server import Server as HTTPServer
from runtime._net import tls as _tls
from runtime._net.addr import Addr, UnixAddr
from runtime._net.pipe import PipeConn, pipe
from runtime._net.stream import Accepting, Stream

if TYPE_CHECKING:
    import ssl

    import httpx
    from _typeshed import ReadableBuffer

    from runtime._core import _Context

__all__ = ["Client", "Listener", "Response", "ResponseRecorder", "Server", "new_request", "record"]

REMOTE_ADDR = "192.0.2.1:1234"
"""What r.remote_addr is unless told otherwise: an address for documentation (RFC 5737)."""

_HOST = "example.com"


# --- calling handlers directly --------------------------------------------------------------------


@cache
def _parser() -> _core.HTTPServer:
    return _core.HTTPServer(
        print, max_header_bytes=1 << 24, max_headers=4096, max_target_bytes=1 << 20,
        max_body_bytes=None,
    )  # fmt: skip


def new_request(
    method: str,
    target: str,
    body: str | bytes | Iterable[bytes] | None = None,
    headers: HeaderFields | None = None,
    *,
    json: Any = None,
    remote_addr: str = REMOTE_ADDR,
    tls: _tls.ConnectionState | None = None,
) -> Request:
    """A request as a server would give it to a handler.

        r = httptest.new_request("POST", "/items?n=1", b"...", {"X-Token": "t"})

    target is a path with or without a query, or a URL, whose host becomes the Host and whose
    scheme, if it is https, gives r.tls a value.  body is str (as UTF-8), bytes, or an iterable of
    bytes, which are sent in chunks, so that the length is not known before.  json is encoded and
    sent as application/json.

    Raises ValueError if that is no valid request.  Go: httptest.NewRequest.
    """
    if any(ch <= " " or ch == "\x7f" for ch in method + target):
        raise ValueError(f"{method!r} {target!r}: no space and no control characters, please")
    fields = copy_fields(headers)
    host = _HOST
    if "://" in target:
        url = urlsplit(target)
        host = url.netloc
        if url.scheme == "https" and tls is None:
            tls = _tls.ConnectionState(
                "TLSv1.3", "TLS_AES_128_GCM_SHA256", None, False, None, url.hostname
            )
    if "Host" not in fields:
        fields.set("Host", host)
    data = _framed(fields, body, json)
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return _parser().parse_request(head + data, remote_addr, tls)


def _framed(fields: Headers, body: str | bytes | Iterable[bytes] | None, json: Any) -> bytes:
    if json is not None:
        if body is not None:
            raise TypeError("either body or json")
        body = values.dump_json(json)
        if "Content-Type" not in fields:
            fields.set("Content-Type", "application/json")
    if body is None:
        return b""
    if isinstance(body, str):
        body = body.encode()
    if isinstance(body, bytes | bytearray | memoryview):
        if "Content-Length" not in fields and "Transfer-Encoding" not in fields:
            fields.set("Content-Length", len(body))
        return bytes(body)
    fields.set("Transfer-Encoding", "chunked")
    chunks = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in map(bytes, body) if chunk]
    return b"".join(chunks) + b"0\r\n\r\n"


# --- a server in memory ---------------------------------------------------------------------------


class Listener(Accepting[PipeConn]):
    """A listener in memory, for Server.serve(): dial() connects to it."""

    def __init__(self) -> None:
        self._waiting: Chan[PipeConn] = Chan()

    @property
    def addr(self) -> Addr:
        """An address without a name."""
        return UnixAddr("")

    def accept(self, timeout: float | None = None, *, ctx: _Context | None = None) -> PipeConn:
        """Wait for the next connection.

        Raises TimeoutError after timeout seconds, ctx.err() when the context ctx ends, and
        ClosedError when the listener is closed.
        """
        try:
            return self._waiting.recv(timeout, ctx=ctx)
        except ChanClosed:
            raise ClosedError("accept: use of closed network connection") from None

    def dial(self) -> PipeConn:
        """Connect.  Raises ConnectionRefusedError when the listener is closed."""
        ours, theirs = pipe()
        try:
            self._waiting.send(theirs)
        except ChanClosed:
            raise ConnectionRefusedError("dial: the listener is closed") from None
        return ours

    def close(self) -> None:
        """Stop listening.  Twice is harmless."""
        try:
            self._waiting.close()
        except ChanClosed:
            pass


class Server:
    """An HTTP server in memory, that serves until the with statement ends.

        with httptest.Server(handler) as server:
            assert server.client().get("/").body == b"Hello"

    options are those of http.Server.  There are no sockets and no ports.  In a bubble of
    runtime.testing its time-outs are on the clock of the bubble: idle_timeout takes no time.

    Go: httptest.Server.
    """

    def __init__(self, handler: Handler | None = None, **options: Any) -> None:
        handler = default_mux if handler is None else handler
        self._handler = getattr(handler, "serve_http", handler)
        self._requests = WaitGroup()
        self.server = HTTPServer(self._handle if callable(handler) else handler, **options)
        """The http.Server."""
        self.listener = Listener()
        self._clients: list[Client] = []
        self._closing = False
        self._serving = go.named("httptest.Server")(self._serve)

    def _handle(self, w: Any, r: Any) -> Any:
        self._requests.add()
        try:
            return self._handler(w, r)
        finally:
            self._requests.done()

    def _serve(self) -> None:
        try:
            self.server.serve(self.listener)
        except RuntimeError:
            if not self._closing:  # before it has begun
                raise

    def dial(self) -> PipeConn:
        """A connection to the server, for what a client would not do."""
        return self.listener.dial()

    def client(self, context: ssl.SSLContext | None = None, server_hostname: str = _HOST) -> Client:
        """A client of the server; with a context it speaks TLS.  Go: Server.Client."""
        if context is None:
            client = Client(self.dial)
        else:
            client = Client(
                lambda: _tls.client(_Queued(self.dial()), context, server_hostname=server_hostname)
            )
        self._clients.append(client)
        return client

    def transport(self) -> httpx.BaseTransport:
        """For httpx.Client(transport=...), if httpx is installed."""
        return _transport(self.client())

    def close(self) -> None:
        """Close everything at once, and wait until serve() and all handlers have returned.

        Go: Server.Close.
        """
        self._closing = True
        self.listener.close()
        self.server.close()
        self._serving.join()
        self._requests.wait()
        for client in self._clients:
            client.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# --- a client -------------------------------------------------------------------------------------


class _Queued(Stream):
    """The client's end of a connection in memory, which has no buffer: writes do not wait.

    A server may answer before it has read all, and TLS writes when it should be reading.
    """

    def __init__(self, conn: PipeConn) -> None:
        self._conn = conn
        self._queue: Chan[bytes] = Chan(1 << 16)
        self.read, self.unread = conn.read, conn.unread
        self.read_into = conn.read_into
        self.set_deadline = conn.set_deadline
        self.set_read_deadline = conn.set_read_deadline
        self.set_write_deadline = conn.set_write_deadline
        go.named("httptest.Client")(self._write)

    def _write(self) -> None:
        try:
            for data in self._queue:
                self._conn.write(data)
        except (OSError, EOFError):  # reading tells
            pass

    def write(self, data: ReadableBuffer, /) -> int:
        data = bytes(data)
        try:
            self._queue.send(data)
        except ChanClosed:
            raise ClosedError("write: use of closed network connection") from None
        return len(data)

    def close(self) -> None:
        try:
            self._queue.close()
        except ChanClosed:
            return
        self._conn.close()

    @property
    def closed(self) -> bool:
        return self._conn.closed

    @property
    def local_addr(self) -> Addr:
        return self._conn.local_addr

    @property
    def remote_addr(self) -> Addr:
        return self._conn.remote_addr


class _Socket:
    """What http.client needs of a socket.  It closes one that it still reads from."""

    def __init__(self, conn: Any) -> None:
        self.sendall, self.makefile = conn.write, conn.makefile

    def close(self) -> None:
        pass


class _Connection(http.client.HTTPConnection):
    def __init__(self, conn: Any) -> None:
        super().__init__(_HOST)
        self.conn = conn
        self.sock = _Socket(conn)
        self.fresh = True

    def connect(self) -> None:
        raise ConnectionError("the connection is over")


class Client:
    """A client that keeps its connections; it follows no redirects and keeps no cookies.

        client = server.client()
        r = client.post("/items", json={"name": "x"}, timeout=5)
        assert r.status == 201

    It is for tests: responses are read as a whole.  Several goroutines may use it.
    """

    def __init__(self, dial: Callable[[], Any]) -> None:
        self._dial = dial
        self._idle: list[_Connection] = []

    def request(
        self,
        method: str,
        target: str,
        body: str | bytes | Iterable[bytes] | None = None,
        headers: HeaderFields | None = None,
        *,
        json: Any = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a request and return the response.  The arguments are those of `new_request`.

        Raises TimeoutError after timeout seconds, what connecting raises, and
        http.client.HTTPException where the answer is no HTTP.
        """
        fields = copy_fields(headers)
        data = _framed(fields, body, json)
        if "Host" not in fields:
            fields.set("Host", _HOST)
        if body is None and json is None and method in ("POST", "PUT", "PATCH"):
            fields.set("Content-Length", 0)
        while True:
            try:
                conn = self._idle.pop()
            except IndexError:
                raw = self._dial()
                conn = _Connection(_Queued(raw) if isinstance(raw, PipeConn) else raw)
            try:
                return self._exchange(conn, method, target, fields, data, timeout)
            except (http.client.RemoteDisconnected, ConnectionError):
                # The server may have closed one that was idle: another one, then.
                if conn.fresh:
                    raise

    def _exchange(
        self,
        conn: _Connection,
        method: str,
        target: str,
        fields: Headers,
        data: bytes,
        timeout: float | None,
    ) -> Response:
        keep = False
        try:
            conn.conn.set_deadline(timeout)
            conn.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in fields.items():
                conn.putheader(name, value)
            conn.endheaders(data or None)
            with conn.getresponse() as got:
                body = got.read()
                keep = not got.will_close
            return Response(got.status, got.reason, copy_fields(got.getheaders()), body)
        finally:
            if keep:
                conn.fresh = False
                self._idle.append(conn)
            else:
                conn.conn.close()

    def get(self, target: str, **options: Any) -> Response:
        """request("GET", ...)"""
        return self.request("GET", target, **options)

    def head(self, target: str, **options: Any) -> Response:
        """request("HEAD", ...)"""
        return self.request("HEAD", target, **options)

    def post(self, target: str, body: Any = None, **options: Any) -> Response:
        """request("POST", ...)"""
        return self.request("POST", target, body, **options)

    def put(self, target: str, body: Any = None, **options: Any) -> Response:
        """request("PUT", ...)"""
        return self.request("PUT", target, body, **options)

    def delete(self, target: str, **options: Any) -> Response:
        """request("DELETE", ...)"""
        return self.request("DELETE", target, **options)

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            self._idle.pop().conn.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _transport(client: Client) -> httpx.BaseTransport:
    import httpx

    class Transport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            fields = [(name, value) for name, value in request.headers.items()]
            got = client.request(
                request.method, request.url.raw_path.decode("ascii"), request.read(), fields
            )
            return httpx.Response(got.status, headers=got.headers.items(), content=got.body)

        def close(self) -> None:
            client.close()

    return Transport()
