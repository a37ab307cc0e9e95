"""inject.py SCENARIO TIMES CALL:ERRNO...: run it with each of the calls failing, for every n.

The n-th call and the TIMES - 1 after it fail.  First each trial has a process of its own, in
which what is made on first use is not made yet; then all have one process, as often as there
was a new n.  Prints "ok".
"""

import errno
import signal
import sys

import scenarios
from common import TIME_LIMIT, every_n, faults, finish, trial

faults.hook()
make = scenarios.ALL[sys.argv[1]]
times = int(sys.argv[2])
problems: list[str] = []
for what in sys.argv[3:]:
    call, name = what.split(":")
    number = getattr(errno, name)
    problems += every_n(what, lambda n, c=call, e=number: trial(make, (c, n, times, e)))
finish(problems)
