"""Ports of this machine that nobody else can get meanwhile."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved() -> Iterator[str]:
    """An address at which nobody listens, HOST:PORT.

    It is bound, so the system gives the port to nobody who asks for any; who asks for this one,
    and sets SO_REUSEADDR as servers do, can bind it, too, and listen, again and again.
    """
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{s.getsockname()[1]}"
