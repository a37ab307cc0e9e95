"""ResponseWriters around another one.

Around is for each request: making it, and a short write, must cost little. So a write takes no
lock while all is held back: it appends to a list and then looks whether somebody has begun to
send meanwhile. Who begins says so first and then takes what is in the list; a write that is seen
by neither of the two cannot be.
"""

from __future__ import annotations

from typing import Any

from runtime._core import _CONTENT_FIELDS, Headers, Mutex
from runtime._http.controller import ResponseController


class Around:
    """Holds back what is written until there is `limit` of it, or it is sent for another reason.

    What a subclass does not do is left to the writer inside, by names rather than __getattr__,
    with which all attributes would be slow.
    """

    # What each request needs; the dict is made where there is more to it.
    __slots__ = ("__dict__", "_begun", "_held", "_limit", "_size", "_w")

    def __init__(self, w: Any, limit: int) -> None:
        self._w = w
        self._limit = limit
        self._held: list[str | bytes] = []
        self._size = 0  # bytes, or characters, so far
        self._begun = False  # nothing is held back any more

    def unwrap(self) -> Any:
        """The writer inside, as ResponseController looks for it."""
        return self._w

    @property
    def headers(self) -> Headers:
        found: Headers = self._w.headers
        return found

    def write(self, data: Any, /) -> None:
        if self._begun:
            self._write_on(data)
            return
        if type(data) is not str and type(data) is not bytes and not isinstance(data, str):
            try:
                data = bytes(memoryview(data))  # its owner may change it
            except TypeError:
                name = type(data).__name__
                raise TypeError(f"write() needs str or bytes, not {name}") from None
        self._held.append(data)
        size = self._size = self._size + len(data)
        if size >= self._limit or self._begun:
            self._write_out()

    @property
    def status(self) -> int:
        status: int = self._w.status
        return status

    @property
    def trailers(self) -> Headers:
        found: Headers = self._w.trailers
        return found

    def write_informational(self, status: int, headers: Any = None) -> None:
        self._w.write_informational(status, headers)

    def set_read_deadline(self, seconds: float | None, /) -> None:
        ResponseController(self._w).set_read_deadline(seconds)

    def set_write_deadline(self, seconds: float | None, /) -> None:
        ResponseController(self._w).set_write_deadline(seconds)

    @property
    def _mutex(self) -> Any:
        """For all but the first writes; made by whoever is the first to need it."""
        return self.__dict__.get("mutex") or self.__dict__.setdefault("mutex", Mutex())

    def _write_on(self, data: Any) -> None:
        """Write what follows."""
        raise NotImplementedError

    def _write_out(self) -> None:
        """There is enough, or more has come after all was sent: write what is held."""
        raise NotImplementedError

    def _take(self) -> list[str | bytes]:
        """What is held, which is the caller's from now on."""
        held = self._held
        taken = held[:]
        del held[: len(taken)]
        return taken


def joined(pieces: list[str | bytes]) -> bytes:
    return b"".join([p.encode() if isinstance(p, str) else p for p in pieces])


def listed(headers: Any, name: str, token: str) -> bool:
    """Is it in the list that this field is?"""
    return name in headers and token in ",".join(headers.get_all(name)).lower()


def forget(w: Any) -> bool:
    """Take back what was said of the response. False where that cannot be done any more."""
    take_back = getattr(w, "_forget", None)
    if not (take_back() if take_back is not None else w.status == 0 and w.bytes_written == 0):
        return False
    for name in _CONTENT_FIELDS:
        w.headers.delete(name)
    return True
