"""Contexts in the manner of Go's package: ends and values that pass through many functions.

    from runtime import context, go

    with context.with_timeout(None, 5) as ctx:
        go(fetch, ctx, url, answers)
        answer = answers.recv(ctx=ctx)      # DeadlineExceeded after 5 seconds
"""

from runtime._context import (
    Canceled,
    Context,
    DeadlineExceeded,
    Scope,
    after_func,
    background,
    cause,
    current,
    todo,
    use,
    with_cancel,
    with_cancel_cause,
    with_deadline,
    with_timeout,
    with_value,
    without_cancel,
)

__all__ = [
    "Canceled",
    "Context",
    "DeadlineExceeded",
    "Scope",
    "after_func",
    "background",
    "cause",
    "current",
    "todo",
    "use",
    "with_cancel",
    "with_cancel_cause",
    "with_deadline",
    "with_timeout",
    "with_value",
    "without_cancel",
]
