"""Chromium, without a window: it loads a page that does all a page can do over HTTP/1.1."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess

import pytest

SAFETY = 120.0


@pytest.fixture
def browser(tmp_path):
    """browser(url): open it; the browser and all it started end with the test."""
    options = [
        "--headless=new",
        "--no-sandbox",  # it will not run as root otherwise
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-breakpad",
        "--disable-component-update",
        "--disable-background-networking",
        "--disable-extensions",
        "--no-first-run",
        "--no-proxy-server",
        f"--user-data-dir={tmp_path}/profile",
    ]
    # What belongs to the interpreter is none of its business, nor is the user's home directory.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    env |= dict.fromkeys(["HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"], str(tmp_path))
    started: list[subprocess.Popen[bytes]] = []
    with open(tmp_path / "browser.log", "wb") as log:

        def start(url: str) -> None:
            started.append(
                subprocess.Popen(
                    ["chromium", *options, url],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=env,
                    start_new_session=True,
                )
            )

        yield start
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SAFETY)


def test_chromium_runs_a_page_that_uses_everything(program, browser, tmp_path):
    site = program("browser.py")
    browser(site.url)
    found, _, _ = select.select([site.proc.stdout], [], [], SAFETY)
    assert found, (tmp_path / "browser.log").read_text(errors="replace")[-2000:]
    assert json.loads(site.read_line()) == {
        "subresources": [2, 7],
        "fetches": "Hello, World",
        "statuses": [[200, True], [204, False], [404, False], "12"],
        "posts": [{"a": ["é", 1]}, {"a": ["é&="]}],
        "multipart": True,
        "frames": {"name": ["é & ü"], "more": ["1", "2"]},
        "upload": [200, True, True],
        "parallel": True,
        "streams": True,
        "abort": "Hello, World",
        "events": [f"event {i}" for i in range(1, 8)],
        "beacon": True,
        "connections": True,
    }
    # What it gave up has ended; it keeps the others.
    site.until(active=1)
    assert site.stop() == (0, "")
