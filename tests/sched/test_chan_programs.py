"""Small programs of goroutines and channels that show one property each."""

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from heapq import heappush, heapreplace
from itertools import count, islice
from math import factorial
from typing import Any, TypeAlias

import pytest

import runtime
from runtime import (
    Case,
    Chan,
    ChanClosed,
    Goroutine,
    Group,
    Receiver,
    Sender,
    WaitGroup,
    go,
    gosched,
    recv,
    select,
    send,
)
from waits import parked, until


@pytest.fixture(params=[1, 4], autouse=True)
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    before = runtime.gomaxprocs(request.param)
    yield request.param
    runtime.gomaxprocs(before)


# --- primes ---------------------------------------------------------------------------------------

PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79]


def test_sieve_of_filters_that_select_their_end() -> None:
    """Each filter stops when the channel stop is closed, wherever it waits."""
    stop: Chan[None] = Chan()

    def offer(out: Sender[int], value: int) -> bool:
        return select(send(out, value), recv(stop)).index == 0

    def numbers(out: Sender[int]) -> None:
        for n in count(2):
            if not offer(out, n):
                return

    def without_multiples(source: Receiver[int], out: Sender[int], prime: int) -> None:
        while True:
            index, n, _ = select(recv(source), recv(stop))
            if index == 1 or (n % prime and not offer(out, n)):
                return

    with Group() as grp:
        source: Chan[int] = Chan()
        grp.go(numbers, source.sender())
        primes = []
        while len(primes) < len(PRIMES):
            primes.append(source.recv())
            out: Chan[int] = Chan()
            grp.go(without_multiples, source.receiver(), out.sender(), primes[-1])
            source = out
        stop.close()
    assert primes == PRIMES


def test_sieve_that_merges_the_multiples_of_primes() -> None:
    """What is missing from the merged multiples of all primes so far is the next prime."""
    stop: Chan[None] = Chan()

    def put(ch: Chan[int], value: int) -> None:
        if select(send(ch, value), recv(stop)).index:
            raise ChanClosed

    def multiples(prime: int, out: Chan[int]) -> None:
        for n in count(prime * prime, prime):
            put(out, n)

    def sieve(found: Chan[int]) -> None:
        merged: list[tuple[int, int, Chan[int]]] = []
        for n in count(2):
            is_prime = True
            while merged and merged[0][0] == n:
                is_prime = False
                _, prime, ch = merged[0]
                index, following, _ = select(recv(ch), recv(stop))
                if index:
                    raise ChanClosed
                heapreplace(merged, (following, prime, ch))
            if is_prime:
                put(found, n)
                ch = Chan()
                gs.append(go(multiples, n, ch))
                heappush(merged, (n * n, n, ch))
                assert select(recv(ch), recv(stop)).value in (n * n, None)

    found: Chan[int] = Chan()
    gs: list[Goroutine[None]] = []
    gs.append(go(sieve, found))
    assert list(islice(found, len(PRIMES))) == PRIMES
    stop.close()
    for g in gs:
        with pytest.raises(ChanClosed):
            g.join()


# --- order ----------------------------------------------------------------------------------------


def test_buffered_channel_is_first_in_first_out() -> None:
    ch: Chan[int] = Chan(10)
    for i in range(10):
        ch.send(i)
    assert [ch.recv() for _ in range(10)] == list(range(10))


def test_goroutines_that_take_turns_keep_their_order() -> None:
    """Each waits for the one before it, receives, and lets the next one go."""
    ch: Chan[int] = Chan()
    got: list[int] = []

    def take(before: Chan[None], after: Chan[None]) -> None:
        before.recv()
        got.append(ch.recv())
        after.send(None)

    first = last = Chan[None](1)
    for _ in range(100):
        after: Chan[None] = Chan(1)
        go(take, last, after)
        last = after
    first.send(None)
    for i in range(100):
        ch.send(i)
    last.recv()
    assert got == list(range(100))


def test_chain_of_goroutines_hands_a_value_on() -> None:
    rightmost: Chan[int] = Chan()
    left = rightmost
    for _ in range(1000):
        right: Chan[int] = Chan()
        go(lambda a, b: a.send(b.recv() + 1), left, right)
        left = right
    left.send(0)
    assert rightmost.recv() == 1000


# --- select ---------------------------------------------------------------------------------------


def test_case_is_switched_off_by_none() -> None:
    """Values go alternately to two channels: the other case has no channel."""
    a, b = Chan[int](), Chan[int]()

    def shift() -> None:
        for i in range(200):
            assert select(send(None if i % 2 else a, i), send(b if i % 2 else None, i)).ok

    g = go(shift)
    for i in range(0, 200, 2):
        assert a.recv() == i
        assert b.recv() == i + 1
    g.join()


def test_each_value_is_sent_by_one_case_only() -> None:
    """A sender to any of several channels, whose receivers put all together again."""
    chans: list[Chan[int]] = [Chan(), Chan(2), Chan(), Chan(2)]
    merged: Chan[int] = Chan()
    n = 2000

    def send_all() -> None:
        for i in range(n):
            select(*(send(ch, i) for ch in chans))
        for ch in chans:
            ch.close()

    go(send_all)
    with Group() as grp:
        for ch in chans:
            grp.go(lambda ch: [merged.send(v) for v in ch], ch)
        seen = Counter(islice(merged, n))
    assert seen == Counter(range(n))
    assert merged.try_recv() == (None, False)


def blocks(call: Callable[[], Any]) -> bool:
    g = go(call)
    until(lambda: g.state in ("waiting", "dead"))
    if g.state == "waiting":
        g.cancel(TimeoutError)
    try:
        g.join()
    except TimeoutError:
        return True
    except ChanClosed:
        pass
    return False


@pytest.mark.parametrize(
    ("capacity", "values", "closed", "send_blocks", "recv_blocks"),
    [
        (0, 0, False, True, True),
        (10, 0, False, False, True),
        (10, 1, False, False, False),
        (10, 10, False, True, False),
        (0, 0, True, False, False),
        (10, 10, True, False, False),
    ],
)
def test_what_blocks_alone_blocks_in_select(
    capacity: int, values: int, closed: bool, send_blocks: bool, recv_blocks: bool
) -> None:
    never: Chan[int] = Chan()
    gone: Chan[int] = Chan()
    gone.close()

    def made() -> Chan[int]:
        ch: Chan[int] = Chan(capacity)
        for i in range(values):
            ch.send(i)
        if closed:
            ch.close()
        return ch

    def a_send() -> Case[Any]:
        return send(made(), 1)

    def a_recv() -> Case[Any]:
        return recv(made())

    assert blocks(lambda: made().send(1)) is send_blocks
    assert blocks(lambda: made().recv()) is recv_blocks
    for case, expected in ((a_send, send_blocks), (a_recv, recv_blocks)):
        assert blocks(lambda case=case: select(case())) is expected
        assert blocks(lambda case=case: select(case(), recv(never))) is expected
        assert blocks(lambda case=case: select(send(None, 1), case(), case())) is expected
        assert not blocks(lambda case=case: select(case(), default=True))
        assert not blocks(lambda case=case: select(case(), recv(gone)))


def test_failed_cases_leave_the_queue_in_order() -> None:
    """Selects that wait at the end of a queue, and give up, leave it to those before them."""
    c1, c2 = Chan[bool](), Chan[bool]()

    def twice() -> None:
        for _ in range(2):
            select(recv(c1), recv(c2))

    plain = go(c1.recv)
    gs: list[Goroutine[Any]] = [parked(plain), parked(go(twice)), parked(go(c2.recv))]
    c2.send(True)
    c2.send(True)
    until(lambda: not any(g.state == "runnable" for g in gs))
    c1.send(True)
    for ch in (c1, c2):
        while ch.try_send(True):
            pass
    assert plain.join() is True
    for ch in (c1, c2, c1, c2):
        ch.try_send(True)
    for ch in (c1, c2):
        ch.close()
    for g in gs[1:]:
        try:
            g.join()
        except ChanClosed:
            pass


@pytest.mark.parametrize("sender", ["plain", "select", "default"])
@pytest.mark.parametrize("receiver", ["plain", "select", "default"])
def test_every_way_to_send_meets_every_way_to_receive(sender: str, receiver: str) -> None:
    a, b = Chan[int](), Chan[int]()
    senders: dict[str, Callable[[], bool]] = {
        "plain": lambda: a.send(5) is None,
        "select": lambda: select(send(b, 1), send(a, 5)).index == 1,
        "default": lambda: select(send(a, 5), default=True).index == 0,
    }
    receivers: dict[str, Callable[[], bool]] = {
        "plain": lambda: a.recv() == 5,
        "select": lambda: select(recv(b), recv(a)).value == 5,
        "default": lambda: select(recv(a), default=True).value == 5,
    }

    def again_and_again(call: Callable[[], bool]) -> None:
        while not call():
            gosched()

    if sender == receiver == "default":
        return  # neither waits for the other
    for _ in range(20):
        g = go(again_and_again, receivers[receiver])
        again_and_again(senders[sender])
        g.join()


def test_arguments_are_evaluated_once_and_in_order() -> None:
    order: list[str] = []

    def note(name: str, value: Any) -> Any:
        order.append(name)
        return value

    a, b = Chan[int](1), Chan[int]()
    select(recv(note("b", b)), send(note("a", a), note("value", 1)), recv(note("none", None)))
    assert order == ["b", "a", "value", "none"]


def test_values_of_no_size_pass_like_others() -> None:
    for value in ((), None, ""):
        ch: Chan[Any] = Chan(2)
        ch.send(value)
        ch.send(value)
        assert select(send(ch, value), default=True).index == -1
        assert (ch.recv(), ch.recv_ok(), len(ch)) == (value, (value, True), 0)


def test_neither_of_two_that_only_try_wins_alone() -> None:
    """Whoever finds something says so: of a value that is there one of two gets hold."""
    for i in range(300):
        ch: Chan[int] = Chan(1)
        ch.send(i)
        gs = [go(select, recv(ch), default=True), go(ch.try_recv)]
        assert sorted(bool(g.join()[-1]) for g in gs) == [False, True]


def test_one_channel_of_a_pair_is_always_ready() -> None:
    """A try must not miss what is there before it begins, whatever is done to the other case."""
    for _ in range(300):
        a, b = Chan[int](1), Chan[int](1)
        done: Chan[bool] = Chan(1)
        a.send(1)

        def look(a: Chan[int] = a, b: Chan[int] = b, done: Chan[bool] = done) -> None:
            done.send(select(recv(a), recv(b), default=True).index >= 0)

        go(look)
        b.send(1)
        select(recv(a), default=True)
        assert done.recv()


def test_select_with_itself_and_others_moves_every_value() -> None:
    """Goroutines that all send and receive on one channel, by the same select."""
    n = 500
    for capacity in (0, 10):
        ch: Chan[int] = Chan(capacity)
        wg = WaitGroup()
        wg.add(2)

        def talk(me: int, ch: Chan[int] = ch, wg: WaitGroup = wg) -> None:
            i = 0
            while i < n:
                index, value, _ = select(recv(ch), send(ch, me * n + i))
                if index == 1:
                    i += 1
                elif ch.capacity == 0:
                    assert value // n != me  # nobody receives its own
            wg.done()

        gs = [go(talk, me) for me in range(2)]
        # When the first is done nobody may be left for the last value of the other.
        go(lambda ch=ch, wg=wg: [wg.wait(), ch.close()])
        for _ in ch:
            pass
        for g in gs:
            g.join()


@pytest.mark.parametrize("capacity", [0, 1, 10])
def test_several_consumers_share_the_work(capacity: int) -> None:
    jobs, results = Chan[int](capacity), Chan[int](capacity)
    n, workers = 500, 8

    def work(jobs: Receiver[int], results: Sender[int]) -> int:
        done = 0
        for job in jobs:
            results.send(job * 2)
            done += 1
        return done

    gs = [go(work, jobs.receiver(), results.sender()) for _ in range(workers)]

    def feed() -> None:
        for i in range(n):
            jobs.send(i)
        jobs.close()

    go(feed)
    assert sorted(islice(results, n)) == [2 * i for i in range(n)]
    assert sum(g.join() for g in gs) == n


# --- power series ---------------------------------------------------------------------------------


Stream: TypeAlias = Chan[Fraction]


class Series:
    """Power series as streams of coefficients, each made by a goroutine when it is asked for."""

    def __init__(self) -> None:
        self.stop: Chan[None] = Chan()
        self.gs: list[Goroutine[None]] = []

    def put(self, out: Stream, value: Fraction) -> None:
        if select(send(out, value), recv(self.stop)).index:
            raise ChanClosed

    def get(self, source: Stream) -> Fraction:
        index, value, _ = select(recv(source), recv(self.stop))
        if index:
            raise ChanClosed
        return value  # type: ignore[no-any-return]

    def stream(self, body: Callable[[Stream], None]) -> Stream:
        out: Stream = Chan()

        def run() -> None:
            try:
                body(out)
            except ChanClosed:
                pass

        self.gs.append(go(run))
        return out

    def each(self, f: Callable[[int], Fraction]) -> Stream:
        return self.stream(lambda out: [self.put(out, f(n)) for n in count()] and None)

    def split(self, source: Stream) -> tuple[Stream, Stream]:
        """Two copies; each may be read at its own pace."""
        outs: tuple[Stream, Stream] = (Chan(), Chan())

        def body(_: Stream) -> None:
            queues: tuple[list[Fraction], list[Fraction]] = ([], [])
            while True:
                if not any(queues):
                    value = self.get(source)
                    for q in queues:
                        q.append(value)
                ready = [
                    send(out, q[0]) if q else recv(None)
                    for out, q in zip(outs, queues, strict=True)
                ]
                # More is read as soon as one has got all there is.
                wants = recv(source) if not all(queues) else recv(None)
                index, value, _ = select(*ready, wants, recv(self.stop))
                if index < 2:
                    queues[index].pop(0)
                elif index == 2:
                    for q in queues:
                        q.append(value)
                else:
                    return

        self.stream(body)
        return outs

    def add(self, f: Stream, g: Stream) -> Stream:
        return self.stream(
            lambda out: [self.put(out, self.get(f) + self.get(g)) for _ in count()] and None
        )

    def integral(self, f: Stream, constant: Fraction) -> Stream:
        def body(out: Stream) -> None:
            self.put(out, constant)
            for n in count(1):
                self.put(out, self.get(f) / n)

        return self.stream(body)

    def product(self, f: Stream, g: Stream) -> Stream:
        def body(out: Stream) -> None:
            fs: list[Fraction] = []
            gs: list[Fraction] = []
            while True:
                fs.append(self.get(f))
                gs.append(self.get(g))
                self.put(out, sum(map(operator.mul, fs, reversed(gs)), Fraction(0)))

        return self.stream(body)

    def exp(self, f: Stream) -> Stream:
        """exp(f), where f has no constant term: the integral of its own product with f'."""
        feedback: Stream = Chan()

        def derivative(out: Stream) -> None:
            self.get(f)
            for n in count(1):
                self.put(out, self.get(f) * n)

        whole = self.integral(self.product(self.stream(derivative), feedback), Fraction(1))
        mine, again = self.split(whole)

        def feed(_: Stream) -> None:
            while True:
                self.put(feedback, self.get(again))

        self.stream(feed)
        return mine

    def end(self) -> None:
        self.stop.close()
        for g in self.gs:
            g.join()


def test_power_series() -> None:
    s = Series()
    zero, one = Fraction(0), Fraction(1)
    geometric = s.each(lambda n: one)
    assert list(islice(s.product(geometric, s.each(lambda n: one)), 10)) == list(range(1, 11))
    ints, same = s.split(s.each(Fraction))
    assert list(islice(s.add(ints, same), 10)) == [2 * n for n in range(10)]
    x = s.each(lambda n: one if n == 1 else zero)
    assert list(islice(s.exp(x), 12)) == [Fraction(1, factorial(n)) for n in range(12)]
    # Bell numbers: exp(exp(x) - 1).
    y = s.exp(s.each(lambda n: one if n == 1 else zero))
    minus_one = s.each(lambda n: zero if n else -one)
    bell = list(islice(s.exp(s.add(y, minus_one)), 8))
    assert [b * factorial(n) for n, b in enumerate(bell)] == [1, 1, 2, 5, 15, 52, 203, 877]
    s.end()
