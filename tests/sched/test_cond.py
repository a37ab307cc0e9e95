"""Cond."""

import gc
import random
import threading
import weakref
from collections import deque
from typing import Any

import pytest

from runtime import Cancelled, go, gosched, sync
from waits import parked, until


@pytest.mark.usefixtures("one_p")
def test_cond_signal_wakes_in_order_one_at_a_time() -> None:
    cond = sync.Cond()
    log: list[int] = []

    def body(i: int) -> None:
        with cond:
            cond.wait()
            log.append(i)

    gs = [parked(go(body, i)) for i in range(5)]
    for i in range(5):
        assert log == list(range(i))
        cond.signal()
        gs[i].join()
    cond.signal()  # nobody waits: it has no effect
    g = parked(go(body, 5))
    gosched()
    assert not g.done()
    cond.broadcast()
    g.join()


def test_cond_broadcast_wakes_all_who_wait_then() -> None:
    cond = sync.Cond()

    def body() -> None:
        with cond:
            cond.wait()

    gs = [parked(go(body)) for _ in range(10)]
    cond.broadcast()
    for g in gs:
        g.join()
    later = parked(go(body))
    gosched()
    assert not later.done()
    cond.signal()
    later.join()


def test_cond_works_with_each_kind_of_locker() -> None:
    class Locker:
        def __init__(self) -> None:
            self.held = 0

        def lock(self) -> None:
            gosched()
            self.held += 1

        def unlock(self) -> None:
            gosched()
            self.held -= 1

    rw = sync.RWMutex()
    for locker in (sync.Mutex(), rw, rw.reader(), Locker(), sync.Cond().locker):
        cond = sync.Cond(locker)
        assert cond.locker is locker
        ready: list[int] = []

        def body(cond: sync.Cond = cond, ready: list[int] = ready) -> list[int]:
            with cond:
                return cond.wait_for(lambda: ready)

        gs = [parked(go(body)) for _ in range(3)]
        with cond:
            ready.append(1)
        cond.broadcast()
        assert [g.join() for g in gs] == [[1]] * 3
    assert not rw.locked
    assert rw.readers == 0


def test_cond_signal_while_the_caller_still_unlocks_is_not_lost() -> None:
    class Locker:
        def lock(self) -> None:
            pass

        def unlock(self) -> None:
            cond.signal()  # it is in the queue already

    cond = sync.Cond(Locker())
    cond.wait(timeout=1000)


def test_cond_unlocker_that_fails_gives_its_signal_to_the_next() -> None:
    class Locker:
        bad = False

        def lock(self) -> None:
            pass

        def unlock(self) -> None:
            if self.bad:
                cond.signal()  # the caller itself is first
                raise KeyError("unlock")

    locker = Locker()
    cond = sync.Cond(locker)
    locker.bad = True
    with pytest.raises(KeyError):
        cond.wait()
    locker.bad = False
    g = parked(go(cond.wait))

    class Both(Locker):
        bad = True

    cond.signal()
    g.join()


def test_cond_wait_of_an_unlocked_mutex_raises() -> None:
    cond = sync.Cond()
    with pytest.raises(RuntimeError, match="not locked"):
        cond.wait()
    assert cond.locker.try_lock()
    cond.locker.unlock()


def test_cond_cancelled_twice_still_has_its_locker() -> None:
    cond = sync.Cond()
    held: list[bool] = []

    def body() -> None:
        with cond:
            try:
                cond.wait()
            finally:
                held.append(cond.locker.locked)

    g = parked(go(body))
    cond.locker.lock()
    g.cancel()
    gosched()
    until(lambda: g.wait_reason == "sync.Mutex.Lock")
    g.cancel(KeyError("second"))  # while it waits for the mutex
    gosched()
    assert not g.done()
    cond.locker.unlock()
    with pytest.raises(KeyError) as info:
        g.join()
    assert isinstance(info.value.__context__, Cancelled)
    assert held == [True]
    assert not cond.locker.locked


def test_cond_wait_for_returns_what_the_predicate_returns_or_raises() -> None:
    cond = sync.Cond()
    with cond:
        assert cond.wait_for(lambda: "yes") == "yes"
        with pytest.raises(ZeroDivisionError):
            cond.wait_for(lambda: 1 // 0)
        with pytest.raises(TimeoutError):
            cond.wait_for(list, timeout=0.0001)
        assert cond.locker.locked


def test_cond_bad_lockers_raise() -> None:
    for bad in (1, "x", threading.Lock(), sync.Event()):
        with pytest.raises(TypeError, match=r"lock\(\) and unlock\(\)"):
            sync.Cond(bad)  # type: ignore[arg-type]


def test_cond_and_locker_that_refer_to_each_other_are_collected() -> None:
    class Locker:
        cond: Any

        def lock(self) -> None:
            pass

        def unlock(self) -> None:
            pass

    locker = Locker()
    locker.cond = sync.Cond(locker)
    ref = weakref.ref(locker.cond)
    del locker
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize("seed", range(6))
def test_cond_queue_with_consumers_that_give_up_loses_no_item(seed: int) -> None:
    """Each signal is for one item: if one was lost the rest would wait for ever."""
    rnd = random.Random(seed)
    cond, queue, taken = sync.Cond(), deque[int](), []

    def consume(timeout: float | None) -> None:
        with cond:
            while not queue:
                cond.wait(timeout)
            taken.append(queue.popleft())

    def steadfast() -> None:
        while True:
            try:
                return consume(rnd.choice([None, 0.0002, 1000]))
            except TimeoutError:
                pass

    n = 40
    gs = [go(steadfast) for _ in range(n)]
    quitters = [go(consume, None) for _ in range(10)]
    errors: list[BaseException] = []

    def thread() -> None:
        try:
            for _ in range(5):
                steadfast()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=thread) for _ in range(2)]
    for t in threads:
        t.start()

    def produce() -> None:
        for i in range(n + 10):
            with cond:
                queue.append(i)
            cond.signal()
            if rnd.random() < 0.3:
                gosched()

    producer = go(produce)
    for g in quitters:
        g.cancel()
        gosched()
    got = 0
    for g in quitters:
        try:
            g.join()
            got += 1
        except Cancelled:
            pass
    producer.join()
    for i in range(got):  # they have taken what was for others
        with cond:
            queue.append(1000 + i)
        cond.signal()
    for g in gs:
        g.join()
    until(lambda: not any(t.is_alive() for t in threads))
    assert not errors
    assert len(taken) == n + 10 + got
    assert not queue
