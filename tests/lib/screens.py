"""`python -m runtime top` on a pseudo-terminal, whose last picture `Screen` reads."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

from programs import environment

SAFETY = 60.0
# Makes a terminal that of the session, whose signals it then sends, and runs a command. A shell's
# background jobs ignore Ctrl-C.
CONTROL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
CONTROLLING = [sys.executable, "-c", CONTROL]
COMMAND = [sys.executable, "-m", "runtime", "top"]


class Screen:
    """The command on a pseudo-terminal, in a session of its own."""

    def __init__(self, *arguments: str, size: tuple[int, int] = (80, 24), **env: str) -> None:
        self.seen = ""
        self.master, slave = pty.openpty()
        self.slave = slave  # open, so that its modes can be read after the end
        self.modes = termios.tcgetattr(slave)
        self.resize(*size)
        self.proc = subprocess.Popen(
            [*CONTROLLING, *COMMAND, *arguments, "--interval", "0.1"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(TERM="xterm-256color", COLUMNS="", LINES="", **env),
            start_new_session=True,
        )

    def resize(self, width: int, height: int) -> None:
        self.size = width, height
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    @property
    def picture(self) -> list[str]:
        """The lines of the last whole picture."""
        pictures = ["", *self.seen.split("\x1b[H")[1:]][-2:]
        for text in reversed(pictures):
            lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "").split("\n")
            if text is pictures[0] or (len(lines[-1]), len(lines)) == self.size:
                break
        return lines

    def until(self, what: str, condition: Callable[[list[str]], Any]) -> list[str]:
        """Read until a picture is as it should be; that picture."""
        end = time.monotonic() + SAFETY
        while not condition(self.picture):
            assert time.monotonic() < end, f"waited in vain until {what}: {self.picture}"
            assert self.read(0.5) or self.proc.poll() is None, self.seen
        return self.picture

    def read(self, timeout: float) -> bool:
        """Take what it has written, or writes soon."""
        ready, _, _ = select.select([self.master], [], [], timeout)
        if ready:
            self.seen += os.read(self.master, 1 << 16).decode("utf-8", "replace")
        return bool(ready)

    def ended(self) -> int:
        """Its exit status, once it has left the terminal as it was."""
        end = time.monotonic() + SAFETY
        while self.proc.poll() is None:  # a terminal that nobody reads would stop it
            assert time.monotonic() < end, "it goes on"
            self.read(0.05)
        while self.read(0):
            pass
        assert termios.tcgetattr(self.slave) == self.modes
        assert self.seen.count("\x1b[?1049h") == self.seen.count("\x1b[?1049l") > 0
        assert self.seen.rindex("\x1b[?25h") > self.seen.rindex("\x1b[?25l")
        assert "Traceback" not in self.seen
        return self.proc.returncode

    def close(self) -> None:
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait(SAFETY)
        os.close(self.master)
        os.close(self.slave)
