"""The prime sieve: a chain of goroutines, each of which filters out one prime's multiples.

From "Communicating Sequential Processes" (Hoare, 1978) by way of the Go documentation.
Usage: python examples/sieve.py [HOW_MANY]
"""

import sys

import runtime


def generate(out: runtime.Chan) -> None:
    """Send 2, 3, 4, ..."""
    number = 2
    while True:
        out.send(number)
        number += 1


def keep_indivisible(source: runtime.Chan, out: runtime.Chan, prime: int) -> None:
    """Pass on what prime does not divide."""
    for number in source:
        if number % prime:
            out.send(number)


def main(count: int) -> None:
    source = runtime.Chan()
    runtime.go(generate, source)
    for _ in range(count):
        prime = source.recv()
        print(prime)
        out = runtime.Chan()
        runtime.go(keep_indivisible, source, out, prime)
        source = out


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
