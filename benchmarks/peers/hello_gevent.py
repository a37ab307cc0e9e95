"""The hello server on gevent's pywsgi."""

import socket
import sys

import gevent.socket
from gevent.pywsgi import WSGIServer

from wsgi_app import app

host, port = sys.argv[1].split(":")
listener = gevent.socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
listener.bind((host, int(port)))
listener.listen(1024)
WSGIServer(listener, app, log=None).serve_forever()
