"""Programs that use the parts of runtime.net that are written in Python, while something fails."""

import encodings.idna  # noqa: F401  # looked for by the first handshake, where that takes long
import os
import pathlib
import socket
import ssl
from typing import Any

from common import TIME_LIMIT, Scenario

from runtime import blocking, go, gosched, net, set_max_blocking

LIMIT = TIME_LIMIT / 3


def close(*conns: Any) -> None:
    for conn in conns:
        if conn is not None:
            conn.close()


class Limited(Scenario):
    """One whose goroutines may fail before they have what they shall close."""

    primary = (MemoryError, OSError, EOFError)

    def run(self) -> None:
        try:
            self.body()
        except TimeoutError:
            for g in self.gs:
                if g is not None and g.done():
                    g.join()
            raise

    def body(self) -> None:
        raise NotImplementedError


class Names(Limited):
    """Lookups of one name at a time, one of which is given up."""

    def __init__(self) -> None:
        super().__init__()
        socket.getaddrinfo = self.getaddrinfo  # type: ignore[assignment]
        self.resolver = net.Resolver(cache_time=0)
        self.infos = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0))
            for host in ("127.0.0.9", "127.0.0.1")
        ]
        set_max_blocking(1)
        blocking(int)  # its thread is there: Thread.start() may hang without memory

    def getaddrinfo(self, *args: Any) -> Any:
        return self.infos

    def look_up(self) -> list[str]:
        return self.resolver.lookup_host("a.name", timeout=LIMIT)

    def body(self) -> None:
        for i in range(3):
            self.gs[i] = go(self.look_up)
        gosched()
        self.gs[2].cancel()
        assert self.look_up() == self.gs[0].join() == self.gs[1].join()

    def release(self) -> None:
        # Whatever has happened, the next lookup is as good as ever.  One may be about to fail.
        try:
            self.look_up()
        except MemoryError:
            pass
        assert self.look_up() == ["127.0.0.9", "127.0.0.1"]
        if self.gs[2] is not None:
            try:
                self.gs[2].join()
            except BaseException:
                pass
            self.gs[2] = None


class Eyeballs(Names):
    """A name with two addresses, the first of which refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.listener = net.listen("tcp", "127.0.0.1:0")
        self.address = f"a.name:{self.listener.addr.port}"

    def body(self) -> None:
        dialled = net.dial("tcp", self.address, timeout=LIMIT, resolver=self.resolver)
        with dialled as conn, self.listener.accept(LIMIT) as accepted:
            conn.write(b"x")
            assert accepted.read() == b"x"

    def release(self) -> None:
        self.listener.close()
        super().release()


class TLS(Limited):
    """A handshake, some data in both directions, and the end."""

    files: Any = None

    def __init__(self) -> None:
        super().__init__()
        if TLS.files is None:
            directory = pathlib.Path(os.environ["GOSCHED_FAULTS_CERTS"])
            TLS.files = [
                directory / name for name in ("authority.pem", "localhost.pem", "localhost.key")
            ]
        authority, cert, key = TLS.files
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(cert, key)
        self.contexts = ssl.create_default_context(cafile=authority), server
        self.sockets = self.connect()

    def connect(self) -> tuple[Any, Any]:
        with net.listen("tcp", "127.0.0.1:0") as listener:
            return net.dial("tcp", str(listener.addr)), listener.accept()

    def serve(self, conn: Any) -> None:
        with net.tls.server(conn, self.contexts[1]) as server:
            while data := server.read(1000):
                server.write(data)

    def body(self) -> None:
        a, b = self.sockets
        a.set_deadline(LIMIT)
        b.set_deadline(LIMIT)
        self.gs[0] = go(self.serve, b)
        with net.tls.client(a, self.contexts[0], server_hostname="localhost") as client:
            client.write(b"x" * 2000)
            assert client.read_exactly(2000) == b"x" * 2000
            client.close_write()
            assert client.read() == b""
        self.gs[0].join()

    def release(self) -> None:
        close(*self.sockets)


class Proxied(Limited):
    """Connections of a proxy."""

    header = b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n"

    def __init__(self) -> None:
        super().__init__()
        self.listener = net.ProxyListener(net.listen("tcp", "127.0.0.1:0"), trusted=["127.0.0.1"])
        self.client = net.dial("tcp", str(self.listener.addr))
        self.other = net.dial("tcp", str(self.listener.addr))

    def body(self) -> None:
        self.client.write(self.header + b"hello")
        with self.listener.accept(LIMIT) as conn:
            conn.set_deadline(LIMIT)
            assert conn.remote_addr == ("192.0.2.1", 1)
            assert conn.read_exactly(5) == b"hello"
            conn.write(b"answer")
        assert self.client.read_exactly(6) == b"answer"

    def release(self) -> None:
        close(self.listener, self.client, self.other)


class MemoryPipe(Limited):
    """A connection in memory, with users that wait for each other in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = net.pipe()

    def echo(self) -> None:
        with self.ends[1] as conn:
            while data := conn.read(10):
                conn.write([data, b"!"])

    def body(self) -> None:
        a = self.ends[0]
        self.gs[0] = go(self.echo)
        self.gs[1] = go(a.write, b"x" * 25)
        a.set_read_deadline(LIMIT / 10)  # where the other end has failed it waits that long
        assert a.read_exactly(28) == b"x" * 10 + b"!" + b"x" * 10 + b"!" + b"x" * 5 + b"!"
        self.gs[1].join()
        a.set_read_deadline(0.00001)
        try:
            a.read()
        except TimeoutError:
            pass
        a.close_write()
        self.gs[0].join()

    def release(self) -> None:
        close(*self.ends)


ALL: dict[str, type[Scenario]] = {
    cls.__name__: cls for cls in (Names, Eyeballs, TLS, Proxied, MemoryPipe)
}
