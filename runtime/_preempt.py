"""What preemption knows of the standard library, and the text of a stall report."""

from __future__ import annotations

import contextlib
import io
import linecache
import opcode
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from runtime import _core

if TYPE_CHECKING:
    from runtime._core import Goroutine

# Code that may hold a lock of its thread, in places that cannot be seen from outside.  While one
# of its frames is on a goroutine's stack, the goroutine is not made to leave it.
_MODULES = (
    "_pyio",
    "_threading_local",
    "_weakrefset",
    "dataclasses",  # its __repr__ remembers, by thread, what it is at
    "queue",
    "reprlib",  # likewise
    "threading",
    "weakref",
)
_PACKAGES = {
    "concurrent/futures": ("_base", "process", "thread"),
    "logging": ("__init__", "config", "handlers"),
    "multiprocessing": (
        *("connection", "context", "dummy/__init__", "forkserver", "heap", "managers", "pool"),
        *("process", "queues", "reduction", "resource_sharer", "resource_tracker"),
        *("shared_memory", "sharedctypes", "synchronize", "util"),
    ),
}
_FROZEN = ("importlib._bootstrap", "importlib._bootstrap_external", "zipimport")


def _files() -> frozenset[str]:
    """The file names that code objects of the modules above have."""
    stdlib = os.path.dirname(threading.__file__)
    names = [*_MODULES, *(f"{p}/{name}" for p, mods in _PACKAGES.items() for name in mods)]
    return frozenset(
        [os.path.join(stdlib, *name.split("/")) + ".py" for name in names]
        + [f"<frozen {name}>" for name in _FROZEN]
    )


def _functions() -> frozenset[tuple[str, str]]:
    """Single functions of that kind, as (file name, qualified name)."""
    if sys.version_info >= (3, 12):
        return frozenset()
    stdlib = os.path.dirname(threading.__file__)
    # It computes the value under a lock.
    return frozenset([(os.path.join(stdlib, "functools.py"), "cached_property.__get__")])


def _exempt() -> dict[tuple[str, str], bool]:
    """Functions of `_files` that hold nothing while they call the program's.

    True: a process begins there.  What its callers hold, in the copy that a forked one has of the
    stack, is held for good.
    """
    stdlib = os.path.dirname(threading.__file__)
    names = {
        "multiprocessing/process": {"BaseProcess._bootstrap": True, "BaseProcess.run": False},
        "multiprocessing/pool": dict.fromkeys(("worker", "mapstar", "starmapstar"), False),
        "concurrent/futures/process": dict.fromkeys(
            ("_process_worker", "_process_chunk", "_process_chunk.<locals>.<listcomp>"), False
        ),
    }
    return {
        (os.path.join(stdlib, *name.split("/")) + ".py", function): bottom
        for name, functions in names.items()
        for function, bottom in functions.items()
    }


_THREAD_LOCKS = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
)

_STALLS = {
    "blocks": (
        "has blocked its thread for {ms} ms in a call",
        "Calls that block belong into runtime.blocking(fn, *args), which runs them on a thread "
        "of its own.",
    ),
    "keeps the GIL": (
        "has kept the GIL for {ms} ms in a call",
        "Nothing else in the process could run: do it in smaller pieces, or in another process.",
    ),
    "has kept the GIL": (
        "has kept the GIL for {ms} ms in a call that has returned",
        "Nothing else in the process could run: do it in smaller pieces, or in another process.",
    ),
    "runs": (
        "has computed in a call for {ms} ms, and runs on",
        "Long computations in C belong into runtime.blocking(fn, *args), which runs them on a "
        "thread of its own.",
    ),
}


def stall_report(
    p: int,
    goroutine: Goroutine[Any] | None,
    what: str,
    ms: int,
    frames: list[tuple[str, int, str]],
) -> str:
    """Text about a goroutine that others have waited for `ms` milliseconds.

    `goroutine` is None where it is not known; `frames` are outermost first.
    """
    who = f"goroutine {goroutine.id} [{goroutine.name}]" if goroutine else f"a goroutine of P{p}"
    done, advice = _STALLS[what]
    lines = [f"gosched: {who} {done.format(ms=ms)}, while others waited for P{p}"]
    for filename, line, function in frames:
        lines.append(f'  File "{filename}", line {line}, in {function}')
        source = linecache.getline(filename, line).strip()
        if source:
            lines.append(f"    {source}")
    lines.append(f"  {advice}  GOSCHED_STALL_MS=0 turns these reports off.")
    return "\n".join(lines) + "\n"


def install() -> None:
    """Tell the core; called once."""
    # A goroutine can be left between these instructions, at a call or a turn of a loop.
    resumes = bytes(
        code
        for name, code in opcode.opmap.items()
        if code < 256 and (name == "RESUME" or "JUMP_BACKWARD" in name)
    )
    _core._set_preempt(
        _files(),
        _functions(),
        _exempt(),
        _THREAD_LOCKS,
        io.RawIOBase.__mro__[1],
        contextlib._GeneratorContextManager,
        contextlib.ExitStack,
        resumes,
        stall_report,
    )
