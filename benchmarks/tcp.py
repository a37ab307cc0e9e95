"""What the TCP benchmarks share: servers on one core, a load in C on another, in rounds.

In every round each server is started afresh, warmed up and loaded; the order turns from
round to round.  The figure to compare is the CPU time of the server's core for each unit of
work, as a ratio taken within a round: what a second holds is bounded by the load, too, and by
whatever else runs on the machine.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import report
from harness import Unavailable, last_line, pin, prepare
from peers import build
from servers import BIN, OURS, Server, from_checkout, python

WARM_UP = 1.0  # seconds, or less in short runs


@dataclass(frozen=True)
class Sample:
    """One server in one round."""

    per_second: float
    cpu_us: float  # of the server, for each unit of work
    busy: float  # share of the server's core, 0 to 1


# server name -> round -> sample
Samples = dict[str, dict[int, Sample]]
Measure = Callable[[Server, argparse.Namespace], Sample]


@dataclass(frozen=True)
class Scenario:
    """One kind of work and who does it."""

    title: str
    unit: str  # of work: "echo"
    servers: Mapping[str, Server]
    measure: Measure


def peers(kind: str, c_label: str, c_program: str) -> dict[str, Server]:
    """Our server of a kind, a floor in C, and those of Go and gevent."""
    servers = (
        Server(OURS, "gosched", python(f"{kind}_gosched.py"), from_checkout()),
        Server("c", c_label, (str(BIN / c_program),)),
        Server("go", "Go net", (str(BIN / f"{kind}_go"),), {"GOMAXPROCS": "1"}),
        Server("gevent", "gevent", python(f"{kind}_gevent.py")),
    )
    return {server.name: server for server in servers}


# A goroutine (greenlet) for each connection, but for the one in C.
ECHO_SERVERS = peers("echo", "C epoll, minimal", "epoll_echo")


def load(
    program: str, arguments: Sequence[object], seconds: float, core: int
) -> tuple[float, float]:
    """Run a load: how much was done, and in how many seconds."""
    done = subprocess.run(
        [*pin([core]), str(BIN / program), *map(str, arguments), str(seconds)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    if done.returncode != 0:
        raise Unavailable(f"the load: {last_line(done.stderr)}")
    work, took = map(float, done.stdout.split())
    return work, took


def under_load(
    program: str, arguments: Callable[[argparse.Namespace], Sequence[object]]
) -> Measure:
    """How to measure a server that a program in C loads: it gets the address first."""

    def measure(server: Server, options: argparse.Namespace) -> Sample:
        with server.running([options.server_core]) as (running, address):
            argv = [address, *arguments(options)]
            load(program, argv, min(WARM_UP, options.seconds), options.load_core)
            before = running.cpu_seconds()
            work, took = load(program, argv, options.seconds, options.load_core)
            used = running.cpu_seconds() - before
            running.check_alive()
        if work == 0:
            raise Unavailable("did nothing under load")
        return Sample(work / took, used / work * 1e6, used / took)

    return measure


def measure_all(scenario: Scenario, options: argparse.Namespace) -> Samples:
    """Round robin over the servers; the order turns, so that no one always comes first."""
    names = [name for name in scenario.servers if name in options.names]
    samples: Samples = {name: {} for name in names}
    for turn in range(options.rounds):
        start = turn % len(names)
        for name in [*names[start:], *names[:start]]:
            if name not in samples:
                continue
            try:
                sample = scenario.measure(scenario.servers[name], options)
            except Unavailable as exc:
                print(f"{name}: left out: {exc}", file=sys.stderr, flush=True)
                del samples[name]
                continue
            samples[name][turn] = sample
            print(
                f"round {turn + 1}: {scenario.title}: {name}: {sample.per_second:,.0f}/s, "
                f"{sample.cpu_us:.2f} µs",
                file=sys.stderr,
                flush=True,
            )
    return samples


def table(scenario: Scenario, samples: Samples) -> str:
    def column(name: str, field: str) -> dict[int, float]:
        return {turn: getattr(s, field) for turn, s in samples.get(name, {}).items()}

    unit = scenario.unit
    plural = unit if unit == "MiB" else f"{unit}es" if unit.endswith("o") else f"{unit}s"
    header = [scenario.title, f"{plural}/s", "core busy", f"core µs/{unit}", "vs gosched"]
    rows = []
    for name in sorted(samples, key=lambda name: report.middle(column(name, "cpu_us"))):
        cost = column(name, "cpu_us")
        rows.append(
            [
                scenario.servers[name].label,
                f"{report.middle(column(name, 'per_second')):,.0f}",
                f"{report.middle(column(name, 'busy')):.0%}",
                report.significant(report.middle(cost)),
                report.times(report.median_ratio(cost, column(OURS, "cpu_us"))),
            ]
        )
    return report.markdown(header, rows)


def run(scenarios: Sequence[Scenario], options: argparse.Namespace) -> None:
    """Measure, print a table for each scenario, and save the samples."""
    prepare()
    build.build()
    scenarios = [s for s in scenarios if not s.servers.keys().isdisjoint(options.names)]
    results = [(scenario, measure_all(scenario, options)) for scenario in scenarios]
    print(f"\nMedian of {options.rounds} rounds of {options.seconds:g} s.")
    print(report.machine())
    for scenario, samples in results:
        print(f"\n{table(scenario, samples)}")
    report.save(
        options.json,
        {
            "seconds": options.seconds,
            "samples": {
                scenario.title: {
                    name: {turn: asdict(sample) for turn, sample in rounds.items()}
                    for name, rounds in samples.items()
                }
                for scenario, samples in results
            },
        },
    )
