"""python -m runtime serve module:attribute: the command line."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import runtime
from runtime._http.server import Server, _split_addr
from runtime._http.workers.app import ATTRIBUTES, find, is_server
from runtime._http.workers.lines import LineFile
from runtime._http.workers.plan import LEAST_TIMEOUT, MAX_WORKERS, Plan, UsageError
from runtime._http.workers.supervisor import supervise

USAGE = 2  # exit status
_MOST = 2**31 - 1  # what an int of C holds

_DESCRIPTION = """\
Serve a handler, a mux or an http.Server by worker processes, which are replaced when they die.
Signals: HUP replaces the workers, with new code; TTIN and TTOU ask for one more, or one fewer;
TERM and INT stop them gracefully, and a second one at once.
Exit status: 0 after TERM or INT; 2: the command line makes no sense, or an address is taken;
3: workers fail to boot.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _number(least: int, most: int | None = None) -> Any:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} on")
        if most is not None and int(text) > most:
            raise argparse.ArgumentTypeError(f"{text} is more than {most}")
        return int(text)

    return number


def _seconds(least: float = 0.0) -> Any:
    def seconds(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e9:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; 0 means no limit")
        if 0 < value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least:g}; 0 means no limit")
        return value or None

    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m runtime serve",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "app",
        metavar="MODULE[:ATTRIBUTE]",
        help=f"what to serve; without ATTRIBUTE the first of {', '.join(ATTRIBUTES)} that exists",
    )
    add("--factory", action="store_true", help="ATTRIBUTE is a function that returns it")
    add("--app-dir", metavar="DIR", default="", help="where to look for MODULE first [.]")

    group = parser.add_argument_group("addresses")
    add = group.add_argument
    add("--host", help="[127.0.0.1]")
    add("--port", type=_number(0, 65535), help="0: a free one [8000]")
    add("--uds", metavar="PATH", help="a unix socket instead")
    add(
        "--bind",
        metavar="ADDRESS",
        action="append",
        help="host:port, :port or unix:/path, instead of the three above; may be repeated",
    )
    add(
        "--backlog",
        type=_number(1, _MOST),
        default=4096,
        help="connections that may queue [%(default)s]",
    )
    add("--ssl-certfile", "--ssl-certificate", metavar="FILE", help="serve HTTPS: PEM file")
    add("--ssl-keyfile", metavar="FILE", help="its key")

    group = parser.add_argument_group("processes")
    add = group.add_argument
    add("--workers", metavar="N", help="processes [$WEB_CONCURRENCY, or 1]")
    add("--procs", metavar="P", type=_number(1, 256), help="threads of each that run goroutines")
    add("--max-requests", "--limit-max-requests", metavar="N", type=_number(1))
    add(
        "--max-requests-jitter",
        "--limit-max-requests-jitter",
        metavar="M",
        type=_number(0),
        default=0,
        help="replace a worker after N to N + M requests",
    )
    add(
        "--worker-timeout",
        "--timeout-worker-healthcheck",
        metavar="SECONDS",
        type=_seconds(LEAST_TIMEOUT),
        default=30.0,
        help="replace a worker whose scheduler has not run for so long [%(default)g]",
    )
    add(
        "--worker-boot-timeout",
        metavar="SECONDS",
        type=_seconds(),
        default=120.0,
        help="how long one may take to begin [%(default)g]",
    )
    add("--pid", "--pid-file", metavar="FILE", help="write the supervisor's process id to it")

    group = parser.add_argument_group("limits, of each worker")
    add = group.add_argument
    add(
        "--limit-concurrency",
        metavar="N",
        type=_number(1, _MOST),
        help="requests at a time; further ones get 503",
    )
    add(
        "--timeout-keep-alive",
        metavar="SECONDS",
        type=_seconds(),
        default=120.0,
        help="how long a connection may be idle [%(default)g]",
    )
    add(
        "--timeout-graceful-shutdown",
        "--workers-kill-timeout",
        metavar="SECONDS",
        type=_seconds(),
        default=30.0,
        help="for requests that run when a worker is stopped [%(default)g]",
    )

    group = parser.add_argument_group("logs")
    add = group.add_argument
    add("--access-log", action=argparse.BooleanOptionalAction, default=False)
    add(
        "--access-log-format",
        choices=("common", "combined", "json"),
        help="implies --access-log [common]",
    )
    add("--access-log-file", metavar="FILE", help="implies --access-log [stderr]")
    add(
        "--log-level",
        choices=("critical", "error", "warning", "info", "debug"),
        default="info",
        help="[%(default)s]",
    )
    add(
        "--forwarded-allow-ips",
        metavar="LIST",
        help="proxies whose X-Forwarded-For and -Proto count: addresses, networks, loopback, unix",
    )

    parser.add_argument("--check-config", action="store_true", help="load the app, and exit")
    parser.add_argument(
        "--version", action="version", version=f"gosched {runtime.__version__}", help="print it"
    )
    return parser


_SERVER_OPTIONS = (  # what a Server of the program's own has said itself
    "limit_concurrency",
    "timeout_keep_alive",
    "timeout_graceful_shutdown",
    "ssl_certfile",
    "ssl_keyfile",
    "access_log",
    "access_log_format",
    "access_log_file",
    "forwarded_allow_ips",
)


class Command:
    """What the command line says."""

    def __init__(self, argv: Sequence[str]) -> None:
        parser = _parser()
        self._args = args = parser.parse_args(argv)
        self._given = [
            f"--{name.replace('_', '-')}"
            for name in _SERVER_OPTIONS
            if getattr(args, name) != parser.get_default(name)
        ]
        self.addrs = self._addresses()
        self.workers = self._workers()
        if args.max_requests_jitter and args.max_requests is None:
            raise UsageError("--max-requests-jitter: without --max-requests it has no meaning")
        self._check_options()

    def _addresses(self) -> list[str]:
        args = self._args
        by_tcp = args.host is not None or args.port is not None
        if args.bind and (by_tcp or args.uds is not None):
            raise UsageError("--bind: not together with --host, --port and --uds")
        if args.uds is not None and by_tcp:
            raise UsageError("--uds: not together with --host and --port")
        if args.bind:
            addrs: list[str] = args.bind
        elif args.uds is not None:
            addrs = [f"unix:{args.uds}"]
        else:
            host = "127.0.0.1" if args.host is None else args.host
            port = 8000 if args.port is None else args.port
            bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
            addrs = [f"{bracketed}:{port}"]
        for addr in addrs:
            if addr.startswith("unix:"):
                if not addr[5:]:
                    raise UsageError(f'address {addr!r}: want "unix:/path"')
                continue
            try:
                host, _ = _split_addr(addr)
                host.encode("idna")
            except UnicodeError:
                raise UsageError(f"address {addr!r}: {host!r} cannot be a host's name") from None
            except ValueError as exc:
                raise UsageError(str(exc)) from None
        if len(set(addrs)) < len(addrs):
            raise UsageError("--bind: the same address twice")
        if len(addrs) > 16:
            raise UsageError("--bind: there can be 16 addresses at most")
        return addrs

    def _workers(self) -> int:
        name, text = "--workers", self._args.workers
        if text is None:
            name, text = "$WEB_CONCURRENCY", os.environ.get("WEB_CONCURRENCY") or "1"
        try:
            count: int = _number(1, MAX_WORKERS)(text)
        except argparse.ArgumentTypeError as exc:
            raise UsageError(f"{name}: {exc}") from None
        return count

    def _check_options(self) -> None:
        try:
            self._server(lambda w, r: None, self._proxies())
            if self._args.access_log_file:
                os.close(self._open_log())
        except (TypeError, ValueError, OSError) as exc:
            raise UsageError(_one_line(exc)) from None

    def _options(self) -> dict[str, Any]:
        args = self._args
        if bool(args.ssl_certfile) != bool(args.ssl_keyfile):
            raise UsageError("--ssl-certfile and --ssl-keyfile: one of them is missing")
        options: dict[str, Any] = {
            "idle_timeout": args.timeout_keep_alive,
            "shutdown_timeout": args.timeout_graceful_shutdown,
        }
        if args.ssl_certfile:
            options["tls"] = (args.ssl_certfile, args.ssl_keyfile)
        if args.limit_concurrency is not None:
            options |= {"max_requests": args.limit_concurrency, "max_waiting": 0}
        return options

    def _proxies(self) -> list[Any]:
        if self._args.forwarded_allow_ips is None:
            return []
        from runtime._http.middleware import real_address

        return [real_address(part.strip() for part in self._args.forwarded_allow_ips.split(","))]

    def _log(self) -> list[Any]:
        args = self._args
        if not (args.access_log or args.access_log_format or args.access_log_file):
            return []
        from runtime._http.middleware import access_log

        file = LineFile(self._open_log() if args.access_log_file else sys.stderr.fileno())
        return [access_log(args.access_log_format or "common", file=file)]

    def _open_log(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self._args.access_log_file, flags, 0o666)

    def _server(self, handler: Any, around: list[Any]) -> Server:
        from runtime._http.chain import chain

        return Server(chain(handler, *around), self.addrs[0], **self._options())

    def load(self) -> Server:
        """Find the app, and make a server of it.  In a worker."""
        if self._args.procs is not None:
            runtime.gomaxprocs(self._args.procs)
        found = find(self._args.app, self._args.factory)
        if is_server(found):
            if self._given:
                raise UsageError(
                    f"{self._args.app} is a Server: {', '.join(self._given)} must be said there"
                )
            server: Server = found
            if server._hot_restart:
                raise UsageError(f"{self._args.app}: hot_restart and workers exclude each other")
            return server
        return self._server(found, [*self._proxies(), *self._log()])

    def plan(self) -> Plan:
        args = self._args
        return Plan(
            load=self.load,
            addrs=self.addrs,
            workers=self.workers,
            backlog=args.backlog,
            worker_timeout=args.worker_timeout,
            worker_boot_timeout=args.worker_boot_timeout,
            worker_max_requests=args.max_requests,
            worker_max_requests_jitter=args.max_requests_jitter,
            pid_file=args.pid,
        )

    def run(self) -> int:
        args = self._args
        sys.path.insert(0, os.path.abspath(args.app_dir))
        _log_to_stderr(args.log_level)
        if args.check_config:
            self.load()
            print("gosched: the configuration is fine")
            return 0
        return supervise(self.plan())


def _log_to_stderr(level: str) -> None:
    logger = logging.getLogger("runtime")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s [%(process)d] %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False


def _one_line(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        named = f"{exc.filename}: " if exc.filename else ""
        return f"{named}{exc.strerror}"
    return " ".join(str(exc).split()) or type(exc).__name__


def main(argv: Sequence[str]) -> int:
    """Run it; the exit status."""
    try:
        return Command(argv).run()
    except (UsageError, OSError) as exc:
        print(f"gosched: {_one_line(exc)}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:  # of the app, by --check-config
        traceback.print_exc()
        return 1
