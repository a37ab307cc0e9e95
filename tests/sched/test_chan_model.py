"""Model-based test of channels: random operations beside plain Python queues.

After each step all goroutines are parked or have ended, and the outcome of every
operation must be the model's.
"""

from collections import deque
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
from runtime import Chan, ChanClosed, Goroutine, current, go, gosched

CLOSED = "closed"
TIMEOUT = "timeout"


class Killed(Exception):
    pass


class Model:
    """What a channel must do, without any concurrency."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.buffer: deque[int] = deque()
        self.senders: deque[tuple[int, int]] = deque()  # (operation, value)
        self.receivers: deque[int] = deque()
        self.closed = False
        self.outcome: dict[int, Any] = {}

    def send(self, op: int, value: int) -> None:
        if self.closed:
            self.outcome[op] = CLOSED
        elif self.receivers:
            self.outcome[self.receivers.popleft()] = value
            self.outcome[op] = None
        elif len(self.buffer) < self.capacity:
            self.buffer.append(value)
            self.outcome[op] = None
        else:
            self.senders.append((op, value))

    def recv(self, op: int) -> None:
        if self.buffer:
            self.outcome[op] = self.buffer.popleft()
            if self.senders:
                sender, value = self.senders.popleft()
                self.buffer.append(value)
                self.outcome[sender] = None
        elif self.senders:
            sender, value = self.senders.popleft()
            self.outcome[op] = value
            self.outcome[sender] = None
        elif self.closed:
            self.outcome[op] = CLOSED
        else:
            self.receivers.append(op)

    def close(self) -> None:
        self.closed = True
        for op in self.receivers:
            self.outcome[op] = CLOSED
        for op, _ in self.senders:
            self.outcome[op] = CLOSED
        self.receivers.clear()
        self.senders.clear()

    def waiting(self) -> list[int]:
        return [op for op, _ in self.senders] + list(self.receivers)

    def give_up(self, op: int) -> None:
        self.senders = deque(s for s in self.senders if s[0] != op)
        self.receivers = deque(r for r in self.receivers if r != op)
        self.outcome[op] = TIMEOUT


class ChanMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ops: dict[int, Goroutine[Any]] = {}
        self.next = 0

    @initialize(capacity=st.integers(0, 3))
    def make(self, capacity: int) -> None:
        self.ch: Chan[int] = Chan(capacity)
        self.model = Model(capacity)

    def start(self, fn: Any, *args: Any) -> int:
        self.next += 1

        def body() -> Any:
            try:
                return fn(*args)
            except ChanClosed:
                return CLOSED
            except TimeoutError:
                return TIMEOUT

        self.ops[self.next] = go(body)
        self.settle()
        return self.next

    def settle(self) -> None:
        """All operations wait or have ended, although a loaded machine may preempt them."""
        gosched()
        while any(g.state not in ("waiting", "dead") for g in self.ops.values()):
            gosched()

    @rule()
    def send(self) -> None:
        value = self.next + 1000
        self.model.send(self.start(self.ch.send, value), value)

    @rule()
    def recv(self) -> None:
        self.model.recv(self.start(self.ch.recv))

    @rule(n=st.integers(2, 5), send=st.booleans())
    def several_at_once(self, n: int, send: bool) -> None:
        for _ in range(n):
            self.send() if send else self.recv()

    @rule()
    def recv_ok(self) -> None:
        def outcome() -> Any:
            value, ok = self.ch.recv_ok()
            return value if ok else CLOSED

        self.model.recv(self.start(outcome))

    @rule()
    def send_with_timeout(self) -> None:
        value = self.next + 1000
        op = self.start(self.ch.send, value, 0)
        self.model.send(op, value)
        if op in self.model.waiting():
            self.model.give_up(op)
            self.ops[op].join()

    @rule()
    def recv_with_timeout(self) -> None:
        op = self.start(self.ch.recv, 0)
        self.model.recv(op)
        if op in self.model.waiting():
            self.model.give_up(op)
            self.ops[op].join()

    @rule()
    def try_send(self) -> None:
        model = self.model
        blocks = not model.closed and not model.receivers and len(model.buffer) == model.capacity
        try:
            sent = self.ch.try_send(-1)
        except ChanClosed:
            assert model.closed
            return
        assert sent is not blocks
        if sent:
            model.send(0, -1)

    @rule()
    def try_recv(self) -> None:
        model = self.model
        blocks = not model.buffer and not model.senders
        try:
            value, ok = self.ch.try_recv()
        except ChanClosed:
            assert model.closed
            assert blocks
            return
        assert ok is not blocks
        if ok:
            model.recv(0)
            assert value == model.outcome[0]

    @precondition(lambda self: self.next > 3)
    @rule()
    def close(self) -> None:
        try:
            self.ch.close()
        except ChanClosed:
            assert self.model.closed
        else:
            assert not self.model.closed
            self.model.close()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "ch"):
            return
        self.settle()
        assert len(self.ch) == len(self.model.buffer)
        assert self.ch.closed == self.model.closed
        waiting = set(self.model.waiting())
        for op, g in list(self.ops.items()):
            if op in waiting:
                assert g.state == "waiting"
                continue
            assert g.join() == self.model.outcome[op]
            del self.ops[op]
        assert current().state == "running"

    def teardown(self) -> None:
        if hasattr(self, "ch") and not self.model.closed:
            self.ch.close()
        for g in self.ops.values():
            assert g.join() == CLOSED


@pytest.mark.parametrize("procs", [1, 4])
def test_channel_behaves_like_the_model(procs: int) -> None:
    before = runtime.gomaxprocs(procs)
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            ChanMachine, settings=settings(max_examples=100, stateful_step_count=40)
        )
    finally:
        runtime.gomaxprocs(before)
