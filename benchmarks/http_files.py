"""How much CPU a file costs: our file server and its peers, interleaved.

    python benchmarks/http_files.py [--rounds 5] [--seconds 3] [--only gosched,go]

Files of 64 KiB and of 1 MiB, which are in the page cache, to clients on another core that
keep their connections. All servers send Content-Type, Last-Modified and Content-Length; Go's
alone sends no ETag.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import report
import wrk
from harness import pick_cores, prepare
from http_hello import Samples, Scenario, measure_all
from peers import build
from probe import Expectation
from servers import BIN, OURS, Server, from_checkout, python

SIZES = {"64 KiB": 64 << 10, "1 MiB": 1 << 20}


def servers(root: str) -> dict[str, Server]:
    return {
        server.name: server
        for server in (
            Server(OURS, "gosched", (*python("files_gosched.py"), root), from_checkout()),
            Server("go", "Go FileServer", (str(BIN / "files_go"), root), {"GOMAXPROCS": "1"}),
            Server("nginx", "nginx, 1 worker", (*python("files_nginx.py"), root)),
        )
    }


def table(samples: Samples, labels: dict[str, Server]) -> str:
    def column(name: str, field: str) -> dict[int, float]:
        return {turn: getattr(s, field) for turn, s in samples.get(name, {}).items()}

    rows = []
    for name in sorted(
        (name for name in samples if samples[name]),
        key=lambda name: report.middle(column(name, "cpu_us")),
    ):
        cost = column(name, "cpu_us")
        rows.append(
            [
                labels[name].label,
                f"{report.middle(column(name, 'per_second')):,.0f}",
                f"{report.middle(column(name, 'busy')):.0%}",
                report.significant(report.middle(cost)),
                report.times(report.median_ratio(cost, column(OURS, "cpu_us"))),
            ]
        )
    return report.markdown(["server", "req/s", "core busy", "core µs/req", "vs gosched"], rows)


def arguments() -> argparse.Namespace:
    server_core, load_core = pick_cores()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="measured time a server and round")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--only", metavar="A,B", help="of: gosched, go, nginx")
    parser.add_argument("--server-core", type=int, default=server_core)
    parser.add_argument("--load-core", type=int, default=load_core)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every sample")
    options = parser.parse_args()
    options.pipeline = 1
    known = servers("")
    options.names = options.only.split(",") if options.only else list(known)
    for name in options.names:
        if name not in known:
            parser.error(f"no server is called {name!r}; there are {', '.join(known)}")
    if not wrk.installed():
        parser.error("wrk is not installed (Debian: apt-get install wrk)")
    return options


def main() -> None:
    options = arguments()
    prepare()
    build.build()
    saved = {}
    with tempfile.TemporaryDirectory() as root:
        known = servers(root)
        for title, size in SIZES.items():
            data = os.urandom(size)
            Path(root, f"{size}.bin").write_bytes(data)
            os.utime(Path(root, f"{size}.bin"), (1e9, 1e9))
            request = Expectation(
                path=f"/{size}.bin", content_type="application/octet-stream", body=data
            )
            scenario = Scenario(f"GET of a file of {title}", request)
            samples = measure_all([known[name] for name in options.names], scenario, options)
            print(f"\n{scenario.title}; {options.connections} connections,")
            print(f"median of {options.rounds} rounds of {options.seconds} s.")
            print(f"{report.machine()}\n\n{table(samples, known)}", flush=True)
            for name, rounds in samples.items():
                if errors := sum(sample.errors for sample in rounds.values()):
                    print(f"\n{known[name].label}: {errors:,} errors", file=sys.stderr)
            saved[title] = {
                name: {turn: asdict(sample) for turn, sample in rounds.items()}
                for name, rounds in samples.items()
            }
    report.save(options.json, {"connections": options.connections, "samples": saved})


if __name__ == "__main__":
    main()
