"""Server: listens, serves a handler, and shuts down without dropping requests.

The work is done in C (csrc/py_http_*.c); this file binds sockets, handles signals
and holds the default mux.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, overload

import runtime
from runtime import _core
from runtime._http import errors, values
from runtime._http.mux import ServeMux

if TYPE_CHECKING:
    from runtime._core import Request
    from runtime._http.streams import Listener, Streams, TLSSource

__all__ = [
    "Server",
    "default_mux",
    "handle",
    "handle_func",
    "listen_and_serve",
    "listen_and_serve_tls",
    "serve",
]

Handler = Callable[[Any, Any], Any]

logger = logging.getLogger("runtime.http")

default_mux = ServeMux()
"""The mux of handle(), handle_func() and of servers without a handler.  Go: DefaultServeMux."""


def _log_error(message: str, request: Request | None, exc: BaseException) -> None:
    where = f" ({request.method} {request.target})" if request is not None else ""
    logger.error("%s%s", message, where, exc_info=exc)


_core._set_http_hooks(
    values.parse_query,
    values.parse_form,
    values.load_json,
    values.dump_json,
    _log_error,
    errors.HTTPError,
    errors.BodyTooLargeError,
)


def _split_addr(addr: str) -> tuple[str, int]:
    host, colon, port = addr.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {addr!r}: an IPv6 address needs brackets, as in [::1]:8080")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'address {addr!r}: want "host:port" or ":port", with a port up to 65535')
    return host, int(port)


def _bind(addr: str, backlog: int) -> socket.socket:
    """Return a listening, non-blocking socket.  OSError names the address."""
    if addr.startswith("unix:"):
        target: Any = addr[5:]
        if not target:
            raise ValueError(f'address {addr!r}: want "unix:/path"')
        sock = socket.socket(socket.AF_UNIX)
    else:
        host, port = _split_addr(addr)
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except socket.gaierror as exc:
            raise OSError(exc.errno, f"cannot listen on {addr}: {exc.strerror}") from None
        except UnicodeError:
            raise ValueError(f"address {addr!r}: {host!r} is not a host name") from None
        # Every interface: one socket for IPv6 and IPv4 where the system has both.
        family, _, _, _, target = (
            min(found, key=lambda a: a[0] != socket.AF_INET6) if not host else found[0]
        )
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            if host:
                raise
            family, target = socket.AF_INET, ("0.0.0.0", port)
            sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host else 0)
    try:
        sock.bind(target)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        raise OSError(exc.errno, f"cannot listen on {addr}: {reason}") from None
    return sock


class Server:
    """An HTTP/1.1 server.

    handler is called as handler(w, r) in a goroutine of its own for each request; it
    writes to w or returns str, bytes, dict, list (as JSON) or a status code.  Without
    one, the default mux serves.  addr is "host:port", ":port" or "unix:/path"; port 0
    takes a free one.

    Time-outs are in seconds, None for none:

    read_header_timeout  for a whole request head
    idle_timeout         between requests of a connection
    read_timeout         without a byte while a body is read
    write_timeout        without progress while a response is sent
    shutdown_timeout     for requests in flight after SIGINT or SIGTERM
    handshake_timeout    for a TLS handshake

    tls makes it an HTTPS server: the paths of a certificate and its key in PEM, an
    ssl.SSLContext (for client certificates, several names and so on; its ALPN protocols are set
    to http/1.1), or a function that returns one, called for each handshake.  A handler finds in
    r.tls what was agreed upon.  At most max_handshakes are made at a time; others wait.

        server = Server(handler, addr=":8080")
        server.serve()          # until shutdown(), close(), SIGINT or SIGTERM

    With several Ps (GOMAXPROCS) the connections are spread over their threads; all handlers of
    one connection run on the same. Where a plain thread calls serve(), none runs on the main
    thread, which may do something else.

    Go: http.Server.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        addr: str = ":8080",
        *,
        read_header_timeout: float | None = 10.0,
        idle_timeout: float | None = 120.0,
        read_timeout: float | None = 60.0,
        write_timeout: float | None = 60.0,
        shutdown_timeout: float | None = 30.0,
        max_header_bytes: int = 65536,
        max_headers: int = 128,
        max_target_bytes: int = 16384,
        max_body_bytes: int | None = 64 << 20,
        max_connections: int = 1 << 20,
        backlog: int = 4096,
        tls: TLSSource | None = None,
        handshake_timeout: float | None = 10.0,
        max_handshakes: int = 1024,
    ) -> None:
        if handler is None:
            handler = default_mux
        if not callable(handler):
            raise TypeError(f"handler must be callable, not {type(handler).__name__}")
        self._core = _core.HTTPServer(
            getattr(handler, "serve_http", handler),
            read_header_timeout=read_header_timeout,
            idle_timeout=idle_timeout,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            max_header_bytes=max_header_bytes,
            max_headers=max_headers,
            max_target_bytes=max_target_bytes,
            max_body_bytes=max_body_bytes,
            max_connections=max_connections,
        )
        self._tls = tls
        self._handshakes = handshake_timeout, max_handshakes
        self._streams: Streams | None = None if tls is None else self._make_streams()
        self._wanted = addr
        self._shutdown_timeout = shutdown_timeout
        self._backlog = backlog
        self._addr: str | None = None
        self._socket: socket.socket | None = None
        self._stopped = False

    @property
    def addr(self) -> str:
        """The address it listens on; the one it was given before listen()."""
        return self._addr if self._addr is not None else self._wanted

    def listen(self) -> None:
        """Bind the address, so that clients can connect; serve() does so if need be.

        Raises OSError naming the address where it cannot be bound, ValueError where it
        makes no sense.
        """
        if self._socket is not None:
            return
        sock = _bind(self._wanted, self._backlog)
        if sock.family == socket.AF_UNIX:
            self._addr = self._wanted
        else:
            host, port = sock.getsockname()[:2]
            self._addr = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._socket = sock

    def serve(self, *listeners: Listener) -> None:
        """Serve until the server is shut down or closed.

        Without listeners it serves its address.  A listener is one of runtime.net's, or any
        object with accept() and close() whose connections have read(n), write(data), close(),
        set_read_deadline(seconds) and set_write_deadline(seconds) as those of runtime.net have.
        They are closed when the server is.  What accept() raises ends serve(), but for errors
        of one connection or for want of resources: then it tries again after a while.

        In the main goroutine SIGINT and SIGTERM shut it down: requests in flight are
        finished, then serve() returns.  A second signal closes it at once.  Handlers
        the program has installed for these signals are left alone.  Where an exception
        ends serve(), say by Goroutine.cancel(), nothing is accepted any more and requests
        in flight are finished.
        """
        if self._stopped:
            raise RuntimeError("the server was closed: make a new one")
        if self._socket is not None and self._socket.fileno() < 0:
            raise RuntimeError("the server is being served already")
        try:
            if listeners and self._streams is None:
                self._streams = self._make_streams()
            for listener in listeners:
                assert self._streams is not None
                self._streams.add(listener)
            if not listeners:
                self._serve_own()
            with self._signals():
                if self._streams is not None:
                    self._streams.join()
                self._core.wait_closed(None)
        except BaseException:
            # As Go does: whatever ends serve(), nothing is accepted any more.
            self._stop()
            self._core.begin_shutdown()
            raise

    def _make_streams(self) -> Streams:
        # Only now: TLS and runtime.net take a while to import.
        from runtime._http.streams import Streams

        return Streams(self._core, self._stop, self._tls, *self._handshakes)

    def _serve_own(self) -> None:
        self.listen()
        assert self._socket is not None
        if self._streams is not None:
            from runtime._net.activation import listener_from_fd

            self._streams.add(listener_from_fd(self._socket.detach()))
            return
        self._core.listen(self._socket.fileno())
        self._socket.detach()

    def set_tls(self, tls: TLSSource) -> None:
        """Use another certificate, from the next handshake on.

            server.set_tls(("cert.pem", "key.pem"))     # the files have been renewed

        Connections that there are keep theirs.  Raises what the constructor raises, and then
        all stays as it was.
        """
        if self._streams is None or self._streams.certificates is None:
            raise RuntimeError("the server was made without tls")
        self._streams.certificates.set(tls)

    def shutdown(self, timeout: float | None = None) -> bool:
        """Stop accepting, finish requests in flight, close idle connections.

        Returns True once all is done.  After timeout seconds what is left is closed,
        and the result is False.  Go: Server.Shutdown.
        """
        self._stop()
        self._core.begin_shutdown()
        if self._core.wait_closed(timeout):
            return True
        self._core.abort()
        return False

    def close(self) -> None:
        """Close all listeners and connections at once.  Go: Server.Close.

        Handlers that run get ConnectionError from their next I/O; serve() returns without
        waiting for them.
        """
        self._stop()
        if not self._core.abort():
            self._core.wait_closed(None)

    def stats(self) -> dict[str, int]:
        """Connections by state, accepted connections, and requests served."""
        return self._core.stats()

    def _stop(self) -> None:
        self._stopped = True
        if self._streams is not None:
            self._streams.close()
        if self._socket is not None:
            # Bound but not yet served; once detached this closes nothing.
            self._socket.close()
            if self._addr is not None and self._addr.startswith("unix:/"):
                # As Go does; abstract addresses have no file.
                with suppress(OSError):
                    os.unlink(self._addr[5:])
                self._addr = self._wanted

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM shut the server down, where they have no handler."""
        if (
            threading.current_thread() is not threading.main_thread()
            or runtime.current().name != "main"
        ):
            yield
            return
        seen = 0

        def stop(signum: int, frame: object) -> None:
            nonlocal seen
            seen += 1
            if seen > 1:
                self._stop()
                self._core.abort()  # serve() waits until it is done
            else:
                runtime.go.named("http.Server.shutdown")(self.shutdown, self._shutdown_timeout)

        ours: dict[signal.Signals, Any] = {}
        for signum, default in (
            (signal.SIGINT, (_core._on_sigint, signal.default_int_handler)),
            (signal.SIGTERM, (signal.SIG_DFL,)),
        ):
            if signal.getsignal(signum) in default:
                ours[signum] = signal.signal(signum, stop)
        try:
            yield
        finally:
            for signum, previous in ours.items():
                if signal.getsignal(signum) is stop:
                    signal.signal(signum, previous)


@overload
def handle(pattern: str, handler: Handler) -> Handler: ...
@overload
def handle(pattern: str) -> Callable[[Handler], Handler]: ...
def handle(pattern: str, handler: Handler | None = None) -> Any:
    """Register a handler with the default mux; without handler, a decorator.

    Raises ValueError where the pattern is malformed or conflicts with another.
    Go: http.Handle.
    """
    if handler is None:
        return default_mux.handle(pattern)
    return default_mux.handle(pattern, handler)


handle_func = handle


def listen_and_serve(addr: str = ":8080", handler: Handler | None = None, **options: Any) -> None:
    """Serve handler, or the default mux, on addr until SIGINT or SIGTERM.

    options are those of Server.  An address that cannot be bound ends the program with
    one line on stderr and status 1 (SystemExit); to handle that, use Server, whose
    listen() and serve() raise OSError.  Go: http.ListenAndServe.
    """
    server = Server(handler, addr, **options)
    try:
        server.listen()
    except OSError as exc:
        raise SystemExit(f"gosched: {exc.strerror or exc}") from None
    server.serve()


def listen_and_serve_tls(
    addr: str,
    cert: str | os.PathLike[str],
    key: str | os.PathLike[str],
    handler: Handler | None = None,
    **options: Any,
) -> None:
    """As listen_and_serve(), with HTTPS: cert and key are the paths of PEM files.

        listen_and_serve_tls(":8443", "cert.pem", "key.pem", handler)

    Go: http.ListenAndServeTLS.
    """
    listen_and_serve(addr, handler, tls=(cert, key), **options)


def serve(handler: Handler | None = None, addr: str = ":8080", **options: Any) -> None:
    """As listen_and_serve(), with the handler first.

        serve(lambda w, r: "Hello", ":8080")
    """
    listen_and_serve(addr, handler, **options)
