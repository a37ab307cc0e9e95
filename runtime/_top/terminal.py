"""The terminal while it shows pictures: another screen, single keys, and no trace afterwards.

Whatever should wake the program comes as a byte over one of two descriptors, so that one select()
waits for all of it. Whatever ends the program leaves the terminal as it was: also SIGTERM, SIGHUP,
and a stop (Ctrl-Z) until it goes on.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

from rich.console import Console
from rich.control import Control
from rich.screen import Screen
from rich.text import Text

from runtime._top.layout import ASCII

HANG_UP = "\x04"  # what `wait` returns once there is no terminal any more: Ctrl-D
_REST = 0.05  # seconds in which the rest of a key's sequence comes, or it was the key Esc


class Terminal:
    """Use it as a context manager, on the main thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._keys = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else None
        self._modes: list[Any] | None = None  # how the terminal took keys before
        self._handlers: dict[int, Any] = {}
        self._stopping = False

    def __enter__(self) -> Self:
        for signum, handler in (
            (signal.SIGWINCH, self._resized),
            (signal.SIGTSTP, self._stop),
            (signal.SIGTERM, _end),
            (signal.SIGHUP, _end),
        ):
            self._handlers[signum] = signal.signal(signum, handler)
        self._take()
        return self

    def __exit__(self, *exc: object) -> None:
        self._give_back()
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        # The pipe stays: another thread may be about to wake us.

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        return self._console.size

    def draw(self, lines: Sequence[Text]) -> None:
        """Show a picture, in one write."""
        with self._console:
            self._console.control(Control.home())
            self._console.print(Screen(*fitted(self._console, lines)), end="")

    def wake(self) -> None:
        """Let `wait` return; for other threads and signal handlers."""
        with contextlib.suppress(BlockingIOError):  # it is full, so wait() will return
            os.write(self._wake_write, b".")

    def wait(self) -> str:
        """The keys that were pressed; "" after `wake`, or when the picture is to be drawn again."""
        files = [self._wake_read] if self._keys is None else [self._wake_read, self._keys]
        ready, _, _ = select.select(files, [], [])
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if self._stopping:
            self._stopping = False
            self._give_back()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._take()  # SIGCONT has come
        if self._keys not in ready:
            return ""
        try:
            keys = os.read(self._keys, 4096)
            if keys.endswith((b"\x1b", b"\x1b[")) and select.select([self._keys], [], [], _REST)[0]:
                keys += os.read(self._keys, 4096)
        except OSError:
            keys = b""
        return keys.decode("utf-8", "replace") if keys else HANG_UP

    def _resized(self, signum: int, frame: FrameType | None) -> None:
        self.wake()

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._stopping = True  # not now: a picture may be half drawn
        self.wake()

    def _take(self) -> None:
        if self._keys is not None:
            self._modes = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _give_back(self) -> None:
        # The terminal may have gone.
        with contextlib.suppress(OSError):
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        if self._keys is not None and self._modes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._modes)


def fitted(console: Console, lines: Sequence[Text]) -> list[Text]:
    """The lines in characters that the terminal has, to be printed as they are."""
    for line in lines:
        line.no_wrap = True
        if console.options.ascii_only:
            line.plain = line.plain.translate(ASCII).encode("ascii", "replace").decode()
    return list(lines)


def _end(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
