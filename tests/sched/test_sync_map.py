"""Map, Pool and the values of runtime.atomic."""

import gc
import random
import threading
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import atomic, go, gosched, sync

# --- Map ------------------------------------------------------------------------------------------


class Key:
    """Compares by Python code, which others may run during, and collides."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __hash__(self) -> int:
        return self.n % 3

    def __eq__(self, other: object) -> bool:
        gosched()
        return isinstance(other, Key) and other.n == self.n


keys = st.one_of(
    st.integers(-3, 3),
    st.integers(0, 2).map(Key),
    st.sampled_from(["a", "b", b"a", 1.0, True, None, (1, 2), frozenset([1]), 2**70]),
)
values = st.sampled_from([0, 0.0, False, 1, True, "x", None, Key(1)])
names = st.sampled_from(
    ["load", "store", "swap", "load_or_store", "load_and_delete", "delete", "compare_and_swap",
     "compare_and_delete", "in", "clear"]
)  # fmt: skip


@given(st.lists(st.tuples(names, keys, values, values), max_size=60))
def test_map_behaves_like_a_dict(steps: list[tuple[str, Any, Any, Any]]) -> None:
    m: sync.Map[Any, Any] = sync.Map()
    d: dict[Any, Any] = {}
    for name, key, a, b in steps:
        there = key in d
        before = (d.get(key), there)
        if name == "load":
            assert m.load(key) == before
        elif name == "store":
            m.store(key, a)
            d[key] = a
        elif name == "swap":
            assert m.swap(key, a) == before
            d[key] = a
        elif name == "load_or_store":
            d.setdefault(key, a)
            assert m.load_or_store(key, a) == (d[key], there)
        elif name == "load_and_delete":
            assert m.load_and_delete(key) == before
            d.pop(key, None)
        elif name == "delete":
            m.delete(key)
            d.pop(key, None)
        elif name == "compare_and_swap":
            same = there and d[key] == a
            assert m.compare_and_swap(key, a, b) is same
            if same:
                d[key] = b
        elif name == "compare_and_delete":
            same = there and d[key] == a
            assert m.compare_and_delete(key, a) is same
            if same:
                del d[key]
        elif name == "in":
            assert (key in m) is there
        elif random.random() < 0.1:
            m.clear()
            d.clear()
        assert len(m) == len(d)
    assert dict(m.items()) == d


def test_map_grows_and_shrinks() -> None:
    m: sync.Map[int, int] = sync.Map()
    for i in range(5000):
        m.store(i << 20, i)
    assert len(m) == 5000
    assert all(m.load(i << 20) == (i, True) for i in range(5000))
    for i in range(5000):
        assert m.load_and_delete(i << 20) == (i, True)
    assert len(m) == 0
    assert m.items() == []
    assert repr(m).startswith("<Map of 0 at ")


def test_map_range_calls_until_false_and_may_change_the_map() -> None:
    m: sync.Map[int, int] = sync.Map()
    for i in range(10):
        m.store(i, i * i)
    seen: dict[int, int] = {}

    def visit(k: int, v: int) -> None:
        seen[k] = v
        m.delete(k)
        m.store(k + 100, v)

    m.range(visit)
    assert seen == {i: i * i for i in range(10)}
    assert sorted(k for k, _ in m.items()) == list(range(100, 110))
    calls = []
    m.range(lambda k, v: calls.append(k) or len(calls) < 3)  # type: ignore[func-returns-value]
    assert len(calls) == 3
    with pytest.raises(ZeroDivisionError):
        m.range(lambda k, v: 1 // 0)


def test_map_bad_arguments_raise_and_change_nothing() -> None:
    m: Any = sync.Map()
    m.store("a", 1)
    for call in (
        lambda: m.load([]),
        lambda: m.store([], 1),
        lambda: m.store("a"),
        lambda: m.swap("a"),
        lambda: m.load_or_store("a"),
        lambda: m.compare_and_swap("a", 1),
        lambda: m.compare_and_delete("a"),
        lambda: m.delete({}),
        lambda: [] in m,
        lambda: m.range(5),
        lambda: sync.Map(1),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError):
            call()
    assert m.items() == [("a", 1)]


def test_map_comparisons_that_raise_leave_it_as_it_was() -> None:
    class Bad:
        def __hash__(self) -> int:
            return hash("k")

        def __eq__(self, other: object) -> bool:
            raise KeyError("eq")

    m: Any = sync.Map()
    m.store("k", 1)
    bad = Bad()
    for call in (
        lambda: m.load(bad),
        lambda: m.store(bad, 2),
        lambda: m.load_and_delete(bad),
        lambda: m.compare_and_swap("k", bad, 2),
        lambda: m.compare_and_delete("k", bad),
    ):
        with pytest.raises(KeyError):
            call()
    assert m.items() == [("k", 1)]
    m.store("v", bad)
    assert m.compare_and_swap("v", bad, 3)  # the same object
    assert m.load("v") == (3, True)


def test_map_keys_that_change_the_map_while_they_are_compared() -> None:
    m: Any = sync.Map()

    class Rude:
        def __init__(self) -> None:
            self.calls = 0

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            self.calls += 1
            if self.calls < 5:
                m.clear()
                for i in range(40):
                    m.store(7 + i, i)
                m.store(self, "rude")
            return False

    rude = Rude()
    m.store(7, 0)
    m.store(rude, 1)
    m.load(Rude())
    assert m.load(7) == (0, True)
    rude.calls = 5
    m.store(rude, 2)
    assert m.load(rude) == (2, True)


def test_map_drops_what_it_held_and_is_collected() -> None:
    class Thing:
        pass

    m: Any = sync.Map()
    thing = Thing()
    ref = weakref.ref(thing)
    m.store("a", thing)
    m.store(thing, "a")
    del thing
    m.delete("a")
    assert ref() is not None
    m.clear()
    assert ref() is None
    m.store("self", m)
    own = weakref.ref(m)
    del m
    gc.collect()
    assert own() is None


@pytest.mark.parametrize("make", [int, Key])
def test_map_counts_right_under_compare_and_swap_by_many(make: Any) -> None:
    m: Any = sync.Map()

    def work() -> None:
        for i in range(60):
            key = make(i % 4)
            while True:
                count, ok = m.load(key)
                if ok and m.compare_and_swap(key, count, count + 1):
                    break
                if not ok and not m.load_or_store(key, 1)[1]:
                    break

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for g in [go(work) for _ in range(4)]:
        g.join()
    for t in threads:
        while t.is_alive():
            gosched()
    assert sorted(v for _, v in m.items()) == [7 * 15] * 4


def test_map_deletes_each_key_for_one_caller() -> None:
    m: Any = sync.Map()
    for i in range(500):
        m.store(i, i)
    got: list[int] = []

    def work() -> None:
        for i in range(500):
            value, ok = m.load_and_delete(i)
            if ok:
                got.append(value)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        while t.is_alive():
            gosched()
    assert sorted(got) == list(range(500))


# --- Pool -----------------------------------------------------------------------------------------


def test_pool_gives_back_what_was_put_or_something_new() -> None:
    made: list[list[int]] = []
    pool: sync.Pool[list[int]] = sync.Pool(new=lambda: made.append([]) or made[-1])  # type: ignore[func-returns-value]
    a = pool.get()
    assert made == [a]
    pool.put(a)
    assert pool.get() is a
    assert pool.get() is made[1]
    empty: sync.Pool[int] = sync.Pool()
    assert empty.get() is None
    with pytest.raises(TypeError, match="callable"):
        sync.Pool(5)  # type: ignore[arg-type]


def test_pool_drops_what_two_collections_find_unused() -> None:
    class Thing:
        pass

    pool: sync.Pool[Thing] = sync.Pool()
    thing = Thing()
    ref = weakref.ref(thing)
    gc.disable()  # no other collection comes in between
    try:
        pool.put(thing)
        del thing
        gc.collect()
        assert ref() is not None
        assert pool.get() is ref()  # it is in use again
    finally:
        gc.enable()
    pool.put(ref())  # type: ignore[arg-type]
    gc.collect()
    gc.collect()
    assert ref() is None
    assert pool.get() is None
    pools = weakref.ref(pool)
    del pool
    gc.collect()
    assert pools() is None
    gc.collect()


def test_pool_gives_each_object_to_one_caller_at_a_time() -> None:
    pool: sync.Pool[list[int]] = sync.Pool(new=list)

    def work() -> None:
        for _ in range(200):
            item = pool.get()
            item.append(1)
            assert len(item) == 1
            gosched()
            item.pop()
            pool.put(item)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for g in [go(work) for _ in range(5)]:
        g.join()
    for t in threads:
        while t.is_alive():
            gosched()


# --- atomic ---------------------------------------------------------------------------------------

INT64 = st.integers(-(2**63), 2**63 - 1)


def wrapped(n: int) -> int:
    return (n + 2**63) % 2**64 - 2**63


@given(INT64, INT64)
def test_int64_computes_as_go_does(a: int, b: int) -> None:
    n = atomic.Int64(a)
    assert n.load() == a == int(n)
    assert n.add(b) == wrapped(a + b) == n.load()
    assert n.swap(a) == wrapped(a + b)
    assert n.and_(b) == a
    assert n.load() == a & b
    assert n.or_(a) == a & b
    assert n.load() == (a & b) | a
    n.store(b)
    assert n.compare_and_swap(b, a)
    assert n.compare_and_swap(b, a) is (a == b)
    assert repr(n) == f"Int64({a})"


def test_int64_defaults_and_bad_arguments() -> None:
    n: Any = atomic.Int64()
    assert n.add() == 1
    assert atomic.Int64(2**63 - 1).add() == -(2**63)
    for method in (n.store, n.add, n.swap, n.and_, n.or_, atomic.Int64):
        with pytest.raises(OverflowError, match="Int64"):
            method(2**63)
        with pytest.raises(TypeError):
            method("1")
    with pytest.raises(TypeError):
        n.compare_and_swap(1)
    with pytest.raises(OverflowError):
        n.compare_and_swap(1, 2**64)
    assert n.load() == 1


def test_int64_counts_all_of_many_threads_and_goroutines() -> None:
    n, closed, winners = atomic.Int64(), atomic.Bool(), atomic.Int64()

    def work() -> None:
        for _ in range(1000):
            n.add()
        if closed.compare_and_swap(False, True):
            winners.add()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for g in [go(work) for _ in range(5)]:
        g.join()
    for t in threads:
        while t.is_alive():
            gosched()
    assert n.load() == 8000
    assert winners.load() == 1


def test_bool_loads_stores_and_swaps() -> None:
    b: Any = atomic.Bool()
    assert b.load() is False
    assert repr(b) == "Bool(False)"
    b.store([1])
    assert b.load() is True
    assert b.swap(0) is True
    assert b.compare_and_swap(True, True) is False
    assert b.compare_and_swap(False, True) is True
    assert repr(atomic.Bool(True)) == "Bool(True)"
    for args in ((), (1,), (1, 2, 3)):
        with pytest.raises(TypeError):
            b.compare_and_swap(*args)


def test_value_is_replaced_as_a_whole() -> None:
    a, b = [1], [1]
    v: Any = atomic.Value(a)
    assert v.load() is a
    assert not v.compare_and_swap(b, "x")  # equal, but another object
    assert v.compare_and_swap(a, b)
    assert v.swap("x") is b
    v.store(v)
    assert repr(v) == "Value(Value(...))"
    ref = weakref.ref(v)
    del v
    gc.collect()
    assert ref() is None
    assert atomic.Value().load() is None  # type: ignore[var-annotated]
    with pytest.raises(TypeError):
        atomic.Value(1).compare_and_swap(1)  # type: ignore[call-arg]


def test_value_of_many_threads_is_always_whole() -> None:
    v: atomic.Value[tuple[int, int]] = atomic.Value((0, 0))
    stop = atomic.Bool()

    def write() -> None:
        for i in range(3000):
            v.store((i, i))
        stop.store(True)

    t = threading.Thread(target=write)
    t.start()
    while not stop.load():
        a, b = v.load()
        assert a == b
    t.join()
