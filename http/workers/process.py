"""A worker process, as the supervisor sees it."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, NoReturn

BOOTING_GRACE = 5.0  # seconds; nothing runs in it that would have to be finished

State = Literal["booting", "ready", "stopping"]


class Process:
    """One that has been forked and not been reaped."""

    def __init__(self, slot: int, restarts: int, cell: int, timeout: float | None) -> None:
        self.slot = slot
        self.restarts = restarts
        self.cell = cell  # its index
        self.pid = 0
        self.mask: set[int] = set()  # the signals that are blocked, but while it is forked
        self.state: State = "booting"
        self.grace = BOOTING_GRACE  # seconds from SIGTERM until it is killed
        self.since = time.monotonic()  # in this state
        # When it is killed: monotonic seconds.
        self.kill_at = math.inf if timeout is None else self.since + timeout
        self.stuck = False
        self.beat = 0
        self.beat_at = self.since  # when that was seen to change
        self.usage_error: str | None = None
        self.error: str | None = None
        self._status = -1
        self._text = b""

    def start(self, child: Callable[[int], NoReturn], *close: int) -> None:
        """Fork; in the child, close these descriptors and call child(status pipe)."""
        self._status, theirs = os.pipe()
        os.set_blocking(self._status, False)
        # Collecting would write to, and so copy, what parent and children share.
        gc.freeze()
        for stream in (sys.stdout, sys.stderr):  # or each child writes what is in their buffers
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
        # Until the child has its own handlers: what comes meanwhile is for those.
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    for fd in (self._status, *close):
                        os.close(fd)
                    child(theirs)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(1)
        except OSError:
            os.close(self._status)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
            os.close(theirs)

    @property
    def status_fd(self) -> int:
        """A pipe that has something to read; -1 if it is closed."""
        return self._status

    def messages(self) -> list[dict[str, Any]]:
        """What it has said since."""
        try:
            while self._status >= 0:
                data = os.read(self._status, 65536)
                if not data:
                    self._close()
                self._text += data
        except BlockingIOError:
            pass
        *lines, self._text = self._text.split(b"\n")
        return [json.loads(line) for line in lines]

    def ready(self, grace: float | None) -> None:
        self.state = "ready"
        self.set_grace(grace)
        self.since = self.beat_at = time.monotonic()
        self.kill_at = math.inf

    def set_grace(self, seconds: float | None) -> None:
        """It has begun to serve, and says how long it may take to stop; None: for ever."""
        self.grace = math.inf if seconds is None else seconds
        if self.state == "stopping":
            self.kill_at = self.since + self.grace

    def stops(self) -> None:
        """It has been told to stop, by whomever."""
        if self.state != "stopping":
            self.state = "stopping"
            self.since = time.monotonic()
            self.kill_at = self.since + self.grace

    def stop(self) -> None:
        """Let it finish what it does and end; if it does not, it will be killed."""
        self.stops()
        self.send(signal.SIGTERM)

    def force(self, patience: float) -> None:
        """End it now, by force after a while."""
        self.stop()
        self.kill_at = min(self.kill_at, time.monotonic() + patience)

    def dump(self, patience: float) -> None:
        """It is stuck: faulthandler, in C, writes the stacks of its threads and ends it."""
        self.stuck = True
        self.kill_at = time.monotonic() + patience
        self.send(signal.SIGABRT)

    def kill(self) -> None:
        self.kill_at = math.inf
        self.send(signal.SIGKILL)

    def send(self, signum: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signum)  # it has not been reaped, so the id is not another's

    def ended(self) -> str | None:
        """How it has ended; None: it has not.  Once only."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has reaped it
            return "has ended"
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"has ended with status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def close(self) -> None:
        self._close()

    def _close(self) -> None:
        fd, self._status = self._status, -1
        if fd >= 0:
            os.close(fd)
