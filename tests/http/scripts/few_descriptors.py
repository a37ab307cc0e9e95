"""A server in a process that may have only a few descriptors: few_descriptors.py number."""

import os
import resource
import sys

import runtime
from runtime import http


def handler(w, r):
    if r.path == "/stats":
        polls = sum(p["polls"] for p in runtime.stats()["ps"])
        return {**server.stats(), "polls": polls}
    return "Hello"


server = http.Server(handler, "127.0.0.1:0")
server.listen()
in_use = len(os.listdir("/proc/self/fd"))
limit = in_use + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
print(server.addr, flush=True)
server.serve()
