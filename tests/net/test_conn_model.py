"""Any interleaving of reads, writes, deadlines and closing, against a model."""

import contextlib
import socket

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import runtime
from runtime import net

NEVER = 60.0
ENDS = st.integers(0, 1)


class End:
    """One end of a connection, and what is known of it."""

    def __init__(self, conn):
        self.conn = conn
        self.inbox = b""  # sent to it, not read yet
        self.ended = False  # nothing more will come
        self.closed = self.read_late = self.write_late = False
        self.waiting = []  # goroutines in read(), in order

    def may_fail(self):
        """What a read raises now whatever is there, or None."""
        return net.ClosedError if self.closed else TimeoutError if self.read_late else None


class Connection(RuleBasedStateMachine):
    """Two ends; goroutines that cannot read wait, and are served in order."""

    @initialize(tcp=st.booleans())
    def connect(self, tcp):
        if tcp:
            with net.listen("tcp", "127.0.0.1:0") as listener:
                a = net.dial("tcp", str(listener.addr))
                b = listener.accept()
        else:
            a, b = (net.UnixConn(s.detach()) for s in socket.socketpair())
        self.ends = [End(a), End(b)]

    def settle(self, end):
        """Those who wait go on as the model says."""
        while end.waiting:
            error = end.may_fail()
            if error is None and not end.inbox and not end.ended:
                for g in end.waiting:
                    while g.wait_reason != "IO wait":
                        assert not g.done()
                        runtime.gosched()
                return
            g, n = end.waiting.pop(0), None
            if error is not None:
                with pytest.raises(error):
                    g.join(NEVER)
                continue
            data = g.join(NEVER)
            n = len(data)
            assert data == end.inbox[:n]
            assert n > 0 or (end.ended and not end.inbox)
            end.inbox = end.inbox[n:]

    @rule(i=ENDS, sizes=st.lists(st.integers(0, 300), max_size=3), as_list=st.booleans())
    def write(self, i, sizes, as_list):
        end, peer = self.ends[i], self.ends[1 - i]
        parts = [bytes([65 + len(sizes)]) * n for n in sizes]
        data = parts if as_list else b"".join(parts)
        error = net.ClosedError if end.closed else TimeoutError if end.write_late else None
        if error is not None:
            with pytest.raises(error):
                end.conn.write(data)
            return
        if peer.ended or peer.closed:  # shut down here, or nobody is there
            return
        assert end.conn.write(data) == sum(sizes)
        peer.inbox += b"".join(parts)
        self.settle(peer)

    @rule(i=ENDS, n=st.integers(1, 500))
    def read(self, i, n):
        end = self.ends[i]
        end.waiting.append(runtime.go(end.conn.read, n))
        runtime.gosched()
        self.settle(end)

    @rule(i=ENDS, data=st.binary(max_size=20))
    def unread(self, i, data):
        end = self.ends[i]
        if not end.closed and not end.waiting:
            end.conn.unread(data)
            end.inbox = data + end.inbox

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
            end.read_late = late if rd else end.read_late
            end.write_late = late if wr else end.write_late
        self.settle(end)

    @rule(i=ENDS)
    def cancel_a_reader(self, i):
        end = self.ends[i]
        if end.waiting:
            g = end.waiting.pop()
            g.cancel()
            with pytest.raises(runtime.Cancelled):
                g.join(NEVER)
            self.settle(end)

    @precondition(lambda self: not any(end.inbox for end in self.ends))
    @rule(i=ENDS)
    def close(self, i):
        end, peer = self.ends[i], self.ends[1 - i]
        end.conn.close()
        end.closed = peer.ended = True
        end.inbox = b""
        self.settle(end)
        self.settle(peer)

    @rule(i=ENDS)
    def close_write(self, i):
        end, peer = self.ends[i], self.ends[1 - i]
        if not (end.closed or peer.closed or peer.ended):
            end.conn.close_write()
            peer.ended = True
            self.settle(peer)

    @invariant()
    def closed_is_known(self):
        for end in getattr(self, "ends", ()):
            assert end.conn.closed == end.closed

    def teardown(self):
        for end in getattr(self, "ends", ()):
            end.conn.close()
            for g in end.waiting:
                with contextlib.suppress(net.ClosedError, ConnectionResetError):
                    assert g.join(NEVER) == b""  # of the other end, which is closed


def test_connection_behaves_like_the_model(procs):
    run_state_machine_as_test(
        Connection, settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )
