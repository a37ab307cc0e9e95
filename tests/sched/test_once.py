"""Once, once_func and once_value."""

import threading
from typing import Any

import pytest

from runtime import Cancelled, go, goexit, gosched, sync
from waits import parked, until


def test_once_runs_the_first_function_and_no_other() -> None:
    once, ran = sync.Once(), []
    assert not once.done
    assert repr(once).startswith("<Once new at ")
    once.do(lambda: ran.append(1))
    once.do(lambda: ran.append(2))
    assert ran == [1]
    assert once.done
    assert repr(once).startswith("<Once done at ")


def test_once_others_wait_until_it_has_ended() -> None:
    once, gate = sync.Once(), sync.Event()
    ended = False

    def run() -> None:
        nonlocal ended
        gate.wait()
        ended = True

    def body() -> None:
        once.do(run)
        assert ended

    first = parked(go(body))
    assert repr(once).startswith("<Once running at ")
    others = [parked(go(body)) for _ in range(5)]
    thread = threading.Thread(target=body)
    thread.start()
    gate.set()
    for g in [first, *others]:
        g.join()
    until(lambda: not thread.is_alive())


@pytest.mark.parametrize("how", ["raise", "goexit", "cancel"])
def test_once_function_that_does_not_return_counts_as_done(how: str) -> None:
    once, gate = sync.Once(), sync.Event()

    def run() -> None:
        gate.wait()
        if how == "raise":
            raise KeyError("once")
        goexit()

    first = parked(go(once.do, run))
    other = parked(go(once.do, run))
    if how == "cancel":
        first.cancel()
    else:
        gate.set()
    other.join()
    if how == "raise":
        with pytest.raises(KeyError):
            first.join()
    elif how == "cancel":
        with pytest.raises(Cancelled):
            first.join()
    assert once.done
    once.do(run)


def test_once_called_from_its_own_function_is_an_error() -> None:
    once = sync.Once()
    with pytest.raises(RuntimeError, match="wait for itself"):
        once.do(lambda: once.do(lambda: None))
    once.do(lambda: None)

    caught: list[str] = []

    def recurse() -> None:
        try:
            other.do(recurse)
        except RuntimeError as e:
            caught.append(str(e))

    other = sync.Once()
    thread = threading.Thread(target=other.do, args=(recurse,))
    thread.start()
    until(lambda: not thread.is_alive())
    assert len(caught) == 1


def test_once_bad_arguments_raise_and_do_not_use_it_up() -> None:
    once: Any = sync.Once()
    for args in ((), (1,), (None,), (len, 1, 2)):
        with pytest.raises(TypeError):
            once.do(*args)
    assert not once.done


def test_once_value_calls_once_and_returns_the_same_to_all() -> None:
    calls, gate = [], sync.Event()

    @sync.once_value
    def value() -> object:
        """The value."""
        calls.append(1)
        gate.wait()
        return object()

    assert value.__name__ == "value"
    assert value.__doc__ == "The value."
    gs = [parked(go(value)) for _ in range(5)]
    gate.set()
    assert len({id(g.join()) for g in gs}) == 1
    assert value() is gs[0].join()
    assert calls == [1]


def test_once_value_raises_the_exception_each_time() -> None:
    class MyError(Exception):
        def __init__(self, code: int, *, extra: str) -> None:
            super().__init__(f"code {code}")
            self.code, self.extra = code, extra

    original = MyError(3, extra="x")
    calls = []

    @sync.once_value
    def value() -> int:
        calls.append(1)
        raise original

    seen = []
    for _ in range(4):
        with pytest.raises(MyError, match="code 3") as info:
            value()
        seen.append(info.value)
        assert info.value.code == 3
        assert info.value.extra == "x"
        assert any(entry.name == "value" for entry in info.traceback)
    assert seen[0] is original
    assert len({id(e) for e in seen}) == 4  # they can be raised at the same time
    assert calls == [1]
    assert len(info.traceback) < 8  # and do not grow


def test_once_func_runs_once_and_returns_nothing() -> None:
    calls: list[int] = []

    @sync.once_func
    def func() -> int:
        calls.append(1)
        return 5

    assert func() is None  # type: ignore[func-returns-value]
    assert func() is None  # type: ignore[func-returns-value]
    assert calls == [1]

    failing = sync.once_func(lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failing()


@pytest.mark.parametrize("how", ["goexit", "cancel"])
def test_once_value_whose_caller_was_ended_raises_runtimeerror(how: str) -> None:
    gate = sync.Event()

    @sync.once_value
    def value() -> None:
        gate.wait()
        goexit()

    g = parked(go(value))
    other = parked(go(value))
    if how == "cancel":
        g.cancel()
    else:
        gate.set()
    with pytest.raises(RuntimeError, match="was ended by"):
        other.join()
    with pytest.raises(RuntimeError, match=r"one call of .*value was ended"):
        value()


def test_once_value_recursion_is_an_error() -> None:
    @sync.once_value
    def value() -> int:
        return value() + 1

    for _ in range(2):
        with pytest.raises(RuntimeError, match="wait for itself"):
            value()


def test_once_value_needs_a_function() -> None:
    for make in (sync.once_value, sync.once_func):
        with pytest.raises(TypeError, match="callable"):
            make(5)  # type: ignore[arg-type]


def test_once_of_many_threads_and_goroutines_runs_once() -> None:
    for _ in range(20):
        once, ran = sync.Once(), []

        def run(ran: list[int] = ran) -> None:
            gosched()
            ran.append(1)

        threads = [threading.Thread(target=once.do, args=(run,)) for _ in range(3)]
        for t in threads:
            t.start()
        for g in [go(once.do, run) for _ in range(10)]:
            g.join()
        until(lambda threads=threads: not any(t.is_alive() for t in threads))  # type: ignore[misc]
        assert ran == [1]
