"""Threads that are not the runtime's: they spawn, join, send, receive, lock and wait."""

import contextvars
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import runtime
from programs import run
from runtime import Chan, ChanClosed, Goroutine, Mutex, WaitGroup, current, go, gosched, sleep


class Thread(threading.Thread):
    """A thread whose join() raises what its function raised."""

    def __init__(self, fn: Any, *args: Any) -> None:
        super().__init__(daemon=True)
        self.fn, self.fn_args = fn, args
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.fn(*self.fn_args)
        except BaseException as e:
            self.error = e

    def get(self) -> Any:
        self.join()
        if self.error is not None:
            raise self.error
        return self.result


# --- spawning -------------------------------------------------------------------------------------


def test_thread_spawns_and_joins() -> None:
    assert Thread(lambda: go(lambda x: x + 1, 41).join()).get() == 42


def test_thread_goroutine_runs_while_main_is_stuck() -> None:
    done = threading.Event()

    def thread() -> None:
        go(done.set)
        assert done.wait()

    Thread(thread).get()  # main is in Thread.join() all the time


@pytest.mark.usefixtures("one_p")
def test_thread_goroutines_run_on_another_thread_all_on_the_same() -> None:
    def thread() -> set[int]:
        gs = [go(threading.get_ident) for _ in range(10)]
        return {g.join() for g in gs}

    idents = Thread(thread).get() | Thread(thread).get()
    assert len(idents) == 1
    assert threading.get_ident() not in idents


@pytest.mark.usefixtures("one_p")
def test_thread_spawned_goroutine_spawns_there_too() -> None:
    def nested() -> tuple[int, int]:
        return threading.get_ident(), go(threading.get_ident).join()

    here, there = Thread(lambda: go(nested).join()).get()
    assert here == there


def test_thread_spawns_more_than_the_ring() -> None:
    def thread() -> int:
        seen: list[int] = []
        gs = [go(seen.append, i) for i in range(3000)]
        for g in gs:
            g.join()
        return len(set(seen))

    assert Thread(thread).get() == 3000


def test_thread_goroutine_exception_is_raised_by_join_in_main() -> None:
    g: Goroutine[Any] = Thread(lambda: go(lambda: 1 / 0)).get()
    with pytest.raises(ZeroDivisionError):
        g.join()


def test_thread_goroutine_has_name_place_and_context() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    def thread() -> Goroutine[Any]:
        var.set("thread's")
        return go.named("from thread")(lambda: (var.get(), current().name))

    g = Thread(thread).get()
    assert g.join() == ("thread's", "from thread")
    assert g.spawned_at[2].endswith("thread")
    assert var.get("unset") == "unset"


def test_thread_goroutines_go_on_after_the_thread_has_ended() -> None:
    ch: Chan[int] = Chan()

    def body() -> str:
        ch.recv()
        sleep(0.001)
        gosched()
        return "still here"

    g = Thread(lambda: go(body)).get()
    ch.send(1)
    assert g.join() == "still here"


def test_thread_current_stands_for_the_thread() -> None:
    def thread() -> Any:
        me = current()
        assert me is current()
        with pytest.raises(RuntimeError):
            me.join()
        return me, me.name, me.state, threading.get_ident()

    me, name, state, ident = Thread(thread).get()
    assert name == f"thread-{ident}"
    assert state == "running"
    with pytest.raises(RuntimeError, match="Thread"):
        me.join()
    with pytest.raises(RuntimeError, match="Thread"):
        go(me.join).join()


def test_thread_goexit_raises_runtime_error() -> None:
    with pytest.raises(RuntimeError, match="plain"):
        Thread(runtime.goexit).get()


def test_thread_gosched_and_sleep_return() -> None:
    def thread() -> str:
        gosched()
        sleep(0)
        sleep(0.001)
        return "ok"

    assert Thread(thread).get() == "ok"


# --- channels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, 1, 7])
def test_thread_to_main_in_order(capacity: int) -> None:
    ch: Chan[int] = Chan(capacity)

    def thread() -> None:
        for i in range(500):
            ch.send(i)
        ch.close()

    t = Thread(thread)
    assert list(ch) == list(range(500))
    t.get()


@pytest.mark.parametrize("capacity", [0, 1, 7])
def test_main_to_thread_in_order(capacity: int) -> None:
    ch: Chan[int] = Chan(capacity)
    t = Thread(lambda: list(ch))
    for i in range(500):
        ch.send(i)
    ch.close()
    assert t.get() == list(range(500))


def test_thread_to_thread_without_main() -> None:
    ch: Chan[int] = Chan()
    receiver = Thread(lambda: [ch.recv() for _ in range(500)])
    sender = Thread(lambda: [ch.send(i) for i in range(500)])
    assert receiver.get() == list(range(500))
    sender.get()


def test_thread_to_its_goroutine_and_back() -> None:
    def thread() -> list[int]:
        a: Chan[int] = Chan()
        b: Chan[int] = Chan()

        def square() -> None:
            for x in a:
                b.send(x * x)

        go(square)
        out = []
        for i in range(200):
            a.send(i)
            out.append(b.recv())
        a.close()
        return out

    assert Thread(thread).get() == [i * i for i in range(200)]


def test_thread_timeouts_lose_nothing() -> None:
    ch: Chan[str] = Chan()

    def thread() -> None:
        for wait in (ch.recv, ch.recv_ok, lambda timeout: ch.send("lost", timeout)):
            with pytest.raises(TimeoutError):
                wait(timeout=0.001)
            with pytest.raises(TimeoutError):
                wait(timeout=0)

    Thread(thread).get()
    assert ch.try_recv() == (None, False)
    assert not ch.try_send("nobody there")


def test_thread_with_timeout_gets_what_comes_in_time() -> None:
    ch: Chan[int] = Chan()
    t = Thread(lambda: [ch.recv(timeout=1000), ch.recv(1000)])
    ch.send(1)
    ch.send(2)
    assert t.get() == [1, 2]


def test_thread_timeouts_racing_with_values_lose_nothing() -> None:
    ch: Chan[int] = Chan()
    received: list[int] = []

    def thread() -> None:
        while True:
            try:
                received.append(ch.recv(timeout=0.00005))
            except TimeoutError:
                pass
            except ChanClosed:
                return

    threads = [Thread(thread) for _ in range(3)]
    sent = 0
    for i in range(300):
        try:
            ch.send(i, timeout=0.0001)
        except TimeoutError:
            continue
        sent += 1
        received_or_on_its_way = i
    ch.close()
    for t in threads:
        t.get()
    assert len(received) == len(set(received)) == sent
    assert sent == 0 or received_or_on_its_way in received


def test_close_wakes_threads() -> None:
    ch: Chan[int] = Chan()
    threads = [Thread(ch.recv_ok) for _ in range(5)]
    ch.close()
    assert [t.get() for t in threads] == [(None, False)] * 5


def test_join_from_threads_and_goroutines_at_once() -> None:
    ch: Chan[str] = Chan()
    g = go(ch.recv)
    waiting = [Thread(g.join) for _ in range(5)]
    parked = [go(g.join) for _ in range(5)]
    ch.send("result")
    assert [p.join() for p in parked] == ["result"] * 5
    assert [t.get() for t in waiting] == ["result"] * 5


def test_join_timeout_on_a_thread() -> None:
    ch: Chan[str] = Chan()
    g = go(ch.recv)

    def thread() -> str:
        with pytest.raises(TimeoutError):
            g.join(0.001)
        go(ch.send, "late")
        return g.join(timeout=1000)

    t = Thread(thread)
    assert g.join() == "late"  # g runs here: main must schedule
    assert t.get() == "late"


def test_mutex_between_threads_and_goroutines() -> None:
    mu = Mutex()
    counter = 0

    def bump() -> None:
        nonlocal counter
        for _ in range(100):
            with mu:
                value = counter
                gosched()
                counter = value + 1

    threads = [Thread(bump) for _ in range(3)]
    from_threads = [Thread(lambda: go(bump)).get() for _ in range(2)]
    mine = [go(bump) for _ in range(3)]
    for g in mine + from_threads:
        g.join()
    for t in threads:
        t.get()
    assert counter == 800
    assert not mu.locked


def test_mutex_timeout_on_a_thread() -> None:
    mu = Mutex()
    mu.lock()

    def thread() -> None:
        with pytest.raises(TimeoutError):
            mu.lock(timeout=0.001)

    Thread(thread).get()
    mu.unlock()
    assert mu.try_lock()


def test_waitgroup_between_threads_and_goroutines() -> None:
    wg = WaitGroup()
    wg.add(30)
    waiting = [Thread(wg.wait) for _ in range(3)]
    for _ in range(10):
        go(wg.done)
    threads = [Thread(wg.done) for _ in range(10)]
    spawners = [Thread(go, wg.done) for _ in range(10)]
    wg.wait()
    for t in waiting + threads + spawners:
        t.get()


def test_many_threads_and_goroutines_exchange_an_exact_multiset() -> None:
    values: Chan[tuple[int, int]] = Chan(5)
    results: Chan[Counter[tuple[int, int]]] = Chan(100)
    producers, n = WaitGroup(), 100

    def produce(who: int) -> None:
        for i in range(n):
            values.send((who, i))
        producers.done()

    def consume() -> None:
        results.send(Counter(values))

    producers.add(18)
    threads = [Thread(produce, who) for who in range(6)] + [Thread(consume) for _ in range(6)]
    for who in range(6, 12):
        go(produce, who)
        go(consume)
    spawners = [Thread(go, produce, who) for who in range(12, 18)]
    spawners += [Thread(go, consume) for _ in range(6)]
    producers.wait()
    values.close()
    total: Counter[tuple[int, int]] = Counter()
    for _ in range(18):
        total += results.recv()
    assert total == Counter((who, i) for who in range(18) for i in range(n))
    for t in threads + spawners:
        t.get()


def test_pool_workers_use_channels() -> None:
    requests: Chan[int] = Chan()
    answers: Chan[int] = Chan()

    def server() -> None:
        for x in requests:
            answers.send(-x)

    servers = [go(server) for _ in range(3)]

    def work(x: int) -> int:
        requests.send(x)
        return answers.recv()

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(work, x) for x in range(1, 201)]
        # Main must not block in the pool: the servers run on it.
        for f in futures:
            while not f.done():
                sleep(0.0001)
        requests.close()
        assert sorted(f.result() for f in futures) == sorted(-x for x in range(1, 201))
    for g in servers:
        g.join()


def test_threads_come_and_go() -> None:
    ch: Chan[int] = Chan()
    for i in range(200):
        t = Thread(ch.send, i)
        assert ch.recv() == i
        t.get()


# --- the end of a thread --------------------------------------------------------------------------


def test_finalizers_at_the_end_of_a_thread_may_block() -> None:
    done = run(
        """
        import _thread, contextvars, os, threading
        from runtime import *

        ch = Chan()
        local, var = threading.local(), contextvars.ContextVar("var")

        class Last:
            def __init__(self, name):
                self.name = name
            def __del__(self):
                ch.send((self.name, current().name == f"thread-{threading.get_ident()}"))

        def thread():
            ch.send(threading.get_native_id())
            local.value = Last("local")
            var.set(Last("context"))

        for _ in range(20):
            # A threading.Thread keeps its context from 3.14 on.
            _thread.start_new_thread(thread, ())
            tid = ch.recv()
            assert sorted([ch.recv(), ch.recv()]) == [("context", True), ("local", True)]
            while os.path.exists(f"/proc/self/task/{tid}"):
                gosched()
        print("ok")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


# --- the main thread comes later ------------------------------------------------------------------


def test_first_import_in_another_thread() -> None:
    done = run(
        """
        import threading

        def thread():
            import runtime
            ch = runtime.Chan()
            g = runtime.go(lambda: ch.send(5))
            print(ch.recv(), g.join())
            try:
                ch.recv(timeout=0.001)
            except TimeoutError:
                print("timeout")

        t = threading.Thread(target=thread)
        t.start()
        t.join()

        from runtime import *
        print(current().name, go(lambda: "main's").join())
        ch = Chan()
        threading.Thread(target=lambda: go(ch.send, "aux's")).start()
        print(ch.recv())
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "5 None\ntimeout\nmain main's\naux's\n"


def test_first_import_in_another_thread_blocks_before_any_goroutine() -> None:
    done = run(
        """
        import threading

        box = []
        ready = threading.Event()

        def thread():
            import runtime
            box.append(runtime.Chan())
            ready.set()
            print(box[0].recv())

        t = threading.Thread(target=thread)
        t.start()
        ready.wait()
        box[0].send("from main")
        t.join()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "from main\n", "")


def test_first_import_in_another_thread_sys_exit_ends_the_program() -> None:
    done = run(
        """
        import sys, threading

        def thread():
            import runtime
            runtime.go(sys.exit, 3)

        threading.Thread(target=thread).start()
        while True:
            pass
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
