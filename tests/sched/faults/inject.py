"""inject.py SCENARIO TIMES START:STEP CALL:ERRNO...: run it with each of the calls failing.

For n = START, START + STEP ... the n-th call and the TIMES - 1 after it fail (-1: all after it).
Each trial has a process of its own, in which what is made on first use is not made yet.  Prints
how many trials came to a failure.
"""

import errno
import sys

import net_scenarios
import scenarios
from common import every_n, faults, trial

faults.hook()
make = (scenarios.ALL | net_scenarios.ALL)[sys.argv[1]]
times = int(sys.argv[2])
start, step = map(int, sys.argv[3].split(":"))
hits = 0
for what in sys.argv[4:]:
    call, name = what.split(":")
    number = getattr(errno, name)
    hits += every_n(
        what,
        lambda n, c=call, e=number: trial(make, (c, n, times, e)),
        start,
        step,
    )
print(hits)
