"""Programs that use greenlet themselves, properly or not: the scheduler stays intact."""

from typing import Any

import greenlet
import pytest

import waits
from programs import run
from runtime import Chan, current, go, gosched, num_goroutine, sleep

# The order in which one P runs things, or greenlets of the calling thread.
pytestmark = pytest.mark.usefixtures("one_p")



def settle() -> None:
    for _ in range(3):
        gosched()


# --- proper use -----------------------------------------------------------------------------------


def test_own_greenlet_may_block_in_main() -> None:
    ch: Chan[int] = Chan()

    def body() -> int:
        sleep(0.0001)
        gosched()
        return ch.recv()

    go(ch.send, 5)
    assert greenlet.greenlet(body).switch() == 5


def test_own_greenlets_may_block_in_goroutines() -> None:
    ch: Chan[int] = Chan()

    def inner(n: int) -> int:
        me = current()
        total = 0
        for _ in range(n):
            total += ch.recv()
            gosched()
            assert current() is me
        return total

    def body() -> list[int]:
        return [greenlet.greenlet(inner).switch(n) for n in (1, 2, 3)]

    gs = [go(body) for _ in range(20)]
    for _ in range(120):
        ch.send(1)
    assert [g.join() for g in gs] == [[1, 2, 3]] * 20


def test_own_greenlets_as_generators_that_block() -> None:
    ch: Chan[int] = Chan()

    def body() -> list[int]:
        consumer = greenlet.getcurrent()

        def producer() -> None:
            for _ in range(5):
                consumer.switch(ch.recv())

        g = greenlet.greenlet(producer)
        out = []
        for _ in range(5):
            out.append(g.switch())
            gosched()
        return out

    gs = [go(body) for _ in range(3)]
    for i in range(15):
        ch.send(i)
    results = [g.join() for g in gs]
    assert sorted(v for r in results for v in r) == list(range(15))


def test_own_greenlet_that_fails_raises_in_its_parent() -> None:
    def inner() -> None:
        gosched()
        raise ValueError("inner")

    def body() -> str:
        with pytest.raises(ValueError, match="inner"):
            greenlet.greenlet(inner).switch()
        return "handled"

    assert go(body).join() == "handled"


def test_own_greenlet_may_spawn_and_join() -> None:
    def body() -> int:
        return greenlet.greenlet(lambda: go(lambda: 7).join()).switch()

    assert go(body).join() == 7


def test_own_greenlets_left_suspended_are_collected() -> None:
    import gc

    finished: list[str] = []

    def body() -> None:
        me = greenlet.getcurrent()

        def inner() -> None:
            try:
                me.switch()
            finally:
                finished.append("finally")

        greenlet.greenlet(inner).switch()

    for g in [go(body) for _ in range(10)]:
        g.join()
    del g
    gc.collect()
    assert finished == ["finally"] * 10


def test_deep_recursion_in_own_greenlet_that_blocks() -> None:
    ch: Chan[int] = Chan()

    def deep(n: int) -> int:
        return deep(n - 1) + 1 if n else ch.recv()

    gs = [go(lambda: greenlet.greenlet(deep).switch(200)) for _ in range(5)]
    for _ in gs:
        ch.send(0)
    assert [g.join() for g in gs] == [200] * 5


# --- improper use: from outside -------------------------------------------------------------------


def parked(fn: Any) -> tuple[Any, Any]:
    """A goroutine that is parked in fn, and its greenlet."""
    box: list[Any] = []

    def body() -> Any:
        box.append(greenlet.getcurrent())
        return fn()

    g = go(body)
    settle()
    assert g.state == "waiting"
    return g, box[0]


class Thrown(Exception):
    pass


def test_throw_into_a_parked_goroutine_raises_there() -> None:
    ch: Chan[int] = Chan()
    g, its = parked(ch.recv)
    its.throw(Thrown)
    with pytest.raises(Thrown):
        g.join()
    assert not ch.try_send(1)  # it does not wait any more


def test_throw_into_a_parked_goroutine_that_catches_it() -> None:
    ch: Chan[int] = Chan()

    def body() -> int:
        with pytest.raises(Thrown):
            ch.recv()
        return ch.recv()

    g, its = parked(body)
    its.throw(Thrown)
    ch.send(5)
    assert g.join() == 5


def test_throw_into_a_goroutine_that_is_promised_a_value_keeps_the_value() -> None:
    ch: Chan[int] = Chan()
    got: list[int] = []

    def body() -> None:
        got.append(ch.recv())
        ch.recv()

    g, its = parked(body)
    ch.send(1)
    its.throw(Thrown)
    with pytest.raises(Thrown):
        g.join()
    assert got == [1]


def test_kill_of_a_parked_goroutine_runs_its_finally() -> None:
    log: list[str] = []
    ch: Chan[int] = Chan()

    def body() -> None:
        try:
            ch.recv()
        finally:
            log.append("finally")

    g, its = parked(body)
    its.throw()
    with pytest.raises(greenlet.GreenletExit):
        g.join()
    assert log == ["finally"]


@pytest.mark.parametrize("where", ["main", "goroutine", "own greenlet"])
def test_switch_to_a_parked_goroutine_changes_nothing(where: str) -> None:
    ch: Chan[int] = Chan()
    g, its = parked(ch.recv)

    def abuse() -> None:
        for _ in range(5):
            its.switch("nonsense")

    if where == "main":
        abuse()
    elif where == "goroutine":
        go(abuse).join()
    else:
        go(lambda: (gosched(), abuse())).join()
    assert g.state == "waiting"
    ch.send(3)
    assert g.join() == 3


def test_switch_and_throw_to_a_yielding_goroutine() -> None:
    box: list[Any] = []

    def body() -> str:
        box.append(greenlet.getcurrent())
        gosched()
        gosched()
        return "yielded"

    g = go(body)
    gosched()
    box[0].switch()
    assert g.join() == "yielded"
    g = go(body)
    gosched()
    box[1].throw(Thrown)
    with pytest.raises(Thrown):
        g.join()


def test_switch_and_throw_to_an_idle_worker() -> None:
    box: list[Any] = []
    ch: Chan[int] = Chan()
    waiting = go(ch.recv)
    settle()
    go(lambda: box.append(greenlet.getcurrent())).join()
    settle()
    worker = box[0]
    for _ in range(3):
        worker.switch()
        worker.throw()
    ch.send(1)
    assert waiting.join() == 1
    assert go(lambda: "works").join() == "works"


def test_switch_and_throw_to_g0() -> None:
    def root() -> Any:
        g: Any = greenlet.getcurrent()
        return g.parent

    g0 = go(root).join()
    for _ in range(3):
        g0.switch()
        g0.throw()
    assert go(lambda: "works").join() == "works"


def test_own_greenlet_that_outlives_its_goroutine() -> None:
    box: list[Any] = []

    def body() -> None:
        box.append(greenlet.greenlet(lambda: "result"))

    for _ in range(5):
        go(body).join()
    ch: Chan[int] = Chan()
    g = go(ch.recv)
    settle()
    for own in box:
        own.switch()
        assert own.dead
    ch.send(1)
    assert g.join() == 1


def test_own_greenlet_that_dies_in_another_goroutine() -> None:
    box: list[Any] = []
    ch: Chan[int] = Chan()

    def maker() -> int:
        box.append(greenlet.greenlet(lambda: "result"))
        return ch.recv()

    maker_g = go(maker)
    settle()
    g = go(lambda: (box[0].switch(), "went on")[1])
    assert g.join() == "went on"
    ch.send(2)
    assert maker_g.join() == 2


def test_abuse_leaves_no_goroutines() -> None:
    waits.settle()
    base = num_goroutine()
    ch: Chan[int] = Chan()
    pairs = [parked(ch.recv) for _ in range(50)]
    for i, (_, its) in enumerate(pairs):
        its.throw(Thrown) if i % 2 else its.switch()
    settle()
    for i, (g, _) in enumerate(pairs):
        if i % 2:
            assert isinstance(g.exception(), Thrown)
        else:
            ch.send(i)
            assert g.join() == i
    assert num_goroutine() <= base


def test_running_a_parked_goroutine_to_its_end_is_fatal_and_says_why() -> None:
    done = run(
        """
        import greenlet
        from runtime import *

        ch = Chan()
        box = []

        def body():
            box.append(greenlet.getcurrent())
            greenlet.greenlet(ch.recv).switch()     # body waits for this one

        go(body)
        gosched()
        box[0].switch()                             # and is told a lie
        """,
        GOMAXPROCS="1",  # body runs on this thread
    )
    assert done.returncode < 0
    assert "its greenlet was switched to" in done.stderr
