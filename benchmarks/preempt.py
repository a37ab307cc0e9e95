"""What waits while goroutines compute, and what being preempted costs them.

    python benchmarks/preempt.py [--seconds 3] [--hogs 2] [--callgrind]

Each measurement runs in a fresh process, on the main thread and on the spare one
(goroutines that a plain thread has spawned): the two are preempted in different ways.

    timer   how long a sleep of 1 ms takes
    echo    one byte to a goroutine over a socket and back
    hog     the time of a fixed computation that is preempted all the time, over its time
            with GOSCHED_PREEMPT=0

--callgrind counts instructions instead (needs valgrind): of one call and one turn of a
loop, in code that was never preempted and in code that was. The two must be equal:
nothing may stay instrumented.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

CHECKOUT = Path(__file__).resolve().parents[1]
TIMER = 0.001  # seconds

# --- measured in processes of their own ----------------------------------------------------


def spin(stop: list[bool]) -> None:
    while not stop:
        pass


def on(thread: str, fn: Callable[[], None]) -> None:
    """Run fn where its goroutines belong to the main thread's P, or to the spare one."""
    if thread == "main":
        fn()
        return
    t = threading.Thread(target=fn)
    t.start()
    t.join()


def timer(seconds: float, hogs: int) -> list[float]:
    from runtime import go, sleep

    def body() -> list[float]:
        times = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            sleep(TIMER)
            times.append(time.perf_counter() - start)
        stop.append(True)
        return times

    stop: list[bool] = []
    g = go(body)
    for _ in range(hogs):
        go(spin, stop)
    return g.join()


def echo(seconds: float, hogs: int) -> list[float]:
    from runtime import go, net

    def serve() -> None:
        with listener.accept() as conn:
            while data := conn.read(1):
                conn.write(data)

    def body() -> list[float]:
        times = []
        with net.dial("tcp", str(listener.addr)) as conn:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                conn.write(b"x")
                conn.read(1)
                times.append(time.perf_counter() - start)
        stop.append(True)
        return times

    stop: list[bool] = []
    with net.listen("tcp", "127.0.0.1:0") as listener:
        g = go(body)
        go(serve)
        for _ in range(hogs):
            go(spin, stop)
        return g.join()


def hog(seconds: float, hogs: int) -> list[float]:
    from runtime import go

    def work(turns: int) -> None:
        i = 0
        while i < turns:
            i = add_one(i)

    def add_one(i: int) -> int:
        return i + 1

    turns = int(5e6 * seconds)
    cpu = time.process_time()
    for g in [go(work, turns // hogs) for _ in range(hogs)]:
        g.join()
    return [time.process_time() - cpu]


def child(measure: str, thread: str, seconds: float, hogs: int) -> None:
    result: list[float] = []
    fn = {"timer": timer, "echo": echo, "hog": hog}[measure]
    on(thread, lambda: result.extend(fn(seconds, hogs)))
    print(json.dumps(result))


def count_turns(preempted: bool, thread: str, turns: int) -> None:
    """For callgrind: `turns` of a loop with a call, after preemptions or without any."""
    from runtime import go, stats

    def add_one(i: int) -> int:
        return i + 1

    def work(turns: int) -> None:
        i = 0
        while i < turns and not enough:
            i = add_one(i)

    enough: list[bool] = []

    def watch() -> None:
        from runtime import gosched

        while sum(p["preemptions"] for p in stats()["ps"]) < 8:
            gosched()
        enough.append(True)

    def body() -> None:
        if preempted:
            gs = [go(work, 1 << 29), go(work, 1 << 29), go(watch)]
            for g in gs:
                g.join()
            enough.clear()
        print("ready", flush=True)
        sys.stdin.readline()
        go(work, turns).join()

    on(thread, body)


# --- the programs that measure -------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "GOMAXPROCS": "1", "GOSCHED_STALL_MS": "0"} | more


def run(measure: str, thread: str, seconds: float, hogs: int, **env: str) -> list[float]:
    argv = [sys.executable, __file__, "--child", measure, thread, str(seconds), str(hogs)]
    out = subprocess.run(argv, env=environment(**env), stdout=subprocess.PIPE, check=True).stdout
    result: list[float] = json.loads(out)
    return result


def row(name: str, times: list[float], nominal: float) -> None:
    cuts = quantiles(times, n=100) if len(times) > 1 else times * 99
    p50, p99 = cuts[49] * 1e3, cuts[98] * 1e3
    top = max(times) * 1e3
    print(
        f"| {name} | {nominal * 1e3:.3f} | {p50:.2f} | {p99:.2f} | {top:.2f} "
        f"| {p50 / nominal / 1e3:.1f}x |"
    )


def latencies(seconds: float, hogs: int) -> None:
    print("| measure | nominal ms | p50 ms | p99 ms | max ms | p50 / nominal |")
    print("|---|---|---|---|---|---|")
    for thread in ("main", "spare"):
        row(f"timer, {thread}", run("timer", thread, seconds, hogs), TIMER)
        alone = median(run("echo", thread, seconds / 3, 0))
        row(f"echo, {thread}", run("echo", thread, seconds, hogs), alone)
    for thread in ("main", "spare"):
        calm = [run("hog", thread, seconds, hogs, GOSCHED_PREEMPT="0")[0] for _ in range(3)]
        busy = [run("hog", thread, seconds, hogs)[0] for _ in range(3)]
        row(f"hog, {thread}", [median(busy)], median(calm))


def instructions(preempted: bool, thread: str) -> float:
    """Of one turn, from two runs of different length."""
    counts = []
    for turns in (50_000, 250_000):
        with tempfile.TemporaryDirectory() as where:
            argv = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={where}/out"]
            argv += [sys.executable, __file__, "--count", str(int(preempted)), thread, str(turns)]
            pipe = subprocess.PIPE
            with subprocess.Popen(
                argv, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True
            ) as program:
                assert program.stdout is not None
                program.stdout.readline()
                zero = ["callgrind_control", "-z", str(program.pid)]
                subprocess.run(zero, stdout=pipe, stderr=pipe, check=True)
                _, err = program.communicate("\n")
        found = re.search(r"Collected : (\d+)", err)
        if program.returncode or not found:
            sys.exit(f"callgrind failed:\n{err}")
        counts.append((turns, int(found[1])))
    (n1, i1), (n2, i2) = counts
    return (i2 - i1) / (n2 - n1)


def callgrind() -> None:
    if shutil.which("valgrind") is None:
        sys.exit("--callgrind needs valgrind (apt-get install valgrind)")
    print("| thread | never preempted | preempted before | ratio |")
    print("|---|---|---|---|")
    for thread in ("main", "spare"):
        before, after = instructions(False, thread), instructions(True, thread)
        print(f"| {thread} | {before:.1f} | {after:.1f} | {after / before:.3f}x |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--hogs", type=int, default=2, help="goroutines that compute")
    parser.add_argument("--callgrind", action="store_true")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--count", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure, thread, seconds, hogs = args.child
        child(measure, thread, float(seconds), int(hogs))
    elif args.count:
        preempted, thread, turns = args.count
        count_turns(bool(int(preempted)), thread, int(turns))
    elif args.callgrind:
        callgrind()
    else:
        latencies(args.seconds, args.hogs)


if __name__ == "__main__":
    main()
