"""The views of `python -m runtime top`: goroutines, waits and latencies, as text and live."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ports
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import runtime
from programs import environment
from runtime import http
from runtime._top import heatmap, main, view
from runtime._top.browser import Browser
from runtime._top.counters import Counters, Interval
from runtime._top.keys import keys
from runtime._top.names import NAMES
from runtime._top.source import SourceError
from runtime._top.views import views
from screens import COMMAND, SAFETY, Screen

SCRIPT = Path(__file__).parent / "scripts" / "stuck.py"
LINES = SCRIPT.read_text().splitlines()
CROWD = next(n for n, line in enumerate(LINES, 1) if "(crowd.recv)" in line)
SHADES = "░▒▓█"


# --- answers --------------------------------------------------------------------------------------

numbers = st.integers(0, 2**40)
texts = st.sampled_from(["", "main", "sync.Mutex.Lock", "ünï\x1b[2J" + "x" * 90, "漢字" * 20])
people = st.lists(st.fixed_dictionaries({"id": numbers, "name": texts}), max_size=3)
places = st.fixed_dictionaries({"function": texts, "file": texts, "line": numbers})
groups = st.fixed_dictionaries(
    {
        "spawned_at": st.none() | places,
        "state": st.sampled_from(["running", "waiting"]),
        "wait_reason": st.none() | texts,
        "count": numbers,
        "longest": st.none() | st.floats(0, 1e6),
        "sample": people,
    }
)
waits = st.fixed_dictionaries(
    {
        "what": texts,
        "wait_reason": texts,
        "count": numbers,
        "longest": st.floats(0, 1e6),
        "sample": people,
        "holder": st.none()
        | st.fixed_dictionaries(
            {"id": numbers, "name": texts, "state": texts, "wait_reason": st.none() | texts}
        ),
        "deadlock": st.booleans(),
    }
)
stacks = st.fixed_dictionaries(
    {
        "id": numbers,
        "name": texts,
        "state": texts,
        "wait_reason": st.none() | texts,
        "wait_duration": st.none() | st.floats(0, 1e6),
        "spawned_at": st.none() | places,
        "p": st.none() | st.integers(0, 8),
        "locked": st.booleans(),
        "stack": st.lists(places, max_size=5),
        "more_frames": numbers,
        "waits_on": st.lists(st.fixed_dictionaries({"what": texts, "id": st.none()}), max_size=2),
        "holders": people,
    }
)


def answer_of(rows: list[Any], offset: int = 0, shown: int | None = None) -> dict[str, Any]:
    """What the page answers for a table with these rows."""
    shown = len(rows) if shown is None else shown
    sums = {"pid": 7, "total": 30, "groups": 20, "objects": 10}
    return sums | {"shown": shown, "offset": offset, "rows": rows}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(st.just("goroutines"), st.lists(groups, max_size=4))
    | st.tuples(st.just("waits"), st.lists(waits, max_size=4)),
    stacks,
    st.integers(1, 150),
    st.integers(1, 30),
)
def test_picture_of_goroutines_any_size_fits(
    table: tuple[str, list[Any]], stack: Any, width: int, height: int
) -> None:
    name, rows = table
    shown = views(1.0)[name]
    shown.question(view.room(height))
    shown.take(answer_of(rows))
    frame = view.Frame("127.0.0.1:8080", shown, name)
    pictures = [view.picture(frame, width, height)]
    report = view.report(frame, width)
    if shown.press("enter"):
        pictures.append(view.picture(frame, width, height))
        shown.take(stack)
        pictures.append(view.picture(frame, width, height))
    assert all(len(picture) == height for picture in pictures)
    for line in [*report, *(line for picture in pictures for line in picture)]:
        assert line.cell_len <= width
        assert line.plain.isprintable()


@pytest.mark.parametrize("name", ["goroutines", "waits"])
@pytest.mark.parametrize("rows", [None, 5, [None], [{}], [{"sample": 3}]])
def test_table_of_another_shape_is_refused(name: str, rows: Any) -> None:
    with pytest.raises(SourceError, match="another shape"):
        views(1.0)[name].take({"pid": 1, "rows": rows})


def test_goroutines_small_terminal_shows_where_they_started() -> None:
    row = {"spawned_at": {"function": "f", "file": "/srv/a.py", "line": 7}, "state": "waiting"}
    row |= {"wait_reason": "chan receive", "count": 3, "longest": 1, "sample": []}
    shown = views(1.0)["goroutines"]
    shown.take(answer_of([row]))
    assert shown.picture(40, 10)[2].plain.split() == [
        ">",
        "3",
        "chan",
        "receive",
        "f",
        "srv/a.py:7",
    ]


def test_stack_that_is_longer_than_the_screen_is_scrolled() -> None:
    frames = [{"function": f"f{i}", "file": "/srv/a.py", "line": i} for i in range(50)]
    stack = {"id": 5, "name": "eve", "state": "waiting", "wait_reason": "sleep", "p": 0}
    stack |= {"wait_duration": 1.0, "spawned_at": None, "locked": False, "more_frames": 7}
    stack |= {"stack": frames, "waits_on": [], "holders": []}
    who = [{"id": 5, "name": "eve"}]
    row = {"spawned_at": None, "state": "waiting", "wait_reason": "sleep", "count": 1}
    shown = views(1.0)["goroutines"]
    shown.take(answer_of([row | {"sample": who}]))
    assert shown.press("enter")
    shown.take(stack)

    def last() -> str:
        return shown.picture(60, 20)[-1].plain

    assert last() == "f13  /srv/a.py:13"
    for key, line in [
        ("j", "f14  /srv/a.py:14"),
        ("page down", "f32  /srv/a.py:32"),
        ("page down", "and 7 more"),
        ("j", "and 7 more"),
        ("k", "f49  /srv/a.py:49"),
    ]:
        shown.press(key)
        assert last() == line


# --- moving in a table ----------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(["j", "k", "page up", "page down", "home", "end"])
        | st.tuples(st.integers(0, 300), st.integers(-3, 120)),
        max_size=20,
    )
)
def test_browser_chosen_row_is_in_the_table_and_in_the_window(steps: list[Any]) -> None:
    browser, rows = Browser(), 0
    for step in steps:
        if isinstance(step, str):
            browser.press(step)
        else:
            rows, lines = step
            browser.resize(lines)
            browser.take(range(browser.top, min(rows, browser.top + lines)), browser.top, rows)
        assert 0 <= browser.chosen < max(rows, 1)
        assert browser.top <= browser.chosen < browser.top + browser.lines


def test_browser_chosen_row_is_followed_when_others_come_before_it() -> None:
    browser = Browser()
    browser.resize(10)
    browser.take(["a", "b", "c"], 0, 3)
    browser.press("down")
    browser.take(["x", "y", "a", "b", "c"], 0, 5)
    assert browser.chosen == 3
    browser.take(["x", "y", "a"], 0, 3)  # it has gone
    assert browser.chosen == 2


def test_keys_are_named() -> None:
    pressed = "j\x1b[A\x1bOB\x1b[5~\x1b[6~\t\x1b[Z\r\x7f\x1b[1;5Cé/\x1b"
    named = ["j", "up", "down", "page up", "page down", "tab", "shift+tab", "enter", "backspace"]
    assert keys(pressed) == [*named, "é", "/", "esc"]


# --- the heat map ---------------------------------------------------------------------------------


def interval(end: float, *buckets: tuple[int, int]) -> Interval:
    """One in which so many goroutines waited so many nanoseconds."""
    found = [[ns, ns + 1, n] for ns, n in buckets]
    return Interval(end, {"count": sum(n for _, n in buckets), "sum_ns": 1, "buckets": found})


def test_heatmap_more_goroutines_are_denser_and_longer_waits_are_higher() -> None:
    seen = [interval(1, (1000, 5000)), Interval(2, None), interval(3, (1000, 80), (10**6, 1))]
    lines = [line.plain for line in heatmap.picture(seen, 30, 30)]
    cells = [line[-10:-7] for line in lines[:-2]]
    assert (cells[0], cells[-1]) == ("  ░", "█ ▓")
    assert set(cells[1:-1]) == {"   "}
    assert (lines[0].split()[-1], lines[-3].split()[-1]) == ("1", "80")  # of the latest
    assert (lines[0].split()[:2], lines[-3].split()[:2]) == (["741", "µs"], ["724", "ns"])


@settings(max_examples=60)
@given(
    st.lists(
        st.none() | st.lists(st.tuples(st.integers(0, 10**10), st.integers(1, 10**6)), max_size=5),
        max_size=9,
    ),
    st.integers(1, 60),
    st.integers(0, 30),
)
def test_heatmap_any_size_fits(found: list[Any], width: int, height: int) -> None:
    seen = [Interval(i, None) if b is None else interval(i, *b) for i, b in enumerate(found)]
    lines = heatmap.picture(seen, width, height)
    assert len(lines) <= height
    lines += [line for s in seen if s.latency for line in heatmap.report(s.latency, width)]
    assert all(line.cell_len <= width for line in lines)


def test_latency_time_in_which_nobody_asked_is_left_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Counters(1.0)
    for now, samples in [(0, 5), (1, 7), (2, 8), (60, 90), (61, 95)]:
        monkeypatch.setattr("runtime._top.counters.time", SimpleNamespace(time=lambda now=now: now))
        histogram = {"count": samples, "sum_ns": 1, "buckets": [[1000, 1100, samples]]}
        snapshot = {"time": 1000.0 + now, "started": 900.0, "histograms": {"latency": histogram}}
        entry = {"id": 0, "pid": 1, "age": 0, "restarts": 0, "snapshot": snapshot}
        kept.take({"workers": [entry], "self": 0})
    assert kept.shown is not None
    counted = [each.latency and each.latency["count"] for each in kept.shown.intervals]
    assert counted == [2, 1, None, 5]


# --- as text --------------------------------------------------------------------------------------


def once(address: str, name: str) -> list[str]:
    done = subprocess.run(
        [*COMMAND, address, "--view", name, "--interval", "0.5"],
        capture_output=True,
        text=True,
        timeout=SAFETY,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    return done.stdout.splitlines()


def test_once_goroutines_are_all_listed_with_where_they_started(
    program: Callable[..., Any],
) -> None:
    stuck = program("stuck.py")
    lines = once(stuck.addr, "goroutines")
    assert re.fullmatch(rf"{stuck.addr}  goroutines  process {stuck.proc.pid} +live", lines[0])
    crowd = rf" +20  chan receive +\d+s  <module>  scripts/stuck\.py:{CROWD} +#\d+ receiver-0 .*"
    assert sum(re.fullmatch(crowd, line) is not None for line in lines) == 1
    kinds = [m[1] for line in lines if (m := re.search(r"sleep .* srv/kinds\.py:(\d+) ", line))]
    assert sorted(map(int, kinds)) == list(range(1, 121))


def test_once_waits_tell_who_holds_what_and_deadlocks(program: Callable[..., Any]) -> None:
    lines = once(program("stuck.py").addr, "waits")
    lock = r" +1  #\d+ {} +\d+s  sync\.Mutex\.Lock  <Mutex locked at \w+> +#\d+ {} +{}(\S.*)"
    for waiter, holder, mark, does in (
        ("ann", "bob", "DEADLOCK  ", "sync.Mutex.Lock"),
        ("bob", "ann", "DEADLOCK  ", "sync.Mutex.Lock"),
        ("blocked", "holder", "", "chan receive"),
    ):
        pattern = lock.format(waiter, holder, mark)
        assert [m[1] for line in lines if (m := re.fullmatch(pattern, line))] == [does]


def test_once_tables_are_those_of_the_chosen_process(supervised, tmp_path, capsys) -> None:
    (tmp_path / "app.py").write_text(
        """
import os
import runtime
from runtime import http
from runtime._http.workers import peers

peers._PATIENCE = 60.0  # on a loaded machine an answer may take longer
app = http.ServeMux()
app.mount("/debug/", http.debug.handler())
app.handle("/", lambda w, r: str(os.getpid()))
runtime.go.named(f"lives-in-{os.getpid()}")(runtime.Chan().recv)
"""
    )
    line = [sys.executable, "-m", "runtime", "serve", "app", "--port", "0", "--workers", "2"]
    s = supervised(command=[*line, "--app-dir", str(tmp_path)]).until_serving(2)
    for pid in s.started() * 2:
        assert main([s.addr, "--once", "--view", "goroutines", "--pid", str(pid)]) == 0
        assert re.findall(r"lives-in-\d+", capsys.readouterr().out) == [f"lives-in-{pid}"]
    assert main([s.addr, "--once", "--view", "waits", "--pid", "1"]) == 1
    assert "process 1 is no worker of this service" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([s.addr, "--pid", "x"])
    s.stop()


def test_once_latency_is_a_histogram_of_the_interval(program: Callable[..., Any]) -> None:
    lines = once(program("stuck.py").addr, "latency")
    assert re.match(r"waited to run p50 \d", lines[1])
    bars = [m for line in lines if (m := re.fullmatch(r" +[\d.]+ [nµm]?s +(\d+) (█*)", line))]
    assert sum(int(bar[1]) for bar in bars) > 0
    assert max(bars, key=lambda bar: int(bar[1]))[2] == "█" * 60


def no_tables(w: Any, r: Any) -> Any:
    """A page that has no tables yet."""
    if r.path != "/debug/api/snapshot":
        return http.not_found(w, r)
    snapshot = {"time": 1001.0, "started": 1000.0, "stats": {"ps": []}}
    workers = [{"id": 0, "pid": 1, "age": 0, "restarts": 0, "snapshot": snapshot}]
    return {"workers": workers, "self": 0}


def test_once_server_without_tables_says_so(
    serve: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    old, strange = serve(no_tables), serve(lambda w, r: {"rows": 1})
    for name in ("goroutines", "waits"):
        assert main([old.addr, "--once", "--view", name]) == 1
        assert main([strange.addr, "--once", "--view", name]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:9] for line in err.splitlines()] == ["gosched: "] * 4
    assert err.count("(404)") == err.count("an older gosched has no such view") == 2
    assert err.count("another shape") == 2


# --- live -----------------------------------------------------------------------------------------


def has(pattern: str) -> Callable[[list[str]], bool]:
    """Whether a line of a picture begins like this."""
    return lambda picture: any(re.match(pattern, line) for line in picture)


def leave(s: Screen) -> None:
    s.press("q")
    assert s.ended() == 0


def test_live_keys_switch_between_the_views(
    program: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    stuck = program("stuck.py")
    s = screen(stuck.addr)
    heads = {"1": "requests", "2": r"\d+ goroutines", "3": r"\d+ are waited"}
    heads["4"] = r"[\d.:]+  latency "
    s.until("it is live", lambda p: p[0].endswith("live"))
    for key in "4321":
        s.press(key)
        s.until(f"view {key} is shown", has(heads[key]))
    for presses, key in [("\t", "2"), ("\t\t", "4"), ("\t", "1"), ("\x1b[Z", "4")]:
        s.press(presses)
        s.until(f"Tab has come to view {key}", has(heads[key]))
    leave(s)


def test_live_goroutines_are_chosen_and_their_stacks_shown(
    program: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    s = screen(program("stuck.py").addr, "--view", "goroutines")
    s.until("the crowd is on top", has(rf">     20  chan receive .* scripts/stuck\.py:{CROWD} "))
    s.press("j")
    s.until("the next is chosen", lambda p: not p[3].startswith(">") and p[4].startswith(">"))
    s.press("\x1b[A\r")
    s.until("the first one's stack is shown", has(r"goroutine #\d+ receiver-0  1 of 8"))
    s.until("it waits", has(r"waits for     chan receive, \d+s"))
    s.until("its start is told", has(rf"started by    <module>  .*scripts/stuck\.py:{CROWD}"))
    s.press("\x1b[C")
    s.until("the second one's is", has(r"goroutine #\d+ receiver-1  2 of 8"))
    s.press("\x1b")
    s.until("the table is back", has(r">     20  chan receive"))
    leave(s)


def test_live_goroutines_are_paged_and_filtered(
    program: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    s = screen(program("stuck.py").addr, "--view", "goroutines")
    s.until("the first page is shown", has(r"\d+ goroutines .* 1 to 20 of \d+"))
    s.press("\x1b[6~")
    s.until("the second one is", has(r"\d+ goroutines .* 21 to 40 of \d+"))
    s.press("/kinds.py:77")
    s.until(
        "one is left", lambda p: has(r"> +1  sleep .* srv/kinds\.py:77 ")(p) and not p[4].strip()
    )
    assert "filter: kinds.py:77_" in s.picture[1]
    s.press("\x7fq")  # a key of the filter's, not the one that leaves
    s.until("nothing is left", has("nothing of that kind"))
    s.press("\x1b")
    s.until("all are back", has(r"\d+ goroutines .* 1 to 20 of \d+"))
    leave(s)


def test_live_waits_show_holders_and_deadlocks(
    program: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    s = screen(program("stuck.py").addr, "--view", "waits", NO_COLOR="1")
    s.until("the deadlock is on top", has(r"> .* #\d+ ann .* #\d+ bob  +DEADLOCK"))
    s.until("a lock that is held is no deadlock", has(r"  .* #\d+ blocked .* #\d+ holder  +$"))
    s.press("\n")
    s.until("the stack of who waits is shown", has(r"goroutine #\d+ ann  1 of 2"))
    s.until("its line is told", has(r"__main__\.hold  .*scripts/stuck\.py:\d+"))
    s.until("its holder is told", has(r"held by       #\d+ bob"))
    s.press("h")
    s.until("the holder's stack is shown", has(r"held by       #\d+ ann"))
    leave(s)


def test_live_latency_grows_a_column_each_interval(
    program: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    s = screen(program("stuck.py").addr, "--view", "latency", size=(60, 30))

    def columns(picture: list[str]) -> set[int]:
        return {x for line in picture for x, cell in enumerate(line[9:53]) if cell in SHADES}

    picture = s.until(
        "there are many, the newest at the right edge",
        lambda p: len(columns(p)) >= 8 and max(columns(p)) == 43,
    )
    assert has(r" *[\d.]+ [nµm]?s  .*[░▒▓█]")(picture)
    leave(s)


def test_live_only_what_is_shown_is_asked_for(
    serve: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    asked: list[str] = []

    def handler(w: Any, r: Any) -> Any:
        asked.append(r.path.rpartition("/")[2])
        if asked[-1] == "snapshot":
            return no_tables(w, r)
        if asked[-1] == "stack":
            return http.not_found(w, r)  # it has ended
        who = [{"id": 5, "name": "eve"}]
        row = {"state": "running", "wait_reason": None, "count": 1, "longest": 0, "sample": who}
        return answer_of([row | {"spawned_at": None}])

    def settled(name: str) -> Callable[[list[str]], bool]:
        return lambda picture: len(asked) > 5 and set(asked[-5:]) == {name}

    s = screen(serve(handler).addr)
    s.until("it asks for the counters", settled("snapshot"))
    s.press("2")
    s.until("it asks for the goroutines alone", settled("goroutines"))
    s.press("\r")
    s.until("it asks for the stack alone", settled("stack"))
    s.until("it says that this one has gone", has("goroutine #5 eve  has ended"))
    assert s.picture[0].endswith("live")
    leave(s)


def test_live_paused_table_stays_but_can_be_searched(
    serve: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    asked: list[str] = []

    def handler(w: Any, r: Any) -> Any:
        asked.append(r.path)
        row = {"what": r.query.get("q", "all"), "wait_reason": "chan receive", "longest": 0}
        return answer_of([row | {"count": len(asked), "sample": [], "holder": None}])

    def counted(picture: list[str]) -> int:
        return int(picture[3].split()[1])

    s = screen(serve(handler).addr, "--view", "waits")
    s.until("it changes", lambda p: len(p) == 24 and counted(p) > 3)
    s.press("p")
    paused = s.until("it pauses", lambda p: p[0].endswith("paused"))
    before = len(asked)
    s.until("it was asked several times more", lambda p: len(asked) > before + 5)
    assert counted(s.picture) == counted(paused)
    s.press("/x")
    s.until("what is searched is shown", lambda p: " x " in p[3] and p[0].endswith("paused"))
    s.press("\r")
    leave(s)


def test_live_view_that_the_server_has_not_says_so(
    serve: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    s = screen(serve(no_tables).addr, size=(200, 24))
    s.until("it is live", lambda p: p[0].endswith("live"))
    s.press("3")
    s.until("the view is missing", lambda p: "an older gosched has no such view" in p[-1])
    s.press("1")
    s.until("the others go on", lambda p: p[0].endswith("live") and has("requests")(p))
    leave(s)


def test_live_answer_to_what_was_asked_before_is_not_shown(
    serve: Callable[..., Any], screen: Callable[..., Screen]
) -> None:
    asked: list[str] = []
    switched = threading.Event()

    def handler(w: Any, r: Any) -> Any:
        asked.append(r.path.rpartition("/")[2])
        if asked[-1] != "snapshot":
            r.context.done().recv_ok()  # until the client has gone
        while len(asked) > 1 and not switched.is_set():
            runtime.sleep(0.001)
        return no_tables(w, r)

    s = screen(serve(handler).addr)
    s.until("it waits for the counters", lambda p: has("requests")(p) and len(asked) == 2)
    s.press("2")
    s.until("the goroutines are to be shown", lambda p: "  goroutines  " in p[0])
    switched.set()
    s.until("it waits for them", lambda p: asked[-1] == "goroutines")
    s.press("p")
    s.until("it answers to keys", lambda p: p[0].endswith("paused"))
    assert "disconnected" not in s.seen
    leave(s)


@pytest.mark.parametrize("name", NAMES)
def test_live_server_goes_and_comes_back_in_any_view(
    program: Callable[..., Any], screen: Callable[..., Screen], name: str
) -> None:
    with ports.reserved() as address:
        stuck = program("stuck.py", address)
        s = screen(address, "--view", name)
        s.until("it is live", lambda p: p[0].endswith("live"))
        stuck.stop()
        gone = s.until("it has gone", lambda p: p[0].endswith("disconnected"))
        assert gone[-1].rstrip() == f"cannot connect to {address}: Connection refused"
        program("stuck.py", address)
        s.until("it is back", lambda p: p[0].endswith("live"))
    s.press("\x03")
    assert s.ended() == 0
