"""A server with hot restart: restart.py address mode-file.

The mode file says what a program that starts anew does: serve, exit, hang, wait (hang,
with a minute's time), listeners (those of net.listen()), proxied (in ProxyListeners), two (a
second server, at unix:mode-file.second).
Prints its address, and its process id when it serves.
"""

import logging
import os
import sys
import time
from pathlib import Path

import runtime
from runtime import http, net

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
address, mode = sys.argv[1], Path(sys.argv[2]).read_text()
if mode == "exit" and "GOSCHED_RESTART" in os.environ:
    sys.exit(3)
if mode in ("hang", "wait") and "GOSCHED_RESTART" in os.environ:
    time.sleep(600)


def handler(w, r):
    if r.path == "/hold":
        print("holding", flush=True)
        while not server.draining:
            runtime.sleep(0.005)
    return str(os.getpid())


server = http.Server(handler, address, hot_restart=0.5 if mode == "hang" else True)
listeners: list[net.Listener] = []
if mode in ("listeners", "proxied"):
    listeners = http.inherited_listeners() or [
        net.listen("tcp", "127.0.0.1:0"),
        net.listen("unix", f"{sys.argv[2]}.socket"),
    ]
    print(listeners[0].addr, flush=True)
else:
    server.listen()
    print(server.addr, flush=True)
if mode == "two":
    second = http.Server(handler, f"unix:{sys.argv[2]}.second")
    second.listen()
    runtime.go(second.serve)
print(os.getpid(), flush=True)
if mode == "proxied":
    server.serve(*(net.ProxyListener(i, trusted=[], untrusted="plain") for i in listeners))
else:
    server.serve(*listeners)
print("over", os.getpid(), flush=True)
