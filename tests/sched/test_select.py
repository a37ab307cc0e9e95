"""select: which case it takes, when it waits, what ends that, and that nothing is lost by it."""

import copy
import gc
import pickle
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

import runtime
from programs import run
from runtime import (
    Cancelled,
    Case,
    Chan,
    ChanClosed,
    Goroutine,
    Selected,
    go,
    gosched,
    recv,
    select,
    send,
    sleep,
)
from waits import parked, until


def full(value: Any = None) -> Chan[Any]:
    ch: Chan[Any] = Chan(1)
    ch.send(value)
    return ch


def closed() -> Chan[Any]:
    ch: Chan[Any] = Chan()
    ch.close()
    return ch


class Done:
    """A context, as far as blocking calls see it."""

    def __init__(self) -> None:
        self.chan: Chan[Any] = Chan()

    def done(self) -> Any:
        return self.chan.receiver()

    def err(self) -> Exception:
        return KeyError("ended")


# --- one case is ready ----------------------------------------------------------------------------


def test_recv_ready_returns_index_value_and_ok() -> None:
    result = select(recv(Chan()), recv(full("x")))
    assert result == (1, "x", True)
    assert (result.index, result.value, result.ok) == (1, "x", True)
    assert type(result) is Selected
    assert repr(result) == "Selected(index=1, value='x', ok=True)"


def test_result_is_a_tuple_of_three() -> None:
    result = select(recv(full("x")))
    assert hash(result) == hash((0, "x", True))
    assert pickle.loads(pickle.dumps(result)) == copy.deepcopy(result) == result
    assert type(copy.copy(result)) is Selected
    assert Selected([1, 2, 3]).value == 2
    for wrong in ((), (1, 2), range(4)):
        with pytest.raises(ValueError, match="three items make one"):
            Selected(wrong)
    # One that holds itself goes away, too.
    box: list[Any] = []
    box.append(select(recv(full(box))))
    ref = weakref.ref(t := Thing())
    box.append(t)
    del box, t
    gc.collect()
    assert ref() is None


def test_result_matches_patterns() -> None:
    def kind(result: Selected) -> str:
        match result:
            case (0, value, True):
                return f"got {value}"
            case (0, None, False):
                return "closed"
            case (1, _, _):
                return "sent"
            case Selected(-1):
                return "nothing"
        return "?"

    a, b = full(7), Chan[int]()
    assert kind(select(recv(a), send(b, 1))) == "got 7"
    g = go(b.recv)
    assert kind(select(recv(a), send(b, 1))) == "sent"
    assert g.join() == 1
    assert kind(select(recv(a), send(b, 1), default=True)) == "nothing"
    a.close()
    assert kind(select(recv(a), send(b, 1))) == "closed"


def test_send_ready_sends_the_value() -> None:
    ch: Chan[str] = Chan(1)
    assert select(recv(Chan()), send(ch, "x")) == (1, None, True)
    assert ch.recv() == "x"


@pytest.mark.usefixtures("one_p")
def test_send_ready_hands_over_to_a_waiting_receiver() -> None:
    ch: Chan[int] = Chan()
    g = parked(go(ch.recv))
    assert select(send(ch, 5)) == (0, None, True)
    assert g.join() == 5


def test_recv_ready_takes_from_waiting_senders_in_order() -> None:
    ch: Chan[int] = Chan(1)
    ch.send(0)
    gs = [parked(go(ch.send, i)) for i in range(1, 5)]
    assert [select(recv(ch)).value for _ in range(5)] == list(range(5))
    for g in gs:
        g.join()


def test_recv_closed_and_drained_is_ready() -> None:
    ch = full(1)
    ch.close()
    assert select(recv(ch)) == (0, 1, True)
    assert select(recv(ch)) == (0, None, False)
    assert select(recv(ch), default=True) == (0, None, False)


def test_send_closed_raises_when_chosen() -> None:
    with pytest.raises(ChanClosed, match=r"send on a closed channel \(case 1\)"):
        select(recv(Chan()), send(closed(), 1))
    with pytest.raises(ChanClosed):
        select(send(closed(), 1), default=True)


def test_default_nothing_ready_returns_minus_one() -> None:
    assert select(recv(Chan()), send(full(), 1), default=True) == (-1, None, False)
    assert select(default=True) == (-1, None, False)
    assert select(recv(full(1)), default=True) == (0, 1, True)


def test_none_is_never_ready() -> None:
    assert select(recv(None), send(None, 1), default=True) == (-1, None, False)
    assert select(recv(None), send(None, 1), recv(full(3))) == (2, 3, True)
    with pytest.raises(TimeoutError):
        select(recv(None), send(None, 1), timeout=0)
    ch: Chan[int] = Chan()
    g = parked(go(select, send(None, 1), recv(None), recv(ch)))
    ch.send(4)
    assert g.join() == (2, 4, True)


def test_cases_may_be_used_again_and_shared() -> None:
    ch: Chan[int] = Chan(10)
    put, take = send(ch, 1), recv(ch)
    for _ in range(5):
        assert select(put).ok
    gs = [go(select, take, take) for _ in range(5)]
    assert [g.join().value for g in gs] == [1] * 5


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 1000])
def test_any_number_of_cases(n: int) -> None:
    chans: list[Chan[int]] = [Chan() for _ in range(n)]
    for i in {0, n // 2, n - 1}:
        g = go(select, *map(recv, chans))
        if i % 2:
            parked(g)
        chans[i].send(i)
        assert g.join() == (i, i, True)
        assert select(*map(recv, chans), default=True).index == -1


def test_any_value_can_be_received() -> None:
    for value in (None, False, -1, (), Selected((1, 2, 3))):
        assert select(recv(full(value))).value is value


# --- which one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4, 10])
def test_several_ready_are_chosen_alike(n: int) -> None:
    chans: list[Chan[int]] = [Chan(1) for _ in range(n)]
    counts: Counter[int] = Counter()
    rounds = 2000 * n
    cases = [recv(ch) if i % 2 else send(ch, 1) for i, ch in enumerate(chans)]
    for ch in chans[1::2]:
        ch.send(0)
    for _ in range(rounds):
        i = select(*cases).index
        counts[i] += 1
        if i % 2:
            chans[i].send(0)
        else:
            chans[i].recv()
    # Each is binomial with mean 2000 and standard deviation below 45.
    assert all(abs(counts[i] - rounds / n) < 6 * 45 for i in range(n)), counts


def test_two_of_many_ready_are_chosen_alike_wherever_they_are() -> None:
    never: Chan[int] = Chan()
    ready = closed()
    counts: Counter[int] = Counter()
    for _ in range(4000):
        counts[select(recv(ready), recv(ready), *[recv(never)] * 7).index] += 1
    assert abs(counts[0] - 2000) < 6 * 32


def test_choices_on_other_threads_differ() -> None:
    ready = closed()
    counts: Counter[int] = Counter()

    def choose() -> None:
        counts.update(select(*[recv(ready)] * 4).index for _ in range(400))

    thread = threading.Thread(target=choose)
    thread.start()
    thread.join()
    assert all(counts[i] > 40 for i in range(4))


@pytest.mark.usefixtures("one_p")
def test_waiting_select_is_served_in_its_turn() -> None:
    ch: Chan[int] = Chan()
    other: Chan[int] = Chan()
    gs: list[Goroutine[Any]] = []
    for i in range(10):
        gs.append(parked(go(select, recv(other), recv(ch)) if i % 2 else go(ch.recv)))
    for i in range(10):
        ch.send(i)
    assert [g.join() for g in gs] == [(1, i, True) if i % 2 else i for i in range(10)]


# --- waiting --------------------------------------------------------------------------------------


def test_waiting_for_several_receives_what_comes_first() -> None:
    a, b = Chan[int](), Chan[int]()
    g = parked(go(select, recv(a), recv(b)))
    assert g.wait_reason == "select"
    b.send(2)
    assert g.join() == (1, 2, True)
    # It is in no queue any more.
    assert not a.try_send(1)
    assert not b.try_send(1)


def test_waiting_to_send_to_several_sends_once() -> None:
    a, b = Chan[int](), Chan[int]()
    g = parked(go(select, send(a, 1), send(b, 2)))
    assert b.recv() == 2
    assert g.join() == (1, None, True)
    assert a.try_recv() == (None, False)
    assert b.try_recv() == (None, False)


def test_waiting_to_send_into_a_buffer_fills_the_room() -> None:
    ch = full(0)
    g = parked(go(select, recv(Chan()), send(ch, 1)))
    assert ch.recv() == 0
    assert len(ch) == 1
    assert g.join() == (1, None, True)
    assert ch.recv() == 1


@pytest.mark.parametrize("procs", [1, 4])
def test_two_selects_meet(procs: int) -> None:
    before = runtime.gomaxprocs(procs)
    try:
        for _ in range(100):
            a, b = Chan[int](), Chan[int]()
            g = go(select, send(a, 1), recv(b))
            h = go(select, send(b, 2), recv(a))
            assert (g.join(), h.join()) in [
                ((0, None, True), (1, 1, True)),
                ((1, 2, True), (0, None, True)),
            ]
    finally:
        runtime.gomaxprocs(before)


def test_one_select_does_not_meet_itself() -> None:
    ch: Chan[int] = Chan()
    both = (send(ch, 1), recv(ch))
    assert select(*both, default=True).index == -1
    with pytest.raises(TimeoutError):
        select(*both, timeout=0)
    g = parked(go(select, *both))
    assert ch.recv() == 1
    assert g.join() == (0, None, True)
    g = parked(go(select, *both))
    ch.send(2)
    assert g.join() == (1, 2, True)
    # Behind its own waiters another's is seen.
    g = parked(go(select, *both))
    assert {select(*both).index, g.join().index} == {0, 1}


def test_same_channel_in_several_cases() -> None:
    ch: Chan[int] = Chan()
    for _ in range(20):
        g = parked(go(select, recv(ch), recv(ch), recv(ch)))
        ch.send(1)
        index, value, ok = g.join()
        assert index in (0, 1, 2)
        assert (value, ok) == (1, True)
        assert not ch.try_send(2)
    g = parked(go(select, send(ch, 0), send(ch, 1), send(ch, 2)))
    value = ch.recv()
    assert g.join() == (value, None, True)
    assert ch.try_recv() == (None, False)


def test_leaving_a_queue_keeps_the_others_in_it() -> None:
    """Whether it is the first, the last or between others that leaves for another channel."""
    for order in permutations("ABC"):
        ch, aside = Chan[int](), Chan[int]()
        gs: dict[str, Goroutine[Any]] = {}
        for name in order:
            gs[name] = parked(go(select, recv(ch), recv(aside)) if name == "B" else go(ch.recv))
        aside.send(0)
        assert gs["B"].join() == (1, 0, True)
        ch.send(1)
        ch.send(2)
        assert not ch.try_send(3)
        first, second = (name for name in order if name != "B")
        assert (gs[first].join(), gs[second].join()) == (1, 2)


def test_select_of_a_plain_thread() -> None:
    a, b, back = Chan[int](), Chan[int](), Chan[Selected]()
    thread = threading.Thread(
        target=lambda: [back.send(select(recv(a), recv(b))) for _ in range(50)]
    )
    thread.start()
    for i in range(50):
        (a, b)[i % 2].send(i)
        assert back.recv() == (i % 2, i, True)
    thread.join()


def test_select_without_cases_waits_for_ever() -> None:
    g = parked(go(select))
    assert g.wait_reason == "select (no cases)"
    with pytest.raises(TimeoutError):
        select(timeout=0.001)
    g.cancel()
    with pytest.raises(Cancelled):
        g.join()


@pytest.mark.parametrize(
    ("reason", "call"),
    [
        ("select (no cases)", "select()"),
        ("select", "select(recv(Chan()), send(Chan(), 1))"),
        ("select", "select(recv(None))"),
        ("select", "c = Chan(); select(recv(c), send(c, 1))"),
    ],
)
def test_select_that_waits_for_ever_is_a_deadlock(reason: str, call: str) -> None:
    done = run(f"from runtime import *\n{call}\n")
    assert done.returncode == 1
    assert f"goroutine 1 [{reason}]:\n" in done.stderr
    assert "DeadlockError: all goroutines are asleep" in done.stderr


# --- close ----------------------------------------------------------------------------------------


def test_close_wakes_a_receiving_select() -> None:
    a, b = Chan[int](), Chan[int]()
    gs = [parked(go(select, recv(a), recv(b))) for _ in range(5)]
    b.close()
    assert [g.join() for g in gs] == [(1, None, False)] * 5
    assert not a.try_send(1)


def test_close_wakes_a_sending_select_that_raises() -> None:
    a, b = Chan[int](), Chan[int]()
    gs = [parked(go(select, send(a, 1), send(b, 2))) for _ in range(5)]
    b.close()
    for g in gs:
        with pytest.raises(ChanClosed, match=r"\(case 1\)"):
            g.join()
    assert a.try_recv() == (None, False)


def test_close_wakes_a_select_with_several_cases_of_the_channel() -> None:
    a = Chan[int]()
    g = parked(go(select, recv(a), recv(a), recv(Chan())))
    a.close()
    assert g.join() in [(0, None, False), (1, None, False)]


# --- what ends it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, -1, 0.0, 0.0001, 1e-12])
def test_timeout_passes_and_nothing_is_taken_or_sent(timeout: float) -> None:
    a, b = Chan[int](), Chan[int]()
    with pytest.raises(TimeoutError, match=r"select\(\)"):
        select(send(a, 1), recv(b), timeout=timeout)
    assert a.try_recv() == (None, False)
    assert not b.try_send(1)


def test_timeout_does_not_matter_to_what_is_ready() -> None:
    assert select(recv(full(1)), timeout=0) == (0, 1, True)
    assert select(recv(Chan()), default=True, timeout=100) == (-1, None, False)
    a: Chan[int] = Chan()
    g = go(select, recv(a), timeout=1000)
    a.send(1)
    assert g.join().value == 1


def test_cancel_ends_it_and_leaves_all_queues() -> None:
    a, b = Chan[int](), Chan[int]()
    g = parked(go(select, send(a, 1), recv(b)))
    g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    assert a.try_recv() == (None, False)
    assert not b.try_send(1)


def test_context_that_ends_ends_it() -> None:
    ctx = Done()
    a: Chan[int] = Chan()
    g = parked(go(select, recv(a), ctx=ctx))
    h = parked(go(select, ctx=ctx))
    ctx.chan.close()
    for waiting in (g, h):
        with pytest.raises(KeyError, match="ended"):
            waiting.join()
    assert not a.try_send(1)
    with pytest.raises(KeyError):
        select(recv(full(1)), ctx=ctx)
    with pytest.raises(KeyError):
        select(default=True, ctx=ctx)


def test_context_that_does_not_end_changes_nothing() -> None:
    ctx = Done()
    assert select(recv(full(1)), ctx=ctx).value == 1
    a: Chan[int] = Chan()
    g = parked(go(select, recv(a), ctx=ctx, timeout=1000))
    a.send(2)
    assert g.join().value == 2
    assert select(recv(full(1)), ctx=None).value == 1


def test_done_channel_of_its_own_context_as_a_case() -> None:
    ctx = Done()
    g = parked(go(select, recv(ctx.done()), ctx=ctx))
    ctx.chan.close()
    try:
        assert g.join() == (0, None, False)
    except KeyError:
        pass  # either is true


# --- misuse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select(Chan()), r"case 0 must be made by recv\(ch\) or send\(ch, value\), not "),
        (lambda: select(recv(Chan()), None), r"case 1 must be made"),
        (lambda: select(recv(Chan()), defualt=True), r"wrong arguments: select\("),
        (lambda: recv(3), r"recv\(ch\): ch must be a Chan, a Receiver or None, not int"),
        (lambda: recv(Chan().sender()), r"not runtime.Sender"),
        (lambda: send(3, 4), r"send\(ch, value\): ch must be a Chan, a Sender or None, not int"),
        (lambda: send(Chan().receiver(), 4), r"not runtime.Receiver"),
        (lambda: send(Chan()), r"wrong arguments: send\(ch, value\)"),
        (lambda: select(recv(Chan()), timeout="1"), "must be real number"),
        (lambda: select(recv(Chan()), ctx=1), "ctx must be a context"),
        (Case, "cannot create"),
    ],
)
def test_misuse_raises_type_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_wrong_case_behind_a_ready_one_takes_nothing() -> None:
    ch = full(1)
    with pytest.raises(TypeError):
        select(recv(ch), ch)  # type: ignore[arg-type]
    assert len(ch) == 1


def test_case_shows_what_it_is() -> None:
    ch: Chan[int] = Chan(3)
    assert repr(recv(ch)) == f"recv({ch!r})"
    assert repr(send(ch, 2)) == f"send({ch!r}, 2)"
    assert repr(recv(ch.receiver())) == f"recv({ch!r})"
    assert repr(recv(None)) == "recv(None)"
    with pytest.raises(AttributeError):
        recv(ch).x = 1  # type: ignore[attr-defined]


# --- memory ---------------------------------------------------------------------------------------


class Thing:
    pass


def test_values_are_freed_when_all_is_done() -> None:
    refs = []

    def thing() -> Thing:
        refs.append(weakref.ref(t := Thing()))
        return t

    a, b = Chan[Thing](), Chan[Thing](1)
    g = parked(go(select, send(a, thing()), send(a, thing())))
    assert isinstance(a.recv(), Thing)
    assert g.join().index in (0, 1)
    assert select(send(b, thing())).ok
    assert isinstance(select(recv(b)).value, Thing)
    with pytest.raises(TimeoutError):
        select(send(a, thing()), timeout=0)
    b.send(thing())
    select(send(b, thing()), default=True)
    del g, b
    gc.collect()
    assert [r() for r in refs] == [None] * 6


def test_cycles_through_cases_are_collected() -> None:
    ch: Chan[Any] = Chan(3)
    ref = weakref.ref(ch)
    t = Thing()
    t.case = send(ch, t)  # type: ignore[attr-defined]
    ch.send(recv(ch))
    ch.send(ch.receiver())
    ch.send(t.case)  # type: ignore[attr-defined]
    del ch, t
    gc.collect()
    assert ref() is None


def test_cases_and_results_nested_very_deep_are_released() -> None:
    case: Any = None
    result: Any = None
    for _ in range(200_000):
        case = send(None, case)
        result = Selected((0, result, True))
    del case, result


@pytest.mark.parametrize("wait", [False, True])
def test_many_selects_use_no_more_memory(wait: bool) -> None:
    data, dummy = Chan[int](), Chan[int]()

    def feed(n: int) -> None:
        for i in range(n):
            data.send(i)

    def receive(n: int) -> None:
        g = go(feed, n)
        for i in range(n):
            if wait:
                assert select(recv(dummy), recv(data), send(dummy, 0)).value in (i, None)
            else:
                while select(recv(dummy), recv(data), default=True).index < 0:
                    gosched()
        g.join()

    def grown() -> int:
        gc.collect()
        before = sys.getallocatedblocks()
        receive(3000)
        gc.collect()
        return sys.getallocatedblocks() - before

    receive(300)
    # What others are about to give back does not count; a leak is there each time.
    assert min(grown() for _ in range(3)) < 1000


def test_select_parks_and_others_run() -> None:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        for _ in range(3):
            ticks += 1
            sleep(0.0001)

    a: Chan[int] = Chan()
    go(tick)
    g = go(select, recv(a))
    until(lambda: ticks == 3)
    a.send(1)
    assert g.join().ok
