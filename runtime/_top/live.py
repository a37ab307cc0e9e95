"""A view at work: once, as text, or again and again on a terminal."""

from __future__ import annotations

from contextlib import closing

from rich.console import Console

from runtime._top.keys import keys
from runtime._top.names import NAMES
from runtime._top.poller import Poller
from runtime._top.question import Question
from runtime._top.rates import JSON
from runtime._top.source import Source, SourceError
from runtime._top.terminal import HANG_UP, Terminal, fitted
from runtime._top.view import Frame, picture, report, room
from runtime._top.views import View, views


def run(source: Source, interval: float, once: bool, name: str) -> None:
    """Show the server, at first in the view of this name, until the user has seen enough.

    Raises SourceError if the server cannot be asked at all; later that is shown, and tried again.
    """
    console = Console(highlight=False)
    if once or not console.is_terminal or console.is_dumb_terminal:
        _print(source, interval, name, console)
    else:
        _watch(source, interval, name, console)


def _print(source: Source, interval: float, name: str, console: Console) -> None:
    view = views(interval)[name]
    with closing(source):
        view.gather(source.ask, interval)
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = max(console.width, 120)
    lines = report(Frame(source.address.name, view, name), console.width)
    for line in fitted(console, lines):
        line.rstrip()
        console.print(line)


class _Watch:
    """What a user has chosen, and what the server has answered to it."""

    def __init__(self, source: Source, interval: float, name: str) -> None:
        self._source = source
        self._views = views(interval)
        self._name = name
        self._answered: Question | None = None  # what is shown is the answer to that
        self._paused = False
        self._trouble = ""

    @property
    def frame(self) -> Frame:
        name = self._source.address.name
        return Frame(name, self._view, self._name, self._paused, self._trouble)

    @property
    def _view(self) -> View:
        return self._views[self._name]

    def question(self, height: int) -> Question:
        return self._view.question(room(height))

    def take(self, question: Question, answer: JSON) -> None:
        """Show an answer; also when paused, if it is the first one to what the user has chosen."""
        hold = self._paused and question == self._answered
        self._view.take(answer, hold)
        self._answered = question
        self._trouble = ""

    def fail(self, why: SourceError) -> None:
        self._trouble = str(why)

    def press(self, key: str) -> bool:
        """Do what the key means; False if that is to leave."""
        if self._view.press(key):
            return True
        numbers = {str(i): name for i, name in enumerate(NAMES, 1)}
        steps = {"tab": 1, "shift+tab": -1}
        if key in ("q", "Q", HANG_UP):
            return False
        if key in ("p", " "):
            self._paused = not self._paused
        elif key in numbers:
            self._name = numbers[key]
        elif key in steps:
            self._name = NAMES[(NAMES.index(self._name) + steps[key]) % len(NAMES)]
        return True


def _watch(source: Source, interval: float, name: str, console: Console) -> None:
    watch = _Watch(source, interval, name)
    question = watch.question(console.height)
    watch.take(question, source.ask(question))
    with Terminal(console) as terminal:
        poller = Poller(source, question, interval, terminal.wake)
        try:
            while True:
                question = watch.question(terminal.size[1])
                poller.ask(question)
                terminal.draw(picture(watch.frame, *terminal.size))
                for key in keys(terminal.wait()):
                    if not watch.press(key):
                        return
                answer = poller.take()
                if answer is None or answer.question != watch.question(terminal.size[1]):
                    continue
                try:
                    if isinstance(answer.found, SourceError):
                        raise answer.found
                    watch.take(answer.question, answer.found)
                except SourceError as exc:
                    watch.fail(exc)
        finally:
            poller.stop()
