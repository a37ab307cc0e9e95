"""Programs that tests run in processes of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import runtime

ROOT = Path(runtime.__file__).resolve().parents[1]


def environment(**env: str) -> dict[str, str]:
    """This process's, with the package under test on the path, and env."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path} | env


def run(source: str | Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program, given as text or as a file, to its end.

    The time limit is only a safety net.
    """
    program = ["-c", textwrap.dedent(source)] if isinstance(source, str) else [str(source)]
    return subprocess.run(
        [sys.executable, *options, *program],
        capture_output=True,
        text=True,
        timeout=110,
        env=environment(**env),
    )
