"""A cache of pages: each is fetched once, however many ask for it at the same time.

    python examples/page_cache.py

The pages come from a server of this program's own that takes its time and counts requests.
"""

import runtime
from runtime import atomic, errgroup, net, singleflight, sync

hits = atomic.Int64()


def serve(listener: net.Listener) -> None:
    for conn in listener:
        with conn:
            name = conn.read_until(b"\n").strip().decode()
            hits.add()
            runtime.sleep(0.02)
            conn.write(f"the page {name}\n".encode())


@sync.once_value
def server() -> str:
    """The address of the server, which is started by whoever needs it first."""
    listener = net.listen("tcp", "127.0.0.1:0")
    runtime.go.named("server")(serve, listener)
    return str(listener.addr)


class PageCache:
    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.lock = sync.RWMutex()
        self.flights: singleflight.Group[str, str] = singleflight.Group()
        self.connections = sync.Semaphore(3)

    def get(self, name: str) -> str:
        page = self.cached(name)
        if page is None:
            page, _ = self.flights.do(name, lambda: self.fetch(name))
        return page

    def cached(self, name: str) -> str | None:
        with self.lock.reader():
            return self.pages.get(name)

    def fetch(self, name: str) -> str:
        page = self.cached(name)
        if page is not None:  # another call has ended just now
            return page
        with self.connections, net.dial("tcp", server(), timeout=5) as conn:
            conn.write(f"{name}\n".encode())
            page = conn.read_until(b"\n").decode().strip()
        with self.lock:
            self.pages[name] = page
        return page


def main() -> None:
    cache = PageCache()
    names = ["index", "about", "news", "contact"]
    answers: sync.Map[int, str] = sync.Map()
    readers = errgroup.Group()
    for i in range(100):
        readers.go(lambda i=i: answers.store(i, cache.get(names[i % 4])))
    readers.wait()
    print(f"{len(answers)} answers, {len(set(dict(answers.items()).values()))} pages")
    print(f"{hits.load()} requests")


if __name__ == "__main__":
    main()
