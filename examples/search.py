"""A search that fans out over shards and replicas, and ends as a whole: with a context.

    python examples/search.py

Each request is a tree of goroutines.  The first answer of a shard ends its other replicas; the
deadline of a request ends all of it, and so does the user who goes away.
"""

import runtime
from runtime import Chan, context

REQUEST = object()  # key of the name of a request
SHARDS = ("north", "south", "west")
FAST, SLOW = 0.001, 60.0  # seconds


class UserLeft(Exception):
    """Why a request was cancelled."""


def replica(ctx: context.Context, found: Chan[str], name: str, seconds: float) -> None:
    """Answer after a while, if somebody still wants to know."""
    try:
        runtime.sleep(seconds, ctx=ctx)
        found.send(f"{name} answers {ctx.value(REQUEST)}", ctx=ctx)
    except (context.Canceled, context.DeadlineExceeded):
        pass


def shard(ctx: context.Context, answers: Chan[str], name: str, delays: tuple[float, ...]) -> None:
    """Ask all replicas and pass on the first answer."""
    found: Chan[str] = Chan()
    with context.with_cancel(ctx) as mine:  # it ends with ctx, or at the end of the block
        for seconds in delays:
            runtime.go(replica, mine, found, name, seconds)
        try:
            answers.send(found.recv(ctx=mine), ctx=mine)
        except (context.Canceled, context.DeadlineExceeded):
            pass


def search(ctx: context.Context, request: str, delays: dict[str, tuple[float, ...]]) -> None:
    """Answer a request as far as ctx allows."""
    ctx = context.with_value(ctx, REQUEST, request)
    answers: Chan[str] = Chan()
    for name in SHARDS:
        runtime.go(shard, ctx, answers, name, delays[name])
    got = []
    try:
        while len(got) < len(SHARDS):
            got.append(answers.recv(ctx=ctx))
        outcome = "complete"
    except (context.Canceled, context.DeadlineExceeded):
        outcome = repr(context.cause(ctx))
    print(f"{request}: {outcome}", *sorted(got), sep="\n    ")


def main() -> None:
    quick = dict.fromkeys(SHARDS, (SLOW, FAST, SLOW))
    stuck = quick | {"west": (SLOW, SLOW)}

    with context.with_timeout(None, 30) as ctx:
        search(ctx, "first", quick)
    with context.with_timeout(None, 0.5) as ctx:
        search(ctx, "second", stuck)

    ctx, cancel = context.with_cancel_cause()
    user = runtime.go(lambda: (runtime.sleep(0.5), cancel(UserLeft())))
    search(ctx, "third", stuck)
    user.join()

    while runtime.num_goroutine() > 1:  # those that were told to end are about to
        runtime.gosched()
    print("nobody is left")


if __name__ == "__main__":
    main()
