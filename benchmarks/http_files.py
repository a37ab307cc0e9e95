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
from harness import prepare
from http_hello import Scenario, measure_all, table
from options import parse, parser
from peers import build
from probe import Expectation
from servers import BIN, OURS, Server, from_checkout, python

SIZES = {"64 KiB": 64 << 10, "1 MiB": 1 << 20}


def servers(root: str, work: str) -> dict[str, Server]:
    return {
        server.name: server
        for server in (
            Server(OURS, "gosched", (*python("files_gosched.py"), root), from_checkout()),
            Server("go", "Go FileServer", (str(BIN / "files_go"), root), {"GOMAXPROCS": "1"}),
            Server("nginx", "nginx, 1 worker", (*python("files_nginx.py"), root, work)),
        )
    }


def arguments() -> argparse.Namespace:
    made = parser(__doc__, list(servers("", "")), seconds=3)
    made.add_argument("--connections", type=int, default=16)
    made.set_defaults(pipeline=1)
    return parse(made, needs_wrk=True)


def main() -> None:
    options = arguments()
    prepare()
    build.build()
    saved = {}
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as work:
        known = servers(root, work)
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
