"""Nobody starves: not the queues, not timers, not wake-ups by other threads."""

import threading

import pytest

from runtime import Chan, Goroutine, go, gosched, nopreempt, sleep

# The order in which one P runs things, or greenlets of the calling thread.
pytestmark = pytest.mark.usefixtures("one_p")


class Background:
    """Goroutines that go on for ever until stopped."""

    def __init__(self) -> None:
        self.stop = False
        self.rounds = 0
        self.gs: list[Goroutine[None]] = []

    def ping_pong(self) -> None:
        a: Chan[int] = Chan()
        b: Chan[int] = Chan()

        def ping() -> None:
            while not self.stop:
                a.send(1)
                b.recv()
                self.rounds += 1
            a.close()

        def pong() -> None:
            for x in a:
                b.send(x)

        self.gs += [go(ping), go(pong)]

    def yielder(self) -> None:
        def body() -> None:
            while not self.stop:
                gosched()
                self.rounds += 1

        self.gs.append(go(body))

    def spawner(self) -> None:
        def generation() -> None:
            self.rounds += 1
            if not self.stop:
                go(generation)

        def keeper() -> None:
            while not self.stop:
                gosched()

        go(generation)
        self.gs.append(go(keeper))

    def end(self) -> None:
        self.stop = True
        for g in self.gs:
            g.join()


@pytest.fixture(params=["ping_pong", "yielder", "spawner", "all"])
def background(request: pytest.FixtureRequest) -> Background:
    b = Background()
    for kind in ["ping_pong", "yielder", "spawner"]:
        if request.param in (kind, "all"):
            getattr(b, kind)()
            getattr(b, kind)()
    return b


def test_busy_goroutines_do_not_starve_one_that_yields(background: Background) -> None:
    def body() -> int:
        before = background.rounds
        for _ in range(100):
            gosched()
        return background.rounds - before

    rounds = go(body).join()
    assert 0 < rounds < 100 * 200  # RT_RUNNEXT_MAX turns each, and some
    background.end()


def test_busy_goroutines_do_not_starve_main(background: Background) -> None:
    for _ in range(100):
        gosched()
    background.end()


def test_busy_goroutines_do_not_starve_timers(background: Background) -> None:
    sleepers = [go(sleep, 0.001 * i) for i in range(5)]
    for g in sleepers:
        g.join()
    with pytest.raises(TimeoutError):
        Chan[int]().recv(timeout=0.001)
    background.end()


def test_busy_goroutines_do_not_starve_fresh_ones(background: Background) -> None:
    # More than the ring holds: some go by way of the global queue.
    gs = [go(lambda: None) for _ in range(600)]
    for g in gs:
        g.join()
    background.end()


def test_busy_goroutines_do_not_starve_wakeups_by_threads(background: Background) -> None:
    ch: Chan[int] = Chan()

    def thread() -> None:
        for i in range(20):
            ch.send(i)

    t = threading.Thread(target=thread)
    t.start()
    assert [ch.recv() for _ in range(20)] == list(range(20))
    background.end()
    t.join()


def test_gosched_among_many_is_round_robin() -> None:
    log: list[int] = []

    def body(i: int) -> None:
        with nopreempt():  # being preempted costs a turn
            for _ in range(10):
                log.append(i)
                gosched()

    gs = [go(body, i) for i in range(20)]
    for g in gs:
        g.join()
    order = log[:20]
    assert sorted(order) == list(range(20))
    assert log == order * 10


def test_gosched_alone_returns_at_once() -> None:
    for _ in range(1000):
        gosched()


def test_sleeping_goroutine_wakes_while_others_yield() -> None:
    stop = False

    def yields() -> None:
        while not stop:
            gosched()

    gs = [go(yields) for _ in range(10)]
    sleep(0.002)
    go(sleep, 0.002).join()
    stop = True
    for g in gs:
        g.join()


def test_woken_goroutines_run_before_those_that_yield_later() -> None:
    ch: Chan[int] = Chan()
    log: list[str] = []
    waiters = [go(lambda: log.append(f"woken {ch.recv()}")) for _ in range(3)]
    gosched()
    for i in range(3):
        ch.send(i)
    log.append("main")
    for g in waiters:
        g.join()
    assert sorted(log) == ["main", "woken 0", "woken 1", "woken 2"]


def test_mutex_contention_gives_everybody_a_turn() -> None:
    from runtime import Mutex

    mu = Mutex()
    counts = [0] * 5
    stop = False

    def body(i: int) -> None:
        while not stop:
            with mu:
                counts[i] += 1
                gosched()

    gs = [go(body, i) for i in range(5)]
    while min(counts) < 50:  # how uneven it is meanwhile is as in Go: by who is quicker
        gosched()
    stop = True
    for g in gs:
        g.join()
