"""What the handlers of the servers in Python compute: workers.py and http_scale.py."""

import time


def turn(n: int) -> int:
    total = 0
    for i in range(n):
        total += i
    return total


def calibrate(seconds: float) -> int:
    """How many turns take about so long: the best of many short runs, as others only slow it."""
    n = 1000
    best = float("inf")
    until = time.perf_counter() + 1
    while time.perf_counter() < until:
        start = time.perf_counter()
        turn(n)
        best = min(best, time.perf_counter() - start)
    return max(1, round(n * seconds / best))
