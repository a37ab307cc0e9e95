"""Asks several servers at once and takes the first answer; the others are cancelled.

    python examples/first_answer.py

The servers are goroutines of this program that answer after a while, or fail.
"""

import random

import runtime
from runtime import net


def serve(listener: net.Listener, name: str, delay: float) -> None:
    for conn in listener:
        with conn:
            conn.read_until(b"\n")
            runtime.sleep(delay)
            conn.write(f"{name} here\n".encode())


def ask(addr: str) -> str:
    with net.dial("tcp", addr, timeout=10) as conn:
        conn.set_deadline(10)
        conn.write(b"who is there?\n")
        return conn.read_until(b"\n").decode().strip()


def first_answer(addrs: list[str]) -> str:
    answers = runtime.Chan(capacity=1)

    def run(addr: str) -> None:
        try:
            answer = ask(addr)
        except OSError as e:
            print(f"{addr.partition(':')[0]} fails: {e}")
            return
        if answers.try_send(answer):
            grp.cancel()  # the others need not go on

    with runtime.Group() as grp:
        for addr in addrs:
            grp.go(run, addr)
    answer, ok = answers.try_recv()
    if not ok:
        raise ConnectionError("no server has answered")
    return answer


def main() -> None:
    addrs = []
    for name in "alpha", "beta", "gamma":
        listener = net.listen("tcp", "127.0.0.1:0")
        runtime.go.named(name)(serve, listener, name, random.uniform(0.2, 0.4))
        addrs.append(str(listener.addr))
    closed = net.listen("tcp", "127.0.0.2:0")
    addrs.append(str(closed.addr))
    closed.close()
    print(first_answer(addrs))


if __name__ == "__main__":
    main()
