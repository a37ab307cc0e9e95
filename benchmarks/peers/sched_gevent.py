"""Scheduler costs of gevent."""

from time import perf_counter

import gevent
from gevent.queue import Channel

from sched_common import main, ns_each, plain_call, resident


def work() -> None:
    pass


def call(count: int) -> float:
    return plain_call(work, count)


def spawn(count: int) -> float:
    go = gevent.spawn
    start = perf_counter()
    for _ in range(count - 1):
        go(work)
    go(work).join()  # they run in the order they were spawned in
    return ns_each(start, count)


def yield_among(greenlets: int, count: int) -> float:
    turns = count // greenlets

    def turn() -> None:
        sleep = gevent.sleep
        for _ in range(turns):
            sleep(0)

    start = perf_counter()
    gevent.joinall([gevent.spawn(turn) for _ in range(greenlets)])
    return ns_each(start, turns * greenlets)


def chan(count: int) -> float:
    there, back = Channel(), Channel()

    def ping() -> None:
        for i in range(count):
            there.put(i)
            back.get()

    def pong() -> None:
        for _ in range(count):
            back.put(there.get())

    start = perf_counter()
    gevent.joinall([gevent.spawn(pong), gevent.spawn(ping)])
    return ns_each(start, 2 * count)


def parked(count: int) -> float:
    gate = Channel()
    started = finished = 0

    def park() -> None:
        nonlocal started, finished
        started += 1
        gate.get()
        finished += 1

    before = resident()
    for _ in range(count):
        gevent.spawn(park)
    while started < count:
        gevent.sleep(0)
    each = (resident() - before) / count
    for _ in range(count):
        gate.put(None)
    while finished < count:
        gevent.sleep(0)
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
