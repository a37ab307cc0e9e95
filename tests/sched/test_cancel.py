"""Goroutine.cancel: an exception at the next blocking point."""

import threading

import pytest

import runtime
from runtime import Cancelled, Chan, Mutex, WaitGroup, current, go, sleep
from waits import parked, settle


@pytest.mark.parametrize(
    "block",
    [
        lambda: sleep(3600),
        lambda: Chan().recv(),
        lambda: Chan().send(1),
        lambda: Chan().recv(timeout=3600),
        lambda: go(sleep, 3600).join(),
    ],
    ids=["sleep", "recv", "send", "recv-timeout", "join"],
)
def test_cancel_of_a_waiting_goroutine_raises_cancelled_in_it(block) -> None:
    steps = []

    def run() -> None:
        try:
            block()
        except Cancelled:
            steps.append("cancelled")
            raise
        finally:
            steps.append("finally")

    g = parked(go(run))
    assert g.cancel() is True
    with pytest.raises(Cancelled):
        g.join()
    assert steps == ["cancelled", "finally"]
    assert g.cancel() is False


@pytest.mark.usefixtures("one_p")
def test_cancel_before_it_has_begun_never_runs_it() -> None:
    ran = []
    g = go(ran.append, 1)
    assert g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    assert not ran
    assert g.state == "dead"


def test_cancel_of_a_running_goroutine_waits_for_its_next_blocking_point() -> None:
    steps = []

    def run() -> None:
        assert current().cancel()
        steps.append("still running")
        sleep(0)
        steps.append("not reached")

    with pytest.raises(Cancelled):
        go(run).join()
    assert steps == ["still running"]


def test_cancel_of_a_runnable_goroutine_keeps_what_it_was_given() -> None:
    ch: Chan[int] = Chan()
    got = []

    def run() -> None:
        got.append(ch.recv())
        ch.recv()

    g = parked(go(run))
    ch.send(1)
    assert g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    assert got == [1]


def test_cancel_with_an_exception_raises_that_one() -> None:
    g = parked(go(sleep, 3600))
    assert g.cancel(ValueError("enough"))
    assert not g.cancel(KeyError())     # one at a time
    with pytest.raises(ValueError, match="enough"):
        g.join()
    g = parked(go(sleep, 3600))
    g.cancel(ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        g.join()


def test_cancel_can_be_caught_and_the_goroutine_goes_on() -> None:
    def run() -> int:
        try:
            sleep(3600)
        except Cancelled:
            pass
        sleep(0.001)
        return 7

    g = parked(go(run))
    g.cancel()
    assert g.join() == 7


def test_cancel_of_a_waiter_loses_no_value_and_no_lock() -> None:
    ch: Chan[int] = Chan()
    g = parked(go(ch.recv))
    g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    other = go(ch.recv)
    ch.send(5)
    assert other.join() == 5
    mu = Mutex()
    mu.lock()
    g = parked(go(mu.lock))
    g.cancel()
    mu.unlock()
    with pytest.raises(Cancelled):
        g.join()
    assert mu.try_lock()


def test_cancel_from_a_thread_reaches_the_goroutine() -> None:
    g = parked(go(sleep, 3600))
    t = threading.Thread(target=g.cancel)
    t.start()
    with pytest.raises(Cancelled):
        g.join()
    t.join()


@pytest.mark.usefixtures("one_p")
def test_cancelled_goroutine_nobody_asks_for_is_not_reported(monkeypatch) -> None:
    reports = []
    monkeypatch.setattr(runtime, "excepthook", lambda g, e: reports.append(e))
    wg = WaitGroup()
    wg.add(2)

    def run(exc) -> None:
        try:
            sleep(3600)
        finally:
            wg.done()

    for exc in (None, ValueError("reported")):
        parked(go(run, exc)).cancel(exc)
    wg.wait()
    settle()
    assert [str(e) for e in reports] == ["reported"]


def test_cancel_of_the_main_goroutine_raises_there() -> None:
    main = current()
    go(main.cancel)
    with pytest.raises(Cancelled):
        sleep(3600)


def test_cancel_with_something_else_than_an_exception_is_refused() -> None:
    g = go(sleep, 0)
    with pytest.raises(TypeError, match="must be an exception, not int"):
        g.cancel(3)
    with pytest.raises(TypeError, match="one argument"):
        g.cancel(None, None)
    g.join()


def test_cancel_of_a_plain_thread_is_refused() -> None:
    found = []
    t = threading.Thread(target=lambda: found.append(current()))
    t.start()
    t.join()
    with pytest.raises(RuntimeError, match="plain thread"):
        found[0].cancel()


def test_cancel_of_the_running_main_goroutine_waits_for_its_next_blocking_point() -> None:
    main, ch = current(), Chan()
    steps = []

    def run() -> None:
        ch.send(1)
        main.cancel()

    g = go(run)
    with pytest.raises(Cancelled):
        ch.recv()
        while not g.done():
            pass
        for _ in range(1000):
            steps.append(1)
        sleep(0)
    assert len(steps) == 1000
