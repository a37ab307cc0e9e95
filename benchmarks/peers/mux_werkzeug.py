"""Lookups by werkzeug's router: python mux_werkzeug.py ROUTES PATH COUNT prints ns for each."""

import sys
import time

from werkzeug.routing import Map, Rule

import mux_routes

ROUTES, PATH, COUNT = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])

routes = [p.replace("{", "<").replace("}", ">") for p in mux_routes.patterns(ROUTES)]
adapter = Map([Rule(p, endpoint=p, methods=["GET"]) for p in routes]).bind("test")
best = float("inf")
for _ in range(5):
    began = time.perf_counter()
    for _ in range(COUNT):
        endpoint, values = adapter.match(PATH, "GET")
        values.get("id")
    best = min(best, time.perf_counter() - began)
print(best / COUNT * 1e9)
