"""Contexts: trees that end from above, deadlines, values, and what happens at the end."""

import gc
import math
import random
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from programs import run
from runtime import (
    Cancelled,
    Chan,
    Group,
    Receiver,
    context,
    go,
    gosched,
    num_goroutine,
    recv,
    select,
    sleep,
)
from runtime.context import Canceled, Context, DeadlineExceeded, Scope
from runtime.time import monotonic
from waits import parked, settle, until


class Boom(Exception):
    pass


def ended(ctx: Context) -> bool:
    """Whether it has ended; err() and done() must agree."""
    done = ctx.done()
    assert (ctx.err() is not None) == (done is not None and done.closed)
    return ctx.err() is not None


def count(kind: type) -> int:
    gc.collect()
    return sum(type(o) is kind for o in gc.get_objects())


def nodes() -> int:
    """How many contexts there are that can end."""
    return count(type(context.with_cancel().ctx)) - 1


class Own:
    """A context of a program's own."""

    def __init__(self, when: float | None = None, error: type[Exception] = Boom) -> None:
        self.channel: Chan[None] = Chan()
        self.when, self.error = when, error

    def end(self) -> None:
        self.channel.close()

    def deadline(self) -> float | None:
        return self.when

    def done(self) -> Chan[None] | None:
        return self.channel

    def err(self) -> Exception | None:
        return self.error() if self.channel.closed else None

    def value(self, key: Any, default: Any = None, /) -> Any:
        return "own" if key == "who" else default


class OwnWithHook(Own):
    """One that can call functions when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: dict[object, Callable[[], object]] = {}

    def after_func(self, fn: Callable[[], object]) -> Callable[[], bool]:
        key = object()
        self.hooks[key] = fn
        return lambda: self.hooks.pop(key, None) is not None

    def end(self) -> None:
        super().end()
        for fn in list(self.hooks.values()):
            fn()


class Wrapper:
    """One that passes on all that another context says."""

    def __init__(self, inner: Context) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


# --- roots ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [context.background, context.todo])
def test_root_never_ends(make: Callable[[], Context]) -> None:
    ctx = make()
    assert ctx is make()
    assert ctx.done() is None and ctx.err() is None and ctx.deadline() is None
    assert ctx.value("key") is None and ctx.value("key", 5) == 5
    assert context.cause(ctx) is None
    assert isinstance(ctx, Context)
    ch: Chan[int] = Chan(1)
    ch.send(1, ctx=ctx)
    assert ch.recv(ctx=ctx) == 1


def test_repr_shows_how_a_context_was_made() -> None:
    assert repr(context.background()) == "context.background"
    ctx = context.with_value(context.with_cancel(context.todo()).ctx, "k", "secret")
    ctx = context.without_cancel(ctx)
    assert repr(ctx) == "context.todo.with_cancel.with_value('k').without_cancel"
    ctx, cancel = context.with_deadline(ctx, 1e12)
    assert repr(ctx).endswith(".without_cancel.with_deadline(1000000000000.000)")
    cancel()


# --- cancelling -------------------------------------------------------------------------------


def test_cancel_ends_the_context_once() -> None:
    ctx, cancel = context.with_cancel()
    assert not ended(ctx)
    assert context.cause(ctx) is None
    done = ctx.done()
    cancel()
    assert ended(ctx)
    assert ctx.done() is done
    assert type(ctx.err()) is Canceled
    assert type(context.cause(ctx)) is Canceled
    cancel()
    assert type(ctx.err()) is Canceled


def test_done_can_be_received_from_and_selected_but_not_closed() -> None:
    ctx, cancel = context.with_cancel()
    done = ctx.done()
    assert isinstance(done, Receiver) and context.with_value(ctx, 1, 2).done() is done
    assert not hasattr(done, "close") and not hasattr(done, "send")
    never: Chan[None] = Chan()
    assert select(recv(never), recv(done), default=True).index == -1
    g = parked(go(select, recv(done), recv(never)))
    cancel()
    assert g.join()[:] == (0, None, False)
    assert select(recv(context.background().done()), recv(done)).index == 1


def test_parent_whose_done_is_no_channel_is_a_type_error() -> None:
    own = Own()
    own.done = lambda: 5  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(
        TypeError, match=r"ctx.done\(\) must be a Chan, a Receiver or None, not int"
    ):
        context.with_cancel(own)


def test_err_is_a_new_exception_each_time() -> None:
    ctx, cancel = context.with_cancel_cause()
    cancel(Boom())
    errors = [ctx.err() for _ in range(5)]
    assert len({id(e) for e in errors}) == 5
    for name in ("recv", "recv_ok"):
        with pytest.raises(Canceled) as info:
            getattr(Chan(), name)(ctx=ctx)
        assert info.value not in errors
    assert context.cause(ctx) is context.cause(ctx)


def test_cancel_reaches_descendants_and_nobody_else() -> None:
    root, cancel_root = context.with_cancel()
    a, cancel_a = context.with_cancel(root)
    b, cancel_b = context.with_cancel(root)
    a1 = context.with_value(a, "x", 1)
    a2, _ = context.with_cancel(a1)
    a3, _ = context.with_timeout(a2, 1000)
    cancel_a()
    assert [ended(c) for c in (root, a, a1, a2, a3, b)] == [False, True, True, True, True, False]
    cancel_root()
    assert ended(root) and ended(b)
    cancel_b()


def test_child_of_a_context_that_has_ended_has_ended() -> None:
    ctx, cancel = context.with_cancel_cause()
    cancel(Boom("why"))
    for child in (
        context.with_cancel(ctx).ctx,
        context.with_timeout(ctx, 100).ctx,
        context.with_timeout(ctx, -1).ctx,
        context.with_value(ctx, 1, 2),
    ):
        assert ended(child)
        assert type(child.err()) is Canceled
        assert isinstance(context.cause(child), Boom)


def test_descendants_have_ended_when_cancel_returns_and_parents_before_children() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        scopes = [context.with_cancel()]
        parents = [-1]
        for i in range(60):
            parents.append(rng.randrange(len(scopes)))
            scopes.append(context.with_cancel(scopes[parents[i + 1]].ctx))
        seen: list[int] = []

        def watch(i: int, parent: int, scopes: list[Any] = scopes, seen: list[int] = seen) -> None:
            scopes[i].ctx.done().recv_ok()
            assert parent < 0 or ended(scopes[parent].ctx)
            seen.append(i)

        gs = [parked(go(watch, i, parent)) for i, parent in enumerate(parents)]
        scopes[0].cancel()
        assert all(ended(s.ctx) for s in scopes)
        for g in gs:
            g.join()
        assert sorted(seen) == list(range(len(scopes)))


def test_cancel_of_a_deep_chain_needs_no_deep_stack() -> None:
    depth = 20_000
    ctx, cancel = context.with_cancel_cause()
    leaf: Context = ctx
    for i in range(depth):
        leaf = context.with_value(context.with_cancel(leaf).ctx, "depth", i)
    assert leaf.value("depth") == depth - 1
    assert leaf.value("nothing") is None
    assert leaf.deadline() is None
    assert len(repr(leaf)) > depth
    cancel(Boom())
    assert ended(leaf)
    assert isinstance(context.cause(leaf), Boom)


def test_scope_is_a_pair_and_a_block() -> None:
    scope = context.with_cancel()
    assert isinstance(scope, Scope)
    ctx, cancel = scope
    assert (scope.ctx, scope.cancel) == (ctx, cancel)
    for make in (
        context.with_cancel,
        context.with_cancel_cause,
        lambda: context.with_timeout(None, 100),
        lambda: context.with_deadline(None, monotonic() + 100),
    ):
        with make() as ctx:
            assert not ended(ctx)
        assert ended(ctx)
        with pytest.raises(Boom), make() as ctx:
            raise Boom
        assert ended(ctx)
        assert type(context.cause(ctx)) is Canceled


# --- causes -----------------------------------------------------------------------------------


def test_cause_of_the_first_end_wins() -> None:
    first, second = Boom("first"), Boom("second")
    ctx, cancel = context.with_cancel_cause()
    child, cancel_child = context.with_cancel_cause(ctx)
    cancel(first)
    cancel(second)
    cancel_child(second)
    cancel()
    for c in (ctx, child):
        assert context.cause(c) is first
        err = c.err()
        assert type(err) is Canceled and err.__cause__ is first


def test_cause_of_a_child_is_not_the_parents() -> None:
    ctx, cancel = context.with_cancel_cause()
    child, cancel_child = context.with_cancel_cause(ctx)
    grandchild, cancel_grandchild = context.with_cancel(child)
    mine, theirs = Boom("child"), Boom("parent")
    cancel_child(mine)
    assert context.cause(ctx) is None and ctx.err() is None
    cancel(theirs)
    cancel_grandchild()
    assert context.cause(child) is mine
    assert context.cause(grandchild) is mine
    assert context.cause(ctx) is theirs


def test_cause_none_is_the_error_itself() -> None:
    for args in ((), (None,)):
        ctx, cancel = context.with_cancel_cause()
        cancel(*args)
        assert type(context.cause(ctx)) is Canceled
        err = ctx.err()
        assert err is not None and err.__cause__ is None


def test_cause_passes_values_and_stops_at_without_cancel() -> None:
    ctx, cancel = context.with_cancel_cause()
    value = context.with_value(ctx, 1, 2)
    loose = context.without_cancel(value)
    below, cancel_below = context.with_cancel(loose)
    cancel(Boom())
    assert isinstance(context.cause(value), Boom)
    assert context.cause(loose) is None and loose.err() is None
    assert context.cause(below) is None and not ended(below)
    cancel_below()
    assert type(context.cause(below)) is Canceled


def test_cause_of_a_deadline() -> None:
    late = Boom("late")
    with context.with_timeout(None, 0.001, late) as ctx:
        child, _ = context.with_cancel(ctx)
        ctx.done().recv_ok()  # type: ignore[union-attr]
        for c in (ctx, child):
            assert context.cause(c) is late
            err = c.err()
            assert type(err) is DeadlineExceeded and err.__cause__ is late
    with context.with_timeout(None, 1000, late) as ctx:
        pass
    assert type(context.cause(ctx)) is Canceled
    ctx = context.with_deadline(None, 0, late).ctx
    assert context.cause(ctx) is late


@pytest.mark.parametrize("cause", [1, "why", Boom])
def test_cause_that_is_no_exception_is_a_type_error(cause: Any) -> None:
    _, cancel = context.with_cancel_cause()
    with pytest.raises(TypeError, match="an exception or None, not"):
        cancel(cause)
    with pytest.raises(TypeError, match="an exception or None, not"):
        context.with_timeout(None, 1, cause)


# --- deadlines --------------------------------------------------------------------------------


def test_deadline_ends_the_context() -> None:
    before = monotonic()
    ctx, cancel = context.with_timeout(None, 0.01)
    when = ctx.deadline()
    assert when is not None and before + 0.01 <= when <= monotonic() + 0.01
    assert not ended(ctx) or monotonic() >= when
    with pytest.raises(DeadlineExceeded) as info:
        Chan().recv(ctx=ctx)
    assert isinstance(info.value, TimeoutError)
    assert monotonic() >= when
    assert ended(ctx)
    cancel()
    assert type(ctx.err()) is DeadlineExceeded


@pytest.mark.parametrize("seconds", [0, -1, -math.inf])
def test_deadline_that_has_passed_ends_the_context_at_once(seconds: float) -> None:
    ctx, _ = context.with_timeout(None, seconds)
    assert type(ctx.err()) is DeadlineExceeded
    ctx, _ = context.with_deadline(None, monotonic() + seconds)
    assert type(ctx.err()) is DeadlineExceeded
    assert ended(context.with_cancel(ctx).ctx)


@pytest.mark.parametrize("seconds", [None, math.inf, 1e12, 1e300])
def test_deadline_too_far_away_or_none_never_comes(seconds: float | None) -> None:
    with context.with_timeout(None, seconds) as ctx:
        sleep(0.001)
        assert not ended(ctx)
        assert (ctx.deadline() is None) == (seconds is None)
    assert type(ctx.err()) is Canceled
    with context.with_deadline(None, seconds) as ctx:
        assert not ended(ctx)


def test_deadline_of_a_child_is_the_earlier() -> None:
    now = monotonic()
    parent, cancel = context.with_deadline(None, now + 100)
    for when, expected in ((now + 50, now + 50), (now + 200, now + 100), (None, now + 100)):
        child, cancel_child = context.with_deadline(parent, when)
        assert child.deadline() == expected
        assert context.with_value(child, 1, 2).deadline() == expected
        cancel_child()
    assert context.without_cancel(parent).deadline() is None
    assert context.with_cancel(context.without_cancel(parent)).ctx.deadline() is None
    cancel()


def test_deadline_of_a_parent_ends_a_child_with_a_later_one() -> None:
    parent, cancel = context.with_timeout(None, 0.001, Boom("parent"))
    child, cancel_child = context.with_timeout(parent, 1000, Boom("child"))
    child.done().recv_ok()  # type: ignore[union-attr]
    assert type(child.err()) is DeadlineExceeded
    assert str(context.cause(child)) == "parent"
    cancel_child()
    cancel()


def test_deadline_of_a_child_leaves_the_parent_alone() -> None:
    parent, cancel = context.with_timeout(None, 1000)
    child, cancel_child = context.with_timeout(parent, 0.001)
    child.done().recv_ok()  # type: ignore[union-attr]
    assert ended(child) and not ended(parent)
    cancel_child()
    cancel()


def test_deadline_of_a_parent_of_another_kind() -> None:
    own = Own(when=monotonic() + 5)
    assert context.with_timeout(own, 100).ctx.deadline() == own.when
    own.end()


@pytest.mark.parametrize("seconds", ["1", [], object()])
def test_deadline_that_is_no_number_is_a_type_error(seconds: Any) -> None:
    with pytest.raises(TypeError):
        context.with_timeout(None, seconds)
    with pytest.raises((TypeError, ValueError)):
        context.with_deadline(None, seconds if seconds != "1" else "x")


def test_deadline_that_is_nan_is_a_value_error() -> None:
    for make in (context.with_timeout, context.with_deadline):
        with pytest.raises(ValueError, match="NaN"):
            make(None, math.nan)


# --- values -----------------------------------------------------------------------------------


def test_value_is_that_of_the_nearest_context() -> None:
    class Key:
        pass

    key, other = Key(), Key()
    root = context.with_value(None, key, "root")
    a = context.with_value(root, other, "a")
    b, cancel = context.with_cancel(a)
    c = context.with_value(b, key, "c")
    d = context.without_cancel(context.with_timeout(c, 1000).ctx)
    assert [x.value(key) for x in (root, a, b, c, d)] == ["root", "root", "root", "c", "c"]
    assert [x.value(other) for x in (root, a, b, c, d)] == [None, "a", "a", "a", "a"]
    assert d.value(Key(), "default") == "default"
    cancel()
    assert c.value(key) == "c"


def test_value_may_be_none_or_false() -> None:
    ctx = context.with_value(context.with_value(None, 1, "below"), 1, None)
    assert ctx.value(1, "default") is None
    assert ctx.value(1.0, "default") is None  # equal keys are the same


def test_value_key_that_cannot_be_one() -> None:
    with pytest.raises(TypeError, match="must not be None"):
        context.with_value(None, None, 1)
    with pytest.raises(TypeError, match="unhashable"):
        context.with_value(None, [], 1)


def test_value_of_a_parent_of_another_kind() -> None:
    ctx = context.with_value(context.with_cancel(Own()).ctx, "mine", 1)
    assert (ctx.value("who"), ctx.value("mine"), ctx.value("x", 2)) == ("own", 1, 2)


# --- without_cancel ---------------------------------------------------------------------------


def test_without_cancel_goes_on() -> None:
    parent, cancel = context.with_timeout(context.with_value(None, "k", "v"), 1000)
    ctx = context.without_cancel(parent)
    cancel()
    assert ctx.done() is None and ctx.err() is None and ctx.deadline() is None
    assert ctx.value("k") == "v"
    child, cancel_child = context.with_cancel(ctx)
    assert not ended(child)
    cancel_child()
    assert ended(child)


# --- after_func -------------------------------------------------------------------------------


def test_after_func_is_called_once_when_the_context_ends() -> None:
    ctx, cancel = context.with_cancel()
    calls: Chan[Any] = Chan(10)
    stop = context.after_func(ctx, calls.send, "called")
    gosched()
    assert len(calls) == 0
    cancel()
    cancel()
    assert calls.recv() == "called"
    assert stop() is False
    gosched()
    assert len(calls) == 0


def test_after_func_of_a_context_that_has_ended_is_called_at_once() -> None:
    ctx, cancel = context.with_cancel()
    cancel()
    calls: Chan[Any] = Chan(1)
    stop = context.after_func(ctx, calls.send, 1)
    assert stop() is False
    assert calls.recv() == 1


def test_after_func_stopped_is_not_called() -> None:
    ctx, cancel = context.with_cancel()
    calls: list[int] = []
    stop = context.after_func(ctx, calls.append, 1)
    assert stop() is True
    assert stop() is False
    cancel()
    for _ in range(5):
        gosched()
    assert not calls
    stop = context.after_func(context.background(), calls.append, 1)
    assert (stop(), stop()) == (True, False)


def test_after_func_runs_by_itself_and_does_not_hold_up_cancel() -> None:
    ctx, cancel = context.with_cancel()
    gate: Chan[None] = Chan()
    entered: Chan[int] = Chan()

    def slow(i: int) -> None:
        entered.send(i)
        gate.recv()

    for i in range(3):
        context.after_func(ctx, slow, i)
    cancel()
    assert sorted(entered.recv() for _ in range(3)) == [0, 1, 2]
    for _ in range(3):
        gate.send(None)


def test_after_func_runs_in_the_contextvars_of_its_registration() -> None:
    ctx, cancel = context.with_cancel()
    seen: Chan[Any] = Chan(1)
    mine = context.with_value(None, "k", "registered")
    with context.use(mine):
        context.after_func(ctx, lambda: seen.send(context.current().value("k")))
    with context.use(context.with_value(None, "k", "cancelled")):
        cancel()
    assert seen.recv() == "registered"


def test_after_func_cancels_a_group() -> None:
    ctx, cancel = context.with_cancel()
    with Group() as grp:
        stop = context.after_func(ctx, grp.cancel)
        gs = [parked(grp.go(sleep, 60)) for _ in range(3)]
        cancel()
        sleep(60)
        raise AssertionError("the block goes on")
    assert all(isinstance(g.exception(), Cancelled) for g in gs)
    assert stop() is False


def test_after_func_that_fails_is_reported() -> None:
    done = run(
        """
        from runtime import context, gosched, num_goroutine

        ctx, cancel = context.with_cancel()
        context.after_func(ctx, divmod, 1, 0)
        cancel()
        assert ctx.err() is not None
        while num_goroutine() > 1:
            gosched()
        """
    )
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stderr and "failed" in done.stderr


def test_after_func_of_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="write after_func"):
        context.after_func(context.background(), 5)  # type: ignore[arg-type]


def test_after_func_race_of_stop_and_cancel_calls_it_or_not() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        ctx, cancel = context.with_cancel()
        calls: list[int] = []
        stop = context.after_func(ctx, calls.append, 1)
        steps = [stop, stop, cancel, cancel]
        rng.shuffle(steps)
        gs = [go(step) for step in steps]
        stopped = [g.join() for g in gs].count(True)
        assert stopped in (0, 1)
        until(lambda calls=calls, stopped=stopped: len(calls) + stopped == 1)
        gosched()
        assert len(calls) + stopped == 1


# --- parents of another kind ------------------------------------------------------------------


@pytest.mark.parametrize("make", [Own, OwnWithHook])
def test_own_parent_ends_its_children(make: type[Own]) -> None:
    own = make()
    settle()
    before = num_goroutine()
    ctx, _ = context.with_cancel(own)
    value = context.with_value(ctx, 1, 2)
    child, _ = context.with_timeout(value, 1000)
    assert num_goroutine() == before + (make is Own)  # only that one needs one
    own.end()
    child.done().recv_ok()  # type: ignore[union-attr]
    for c in (ctx, value, child):
        assert ended(c)
        assert type(c.err()) is Boom
        assert type(context.cause(c)) is Boom
        assert c.err() is not c.err()
    until(lambda: num_goroutine() <= before)


@pytest.mark.parametrize("make", [Own, OwnWithHook])
def test_own_parent_is_left_when_the_child_ends(make: type[Own]) -> None:
    own = make()
    settle()
    before = num_goroutine()
    for _ in range(10):
        ctx, cancel = context.with_cancel(own)
        cancel()
        assert type(ctx.err()) is Canceled
        assert context.after_func(own, print, "never")()
    until(lambda: num_goroutine() <= before)
    assert not getattr(own, "hooks", {})
    own.end()
    assert type(ctx.err()) is Canceled


@pytest.mark.parametrize("make", [Own, OwnWithHook])
def test_own_parent_that_has_ended(make: type[Own]) -> None:
    own = make()
    own.end()
    settle()
    before = num_goroutine()
    ctx, _ = context.with_cancel(own)
    assert type(ctx.err()) is Boom
    assert num_goroutine() == before


def test_own_parent_that_wraps_another_needs_no_goroutine() -> None:
    inner, cancel = context.with_cancel_cause()
    settle()
    before = num_goroutine()
    ctx, _ = context.with_cancel(Wrapper(context.with_value(Wrapper(inner), 1, 2)))
    assert num_goroutine() == before
    cancel(Boom("why"))
    assert ended(ctx)
    assert str(context.cause(ctx)) == "why"


def test_own_parent_with_an_end_of_its_own_around_another() -> None:
    class Both(Own):
        def __init__(self, inner: Context) -> None:
            super().__init__()
            self.inner = inner

        def value(self, key: Any, default: Any = None, /) -> Any:
            return self.inner.value(key, default)

    inner, cancel = context.with_cancel_cause()
    own = Both(inner)
    ctx, _ = context.with_cancel(own)
    cancel(Boom("inner"))
    gosched()
    assert not ended(ctx)
    own.end()
    ctx.done().recv_ok()  # type: ignore[union-attr]
    assert type(ctx.err()) is Boom


def test_own_parent_after_func() -> None:
    for make in (Own, OwnWithHook):
        own = make()
        calls: Chan[int] = Chan(5)
        context.after_func(own, calls.send, 1)
        own.end()
        assert calls.recv() == 1


def test_own_parent_that_is_a_subclass_has_what_it_does_not_define() -> None:
    class Named(Context):
        def value(self, key: Any, default: Any = None, /) -> Any:
            return "named" if key == "name" else default

    parent = Named()
    ctx, cancel = context.with_cancel(parent)
    assert (ctx.value("name"), ctx.deadline(), parent.err()) == ("named", None, None)
    cancel()
    assert ended(ctx)


@pytest.mark.parametrize("parent", [1, "ctx", object(), Chan()])
def test_parent_that_is_no_context_is_a_type_error(parent: Any) -> None:
    for make in (
        context.with_cancel,
        context.with_cancel_cause,
        context.without_cancel,
        context.use,
        context.cause,
        lambda p: context.with_timeout(p, 1),
        lambda p: context.with_value(p, 1, 2),
        lambda p: context.after_func(p, print),
    ):
        with pytest.raises(TypeError, match="a context must have a method"):
            make(parent)


def test_parent_that_is_a_scope_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not the Scope it came in"):
        context.with_cancel(context.with_cancel())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ctx must be a context or None, not Scope"):
        Chan().recv(ctx=context.with_cancel())  # type: ignore[arg-type]


# --- the current context ----------------------------------------------------------------------


def test_current_is_the_innermost_and_inherited() -> None:
    assert context.current() is context.background()
    a, b = context.with_value(None, 1, "a"), context.with_value(None, 1, "b")
    with context.use(a) as used:
        assert used is a and context.current() is a
        child = go(context.current)
        with context.use(b):
            assert context.current() is b
            inner = go(lambda: go(context.current).join())
        assert context.current() is a
    assert context.current() is context.background()
    assert child.join() is a
    assert inner.join() is b


def test_current_of_goroutines_are_their_own() -> None:
    def body(i: int) -> bool:
        mine = context.with_value(None, "i", i)
        with context.use(mine):
            for _ in range(5):
                gosched()
                if context.current() is not mine:
                    return False
        return context.current() is context.background()

    assert all(g.join() for g in [go(body, i) for i in range(20)])


def test_current_is_not_obeyed_unless_passed_on() -> None:
    ctx, cancel = context.with_cancel()
    cancel()
    with context.use(ctx):
        sleep(0)
        with pytest.raises(Canceled):
            sleep(0, ctx=context.current())


def test_use_is_undone_by_an_exception_and_not_entered_twice() -> None:
    ctx = context.with_value(None, 1, 2)
    block = context.use(ctx)
    with pytest.raises(RuntimeError, match="entered already"), block, block:
        pass
    with pytest.raises(Boom), block:
        raise Boom
    assert context.current() is context.background()
    with context.use(None):
        assert context.current() is context.background()


# --- memory -----------------------------------------------------------------------------------


def test_children_that_have_ended_are_released_by_a_parent_that_lives() -> None:
    parent, cancel = context.with_cancel()
    before = nodes()
    for _ in range(1000):
        with context.with_cancel(parent) as ctx, context.with_timeout(ctx, 1000) as inner:
            context.with_value(inner, 1, 2)
            stop = context.after_func(inner, print, "never")
            stop()
        del ctx, inner, stop
    until(lambda: nodes() <= before)
    cancel()


def test_children_are_kept_until_they_end() -> None:
    parent, cancel = context.with_cancel()
    done = context.with_cancel(parent).ctx.done()
    gc.collect()
    g = parked(go(done.recv_ok))  # type: ignore[union-attr]
    cancel()
    assert g.join() == (None, False)


def test_tree_that_nobody_has_is_freed() -> None:
    before = nodes()
    root, _ = context.with_cancel()
    for _ in range(20):
        ctx, _ = context.with_cancel(root)
        context.after_func(ctx, print)
    del root, ctx, _
    until(lambda: nodes() <= before)


@pytest.mark.parametrize("how", ["cancel", "parent", "stop"])
def test_what_was_to_be_called_is_released(how: str) -> None:
    class Thing:
        def call(self) -> None:
            pass

    parent, cancel_parent = context.with_cancel()
    ctx, cancel = context.with_timeout(parent, 1000)
    thing = Thing()
    ref = weakref.ref(thing)
    stop = context.after_func(ctx, thing.call)
    del thing
    {"cancel": cancel, "parent": cancel_parent, "stop": stop}[how]()
    for _ in range(3):
        gosched()

    def gone() -> bool:
        gc.collect()
        return ref() is None

    until(gone)
    cancel()


def test_timer_of_a_context_that_has_ended_does_not_keep_it() -> None:
    ctx, cancel = context.with_timeout(None, 1000)
    ref = weakref.ref(ctx)
    cancel()
    del ctx, cancel

    def gone() -> bool:
        gc.collect()
        return ref() is None

    until(gone)


# --- threads, finalizers, races ---------------------------------------------------------------


def test_cancel_from_a_thread_ends_waits_of_goroutines_and_threads() -> None:
    ctx, cancel = context.with_cancel_cause()
    results: Chan[Any] = Chan(10)

    def wait() -> None:
        try:
            Chan().recv(ctx=ctx)
        except Canceled as e:
            results.send(e.__cause__)

    gs = [parked(go(wait)) for _ in range(3)]
    threads = [threading.Thread(target=wait) for _ in range(3)]
    cause = Boom("thread")
    threads.append(threading.Thread(target=cancel, args=(cause,)))
    for thread in threads:
        thread.start()
    assert [results.recv() for _ in range(6)] == [cause] * 6
    for g in gs:
        g.join()
    for thread in threads:
        thread.join()


def test_cancel_from_a_finalizer_while_the_tree_changes() -> None:
    root, cancel = context.with_cancel()
    hits: list[int] = []

    class Trash:
        def __init__(self) -> None:
            self.me = self  # only the collector frees it

        def __del__(self) -> None:
            hits.append(1)
            inner, cancel_inner = context.with_cancel(root)
            context.after_func(inner, hits.append, 1)
            cancel_inner()
            self.cancel()

    threshold = gc.get_threshold()
    gc.set_threshold(20)
    try:
        for _ in range(300):
            trash = Trash()
            child, trash.cancel = context.with_cancel(root)
            del trash
            grandchild, _ = context.with_cancel(child)
            del child, grandchild
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert hits
    cancel()
    assert ended(root)


def test_race_of_cancels_ends_all_with_one_cause() -> None:
    """Several threads and goroutines cancel different nodes while others add to the tree."""
    for seed in range(25):
        rng = random.Random(seed)
        root, cancel_root = context.with_cancel_cause()
        causes = [Boom(str(i)) for i in range(4)]
        level = [context.with_cancel_cause(root) for _ in range(5)]
        made: list[tuple[Context, Context]] = [(s.ctx, root) for s in level]

        def grow(rng: random.Random, made: list[tuple[Context, Context]] = made) -> None:
            for _ in range(15):
                parent = rng.choice(made)[0]
                if rng.random() < 0.7:
                    ctx = context.with_cancel(parent).ctx
                else:
                    ctx = context.with_timeout(parent, 1000).ctx
                made.append((ctx, parent))
                gosched()

        def end(
            cause: Boom, root: Context = root, cancel: Any = cancel_root, made: Any = made
        ) -> None:
            cancel(cause)
            assert ended(root)
            for ctx, _ in list(made):
                assert ended(ctx)

        actions: list[Callable[[], Any]] = []
        for _ in range(3):
            actions.append(partial(grow, random.Random(rng.random())))
        actions += [partial(end, c) for c in causes]
        actions += [partial(s.cancel, Boom("sub")) for s in level[:2]]
        rng.shuffle(actions)
        gs = [go(action) for action in actions[::2]]
        threads = [threading.Thread(target=action) for action in actions[1::2]]
        for thread in threads:
            thread.start()
        for g in gs:
            g.join()
        for thread in threads:
            thread.join()
        assert context.cause(root) in causes
        for ctx, parent in made:
            assert ended(ctx)
            cause = context.cause(ctx)
            assert cause is context.cause(parent) or str(cause) == "sub"


def test_race_of_a_deadline_and_cancel() -> None:
    for i in range(200):
        ctx, cancel = context.with_timeout(None, 0.0002)
        if i % 3 == 0:
            sleep(0.0001)
        elif i % 3 == 1:
            ctx.done().recv_ok()  # type: ignore[union-attr]
        cancel()
        assert ended(ctx)
        first = type(ctx.err())
        gosched()
        assert type(ctx.err()) is first
        assert type(context.cause(ctx)) is first


def test_interrupt_in_cancel_leaves_no_descendant_behind() -> None:
    """Ctrl-C may strike between any two instructions of cancel()."""
    done = run(
        """
        import sys
        from runtime import context

        def strike(at):
            root, cancel = context.with_cancel()
            leaves = []
            for i in range(3):
                ctx = context.with_cancel(root).ctx
                leaves.append(context.with_timeout(ctx, 1000).ctx)
            steps = 0

            def trace(frame, event, arg):
                nonlocal steps
                if "_context.py" not in frame.f_code.co_filename:
                    return None
                frame.f_trace_opcodes = True
                if event in ("line", "opcode"):  # 3.12 has none of the latter, at times
                    steps += 1
                    if steps == at:
                        raise KeyboardInterrupt
                return trace

            sys.settrace(trace)
            try:
                cancel()
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            return steps >= at, [leaf.done().closed for leaf in leaves]

        at = not_begun = halfway = 0
        while True:
            at += 1
            hit, closed = strike(at)
            if not hit:
                break
            not_begun += not any(closed)
            halfway += any(closed) and not all(closed)
        print(at > 30, not_begun < 15, halfway)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True", "0"]
