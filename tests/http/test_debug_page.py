"""The live page in Chromium, driven by its ChromeDriver: it shows what happens, and obeys."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.error import HTTPError

import chromium
import ports
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from programs import environment

SAFETY = 60.0
SCRIPT = Path(__file__).parent / "scripts" / "live.py"
TABS = ["scheduler", "http", "goroutines", "waits", "workers"]


# Counts what the page has asked for and has no answer to yet.
COUNT_QUESTIONS = """
const fetch = window.fetch;
window.questions = 0;
window.fetch = async (...args) => {
  questions += 1;
  try {
    const response = await fetch(...args), json = await response.clone().json().catch(() => null);
    response.json = async () => json;
    return response;
  } finally {
    setTimeout(() => { questions -= 1; });  // when the page has done what it does with it
  }
};
"""


class Site:
    """scripts/live.py in a process of its own, which can be ended and started again."""

    def __init__(self, *args: str) -> None:
        self.args = args
        self.port = ExitStack()
        self.wanted = self.port.enter_context(ports.reserved())
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), self.wanted, *self.args],
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().decode().strip()
        assert self.address, "it does not serve"
        while self.process.poll() is None:  # workers listen a little later
            try:
                socket.create_connection(self.where, timeout=SAFETY).close()
                return
            except ConnectionRefusedError:
                os.sched_yield()
        raise AssertionError(f"it has ended: {self.process.returncode}")

    @property
    def where(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(SAFETY)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SAFETY)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.port.close()

    @property
    def page(self) -> str:
        return f"http://{self.address}/debug/"

    def ask(self, path: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(f"http://{self.address}{path}", method=method)
        with urllib.request.urlopen(request, timeout=SAFETY) as response:
            return response.read()


class Page(chromium.Page):
    """The page, as its user has it."""

    def open(self, url: str) -> None:
        self.driver.get("about:blank")  # or a change of #fragment would be all
        self.driver.get(url)
        self.until(lambda: self.state() == "live", "it is live")
        self.run(COUNT_QUESTIONS)

    def quiet(self) -> None:
        """Wait until all that the page has asked for is answered, and shown."""
        self.until(lambda: self.run("return questions") == 0, "all is answered")

    def state(self) -> str:
        return self.run("return document.body.dataset.state ?? ''")

    def tile(self, name: str) -> str:
        return self.run(
            "return [...document.querySelectorAll('.tile')]"
            ".find(t => t.firstChild.textContent === arguments[0]).children[1].textContent",
            name,
        )

    def rows(self, table: str) -> list[list[str]]:
        return self.run(
            "return [...document.querySelectorAll(arguments[0] + ' tbody tr')]"
            ".map(tr => [...tr.cells].map(td => td.innerText))",
            table,
        )

    def only_row(self, table: str) -> list[str]:
        """Its row; none if there are more, or it only says that there is nothing."""
        found = self.rows(table)
        return found[0] if len(found) == 1 and len(found[0]) > 1 else []

    def shown(self) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll('main > section')]"
            ".filter(s => s.checkVisibility()).map(s => s.id)"
        )

    def scheme(self, name: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def width(self, pixels: int, height: int = 800) -> None:
        size = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": pixels < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def background(self) -> str:
        return self.run("return getComputedStyle(document.documentElement).backgroundColor")

    def legend(self, panel: str) -> dict[str, str]:
        """The lines of a chart with their values."""
        return dict(
            self.run(
                "return [...document.querySelectorAll(`#${arguments[0]} .legend li`)]"
                ".map(li => [li.childNodes[1].textContent, li.lastChild.textContent])",
                panel,
            )
        )

    def draws(self, panel: str, colour: str) -> bool:
        """Has its canvas something in this colour of the style sheet?"""
        return self.run(
            """
            const probe = document.createElement("span");
            probe.style.color = `var(--${arguments[1]})`;
            document.body.append(probe);
            const wanted = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
            probe.remove();
            const c = document.querySelector(`#${arguments[0]} canvas`);
            if (!c?.width) return false;
            const copy = new OffscreenCanvas(c.width, c.height);  // made to be read
            const g = copy.getContext("2d", { willReadFrequently: true });
            g.drawImage(c, 0, 0);
            const { data } = g.getImageData(0, 0, c.width, c.height);
            let found = 0;
            for (let i = 0; i < data.length; i += 4)
              found += data[i + 3] > 200 && wanted.every((x, k) => Math.abs(x - data[i + k]) < 30);
            return found >= 5;
            """,
            panel,
            colour,
        )

    def choose_worker(self, value: str) -> None:
        Select(self.find("#worker")).select_by_value(value)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def loaded(driver: webdriver.Chrome, site: Site) -> Page:
    page = Page(driver)
    page.open(site.page)
    return page


@pytest.fixture
def page(loaded: Page) -> Iterator[Page]:
    """The page as it is at first; nothing may be wrong in the console at the end."""
    loaded.width(1280)
    loaded.scheme("light")
    loaded.click("#tab-scheduler")
    if loaded.find("#pause").get_attribute("aria-pressed") == "true":
        loaded.click("#pause")
    yield loaded
    assert loaded.complaints() == []


# --- what it shows ------------------------------------------------------------------------------


def test_page_loads_and_is_live(page, site):
    page.until(lambda: page.tile("Goroutines").isdigit(), "goroutines are counted")
    assert int(page.tile("Goroutines")) >= 64
    assert str(site.process.pid) in page.text("#process")
    assert page.shown() == ["view-scheduler"]


def test_figures_follow_what_happens(page, site):
    page.until(lambda: page.tile("Switches/s")[:1] in "123456789", "switches are counted")
    before = page.tile("Goroutines")
    site.ask("/park?n=100", "POST")
    # Those of connections that the browser has no use for may end meanwhile.
    page.until(lambda: int(page.tile("Goroutines")) >= int(before) + 80, "they are counted, too")


PS = " ".join(f"s{i}" for i in range(1, 9))  # lines of several Ps may lie on one another
SCHEDULER_CHARTS = {
    "utilisation": PS,
    "runq": PS,
    "heatmap": "s2",
    "percentiles": "s5",
    "states": "s4",
    "work": "s6",
}
HTTP_CHARTS = {"requests": "s4", "connections": "s4", "http-latency": "s2", "bytes": "s1"}


def test_scheduler_charts_are_drawn(page):
    for panel, colours in SCHEDULER_CHARTS.items():
        page.until(
            lambda p=panel, cs=colours: any(page.draws(p, c) for c in cs.split()),
            f"{panel} has a line",
        )
    page.until(lambda: "timed" in page.text("#heatmap .legend"), "the heat map tells what it shows")
    label = page.find("#heatmap canvas").get_attribute("aria-label")
    assert "p99" in label
    (row,) = page.rows("#ps")[:1]
    assert row[0] == "P0"
    assert row[1].strip().endswith("%")
    assert page.run("return document.querySelectorAll('#utilisation .legend li').length") >= 1


def test_run_queue_of_each_p_is_drawn(page, site):
    page.until(lambda: page.text("#ps tbody").startswith("P0"), "there are Ps")
    names = {row[0] for row in page.rows("#ps")} - {"spare P"}
    assert names <= page.legend("runq").keys()

    def deepest() -> int:
        depths = [depth for p, depth in page.legend("runq").items() if p in names]
        return max(int(depth) if depth.isdigit() else 0 for depth in depths)

    site.ask("/crowd?n=200", "POST")
    page.until(lambda: deepest() >= 20, "they are in a queue")
    site.ask("/crowd?n=0", "POST")
    page.until(lambda: deepest() < 20, "they are gone")


def test_heat_map_tells_what_is_under_the_pointer(page):
    page.until(lambda: page.draws("heatmap", "s2"), "there is something")
    note = "#heatmap .legend li:last-child"
    mouse = webdriver.ActionChains(page.driver, duration=0)
    mouse.move_to_element(page.find("#heatmap canvas")).perform()
    told = re.compile(r"\d\d:\d\d:\d\d: \d.* took \d.*s to \d.*s")
    page.until(lambda: told.fullmatch(page.text(note)), "a bucket is told")
    mouse.move_to_element(page.find("h1")).perform()
    page.until(lambda: page.text(note).endswith("timed"), "it is as before")


def test_http_view_has_routes_with_their_statuses(page, site):
    for _ in range(3):
        site.ask("/hello/you")
    with pytest.raises(HTTPError) as failed:
        site.ask("/fail")
    failed.value.close()
    page.click("#tab-http")

    def route(name: str) -> list[str]:
        return next((row for row in page.rows("#routes") if row[1:2] == [name]), [""] * 11)

    page.until(lambda: route("/hello/{name}")[3] == "3", "three requests are counted")
    page.until(lambda: route("/fail")[5] == "1", "a 5xx is counted")
    hello = route("/hello/{name}")
    assert hello[0] == "GET"
    assert hello[9].endswith("s")  # p99
    assert page.shown() == ["view-http"]


def test_http_charts_and_tiles_follow_the_requests(page, site):
    page.click("#tab-http")
    with pytest.raises(HTTPError) as failed:
        site.ask("/fail")
    failed.value.close()

    def busy() -> bool:
        for _ in range(10):
            site.ask("/hello/you")
        values = page.legend("requests")
        return values["2xx"] != "0" and values["all"] != "0" and page.tile("Requests/s") != "0"

    page.until(busy, "they are counted")
    for panel, colour in HTTP_CHARTS.items():
        page.until(lambda p=panel, c=colour: page.draws(p, c), f"{panel} has a line")
    assert page.legend("requests").keys() == {"all", "2xx", "3xx", "4xx", "5xx", "none"}

    def timed() -> bool:  # there is a value only where there were requests in the last second
        site.ask("/hello/you")
        return page.legend("http-latency")["p99"].endswith("s")

    page.until(timed, "they are timed")
    page.until(lambda: page.legend("bytes")["written"][:1] in "123456789", "bytes are counted")

    before = int(page.tile("Connections"))
    with ExitStack() as stack:
        for _ in range(30):
            conn = stack.enter_context(socket.create_connection(site.where, timeout=SAFETY))
            conn.sendall(b"GET /hello/you HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert conn.recv(4096).startswith(b"HTTP/1.1 200")
        page.until(lambda: int(page.tile("Connections")) >= 30, "they are counted")
        page.until(lambda: int(page.legend("connections")["idle"]) >= 30, "they are kept alive")
    page.until(lambda: int(page.tile("Connections")) <= before + 5, "they are gone")


def test_goroutines_have_stacks_on_click(page, site):
    page.click("#tab-goroutines")
    page.find("#goroutine-filter").send_keys("holder")
    row = page.until(lambda: page.only_row("#goroutine-rows"), "one row is left")
    assert row[0] == "1"
    assert row[1].startswith("chan receive")
    assert "scripts/live.py" in row[2]
    page.click("#goroutine-rows .chip")
    page.until(lambda: "holder" in page.text("#goroutine-detail h3"), "its stack is shown")
    frames = [
        e.text for e in page.find("#goroutine-detail .stack").find_elements(By.TAG_NAME, "li")
    ]
    assert [f.partition("\n")[0] for f in frames] == ["__main__.wait_here", "__main__.hold"]
    page.find("#goroutine-filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)


def test_names_are_text_and_no_markup(page):
    page.click("#tab-goroutines")
    page.find("#goroutine-filter").send_keys("injected")
    page.until(lambda: "<b id=injected>" in page.text("#goroutine-rows .chip"), "its name is shown")
    page.click("#goroutine-rows .chip")
    page.until(
        lambda: "<b id=injected>" in page.text("#goroutine-detail h3"), "also with its stack"
    )
    assert page.run("return document.getElementById('injected')") is None
    page.find("#goroutine-filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)


def test_goroutines_are_leafed_through(page):
    page.click("#tab-goroutines")
    page.until(lambda: len(page.rows("#goroutine-rows")) == 50, "a page is full")
    following, back = "#goroutine-pages button + button", "#goroutine-pages button"
    assert page.text("#goroutine-pages span").startswith("1 to 50 of ")
    assert not page.find(back).is_enabled()
    page.click(following)
    page.until(lambda: 10 <= len(page.rows("#goroutine-rows")) < 50, "the second page is shown")
    assert page.text("#goroutine-pages span").startswith("51 to ")
    assert not page.find(following).is_enabled()
    page.click(back)
    page.until(lambda: len(page.rows("#goroutine-rows")) == 50, "the first is shown again")
    assert page.text("#goroutine-pages span").startswith("1 to 50 of ")
    assert not page.find(back).is_enabled()


def test_ten_thousand_goroutines_are_one_row(page, site):
    site.ask("/park?n=10000", "POST")
    page.click("#tab-goroutines")
    page.until(
        lambda: [row[0][-2:] for row in page.rows("#goroutine-rows")[:1]] == [" k"],
        "they are counted",
    )
    assert len(page.rows("#goroutine-rows")) == 50
    assert page.state() == "live"


def test_waits_tell_who_holds_the_mutex(page):
    page.click("#tab-waits")
    page.find("#wait-filter").send_keys("mutex")
    row = page.until(lambda: page.only_row("#wait-rows"), "one row is left")
    what, waiting, doing, holder, who = row
    assert what.startswith("Mutex\n<Mutex locked at")
    assert (waiting, doing.split("\n")[0]) == ("2", "sync.Mutex.Lock")
    assert "holder" in holder and "chan receive" in holder
    assert "blocked-1" in who and "blocked-2" in who
    page.click("#wait-rows td:nth-child(5) .chip")
    page.until(lambda: "blocked-1" in page.text("#wait-detail h3"), "who waits is shown")
    page.click("#wait-detail dd .chip")  # and from there who holds it
    page.until(lambda: "holder" in page.text("#wait-detail h3"), "who holds it is shown")
    page.find("#wait-filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)


def test_waits_are_leafed_through(page, site):
    site.ask("/queue?n=60", "POST")
    page.click("#tab-waits")
    page.find("#wait-filter").send_keys("queued")
    page.until(
        lambda: ["queued" in str(row) for row in page.rows("#wait-rows")] == [True] * 50,
        "a page is full of them",
    )
    first = {row[0] for row in page.rows("#wait-rows")}
    page.click("#wait-pages button + button")
    page.until(lambda: 10 <= len(page.rows("#wait-rows")) < 50, "the second page is shown")
    assert first.isdisjoint(row[0] for row in page.rows("#wait-rows"))
    assert page.text("#wait-pages span").startswith("51 to ")
    assert not page.find("#wait-pages button + button").is_enabled()
    page.click("#wait-pages button")
    page.until(lambda: {row[0] for row in page.rows("#wait-rows")} == first, "the first is shown")
    assert not page.find("#wait-pages button").is_enabled()
    page.find("#wait-filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)


# --- what one can do ----------------------------------------------------------------------------


def test_pause_stops_and_resume_goes_on(page, site):
    page.click("#pause")
    assert (page.state(), page.text("#pause")) == ("paused", "Resume")
    assert page.find("#pause").get_attribute("aria-pressed") == "true"
    asked = site.ask("/asked").count(b"api/events")
    site.ask("/park?n=7", "POST")
    frozen = page.tile("Goroutines")
    page.click("#tab-http")
    assert page.tile("Goroutines") == frozen
    assert site.ask("/asked").count(b"api/events") == asked
    page.click("#pause")
    page.until(lambda: page.state() == "live", "it is live again")
    assert page.text("#pause") == "Pause"
    assert site.ask("/asked").count(b"api/events") == asked + 1


MODEL = """
const [times, done] = arguments;
import("./static/model.js").then(async ({ Model }) => {
  const { workers: [own] } = await (await fetch("api/snapshot")).json();
  const model = new Model(), out = [];
  for (const all of times) {
    const workers = all.map(([id, pid, time]) => (
      { ...own, id, pid, snapshot: { ...own.snapshot, pid, time } }));
    const shown = model.push({ workers, self: 0 });
    out.push([shown, model.frames("all").length, model.frames("0").length]);
  }
  done(out);
});
"""


def test_figures_go_on_while_a_worker_is_replaced_and_when_the_clock_is_set_back(page):
    def frames(*times):
        return page.driver.execute_async_script(MODEL, times)

    both = [[[0, 5, t], [0, 6, t]] for t in (1, 2, 3)]  # the old and the new one, in one slot
    assert frames([[0, 5, 0]], *both) == [
        [False, 0, 0],
        [True, 1, 1],
        [True, 2, 2],
        [True, 3, 3],
    ]
    back = [[[0, 5, t]] for t in (100, 101, 50, 51, 52)]
    shown = frames(*back)
    assert [x[0] for x in shown] == [False, True, False, True, True]
    assert shown[-1][1] == 2  # of the new time only


def test_tables_stand_still_while_paused(page, site):
    def parked() -> str:
        found = page.rows("#goroutine-rows")
        return found[0][0] if len(found) == 1 else ""

    page.click("#tab-goroutines")
    page.find("#goroutine-filter").send_keys("parked")
    site.ask("/park?n=1", "POST")
    page.until(lambda: parked() != "", "they are shown")
    page.click("#pause")
    page.quiet()
    before = parked()
    asked = site.ask("/asked").count(b"api/goroutines")
    tile = page.tile("Goroutines")
    site.ask("/park?n=10000", "POST")
    now = "return performance.now()"
    begun = page.run(now)
    page.until(lambda: page.run(now) > begun + 2500, "both would have been shown anew")
    assert (parked(), page.tile("Goroutines")) == (before, tile)
    assert site.ask("/asked").count(b"api/goroutines") == asked
    page.click("#pause")
    page.until(lambda: parked() != before, "the table goes on")
    assert site.ask("/asked").count(b"api/goroutines") > asked
    page.find("#goroutine-filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)


@pytest.mark.parametrize("kind", ["goroutine", "wait"])
def test_refresh_asks_again_while_paused(page, site, kind):
    def told() -> str:
        """How many goroutines there are of that kind, or what waits with how many."""
        rows = page.rows(f"#{kind}-rows")
        return rows[0][0] if kind == "goroutine" and rows else page.text(f"#{kind}-count")

    def asked() -> int:
        return site.ask("/asked").count(f"api/{kind}s?".encode())

    page.click(f"#tab-{kind}s")
    site.ask("/queue?n=1", "POST")
    page.find(f"#{kind}-filter").send_keys("queued")
    page.until(lambda: "queued" in str(page.rows(f"#{kind}-rows")), "they are shown")
    page.click("#pause")
    page.quiet()
    before, asked_before = told(), asked()
    site.ask("/queue?n=30", "POST")  # more than may end at the same time

    def refreshed() -> bool:  # the server may have a table that is a moment old
        page.click(f"#{kind}-refresh")
        page.quiet()  # who asks again gives up the answer that is on its way
        return told() != before

    page.until(refreshed, "the new ones are shown")
    assert asked() > asked_before
    page.click("#pause")
    page.find(f"#{kind}-filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)


def test_interval_is_the_one_that_was_chosen(page, site):
    Select(page.find("#interval")).select_by_value("0.5")
    page.until(lambda: b"interval=0.5" in site.ask("/asked"), "it is asked for")
    page.until(lambda: page.state() == "live", "it is live")
    Select(page.find("#interval")).select_by_value("1")
    page.until(lambda: page.state() == "live", "it is live")


def test_colours_follow_the_system_and_the_button(page):
    light = page.background()
    page.scheme("dark")
    dark = page.background()
    assert light != dark
    seen = {}
    for _ in range(3):
        page.click("#theme")
        seen[page.text("#theme b")] = page.background()
    assert seen == {"auto": dark, "light": light, "dark": dark}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_background(page, scheme):
    page.scheme(scheme)
    contrast = """
        const light = (c) => {
          const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((x) => x / 255)
            .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        return [...document.querySelectorAll("h2, .caption, .tile dt, .tile dd, th, td, button")]
          .filter((e) => e.checkVisibility() && e.textContent.trim()).map((e) => {
            let under = e;
            const back = () => getComputedStyle(under).backgroundColor;
            while (back() === "rgba(0, 0, 0, 0)") under = under.parentElement;
            const both = [light(getComputedStyle(e).color), light(back())].sort((x, y) => y - x);
            return (both[0] + 0.05) / (both[1] + 0.05);
          });
    """
    found = page.run(contrast)
    assert len(found) > 30
    assert min(found) >= 4.5  # WCAG 2, AA


@pytest.mark.parametrize("tab", TABS)
def test_phone_has_nothing_to_scroll_sideways(page, tab):
    page.width(360)
    page.click(f"#tab-{tab}")
    assert page.shown() == [f"view-{tab}"]
    page.until(lambda: page.run("return innerWidth") == 360, "it is narrow")
    page.painted()
    assert page.run("return document.documentElement.scrollWidth") <= 360
    wide = page.run(
        "return [...document.querySelectorAll('button, select, input, .tile')]"
        ".filter(e => e.checkVisibility() && !e.closest('.scroll'))"
        ".filter(e => e.getBoundingClientRect().right > 361).map(e => e.id || e.className)"
    )
    assert wide == []


def test_keyboard_reaches_all_controls_and_shows_where_it_is(page):
    page.run("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
    page.run("document.querySelector('.skip').focus()")
    body = webdriver.ActionChains(page.driver, duration=0)
    reached = []
    for _ in range(5):
        body.send_keys(Keys.TAB).perform()
        name, outline = page.run(
            "const e = document.activeElement;"
            "return [e.id, getComputedStyle(e).outlineStyle !== 'none']"
        )
        assert outline, f"no focus can be seen on {name}"
        reached.append(name)
    assert reached[:4] == ["interval", "pause", "theme", "tab-scheduler"]
    assert page.run("return document.activeElement.ariaLabel") == "Table of the Ps"


def test_tabs_are_moved_through_with_arrow_keys(page):
    keys = webdriver.ActionChains(page.driver, duration=0)
    for tab in [*TABS[1:], TABS[0]]:
        keys.send_keys(Keys.ARROW_RIGHT).perform()
        assert page.shown() == [f"view-{tab}"]
        assert page.run("return document.activeElement.id") == f"tab-{tab}"
    keys.send_keys(Keys.END).perform()
    assert page.shown() == ["view-workers"]
    keys.send_keys(Keys.HOME).perform()
    assert page.shown() == ["view-scheduler"]


def test_tab_under_the_pointer_does_not_look_chosen(page):
    def underline(tab: str) -> str:
        style = "getComputedStyle(document.getElementById(arguments[0]))"
        return page.run(f"return {style}.borderBottomColor", f"tab-{tab}")

    mouse = webdriver.ActionChains(page.driver, duration=0)
    mouse.move_to_element(page.find("#tab-http")).perform()
    hovers = "return document.querySelector('#tab-http').matches(':hover')"
    page.until(lambda: page.run(hovers), "the pointer is there")
    assert underline("http") != underline("scheduler")


def test_controls_have_names(page):
    unnamed = page.run(
        "return [...document.querySelectorAll('button, select, input, [role=tabpanel], canvas')]"
        ".filter(e => !(e.textContent.trim() || e.labels?.length || e.ariaLabel"
        " || e.getAttribute('aria-labelledby') || e.closest('[role=img]')))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []


# --- what it looks like ---------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_tab_is_painted(page, site, tmp_path, scheme, pixels):
    """The pictures are kept in the folder that $GOSCHED_SCREENSHOTS names."""
    folder = Path(os.environ.get("GOSCHED_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.scheme(scheme)
    page.click("#tab-scheduler")
    page.until(lambda: page.text("#utilisation .legend li"), "there is something to see")
    for tab in TABS:
        page.width(pixels)
        page.click(f"#tab-{tab}")
        for kind in ("goroutine", "wait"):
            if tab == f"{kind}s":
                page.until(lambda k=kind: page.text(f"#{k}-rows .chip"), "there are rows")
                page.click(f"#{kind}-rows .chip")
                page.until(lambda k=kind: page.text(f"#{k}-detail h3"), "a stack is shown")
        page.run(
            "scrollTo(0, 0); for (const e of document.querySelectorAll('.scroll')) e.scrollTo(0, 0)"
        )
        page.width(pixels, page.run("return document.documentElement.scrollHeight"))
        page.painted()
        taken = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        picture = base64.b64decode(taken["data"])
        (folder / f"{tab}-{scheme}-{pixels}.png").write_bytes(picture)
        assert len(picture) > 10_000  # an empty page has a tenth of that


# --- servers that come and go ---------------------------------------------------------------------


@pytest.fixture
def two(driver: webdriver.Chrome) -> Iterator[Page]:
    """The page of a service with two workers, at their table."""
    site = Site("2")
    try:
        page = Page(driver)
        page.open(site.page)
        page.click("#tab-workers")
        page.until(lambda: len(page.rows("#workers")) == 2, "there are two rows")
        yield page
        assert page.complaints() == []
        driver.get("about:blank")
        site.stop()
    finally:
        site.kill()


def test_workers_are_shown_one_by_one(two):
    two.until(lambda: two.rows("#workers")[1][4].endswith("%"), "both have been seen twice")
    assert len({row[1] for row in two.rows("#workers")}) == 2
    two.choose_worker("1")
    two.click("#tab-scheduler")
    two.until(lambda: len(two.rows("#ps")) >= 1 and "w0" not in two.text("#ps"), "one is shown")
    two.click("#tab-workers")
    two.click("#workers tr:first-child .link")
    assert two.find("#worker").get_property("value") == "0"


def test_goroutines_are_those_of_the_chosen_worker(two):
    pids = [row[1] for row in two.rows("#workers")]
    two.click("#tab-goroutines")
    two.find("#goroutine-filter").send_keys("only-in")
    two.until(
        lambda: f"process {pids[0]} (worker 0; choose" in two.text("#goroutine-count"),
        "with all of them it is the first one",
    )
    for n in (1, 0, 1):  # ids of goroutines are the same in both
        two.choose_worker(str(n))
        whose = f"process {pids[n]} (worker {n})"
        two.until(lambda w=whose: w in two.text("#goroutine-count"), "its process is told")
        two.until(
            lambda n=n: f"only-in-{n}" in str(two.only_row("#goroutine-rows")[3:]),
            "its goroutine is shown",
        )
        two.click("#goroutine-rows .chip")
        two.until(
            lambda n=n: two.text("#goroutine-detail h3").endswith(f"only-in-{n}"),
            "its stack is shown",
        )
        assert pids[n] in two.text("#goroutine-detail dl")
    two.click("#goroutine-detail dd .chip")
    two.until(
        lambda: two.text("#goroutine-detail h3").endswith("holder-1"), "and who holds the lock"
    )
    two.click("#tab-waits")
    two.find("#wait-filter").send_keys("mutex")
    for n in (0, 1):
        two.choose_worker(str(n))
        two.until(
            lambda n=n: f"holder-{n}" in str(two.only_row("#wait-rows")[3:4]),
            "what waits in it is shown",
        )
        assert f"process {pids[n]} (worker {n})" in two.text("#wait-count")
    two.click("#wait-rows td:nth-child(5) .chip")
    two.until(lambda: two.text("#wait-detail h3").endswith("only-in-1"), "who waits in it is shown")


def test_page_tells_that_the_server_is_gone_and_finds_it_again(driver, site):
    page = Page(driver)
    page.open(site.page)
    page.run("window.same = true")
    pid = site.process.pid
    site.stop()  # it does not wait for the page
    page.until(
        lambda: (
            page.run("return document.body.dataset.state") == "lost"
            and "no connection" in page.text("#status")
        ),
        "the page has noticed",
    )
    site.start()
    page.until(lambda: page.state() == "live", "it is live again")
    assert site.process.pid != pid
    page.until(lambda: str(site.process.pid) in page.text("#process"), "it is the new one")
    page.until(lambda: page.tile("Goroutines").isdigit(), "figures are shown")
    assert page.run("return window.same")
