/* rt_ready.c - making goroutines runnable, and waking Ms for them; see rt_sched.h. */
#include "rt_sched_impl.h"

/* Take an idle P's id out of the mask, the lowest from `from` on; RT_MAX_P: none. */
static uint32_t
take_idle(rt_sched *sched, uint32_t from)
{
    for (uint32_t word = from / 64; word < RT_MAX_P / 64; word++) {
        uint64_t bits, above = word == from / 64 ? ~UINT64_C(0) << from % 64 : ~UINT64_C(0);
        while ((bits = atomic_load(&sched->idle[word]) & above) != 0) {
            uint32_t id = word * 64 + (uint32_t)__builtin_ctzll(bits);
            if (rt_idle_clear(sched, id))
                return id;
        }
    }
    return RT_MAX_P;
}

/* Its M could not be started.  True: it still counts as idle. */
static bool
put_back_idle(rt_sched *sched, uint32_t id)
{
    pthread_mutex_lock(&sched->lock);
    bool idle = id < RT_LOAD(sched->nprocs);
    sched->starting[id] = false;
    if (idle)
        rt_idle_set(sched, id);
    pthread_mutex_unlock(&sched->lock);
    return idle;
}

/* ---- waking Ms ---- */

void
rt_p_wake(rt_p *pp)
{
    /* Reads what the sleeper wrote after it armed; pairs with sleep_until_work(). */
    if (atomic_load_explicit(&pp->sleeping, memory_order_seq_cst) != RT_AWAKE
        && atomic_exchange_explicit(&pp->sleeping, RT_AWAKE, memory_order_seq_cst)
               == RT_SLEEPING)
        pp->sched->netpoll->wake(pp->np);
    else
        rt_sysmon_wake_if_asleep(&pp->sched->sysmon);
}

void
rt_p_start_alarm(rt_alarms *as, rt_timer *t, int64_t when)
{
    /* Also its own M may be about to sleep: a signal handler of the host has called. */
    if (rt_alarms_start(as, t, when))
        rt_p_wake(as->pp);
}

static void
wake_spare(rt_sched *sched)
{
    rt_p *pp = rt_p_by_id(sched, RT_SPARE_P);
    if (pp != NULL)
        rt_p_wake(pp);
    else
        sched->host.start(sched, RT_SPARE_P);   /* on failure the work waits for its P */
}

void
rt_sched_wake_one(rt_sched *sched)
{
    uint32_t failed;            /* Ps left idle whose Ms cannot be started */
    do {
        /* What was queued before must be visible to who is about to sleep, or its being
           idle to us; pairs with sleep_until_work(). */
        atomic_thread_fence(memory_order_seq_cst);
        if (RT_LOAD(sched->nidle) == 0)
            break;
        int32_t none = 0;
        if (RT_LOAD(sched->nspinning) != 0
            || !atomic_compare_exchange_strong(&sched->nspinning, &none, 1))
            return;
        failed = 0;
        RT_YIELD_POINT();
        for (uint32_t id = 0; (id = take_idle(sched, id)) < RT_MAX_P; id++) {
            /* Whoever finds its bit cleared counts as spinning. */
            rt_p *pp = rt_p_by_id(sched, id);
            RT_YIELD_POINT();
            if (pp != NULL) {
                rt_p_wake(pp);
                return;
            }
            if (sched->host.start(sched, id) == 0)
                return;
            failed += put_back_idle(sched, id);
        }
        RT_YIELD_POINT();
        atomic_fetch_sub(&sched->nspinning, 1);
        /* Others have left it to us meanwhile, and an M that we have passed may have
           fallen asleep: look again. */
    } while (RT_LOAD(sched->nidle) > (int32_t)failed);
    if (RT_UNLIKELY(atomic_load(&sched->nlent) != 0) && RT_LOAD(sched->nspinning) == 0)
        wake_spare(sched);
}

void
rt_sched_start(rt_sched *sched, uint32_t id)
{
    /* One that was never started is idle; whoever clears its bit starts it. */
    if (rt_p_by_id(sched, id) != NULL)
        return;
    atomic_fetch_add(&sched->nspinning, 1);
    if (rt_idle_clear(sched, id)) {
        rt_p *pp = rt_p_by_id(sched, id);
        if (pp != NULL) {
            rt_p_wake(pp);
            return;
        }
        if (sched->host.start(sched, id) == 0)
            return;
        put_back_idle(sched, id);
    }
    atomic_fetch_sub(&sched->nspinning, 1);
    rt_sched_wake_one(sched);       /* others have left it to us meanwhile */
}

void
rt_sched_lend(rt_p *pp)
{
    if (!atomic_exchange(&pp->lent, true))
        atomic_fetch_add(&pp->sched->nlent, 1);
    /* Again even if it is lent already: it may have queued something since. */
    wake_spare(pp->sched);
}

void
rt_p_take_back(rt_p *pp)
{
    if (atomic_exchange(&pp->lent, false))
        atomic_fetch_sub(&pp->sched->nlent, 1);
}

/* ---- queues ---- */

void
rt_p_begin_sample(rt_p *pp, rt_g *gp)
{
    pp->sample_in = RT_SAMPLE_EVERY;
    gp->sampled = 1;
    gp->since = (uint32_t)(rt_nanotime() / RT_SAMPLE_UNIT);
}

void
rt_p_put_fresh_slow(rt_p *pp, rt_g *gp)
{
    if (RT_LOAD(pp->mode) == RT_P_SPARE) {
        rt_glist_push(&pp->spill, gp);
        return;
    }
    rt_glist batch = {0};
    rt_runq_get_half(&pp->fresh, &batch);
    rt_glist_push(&batch, gp);
    RT_COUNT(pp->count.overflows, 1);
    RT_YIELD_POINT();
    rt_globq_put(&pp->sched->global, &batch);
}

void
rt_sched_put(rt_sched *sched, rt_g *gp)
{
    rt_glist one = {0};
    RT_STORE(gp->status, RT_G_RUNNABLE);
    rt_glist_push(&one, gp);
    rt_globq_put(&sched->global, &one);
    rt_sched_wake_one(sched);
}

void
rt_p_put_fresh(rt_p *pp, rt_g *gp)
{
    RT_STORE(gp->status, RT_G_RUNNABLE);
    if (RT_UNLIKELY(RT_LOAD(pp->mode) == RT_P_CLOSED)) {
        rt_sched_put(pp->sched, gp);
        return;
    }
    rt_p_count_runnable(pp, gp);
    if (RT_UNLIKELY(!rt_runq_put(&pp->fresh, gp)))
        rt_p_put_fresh_slow(pp, gp);
    if (RT_UNLIKELY(RT_LOAD(pp->sched->nprocs) > 1))
        rt_sched_wake_one(pp->sched);
}

void
rt_p_put_yielded(rt_p *pp, rt_g *gp)
{
    RT_STORE(gp->status, RT_G_RUNNABLE);
    rt_p_count_runnable(pp, gp);
    rt_glist_push(&pp->pinned, gp);
    /* All that are queued now go first: those it has just spawned, too. */
    uint32_t fresh = rt_runq_len(&pp->fresh);
    if (fresh != 0 && (pp->turn_left == 0 || !pp->turn_pinned)) {
        pp->turn_pinned = false;
        pp->turn_left = fresh;
    }
}

void
rt_p_put_preempted(rt_p *pp, rt_g *gp)
{
    RT_STORE(gp->status, RT_G_RUNNABLE);
    RT_COUNT(pp->count.preemptions, 1);
    rt_p_count_runnable(pp, gp);
    rt_glist_push(&pp->preempted, gp);
    /* The others of its kind may take as long: let the other kind in between. */
    pp->turn_left = 0;
    rt_p_look_soon(pp);
}

void
rt_p_submit(rt_p *pp, rt_g *gp)
{
    rt_inbox_put(&pp->inbox, gp);
    rt_p_wake(pp);
}

void
rt_p_put_pinned(rt_p *cur, rt_p *pp, rt_g *gp)
{
    gp->pinned = 1;
    gp->pp = pp;
    RT_STORE(gp->status, RT_G_RUNNABLE);
    if (cur == pp) {
        rt_p_count_runnable(pp, gp);
        rt_glist_push(&pp->pinned, gp);
    }
    else
        rt_p_submit(pp, gp);
}

void
rt_ready(rt_p *cur, rt_g *gp, bool next)
{
    RT_STORE(gp->status, RT_G_RUNNABLE);
    if (RT_LIKELY(gp->pp == cur && !(gp->foreign | gp->held))) {
        rt_p_count_runnable(cur, gp);
        if (next) {
            rt_g *old = RT_LOAD(cur->runnext);
            RT_STORE(cur->runnext, gp);
            if (old == NULL)
                return;
            gp = old;
        }
        rt_glist_push(&cur->pinned, gp);
    }
    else if (gp->foreign)
        gp->pp->sched->host.unpark(gp);
    else if (gp->pp == cur)
        cur->sched->host.hold(gp, false);
    else
        rt_p_submit(gp->pp, gp);
}

void
rt_p_give_away_fresh(rt_p *pp)
{
    rt_glist batch = {0};
    for (rt_g *gp; (gp = rt_runq_get(&pp->fresh)) != NULL;)
        rt_glist_push(&batch, gp);
    rt_glist_append(&batch, &pp->spill);
    if (batch.head == NULL)
        return;
    rt_globq_put(&pp->sched->global, &batch);
    rt_sched_wake_one(pp->sched);
}
