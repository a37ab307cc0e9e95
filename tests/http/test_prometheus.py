"""Metrics for Prometheus, read by its own parsers."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import prometheus_client
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

import runtime
from programs import run
from runtime import http

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
DURATION = "http_server_request_duration_seconds"


def parse(response: Any) -> dict[str, Any]:
    """The families of a response, by their names."""
    assert response.status == 200
    text = response.body.decode()
    kind = response["content-type"]
    if kind.startswith("application/openmetrics-text"):
        families = list(openmetrics.text_string_to_metric_families(text))
    else:
        assert kind.startswith("text/plain; version=")
        families = list(text_string_to_metric_families(text))
    assert len({f.name for f in families}) == len(families)
    return {f.name: f for f in families}


def values(families: dict[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for f in families.values()
        for s in f.samples
    }


def counters(families: dict[str, Any]) -> dict[Any, float]:
    """What must never go down."""
    names = {f.name for f in families.values() if f.type in ("counter", "histogram")}
    return {
        key: value
        for key, value in values(families).items()
        if key[0] in names or key[0].rsplit("_", 1)[0] in names
    }


def items() -> http.ServeMux:
    mux = http.ServeMux()
    mux.handle("GET /items/{id}", lambda w, r: r.path_value("id"))
    mux.handle('/quo"ted\\back/{x}', lambda w, r: "x")
    mux.handle("/tea", lambda w, r: http.error(w, "no", 418))
    return mux


def metrics_of(running: Any, accept: str = OPENMETRICS, target: str = "/metrics") -> dict[str, Any]:
    return parse(running.get(target, f"Accept: {accept}\r\n"))


@pytest.fixture
def server(serve: Any) -> Any:
    mux = items()
    mux.handle("GET /metrics", http.prometheus.handler())
    return serve(mux)


@pytest.mark.parametrize("accept", [OPENMETRICS, "text/plain", "*/*"])
def test_metrics_are_what_was_counted(server: Any, accept: str, wait_until: Any) -> None:
    before = {(s.method, s.route): s for s in http.route_stats()}
    old = before[key].statuses.get(200, 0) if (key := ("GET", "/items/{id}")) in before else 0
    for _ in range(3):
        server.get("/items/7")
    for _ in range(32):
        runtime.go(runtime.gosched).join()
    wait_until(
        "they are counted",
        lambda: any(
            s.route == "/items/{id}" and s.statuses.get(200) == old + 3 for s in http.route_stats()
        ),
    )
    families = metrics_of(server, accept)
    found = values(families)
    counted = 0
    for s in http.route_stats():
        for status, n in s.statuses.items():
            labels = {
                "http_request_method": "_OTHER" if s.method == "OTHER" else s.method,
                "http_route": s.route,
                "http_response_status_code": str(status) if status else "",
            }
            if s.route == "/metrics":
                continue  # it is counted when it is over
            key = tuple(sorted(labels.items()))
            assert found[f"{DURATION}_count", key] == n
            buckets = [
                (float(dict(labels)["le"]), value)
                for (name, labels), value in found.items()
                if name == f"{DURATION}_bucket"
                and tuple(x for x in labels if x[0] != "le") == key
            ]
            assert [b for b, _ in buckets] == sorted(b for b, _ in buckets)
            assert [v for _, v in buckets] == sorted(v for _, v in buckets)
            assert buckets[-1] == (float("inf"), n)
            counted += 1
    assert counted >= 1
    assert families[DURATION].type == "histogram"
    stats = runtime.stats()
    assert found["gosched_workers", ()] == 1
    assert found["gosched_gomaxprocs", ()] == stats["gomaxprocs"]
    assert 0 < found["gosched_http_requests_total", ()] <= stats["http"]["requests"]
    assert 0 < found["gosched_http_received_bytes_total", ()] <= stats["http"]["bytes_read"]
    assert found["gosched_http_connections", (("state", "active"),)] >= 1
    states = [v for (name, _), v in found.items() if name == "gosched_goroutines"]
    assert 1 <= sum(states) <= stats["goroutines"] + 5
    assert found["gosched_scheduling_latency_seconds_count", ()] >= 1


def test_metrics_have_the_greenlets_of_all_ps(server: Any) -> None:
    def of_ps(key: str) -> int:
        return sum(p[key] for p in runtime.stats()["ps"])

    ch: runtime.Chan[None] = runtime.Chan()
    waiting = [runtime.go(ch.recv) for _ in range(100)]
    for _ in waiting:
        ch.send(None)
    for g in waiting:
        g.join()
    started = of_ps("workers")
    found = values(metrics_of(server))
    assert started > 0
    assert started <= found["gosched_greenlets_started_total", ()] <= of_ps("workers")
    assert found["gosched_idle_greenlets", ()] > 0 < of_ps("idle_workers")


def test_names_have_the_prefix_and_end_as_prometheus_wants(server: Any) -> None:
    for name, family in metrics_of(server).items():
        assert name == DURATION or name.startswith("gosched"), name
        assert family.documentation.endswith("."), name
        for s in family.samples:
            assert (family.type == "counter") == s.name.endswith("_total"), s.name


def test_labels_are_escaped(server: Any, wait_until: Any) -> None:
    route = '/quo"ted\\back/{x}'
    assert server.get("/quo%22ted%5Cback/1").body == b"x"
    wait_until("it is counted", lambda: any(s.route == route for s in http.route_stats()))
    for accept in (OPENMETRICS, "text/plain"):
        samples = metrics_of(server, accept)[DURATION].samples
        assert any(s.labels["http_route"] == route for s in samples)


def test_no_counter_goes_down(server: Any) -> None:
    before: dict[Any, float] = {}
    with server.connect() as c:
        for i in range(20):
            c.send(f"GET /{'items/1' if i % 2 else 'tea'} HTTP/1.1\r\nHost: t\r\n\r\n").response()
            now = counters(metrics_of(server))
            assert before.keys() <= now.keys()
            assert {key for key in before if now[key] < before[key]} == set()
            before = now


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=x",
        "application/openmetrics-text; version=1.x.\xe9",
        "application/openmetrics-text; escaping=nothing; version=1.0.0",
        "text/plain; version=1.0.0; escaping=allow-utf-8, */*;q=0.1",
        "text/plain; version=..",
        ";,;=",
    ],
)
def test_any_accept_gets_an_answer(server: Any, accept: str) -> None:
    assert "gosched_gomaxprocs" in metrics_of(server, accept)


def test_metrics_of_the_program_are_joined(serve: Any) -> None:
    registry = prometheus_client.CollectorRegistry()
    mine = prometheus_client.Counter("mine", "Mine.", ["kind"], registry=registry)
    mine.labels("a").inc(3)
    prometheus_client.Gauge("gosched_gomaxprocs", "Not ours.", registry=registry).set(-1)
    server = serve(http.prometheus.handler(registry))
    found = values(metrics_of(server))
    assert found["mine_total", (("kind", "a"),)] == 3
    assert found["gosched_gomaxprocs", ()] == -1  # of one name there can be only one
    assert found["gosched_workers", ()] == 1
    some = values(metrics_of(server, target="/?name[]=mine_total&name[]=gosched_polls_total"))
    assert {name for name, _ in some} == {"mine_total", "gosched_polls_total"}
    with pytest.raises(TypeError, match="collect"):
        http.prometheus.handler(5)  # type: ignore[arg-type]


def test_a_registry_can_have_the_metrics_of_the_runtime(serve: Any) -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(http.prometheus.Collector())
    text = prometheus_client.generate_latest(registry).decode()
    assert "gosched_gomaxprocs" in {f.name for f in text_string_to_metric_families(text)}
    # Both at once is no error either.
    assert "gosched_gomaxprocs" in metrics_of(serve(http.prometheus.handler(registry)))


def test_metrics_of_all_workers_are_summed(program: Any, wait_until: Any) -> None:
    """Whichever worker is asked, with all counters going up, also when one is replaced."""
    running = program("metrics.py", start_new_session=True)

    def who() -> list[list[int]]:
        try:
            return json.loads(running.get("/who").body)
        except (ConnectionError, AssertionError):
            return []

    wait_until("both serve", lambda: len(who()) == 2)
    asked, last = 0, {}

    def look() -> float:
        nonlocal last
        now = counters(metrics_of(running))
        assert {key for key in last if now.get(key, -1) < last[key]} == set()
        last = now
        return sum(
            value
            for (name, labels), value in now.items()
            if name == f"{DURATION}_count" and ("http_route", "/items/{id}") in labels
        )

    for _ in range(40):
        assert running.get("/items/1").status == 200
        asked += 1
        look()
    wait_until("all are counted", lambda: look() == asked)
    assert metrics_of(running)["gosched_workers"].samples[0].value == 2
    pids = {pid for _, pid in who()}
    os.kill(min(pids), signal.SIGTERM)

    def replaced() -> bool:
        now = {pid for _, pid in who()} - {0}
        return len(now) == 2 and now != pids

    wait_until("it is replaced", replaced)
    for _ in range(10):
        running.get("/items/1")
        asked += 1
        look()
    wait_until("none is lost", lambda: look() == asked)
    status, err = running.stop()
    assert (status, err) == (0, "")


def test_without_the_package_the_error_says_what_to_install() -> None:
    done = run(
        """
        import sys
        sys.modules["prometheus_client.exposition"] = None
        from runtime import http
        try:
            http.prometheus
        except ImportError as e:
            print(e)
        """
    )
    assert done.stderr == ""
    assert "pip install 'gosched[prometheus]'" in done.stdout


def test_the_package_is_loaded_only_when_it_is_used() -> None:
    done = run(
        """
        import sys
        from runtime import http
        print("prometheus_client" in sys.modules, "runtime._http.prometheus" in sys.modules)
        """
    )
    assert (done.stdout, done.stderr) == ("False False\n", "")
