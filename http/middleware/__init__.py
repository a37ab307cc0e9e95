"""Handlers around handlers: http.middleware.

A middleware is a function that is given a handler and returns one. It is put around a single
handler by calling it, around one route by ``mux.handle(pattern, handler, use=[...])``, around all
routes of a mux by ``mux.use(...)``, and around everything by wrapping what is served::

    mux = http.ServeMux()
    mux.use(middleware.security_headers(), middleware.request_id())
    http.serve(middleware.chain(mux, middleware.cors("https://app.example")), ":8080")

The first one named is the outermost: it sees the request first and the response last.
"""

from runtime._http.chain import chain
from runtime._http.middleware.accesslog import AccessEntry, access_log
from runtime._http.middleware.auth import Authentication, any_of, api_key, basic_auth
from runtime._http.middleware.bounds import body_limit, time_out
from runtime._http.middleware.client import real_address
from runtime._http.middleware.compress import compress
from runtime._http.middleware.cors import cors
from runtime._http.middleware.etag import etag
from runtime._http.middleware.jwks import JWKS
from runtime._http.middleware.jwt import jwt_auth
from runtime._http.middleware.origin import cross_origin_protection
from runtime._http.middleware.passwords import hash_password, hashed
from runtime._http.middleware.ratelimit import client_address, rate_limit
from runtime._http.middleware.recover import recover
from runtime._http.middleware.scopes import require_scopes
from runtime._http.middleware.security import security_headers
from runtime._http.middleware.shed import ConcurrencyStats, limit_concurrency
from runtime._http.middleware.trace import TraceParent, request_id

__all__ = [
    "JWKS",
    "AccessEntry",
    "Authentication",
    "ConcurrencyStats",
    "TraceParent",
    "access_log",
    "any_of",
    "api_key",
    "basic_auth",
    "body_limit",
    "chain",
    "client_address",
    "compress",
    "cors",
    "cross_origin_protection",
    "etag",
    "hash_password",
    "hashed",
    "jwt_auth",
    "limit_concurrency",
    "rate_limit",
    "real_address",
    "recover",
    "request_id",
    "require_scopes",
    "security_headers",
    "time_out",
]
