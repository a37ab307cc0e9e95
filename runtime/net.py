"""Connections and listeners in the manner of Go's net package.

    from runtime import go, net

    def echo(conn):
        with conn:
            while data := conn.read():
                conn.write(data)

    for conn in net.listen("tcp", "127.0.0.1:7777"):
        go(echo, conn)
"""

from runtime._net.addr import (
    Addr,
    AddrError,
    TCPAddr,
    UDPAddr,
    UnixAddr,
    join_host_port,
    split_host_port,
)
from runtime._net.conn import (
    ClosedError,
    Conn,
    PacketConn,
    TCPConn,
    UDPConn,
    UnexpectedEOFError,
    UnixConn,
)
from runtime._net.dial import dial
from runtime._net.listener import Listener, listen
from runtime._net.packet import listen_packet

__all__ = [
    "Addr",
    "AddrError",
    "ClosedError",
    "Conn",
    "Listener",
    "PacketConn",
    "TCPAddr",
    "TCPConn",
    "UDPAddr",
    "UDPConn",
    "UnexpectedEOFError",
    "UnixAddr",
    "UnixConn",
    "dial",
    "join_host_port",
    "listen",
    "listen_packet",
    "split_host_port",
]
