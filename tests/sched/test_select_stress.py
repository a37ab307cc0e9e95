"""Many selects at once on shared channels, from goroutines of several Ps and from plain threads:
every value that was sent is received exactly once, and what was not sent is received nowhere.

GOSCHED_STRESS_SEEDS=N runs N seeds instead of a few.
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import runtime
from runtime import (
    Cancelled,
    Case,
    Chan,
    ChanClosed,
    Goroutine,
    current,
    go,
    gosched,
    recv,
    select,
    send,
)
from waits import until

SEEDS = range(int(os.environ.get("GOSCHED_STRESS_SEEDS", "40")))


@pytest.fixture(params=[1, 4], autouse=True)
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    before = runtime.gomaxprocs(request.param)
    yield request.param
    runtime.gomaxprocs(before)


class Context:
    def __init__(self) -> None:
        self.chan: Chan[Any] = Chan()

    def done(self) -> Any:
        return self.chan

    def err(self) -> Exception:
        return ConnectionError()


class Exchange:
    """Workers that do at random what one can do to channels, until all have done enough, or
    nobody can go on."""

    def __init__(self, seed: int, workers: int, threads: int, steps: int) -> None:
        self.rng = random.Random(seed)
        self.workers, self.steps = workers, steps
        self.chans: list[Chan[int]] = [Chan(self.rng.choice([0, 0, 1, 3])) for _ in range(4)]
        self.stop = Context()
        self.progress = [0] * (workers + threads)
        self.sent: list[list[int]] = [[] for _ in self.progress]
        self.received: list[list[int]] = [[] for _ in self.progress]
        self.gs = [go(self.work, i, self.rng.random()) for i in range(workers)]
        self.threads = [
            threading.Thread(target=self.work, args=(i, self.rng.random()))
            for i in range(workers, workers + threads)
        ]
        for t in self.threads:
            t.start()

    def work(self, me: int, seed: float) -> None:
        rng = random.Random(seed)
        for step in range(self.steps):
            self.progress[me] = step
            try:
                self.step(me, rng, (me * self.steps + step) * 8)
            except (TimeoutError, ChanClosed, Cancelled):
                pass
            except ConnectionError:
                return

    def step(self, me: int, rng: random.Random, value: int) -> None:
        sends: dict[int, int] = {}  # which case sends which value
        cases: list[Case[Any]] = []
        for i in range(rng.choice([1, 2, 2, 3, 5])):
            ch = rng.choice([*self.chans, rng.choice(self.chans), None])
            if rng.random() < 0.5:
                sends[i] = value + i
                cases.append(send(ch, value + i))
            else:
                cases.append(recv(ch))
        how = rng.random()
        if how < 0.05 and me < self.workers:
            current().cancel()  # this one, at the next blocking point
        if how < 0.2:
            result = select(*cases, default=True)
        else:
            timeout = rng.choice([0, 0.00001, 0.0005, None, None])
            result = select(*cases, timeout=timeout, ctx=self.stop)
        if result.index in sends:
            self.sent[me].append(sends[result.index])
        elif result.ok:
            self.received[me].append(result.value)

    def disturb(self) -> None:
        """Cancel somebody, wait a little, or try something without waiting."""
        how = self.rng.random()
        if how < 0.3:
            self.rng.choice(self.gs).cancel()
        elif how < 0.6:
            gosched()
        else:
            runtime.sleep(0.0002)

    def run(self) -> None:
        before: list[int] = []
        closing = self.rng.random() < 0.5
        while before != self.progress:
            before = list(self.progress)
            for _ in range(20):
                self.disturb()
            if closing and sum(self.progress) > self.steps * len(self.progress) / 2:
                closing = False
                self.rng.choice(self.chans).close()
        self.stop.chan.close()
        for g in self.gs:
            try:
                g.join()
            except Cancelled:
                pass
        until(lambda: not any(t.is_alive() for t in self.threads))
        self.check()

    def check(self) -> None:
        left = Counter[int]()
        for ch in self.chans:
            while len(ch):
                left[ch.recv()] += 1
            # Nobody is left in its queues.
            if not ch.closed:
                assert ch.try_recv() == (None, False)
                assert all(ch.try_send(0) for _ in range(ch.capacity))
                assert not ch.try_send(0)
        sent = Counter(v for values in self.sent for v in values)
        received = Counter(v for values in self.received for v in values)
        assert sent == received + left
        assert sent.total() == len(sent)


@pytest.mark.parametrize("threads", [0, 3])
def test_every_value_sent_is_received_once(threads: int) -> None:
    for seed in SEEDS:
        Exchange(seed, workers=8, threads=threads, steps=100).run()


def run_all(bodies: list[Callable[[], Any]], threads: int = 0) -> None:
    """Each as a goroutine, but for the first few, as threads."""
    ts = [threading.Thread(target=body) for body in bodies[:threads]]
    for t in ts:
        t.start()
    for g in [go(body) for body in bodies[threads:]]:
        g.join()
    until(lambda: not any(t.is_alive() for t in ts))


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_selects_in_a_ring_go_round(n: int, threads: int) -> None:
    """Each sends to the next and receives from the one before, in whatever order: if one wake-up
    were lost they would stop."""
    rounds = 500
    chans: list[Chan[int]] = [Chan() for _ in range(n)]
    sums = [0] * n

    def turn(me: int) -> None:
        sent = got = 0
        while sent < rounds or got < rounds:
            out = chans[me] if sent < rounds else None
            source = chans[me - 1] if got < rounds else None
            index, value, ok = select(recv(source), send(out, sent))
            assert ok
            if index:
                sent += 1
            else:
                assert value == got
                got += 1
                sums[me] += value

    run_all([lambda me=me: turn(me) for me in range(n)], threads)  # type: ignore[misc]
    assert sums == [rounds * (rounds - 1) // 2] * n


@pytest.mark.parametrize("capacity", [0, 2])
def test_all_talk_to_all_by_the_same_select(capacity: int) -> None:
    """Everybody may both send and receive on each of two channels until it has done its share."""
    a, b = Chan[int](capacity), Chan[int](capacity)
    workers, share = 6, 120
    got: list[list[int]] = [[] for _ in range(workers)]

    def talk(me: int) -> None:
        sent = 0
        while sent < share or len(got[me]) < share:
            out = (a, b) if sent < share else (None, None)
            source = (a, b) if len(got[me]) < share else (None, None)
            value = me * share + sent
            cases = (*(send(ch, value) for ch in out), *(recv(ch) for ch in source))
            index, received, _ = select(*cases)
            if index < 2:
                sent += 1
            else:
                got[me].append(received)

    # The last one cannot meet itself on an unbuffered channel.
    if capacity == 0:
        stop: Chan[None] = Chan()
        helper = go(lambda: exchange_until(stop, a, b))
        run_all([lambda me=me: talk(me) for me in range(workers)])  # type: ignore[misc]
        stop.close()
        kept = helper.join()
        values = [v for vs in got for v in vs] + kept
    else:
        run_all([lambda me=me: talk(me) for me in range(workers)])  # type: ignore[misc]
        values = [v for vs in got for v in vs]
    assert sorted(values) == list(range(workers * share))


def exchange_until(stop: Chan[None], a: Chan[int], b: Chan[int]) -> list[int]:
    """Take values and put them back."""
    kept: list[int] = []
    while True:
        out = (send(a, kept[-1]), send(b, kept[-1])) if kept else (recv(None), recv(None))
        index, value, ok = select(*out, recv(a), recv(b), recv(stop))
        if index < 2:
            kept.pop()
        elif ok:
            kept.append(value)
        else:
            return kept


def attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ChanClosed, TimeoutError, ConnectionError, Cancelled) as e:
        return type(e)


@pytest.mark.parametrize("end", ["close", "timeout", "cancel", "context"])
def test_end_of_a_wait_races_with_a_value(end: str) -> None:
    """What the sender says is what the receiver says, however both were disturbed."""
    outcomes = Counter[bool]()
    for i in range(600):
        ch, aside = Chan[int](), Chan[int]()
        ctx = Context()
        limit = 0.00003 if end == "timeout" else None

        def sender(
            ch: Chan[int] = ch, aside: Chan[int] = aside, ctx: Context = ctx, limit: Any = limit
        ) -> Any:
            return select(send(ch, 1), recv(aside), timeout=limit, ctx=ctx)

        def receiver(
            ch: Chan[int] = ch, aside: Chan[int] = aside, ctx: Context = ctx, limit: Any = limit
        ) -> Any:
            return select(recv(aside), recv(ch), timeout=limit, ctx=ctx)

        gs: list[Goroutine[Any]] = [go(f) for f in ((sender, receiver), (receiver, sender))[i % 2]]
        if i % 3:
            gosched()
        if end == "close":
            ch.close()
        elif end == "cancel":
            gs[i % 2].cancel()
        elif end == "context":
            ctx.chan.close()
        # Whoever is left is let go.
        until(lambda gs=gs: any(g.done() for g in gs))
        for g in gs:
            g.cancel()
        results = [attempt(g.join) for g in gs]
        went, came = results if i % 2 == 0 else results[::-1]
        assert (went == (0, None, True)) is (came == (1, 1, True)), results
        outcomes[went == (0, None, True)] += 1
        assert not ch.closed or ch.recv_ok() == (None, False)
    assert outcomes.total() == 600
