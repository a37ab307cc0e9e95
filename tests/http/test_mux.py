"""ServeMux: precedence, conflicts, redirects, replies, and agreement with a brute-force oracle."""

from __future__ import annotations

import itertools
import pickle
import posixpath
import re
import sys
import threading
from collections.abc import Iterable
from functools import cache
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime._http.mux import ServeMux
from runtime._http.pattern import PatternConflictError, PatternError


class Headers(dict[str, str]):
    def delete(self, name: str) -> None:
        self.pop(name, None)

    def set(self, name: str, value: str) -> None:
        self[name] = value


class Recorder:
    """A response writer that remembers what it was told."""

    def __init__(self) -> None:
        self.headers = Headers()
        self.status = 0
        self.body = ""

    def write_header(self, status: int) -> None:
        assert self.status == 0, "status written twice"
        self.status = status

    def write(self, data: str) -> None:
        assert self.status, "body before status"
        self.body += data


class Request:
    def __init__(self, method: str, target: str, host: str = "test.invalid") -> None:
        self.method = method
        self.host = host
        self.raw_path, _, self.raw_query = target.partition("?")
        self.path = unquote(self.raw_path)
        self.stripped = ""
        self.pattern = "unset"
        self.path_values: dict[str, str] = {}

    def path_value(self, name: str) -> str:
        return self.path_values.get(name, "")


def handler_of(pattern: str) -> Any:
    """A handler that returns its pattern and the path values."""
    return lambda w, r: (pattern, dict(r.path_values))


def mux_of(*patterns: str) -> ServeMux:
    mux = ServeMux()
    for pattern in patterns:
        mux.handle(pattern, handler_of(pattern))
    return mux


def call(
    mux: ServeMux, method: str, target: str, host: str = "test.invalid"
) -> tuple[Recorder, Request, Any]:
    w, r = Recorder(), Request(method, target, host)
    result = mux(w, r)
    # The first request after a registration may take another way than those after it.
    w2, r2 = Recorder(), Request(method, target, host)
    assert mux(w2, r2) == result
    assert (vars(w2), vars(r2)) == (vars(w), vars(r))
    r3 = Request(method, target, host)
    assert mux.handler(r3)[1] == r.pattern
    assert (r3.pattern, r3.path_values) == ("unset", {}), "handler(r) must not change r"
    return w, r, result


def matched(mux: ServeMux, method: str, target: str, host: str = "test.invalid") -> str:
    """The pattern that served the request, or the status of the mux's own reply."""
    w, r, result = call(mux, method, target, host)
    if result is None:
        return str(w.status)
    assert w.status == 0
    assert r.pattern == result[0]
    return str(result[0])


# --- matching and precedence ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/", ["/", "/a", "/a/", "/a/b/c"], []),
        ("/{$}", ["/"], ["/a", "/a/"]),
        ("/a", ["/a"], ["/", "/a/", "/a/b", "/b", "/A", "/aa"]),
        ("/a/", ["/a/", "/a/b", "/a/b/"], ["/", "/b", "/ab/"]),
        ("/a/{$}", ["/a/"], ["/a/b", "/a/b/"]),
        ("/a/{x}", ["/a/b", "/a/a"], ["/a/", "/a/b/", "/a/b/c"]),
        ("/{x}", ["/a"], ["/", "/a/", "/a/b"]),
        ("/{x}/{$}", ["/a/"], ["/", "/a/b"]),
        ("/{x}/", ["/a/", "/a/b", "/a/b/c"], ["/"]),
        ("/{x}/b", ["/a/b", "/b/b"], ["/a/c", "/a", "/a/b/"]),
        ("/a/{rest...}", ["/a/", "/a/b", "/a/b/c", "/a/b/"], ["/", "/b/c"]),
        ("/{rest...}", ["/", "/a", "/a/b"], []),
        ("/{x}/{rest...}", ["/a/", "/a/b/c"], ["/"]),
        ("/.well-known/x", ["/.well-known/x"], ["/.well-known"]),
        ("/a..b/...", ["/a..b/..."], []),
    ],
)
def test_pattern_path_matches_exactly_its_set(
    pattern: str, matching: list[str], other: list[str]
) -> None:
    mux = mux_of(pattern)
    for path in matching:
        assert matched(mux, "GET", path) == pattern, path
    for path in other:
        assert matched(mux, "GET", path) == "404", path


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        ("/items/{id}", "/items/7", {"id": "7"}),
        ("/{a}/x/{b}", "/1/x/2", {"a": "1", "b": "2"}),
        ("/{a}/{b}/{c}", "/1/2/3", {"a": "1", "b": "2", "c": "3"}),
        ("/f/{path...}", "/f/a/b.txt", {"path": "a/b.txt"}),
        ("/f/{path...}", "/f/", {"path": ""}),
        ("/f/{path...}", "/f/a/", {"path": "a/"}),
        ("/{u}/f/{path...}", "/me/f/a/b", {"u": "me", "path": "a/b"}),
        ("/{u}/", "/me/a/b", {"u": "me"}),
        ("/{u}/{$}", "/me/", {"u": "me"}),
        ("/{_x1}", "/v", {"_x1": "v"}),
        ("/{größe}", "/v", {"größe": "v"}),
        ("/a", "/a", {}),
        ("/", "/anything", {}),
    ],
)
def test_path_values_are_published_by_name(pattern: str, path: str, values: dict[str, str]) -> None:
    _, r, result = call(mux_of(pattern), "GET", path)
    assert result == (pattern, values)
    assert r.pattern == pattern
    assert all(r.path_value(name) == value for name, value in values.items())


PRECEDENCE = [
    "/",
    "/{$}",
    "/shop/",
    "GET /shop/cart",
    "GET /shop/{item}",
    "PUT /shop/{item}",
    "/shop/{item}/reviews",
    "GET /shop/{item}/reviews/{n}",
    "HEAD /shop/{item}/reviews/{n}",
    "/hats/",
    "GET /hats/",
    "GET /hats/{$}",
    "PUT /hats/{name}",
    "/files/{path...}",
    "POST /files/",
    "POST /files/new",
]


@pytest.mark.parametrize(
    ("method", "path", "winner"),
    [
        ("GET", "/", "/{$}"),
        ("GET", "/elsewhere/deep", "/"),
        ("GET", "/shop/", "/shop/"),
        ("GET", "/shop/cart", "GET /shop/cart"),
        ("HEAD", "/shop/cart", "GET /shop/cart"),
        ("PUT", "/shop/cart", "PUT /shop/{item}"),
        ("DELETE", "/shop/cart", "/shop/"),
        ("GET", "/shop/shoe", "GET /shop/{item}"),
        ("HEAD", "/shop/shoe", "GET /shop/{item}"),
        ("POST", "/shop/shoe", "/shop/"),
        ("GET", "/shop/shoe/reviews", "/shop/{item}/reviews"),
        ("POST", "/shop/shoe/reviews", "/shop/{item}/reviews"),
        ("GET", "/shop/shoe/reviews/3", "GET /shop/{item}/reviews/{n}"),
        ("HEAD", "/shop/shoe/reviews/3", "HEAD /shop/{item}/reviews/{n}"),
        ("POST", "/shop/shoe/reviews/3", "/shop/"),
        ("GET", "/shop/shoe/prices", "/shop/"),
        ("GET", "/hats/", "GET /hats/{$}"),
        ("HEAD", "/hats/", "GET /hats/{$}"),
        ("PUT", "/hats/", "/hats/"),
        ("GET", "/hats/top", "GET /hats/"),
        ("PUT", "/hats/top", "PUT /hats/{name}"),
        ("PUT", "/hats/top/er", "/hats/"),
        ("POST", "/files/new", "POST /files/new"),
        ("GET", "/files/new", "/files/{path...}"),
        ("GET", "/files/a/b", "/files/{path...}"),
        ("POST", "/files/a/b", "POST /files/"),
        ("POST", "/files/", "POST /files/"),
        ("GET", "/files/", "/files/{path...}"),
    ],
)
@pytest.mark.parametrize("patterns", [PRECEDENCE, PRECEDENCE[::-1]], ids=["forwards", "backwards"])
def test_precedence_most_specific_wins_in_any_order(
    method: str, path: str, winner: str, patterns: list[str]
) -> None:
    assert matched(mux_of(*patterns), method, path) == winner


def test_search_after_a_dead_end_goes_back() -> None:
    mux = mux_of("/a/b/z", "/a/{x}/c", "/a/{x}/{y}/{z}", "/a/", "/{rest...}")
    assert call(mux, "GET", "/a/b/c")[2] == ("/a/{x}/c", {"x": "b"})
    assert matched(mux, "GET", "/a/b/z") == "/a/b/z"
    assert matched(mux, "GET", "/a/b/q") == "/a/"
    mux = mux_of("/a/b/c/d", "/{w}/{x}/{y}", "/")
    assert call(mux, "GET", "/a/b/c")[2] == ("/{w}/{x}/{y}", {"w": "a", "x": "b", "y": "c"})
    assert matched(mux, "GET", "/a/b/c/e") == "/"


def test_head_without_own_pattern_uses_get() -> None:
    mux = mux_of("GET /a", "GET /b/{x}", "HEAD /b/c", "POST /a")
    assert matched(mux, "HEAD", "/a") == "GET /a"
    assert matched(mux, "HEAD", "/b/1") == "GET /b/{x}"
    assert matched(mux, "HEAD", "/b/c") == "HEAD /b/c"
    assert matched(mux, "GET", "/b/c") == "GET /b/{x}"


def test_method_is_case_sensitive_and_may_be_any_token() -> None:
    mux = mux_of("GET /a", "M-SEARCH /a", "brew /a")
    assert matched(mux, "M-SEARCH", "/a") == "M-SEARCH /a"
    assert matched(mux, "brew", "/a") == "brew /a"
    assert matched(mux, "get", "/a") == "405"


def test_method_followed_by_several_blanks_is_accepted() -> None:
    mux = mux_of("GET \t /a", "POST\t/a")
    assert matched(mux, "GET", "/a") == "GET \t /a"
    assert matched(mux, "POST", "/a") == "POST\t/a"


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": 1}, [1], 204, None])
def test_call_returns_what_the_handler_returns(value: object) -> None:
    mux = ServeMux()
    mux.handle("/s", lambda w, r: value)
    mux.handle("GET /m", lambda w, r: value)
    mux.handle("/{x}/y", lambda w, r: value)
    mux.handle("h.test/", lambda w, r: value)
    for path in ("/s", "/m", "/1/y", "/1%20/y"):
        assert mux(Recorder(), Request("GET", path)) is value
        assert mux.serve_http(Recorder(), Request("GET", path)) is value
    assert mux(Recorder(), Request("GET", "/", "h.test")) is value


def test_mux_in_a_mux_serves_the_subtree() -> None:
    inner = mux_of("GET /api/v1/{id}", "/api/v1/x/y")
    outer = mux_of("/{$}")
    outer.handle("/api/", inner)
    assert matched(outer, "GET", "/") == "/{$}"
    r = Request("GET", "/api/v1/5")
    assert outer(Recorder(), r) == ("GET /api/v1/{id}", {"id": "5"})
    assert r.pattern == "GET /api/v1/{id}"
    w = Recorder()
    assert outer(w, Request("GET", "/api/zzz")) is None
    assert w.status == 404


# --- hosts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "path", "winner"),
    [
        ("example.com", "/", "example.com/"),
        ("EXAMPLE.com:8080", "/a", "example.com/"),
        ("example.com", "/only", "example.com/"),
        ("www.example.com", "/only", "/only"),
        ("www.example.com", "/x/1", "GET /x/{y}"),
        ("example.org", "/p/1", "Example.ORG/p/{x}"),
        ("example.org:1", "/only", "/only"),
        ("example.org", "/x/1", "GET /x/{y}"),
        ("[::1]:80", "/v6", "[::1]/v6"),
        ("[::1]", "/v6", "[::1]/v6"),
        ("", "/only", "/only"),
        ("[::1", "/only", "/only"),
        ("a:b:c", "/only", "/only"),
        ("example.org", "/nothing", "404"),
    ],
)
def test_host_pattern_wins_over_any_without(host: str, path: str, winner: str) -> None:
    mux = mux_of("example.com/", "/only", "GET /x/{y}", "Example.ORG/p/{x}", "[::1]/v6")
    assert matched(mux, "GET", path, host) == winner


def test_host_only_decides_even_against_more_specific_paths() -> None:
    mux = mux_of("/a/b/c", "h.test/", "i.test/{x}/", "/a/")
    assert matched(mux, "GET", "/a/b/c", "h.test") == "h.test/"
    assert matched(mux, "GET", "/a/b/c", "i.test") == "i.test/{x}/"
    assert matched(mux, "GET", "/a/b/c", "j.test") == "/a/b/c"
    # The subtree of the host matches "/a/" too, so there is nothing to redirect to.
    assert matched(mux, "GET", "/a", "h.test") == "h.test/"


def test_host_pattern_without_the_method_falls_back_to_every_host() -> None:
    mux = mux_of("POST h.test/a", "/a")
    assert matched(mux, "POST", "/a", "h.test") == "POST h.test/a"
    assert matched(mux, "GET", "/a", "h.test") == "/a"
    mux = mux_of("POST h.test/a", "PUT /{x}")
    w, _, _ = call(mux, "GET", "/a", "h.test")
    assert (w.status, w.headers["Allow"]) == (405, "POST, PUT")
    w, _, _ = call(mux, "GET", "/a", "i.test")
    assert (w.status, w.headers["Allow"]) == (405, "PUT")


# --- escapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("/v/a%2Fb", ("/v/{x}", {"x": "a/b"})),
        ("/v/100%25", ("/v/{x}", {"x": "100%"})),
        ("/v/%252F", ("/v/{x}", {"x": "%2F"})),
        ("/v/a+b", ("/v/{x}", {"x": "a+b"})),
        ("/v/%C3%A9", ("/v/{x}", {"x": "é"})),
        ("/v/%2e%2e", ("/v/{x}", {"x": ".."})),
        ("/v/%2E", ("/v/{x}", {"x": "."})),
        ("/v/%zz", ("/v/{x}", {"x": "%zz"})),
        ("/v/%ff", ("/v/{x}", {"x": "\ufffd"})),
        ("/%76/1", ("/v/{x}", {"x": "1"})),
        ("/r/a%2Fb/c%20d", ("/r/{rest...}", {"rest": "a/b/c d"})),
        ("/lit/%61", ("/lit/a", {})),
        ("/lit/a", ("/lit/a", {})),
        ("/sp%20ace", ("/sp%20ace", {})),
        ("/caf%C3%A9", ("/café", {})),
        ("/caf%c3%a9", ("/café", {})),
        ("/s%2fs", ("/s%2Fs", {})),
        ("/s%2Fs", ("/s%2Fs", {})),
        ("/%2e%2e/x", ("/%2E%2E/x", {})),
        ("/%2F", ("/%2F", {})),
    ],
)
def test_escapes_are_decoded_segment_by_segment(
    path: str, result: tuple[str, dict[str, str]]
) -> None:
    mux = mux_of(
        "/v/{x}",
        "/r/{rest...}",
        "/lit/a",
        "/sp%20ace",
        "/café",
        "/s%2Fs",
        "/%2E%2E/x",
        "/{$}",
        "/%2F",
    )
    assert call(mux, "GET", path)[2] == result


def test_escaped_dots_in_a_pattern_do_not_match_real_ones() -> None:
    w, _, _ = call(mux_of("/%2E%2E/x"), "GET", "/../x")
    assert (w.status, w.headers["Location"]) == (307, "/x")


def test_escaped_slash_is_not_the_end_of_the_path() -> None:
    assert matched(mux_of("/a/{$}"), "GET", "/a/%2F") == "404"
    assert matched(mux_of("/a/%2F"), "GET", "/a/") == "404"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_path_value_returns_any_text_that_was_quoted(one: str, rest: str) -> None:
    mux = mux_of("/a/{one}/b/{rest...}")

    def quoted(text: str) -> str:
        return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")

    path = f"/a/{quoted(one)}/b/{quoted(rest)}"
    assert call(mux, "GET", path)[2] == ("/a/{one}/b/{rest...}", {"one": one, "rest": rest})


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/tree", "/tree/"),
        ("/tree?q=1&r=%20", "/tree/?q=1&r=%20"),
        ("/rest", "/rest/"),
        ("/end", "/end/"),
        ("/v/a%2Fb", "/v/a%2Fb/"),
        ("//", "/"),
        ("/.", "/"),
        ("/..", "/"),
        ("", "/"),
        ("/a/../tree/", "/tree/"),
        ("/a/../tree", "/tree/"),
        ("/a//b?x=/../", "/a/b?x=/../"),
        ("/a/./b/", "/a/b/"),
        ("/a/b/.", "/a/b"),
        ("/a/b/..", "/a"),
        ("/a/b/../", "/a/"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("//evil.example/x", "/evil.example/x"),
        ("///evil.example", "/evil.example"),
        ("/.//evil.example", "/evil.example"),
        ("/\\evil.example/..//", "/"),
        ("/./\\evil.example", "/%5Cevil.example"),
        ("//%5Cevil.example", "/%5Cevil.example"),
        ("//a%0d%0ab", "/a%0d%0ab"),
        ("//a\r\nX: y?b\r\nc", "/a%0D%0AX:%20y?b%0D%0Ac"),
        ("//é\udcff?é", "/%C3%A9%3F?%C3%A9"),
        ('//<"a">', "/%3C%22a%22%3E"),
    ],
)
def test_redirect_location_is_clean_and_safe(target: str, location: str) -> None:
    mux = mux_of("/tree/", "/rest/{x...}", "/end/{$}", "/v/{x}/", "/etc/passwd")
    for method in ("GET", "POST", "DELETE"):
        w, _, result = call(mux, method, target)
        assert result is None
        assert (w.status, w.headers["Location"]) == (307, location)
        assert re.fullmatch(r"/([!-.0-~][!-~]*)?", w.headers["Location"])


def test_redirect_body_is_only_for_get() -> None:
    mux = mux_of("/tree/")
    w, _, _ = call(mux, "GET", "/tree?a=1&b='")
    assert w.headers == {"Location": "/tree/?a=1&b='", "Content-Type": "text/html; charset=utf-8"}
    assert w.body == '<a href="/tree/?a=1&amp;b=&#39;">Temporary Redirect</a>.\n\n'
    w, _, _ = call(mux, "HEAD", "/tree")
    assert (w.headers.get("Content-Type"), w.body) == ("text/html; charset=utf-8", "")
    w, _, _ = call(mux, "POST", "/tree")
    assert (w.headers, w.body) == ({"Location": "/tree/"}, "")


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["/tree/", "/tree"], "/tree", "/tree"),
        (["/tree/", "/{x}"], "/tree", "/{x}"),
        (["/tree/", "/"], "/tree", "307"),
        (["/tree/", "/{rest...}"], "/tree", "307"),
        (["/a/tree/", "/a/"], "/a/tree", "307"),
        (["/a/{x}/", "/a/b/c", "/"], "/a/b", "307"),
        (["POST /tree/", "/"], "/tree", "/"),
        (["POST /tree/"], "/tree", "405"),
        (["/"], "/tree", "/"),
        (["h.test/tree/"], "/tree", "404"),
    ],
)
def test_redirect_to_a_subtree_happens_only_without_an_exact_match(
    patterns: list[str], path: str, expected: str
) -> None:
    assert matched(mux_of(*patterns), "GET", path) == expected


def test_redirect_publishes_the_pattern_that_will_match() -> None:
    mux = mux_of("GET /tree/", "/a/{x}")
    assert call(mux, "GET", "/tree")[1].pattern == "GET /tree/"
    r = call(mux, "GET", "/a//b")[1]
    assert (r.pattern, r.path_values) == ("/a/{x}", {})
    assert call(mux, "GET", "//zzz")[1].pattern == ""


def test_connect_path_is_never_cleaned() -> None:
    mux = mux_of("/a/b", "CONNECT /x//../y", "/t/{x}/", "CONNECT proxy.test:443/", "/{$}")
    assert matched(mux, "CONNECT", "/a/b") == "/a/b"
    assert matched(mux, "CONNECT", "/a//b") == "404"
    assert matched(mux, "CONNECT", "/x//../y") == "CONNECT /x//../y"
    assert matched(mux, "CONNECT", "/t//") == "404"
    # Adding a slash to the clean form of this one would leave "//".
    assert matched(mux, "CONNECT", "/t/..") == "404"
    assert matched(mux, "CONNECT", "/t/a") == "307"
    assert matched(mux, "CONNECT", "/z", "proxy.test:443") == "CONNECT proxy.test:443/"
    assert matched(mux, "CONNECT", "/z", "proxy.test") == "404"
    mux = mux_of("own.test/z")
    assert matched(mux, "CONNECT", "/z", "own.test:443") == "404"  # its port is not stripped
    assert matched(mux, "GET", "/z", "own.test:443") == "own.test/z"
    mux = mux_of("/a/b", "CONNECT /x//../y")
    assert matched(mux, "CONNECT", "proxy.test:443", "proxy.test:443") == "404"
    assert matched(mux, "CONNECT", "") == "404"


@given(st.text("/.a%", max_size=12))
def test_clean_path_agrees_with_posixpath(path: str) -> None:
    mux = mux_of("/")
    w, _, result = call(mux, "GET", path)
    expected = posixpath.normpath("/" + path.lstrip("/"))
    if path.endswith("/") and expected != "/":
        expected += "/"
    if result is None:
        assert (w.status, w.headers["Location"]) == (307, expected)
        assert path != expected
        assert matched(mux, "GET", expected) == "/", "a second redirect"
    else:
        assert path == expected


# --- 404, 405, 400 --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_unknown_path_is_not_found(method: str) -> None:
    w, r, result = call(mux_of("/a", "/b/{x}", "GET /c/"), method, "/zzz/y")
    assert result is None
    assert (w.status, w.body) == (404, "404 page not found\n")
    assert w.headers == {
        "Content-Type": "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
    }
    assert (r.pattern, r.path_values) == ("", {})


def test_empty_mux_finds_nothing() -> None:
    assert matched(ServeMux(), "GET", "/") == "404"
    assert matched(ServeMux(), "GET", "/a%20/b") == "404"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/a", "GET, HEAD, POST, PUT"),
        ("DELETE", "/b/1", "GET, HEAD, PATCH"),
        ("GET", "/c", "HEAD"),
        ("GET", "/d/e", "OPTIONS, PUT"),
        ("GET", "/t", "POST"),
        ("GET", "/%61%61", "BREW"),
    ],
)
def test_wrong_method_is_not_allowed_and_names_the_others_sorted(
    method: str, path: str, allow: str
) -> None:
    mux = mux_of(
        "PUT /a", "GET /a", "POST /a", "GET /b/{x}", "PATCH /b/1", "HEAD /c",
        "PUT /d/", "OPTIONS /d/{x}", "POST /t/", "BREW /aa",
    )  # fmt: skip
    w, r, result = call(mux, method, path)
    assert result is None
    assert (w.status, w.headers["Allow"], w.body) == (405, allow, "Method Not Allowed\n")
    assert w.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert r.pattern == ""


def test_asterisk_is_a_bad_request() -> None:
    w, r, result = call(mux_of("/", "OPTIONS /"), "OPTIONS", "*")
    assert (w.status, w.headers["Connection"], result, r.pattern) == (400, "close", None, "")


# --- registration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "offset", "what"),
    [
        ("", 0, "it is empty"),
        ("a", 0, "no '/'"),
        ("GET", 0, "no '/'"),
        ("GET example.com", 4, "no '/'"),
        ("G@T /a", 0, "invalid method"),
        (" /a", 0, "invalid method"),
        ("/a b", 2, "blank in a path"),
        ("/a GET", 2, "blank in a path"),
        ("{x}/a", 0, "host contains '{'"),
        ("GET {x}.com/a", 4, "host contains '{'"),
        ("GET a b/c", 4, "invalid host"),
        ("u@h/c", 0, "invalid host"),
        ("h:80/c", 0, "host contains a port"),
        ("[::1]:80/c", 0, "host contains a port"),
        ("::1/c", 0, "an IPv6 address must be in brackets"),
        ("//", 0, "an unclean path can never match (use '/')"),
        ("GET /a//b", 4, "an unclean path can never match (use '/a/b')"),
        ("h.test/a/../b/", 6, "an unclean path can never match (use '/b/')"),
        ("/./a", 0, "an unclean path can never match"),
        ("/x{y}", 1, "must start with '{'"),
        ("/a/{x", 3, "must end with '}'"),
        ("GET /a/{x}y", 7, "must end with '}'"),
        ("/{", 1, "must end with '}'"),
        ("/{}", 1, "needs a name"),
        ("/{...}", 1, "needs a name"),
        ("/{$}/a", 1, "{$} must be at the end"),
        ("/{$}/", 1, "{$} must be at the end"),
        ("/a/{x...}/b", 3, "must be at the end"),
        ("/{1a}", 1, "bad wildcard name '1a'"),
        ("/{a-b}", 1, "bad wildcard name 'a-b'"),
        ("/{ a }", 2, "blank in a path"),
        ("GET /{ a }", 5, "bad wildcard name ' a '"),
        ("/{a:nope}", 1, "unknown converter 'nope' (there are filename, float, int, str, uuid)"),
        ("/{a:}", 1, "unknown converter ''"),
        ("/{:int}", 1, "needs a name"),
        ("/x/\udc80y", 3, "half a surrogate pair"),
        ("/{$...}", 1, "bad wildcard name '$'"),
        ("/{a}/{b}/{a}", 9, "duplicate wildcard name 'a'"),
        ("/{a}/{a...}", 5, "duplicate wildcard name 'a'"),
    ],
)
def test_invalid_pattern_is_refused_with_what_and_where(
    pattern: str, offset: int, what: str
) -> None:
    mux = ServeMux()
    with pytest.raises(PatternError) as e:
        mux.handle(pattern, handler_of(pattern))
    assert what in str(e.value)
    assert repr(pattern) in str(e.value)
    assert isinstance(e.value, ValueError)
    assert (e.value.pattern, e.value.offset) == (pattern, offset)
    with pytest.raises(PatternError):
        mux.handle(pattern)  # the decorator refuses before there is a function
    assert mux.routes() == []


@pytest.mark.parametrize(
    ("one", "two", "example"),
    [
        ("/", "/", "/"),
        ("/a", "/%61", "/a"),
        ("/{x}", "/{x}", "/x"),
        ("/a/", "/a/{rest...}", "/a/"),
        ("GET /a", "GET \t/a", "/a"),
        ("h.test/a", "H.TEST/a", "/a"),
        ("/a/{x}", "/{y}/b", "/a/b"),
        ("/{x}/b/", "/a/", "/a/b/"),
        ("/{x}/{$}", "/a/", "/a/"),
        ("/a/{x}/c", "/{y}/b/{z}", "/a/b/c"),
        ("/a/{x}/{rest...}", "/{y}/b/{z}", "/a/b/z"),
        ("GET /", "/a", "/a"),
        ("GET /{x}", "/a", "/a"),
        ("HEAD /", "GET /a", "/a"),
        ("HEAD /a/{x}", "GET /{y}/b", "/a/b"),
        ("/s%20p/{x}", "/{y}/b%2Fc", "/s%20p/b%2Fc"),
    ],
)
def test_conflict_is_refused_with_both_patterns_and_an_example(
    one: str, two: str, example: str
) -> None:
    for first, second in ((one, two), (two, one)):
        mux = mux_of(first)
        with pytest.raises(PatternConflictError) as e:
            mux.handle(second, handler_of(second))
        message = str(e.value)
        assert repr(first) in message
        assert repr(second) in message
        assert message.count(__file__) == 2, "where each was registered"
        assert f" {example}'" in message
        assert (e.value.pattern, e.value.other, e.value.example) == (second, first, example)
        assert isinstance(e.value, PatternError)
        assert [p for p, *_ in mux.routes()] == [first], "a refused pattern leaves nothing behind"
        assert matched(mux, "BREW", "/nowhere/at/all") in ("404", "405", first)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("/{x}/", "/a/{$}"),
        ("/a", "/a/"),
        ("/a", "/{x}"),
        ("/a/{$}", "/a/{x}"),
        ("/a/b", "/{x}/c"),
        ("/a/%2F", "/a/{$}"),
        ("GET /", "POST /a"),
        ("GET /a", "HEAD /a"),
        ("GET /a", "/a"),
        ("POST /a/{x}", "GET /{y}/b"),
        ("h.test/a/{x}", "/{y}/b"),
        ("h.test/a/{x}", "i.test/{y}/b"),
    ],
)
def test_patterns_that_do_not_conflict_are_accepted_in_any_order(one: str, two: str) -> None:
    assert [p for p, *_ in mux_of(one, two).routes()] == [one, two]
    assert [p for p, *_ in mux_of(two, one).routes()] == [two, one]


def test_conflict_message_shows_what_tells_them_apart() -> None:
    mux = mux_of("GET /")
    with pytest.raises(PatternConflictError) as e:
        mux.handle("/index.html", handler_of(""))
    text = re.sub(r"registered at [^)]*\.py:\d+", "registered at F", str(e.value))
    assert text == (
        "pattern '/index.html' (registered at F) conflicts with "
        "pattern 'GET /' (registered at F):\n"
        "both match 'GET /index.html', and neither is more specific:\n"
        "only '/index.html' matches 'POST /index.html'\n"
        "only 'GET /' matches 'GET /'"
    )


def test_errors_survive_pickling() -> None:
    mux = mux_of("/{x}")
    for bad in ("/{", "/{y}"):
        with pytest.raises(PatternError) as e:
            mux.handle(bad, handler_of(bad))
        copy = pickle.loads(pickle.dumps(e.value))
        assert (type(copy), str(copy), vars(copy)) == (type(e.value), str(e.value), vars(e.value))


@pytest.mark.parametrize("handler", [None, 1, "text"])
def test_handle_what_is_not_callable_is_a_type_error(handler: Any) -> None:
    mux = ServeMux()
    with pytest.raises(TypeError, match="callable"):
        mux.handle("/", handler)
    with pytest.raises(TypeError, match="callable"):
        mux.handle_func("/")(handler)
    assert mux.routes() == []


def test_handle_pattern_that_is_not_text_is_a_type_error() -> None:
    wrong: Any = b"/"
    with pytest.raises(TypeError, match="must be a str"):
        ServeMux().handle(wrong, handler_of(""))


def test_handle_as_a_decorator_returns_the_function() -> None:
    mux = ServeMux()

    @mux.handle("GET /items/{id}")
    @mux.handle_func("/other")
    def item(w: Any, r: Any) -> str:
        return f"item {r.path_value('id')}"

    mux.handle_func("/third", item)
    assert [r[:2] for r in mux.routes()] == [
        ("/other", item),
        ("GET /items/{id}", item),
        ("/third", item),
    ]
    assert mux(Recorder(), Request("GET", "/items/3")) == "item 3"
    assert mux(Recorder(), Request("GET", "/third")) == "item "
    assert repr(mux) == "<ServeMux with 3 routes>"


def test_handler_returns_the_registered_handler_and_pattern() -> None:
    mux = ServeMux()
    h = handler_of("")
    mux.handle("GET /a/{x}", h)
    assert mux.handler(Request("GET", "/a/1")) == (h, "GET /a/{x}")
    found, pattern = mux.handler(Request("POST", "/a/1"))
    w = Recorder()
    found(w, Request("POST", "/a/1"))
    assert (w.status, pattern) == (405, "")


def test_registration_after_the_first_request_is_seen() -> None:
    mux = mux_of("/a")
    assert matched(mux, "GET", "/a") == "/a"
    assert matched(mux, "GET", "/b") == "404"
    mux.handle("GET /a", handler_of("GET /a"))
    mux.handle("/b", handler_of("/b"))
    assert matched(mux, "GET", "/a") == "GET /a"
    assert matched(mux, "GET", "/b") == "/b"
    mux.handle("test.invalid/a", handler_of("test.invalid/a"))
    assert matched(mux, "GET", "/a") == "test.invalid/a"


def test_registration_by_many_threads_loses_nothing() -> None:
    mux = mux_of("/base")
    count, each = 4, 40
    errors: list[BaseException] = []
    conflicts_seen: list[int] = []
    start = threading.Barrier(count)

    def register(t: int) -> None:
        try:
            start.wait()
            for i in range(each):
                own = f"/t{t}/n{i}/{{x}}"
                mux.handle(own, handler_of(own))
                assert matched(mux, "GET", f"/t{t}/n{i}/v") == own, "not seen by its own thread"
                assert matched(mux, "GET", "/base") == "/base"
                try:
                    mux.handle(f"/shared/{i}", handler_of(f"/shared/{i}"))
                except PatternConflictError:
                    conflicts_seen.append(i)
        except BaseException as e:
            errors.append(e)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=register, args=(t,)) for t in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert errors == []
    assert len(mux.routes()) == 1 + count * each + each
    assert len(conflicts_seen) == (count - 1) * each


def test_requests_store_nothing() -> None:
    mux = mux_of("/", "GET /a/{x}", "/s")
    matched(mux, "GET", "/s")
    table = mux._table
    assert table is not None
    for i in range(100):
        matched(mux, "GET", f"/a/{i}")
        matched(mux, "GET", f"/b/{i}%20/")
        matched(mux, f"M{i}", f"/{i}", f"h{i}.test")
    assert mux._table is table


# --- the oracle -----------------------------------------------------------------------------------
#
# A pattern is a set of requests. Small patterns over {a, b} cannot tell more apart than the sampled
# requests do: these have one more segment than any pattern, and with "z" a text that no literal
# matches.

METHODS = ("GET", "HEAD", "POST", "PUT")
PATHS = tuple(
    "/" + "/".join(segs) + end
    for n in range(5)
    for segs in itertools.product("abz", repeat=n)
    for end in (("", "/") if n else ("",))
)


def split_pattern(pattern: str) -> tuple[str, str, str]:
    method, _, rest = pattern.rpartition(" ")
    host, slash, path = rest.partition("/")
    return method.strip(), host.lower(), slash + path


@cache
def path_regex(path: str) -> re.Pattern[str]:
    out = ""
    for seg in path.split("/")[1:]:
        if seg == "":
            out += "/(?P<_rest>.*)"
        elif seg == "{$}":
            out += "/"
        elif seg.endswith("...}"):
            out += f"/(?P<{seg[1:-4]}>.*)"
        elif seg.startswith("{"):
            out += f"/(?P<{seg[1:-1]}>[^/]+)"
        else:
            out += "/" + re.escape(quote(unquote(seg), safe=""))
    return re.compile(out)


@cache
def requests_of(pattern: str) -> frozenset[tuple[str, str]]:
    method, _, path = split_pattern(pattern)
    methods = {"": METHODS, "GET": ("GET", "HEAD")}.get(method, (method,))
    return frozenset(itertools.product(methods, filter(path_regex(path).fullmatch, PATHS)))


def conflicts(one: str, two: str) -> bool:
    if split_pattern(one)[1] != split_pattern(two)[1]:
        return False
    a, b = requests_of(one), requests_of(two)
    return bool(a & b) and not (a < b or b < a)


def oracle_winner(patterns: Iterable[str], method: str, host: str, path: str) -> str | None:
    for want in (host, ""):
        matching = [
            p for p in patterns if split_pattern(p)[1] == want and (method, path) in requests_of(p)
        ]
        if matching:
            (best,) = [
                p for p in matching if all(requests_of(p) <= requests_of(q) for q in matching)
            ]
            return best
    return None


def is_exact(pattern: str | None, path: str) -> bool:
    """Whether no part of the path was left to a trailing slash or {name...}."""
    if pattern is None:
        return False
    match = path_regex(split_pattern(pattern)[2]).fullmatch(path)
    assert match is not None
    return not (match.groupdict().get("_rest") or match.groupdict().get("rest"))


@st.composite
def patterns(draw: st.DrawFn) -> str:
    method = draw(st.sampled_from(["", "", "GET ", "HEAD ", "POST "]))
    host = draw(st.sampled_from(["", "", "", "h.test", "i.test"]))
    segs = draw(st.lists(st.sampled_from(["a", "b", "{}"]), max_size=3))
    segs = [f"{{w{i}}}" if s == "{}" else s for i, s in enumerate(segs)]
    end = draw(st.sampled_from(["", "/", "/{$}", "/{rest...}"]))
    path = "".join("/" + s for s in segs) + end
    return method + host + (path or "/")


@given(patterns(), patterns())
@settings(max_examples=500, deadline=None)
def test_conflict_detection_agrees_with_sampling(one: str, two: str) -> None:
    mux = mux_of(one)
    try:
        mux.handle(two, handler_of(two))
    except PatternConflictError as e:
        assert conflicts(one, two)
        sets = {one: requests_of(one), two: requests_of(two)}
        assert any((m, as_sampled(e.example)) in sets[one] & sets[two] for m in METHODS)
        for line in str(e).splitlines()[2:]:
            found = re.fullmatch(r"only '(.*)' matches '(\S+) (\S+)'", line)
            assert found is not None, line
            pattern, method, path = found.groups()
            other = two if pattern == one else one
            assert (method, as_sampled(path)) in sets[pattern] - sets[other], str(e)
        assert len(str(e).splitlines()) == (2 if sets[one] == sets[two] else 4)
    else:
        assert not conflicts(one, two)


def as_sampled(path: str) -> str:
    """The path with texts that stand for "any other" (wildcard names, "x") replaced by "z"."""
    return "/".join(s if s in ("", "a", "b") else "z" for s in path.split("/"))


@given(st.lists(patterns(), min_size=1, max_size=12), st.data())
@settings(max_examples=300, deadline=None)
def test_winner_agrees_with_brute_force(candidates: list[str], data: st.DataObject) -> None:
    mux = ServeMux()
    registered: list[str] = []
    for pattern in candidates:
        clash = any(conflicts(pattern, other) for other in registered)
        try:
            mux.handle(pattern, handler_of(pattern))
        except PatternConflictError:
            assert clash
        else:
            assert not clash
            registered.append(pattern)

    sample = st.tuples(
        st.sampled_from(METHODS),
        st.sampled_from(["h.test", "i.test:80", "j.test"]),
        st.sampled_from(PATHS),
    )
    for method, host, path in data.draw(st.lists(sample, min_size=20, max_size=40)):
        name = host.partition(":")[0]
        winner = oracle_winner(registered, method, name, path)
        w, r, result = call(mux, method, path, host)
        if not path.endswith("/") and not is_exact(winner, path) and path.count("/") < 5:
            slashed = oracle_winner(registered, method, name, path + "/")
            if is_exact(slashed, path + "/"):
                assert (w.status, w.headers["Location"]) == (307, path + "/")
                assert r.pattern == slashed
                continue
        if winner is not None:
            match = path_regex(split_pattern(winner)[2]).fullmatch(path)
            assert match is not None
            assert result == (winner, {k: v for k, v in match.groupdict().items() if k != "_rest"})
            assert r.pattern == winner
            continue
        # A path without a trailing slash may be redirected for another method.
        tails = ("",) if path.endswith("/") else ("", "/")
        allowed = {
            m for m in METHODS for t in tails if oracle_winner(registered, m, name, path + t)
        }
        assert result is None
        assert r.pattern == ""
        assert w.status == (405 if allowed else 404)
        assert w.headers.get("Allow", "") == ", ".join(sorted(allowed))
