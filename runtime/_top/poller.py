"""A thread that asks a server, so that keys work while the server does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from runtime._top.question import Question
from runtime._top.source import Source, SourceError


class Answer(NamedTuple):
    question: Question
    found: dict[str, Any] | SourceError  # or why there is nothing


class Poller:
    """Asks a question every `interval` seconds, and calls `tell` when there is an answer.

    It has been asked once already.
    """

    def __init__(
        self, source: Source, question: Question, interval: float, tell: Callable[[], None]
    ) -> None:
        self._source = source
        self._question = question
        self._interval = interval
        self._tell = tell
        self._answer: Answer | None = None
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopped = False
        threading.Thread(target=self._run, name="poller", daemon=True).start()

    def ask(self, question: Question) -> None:
        """Ask this from now on: at once, if it is another than before."""
        with self._lock:
            if question != self._question:
                self._question = question
                self._changed.set()

    def take(self) -> Answer | None:
        """The latest answer; None if that has been taken already."""
        with self._lock:
            answer, self._answer = self._answer, None
        return answer

    def stop(self) -> None:
        """Ask no more. A request under way is left to itself, nobody waits for its end."""
        self._stopped = True
        self._changed.set()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._interval, time.monotonic())
            if self._changed.wait(due - time.monotonic()):
                due = time.monotonic()
            if self._stopped:
                return
            with self._lock:
                self._changed.clear()
                question = self._question
            try:
                answer = Answer(question, self._source.ask(question))
            except SourceError as exc:
                answer = Answer(question, exc)
            with self._lock:
                self._answer = answer
            self._tell()
