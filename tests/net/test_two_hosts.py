"""Two hosts, as network namespaces: links and routes that vanish, peers that die."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import programs

SCRIPT = Path(__file__).with_name("scripts") / "two_hosts.py"
UNSHARE = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")


@pytest.fixture(scope="module")
def namespaces():
    try:
        subprocess.run([*UNSHARE, "true"], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as e:
        pytest.skip(f"the kernel refuses network namespaces: {e.stderr.strip()}")


SCENARIOS = [
    "streams_and_datagrams",
    "nothing_listens",
    "nobody_is_there",
    "routes_vanish",
    "link_goes_down",
    "dead_peers_are_found",
    "accepted_peers_die",
    "happy_eyeballs",
    "peer_and_its_network_vanish",
]


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(
    ("scenario", "procs"),
    [(name, "1") for name in SCENARIOS]
    + [(name, "4") for name in ("streams_and_datagrams", "routes_vanish", "link_goes_down")],
)
def test_two_hosts(scenario, procs):
    done = subprocess.run(
        [*UNSHARE, sys.executable, str(SCRIPT), scenario],
        capture_output=True,
        text=True,
        timeout=120,
        env=programs.environment(GOMAXPROCS=procs),
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")
