"""Real clients against the real server, which runs in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import pytest
import requests

SAFETY = 60.0
LARGE = bytes(range(256)) * 20_000  # 5 MB


def pieces(data: bytes, size: int = 100_000):
    for i in range(0, len(data), size):
        yield data[i : i + size]


@pytest.fixture
def quiet(app):
    """The app, which must end with nothing on stderr."""
    yield app
    assert app.stop() == (0, "")


# --- http.client ----------------------------------------------------------------------------------


def test_http_client_keeps_its_connection(quiet):
    c = http.client.HTTPConnection(*quiet.where, timeout=SAFETY)
    sock = None
    for i in range(50):
        c.request("GET", "/hello")
        assert sock in (None, c.sock)
        sock = c.sock
        r = c.getresponse()
        assert (r.status, r.version, r.read()) == (200, 11, b"Hello, World")
        c.request("POST", "/echo", body=b"x" * i)
        assert c.getresponse().read() == b"x" * i
        c.request("HEAD", "/hello")
        r = c.getresponse()
        assert (r.getheader("content-length"), r.read()) == ("12", b"")
    c.close()


@pytest.mark.parametrize("encode", [False, True])
def test_http_client_large_bodies(quiet, encode):
    c = http.client.HTTPConnection(*quiet.where, timeout=SAFETY)
    for _ in range(2):
        c.request("POST", "/echo", body=pieces(LARGE) if encode else LARGE, encode_chunked=encode)
        assert c.getresponse().read() == LARGE
    c.close()


def test_http_client_reads_a_stream(quiet):
    c = http.client.HTTPConnection(*quiet.where, timeout=SAFETY)
    c.request("GET", "/stream/100")
    r = c.getresponse()
    assert r.getheader("transfer-encoding") == "chunked"
    assert r.read() == bytes(6_553_600)
    c.close()


def test_http_client_over_a_unix_socket(program, tmp_path):
    app = program("app.py", f"unix:{tmp_path}/s")
    c = http.client.HTTPConnection("localhost")
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.settimeout(SAFETY)
    c.sock.connect(f"{tmp_path}/s")
    for _ in range(3):
        c.request("GET", "/hello")
        assert c.getresponse().read() == b"Hello, World"
    c.close()
    assert app.stop() == (0, "")


# --- urllib ---------------------------------------------------------------------------------------


def test_urllib_gets_and_posts(quiet):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{quiet.url}/hello", timeout=SAFETY) as r:
        assert r.read() == b"Hello, World"
        assert r.headers["Connection"] == "close"
    form = urllib.parse.urlencode({"a": "é&=", "b": ["1", "2"]}, doseq=True).encode()
    with opener.open(f"{quiet.url}/form", form, timeout=SAFETY) as r:
        assert json.load(r) == {"a": ["é&="], "b": ["1", "2"]}


def test_urllib_sees_errors(quiet):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as info:
        opener.open(f"{quiet.url}/nowhere", timeout=SAFETY)
    with info.value as error:
        assert (error.code, error.reason) == (404, "Not Found")


# --- requests -------------------------------------------------------------------------------------


@pytest.fixture
def session():
    with requests.Session() as s:
        s.trust_env = False
        yield s


def test_requests_session(quiet, session):
    for i in range(20):
        r = session.get(f"{quiet.url}/hello", timeout=SAFETY)
        assert (r.status_code, r.text, r.encoding) == (200, "Hello, World", "utf-8")
        r = session.post(f"{quiet.url}/form?z=1", data={"a": [i, "é"]}, timeout=SAFETY)
        assert r.json() == {"a": [str(i), "é"], "z": ["1"]}
    assert session.head(f"{quiet.url}/hello", timeout=SAFETY).headers["Content-Length"] == "12"
    assert session.get(f"{quiet.url}/nowhere", timeout=SAFETY).status_code == 404
    r = session.post(f"{quiet.url}/stats", timeout=SAFETY)
    assert (r.status_code, r.headers["Allow"]) == (405, "GET, HEAD")
    # All of them over one connection.
    assert session.get(f"{quiet.url}/stats", timeout=SAFETY).json()["accepted"] == 1


def test_requests_large_bodies(quiet, session):
    for data in (LARGE, pieces(LARGE)):
        assert session.post(f"{quiet.url}/echo", data=data, timeout=SAFETY).content == LARGE


def test_requests_streams_both_ways(quiet, session):
    r = session.post(f"{quiet.url}/pipe", data=LARGE[:200_000], stream=True, timeout=SAFETY)
    assert b"".join(r.iter_content(1000)) == LARGE[:200_000]


def test_requests_error_of_the_handler(app, session):
    for _ in range(3):
        assert session.get(f"{app.url}/fail", timeout=SAFETY).status_code == 500
    code, err = app.stop()
    assert code == 0
    assert err.count("a handler failed (GET /fail)") == err.count("ZeroDivisionError") // 2 == 3


# --- httpx ----------------------------------------------------------------------------------------


def test_httpx_client(quiet):
    with httpx.Client(base_url=quiet.url, timeout=SAFETY, trust_env=False) as client:
        for _ in range(20):
            r = client.get("/hello")
            assert (r.status_code, r.http_version, r.text) == (200, "HTTP/1.1", "Hello, World")
            assert client.post("/echo", json={"a": 1}).json() == {"a": 1}
        assert client.post("/echo", content=LARGE).content == LARGE
        assert client.post("/echo", content=pieces(LARGE)).content == LARGE
        with client.stream("GET", "/stream/10") as r:
            assert sum(len(p) for p in r.iter_raw()) == 655_360
        assert client.get("/stats").json()["accepted"] == 1


def test_httpx_from_many_threads(quiet):
    """A client for each: httpcore's pool bears no other threads where there is no GIL."""

    def echoed(i):
        with httpx.Client(base_url=quiet.url, timeout=SAFETY, trust_env=False) as client:
            return [client.post("/echo", content=b"%d" % n).content for n in range(i, i + 50)]

    with ThreadPoolExecutor(8) as pool:
        got = [content for part in pool.map(echoed, range(0, 400, 50)) for content in part]
    assert got == [b"%d" % i for i in range(400)]


# --- aiohttp --------------------------------------------------------------------------------------


@pytest.fixture
def aio(quiet):
    """aio(use, limit): what the coroutine use(session) returns; at most limit connections."""

    def run(use, limit: int = 1):
        async def within():
            connector = aiohttp.TCPConnector(limit=limit)
            timeout = aiohttp.ClientTimeout(total=SAFETY)
            async with aiohttp.ClientSession(
                quiet.url, connector=connector, timeout=timeout
            ) as session:
                return await use(session)

        return asyncio.run(within())

    return run


def test_aiohttp_keeps_its_connection(aio):
    async def use(session):
        for i in range(20):
            async with session.get("/hello") as r:
                assert (r.status, await r.text(), r.charset) == (200, "Hello, World", "utf-8")
            async with session.post("/form?z=1", data={"a": f"é{i}"}) as r:
                assert await r.json() == {"a": [f"é{i}"], "z": ["1"]}
            async with session.post("/echo", json={"i": i}) as r:
                assert await r.json(content_type=None) == {"i": i}
            async with session.head("/hello") as r:
                assert r.headers["Content-Length"] == "12"
            async with session.get("/nowhere") as r:
                assert r.status == 404
        async with session.get("/stats") as r:
            return await r.json()

    assert aio(use)["accepted"] == 1


def test_aiohttp_streams_both_ways(aio):
    async def upload():
        for piece in pieces(LARGE):
            yield piece

    async def use(session):
        for expect100 in (False, True):
            async with session.post("/echo", data=upload(), expect100=expect100) as r:
                assert await r.read() == LARGE
        async with session.post("/pipe", data=LARGE[:300_000]) as r:
            assert b"".join([p async for p in r.content.iter_chunked(1000)]) == LARGE[:300_000]
        async with session.get("/stream/50") as r:
            assert sum([len(p) async for p in r.content.iter_any()]) == 50 * 65536

    aio(use)


def test_aiohttp_many_at_once_and_some_given_up(aio, quiet):
    async def use(session):
        async def echo(i):
            async with session.post("/echo", data=b"%d" % i) as r:
                return await r.read()

        async def give_up():
            async with session.get("/stream/10000") as r:
                await r.content.readexactly(100_000)
                r.close()

        async def cancelled():
            task = asyncio.ensure_future(session.get("/sleep?s=60"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        got = await asyncio.gather(*(echo(i) for i in range(300)))
        assert got == [b"%d" % i for i in range(300)]
        await asyncio.gather(*(give_up() for _ in range(30)), *(cancelled() for _ in range(30)))
        assert await echo(1) == b"1"

    aio(use, limit=20)
    quiet.until(connections=1, active=1)


# --- curl -----------------------------------------------------------------------------------------


@pytest.fixture
def curl(tool):
    def run(*args: str, data: bytes | None = None) -> bytes:
        options = ["-q", "-sS", "--noproxy", "*", "--max-time", str(SAFETY)]
        return tool("curl", *options, *args, data=data)

    return run


def test_curl_gets_several_over_one_connection(quiet, curl):
    out = curl("-w", "|%{num_connects}|", *[f"{quiet.url}/hello"] * 3)
    assert out == b"Hello, World|1|Hello, World|0|Hello, World|0|"


def test_curl_http_1_0(quiet, curl):
    out = curl("-0", "-i", f"{quiet.url}/hello").decode()
    assert out.startswith("HTTP/1.1 200 OK\r\n")
    assert "\r\nConnection: close\r\n" in out
    assert curl("-0", f"{quiet.url}/stream/3") == bytes(3 * 65536)


def test_curl_head(quiet, curl):
    out = curl("-I", f"{quiet.url}/hello", f"{quiet.url}/hello").decode()
    assert out.count("HTTP/1.1 200 OK\r\n") == out.count("Content-Length: 12\r\n") == 2


def test_curl_uploads_with_expect(quiet, curl):
    args = ["-H", "Expect: 100-continue", "--expect100-timeout", str(SAFETY), "--data-binary", "@-"]
    out = curl("-w", "|%{http_code}|%{num_connects}", *args, f"{quiet.url}/echo", data=LARGE)
    assert out == LARGE + b"|200|1"


def test_curl_uploads_in_chunks(quiet, curl):
    args = ["-H", "Transfer-Encoding: chunked", "-T", "-"]
    assert curl(*args, f"{quiet.url}/echo", data=LARGE) == LARGE


def test_curl_upload_that_is_not_wanted(quiet, curl):
    """The answer comes before the upload: curl need not send it."""
    args = ["-H", "Expect: 100-continue", "--expect100-timeout", str(SAFETY), "--data-binary", "@-"]
    out = curl("-w", "|%{http_code}|%{size_upload}", *args, f"{quiet.url}/none", data=LARGE)
    assert out.endswith(b"|404|0")


def test_curl_follows_a_redirect_of_the_mux(quiet, curl):
    assert curl("-L", "--path-as-is", f"{quiet.url}/x/../hello") == b"Hello, World"


def test_curl_many_at_once(quiet, curl):
    out = curl("-Z", "--parallel-max", "50", *[f"{quiet.url}/hello"] * 300)
    assert out == b"Hello, World" * 300


# --- wrk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["-c64", "/hello"],
        ["-c64", "-H", "Connection: close", "/hello"],
        ["-c8", "/bytes/100000"],
        ["-c8", "/stream/4"],
        ["-c200", "/sleep?s=0.001"],
    ],
)
def test_wrk_has_no_errors(quiet, wrk, wait_until, args):
    *options, path = args
    done = wrk(quiet.url + path, *options)
    assert done > 0
    wait_until("all are counted", lambda: quiet.stats()["requests"] >= done)
