"""The supervisor: a process that has workers, and runs no handler.

It is one loop without threads and goroutines. It waits for signals, for lines from workers, and
for the next point in time at which something is due; then it looks at everything. What is to be
is in the slots: each has a worker, or a time at which one is to be started, and maybe a
successor that boots while the worker still serves. A successor that serves takes over, and the
worker is stopped then: they share the slot's sockets (sockets.py), so nothing is lost.

    SIGHUP           replace the workers, one slot after another
    SIGTTIN, SIGTTOU one worker more, one fewer
    SIGTERM, SIGINT  stop: workers finish what they do; the second one closes connections, and
                     kills what is left a second later; the third one kills
"""

from __future__ import annotations

import gc
import logging
import math
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import runtime
from runtime import _core
from runtime._http.workers import info
from runtime._http.workers.memory import Memory
from runtime._http.workers.peers import Doors
from runtime._http.workers.plan import MAX_WORKERS, Plan, UsageError
from runtime._http.workers.process import Process
from runtime._http.workers.sockets import Address
from runtime._http.workers.worker import Worker
from runtime._stats import Snapshot

logger = logging.getLogger("runtime.http")

GAVE_UP = 3  # exit status
_BOOTS = 5  # failures in a row of one slot before any worker has served, until it is given up
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds before a crashed worker is replaced
_STEADY = 10.0  # seconds after which a worker that ends is no longer one that fails at once
_TURN = 1.0  # seconds between two looks at the workers
_LATE = 0.5  # beyond that a look was late
_PATIENCE = 2.0  # seconds that a dump may take
_FORCED = 1.0  # seconds after the second signal
_SETTLING = 1.0  # seconds until connections that have begun elsewhere are complete
_HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR2,
    signal.SIGCHLD,
)


class Slot:
    """A place for a worker, with its own sockets."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.worker: Process | None = None
        self.successor: Process | None = None
        self.start_at = 0.0  # when a worker is to be started, if there is none
        self.starts = 0
        self.failures = 0  # in a row
        self.removed_at: float | None = None  # since when it gets no new connections


class Supervisor:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._addresses: list[Address] = []
        self._slots: list[Slot] = []
        self._target = plan.workers
        self._processes: list[Process] = []  # all that have not been reaped
        self._most = min(MAX_WORKERS, max(2 * plan.workers, plan.workers + 16))
        self._memory = Memory(2 * self._most)
        self._doors = Doors()
        self._free = list(range(2 * self._most))[::-1]  # cells
        self._ended: Snapshot | None = None
        self._life = self._wake = (-1, -1)  # pipes: it is alive; a signal has come
        self._signals: deque[int] = deque()
        self._previous: dict[int, Any] = {}  # signal handlers
        self._reload: deque[int] = deque()  # slots that are to get another worker
        self._served = False  # has any worker ever been ready?
        self._stopping = 0  # how often that was asked for
        self._status = 0  # of the exit
        self._last_error = ""
        self._turned = time.monotonic()

    def listen(self) -> None:
        """Make the sockets.  OSError, ValueError."""
        try:
            for addr in self._plan.addrs:
                self._addresses.append(Address(addr, self._plan.backlog))
        except BaseException:
            for address in self._addresses:
                address.close()
                address.remove_file()
            raise

    @property
    def addrs(self) -> list[str]:
        return [address.shown for address in self._addresses]

    def run(self) -> int:
        """Until it is told to stop, or workers fail to boot: 0, or GAVE_UP.

        UsageError: what a worker has found that does not make sense.
        """
        self._life, self._wake = os.pipe(), os.pipe()
        self._doors.open()
        for fd in self._wake:
            os.set_blocking(fd, False)
        info.set_here(info.Here(self._memory, -1, 0, None, None))
        try:
            with self._handling_signals(), self._pid_file():
                try:
                    while not (self._stopping and not self._processes):
                        self._turn()
                except BaseException:
                    self._stop()
                    while self._processes:
                        self._turn()
                    raise
        finally:
            info.set_here(None)
            self._doors.close()
            for address in self._addresses:
                address.close()
                address.remove_file()
            for fd in (*self._life, *self._wake):
                os.close(fd)
            gc.unfreeze()  # see Process.start
        if self._served:
            logger.info("process %d has stopped", os.getpid())
        if self._status == 2:
            raise UsageError(self._last_error)
        return self._status

    # --- the loop ---------------------------------------------------------------------------------

    def _turn(self) -> None:
        if not self._stopping:
            self._fill()
        self._wait()
        now = time.monotonic()
        gap = now - self._turned
        if gap > _TURN + _LATE:  # stopped itself, as its workers may have been
            for p in self._processes:
                p.beat_at = min(now, p.beat_at + gap)
                p.kill_at += gap
        self._turned = now
        while self._signals:
            self._on_signal(self._signals.popleft())
        for p in list(self._processes):
            for message in p.messages():
                self._on_message(p, message)
            how = p.ended()
            if how is not None:
                for message in p.messages():
                    self._on_message(p, message)
                self._on_end(p, how)
            else:
                self._look_at(p, now)

    def _wait(self) -> None:
        now = time.monotonic()
        due = [p.kill_at for p in self._processes]
        if not self._stopping:
            due += [s.start_at for s in self._slots if s.worker is None and s.successor is None]
        seconds = max(0.0, min([_TURN, *(at - now for at in due)]))
        if self._signals:
            seconds = 0.0
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        for p in self._processes:
            if p.status_fd >= 0:
                poll.register(p.status_fd, select.POLLIN)
        poll.poll(math.ceil(seconds * 1000))
        with suppress(BlockingIOError):
            while len(os.read(self._wake[0], 4096)) == 4096:
                pass

    def _fill(self) -> None:
        """Start what is to be started now."""
        now = time.monotonic()
        while len(self._slots) < self._target and not self._removing():
            self._slots.append(Slot(len(self._slots)))
        if self._removing() or len(self._slots) > self._target:
            self._remove(self._slots[-1])  # once begun it is brought to its end
        for slot in self._slots:
            if slot.worker is None and slot.successor is None and slot.start_at <= now:
                slot.worker = self._start(slot)
        if self._reload and not any(s.successor for s in self._slots) and self._may_reload():
            index = self._reload.popleft()
            if index < len(self._slots) and self._slots[index].removed_at is None:
                slot = self._slots[index]
                slot.successor = self._start(slot)

    def _may_reload(self) -> bool:
        """Old workers may take long to finish; there must be room left for those that crash."""
        return len(self._free) > len(self._slots)

    def _look_at(self, p: Process, now: float) -> None:
        beat = self._memory.cells[p.cell].beat
        if beat != p.beat:
            p.beat, p.beat_at = beat, now
        limit = self._plan.worker_timeout
        if now >= p.kill_at:
            if p.state == "booting" and not p.stuck:
                logger.error("%s has not begun to serve in time: killed", self._name(p))
            elif p.state == "stopping" and self._stopping < 2:
                logger.error("%s has not stopped in time: killed", self._name(p))
            p.kill()
        elif limit is not None and p.state == "ready" and not p.stuck and now - p.beat_at > limit:
            logger.error(
                "%s: its scheduler has not run for %.0f seconds; its threads are dumped, and it"
                " is replaced",
                self._name(p),
                now - p.beat_at,
            )
            p.dump(_PATIENCE)

    # --- processes --------------------------------------------------------------------------------

    def _name(self, p: Process) -> str:
        return f"worker {p.slot} (process {p.pid})"

    def _start(self, slot: Slot) -> Process | None:
        if not self._free:
            slot.start_at = time.monotonic() + _TURN
            return None
        cell = self._free.pop()
        self._memory.cells[cell].clear()
        p = Process(slot.index, slot.starts, cell, self._plan.worker_boot_timeout)
        try:
            sockets = [address.socket(slot.index) for address in self._addresses]
            p.start(
                lambda status: self._be_worker(p, status, sockets),
                self._life[1],
                *self._wake,
            )
        except OSError as exc:
            self._free.append(cell)
            logger.error("worker %d cannot be started: %s", slot.index, exc)
            slot.start_at = time.monotonic() + _LONGEST_PAUSE
            return None
        slot.starts += 1
        self._processes.append(p)
        self._publish()
        return p

    def _be_worker(self, p: Process, status: int, sockets: list[socket.socket]) -> NoReturn:
        """In the child."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        for other in self._processes:
            other.close()
        listening = [os.dup(sock.fileno()) for sock in sockets]
        for address in self._addresses:
            for sock in address.sockets:
                sock.close()
        cell = self._memory.cells[p.cell]
        here = info.Here(self._memory, p.slot, p.restarts, cell, self._doors.path)
        Worker(self._plan, here, status, listening).run(self._life[0], p.mask)

    def _on_message(self, p: Process, message: dict[str, Any]) -> None:
        slot = self._slot_of(p)
        if "error" in message:
            p.error = message["error"]
            if message.get("usage"):
                p.usage_error = p.error
        elif "replace" in message:
            replaced = slot is None or slot.worker is not p or slot.successor is not None
            if not replaced and p.slot not in self._reload:
                logger.info("%s is replaced: %s", self._name(p), message["replace"])
                self._reload.append(p.slot)
        elif "stopping" in message:
            if p.state == "ready":
                p.stops()
                if slot is not None and slot.worker is p and slot.removed_at is None:
                    slot.worker = None
                    slot.start_at = 0.0
                    logger.info("%s was told to stop; another one follows", self._name(p))
        elif "ready" in message and p.state == "stopping":  # it was told so meanwhile
            if self._stopping < 2:
                p.set_grace(message["grace"])
        elif "ready" in message and p.state == "booting":
            p.ready(message["grace"])
            if not self._served:
                self._served = True
                many = "1 worker" if self._target == 1 else f"{self._target} workers"
                shown = ", ".join(self.addrs)
                logger.info("process %d serves %s with %s", os.getpid(), shown, many)
            logger.info("%s serves", self._name(p))
            if slot is not None and slot.successor is p:
                old, slot.worker, slot.successor = slot.worker, p, None
                if old is not None:
                    old.stop()

    def _slot_of(self, p: Process) -> Slot | None:
        """The slot that it has, or is to have; None: it has had its time."""
        for slot in self._slots:
            if p in (slot.worker, slot.successor):
                return slot
        return None

    def _on_end(self, p: Process, how: str) -> None:
        self._processes.remove(p)
        p.close()
        self._doors.remove(p.pid)
        slot = self._slot_of(p)
        cell = self._memory.cells[p.cell]
        last = cell.get()
        if last is not None:
            self._ended = info.add_ended(self._ended, last)
        self._publish()
        self._free.append(p.cell)
        expected = p.state == "stopping"
        if (expected or self._stopping) and not self._status:
            logger.info("%s %s", self._name(p), how)
        if slot is None or self._stopping:
            return
        if slot.successor is p:
            slot.successor = None
            if slot.worker is not None:
                if not expected:
                    self._reload.clear()
                    self._tell_error(p, how, "those that there are go on")
                return
        else:
            slot.worker = None
        if slot.removed_at is not None and expected:
            self._finish_removal(slot)
            return
        if expected:
            slot.start_at = 0.0
            return
        self._on_failure(slot, p, how)

    def _on_failure(self, slot: Slot, p: Process, how: str) -> None:
        now = time.monotonic()
        steady = p.state == "ready" and now - p.since >= _STEADY
        slot.failures = 1 if steady else slot.failures + 1
        pause = 0.0
        if slot.failures > 1:
            pause = min(_FIRST_PAUSE * 2.0 ** min(slot.failures - 2, 16), _LONGEST_PAUSE)
        slot.start_at = now + pause
        if not self._served and p.usage_error is not None:
            self._last_error = p.usage_error
            self._give_up(2)
            return
        if not self._served and slot.failures >= _BOOTS:
            self._tell_error(p, how, "giving up")
            self._give_up(GAVE_UP)
            return
        again = f"another one follows in {pause:.1f} seconds" if pause else "another one follows"
        self._tell_error(p, how, again)

    def _tell_error(self, p: Process, how: str, then: str) -> None:
        if p.error is None:
            logger.error("%s %s; %s", self._name(p), how, then)
            return
        lines = p.error.splitlines()
        text = lines[-1] if p.error == self._last_error else p.error
        self._last_error = p.error
        gap = " " if "\n" not in text else "\n"
        logger.error("%s has failed to boot; %s:%s%s", self._name(p), then, gap, text)

    def _give_up(self, status: int) -> None:
        self._status = status
        self._stop()

    # --- fewer workers ----------------------------------------------------------------------------

    def _removing(self) -> bool:
        return bool(self._slots) and self._slots[-1].removed_at is not None

    def _remove(self, slot: Slot) -> None:
        """Take the last slot out of service: nothing new, then nothing waiting, then the end."""
        now = time.monotonic()
        if slot.removed_at is None:
            slot.removed_at = now
            logger.info("worker %d is taken out of service", slot.index)
            if slot.successor is not None:
                slot.successor.stop()
            for address in self._addresses:
                with suppress(OSError):  # where the kernel cannot, those that come last are lost
                    address.steer(len(self._slots) - 1)
        if slot.worker is None:
            if slot.successor is None and not self._waiting(slot):
                self._finish_removal(slot)
            return
        settled = now - slot.removed_at >= _SETTLING or not any(a.spread for a in self._addresses)
        if slot.worker.state == "booting":
            if not self._waiting(slot):
                slot.worker.stop()
        elif slot.worker.state == "ready" and settled and not self._waiting(slot):
            slot.worker.stop()

    def _waiting(self, slot: Slot) -> bool:
        return any(address.waiting(slot.index) for address in self._addresses)

    def _finish_removal(self, slot: Slot) -> None:
        if self._waiting(slot):
            slot.start_at = 0.0  # somebody must take these
            return
        self._slots.remove(slot)
        for address in self._addresses:
            address.drop(slot.index)

    # --- signals ----------------------------------------------------------------------------------

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        """Take note of signals, where the program has no handler for them."""

        def note(signum: int, frame: object) -> None:
            self._signals.append(signum)

        defaults = (signal.SIG_DFL, _core._on_sigint, signal.default_int_handler)
        for signum in _HANDLED:
            handler = signal.getsignal(signum)
            if handler in defaults or (signum == signal.SIGHUP and handler is signal.SIG_IGN):
                self._previous[signum] = signal.signal(signum, note)
        before = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, previous in self._previous.items():
                if signal.getsignal(number) is note:
                    signal.signal(number, previous)

    def _on_signal(self, signum: int) -> None:
        if signum in (signal.SIGTERM, signal.SIGINT):
            self._stop()
        elif self._stopping:
            return
        elif signum == signal.SIGHUP:
            logger.info("SIGHUP: the workers are replaced")
            if not self._may_reload():
                logger.warning("too many old workers have not stopped: waiting for them")
            self._reload.extend(i for i in range(len(self._slots)) if i not in self._reload)
        elif signum in (signal.SIGTTIN, signal.SIGTTOU):
            self._change(1 if signum == signal.SIGTTIN else -1)
        elif signum == signal.SIGUSR2:
            logger.error("SIGUSR2: no hot restart with workers; SIGHUP replaces them")

    def _change(self, by: int) -> None:
        wanted = self._target + by
        if not 1 <= wanted <= self._most:
            logger.error("there can be 1 to %d workers", self._most)
            return
        self._target = wanted
        logger.info("%s: %d workers", "SIGTTIN" if by > 0 else "SIGTTOU", wanted)

    def _stop(self) -> None:
        self._stopping += 1
        for p in self._processes:
            if self._stopping == 1:
                p.stop()
            elif self._stopping == 2:
                self._memory.cells[p.cell].set_hurry()
                p.force(_FORCED)
            else:
                p.kill()
        for address in self._addresses:  # workers serve what is in the queues, and nobody follows
            address.close()

    # --- what others see --------------------------------------------------------------------------

    def _publish(self) -> None:
        workers = [(p.slot, p.pid, p.restarts, p.cell) for p in self._processes]
        info.publish_directory(self._memory.directory, workers, self._ended)

    @contextmanager
    def _pid_file(self) -> Iterator[None]:
        if self._plan.pid_file is None:
            yield
            return
        path = Path(self._plan.pid_file)
        text = f"{os.getpid()}\n"
        path.write_text(text)
        try:
            yield
        finally:
            with suppress(OSError):
                if path.read_text() == text:  # it may be another one's by now
                    path.unlink()


def supervise(plan: Plan) -> int:
    """Serve with worker processes: see Supervisor.run.  OSError where it cannot listen."""
    if threading.current_thread() is not threading.main_thread() or (
        runtime.current().name != "main"
    ):
        raise RuntimeError("workers can be served by the main goroutine only")
    supervisor = Supervisor(plan)
    supervisor.listen()
    return supervisor.run()
