"""The listening sockets of all workers, which the supervisor makes and keeps.

With SO_REUSEPORT each worker has a socket of its own, and the kernel spreads connections over
them.  It queues them there, too, and closing a socket resets those that wait in its queue.  So a
socket is not a worker's but its slot's: whoever takes over the slot inherits it, with its queue.
Where there is no SO_REUSEPORT, and on unix sockets, all workers share one.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
import sys
from contextlib import suppress

from runtime._http.server import _bind, _split_addr
from runtime._net.addr import unix_sockaddr

_ATTACH_CBPF, _DETACH = 51, 68  # SO_ATTACH_REUSEPORT_CBPF, SO_DETACH_REUSEPORT_BPF
_LINUX = sys.platform == "linux"  # elsewhere SO_REUSEPORT does not spread connections


class Address:
    """One address to serve, and the sockets of the slots, in the order of the slots."""

    def __init__(self, wanted: str, backlog: int) -> None:
        self._backlog = backlog
        self.unix = wanted.startswith("unix:")
        self.spread = not self.unix and _LINUX
        self._file: tuple[str, int] | None = None  # of a unix socket, with its inode
        self._steering = False
        if self.unix:
            self._clear_stale(wanted)
        elif self.spread and _split_addr(wanted)[1] != 0:
            # Others that set SO_REUSEPORT would let us in, and get a part of the connections.
            _bind(wanted, None).close()
        first = _bind(wanted, backlog, reuse_port=self.spread)
        self.sockets = [first]
        if self.unix:
            self._wanted = self.shown = wanted
            path = unix_sockaddr(wanted[5:])
            if isinstance(path, str) and path[0] != "\0":
                self._file = path, os.stat(path).st_ino
        else:
            host, port = first.getsockname()[:2]
            self.shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            self._wanted = f"{wanted.rpartition(':')[0]}:{port}"  # all have the same port

    def socket(self, slot: int) -> socket.socket:
        """The socket of a slot, which is made if need be."""
        if not self.spread:
            return self.sockets[0]
        while slot >= len(self.sockets):
            self.sockets.append(_bind(self._wanted, self._backlog, reuse_port=True))
            if self._steering:
                self.steer(len(self.sockets))
        return self.sockets[slot]

    def steer(self, slots: int) -> None:
        """Give new connections only to the sockets of so many slots, the first ones."""
        if not self.spread:
            return
        program = [  # (opcode, jump, jump, operand)
            (0x20, 0, 0, 0xFFFFF000 + 56),  # A = a random number (SKF_AD_OFF + SKF_AD_RANDOM)
            (0x94, 0, 0, slots),  # A %= slots
            (0x16, 0, 0, 0),  # return A: which socket, in the order in which they listen
        ]
        code = b"".join(struct.pack("=HBBI", *line) for line in program)
        import ctypes  # only now: few need it

        buffer = ctypes.create_string_buffer(code, len(code))
        fprog = struct.pack("@HP", len(program), ctypes.addressof(buffer))
        self.sockets[0].setsockopt(socket.SOL_SOCKET, _ATTACH_CBPF, fprog)
        self._steering = True

    def waiting(self, slot: int) -> bool:
        """Does a connection wait in the queue of this slot's own socket?"""
        if not self.spread or slot >= len(self.sockets):  # it could not be made
            return False
        poll = select.poll()
        poll.register(self.sockets[slot], select.POLLIN)
        return bool(poll.poll(0))

    def drop(self, slot: int) -> None:
        """The last slot, this one, is no more, and nothing waits in its queue."""
        if not self.spread:
            return
        for sock in self.sockets[slot:]:  # none if it could not be made
            sock.close()
        del self.sockets[slot:]
        if self._steering:
            with suppress(OSError):  # before Linux 5.3 it must stay, and be kept up to date
                self.sockets[0].setsockopt(socket.SOL_SOCKET, _DETACH, 0)
                self._steering = False

    def close(self) -> None:
        """Keep the sockets no longer: they are open as long as workers have them."""
        for sock in self.sockets:
            sock.close()

    def remove_file(self) -> None:
        if self._file is not None:
            path, inode = self._file
            with suppress(OSError):
                if os.stat(path).st_ino == inode:  # it may be another server's by now
                    os.unlink(path)

    def _clear_stale(self, wanted: str) -> None:
        """Remove the file of a socket whose server was killed: nobody listens there."""
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as probe:
            path = unix_sockaddr(wanted[5:])
            if not isinstance(path, str) or not stat.S_ISSOCK(os.stat(path).st_mode):
                return
            probe.settimeout(1)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
