"""Streams over TCP on runtime.net: one goroutine for each connection.

The client's first byte says what it does: "w" that it writes, until it has written all, and
waits for the end; "r" that it reads what is written, until it hangs up.

usage: stream_gosched.py HOST:PORT
"""

import sys

from runtime import go, net

MIB = 1 << 20


def stream(conn: net.Conn) -> None:
    with conn:
        first = conn.read(1)
        if first == b"w":
            buffer = bytearray(MIB)
            while conn.read_into(buffer):
                pass
        elif first == b"r":
            data = b"x" * MIB
            try:
                while True:
                    conn.write(data)
            except OSError:
                pass


for conn in net.listen("tcp", sys.argv[1]):
    go(stream, conn)
