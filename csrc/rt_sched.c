/* rt_sched.c - find_runnable: the next goroutine to run, and polling; see rt_sched.h. */
#include "rt_sched_impl.h"

#define STEAL_ROUNDS 4
/* Every so many ticks all sources are looked at, and half-way a preempted goroutine runs,
   whatever else there is; every 16 the timers. */
#define FAIR_TICKS 61

/* ---- samples ---- */

/* A sample is going to run. */
static RT_COLD void
run_sample(rt_p *pp, rt_g *gp)
{
    gp->sampled = 0;
    pp->sample_began = rt_nanotime();
    uint32_t waited = (uint32_t)(pp->sample_began / RT_SAMPLE_UNIT) - gp->since;
    rt_hist_add(&pp->latency, (int64_t)waited * RT_SAMPLE_UNIT);
}

static RT_COLD void
end_sample(rt_p *pp)
{
    rt_hist_add(&pp->run, rt_nanotime() - pp->sample_began);
    pp->sample_began = 0;
}

/* ---- polling ---- */

/* Look on for a little while: waking a sleeping thread on another core takes longer than
   much work does.  True: woken, or events have come (*n of them). */
static bool
doze(rt_p *pp, int *n)
{
    const rt_netpoll_ops *ops = pp->sched->netpoll;
    int64_t now = rt_nanotime(), until = now + pp->sched->spin_ns;
    bool found = false;
    rt_stopwatch_start(&pp->looking, now);
    do {
        *n = 0;
        for (int i = 0; i < 64 && !found; i++) {
            found = atomic_load_explicit(&pp->sleeping, memory_order_acquire) == RT_AWAKE;
            rt_cpu_relax();
        }
        if (!found && RT_LOAD(pp->npd) != 0)
            found = (*n = ops->wait(pp->np, pp->events, RT_POLL_BATCH, 0, NULL)) != 0;
        now = rt_nanotime();
    } while (!found && now < until);
    rt_stopwatch_stop(&pp->looking, now);
    return found;
}

int
rt_p_poll(rt_p *pp, int64_t timeout, const sigset_t *sigmask)
{
    const rt_netpoll_ops *ops = pp->sched->netpoll;
    RT_COUNT(pp->count.polls, 1);
    if (timeout == 0)
        return ops->wait(pp->np, pp->events, RT_POLL_BATCH, 0, sigmask);
    int n;
    if (timeout > pp->sched->spin_ns && pp->sched->spin_ns > 0 && doze(pp, &n))
        return n;
    uint8_t dozing = RT_DOZING;
    RT_YIELD_POINT();
    if (!atomic_compare_exchange_strong(&pp->sleeping, &dozing, RT_SLEEPING))
        timeout = 0;            /* woken meanwhile */
    rt_stopwatch_start(&pp->idle, rt_nanotime());
    n = ops->wait(pp->np, pp->events, RT_POLL_BATCH, timeout == RT_FOREVER ? -1 : timeout,
                  sigmask);
    rt_stopwatch_stop(&pp->idle, rt_nanotime());
    return n;
}

void
rt_p_dispatch(rt_p *pp, int nevents)
{
    pp->nevents = nevents;
    pp->batch_at = -1;
    for (pp->event = 0; pp->event < nevents;) {
        rt_poll_event *ev = &pp->events[pp->event++];
        rt_pd *pd = ev->data;
        if (pd != NULL) {           /* NULL: closed by an earlier event's callback */
            RT_COUNT(pp->count.poll_events, 1);
            RT_LOAD(pd->ready)(pd, ev->mode);
        }
    }
    pp->batch_at = 0;
}

static inline void
poll_now(rt_p *pp)
{
    if (RT_LOAD(pp->npd) == 0)
        return;
    int n = rt_p_poll(pp, 0, NULL);
    if (n > 0)
        rt_p_dispatch(pp, n);
}

/* ---- find_runnable ---- */

static inline void
run_timers(rt_p *pp)
{
    if (RT_LOAD(pp->timers.len) == 0 && RT_LOAD(pp->alarms.next) == RT_FOREVER)
        return;
    pp->now = rt_nanotime();
    if (rt_timers_next(&pp->timers) <= pp->now)
        RT_COUNT(pp->count.timers_fired, rt_timers_run(&pp->timers, pp->now));
    if (RT_LOAD(pp->alarms.next) <= pp->now)
        RT_COUNT(pp->count.timers_fired, rt_alarms_run(&pp->alarms, pp->now));
}

/* Move what other threads left here into the queues. */
static inline bool
take_inbox(rt_p *pp)
{
    if (RT_LOAD(pp->inbox.top) == NULL)
        return false;
    rt_glist in = {0};
    RT_COUNT(pp->count.inbox, rt_inbox_take(&pp->inbox, &in));
    for (rt_g *gp; (gp = rt_glist_pop(&in)) != NULL;) {
        if (RT_UNLIKELY(gp->held))
            pp->sched->host.hold(gp, true);
        else {
            rt_p_count_runnable(pp, gp);
            rt_p_put_queue(pp, gp);
        }
    }
    if (RT_UNLIKELY(RT_LOAD(pp->mode) == RT_P_CLOSED))
        rt_p_give_away_fresh(pp);            /* the spare's, while it is locked */
    return true;
}

/* May pp run what is nobody's in particular? */
static inline bool
takes_shared(const rt_p *pp)
{
    uint8_t mode = RT_LOAD(pp->mode);
    return mode == RT_P_OPEN || (mode == RT_P_SPARE && RT_LOAD(pp->sched->nlent) != 0);
}

/* A fair share of the global queue, at most half a ring, goes to the fresh ring. */
static bool
take_global(rt_p *pp)
{
    rt_sched *sched = pp->sched;
    uint32_t len = RT_LOAD(sched->global.len);
    if (len == 0 || !takes_shared(pp))
        return false;
    rt_glist over = {0};
    /* Full at a fair tick: those that wait in the global queue are older. */
    if (RT_UNLIKELY(rt_runq_len(&pp->fresh) == RT_RUNQ_CAP))
        rt_runq_get_half(&pp->fresh, &over);
    uint32_t max = len / RT_LOAD(sched->nprocs) + 1;
    uint32_t n = rt_globq_move(&sched->global, &pp->fresh,
                               max < RT_RUNQ_CAP / 2 ? max : RT_RUNQ_CAP / 2);
    RT_COUNT(pp->count.global, n);
    if (RT_UNLIKELY(over.head != NULL)) {
        RT_COUNT(pp->count.overflows, 1);
        rt_globq_put(&sched->global, &over);
        rt_sched_wake_one(sched);
    }
    return n != 0;
}

/* The first deadline of the alarms that pp's M is to run: its own, and those of Ps whose Ms
   are stuck. */
static inline int64_t
next_alarm(rt_p *pp)
{
    rt_sched *sched = pp->sched;
    int64_t next = rt_alarms_next(&pp->alarms);
    if (RT_LIKELY(RT_LOAD(sched->nlent) == 0) || !takes_shared(pp))
        return next;
    uint32_t n = atomic_load_explicit(&sched->nallp, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++) {
        rt_p *q = RT_LOAD(sched->allp[i]);
        int64_t when = rt_alarms_next(&q->alarms);
        if (RT_LOAD(q->lent) && when < next)
            next = when;
    }
    return next;
}

/* Run the due alarms of Ps whose Ms are stuck.  What they wake is another's, or anybody's. */
static RT_COLD bool
run_lent_alarms(rt_p *pp)
{
    rt_sched *sched = pp->sched;
    uint32_t n = atomic_load_explicit(&sched->nallp, memory_order_acquire), fired = 0;
    if (!takes_shared(pp))
        return false;
    pp->now = rt_nanotime();
    for (uint32_t i = 0; i < n; i++) {
        rt_p *q = RT_LOAD(sched->allp[i]);
        if (q != pp && RT_LOAD(q->lent) && rt_alarms_next(&q->alarms) <= pp->now)
            fired += rt_alarms_run(&q->alarms, pp->now);
    }
    RT_COUNT(pp->count.timers_fired, fired);
    return fired != 0;
}

/* The spare's ring is empty: fill it from where it has spilled. */
static bool
take_spill(rt_p *pp)
{
    if (pp->spill.head == NULL)
        return false;
    for (uint32_t n = RT_RUNQ_CAP - rt_runq_len(&pp->fresh); n > 0 && pp->spill.head; n--)
        rt_runq_put(&pp->fresh, rt_glist_pop(&pp->spill));
    return true;
}

static inline rt_g *
take_local(rt_p *pp)
{
    rt_g *gp = RT_LOAD(pp->runnext);
    if (gp != NULL) {
        RT_STORE(pp->runnext, NULL);
        if (pp->runnext_streak < RT_RUNNEXT_MAX) {
            pp->runnext_streak++;
            RT_COUNT(pp->count.runnext, 1);
            return gp;
        }
        rt_p_put_queue(pp, gp);
    }
    pp->runnext_streak = 0;
    /* In turn, each kind as many as there were when its turn began: neither starves
       the other, and fresh ones run in batches, without a switch between them. */
    if (pp->turn_left == 0) {
        uint32_t fresh = rt_runq_len(&pp->fresh), pinned = RT_LOAD(pp->pinned.len);
        pp->turn_pinned = pinned != 0 && (!pp->turn_pinned || fresh == 0);
        pp->turn_left = pp->turn_pinned ? pinned : fresh;
        if (pp->turn_left == 0)
            return NULL;
    }
    pp->turn_left--;
    if (pp->turn_pinned)
        return rt_glist_pop(&pp->pinned);
    gp = rt_runq_get(&pp->fresh);
    if (RT_UNLIKELY(gp == NULL)) {          /* thieves took the rest of the turn */
        pp->turn_left = 0;
        gp = rt_glist_pop(&pp->pinned);
    }
    return gp;
}

static inline bool
queued(const rt_p *pp)
{
    return RT_LOAD(pp->runnext) != NULL || RT_LOAD(pp->pinned.len) != 0
           || RT_LOAD(pp->spill.len) != 0 || rt_runq_len(&pp->fresh) != 0
           || !rt_inbox_empty(&pp->inbox);
}

bool
rt_p_runnable(const rt_p *pp)
{
    return queued(pp) || RT_LOAD(pp->preempted.len) != 0;
}

bool
rt_p_has_work(const rt_p *pp)
{
    return rt_p_runnable(pp) || RT_LOAD(pp->timers.len) != 0 || RT_LOAD(pp->npd) != 0
           || (takes_shared(pp) && RT_LOAD(pp->sched->global.len) != 0);
}

/* Is there fresh work that is not pp's own, whether it may run that or not? */
static bool
shared_work(rt_p *pp)
{
    rt_sched *sched = pp->sched;
    if (atomic_load(&sched->global.len) != 0)
        return true;
    uint32_t n = atomic_load_explicit(&sched->nallp, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++) {
        rt_p *q = RT_LOAD(sched->allp[i]);
        if (q != pp && rt_runq_len(&q->fresh) != 0)
            return true;
    }
    return false;
}

static RT_NOINLINE bool
steal(rt_p *pp)
{
    rt_sched *sched = pp->sched;
    uint32_t n = atomic_load_explicit(&sched->nallp, memory_order_acquire);
    if (n == 1 || !takes_shared(pp))
        return false;
    if (!pp->spinning && RT_LOAD(pp->mode) == RT_P_OPEN) {
        /* Enough look already: half of those that are busy. */
        int32_t busy = (int32_t)RT_LOAD(sched->nprocs) - RT_LOAD(sched->nidle);
        if (2 * RT_LOAD(sched->nspinning) >= busy)
            return false;
        rt_p_start_spinning(pp, rt_nanotime());
        atomic_fetch_add(&sched->nspinning, 1);
    }
    for (int round = 0; round < STEAL_ROUNDS; round++) {
        pp->seed ^= pp->seed << 13, pp->seed ^= pp->seed >> 17, pp->seed ^= pp->seed << 5;
        for (uint32_t i = 0, at = pp->seed % n; i < n; i++, at = at + 1 == n ? 0 : at + 1) {
            rt_p *from = RT_LOAD(sched->allp[at]);
            rt_g *gp = from != pp ? rt_runq_steal(&from->fresh, &pp->fresh) : NULL;
            if (gp == NULL)
                continue;
            RT_COUNT(pp->count.steals, 1);
            RT_COUNT(pp->count.stolen, 1 + rt_runq_len(&pp->fresh));
            RT_STORE(pp->runnext, gp);      /* empty: there was nothing to run */
            /* Until the rest was in its ring nobody could see it; a spinning M wakes
               another anyhow. */
            if (!pp->spinning)
                rt_sched_wake_one(sched);
            return true;
        }
    }
    return false;
}

/* pp has found work: if it was the last to look, another must. */
static RT_NOINLINE void
stop_spinning(rt_p *pp)
{
    rt_p_end_spinning(pp, rt_nanotime());
    if (atomic_fetch_sub(&pp->sched->nspinning, 1) < 1)
        rt_throw("stop_spinning: negative number of spinning Ms");
    rt_sched_wake_one(pp->sched);
}

/* Nothing is runnable: sleep in the netpoll until a timer, an event or a wake-up. */
static RT_NOINLINE void
sleep_until_work(rt_p *pp)
{
    rt_sched *sched = pp->sched;
    if (RT_UNLIKELY(pp->nbubbles != 0) && sched->host.quiet(pp, false))
        return;
    int64_t until = rt_timers_next(&pp->timers), timeout = RT_FOREVER;
    if (RT_UNLIKELY(RT_LOAD(pp->lent)))
        rt_p_take_back(pp);
    if (until != RT_FOREVER) {
        pp->now = rt_nanotime();
        if (until <= pp->now)
            return;
    }
    bool listed = RT_LOAD(pp->mode) == RT_P_OPEN, spun = pp->spinning;
    /* Before it is in the mask: who takes it out of there must be able to wake it. */
    atomic_store_explicit(&pp->sleeping, RT_DOZING, memory_order_seq_cst);
    RT_YIELD_POINT();
    if (listed)
        rt_idle_set(sched, pp->id);
    RT_YIELD_POINT();
    if (spun) {
        rt_p_end_spinning(pp, rt_nanotime());
        atomic_fetch_sub(&sched->nspinning, 1);
    }
    /* Pairs with producers: see "Sleeping" in rt_sched.h. */
    atomic_thread_fence(memory_order_seq_cst);
    RT_YIELD_POINT();
    bool shared = shared_work(pp), open = RT_LOAD(pp->mode) == RT_P_OPEN;
    /* It may run none of this, or will not do so as one that spins and wakes the next:
       others must look. */
    if (shared && spun && !(open && listed))
        rt_sched_wake_one(sched);
    shared = shared && (open || takes_shared(pp));
    int64_t alarm = next_alarm(pp);
    if (alarm < until)
        until = alarm;
    if (until != RT_FOREVER)
        timeout = until - rt_nanotime();
    if (!shared && open == listed && timeout > 0 && rt_inbox_empty(&pp->inbox)) {
        RT_COUNT(pp->count.blocking_polls, 1);
        sched->host.block(pp, timeout);
        RT_STORE(sched->coarse_ms, (uint32_t)(rt_nanotime() / 1000000));
    }
    RT_YIELD_POINT();
    RT_COUNT(pp->count.wakeups, RT_LOAD(pp->sleeping) == RT_AWAKE);
    atomic_store_explicit(&pp->sleeping, RT_AWAKE, memory_order_seq_cst);
    rt_sysmon_wake_if_asleep(&sched->sysmon);
    RT_YIELD_POINT();
    if (!listed)
        return;
    if (!rt_idle_clear(sched, pp->id))
        rt_p_start_spinning(pp, rt_nanotime());      /* who took it out has counted it */
    else if (shared) {
        rt_p_start_spinning(pp, rt_nanotime());
        atomic_fetch_add(&sched->nspinning, 1);
    }
}

rt_g *
rt_sched_find(rt_p *pp)
{
    rt_sched *sched = pp->sched;
    uint32_t tick = RT_LOAD(pp->tick) + 1;
    RT_STORE(pp->tick, tick);
    if (RT_UNLIKELY(RT_LOAD(pp->lent)))
        rt_p_take_back(pp);
    if (RT_UNLIKELY(pp->sample_began != 0))
        end_sample(pp);
    rt_g *gp = NULL;
    if (RT_UNLIKELY(tick % FAIR_TICKS == 0)) {
        take_global(pp);
        take_inbox(pp);
        poll_now(pp);
        if (RT_UNLIKELY(pp->nbubbles != 0))
            pp->sched->host.quiet(pp, true);
    }
    else if (RT_UNLIKELY(pp->preempted.head != NULL && tick % FAIR_TICKS == FAIR_TICKS / 2))
        gp = rt_glist_pop(&pp->preempted);
    if ((tick & 15) == 0) {
        if (RT_UNLIKELY(RT_LOAD(pp->mode) == RT_P_CLOSED))
            rt_p_give_away_fresh(pp);
        run_timers(pp);
    }
    for (;;) {
        if (RT_LIKELY(gp == NULL))
            gp = take_local(pp);
        if (RT_LIKELY(gp != NULL)) {
            RT_COUNT(pp->count.ticks, 1);
            if (RT_UNLIKELY(gp->sampled))
                run_sample(pp, gp);
            if (RT_UNLIKELY(pp->spinning)) {
                pp->found = gp;
                stop_spinning(pp);
                pp->found = NULL;
            }
            return gp;
        }
        run_timers(pp);
        if (take_inbox(pp) || take_global(pp) || take_spill(pp) || queued(pp))
            continue;
        poll_now(pp);
        if (queued(pp))
            continue;
        gp = rt_glist_pop(&pp->preempted);
        if (gp != NULL || steal(pp))
            continue;
        if (RT_UNLIKELY(RT_LOAD(sched->nlent) != 0) && run_lent_alarms(pp))
            continue;
        sleep_until_work(pp);
    }
}

void
rt_p_look_soon(rt_p *pp)
{
    const uint32_t both = FAIR_TICKS * 16;
    RT_STORE(pp->tick, (RT_LOAD(pp->tick) / both + 1) * both - 1);
}

/* ---- descriptors ---- */

int
rt_pd_open(rt_pd *pd, rt_p *pp, int fd, void (*ready)(rt_pd *, uint32_t))
{
    pd->fd = fd;
    pd->pp = pp;
    RT_STORE(pd->ready, ready);
    int err = pp->sched->netpoll->add(pp->np, fd, pd);
    if (err == 0)
        atomic_fetch_add_explicit(&pp->npd, 1, memory_order_relaxed);
    else
        pd->pp = NULL;
    return err;
}

void
rt_pd_close_nop(rt_pd *pd)
{
    rt_p *pp = pd->pp;
    if (pp == NULL)
        return;
    if (pp->np != NULL)         /* NULL: of a P that has stayed in the parent of a fork */
        pp->sched->netpoll->remove(pp->np, pd->fd);
    atomic_fetch_sub_explicit(&pp->npd, 1, memory_order_relaxed);
    pd->pp = NULL;
}

void
rt_pd_close(rt_pd *pd)
{
    rt_p *pp = pd->pp;
    if (pp == NULL)
        return;
    for (int i = pp->event; i < pp->nevents; i++)
        if (pp->events[i].data == pd)
            pp->events[i].data = NULL;
    rt_pd_close_nop(pd);
}
