"""Semaphore, Event and Barrier."""

import random
import threading
from typing import Any

import pytest

from runtime import Cancelled, go, gosched, sleep, sync
from waits import parked, until

# --- Semaphore ------------------------------------------------------------------------------------


def test_semaphore_bounds_how_many_are_inside() -> None:
    sem = sync.Semaphore(3)
    inside = most = 0
    lock = threading.Lock()

    def body() -> None:
        nonlocal inside, most
        with sem:
            with lock:
                inside += 1
                most = max(most, inside)
            gosched()
            with lock:
                inside -= 1

    for g in [go(body) for _ in range(20)]:
        g.join()
    assert most <= 3
    assert sem.free == sem.size == 3


@pytest.mark.usefixtures("one_p")
def test_semaphore_large_request_is_not_starved_by_small_ones() -> None:
    sem = sync.Semaphore(4)
    sem.acquire(4)
    log: list[str] = []

    def body(name: str, n: int) -> None:
        sem.acquire(n)
        log.append(name)

    large = parked(go(body, "large", 3))
    small = parked(go(body, "small", 1))
    sem.release(2)
    gosched()
    assert log == []
    assert sem.free == 2
    assert not sem.try_acquire()  # though there is enough for it
    sem.release(1)
    large.join()
    assert log == ["large"]
    sem.release(1)
    small.join()


def test_semaphore_first_that_gives_up_makes_way() -> None:
    sem = sync.Semaphore(4)
    sem.acquire(3)
    large = parked(go(sem.acquire, 4))
    small = parked(go(sem.acquire, 1))
    large.cancel()
    small.join()
    with pytest.raises(Cancelled):
        large.join()
    assert sem.free == 0


def test_semaphore_misuse_raises_and_changes_nothing() -> None:
    sem: Any = sync.Semaphore(2)
    for method in (sem.acquire, sem.try_acquire, sem.release):
        for bad in (0, -1, 3, 2**62):
            with pytest.raises(ValueError, match="1 to 2"):
                method(bad)
        with pytest.raises(TypeError):
            method("1")
        with pytest.raises(OverflowError):
            method(2**100)
    for method in (sem.try_acquire, sem.release):
        with pytest.raises(TypeError):
            method(1, 2)
    with pytest.raises(RuntimeError, match=r"release\(1\)"):
        sem.release()
    sem.acquire()
    with pytest.raises(RuntimeError, match="only 1"):
        sem.release(2)
    assert repr(sem).startswith("<Semaphore 1 of 2 held at ")
    for bad in (0, -1):
        with pytest.raises(ValueError, match="1 or more"):
            sync.Semaphore(bad)
    with pytest.raises(TypeError):
        sync.Semaphore("1")  # type: ignore[arg-type]


# --- Event ----------------------------------------------------------------------------------------


def test_event_can_be_set_and_taken_back() -> None:
    event = sync.Event()
    assert not event.is_set()
    assert repr(event).startswith("<Event not set at ")
    event.set()
    event.set()
    assert event.is_set()
    assert repr(event).startswith("<Event set at ")
    event.wait()
    event.wait(timeout=0)
    event.clear()
    assert not event.is_set()
    with pytest.raises(TimeoutError):
        event.wait(0)


def test_event_set_and_cleared_at_once_wakes_those_who_waited() -> None:
    event = sync.Event()
    gs = [parked(go(event.wait)) for _ in range(5)]
    event.set()
    event.clear()
    for g in gs:
        g.join()


# --- Barrier --------------------------------------------------------------------------------------


def test_barrier_lets_all_go_when_the_last_has_come_again_and_again() -> None:
    actions: list[int] = []
    barrier = sync.Barrier(4, lambda: actions.append(barrier.n_waiting))
    arrived: list[list[None]] = [[] for _ in range(5)]
    assert barrier.parties == 4

    def body() -> list[int]:
        indices = []
        for cycle in range(5):
            arrived[cycle].append(None)
            indices.append(barrier.wait())
            assert len(arrived[cycle]) == 4
        return indices

    results = [g.join() for g in [go(body) for _ in range(4)]]
    for cycle in range(5):
        assert sorted(r[cycle] for r in results) == [0, 1, 2, 3]
    assert actions == [4] * 5
    assert barrier.n_waiting == 0


def test_barrier_of_threads_and_goroutines() -> None:
    barrier = sync.Barrier(6)
    done: list[int] = []

    def body() -> None:
        for _ in range(10):
            barrier.wait()
        done.append(1)

    threads = [threading.Thread(target=body) for _ in range(3)]
    for t in threads:
        t.start()
    for g in [go(body) for _ in range(3)]:
        g.join()
    until(lambda: not any(t.is_alive() for t in threads))
    assert len(done) == 6


@pytest.mark.parametrize("how", ["timeout", "cancel", "action", "abort"])
def test_barrier_that_is_broken_says_so_to_all_until_reset(how: str) -> None:
    def action() -> None:
        if how == "action":
            raise KeyError("action")

    barrier = sync.Barrier(3, action)
    first = parked(go(barrier.wait))
    assert barrier.n_waiting == 1
    if how == "timeout":
        with pytest.raises(TimeoutError):
            barrier.wait(0.0001)
    elif how == "cancel":
        g = parked(go(barrier.wait))
        g.cancel()
        with pytest.raises(Cancelled):
            g.join()
    elif how == "action":
        second = parked(go(barrier.wait))
        with pytest.raises(KeyError):
            barrier.wait()
        with pytest.raises(sync.BrokenBarrierError):
            second.join()
    else:
        barrier.abort()
    with pytest.raises(sync.BrokenBarrierError):
        first.join()
    assert barrier.broken
    assert barrier.n_waiting == 0
    with pytest.raises(sync.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken
    how = ""
    gs = [go(barrier.wait) for _ in range(3)]
    assert sorted(g.join() for g in gs) == [0, 1, 2]


def test_barrier_reset_sends_those_who_wait_away_and_is_usable() -> None:
    barrier = sync.Barrier(2)
    g = parked(go(barrier.wait))
    barrier.reset()
    with pytest.raises(sync.BrokenBarrierError):
        g.join()
    assert not barrier.broken
    g = parked(go(barrier.wait))
    assert barrier.wait() == 1
    assert g.join() == 0


def test_barrier_bad_arguments_raise() -> None:
    for bad in (0, -1):
        with pytest.raises(ValueError, match="1 or more"):
            sync.Barrier(bad)
    for args in (("2",), (1.5,), (2, 3)):
        with pytest.raises(TypeError):
            sync.Barrier(*args)  # type: ignore[arg-type]
    assert sync.Barrier(1).wait() == 0


@pytest.mark.parametrize("seed", range(4))
def test_barrier_time_outs_at_the_last_moment_agree_with_the_others(seed: int) -> None:
    """Either all get through or the barrier is broken for all."""
    rnd = random.Random(seed)
    for _ in range(15):
        barrier = sync.Barrier(3)
        outcomes: list[str] = []

        def body(
            delay: float, timeout: float, barrier: Any = barrier, outcomes: Any = outcomes
        ) -> None:
            sleep(delay)
            try:
                barrier.wait(timeout)
                outcomes.append("through")
            except TimeoutError:
                outcomes.append("timeout")
            except sync.BrokenBarrierError:
                outcomes.append("broken")

        for g in [go(body, rnd.uniform(0, 0.0005), 0.0003) for _ in range(3)]:
            g.join()
        assert outcomes == ["through"] * 3 or "through" not in outcomes
        assert barrier.broken is ("through" not in outcomes)
