"""Channels: order, buffering, closing, timeouts that lose nothing."""

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from runtime import Chan, ChanClosed, go, gosched, num_goroutine, sleep
from waits import parked, settle

# --- sending and receiving ------------------------------------------------------------------------


def test_unbuffered_send_waits_for_its_receiver() -> None:
    ch: Chan[int] = Chan()
    log: list[str] = []

    def sender() -> None:
        log.append("sending")
        ch.send(1)
        log.append("sent")

    g = parked(go(sender))
    assert log == ["sending"]
    assert ch.recv() == 1
    g.join()
    assert log == ["sending", "sent"]


def test_buffered_send_waits_only_when_full() -> None:
    ch: Chan[int] = Chan(3)
    for i in range(3):
        ch.send(i)
    assert len(ch) == 3
    g = parked(go(ch.send, 3))
    assert [ch.recv() for _ in range(4)] == [0, 1, 2, 3]
    g.join()
    assert len(ch) == 0


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 16, 1000])
def test_values_arrive_in_order(capacity: int) -> None:
    ch: Chan[int] = Chan(capacity)

    def producer() -> None:
        for i in range(1000):
            ch.send(i)
        ch.close()

    g = go(producer)
    assert list(ch) == list(range(1000))
    g.join()


@pytest.mark.usefixtures("one_p")
@pytest.mark.parametrize("capacity", [0, 1, 4])
def test_waiting_senders_are_served_in_order(capacity: int) -> None:
    ch: Chan[int] = Chan(capacity)
    gs = []
    for i in range(20):
        gs.append(go(ch.send, i))
        settle()
    assert [ch.recv() for _ in range(20)] == list(range(20))
    for g in gs:
        g.join()


@pytest.mark.usefixtures("one_p")
def test_waiting_receivers_are_served_in_order() -> None:
    ch: Chan[int] = Chan()
    gs = []
    for _ in range(20):
        gs.append(go(ch.recv))
        settle()
    for i in range(20):
        ch.send(i)
    assert [g.join() for g in gs] == list(range(20))


def test_any_object_can_be_sent() -> None:
    ch: Chan[Any] = Chan(10)
    values = [None, ch, ValueError("not raised"), (), lambda: 1]
    for v in values:
        ch.send(v)
    received = [ch.recv() for _ in values]
    assert all(a is b for a, b in zip(values, received, strict=True))


@pytest.mark.parametrize("capacity", [0, 1, 5])
def test_several_producers_and_consumers_exchange_an_exact_multiset(capacity: int) -> None:
    ch: Chan[tuple[int, int]] = Chan(capacity)
    consumers = [go(Counter, ch) for _ in range(7)]
    producers = [go(lambda who: [ch.send((who, i)) for i in range(100)], who) for who in range(9)]
    for p in producers:
        p.join()
    ch.close()
    total: Counter[tuple[int, int]] = sum((c.join() for c in consumers), Counter())
    assert total == Counter((who, i) for who in range(9) for i in range(100))


def test_each_producers_values_keep_their_order() -> None:
    ch: Chan[tuple[int, int]] = Chan(2)

    def produce(who: int) -> None:
        for i in range(100):
            ch.send((who, i))

    producers = [go(produce, who) for who in range(5)]
    received = [ch.recv() for _ in range(500)]
    for who in range(5):
        assert [i for w, i in received if w == who] == list(range(100))
    for p in producers:
        p.join()


def test_sieve_of_eratosthenes() -> None:
    def generate(ch: Chan[int]) -> None:
        i = 2
        while True:
            ch.send(i)
            i += 1

    def sieve(source: Chan[int], sink: Chan[int], prime: int) -> None:
        for i in source:
            if i % prime:
                sink.send(i)
        sink.close()

    def generate_until_closed(ch: Chan[int]) -> None:
        try:
            generate(ch)
        except ChanClosed:
            return

    first: Chan[int] = Chan()
    ch = first
    base = num_goroutine()
    go(generate_until_closed, ch)
    primes = []
    for _ in range(60):
        prime = ch.recv()
        primes.append(prime)
        following: Chan[int] = Chan()
        go(sieve, ch, following, prime)
        ch = following
    assert primes[:10] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert primes[-1] == 281
    first.close()
    for _ in ch:  # drain, so that the filters end
        pass
    while num_goroutine() > base:
        gosched()


def test_chain_of_many_channels_passes_a_value() -> None:
    leftmost: Chan[int] = Chan()
    left = leftmost

    def add_one(left: Chan[int], right: Chan[int]) -> None:
        left.send(right.recv() + 1)

    for _ in range(10_000):
        right: Chan[int] = Chan()
        go(add_one, left, right)
        left = right
    go(left.send, 0)
    assert leftmost.recv() == 10_000


# --- closing --------------------------------------------------------------------------------------


def test_close_then_recv_drains_then_raises() -> None:
    ch: Chan[int] = Chan(3)
    ch.send(1)
    ch.send(2)
    ch.close()
    assert ch.closed
    assert ch.recv() == 1
    assert ch.recv_ok() == (2, True)
    assert ch.recv_ok() == (None, False)
    with pytest.raises(ChanClosed, match="drained"):
        ch.recv()
    with pytest.raises(ChanClosed):
        ch.try_recv()
    assert list(ch) == []


def test_close_send_raises_and_keeps_what_was_sent() -> None:
    ch: Chan[int] = Chan(3)
    ch.send(1)
    ch.close()
    with pytest.raises(ChanClosed, match="send on a closed"):
        ch.send(2)
    with pytest.raises(ChanClosed):
        ch.try_send(2)
    assert list(ch) == [1]


def test_close_twice_raises() -> None:
    ch: Chan[int] = Chan()
    ch.close()
    with pytest.raises(ChanClosed, match="close of a closed"):
        ch.close()


def test_close_wakes_all_receivers() -> None:
    ch: Chan[int] = Chan()
    oks = [go(ch.recv_ok) for _ in range(10)]
    raising = [go(ch.recv) for _ in range(10)]
    iterating = [go(list, ch) for _ in range(10)]
    timed = [go(ch.recv_ok, 1000) for _ in range(10)]
    settle()
    ch.close()
    assert [g.join() for g in oks + timed] == [(None, False)] * 20
    assert [g.join() for g in iterating] == [[]] * 10
    for g in raising:
        with pytest.raises(ChanClosed):
            g.join()


@pytest.mark.usefixtures("one_p")
def test_close_wakes_all_senders_and_their_values_are_not_sent() -> None:
    ch: Chan[int] = Chan(1)
    ch.send(0)
    senders = [go(ch.send, i) for i in range(1, 10)]
    settle()
    ch.close()
    for g in senders:
        with pytest.raises(ChanClosed, match="meanwhile"):
            g.join()
    assert list(ch) == [0]


@pytest.mark.usefixtures("one_p")
def test_close_by_the_receiver_of_a_value() -> None:
    ch: Chan[int] = Chan()
    a = go(ch.send, 1)
    b = go(ch.send, 2)
    first = ch.recv()
    ch.close()
    outcomes = [g.exception() if settle() is None and g.done() else "?" for g in (a, b)]
    assert sorted(type(o).__name__ for o in outcomes) == ["ChanClosed", "NoneType"]
    assert first in (1, 2)


def test_iteration_ends_with_the_channel() -> None:
    ch: Chan[int] = Chan()

    def producer() -> None:
        for i in range(5):
            ch.send(i)
        ch.close()

    go(producer)
    out = []
    for value in ch:
        out.append(value)
    assert out == [0, 1, 2, 3, 4]
    assert iter(ch) is ch
    with pytest.raises(StopIteration):
        next(ch)


def test_iteration_by_several_shares_the_values() -> None:
    ch: Chan[int] = Chan()
    gs = [go(list, ch) for _ in range(5)]
    for i in range(100):
        ch.send(i)
    ch.close()
    assert sorted(v for g in gs for v in g.join()) == list(range(100))


# --- not waiting ----------------------------------------------------------------------------------


def test_try_send_and_try_recv_never_wait() -> None:
    ch: Chan[int] = Chan(1)
    assert ch.try_recv() == (None, False)
    assert ch.try_send(1) is True
    assert ch.try_send(2) is False
    assert ch.try_recv() == (1, True)
    assert ch.try_recv() == (None, False)


@pytest.mark.usefixtures("one_p")
def test_try_send_hands_over_to_a_waiting_receiver() -> None:
    ch: Chan[int] = Chan()
    assert not ch.try_send(0)
    g = go(ch.recv)
    settle()
    assert ch.try_send(1)
    assert not ch.try_send(2)
    assert g.join() == 1


def test_try_recv_takes_from_a_waiting_sender() -> None:
    ch: Chan[int] = Chan()
    g = parked(go(ch.send, 1))
    assert ch.try_recv() == (1, True)
    assert ch.try_recv() == (None, False)
    g.join()


def test_try_recv_tells_none_from_nothing() -> None:
    ch: Chan[None] = Chan(1)
    ch.send(None)
    assert ch.try_recv() == (None, True)
    assert ch.try_recv() == (None, False)


# --- timeouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, -1, 0.0, 0.0001, 1e-12])
def test_timeout_passes_and_nothing_is_taken_or_sent(timeout: float) -> None:
    ch: Chan[int] = Chan()
    waits: list[Callable[[], Any]] = [
        lambda: ch.recv(timeout),
        lambda: ch.recv(timeout=timeout),
        lambda: ch.recv_ok(timeout=timeout),
        lambda: ch.send(1, timeout),
        lambda: ch.send(1, timeout=timeout),
    ]
    for wait in waits:
        with pytest.raises(TimeoutError, match=r"Chan\.(send|recv)\(\)"):
            wait()
    assert ch.try_recv() == (None, False)
    assert not ch.try_send(1)


def test_timeout_zero_takes_what_is_there() -> None:
    ch: Chan[int] = Chan(1)
    ch.send(1, timeout=0)
    assert ch.recv(timeout=0) == 1


def test_timeout_that_does_not_pass() -> None:
    ch: Chan[int] = Chan()
    go(ch.send, 1)
    assert ch.recv(timeout=1000) == 1
    g = go(ch.recv)
    ch.send(2, timeout=float("inf"))
    assert g.join() == 2


@pytest.mark.usefixtures("one_p")
def test_timeout_of_one_waiter_leaves_the_others_in_order() -> None:
    ch: Chan[int] = Chan()
    gs = []
    for i in range(9):
        gs.append(go(ch.recv, 0.001 if i % 3 == 1 else None))
        settle()
    for i in (1, 4, 7):
        with pytest.raises(TimeoutError):
            gs[i].join()
    for i in range(6):
        ch.send(i)
    assert [gs[i].join() for i in (0, 2, 3, 5, 6, 8)] == list(range(6))


def test_timeouts_racing_with_values_lose_nothing() -> None:
    ch: Chan[int] = Chan()
    received: list[int] = []
    sent: list[int] = []

    def receiver() -> None:
        while True:
            try:
                received.append(ch.recv(timeout=0.00001))
            except TimeoutError:
                continue
            except ChanClosed:
                return

    def sender(values: range) -> None:
        for v in values:
            try:
                ch.send(v, timeout=0.00001)
            except TimeoutError:
                continue
            sent.append(v)

    receivers = [go(receiver) for _ in range(4)]
    senders = [go(sender, range(i, 1000, 4)) for i in range(4)]
    for g in senders:
        g.join()
    ch.close()
    for g in receivers:
        g.join()
    assert sorted(received) == sorted(sent)


@pytest.mark.parametrize("bad", ["1", [], b""])
def test_timeout_of_wrong_type_raises_and_nothing_is_sent(bad: Any) -> None:
    ch: Chan[int] = Chan()
    with pytest.raises(TypeError):
        ch.send(1, bad)
    with pytest.raises(TypeError):
        ch.recv(timeout=bad)
    with pytest.raises(ValueError, match="NaN"):
        ch.recv(timeout=float("nan"))
    assert not ch.try_send(1)


def test_wrong_arguments_raise_type_error() -> None:
    ch: Any = Chan(5)
    for call in (
        ch.send,
        lambda: ch.send(1, 2, 3),
        lambda: ch.send(1, wait=3),
        lambda: ch.send(value=1),
        lambda: ch.recv(1, 2),
        lambda: ch.recv(time=1),
        lambda: ch.recv_ok(1, timeout=1),
        ch.try_send,
        lambda: ch.try_recv(1),
        lambda: ch.close(1),
        lambda: Chan("1"),  # type: ignore[arg-type]
        lambda: Chan(1, 2),  # type: ignore[call-arg]
        lambda: Chan(size=1),  # type: ignore[call-arg]
        lambda: Chan(1.5),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()
    assert len(ch) == 0


# --- the object -----------------------------------------------------------------------------------


def test_capacity_and_len_and_bool_and_repr() -> None:
    ch: Chan[int] = Chan(3)
    assert (ch.capacity, len(ch), bool(ch), ch.closed) == (3, 0, True, False)
    ch.send(1)
    assert (ch.capacity, len(ch)) == (3, 1)
    assert repr(ch).startswith("<Chan 1/3 at 0x")
    ch.close()
    assert repr(ch).startswith("<Chan 1/3 closed at 0x")
    assert Chan().capacity == 0
    assert Chan(capacity=7).capacity == 7
    assert bool(Chan())


def test_capacity_bad_raises() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        Chan(-1)
    with pytest.raises((OverflowError, MemoryError)):
        Chan(2**62)
    with pytest.raises(OverflowError):
        Chan(2**64)


def test_subscription_is_for_type_checkers() -> None:
    alias = Chan[int]
    assert alias.__origin__ is Chan
    ch = alias(2)
    assert type(ch) is Chan
    assert ch.capacity == 2


def test_attributes_are_read_only() -> None:
    ch: Any = Chan()
    for name in ("capacity", "closed", "other"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(ch, name, 1)


def test_weak_reference_dies_with_the_channel() -> None:
    ch: Chan[int] = Chan(1)
    ref = weakref.ref(ch)
    assert ref() is ch
    del ch
    assert ref() is None


def test_buffered_values_are_released_with_the_channel() -> None:
    class Value:
        pass

    ch: Chan[Value] = Chan(5)
    values = [Value() for _ in range(5)]
    refs = [weakref.ref(v) for v in values]
    for v in values:
        ch.send(v)
    ch.recv()
    ch.send(Value())
    del values, v, ch
    assert [r() for r in refs] == [None] * 5


def test_channel_in_its_own_buffer_is_collected() -> None:
    ch: Chan[Any] = Chan(2)
    ref = weakref.ref(ch)
    ch.send(ch)
    ch.send([ch])
    del ch
    gc.collect()
    assert ref() is None


def test_result_that_waited_through_a_collection_can_be_collected() -> None:
    class Value:
        pass

    ch: Chan[Any] = Chan()
    g = parked(go(ch.recv_ok))
    gc.collect()
    value: Any = Value()
    ref = weakref.ref(value)
    ch.send(value)
    value.result = g.join()
    del value, g
    gc.collect()
    assert ref() is None


def test_channels_nested_very_deep_are_released() -> None:
    ch: Chan[Any] = Chan(1)
    for _ in range(200_000):
        outer: Chan[Any] = Chan(1)
        outer.send(ch)
        ch = outer
    del ch, outer


def test_timed_out_send_releases_its_value() -> None:
    class Value:
        pass

    ch: Chan[Value] = Chan()
    value = Value()
    ref = weakref.ref(value)
    with pytest.raises(TimeoutError):
        ch.send(value, timeout=0)
    del value
    assert ref() is None


def test_value_finalizer_may_use_the_channel() -> None:
    ch: Chan[Any] = Chan(10)

    class Value:
        def __del__(self) -> None:
            ch.send("finalized")

    inner: Chan[Any] = Chan(3)
    for _ in range(3):
        inner.send(Value())
    del inner
    assert [ch.recv() for _ in range(3)] == ["finalized"] * 3


def test_sleeping_receiver_is_not_disturbed() -> None:
    ch: Chan[int] = Chan()

    def body() -> int:
        sleep(0.001)
        return ch.recv()

    g = go(body)
    ch.send(5)
    assert g.join() == 5
