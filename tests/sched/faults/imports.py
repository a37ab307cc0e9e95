"""imports.py START:STEP CALL:ERRNO...: load runtime._core while the n-th call fails.

For n = START, START + STEP ...  Then the package is imported once more, in the same process.
Prints how many loads came to a failure.
"""

import _imp
import errno
import gc
import importlib.machinery
import importlib.util
import os
import sys
import threading  # noqa: F401
import types
import weakref  # noqa: F401
from typing import Any

# Loaded before, as those above, so that only the core itself is tried.
import _cffi_backend  # noqa: F401
import greenlet  # noqa: F401
from common import Fault, check_runtime, every_n, faults

PACKAGE = os.path.join(os.environ["PYTHONPATH"].split(os.pathsep)[0], "runtime")


def module(name: str) -> Any:
    """An extension module of the package, not executed yet."""
    path = os.path.join(PACKAGE, name + importlib.machinery.EXTENSION_SUFFIXES[0])
    name = f"runtime.{name}"
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    return importlib.util.module_from_spec(spec)


def load(fault: Fault) -> bool:
    core = module("_core")
    faults.hook()
    sys.modules["runtime"] = types.ModuleType("runtime")
    execute = _imp.exec_dynamic  # nothing that fails can come after the core
    disarm = faults.disarm
    faults.arm(*fault)
    try:
        execute(core)
        disarm()
        sys.modules["runtime._core"] = core
    except (MemoryError, OSError, ImportError, RuntimeError):  # "can't allocate lock"
        disarm()
    hit = faults.seen() >= fault[1]
    del sys.modules["runtime"], core, execute
    gc.collect()
    import runtime  # noqa: F401

    check_runtime()
    return hit


netpoll = module("_netpoll")
netpoll.__loader__.exec_module(netpoll)
sys.modules["runtime._netpoll"] = netpoll
hits = 0
start, step = map(int, sys.argv[1].split(":"))
for what in sys.argv[2:]:
    call, name = what.split(":")
    number = getattr(errno, name)
    hits += every_n(what, lambda n, c=call, e=number: load((c, n, 1, e)), start, step)
print(hits)
