"""What goroutines cost: ours, Go's, gevent's greenlets and asyncio's tasks, interleaved.

    python benchmarks/sched.py [--rounds 3] [--only spawn,chan]

In every round each contestant runs each measurement in a fresh process on one core
(Go also spawns on two), and repeats it there; the process's median is its sample.
The memory of idle HTTP connections is measured on the servers of `servers.py`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import idle
import report
from harness import Program, Unavailable, pick_cores, prepare
from options import parse, parser
from peers import build
from probe import Connection
from servers import BIN, OURS, SERVERS, from_checkout, python

TIMEOUT = 120.0  # seconds for one process


@dataclass(frozen=True)
class Contestant:
    name: str
    label: str
    argv: tuple[str, ...]  # MEASURE COUNT REPEATS are appended
    env: Mapping[str, str] = field(default_factory=dict)
    cores: int = 1
    only: str | None = None  # the one measure it takes part in
    server: str | None = None  # its server for the idle connections


@dataclass(frozen=True)
class Measure:
    name: str
    label: str
    unit: str
    count: int  # operations in one repeat
    repeats: int = 5  # in one process


# contestant name -> round -> sample
Samples = dict[str, dict[int, float]]

SCHED_GO = (str(BIN / "sched_go"),)

CONTESTANTS = (
    Contestant(OURS, "gosched", python("sched_gosched.py"), from_checkout(), server=OURS),
    Contestant("go", "Go", SCHED_GO, {"GOMAXPROCS": "1"}, server="go"),
    Contestant("go2", "Go, 2 Ps", SCHED_GO, {"GOMAXPROCS": "2"}, cores=2, only="spawn"),
    Contestant("gevent", "gevent", python("sched_gevent.py"), server="gevent"),
    Contestant("asyncio", "asyncio", python("sched_asyncio.py"), server="uvicorn"),
)

IDLE = Measure("idle", "idle HTTP connection", "B", 10_000, repeats=1)

MEASURES = {
    measure.name: measure
    for measure in (
        Measure("call", "plain call of the function", "ns", 100_000),
        Measure("spawn", "spawn, run, finish", "ns", 100_000),
        Measure("yield2", "yield, 2 goroutines", "ns", 200_000),
        # A thousand turns each, so that making the goroutines does not count.
        Measure("yield1000", "yield, 1,000 goroutines", "ns", 1_000_000),
        Measure("chan", "message, unbuffered channel", "ns", 100_000),
        Measure("buffered", "item, buffered channel (128)", "ns", 200_000),
        Measure("select4", "select, 4 channels, one ready", "ns", 20_000),
        Measure("mutex", "lock and unlock", "ns", 500_000),
        Measure("timer", "start and stop a timer, among 1,000,000", "ns", 1_000_000, repeats=1),
        Measure("timers", "pending timer", "B", 1_000_000, repeats=1),
        Measure("sleepers", "100,000 sleep 1 s: time beyond", "ms", 100_000, repeats=1),
        Measure("sleeping", "sleeping goroutine", "B", 100_000, repeats=1),
        Measure("parked", "parked goroutine", "B", 100_000, repeats=1),
        IDLE,
    )
}


def run_program(contestant: Contestant, measure: Measure, cores: Sequence[int]) -> float:
    """The contestant's median in one fresh process."""
    argv = [*contestant.argv, measure.name, str(measure.count), str(measure.repeats)]
    with Program(argv, cores=cores, env=contestant.env) as program:
        samples: list[float] = json.loads(program.output(TIMEOUT))["samples"]
    return median(samples)


def run_idle(contestant: Contestant, measure: Measure, cores: Sequence[int]) -> float:
    """Resident bytes for each idle connection of the contestant's server."""
    assert contestant.server is not None
    with SERVERS[contestant.server].running(cores) as (program, address):
        return idle.bytes_each(program, lambda: Connection(address), measure.count)


def contests(contestant: Contestant, measure: Measure) -> bool:
    if measure is IDLE:
        return contestant.server is not None
    return contestant.only in (None, measure.name)


def measure_all(measures: Sequence[Measure], rounds: int) -> dict[str, Samples]:
    """Round robin: within a round the contestants of one measure run back to back."""
    samples: dict[str, Samples] = {
        m.name: {c.name: {} for c in CONTESTANTS if contests(c, m)} for m in measures
    }
    left_out: set[tuple[str, str]] = set()
    program_core, other_core = pick_cores()
    for turn in range(rounds):
        for measure in measures:
            for contestant in CONTESTANTS:
                pair = measure.name, contestant.name
                if not contests(contestant, measure) or pair in left_out:
                    continue
                cores = [program_core, other_core][: contestant.cores]
                run = run_idle if measure is IDLE else run_program
                who = f"{measure.label}: {contestant.label}"
                try:
                    sample = run(contestant, measure, cores)
                except Unavailable as exc:
                    print(f"{who}: left out: {exc}", file=sys.stderr, flush=True)
                    left_out.add(pair)
                    continue
                samples[measure.name][contestant.name][turn] = sample
                print(
                    f"round {turn + 1}: {who}: {sample:,.0f} {measure.unit}",
                    file=sys.stderr,
                    flush=True,
                )
    return samples


def cell(samples: Samples, contestant: Contestant, unit: str) -> str:
    """The median and, in parentheses, its ratio to ours."""
    rounds = samples.get(contestant.name)
    if not rounds:
        return "-"
    text = f"{report.significant(report.middle(rounds))} {unit}"
    if contestant.name == OURS:
        return text
    ratio = report.median_ratio(rounds, samples.get(OURS, {}))
    return text if ratio is None else f"{text} ({report.times(ratio)})"


def table(results: Mapping[str, Samples]) -> str:
    header = ["cost of one", *(c.label for c in CONTESTANTS)]
    rows = []
    for name, samples in results.items():
        measure = MEASURES[name]
        rows.append([measure.label, *(cell(samples, c, measure.unit) for c in CONTESTANTS)])
    return report.markdown(header, rows)


def arguments() -> argparse.Namespace:
    return parse(parser(__doc__, list(MEASURES), rounds=3))


def main() -> None:
    options = arguments()
    limit = prepare()
    if "idle" in options.names and limit < IDLE.count + idle.WARM_UP + 100:
        sys.exit(f"idle connections: a limit of {limit:,} descriptors is too low")
    build.build()
    results = measure_all([MEASURES[name] for name in options.names], options.rounds)
    print(f"\nMedian of {options.rounds} rounds; in parentheses the ratio to gosched.")
    print("HTTP connections: Go net/http, gevent pywsgi, uvicorn (with uvloop) for asyncio.")
    print(f"{report.machine()}\n")
    print(table(results))
    report.save(options.json, {"samples": results})


if __name__ == "__main__":
    main()
