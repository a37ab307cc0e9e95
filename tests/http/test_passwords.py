"""http.middleware.hashed and hash_password: passwords that are stored as hashes."""

from __future__ import annotations

import base64
import hashlib
import threading

import pytest

import runtime
from runtime import http, httptest, sync
from runtime.http import middleware

SAFETY = 60


def pbkdf2(password, rounds=10, salt=b"salt", digest="sha256"):
    """As passlib has it."""
    made = hashlib.pbkdf2_hmac(digest, password.encode(), salt, rounds)
    texts = [base64.b64encode(x).decode().rstrip("=").replace("+", ".") for x in (salt, made)]
    return f"$pbkdf2-{digest}${rounds}${texts[0]}${texts[1]}"


def ask(check, user, password):
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    r = httptest.new_request("GET", "/", headers={"Authorization": f"Basic {pair}"})
    return httptest.record(middleware.basic_auth(check)(lambda w, r: r.state["user"]), r)


@pytest.fixture
def computed(monkeypatch):
    """The passwords whose hashes were computed by pbkdf2."""
    seen: list[bytes] = []
    real = hashlib.pbkdf2_hmac

    def computing(name, password, *args):
        seen.append(password)
        return real(name, password, *args)

    monkeypatch.setattr("hashlib.pbkdf2_hmac", computing)
    return seen


def test_hash_of_a_password_verifies_it_alone():
    stored = middleware.hash_password("sécret")
    assert stored.startswith("$scrypt$ln=14,r=8,p=1$")
    assert stored != middleware.hash_password("sécret")
    users = middleware.hashed({"ann": stored})
    assert ask(users, "ann", "sécret").text == "ann"
    for user, password in (("ann", "secret"), ("ann", ""), ("bob", "sécret"), ("", "")):
        w = ask(users, user, password)
        assert w.status == 401
        assert w.response().headers.get("WWW-Authenticate").startswith("Basic realm=")


def plain64(text):
    return base64.b64encode(bytes.fromhex(text)).decode().rstrip("=")


@pytest.mark.parametrize(
    ("stored", "password"),
    [
        # RFC 7914 section 12.
        (
            f"$scrypt$ln=10,r=8,p=16${base64.b64encode(b'NaCl').decode().rstrip('=')}$"
            + plain64(
                "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
                "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
            ),
            "password",
        ),
        # RFC 7914 section 11.
        (
            "pbkdf2_sha256$80000$NaCl$"
            + plain64(
                "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"
                "a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d"
            ),
            "Password",
        ),
        # passlib's documentation.
        (
            "$pbkdf2-sha256$6400$.6UI/S.nXIk8jcbdHx3Fhg$"
            "98jZicV16ODfEsEZeYPGHU3kbrUrvUEXOPimVSQDD44",
            "password",
        ),
        (pbkdf2("sécret", 30, b"\xff" * 16, "sha512"), "sécret"),
    ],
)
def test_hashes_of_others_verify(stored, password):
    users = middleware.hashed({"ann": stored})
    assert ask(users, "ann", "wrong").status == 401
    assert ask(users, "ann", password).text == "ann"


def test_hash_of_bcrypt_verifies():
    bcrypt = pytest.importorskip("bcrypt")
    users = middleware.hashed({"ann": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()})
    assert ask(users, "ann", "secret").text == "ann"
    for wrong in ("wrong", "x" * 100, "secret\0", ""):
        assert ask(users, "ann", wrong).status == 401


@pytest.mark.parametrize(
    "stored",
    [
        "secret",
        "",
        "$scrypt$ln=14,r=8$c2FsdA$c2FsdA",
        "$scrypt$ln=22,r=8,p=1$c2FsdA$c2FsdA",
        "$scrypt$ln=0,r=8,p=1$c2FsdA$c2FsdA",
        "$scrypt$ln=14,r=8,p=1$c$c2FsdA",
        "$pbkdf2-sha256$0$c2FsdA$c2FsdA",
        "$pbkdf2-md5$9$c2FsdA$c2FsdA",
        "$1$abc$xyz",
        pbkdf2("x") + "\n",
    ],
)
def test_hash_that_cannot_be_used_is_refused_at_once_and_not_shown(stored):
    with pytest.raises(ValueError, match="hash of 'ann' cannot be used") as e:
        middleware.hashed({"ann": stored})
    assert not stored or stored not in str(e.value)
    with pytest.raises(ValueError, match="no colon"):
        middleware.hashed({"a:b": pbkdf2("x")})


def test_right_password_is_computed_once_and_again_when_it_has_changed(computed):
    store = {"ann": pbkdf2("one"), "bob": pbkdf2("one")}
    users = middleware.hashed(store.get, decoy=pbkdf2("x"))
    del computed[:]
    for _ in range(3):
        assert ask(users, "ann", "one").text == "ann"
    assert computed == [b"one"]
    assert ask(users, "bob", "one").text == "bob"
    assert len(computed) == 2
    store["ann"] = pbkdf2("two")
    del computed[:]
    assert ask(users, "ann", "one").status == 401
    assert ask(users, "ann", "two").text == "ann"
    assert computed == [b"one", b"two"]
    del store["ann"]
    assert ask(users, "ann", "two").status == 401


def test_unknown_user_costs_what_a_wrong_password_does(computed):
    users = middleware.hashed({"ann": pbkdf2("one", rounds=1234)})
    del computed[:]
    for _ in range(2):
        assert ask(users, "ann", "guess").status == 401
        assert ask(users, "nobody", "guess").status == 401
        assert ask(users, "nobody", "one").status == 401  # right for the decoy
    assert computed == [b"guess", b"guess", b"one"] * 2


def test_removed_user_is_forgotten_at_once_also_where_the_decoy_is_his_hash(computed):
    store = {"ann": pbkdf2("one", rounds=200_000)}
    users = middleware.hashed(store.get, decoy=store["ann"])
    assert ask(users, "ann", "one").text == "ann"
    stored = store.pop("ann")
    assert ask(users, "ann", "one").status == 401
    store["ann"] = stored
    assert ask(users, "ann", "one").text == "ann"
    # Nor does he get the answer of one who has asked before.
    users = middleware.hashed(store.get, decoy=stored)
    del computed[:]
    before = runtime.go(ask, users, "ann", "one")
    while not computed:
        runtime.gosched()
    del store["ann"]
    assert ask(users, "ann", "one").status == 401
    assert before.join(timeout=SAFETY).text == "ann"


def test_other_goroutines_run_while_a_password_is_verified(monkeypatch):
    begun, others_have_run = threading.Event(), threading.Event()
    real = hashlib.pbkdf2_hmac

    def computing(*args):
        begun.set()
        assert others_have_run.wait(SAFETY)
        return real(*args)

    users = middleware.hashed({"ann": pbkdf2("one")})
    monkeypatch.setattr("hashlib.pbkdf2_hmac", computing)
    g = runtime.go(ask, users, "ann", "one")
    while not begun.is_set():
        runtime.gosched()
    runtime.go(others_have_run.set)
    assert g.join(timeout=SAFETY).text == "ann"


def test_same_password_of_many_requests_is_computed_once(computed):
    users = middleware.hashed({"ann": pbkdf2("one", rounds=200_000)})
    del computed[:]
    waiting = [runtime.go(ask, users, "ann", "one") for _ in range(20)]
    assert {g.join(timeout=SAFETY).text for g in waiting} == {"ann"}
    assert computed == [b"one"]


def test_too_many_that_wait_are_answered_503(monkeypatch):
    monkeypatch.setattr("runtime._http.middleware.passwords._WAITING", 2)
    started, go_on = sync.Semaphore(2), sync.Event()
    started.acquire(2)
    real = hashlib.pbkdf2_hmac

    def computing(*args):
        started.release()
        go_on.wait(timeout=SAFETY)
        return real(*args)

    monkeypatch.setattr("runtime._http.middleware.passwords.default_procs", lambda: 2)
    users = middleware.hashed({"ann": pbkdf2("one")})
    monkeypatch.setattr("hashlib.pbkdf2_hmac", computing)
    waiting = [runtime.go(ask, users, "ann", word) for word in ("one", "two")]
    started.acquire(2, timeout=SAFETY)
    assert ask(users, "ann", "three").status == 503
    monkeypatch.setattr("runtime._http.middleware.passwords._WAITING", 9)
    monkeypatch.setattr("runtime._http.middleware.passwords._PATIENCE", 0.01)
    assert ask(users, "ann", "three").status == 503
    go_on.set()
    assert sorted(g.join(timeout=SAFETY).status for g in waiting) == [200, 401]
    assert ask(users, "ann", "one").status == 200


def test_hashed_passwords_through_a_server(serve):
    users = middleware.hashed({"ann": pbkdf2("one")})
    mux = http.ServeMux()
    mux.handle("/", lambda w, r: r.state["user"], use=[middleware.basic_auth(users)])
    server = serve(mux)
    pair = base64.b64encode(b"ann:one").decode()
    for _ in range(2):
        assert server.get("/", f"Authorization: Basic {pair}\r\n").body == b"ann"
    wrong = base64.b64encode(b"ann:two").decode()
    assert server.get("/", f"Authorization: Basic {wrong}\r\n").status == 401
