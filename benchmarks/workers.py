"""Two workers on two cores: ours, Go's net/http with GOMAXPROCS=2, and Python servers with two.

    python benchmarks/workers.py [--rounds 5] [--seconds 3] [--only A,B] [--work hello,reload]

Hello world, and a handler that computes for about 100 µs (in Go as in Python: as many turns of a
loop as take so long). In every round each server starts afresh on both cores, is verified, warmed
up, and loaded by wrk, which shares the cores: so requests per second are what server and wrk reach
together, and the figure to compare is the CPU time of all processes of the server for each request.

Then `reload`: our workers are replaced again and again (SIGHUP each second) under load. No request
may fail.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict

import report
import wrk
from harness import Unavailable, last_line, prepare
from loaded import Sample, measured
from options import chosen, parse, parser
from peers import build
from probe import HELLO, Expectation, verify
from servers import OURS, PAIRS, Server, python

WARM_UP = 2  # seconds; the second worker may start later than the first one
MICROS = 100.0
WORKS = {"hello": "hello world", "compute": f"computes {MICROS:.0f} µs"}
RELOAD = "reload"
RELOADS = 10  # one a second


# server name -> round -> sample
Samples = dict[str, dict[int, Sample]]


def calibrated(server: Server) -> int:
    """How many turns of its handlers' loop take MICROS."""
    argv = server.argv if server.name == "go" else python("compute_gosched.py")
    done = subprocess.run(
        [*argv, "calibrate", str(MICROS)],
        env=os.environ | dict(PAIRS[OURS].env),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Unavailable(last_line(done.stderr))
    return int(done.stdout)


def load(address: str, path: str, seconds: int, options: argparse.Namespace) -> wrk.Load:
    return wrk.run(
        f"http://{address}{path}",
        seconds=seconds,
        connections=options.connections,
        core=options.cores,
    )


def measure(server: Server, request: Expectation, options: argparse.Namespace) -> Sample:
    with server.running(options.cores) as (program, address):
        verify(address, request, pipeline=1)
        return measured(
            program,
            lambda seconds: load(address, request.path, seconds, options),
            warm_up=WARM_UP,
            seconds=options.seconds,
        )


def measure_all(work: str, options: argparse.Namespace) -> Samples:
    """Round robin over the servers; the order turns, so that no one always comes first."""
    samples: Samples = {}
    requests: dict[str, Expectation] = {}
    turns: dict[bool, int] = {}
    for name in options.names:
        requests[name] = HELLO
        if work == "compute":
            n = turns.setdefault(name == "go", 0) or calibrated(PAIRS[name])
            turns[name == "go"] = n
            requests[name] = Expectation(f"/{n}", body=str(n * (n - 1) // 2).encode())
    for turn in range(options.rounds):
        start = turn % len(options.names)
        for name in [*options.names[start:], *options.names[:start]]:
            if name not in requests:
                continue
            server = PAIRS[name]
            try:
                sample = measure(server, requests[name], options)
            except Unavailable as exc:
                print(f"{server.label}: left out: {exc}", file=sys.stderr, flush=True)
                del requests[name]
                continue
            samples.setdefault(name, {})[turn] = sample
            print(
                f"{work}, round {turn + 1}: {server.label}: {sample.per_second:,.0f}/s, "
                f"{sample.cpu_us:.2f} µs, {sample.errors} errors",
                file=sys.stderr,
                flush=True,
            )
    return samples


def rows(work: str, samples: Samples) -> list[list[str]]:
    def column(name: str, field: str) -> dict[int, float]:
        return {turn: getattr(s, field) for turn, s in samples.get(name, {}).items()}

    def ratio(name: str, field: str) -> str:
        return report.times(report.median_ratio(column(name, field), column(OURS, field)))

    made = []
    for name in sorted(samples, key=lambda name: report.middle(column(name, "cpu_us"))):
        made.append(
            [
                f"{WORKS[work]}: {PAIRS[name].label}",
                f"{report.middle(column(name, 'per_second')):,.0f}",
                f"{report.middle(column(name, 'cores')):.2f}",
                report.significant(report.middle(column(name, "p99"))),
                report.significant(report.middle(column(name, "cpu_us"))),
                ratio(name, "cpu_us"),
                ratio(name, "per_second"),
                f"{sum(sample.errors for sample in samples[name].values()):,}",
            ]
        )
    return made


def reload(options: argparse.Namespace) -> dict[str, float]:
    """Replace our workers once a second under load; what came of it."""
    with PAIRS[OURS].running(options.cores) as (program, address):
        verify(address, HELLO, pipeline=1)
        seen = set(program.pids())
        done = threading.Event()

        def hang_up() -> None:
            for _ in range(RELOADS):
                if done.wait(1):
                    return
                os.kill(program.pid, signal.SIGHUP)
                seen.update(program.pids())

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            result = load(address, "/", RELOADS + 2, options)
        finally:
            done.set()
            thread.join()
        seen.update(program.pids())
        program.check_alive()
    return {
        "requests": result.requests,
        "per_second": result.requests / result.seconds,
        "errors": result.errors,
        "workers": len(seen) - 1,  # one is the supervisor
    }


def arguments() -> argparse.Namespace:
    made = parser(__doc__ or "", list(PAIRS))
    made.add_argument("--seconds", type=int, default=3, help="measured time in a round")
    made.add_argument("--connections", type=int, default=64)
    works = [*WORKS, RELOAD]
    made.add_argument("--work", metavar="A,B", help=f"of: {', '.join(works)}")
    options = parse(made, needs_wrk=True)
    options.works = chosen(made, options.work, works)
    options.cores = sorted(os.sched_getaffinity(0))[:2]
    return options


def main() -> None:
    options = arguments()
    prepare()
    build.build()
    measured = {work: measure_all(work, options) for work in options.works if work in WORKS}
    reloaded = reload(options) if RELOAD in options.works else None
    print(f"\nTwo workers (Go: GOMAXPROCS=2) on cores {options.cores}, which wrk shares;")
    print(f"{options.connections} connections, medians of {options.rounds} rounds of ", end="")
    print(f"{options.seconds} s.\n{report.machine()}\n")
    if measured:
        header = ["server", "req/s", "cores", "p99 µs", "core µs/req", "its core µs over ours"]
        header += ["its req/s over ours", "errors"]
        table = [row for work, samples in measured.items() for row in rows(work, samples)]
        print(report.markdown(header, table))
    if reloaded is not None:
        print(
            f"\nRolling reload, {RELOADS} times in {RELOADS + 2} s: {reloaded['errors']} of "
            f"{reloaded['requests']:,} requests failed ({reloaded['per_second']:,.0f}/s; "
            f"{reloaded['workers']} worker processes took part)"
        )
    report.save(
        options.json,
        {
            "connections": options.connections,
            "seconds": options.seconds,
            "samples": {
                work: {
                    name: {turn: asdict(sample) for turn, sample in rounds.items()}
                    for name, rounds in samples.items()
                }
                for work, samples in measured.items()
            },
            "reload": reloaded,
        },
    )


if __name__ == "__main__":
    main()
