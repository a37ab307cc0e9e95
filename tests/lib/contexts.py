"""The least that blocking calls take as a context."""

from typing import Any

from runtime import Chan


class Ended(Exception):
    pass


class Context:
    """Ends at end()."""

    def __init__(self, ended: bool = False) -> None:
        self.chan: Chan[Any] = Chan()
        if ended:
            self.end()

    def done(self) -> Chan[Any]:
        return self.chan

    def err(self) -> Exception | None:
        return Ended("it has ended") if self.chan.closed else None

    def end(self) -> None:
        if not self.chan.closed:
            self.chan.close()


class Background:
    """Never ends."""

    def done(self) -> None:
        return None

    def err(self) -> None:
        return None
