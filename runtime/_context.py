"""Contexts: when a piece of work shall end, and why, and what it needs to know.

Those that can end are the nodes of a tree.  There is no lock, for the reasons given in
_blocking.py: a finalizer may cancel, and whoever cancels may lose its turn half-way.  Instead

- who ends a node appends an end to its `_ends`, of which only the first counts, then looks at
  its children, which end the same way;
- who adds a child to a node looks at the `_ends` of that node afterwards.

So one of them sees the other.  What follows from an end, in _spread(), may be done twice and
by several at once; whoever meets a node with an end does it, and does not rely on others.
Therefore all descendants have ended when cancel() returns, whoever was first, and a child
never ends before its parent.

A context whose parent is not one of these waits for it in a goroutine.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from runtime import _core
from runtime._core import Chan, ChanClosed, Receiver
from runtime.time import Timer, monotonic
from runtime.time import after_func as start_timer

_Cancel = TypeVar("_Cancel", bound=Callable[..., None])


class Canceled(Exception):
    """What a context has ended with that was cancelled.  Go: context.Canceled."""


class DeadlineExceeded(TimeoutError):
    """What a context has ended with whose time was up.  Go: context.DeadlineExceeded."""


@runtime_checkable
class Context(Protocol):
    """What carries the end of a piece of work, and values, to all functions that take part.

    They take it as an argument, usually the first, called ctx, and pass it on.  Every blocking
    call of the runtime takes it as ctx=.

    Anything that has these methods is a context; a subclass of this class need only override
    some of them, for it never ends and knows no values.  All of them may be called by several
    goroutines and threads at once.

    Go: context.Context.
    """

    __slots__ = ()

    def deadline(self) -> float | None:
        """When it will end, on the clock of `runtime.time.monotonic()`; None: not known."""
        return None

    def done(self) -> Receiver[Any] | Chan[Any] | None:
        """The channel that is closed when it ends, always the same; None: it never ends."""
        return None

    def err(self) -> Exception | None:
        """Why it has ended, as a new exception each time; None: it has not.

        That is a `Canceled` or `DeadlineExceeded`, with the cause, if there is one, as its
        __cause__.  New, because one exception must not be raised by two threads at once.
        """
        return None

    def value(self, key: Any, default: Any = None, /) -> Any:
        """What with_value() has said about key, here or in the next parent that did."""
        return default


class Scope(NamedTuple, Generic[_Cancel]):
    """A context and the function that ends it, and a block at the end of which it ends.

        ctx, cancel = context.with_cancel(parent)

        with context.with_timeout(parent, 5) as ctx:
            ...

    Do one of the two: until ctx ends its parent, or a timer, keeps it.
    """

    ctx: Context
    cancel: _Cancel

    def __enter__(self) -> Context:
        return self.ctx

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.cancel()


class _CancelCause(Protocol):
    def __call__(self, cause: BaseException | None = None, /) -> None: ...


# --- how contexts end ---------------------------------------------------------------------------


class _End:
    """Why a context has ended."""

    __slots__ = ("cause", "make")

    def __init__(
        self, make: Callable[[], Exception | None], cause: BaseException | None = None
    ) -> None:
        self.make = make  # a new exception
        self.cause = cause  # of the program's own

    def error(self) -> Exception:
        error = self.make() or _canceled()
        if self.cause is not None and error.__cause__ is None:
            error.__cause__ = self.cause
        return error


def _canceled() -> Exception:
    return Canceled("the context was cancelled")


def _deadline_exceeded() -> Exception:
    return DeadlineExceeded("the deadline of the context has passed")


_CANCELED = _End(_canceled)


# --- the kinds of contexts ----------------------------------------------------------------------


class _Root:
    """One that never ends, with no values."""

    __slots__ = ("__weakref__", "_name")

    def __init__(self, name: str) -> None:
        self._name = name

    def deadline(self) -> float | None:
        return None

    def done(self) -> Receiver[Any] | Chan[Any] | None:
        return None

    def err(self) -> Exception | None:
        return None

    def value(self, key: Any, default: Any = None, /) -> Any:
        return default

    def __repr__(self) -> str:
        return f"context.{self._name}"


_background = _Root("background")
_todo = _Root("todo")
# As a key: what is the nearest _Node?
_NODE = object()


class _Derived:
    """One that has a parent.  As it is it goes on when the parent ends."""

    __slots__ = ("__weakref__", "_parent")

    def __init__(self, parent: Context) -> None:
        self._parent = parent

    def deadline(self) -> float | None:
        ctx: Context = self
        while isinstance(ctx, _Derived):
            if isinstance(ctx, _Detached):
                return None
            if isinstance(ctx, _Node) and ctx._when is not None:
                return ctx._when
            ctx = ctx._parent
        return ctx.deadline()

    def done(self) -> Receiver[Any] | Chan[Any] | None:
        return None

    def err(self) -> Exception | None:
        return None

    def value(self, key: Any, default: Any = None, /) -> Any:
        ctx: Context = self
        while isinstance(ctx, _Derived):
            if isinstance(ctx, _Value):
                if ctx._key is key or (key is not _NODE and ctx._key == key):
                    return ctx._value
            elif key is _NODE:
                return ctx if isinstance(ctx, _Node) else default
            ctx = ctx._parent
        return ctx.value(key, default)

    def _label(self) -> str:
        return ""

    def __repr__(self) -> str:
        labels = []
        ctx: Context = self
        while isinstance(ctx, _Derived):
            labels.append(ctx._label())
            ctx = ctx._parent
        return ".".join([repr(ctx), *reversed(labels)])


class _Value(_Derived):
    __slots__ = ("_key", "_of", "_value")

    def __init__(self, parent: Context, key: Any, value: Any) -> None:
        super().__init__(parent)
        # The one whose end is its end.
        self._of: Context = parent._of if isinstance(parent, _Value) else parent
        self._key, self._value = key, value

    def done(self) -> Receiver[Any] | Chan[Any] | None:
        return self._of.done()

    def err(self) -> Exception | None:
        return self._of.err()

    def _label(self) -> str:
        return f"with_value({self._key!r})"


class _Detached(_Derived):
    __slots__ = ()

    def _label(self) -> str:
        return "without_cancel"


class _Node(_Derived):
    """One that can end by itself."""

    __slots__ = (
        "_above",
        "_children",
        "_done",
        "_ends",
        "_over",
        "_shown",
        "_timer",
        "_unhook",
        "_when",
    )

    def __init__(self, parent: Context, when: float | None = None) -> None:
        super().__init__(parent)
        self._ends: list[_End] = []
        self._done: Chan[None] = Chan()
        self._shown = self._done.receiver()  # nobody else is to close it
        self._children: dict[_Node, None] = {}
        self._over = False  # all that follows from its end is done
        self._when = when
        self._timer: Timer | None = None
        self._above: _Node | None = None  # whose child it is
        self._unhook: Callable[[], object] | None = None  # for a parent of another kind

    def done(self) -> Receiver[Any] | Chan[Any] | None:
        return self._shown

    def err(self) -> Exception | None:
        if not self._ends:
            return None
        if not self._over:
            self._show()
        return self._ends[0].error()

    def _attach(self) -> None:
        """End when the parent does."""
        parent = self._parent
        done = parent.done()
        if done is None:
            return
        if not isinstance(done, Receiver | Chan):
            kind = type(done).__name__
            raise TypeError(f"ctx.done() must be a Chan, a Receiver or None, not {kind}")
        node = parent.value(_NODE)
        if isinstance(node, _Node) and node._shown == done:
            self._above = node
            node._children[self] = None
            if node._ends:
                _spread(node)
        elif done.closed:
            self._parent_ended()
        elif (after := getattr(parent, "after_func", None)) is not None:
            self._unhook = after(self._parent_ended)
            if self._over:  # before it could be unhooked
                self._leave()
        else:
            _core.go.named("context")(self._watch, done)

    def _watch(self, done: Receiver[Any] | Chan[Any]) -> None:
        """In a goroutine: wait until the parent ends, or the context itself."""
        try:
            done.recv_ok(ctx=self)
        except Exception:
            if not self._ends:
                raise
        else:
            self._parent_ended()

    def _parent_ended(self) -> None:
        self._end(_End(self._parent.err, _own_cause(self._parent)))

    def _end(self, end: _End) -> None:
        """End, and all descendants with it, unless that is done already."""
        if self._over:
            return
        try:
            if not self._ends:
                self._ends.append(end)
            _spread(self)
        except BaseException:  # an interrupt, perhaps, and nobody else may come to do it
            if not self._ends:
                self._ends.append(end)
            _spread(self)
            raise

    def _cancel(self) -> None:
        """End the context, and those derived from it, with Canceled; the first end counts."""
        self._end(_CANCELED)

    def _cancel_cause(self, cause: BaseException | None = None, /) -> None:
        """The same, and say why."""
        if cause is not None and not isinstance(cause, BaseException):
            raise TypeError(f"cancel(cause): an exception or None, not {type(cause).__name__}")
        self._end(_CANCELED if cause is None else _End(_canceled, cause))

    def _show(self) -> None:
        """It has an end: let those know who wait."""
        if not self._done.closed:
            try:
                self._done.close()
            except ChanClosed:
                pass

    def _settle(self) -> None:
        """The same, for its descendants as well: nothing need refer to it any more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
        self._leave()
        self._over = True

    def _leave(self) -> None:
        if self._above is not None:
            self._above._children.pop(self, None)
        unhook, self._unhook = self._unhook, None
        if unhook is not None:
            unhook()

    def _label(self) -> str:
        return "with_cancel" if self._when is None else f"with_deadline({self._when:.3f})"


class _Func(_Node):
    """The function of after_func(): it is called in place of its descendants."""

    __slots__ = ("_call", "_started")

    def __init__(self, parent: Context, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        super().__init__(parent)
        self._call = [(contextvars.copy_context(), fn, args)]  # taken by who makes the call
        self._started = False

    def _settle(self) -> None:
        if not isinstance(self._ends[0], _Stop) and not self._started:
            _core.go(self._run)
            self._started = True
        super()._settle()

    def _run(self) -> None:
        try:
            context, fn, args = self._call.pop()
        except IndexError:  # two have started it
            return
        context.run(fn, *args)

    def _stop(self) -> bool:
        """Do not call the function.  True: that was prevented; False: it was too late."""
        end = _Stop(_canceled)
        if not self._ends:
            self._ends.append(end)
        if self._ends[0] is not end:
            return False
        self._call.clear()
        _spread(self)
        return True


class _Stop(_End):
    """The end of a function that is not to be called."""

    __slots__ = ()


def _spread(root: _Node) -> None:
    """root has an end: all that follows from it, for parents before their children."""
    nodes = [root]
    for node in nodes:
        node._show()
        for child in list(node._children):
            if not child._ends:
                child._ends.append(node._ends[0])
            nodes.append(child)
    failures: list[Exception] = []
    for node in reversed(nodes):
        try:
            node._settle()
        except Exception as e:  # a MemoryError, or the hook of a parent of another kind
            failures.append(e)
    if failures:
        raise failures[0]


def _own_cause(ctx: Context) -> BaseException | None:
    """The cause of its end that a program has given, if one has."""
    node = ctx.value(_NODE)
    return node._ends[0].cause if isinstance(node, _Node) and node._ends else None


# --- for programs -------------------------------------------------------------------------------


def background() -> Context:
    """The context at the root: it never ends, has no deadline and no values.

    Go: context.Background.
    """
    return _background


def todo() -> Context:
    """The same, where it is not clear yet which context to pass.  Go: context.TODO."""
    return _todo


def with_cancel(parent: Context | None = None) -> Scope[Callable[[], None]]:
    """A context that ends when cancel() is called, or with its parent.

        ctx, cancel = context.with_cancel()
        go(work, ctx)
        ...
        cancel()

    cancel() may be called by any goroutine or thread, and more than once.  When it returns all
    contexts derived from ctx have ended, and what waits with one of them is on its way.  A
    parent of None is background().

    Returns a `Scope`: (ctx, cancel), or for a with statement.

    Go: context.WithCancel.
    """
    ctx = _Node(_checked(parent))
    ctx._attach()
    return Scope(ctx, ctx._cancel)


def with_cancel_cause(parent: Context | None = None) -> Scope[_CancelCause]:
    """As with_cancel(), but cancel(exc) also says why: `cause(ctx)` is that exception.

    cancel(None) or cancel() gives no cause of its own.

    Go: context.WithCancelCause.
    """
    ctx = _Node(_checked(parent))
    ctx._attach()
    return Scope(ctx, ctx._cancel_cause)


def with_deadline(
    parent: Context | None, when: float | None, cause: BaseException | None = None
) -> Scope[Callable[[], None]]:
    """A context that ends with DeadlineExceeded when `runtime.time.monotonic()` is at `when`.

    Or before, when cancel() is called or the parent ends; a deadline later than the parent's
    changes nothing.  With None there is none.  A cause is what cause(ctx) is if the deadline
    ends it.  Call cancel() as soon as the context is not needed, or use a with statement: until
    then a timer keeps it.

    Go: context.WithDeadline, context.WithDeadlineCause.
    """
    if when is not None:
        when = float(when)
        if math.isnan(when):
            raise ValueError("a time in seconds must be a number, not NaN")
    if cause is not None and not isinstance(cause, BaseException):
        raise TypeError(f"the cause must be an exception or None, not {type(cause).__name__}")
    parent = _checked(parent)
    if when is not None:
        latest = parent.deadline()
        if latest is not None and latest < when:
            when = None
    ctx = _Node(parent, when)
    ctx._attach()
    if when is not None and when != math.inf and not ctx._ends:
        end = _End(_deadline_exceeded, cause)
        seconds = when - monotonic()
        if seconds <= 0:
            ctx._end(end)
        else:
            timer = ctx._timer = start_timer(seconds, ctx._end, end)
            if ctx._ends:  # and perhaps nobody has seen the timer
                timer.stop()
                ctx._timer = None
    return Scope(ctx, ctx._cancel)


def with_timeout(
    parent: Context | None, seconds: float | None, cause: BaseException | None = None
) -> Scope[Callable[[], None]]:
    """with_deadline() so many seconds from now.

        with context.with_timeout(None, 5) as ctx:
            answer = answers.recv(ctx=ctx)

    Go: context.WithTimeout, context.WithTimeoutCause.
    """
    return with_deadline(parent, None if seconds is None else monotonic() + seconds, cause)


def with_value(parent: Context | None, key: Any, value: Any) -> Context:
    """A context that ends with its parent, and whose value(key) is value.

    Values are for what belongs to a request and passes through many hands, not for optional
    arguments.  Keys are compared with ==; one that nobody else can have is an object of a class
    of your own.  Raises TypeError if key is None or cannot be hashed.

    Go: context.WithValue.
    """
    if key is None:
        raise TypeError("with_value(parent, key, value): the key must not be None")
    hash(key)
    return _Value(_checked(parent), key, value)


def without_cancel(parent: Context | None) -> Context:
    """A context with the values of parent that does not end when parent does.

    Go: context.WithoutCancel.
    """
    return _Detached(_checked(parent))


def after_func(ctx: Context, fn: Callable[..., object], /, *args: Any) -> Callable[[], bool]:
    """Call fn(*args) in a goroutine of its own once ctx has ended; at once if it has already.

        stop = context.after_func(ctx, conn.close)

    It runs in a copy of the contextvars context of who calls after_func().  stop() takes it
    back: True if fn will not be called because of this call; False if its goroutine has been
    started, or stop() was called before.

    Go: context.AfterFunc.
    """
    if not callable(fn):
        raise TypeError(
            f"after_func() needs a callable, got {type(fn).__name__}; "
            "write after_func(ctx, f, x), not after_func(ctx, f(x))"
        )
    node = _Func(_checked(ctx), fn, args)
    node._attach()
    return node._stop


def cause(ctx: Context) -> BaseException | None:
    """Why ctx has ended: the exception given to cancel() or as a cause; else ctx.err().

    None: it has not ended.  It is the very exception that was given: look at it, but do not
    raise it where several goroutines may do so.

    Go: context.Cause.
    """
    error = _checked(ctx).err()
    return None if error is None else _own_cause(ctx) or error


# --- the current context ------------------------------------------------------------------------

_current: contextvars.ContextVar[Context] = contextvars.ContextVar("context", default=_background)


def current() -> Context:
    """The context of the innermost use() block around the caller; without one background().

    A goroutine inherits it from the one that has started it.
    """
    return _current.get()


class use(AbstractContextManager[Context]):
    """Make ctx the current context inside a with block, and in goroutines started there.

        with context.use(ctx):
            go(work)                    # there context.current() is ctx

    That is a way to pass it to where it is needed, no more: a call waits with it only if told
    so, ch.recv(ctx=context.current()).
    """

    __slots__ = ("_ctx", "_token")

    def __init__(self, ctx: Context | None) -> None:
        self._ctx = _checked(ctx)
        self._token: contextvars.Token[Context] | None = None

    def __enter__(self) -> Context:
        if self._token is not None:
            raise RuntimeError("this use() block was entered already")
        self._token = _current.set(self._ctx)
        return self._ctx

    def __exit__(self, *exc: object) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None


def _checked(ctx: Context | None) -> Context:
    if ctx is None:
        return _background
    if isinstance(ctx, _Derived | _Root):
        return ctx
    if isinstance(ctx, Scope):
        raise TypeError("a context is needed, not the Scope it came in: write ctx, cancel = ...")
    for method in ("deadline", "done", "err", "value"):
        if not callable(getattr(ctx, method, None)):
            kind = type(ctx).__name__
            raise TypeError(f"a context must have a method {method}(); {kind} has none")
    return ctx
