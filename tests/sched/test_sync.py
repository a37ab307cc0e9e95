"""Mutex and WaitGroup."""

import time
import weakref
from typing import Any

import pytest

from programs import run
from runtime import (
    Cancelled,
    Mutex,
    WaitGroup,
    excepthook,
    go,
    goexit,
    goroutines,
    gosched,
    nopreempt,
    sleep,
)
from waits import parked, settle, until

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
def test_mutex_serves_waiters_in_order() -> None:
    mu = Mutex()
    mu.lock()
    log: list[int] = []

    def body(i: int) -> None:
        with mu:
            log.append(i)
            gosched()

    gs = []
    for i in range(20):
        gs.append(go(body, i))
        settle()
    mu.unlock()
    for g in gs:
        g.join()
    assert log == list(range(20))


@pytest.mark.usefixtures("one_p")
def test_mutex_newcomer_may_overtake_a_waiter_that_is_woken() -> None:
    mu = Mutex()
    mu.lock()
    log: list[int] = []

    def body(i: int) -> None:
        with mu:
            log.append(i)

    gs = [go(body, i) for i in range(3)]
    settle()
    mu.unlock()
    assert not mu.locked
    assert mu.try_lock()
    settle()  # the woken one has lost
    assert log == []
    assert [g.state for g in gs] == ["waiting"] * 3
    mu.unlock()
    for g in gs:
        g.join()
    assert log == [0, 1, 2]  # it has kept its place


def spin(seconds: float) -> None:
    """Let that much time pass without letting others run."""
    end = time.monotonic() + seconds
    with nopreempt():
        while time.monotonic() < end:
            pass


@pytest.mark.usefixtures("one_p")
def test_mutex_starving_waiters_are_not_overtaken() -> None:
    mu = Mutex()
    mu.lock()
    log: list[int] = []
    overtaken = 0

    def body(i: int) -> None:
        nonlocal overtaken
        mu.lock()
        log.append(i)
        mu.unlock()
        if i < 4 and mu.try_lock():
            overtaken += 1
            mu.unlock()

    gs = []
    for i in range(5):
        gs.append(go(body, i))
        settle()
    spin(0.002)  # now all of them have waited for too long
    rounds = 0
    with nopreempt():
        while True:  # the first is woken, and sooner or later the mutex is kept for it
            rounds += 1
            mu.unlock()
            if not mu.try_lock():
                break
        assert mu.locked
        assert log == []  # it has not even run
    assert rounds < 3
    late = go(body, 5)
    for g in [*gs, late]:
        g.join()
    assert log == [0, 1, 2, 3, 4, 5]
    assert overtaken == 0
    assert mu.try_lock()  # and it is an ordinary mutex again
    mu.unlock()
    assert mu.try_lock()
    mu.unlock()


@pytest.mark.usefixtures("one_p")
def test_mutex_is_kept_for_a_woken_waiter_that_cannot_run() -> None:
    mu = Mutex()
    mu.lock()
    g = go(mu.lock)
    settle()
    with nopreempt():
        while True:  # ends after a millisecond
            mu.unlock()
            if not mu.try_lock():
                break
    g.join()
    assert mu.locked
    mu.unlock()
    assert not mu.locked


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_mutex_starving_waiters_that_leave_do_not_keep_the_mutex(how: str) -> None:
    mu = Mutex()

    def body() -> None:
        mu.lock(0.003 if how == "timeout" else None)
        mu.unlock()

    for _ in range(3):
        mu.lock()
        gs = []
        for _ in range(4):
            gs.append(go(body))
            settle()
        spin(0.0015)
        mu.unlock()
        with mu:  # takes it from the one that is woken, or comes after all of them
            settle()
            for g in gs:
                if how == "cancel":
                    g.cancel()
        for g in gs:
            try:
                g.join()
            except (Cancelled, TimeoutError):
                pass
        assert mu.try_lock()
        mu.unlock()


def test_mutex_waiter_gets_it_from_one_that_takes_it_again_and_again() -> None:
    mu, stop = Mutex(), False

    def hog() -> None:
        while not stop:
            with mu:
                sleep(0.0001)

    g = go(hog)
    for _ in range(10):
        sleep(0.0001)
        with mu:
            pass
    stop = True
    g.join()


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
        g = go(body, i, 0.001 if i % 2 else 1000)
        until(lambda g=g: g.state in ("waiting", "dead"))  # dead: its time was up at once
        gs.append(g)
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


def test_waitgroup_go_waits_for_the_goroutine_and_returns_it() -> None:
    wg = WaitGroup()
    gs = [wg.go(divmod, 17, i) for i in range(1, 10)]
    wg.wait()
    assert [g.join() for g in gs] == [divmod(17, i) for i in range(1, 10)]
    assert wg.go(dict, a=1, b=2).join() == {"a": 1, "b": 2}
    assert wg.go(lambda *args, **kwargs: (args, kwargs), *range(20), x=1).join() == (
        tuple(range(20)),
        {"x": 1},
    )
    wg.wait(timeout=0)


def test_waitgroup_go_that_raises_or_exits_is_done() -> None:
    wg = WaitGroup()
    bad = wg.go(int, "x")
    end = wg.go(goexit)
    wg.wait()
    with pytest.raises(ValueError):
        bad.join()
    assert end.join() is None


@pytest.mark.usefixtures("one_p")
def test_waitgroup_go_cancelled_before_it_begins_is_done() -> None:
    wg = WaitGroup()
    ran: list[int] = []
    with nopreempt():
        g = wg.go(ran.append, 1)
        assert g.cancel()
    wg.wait()
    with pytest.raises(Cancelled):
        g.join()
    assert not ran
    waiting = wg.go(sleep, 1000)
    parked(waiting).cancel()
    wg.wait()


def test_waitgroup_go_with_done_too_often_is_an_error_of_the_goroutine() -> None:
    wg = WaitGroup()

    def body(fail: bool) -> None:
        wg.done()
        if fail:
            raise KeyError("first")

    with pytest.raises(ValueError, match="negative"):
        wg.go(body, False).join()
    with pytest.raises(ValueError, match="negative") as info:
        wg.go(body, True).join()
    assert isinstance(info.value.__context__, KeyError)
    wg.wait(timeout=0)


def test_waitgroup_go_needs_a_function() -> None:
    wg: Any = WaitGroup()
    for args in ((), (1,), (None, 2)):
        with pytest.raises(TypeError, match="callable"):
            wg.go(*args)
    wg.wait(timeout=0)


def test_waitgroup_go_failure_nobody_asks_for_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import runtime

    assert runtime.excepthook is excepthook
    seen: list[BaseException] = []
    monkeypatch.setattr(runtime, "excepthook", lambda g, e: seen.append(e))
    wg = WaitGroup()
    wg.go(int, "x")
    wg.wait()
    while not seen:
        gosched()
    assert isinstance(seen[0], ValueError)


@pytest.mark.usefixtures("one_p")
def test_waitgroup_go_is_shown_as_what_it_runs() -> None:
    def body() -> None:
        pass

    wg = WaitGroup()
    with nopreempt():
        g = wg.go(body)
        [info] = [i for i in goroutines(stacks=True) if i.goroutine is g]
    assert info.spawned_at is not None
    assert info.spawned_at.file == __file__
    assert info.stack is not None
    assert "body" in info.stack[0].function
    wg.wait()


def test_locks_in_a_forked_child_forget_who_has_waited_in_the_parent() -> None:
    done = run(
        """
        import os, signal
        from runtime import go, gomaxprocs, gosched, sync

        gomaxprocs(1)

        def parked(fn, *args):
            g = go(fn, *args)
            while g.state != "waiting":
                gosched()
            return g

        mu, rw, sem, cond = sync.Mutex(), sync.RWMutex(), sync.Semaphore(2), sync.Cond()
        event, wg = sync.Event(), sync.WaitGroup()
        wg.add()

        def wait():
            with cond:
                cond.wait()

        def everything():
            mu.lock()
            rw.rlock()
            sem.acquire()
            gs = [parked(f) for f in (mu.lock, rw.lock, rw.rlock, wait, event.wait, wg.wait)]
            gs.append(parked(sem.acquire, 2))
            mu.unlock()             # the first is woken and has not run
            return gs

        def undo():
            rw.runlock()
            sem.release()
            for _ in range(2):
                with mu:
                    g = parked(mu.lock)
                g.join(timeout=60)
                mu.unlock()
                with rw:
                    gs = [parked(rw.rlock), parked(rw.lock)]
                gs[0].join(timeout=60)
                rw.runlock()
                gs[1].join(timeout=60)
                rw.unlock()
                sem.acquire(2)
                g = parked(sem.acquire, 1)
                sem.release(2)
                g.join(timeout=60)
                sem.release()
                g = parked(wait)
                cond.signal()
                g.join(timeout=60)
            event.set()
            wg.done()
            wg.wait(timeout=60)
            print("fine", flush=True)

        gs = everything()
        pid = os.fork()
        if pid == 0:
            signal.alarm(80)
            undo()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        gs[0].join()
        mu.unlock()
        """,
        "-W",
        "ignore::DeprecationWarning",  # of every fork with threads
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")
