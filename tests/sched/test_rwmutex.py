"""RWMutex: who comes before whom, and misuse."""

import random
import threading
import weakref
from typing import Any

import pytest

from runtime import atomic, go, gosched, sync
from waits import parked, until


def test_rwmutex_readers_share() -> None:
    rw, inside = sync.RWMutex(), sync.WaitGroup()
    inside.add(3)

    def read() -> int:
        with rw.reader():
            inside.done()
            inside.wait(60)  # for the others, which read as well
            return rw.readers

    assert max(g.join() for g in [go(read) for _ in range(3)]) == 3
    assert rw.readers == 0


def test_rwmutex_a_writer_excludes_readers_and_writers() -> None:
    rw, readers = sync.RWMutex(), atomic.Int64()
    writers = 0

    def read() -> None:
        for _ in range(20):
            with rw.reader():
                readers.add()
                assert writers == 0
                gosched()
                readers.add(-1)

    def write() -> None:
        nonlocal writers
        for _ in range(20):
            with rw:
                writers += 1
                assert writers == 1
                assert readers.load() == 0
                gosched()
                writers -= 1

    for g in [go(f) for f in [read] * 10 + [write] * 5]:
        g.join()
    assert not rw.locked
    assert rw.readers == 0


@pytest.mark.usefixtures("one_p")
def test_rwmutex_waiting_writer_keeps_new_readers_out() -> None:
    rw = sync.RWMutex()
    log: list[str] = []

    def write(name: str) -> None:
        with rw:
            log.append(name)

    def read(name: str) -> None:
        with rw.reader():
            log.append(name)
            gosched()

    rw.rlock()
    writer = parked(go(write, "writer"))
    assert not rw.try_rlock()
    readers = [parked(go(read, f"reader {i}")) for i in range(3)]
    second = parked(go(write, "second writer"))
    rw.runlock()
    for g in [writer, *readers, second]:
        g.join()
    assert log == ["writer", "reader 0", "reader 1", "reader 2", "second writer"]


@pytest.mark.usefixtures("one_p")
def test_rwmutex_last_waiting_writer_that_leaves_lets_the_readers_in() -> None:
    rw = sync.RWMutex()
    rw.rlock()
    writers = [parked(go(rw.lock)) for _ in range(2)]
    readers = [parked(go(rw.rlock)) for _ in range(3)]
    writers[0].cancel()
    gosched()
    assert [g.done() for g in readers] == [False] * 3
    writers[1].cancel()
    for g in readers:
        g.join()
    assert rw.readers == 4
    assert repr(rw).startswith("<RWMutex locked for reading by 4 ")
    for _ in range(4):
        rw.runlock()
    assert rw.try_lock()
    assert repr(rw).startswith("<RWMutex locked at ")


def test_rwmutex_misuse_raises_and_changes_nothing() -> None:
    rw: Any = sync.RWMutex()
    for undo in (rw.unlock, rw.runlock, rw.reader().unlock, lambda: rw.__exit__(None, None, None)):
        with pytest.raises(RuntimeError, match="not locked"):
            undo()
    rw.rlock()
    with pytest.raises(RuntimeError, match=r"use runlock\(\)"):
        rw.unlock()
    rw.runlock()
    rw.lock()
    with pytest.raises(RuntimeError, match=r"use unlock\(\)"):
        rw.runlock()
    assert not rw.try_lock()
    assert not rw.try_rlock()
    rw.unlock()
    assert repr(rw).startswith("<RWMutex unlocked at ")
    with pytest.raises(TypeError):
        type(rw.reader())()
    with pytest.raises(TypeError):
        sync.RWMutex(1)  # type: ignore[call-arg]


def test_rwmutex_with_unlocks_after_an_exception() -> None:
    rw = sync.RWMutex()
    side = rw.reader()
    for lock in (rw, side):
        with pytest.raises(ValueError), lock as entered:
            assert entered is lock
            raise ValueError
        assert rw.try_lock()
        rw.unlock()
    assert side.try_lock()
    assert rw.readers == 1
    side.unlock()


def test_rwmutex_reader_keeps_it_alive_and_is_freed_with_it() -> None:
    rw = sync.RWMutex()
    ref, side = weakref.ref(rw), rw.reader()
    side_ref = weakref.ref(side)
    del rw
    with side:
        pass
    del side
    assert ref() is None
    assert side_ref() is None


@pytest.mark.parametrize("seed", range(4))
def test_rwmutex_threads_and_goroutines_keep_a_pair_consistent(seed: int) -> None:
    rw = sync.RWMutex()
    pair = [0, 0]
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rnd = random.Random(seed)
        for _ in range(60):
            kind = rnd.randrange(4)
            if kind == 0:
                with rw:
                    pair[0] += 1
                    gosched()
                    pair[1] += 1
            elif kind == 1 and rw.try_lock():
                pair[0] += 1
                pair[1] += 1
                rw.unlock()
            elif kind == 2:
                try:
                    rw.rlock(rnd.choice([0, 0.0002, None]))
                except TimeoutError:
                    continue
                assert pair[0] == pair[1]
                rw.runlock()
            else:
                with rw.reader():
                    assert pair[0] == pair[1]
                    gosched()
                    assert pair[0] == pair[1]

    def thread(seed: int) -> None:
        try:
            work(seed)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=thread, args=(seed * 100 + i,)) for i in range(3)]
    for t in threads:
        t.start()
    for g in [go(work, seed * 100 + 50 + i) for i in range(12)]:
        g.join()
    until(lambda: not any(t.is_alive() for t in threads))
    assert not errors
    assert rw.try_lock()
    assert pair[0] == pair[1]
