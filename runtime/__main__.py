"""python -m runtime COMMAND: the tools of this package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import runtime

_HELP = """\
usage: python -m runtime COMMAND ...

  serve MODULE[:ATTRIBUTE]   serve HTTP by worker processes
  top ADDRESS                watch a server's schedulers in a terminal

python -m runtime COMMAND --help tells more.
"""


def main(argv: Sequence[str]) -> int:
    """Run a command; the exit status."""
    command, rest = (argv[0], argv[1:]) if argv else ("", [])
    if command == "serve":
        from runtime._http.workers import cli

        return cli.main(rest)
    if command == "top":
        status: int = importlib.import_module("runtime._top").main(rest)
        return status
    if command in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if command == "--version":
        print(f"gosched {runtime.__version__}")
        return 0
    what = f"there is no command {command!r}" if command else "a command is needed"
    print(f"gosched: {what}: serve or top", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
