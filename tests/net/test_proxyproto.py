"""The PROXY protocol: its parser, listeners, and haproxy."""

import ipaddress
import shutil
import socket
import struct
import subprocess

import pytest
from certs import Authority
from hypothesis import example, given
from hypothesis import strategies as st

import runtime
from runtime import net
from runtime._net.proxyproto import _crc32c, parse_header

NEVER = 60.0
SOON = 0.02
SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")


def v2(command, family, body):
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


def ipv4(source, destination, rest=b""):
    hosts = b"".join(socket.inet_aton(host) for host, _ in (source, destination))
    return hosts + struct.pack("!HH", source[1], destination[1]) + rest


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def whole(data):
    """What is parsed of data; also if it comes byte by byte, and with something behind it."""
    for size in range(len(data)):
        needed = parse_header(data[:size])
        assert isinstance(needed, int)
        assert size < needed <= len(data)
    header, size = parse_header(data)
    assert size == len(data)
    assert parse_header(data + b"PROXY \r\n\r\n") == (header, size)
    return header


A, B = ("192.0.2.1", 12345), ("198.51.100.2", 443)


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 12345 443", A, B),
        ("PROXY TCP4 255.255.255.255 0.0.0.0 65535 0", ("255.255.255.255", 65535), ("0.0.0.0", 0)),
        ("PROXY TCP6 2001:db8:0::1 ::1 1 2", ("2001:db8::1", 1), ("::1", 2)),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535",
            (":".join(["ffff"] * 8), 65535),
            (":".join(["ffff"] * 8), 65535),
        ),
        ("PROXY UNKNOWN", None, None),
        ("PROXY UNKNOWN what ever 1 2", None, None),
    ],
)
def test_lines_of_version_1(line, source, destination):
    header = whole(line.encode() + b"\r\n")
    assert (header.version, header.source, header.destination) == (1, source, destination)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY",
        b"PROXYTCP4",
        b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rx",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
        b"PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP6 ::1%lo ::1 1 2\r\n",
        b"PROXY TCP5 ::1 ::1 1 2\r\n",
        b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY UNKNOWNx\r\n",
        b"PROXY UNKNOWN " + b"x" * 100,
        b"PROXY TCP4 \xb2.1.1.1 2.2.2.2 1 2\r\n",
    ],
)
def test_lines_of_no_version_are_refused(data):
    if data == b"PROXY":
        assert isinstance(parse_header(data), int)
        data += b"\r\n"
    with pytest.raises(net.ProxyError):
        parse_header(data)


def test_addresses_of_version_2():
    header = whole(v2(1, 0x11, ipv4(A, B)))
    assert (header.version, header.source, header.destination, header.tlvs) == (2, A, B, ())
    six = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + bytes(15) + b"\1"
    header = whole(v2(1, 0x21, six + struct.pack("!HH", 1, 2)))
    assert (header.source, header.destination) == (("2001:db8::1", 1), ("::1", 2))
    header = whole(v2(1, 0x12, ipv4(A, B)))  # over UDP
    assert header.source == A
    paths = b"/run/a".ljust(108, b"\0") + b"\0name".ljust(108, b"\0")
    header = whole(v2(1, 0x31, paths))
    assert (str(header.source), str(header.destination)) == ("/run/a", "@name")


@pytest.mark.parametrize(("command", "family"), [(0, 0x11), (0, 0x00), (1, 0x00), (1, 0x10)])
def test_proxy_that_speaks_for_itself(command, family):
    body = ipv4(A, B) if family >> 4 else b"whatever"
    header = whole(v2(command, family, body))
    assert header.source is header.destination is None


def test_fields_of_version_2():
    body = ipv4(A, B, tlv(0x01, b"h2") + tlv(0x04, b"") + tlv(0xEA, b"x" * 1000))
    assert whole(v2(1, 0x11, body)).tlvs == ((1, b"h2"), (4, b""), (0xEA, b"x" * 1000))


def test_checksum_is_verified():
    assert _crc32c(b"123456789") == 0xE3069283
    data = v2(1, 0x11, ipv4(A, B, tlv(1, b"h2") + tlv(3, bytes(4)) + tlv(4, b"x")))
    at = data.index(tlv(3, bytes(4))) + 3
    good = data[:at] + _crc32c(data).to_bytes(4, "big") + data[at + 4 :]
    assert whole(good).source == A
    for wrong in (data, good[:-1] + b"y", v2(1, 0x11, ipv4(A, B, tlv(3, b"abc")))):
        with pytest.raises(net.ProxyError, match="checksum"):
            parse_header(wrong)


@pytest.mark.parametrize(
    "data",
    [
        SIGNATURE + b"\x11",
        SIGNATURE + b"\x31",
        SIGNATURE + b"\x22",
        v2(1, 0x41, bytes(300)),
        v2(1, 0x13, bytes(300)),
        v2(1, 0x11, bytes(11)),
        v2(1, 0x21, bytes(35)),
        v2(1, 0x31, bytes(215)),
        v2(1, 0x11, ipv4(A, B, b"\1\0")),
        v2(1, 0x11, ipv4(A, B, b"\1\0\2x")),
        SIGNATURE[:5] + b"x",
    ],
)
def test_malformed_headers_of_version_2_are_refused(data):
    with pytest.raises(net.ProxyError):
        parse_header(data)


@given(st.tuples(st.sampled_from([b"", SIGNATURE, b"PROXY "]), st.binary()).map(b"".join))
@example(b"")
def test_any_bytes_are_parsed_refused_or_too_few(data):
    try:
        found = parse_header(data)
    except net.ProxyError:
        return
    if isinstance(found, int):
        assert len(data) < found <= 16 + 65535
    else:
        assert found[1] <= len(data)


addresses = st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65535))


@given(addresses, addresses, st.lists(st.tuples(st.integers(4, 255), st.binary(max_size=50))))
def test_headers_that_were_made_are_read(source, destination, fields):
    rest = b"".join(tlv(*field) for field in fields)
    header = whole(v2(1, 0x11, ipv4(source, destination, rest)))
    assert (header.source, header.destination, list(header.tlvs)) == (source, destination, fields)
    line = f"PROXY TCP4 {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n"
    assert whole(line.encode()).source == source


@given(st.integers(0, 60), st.integers(0, 255))
def test_header_with_a_changed_byte_is_parsed_or_refused(at, byte):
    data = bytearray(v2(1, 0x11, ipv4(A, B, tlv(1, b"h2") + tlv(4, bytes(20)))))
    data[at % len(data)] = byte
    try:
        parse_header(bytes(data))
    except net.ProxyError:
        pass


# ---- listeners ----

pytestmark = pytest.mark.usefixtures("procs")


@pytest.fixture
def listener():
    with net.ProxyListener(
        net.listen("tcp", "127.0.0.1:0"), trusted=["127.0.0.1", "10.0.0.0/8"]
    ) as listener:
        yield listener


def connect(listener, data=b""):
    s = socket.create_connection(listener.addr, timeout=NEVER)
    s.sendall(data)
    return s


def test_addresses_are_those_of_the_client(listener):
    with connect(listener, v2(1, 0x11, ipv4(A, B)) + b"hello"), listener.accept() as conn:
        assert conn.remote_addr == A
        assert conn.local_addr == B
        assert conn.proxy_addr.host == "127.0.0.1"
        assert conn.proxy_header.version == 2
        assert conn.read() == b"hello"
        assert "ProxyConn open" in repr(conn)
        conn.set_no_delay()


def test_header_in_pieces_is_read_by_the_first_read(listener, parked):
    with connect(listener) as s, listener.accept() as conn:
        g = runtime.go(conn.read_exactly, 5)
        for byte in b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\nhe":
            parked(g)
            s.sendall(bytes([byte]))
        s.sendall(b"llo world")
        assert g.join(NEVER) == b"hello"
        buffer = bytearray(100)
        assert buffer[: conn.read_into(buffer)] == b" world"
        assert str(conn.remote_addr) == "192.0.2.1:12345"


def test_proxy_itself_has_its_own_address(listener):
    with connect(listener, v2(0, 0, b"")) as s, listener.accept() as conn:
        assert conn.remote_addr == s.getsockname()
        assert conn.local_addr == listener.addr


def test_something_else_is_an_error_that_stays(listener):
    with connect(listener, b"GET / HTTP/1.1\r\n\r\n"), listener.accept() as conn:
        for use in (conn.read, lambda: conn.remote_addr, lambda: conn.read_into(bytearray(5))):
            with pytest.raises(net.ProxyError, match="no PROXY protocol header"):
                use()
    with connect(listener, b"PROXY ") as s, listener.accept() as conn:
        s.close()
        for _ in range(2):
            with pytest.raises(net.UnexpectedEOFError):
                conn.read()


def test_silent_proxy_times_out_and_keeps_nobody_waiting():
    with (
        net.ProxyListener(
            net.listen("tcp", "127.0.0.1:0"), trusted=["127.0.0.0/8"], header_timeout=0.3
        ) as listener,
        connect(listener),
        connect(listener, b"PROXY UNKNOWN\r\nx"),
    ):
        silent, conn = listener.accept(), listener.accept()
        with silent, conn:
            assert conn.read() == b"x"
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    silent.read()


def test_deadline_may_pass_within_a_header(listener):
    with connect(listener, b"PROXY UN") as s, listener.accept() as conn:
        conn.set_read_deadline(SOON)
        with pytest.raises(TimeoutError):
            conn.read()
        conn.set_deadline(NEVER)
        s.sendall(b"KNOWN\r\nabc")
        assert conn.read_exactly(3) == b"abc"
        conn.set_deadline(0)
        with pytest.raises(TimeoutError):
            conn.read()


def test_headers_of_strangers_are_not_believed(listener):
    header = v2(1, 0x11, ipv4(A, B))
    with socket.create_connection(
        listener.addr, timeout=NEVER, source_address=("127.0.0.2", 0)
    ) as stranger:
        with connect(listener, header + b"x"), listener.accept() as conn:
            assert conn.remote_addr == A
        assert stranger.recv(1) == b""
    with (
        net.ProxyListener(
            net.listen("tcp", "127.0.0.1:0"), trusted=["10.0.0.1"], untrusted="plain"
        ) as plain,
        connect(plain, header) as s,
        plain.accept() as conn,
    ):
        assert conn.remote_addr == s.getsockname()
        assert conn.read_exactly(len(header)) == header


def test_unix_sockets_are_trusted_where_that_is_said(tmp_path):
    path = str(tmp_path / "socket")
    with (
        net.ProxyListener(net.listen("unix", path), trusted=["unix"]) as listener,
        net.dial("unix", path) as client,
        listener.accept() as conn,
    ):
        client.write(v2(1, 0x11, ipv4(A, B)))
        assert conn.remote_addr == A
        conn.set_no_delay()
    assert listener.closed


def test_iteration_ends_when_the_listener_is_closed(listener):
    g = runtime.go(list, listener)
    with connect(listener, b"PROXY UNKNOWN\r\n"):
        while g.wait_reason != "IO wait":
            runtime.gosched()
        listener.close()
        for conn in g.join(NEVER):
            conn.close()


def test_senseless_arguments_are_refused():
    with net.listen("tcp", "127.0.0.1:0") as listener:
        with pytest.raises(TypeError, match="not a str"):
            net.ProxyListener(listener, trusted="10.0.0.0/8")
        with pytest.raises(ValueError, match="nothing"):
            net.ProxyListener(listener, trusted=["nothing"])
        with pytest.raises(ValueError, match="reject"):
            net.ProxyListener(listener, trusted=[], untrusted="accept")


def test_tls_runs_behind_the_header(listener, tmp_path):
    authority = Authority(tmp_path)
    with net.tls.TLSListener(listener, authority.server_context()) as tls_listener:
        client = net.dial("tcp", str(listener.addr))
        client.write(v2(1, 0x11, ipv4(A, B)))
        with (
            net.tls.client(
                client, authority.client_context(), server_hostname="localhost"
            ) as tls_client,
            tls_listener.accept() as conn,
        ):
            g = runtime.go(tls_client.write, b"hello")
            assert conn.read_exactly(5) == b"hello"
            assert conn.remote_addr == A
            g.join(NEVER)


# ---- haproxy ----

V1, V2 = "send-proxy", "send-proxy-v2 proxy-v2-options crc32c,unique-id"


@pytest.mark.parametrize("procs", [1, 4], indirect=True)
@pytest.mark.parametrize(
    "option", ["send-proxy", "send-proxy-v2 proxy-v2-options crc32c,unique-id"]
)
def test_haproxy_tells_who_its_client_is(tmp_path, option):
    haproxy = shutil.which(
        "haproxy", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin"
    )
    assert haproxy, "haproxy is needed: make installs it with .ci/tools"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with net.ProxyListener(net.listen("tcp", "127.0.0.1:0"), trusted=["127.0.0.1"]) as listener:
        config = tmp_path / "haproxy.cfg"
        config.write_text(
            "global\n  maxconn 50\n"
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n"
            "  timeout server 60s\n  unique-id-format %{+X}o%ci:%cp\n"
            f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
            f"backend b\n  server s {listener.addr} {option}\n"
        )
        with subprocess.Popen(
            [haproxy, "-f", config, "-db"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                client = dial_until_up(port)
                with client, listener.accept() as conn:
                    client.write(b"hello")
                    assert conn.read_exactly(5) == b"hello"
                    assert conn.remote_addr == client.local_addr
                    assert conn.local_addr == client.remote_addr
                    assert ipaddress.ip_address(conn.proxy_addr.host).is_loopback
                    kinds = {kind for kind, _ in conn.proxy_header.tlvs}
                    assert kinds == (set() if option == V1 else {3, 5})
            finally:
                process.kill()


def dial_until_up(port):
    while True:
        try:
            return net.dial("tcp", f"127.0.0.1:{port}", local_addr="127.0.0.9:0", timeout=NEVER)
        except ConnectionRefusedError:
            runtime.sleep(0.01)
