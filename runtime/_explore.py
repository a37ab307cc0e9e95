"""Deterministic schedules: `explore` runs a function under many, `replay` under one again.

The core decides who runs (csrc/py_explore.c); here schedules are begun, judged and made shorter.
One exploration at a time runs in a process.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from runtime import _core
from runtime._explore_points import points
from runtime._explore_report import (
    Failure,
    Plan,
    Switch,
    labels,
    read_plan,
    stacks_of,
    switches_of,
    table,
    write_plan,
)

_Strategy: TypeAlias = Literal["mixed", "random", "pct"]
_Preempt: TypeAlias = Literal["opcode", "line"] | None

_STRATEGIES = ("mixed", "random", "pct")
_WHERE = {None: 0, "line": 1, "opcode": 2}  # as in csrc/py_explore.h
_MAX_STEPS = 200_000
_SEED_MASK = 0xFFFFFFFFFFFFFFFF
_COLLECT_EVERY = 64  # schedules
_END_ROUNDS = 20  # how often goroutines that are left over are told to end
_SHRINK_RUNS = 500
_SHRINK_SECONDS = 2.0

_one_at_a_time = _core.Mutex()


class ExploreError(AssertionError):
    """There is a schedule under which the function of `explore` fails.

    seed replays it.  schedule does so, too: a text that says who is preempted where, made as
    short as possible; switches are what happens then, one by one.  cause is "exception",
    "deadlock", "livelock" or "leak"; the exception, if there is one, is __cause__.  tried is
    the number of schedules up to this one.
    """

    seed: int
    schedule: str
    switches: tuple[Switch, ...]
    cause: str
    tried: int


@dataclass(slots=True)
class Report:
    """What an exploration that has found nothing has done."""

    schedules: int = 0  # that have run
    distinct: int = 0  # of them that differ from all before
    goroutines: int = 0  # most of them in one schedule
    switches: int = 0  # in all schedules together
    steps: int = 0  # likewise: switches, and points where one might have been
    seconds: float = 0.0
    # Why the same seed may mean another schedule the next time; empty: it does not.
    nondeterminism: tuple[str, ...] = ()
    _seen: set[int] = field(default_factory=set, repr=False)

    def _add(self, run: _Run) -> None:
        ex = run.explorer
        self.schedules += 1
        self._seen.add(ex.fingerprint)
        self.distinct = len(self._seen)
        self.goroutines = max(self.goroutines, ex.started)
        self.switches += ex.switches
        self.steps += ex.steps
        if run.nondeterminism:
            self.nondeterminism = tuple(dict.fromkeys(self.nondeterminism + run.nondeterminism))


class _Run:
    """One schedule, that has run."""

    def __init__(self, fn: Callable[[], object], explorer: _core._Explorer, leaks: bool) -> None:
        self.explorer = explorer
        bubble = _core.Bubble(explorer)
        root = bubble.start(fn)
        ended = False
        try:
            ended = self._wait(bubble)
            self.nondeterminism = _nondeterminism(explorer)
            self.failure = self._judge(root, ended, leaks)
        finally:
            if not ended:
                self._end(bubble)

    @staticmethod
    def _wait(bubble: _core.Bubble) -> bool:
        try:
            return bubble.run()
        except _core.DeadlockError:  # with what is outside of the bubble
            return False

    def _judge(
        self, root: _core.Goroutine[Any], ended: bool, leaks: bool
    ) -> Failure | None:
        ex = self.explorer
        if ex.too_long:
            text = f"livelock: it has not ended after {ex.steps} steps (max_steps)"
            return Failure("livelock", None, text, "", None)
        failures = ex.failures()
        if failures:
            _, number, error = min(failures, key=lambda f: f[:2])
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            return Failure("exception", number, text, "", error)
        if ended or (leaks and root.done()):
            return None
        stacks = stacks_of(ex.goroutines)
        if root.done():
            return Failure("leak", None, "goroutines are left that wait for ever", stacks, None)
        return Failure("deadlock", None, "deadlock: all goroutines wait", stacks, None)

    def _end(self, bubble: _core.Bubble) -> None:
        """End the goroutines that are left; those that refuse never run again."""
        ex = self.explorer
        ex.end()
        for _ in range(_END_ROUNDS):
            bubble.cancel()
            if self._wait(bubble):
                break
        else:
            ex.give_up()
        ex.failures()  # nobody asks for what has happened meanwhile


def _nondeterminism(ex: _core._Explorer) -> tuple[str, ...]:
    found = []
    if ex.io:
        found.append("it waits for I/O, or for a call on another thread")
    if ex.outside:
        found.append("its goroutines are woken from outside")
    if ex.crowded:
        found.append("there is no room for all of its goroutines")
    return tuple(found)


class _Session:
    """Explores one function; the process is ready for it while this is entered."""

    def __init__(
        self,
        fn: Callable[[], object],
        strategy: str,
        max_steps: int,
        preempt: str | None,
        leaks: bool,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"explore() needs a function, got {type(fn).__name__}")
        if strategy not in _STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(_STRATEGIES)}, not {strategy!r}")
        if preempt not in _WHERE:
            raise ValueError(f'preempt must be "opcode", "line" or None, not {preempt!r}')
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, not {max_steps}")
        self._fn = fn
        self._strategy = strategy
        self._max_steps = max_steps
        self._leaks = leaks
        self._points = points(_WHERE[preempt])
        self._runs = 0
        self._choices = 0  # in the schedule without preemption

    def __enter__(self) -> _Session:
        if _core._in_bubble():
            raise RuntimeError("explore() cannot be called within a bubble, or another explore()")
        _one_at_a_time.lock()
        # Finalizers would run, and take steps, whenever it happens to collect.
        self._collects = gc.isenabled()
        try:
            self._points.begin()
            gc.disable()
            # What is done but once, an import say, is done here; and PCT has to know how many
            # points there are.
            self._choices = self.run([]).explorer.choices
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._collects:
            gc.enable()
        try:
            self._points.end()
        finally:
            _one_at_a_time.unlock()

    def run(self, plan: Plan | None, seed: int = 0, trace: bool = False) -> _Run:
        """A schedule: that of the seed, or the plan with the seed's draws."""
        seed &= _SEED_MASK
        shift, depth = _parameters(self._strategy, seed)
        self._runs += 1
        if self._collects and self._runs % _COLLECT_EVERY == 0:
            gc.collect(1)
        return _Run(
            self._fn,
            _core._Explorer(seed, shift, depth, self._choices, self._max_steps, plan, trace),
            self._leaks,
        )

    def shrink(self, seed: int, run: _Run) -> Plan:
        """The schedule of the run, which fails, or a shorter one that fails alike."""
        assert run.failure is not None
        best = run.explorer.schedule
        runs, deadline = 0, time.monotonic() + _SHRINK_SECONDS
        candidates = _shorter(best)
        while runs < _SHRINK_RUNS and time.monotonic() < deadline:
            plan = next(candidates, None)
            if plan is None:
                break
            runs += 1
            candidate = self.run(plan, seed)
            done = candidate.explorer.schedule
            if _size(done) < _size(best) and run.failure.same(candidate.failure):
                best = done
                candidates = _shorter(best)
        return best

    def error(self, seed: int, plan: Plan, less: int, report: Report) -> ExploreError | None:
        """What to tell about the plan; less: how many preemptions it does without.

        None: it does not fail.
        """
        run = self.run(plan, seed, True)
        failure = run.failure
        if failure is None:
            return None
        who = f" in {labels(run.explorer)[failure.who]}" if failure.who is not None else ""
        lines = [f"schedule {report.schedules} fails, seed {seed}{who}: {failure.text}", ""]
        if failure.stacks:
            lines += [failure.stacks, ""]
        error = ExploreError()
        error.seed, error.schedule = seed, write_plan(seed, plan)
        error.cause, error.tried = failure.cause, report.schedules
        error.switches = switches_of(run.explorer)
        error.__cause__ = failure.error
        count = _size(plan)[0]
        title = f"What happens, with {count} preemption{'s' * (count != 1)}"
        title += f" ({less} left out):" if less > 0 else ":"
        lines += [title, "", table(error.switches), ""]
        lines += [f"The same seed may mean another schedule: {w}." for w in report.nondeterminism]
        name = getattr(self._fn, "__name__", "fn")
        lines += [f"To see it again: testing.replay({name}, {seed})"]
        if len(error.schedule) <= 200:
            lines += [f"  as it is above: testing.replay({name}, {error.schedule!r})"]
        error.args = ("\n".join(lines),)
        return error


def _size(plan: Plan) -> tuple[int, int]:
    return sum(1 for _, point in plan if point), len(plan)


def _shorter(plan: Plan) -> Iterator[Plan]:
    """Plans that do without some of the switches, without many first, or preempt near by."""
    preempted = [item for item in plan if item[1]]
    if 1 < len(preempted) <= _SHRINK_RUNS // 5:
        yield from ([item] for item in preempted)
    n = len(plan)
    size = max(n // 2, 1)
    while size:
        for start in range(n - size, -1, -size):
            yield plan[:start] + plan[start + size :]
        size //= 2
    for i, (who, point) in enumerate(plan):
        if point:
            near = (p for d in range(1, 9) for p in (point + d, point - d) if p > 0)
            yield from ([*plan[:i], (who, p), *plan[i + 1 :]] for p in (0, *near))


def _parameters(strategy: str, seed: int) -> tuple[int, int]:
    """How a schedule is drawn: preempt with probability 2**-shift, or, if not 0, PCT's depth."""
    mixed = ((seed + 1) * 0x9E3779B97F4A7C15 & _SEED_MASK) >> 40
    shift, depth = 1 + mixed % 6, 2 + mixed % 3
    if strategy == "random" or (strategy == "mixed" and mixed >> 12 & 1):
        depth = 0
    return shift, depth


def explore(
    fn: Callable[[], object],
    *,
    seeds: Iterable[int] = range(1000),
    strategy: _Strategy = "mixed",
    max_steps: int = _MAX_STEPS,
    timeout: float | None = None,
    preempt: _Preempt = "opcode",
    leaks: bool = False,
    shrink: bool = True,
) -> Report:
    """Call fn() under one schedule after another, each drawn by a seed, until one fails.

        def transfer():
            account = Account()
            a, b = go(account.add, 1), go(account.add, 1)
            a.join(), b.join()
            assert account.balance == 2

        testing.explore(transfer)

    fn is called anew for each seed, in a goroutine of a bubble with a clock of its own (see
    `bubble`), and must make anew what its goroutines share.  The seed decides which runnable
    goroutine goes on, which ready case select takes, and where goroutines are preempted: before
    any instruction of the program that others might notice (preempt="opcode"), before any line
    ("line"), or only where they wait (None).  The standard library and this package are not
    preempted inside, nor is code that holds a lock of threading.

    A schedule fails if fn or one of its goroutines raises, and nobody joins that one; if all
    wait for each other; if it takes more than max_steps steps; if goroutines are left that wait
    for ever, unless leaks is true.  Then ExploreError is raised, with the seed, and with the
    interleaving, made as short as possible unless shrink is false.

    strategy is "random" (each point preempts with the same probability), "pct" (random priorities
    that change at a few points) or "mixed", both by turns.  timeout, in seconds of real time,
    ends the search early.  $GOSCHED_SEED, a seed or a schedule, replaces all seeds.

    Real I/O, blocking() and threads are allowed, but what they do does not depend on the
    seed: the report says so.
    """
    session = _Session(fn, strategy, max_steps, preempt, leaks)
    chosen = os.environ.get("GOSCHED_SEED")
    if chosen:
        return _replay(session, chosen, trace=False)
    report = Report()
    began = time.monotonic()
    with session:
        for seed in seeds:
            if not isinstance(seed, int):
                raise TypeError(f"seeds must be ints, not {type(seed).__name__}")
            run = session.run(None, seed)
            report._add(run)
            report.seconds = time.monotonic() - began
            if run.failure is not None:
                raise _failed(session, seed, run, report, shrink)
            if timeout is not None and report.seconds >= timeout:
                break
    return report


def replay(
    fn: Callable[[], object],
    seed: int | str,
    *,
    strategy: _Strategy = "mixed",
    max_steps: int = _MAX_STEPS,
    preempt: _Preempt = "opcode",
    leaks: bool = False,
    trace: bool = True,
) -> Report:
    """Call fn() under the schedule of that seed, or of an ExploreError.schedule, once more.

    All else must be as it was for `explore`.  Raises ExploreError if it fails.  With trace, what
    happens is printed to standard error, a line for each switch: who has run, why it has
    stopped, and where.
    """
    return _replay(_Session(fn, strategy, max_steps, preempt, leaks), str(seed), trace)


def _replay(session: _Session, text: str, trace: bool) -> Report:
    seed, plan = read_plan(text)
    report = Report()
    began = time.monotonic()
    with session:
        run = session.run(plan, seed, trace)
        report._add(run)
        report.seconds = time.monotonic() - began
        if trace:
            print(table(switches_of(run.explorer)), file=sys.stderr)
        if run.failure is not None:
            raise _failed(session, seed, run, report, False)
    return report


def _failed(
    session: _Session, seed: int, run: _Run, report: Report, shrink: bool
) -> ExploreError:
    plan = full = run.explorer.schedule
    if shrink:
        plan = session.shrink(seed, run)
    error = session.error(seed, plan, _size(full)[0] - _size(plan)[0], report)
    if error is None:
        assert run.failure is not None
        error = ExploreError(
            f"schedule {report.schedules} has failed, seed {seed}: {run.failure.text}\n\n"
            "It does not fail when it is run again: it depends on more than the seed."
        )
        error.seed, error.schedule, error.switches = seed, write_plan(seed, plan), ()
        error.cause, error.tried = run.failure.cause, report.schedules
        error.__cause__ = run.failure.error
    return error
