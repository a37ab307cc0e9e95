"""How long blocking calls wait: timeout= and ctx=, alone and racing with all that ends a wait."""

import gc
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runtime import Cancelled, Chan, ChanClosed, Goroutine, go, gosched, sleep
from waits import parked, until


class Ended(Exception):
    pass


class Ctx:
    """A context of a program's own: what a blocking call needs to know of one."""

    def __init__(self, ended: bool = False) -> None:
        self.channel: Chan[None] = Chan()
        self.asked = 0
        if ended:
            self.end()

    def end(self) -> None:
        self.channel.close()

    def done(self) -> Chan[None] | None:
        return self.channel

    def err(self) -> Exception | None:
        self.asked += 1
        return Ended() if self.channel.closed else None


class Endless(Ctx):
    def done(self) -> Chan[None] | None:
        return None


tired: list[Goroutine[Any]] = []  # one that waits until the test ends


@pytest.fixture(autouse=True)
def _tired() -> Iterator[None]:
    stop: Chan[None] = Chan()
    tired[:] = [go(stop.recv_ok)]
    yield
    stop.close()
    tired.pop().join()


# Calls that wait for ever, with the arguments given.
CALLS: dict[str, Callable[..., Any]] = {
    "send": lambda timeout=None, ctx=None: Chan().send("value", timeout, ctx=ctx),
    "send_full": lambda timeout=None, ctx=None: full().send("value", timeout, ctx=ctx),
    "recv": lambda timeout=None, ctx=None: Chan().recv(timeout, ctx=ctx),
    "recv_ok": lambda timeout=None, ctx=None: Chan().recv_ok(timeout=timeout, ctx=ctx),
    "sleep": lambda ctx=None: sleep(60, ctx=ctx),
    "join": lambda timeout=None, ctx=None: tired[0].join(timeout, ctx=ctx),
}
TIMED = [name for name in CALLS if name != "sleep"]
REASONS = {
    "send": "chan send",
    "send_full": "chan send",
    "recv": "chan receive",
    "recv_ok": "chan receive",
    "sleep": "sleep",
    "join": "join",
}


def full() -> Chan[Any]:
    ch: Chan[Any] = Chan(1)
    ch.send("first")
    return ch


# --- contexts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_call_with_a_context_that_has_ended_fails_at_once(name: str) -> None:
    ctx = Ctx(ended=True)
    with pytest.raises(Ended):
        CALLS[name](ctx=ctx)
    assert ctx.asked == 1


@pytest.mark.parametrize("name", CALLS)
def test_call_fails_when_its_context_ends(name: str) -> None:
    ctx = Ctx()
    g = parked(go(CALLS[name], ctx=ctx))
    assert g.wait_reason == REASONS[name]
    ctx.end()
    with pytest.raises(Ended):
        g.join()


@pytest.mark.parametrize("name", CALLS)
def test_call_of_a_thread_fails_when_its_context_ends(name: str) -> None:
    ctx, seen = Ctx(), Chan()

    def body() -> None:
        try:
            seen.send(CALLS[name](ctx=ctx))
        except Ended as e:
            seen.send(e)

    thread = threading.Thread(target=body)
    thread.start()
    for _ in range(random.randrange(5)):  # perhaps it waits already
        gosched()
    ctx.end()
    assert isinstance(seen.recv(), Ended)
    thread.join()


@pytest.mark.parametrize("name", CALLS)
def test_call_with_a_context_can_be_cancelled(name: str) -> None:
    ctx = Ctx()
    g = parked(go(CALLS[name], ctx=ctx))
    assert g.cancel()
    with pytest.raises(Cancelled):
        g.join()
    ctx.end()


@pytest.mark.parametrize("name", TIMED)
def test_call_with_a_context_times_out(name: str) -> None:
    ctx = Ctx()
    with pytest.raises(TimeoutError):
        CALLS[name](timeout=0.001, ctx=ctx)
    with pytest.raises(TimeoutError):
        CALLS[name](timeout=0, ctx=ctx)
    assert ctx.asked == 0
    ctx.end()


def test_sleep_with_a_context_sleeps() -> None:
    ctx = Ctx()
    for seconds in (-1, 0, 0.001):
        assert sleep(seconds, ctx=ctx) is None
        with pytest.raises(Ended):
            sleep(seconds, ctx=Ctx(ended=True))


@pytest.mark.parametrize("make", [lambda: None, Endless, Ctx])
def test_call_with_a_context_that_goes_on_succeeds(make: Callable[[], Any]) -> None:
    ctx = make()
    ch: Chan[int] = Chan()
    g = go(ch.send, 1, ctx=ctx)
    assert ch.recv(ctx=ctx) == 1
    g.join(ctx=ctx)
    g = go(ch.recv_ok, None, ctx=ctx)
    ch.send(2, 60, ctx=ctx)
    assert g.join(60, ctx=ctx) == (2, True)


def test_call_that_need_not_wait_fails_if_its_context_has_ended() -> None:
    ch = full()
    ctx = Ctx(ended=True)
    for call in (ch.recv, ch.recv_ok, go(int).join):
        with pytest.raises(Ended):
            call(ctx=ctx)
    with pytest.raises(Ended):
        Chan(1).send(1, ctx=ctx)
    assert ch.recv() == "first"
    ch.close()
    with pytest.raises(Ended):
        ch.recv_ok(ctx=ctx)


def test_call_whose_channel_is_closed_meanwhile() -> None:
    ctx = Ctx()
    ch: Chan[Any] = Chan()
    receiver, sender = parked(go(ch.recv_ok, ctx=ctx)), parked(go(full().send, 1, ctx=ctx))
    ch.close()
    assert receiver.join() == (None, False)
    ctx.end()
    with pytest.raises(Ended):
        sender.join()


def test_context_ends_many_that_wait_in_different_places() -> None:
    ctx = Ctx()
    gs = [parked(go(call, ctx=ctx)) for call in CALLS.values() for _ in range(50)]
    random.shuffle(gs)
    for g in gs[:100]:
        g.cancel()
    ctx.end()
    errors = []
    for g in gs:
        with pytest.raises((Ended, Cancelled)) as info:
            g.join()
        errors.append(info.value)
    assert sum(isinstance(e, Ended) for e in errors) == len(gs) - 100
    assert len({id(e) for e in errors if isinstance(e, Ended)}) == len(gs) - 100


def test_value_sent_to_a_done_channel_ends_the_wait() -> None:
    ctx = Ctx()

    class Ctx2(Ctx):
        def err(self) -> Exception | None:
            return Ended()

    ctx = Ctx2()
    g = parked(go(Chan().recv, ctx=ctx))
    ctx.channel.send(None)
    with pytest.raises(Ended):
        g.join()


def test_done_channel_is_left_as_it_was() -> None:
    ctx = Ctx()
    for call in CALLS.values():
        g = parked(go(call, ctx=ctx))
        g.cancel()
        with pytest.raises(Cancelled):
            g.join()
    assert not ctx.channel.try_send(None)  # nobody waits there any more
    receiver = parked(go(ctx.channel.recv))
    ctx.channel.send(None)
    assert receiver.join() is None


# --- contexts that misbehave ------------------------------------------------------------------


@pytest.mark.parametrize("ctx", [1, "ctx", object(), Chan()])
@pytest.mark.parametrize("name", CALLS)
def test_call_with_something_else_for_a_context_fails(name: str, ctx: object) -> None:
    with pytest.raises(TypeError, match="ctx must be a context or None, not"):
        CALLS[name](ctx=ctx)


@pytest.mark.parametrize("done", [1, "x", False])
def test_context_whose_done_is_no_channel(done: Any) -> None:
    ctx = Ctx()
    ctx.done = lambda: done  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"ctx.done\(\) must be a Chan, a Receiver or None, not"):
        Chan().recv(ctx=ctx)


def test_context_whose_err_is_no_exception() -> None:
    ctx = Ctx()
    ctx.err = lambda: None  # type: ignore[method-assign]
    g = parked(go(Chan().recv, ctx=ctx))
    ctx.end()
    with pytest.raises(TypeError, match=r"ctx.err\(\) must be an exception"):
        g.join()
    with pytest.raises(TypeError, match=r"ctx.err\(\) must be an exception"):
        Chan().recv(ctx=ctx)


@pytest.mark.parametrize("method", ["done", "err"])
@pytest.mark.parametrize("name", CALLS)
def test_context_whose_methods_raise(name: str, method: str) -> None:
    ctx = Ctx()

    def fail() -> Any:
        raise ZeroDivisionError

    g = None
    if method == "err":
        g = parked(go(CALLS[name], ctx=ctx))
    setattr(ctx, method, fail)
    if method == "err":
        ctx.end()
    with pytest.raises(ZeroDivisionError):
        CALLS[name](ctx=ctx)
    if g is not None:
        with pytest.raises(ZeroDivisionError):
            g.join()


class Slow(Ctx):
    """One whose err() waits for something else."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Chan[int] = Chan()

    def err(self) -> Exception | None:
        return Ended(self.gate.recv())


def test_context_whose_err_waits_leaves_no_trace_in_the_channel() -> None:
    ctx, ch = Slow(), Chan()
    sender, receiver = parked(go(ch.send, 1, ctx=ctx)), None
    ctx.end()
    until(lambda: sender.wait_reason == "chan receive")  # it is in err()
    assert ch.try_recv() == (None, False)
    ctx.gate.send(5)
    with pytest.raises(Ended, match="5"):
        sender.join()

    ctx = Slow()
    receiver = parked(go(ch.recv, ctx=ctx))
    ctx.channel.close()
    while receiver.state != "waiting" or ctx.gate.try_send(6) is False:
        assert not ch.try_send(1)
        gosched()
    with pytest.raises(Ended, match="6"):
        receiver.join()


def test_context_that_waits_when_it_is_dropped_loses_no_value() -> None:
    gate: Chan[None] = Chan()

    class Late(Ctx):
        def __del__(self) -> None:
            gate.recv()

    ch: Chan[str] = Chan()
    g = parked(go(lambda: ch.recv(ctx=Late())))
    ch.send("value")
    gate.send(None)
    assert g.join() == "value"


def test_wait_keeps_and_drops_its_context() -> None:
    ctx = Ctx()
    ref = weakref.ref(ctx)
    channel = ctx.channel
    g = parked(go(Chan().recv, ctx=ctx))
    del ctx
    gc.collect()
    assert ref() is not None
    channel.close()
    with pytest.raises(Ended):
        g.join()
    del g
    gc.collect()
    assert ref() is None


# Blocks that another thread frees are counted until the one that has made them comes by.
@pytest.mark.usefixtures("one_p")
@pytest.mark.parametrize("name", CALLS)
def test_call_with_a_context_leaks_nothing(name: str) -> None:
    def once() -> None:
        ctx = Ctx()
        for how in (ctx.end, None):
            g = parked(go(CALLS[name], ctx=ctx))
            if how is None:
                g.cancel()
            else:
                how()
                ctx = Ctx()
            try:
                g.join()
            except (Ended, Cancelled):
                pass

    def grown() -> int:
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(100):
            once()
        gc.collect()
        return sys.getallocatedblocks() - before

    # What is kept to be used again must not be more each time.
    assert min(grown() for _ in range(6)) < 50


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "args", "kwargs"),
    [
        (Chan().send, (), {}),
        (Chan().send, (1, 2, 3), {}),
        (Chan().send, (1, 2), {"timeout": 1}),
        (Chan().send, (1,), {"context": None}),
        (Chan().recv, (1, None), {}),
        (Chan().recv_ok, (), {"timeout": 1, "what": 2}),
        (sleep, (), {"ctx": None}),
        (sleep, (1,), {"timeout": 1}),
        (sleep, (None,), {}),
    ],
)
def test_wrong_arguments_are_type_errors(
    call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        call(*args, **kwargs)


@pytest.mark.parametrize("timeout", ["1", object(), [], 1j])
def test_timeout_that_is_no_number_is_a_type_error(timeout: Any) -> None:
    for name in TIMED:
        with pytest.raises(TypeError):
            CALLS[name](timeout=timeout)


def test_timeout_that_is_nan_is_a_value_error() -> None:
    for name in TIMED:
        with pytest.raises(ValueError):
            CALLS[name](timeout=float("nan"))


# --- races ------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 2])
def test_race_of_contexts_timeouts_and_cancels_loses_no_value(capacity: int) -> None:
    """What was sent, by a send that has succeeded, is received once or still there."""
    for seed in range(30):
        rng = random.Random(seed)
        ch: Chan[int] = Chan(capacity)
        ctxs = [Ctx() for _ in range(5)]
        sent: list[int] = []
        received: list[int] = []

        def limits(rng: random.Random = rng, ctxs: list[Ctx] = ctxs) -> dict[str, Any]:
            return {
                "ctx": rng.choice([*ctxs, None]),
                "timeout": rng.choice([None, None, 0, 0.0001, 0.001]),
            }

        def sender(
            value: int,
            kw: dict[str, Any],
            ch: Chan[int] = ch,
            sent: list[int] = sent,
        ) -> None:
            try:
                ch.send(value, **kw)
            except (Ended, TimeoutError, Cancelled, ChanClosed):
                return
            sent.append(value)

        def receiver(
            kw: dict[str, Any], ch: Chan[int] = ch, received: list[int] = received
        ) -> None:
            try:
                received.append(ch.recv(**kw))
            except (Ended, TimeoutError, Cancelled, ChanClosed):
                pass

        gs, threads = [], []
        for i in range(60):
            gs.append(go(sender, i, limits()))
            gs.append(go(receiver, limits()))
            if i % 20 == 0:
                for target, args in ((sender, (1000 + i, limits())), (receiver, (limits(),))):
                    thread = threading.Thread(target=target, args=args)
                    thread.start()
                    threads.append(thread)
        enders: list[Callable[[], Any]] = [ctx.end for ctx in ctxs]
        enders += [g.cancel for g in rng.sample(gs, 20)]
        rng.shuffle(enders)
        for end in enders:
            go(end) if rng.random() < 0.7 else end()
            if rng.random() < 0.3:
                gosched()
        for ctx in ctxs:
            until(lambda ctx=ctx: ctx.channel.closed)
        left: list[int] = []
        while not all(g.done() for g in gs) or any(t.is_alive() for t in threads):
            value, ok = ch.try_recv()
            if ok:
                left.append(value)
            ch.try_send(-1)
            sleep(0.0001)
        while True:
            value, ok = ch.try_recv()
            if not ok:
                break
            left.append(value)
        everything = sorted(v for v in received + left if v >= 0)
        assert everything == sorted(sent)


def test_race_of_a_join_with_its_context() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        ctx = Ctx()
        ch: Chan[int] = Chan()
        worker = go(ch.recv)
        joiner = go(worker.join, ctx=ctx)
        if rng.random() < 0.5:
            gosched()
        steps = [lambda ch=ch: ch.send(7), ctx.end]
        rng.shuffle(steps)
        others = [go(step) for step in steps]
        for other in others:
            other.join()
        try:
            assert joiner.join() == 7
        except Ended:
            pass
        assert worker.join() == 7
