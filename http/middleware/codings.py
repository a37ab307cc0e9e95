"""Content codings: what compresses a body, whole or as a stream.

gzip is Python's own; brotli and zstandard are of the extra ``compress``, and from Python 3.14 on
Python has zstd itself. Each is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol


class Coder(Protocol):
    """Compresses one stream. Each call returns what can be sent so far."""

    def write(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes:
        """From what was returned the other side can tell all that was written."""
        ...

    def finish(self) -> bytes: ...


class Coding(NamedTuple):
    name: str  # as in Content-Encoding
    whole: Callable[[bytes], bytes]
    start: Callable[[], Coder]


class _Coder:
    """A Coder of three functions."""

    __slots__ = ("finish", "flush", "write")

    def __init__(
        self,
        write: Callable[[bytes], bytes],
        flush: Callable[[], bytes],
        finish: Callable[[], bytes],
    ) -> None:
        self.write, self.flush, self.finish = write, flush, finish


def _gzip(level: int) -> Coding:
    import zlib

    # 31: the largest window, and gzip's head and checksum.
    def start() -> Coder:
        z = zlib.compressobj(level, zlib.DEFLATED, 31)
        return _Coder(z.compress, lambda: z.flush(zlib.Z_SYNC_FLUSH), z.flush)

    def whole(data: bytes) -> bytes:
        z = zlib.compressobj(level, zlib.DEFLATED, 31)
        return z.compress(data) + z.flush()

    return Coding("gzip", whole, start)


def _brotli(level: int) -> Coding:
    brotli: Any = importlib.import_module("brotli")

    def start() -> Coder:
        z = brotli.Compressor(quality=level)
        return _Coder(z.process, z.flush, z.finish)

    return Coding("br", lambda data: brotli.compress(data, quality=level), start)


def _zstd(level: int) -> Coding:
    try:
        zstd: Any = importlib.import_module("compression.zstd")
    except ImportError:
        return _zstandard(level)

    def start() -> Coder:
        z = zstd.ZstdCompressor(level=level)
        return _Coder(z.compress, lambda: z.flush(z.FLUSH_BLOCK), z.flush)

    return Coding("zstd", lambda data: zstd.compress(data, level=level), start)


def _zstandard(level: int) -> Coding:
    zstandard: Any = importlib.import_module("zstandard")
    block = zstandard.COMPRESSOBJ_FLUSH_BLOCK

    # One serves a single thread at a time; for a short body to make it takes longer than to use it.
    free: list[Any] = []

    def whole(data: bytes) -> bytes:
        try:
            z = free.pop()
        except IndexError:
            z = zstandard.ZstdCompressor(level=level)
        coded: bytes = z.compress(data)
        if len(free) < _KEPT:
            free.append(z)
        return coded

    def start() -> Coder:
        z = zstandard.ZstdCompressor(level=level).compressobj()
        return _Coder(z.compress, lambda: z.flush(block), z.flush)

    return Coding("zstd", whole, start)


_KEPT = 8  # compressors, which take about a megabyte each

# By name: how it is made, its level if none is chosen, the lowest and highest. zstd's levels from
# 20 on need a larger window than a client must have (RFC 9659).
_KNOWN: dict[str, tuple[Callable[[int], Coding], int, int, int]] = {
    "zstd": (_zstd, 3, 1, 19),
    "br": (_brotli, 4, 0, 11),
    "gzip": (_gzip, 6, 1, 9),
}


def make_codings(
    names: tuple[str, ...] | None, levels: Mapping[str, int] | None
) -> dict[str, Coding]:
    """The codings of these names, best first; None: all that are installed.

    Raises ValueError for an unknown name or level, ImportError for what is not installed.
    """
    chosen = dict(levels or {})
    for name in (*(names or ()), *chosen):
        if name not in _KNOWN:
            raise ValueError(f"compress(): {name!r} is none of {', '.join(_KNOWN)}")
    codings: dict[str, Coding] = {}
    for name in names or _KNOWN:
        make, usual, lowest, highest = _KNOWN[name]
        level = chosen.get(name, usual)
        if not isinstance(level, int) or not lowest <= level <= highest:
            raise ValueError(
                f"compress(): the level of {name} is {lowest} to {highest}, not {level!r}"
            )
        try:
            codings[name] = make(level)
        except ImportError as exc:
            if names is not None:
                raise ImportError(
                    f"compress(): {name} needs a package: pip install 'gosched[compress]'"
                ) from exc
    return codings
