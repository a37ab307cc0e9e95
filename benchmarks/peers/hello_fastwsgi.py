"""The hello server on fastwsgi (C, libuv, llhttp)."""

import sys

import fastwsgi

from wsgi_app import app

host, port = sys.argv[1].split(":")
fastwsgi.server.tcp_nodelay = 1
fastwsgi.run(wsgi_app=app, host=host, port=int(port), loglevel=fastwsgi.LL_ERROR)
