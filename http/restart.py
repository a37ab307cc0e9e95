"""Hot restart: a new program takes over the listening sockets while this one goes on serving.

The new program is this one started again, the way it was started, with the same environment and
one variable more: which descriptors it inherits, and a pipe.  Its servers take the sockets of
their addresses from there instead of binding them.  When all are being served it says so on the
pipe; only then does this program stop accepting.  The sockets are the same ones, with one queue
of connections, so that no client is refused or reset.  If the new program ends, or does not say
so in time, this one simply goes on.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from runtime._net.activation import listener_from_fd
from runtime._net.listener import Listener

__all__ = ["inherited_listeners"]

logger = logging.getLogger("runtime.http")

_VARIABLE = "GOSCHED_RESTART"

try:
    _started_in: str | None = os.getcwd()
except OSError:
    _started_in = None


class Listening(NamedTuple):
    """A socket that is being served, for the next program."""

    fd: int
    addr: str | None  # that of a Server; None: a listener given to serve()
    unlink: str | None  # the file of a unix socket
    owner: Listener | None = None  # whose the descriptor is, if that is not the server


# --- the new program ------------------------------------------------------------------------------


class _Inherited:
    """What this program was given, if it was started by a hot restart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = -1
        self._entries: list[Listening] = []
        self._waiting: set[int] = set()  # descriptors that are not served yet
        self._loaded = False

    def take(self, addr: str | None) -> Listening | None:
        """The next socket for an address, or of those given to serve()."""
        with self._lock:
            self._load()
            for entry in self._entries:
                if entry.addr == addr:
                    self._entries.remove(entry)
                    return entry
        return None

    def served(self, fd: int) -> None:
        """The socket is being served now; when all are, the old program may go."""
        with self._lock:
            self._waiting.discard(fd)
            if self._waiting or self._ready < 0:
                return
            ready, self._ready = self._ready, -1
        with suppress(OSError):  # the old program may be gone
            os.write(ready, b"1")
        os.close(ready)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        text = os.environ.pop(_VARIABLE, None)
        if text is None:
            return
        given = json.loads(text)
        self._ready = given["ready"]
        self._entries = [Listening(*entry) for entry in given["listening"]]
        self._waiting = {entry.fd for entry in self._entries}
        for fd in (self._ready, *self._waiting):
            os.set_inheritable(fd, False)


_inherited = _Inherited()
take, served = _inherited.take, _inherited.served


def inherited_socket(addr: str) -> socket.socket | None:
    """The socket that a Server's address has had in the program before."""
    entry = take(addr)
    if entry is None:
        return None
    sock = socket.socket(fileno=entry.fd)
    sock.setblocking(False)
    return sock


def inherited_listeners() -> list[Listener]:
    """After a hot restart: the listeners that were given to Server.serve() before, in order.

        listeners = http.inherited_listeners() or [net.listen("tcp", ":80"), ...]
        server.serve(*listeners)

    Else, and when asked again, the list is empty.  Addresses that a Server opens itself need
    nothing of the kind.
    """
    listeners = []
    while (entry := take(None)) is not None:
        listener = listener_from_fd(entry.fd)
        listener._unlink = entry.unlink
        listeners.append(listener)
    return listeners


# --- the old program ------------------------------------------------------------------------------

serving: list[Any] = []  # the Servers of this program


class NewProgram:
    """The program started again, with the sockets that are being served."""

    def __init__(self, listening: list[Listening]) -> None:
        listening = [e for e in listening if e.owner is None or not e.owner.closed]
        self._ready, theirs = os.pipe()
        try:
            given = {"ready": theirs, "listening": [(e.fd, e.addr, e.unlink) for e in listening]}
            self._process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=os.environ | {_VARIABLE: json.dumps(given)},
                pass_fds=[theirs, *(entry.fd for entry in listening)],
                cwd=_started_in,
            )
        except BaseException:
            os.close(self._ready)
            raise
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, seconds: float) -> str | None:
        """Wait until it serves; else why it does not, and it has ended.  Blocks the thread."""
        try:
            poll = select.poll()
            poll.register(self._ready, select.POLLIN)
            if not poll.poll(seconds * 1000):
                self.kill()
                return f"it did not serve within {seconds:g} seconds"
            if os.read(self._ready, 1):
                return None
        finally:
            self._close()
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            return "it goes on without serving"
        how = f"status {status}" if status >= 0 else f"signal {-status}"
        return f"it has ended with {how}"

    def release(self) -> None:
        """It is on its own now; nobody is to warn that it still runs."""
        self._process.returncode = 0

    def kill(self) -> None:
        """End it; twice is harmless."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        ready, self._ready = self._ready, -1
        if ready >= 0:
            os.close(ready)
