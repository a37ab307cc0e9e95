"""http.middleware.jwt_auth, JWKS, require_scopes and any_of: bearer tokens."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import socket
import time
from types import SimpleNamespace

import pytest
from certs import Authority
from hypothesis import given
from hypothesis import strategies as st

import runtime
from runtime import http, httptest, sync
from runtime.http import middleware

SAFETY = 60
SECRET = b"0123456789abcdef0123456789abcdef"
INVALID = 'Bearer realm="restricted", error="invalid_token"'


def b64(data: bytes | str) -> str:
    data = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unsigned(header, claims) -> str:
    claims = claims if isinstance(claims, str) else json.dumps(claims)
    return f"{b64(json.dumps(header))}.{b64(claims)}"


def hs(claims, secret=SECRET, digest="sha256", **header) -> str:
    """A token with that header, signed by an HMAC."""
    text = unsigned({"alg": "HS256", "typ": "JWT", **header}, claims)
    return f"{text}.{b64(hmac.digest(secret, text.encode(), digest))}"


def claims(**changed):
    """Those of a valid token."""
    now = int(time.time())
    made = {"sub": "ann", "aud": "shop", "iss": "https://login", "exp": now + 600, "iat": now}
    return {k: v for k, v in {**made, **changed}.items() if v is not None}


def auth(**options):
    return middleware.jwt_auth(
        **{"key": SECRET, "algorithms": ["HS256"], "audience": "shop"} | options
    )


def show(w, r):
    return {"user": r.state["user"], "claims": r.state["claims"]}


def ask(handler, token=None, **fields):
    """The recorded response; a token is sent as a bearer's."""
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    return httptest.record(handler, httptest.new_request("GET", "/", headers=fields))


def refused(w, challenge=INVALID, status=401):
    head = w.response().headers
    assert (w.status, head.get_all("WWW-Authenticate")) == (status, [challenge])
    assert w.text == f"{http.HTTPStatus(status).phrase}\n"  # and nothing of why
    return True


def wait_until(condition):
    until = time.monotonic() + SAFETY
    while not condition():
        assert time.monotonic() < until
        runtime.sleep(0.005)


# --- tokens ---------------------------------------------------------------------------------------


def test_claims_and_user_of_a_valid_token_are_in_the_state():
    sent = claims(roles=["a", {"b": 1}])
    for _ in range(2):  # the second time it is remembered
        w = ask(auth()(show), hs(sent))
        assert w.json() == {"user": "ann", "claims": sent}
    assert ask(auth()(show), Authorization=f"bEARER  {hs(sent)} ").status == 200


def test_user_is_another_claim_or_found_by_a_function():
    token = hs(claims(email="a@b", sub=None))
    assert ask(auth(user="email")(show), token).json()["user"] == "a@b"
    assert ask(auth()(show), token).json()["user"] is None
    known = {"a@b": "Ann"}
    by_function = auth(user=lambda found: known.get(found["email"]))(show)
    assert ask(by_function, token).json()["user"] == "Ann"
    del known["a@b"]
    assert refused(ask(by_function, token))


def test_what_a_handler_does_to_the_claims_is_not_seen_by_the_next():
    def spoil(w, r):
        found = r.state["claims"]
        seen = json.dumps(found)
        found["roles"].append("admin")
        found["nested"]["deep"]["x"] = 1
        found["sub"] = "root"
        return seen

    handler = auth()(spoil)
    token = hs(claims(roles=["user"], nested={"deep": {}}))
    assert len({ask(handler, token).text for _ in range(3)}) == 1


@pytest.mark.parametrize(
    "field", [None, "", "Basic YTpi", "Bearer", "Bearertoken", "Token x", "negotiate"]
)
def test_no_bearer_token_is_asked_for_without_an_error(field):
    fields = {} if field is None else {"Authorization": field}
    assert refused(ask(auth()(show), **fields), 'Bearer realm="restricted"')
    assert refused(ask(auth(realm="the shop")(show), **fields), 'Bearer realm="the shop"')


def none_tokens():
    for name in ("none", "None", "NONE", "nOnE", "none ", " none", "", None, 0, [], ["HS256"], {}):
        for signature in ("", b64("x"), "e30"):
            yield f"{unsigned({'alg': name, 'typ': 'JWT'}, claims())}.{signature}"
    yield f"{unsigned({'typ': 'JWT'}, claims())}.{b64('x')}"


def stripped_tokens():
    head, body, signature = hs(claims()).split(".")
    yield from (f"{head}.{body}", f"{head}.{body}.", f"{head}..{signature}", f".{body}.{signature}")
    yield from (
        f"{head}.{body}.{signature[:-4]}",
        f"{head}.{body}.{signature}.",
        "..",
        ".",
        "a.b.c",
    )
    yield from (f"{head}.{body}.{signature}=", f"{head}.{body}.{signature}.{signature}.{signature}")
    yield f"{head}.{b64(json.dumps(claims(sub='root')))}.{signature}"
    yield f"{b64(json.dumps({'alg': 'HS256', 'x': 1}))}.{body}.{signature}"
    yield f"{head}.{body}.{b64(bytes(32))}"
    yield f"{head}\n.{body}.{signature}".replace("\n", "\t")
    yield f"{head}.{body}.{signature}, Bearer {head}.{body}.{signature}"


def signed_wrongly():
    now = time.time()
    yield hs(claims(), b"another secret, which has 32 bytes")
    yield hs(claims(), alg="HS512", digest="sha512")
    yield hs(claims(), alg="hs256")
    yield hs(claims(), alg="RS256")
    yield hs(claims(exp=now - 1))
    yield hs(claims(nbf=now + 100))
    yield hs(claims(iat=now + 100))
    yield hs(claims(exp=None))
    yield hs(claims(aud="other"))
    yield hs(claims(aud=None))
    yield hs(claims(aud=[]))
    yield hs(claims(aud={"shop": 1}))
    yield hs(claims(aud=["shop", 5]))
    yield hs(claims(iss="https://evil"))
    yield hs(claims(iss=None))
    yield hs(claims(iss=["https://login"]))
    yield hs(claims(iss="https://login.evil"))
    for odd in ("9999999999", True, [], {}, float("nan"), float("inf"), 10**400):
        yield hs(claims(exp=odd))
        yield hs(claims(nbf=odd))
    for body in ("", "[]", "5", "null", '"x"', "{", "[" * 3000, '{"exp": 9e999}', "\x00"):
        yield hs(body)
    yield hs(claims(), crit=["x"], x=1)
    yield hs(claims(), crit=["b64"], b64=False)
    yield hs(claims(), b64=False)
    yield hs(claims(), kid=5)
    yield hs(claims(), kid={"a": 1})


@pytest.mark.parametrize("tokens", [none_tokens, stripped_tokens, signed_wrongly])
def test_token_that_is_not_valid_is_refused_and_does_not_say_why(tokens):
    handler = auth(issuer="https://login")(show)
    assert ask(handler, hs(claims())).status == 200
    for token in tokens():
        assert refused(ask(handler, token)), token


@given(st.binary(max_size=60), st.binary(max_size=60), st.text("abc.=- ", max_size=9))
def test_token_of_garbage_is_refused(header, body, rest):
    handler = auth()(show)
    assert refused(ask(handler, f"{b64(header)}.{b64(body)}.{b64(hmac.digest(b'', body, 'md5'))}"))
    text = f"{b64(header)}.{b64(body)}"
    signature = b64(hmac.digest(SECRET, text.encode(), "sha256"))
    assert refused(ask(handler, f"{text}.{signature}"))  # signed by the key, and still garbage
    assert refused(ask(handler, f"{text}.{rest}x"))


def test_token_sent_twice_is_refused():
    fields = [("Authorization", f"Bearer {hs(claims())}")] * 2
    r = httptest.new_request("GET", "/", headers=fields)
    assert refused(httptest.record(auth()(show), r))


def test_long_token_is_refused():
    token = hs(claims(pad="x" * 6000))
    assert refused(ask(auth()(show), token))
    assert ask(auth(max_token_bytes=len(token))(show), token).status == 200
    assert refused(ask(auth(max_token_bytes=len(token) - 1)(show), token))


def test_leeway_is_for_clocks_that_differ():
    now = time.time()
    handler = auth(leeway=60)(show)
    assert ask(handler, hs(claims(exp=now - 30, nbf=now + 30, iat=now + 30))).status == 200
    assert refused(ask(handler, hs(claims(exp=now - 90))))
    assert refused(ask(handler, hs(claims(nbf=now + 90))))


def test_audience_and_issuer_are_any_of_several_and_an_audience_needs_to_be_asked_for():
    handler = auth(audience=["a", "shop"], issuer=["x", "https://login"])(show)
    assert ask(handler, hs(claims(aud=["z", "shop"]))).status == 200
    assert refused(ask(handler, hs(claims(aud="sho"))))
    assert refused(ask(auth(audience=None)(show), hs(claims())))
    assert ask(auth(audience=None)(show), hs(claims(aud=None))).status == 200


def test_required_claims():
    handler = auth(require=["sub", "jti"])(show)
    assert refused(ask(handler, hs(claims())))
    assert refused(ask(handler, hs(claims(jti="1", sub=None))))
    assert ask(handler, hs(claims(jti="1", exp=None))).status == 200


def test_remembered_token_expires():
    now = time.time()
    handler = auth(leeway=now % 1 + 1)(show)
    token = hs(claims(exp=int(now)))  # until one second from now
    assert ask(handler, token).status == 200
    wait_until(lambda: ask(handler, token).status == 401)
    assert refused(ask(handler, token))


def test_remembered_tokens_are_bounded_and_each_has_its_own_claims():
    handler = auth(remember=2)(show)
    tokens = {name: hs(claims(sub=name)) for name in "abcde"}
    for _ in range(3):
        for name, token in tokens.items():
            assert ask(handler, token).json()["user"] == name


def test_keys_by_their_ids():
    other = secrets.token_bytes(64)
    handler = auth(keys={"a": SECRET, "b": other}, key=None, algorithms=["HS256", "HS512"])(show)
    assert ask(handler, hs(claims(), kid="a")).status == 200
    assert ask(handler, hs(claims(), other, kid="b")).status == 200
    assert ask(handler, hs(claims(), other, "sha512", kid="b", alg="HS512")).status == 200
    assert refused(ask(handler, hs(claims(), SECRET, "sha512", kid="a", alg="HS512")))  # too short
    assert refused(ask(handler, hs(claims(), other, kid="a")))
    assert refused(ask(handler, hs(claims())))  # which one is not said
    for kid in (
        "",
        "c",
        "../../../../dev/null",
        "a' OR '1'='1",
        "a\x00",
        "/etc/passwd",
        "x" * 4000,
    ):
        for secret in (SECRET, b"\x00" * 32, b""):
            assert refused(ask(handler, hs(claims(), secret, kid=kid)))
    assert ask(auth(keys={"a": SECRET}, key=None)(show), hs(claims())).status == 200


def test_a_key_may_be_a_jwk_that_says_its_algorithm():
    jwk = {"kty": "oct", "k": b64(SECRET * 2), "alg": "HS512", "use": "sig"}
    token = hs(claims(), SECRET * 2, "sha512", alg="HS512")
    assert ask(auth(key=jwk, algorithms=["HS512"])(show), token).status == 200
    with pytest.raises(ValueError, match="the key is not for HS256; it is for HS512"):
        auth(key=jwk)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"algorithms": []}, ValueError, "name the algorithms"),
        ({"algorithms": "HS256"}, TypeError, "not a str"),
        ({"algorithms": ["none"]}, ValueError, "'none' signs nothing"),
        ({"algorithms": ["HS256", "None"]}, ValueError, "'None' signs nothing"),
        ({"algorithms": ["hs256"]}, ValueError, "'hs256'"),
        ({"algorithms": ["HS256", "HS512"]}, ValueError, "not for HS512"),
        ({"key": None}, TypeError, "one of key, keys and jwks_url"),
        ({"keys": {"a": SECRET}}, TypeError, "one of key, keys and jwks_url"),
        ({"key": None, "keys": {}}, ValueError, "no key for HS256"),
        ({"key": None, "keys": {5: SECRET}}, TypeError, "id of a key is a str"),
        ({"key": None, "keys": [SECRET]}, TypeError, "not list"),
        ({"key": None, "jwks_url": "https://x/"}, ValueError, "need a secret"),
        ({"key": b"secret"}, ValueError, "6 bytes is too short"),
        ({"key": ""}, ValueError, "no secret"),
        ({"key": 5}, ValueError, "not int"),
        ({"key": "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ"}, ValueError, "no secret"),
        ({"key": {"kty": "oct"}}, ValueError, "no usable JWK"),
        ({"key": {"kty": "x"}}, ValueError, "no keys of type 'x'"),
        ({"key": {"kty": "oct", "k": b64(SECRET), "use": "enc"}}, ValueError, "not for verifying"),
        ({"key": {"kty": "oct", "k": b64(SECRET), "key_ops": ["sign"]}}, ValueError, "key_ops"),
        ({"key": {"kty": "oct", "k": b64(SECRET), "alg": "RS256"}}, ValueError, "'RS256'"),
        ({"leeway": -1}, ValueError, "leeway"),
        ({"remember": 0}, ValueError, "remember"),
        ({"realm": 'a"b'}, ValueError, "realm"),
        ({"user": 5}, TypeError, "not int"),
    ],
)
def test_jwt_auth_that_makes_no_sense_is_refused_at_once(options, error, message):
    with pytest.raises(error, match=message):
        auth(**options)


# --- public keys ----------------------------------------------------------------------------------


class Signer:
    """A private key of somebody; its tokens and its JWK."""

    def __init__(self, algorithm: str, kid: str | None = None) -> None:
        pytest.importorskip("cryptography")
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        self.algorithm, self.kid = algorithm, kid
        match algorithm:
            case "RS256":
                self.private = rsa.generate_private_key(65537, 2048)
            case "ES256":
                self.private = ec.generate_private_key(ec.SECP256R1())
            case "EdDSA":
                self.private = ed25519.Ed25519PrivateKey.generate()

    def token(self, payload=None, **header) -> str:
        import jwt

        if self.kid is not None:
            header = {"kid": self.kid, **header}
        sent = claims() if payload is None else payload
        return jwt.encode(sent, self.private, algorithm=self.algorithm, headers=header)

    def pem(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self.private.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def jwk(self, **more) -> dict:
        import jwt

        kinds = {"RS256": "RSAAlgorithm", "ES256": "ECAlgorithm", "EdDSA": "OKPAlgorithm"}
        kind = getattr(jwt.algorithms, kinds[self.algorithm])
        made = kind.to_jwk(self.private.public_key(), as_dict=True)
        return {**made, "use": "sig", **({"kid": self.kid} if self.kid else {}), **more}


@pytest.fixture(scope="module")
def rsa_signer():
    return Signer("RS256", "r1")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_keys_verify_what_their_private_ones_sign(algorithm):
    signer, other = Signer(algorithm), Signer(algorithm)
    for key in (signer.pem(), signer.pem().decode(), signer.jwk(), signer.private.public_key()):
        handler = auth(key=key, algorithms=[algorithm])(show)
        assert ask(handler, signer.token()).json()["user"] == "ann"
        assert refused(ask(handler, other.token()))


def test_public_key_is_never_the_secret_of_an_hmac(rsa_signer):
    """Key confusion: RFC 8725 section 2.1."""
    pem = rsa_signer.pem()
    handler = auth(key=pem, algorithms=["RS256"])(show)
    by_id = auth(key=None, keys={"r1": pem, "h": SECRET}, algorithms=["RS256", "HS256"])(show)
    assert ask(handler, rsa_signer.token()).status == ask(by_id, rsa_signer.token()).status == 200
    assert ask(by_id, hs(claims(), kid="h")).status == 200
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    for secret in (pem, pem.rstrip(), pem.replace(b"\n", b"\r\n"), der, b""):
        for name, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
            for kid in ("r1", "h", "x"):
                forged = hs(claims(), secret, digest, alg=name, kid=kid)
                assert refused(ask(handler, forged))
                assert refused(ask(by_id, forged))
    assert refused(ask(by_id, rsa_signer.token(kid="h")))


def test_keys_and_algorithms_that_do_not_fit_are_refused_at_once(rsa_signer):
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem, curve = rsa_signer.pem(), Signer("ES256")
    with pytest.raises(ValueError, match="HS256, RS256 are symmetric and asymmetric"):
        auth(key=pem, algorithms=["RS256", "HS256"])
    for key in (pem, pem.decode(), rsa_signer.jwk(), rsa_signer.private.public_key()):
        with pytest.raises(ValueError, match="not for HS256; it is for RS256"):
            auth(key=key, algorithms=["HS256"])
    with pytest.raises(ValueError, match="not for RS256; it is for HS256"):
        auth(key=SECRET, algorithms=["RS256"])
    with pytest.raises(ValueError, match="not for ES384; it is for ES256"):
        auth(key=curve.pem(), algorithms=["ES384"])
    with pytest.raises(ValueError, match="'c' is for ES256, none of which"):
        auth(key=None, keys={"c": curve.pem()}, algorithms=["RS256"])
    private = rsa_signer.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="no public key"):
        auth(key=private, algorithms=["RS256"])
    with pytest.raises(ValueError, match="not "):
        auth(key=rsa_signer.private, algorithms=["RS256"])
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    with pytest.raises(ValueError, match="no secret"):
        auth(key=der)
    with pytest.raises(ValueError, match="no secret"):
        auth(key=json.dumps(rsa_signer.jwk()))
    with pytest.raises(ValueError, match="1024 bits is too short"):
        auth(key=rsa.generate_private_key(65537, 1024).public_key(), algorithms=["RS256"])


def test_keys_that_the_header_brings_are_not_looked_at(serve, rsa_signer):
    asked = []
    evil = serve(lambda w, r: asked.append(r.path) or {"keys": [attacker.jwk()]})
    url = f"http://{evil.addr}/keys"
    attacker = Signer("RS256", "r1")
    handlers = [
        auth(key=rsa_signer.pem(), algorithms=["RS256"])(show),
        auth(key=None, keys={"r1": rsa_signer.pem()}, algorithms=["RS256"])(show),
    ]
    chain = [b64(attacker.pem())]
    for header in (
        {"jwk": attacker.jwk()},
        {"jku": url},
        {"x5u": url},
        {"x5c": chain},
        {"jku": url, "jwk": attacker.jwk(), "x5u": url, "x5c": chain, "x5t": "x", "kid": url},
    ):
        for handler in handlers:
            assert refused(ask(handler, attacker.token(**header)))
    assert asked == []


# --- a provider's keys ----------------------------------------------------------------------------


class Provider:
    """Publishes keys."""

    def __init__(self, serve, *signers: Signer) -> None:
        self.signers = list(signers)
        self.asked: list[str] = []
        self.open = sync.Event()
        self.open.set()
        self.answer = None  # instead of the keys
        self.server = serve(self)
        self.url = f"http://{self.server.addr}/jwks.json"

    def __call__(self, w, r):
        self.asked.append(r.path)
        self.open.wait(timeout=SAFETY)
        if self.answer is not None:
            return self.answer(w, r)
        return {"keys": [signer.jwk() for signer in self.signers]}

    def close(self) -> None:
        self.server.server.close()
        self.server.until_refused()


@pytest.fixture
def provider(serve):
    return Provider(serve, Signer("ES256", "k1"))


@pytest.fixture
def clock(monkeypatch):
    """The clock of the keys' age: clock.now can be set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("runtime._http.middleware.jwks._now", lambda: clock.now)
    return clock


def trusting(provider, **options):
    """A handler that trusts the provider's keys."""
    keys = middleware.JWKS(provider.url, **options)
    return auth(key=None, keys=keys, algorithms=["ES256", "EdDSA"])(show)


def test_keys_are_fetched_once_and_when_an_unknown_one_is_named(provider, clock):
    (first,) = provider.signers
    handler = trusting(provider, min_interval=10)
    for _ in range(3):
        assert ask(handler, first.token(claims(jti=secrets.token_hex()))).status == 200
    assert provider.asked == ["/jwks.json"]
    second = Signer("EdDSA", "k2")
    provider.signers.append(second)
    assert refused(ask(handler, second.token()))  # too soon to ask again
    clock.now += 11
    assert ask(handler, second.token()).status == 200
    assert ask(handler, first.token()).status == 200
    assert len(provider.asked) == 2


def test_jwks_url_alone_is_enough(provider):
    handler = auth(key=None, jwks_url=provider.url, algorithms=["ES256"])(show)
    assert ask(handler, provider.signers[0].token()).status == 200


def test_forged_key_ids_do_not_hammer_the_provider(provider, clock):
    handler = trusting(provider, min_interval=10)
    forger = Signer("ES256")
    for i in range(50):
        assert refused(ask(handler, forger.token(kid=f"forged-{i}")))
        clock.now += 1  # 5 times 10 s
    assert len(provider.asked) <= 6
    assert ask(handler, provider.signers[0].token()).status == 200


def test_key_that_is_withdrawn_ends_its_tokens_also_remembered_ones(provider, clock):
    (first,) = provider.signers
    handler = trusting(provider, lifetime=100, min_interval=10)
    token = first.token()
    assert ask(handler, token).status == 200
    second = Signer("ES256", "k2")
    provider.signers[:] = [second]
    clock.now += 50
    assert ask(handler, token).status == 200
    assert ask(handler, second.token()).status == 200  # fetches
    assert refused(ask(handler, token))


def test_keys_are_fetched_again_after_their_lifetime_while_requests_go_on(provider, clock):
    (first,) = provider.signers
    handler = trusting(provider, lifetime=100, min_interval=10)
    token = first.token()
    assert ask(handler, token).status == 200
    provider.open.clear()
    clock.now += 101
    assert ask(handler, token).status == 200  # though the provider does not answer yet
    wait_until(lambda: len(provider.asked) == 2)
    assert ask(handler, token).status == 200
    provider.signers[:] = [Signer("ES256", "k2")]
    provider.open.set()
    wait_until(lambda: ask(handler, token).status == 401)
    assert len(provider.asked) == 2


def test_keys_are_used_while_the_provider_is_down_until_they_are_too_old(provider, clock, caplog):
    (first,) = provider.signers
    handler = trusting(provider, lifetime=100, max_age=1000, min_interval=10)
    token = first.token()
    assert ask(handler, token).status == 200
    provider.close()
    clock.now += 500
    assert ask(handler, token).status == 200
    assert refused(ask(handler, Signer("ES256", "k2").token()))
    assert "are kept" in caplog.text and provider.url in caplog.text
    clock.now += 499
    assert ask(handler, token).status == 200
    clock.now += 2
    for sent in (token, first.token(claims(jti="1"))):  # remembered, and not
        w = ask(handler, sent)
        assert (w.status, w.text) == (503, "Service Unavailable\n")
        assert w.response().headers.get("Retry-After") == "10"


def test_provider_that_comes_back_is_asked_again(provider, clock):
    handler = trusting(provider, min_interval=10)
    provider.answer = lambda w, r: 500
    token = provider.signers[0].token()
    for _ in range(3):
        assert ask(handler, token).status == 503
    assert len(provider.asked) == 1
    provider.answer = None
    clock.now += 11
    assert ask(handler, token).status == 200


def test_one_fetch_serves_all_who_wait(provider):
    token = provider.signers[0].token()
    handler = trusting(provider, min_interval=3600)
    provider.open.clear()
    waiting = [runtime.go(ask, handler, token) for _ in range(30)]
    wait_until(lambda: provider.asked)
    provider.open.set()
    assert {g.join(timeout=SAFETY).status for g in waiting} == {200}
    assert len(provider.asked) == 1


def test_unknown_keys_of_many_requests_at_once_make_one_fetch(provider, clock):
    handler = trusting(provider, min_interval=10)
    assert ask(handler, provider.signers[0].token()).status == 200
    second, forger = Signer("ES256", "k2"), Signer("ES256")
    provider.signers.append(second)
    clock.now += 11
    provider.open.clear()
    waiting = [runtime.go(ask, handler, second.token(claims(jti=str(i)))) for i in range(15)]
    forged = [runtime.go(ask, handler, forger.token(kid=f"x{i}")) for i in range(15)]
    wait_until(lambda: len(provider.asked) == 2)
    provider.open.set()
    assert {g.join(timeout=SAFETY).status for g in waiting} == {200}
    assert {g.join(timeout=SAFETY).status for g in forged} == {401}
    assert len(provider.asked) == 2


def redirect(w, r):
    if r.path == "/jwks.json":
        return http.redirect(w, r, "/elsewhere", 307)
    return {"keys": []}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (redirect, "307"),
        (lambda w, r: 404, "404"),
        (lambda w, r: 204, "204"),
        (lambda w, r: "no JSON", "not JSON"),
        (lambda w, r: "[" * 100_000, "not JSON"),
        (lambda w, r: [], "no JWK Set"),
        (lambda w, r: {"keys": {}}, "no JWK Set"),
        (lambda w, r: {"keys": [], "pad": "x" * 300_000}, "more than 262144 bytes"),
    ],
)
def test_what_is_no_set_of_keys_is_told_in_the_log(provider, caplog, answer, said):
    provider.answer = answer
    handler = trusting(provider)
    assert ask(handler, provider.signers[0].token()).status == 503
    assert ask(handler, hs(claims(), kid="k1")).status == 401
    assert said in caplog.text and len(provider.asked) == 1


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [{"kty": "oct", "k": b64(SECRET), "kid": "k1"}],
        [5, {}, {"kty": "EC", "kid": []}, {"kty": {}}],
    ],
)
def test_set_without_usable_keys_ends_all_tokens_and_is_told_once(provider, clock, caplog, keys):
    (first,) = provider.signers
    handler = trusting(provider, min_interval=10)
    token = first.token()
    assert ask(handler, token).status == 200
    provider.answer = lambda w, r: {"keys": keys}
    for fetches in (2, 3):
        clock.now += 11
        assert refused(ask(handler, Signer("ES256", "k2").token()))
        assert len(provider.asked) == fetches
        assert refused(ask(handler, token))
        assert refused(ask(handler, hs(claims(), kid="k1")))
    assert caplog.text.count("none that verifies signatures: no token is valid") == 1
    provider.answer = None
    clock.now += 11
    assert ask(handler, token).status == 200


def test_first_set_without_keys_makes_tokens_invalid(provider):
    provider.answer = lambda w, r: {"keys": []}
    assert refused(ask(trusting(provider), provider.signers[0].token()))


def test_key_that_this_machine_does_not_support_is_passed_over(provider, monkeypatch):
    """As curves are that the system's OpenSSL leaves out."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from jwt.algorithms import OKPAlgorithm

    def unsupported(jwk):
        raise UnsupportedAlgorithm("not with this OpenSSL")

    monkeypatch.setattr(OKPAlgorithm, "from_jwk", staticmethod(unsupported))
    (first,) = provider.signers
    provider.signers.insert(0, Signer("EdDSA", "k2"))
    assert ask(trusting(provider), first.token()).status == 200
    with pytest.raises(ValueError, match="not with this OpenSSL"):
        auth(key=provider.signers[0].jwk(), algorithms=["EdDSA"])


def test_public_key_that_this_machine_does_not_support_is_refused_at_once(monkeypatch, rsa_signer):
    from cryptography.exceptions import UnsupportedAlgorithm

    def unsupported(data):
        raise UnsupportedAlgorithm("not with this OpenSSL")

    pem = rsa_signer.pem()
    name = "cryptography.hazmat.primitives.serialization.load_pem_public_key"
    monkeypatch.setattr(name, unsupported)
    with pytest.raises(ValueError, match="not with this OpenSSL"):
        auth(key=pem, algorithms=["RS256"])


def test_keys_for_other_uses_are_passed_over(provider):
    (first,) = provider.signers
    other = Signer("ES256", "k2")
    provider.answer = lambda w, r: {
        "keys": [other.jwk(use="enc"), {"kty": "EC", "crv": "P-256"}, "x", first.jwk(alg="ES256")]
    }
    handler = trusting(provider)
    assert ask(handler, first.token()).status == 200
    assert refused(ask(handler, other.token()))
    token = first.token()
    first.kid = None
    assert token != first.token() and ask(handler, first.token()).status == 200  # the only one


def drip(w, r):
    for _ in range(2000):
        w.write(" ")
        w.flush()
        runtime.sleep(0.01)


def test_provider_that_is_slow_is_given_up(provider, caplog):
    provider.answer = drip
    handler = trusting(provider, timeout=0.2)
    assert ask(handler, provider.signers[0].token()).status == 503
    assert "takes longer than 0.2 s" in caplog.text
    provider.server.until(connections=0)  # nobody reads on


def test_provider_that_never_answers_is_given_up(caplog):
    Signer("ES256")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        keys = middleware.JWKS(url, timeout=0.2)
        handler = auth(key=None, keys=keys, algorithms=["ES256"])(show)
        assert ask(handler, Signer("ES256", "k").token()).status == 503


def test_keys_are_fetched_over_tls_from_who_has_the_right_certificate(serve, tmp_path, caplog):
    authority, signer = Authority(tmp_path), Signer("ES256", "k1")
    cert = authority.issue("server", "localhost")
    server = serve(lambda w, r: {"keys": [signer.jwk()]}, tls=(cert.pem, cert.key))
    url = f"https://localhost:{server.where[1]}/"
    for context, status in ((authority.client_context(), 200), (None, 503)):
        keys = middleware.JWKS(url, context=context)
        handler = auth(key=None, keys=keys, algorithms=["ES256"])(show)
        assert ask(handler, signer.token()).status == status
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


def test_proxy_of_the_environment_is_asked_for_other_machines_only(provider, monkeypatch):
    seen = []
    provider.answer = lambda w, r: seen.append(r.target) or {"keys": [provider.signers[0].jwk()]}
    monkeypatch.setenv("http_proxy", f"http://{provider.server.addr}")
    monkeypatch.delenv("no_proxy", raising=False)
    far = middleware.JWKS("http://login.example/keys", allow_http=True)
    handler = auth(key=None, keys=far, algorithms=["ES256"])(show)
    assert ask(handler, provider.signers[0].token()).status == 200
    assert ask(trusting(provider), provider.signers[0].token()).status == 200
    assert seen == ["http://login.example/keys", "/jwks.json"]


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://x/", {}, "http or https"),
        ("file:///etc/passwd", {}, "http or https"),
        ("https:///keys", {}, "http or https"),
        ("http://login.example/keys", {}, "over http others"),
        ("https://x/", {"lifetime": 0}, "lifetime"),
        ("https://x/", {"timeout": float("nan")}, "timeout"),
        ("https://x/", {"max_bytes": -1}, "max_bytes"),
    ],
)
def test_jwks_that_makes_no_sense_is_refused_at_once(url, options, message):
    with pytest.raises(ValueError, match=message):
        middleware.JWKS(url, **options)


def test_http_is_allowed_where_the_program_says_so():
    assert "login.example" in repr(middleware.JWKS("http://login.example/", allow_http=True))


def test_tokens_through_a_server(serve, provider):
    keys = middleware.JWKS(provider.url)
    mux = http.ServeMux()
    mux.use(auth(key=None, keys=keys, algorithms=["ES256"]))
    mux.handle("GET /items", show, use=[middleware.require_scopes("items:read")])
    server = serve(mux)
    token = provider.signers[0].token(claims(scope="openid items:read"))
    for _ in range(3):
        response = server.get("/items", f"Authorization: Bearer {token}\r\n")
        assert response.status == 200
    assert server.get("/items").status == 401
    token = provider.signers[0].token(claims(scope="openid"))
    response = server.get("/items", f"Authorization: Bearer {token}\r\n")
    assert response.status == 403


# --- scopes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "every", "some"),
    [
        ({"scope": "a b"}, True, True),
        ({"scope": "b c a"}, True, True),
        ({"scope": "a"}, False, True),
        ({"scope": "ab"}, False, False),
        ({"scope": "A b"}, False, True),
        ({"scope": "a,b"}, False, False),
        ({"scope": ""}, False, False),
        ({"scope": ["a", "b"]}, True, True),
        ({"scp": "a b"}, True, True),
        ({"scp": ["b", "a", 5, None]}, True, True),
        ({"scp": ["a b"]}, False, False),
        ({"scope": "x", "scp": ["a", "b"]}, False, False),
        ({"scope": {"a": 1, "b": 1}}, False, False),
        ({"scope": None, "scp": "a b"}, True, True),
        ({}, False, False),
    ],
)
def test_scopes_of_a_token(granted, every, some):
    for match, allowed in (("all", every), ("any", some)):
        handler = middleware.chain(
            show, auth(), middleware.require_scopes("a", "b", match=match, realm="R")
        )
        w = ask(handler, hs(claims(**granted)))
        if allowed:
            assert w.status == 200
        else:
            assert refused(w, 'Bearer realm="R", error="insufficient_scope", scope="a b"', 403)


def test_scopes_without_a_verified_token_are_refused():
    handler = middleware.require_scopes("a")(show)
    assert refused(ask(handler, hs(claims(scope="a"))), 'Bearer realm="restricted"')
    handler = middleware.chain(show, middleware.api_key(["k"]), middleware.require_scopes("a"))
    assert refused(ask(handler, "k"), 'Bearer realm="restricted"')


@pytest.mark.parametrize("asked", ["mapping", "function"])
def test_scopes_of_a_key(asked):
    by_owner = {"ann": ["a", "b"], "bob": ("b",), "eve": ()}
    keys = {"k1": "ann", "k2": "bob", "k3": "eve", "k4": "dan"}
    scopes = by_owner if asked == "mapping" else lambda owner: by_owner.get(owner, ())
    handler = middleware.chain(
        show, middleware.api_key(keys, scopes=scopes), middleware.require_scopes("a", realm="R")
    )
    told = 'Bearer realm="R", error="insufficient_scope", scope="a"'
    assert ask(handler, "k1").status == 200
    for key in ("k2", "k3", "k4"):
        assert refused(ask(handler, key), told, 403)
    assert ask(handler, "k5").status == 401
    for wrong in ({"ann": ["a b"]}, {"ann": [""]}, {"ann": [5]}):
        with pytest.raises(ValueError, match="cannot be a scope"):
            middleware.api_key(keys, scopes=wrong)
    with pytest.raises(TypeError, match="not a str"):
        middleware.api_key(keys, scopes={"ann": "admin"})


@pytest.mark.parametrize("args", [(), ("",), ("a b",), ('a"',), ("a\\",), ("é",), (5,), ("a\n",)])
def test_scopes_that_are_none_are_refused_at_once(args):
    with pytest.raises(ValueError, match="scope"):
        middleware.require_scopes(*args)
    with pytest.raises(ValueError, match="match is"):
        middleware.require_scopes("a", match="one")


# --- any_of ---------------------------------------------------------------------------------------


def test_any_of_takes_the_first_that_is_content():
    ways = middleware.any_of(auth(), middleware.api_key({"k1": "shop"}, header="X-Key"))
    handler = ways(lambda w, r: str(r.state["user"]))
    assert ask(handler, hs(claims())).text == "ann"
    assert ask(handler, X_Key="k1").text == "shop"
    assert ask(handler, hs(claims()), X_Key="wrong").text == "ann"
    assert ask(handler, "wrong.wrong.wrong", X_Key="k1").text == "shop"
    w = ask(handler, "wrong.wrong.wrong", X_Key="wrong")
    assert w.status == 401
    asked = [INVALID, 'ApiKey realm="restricted", header="X-Key"']
    assert w.response().headers.get_all("WWW-Authenticate") == asked


def test_any_of_says_503_where_one_cannot_tell():
    pytest.importorskip("cryptography")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    keys = middleware.JWKS(url, min_interval=7)
    ways = middleware.any_of(
        auth(key=None, keys=keys, algorithms=["ES256"]), middleware.api_key(["k1"], header="X-Key")
    )
    token = f"{unsigned({'alg': 'ES256'}, claims())}.{b64('x')}"
    w = ask(ways(show), token)
    assert w.status == 503 and w.response().headers.get("Retry-After") == "7"
    assert ask(ways(lambda w, r: "ok"), token, X_Key="k1").text == "ok"


def test_any_of_what_is_no_authentication_is_refused_at_once():
    with pytest.raises(TypeError, match="not function"):
        middleware.any_of(middleware.request_id())
    with pytest.raises(ValueError, match="at least one"):
        middleware.any_of()
