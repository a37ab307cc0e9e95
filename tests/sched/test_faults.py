"""What does not fail fails: each n-th allocation and system call, in programs of faults/.

Every trial is a process of its own that runs one of faults/scenarios.py with the n-th
allocation, or the n-th call of a libc function, failing.  An exception may come of it, but no
crash, no hang, no goroutine or descriptor that is lost, and the runtime works afterwards.

Here each n is tried once, or every few n where there are many: from which one on is chosen by
$GOSCHED_FAULTS_OFFSET.  `make soak` tries every n of everything.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from certs import Authority

import runtime

ROOT = Path(runtime.__file__).resolve().parents[1]
FAULTS = Path(__file__).with_name("faults")
OFFSET = int(os.environ.get("GOSCHED_FAULTS_OFFSET", "20785"))

# CPython 3.13 corrupts the dict of a type for which memory runs out while it is made: there only
# what the core allocates fails in imports.
CPYTHON_BREAKS = sys.version_info >= (3, 13)


def memory(what: str) -> str:
    """The allocations that fail in a scenario, or in an import."""
    only_core = CPYTHON_BREAKS and what == "import"
    return "core_alloc:ENOMEM" if only_core else "alloc:ENOMEM"


# Steps from one n to the next, such that each scenario takes about a second.
ALLOCATIONS = {
    "Spawn": 1,
    "Arguments": 1,
    "Context": 1,
    "Failing": 1,
    "Deadlock": 13,
    "Unbuffered": 1,
    "Buffered": 1,
    "Timeouts": 2,
    "TimerHeap": 2,
    "Clocks": 1,
    "ClockHeap": 1,
    "Select": 3,
    "Contexts": 3,
    "Locks": 2,
    "Waits": 3,
    "WaitGroupGo": 2,
    "Maps": 3,
    "Flights": 3,
    "Nested": 3,
    "Bubble": 3,
    "BubbleDeadlock": 7,
    "Explore": 7,
    "ThreadBubble": 3,
    "ThreadSpawns": 1,
    "ThreadWaits": 1,
    "ThreadClocks": 1,
    "Net": 3,
    "Unix": 2,
    "Packets": 4,
    "Passing": 5,
    "Pipe": 1,
    "ThreadNet": 1,
    "HTTP": 4,
    "HTTPRefused": 4,
    "Life": 29,
    "Hijack": 6,
    "Mux": 4,
    "Files": 11,
    "HTTPStream": 7,
    "Shutdown": 1,
    "BlockingAgain": 2,
    "Preempt": 1,
    "ThreadPreempt": 2,
    "Names": 11,
    "Eyeballs": 13,
    "TLS": 61,
    "Proxied": 7,
    "MemoryPipe": 9,
}

THREADS = ["pthread_create:EAGAIN", "pthread_mutex_init:ENOMEM", "pthread_cond_init:ENOMEM"]
POLLER = ["epoll_create1:EMFILE", "eventfd:EMFILE", "epoll_ctl:ENOMEM", "epoll_wait:EINTR"]
SOCKETS = [
    "socket:EMFILE",
    "bind:EADDRINUSE",
    "listen:EADDRINUSE",
    "connect:ECONNREFUSED",
    "accept4:EMFILE",
    "accept4:ECONNABORTED",
    "accept4:EPROTO",
    "accept4:EINTR",
    "accept4:ENOBUFS",
    "getsockopt:ENOBUFS",
    "getpeername:ENOTCONN",
    "setsockopt:ENOBUFS",
    "fcntl:EBADF",
    "recv:ECONNRESET",
    "recv:EINTR",
    "send:ECONNRESET",
    "send:EINTR",
    "shutdown:ENOTCONN",
    "close:EINTR",
]
CALLS = {
    "Spawn": THREADS,
    "ThreadSpawns": THREADS + POLLER,
    "ThreadWaits": THREADS + POLLER,
    "ThreadClocks": THREADS + POLLER,
    "Blocking": THREADS + POLLER,
    "ThreadPreempt": THREADS + POLLER,
    "Net": SOCKETS + POLLER,
    "Unix": SOCKETS + POLLER,
    "Packets": SOCKETS + POLLER,
    "Passing": [*SOCKETS, *POLLER, "sendfile:EINTR", "sendfile:EINVAL", "sendfile:EIO"],
    "ThreadNet": SOCKETS + POLLER + THREADS,
    "HTTP": SOCKETS + POLLER,
    "HTTPRefused": POLLER,
    "Life": POLLER,
    "Hijack": SOCKETS + POLLER,
    "Files": [
        "sendfile:EINTR",
        "sendfile:EINVAL",
        "sendfile:EIO",
        "sendfile:ECONNRESET",
        "pread:EINTR",
        "pread:EIO",
        "openat2:EAGAIN",
        "openat2:EMFILE",
        "openat2:ENOSYS",
        "send:ECONNRESET",
    ],
    "HTTPStream": SOCKETS + POLLER,
    "Shutdown": SOCKETS + POLLER,
    "Eyeballs": SOCKETS + POLLER,
    "TLS": ["recv:ECONNRESET", "recv:EINTR", "send:ECONNRESET", "send:EINTR", *POLLER],
    "Proxied": SOCKETS + POLLER,
    "Pipe": ["read:EIO", "read:EINTR", "write:EIO", "write:EINTR", *POLLER],
}


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faults/shim.c, compiled for this Python."""
    out = tmp_path_factory.mktemp("faults") / "shim.so"
    include = {f"-I{sysconfig.get_path(p)}" for p in ("include", "platinclude")}
    flags = ["-O1", "-g", "-shared", "-fPIC", "-Wall", "-Wextra", "-fvisibility=hidden"]
    command = ["cc", *flags, *sorted(include), str(FAULTS / "shim.c"), "-o", str(out), "-ldl"]
    subprocess.run(command, check=True)
    Authority(out.parent).issue("localhost")
    return out


def run(shim: Path, script: str, *args: str, procs: int | None = None) -> int:
    """How many trials came to their failure; AssertionError, with what the script says, if
    one went wrong."""
    env = os.environ | {
        # A sanitizer's runtime must stay the first.
        "LD_PRELOAD": ":".join([*os.environ.get("LD_PRELOAD", "").split(), str(shim)]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(FAULTS)]),
        "GOSCHED_STALL_MS": "0",
        "GOSCHED_FAULTS_CERTS": str(shim.parent),
    }
    if procs is not None:
        env["GOMAXPROCS"] = str(procs)
    done = subprocess.run(
        [sys.executable, str(FAULTS / script), *args], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, f"{script} {' '.join(args)}\n{done.stdout}{done.stderr}"
    return int(done.stdout)


def every(step: int) -> str:
    return f"{1 + OFFSET % step}:{step}"


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_allocation_fails_with_an_exception(shim: Path, name: str) -> None:
    what = memory(name)
    step = "1:1" if what.startswith("core") else every(ALLOCATIONS[name])
    hits = run(shim, "inject.py", name, "1", step, what)
    assert hits > 0 or name == "Shutdown"


@pytest.mark.parametrize(
    "name",
    [
        "Spawn",
        "Timeouts",
        "Clocks",
        "Select",
        "ThreadSpawns",
        "Net",
        "HTTP",
        "Life",
        "Hijack",
        "Shutdown",
    ],
)
def test_allocation_fails_with_several_ps(shim: Path, name: str) -> None:
    what = memory(name)
    step = "1:1" if what.startswith("core") else every(ALLOCATIONS[name] * 2)
    assert run(shim, "inject.py", name, "1", step, what, procs=4) > 0


# While nothing can be allocated nobody is preempted, and a shutdown allocates nothing in the core.
@pytest.mark.parametrize(
    "name",
    ["Blocking", *(n for n in ALLOCATIONS if "Preempt" not in n and n != "Shutdown")],
)
def test_core_gets_no_memory_any_more_fails_with_exceptions(shim: Path, name: str) -> None:
    hits = run(shim, "inject.py", name, "-1", "1:1", "core_alloc:ENOMEM")
    # Whether plain threads have to wait, which takes memory, depends on who comes first.
    assert hits > 0 or name == "ThreadWaits"


def test_preemption_without_memory_does_not_hang(shim: Path) -> None:
    assert run(shim, "inject.py", "Busy", "-1", "1:1000000", "core_alloc:ENOMEM", procs=1) == 1


@pytest.mark.parametrize("name", CALLS)
def test_call_fails_with_an_exception(shim: Path, name: str) -> None:
    hits = run(shim, "inject.py", name, "1", "1:1", *CALLS[name])
    assert hits > 0 or name == "ThreadWaits"  # it may find all it needs made already


def test_threads_start_later_that_cannot_be_started_now(shim: Path) -> None:
    """Even if nobody but sysmon is left to ask for them."""
    assert run(shim, "inject.py", "ThreadPreempt", "3", "2:1", "pthread_create:EAGAIN", procs=4) > 0


def test_import_fails_and_works_the_next_time(shim: Path) -> None:
    what = memory("import")
    assert run(shim, "imports.py", every(5 if what.startswith("core") else 61), what) > 0
    assert run(shim, "imports.py", "1:1", *POLLER, *THREADS) > 0


@pytest.mark.soak
@pytest.mark.parametrize("procs", [1, 4])
# Of several in a row one may hit the plain thread of a scenario while it handles another.
@pytest.mark.parametrize(
    ("name", "times"),
    [(n, t) for n in ALLOCATIONS for t in ([1] if "Thread" in n else [1, 2, 4])],
)
def test_every_allocation_fails_with_an_exception(
    shim: Path, name: str, times: int, procs: int
) -> None:
    run(shim, "inject.py", name, str(times), "1:1", memory(name), procs=procs)


@pytest.mark.soak
@pytest.mark.parametrize("procs", [1, 4])
@pytest.mark.parametrize("name", CALLS)
def test_every_call_fails_with_an_exception(shim: Path, name: str, procs: int) -> None:
    run(shim, "inject.py", name, "1", "1:1", *CALLS[name], procs=procs)


@pytest.mark.soak
def test_every_import_fails_and_works_the_next_time(shim: Path) -> None:
    run(shim, "imports.py", "1:1", *{"core_alloc:ENOMEM", memory("import")})
