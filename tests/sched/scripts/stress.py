"""A random program of goroutines and threads: `stress.py SEED [HOW_MANY_SEEDS]`.

Goroutines pick operations at random on a few shared objects; what must hold whatever the
order is checked: every value is received once or still there, mutual exclusion, counters,
each handle's outcome, and that everything can be brought to an end.  Prints "ok".
"""

import faulthandler
import gc
import random
import sys
import threading
from collections import Counter
from typing import Any

import greenlet

import runtime
from runtime import (
    Case,
    Chan,
    ChanClosed,
    Goroutine,
    Mutex,
    WaitGroup,
    current,
    go,
    goexit,
    gosched,
    num_goroutine,
    recv,
    select,
    send,
    sleep,
    stats,
)


class Planned(Exception):
    pass


class Program:
    def __init__(self, seed: int, steps: int) -> None:
        self.rng = random.Random(seed)
        self.steps = steps
        self.chans: list[Chan[int]] = [Chan(self.rng.choice([0, 0, 1, 3, 50])) for _ in range(4)]
        self.mutexes = [Mutex() for _ in range(2)]
        self.holders = [0, 0]
        self.wg = WaitGroup()
        self.sent: Counter[int] = Counter()
        self.received: Counter[int] = Counter()
        self.next_value = 0
        self.handles: list[tuple[Goroutine[Any], Any]] = []
        self.threads: list[threading.Thread] = []
        self.problems: list[str] = []
        self.alive = 0
        self.stopping = False
        self.lock = threading.Lock()  # for what threads share

    def timeout(self) -> float | None:
        # Some wait for ever: the end closes the channels.
        return self.rng.choice([None, 0, 0.00002, 0.0005, 100])

    def send(self) -> None:
        with self.lock:
            self.next_value += 1
            value = self.next_value
        ch = self.rng.choice(self.chans)
        if self.rng.random() < 0.2:
            if not ch.try_send(value):
                return
        else:
            ch.send(value, self.timeout())
        with self.lock:
            self.sent[value] += 1

    def recv(self) -> None:
        ch = self.rng.choice(self.chans)
        how = self.rng.random()
        if how < 0.2:
            value, ok = ch.try_recv()
        elif how < 0.5:
            value, ok = ch.recv_ok(self.timeout())
        else:
            value, ok = ch.recv(self.timeout()), True
        if ok:
            with self.lock:
                self.received[value] += 1  # type: ignore[index]

    def select(self) -> None:
        cases: list[Case[Any]] = []
        sends: dict[int, int] = {}  # which case sends which value
        for i in range(self.rng.randrange(1, 5)):
            ch = self.rng.choice(self.chans)
            if self.rng.random() < 0.5:
                with self.lock:
                    self.next_value += 1
                    sends[i] = self.next_value
                cases.append(send(ch, sends[i]))
            else:
                cases.append(recv(ch))
        if self.rng.random() < 0.2:
            result = select(*cases, recv(None), default=True)
        else:
            result = select(*cases, recv(None), timeout=self.timeout())
        with self.lock:
            if result.index in sends:
                self.sent[sends[result.index]] += 1
            elif result.ok:
                self.received[result.value] += 1

    def lock_and_yield(self) -> None:
        i = self.rng.randrange(2)
        self.mutexes[i].lock(self.rng.choice([None, 0, 0.0001]))
        try:
            self.holders[i] += 1
            if self.holders[i] != 1:
                self.problems.append("two hold one mutex")
            self.pause()
            self.holders[i] -= 1
        finally:
            self.mutexes[i].unlock()

    def pause(self) -> None:
        if self.rng.random() < 0.5:
            gosched()
        else:
            sleep(self.rng.choice([0, 0.00001, 0.0003]))

    def in_own_greenlet(self) -> None:
        greenlet.greenlet(self.one).switch()

    def in_deep_frame(self) -> None:
        def deep(n: int) -> None:
            return deep(n - 1) if n else self.one()

        deep(self.rng.randrange(60))

    def handling_an_exception(self) -> None:
        try:
            raise Planned
        except Planned as e:
            try:
                self.one()
            finally:
                if sys.exc_info()[1] is not e and sys.exc_info()[0] is Planned:
                    self.problems.append("exception state of another goroutine")

    def spawn(self) -> None:
        if self.stopping or self.alive > 300:
            return
        self.start(self.rng.randrange(1, 12), self.rng.random() < 0.7)

    def spawn_thread(self) -> None:
        if self.stopping or len(self.threads) > 6 or self.rng.random() < 0.7:
            return
        t = threading.Thread(target=self.body, args=(self.rng.randrange(1, 8), 0), daemon=True)
        with self.lock:
            self.alive += 1
            self.threads.append(t)
        self.wg.add()
        t.start()

    def join(self) -> None:
        with self.lock:
            if not self.handles:
                return
            g, outcome = self.rng.choice(self.handles)
        if g is current():
            return
        try:
            result = g.join(self.rng.choice([0, 0.0001]))
        except Planned:
            result = Planned
        except (TimeoutError, ChanClosed):
            return
        if result != outcome:
            self.problems.append(f"outcome {result!r}, expected {outcome!r}")

    def forget(self) -> None:
        dropped = None  # with the lock released: a finalizer may run
        with self.lock:
            if self.handles and self.rng.random() < 0.5:
                dropped = self.handles.pop(self.rng.randrange(len(self.handles)))
        del dropped

    def collect(self) -> None:
        if self.rng.random() < 0.05:
            gc.collect()

    def one(self) -> None:
        self.rng.choice(OPERATIONS)(self)

    def body(self, n: int, outcome: Any) -> Any:
        try:
            for _ in range(n):
                try:
                    self.one()
                except (TimeoutError, ChanClosed):
                    pass
                if self.stopping:
                    break
        finally:
            with self.lock:
                self.alive -= 1
            self.wg.done()
        if outcome is Planned:
            raise Planned
        if outcome is None:
            goexit()
        return outcome

    def start(self, n: int, keep: bool) -> None:
        outcome = self.rng.choice([None, 1, "text"] + [Planned] * keep)
        with self.lock:
            self.alive += 1
        self.wg.add()
        g = go(self.body, n, outcome)
        if keep:
            self.handles.append((g, outcome))

    def run(self) -> None:
        for _ in range(self.steps):
            self.start(self.rng.randrange(1, 12), self.rng.random() < 0.7)
            if self.rng.random() < 0.3:
                self.pause()
        for _ in range(self.rng.randrange(50)):
            gosched()
        self.stopping = True
        leftover: Counter[int] = Counter()
        for ch in self.chans:
            ch.close()
        self.wg.wait(timeout=60)
        for ch in self.chans:
            leftover.update(ch)
        for g, outcome in self.handles:
            try:
                result = g.join(60)
            except Planned:
                result = Planned
            if result != outcome:
                self.problems.append(f"outcome {result!r}, expected {outcome!r}")
        for t in self.threads:
            while t.is_alive():
                gosched()
        while num_goroutine() > 1:
            gosched()
        if self.received + leftover != self.sent:
            self.problems.append(f"sent {self.sent}, received {self.received}, left {leftover}")
        s = stats()
        if s["created"] - s["finished"] + 1 != s["goroutines"]:
            self.problems.append(f"stats {s}")
        if any(m.locked for m in self.mutexes) or any(self.holders):
            self.problems.append("a mutex is still locked")


OPERATIONS = [
    *[Program.send] * 6,
    *[Program.recv] * 6,
    *[Program.select] * 4,
    *[Program.lock_and_yield] * 2,
    *[Program.pause] * 3,
    *[Program.spawn] * 3,
    Program.spawn_thread,
    Program.in_own_greenlet,
    Program.in_deep_frame,
    Program.handling_an_exception,
    Program.join,
    Program.forget,
    Program.collect,
]


def main() -> None:
    faulthandler.enable()

    def report(g: Goroutine[Any], error: BaseException) -> None:
        if not isinstance(error, Planned):
            runtime_report(g, error)

    runtime_report, runtime.excepthook = runtime.excepthook, report
    faulthandler.dump_traceback_later(100, exit=True)
    first = int(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for seed in range(first, first + count):
        program = Program(seed, 40)
        program.run()
        if program.problems:
            sys.exit(f"seed {seed}: {program.problems[:3]}")
        faulthandler.dump_traceback_later(100, exit=True)
    print("ok")


main()
