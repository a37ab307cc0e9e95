"""Several Ps: does computing go faster, and how soon does an idle P take up work?

    python3.13t benchmarks/procs.py [--rounds 5]          (free-threaded: PYTHON_GIL=0)

    compute   goroutines that compute, all spawned by one, with GOMAXPROCS 1 and 2 in turn, each
              run in a fresh process; peer: the same functions on 1 and 2 plain threads
    steal     from go() on a P that goes on computing to the first line of the goroutine,
              on another P whose M sleeps; peer: waking a plain thread by threading.Event
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median, quantiles

CHECKOUT = Path(__file__).resolve().parents[1]
TASKS = 200


def compute(n: int = 20_000) -> int:
    total = 0
    for i in range(n):
        total += i & 7
    return total


# --- measured in processes of their own ----------------------------------------------------


def goroutines() -> float:
    from runtime import go

    start = time.perf_counter()
    for g in [go(compute) for _ in range(TASKS)]:
        g.join()
    return time.perf_counter() - start


def threads(n: int) -> float:
    def body() -> None:
        for _ in range(TASKS // n):
            compute()

    start = time.perf_counter()
    ts = [threading.Thread(target=body) for _ in range(n)]
    for t in ts:
        t.start()
    for t in ts:
        t.join()
    return time.perf_counter() - start


def steal(samples: int) -> list[float]:
    from runtime import go

    times: list[int] = []

    def begin() -> None:
        times.append(time.perf_counter_ns())

    latencies = []
    for _ in range(samples):
        spawned = time.perf_counter_ns()
        handle = go(begin)
        while not times:
            pass  # this P stays busy
        latencies.append((times.pop() - spawned) / 1000)
        handle.join()
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass  # the other M goes to sleep
    return latencies


def wake(samples: int) -> list[float]:
    times: list[int] = []
    events = [threading.Event() for _ in range(samples)]

    def body() -> None:
        for event in events:
            event.wait()
            times.append(time.perf_counter_ns())

    t = threading.Thread(target=body)
    t.start()
    latencies = []
    for event in events:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        began = time.perf_counter_ns()
        event.set()
        while not times:
            pass
        latencies.append((times.pop() - began) / 1000)
    t.join()
    return latencies


# --- the run -------------------------------------------------------------------------------


def child(what: str, procs: int) -> list[float]:
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__, "--child", what],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": path, "GOMAXPROCS": str(procs)},
    )
    return [float(x) for x in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        results = {
            "goroutines": lambda: [goroutines()],
            "threads1": lambda: [threads(1)],
            "threads2": lambda: [threads(2)],
            "steal": lambda: steal(args.samples),
            "wake": lambda: wake(args.samples),
        }[args.child]()
        print(*results)
        return
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, GIL {'on' if gil else 'off'}, {os.cpu_count()} CPUs")
    took: dict[str, list[float]] = {"1": [], "2": [], "threads1": [], "threads2": []}
    latency: dict[str, list[float]] = {"steal": [], "wake": []}
    for _ in range(args.rounds):
        for procs in (1, 2):
            took[str(procs)] += child("goroutines", procs)
            took[f"threads{procs}"] += child(f"threads{procs}", 1)
        for what in latency:
            latency[what] += child(what, 2)
    one, two = median(took["1"]), median(took["2"])
    print(f"compute: {one:.3f} s with one P, {two:.3f} s with two: {one / two:.2f} x faster")
    one, two = median(took["threads1"]), median(took["threads2"])
    print(f"  plain threads: {one:.3f} s with one, {two:.3f} s with two: {one / two:.2f} x faster")
    texts = {"steal": "go() to its start on an idle P", "wake": "Event.set() to wake"}
    for what, text in texts.items():
        values = latency[what]
        p99 = quantiles(values, n=100)[98]
        print(f"{text}: median {median(values):.0f} µs, p99 {p99:.0f} µs")
    ratio = median(latency["steal"]) / median(latency["wake"])
    print(f"  {ratio:.2f} x the wake-up of a plain thread")


if __name__ == "__main__":
    main()
