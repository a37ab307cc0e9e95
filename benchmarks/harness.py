"""Programs under measurement: started on chosen cores, verified, accounted, stopped.

Invariants:

- A program leads its own session, so that its workers are found (accounting) and
  ended (stopping) with it.
- CPU time is read from the kernel's per-process CPU clocks: nanoseconds, user plus
  system, all threads, including those that have ended. The `stat` file would give
  ticks of 10 ms.
- The load generator and this process run on other cores than the program measured.
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

REPO = Path(__file__).resolve().parent.parent
START_TIMEOUT = 15.0  # seconds until a server must accept connections
STOP_TIMEOUT = 5.0  # seconds until an asked program is killed


class Unavailable(Exception):
    """A program cannot take part; the message is one line that says why."""


def last_line(text: str) -> str:
    """The last line of `text` that is not blank: where programs put the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def pick_cores() -> tuple[int, int]:
    """A core for the program measured and one for the load (the same if there is one)."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def pin(cores: Sequence[int]) -> list[str]:
    """The command prefix that runs a program on these cores only."""
    return ["taskset", "-c", ",".join(map(str, cores))]


def free_address() -> str:
    """A loopback address whose port is free."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def prepare() -> int:
    """Set this process up; returns how many descriptors it and its children may open.

    SIGTERM unwinds it, as Ctrl-C does, so that no program is left running.
    """
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Program:
    """A running program. Use it as a context manager: leaving stops it.

    Raises Unavailable if it cannot be started at all.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cores: Sequence[int],
        env: Mapping[str, str] | None = None,
    ) -> None:
        if "/" in argv[0] and not Path(argv[0]).exists():
            raise Unavailable(f"{Path(argv[0]).name} is not built")
        # Files and not pipes: a full pipe would block the program.
        self._stdout = tempfile.TemporaryFile("w+")  # noqa: SIM115 (stop closes it)
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 (stop closes it)
        self._process = subprocess.Popen(
            [*pin(cores), *argv],
            cwd=REPO,
            env=os.environ | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """That of the process that was started."""
        return self._process.pid

    def pids(self) -> Iterator[int]:
        """The program's processes: those of its session that still run."""
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == self._process.pid:
                    yield pid

    def cpu_seconds(self) -> float:
        """CPU time used so far by all its running processes (user + system)."""
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of Linux.
                total += time.clock_gettime((~pid << 3) | 2)
        return total

    def rss(self) -> int:
        """Resident memory of all its processes, in bytes."""
        kib = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Rss:"):
                        kib += int(line.split()[1])
        return kib * 1024

    def wait_listening(self, address: str) -> None:
        """Return once a connection is accepted; Unavailable if that never happens."""
        host, port = address.split(":")
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise Unavailable(last_line(self.errors()))
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise Unavailable(f"did not listen within {START_TIMEOUT:.0f} s")

    def check_alive(self) -> None:
        """Unavailable if it has ended."""
        status = self._process.poll()
        if status is not None:
            raise Unavailable(f"ended with status {status}: {last_line(self.errors())}")

    def output(self, timeout: float) -> str:
        """What it prints until it ends by itself; Unavailable if that goes wrong."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"did not finish within {timeout:.0f} s") from None
        if status != 0:
            raise Unavailable(f"exit status {status}: {last_line(self.errors())}")
        self._stdout.seek(0)
        return self._stdout.read()

    def errors(self) -> str:
        """What it has written to its error output."""
        self._stderr.seek(0)
        return self._stderr.read()

    def stop(self) -> None:
        """End the whole session: ask first, kill what has not gone in time."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._stdout.close()
        self._stderr.close()

    def _signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)
