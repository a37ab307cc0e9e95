"""Fixtures of the scheduler's tests.

``rtq`` is the run queues and the timer heap as a cffi library, compiled from their C
files alone, with a ring of 4 slots.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNQ_CAP = 4

# Goroutines that are nothing but a link and a number, and what is inline in C.
SHIM = """
#include "rt_runq.h"
#include "rt_timer.h"

struct rt_g { rt_glink link; uint32_t id; };

int64_t shim_timers_next(const rt_timers *ts) { return rt_timers_next(ts); }
bool shim_timer_started(const rt_timer *t) { return rt_timer_started(t); }
rt_runq *shim_runq_new(uint32_t at)
{
    rt_runq *q = calloc(1, sizeof(*q));
    q->head = q->tail = at;
    return q;
}
void shim_runq_free(rt_runq *q) { free(q); }
"""

CDEF = """
    typedef struct { struct rt_g *next; } rt_glink;
    typedef struct rt_g { rt_glink link; uint32_t id; } rt_g;
    typedef struct { rt_g *head, *tail; uint32_t len; } rt_glist;
    typedef struct rt_runq rt_runq;
    typedef struct { rt_g *top; } rt_inbox;

    void rt_glist_push(rt_glist *l, rt_g *gp);
    rt_g *rt_glist_pop(rt_glist *l);
    void rt_glist_append(rt_glist *l, rt_glist *more);
    bool rt_runq_put(rt_runq *q, rt_g *gp);
    rt_g *rt_runq_get(rt_runq *q);
    uint32_t rt_runq_get_half(rt_runq *q, rt_glist *out);
    rt_g *rt_runq_steal(rt_runq *from, rt_runq *to);
    uint32_t rt_runq_len(const rt_runq *q);
    bool rt_inbox_put(rt_inbox *in, rt_g *gp);
    uint32_t rt_inbox_take(rt_inbox *in, rt_glist *out);
    bool rt_inbox_empty(const rt_inbox *in);
    rt_runq *shim_runq_new(uint32_t at);
    void shim_runq_free(rt_runq *q);

    typedef struct rt_timer {
        int64_t when;
        uint64_t seq;
        uint32_t slot;
        uint32_t kind;
        void (*fire)(struct rt_timer *);
    } rt_timer;
    typedef struct { int64_t when; rt_timer *t; } rt_timer_slot;
    typedef struct {
        rt_timer_slot *slots;
        uint32_t len, held, cap;
        bool running;
        int64_t run_now;
        uint64_t next_seq;
    } rt_timers;

    void rt_timers_init(rt_timers *ts);
    void rt_timers_fini(rt_timers *ts);
    int rt_timers_start(rt_timers *ts, rt_timer *t);
    bool rt_timers_stop(rt_timers *ts, rt_timer *t);
    void rt_timers_move(rt_timers *ts, rt_timer *t, int64_t when);
    uint32_t rt_timers_run(rt_timers *ts, int64_t now);
    int64_t shim_timers_next(const rt_timers *ts);
    bool shim_timer_started(const rt_timer *t);
    size_t shim_sizeof_timers(void);
"""


@dataclass(frozen=True)
class RtLib:
    ffi: Any
    lib: Any
    cap: int


@pytest.fixture(scope="session")
def rtq(tmp_path_factory: pytest.TempPathFactory) -> RtLib:
    cffi = pytest.importorskip("cffi")
    where = tmp_path_factory.mktemp("rtq")
    shim = where / "shim.c"
    shim.write_text(
        "#include <stdlib.h>\n"
        + SHIM
        + "size_t shim_sizeof_timers(void) { return sizeof(rt_timers); }\n"
    )
    so = where / "librtq.so"
    subprocess.run(
        [
            os.environ.get("CC", "cc"),
            *(
                "-shared",
                "-fPIC",
                "-g",
                "-O1",
                "-pthread",
                "-D_GNU_SOURCE",
                f"-DRT_RUNQ_CAP={RUNQ_CAP}",
            ),
            *(f"-I{ROOT / 'csrc'}", "-o", str(so), str(shim)),
            *(str(ROOT / "csrc" / name) for name in ("rt_runq.c", "rt_timer.c")),
        ],
        check=True,
    )
    ffi = cffi.FFI()
    ffi.cdef(CDEF)
    lib = ffi.dlopen(str(so))
    # The declarations above are a copy; in this mode no compiler compares them.
    assert lib.shim_sizeof_timers() == ffi.sizeof("rt_timers")
    return RtLib(ffi, lib, RUNQ_CAP)
