"""The load generator: wrk, with one thread, on one core unless it shares them with the server."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import last_line, pin

SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Load:
    """What wrk saw. Latencies are in microseconds, and None with pipelining.

    wrk times a whole batch and then fills in the requests that it thinks it should have
    sent meanwhile, counting single requests: with pipelining the percentiles are wrong.
    """

    requests: int
    seconds: float
    errors: int
    p50: float | None
    p99: float | None


def installed() -> bool:
    return shutil.which("wrk") is not None


def run(
    url: str,
    *,
    seconds: int,
    connections: int,
    core: int | Sequence[int],
    pipeline: int = 1,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    payload: bytes = b"",
    rate: float | None = None,
) -> Load:
    """Load `url` for `seconds`, keeping `pipeline` requests in flight a connection.

    With a rate (requests a second) connections pause at random between requests.
    """
    cores = [core] if isinstance(core, int) else core
    command = [*pin(cores), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    for name, value in (headers or {}).items():
        command += ["-H", f"{name}: {value}"]
    # The mean pause of a connection, in milliseconds.
    pause = 0.0 if rate is None else 1000 * connections / rate
    command += ["-s", str(SCRIPT), url, "--", str(pipeline), method, payload.decode(), str(pause)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"wrk: {last_line(done.stderr)}")
    result = json.loads(last_line(done.stdout))
    return Load(
        requests=result["requests"],
        seconds=result["micros"] / 1e6,
        errors=result["errors"],
        p50=result["p50"] if pipeline == 1 else None,
        p99=result["p99"] if pipeline == 1 else None,
    )
