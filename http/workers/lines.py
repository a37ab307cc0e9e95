"""A file that several processes write lines to."""

from __future__ import annotations

import os
import select
import stat


class LineFile:
    """Writes whole lines at once, so that those of other processes do not come in between.

    To a regular file opened for appending the system writes any number of bytes at once, to a
    pipe PIPE_BUF of them.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        self._most = select.PIPE_BUF if pipe else 1 << 30

    def write(self, text: str) -> None:
        """Write lines."""
        data = text.encode(errors="backslashreplace")
        while data:
            end = len(data)
            if end > self._most:
                end = data.rfind(b"\n", 0, self._most) + 1 or end  # or one line that is too long
            piece, data = data[:end], data[end:]
            while piece:
                try:
                    piece = piece[os.write(self._fd, piece) :]
                except BlockingIOError:
                    select.select([], [self._fd], [])

    def flush(self) -> None:
        """Nothing is held back."""
