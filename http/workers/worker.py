"""What runs in a worker process: the server, and what the supervisor wants to know of it.

The worker tells the supervisor by a pipe, a line of JSON each time: that it serves, why it could
not begin, or that it wants to be replaced.  It counts beats and writes its statistics into memory
that both share.  When the supervisor is gone, however that was, a thread in C ends the worker
(csrc/rt_orphan.h).
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import math
import os
import random
import signal
import sys
import time
import traceback
import weakref
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn

import runtime
from runtime import _core, _errors
from runtime._core import Mutex
from runtime._http.server import Server
from runtime._http.workers import info, peers
from runtime._http.workers.plan import Plan, UsageError
from runtime._net.activation import listener_from_fd
from runtime._stats import PStats, Snapshot

_BEAT = 0.5  # seconds between two beats; statistics are as old as that at most,
_SHARE = 50  # or so many times as old as it takes to write them down
_ASK_AGAIN = 10.0  # seconds
_LOOK = 0.1  # seconds between two looks at the number of requests
_MARGIN = 3.0  # seconds beyond the time for a graceful shutdown, until it is killed
_LONGEST_ERROR = 8192  # characters; a pipe has room for them even if all are escaped
_OURS = (os.path.dirname(__file__), os.path.dirname(importlib.__file__), "<frozen importlib")


class Worker:
    """This process, as a worker."""

    def __init__(self, plan: Plan, here: info.Here, status: int, listening: list[int]) -> None:
        self._plan = plan
        self._here = here
        self._status = status
        self._listening = listening
        self._server: Server | None = None
        self._over = False
        self._publishing = Mutex()
        self._own_signal = False  # has the program a handler for SIGTERM?
        self._asked_to_stop = False

    def run(self, life: int, mask: set[int]) -> NoReturn:
        """Serve until it is told to stop, then end the process.

        life is for _core._watch_parent; mask has the signals that are to be blocked.
        """
        end: BaseException | None = None
        try:
            _take_over_signals(mask)
            _core._watch_parent(life)
            info.set_here(self._here)
            # These belong to the supervisor, such as the removal of its temporary directories.
            with suppress(AttributeError, RuntimeError):
                for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
                    finalizer.atexit = False
            self._main()
        except BaseException as exc:
            end = exc
        _errors.end_child(end)
        os._exit(1)  # not reached

    def _main(self) -> None:
        try:
            server = self._server = self._plan.load()
            if self._plan.on_worker_start is not None:
                self._plan.on_worker_start(self._here.id)
            listeners = [listener_from_fd(fd) for fd in self._listening]
        except UsageError as exc:
            self._tell(error=str(exc), usage=True)
            raise SystemExit(2) from None
        except BaseException as exc:
            tb = _from_the_program(exc.__traceback__)
            text = "".join(traceback.format_exception(type(exc), exc, tb)).strip()
            self._tell(error=text[-_LONGEST_ERROR:])
            raise SystemExit(1) from None
        grace = _time_to_stop(server)
        _core._orphan_grace(grace)
        server._at_serving = lambda: self._serves(grace)
        self._own_signal = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        try:
            server.serve(*listeners)
        finally:
            peers.end()
            self._publish(last=True)

    @property
    def _cell(self) -> Any:
        assert self._here.cell is not None
        return self._here.cell

    def _publish(self, last: bool = False) -> Snapshot | None:
        """Write the statistics down; None: that has been done for the last time."""
        with self._publishing:  # the cell has one writer at a time, and snapshots one order
            if self._over:
                return None
            self._over = last
            return info.publish(self._cell)

    def _serves(self, grace: float) -> None:
        if not self._own_signal:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        self._cell.count_beat()
        self._publish()
        peers.begin(self._here)
        runtime.go.named("http.worker.beat")(self._beat)
        if self._plan.worker_max_requests is not None:
            runtime.go.named("http.worker.requests")(self._watch_requests)
        self._tell(ready=True, grace=None if grace == math.inf else grace)

    def _on_sigterm(self, signum: int, frame: object) -> None:
        """Stop gracefully.  It may come twice: service managers send it to all processes."""
        assert self._server is not None
        if self._cell.hurry:
            runtime.go.named("http.Server.close")(self._server.close)
        elif not self._asked_to_stop:
            self._asked_to_stop = True
            self._tell(stopping=True)
            limit = self._server._shutdown_timeout
            if limit is not None:
                limit += self._server._drain_delay
            runtime.go.named("http.Server.shutdown")(self._server.shutdown, limit)

    def _beat(self) -> None:
        watch = _ProcWatch()
        due = 0.0
        while not self._over:
            begun = time.monotonic()
            if begun >= due:
                if self._publish() is None:
                    return
                due = begun + _SHARE * (time.monotonic() - begun)
            if not watch.stuck(runtime.stats()["ps"]):
                self._cell.count_beat()
            runtime.sleep(_BEAT)

    def _watch_requests(self) -> None:
        most = self._plan.worker_max_requests
        assert most is not None and self._server is not None
        most += random.randint(0, self._plan.worker_max_requests_jitter)
        while self._server.stats()["requests"] < most:
            runtime.sleep(_LOOK)
        while not self._over:  # again, if the new one has failed to begin
            self._tell(replace=f"it has served {most} requests")
            runtime.sleep(_ASK_AGAIN)

    def _tell(self, **what: Any) -> None:
        with suppress(OSError):  # the supervisor is gone
            os.write(self._status, json.dumps(what).encode() + b"\n")


class _ProcWatch:
    """Notices Ps whose threads sit in a call and do not come back to the scheduler.

    One that is silent is given something to do: only from then on is one that computes asked to
    make way, and only then can it be told from one that does not hear.
    """

    def __init__(self) -> None:
        self._before: dict[int, tuple[int, int]] = {}

    def stuck(self, ps: list[PStats]) -> bool:
        """Has one not done what it was to do since the last call?"""
        now = {p["id"]: (p["ticks"], p["polls"]) for p in ps if not p["sleeping"]}
        silent = [p for p in ps if self._before.get(p["id"]) == now.get(p["id"], ())]
        self._before = now
        deaf = {p["id"] for p in silent if p["runq"] or p["inbox"]}
        for p in silent:
            if p["id"] not in deaf:
                _core._nudge(p["id"])
        if deaf:  # a goroutine may have a thread for itself
            deaf -= {g.p for g in runtime.goroutines() if g.locked}
        return bool(deaf)


def _from_the_program(tb: TracebackType | None) -> TracebackType | None:
    """A traceback without what has led to the program's own code."""
    first = tb
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_OURS):
        first = first.tb_next
    return first or tb


def _time_to_stop(server: Server) -> float:
    """Seconds from SIGTERM until a worker that is well has ended; inf: for ever."""
    limit = server._shutdown_timeout
    return math.inf if limit is None else limit + server._drain_delay + _MARGIN


def _take_over_signals(mask: set[int]) -> None:
    """SIGTERM is the server's. What a terminal sends to all is for the supervisor."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, _leave_it_to_the_supervisor)  # not SIG_IGN: programs inherit that
    if not faulthandler.is_enabled():
        with suppress(AttributeError, ValueError, OSError):  # stderr may be no file
            faulthandler.enable(sys.stderr, all_threads=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave_it_to_the_supervisor(signum: int, frame: object) -> None:
    pass
