"""http.middleware.limit_concurrency: so many at once, and a queue that is kept short."""

from __future__ import annotations

import os
import threading

import pytest

import runtime
from runtime import atomic, context, http, httptest, testing
from runtime.http import middleware
from runtime.time import now

limit_concurrency = middleware.limit_concurrency
GET = "GET / HTTP/1.1\r\nHost: t\r\n\r\n"


def ask(handler, target="/", ctx=None):
    r = httptest.new_request("GET", target)
    return httptest.record(handler, r.with_context(ctx) if ctx else r)


def start(handler, target="/", ctx=None):
    """Ask in a goroutine, which has come as far as it can."""
    g = runtime.go(ask, handler, target, ctx)
    testing.wait()
    return g


class Held:
    """A handler that runs until it is let go, and notes who is in it."""

    def __init__(self):
        self.order: list[str] = []
        self.go_on = runtime.Chan()

    def __call__(self, w, r):
        self.order.append(r.path)
        self.go_on.recv()
        return r.path

    def let_go(self, n=1):
        for _ in range(n):
            self.go_on.send(None)
            testing.wait()


# --- places and the queue -------------------------------------------------------------------------


@testing.bubble()
def test_so_many_run_and_the_others_wait_in_order():
    held, limit = Held(), limit_concurrency(2)
    gs = [start(limit(held), f"/{i}") for i in range(5)]
    assert held.order == ["/0", "/1"]
    assert limit.stats() == (2, 3, 0, 0, False)
    held.let_go()
    assert held.order == ["/0", "/1", "/2"]
    assert limit.stats()[:2] == (2, 2)
    held.let_go(4)
    assert held.order == [f"/{i}" for i in range(5)]
    assert [g.join().text for g in gs] == held.order
    assert limit.stats() == (0, 0, 0, 0, False)


@testing.bubble()
def test_request_beyond_the_queue_is_refused_at_once():
    held, limit = Held(), limit_concurrency(1, max_waiting=1, retry_after=2.5)
    gs = [start(limit(held)) for _ in range(2)]
    refused = ask(limit(held))
    assert (refused.status, refused.text) == (503, "too many requests are being served\n")
    assert refused.headers["Retry-After"] == "3"
    assert limit.stats() == (1, 1, 1, 0, False)
    assert now() == 0
    held.let_go(2)
    assert [g.join().status for g in gs] == [200, 200]


@testing.bubble()
def test_request_that_has_waited_for_max_wait_is_refused():
    held, limit = Held(), limit_concurrency(1, max_wait=0.75)
    first = start(limit(held))
    assert ask(limit(held)).status == 503
    assert now() == 0.75
    assert limit.stats()[:3] == (1, 0, 1)
    held.let_go()
    assert first.join().status == 200
    second = start(limit(held))
    held.let_go()
    assert second.join().status == 200


@testing.bubble()
def test_no_queue_means_that_nobody_waits():
    held, limit = Held(), limit_concurrency(1, max_waiting=0)
    g = start(limit(held))
    assert ask(limit(held)).status == 503
    held.let_go()
    assert g.join().status == 200


@testing.bubble()
def test_place_is_free_again_however_the_handler_ends():
    limit = limit_concurrency(1)

    def fails(w, r):
        raise ZeroDivisionError

    def exits(w, r):
        runtime.goexit()

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            limit(fails)(None, httptest.new_request("GET", "/"))
        g = runtime.go(limit(exits), None, httptest.new_request("GET", "/"))
        testing.wait()
        assert g.done()
        g = runtime.go(
            limit(lambda w, r: runtime.sleep(60)), None, httptest.new_request("GET", "/")
        )
        testing.wait()
        assert limit.stats().running == 1
        g.cancel()
        testing.wait()
        assert limit.stats() == (0, 0, 0, 0, False)


@testing.bubble()
def test_waiting_goroutine_that_is_cancelled_leaves_the_queue():
    held, limit = Held(), limit_concurrency(1)
    first, second, third = (start(limit(held), f"/{i}") for i in range(3))
    second.cancel()
    testing.wait()
    assert limit.stats() == (1, 1, 0, 0, False)
    held.let_go(2)
    assert held.order == ["/0", "/2"]
    assert first.join().status == third.join().status == 200


@testing.bubble()
def test_request_whose_context_ends_leaves_the_queue():
    held, limit = Held(), limit_concurrency(1)
    first = start(limit(held))
    ctx, cancel = context.with_cancel(context.background())
    second = start(limit(held), "/", ctx)
    brief, stop = context.with_timeout(context.background(), 0.5)
    third = start(limit(held), "/", brief)
    assert limit.stats() == (1, 2, 0, 0, False)
    cancel()
    testing.wait()
    assert limit.stats() == (1, 1, 0, 1, False)
    assert third.join().status == second.join().status == 503
    assert now() == 0.5
    assert ask(limit(held), "/", ctx).status == 503  # it has ended before
    assert limit.stats() == (1, 0, 0, 3, False)
    held.let_go()
    assert first.join().status == 200
    stop()


@testing.bubble()
def test_exempt_requests_run_without_a_place():
    held = Held()
    limit = limit_concurrency(1, max_waiting=0, exempt=lambda r: r.path == "/healthz")
    first = start(limit(held))
    health = [start(limit(held), "/healthz") for _ in range(3)]
    assert held.order == ["/", *["/healthz"] * 3]
    assert ask(limit(held)).status == 503
    assert limit.stats() == (1, 0, 1, 0, False)
    held.let_go(4)
    assert {g.join().status for g in [first, *health]} == {200}


@testing.bubble()
def test_handlers_of_one_limit_share_it_and_refused_are_answered_otherwise():
    def busy(w, r):
        return {"busy": True}

    held, mux, limit = Held(), http.ServeMux(), limit_concurrency(1, max_waiting=0, deny=busy)
    mux.use(limit)
    mux.handle("/a", held)
    mux.handle("/b", held)
    g = start(mux, "/a")
    refused = ask(mux, "/b")
    assert (refused.status, refused.json()) == (200, {"busy": True})
    assert refused.headers["Retry-After"] == "1"
    assert ask(mux, "/nowhere").status == 404
    held.let_go()
    assert g.join().text == "/a"


# --- overload -------------------------------------------------------------------------------------


def load(limit, work, period, seconds):
    """Requests that take `work` seconds come each `period`: [(when, waited or None if shed)]."""
    found: list[tuple[float, float | None]] = []

    def one():
        came = now()
        began = []

        def handler(w, r):
            began.append(now())
            runtime.sleep(work)

        ask(limit(handler))
        found.append((came, began[0] - came if began else None))

    gs = []
    end = now() + seconds
    while now() < end:
        gs.append(runtime.go(one))
        runtime.sleep(period)
    for g in gs:
        g.join()
    return sorted(found)


@testing.bubble()
def test_burst_that_is_worked_off_is_not_overload():
    """Thirty at once, ten seconds of quiet: all are served, though the last waits long."""
    limit = limit_concurrency(1, target_delay=0.005, interval=0.1, max_wait=2)

    def handler(w, r):
        runtime.sleep(0.003)

    for _ in range(3):
        gs = [runtime.go(ask, limit(handler)) for _ in range(30)]
        assert [g.join().status for g in gs] == [200] * 30
        runtime.sleep(10)
    assert limit.stats().shed == 0


@testing.bubble()
def test_overload_is_shed_and_those_served_are_served_soon():
    limit = limit_concurrency(4, target_delay=0.005, interval=0.1, max_wait=5)
    found = load(limit, work=0.004, period=0.0005, seconds=3)  # twice what can be served
    settled = [waited for came, waited in found if came > 0.5]
    served = sorted(w for w in settled if w is not None)
    # All the time the places are in use,
    assert len(served) >= 0.95 * 2.5 / 0.001
    # and nobody waits much longer than twice the target.
    assert served[-1] <= 0.0101
    stats = limit.stats()
    assert stats.shed == sum(w is None for _, w in found) > 1000
    assert stats[:2] == (0, 0)


@testing.bubble()
def test_without_shedding_the_same_load_waits_for_seconds():
    """What the test before would look like if only max_wait were there."""
    limit = limit_concurrency(4, target_delay=1000, interval=0.1, max_wait=5)
    found = load(limit, work=0.004, period=0.0005, seconds=3)
    assert max(w for _, w in found if w is not None) > 1


@testing.bubble()
def test_in_overload_the_last_to_come_is_served_first_and_the_old_are_shed():
    held = Held()
    limit = limit_concurrency(1, target_delay=0.01, interval=0.1, max_wait=60)
    handler = limit(held)
    running = start(handler, "/running")
    old = [start(handler, f"/old/{i}") for i in range(3)]
    runtime.sleep(0.15)
    # The interval is over, and all of it the queue has been too slow.
    newer = [start(handler, f"/new/{i}") for i in range(2)]
    assert [g.join().status for g in old] == [503] * 3
    assert limit.stats() == (1, 2, 3, 0, True)
    assert now() == 0.15
    runtime.sleep(0.015)
    held.let_go()
    assert held.order == ["/running", "/new/1"]
    # Who is not served waits no longer than twice the target.
    assert newer[0].join().status == 503
    assert now() == pytest.approx(0.17)
    held.let_go()
    assert newer[1].join().status == running.join().status == 200


@testing.bubble()
def test_who_has_not_waited_long_is_not_shed_for_one_that_has_just_given_up():
    ctx, cancel = context.with_cancel(context.background())

    def handler(w, r):
        if r.path == "/running":
            runtime.sleep(0.115)
            cancel()  # and the place is free before the old one has left the queue
        return r.path

    limit = limit_concurrency(1, target_delay=0.01, interval=0.1, max_wait=60)
    running = start(limit(handler), "/running")
    old = start(limit(handler), "/old", ctx)
    runtime.sleep(0.105)
    young = start(limit(handler), "/young")
    assert running.join().text == "/running"
    assert young.join().text == "/young"
    assert old.join().status == 503
    assert limit.stats() == (0, 0, 0, 1, False)


@testing.bubble()
def test_overload_ends_when_the_queue_is_short_again():
    limit = limit_concurrency(1, target_delay=0.005, interval=0.1, max_wait=5)
    load(limit, work=0.01, period=0.002, seconds=1)
    shed = limit.stats().shed
    assert shed > 0
    runtime.sleep(1)
    # Two at a time that wait for 20 ms, but not all the time.
    for _ in range(50):
        assert {w is None for _, w in load(limit, work=0.02, period=0.01, seconds=0.02)} == {False}
        runtime.sleep(0.05)
    assert limit.stats() == (0, 0, shed, 0, False)


@testing.bubble()
def test_stuck_handlers_are_overload_too():
    """No place becomes free, so nothing but who comes can tell."""
    held = Held()
    limit = limit_concurrency(1, target_delay=0.005, interval=0.1, max_wait=60)
    first = start(limit(held))
    found = load(limit, work=0, period=0.01, seconds=2)
    assert [w for _, w in found if w is not None] == []
    assert limit.stats()[:2] == (1, 0)
    assert now() < 2.1
    held.let_go()
    assert first.join().status == 200


# --- a real server --------------------------------------------------------------------------------


def test_client_that_goes_away_leaves_the_queue(serve, wait_until):
    limit = limit_concurrency(1, max_wait=60, interval=60)
    go_on: runtime.Chan = runtime.Chan()
    served = serve(limit(lambda w, r: go_on.recv(timeout=60)))
    with served.connect() as first, served.connect() as third:
        first.send(GET)
        wait_until("one runs", lambda: limit.stats().running == 1)
        second = served.connect().send(GET)
        wait_until("one waits", lambda: limit.stats().waiting == 1)
        third.send(GET)
        wait_until("two wait", lambda: limit.stats().waiting == 2)
        second.close()
        wait_until("it has left", lambda: limit.stats()[:4] == (1, 1, 0, 1))
        for c in (first, third):
            go_on.send(None, timeout=60)
            assert c.response().status == 200
    wait_until("none runs", lambda: limit.stats().running == 0)


def test_never_more_than_the_limit_run_on_several_ps(procs, serve):
    limit = limit_concurrency(3, max_wait=60, interval=60)
    running, most, served = atomic.Int64(), atomic.Int64(), atomic.Int64()

    def handler(w, r):
        n = running.add()
        while (seen := most.load()) < n and not most.compare_and_swap(seen, n):
            pass
        runtime.gosched()
        if r.path == "/sleep":
            runtime.sleep(0.0001)
        running.add(-1)
        served.add()
        return "ok"

    address = serve(limit(handler))
    failures: list[object] = []

    def client(i):
        with address.connect() as c:
            for n in range(60):
                path = "/sleep" if n % 3 == i % 3 else "/"
                status = c.send(GET.replace("/ ", f"{path} ", 1)).response().status
                if status != 200:
                    failures.append(status)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    assert served.load() == 600
    assert 1 <= most.load() <= 3
    assert limit.stats() == (0, 0, 0, 0, False)


def test_counts_hold_under_random_load_on_several_ps(procs):
    """Clients that give up at any moment, a queue that is too short, overload on and off."""
    limit = limit_concurrency(2, max_waiting=8, max_wait=0.002, target_delay=0.0005, interval=0.002)
    running, answered, refused = atomic.Int64(), atomic.Int64(), atomic.Int64()
    wrong = atomic.Int64()

    def handler(w, r):
        if running.add() > 2:
            wrong.add()
        runtime.sleep(0.0003)
        running.add(-1)

    guarded = limit(handler)

    def client(i):
        for n in range(40):
            ctx, cancel = context.with_cancel(context.background())
            if (n + i) % 3 == 0:
                runtime.go(cancel)
            status = ask(guarded, "/", ctx).status
            (answered if status == 200 else refused).add()
            cancel()

    with runtime.Group() as group:
        for i in range(16):
            group.go(client, i)
    stats = limit.stats()
    assert wrong.load() == 0
    assert stats[:2] == (0, 0)
    assert stats.shed + stats.gone == refused.load()
    assert answered.load() + refused.load() == 16 * 40
    assert answered.load() > 0


def test_no_schedule_loses_a_place_or_gives_one_twice():
    """Four at once, one of whom gives up while he waits, and one who waits for too long."""

    def body():
        limit = limit_concurrency(1, max_wait=0.001, target_delay=0.0001, interval=0.0002)
        inside = []

        def handler(w, r):
            inside.append(r)
            assert len(inside) == 1
            runtime.sleep(0.0006)
            inside.pop()

        guarded = limit(handler)
        ctx, cancel = context.with_cancel(context.background())
        gs = [runtime.go(ask, guarded, "/", ctx if i == 1 else None) for i in range(4)]
        runtime.sleep(0.0003)
        cancel()
        found = [g.join().status for g in gs]
        stats = limit.stats()
        assert stats[:2] == (0, 0)
        assert stats.shed + stats.gone == found.count(503) == 4 - found.count(200) < 4
        assert ask(limit(lambda w, r: "ok")).status == 200

    testing.explore(body, seeds=range(60), preempt="line")


def test_forked_child_begins_with_all_places():
    limit = limit_concurrency(1, max_waiting=0)

    def handler(w, r):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if ask(limit(lambda w, r: "ok")).status == 200 else 2
            finally:
                os._exit(status)
        return str(os.waitpid(pid, 0)[1])

    assert ask(limit(handler)).text == "0"
    assert limit.stats() == (0, 0, 0, 0, False)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "max_running is 1 or more, not 0", {"max_running": 0}),
        (TypeError, "max_running is an int, not float", {"max_running": 2.5}),
        (TypeError, "max_running is an int, not bool", {"max_running": True}),
        (ValueError, "max_waiting is 0 or more", {"max_waiting": -1}),
        (ValueError, "max_waiting is 0 or more", {"max_waiting": 1 << 31}),
        (ValueError, "target_delay", {"target_delay": 0}),
        (ValueError, "interval", {"interval": float("nan")}),
        (ValueError, "max_wait", {"max_wait": float("inf")}),
        (ValueError, "retry_after", {"retry_after": -1}),
        (TypeError, "exempt", {"exempt": "/healthz"}),
        (TypeError, "deny", {"deny": 5}),
    ],
)
def test_argument_that_is_out_of_range_raises(error, match, options):
    with pytest.raises(error, match=match):
        limit_concurrency(**({"max_running": 5} | options))


def test_handler_must_be_one():
    with pytest.raises(TypeError, match=r"limit_concurrency\(\): a handler is needed, not str"):
        limit_concurrency(1)("no")
