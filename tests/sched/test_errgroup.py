"""errgroup.Group."""

import gc
import random
import threading
from typing import Any

import pytest

import runtime
from runtime import Cancelled, Chan, context, errgroup, go, goexit, gosched, sleep, sync
from waits import parked, until


def test_errgroup_wait_returns_when_all_have_ended() -> None:
    group, ended = errgroup.Group(), []

    def body(i: int) -> int:
        gosched()
        ended.append(i)
        return i

    gs = [group.go(body, i) for i in range(10)]
    group.wait()
    assert sorted(ended) == [g.join() for g in gs] == list(range(10))
    assert group.go(dict, a=1).join() == {"a": 1}
    group.wait()
    errgroup.Group().wait()


def test_errgroup_first_error_is_raised_and_the_others_go_on() -> None:
    group, ended = errgroup.Group(), []
    first = KeyError("first")

    def fail(e: Exception) -> None:
        raise e

    def last() -> None:
        sleep(0.0005)
        ended.append(1)

    g = group.go(fail, first)
    until(g.done)
    group.go(fail, ValueError("second"))
    group.go(last)
    for _ in range(2):  # it stays the first
        with pytest.raises(KeyError, match="first") as info:
            group.wait()
        assert any(entry.name == "fail" for entry in info.traceback)
    assert ended == [1]
    assert g.exception() is first


def test_errgroup_errors_are_reported_once_by_wait_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException] = []
    monkeypatch.setattr(runtime, "excepthook", lambda g, e: seen.append(e))
    for _ in range(20):
        group = errgroup.Group()
        for i in range(3):
            group.go(int, f"x{i}")
        with pytest.raises(ValueError):
            group.wait()
        del group
    gc.collect()
    assert seen == []


def test_errgroup_cancelled_and_exited_goroutines_are_no_errors() -> None:
    group = errgroup.Group()
    group.go(goexit)
    waiting = group.go(sleep, 1000)
    parked(waiting).cancel()
    group.go(sleep, 1000).cancel()
    group.wait()


@pytest.mark.usefixtures("one_p")
def test_errgroup_goroutine_cancelled_with_an_error_before_it_begins_is_one() -> None:
    for _ in range(20):
        group = errgroup.Group()
        g = group.go(sleep, 1000)
        assert g.cancel(KeyError("early"))
        with pytest.raises(KeyError, match="early"):
            group.wait()


def test_errgroup_limit_bounds_the_goroutines() -> None:
    group, inside, most = errgroup.Group(), 0, 0
    group.set_limit(3)
    lock = threading.Lock()

    def body() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        gosched()
        with lock:
            inside -= 1

    for _ in range(20):
        group.go(body)
    group.wait()
    assert most <= 3


def test_errgroup_try_go_starts_nothing_at_the_limit() -> None:
    group, gate = errgroup.Group(), sync.Event()
    group.set_limit(1)
    g = group.try_go(gate.wait)
    assert g is not None
    assert group.try_go(gate.wait) is None
    with pytest.raises(RuntimeError, match="run"):
        group.set_limit(5)
    gate.set()
    group.wait()
    for none in (None, -1):
        group.set_limit(none)
        gs = [group.try_go(gate.wait) for _ in range(10)]
        assert None not in gs
        group.wait()
    group.set_limit(0)
    assert group.try_go(gate.wait) is None
    blocked = parked(go(group.go, gate.wait))
    blocked.cancel()
    with pytest.raises(Cancelled):
        blocked.join()


def test_errgroup_bad_arguments_raise() -> None:
    group: Any = errgroup.Group()
    for bad in (1, None, "x"):
        with pytest.raises(TypeError, match="callable"):
            group.go(bad)
        with pytest.raises(TypeError, match="callable"):
            group.try_go(bad)
    for bad in ("1", 1.5):
        with pytest.raises(TypeError):
            group.set_limit(bad)
    group.wait()


def test_errgroup_goroutines_may_start_others() -> None:
    group, ended = errgroup.Group(), []

    def body(n: int) -> None:
        if n:
            group.go(body, n - 1)
            group.go(body, n - 1)
        ended.append(n)

    group.go(body, 6)
    group.wait()
    assert len(ended) == 127


@pytest.mark.parametrize("seed", range(3))
def test_errgroup_used_by_many_threads_and_goroutines(seed: int) -> None:
    rnd = random.Random(seed)
    group, ended = errgroup.Group(), []
    group.set_limit(4)
    errors: list[BaseException] = []

    def body(i: int) -> None:
        if rnd.random() < 0.5:
            gosched()
        ended.append(i)
        if i % 10 == 3:
            raise KeyError(i)

    def spawn(start: int) -> None:
        try:
            for i in range(start, start + 20):
                group.go(body, i)
        except BaseException as e:
            errors.append(e)

    def wait() -> None:
        try:
            group.wait()
            errors.append(AssertionError("no error"))
        except KeyError:
            pass

    threads = [threading.Thread(target=spawn, args=(i * 20,)) for i in range(3)]
    for t in threads:
        t.start()
    for g in [go(spawn, 100 + i * 20) for i in range(3)]:
        g.join()
    until(lambda: not any(t.is_alive() for t in threads))
    waiters = [threading.Thread(target=wait) for _ in range(3)]
    for t in waiters:
        t.start()
    for g in [go(wait) for _ in range(3)]:
        g.join()
    until(lambda: not any(t.is_alive() for t in waiters))
    assert not errors
    assert len(ended) == 120


# --- with_context ---------------------------------------------------------------------------------


def test_errgroup_context_ends_with_the_first_error() -> None:
    parent, cancel = context.with_cancel()
    group, ctx = errgroup.with_context(parent)
    error = KeyError("first")
    gate: Chan[None] = Chan()

    def fail() -> None:
        gate.recv()
        raise error

    waiting = [group.go(Chan().recv, ctx=ctx) for _ in range(5)]
    group.go(fail)
    assert ctx.err() is None
    gate.send(None)
    with pytest.raises(KeyError, match="first"):
        group.wait()
    assert type(ctx.err()) is context.Canceled
    assert context.cause(ctx) is error
    assert all(type(g.exception()) is context.Canceled for g in waiting)
    assert parent.err() is None
    cancel()


def test_errgroup_context_ends_when_wait_has_seen_all_end() -> None:
    group, ctx = errgroup.with_context()
    gate: Chan[None] = Chan()
    group.go(gate.recv)
    with pytest.raises(TimeoutError):
        group.wait(0.001)
    assert ctx.err() is None
    gate.send(None)
    group.wait()
    assert type(context.cause(ctx)) is context.Canceled


def test_errgroup_context_ends_with_its_parent() -> None:
    with context.with_timeout(None, 0.001) as parent:
        group, ctx = errgroup.with_context(context.with_value(parent, "k", "v"))
        assert ctx.value("k") == "v"
        for _ in range(3):
            group.go(sleep, 60, ctx=ctx)
        with pytest.raises(context.DeadlineExceeded):
            group.wait()
