"""What finding a route costs: our ServeMux, Go's, and two Python routers, interleaved.

    python benchmarks/mux.py [--rounds 5] [--routes 1,100,1000]

In every round each contestant looks one path up in a fresh process on one core, for each number
of routes; its best of five repeats is the sample. gosched and Go dispatch a request to an empty
handler that reads the path value; falcon and werkzeug only look the path up.
"""

import argparse
import sys
from pathlib import Path

import report
from harness import Program, Unavailable, pick_cores, prepare
from peers import build
from servers import BIN, OURS, from_checkout, python

TIMEOUT = 120.0  # seconds for one process
COUNT = 20_000  # lookups in one repeat
PATHS = {"/users/{id}": "/users/12345", "/users": "/users"}  # both patterns are registered

CONTESTANTS = {
    OURS: ("gosched", python("mux_gosched.py"), from_checkout()),
    "go": ("Go", (str(BIN / "mux_go"),), {"GOMAXPROCS": "1"}),
    "falcon": ("falcon", python("mux_falcon.py"), {}),
    "werkzeug": ("werkzeug", python("mux_werkzeug.py"), {}),
}

# (pattern, routes) -> contestant -> round -> ns
Samples = dict[tuple[str, int], dict[str, dict[int, float]]]


def run(name: str, routes: int, path: str, core: int) -> float:
    _, argv, env = CONTESTANTS[name]
    with Program([*argv, str(routes), path, str(COUNT)], cores=[core], env=env) as program:
        return float(program.output(TIMEOUT))


def measure_all(routes: list[int], rounds: int) -> Samples:
    works = [(pattern, n) for pattern in PATHS for n in routes if n > 1 or "{" in pattern]
    samples: Samples = {work: {name: {} for name in CONTESTANTS} for work in works}
    left_out: set[str] = set()
    core, _ = pick_cores()
    for turn in range(rounds):
        for work in works:
            for name in CONTESTANTS:
                if name in left_out:
                    continue
                try:
                    samples[work][name][turn] = run(name, work[1], PATHS[work[0]], core)
                except Unavailable as exc:
                    print(f"{name}: left out: {exc}", file=sys.stderr, flush=True)
                    left_out.add(name)
    return samples


def cell(rounds: dict[int, float], ours: dict[int, float], name: str) -> str:
    if not rounds:
        return "-"
    text = f"{report.significant(report.middle(rounds))} ns"
    return text if name == OURS else f"{text} ({report.times(report.median_ratio(rounds, ours))})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--routes", default="1,100,1000", metavar="A,B")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every sample")
    options = parser.parse_args()
    prepare()
    build.build()
    samples = measure_all([int(n) for n in options.routes.split(",")], options.rounds)
    rows = [
        [f"{pattern} of {n:,}", *(cell(by[name], by[OURS], name) for name in CONTESTANTS)]
        for (pattern, n), by in samples.items()
    ]
    print(f"\nMedian of {options.rounds} rounds; in parentheses the ratio to gosched.")
    print(f"{report.machine()}\n")
    print(report.markdown(["route", *(label for label, *_ in CONTESTANTS.values())], rows))
    named = {f"{pattern} of {n}": by for (pattern, n), by in samples.items()}
    report.save(options.json, {"samples": named})


if __name__ == "__main__":
    main()
