"""What runtime.stats() counts, and snapshots of everything."""

import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from programs import run
from runtime import Chan, _stats, atomic, blocking, go, gosched, num_goroutine, stats
from waits import Gate, parked, settle, until

# Keys of what only ever grows.
P_COUNTERS = (
    *("ticks", "runnext_hits", "switches", "steals", "stolen", "global", "inbox_takes"),
    *("overflows", "preemptions", "polls", "blocking_polls", "poll_events", "wakeups"),
    *("timers_fired", "idle_ns", "spinning_ns", "workers"),
)


@pytest.fixture(params=[1, 2, 4])
def procs(request: pytest.FixtureRequest) -> Iterator[None]:
    previous = runtime.gomaxprocs(request.param)
    yield
    runtime.gomaxprocs(previous)


def total(key: str) -> int:
    """The sum over all Ps."""
    return sum(p[key] for p in stats()["ps"])  # type: ignore[literal-required]


def check_shape(value: Any, kind: Any, where: str) -> None:
    """The value is what the type says, with all keys and no other."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        assert kind.__required_keys__ <= value.keys() <= hints.keys(), where
        for key in value:
            check_shape(value[key], hints[key], f"{where}.{key}")
    elif get_origin(kind) is list:
        for item in value:
            check_shape(item, get_args(kind)[0], f"{where}[]")
    elif get_origin(kind) is dict:
        for key, item in value.items():
            check_shape(key, get_args(kind)[0], where)
            check_shape(item, get_args(kind)[1], f"{where}[{key}]")
    else:
        assert type(value) is kind, where


def test_a_snapshot_is_what_its_types_say_and_json_carries_it() -> None:
    for _ in range(100):
        go(gosched).join()  # something is in the histograms
    snapshot = _stats.snapshot()
    check_shape(snapshot, _stats.Snapshot, "snapshot")
    check_shape(stats(), runtime.Stats, "stats")
    assert json.loads(json.dumps(snapshot)) == snapshot
    both = _stats.total([snapshot, snapshot])
    check_shape(both, _stats.Snapshot, "total")
    assert [p["worker"] for p in both["stats"]["ps"]] == [
        n for n in (0, 1) for _ in snapshot["stats"]["ps"]
    ]


def test_goroutines_are_counted_by_state(one_p: None) -> None:
    ch: Chan[None] = Chan()
    settle()  # what others have left waits
    before = stats()["states"]
    assert before["running"] == 1  # the caller
    waiting = [parked(go(ch.recv)) for _ in range(10)]
    with runtime.nopreempt():
        fresh = [go(int) for _ in range(7)]
        now = stats()
    assert now["states"] == {
        "running": 1,
        "runnable": before["runnable"] + 7,
        "waiting": before["waiting"] + 10,
    }
    assert now["ps"][0]["runq"] == now["states"]["runnable"]
    for g in fresh:
        g.join()
    ch.close()
    for g in waiting:
        with pytest.raises(runtime.ChanClosed):
            g.join()


def test_a_plain_thread_that_asks_is_no_goroutine(one_p: None) -> None:
    main = runtime.current()
    settle()  # what others have left waits

    def look() -> Any:
        while main.state != "waiting":
            time.sleep(0.001)
        return stats()["states"]

    states = blocking(look)
    assert (states["running"], states["runnable"]) == (0, 0)
    assert states["waiting"] == num_goroutine()


@pytest.mark.parametrize("seed", range(2))
def test_sums_hold_under_random_load(procs: None, seed: int) -> None:
    """Whenever they are read, by goroutines and by a plain thread."""
    rng = random.Random(seed)
    settle()  # what others have left waits
    before = stats()
    made = atomic.Int64()
    over = threading.Event()
    problems: list[Any] = []

    def check(last: dict[str, Any], s: Any) -> dict[str, Any]:
        now = {
            **{k: s[k] for k in ("created", "finished")},
            **{f"{p['id']}.{key}": p[key] for p in s["ps"] for key in P_COUNTERS},
            "done": s["blocking"]["done"],
        }
        if s["goroutines"] != s["created"] - s["finished"] + 1:
            problems.append(s)
        if sum(s["states"].values()) != s["goroutines"] or min(s["states"].values()) < 0:
            problems.append(s["states"])
        problems.extend((key, last[key], now[key]) for key in last if now[key] < last[key])
        return now

    def watch(pause: Any) -> None:
        last: dict[str, Any] = {}
        while not over.is_set():
            last = check(last, stats())
            pause()

    def body(depth: int, choices: list[int]) -> None:
        gs = []
        for choice in choices:
            if choice == 0:
                gosched()
            elif choice == 1:
                runtime.sleep(0.0001)
            elif choice == 2 and depth < 3:
                made.add()
                gs.append(go(body, depth + 1, choices[1:]))
            elif choice == 3:
                ch: Chan[int] = Chan()
                made.add()
                gs.append(go(ch.send, 1))
                ch.recv()
            elif choice == 4:
                blocking(int)
        for g in gs:
            g.join()

    thread = threading.Thread(target=watch, args=(lambda: time.sleep(0.0005),))
    thread.start()
    watcher = go(watch, lambda: runtime.sleep(0.0005))
    gs = [go(body, 0, rng.choices(range(6), k=12)) for _ in range(150)]
    for g in gs:
        g.join()
    over.set()
    watcher.join()
    until(lambda: not thread.is_alive())
    after = stats()
    assert problems == []
    assert after["created"] - before["created"] == made.load() + 150 + 1
    assert after["goroutines"] == num_goroutine() == before["goroutines"]
    assert after["finished"] - before["finished"] == after["created"] - before["created"]
    assert all(p["runnext_hits"] <= p["ticks"] and p["steals"] <= p["stolen"] for p in after["ps"])
    ticks = sum(p["ticks"] for p in after["ps"]) - sum(p["ticks"] for p in before["ps"])
    assert ticks >= after["finished"] - before["finished"]


def test_what_is_handed_over_runs_from_runnext(one_p: None) -> None:
    ch: Chan[int] = Chan()
    before = total("runnext_hits")
    g = go(lambda: [ch.send(i) for i in range(50)])
    assert [ch.recv() for _ in range(50)] == list(range(50))
    g.join()
    assert total("runnext_hits") - before >= 25


def test_idle_time_goes_on_while_the_thread_sleeps(one_p: None) -> None:
    """Who looks sees it grow, before the sleeper wakes."""
    seen = []
    done: Chan[None] = Chan()

    def look() -> None:
        try:
            while stats()["ps"][0]["sleeping"] is False:
                time.sleep(0.001)
            for _ in range(2):
                began = time.monotonic_ns()
                first = stats()["ps"][0]["idle_ns"]
                time.sleep(0.1)
                seen.append((stats()["ps"][0]["idle_ns"] - first, time.monotonic_ns() - began))
        finally:
            done.close()

    before, began = stats()["ps"][0], time.monotonic_ns()
    thread = threading.Thread(target=look)
    thread.start()
    with pytest.raises(runtime.ChanClosed):
        done.recv()
    after = stats()["ps"][0]
    thread.join()
    # It wakes once a second, for a moment.
    assert all(0.01e9 < idle <= elapsed for idle, elapsed in seen)
    assert 0.03e9 < after["idle_ns"] - before["idle_ns"] < time.monotonic_ns() - began
    assert after["wakeups"] > before["wakeups"]
    assert after["inbox_takes"] > before["inbox_takes"]
    assert after["blocking_polls"] > before["blocking_polls"]


def test_work_that_is_stolen_is_counted() -> None:
    previous = runtime.gomaxprocs(2)
    try:
        before = total("steals"), total("stolen"), total("spinning_ns")
        while total("steals") == before[0]:
            gs = [go(time.sleep, 0.002) for _ in range(20)]
            for g in gs:
                g.join()
        assert total("stolen") - before[1] >= total("steals") - before[0] >= 1
        assert total("spinning_ns") > before[2]
    finally:
        runtime.gomaxprocs(previous)


def test_what_plain_threads_start_comes_from_the_global_queue() -> None:
    previous = runtime.gomaxprocs(2)
    try:
        before = total("global")
        blocking(lambda: go(int).join())
        assert total("global") > before
    finally:
        runtime.gomaxprocs(previous)


def test_threads_for_blocking_calls_are_counted() -> None:
    def all_idle() -> bool:
        now = stats()["blocking"]
        return now["idle"] == now["threads"]

    until(all_idle)
    before = stats()["blocking"]
    limit = runtime.set_max_blocking(1)
    try:
        gate = Gate()
        gs = [go(blocking, gate)]
        until(gate.begun.is_set)
        gs.append(go(blocking, int))
        until(lambda: stats()["blocking"]["queued"] == 1)
        assert stats()["blocking"]["threads"] >= 1
        gate.open()
        for g in gs:
            g.join()
        until(lambda: stats()["blocking"]["idle"] >= 1 and all_idle())
        now = stats()["blocking"]
        assert (now["queued"], now["done"]) == (0, before["done"] + 2)
    finally:
        runtime.set_max_blocking(limit)


def test_a_forked_child_begins_at_zero() -> None:
    done = run(
        """
        import os, time
        import runtime
        from runtime import _stats

        for _ in range(100):
            runtime.go(runtime.gosched).join()
        began = _stats.snapshot()["started"]
        time.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            s = _stats.snapshot()
            p, = s["stats"]["ps"]
            print(s["pid"] == os.getpid(), s["started"] > began, s["stats"]["created"],
                  s["stats"]["goroutines"], p["ticks"], p["idle_ns"], p["switches"],
                  s["histograms"]["latency"]["count"], flush=True)
            runtime.go(runtime.sleep, 0.01).join()
            p, = runtime.stats()["ps"]
            print(p["ticks"] > 0, p["idle_ns"] > 0, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        """,
        "-Wignore::DeprecationWarning",  # it has threads
        GOMAXPROCS="1",
    )
    assert (done.stdout, done.stderr) == ("True True 0 1 0 0 0 0\nTrue True\n", "")


# --- sums of several processes --------------------------------------------------------------------

bounds = st.sampled_from([(0, 64), (64, 128), (1 << 20, (1 << 20) + (1 << 16))])
histograms = st.dictionaries(bounds, st.integers(1, 1000)).map(
    lambda buckets: {
        "count": sum(buckets.values()),
        "sum_ns": sum(low * n for (low, _), n in buckets.items()),
        "buckets": [[low, high, n] for (low, high), n in sorted(buckets.items())],
    }
)
routes = st.dictionaries(
    st.tuples(st.sampled_from(["GET", "POST"]), st.sampled_from(["", "/a", "/b"])),
    st.dictionaries(st.sampled_from(["0", "200", "404"]), histograms, min_size=1),
).map(lambda rows: [_stats.make_route(*key, by_status) for key, by_status in rows.items()])


@settings(max_examples=30)
@given(st.lists(routes, min_size=1, max_size=4))
def test_the_total_of_routes_loses_nothing(several: list[Any]) -> None:
    base = _stats.snapshot()
    summed = _stats.total([{**base, "routes": rows} for rows in several])["routes"]
    want: dict[tuple[str, str, str], int] = {}
    for rows in several:
        for r in rows:
            for status, n in r["statuses"].items():
                key = (r["method"], r["route"], status)
                want[key] = want.get(key, 0) + n
    got = {(r["method"], r["route"], s): n for r in summed for s, n in r["statuses"].items()}
    assert got == want
    for r in summed:
        by_status = _stats.durations_by_status(r)
        assert r["statuses"] == {status: h["count"] for status, h in by_status.items()}
        assert r["duration"] == _stats.sum_histograms(by_status.values())
    assert sum(r["duration"]["sum_ns"] for r in summed) == sum(
        r["duration"]["sum_ns"] for rows in several for r in rows
    )


def test_the_total_adds_up_counters_and_keeps_each_p() -> None:
    one = _stats.snapshot()
    other = {**one, "pid": 7, "time": one["time"] + 5, "started": one["started"] - 5}
    t = _stats.total([one, other])  # type: ignore[list-item]
    assert (t["pid"], t["time"], t["started"]) == (0, other["time"], other["started"])
    for key in ("created", "finished", "goroutines", "gomaxprocs"):
        assert t["stats"][key] == 2 * one["stats"][key]  # type: ignore[literal-required]
    assert t["stats"]["http"]["requests"] == 2 * one["stats"]["http"]["requests"]
    assert t["stats"]["states"]["running"] == 2 * one["stats"]["states"]["running"]
    # A sum can be added to a further one: its Ps stay those of whom they were.
    again = _stats.total([t, one])
    n = len(one["stats"]["ps"])
    assert [p["worker"] for p in again["stats"]["ps"]] == [0] * n + [1] * n + [1] * n
    with pytest.raises(ValueError, match="one snapshot or more"):
        _stats.total([])


def test_histograms_are_added_and_subtracted() -> None:
    a = runtime.Histogram(300, [(0, 64, 3), (128, 192, 1)])
    b = runtime.Histogram(100, [(64, 128, 2), (128, 192, 5)])
    both = a + b
    assert [tuple(x) for x in both] == [
        (0, 64e-9, 3),
        (64e-9, 128e-9, 2),
        (128e-9, 192e-9, 6),
    ]
    assert (both.count, both.sum) == (11, 400e-9)
    assert [tuple(x) for x in both - a] == [tuple(x) for x in b]
