"""What the Python scheduler programs share: the command line, the output, memory.

usage: sched_X.py MEASURE COUNT REPEATS

prints one JSON line, `{"measure": "spawn", "samples": [61.2, ...]}`: for each repeat
the cost of one of COUNT operations, in nanoseconds or (`parked`) bytes.
"""

import json
import sys
from collections.abc import Callable, Mapping
from time import perf_counter


def resident() -> int:
    """Resident memory of this process, in bytes (exact, unlike /proc/self/statm)."""
    with open("/proc/self/smaps_rollup") as rollup:
        for line in rollup:
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no Rss in /proc/self/smaps_rollup")


def ns_each(start: float, count: int) -> float:
    """Nanoseconds for each of `count` operations since `start` (of perf_counter)."""
    return (perf_counter() - start) * 1e9 / count


def plain_call(fn: Callable[[], object], count: int) -> float:
    """What calling `fn` costs without any scheduler: the floor for `spawn`."""
    start = perf_counter()
    for _ in range(count):
        fn()
    return ns_each(start, count)


def main(measures: Mapping[str, Callable[[int], float]]) -> None:
    name, count, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    samples = [measures[name](count) for _ in range(repeats)]
    print(json.dumps({"measure": name, "samples": samples}))
