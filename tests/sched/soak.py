"""soak.py SECONDS SEED: everything at once, at random; run by test_soak.py.

Rounds of random programs over shared channels, locks and sleeps, on a changing number of Ps,
with plain threads and cancellations in between.  After each round nothing may be left: no
goroutine, no value, no lock held.
"""

import gc
import os
import random
import resource
import sys
import threading
import time

import runtime
from runtime import Cancelled, Chan, ChanClosed, Goroutine, Mutex, WaitGroup, go, gosched, sleep

LIMIT, SEED = float(sys.argv[1]), int(sys.argv[2])


class Round:
    def __init__(self, rng: random.Random, size: int) -> None:
        self.rng = rng
        self.size = size
        self.chans: list[Chan[int]] = [Chan(c) for c in (0, 0, 1, 7)]
        self.mutexes = [Mutex() for _ in range(3)]
        self.held = [0] * 3
        self.lock = Mutex()
        self.sent = self.received = self.ended = self.started = 0
        self.handles: list[Goroutine[None]] = []
        self.rest = WaitGroup()

    def count(self, name: str, n: int = 1) -> None:
        while True:  # a count must not be lost to a cancellation
            try:
                self.lock.lock()
                break
            except Cancelled:
                continue
        setattr(self, name, getattr(self, name) + n)
        self.lock.unlock()

    def step(self, rng: random.Random, depth: int) -> None:
        ch = rng.choice(self.chans)
        what = rng.randrange(10)
        if what < 3:
            sent = False
            try:
                ch.send(1, timeout=rng.choice((0.0, 0.0005, 0.01)))
                sent = True
            except TimeoutError:
                pass
            finally:
                if sent:
                    self.count("sent")
        elif what < 6:
            got = 0
            try:
                got = ch.recv(timeout=rng.choice((0.0, 0.0005, 0.01)))
            except TimeoutError:
                pass
            finally:
                if got:
                    self.count("received")
        elif what == 6:
            i = rng.randrange(3)
            with self.mutexes[i]:
                self.held[i] += 1
                assert self.held[i] == 1
                if rng.random() < 0.3:
                    try:
                        gosched()
                    finally:
                        self.held[i] -= 1
                else:
                    self.held[i] -= 1
        elif what == 7:
            sleep(rng.choice((0, 0.0001, 0.001)))
        elif what == 8 and depth < 3:
            for _ in range(rng.randrange(4)):
                self.spawn(rng.randrange(1 << 30), depth + 1)
        else:
            gosched()

    def body(self, seed: int, depth: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(rng.randrange(1, 6)):
                self.step(rng, depth)
        except Cancelled:
            if rng.random() < 0.5:
                raise
        finally:
            self.count("ended")
            self.rest.done()

    def spawn(self, seed: int, depth: int) -> Goroutine[None]:
        self.rest.add()
        self.count("started")
        return go(self.body, seed, depth)

    def thread(self, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(self.size // 40):
            self.spawn(rng.randrange(1 << 30), 0)
            if rng.random() < 0.1:
                self.step(rng, 3)

    def run(self) -> int:
        threads = [
            threading.Thread(target=self.thread, args=(self.rng.randrange(1 << 30),))
            for _ in range(self.rng.randrange(5))
        ]
        for t in threads:
            t.start()
        for _ in range(self.size):
            g = self.spawn(self.rng.randrange(1 << 30), 0)
            if self.rng.random() < 0.05:
                self.handles.append(g)
            if self.handles and self.rng.random() < 0.05:
                victim = self.handles.pop(self.rng.randrange(len(self.handles)))
                if victim.state != "runnable":  # one that has not begun would not count itself
                    victim.cancel()
            if self.rng.random() < 0.002:
                runtime.gomaxprocs(self.rng.randrange(1, 5))
            if self.rng.random() < 0.02:
                gosched()
        for t in threads:
            while t.is_alive():
                sleep(0.001)
        self.handles.clear()
        self.rest.wait(timeout=120)
        left = 0
        for ch in self.chans:
            ch.close()
            try:
                while True:
                    left += ch.try_recv()[0]
            except ChanClosed:
                pass
        assert self.started == self.ended, (self.started, self.ended)
        assert self.sent == self.received + left, (self.sent, self.received, left)
        assert all(m.try_lock() for m in self.mutexes)
        while runtime.num_goroutine() > 1:
            sleep(0.001)
        return self.started


def rss() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize() // 1024


def objects() -> int:
    gc.collect()
    return sum(isinstance(o, (Chan, Goroutine, Mutex, WaitGroup, Round)) for o in gc.get_objects())


def main() -> None:
    runtime.excepthook = lambda g, e: os._exit(f"{g} {e!r}" != print(g, repr(e), flush=True))
    rng = random.Random(SEED)
    until = time.monotonic() + LIMIT
    total = rounds = half = 0
    while time.monotonic() < until:
        total += Round(rng, rng.choice((50, 500, 5000))).run()
        rounds += 1
        if not half and time.monotonic() > until - LIMIT / 2:
            half = rss()
    print(f"{total} goroutines, {rounds} rounds, {half} KiB at half-time, {rss()} KiB at the end")
    runtime.gomaxprocs(1)
    for _ in range(3):
        sleep(0.01)
    assert objects() <= 2, objects()
    assert LIMIT < 60 or rss() < half * 1.25 + 16384, (half, rss())


main()
