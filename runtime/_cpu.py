"""How many CPUs this process may use: its affinity, and the CPU quotas of its cgroups.

/proc/self/cgroup says which cgroup the process is in, /proc/self/mountinfo where the tree of
cgroups can be seen: as a whole, or, in a container, from a cgroup of the tree downwards.  A
quota holds for everything below, so the tightest on the way from the process's cgroup to the
top counts.  In version 2 (the hierarchy numbered 0) it is in cpu.max, in version 1 (the
hierarchy of the controller "cpu") in cpu.cfs_quota_us and cpu.cfs_period_us.  Both versions may
be there at once; the files are where the controller is.

What is missing or makes no sense limits nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

MAX_PROCS = 256


def default_procs(root: Path = Path("/")) -> int:
    """The number of CPUs this process may use, 1 or more.

    That is how many are in its affinity mask, or the tightest CPU quota of its cgroups if that
    is less; half a CPU counts as a whole one.  root is where /proc and the cgroup file systems
    are looked for.

    Go: what GOMAXPROCS is by default, which looks at the innermost cgroup only and is never
    less than 2 because of a quota.
    """
    return min([_affinity(), *_quotas(root)])


def procs_from_env(environ: Mapping[str, str]) -> int | None:
    """The number of Ps the variable GOMAXPROCS asks for, or None if it asks for nothing.

    It is a whole number from 1 to 256.  Anything else is told on sys.stderr: a greater number
    is taken for 256, and what is no such number is ignored.
    """
    text = environ.get("GOMAXPROCS", "").strip()
    if not text:
        return None
    if not re.fullmatch("0*[1-9][0-9]*", text, re.ASCII):
        _warn(text, f"not a whole number from 1 to {MAX_PROCS}: using the default")
        return None
    digits = text.lstrip("0")
    if len(digits) > len(str(MAX_PROCS)) or int(digits) > MAX_PROCS:
        _warn(text, f"more than {MAX_PROCS}: using {MAX_PROCS}")
        return MAX_PROCS
    return int(digits)


def _warn(value: str, what: str) -> None:
    shown = value if len(value) <= 40 else value[:40] + "..."
    if sys.stderr is not None:
        sys.stderr.write(f"runtime: GOMAXPROCS={shown!r} is {what}\n")


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


# --- cgroups --------------------------------------------------------------------------------------


class _Mount(NamedTuple):
    """A mounted tree of cgroups."""

    version: int
    root: str  # the cgroup that is at the mount point
    point: str


def _quotas(root: Path) -> Iterator[int]:
    """Every CPU quota that holds for the process, in CPUs, rounded up."""
    mounts = list(_mounts(_read(root / "proc/self/mountinfo")))
    for version, cgroup in _cgroups(_read(root / "proc/self/cgroup")):
        for mount in mounts:
            below = _below(mount.root, cgroup) if mount.version == version else None
            if below is None:
                continue
            top = root / mount.point.lstrip("/")
            for part in (below, *below.parents):
                quota = _quota(top / part, version)
                if quota is not None:
                    yield quota


def _cgroups(text: str) -> Iterator[tuple[int, str]]:
    """Version and path of the cgroups with a CPU controller, from /proc/self/cgroup."""
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon or not path.startswith("/"):
            continue
        if number == "0":
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _mounts(text: str) -> Iterator[_Mount]:
    """The mounts of trees with a CPU controller, from /proc/self/mountinfo (proc(5))."""
    for line in text.split("\n"):
        before, dash, after = line.partition(" - ")
        fields, more = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or len(more) < 3:
            continue
        if more[0] == "cgroup2":
            version = 2
        elif more[0] == "cgroup" and "cpu" in more[2].split(","):
            version = 1
        else:
            continue
        yield _Mount(version, _unescape(fields[3]), _unescape(fields[4]))


def _unescape(text: str) -> str:
    """The kernel writes blanks and backslashes in octal: \\040."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda m: chr(int(m[1], 8)), text)


def _below(root: str, cgroup: str) -> PurePosixPath | None:
    """The path from one cgroup to another below it; None if that is elsewhere.

    Either may begin with "/..": out of the cgroup namespace the process is in.
    """
    try:
        path = PurePosixPath(cgroup).relative_to(root)
    except ValueError:
        return None
    return None if ".." in path.parts else path


def _quota(directory: Path, version: int) -> int | None:
    if version == 2:
        fields = _read(directory / "cpu.max").split()
    else:
        fields = [
            _read(directory / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        ]
    # Without a limit the quota is "max" (version 2) or -1 (version 1).
    if len(fields) != 2 or not all(re.fullmatch("[0-9]{1,20}", f, re.ASCII) for f in fields):
        return None
    quota, period = map(int, fields)
    if quota == 0 or period == 0:
        return None
    return -(-quota // period)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return ""
