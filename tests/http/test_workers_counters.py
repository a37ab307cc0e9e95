"""What workers have counted is what clients have seen, whatever has become of the workers."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

SAFETY = 60.0
DURATION = "http_server_request_duration_seconds_count"
METHODS = ["GET", "GET", "HEAD", "POST", "PURGE"]
STATUSES = [200, 200, 201, 204, 304, 404, 418, 503]
SIZES = [0, 1, 100, 5_000, 70_000, 350_000]


class Reading:
    """A socket that counts what is read from it."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.count = 0

    def recv(self, n: int) -> bytes:
        data = self._sock.recv(n)
        self.count += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Client:
    """One connection; `counts` is what its worker has to have counted for it."""

    def __init__(self, served: Any) -> None:
        self.conn = served.connect()
        self.conn.sock = self.sock = Reading(self.conn.sock)
        self.counts: Counter[Any] = Counter(accepted=1)
        self.pid = 0
        self.open = True
        self.asked: Counter[Any] = Counter()  # what is not answered

    def ask(self, target: str, method: str = "GET", status: int = 200, body: bytes = b"") -> Any:
        _, first, *rest = target.split("/")
        route = f"/{first}/{{status}}/{{size}}" if rest else target
        counted = method if method in ("GET", "HEAD", "POST") else "OTHER"
        request = Counter({"requests": 1, (counted, route, status): 1})
        self.asked = request + Counter(sent=int(rest[-1]) + 1000 if rest else 0)
        before = self.sock.count
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.conn.send(f"{method} {target} HTTP/1.1\r\nHost: test\r\n{length}\r\n".encode() + body)
        r = self.conn.response(method)
        if (r.status, self.conn.buf) != (status, b""):  # other than a connection that breaks
            raise ValueError(f"{method} {target}: {r.status}, and then {self.conn.buf!r}")
        self.asked.clear()
        self.counts += request + Counter(sent=self.sock.count - before)
        self.pid = int((r.all("worker") or [self.pid])[0])
        self.open = r.all("connection") != ["close"]
        return r

    def ask_anything(self, rng: random.Random) -> None:
        status = rng.choice(STATUSES)
        size = 0 if status in (204, 304) else rng.choice(SIZES)
        route = rng.choice(["mixed", "other"])
        method = rng.choice(METHODS)
        body = rng.randbytes(rng.choice([0, 10, 20_000])) if method == "POST" else b""
        self.ask(f"/{route}/{status}/{size}", method, status, body)


class Crowd:
    """Clients that ask for anything, on connections for one request and for many."""

    def __init__(self, served: Any) -> None:
        self.served = served
        self.counts: dict[int, Counter[Any]] = {}  # by the worker's process id
        self.unsure: Counter[Any] = Counter()  # what may have been counted: nobody knows
        self._lock = threading.Lock()
        self._seeds = iter(range(1000))

    def begin(self, *, lenient: bool = False) -> None:
        """lenient: connections may break."""
        self.over = threading.Event()
        self.failures: list[BaseException] = []
        self.threads = [
            threading.Thread(target=self._run, args=(random.Random(next(self._seeds)), lenient))
            for _ in range(4)
        ]
        for t in self.threads:
            t.start()

    def _run(self, rng: random.Random, lenient: bool) -> None:
        try:
            while not self.over.is_set():
                self._use(Client(self.served), rng, lenient)
        except BaseException as exc:
            self.failures.append(exc)

    def _use(self, client: Client, rng: random.Random, lenient: bool) -> None:
        broken = (OSError, AssertionError) if lenient else ()
        with client.conn, suppress(*broken):
            for _ in range(rng.choice([1, 1, 5, 30])):
                client.ask_anything(rng)
                if not client.open:
                    break
        self.add(client)

    def add(self, client: Client) -> None:
        with self._lock:
            if client.pid:
                self.counts.setdefault(client.pid, Counter()).update(client.counts)
                self.unsure += client.asked
            else:
                self.unsure += client.counts + client.asked
        client.counts = Counter()

    def requests(self, pid: int) -> int:
        with self._lock:
            return self.counts.get(pid, Counter())["requests"]

    def end(self) -> None:
        self.over.set()
        for t in self.threads:
            t.join(SAFETY)
            assert not t.is_alive()
        if self.failures:
            raise self.failures[0]

    def total(self, without: int = 0) -> Counter[Any]:
        with self._lock:
            return sum((c for pid, c in self.counts.items() if pid != without), Counter())


def counted(reply: Any) -> dict[int, Counter[Any]]:
    """What http.workers() has found, by process id."""
    found: dict[int, Counter[Any]] = {}
    for w in json.loads(reply.body):
        http = w["http"]
        counts = found[w["pid"]] = Counter(
            requests=http["requests"], accepted=http["accepted"], sent=http["bytes_written"]
        )
        for r in w["routes"]:
            for status, n in r["statuses"].items():
                counts[r["method"], r["route"], int(status)] = n
    return {pid: +counts for pid, counts in found.items()}


def exported(reply: Any) -> Counter[Any]:
    """The same of all workers together, from the text for Prometheus."""
    names = {
        "gosched_http_requests_total": "requests",
        "gosched_http_connections_accepted_total": "accepted",
        "gosched_http_sent_bytes_total": "sent",
    }
    counts: Counter[Any] = Counter()
    for family in text_string_to_metric_families(reply.body.decode()):
        for name, labels, value, *_ in family.samples:
            if name in names:
                counts[names[name]] = int(value)
            elif name == DURATION:
                method = labels["http_request_method"].replace("_OTHER", "OTHER")
                status = int(labels["http_response_status_code"])
                counts[method, labels["http_route"], status] = int(value)
    return +counts


def summed(found: dict[int, Counter[Any]]) -> Counter[Any]:
    return sum(found.values(), Counter())


def test_sums_are_what_clients_have_seen_through_reload_and_kill(supervised, wait_until):
    s = supervised(workers=2, env={"GOMAXPROCS": "2"}).until_serving(2)
    crowd = Crowd(s)

    def until_all_serve(pids: list[int]) -> None:
        enough = {pid: crowd.requests(pid) + 50 for pid in pids}
        wait_until(
            "both have served",
            lambda: crowd.failures or all(crowd.requests(pid) >= n for pid, n in enough.items()),
        )

    def check_exactly() -> None:
        watch = Client(s)
        with watch.conn:

            def all_are_counted() -> bool:
                wanted = crowd.total() + watch.counts  # the request that asks is not over
                return summed(counted(watch.ask("/counts"))) == wanted

            wait_until("all are counted", all_are_counted)
            # What is published is a little older: it is the state at one of these requests.
            states: list[Counter[Any]] = []

            def all_are_exported() -> bool:
                states.append(crowd.total() + watch.counts)
                return exported(watch.ask("/metrics")) in states

            wait_until("all are exported", all_are_exported)
        crowd.add(watch)

    crowd.begin()
    until_all_serve(s.started())
    s.send_signal(signal.SIGHUP)
    new = s.until_started(4)[2:]
    until_all_serve(new)
    crowd.end()
    s.until_logged("has ended with status 0", 2)
    check_exactly()

    crowd.begin(lenient=True)
    until_all_serve(new)
    watch = Client(s)
    with watch.conn:
        before = counted(watch.ask("/counts"))
    crowd.add(watch)
    killed = next(pid for pid in new if pid != watch.pid)
    os.kill(killed, signal.SIGKILL)
    until_all_serve([watch.pid, s.until_started(5)[-1]])
    crowd.end()
    least = crowd.total(without=killed) + before[killed]
    watch = Client(s)
    with watch.conn:

        def all_but_the_last_are_counted() -> bool:
            nonlocal found
            wanted = least + watch.counts
            found = summed(counted(watch.ask("/counts")))
            return found >= wanted

        found: Counter[Any] = Counter()
        wait_until("all but the last are counted", all_but_the_last_are_counted)
        assert found <= crowd.total() + watch.counts + crowd.unsure
    s.stop()
