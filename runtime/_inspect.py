"""What all goroutines do: `goroutines`, `stack`, and dumps on signals and deadlocks.

A dump may be made in the scheduler's context, while no goroutine runs, and in a signal handler
between any two instructions.  So nothing here waits or takes a lock, and text goes straight to
a file descriptor: the program may be inside sys.stderr.write() at that moment.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import sys
import types
from types import FrameType
from typing import Any, NamedTuple, Protocol, TypeAlias

from runtime import _core
from runtime._core import Goroutine

MAX_FRAMES = 100  # of one stack that are printed, as in Go
WRITE_PATIENCE = 1.0  # seconds until a reader that takes nothing is given up


class StackFrame(NamedTuple):
    """A place in the program's code: a call on a goroutine's stack, or a go()."""

    file: str
    line: int  # 0 where there is no source
    function: str  # "module.qualname"; without the module for a go()


class GoroutineInfo(NamedTuple):
    """What one goroutine did at the moment of a `goroutines` call."""

    id: int
    name: str
    state: str  # "runnable", "running" or "waiting"
    wait_reason: str | None  # what it waits for, in Go's words
    wait_duration: float | None  # seconds; a little more or less
    spawned_at: StackFrame | None  # the go() that started it
    p: int | None  # id of the P it belongs to; 256 is the spare one
    thread: int | None  # threading.get_ident() of its thread; None before it has begun
    locked: bool  # to its thread, by lock_os_thread()
    goroutine: Goroutine[Any]
    # Innermost first; if none of its calls is in Python, the function given to go().
    stack: tuple[StackFrame, ...] | None  # None if not asked for
    bubble: int | None  # the bubble of runtime.testing it belongs to
    # Channels, locks, the goroutine it joins, ...; several in a select; () if nothing is known.
    waits_on: tuple[object, ...]
    holders: tuple[int, ...]  # ids of those who hold a lock it waits for, or whom it joins

    @property
    def frame(self) -> FrameType | None:
        """Its innermost frame now, for debuggers; None if it has not begun or has ended.

        The goroutine may go on meanwhile.  Without the GIL that would be fatal for whoever
        looks at the frame, so on free-threaded builds only the calling goroutine has one.
        """
        here = sys._getframe()
        frame = _core._frame(self.goroutine)
        return frame.f_back if frame is here else frame


class _Writer(Protocol):
    def write(self, text: str, /) -> object: ...


_File: TypeAlias = int | _Writer | None


def goroutines(*, stacks: bool = False) -> list[GoroutineInfo]:
    """All goroutines, at one moment: the caller first, the others in the order of their start.

        for g in runtime.goroutines():
            print(g.id, g.name, g.state, g.wait_reason)

    With stacks=True each has its stack, too.  A thread that is not the runtime's appears while
    it waits in an operation of the runtime; its p is None.  All other threads stand still for a
    moment: about 10 ms for 100,000 goroutines.

    Go: pprof.Lookup("goroutine").
    """
    here = sys._getframe().f_back
    return _core._goroutines(True, False, stacks, here, GoroutineInfo, StackFrame, entry_of)


def find(id: int) -> GoroutineInfo | None:
    """The goroutine with this id, with its stack; None if there is none."""
    here = sys._getframe().f_back
    found = _core._goroutines(True, False, True, here, GoroutineInfo, StackFrame, entry_of, id)
    return found[0] if found else None


def stack(all: bool = False) -> str:
    """The stack of the calling goroutine as text, or of all goroutines, the caller's first.

        goroutine 7 [chan receive, 2 minutes]:
        __main__.consume(...)
                example.py:12
        created by produce
                example.py:31

    Innermost calls come first.  Minutes are shown from one on.

    Go: runtime.Stack, debug.Stack.
    """
    return trace(sys._getframe().f_back, all)


def trace(here: FrameType | None, all: bool) -> str:
    """As `stack`; the caller's stack begins at here."""
    infos = _core._goroutines(all, True, True, here, GoroutineInfo, StackFrame, entry_of)
    texts = [describe(info) for info in infos]
    if not all and not texts:  # no goroutine runs: the scheduler has called a signal handler
        texts = ["goroutine 0 [idle]:\n" + "".join(_lines(_walk(here)))]
    return "\n".join(texts)


def entry_of(fn: Any) -> StackFrame:
    """The beginning of the function a goroutine calls."""
    if isinstance(fn, _core._WaitGroupTask):
        fn = fn.__wrapped__
    while isinstance(fn, functools.partial | types.MethodType):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    if isinstance(fn, types.FunctionType):
        code, module = fn.__code__, fn.__globals__.get("__name__")
        return StackFrame(code.co_filename, code.co_firstlineno, f"{module}.{code.co_qualname}")
    if isinstance(fn, types.BuiltinFunctionType):
        owner = fn.__self__
        if owner is None or isinstance(owner, types.ModuleType):
            module = "runtime" if owner is _core else fn.__module__
            return StackFrame("<built-in>", 0, f"{module}.{fn.__qualname__}")
        owner = owner if isinstance(owner, type) else type(owner)
        return StackFrame("<built-in>", 0, f"{owner.__module__}.{owner.__qualname__}.{fn.__name__}")
    owner = type(fn)
    return StackFrame("<object>", 0, f"{owner.__module__}.{owner.__qualname__}.__call__")


def _walk(frame: FrameType | None) -> tuple[StackFrame, ...]:
    frames = []
    while frame is not None:
        module, code = frame.f_globals.get("__name__"), frame.f_code
        function = f"{module}.{code.co_qualname}"
        frames.append(StackFrame(code.co_filename, frame.f_lineno, function))
        frame = frame.f_back
    return tuple(frames)


def describe(g: GoroutineInfo) -> str:
    """One goroutine, as `stack` tells of it; g has its stack."""
    named = g.name not in ("main", f"goroutine-{g.id}")
    title = f"goroutine {g.id} {g.name!r} [" if named else f"goroutine {g.id} ["
    title += g.wait_reason or g.state
    minutes = int((g.wait_duration or 0) / 60)
    if minutes:
        title += f", {minutes} minutes"
    if g.locked:
        title += ", locked to thread"
    if g.bubble is not None:
        title += f", bubble {g.bubble}"
    lines = [title, "]:\n", *_lines(g.stack or ())]
    if g.spawned_at is not None:
        file, line, function = g.spawned_at
        lines.append(f"created by {function}\n\t{file}:{line}\n")
    return "".join(lines)


def _lines(frames: tuple[StackFrame, ...]) -> list[str]:
    lines = [
        f"{function}(...)\n\t{file}:{line}\n" if line else f"{function}(...)\n\t{file}\n"
        for file, line, function in frames
    ]
    elided = len(lines) - MAX_FRAMES
    if elided > 0:
        half = MAX_FRAMES // 2
        lines[half:-half] = [f"...{elided} frames elided...\n"]
    return lines


# --- dumps --------------------------------------------------------------------------------------


def report_deadlock() -> None:
    """Tell why DeadlockError is about to be raised; called by the scheduler."""
    all = goroutines()
    if len(all) == 1 and all[0].wait_reason == "goexit":
        why = "no goroutines (main called runtime.goexit)"
    else:
        why = "all goroutines are asleep"
    write(None, f"fatal error: {why} - deadlock!\n\n{trace(sys._getframe().f_back, True)}\n")


class DumpHandler:
    """A signal handler that prints the stacks of all goroutines."""

    __slots__ = ("exit", "file")

    def __init__(self, exit: bool, file: _File) -> None:
        self.exit, self.file = exit, file

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        try:
            title = f"{_signal_name(signum)}: {(signal.strsignal(signum) or '').lower()}"
            write(self.file, f"{title}\n\n{trace(frame, True)}\n")
        finally:
            if self.exit:
                os._exit(2)


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # real-time signals have no names
        return f"signal {signum}"


def dump_on_signal(
    signum: int = signal.SIGQUIT, *, exit: bool = False, file: _File = None
) -> None:
    """Print the stacks of all goroutines whenever the signal comes, and go on.

        runtime.dump_on_signal(signal.SIGUSR1)      # kill -USR1 <pid>

    exit: then end the process at once, with status 2 and nothing cleaned up, as in Go.  file is a
    descriptor or an open file, by default standard error.  To be called by the main thread;
    ValueError otherwise.  signal.signal() takes it back.

    Importing runtime does this for SIGQUIT, with exit=True, if the program has not said what is to
    be done about that signal; $GOSCHED_SIGQUIT is `exit`, `dump` (go on) or `off`.

    Go: what SIGQUIT does.
    """
    if file is not None and not isinstance(file, int) and not callable(_write_of(file)):
        raise TypeError(f"dump_on_signal(): file must be a file, not {type(file).__name__}")
    signal.signal(signum, DumpHandler(exit, file))


def install() -> None:
    """Handle SIGQUIT as $GOSCHED_SIGQUIT says; by the main thread, at import."""
    mode = os.environ.get("GOSCHED_SIGQUIT") or "exit"
    if mode not in ("exit", "dump", "off"):
        write(None, f"runtime: GOSCHED_SIGQUIT={mode!r} is none of exit, dump, off: ignored\n")
    if mode != "off" and _core._signal_is_default(signal.SIGQUIT):
        dump_on_signal(signal.SIGQUIT, exit=mode != "dump")


def write(file: _File, text: str) -> None:
    """Write text to file, None: standard error, past any buffer.  Raises nothing."""
    fd = _descriptor(file)
    if fd is None and file is not None:
        try:
            _write_of(file)(text)
            return
        except Exception:  # better there than nowhere
            fd = _descriptor(None)
    data = memoryview(text.encode(errors="backslashreplace"))
    try:
        while data and fd is not None:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                if not select.select([], [fd], [], WRITE_PATIENCE)[1]:
                    return
    except (OSError, ValueError):
        pass


def _write_of(file: Any) -> Any:
    return getattr(file, "write", None)


def _descriptor(file: _File) -> int | None:
    if isinstance(file, int):
        return file
    try:
        fd = (sys.__stderr__ if file is None else file).fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):  # none, none of the system's, closed
        return None
    return fd if isinstance(fd, int) else None
