"""HTTPS: with the ssl module, httpx, requests, and other programs."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from pathlib import Path

import httpx
import pytest
import requests
from certs import Authority

import runtime
from runtime import context, http, httptest, net

SAFETY = 60.0
GET = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def cert(authority):
    return authority.issue("server", "localhost", "127.0.0.1")


def about(w, r):
    """What the server knows of the connection."""
    tls = r.tls
    return {
        "version": tls.version,
        "cipher": tls.cipher_suite,
        "alpn": tls.negotiated_protocol,
        "name": tls.server_name,
        "certificate": tls.peer_certificate is not None,
        "addr": r.remote_addr,
        "body": len(r.body.read()),
    }


def secure(running, context, name="localhost"):
    """A TLS connection of the ssl module, as the raw client uses sockets."""
    c = running.connect()
    c.sock = context.wrap_socket(c.sock, server_hostname=name)
    return c


@pytest.fixture
def https(serve, cert):
    return serve(about, tls=(cert.pem, cert.key))


def test_request_over_tls_says_what_was_agreed(https, authority):
    context = authority.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with secure(https, context) as c:
        got = json.loads(c.send(GET).response().body)
        assert got.pop("cipher") == c.sock.cipher()[0]
        assert got == {
            "version": "TLSv1.3",
            "alpn": "http/1.1",
            "name": "localhost",
            "certificate": False,
            "addr": f"127.0.0.1:{c.sock.getsockname()[1]}",
            "body": 0,
        }


def test_tls_1_2_without_alpn_and_name(https, authority):
    context = authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    with secure(https, context, None) as c:
        got = json.loads(c.send(GET).response().body)
        assert (got["version"], got["alpn"], got["name"]) == ("TLSv1.2", None, None)


def test_tls_of_a_plain_connection_is_none(serve):
    assert serve(lambda w, r: repr(r.tls)).get().body == b"None"


def test_many_requests_and_large_bodies_on_one_connection(https, authority):
    with secure(https, authority.client_context()) as c:
        for n in (0, 1, 16384, 16385, 500_000):
            head = f"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {n}\r\n\r\n"
            c.send(head.encode() + b"x" * n)
            assert json.loads(c.response().body)["body"] == n


def test_connection_close_ends_with_close_notify(https, authority):
    with secure(https, authority.client_context()) as c:
        c.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").response()
        assert c.ended()  # ssl raises without close_notify


def test_refused_request_gets_its_response(https, authority):
    with secure(https, authority.client_context()) as c:
        assert c.send("GET / HTTP/1.1\r\n\r\n").response().status == 400
        assert c.ended()


def test_client_that_ends_without_close_notify_is_no_news(https, authority, caplog):
    with secure(https, authority.client_context()) as c:
        c.send(GET).response()
        socket.socket(fileno=c.sock.detach()).close()
    https.until(connections=0)
    assert caplog.text == ""


@pytest.mark.parametrize("goodbye", [True, False])
def test_context_ends_when_the_client_goes(serve, cert, authority, goodbye):
    begun, ended = runtime.Chan(1), runtime.Chan(1)

    def handler(w, r):
        ctx = r.context
        body = r.body.read()
        if r.path != "/wait":
            return body
        begun.send(None)
        with pytest.raises(context.Canceled) as caught:
            runtime.Chan().recv(timeout=SAFETY, ctx=ctx)
        ended.send(caught.value.__cause__)

    server = serve(handler, tls=(cert.pem, cert.key))
    with secure(server, authority.client_context()) as c:
        # What looks out for the client neither takes what it sends nor ends the connection.
        for n in range(5):
            body = b"x" * (n * 20_000)
            head = f"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
            c.send((head.encode() + body) * 2)
            assert [c.response().body for _ in range(2)] == [body] * 2
        c.send("GET /wait HTTP/1.1\r\nHost: t\r\n\r\n")
        begun.recv(timeout=SAFETY)
        if goodbye:
            with pytest.raises(OSError):  # the server does not say it, too
                c.sock.unwrap()
        c.close()
        assert isinstance(ended.recv(timeout=SAFETY), ConnectionError)
    server.until(connections=0)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_plain_http_is_told_that_this_is_https(https, method):
    with https.connect() as c:
        c.send(f"{method} / HTTP/1.1\r\nHost: t\r\n\r\n")
        got = c.rest()
        assert got.startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert got.endswith(b"Client sent an HTTP request to an HTTPS server.\n")


def test_garbage_instead_of_a_handshake_ends_the_connection(https, authority):
    with https.connect() as c:
        c.send(b"\x00" * 100)
        try:
            c.rest()  # perhaps an alert
        except ConnectionResetError:
            pass
    https.until(connections=0)
    with secure(https, authority.client_context()) as c:
        assert c.send(GET).response().status == 200


def test_silent_client_does_not_hold_up_others_and_is_closed(serve, cert, authority):
    running = serve(about, tls=(cert.pem, cert.key), handshake_timeout=1)
    with running.connect() as silent:
        with secure(running, authority.client_context()) as c:
            assert c.send(GET).response().status == 200
        assert silent.ended()


def test_handshakes_over_the_bound_wait_their_turn(serve, cert, authority):
    running = serve(about, tls=(cert.pem, cert.key), handshake_timeout=1, max_handshakes=1)
    silent = [running.connect() for _ in range(3)]
    with secure(running, authority.client_context()) as c:
        assert c.send(GET).response().status == 200
    for c in silent:
        assert c.ended()
        c.close()


def test_close_ends_connections_in_their_handshake(serve, cert):
    running = serve(about, tls=(cert.pem, cert.key), handshake_timeout=SAFETY)
    with running.connect() as c:
        running.until(connections=1)
        running.server.close()
        running.join()
        assert c.ended()


def test_shutdown_ends_idle_connections_politely(https, authority):
    with secure(https, authority.client_context()) as c:
        c.send(GET).response()
        assert https.server.shutdown(SAFETY) is True
        assert c.ended()


# --- certificates ---------------------------------------------------------------------------------


def test_client_certificate_is_asked_for_and_shown(serve, authority, cert):
    context = authority.server_context(cert)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.pem)
    running = serve(lambda w, r: r.tls.peer_certificate, tls=context)
    mine = authority.issue("client")
    with secure(running, authority.client_context(mine)) as c:
        pem = Path(mine.pem).read_text()
        der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN") :])
        assert c.send(GET).response().body == der
    with running.connect() as raw, pytest.raises((ssl.SSLError, ConnectionError)):
        raw.sock = authority.client_context().wrap_socket(raw.sock, server_hostname="localhost")
        raw.send(GET).response()


def test_certificate_by_name_of_the_server(serve, authority, cert):
    contexts = {name: authority.server_context(authority.issue(name)) for name in ("a.test",)}

    def choose(ssl_object, name, context):
        if name in contexts:
            ssl_object.context = contexts[name]

    context = authority.server_context(cert)
    context.sni_callback = choose
    running = serve(lambda w, r: r.tls.server_name, tls=context)
    for name in ("a.test", "localhost"):
        with secure(running, authority.client_context(), name) as c:
            assert c.send(GET).response().body == name.encode()


def test_certificate_is_renewed_without_a_restart(serve, authority, tmp_path):
    def serial(running):
        with secure(running, authority.client_context()) as c:
            return c.sock.getpeercert()["serialNumber"]

    first, second = (authority.issue(name, "localhost") for name in ("first", "second"))
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(cert):
        pem.write_text(Path(cert.pem).read_text())
        key.write_text(Path(cert.key).read_text())

    install(first)
    running = serve(about, tls=(pem, key))
    with secure(running, authority.client_context()) as kept:
        before = kept.sock.getpeercert()["serialNumber"]
        install(second)
        assert serial(running) == before
        running.server.set_tls((pem, key))
        assert serial(running) != before
        assert kept.send(GET).response().status == 200
        after = serial(running)
        key.write_text("broken")
        with pytest.raises(ValueError, match="no certificate and its key"):
            running.server.set_tls((pem, key))
        assert serial(running) == after


def test_context_of_a_function_is_asked_for_each_handshake(serve, authority, cert):
    contexts = [authority.server_context(cert) for _ in range(2)]
    calls = []

    def context():
        calls.append(1)
        return contexts[len(calls) % 2]

    running = serve(about, tls=context)
    for _ in range(4):
        client = authority.client_context()
        client.set_alpn_protocols(["http/1.1"])
        with secure(running, client) as c:
            assert json.loads(c.send(GET).response().body)["alpn"] == "http/1.1"
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("tls", "error", "message"),
    [
        (("/nowhere/cert.pem", "/nowhere/key.pem"), OSError, "cannot read the certificate"),
        ((__file__, __file__), ValueError, "no certificate and its key"),
        ("cert.pem", TypeError, "SSLContext"),
    ],
)
def test_tls_that_is_none_is_refused_at_once(tls, error, message):
    with pytest.raises(error, match=message):
        http.Server(about, tls=tls)


def test_set_tls_of_a_server_without_is_an_error():
    with pytest.raises(RuntimeError, match="without tls"):
        http.Server(about).set_tls((__file__, __file__))


# --- listeners ------------------------------------------------------------------------------------


def ask(conn):
    conn.set_deadline(SAFETY)
    conn.write(GET.encode())
    head = conn.read_until(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return json.loads(conn.read_exactly(length))


def test_proxy_protocol_in_front_of_tls(authority, cert):
    tcp = net.listen("tcp", "127.0.0.1:0")
    server = http.Server(about, tls=(cert.pem, cert.key))
    g = runtime.go(server.serve, net.ProxyListener(tcp, trusted=["127.0.0.0/8"]))
    with net.dial("tcp", str(tcp.addr)) as raw:
        raw.write(b"PROXY TCP6 2001:db8::7 ::1 5000 443\r\n")
        tls = net.tls.client(raw, authority.client_context(), server_hostname="localhost")
        got = ask(tls)
        assert (got["addr"], got["name"]) == ("[2001:db8::7]:5000", "localhost")
        tls.close()
    server.close()
    g.join(SAFETY)


def test_tls_listener_is_served_by_a_server_without_tls(authority, cert):
    listener = net.tls.listen("tcp", "127.0.0.1:0", authority.server_context(cert))
    server = http.Server(about)
    g = runtime.go(server.serve, listener)
    context = authority.client_context()
    with net.dial_tls("tcp", str(listener.addr), context=context, timeout=SAFETY) as conn:
        assert ask(conn)["version"] == "TLSv1.3"
    server.close()
    g.join(SAFETY)


def test_protocol_that_nobody_speaks_ends_the_connection(authority, cert):
    context = authority.server_context(cert)
    context.set_alpn_protocols(["h2"])
    listener = net.tls.listen("tcp", "127.0.0.1:0", context)
    server = http.Server(about)
    g = runtime.go(server.serve, listener)
    client = authority.client_context()
    client.set_alpn_protocols(["h2"])
    with net.dial_tls("tcp", str(listener.addr), context=client, timeout=SAFETY) as conn:
        conn.set_deadline(SAFETY)
        assert conn.read() == b""
    server.close()
    g.join(SAFETY)


def test_tls_in_memory(authority, cert):
    context = authority.client_context()
    server = httptest.Server(about, tls=(cert.pem, cert.key))
    with server, server.client(context, "localhost") as client:
        assert client.post("/", b"x" * 100_000, timeout=SAFETY).json()["body"] == 100_000


# --- clients --------------------------------------------------------------------------------------


def test_httpx_and_requests(https, authority):
    url = f"https://localhost:{https.where[1]}/"
    with httpx.Client(verify=authority.client_context()) as client:
        for _ in range(3):
            assert client.post(url, content=b"abc").json()["body"] == 3
    with requests.Session() as session:
        for _ in range(3):
            assert session.post(url, data=b"abcd", verify=authority.pem).json()["body"] == 4


def test_curl(https, authority, tool):
    url = f"https://localhost:{https.where[1]}/"
    out = tool("curl", "-sS", "--http1.1", "--cacert", authority.pem, "-d", "hello", url, url)
    assert out.count(b'"body":5') == 2
    assert b'"alpn":"http/1.1"' in out
    plain = tool("curl", "-sS", "--http0.9", url.replace("https", "http"))
    assert plain == b"Client sent an HTTP request to an HTTPS server.\n"


def test_openssl_s_client(https, authority, tool):
    where = f"localhost:{https.where[1]}"
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    command = ["openssl", "s_client", "-connect", where, "-servername", "localhost"]
    out = tool(*command, "-CAfile", authority.pem, "-quiet", "-ign_eof", data=request)
    assert b"HTTP/1.1 200 OK" in out
    assert b'"name":"localhost"' in out


def test_many_clients_at_once(https, authority):
    context = authority.client_context()
    errors = []

    def visit():
        try:
            with secure(https, context) as c:
                for i in range(10):
                    head = f"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {i}\r\n\r\n"
                    c.send(head + "x" * i)
                    assert json.loads(c.response().body)["body"] == i
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=visit) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SAFETY)
    assert errors == []
    https.until(connections=0)


def test_listen_and_serve_tls(monkeypatch, cert):
    made = []

    def serve(server):
        made.append(server)
        server.close()

    monkeypatch.setattr(http.Server, "serve", serve)
    http.listen_and_serve_tls("127.0.0.1:0", cert.pem, cert.key, about)
    assert len(made) == 1


def test_certificate_that_there_is_not_is_told_and_nothing_is_left(serve, authority, caplog):
    def none():
        raise ssl.SSLError("no certificate yet")

    server = serve(about, tls=none)
    for _ in range(3):
        with pytest.raises(OSError):
            secure(server, authority.client_context())
    server.until(connections=0)
    assert "there is no certificate for a TLS handshake" in caplog.text
