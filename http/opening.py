"""Opening files below a directory by paths that come from a client.

No check of a path's text keeps symbolic links in, and no check of a file is still true when it is
opened afterwards.  So the system does both at once: openat2() resolves a path beneath a directory.
Where that is missing, the path is walked here, one component after another, each opened relative
to the descriptor of the one before; a link's text is walked in its turn.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Literal

from runtime import _core

Links = Literal["inside", "never", "always"]

FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # no FIFO or terminal blocks
MAX_LINKS = 40  # followed in one path, as the kernel has it
_PATH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC

_system_resolves = True  # False once openat2() was found missing


def open_below(root: str, path: str, links: Links) -> int:
    """A descriptor of root's path, which is relative and may be ".".

    links: "inside" follows symbolic links that stay within root, "never" follows none, "always"
    follows any.  Raises OSError; EXDEV or ELOOP for what the policy forbids; ValueError for a NUL.
    """
    global _system_resolves
    if links == "always":
        return os.open(os.path.join(root, path), FLAGS)
    if _system_resolves:
        try:
            return _core._open_beneath(root, path, links == "inside")
        except OSError as exc:
            if exc.errno != errno.ENOSYS:
                raise
            _system_resolves = False
    return walk(root, path, links == "inside")


def walk(root: str, path: str, links: bool) -> int:
    """The same without the system's help."""
    parents = [os.open(root, _PATH | os.O_DIRECTORY)]  # owned; the last is where we are
    names = path.split("/")[::-1]
    followed = 0
    try:
        while names:
            name = names.pop()
            if name in ("", ".", "..") and not stat.S_ISDIR(os.fstat(parents[-1]).st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if name in ("", "."):
                continue
            if name == "..":
                if len(parents) == 1:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
                os.close(parents.pop())
                continue
            at = os.open(name, _PATH | os.O_NOFOLLOW, dir_fd=parents[-1])
            try:
                target = os.readlink("", dir_fd=at)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.EINVAL, errno.ENOTDIR):
                    os.close(at)
                    raise
                parents.append(at)  # no link
                continue
            os.close(at)
            followed += 1
            if not links or followed > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
            names.extend(target.split("/")[::-1])
        # The descriptor itself cannot be read from, only name the file.
        return os.open(f"/proc/self/fd/{parents[-1]}", FLAGS)
    finally:
        for fd in parents:
            os.close(fd)
