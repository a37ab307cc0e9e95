"""Outgoing connections."""

from __future__ import annotations

import errno
import os
import socket
import time

from runtime._core import sleep
from runtime._net.addr import AddrError, unix_sockaddr
from runtime._net.conn import Conn
from runtime._net.resolve import Target, resolve

_IN_PROGRESS = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)
_LEAST_SHARE = 2.0  # seconds an address gets at least, while there is time
_LOCAL = {
    "tcp": [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)],
    "tcp4": [("127.0.0.1", socket.AF_INET)],
    "tcp6": [("::1", socket.AF_INET6)],
}


def dial(network: str, address: str, *, timeout: float | None = None) -> Conn:
    """Connect to an address.

    network is "tcp" (IPv4 or IPv6), "tcp4", "tcp6" or "unix".  address is "host:port", or
    the path of a unix socket ("@name": Linux's abstract name space).  An empty host is this
    machine.  The addresses of a name are tried one after another.

    timeout, in seconds, is for the whole of it, name lookup included; it does not limit
    what is done with the connection later.

    Raises AddrError for a senseless address, socket.gaierror for an unknown name, TimeoutError,
    ConnectionRefusedError and other OSErrors, with the address in the message; of several
    addresses the first one's.

    Go: net.Dial, net.DialTimeout.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if network == "unix":
        return _dial_unix(address, deadline)
    targets = _targets(network, address, timeout)
    first_error: OSError | None = None
    for i, target in enumerate(targets):
        try:
            return _dial_tcp(target, _share(deadline, len(targets) - i))
        except TimeoutError as e:
            error: OSError = e if e.errno else TimeoutError(errno.ETIMEDOUT, "the time is up")
        except OSError as e:
            error = e
        first_error = first_error or OSError(error.errno, error.strerror, address)
    assert first_error is not None  # getaddrinfo() finds something, or fails
    raise first_error


def _targets(network: str, address: str, timeout: float | None) -> list[Target]:
    targets = resolve(network, address, timeout)
    if targets[0].sockaddr[0]:
        return targets
    port = targets[0].sockaddr[1]
    return [Target(family, (host, port)) for host, family in _LOCAL[network]]


def _share(deadline: float | None, addresses: int) -> float | None:
    """The seconds that the next of so many addresses gets of what is left."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    return max(left / addresses, min(left, _LEAST_SHARE))


def _dial_tcp(target: Target, timeout: float | None) -> Conn:
    conn = _connect_tcp(target, timeout)
    # A connection to a free port of this machine may be given that very port as its own, and
    # then be connected with itself.
    for _ in range(2):
        if conn.getsockname() != conn.peer:
            break
        conn.close()
        conn = _connect_tcp(target, timeout)
    return conn


def _connect_tcp(target: Target, timeout: float | None) -> Conn:
    s = socket.socket(target.family, socket.SOCK_STREAM)
    try:
        s.setblocking(False)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = s.connect_ex(target.sockaddr)
        if code != 0 and code not in _IN_PROGRESS:
            raise OSError(code, os.strerror(code))
        return _finish(s, code, target.sockaddr, timeout)
    except BaseException:
        s.close()
        raise


def _finish(s: socket.socket, code: int, peer: object, timeout: float | None) -> Conn:
    """The connection, once it is there."""
    conn = _own(s, peer)
    if code == 0:
        return conn
    try:
        conn.set_write_deadline(timeout)
        conn.wait_connected()
        conn.set_write_deadline(None)
    except BaseException:
        conn.close()
        raise
    return conn


def _own(s: socket.socket, peer: object) -> Conn:
    """A connection with the socket's descriptor; where it cannot be made, s still has it."""
    conn = Conn(s.fileno(), peer)
    s.detach()
    return conn


def _dial_unix(path: str, deadline: float | None) -> Conn:
    sockaddr = unix_sockaddr(path)
    pause = 0.001
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        s.setblocking(False)
        while True:
            try:
                code = s.connect_ex(sockaddr)
            except OSError as e:  # the socket module's own: the path is too long
                raise AddrError(f"{path}: {e}") from None
            if code != errno.EAGAIN:
                break
            # The listener's queue is full, and nothing tells when it is not.
            if deadline is not None and time.monotonic() + pause > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the time is up", path)
            sleep(pause)
            pause = min(2 * pause, 0.1)
        if code != 0:
            raise OSError(code, os.strerror(code), path)
        return _own(s, sockaddr)
    except BaseException:
        s.close()
        raise
