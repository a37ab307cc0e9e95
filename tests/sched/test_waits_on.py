"""Who waits for whom: GoroutineInfo.waits_on and .holders, and goroutines counted in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import runtime
from runtime import Chan, Goroutine, GoroutineInfo, _core, go, goroutines
from runtime._inspect import find
from runtime.sync import Cond, Event, Mutex, Once, RWMutex, Semaphore, WaitGroup
from waits import parked


def info(g: Goroutine[Any]) -> GoroutineInfo:
    (found,) = (i for i in goroutines() if i.goroutine is g)
    return found


@pytest.fixture
def waiting() -> Iterator[Callable[..., Goroutine[Any]]]:
    """waiting(fn, *args): a goroutine that calls it, and waits in it."""
    started: list[Goroutine[Any]] = []

    def start(fn: Callable[..., object], *args: Any) -> Goroutine[Any]:
        started.append(parked(go(fn, *args)))
        return started[-1]

    yield start
    for g in started:
        g.cancel()
    for g in started:
        with suppress(runtime.Cancelled):
            g.join(timeout=30)


def test_waits_on_is_empty_where_nobody_can_tell(waiting):
    assert goroutines()[0].waits_on == goroutines()[0].holders == ()
    assert info(waiting(runtime.sleep, 3600)).waits_on == ()


def test_waits_on_channel_is_that_channel(waiting):
    ch, full = Chan(), Chan(1)
    full.send(0)
    assert info(waiting(ch.recv)).waits_on == (ch,)
    assert info(waiting(lambda: ch.recv(timeout=3600))).waits_on == (ch,)
    assert info(waiting(full.send, 1)).waits_on == (full,)
    assert info(waiting(ch.recv)).holders == ()


def test_waits_on_select_is_all_of_its_channels(waiting):
    a, b, full = Chan(), Chan(), Chan(1)
    full.send(0)
    cases = [runtime.recv(a), runtime.recv(None), runtime.recv(b), runtime.send(full, 1)]
    i = info(waiting(runtime.select, *cases))
    assert (i.wait_reason, i.waits_on) == ("select", (a, b, full))
    i = info(waiting(runtime.select, *[runtime.recv(Chan()) for _ in range(40)]))
    assert len(i.waits_on) == 16


@pytest.mark.parametrize("lock", ["lock", "rlock"])
def test_holders_of_rwmutex_is_the_writer(waiting, lock):
    rw = RWMutex()
    holder = waiting(held, rw, runtime.sleep, 3600)
    i = info(waiting(getattr(rw, lock)))
    assert (i.waits_on, i.holders) == ((rw,), (holder.id,))


def test_holders_of_rwmutex_locked_for_reading_are_unknown(waiting):
    rw = RWMutex()
    rw.rlock()
    i = info(waiting(rw.lock))
    assert (i.waits_on, i.holders) == ((rw,), ())
    rw.runlock()


def held(lock: Any, fn: Callable[..., object], *args: Any) -> None:
    with lock:
        fn(*args)


def test_holders_of_mutex_is_who_has_it_now(waiting):
    mu, step = Mutex(), Chan()
    first = go(held, mu, step.recv)
    parked(first)
    second = go(held, mu, step.recv)
    parked(second)
    third = parked(go(held, mu, step.recv))
    assert info(second)[-2:] == info(third)[-2:] == ((mu,), (first.id,))
    step.send(None)  # the first one unlocks it
    first.join(timeout=30)
    parked(second)
    assert info(second).waits_on == (step,)
    assert info(third)[-2:] == ((mu,), (second.id,))
    step.send(None)
    step.send(None)
    third.join(timeout=30)


def test_holders_of_a_mutex_that_main_has_is_main(waiting):
    mu = Mutex()
    with mu:
        assert info(waiting(mu.lock)).holders == (1,)


def test_holders_of_join_and_once_are_who_must_end(waiting):
    other = waiting(runtime.sleep, 3600)
    i = info(waiting(other.join))
    assert (i.waits_on, i.holders) == ((other,), (other.id,))
    once = Once()
    runs = waiting(once.do, lambda: runtime.sleep(3600))
    i = info(waiting(once.do, print))
    assert (i.waits_on, i.holders) == ((once,), (runs.id,))


def test_waits_on_the_rest_of_sync(waiting):
    wg, event, sem, cond = WaitGroup(), Event(), Semaphore(1), Cond(Mutex())
    wg.add()
    sem.acquire()
    assert info(waiting(wg.wait)).waits_on == (wg,)
    assert info(waiting(event.wait)).waits_on == (event,)
    assert info(waiting(sem.acquire)).waits_on == (sem,)
    assert info(waiting(held, cond, cond.wait)).waits_on == (cond,)


def test_groups_count_those_alike_and_what_is_waited_for(waiting):
    ch, mu = Chan(), Mutex()
    receivers = [waiting(ch.recv) for _ in range(20)]
    with mu:
        blocked = waiting(mu.lock)
        total, ngroups, groups, nobjects, objects = _core._goroutine_groups(1000)
    assert total == sum(group[3] for group in groups)
    assert (ngroups, nobjects) == (len(groups), len(objects))
    (mine,) = [
        g for g in groups if g[2] == "chan receive" and (receivers[0].id, receivers[0].name) in g[5]
    ]
    file, line, function = mine[0]
    assert (file, function) == (__file__, "waiting.<locals>.start") and line > 0
    assert (mine[1], mine[3]) == ("waiting", 20)
    assert list(mine[5]) == [(g.id, g.name) for g in receivers[:8]]
    (mutex,) = [o for o in objects if o[0] is mu]
    assert mutex[1:3] == ("sync.Mutex.Lock", 1)
    assert mutex[4:6] == (((blocked.id, blocked.name),), (1, "main", "running", None))
    assert mutex[6] is False
    (channel,) = [o for o in objects if o[0] is ch]
    assert (channel[1], channel[2], channel[5]) == ("chan receive", 20, None)
    assert objects.index(mutex) < objects.index(channel)  # one with a holder comes first


@pytest.mark.parametrize("timeout", [None, 3600])
def test_groups_know_of_deadlocks_however_many_wait(waiting, timeout):
    a, b, free = Mutex(), Mutex(), Mutex()
    taken: Chan[None] = Chan()

    def take(first: Mutex, second: Mutex, limit: float | None) -> None:
        with first:
            taken.recv_ok()
            second.lock(limit)

    in_circle = [waiting(take, a, b, timeout)]
    for _ in range(20):
        waiting(a.lock)  # before the other one that is in the circle
    in_circle.append(waiting(take, b, a, None))
    with free:
        waiting(free.lock)
        taken.close()
        while {info(g).wait_reason for g in in_circle} != {"sync.Mutex.Lock"}:
            runtime.gosched()
        marks = {id(o[0]): o[6] for o in _core._goroutine_groups(1000)[4]}
    assert (marks[id(a)], marks[id(b)]) == ((True, True) if timeout is None else (False, False))
    assert marks[id(free)] is False


def test_groups_bounded_are_the_largest(waiting):
    ch = Chan()
    for _ in range(3):
        waiting(ch.recv)
    _, ngroups, groups, nobjects, objects = _core._goroutine_groups(1)
    assert len(groups) == len(objects) == 1 < ngroups
    assert nobjects >= 1
    assert groups[0][3] == max(g[3] for g in _core._goroutine_groups(1000)[2])
    assert _core._goroutine_groups(0)[2::2] == ([], [])
    with pytest.raises(ValueError, match="must not be negative"):
        _core._goroutine_groups(-1)


def test_goroutines_only_one_has_its_stack(waiting):
    g = waiting(Chan().recv)
    found = find(g.id)
    assert found is not None and found.goroutine is g
    assert found.stack is not None
    assert find(1 << 60) is None
