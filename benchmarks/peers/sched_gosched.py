"""Scheduler costs of this project's runtime."""

from time import perf_counter

import runtime
from sched_common import main, ns_each, plain_call, resident


def work() -> None:
    pass


def call(count: int) -> float:
    return plain_call(work, count)


def spawn(count: int) -> float:
    go = runtime.go
    start = perf_counter()
    for _ in range(count):
        go(work)
    while runtime.num_goroutine() > 1:
        runtime.gosched()
    return ns_each(start, count)


def yield_among(goroutines: int, count: int) -> float:
    turns = count // goroutines

    def turn() -> None:
        gosched = runtime.gosched
        for _ in range(turns):
            gosched()

    start = perf_counter()
    for g in [runtime.go(turn) for _ in range(goroutines)]:
        g.join()
    return ns_each(start, turns * goroutines)


def chan(count: int) -> float:
    there, back = runtime.Chan(), runtime.Chan()

    def ping() -> None:
        for i in range(count):
            there.send(i)
            back.recv()

    def pong() -> None:
        for _ in range(count):
            back.send(there.recv())

    start = perf_counter()
    for g in [runtime.go(pong), runtime.go(ping)]:
        g.join()
    return ns_each(start, 2 * count)


def parked(count: int) -> float:
    gate = runtime.Chan()
    started = finished = 0

    def park() -> None:
        nonlocal started, finished
        started += 1
        gate.recv()
        finished += 1

    before = resident()
    for _ in range(count):
        runtime.go(park)
    while started < count:
        runtime.gosched()
    each = (resident() - before) / count
    for _ in range(count):
        gate.send(None)
    while finished < count:
        runtime.gosched()
    return each


main(
    {
        "call": call,
        "spawn": spawn,
        "yield2": lambda count: yield_among(2, count),
        "yield1000": lambda count: yield_among(1000, count),
        "chan": chan,
        "parked": parked,
    }
)
