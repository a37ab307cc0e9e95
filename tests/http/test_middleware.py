"""http.middleware, mux.use and use=: handlers around handlers."""

from __future__ import annotations

import base64
import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import runtime
from runtime import http, httptest
from runtime.http import middleware

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def ok(w, r):
    return "ok"


def ask(handler, method="GET", target="/", **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return httptest.record(handler, httptest.new_request(method, target, headers=fields))


def named(name, log):
    """A middleware that notes when it comes in and goes out."""

    def around(handler):
        def noting(w, r):
            log.append(f"{name} in")
            value = handler(w, r)
            log.append(f"{name} out")
            return value

        return noting

    return around


# --- putting it around ----------------------------------------------------------------------------


def test_chain_first_is_outermost():
    log: list[str] = []
    handler = middleware.chain(ok, named("a", log), named("b", log))
    assert ask(handler).text == "ok"
    assert log == ["a in", "b in", "b out", "a out"]


def test_chain_takes_objects_with_serve_http():
    mux = http.ServeMux()
    mux.handle("/", ok)
    assert ask(middleware.chain(mux, middleware.security_headers())).text == "ok"
    assert middleware.chain(ok) is ok


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((None,), "a handler is needed, not NoneType"),
        ((ok, 5), "a middleware is callable, not int"),
        ((ok, lambda handler: None), "must return a handler"),
    ],
)
def test_chain_of_what_is_none_raises(args, message):
    with pytest.raises(TypeError, match=message):
        middleware.chain(*args)


def test_mux_use_runs_around_matched_routes_only_and_sees_the_route():
    seen: list[str] = []

    def around(handler):
        def seeing(w, r):
            seen.append(f"{r.pattern} {r.path_values}")
            return handler(w, r)

        return seeing

    mux = http.ServeMux()
    mux.use(around)
    mux.handle("GET /users/{id:int}", ok)
    assert ask(mux, target="/users/5").text == "ok"
    assert ask(mux, target="/nowhere").status == 404
    assert ask(mux, "POST", "/users/5").status == 405
    assert seen == ["GET /users/{id:int} {'id': 5}"]


def test_use_of_a_route_is_within_that_of_its_mux_and_of_the_mux_it_is_mounted_in():
    log: list[str] = []
    inner, outer = http.ServeMux(), http.ServeMux()
    outer.use(named("outer", log))
    inner.use(named("inner", log))
    outer.mount("/api/", inner)
    inner.handle("/late", ok, use=[named("route", log), named("last", log)])

    @outer.handle("/other", use=[named("other", log)])
    def other(w, r):
        return "other"

    assert ask(outer, target="/api/late").text == "ok"
    assert log == [f"{n} in" for n in ("outer", "inner", "route", "last")] + [
        f"{n} out" for n in ("last", "route", "inner", "outer")
    ]
    log.clear()
    assert ask(inner, target="/late").text == "ok"
    assert log[0] == "inner in" and "outer in" not in log
    assert ask(outer, target="/other").text == "other"
    assert outer.routes()[-1].handler is other


def test_mux_mounted_with_its_routes_gets_the_middleware():
    log: list[str] = []
    inner, outer = http.ServeMux(), http.ServeMux()
    inner.handle("/x", ok)
    outer.use(named("outer", log))
    outer.mount("/api/", inner)
    assert ask(outer, target="/api/x").text == "ok"
    assert log == ["outer in", "outer out"]


def test_use_after_the_routes_raises_and_names_the_first():
    mux = http.ServeMux()
    mux.handle("GET /first", ok)
    with pytest.raises(RuntimeError, match=r"'GET /first' was registered at .*test_middleware"):
        mux.use(named("late", []))
    with pytest.raises(TypeError, match="callable, not str"):
        http.ServeMux().use("no")


def test_middleware_that_registers_a_route_raises_and_registers_nothing():
    mux = http.ServeMux()

    def around(handler):
        mux.handle("/more", ok)
        return handler

    mux.use(around)
    with pytest.raises(RuntimeError, match="must not register"):
        mux.handle("/", ok)
    assert mux.routes() == []
    assert ask(mux).status == 404


def test_default_mux_handle_takes_middleware(monkeypatch):
    mux = http.ServeMux()
    monkeypatch.setattr("runtime._http.server.default_mux", mux)
    log: list[str] = []
    http.handle("/a", ok, use=[named("a", log)])
    http.handle_func("/b", use=[named("b", log)])(ok)
    assert [ask(mux, target=t).text for t in ("/a", "/b")] == ["ok", "ok"]
    assert log == ["a in", "a out", "b in", "b out"]


# --- what middleware works with -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "status", "size", "body"),
    [
        (None, 0, 0, b""),
        ("é", 0, 2, "é".encode()),
        (b"abc", 0, 3, b"abc"),
        ({"a": 1}, 0, 7, b'{"a":1}'),
        ([], 0, 2, b"[]"),
        (204, 204, 0, b""),
        (404, 404, 10, b"Not Found\n"),
    ],
)
@pytest.mark.parametrize("timed", [False, True])
def test_respond_is_as_if_the_handler_had_returned_it(serve, value, status, size, body, timed):
    seen: runtime.Chan = runtime.Chan(2)

    def handler(w, r):
        w.respond(value)
        seen.send((w.status, w.bytes_written))

    inner = http.timeout_handler(handler, 60) if timed else handler
    response = serve(inner).get()
    plain = serve(lambda w, r: value).get()
    assert seen.recv(timeout=60) == (status, size)
    assert (response.status, response.body) == (plain.status, plain.body) == (status or 200, body)
    assert response.all("content-type") == plain.all("content-type")
    recorder = httptest.ResponseRecorder()
    recorder.respond(value)
    assert (recorder.bytes_written, recorder.body) == (size, body)


@pytest.mark.parametrize("timed", [False, True])
def test_respond_twice_or_after_writing_raises(serve, timed):
    def handler(w, r):
        with pytest.raises(TypeError, match="may return"):
            w.respond(object())
        with pytest.raises(ValueError, match="no status code"):
            w.respond(5)
        w.write("x")
        with pytest.raises(TypeError, match="either write or return"):
            w.respond("y")
        assert w.bytes_written == 1

    inner = http.timeout_handler(handler, 60) if timed else handler
    assert serve(inner).get().body == b"x"


def test_respond_when_the_handler_has_returned_raises(serve):
    kept = runtime.Chan(1)
    assert serve(lambda w, r: kept.send(w)).get().status == 200
    w = kept.recv(timeout=60)
    with pytest.raises(RuntimeError, match="has returned"):
        w.respond("late")


def test_state_is_one_dict_for_a_request_and_its_copies(serve):
    def handler(w, r):
        assert r.state == {} and r.state is r.state
        r.state["user"] = "ann"
        return r.with_context(r.context).state["user"]

    with serve(handler).connect() as c:
        for _ in range(3):
            assert c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response().body == b"ann"


@pytest.mark.parametrize(("name", "value"), [("host", "a.example:8080"), ("scheme", "https")])
def test_host_and_scheme_can_be_set_and_copies_have_them(serve, name, value):
    def handler(w, r):
        assert (r.host, r.scheme) == ("t", "http")
        setattr(r, name, value)
        assert getattr(r.with_context(r.context), name) == value
        for bad in (None, 5, b"x"):
            with pytest.raises(TypeError, match="must be a str"):
                setattr(r, name, bad)
        with pytest.raises(TypeError):
            delattr(r, name)
        return getattr(r, name)

    with serve(handler).connect() as c:
        for _ in range(2):
            response = c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response()
            assert response.body == value.encode()


def test_mux_goes_by_the_host_that_was_set(serve):
    mux = http.ServeMux()
    mux.handle("GET a.example/x", lambda w, r: f"a {r.pattern}")
    mux.handle("GET /x", lambda w, r: "any")

    def around(w, r):
        if r.query.get("host"):
            r.host = r.query.get("host")
        return mux(w, r)

    with serve(around).connect() as c:
        for query, body in (
            ("", "any"),
            ("host=a.example", "a GET a.example/x"),
            ("host=A.EXAMPLE:80", "a GET a.example/x"),
            ("host=%C3%A4", "any"),
            ("", "any"),  # nothing is left of it
        ):
            got = c.send(f"GET /x?{query} HTTP/1.1\r\nHost: t\r\n\r\n").response()
            assert got.body.decode() == body


def test_remote_addr_can_be_set_and_copies_have_it(serve):
    def handler(w, r):
        assert r.remote_addr.startswith("127.0.0.1:")
        r.remote_addr = "192.0.2.7:80"
        assert r.with_context(r.context).remote_addr == "192.0.2.7:80"
        for bad in (None, 5, b"x"):
            with pytest.raises(TypeError, match="must be a str"):
                r.remote_addr = bad
        with pytest.raises(TypeError):
            del r.remote_addr
        return r.remote_addr

    with serve(handler).connect() as c:
        for _ in range(2):
            response = c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response()
            assert response.body == b"192.0.2.7:80"


# --- security_headers -----------------------------------------------------------------------------


def test_security_headers_defaults_changed_and_left_out():
    def handler(w, r):
        w.headers.set("Referrer-Policy", "no-referrer")
        w.headers.delete("X-Frame-Options")
        return "ok"

    changed = {"Content-Security-Policy": None, "Permissions-Policy": "camera=()"}
    headers = ask(middleware.security_headers(changed)(handler)).response().headers
    assert headers.get("X-Content-Type-Options") == "nosniff"
    assert headers.get("Cross-Origin-Opener-Policy") == "same-origin"
    assert headers.get("Permissions-Policy") == "camera=()"
    assert headers.get("Referrer-Policy") == "no-referrer"
    for missing in ("Content-Security-Policy", "X-Frame-Options", "Strict-Transport-Security"):
        assert missing not in headers
    assert "default-src 'self'" in ask(middleware.security_headers()(ok)).response().headers.get(
        "Content-Security-Policy", ""
    )


def test_hsts_over_tls_only():
    handler = middleware.security_headers(hsts=3600)(ok)
    plain = httptest.record(handler, httptest.new_request("GET", "/"))
    assert "Strict-Transport-Security" not in plain.response().headers
    secure = httptest.record(handler, httptest.new_request("GET", "https://t/", tls=object()))
    value = secure.response().headers.get("Strict-Transport-Security")
    assert value == "max-age=3600; includeSubDomains"


@pytest.mark.parametrize("args", [({"bad name": "x"},), ({"X": "a\nb"},)])
def test_security_headers_that_are_none_are_refused_at_once(args):
    with pytest.raises(ValueError):
        middleware.security_headers(*args)
    with pytest.raises(ValueError, match="seconds"):
        middleware.security_headers(hsts=-1)


# --- cors -----------------------------------------------------------------------------------------

APP = "https://app.example"


def test_cors_of_a_listed_origin():
    handler = middleware.cors([APP], expose=["X-Total"], credentials=True)(ok)
    headers = ask(handler, Origin=APP).response().headers
    assert headers.get("Access-Control-Allow-Origin") == APP
    assert headers.get("Access-Control-Allow-Credentials") == "true"
    assert headers.get("Access-Control-Expose-Headers") == "X-Total"
    assert headers.get("Vary") == "Origin"


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example:444", "null"])
def test_cors_of_another_origin_says_nothing_but_vary(origin):
    w = ask(middleware.cors(APP)(ok), Origin=origin)
    assert w.text == "ok"
    headers = w.response().headers
    assert "Access-Control-Allow-Origin" not in headers
    assert headers.get("Vary") == "Origin"


def test_cors_of_any_origin_and_of_a_function():
    any_one = ask(middleware.cors("*")(ok), Origin="null").response().headers
    assert any_one.get("Access-Control-Allow-Origin") == "*"
    assert "Vary" not in any_one
    mine = middleware.cors(lambda origin: origin.endswith(".example"))(ok)
    headers = ask(mine, Origin="https://x.example").response().headers
    assert headers.get("Access-Control-Allow-Origin") == "https://x.example"
    refused = ask(mine, Origin="https://x.test").response().headers
    assert "Access-Control-Allow-Origin" not in refused


def test_cors_preflight_is_answered_without_the_handler():
    handler = middleware.cors([APP], methods=["GET", "PUT"], headers=["X-Key"], max_age=60)(
        lambda w, r: pytest.fail("called")
    )
    w = ask(handler, "OPTIONS", Origin=APP, Access_Control_Request_Method="PUT")
    assert w.status == 204 or w.response().status == 204
    headers = w.response().headers
    assert headers.get("Access-Control-Allow-Methods") == "GET, PUT"
    assert headers.get("Access-Control-Allow-Headers") == "X-Key"
    assert headers.get("Access-Control-Max-Age") == "60"
    refused = ask(handler, "OPTIONS", Origin="https://x.test", Access_Control_Request_Method="PUT")
    assert refused.response().status == 204
    assert "Access-Control-Allow-Methods" not in refused.response().headers


def test_cors_preflight_with_credentials_repeats_what_is_asked():
    handler = middleware.cors([APP], methods=["*"], headers=["*"], credentials=True)(ok)
    fields = {"Access_Control_Request_Method": "PATCH", "Access_Control_Request_Headers": "x-a"}
    headers = ask(handler, "OPTIONS", Origin=APP, **fields).response().headers
    assert headers.get("Access-Control-Allow-Methods") == "PATCH"
    assert headers.get("Access-Control-Allow-Headers") == "x-a"


@pytest.mark.parametrize("origins", [APP, "*"])
def test_cors_preflight_of_any_header_names_those_that_are_asked_for(origins):
    """A wildcard would not be one for Authorization."""
    handler = middleware.cors(origins, headers=["*"])(ok)
    fields = {"Access_Control_Request_Method": "GET"}
    asked = fields | {"Access_Control_Request_Headers": "authorization,x-a"}
    headers = ask(handler, "OPTIONS", Origin=APP, **asked).response().headers
    assert headers.get("Access-Control-Allow-Headers") == "authorization,x-a"
    assert "Access-Control-Request-Headers" in ",".join(headers.get_all("Vary"))
    headers = ask(handler, "OPTIONS", Origin=APP, **fields).response().headers
    assert headers.get("Access-Control-Allow-Headers") == "*"
    some = middleware.cors(origins, headers=["X-*"])(ok)
    headers = ask(some, "OPTIONS", Origin=APP, **asked).response().headers
    assert headers.get("Access-Control-Allow-Headers") == "X-*"


def test_cors_options_that_is_no_preflight_reaches_the_handler():
    handler = middleware.cors(APP)(ok)
    assert ask(handler, "OPTIONS", Origin=APP).text == "ok"
    assert ask(handler, "OPTIONS", Access_Control_Request_Method="GET").text == "ok"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"origins": "app.example"}, ValueError),
        ({"origins": "https://app.example/path"}, ValueError),
        ({"origins": "*", "credentials": True}, ValueError),
        ({"origins": APP, "methods": "GET"}, TypeError),
        ({"origins": APP, "max_age": -1}, ValueError),
    ],
)
def test_cors_that_makes_no_sense_is_refused_at_once(options, error):
    with pytest.raises(error):
        middleware.cors(**options)


# --- cross_origin_protection: the cases of Go's --------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "allowed"),
    [
        ("POST", {"Sec_Fetch_Site": "same-origin"}, True),
        ("POST", {"Sec_Fetch_Site": "none"}, True),
        ("POST", {"Sec_Fetch_Site": "cross-site"}, False),
        ("POST", {"Sec_Fetch_Site": "same-site"}, False),
        ("POST", {"Sec_Fetch_Site": "nonsense"}, False),
        ("POST", {}, True),
        ("POST", {"Origin": "https://example.com"}, True),
        ("POST", {"Origin": "https://attacker.example"}, False),
        ("POST", {"Origin": "null"}, False),
        ("POST", {"Origin": "http://[x"}, False),
        ("POST", {"Origin": "http://example.com]"}, False),
        ("POST", {"Origin": "https://example.com:8443"}, False),
        ("GET", {"Sec_Fetch_Site": "cross-site"}, True),
        ("HEAD", {"Origin": "https://attacker.example"}, True),
        ("OPTIONS", {"Sec_Fetch_Site": "cross-site"}, True),
        ("PUT", {"Sec_Fetch_Site": "cross-site"}, False),
        ("DELETE", {"Origin": "https://attacker.example"}, False),
        ("POST", {"Origin": "https://trusted.example", "Sec_Fetch_Site": "cross-site"}, True),
        ("POST", {"Origin": "https://trusted.example"}, True),
    ],
)
def test_cross_origin_protection(method, headers, allowed):
    handler = middleware.cross_origin_protection(["https://trusted.example"])(ok)
    w = ask(handler, method, "https://example.com/", **headers)
    assert w.response().status == (200 if allowed else 403)


def test_cross_origin_protection_bypassed_and_denied_by_the_program():
    handler = middleware.cross_origin_protection(
        bypass=lambda r: r.path == "/hook", deny=lambda w, r: 418
    )(ok)
    fields = {"Sec_Fetch_Site": "cross-site"}
    assert ask(handler, "POST", "/hook", **fields).text == "ok"
    assert ask(handler, "POST", "/other", **fields).status == 418


def test_cross_origin_protection_of_no_origin_is_refused_at_once():
    with pytest.raises(ValueError, match="no origin"):
        middleware.cross_origin_protection(["trusted.example"])
    with pytest.raises(TypeError, match="not a str"):
        middleware.cross_origin_protection("https://trusted.example")


# --- request_id -----------------------------------------------------------------------------------


def traced(w, r):
    return str(r.state["trace"])


def test_request_id_is_that_of_the_trace():
    w = ask(middleware.request_id()(traced), traceparent=f"00-{TRACE}-{PARENT}-01")
    assert w.response().headers.get("X-Request-Id") == TRACE
    match = re.fullmatch(rf"00-{TRACE}-([0-9a-f]{{16}})-01", w.text)
    assert match is not None and match[1] != PARENT


@pytest.mark.parametrize(
    ("sent", "valid"),
    [
        (f"00-{TRACE}-{PARENT}-00", True),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", True),
        (f"cc-{TRACE}-{PARENT}-01.what", False),
        (f"00-{TRACE}-{PARENT}-01-more", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        (f"00-{TRACE}-{PARENT}", False),
        (f"00-{TRACE[1:]}-{PARENT}-01", False),
        ("", False),
    ],
)
def test_request_id_of_a_trace_that_is_not_valid_is_new(sent, valid):
    """Cases of the test suite of W3C Trace Context."""
    w = ask(middleware.request_id()(traced), traceparent=sent)
    told = w.response().headers.get("X-Request-Id")
    assert (told == TRACE) is valid
    assert re.fullmatch("[0-9a-f]{32}", told)


def test_request_ids_differ_and_need_not_be_told_or_trusted():
    handler = middleware.request_id(header=None, trust=False)(traced)
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    seen = {ask(handler, **sent).text for _ in range(1000)}
    assert len(seen) == 1000 and not any(TRACE in text for text in seen)
    assert "X-Request-Id" not in ask(handler).response().headers


def test_request_id_heeds_what_a_handler_around_it_has_put_into_the_request():
    def around(w, r):
        r.headers.set("traceparent", f"00-{TRACE}-{PARENT}-01")
        return inner(w, r)

    inner = middleware.request_id()(traced)
    assert ask(around, traceparent="nonsense").text.startswith(f"00-{TRACE}-")


def test_request_ids_of_a_forked_child_are_not_its_parents():
    script = (
        "import os\n"
        "from runtime import httptest\n"
        "from runtime.http import middleware\n"
        "handler = middleware.request_id()(lambda w, r: str(r.state['trace']))\n"
        "def trace():\n"
        "    return httptest.record(handler, httptest.new_request('GET', '/')).text\n"
        "traces = [trace()]\n"
        "pid = os.fork()\n"
        "traces += [trace() for _ in range(3)]\n"
        "if pid: os.waitpid(pid, 0)\n"
        "print(*traces, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    traces = [line.split() for line in done.stdout.splitlines()]
    assert [len(line) for line in traces] == [4, 4]
    assert len({trace for line in traces for trace in line}) == 7  # one is from before


def test_trace_is_a_named_tuple():
    seen = []
    handler = middleware.request_id()(lambda w, r: seen.append(r.state["trace"]) or "ok")
    ask(handler, traceparent=f"00-{TRACE}-{PARENT}-01")
    (trace,) = seen
    assert isinstance(trace, middleware.TraceParent)
    assert trace == (TRACE, trace.parent_id, True) and hash(trace) == hash(tuple(trace))
    assert trace._replace(sampled=False).sampled is False


# --- basic_auth and api_key -----------------------------------------------------------------------


def user(w, r):
    return str(r.state["user"])


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize("check", [{"ann": "sécret"}, lambda u, p: (u, p) == ("ann", "sécret")])
def test_basic_auth(check):
    handler = middleware.basic_auth(check, realm="the vault")(user)
    assert ask(handler, Authorization=basic("ann", "sécret")).text == "ann"
    for wrong in (basic("ann", "secret"), basic("bob", "sécret"), basic("ann", ""), "Basic !", "x"):
        w = ask(handler, Authorization=wrong)
        assert w.status == 401
        challenge = w.response().headers.get("WWW-Authenticate")
        assert challenge == 'Basic realm="the vault", charset="UTF-8"'
    assert ask(handler).status == 401


def test_basic_auth_with_curl(serve, tool):
    server = serve(middleware.basic_auth({"ann": "secret"})(user))
    curl = ["-q", "-sS", "--noproxy", "*", "-o", "-", "-w", " %{http_code}", server.url]
    assert tool("curl", "-u", "ann:secret", *curl) == b"ann 200"
    assert tool("curl", "-u", "ann:wrong", *curl).endswith(b" 401")


@pytest.mark.parametrize("realm", ['a"b', "a\\b", "a\nb"])
def test_realm_that_cannot_be_quoted_is_refused(realm):
    with pytest.raises(ValueError, match="realm"):
        middleware.basic_auth({}, realm=realm)


@pytest.mark.parametrize(
    ("keys", "whose"),
    [({"k1": "shop"}, "shop"), (["k0", "k1"], "True"), ({"k1": "shop"}.get, "shop")],
)
def test_api_key_as_bearer(keys, whose):
    handler = middleware.api_key(keys)(user)
    assert ask(handler, Authorization="Bearer k1").text == whose
    assert ask(handler, Authorization="bearer  k1").text == whose
    for wrong in ("Bearer k2", "Bearer ", "k1", "Basic k1", "Bearer k1 k1"):
        w = ask(handler, Authorization=wrong)
        assert w.status == 401
        challenge = w.response().headers.get("WWW-Authenticate")
        assert challenge == 'Bearer realm="restricted"'


def test_api_key_of_a_realm():
    w = ask(middleware.api_key(["k1"], realm="the vault")(user))
    assert w.response().headers.get("WWW-Authenticate") == 'Bearer realm="the vault"'
    with pytest.raises(ValueError, match="realm"):
        middleware.api_key(["k1"], realm='a"b')


def test_api_key_in_a_header_of_its_own():
    handler = middleware.api_key(["k1"], header="X-Key")(user)
    challenge = ask(handler).response().headers.get("WWW-Authenticate")
    assert challenge == 'ApiKey realm="restricted", header="X-Key"'
    assert ask(handler, X_Key="k1").text == "True"
    assert ask(handler, X_Key="Bearer k1").status == 401
    assert ask(handler, Authorization="Bearer k1").status == 401


def test_api_keys_that_are_none_are_refused_at_once():
    with pytest.raises(TypeError, match="not a str"):
        middleware.api_key("k1")
    with pytest.raises(ValueError, match="empty"):
        middleware.api_key([""])


# --- real_address ---------------------------------------------------------------------------------


def address(w, r):
    return f"{r.remote_addr} {r.state.get('peer', '-')}"


def from_peer(handler, peer, *fields):
    r = httptest.new_request("GET", "/", headers=list(fields), remote_addr=peer)
    return httptest.record(handler, r).text


PROXIES = ["10.0.0.0/8", "2001:db8::/32", "unix"]


@pytest.mark.parametrize(
    ("peer", "sent", "real"),
    [
        ("10.0.0.1:99", "192.0.2.7", "192.0.2.7:0"),
        ("10.0.0.1:99", "192.0.2.7:8080", "192.0.2.7:8080"),
        ("10.0.0.1:99", "[2001:db9::1]:443", "[2001:db9::1]:443"),
        ("10.0.0.1:99", "2001:db9::1", "[2001:db9::1]:0"),
        ("[2001:db8::5]:99", "::ffff:192.0.2.7", "192.0.2.7:0"),
        ("@", "192.0.2.7", "192.0.2.7:0"),
        # What the client itself has sent stands before what the proxy has appended.
        ("10.0.0.1:99", "6.6.6.6, 192.0.2.7", "192.0.2.7:0"),
        ("10.0.0.1:99", "10.6.6.6, 192.0.2.7, 10.0.0.2", "192.0.2.7:0"),
        ("10.0.0.1:99", "garbage, 192.0.2.7", "192.0.2.7:0"),
        ("10.0.0.1:99", "6.6.6.6, " * 1000 + "192.0.2.7, 10.0.0.2", "192.0.2.7:0"),
        # All are proxies: the farthest.
        ("10.0.0.1:99", "10.0.0.3, 10.0.0.2", "10.0.0.3:0"),
        # Whoever is behind that one is not known.
        ("10.0.0.1:99", "6.6.6.6, unknown, 10.0.0.2", "10.0.0.2:0"),
        ("10.0.0.1:99", "unknown", None),
        ("10.0.0.1:99", "", None),
        ("10.0.0.1:99", "192.0.2.7,", None),
        ("10.0.0.1:99", "192.0.2.7:99999", "192.0.2.7:0"),
        ("10.0.0.1:99", "[2001:db9::1", None),
        # Not from a proxy.
        ("192.0.2.9:99", "6.6.6.6", None),
        ("[2001:db9::5]:99", "6.6.6.6", None),
    ],
)
def test_real_address_from_x_forwarded_for(peer, sent, real):
    handler = middleware.real_address(PROXIES)(address)
    for _ in range(2):  # the second time it is remembered
        got = from_peer(handler, peer, ("X-Forwarded-For", sent), ("Forwarded", "for=6.6.6.6"))
        assert got == (f"{real} {peer}" if real else f"{peer} -")


@pytest.mark.parametrize(
    ("sent", "real"),
    [
        ("for=192.0.2.7", "192.0.2.7:0"),
        ('For="192.0.2.7:80";proto=http;by=203.0.113.43', "192.0.2.7:80"),
        ('by="a,b;c";for="[2001:db9::1]:4711"', "[2001:db9::1]:4711"),
        ("for=6.6.6.6, for=192.0.2.7, for=10.0.0.2", "192.0.2.7:0"),
        ('for=6.6.6.6, for="\\1\\9\\2.0.2.7"', "192.0.2.7:0"),
        ("for=6.6.6.6, for=_hidden, for=10.0.0.2", "10.0.0.2:0"),
        ("for=6.6.6.6, proto=http", None),
        ("for=unknown", None),
        ('for="192.0.2.7', None),
        ("for=192.0.2.7 for=6.6.6.6", None),
        ("nonsense", None),
        ("for=192.0.2.7,", None),
        # What stands before what the proxies have appended, of clients that want to be one.
        ('for=", for=192.0.2.7', "192.0.2.7:0"),
        ('for=", for=192.0.2.7, for=10.0.0.2', "192.0.2.7:0"),
        ('for=";proto=http, for="192.0.2.7:80";proto=https', "192.0.2.7:80"),
        ('for="6.6.6.6, for=10.0.0.3, for="192.0.2.7:80";by="a,b"', "192.0.2.7:80"),
        ('for="a\\, for="192.0.2.7:80"', "192.0.2.7:80"),
        ('="6.6.6.6", for=192.0.2.7', "192.0.2.7:0"),
        (", for=192.0.2.7", "192.0.2.7:0"),
        (";, for=192.0.2.7;proto=http", "192.0.2.7:0"),
        ('for=10.0.0.3, for="x, for=10.0.0.2', "10.0.0.2:0"),
        ('by="say \\"for=6.6.6.6, for=\\"";for=192.0.2.7', "192.0.2.7:0"),
        ('for=192.0.2.7;by="\\\\"', "192.0.2.7:0"),
        ('for=192.0.2.7;by="\\"', None),
    ],
)
def test_real_address_from_forwarded(sent, real):
    """Values of RFC 7239 sections 4 to 7."""
    handler = middleware.real_address(PROXIES, header="Forwarded")(address)
    got = from_peer(handler, "10.0.0.1:99", ("Forwarded", sent), ("X-Forwarded-For", "6.6.6.6"))
    assert got == (f"{real} 10.0.0.1:99" if real else "10.0.0.1:99 -")


TOKENS = st.text(st.sampled_from("ab=1.:"), min_size=1, max_size=5)
QUOTED = st.text(st.sampled_from('ab=,; "\\'), max_size=8).map(
    lambda s: '"' + s.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
PARAMETERS = st.lists(st.tuples(st.sampled_from(["by", "host"]), TOKENS | QUOTED), max_size=3)


@given(st.text(st.sampled_from('for=6.,; "\\'), max_size=30), PARAMETERS, PARAMETERS)
@example('for="a\\', [], [("by", '"x,for=10.0.0.9"')])
def test_real_address_is_what_the_proxy_has_appended_whatever_the_client_sends(sent, before, after):
    pairs = [f"{n}={v}" for n, v in [*before, ("for", "192.0.2.7"), *after]]
    handler = middleware.real_address(PROXIES, header="Forwarded")(address)
    for field in (f"{sent}, {';'.join(pairs)}", f"{sent},{' ; '.join(pairs)} "):
        got = from_peer(handler, "10.0.0.1:99", ("Forwarded", field))
        assert got == "192.0.2.7:0 10.0.0.1:99"


def test_real_address_takes_all_lines_of_the_field_in_order():
    handler = middleware.real_address(PROXIES)(address)
    fields = [("X-Forwarded-For", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7")]
    assert from_peer(handler, "10.0.0.1:99", *fields).startswith("192.0.2.7:0 ")


def origin(w, r):
    return f"{r.scheme}://{r.host}"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"X-Forwarded-Proto": "https"}, "https://example.com"),
        ({"X-Forwarded-Proto": "HTTPS"}, "https://example.com"),
        ({"X-Forwarded-Proto": "wss"}, "https://example.com"),
        ({"X-Forwarded-Proto": "http"}, "http://example.com"),
        ({"X-Forwarded-Proto": "gopher"}, "http://example.com"),
        ({"X-Forwarded-Proto": ""}, "http://example.com"),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-For": "unknown"}, "https://example.com"),
        ({"X-Forwarded-Host": "a.example:8443"}, "http://a.example:8443"),
        ({"X-Forwarded-Host": "[2001:db8::1]:80"}, "http://[2001:db8::1]:80"),
        ({"X-Forwarded-Host": "a b"}, "http://example.com"),
        ({"X-Forwarded-Host": "a/b"}, "http://example.com"),
        ({"X-Forwarded-Host": "a@b"}, "http://example.com"),
        ({"X-Forwarded-Host": ""}, "http://example.com"),
        # Of one proxy that appends, the last counts; the others are the client's.
        ({"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "evil, a"}, "http://a"),
        # Of two, the last but one.
        (
            {
                "X-Forwarded-For": "6.6.6.6, 192.0.2.7, 10.0.0.2",
                "X-Forwarded-Proto": "http, https, http",
                "X-Forwarded-Host": "evil, a, b",
            },
            "https://a",
        ),
        # The inner one of two has passed it on.
        (
            {"X-Forwarded-For": "192.0.2.7, 10.0.0.2", "X-Forwarded-Proto": "https"},
            "https://example.com",
        ),
        ({"Forwarded": "for=192.0.2.7;proto=https;host=a"}, "http://example.com"),
    ],
)
def test_scheme_and_host_are_what_the_proxy_was_asked_for(fields, told):
    handler = middleware.real_address(PROXIES, host=True)(origin)
    assert from_peer(handler, "10.0.0.1:99", *fields.items()) == told
    assert from_peer(handler, "@", *fields.items()) == told
    assert from_peer(handler, "192.0.2.9:99", *fields.items()) == "http://example.com"


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("for=192.0.2.7;proto=https;host=a", "https://a"),
        ("proto=https;for=unknown", "https://example.com"),
        ('for=_x;host="[2001:db8::1]:80"', "http://[2001:db8::1]:80"),
        ("for=6.6.6.6;proto=https;host=evil, for=192.0.2.7", "http://example.com"),
        ("for=6.6.6.6;host=c, for=192.0.2.7;proto=https;host=a, for=10.0.0.2;host=b", "https://a"),
        ("for=192.0.2.7;proto=https, for=10.0.0.2;proto=http;host=b", "https://b"),
        ('for=192.0.2.7;host="a/b"', "http://example.com"),
        ("nonsense", "http://example.com"),
    ],
)
def test_scheme_and_host_from_forwarded(sent, told):
    handler = middleware.real_address(PROXIES, header="Forwarded", host=True)(origin)
    others = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil")]
    assert from_peer(handler, "10.0.0.1:99", ("Forwarded", sent), *others) == told
    assert from_peer(handler, "192.0.2.9:99", ("Forwarded", sent)) == "http://example.com"


def test_host_that_a_proxy_says_counts_only_if_that_was_asked_for():
    fields = [("X-Forwarded-Host", "a"), ("X-Forwarded-Proto", "https")]
    handler = middleware.real_address(PROXIES)(origin)
    assert from_peer(handler, "10.0.0.1:99", *fields) == "https://example.com"
    handler = middleware.real_address(PROXIES, header="Forwarded")(origin)
    assert from_peer(handler, "10.0.0.1:99", ("Forwarded", "for=a;host=b")) == "http://example.com"


def test_security_headers_behind_a_proxy_that_ends_tls_ask_for_https():
    secured = middleware.security_headers(hsts=300)(origin)
    handler = middleware.real_address(PROXIES)(secured)
    for peer, hsts in (("10.0.0.1:99", "max-age=300; includeSubDomains"), ("192.0.2.9:99", None)):
        r = httptest.new_request(
            "GET", "/", headers={"X-Forwarded-Proto": "https"}, remote_addr=peer
        )
        response = httptest.record(handler, r)
        assert response.headers.get("Strict-Transport-Security") == hsts


def test_real_address_heeds_what_a_handler_around_it_has_put_into_the_request():
    def around(w, r):
        r.headers.delete("X-Forwarded-For")
        return inner(w, r)

    inner = middleware.real_address(PROXIES)(address)
    assert from_peer(around, "10.0.0.1:99", ("X-Forwarded-For", "6.6.6.6")) == "10.0.0.1:99 -"


@pytest.mark.parametrize(
    ("args", "options", "error"),
    [
        ((["nowhere"],), {}, ValueError),
        ((["10.0.0.1/8"],), {}, ValueError),
        (("10.0.0.0/8",), {}, TypeError),
        ((), {"header": "X-Real-IP"}, ValueError),
    ],
)
def test_real_address_that_makes_no_sense_is_refused_at_once(args, options, error):
    with pytest.raises(error):
        middleware.real_address(*args, **options)


# --- access_log -----------------------------------------------------------------------------------


class Lines:
    """A file that tells of each write."""

    def __init__(self) -> None:
        self.written: runtime.Chan = runtime.Chan(1 << 12)

    def write(self, text):
        self.written.send(text)

    def flush(self):
        pass


def failing(w, r):
    match r.path:
        case "/teapot":
            raise http.HTTPError(418)
        case "/fails":
            raise ZeroDivisionError
        case "/json":
            return {"a": 1}
        case "/cut":
            w.write_header(203)
            w.write("cut")
            w.flush()
            raise ZeroDivisionError
        case "/status":
            return 404
    w.write("é")


def test_access_log_common(serve, caplog):
    file = Lines()
    log = middleware.access_log(file=file)
    server = serve(log(middleware.basic_auth({"ann": "x"})(failing)))
    fields = f"Authorization: {basic('ann', 'x')}\r\n"
    for path in ("/", "/json", "/status", "/teapot", "/fails", "/cut"):
        with server.connect() as c:
            head = f"GET {path}?q=1 HTTP/1.1\r\nHost: t\r\n{fields}Connection: close\r\n\r\n"
            c.send(head).rest()
    assert server.get("/denied").status == 401
    text = ""
    while text.count("\n") < 7:
        text += file.written.recv(timeout=60)
    found = []
    for line in text.splitlines():
        match = re.fullmatch(
            r"127\.0\.0\.1 - (\S+) \[(\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
            r'"(.*)" (\d+) (\S+)',
            line,
        )
        assert match, line
        found.append((match[1], match[3], match[4], match[5]))
    assert found == [
        ("ann", "GET /?q=1 HTTP/1.1", "200", "2"),
        ("ann", "GET /json?q=1 HTTP/1.1", "200", "7"),
        ("ann", "GET /status?q=1 HTTP/1.1", "404", "10"),
        ("ann", "GET /teapot?q=1 HTTP/1.1", "418", "-"),
        ("ann", "GET /fails?q=1 HTTP/1.1", "500", "-"),
        ("ann", "GET /cut?q=1 HTTP/1.1", "203", "3"),
        ("-", "GET /denied HTTP/1.1", "401", "13"),
    ]


def test_access_log_combined_and_json_escape_what_clients_send(serve):
    nasty = 'a"b\\c\x85\xff'
    seen = {}
    for format in ("combined", "json"):
        file = Lines()
        log = middleware.access_log(format, file=file)
        mux = http.ServeMux()
        mux.use(middleware.request_id(), log)
        mux.handle("GET /users/{id}", ok)
        with serve(mux).connect() as c:
            head = "GET /users/5%22 HTTP/1.1\r\nHost: t\r\nReferer: http://r/\r\n"
            c.send(head.encode() + b"User-Agent: " + nasty.encode("latin-1") + b"\r\n\r\n")
            assert c.response().body == b"ok"
        log.flush()
        seen[format] = file.written.recv(timeout=60)
    assert seen["combined"].count("\n") == 1 and seen["combined"].isascii()
    assert seen["combined"].endswith('"http://r/" "a\\"b\\\\c\\u0085\\u00ff"\n')
    entry = json.loads(seen["json"])
    assert entry["agent"] == nasty and entry["route"] == "GET /users/{id}"
    assert entry["target"] == "/users/5%22" and (entry["status"], entry["size"]) == (200, 2)
    assert 0 <= entry["duration"] < 60 and len(entry["trace"]) == 32 and entry["user"] == ""


def logged(log, handler, **options):
    """The line of one request."""
    file = Lines()
    middle = middleware.access_log(log, file=file)
    httptest.record(middle(handler), httptest.new_request("GET", "/", **options))
    middle.flush()
    return file.written.recv(timeout=60)


@given(st.text(max_size=40))
@example("\x00\x1f\b\t\n\f\r\x7f")
@example("\ud800 \U0001f600é")
@example("x" * 5000)
def test_access_log_tells_any_user_in_ascii(user):
    def handler(w, r):
        r.state["user"] = user

    line = logged("json", handler)
    assert line.isascii() and json.loads(line)["user"] == user
    assert json.dumps(user) in line
    words = logged("common", handler).split(" ")
    assert json.loads(f'"{words[2]}"') == (user or "-")


@pytest.mark.parametrize(
    ("addr", "client"),
    [
        ("192.0.2.7:80", "192.0.2.7"),
        ("[2001:db8::1]:80", "[2001:db8::1]"),
        ("@", "@"),
        (":9", ":9"),
    ],
)
def test_access_log_client_is_the_address_without_its_port(addr, client):
    assert json.loads(logged("json", ok, remote_addr=addr))["client"] == client
    assert logged("common", ok, remote_addr=addr).startswith(f"{client} - - [")


@pytest.mark.parametrize(
    ("addr", "client"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("unix", "@")]
)
def test_access_log_and_remote_addr_of_a_socket(serve, addr, client, tmp_path):
    file = Lines()
    log = middleware.access_log(file=file)
    path = f"unix:{tmp_path}/s" if addr == "unix" else addr
    server = serve(middleware.chain(address, middleware.request_id(), log), path)
    with server.connect() as c:
        port = "" if addr == "unix" else f":{c.sock.getsockname()[1]}"
        c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert c.response().body.decode() == f"{client}{port} -"
    log.flush()
    assert file.written.recv(timeout=60).startswith(f"{client} - - [")


def test_access_log_of_a_custom_trace_uses_its_id():
    def handler(w, r):
        r.state["trace"] = SimpleNamespace(trace_id="t-1")

    assert json.loads(logged("json", handler))["trace"] == "t-1"


@pytest.mark.parametrize("format", ["json", lambda e: json.dumps({**e.fields(), "time": e.at})])
def test_access_log_by_a_logger_has_fields(serve, caplog, format):
    caplog.set_level("INFO", "access")
    log = middleware.access_log(format, logger=logging.getLogger("access"))
    mux = http.ServeMux()
    mux.use(middleware.request_id(), log, middleware.basic_auth({"ann": "x"}))
    mux.handle("GET /{page}", failing)
    fields = f"Authorization: {basic('ann', 'x')}\r\nReferer: http://r/\r\nUser-Agent: a\r\n"
    before = time.time()
    with serve(mux).connect() as c:
        c.send(f"GET /status?q=1 HTTP/1.1\r\nHost: t\r\n{fields}\r\n")
        response = c.response()
    after = time.time()
    assert response.status == 404
    log.flush()
    (record,) = [r for r in caplog.records if r.name == "access"]
    found = {name: getattr(record, name) for name in middleware.AccessEntry.__slots__}
    assert before <= found["at"] <= after
    assert 0 <= found["duration"] <= after - before
    assert re.fullmatch("[0-9a-f]{32}", found["trace"])
    assert {k: v for k, v in found.items() if k not in ("at", "duration", "trace")} == {
        "agent": "a",
        "client": "127.0.0.1",
        "method": "GET",
        "proto": "HTTP/1.1",
        "referer": "http://r/",
        "route": "GET /{page}",
        "size": 10,
        "status": 404,
        "target": "/status?q=1",
        "user": "ann",
    }
    line = json.loads(record.getMessage())
    assert before - 1e-6 <= line.pop("time") <= after
    assert line.pop("duration") == pytest.approx(found["duration"], abs=1e-6)
    assert line == {name: found[name] for name in line} and line.keys() >= {"trace", "user"}


def test_access_log_by_a_logger_has_the_time_of_the_request(caplog):
    caplog.set_level("INFO", "access")
    log = middleware.access_log(logger=logging.getLogger("access"))
    httptest.record(log(ok), httptest.new_request("GET", "/"))
    after = time.time()
    while time.time() == after:  # the record is made later
        pass
    log.flush()
    (record,) = [r for r in caplog.records if r.name == "access"]
    assert record.created == record.at <= after
    assert record.msecs == int(record.at % 1 * 1000)
    start = record.created - record.relativeCreated / 1000
    other = logging.makeLogRecord({})
    assert start == pytest.approx(other.created - other.relativeCreated / 1000, abs=1e-3)


def test_access_log_by_a_logger_of_another_level_is_silent(caplog):
    caplog.set_level("WARNING", "access")
    log = middleware.access_log(logger=logging.getLogger("access"))
    httptest.record(log(ok), httptest.new_request("GET", "/"))
    log.flush()
    assert [r for r in caplog.records if r.name == "access"] == []


@pytest.fixture
def by_hand(monkeypatch):
    """What waits is written by flush() alone: nothing else does so before the test is over."""
    monkeypatch.setattr("runtime._http.middleware.accesslog._PAUSE", 10)


@pytest.mark.usefixtures("by_hand")
def test_access_log_by_a_logger_says_what_was_lost(monkeypatch, caplog):
    caplog.set_level("INFO", "access")
    monkeypatch.setattr("runtime._http.middleware.accesslog._MOST", 5)
    log = middleware.access_log(logger=logging.getLogger("access"))
    handler = log(ok)
    for _ in range(8):
        ask(handler)
    log.flush()
    *entries, lost = [r.getMessage() for r in caplog.records if r.name == "access"]
    assert len(entries) == 5 and lost == "access log: 3 lines were lost"


def test_access_log_of_a_hijacked_connection(serve):
    file = Lines()

    def take(w, r):
        w.headers["Upgrade"] = "x"
        w.headers["Connection"] = "Upgrade"
        w.write_header(101)
        conn, _ = w.hijack()
        conn.write(b"mine")
        conn.close()

    server = serve(middleware.access_log(file=file)(take))
    with server.connect() as c:
        c.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert c.rest().endswith(b"mine")
    assert '" 101 -\n' in file.written.recv(timeout=60)


@pytest.mark.usefixtures("by_hand")
def test_access_log_whose_file_takes_no_more_loses_lines_and_says_so(monkeypatch):
    monkeypatch.setattr("runtime._http.middleware.accesslog._MOST", 5)
    file = Lines()
    log = middleware.access_log(file=file)
    handler = log(ok)
    for _ in range(8):
        ask(handler)
    log.flush()
    text = file.written.recv(timeout=60)
    assert text.count("GET / HTTP/1.1") == 5
    assert "3 lines were lost" in text
    ask(handler)
    log.flush()
    assert file.written.recv(timeout=60).count("\n") == 1


def writers():
    return [g for g in runtime.goroutines() if g.name == "http.access_log"]


def test_access_log_whose_file_is_stuck_has_one_writer_and_later_writes_the_rest(monkeypatch):
    monkeypatch.setattr("runtime._http.middleware.accesslog._PAUSE", 0)
    go_on = threading.Event()

    class Stuck(Lines):
        def write(self, text):
            super().write(text)
            assert go_on.wait(60)

    file = Stuck()
    handler = middleware.access_log(file=file)(ok)
    others = {g.id for g in writers()}  # of earlier tests
    try:
        ask(handler, target="/first")
        assert "/first" in file.written.recv(timeout=60)
        for i in range(5):
            ask(handler, target=f"/{i}")
            assert len({g.id for g in writers()} - others) == 1
    finally:
        go_on.set()
    text = file.written.recv(timeout=60)
    assert [line.split()[6] for line in text.splitlines()] == [f"/{i}" for i in range(5)]


@pytest.mark.usefixtures("by_hand")
def test_access_log_counts_lines_as_lost_that_cannot_be_written():
    class Full(Lines):
        full = True

        def write(self, text):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write(text)

    file = Full()
    log = middleware.access_log(file=file)
    handler = log(ok)
    for asked in (3, 2):
        for _ in range(asked):
            ask(handler)
        with pytest.raises(OSError, match="No space"):
            log.flush()
    file.full = False
    ask(handler)
    log.flush()
    text = file.written.recv(timeout=60)
    assert text.count("GET / HTTP/1.1") == 1
    assert "5 lines were lost" in text


@pytest.mark.usefixtures("by_hand")
def test_access_log_counts_records_as_lost_that_a_logger_does_not_take(caplog):
    caplog.set_level("INFO", "access")
    logger = logging.getLogger("access")
    log = middleware.access_log(lambda e: e.target, logger=logger)
    handler = log(ok)
    for i in range(5):
        ask(handler, target=f"/{i}")

    def broken(record):
        if record.getMessage() == "/2":
            raise OSError("broken")
        return True

    logger.addFilter(broken)
    try:
        with pytest.raises(OSError, match="broken"):
            log.flush()
        log.flush()
    finally:
        logger.removeFilter(broken)
    told = [r.getMessage() for r in caplog.records if r.name == "access"]
    assert told == ["/0", "/1", "access log: 3 lines were lost"]


def test_access_log_of_a_handler_that_ends_itself_has_the_status_that_is_sent(serve):
    def exits(w, r):
        if r.path == "/chosen":
            w.write_header(203)
        w.write("x")
        runtime.goexit()

    file = Lines()
    log = middleware.access_log(lambda e: f"{e.target} {e.status} {e.size}", file=file)
    server = serve(log(exits))
    told = ""
    for target in ("/", "/chosen"):
        told += f"{target} {server.get(target).status} 1\n"
    assert told == "/ 200 1\n/chosen 203 1\n"
    written = ""
    while written.count("\n") < 2:
        log.flush()
        written += file.written.recv(timeout=60)
    assert written == told


def test_access_log_is_written_at_the_end_of_the_program():
    script = (
        "from runtime import httptest\n"
        "from runtime.http import middleware\n"
        "handler = middleware.access_log()(lambda w, r: 'ok')\n"
        "httptest.record(handler, httptest.new_request('GET', '/last'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert '"GET /last HTTP/1.1" 200 2' in done.stderr


@pytest.mark.parametrize(
    ("zone", "offset"), [("<-0330>3:30", "-0330"), ("<+0545>-5:45", "+0545"), ("UTC0", "+0000")]
)
def test_access_log_tells_the_local_time(zone, offset):
    script = (
        "from runtime import httptest\n"
        "from runtime.http import middleware\n"
        "handler = middleware.access_log()(lambda w, r: 'ok')\n"
        "httptest.record(handler, httptest.new_request('GET', '/'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    told = done.stderr[done.stderr.index("[") + 1 : done.stderr.index("]")]
    at = datetime.strptime(told, "%d/%b/%Y:%H:%M:%S %z")
    assert told.endswith(offset)
    assert abs((datetime.now(UTC) - at).total_seconds()) < 120


@pytest.mark.parametrize("make", [middleware.access_log(file=Lines()), middleware.request_id()])
def test_what_is_no_request_is_refused(make):
    with pytest.raises(TypeError, match=r"a Request is needed, not types.SimpleNamespace"):
        make(ok)(httptest.ResponseRecorder(), SimpleNamespace())


def test_access_log_that_makes_no_sense_is_refused_at_once():
    with pytest.raises(ValueError, match="there are common, combined, json"):
        middleware.access_log("fancy")
    with pytest.raises(TypeError, match="not both"):
        middleware.access_log(file=Lines(), logger=logging.getLogger())
