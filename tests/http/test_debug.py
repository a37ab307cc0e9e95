"""http.debug.handler(): who may see the live page, and what it is told."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import pytest

import runtime
from runtime import http, httptest
from runtime._http.debug.feed import INTERVALS, Feed
from runtime.http import middleware
from runtime.sync import Mutex
from runtime.testing import bubble
from waits import parked

ROOT = Path(__file__).resolve().parents[2]  # the checkout: what is tested may be built elsewhere
STATIC = ROOT / "http" / "debug" / "static"
LOCAL = "127.0.0.1:5000"
SAFETY = 60.0


@pytest.fixture(scope="module")
def page() -> http.ServeMux:
    return http.debug.handler()


def ask(handler, target="/", host="localhost:8080", peer=LOCAL, method="GET", **headers):
    fields = {"Host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = httptest.new_request(method, target, headers=fields, remote_addr=peer)
    return httptest.record(handler, request)


TARGETS = [
    "/",
    "/static/main.js",
    "/api/snapshot",
    "/api/goroutines",
    "/api/waits",
    "/api/stack?id=1",
]


# --- who may see it -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_page_is_shown_to_this_machine(page, target):
    assert ask(page, target).status == 200


@pytest.mark.parametrize("peer", ["[::1]:9", "127.8.9.1:1", "[::ffff:127.0.0.1]:5"])
def test_page_is_shown_to_any_loopback_address(page, peer):
    assert ask(page, peer=peer).status == 200


@pytest.mark.parametrize("target", [*TARGETS, "/api/events"])
@pytest.mark.parametrize(
    "peer", ["203.0.113.9:80", "10.0.0.1:80", "[2001:db8::1]:80", "@", "", "pipe"]
)
def test_strangers_get_403(page, target, peer):
    refused = ask(page, target, peer=peer)
    assert refused.status == 403
    assert "loopback" in refused.text
    assert "goroutine" not in refused.text


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:1", "[::1]:8", "app.localhost:80"]
)
def test_host_of_this_machine_is_let_in(page, host):
    assert ask(page, "/api/snapshot", host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8080",
        "notlocalhost",
        "192.168.0.1",
        "0.0.0.0",
        "[::2]:80",
        "2130706433",
        "",
    ],
)
def test_dns_rebinding_gets_403(page, host):
    assert ask(page, "/api/snapshot", host).status == 403


@pytest.mark.parametrize(
    "field",
    ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "CF-Connecting-IP", "Via"],
)
def test_what_a_proxy_passes_on_gets_403(page, field):
    """Whether a proxy has written it, or who asks: then he gains nothing."""
    for value in ("127.0.0.1", "203.0.113.9", "for=127.0.0.1", "1.1 proxy"):
        assert ask(page, **{field: value}).status == 403
        assert ask(page, peer="203.0.113.9:80", **{field: value}).status == 403


def test_forged_forwarding_fields_do_not_help_behind_real_address(page):
    behind = middleware.real_address()(page)
    # The proxy on this machine appends the address that it was asked from.
    assert ask(behind, X_Forwarded_For="127.0.0.1, 203.0.113.9").status == 403
    assert ask(behind, X_Forwarded_For="203.0.113.9").status == 403
    assert ask(behind, X_Forwarded_For="127.0.0.1, unknown").status == 403
    assert ask(behind, X_Forwarded_For="127.0.0.1").status == 200
    # A proxy elsewhere that is trusted says that it was this machine: the connection was not.
    trusting = middleware.real_address(["203.0.113.0/24", "loopback"])(page)
    assert ask(trusting, peer="203.0.113.9:80", X_Forwarded_For="127.0.0.1").status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_origins_get_403(page, site):
    for target in TARGETS:
        assert ask(page, target, Sec_Fetch_Site=site, Sec_Fetch_Mode="cors").status == 403
        # Not in a frame either.
        refused = ask(
            page, target, Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe"
        )
        assert refused.status == 403


def test_links_of_other_pages_open_it_in_a_tab(page):
    fields = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ask(page, Sec_Fetch_Dest="document", **fields).status == 200


def test_origin_alone_tells_of_old_browsers(page):
    assert ask(page, Origin="http://localhost:8080").status == 200
    assert ask(page, Origin="http://localhost:3000").status == 403
    for other in ("null", "http://[x", "http://localhost:8080]"):
        assert ask(page, Origin=other).status == 403


def test_auth_decides_instead_of_the_address():
    page = http.debug.handler(auth=middleware.basic_auth({"ann": "secret"}))
    right = "Basic " + base64.b64encode(b"ann:secret").decode()
    for target in TARGETS:
        assert ask(page, target).status == 401
        assert ask(page, target, Authorization="Basic YW5uOm5v").status == 401
        far = {"host": "ops.example", "peer": "203.0.113.9:80"}
        assert ask(page, target, Authorization=right, **far).status == 200
        assert (
            ask(page, target, Authorization=right, X_Forwarded_For="1.2.3.4", **far).status == 200
        )
        refused = ask(page, target, Authorization=right, Sec_Fetch_Site="cross-site", **far)
        assert refused.status == 403


def test_auth_that_is_no_middleware_is_refused():
    with pytest.raises(TypeError, match=r"handler\(auth\)"):
        http.debug.handler(auth="secret")
    with pytest.raises(ValueError, match="max_viewers"):
        http.debug.handler(max_viewers=0)


@pytest.mark.parametrize("target", [*TARGETS, "/static/none.js"])
@pytest.mark.parametrize("peer", [LOCAL, "203.0.113.9:80"])
def test_responses_tell_browsers_to_be_strict(page, target, peer):
    fields = ask(page, target, peer=peer).headers
    policy = fields.get("Content-Security-Policy").split("; ")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not any("unsafe" in directive or "http" in directive for directive in policy)
    assert fields.get("X-Content-Type-Options") == "nosniff"
    assert fields.get("X-Frame-Options") == "DENY"
    assert fields.get("Cross-Origin-Resource-Policy") == "same-origin"
    assert fields.get("Cache-Control") in ("no-store", "no-cache")


def test_other_methods_are_not_allowed(page):
    for target in TARGETS:
        assert ask(page, target, method="POST").status == 405


# --- what it is made of -------------------------------------------------------------------------


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = 0

    def handle_starttag(self, tag, attrs):
        fields = dict(attrs)
        self.found += [v for k in ("src", "href") if (v := fields.get(k)) and v[0] != "#"]
        self.inline += tag == "script" and "src" not in fields
        self.inline += "style" in fields or any(name.startswith("on") for name in fields)


def links(html: str) -> Links:
    parser = Links()
    parser.feed(html)
    return parser


@pytest.mark.parametrize("prefix", ["/debug/", "/a/b%20c/{tenant}/"])
def test_page_works_under_any_prefix(prefix):
    mux = http.ServeMux()
    mux.mount(prefix, http.debug.handler())
    base = prefix.replace("{tenant}", "x")
    found = links(ask(mux, base).text)
    assert found.inline == 0
    assert "static/main.js" in found.found
    for link in found.found:
        assert ask(mux, base + link).status == 200
    assert ask(mux, base[:-1]).headers.get("Location") == base


def test_page_is_small_and_needs_no_other_host():
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 250_000
    for path in files:
        if path.parent.name == "uplot":
            continue
        for url in re.findall(r"https?://[^\s\"'<>)]+", path.read_text(encoding="utf-8")):
            assert url == "http://www.w3.org/2000/svg"  # a name, not an address


def test_modules_import_only_what_is_there(page):
    for path in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8")):
            script = ask(page, f"/static/{name}")
            assert script.status == 200
            assert script.headers.get("Content-Type") == "text/javascript; charset=utf-8"


def test_assets_that_the_client_has_are_not_sent_again(page):
    first = ask(page, "/static/style.css")
    assert first.headers.get("Content-Type") == "text/css; charset=utf-8"
    again = ask(page, "/static/style.css", If_None_Match=first.headers.get("ETag"))
    assert (again.status, again.body) == (304, b"")
    assert ask(page, "/static/../handler.py").status in (307, 404)
    assert ask(page, "/static/..%2Fhandler.py").status == 404


def test_wheel_has_the_whole_page(tmp_path):
    """What setuptools would put into a wheel, without building the core."""
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    shipped = tmp_path / "runtime" / "_http" / "debug" / "static"
    names = {path.relative_to(STATIC) for path in STATIC.rglob("*") if path.is_file()}
    assert Path("uplot/LICENSE") in names
    assert {path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()} == names


# --- what it is told ----------------------------------------------------------------------------


def test_snapshot_is_of_all_workers(page):
    while True:  # until none of earlier tests ends meanwhile
        before = runtime.num_goroutine()
        data = ask(page, "/api/snapshot").json()
        if runtime.num_goroutine() == before:
            break
    assert data["self"] == 0
    (worker,) = data["workers"]
    assert (worker["id"], worker["restarts"]) == (0, 0)
    assert worker["snapshot"]["stats"]["goroutines"] == before
    assert {"latency", "run"} == worker["snapshot"]["histograms"].keys()


def rows(page, kind, **query):
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return ask(page, f"/api/{kind}?{text}").json()


@pytest.fixture
def fresh() -> http.ServeMux:
    """One that has looked at no goroutines yet."""
    return http.debug.handler()


@pytest.fixture
def cast():
    """Goroutines that wait until the test ends; cast.go(name, fn, *args)."""
    started = []

    class Cast:
        def go(self, name, fn, *args):
            started.append(parked(runtime.go.named(name)(fn, *args)))
            return started[-1]

    yield Cast()
    for g in started:
        g.cancel()
    for g in started:
        with suppress(runtime.Cancelled):
            g.join(timeout=SAFETY)


def test_goroutines_alike_are_one_row(fresh, cast):
    ch = runtime.Chan()
    alike = [cast.go(f"receiver-{n}", ch.recv) for n in range(20)]
    table = rows(fresh, "goroutines", q="receiver-3")
    assert table["shown"] == 1
    assert table["total"] >= 21
    (row,) = table["rows"]
    assert (row["count"], row["state"], row["wait_reason"]) == (20, "waiting", "chan receive")
    assert row["spawned_at"]["file"] == __file__
    assert row["sample"][0] == {"id": alike[0].id, "name": "receiver-0"}
    assert rows(fresh, "goroutines", q="nothing-has-this-name")["rows"] == []


def test_goroutines_come_in_pages(fresh, cast, monkeypatch):
    monkeypatch.setattr("runtime._http.debug.goroutines._KEEP", SAFETY)  # all are of one table
    for n in range(7):
        exec(
            f"def f():\n    cast.go('kind-{n}', runtime.sleep, 3600)",
            globals() | {"cast": cast},
            ns := {},
        )
        ns["f"]()
    whole = rows(fresh, "goroutines")["rows"]
    pages = [rows(fresh, "goroutines", offset=n, limit=3)["rows"] for n in range(0, len(whole), 3)]
    assert [row for page in pages for row in page] == whole
    assert all(len(page) <= 3 for page in pages)
    assert rows(fresh, "goroutines", offset=10**9)["rows"] == []
    counts = [row["count"] for row in whole]
    assert counts == sorted(counts, reverse=True)


def test_waits_tell_who_holds_what_others_want(fresh, cast):
    mu = Mutex()

    def hold():
        with mu:
            runtime.sleep(3600)

    holder = cast.go("the-holder", hold)
    blocked = cast.go("the-blocked", mu.lock)
    (row,) = rows(fresh, "waits", q="the-holder")["rows"]
    assert (row["kind"], row["wait_reason"], row["count"]) == ("Mutex", "sync.Mutex.Lock", 1)
    assert row["sample"] == [{"id": blocked.id, "name": "the-blocked"}]
    assert row["holder"] == {
        "id": holder.id,
        "name": "the-holder",
        "state": "waiting",
        "wait_reason": "sleep",
    }


def test_waits_in_a_circle_are_a_deadlock(fresh, cast):
    a, b, c = Mutex(), Mutex(), Mutex()

    def hold(mine, wanted, go_on):
        with mine:
            go_on.recv()
            wanted.lock()

    gates = [runtime.Chan() for _ in range(3)]
    names = ["circle-1", "circle-2", "outside"]
    pairs = [(a, b), (b, a), (c, a)]
    gs = [
        cast.go(name, hold, *pair, gate)
        for name, pair, gate in zip(names, pairs, gates, strict=True)
    ]
    for gate, g in zip(gates, gs, strict=True):
        gate.send(None)
        while g.state != "waiting" or runtime._inspect.find(g.id).wait_reason != "sync.Mutex.Lock":
            runtime.gosched()
    cast.go("after-it", c.lock)
    found = {row["what"]: row for row in rows(fresh, "waits", q="sync.mutex")["rows"]}
    assert [row["deadlock"] for row in found.values()] == [True, True, False]  # they come first
    assert not found[repr(c)]["deadlock"]  # its holder waits for them, but nobody in there for it


def test_stack_of_one_goroutine(page, cast):
    ch = runtime.Chan()

    def wait_here():
        ch.recv()

    g = cast.go("waits-here", wait_here)
    told = ask(page, f"/api/stack?id={g.id}").json()
    assert (told["name"], told["state"], told["wait_reason"]) == (
        "waits-here",
        "waiting",
        "chan receive",
    )
    assert told["stack"][0]["function"] == f"{__name__}.{wait_here.__qualname__}"
    assert told["waits_on"] == [{"what": repr(ch), "id": None}]
    assert told["holders"] == []
    joins = cast.go("joins", g.join)
    told = ask(page, f"/api/stack?id={joins.id}").json()
    assert told["waits_on"][0]["id"] == g.id
    assert told["holders"] == [{"id": g.id, "name": "waits-here"}]
    assert ask(page, "/api/stack?id=999999999999").status == 404


@pytest.mark.parametrize(
    "target",
    [
        "/api/stack",
        "/api/stack?id=x",
        "/api/stack?id=-1",
        "/api/goroutines?limit=x",
        "/api/waits?offset=-1",
        "/api/waits?pid=x",
        "/api/events?interval=0.01",
        "/api/events?interval=nan",
        "/api/events?interval=x",
    ],
)
def test_bad_queries_get_400(page, target):
    assert ask(page, target).status == 400


def test_ten_thousand_goroutines_make_no_long_answer(fresh):
    ch = runtime.Chan()
    mine = [runtime.go.named("one-of-many")(ch.recv_ok) for _ in range(10_000)]
    channels = [runtime.Chan() for _ in range(1000)]
    mine += [runtime.go(c.recv_ok) for c in channels]
    for g in mine:
        parked(g)
    answer = ask(fresh, "/api/goroutines?q=one-of-many")
    assert answer.json()["rows"][0]["count"] == 10_000
    waits = ask(fresh, "/api/waits?limit=1000000")
    assert waits.json()["objects"] >= 1001
    assert len(waits.json()["rows"]) == 100
    assert len(answer.body) + len(waits.body) < 100_000
    ch.close()
    for c in channels:
        c.close()
    for g in mine:
        g.join(timeout=SAFETY)


# --- of other processes --------------------------------------------------------------------------


class Team:
    """Two workers, with a connection to each."""

    def __init__(self, supervised, temporary, wait_until, patience) -> None:
        env, peers = {"TMPDIR": str(temporary)}, {"_PATIENCE": patience}
        self.served = supervised(env=env, peers=peers).until_serving(2)
        self.pids = self.served.started()
        self.temporary = temporary
        self.conns = {}
        wait_until("each is reached", self._reach)

    def _reach(self) -> bool:
        conn = self.served.connect()
        pid = int(conn.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").response().body)
        if pid in self.conns:
            conn.close()
        self.conns.setdefault(pid, conn)
        return len(self.conns) == 2

    def ask(self, asked: int, kind: str, host="localhost", **query):
        """Status and answer of the worker that is asked."""
        text = "&".join(f"{name}={value}" for name, value in query.items())
        request = f"GET /debug/api/{kind}?{text} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        response = self.conns[asked].send(request).response()
        return response.status, response.body

    def tell(self, asked: int, kind: str, **query):
        status, body = self.ask(asked, kind, **query)
        return status, json.loads(body)

    def sockets(self) -> set[str]:
        return {path.name for path in self.temporary.glob("gosched-*/*")}

    def close(self) -> None:
        for conn in self.conns.values():
            conn.close()


@pytest.fixture
def patience() -> float:
    """How long workers wait for each other's answers: on a loaded machine any may be late."""
    return SAFETY


@pytest.fixture
def team(supervised, tmp_path, wait_until, patience):
    made = Team(supervised, tmp_path, wait_until, patience)
    yield made
    made.close()


def test_workers_tell_of_each_other(team):
    for asked in team.pids:
        for pid in team.pids:
            status, table = team.tell(asked, "goroutines", q="only-in", pid=pid)
            assert (status, table["pid"]) == (200, pid)
            (who,) = table["rows"][0]["sample"]
            assert who["name"] == f"only-in-{pid}"
            status, told = team.tell(asked, "stack", id=who["id"], pid=pid)
            assert (status, told["pid"], told["name"]) == (200, pid, f"only-in-{pid}")
            assert team.tell(asked, "waits", pid=pid)[1]["pid"] == pid
        assert team.tell(asked, "goroutines")[1]["pid"] == asked
    assert team.tell(team.pids[0], "stack", id=10**12, pid=team.pids[1])[0] == 404


def test_process_that_is_no_worker_gets_404(team, page):
    asked = team.pids[0]
    for pid in (team.served.proc.pid, os.getpid(), 0, 10**12):
        for kind in ("goroutines", "waits", "stack"):
            status, answer = team.tell(asked, kind, id=1, pid=pid)
            assert status == 404
            assert "is no worker of this service" in answer["error"]
    assert ask(page, f"/api/goroutines?pid={os.getpid()}").status == 200
    refused = ask(page, f"/api/stack?id=1&pid={asked}")  # of another service
    assert refused.status == 404
    assert refused.headers.get("Content-Type").startswith("application/json")
    assert "is no worker of this service" in refused.json()["error"]


def test_strangers_are_told_of_no_worker(team):
    one, other = team.pids
    status, body = team.ask(one, "goroutines", host="evil.example", pid=other)
    assert (status, b"only-in" in body) == (403, False)


def test_worker_that_has_ended_is_no_more_and_leaves_no_file(team):
    one, other = team.pids
    assert team.sockets() == {f"{one}.sock", f"{other}.sock"}
    (directory,) = team.temporary.glob("gosched-*")
    assert directory.stat().st_mode & 0o777 == 0o700
    os.kill(other, signal.SIGKILL)
    new = team.served.until_started(3)[-1]
    assert team.tell(one, "goroutines", pid=other)[0] == 404
    status, table = team.tell(one, "goroutines", q="only-in", pid=new)
    assert (status, table["rows"][0]["sample"][0]["name"]) == (200, f"only-in-{new}")
    assert team.sockets() == {f"{one}.sock", f"{new}.sock"}
    team.served.stop()
    assert not directory.exists()


def test_killed_supervisor_leaves_no_sockets(team, wait_until):
    team.served.proc.kill()
    wait_until("the directory is gone", lambda: not list(team.temporary.glob("gosched-*")))


def test_worker_that_cannot_be_asked_gets_502(team):
    one, other = team.pids
    next(team.temporary.glob(f"gosched-*/{other}.sock")).unlink()
    status, answer = team.tell(one, "waits", pid=other)
    assert status == 502
    assert f"process {other} does not answer" in answer["error"]


@pytest.mark.parametrize("patience", [1.0])
def test_worker_that_is_stopped_gets_504(team, wait_until):
    one, other = team.pids
    os.kill(other, signal.SIGSTOP)
    try:
        status, answer = team.tell(one, "goroutines", pid=other)
    finally:
        os.kill(other, signal.SIGCONT)
    assert (status, answer["error"]) == (504, f"process {other} has not answered in time")
    wait_until("it answers", lambda: team.tell(one, "goroutines", pid=other)[0] == 200)


def test_questions_leave_no_descriptors(team, wait_until):
    one, other = team.pids

    def descriptors() -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in team.pids)

    team.tell(one, "goroutines", pid=other)
    before = descriptors()
    for _ in range(50):
        team.tell(one, "goroutines", pid=other)
    # Some may be open for a moment, and threads may have opened theirs.
    wait_until("they are closed", lambda: descriptors() < before + 10)


def test_service_without_a_place_for_sockets_works(supervised, tmp_path):
    long = tmp_path / ("x" * 120)  # the path of a unix socket may not be so long
    long.mkdir()
    served = supervised(env={"TMPDIR": str(long)}).until_serving(2)
    assert "other workers cannot ask process" in served.stderr()
    with served.connect() as conn:
        found = {}
        for pid in served.started():
            conn.send(f"GET /debug/api/waits?pid={pid} HTTP/1.1\r\nHost: localhost\r\n\r\n")
            found[conn.response().status] = pid
    assert found.keys() == {200, 502}  # its own, and the other one's
    served.stop()
    assert not list(long.iterdir())


# --- events -------------------------------------------------------------------------------------


def first_event(conn) -> dict:
    text = b""
    while b"\n\ndata: " not in text.replace(b"event: snapshot\n", b"\n") or text.count(b"\n\n") < 2:
        text += conn.chunk()
    return json.loads(text.split(b"data: ", 1)[1].split(b"\n\n", 1)[0])


def watch(running):
    conn = running.connect()
    conn.send("GET /debug/api/events?interval=0.5 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return conn, conn.head()


@pytest.fixture
def mounted() -> http.ServeMux:
    mux = http.ServeMux()
    mux.mount("/debug/", http.debug.handler(max_viewers=2))
    return mux


def test_events_are_snapshots(serve, mounted):
    running = serve(mounted)
    conn, head = watch(running)
    with conn:
        assert (head.status, head["content-type"]) == (200, "text/event-stream")
        first, second = first_event(conn), first_event(conn)
    times = [data["workers"][0]["snapshot"]["time"] for data in (first, second)]
    assert times[0] < times[1]


def test_too_many_viewers_get_503_until_one_leaves(serve, mounted):
    running = serve(mounted)
    (a, _), (b, _) = watch(running), watch(running)
    conn, head = watch(running)
    with conn:
        assert (head.status, head["retry-after"]) == (503, "5")
    a.close()
    while True:  # until the server has noticed that one has left
        conn, head = watch(running)
        conn.close()
        if head.status == 200:
            break
        assert head.status == 503
    b.close()


def test_shutdown_does_not_wait_for_viewers(serve, mounted):
    running = serve(mounted)
    conn, _ = watch(running)
    with conn:
        first_event(conn)
        assert running.server.shutdown(timeout=SAFETY)
        running.join()


@pytest.mark.parametrize("viewers", [1, 5])
@bubble()
def test_feed_makes_each_snapshot_once(viewers):
    made: list[str] = []

    def make() -> str:
        made.append(f"snapshot {len(made)}")
        return made[-1]

    feed = Feed(viewers, make)
    context = runtime.context.background()
    joined = [feed.join(1.0, context) for _ in range(viewers)]
    assert feed.join(1.0, context) is None
    for n in range(10):
        assert [viewer.recv() for viewer in joined] == [f"snapshot {n}"] * viewers
    assert len(made) == 10
    for viewer in joined:
        feed.leave(1.0, viewer)
    assert feed.viewers() == 0
    runtime.sleep(100)
    assert len(made) == 10  # nobody watches: nothing is made


@bubble()
def test_feed_drops_what_a_slow_viewer_does_not_take():
    feed = Feed(2, lambda: "x" * 1000)
    slow = feed.join(0.5, runtime.context.background())
    runtime.sleep(100)
    assert len(slow) <= 2
    assert slow.recv() == "x" * 1000
    feed.leave(0.5, slow)


@bubble()
def test_feed_that_fails_ends_its_viewers():
    def make() -> str:
        raise OSError("no snapshot")

    failures = []
    before, runtime.excepthook = runtime.excepthook, lambda g, exc: failures.append(exc)
    try:
        feed = Feed(2, make)
        viewer = feed.join(1.0, runtime.context.background())
        assert viewer.recv_ok() == (None, False)
        runtime.sleep(1)
    finally:
        runtime.excepthook = before
    assert [str(exc) for exc in failures] == ["no snapshot"]
    assert feed.viewers() == 0


def test_intervals_are_those_the_page_offers():
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    offered = re.findall(r'<option value="([\d.]+)"', html)
    assert [float(value) for value in offered] == list(INTERVALS)
