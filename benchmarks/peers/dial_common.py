"""What the Python programs that make connections share.

Each prints how many it has made, and in how many seconds of time and of CPU time.
"""

import socket
import sys
import time
from collections.abc import Callable

WARM_UP = 200
BATCH = 100
OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
]


def main(connect: Callable[[], None]) -> None:
    for _ in range(WARM_UP):
        connect()
    done = 0
    start, cpu = time.perf_counter(), time.process_time()
    end = start + float(sys.argv[2])
    while time.perf_counter() < end:
        for _ in range(BATCH):
            connect()
        done += BATCH
    print(done, time.perf_counter() - start, time.process_time() - cpu)
