"""errgroup.Group: the goroutines of one task, and the first error among them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime import _context
from runtime._context import Context
from runtime._core import Chan, Goroutine
from runtime._exceptions import duplicate
from runtime._group import Children, _until_done

if TYPE_CHECKING:
    from runtime._core import _Context


class Group(Children):
    """Goroutines that work on one task: wait() waits for all of them and raises the first error.

    The others go on after an error.  Goroutines that were cancelled, or ended with goexit(), are
    no errors.

    Go: golang.org/x/sync/errgroup.Group.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ending: dict[Goroutine[Any], None] = {}  # they have ended, or are about to
        self._cancel: Callable[[BaseException | None], None] | None = None  # with_context()'s

    def set_limit(self, n: int | None) -> None:
        """Let at most n of its goroutines exist at a time; None or less than 0: no limit.

        With 0 none can be started.  Raises RuntimeError while goroutines of the group run.

        Go: errgroup.Group.SetLimit.
        """
        limit = -1 if n is None else operator.index(n)
        if any(not g.done() for g in list(self._children)):
            raise RuntimeError("Group.set_limit() while goroutines of the group run")
        self._slots = Chan(limit) if limit >= 0 else None

    def wait(self, timeout: float | None = None, *, ctx: _Context | None = None) -> None:
        """Wait until all goroutines of the group have ended; raise the first error, if any.

        That is an exception like the one of the goroutine, whose join() raises that one.  Raises
        TimeoutError after timeout seconds, or ctx.err() when the context ctx ends; the goroutines
        go on then.

        Go: errgroup.Group.Wait.
        """
        self._running.wait(timeout, ctx=ctx)
        for g in list(self._ending):
            _until_done(g)
            self._forget(g)
        errors = list(self._errors.values())
        if self._cancel is not None:
            self._cancel(errors[0] if errors else None)
        for e in errors:
            raise duplicate(e)

    def _child_ended(self, g: Goroutine[Any] | None = None) -> None:
        try:
            if g is not None:
                self._ending[g] = None
        finally:
            super()._child_ended()

    def _forget(self, g: Goroutine[Any]) -> None:
        super()._forget(g)
        self._ending.pop(g, None)

    def _failed(self, e: BaseException) -> None:
        if not self._errors:
            self._errors[id(e)] = e
        if self._cancel is not None:
            first, *_ = list(self._errors.values())
            self._cancel(first)


def with_context(ctx: Context | None = None) -> tuple[Group, Context]:
    """A new group, and a context for its goroutines that ends with the first error.

        group, ctx = errgroup.with_context(parent)
        for url in urls:
            group.go(fetch, ctx, url)
        group.wait()        # raises the first error, after the others have given up

    The context is derived from ctx, and ends when a goroutine of the group fails, with its
    exception as the cause, or when wait() has seen them all end.

    Go: errgroup.WithContext.
    """
    group = Group()
    derived, group._cancel = _context.with_cancel_cause(ctx)
    return group, derived
