"""Listeners."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime._core import Chan, ChanClosed, ClosedError, NetFD
from runtime._net.addr import Addr, AddrError, UnixAddr, from_sockaddr, unix_sockaddr
from runtime._net.conn import (
    Conn,
    conn_type,
    doing,
    duplicate,
    keep_alive_options,
    open_socket,
)
from runtime._net.resolve import Target, resolve
from runtime._net.stream import Accepting
from runtime._net.waits import io_chan, passes

if TYPE_CHECKING:
    from runtime._core import _Context

Control = Callable[[str, str, int], object]

# What accept() fails with while the process or the system is short of something: it passes.
SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
FIRST_PAUSE = 0.005  # seconds; doubled up to LONGEST_PAUSE
LONGEST_PAUSE = 1.0
_KEEP_ALIVE = 15.0  # seconds; Go's
_UNIX = {"unix": socket.SOCK_STREAM, "unixpacket": socket.SOCK_SEQPACKET}
_ALL_THE_SYSTEM_ALLOWS = 65535  # the kernel lowers it to its own limit


class Listener(Accepting[Conn]):
    """Accepts connections; made by `listen`.

        with net.listen("tcp", "127.0.0.1:7777") as listener:
            for conn in listener:
                runtime.go(serve, conn)

    Several goroutines may accept at the same time; they take turns.

    Go: net.Listener.
    """

    def __init__(self, fd: NetFD, unlink: str | None = None, conn_type: type[Conn] = Conn) -> None:
        self._fd = fd
        self._conn_type = conn_type
        self._unlink = unlink  # the path of a unix socket, removed by close()
        self._closing: Chan[None] = io_chan()
        self._addr = from_sockaddr(fd.getsockname()) or UnixAddr("")

    @property
    def addr(self) -> Addr:
        """The address it listens on, with the port the system chose where 0 was asked for.

        Go: net.Listener.Addr.
        """
        return self._addr

    def accept(self, timeout: float | None = None, *, ctx: _Context | None = None) -> Conn:
        """Wait for the next connection.

        While the process has too many open files it waits, longer each time up to a second,
        and tries again.  Raises TimeoutError after timeout seconds or once the deadline has
        passed, the error of ctx, a context, and ClosedError when the listener is closed.

        Go: net.Listener.Accept, with the pause of http.Server.Serve.
        """
        try:
            return self._fd.accept(self._conn_type, timeout, ctx=ctx)
        except OSError as e:
            if e.errno not in SHORTAGE:
                raise
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_PAUSE
        while True:
            if not passes(self._closing, pause, ctx):
                raise ClosedError("accept: use of closed network connection")
            pause = min(2 * pause, LONGEST_PAUSE)
            left = None if deadline is None else deadline - time.monotonic()
            try:
                return self._fd.accept(self._conn_type, left, ctx=ctx)
            except OSError as e:
                if e.errno not in SHORTAGE:
                    raise
                if left is not None and left <= 0:
                    raise TimeoutError("accept: the time is up") from e

    def set_deadline(self, seconds: float | None) -> None:
        """Let accept() fail with TimeoutError from so many seconds from now on; None: never.

        Go: net.TCPListener.SetDeadline, which takes a point in time instead.
        """
        self._fd.set_read_deadline(seconds)

    def close(self) -> None:
        """Stop listening: accept() raises ClosedError, also where it waits.

        Connections that were accepted stay open.  The file of a unix socket is removed.
        Twice is harmless.

        Go: net.Listener.Close.
        """
        try:
            self._closing.close()
        except ChanClosed:
            return  # only the first one may remove the file: it may be another listener's by now
        try:
            if self._unlink is not None:
                os.unlink(self._unlink)
        except FileNotFoundError:
            pass
        finally:
            self._fd.close()

    @property
    def closed(self) -> bool:
        """True once close() was called."""
        return self._fd.closed

    def fileno(self) -> int:
        """The descriptor; it still belongs to the listener.  Raises ClosedError."""
        return self._fd.fileno()

    def file(self) -> socket.socket:
        """A socket object with a duplicate of the descriptor, for what needs one.

        It is not inheritable, closed by the caller, and must stay non-blocking: the two
        descriptors share this.  Raises ClosedError.

        Go: net.TCPListener.File.
        """
        return duplicate(self._fd)

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<Listener {self.addr.network} {self.addr}{state}>"


def listen(
    network: str,
    address: str,
    *,
    reuse_port: bool = False,
    backlog: int | None = None,
    keep_alive: float | None = _KEEP_ALIVE,
    control: Control | None = None,
) -> Listener:
    """Listen on an address.

    network is "tcp" (IPv4 and IPv6), "tcp4", "tcp6", "unix" or "unixpacket".  address is
    "host:port", or the path of a unix socket ("@name": Linux's abstract name space).  With
    "tcp", ":port" listens on all addresses, IPv4 and IPv6; a name means its first address,
    IPv4 preferred.  Port 0 lets the system choose.

    reuse_port lets several processes share the port (SO_REUSEPORT).  backlog is the number
    of connections that may wait to be accepted; None: as many as the system allows.
    keep_alive is set on each connection (`Conn.set_keep_alive`).  control(network, address, fd)
    is called before the socket is bound, and may set options of the descriptor.

    Raises AddrError for a senseless address, socket.gaierror for an unknown name, OSError with
    the address in its message where the port is taken or not ours.

    Go: net.Listen.
    """
    backlog = _ALL_THE_SYSTEM_ALLOWS if backlog is None else backlog
    if network in _UNIX:
        return _listen_unix(network, address, backlog, control)
    if not network.startswith("tcp"):
        raise AddrError(f"unknown network {network}")
    options = [*keep_alive_options(keep_alive), (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)]
    # Connections inherit it: one call here instead of one for each.
    options.append((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
    if reuse_port:
        options.append((socket.SOL_SOCKET, socket.SO_REUSEPORT, 1))
    targets = resolve(network, address)
    targets.sort(key=lambda target: target.family != socket.AF_INET)  # IPv4 first
    target = local_target(network, targets)
    s = open_socket(target.family, socket.SOCK_STREAM)
    try:
        with doing("setsockopt", address):
            for option in options:
                s.setsockopt(*option)
        bind(s, network, address, target, control)
        with doing("listen", address):
            s.listen(backlog)
        return _own(s)
    except BaseException:
        s.close()
        raise


def local_target(network: str, targets: list[Target]) -> Target:
    """Which of the addresses of a host, IPv4 first, to bind to; no host has one of each."""
    if targets[0].sockaddr[0]:
        return targets[0]
    ipv4, ipv6 = targets
    both = not network.endswith(("4", "6"))
    return ipv4 if network.endswith("4") or (both and not socket.has_dualstack_ipv6()) else ipv6


def bind(
    s: socket.socket, network: str, address: str, target: Target, control: Control | None
) -> None:
    """Bind a socket of an IP network."""
    if target.family == socket.AF_INET6:
        both = not network.endswith("6") and target.sockaddr[0] in ("", "::")
        with doing("setsockopt", address):
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
    if control is not None:
        version = "4" if target.family == socket.AF_INET else "6"
        control(network[:3] + version, str(from_sockaddr(target.sockaddr)), s.fileno())
    with doing("bind", address):
        s.bind(target.sockaddr)


def _own(s: socket.socket, unlink: str | None = None) -> Listener:
    """A listener with the socket's descriptor; where it cannot be made, s still has it."""
    fd = NetFD(s.fileno())
    kind = conn_type(s.family, s.type)
    try:
        s.detach()
        return Listener(fd, unlink, kind)
    except BaseException:
        fd.close()
        raise


def _listen_unix(network: str, path: str, backlog: int, control: Control | None) -> Listener:
    sockaddr = unix_sockaddr(path)
    s = open_socket(socket.AF_UNIX, _UNIX[network])
    try:
        if control is not None:
            control(network, path, s.fileno())
        with doing("bind", path):
            s.bind(sockaddr)
        with doing("listen", path):
            s.listen(backlog)
        return _own(s, path if isinstance(sockaddr, str) else None)
    except BaseException:
        s.close()
        raise
