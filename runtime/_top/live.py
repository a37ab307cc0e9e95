"""The view at work: once, as text, or again and again on a terminal."""

from __future__ import annotations

import re
import time
from collections import deque
from contextlib import closing
from typing import Any

from rich.console import Console

from runtime._top.poller import Poller
from runtime._top.rates import Meter, Reading
from runtime._top.source import Source, SourceError
from runtime._top.terminal import HANG_UP, Terminal, fitted
from runtime._top.view import SORTS, Frame, picture, report

TREND = 60  # samples that are kept for the sparkline


def run(source: Source, interval: float, once: bool) -> None:
    """Show the server until the user has seen enough.

    Raises SourceError if the server cannot be asked at all; later that is shown, and tried again.
    """
    console = Console(highlight=False)
    if once or not console.is_terminal or console.is_dumb_terminal:
        _print(source, interval, console)
    else:
        _watch(source, interval, console)


def _print(source: Source, interval: float, console: Console) -> None:
    meter = Meter()
    with closing(source):
        read(meter, source.sample())
        time.sleep(interval)
        reading = read(meter, source.sample())
    if not console.is_terminal:  # a file or a pipe has no width
        console.width = max(console.width, 120)
    lines = report(Frame(source.address.name, reading), console.width)
    for line in fitted(console, lines):
        line.rstrip()
        console.print(line)


def _watch(source: Source, interval: float, console: Console) -> None:
    meter = Meter()
    shown = read(meter, source.sample())
    trend: deque[float] = deque(maxlen=TREND)
    sort, paused, trouble = "1", False, ""
    with Terminal(console) as terminal:
        poller = Poller(source, interval, terminal.wake)
        try:
            while True:
                frame = Frame(source.address.name, shown, tuple(trend), sort, paused, trouble)
                terminal.draw(picture(frame, *terminal.size))
                for key in _keys(terminal.wait()):
                    if key in ("q", "Q", HANG_UP):
                        return
                    if key in ("p", " "):
                        paused = not paused
                    elif key in SORTS:
                        sort = key
                answer = poller.take()
                try:
                    if isinstance(answer, SourceError):
                        raise answer
                    if answer is not None:
                        reading, trouble = read(meter, answer), ""
                        trend.append(reading.total.requests)
                        if not paused:
                            shown = reading
                except SourceError as exc:
                    trouble = str(exc)
        finally:
            poller.stop()


def _keys(pressed: str) -> str:
    """Without the sequences that arrows and function keys send (ECMA-48)."""
    return re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|O?.)?", "", pressed)


def read(meter: Meter, sample: dict[str, Any]) -> Reading:
    """What the meter makes of a sample. Raises SourceError if that is none."""
    try:
        return meter.read(sample)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        raise SourceError(
            f"the server's counters have another shape than this version reads ({exc!r})"
        ) from None
