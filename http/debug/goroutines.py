"""The goroutines of this process as tables: alike ones together, and what they wait for.

All of them are looked at together, which takes milliseconds where there are many: what comes of it
is kept for a moment, so that no number of viewers can make the program look all the time.
"""

from __future__ import annotations

import os
import time
from typing import Any

from runtime._core import Goroutine, Mutex, _goroutine_groups
from runtime._inspect import StackFrame, find

MOST = 500  # groups, and objects, that are told
PAGE = 100  # of them at a time
_KEEP = 0.5  # seconds a table is good for
_SHARE = 50  # and at least so many times as long as it took to make

_MAX_FRAMES = 200
_MAX_TEXT = 200  # characters of what an object says of itself


def _place(site: tuple[str, int, str] | None) -> dict[str, Any] | None:
    return None if site is None else {"file": site[0], "line": site[1], "function": site[2]}


def _who(pairs: tuple[tuple[int, str], ...]) -> list[dict[str, Any]]:
    return [{"id": id, "name": name} for id, name in pairs]


def _describe(thing: object) -> str:
    try:
        text = repr(thing)
    except Exception:  # a user's own subclass
        text = object.__repr__(thing)
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _make() -> dict[str, Any]:
    total, ngroups, groups, nobjects, objects = _goroutine_groups(MOST)
    table: dict[str, Any] = {
        "total": total,
        "groups": ngroups,
        "objects": nobjects,
        "group_rows": [
            {
                "spawned_at": _place(site),
                "state": state,
                "wait_reason": reason,
                "count": count,
                "longest": longest,
                "sample": _who(sample),
            }
            for site, state, reason, count, longest, sample in groups
        ],
        "object_rows": [
            {
                "kind": type(thing).__name__,
                "what": _describe(thing),
                "wait_reason": reason,
                "count": count,
                "longest": longest,
                "sample": _who(sample),
                "holder": None
                if holder is None
                else dict(zip(("id", "name", "state", "wait_reason"), holder, strict=True)),
                "deadlock": deadlock,  # the holder waits, by way of others or not, for itself
            }
            for thing, reason, count, longest, sample, holder, deadlock in objects
        ],
    }
    table["object_rows"].sort(key=lambda row: not row["deadlock"])
    return table


class Tables:
    """The tables as they were a moment ago."""

    def __init__(self) -> None:
        self._lock = Mutex()
        self._table: dict[str, Any] = {}
        self._good_until = 0.0

    def get(self) -> dict[str, Any]:
        with self._lock:
            begun = time.monotonic()
            if begun >= self._good_until:
                self._table = _make()
                now = time.monotonic()
                self._good_until = now + max(_KEEP, _SHARE * (now - begun))
            return self._table


def _matches(row: dict[str, Any], text: str) -> bool:
    site = row.get("spawned_at")
    parts = [row["state"] if "state" in row else row["what"], row["wait_reason"] or ""]
    parts += [site["function"], f"{site['file']}:{site['line']}"] if site else []
    parts += [who["name"] for who in row["sample"]]
    if row.get("holder"):
        parts.append(row["holder"]["name"])
    return any(text in part.lower() for part in parts)


def select(table: dict[str, Any], rows: str, text: str, offset: int, limit: int) -> dict[str, Any]:
    """A part of a table: the rows in which the text is, some of them."""
    found = table[rows]
    if text:
        found = [row for row in found if _matches(row, text.lower())]
    return {
        "pid": os.getpid(),
        "total": table["total"],
        "groups": table["groups"],
        "objects": table["objects"],
        "shown": len(found),
        "offset": offset,
        "rows": found[offset : offset + limit],
    }


def _frame(frame: StackFrame) -> dict[str, Any]:
    return {"file": frame.file, "line": frame.line, "function": frame.function}


def _name(id: int) -> str:
    g = find(id)
    return f"goroutine-{id}" if g is None else g.name


def describe(id: int) -> dict[str, Any] | None:
    """All that is known of one goroutine, with its stack; None if there is none with this id."""
    g = find(id)
    if g is None:
        return None
    frames = g.stack or ()
    return {
        "pid": os.getpid(),
        "id": g.id,
        "name": g.name,
        "state": g.state,
        "wait_reason": g.wait_reason,
        "wait_duration": g.wait_duration,
        "spawned_at": None if g.spawned_at is None else _frame(g.spawned_at),
        "p": g.p,
        "locked": g.locked,
        "stack": [_frame(f) for f in frames[:_MAX_FRAMES]],
        "more_frames": max(0, len(frames) - _MAX_FRAMES),
        "waits_on": [
            {"what": _describe(on), "id": on.id if isinstance(on, Goroutine) else None}
            for on in g.waits_on
        ],
        "holders": [{"id": id, "name": _name(id)} for id in g.holders],
    }
