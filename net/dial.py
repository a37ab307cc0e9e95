"""Outgoing connections.

Of several addresses the next one is tried when the one before has failed or taken 250 ms, and
the first connection wins (RFC 8305, happy eyeballs).  Each attempt is a goroutine.  There is
one prize: whoever takes it decides, an attempt that has connected, or the one who dials and
gives up.  So there is never more than one connection that somebody must take care of.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime._core import Chan, Goroutine, go
from runtime._net.addr import (
    AddrError,
    from_sockaddr,
    lookup_port,
    split_host_port,
    unix_sockaddr,
)
from runtime._net.conn import Conn, TCPConn, UDPConn, adopt, keep_alive_options, open_socket
from runtime._net.resolve import Resolver, Target, literal, resolve
from runtime._net.waits import io_chan, passes

if TYPE_CHECKING:
    from runtime._core import _Context

Control = Callable[[str, str, int], object]
_Local = dict[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]

_ATTEMPT_DELAY = 0.25  # seconds; RFC 8305, section 5
_KEEP_ALIVE = 15.0  # seconds; Go's
_LOCAL = {
    "tcp": [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)],
    "tcp4": [("127.0.0.1", socket.AF_INET)],
    "tcp6": [("::1", socket.AF_INET6)],
}
_LOCAL |= {"udp" + network[3:]: hosts for network, hosts in _LOCAL.items()}
_UNIX = {
    "unix": socket.SOCK_STREAM,
    "unixpacket": socket.SOCK_SEQPACKET,
    "unixgram": socket.SOCK_DGRAM,
}


_Failure = tuple[Target, BaseException]


@dataclass(slots=True)
class _Options:
    """How to make sockets."""

    local: _Local | None
    keep_alive: Sequence[tuple[int, int, int]]  # arguments of setsockopt()
    control: Control | None


def dial(
    network: str,
    address: str,
    *,
    timeout: float | None = None,
    ctx: _Context | None = None,
    local_addr: str | None = None,
    keep_alive: float | None = _KEEP_ALIVE,
    control: Control | None = None,
    resolver: Resolver | None = None,
) -> Conn:
    """Connect to an address.

        conn = net.dial("tcp", "example.org:80", timeout=5)

    network is "tcp" (IPv4 or IPv6), "tcp4", "tcp6", "udp", "udp4", "udp6", "unix", "unixpacket"
    or "unixgram".  address is "host:port", or the path of a unix socket ("@name": Linux's
    abstract name space).  An empty host is this machine.  A zone may follow an IPv6 address:
    "[fe80::1%eth0]:80".

    The addresses of a name are tried in turn, IPv6 and IPv4 alternately: the next one when the
    one before has failed, or is not connected after 250 ms.  The first connection wins, and the
    other attempts are closed.

    timeout, in seconds, and ctx, a context, are for the whole of it, name lookup included;
    they do not limit what is done with the connection later.

    local_addr is the address of this end, "host:port" with a literal host, or a path; port 0 or
    an empty host is chosen by the system.  keep_alive is that of `Conn.set_keep_alive`.
    control(network, address, fd) is called for each socket before it connects, with the numeric
    address, and may set options of the descriptor.  resolver looks up the name instead of
    `default_resolver()`.

    Raises AddrError for a senseless address, socket.gaierror for an unknown name, TimeoutError,
    the error of ctx, ConnectionRefusedError and other OSErrors, with the address in the
    message.  Where several addresses have failed it is of the first one's kind, tells of all,
    and has the errors in an ExceptionGroup as its cause.

    Go: net.Dial, net.Dialer.DialContext.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if ctx is not None and (ended := ctx.err()) is not None:
        raise ended
    if network in _UNIX:
        return _dial_unix(network, address, deadline, ctx, local_addr, control)
    if network not in _LOCAL:
        raise AddrError(f"unknown network {network}")
    targets = resolve(network, address, timeout, ctx, resolver)
    if not targets[0].sockaddr[0]:
        port = targets[0].sockaddr[1]
        targets = [Target(family, (host, port)) for host, family in _LOCAL[network]]
    local = None
    if local_addr is not None:
        local = _local(local_addr)
        targets = [target for target in targets if target.family in local]
        if not targets:
            raise AddrError(f"address {address}: none of the kind of {local_addr}")
    times = [] if keep_alive is None else keep_alive_options(keep_alive)
    options = _Options(local, times if network.startswith("tcp") else [], control)
    if len(targets) > 1:
        return _Race(network, address, options).run(_interleave(targets), deadline, ctx)
    try:
        return _dial_ip(network, targets[0], options, deadline, ctx)
    except OSError as e:
        if ctx is not None and ctx.err() is not None:
            raise
        raise _error(address, [(targets[0], e)]) from None


def _local(address: str) -> _Local:
    """What to bind sockets to, by family; one that is missing has no such address."""
    host, service = split_host_port(address)
    port = lookup_port(service)
    if not host:
        return {socket.AF_INET: ("0.0.0.0", port), socket.AF_INET6: ("::", port, 0, 0)}
    target = literal(host, port)
    if target is None:
        raise AddrError(f"local address {address}: the host must be an IP address")
    return {target.family: target.sockaddr}


def _interleave(targets: Iterable[Target]) -> list[Target]:
    """RFC 8305, section 4: the families alternate, the first one's first."""
    families: dict[int, list[Target]] = {}
    for target in targets:
        families.setdefault(target.family, []).append(target)
    queues = [queue[::-1] for queue in families.values()]
    order = []
    while queues:
        order += [queue.pop() for queue in queues]
        queues = [queue for queue in queues if queue]
    return order


# --- several attempts ---------------------------------------------------------------------------


class _Begin:
    """Tells if there was no memory to start the goroutine of an attempt."""

    def __init__(self, target: Target, errors: list[_Failure], news: Chan[Conn | None]) -> None:
        self._target, self._errors, self._news = target, errors, news
        self.done = False

    def __del__(self) -> None:
        if not self.done:
            self._errors.append((self._target, MemoryError("no memory for an attempt to connect")))
            self._news.try_send(None)


class _Race:
    """Attempts to connect to one of several addresses."""

    def __init__(self, network: str, address: str, options: _Options) -> None:
        self._network, self._address, self._options = network, address, options
        self._prize = [None]
        self._errors: list[_Failure] = []

    def run(self, targets: list[Target], deadline: float | None, ctx: _Context | None) -> Conn:
        news: Chan[Conn | None] = io_chan(len(targets))  # a connection, or None: one has failed
        attempts: list[Goroutine[None]] = []
        won = False
        try:
            waiting = targets[::-1]
            while waiting or len(self._errors) < len(targets):
                if waiting:
                    target = waiting.pop()
                    start = go.named(f"dial {_text(target)}")
                    begin = _Begin(target, self._errors, news)
                    attempts.append(start(self._attempt, target, news, begin))
                    del begin
                wait = _left(deadline, self._errors, self._address)
                if waiting:
                    wait = _ATTEMPT_DELAY if wait is None else min(wait, _ATTEMPT_DELAY)
                conn = _next(news, wait, ctx)
                if conn is not None:
                    won = True
                    return conn
        finally:
            if not won:
                self._give_up(news)
            for attempt in attempts:
                attempt.cancel()
        raise _error(self._address, self._errors)

    def _attempt(self, target: Target, news: Chan[Conn | None], begin: _Begin) -> None:
        begin.done = True
        conn = None
        try:
            conn = _dial_ip(self._network, target, self._options, None, None)
            self._prize.pop()
        except IndexError:  # too late
            if conn is not None:
                conn.close()
        except BaseException as e:
            self._errors.append((target, e))
            news.try_send(None)
        else:
            news.try_send(conn)

    def _give_up(self, news: Chan[Conn | None]) -> None:
        try:
            self._prize.pop()
            return
        except IndexError:  # somebody has just won
            pass
        while (conn := news.recv()) is None:
            pass
        conn.close()


def _next(news: Chan[Conn | None], wait: float | None, ctx: _Context | None) -> Conn | None:
    try:
        return news.recv(wait, ctx=ctx)
    except TimeoutError:
        if ctx is not None and ctx.err() is not None:  # the error is the context's
            raise
        return None


def _left(deadline: float | None, errors: list[_Failure], address: str) -> float | None:
    """The seconds until the deadline."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left > 0:
        return left
    texts = ["the time is up", *(f"{_text(target)}: {_reason(e)}" for target, e in errors)]
    raise TimeoutError(errno.ETIMEDOUT, "; ".join(texts), address)


def _error(address: str, errors: list[_Failure]) -> BaseException:
    """What to raise for the failed attempts to reach an address."""
    for _, e in errors:
        if not isinstance(e, OSError):
            return e
    first = errors[0][1]
    assert isinstance(first, OSError)
    if len(errors) == 1:
        return OSError(first.errno, first.strerror, address)
    texts = [f"{_text(target)}: {_reason(e)}" for target, e in errors]
    error = OSError(first.errno, "; ".join(texts), address)
    error.__cause__ = BaseExceptionGroup(
        f"attempts to connect to {address}", [e for _, e in errors]
    )
    return error


def _reason(e: BaseException) -> str:
    return getattr(e, "strerror", None) or str(e) or type(e).__name__


def _text(target: Target) -> str:
    return str(from_sockaddr(target.sockaddr))


# --- one attempt --------------------------------------------------------------------------------


def _dial_ip(
    network: str,
    target: Target,
    options: _Options,
    deadline: float | None,
    ctx: _Context | None,
) -> Conn:
    conn = _connect(network, target, options, deadline, ctx)
    # A connection to a free port of this machine may be given that very port as its own, and
    # then be connected with itself.
    for _ in range(2):
        if options.local is not None or conn.getsockname() != conn.peer:
            break
        conn.close()
        conn = _connect(network, target, options, deadline, ctx)
    return conn


def _connect(
    network: str,
    target: Target,
    options: _Options,
    deadline: float | None,
    ctx: _Context | None,
) -> Conn:
    tcp = network.startswith("tcp")
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    conn = (TCPConn if tcp else UDPConn).new_socket(target.family, kind, target.sockaddr)
    try:
        if tcp:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in options.keep_alive:
            conn.setsockopt(*option)
        if options.control is not None:
            version = "4" if target.family == socket.AF_INET else "6"
            options.control(network[:3] + version, _text(target), conn.fileno())
        if options.local is not None:
            conn.bind(options.local[target.family])
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        conn.connect(left, ctx=ctx)
    except TimeoutError as e:
        conn.close()
        if e.errno or (ctx is not None and ctx.err() is not None):
            raise
        raise TimeoutError(errno.ETIMEDOUT, "the time is up") from None
    except BaseException:
        conn.close()
        raise
    return conn


def _dial_unix(
    network: str,
    path: str,
    deadline: float | None,
    ctx: _Context | None,
    local_addr: str | None,
    control: Control | None,
) -> Conn:
    sockaddr = unix_sockaddr(path)
    pause = 0.001
    s = open_socket(socket.AF_UNIX, _UNIX[network])
    try:
        s.setblocking(False)
        if control is not None:
            control(network, path, s.fileno())
        try:
            if local_addr is not None:
                s.bind(unix_sockaddr(local_addr))
            while (code := s.connect_ex(sockaddr)) == errno.EAGAIN:
                # The listener's queue is full, and nothing tells when it is not.
                left = _left(deadline, [], path)
                passes(io_chan(), pause if left is None else min(pause, left), ctx)
                pause = min(2 * pause, 0.1)
        except OSError as e:
            if e.errno is None:  # the socket module's own: the path is too long
                raise AddrError(f"{path}: {e}") from None
            raise
        if code != 0:
            raise OSError(code, f"connect: {os.strerror(code)}", path)
        return adopt(s, sockaddr)
    except BaseException:
        s.close()
        raise
