"""http.middleware.rate_limit: how often each client may ask."""

from __future__ import annotations

import socket
import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from runtime import atomic, http, httptest, testing
from runtime.http import middleware

client_address, rate_limit = middleware.client_address, middleware.rate_limit
POLICY, LEFT, RETRY = "RateLimit-Policy", "RateLimit", "Retry-After"


def ok(w, r):
    return "ok"


def ask(handler, target="/", addr="192.0.2.1:1234", **headers):
    """The response of a handler that is called directly."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    r = httptest.new_request("GET", target, headers=fields, remote_addr=addr)
    return httptest.record(handler, r)


def statuses(handler, n, **options):
    return [ask(handler, **options).status for _ in range(n)]


# --- what a client sees ---------------------------------------------------------------------------


def test_client_that_asks_too_often_is_refused_and_told_when_to_come_back(serve):
    served = serve(rate_limit("3/day")(ok))
    with served.connect() as c:
        for left in (2, 1, 0):
            response = c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response()
            assert (response.status, response.body) == (200, b"ok")
            assert response[POLICY] == '"default";q=3;w=86400'
            assert response[LEFT].startswith(f'"default";r={left};t=')
            assert response.all(RETRY) == []
        response = c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").response()
    assert (response.status, response.body) == (429, b"too many requests\n")
    assert response["content-type"] == "text/plain; charset=utf-8"
    assert response[POLICY] == '"default";q=3;w=86400'
    assert 28000 < int(response[RETRY]) <= 28800
    assert response[LEFT] == f'"default";r=0;t={response[RETRY]}'
    assert served.get().status == 429  # on another connection, from another port


@testing.bubble()
def test_fields_tell_when_all_is_there_again_or_the_next_one():
    handler = rate_limit("3/minute")(ok)
    for value in ("r=2;t=20", "r=1;t=40", "r=0;t=20"):
        assert ask(handler).headers[LEFT] == f'"default";{value}'
    runtime.sleep(0.5)
    refused = ask(handler)
    assert (refused.status, refused.headers[RETRY]) == (429, "20")
    runtime.sleep(19)
    refused = ask(handler)
    assert (refused.headers[RETRY], refused.headers[LEFT]) == ("1", '"default";r=0;t=1')


@pytest.mark.parametrize("rate", ["7/minute", "1/second", "1000/3 hours", "3/day"])
@testing.bubble()
def test_request_after_the_time_that_was_told_is_served(rate):
    handler = rate_limit(rate, burst=2)(ok)
    assert statuses(handler, 3) == [200, 200, 429]
    for _ in range(20):
        refused = ask(handler)
        assert refused.status == 429
        runtime.sleep(int(refused.headers[RETRY]))
        assert ask(handler).status == 200
        while ask(handler).status == 200:
            pass


@testing.bubble()
def test_burst_comes_at_once_and_the_rest_evenly():
    handler = rate_limit("60/minute", burst=5)(ok)
    assert statuses(handler, 7) == [200] * 5 + [429] * 2
    runtime.sleep(2)
    assert statuses(handler, 3) == [200, 200, 429]
    runtime.sleep(3600)
    assert statuses(handler, 7) == [200] * 5 + [429] * 2


def test_fields_can_be_left_out_and_refused_requests_answered_otherwise():
    def slow_down(w, r):
        w.headers.set("X-Refused", "yes")
        return 420

    handler = rate_limit("1/day", headers=False, deny=slow_down)(ok)
    first, second = ask(handler), ask(handler)
    assert first.status == 200 and POLICY not in first.headers and LEFT not in first.headers
    assert second.status == 420 and second.headers["X-Refused"] == "yes"
    assert LEFT not in second.headers and int(second.headers[RETRY]) > 80000


@testing.bubble()
def test_two_limits_both_hold_and_both_are_told():
    wide, narrow = rate_limit("100/hour", name="hour"), rate_limit("2/second", name="second")
    handler = middleware.chain(ok, wide, narrow)
    response = ask(handler)
    assert response.headers.get_all(POLICY) == ['"hour";q=100;w=3600', '"second";q=2;w=1']
    assert response.headers.get_all(LEFT) == ['"hour";r=99;t=36', '"second";r=1;t=1']
    assert statuses(handler, 2) == [200, 429]
    seen = 3
    while (response := ask(handler)).status == 200 or response.headers[RETRY] == "1":
        runtime.sleep(1)
        seen += 1
    assert 100 <= seen <= 104
    assert 1 < int(response.headers[RETRY]) <= 36


# --- who is counted -------------------------------------------------------------------------------


def test_clients_do_not_use_up_each_others():
    handler = rate_limit("2/day")(ok)
    for i in range(300):
        assert statuses(handler, 3, addr=f"10.0.{i // 200}.{i % 200}:80") == [200, 200, 429]


@pytest.mark.parametrize(
    ("addr", "key", "same", "other"),
    [
        ("192.0.2.1:1", "192.0.2.1", "192.0.2.1:65535", "192.0.2.2:1"),
        ("192.0.2.1:1", "192.0.2.1", "[::ffff:192.0.2.1]:7", "[::ffff:192.0.2.2]:7"),
        ("192.0.2.1", "192.0.2.1", "192.0.2.1:5", "192.0.2.3"),
        ("[2001:db8::1]:1", "2001:db8::/64", "[2001:db8::ffff:2]:9", "[2001:db8:0:1::1]:1"),
        ("[fe80::1%eth0]:1", "fe80::/64", "[fe80::2]", "[fe81::1%eth0]:1"),
        ("2001:db8::1", "2001:db8::/64", "[2001:db8::3]:1", "2001:db9::1"),
        ("@", "@", "@", "unknown"),
        ("unknown:1", "unknown:1", "unknown:1", "unknown:2"),
        ("[", "[", "[", "[]"),
        ("", "", "", ":"),
    ],
)
def test_client_is_its_address_without_port_of_ipv6_the_network(addr, key, same, other):
    handler = rate_limit("1/day")(ok)
    assert [ask(handler, addr=a).status for a in (addr, same, other)] == [200, 429, 200]
    assert client_address(httptest.new_request("GET", "/", remote_addr=addr)) == key


def test_ipv6_prefix_says_how_much_is_one_client():
    addresses = ("[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", "[2001:db8:1:2::2]:1")
    for prefix, expected in ((48, [200, 429, 429]), (64, [200, 200, 429]), (128, [200] * 3)):
        handler = rate_limit("1/day", ipv6_prefix=prefix)(ok)
        assert [ask(handler, addr=a).status for a in addresses] == expected
    r = httptest.new_request("GET", "/", remote_addr=addresses[0])
    found = [client_address(r, prefix) for prefix in (1, 31, 48, 63, 128)]
    assert found == ["::/1", "2001:db8::/31", "2001:db8:1::/48", "2001:db8:1:2::/63",
                     "2001:db8:1:2::1"]  # fmt: skip
    with pytest.raises(ValueError, match="1 to 128 bits, not 0"):
        client_address(r, 0)


@pytest.mark.parametrize("transport", ["socket", "stream"])
def test_client_of_a_connection_over_ipv6_and_the_same_over_ipv4(serve, transport):
    limited = rate_limit("2/day")(lambda w, r: client_address(r))
    served = serve(limited, ":0")
    port = served.where[1]

    def get(host):
        with socket.create_connection((host, port), 60) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return s.makefile("rb").read()

    assert get("127.0.0.1").endswith(b"\r\n\r\n127.0.0.1")
    assert get("::1").endswith(b"\r\n\r\n::/64")
    assert [get("127.0.0.1")[9:12] for _ in range(2)] == [b"200", b"429"]
    assert [get("::1")[9:12] for _ in range(2)] == [b"200", b"429"]


def test_clients_of_a_unix_socket_are_one(serve, tmp_path):
    served = serve(rate_limit("2/day")(ok), f"unix:{tmp_path}/s")
    assert [served.get().status for _ in range(3)] == [200, 200, 429]


def test_clients_behind_a_trusted_proxy_are_told_apart(serve):
    real = middleware.real_address(["loopback"])
    served = serve(middleware.chain(ok, real, rate_limit("1/day")))
    forwarded = [served.get("/", f"X-Forwarded-For: {a}\r\n") for a in ("1.2.3.4", "1.2.3.5")]
    assert [r.status for r in forwarded] == [200, 200]
    assert served.get("/", "X-Forwarded-For: 1.2.3.4\r\n").status == 429
    # Without the proxy the connection's own address counts, whatever the field says.
    bare = serve(rate_limit("1/day")(ok))
    assert bare.get("/", "X-Forwarded-For: 1.2.3.4\r\n").status == 200
    assert bare.get("/", "X-Forwarded-For: 1.2.3.5\r\n").status == 429


def test_key_function_says_who_is_counted_and_who_is_not():
    keys = {"a": "ann", "b": b"bob", "c": None, "d": "dörte \U0001f600", "e": "\udcff"}
    handler = rate_limit("1/day", key=lambda r: keys[r.headers.get("Who")])(ok)
    for who in keys:
        expected = [200, 200] if who == "c" else [200, 429]
        assert statuses(handler, 2, Who=who) == expected
    assert LEFT not in ask(handler, Who="c").headers


def test_key_of_another_type_is_an_error_not_a_limit(serve, caplog):
    served = serve(rate_limit("1/day", key=lambda r: 5)(ok))
    assert served.get().status == 500
    assert "a key to limit by is str or bytes (or None for no limit), not int" in caplog.text


def test_key_may_name_the_route_and_routes_may_have_their_own_limit():
    mux = http.ServeMux()
    each = rate_limit("2/day", key=lambda r: f"{r.pattern} {client_address(r)}")
    mux.use(each)
    mux.handle("/a/{x}", ok)
    mux.handle("/b", ok, use=[rate_limit("1/day", name="b")])
    assert [ask(mux, f"/a/{x}").status for x in (1, 2, 3)] == [200, 200, 429]
    assert [ask(mux, "/b").status for _ in range(2)] == [200, 429]
    assert ask(mux, "/nowhere").status == 404


def test_routes_with_one_limit_share_it_and_limits_are_apart():
    shared = rate_limit("2/day")
    a, b, c = shared(ok), shared(ok), rate_limit("2/day")(ok)
    assert [ask(h).status for h in (a, b, a, b)] == [200, 200, 429, 429]
    assert ask(c).status == 200


# --- exact ----------------------------------------------------------------------------------------


class Model:
    """GCRA in exact numbers of seconds, with no bound on keys."""

    def __init__(self, count, period, burst):
        self.interval = Fraction(period, count)
        self.span = burst * self.interval
        self.paid_off = {}

    def excess(self, key, now):
        """By how much a request comes too early; it may if that is not above 0."""
        return max(self.paid_off.get(key, now), now) + self.interval - now - self.span

    def take(self, key, now):
        self.paid_off[key] = max(self.paid_off.get(key, now), now) + self.interval


@settings(max_examples=60)
@given(
    count=st.integers(1, 50),
    period=st.sampled_from([1, 2, 60]),
    burst=st.one_of(st.none(), st.integers(1, 60)),
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 0, 1, 7, 500, 2500])), max_size=120
    ),
)
def test_limit_is_that_of_a_model(count, period, burst, steps):
    """Milliseconds pass between requests of four clients."""

    @testing.bubble()
    def run():
        handler = rate_limit(f"{count}/{period} seconds", burst=burst)(ok)
        model = Model(count, period, burst or count)
        now = Fraction(0)
        for who, ms in steps:
            if ms:
                runtime.sleep(ms / 1000)
                now += Fraction(ms, 1000)
            excess = model.excess(who, now)
            passed = ask(handler, addr=f"10.0.0.{who}:1").status == 200
            # The clock and the interval are whole nanoseconds.
            assert passed == (excess <= 0) or abs(excess) < Fraction(1, 1_000_000)
            if passed:
                model.take(who, now)

    run()


@settings(max_examples=25)
@given(st.data())
def test_no_client_gets_more_than_its_limit_when_there_are_too_many(data):
    """Sixteen places for a hundred clients."""
    seed = data.draw(st.randoms(use_true_random=False))

    @testing.bubble()
    def run():
        handler = rate_limit("10/second", burst=4, max_keys=8)(ok)
        passed: dict[int, list[float]] = {}
        now = 0.0
        for _ in range(600):
            who = seed.choice((0, 1, 2, seed.randrange(100)))
            if ask(handler, addr=f"10.0.0.{who}:1").status == 200:
                passed.setdefault(who, []).append(now)
            ms = seed.choice((0, 0, 5, 30))
            if ms:
                runtime.sleep(ms / 1000)
                now += ms / 1000
        assert passed
        for times in passed.values():
            for i, start in enumerate(times):
                for j in range(i, len(times)):
                    assert j - i + 1 <= 4 + (times[j] - start) * 10 + 1e-6

    run()


def test_goroutines_on_several_ps_get_exactly_the_limit(procs):
    handler = rate_limit("1000/day", max_keys=1 << 16)(ok)
    passed, others = atomic.Int64(), atomic.Int64()

    def client(i):
        for n in range(400):
            if ask(handler).status == 200:
                passed.add()
            if n % 4 == 0 and ask(handler, addr=f"10.{i}.0.{n % 20}:1").status == 200:
                others.add()

    with runtime.Group() as group:
        for i in range(8):
            group.go(client, i)
    assert passed.load() == 1000
    assert others.load() == 8 * 100


def test_clients_of_a_server_together_get_exactly_the_limit(serve, procs):
    passed = atomic.Int64()
    served = serve(rate_limit("500/day")(lambda w, r: str(passed.add())))

    def client():
        with served.connect() as c:
            c.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 100)
            found.extend(c.response().status for _ in range(100))

    found: list[int] = []
    threads = [threading.Thread(target=client) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert passed.load() == found.count(200) == 500
    assert found.count(429) == 300


def test_flood_of_clients_resets_nobody(procs):
    handler = rate_limit("3/day", max_keys=4000)(ok)
    assert statuses(handler, 4) == [200, 200, 200, 429]

    def flood(network):
        r = httptest.new_request("GET", "/")
        for i in range(10_000):
            r.remote_addr = f"10.{network}.{i >> 8}.{i & 255}:1"
            handler(httptest.ResponseRecorder(), r)

    with runtime.Group() as group:
        for network in range(4):
            group.go(flood, network)
    assert ask(handler).status == 429


def test_clock_of_a_bubble_is_its_own():
    """A limit that a program has made before its tests begin."""
    handler = rate_limit("1/minute")(ok)
    assert statuses(handler, 2) == [200, 429]

    @testing.bubble()
    def in_bubble():
        runtime.sleep(1000)
        assert statuses(handler, 2) == [200, 429]
        runtime.sleep(60)
        assert statuses(handler, 2) == [200, 429]

    for _ in range(2):
        in_bubble()
    assert statuses(handler, 2) == [200, 429]


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "policy"),
    [
        ("100/minute", "q=100;w=60"),
        (" 100 / minute ", "q=100;w=60"),
        ("5 per 10 seconds", "q=5;w=10"),
        ("5/10s", "q=5;w=10"),
        ("1/2 Days", "q=1;w=172800"),
        ("3/h", "q=3;w=3600"),
        ("1000000/sec", "q=1000000;w=1"),
        ("1/366 days", "q=1;w=31622400"),
    ],
)
def test_rates_as_they_are_written(rate, policy):
    assert ask(rate_limit(rate)(ok)).headers[POLICY] == f'"default";{policy}'


@pytest.mark.parametrize(
    "rate",
    ["", "100", "100/", "/minute", "-1/minute", "1.5/s", "100/fortnight", "ten/minute", "1/m/2",
     "0/minute", "5/0 seconds", "1000001/second", "1/367 days", "1/" + "9" * 40 + "s"],
)  # fmt: skip
def test_rate_that_is_none_raises(rate):
    with pytest.raises(ValueError, match="rate_limit"):
        rate_limit(rate)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "burst", {"burst": 0}),
        (ValueError, "burst", {"burst": 2.5}),
        (ValueError, "burst", {"burst": True}),
        (ValueError, "70 years", {"burst": 1 << 40}),
        (TypeError, "key is a function", {"key": "user"}),
        (ValueError, "name", {"name": 'a"b'}),
        (ValueError, "name", {"name": ""}),
        (ValueError, "name", {"name": "é"}),
        (ValueError, "max_keys", {"max_keys": 0}),
        (ValueError, "ipv6_prefix", {"ipv6_prefix": 129}),
        (TypeError, "deny", {"deny": 5}),
    ],
)
def test_argument_that_is_out_of_range_raises(error, match, options):
    with pytest.raises(error, match=match):
        rate_limit("5/minute", **options)


def test_handler_must_be_one():
    with pytest.raises(TypeError, match=r"rate_limit\(\): a handler is needed, not str"):
        rate_limit("5/minute")("no")
