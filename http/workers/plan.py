"""What is to be served by worker processes, and how they are to be treated."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime._http.server import Server

MAX_WORKERS = 512
LEAST_TIMEOUT = 1.0  # seconds; beats are half a second apart


class UsageError(Exception):
    """What was asked for makes no sense; the text says why, in one line."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """See `serve` for the options; load() makes the server, in each worker."""

    load: Callable[[], Server]
    addrs: list[str]
    workers: int
    backlog: int = 4096
    worker_timeout: float | None = 30.0
    worker_boot_timeout: float | None = 120.0
    worker_max_requests: int | None = None
    worker_max_requests_jitter: int = 0
    on_worker_start: Callable[[int], object] | None = None
    pid_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        _check_int("workers", self.workers, 1, MAX_WORKERS)
        _check_seconds("worker_timeout", self.worker_timeout, LEAST_TIMEOUT)
        _check_seconds("worker_boot_timeout", self.worker_boot_timeout)
        if self.worker_max_requests is not None:
            _check_int("worker_max_requests", self.worker_max_requests, 1)
        _check_int("worker_max_requests_jitter", self.worker_max_requests_jitter, 0)
        if self.on_worker_start is not None and not callable(self.on_worker_start):
            kind = type(self.on_worker_start).__name__
            raise TypeError(f"on_worker_start must be callable, not {kind}")


OPTIONS = frozenset(
    {
        "worker_timeout",
        "worker_boot_timeout",
        "worker_max_requests",
        "worker_max_requests_jitter",
        "on_worker_start",
        "pid_file",
    }
)


def _check_int(name: str, value: Any, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        limits = f"{least} to {most}" if most is not None else f"{least} or more"
        raise ValueError(f"{name} must be {limits}, not {value}")


def _check_seconds(name: str, value: float | None, least: float = 0.0) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds or None, not {type(value).__name__}")
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be {least:g} seconds or more, or None, not {value}")
