"""runtime.go and Goroutine: what can be started, what comes back, what a handle tells."""

import functools
import operator
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import runtime
from runtime import Chan, Goroutine, current, go, goexit, gosched, num_goroutine
from waits import settle, until

# --- what can be started --------------------------------------------------------------------------


def test_go_function_join_returns_result() -> None:
    assert go(lambda: 6 * 7).join() == 42


def test_go_without_result_join_returns_none() -> None:
    def nothing() -> None: ...

    assert go(nothing).join() is None


def test_go_result_object_is_the_same_object() -> None:
    value = object()
    assert go(lambda: value).join() is value


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 6, 50, 1000])
def test_go_positional_arguments_arrive(n: int) -> None:
    args = tuple(object() for _ in range(n))
    assert go(lambda *a: a, *args).join() == args


@pytest.mark.parametrize("npos", [0, 1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("nkw", [0, 1, 2, 3, 4, 5, 10])
def test_go_keyword_arguments_arrive(npos: int, nkw: int) -> None:
    args = tuple(range(npos))
    kwargs = {f"k{i}": i for i in range(nkw)}
    assert go(lambda *a, **k: (a, k), *args, **kwargs).join() == (args, kwargs)


def test_go_keyword_named_fn_or_self_is_the_functions() -> None:
    assert go(lambda **k: k, fn=1, self=2, name=3).join() == {"fn": 1, "self": 2, "name": 3}


def test_go_wrong_arguments_raise_in_the_goroutine() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        go(lambda x: x).join()


class Thing:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def method(self, x: int) -> int:
        return self.value + x

    def __call__(self, x: int) -> int:
        return self.value * x

    @classmethod
    def make(cls, x: int) -> int:
        return x + 1

    @staticmethod
    def static(x: int) -> int:
        return x + 2


@pytest.mark.parametrize(
    ("fn", "args", "result"),
    [
        (Thing(3).method, (4,), 7),
        (Thing(3), (4,), 12),
        (Thing.make, (4,), 5),
        (Thing.static, (4,), 6),
        (len, ("four",), 4),
        (max, (3, 9, 2), 9),
        ("a,b".split, (",",), ["a", "b"]),
        (int, ("17",), 17),
        (functools.partial(pow, 2), (10,), 1024),
        (operator.itemgetter(1), ([5, 6],), 6),
        (str.upper, ("x",), "X"),
    ],
)
def test_go_any_callable_runs(fn: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
    assert go(fn, *args).join() == result


def test_go_class_makes_an_instance() -> None:
    assert go(Thing, 5).join().value == 5


def test_go_generator_function_returns_the_generator() -> None:
    def count() -> Any:
        yield 1
        yield 2

    assert list(go(count).join()) == [1, 2]


def test_go_builtin_that_parks_runs() -> None:
    ch = Chan()
    sender = go(ch.send, 5)
    assert go(ch.recv).join() == 5
    assert sender.join() is None


def test_go_itself_is_callable_in_a_goroutine() -> None:
    assert go(go, len, "abc").join().join() == 3


@pytest.mark.parametrize("bad", [None, 5, "name", Thing.method(Thing(), 1), []])
def test_go_not_callable_raises_type_error(bad: Any) -> None:
    with pytest.raises(TypeError, match="callable"):
        go(bad)


def test_go_called_function_explains_the_mistake() -> None:
    with pytest.raises(TypeError, match=r"go\(f, x\), not go\(f\(x\)\)"):
        go(print(end=""))  # type: ignore[func-returns-value]


def test_go_without_arguments_raises_type_error() -> None:
    with pytest.raises(TypeError, match="needs a function"):
        go()  # type: ignore[call-arg]


def test_go_failed_call_leaves_no_goroutine() -> None:
    settle()
    before = num_goroutine()
    with pytest.raises(TypeError):
        go(5)  # type: ignore[arg-type]
    assert num_goroutine() == before


def test_go_types_cannot_be_instantiated() -> None:
    with pytest.raises(TypeError):
        Goroutine()
    with pytest.raises(TypeError):
        type(go)()


# --- when it runs ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_p")
def test_go_does_not_run_before_the_caller_parks() -> None:
    log: list[str] = []
    with runtime.nopreempt():
        g = go(log.append, "goroutine")
        log.append("main")
    g.join()
    assert log == ["main", "goroutine"]


@pytest.mark.usefixtures("one_p")
def test_go_spawned_run_in_order() -> None:
    log: list[int] = []
    gs = [go(log.append, i) for i in range(5)]
    for g in gs:
        g.join()
    assert log == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("n", [255, 256, 257, 1000, 5000])
def test_go_more_than_the_ring_all_run(n: int) -> None:
    seen: list[int] = []
    gs = [go(seen.append, i) for i in range(n)]
    for g in gs:
        g.join()
    assert sorted(seen) == list(range(n))


# --- names, numbers, states -----------------------------------------------------------------------


def test_name_default_has_the_id() -> None:
    g = go(lambda: None)
    assert g.name == f"goroutine-{g.id}"
    g.join()
    assert g.name == f"goroutine-{g.id}"


def test_named_goroutine_has_its_name() -> None:
    named = go.named("worker")
    a, b = named(lambda: current().name), named(len, "x")
    assert (a.name, b.name) == ("worker", "worker")
    assert a.join() == "worker"
    assert b.join() == 1
    assert "worker" in repr(named)
    assert repr(go) == "<function runtime.go>"


def test_named_of_named_replaces_the_name() -> None:
    g = go.named("a").named("b")(lambda: None)
    assert g.name == "b"
    g.join()


def test_named_not_a_str_raises_type_error() -> None:
    with pytest.raises(TypeError, match="str"):
        go.named(5)  # type: ignore[arg-type]


def test_name_of_main_goroutine() -> None:
    assert current().name == "main"


def test_id_is_unique_and_grows() -> None:
    ids = []
    for _ in range(100):
        g = go(lambda: None)
        ids.append(g.id)
        g.join()
        del g
    assert len(set(ids)) == 100
    assert ids == sorted(ids)


def test_handle_attributes_are_read_only() -> None:
    g = go(lambda: None)
    for name in ("id", "name", "state", "wait_reason", "spawned_at"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(g, name, 1)
    g.join()


@pytest.mark.usefixtures("one_p")
def test_state_follows_the_life() -> None:
    ch = Chan()
    states: list[str] = []

    def body() -> None:
        states.append(current().state)
        ch.recv()

    with runtime.nopreempt():
        g = go(body)
        assert g.state == "runnable"
        assert g.wait_reason is None
    settle()
    assert g.state == "waiting"
    assert g.wait_reason == "chan receive"
    ch.send(None)
    settle()
    assert g.state == "dead"
    assert g.wait_reason is None
    assert states == ["running"]
    assert current().state == "running"


@pytest.mark.usefixtures("one_p")
def test_wait_reason_names_what_it_waits_for() -> None:
    ch, mu, wg = Chan(), runtime.Mutex(), runtime.WaitGroup()
    mu.lock()
    wg.add()
    stuck = go(wg.wait)
    sleeper = go(runtime.sleep, 1000)
    gs = {
        "chan send": go(ch.send, 1),
        "sync.Mutex.Lock": go(mu.lock),
        "sync.WaitGroup.Wait": go(wg.wait),
        "join": go(stuck.join),
        "sleep": sleeper,
    }
    settle()
    assert {reason: g.wait_reason for reason, g in gs.items()} == {r: r for r in gs}
    ch.recv()
    mu.unlock()
    wg.done()
    sleeper.cancel()
    with pytest.raises(runtime.Cancelled):
        sleeper.join()
    for g in gs.values():
        if g is not sleeper:
            g.join()


def test_spawned_at_is_the_line_of_go() -> None:
    def spawner() -> Goroutine[None]:
        return go(lambda: None)

    g = spawner()
    first = spawner.__code__.co_firstlineno
    assert g.spawned_at == (__file__, first + 1, spawner.__qualname__)
    g.join()
    assert g.spawned_at is not None
    assert g.spawned_at[1] == first + 1
    assert current().spawned_at is None


@pytest.mark.usefixtures("one_p")
def test_repr_shows_number_name_and_state() -> None:
    with runtime.nopreempt():
        g = go.named("x")(lambda: None)
        assert repr(g) == f"<Goroutine {g.id} 'x' runnable>"
    g.join()
    assert repr(g) == f"<Goroutine {g.id} 'x' dead>"


def test_current_is_the_handle() -> None:
    g = go(current)
    assert g.join() is g
    del g
    assert current() is current()


def test_handle_can_be_weakly_referenced() -> None:
    g = go(lambda: None)
    ref = weakref.ref(g)
    assert ref() is g
    g.join()
    assert ref() is g
    del g
    until(lambda: ref() is None)  # where it has run may be about to leave it


def test_weak_reference_of_a_running_goroutine_dies_with_it() -> None:
    ch = Chan()
    ref = weakref.ref(go(ch.recv))
    settle()
    assert ref() is not None
    ch.send(1)
    until(lambda: ref() is None)


def test_handle_is_hashable_and_compares_by_identity() -> None:
    a, b = go(lambda: None), go(lambda: None)
    assert len({a, b, a}) == 2
    assert a != b
    a.join()
    b.join()


# --- joining --------------------------------------------------------------------------------------


def test_join_twice_returns_the_result_again() -> None:
    g = go(lambda: [1])
    assert g.join() is g.join()


def test_join_raises_the_exception_each_time() -> None:
    error = ValueError("x")

    def fail() -> None:
        raise error

    g = go(fail)
    for _ in range(3):
        with pytest.raises(ValueError, match="x") as info:
            g.join()
        assert info.value is error
    assert [entry.name for entry in info.traceback][-1] == "fail"


def test_join_of_several_goroutines_all_get_the_result() -> None:
    ch = Chan()
    g = go(ch.recv)
    joiners = [go(g.join) for _ in range(20)]
    settle()
    ch.send("r")
    assert [j.join() for j in joiners] == ["r"] * 20


def test_join_of_several_goroutines_all_get_the_exception() -> None:
    def fail() -> None:
        gosched()
        raise KeyError("k")

    g = go(fail)
    joiners = [go(g.join) for _ in range(5)]
    for j in joiners:
        with pytest.raises(KeyError):
            j.join()


def test_join_timeout_raises_and_join_works_afterwards() -> None:
    ch = Chan()
    g = go(ch.recv)
    with pytest.raises(TimeoutError, match="join"):
        g.join(0.001)
    with pytest.raises(TimeoutError):
        g.join(timeout=0)
    assert not g.done()
    ch.send(3)
    assert g.join(timeout=30) == 3
    assert g.join(0) == 3


def test_join_with_a_timeout_that_does_not_pass_returns() -> None:
    g = go(gosched)
    assert g.join(1000) is None
    assert g.join(float("inf")) is None


@pytest.mark.parametrize("bad", ["1", [], object()])
def test_join_bad_timeout_raises_type_error(bad: Any) -> None:
    ch = Chan()
    g = go(ch.recv)
    with pytest.raises(TypeError):
        g.join(bad)
    with pytest.raises(ValueError, match="NaN"):
        g.join(float("nan"))
    with pytest.raises(TypeError):
        g.join(1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        g.join(time=1)  # type: ignore[call-arg]
    ch.send(None)
    g.join()


@pytest.mark.usefixtures("one_p")
def test_join_self_raises_runtime_error() -> None:
    box: list[Goroutine[Any]] = []

    def join_self() -> None:
        box[0].join()

    g = go(join_self)
    box.append(g)
    with pytest.raises(RuntimeError, match="itself"):
        g.join()
    with pytest.raises(RuntimeError, match="itself"):
        current().join()


def test_join_main_raises_runtime_error() -> None:
    g = go(current().join)
    with pytest.raises(RuntimeError, match="main goroutine"):
        g.join()


@pytest.mark.usefixtures("one_p")
def test_done_and_exception_tell_the_outcome() -> None:
    def fail() -> None:
        raise ValueError("x")

    with runtime.nopreempt():
        good, bad = go(lambda: 1), go(fail)
        assert not good.done()
        with pytest.raises(RuntimeError, match="not ended"):
            good.exception()
    settle()
    assert good.done()
    assert good.exception() is None
    error = bad.exception()
    assert isinstance(error, ValueError)
    assert bad.exception() is error


def test_exception_keeps_cause_and_context() -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner

    with pytest.raises(ValueError, match="outer") as info:
        go(fail).join()
    assert isinstance(info.value.__cause__, KeyError)


def test_exception_of_the_spawner_is_not_the_goroutines_context() -> None:
    def fail() -> None:
        raise ValueError("x")

    try:
        raise KeyError("being handled")
    except KeyError:
        error = None
        g = go(fail)
        until(g.done)
        error = g.exception()
    assert error is not None
    assert error.__context__ is None


def test_exception_being_handled_survives_parking() -> None:
    import sys

    def body() -> Any:
        try:
            raise ValueError("mine")
        except ValueError as e:
            gosched()
            assert sys.exc_info()[1] is e
            return e

    gs = [go(body) for _ in range(10)]
    try:
        raise KeyError("main's")
    except KeyError as mine:
        errors = [g.join() for g in gs]
        assert sys.exc_info()[1] is mine
    assert len(set(map(id, errors))) == 10


# --- goexit ---------------------------------------------------------------------------------------


def test_goexit_ends_the_goroutine_and_runs_finally() -> None:
    log: list[str] = []

    def inner() -> None:
        try:
            goexit()
        finally:
            log.append("finally")
        log.append("not reached")

    def body() -> str:
        try:
            inner()
        except Exception:
            log.append("must not be caught by except Exception")
        return "not reached"

    g = go(body)
    assert g.join() is None
    assert g.exception() is None
    assert log == ["finally"]


def test_goexit_finally_may_park() -> None:
    ch = Chan()

    def body() -> None:
        try:
            goexit()
        finally:
            ch.send("from finally")

    g = go(body)
    assert ch.recv() == "from finally"
    assert g.join() is None


# --- numbers --------------------------------------------------------------------------------------


def test_num_goroutine_counts_main_fresh_parked_not_ended() -> None:
    settle()  # what others have left waits
    base = num_goroutine()
    assert base >= 1
    ch = Chan()
    parked = [go(ch.recv) for _ in range(10)]
    assert num_goroutine() == base + 10
    settle()
    assert num_goroutine() == base + 10
    for _ in parked:
        ch.send(None)
    for g in parked:
        g.join()
    assert num_goroutine() == base


@pytest.mark.usefixtures("one_p")
def test_stats_are_consistent() -> None:
    def check() -> dict[str, Any]:
        s = runtime.stats()
        assert s["created"] - s["finished"] + 1 == s["goroutines"] == num_goroutine()
        return s

    settle()  # what others have left waits
    before = check()
    gs = [go(gosched) for _ in range(500)]
    assert check()["created"] == before["created"] + 500
    for g in gs:
        g.join()
    after = check()
    assert after["finished"] == before["finished"] + 500
    m0 = after["ps"][0]
    assert m0["id"] == 0
    assert m0["ticks"] >= before["ps"][0]["ticks"] + 1000
    growing = ("ticks", "switches", "runnext_hits")
    assert all(after["ps"][0][k] >= before["ps"][0][k] for k in growing)


# --- arguments live as long as they must ----------------------------------------------------------


@pytest.mark.usefixtures("one_p")
def test_arguments_and_function_are_released_at_the_end() -> None:
    class Arg:
        pass

    arg = Arg()
    ref = weakref.ref(arg)
    g = go(lambda *a, **k: None, 1, 2, 3, 4, 5, arg, k=arg)
    del arg
    assert ref() is not None
    g.join()
    assert ref() is None


@pytest.mark.usefixtures("one_p")
def test_argument_finalizer_may_park() -> None:
    ch = Chan()

    class Arg:
        def __del__(self) -> None:
            ch.send("finalized")

    g = go(lambda _: "result", Arg())
    settle()
    assert not g.done()
    joiner = go(g.join)
    assert ch.recv() == "finalized"
    assert g.join() == joiner.join() == "result"
    assert g.state == "dead"


def test_result_nobody_wants_is_released_and_its_finalizer_may_park() -> None:
    ch = Chan()

    class Result:
        def __del__(self) -> None:
            ch.send("finalized")

    go(Result)
    assert ch.recv() == "finalized"


def test_results_in_a_very_long_chain_are_released() -> None:
    def link(n: int) -> Any:
        return go(link, n - 1) if n else None

    base = num_goroutine()
    g = go(link, 200_000)
    while num_goroutine() > base:
        gosched()
    del g


def test_sleep_and_gosched_arguments() -> None:
    runtime.sleep(0)
    runtime.sleep(-1)
    runtime.sleep(0.0001)
    runtime.sleep(True * 0)
    with pytest.raises(TypeError):
        runtime.sleep("1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        runtime.sleep(float("nan"))
    with pytest.raises(TypeError):
        runtime.sleep()  # type: ignore[call-arg]


@pytest.mark.usefixtures("one_p")
def test_sleep_of_several_wakes_in_the_order_of_deadlines() -> None:
    starts: list[tuple[float, float]] = []  # (earliest start of the sleep, seconds)
    woken: list[int] = []

    def body(seconds: float) -> None:
        i = len(starts)
        starts.append((time.monotonic(), seconds))
        runtime.sleep(seconds)
        woken.append(i)

    gs = [go(body, s) for s in (0.03, 0.001, 0.04, 0.0005, 0.02, 0.01)]
    settle()
    latest = [start for start, _ in starts[1:]] + [time.monotonic()]
    for g in gs:
        g.join()
    assert sorted(woken) == list(range(6))
    for place, i in enumerate(woken):
        for j in woken[:place]:  # j woke before i, so i may not have been due before j
            assert latest[i] + starts[i][1] >= starts[j][0] + starts[j][1]
