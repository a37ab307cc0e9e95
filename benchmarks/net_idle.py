"""How much memory an idle connection takes that has a goroutine, and what its peers need.

    python benchmarks/net_idle.py [--connections 18000] [--rounds 1] [--only gosched,go]

The servers are those of net_echo.py.  Each connection has one message echoed and stays; its
goroutine waits in read().  The figure is the server's resident memory for each of them, after a
warm-up of 200.  At the end all of them must echo again.  The kernel's memory for sockets, the
same for everyone, is not counted.
"""

import argparse
import socket
import struct
import sys

import idle
import report
from harness import Unavailable, pick_cores, prepare
from options import parse, parser
from peers import build
from servers import OURS
from tcp import ECHO_SERVERS

MESSAGE = b"hello"
SPARE = 100  # descriptors for all the rest
TIMEOUT = 10.0  # seconds for any one read or write


class EchoClient:
    """A connection whose messages come back."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        try:
            self._sock = socket.create_connection((host, int(port)), TIMEOUT)
        except OSError as exc:
            raise Unavailable(f"no connection: {exc}") from None

    def exchange(self) -> None:
        try:
            self._sock.sendall(MESSAGE)
            got = self._sock.recv(len(MESSAGE), socket.MSG_WAITALL)
        except OSError as exc:
            raise Unavailable(f"no echo: {exc}") from None
        if got != MESSAGE:
            raise Unavailable(f"echoed {got!r}, not {MESSAGE!r}")

    def close(self) -> None:
        """Close with a reset, so that no port stays behind in TIME_WAIT."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


def measure(name: str, count: int) -> float:
    with ECHO_SERVERS[name].running(pick_cores()[:1]) as (program, address):
        return idle.bytes_each(program, lambda: EchoClient(address), count)


def arguments() -> argparse.Namespace:
    made = parser(__doc__, list(ECHO_SERVERS), rounds=1)
    made.add_argument("--connections", type=int, default=18_000)
    return parse(made)


def main() -> None:
    options = arguments()
    limit = prepare()
    if limit < options.connections + idle.WARM_UP + SPARE:
        sys.exit(f"a limit of {limit:,} descriptors is too low for --connections")
    build.build()
    samples: dict[str, dict[int, float]] = {name: {} for name in options.names}
    for turn in range(options.rounds):
        for name in options.names:
            try:
                each = samples[name][turn] = measure(name, options.connections)
            except Unavailable as exc:
                print(f"{name}: left out: {exc}", file=sys.stderr, flush=True)
                continue
            print(f"round {turn + 1}: {name}: {each:,.0f} B", file=sys.stderr, flush=True)
    print(f"\n{options.connections:,} idle connections, median of {options.rounds} rounds.")
    print(f"{report.machine()}\n")
    rows = [
        [
            ECHO_SERVERS[name].label,
            f"{report.middle(rounds):,.0f}",
            report.times(report.median_ratio(rounds, samples.get(OURS, {}))),
        ]
        for name, rounds in samples.items()
        if rounds
    ]
    print(report.markdown(["server", "bytes/connection", "vs gosched"], rows))
    report.save(options.json, {"connections": options.connections, "samples": samples})


if __name__ == "__main__":
    main()
