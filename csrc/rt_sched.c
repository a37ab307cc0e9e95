/* rt_sched.c - see rt_sched.h for the rules. */
#include "rt_sched.h"

#include <errno.h>
#include <string.h>

void
rt_sched_init(rt_sched *sched, const rt_netpoll_ops *ops, rt_host host)
{
    sched->netpoll = ops;
    sched->host = host;
    rt_globq_init(&sched->global);
}

int
rt_p_init(rt_p *pp, rt_sched *sched, uint32_t id)
{
    memset(pp, 0, sizeof(*pp));
    pp->sched = sched;
    pp->id = id;
    pp->takes_global = true;
    rt_timers_init(&pp->timers);
    pp->now = rt_nanotime();
    return sched->netpoll->open(&pp->np);
}

/* The ring is full: half of it and gp go to the global queue. */
static RT_NOINLINE void
put_fresh_slow(rt_p *pp, rt_g *gp)
{
    rt_glist batch = {0};
    rt_runq_get_half(&pp->fresh, &batch);
    rt_glist_push(&batch, gp);
    pp->count.overflows++;
    rt_globq_put(&pp->sched->global, &batch);
}

static inline void
put_queue(rt_p *pp, rt_g *gp)
{
    if (gp->started)
        rt_glist_push(&pp->started, gp);
    else if (RT_UNLIKELY(!rt_runq_put(&pp->fresh, gp))) {
        if (pp->takes_global)
            put_fresh_slow(pp, gp);
        else
            rt_inbox_put(&pp->inbox, gp);
    }
}

static inline void
put_local(rt_p *pp, rt_g *gp, bool next)
{
    if (next) {
        rt_g *old = pp->runnext;
        pp->runnext = gp;
        if (old == NULL)
            return;
        gp = old;
    }
    put_queue(pp, gp);
}

void
rt_p_put_fresh(rt_p *pp, rt_g *gp, bool next)
{
    gp->status = RT_G_RUNNABLE;
    put_local(pp, gp, next);
}

void
rt_p_put_yielded(rt_p *pp, rt_g *gp)
{
    gp->status = RT_G_RUNNABLE;
    rt_glist_push(&pp->started, gp);
}

void
rt_p_wake(rt_p *pp)
{
    /* Reads what the sleeper wrote after it armed; pairs with rt_sched_find. */
    if (atomic_load_explicit(&pp->sleeping, memory_order_seq_cst)
        && atomic_exchange_explicit(&pp->sleeping, false, memory_order_seq_cst))
        pp->sched->netpoll->wake(pp->np);
    else
        rt_sysmon_wake_if_asleep(&pp->sched->sysmon);
}

bool
rt_p_has_work(rt_p *pp)
{
    return *(rt_g *volatile *)&pp->runnext != NULL
           || *(volatile uint32_t *)&pp->started.len != 0
           || *(volatile uint32_t *)&pp->preempted.len != 0 || rt_runq_len(&pp->fresh) != 0
           || !rt_inbox_empty(&pp->inbox) || *(volatile uint32_t *)&pp->timers.len != 0
           || *(volatile uint32_t *)&pp->npd != 0;
}

void
rt_sched_lend(rt_sched *sched, rt_p *pp)
{
    (void)sched;
    (void)pp;
}

void
rt_p_submit(rt_p *pp, rt_g *gp)
{
    rt_inbox_put(&pp->inbox, gp);
    rt_p_wake(pp);
}

void
rt_ready(rt_p *cur, rt_g *gp, bool next)
{
    gp->status = RT_G_RUNNABLE;
    if (RT_LIKELY(gp->pp == cur && !gp->foreign))
        put_local(cur, gp, next);
    else if (gp->foreign)
        gp->pp->sched->host.unpark(gp);
    else
        rt_p_submit(gp->pp, gp);
}

int
rt_p_poll(rt_p *pp, int64_t timeout, const sigset_t *sigmask)
{
    pp->count.polls++;
    int n = pp->sched->netpoll->wait(pp->np, pp->events, RT_POLL_BATCH,
                                     timeout == RT_FOREVER ? -1 : timeout, sigmask);
    return n;
}

void
rt_p_dispatch(rt_p *pp, int nevents)
{
    pp->nevents = nevents;
    for (pp->event = 0; pp->event < nevents;) {
        rt_poll_event *ev = &pp->events[pp->event++];
        rt_pd *pd = ev->data;
        if (pd != NULL) {           /* NULL: closed by an earlier event's callback */
            pp->count.poll_events++;
            pd->ready(pd, ev->mode);
        }
    }
}

static inline void
poll_now(rt_p *pp)
{
    if (pp->npd == 0)
        return;
    int n = rt_p_poll(pp, 0, NULL);
    if (n > 0)
        rt_p_dispatch(pp, n);
}

static inline void
run_timers(rt_p *pp)
{
    if (pp->timers.len == 0)
        return;
    pp->now = rt_nanotime();
    if (rt_timers_next(&pp->timers) <= pp->now)
        pp->count.timers_fired += rt_timers_run(&pp->timers, pp->now);
}

/* Move what other threads left here into the queues. */
static inline bool
take_inbox(rt_p *pp)
{
    if (atomic_load_explicit(&pp->inbox.top, memory_order_relaxed) == NULL)
        return false;
    rt_glist in = {0};
    pp->count.inbox += rt_inbox_take(&pp->inbox, &in);
    for (rt_g *gp; (gp = rt_glist_pop(&in)) != NULL;)
        put_queue(pp, gp);
    return true;
}

/* Up to half a ring of the global queue goes to the fresh ring. */
static bool
take_global(rt_p *pp)
{
    if (!pp->takes_global)
        return false;
    rt_glist in = {0};
    uint32_t room = RT_RUNQ_CAP - rt_runq_len(&pp->fresh);
    uint32_t max = room < RT_RUNQ_CAP / 2 ? room : RT_RUNQ_CAP / 2;
    uint32_t n = max ? rt_globq_get(&pp->sched->global, &in, max) : 0;
    pp->count.global += n;
    for (rt_g *gp; (gp = rt_glist_pop(&in)) != NULL;)
        put_queue(pp, gp);
    return n != 0;
}

static inline rt_g *
take_local(rt_p *pp)
{
    rt_g *gp = pp->runnext;
    if (gp != NULL) {
        pp->runnext = NULL;
        if (pp->runnext_streak < RT_RUNNEXT_MAX) {
            pp->runnext_streak++;
            pp->count.runnext++;
            return gp;
        }
        put_queue(pp, gp);
    }
    pp->runnext_streak = 0;
    /* In turn, each kind as many as there were when its turn began: neither starves
       the other, and fresh ones run in batches, without a switch between them. */
    if (pp->turn_left == 0) {
        uint32_t fresh = rt_runq_len(&pp->fresh), started = pp->started.len;
        pp->turn_started = started != 0 && (!pp->turn_started || fresh == 0);
        pp->turn_left = pp->turn_started ? started : fresh;
        if (pp->turn_left == 0)
            return rt_glist_pop(&pp->preempted);
    }
    pp->turn_left--;
    if (pp->turn_started)
        return rt_glist_pop(&pp->started);
    gp = rt_runq_get(&pp->fresh);
    if (RT_UNLIKELY(gp == NULL)) {          /* thieves took the rest of the turn */
        pp->turn_left = 0;
        gp = rt_glist_pop(&pp->started);
    }
    return gp;
}

void
rt_p_put_preempted(rt_p *pp, rt_g *gp)
{
    take_global(pp);
    take_inbox(pp);
    run_timers(pp);
    poll_now(pp);
    gp->status = RT_G_RUNNABLE;
    rt_glist_push(&pp->preempted, gp);
}

/* Nothing is runnable: sleep in the netpoll until a timer, an event or a wake-up. */
static RT_NOINLINE void
sleep_until_work(rt_p *pp)
{
    int64_t timeout = RT_FOREVER;
    if (pp->timers.len != 0) {
        pp->now = rt_nanotime();
        timeout = rt_timers_next(&pp->timers) - pp->now;
        if (timeout <= 0)
            return;
    }
    /* Pairs with producers: see "Sleeping" in rt_sched.h. */
    atomic_store_explicit(&pp->sleeping, true, memory_order_seq_cst);
    if (rt_inbox_empty(&pp->inbox)
        && !(pp->takes_global
             && atomic_load_explicit(&pp->sched->global.len, memory_order_seq_cst) != 0)) {
        pp->count.blocking_polls++;
        pp->sched->host.block(pp, timeout);
    }
    atomic_store_explicit(&pp->sleeping, false, memory_order_seq_cst);
    rt_sysmon_wake_if_asleep(&pp->sched->sysmon);
}

rt_g *
rt_sched_find(rt_p *pp)
{
    uint32_t tick = atomic_load_explicit(&pp->tick, memory_order_relaxed) + 1;
    atomic_store_explicit(&pp->tick, tick, memory_order_relaxed);
    if (RT_UNLIKELY(tick % 61 == 0)) {
        take_global(pp);
        take_inbox(pp);
        poll_now(pp);
        rt_g *gp = rt_glist_pop(&pp->preempted);
        if (gp != NULL) {
            pp->count.ticks++;
            return gp;
        }
    }
    if ((tick & 15) == 0)
        run_timers(pp);
    for (;;) {
        rt_g *gp = take_local(pp);
        if (RT_LIKELY(gp != NULL)) {
            pp->count.ticks++;
            return gp;
        }
        run_timers(pp);
        if (take_inbox(pp) || take_global(pp) || pp->runnext != NULL || pp->started.head)
            continue;
        poll_now(pp);
        if (pp->runnext == NULL && pp->started.head == NULL && rt_runq_len(&pp->fresh) == 0)
            sleep_until_work(pp);
    }
}

int
rt_pd_open(rt_pd *pd, rt_p *pp, int fd, void (*ready)(rt_pd *, uint32_t))
{
    pd->fd = fd;
    pd->pp = pp;
    pd->ready = ready;
    int err = pp->sched->netpoll->add(pp->np, fd, pd);
    if (err == 0)
        pp->npd++;
    return err;
}

void
rt_pd_close(rt_pd *pd)
{
    rt_p *pp = pd->pp;
    if (pp == NULL)
        return;
    pp->sched->netpoll->remove(pp->np, pd->fd);
    for (int i = pp->event; i < pp->nevents; i++)
        if (pp->events[i].data == pd)
            pp->events[i].data = NULL;
    pp->npd--;
    pd->pp = NULL;
}
