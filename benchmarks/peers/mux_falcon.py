"""Lookups by falcon's router: python mux_falcon.py ROUTES PATH COUNT prints ns for each."""

import sys
import time

from falcon.routing import CompiledRouter

import mux_routes

ROUTES, PATH, COUNT = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])


class Resource:
    def on_get(self, req: object, resp: object, **values: str) -> None: ...


router = CompiledRouter()
for pattern in mux_routes.patterns(ROUTES):
    router.add_route(pattern, Resource())
assert router.find(PATH) is not None
best = float("inf")
for _ in range(5):
    began = time.perf_counter()
    for _ in range(COUNT):
        found = router.find(PATH)
        found[1]["GET"], found[2].get("id")
    best = min(best, time.perf_counter() - began)
print(best / COUNT * 1e9)
