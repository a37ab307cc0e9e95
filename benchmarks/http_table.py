"""What the server is to reach, beside Go and others: one row for each kind of work.

    python benchmarks/http_table.py [--rounds 3] [--seconds 2] [--rows json,large] [--only go]

Every row but the last two is the CPU time of the server's core for each request, measured as
http_hello.py does, all limits and time-outs on, and its ratio to Go's net/http, taken within each
round, beside the ratio to reach.  `p99` is the 99th percentile of the latency under the same
load for all, 70% of what Go serves.  `idle` is the resident memory of each of 18,000 idle
connections, all of which answer afterwards.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass

import http_hello
import idle
import report
import wrk
from harness import Unavailable, prepare
from options import chosen, parse, parser
from peers import build
from probe import Connection, Expectation, verify
from servers import OURS, WORKERS, Server

GO = "go"
SHARE = 0.7  # of Go's capacity: the load of `p99`
IDLE = 18_000
RATED = 256  # connections of `p99`

BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Mode": "navigate",
    "Cache-Control": "max-age=0",
}
JSON = b'{"active":true,"id":12345,"name":"A Name","tags":["one","two","three"]}'


@dataclass(frozen=True)
class Row:
    title: str
    target: float  # times what Go takes
    request: Expectation
    connections: int = 64
    pipeline: int = 1


ROWS = {
    "hello": Row("hello world", 0.6, Expectation()),
    "browser": Row(
        "8 browser headers, 3 looked up", 0.55, Expectation("/browser", headers=BROWSER)
    ),
    "json": Row(
        "JSON echo",
        0.65,
        Expectation(
            "/json", method="POST", payload=JSON, content_type="application/json", body=JSON
        ),
    ),
    "users": Row("/users/{id}, 100 routes", 0.55, Expectation("/users/12345", body=b"12345")),
    "sleep": Row("sleeps 1 ms, 512 connections", 0.55, Expectation("/sleep"), connections=512),
    "pipelined": Row("pipelined x 16", 0.18, Expectation(), pipeline=16),
    "large": Row("64 KiB", 1.0, Expectation("/large", body=bytes(65536))),
}
P99, MEMORY = "p99", "idle"

# server name -> round -> figure
Figures = Mapping[str, Mapping[int, float]]


def costs(row: Row, servers: list[Server], options: Namespace) -> tuple[Figures, Figures]:
    """CPU time of a request in microseconds, and requests per second."""
    scenario = http_hello.Scenario(row.title, row.request)
    settings = vars(options) | {"connections": row.connections, "pipeline": row.pipeline}
    samples = http_hello.measure_all(servers, scenario, Namespace(**settings))
    cost = {n: {t: s.cpu_us for t, s in rounds.items()} for n, rounds in samples.items()}
    rate = {n: {t: s.per_second for t, s in rounds.items()} for n, rounds in samples.items()}
    return cost, rate


def latency(server: Server, rate: float, options: Namespace) -> float:
    """The 99th percentile in microseconds."""
    with server.running([options.server_core]) as (program, address):
        verify(address, Expectation(), 1)
        for seconds in (http_hello.WARM_UP, options.seconds):
            result = wrk.run(
                f"http://{address}/",
                seconds=seconds,
                connections=RATED,
                core=options.load_core,
                rate=rate,
            )
        program.check_alive()
        per_second = result.requests / result.seconds
        print(f"{server.label}: {per_second:,.0f}/s, p99 {result.p99} µs", file=sys.stderr)
        if per_second < 0.8 * rate:
            raise Unavailable(f"served {per_second:,.0f}/s of {rate:,.0f}/s")
        assert result.p99 is not None
        return result.p99


def latencies(servers: list[Server], rate: float, options: Namespace) -> Figures:
    found: dict[str, dict[int, float]] = {server.name: {} for server in servers}
    for turn in range(options.rounds):
        for server in servers:
            try:
                found[server.name][turn] = latency(server, rate, options)
            except Unavailable as exc:
                print(f"{server.label}: left out: {exc}", file=sys.stderr)
    return found


def memories(servers: list[Server], options: Namespace) -> Figures:
    found: dict[str, dict[int, float]] = {}
    for server in servers:
        try:
            with server.running([options.server_core]) as (program, address):
                each = idle.bytes_each(program, lambda: Connection(address), IDLE)
                found[server.name] = {0: each}
        except Unavailable as exc:
            print(f"{server.label}: left out: {exc}", file=sys.stderr)
    return found


def line(title: str, target: float | None, unit: str, figures: Figures) -> list[str]:
    """A row of the table: ours and Go's figures, our ratio and its target, the others' ratios."""

    def ratio(name: str) -> float | None:
        return report.median_ratio(figures.get(name, {}), figures.get(GO, {}))

    def figure(name: str) -> str:
        rounds = figures.get(name)
        return f"{report.significant(report.middle(rounds))} {unit}" if rounds else "-"

    ours = ratio(OURS)
    verdict = "-" if target is None or ours is None else "ok" if ours <= target else "MISSED"
    wanted = "-" if target is None else f"{target:g}x"
    others = [report.times(ratio(name)) for name in WORKERS if name not in (OURS, GO)]
    return [title, figure(OURS), figure(GO), report.times(ours), wanted, verdict, *others]


def arguments() -> Namespace:
    rows = [*ROWS, P99, MEMORY]
    made = parser(__doc__, list(WORKERS), rounds=3, seconds=2)
    made.add_argument("--rows", metavar="A,B", help=f"of: {', '.join(rows)}")
    options = parse(made, needs_wrk=True)
    options.rows = chosen(made, options.rows, rows)
    return options


def main() -> None:
    options = arguments()
    prepare()
    build.build()
    servers = [WORKERS[name] for name in options.names]
    header = ["work", "gosched", "Go", "to Go", "target", "", *(
        server.label for name, server in WORKERS.items() if name not in (OURS, GO)
    )]  # fmt: skip
    lines, everything = [], {}
    for name, row in ROWS.items():
        if name in options.rows:
            everything[name], _ = costs(row, servers, options)
            lines.append(line(row.title, row.target, "µs", everything[name]))
    go = [server for server in servers if server.name == GO]
    if go and P99 in options.rows:
        capacity = costs(ROWS["hello"], go, options)[1].get(GO)
        if capacity:
            rate = SHARE * report.middle(capacity)
            everything[P99] = latencies(servers, rate, options)
            lines.append(line(f"p99 at {rate:,.0f}/s", 1.0, "µs", everything[P99]))
    if MEMORY in options.rows:
        everything[MEMORY] = memories(servers, options)
        ours = everything[MEMORY].get(OURS)
        row_line = line(f"{IDLE:,} idle connections", None, "bytes", everything[MEMORY])
        if ours:
            row_line[4:6] = ["1,024 bytes", "ok" if ours[0] <= 1024 else "MISSED"]
        lines.append(row_line)
    print(f"\nCPU time of the server's core a request; medians of {options.rounds} rounds of "
          f"{options.seconds} s; ratios to Go.\n{report.machine()}\n")  # fmt: skip
    print(report.markdown(header, lines))
    report.save(options.json, {"seconds": options.seconds, "rows": everything})


if __name__ == "__main__":
    main()
