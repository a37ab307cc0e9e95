"""Tests of HTTP handlers without sockets: recorded responses, a server and a client in memory.

from runtime import httptest

def test_hello():
    with httptest.Server(lambda w, r: "Hello") as server:
        assert server.client().get("/").text == "Hello"

Go: net/http/httptest.
"""

from runtime._http.httptest import (
    REMOTE_ADDR,
    Client,
    Listener,
    Response,
    ResponseRecorder,
    Server,
    new_request,
    record,
)

__all__ = [
    "REMOTE_ADDR",
    "Client",
    "Listener",
    "Response",
    "ResponseRecorder",
    "Server",
    "new_request",
    "record",
]
