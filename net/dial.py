"""Outgoing connections."""

from __future__ import annotations

import errno
import os
import socket
import time

from runtime._core import sleep
from runtime._net.addr import AddrError, unix_sockaddr
from runtime._net.conn import Conn, adopt
from runtime._net.resolve import Target, resolve

_IN_PROGRESS = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)
_LEAST_SHARE = 2.0  # seconds an address gets at least, while there is time
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


def dial(network: str, address: str, *, timeout: float | None = None) -> Conn:
    """Connect to an address.

    network is "tcp" (IPv4 or IPv6), "tcp4", "tcp6", "udp", "udp4", "udp6", "unix", "unixpacket"
    or "unixgram".  address is "host:port", or the path of a unix socket ("@name": Linux's abstract
    name space).  An empty host is this machine.  The addresses of a name are tried one after
    another.

    timeout, in seconds, is for the whole of it, name lookup included; it does not limit
    what is done with the connection later.

    Raises AddrError for a senseless address, socket.gaierror for an unknown name, TimeoutError,
    ConnectionRefusedError and other OSErrors, with the address in the message; of several
    addresses the first one's.

    Go: net.Dial, net.DialTimeout.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if network in _UNIX:
        return _dial_unix(network, address, deadline)
    targets = _targets(network, address, timeout)
    first_error: OSError | None = None
    for i, target in enumerate(targets):
        try:
            return _dial_ip(network, target, _share(deadline, len(targets) - i))
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


def _dial_ip(network: str, target: Target, timeout: float | None) -> Conn:
    conn = _connect(network, target, timeout)
    # A connection to a free port of this machine may be given that very port as its own, and
    # then be connected with itself.
    for _ in range(2):
        if conn.getsockname() != conn.peer:
            break
        conn.close()
        conn = _connect(network, target, timeout)
    return conn


def _connect(network: str, target: Target, timeout: float | None) -> Conn:
    tcp = network.startswith("tcp")
    s = socket.socket(target.family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    try:
        s.setblocking(False)
        if tcp:
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
    conn = adopt(s, peer)
    if code == 0:
        return conn
    try:
        conn.wait_connected(timeout)
    except BaseException:
        conn.close()
        raise
    return conn


def _dial_unix(network: str, path: str, deadline: float | None) -> Conn:
    sockaddr = unix_sockaddr(path)
    pause = 0.001
    s = socket.socket(socket.AF_UNIX, _UNIX[network])
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
        return adopt(s, sockaddr)
    except BaseException:
        s.close()
        raise
