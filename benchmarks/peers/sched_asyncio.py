"""Scheduler costs of asyncio, with the standard library's own loop.

asyncio has no unbuffered channel: a queue that holds one item is the nearest thing.
"""

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

from sched_common import main, ns_each, plain_call, resident


async def work() -> None:
    pass


def plain_work() -> None:
    pass


def call(count: int) -> float:
    return plain_call(plain_work, count)


async def spawn(count: int) -> float:
    create_task = asyncio.get_running_loop().create_task
    start = perf_counter()
    for _ in range(count - 1):
        create_task(work())
    await create_task(work())  # they run in the order they were created in
    return ns_each(start, count)


async def yield_among(tasks: int, count: int) -> float:
    turns = count // tasks

    async def turn() -> None:
        sleep = asyncio.sleep
        for _ in range(turns):
            await sleep(0)

    start = perf_counter()
    await asyncio.gather(*[turn() for _ in range(tasks)])
    return ns_each(start, turns * tasks)


async def chan(count: int) -> float:
    there: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
    back: asyncio.Queue[int] = asyncio.Queue(maxsize=1)

    async def ping() -> None:
        for i in range(count):
            await there.put(i)
            await back.get()

    async def pong() -> None:
        for _ in range(count):
            await back.put(await there.get())

    start = perf_counter()
    await asyncio.gather(pong(), ping())
    return ns_each(start, 2 * count)


async def buffered(count: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=128)

    async def produce() -> None:
        for i in range(count):
            await queue.put(i)

    async def consume() -> None:
        for _ in range(count):
            await queue.get()

    start = perf_counter()
    await asyncio.gather(consume(), produce())
    return ns_each(start, count)


async def select4(count: int) -> float:
    queues: list[asyncio.Queue[int]] = [asyncio.Queue(maxsize=1) for _ in range(4)]
    start = perf_counter()
    for i in range(count):
        await queues[i % 4].put(i)
        gets = [asyncio.create_task(queue.get()) for queue in queues]
        _, others = await asyncio.wait(gets, return_when=asyncio.FIRST_COMPLETED)
        for get in others:
            get.cancel()
    return ns_each(start, count)


async def mutex(count: int) -> float:
    mutex = asyncio.Lock()
    start = perf_counter()
    for _ in range(count):
        await mutex.acquire()
        mutex.release()
    return ns_each(start, count)


async def timer(count: int) -> float:
    call_later = asyncio.get_running_loop().call_later
    timers = [None] * count
    start = perf_counter()
    for i in range(count):
        timers[i] = call_later(3600, plain_work)
    for timer in timers:
        timer.cancel()
    await asyncio.sleep(0)  # the loop takes them out
    return ns_each(start, count)


async def timers(count: int) -> float:
    call_later = asyncio.get_running_loop().call_later
    timers = [None] * count
    before = resident()
    for i in range(count):
        timers[i] = call_later(3600, plain_work)
    return (resident() - before) / count


async def sleepers(count: int) -> float:
    start = perf_counter()
    await asyncio.gather(*[asyncio.sleep(1) for _ in range(count)])
    return (perf_counter() - start - 1) * 1e3


async def sleeping(count: int) -> float:
    started = 0

    async def sleep() -> None:
        nonlocal started
        started += 1
        await asyncio.sleep(3600)

    before = resident()
    tasks = [asyncio.create_task(sleep()) for _ in range(count)]
    while started < count:
        await asyncio.sleep(0)
    return (resident() - before) / len(tasks)


async def parked(count: int) -> float:
    gate: asyncio.Queue[None] = asyncio.Queue(maxsize=1)
    started = 0

    async def park() -> None:
        nonlocal started
        started += 1
        await gate.get()

    before = resident()
    tasks = [asyncio.create_task(park()) for _ in range(count)]
    while started < count:
        await asyncio.sleep(0)
    each = (resident() - before) / count
    for _ in range(count):
        await gate.put(None)
    await asyncio.gather(*tasks)
    return each


def running(
    measure: Callable[[int], Coroutine[Any, Any, float]],
) -> Callable[[int], float]:
    return lambda count: asyncio.run(measure(count))


main(
    {
        "call": call,
        "spawn": running(spawn),
        "yield2": running(lambda count: yield_among(2, count)),
        "yield1000": running(lambda count: yield_among(1000, count)),
        "chan": running(chan),
        "buffered": running(buffered),
        "select4": running(select4),
        "mutex": running(mutex),
        "timer": running(timer),
        "timers": running(timers),
        "sleepers": running(sleepers),
        "sleeping": running(sleeping),
        "parked": running(parked),
    }
)
