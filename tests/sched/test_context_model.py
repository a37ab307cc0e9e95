"""Model-based test of contexts: random trees of them beside plain Python objects.

After each step every context must have ended or not, with the cause, deadline and values that
the model says, and functions must have been called once or not at all.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from runtime import Chan, context, sleep
from runtime.context import Canceled, Context, DeadlineExceeded
from runtime.time import monotonic
from waits import until


class Why(Exception):
    pass


@dataclass(eq=False)
class Node:
    """What a context must be like, without any concurrency."""

    ctx: Any
    parent: "Node | None" = None
    cancel: Callable[..., Any] | None = None
    detached: bool = False  # does not end with its parent
    when: float | None = None
    own_value: tuple[Any, Any] | None = None
    end: tuple[type[Exception], Exception | None] | None = None  # and its cause
    children: "list[Node]" = field(default_factory=list)
    funcs: "list[Func]" = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.parent is not None:
            self.parent.children.append(self)
            if self.parent.end is not None and not self.detached:
                self.finish(self.parent.end)

    def finish(self, end: tuple[type[Exception], Exception | None]) -> None:
        if self.end is None:
            self.end = end
            for func in self.funcs:
                func.due = func.due or not func.stopped
            for child in self.children:
                if not child.detached:
                    child.finish(end)

    def deadline(self) -> float | None:
        if self.detached or self.parent is None:
            return self.when
        above = self.parent.deadline()
        if self.when is None or above is None:
            return above if self.when is None else self.when
        return min(above, self.when)

    def value(self, key: Any) -> Any:
        if self.own_value is not None and self.own_value[0] == key:
            return self.own_value[1]
        return self.parent.value(key) if self.parent is not None else None


@dataclass(eq=False)
class Func:
    stop: Callable[[], bool]
    calls: list[int]
    due: bool = False
    stopped: bool = False


class Own:
    """A context of a program's own, whose children wait for it in goroutines."""

    def __init__(self, parent: Context) -> None:
        self.parent = parent
        self.channel: Chan[None] = Chan()
        self.error: type[Exception] | None = None

    def end(self) -> None:
        self.error = Why
        self.channel.close()

    def deadline(self) -> float | None:
        return None

    def done(self) -> Chan[None] | None:
        return self.channel

    def err(self) -> Exception | None:
        return self.error() if self.error is not None else None

    def value(self, key: Any, default: Any = None, /) -> Any:
        return default


FAR = 1000.0


class Trees(RuleBasedStateMachine):
    nodes: Bundle[Node] = Bundle("nodes")
    funcs: Bundle[Func] = Bundle("funcs")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Node] = []
        self.all_funcs: list[Func] = []
        self.start = monotonic()

    def add(self, node: Node) -> Node:
        self.all.append(node)
        return node

    @initialize(target=nodes, todo=st.booleans())
    def root(self, todo: bool) -> Node:
        return self.add(Node(context.todo() if todo else context.background()))

    @rule(target=nodes, parent=nodes)
    def with_cancel(self, parent: Node) -> Node:
        ctx, cancel = context.with_cancel(parent.ctx)
        return self.add(Node(ctx, parent, cancel))

    @rule(target=nodes, parent=nodes)
    def with_cancel_cause(self, parent: Node) -> Node:
        ctx, cancel = context.with_cancel_cause(parent.ctx)
        return self.add(Node(ctx, parent, lambda: cancel(Why())))

    @rule(target=nodes, parent=nodes, seconds=st.integers(1, 20))
    def with_deadline(self, parent: Node, seconds: int) -> Node:
        when = self.start + FAR + seconds
        ctx, cancel = context.with_deadline(parent.ctx, when)
        return self.add(Node(ctx, parent, cancel, when=when))

    @rule(target=nodes, parent=nodes, late=st.booleans(), own_cause=st.booleans())
    def with_deadline_that_comes(self, parent: Node, late: bool, own_cause: bool) -> Node:
        cause = Why() if own_cause else None
        when = monotonic() + (-1 if late else 0.0005)
        ctx, cancel = context.with_deadline(parent.ctx, when, cause)
        above = parent.deadline()
        node = Node(ctx, parent, cancel, when=when)
        assert above is None or above > when or parent.end is not None
        if node.end is None:
            ctx.done().recv_ok()  # type: ignore[union-attr]
            node.finish((DeadlineExceeded, cause))
        return self.add(node)

    @rule(target=nodes, parent=nodes, key=st.integers(0, 3), value=st.integers())
    def with_value(self, parent: Node, key: int, value: int) -> Node:
        ctx = context.with_value(parent.ctx, key, value)
        return self.add(Node(ctx, parent, own_value=(key, value)))

    @rule(target=nodes, parent=nodes)
    def without_cancel(self, parent: Node) -> Node:
        return self.add(Node(context.without_cancel(parent.ctx), parent, detached=True))

    @rule(target=nodes)
    def own(self) -> Node:
        own = Own(context.background())
        node = Node(own)
        node.cancel = own.end
        return self.add(node)

    @rule(node=nodes)
    def cancel(self, node: Node) -> None:
        if node.cancel is None:
            return
        if isinstance(node.ctx, Own):
            if node.end is None:
                node.ctx.end()
                node.finish((Why, None))
                for other in self.all:  # it goes through goroutines
                    if other.end is not None:
                        until(other.ctx.err)
            return
        node.cancel()
        if node.end is None:
            err = node.ctx.err()
            assert type(err) is Canceled
            node.finish((Canceled, err.__cause__))

    @rule(target=funcs, node=nodes)
    def after_func(self, node: Node) -> Func:
        calls: list[int] = []
        func = Func(context.after_func(node.ctx, calls.append, 1), calls)
        func.due = node.end is not None
        node.funcs.append(func)
        self.all_funcs.append(func)
        return func

    @rule(func=consumes(funcs))
    def stop(self, func: Func) -> None:
        if func.due:
            until(lambda: func.calls)
        assert func.stop() is not func.due
        func.stopped = True
        assert func.stop() is False

    @invariant()
    def contexts_are_as_the_model_says(self) -> None:
        for node in self.all:
            ctx = node.ctx
            if node.end is not None:
                until(ctx.err)
            err, cause, done = ctx.err(), context.cause(ctx), ctx.done()
            assert (done is not None and done.closed) == (err is not None)
            if node.end is None:
                assert err is None and cause is None
            else:
                kind, why = node.end
                assert type(err) is kind and err is not ctx.err()
                assert cause is why if why is not None else type(cause) is kind
            if not isinstance(ctx, Own):
                assert ctx.deadline() == node.deadline()
                for key in range(4):
                    assert ctx.value(key) == node.value(key)
        for func in self.all_funcs:
            until(lambda func=func: len(func.calls) == func.due)

    def teardown(self) -> None:
        for node in self.all:
            self.cancel(node)
        self.contexts_are_as_the_model_says()
        sleep(0)
        assert all(len(func.calls) == func.due for func in self.all_funcs)


def test_trees_match_the_model() -> None:
    run_state_machine_as_test(Trees, settings=settings(max_examples=60, stateful_step_count=40))
