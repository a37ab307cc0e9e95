"""python -m runtime serve: the command line, as a shell would run it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from certs import Authority

from programs import environment, run
from runtime._cpu import default_procs
from runtime._http.workers import cli
from runtime._http.workers.lines import LineFile

SAFETY = 60.0
SCRIPTS = Path(__file__).parent / "scripts"
APP = "workers_app:app"


@pytest.fixture
def command(supervised):
    """command("module:app", "--option", ...) -> Supervised: python -m runtime serve."""

    def start(*args: str, **options):
        line = [sys.executable, "-m", "runtime", "serve", *args]
        if not {"--bind", "--port", "--uds"} & {*args}:
            line += ["--port", "0"]
        return supervised(command=line, **options)

    return start


def ends(*args: str, **env: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command that ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "runtime", *args],
        capture_output=True,
        text=True,
        timeout=2 * SAFETY,
        cwd=SCRIPTS,
        env=environment(**env),
    )
    return done.returncode, done.stdout, done.stderr


def fails(*args: str, **env: str) -> tuple[int, str]:
    """Exit status and stderr of one that prints nothing else."""
    status, out, err = ends(*args, **env)
    assert out == ""
    return status, err


# --- what makes no sense --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("nothing_such:app", "cannot import 'nothing_such': no module named 'nothing_such'"),
        ("workers_app.x:app", "cannot import 'workers_app.x': no module named 'workers_app.x'"),
        ("workers_app:nothing", "module 'workers_app' has no attribute 'nothing'"),
        ("workers_app:number", "workers_app:number is no handler: int is not callable"),
        ("lines:", "'lines:': want \"module:attribute\", as in shop.web:app"),
        ("json", "module 'json' has none of app, mux, handler; name another one: json:NAME"),
        ("workers_app:restarting", "workers_app:restarting: hot_restart and workers exclude each"),
    ],
)
def test_spec_that_names_no_handler_is_one_line_and_status_2(spec, why):
    status, err = fails("serve", spec, "--port", "0", "--workers", "2")
    assert status == 2
    assert err.startswith(f"gosched: {why}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "the following arguments are required: MODULE[:ATTRIBUTE]"),
        ([APP, "--port", "x"], "argument --port: 'x' is no number from 0 on"),
        ([APP, "--port", "65536"], "argument --port: 65536 is more than 65535"),
        ([APP, "--workers", "0"], "--workers: '0' is no number from 1 on"),
        ([APP, "--workers", "two"], "--workers: 'two' is no number from 1 on"),
        ([APP, "--worker-timeout", "-1"], "argument --worker-timeout/--timeout-worker-healthcheck"),
        ([APP, "--worker-timeout", ".5"], "argument --worker-timeout/--timeout-worker-healthcheck"),
        ([APP, "--backlog", "2147483648"], "argument --backlog: 2147483648 is more than 21474"),
        ([APP, "--limit-concurrency", "9" * 30], "argument --limit-concurrency: 999"),
        ([APP, "--host", "a..b"], "address 'a..b:8000': 'a..b' cannot be a host's name"),
        ([APP, "--uds", ""], "address 'unix:': want \"unix:/path\""),
        ([APP, "--bind", "x"], "address 'x': want \"host:port\""),
        ([APP, "--bind", "::1:80"], "address '::1:80': an IPv6 address needs brackets"),
        ([APP, "--bind", "unix:"], "address 'unix:': want \"unix:/path\""),
        ([APP, "--bind", ":1", "--port", "2"], "--bind: not together with --host, --port and"),
        ([APP, "--bind", ":1", "--bind", ":1"], "--bind: the same address twice"),
        ([APP, "--uds", "/x", "--port", "2"], "--uds: not together with --host and --port"),
        ([APP, "--ssl-certfile", "x"], "--ssl-certfile and --ssl-keyfile: one of them is missing"),
        ([APP, "--ssl-certfile", "/x", "--ssl-keyfile", "/x"], "/x: cannot read the certificate"),
        ([APP, "--max-requests-jitter", "5"], "--max-requests-jitter: without --max-requests"),
        ([APP, "--access-log-file", "/no/x"], "/no/x: No such file or directory"),
        ([APP, "--access-log-format", "x"], "argument --access-log-format: invalid choice"),
        ([APP, "--forwarded-allow-ips", "x"], "real_address(): "),
        ([APP, "--nothing"], "unrecognized arguments: --nothing"),
    ],
)
def test_bad_option_is_one_line_and_status_2(args, why, capsys, monkeypatch):
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    assert cli.main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gosched: {why}"), err
    assert err.count("\n") == 1


def test_bad_number_in_the_environment_is_one_line_and_status_2(capsys, monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "many")
    assert cli.main([APP]) == 2
    assert capsys.readouterr().err == "gosched: $WEB_CONCURRENCY: 'many' is no number from 1 on\n"


def test_used_port_is_one_line_and_status_2():
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        status, err = fails("serve", APP, "--port", str(port), "--workers", "2")
    assert (status, err) == (
        2,
        f"gosched: cannot listen on 127.0.0.1:{port}: Address already in use\n",
    )


def test_address_that_is_not_ours_is_one_line_and_status_2():
    status, err = fails("serve", APP, "--bind", "192.0.2.1:0")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("gosched: cannot listen on 192.0.2.1:0: ")


def test_options_that_belong_into_a_server_are_refused():
    status, err = fails("serve", "workers_app:server", "--port", "0", "--access-log")
    assert (status, err) == (
        2,
        "gosched: workers_app:server is a Server: --access-log must be said there\n",
    )


@pytest.mark.parametrize(
    ("args", "status", "line"),
    [
        ([], 2, "gosched: a command is needed: serve or top\n"),
        (["server"], 2, "gosched: there is no command 'server': serve or top\n"),
    ],
)
def test_command_that_is_none_is_one_line_and_status_2(args, status, line):
    assert fails(*args) == (status, line)


def test_module_that_fails_is_shown_and_given_up(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_such\n")
    status, err = fails("serve", "broken", "--port", "0", "--app-dir", str(tmp_path))
    assert status == 3
    assert err.count("Traceback") == 1
    first = re.search(r"Traceback .*\n  File \"(.*)\", line 1, in <module>", err)
    assert first is not None and first[1] == str(tmp_path / "broken.py")
    assert "giving up: ModuleNotFoundError: No module named 'nothing_such'" in err


# --- --check-config -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "status"),
    [
        ([APP], 0),
        (["workers_app"], 0),
        (["workers_app:server"], 0),
        (["workers_app:make", "--factory"], 0),
        (["workers_app:number"], 2),
        (["workers_app:number", "--factory"], 2),
    ],
)
def test_check_config_loads_the_app_and_serves_nothing(args, status):
    code, out, err = ends("serve", *args, "--check-config")
    assert code == status
    assert (out.count("\n"), err.count("\n")) == ((1, 0) if status == 0 else (0, 1))


def test_check_config_shows_how_the_app_fails(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    status, err = fails("serve", "broken", "--check-config", "--app-dir", str(tmp_path))
    assert (status, err.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")


# --- serving --------------------------------------------------------------------------------------


def test_serve_with_all_that_is_usual(command, tmp_path):
    pid, log = tmp_path / "pid", tmp_path / "access.log"
    s = command(
        "workers_app",
        *("--access-log-file", str(log), "--pid", str(pid), "--procs", "2", "--app-dir", "."),
        env={"WEB_CONCURRENCY": "2"},
        cwd=SCRIPTS,
    ).until_serving(2)
    assert s.addr.startswith("127.0.0.1:")
    assert pid.read_text() == f"{s.proc.pid}\n"
    assert s.get("/procs").body == b"2"
    pids = {int(s.get("/", f"X-Number: {n}\r\n").body) for n in range(64)}
    assert pids == set(s.started())
    text = s.stop()
    assert "ERROR" not in text
    assert re.search(r"^\d{4}-\d\d-\d\d \S+ \[\d+\] INFO process \d+ serves", text)
    assert not pid.exists()
    lines = log.read_text().splitlines()
    assert len(lines) == 65
    assert all(re.fullmatch(r'127\.0\.0\.1 .* "GET /\S* HTTP/1\.1" 200 \d+', x) for x in lines)


def test_default_is_one_worker_with_as_many_ps_as_can_run_in_parallel(command, monkeypatch):
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    s = command(APP).until_serving(1)
    (worker,) = s.workers()
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    procs = 1 if gil else min(default_procs(), 256)
    assert (worker["pid"], int(s.get("/procs").body)) == (s.started()[0], procs)
    assert re.search(r"serves .* with 1 worker\n", s.stop())


def test_several_addresses_and_a_server_of_the_programs_own(command, tmp_path):
    path = tmp_path / "socket"
    s = command(
        "workers_app:server", "--bind", "127.0.0.1:0", "--bind", f"unix:{path}", "--workers", "2"
    ).until_serving(2)
    over_tcp = int(s.get().body)
    s.addr = f"unix:{path}"
    assert {over_tcp, int(s.get().body)} <= set(s.started())
    s.stop()
    assert not path.exists()


def test_unix_socket_factory_and_proxy(command, tmp_path):
    s = command(
        "workers_app:make",
        *("--factory", "--uds", f"{tmp_path}/socket", "--forwarded-allow-ips", "unix,10.0.0.0/8"),
    ).until_serving(1)
    assert s.addr == f"unix:{tmp_path}/socket"
    assert s.get("/address", "X-Forwarded-For: 192.0.2.7\r\n").body == b"192.0.2.7:0"
    s.stop()


def test_https(command, tmp_path):
    authority = Authority(tmp_path)
    cert = authority.issue("localhost")
    s = command(APP, "--ssl-certfile", cert.pem, "--ssl-keyfile", cert.key).until_serving(1)
    context = authority.client_context()
    with (
        socket.create_connection(s.where, SAFETY) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as c,
    ):
        c.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert c.recv(65536).startswith(b"HTTP/1.1 200 OK")
    s.stop()


def test_limit_concurrency_answers_503(command, wait_until, tmp_path):
    s = command(APP, "--limit-concurrency", "1").until_serving(1)
    held, until = tmp_path / "held", tmp_path / "until"
    with s.connect() as c:
        c.send(f"GET /hold?held={held}&until={until} HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until("it runs", held.exists)
        assert s.get().status == 503
        until.touch()
        assert c.response().status == 200
    assert s.get().status == 200
    s.stop()


def test_reload_brings_new_code_and_keeps_the_old_if_that_is_bad(command, wait_until, tmp_path):
    module = tmp_path / "changing.py"
    module.write_text("def app(w, r): return 'old'\n")
    options = ["--app-dir", str(tmp_path), "--workers", "2"]
    s = command("changing:app", *options, env={"PYTHONDONTWRITEBYTECODE": "1"}).until_serving(2)
    assert s.get().body == b"old"
    module.write_text("def app(w, r): return 'bad'\n1 / 0\n")
    s.send_signal(signal.SIGHUP)
    s.until_logged("ZeroDivisionError")
    module.write_text("app = 5\n")
    s.send_signal(signal.SIGHUP)
    s.until_logged("changing:app is no handler: int is not callable")
    assert {s.get().body for _ in range(20)} == {b"old"}
    module.write_text("def app(w, r): return 'new'\n")
    s.send_signal(signal.SIGHUP)
    s.until_started(4)
    s.until_logged("has ended with status 0", 2)
    assert {s.get().body for _ in range(20)} == {b"new"}
    assert s.stop().count("ERROR") == 2


def test_max_requests_replaces_a_worker(command):
    s = command(APP, "--max-requests", "10", "--max-requests-jitter", "5").until_serving(1)
    for _ in range(15):
        assert s.get().status == 200
    s.until_started(2)
    assert re.search(r"is replaced: it has served 1[0-5] requests", s.stop())


def test_log_level_silences(command, wait_until, tmp_path):
    s = command(APP, "--log-level", "error", "--uds", f"{tmp_path}/socket")
    s.addr = f"unix:{tmp_path}/socket"

    def answers() -> bool:  # there is a file before it listens
        with suppress(FileNotFoundError, ConnectionRefusedError):
            return s.get().status == 200
        return False

    wait_until("it answers", answers)
    assert s.stop() == ""


# --- lines of several processes -------------------------------------------------------------------


@pytest.mark.parametrize("pipe", [False, True])
def test_lines_of_several_processes_stay_whole(tmp_path, pipe):
    path = tmp_path / "log"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    reading, writing = os.pipe() if pipe else (-1, os.open(path, flags))
    children = []
    for child in range(3):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                file = LineFile(writing)
                line = str(child) * 100 + "\n"
                for _ in range(50):
                    file.write(line * 200)
                    file.flush()
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    os.close(writing)
    text = ""
    if pipe:
        with open(reading) as f:
            text = f.read()
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    lines = (text or path.read_text()).splitlines()
    assert len(lines) == 3 * 50 * 200
    assert {*lines} == {str(child) * 100 for child in range(3)}


def test_line_that_no_pipe_takes_at_once_is_written():
    reading, writing = os.pipe()
    LineFile(writing).write("x" * 10000 + "\nend\n")
    os.close(writing)
    with open(reading) as f:
        assert f.read() == "x" * 10000 + "\nend\n"


# --- the module -----------------------------------------------------------------------------------


def test_help_and_version_are_printed():
    done = run("import sys; from runtime.__main__ import main; sys.exit(main(['--help']))")
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve MODULE[:ATTRIBUTE]" in done.stdout
    done = run("import sys; from runtime.__main__ import main; sys.exit(main(['--version']))")
    assert re.fullmatch(r"gosched \d+\.\d+\.\d+\n", done.stdout)


def test_importing_http_does_not_import_the_workers():
    done = run(
        """
        import sys
        from runtime import http
        assert not [name for name in sys.modules if "workers" in name or name == "argparse"]
        assert [w.pid for w in http.workers()]
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_workers_are_listed_as_json(command):
    s = command(APP, "--workers", "2").until_serving(2)
    assert [w["id"] for w in json.loads(s.get("/workers").body)] == [0, 1]
    s.stop()
