"""What a server tells of its connections: the option conn_state."""

from __future__ import annotations

import enum
from collections.abc import Callable

__all__ = ["ConnInfo", "ConnState"]


class ConnState(enum.StrEnum):
    """What a connection is doing.  Go: http.ConnState.

    NEW, then ACTIVE and IDLE in turn, and CLOSED or HIJACKED at the end.  ACTIVE begins when the
    head of a request is complete, and lasts while pipelined requests follow.
    """

    NEW = "new"
    ACTIVE = "active"
    IDLE = "idle"
    HIJACKED = "hijacked"
    CLOSED = "closed"


class ConnInfo:
    """A connection of a server, as conn_state sees it; the same object until its end."""

    __slots__ = ("__weakref__", "id", "remote_addr")

    id: int
    """Its number; the server's first connection has 1."""
    remote_addr: str
    """The client's "ip:port"."""

    def __init__(self, id: int, remote_addr: str) -> None:
        self.id = id
        self.remote_addr = remote_addr

    def __repr__(self) -> str:
        return f"<ConnInfo {self.id} {self.remote_addr}>"


_STATES = list(ConnState)


class Watch:
    """Calls conn_state; C does so with numbers, for one event after the other."""

    __slots__ = ("_conns", "_fn")

    def __init__(self, fn: Callable[[ConnInfo, ConnState], object]) -> None:
        if not callable(fn):
            raise TypeError(f"conn_state must be callable, not {type(fn).__name__}")
        self._fn = fn
        self._conns: dict[int, ConnInfo] = {}

    def __call__(self, id: int, kind: int, addr: str | None) -> None:
        state = _STATES[kind]
        conn = self._conns.get(id)
        if conn is None:
            conn = self._conns[id] = ConnInfo(id, addr or "")
        if state is ConnState.CLOSED or state is ConnState.HIJACKED:
            del self._conns[id]
        self._fn(conn, state)
