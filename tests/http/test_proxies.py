"""nginx and haproxy in front of the server.

A proxy listens on a socket that the test has bound and hands down, so no port can be taken in
between and nothing waits until it is up.
"""

from __future__ import annotations

import getpass
import http.client
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runtime.http import middleware

SAFETY = 60.0
LARGE = bytes(range(256)) * 20_000  # 5 MB

NGINX = """
daemon off;
worker_processes 1;
user {user};
pid {dir}/nginx.pid;
error_log {dir}/errors error;
events {{ worker_connections 1000; }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  upstream app {{ server {upstream}; {pool} }}
  server {{
    listen {addr};
    location / {{
      proxy_pass http://app;
      proxy_set_header X-Real-IP $remote_addr;
      {location}
    }}
  }}
}}
"""

HAPROXY = """
global
  maxconn 1000
defaults
  mode http
  timeout connect 60s
  timeout client 60s
  timeout server 60s
  retries 3
  retry-on conn-failure empty-response
  option forwardfor
  {defaults}
frontend front
  bind fd@{fd}
  default_backend app
backend app
  {backend}
  server app {upstream} {server}
"""

KEPT = "proxy_http_version 1.1; proxy_set_header Connection '';"

# name: (proxy, its settings, whether it keeps its connections to the server)
WAYS: dict[str, tuple[str, dict[str, str], bool]] = {
    "nginx": ("nginx", {"pool": "keepalive 8;", "location": KEPT}, True),
    "nginx-unbuffered": (
        "nginx",
        {
            "pool": "keepalive 8;",
            "location": f"{KEPT} proxy_buffering off; proxy_request_buffering off;",
        },
        True,
    ),
    "nginx-1.0": ("nginx", {"pool": "", "location": ""}, False),
    "haproxy": ("haproxy", {"backend": "http-reuse always"}, True),
    "haproxy-close": ("haproxy", {"defaults": "option httpclose"}, False),
}


class Front:
    """A proxy that runs; address is where its clients connect to."""

    def __init__(self, proxy: str, upstream: str, directory: Any, **settings: str) -> None:
        paths = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin"
        command = shutil.which(proxy, path=paths)
        assert command, f"{proxy} is needed: make installs it with .ci/tools"
        self.clients: list[http.client.HTTPConnection] = []
        self.errors = directory / "errors"
        config = directory / "config"
        # The sanitizers' library is for the interpreter only.
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
            self.where = listener.getsockname()
            addr, fd = f"127.0.0.1:{self.where[1]}", listener.fileno()
            if proxy == "nginx":
                template = NGINX
                settings = {"pool": "", "location": ""} | settings
                settings["user"] = getpass.getuser()
                arguments = ["-c", str(config), "-p", str(directory), "-e", f"{directory}/start"]
                env["NGINX"] = f"{fd};"
            else:
                upstream = upstream.replace("unix:", "unix@")
                template = HAPROXY
                settings = {"defaults": "", "backend": "", "server": ""} | settings
                arguments = ["-db", "-f", str(config)]
            config.write_text(
                template.format(dir=directory, upstream=upstream, addr=addr, fd=fd, **settings)
            )
            self.url = f"http://{addr}"
            self.process = subprocess.Popen(
                [command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=env,
                pass_fds=[fd],
                start_new_session=True,
            )

    def connect(self) -> http.client.HTTPConnection:
        self.clients.append(http.client.HTTPConnection(*self.where, timeout=SAFETY))
        return self.clients[-1]

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(SAFETY)

    def logged(self) -> str:
        return self.errors.read_text() if self.errors.exists() else ""


@pytest.fixture
def front(tmp_path) -> Iterator[Callable[..., Front]]:
    """front(proxy, app, **settings) -> Front, killed when the test ends."""
    started: list[Front] = []

    def start(proxy: str, app: Any, **settings: str) -> Front:
        directory = tmp_path / f"front{len(started)}"
        directory.mkdir()
        started.append(Front(proxy, app.addr, directory, **settings))
        return started[-1]

    yield start
    for running in started:
        running.stop()
        for c in running.clients:
            c.close()


def ask(c: http.client.HTTPConnection, method: str, path: str, body: Any = None, **options: Any):
    c.request(method, path, body, **options)
    r = c.getresponse()
    return r.status, r.read()


def ask_all_kinds(c: http.client.HTTPConnection) -> None:
    for i in range(10):
        assert ask(c, "GET", "/hello") == (200, b"Hello, World")
        assert ask(c, "POST", "/echo", b"x" * i) == (200, b"x" * i)
    assert ask(c, "HEAD", "/hello") == (200, b"")
    assert ask(c, "GET", "/nowhere")[0] == 404
    assert ask(c, "POST", "/stats")[0] == 405
    assert ask(c, "GET", "/bytes/0") == (200, b"")
    assert ask(c, "GET", "/bytes/3000000") == (200, bytes(3_000_000))
    assert ask(c, "GET", "/stream/40") == (200, bytes(40 * 65536))
    assert ask(c, "POST", "/echo", LARGE) == (200, LARGE)
    halves = iter([LARGE[:1_000_000], LARGE[1_000_000:]])
    assert ask(c, "POST", "/echo", halves, encode_chunked=True) == (200, LARGE)
    assert ask(c, "POST", "/pipe", LARGE[:100_000]) == (200, LARGE[:100_000])
    # Nobody reads this one. What is in front may end its client's connection after it.
    assert ask(c, "POST", "/nowhere", bytes(100_000))[0] == 404
    c.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_everything_goes_through(program, front, wait_until, tmp_path, way, family):
    app = program("app.py", f"unix:{tmp_path}/s" if family == "unix" else "127.0.0.1:0")
    proxy, settings, kept = WAYS[way]
    running = front(proxy, app, **settings)
    c = running.connect()
    for _ in range(3):
        ask_all_kinds(c)
    # A connection of ours, and a request that is not over yet, asks for the statistics.
    if kept:
        stats = app.stats()
        assert stats["accepted"] <= 10 < stats["requests"]
    else:

        def each_its_own() -> bool:  # the last one is counted after its response
            stats = app.stats()
            return stats["accepted"] == stats["requests"] + 1

        wait_until("each request had a connection of its own", each_its_own)
    c.close()
    running.stop()
    app.until(connections=1, active=1)
    assert app.stop() == (0, "")
    assert running.logged() == ""


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_many_clients_at_once(procs, program, front, proxy):
    app = program("app.py")
    running = front(proxy, app, **WAYS[proxy][1])

    def client(i: int) -> None:
        c = running.connect()
        for n in range(20):
            assert ask(c, "POST", "/echo", b"%d" % n) == (200, b"%d" % n)
            assert ask(c, "GET", f"/bytes/{i * 10_000}") == (200, bytes(i * 10_000))
        c.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))
    running.stop()
    app.until(connections=1)
    assert app.stop() == (0, "")
    assert running.logged() == ""


@pytest.mark.parametrize("way", ["nginx", "nginx-unbuffered", "haproxy"])
def test_client_that_reads_slowly_and_one_that_goes_away(app, front, way):
    proxy, settings, _ = WAYS[way]
    running = front(proxy, app, **settings)
    slow = running.connect()
    slow.request("GET", "/stream/500")
    r = slow.getresponse()
    for _ in range(10):
        gone = running.connect()
        gone.request("GET", "/stream/100000")
        assert gone.getresponse().read(10_000) == bytes(10_000)
        gone.close()
    c = running.connect()
    assert ask(c, "GET", "/hello") == (200, b"Hello, World")
    c.close()
    length = 0
    while piece := r.read(10_000):
        length += len(piece)
    assert length == 500 * 65536
    slow.close()
    app.until(active=1)
    assert app.stop() == (0, "")


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_server_that_closes_idle_connections(program, front, wait_until, proxy):
    """The proxy has kept the connection, and finds it closed."""
    app = program("app.py", "127.0.0.1:0", '{"idle_timeout": 0.02}')
    running = front(proxy, app, **WAYS[proxy][1])
    c = running.connect()
    for _ in range(20):
        assert ask(c, "GET", "/hello") == (200, b"Hello, World")
        app.until(connections=1)
    assert app.stats()["accepted"] >= 20
    c.close()
    assert app.stop() == (0, "")
    assert running.logged() == ""


@pytest.mark.parametrize(
    ("proxy", "settings"),
    [
        ("nginx", {"pool": "keepalive 8; keepalive_timeout 20ms;", "location": KEPT}),
        ("nginx", {"pool": "keepalive 8; keepalive_requests 1;", "location": KEPT}),
        ("haproxy", {"backend": "http-reuse always", "server": "pool-purge-delay 20ms"}),
    ],
    ids=["nginx-timeout", "nginx-requests", "haproxy-purge"],
)
def test_proxy_that_closes_idle_connections(app, front, proxy, settings):
    running = front(proxy, app, **settings)
    for _ in range(10):
        c = running.connect()
        assert ask(c, "GET", "/hello") == (200, b"Hello, World")
        c.close()
        app.until(connections=1)
    assert app.stats()["accepted"] >= 10
    assert app.stop() == (0, "")
    assert running.logged() == ""


def test_health_checks_are_answered_and_leave_nothing(app, front, wait_until):
    """haproxy ends them with a reset."""
    backend = "option httpchk GET /hello\n  http-check expect status 200"
    running = front("haproxy", app, backend=backend, server="check inter 5ms fall 1 rise 1")
    # Each look is a request, too.
    looks = iter(range(1 << 30))
    wait_until("it was checked", lambda: app.stats()["requests"] > 50 + next(looks))
    c = running.connect()
    assert ask(c, "GET", "/hello") == (200, b"Hello, World")
    c.close()
    running.stop()
    app.until(connections=1)
    assert app.stop() == (0, "")


def test_failing_server_is_taken_out_and_comes_back(app, front, wait_until):
    """A check that fails is told by its status, one that succeeds brings the server back."""
    running = front(
        "haproxy",
        app,
        backend="option httpchk GET /health\n  http-check expect status 200",
        server="check inter 5ms fall 1 rise 1",
    )

    def status() -> int:
        c = running.connect()
        try:
            return ask(c, "GET", "/hello")[0]
        finally:
            c.close()

    wait_until("it is out", lambda: status() == 503)
    app.get("/healthy/1")
    wait_until("it is back", lambda: status() == 200)
    app.get("/healthy/0")
    wait_until("it is out again", lambda: status() == 503)
    assert app.stop() == (0, "")


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_requests_that_are_being_served_end_before_the_server_does(app, front, proxy):
    running = front(proxy, app, **WAYS[proxy][1])
    conns = [running.connect() for _ in range(8)]
    for c in conns:
        c.request("GET", "/hold/x")
        assert app.read_line() == "holding"
    released = app.connect()
    released.send("GET /hello HTTP/1.1\r\nHost: t\r\n\r\n").response()
    release = app.connect().send("GET /release/x HTTP/1.1\r\nHost:")
    app.until(reading=1)
    app.send_signal(15)
    assert released.ended()
    release.send(" t\r\n\r\n").response()
    for c in conns:
        r = c.getresponse()
        assert (r.status, r.read()) == (200, b"held")
        c.close()
    released.close()
    release.close()
    assert (app.wait(), app.stderr()) == (0, "")


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_forged_address_is_not_believed(serve, front, proxy):
    """The client is 127.0.0.2, the proxy 127.0.0.1, which is trusted."""

    def handler(w, r):
        return f"{r.remote_addr} {r.headers.get_all('X-Forwarded-For')}"

    server = serve(middleware.real_address(["127.0.0.1"])(handler))
    settings = {
        "nginx": {"location": "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"},
        "haproxy": {},
    }[proxy]
    running = front(proxy, server, **settings)
    for forged in ({}, {"X-Forwarded-For": "6.6.6.6"}, {"X-Forwarded-For": "127.0.0.1"}):
        c = http.client.HTTPConnection(
            *running.where, timeout=SAFETY, source_address=("127.0.0.2", 0)
        )
        running.clients.append(c)
        status, body = ask(c, "GET", "/", headers=forged)
        assert status == 200
        assert body.startswith(b"127.0.0.2:0 "), body
        assert all(value.encode() in body for value in forged.values())
    direct = http.client.HTTPConnection(
        *server.where, timeout=SAFETY, source_address=("127.0.0.2", 0)
    )
    running.clients.append(direct)
    _, body = ask(direct, "GET", "/", headers={"X-Forwarded-For": "6.6.6.6"})
    assert body.startswith(b"127.0.0.2:") and not body.startswith(b"127.0.0.2:0 ")


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_scheme_and_host_are_those_that_the_proxy_says(serve, front, proxy):
    def handler(w, r):
        return f"{r.scheme} {r.host}"

    server = serve(middleware.real_address(["127.0.0.1"], host=True)(handler))
    settings = {
        "nginx": {
            "location": "proxy_set_header X-Forwarded-Proto https;"
            "proxy_set_header X-Forwarded-Host $http_host;"
        },
        "haproxy": {
            "backend": "http-request set-header X-Forwarded-Proto https\n"
            "  http-request set-header X-Forwarded-Host %[req.hdr(host)]"
        },
    }[proxy]
    running = front(proxy, server, **settings)
    forged = {"X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example"}
    for fields in ({}, forged):
        c = http.client.HTTPConnection(*running.where, timeout=SAFETY)
        running.clients.append(c)
        status, body = ask(c, "GET", "/", headers={"Host": "shop.example"} | fields)
        assert (status, body) == (200, b"https shop.example")
