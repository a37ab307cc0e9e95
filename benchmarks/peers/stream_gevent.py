"""Streams over TCP on gevent, as stream_gosched.py: one greenlet for each connection.

usage: stream_gevent.py HOST:PORT
"""

import socket
import sys

import gevent.socket
from gevent.server import StreamServer

MIB = 1 << 20


def stream(conn, peer):
    with conn:
        first = conn.recv(1)
        if first == b"w":
            buffer = bytearray(MIB)
            while conn.recv_into(buffer):
                pass
        elif first == b"r":
            data = b"x" * MIB
            try:
                while True:
                    conn.sendall(data)
            except OSError:
                pass


host, port = sys.argv[1].split(":")
listener = gevent.socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
listener.bind((host, int(port)))
listener.listen(1024)
StreamServer(listener, stream).serve_forever()
