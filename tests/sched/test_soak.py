"""Long runs of everything at once: `make soak`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from programs import environment

SOAK = Path(__file__).with_name("soak.py")


def soak(seconds: float, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(SOAK), str(seconds), str(seed)],
        capture_output=True,
        text=True,
        timeout=seconds * 3 + 600,
        env=environment(GOSCHED_STALL_MS="0"),
    )
    assert (done.returncode, done.stderr) == (0, ""), f"seed {seed}\n{done.stdout}"
    print(done.stdout, end="")


@pytest.mark.parametrize("seed", range(3))
def test_random_rounds_lose_and_leave_nothing(seed: int) -> None:
    soak(2, seed)


@pytest.mark.soak
def test_soak_loses_and_leaves_nothing() -> None:
    seed = int(os.environ.get("GOSCHED_SOAK_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
    soak(float(os.environ.get("GOSCHED_SOAK_SECONDS", "600")), seed)
