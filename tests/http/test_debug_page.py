"""The live page in Chromium, driven by its ChromeDriver: it shows what happens, and obeys."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import chromium
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from programs import environment

SAFETY = 60.0
SCRIPT = Path(__file__).parent / "scripts" / "live.py"
TABS = ["scheduler", "http", "goroutines", "waits", "workers"]


def free_address() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


class Site:
    """scripts/live.py in a process of its own, which can be ended and started again."""

    def __init__(self, *args: str) -> None:
        self.args = args
        self.start("127.0.0.1:0" if not args else free_address())

    def start(self, address: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), address, *self.args],
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

    def shown(self) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll('main > section')]"
            ".filter(s => s.checkVisibility()).map(s => s.id)"
        )

    def scheme(self, name: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def width(self, pixels: int) -> None:
        size = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": pixels < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def background(self) -> str:
        return self.run("return getComputedStyle(document.documentElement).backgroundColor")


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
    page.until(lambda: int(page.tile("Goroutines")) >= int(before) + 100, "100 more are counted")


def test_scheduler_charts_are_drawn(page):
    drawn = """
        const inked = (c) => {
          const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
          return new Set(new Uint32Array(data.buffer)).size > 3;
        };
        return [...document.querySelectorAll("#view-scheduler canvas")].map(inked);
    """
    page.until(lambda: page.run(drawn) == [True] * 6, "all six charts show something")
    page.until(lambda: "timed" in page.text("#heatmap .legend"), "the heat map tells what it shows")
    label = page.find("#heatmap canvas").get_attribute("aria-label")
    assert "p99" in label
    (row,) = page.rows("#ps")[:1]
    assert row[0] == "P0"
    assert row[1].strip().endswith("%")
    assert page.run("return document.querySelectorAll('#utilisation .legend li').length") >= 1


def test_http_view_has_routes_with_their_statuses(page, site):
    for _ in range(3):
        site.ask("/hello/you")
    with pytest.raises(HTTPError) as failed:
        site.ask("/fail")
    failed.value.close()
    page.click("#tab-http")

    def route(name: str) -> list[str]:
        return next((row for row in page.rows("#routes") if row[1] == name), [""] * 11)

    page.until(lambda: route("/hello/{name}")[3] == "3", "three requests are counted")
    page.until(lambda: route("/fail")[5] == "1", "a 5xx is counted")
    assert route("/hello/{name}")[0] == "GET"
    assert route("/hello/{name}")[9].endswith("s")  # p99
    assert page.shown() == ["view-http"]


def test_goroutines_have_stacks_on_click(page, site):
    page.click("#tab-goroutines")
    page.find("#goroutine-filter").send_keys("holder")
    page.until(lambda: len(page.rows("#goroutine-rows")) == 1, "one row is left")
    (row,) = page.rows("#goroutine-rows")
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
    first = page.rows("#goroutine-rows")[0]
    following, back = (
        page.find("#goroutine-pages button + button"),
        page.find("#goroutine-pages button"),
    )
    assert not back.is_enabled()
    following.click()
    page.until(lambda: 10 <= len(page.rows("#goroutine-rows")) < 50, "the second page is shown")
    assert not following.is_enabled()
    back.click()
    page.until(lambda: page.rows("#goroutine-rows")[0][:1] == first[:1], "the first is shown again")
    page.click("#goroutine-refresh")
    assert "groups" in page.text("#goroutine-count")


def test_ten_thousand_goroutines_are_one_row(page, site):
    site.ask("/park?n=10000", "POST")
    page.click("#tab-goroutines")
    page.until(lambda: "k" in page.rows("#goroutine-rows")[0][0], "they are counted")
    assert len(page.rows("#goroutine-rows")) == 50
    assert page.state() == "live"


def test_waits_tell_who_holds_the_mutex(page):
    page.click("#tab-waits")
    page.find("#wait-filter").send_keys("mutex")
    page.until(lambda: len(page.rows("#wait-rows")) == 1, "one row is left")
    what, waiting, doing, holder, who = page.rows("#wait-rows")[0]
    assert what.startswith("Mutex\n<Mutex locked at")
    assert (waiting, doing.split("\n")[0]) == ("2", "sync.Mutex.Lock")
    assert "holder" in holder and "chan receive" in holder
    assert "blocked-1" in who and "blocked-2" in who
    page.click("#wait-rows td:nth-child(5) .chip")
    page.until(lambda: "blocked-1" in page.text("#wait-detail h3"), "who waits is shown")
    page.click("#wait-detail dd .chip")  # and from there who holds it
    page.until(lambda: "holder" in page.text("#wait-detail h3"), "who holds it is shown")
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


def test_tables_stand_still_while_paused(page, site):
    def parked() -> str:
        found = page.rows("#goroutine-rows")
        return found[0][0] if len(found) == 1 else ""

    page.click("#tab-goroutines")
    page.find("#goroutine-filter").send_keys("parked")
    site.ask("/park?n=1", "POST")
    page.until(lambda: parked() != "", "they are shown")
    page.click("#pause")
    before = parked()
    asked = site.ask("/asked").count(b"api/goroutines")
    site.ask("/park?n=10000", "POST")
    page.click("#pause")
    page.until(lambda: parked() != before, "the table goes on")
    assert site.ask("/asked").count(b"api/goroutines") > asked
    page.find("#goroutine-filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)


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


def test_controls_have_names(page):
    unnamed = page.run(
        "return [...document.querySelectorAll('button, select, input, [role=tabpanel], canvas')]"
        ".filter(e => !(e.textContent.trim() || e.labels?.length || e.ariaLabel"
        " || e.getAttribute('aria-labelledby') || e.closest('[role=img]')))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []


# --- servers that come and go ---------------------------------------------------------------------


def test_workers_are_shown_one_by_one(page, driver):
    with_two = Site("2")
    try:
        two = Page(driver)
        two.open(with_two.page)
        two.click("#tab-workers")
        two.until(lambda: len(two.rows("#workers")) == 2, "there are two rows")
        two.until(lambda: two.rows("#workers")[1][4].endswith("%"), "both have been seen twice")
        assert len({row[1] for row in two.rows("#workers")}) == 2
        Select(two.find("#worker")).select_by_value("1")
        two.click("#tab-scheduler")
        two.until(lambda: len(two.rows("#ps")) >= 1 and "w0" not in two.text("#ps"), "one is shown")
        two.click("#tab-workers")
        two.click("#workers tr:first-child .link")
        assert two.find("#worker").get_property("value") == "0"
        assert two.complaints() == []
        driver.get("about:blank")
        with_two.stop()
    finally:
        with_two.kill()


def test_page_tells_that_the_server_is_gone_and_finds_it_again(driver, site):
    page = Page(driver)
    page.open(site.page)
    page.run("window.same = true")
    address, pid = site.address, site.process.pid
    site.stop()  # it does not wait for the page
    page.until(lambda: page.state() == "lost", "the page has noticed")
    assert "no connection" in page.text("#status")
    site.start(address)
    page.until(lambda: page.state() == "live", "it is live again")
    assert site.process.pid != pid
    page.until(lambda: str(site.process.pid) in page.text("#process"), "it is the new one")
    page.until(lambda: page.tile("Goroutines").isdigit(), "figures are shown")
    assert page.run("return window.same")
