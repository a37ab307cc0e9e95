"""What a change costs a request: this checkout and another one, built, interleaved.

    python benchmarks/against.py ../before [--rounds 15] [--seconds 1] [--pipeline 16]

Hello World by two servers that run all the time, each loaded in turn by wrk from another core. CPU
time of the server's core for a request; the ratio is taken within each round, and who comes first
changes from round to round.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import report
import wrk
from harness import REPO, Program, prepare
from options import parse, parser
from servers import Server, python

CONNECTIONS = 64


def server(name: str, checkout: Path) -> Server:
    path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
    env = {"PYTHONPATH": path, "GOMAXPROCS": "1"}
    return Server(name, name, python("hello_gosched.py"), env)


def main() -> None:
    made = parser(__doc__ or "", ["this", "other"], rounds=15, seconds=1)
    made.add_argument("checkout", type=Path, help="the other one; its core must be built")
    made.add_argument("--pipeline", type=int, default=1)
    options = parse(made, needs_wrk=True)
    if not (options.checkout / "runtime" / "__init__.py").is_file():
        made.error(f"{options.checkout} is no checkout of gosched")
    prepare()

    def measure(program: Program, address: str) -> float:
        before = program.cpu_seconds()
        load = wrk.run(
            f"http://{address}/",
            seconds=options.seconds,
            connections=CONNECTIONS,
            core=options.load_core,
            pipeline=options.pipeline,
        )
        return (program.cpu_seconds() - before) / load.requests * 1e6

    us: dict[str, dict[int, float]] = {"this": {}, "other": {}}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(server(name, path).running([options.server_core]))
            for name, path in (("this", REPO), ("other", options.checkout.resolve()))
        }
        for turn in range(-1, options.rounds):  # the first one warms up
            for name in sorted(us, reverse=turn % 2 == 0):
                us[name][turn] = measure(*running[name])
    for samples in us.values():
        del samples[-1]
    ratio = report.middle({turn: us["this"][turn] / us["other"][turn] for turn in us["this"]})
    print(f"\nMedians of {options.rounds} rounds.\n{report.machine()}\n")
    rows = [[name, f"{report.middle(us[name]):.3f} µs"] for name in us]
    print(report.markdown(["checkout", "core time for a request"], rows))
    print(f"\nthis / other: {ratio:.4f}")
    report.save(options.json, {"samples": us})


if __name__ == "__main__":
    main()
