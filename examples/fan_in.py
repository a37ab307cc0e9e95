"""Merges what several sources send, until all have ended or are silent for too long.

    python examples/fan_in.py

One select waits for all channels at once.  Where a source has ended, None takes the place of
its channel: a case that is never ready.
"""

import random

import runtime
from runtime import Receiver, Sender, recv, select


def source(out: Sender[int], how_many: int) -> None:
    """Send some numbers, at random intervals."""
    for number in range(how_many):
        runtime.sleep(random.uniform(0, 0.01))
        out.send(number)
    out.close()


def stuck(out: Sender[int]) -> None:
    """Send one number, and then nothing more, without an end."""
    out.send(0)
    runtime.Chan[None]().recv()


def merge(sources: dict[str, Receiver[int]], patience: float) -> None:
    """Print what comes from any of them.  TimeoutError: nothing has come for so long."""
    names = list(sources)
    channels: list[Receiver[int] | None] = list(sources.values())
    while any(channels):
        match select(*map(recv, channels), timeout=patience):
            case (i, number, True):
                print(f"{names[i]}: {number}")
            case (i, _, False):
                print(f"{names[i]} has ended")
                channels[i] = None


def main() -> None:
    sources = {}
    for name, how_many in ("alpha", 3), ("beta", 5), ("gamma", 1):
        channel = runtime.Chan[int]()
        runtime.go.named(name)(source, channel.sender(), how_many)
        sources[name] = channel.receiver()
    silent = runtime.Chan[int]()
    runtime.go.named("delta")(stuck, silent.sender())
    sources["delta"] = silent.receiver()
    try:
        merge(sources, patience=1)
    except TimeoutError:
        print("the others are silent")


if __name__ == "__main__":
    main()
