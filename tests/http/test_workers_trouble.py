"""Worker processes when something around them goes wrong, or is done without the supervisor."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time

import pytest

from programs import run
from runtime import http
from runtime._http.workers.plan import Plan
from runtime._http.workers.process import Process
from runtime._http.workers.supervisor import Slot, Supervisor

SAFETY = 60.0


def test_pause_before_the_next_try_stays_bounded_for_ever():
    supervisor = Supervisor(Plan(load=lambda: http.Server(None), addrs=[], workers=1))
    supervisor._served = True
    slot = Slot(0)
    slot.failures = 1_000_000
    supervisor._on_failure(slot, Process(0, 0, 0, None), "was ended by SIGKILL")
    assert 5 < slot.start_at - time.monotonic() <= 10


def test_time_to_stop_of_one_that_was_told_so_while_it_began():
    p = Process(0, 0, 0, None)
    p.stops()
    assert p.kill_at < math.inf
    p.set_grace(1000.0)
    assert p.kill_at == p.since + 1000.0
    p.set_grace(None)
    assert p.kill_at == math.inf


def test_worker_that_somebody_else_stops_is_replaced_at_once(supervised, wait_until, tmp_path):
    s = supervised(workers=1).until_serving(1)
    held, until = tmp_path / "held", tmp_path / "until"
    with s.connect() as c:
        c.send(f"GET /hold?held={held}&until={until} HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until("it runs", held.exists)
        old = s.started()[0]
        os.kill(old, signal.SIGTERM)
        new = s.until_started(2)[-1]
        assert int(s.get().body) == new  # while the old one still has a request
        until.touch()
        assert int(c.response().body) == old
    s.until_logged(rf"\(process {old}\) has ended with status 0")
    log = s.stop()
    assert "was told to stop; another one follows" in log and "ERROR" not in log


def test_stopped_processes_are_not_taken_for_stuck(supervised, wait_until):
    s = supervised(workers=2, worker_timeout=3).until_serving(2)
    before = {w["pid"]: w["requests"] for w in s.workers()}
    os.killpg(s.proc.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until("it takes longer than the time-out", lambda: time.monotonic() - stopped > 4.5)
    os.killpg(s.proc.pid, signal.SIGCONT)
    resumed = time.monotonic()
    wait_until("the supervisor looks", lambda: time.monotonic() - resumed > 2)
    assert {w["pid"] for w in s.workers()} == set(before)
    assert "has not run" not in s.stop()


def test_output_before_serving_is_written_once(supervised, tmp_path):
    out, program = tmp_path / "out", tmp_path / "program.py"
    program.write_text(
        f"""
import logging, sys
from runtime import http

logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)
sys.stdout = open({str(out)!r}, "w")
print("starting up")
http.serve(lambda w, r: "", "127.0.0.1:0", workers=2)
"""
    )
    supervised(command=[sys.executable, str(program)]).until_serving(2).stop()
    assert out.read_text() == "starting up\n"


def test_temporary_directory_of_the_app_is_removed(supervised, tmp_path):
    (tmp_path / "app.py").write_text(
        f"""
import tempfile
directory = tempfile.TemporaryDirectory(dir={str(tmp_path)!r}, prefix="ours-")

def app(w, r):
    return directory.name
"""
    )
    line = [sys.executable, "-m", "runtime", "serve", "app", "--port", "0", "--workers", "2"]
    s = supervised(command=[*line, "--app-dir", str(tmp_path)]).until_serving(2)
    assert len(list(tmp_path.glob("ours-*"))) == 2
    s.stop()
    assert list(tmp_path.glob("ours-*")) == []


def test_collector_can_be_registered_by_the_app(supervised, tmp_path):
    pytest.importorskip("prometheus_client")
    (tmp_path / "app.py").write_text(
        """
import prometheus_client
from runtime import http

prometheus_client.REGISTRY.register(http.prometheus.Collector())

def app(w, r):
    return prometheus_client.generate_latest()
"""
    )
    line = [sys.executable, "-m", "runtime", "serve", "app", "--port", "0", "--workers", "2"]
    s = supervised(command=[*line, "--app-dir", str(tmp_path)]).until_serving(2)
    assert re.search(rb"^gosched_goroutines_created_total ", s.get().body, re.MULTILINE)
    s.stop()


def test_pid_file_that_cannot_be_written_is_named():
    done = run(
        """
        from runtime import http
        http.serve(lambda w, r: "", "127.0.0.1:0", workers=2, pid_file="/no/such/pid")
        """
    )
    assert (done.returncode, done.stderr) == (
        1,
        "gosched: /no/such/pid: No such file or directory\n",
    )
