"""Server: listens, serves a handler, and shuts down without dropping requests.

The work is done in C (csrc/py_http_*.c); this file binds sockets, handles signals
and holds the default mux.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
import tokenize  # noqa: F401 (for tracebacks: without descriptors it could not be imported then)
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, overload

import runtime
from runtime import _core
from runtime._http import auth, cookies, errors, forms, values
from runtime._http import restart as hot
from runtime._http.connstate import ConnInfo, ConnState, Watch
from runtime._http.context import Base, Contexts
from runtime._http.mux import ServeMux
from runtime._net.addr import UnixAddr, unix_sockaddr
from runtime._net.bufio import Reader
from runtime._net.conn import conn_type
from runtime._net.listener import Listener as NetListener
from runtime._net.stream import ListenerOver

if TYPE_CHECKING:
    from runtime._core import Request, _Context
    from runtime._http.chain import Middleware
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

_CLOSED = "the server was closed"
_RESTART_TIME = 60.0  # seconds that a new program may take to serve
_SETTLED = 0.5  # HTTP_SETTLED of csrc/py_http.h, in seconds

logger = logging.getLogger("runtime.http")

default_mux = ServeMux()
"""The mux of handle(), handle_func() and of servers without a handler.  Go: DefaultServeMux."""


def _log_error(message: str, request: Request | None, exc: BaseException) -> None:
    where = f" ({errors.which(request)})" if request is not None else ""
    logger.error("%s%s", message, where, exc_info=exc)


_core._set_http_hooks(
    values.parse_query,
    forms.Forms,
    values.load_json,
    values.dump_json,
    _log_error,
    errors.HTTPError,
    errors.BodyTooLargeError,
    cookies.parse_cookies,
    auth.parse_basic,
)
_core._set_hijack_hooks(conn_type, Reader)


def _split_addr(addr: str) -> tuple[str, int]:
    host, colon, port = addr.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {addr!r}: an IPv6 address needs brackets, as in [::1]:8080")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'address {addr!r}: want "host:port" or ":port", with a port up to 65535')
    return host, int(port)


def _bind(addr: str, backlog: int | None, reuse_port: bool = False) -> socket.socket:
    """Return a non-blocking socket, listening if there is a backlog.  OSError names the address."""
    if addr.startswith("unix:"):
        if not addr[5:]:
            raise ValueError(f'address {addr!r}: want "unix:/path"')
        target: Any = unix_sockaddr(addr[5:])
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
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Before clients can connect: connections inherit it then.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host else 0)
    try:
        sock.bind(target)
        if backlog is not None:
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
    body_timeout         for a whole request body, from the end of its head
    waiting_timeout      for a request to wait until fewer than max_requests run
    shutdown_timeout     for requests in flight after SIGINT or SIGTERM
    drain_delay          from the start of a shutdown until nothing is accepted any more
    handshake_timeout    for a TLS handshake

    tls makes it an HTTPS server: the paths of a certificate and its key in PEM, an
    ssl.SSLContext (for client certificates, several names and so on; its ALPN protocols are set
    to http/1.1), or a function that returns one, called for each handshake.  A handler finds in
    r.tls what was agreed upon.  At most max_handshakes are made at a time; others wait.

        server = Server(handler, addr=":8080")
        server.serve()          # until shutdown(), close(), SIGINT or SIGTERM

    With hot_restart SIGUSR2 starts the program anew; once that serves, this one shuts down. No
    client notices. A number is the seconds it has for that, True means 60.

    conn_state(conn, state) is called as connections change: see ConnState.

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
        base_context: Base = None,
        body_timeout: float | None = None,
        min_read_rate: int | None = 240,
        min_write_rate: int | None = 240,
        rate_grace: float | None = 10.0,
        max_requests: int | None = None,
        max_waiting: int | None = 1024,
        waiting_timeout: float | None = 10.0,
        max_requests_per_connection: int | None = None,
        tls: TLSSource | None = None,
        handshake_timeout: float | None = 10.0,
        max_handshakes: int = 1024,
        drain_delay: float = 0.0,
        hot_restart: bool | float = False,
        conn_state: Callable[[ConnInfo, ConnState], object] | None = None,
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
        self._core.set_limits(
            body_timeout=body_timeout,
            min_read_rate=min_read_rate,
            min_write_rate=min_write_rate,
            rate_grace=rate_grace,
            max_requests=max_requests,
            max_waiting=max_waiting,
            waiting_timeout=waiting_timeout,
            max_requests_per_connection=max_requests_per_connection,
        )
        if conn_state is not None:
            self._core.set_watch(Watch(conn_state))
        self._contexts = Contexts(base_context, self)
        self._core.set_contexts(self._contexts)
        self._tls = tls
        self._handshakes = handshake_timeout, max_handshakes
        self._streams: Streams | None = None if tls is None else self._make_streams()
        # As the core's: that of the bubble which the server was made in.
        self._clock = _core.now if _core._in_bubble() else time.monotonic
        self._wanted = addr
        self._shutdown_timeout = shutdown_timeout
        self._backlog = backlog
        self._addr: str | None = None
        self._socket: socket.socket | None = None
        self._stopped = False
        if not drain_delay >= 0:
            raise ValueError(f"drain_delay must be 0 or more seconds, not {drain_delay}")
        if not hot_restart >= 0:
            raise ValueError("hot_restart must be True, False or a positive number of seconds")
        self._drain_delay = drain_delay
        self._hot_restart = _RESTART_TIME if hot_restart is True else float(hot_restart)
        self._drained_at: float | None = None  # from then on nothing is accepted
        self._hurry: runtime.Chan[None] = runtime.Chan()  # closed: do not wait for that
        self._at_shutdown: list[Callable[[], object]] = []
        self._listening: list[hot.Listening] = []  # what is being served
        self._files: list[str] = []  # of unix sockets, to be removed
        self._making = _core.Mutex()  # whose holder makes _streams
        self._starting: hot.NewProgram | None = None
        self._may_restart = [None]  # taken by who does it
        self._at_serving: Callable[[], object] | None = None  # told once connections are accepted

    @property
    def draining(self) -> bool:
        """True from the start of a shutdown on: for the handler that load balancers ask.

            mux.handle("/ready", lambda w, r: 503 if server.draining else 200)
        """
        return self._drained_at is not None

    def register_on_shutdown(self, fn: Callable[[], object]) -> None:
        """Call fn() in a goroutine of its own when a shutdown stops accepting.

        For connections that the server does not know of any more: those that were hijacked.
        shutdown() does not wait for it.  Go: Server.RegisterOnShutdown.
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {type(fn).__name__}")
        self._at_shutdown.append(fn)

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
        sock = hot.inherited_socket(self._wanted) or _bind(self._wanted, self._backlog)
        if sock.family == socket.AF_UNIX:
            self._addr = self._wanted
            path = unix_sockaddr(self._addr[5:])
            if isinstance(path, str) and path[0] != "\0":  # abstract addresses have no file
                self._files.append(path)
        else:
            host, port = sock.getsockname()[:2]
            self._addr = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._socket = sock

    def serve(self, *listeners: Listener) -> None:
        """Serve until the server is shut down or closed.

        Without listeners it serves its address; where listen() was called before, that too.
        A listener is one of runtime.net's, as of net.listen() and net.activation_listeners(), or
        any object with accept() and close() whose connections have read(n), write(data), close(),
        set_read_deadline(seconds) and set_write_deadline(seconds) as those of runtime.net have: a
        read that fails at its deadline loses nothing.  They belong to the server from now on.
        What accept() raises ends serve(), but for errors of one connection or for want of
        resources: then it tries again after a while.

        In the main goroutine SIGINT and SIGTERM shut it down: requests in flight are
        finished, then serve() returns.  A second signal closes it at once.  Handlers
        the program has installed for these signals are left alone.  Where an exception
        ends serve(), say by Goroutine.cancel(), nothing is accepted any more and requests
        in flight are finished.

        Go: Server.Serve, Server.ListenAndServe.
        """
        if self._stopped:
            raise RuntimeError("the server was closed: make a new one")
        if self._socket is not None and self._socket.fileno() < 0:
            raise RuntimeError("the server is being served already")
        for listener in listeners:
            if not callable(getattr(listener, "accept", None)):
                raise TypeError(f"a listener is needed, not {type(listener).__name__}")
            if isinstance(listener, NetListener):
                listener.fileno()  # or ClosedError
        if not listeners:
            self.listen()
        self._contexts.begin()
        try:
            with self._signals():
                if self._socket is not None:
                    self._serve_socket(self._socket)
                for listener in listeners:
                    self._serve_listener(listener)
                hot.serving.append(self)
                for entry in self._listening:
                    hot.served(entry.fd)
                if self._at_serving is not None:
                    self._at_serving()
                if self._streams is not None:
                    self._streams.join()
                self._core.wait_closed(None)
        except BaseException:
            # As Go does: whatever ends serve(), nothing is accepted any more.
            self._stop()
            self._core.begin_shutdown()
            self._core.close_idle()
            raise
        finally:
            with suppress(ValueError):
                hot.serving.remove(self)
            if self._starting is not None:
                self._starting.kill()
        self._contexts.end(_CLOSED)

    def _make_streams(self) -> Streams:
        # Only now: TLS takes a while to import.
        from runtime._http.streams import Streams

        return Streams(self._core, self._stop, self._tls, *self._handshakes)

    def _over_streams(self) -> Streams:
        with self._making:
            if self._streams is None:
                self._streams = self._make_streams()
            return self._streams

    def _serve_socket(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        if self._streams is not None and self._tls is not None:
            from runtime._net.activation import listener_from_fd

            sock.detach()
            self._streams.add(listener_from_fd(fd))
        else:
            try:
                self._core.listen(fd)
            finally:
                sock.detach()  # whatever has come of it
        self._listening.append(hot.Listening(fd, self._wanted, None))

    def _serve_listener(self, listener: Listener) -> None:
        base: Any = listener
        while isinstance(base, ListenerOver):
            base = base._listener
        in_core = self._tls is None and type(listener) is NetListener
        # First: once it is served, others may end the server.
        if isinstance(base, NetListener):
            in_core = in_core and base.addr.network != "unixpacket"
            unlink, base._unlink = base._unlink, None
            if unlink is not None:
                self._files.append(unlink)
            where = base.addr
            if self._addr is None:
                self._addr = f"unix:{where}" if isinstance(where, UnixAddr) else str(where)
            fd = base._fd.detach() if in_core else base.fileno()
            self._listening.append(hot.Listening(fd, None, unlink, None if in_core else base))
        if not in_core:
            self._over_streams().add(listener)
            return
        self._core.listen(fd)

    def set_tls(self, tls: TLSSource) -> None:
        """Use another certificate, from the next handshake on.

            server.set_tls(("cert.pem", "key.pem"))     # the files have been renewed

        Connections that there are keep theirs.  Raises what the constructor raises, and then
        all stays as it was.
        """
        if self._streams is None or self._streams.certificates is None:
            raise RuntimeError("the server was made without tls")
        self._streams.certificates.set(tls)

    def shutdown(self, timeout: float | None = None, *, ctx: _Context | None = None) -> bool:
        """Stop accepting, finish requests in flight, close idle connections.

        For drain_delay seconds before that all goes on, but `draining` is true and responses
        say Connection: close, so that load balancers turn away.  Connections that have just
        become idle get half a second more, for a request that may be on its way.

        Returns True once all is done.  After timeout seconds, or when ctx, a context, has
        ended, what is left is closed, and the result is False.  Go: Server.Shutdown.
        """
        return self._shutdown(timeout, ctx, self._drain_delay)

    def _shutdown(
        self, timeout: float | None, ctx: _Context | None = None, delay: float = 0.0
    ) -> bool:
        end = math.inf if timeout is None else self._clock() + timeout
        try:
            self._drain(delay, end, ctx)
            self._stop()
            self._core.begin_shutdown()
            self._call_at_shutdown()
            for until in (min(end, self._clock() + _SETTLED), end):
                left = until - self._clock()
                if self._core.wait_closed(None if left == math.inf else max(left, 0), ctx=ctx):
                    return True
                self._core.close_idle()
        except Exception:
            if ctx is None or ctx.err() is None:
                raise
            self._stop()
            self._call_at_shutdown()
        self._abort()
        return False

    def _drain(self, delay: float, end: float, ctx: _Context | None) -> None:
        if self._drained_at is None:
            self._drained_at = self._clock() + delay
            if delay > 0:
                self._core.retire()
        left = min(self._drained_at, end) - self._clock()
        if left > 0:
            with suppress(TimeoutError, runtime.ChanClosed):
                self._hurry.recv(left, ctx=ctx)

    def _call_at_shutdown(self) -> None:
        while self._at_shutdown:
            with suppress(IndexError):  # several may shut down
                fn = self._at_shutdown.pop(0)
                runtime.go.named("http.on_shutdown")(fn)

    def close(self) -> None:
        """Close all listeners and connections at once.  Go: Server.Close.

        Handlers that run get ConnectionError from their next I/O; serve() returns without
        waiting for them.
        """
        self._stop()
        if not self._abort():
            self._core.wait_closed(None)

    def stats(self) -> dict[str, int]:
        """Connections by state, accepted connections, and requests served."""
        return self._core.stats()

    def _abort(self) -> bool:
        """Close all connections; False: that is not done yet."""
        with suppress(runtime.ChanClosed):
            self._hurry.close()
        try:
            return self._core.abort()
        finally:
            self._contexts.end(_CLOSED)

    def _restart(self) -> None:
        """Start the program anew; once that serves, shut all servers of this one down."""
        try:
            self._may_restart.pop()
        except IndexError:
            logger.warning("hot restart: another one is under way")
            return
        servers = list(hot.serving)
        new = problem = None
        try:
            if self.draining:
                problem = "a shutdown is under way"
            else:
                listening = [entry for server in servers for entry in server._listening]
                new = self._starting = hot.NewProgram(listening)
                # A signal may have come meanwhile; serve() looks at _starting when it ends.
                problem = "the server was stopped" if self._stopped else None
                problem = problem or runtime.blocking(new.wait_ready, self._hot_restart)
        except Exception as exc:
            problem = str(exc) or repr(exc)
        if problem is None and not self._stopped:
            assert new is not None
            self._starting = None
            new.release()
            logger.info("hot restart: process %d serves now", new.pid)
            for server in servers:
                server._stop(keep_files=True)
            for server in servers:
                if server is not self:
                    shutdown = runtime.go.named("http.Server.shutdown")
                    shutdown(server._shutdown, server._shutdown_timeout)
            self._shutdown(self._shutdown_timeout)
            return
        if new is not None:
            new.kill()
        self._starting = None
        self._may_restart.append(None)
        if not self._stopped:
            logger.error("hot restart failed, this program goes on: %s", problem)

    def _stop(self, keep_files: bool = False) -> None:
        self._stopped = True
        if self._streams is not None:
            self._streams.close()
        if self._socket is not None:
            # Bound but not yet served; once detached this closes nothing.
            self._socket.close()
        # Once only: the path may be another server's by then.
        files, self._files = self._files, []
        for path in files if not keep_files else ():
            with suppress(OSError):
                os.unlink(path)
        self._listening = []

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
                self._abort()  # serve() waits until it is done
            else:
                limit = self._shutdown_timeout
                if limit is not None:
                    limit += self._drain_delay
                runtime.go.named("http.Server.shutdown")(self.shutdown, limit)

        def restart(signum: int, frame: object) -> None:
            runtime.go.named("http.Server.restart")(self._restart)

        ours: dict[signal.Signals, Any] = {}
        for signum, default in (
            (signal.SIGINT, (_core._on_sigint, signal.default_int_handler)),
            (signal.SIGTERM, (signal.SIG_DFL,)),
        ):
            if signal.getsignal(signum) in default:
                ours[signum] = signal.signal(signum, stop)
        if self._hot_restart and signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
            ours[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, restart)
        try:
            yield
        finally:
            for signum, previous in ours.items():
                if signal.getsignal(signum) in (stop, restart):
                    signal.signal(signum, previous)


@overload
def handle(
    pattern: str, handler: Handler, *, name: str = "", use: Iterable[Middleware] = ()
) -> Handler: ...
@overload
def handle(
    pattern: str, *, name: str = "", use: Iterable[Middleware] = ()
) -> Callable[[Handler], Handler]: ...
def handle(
    pattern: str,
    handler: Handler | None = None,
    *,
    name: str = "",
    use: Iterable[Middleware] = (),
) -> Any:
    """Register a handler with the default mux; without handler, a decorator.

    Raises ValueError where the pattern is malformed or conflicts with another.
    Go: http.Handle.
    """
    if handler is None:
        return default_mux.handle(pattern, name=name, use=use)
    return default_mux.handle(pattern, handler, name=name, use=use)


handle_func = handle


def listen_and_serve(
    addr: str = ":8080",
    handler: Handler | None = None,
    *,
    workers: int | None = None,
    **options: Any,
) -> None:
    """Serve handler, or the default mux, on addr until SIGINT or SIGTERM.

    options are those of Server.  An address that cannot be bound ends the program with
    one line on stderr and status 1 (SystemExit); to handle that, use Server, whose
    listen() and serve() raise OSError.

    With workers=N, N forked processes serve the address, and this one, which must not have
    other threads, looks after them:

        http.listen_and_serve(":8080", mux, workers=4)

    One that dies is replaced, and so is one whose scheduler does not run for worker_timeout
    seconds (30). worker_max_requests=N, with worker_max_requests_jitter=M, replaces each
    worker after N to N + M requests. worker_boot_timeout (120) is how long one may take to begin.
    on_worker_start(id) is called in each before it serves. pid_file is where the process
    id is written to.  SIGHUP replaces all workers, SIGTTIN and SIGTTOU ask for one more or
    fewer, and no client notices. Limits, such as max_connections, are those of each worker.
    Goroutines that run before this call do not run in the workers.

    Go: http.ListenAndServe.
    """
    if workers is not None:
        from runtime._http.workers.serve import serve as serve_by_workers

        serve_by_workers(handler, addr, workers, options)
        return
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
        serve(mux, ":8080", workers=4)
    """
    listen_and_serve(addr, handler, **options)
