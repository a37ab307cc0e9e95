"""Groups: goroutines that end together.

Children is what both kinds of groups are made of, this one and that of errgroup.

A group cancels with Goroutine.cancel().  The one thing that needs care is the goroutine that
runs the body of the with statement, for it lives on: it is cancelled with a Cancelled of the
group's own, the token, which must be used up before the block is left, and which is the only
one that __exit__ may swallow.

There is no lock, for the reasons given in _blocking.py.  Who cancels sets _cancelled, then
looks at the children; who starts a child adds it to the children, then looks at _cancelled.
The same goes for the end and _ended.  A goroutine can have one exception under way; where a
token is in the way of another one, that is offered again later.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from runtime import _core
from runtime._core import Cancelled, Chan, DeadlockError, GoExit, Goroutine, WaitGroup

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Exceptions that end the block without being errors, and those that must end the program.
_LEAVING = (Cancelled, GoExit, GeneratorExit)
_QUITTING = (KeyboardInterrupt, SystemExit)

_MESSAGE = "errors in a Group"
_TOO_LATE = "the Group has ended: no goroutine can be added any more"
_RETRY = 0.001  # seconds until something is tried again
_YIELDS = 10  # after so many times the wait is longer
_FEW = 64  # children that are kept without a look whether they have ended

# Groups that have cancelled the goroutine running their body, and have not ended.
_tokens: dict[Group, Goroutine[Any]] = {}


class Children:
    """The goroutines of a group, and how many may exist at a time."""

    def __init__(self) -> None:
        self._slots: Chan[None] | None = None  # holds an item for each child
        self._running = WaitGroup()  # counts the children
        # The children, with their turns (see _Child), and those that the group has cancelled.
        self._children: dict[Goroutine[Any], list[None]] = {}
        self._dying: dict[Goroutine[Any], list[None]] = {}
        self._look_at = _FEW  # when there are so many, forget those that have ended
        self._errors: dict[int, BaseException] = {}  # by id()
        self._cancelled = False
        self._ended = False

    def go(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Goroutine[_T]:
        """Start fn(*args, **kwargs) as a goroutine of the group and return its Goroutine.

        Waits first while the group is at its limit.  Any goroutine or thread may call it, in a
        runtime.Group while the block runs or is being left.  In a group that was cancelled fn
        does not run any more.

        Raises RuntimeError if the group has ended, or was not entered yet.

        Go: errgroup.Group.Go.
        """
        self._check(fn)
        if self._slots is not None:
            self._slots.send(None)
        return self._start(fn, args, kwargs)

    def try_go(
        self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Goroutine[_T] | None:
        """As go(), but if the group is at its limit start nothing and return None.

        Go: errgroup.Group.TryGo.
        """
        self._check(fn)
        if self._slots is not None and not self._slots.try_send(None):
            return None
        return self._start(fn, args, kwargs)

    def _failed(self, e: BaseException) -> None:
        """A child has failed.  May be called more than once."""
        raise NotImplementedError

    def _check(self, fn: Callable[..., Any]) -> None:
        if self._ended:
            raise RuntimeError(_TOO_LATE)
        if not callable(fn):
            raise TypeError(
                f"Group.go() needs a callable, got {type(fn).__name__}; "
                "write grp.go(f, x), not grp.go(f(x))"
            )

    def _start(
        self, fn: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Goroutine[_T]:
        """Start a child; a slot is taken already."""
        child = _Child(self, fn, args, kwargs)
        try:
            g = child.g = _core.go(child)
        except BaseException:
            if _take(child.turn):  # a traceback may keep it alive
                self._child_ended()
            raise
        self._children[g] = child.turn
        if not child.turn:
            child.g = None  # it has begun on another thread
        if self._cancelled or self._ended:
            self._kill(g)
        if self._ended:
            raise RuntimeError(_TOO_LATE)
        if len(self._children) + len(self._dying) >= self._look_at:
            for other in [*self._children, *self._dying]:
                if other.done():
                    self._forget(other)
            self._look_at = max(_FEW, 2 * (len(self._children) + len(self._dying)))
        return g

    def _kill(self, g: Goroutine[Any]) -> None:
        """Cancel a child, once."""
        turn = self._children.get(g)
        if turn is None:
            return
        self._dying[g] = turn
        if self._children.pop(g, None) is not None:
            _deliver(g, None)
            if _take(turn):
                self._child_ended()

    def _child_ended(self, g: Goroutine[Any] | None = None) -> None:
        """Called once for each child: when it returns, by g; or when it is never to begin."""
        try:
            if self._slots is not None:
                self._slots.try_recv()
        finally:
            self._running.done()

    def _forget(self, g: Goroutine[Any]) -> None:
        """The goroutine of a child has ended."""
        e = g.exception()
        if e is not None and not isinstance(e, Cancelled):
            self._failed(e)
        self._children.pop(g, None)
        self._dying.pop(g, None)

    def _look_at_end(self, g: Goroutine[Any]) -> None:
        """Wait until g has ended; only its exception says why it has not begun."""
        try:
            _until_done(g)
            if not self._ended:
                self._forget(g)
        finally:
            self._child_ended()


class Group(Children):
    """Goroutines that belong together: leaving the with block waits for all of them.

        with runtime.Group() as grp:
            for url in urls:
                grp.go(fetch, url)
        # here all have ended

    The first error, in one of them or in the block itself, cancels the others, and the block if
    it still runs.  When all have ended, the errors are raised together in an ExceptionGroup, or a
    BaseExceptionGroup if one is no Exception; a KeyboardInterrupt or SystemExit is raised by
    itself instead, with the other errors as its cause.  Goroutines that were cancelled are no
    errors.  If the goroutine that runs the block is cancelled from outside, so are the others;
    when they have ended, Cancelled goes on, unless there are errors to raise first.

    With a limit no more than that many of its goroutines exist at a time: go() waits until there
    is room.

    Raises ValueError if limit is less than 1.

    Go: golang.org/x/sync/errgroup; the rules are those of asyncio.TaskGroup.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        if limit is not None:
            limit = operator.index(limit)
            if limit < 1:
                raise ValueError(f"Group(limit): it must be 1 or more, or None, not {limit}")
            self._slots = Chan(limit)
        self._stuck = -1  # children there were when they were cancelled because of a deadlock
        self._entered = False
        self._owner: Goroutine[Any] | None = None  # runs the block
        # The same while the block runs; taken out by who ends it or cancels it.
        self._body: list[Goroutine[Any]] = []
        self._token = Cancelled("the group was cancelled")
        self._posted: Chan[None] = Chan()  # closed when the token is under way
        self._token_out = False  # it is, or will be, and has not been raised when the block ended

    def cancel(self) -> None:
        """Cancel all goroutines of the group, and the block if it still runs.

        That is no error: once all have ended the program goes on after the block.  Any goroutine
        or thread may call it.  It has no effect on a group that has ended.
        """
        self._cancelled = True
        self._interrupt_body()
        for g in list(self._children):
            self._kill(g)

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a Group can be entered only once")
        self._entered = True
        self._owner = _core.current()
        self._body.append(self._owner)
        if self._cancelled:
            self._interrupt_body()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool:
        try:
            self._body.pop()
        except IndexError:
            self._token_out = exc is not self._token
        stops: list[BaseException] = []  # what ended the block without being its error
        if isinstance(exc, _LEAVING) and exc is not self._token:
            stops.append(exc)
        elif exc is not None and exc is not self._token:
            self._errors.setdefault(id(exc), exc)
        if stops or self._errors:
            self.cancel()
        while True:
            try:
                if self._all_ended():
                    break
            except BaseException as e:
                if e is self._token:
                    self._token_out = False
                elif self._stopped(e, stops):
                    break
        for g in [*self._dying, *self._children]:
            if g.done():  # after a deadlock not all have
                self._forget(g)
        _tokens.pop(self, None)
        result = self._outcome(list(self._errors.values()), stops)
        self._errors.clear()
        try:
            if result is None:
                return exc is self._token
            if result is exc:
                return False
            raise result
        finally:
            self._token.__traceback__ = None
            del exc, result, stops  # this frame is in their tracebacks

    def _check(self, fn: Callable[..., Any]) -> None:
        if not self._entered:
            raise RuntimeError("the Group was not entered: use it as with runtime.Group() as grp")
        super()._check(fn)

    def _failed(self, e: BaseException) -> None:
        if id(e) not in self._errors:
            self._errors[id(e)] = e
            self.cancel()

    # --- the block ------------------------------------------------------------------------------

    def _interrupt_body(self) -> None:
        """Cancel the goroutine that runs the block, once."""
        try:
            owner = self._body.pop()
        except IndexError:
            return
        _tokens[self] = owner
        posted = True
        try:
            posted = owner.cancel(self._token)
            if not posted:
                _core.go(self._insist, owner)
        except RuntimeError:
            pass  # a plain thread, which cannot be cancelled
        finally:
            if posted:
                self._posted.close()

    def _insist(self, owner: Goroutine[Any]) -> None:
        try:
            _insist(owner, self._token)
        finally:
            self._posted.close()

    def _all_ended(self) -> bool:
        """Wait for all children, and for the token if it is under way; False: look again."""
        self._running.wait()
        for g in [*self._dying, *self._children]:
            _until_done(g)
            self._forget(g)
        if self._token_out:
            self._posted.recv_ok()
            _core.gosched()  # raises it, unless the block has caught it
            self._token_out = False
        if self._ended:
            return not self._children and not self._dying
        self._ended = True
        return False

    def _stopped(self, e: BaseException, stops: list[BaseException]) -> bool:
        """The wait for the children was interrupted; True: it is of no use to go on."""
        deadlock = isinstance(e, DeadlockError)
        if not deadlock or not any(isinstance(stop, DeadlockError) for stop in stops):
            stops.append(e)
        if not self._cancelled:
            self.cancel()
        elif deadlock and self._stuck == len(self._dying):
            self._ended = True  # they wait for ever, cancelled or not
            return True
        elif not isinstance(e, _LEAVING):
            self._stuck = len(self._dying)
            for g in list(self._dying):
                g.cancel()
        return False

    def _outcome(
        self, errors: list[BaseException], stops: list[BaseException]
    ) -> BaseException | None:
        """What to raise at the end of the block."""
        leaving = [e for e in stops if isinstance(e, _LEAVING)]
        rest = [e for e in stops if not isinstance(e, _LEAVING) and id(e) not in map(id, errors)]
        every = errors + rest
        quitting = [e for e in every if isinstance(e, _QUITTING)]
        result: BaseException | None = None
        if quitting:
            result = quitting[0]
            others = [e for e in every if e is not result]
            if others and result.__cause__ is None:
                result.__cause__ = BaseExceptionGroup(_MESSAGE, others)
        elif errors or len(rest) > 1:
            result = BaseExceptionGroup(_MESSAGE, every)
            result.__suppress_context__ = True  # it is one of them
        elif rest:
            result = rest[0]
        elif leaving:
            result = leaving.pop(0)
        for e in leaving:
            if self._owner is not None and not isinstance(e, GeneratorExit):
                _deliver(self._owner, e)  # its effect is still due
        return result


def _deliver(g: Goroutine[Any], exc: BaseException | None) -> None:
    """Cancel g, also if a token that somebody will swallow is in the way."""
    if not g.cancel(exc) and g in list(_tokens.values()):
        _core.go(_insist, g, exc)


def _insist(g: Goroutine[Any], exc: BaseException | None) -> None:
    while not g.cancel(exc) and not g.done():
        _core.sleep(_RETRY)


def _until_done(g: Goroutine[Any]) -> None:
    """Wait until g, which is about to end, has ended; unlike join() this raises nothing of g's.

    One exception raised by several threads at once is more than a build without the GIL takes.
    """
    for _ in range(_YIELDS):
        if g.done():
            return
        _core.gosched()
    while not g.done():
        _core.sleep(_RETRY)


def _take(turn: list[None]) -> bool:
    try:
        turn.pop()
    except IndexError:
        return False
    return True


class _Child:
    """What the goroutine of a child runs.

    Who takes its turn, an item in a list, says when it has ended: the child itself when it
    begins; or the group when it cancels a child that has not begun; or else, when the goroutine
    drops this object without having called it, the finalizer.
    """

    __slots__ = ("args", "fn", "g", "group", "kwargs", "turn")

    def __init__(
        self,
        group: Children,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.group, self.fn, self.args, self.kwargs = group, fn, args, kwargs
        self.g: Goroutine[Any] | None = None
        self.turn: list[None] = []
        group._running.add()
        self.turn.append(None)

    def __call__(self) -> Any:
        if not _take(self.turn):
            raise Cancelled
        self.g = None  # its exception will refer to this frame, and so to this object
        try:
            if self.group._cancelled:  # while this was started
                raise Cancelled
            return self.fn(*self.args, **self.kwargs)
        except (Cancelled, GoExit):
            raise
        except BaseException as e:
            self.group._failed(e)
            raise
        finally:
            self.group._child_ended(_core.current())

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self.turn and not is_finalizing() and _take(self.turn):
            if self.g is not None and not self.group._ended:
                try:
                    _core.go(self.group._look_at_end, self.g)
                    return
                except MemoryError:
                    pass
            self.group._child_ended()
