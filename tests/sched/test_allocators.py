"""Copies of stacks come from an allocator of the runtime's: others may come and go around it."""

import sysconfig

import pytest

from programs import run

ALLOCATORS = ["default"]
if not sysconfig.get_config_var("Py_GIL_DISABLED"):
    ALLOCATORS.append("malloc")  # without a GIL CPython has but its own

# start() and stop() do what those of a memory profiler do: they put another allocator there, and
# put back what was there before.  It works like the one it replaces, but CPython does not know it.
PROGRAM = """
import ctypes, tracemalloc

class Allocator(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("ctx", "malloc", "calloc", "realloc", "free")]

def start():
    ctypes.pythonapi.PyMem_GetAllocator(1, ctypes.byref(before))
    other = Allocator.from_buffer_copy(before)
    other.ctx = 1
    ctypes.pythonapi.PyMem_SetAllocator(1, ctypes.byref(other))

def stop():
    ctypes.pythonapi.PyMem_SetAllocator(1, ctypes.byref(before))

before = Allocator()
{before}
from runtime import Chan, go, gosched

def deep(n, ch):
    return sorted([n - 1], key=lambda n: deep(n, ch))[0] + 1 if n else ch.recv()

def rounds():
    ch = Chan()
    gs = [go(deep, n % 12, ch) for n in range(300)]
    gosched()
    for i in range(300):
        ch.send(i)
    for g in gs:
        g.join()
    return len(gs)

total = rounds()
gate = Chan()
waiting = [go(gate.recv) for _ in range(100)]
gosched()
{between}
total += rounds()
waiting += [go(gate.recv) for _ in range(100)]
gosched()
{after}
for _ in range(200):
    gate.send(1)
print(total + rounds() + sum(g.join() for g in waiting))
"""


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize(
    ("before", "between", "after"),
    [
        ("", "", ""),
        ("start()", "stop()", ""),
        ("start()", "", "stop()"),
        ("", "start()", "stop()"),
        ("start()", "stop()", "start()"),
    ],
)
def test_other_allocators_come_and_go_while_goroutines_are_parked(
    allocator: str, before: str, between: str, after: str
) -> None:
    program = PROGRAM.format(before=before, between=between, after=after)
    done = run(program, PYTHONMALLOC=allocator)
    assert (done.returncode, done.stdout) == (0, "1100\n"), done.stderr


def test_debug_allocator_is_left_alone() -> None:
    done = run(PROGRAM.format(before="", between="", after=""), PYTHONMALLOC="debug")
    assert (done.returncode, done.stdout) == (0, "1100\n"), done.stderr


def test_threads_start_while_memory_is_traced() -> None:
    program = PROGRAM.format(before="tracemalloc.start()", between="", after="")
    done = run(program, GOMAXPROCS="4")
    assert (done.returncode, done.stdout) == (0, "1100\n"), done.stderr


def test_stacks_of_many_depths_are_taken_up_where_they_were() -> None:
    done = run("""
        import random
        from runtime import Chan, go, gosched

        def deep(n, x, ch):
            if n == 0:
                return ch.recv() + x
            if n % 3 == 0:
                return sorted([x], key=lambda x: got.append(deep(n - 1, x, ch)))[0] and got.pop()
            return deep(n - 1, x, ch)

        got = []
        rng = random.Random(1)
        for _ in range(20):
            chans = [Chan() for _ in range(50)]
            gs = [go(deep, rng.randrange(1, 90), i + 1, ch) for i, ch in enumerate(chans)]
            gosched()
            order = list(range(50))
            rng.shuffle(order)
            for i in order:
                chans[i].send(1000 * i)
            assert sorted(g.join() for g in gs) == [1001 * i + 1 for i in range(50)]
        print("done")
    """)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
