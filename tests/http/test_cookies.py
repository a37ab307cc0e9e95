"""Cookies: what is read, what is sent, and that other implementations agree."""

from __future__ import annotations

import http.cookiejar
import json
import urllib.request
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from runtime.http import Cookie, set_cookie


def read(serve, *lines: str) -> list[tuple[str, str, bool]]:
    got = []
    fields = "".join(f"Cookie: {line}\r\n" for line in lines)
    server = serve(lambda w, r: got.extend((c.name, c.value, c.quoted) for c in r.cookies))
    assert server.ask(f"GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n".encode("latin-1")).status == 200
    return got


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([""], []),
        (["a=1"], [("a", "1", False)]),
        (["a=1; b=2"], [("a", "1", False), ("b", "2", False)]),
        (["a=1;b=2;", ";;c=3"], [("a", "1", False), ("b", "2", False), ("c", "3", False)]),
        (["a=1; a=2"], [("a", "1", False), ("a", "2", False)]),
        (["A=1; a=2"], [("A", "1", False), ("a", "2", False)]),
        ([" \ta = 1 "], [("a", " 1", False)]),
        (["a=b=c"], [("a", "b=c", False)]),
        (["a="], [("a", "", False)]),
        (["a"], [("a", "", False)]),
        (['a="1 2,3"'], [("a", "1 2,3", True)]),
        (['a=""; b="'], [("a", "", True)]),
        (['a=x"y; b=2'], [("b", "2", False)]),
        (["a=x\\y; b=2"], [("b", "2", False)]),
        (["a=\xe9; b=2"], [("b", "2", False)]),
        (["a b=1; =2; b=3"], [("b", "3", False)]),
        (["a=1, b=2"], [("a", "1, b=2", False)]),
        (["$Version=1; a=1; $Path=/"], [("$Version", "1", False), ("a", "1", False),
                                        ("$Path", "/", False)]),
    ],
)  # fmt: skip
def test_cookies_are_read_leniently(serve, lines, expected):
    assert read(serve, *lines) == expected


def test_cookie_by_name_is_the_first_of_all(serve):
    def handler(w, r):
        assert r.cookies is r.cookies
        assert r.cookie("none") is None
        assert r.cookies_named("none") == []
        for ask in (r.cookie, r.cookies_named):
            with pytest.raises(TypeError, match="must be str"):
                ask(5)
        return [r.cookie("a").value, [c.value for c in r.cookies_named("a")], r.cookie("b").value]

    got = serve(handler).get("/", "Cookie: a=1; b=2\r\ncookie: a=3\r\n")
    assert json.loads(got.body) == ["1", ["1", "3"], "2"]


def test_too_many_cookies_are_none(serve):
    assert len(read(serve, ";".join(["a=1"] * 3000))) == 3000
    assert read(serve, ";".join(["a=1"] * 3001)) == []


def test_cookies_outlive_the_request(serve):
    kept: list[Any] = []
    server = serve(lambda w, r: kept.append(r))
    for i in range(40):
        server.get("/", f"Cookie: n={i}\r\n")
    assert [r.cookie("n").value for r in kept] == [str(i) for i in range(40)]


# --- sending --------------------------------------------------------------------------------------

WHEN = datetime(2030, 1, 2, 4, 4, 5, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("cookie", "text"),
    [
        (Cookie("a"), "a="),
        (Cookie("a", "1"), "a=1"),
        (Cookie("a", "1 2"), 'a="1 2"'),
        (Cookie("a", "1,2"), 'a="1,2"'),
        (Cookie("a", "1", quoted=True), 'a="1"'),
        (Cookie("a", "1", "/x y"), "a=1; Path=/x y"),
        (Cookie("a", "1", domain=".Example.com"), "a=1; Domain=Example.com"),
        (Cookie("a", "1", domain="127.0.0.1"), "a=1; Domain=127.0.0.1"),
        (Cookie("a", "1", expires=WHEN), "a=1; Expires=Wed, 02 Jan 2030 03:04:05 GMT"),
        (Cookie("a", "1", max_age=60), "a=1; Max-Age=60"),
        (Cookie("a", max_age=0), "a=; Max-Age=0"),
        (Cookie("a", max_age=-1), "a=; Max-Age=0"),
        (Cookie("a", "1", same_site="Lax"), "a=1; SameSite=Lax"),
        (Cookie("a", "1", secure=True, same_site="None"), "a=1; Secure; SameSite=None"),
        (Cookie("a", "1", secure=True, partitioned=True), "a=1; Secure; Partitioned"),
        (Cookie("__Host-a", "1", "/", secure=True), "__Host-a=1; Path=/; Secure"),
        (Cookie("__Secure-a", "1", secure=True), "__Secure-a=1; Secure"),
        (
            Cookie("a", "1", "/", "x.test", WHEN, 5, True, True, "Strict", True),
            "a=1; Path=/; Domain=x.test; Expires=Wed, 02 Jan 2030 03:04:05 GMT; Max-Age=5; "
            "HttpOnly; Secure; SameSite=Strict; Partitioned",
        ),
    ],
)
def test_cookie_is_written_as_a_set_cookie_field(serve, cookie, text):
    assert str(cookie) == text
    r = serve(lambda w, r: set_cookie(w, cookie)).get()
    assert r["set-cookie"] == text


wrong: Any = "lax"


@pytest.mark.parametrize(
    ("cookie", "why"),
    [
        (Cookie(""), "is not a token"),
        (Cookie("a b"), "is not a token"),
        (Cookie("a\r\nX"), "is not a token"),
        (Cookie("a\n"), "is not a token"),
        (Cookie("é"), "is not a token"),
        (Cookie("a", "x;y"), "cannot have ';'"),
        (Cookie("a", 'x"y'), "cannot have '\"'"),
        (Cookie("a", "x\\y"), "cannot have"),
        (Cookie("a", "x\ny"), "cannot have"),
        (Cookie("a", "é"), "cannot have 'é'"),
        (Cookie("a", "x" * 4096), "longer than 4096"),
        (Cookie("a", "1", "x"), "does not begin with a slash"),
        (Cookie("a", "1", "/;x"), "path cannot have ';'"),
        (Cookie("a", "1", "/\r\n"), "path cannot have"),
        (Cookie("a", "1", "/" * 1025), "longer than 1024"),
        (Cookie("a", "1", domain="a..b"), "not a domain"),
        (Cookie("a", "1", domain="a_b.test"), "not a domain"),
        (Cookie("a", "1", domain="-a.test"), "not a domain"),
        (Cookie("a", "1", domain="a;b"), "not a domain"),
        (Cookie("a", "1", domain="a.test\n"), "not a domain"),
        (Cookie("a", "1", domain="x" * 64), "not a domain"),
        (Cookie("a", "1", domain="[::1]"), "not a domain"),
        (Cookie("a", "1", expires=datetime(2030, 1, 1)), "no time zone"),
        (Cookie("a", "1", expires=datetime(1600, 1, 1, tzinfo=UTC)), "before 1601"),
        (Cookie("a", "1", same_site=wrong), "not 'lax'"),
        (Cookie("a", "1", same_site="None"), "must be secure"),
        (Cookie("a", "1", partitioned=True), "must be secure"),
        (Cookie("__Secure-a", "1"), "must be secure"),
        (Cookie("__secure-a", "1"), "must be secure"),
        (Cookie("__Host-a", "1", "/"), "must be secure"),
        (Cookie("__Host-a", "1", secure=True), "needs the path '/'"),
        (Cookie("__Host-a", "1", "/x", secure=True), "needs the path '/'"),
        (Cookie("__host-a", "1", "/", "x.test", secure=True), "no domain"),
    ],
)
def test_cookie_that_clients_refuse_is_not_sent(serve, cookie, why, caplog):
    with pytest.raises(ValueError, match=why):
        cookie.check()
    with pytest.raises(ValueError, match=why):
        str(cookie)
    r = serve(lambda w, r: set_cookie(w, cookie)).get()
    assert (r.status, r.all("set-cookie")) == (500, [])


NAMES = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=20).filter(
    lambda n: not n.lower().startswith(("__host-", "__secure-"))
)
VALUES = st.text(st.characters(max_codepoint=300), max_size=30)


@given(NAMES, VALUES)
def test_what_is_sent_is_read_back(name, value):
    from runtime._http.cookies import parse_cookies

    cookie = Cookie(name, value)
    try:
        text = str(cookie)
    except ValueError:
        assert any(c in '";\\' or not " " <= c <= "~" for c in value)
        return
    assert "\r" not in text and "\n" not in text
    (got,) = parse_cookies([text])
    assert (got.name, got.value) == (name, value)


# --- other implementations ------------------------------------------------------------------------


def jar_server(serve):
    """Sets cookies at /set, tells at other paths which ones came."""

    def handler(w, r):
        if r.path != "/set":
            return sorted([c.name, c.value] for c in r.cookies)
        soon = datetime.now(UTC) + timedelta(hours=1)
        for cookie in (
            Cookie("plain", "v1"),
            Cookie("quoted", "a b, c", "/"),
            Cookie("deep", "d", "/deep"),
            Cookie("soon", "s", "/", expires=soon, http_only=True, same_site="Lax"),
            Cookie("age", "x", "/", max_age=3600),
            Cookie("past", "p", "/", expires=datetime(2001, 1, 1, tzinfo=UTC)),
            Cookie("gone", "g", "/", max_age=0),
            Cookie("tls", "t", "/", secure=True),
        ):
            set_cookie(w, cookie)

    return serve(handler)


BOTH = [["age", "x"], ["plain", "v1"], ["soon", "s"]]


def common(found: list[list[str]]) -> list[list[str]]:
    """curl takes the loopback for secure, the others do not; the quoted value comes from all."""
    assert ["quoted", "a b, c"] in found
    return [pair for pair in found if pair[0] not in ("quoted", "tls")]


def test_cookiejar_of_the_standard_library_keeps_and_returns_them(serve):
    server = jar_server(serve)
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar)
    )
    with opener.open(f"{server.url}/set"):
        pass
    with opener.open(f"{server.url}/") as r:
        assert common(json.load(r)) == BOTH
    with opener.open(f"{server.url}/deep/x") as r:
        assert common(json.load(r)) == sorted([*BOTH, ["deep", "d"]])
    by_name = {c.name: c for c in jar}
    assert by_name["tls"].secure and "past" not in by_name and "gone" not in by_name
    assert by_name["soon"].has_nonstandard_attr("HttpOnly")


def test_requests_keeps_and_returns_them(serve):
    server = jar_server(serve)
    with requests.Session() as session:
        session.trust_env = False
        session.get(f"{server.url}/set", timeout=60)
        assert common(session.get(f"{server.url}/", timeout=60).json()) == BOTH
        session.cookies.set("own", "é".encode().hex())
        assert ["own", "c3a9"] in session.get(f"{server.url}/", timeout=60).json()


def test_curl_keeps_and_returns_them(serve, tool, tmp_path):
    server = jar_server(serve)
    jar = str(tmp_path / "jar")
    tool("curl", "-sS", "--noproxy", "*", "-c", jar, f"{server.url}/set")
    found = json.loads(tool("curl", "-sS", "--noproxy", "*", "-b", jar, f"{server.url}/"))
    assert common(found) == BOTH
    found = json.loads(tool("curl", "-sS", "--noproxy", "*", "-b", jar, f"{server.url}/deep/y"))
    assert common(found) == sorted([*BOTH, ["deep", "d"]])
