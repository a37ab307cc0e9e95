"""Dialling: addresses, names, several addresses, time-outs."""

import contextlib
import errno
import itertools
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtime
from contexts import Context, Ended
from runtime import net
from runtime._net.dial import _interleave
from runtime._net.resolve import Target

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0
SOON = 0.05


@pytest.fixture(autouse=True)
def forgetful_resolver():
    """What one test makes names stand for is not remembered in the next, nor do attempts go on."""
    before = net.set_default_resolver(net.Resolver(cache_time=0))
    yield
    net.set_default_resolver(before)
    attempts_have_ended()


@pytest.fixture
def listener():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        yield listener


def refused_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answer_with(monkeypatch, *addresses):
    def getaddrinfo(host, port, family=0, type=0):
        return [
            (socket.AF_INET6, type, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, type, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_refused_connection_names_the_address():
    port = refused_port()
    with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{port}"):
        net.dial("tcp", f"127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["", "127.0.0.1", "localhost", "0.0.0.0"])
def test_local_hosts_are_found(listener, host):
    with net.dial("tcp", f"{host}:{listener.addr.port}", timeout=NEVER) as conn:
        assert conn.remote_addr.port == listener.addr.port
        listener.accept().close()


def test_dial_over_ipv6():
    with (
        net.listen("tcp6", "[::1]:0") as listener,
        net.dial("tcp", f"[0:0::0001]:{listener.addr.port}") as client,
        listener.accept() as server,
    ):
        assert client.remote_addr == listener.addr
        assert str(server.remote_addr).startswith("[::1]:")


def test_other_goroutines_run_while_a_name_is_looked_up(listener, monkeypatch):
    lookup = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(*args):
        assert threading.current_thread() is not threading.main_thread()
        assert lookup.wait(NEVER)
        return real("127.0.0.1", *args[1:])

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    g = runtime.go(net.dial, "tcp", f"some.name:{listener.addr.port}")
    while g.wait_reason != "IO wait":
        runtime.gosched()
    lookup.set()
    g.join(NEVER).close()
    listener.accept().close()


def test_unknown_name_is_named(monkeypatch):
    def getaddrinfo(*args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror, match=r"not known.*no\.such\.name"):
        net.dial("tcp", "no.such.name:80")


def test_name_that_cannot_be_encoded_is_an_os_error():
    with pytest.raises(OSError, match="lookup"):
        net.dial("tcp", "a" * 64 + ".example:80")


def test_next_address_is_tried_when_one_fails(listener, monkeypatch):
    answer_with(monkeypatch, "127.0.0.2", "127.0.0.1")
    with net.dial("tcp", f"two.addresses:{listener.addr.port}") as conn:
        assert conn.remote_addr.host == "127.0.0.1"
        listener.accept().close()


def test_all_errors_are_told_when_all_addresses_fail(monkeypatch):
    answer_with(monkeypatch, "127.0.0.1", "::1", "127.0.0.2")
    port = refused_port()
    with pytest.raises(ConnectionRefusedError) as e:
        net.dial("tcp", f"three.addresses:{port}")
    assert e.value.filename == f"three.addresses:{port}"
    assert f"127.0.0.1:{port}: connect: Connection refused; [::1]:{port}: " in str(e.value)
    assert f"127.0.0.2:{port}: connect: Connection refused" in str(e.value)
    assert isinstance(e.value.__cause__, BaseExceptionGroup)
    assert len(e.value.__cause__.exceptions) == 3


# ---- several addresses (RFC 8305) ----


@contextlib.contextmanager
def silent(host, port=0):
    """An address that does not answer: a listener whose queue is full."""
    with socket.socket() as s, contextlib.ExitStack() as queue:
        s.bind((host, port))
        s.listen(0)
        for _ in range(3):
            client = queue.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(s.getsockname())
        yield s.getsockname()[1]


def test_address_that_does_not_answer_is_overtaken(monkeypatch):
    answer_with(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    with (
        # This one first: 127.0.0.1 is where other sockets may hold any port.
        net.listen("tcp", "127.0.0.1:0") as listener,
        silent("127.0.0.2", listener.addr.port) as port,
        silent("127.0.0.3", port),
        net.dial("tcp", f"three.addresses:{port}") as conn,
    ):
        assert conn.remote_addr.host == "127.0.0.1"
        listener.accept().close()


def test_address_that_answers_late_still_wins(monkeypatch):
    """While the other one has not even been refused."""
    answer_with(monkeypatch, "127.0.0.2", "127.0.0.3")
    with silent("127.0.0.3") as port, socket.socket() as s, socket.socket() as first:
        s.bind(("127.0.0.2", port))
        s.listen(0)
        first.connect(s.getsockname())
        g = runtime.go(net.dial, "tcp", f"two.addresses:{port}")
        while not any(i.name.startswith("dial ") for i in runtime.goroutines()):
            runtime.gosched()
        with s.accept()[0], g.join(NEVER) as conn:
            assert conn.remote_addr.host == "127.0.0.2"


def test_nothing_is_left_of_addresses_that_do_not_answer_in_time(monkeypatch):
    answer_with(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.4")
    with (
        silent("127.0.0.3") as port,
        silent("127.0.0.4", port),
        pytest.raises(TimeoutError, match=r"is up; 127\.0\.0\.2:.*: Connection refused") as e,
    ):
        # Time enough for the one that is refused.
        net.dial("tcp", f"three.addresses:{port}", timeout=0.5)
    assert e.value.errno == errno.ETIMEDOUT
    assert e.value.filename == f"three.addresses:{port}"
    attempts_have_ended()


def attempts_have_ended():
    """Those who lost close their sockets once they get to run."""
    while any(i.name.startswith("dial ") for i in runtime.goroutines()):
        runtime.sleep(0.001)


@pytest.mark.parametrize("addresses", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]])
def test_cancelled_dial_leaves_nothing(monkeypatch, addresses):
    answer_with(monkeypatch, *addresses)
    with silent("127.0.0.2") as port, silent("127.0.0.3", port):
        g = runtime.go(net.dial, "tcp", f"a.name:{port}")
        while g.wait_reason != "IO wait":
            runtime.gosched()
        g.cancel()
        with pytest.raises(runtime.Cancelled):
            g.join(NEVER)
        attempts_have_ended()


@pytest.mark.parametrize("addresses", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]])
def test_context_that_ends_ends_the_dial(tmp_path, monkeypatch, addresses):
    answer_with(monkeypatch, *addresses)
    ctx = Context()
    with silent("127.0.0.2") as port, silent("127.0.0.3", port):
        g = runtime.go(net.dial, "tcp", f"a.name:{port}", ctx=ctx)
        while g.wait_reason != "IO wait":
            runtime.gosched()
        ctx.end()
        with pytest.raises(Ended):
            g.join(NEVER)
        attempts_have_ended()
    with pytest.raises(Ended):
        net.dial("tcp", "127.0.0.1:1", ctx=ctx)
    with pytest.raises(Ended):
        net.dial("unix", str(tmp_path / "none"), ctx=ctx)


def test_context_that_does_not_end_does_no_harm(listener):
    ctx = Context()
    with net.dial("tcp", str(listener.addr), ctx=ctx, timeout=NEVER) as conn:
        listener.accept().close()
        assert conn.read() == b""
    with pytest.raises(ConnectionRefusedError):
        net.dial("tcp", f"127.0.0.1:{refused_port()}", ctx=ctx)


def test_one_of_many_winners_is_returned_and_the_others_are_closed(monkeypatch):
    monkeypatch.setattr("runtime._net.dial._ATTEMPT_DELAY", 0)
    hosts = [f"127.0.0.{i}" for i in range(1, 7)]
    answer_with(monkeypatch, *hosts)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(net.listen("tcp", "127.0.0.1:0")).addr.port
        for host in hosts[1:]:
            stack.enter_context(net.listen("tcp", f"{host}:{port}"))

        def dial(give_up):
            g = runtime.go(net.dial, "tcp", f"six.addresses:{port}", timeout=NEVER)
            if give_up:
                runtime.sleep(give_up * 0.0001)
                g.cancel()
            with contextlib.suppress(runtime.Cancelled), g.join(NEVER) as conn:
                assert conn.remote_addr.host in hosts

        for g in [runtime.go(dial, i % 5) for i in range(40)]:
            g.join(NEVER)
        attempts_have_ended()


@given(st.lists(st.booleans(), max_size=10))
def test_families_alternate_in_the_order_of_the_resolver(families):
    targets = [
        Target(socket.AF_INET6 if six else socket.AF_INET, ("", i))
        for i, six in enumerate(families)
    ]
    order = _interleave(targets)
    for family in (socket.AF_INET, socket.AF_INET6):
        assert [t for t in order if t.family == family] == [
            t for t in targets if t.family == family
        ]
    if targets:
        assert order[0] == targets[0]
    changes = 2 * min(
        sum(t.family == f for t in targets) for f in (socket.AF_INET, socket.AF_INET6)
    )
    assert all(a.family != b.family for a, b in itertools.pairwise(order[:changes]))


# ---- what is set before it connects ----


@pytest.mark.parametrize("local", ["127.0.0.9:0", ":0", "127.0.0.9:"])
def test_local_address_is_used(listener, local):
    with (
        net.dial("tcp", str(listener.addr), local_addr=local) as conn,
        listener.accept() as server,
    ):
        assert conn.local_addr == server.remote_addr
        if local[0] != ":":
            assert conn.local_addr.host == "127.0.0.9"


def test_local_port_is_used(listener):
    port = refused_port()
    with net.dial("tcp", str(listener.addr), local_addr=f":{port}") as conn:
        assert conn.local_addr.port == port
        listener.accept().close()


def test_addresses_of_another_family_than_the_local_one_are_left_out(listener, monkeypatch):
    answer_with(monkeypatch, "::1", "127.0.0.1")
    address = f"two.addresses:{listener.addr.port}"
    with net.dial("tcp", address, local_addr="127.0.0.9:0"), listener.accept() as server:
        assert server.remote_addr.host == "127.0.0.9"
    with pytest.raises(net.AddrError, match="none of the kind of"):
        net.dial("tcp4", "127.0.0.1:1", local_addr="[::1]:0")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"local_addr": "some.name:0"}, "must be an IP address"),
        ({"local_addr": "127.0.0.1"}, "missing port"),
        ({"keep_alive": 0}, "keep-alive must be"),
        ({"keep_alive": float("nan")}, "keep-alive must be"),
    ],
)
def test_senseless_options_are_refused(listener, options, problem):
    with pytest.raises(ValueError, match=problem):
        net.dial("tcp", str(listener.addr), **options)


@pytest.mark.parametrize(("given", "seconds"), [(15.0, 15), (1, 1), (7200, 7200)])
def test_keep_alive_asks_in_that_time(listener, given, seconds):
    with net.dial("tcp", str(listener.addr), keep_alive=given) as conn:
        assert conn.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == seconds
        assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == seconds
        listener.accept().close()


def test_keep_alive_can_be_turned_off(listener):
    with net.dial("tcp", str(listener.addr), keep_alive=None) as conn:
        assert not conn.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        listener.accept().close()


def test_control_sees_each_socket_before_it_connects(listener, monkeypatch):
    answer_with(monkeypatch, "127.0.0.2", "127.0.0.1")
    port = listener.addr.port
    seen = []

    def control(network, address, fd):
        with socket.socket(fileno=fd) as s:
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
            s.detach()
        seen.append((network, address))

    with net.dial("tcp", f"two.addresses:{port}", control=control):
        listener.accept().close()
    assert seen == [("tcp4", f"127.0.0.2:{port}"), ("tcp4", f"127.0.0.1:{port}")]


@pytest.mark.parametrize("network", ["tcp", "unix"])
def test_what_control_raises_is_raised(monkeypatch, network, tmp_path):
    def control(network, address, fd):
        raise ZeroDivisionError

    answer_with(monkeypatch, "127.0.0.2", "127.0.0.1")
    for address in ("127.0.0.1:80", "two.addresses:80"):
        with pytest.raises(ZeroDivisionError):
            net.dial(network, address, control=control)


def test_unknown_network_is_refused():
    for network in ("", "udp5", "tcp5", "TCP"):
        with pytest.raises(net.AddrError, match="unknown network"):
            net.dial(network, "127.0.0.1:80")


@pytest.mark.parametrize("network", ["unix", "unixpacket"])
def test_unix_dial_binds_its_own_end(tmp_path, network):
    kind = socket.SOCK_STREAM if network == "unix" else socket.SOCK_SEQPACKET
    with socket.socket(socket.AF_UNIX, kind) as listener:
        listener.bind(str(tmp_path / "server"))
        listener.listen()
        mine = str(tmp_path / "client")
        with net.dial(network, str(tmp_path / "server"), local_addr=mine) as conn:
            s, peer = listener.accept()
            with s:
                assert peer == mine == str(conn.local_addr)
                s.send(b"hello")
                assert conn.read() == b"hello"


def test_lookup_that_takes_too_long_times_out(monkeypatch):
    lookup, ended = threading.Event(), threading.Event()

    def getaddrinfo(*args):
        lookup.wait(NEVER)
        ended.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(TimeoutError, match=r"lookup slow\.name"):
        net.dial("tcp", "slow.name:80", timeout=SOON)
    lookup.set()
    assert ended.wait(NEVER)


def test_connect_that_takes_too_long_times_out():
    # A listener whose queue is full ignores who else comes.
    with net.listen("tcp", "127.0.0.1:0", backlog=0) as listener:
        queue = []
        try:
            with pytest.raises(TimeoutError, match=str(listener.addr)):
                while True:
                    queue.append(net.dial("tcp", str(listener.addr), timeout=SOON))
        finally:
            for conn in queue:
                conn.close()


def test_timeout_does_not_limit_the_connection(listener):
    timeout = 0.7
    with net.dial("tcp", str(listener.addr), timeout=timeout) as conn, listener.accept() as server:
        start = time.monotonic()
        runtime.sleep(timeout)
        assert time.monotonic() - start >= timeout
        server.write(b"x")
        assert conn.read() == b"x"
        conn.write(b"x")


def test_unix_dial_waits_for_room_in_the_queue(tmp_path):
    path = str(tmp_path / "socket")
    with net.listen("unix", path, backlog=0) as listener:
        first = net.dial("unix", path)
        with pytest.raises(TimeoutError, match="socket"):
            net.dial("unix", path, timeout=SOON)
        g = runtime.go(net.dial, "unix", path)
        while g.wait_reason != "IO wait":
            runtime.gosched()
        listener.accept().close()
        g.join(NEVER).close()
        listener.accept().close()
        first.close()


def test_dial_in_a_plain_thread(listener):
    done = runtime.Chan(1)

    def dial():
        with net.dial("tcp", f"localhost:{listener.addr.port}", timeout=NEVER) as conn:
            conn.write(b"x")
            done.send(conn.read())

    thread = threading.Thread(target=dial)
    thread.start()
    with listener.accept() as conn:
        conn.write(conn.read())
    assert done.recv(NEVER) == b"x"
    thread.join()
