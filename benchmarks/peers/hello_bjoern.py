"""The hello server on bjoern (C, libev, http_parser)."""

import sys

import bjoern

from wsgi_app import app

host, port = sys.argv[1].split(":")
bjoern.run(app, host, int(port))
