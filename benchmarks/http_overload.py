"""What a client waits for while others do their worst.

    python benchmarks/http_overload.py [--seconds 3]

The latency of a request on one kept connection: alone, beside 1,000 half-open connections
(ratio to reach: 2), and while two handlers spin for 2 s (longest to reach: 150 ms).
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from statistics import median, quantiles

import report
from harness import pick_cores, prepare
from probe import Connection, Expectation
from servers import WORKERS

HALF_OPEN = 1000
SPINNERS = 2
HELLO = Expectation()


def latencies(address: str, seconds: float) -> list[float]:
    """In seconds."""
    conn, times = Connection(address), []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        conn.exchange(HELLO)
        times.append(time.perf_counter() - began)
    conn.close()
    return times


def opened(address: str, data: bytes, n: int) -> list[socket.socket]:
    host, port = address.split(":")
    socks = [socket.create_connection((host, int(port))) for _ in range(n)]
    for sock in socks:
        sock.sendall(data)
    return socks


def row(title: str, times: list[float], alone: list[float]) -> list[str]:
    cells = [median(times), quantiles(times, n=100)[98], max(times)]
    figures = [f"{report.significant(1e6 * cell)} µs" for cell in cells]
    return [title, *figures, report.times(cells[0] / median(alone))]


def main() -> None:
    server_core, load_core = pick_cores()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    prepare()
    os.sched_setaffinity(0, [load_core])
    with WORKERS["gosched"].running([server_core]) as (_, address):
        latencies(address, 0.5)
        alone = latencies(address, options.seconds)
        rows = [row("alone", alone, alone)]
        half = opened(address, b"GET / HTTP/1.1\r\nHost:", HALF_OPEN)
        rows.append(row(f"{HALF_OPEN:,} half-open", latencies(address, options.seconds), alone))
        for sock in half:
            sock.close()
        spinning = opened(address, b"GET /spin HTTP/1.1\r\nHost: t\r\n\r\n", SPINNERS)
        rows.append(row(f"{SPINNERS} handlers spin", latencies(address, 1.5), alone))
        for sock in spinning:
            sock.close()
    print(f"{report.machine()}\n")
    print(report.markdown(["beside", "median", "p99", "longest", "to alone"], rows))


if __name__ == "__main__":
    main()
