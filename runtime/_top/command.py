"""The command line of `python -m runtime top`."""

from __future__ import annotations

import argparse
import getpass
import math
import sys
from collections.abc import Sequence
from typing import NoReturn

from runtime._top.names import NAMES
from runtime._top.source import PATH, Address, Source, SourceError, basic, header

MISSING = "this needs rich: pip install 'gosched[top]'"
PROGRAM = "python -m runtime top"
_DESCRIPTION = """Show in a terminal what a server's debug page (http.debug.handler()) shows:
Ps, requests, routes and workers, goroutines with their stacks, who waits for whom, latencies."""
_EPILOG = """Keys: 1 to 4 and Tab switch between the views, p pauses, q quits.
Overview: s sorts the routes by requests, p99 or errors. Goroutines and waits: arrows, j, k, PgUp
and PgDn move, Enter shows the stack of the first goroutine of a row, Left and Right those of
others, Esc goes back; / filters while you type, Enter keeps the filter, Esc drops it.
The first picture shows means since the server's start, the next ones what happened in between.
$NO_COLOR is honoured. Exit status: 1 if the server cannot be asked, 2 for senseless arguments."""
MIN_INTERVAL = 0.1  # seconds: a sample is not free for the server
MAX_INTERVAL = 3600


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status.

    0 when the user leaves, 1 if the server cannot be asked, 2 for arguments that make no sense.
    """
    parser = _Parser(prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG)
    _add_options(parser)
    options = parser.parse_args(argv)
    try:
        address = Address(options.address, options.path)
    except ValueError as exc:
        parser.error(f"argument ADDR: {options.address!r}: {exc}")
    try:
        from runtime._top.live import run
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "rich":
            raise
        return _failed(MISSING)
    try:
        headers = dict(options.header)
        if options.user is not None:
            name, colon, password = options.user.partition(":")
            if not colon:
                password = getpass.getpass(f"Password of {name}: ")
            headers["Authorization"] = basic(f"{name}:{password}")
        source = Source(address, headers.items(), options.pid)
        run(source, options.interval, options.once, options.view)
    except SourceError as exc:
        return _failed(str(exc))
    except (KeyboardInterrupt, EOFError):
        pass  # the usual way to end it; at the question for a password, too
    return 0


def _failed(why: str) -> int:
    print(f"gosched: {why}", file=sys.stderr)
    return 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"gosched: {message}\n")


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not MIN_INTERVAL <= seconds <= MAX_INTERVAL:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not from {MIN_INTERVAL:g} to {MAX_INTERVAL:,} seconds"
        )
    return seconds


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of a process")
    return int(text)


def _header(text: str) -> tuple[str, str]:
    try:
        return header(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address",
        metavar="ADDR",
        help="of the server: HOST:PORT, :PORT, the URL of the page, or unix:PATH",
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        default=1.0,
        metavar="SECONDS",
        help="from one sample to the next (default: 1)",
    )
    parser.add_argument(
        "--path",
        metavar="PATH",
        help=f"where http.debug.handler() is mounted (default: that of the URL, or {PATH})",
    )
    parser.add_argument(
        "--view",
        choices=NAMES,
        default=NAMES[0],
        metavar="NAME",
        help=f"show this at first, or print it: {', '.join(NAMES)} (default: {NAMES[0]})",
    )
    parser.add_argument(
        "--pid",
        type=_pid,
        metavar="N",
        help="of several worker processes the one whose goroutines and waits are shown "
        "(default: the one that answers)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="print a view as plain text (of counters: what happens in one interval); "
        "also if the output is no terminal",
    )
    parser.add_argument(
        "--user",
        metavar="NAME:PASSWORD",
        help="log in; without :PASSWORD you are asked for it",
    )
    parser.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="send this header field, too; may be given several times",
    )
