"""cffi build of ``runtime._netpoll``, the poller's table of functions.

The table that ``rt_netpoll_default()`` returns serves two users: Python code
(tests, inspection) calls it through this module, and the core takes its address,
``int(ffi.cast("uintptr_t", lib.rt_netpoll_default()))``, and calls it from C.  The
declarations below mirror ``rt_netpoll.h``; the C compiler checks them against it.

setuptools executes this file (``cffi_modules``) with the project's root as the
working directory; paths are relative to it.  To build by hand, from the root::

    python csrc/netpoll_ffi.py
"""

import os
import sys
import sysconfig

from cffi import FFI

ffibuilder = FFI()

ffibuilder.cdef(
    """
    enum {
        RT_POLL_IN = 1,
        RT_POLL_OUT = 2,
        RT_POLL_HUP = 4,
        RT_POLL_ERR = 8
    };

    typedef ... sigset_t;
    typedef struct rt_netpoll rt_netpoll;

    typedef struct {
        void *data;
        uint32_t mode;
        uint32_t unused;
    } rt_poll_event;

    typedef struct {
        const char *name;
        int (*open)(rt_netpoll **out);
        int (*add)(rt_netpoll *np, int fd, void *data);
        int (*modify)(rt_netpoll *np, int fd, void *data);
        int (*remove)(rt_netpoll *np, int fd);
        int (*wait)(rt_netpoll *np, rt_poll_event *events, int max,
                    int64_t timeout_ns, const sigset_t *sigmask);
        int (*wake)(rt_netpoll *np);
        void (*close)(rt_netpoll *np);
    } rt_netpoll_ops;

    const rt_netpoll_ops *rt_netpoll_default(void);
    """
)

_macros: list[tuple[str, str | None]] = [("_GNU_SOURCE", "1")]
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    # Free-threaded builds have no limited API.  cffi 2 defines it by itself, also
    # empty; 1.17 does not.
    _macros.append(("_CFFI_NO_LIMITED_API", ""))

_sources = ["csrc/rt_netpoll_epoll.c", "csrc/rt_netpoll_kqueue.c"]
_include_dirs = ["csrc"]
if os.environ.get("GOSCHED_NETPOLL") == "kqueue":
    _macros.append(("RT_NETPOLL_KQUEUE", "1"))
    if sys.platform == "linux":
        _sources.append("tests/kqueue/kqueue.c")
        _include_dirs.append("tests/kqueue")

ffibuilder.set_source(
    "runtime._netpoll",
    '#include "rt_netpoll.h"',
    sources=_sources,
    include_dirs=_include_dirs,
    depends=["csrc/rt_netpoll.h"],
    define_macros=_macros,
    extra_compile_args=["-fvisibility=hidden"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
