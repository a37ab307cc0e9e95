"""The memory of an idle keep-alive connection, seen from outside the server.

Each connection is opened, makes one request, is answered, and stays. What the server
needs once (buffers, code, heap reserves) is paid for by a warm-up of connections that
stay too. Only the server's resident memory counts, not the kernel's socket buffers.
"""

import time

from harness import Program, Unavailable
from probe import Connection, Expectation

WARM_UP = 200  # connections
SETTLE = 1.0  # seconds a server is given for what it does after the last response
EXPECTED = Expectation()


def bytes_each(program: Program, address: str, count: int) -> float:
    """Resident bytes per idle connection; Unavailable if one is not served.

    At the end every connection makes a second request, so none of them is dead.
    """
    opened: list[Connection] = []

    def open_more(n: int) -> int:
        for _ in range(n):
            opened.append(Connection(address))
            opened[-1].exchange(EXPECTED)
        time.sleep(SETTLE)
        return program.rss()

    try:
        before = open_more(WARM_UP)
        after = open_more(count)
        for conn in opened:
            conn.exchange(EXPECTED)
    except Unavailable as exc:
        raise Unavailable(f"after {len(opened):,} connections: {exc}") from None
    finally:
        for conn in opened:
            conn.close()
    return (after - before) / count
