"""The command line that the benchmarks share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import wrk
from harness import pick_cores


def parser(
    doc: str, names: Sequence[str], *, rounds: int = 5, seconds: float | None = None
) -> argparse.ArgumentParser:
    """The options that all have; names: who, or what, can be chosen.

    With seconds servers are loaded for that long, on one core from another; as an int, whole ones.
    """
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--only", metavar="A,B", help=f"of: {', '.join(names)}")
    made.add_argument("--json", type=Path, metavar="FILE", help="save every sample")
    if seconds is not None:
        server_core, load_core = pick_cores()
        made.add_argument(
            "--seconds", type=type(seconds), default=seconds, help="measured time in a round"
        )
        made.add_argument("--server-core", type=int, default=server_core)
        made.add_argument("--load-core", type=int, default=load_core)
    made.set_defaults(all_names=names)
    return made


def parse(made: argparse.ArgumentParser, *, needs_wrk: bool = False) -> argparse.Namespace:
    """The options, and in `names` what was chosen; ends the program where they make no sense."""
    options = made.parse_args()
    options.names = chosen(made, options.only, options.all_names)
    if needs_wrk and not wrk.installed():
        made.error("wrk is not installed (Debian: apt-get install wrk)")
    return options


def chosen(made: argparse.ArgumentParser, text: str | None, names: Sequence[str]) -> list[str]:
    """The names in "A,B", or all."""
    wanted = text.split(",") if text else list(names)
    for name in wanted:
        if name not in names:
            made.error(f"nothing is called {name!r}; there are {', '.join(names)}")
    return wanted
