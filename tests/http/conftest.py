"""Fixtures of the HTTP server's tests: servers, in this process and in others, and a raw client.

``serve`` runs a server of this process on the runtime's auxiliary thread, so that the test itself
may use clients that block.  ``program`` runs one of the programs under scripts/ in a process of its
own.  ``SAFETY`` is how long anything may take before a test fails instead of hanging; no test
passes or fails by how long something took.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import runtime
from programs import environment
from runtime import http, net
from screens import Screen

SAFETY = 60.0
SCRIPTS = Path(__file__).parent / "scripts"
# On a loaded machine any client may be slower than it is allowed to be by default.
NO_RATES: dict[str, Any] = {"min_read_rate": None, "min_write_rate": None}


class Response(NamedTuple):
    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes
    trailing: bool  # its end was the end of the connection

    def __getitem__(self, name: Any) -> Any:
        """The one value of a header field; KeyError if there is none, or more."""
        if not isinstance(name, str):
            return tuple.__getitem__(self, name)
        values = self.all(name)
        if len(values) != 1:
            raise KeyError(f"{name}: {values}")
        return values[0]

    def all(self, name: str) -> list[str]:
        return [v for n, v in self.fields if n.lower() == name.lower()]


class Conn:
    """A raw connection that reads responses strictly (RFC 9112)."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(SAFETY)
        self.buf = b""

    def __enter__(self) -> Conn:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(self, data: bytes | str) -> Conn:
        self.sock.sendall(data.encode() if isinstance(data, str) else data)
        return self

    def _more(self) -> bool:
        data = self.sock.recv(1 << 16)
        self.buf += data
        return bool(data)

    def trickle(self, piece: str) -> Conn:
        """Send it again and again, each soon after the other, until there is an answer."""
        self.sock.settimeout(0.001)
        while True:
            self.send(piece)
            try:
                assert self._more(), "the connection ended without an answer"
                break
            except TimeoutError:
                pass
        self.sock.settimeout(SAFETY)
        return self

    def line(self) -> bytes:
        while b"\r\n" not in self.buf:
            assert self._more(), f"the connection ended within a line: {self.buf!r}"
        line, self.buf = self.buf.split(b"\r\n", 1)
        assert b"\n" not in line and b"\r" not in line
        return line

    def exactly(self, n: int) -> bytes:
        pieces = [self.buf]
        left = n - len(self.buf)
        while left > 0:
            data = self.sock.recv(min(left, 1 << 20))
            assert data, f"the connection ended with {left} of {n} bytes missing"
            pieces.append(data)
            left -= len(data)
        data = b"".join(pieces)
        self.buf = data[n:]
        return data[:n]

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which must be an orderly one."""
        while self._more():
            pass
        data, self.buf = self.buf, b""
        return data

    def head(self) -> Response:
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) ([\x20-\x7e]*)", self.line())
        assert match
        fields = []
        while line := self.line():
            field = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\t\x20-\x7e\x80-\xff]*)", line)
            assert field, line
            fields.append((field[1].decode(), field[2].decode("latin-1")))
        return Response(int(match[1]), match[2].decode(), fields, b"", False)

    def chunk(self) -> bytes:
        size = self.line()
        assert re.fullmatch(rb"[0-9a-f]+", size), size
        data = self.exactly(int(size, 16))
        assert self.exactly(2) == b"\r\n"
        return data

    def response(self, method: str = "GET") -> Response:
        r = self.head()
        length, codings = r.all("content-length"), r.all("transfer-encoding")
        assert len(length) + len(codings) <= 1
        assert len(r.all("date")) == 1
        assert r.all("server") == []
        if method == "HEAD" or r.status in (204, 304) or r.status < 200:
            return r
        if length:
            return r._replace(body=self.exactly(int(length[0])))
        if not codings:
            assert r["connection"] == "close"
            return r._replace(body=self.rest(), trailing=True)
        assert codings == ["chunked"]
        body = b""
        while data := self.chunk():
            body += data
        return r._replace(body=body)

    def ended(self) -> bool:
        """True once the server closes in good order, having sent nothing more."""
        return self.buf == b"" and not self._more()

    def half_close(self) -> Conn:
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def until(what: str, condition: Callable[[], bool]) -> None:
    """Wait for something no event tells of, leaving the GIL and the processor to others."""
    limit = time.monotonic() + SAFETY
    while not condition():
        assert time.monotonic() < limit, f"waited in vain until {what}"
        time.sleep(0.0005)


class Address:
    """What tests do with a server of either kind."""

    addr: str

    @property
    def where(self) -> tuple[str, int]:
        host, _, port = self.addr.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def url(self) -> str:
        return f"http://{self.addr}"

    def connect(self, rcvbuf: int = 0) -> Conn:
        unix = self.addr.startswith("unix:")
        target: Any = self.addr[5:] if unix else self.where
        ipv4 = not unix and ":" not in target[0]
        sock = socket.socket(
            socket.AF_INET if ipv4 else socket.AF_UNIX if unix else socket.AF_INET6
        )
        sock.settimeout(SAFETY)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        try:
            sock.connect(target)
        except OSError:
            sock.close()
            raise
        if not unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Conn(sock)

    def connect_in_time(self, seconds: float, data: bytes | str) -> Conn:
        """A connection on which data was sent well before that time was over.

        For servers that close one that is silent for so long, as any may be on a busy machine.
        """
        while True:
            began = time.monotonic()
            c = self.connect().send(data)
            if time.monotonic() - began < seconds / 2:
                return c
            c.close()

    def until_refused(self) -> None:
        """Wait until the server accepts no more connections."""

        def refused() -> bool:
            try:
                self.connect().close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                pass  # it was in the queue of the listener
            return False

        until("connections are refused", refused)

    def ask(self, request: bytes | str, method: str = "GET") -> Response:
        """The response to one request on a connection of its own."""
        with self.connect() as c:
            return c.send(request).response(method)

    def get(self, target: str = "/", fields: str = "") -> Response:
        return self.ask(f"GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")


class Running(Address):
    """A server of this process."""

    def __init__(self, server: http.Server, *listeners: Any) -> None:
        self.server = server
        if not listeners:
            server.listen()
        self.addr = str(listeners[0].addr) if listeners else server.addr
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=listeners, daemon=True)
        self.thread.start()
        until("it serves", lambda: bool(listeners) or server._socket.fileno() < 0)

    def _run(self, *listeners: Any) -> None:
        try:
            self.server.serve(*listeners)
        except BaseException as exc:
            self.failure = exc

    def stats(self) -> dict[str, int]:
        return self.server.stats()

    def until(self, **counts: int) -> None:
        """Wait until the server's statistics hold these values."""
        until(f"{counts}", lambda: counts.items() <= self.stats().items())

    def join(self) -> None:
        """Wait until serve() has returned, and raise what it raised."""
        self.thread.join(SAFETY)
        assert not self.thread.is_alive(), f"serve() goes on: {self.stats()}"
        if self.failure is not None:
            raise self.failure


class Streams(net.Listener):
    """Accepts as any listener, but is none that the server knows: what it accepts are streams."""


@pytest.fixture
def transport() -> str:
    """How `serve` lets the server have its connections: as "socket" or as "stream"."""
    return "socket"


@pytest.fixture
def serve(transport: str) -> Iterator[Callable[..., Running]]:
    """serve(handler, addr=..., **options) -> Running, stopped when the test ends."""
    started: list[Running] = []

    def start(handler: Any = None, addr: str = "127.0.0.1:0", **options: Any) -> Running:
        server = http.Server(handler, addr, **(NO_RATES | options))
        listeners = []
        if transport == "stream":
            unix = addr.startswith("unix:")
            plain = net.listen("unix", addr[5:]) if unix else net.listen("tcp", addr)
            listeners.append(Streams(plain._fd, plain._unlink, plain._conn_type))
        started.append(Running(server, *listeners))
        if listeners and unix:
            started[-1].addr = addr
        return started[-1]

    # The clients of a test block its thread: no goroutine may come to be bound to that.
    runtime.lock_os_thread()
    yield start
    runtime.unlock_os_thread()
    for running in started:
        running.server.close()
        running.join()
        running.until(connections=0)


class Program(Address):
    """A server in a process of its own."""

    def __init__(self, script: str, *args: str, **popen: Any) -> None:
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self.proc = subprocess.Popen(
            [sys.executable, str(SCRIPTS / script), *args],
            stdout=subprocess.PIPE,
            stderr=self._err,
            env=environment(),
            **popen,
        )
        self.addr = self.read_line()
        assert self.addr, self.stderr()

    def read_line(self) -> str:
        """The next line the program prints; "" at the end of its output."""
        assert self.proc.stdout is not None
        return self.proc.stdout.readline().decode().rstrip("\n")

    def stderr(self) -> str:
        self._err.seek(0)
        return self._err.read().decode()

    def stats(self) -> dict[str, Any]:
        return json.loads(self.get("/stats", "Connection: close\r\n").body)

    def until(self, **counts: int) -> None:
        until(f"{counts}", lambda: counts.items() <= self.stats().items())

    def rss(self) -> int:
        """Its resident memory in bytes."""
        pages = Path(f"/proc/{self.proc.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.proc.pid}/fd"))

    def send_signal(self, signum: int) -> None:
        self.proc.send_signal(signum)

    def wait(self) -> int:
        return self.proc.wait(SAFETY)

    def stop(self, signum: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and wait: exit status and what is on stderr."""
        self.send_signal(signum)
        return self.wait(), self.stderr()


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """program(script, *args) -> Program, killed when the test ends."""
    started: list[Program] = []

    def start(script: str, *args: str, **popen: Any) -> Program:
        started.append(Program(script, *args, **popen))
        return started[-1]

    yield start
    for p in started:
        if p.proc.poll() is None:
            p.proc.kill()
        p.proc.wait(SAFETY)
        assert p.proc.stdout is not None
        p.proc.stdout.close()
        p._err.close()


class Supervised(Address):
    """A supervisor with its workers: a command in a session of its own.

    What it serves has scripts/workers_app.py's paths.
    """

    def __init__(self, command: list[str], **popen: Any) -> None:
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        env = environment(**popen.pop("env", {}))
        env["PYTHONPATH"] += os.pathsep + str(SCRIPTS)
        # Processes that are all killed leave what they have there.
        self._temporary = tempfile.TemporaryDirectory()
        env = {"TMPDIR": self._temporary.name} | env
        self.proc = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=self._err,
            env=env,
            start_new_session=True,
            **popen,
        )
        self.addr = ""

    def until_serving(self, workers: int) -> Supervised:
        """Wait until so many workers have begun to serve."""
        first = r"process \d+ serves ([^,\s]+).* with"  # of its addresses
        self.until_logged(first)
        self.addr = re.findall(first, self.stderr())[0]
        self.until_started(workers)
        return self

    def stderr(self) -> str:
        size = os.fstat(self._err.fileno()).st_size
        return os.pread(self._err.fileno(), size, 0).decode()

    def until_logged(self, pattern: str, times: int = 1) -> None:
        def logged() -> bool:
            over = self.proc.poll() is not None
            found = len(re.findall(pattern, self.stderr())) >= times
            assert found or not over, f"{pattern!r} is missing: {self.stderr()}"
            return found

        until(f"it logs {pattern}", logged)

    def started(self) -> list[int]:
        """The process ids of all workers that have begun to serve, in that order."""
        return [int(pid) for pid in re.findall(r"\(process (\d+)\) serves", self.stderr())]

    def until_started(self, n: int) -> list[int]:
        """Wait until n workers in all have begun to serve."""
        self.until_logged(r"\(process \d+\) serves", n)
        return self.started()

    def workers(self) -> list[dict[str, Any]]:
        """http.workers() of one of them, without what is in the snapshots besides requests."""
        return json.loads(self.get("/workers", "Connection: close\r\n").body)

    def send_signal(self, signum: int) -> None:
        self.proc.send_signal(signum)

    def stop(self, signum: int = signal.SIGTERM) -> str:
        """Stop it, which must end well: what it has logged."""
        self.send_signal(signum)
        assert self.proc.wait(SAFETY) == 0, self.stderr()
        return self.stderr()

    def kill(self) -> None:
        try:
            os.killpg(self.proc.pid, signal.SIGKILL)  # its workers, too
        except ProcessLookupError:
            pass
        self.proc.wait(SAFETY)
        self._err.close()
        self._temporary.cleanup()


@pytest.fixture
def supervised() -> Iterator[Callable[..., Supervised]]:
    """supervised(addr, workers=N, **options): http.serve() with workers, in another process.

    supervisor={...} are times of the supervisor, peers={...} of the questions among workers.  With
    command=[...] that is run instead.  All of it is killed when the test ends.
    """
    started: list[Supervised] = []

    def start(addr: str = "127.0.0.1:0", *, workers: int = 2, **options: Any) -> Supervised:
        command = options.pop("command", None)
        popen = {name: options.pop(name) for name in ("env", "cwd") if name in options}
        if command is None:
            options["workers"] = workers
            command = [sys.executable, str(SCRIPTS / "workers.py"), addr, json.dumps(options)]
        started.append(Supervised(command, **popen))
        return started[-1]

    yield start
    for s in started:
        s.kill()


@pytest.fixture
def no_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that AddressSanitizer holds back would look like a leak."""
    options = os.environ.get("ASAN_OPTIONS", "")
    small = "quarantine_size_mb=1:thread_local_quarantine_size_kb=16"
    monkeypatch.setenv("ASAN_OPTIONS", f"{options}:{small}")


@pytest.fixture
def app(program: Callable[..., Program]) -> Program:
    """scripts/app.py in a process of its own."""
    return program("app.py")


@pytest.fixture
def tool() -> Callable[..., bytes]:
    """tool("curl", ...): what a program that is not ours prints; it must succeed."""

    def run(*args: str, data: bytes | None = None) -> bytes:
        # The sanitizers' library is for the interpreter only.
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        p = subprocess.run(args, input=data, capture_output=True, timeout=2 * SAFETY, env=env)
        assert p.returncode == 0, p.stderr.decode()
        return p.stdout

    return run


@pytest.fixture
def wrk(tool: Callable[..., bytes]) -> Callable[..., int]:
    """wrk(url, *options): load for a second without a single error; the number of requests."""

    def run(url: str, *options: str) -> int:
        out = tool("wrk", "-t1", "-d1s", "--timeout", str(int(SAFETY)), *options, url).decode()
        assert "Socket errors" not in out and "Non-2xx" not in out, out
        done = re.search(r"(\d+) requests in", out)
        assert done is not None
        return int(done[1])

    return run


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, by selenium's driver."""
    import chromium

    with chromium.running(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture(params=[1, 2, 4])
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test with several numbers of Ps, in this process and in the programs it starts."""
    before = runtime.gomaxprocs(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOMAXPROCS", str(request.param))
        yield request.param
    runtime.gomaxprocs(before)


@pytest.fixture
def wait_until() -> Callable[[str, Callable[[], bool]], None]:
    return until


@pytest.fixture
def screen() -> Iterator[Callable[..., Screen]]:
    """Starts `python -m runtime top` on a pseudo-terminal."""
    started: list[Screen] = []

    def start(*arguments: str, **options: Any) -> Screen:
        started.append(Screen(*arguments, **options))
        return started[-1]

    yield start
    for s in started:
        s.close()
