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


def buffered(count: int) -> float:
    ch = runtime.Chan(128)

    def produce() -> None:
        for i in range(count):
            ch.send(i)

    def consume() -> None:
        for _ in range(count):
            ch.recv()

    start = perf_counter()
    for g in [runtime.go(consume), runtime.go(produce)]:
        g.join()
    return ns_each(start, count)


def select4(count: int) -> float:
    from runtime import recv, select

    chans = a, b, c, d = [runtime.Chan(1) for _ in range(4)]
    start = perf_counter()
    for i in range(count):
        chans[i % 4].send(i)
        select(recv(a), recv(b), recv(c), recv(d))
    return ns_each(start, count)


def mutex(count: int) -> float:
    mutex = runtime.Mutex()
    start = perf_counter()
    for _ in range(count):
        mutex.lock()
        mutex.unlock()
    return ns_each(start, count)


def timer(count: int) -> float:
    from runtime.time import after_func

    timers = [None] * count
    start = perf_counter()
    for i in range(count):
        timers[i] = after_func(3600, work)
    for timer in timers:
        timer.stop()
    return ns_each(start, count)


def timers(count: int) -> float:
    from runtime.time import after_func

    timers = [None] * count
    before = resident()
    for i in range(count):
        timers[i] = after_func(3600, work)
    return (resident() - before) / count


def sleepers(count: int) -> float:
    start = perf_counter()
    for _ in range(count):
        runtime.go(runtime.sleep, 1)
    while runtime.num_goroutine() > 1:
        runtime.sleep(0.001)
    return (perf_counter() - start - 1) * 1e3


def sleeping(count: int) -> float:
    started = 0

    def sleep() -> None:
        nonlocal started
        started += 1
        runtime.sleep(3600)

    before = resident()
    for _ in range(count):
        runtime.go(sleep)
    while started < count:
        runtime.gosched()
    return (resident() - before) / count


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
        "buffered": buffered,
        "select4": select4,
        "mutex": mutex,
        "timer": timer,
        "timers": timers,
        "sleepers": sleepers,
        "sleeping": sleeping,
        "parked": parked,
    }
)
