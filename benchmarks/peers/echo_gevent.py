"""An echo server on gevent: one greenlet for each connection.

usage: echo_gevent.py HOST:PORT
"""

import socket
import sys

import gevent.socket
from gevent.server import StreamServer


def echo(conn, peer):
    with conn:
        while data := conn.recv(4096):
            conn.sendall(data)


host, port = sys.argv[1].split(":")
listener = gevent.socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
listener.bind((host, int(port)))
listener.listen(1024)
StreamServer(listener, echo).serve_forever()
