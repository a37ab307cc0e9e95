"""Model-based tests of locks: random operations beside plain Python oracles.

After each step all goroutines are parked or have ended, and the outcome of every operation must
be the model's.  Who is quicker is not always determined, so what is drawn must not depend on the
state: a rule that does not apply does nothing.
"""

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from contexts import Context, Ended
from runtime import Cancelled, Goroutine, go, gomaxprocs, goroutines, gosched, sleep, sync

GOT, TIMEOUT, CANCELLED, ENDED = "got", "timeout", "cancelled", "ended"
which = st.integers(0, 9)


class Machine(RuleBasedStateMachine):
    """Operations that wait are goroutines; expected[op] is there once the oracle lets op go."""

    def __init__(self) -> None:
        super().__init__()
        self.next = 0
        self.ops: dict[int, Goroutine[str]] = {}
        self.contexts: dict[int, Context] = {}
        self.expected: dict[int, str] = {}

    def start(self, fn: Any, *args: Any, context: bool = False) -> int:
        """Begin fn(*args) as an operation, and let it get as far as it can."""
        self.next += 1
        op, limits = self.next, {}
        if context:
            self.contexts[op] = limits["ctx"] = Context()

        def body() -> str:
            try:
                fn(*args, **limits)
            except TimeoutError:
                return TIMEOUT
            except Cancelled:
                return CANCELLED
            except Ended:
                return ENDED
            return GOT

        self.ops[op] = go(body)
        self.settle()
        return op

    def settle(self) -> None:
        """Wait until all have ended or are parked; a snapshot is taken while nobody runs."""
        while True:
            gosched()
            states = {info.goroutine: info.state for info in goroutines()}
            if all(g.done() or states.get(g) == "waiting" for g in self.ops.values()):
                return
            sleep(0.00002)

    def leave(self, waiting: list[int], which: int, context: bool) -> int | None:
        """Have one of those that wait give up."""
        if not waiting:
            return None
        op = waiting[which % len(waiting)]
        if context and op in self.contexts:
            self.contexts[op].end()
            self.expected[op] = ENDED
        else:
            assert self.ops[op].cancel()
            self.expected[op] = CANCELLED
        self.settle()
        return op

    @invariant()
    def agrees(self) -> None:
        self.settle()
        for op, g in list(self.ops.items()):
            if op in self.expected:
                assert g.join() == self.expected[op]
                del self.ops[op]
            else:
                assert g.state == "waiting"
        self.check()

    def check(self) -> None:
        pass

    def teardown(self) -> None:
        for g in reversed(self.ops.values()):  # so that nobody makes way for another
            g.cancel()
            assert g.join() == CANCELLED


class MutexMachine(Machine):
    def __init__(self) -> None:
        super().__init__()
        self.mu = sync.Mutex()
        self.locked = False
        self.waiters: deque[int] = deque()

    @rule(context=st.booleans())
    def lock(self, context: bool) -> None:
        op = self.start(self.mu.lock, context=context)
        if self.locked:
            self.waiters.append(op)
        else:
            self.locked = True
            self.expected[op] = GOT

    @rule()
    def lock_with_timeout(self) -> None:
        op = self.start(self.mu.lock, 0)
        self.expected[op] = TIMEOUT if self.locked else GOT
        self.locked = True
        self.ops[op].join()

    @rule()
    def try_lock(self) -> None:
        assert self.mu.try_lock() is not self.locked
        self.locked = True

    def serve(self) -> None:
        if self.waiters:
            self.expected[self.waiters.popleft()] = GOT
        else:
            self.locked = False

    @rule()
    def unlock(self) -> None:
        if not self.locked:
            with pytest.raises(RuntimeError, match="not locked"):
                self.mu.unlock()
            return
        self.mu.unlock()
        self.serve()

    @rule(times=st.integers(1, 3))
    def unlock_and_overtake(self, times: int) -> None:
        for _ in range(times if self.locked else 0):
            self.mu.unlock()
            if not self.mu.try_lock():
                self.serve()  # it was quicker, or the mutex is kept for it
                self.settle()
                assert self.locked

    @rule(which=which, context=st.booleans())
    def give_up(self, which: int, context: bool) -> None:
        op = self.leave(list(self.waiters), which, context)
        if op is not None:
            self.waiters.remove(op)

    @rule(which=which)
    def give_up_and_unlock(self, which: int) -> None:
        """At once: the one that gives up must not take the mutex along."""
        if not self.waiters:
            return
        op = self.waiters[which % len(self.waiters)]
        self.waiters.remove(op)
        self.expected[op] = CANCELLED
        self.ops[op].cancel()
        self.mu.unlock()
        self.serve()

    def check(self) -> None:
        assert self.mu.locked is self.locked


class RWMutexMachine(Machine):
    def __init__(self) -> None:
        super().__init__()
        self.rw = sync.RWMutex()
        self.side = self.rw.reader()
        self.readers, self.writer = 0, False
        self.waiting_readers: list[int] = []
        self.waiting_writers: deque[int] = deque()

    def admit_readers(self) -> bool:
        some = bool(self.waiting_readers)
        for op in self.waiting_readers:
            self.expected[op] = GOT
            self.readers += 1
        self.waiting_readers.clear()
        return some

    def admit_writer(self) -> bool:
        if not self.waiting_writers:
            return False
        self.expected[self.waiting_writers.popleft()] = GOT
        self.writer = True
        return True

    @rule(context=st.booleans())
    def lock(self, context: bool) -> None:
        op = self.start(self.rw.lock, context=context)
        if self.writer or self.readers:
            self.waiting_writers.append(op)
        else:
            self.writer = True
            self.expected[op] = GOT

    @rule(context=st.booleans(), side=st.booleans())
    def rlock(self, context: bool, side: bool) -> None:
        op = self.start(self.side.lock if side else self.rw.rlock, context=context)
        if self.writer or self.waiting_writers:
            self.waiting_readers.append(op)
        else:
            self.readers += 1
            self.expected[op] = GOT

    @rule()
    def lock_with_timeout(self) -> None:
        op = self.start(self.rw.lock, 0)
        free = not self.writer and not self.readers
        self.expected[op] = GOT if free else TIMEOUT
        self.writer = self.writer or free
        self.ops[op].join()

    @rule()
    def rlock_with_timeout(self) -> None:
        op = self.start(self.rw.rlock, 0)
        free = not self.writer and not self.waiting_writers
        self.expected[op] = GOT if free else TIMEOUT
        self.readers += free
        self.ops[op].join()

    @rule()
    def try_lock(self) -> None:
        free = not self.writer and not self.readers
        assert self.rw.try_lock() is free
        self.writer = self.writer or free

    @rule(side=st.booleans())
    def try_rlock(self, side: bool) -> None:
        free = not self.writer and not self.waiting_writers
        assert (self.side.try_lock() if side else self.rw.try_rlock()) is free
        self.readers += free

    @rule()
    def unlock(self) -> None:
        if not self.writer:
            with pytest.raises(RuntimeError, match="runlock" if self.readers else "not locked"):
                self.rw.unlock()
            return
        self.rw.unlock()
        self.writer = False
        if not self.admit_readers():
            self.admit_writer()

    @rule(side=st.booleans())
    def runlock(self, side: bool) -> None:
        runlock = self.side.unlock if side else self.rw.runlock
        if not self.readers:
            with pytest.raises(RuntimeError, match="use unlock" if self.writer else "not locked"):
                runlock()
            return
        runlock()
        self.readers -= 1
        if not self.readers and not self.admit_writer():
            self.admit_readers()

    @rule(which=which, context=st.booleans())
    def writer_gives_up(self, which: int, context: bool) -> None:
        op = self.leave(list(self.waiting_writers), which, context)
        if op is None:
            return
        self.waiting_writers.remove(op)
        if not self.waiting_writers and not self.writer:
            self.admit_readers()

    @rule(which=which, context=st.booleans())
    def reader_gives_up(self, which: int, context: bool) -> None:
        op = self.leave(self.waiting_readers, which, context)
        if op is not None:
            self.waiting_readers.remove(op)

    def check(self) -> None:
        assert self.rw.locked is self.writer
        assert self.rw.readers == self.readers


class SemaphoreMachine(Machine):
    SIZE = 5

    def __init__(self) -> None:
        super().__init__()
        self.sem = sync.Semaphore(self.SIZE)
        self.free = self.SIZE
        self.waiters: list[tuple[int, int]] = []  # (operation, amount)

    amounts = st.integers(1, SIZE)

    def serve(self) -> None:
        while self.waiters and self.waiters[0][1] <= self.free:
            op, n = self.waiters.pop(0)
            self.expected[op] = GOT
            self.free -= n

    @rule(n=amounts, context=st.booleans())
    def acquire(self, n: int, context: bool) -> None:
        self.waiters.append((self.start(self.sem.acquire, n, context=context), n))
        self.serve()

    @rule(n=amounts)
    def acquire_with_timeout(self, n: int) -> None:
        op = self.start(self.sem.acquire, n, 0)
        got = not self.waiters and n <= self.free
        self.expected[op] = GOT if got else TIMEOUT
        self.free -= n * got
        self.ops[op].join()

    @rule(n=amounts)
    def try_acquire(self, n: int) -> None:
        got = not self.waiters and n <= self.free
        assert self.sem.try_acquire(n) is got
        self.free -= n * got

    @rule(n=amounts)
    def release(self, n: int) -> None:
        if n > self.SIZE - self.free:
            with pytest.raises(RuntimeError, match="held"):
                self.sem.release(n)
            return
        self.sem.release(n)
        self.free += n
        self.serve()

    @rule(which=which, context=st.booleans())
    def give_up(self, which: int, context: bool) -> None:
        op = self.leave([op for op, _ in self.waiters], which, context)
        self.waiters = [w for w in self.waiters if w[0] != op]
        self.serve()

    def check(self) -> None:
        assert self.sem.free == self.free


class WaitGroupMachine(Machine):
    def __init__(self) -> None:
        super().__init__()
        self.wg = sync.WaitGroup()
        self.count = 0
        self.waiters: list[int] = []
        self.gates: list[sync.Event] = []  # of goroutines of go()

    @rule(n=st.integers(-3, 3))
    def add(self, n: int) -> None:
        if self.count + n < len(self.gates):
            n = 0  # those of go() must not be counted down by others
        if self.count + n < 0:
            with pytest.raises(ValueError, match="negative"):
                self.wg.add(n)
            return
        self.wg.add(n)
        self.counted(n)

    @rule(n=st.integers(1, 3))
    def count_too_low(self, n: int) -> None:
        with pytest.raises(ValueError, match="negative"):
            self.wg.add(-self.count - n)

    def counted(self, n: int) -> None:
        self.count += n
        if self.count == 0:
            for op in self.waiters:
                self.expected[op] = GOT
            self.waiters.clear()

    @rule(context=st.booleans())
    def wait(self, context: bool) -> None:
        op = self.start(self.wg.wait, context=context)
        if self.count:
            self.waiters.append(op)
        else:
            self.expected[op] = GOT

    @rule()
    def wait_with_timeout(self) -> None:
        op = self.start(self.wg.wait, 0)
        self.expected[op] = TIMEOUT if self.count else GOT
        self.ops[op].join()

    @rule()
    def go(self) -> None:
        self.gates.append(sync.Event())
        self.wg.go(self.gates[-1].wait)
        self.count += 1

    @rule()
    def go_cancelled(self) -> None:
        self.wg.go(sync.Event().wait).cancel()
        self.counted(0) if self.count else None
        self.wait_until_counted()

    @rule()
    def end(self) -> None:
        if not self.gates:
            return
        self.gates.pop().set()
        self.wait_until_counted(self.count - 1)
        self.counted(-1)

    def wait_until_counted(self, count: int | None = None) -> None:
        wanted = self.count if count is None else count
        while not repr(self.wg).startswith(f"<WaitGroup {wanted} "):
            gosched()

    @rule(which=which, context=st.booleans())
    def give_up(self, which: int, context: bool) -> None:
        op = self.leave(self.waiters, which, context)
        if op is not None:
            self.waiters.remove(op)

    def check(self) -> None:
        assert repr(self.wg).startswith(f"<WaitGroup {self.count} ")

    def teardown(self) -> None:
        super().teardown()
        for gate in self.gates:
            gate.set()


@pytest.mark.parametrize("procs", [1, 4])
@pytest.mark.parametrize(
    "machine", [MutexMachine, RWMutexMachine, SemaphoreMachine, WaitGroupMachine]
)
def test_lock_behaves_like_the_model(machine: type[Machine], procs: int) -> None:
    before = gomaxprocs(procs)
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            machine, settings=settings(max_examples=50, stateful_step_count=40, deadline=None)
        )
    finally:
        gomaxprocs(before)
