"""A thread that asks a server for samples, so that keys work while the server does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from runtime._top.source import Source, SourceError


class Poller:
    """Asks every `interval` seconds from now on, and calls `tell` when there is an answer."""

    def __init__(self, source: Source, interval: float, tell: Callable[[], None]) -> None:
        self._source = source
        self._interval = interval
        self._tell = tell
        self._answer: dict[str, Any] | SourceError | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="poller", daemon=True).start()

    def take(self) -> dict[str, Any] | SourceError | None:
        """The latest sample, or why there is none; None if that has been taken already."""
        with self._lock:
            answer, self._answer = self._answer, None
        return answer

    def stop(self) -> None:
        """Ask no more. A request under way is left to itself, nobody waits for its end."""
        self._stopped.set()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._interval, time.monotonic())
            if self._stopped.wait(due - time.monotonic()):
                return
            try:
                answer: dict[str, Any] | SourceError = self._source.sample()
            except SourceError as exc:
                answer = exc
            with self._lock:
                self._answer = answer
            self._tell()
