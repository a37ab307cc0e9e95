"""TLS, with ourselves and with other programs."""

import contextlib
import hashlib
import os
import random
import socket
import ssl
import subprocess
import threading

import pytest
from certs import Authority

import runtime
from contexts import Context, Ended
from runtime import net

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0
SOON = 0.05
MB = 1 << 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def server_context(authority):
    return authority.server_context()


@pytest.fixture(scope="module")
def client_context(authority):
    return authority.client_context()


def pair(client_context, server_context, **options):
    """Both ends, before their handshake."""
    a, b = socket.socketpair()
    client = net.tls.client(
        net.Conn(a.detach()), client_context, server_hostname="localhost", **options
    )
    return client, net.tls.server(net.Conn(b.detach()), server_context)


@pytest.fixture(params=["TLSv1.3", "TLSv1.2"])
def ends(request, authority, client_context, server_context):
    """Both ends of a connection, in either version."""
    context = client_context
    if request.param == "TLSv1.2":
        context = authority.client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    client, server = pair(context, server_context)
    with client, server:
        g = runtime.go(server.handshake)
        client.handshake(NEVER)
        g.join(NEVER)
        yield client, server


# ---- reading and writing ----


def test_echo_returns_each_message(ends):
    client, server = ends

    def echo():
        while data := server.read():
            server.write(data)
        server.close_write()

    g = runtime.go(echo)
    for n in (1, 2, 100, 16384, 16385, 65536, 200_000):
        message = os.urandom(n)
        assert client.write(message) == n
        assert client.read_exactly(n) == message
    client.close_write()
    assert client.read() == b""
    assert client.read() == b""
    g.join(NEVER)


def test_state_tells_what_was_agreed_upon(ends):
    client, server = ends
    state = client.connection_state()
    assert state.version == server.connection_state().version
    assert state.version in ("TLSv1.2", "TLSv1.3")
    assert "AES" in state.cipher_suite or "CHACHA" in state.cipher_suite
    assert state.negotiated_protocol is None
    assert state.peer_certificate
    assert server.connection_state().peer_certificate is None
    assert not state.did_resume


def test_handshake_is_made_by_the_first_use(client_context, server_context):
    client, server = pair(client_context, server_context)
    with client, server:
        assert "before its handshake" in repr(client)
        g = runtime.go(server.read_exactly, 5)
        client.write(b"hello")
        assert g.join(NEVER) == b"hello"
        assert "open" in repr(client)
        assert client.connection_state().version == "TLSv1.3"


def test_readers_keep_no_writer_from_its_first_write(client_context, server_context):
    """All come at once, before the handshake; readers then wait for what writers send."""
    client, server = pair(client_context, server_context)
    with client, server:
        users = [
            (runtime.go(conn.read_exactly, 8), [runtime.go(conn.write, b"ab") for _ in range(4)])
            for conn in (client, server)
        ]
        for reader, writers in users:
            assert reader.join(NEVER) == b"ab" * 4
            for g in writers:
                g.join(NEVER)


def test_whole_pieces_are_read(ends):
    client, server = ends
    server.write(b"one\ntwo\nthree")
    assert client.read_until() == b"one\n"
    assert client.read_until() == b"two\n"
    buffer = bytearray(3)
    assert client.read_into(buffer) == 3
    assert buffer == b"thr"
    client.unread(b"thr")
    assert client.read_exactly(5) == b"three"
    assert client.read(0) == b""
    server.close()
    with pytest.raises(net.UnexpectedEOFError):
        client.read_until()


def test_big_transfer_in_both_directions_at_once(ends):
    payloads = [random.Random(i).randbytes(4 * MB) for i in range(2)]

    def send(conn, data):
        at, rng = 0, random.Random(1)
        while at < len(data):
            n = rng.choice([1, 1000, 70_000, 500_000])
            conn.write(data[at : at + n])
            at += n
        conn.close_write()

    def receive(conn):
        digest = hashlib.sha256()
        while data := conn.read(random.choice([100, 16384, 100_000])):
            digest.update(data)
        return digest.digest()

    senders = [runtime.go(send, c, d) for c, d in zip(ends, payloads, strict=True)]
    receivers = [runtime.go(receive, conn) for conn in ends]
    assert [g.join(NEVER) for g in receivers] == [
        hashlib.sha256(p).digest() for p in payloads[::-1]
    ]
    for g in senders:
        g.join(NEVER)


def test_writers_and_readers_take_turns(ends):
    client, server = ends
    writers = [runtime.go(client.write, bytes([i]) * 1000) for i in range(20)]
    readers = [runtime.go(server.read_exactly, 1000) for _ in range(20)]
    for g in writers:
        g.join(NEVER)
    data = b"".join(g.join(NEVER) for g in readers)
    assert sorted(data) == sorted(b"".join(bytes([i]) * 1000 for i in range(20)))


def test_writer_waits_for_a_reader(ends, parked):
    client, server = ends
    g = runtime.go(client.write, bytes(8 * MB))
    parked(g)
    assert len(server.read_exactly(8 * MB)) == 8 * MB
    assert g.join(NEVER) == 8 * MB


def test_reader_goes_on_while_a_writer_waits(ends, parked):
    client, server = ends
    writer = runtime.go(client.write, bytes(8 * MB))
    parked(writer)
    for i in range(50):
        g = runtime.go(server.write, bytes([i]) * 1000)
        assert client.read_exactly(1000) == bytes([i]) * 1000
        g.join(NEVER)
    assert len(server.read_exactly(8 * MB)) == 8 * MB
    assert writer.join(NEVER) == 8 * MB


# ---- deadlines, cancelling, closing ----


def test_read_that_times_out_loses_nothing(ends, parked):
    client, server = ends
    client.set_read_deadline(SOON)
    server.write(b"abc")
    with pytest.raises(TimeoutError):
        client.read_exactly(6)
    client.set_read_deadline(None)
    server.write(b"def")
    assert client.read_exactly(6) == b"abcdef"
    g = runtime.go(client.read)
    parked(g)
    client.set_deadline(0)
    with pytest.raises(TimeoutError):
        g.join(NEVER)
    client.set_deadline(None)
    server.write(b"x")
    assert client.read() == b"x"


def test_cancelled_reader_loses_nothing(ends, parked):
    client, server = ends
    g = runtime.go(client.read_exactly, 6)
    server.write(b"abc")
    parked(g)
    g.cancel()
    with pytest.raises(runtime.Cancelled):
        g.join(NEVER)
    server.write(b"def")
    assert client.read_exactly(6) == b"abcdef"


def test_write_that_times_out_ends_all_writing(ends):
    client, server = ends
    client.set_write_deadline(SOON)
    with pytest.raises(TimeoutError):
        client.write(bytes(8 * MB))
    client.set_write_deadline(None)
    with pytest.raises(TimeoutError, match="in an earlier write"):
        client.write(b"x")
    server.write(b"still read")
    assert client.read() == b"still read"


def test_close_wakes_everybody(ends, parked):
    client, _ = ends
    g = runtime.go(client.read)
    writer = runtime.go(client.write, bytes(8 * MB))
    parked(g, writer)
    client.close()
    client.close()
    assert client.closed
    for waiting in (g, writer):
        with pytest.raises(net.ClosedError):
            waiting.join(NEVER)
    for operation in (client.read, lambda: client.write(b"x")):
        with pytest.raises(net.ClosedError):
            operation()
    assert "closed" in repr(client)


def test_close_notify_is_the_end_and_its_absence_an_error(ends):
    client, server = ends
    server.write(b"all")
    server.close()
    assert client.read_exactly(3) == b"all"
    assert client.read() == b""


def test_end_without_close_notify_is_an_error(ends):
    client, server = ends
    server.write(b"not all")
    server.conn.close()
    with pytest.raises(net.tls.TruncatedError, match="without close_notify"):
        client.read_exactly(10)
    assert client.read() == b"not all"
    for _ in range(2):
        with pytest.raises(net.UnexpectedEOFError, match="data may be missing") as e:
            client.read()
        assert isinstance(e.value, OSError)


def test_half_closed_connection_still_receives(ends):
    client, server = ends
    server.write(b"before " * 5000)  # some has come when it is closed, some has not
    assert client.read(6) == b"before"
    client.close_write()
    with pytest.raises(BrokenPipeError, match="closed for writing"):
        client.write(b"x")
    assert server.read() == b""
    server.write(b"after")
    server.close()
    assert client.read_exactly(5000 * 7 - 6 + 5).endswith(b" after")
    assert client.read() == b""


def test_close_write_after_the_peer_has_ended(ends):
    client, server = ends
    server.write(b"last words")
    server.close_write()
    assert client.read(1) == b"l"
    client.close_write()
    assert client.read_exactly(9) == b"ast words"
    assert client.read() == b""
    assert server.read() == b""


# ---- the handshake ----


def test_handshake_of_a_silent_client_times_out(server_context):
    a, b = socket.socketpair()
    with a, net.tls.server(net.Conn(b.detach()), server_context, handshake_timeout=SOON) as conn:
        with pytest.raises(TimeoutError, match=r"TLS handshake with .*: the time is up"):
            conn.read()
        with pytest.raises(TimeoutError):
            conn.write(b"x")


def test_handshake_ends_with_timeout_deadline_context_and_cancel(server_context, parked):
    def start():
        a, b = socket.socketpair()
        return a, net.tls.server(net.Conn(b.detach()), server_context)

    a, conn = start()
    with a, conn, pytest.raises(TimeoutError):
        conn.handshake(SOON)
    a, conn = start()
    with a, conn:
        conn.set_deadline(SOON)
        with pytest.raises(TimeoutError):
            conn.handshake()
    a, conn = start()
    with a, conn:
        ctx = Context()
        g = runtime.go(conn.handshake, ctx=ctx)
        parked(g)
        ctx.end()
        with pytest.raises(Ended):
            g.join(NEVER)
    a, conn = start()
    with a, conn:
        g = runtime.go(conn.handshake)
        parked(g)
        g.cancel()
        with pytest.raises(runtime.Cancelled):
            g.join(NEVER)
        with pytest.raises(BrokenPipeError):
            conn.read()
    a, conn = start()
    with a:
        g = runtime.go(conn.handshake)
        parked(g)
        conn.close()
        with pytest.raises(net.ClosedError):
            g.join(NEVER)


def test_deadlines_are_back_after_the_handshake(client_context, server_context):
    client, server = pair(client_context, server_context)
    with client, server:
        client.set_read_deadline(NEVER)
        g = runtime.go(server.handshake)
        client.handshake(NEVER, ctx=Context())
        g.join(NEVER)
        server.write(b"x")
        assert client.read() == b"x"
        client.set_read_deadline(0)
        with pytest.raises(TimeoutError):
            client.read()


def handshake_errors(client, server):
    """What the two sides say."""
    errors = []
    with client, server:
        g = runtime.go(server.handshake)
        for handshake in (client.read, lambda: g.join(NEVER)):
            try:
                handshake()
                errors.append(None)
            except (OSError, EOFError) as e:
                errors.append(e)
    return errors


def test_name_of_another_server_is_refused_by_both(client_context, authority):
    other = authority.server_context(authority.issue("other.example"))
    errors = handshake_errors(*pair(client_context, other))
    assert isinstance(errors[0], ssl.SSLCertVerificationError)
    assert "localhost" in str(errors[0])
    assert "alert" in str(errors[1]).lower()


def test_error_of_a_handshake_stays(client_context, authority):
    other = authority.server_context(authority.issue("other.example"))
    client, server = pair(client_context, other)
    with client, server:
        g = runtime.go(server.handshake)
        for operation in (client.handshake, client.read, lambda: client.write(b"x")):
            with pytest.raises(ssl.SSLCertVerificationError, match="TLS with"):
                operation()
        with pytest.raises(ssl.SSLError):
            g.join(NEVER)


def test_peer_that_does_not_speak_tls_is_told_so(server_context, client_context):
    for peer_says, side in ((b"GET / HTTP/1.0\r\n\r\n", "server"), (b"220 hello\r\n", "client")):
        a, b = socket.socketpair()
        with a:
            a.send(peer_says)
            conn = net.Conn(b.detach())
            if side == "server":
                tls = net.tls.server(conn, server_context)
            else:
                tls = net.tls.client(conn, client_context, server_hostname="localhost")
            with tls, pytest.raises(ssl.SSLError, match="does not seem to speak TLS"):
                tls.handshake(NEVER)


def test_peer_that_hangs_up_is_named(server_context):
    a, b = socket.socketpair()
    a.close()
    with (
        net.tls.server(net.Conn(b.detach()), server_context) as conn,
        pytest.raises(net.tls.TruncatedError, match="in its handshake"),
    ):
        conn.handshake()


def test_client_certificates_are_asked_for_and_shown(authority, server_context):
    cert = authority.issue("a.client")
    context = authority.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.pem)
    client, server = pair(authority.client_context(cert), context)
    with client, server:
        g = runtime.go(server.connection_state)
        client.write(b"x")
        with open(cert.pem) as f:
            assert g.join(NEVER).peer_certificate == ssl.PEM_cert_to_DER_cert(f.read())
    errors = handshake_errors(*pair(authority.client_context(), context))
    assert "certificate" in str(errors[1]).lower()


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h3"], None), ([], None)]
)
def test_alpn_chooses_a_protocol(authority, offered, chosen):
    context = authority.server_context()
    context.set_alpn_protocols(["http/1.1"])
    client_context = authority.client_context()
    if offered:
        client_context.set_alpn_protocols(offered)
    client, server = pair(client_context, context)
    with client, server:
        g = runtime.go(server.connection_state)
        assert client.connection_state().negotiated_protocol == chosen
        assert g.join(NEVER).negotiated_protocol == chosen


def test_sni_callback_may_wait_and_choose_a_certificate(authority, client_context):
    localhost = authority.server_context()
    first = authority.server_context(authority.issue("first.example"))
    names = []

    def choose(ssl_object, name, context):
        names.append(name)
        runtime.sleep(0.001)
        ssl_object.context = localhost

    first.sni_callback = choose
    client, server = pair(client_context, first)
    with client, server:
        others = [runtime.go(runtime.sleep, 0.0005) for _ in range(10)]
        g = runtime.go(server.handshake)
        client.handshake(NEVER)
        g.join(NEVER)
        for other in others:
            other.join(NEVER)
    assert names == ["localhost"]


# ---- listeners ----


def serve_echo(listener):
    def echo(conn):
        with conn, contextlib.suppress(OSError, EOFError):
            while data := conn.read():
                conn.write(data)

    def serve():
        connections = []
        for conn in listener:
            connections.append(runtime.go(echo, conn))
        for g in connections:
            g.join(NEVER)

    return runtime.go(serve)


@pytest.fixture
def echo_server(server_context):
    with net.tls.listen("tcp", "127.0.0.1:0", server_context) as listener:
        g = serve_echo(listener)
        yield listener
    g.join(NEVER)


def test_listener_serves_many(echo_server, client_context):
    def once(i):
        with net.dial_tls("tcp", str(echo_server.addr), context=client_context) as conn:
            message = bytes([i]) * 5000
            conn.write(message)
            assert conn.read_exactly(5000) == message
            conn.close_write()
            assert conn.read() == b""

    for g in [runtime.go(once, i) for i in range(20)]:
        g.join(NEVER)
    assert "TLSListener" in repr(echo_server)
    assert echo_server.fileno() == echo_server.listener.fileno()


def test_silent_client_does_not_keep_others_from_being_served(echo_server, client_context):
    with (
        socket.create_connection(echo_server.addr),
        net.dial_tls(
            "tcp", f"localhost:{echo_server.addr.port}", context=client_context, timeout=NEVER
        ) as conn,
    ):
        conn.write(b"x")
        assert conn.read() == b"x"


def certificate_seen(listener, context):
    with net.dial_tls(
        "tcp", str(listener.addr), context=context, server_hostname="localhost", timeout=NEVER
    ) as conn:
        conn.write(b"x")
        assert conn.read() == b"x"
        return conn.connection_state().peer_certificate


def test_certificates_can_be_renewed(authority, client_context):
    contexts = [authority.server_context(authority.issue(f"s{i}", "localhost")) for i in range(3)]
    with net.tls.listen("tcp", "127.0.0.1:0", contexts[0]) as listener:
        g = serve_echo(listener)
        seen = {certificate_seen(listener, client_context)}
        listener.set_context(contexts[1])
        seen.add(certificate_seen(listener, client_context))
        listener.set_context(lambda: contexts[2])
        seen.add(certificate_seen(listener, client_context))
        assert len(seen) == 3
    g.join(NEVER)


def test_context_function_that_fails_ends_only_its_connection(client_context, server_context):
    outcomes = [ZeroDivisionError(), None]

    def context():
        if (e := outcomes.pop(0)) is not None:
            raise e
        return server_context

    with net.tls.listen("tcp", "127.0.0.1:0", context) as listener:
        client = runtime.go(net.dial_tls, "tcp", str(listener.addr), context=client_context)
        with listener.accept() as conn, pytest.raises(ZeroDivisionError):
            conn.handshake()
        with pytest.raises(OSError):
            client.join(NEVER)
        client = runtime.go(net.dial_tls, "tcp", str(listener.addr), context=client_context)
        with listener.accept() as conn:
            conn.handshake()
            client.join(NEVER).close()


def test_context_of_no_kind_known_is_a_type_error():
    with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext"):
        net.tls.listen("tcp", "127.0.0.1:0", "cert.pem")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_taken_up_again(echo_server, authority, version):
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version
    sessions = net.tls.SessionCache()
    resumed = []
    for _ in range(3):
        with net.dial_tls(
            "tcp", str(echo_server.addr), context=context, sessions=sessions, timeout=NEVER
        ) as conn:
            conn.write(b"x")
            assert conn.read() == b"x"
            resumed.append(conn.connection_state().did_resume)
    assert resumed == [False, True, True]
    assert len(sessions) == 1


def test_session_cache_is_bounded():
    sessions = net.tls.SessionCache(2)
    for name in "abc":
        sessions._keep(name, None)
    assert list(sessions._sessions) == ["b", "c"]
    with pytest.raises(ValueError, match="1 or more"):
        net.tls.SessionCache(0)


# ---- dialling ----


def test_dial_times_out_in_the_handshake(client_context):
    with net.listen("tcp", "127.0.0.1:0") as listener:
        with pytest.raises(TimeoutError, match="handshake"):
            net.dial_tls("tcp", str(listener.addr), context=client_context, timeout=0.5)
        listener.accept().close()


def test_dial_distrusts_unknown_authorities(server_context):
    with net.tls.listen("tcp", "127.0.0.1:0", server_context) as listener:
        g = runtime.go(net.dial_tls, "tcp", str(listener.addr), timeout=NEVER)
        with listener.accept() as conn, pytest.raises(ssl.SSLError, match="alert"):
            conn.handshake()
        with pytest.raises(ssl.SSLCertVerificationError):
            g.join(NEVER)


# ---- other programs ----

# Sanitizers are for this process.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def run(*command, stdin=b""):
    """A program's output; goroutines run meanwhile."""
    options = {"capture_output": True, "timeout": NEVER, "env": ENVIRONMENT}
    result = runtime.blocking(lambda: subprocess.run(command, input=stdin, **options))
    return result.stdout


def test_openssl_client_is_served(authority, server_context):
    with net.tls.listen("tcp", "127.0.0.1:0", server_context) as listener:

        def serve():
            with listener.accept() as conn:
                line = conn.read_until()
                conn.write(b"got " + line)
                conn.close_write()
                return conn.read()

        g = runtime.go(serve)
        out = run(
            "openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", authority.pem,
            "-connect", str(listener.addr), stdin=b"hello\n",
        )  # fmt: skip
        assert b"got hello\n" in out
        g.join(NEVER)


def test_keys_may_change_on_the_way(authority, server_context):
    with net.tls.listen("tcp", "127.0.0.1:0", server_context) as listener:
        command = ["openssl", "s_client", "-tls1_3", "-CAfile", authority.pem]
        with subprocess.Popen(
            [*command, "-connect", str(listener.addr)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
        ) as client, listener.accept() as conn:  # fmt: skip
            for i in range(3):
                client.stdin.write(b"one\n")
                assert conn.read_until() == b"one\n"
                waiting = runtime.go(conn.read_until)
                client.stdin.write(b"K\n")  # changes its keys, and wants us to change ours
                while b"KEYUPDATE" not in runtime.blocking(client.stdout.readline):
                    pass
                client.stdin.write(b"two\n")
                assert waiting.join(NEVER) == b"two\n"
                conn.write(b"three %d\n" % i)
                while b"three %d" % i not in runtime.blocking(client.stdout.readline):
                    pass
            client.stdin.write(b"Q\n")
            assert conn.read() == b""


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_server_is_a_peer(authority, client_context, version):
    cert = authority.issue("server", "localhost")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        ["openssl", "s_server", "-quiet", version, "-cert", cert.pem, "-key", cert.key,
         "-accept", f"127.0.0.1:{port}", "-naccept", "1", "-rev"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            try:
                conn = net.dial_tls(
                    "tcp", f"127.0.0.1:{port}", context=client_context,
                    server_hostname="localhost", timeout=NEVER,
                )  # fmt: skip
                break
            except ConnectionRefusedError:
                runtime.sleep(0.01)
        with conn:
            conn.write(b"hello\n")
            assert conn.read_until() == b"olleh\n"
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("version", ["--tls-max 1.2", "--tlsv1.3"])
def test_curl_is_served(authority, server_context, version):
    with net.tls.listen("tcp", "127.0.0.1:0", server_context) as listener:

        def serve():
            with listener.accept() as conn:
                conn.read_until(b"\r\n\r\n")
                conn.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000)

        g = runtime.go(serve)
        url = f"https://localhost:{listener.addr.port}/"
        assert (
            run("curl", "-sS", *version.split(), "--cacert", authority.pem, url) == b"x" * 100_000
        )
        g.join(NEVER)


def in_thread(function):
    """Run it in a plain thread; its result comes out of the channel."""
    outcome = runtime.Chan(1)

    def run():
        try:
            outcome.send((function(), None))
        except BaseException as e:
            outcome.send((None, e))

    threading.Thread(target=run).start()
    return outcome


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_ssl_module_in_a_thread_is_a_client(echo_server, authority, version):
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version

    def client():
        with (
            socket.create_connection(echo_server.addr, timeout=NEVER) as s,
            context.wrap_socket(s, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"hello" * 20_000)
            got = b""
            while len(got) < 100_000:
                got += tls.recv(100_000)
            tls.unwrap().close()  # waits for our close_notify
            return got

    got, error = in_thread(client).recv(NEVER)
    if error is not None:
        raise error
    assert got == b"hello" * 20_000


def test_ssl_module_in_a_thread_is_a_server(client_context, server_context):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def server():
            s, _ = listener.accept()
            with s, server_context.wrap_socket(s, server_side=True) as tls:
                tls.sendall(tls.recv(100))
                tls.unwrap().close()

        outcome = in_thread(server)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with net.dial_tls("tcp", address, context=client_context, timeout=NEVER) as conn:
            conn.write(b"hello")
            assert conn.read() == b"hello"
            assert conn.read() == b""
            conn.close_write()
            assert outcome.recv(NEVER) == (None, None)


def test_connections_are_used_by_plain_threads(echo_server, client_context):
    def client():
        with net.dial_tls("tcp", str(echo_server.addr), context=client_context) as conn:
            conn.write(b"x" * 100_000)
            return conn.read_exactly(100_000)

    for outcome in [in_thread(client) for _ in range(4)]:
        assert outcome.recv(NEVER) == (b"x" * 100_000, None)


def test_tls_runs_over_tls(ends, client_context, server_context):
    client, server = ends
    inner = net.tls.client(client, client_context, server_hostname="localhost")
    g = runtime.go(net.tls.server(server, server_context).read_exactly, 5)
    inner.write(b"inner")
    assert g.join(NEVER) == b"inner"


# ---- a bad network ----

NO_CUT = 1 << 30


def relay(source, sink, rng, until_bytes):
    """Pass on what comes in small pieces, with pauses; cut after so many bytes."""
    passed = 0
    with contextlib.suppress(OSError):
        while data := source.read(rng.choice([1, 7, 1000, 65536])):
            data = data[: until_bytes - passed]
            if rng.random() < 0.1:
                runtime.sleep(0.0002)
            sink.write(data)
            passed += len(data)
            if passed >= until_bytes:
                break
    sink.close()
    source.close()


def over_bad_network(client_context, server_context, seed, until_bytes):
    rng = random.Random(seed)
    sockets = [net.Conn(s.detach()) for _ in range(2) for s in socket.socketpair()]
    relays = [
        runtime.go(relay, sockets[1], sockets[2], random.Random(seed), until_bytes),
        runtime.go(relay, sockets[2], sockets[1], random.Random(seed + 1), until_bytes),
    ]
    client = net.tls.client(sockets[0], client_context, server_hostname="localhost")
    server = net.tls.server(sockets[3], server_context)
    message = rng.randbytes(rng.choice([1, 20_000]))
    return client, server, message, relays


@pytest.mark.parametrize("seed", range(3))
def test_stream_in_pieces_with_pauses_arrives(client_context, server_context, seed):
    client, server, message, relays = over_bad_network(client_context, server_context, seed, NO_CUT)

    def serve():
        server.write(server.read_exactly(len(message)))
        return server.read()

    with client, server:
        g = runtime.go(serve)
        client.write(message)
        assert client.read_exactly(len(message)) == message
        client.close_write()
        assert g.join(NEVER) == b""
    for g in relays:
        g.join(NEVER)


@pytest.mark.parametrize("seed", range(10))
def test_connection_that_is_cut_anywhere_is_an_error(client_context, server_context, seed):
    """And never the end of the stream, nor wrong data."""
    cut = random.Random(seed).randrange(3000)
    client, server, _, relays = over_bad_network(client_context, server_context, seed, cut)

    def exchange(conn):
        got = b""
        try:
            conn.write(bytes(3000))
            while data := conn.read():
                got += data
        except (OSError, EOFError):
            assert got == bytes(len(got))
            return
        finally:
            conn.close()
        raise AssertionError("it ended properly")

    for g in [runtime.go(exchange, conn) for conn in (client, server)]:
        g.join(NEVER)
    for g in relays:
        g.join(NEVER)


@pytest.mark.parametrize("seed", range(20))
def test_changed_bytes_are_noticed(client_context, server_context, seed):
    rng = random.Random(seed)
    a, b = socket.socketpair()
    c, d = socket.socketpair()
    sockets = [net.Conn(s.detach()) for s in (a, b, c, d)]
    client = net.tls.client(sockets[0], client_context, server_hostname="localhost")
    server = net.tls.server(sockets[3], server_context)
    where = rng.randrange(2500)

    def relay_changed():
        passed = 0
        with contextlib.suppress(OSError):
            while data := bytearray(sockets[2].read()):
                if passed <= where < passed + len(data):
                    data[where - passed] ^= 1 << rng.randrange(8)
                passed += len(data)
                sockets[1].write(data)
        sockets[1].close()

    def serve():
        with server, contextlib.suppress(OSError, EOFError):
            server.write(bytes(5000))
            server.close_write()
            server.read()

    relays = [runtime.go(relay, sockets[1], sockets[2], rng, NO_CUT), runtime.go(relay_changed)]
    g = runtime.go(serve)
    with client:
        client.set_deadline(0.3)  # a changed length may make it wait for what never comes
        got = b""
        with pytest.raises((OSError, EOFError)):
            while data := client.read():
                got += data
            assert len(got) < 5000
            raise EOFError
        assert got == bytes(len(got))
    for goroutine in (g, *relays):
        goroutine.join(NEVER)


def test_context_for_clients_is_refused_by_a_server():
    a, b = net.pipe()
    with a, b, pytest.raises(ValueError, match="PROTOCOL_TLS_SERVER is needed"):
        net.tls.server(a, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
