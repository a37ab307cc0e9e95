"""runtime.Group: goroutines that end together."""

import contextvars
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs import environment, run
from runtime import (
    Cancelled,
    Chan,
    Goroutine,
    Group,
    WaitGroup,
    _group,
    current,
    go,
    goexit,
    gomaxprocs,
    gosched,
    nopreempt,
    num_goroutine,
    sleep,
)
from waits import parked, until


def for_ever() -> None:
    Chan[None]().recv()


def fail(exc: BaseException | type[BaseException]) -> None:
    raise exc


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No goroutine and no cancellation is left over by a test."""
    base = num_goroutine()
    yield
    gosched()
    sleep(0.00001)
    until(lambda: num_goroutine() <= base)
    assert not _group._tokens


@pytest.fixture
def procs() -> Iterator[Callable[[int], int]]:
    before = gomaxprocs()
    yield gomaxprocs
    gomaxprocs(before)


class Log:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def wait(self, name: str, cleanup: Callable[[], Any] = lambda: None) -> None:
        """Wait until cancelled, and clean up."""
        try:
            for_ever()
        except Cancelled:
            self.lines.append(f"{name} cancelled")
            cleanup()
            raise


# --- the good end -------------------------------------------------------------------------------


def test_group_waits_for_all() -> None:
    ended = []

    def work(n: int, seconds: float) -> int:
        sleep(seconds)
        ended.append(n)
        return n * n

    with Group() as grp:
        gs = [grp.go(work, n, seconds=0.0001 * (10 - n)) for n in range(10)]
        assert all(isinstance(g, Goroutine) for g in gs)
    assert sorted(ended) == list(range(10))
    assert all(g.done() for g in gs)
    assert [g.join() for g in gs] == [n * n for n in range(10)]


def test_group_without_goroutines() -> None:
    with Group():
        pass
    with Group(limit=1) as grp:
        assert isinstance(grp, Group)


def test_group_waits_for_those_added_while_it_ends() -> None:
    ended = []

    def tree(depth: int) -> None:
        gosched()
        if depth:
            grp.go(tree, depth - 1)
            grp.go(tree, depth - 1)
        ended.append(depth)

    with Group() as grp:
        grp.go(tree, 6)
    assert len(ended) == 2**7 - 1


def test_group_passes_all_arguments() -> None:
    with Group(limit=3) as grp:
        g = grp.go(dict, fn=1, self=2, args=3, kwargs=4, timeout=5)
        h = grp.try_go(dict, fn=1, self=2)
        i = grp.go(lambda *args: args, 1, 2, 3, 4, 5)
    assert g.join() == {"fn": 1, "self": 2, "args": 3, "kwargs": 4, "timeout": 5}
    assert h is not None
    assert h.join() == {"fn": 1, "self": 2}
    assert i.join() == (1, 2, 3, 4, 5)


def test_group_goroutines_see_the_callers_context() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    def body() -> None:
        var.set("outside")
        with Group() as grp:
            var.set("inside")
            g = grp.go(var.get)
            grp.go(var.set, "child")
        assert g.join() == "inside"
        assert var.get() == "inside"

    go(body).join()


def test_group_block_may_return_break_and_continue() -> None:
    def body() -> str:
        for i in range(3):
            with Group() as grp:
                g = grp.go(sleep, 0.0001)
                if i == 0:
                    continue
                if i == 1:
                    break
        assert g.done()
        with Group() as grp:
            h.append(grp.go(sleep, 0.0001))
            return "returned"

    h: list[Goroutine[None]] = []
    assert body() == "returned"
    assert h[0].done()


# --- errors -------------------------------------------------------------------------------------


def test_error_of_a_goroutine_cancels_the_others_and_the_block() -> None:
    log = Log()
    error = ValueError("x")
    with pytest.raises(ExceptionGroup) as caught, Group() as grp:
        waiting = [grp.go(log.wait, f"{n}") for n in range(3)]
        for g in waiting:
            parked(g)
        failed = grp.go(fail, error)
        log.wait("block")
        log.lines.append("not reached")
    assert caught.value.exceptions == (error,)
    assert sorted(log.lines) == ["0 cancelled", "1 cancelled", "2 cancelled", "block cancelled"]
    for g in waiting:
        assert isinstance(g.exception(), Cancelled)
    with pytest.raises(ValueError):
        failed.join()


def test_error_of_a_goroutine_while_the_block_waits() -> None:
    log = Log()
    go_on: Chan[None] = Chan()

    def late() -> None:
        go_on.recv()
        raise LookupError

    def body() -> None:
        with Group() as grp:
            parked(grp.go(log.wait, "other"))
            grp.go(late)

    g = parked(go(body))
    go_on.send(None)
    with pytest.raises(ExceptionGroup) as caught:
        g.join()
    assert [type(e) for e in caught.value.exceptions] == [LookupError]
    assert log.lines == ["other cancelled"]


def test_error_of_the_block_cancels_the_goroutines(procs: Callable[[int], int]) -> None:
    procs(1)
    log = Log()
    error = ValueError("block")
    with nopreempt(), pytest.raises(ExceptionGroup) as caught, Group() as grp:
        parked(grp.go(log.wait, "child"))
        grp.go(log.lines.append, "never begins")
        raise error
    assert caught.value.exceptions == (error,)
    assert log.lines == ["child cancelled"]


def test_error_the_others_clean_up_before_the_block_is_left() -> None:
    steps = []

    def work(n: int) -> None:
        try:
            for_ever()
        finally:
            sleep(0.0002 * n)
            steps.append(n)

    with pytest.raises(ExceptionGroup), Group() as grp:
        for n in range(3):
            parked(grp.go(work, n))
        grp.go(fail, ValueError)
    assert sorted(steps) == [0, 1, 2]


def test_errors_are_raised_together() -> None:
    log = Log()
    with pytest.raises(ExceptionGroup) as caught, Group() as grp:
        for n in range(3):
            parked(grp.go(log.wait, f"{n}", lambda n=n: fail(LookupError(n))))
        parked(grp.go(log.wait, "clean"))
        grp.go(fail, ValueError("first"))
        log.wait("block", lambda: fail(KeyError("block")))
    kinds = [type(e) for e in caught.value.exceptions]
    assert kinds[0] is ValueError
    assert sorted(k.__name__ for k in kinds[1:]) == ["KeyError"] + ["LookupError"] * 3
    matched, rest = caught.value.split(ValueError)
    assert len(matched.exceptions) == 1
    assert len(rest.exceptions) == 4


class Strange(BaseException):
    pass


def test_error_that_is_no_exception_makes_a_base_exception_group() -> None:
    with pytest.raises(BaseExceptionGroup) as caught, Group() as grp:
        grp.go(fail, Strange)
    assert not isinstance(caught.value, ExceptionGroup)
    assert [type(e) for e in caught.value.exceptions] == [Strange]
    with pytest.raises(BaseExceptionGroup) as caught, Group() as grp:
        raise Strange
    assert not isinstance(caught.value, ExceptionGroup)


def test_error_raised_by_several_goroutines_counts_once() -> None:
    error = ValueError()
    with pytest.raises(ExceptionGroup) as caught, Group() as grp:
        for _ in range(3):
            parked(grp.go(Log().wait, "", lambda: fail(error)))
        raise error
    assert caught.value.exceptions == (error,)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("others", [0, 2])
def test_error_that_ends_the_program_is_raised_by_itself(
    kind: type[BaseException], others: int
) -> None:
    quitting = kind()
    with pytest.raises(kind) as caught, Group() as grp:
        for _ in range(others):
            parked(grp.go(Log().wait, "", lambda: fail(ValueError)))
        raise quitting
    assert caught.value is quitting
    if others:
        assert isinstance(quitting.__cause__, ExceptionGroup)
        assert [type(e) for e in quitting.__cause__.exceptions] == [ValueError] * 2
    else:
        assert quitting.__cause__ is None


def test_error_sys_exit_in_a_goroutine_ends_the_program() -> None:
    done = run(
        """
        import sys
        from runtime import *

        def wait():
            try:
                Chan().recv()
            finally:
                print("clean-up")

        with Group() as grp:
            g = grp.go(wait)
            while g.state != "waiting":
                gosched()
            grp.go(sys.exit, 7)
        print("not reached")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "clean-up\n", "")


def test_errors_are_not_reported_a_second_time() -> None:
    done = run(
        """
        from runtime import *

        def late():
            try:
                Chan().recv()
            finally:
                raise LookupError

        for limit in None, 5:
            try:
                with Group(limit) as grp:
                    g = grp.go(late)
                    while g.state != "waiting":
                        gosched()
                    grp.go(lambda: 1 / 0)
            except ExceptionGroup as e:
                print(sorted(type(e).__name__ for e in e.exceptions))
        del grp, g
        """,
        "-X",
        "dev",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "['LookupError', 'ZeroDivisionError']\n" * 2


@pytest.mark.parametrize("limit", [None, 3])
def test_error_traceback_has_only_the_frames_that_matter(limit: int | None) -> None:
    def inner() -> None:
        raise ValueError

    with pytest.raises(ExceptionGroup) as caught, Group(limit) as grp:
        g = parked(grp.go(Log().wait, "", inner))
        h = grp.go(inner)
    for e in caught.value.exceptions:
        names = [frame.name for frame in traceback.extract_tb(e.__traceback__)]
        assert names in (["__call__", "inner"], ["__call__", "wait", "inner"])
    assert g.done()
    assert h.done()
    text = "".join(traceback.format_exception(caught.value))
    assert text.count(f'File "{_group.__file__}"') == 3  # __exit__, and twice __call__


def test_error_keeps_nothing_alive(procs: Callable[[int], int]) -> None:
    procs(1)  # without the GIL what another thread has made goes when that next runs

    class Thing:
        pass

    refs = []

    def work(wait: bool) -> None:
        local = Thing()
        refs.append(weakref.ref(local))
        if wait:
            for_ever()
        raise ValueError(local)

    def body() -> None:
        mine = Thing()
        refs.append(weakref.ref(mine))
        with Group(limit=5) as grp:
            parked(grp.go(work, True))
            grp.go(work, False)
            for_ever()

    gc.disable()
    try:
        try:
            body()
        except ExceptionGroup:
            pass
        assert len(refs) == 3
        until(lambda: not any(ref() for ref in refs))
    finally:
        gc.enable()


# --- goroutines that end otherwise --------------------------------------------------------------


def test_cancelled_goroutine_is_no_error_and_the_others_go_on() -> None:
    ch: Chan[int] = Chan()
    with Group() as grp:
        g = parked(grp.go(for_ever))
        h = grp.go(for_ever)
        other = grp.go(ch.recv)
        assert g.cancel()
        assert h.cancel()  # has not begun
        with pytest.raises(Cancelled):
            g.join()
        ch.send(1)
    assert other.join() == 1


def test_goroutine_cancelled_with_an_error_is_an_error() -> None:
    with pytest.raises(ExceptionGroup) as caught, Group() as grp:
        other = grp.go(for_ever)
        parked(grp.go(for_ever)).cancel(ValueError())
    assert [type(e) for e in caught.value.exceptions] == [ValueError]
    assert isinstance(other.exception(), Cancelled)
    with pytest.raises(ExceptionGroup) as caught, Group() as grp:
        other = grp.go(for_ever)
        grp.go(for_ever).cancel(ValueError())  # has not begun
    assert [type(e) for e in caught.value.exceptions] == [ValueError]
    assert isinstance(other.exception(), Cancelled)


def test_goexit_in_a_goroutine_is_no_error() -> None:
    with Group() as grp:
        g = grp.go(goexit)
        grp.go(sleep, 0.0001)
    assert g.join() is None


def test_goexit_in_the_block_ends_the_goroutine_after_the_others() -> None:
    log = Log()

    def body() -> None:
        with Group() as grp:
            parked(grp.go(log.wait, "child"))
            goexit()
        log.lines.append("not reached")

    g = go(body)
    assert g.join() is None
    assert log.lines == ["child cancelled"]


def test_generator_closed_inside_of_the_block() -> None:
    log = Log()

    def generator() -> Iterator[int]:
        with Group() as grp:
            parked(grp.go(log.wait, "child"))
            yield 1

    gen = generator()
    assert next(gen) == 1
    gen.close()
    assert log.lines == ["child cancelled"]


# --- cancel() -----------------------------------------------------------------------------------


def test_cancel_in_the_block(procs: Callable[[int], int]) -> None:
    procs(1)
    log = Log()
    with nopreempt(), Group() as grp:
        parked(grp.go(log.wait, "child"))
        fresh = grp.go(log.lines.append, "never begins")
        grp.cancel()
        log.lines.append("block goes on")
        sleep(0)
        log.lines.append("not reached")
    assert sorted(log.lines) == ["block goes on", "child cancelled"]
    assert isinstance(fresh.exception(), Cancelled)


def test_cancel_by_a_goroutine_of_the_group() -> None:
    log = Log()

    def canceller() -> None:
        grp.cancel()
        log.lines.append("canceller goes on")
        log.wait("canceller")

    with Group() as grp:
        parked(grp.go(log.wait, "child"))
        grp.go(canceller)
        log.wait("block")
    assert sorted(log.lines) == [
        "block cancelled",
        "canceller cancelled",
        "canceller goes on",
        "child cancelled",
    ]


@pytest.mark.parametrize("by", ["goroutine", "thread"])
def test_cancel_from_outside(by: str) -> None:
    log = Log()
    groups: Chan[Group] = Chan()

    def body() -> str:
        with Group() as grp:
            parked(grp.go(log.wait, "child"))
            groups.send(grp)
            log.wait("block")
        sleep(0)
        return "goes on"

    g = go(body)
    grp = groups.recv()
    if by == "goroutine":
        parked(g)
        grp.cancel()
    else:
        thread = threading.Thread(target=grp.cancel)
        thread.start()
        until(lambda: not thread.is_alive())
        thread.join()
    assert g.join() == "goes on"
    assert sorted(log.lines) == ["block cancelled", "child cancelled"]


def test_cancel_while_the_block_waits_for_the_others() -> None:
    log = Log()
    groups: Chan[Group] = Chan(1)

    def body() -> str:
        with Group() as grp:
            parked(grp.go(log.wait, "child"))
            groups.send(grp)
        sleep(0)
        return "goes on"

    g = go(body)
    grp = groups.recv()
    until(lambda: g.wait_reason == "sync.WaitGroup.Wait")
    grp.cancel()
    grp.cancel()
    assert g.join() == "goes on"
    assert log.lines == ["child cancelled"]


def test_cancel_before_and_after(procs: Callable[[int], int]) -> None:
    procs(1)
    grp = Group()
    grp.cancel()
    ran: list[int] = []
    with grp:
        g = grp.go(ran.append, 1)
        sleep(0)
        ran.append(2)
    assert isinstance(g.exception(), Cancelled)
    assert not ran
    grp.cancel()
    sleep(0)
    with Group() as grp:
        pass
    grp.cancel()
    sleep(0)


def test_cancel_goroutines_added_later_do_not_begin() -> None:
    ran: list[int] = []
    with Group(limit=2) as grp:
        grp.cancel()
        gs = [grp.try_go(ran.append, n) for n in range(5)]
    assert not ran
    assert gs[0]
    assert all(isinstance(g.exception(), Cancelled) for g in gs if g)


def test_cancel_swallowed_by_the_block() -> None:
    steps = []
    with Group() as grp:
        grp.cancel()
        try:
            sleep(0)
        except Cancelled:
            steps.append("swallowed")
        sleep(0)
        steps.append("goes on")
    assert steps == ["swallowed", "goes on"]
    sleep(0)


def test_cancel_cleanup_error_of_the_block_is_an_error() -> None:
    with pytest.raises(ExceptionGroup) as caught, Group() as grp:
        grp.cancel()
        Log().wait("block", lambda: fail(ValueError))
    assert [type(e) for e in caught.value.exceptions] == [ValueError]


@pytest.mark.parametrize("how", ["cancel", "thread", "error"])
def test_cancel_of_a_block_that_does_not_wait_any_more_goes_no_further(how: str) -> None:
    """The block is left while Cancelled is on its way to it."""

    def block() -> None:
        with Group() as grp:
            if how == "cancel":
                grp.cancel()
                return
            target = grp.cancel if how == "thread" else lambda: grp.go(fail, ValueError)
            thread = threading.Thread(target=target)
            thread.start()
            while grp not in _group._tokens:  # this does not park
                os.sched_yield()
            thread.join()

    for _ in range(10):
        try:
            block()
        except ExceptionGroup as e:
            assert how == "error"
            assert [type(x) for x in e.exceptions] == [ValueError]
        else:
            assert how != "error"
        sleep(0)
        gosched()


# --- cancelled from outside ---------------------------------------------------------------------


@pytest.mark.parametrize("where", ["block", "end"])
def test_outer_cancel_is_raised_again_when_the_others_have_ended(where: str) -> None:
    log = Log()

    def body() -> None:
        with Group() as grp:
            parked(grp.go(log.wait, "child", lambda: sleep(0.0001)))
            if where == "block":
                log.wait("block")
        log.lines.append("not reached")

    g = parked(go(body))
    until(lambda: g.wait_reason in ("sync.WaitGroup.Wait", "chan receive"))
    g.cancel()
    with pytest.raises(Cancelled) as caught:
        g.join()
    assert sorted(log.lines) == ["block cancelled"] * (where == "block") + ["child cancelled"]
    assert not caught.value.args


def test_outer_cancel_twice_does_not_disturb_the_cleanup() -> None:
    log = Log()
    go_on: Chan[None] = Chan()

    def body() -> None:
        with Group() as grp:
            parked(grp.go(log.wait, "child", lambda: (go_on.recv(), log.lines.append("clean"))))

    g = parked(go(body))
    until(lambda: g.wait_reason == "sync.WaitGroup.Wait")
    g.cancel()
    until(lambda: log.lines)
    assert g.cancel()
    parked(g)
    go_on.send(None)
    with pytest.raises(Cancelled):
        g.join()
    assert log.lines == ["child cancelled", "clean"]


def test_outer_cancel_together_with_errors_stays_due() -> None:
    steps = []

    def body() -> None:
        try:
            with Group() as grp:
                parked(grp.go(Log().wait, "", lambda: fail(ValueError)))
                for_ever()
        except* ValueError:
            steps.append("errors")
        steps.append("goes on")
        sleep(0)
        steps.append("not reached")

    g = parked(go(body))
    until(lambda: g.wait_reason == "chan receive")
    g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    assert steps == ["errors", "goes on"]


def test_outer_cancel_with_an_error_is_raised_as_it_is() -> None:
    error = LookupError()

    def body(in_block: bool) -> None:
        with Group() as grp:
            parked(grp.go(for_ever))
            if in_block:
                for_ever()

    g = go(body, False)
    until(lambda: g.wait_reason == "sync.WaitGroup.Wait")
    g.cancel(error)
    with pytest.raises(LookupError) as caught:
        g.join()
    assert caught.value is error
    g = go(body, True)
    until(lambda: g.wait_reason == "chan receive")
    g.cancel(error)
    with pytest.raises(ExceptionGroup) as group:  # an error of the block like any other
        g.join()
    assert group.value.exceptions == (error,)


def test_outer_cancel_with_an_error_joins_the_others() -> None:
    def body() -> None:
        with Group() as grp:
            parked(grp.go(Log().wait, "", lambda: fail(ValueError)))

    g = go(body)
    until(lambda: g.wait_reason == "sync.WaitGroup.Wait")
    g.cancel(LookupError())
    with pytest.raises(ExceptionGroup) as caught:
        g.join()
    assert [type(e) for e in caught.value.exceptions] == [ValueError, LookupError]


# --- groups in groups ---------------------------------------------------------------------------


def test_nested_inner_error_is_an_error_of_the_outer() -> None:
    log = Log()
    with pytest.raises(ExceptionGroup) as caught, Group() as outer:
        parked(outer.go(log.wait, "outer child"))
        with Group() as inner:
            parked(inner.go(log.wait, "inner child"))
            inner.go(fail, ValueError)
        log.lines.append("not reached")
    (group,) = caught.value.exceptions
    assert isinstance(group, ExceptionGroup)
    assert [type(e) for e in group.exceptions] == [ValueError]
    assert log.lines == ["inner child cancelled", "outer child cancelled"]


def test_nested_outer_error_cancels_the_inner_group() -> None:
    log = Log()
    with pytest.raises(ExceptionGroup) as caught, Group() as outer:
        parked(outer.go(log.wait, "outer child"))
        with Group() as inner:
            parked(inner.go(log.wait, "inner child"))
            outer.go(fail, ValueError)
        log.lines.append("not reached")
    assert [type(e) for e in caught.value.exceptions] == [ValueError]
    assert sorted(log.lines) == ["inner child cancelled", "outer child cancelled"]


def test_nested_outer_cancel_leaves_both_blocks() -> None:
    log = Log()
    with Group() as outer:
        with Group() as inner:
            parked(inner.go(log.wait, "inner child"))
            outer.cancel()
        log.lines.append("not reached")
    assert log.lines == ["inner child cancelled"]
    sleep(0)


def test_nested_inner_cancel_leaves_one_block() -> None:
    log = Log()
    with Group() as outer:
        g = outer.go(sleep, 0.0005)
        with Group() as inner:
            parked(inner.go(log.wait, "inner child"))
            inner.cancel()
            sleep(0)
        log.lines.append("outer goes on")
        sleep(0)
    assert log.lines == ["inner child cancelled", "outer goes on"]
    assert g.exception() is None


def test_nested_outer_cancel_with_inner_errors_leaves_both_blocks() -> None:
    steps = []
    with Group() as outer:
        try:
            with Group() as inner:
                parked(inner.go(Log().wait, "", lambda: fail(ValueError)))
                outer.cancel()
        except* ValueError:
            steps.append("inner errors")
        sleep(0)
        steps.append("not reached")
    assert steps == ["inner errors"]
    sleep(0)


def test_nested_both_cancelled_at_once() -> None:
    """Cancelled of the inner group is on its way when the outer one wants to send its own."""
    for first in ("inner", "outer"):
        steps = []
        with Group() as outer:
            with Group() as inner:
                for grp in (inner, outer) if first == "inner" else (outer, inner):
                    grp.cancel()
                sleep(0)
            steps.append("outer goes on")
            for_ever()
        assert steps in ([], ["outer goes on"])
        sleep(0)


def test_nested_group_of_a_cancelled_goroutine_that_swallows_its_own_cancel() -> None:
    """The same between a goroutine's own group and the one it belongs to."""
    steps = []

    def child() -> None:
        with Group() as inner:
            inner.cancel()
            outer.cancel()
            sleep(0)
        steps.append("child goes on")
        for_ever()

    with Group() as outer:
        outer.go(child)
    assert steps == ["child goes on"]
    sleep(0)


def test_nested_cancel_of_the_goroutine_while_it_leaves_groups() -> None:
    def level(n: int) -> None:
        with Group() as grp:
            parked(grp.go(Log().wait, "", lambda: sleep(0.0002)))
            if n:
                level(n - 1)
            for_ever()

    g = go(level, 5)
    until(lambda: g.wait_reason == "chan receive")
    g.cancel()
    with pytest.raises(Cancelled):
        g.join()


# --- limit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_limit_is_kept(limit: int) -> None:
    running, most, ended = 0, 0, []
    lock, together = threading.Lock(), WaitGroup()
    together.add(limit)

    def work(n: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if n < limit:  # as many as may run do
            together.done()
            together.wait(60)
        sleep(0.00005 * (n % 3))
        with lock:
            running -= 1
        ended.append(n)

    with Group(limit) as grp:
        for n in range(60):
            grp.go(work, n)
    assert most == limit
    assert sorted(ended) == list(range(60))


def test_limit_go_waits_for_room() -> None:
    go_on: Chan[None] = Chan()
    started = []

    def body() -> None:
        with Group(limit=2) as grp:
            for n in range(4):
                grp.go(go_on.recv)
                started.append(n)

    g = parked(go(body))
    until(lambda: g.wait_reason == "chan send")
    assert started == [0, 1]
    go_on.send(None)
    until(lambda: len(started) == 3)
    for _ in range(3):
        go_on.send(None)
    g.join()
    assert started == [0, 1, 2, 3]


def test_limit_try_go_does_not_wait() -> None:
    go_on: Chan[None] = Chan()
    with Group(limit=2) as grp:
        assert grp.try_go(go_on.recv)
        assert grp.try_go(go_on.recv)
        assert grp.try_go(go_on.recv) is None
        go_on.send(None)
        until(lambda: grp.try_go(go_on.recv))
        assert grp.try_go(go_on.recv) is None
        go_on.send(None)
        go_on.send(None)
    with Group() as grp:
        for _ in range(100):
            assert grp.try_go(len, "") is not None


@pytest.mark.parametrize("how", ["never begins", "cancelled", "fails", "goexit"])
def test_limit_room_is_given_back(how: str) -> None:
    def body() -> None:
        with Group(limit=1) as grp:
            for _ in range(5):
                if how == "goexit":
                    grp.go(goexit)
                elif how == "fails":
                    grp.go(fail, ValueError)
                else:
                    g = grp.go(for_ever)
                    if how == "cancelled":
                        parked(g)
                    g.cancel()

    if how == "fails":
        with pytest.raises(ExceptionGroup):
            body()
    else:
        body()


def test_limit_go_that_waits_is_cancelled_with_the_block() -> None:
    started = []
    owner = current()
    with pytest.raises(ExceptionGroup), Group(limit=2) as grp:
        grp.go(for_ever)
        grp.go(lambda: (until(lambda: owner.wait_reason == "chan send"), fail(ValueError)))
        started.append(2)
        grp.go(for_ever)
        started.append(3)
    assert started == [2]


def test_limit_go_of_a_goroutine_whose_turn_comes_after_the_end() -> None:
    groups: Chan[Group] = Chan(1)
    outcome: list[str] = []

    def stranger(grp: Group) -> None:
        try:
            grp.go(len, "")
            outcome.append("started")
        except RuntimeError as e:
            outcome.append(str(e))

    go_on: Chan[None] = Chan()
    with Group(limit=1) as grp:
        grp.go(go_on.recv)
        groups.send(grp)
        strangers = [parked(go(stranger, groups.recv()))]
        go_on.send(None)
    for g in strangers:
        g.join()
    assert outcome[0] == "started" or "has ended" in outcome[0]


@pytest.mark.parametrize("limit", [0, -1, -(10**20)])
def test_limit_less_than_one_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Group(limit)
    with pytest.raises(TypeError):
        Group(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Group("1")  # type: ignore[arg-type]


# --- misuse, and who may call -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["go", "try_go"])
def test_group_that_was_not_entered_or_has_ended_is_refused(method: str) -> None:
    grp = Group(limit=1)
    with pytest.raises(RuntimeError, match="not entered"):
        getattr(grp, method)(len, "")
    with grp:
        pass
    for _ in range(3):
        with pytest.raises(RuntimeError, match="has ended"):
            getattr(grp, method)(len, "")
    with pytest.raises(RuntimeError, match="only once"), grp:
        pass


def test_group_entered_twice_is_refused() -> None:
    with Group() as grp:
        g = grp.go(sleep, 0.0001)
        with pytest.raises(RuntimeError, match="only once"):
            grp.__enter__()
    assert g.exception() is None


@pytest.mark.parametrize("method", ["go", "try_go"])
def test_group_go_needs_a_callable(method: str) -> None:
    with Group(limit=1) as grp:
        for _ in range(3):
            with pytest.raises(TypeError, match=r"write grp.go\(f, x\)"):
                getattr(grp, method)(len("x"))
        with pytest.raises(TypeError):
            getattr(grp, method)()
        assert grp.try_go(len, "")


def test_group_of_a_plain_thread() -> None:
    results: list[Any] = []

    def body() -> None:
        with Group(limit=2) as grp:
            gs = [grp.go(abs, -n) for n in range(10)]
        results.append([g.join() for g in gs])
        try:
            with Group() as grp:
                other = grp.go(for_ever)
                grp.go(fail, ValueError)
        except ExceptionGroup as e:
            results.append([type(x) for x in e.exceptions])
        results.append(type(other.exception()))
        with Group() as grp:
            grp.go(for_ever)
            grp.cancel()
            sleep(0)
            results.append("a thread is not cancelled")

    thread = threading.Thread(target=body)
    thread.start()
    until(lambda: not thread.is_alive())
    thread.join()
    assert results == [
        list(range(10)),
        [ValueError],
        Cancelled,
        "a thread is not cancelled",
    ]


def test_group_filled_by_threads() -> None:
    count = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal count
        with lock:
            count += 1

    def fill() -> None:
        for _ in range(50):
            grp.go(work)

    with Group(limit=3) as grp:
        threads = [threading.Thread(target=fill) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: not any(thread.is_alive() for thread in threads))
        for thread in threads:
            thread.join()
    assert count == 200


def test_group_forgets_goroutines_that_have_ended() -> None:
    class Result:
        pass

    refs: list[weakref.ref[Result]] = []

    def work() -> Result:
        result = Result()
        refs.append(weakref.ref(result))
        return result

    with Group() as grp:
        kept = parked(grp.go(for_ever))
        for _ in range(20):
            gs = [grp.go(work) for _ in range(50)]
            for g in gs:
                g.join()
        del gs, g
        until(lambda: sum(ref() is not None for ref in refs) < 300)
        assert len(refs) == 1000
        kept.cancel()


# --- the program ends, or cannot go on ----------------------------------------------------------


def test_deadlock_in_a_group_cancels_it() -> None:
    done = run(
        """
        from runtime import *

        def wait():
            try:
                Chan().recv()
            finally:
                print("clean-up")

        try:
            with Group() as grp:
                grp.go(wait)
        except DeadlockError as e:
            print("deadlock")
        try:
            with Group() as grp:
                grp.go(wait)
                Chan().recv()
        except* DeadlockError:
            print("deadlock in the block")
        sleep(0.001)
        """
    )
    assert done.returncode == 0
    assert done.stderr.count("fatal error: all goroutines are asleep - deadlock!") == 2
    assert done.stdout == "clean-up\ndeadlock\nclean-up\ndeadlock in the block\n"


def test_deadlock_of_goroutines_that_cannot_be_cancelled() -> None:
    done = run(
        """
        from runtime import *

        def stubborn(times):
            for _ in range(times):
                try:
                    Chan().recv()
                except Cancelled:
                    print("no")

        try:
            with Group() as grp:
                gs = [grp.go(stubborn, 10**9), grp.go(stubborn, 3)]
                while any(g.state != "waiting" for g in gs):
                    gosched()
                grp.go(lambda: 1 / 0)
        except BaseExceptionGroup as e:
            print(sorted(type(e).__name__ for e in e.exceptions))
        """
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert done.stdout.splitlines()[-1] == "['DeadlockError', 'ZeroDivisionError']"
    assert 3 <= done.stdout.count("no") < 20


@pytest.mark.parametrize("where", ["block", "end", "child"])
def test_ctrl_c_cancels_the_group(where: str) -> None:
    source = f"""
import os
from runtime import *

def wait():
    try:
        sleep(1000)
    finally:
        sleep(0.001)
        os.write(1, b"clean-up\\n")

def spin():
    os.write(1, b"ready\\n")
    while True:
        gosched()

try:
    with Group() as grp:
        gs = [grp.go(wait) for _ in range(3)]
        while any(g.state != "waiting" for g in gs):
            gosched()
        if {where!r} == "child":
            grp.go(spin)
        else:
            go(os.write, 1, b"ready\\n")
        if {where!r} == "block":
            sleep(1000)
except KeyboardInterrupt:
    os.write(1, b"interrupted\\n")
sleep(0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=120)
        finally:
            child.kill()
    assert (child.returncode, out, err) == (0, "clean-up\n" * 3 + "interrupted\n", "")


def test_signal_handler_that_raises_while_the_block_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log()
    all_ended = Group._all_ended

    def interrupted(grp: Group) -> bool:
        monkeypatch.setattr(Group, "_all_ended", all_ended)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Group() as grp:
        g = parked(grp.go(log.wait, "child", lambda: sleep(0.0001)))
        monkeypatch.setattr(Group, "_all_ended", interrupted)
    assert log.lines == ["child cancelled"]
    assert g.done()


# --- anything at any time -----------------------------------------------------------------------


class World:
    """A random tree of groups.  Notes what leaves each function; checks each group's end."""

    def __init__(self, seed: int) -> None:
        self.rnd = random.Random(seed)
        self.left = 150  # goroutines that may still be made
        self.problems: list[str] = []
        self.alive: list[Goroutine[Any]] = []

    def wait(self) -> None:
        how = self.rnd.random()
        if how < 0.4:
            gosched()
        elif how < 0.8:
            sleep(self.rnd.choice([0, 0.00002, 0.0002]))
        elif how < 0.9:
            try:
                Chan().recv(timeout=0.0001)
            except TimeoutError:
                pass

    def child(self, grp: Group, depth: int, raised: list[BaseException]) -> None:
        try:
            self.work(grp, depth)
        except BaseException as e:
            if not isinstance(e, Cancelled):
                raised.append(e)
            raise

    def work(self, grp: Group | None, depth: int) -> None:
        rnd = self.rnd
        try:
            for _ in range(rnd.randrange(4)):
                what = rnd.random()
                if what < 0.35:
                    self.wait()
                elif what < 0.65 and depth:
                    self.group(depth - 1)
                elif what < 0.75 and grp is not None:
                    grp.cancel()
                elif what < 0.8 and self.alive:
                    rnd.choice(self.alive).cancel()
                elif what < 0.85:
                    raise LookupError(depth)
        except Cancelled:
            self.wait()
            what = rnd.random()
            if what < 0.1:
                raise KeyError from None
            if what < 0.2:
                return  # swallowed
            raise

    def group(self, depth: int) -> None:
        rnd = self.rnd
        raised: list[BaseException] = []
        children: list[Goroutine[Any]] = []
        grp = Group(rnd.choice([None, None, 1, 3]))
        body_raised: BaseException | None = None
        try:
            with grp:
                try:
                    for _ in range(rnd.randrange(5)):
                        if self.left <= 0:
                            break
                        self.left -= 1
                        start = rnd.choice([grp.go, grp.go, grp.try_go])
                        g = start(self.child, grp, depth, raised)
                        if g is not None:
                            children.append(g)
                            self.alive.append(g)
                        self.wait() if rnd.random() < 0.3 else None
                    self.work(grp, depth)
                except BaseException as e:
                    body_raised = e
                    if not isinstance(e, Cancelled):
                        raised.append(e)
                    raise
        except BaseExceptionGroup as e:
            if {id(x) for x in e.exceptions} != {id(x) for x in raised}:
                self.problems.append(f"raised {e.exceptions!r}, not {raised!r}")
            self.check_ended(children)
            if rnd.random() < 0.5:
                raise
        except Cancelled as e:
            if raised:
                self.problems.append(f"cancelled, and {raised!r} lost")
            if e is grp._token:
                self.problems.append("its own Cancelled has left the group")
            self.check_ended(children)
            raise
        else:
            if raised:
                self.problems.append(f"{raised!r} lost")
            if body_raised is not None and body_raised is not grp._token:
                self.problems.append(f"{body_raised!r} lost")
            self.check_ended(children)

    def check_ended(self, children: list[Goroutine[Any]]) -> None:
        if not all(g.done() for g in children):
            self.problems.append("children live on")

    def main(self) -> None:
        while self.left > 0:
            g = go(self.group, 3)
            self.alive.append(g)
            while not g.done():
                self.wait()
            e = g.exception()
            assert e is None or isinstance(e, Cancelled | BaseExceptionGroup), e
            self.left -= 1
        assert not self.problems


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("seed", range(25))
def test_group_stress(seed: int, n: int, procs: Callable[[int], int]) -> None:
    procs(n)
    World(seed).main()


steps = st.lists(st.sampled_from(["wait", "raise", "cancel", "swallow"]), max_size=4)


@given(children=st.lists(steps, max_size=5), block=steps, limit=st.none() | st.integers(1, 5))
def test_group_raises_exactly_what_was_raised(
    children: list[list[str]], block: list[str], limit: int | None
) -> None:
    raised: list[BaseException] = []
    ran: list[int] = []

    def perform(steps: list[str]) -> None:
        swallow = False
        for step in steps:
            try:
                if step == "wait":
                    gosched()
                elif step == "raise":
                    raised.append(ValueError())
                    raise raised[-1]
                elif step == "cancel":
                    grp.cancel()
                else:
                    swallow = True
            except Cancelled:
                if not swallow:
                    raise

    def child(n: int) -> None:
        ran.append(n)
        perform(children[n])

    gs = []
    errors: tuple[BaseException, ...] = ()
    try:
        with Group(limit) as grp:
            for n in range(len(children)):
                gs.append(grp.go(child, n))
            perform(block)
    except ExceptionGroup as e:
        errors = e.exceptions
    assert set(map(id, errors)) == set(map(id, raised))
    assert all(g.done() for g in gs)
    stopped = raised or any("cancel" in s for s in [*children, block])
    if not stopped:
        assert sorted(ran) == list(range(len(children)))
    gosched()


def test_group_in_a_wait_group_of_many() -> None:
    wg = WaitGroup()

    def body(n: int) -> None:
        try:
            with Group(limit=1 + n % 3) as grp:
                for i in range(10):
                    grp.go(sleep, 0.00001 * i)
                if n % 5 == 0:
                    grp.cancel()
        finally:
            wg.done()

    wg.add(50)
    for n in range(50):
        go(body, n)
    wg.wait()
