"""singleflight.Group, and exceptions for several callers."""

import random
import threading
from typing import Any

import pytest

from runtime import Cancelled, Goroutine, go, goexit, gosched, singleflight, sync
from runtime._exceptions import duplicate
from waits import parked, until


def test_singleflight_result_of_one_call_is_shared() -> None:
    flights: singleflight.Group[str, object] = singleflight.Group()
    gate, calls = sync.Event(), []

    def fn() -> object:
        calls.append(1)
        gate.wait()
        return object()

    gs = [parked(go(flights.do, "key", fn)) for _ in range(5)]
    results: list[tuple[object, bool]] = []
    thread = threading.Thread(target=lambda: results.append(flights.do("key", fn)))
    thread.start()
    other = parked(go(flights.do, "other", fn))
    gosched()
    gate.set()
    first = gs[0].join()
    assert all(g.join() == first for g in gs)
    until(lambda: not thread.is_alive())
    assert other.join()[1] is False
    value, shared = flights.do("key", fn)  # it has ended: a new call
    assert value is not first[0]
    assert shared is False


def test_singleflight_alone_is_not_shared() -> None:
    flights: singleflight.Group[Any, int] = singleflight.Group()
    assert flights.do("a", lambda: 1) == (1, False)
    assert flights.do((1, 2), lambda: 2) == (2, False)
    with pytest.raises(TypeError):
        flights.do([], lambda: 3)
    for method in (flights.do, flights.do_chan):
        with pytest.raises(TypeError, match="callable"):
            method("a", 5)  # type: ignore[operator]
    assert flights.do("a", lambda: 4) == (4, False)


def test_singleflight_exception_is_raised_in_all_callers() -> None:
    flights: singleflight.Group[str, int] = singleflight.Group()
    gate, error = sync.Event(), KeyError("x")

    def fn() -> int:
        gate.wait()
        raise error

    gs = [parked(go(flights.do, "key", fn)) for _ in range(4)]
    gate.set()
    seen = []
    for g in gs:
        with pytest.raises(KeyError, match="x") as info:
            g.join()
        seen.append(info.value)
        assert any(entry.name == "fn" for entry in info.traceback)
    assert seen[0] is error
    assert len({id(e) for e in seen}) == 4
    assert flights.do("key", lambda: 1) == (1, False)


@pytest.mark.parametrize("how", ["cancel", "goexit"])
def test_singleflight_leader_that_is_ended_leaves_the_call_to_the_next(how: str) -> None:
    flights: singleflight.Group[str, str] = singleflight.Group()
    gates = [sync.Event() for _ in range(4)]

    def fn(i: int) -> str:
        gates[i].wait()
        if i == 0:
            goexit()
        return f"call {i}"

    gs = [parked(go(flights.do, "key", lambda i=i: fn(i))) for i in range(4)]
    chan = flights.do_chan("key", lambda: "by chan")
    if how == "cancel":
        gs[0].cancel()
    else:
        gates[0].set()
    until(gs[0].done)
    for gate in gates:
        gate.set()
    values = {g.join()[0] for g in gs[1:]}
    assert values <= {"call 1", "call 2", "call 3", "by chan"}
    result = chan.recv()
    assert result.error is None
    assert result.value is not None
    if how == "cancel":
        with pytest.raises(Cancelled):
            gs[0].join()
    assert flights.do("key", lambda: "new") == ("new", False)


def test_singleflight_caller_that_gives_up_leaves_the_others() -> None:
    flights: singleflight.Group[str, int] = singleflight.Group()
    gate = sync.Event()

    def fn() -> int:
        gate.wait()
        return 1

    gs = [parked(go(flights.do, "key", fn)) for _ in range(3)]
    gs[1].cancel()
    with pytest.raises(TimeoutError):
        flights.do("key", fn, 0.0001)
    gate.set()
    assert gs[0].join() == gs[2].join() == (1, True)


def test_singleflight_do_chan_sends_results_and_errors() -> None:
    flights: singleflight.Group[str, int] = singleflight.Group()
    gate = sync.Event()

    def fn() -> int:
        gate.wait()
        return 7

    chans = [flights.do_chan("key", fn) for _ in range(3)]
    follower = parked(go(flights.do, "key", fn))
    gate.set()
    assert [c.recv() for c in chans] == [singleflight.Result(7, None, True)] * 3
    assert follower.join() == (7, True)
    assert flights.do_chan("key", fn).recv() == (7, None, False)
    failed = flights.do_chan("key", lambda: 1 // 0).recv()
    assert failed.value is None
    assert isinstance(failed.error, ZeroDivisionError)
    ended = flights.do_chan("key", goexit).recv()
    assert isinstance(ended.error, RuntimeError)


def test_singleflight_forget_lets_the_next_call_begin() -> None:
    flights: singleflight.Group[str, int] = singleflight.Group()
    gate = sync.Event()

    def slow() -> int:
        gate.wait()
        return 1

    first = parked(go(flights.do, "key", slow))
    flights.forget("key")
    flights.forget("nothing")
    second = parked(go(flights.do, "key", lambda: gate.wait() or 2))
    third = parked(go(flights.do, "key", slow))
    gate.set()
    assert first.join() == (1, False)
    assert second.join() == (2, True)
    assert third.join() == (2, True)  # the end of the first has not taken the second out


def test_singleflight_recursion_is_an_error() -> None:
    flights: singleflight.Group[str, Any] = singleflight.Group()
    with pytest.raises(RuntimeError, match="wait for itself"):
        flights.do("key", lambda: flights.do("key", lambda: 1))
    assert flights.do("key", lambda: flights.do("other", lambda: 1)) == ((1, False), False)


@pytest.mark.parametrize("seed", range(4))
def test_singleflight_many_callers_run_one_call_at_a_time(seed: int) -> None:
    rnd = random.Random(seed)
    flights: singleflight.Group[int, int] = singleflight.Group()
    running = [0, 0]
    calls = 0
    errors: list[BaseException] = []

    def fn(key: int) -> int:
        nonlocal calls
        calls += 1
        running[key] += 1
        assert running[key] == 1
        gosched()
        gosched()
        running[key] -= 1
        if rnd.random() < 0.3:
            raise KeyError(key)
        return key

    def work() -> None:
        for _ in range(20):
            key = rnd.randrange(2)
            try:
                if rnd.random() < 0.3:
                    result = flights.do_chan(key, lambda key=key: fn(key)).recv()
                    assert isinstance(result.error, KeyError) or result.value == key
                else:
                    assert flights.do(key, lambda key=key: fn(key))[0] == key
            except KeyError:
                pass

    def thread() -> None:
        try:
            work()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=thread) for _ in range(2)]
    for t in threads:
        t.start()
    gs: list[Goroutine[None]] = [go(work) for _ in range(8)]
    for g in gs:
        g.join()
    until(lambda: not any(t.is_alive() for t in threads))
    assert not errors
    assert calls > 0


# --- exceptions -----------------------------------------------------------------------------------


class Plain(Exception):
    pass


class Picky(Exception):
    def __init__(self, a: int, b: int, *, c: int) -> None:
        super().__init__("picky")
        self.a, self.b, self.c = a, b, c


class Slotted(ValueError):
    __slots__ = ("code",)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = len(text)


class Reduced(Exception):
    def __init__(self, code: int) -> None:
        super().__init__("reduced")
        self.code = code

    def __reduce__(self) -> Any:
        return Reduced, (self.code,)


class Impossible(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("no")


@pytest.mark.parametrize(
    "exc",
    [
        Plain(), Plain(1, "x"), Picky(1, 2, c=3), Slotted("s"), Reduced(5), KeyError("k"),
        OSError(2, "no", "file"), FileNotFoundError(2, "no", "a", None, "b"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), StopIteration(5), SystemExit(3),
        ImportError("m", name="n", path="p"), SyntaxError("bad", ("f", 1, 2, "text")),
        ExceptionGroup("g", [ValueError(1)]), AttributeError("a", name="n", obj=1),
    ],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_duplicate_says_the_same(exc: BaseException) -> None:
    exc.add_note("a note")
    exc.__cause__ = ValueError("cause")
    try:
        raise exc
    except BaseException as e:
        assert e is exc
    other = duplicate(exc)
    assert other is not exc
    assert type(other) is type(exc)
    assert other.args == exc.args
    assert str(other) == str(exc)
    assert vars(other) == vars(exc)
    for name in ("errno", "filename", "filename2", "name", "path", "code", "value", "lineno",
                 "reason", "exceptions"):  # fmt: skip
        assert getattr(other, name, None) == getattr(exc, name, None)
    assert other.__traceback__ is exc.__traceback__
    assert other.__cause__ is exc.__cause__
    assert other.__suppress_context__ is exc.__suppress_context__


def test_duplicate_of_what_cannot_be_copied_is_a_runtimeerror_because_of_it() -> None:
    exc = Impossible("x")
    other = duplicate(exc)
    assert type(other) is RuntimeError
    assert other.__cause__ is exc
    assert "Impossible" in str(other)
