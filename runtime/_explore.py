"""Deterministic schedules: `explore` runs a function under many, `replay` under one again.

The core decides who runs (csrc/py_explore.c); here schedules are begun, judged, made shorter and
told about.  One exploration at a time runs in a process.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from runtime import _core, _inspect
from runtime._explore_points import is_program_file, points
from runtime._explore_report import Shown, Switch, goroutine_labels, show_switches, stacks_of

Strategy: TypeAlias = Literal["mixed", "random", "pct"]
Preempt: TypeAlias = Literal["opcode", "line"] | None
# A schedule as it has run: who, and the number of the point it was preempted at, or 0.
_Plan: TypeAlias = list[tuple[int, int]]

_WHERE = {None: 0, "line": 1, "opcode": 2}
_KINDS = ("mixed", "random", "pct")
_MAX_STEPS = 200_000
_COLLECT_EVERY = 64  # schedules
_END_ROUNDS = 20  # how often goroutines that are left over are told to end
_SHRINK_RUNS = 400
_SHRINK_SECONDS = 2.0

_one_at_a_time = _core.Mutex()


class ExploreError(AssertionError):
    """A schedule under which the function of `explore` fails.

    seed replays it; schedule does so, too, as a text that says who is preempted where, made
    as short as possible; switches are what happens then, one by one.  cause is "exception",
    "deadlock", "livelock" or "leak"; the exception, if there is one, is __cause__.  tried is
    the number of schedules up to this one.
    """

    def __init__(
        self,
        message: str,
        *,
        seed: int | None,
        schedule: str,
        cause: str,
        tried: int,
        switches: tuple[Switch, ...],
    ) -> None:
        super().__init__(message)
        self.seed = seed
        self.schedule = schedule
        self.cause = cause
        self.tried = tried
        self.switches = switches


@dataclass(slots=True)
class Report:
    """What an exploration that found nothing has done."""

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
        self.goroutines = max(self.goroutines, len(ex.goroutines))
        self.switches += ex.switches
        self.steps += ex.steps
        self.nondeterminism = tuple(dict.fromkeys(self.nondeterminism + run.nondeterminism))


class _Failure(NamedTuple):
    cause: str  # as ExploreError.cause
    title: str  # in one line
    detail: str  # stacks, or ""
    error: BaseException | None

    def same(self, other: _Failure | None) -> bool:
        """Would a programmer say so?"""
        return (
            other is not None and self.cause == other.cause and type(self.error) is type(other.error)
        )


class _Run:
    """One schedule, that has run."""

    def __init__(self, fn: Callable[[], object], explorer: _core._Explorer, leaks: bool) -> None:
        self.explorer = explorer
        bubble = _core.Bubble(explorer)
        root = bubble.start(fn)
        stuck = False
        try:
            stuck = not bubble.run()
            self.nondeterminism = _nondeterminism(explorer)
            self.failure = self._judge(stuck, root, leaks)
        finally:
            if not root.done() or stuck:
                self._end(bubble)

    def _judge(self, stuck: bool, root: _core.Goroutine[Any], leaks: bool) -> _Failure | None:
        ex = self.explorer
        if ex.too_long:
            title = f"livelock: it has not ended after {ex.steps} steps (max_steps)"
            return _Failure("livelock", title, "", None)
        for _, number, error in sorted(ex.failures(), key=lambda f: f[:2]):
            who = goroutine_labels(ex)[number]
            title = f"{type(error).__name__}: {error}".rstrip(": ")
            return _Failure("exception", f"{title}  (in {who})", "", error)
        if stuck and not root.done():
            title = "deadlock: all goroutines wait for each other"
            return _Failure("deadlock", title, stacks_of(ex.goroutines), None)
        if stuck and not leaks:
            title = "leak: goroutines are left that wait for ever"
            return _Failure("leak", title, stacks_of(ex.goroutines), None)
        return None

    def _end(self, bubble: _core.Bubble) -> None:
        """End the goroutines that are left; those that refuse never run again."""
        self.explorer.end_record()
        for _ in range(_END_ROUNDS):
            for g in self.explorer.goroutines:
                if not g.done():
                    g.cancel()
            if bubble.run():
                break
        else:
            self.explorer.give_up()
        self.explorer.failures()  # nobody asks for what happened meanwhile


def _nondeterminism(ex: _core._Explorer) -> tuple[str, ...]:
    found = []
    if ex.io:
        found.append("it waits for I/O, or for a call on another thread")
    if ex.outside:
        found.append("goroutines are woken by threads or goroutines from outside")
    return tuple(found)


class _Session:
    """What explores one function; entered, the process is ready for it."""

    def __init__(
        self, fn: Callable[[], object], strategy: str, max_steps: int, preempt: str | None, leaks: bool
    ) -> None:
        if not callable(fn):
            raise TypeError(f"explore() needs a function, got {type(fn).__name__}")
        if strategy not in _KINDS:
            raise ValueError(f"strategy must be one of {', '.join(_KINDS)}, not {strategy!r}")
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
        self._choices = 0  # of the schedule without preemption

    def __enter__(self) -> _Session:
        if _core._in_bubble():
            raise RuntimeError("explore() cannot be called within a bubble, or another explore()")
        _one_at_a_time.lock()
        try:
            self._points.__enter__()
        except BaseException:
            _one_at_a_time.unlock()
            raise
        # Finalizers would run, and take steps, whenever it happens to collect.
        self._collects = gc.isenabled()
        gc.disable()
        try:
            # What is done but once, an import say, is done here; and PCT needs to know how
            # many points there are.
            self._choices = self.run([]).explorer.choices
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._collects:
            gc.enable()
        try:
            self._points.__exit__(*exc)
        finally:
            _one_at_a_time.unlock()

    def run(self, plan: _Plan | None, seed: int = 0, trace: bool = False) -> _Run:
        """A schedule: that of the seed, or the plan with the seed's draws."""
        shift, depth = _parameters(self._strategy, seed)
        explorer = _core._Explorer(
            seed, shift, depth, self._choices, self._max_steps, plan, trace
        )
        self._runs += 1
        if self._collects and self._runs % _COLLECT_EVERY == 0:
            gc.collect(1)
        return _Run(self._fn, explorer, self._leaks)

    def shrink(self, seed: int, run: _Run) -> tuple[_Plan, _Run]:
        """The plan of the run, which fails, or a shorter one that fails alike."""
        assert run.failure is not None
        best, best_run = run.explorer.schedule, run
        deadline = time.monotonic() + _SHRINK_SECONDS

        for runs in itertools.count():
            for plan in _shorter(best):
                if runs > _SHRINK_RUNS or time.monotonic() > deadline:
                    return best, best_run
                candidate = self.run(plan, seed)
                runs += 1
                if not run.failure.same(candidate.failure):
                    continue
                done = candidate.explorer.schedule
                if _size(done) < _size(best):
                    best, best_run = done, candidate
                    break
            else:
                return best, best_run
        raise AssertionError


def _size(plan: _Plan) -> tuple[int, int]:
    return sum(1 for _, point in plan if point), len(plan)


def _shorter(plan: _Plan) -> Iterator[_Plan]:
    """Plans that do without some of the switches, the shortest first."""
    n = len(plan)
    size = n // 2
    while size:
        # Without the end, or a piece from the middle.
        for start in range(n - size, -1, -size):
            yield plan[:start] + plan[start + size :]
        size //= 2
    for i, (who, point) in enumerate(plan):
        if point:
            yield [*plan[:i], (who, 0), *plan[i + 1 :]]


def _parameters(strategy: str, seed: int) -> tuple[int, int]:
    """How a schedule of the seed is drawn: preempt with probability 2**-shift, or PCT's depth."""
    mixed = ((seed + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 40
    shift, depth = 1 + mixed % 6, 2 + mixed % 3
    if strategy == "random" or (strategy == "mixed" and mixed >> 12 & 1):
        return shift, 0
    return shift, depth


def _write_plan(seed: int, plan: _Plan) -> str:
    return f"{seed}:" + ",".join(f"{who}@{at}" if at else str(who) for who, at in plan)


def _read_plan(text: str) -> tuple[int, _Plan | None]:
    """The seed and the plan, if there is one, of what the user gives as a seed."""
    try:
        seed, colon, rest = text.partition(":")
        plan = [(int(who), int(at or 0)) for who, _, at in
                (item.partition("@") for item in rest.split(",") if item)]
        return int(seed) & 0xFFFFFFFFFFFFFFFF, plan if colon else None
    except ValueError:
        raise ValueError(
            f"{text!r} is no seed: it must be an int, or a schedule as ExploreError.schedule"
        ) from None


def explore(
    fn: Callable[[], object],
    *,
    seeds: Iterable[int] = range(1000),
    strategy: Strategy = "mixed",
    max_steps: int = _MAX_STEPS,
    timeout: float | None = None,
    preempt: Preempt = "opcode",
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
    goroutine goes on, which ready case select takes, and where goroutines are preempted: between
    any two instructions of the program that others might notice (preempt="opcode"), between
    lines ("line") or only where they wait (None).  The standard library and this package are
    not preempted inside, nor is code that holds a lock of threading.

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
            run = session.run(None, seed & 0xFFFFFFFFFFFFFFFF)
            report._add(run)
            report.seconds = time.monotonic() - began
            if run.failure is not None:
                raise _error(session, seed, run, report, shrink) from run.failure.error
            if timeout is not None and report.seconds >= timeout:
                break
    return report


def replay(
    fn: Callable[[], object],
    seed: int | str,
    *,
    strategy: Strategy = "mixed",
    max_steps: int = _MAX_STEPS,
    preempt: Preempt = "opcode",
    leaks: bool = False,
    trace: bool = True,
) -> Report:
    """Call fn() under the schedule of that seed, or of an ExploreError.schedule, once more.

    All else must be as it was for `explore`.  Raises ExploreError if it fails.  With trace, each
    switch is printed to standard error: who ran, where it stopped, and why.
    """
    return _replay(_Session(fn, strategy, max_steps, preempt, leaks), str(seed), trace)


def _replay(session: _Session, text: str, trace: bool) -> Report:
    seed, plan = _read_plan(text)
    report = Report()
    with session:
        run = session.run(plan, seed, True)
        report._add(run)
        shown = show_switches(run.explorer)
        if trace:
            print(shown.text, file=sys.stderr)
        if run.failure is not None:
            plan = run.explorer.schedule if plan is None else plan
            title = f"this schedule fails: {run.failure.title}"
            raise ExploreError(
                "\n\n".join(filter(None, (title, run.failure.detail.rstrip()))),
                seed=seed,
                schedule=_write_plan(seed, plan),
                cause=run.failure.cause,
                tried=1,
                switches=shown.switches,
            ) from run.failure.error
    return report


def _error(
    session: _Session, seed: int, run: _Run, report: Report, shrink: bool
) -> ExploreError:
    failure = run.failure
    assert failure is not None
    plan = run.explorer.schedule
    before = _size(plan)[0]
    if shrink:
        plan, run = session.shrink(seed, run)
    again = session.run(plan, seed, True)
    shown = show_switches(again.explorer)
    name = getattr(session._fn, "__name__", "fn")
    lines = [f"schedule {report.schedules} fails, seed {seed}: {failure.title}"]
    if failure.detail:
        lines += ["", failure.detail.rstrip()]
    if failure.same(again.failure):
        after = _size(plan)[0]
        less = f", made shorter from {before}" if after < before else ""
        lines += ["", f"What happens, with {after} preemptions{less}:", "", shown.text]
    else:
        lines += ["", "It does not fail when it is run again: it depends on more than the seed."]
    for why in report.nondeterminism:
        lines += ["", f"The same seed may mean another schedule the next time: {why}."]
    text = _write_plan(seed, plan)
    lines += ["", f"To see it again: testing.replay({name}, {seed})"]
    if len(text) <= 200:
        lines += [f"or, as above:    testing.replay({name}, {text!r})"]
    return ExploreError(
        "\n".join(lines),
        seed=seed,
        schedule=text,
        cause=failure.cause,
        tried=report.schedules,
        switches=shown.switches,
    )
