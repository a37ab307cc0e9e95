"""What each middleware costs a request, beside the same server without it.

    python benchmarks/middleware.py [--rounds 5] [--only cors,access_log json]

CPU time of the server's thread, in a fresh process on one core for each measurement, interleaved;
the differences are taken within each round.
"""

from __future__ import annotations

import sys

import report
from harness import Program, Unavailable, pick_cores, prepare
from options import parse, parser
from servers import from_checkout, python

COUNT = 100_000  # requests
TIMEOUT = 120.0  # seconds for one process
NONE, WRITTEN = "none", "none written"
NAMES = [
    "security_headers",
    "cors",
    "cross_origin_protection",
    "request_id",
    "real_address",
    "basic_auth",
    "basic_auth hashed",
    "api_key",
    "rate_limit",
    "rate_limit key",
    "limit_concurrency",
    "jwt_auth",
    "jwt_auth scopes",
    "access_log common",
    "access_log combined",
    "access_log json",
    "access_log logger",
    "body_limit",
    "compress",
    "compress written",
    "etag",
    "etag written",
    "recover",
]
TARGETS = {  # ns, where it is not 1,000
    "basic_auth hashed": 4000,
    "jwt_auth": 3000,
    "jwt_auth scopes": 4000,
    "access_log common": 3000,
    "access_log combined": 3000,
    "access_log json": 3000,
    "access_log logger": 3000,
}


def run(name: str, core: int) -> float:
    """Nanoseconds for a request."""
    argv = [*python("middleware_gosched.py"), name, str(COUNT)]
    with Program(argv, cores=[core], env=from_checkout()) as program:
        return float(program.output(TIMEOUT))


def base_of(name: str) -> str:
    """The same handler without a middleware: it writes its response, or returns it."""
    return WRITTEN if name.endswith(" written") else NONE


def main() -> None:
    options = parse(parser(__doc__ or "", NAMES))
    prepare()
    core, _ = pick_cores()
    bases = dict.fromkeys(base_of(name) for name in options.names)
    samples: dict[str, dict[int, float]] = {name: {} for name in [*bases, *options.names]}
    for turn in range(options.rounds):
        for name, rounds in list(samples.items()):
            try:
                rounds[turn] = run(name, core)
            except Unavailable as e:  # a package that it needs is not installed
                if name in bases:
                    raise
                print(f"{name}: {e}", file=sys.stderr)
                del samples[name]
    rows = []
    for name in filter(samples.__contains__, options.names):
        rounds, base = samples[name], samples[base_of(name)]
        extra = report.middle({turn: ns - base[turn] for turn, ns in rounds.items()})
        target = TARGETS.get(name, 1000)
        verdict = "ok" if extra <= target else "MISSED"
        rows.append([name, f"{report.significant(extra)} ns", f"{target:,} ns", verdict])
    alone = report.middle(samples[next(iter(bases))])
    print(f"\nMedians of {options.rounds} rounds; without any a request takes "
          f"{report.significant(alone)} ns.\n{report.machine()}\n")  # fmt: skip
    print(report.markdown(["middleware", "costs", "at most", ""], rows))
    report.save(options.json, {"samples": samples})


if __name__ == "__main__":
    main()
