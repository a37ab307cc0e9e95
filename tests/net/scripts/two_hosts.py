"""two_hosts.py SCENARIO: this process is a host, and a child in a network of its own another one.

It must have a network of its own and be root in it: unshare --net --map-root-user.  The other
host ("peer") serves TCP and UDP with the standard library.  Between them is a pair of devices,
`near` here with 10.9.0.1 and fe80::1, `far` there with 10.9.0.2 and fe80::2.
"""

import errno
import socket
import subprocess
import sys
import threading
import time

PEER = "10.9.0.2"
ECHO, SINK, CLOSED = 7, 9, 11  # ports of the peer: the second one reads nothing
NEVER = 60.0


# --- the peer -----------------------------------------------------------------------------------


def serve_stream(port: int) -> None:
    kept = []

    def echo(conn: socket.socket) -> None:
        try:
            while data := conn.recv(65536):
                conn.sendall(data)
        except OSError:
            pass
        conn.close()

    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as s:
        while True:
            conn = s.accept()[0]
            if port == SINK:
                kept.append(conn)
            else:
                threading.Thread(target=echo, args=[conn], daemon=True).start()


def serve_datagrams(port: int) -> None:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(("::", port))
    while True:
        data, sender = s.recvfrom(65536)
        s.sendto(data, sender)


def peer() -> None:
    for serve, port in ((serve_stream, ECHO), (serve_stream, SINK), (serve_datagrams, ECHO)):
        threading.Thread(target=serve, args=[port], daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


if sys.argv[1] == "peer":
    peer()
    sys.exit()

# --- this host ----------------------------------------------------------------------------------

import runtime  # noqa: E402
from runtime import context, net  # noqa: E402

other = subprocess.Popen(
    ["unshare", "--net", sys.executable, __file__, "peer"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
)
assert other.stdout is not None and other.stdout.readline() == b"ready\n"


def here(command: str) -> None:
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {command}: {done.stderr}"


def there(command: str) -> None:
    enter = ["nsenter", "--net", "--target", str(other.pid), "ip"]
    done = subprocess.run([*enter, *command.split()], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {command}: {done.stderr}"


here(f"link add near type veth peer name far netns {other.pid}")
for ip, device, number in ((here, "near", 1), (there, "far", 2)):
    ip("link set lo up")
    ip(f"address add 10.9.0.{number}/24 dev {device}")
    ip(f"link set {device} up")
    ip(f"address add fe80::{number}/64 dev {device} nodad")
here("ntable change name arp_cache dev near retrans 50")  # ms, for who is not there


def fails(fn, *args, **kwargs):
    """What fn raises."""
    try:
        result = fn(*args, **kwargs)
    except (OSError, EOFError) as e:
        return e
    raise AssertionError(f"it returned {result!r}")


def works(conn: net.Conn) -> None:
    conn.set_deadline(NEVER)
    conn.write(b"are you there?")
    assert conn.read_exactly(14) == b"are you there?"


def streams_and_datagrams() -> None:
    for host, local in ((PEER, "10.9.0.1"), ("fe80::2%near", "fe80::1%near")):
        address = net.join_host_port(host, ECHO)
        with net.dial("tcp", address) as conn:
            assert (conn.remote_addr, conn.local_addr.host) == ((host, ECHO), local)
            assert str(conn.remote_addr) == address
            g = runtime.go(conn.write, b"x" * 1_000_000)
            assert conn.read_exactly(1_000_000) == b"x" * 1_000_000
            g.join(NEVER)
        with net.dial("udp", address) as conn:
            conn.set_deadline(NEVER)
            for size in (0, 1, 1400, 60_000):  # the last one in fragments
                conn.write(b"x" * size)
                assert conn.read() == b"x" * size
        with net.listen_packet("udp", net.join_host_port(local, 0)) as conn:
            conn.set_deadline(NEVER)
            conn.send_to(b"hello", address)
            assert conn.recv_from() == (b"hello", (host, ECHO))


def nothing_listens() -> None:
    e = fails(net.dial, "tcp", f"{PEER}:{CLOSED}")
    assert isinstance(e, ConnectionRefusedError) and str(CLOSED) in str(e), e
    with net.dial("udp", f"{PEER}:{CLOSED}") as conn:
        conn.set_deadline(NEVER)
        conn.write(b"x")
        assert isinstance(fails(conn.read), ConnectionRefusedError)
        conn.write(b"x")  # it goes on
        assert isinstance(fails(conn.read), ConnectionRefusedError)


def nobody_is_there() -> None:
    e = fails(net.dial, "tcp", f"10.9.0.77:{ECHO}")
    assert e.errno == errno.EHOSTUNREACH and "10.9.0.77" in str(e), e
    # One who is there, but silent.
    there("route add blackhole 10.9.0.1")
    e = fails(net.dial, "tcp", f"{PEER}:{ECHO}", timeout=0.05)
    assert isinstance(e, TimeoutError) and PEER in str(e), e
    ctx, cancel = context.with_cancel(context.background())
    g = runtime.go(net.dial, "tcp", f"{PEER}:{ECHO}", ctx=ctx)
    while g.wait_reason != "IO wait":
        runtime.gosched()
    cancel()
    try:
        g.join(NEVER)
        raise AssertionError("it is connected")
    except context.Canceled:
        pass


def routes_vanish() -> None:
    address = f"{PEER}:{ECHO}"
    with net.dial("tcp", address) as conn, net.listen_packet("udp4", ":0") as packets:
        works(conn)
        for how, number in (
            ("", errno.ENETUNREACH),
            ("unreachable", errno.EHOSTUNREACH),
            ("prohibit", errno.EACCES),
        ):
            here(f"route add {how} {PEER}" if how else "route del 10.9.0.0/24")
            e = fails(net.dial, "tcp", address)
            assert e.errno == number and "connect: " in str(e) and address in str(e), e
            e = fails(packets.send_to, b"x", address)
            assert e.errno == number and "send_to: " in str(e), e
            # One who is connected may hope for better times, until its deadline.
            conn.write(b"later")
            conn.set_read_deadline(0.05)
            assert isinstance(fails(conn.read), TimeoutError)
            here(f"route del {PEER}" if how else "route add 10.9.0.0/24 dev near src 10.9.0.1")
            conn.set_read_deadline(NEVER)
            assert conn.read_exactly(5) == b"later"
        packets.set_deadline(NEVER)
        packets.send_to(b"x", address)
        assert packets.recv_from() == (b"x", (PEER, ECHO))


def link_goes_down() -> None:
    with (
        net.dial("tcp", f"{PEER}:{ECHO}") as conn,
        net.dial("tcp", f"{PEER}:{SINK}") as sink,
        net.dial("udp", f"{PEER}:{ECHO}") as packets,
    ):
        works(conn)
        there("link set far down")
        conn.write(b"later")
        readers = [runtime.go(c.read) for c in (conn, packets)]
        writer = runtime.go(sink.write, b"x" * 50_000_000)
        for g in (*readers, writer):
            while g.wait_reason != "IO wait":
                assert not g.done()
                runtime.gosched()
        for c in (conn, packets, sink):
            c.set_deadline(0.02)
        for g in (*readers, writer):
            assert isinstance(fails(g.join, NEVER), TimeoutError)
        there("link set far up")
        conn.set_deadline(NEVER)
        assert conn.read_exactly(5) == b"later"
        works(conn)


def dead_peers_are_found() -> None:
    """By keep-alive where nothing is sent, by TCP_USER_TIMEOUT where something is."""

    def limited(network: str, address: str, fd: int) -> None:
        with socket.socket(fileno=fd) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)  # ms
            s.detach()

    address = f"{PEER}:{ECHO}"
    with (
        net.dial("tcp", address, keep_alive=1) as silent,
        net.dial("tcp", address, control=limited, keep_alive=None) as sending,
        net.dial("tcp", address, keep_alive=None) as trusting,
    ):
        silent.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
        for conn in (silent, sending, trusting):
            works(conn)
        there("route add blackhole 10.9.0.1")
        sending.write(b"x")
        readers = [runtime.go(c.read) for c in (silent, sending, trusting)]
        for conn, g in zip((silent, sending), readers, strict=False):
            e = fails(g.join, NEVER)
            assert isinstance(e, TimeoutError) and e.errno == errno.ETIMEDOUT, e
            assert "read: " in str(e), e  # not our deadline
            assert isinstance(fails(conn.write, b"x"), BrokenPipeError)
        assert not readers[2].done()
        trusting.close()
        assert isinstance(fails(readers[2].join, NEVER), net.ClosedError)


def accepted_peers_die() -> None:
    """What a listener has accepted is looked after, too."""
    with net.listen("tcp", "10.9.0.1:0", keep_alive=1) as listener:
        connect = f"s = socket.create_connection(('10.9.0.1', {listener.addr.port}))"
        code = f"import socket, sys; {connect}; sys.stdin.read()"
        enter = ["nsenter", "--net", "--target", str(other.pid)]
        with subprocess.Popen(
            [*enter, sys.executable, "-c", code], stdin=subprocess.PIPE
        ) as client:
            with listener.accept(NEVER) as conn:
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
                there("route add blackhole 10.9.0.1")
                e = fails(conn.read)
                assert isinstance(e, TimeoutError) and e.errno == errno.ETIMEDOUT, e
            client.kill()


def happy_eyeballs() -> None:
    """One of a name's networks swallows everything."""
    here("address add fd00::1/64 dev near nodad")
    there("address add fd00::2/64 dev far nodad")
    there("route add blackhole fd00::1")
    addresses = [(socket.AF_INET6, ("fd00::2", 0, 0, 0)), (socket.AF_INET, (PEER, 0))]
    socket.getaddrinfo = lambda *args: [  # type: ignore[assignment]
        (family, socket.SOCK_STREAM, 6, "", sockaddr) for family, sockaddr in addresses
    ]
    began = time.monotonic()
    with net.dial("tcp", f"peer.example:{ECHO}", timeout=NEVER) as conn:
        assert conn.remote_addr == (PEER, ECHO)
        assert time.monotonic() - began >= 0.25
        works(conn)


def peer_and_its_network_vanish() -> None:
    with net.dial("tcp", f"{PEER}:{ECHO}") as conn:
        works(conn)
        other.kill()
        other.wait()
        conn.set_deadline(0.5)
        # Its kernel may have told us before it was gone.
        e = fails(conn.read_exactly, 1)
        assert isinstance(e, TimeoutError | ConnectionError | net.UnexpectedEOFError), e


try:
    globals()[sys.argv[1]]()
    print("ok")
finally:
    other.kill()
    other.wait()
