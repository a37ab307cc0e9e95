"""Scheduler costs of gevent."""

from time import perf_counter

import gevent
from gevent.lock import BoundedSemaphore
from gevent.queue import Channel, Queue

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


def buffered(count: int) -> float:
    queue = Queue(maxsize=128)

    def produce() -> None:
        for i in range(count):
            queue.put(i)

    def consume() -> None:
        for _ in range(count):
            queue.get()

    start = perf_counter()
    gevent.joinall([gevent.spawn(consume), gevent.spawn(produce)])
    return ns_each(start, count)


def select4(count: int) -> float:
    queues = [Queue(maxsize=1) for _ in range(4)]
    start = perf_counter()
    for i in range(count):
        queues[i % 4].put(i)
        gets = [gevent.spawn(queue.get) for queue in queues]
        gevent.wait(gets, count=1)
        gevent.killall(gets)
    return ns_each(start, count)


def mutex(count: int) -> float:
    mutex = BoundedSemaphore(1)
    start = perf_counter()
    for _ in range(count):
        mutex.acquire()
        mutex.release()
    return ns_each(start, count)


def timer(count: int) -> float:
    new_timer = gevent.get_hub().loop.timer
    timers = [None] * count
    start = perf_counter()
    for i in range(count):
        timers[i] = new_timer(3600)
        timers[i].start(work)
    for timer in timers:
        timer.stop()
        timer.close()
    return ns_each(start, count)


def timers(count: int) -> float:
    new_timer = gevent.get_hub().loop.timer
    timers = [None] * count
    before = resident()
    for i in range(count):
        timers[i] = new_timer(3600)
        timers[i].start(work)
    each = (resident() - before) / count
    for timer in timers:
        timer.close()
    return each


def sleepers(count: int) -> float:
    start = perf_counter()
    gevent.joinall([gevent.spawn(gevent.sleep, 1) for _ in range(count)])
    return (perf_counter() - start - 1) * 1e3


def sleeping(count: int) -> float:
    started = 0

    def sleep() -> None:
        nonlocal started
        started += 1
        gevent.sleep(3600)

    before = resident()
    for _ in range(count):
        gevent.spawn(sleep)
    while started < count:
        gevent.sleep(0)
    return (resident() - before) / count


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
