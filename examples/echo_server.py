"""A TCP echo server: one goroutine for each connection.

Usage: python examples/echo_server.py [ADDRESS]
Try it with: nc 127.0.0.1 7777
"""

import sys

import runtime
from runtime import net


def echo(conn: net.Conn) -> None:
    """Send back what arrives until the peer has sent everything."""
    try:
        while data := conn.read(65536):
            conn.write(data)
    except ConnectionError:
        pass  # the peer went away
    finally:
        conn.close()


def main(address: str) -> None:
    listener = net.listen("tcp", address)
    print(f"echoing on {address}; Ctrl-C ends it", flush=True)
    try:
        while True:
            runtime.go(echo, listener.accept())
    except KeyboardInterrupt:
        listener.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7777")
