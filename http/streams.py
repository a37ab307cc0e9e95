"""Serving listeners whose connections are stream objects: TLS, the PROXY protocol, one's own.

Sockets of a plain listener are accepted and served in C (csrc/py_http_listen.c). For any other
listener a goroutine accepts, and each connection has a goroutine of its own, which first makes the
TLS handshake and finds out who the client is, then serves it (csrc/py_http_stream.c).
"""

from __future__ import annotations

import errno
import logging
import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Union

from runtime._core import Chan, ChanClosed, ClosedError, Semaphore, WaitGroup, gosched
from runtime._net import tls
from runtime._net.listener import FIRST_PAUSE, LONGEST_PAUSE, SHORTAGE
from runtime._net.proxyproto import ProxyError
from runtime._net.waits import passes

if TYPE_CHECKING:
    from runtime._core import HTTPServer, HTTPStream

logger = logging.getLogger("runtime.http")

_PASSING = (*SHORTAGE, errno.EPROTO, errno.EINTR)

_NOT_TLS = (
    b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\n"
    b"Client sent an HTTP request to an HTTPS server.\n"
)


class Listener(Protocol):
    """What Server.serve() takes: net.Listener, and whatever can do the same."""

    def accept(self) -> Any: ...
    def close(self) -> None: ...


CertAndKey = tuple[Union[str, "os.PathLike[str]"], Union[str, "os.PathLike[str]"]]
TLSSource = ssl.SSLContext | CertAndKey | Callable[[], ssl.SSLContext]


class Certificates:
    """Where a server's TLS contexts come from."""

    def __init__(self, source: TLSSource) -> None:
        self._ready: ssl.SSLContext | None = None  # the one that was prepared last
        self.set(source)

    def set(self, source: TLSSource) -> None:
        if isinstance(source, tuple) and len(source) == 2:
            source = _load(*source)
        if isinstance(source, ssl.SSLContext):
            self._prepare(source)
        elif not callable(source):
            raise TypeError(
                "tls must be an ssl.SSLContext, a function that returns one, or the paths of a "
                f"certificate and its key, not {type(source).__name__}"
            )
        self._source: ssl.SSLContext | Callable[[], ssl.SSLContext] = source

    def __call__(self) -> ssl.SSLContext:
        """The context for the next handshake."""
        source = self._source
        if isinstance(source, ssl.SSLContext):
            return source
        try:
            context = source()
        except Exception:
            logger.exception("there is no certificate for a TLS handshake")
            raise
        if context is not self._ready:
            self._prepare(context)
        return context

    def _prepare(self, context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(["http/1.1"])
        self._ready = context


def _load(cert: str | os.PathLike[str], key: str | os.PathLike[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for what, path in (("certificate", cert), ("key", key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as e:
            raise OSError(e.errno, f"cannot read the {what}: {e.strerror}", str(path)) from None
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as e:
        raise ValueError(
            f"{cert} and {key} are no certificate and its key, in PEM: {e.reason or e}"
        ) from None
    return context


class _Start:
    """Tells if there was no memory to start the goroutine that it is given to."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.made = False

    def __del__(self) -> None:
        if not self.made:
            self._streams._end(MemoryError("there is no memory for a goroutine that accepts"))


class Streams:
    """The listeners of a server, and how those are served that C does not serve by itself."""

    def __init__(
        self,
        core: HTTPServer,
        stop: Callable[[], None],
        tls_source: TLSSource | None,
        handshake_timeout: float | None,
        max_handshakes: int,
    ) -> None:
        self._core = core
        self._stop = stop
        self.certificates = None if tls_source is None else Certificates(tls_source)
        self._handshake_timeout = handshake_timeout
        self._handshakes = Semaphore(max_handshakes)
        self._listeners: list[Listener] = []
        self._stopping: Chan[None] = Chan()
        self._accepting = WaitGroup()
        self._failures: list[BaseException] = []

    def add(self, listener: Listener) -> None:
        """Accept and serve its connections, from now on."""
        self._listeners.append(listener)
        if self.certificates is not None and not isinstance(listener, tls.TLSListener):
            # Without a time of its own: see _serve().
            listener = tls.TLSListener(listener, self.certificates, handshake_timeout=None)  # type: ignore[arg-type]
        if self._stopping.closed:
            listener.close()  # close() may not have seen it
        self._core.attach()
        self._accepting.add()
        self._core.spawn(self._accept, listener, _Start(self))

    def join(self) -> None:
        """Wait until all listeners are closed.  Raises what accept() of one of them raised."""
        self._accepting.wait()
        for failure in self._failures:
            raise failure

    def _end(self, failure: BaseException | None) -> None:
        """A listener is accepted from no more."""
        try:
            if failure is not None:
                self._failures.append(failure)
                # As Go does: whatever ends the server's loop, nothing is accepted any more.
                self._stop()
                self._core.begin_shutdown()
        finally:
            self._accepting.done()

    def close(self) -> None:
        """Close all listeners; any thread."""
        try:
            self._stopping.close()
        except ChanClosed:
            pass
        for listener in self._listeners:
            try:
                listener.close()
            except Exception:  # whatever it is, the others are closed, too
                logger.exception("closing a listener failed")

    def _accept(self, listener: Listener, start: _Start) -> None:
        start.made = True
        failure: BaseException | None = None
        try:
            self._accept_all(listener)
        except BaseException as e:
            failure = e
        finally:
            self._end(failure)

    def _accept_all(self, listener: Listener) -> None:
        pause = 0.0
        while not self._stopping.closed:
            conn = None
            try:
                conn = listener.accept()
                pause = 0.0
                stream = self._core.admit(conn)
                if stream is None:
                    conn.close()
                    return
                stream.spawn(self._serve, stream, conn)
            except ClosedError:
                return
            except (OSError, EOFError, MemoryError) as e:
                if conn is not None:
                    conn.close()
                if self._stopping.closed:
                    return
                if not _passes(e):
                    raise
                pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
                try:
                    logger.warning("accept() failed: %r; again in %.0f ms", e, pause * 1000)
                    passes(self._stopping, pause, None)
                except MemoryError:
                    gosched()

    def _serve(self, stream: HTTPStream, conn: Any) -> None:
        """The goroutine of a connection."""
        state: tls.ConnectionState | None = None
        try:
            if hasattr(conn, "handshake"):
                with self._handshakes:
                    conn.handshake(self._handshake_timeout)
                state = conn.connection_state()
            remote_addr = str(getattr(conn, "remote_addr", None) or "") or "@"
        except BaseException as e:
            try:
                # An SSLError that was not made by OpenSSL has no reason.
                if getattr(e, "reason", None) in ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"):
                    _tell_no_tls(conn)
            finally:
                stream.abandon()
            if not isinstance(e, (OSError, EOFError, MemoryError)):
                raise
            logger.debug("a connection ended before its first request: %s", e)
            return
        # "h2" would branch off here.
        if state is not None and state.negotiated_protocol not in (None, "http/1.1", "http/1.0"):
            logger.debug("no one speaks %s here", state.negotiated_protocol)
            stream.abandon()
            return
        try:
            stream.serve(remote_addr, state)
        except Exception:
            logger.exception("a connection failed")


def _passes(e: BaseException) -> bool:
    """Is it the affair of one connection, or of a moment?"""
    kinds = (ConnectionError, TimeoutError, ssl.SSLError, ProxyError, EOFError, MemoryError)
    return isinstance(e, kinds) or (isinstance(e, OSError) and e.errno in _PASSING)


def _tell_no_tls(conn: Any) -> None:
    """As Go does.  The handshake has sent nothing yet."""
    raw = getattr(conn, "conn", None)
    if raw is not None:
        try:
            raw.set_write_deadline(1.0)
            raw.write(_NOT_TLS)
        except (OSError, EOFError):
            pass


__all__ = ["CertAndKey", "Certificates", "Listener", "Streams", "TLSSource"]
