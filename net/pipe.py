"""A connection in memory.

A write offers its bytes to readers on a channel without a buffer, and is told how many were
taken; what is left is offered again.  Whatever else may end a wait, the close of either end or
a new deadline, is a change: the context of the wait, which ends with it, so that the waiting
goroutine looks again.  Who makes a change sets the state, then puts a new `_Change` in the
place of the old one, then ends that; who waits takes the `_Change`, then looks at the state.

Nothing but channels is waited for, and time is that of channels, so that in a bubble of
runtime.testing all waits are durable and deadlines are on its clock.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from runtime._core import Chan, ChanClosed, ClosedError, now
from runtime._net.addr import Addr, UnixAddr
from runtime._net.stream import Stream, joined

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class _Changed(Exception):
    pass


class _Change:
    """A context that ends when something has changed."""

    __slots__ = ("_done",)

    def __init__(self) -> None:
        self._done: Chan[None] = Chan()

    def done(self) -> Chan[None]:
        return self._done

    def err(self) -> BaseException | None:
        return _Changed() if self._done.closed else None

    def end(self) -> None:
        try:
            self._done.close()
        except ChanClosed:
            pass


class _Offer:
    """Bytes, and where to say how many of them were taken; who has got it must say so."""

    __slots__ = ("taken", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.taken: Chan[int] = Chan(1)


class PipeConn(Stream):
    """One end of a pipe(); it is used as a `Conn` is.

    Go: what net.Pipe returns.
    """

    __slots__ = (
        "__weakref__",
        "_change",
        "_closed",
        "_incoming",
        "_outgoing",
        "_peer",
        "_read_deadline",
        "_rest",
        "_write_closed",
        "_write_deadline",
        "_write_turn",
    )

    _peer: PipeConn
    _clock = staticmethod(now)

    def __init__(self, incoming: Chan[_Offer], outgoing: Chan[_Offer]) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._change = _Change()
        self._write_turn: Chan[None] = Chan(1)  # full: somebody has it
        self._rest: deque[bytes] = deque()  # to be read first
        self._closed = self._write_closed = False
        # On the clock of now().
        self._read_deadline: float | None = None
        self._write_deadline: float | None = None

    @property
    def local_addr(self) -> Addr:
        """An address without a name."""
        return UnixAddr("")

    @property
    def remote_addr(self) -> Addr:
        """An address without a name."""
        return UnixAddr("")

    @property
    def closed(self) -> bool:
        """True once close() was called."""
        return self._closed

    def read(self, n: int = 65536, /) -> bytes:
        """Up to n bytes of one write, as soon as there is one; b"" when the peer has closed."""
        if n < 0:
            raise ValueError(f"read(n): n must be 0 or more, not {n}")
        while True:
            change = self._change
            if self._closed:
                raise ClosedError("read: use of closed network connection")
            left = _left(self._read_deadline, "read")
            if n == 0:
                return b""
            try:
                data = self._rest.popleft()
            except IndexError:
                pass
            else:
                if len(data) > n:
                    self._rest.appendleft(data[n:])
                return data[:n]
            if self._peer._write_closed:
                return b""
            try:
                offer = self._incoming.recv(left, ctx=change)
            except (_Changed, TimeoutError):
                continue
            count = 0
            try:
                data = bytes(offer.view[:n])
                count = len(data)
                return data
            finally:
                offer.taken.try_send(count)

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
        if data:
            self._rest.appendleft(data)

    def write(self, data: ReadableBuffer | list[Any] | tuple[Any, ...], /) -> int:
        """Wait until all the bytes, of a buffer or a list of some, have been read.

        Returns how many those are.  Raises BrokenPipeError if the peer has closed.  After an
        error some of the bytes may have been read.
        """
        view = joined(data)
        size = len(view)
        self._write_turn.send(None)
        try:
            while True:
                change = self._change
                if self._closed:
                    raise ClosedError("write: use of closed network connection")
                if self._write_closed or self._peer._closed:
                    whom = "this end" if self._write_closed else "the peer"
                    raise BrokenPipeError(f"write: {whom} of the pipe is closed")
                left = _left(self._write_deadline, "write")
                if not view:
                    return size
                offer = _Offer(view)
                try:
                    self._outgoing.send(offer, left, ctx=change)
                except (_Changed, TimeoutError):
                    continue
                view = view[offer.taken.recv() :]
                if not view:  # whatever has happened since
                    return size
        finally:
            self._write_turn.try_recv()

    def close_write(self) -> None:
        """Let the peer read the end; reading goes on.  Raises ClosedError."""
        if self._closed:
            raise ClosedError("close_write: use of closed network connection")
        mine, peers = _Change(), _Change()
        self._write_closed = True
        self._changed(mine)
        self._peer._changed(peers)

    def close(self) -> None:
        """Close this end: whoever uses it gets ClosedError.  Twice is harmless."""
        self._closed = self._write_closed = True
        # Nobody will wait any more at either end, so there is no need for new ones, and no
        # memory is needed.
        self._change.end()
        self._peer._change.end()

    def set_deadline(self, seconds: float | None, /) -> None:
        """Let reads and writes fail with TimeoutError from so many seconds from now on."""
        self._set_deadlines(seconds, True, True)

    def set_read_deadline(self, seconds: float | None, /) -> None:
        """As set_deadline(), for reads only."""
        self._set_deadlines(seconds, True, False)

    def set_write_deadline(self, seconds: float | None, /) -> None:
        """As set_deadline(), for writes only."""
        self._set_deadlines(seconds, False, True)

    def __repr__(self) -> str:
        return f"<PipeConn {'closed' if self._closed else 'open'}>"

    def _set_deadlines(self, seconds: float | None, read: bool, write: bool) -> None:
        if self._closed:
            raise ClosedError("set_deadline: use of closed network connection")
        point = None if seconds is None else now() + seconds
        change = _Change()
        if read:
            self._read_deadline = point
        if write:
            self._write_deadline = point
        self._changed(change)

    def _changed(self, change: _Change) -> None:
        before, self._change = self._change, change
        before.end()


def _left(deadline: float | None, what: str) -> float | None:
    """The seconds until the deadline; raises TimeoutError if it has passed."""
    if deadline is None:
        return None
    left = deadline - now()
    if left <= 0:
        raise TimeoutError(f"{what}: the time is up")
    return left


def pipe() -> tuple[PipeConn, PipeConn]:
    """A connection in memory, full duplex; both its ends.

        client, server = net.pipe()
        runtime.go(server.write, b"hello")
        client.read()                         # b"hello"

    It has no buffer: a write waits until one or more reads have taken all of it.  Deadlines,
    close and the errors are those of a `Conn`.

    Go: net.Pipe.
    """
    forth: Chan[_Offer] = Chan()
    back: Chan[_Offer] = Chan()
    a, b = PipeConn(back, forth), PipeConn(forth, back)
    a._peer, b._peer = b, a
    return a, b
