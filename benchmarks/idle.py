"""The memory of an idle connection, seen from outside the server.

Each connection is opened, makes one exchange, and stays. What the server needs once
(buffers, code, heap reserves) is paid for by a warm-up of connections that stay too. Only the
server's resident memory counts, not the kernel's socket buffers.
"""

import time
from collections.abc import Callable
from typing import Protocol

from harness import Program, Unavailable

WARM_UP = 200  # connections
SETTLE = 1.0  # seconds a server is given for what it does after the last response


class Client(Protocol):
    """A connection to the server; what goes wrong is Unavailable."""

    def exchange(self) -> None:
        """Ask for something and check the answer."""

    def close(self) -> None: ...


def bytes_each(program: Program, connect: Callable[[], Client], count: int) -> float:
    """Resident bytes per idle connection; Unavailable if one is not served.

    At the end every connection makes a second exchange, so none of them is dead.
    """
    opened: list[Client] = []

    def open_more(n: int) -> int:
        for _ in range(n):
            opened.append(connect())
            opened[-1].exchange()
        time.sleep(SETTLE)
        return program.rss()

    try:
        before = open_more(WARM_UP)
        after = open_more(count)
        for conn in opened:
            conn.exchange()
    except Unavailable as exc:
        raise Unavailable(f"after {len(opened):,} connections: {exc}") from None
    finally:
        for conn in opened:
            conn.close()
    return (after - before) / count
