/* rt_timer.h - a P's timers: a 4-ary min-heap of intrusive nodes.
 *
 * Each timer knows its slot, so stopping one is O(log n) and frees nothing
 * later.  Timers with equal deadlines fire in the order they were started.
 * A heap belongs to one P and is touched only by that P's M.
 */
#ifndef RT_TIMER_H
#define RT_TIMER_H

#include "rt_base.h"

typedef struct rt_timer rt_timer;

struct rt_timer {
    int64_t when;               /* deadline, rt_nanotime() clock, ns; not to be
                                   written while started (see rt_timers_move) */
    uint64_t seq;               /* start order, breaks ties */
    uint32_t slot;              /* index in the heap plus 1; 0: not started */
    uint32_t kind;              /* free for the owner */
    void (*fire)(rt_timer *);   /* runs on the P's M after removal from the heap;
                                   it may start, stop or move any timer of the
                                   heap, and free its own */
};

typedef struct {
    int64_t when;               /* copy of t->when: comparing touches no timer */
    rt_timer *t;
} rt_timer_slot;

typedef struct {
    rt_timer_slot *slots;       /* owned array: the heap, then the held ones */
    _Atomic uint32_t len;       /* timers in the heap; a hint for other threads */
    uint32_t held;              /* started by a fire function and due already: in
                                   slots[len .. len+held) until the run ends */
    uint32_t cap;               /* length of slots */
    bool running;               /* rt_timers_run is on the stack */
    int64_t run_now;            /* its `now`; only while running */
    uint64_t next_seq;
} rt_timers;

void rt_timers_init(rt_timers *ts);
/* Free the array.  Timers still started are forgotten, not fired. */
void rt_timers_fini(rt_timers *ts);
/* Start a stopped timer at t->when.  0 or -ENOMEM (then t stays stopped). */
int rt_timers_start(rt_timers *ts, rt_timer *t);
/* Stop t.  True if it was started (so it will not fire), false if not. */
bool rt_timers_stop(rt_timers *ts, rt_timer *t);
/* Move a started timer to a new deadline (no allocation, cannot fail).  Among
   equal deadlines it then counts as started now. */
void rt_timers_move(rt_timers *ts, rt_timer *t, int64_t when);
/* Fire every timer with when <= now; returns how many fired.  Timers started (or
   moved) by a fire function with when <= now wait for the next call.  A fire
   function must not call it. */
uint32_t rt_timers_run(rt_timers *ts, int64_t now);
/* Deadline of the first timer, RT_FOREVER when there is none.  Within a fire
   function it leaves out those that wait for the next run. */
static inline int64_t
rt_timers_next(const rt_timers *ts)
{
    return RT_LOAD(ts->len) ? ts->slots[0].when : RT_FOREVER;
}
static inline bool
rt_timer_started(const rt_timer *t)
{
    return t->slot != 0;
}

#endif
