"""Connections made and closed by gevent, with the options that net.dial sets.

usage: dial_gevent.py HOST:PORT SECONDS
"""

import sys

import gevent.socket

from dial_common import OPTIONS, main

host, port = sys.argv[1].split(":")
address = host, int(port)


def connect() -> None:
    s = gevent.socket.socket()
    for option in OPTIONS:
        s.setsockopt(*option)
    s.connect(address)
    s.close()


main(connect)
