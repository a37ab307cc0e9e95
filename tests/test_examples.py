"""Each example runs as a user would start it: in a process of its own."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
START_SECONDS = 30  # to start and listen; generous, a sanitizer build is slow
SHARDS = ["north", "south", "west"]
PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71]


def free_address() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


@contextlib.contextmanager
def server(name, *args, address):
    """Start an example and wait until it accepts connections; end it with Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / name, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        host, port = address.split(":")
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    out, err = process.communicate()
                    pytest.fail(f"{name} does not listen on {address}:\n{out}{err}")
                time.sleep(0.02)  # another process: there is nothing to wait on but its port
        yield process
        process.send_signal(signal.SIGINT)
        process.wait(timeout=START_SECONDS)
    finally:
        process.kill()
        process.communicate()


def request(address, method, path):
    connection = http.client.HTTPConnection(address, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read().decode()


def test_every_example_has_a_test():
    source = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in source


def test_hello_answers_every_path():
    address = free_address()
    with server("hello.py", address, address=address):
        assert request(address, "GET", "/")[::2] == (200, "Hello, World")
        assert request(address, "GET", "/any/path")[::2] == (200, "Hello, World")


def test_workers_share_a_port_and_can_be_replaced():
    address = free_address()

    def workers():
        return {w["pid"] for w in json.loads(request(address, "GET", "/workers")[2]) if w["pid"]}

    with server("workers.py", address, "2", address=address) as process:
        deadline = time.monotonic() + START_SECONDS
        while len(first := workers()) < 2:
            assert time.monotonic() < deadline
        text = request(address, "GET", "/")[2]
        assert int(text.removeprefix("Hello from process ")) in first
        process.send_signal(signal.SIGHUP)
        while len(second := workers()) != 2 or first & second:
            assert time.monotonic() < deadline


def test_album_takes_and_serves_files(tmp_path):
    address = free_address()
    form = (
        '--X\r\nContent-Disposition: form-data; name="file"; filename="../a.txt"\r\n\r\n'
        "some text\r\n--X--\r\n"
    )
    with server("album.py", address, str(tmp_path), address=address) as process:
        client = http.client.HTTPConnection(address, timeout=60)

        def ask(method, path, body=None, headers=None):
            client.request(method, path, body, headers or {})
            response = client.getresponse()
            return response.status, response.headers, response.read().decode()

        assert "Hello, stranger. 0 files" in ask("GET", "/")[2]
        status, headers, _ = ask("GET", "/name/J%C3%A9")
        assert (status, headers["Location"]) == (303, "/")
        cookie = headers["Set-Cookie"].partition(";")[0]
        assert "Hello, Jé. 0 files" in ask("GET", "/", None, {"Cookie": cookie})[2]
        kind = {"Content-Type": "multipart/form-data; boundary=X"}
        assert ask("POST", "/upload", form, kind)[0] == 303
        assert (tmp_path / "a.txt").read_text() == "some text"
        assert json.loads(ask("GET", "/newest/5")[2]) == ["a.txt"]
        assert ask("GET", "/newest/all")[0] == 404
        assert "a.txt" in ask("GET", "/files/")[2]
        assert ask("GET", "/files/a.txt", None, {"Range": "bytes=5-"})[::2] == (206, "text")
        assert ask("POST", "/upload", form, kind)[0] == 409
        # A request that runs when the end is near is answered.
        form = form.replace("a.txt", "b.txt")
        client.putrequest("POST", "/upload")
        client.putheader("Content-Length", str(len(form)))
        client.putheader("Content-Type", kind["Content-Type"])
        client.putheader("Expect", "100-continue")
        client.endheaders()
        assert client.sock.recv(8) == b"HTTP/1.1"  # 100 Continue: its handler runs
        process.send_signal(signal.SIGTERM)
        client.send(form.encode())
        answer = b""
        while data := client.sock.recv(65536):
            answer += data
        assert b"HTTP/1.1 303 See Other" in answer
        client.close()


def test_sieve_prints_twenty_primes():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "sieve.py"], capture_output=True, text=True, timeout=99
    )
    assert done.stderr == ""
    assert [int(line) for line in done.stdout.split()] == PRIMES
    assert done.returncode == 0


def test_parallel_counts_primes():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "parallel.py", "20000"],
        capture_output=True,
        text=True,
        timeout=99,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "2262 primes below 20000"
    assert re.fullmatch(r"4 goroutines on \d+ of GOMAXPROCS=\d+ Ps", lines[1])


def test_first_answer_takes_one_and_tells_of_the_one_that_fails():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "first_answer.py"], capture_output=True, text=True, timeout=99
    )
    assert (done.returncode, done.stderr) == (0, "")
    *failures, answer = done.stdout.splitlines()
    assert answer in ("alpha here", "beta here", "gamma here")
    assert [line.partition(":")[0] for line in failures] == ["127.0.0.2 fails"]


def test_heartbeat_notices_that_the_worker_hangs():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "heartbeat.py"], capture_output=True, text=True, timeout=99
    )
    assert (done.returncode, done.stderr) == (0, "")
    *beats, first, second = done.stdout.splitlines()
    assert beats == [f"beat {i}" for i in range(1, 6)]
    assert first == "no beat any more"
    assert second == "the function of a timer says so, too"


def test_page_cache_fetches_each_page_once():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "page_cache.py"], capture_output=True, text=True, timeout=99
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["100 answers, 4 pages", "4 requests"]


def test_fan_in_merges_all_sources_and_gives_up_on_the_silent_one():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "fan_in.py"], capture_output=True, text=True, timeout=99
    )
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert last == "the others are silent"
    for name, how_many in ("alpha", 3), ("beta", 5), ("gamma", 1):
        *numbers, end = [line for line in lines if line.startswith(name)]
        assert numbers == [f"{name}: {i}" for i in range(how_many)]
        assert end == f"{name} has ended"
    assert [line for line in lines if line.startswith("delta")] == ["delta: 0"]


def test_search_ends_in_time_and_leaves_nobody_behind():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "search.py"], capture_output=True, text=True, timeout=99
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == ["first: complete", *(f"    {s} answers first" for s in SHARDS)]
    assert "second: DeadlineExceeded('the deadline of the context has passed')" in lines
    assert "third: UserLeft()" in lines
    assert lines[-1] == "nobody is left"
    assert not any(line.startswith("    west") for line in lines[4:])


def test_inspect_scheduler_shows_what_each_goroutine_does():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "inspect_scheduler.py"],
        capture_output=True,
        text=True,
        timeout=99,
    )
    assert (done.returncode, done.stderr) == (0, "")
    table, _, dump = done.stdout.partition("\nThe same as a dump:\n\n")
    rows = [line.split(maxsplit=2) for line in table.splitlines()[1:]]
    assert [row[:2] for row in rows] == [
        ["main", "running"],
        ["producer", "waiting"],
        ["worker-0", "waiting"],
        ["worker-1", "waiting"],
        ["watcher", "waiting"],
        ["ticker", "waiting"],
    ]
    assert [row[2].partition(",")[0].split("  ")[0] for row in rows[1:5]] == [
        "chan send",
        "chan send",
        "chan send",
        "sync.Mutex.Lock",
    ]
    assert dump.startswith("goroutine 1 [running]:\n__main__.main(...)\n")
    assert dump.count("\n\ngoroutine ") == 5


def test_find_race_shows_the_interleaving_and_nothing_once_it_is_put_right():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "find_race.py"], capture_output=True, text=True, timeout=99
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(
        r"schedule \d+ fails, seed \d+ in goroutine 0 two_withdrawals: "
        r"AssertionError: overdrawn: -30",
        lines[0],
    )
    assert sum("preempted" in line for line in lines) == 1
    assert "  goroutine 1 withdraw" in done.stdout
    assert lines[-1] == "withdraw_safely: nothing in 1000 schedules"


def test_demo_serves_page_and_counters():
    address = free_address()
    with server("demo.py", "--addr", address, address=address) as process:
        assert f"listening on http://{address}" in process.stdout.readline()
        status, content_type, body = request(address, "GET", "/")
        assert (status, content_type) == (200, "text/html; charset=utf-8")
        assert "/debug/" in body
        status, content_type, body = request(address, "GET", "/debug/")
        assert (status, content_type) == (200, "text/html; charset=utf-8")
        assert "static/main.js" in body
        snapshot = json.loads(request(address, "GET", "/debug/api/snapshot")[2])
        assert snapshot["workers"][0]["pid"] == process.pid
        before = json.loads(request(address, "GET", "/stats")[2])
        status, _, body = request(address, "POST", "/spawn?n=100")
        assert (status, json.loads(body)) == (200, {"spawned": 100})
        after = json.loads(request(address, "GET", "/stats")[2])
        assert after["created"] >= before["created"] + 100
        assert after["goroutines"] >= 100
        assert request(address, "POST", "/spawn?n=many")[0] == 400
        assert request(address, "GET", "/nothing/here")[0] == 404
        # Its own load: visitors, and goroutines that pass messages.
        deadline = time.monotonic() + START_SECONDS
        while not any(
            r["route"].startswith("/items/") for r in snapshot["workers"][0]["snapshot"]["routes"]
        ):
            assert time.monotonic() < deadline
            snapshot = json.loads(request(address, "GET", "/debug/api/snapshot")[2])

        def names():
            table = json.loads(request(address, "GET", "/debug/api/goroutines")[2])
            return {who["name"] for row in table["rows"] for who in row["sample"]}

        while not names() >= {"ping", "pong", "producer", "worker-0", "visitor-0"}:
            assert time.monotonic() < deadline
    assert process.returncode == 0


def test_demo_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, EXAMPLES / "demo.py", "--addr", address],
            capture_output=True,
            text=True,
            timeout=99,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"demo: cannot listen on {address}")
    assert len(done.stderr.splitlines()) == 1


def test_echo_server_returns_what_it_gets():
    address = free_address()
    host, port = address.split(":")
    with (
        server("echo_server.py", address, address=address),
        socket.create_connection((host, int(port)), timeout=60) as client,
    ):
        client.sendall(b"first\n")
        assert client.recv(100) == b"first\n"
        client.sendall(b"x" * 10_000)
        client.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: client.recv(65536), b"")) == b"x" * 10_000
