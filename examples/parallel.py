"""Counts primes with goroutines that compute: on all cores, where Python has no GIL.

    python examples/parallel.py                             # with a GIL: one core
    python3.14t examples/parallel.py                        # without: all of them
    GOMAXPROCS=2 python3.14t examples/parallel.py [LIMIT]
"""

import collections
import sys
import threading
import time

import runtime

CHUNK = 5000


def count_primes(start: int, stop: int) -> tuple[int, int]:
    """How many primes there are from start to stop - 1, and the thread that has counted them."""
    primes = 0
    for n in range(max(start, 2), stop):
        if all(n % d for d in range(2, int(n**0.5) + 1)):
            primes += 1
    return primes, threading.get_ident()


def main(limit: int) -> None:
    began = time.perf_counter()
    with runtime.Group() as grp:  # waits for all of them
        chunks = [
            grp.go(count_primes, start, min(start + CHUNK, limit))
            for start in range(0, limit, CHUNK)
        ]
    seconds = time.perf_counter() - began
    results = [chunk.join() for chunk in chunks]
    threads = collections.Counter(thread for _, thread in results)
    print(f"{sum(primes for primes, _ in results)} primes below {limit}")
    print(f"{len(chunks)} goroutines on {len(threads)} of GOMAXPROCS={runtime.gomaxprocs()} Ps")
    print(f"in {seconds:.2f} s; of each thread: {sorted(threads.values())}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
