"""Connections made and closed by plain blocking sockets, with the options that net.dial sets.

usage: dial_blocking.py HOST:PORT SECONDS
"""

import socket
import sys

from dial_common import OPTIONS, main

host, port = sys.argv[1].split(":")
address = host, int(port)


def connect() -> None:
    s = socket.socket()
    for option in OPTIONS:
        s.setsockopt(*option)
    s.connect(address)
    s.close()


main(connect)
