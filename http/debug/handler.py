"""The mux of the live page: http.debug.handler().

GET .                   the page
GET static/NAME         what it is made of
GET api/snapshot        all workers with their snapshots: {"workers": [...], "self": index}
GET api/events          the same again and again, as server-sent events; ?interval=SECONDS
GET api/goroutines      goroutines alike, the most first; ?q=TEXT&offset=N&limit=N&pid=PID
GET api/waits           what they wait for, and who holds it; likewise
GET api/stack           one of them, with its stack; ?id=N&pid=PID

The latter three tell of one process: the one that answers, or the worker with the given pid, which
is asked for it (workers/peers.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from runtime._core import ChanClosed
from runtime._http.chain import Middleware
from runtime._http.debug.access import guard
from runtime._http.debug.assets import Assets
from runtime._http.debug.feed import INTERVALS, Feed, workers_json
from runtime._http.debug.goroutines import PAGE, Tables, describe, select
from runtime._http.errors import HTTPError
from runtime._http.eventstream import event_stream
from runtime._http.mux import ServeMux
from runtime._http.replies import error
from runtime._http.workers import peers
from runtime.context import Canceled

_STATIC = Path(__file__).with_name("static")
_RETRY = 1.0  # seconds until a viewer that has lost the server looks for it again
_BUSY = 5  # until one comes again for whom there was no room


def _number(r: Any, name: str, default: int | None, most: int) -> int:
    text = r.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise HTTPError(400, f"{name} must be a number, 0 or more")
    return min(int(text), most)


def handler(*, auth: Middleware | None = None, max_viewers: int = 16) -> ServeMux:
    """A page that shows live what the scheduler and the HTTP servers of this program do.

        mux.mount("/debug/", http.debug.handler())
        mux.mount("/debug/", http.debug.handler(auth=middleware.basic_auth({"ann": "secret"})))

    Utilisation and run queues of the Ps, scheduling latency, goroutines with their stacks, who
    waits for whom, requests by route, and all worker processes.  It works below any prefix.
    Goroutines are those of one worker at a time, the one that is chosen, whichever answers.

    It is shown to this machine only (403 otherwise): to clients that connect from a loopback
    address, without a proxy, and ask for a name or address of this machine's.  With auth, a
    middleware such as basic_auth(), to whom that lets in, from anywhere.  A proxy on this machine
    that adds no field for the client's address looks like this machine: with one, use auth.

    At most max_viewers watch at a time, the next get 503.  One costs about 1 % of a core.

    Raises TypeError if auth is no middleware, ValueError if max_viewers is not positive.
    """
    if max_viewers < 1:
        raise ValueError(f"handler(): max_viewers must be 1 or more, not {max_viewers}")
    feed = Feed(max_viewers)
    tables = Tables()
    assets = Assets(_STATIC)
    mux = ServeMux()
    mux.use(guard(auth))

    @mux.handle_func("GET /{$}")
    def page(w: Any, r: Any) -> Any:
        return assets.send(w, r, "index.html")

    @mux.handle_func("GET /static/{name...}")
    def static(w: Any, r: Any) -> Any:
        return assets.send(w, r, r.path_value("name"))

    @mux.handle_func("GET /api/snapshot")
    def snapshot(w: Any, r: Any) -> str:
        w.headers.set("Content-Type", "application/json")
        return workers_json()

    @mux.handle_func("GET /api/events")
    def events(w: Any, r: Any) -> Any:
        try:
            interval = float(r.query.get("interval", "1"))
        except ValueError:
            interval = 0.0
        if interval not in INTERVALS:
            raise HTTPError(400, f"interval is one of {', '.join(f'{i:g}' for i in INTERVALS)}")
        viewer = feed.join(interval, r.context)
        if viewer is None:
            w.headers.set("Retry-After", str(_BUSY))
            return error(w, "too many watch already, or the server ends", 503)
        try:
            with event_stream(w, r, retry=_RETRY, slow="drop", buffer=2) as stream:
                while (text := viewer.recv(ctx=r.context)) is not None:
                    stream.send(text, event="snapshot")
        except ChanClosed:
            pass  # the server ends
        except (OSError, Canceled):
            pass  # the client has gone
        finally:
            feed.leave(interval, viewer)

    @mux.handle_func("GET /api/goroutines")
    def goroutines(w: Any, r: Any) -> Any:
        return rows(w, r, "group_rows")

    @mux.handle_func("GET /api/waits")
    def waits(w: Any, r: Any) -> Any:
        return rows(w, r, "object_rows")

    def rows(w: Any, r: Any, which: str) -> dict[str, Any]:
        text = r.query.get("q", "").strip()
        offset, limit = _number(r, "offset", 0, 1 << 31), _number(r, "limit", 50, PAGE)
        return tell(w, r, [which, text, offset, limit])

    @mux.handle_func("GET /api/stack")
    def stack(w: Any, r: Any) -> Any:
        return tell(w, r, ["stack", _number(r, "id", None, (1 << 63) - 1)])

    def tell(w: Any, r: Any, question: list[Any]) -> dict[str, Any]:
        own = os.getpid()
        pid = _number(r, "pid", own, 1 << 31)
        try:
            found = look(question) if pid == own else peers.ask(pid, question)
        except peers.Unanswered as exc:
            return refuse(w, exc.status, str(exc))
        if found is None:
            return refuse(w, 404, "there is no such goroutine (any more)")
        return cast(dict[str, Any], found)

    def refuse(w: Any, status: int, text: str) -> dict[str, Any]:
        w.headers.set("Content-Type", "application/json")
        w.write_header(status)
        return {"error": text}

    def look(question: list[Any]) -> dict[str, Any] | None:
        which, *rest = question
        return describe(*rest) if which == "stack" else select(tables.get(), which, *rest)

    peers.offer(look)
    return mux
