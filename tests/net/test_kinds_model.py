"""Any interleaving of reads, writes, deadlines and closing of what is no socket, against a model.

As test_conn_model.py has it for sockets: TLS, which buffers as sockets do, and pipes, where a
writer waits for its readers.
"""

import contextlib
import socket
import ssl

import pytest
from certs import Authority
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import runtime
from runtime import net

NEVER = 60.0
ENDS = st.integers(0, 1)


def blocked(g):
    """Return once g waits for its peer."""
    while g.state != "waiting":
        assert not g.done()
        runtime.gosched()


class End:
    """One end of a connection, and what is known of it."""

    def __init__(self, conn):
        self.conn = conn
        self.inbox = b""  # sent to it, not read yet
        self.ended = False  # nothing more will come
        self.closed = self.wr_closed = self.rd_late = self.wr_late = False
        self.broken = False  # a write has failed
        self.reading = []  # goroutines, in order
        self.writing = []  # of a pipe: goroutines with what they still have to hand over, in order


class Model(RuleBasedStateMachine):
    """What TLS and pipes have in common: two ends, with readers that wait."""

    def connect(self):
        raise NotImplementedError

    @initialize()
    def begin(self):
        self.ends = [End(conn) for conn in self.connect()]

    def settle(self):
        """All who wait go on as the model says."""
        raise NotImplementedError

    @rule(i=ENDS, n=st.integers(1, 300))
    def read(self, i, n):
        end = self.ends[i]
        if not end.reading:  # of several the order is not told
            end.reading.append((runtime.go(end.conn.read, n), n))
            self.settle()

    @rule(i=ENDS, late=st.booleans(), rd=st.booleans(), wr=st.booleans())
    def set_deadline(self, i, late, rd, wr):
        end = self.ends[i]
        seconds = -1 if late else NEVER
        for chosen, method in ((rd, end.conn.set_read_deadline), (wr, end.conn.set_write_deadline)):
            if chosen and end.closed:
                with pytest.raises(net.ClosedError):
                    method(seconds)
            elif chosen:
                method(seconds)
        if not end.closed:
            end.rd_late = late if rd else end.rd_late
            end.wr_late = late if wr else end.wr_late
        self.settle()

    @rule(i=ENDS, data=st.binary(max_size=20))
    def unread(self, i, data):
        end = self.ends[i]
        if not end.closed and not end.reading:
            end.conn.unread(data)
            end.inbox = data + end.inbox
            self.settle()

    @rule(i=ENDS)
    def cancel_a_reader(self, i):
        end = self.ends[i]
        if end.reading:
            g, _ = end.reading.pop()
            g.cancel()
            with pytest.raises(runtime.Cancelled):
                g.join(NEVER)

    @invariant()
    def closed_is_known(self):
        for end in getattr(self, "ends", ()):
            assert end.conn.closed == end.closed

    def teardown(self):
        for end in getattr(self, "ends", ()):
            (end.conn.conn if isinstance(end.conn, net.tls.TLSConn) else end.conn).close()
        for end in getattr(self, "ends", ()):
            for g, *_ in (*end.reading, *end.writing):
                with contextlib.suppress(OSError, EOFError):
                    g.join(NEVER)


class TLS(Model):
    contexts: tuple[ssl.SSLContext, ssl.SSLContext]

    def connect(self):
        a, b = (net.UnixConn(s.detach()) for s in socket.socketpair())
        client = net.tls.client(a, self.contexts[0], server_hostname="localhost")
        server = net.tls.server(b, self.contexts[1], handshake_timeout=NEVER)
        client.set_deadline(NEVER)
        g = runtime.go(server.write, b"x")
        try:
            assert client.read() == b"x"
        except BaseException:
            a.close()  # the other end need not wait as long
            raise
        finally:
            g.join(0 if g.done() else NEVER)
        client.set_deadline(None)
        return client, server

    def settle(self):
        for end in self.ends:
            while end.reading:
                g, n = end.reading[0]
                if end.closed:
                    error = net.ClosedError
                elif end.inbox or end.ended:
                    # What has been decrypted is there, late or not; what has not been, is late.
                    try:
                        data = g.join(NEVER)
                    except TimeoutError:
                        assert end.rd_late
                    else:
                        assert data == end.inbox[: len(data)] and len(data) <= n
                        assert data or (end.ended and not end.inbox)
                        end.inbox = end.inbox[len(data) :]
                    end.reading.pop(0)
                    continue
                elif end.rd_late:
                    error = TimeoutError
                else:
                    blocked(g)
                    break
                with pytest.raises(error):
                    g.join(NEVER)
                end.reading.pop(0)

    @rule(i=ENDS, sizes=st.lists(st.integers(0, 300), max_size=3), as_list=st.booleans())
    def write(self, i, sizes, as_list):
        end, peer = self.ends[i], self.ends[1 - i]
        parts = [bytes([65 + len(sizes)]) * n for n in sizes]
        data = parts if as_list else b"".join(parts)
        if end.closed:
            error = net.ClosedError
        elif end.wr_closed:
            error = BrokenPipeError
        elif (end.broken or end.wr_late) and sum(sizes):
            error, end.broken = TimeoutError, True
        elif peer.closed:  # it may be told or not
            with contextlib.suppress(OSError):
                end.conn.write(data)
            end.broken = True
            end.wr_closed = end.wr_closed
            return
        else:
            assert end.conn.write(data) == sum(sizes)
            peer.inbox += b"".join(parts)
            self.settle()
            return
        with pytest.raises((error, OSError) if peer.closed else error):
            end.conn.write(data)

    @rule(i=ENDS)
    def close_write(self, i):
        end, peer = self.ends[i], self.ends[1 - i]
        if not (end.closed or peer.closed or end.broken or end.wr_late):
            end.conn.close_write()
            end.wr_closed = peer.ended = True
            self.settle()

    @rule(i=ENDS)
    def close(self, i):
        end, peer = self.ends[i], self.ends[1 - i]
        if any(e.inbox for e in self.ends) or end.broken or peer.broken:
            return  # a reset may then take the place of the end
        end.conn.close()
        end.closed = peer.ended = True
        end.inbox = b""
        self.settle()


class Pipe(Model):
    def connect(self):
        return net.pipe()

    def settle(self):
        for end, peer in (self.ends, self.ends[::-1]):
            while end.reading or peer.writing:
                # Writers: those who cannot go on fail; an empty write is done at once.
                if peer.writing and self.fate(peer, end) is not None:
                    g, _ = peer.writing.pop(0)
                    with pytest.raises(self.fate(peer, end)):
                        g.join(NEVER)
                    continue
                if peer.writing and not peer.writing[0][1]:
                    g, _ = peer.writing.pop(0)
                    g.join(NEVER)
                    continue
                if not end.reading:
                    blocked(peer.writing[0][0])
                    break
                g, n = end.reading[0]
                error = net.ClosedError if end.closed else TimeoutError if end.rd_late else None
                if error is not None:
                    with pytest.raises(error):
                        g.join(NEVER)
                elif end.inbox:  # put back
                    data = g.join(NEVER)
                    assert data and end.inbox.startswith(data) and len(data) <= n
                    end.inbox = end.inbox[len(data) :]
                elif end.ended:
                    assert g.join(NEVER) == b""
                elif peer.writing:
                    data = g.join(NEVER)
                    writer, left = peer.writing[0]
                    assert data == left[:n]
                    peer.writing[0] = writer, left[n:]
                else:
                    blocked(g)
                    break
                end.reading.pop(0)

    @staticmethod
    def fate(end, peer):
        """What a write fails with, or None."""
        if end.closed:
            return net.ClosedError
        if end.wr_closed or peer.closed:
            return BrokenPipeError
        return TimeoutError if end.wr_late else None

    @rule(i=ENDS, sizes=st.lists(st.integers(0, 300), max_size=3), as_list=st.booleans())
    def write(self, i, sizes, as_list):
        end = self.ends[i]
        parts = [bytes([65 + len(sizes)]) * n for n in sizes]
        data = b"".join(parts)
        if len(end.writing) < 2:
            g = runtime.go(end.conn.write, parts if as_list else data)
            end.writing.append((g, data))
            runtime.gosched()
            self.settle()

    @rule(i=ENDS)
    def cancel_a_writer(self, i):
        end = self.ends[i]
        if len(end.writing) == 1:
            g, _ = end.writing.pop()
            g.cancel()
            with pytest.raises(runtime.Cancelled):
                g.join(NEVER)

    @rule(i=ENDS)
    def close_write(self, i):
        end, peer = self.ends[i], self.ends[1 - i]
        if not end.closed:
            end.conn.close_write()
            end.wr_closed = peer.ended = True
            self.settle()

    @rule(i=ENDS)
    def close(self, i):
        end, peer = self.ends[i], self.ends[1 - i]
        end.conn.close()
        end.closed = end.wr_closed = peer.ended = True
        end.inbox = b""
        self.settle()


def run(machine):
    run_state_machine_as_test(
        machine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )


def test_pipe_behaves_like_the_model(procs):
    run(Pipe)


def test_tls_behaves_like_the_model(procs, tmp_path):
    authority = Authority(tmp_path)
    TLS.contexts = authority.client_context(), authority.server_context()
    run(TLS)
