"""Model-based tests of the run queues: random operations beside plain lists."""

from collections import deque
from typing import Any

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

RINGS = 3
GOROUTINES = 24

rings = st.integers(0, RINGS - 1)
counts = st.integers(1, 6)  # enough to fill a ring in one step


class QueuesMachine(RuleBasedStateMachine):
    """Some goroutines move between rings, an inbox and a list; each is in one place.

    ``idle`` are those in no queue.  Only what the C code promises is modelled: a
    thief's own ring is empty, the owner moves half of a full ring only.
    """

    rtq: Any

    def __init__(self) -> None:
        super().__init__()
        ffi, lib = self.rtq.ffi, self.rtq.lib
        self.gs = ffi.new("rt_g[]", GOROUTINES)
        for i in range(GOROUTINES):
            self.gs[i].id = i
        self.c_inbox = ffi.new("rt_inbox *")
        self.c_list = ffi.new("rt_glist *")
        self.c_rings = [lib.shim_runq_new(0) for _ in range(RINGS)]
        self.idle: deque[int] = deque(range(GOROUTINES))
        self.inbox: deque[int] = deque()
        self.list: deque[int] = deque()
        self.rings: list[deque[int]] = [deque() for _ in range(RINGS)]

    @initialize(at=st.sampled_from([0, 1, 2**32 - 3, 2**32 - 1, 2**31]))
    def counters_start_anywhere(self, at: int) -> None:
        lib = self.rtq.lib
        for ring in self.c_rings:
            lib.shim_runq_free(ring)
        self.c_rings = [lib.shim_runq_new(at) for _ in range(RINGS)]

    def teardown(self) -> None:
        for ring in self.c_rings:
            self.rtq.lib.shim_runq_free(ring)

    def ident(self, gp: Any) -> int | None:
        return None if gp == self.rtq.ffi.NULL else gp.id

    @rule(r=rings, n=counts)
    def put(self, r: int, n: int) -> None:
        for _ in range(min(n, len(self.idle))):
            g = self.idle[0]
            ok = self.rtq.lib.rt_runq_put(self.c_rings[r], self.gs + g)
            assert ok == (len(self.rings[r]) < self.rtq.cap)
            if ok:
                self.rings[r].append(self.idle.popleft())

    @rule(r=rings, n=counts)
    def get(self, r: int, n: int) -> None:
        for _ in range(n):
            got = self.ident(self.rtq.lib.rt_runq_get(self.c_rings[r]))
            expected = self.rings[r].popleft() if self.rings[r] else None
            assert got == expected
            if expected is not None:
                self.idle.append(expected)

    @rule(r=rings)
    def get_half(self, r: int) -> None:
        n = self.rtq.lib.rt_runq_get_half(self.c_rings[r], self.c_list)
        full = len(self.rings[r]) == self.rtq.cap
        assert n == (self.rtq.cap // 2 if full else 0)
        for _ in range(n):
            self.list.append(self.rings[r].popleft())

    @rule(victim=rings, thief=rings)
    def steal(self, victim: int, thief: int) -> None:
        if victim == thief:
            return
        self.get(thief, len(self.rings[thief]))
        got = self.ident(self.rtq.lib.rt_runq_steal(self.c_rings[victim], self.c_rings[thief]))
        n = (len(self.rings[victim]) + 1) // 2
        taken = [self.rings[victim].popleft() for _ in range(n)]
        assert got == (taken[0] if taken else None)
        if taken:
            self.idle.append(taken[0])
            self.rings[thief].extend(taken[1:])

    @precondition(lambda self: self.idle)
    @rule()
    def inbox_put(self) -> None:
        g = self.idle.popleft()
        assert self.rtq.lib.rt_inbox_put(self.c_inbox, self.gs + g) == (not self.inbox)
        self.inbox.append(g)

    @rule()
    def inbox_take(self) -> None:
        assert self.rtq.lib.rt_inbox_take(self.c_inbox, self.c_list) == len(self.inbox)
        self.list.extend(self.inbox)
        self.inbox.clear()

    @precondition(lambda self: self.idle)
    @rule()
    def list_push(self) -> None:
        g = self.idle.popleft()
        self.rtq.lib.rt_glist_push(self.c_list, self.gs + g)
        self.list.append(g)

    @rule()
    def list_pop(self) -> None:
        expected = self.list.popleft() if self.list else None
        assert self.ident(self.rtq.lib.rt_glist_pop(self.c_list)) == expected
        if expected is not None:
            self.idle.append(expected)

    @rule(n=st.integers(0, 3))
    def list_append(self, n: int) -> None:
        more = self.rtq.ffi.new("rt_glist *")
        for _ in range(min(n, len(self.idle))):
            g = self.idle.popleft()
            self.rtq.lib.rt_glist_push(more, self.gs + g)
            self.list.append(g)
        self.rtq.lib.rt_glist_append(self.c_list, more)
        assert more.len == 0
        assert more.head == more.tail == self.rtq.ffi.NULL

    @invariant()
    def lengths_agree(self) -> None:
        lib = self.rtq.lib
        for c_ring, ring in zip(self.c_rings, self.rings, strict=True):
            assert lib.rt_runq_len(c_ring) == len(ring)
        assert lib.rt_inbox_empty(self.c_inbox) == (not self.inbox)
        assert self.c_list.len == len(self.list)

    @invariant()
    def list_is_linked(self) -> None:
        ids, gp = [], self.c_list.head
        while gp != self.rtq.ffi.NULL:
            ids.append(gp.id)
            gp = gp.link.next
        assert ids == list(self.list)
        assert self.ident(self.c_list.tail) == (ids[-1] if ids else None)


def test_queues_random_operations_match_model(rtq: Any) -> None:
    machine = type("Machine", (QueuesMachine,), {"rtq": rtq})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=100, stateful_step_count=60, deadline=None)
    )
