"""Watches a worker by its heartbeats, with a ticker and timers.

    python examples/heartbeat.py

The worker beats every 20 ms and hangs after a while.  The watchdog notices when no beat has come
for a second; a timer that each beat sets back does the same with a function.
"""

import runtime
from runtime import Chan, recv, select
from runtime.time import Ticker, Timer, after, after_func

BEAT = 0.02
PATIENCE = 1.0


def work(beats: Chan[int], n: int) -> None:
    with Ticker(BEAT) as ticker:
        for i, _ in enumerate(ticker, 1):
            beats.send(i)
            if i == n:
                break
    runtime.sleep(3600)  # it hangs


def main() -> None:
    beats: Chan[int] = Chan()
    late: Chan[str] = Chan(1)
    runtime.go(work, beats, 5)
    report = after_func(PATIENCE, late.send, "the function of a timer says so, too")
    patience = Timer(PATIENCE)
    while True:
        which, beat, _ = select(recv(beats), recv(patience.c))
        if which == 1:
            break
        patience.reset(PATIENCE)
        report.reset(PATIENCE)
        print(f"beat {beat}")
    print("no beat any more")
    print(late.recv())
    which, _, _ = select(recv(beats), recv(after(BEAT)))
    assert which == 1  # still none


if __name__ == "__main__":
    main()
