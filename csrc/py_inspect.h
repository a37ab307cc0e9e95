/* py_inspect.h - a snapshot of all goroutines; see py_inspect.c. */
#ifndef PY_INSPECT_H
#define PY_INSPECT_H

#include "py_core.h"

typedef struct {
    Goroutine *g;               /* owned */
    int64_t id;
    uint8_t state;              /* RT_G_RUNNABLE, RT_G_RUNNING or RT_G_WAITING */
    uint8_t reason;             /* PY_WAIT_*, while it waits */
    bool locked;                /* by lock_os_thread() */
    bool timed;                 /* it waits for some time only */
    int64_t bubble;             /* id of its bubble, or 0 */
    int32_t p;                  /* id of the P it is bound to, or in whose ring it is; or -1 */
    uint32_t wait_ms;           /* how long it has waited */
    unsigned long thread;       /* ident of the OS thread it is bound to, or 0 */
    size_t frame, nframes;      /* of its stack, in the snapshot's frames */
    PyObject *fn;               /* owned or NULL: what it calls, if it has no frames */
    size_t edge, nedges;        /* what it waits for, in the snapshot's edges */
} py_g_info;

typedef struct {                /* somebody waits for it; see py_waits.h */
    PyObject *on;               /* owned */
    int64_t holder;             /* id of the goroutine that can end the wait, or 0 */
} py_edge;

/* All goroutines at one moment, in order of their ids; and the plain threads that wait in
   an operation of the runtime.  edges: what they wait for, or NULL.  Attached; stops all
   other threads for a moment.  -1 with MemoryError set. */
int py_snapshot(py_g_info **infos, size_t *n, py_edge **edges);
/* Give back what py_snapshot() has returned; edges may be NULL.  Drops references. */
void py_snapshot_free(py_g_info *infos, size_t n, py_edge *edges);

/* Read what belongs to another thread: a number that may be old. */
#define PY_PEEK(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

/* Runnable goroutines in its own queues. */
static inline uint32_t
py_runq_len(rt_p *pp)
{
    return (RT_LOAD(pp->runnext) != NULL) + PY_PEEK(pp->pinned.len) + PY_PEEK(pp->preempted.len)
           + PY_PEEK(pp->spill.len) + rt_runq_len(&pp->fresh);
}

/* The sum of several histograms. */
typedef struct {
    uint64_t count[RT_HIST_BUCKETS], sum;
} py_hist_sum;

void py_hist_add(py_hist_sum *sum, const rt_hist *h);
/* (sum, [(low, high, count), ...]), in ns, with the buckets that are not empty. */
PyObject *py_hist_render(const py_hist_sum *sum);

int py_inspect_init(PyObject *module);
/* py_groups.c */
int py_groups_init(PyObject *module);

#endif
