"""What the core reports in Python: failures nobody asked for, and deadlocks."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from runtime import _core
from runtime._inspect import DumpHandler

if TYPE_CHECKING:
    from runtime._core import Goroutine


def excepthook(goroutine: Goroutine[Any], exc: BaseException, /) -> None:
    """Report that `goroutine` failed with `exc` and nobody will ask for it.

    Writes the goroutine's name, where it was started and the traceback to
    `sys.stderr`.  Replace `runtime.excepthook` by a function of the same shape to
    log instead; what it raises is reported and ignored.
    """
    if sys.stderr is None:
        return
    sys.stderr.write(describe_failure(goroutine, exc))
    sys.stderr.flush()


def describe_failure(goroutine: Goroutine[Any], exc: BaseException) -> str:
    """What `excepthook` writes."""
    lines = [f"goroutine {goroutine.id} [{goroutine.name}] failed"]
    site = goroutine.spawned_at
    if site is not None:
        filename, line, function = site
        lines.append(f'; started at "{filename}", line {line}, in {function}')
    lines.append("\n")
    lines += traceback.format_exception(exc)
    return "".join(lines)


def report_failure(goroutine: Goroutine[Any], exc: BaseException) -> None:
    """Call `runtime.excepthook`, as it is now."""
    hook = getattr(sys.modules.get("runtime"), "excepthook", excepthook)
    hook(goroutine, exc)


def may_deadlock() -> bool:
    """True unless a signal handler of the program's own could still wake a goroutine."""
    ours = (signal.default_int_handler, _core._on_sigint, _core._on_preempt)
    return not any(
        callable(handler) and handler not in ours and not isinstance(handler, DumpHandler)
        for handler in map(signal.getsignal, signal.valid_signals())
        if not isinstance(handler, signal.Handlers)
    )


def nothing() -> None:
    """Called by the core to have the interpreter look at what it has put off."""


def _join_threads() -> None:
    """As threading._shutdown(), for a main thread that threading may not know."""
    for call in reversed(getattr(threading, "_threading_atexits", [])):
        call()
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()


def end_child(exc: BaseException | None) -> None:
    """End a forked child whose main goroutine has returned, or raised exc.

    It does what the interpreter does at the end of the main program: it cannot get
    there, for the C stack below belongs to the parent's main goroutine.
    """
    status = 0
    if isinstance(exc, SystemExit):
        code = exc.code
        if code is None or isinstance(code, int):
            status = (code or 0) & 0xFF
        else:
            print(code, file=sys.stderr)
            status = 1
    elif exc is not None:
        sys.excepthook(type(exc), exc, exc.__traceback__)
        status = 128 + signal.SIGINT if isinstance(exc, KeyboardInterrupt) else 1
    for last in (_join_threads, atexit._run_exitfuncs):
        try:
            last()
        except BaseException:
            traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass
    os._exit(status)
