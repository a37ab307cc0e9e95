"""Goroutines, channels and a scheduler in the manner of Go, for plain Python functions.

    import runtime

    results = runtime.Chan()
    runtime.go(lambda: results.send(6 * 7))
    print(results.recv())

Any function can be a goroutine; there is no async and no await.  Blocking
operations of this package park the calling goroutine and let others run.
`runtime.net` has sockets, `runtime.http` a server.
"""

from __future__ import annotations

import atexit
import opcode
import os
import signal
import sys
import threading

from runtime import _core, _cpu, _errors
from runtime._blocking import blocking, set_max_blocking, wait_future
from runtime._core import (
    Cancelled,
    Chan,
    ChanClosed,
    DeadlockError,
    Goroutine,
    Mutex,
    WaitGroup,
    current,
    go,
    goexit,
    gomaxprocs,
    gosched,
    lock_os_thread,
    num_goroutine,
    sleep,
    stats,
    unlock_os_thread,
)
from runtime._errors import excepthook
from runtime._group import Group

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "Chan",
    "ChanClosed",
    "DeadlockError",
    "Goroutine",
    "Group",
    "Mutex",
    "WaitGroup",
    "blocking",
    "current",
    "excepthook",
    "go",
    "goexit",
    "gomaxprocs",
    "gosched",
    "lock_os_thread",
    "num_goroutine",
    "set_max_blocking",
    "sleep",
    "stats",
    "unlock_os_thread",
    "wait_future",
]

# A goroutine can be left between these instructions, at a call or a turn of a loop.
_resumes = bytes(
    code
    for name, code in opcode.opmap.items()
    if code < 256 and (name == "RESUME" or "JUMP_BACKWARD" in name)
)
_core._set_hooks(_errors.report_failure, _errors.may_deadlock, _errors.end_child, _resumes)
# With a GIL more Ps would only add hand-offs of it.
_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
gomaxprocs(_cpu.procs_from_env(os.environ) or (1 if _gil else min(_cpu.default_procs(), 256)))
atexit.register(_core._stop)
os.register_at_fork(after_in_child=_core._after_fork)
if threading.current_thread() is threading.main_thread():
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _core._on_sigint)
    if signal.getsignal(signal.SIGURG) is signal.SIG_DFL:
        signal.signal(signal.SIGURG, _core._on_preempt)
