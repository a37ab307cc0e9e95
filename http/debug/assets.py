"""The files that the live page is made of, in memory: they are few and small."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from runtime._http.replies import not_found

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    "": "text/plain; charset=utf-8",  # the licence of uPlot
}


class _Asset(NamedTuple):
    body: bytes
    type: str
    etag: str


class Assets:
    """The files below a directory, by path."""

    def __init__(self, root: Path) -> None:
        self._files: dict[str, _Asset] = {}
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix in _TYPES:
                body = path.read_bytes()
                etag = f'"{sha256(body).hexdigest()[:16]}"'
                name = path.relative_to(root).as_posix()
                self._files[name] = _Asset(body, _TYPES[path.suffix], etag)

    def __iter__(self) -> Any:
        return iter(self._files.items())

    def send(self, w: Any, r: Any, name: str) -> Any:
        """Reply with the file of this name, or 304 where the client has it, or 404."""
        asset = self._files.get(name)
        if asset is None:
            return not_found(w, r)
        w.headers.set("Cache-Control", "no-cache")  # ask each time whether it has changed
        w.headers.set("ETag", asset.etag)
        if r.headers.get("If-None-Match") == asset.etag:
            w.write_header(304)
            return None
        w.headers.set("Content-Type", asset.type)
        return asset.body
