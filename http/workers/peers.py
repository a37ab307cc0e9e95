"""Questions of one worker to another, about what only that process knows.

Each worker that has answers listens on a unix socket of its own, PID.sock, in a directory that the
supervisor makes and removes. Nobody but the user of the service can enter it, and that is all that
guards the sockets. A question is a line of JSON, and so is the answer; then the connection ends.
They do not go over the service's own port: there nobody can choose who answers.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import runtime
from runtime._core import Mutex
from runtime._http.values import dump_json
from runtime._http.workers import info
from runtime._net.conn import Conn
from runtime._net.dial import dial
from runtime._net.listener import Listener, listen

logger = logging.getLogger("runtime.http")

Answer = Callable[[Any], Any]

_PATIENCE = 3.0  # seconds for one question, on either side
_LONGEST_QUESTION = 1 << 20  # bytes
_LONGEST_ANSWER = 1 << 23


class Unanswered(Exception):
    """There is no answer; the text says why, in one line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status  # of HTTP, to say the same


class Doors:
    """The directory of the sockets, as the supervisor has it."""

    def __init__(self) -> None:
        self.path: str | None = None

    def open(self) -> None:
        with suppress(OSError):  # nowhere to write: the service can do without
            self.path = tempfile.mkdtemp(prefix="gosched-")

    def remove(self, pid: int) -> None:
        """This worker has ended, and may have been killed."""
        if self.path is not None:
            with suppress(OSError):
                os.unlink(_socket(self.path, pid))

    def close(self) -> None:
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)


def _socket(directory: str, pid: int) -> str:
    return f"{directory}/{pid}.sock"


class _Door:
    """Where this process is asked."""

    def __init__(self) -> None:
        self._lock = Mutex()  # of all below
        self._answer: Answer | None = None
        self._here: info.Here | None = None  # set while this is a worker that serves
        self._supervisor = 0
        self._listener: Listener | None = None

    def offer(self, answer: Answer) -> None:
        with self._lock:
            self._answer = answer
            self._open()

    def begin(self, here: info.Here) -> None:
        with self._lock:
            self._here, self._supervisor = here, os.getppid()
            self._open()

    def end(self) -> None:
        with self._lock:
            here, self._here = self._here, None
            if self._listener is not None:
                self._listener.close()
        if here is not None and here.doors is not None and os.getppid() != self._supervisor:
            with suppress(OSError):  # the last one finds it empty
                os.rmdir(here.doors)

    def _open(self) -> None:
        if self._here is None or self._answer is None or self._listener is not None:
            return
        try:
            if self._here.doors is None:
                raise OSError("there is no directory for its socket")
            self._listener = listen("unix", _socket(self._here.doors, os.getpid()))
        except OSError as exc:
            logger.warning("other workers cannot ask process %d: %s", os.getpid(), exc)
            return
        runtime.go.named("http.worker.door")(self._serve, self._listener)

    def _serve(self, listener: Listener) -> None:
        for conn in listener:
            runtime.go.named("http.worker.answer")(self._reply, conn)

    def _reply(self, conn: Conn) -> None:
        with conn, suppress(OSError, EOFError):  # who has asked is gone
            conn.set_deadline(_PATIENCE)
            question = json.loads(conn.read_until(b"\n", _LONGEST_QUESTION))
            assert self._answer is not None
            conn.write(dump_json(self._answer(question)).encode() + b"\n")


_door = _Door()
begin, end = _door.begin, _door.end  # of serving, in a worker


def offer(answer: Answer) -> None:
    """Let other workers ask this process, and those forked from it, for answer(question).

    Both are JSON; it is called in goroutines of its own. The last one that is offered counts.
    """
    _door.offer(answer)


def ask(pid: int, question: Any) -> Any:
    """What the worker with this process id answers. Unanswered: it is none, or does not."""
    here = info.here()
    if here is None or pid not in here.pids():
        raise Unanswered(404, f"process {pid} is no worker of this service (any more)")
    try:
        if here.doors is None:
            raise FileNotFoundError
        with dial("unix", _socket(here.doors, pid), timeout=_PATIENCE) as conn:
            conn.set_deadline(_PATIENCE)
            conn.write(dump_json(question).encode() + b"\n")
            return json.loads(conn.read_until(b"\n", _LONGEST_ANSWER))
    except TimeoutError:
        raise Unanswered(504, f"process {pid} has not answered in time") from None
    except (FileNotFoundError, ConnectionError, EOFError):
        text = f"process {pid} does not answer: it begins or ends, or has nothing to tell"
        raise Unanswered(502, text) from None
    except (OSError, ValueError) as exc:
        raise Unanswered(502, f"process {pid} has not answered: {exc}") from None
