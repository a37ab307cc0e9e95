"""A server that uses every core: worker processes on one port, and what all of them have counted.

    GET /         which process answers
    GET /workers  each worker: process, restarts, requests

Usage: python examples/workers.py [HOST:PORT [WORKERS]]

Try `kill -HUP` on the process it prints: all workers are replaced, and no client notices.
"""

import logging
import os
import sys

from runtime import http

mux = http.ServeMux()


@mux.handle_func("GET /{$}")
def home(w, r):
    return f"Hello from process {os.getpid()}\n"


@mux.handle_func("GET /workers")
def workers(w, r):
    return [
        {
            "id": worker.id,  # -1: those that have ended
            "pid": worker.pid,
            "restarts": worker.restarts,
            "requests": worker.snapshot["stats"]["http"]["requests"],
        }
        for worker in http.workers()
    ]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else len(os.sched_getaffinity(0))
    http.serve(mux, address, workers=count)


if __name__ == "__main__":
    main()
