"""What all blocking calls of runtime.sync have in common: time-outs, contexts, cancelling, threads.

Each kind of wait is described once: the call that waits, what lets it go, and what is left to
undo by one that got through.
"""

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contexts import Background, Context, Ended
from runtime import Cancelled, Chan, Goroutine, go, gomaxprocs, gosched, sleep, sync
from runtime.errgroup import Group as ErrGroup
from runtime.singleflight import Group as Flights
from waits import parked, until


class Wait:
    """A call that waits."""

    reason = ""
    many = True  # release() lets all go

    def call(self, *args: Any, **limits: Any) -> Any:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def undo(self) -> None:
        """By one whose call() has returned."""

    def check(self) -> None:
        """When all is over: nothing is held."""


class MutexLock(Wait):
    reason, many = "sync.Mutex.Lock", False

    def __init__(self) -> None:
        self.mu = sync.Mutex()
        self.mu.lock()
        self.call, self.release, self.undo = self.mu.lock, self.mu.unlock, self.mu.unlock

    def check(self) -> None:
        assert self.mu.try_lock()
        self.mu.unlock()


class WriterBehindReader(Wait):
    reason, many = "sync.RWMutex.Lock", False

    def __init__(self) -> None:
        self.rw = sync.RWMutex()
        self.rw.rlock()
        self.call, self.release, self.undo = self.rw.lock, self.rw.runlock, self.rw.unlock

    def check(self) -> None:
        assert self.rw.try_lock()
        self.rw.unlock()
        assert self.rw.try_rlock()
        self.rw.runlock()


class WriterBehindWriter(WriterBehindReader):
    def __init__(self) -> None:
        self.rw = sync.RWMutex()
        self.rw.lock()
        self.call, self.release, self.undo = self.rw.lock, self.rw.unlock, self.rw.unlock


class ReaderBehindWriter(WriterBehindReader):
    reason, many = "sync.RWMutex.RLock", True

    def __init__(self) -> None:
        self.rw = sync.RWMutex()
        self.rw.lock()
        self.call, self.release, self.undo = self.rw.rlock, self.rw.unlock, self.rw.runlock


class ReaderSide(ReaderBehindWriter):
    def __init__(self) -> None:
        super().__init__()
        side = self.rw.reader()
        self.call, self.undo = side.lock, side.unlock


class SemaphoreAcquire(Wait):
    reason, many = "semacquire", False

    def __init__(self) -> None:
        self.sem = sync.Semaphore(3)
        self.sem.acquire(3)
        self.release, self.undo = self.release3, self.release2

    def call(self, *args: Any, **limits: Any) -> None:
        self.sem.acquire(2, *args, **limits)

    def release3(self) -> None:
        self.sem.release(3)

    def release2(self) -> None:
        self.sem.release(2)

    def check(self) -> None:
        assert self.sem.free == 3
        assert self.sem.try_acquire(3)
        self.sem.release(3)


class WaitGroupWait(Wait):
    reason = "sync.WaitGroup.Wait"

    def __init__(self) -> None:
        self.wg = sync.WaitGroup()
        self.wg.add()
        self.call, self.release = self.wg.wait, self.wg.done


class EventWait(Wait):
    reason = "sync.Event.Wait"

    def __init__(self) -> None:
        self.event = sync.Event()
        self.call, self.release = self.event.wait, self.event.set


class OnceDo(Wait):
    reason = "sync.Once.Do"

    def __init__(self) -> None:
        self.once, self.gate = sync.Once(), sync.Event()
        self.first = parked(go(self.once.do, self.gate.wait))
        self.release = self.gate.set

    def call(self, *args: Any, **limits: Any) -> None:
        self.once.do(self.fail, *args, **limits)

    def fail(self) -> None:
        raise AssertionError

    def check(self) -> None:
        self.first.join()
        assert self.once.done


class CondWait(Wait):
    reason = "sync.Cond.Wait"

    def __init__(self) -> None:
        self.cond, self.open = sync.Cond(), False

    def call(self, *args: Any, **limits: Any) -> None:
        with self.cond:
            while not self.open:
                try:
                    self.cond.wait(*args, **limits)
                finally:
                    assert self.cond.locker.locked

    def release(self) -> None:
        with self.cond:
            self.open = True
        self.cond.broadcast()

    def check(self) -> None:
        assert not self.cond.locker.locked


class CondWaitFor(CondWait):
    def call(self, *args: Any, **limits: Any) -> None:
        with self.cond:
            try:
                assert self.cond.wait_for(lambda: self.open, *args, **limits) is True
            finally:
                assert self.cond.locker.locked


class BarrierWait(Wait):
    """Of a barrier that will never be complete: it ends by being reset."""

    reason = "sync.Cond.Wait"

    def __init__(self) -> None:
        self.barrier = sync.Barrier(1000)

    def call(self, *args: Any, **limits: Any) -> None:
        try:
            self.barrier.wait(*args, **limits)
        except sync.BrokenBarrierError:
            pass

    def release(self) -> None:
        self.barrier.reset()


class ErrGroupWait(Wait):
    reason = "sync.WaitGroup.Wait"

    def __init__(self) -> None:
        self.group, self.gate = ErrGroup(), sync.Event()
        self.group.go(self.gate.wait)
        self.call, self.release = self.group.wait, self.gate.set


class SingleflightDo(Wait):
    reason = "sync.Once.Do"

    def __init__(self) -> None:
        self.flights: Flights[str, int] = Flights()
        self.gate = sync.Event()
        self.first = parked(go(self.flights.do, "key", self.leader))
        self.release = self.gate.set

    def leader(self) -> int:
        self.gate.wait()
        return 42

    def call(self, *args: Any, **limits: Any) -> None:
        assert self.flights.do("key", lambda: 42, *args, **limits)[0] == 42

    def check(self) -> None:
        assert self.first.join()[0] == 42


WAITS = [
    MutexLock, WriterBehindReader, WriterBehindWriter, ReaderBehindWriter, ReaderSide,
    SemaphoreAcquire, WaitGroupWait, EventWait, OnceDo, CondWait, CondWaitFor, BarrierWait,
    ErrGroupWait, SingleflightDo,
]  # fmt: skip


@pytest.fixture(params=WAITS, ids=lambda cls: cls.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[1, 4], ids=["1p", "4p"])
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    before = gomaxprocs(request.param)
    yield request.param
    gomaxprocs(before)


def finish(wait: Wait, gs: list[Goroutine[Any]]) -> None:
    for g in gs:
        g.join()
    wait.check()


def through(wait: Wait, *args: Any, **limits: Any) -> None:
    wait.call(*args, **limits)
    wait.undo()


def test_wait_parks_and_ends_when_it_is_let_go(kind: type[Wait]) -> None:
    wait = kind()
    gs = [parked(go(through, wait)) for _ in range(5)]
    assert {g.wait_reason for g in gs} == {kind.reason}
    wait.release()
    finish(wait, gs)


def test_wait_timeout_raises_and_leaves_no_trace(kind: type[Wait]) -> None:
    wait = kind()
    for timeout in (0, -1, 0.0, 0.0001):
        if isinstance(wait, BarrierWait):
            wait = kind()  # it is broken by that
        with pytest.raises(TimeoutError, match="time is up"):
            wait.call(timeout)
        if isinstance(wait, BarrierWait):
            wait = kind()
        with pytest.raises(TimeoutError):
            wait.call(timeout=timeout)
    if isinstance(wait, BarrierWait):
        wait = kind()
    gs = [parked(go(through, wait, timeout=1000))]
    wait.release()
    finish(wait, gs)


def test_wait_context_that_ends_ends_it(kind: type[Wait]) -> None:
    wait = kind()
    ctx = Context()
    g = parked(go(wait.call, ctx=ctx))
    ctx.end()
    with pytest.raises(Ended):
        g.join()
    if isinstance(wait, BarrierWait):
        wait = kind()
    gs = [parked(go(through, wait, ctx=c)) for c in (Context(), Background(), None)]
    gs.append(parked(go(through, wait, 1000, ctx=Context())))
    wait.release()
    finish(wait, gs)


def test_wait_with_both_limits_ends_by_the_first(kind: type[Wait]) -> None:
    wait = kind()
    with pytest.raises(TimeoutError):
        wait.call(0.0001, ctx=Context())
    if isinstance(wait, BarrierWait):
        wait = kind()
    ctx = Context()
    g = parked(go(wait.call, 1000, ctx=ctx))
    ctx.end()
    with pytest.raises(Ended):
        g.join()
    if isinstance(wait, BarrierWait):
        wait = kind()
    wait.release()
    wait.check() if wait.many else None


def test_wait_context_that_has_ended_fails_at_once(kind: type[Wait]) -> None:
    wait = kind()
    with pytest.raises(Ended):
        wait.call(ctx=Context(ended=True))
    g = parked(go(through, wait))
    wait.release()
    finish(wait, [g])


def test_wait_cancelled_leaves_the_others(kind: type[Wait]) -> None:
    wait = kind()
    gs = [parked(go(through, wait)) for _ in range(6)]
    for g in gs[:1] if kind is BarrierWait else gs[::2]:  # that breaks it for all
        assert g.cancel()
        with pytest.raises(Cancelled):
            g.join()
    wait.release()
    finish(wait, gs[1::2])


def test_wait_bad_limits_raise(kind: type[Wait]) -> None:
    wait: Any = kind()
    for bad in ("1", [], 1j):
        with pytest.raises(TypeError):
            wait.call(timeout=bad)
    with pytest.raises(ValueError, match="NaN"):
        wait.call(timeout=float("nan"))
    with pytest.raises(TypeError, match="context"):
        wait.call(ctx=1)
    with pytest.raises(TypeError):
        wait.call(wait=1)
    with pytest.raises(TypeError):
        wait.call(1, 2)
    g = parked(go(through, wait))
    wait.release()
    finish(wait, [g])


def test_wait_of_a_thread_is_ended_by_a_goroutine(kind: type[Wait]) -> None:
    wait = kind()
    errors: list[BaseException] = []
    entered: list[Any] = []

    def thread(limits: dict[str, Any]) -> None:
        try:
            from runtime import current

            entered.append(current())
            through(wait, **limits)
        except BaseException as e:
            errors.append(e)

    threads = [
        threading.Thread(target=thread, args=(limits,))
        for limits in ({}, {"timeout": 1000}, {"ctx": Context()}, {"ctx": Background()})
    ]
    for t in threads:
        t.start()
    until(lambda: len(entered) == 4 and all(g.state == "waiting" for g in entered))
    go(wait.release).join()
    until(lambda: not any(t.is_alive() for t in threads))
    assert not errors
    wait.check()


def test_wait_of_a_thread_is_ended_by_limits(kind: type[Wait]) -> None:
    if kind is BarrierWait:
        return  # the first to give up ends it for the other
    wait, ctx = kind(), Context()
    seen: list[type[BaseException]] = []
    entered: list[Any] = []

    def thread(limits: dict[str, Any]) -> None:
        from runtime import current

        entered.append(current())
        try:
            wait.call(**limits)
        except Exception as e:
            seen.append(type(e))

    threads = [threading.Thread(target=thread, args=({"timeout": 0.001},))]
    threads.append(threading.Thread(target=thread, args=({"ctx": ctx},)))
    for t in threads:
        t.start()
    until(lambda: seen == [TimeoutError])
    until(lambda: len(entered) == 2 and all(g.state == "waiting" for g in entered[1:]))
    ctx.end()
    until(lambda: not any(t.is_alive() for t in threads))
    assert seen == [TimeoutError, Ended]
    gs = [parked(go(through, wait))]
    wait.release()
    finish(wait, gs)


def test_wait_of_a_goroutine_is_ended_by_a_thread(kind: type[Wait], procs: int) -> None:
    wait = kind()
    gs = [parked(go(through, wait)) for _ in range(3)]
    t = threading.Thread(target=wait.release)
    t.start()
    finish(wait, gs)
    t.join()


@pytest.mark.parametrize("seed", range(6))
def test_wait_races_of_everything_that_ends_it_lose_nothing(
    kind: type[Wait], procs: int, seed: int
) -> None:
    """Whatever happens to some, the others get through, and nothing stays held."""
    rnd = random.Random(seed)
    wait, ctx = kind(), Context()
    outcomes: dict[str, int] = {}
    limits: list[dict[str, Any]] = [
        {}, {}, {"timeout": 1000}, {"timeout": 0.0003}, {"timeout": 0}, {"ctx": ctx},
    ]  # fmt: skip

    def body(limit: dict[str, Any]) -> None:
        try:
            through(wait, **limit)
        except (TimeoutError, Ended, Cancelled) as e:
            outcomes[type(e).__name__] = 1
            assert isinstance(e, Cancelled) or limit
            raise

    gs: list[Goroutine[Any]] = []
    started: Chan[None] = Chan(1)

    def spawn() -> None:
        for _ in range(15):
            gs.append(go(body, rnd.choice(limits)))
            if rnd.random() < 0.3:
                gosched()
        started.send(None)

    def spoil() -> None:
        for _ in range(4):
            if gs:
                rnd.choice(gs).cancel()
            if rnd.random() < 0.4:
                sleep(rnd.choice([0, 0.0002]))
        ctx.end()

    errors: list[BaseException] = []
    threads = []
    for i in range(2):

        def thread(i: int = i) -> None:
            try:
                body([{}, {"timeout": 0.0003}][i])
            except TimeoutError:
                pass
            except BaseException as e:
                errors.append(e)

        threads.append(threading.Thread(target=thread))
        threads[-1].start()
    go(spawn)
    if rnd.random() < 0.5:
        started.recv()
    spoiler = go(spoil)
    if rnd.random() < 0.5:
        spoiler.join()
    if rnd.random() < 0.5:
        sleep(0.0003)
    if seed % 2:
        t = threading.Thread(target=wait.release)
        t.start()
        threads.append(t)
    else:
        wait.release()
    if len(gs) < 15:
        started.recv()
    if isinstance(wait, BarrierWait):
        # The late ones wait for the next reset.
        while not all(g.done() for g in gs) or any(t.is_alive() for t in threads):
            wait.release()
            sleep(0.0003)
    for g in gs:
        try:
            g.join()
        except (TimeoutError, Ended, Cancelled):
            pass
    until(lambda: not any(t.is_alive() for t in threads))
    spoiler.join()
    assert not errors
    wait.check()


def test_wait_is_cancelled_and_let_go_at_once(kind: type[Wait]) -> None:
    """Whoever wins, the thing is free afterwards."""
    for first in ("cancel", "release"):
        wait = kind()
        gs = [parked(go(through, wait)) for _ in range(3)]
        steps: list[Callable[[], Any]] = [gs[0].cancel, wait.release]
        for step in steps if first == "cancel" else reversed(steps):
            step()
        for g in gs:
            try:
                g.join()
            except Cancelled:
                assert g is gs[0]
        wait.check()
