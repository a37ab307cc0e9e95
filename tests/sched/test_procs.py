"""Several Ps: GOMAXPROCS, stealing, the spare P, locked threads."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

import runtime
from programs import run
from runtime import Cancelled, Chan, Mutex, WaitGroup, current, go, goroutines, gosched, sleep
from waits import settle


@pytest.fixture(params=[2, 4])
def procs(request: pytest.FixtureRequest) -> Iterator[int]:
    before = runtime.gomaxprocs(request.param)
    yield request.param
    runtime.gomaxprocs(before)


def test_gomaxprocs_returns_the_previous_setting() -> None:
    before = runtime.gomaxprocs(3)
    assert runtime.gomaxprocs() == 3
    assert runtime.gomaxprocs(n=1) == 3
    assert runtime.gomaxprocs(None) == 1
    assert runtime.stats()["gomaxprocs"] == 1
    runtime.gomaxprocs(before)


def test_environment_sets_gomaxprocs() -> None:
    done = run("import runtime; print(runtime.gomaxprocs())", GOMAXPROCS="5")
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


def test_work_of_one_p_spreads_over_all(procs: int) -> None:
    """Each waits until all run at the same time, on threads of their own."""
    idents: list[int] = []
    barrier = threading.Barrier(procs, timeout=60)

    def work() -> None:
        idents.append(threading.get_ident())
        barrier.wait()  # blocks the thread

    gs = [go(work) for _ in range(procs)]
    for g in gs:
        g.join()
    assert len(set(idents)) == procs


def test_each_goroutine_runs_once_whoever_spawns_it(procs: int) -> None:
    seen: list[tuple[int, int]] = []
    each = 3000
    wg = WaitGroup()
    wg.add(8 * each)

    def body(thread: int, i: int) -> None:
        seen.append((thread, i))
        if i % 50 == 0:
            gosched()
        wg.done()

    def spawner(thread: int) -> None:
        for i in range(each):
            go(body, thread, i)

    threads = [threading.Thread(target=spawner, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    wg.wait()
    for t in threads:
        t.join()
    assert len(seen) == 8 * each
    assert set(seen) == {(t, i) for t in range(8) for i in range(each)}


def test_a_million_goroutines_of_eight_threads_run_once_each(procs: int) -> None:
    each = 125_000
    runs = bytearray(8 * each)

    def body(i: int) -> None:
        runs[i] += 1

    def spawner(thread: int) -> None:
        for i in range(thread * each, (thread + 1) * each):
            go(body, i)

    threads = [threading.Thread(target=spawner, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        runtime.blocking(t.join)
    while sum(runs) < len(runs):
        gosched()
    assert runs.count(1) == len(runs)


def test_a_goroutine_stays_on_its_thread(procs: int) -> None:
    def body() -> bool:
        thread = threading.get_ident()
        for _ in range(20):
            gosched()
            sleep(0.0001)
            if threading.get_ident() != thread:
                return False
        return True

    assert all(g.join() for g in [go(body) for _ in range(200)])


def test_channels_and_locks_between_ps(procs: int) -> None:
    jobs: Chan[int] = Chan()
    results: Chan[int] = Chan(3)
    mu = Mutex()
    totals: Counter[str] = Counter()

    def worker() -> None:
        for n in jobs:
            with mu:
                totals["jobs"] += 1
            results.send(n * n)

    def feeder() -> None:
        for n in range(2000):
            jobs.send(n)
        jobs.close()

    workers = [go(worker) for _ in range(10)]
    feed = go(feeder)
    assert sorted(results.recv() for _ in range(2000)) == [n * n for n in range(2000)]
    for g in [*workers, feed]:
        g.join()
    assert totals["jobs"] == 2000


def test_cancel_reaches_goroutines_of_other_ps(procs: int) -> None:
    ch: Chan[int] = Chan()
    ended: list[str] = []

    def body() -> None:
        try:
            ch.recv()
        except Cancelled:
            ended.append("cancelled")
            raise

    gs = [go(body) for _ in range(300)]
    while any(g.state != "waiting" for g in gs):
        gosched()
    for g in gs:
        assert g.cancel()
    for g in gs:
        with pytest.raises(Cancelled):
            g.join()
    assert len(ended) == 300


def test_changing_gomaxprocs_under_load_loses_nothing() -> None:
    before = runtime.gomaxprocs()
    done = WaitGroup()
    done.add(4000)

    def body(i: int) -> None:
        if i % 3:
            sleep(0.0001)
        gosched()
        done.done()

    for i in range(4000):
        go(body, i)
        if i % 40 == 0:
            runtime.gomaxprocs(i // 40 % 4 + 1)
    done.wait()
    runtime.gomaxprocs(before)


def test_a_thread_that_blocks_lets_its_fresh_goroutines_run_elsewhere() -> None:
    """With one P, too: sysmon lends them to the spare one."""
    before = runtime.gomaxprocs(1)
    ran = threading.Event()
    go(ran.set)
    assert ran.wait(60), "the main thread blocked, and nobody else ran the goroutine"
    runtime.gomaxprocs(before)


def test_locked_thread_takes_no_new_goroutines(procs: int) -> None:
    def locked() -> set[int]:
        runtime.lock_os_thread()
        runtime.lock_os_thread()
        others = [go(threading.get_ident) for _ in range(20)]
        idents = {g.join() for g in others}
        runtime.unlock_os_thread()
        idents |= {go(threading.get_ident).join() for _ in range(5)}
        assert threading.get_ident() not in idents
        runtime.unlock_os_thread()
        return idents

    assert go(locked).join()


def test_lock_ends_with_the_goroutine() -> None:
    before = runtime.gomaxprocs(1)
    go(runtime.lock_os_thread).join()
    main = threading.get_ident()
    deadline = time.monotonic() + 60
    while go(threading.get_ident).join() != main:
        assert time.monotonic() < deadline
    runtime.gomaxprocs(before)


def test_num_goroutine_and_stats_agree_with_several_ps(procs: int) -> None:
    ch: Chan[None] = Chan()
    settle()  # what others have left waits
    before = runtime.num_goroutine()
    gs = [go(ch.recv) for _ in range(100)]
    assert runtime.num_goroutine() == before + 100
    ch.close()
    for g in gs:
        with pytest.raises(runtime.ChanClosed):
            g.join()
    s = runtime.stats()
    assert s["created"] - s["finished"] + 1 == s["goroutines"] == before
    assert current().state == "running"


def test_goroutines_of_the_runtime_itself_are_not_counted(procs: int) -> None:
    """Without a GIL it merges reference counts in goroutines of its own, when there is time."""
    ch: Chan[list[None]] = Chan()
    settle()  # what others have left waits
    before = runtime.stats()
    for _ in range(3):
        gs = [go(ch.recv) for _ in range(3000)]
        for _ in gs:
            ch.send([])
        for g in gs:
            g.join()
        assert len(goroutines()) == runtime.num_goroutine() == before["goroutines"]
    after = runtime.stats()
    assert after["created"] - before["created"] == 9000
    assert after["finished"] - before["finished"] == 9000


@pytest.mark.parametrize("n", ["1", "2", "4"])
def test_deadlock_is_found_with_any_number_of_ps(n: str) -> None:
    done = run(
        """
        from runtime import *
        ch = Chan()
        for _ in range(20):
            go(lambda: [gosched() for _ in range(10)])
        for _ in range(5):
            go(ch.recv)
        try:
            ch.recv()
        except DeadlockError:
            print("deadlock")
        """,
        GOMAXPROCS=n,
    )
    assert (done.returncode, done.stdout) == (0, "deadlock\n")
    assert done.stderr.startswith("fatal error: all goroutines are asleep - deadlock!")


@pytest.mark.parametrize("options", [[], ["-X", "dev"]], ids=["plain", "dev"])
def test_exit_while_several_ms_compute_park_and_sleep(options: list[str]) -> None:
    done = run(
        """
        import threading
        from runtime import *

        together = threading.Barrier(4)

        def spin():
            together.wait()
            while True:
                pass

        for _ in range(1000):
            go(Chan().recv)
            go(sleep, 1000)
        spinners = [go(spin) for _ in range(3)]
        together.wait()
        print("end")
        """,
        *options,
        GOMAXPROCS="4",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
