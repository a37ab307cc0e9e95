"""How much more an HTTP server does with two Ps than with one, where Python has no GIL.

    python3.14t benchmarks/http_scale.py [--rounds 5] [--seconds 3] [--procs 1,2]

Handlers compute in Python for about as long as asked (--micros 100,1000). In every round
the server starts afresh with each GOMAXPROCS, on the same cores, is verified, warmed up
for a second and loaded by wrk with a few connections. wrk has no core of its own on a
machine with two; with such handlers it needs little of one. The figure to compare is
requests per second, over that of the first GOMAXPROCS of the same round. `cores` tells how
many the server could use: where others kept them busy, that ratio is theirs, not ours, and
only `core µs/req` says something, the CPU time of the server for each request: it would not
grow with GOMAXPROCS if nothing were shared.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import report
import wrk
from harness import Program, Unavailable, free_address, last_line, prepare
from loaded import Sample, measured
from probe import Expectation, verify
from servers import from_checkout, python

WARM_UP = 1  # seconds
SCRIPT = "compute_gosched.py"


# GOMAXPROCS -> round -> sample
Samples = dict[int, dict[int, Sample]]


def environment(procs: int) -> dict[str, str]:
    return from_checkout() | {"GOMAXPROCS": str(procs), "PYTHON_GIL": "0"}


def calibrated(micros: float) -> int:
    """How many turns of the handlers' loop take so long."""
    done = subprocess.run(
        [*python(SCRIPT), "calibrate", str(micros)],
        env=os.environ | environment(1),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Unavailable(last_line(done.stderr))
    return int(done.stdout)


def measure(turns: int, procs: int, options: argparse.Namespace) -> Sample:
    address = free_address()
    path = f"/{turns}"

    def load(seconds: int) -> wrk.Load:
        return wrk.run(
            f"http://{address}{path}",
            seconds=seconds,
            connections=options.connections,
            core=options.load_core,
        )

    with Program(
        [*python(SCRIPT), address], cores=options.cores, env=environment(procs)
    ) as program:
        program.wait_listening(address)
        verify(address, Expectation(path, body=str(turns * (turns - 1) // 2).encode()), pipeline=1)
        return measured(program, load, warm_up=WARM_UP, seconds=options.seconds)


def measure_all(micros: float, options: argparse.Namespace) -> Samples:
    """All settings in turn, the first one first in every other round."""
    turns = calibrated(micros)
    samples: Samples = {procs: {} for procs in options.procs}
    for round_ in range(options.rounds):
        for procs in options.procs[:: 1 if round_ % 2 == 0 else -1]:
            sample = samples[procs][round_] = measure(turns, procs, options)
            print(
                f"{micros:g} µs, round {round_ + 1}, GOMAXPROCS={procs}: "
                f"{sample.per_second:,.0f}/s, {sample.cores:.2f} cores, {sample.errors} errors",
                file=sys.stderr,
                flush=True,
            )
    return samples


def rows(micros: float, samples: Samples) -> list[list[str]]:
    def column(procs: int, field: str) -> dict[int, float]:
        return {turn: getattr(sample, field) for turn, sample in samples[procs].items()}

    first = next(iter(samples))
    return [
        [
            f"{micros:g} µs, GOMAXPROCS={procs}",
            f"{report.middle(column(procs, 'per_second')):,.0f}",
            f"{report.middle(column(procs, 'cores')):.2f}",
            report.significant(report.middle(column(procs, "cpu_us"))),
            report.significant(report.middle(column(procs, "p99"))),
            report.times(
                report.median_ratio(column(procs, "per_second"), column(first, "per_second"))
            ),
        ]
        for procs in samples
    ]


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--micros", type=numbers, default=[100, 1000], metavar="A,B")
    parser.add_argument("--procs", type=numbers, default=[1, 2], metavar="A,B")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="measured time a setting and round")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--load-core", type=int, default=cores[-1])
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every sample")
    options = parser.parse_args()
    options.cores = cores[: max(options.procs)]
    if not hasattr(sys, "_is_gil_enabled"):
        parser.error("this Python has a GIL: run it with a free-threaded one")
    if not wrk.installed():
        parser.error("wrk is not installed (Debian: apt-get install wrk)")
    return options


def main() -> None:
    options = arguments()
    prepare()
    measured = {micros: measure_all(micros, options) for micros in options.micros}
    header = ["handler", "req/s", "cores", "core µs/req", "p99 µs"]
    header.append(f"vs GOMAXPROCS={options.procs[0]}")
    print(f"\nHandlers that compute; {options.connections} connections, median of ", end="")
    print(f"{options.rounds} rounds of {options.seconds} s.\n{report.machine()}\n")
    print(report.markdown(header, [row for m, s in measured.items() for row in rows(m, s)]))
    report.save(
        options.json,
        {
            "connections": options.connections,
            "seconds": options.seconds,
            "samples": {
                micros: {
                    procs: {turn: asdict(sample) for turn, sample in rounds.items()}
                    for procs, rounds in samples.items()
                }
                for micros, samples in measured.items()
            },
        },
    )


if __name__ == "__main__":
    main()
