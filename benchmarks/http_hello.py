"""How much CPU a request costs: our HTTP server and its peers, interleaved.

    python benchmarks/http_hello.py [--rounds 5] [--seconds 3] [--pipeline 16] [--only go,epoll]

In every round each server is started afresh on one core, verified, warmed up for a
second and loaded by wrk from another core. Requests per second are bounded by the
load generator for the fastest servers, so the figure to compare is the CPU time of
the server's core for each request.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import report
import wrk
from harness import Unavailable, prepare
from loaded import Sample, measured
from options import parse, parser
from peers import build
from probe import Expectation, verify
from servers import OURS, SERVERS, Server

WARM_UP = 1  # seconds


@dataclass(frozen=True)
class Scenario:
    """Work for the servers. One that answers it wrongly is left out, and reported."""

    title: str
    request: Expectation


SCENARIOS = {
    "hello": Scenario("GET / answers Hello, World", Expectation()),
}


# server name -> round -> sample
Samples = dict[str, dict[int, Sample]]


def measure(server: Server, scenario: Scenario, options: argparse.Namespace) -> Sample:
    request = scenario.request

    def load(address: str, seconds: int) -> wrk.Load:
        return wrk.run(
            f"http://{address}{request.path}",
            seconds=seconds,
            connections=options.connections,
            core=options.load_core,
            pipeline=options.pipeline,
            headers=request.headers,
            method=request.method,
            payload=request.payload,
        )

    with server.running([options.server_core]) as (program, address):
        verify(address, request, options.pipeline)
        return measured(
            program,
            lambda seconds: load(address, seconds),
            warm_up=WARM_UP,
            seconds=options.seconds,
        )


def measure_all(
    servers: Sequence[Server], scenario: Scenario, options: argparse.Namespace
) -> Samples:
    """Round robin over the servers; the order turns, so that no one always comes first."""
    samples: Samples = {server.name: {} for server in servers}
    left_out: set[str] = set()
    for turn in range(options.rounds):
        start = turn % len(servers)
        for server in [*servers[start:], *servers[:start]]:
            if server.name in left_out:
                continue
            try:
                sample = measure(server, scenario, options)
            except Unavailable as exc:
                print(f"{server.label}: left out: {exc}", file=sys.stderr, flush=True)
                left_out.add(server.name)
                continue
            samples[server.name][turn] = sample
            print(
                f"round {turn + 1}: {server.label}: {sample.per_second:,.0f}/s, "
                f"{sample.cpu_us:.2f} µs, {sample.errors} errors",
                file=sys.stderr,
                flush=True,
            )
    return samples


def table(samples: Samples, servers: Mapping[str, Server]) -> str:
    def column(name: str, field: str) -> dict[int, float]:
        fields = {turn: getattr(s, field) for turn, s in samples.get(name, {}).items()}
        return {turn: value for turn, value in fields.items() if value is not None}

    def micros(name: str, field: str) -> str:
        values = column(name, field)
        return f"{report.middle(values):,.0f}" if values else "-"

    header = ["server", "req/s", "p50 µs", "p99 µs", "core busy", "core µs/req", "vs gosched"]
    rows = []
    for name in sorted(
        (name for name in samples if samples[name]),
        key=lambda name: report.middle(column(name, "cpu_us")),
    ):
        cost = column(name, "cpu_us")
        rows.append(
            [
                servers[name].label,
                f"{report.middle(column(name, 'per_second')):,.0f}",
                micros(name, "p50"),
                micros(name, "p99"),
                f"{report.middle(column(name, 'cores')):.0%}",
                report.significant(report.middle(cost)),
                report.times(report.median_ratio(cost, column(OURS, "cpu_us"))),
            ]
        )
    return report.markdown(header, rows)


def arguments() -> argparse.Namespace:
    made = parser(__doc__, list(SERVERS), seconds=3)
    made.add_argument("--scenario", choices=SCENARIOS, default="hello")
    made.add_argument("--connections", type=int, default=64)
    made.add_argument("--pipeline", type=int, default=1, metavar="DEPTH")
    return parse(made, needs_wrk=True)


def main() -> None:
    options = arguments()
    prepare()
    build.build()
    scenario = SCENARIOS[options.scenario]
    samples = measure_all([SERVERS[name] for name in options.names], scenario, options)
    print(f"\n{scenario.title}; {options.connections} connections, pipeline {options.pipeline},")
    print(f"median of {options.rounds} rounds of {options.seconds} s.")
    print(f"{report.machine()}\n")
    print(table(samples, SERVERS))
    for name, rounds in samples.items():
        if errors := sum(sample.errors for sample in rounds.values()):
            print(f"\n{SERVERS[name].label}: {errors:,} errors (sockets, timeouts, statuses)")
    report.save(
        options.json,
        {
            "scenario": options.scenario,
            "connections": options.connections,
            "pipeline": options.pipeline,
            "seconds": options.seconds,
            "samples": {
                name: {turn: asdict(sample) for turn, sample in rounds.items()}
                for name, rounds in samples.items()
            },
        },
    )


if __name__ == "__main__":
    main()
