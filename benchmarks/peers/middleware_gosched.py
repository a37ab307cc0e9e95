"""Serves requests with one middleware: python middleware_gosched.py NAME COUNT prints ns for each.

What is counted is the CPU time of the server's thread. Another process sends the requests, 64 at a
time, so that little of the figure is for system calls.
"""

import base64
import hashlib
import hmac
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from runtime import http
from runtime.http import middleware

NAME, COUNT = sys.argv[1], int(sys.argv[2])
BATCH, WARM = 64, 2000
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
METHOD = "GET" if NAME.startswith("etag") else "POST"
SECRET = b"0123456789abcdef" * 2


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token() -> str:
    claims = {
        "iss": "https://login.example.com/",
        "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "aud": "shop",
        "iat": int(time.time()),
        "exp": int(time.time()) + 3600,
        "scope": "openid profile items:read",
    }
    header = {"alg": "HS256", "typ": "JWT"}
    text = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{encode(hmac.digest(SECRET, text.encode(), 'sha256'))}"


AUTHORIZATION = f"Bearer {token()}" if NAME.startswith("jwt") else "Basic YW5uOnNlY3JldA=="
HEAD = f"""{METHOD} /users/5 HTTP/1.1
Host: example.com
Origin: https://example.com
Sec-Fetch-Site: same-origin
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0
Authorization: {AUTHORIZATION}
X-Key: 0123456789abcdef
X-Forwarded-For: 192.0.2.7
X-Forwarded-Proto: https
Accept-Encoding: gzip, deflate, br, zstd
traceparent: {TRACE}
Content-Length: 0

""".replace("\n", "\r\n").encode()


def hashed() -> middleware.hashed:
    digest = hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 1000)
    text = base64.b64encode(digest, b"./").decode().rstrip("=")
    return middleware.hashed({"ann": f"$pbkdf2-sha256$1000$c2FsdA${text}"})


def jwt_auth(handler: Any) -> Any:
    return middleware.jwt_auth(key=SECRET, algorithms=["HS256"], audience="shop")(handler)


def scopes(handler: Any) -> Any:
    return jwt_auth(middleware.require_scopes("items:read")(handler))


devnull = open(os.devnull, "w")  # noqa: SIM115
logger = logging.getLogger("access")
logger.addHandler(logging.StreamHandler(devnull))
logger.setLevel("INFO")
logger.propagate = False
logs = {name: middleware.access_log(name, file=devnull) for name in ("common", "combined", "json")}
logs["logger"] = middleware.access_log(logger=logger)
WAYS: dict[str, Callable[[Any], Any]] = {
    "none": lambda handler: handler,
    "none written": lambda handler: handler,
    "security_headers": middleware.security_headers(),
    "cors": middleware.cors(["https://example.com"]),
    "cross_origin_protection": middleware.cross_origin_protection(),
    "request_id": middleware.request_id(),
    "real_address": middleware.real_address(),
    "basic_auth": middleware.basic_auth({"ann": "secret"}),
    "basic_auth hashed": middleware.basic_auth(hashed()),
    "api_key": middleware.api_key(["0123456789abcdef"], header="X-Key"),
    "rate_limit": middleware.rate_limit("900000/second"),
    "rate_limit key": middleware.rate_limit("900000/second", key=lambda r: r.headers.get("X-Key")),
    "limit_concurrency": middleware.limit_concurrency(100),
    "body_limit": middleware.body_limit(1 << 20),
    "compress": middleware.compress(),
    "compress written": middleware.compress(),
    "etag": middleware.etag(),
    "etag written": middleware.etag(),
    "recover": middleware.recover(),
    "jwt_auth": jwt_auth,
    "jwt_auth scopes": scopes,
    **{f"access_log {name}": log for name, log in logs.items()},
}


def send(address: str) -> None:
    """Until the server ends."""
    host, port = address.split(":")
    with suppress(OSError), socket.create_connection((host, int(port))) as conn:
        while True:
            conn.sendall(HEAD * BATCH)
            received = b""
            while received.count(b"Hello, World") < BATCH:
                data = conn.recv(1 << 20)
                if not data:
                    return
                received += data


def main() -> None:
    began = served = 0
    writes = NAME.endswith(" written")

    def handler(w: http.ResponseWriter, r: http.Request) -> str | None:
        nonlocal began, served
        served += 1
        if served == WARM:
            began = time.thread_time_ns()
        elif served == WARM + COUNT:
            for log in logs.values():
                if log is not logs["logger"]:  # what logging itself takes is its own thread's time
                    log.flush()
            print((time.thread_time_ns() - began) / COUNT, flush=True)
            os._exit(0)
        if writes:
            w.write("Hello, World")
            return None
        return "Hello, World"

    server = http.Server(WAYS[NAME](handler), "127.0.0.1:0")
    server.listen()
    if os.fork() == 0:
        send(server.addr)
        os._exit(0)
    server.serve()


if __name__ == "__main__":
    main()
