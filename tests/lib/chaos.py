"""A proxy for TCP that treats what passes badly.

It is one plain thread with the standard library's sockets: nothing of what is tested is in it.
"""

import contextlib
import random
import select
import socket
import struct
import threading
import time
from typing import Literal, Self

How = Literal["reset", "end", "silence"]


class _Flow:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.taken = b""  # to be passed on
        self.passed = 0  # bytes so far
        self.size = 0  # of the piece under way
        self.due = 0.0  # when it may go on, time.monotonic()
        self.ended = False  # nothing more is taken

    def end(self) -> None:
        self.ended = True
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Chaos:
    """Passes connections on to a port of this machine.

        with Chaos(listener.addr.port, pieces=(1, 100)) as proxy:
            net.dial("tcp", proxy.address)

    What comes is sent on in pieces of the sizes given, after pauses of up to `pause` seconds.
    Once `cut` bytes have passed in a direction both ends get a reset; or that direction's reader
    the end of the stream ("end"), or nothing any more, for ever ("silence").
    """

    def __init__(
        self,
        port: int,
        *,
        seed: int = 0,
        pieces: tuple[int, ...] = (65536,),
        pause: float = 0.0,
        cut: int | None = None,
        how: How = "reset",
    ) -> None:
        self._port, self._pieces, self._pause = port, pieces, pause
        self._cut, self._how = cut, how
        self._rng = random.Random(seed)
        self._flows: list[_Flow] = []
        self._stalled = self._stopped = self._reset = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wake_r, self._wake_w = socket.socketpair()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stall(self) -> None:
        """Pass nothing on until resume()."""
        self._stalled = True
        self._wake_w.send(b"x")

    def resume(self) -> None:
        self._stalled = False
        self._wake_w.send(b"x")

    def reset(self) -> None:
        """Reset all connections that there are."""
        self._reset = True
        self._wake_w.send(b"x")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped = True
        self._wake_w.send(b"x")
        self._thread.join()
        for s in (self._listener, self._wake_r, self._wake_w):
            s.close()

    # --- on its thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped:
            poll = select.poll()
            poll.register(self._listener, select.POLLIN)
            poll.register(self._wake_r, select.POLLIN)
            now, wait = time.monotonic(), None
            wanted: dict[int, int] = {}
            flows = [] if self._stalled else [f for f in self._flows if not f.ended]
            for f in flows:
                if not f.taken:
                    wanted[f.source.fileno()] = wanted.get(f.source.fileno(), 0) | select.POLLIN
                elif f.due <= now:
                    wanted[f.sink.fileno()] = wanted.get(f.sink.fileno(), 0) | select.POLLOUT
                else:
                    wait = min(wait or 1e9, (f.due - now) * 1000)
            for fd, events in wanted.items():
                poll.register(fd, events)
            ready = dict(poll.poll(wait))
            if self._wake_r.fileno() in ready:
                self._wake_r.recv(100)
            if self._reset:
                self._reset = False
                for f in self._flows[:]:
                    self._drop(f)
            if self._listener.fileno() in ready:
                self._accept()
            for f in flows:
                if f in self._flows and not self._stalled:
                    fd = f.sink.fileno() if f.taken else f.source.fileno()
                    if fd in ready and f.due <= time.monotonic():
                        self._go_on(f)
        for f in self._flows:
            f.source.close()

    def _accept(self) -> None:
        near = self._listener.accept()[0]
        try:
            far = socket.create_connection(("127.0.0.1", self._port))
        except OSError:
            near.close()
            return
        for s in (near, far):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._flows += [_Flow(near, far), _Flow(far, near)]

    def _go_on(self, f: _Flow) -> None:
        """Take something from where it comes from, or send a piece of what was taken."""
        try:
            if not f.taken:
                f.taken = f.source.recv(65536)
                if not f.taken:
                    f.end()
                    return
            else:
                sent = f.sink.send(f.taken[: f.size])
                f.taken = f.taken[sent:]
                f.passed += sent
                if f.passed == self._cut:
                    if self._how == "reset":
                        self._drop(f)
                    elif self._how == "end":
                        f.end()
                    f.ended = True
                    return
        except BlockingIOError:
            return
        except OSError:
            self._drop(f)
            return
        left = len(f.taken) if self._cut is None else self._cut - f.passed
        f.size = min(self._rng.choice(self._pieces), left)
        f.due = time.monotonic() + self._rng.random() * self._pause

    def _drop(self, f: _Flow) -> None:
        """Reset both ends of a connection."""
        if f not in self._flows:  # with the other direction
            return
        ends = (f.source, f.sink)
        self._flows = [g for g in self._flows if g.source not in ends]
        for s in ends:
            with contextlib.suppress(OSError):  # reset by the peer
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
