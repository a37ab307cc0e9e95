"""Listeners that were handed down."""

import os
import socket
import subprocess
import sys

import pytest

import runtime
from programs import environment
from runtime import net

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0


def listening(kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_INET, kind)
    s.bind(("127.0.0.1", 0))
    return s


def test_descriptor_becomes_a_listener():
    s = listening()
    s.listen()
    os.set_inheritable(s.fileno(), True)
    with net.listener_from_fd(s.detach()) as listener:
        assert not os.get_inheritable(listener.fileno())
        assert not os.get_blocking(listener.fileno())
        g = runtime.go(net.dial, "tcp", str(listener.addr), timeout=NEVER)
        with listener.accept() as server, g.join(NEVER) as client:
            assert type(server) is net.TCPConn
            client.write(b"x")
            assert server.read() == b"x"


def test_unix_socket_keeps_its_file(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        s.listen()
        with net.listener_from_fd(s.detach()) as listener:
            assert str(listener.addr) == path
            net.dial("unix", path).close()
            with listener.accept() as conn:
                assert type(conn) is net.UnixConn
    assert os.path.exists(path)


def test_what_is_no_listener_is_refused_and_left_alone(tmp_path):
    with listening() as idle, listening(socket.SOCK_DGRAM) as datagrams:
        for s, problem in ((idle, "does not listen"), (datagrams, "no socket for streams")):
            with pytest.raises(net.AddrError, match=problem):
                net.listener_from_fd(s.fileno())
            assert os.get_blocking(s.fileno())
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(OSError):
            net.listener_from_fd(file.fileno())
        file.write("still open")
        file.flush()
        closed = file.fileno()
    with pytest.raises(OSError):
        net.listener_from_fd(closed)
    with pytest.raises(ValueError, match="0 or more"):
        net.listener_from_fd(-1)
    for fd in ("3", True, None):
        with pytest.raises(TypeError, match="an int"):
            net.listener_from_fd(fd)


PROGRAM = """
import os
from runtime import net

found = net.activation_listeners()
assert net.activation_listeners() == []
assert not any(name.startswith("LISTEN_") for name in os.environ)
for name, listener in found:
    assert not os.get_inheritable(listener.fileno())
    with listener.accept() as conn:
        conn.write(f"{name} {listener.addr}".encode())
"""

# As systemd does: the variables name the process that runs the program.
LAUNCHER = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
for i, fd in enumerate(map(int, sys.argv[2:])):
    os.dup2(fd, 100 + i)
for i in range(len(sys.argv) - 2):
    os.dup2(100 + i, 3 + i)
    os.set_inheritable(3 + i, True)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def launch(program, *sockets, **env):
    fds = [s.fileno() for s in sockets]
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, program, *map(str, fds)],
        pass_fds=fds,
        env=environment(LISTEN_FDS=str(len(fds)), **env),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("procs", [1], indirect=True)
@pytest.mark.parametrize("names", ["web:admin", ""])
def test_sockets_of_systemd_become_listeners(tmp_path, names):
    with listening() as web, socket.socket(socket.AF_UNIX) as admin:
        admin.bind(str(tmp_path / "admin"))
        web.listen()
        admin.listen()
        with launch(PROGRAM, web, admin, LISTEN_FDNAMES=names) as process:
            host, port = web.getsockname()
            addresses = [("tcp", f"{host}:{port}"), ("unix", str(tmp_path / "admin"))]
            for (network, address), name in zip(
                addresses, (names or "unknown:unknown").split(":"), strict=True
            ):
                with net.dial(network, address) as conn:
                    conn.set_deadline(NEVER)
                    assert conn.read() == f"{name} {address}".encode()
            _, errors = process.communicate(timeout=NEVER)
            assert process.returncode == 0, errors


@pytest.mark.parametrize("procs", [1], indirect=True)
def test_one_descriptor_that_does_not_listen_is_an_error():
    with listening() as good, listening() as bad:
        good.listen()
        with launch("from runtime import net; net.activation_listeners()", good, bad) as process:
            _, errors = process.communicate(timeout=NEVER)
    assert "AddrError: descriptor 4 does not listen" in errors


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({}, None),
        ({"LISTEN_PID": "me"}, None),
        ({"LISTEN_FDS": "1"}, None),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, None),
        ({"LISTEN_PID": "me", "LISTEN_FDS": "0"}, None),
        ({"LISTEN_PID": "x", "LISTEN_FDS": "1"}, "LISTEN_PID is no number"),
        ({"LISTEN_PID": "me", "LISTEN_FDS": "-1"}, "LISTEN_FDS is no number"),
        ({"LISTEN_PID": "me", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, "1 names for 2"),
    ],
)
def test_environment_without_sockets_for_us(monkeypatch, variables, problem):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "me" else value)
    if problem is None:
        assert net.activation_listeners(unset_environment=False) == []
        assert all(name in os.environ for name in variables)
        assert net.activation_listeners() == []
    else:
        with pytest.raises(ValueError, match=problem):
            net.activation_listeners()
    assert not any(name in os.environ for name in variables)
