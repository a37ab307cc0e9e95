"""An echo server on runtime.net: one goroutine for each connection.

usage: echo_gosched.py HOST:PORT
"""

import sys

from runtime import go, net


def echo(conn: net.Conn) -> None:
    with conn:
        while data := conn.read(4096):
            conn.write(data)


for conn in net.listen("tcp", sys.argv[1]):
    go(echo, conn)
