/* rt_alarm.h - alarms: timers that any thread may start and stop.
 *
 * A heap of rt_timer nodes under a lock, for what the M of one P runs when it is due, or,
 * while that M is stuck, another one.  Its P's own rt_timers need no lock, and serve what
 * only that M waits for.
 *
 * A stopped alarm never fires: whether it is stopped or fires is decided under the lock,
 * where it leaves the heap.
 */
#ifndef RT_ALARM_H
#define RT_ALARM_H

#include <pthread.h>

#include "rt_timer.h"

typedef struct rt_p rt_p;

typedef struct {
    pthread_mutex_t lock;
    rt_timers heap;             /* guarded by lock */
    rt_timer *homeless;         /* started where there was no memory for a place in the heap;
                                   linked by seq; guarded by lock */
    rt_p *pp;                   /* whose M runs them */
    _Atomic int64_t next;       /* deadline of the first, RT_FOREVER: there is none; written
                                   under lock */
} rt_alarms;

void rt_alarms_init(rt_alarms *as, rt_p *pp);
/* In the child of a fork: forget all alarms, which are stopped then.  The set may be used
   again. */
void rt_alarms_after_fork(rt_alarms *as);
/* Start t, which is stopped.  Cannot fail.  True: it is the first now; whoever sleeps until
   the next one must be told, see rt_p_start_alarm(). */
bool rt_alarms_start(rt_alarms *as, rt_timer *t, int64_t when);
/* Stop t.  True if it was started in this set, so it does not fire.  False if not: it was
   never started, was stopped, or t->fire has been called or will be in a moment. */
bool rt_alarms_stop(rt_alarms *as, rt_timer *t);
/* Is t started in this set? */
bool rt_alarms_has(rt_alarms *as, rt_timer *t);
/* Stop the first one and return it; NULL: there is none. */
rt_timer *rt_alarms_take(rt_alarms *as);
/* Fire all that are due, without the lock; t->fire may start and stop any.  Returns how many.
   Several threads may do that at the same time. */
uint32_t rt_alarms_run(rt_alarms *as, int64_t now);
/* Any thread, without the lock. */
static inline int64_t
rt_alarms_next(const rt_alarms *as)
{
    return atomic_load_explicit(&as->next, memory_order_seq_cst);
}

#endif
