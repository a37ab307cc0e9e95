"""Connections and listeners in the manner of Go's net package.

from runtime import go, net

def echo(conn):
    with conn:
        while data := conn.read():
            conn.write(data)

for conn in net.listen("tcp", "127.0.0.1:7777"):
    go(echo, conn)
"""

from runtime._net import bufio, tls
from runtime._net.activation import (
    ActivationListener,
    activation_listeners,
    listener_from_fd,
)
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
from runtime._net.pipe import PipeConn, pipe
from runtime._net.proxyproto import ProxyConn, ProxyError, ProxyHeader, ProxyListener
from runtime._net.resolve import Resolver, default_resolver, set_default_resolver
from runtime._net.stream import StreamConn, StreamListener
from runtime._net.tls import dial_tls

__all__ = [
    "ActivationListener",
    "Addr",
    "AddrError",
    "ClosedError",
    "Conn",
    "Listener",
    "PacketConn",
    "PipeConn",
    "ProxyConn",
    "ProxyError",
    "ProxyHeader",
    "ProxyListener",
    "Resolver",
    "StreamConn",
    "StreamListener",
    "TCPAddr",
    "TCPConn",
    "UDPAddr",
    "UDPConn",
    "UnexpectedEOFError",
    "UnixAddr",
    "UnixConn",
    "activation_listeners",
    "bufio",
    "default_resolver",
    "dial",
    "dial_tls",
    "join_host_port",
    "listen",
    "listen_packet",
    "listener_from_fd",
    "pipe",
    "set_default_resolver",
    "split_host_port",
    "tls",
]
