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

from runtime import _core, _cpu, _errors, _inspect, _preempt
from runtime._blocking import blocking, set_max_blocking, wait_future
from runtime._core import (
    Cancelled,
    Case,
    Chan,
    ChanClosed,
    DeadlockError,
    Goroutine,
    Mutex,
    Receiver,
    Selected,
    Sender,
    WaitGroup,
    current,
    go,
    goexit,
    gomaxprocs,
    gosched,
    lock_os_thread,
    nopreempt,
    num_goroutine,
    recv,
    select,
    send,
    sleep,
    unlock_os_thread,
)
from runtime._errors import excepthook
from runtime._group import Group
from runtime._histogram import Histogram, Histograms, histograms
from runtime._inspect import GoroutineInfo, StackFrame, dump_on_signal, goroutines, stack
from runtime._stats import (
    BlockingStats,
    GoroutineStates,
    HTTPStats,
    MStats,
    PStats,
    Stats,
    stats,
)

__version__ = "0.1.0"

__all__ = [
    "BlockingStats",
    "Cancelled",
    "Case",
    "Chan",
    "ChanClosed",
    "DeadlockError",
    "Goroutine",
    "GoroutineInfo",
    "GoroutineStates",
    "Group",
    "HTTPStats",
    "Histogram",
    "Histograms",
    "MStats",
    "Mutex",
    "PStats",
    "Receiver",
    "Selected",
    "Sender",
    "StackFrame",
    "Stats",
    "WaitGroup",
    "blocking",
    "current",
    "dump_on_signal",
    "excepthook",
    "go",
    "goexit",
    "gomaxprocs",
    "goroutines",
    "gosched",
    "histograms",
    "lock_os_thread",
    "nopreempt",
    "num_goroutine",
    "recv",
    "select",
    "send",
    "set_max_blocking",
    "sleep",
    "stack",
    "stats",
    "unlock_os_thread",
    "wait_future",
]

_core._set_hooks(
    _errors.report_failure, _errors.may_deadlock, _errors.end_child, _errors.nothing
)
_core._on_deadlock(_inspect.report_deadlock)
_preempt.install()
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
    _inspect.install()
