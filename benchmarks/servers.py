"""The HTTP servers that are compared: one table for all HTTP benchmarks.

A server is a program that takes an address ("127.0.0.1:8080"), listens there and
serves every scenario it can; what it answers wrongly it does not take part in.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness import REPO, Program, free_address

PEERS = REPO / "benchmarks" / "peers"
BIN = REPO / "build" / "bench"
OURS = "gosched"
RUNTIME = (sys.executable, "-m", "runtime")


@dataclass(frozen=True)
class Server:
    name: str
    label: str
    argv: tuple[str, ...]  # the address is appended
    env: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self, cores: Sequence[int]) -> Iterator[tuple[Program, str]]:
        """A fresh process that listens, and its address; Unavailable if it fails."""
        address = free_address()
        with Program([*self.argv, address], cores=cores, env=self.env) as program:
            program.wait_listening(address)
            yield program, address


def python(script: str) -> tuple[str, ...]:
    return sys.executable, str(PEERS / script)


def from_checkout() -> dict[str, str]:
    """The environment in which `import runtime` finds this checkout, on one P."""
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "GOMAXPROCS": "1"}


SERVERS = {
    server.name: server
    for server in (
        Server(OURS, "gosched", python("hello_gosched.py"), from_checkout()),
        Server("epoll", "C epoll, minimal", (str(BIN / "epoll_hello"),)),
        Server("uvloop", "uvloop + httptools, raw", python("hello_uvloop.py")),
        Server("fastwsgi", "fastwsgi", python("hello_fastwsgi.py")),
        Server("bjoern", "bjoern", python("hello_bjoern.py")),
        Server("go", "Go net/http", (str(BIN / "hello_go"),), {"GOMAXPROCS": "1"}),
        Server("granian", "granian (WSGI)", python("hello_granian.py")),
        Server("uvicorn", "uvicorn (uvloop, httptools)", python("hello_uvicorn.py")),
        Server("gevent", "gevent pywsgi", python("hello_gevent.py")),
    )
}

# What http_table.py measures: programs that can do each of its kinds of work.
WORKERS = {
    server.name: server
    for server in (
        Server(OURS, "gosched", python("work_gosched.py"), from_checkout()),
        Server("go", "Go net/http", (str(BIN / "work_go"),), {"GOMAXPROCS": "1"}),
        Server("uvloop", "uvloop + httptools, raw", python("work_uvloop.py")),
        Server("granian", "granian (RSGI)", python("work_granian.py")),
        Server("uvicorn", "uvicorn (uvloop, httptools)", python("work_uvicorn.py")),
        Server("gevent", "gevent pywsgi", python("work_gevent.py")),
    )
}

# What workers.py measures: all on two cores, the Python ones with two processes.
PAIRS = {
    server.name: server
    for server in (
        Server(
            OURS,
            "gosched",
            (*RUNTIME, "serve", "compute_gosched:mux", "--app-dir", str(PEERS),
             "--workers", "2", "--bind"),
            from_checkout(),
        ),
        Server("go", "Go net/http", (str(BIN / "compute_go"),), {"GOMAXPROCS": "2"}),
        Server("granian", "granian (WSGI)", python("compute_granian.py")),
        Server("socketify", "socketify", python("compute_socketify.py")),
        Server("uvicorn", "uvicorn (uvloop, httptools)", python("compute_uvicorn.py")),
    )
}  # fmt: skip
