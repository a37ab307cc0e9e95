"""Routing beyond matching: converters, mounts, strip_prefix, URLs, what a request shows of it."""

from __future__ import annotations

import gc
import json
import sys
import threading
import uuid
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtime
from runtime import http
from runtime.http import PatternConflictError, PatternError, ServeMux, strip_prefix


def show(w: Any, r: Any) -> dict[str, Any]:
    """All that a handler sees of the routing."""
    return {
        "pattern": r.pattern,
        "values": {k: repr(v) for k, v in r.path_values.items()},
        "path": r.path,
        "raw_path": r.raw_path,
        "stripped": r.stripped,
        "target": r.target,
    }


def seen(server: Any, target: str, method: str = "GET", host: str = "test") -> dict[str, Any]:
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
    r = server.ask(head, method)
    assert r.status == 200, (r.status, r.body)
    return json.loads(r.body)


# --- path values ----------------------------------------------------------------------------------


def test_path_values_of_a_real_request_are_decoded(serve):
    mux = ServeMux()
    mux.handle("GET /a/{x}/b/{rest...}", show)
    server = serve(mux)
    for sent, x, rest in [
        ("/a/1/b/2/3", "1", "2/3"),
        ("/a/1/b/", "1", ""),
        ("/a/%2F%20/b/a%2Fb/c%zz/%C3%A9", "/ ", "a/b/c%zz/é"),
        ("/a/%C3%A9/b/x/", "é", "x/"),
        ("/a/%ff/b/%25", "\ufffd", "%"),
        ("/a/%zz%20/b/%zz%20/%20", "%zz%20", "%zz%20/ "),
        (f"/a/{'%61' * 600}/b/c", "a" * 600, "c"),
        ("/a/1/b/" + "s/" * 100, "1", "s/" * 100),
    ]:
        got = seen(server, sent)
        assert got["values"] == {"x": repr(x), "rest": repr(rest)}, sent
        assert (got["pattern"], got["raw_path"]) == ("GET /a/{x}/b/{rest...}", sent)


def test_path_value_reads_what_was_set_last(serve):
    def handler(w, r):
        out = [r.path_value("id"), r.path_value("i" + "d"), r.path_value("other")]
        r.set_path_value("id", "new")
        r.set_path_value("other", 5)
        out += [r.path_value("id"), r.path_value("other"), r.path_values]
        r.path_values = {"third": "x"}
        out += [r.path_value("id"), r.path_value("third"), r.pattern]
        r.pattern = "mine"
        out += [r.pattern]
        for wrong in (lambda: r.path_value(1), lambda: r.set_path_value("x"), lambda: r._strip(99)):
            with pytest.raises((TypeError, ValueError)):
                wrong()
        with pytest.raises(TypeError):
            r.pattern = None
        return out

    mux = ServeMux()
    mux.handle("/u/{id}", handler)
    assert json.loads(serve(mux).get("/u/7").body) == [
        "7", "7", "", "new", 5, {"id": "new", "other": 5}, "", "x", "/u/{id}", "mine",
    ]  # fmt: skip


def test_values_and_pattern_outlive_the_request_and_the_mux(serve):
    kept = []
    mux = ServeMux()
    mux.handle("GET /u/{id}/{n:int}", lambda w, r: kept.append(r))
    server = serve(mux)
    for i in range(40):
        assert server.get(f"/u/a%20{i}/{i}").status == 200
    mux.handle("/other", show)  # the table of before goes
    assert server.get("/other").status == 200
    gc.collect()
    for i, r in enumerate(kept):
        assert (r.path_value("id"), r.path_value("n")) == (f"a {i}", i)
        assert (r.pattern, r.path_values) == ("GET /u/{id}/{n:int}", {"id": f"a {i}", "n": i})


def test_handler_of_another_mux_shows_its_own_pattern_and_values(serve):
    inner, outer = ServeMux(), ServeMux()
    inner.handle("/a/{y}/{z}", show)
    outer.handle("/{x}/", inner)
    got = seen(serve(outer), "/a/1/2")
    assert (got["pattern"], got["values"]) == ("/a/{y}/{z}", {"y": "'1'", "z": "'2'"})


def test_mux_and_what_it_holds_are_collected():
    class Handler:
        def __call__(self, w, r):
            return "x"

    inner, outer, handler = ServeMux(), ServeMux(), Handler()
    handler.back = outer
    inner.handle("/x/{y}", handler)
    outer.mount("/in/", inner)
    outer.handle("/self/", outer)
    outer.handle("/s/", strip_prefix("/s", inner))
    outer.handle("/direct/{x}", handler)
    assert outer(None, Wrapped("/direct/1")) == "x"
    assert inner(None, Wrapped("/x/1")) == "x"
    refs = [weakref.ref(o) for o in (handler, inner, outer)]
    del inner, outer, handler
    gc.collect()
    assert [ref() for ref in refs] == [None, None, None]


# --- converters -----------------------------------------------------------------------------------

UUID = "6f2c1e0a-0d5e-4a53-9b7d-0123456789ab"


@pytest.mark.parametrize(
    ("by", "text", "value"),
    [
        ("int", "5", 5),
        ("int", "-007", -7),
        ("int", "%35", 5),
        ("int", "9" * 18, int("9" * 18)),
        ("int", "9" * 19, int("9" * 19)),
        ("int", "1" * 200, int("1" * 200)),
        ("float", "1.50", 1.5),
        ("float", "-2", -2.0),
        ("uuid", UUID, uuid.UUID(UUID)),
        ("uuid", UUID.upper(), uuid.UUID(UUID)),
        ("str", "a%2Fb", "a/b"),
        ("filename", "a.tar.gz", "a.tar.gz"),
        ("filename", "...", "..."),
        ("filename", "%C3%A9%20x", "é x"),
        ("bool", "yes", True),
    ],
)
def test_converter_gives_the_handler_a_value(serve, by, text, value):
    mux = ServeMux()
    mux.converter("bool", {"yes": True, "no": False}.__getitem__, lambda v: "yes" if v else "no")
    mux.handle(f"/x/{{v:{by}}}/{{plain}}/{{n:int}}", lambda w, r: values.append(r.path_values))
    values: list[Any] = []
    server = serve(mux)
    assert server.get(f"/x/{text}/p%20/3").status == 200
    assert values == [{"v": value, "plain": "p ", "n": 3}]
    assert type(values[0]["v"]) is type(value)


@pytest.mark.parametrize(
    ("by", "text"),
    [
        ("int", "x"), ("int", "-"), ("int", "+5"), ("int", "5x"), ("int", "1.0"),
        ("int", "%205"), ("int", "%D9%A3"), ("int", "9" * 5000), ("int", "--5"),
        ("float", "x"), ("float", "1."), ("float", ".5"), ("float", "1e5"), ("float", "inf"),
        ("float", "nan"), ("uuid", "x"), ("uuid", UUID[1:]), ("uuid", "{" + UUID + "}"),
        ("uuid", UUID.replace("-", "")), ("filename", "%2e"), ("filename", "%2E%2E"),
        ("filename", "a%2Fb"), ("filename", "a%5Cb"), ("filename", "a%00"), ("filename", "a%0A"),
        ("even", "3"),
    ],
)  # fmt: skip
def test_what_does_not_convert_is_not_found_and_goes_to_no_other_route(serve, by, text):
    def even(text: str) -> int:
        if int(text) % 2:
            raise ValueError(text)
        return int(text)

    mux = ServeMux()
    mux.converter("even", even)
    mux.handle("/", lambda w, r: "the root")
    mux.handle(f"/x/{{v:{by}}}", lambda w, r: "converted")
    mux.handle("GET /x/{v}/sub", lambda w, r: "sub")
    server = serve(mux)
    r = server.get(f"/x/{text}")
    assert (r.status, r.body) == (404, b"404 page not found\n")
    assert server.get(f"/x/{text}/sub").body == b"sub"
    assert server.get("/").body == b"the root"


def test_converter_that_fails_otherwise_is_a_500(serve, caplog):
    mux = ServeMux()
    mux.converter("bad", lambda text: 1 // 0)
    mux.handle("/{x:bad}", show)
    assert serve(mux).get("/1").status == 500
    assert "ZeroDivisionError" in caplog.text


def test_converter_of_a_rest_wildcard_gets_all_of_it(serve):
    mux = ServeMux()
    mux.converter("parts", lambda text: text.split("/"), "/".join)
    mux.handle("/f/{p:parts...}", lambda w, r: r.path_value("p"), name="f")
    assert json.loads(serve(mux).get("/f/a/b%2Fc").body) == ["a", "b", "c"]
    assert mux.url("f", p=["x y", "z"]) == "/f/x%20y/z"


def test_converters_do_not_change_what_conflicts():
    mux = ServeMux()
    mux.handle("/x/{a:int}", show)
    for same in ("/x/{b}", "/x/{b:uuid}", "/x/{a:int}"):
        with pytest.raises(PatternConflictError, match="converters have no part") as e:
            mux.handle(same, show)
        assert repr(same) in str(e.value) and "'/x/{a:int}'" in str(e.value)
        assert str(e.value).count(f"{__file__}:") == 2
    mux.handle("/x/5", show)  # more specific, as always


def test_converter_names_are_checked():
    mux = ServeMux()
    mux.converter("hex", lambda t: int(t, 16), hex)
    mux.handle("/{x:hex}", show)
    for name, error in (("int", ValueError), ("hex", ValueError), ("a-b", ValueError)):
        with pytest.raises(error):
            mux.converter(name, int)
    not_callable: Any = 5
    with pytest.raises(TypeError, match="callable"):
        mux.converter("five", not_callable)
    with pytest.raises(PatternError, match="unknown converter 'hex'"):
        ServeMux().handle("/{x:hex}", show)


# --- mounts ---------------------------------------------------------------------------------------


def api() -> ServeMux:
    mux = ServeMux()
    mux.handle("GET /items/{id:int}", show, name="item")
    mux.handle("POST /items", show)
    mux.handle("/tree/", show, name="tree")
    mux.handle("/{$}", show, name="root")
    return mux


def test_mounted_routes_see_what_they_see_alone(serve):
    outer, sub = ServeMux(), api()
    outer.mount("/api/{tenant}/", sub)
    outer.handle("/", show)
    alone, mounted = serve(sub), serve(outer)
    for path in ("/items/5", "/tree/a/b", "/", "/tree/a%2Fb/"):
        one, two = seen(alone, path), seen(mounted, f"/api/acme%20/{path[1:]}")
        assert (two["path"], two["raw_path"]) == (one["path"], one["raw_path"])
        assert (one["stripped"], two["stripped"]) == ("", "/api/acme%20")
        assert two["target"] == f"/api/acme%20{path}"
        assert two["values"] == {"tenant": "'acme '", **one["values"]}
        assert two["pattern"] == one["pattern"].replace("/", "/api/{tenant}/", 1)
    assert seen(mounted, "/elsewhere")["pattern"] == "/"
    r = mounted.get("/api/acme/tree?q=1")
    assert (r.status, r["location"]) == (307, "/api/acme/tree/?q=1")
    r = mounted.ask("PUT /api/acme/items/5 HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
    assert r.status == 200  # by "/", which matches, too


def test_mounted_route_on_the_slow_way_is_stripped_too(serve):
    outer = ServeMux()
    outer.mount("/api/", api())
    path = "/api/tree/" + "s/" * 100
    got = seen(serve(outer), path)
    assert (got["path"], got["stripped"], got["pattern"]) == (path[4:], "/api", "/api/tree/")


def test_path_is_whole_again_after_a_mounted_handler(serve):
    paths = []

    def around(w, r):
        paths.append((r.path, r.raw_path, r.stripped))
        try:
            return outer(w, r)
        finally:
            paths.append((r.path, r.raw_path, r.stripped))

    def fails(w, r):
        paths.append((r.path, r.raw_path, r.stripped))
        raise http.HTTPError(418)

    outer, sub = ServeMux(), ServeMux()
    sub.handle("/a%20b/{x}", fails)
    outer.mount("/p/q/", sub)
    outer.handle("/s/", strip_prefix("/s", sub))
    server = serve(around)
    for prefix in ("/p/q", "/s"):
        assert server.get(f"{prefix}/a%20b/c").status == 418
        whole, part = (f"{prefix}/a b/c", f"{prefix}/a%20b/c", ""), ("/a b/c", "/a%20b/c", prefix)
        assert paths == [whole, part, whole]
        paths.clear()


def test_what_a_mounted_mux_gets_later_is_seen_at_once(serve):
    outer, middle, inner = ServeMux(), ServeMux(), ServeMux()
    middle.mount("/in/", inner)
    outer.mount("/mid/", middle, name="m")
    server = serve(outer)
    assert server.get("/mid/in/late").status == 404
    inner.handle("/late", show, name="late")
    got = seen(server, "/mid/in/late")
    assert (got["path"], got["stripped"]) == ("/late", "/mid/in")
    assert [r.pattern for r in outer.routes()] == ["/mid/in/late"]
    assert (outer.url("m:late"), middle.url("late")) == ("/mid/in/late", "/in/late")
    (info,) = outer.routes()
    assert info.where.count(__file__) == 3  # registered, mounted, mounted


def test_mount_conflict_is_refused_and_changes_nothing():
    outer, sub = ServeMux(), ServeMux()
    outer.handle("/api/{x}/b", show)
    sub.handle("/ok", show)
    sub.handle("/a/{y}", show)
    with pytest.raises(PatternConflictError) as e:
        outer.mount("/api/", sub)
    assert "'/api/a/{y}'" in str(e.value) and "'/api/{x}/b'" in str(e.value)
    assert "mounted at" in str(e.value)
    assert [r.pattern for r in outer.routes()] == ["/api/{x}/b"]
    sub.handle("/{z}/b/c", show)  # it is not mounted
    other = ServeMux()
    outer.mount("/api/", other)
    with pytest.raises(PatternConflictError):
        other.handle("/a/{y}", show)
    assert other.routes() == [], "refused in one mux, registered in none"
    other.handle("/fine", show)
    assert len(outer.routes()) == 2


def test_mount_twice_needs_a_name_where_routes_have_one(serve):
    outer, sub = ServeMux(), api()
    outer.mount("/v1/", sub, name="v1")
    with pytest.raises(ValueError, match="'v1:item' already"):
        outer.mount("/v2/", sub, name="v1")
    outer.mount("/v2/", sub, name="v2")
    outer.mount("/", sub)
    names = ("v1:item", "v2:item", "item")
    assert [outer.url(n, id=1) for n in names] == ["/v1/items/1", "/v2/items/1", "/items/1"]
    sub.handle("/both", show)
    server = serve(outer)
    assert [seen(server, f"{p}/both")["stripped"] for p in ("/v1", "/v2", "")] == ["/v1", "/v2", ""]
    with pytest.raises(ValueError, match="'tree' already"):
        sub.handle("/tree2", show, name="tree")


@pytest.mark.parametrize(
    "prefix", ["/a", "/", "GET /a/", "/a/{$}", "/a/{rest...}", "/a/{x", "a", "/a//"]
)
def test_mount_prefix_must_be_a_subtree(prefix):
    mux = ServeMux()
    if prefix == "/":
        mux.mount(prefix, api())
        return
    with pytest.raises(PatternError):
        mux.mount(prefix, api())
    assert mux.routes() == []


def test_mount_of_nonsense_is_refused():
    one, two, three = ServeMux(), ServeMux(), ServeMux()
    one.mount("/two/", two)
    two.mount("/three/", three)
    for outer, sub in ((one, one), (three, one), (two, one), (three, two)):
        with pytest.raises(ValueError, match="in itself"):
            outer.mount("/x/", sub)
    wrong: Any = show
    with pytest.raises(TypeError, match="only a ServeMux"):
        one.mount("/y/", wrong)
    sub = ServeMux()
    sub.handle("/{x}/a", show)
    with pytest.raises(PatternError, match="'x' twice"):
        one.mount("/{x}/", sub)
    sub = ServeMux()
    sub.handle("h.test/", show)
    with pytest.raises(PatternError, match="another host"):
        one.mount("i.test/", sub)
    one.mount("h.test/a/", sub)
    assert one.routes()[-1].pattern == "h.test/a/"


def test_mount_with_a_host(serve):
    outer = ServeMux()
    outer.mount("api.test/v1/", api(), name="api")
    server = serve(outer)
    assert (
        seen(server, "/v1/items/3", host="API.test:80")["pattern"]
        == "GET api.test/v1/items/{id:int}"
    )
    assert server.get("/v1/items/3").status == 404
    assert outer.url("api:item", id=3) == "//api.test/v1/items/3"


# --- strip_prefix ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "target", "path"),
    [
        ("/a", "/a/b", "/b"),
        ("/a/", "/a/b", "/b"),
        ("/a", "/a", "/"),
        ("/a", "/a/", "/"),
        ("/a", "/%61/b", "/b"),
        ("/a%20b/c", "/a%20b/c/d%2Fe", "/d/e"),
        ("/é", "/%c3%a9/x", "/x"),
        ("/", "/a/b", "/a/b"),
        ("/a", "/ab", None),
        ("/a", "/b/a", None),
        ("/a/b", "/a", None),
        ("/a", "/a%2Fb", None),
        ("/a", "/", None),
        ("/a", "/A/b", None),
    ],
)
def test_strip_prefix_takes_whole_segments(serve, prefix, target, path):
    r = serve(strip_prefix(prefix, show)).get(target)
    if path is None:
        assert (r.status, r.body) == (404, b"404 page not found\n")
        return
    got = json.loads(r.body)
    assert got["path"] == path
    assert got["stripped"] + got["raw_path"].removeprefix("/" if target == prefix else "") == target


def test_strip_prefix_refuses_what_could_never_match():
    for prefix in ("", "a", "/a//b", "/a/../b", "/./a"):
        with pytest.raises(ValueError, match="clean path"):
            strip_prefix(prefix, show)
    wrong: Any = 5
    with pytest.raises(TypeError, match="not a handler"):
        strip_prefix("/a", wrong)


def test_redirects_below_a_prefix_keep_it(serve):
    def away(w, r):
        http.redirect(w, r, "next?x=1", 303)

    inner, outer = ServeMux(), ServeMux()
    inner.handle("/dir/", show)
    inner.handle("/here/it", away)
    outer.handle("/pre/fix/", strip_prefix("/pre/fix", inner))
    server = serve(outer)
    assert server.get("/pre/fix/dir?q")["location"] == "/pre/fix/dir/?q"
    assert server.get("/pre/fix/here/it")["location"] == "/pre/fix/here/next?x=1"
    got = seen(server, "/pre/fix/dir/x")
    assert (got["pattern"], got["path"]) == ("/dir/", "/dir/x")


# --- url ------------------------------------------------------------------------------------------


def test_url_of_each_kind_of_pattern():
    mux = ServeMux()
    mux.handle("GET /users/{id:int}/f/{path...}", show, name="file")
    mux.handle("/static/", show, name="static")
    mux.handle("/end/{$}", show, name="end")
    mux.handle("h.test/a%20b/{x}", show, name="host")
    mux.handle("/m/{f:float}/{u:uuid}/{n:filename}", show, name="conv")
    mux.handle("/n/{name}", show, name="name")
    assert mux.url("file", id=5, path="a b/c") == "/users/5/f/a%20b/c"
    assert mux.url("file", id=-5, path="") == "/users/-5/f/"
    assert mux.url("static") == "/static/"
    assert mux.url("end") == "/end/"
    assert mux.url("host", x="a/b") == "//h.test/a%20b/a%2Fb"
    assert mux.url("name", name="..") == "/n/%2E%2E"
    assert mux.url("name", name=7) == "/n/7"
    made = mux.url("conv", f=1e20, u=uuid.UUID(UUID), n="é?")
    assert made == f"/m/100000000000000000000/{UUID}/%C3%A9%3F"


@pytest.mark.parametrize(
    ("values", "error", "what"),
    [
        ({}, TypeError, "needs id, path"),
        ({"id": 1, "path": "", "z": 1}, TypeError, "has no wildcard z"),
        ({"id": "x", "path": ""}, ValueError, "id='x' is not for converter 'int'"),
        ({"id": 1.5, "path": ""}, ValueError, "not for converter 'int'"),
        ({"id": 1, "path": "/a"}, ValueError, "empty segment"),
        ({"id": 1, "path": "a//b"}, ValueError, "empty segment"),
        ({"id": 1, "path": None}, TypeError, "takes str or int"),
        ({"id": 1, "path": "\udc80"}, ValueError, "no URL can carry"),
    ],
)
def test_url_with_wrong_values_is_refused(values, error, what):
    mux = ServeMux()
    mux.handle("/users/{id:int}/{path...}", show, name="file")
    with pytest.raises(error, match=what):
        mux.url("file", **values)


def test_url_of_an_unknown_name_lists_the_known():
    mux = ServeMux()
    with pytest.raises(LookupError, match="none has a name"):
        mux.url("x")
    mux.handle("/", show, name="root")
    with pytest.raises(LookupError, match="there are: root"):
        mux.url("x")
    with pytest.raises(ValueError, match="'root' already"):
        mux.handle("/other", show, name="root")
    assert len(mux.routes()) == 1
    mux.handle("/a/{x}", show, name="one")
    with pytest.raises(ValueError, match="cannot be empty"):
        mux.url("one", x="")


class Wrapped:
    """Looks like a request."""

    def __init__(self, path: str) -> None:
        self.method, self.host, self.raw_path, self.raw_query = "GET", "t", path, ""
        self.stripped = self.pattern = ""
        self.path_values: dict[str, Any] = {}


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT.filter(bool), TEXT.filter(lambda t: t[:1] != "/" and "//" not in t))
def test_url_leads_back_to_the_route_with_the_same_values(one, rest):
    got: list[Any] = []
    mux = ServeMux()
    mux.handle("/u/{one}/{rest...}", lambda w, r: got.append(r.path_values), name="u")
    mux.handle("/", lambda w, r: got.append("the root"))
    mux(None, Wrapped(mux.url("u", one=one, rest=rest)))
    assert got == [{"one": one, "rest": rest}]


# --- registration ---------------------------------------------------------------------------------


def test_conflict_names_the_callers_of_the_modules_functions(monkeypatch):
    from runtime._http import server

    monkeypatch.setattr(server, "default_mux", ServeMux())
    http.handle("/x/{a}", show, name="one")
    with pytest.raises(PatternConflictError) as e:
        http.handle_func("/x/{b}")(show)
    assert str(e.value).count(f"{__file__}:") == 2
    assert server.default_mux.routes()[0].name == "one"


def test_routes_tell_pattern_handler_name_and_place():
    mux = ServeMux()
    mux.handle("GET /x", show, name="x")
    (info,) = mux.routes()
    assert (info.pattern, info.handler, info.name) == ("GET /x", show, "x")
    name, _, line = info.where.rpartition(":")
    assert (name, line.isdigit()) == (__file__, True)


def test_pattern_with_too_many_parts_is_refused(serve):
    mux = ServeMux()
    for bad in ("/a" * 257, "/" + "/".join(f"{{w{i}}}" for i in range(17))):
        with pytest.raises(PatternError, match="at most"):
            mux.handle(bad, show)
    most = "/" + "/".join(f"{{w{i}}}" for i in range(16))
    mux.handle("/a" * 256, show)
    mux.handle(most, show)
    server = serve(mux)
    assert seen(server, "/a" * 256)["pattern"] == "/a" * 256
    assert seen(server, "/b" * 16)["values"] == {f"w{i}": "'b'" for i in range(16)}


def test_thousand_routes_are_told_apart(serve):
    mux = ServeMux()
    for i in range(1000):
        mux.handle(f"GET /r{i}/{{x}}/t{i % 7}", lambda w, r, i=i: [i, r.path_value("x")])
        mux.handle(f"h{i}.test/", lambda w, r, i=i: [-i])
    server = serve(mux)
    with server.connect() as c:
        for i in range(0, 1000, 37):
            got = c.send(f"GET /r{i}/v{i}/t{i % 7} HTTP/1.1\r\nHost: t\r\n\r\n").response()
            assert json.loads(got.body) == [i, f"v{i}"]
            got = c.send(f"GET /r{i}/v HTTP/1.1\r\nHost: H{i}.test:1\r\n\r\n").response()
            assert json.loads(got.body) == [-i]


def test_mux_in_use_can_be_registered_with_by_other_threads(serve, procs):
    mux, sub = ServeMux(), ServeMux()
    mux.handle("/u/{id}", lambda w, r: r.path_value("id"))
    mux.mount("/sub/", sub)
    server = serve(mux)
    stop = threading.Event()
    failures: list[BaseException] = []

    def ask(n: int) -> None:
        try:
            with server.connect() as c:
                i = 0
                while not stop.is_set():
                    i += 1
                    got = c.send(f"GET /u/{n}-{i} HTTP/1.1\r\nHost: t\r\n\r\n").response()
                    assert (got.status, got.body) == (200, f"{n}-{i}".encode())
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    for i in range(60):
        sub.handle(f"/late{i}/{{x:int}}", lambda w, r, i=i: [i, r.path_value("x")])
        assert json.loads(server.get(f"/sub/late{i}/5").body) == [i, 5]
    stop.set()
    for t in threads:
        t.join()
    assert failures == []


def test_requests_with_values_leave_no_objects_behind(serve):
    mux = ServeMux()
    mux.handle(
        "GET /{a}/{b:int}/{c:uuid}/{d...}", lambda w, r: [r.path_value("a"), r.path_value("b")]
    )
    mux.handle("GET /x/{a}", lambda w, r: r.pattern)
    server = serve(mux)
    target = f"/a/5/{UUID}/r/s"

    def ask(n: int) -> None:
        with server.connect() as c:
            for i in range(n):
                for path in (target, f"/x/{i}", "/none/at/all/x", "//x", "/x/%ff"):
                    c.send(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").response()

    ask(20)
    gc.collect()
    before = len(gc.get_objects()), sys.getrefcount(mux.routes()[0].handler)
    ask(200)
    server.until(active=0)
    gc.collect()
    after = len(gc.get_objects()), sys.getrefcount(mux.routes()[0].handler)
    assert after[0] - before[0] < 100
    assert after[1] == before[1]


def test_table_refuses_nonsense():
    class Broken:
        literals: Any = {}
        wild = None
        leaf = rest = None

    table = runtime._core.MuxTable
    wrong: Any
    for wrong in (None, 5, type("N", (), {})(), type("M", (Broken,), {"literals": 5})()):
        with pytest.raises((TypeError, AttributeError)):
            table(wrong, {})
    with pytest.raises((TypeError, AttributeError)):
        table(Broken(), {"h": 5})
    mux: Any = ServeMux()
    with pytest.raises(TypeError):
        mux._publish(5)
    for args in ((), (1,), (1, 2, 3)):
        with pytest.raises(TypeError):
            mux(*args)
    with pytest.raises(TypeError):
        mux(w=1, r=2)
