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
        "parked": running(parked),
    }
)
