"""Sockets for datagrams."""

from __future__ import annotations

import socket

from runtime._net.addr import AddrError, unix_sockaddr
from runtime._net.conn import PacketConn, UDPConn, UnixConn, doing, open_socket
from runtime._net.listener import Control, bind, local_target
from runtime._net.resolve import resolve


def listen_packet(
    network: str, address: str, *, reuse_port: bool = False, control: Control | None = None
) -> PacketConn:
    """Receive datagrams at an address, and send some from there.

        with net.listen_packet("udp", ":5353") as conn:
            while True:
                data, peer = conn.recv_from()
                conn.send_to(data.upper(), peer)

    network is "udp" (IPv4 and IPv6), "udp4", "udp6" or "unixgram".  address is "host:port", as
    for `listen`, or the path of a unix socket ("@name": Linux's abstract name space; "": none, so
    that nobody can answer).  Port 0 lets the system choose.  `close` leaves the file of a unix
    socket where it is.

    reuse_port lets several sockets share the port (SO_REUSEPORT).  control(network, address, fd)
    is called before the socket is bound, and may set options of the descriptor.

    Returns a UDPConn or a UnixConn.  Raises AddrError for a senseless address,
    socket.gaierror for an unknown name, OSError with the address in its message where the
    port is taken or not ours.

    Go: net.ListenPacket.
    """
    if network == "unixgram":
        return _listen_unixgram(address, control)
    if not network.startswith("udp"):
        raise AddrError(f"unknown network {network}")
    targets = resolve(network, address)
    targets.sort(key=lambda target: target.family != socket.AF_INET)  # IPv4 first
    target = local_target(network, targets)
    s = open_socket(target.family, socket.SOCK_DGRAM)
    try:
        if reuse_port:
            with doing("setsockopt", address):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bind(s, network, address, target, control)
        conn = UDPConn(s.fileno())
    except BaseException:
        s.close()
        raise
    s.detach()
    return conn


def _listen_unixgram(path: str, control: Control | None) -> UnixConn:
    sockaddr = unix_sockaddr(path) if path else None
    s = open_socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        if control is not None:
            control("unixgram", path, s.fileno())
        if sockaddr is not None:
            with doing("bind", path):
                s.bind(sockaddr)
        conn = UnixConn(s.fileno())
    except BaseException:
        s.close()
        raise
    s.detach()
    return conn
