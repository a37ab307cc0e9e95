"""Random programs (scripts/stress.py), in processes of their own.

GOSCHED_STRESS_SEEDS=N runs N seeds instead of a few.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from programs import environment

SCRIPT = Path(__file__).with_name("scripts") / "stress.py"
SEEDS = int(os.environ.get("GOSCHED_STRESS_SEEDS", "120"))


@pytest.mark.parametrize("dev", [False, True], ids=["plain", "dev"])
def test_random_programs_keep_the_rules(dev: bool) -> None:
    first = 1_000_000 * dev
    batch = 60
    for seed in range(first, first + SEEDS, batch):
        done = subprocess.run(
            [sys.executable, *["-X", "dev"] * dev, str(SCRIPT), str(seed), str(batch)],
            capture_output=True,
            text=True,
            timeout=600,
            env=environment(),
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
