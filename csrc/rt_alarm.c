/* rt_alarm.c - see rt_alarm.h.
 *
 * Starting never fails, because who restarts an alarm may be a fire function, and what a
 * lost one would have woken waits for ever.  Where the heap cannot grow, alarms wait in a
 * list: they fire as well, only searching it takes longer.
 *
 * Invariants (under the lock): next is the least deadline of both.  A node's slot is HOMELESS
 * in the list, as rt_timer.h says in the heap, and 0 when it is stopped; or, after a fork,
 * it says where the node was in the parent, and nothing is there.  (Another thread may have
 * been changing the set while the process forked: the child looks at nothing of it.)
 */
#include "rt_alarm.h"

#define HOMELESS UINT32_MAX     /* more than any slot of a heap */

static inline rt_timer *
after(const rt_timer *t)
{
    return (rt_timer *)(uintptr_t)t->seq;
}

static RT_COLD int64_t
least_homeless_slow(const rt_alarms *as, int64_t least)
{
    for (const rt_timer *t = as->homeless; t != NULL; t = after(t))
        if (t->when < least)
            least = t->when;
    return least;
}

static inline void
set_next_locked(rt_alarms *as)
{
    int64_t next = rt_timers_next(&as->heap);
    if (RT_UNLIKELY(as->homeless != NULL))
        next = least_homeless_slow(as, next);
    /* Pairs with the load in sleep_until_work(). */
    atomic_store_explicit(&as->next, next, memory_order_seq_cst);
}

static RT_COLD void
unlink_homeless_slow(rt_alarms *as, rt_timer *t)
{
    rt_timer *at = as->homeless;
    if (at == t)
        as->homeless = after(t);
    else {
        while (after(at) != t)
            at = after(at);
        at->seq = t->seq;
    }
    t->slot = 0;
}

static bool
started_locked(const rt_alarms *as, const rt_timer *t)
{
    if (RT_UNLIKELY(t->slot == HOMELESS)) {
        const rt_timer *at = as->homeless;
        while (at != NULL && at != t)
            at = after(at);
        return at != NULL;
    }
    return t->slot != 0 && t->slot <= RT_LOAD(as->heap.len)
           && as->heap.slots[t->slot - 1].t == t;
}

/* There may be memory now. */
static RT_COLD void
house_slow(rt_alarms *as)
{
    while (as->homeless != NULL) {
        rt_timer *t = as->homeless, *rest = after(t);
        t->slot = 0;
        if (rt_timers_start(&as->heap, t) < 0) {
            t->slot = HOMELESS;
            return;
        }
        as->homeless = rest;
    }
}

/* Take out one that is due, or NULL. */
static rt_timer *
take_due_locked(rt_alarms *as, int64_t now)
{
    rt_timer *t = as->homeless;
    while (RT_UNLIKELY(t != NULL)) {
        if (t->when <= now) {
            unlink_homeless_slow(as, t);
            return t;
        }
        t = after(t);
    }
    if (rt_timers_next(&as->heap) > now)
        return NULL;
    t = as->heap.slots[0].t;
    rt_timers_stop(&as->heap, t);
    return t;
}

void
rt_alarms_init(rt_alarms *as, rt_p *pp)
{
    pthread_mutex_init(&as->lock, NULL);
    rt_timers_init(&as->heap);
    as->homeless = NULL;
    as->pp = pp;
    as->next = RT_FOREVER;
}

void
rt_alarms_after_fork(rt_alarms *as)
{
    rt_alarms_init(as, as->pp);
}

bool
rt_alarms_start(rt_alarms *as, rt_timer *t, int64_t when)
{
    pthread_mutex_lock(&as->lock);
    if (RT_UNLIKELY(started_locked(as, t)))
        rt_throw("alarm: started twice");
    t->when = when;
    t->slot = 0;
    if (RT_UNLIKELY(rt_timers_start(&as->heap, t) < 0)) {
        t->seq = (uintptr_t)as->homeless;
        t->slot = HOMELESS;
        as->homeless = t;
    }
    bool first = when < RT_LOAD(as->next);
    if (first)
        atomic_store_explicit(&as->next, when, memory_order_seq_cst);
    pthread_mutex_unlock(&as->lock);
    return first;
}

bool
rt_alarms_stop(rt_alarms *as, rt_timer *t)
{
    pthread_mutex_lock(&as->lock);
    bool started = started_locked(as, t);
    if (started) {
        if (RT_UNLIKELY(t->slot == HOMELESS))
            unlink_homeless_slow(as, t);
        else
            rt_timers_stop(&as->heap, t);
        if (t->when == RT_LOAD(as->next))
            set_next_locked(as);
    }
    pthread_mutex_unlock(&as->lock);
    return started;
}

bool
rt_alarms_has(rt_alarms *as, rt_timer *t)
{
    pthread_mutex_lock(&as->lock);
    bool started = started_locked(as, t);
    pthread_mutex_unlock(&as->lock);
    return started;
}

rt_timer *
rt_alarms_take(rt_alarms *as)
{
    pthread_mutex_lock(&as->lock);
    rt_timer *t = take_due_locked(as, RT_FOREVER - 1);    /* none is later */
    set_next_locked(as);
    pthread_mutex_unlock(&as->lock);
    return t;
}

uint32_t
rt_alarms_run(rt_alarms *as, int64_t now)
{
    uint32_t fired = 0;
    pthread_mutex_lock(&as->lock);
    if (RT_UNLIKELY(as->homeless != NULL))
        house_slow(as);
    for (rt_timer *t; (t = take_due_locked(as, now)) != NULL; fired++) {
        set_next_locked(as);
        pthread_mutex_unlock(&as->lock);
        RT_YIELD_POINT();
        t->fire(t);             /* may free t */
        pthread_mutex_lock(&as->lock);
    }
    pthread_mutex_unlock(&as->lock);
    return fired;
}
