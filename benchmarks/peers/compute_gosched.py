"""A server whose handlers compute: GET /N turns a loop N times and answers the sum.

compute_gosched.py calibrate MICROSECONDS prints the N that takes about so long.
"""

import sys
import time

from runtime import http


def turn(n: int) -> int:
    total = 0
    for i in range(n):
        total += i
    return total


@http.handle_func("/{n}")
def compute(w, r):
    return str(turn(int(r.path_value("n"))))


def calibrate(seconds: float) -> int:
    """The best of many short runs: others on the machine only make it slower."""
    n = 1000
    best = float("inf")
    until = time.perf_counter() + 1
    while time.perf_counter() < until:
        start = time.perf_counter()
        turn(n)
        best = min(best, time.perf_counter() - start)
    return max(1, round(n * seconds / best))


if __name__ == "__main__":
    if sys.argv[1] == "calibrate":
        print(calibrate(float(sys.argv[2]) * 1e-6))
    else:
        http.listen_and_serve(sys.argv[1])
