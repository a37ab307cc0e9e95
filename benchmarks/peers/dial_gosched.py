"""Connections made and closed by runtime.net, one after another.

usage: dial_gosched.py HOST:PORT SECONDS
"""

import sys

from dial_common import main
from runtime import net

address = sys.argv[1]


def connect() -> None:
    net.dial("tcp", address).close()


main(connect)
