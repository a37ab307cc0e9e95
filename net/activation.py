"""Listeners whose sockets somebody else has opened: systemd, or a parent process.

The protocol is that of sd_listen_fds(3): LISTEN_PID is the process it is meant for, LISTEN_FDS
the number of descriptors, from 3 on, and LISTEN_FDNAMES their names, with colons between.
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from runtime._core import NetFD
from runtime._net.addr import AddrError
from runtime._net.conn import conn_type
from runtime._net.listener import Listener

_FIRST = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class ActivationListener(NamedTuple):
    """A listener that was handed to this process, and its name (FileDescriptorName=)."""

    name: str
    listener: Listener


def listener_from_fd(fd: int) -> Listener:
    """A listener of a descriptor that is open in this process, and belongs to the listener now.

        listener = net.listener_from_fd(int(os.environ["SERVER_FD"]))

    It is made non-blocking, and is not inherited by programs that this one starts.  close()
    does not remove the file of a unix socket.  Raises OSError if the descriptor is not open or
    no socket, AddrError if it is none that listens for streams; then it stays as it was.

    Go: net.FileListener, which duplicates the descriptor.
    """
    if isinstance(fd, bool) or not isinstance(fd, int):
        raise TypeError(f"listener_from_fd() needs a descriptor, an int, not {type(fd).__name__}")
    if fd < 0:
        raise ValueError(f"listener_from_fd(): a descriptor is 0 or more, not {fd}")
    s = socket.socket(fileno=fd)  # finds out what it is
    try:
        if s.type not in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            raise AddrError(f"descriptor {fd} is no socket for streams")
        if not s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise AddrError(f"descriptor {fd} does not listen")
        kind = conn_type(s.family, s.type)
        inheritable, blocking = os.get_inheritable(fd), os.get_blocking(fd)
    finally:
        s.detach()
    try:
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        netfd = NetFD(fd)
    except BaseException:
        os.set_blocking(fd, blocking)
        os.set_inheritable(fd, inheritable)
        raise
    try:
        return Listener(netfd, None, kind)
    except BaseException:
        netfd.detach()
        raise


def activation_listeners(*, unset_environment: bool = True) -> list[ActivationListener]:
    """The listeners that systemd, or who else follows its protocol, has handed to this process.

        listeners = dict(net.activation_listeners())
        listener = listeners.get("web") or net.listen("tcp", ":8080")

    In the order of the unit; the name is "unknown" where none was given.  Without any, the
    list is empty.  The variables LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are taken out of the
    environment, so that programs which this one starts do not take them for theirs, and a
    second call finds nothing; unset_environment=False leaves them.

    Raises ValueError if they make no sense, and what `listener_from_fd` raises; in either case
    nothing is closed.

    Go: activation.Listeners of github.com/coreos/go-systemd.
    """
    environment = {name: os.environ.get(name, "") for name in _VARIABLES}
    if unset_environment:
        for name in _VARIABLES:
            os.environ.pop(name, None)
    pid, count = environment["LISTEN_PID"], environment["LISTEN_FDS"]
    if not pid or not count:
        return []
    if _number("LISTEN_PID", pid) != os.getpid():
        return []  # meant for a parent process
    n = _number("LISTEN_FDS", count)
    names = environment["LISTEN_FDNAMES"].split(":") if environment["LISTEN_FDNAMES"] else []
    if names and len(names) != n:
        raise ValueError(f"LISTEN_FDNAMES has {len(names)} names for {n} descriptors")
    for fd in range(_FIRST, _FIRST + n):
        os.set_inheritable(fd, False)  # all, also if one of them turns out to be no listener
    listeners: list[ActivationListener] = []
    try:
        for i in range(n):
            listener = listener_from_fd(_FIRST + i)
            listeners.append(ActivationListener(names[i] if names else "unknown", listener))
    except BaseException:
        for _, listener in listeners:
            listener._fd.detach()
        raise
    return listeners


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"{name} is no number: {text!r}")
    return int(text)
