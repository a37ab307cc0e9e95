"""imports.py: `import runtime._core` while an allocation or a call fails, then once more."""
import sys, time
from common import *
import atexit, opcode, signal, threading, logging, types, glob, traceback
import greenlet, _cffi_backend

ROOT = os.environ["PYTHONPATH"].split(":")[0]
import importlib.util
spec = importlib.util.find_spec.__wrapped__ if 0 else None
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]

def load(name):
    path = f"{ROOT}/runtime/{name}{SUFFIX}"
    full = "runtime." + name
    loader = importlib.machinery.ExtensionFileLoader(full, path)
    spec = importlib.util.spec_from_loader(full, loader)
    m = importlib.util.module_from_spec(spec)
    return loader, m

l, m = load("_netpoll"); l.exec_module(m)
sys.modules["runtime._netpoll"] = m

def attempt(fault, dummy=None):
    l, m = load("_core")
    faults.hook()
    sys.modules["runtime"] = types.ModuleType("runtime")
    error = None
    disarm = faults.disarm
    faults.arm(*fault)
    try:
        l.exec_module(m)
        disarm()
    except BaseException as e:
        disarm()
        error = e
    del sys.modules["runtime"]
    hit = faults.seen() >= fault[1]
    if error:
        assert isinstance(error, (MemoryError, OSError, ImportError)), repr(error)
        del l, m
        if "-v" in sys.argv: traceback.print_exception(error)
        error = None
        import gc; gc.collect()
    else:
        sys.modules["runtime._core"] = m
    import runtime
    check_runtime()
    return hit
t0=time.time()
if sys.argv[2] == "every":
    n = every_n(lambda n: attempt((sys.argv[1], n, int(sys.argv[3]), 12)))
else:
    attempt((sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 12)); n=0
print(sys.argv, n, "%.2f s"%(time.time()-t0))
