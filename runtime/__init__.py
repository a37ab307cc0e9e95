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
import os
import signal
import sys
import threading

from runtime import _core, _errors, _preempt
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
    nopreempt,
    num_goroutine,
    sleep,
    stats,
    unlock_os_thread,
)
from runtime._errors import excepthook

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "Chan",
    "ChanClosed",
    "DeadlockError",
    "Goroutine",
    "Mutex",
    "WaitGroup",
    "current",
    "excepthook",
    "go",
    "goexit",
    "gomaxprocs",
    "gosched",
    "lock_os_thread",
    "nopreempt",
    "num_goroutine",
    "sleep",
    "stats",
    "unlock_os_thread",
]

if not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        "runtime: this version needs the GIL: on free-threaded Python run without PYTHON_GIL=0 "
        "and -X gil=0 (importing runtime then turns the GIL on)"
    )

_core._set_hooks(_errors.report_failure, _errors.may_deadlock)
_preempt.install()
atexit.register(_core._stop)
os.register_at_fork(after_in_child=_core._after_fork)
if threading.current_thread() is threading.main_thread():
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _core._on_sigint)
    if signal.getsignal(signal.SIGURG) is signal.SIG_DFL:
        signal.signal(signal.SIGURG, _core._on_preempt)
