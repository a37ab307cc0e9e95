"""Ordinary programs, to be run while something fails."""

import _thread
import contextlib
import contextvars
import faulthandler
import logging
import os
import socket
import sys
import tempfile
import time
from typing import Any

from common import TIME_LIMIT, Scenario, close

import runtime
from runtime import (
    Cancelled,
    Chan,
    ChanClosed,
    DeadlockError,
    Mutex,
    WaitGroup,
    atomic,
    context,
    go,
    gosched,
    http,
    net,
    recv,
    select,
    send,
    singleflight,
    sleep,
    sync,
    testing,
)
from runtime._core import _open_beneath
from runtime._http import server
from runtime.time import Ticker, Timer, after, after_func

logging.getLogger("runtime.http").disabled = True
var: contextvars.ContextVar[object] = contextvars.ContextVar("var")


class Spawn(Scenario):
    def run(self) -> None:
        gs = self.gs
        for i in range(4):
            gs[i] = go(divmod, 17, i + 1)
        for i in range(4):
            assert gs[i].join() == divmod(17, i + 1)


class Arguments(Scenario):
    """More than a Goroutine has room for, and keyword arguments."""

    def run(self) -> None:
        gs = self.gs
        gs[0] = go(max, 1, 2, 3, 4, 5, 6, 7)
        gs[1] = go(dict, a=1, b=2)
        gs[2] = go(dict, (), a=1, b=2, c=3, d=4, e=5)
        assert gs[0].join() == 7
        assert gs[1].join() == {"a": 1, "b": 2}
        assert gs[2].join() == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}


class Context(Scenario):
    def __init__(self) -> None:
        super().__init__()
        self.token = var.set(object())

    def run(self) -> None:
        gs = self.gs
        gs[0] = go(var.get)
        gs[1] = go.named("named")(var.get)
        assert gs[0].join() is gs[1].join() is var.get()

    def release(self) -> None:
        var.reset(self.token)


class Failing(Scenario):
    """Failures are raised by join() or reported, SystemExit goes to main."""

    primary = (MemoryError, ValueError, SystemExit)

    def run(self) -> None:
        g = go(int, "x")
        try:
            g.join()
        except ValueError:
            pass
        try:
            go(sys.exit, 3).join()
        except SystemExit:
            pass


class Deadlock(Scenario):
    def run(self) -> None:
        ch = self.chans[0] = Chan()
        self.gs[0] = go(ch.recv)
        try:
            Chan().recv()
        except DeadlockError:
            pass
        ch.send(1)
        self.gs[0].join()


class Unbuffered(Scenario):
    def work(self) -> None:
        try:
            for x in self.chans[0]:
                self.chans[1].send(x + 1000)
        finally:
            self.chans[1].close()

    def run(self) -> None:
        there = self.chans[0] = Chan()
        back = self.chans[1] = Chan()
        self.gs[0] = go(self.work)
        for i in range(3):
            there.send(i)
            assert back.recv() == i + 1000
        there.close()
        self.gs[0].join()


class Buffered(Scenario):
    def work(self) -> None:
        try:
            for i in range(6):
                self.chans[0].send(i + 1000)
        finally:
            self.chans[0].close()

    def run(self) -> None:
        self.chans[0] = Chan(2)
        self.gs[0] = go(self.work)
        got = list(self.chans[0])
        assert got == list(range(1000, 1000 + len(got)))
        self.gs[0].join()
        assert len(got) == 6


class Timeouts(Scenario):
    def run(self) -> None:
        ch = self.chans[0] = Chan()
        for i in range(4):
            self.gs[i] = go(ch.recv, 1000.0)
        for i in range(4, 8):
            self.gs[i] = go(sleep, 0.00001 * i)
        gosched()
        for i in range(4):
            ch.send(i)
        try:
            ch.recv(0.00001)
        except TimeoutError:
            pass
        for i in range(8):
            self.gs[i].join()


class TimerHeap(Scenario):
    """As many timers as there is room for, so that the next ones make the heap grow."""

    def __init__(self) -> None:
        super().__init__()
        self.many: Any = Chan()
        self.sleepers = [go(self.many.recv_ok, 1000.0) for _ in range(62)]
        while any(g.state != "waiting" for g in self.sleepers):
            gosched()

    def run(self) -> None:
        ch = self.chans[0] = Chan()
        for i in range(4):
            self.gs[i] = go(ch.recv_ok, 1000.0)
        gosched()
        ch.close()
        for i in range(4):
            assert self.gs[i].join() == (None, False)

    def release(self) -> None:
        self.many.close()
        for g in self.sleepers:
            assert g.join() == (None, False)


class Calls(Scenario):
    """Functions that timers call.  Where there is no memory for their goroutines they are called
    when there is some again; where they fail that is reported."""

    def __init__(self) -> None:
        super().__init__()
        self.started = 0
        self.errors: list[BaseException] = []  # without a GIL only an append is whole
        self.called: Any = Chan(16)
        self.timers: list[Any] = [None] * 16
        self.report = runtime.excepthook
        runtime.excepthook = self.count

    def count(self, g: Any, e: BaseException) -> None:
        self.errors.append(e)
        self.report(g, e)

    def start(self, seconds: float) -> None:
        self.timers[self.started] = after_func(seconds, self.called.try_send, 1)
        self.started += 1

    def release(self) -> None:
        end = time.monotonic() + TIME_LIMIT / 3
        while len(self.called) + len(self.errors) < self.started:
            assert time.monotonic() < end, "a function was not called"
            sleep(0.0002)
        assert len(self.called) + len(self.errors) == self.started


class Clocks(Calls):
    """Each kind of timer, and who waits for them."""

    def run(self) -> None:
        self.start(0.00001)
        timer = self.timer = Timer(1000.0)
        ticker = Ticker(0.00001)
        after(0.00001).recv()
        self.gs[0] = go(timer.c.recv)
        self.gs[1] = go(next, ticker)
        gosched()
        timer.reset(0.00001)
        self.gs[0].join()
        self.gs[1].join()
        timer.reset(0.00001)
        assert select(recv(timer.c), recv(after(1000.0))).index == 0
        self.start(0.00001)
        sleep(0.0001)

    def release(self) -> None:
        if self.gs[0] is not None:
            self.timer.reset(0)
        super().release()


class ClockHeap(Calls):
    """As many functions to call as there is room for, so that the next ones make the heap grow:
    where it cannot they are called as well."""

    def __init__(self) -> None:
        super().__init__()
        self.many = [after_func(1000.0, print) for _ in range(62)]

    def run(self) -> None:
        for _ in range(8):
            self.start(0.0001)
        sleep(0.0002)

    def release(self) -> None:
        super().release()
        for timer in self.many:
            assert timer.stop()


class Select(Scenario):
    """Selects that face each other, with so many cases that their numbers are allocated.

    Not in the main goroutine: an exception that comes from elsewhere is raised there at once,
    and may strike between a value's arrival and what is done with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.never = [recv(None)] * 257
        self.sent = [False] * 8
        self.received = [False] * 8

    def produce(self) -> None:
        a, b = self.chans
        try:
            for i in range(0, 8, 2):
                index = select(*self.never, send(a, i), send(b, i + 1)).index
                self.sent[i + (index - 257)] = True
        finally:
            close(a)
            close(b)

    def consume(self) -> None:
        a, b = self.chans
        try:
            while not (a.closed and b.closed):
                result = select(*self.never, recv(a.receiver()), recv(b))
                if result.ok:  # to unpack it would allocate
                    self.received[result.value] = True
        finally:
            close(a)
            close(b)

    def run(self) -> None:
        self.chans[0] = Chan()
        self.chans[1] = Chan(1)
        self.gs[0] = go(self.produce)
        self.gs[1] = go(self.consume)
        self.gs[0].join()
        self.gs[1].join()

    def end(self) -> list[BaseException]:
        errors = super().end()
        for ch in self.chans:
            for value in ch or ():
                self.received[value] = True
        assert self.received == self.sent
        return errors


class Locks(Scenario):
    def work(self) -> None:
        with self.mu:
            gosched()

    def wait(self) -> None:
        self.wg.wait()

    def run(self) -> None:
        mu = self.mu = Mutex()
        wg = self.wg = WaitGroup()
        wg.add()
        mu.lock()
        try:
            for i in range(4):
                self.gs[i] = go(self.work)
            self.gs[4] = go(self.wait)
            gosched()
        finally:
            mu.unlock()
            wg.done()
        for i in range(5):
            self.gs[i].join()


class Waits(Scenario):
    """All else in runtime.sync that waits."""

    open = False

    def read(self) -> None:
        with self.rw.reader():
            gosched()

    def write(self) -> None:
        with self.rw:
            gosched()

    def twice(self) -> None:
        self.sem.acquire(2)
        self.sem.release(2)

    def is_open(self) -> bool:
        return self.open

    def wait(self) -> None:
        with self.cond:
            self.cond.wait_for(self.is_open)

    def wait_limited(self) -> None:
        with self.cond:
            while not self.open:
                self.cond.wait(1000.0)

    def once_more(self) -> None:
        self.once.do(gosched)

    def run(self) -> None:
        self.rw, self.cond, self.once = sync.RWMutex(), sync.Cond(), sync.Once()
        self.sem, self.event = sync.Semaphore(3), sync.Event()
        self.rw.lock()
        self.sem.acquire(2)
        try:
            gs = self.gs
            for i in (0, 1):
                gs[i] = go(self.read)
                gs[2 + i] = go(self.write)
                gs[4 + i] = go(self.twice)
                gs[6 + i] = go(self.event.wait)
                gs[8 + i] = go(self.once_more)
                gs[10 + i] = go(self.wait)
            gs[12] = go(self.wait_limited)
            gosched()
        finally:
            self.rw.unlock()
            self.sem.release(2)
        for i in range(6):
            gs[i].join()
        for i in (8, 9):
            gs[i].join()

    def release(self) -> None:
        if hasattr(self, "event"):
            with self.cond:
                self.open = True
                self.cond.broadcast()
            self.event.set()

    def end(self) -> list[BaseException]:
        errors = super().end()
        if hasattr(self, "event"):
            assert not self.rw.locked
            assert self.rw.readers == 0
            assert self.sem.free in (1, 3)  # 1: acquire() was not undone, for there was no try
            assert not self.cond.locker.locked
        return errors


class WaitGroupGo(Scenario):
    def work(self, *args: int) -> int:
        gosched()
        return sum(args)

    def __init__(self) -> None:
        super().__init__()
        self.wg = WaitGroup()

    def run(self) -> None:
        for i in range(4):
            self.gs[i] = self.wg.go(self.work, *range(4 * i))
        self.wg.wait()
        for i in range(4):
            assert self.gs[i].join() == sum(range(4 * i))

    def release(self) -> None:
        self.wg.wait(TIME_LIMIT / 3)


class Maps(Scenario):
    """A Map that grows, and what is atomic."""

    def __init__(self) -> None:
        super().__init__()
        self.map: Any = sync.Map()
        self.keys = [f"key {i}" for i in range(40)]
        self.stored = atomic.Int64()

    def run(self) -> None:
        for key in self.keys:
            self.map.store(key, key)
            self.stored.add()
        assert len(self.map.items()) == 40
        for key in self.keys:
            assert self.map.compare_and_swap(key, key, atomic.Value(key))
        for key in self.keys:
            self.map.delete(key)
            self.stored.add(-1)

    def release(self) -> None:
        assert abs(len(self.map) - self.stored.load()) <= 1
        for key, value in self.map.items():
            assert key == value or value.load() == key


class Flights(Scenario):
    """Calls that share one result."""

    def fly(self) -> int:
        gosched()
        return 42

    def work(self) -> int:
        return self.flights.do("key", self.fly)[0]

    def __init__(self) -> None:
        super().__init__()
        self.flights: Any = singleflight.Group()

    def run(self) -> None:
        for i in range(4):
            self.gs[i] = go(self.work)
        result = self.flights.do_chan("key", self.fly).recv()
        assert result.value == 42 or isinstance(result.error, MemoryError)
        for i in range(4):
            assert self.gs[i].join() == 42

    def release(self) -> None:
        assert self.flights.do("key", self.fly, TIME_LIMIT / 3)[0] == 42


class Contexts(Scenario):
    """A tree of contexts, all of which must end with the root."""

    def __init__(self) -> None:
        super().__init__()
        self.root, self.cancel = context.with_cancel()
        self.made: list[Any] = [None] * 9

    def wait(self, ctx: Any) -> None:
        try:
            self.chans[0].recv(ctx=ctx)
        except context.Canceled:
            pass

    def run(self) -> None:
        self.chans[0] = Chan()
        for i in range(3):
            ctx = self.made[i] = context.with_cancel(self.root).ctx
            inner = self.made[3 + i] = context.with_timeout(ctx, 1000.0).ctx
            self.made[6 + i] = context.with_value(inner, "key", i)
            context.after_func(inner, gosched)
            self.gs[i] = go(self.wait, self.made[6 + i])
        gosched()
        self.cancel()
        for i in range(3):
            self.gs[i].join()

    def release(self) -> None:
        self.cancel()
        for ctx in self.made:
            assert ctx is None or ctx.err() is not None
            assert ctx is None or ctx.done().closed


class Nested(Scenario):
    """Goroutines that start goroutines, each with a stack of its own."""

    def work(self, n: int) -> int:
        if n == 0:
            return 0
        g = self.gs[n] = go(self.work, n - 1)
        gosched()
        return g.join() + 1

    def run(self) -> None:
        self.gs[0] = go(self.work, 7)
        assert self.gs[0].join() == 7


class Bubble(Scenario):
    secondary = (TimeoutError, Cancelled)

    def __init__(self) -> None:
        super().__init__()
        contextvars.Context()  # CPython 3.11 crashes if there is no memory for the first one

    def work(self, ch: Any) -> None:
        sleep(2.0)
        ch.send(1)

    def body(self) -> None:
        ch: Any = Chan()
        g = self.gs[0] = go(self.work, ch)
        testing.wait()
        assert ch.recv(10.0) == 1
        g.join()
        try:
            ch.recv(5.0)
        except TimeoutError:
            pass

    def run(self) -> None:
        testing.bubble(self.body)


class BubbleDeadlock(Bubble):
    def body(self) -> None:
        ch: Any = Chan()
        go(ch.recv)
        ch.recv()

    def run(self) -> None:
        try:
            testing.bubble(self.body)
        except DeadlockError:
            pass


class Explore(Bubble):
    primary = (MemoryError, testing.ExploreError)
    secondary = (TimeoutError, Cancelled, testing.ExploreError)

    def work(self, ch: Any) -> None:
        ch.send(len(self.gs))

    def body(self) -> None:
        ch: Any = Chan()
        g = go(self.work, ch)
        ch.recv(10.0)
        g.join()

    def run(self) -> None:
        testing.explore(self.body, seeds=range(2), shrink=False)
        testing.replay(self.body, 3, trace=False)


class Thread(Scenario):
    """A scenario in which a plain thread does something, too."""

    primary = (MemoryError, OSError, RuntimeError)  # RuntimeError: no thread can be started

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.over = _thread.allocate_lock(), _thread.allocate_lock()
        self.begin.acquire()
        self.over.acquire()
        waits = _thread.allocate_lock()
        waits.acquire()
        _thread.start_new_thread(self.thread, (waits,))
        waits.acquire()

    def thread(self, waits: Any) -> None:
        # From here on nothing may be lost, whatever fails.
        try:
            waits.release()
            self.begin.acquire()
            self.body()
        except BaseException as e:
            self.thread_error = e
        finally:
            while True:
                try:
                    self.stop()
                    break
                except (MemoryError, SystemError):
                    pass
            self.over.release()

    def body(self) -> None:
        """What the thread does."""

    def stop(self) -> None:
        """Let nobody wait for the thread any more."""

    def release(self) -> None:
        self.stop()
        if self.begin.locked():
            self.begin.release()
        if not self.over.acquire(timeout=TIME_LIMIT / 3):
            faulthandler.dump_traceback(all_threads=True)
            raise AssertionError(f"the thread hangs: {self.thread_error!r} {self.gs}")


class ThreadSpawns(Thread):
    """A plain thread that spawns, joins, sends and receives."""

    def __init__(self) -> None:
        super().__init__()
        self.chans[0] = Chan()
        self.chans[1] = Chan(1)

    def body(self) -> None:
        for x in self.chans[0]:
            g = go(divmod, x, 3)
            self.chans[1].send(g.join())

    def stop(self) -> None:
        close(self.chans[0])
        close(self.chans[1])

    def run(self) -> None:
        self.begin.release()
        for i in range(3):
            self.chans[0].send(i + 100)
            assert self.chans[1].recv() == divmod(i + 100, 3)
        self.chans[0].close()


class ThreadBubble(Thread, Bubble):
    """A plain thread that starts a bubble."""

    def __init__(self) -> None:
        super().__init__()
        self.chans[0] = Chan()

    def body(self) -> None:
        testing.bubble(Bubble.body, self)

    def stop(self) -> None:
        close(self.chans[0])

    def run(self) -> None:
        self.begin.release()
        self.chans[0].recv_ok()


class ThreadWaits(Thread):
    """A plain thread in each kind of wait."""

    def __init__(self) -> None:
        super().__init__()
        self.chans[0] = Chan()
        self.mu = Mutex()
        self.wg = WaitGroup()

    def body(self) -> None:
        self.chans[0].send(1)
        with self.mu:
            pass
        self.wg.wait()
        sleep(0.00001)
        try:
            self.chans[0].recv(0.00001)
        except (TimeoutError, ChanClosed):
            pass

    def stop(self) -> None:
        close(self.chans[0])

    def run(self) -> None:
        self.wg.add()
        self.mu.lock()
        self.begin.release()
        try:
            self.chans[0].recv()
            gosched()
        finally:
            self.mu.unlock()
            self.wg.done()

    def release(self) -> None:
        super().release()
        assert not self.mu.locked


class ThreadClocks(Thread):
    """Timers of a plain thread."""

    def __init__(self) -> None:
        super().__init__()
        self.chans[0] = Chan()

    def body(self) -> None:
        after_func(1000.0, print).stop()
        after(0.00001).recv()
        with Ticker(0.00001) as ticker:
            next(ticker)
            select(recv(ticker.c), recv(after(1000.0)))
        self.chans[0].send(1)

    def stop(self) -> None:
        close(self.chans[0])

    def run(self) -> None:
        self.begin.release()
        self.chans[0].recv()


class Net(Scenario):
    """A TCP connection: accept, dial, and an echo."""

    primary = (MemoryError, OSError)
    secondary = (EOFError,)

    def __init__(self) -> None:
        super().__init__()
        self.listener: Any = net.listen("tcp", "127.0.0.1:0")
        self.address = str(self.listener.addr)

    def echo(self, conn: net.Conn) -> None:
        try:
            while data := conn.read():
                conn.write(data)
        finally:
            conn.close()

    def run(self) -> None:
        self.gs[0] = go(self.listener.accept)
        gosched()
        with net.dial("tcp", self.address) as conn:
            # If the goroutine fails nobody has the connection, and it is closed.
            self.gs[1] = go(self.echo, self.gs[0].join())
            self.gs[0] = None
            conn.set_deadline(TIME_LIMIT / 3)
            conn.write(b"x" * 100)
            try:
                assert conn.read_exactly(100) == b"x" * 100
            except TimeoutError:
                # 3.14t needs memory to begin a function whose frame is there: then the
                # traceback has the connection.
                self.gs[1].join(0)
                raise
            conn.close()
        self.gs[1].join()

    def release(self) -> None:
        self.listener.close()
        if self.gs[0] is not None:
            try:
                self.gs[0].join().close()
            except (MemoryError, OSError):
                pass
            self.gs[0] = None


class Unix(Scenario):
    """A Unix-domain listener and a connection to it, made while something fails."""

    primary = (MemoryError, OSError)
    number = 0

    def __init__(self) -> None:
        super().__init__()
        Unix.number += 1
        self.address = f"@gosched-faults-{os.getpid()}-{Unix.number}"

    def run(self) -> None:
        with net.listen("unix", self.address) as listener:
            self.gs[0] = go(listener.accept)
            gosched()
            with net.dial("unix", self.address):
                self.gs[0].join().close()
                self.gs[0] = None


class Packets(Scenario):
    """Datagrams there and back."""

    primary = (MemoryError, OSError)

    def run(self) -> None:
        with (
            net.listen_packet("udp", "127.0.0.1:0") as server,
            net.dial("udp", str(server.local_addr)) as client,
        ):
            for conn in (server, client):
                conn.set_deadline(TIME_LIMIT / 3)
            # If sending fails it gets ClosedError.
            self.gs[0] = go(server.recv_from)
            gosched()
            client.write([b"a", b"b"])
            data, sender = self.gs[0].join()
            self.gs[0] = None
            server.send_to(data, sender)
            buffer = bytearray(9)
            assert client.recv_from_into(buffer) == (2, server.local_addr)
            assert buffer.startswith(b"ab")


class Passing(Scenario):
    """Descriptors, several buffers and a file go through a unix connection."""

    primary = (MemoryError, OSError)
    secondary = (EOFError, ValueError)  # the file is closed meanwhile
    size = 300_000  # more than the system buffers

    def __init__(self) -> None:
        super().__init__()
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (release closes it)
        self.file.write(b"f" * self.size)
        self.file.flush()
        a, b = socket.socketpair()
        self.near = net.UnixConn(a.detach())
        self.far = [net.UnixConn(b.detach())]
        self.got: list[tuple[bytes, list[int]]] = [(b"", [])]

    def send(self, conn: net.UnixConn) -> None:
        try:
            conn.send_fds(b"x", [self.file])
            conn.write([b"l" * (self.size // 2)] * 2)
            conn.sendfile(self.file)
        finally:
            conn.close()

    def run(self) -> None:
        # If the goroutine fails nobody has this end, and it is closed; but see Net.
        self.gs[0] = go(self.send, self.far.pop())
        self.near.set_deadline(TIME_LIMIT / 3)
        try:
            self.got[0] = self.near.recv_fds(1, 1)  # stored without an allocation
            if self.got[0][1]:
                assert self.near.read_exactly(self.size) == b"l" * self.size
                assert self.near.read_exactly(self.size) == b"f" * self.size
        except TimeoutError:
            self.gs[0].join(0)
            raise
        self.gs[0].join()

    def release(self) -> None:
        for conn in (self.near, *self.far):
            conn.close()
        for fd in self.got[0][1]:
            os.close(fd)
        self.file.close()


class Pipe(Scenario):
    """Descriptors that are no sockets, with a wait in each direction."""

    primary = (MemoryError, OSError)
    size = 200_000  # more than a pipe holds

    def __init__(self) -> None:
        super().__init__()
        from runtime._core import NetFD

        r, w = os.pipe()
        self.r, self.w = NetFD(r), [NetFD(w)]
        self.data = b"x" * self.size

    def write(self, fd: Any) -> None:
        try:
            fd.write(self.data)
        finally:
            fd.close()

    def run(self) -> None:
        # If the goroutine fails nobody has this end, and it is closed; but see Net.
        self.gs[0] = go(self.write, self.w.pop())
        self.r.set_deadline(TIME_LIMIT / 3)
        left = self.size
        while left > 0:
            try:
                data = self.r.read()
            except TimeoutError:
                self.gs[0].join(0)
                raise
            if not data:
                break
            left -= len(data)
        self.gs[0].join()
        assert left == 0

    def release(self) -> None:
        self.r.close()


class ThreadNet(Thread):
    """A plain thread that reads from a connection and answers."""

    secondary = (EOFError,)

    def __init__(self) -> None:
        super().__init__()
        with net.listen("tcp", "127.0.0.1:0") as listener:
            self.far = net.dial("tcp", str(listener.addr))
            self.near = listener.accept()

    def body(self) -> None:
        self.near.set_read_deadline(0.0005)
        try:
            self.near.read()  # finds nothing
        except TimeoutError:
            pass
        self.near.set_read_deadline(None)
        self.near.write(b"ready")
        self.near.write(self.near.read())

    def stop(self) -> None:
        self.near.close()

    def run(self) -> None:
        self.begin.release()
        self.far.set_deadline(TIME_LIMIT / 3)
        assert self.far.read_exactly(5) == b"ready"
        self.far.write(b"abc")
        assert self.far.read_exactly(3) == b"abc"

    def release(self) -> None:
        self.far.close()
        super().release()


def is_whole(response: bytes) -> bool:
    head, end, body = response.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].split()
    return bool(end) and len(body) == int(length[0])


class HTTP(Scenario):
    """Requests to a server of which nothing, or an error, may come back; later ones work."""

    # Where the server cannot go on it answers with an error or closes the connection.
    primary = (MemoryError, OSError, EOFError)
    head = b"POST /path?x=y HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    status = b"HTTP/1.1 200 "
    tail = b"\r\n\r\nhello"

    def __init__(self) -> None:
        super().__init__()
        self.server = http.Server(self.handle, "127.0.0.1:0")
        self.server.listen()
        self.gs[0] = go(self.server.serve)
        while self.gs[0].state != "waiting":
            gosched()

    def handle(self, w: Any, r: Any) -> None:
        w.headers["X-Path"] = r.path
        w.write(go(bytes, r.body.read()).join())

    def request(self, conn: net.Conn, head: bytes) -> None:
        conn.set_deadline(TIME_LIMIT / 3)
        conn.write(head)
        conn.write(b"hello")
        answer = b""
        while not is_whole(answer):
            more = conn.read()
            if not more:
                raise EOFError(answer)
            answer += more
        if not answer.startswith(self.status):
            raise OSError(answer)
        assert answer.endswith(self.tail)

    def get(self) -> None:
        with net.dial("tcp", self.server.addr) as conn:
            self.request(conn, self.head + b"\r\n")
            self.request(conn, self.head + b"Connection: close\r\n\r\n")

    def run(self) -> None:
        self.get()

    def release(self) -> None:
        self.get()
        assert self.server.shutdown(TIME_LIMIT / 3), "a connection is lost"


class HTTPRefused(HTTP):
    """The same where the handler raises HTTPError, after it has set header fields."""

    status = b"HTTP/1.1 403 "
    tail = b"\r\n\r\nForbidden\n"

    def handle(self, w: Any, r: Any) -> None:
        w.headers["ETag"] = '"x"'
        w.headers["X-Path"] = r.path
        w.write(r.body.read())
        raise http.HTTPError(403)


class Mux(HTTP):
    """The same through a mux, whose table is built anew, with values and cookies."""

    head = b"POST /in/a%20b/5/r/%20s HTTP/1.1\r\nHost: x\r\nCookie: a=1\r\nContent-Length: 5\r\n"

    def __init__(self) -> None:
        sub = http.ServeMux()
        sub.handle("/{n:int}/{rest...}", self.answer)
        self.mux = http.ServeMux()
        self.mux.mount("/in/{x}/", sub)
        self.mux.handle("h.test/{f:float}", self.answer)
        super().__init__()

    def handle(self, w: Any, r: Any) -> None:
        self.mux(w, r)

    def answer(self, w: Any, r: Any) -> None:
        w.headers["X-Route"] = r.pattern + r.path + r.path_value("x") + r.stripped
        assert (r.path_value("n"), r.path_values["rest"]) == (5, "r/ s")
        r.set_path_value("more", r.cookie("a"))
        w.write(r.body.read())

    def run(self) -> None:
        self.mux._publish(None)
        self.get()


class Files(HTTP):
    """A large and a small file, opened below a directory, after a form that is read."""

    head = (
        b"POST /path HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n"
    )
    size = 50_000
    tail = b"f" * (size + 100) + b"hello"

    def __init__(self) -> None:
        self.dir = tempfile.TemporaryDirectory()
        for name, size in (("large", self.size), ("small", 100)):
            with open(f"{self.dir.name}/{name}", "wb") as file:
                file.write(b"f" * size)
        super().__init__()

    def handle(self, w: Any, r: Any) -> None:
        assert r.form() == {"hello": [""]}
        w.headers["Content-Length"] = self.size + 100 + 5
        for name in ("large", "small"):
            fd = _open_beneath(self.dir.name, name, True)
            try:
                w.send_file(fd)
            finally:
                os.close(fd)
        w.write("hello")

    def release(self) -> None:
        super().release()
        self.dir.cleanup()


class Strange(net.Listener):
    """None that a server knows: its connections are streams."""


class HTTPStream(HTTP):
    """The same over stream objects."""

    # Without memory to accept one, a client waits.
    secondary = (TimeoutError,)

    def __init__(self) -> None:
        Scenario.__init__(self)
        self.server = http.Server(self.handle)
        plain = net.listen("tcp", "127.0.0.1:0")
        self.server._addr = str(plain.addr)
        self.gs[0] = go(self.server.serve, Strange(plain._fd, None, plain._conn_type))
        self.get()  # now it accepts

    def handle(self, w: Any, r: Any) -> None:
        assert r.context.err() is None  # from here on it looks out for the client
        super().handle(w, r)


class Shutdown(HTTP):
    """A server is shut down while a connection is idle."""

    def __init__(self) -> None:
        super().__init__()
        server._SETTLED = 0.01  # it gives such a connection half a second, many times here
        self.idle = net.dial("tcp", self.server.addr)
        self.request(self.idle, self.head + b"\r\n")

    def run(self) -> None:
        assert self.server.shutdown(TIME_LIMIT / 3), "a connection is lost"

    def release(self) -> None:
        self.idle.close()
        assert self.server.shutdown(TIME_LIMIT / 3), "a connection is lost"


class Life(HTTP):
    """Two clients of a server that runs one handler at a time: contexts, conn_state, a time-out."""

    def __init__(self) -> None:
        Scenario.__init__(self)
        self.server = http.Server(
            http.timeout_handler(self.handle, TIME_LIMIT), "127.0.0.1:0", max_requests=1,
            conn_state=self.note,
        )  # fmt: skip
        self.server.listen()
        self.gs[0] = go(self.server.serve)
        while self.gs[0].state != "waiting":
            gosched()

    def note(self, conn: Any, state: Any) -> None:
        assert conn.id > 0
        assert state in ("new", "active", "idle", "closed")

    def handle(self, w: Any, r: Any) -> None:
        with context.with_cancel(r.context) as ctx:
            inner = r.with_context(ctx)
            assert inner.context is ctx
            assert ctx.err() is None
            gosched()
            w.write(inner.body.read())

    def run(self) -> None:
        self.gs[1] = go(self.get)
        self.get()
        self.gs[1].join()


class Hijack(HTTP):
    """Trailers, an informational response, and then the handler takes the connection over."""

    chunks = (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\nX-Got: yes\r\n\r\n"
    )
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: y\r\n\r\nhello"
    fields = (("Link", "x"),)

    def handle(self, w: Any, r: Any) -> None:
        if r.method == "POST":
            w.write_informational(103, self.fields)
            w.trailers["X-Sum"] = 1
            w.write(r.body.read())
            w.trailers["X-Got"] = r.trailers["x-got"]
            return
        w.write_header(101)
        conn, reader = w.hijack()
        with conn:
            conn.write(reader.read_exactly(5))

    def exchange(self, conn: net.Conn, request: bytes, end: bytes) -> None:
        conn.write(request)
        answer = b""
        while not answer.endswith(end):
            more = conn.read()
            if not more:
                raise EOFError(answer)
            answer += more
            if b"HTTP/1.1 5" in answer:
                raise OSError(answer)

    def get(self) -> None:
        with net.dial("tcp", self.server.addr) as conn:
            conn.set_deadline(TIME_LIMIT / 3)
            self.exchange(conn, self.chunks, b"\r\nX-Sum: 1\r\nX-Got: yes\r\n\r\n")
            self.exchange(conn, self.upgrade, b"\r\n\r\nhello")


class Blocking(Scenario):
    """Calls in the threads of the pool, which are started for them."""

    primary = (MemoryError, RuntimeError)  # RuntimeError: no thread can be started

    def run(self) -> None:
        self.gs[0] = go(runtime.blocking, divmod, 17, 5)
        assert runtime.blocking(divmod, 17, 6) == (2, 5)
        assert self.gs[0].join() == (3, 2)

    def release(self) -> None:
        for _ in range(3):
            assert runtime.blocking(divmod, 7, 2) == (3, 1)


class BlockingAgain(Blocking):
    """The same with threads that are there already: threading.Thread.start() waits for ever
    if its thread ends early for want of memory."""

    def __init__(self) -> None:
        super().__init__()
        runtime.set_max_blocking(2)
        held = _thread.allocate_lock()
        held.acquire()
        g = go(runtime.blocking, held.acquire)
        while g.state != "waiting":
            gosched()
        runtime.blocking(held.release)
        g.join()


class Preempt(Scenario):
    """A goroutine that computes makes way for the one that ends it."""

    ended = False

    def end_it(self) -> None:
        self.ended = True

    def compute(self) -> None:
        last = time.monotonic() + TIME_LIMIT / 3
        while not self.ended and not (self.gs[1] and self.gs[1].done()):
            assert time.monotonic() < last

    def run(self) -> None:
        self.gs[0] = go(self.compute)
        self.gs[1] = go(self.end_it)
        self.gs[0].join()
        self.gs[1].join()

    def release(self) -> None:
        self.ended = True


class Busy(Scenario):
    """A goroutine that calls functions for several turns, while another waits for one, and that
    has not reacted before: so it is asked in all ways that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.gs[0] = go(divmod, 17, 5)
        sum(range(5_000_000))

    def call(self, depth: int) -> None:
        if depth:
            self.call(depth - 1)
            self.call(depth - 1)

    def run(self) -> None:
        self.call(18)
        assert self.gs[0].join() == (3, 2)


class ThreadPreempt(Preempt, Thread):
    """The same on an M that is not the main one."""

    def __init__(self) -> None:
        self.away = _thread.allocate_lock()
        self.away.acquire()
        super().__init__()

    def body(self) -> None:
        Preempt.run(self)

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the other thread has been quicker
            self.away.release()

    def run(self) -> None:
        self.begin.release()
        # Not in the scheduler: the other M is the only one that runs goroutines.
        self.away.acquire()

    def release(self) -> None:
        Preempt.release(self)
        Thread.release(self)


ALL: dict[str, type[Scenario]] = {
    cls.__name__: cls for cls in list(globals().values()) if isinstance(cls, type)
}
