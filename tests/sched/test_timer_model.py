"""Model-based test of the timer heap: random operations beside a sorted list.

Fire functions act too: each timer carries a script of starts, stops and moves that it
performs when it fires.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

TIMERS = 12
FOREVER = 2**63 - 1

indices = st.integers(0, TIMERS - 1)
# Few different deadlines, so that many are equal, and the extremes.
whens = st.one_of(st.integers(-5, 30), st.sampled_from([-(2**63), FOREVER, FOREVER - 1]))
scripts = st.lists(
    st.tuples(st.sampled_from(["start", "stop", "move"]), indices, whens), max_size=4
)


class TimersMachine(RuleBasedStateMachine):
    """``started`` maps a timer to (when, start order), ``held`` are those that a fire
    function started when due already."""

    rtq: Any

    def __init__(self) -> None:
        super().__init__()
        ffi, lib = self.rtq.ffi, self.rtq.lib
        self.ts = ffi.new("rt_timers *")
        lib.rt_timers_init(self.ts)
        self.timers = ffi.new("rt_timer[]", TIMERS)
        self.on_fire = ffi.callback("void(rt_timer *)", self.fired, onerror=self.failed)
        for i in range(TIMERS):
            self.timers[i].kind = i
            self.timers[i].fire = self.on_fire
        self.started: dict[int, tuple[int, int]] = {}
        self.scripts: dict[int, list[tuple[str, int, int]]] = {}
        self.order = 0
        self.run_now: int | None = None
        self.held: set[int] = set()
        self.count = 0
        self.failure: BaseException | None = None

    def teardown(self) -> None:
        self.rtq.lib.rt_timers_fini(self.ts)

    def failed(self, exc_type: Any, exc: BaseException, tb: Any) -> None:
        self.failure = exc

    def fired(self, t: Any) -> None:
        """Called from C: it must be the model's first due timer."""
        assert self.run_now is not None
        due = {
            i: key
            for i, key in self.started.items()
            if key[0] <= self.run_now and i not in self.held
        }
        first = min(due, key=lambda i: due[i])
        assert t.kind == first
        assert not self.rtq.lib.shim_timer_started(t)
        del self.started[first]
        self.count += 1
        for verb, i, when in self.scripts.pop(first, []):
            getattr(self, "do_" + verb)(i, when)

    def note_started(self, i: int, when: int) -> None:
        self.order += 1
        self.started[i] = (when, self.order)
        self.held.discard(i)
        if self.run_now is not None and when <= self.run_now:
            self.held.add(i)

    def do_start(self, i: int, when: int) -> None:
        if i in self.started:
            return
        self.timers[i].when = when
        assert self.rtq.lib.rt_timers_start(self.ts, self.timers + i) == 0
        self.note_started(i, when)

    def do_stop(self, i: int, when: int = 0) -> None:
        assert self.rtq.lib.rt_timers_stop(self.ts, self.timers + i) == (i in self.started)
        self.started.pop(i, None)
        self.held.discard(i)

    def do_move(self, i: int, when: int) -> None:
        if i not in self.started:
            return
        self.rtq.lib.rt_timers_move(self.ts, self.timers + i, when)
        self.note_started(i, when)

    @rule(i=indices, when=whens, script=scripts)
    def start(self, i: int, when: int, script: list[tuple[str, int, int]]) -> None:
        self.do_start(i, when)
        self.scripts[i] = script

    @rule(i=indices)
    def stop(self, i: int) -> None:
        self.do_stop(i)

    @rule(i=indices, when=whens)
    def move(self, i: int, when: int) -> None:
        self.do_move(i, when)

    @rule(now=whens)
    def run(self, now: int) -> None:
        self.run_now, self.count = now, 0
        n = self.rtq.lib.rt_timers_run(self.ts, now)
        if self.failure is not None:
            raise self.failure
        assert n == self.count
        assert all(when > now or i in self.held for i, (when, _) in self.started.items())
        self.run_now = None
        self.held.clear()

    @invariant()
    def next_deadline_agrees(self) -> None:
        first = min((when for when, _ in self.started.values()), default=FOREVER)
        assert self.rtq.lib.shim_timers_next(self.ts) == first
        assert self.ts.len == len(self.started)
        assert self.ts.held == 0

    @invariant()
    def started_agrees(self) -> None:
        for i in range(TIMERS):
            assert self.rtq.lib.shim_timer_started(self.timers + i) == (i in self.started)


def test_timers_random_operations_match_model(rtq: Any) -> None:
    machine = type("Machine", (TimersMachine,), {"rtq": rtq})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=100, stateful_step_count=50, deadline=None)
    )
