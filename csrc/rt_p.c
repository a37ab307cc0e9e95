/* rt_p.c - Ps: how they come, GOMAXPROCS, locking, fork; see rt_sched.h. */
#include "rt_sched_impl.h"

#include <string.h>

void
rt_sched_init(rt_sched *sched, const rt_netpoll_ops *ops, rt_host host)
{
    sched->netpoll = ops;
    sched->host = host;
    sched->nprocs = 1;
    pthread_mutex_init(&sched->lock, NULL);
    rt_globq_init(&sched->global);
    RT_STORE(sched->coarse_ms, (uint32_t)(rt_nanotime() / 1000000));
}

static void
set_mode_locked(rt_p *pp)
{
    uint8_t mode = RT_P_CLOSED;
    if (pp->nlocks == 0 && pp->id == RT_SPARE_P)
        mode = RT_P_SPARE;
    else if (pp->nlocks == 0 && pp->id < RT_LOAD(pp->sched->nprocs))
        mode = RT_P_OPEN;
    RT_STORE(pp->mode, mode);
}

int
rt_p_init(rt_p *pp, rt_sched *sched, uint32_t id, bool spinning)
{
    memset(pp, 0, sizeof(*pp));
    pp->sched = sched;
    pp->id = id;
    pp->seed = id * 2654435761u + 1;
    pp->turn_pinned = true;
    pp->sample_in = RT_SAMPLE_EVERY;
    rt_timers_init(&pp->timers);
    rt_alarms_init(&pp->alarms, pp);
    pp->now = rt_nanotime();
    if (spinning)
        rt_p_start_spinning(pp, pp->now);
    int err = sched->netpoll->open(&pp->np);
    if (err < 0)
        return err;
    pthread_mutex_lock(&sched->lock);
    set_mode_locked(pp);
    uint32_t n = RT_LOAD(sched->nallp);
    atomic_store_explicit(&sched->allp[n], pp, memory_order_release);
    atomic_store_explicit(&sched->by_id[id], pp, memory_order_release);
    atomic_store_explicit(&sched->nallp, n + 1, memory_order_release);
    if (id < RT_MAX_P)
        sched->starting[id] = false;
    pthread_mutex_unlock(&sched->lock);
    return 0;
}

uint32_t
rt_sched_set_procs(rt_sched *sched, uint32_t n)
{
    pthread_mutex_lock(&sched->lock);
    uint32_t old = RT_LOAD(sched->nprocs), all = RT_LOAD(sched->nallp);
    atomic_store(&sched->nprocs, n);
    for (uint32_t i = 0; i < all; i++)
        set_mode_locked(sched->allp[i]);
    for (uint32_t id = n; id < old; id++)
        if (rt_p_by_id(sched, id) == NULL)
            sched->starting[id] = !rt_idle_clear(sched, id);
    for (uint32_t id = old; id < n; id++)
        if (rt_p_by_id(sched, id) == NULL && id != 0 && !sched->starting[id])
            rt_idle_set(sched, id);
    pthread_mutex_unlock(&sched->lock);
    /* They enter or leave the mask themselves, and give away what they must not run.  The
       fence pairs with the one in sleep_until_work(): they see their new mode, or we that
       they sleep. */
    atomic_thread_fence(memory_order_seq_cst);
    RT_YIELD_POINT();
    for (uint32_t id = n < old ? n : old; id < (n < old ? old : n); id++)
        if (rt_p_by_id(sched, id) != NULL)
            rt_p_wake(rt_p_by_id(sched, id));
    if (n > old)
        rt_sched_wake_one(sched);
    return old;
}

void
rt_p_lock(rt_p *pp, int change)
{
    rt_sched *sched = pp->sched;
    pthread_mutex_lock(&sched->lock);
    pp->nlocks += change;
    set_mode_locked(pp);
    pthread_mutex_unlock(&sched->lock);
    bool stands_in = pp->id != RT_SPARE_P;      /* the spare P does, for this one */
    if (change > 0 && pp->nlocks == 1) {
        atomic_fetch_add(&sched->nlent, stands_in);
        rt_p_give_away_fresh(pp);
    }
    else if (change < 0 && pp->nlocks == 0)
        atomic_fetch_sub(&sched->nlent, stands_in);
}

int
rt_sched_after_fork(rt_sched *sched, rt_p *pp)
{
    pthread_mutex_init(&sched->lock, NULL);
    rt_globq_init(&sched->global);
    for (uint32_t i = 0; i < RT_LOAD(sched->nallp); i++) {
        rt_p *other = RT_LOAD(sched->allp[i]);
        rt_alarms_after_fork(&other->alarms);
        if (other == pp)
            continue;
        sched->netpoll->close(other->np);
        other->np = NULL;
        RT_STORE(other->sleeping, RT_AWAKE);
    }
    memset((void *)sched->allp, 0, sizeof(sched->allp));
    memset((void *)sched->by_id, 0, sizeof(sched->by_id));
    memset((void *)sched->idle, 0, sizeof(sched->idle));
    memset(sched->starting, 0, sizeof(sched->starting));
    sched->nallp = sched->nlent = 0;
    sched->nspinning = sched->nidle = 0;
    for (uint32_t id = 1; id < RT_LOAD(sched->nprocs); id++)
        rt_idle_set(sched, id);
    if (pp == NULL)
        return 0;
    pp->id = 0;
    pp->spinning = false;
    memset((void *)&pp->count, 0, sizeof(pp->count));
    memset((void *)&pp->latency, 0, sizeof(pp->latency));
    memset((void *)&pp->run, 0, sizeof(pp->run));
    pp->idle = pp->looking = 0;
    pp->lent = false;
    pp->nlocks = 0;
    pp->mode = RT_P_OPEN;
    pp->runnext = NULL;
    pp->pinned = pp->preempted = pp->spill = (rt_glist){0};
    pp->turn_left = 0;
    pp->inbox.top = NULL;
    pp->sleeping = RT_AWAKE;
    pp->fresh.head = pp->fresh.tail = 0;
    rt_timers_fini(&pp->timers);
    rt_timers_init(&pp->timers);
    pp->event = pp->nevents = 0;
    pp->batch_at = 0;
    pp->npd = 0;
    pp->nbubbles = 0;
    sched->allp[0] = sched->by_id[0] = pp;
    sched->nallp = 1;
    sched->netpoll->close(pp->np);
    return sched->netpoll->open(&pp->np);
}
