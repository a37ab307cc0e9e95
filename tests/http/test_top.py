"""`python -m runtime top`: rates of any counters, pictures of any size, and the command itself.

The command runs against servers in processes of their own; its live view runs on a pseudo-terminal.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ports
import pytest
from certs import Authority
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from programs import environment
from runtime import http
from runtime._top import figures, main, rates, view, views
from runtime._top.counters import Counters
from runtime._top.question import SNAPSHOT
from runtime._top.source import Address, Source, SourceError
from screens import COMMAND, SAFETY, Screen

# --- rates ----------------------------------------------------------------------------------------

counters = st.integers(0, 2**53)
P_NAMES = ("ticks", "switches", "steals", "preemptions", "polls", "idle_ns", "spinning_ns")
HTTP_NAMES = ("requests", "accepted", "bytes_read", "bytes_written")
histograms = st.builds(
    lambda counts: {
        "count": sum(counts),
        "sum_ns": 150 * sum(counts),
        "buckets": [[100 * i, 100 * i + 100, n] for i, n in enumerate(counts) if n],
    },
    st.lists(st.integers(0, 1000), max_size=5),
)
snapshots = st.fixed_dictionaries(
    {
        "time": st.floats(1000, 2000),
        "started": st.floats(0, 1000),
        "stats": st.fixed_dictionaries(
            {
                "goroutines": counters,
                "created": counters,
                "finished": counters,
                "states": st.fixed_dictionaries({"running": counters, "waiting": counters}),
                "ps": st.lists(
                    st.fixed_dictionaries(dict.fromkeys(("id", "runq", *P_NAMES), counters)),
                    max_size=3,
                    unique_by=lambda p: p["id"],
                ),
                "http": st.fixed_dictionaries(
                    dict.fromkeys(("connections", "idle", *HTTP_NAMES), counters)
                ),
            }
        ),
        "histograms": st.fixed_dictionaries({"latency": histograms, "run": histograms}),
        "routes": st.lists(
            st.fixed_dictionaries(
                {
                    "method": st.sampled_from(["GET", "POST", ""]),
                    "route": st.sampled_from(["/", "/items/{id}", "/ünï\x1b[2J/" + "x" * 90]),
                    "statuses": st.dictionaries(st.sampled_from(["200", "404", "0"]), counters),
                    "duration": histograms,
                }
            ),
            max_size=3,
            unique_by=lambda r: (r["method"], r["route"]),
        ),
    }
)


def sample_of(*entries: Any, ids: tuple[int, ...] | None = None) -> dict[str, Any]:
    """What the page answers for workers with these snapshots."""
    workers = [
        {"id": i, "pid": 100 + i, "age": 0.0, "restarts": 0, "snapshot": snapshot}
        for i, snapshot in zip(ids or range(len(entries)), entries, strict=True)
    ]
    return {"workers": workers, "self": 0}


def numbers(rates: rates.Rates) -> list[float]:
    found = [rates.created, rates.finished, rates.accepted, rates.requests]
    found += [rates.bytes_read, rates.bytes_written, *rates.statuses.values()]
    for p in rates.ps:
        found += [p.busy, p.spinning, p.ran, p.switches, p.steals, p.preemptions, p.polls]
    for route in rates.routes:
        found += [route.requests, route.errors, *(b[2] for b in route.duration["buckets"])]
    for histogram in (rates.latency, rates.run):
        found += [histogram["count"], histogram["sum_ns"]]
    return found


@settings(max_examples=50)
@given(st.none() | snapshots, snapshots)
def test_rates_any_two_snapshots_are_never_negative(before: Any, now: Any) -> None:
    found = rates.rates(before, now)
    assert min(numbers(found)) >= 0
    for p in found.ps:
        assert p.busy + p.spinning <= 1 + 1e-9


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(snapshots, snapshots), max_size=3))
def test_rates_total_is_the_sum_of_the_workers(pairs: list[Any]) -> None:
    parts = [rates.rates(before, now, i) for i, (before, now) in enumerate(pairs)]
    total = rates.total(parts)
    assert total.requests == pytest.approx(sum(part.requests for part in parts))
    assert total.goroutines == sum(part.goroutines for part in parts)
    assert len(total.ps) == sum(len(part.ps) for part in parts)
    assert total.latency["count"] == sum(part.latency["count"] for part in parts)
    answers = [sum(part.statuses.values()) for part in parts]
    assert sum(total.statuses.values()) == pytest.approx(sum(answers))
    assert sum(route.requests for route in total.routes) == pytest.approx(sum(answers))


def at(seconds: float, requests: int, **more: Any) -> dict[str, Any]:
    stats = {"http": {"requests": requests}, "ps": [{"id": 0, "idle_ns": 0}]}
    return {"time": 1000.0 + seconds, "started": 1000.0, "stats": stats, **more}


def test_meter_worker_seen_again_unchanged_keeps_its_rates() -> None:
    meter = rates.Meter()
    meter.read(sample_of(at(10, 100), at(10, 0)))
    meter.read(sample_of(at(12, 300), at(11, 50)))
    reading = meter.read(sample_of(at(13, 300), at(11, 50)))
    assert [worker.rates.requests for worker in reading.workers] == [0, 50]
    assert reading.total.requests == 50


def test_meter_worker_replaced_counts_from_its_start() -> None:
    meter = rates.Meter()
    meter.read(sample_of(at(10, 100)))
    reading = meter.read(sample_of(at(14, 20, started=1012.0)))
    assert reading.total.requests == 10


def test_meter_ended_workers_count_for_the_sum_alone() -> None:
    meter = rates.Meter()
    meter.read(sample_of(at(10, 100), at(10, 50), ids=(0, 1)))
    reading = meter.read(sample_of(at(12, 300), at(11, 50), ids=(0, -1)))
    assert reading.total.requests == 100
    assert reading.served == 350
    assert len(reading.workers) == 1


def test_meter_totals_of_routes_have_those_of_ended_workers() -> None:
    alive, ended = routes(a=(3, 0, 100)), routes(a=(5, 1, 100), b=(7, 0, 100))
    total = rates.Meter().read(sample_of(alive, ended, ids=(0, -1))).total
    assert {route.route: route.total for route in total.routes} == {"/a": 8, "/b": 7}
    assert {route.route: route.requests for route in total.routes} == {"/a": 0.3, "/b": 0}


def test_rates_percentile_is_that_of_the_interval() -> None:
    slow = {"count": 5, "sum_ns": 5000, "buckets": [[900, 1100, 5]]}
    both = {"count": 8, "sum_ns": 5300, "buckets": [[90, 110, 3], [900, 1100, 5]]}
    found = rates.difference(slow, both)
    assert figures.percentile(found, 99) == pytest.approx(100e-9)


# --- pictures -------------------------------------------------------------------------------------


def overview(*samples: Any, sort: int = 0) -> views.Overview:
    """The overview after these samples, and so many presses of the key that sorts."""
    shown = views.Overview(Counters(1.0))
    for sample in samples:
        shown.take(sample)
    for _ in range(sort):
        shown.press("s")
    return shown


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(snapshots, min_size=1, max_size=3),
    st.integers(1, 150),
    st.integers(1, 40),
    st.sampled_from(["", "cannot connect to " + "x" * 200]),
    st.integers(0, 2),
)
def test_picture_any_size_fits(
    several: list[Any], width: int, height: int, trouble: str, sort: int
) -> None:
    shown = overview(*[sample_of(*several)] * 3, sort=sort)
    frame = view.Frame("127.0.0.1:8080", shown, trouble=trouble)
    lines = view.picture(frame, width, height)
    assert len(lines) == height
    for line in [*lines, *view.report(frame, width)]:
        assert line.cell_len <= width
        assert line.plain.isprintable()


def broken(value: Any, draw: Callable[[Any], Any], junk: Any) -> Any:
    """The same with one of its parts replaced by junk."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return junk
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = draw(st.sampled_from(keys))
    copy = value.copy()
    copy[key] = broken(value[key], draw, junk)
    return copy


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    snapshots, st.sampled_from([None, "x", [], {}, [1], -1, 1e400, float("nan"), True]), st.data()
)
def test_picture_of_broken_counters_is_drawn_or_refused(
    snapshot: Any, junk: Any, data: st.DataObject
) -> None:
    sample = broken(sample_of(snapshot, snapshot), data.draw, junk)
    try:
        shown = overview(sample, sample)
    except SourceError as exc:
        assert "another shape" in str(exc)
    else:
        assert len(view.picture(view.Frame("x", shown), 80, 24)) == 24


def routes(**per_route: tuple[int, int, int]) -> dict[str, Any]:
    """A snapshot with routes: requests, of them errors, ns of each."""
    found = [
        {
            "method": "GET",
            "route": f"/{name}",
            "statuses": {"200": n - bad, "500": bad},
            "duration": {"count": n, "sum_ns": n * ns, "buckets": [[ns, ns + 1, n]]},
        }
        for name, (n, bad, ns) in per_route.items()
    ]
    return at(10, 0, routes=found)


@pytest.mark.parametrize(
    ("sort", "order"), [(0, ["a", "b", "c"]), (1, ["b", "c", "a"]), (2, ["c", "a", "b"])]
)
def test_picture_sorts_routes(sort: int, order: list[str]) -> None:
    snapshot = routes(c=(10, 5, 200), a=(30, 1, 100), b=(20, 0, 300))
    frame = view.Frame("x", overview(sample_of(snapshot), sort=sort))
    text = "\n".join(line.plain for line in view.picture(frame, 80, 24))
    assert re.findall(r"^GET /(\w)", text, re.M) == order


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 15)])
def test_picture_small_terminal_shows_each_table(width: int, height: int) -> None:
    snapshot = routes(**{f"route{i}": (i + 1, 0, 100) for i in range(30)})
    frame = view.Frame("x", overview(sample_of(snapshot, snapshot)))
    lines = [line.plain for line in view.picture(frame, width, height)]
    for start in ("requests", "connections", "goroutines", "waited", "worker", "P ", "route "):
        assert any(line.startswith(start) for line in lines), start
    assert any("GET /route29" in line for line in lines)
    assert lines[-1].startswith("q quit")


# --- addresses and arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "name", "wanted"),
    [
        ("8080", None, "127.0.0.1:8080", "/debug/"),
        (":8080", "x", "127.0.0.1:8080", "/x/"),
        ("example.com", None, "example.com:80", "/debug/"),
        ("[::1]:8080", "/", "[::1]:8080", "/"),
        ("http://example.com:81/a/b", None, "example.com:81", "/a/b/"),
        ("https://example.com/", None, "https://example.com:443", "/debug/"),
        ("unix:/run/app.sock", None, "unix:/run/app.sock", "/debug/"),
    ],
)
def test_address_forms(text: str, path: str | None, name: str, wanted: str) -> None:
    address = Address(text, path)
    assert (address.name, address.path) == (name, wanted)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["ftp://x"],
        ["x:port"],
        ["x:99999"],
        ["unix:"],
        ["a b"],
        [":80", "--path", "a b"],
        [":80", "--interval", "0"],
        [":80", "--interval", "nan"],
        [":80", "--view", "nothing"],
        [":80", "--header", "no colon"],
        [":80", "--header", "a: b\r\nc: d"],
    ],
)
def test_top_senseless_arguments_end_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as failed:
        main(arguments)
    assert failed.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("gosched: ") and said.count("\n") == 1


# --- what servers answer --------------------------------------------------------------------------


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What it says of a server that it cannot show: one line."""
    assert main([*arguments, "--once", "--interval", "0.1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gosched: ") and err.count("\n") == 1
    return err


def test_top_nobody_listens_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with ports.reserved() as address:
        said = complaint(capsys, address)
    assert f"cannot connect to {address}: Connection refused" in said
    assert "cannot connect to unix:/nowhere: No such file" in complaint(capsys, "unix:/nowhere")


def strange(w: Any, r: Any) -> Any:
    kind = r.path.split("/")[1]
    answers: dict[str, Any] = {
        "html": "<!doctype html>",
        "json": {"workers": []},
        "list": [1, 2],
        "odd": sample_of({"stats": {"ps": [{"id": []}]}}),
        "deep": "[" * 100_000,
        "403": 403,
        "401": 401,
        "500": 500,
    }
    if kind == "moved":
        http.redirect(w, r, "https://example.com/debug/", 308)
        return None
    return answers.get(kind, 404)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("html", "is it another program?"),
        ("json", "is it another program?"),
        ("list", "is it another program?"),
        ("deep", "is it another program?"),
        ("odd", "another shape"),
        ("none", "mount http.debug.handler()"),
        ("403", "--user NAME:PASSWORD"),
        ("401", "--user NAME:PASSWORD"),
        ("500", "answers 500 Internal Server Error"),
        ("moved", "redirects to https://example.com/debug/"),
    ],
)
def test_top_answer_that_is_not_ours_says_what_to_do(
    serve: Callable[..., Any], capsys: pytest.CaptureFixture[str], path: str, hint: str
) -> None:
    running = serve(strange)
    assert hint in complaint(capsys, running.addr, "--path", path)


def test_top_no_http_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            conn, _ = listener.accept()
            conn.recv(1000)
            conn.sendall(b"220 mail.example.com ESMTP\r\n")
            conn.close()

        thread = threading.Thread(target=answer)
        thread.start()
        said = complaint(capsys, f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(SAFETY)
    assert "does not speak HTTP" in said


def test_source_server_restarted_between_requests_asks_again(serve: Callable[..., Any]) -> None:
    answer = sample_of(at(1, 1))
    with ports.reserved() as address:
        first = serve(lambda w, r: answer, address)
        source = Source(Address(address))
        assert source.ask(SNAPSHOT) == answer
        first.server.close()
        first.join()
        with pytest.raises(SourceError, match="Connection refused"):
            source.ask(SNAPSHOT)
        serve(lambda w, r: answer, address)
        assert source.ask(SNAPSHOT) == answer
        source.close()


def test_top_logs_in(program: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    watched = program("watched.py")
    once = ["--once", "--interval", "0.1"]
    assert "asks for a login" in complaint(capsys, watched.addr, "--path", "private")
    assert main([watched.addr, "--path", "/private/", "--user", "ops:s:cret", *once]) == 0
    assert main([f"http://ops:s%3Acret@{watched.addr}/private/", *once]) == 0
    header = "Authorization: Basic b3BzOnM6Y3JldA=="
    assert main([f"{watched.addr}/private", "--header", header, *once]) == 0
    assert capsys.readouterr().out.count(f"{watched.addr}  up ") == 3
    assert "refuses us (403)" in complaint(capsys, watched.addr, "--header", "Via: 1.1 proxy")


def test_top_unix_socket(serve: Callable[..., Any], capsys: Any, tmp_path: Any) -> None:
    serve(lambda w, r: sample_of(at(1, 7)), f"unix:{tmp_path}/s")
    assert main([f"unix:{tmp_path}/s", "--once", "--interval", "0.1"]) == 0
    assert "7 so far" in capsys.readouterr().out


def test_top_tls_is_verified(
    serve: Callable[..., Any], capsys: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    running = serve(lambda w, r: sample_of(at(1, 7)), tls=authority.server_context())
    assert "does not speak TLS" in complaint(capsys, f"https://{serve(strange).addr}")
    assert "is not trusted" in complaint(capsys, f"https://{running.addr}")
    monkeypatch.setenv("SSL_CERT_FILE", authority.pem)
    assert main([f"https://{running.addr}/", "--once", "--interval", "0.1"]) == 0
    assert "7 so far" in capsys.readouterr().out


# --- the command ----------------------------------------------------------------------------------


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=SAFETY,
        env=environment(**env),
    )


def test_top_once_counts_what_a_server_does(program: Callable[..., Any]) -> None:
    watched = program("watched.py")
    stop = threading.Event()

    def load() -> None:
        with watched.connect() as conn:
            while not stop.is_set():
                conn.send("GET /items/5 HTTP/1.1\r\nHost: x\r\n\r\n").response()

    thread = threading.Thread(target=load)
    thread.start()
    try:
        done = run(watched.addr, "--interval", "0.5")  # its output is no terminal
    finally:
        stop.set()
        thread.join(SAFETY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{watched.addr}  up ")
    assert re.search(r"^GET /items/\{id:int\} +[\d.,]+k? .* ms ", done.stdout, re.M)
    requests = re.match(r"requests +([\d.,]+)(k?)/s .* (\d[\d,]*) so far", lines[1])
    assert requests and float(requests[1].replace(",", "")) > 2  # 2 are our own
    assert re.search(r"^connections +2 ", done.stdout, re.M)
    assert re.search(r"^goroutines +\d+  \d+ running  \d+ runnable  \d+ waiting", done.stdout, re.M)
    assert re.search(r"^waited to run p50 .*p99.9 ", done.stdout, re.M)
    assert re.search(r"^0 +[█▒░]{10,} +\d+% ", done.stdout, re.M)


def test_top_without_rich_says_how_to_get_it() -> None:
    blocked = "import sys; sys.modules['rich'] = None; import runtime._top as top; "
    done = subprocess.run(
        [sys.executable, "-c", blocked + "sys.exit(top.main([':1']))"],
        capture_output=True,
        text=True,
        timeout=SAFETY,
        env=environment(),
    )
    assert done.returncode == 1
    assert done.stderr == "gosched: this needs rich: pip install 'gosched[top]'\n"


def test_top_live_keys_and_sizes(
    program: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    watched = program("watched.py")
    s = screen(watched.addr)
    s.until("it is live", lambda p: p[0].startswith(watched.addr) and p[0].endswith("live"))
    assert len(s.picture) == 24
    assert s.picture[1].startswith("requests") and s.picture[-1].startswith("q quit")
    s.resize(40, 15)
    s.until("it is small", lambda p: len(p) == 15 and len(p[0]) == 40)
    s.resize(100, 30)
    s.until("it is large", lambda p: len(p) == 30 and len(p[0]) == 100)
    s.press("p")
    s.until("it pauses", lambda p: p[0].endswith("paused"))
    s.press("\x1b[1~\x1bOp\x1b[Asp")  # Home, 0, an arrow, and then two keys
    s.until("it goes on", lambda p: p[0].endswith("live"))
    s.press("q")
    assert s.ended() == 0


def test_top_live_server_goes_and_comes_back(
    program: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    with ports.reserved() as address:
        watched = program("watched.py", address)
        s = screen(address, NO_COLOR="1")
        s.until("it is live", lambda p: p[0].endswith("live"))
        watched.stop()
        gone = s.until("it has gone", lambda p: p[0].endswith("disconnected"))
        assert gone[-1].rstrip() == f"cannot connect to {address}: Connection refused"
        program("watched.py", address)
        s.until("it is back", lambda p: p[0].endswith("live"))
    s.press("\x03")
    assert s.ended() == 0
    assert not re.search(r"\x1b\[[0-9;]*\b[349][0-7]\b[0-9;]*m", s.seen)  # no colour


def test_top_live_server_that_hangs_can_be_left(
    serve: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    def handler(w: Any, r: Any) -> Any:
        asked.append(r.path)
        if len(asked) > 1:
            r.context.done().recv_ok()  # until the client has gone
        return sample_of(at(1, 7))

    asked: list[str] = []
    s = screen(serve(handler).addr)
    s.until("it waits for a sample", lambda p: "7 so far" in "".join(p) and len(asked) == 2)
    s.press("p")
    s.until("it answers to keys", lambda p: p[0].endswith("paused"))
    s.press("q")
    assert s.ended() == 0


@pytest.fixture
def address() -> Iterator[str]:
    with ports.reserved() as address:
        yield address


def test_top_live_workers_are_replaced_and_nothing_is_lost(
    program: Callable[..., Any],
    screen: Callable[..., Screen],
    wait_until: Callable[[str, Callable[[], bool]], None],
    address: str,
) -> None:
    watched = program("watched.py", address, "2")

    def serves() -> bool:
        with contextlib.suppress(ConnectionError):
            return watched.get("/items/0", "Connection: close\r\n").status == 200
        return False

    def rows(picture: list[str], restarts: int) -> bool:
        row = rf" +(0|1) +\d+ .* {restarts} +\d+s ago *"
        return sum(re.fullmatch(row, line) is not None for line in picture) == 2

    wait_until("it serves", serves)
    for i in range(19):
        watched.get(f"/items/{i}", "Connection: close\r\n")
    s = screen(address)
    s.until("there are two workers", lambda p: rows(p, 0))
    watched.send_signal(signal.SIGHUP)
    picture = s.until("there are two others", lambda p: rows(p, 1))
    assert any(re.fullmatch(r"[01]/0 +[█▒░]+ +\d+% .*", line) for line in picture)
    s.until("none is lost", lambda p: any(re.match(r"GET /items.* 20 *$", line) for line in p))
    s.press("q")
    assert s.ended() == 0
    assert watched.stop()[0] == 0


def test_top_live_stopped_and_ended_by_signals_gives_the_terminal_back(
    program: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    watched = program("watched.py")
    s = screen(watched.addr)
    s.until("it is live", lambda p: p[0].endswith("live"))
    s.press("\x1a")  # Ctrl-Z
    _, status = os.waitpid(s.proc.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert termios.tcgetattr(s.slave) == s.modes
    s.proc.send_signal(signal.SIGCONT)
    pictures = s.seen.count("\x1b[H")
    s.until("it goes on", lambda p: s.seen.count("\x1b[H") > pictures + 2)
    s.proc.terminate()
    assert s.ended() == 128 + signal.SIGTERM
