"""How much CPU an echo over TCP costs: a goroutine for each connection, and its peers.

    python benchmarks/net_echo.py [--rounds 5] [--seconds 3] [--only gosched,go] [--bytes 64]

In every round each server is started afresh on one core, warmed up for a second and
loaded from another core over 64 connections, each of which has one message of 64 bytes
under way. The figure to compare is the CPU time of the server's core for each echo:
echoes per second are bounded by the load generator, too.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import report
from harness import Unavailable, last_line, pick_cores, pin, prepare
from peers import build
from servers import BIN, OURS, Server, from_checkout, python

WARM_UP = 1  # seconds

SERVERS = {
    server.name: server
    for server in (
        Server(OURS, "gosched", python("echo_gosched.py"), from_checkout()),
        Server("epoll", "C epoll, minimal", (str(BIN / "epoll_echo"),)),
        Server("go", "Go net", (str(BIN / "echo_go"),), {"GOMAXPROCS": "1"}),
        Server("gevent", "gevent", python("echo_gevent.py")),
    )
}


@dataclass(frozen=True)
class Sample:
    """One server in one round."""

    per_second: float
    cpu_us: float  # of the server, for each echo
    busy: float  # share of the server's core, 0 to 1


# server name -> round -> sample
Samples = dict[str, dict[int, Sample]]


def load(address: str, seconds: int, options: argparse.Namespace) -> tuple[int, float]:
    """How many echoes there were, and in how many seconds."""
    argv = [str(BIN / "echo_load"), address, str(options.connections), str(options.bytes)]
    done = subprocess.run(
        [*pin([options.load_core]), *argv, str(seconds)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    if done.returncode != 0:
        raise Unavailable(f"the load: {last_line(done.stderr)}")
    echoes, took = done.stdout.split()
    return int(echoes), float(took)


def measure(server: Server, options: argparse.Namespace) -> Sample:
    with server.running([options.server_core]) as (program, address):
        load(address, WARM_UP, options)
        before = program.cpu_seconds()
        echoes, took = load(address, options.seconds, options)
        used = program.cpu_seconds() - before
        program.check_alive()
    if echoes == 0:
        raise Unavailable("echoed nothing under load")
    return Sample(echoes / took, used / echoes * 1e6, used / took)


def measure_all(options: argparse.Namespace) -> Samples:
    """Round robin over the servers; the order turns, so that no one always comes first."""
    names = list(options.names)
    samples: Samples = {name: {} for name in names}
    for turn in range(options.rounds):
        start = turn % len(names)
        for name in [*names[start:], *names[:start]]:
            if name not in samples:
                continue
            try:
                sample = samples[name][turn] = measure(SERVERS[name], options)
            except Unavailable as exc:
                print(f"{name}: left out: {exc}", file=sys.stderr, flush=True)
                del samples[name]
                continue
            print(
                f"round {turn + 1}: {name}: {sample.per_second:,.0f}/s, {sample.cpu_us:.2f} µs",
                file=sys.stderr,
                flush=True,
            )
    return samples


def table(samples: Samples) -> str:
    def column(name: str, field: str) -> dict[int, float]:
        return {turn: getattr(s, field) for turn, s in samples.get(name, {}).items()}

    header = ["server", "echoes/s", "core busy", "core µs/echo", "vs gosched"]
    rows = []
    for name in sorted(samples, key=lambda name: report.middle(column(name, "cpu_us"))):
        cost = column(name, "cpu_us")
        rows.append(
            [
                SERVERS[name].label,
                f"{report.middle(column(name, 'per_second')):,.0f}",
                f"{report.middle(column(name, 'busy')):.0%}",
                report.significant(report.middle(cost)),
                report.times(report.median_ratio(cost, column(OURS, "cpu_us"))),
            ]
        )
    return report.markdown(header, rows)


def arguments() -> argparse.Namespace:
    server_core, load_core = pick_cores()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="measured time a server and round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--bytes", type=int, default=64, help="of a message")
    parser.add_argument("--only", metavar="A,B", help=f"of: {', '.join(SERVERS)}")
    parser.add_argument("--server-core", type=int, default=server_core)
    parser.add_argument("--load-core", type=int, default=load_core)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every sample")
    options = parser.parse_args()
    options.names = options.only.split(",") if options.only else list(SERVERS)
    for name in options.names:
        if name not in SERVERS:
            parser.error(f"no server is called {name!r}; there are {', '.join(SERVERS)}")
    return options


def main() -> None:
    options = arguments()
    prepare()
    build.build()
    samples = measure_all(options)
    print(f"\nEcho of {options.bytes} bytes over {options.connections} connections,")
    print(f"median of {options.rounds} rounds of {options.seconds} s.")
    print(f"{report.machine()}\n")
    print(table(samples))
    report.save(
        options.json,
        {
            "connections": options.connections,
            "bytes": options.bytes,
            "seconds": options.seconds,
            "samples": {
                name: {turn: asdict(sample) for turn, sample in rounds.items()}
                for name, rounds in samples.items()
            },
        },
    )


if __name__ == "__main__":
    main()
