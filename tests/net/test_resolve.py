"""Looking up names."""

import contextlib
import importlib.util
import os
import socket
import struct
import sys
import threading
import time

import pytest

import runtime
from contexts import Context, Ended
from runtime import net
from runtime._net import resolve as module
from waits import Gate, until

pytestmark = pytest.mark.usefixtures("procs")

NEVER = 60.0


class Names:
    """Stands for getaddrinfo(); says how often it was asked."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.gate = None
        self.answer = [(socket.AF_INET, ("192.0.2.1", 0))]
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host, port, family=0, type=0):
        self.calls.append((host, family))
        answer = self.answer
        if self.gate is not None:
            self.gate()
        if isinstance(answer, Exception):
            raise answer
        return [(fam, type, 6, "", address) for fam, address in answer]


@pytest.fixture
def names(monkeypatch):
    return Names(monkeypatch)


def test_literal_addresses_are_not_looked_up(names):
    resolver = net.Resolver()
    for host in ("127.0.0.1", "::1", "fe80::1%lo", "fe80::1%1"):
        assert resolver.lookup_host(host) == [host]
    assert not names.calls


def test_zone_that_does_not_exist_is_an_error():
    with pytest.raises(net.AddrError, match="no such network interface"):
        net.Resolver().lookup_host("fe80::1%nothing")


def test_zones_of_answers_are_shown(names):
    names.answer = [(socket.AF_INET6, ("fe80::2", 0, 0, 1)), (socket.AF_INET6, ("::2", 0, 0, 0))]
    assert net.Resolver().lookup_host("a.name") == ["fe80::2%lo", "::2"]


def test_names_of_this_machine_are_found():
    assert "127.0.0.1" in net.Resolver().lookup_host("localhost")


def test_lookup_leaves_the_thread_to_other_goroutines(names):
    names.gate = Gate()
    g = runtime.go(net.Resolver().lookup_host, "a.name")
    until(names.gate.begun.is_set)
    names.gate.open()
    assert g.join(NEVER) == ["192.0.2.1"]


def test_answer_is_remembered_for_a_while(names, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    resolver = net.Resolver()
    for host in ("a.name", "A.Name", "a.name"):
        assert resolver.lookup_host(host) == ["192.0.2.1"]
    assert len(names.calls) == 1
    names.answer = [(socket.AF_INET, ("192.0.2.2", 0))]
    now[0] += 4.9
    assert resolver.lookup_host("a.name") == ["192.0.2.1"]
    now[0] += 0.2
    assert resolver.lookup_host("a.name") == ["192.0.2.2"]
    resolver.clear_cache()
    resolver.lookup_host("a.name")
    assert len(names.calls) == 3


def test_cache_can_be_turned_off(names):
    resolver = net.Resolver(cache_time=0)
    for _ in range(3):
        resolver.lookup_host("a.name")
    assert len(names.calls) == 3


def test_failures_are_not_remembered(names):
    resolver = net.Resolver()
    names.answer = socket.gaierror(socket.EAI_AGAIN, "Try again")
    with pytest.raises(socket.gaierror, match=r"Try again.*a\.name"):
        resolver.lookup_host("a.name")
    names.answer = [(socket.AF_INET, ("192.0.2.1", 0))]
    assert resolver.lookup_host("a.name") == ["192.0.2.1"]


def test_cache_is_bounded(names):
    resolver = net.Resolver()
    for i in range(1500):
        resolver.lookup_host(f"{i}.name")
    assert len(resolver._cache) == 1024
    resolver.lookup_host("1499.name")
    assert len(names.calls) == 1500
    resolver.lookup_host("0.name")
    assert len(names.calls) == 1501


def test_lookups_of_one_name_at_a_time_are_one(names):
    names.gate = Gate()
    resolver = net.Resolver(cache_time=0)
    lookups = [runtime.go(resolver.lookup_host, "a.name") for _ in range(10)]
    thread_found = []
    thread = threading.Thread(target=lambda: thread_found.append(resolver.lookup_host("a.name")))
    thread.start()
    until(lambda: all(g.wait_reason == "IO wait" for g in lookups))
    until(lambda: len(next(iter(resolver._flights.values())).waiters) == 11)
    names.gate.open()
    assert all(g.join(NEVER) == ["192.0.2.1"] for g in lookups)
    thread.join()
    assert thread_found == [["192.0.2.1"]]
    assert len(names.calls) == 1
    assert not resolver._flights


def test_each_waiter_gets_an_error_of_its_own(names):
    names.gate = Gate()
    names.answer = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    resolver = net.Resolver()
    lookups = [runtime.go(resolver.lookup_host, "a.name") for _ in range(3)]
    until(lambda: all(g.wait_reason == "IO wait" for g in lookups))
    names.gate.open()
    errors = []
    for g in lookups:
        with pytest.raises(socket.gaierror, match="not known") as e:
            g.join(NEVER)
        errors.append(e.value)
    assert len({id(e) for e in errors}) == 3
    assert {e.errno for e in errors} == {socket.EAI_NONAME}


def test_other_waiters_stay_when_one_gives_up(names):
    names.gate = Gate()
    resolver = net.Resolver()
    ctx = Context()
    cancelled = runtime.go(resolver.lookup_host, "a.name")
    ended = runtime.go(resolver.lookup_host, "a.name", ctx=ctx)
    stays = runtime.go(resolver.lookup_host, "a.name")
    until(lambda: all(g.wait_reason == "IO wait" for g in (cancelled, ended, stays)))
    with pytest.raises(TimeoutError, match=r"lookup a\.name: the time is up"):
        resolver.lookup_host("a.name", timeout=0.001)
    cancelled.cancel()
    ctx.end()
    with pytest.raises(runtime.Cancelled):
        cancelled.join(NEVER)
    with pytest.raises(Ended):
        ended.join(NEVER)
    names.gate.open()
    assert stays.join(NEVER) == ["192.0.2.1"]
    assert len(names.calls) == 1


def test_context_that_has_ended_looks_up_nothing(names):
    ctx = Context()
    ctx.end()
    with pytest.raises(Ended):
        net.Resolver().lookup_host("a.name", ctx=ctx)
    assert not names.calls


def test_too_many_lookups_wait_their_turn_and_those_nobody_wants_are_dropped(names, monkeypatch):
    monkeypatch.setattr(module, "_MAX_LOOKUPS", 2)
    names.gate = Gate()
    resolver = net.Resolver()
    lookups = [runtime.go(resolver.lookup_host, f"{i}.name") for i in range(6)]
    until(lambda: len(names.calls) == 2 and len(resolver._flights) == 6)
    running = {name for name, _ in names.calls}
    unwanted, wanted = [], []
    for i, g in enumerate(lookups):
        (wanted if f"{i}.name" in running or i % 2 else unwanted).append(g)
    for g in unwanted:
        g.cancel()
        with pytest.raises(runtime.Cancelled):
            g.join(NEVER)
    names.gate.open()
    for g in wanted:
        assert g.join(NEVER) == ["192.0.2.1"]
    until(lambda: not resolver._flights)
    assert len(names.calls) == len(wanted)


def test_lookups_that_come_and_go_lose_no_waiter(names):
    resolver = net.Resolver(cache_time=0)

    def look_up(i):
        found = 0
        for n in range(100):
            try:
                assert resolver.lookup_host(f"{n % 3}.name", timeout=[NEVER, 0][(i + n) % 2])
                found += 1
            except TimeoutError:
                pass
        return found

    lookups = [runtime.go(look_up, i) for i in range(8)]
    assert all(g.join(NEVER) >= 50 for g in lookups)
    until(lambda: not resolver._flights)


def test_another_default_resolver_is_used_by_dial(names):
    class Fixed(net.Resolver):
        def _find(self, host, family, timeout, ctx):
            return [module._Address(socket.AF_INET, "127.0.0.1")]

    before = net.set_default_resolver(Fixed())
    try:
        assert isinstance(net.default_resolver(), Fixed)
        with net.listen("tcp", "127.0.0.1:0") as listener:
            net.dial("tcp", f"a.name:{listener.addr.port}").close()
            listener.accept().close()
    finally:
        net.set_default_resolver(before)
    assert not names.calls
    with pytest.raises(TypeError, match="a Resolver is needed, not str"):
        net.set_default_resolver("cares")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"backend": "windows"}, "not 'windows'"),
        ({"servers": ["127.0.0.1"]}, 'the kind "cares"'),
        ({"cache_time": -1}, "0 or more"),
        ({"cache_time": float("nan")}, "0 or more"),
    ],
)
def test_senseless_resolvers_are_refused(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        net.Resolver(**arguments)


# ---- c-ares ----

# Without a GIL there may be none to install.
HAS_CARES = importlib.util.find_spec("pycares") is not None
needs_cares = pytest.mark.skipif(
    not HAS_CARES and not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="pycares has no build for this Python",
)


@contextlib.contextmanager
def name_server(records, ttl):
    """A name server that answers from records, name to address, and notes who was asked for."""
    asked = []

    def serve():
        while True:
            query, client = s.recvfrom(2000)
            if query == b"end":
                return
            name, at = [], 12
            while query[at]:
                name.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            kind = struct.unpack_from("!H", query, at + 1)[0]
            host = ".".join(name)
            asked.append((host, kind))
            known = host in records
            address = records.get(host) if kind == 1 else None
            flags = 0x8180 if known else 0x8183
            head = query[:2] + struct.pack("!HHHHH", flags, 1, int(address is not None), 0, 0)
            answer = b""
            if address is not None:
                answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, ttl, 4)
                answer += socket.inet_aton(address)
            s.sendto(head + query[12 : at + 5] + answer, client)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{s.getsockname()[1]}", asked
        finally:
            s.sendto(b"end", s.getsockname())
            thread.join()


@pytest.fixture
def cares():
    """Makes resolvers, and closes what they have open."""
    resolvers = []
    before = len(os.listdir("/dev/fd"))

    def make(server, **options):
        resolvers.append(net.Resolver("cares", servers=[server], **options))
        return resolvers[-1]

    yield make
    for resolver in resolvers:
        resolver._backend._channel.close()  # by a thread, soon
    until(lambda: len(os.listdir("/dev/fd")) <= before)


@needs_cares
@pytest.mark.parametrize("procs", [1, 4], indirect=True)
def test_cares_answers_are_remembered_for_their_ttl(cares, monkeypatch):
    with name_server({"a.example": "192.0.2.7"}, ttl=30) as (server, asked):
        resolver = cares(server)
        found = [runtime.go(resolver.lookup_host, "a.example", timeout=NEVER) for _ in range(5)]
        assert all(g.join(NEVER) == ["192.0.2.7"] for g in found)
        assert asked.count(("a.example", 1)) == 1
        expires, _ = resolver._cache["a.example", 0]
        assert 0 < expires - time.monotonic() <= 30
    with name_server({"a.example": "192.0.2.7"}, ttl=0) as (server, asked):
        resolver = cares(server)
        for _ in range(2):
            assert resolver.lookup_host("a.example", timeout=NEVER) == ["192.0.2.7"]
        assert asked.count(("a.example", 1)) == 2


@needs_cares
@pytest.mark.parametrize("procs", [1, 4], indirect=True)
def test_cares_names_what_it_does_not_find(cares):
    with name_server({}, ttl=30) as (server, _):
        with pytest.raises(socket.gaierror, match=r"b\.example") as e:
            cares(server).lookup_host("b.example", timeout=NEVER)
        assert e.value.errno == socket.EAI_NONAME
        with pytest.raises(OSError, match="Misformatted domain name"):
            cares(server).lookup_host("a" * 64 + ".example", timeout=NEVER)


@needs_cares
@pytest.mark.parametrize("procs", [1, 4], indirect=True)
def test_cares_lookup_can_be_given_up(cares):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        resolver = cares(f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TimeoutError, match=r"lookup a\.example"):
            resolver.lookup_host("a.example", timeout=0.01)
        g = runtime.go(resolver.lookup_host, "a.example")
        until(lambda: g.wait_reason == "IO wait")
        g.cancel()
        with pytest.raises(runtime.Cancelled):
            g.join(NEVER)


@needs_cares
def test_cares_knows_this_machine(cares):
    assert "127.0.0.1" in cares("127.0.0.1:1").lookup_host("localhost", timeout=NEVER)
