"""Histograms of the scheduler."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtime
from runtime import Histogram


def counted(fn):
    before = runtime.histograms()
    fn()
    after = runtime.histograms()
    return runtime.Histograms(*(b - a for a, b in zip(before, after, strict=True)))


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_one_in_16_that_become_runnable_is_counted(one_p):
    def work():
        for _ in range(1600):
            runtime.go(int).join()

    got = counted(work)
    # Each is made runnable by go(), and its joiner by its end.
    assert 150 <= got.latency.count <= 250
    assert 150 <= got.run.count <= 250


def test_latency_is_how_long_others_run_before(one_p):
    def work():
        gs = [runtime.go(spin, 0.002) for _ in range(48)]
        for g in gs:
            g.join()

    got = counted(work)
    # Of 48 in a row at least 3 are counted; the last of these has waited for 32 others.
    assert got.latency.percentile(100) >= 32 * 0.002
    assert got.run.percentile(100) >= 0.002 * 31 / 32


def test_time_asleep_is_no_latency(one_p):
    def work():
        gs = [runtime.go(runtime.sleep, 1000.0) for _ in range(64)]
        runtime.gosched()
        for g in gs:
            g.cancel()
        for g in gs:
            with pytest.raises(runtime.Cancelled):
                g.join()

    assert counted(work).latency.percentile(100) < 500


@pytest.mark.parametrize("procs", [1, 2, 4])
def test_all_ps_count(procs):
    def yields():
        for _ in range(400):
            runtime.gosched()

    before = runtime.gomaxprocs(procs)
    try:

        def work():
            gs = [runtime.go(yields) for _ in range(16)]
            for g in gs:
                g.join()

        got = counted(work)
    finally:
        runtime.gomaxprocs(before)
    assert 16 * 400 / 16 * 0.9 <= got.latency.count <= 16 * 400 / 16 * 1.2
    assert got.run.count <= got.latency.count + 1


@given(st.lists(st.integers(0, 1 << 41), min_size=1), st.floats(0, 100))
def test_percentile_is_within_its_bucket(durations, p):
    durations.sort()
    buckets = {}
    for ns in durations:
        shift = max(6, ns.bit_length() - 5)
        low = ns >> shift << shift
        buckets[low, low + (1 << shift)] = buckets.get((low, low + (1 << shift)), 0) + 1
    histogram = Histogram(sum(durations), [(*b, n) for b, n in sorted(buckets.items())])
    exact = durations[max(0, -int(-len(durations) * p // 100) - 1)] / 1e9
    assert abs(histogram.percentile(p) - exact) <= max(exact / 31, 33e-9)
    assert histogram.count == len(durations)
    assert sum(b.samples for b in histogram) == len(durations)
    assert histogram.mean == pytest.approx(sum(durations) / len(durations) / 1e9)


def test_difference_is_what_came_in_between():
    early = Histogram(10, [(0, 64, 2), (128, 192, 1)])
    late = Histogram(500, [(0, 64, 2), (64, 128, 1), (128, 192, 4)])
    between = late - early
    assert [b.samples for b in between] == [1, 3]
    assert between.count == 4
    assert between.sum == pytest.approx(490e-9)


@pytest.mark.parametrize("p", [-1, 100.1, float("nan")])
def test_percentile_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match="from 0 to 100"):
        Histogram(0, []).percentile(p)


def test_percentile_of_nothing_is_zero():
    empty = Histogram(0, [])
    assert empty.percentile(50) == empty.mean == empty.sum == 0.0
    assert list(empty) == []
