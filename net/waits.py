"""Waits that belong to I/O although what ends them is no descriptor.

In a bubble of runtime.testing they are in real time, and not durable, as all I/O is; and whoever
makes a channel of these in one does not make it useless for everybody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime._core import Chan

if TYPE_CHECKING:
    from runtime._core import _Context


def io_chan(capacity: int = 0) -> Chan[Any]:
    """A channel that I/O waits for."""
    ch: Chan[Any] = Chan(capacity)
    ch._wait_as("IO wait")
    return ch


def passes(ch: Chan[Any], seconds: float | None, ctx: _Context | None) -> bool:
    """Wait until ch is closed; True if seconds have passed before.  Raises the error of ctx."""
    try:
        ch.recv_ok(seconds, ctx=ctx)
    except TimeoutError:
        if ctx is not None and ctx.err() is not None:  # the error is the context's
            raise
        return True
    return False
