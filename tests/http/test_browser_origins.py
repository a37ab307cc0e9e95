"""cors, cross_origin_protection and security_headers, as Chromium takes them."""

from __future__ import annotations

import chromium
import pytest

from runtime import http
from runtime.http import middleware

FETCH = """
    const [url, init, done] = arguments;
    fetch(url, init).then(
      async (r) => done([r.status, await r.text(), r.headers.get("Seen"), r.headers.get("Unseen")]),
      (e) => done(e.name));
"""
REFUSED = "TypeError"


class Site:
    """A server that notes what reaches its handlers, under names of several origins."""

    def __init__(self, serve, *around):
        self.seen: list[str] = []
        self.mux = http.ServeMux()
        noting = self._note(self.mux)
        self.port = serve(middleware.chain(noting, *around)).where[1]

    def _note(self, handler):
        def note(w, r):
            if r.path == "/favicon.ico":  # browsers ask for it when they like
                return 204
            self.seen.append(f"{r.method} {r.path}")
            return handler(w, r)

        return note

    def page(self, path, html):
        def show(w, r):
            w.headers["Content-Type"] = "text/html; charset=utf-8"
            return f"<!doctype html><title>x</title><body>{html}"

        self.mux.handle(f"GET {path}", show)

    def origin(self, host="127.0.0.1"):
        return f"http://{host}:{self.port}"


@pytest.fixture
def site(serve):
    def make(*around):
        return Site(serve, *around)

    return make


@pytest.fixture
def page(driver):
    page = chromium.Page(driver)
    page.complaints()
    yield page
    driver.get("about:blank")


# --- cors -----------------------------------------------------------------------------------------


@pytest.fixture
def shop(site):
    """A site whose pages ask another one."""
    shop = site()
    shop.page("/{$}", "shop")
    return shop


@pytest.fixture
def api(site, shop):
    """Open to the shop, by one of its two names."""
    preflights: list[str] = []

    def note(handler):
        def noting(w, r):
            if r.method == "OPTIONS":
                preflights.append(r.headers.get("Access-Control-Request-Method"))
            return handler(w, r)

        return noting

    cors = middleware.cors(
        [shop.origin()], methods=["GET", "PUT"], headers=["Own"], expose=["Seen"], max_age=600
    )
    api = site(note, cors)
    api.preflights = preflights

    @api.mux.handle("/data")
    def data(w, r):
        w.headers["Seen"], w.headers["Unseen"] = "1", "2"
        return f"{r.method} {r.headers.get('Own') or ''}"

    return api


def fetch(page, url, **init):
    """Status, text and two fields of the response; or the name of the error."""
    return page.driver.execute_async_script(FETCH, url, init)


def test_fetch_from_an_origin_that_is_listed_is_allowed(page, shop, api):
    page.driver.get(shop.origin())
    url = f"{api.origin()}/data"
    assert fetch(page, url) == [200, "GET ", "1", None]
    assert api.preflights == []
    for _ in range(2):  # the answer to the preflight is remembered
        put = fetch(page, url, method="PUT", headers={"Own": "x"})
        assert put == [200, "PUT x", "1", None]
    assert api.preflights == ["PUT"]
    assert api.seen == ["GET /data", "PUT /data", "PUT /data"]


def test_fetch_from_an_origin_that_is_not_listed_is_refused(page, shop, api):
    page.driver.get(shop.origin("localhost"))
    url = f"{api.origin()}/data"
    assert fetch(page, url) == REFUSED
    assert api.seen == ["GET /data"]  # the page must not read what came
    assert fetch(page, url, method="PUT") == REFUSED
    assert (api.preflights, api.seen) == (["PUT"], ["GET /data"])


@pytest.mark.parametrize(
    "init", [{"method": "DELETE"}, {"headers": {"Other": "x"}}, {"credentials": "include"}]
)
def test_fetch_of_what_cors_does_not_allow_is_refused(page, shop, api, init):
    page.driver.get(shop.origin())
    assert fetch(page, f"{api.origin()}/data", **init) == REFUSED
    assert api.seen == (["GET /data"] if "credentials" in init else [])


# --- cross_origin_protection ----------------------------------------------------------------------


@pytest.fixture
def bank(site):
    """bank(trusted) -> a site with an account, and a form of its own."""

    def make(*trusted):
        bank = site(middleware.cross_origin_protection(trusted))
        bank.page("/form", form(""))
        bank.mux.handle("POST /pay", lambda w, r: f"paid {r.form().get('sum')}")
        return bank

    return make


def form(origin):
    return f"""<form method=post action="{origin}/pay"><input name=sum value=5><button>Pay"""


def test_form_of_the_same_origin_is_let_through(page, bank):
    own = bank()
    page.driver.get(f"{own.origin()}/form")
    page.click("button")
    page.until(lambda: page.text("body") == "paid 5", "it is paid")
    assert own.seen == ["GET /form", "POST /pay"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])  # another site; only another port
def test_form_of_another_origin_is_refused(page, site, bank, host):
    other, own = site(), bank()
    other.page("/form", form(own.origin()))
    page.driver.get(f"{other.origin(host)}/form")
    page.click("button")
    page.until(lambda: page.driver.current_url == f"{own.origin()}/pay", "there is an answer")
    page.until(lambda: page.text("body").strip() == "cross-origin request refused", "it is shown")
    assert own.seen == []


def test_form_of_an_origin_that_is_trusted_is_let_through(page, site, bank):
    other = site()
    own = bank(other.origin("localhost"))
    other.page("/form", form(own.origin()))
    page.driver.get(f"{other.origin('localhost')}/form")
    page.click("button")
    page.until(lambda: page.text("body") == "paid 5", "it is paid")


# --- security_headers -----------------------------------------------------------------------------


@pytest.fixture
def scripted(site):
    """scripted(*middleware) -> a site whose page has a script in it, and one beside it."""

    def make(*around):
        scripted = site(*around)
        scripted.page("/", "<script>window.inline = 1</script><script src=/own.js></script>")

        @scripted.mux.handle("GET /own.js")
        def own(w, r):
            w.headers["Content-Type"] = "text/javascript"
            return "window.own = 1; parent.postMessage('framed', '*');"

        return scripted

    return make


RAN = "return [window.inline ?? 0, window.own ?? 0]"


def test_script_within_a_page_runs_only_without_security_headers(page, scripted):
    page.driver.get(scripted().origin())
    assert page.run(RAN) == [1, 1]
    assert page.complaints() == []
    page.driver.get(scripted(middleware.security_headers()).origin())
    assert page.run(RAN) == [0, 1]
    (complaint,) = page.complaints()
    assert "inline script" in complaint and "Content Security Policy" in complaint


@pytest.mark.parametrize("left", ["Content-Security-Policy", "X-Frame-Options"])  # either does it
def test_page_with_security_headers_is_in_nobodys_frame(page, site, scripted, left):
    other = {"Content-Security-Policy", "X-Frame-Options"} - {left}
    plain = scripted()
    secured = scripted(middleware.security_headers(dict.fromkeys(other)))
    around = site()
    around.page(
        "/{$}",
        "<script>window.framed = []; onmessage = (e) => framed.push(e.origin)</script>"
        f"<iframe src={plain.origin()}></iframe><iframe src={secured.origin()}></iframe>",
    )
    page.driver.get(around.origin())
    page.until(lambda: page.run("return framed") == [plain.origin()], "one is in its frame")
    complaints: list[str] = []
    page.until(lambda: complaints.extend(page.complaints()) or complaints, "it complains")
    assert secured.origin() in complaints[0]
    assert ("Content Security Policy" if "Content" in left else left) in complaints[0]
    assert (plain.seen, secured.seen) == (["GET /", "GET /own.js"], ["GET /"])
