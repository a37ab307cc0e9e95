"""Waiting in functions that built-ins call.

Without a GIL built-ins hold the lock of an object meanwhile; others must get it, and nothing
may be left locked.
"""

import pytest

from runtime import Chan, Goroutine, current, go, gosched, sleep


def filled(n: int) -> Chan[int]:
    """A channel that gives n values, slowly."""
    ch: Chan[int] = Chan()

    def fill() -> None:
        for i in range(n):
            gosched()
            ch.send(i)
        ch.close()

    go(fill)
    return ch


@pytest.mark.parametrize("collect", [list, tuple, set, sum, sorted, lambda ch: [*ch]])
def test_builtin_that_iterates_over_a_channel_waits(collect) -> None:
    workers = [go(collect, filled(50)) for _ in range(8)]
    want = collect(range(50))
    assert [g.join() for g in workers] == [want] * 8


def test_extend_and_update_that_wait_leave_nothing_locked() -> None:
    numbers: list[int] = []
    squares: dict[int, int] = {}
    extender = go(numbers.extend, filled(20))
    updater = go(lambda: squares.update((i, i * i) for i in filled(20)))
    while not (extender.done() and updater.done()):
        numbers.count(3)
        squares.get(3)
        gosched()
    extender.join()
    updater.join()
    assert numbers == list(range(20))
    assert squares == {i: i * i for i in range(20)}


def test_key_functions_that_wait_sort_right() -> None:
    def run(g: int) -> list[int]:
        me = current()

        def key(n: int) -> int:
            gosched()
            sleep(0.0001)
            assert current() is me
            return -n * g

        numbers = list(range(10))
        numbers.sort(key=key)
        return numbers

    gs: list[Goroutine[list[int]]] = [go(run, i) for i in (1, 2, 3)]
    assert [g.join() for g in gs] == [list(range(9, -1, -1))] * 3


def test_nested_builtins_that_wait_come_back_in_order() -> None:
    def inner(depth: int) -> list[int]:
        if depth == 0:
            return list(filled(5))
        return [x for part in map(inner, [depth - 1]) for x in list(iter(part))]

    gs = [go(inner, depth) for depth in range(6) for _ in range(4)]
    assert all(g.join() == [0, 1, 2, 3, 4] for g in gs)
