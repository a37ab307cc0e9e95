"""TLS on the standard library's ssl, over any connection.

OpenSSL works on memory: what the peer sends is fed into one buffer, and what OpenSSL wants to
send is taken from another.  There are these mutexes, taken in this order; all but the last may
be held while waiting for the peer:

    _handshake_turn  the handshake; whoever reads or writes has seen that it is done.  No turn to
                     read or write is needed for it: readers keep theirs until something comes,
                     which may be the answer to what a writer shall send after the handshake
    _read_turn    one read() at a time
    _write_turn   one write() at a time, and all that is sent is sent by who has it
    _feed_turn    reads from the connection into OpenSSL; whoever comes second finds that there
                  is something new, and looks at it first
    _ssl_lock     each call of OpenSSL; nobody waits for the peer with it

A read may have to send (answers to key updates), and a write may have to read (TLS 1.2).  A
reader must not wait until a writer can go on, for that may be when the peer has been read from.
So a reader that finds a writer under way leaves it the answer; who ends a write looks for such.

Nothing is read that nobody asked for, so a peer cannot make us keep more than one piece.
"""

from __future__ import annotations

import copy
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from runtime._core import Cancelled, ClosedError, Mutex, go, gosched
from runtime._net.addr import Addr, split_host_port
from runtime._net.dial import Control
from runtime._net.dial import dial as _dial
from runtime._net.listener import listen as _listen
from runtime._net.resolve import Resolver
from runtime._net.stream import (
    ListenerOver,
    Stream,
    StreamConn,
    StreamListener,
    UnexpectedEOFError,
    joined,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from runtime._core import _Context

_T = TypeVar("_T")

_Begun = tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]
ContextSource = ssl.SSLContext | Callable[[], ssl.SSLContext]

_PIECE = 65536  # bytes read from the connection at a time
_SLICE = 65536  # bytes encrypted before they are sent
_MUCH = 4 * _SLICE  # bytes to be sent; more than writers leave there
_ASKED = "_gosched_server_name"  # an attribute of SSLObjects
_GOODBYE = 5.0  # seconds that close() tries to say so; Go's


class TruncatedError(UnexpectedEOFError, ConnectionError):
    """The connection ended without TLS's close_notify: data may be missing.

    Go: io.ErrUnexpectedEOF.
    """

    def __init__(self, message: str) -> None:
        super().__init__(b"")
        self.args = (message,)


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """What the two sides have agreed upon.  Go: tls.ConnectionState."""

    version: str
    """ "TLSv1.3" or "TLSv1.2"."""
    cipher_suite: str
    """OpenSSL's name of it."""
    negotiated_protocol: str | None
    """The protocol chosen with ALPN."""
    did_resume: bool
    """An earlier session was taken up again."""
    peer_certificate: bytes | None
    """The peer's certificate, DER; None: it has shown none."""
    server_name: str | None = None
    """The name of the server that the client has asked for (SNI)."""


class SessionCache:
    """Sessions of clients, to be taken up again without a full handshake.

        sessions = net.tls.SessionCache()
        conn = net.dial_tls("tcp", "example.org:443", context=context, sessions=sessions)

    It is for connections with one ssl.SSLContext.  A session is kept when its connection is
    closed, and used for one more (RFC 8446, appendix C.4).  Of capacity servers the latest ones
    are kept.

    Go: tls.NewLRUClientSessionCache.
    """

    def __init__(self, capacity: int = 64) -> None:
        if capacity < 1:
            raise ValueError(f"SessionCache(capacity): it must be 1 or more, not {capacity}")
        self._capacity = capacity
        self._sessions: dict[str, ssl.SSLSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def _take(self, name: str) -> ssl.SSLSession | None:
        return self._sessions.pop(name, None)

    def _keep(self, name: str, session: ssl.SSLSession) -> None:
        self._sessions.pop(name, None)
        self._sessions[name] = session
        while len(self._sessions) > self._capacity:
            try:
                self._sessions.pop(next(iter(self._sessions)), None)
            except (RuntimeError, StopIteration):  # it changed in between
                pass


class TLSConn(Stream):
    """A TLS connection over another one; made by `client`, `server`, `dial_tls` or a listener.

    It is used as a `Conn` is.  The handshake is made by the first read or write, or by
    `handshake()`.  One goroutine may read while another writes; several readers or several
    writers take turns.  `close` wakes all of them with ClosedError.

    After a write that has failed, in time or otherwise, it is not known what the peer has got,
    and all further ones fail with the same error.

    Go: tls.Conn.
    """

    __slots__ = (
        "__weakref__",
        "_begin",
        "_broken",
        "_clock",
        "_closing",
        "_conn",
        "_ended",
        "_fed",
        "_feed_turn",
        "_handshake_deadline",
        "_handshake_timeout",
        "_handshake_turn",
        "_in",
        "_keep_session",
        "_no_more",
        "_out",
        "_read_deadline",
        "_read_turn",
        "_ready",
        "_rest",
        "_sent_end",
        "_ssl",
        "_ssl_lock",
        "_write_deadline",
        "_write_turn",
    )

    def __init__(
        self,
        conn: StreamConn,
        begin: Callable[[], _Begun],
        handshake_timeout: float | None,
        keep_session: Callable[[ssl.SSLSession], None] | None = None,
    ) -> None:
        self._conn = conn
        self._clock: Callable[[], float] = getattr(conn, "_clock", time.monotonic)
        self._begin = begin
        # From the handshake on: the SSLObject, what it reads, and what it has written.
        self._ssl: Any = None
        self._in: Any = None
        self._out: Any = None
        self._handshake_timeout = handshake_timeout
        self._keep_session = keep_session
        self._handshake_turn, self._read_turn, self._write_turn = Mutex(), Mutex(), Mutex()
        self._feed_turn, self._ssl_lock = Mutex(), Mutex()
        self._fed = 0  # pieces so far; guarded by _ssl_lock
        self._rest = b""  # to be read first; guarded by _ssl_lock
        self._no_more = False  # the peer has ended the connection; the same
        self._ready = False  # the handshake is done
        self._ended: Exception | None = None  # why nothing more can be read; EOFError: properly
        self._broken: BaseException | None = None  # why nothing more can be written
        self._sent_end = False
        self._closing = False
        # On _clock, that of the connection underneath.
        self._read_deadline: float | None = None
        self._write_deadline: float | None = None
        self._handshake_deadline: float | None = None

    # --- for everybody ------------------------------------------------------------------------

    @property
    def conn(self) -> StreamConn:
        """The connection underneath.  Go: tls.Conn.NetConn."""
        return self._conn

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """The standard library's object, to ask about details; None before the handshake."""
        ssl_object: ssl.SSLObject | None = self._ssl
        return ssl_object

    @property
    def local_addr(self) -> Addr:
        """The address of this end."""
        return self._conn.local_addr

    @property
    def remote_addr(self) -> Addr:
        """The address of the other end."""
        return self._conn.remote_addr

    @property
    def closed(self) -> bool:
        """True once close() was called."""
        return self._conn.closed

    def connection_state(self) -> ConnectionState:
        """What was agreed upon; makes the handshake first.  Go: tls.Conn.ConnectionState."""
        self.handshake()
        with self._ssl_lock:
            cipher = self._ssl.cipher()
            return ConnectionState(
                self._ssl.version() or "",
                cipher[0] if cipher else "",
                self._ssl.selected_alpn_protocol(),
                bool(self._ssl.session_reused),
                self._ssl.getpeercert(binary_form=True),
                self._ssl.server_hostname or getattr(self._ssl, _ASKED, None),
            )

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session, to be given to `client` later; with TLS 1.3 it comes with the first data."""
        with self._ssl_lock:
            return self._ssl.session if self._ready else None

    def handshake(self, timeout: float | None = None, *, ctx: _Context | None = None) -> None:
        """Make the handshake, unless that has been done.

        Raises ssl.SSLError (ssl.SSLCertVerificationError) if the two do not agree, TimeoutError
        after timeout seconds or the handshake_timeout or a deadline of the connection, the error
        of ctx, and what reading and writing raise.  After an error the connection is of no use.

        Go: tls.Conn.Handshake, tls.Conn.HandshakeContext.
        """
        if self._ready:
            return
        if ctx is not None and (ended := ctx.err()) is not None:
            raise ended
        deadline = self._point(timeout)
        self._handshake_turn.lock(timeout, ctx=ctx)
        try:
            if not self._ready:
                left = None if deadline is None else max(0.0, deadline - self._clock())
                self._handshake(left, ctx)
        finally:
            self._handshake_turn.unlock()

    def read(self, n: int = 65536, /) -> bytes:
        """Up to n bytes, as soon as there are some; b"" when the peer has ended properly.

        Raises TruncatedError if the connection ended otherwise.  Go: tls.Conn.Read.
        """
        if n < 0:
            raise ValueError(f"read(n): n must be 0 or more, not {n}")
        self.handshake()
        with self._read_turn:
            if n == 0:
                return b""
            data: bytes = self._read(lambda: self._ssl.read(n), n)
            return data

    def read_into(self, buffer: WriteableBuffer, /) -> int:
        """As read(), into a buffer; the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise BufferError("read_into() needs a buffer that can be written to")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def unread(self, data: bytes, /) -> None:
        """Put bytes back: the next read returns them first."""
        with self._ssl_lock:
            self._rest = data + self._rest

    def write(self, data: ReadableBuffer | list[Any] | tuple[Any, ...], /) -> int:
        """Send all the bytes, of a buffer or a list of some; returns how many those are.

        Go: tls.Conn.Write.
        """
        view = joined(data)
        self.handshake()
        with self._write_turn:
            if self.closed:
                raise ClosedError("write: use of closed network connection")
            if self._sent_end:
                raise BrokenPipeError("write: the TLS connection was closed for writing")
            for at in range(0, len(view), _SLICE):
                self._check_broken()
                piece = view[at : at + _SLICE]
                while piece:
                    piece = piece[self._encrypt(piece) :]
                self._send()
        if self._out.pending:  # a reader has left it
            self._answer()
        return len(view)

    def close_write(self) -> None:
        """Tell the peer that nothing more will be sent; reading goes on.

        Go: tls.Conn.CloseWrite.
        """
        self.handshake()
        with self._write_turn:
            if self.closed:
                raise ClosedError("close_write: use of closed network connection")
            self._check_broken()
            self._end()
            self._send()

    def close(self) -> None:
        """Tell the peer, if that is possible at once, and close the connection underneath.

        Twice is harmless.  Go: tls.Conn.Close.
        """
        if self._closing:
            self._conn.close()
            return
        self._closing = True
        try:
            if self._ready and self._broken is None and self._write_turn.try_lock():
                try:
                    self._conn.set_write_deadline(_GOODBYE)
                    self._end()
                    self._send()
                    if self._keep_session is not None and (session := self.session) is not None:
                        self._keep_session(session)
                except (OSError, EOFError):
                    pass
                finally:
                    self._write_turn.unlock()
        finally:
            self._conn.close()

    def set_deadline(self, seconds: float | None, /) -> None:
        """Let reads and writes fail with TimeoutError from so many seconds from now on."""
        self._read_deadline = self._write_deadline = self._point(seconds)
        self._set_deadlines()

    def set_read_deadline(self, seconds: float | None, /) -> None:
        """As set_deadline(), for reads only."""
        self._read_deadline = self._point(seconds)
        self._set_deadlines(write=False)

    def set_write_deadline(self, seconds: float | None, /) -> None:
        """As set_deadline(), for writes only."""
        self._write_deadline = self._point(seconds)
        self._set_deadlines(read=False)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open" if self._ready else "before its handshake"
        return f"<TLSConn {state} -> {self.remote_addr}>"

    # --- the handshake ------------------------------------------------------------------------

    def _handshake(self, timeout: float | None, ctx: _Context | None) -> None:
        self._check_broken()
        if self.closed:
            raise ClosedError("handshake: use of closed network connection")
        limits = [t for t in (timeout, self._handshake_timeout) if t is not None]
        if limits:
            self._handshake_deadline = self._clock() + min(limits)
            self._set_deadlines()
        watcher = None if ctx is None else go(self._watch, ctx)
        try:
            self._ssl, self._in, self._out = self._begin()
            self._read(self._ssl.do_handshake, 0)
            self._ready = True
        except BaseException as e:
            self._broken = self._broken or e
            if ctx is not None and (ended := ctx.err()) is not None:
                raise ended from e
            if isinstance(e, TimeoutError):
                raise TimeoutError(f"TLS handshake with {self.remote_addr}: the time is up") from e
            raise
        finally:
            if watcher is not None:
                watcher.cancel()
                while not watcher.done():
                    gosched()
            if limits or watcher is not None:
                self._handshake_deadline = None
                try:
                    self._set_deadlines()
                except ClosedError:
                    pass

    def _watch(self, ctx: _Context) -> None:
        done = ctx.done()
        if done is not None:
            try:
                done.recv_ok()
                self._conn.set_deadline(0)
            except (Cancelled, ClosedError):
                pass

    def _point(self, seconds: float | None) -> float | None:
        return None if seconds is None else self._clock() + seconds

    def _set_deadlines(self, read: bool = True, write: bool = True) -> None:
        # Others may change them meanwhile: of those who apply, the last has seen the last change.
        while True:
            seen = (self._handshake_deadline, self._read_deadline, self._write_deadline)
            limit, now = seen[0], self._clock()
            for wanted, point, apply in (
                (read, seen[1], self._conn.set_read_deadline),
                (write, seen[2], self._conn.set_write_deadline),
            ):
                if wanted:
                    points = [p for p in (point, limit) if p is not None]
                    apply(max(0.0, min(points) - now) if points else None)
            if seen == (self._handshake_deadline, self._read_deadline, self._write_deadline):
                return

    # --- between OpenSSL and the connection ---------------------------------------------------

    def _read(self, operation: Callable[[], _T], n: int) -> Any:
        """Do what needs something from the peer: a read of n bytes, or else a handshake."""
        while True:
            with self._ssl_lock:
                if n and self.closed:
                    raise ClosedError("read: use of closed network connection")
                if n and self._rest:
                    data, self._rest = self._rest[:n], self._rest[n:]
                    return data
                pending = self._out.pending
                if self._ended is not None:
                    if type(self._ended) is EOFError:
                        return b""
                    raise copy.copy(self._ended)
                fed = self._fed
                try:
                    result = operation()
                    wants = False
                except ssl.SSLWantReadError:
                    wants = True
                except ssl.SSLZeroReturnError:
                    self._ended = EOFError()
                    continue
                except ssl.SSLEOFError:
                    self._ended = self._truncated()
                    continue
                except ssl.SSLError as e:
                    self._ended = self._explained(e)
                    break
                answers = self._out.pending > pending
            if not self._ready:
                self._send()
            elif answers:
                self._answer()
            if not wants:
                return result
            self._feed(fed)
        try:  # the alert
            if self._ready:
                self._answer()
            else:
                self._send()
        except OSError:
            pass
        raise copy.copy(self._ended)

    def _encrypt(self, data: memoryview) -> int:
        """Have OpenSSL take some of the data; how much."""
        while True:
            with self._ssl_lock:
                fed = self._fed
                try:
                    sent: int = self._ssl.write(data)
                    return sent
                except ssl.SSLWantReadError:  # TLS 1.2, in a handshake that the peer has begun
                    pass
                except ssl.SSLError as e:
                    self._broken = self._explained(e)
                    raise
            self._send()
            self._feed(fed)

    def _truncated(self) -> TruncatedError:
        how = "without close_notify: data may be missing" if self._ready else "in its handshake"
        return TruncatedError(f"TLS with {self.remote_addr}: the peer ended the connection {how}")

    def _explained(self, e: ssl.SSLError) -> ssl.SSLError:
        hint = ""
        if e.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
            hint = " (the peer does not seem to speak TLS)"
        e.strerror = f"TLS with {self.remote_addr}: {e.strerror}{hint}"
        e.args = (e.errno, e.strerror)
        return e

    def _feed(self, fed: int) -> None:
        """Read more from the peer, unless somebody has since so many pieces had been."""
        with self._feed_turn:
            if self._fed != fed:
                return
            data = self._conn.read(_PIECE)
            try:
                self._ssl_lock.lock()
            except BaseException:
                self._conn.unread(data)
                raise
            try:
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
                    self._no_more = True
                self._fed += 1
            finally:
                self._ssl_lock.unlock()

    def _answer(self) -> None:
        """Send what a read has made OpenSSL want to send.  Failing that is the writers' affair."""
        while self._out.pending and self._broken is None:
            if self._out.pending > _MUCH:  # a peer that wants answers and takes none
                self._write_turn.lock()
            elif not self._write_turn.try_lock():
                return
            try:
                self._send()
            except OSError:
                return
            finally:
                self._write_turn.unlock()

    def _send(self) -> None:
        """Send all that OpenSSL wants to send.  The caller has the turn to write."""
        while self._out.pending:
            self._check_broken()
            with self._ssl_lock:
                data = self._out.read()
            try:
                self._conn.write(data)
            except BaseException as e:
                self._broken = e  # how much of it was sent is not known
                raise

    def _end(self) -> None:
        """Have OpenSSL write close_notify.  The caller has the turn to write."""
        with self._ssl_lock:
            if self._sent_end:
                return
            self._sent_end = True
            # It also looks for the peer's, and must not find anything else.
            try:
                while self._no_more or self._ssl.pending():
                    self._rest += self._ssl.read(_PIECE)
            except ssl.SSLZeroReturnError:
                self._ended = EOFError()
            except ssl.SSLError:
                self._ended = self._truncated() if self._no_more else None
            came = self._in.read()
            try:
                self._ssl.unwrap()
            except ssl.SSLError:
                pass
            if came:
                self._in.write(came)

    def _check_broken(self) -> None:
        e = self._broken
        if e is None:
            return
        if self.closed:
            raise ClosedError("write: use of closed network connection")
        if isinstance(e, TimeoutError):
            raise TimeoutError("write: the time was up in an earlier write") from e
        if isinstance(e, Exception):
            raise copy.copy(e)
        raise BrokenPipeError("write: an earlier write was cancelled") from e


# --- making them --------------------------------------------------------------------------------


@cache
def _default_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def client(
    conn: StreamConn,
    context: ssl.SSLContext | None = None,
    *,
    server_hostname: str | None = None,
    session: ssl.SSLSession | None = None,
    sessions: SessionCache | None = None,
    handshake_timeout: float | None = None,
) -> TLSConn:
    """The client's side of TLS over a connection, which now belongs to it.

    context is an ssl.SSLContext; None: ssl.create_default_context(), which trusts what the
    system trusts.  TLS 1.2 is the least that the contexts of Python allow by default.
    server_hostname is the name that the server's certificate must be for, and is told to the
    server (SNI).  session is one of an earlier connection with the same context; sessions
    remembers them.  handshake_timeout is the time in seconds that the handshake may take.

    Raises ValueError if the context does not go with the rest.

    Go: tls.Client.
    """
    context = context or _default_context()
    if session is None and sessions is not None and server_hostname is not None:
        session = sessions._take(server_hostname)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    begun = context.wrap_bio(incoming, outgoing, server_hostname=server_hostname, session=session)

    def keep(session: ssl.SSLSession) -> None:
        if sessions is not None and server_hostname is not None and session.has_ticket:
            sessions._keep(server_hostname, session)

    return TLSConn(conn, lambda: (begun, incoming, outgoing), handshake_timeout, keep)


def server(
    conn: StreamConn, context: ContextSource, *, handshake_timeout: float | None = 10.0
) -> TLSConn:
    """The server's side of TLS over a connection, which now belongs to it.

    context is an ssl.SSLContext, or a function that returns one, called when the handshake
    begins.  handshake_timeout is the time in seconds that the handshake may take.

    Go: tls.Server; tls.Config.GetConfigForClient.
    """
    _check_context(context)

    def begin() -> _Begun:
        now = context if isinstance(context, ssl.SSLContext) else context()
        _note_server_names(now)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        return now.wrap_bio(incoming, outgoing, server_side=True), incoming, outgoing

    return TLSConn(conn, begin, handshake_timeout)


def _note_server_names(context: ssl.SSLContext) -> None:
    """Have the context note of each connection which name the client has asked for."""
    callback = context.sni_callback
    if type(callback) is not _ServerNames:
        context.sni_callback = _ServerNames(callback)


class _ServerNames:
    def __init__(self, then: Callable[[Any, Any, Any], int | None] | None) -> None:
        self.then = then

    def __call__(self, ssl_object: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        if name is not None:
            setattr(ssl_object, _ASKED, name)
        return None if self.then is None else self.then(ssl_object, name, context)


def _check_context(context: object) -> None:
    if not isinstance(context, ssl.SSLContext) and not callable(context):
        kind = type(context).__name__
        raise TypeError(f"context must be an ssl.SSLContext, or return one, not {kind}")
    if isinstance(context, ssl.SSLContext) and context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("the context is one for clients: ssl.PROTOCOL_TLS_SERVER is needed")


class TLSListener(ListenerOver[TLSConn]):
    """Accepts TLS connections; made by `listen`, or of a listener that there is.

        with net.tls.listen("tcp", ":443", context) as listener:
            for conn in listener:
                runtime.go(serve, conn)

    accept() does not wait for the handshake, which is left to the goroutine that uses the
    connection, and must be done within handshake_timeout seconds from when that begins.

    Go: the net.Listener of tls.NewListener.
    """

    def __init__(
        self,
        listener: StreamListener,
        context: ContextSource,
        *,
        handshake_timeout: float | None = 10.0,
    ) -> None:
        _check_context(context)
        self._listener = listener
        self._context = context
        self._handshake_timeout = handshake_timeout

    @property
    def listener(self) -> StreamListener:
        """The listener underneath."""
        return self._listener

    def set_context(self, context: ContextSource) -> None:
        """Use another context, for instance with a new certificate, from the next handshake on.

        Connections that there are go on with the one they have.
        """
        _check_context(context)
        self._context = context

    def _now(self) -> ssl.SSLContext:
        context = self._context
        return context if isinstance(context, ssl.SSLContext) else context()

    def accept(self, timeout: float | None = None, *, ctx: _Context | None = None) -> TLSConn:
        """Wait for the next connection; see Listener.accept."""
        conn = self._listener.accept(timeout, ctx=ctx)
        try:
            return server(conn, self._now, handshake_timeout=self._handshake_timeout)
        except BaseException:
            conn.close()
            raise

    def __repr__(self) -> str:
        return f"<TLSListener {self._listener!r}>"


def listen(
    network: str,
    address: str,
    context: ContextSource,
    *,
    handshake_timeout: float | None = 10.0,
    reuse_port: bool = False,
    backlog: int | None = None,
    keep_alive: float | None = 15.0,
    control: Control | None = None,
) -> TLSListener:
    """Listen for TLS connections.

    context is an ssl.SSLContext with a certificate, or a function that returns one, called for
    each handshake; so certificates can be renewed without a restart, as they can with
    `TLSListener.set_context` or by loading them into the same context once more.  The other
    arguments and the errors are those of `server` and of `net.listen`.

    Go: tls.Listen.
    """
    _check_context(context)
    listener = _listen(
        network,
        address,
        reuse_port=reuse_port,
        backlog=backlog,
        keep_alive=keep_alive,
        control=control,
    )
    return TLSListener(listener, context, handshake_timeout=handshake_timeout)


def dial_tls(
    network: str,
    address: str,
    *,
    context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    sessions: SessionCache | None = None,
    timeout: float | None = None,
    ctx: _Context | None = None,
    local_addr: str | None = None,
    keep_alive: float | None = 15.0,
    control: Control | None = None,
    resolver: Resolver | None = None,
) -> TLSConn:
    """Connect to an address and make the TLS handshake.

        with net.dial_tls("tcp", "example.org:443", timeout=5) as conn:
            conn.write(b"...")

    server_hostname is the host of the address where it is not given.  timeout and ctx are for
    all of it, handshake included.  The other arguments and the errors are those of `dial` and of
    `client`.

    Go: tls.Dial, tls.Dialer.DialContext.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if server_hostname is None and network.startswith("tcp"):
        host = split_host_port(address)[0].partition("%")[0]
        server_hostname = host or "localhost"
    conn = _dial(
        network,
        address,
        timeout=timeout,
        ctx=ctx,
        local_addr=local_addr,
        keep_alive=keep_alive,
        control=control,
        resolver=resolver,
    )
    try:
        tls = client(conn, context, server_hostname=server_hostname, sessions=sessions)
        tls.handshake(None if deadline is None else max(0.0, deadline - time.monotonic()), ctx=ctx)
        return tls
    except BaseException:
        conn.close()
        raise
