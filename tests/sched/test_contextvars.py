"""Contextvars and the recursion limit: each goroutine has its own."""

import contextvars
import sys
from typing import Any

import pytest

from runtime import Chan, Goroutine, current, go, gosched, num_goroutine
from waits import until

var: contextvars.ContextVar[Any] = contextvars.ContextVar("var", default="default")


# --- contextvars ----------------------------------------------------------------------------------


def in_new_context(fn: Any) -> Any:
    return contextvars.Context().run(fn)


def test_context_goroutine_sees_the_spawners_values() -> None:
    def main() -> None:
        var.set("spawner")
        g = go(var.get)
        var.set("later")
        assert g.join() == "spawner"

    in_new_context(main)


def test_context_changes_in_the_goroutine_do_not_reach_the_spawner() -> None:
    def main() -> None:
        var.set("spawner")
        go(var.set, "goroutine").join()
        assert var.get() == "spawner"

    in_new_context(main)


def test_context_survives_parking_on_both_sides() -> None:
    def main() -> None:
        ch, back = Chan(), Chan()

        def body(i: int) -> list[Any]:
            var.set(i)
            seen = [var.get()]
            ch.recv()
            seen.append(var.get())
            var.set(-i)
            back.send(None)
            gosched()
            seen.append(var.get())
            return seen

        gs = [go(body, i) for i in range(1, 20)]
        var.set("main")
        for _ in gs:
            ch.send(None)
        for _ in gs:
            back.recv()
            assert var.get() == "main"
        assert [g.join() for g in gs] == [[i, i, -i] for i in range(1, 20)]
        assert var.get() == "main"

    in_new_context(main)


def test_context_of_one_goroutine_does_not_leak_to_the_next_on_its_worker() -> None:
    def main() -> None:
        for i in range(10):
            go(var.set, i).join()
            assert go(var.get).join() == "default"

    in_new_context(main)


def test_context_nested_spawns_inherit_through_generations() -> None:
    def generation(n: int) -> Any:
        var.set((*var.get(), n))
        if n == 0:
            return var.get()
        return go(generation, n - 1).join()

    def main() -> None:
        var.set(())
        assert go(generation, 50).join() == tuple(range(50, -1, -1))
        assert var.get() == ()

    in_new_context(main)


def test_context_run_inside_a_goroutine_may_park() -> None:
    def main() -> None:
        ch = Chan()
        var.set("outer")

        def inner() -> Any:
            var.set("inner")
            ch.recv()
            return var.get()

        def body() -> Any:
            ctx = contextvars.copy_context()
            result = ctx.run(inner)
            return result, var.get(), ctx[var]

        gs = [go(body) for _ in range(5)]
        for _ in gs:
            ch.send(None)
        assert [g.join() for g in gs] == [("inner", "outer", "inner")] * 5

    in_new_context(main)


def test_context_tokens_reset_after_parking() -> None:
    def body() -> Any:
        token = var.set("temporary")
        gosched()
        var.reset(token)
        return var.get()

    assert [g.join() for g in [go(body) for _ in range(10)]] == ["default"] * 10


def test_context_is_released_with_the_goroutine() -> None:
    class Value:
        pass

    def main() -> None:
        value = Value()

        def references() -> int:
            return sys.getrefcount(value)

        before = references()
        var.set(value)
        gs = [go(gosched) for _ in range(50)]
        for g in gs:
            g.join()
        var.set(None)
        del gs, g
        until(lambda: references() == before)  # where they ran the last may be about to end

    in_new_context(main)


# --- recursion ------------------------------------------------------------------------------------


def depth() -> int:
    """How many Python calls are left here."""

    def down(n: int) -> int:
        try:
            return down(n + 1)
        except RecursionError:
            return n

    return down(0)


def test_recursion_limit_is_whole_in_a_goroutine_spawned_from_deep() -> None:
    def deep(n: int) -> Goroutine[int]:
        return deep(n - 1) if n else go(depth)

    def deep_and_join(n: int) -> int:
        return deep_and_join(n - 1) if n else go(depth).join()

    shallow = go(depth).join()
    limit = sys.getrecursionlimit()
    assert limit - 20 <= shallow <= limit
    here = limit - depth()
    assert deep(limit - here - 100).join() == shallow
    assert deep_and_join(limit - here - 100) == shallow


def test_recursion_error_is_an_ordinary_exception() -> None:
    def forever() -> None:
        forever()

    for _ in range(10):
        with pytest.raises(RecursionError):
            go(forever).join()
    assert go(lambda: "fine").join() == "fine"


def test_recursion_depth_is_kept_over_parking() -> None:
    def deep(n: int) -> int:
        if n:
            return deep(n - 1)
        gosched()
        return depth()

    a, b = go(deep, 100), go(deep, 300)
    shallow = go(deep, 0).join()
    assert a.join() == shallow - 100
    assert b.join() == shallow - 300
    before = depth()
    gosched()
    assert depth() == before


def test_recursion_deep_parked_goroutines_return_intact() -> None:
    ch = Chan()

    def deep(n: int) -> int:
        if n == 0:
            return ch.recv()
        return deep(n - 1) + 1

    gs = [go(deep, 400) for _ in range(50)]
    for i in range(50):
        ch.send(i * 1000)
    assert sorted(g.join() for g in gs) == [i * 1000 + 400 for i in range(50)]


def test_recursion_through_c_code_that_parks() -> None:
    def key(x: int) -> int:
        gosched()
        return -x

    gs = [go(sorted, range(20), key=key) for _ in range(10)]
    assert all(g.join() == list(range(19, -1, -1)) for g in gs)


@pytest.mark.parametrize("park", ["none", "yield", "channel"])
def test_spawn_generations_do_not_deepen(park: str) -> None:
    done: Chan[int] = Chan()
    ticks: Chan[None] = Chan(1)
    base = num_goroutine()

    def generation(n: int) -> None:
        if n == 0:
            done.send(depth())
            return
        if park == "yield":
            gosched()
        elif park == "channel":
            go(ticks.send, None)
            ticks.recv()
        go(generation, n - 1)

    shallow = go(depth).join()
    go(generation, 100_000 if park != "channel" else 30_000)
    assert abs(done.recv() - shallow) <= 2
    while num_goroutine() > base:
        gosched()


def test_spawn_generations_where_each_waits_for_the_next() -> None:
    def generation(n: int) -> int:
        return go(generation, n - 1).join() + 1 if n else 0

    assert go(generation, 5_000).join() == 5_000
    assert current().name == "main"
