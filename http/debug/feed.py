"""Snapshots for those who watch: each is made once, whoever many they are.

A goroutine for each interval that somebody has chosen takes them while there are viewers, and
hands the same text to all.  One that does not keep up misses some.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import runtime
from runtime._core import Chan, Mutex
from runtime._http.context import server_of
from runtime._http.values import dump_json
from runtime._http.workers import workers
from runtime.context import Context

if TYPE_CHECKING:
    from runtime._http.server import Server

INTERVALS = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds
_BEHIND = 2  # snapshots that wait for a viewer


def workers_json() -> str:
    """All workers with their snapshots, and which of them answers."""
    infos = workers()
    pid = os.getpid()
    me = next((i for i, info in enumerate(infos) if info.pid == pid), 0)
    return dump_json({"workers": [info._asdict() for info in infos], "self": me})


class _Audience:
    """Those who watch at one interval."""

    __slots__ = ("latest", "left", "viewers")

    def __init__(self) -> None:
        self.viewers: set[Chan[str]] = set()
        self.latest = ""
        self.left: Chan[None] = Chan()  # closed when the last one has left


class Feed:
    """Who watches; at most `most` of them."""

    def __init__(self, most: int, make: Callable[[], str] = workers_json) -> None:
        self._most = most
        self._make = make
        self._lock = Mutex()  # of all below
        self._audiences: dict[float, _Audience] = {}
        # Those that tell when they shut down.
        self._servers: weakref.WeakSet[Server] = weakref.WeakSet()

    def join(self, interval: float, ctx: Context) -> Chan[str] | None:
        """A channel with the snapshots from now on, to be given back to leave(); None: too many.

        It is closed when the server of the request with this context shuts down.
        """
        server = server_of(ctx)
        with self._lock:
            if sum(len(a.viewers) for a in self._audiences.values()) >= self._most:
                return None
            if server is not None:
                if server.draining:
                    return None
                if server not in self._servers:
                    self._servers.add(server)
                    server.register_on_shutdown(self._end)
            audience = self._audiences.get(interval)
            viewer: Chan[str] = Chan(_BEHIND)
            if audience is None:
                audience = self._audiences[interval] = _Audience()
                runtime.go.named("http.debug.feed")(self._run, interval, audience)
            elif audience.latest:
                viewer.try_send(audience.latest)
            audience.viewers.add(viewer)
            return viewer

    def leave(self, interval: float, viewer: Chan[str]) -> None:
        with self._lock:
            audience = self._audiences.get(interval)
            if audience is None or viewer not in audience.viewers:
                return
            audience.viewers.remove(viewer)
            if not audience.viewers:
                self._dismiss(interval)

    def viewers(self) -> int:
        """How many there are."""
        with self._lock:
            return sum(len(a.viewers) for a in self._audiences.values())

    def _dismiss(self, interval: float) -> None:
        audience = self._audiences.pop(interval)
        audience.left.close()
        for viewer in audience.viewers:
            viewer.close()

    def _end(self) -> None:
        """A server shuts down; viewers of others come again."""
        with self._lock:
            for interval in list(self._audiences):
                self._dismiss(interval)

    def _run(self, interval: float, audience: _Audience) -> None:
        try:
            while not audience.left.closed:
                text = self._make()
                with self._lock:
                    audience.latest = text
                    if not audience.left.closed:
                        for viewer in audience.viewers:
                            viewer.try_send(text)
                with suppress(TimeoutError):
                    audience.left.recv_ok(timeout=interval)
        finally:
            with self._lock:
                if self._audiences.get(interval) is audience:  # no snapshot could be made
                    self._dismiss(interval)
