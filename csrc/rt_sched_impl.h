/* rt_sched_impl.h - what the files of the scheduler share; see rt_sched.h.
 *
 *   rt_sched.c    rt_sched_find() and polling
 *   rt_ready.c    making goroutines runnable, and waking Ms for them
 *   rt_p.c        Ps: how they come, GOMAXPROCS, locking, fork
 */
#ifndef RT_SCHED_IMPL_H
#define RT_SCHED_IMPL_H

#include "rt_sched.h"

/* ---- the idle mask ---- */

static inline void
rt_idle_set(rt_sched *sched, uint32_t id)
{
    atomic_fetch_or(&sched->idle[id / 64], UINT64_C(1) << id % 64);
    RT_YIELD_POINT();
    atomic_fetch_add(&sched->nidle, 1);
}

/* False: it was not set any more. */
static inline bool
rt_idle_clear(rt_sched *sched, uint32_t id)
{
    uint64_t bit = UINT64_C(1) << id % 64;
    if (!(atomic_fetch_and(&sched->idle[id / 64], ~bit) & bit))
        return false;
    RT_YIELD_POINT();
    atomic_fetch_sub(&sched->nidle, 1);
    return true;
}

/* ---- spinning ---- */

/* pp is counted in sched->nspinning. */
static inline void
rt_p_start_spinning(rt_p *pp, int64_t now)
{
    pp->spinning = true;
    rt_stopwatch_start(&pp->looking, now);
}

/* It must not be any more. */
static inline void
rt_p_end_spinning(rt_p *pp, int64_t now)
{
    pp->spinning = false;
    rt_stopwatch_stop(&pp->looking, now);
}

/* ---- rt_ready.c ---- */

/* gp is the next sample. */
RT_COLD void rt_p_begin_sample(rt_p *pp, rt_g *gp);
/* The ring is full: half of it and gp go to the global queue. */
RT_NOINLINE void rt_p_put_fresh_slow(rt_p *pp, rt_g *gp);
/* Fresh goroutines of a P that must not run them go to those that may. */
RT_COLD void rt_p_give_away_fresh(rt_p *pp);
/* pp looks for work: it is not lent any more. */
RT_COLD void rt_p_take_back(rt_p *pp);

/* gp becomes runnable, by pp's M. */
static inline void
rt_p_count_runnable(rt_p *pp, rt_g *gp)
{
    if (RT_UNLIKELY(--pp->sample_in == 0))
        rt_p_begin_sample(pp, gp);
}

static inline void
rt_p_put_queue(rt_p *pp, rt_g *gp)
{
    if (gp->pinned)
        rt_glist_push(&pp->pinned, gp);
    else if (RT_UNLIKELY(!rt_runq_put(&pp->fresh, gp)))
        rt_p_put_fresh_slow(pp, gp);
}

#endif
