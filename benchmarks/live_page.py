"""What watching the live page costs the server that is watched.

    python benchmarks/live_page.py [--seconds 10]

CPU time of the server's process with no viewer, one, and ten, each with a connection that reads
the events of every second. The server has answered requests on 100 routes, so that there is much
to tell, and does nothing else. Then the time until a table of 100,000 goroutines has come.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import report
from harness import Program, pick_cores, prepare
from servers import Server, from_checkout, python

ROUTES, REQUESTS = 100, 200  # and requests on each
MANY = 100_000  # goroutines
TIMEOUT = 60.0
MOST = 1.0  # % of a core for each viewer


def ask(address: str, method: str, *paths: str) -> None:
    with contextlib.closing(http.client.HTTPConnection(address, timeout=TIMEOUT)) as client:
        for path in paths:
            client.request(method, path)
            response = client.getresponse()
            response.read()
            if response.status >= 300:
                raise SystemExit(f"{path}: status {response.status}")


@contextlib.contextmanager
def viewers(address: str, count: int) -> Iterator[None]:
    """Connections that read events."""
    host, _, port = address.rpartition(":")
    socks = [socket.create_connection((host, int(port)), timeout=TIMEOUT) for _ in range(count)]
    for sock in socks:
        sock.sendall(f"GET /debug/api/events HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())

    def read(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sock.recv(1 << 16):
                pass

    threads = [threading.Thread(target=read, args=(sock,)) for sock in socks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for sock in socks:
            sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for sock in socks:
            sock.close()


def busy(program: Program, address: str, count: int, seconds: float) -> float:
    """The share of a core that the server uses while so many watch, in percent."""
    with viewers(address, count):
        time.sleep(2)  # the first snapshots are part of coming, not of watching
        before, began = program.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return 100 * (program.cpu_seconds() - before) / (time.monotonic() - began)


def table(address: str) -> float:
    """Milliseconds until a table of goroutines has come, which is made anew."""
    time.sleep(5)  # longer than one is kept
    began = time.monotonic()
    ask(address, "GET", "/debug/api/goroutines")
    return 1000 * (time.monotonic() - began)


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--seconds", type=float, default=10.0, help="measured time for each figure")
    seconds = made.parse_args().seconds
    prepare()
    core, _ = pick_cores()
    server = Server("live", "live page", python("live_gosched.py"), from_checkout())
    with server.running([core]) as (program, address):
        for _ in range(REQUESTS):
            ask(address, "GET", *(f"/route{i}/5" for i in range(ROUTES)))
        rows = []
        for count in (0, 1, 10):
            share = busy(program, address, count, seconds)
            limit = MOST * count
            verdict = "" if count == 0 else "ok" if share <= limit else "MISSED"
            rows.append([str(count), f"{share:.2f} %", f"{limit:.0f} %", verdict])
        ask(address, "POST", f"/park?n={MANY}")
        ms = table(address)
    print(f"\n{report.machine()}\n")
    print(report.markdown(["viewers", "share of a core", "at most", ""], rows))
    print(f"\nA table of {MANY:,} goroutines takes {ms:.0f} ms.")


if __name__ == "__main__":
    main()
