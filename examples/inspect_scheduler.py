"""What do all goroutines do?  A little pipeline looks at itself.

    python examples/inspect_scheduler.py
    python examples/inspect_scheduler.py --wait     # then: kill -QUIT <pid>
"""

import os
import sys

import runtime


def produce(numbers):
    for n in range(6):
        numbers.send(n)  # waits: the buffer has room for two only


def square(numbers, squares):
    for n in numbers:
        squares.send(n * n)  # waits: nobody receives yet


def watch(mutex):
    with mutex:
        pass


def main():
    numbers, squares, mutex = runtime.Chan(2), runtime.Chan(), runtime.Mutex()
    mutex.lock()
    runtime.go.named("producer")(produce, numbers)
    for i in range(2):
        runtime.go.named(f"worker-{i}")(square, numbers, squares)
    runtime.go.named("watcher")(watch, mutex)
    runtime.go.named("ticker")(runtime.sleep, 3600)
    while any(g.state != "waiting" for g in runtime.goroutines()[1:]):
        runtime.gosched()  # until each of the others has come to where it waits

    print(f"{'goroutine':<12} {'state':<10} {'waits for':<16} {'where'}")
    for g in runtime.goroutines(stacks=True):
        where = f"{g.stack[0].function}, line {g.stack[0].line}"
        print(f"{g.name:<12} {g.state:<10} {g.wait_reason or '-':<16} {where}")

    print("\nThe same as a dump:\n")
    print(runtime.stack(all=True))

    if "--wait" in sys.argv[1:]:
        print(f"kill -QUIT {os.getpid()} prints it again and ends the process", flush=True)
        runtime.sleep(3600)


main()
