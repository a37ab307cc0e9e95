"""What the scripts of this folder share: the shim, a trial with one fault, and every n in turn."""

import contextlib
import faulthandler
import gc
import importlib.machinery
import importlib.util
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from itertools import count
from typing import Any

TIME_LIMIT = 30  # seconds, for one trial: what takes longer hangs
MISSES = 3  # faults on end that no trial came to, before there are taken to be no more
# What is to fail: the arguments of faults.arm(), which are the name of a call, the first
# and how many of them (1 is the next), and the errno.
Fault = tuple[str, int, int, int]


def _load_shim() -> Any:
    path = os.environ["LD_PRELOAD"].split(":")[-1]
    loader = importlib.machinery.ExtensionFileLoader("_faults", path)
    spec = importlib.util.spec_from_loader("_faults", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


faults = _load_shim()
# Not dump_traceback_later(): its thread would not survive a fork.
faulthandler.enable()
faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)


def close(ch: Any) -> None:
    """Close a channel that may not exist, or be closed already."""
    from runtime import ChanClosed

    with contextlib.suppress(ChanClosed):
        if ch is not None and not ch.closed:
            ch.close()


class Scenario:
    """What is done while something fails; made anew, before that, for each trial.

    CPython itself cannot stand every failure: no function or lambda is defined in run(), no
    context variable set, no thread started, no type created.
    """

    # What the fault itself may raise, and what may follow from that.
    primary: tuple[type[BaseException], ...] = (MemoryError,)
    secondary: tuple[type[BaseException], ...] = ()

    def __init__(self) -> None:
        # Places for what run() makes: to store there allocates nothing.
        self.gs: list[Any] = [None] * 16  # goroutines
        self.chans: list[Any] = [None] * 2
        self.thread_error: BaseException | None = None

    def run(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        """Nothing fails any more: make what still waits go on, and see whether all is well."""

    def end(self) -> list[BaseException]:
        """Bring everything to its end; what the goroutines and threads have failed with."""
        errors: list[BaseException] = []
        self.release()
        for ch in self.chans:
            close(ch)
        for i, g in enumerate(self.gs):
            self.gs[i] = None
            if g is not None:
                try:
                    g.join(TIME_LIMIT / 3)
                except BaseException as e:
                    errors.append(e)
        if self.thread_error is not None:
            errors.append(self.thread_error)
        return errors


def trial(make: Callable[[], Scenario], fault: Fault) -> bool:
    """Run a scenario with the fault; whether it came to that.  AssertionError: a bug."""
    import runtime

    errors: list[BaseException] = []
    runtime.excepthook = lambda g, e: errors.append(e)
    others = runtime.num_goroutine()
    fds = open_fds()
    scenario = make()
    disarm = faults.disarm
    faults.arm(*fault)
    try:
        scenario.run()
        disarm()
    except BaseException as e:
        disarm()
        errors.append(e)
    hit = faults.seen() >= fault[1]
    try:
        # What a signal handler has raised is on its way to the main goroutine.
        runtime.gosched()
    except MemoryError as e:
        errors.append(e)
    errors += scenario.end()
    end = time.monotonic() + TIME_LIMIT / 3
    while runtime.num_goroutine() != others:
        assert time.monotonic() < end, f"a goroutine is lost: {runtime.stats()}"
        runtime.sleep(0.0002)
    check_errors(scenario, errors, hit)
    errors.clear()
    del scenario
    check_runtime()
    while open_fds() != fds:
        gc.collect()  # a traceback may keep objects alive, or be printed right now
        assert time.monotonic() < end, f"descriptors: {fds} before, {open_fds()} after"
    return hit


def is_cpythons(e: BaseException) -> bool:
    """Whether CPython has lost a MemoryError: where there is no memory for the frame of a
    Python function that it calls, it sets none.  (Of a C function the message says which.)"""
    return isinstance(e, SystemError) and (
        str(e) == "error return without exception set"
        or bool(re.fullmatch("<function .* returned NULL without setting an exception", str(e)))
    )


def check_errors(scenario: Scenario, errors: list[BaseException], hit: bool) -> None:
    from runtime import ChanClosed, DeadlockError

    secondary = (ChanClosed, DeadlockError, *scenario.secondary)
    some_primary = False
    for e in errors:
        primary = isinstance(e, scenario.primary) and not isinstance(e, TimeoutError)
        if primary or is_cpythons(e):
            some_primary = True
        elif not isinstance(e, secondary):
            raise AssertionError("the wrong exception") from e
    if errors:
        assert hit, "it fails without a fault"
        assert some_primary, "only the consequences of a failure were raised"


def check_runtime() -> None:
    """The runtime works, and counts right."""
    import runtime

    ch: Any = runtime.Chan()
    assert runtime.go(lambda x: x + 1, 1).join() == 2
    g = runtime.go(ch.send, 3)
    assert ch.recv() == 3
    g.join()
    buffered: Any = runtime.Chan(1)
    buffered.send(4)
    assert buffered.recv() == 4
    runtime.sleep(0)
    runtime.sleep(0.00001)
    try:
        ch.recv(0.00001)
        raise AssertionError("nothing was sent")
    except TimeoutError:
        pass
    s = runtime.stats()
    assert s["created"] - s["finished"] + 1 == s["goroutines"] == runtime.num_goroutine(), s


def open_fds() -> list[str]:
    """What descriptors are open, but for pollers: those come as Ms are started."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the one that listdir() read
            pass
    return sorted(link for link in links if not link.startswith("anon_inode:"))


def in_child(fn: Callable[[], bool]) -> bool:
    """Call fn in a child process.  AssertionError, with all it printed, unless it returns."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            os.close(r)
            os.dup2(w, 1)
            os.dup2(w, 2)
            os.close(w)
            signal.alarm(TIME_LIMIT)
            status = 1 if fn() else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(w)
    output = b""
    while chunk := os.read(r, 65536):
        output += chunk
    os.close(r)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1), f"exit status {status}\n{output.decode(errors='replace')}"
    return status == 1


def every_n(what: str, attempt: Callable[[int], bool], start: int = 1, step: int = 1) -> int:
    """attempt(n) for n = start, start + step ... in child processes, until a few on end do
    not come to their fault: threads make it vary.  How many came to it.

    Exits with what went wrong, if anything did.
    """
    problems = []
    hits = misses = 0
    for n in count(start, step):
        try:
            if in_child(lambda n=n: attempt(n)):
                hits += 1
                misses = 0
            else:
                misses += 1
        except AssertionError as e:
            problems.append(f"--- {what}, number {n}: {e}")
        if len(problems) == 3 or misses == MISSES:
            break
    if problems:
        sys.exit("\n".join(problems))
    return hits
