"""Mutex and WaitGroup."""

import weakref
from typing import Any

import pytest

from runtime import Mutex, WaitGroup, go, gosched


def settle() -> None:
    for _ in range(3):
        gosched()


# --- Mutex ----------------------------------------------------------------------------------------


def test_mutex_lock_unlock() -> None:
    mu = Mutex()
    assert not mu.locked
    mu.lock()
    assert mu.locked
    assert "locked" in repr(mu)
    mu.unlock()
    assert not mu.locked
    assert "unlocked" in repr(mu)


def test_mutex_excludes() -> None:
    mu = Mutex()
    inside = most = 0

    def body() -> None:
        nonlocal inside, most
        for _ in range(20):
            with mu:
                inside += 1
                most = max(most, inside)
                gosched()
                inside -= 1

    for g in [go(body) for _ in range(20)]:
        g.join()
    assert most == 1
    assert not mu.locked


@pytest.mark.usefixtures("one_p")
def test_mutex_serves_waiters_in_order_and_nobody_overtakes() -> None:
    mu = Mutex()
    mu.lock()
    log: list[int] = []

    def body(i: int) -> None:
        with mu:
            log.append(i)

    gs = []
    for i in range(20):
        gs.append(go(body, i))
        settle()
    mu.unlock()
    assert mu.locked  # handed over already
    assert not mu.try_lock()
    mu.lock()  # after all of them
    log.append(20)
    mu.unlock()
    for g in gs:
        g.join()
    assert log == list(range(21))


def test_mutex_unlock_by_another_goroutine() -> None:
    mu = Mutex()
    mu.lock()
    go(mu.unlock).join()
    assert not mu.locked


def test_mutex_unlock_of_unlocked_raises() -> None:
    mu = Mutex()
    with pytest.raises(RuntimeError, match="not locked"):
        mu.unlock()
    with pytest.raises(RuntimeError):
        mu.__exit__(None, None, None)
    assert mu.try_lock()


def test_mutex_is_not_recursive() -> None:
    mu = Mutex()
    with mu:
        assert not mu.try_lock()
        with pytest.raises(TimeoutError):
            mu.lock(timeout=0)


def test_mutex_with_returns_itself_and_unlocks_after_an_exception() -> None:
    mu = Mutex()
    with mu as entered:
        assert entered is mu
    with pytest.raises(ValueError, match="inside"), mu:
        raise ValueError("inside")
    assert not mu.locked


def test_mutex_goexit_and_failure_inside_with_unlock() -> None:
    from runtime import goexit

    mu = Mutex()

    def body() -> None:
        with mu:
            gosched()
            goexit()

    for g in [go(body) for _ in range(5)]:
        g.join()
    assert not mu.locked


def test_mutex_timeout_passes_and_the_lock_is_not_taken() -> None:
    mu = Mutex()
    mu.lock()
    for timeout in (0, -5, 0.0001):
        with pytest.raises(TimeoutError, match=r"Mutex\.lock"):
            mu.lock(timeout)
    mu.unlock()
    assert not mu.locked
    mu.lock(timeout=0)
    mu.unlock()


def test_mutex_timeout_of_one_waiter_leaves_the_others_in_order() -> None:
    mu = Mutex()
    mu.lock()
    log: list[int] = []

    def body(i: int, timeout: float | None) -> None:
        mu.lock(timeout)
        log.append(i)
        mu.unlock()

    gs = []
    for i in range(6):
        gs.append(go(body, i, 0.001 if i % 2 else 1000))
        settle()
    for i in (1, 3, 5):
        with pytest.raises(TimeoutError):
            gs[i].join()
    mu.unlock()
    for i in (0, 2, 4):
        gs[i].join()
    assert log == [0, 2, 4]


def test_mutex_bad_arguments_raise() -> None:
    mu: Any = Mutex()
    mu.lock()
    with pytest.raises(TypeError):
        mu.lock("1")
    with pytest.raises(TypeError):
        mu.lock(1, 2)
    with pytest.raises(TypeError):
        mu.lock(wait=1)
    with pytest.raises(TypeError):
        Mutex(1)  # type: ignore[call-arg]


def test_mutex_and_waitgroup_can_be_weakly_referenced() -> None:
    for cls in (Mutex, WaitGroup):
        obj = cls()
        ref = weakref.ref(obj)
        del obj
        assert ref() is None


# --- WaitGroup ------------------------------------------------------------------------------------


def test_waitgroup_waits_for_all() -> None:
    wg = WaitGroup()
    ended: list[int] = []

    def body(i: int) -> None:
        for _ in range(i):
            gosched()
        ended.append(i)
        wg.done()

    for i in range(20):
        wg.add()
        go(body, i)
    wg.wait()
    assert sorted(ended) == list(range(20))


def test_waitgroup_zero_does_not_wait() -> None:
    wg = WaitGroup()
    wg.wait()
    wg.wait(timeout=0)
    wg.add(3)
    wg.add(-3)
    wg.wait()


def test_waitgroup_several_wait_and_it_can_be_used_again() -> None:
    wg = WaitGroup()
    for _ in range(3):
        wg.add(2)
        waiters = [go(wg.wait) for _ in range(10)]
        settle()
        assert not any(w.done() for w in waiters)
        wg.done()
        settle()
        assert not any(w.done() for w in waiters)
        wg.done()
        for w in waiters:
            w.join()


def test_waitgroup_negative_raises_and_keeps_the_count() -> None:
    wg = WaitGroup()
    with pytest.raises(ValueError, match="negative"):
        wg.done()
    wg.add(2)
    with pytest.raises(ValueError, match="negative"):
        wg.add(-3)
    assert repr(wg).startswith("<WaitGroup 2 at")
    wg.add(-2)
    wg.wait(timeout=0)


def test_waitgroup_add_with_odd_numbers() -> None:
    wg: Any = WaitGroup()
    wg.add(0)
    wg.add(True)
    wg.done()
    for bad in (2**31, -(2**31) - 1, 2**63, 2**100):
        with pytest.raises(OverflowError):
            wg.add(bad)
    for bad in ("1", 1.5, None):
        with pytest.raises(TypeError):
            wg.add(bad)
    with pytest.raises(TypeError):
        wg.add(1, 2)
    wg.wait(timeout=0)


def test_waitgroup_timeout_passes() -> None:
    wg = WaitGroup()
    wg.add()
    for timeout in (0, 0.0001):
        with pytest.raises(TimeoutError, match=r"WaitGroup\.wait"):
            wg.wait(timeout)
        with pytest.raises(TimeoutError):
            wg.wait(timeout=timeout)
    with pytest.raises(TypeError):
        wg.wait("1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        wg.wait(time=1)  # type: ignore[call-arg]
    go(wg.done)
    wg.wait(timeout=1000)


def test_waitgroup_add_from_a_woken_waiter() -> None:
    wg = WaitGroup()
    wg.add()

    def waiter() -> None:
        wg.wait()
        wg.add()
        gosched()
        wg.done()

    gs = [go(waiter) for _ in range(5)]
    settle()
    wg.done()
    for g in gs:
        g.join()
    wg.wait()
