"""Model-based test of select: selects and plain operations on several channels, beside plain
Python queues.

After each step all goroutines are parked or have ended, and every outcome must be the model's.
Where several cases are ready the model takes the one that select has chosen.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import runtime
from runtime import Case, Chan, ChanClosed, Goroutine, Selected, go, gosched, recv, select, send

CHANS = 3
CLOSED = "closed"
TIMEOUT = "timeout"


@dataclass(eq=False)
class Step:
    """One case of an operation: to send value on, or receive from, a channel or None."""

    chan: int | None
    sends: bool
    value: int = 0


@dataclass(eq=False)
class Op:
    steps: list[Step]
    plain: bool = False  # send() or recv(), not select()
    # What may come of it; empty while it waits.
    outcomes: list[Any] = field(default_factory=list)

    def outcome(self, i: int, value: int | None, ok: bool) -> Any:
        """Of select, or of the one plain operation."""
        if ok or not self.steps[i].sends:
            return (value if ok else CLOSED) if self.plain else (i, value, ok)
        return CLOSED


class Channel:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.buffer: deque[int] = deque()
        self.waiting: deque[tuple[Op, int]] = deque()  # senders and receivers, oldest first
        self.closed = False

    def first(self, sends: bool) -> tuple[Op, int] | None:
        return next((w for w in self.waiting if w[0].steps[w[1]].sends is sends), None)


class Model:
    def __init__(self, capacities: list[int]) -> None:
        self.chans = [Channel(c) for c in capacities]

    def ready(self, op: Op) -> list[int]:
        """The cases that can go on."""
        found = []
        for i, step in enumerate(op.steps):
            if step.chan is None:
                continue
            ch = self.chans[step.chan]
            room = len(ch.buffer) < ch.capacity if step.sends else ch.buffer
            if ch.closed or room or ch.first(not step.sends):
                found.append(i)
        return found

    def leave(self, op: Op) -> None:
        for ch in self.chans:
            ch.waiting = deque(w for w in ch.waiting if w[0] is not op)

    def served(self, waiter: tuple[Op, int], value: int | None) -> None:
        op, i = waiter
        op.outcomes = [op.outcome(i, value, True)]
        self.leave(op)

    def do(self, op: Op, i: int) -> None:
        """Case i, which is ready."""
        step = op.steps[i]
        assert step.chan is not None
        ch = self.chans[step.chan]
        peer = ch.first(not step.sends)
        value: int | None = None
        ok = True
        if step.sends:
            if ch.closed:
                ok = False
            elif peer:
                self.served(peer, step.value)
            else:
                ch.buffer.append(step.value)
        else:
            if peer:
                ch.buffer.append(peer[0].steps[peer[1]].value)
                self.served(peer, None)
            ok = bool(ch.buffer)
            value = ch.buffer.popleft() if ok else None
        op.outcomes = [op.outcome(i, value, ok)]

    def wait(self, op: Op) -> None:
        for i, step in enumerate(op.steps):
            if step.chan is not None:
                self.chans[step.chan].waiting.append((op, i))

    def close(self, n: int) -> None:
        ch = self.chans[n]
        ch.closed = True
        for op, i in list(ch.waiting):
            op.outcomes.append(op.outcome(i, None, False))
        for op, _ in list(ch.waiting):
            self.leave(op)


# A channel and whether to send to it; None is a channel that is never ready.
step_args = st.tuples(st.sampled_from([*range(CHANS), *range(CHANS), None]), st.booleans())


class SelectMachine(RuleBasedStateMachine):
    procs = 1

    def __init__(self) -> None:
        super().__init__()
        self.ops: dict[Op, Goroutine[Any]] = {}
        self.last = 0

    @initialize(capacities=st.lists(st.integers(0, 2), min_size=CHANS, max_size=CHANS))
    def make(self, capacities: list[int]) -> None:
        self.model = Model(capacities)
        self.chans: list[Chan[int]] = [Chan(c) for c in capacities]

    def op(self, args: list[tuple[int | None, bool]], plain: bool = False) -> Op:
        steps = []
        for chan, sends in args:
            self.last += 1
            steps.append(Step(chan, sends, self.last))
        return Op(steps, plain)

    def cases(self, op: Op) -> list[Case[Any]]:
        chans = [None if step.chan is None else self.chans[step.chan] for step in op.steps]
        return [
            send(ch, step.value) if step.sends else recv(ch)
            for ch, step in zip(chans, op.steps, strict=True)
        ]

    def call(self, op: Op, **limits: Any) -> Any:
        try:
            if not op.plain:
                return select(*self.cases(op), **limits)
            (step,) = op.steps
            assert step.chan is not None
            ch = self.chans[step.chan]
            return ch.send(step.value, **limits) if step.sends else ch.recv(**limits)
        except ChanClosed:
            return CLOSED
        except TimeoutError:
            return TIMEOUT

    def settle(self) -> None:
        """All operations wait or have ended.  One that was woken wakes at most one more."""
        quiet = 0
        while quiet < 4:
            gosched()
            quiet += 1
            if any(g.state not in ("waiting", "dead") for g in self.ops.values()):
                quiet = 0

    def start(self, op: Op, **limits: Any) -> None:
        ready = self.model.ready(op)
        g = self.ops[op] = go(self.call, op, **limits)
        self.settle()
        if not ready and limits:
            g.join()
            op.outcomes = [TIMEOUT]
        elif not ready:
            self.model.wait(op)
        else:
            self.chosen(op, ready, g.join())

    def chosen(self, op: Op, ready: list[int], outcome: Any) -> None:
        if isinstance(outcome, Selected):
            assert outcome.index in ready
            i = outcome.index
        else:
            # Where all that is ready fails alike it does not matter which one it was.
            assert outcome == CLOSED or op.plain
            i = ready[0]
            if not op.plain:
                i = next(j for j in ready if op.steps[j].sends and self.closed(op.steps[j].chan))
        self.model.do(op, i)

    def closed(self, chan: int | None) -> bool:
        return chan is not None and self.model.chans[chan].closed

    @rule(args=st.lists(step_args, min_size=1, max_size=5))
    def select(self, args: list[tuple[int | None, bool]]) -> None:
        self.start(self.op(args))

    @rule(args=st.lists(step_args, min_size=1, max_size=4))
    def select_with_timeout(self, args: list[tuple[int | None, bool]]) -> None:
        self.start(self.op(args), timeout=0)

    @rule(args=st.lists(step_args, max_size=4))
    def select_with_default(self, args: list[tuple[int | None, bool]]) -> None:
        op = self.op(args)
        ready = self.model.ready(op)
        outcome = self.call(op, default=True)
        if ready:
            self.chosen(op, ready, outcome)
            assert outcome in op.outcomes
        else:
            assert outcome == (-1, None, False)

    @rule(chan=st.integers(0, CHANS - 1), sends=st.booleans())
    def plain(self, chan: int, sends: bool) -> None:
        self.start(self.op([(chan, sends)], plain=True))

    @rule(chan=st.integers(0, CHANS - 1))
    def try_send(self, chan: int) -> None:
        op = self.op([(chan, True)], plain=True)
        ready = self.model.ready(op)
        try:
            assert self.chans[chan].try_send(op.steps[0].value) is bool(ready)
        except ChanClosed:
            assert self.closed(chan)
        else:
            if ready:
                self.model.do(op, 0)

    @rule(chan=st.integers(0, CHANS - 1))
    def try_recv(self, chan: int) -> None:
        op = self.op([(chan, False)], plain=True)
        ready = self.model.ready(op)
        try:
            value, ok = self.chans[chan].try_recv()
        except ChanClosed:
            value, ok = None, False
            assert self.closed(chan)
        if ready:
            self.model.do(op, 0)
            assert op.outcomes == [value if ok else CLOSED]
        else:
            assert (value, ok) == (None, False)

    @rule(k=st.integers(0, 100))
    def cancel(self, k: int) -> None:
        # What there is depends on what was chosen: hypothesis must not.
        if self.ops:
            op = list(self.ops)[k % len(self.ops)]
            assert self.ops[op].cancel(TimeoutError)
            self.model.leave(op)
            op.outcomes = [TIMEOUT]

    @precondition(lambda self: self.last > 15)
    @rule(chan=st.integers(0, CHANS - 1))
    def close(self, chan: int) -> None:
        try:
            self.chans[chan].close()
        except ChanClosed:
            assert self.closed(chan)
        else:
            self.model.close(chan)

    @invariant()
    def agrees(self) -> None:
        self.settle()
        for op, g in list(self.ops.items()):
            if op.outcomes:
                assert g.join() in op.outcomes
                del self.ops[op]
            else:
                assert g.state == "waiting"
        for i, ch in enumerate(getattr(self, "chans", [])):
            assert len(ch) == len(self.model.chans[i].buffer)
            assert ch.closed == self.model.chans[i].closed

    def teardown(self) -> None:
        for g in self.ops.values():
            g.cancel(TimeoutError)
            assert g.join() == TIMEOUT


@pytest.mark.parametrize("procs", [1, 4])
def test_select_behaves_like_the_model(procs: int) -> None:
    before = runtime.gomaxprocs(procs)
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            SelectMachine, settings=settings(max_examples=120, stateful_step_count=40)
        )
    finally:
        runtime.gomaxprocs(before)
