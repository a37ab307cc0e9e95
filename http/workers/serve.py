"""serve(handler, addr, workers=N): the handler in several processes."""

from __future__ import annotations

from typing import Any

from runtime._http.server import Handler, Server
from runtime._http.workers.plan import OPTIONS, Plan
from runtime._http.workers.supervisor import supervise


def serve(handler: Handler | None, addr: str, workers: int, options: dict[str, Any]) -> None:
    """Serve by forked processes, which inherit the handler; returns when all are stopped."""
    ours = {name: value for name, value in options.items() if name in OPTIONS}
    theirs = {name: value for name, value in options.items() if name not in OPTIONS}
    if theirs.get("hot_restart"):
        raise ValueError("hot_restart and workers exclude each other: SIGHUP replaces workers")
    server = Server(handler, addr, **theirs)  # what is wrong with these is said here and now
    plan = Plan(
        load=lambda: Server(handler, addr, **theirs),
        addrs=[addr],
        workers=workers,
        backlog=server._backlog,
        **ours,
    )
    del server
    try:
        status = supervise(plan)
    except OSError as exc:
        named = f"{exc.filename}: " if exc.filename else ""
        raise SystemExit(f"gosched: {named}{exc.strerror or exc}") from None
    if status:
        raise SystemExit(status)
