/* rt_sched.c - see rt_sched.h for the rules. */
#include "rt_sched.h"

#include <errno.h>
#include <string.h>

#define STEAL_ROUNDS 4
/* Every so many ticks all sources are looked at, and half-way a preempted goroutine runs,
   whatever else there is; every 16 the timers. */
#define FAIR_TICKS 61

/* ---- the idle mask ---- */

static void
set_idle(rt_sched *sched, uint32_t id)
{
    atomic_fetch_or(&sched->idle[id / 64], UINT64_C(1) << id % 64);
    RT_YIELD_POINT();
    atomic_fetch_add(&sched->nidle, 1);
}

/* False: it was not set any more. */
static bool
clear_idle(rt_sched *sched, uint32_t id)
{
    uint64_t bit = UINT64_C(1) << id % 64;
    if (!(atomic_fetch_and(&sched->idle[id / 64], ~bit) & bit))
        return false;
    RT_YIELD_POINT();
    atomic_fetch_sub(&sched->nidle, 1);
    return true;
}

/* Take an idle P's id out of the mask, the lowest from `from` on; RT_MAX_P: none. */
static uint32_t
take_idle(rt_sched *sched, uint32_t from)
{
    for (uint32_t word = from / 64; word < RT_MAX_P / 64; word++) {
        uint64_t bits, above = word == from / 64 ? ~UINT64_C(0) << from % 64 : ~UINT64_C(0);
        while ((bits = atomic_load(&sched->idle[word]) & above) != 0) {
            uint32_t id = word * 64 + (uint32_t)__builtin_ctzll(bits);
            if (clear_idle(sched, id))
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
        set_idle(sched, id);
    pthread_mutex_unlock(&sched->lock);
    return idle;
}

/* ---- Ps ---- */

/* pp is counted in sched->nspinning. */
static void
start_spinning(rt_p *pp, int64_t now)
{
    pp->spinning = true;
    rt_stopwatch_start(&pp->looking, now);
}

/* It must not be any more. */
static void
end_spinning(rt_p *pp, int64_t now)
{
    pp->spinning = false;
    rt_stopwatch_stop(&pp->looking, now);
}

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
        start_spinning(pp, pp->now);
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
    if (clear_idle(sched, id)) {
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

static RT_COLD void
take_back(rt_p *pp)
{
    if (atomic_exchange(&pp->lent, false))
        atomic_fetch_sub(&pp->sched->nlent, 1);
}

/* ---- samples ---- */

static RT_COLD void
begin_sample(rt_p *pp, rt_g *gp)
{
    pp->sample_in = RT_SAMPLE_EVERY;
    gp->sampled = 1;
    gp->since = (uint32_t)(rt_nanotime() / RT_SAMPLE_UNIT);
}

/* gp becomes runnable, by pp's M. */
static inline void
count_runnable(rt_p *pp, rt_g *gp)
{
    if (RT_UNLIKELY(--pp->sample_in == 0))
        begin_sample(pp, gp);
}

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

/* ---- queues ---- */

/* The ring is full: half of it and gp go to the global queue. */
static RT_NOINLINE void
put_fresh_slow(rt_p *pp, rt_g *gp)
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

static inline void
put_queue(rt_p *pp, rt_g *gp)
{
    if (gp->pinned)
        rt_glist_push(&pp->pinned, gp);
    else if (RT_UNLIKELY(!rt_runq_put(&pp->fresh, gp)))
        put_fresh_slow(pp, gp);
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
    count_runnable(pp, gp);
    if (RT_UNLIKELY(!rt_runq_put(&pp->fresh, gp)))
        put_fresh_slow(pp, gp);
    if (RT_UNLIKELY(RT_LOAD(pp->sched->nprocs) > 1))
        rt_sched_wake_one(pp->sched);
}

void
rt_p_put_yielded(rt_p *pp, rt_g *gp)
{
    RT_STORE(gp->status, RT_G_RUNNABLE);
    count_runnable(pp, gp);
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
    count_runnable(pp, gp);
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
        count_runnable(pp, gp);
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
        count_runnable(cur, gp);
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

/* Fresh goroutines of a P that must not run them go to those that may. */
static RT_COLD void
give_away_fresh(rt_p *pp)
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
            sched->starting[id] = !clear_idle(sched, id);
    for (uint32_t id = old; id < n; id++)
        if (rt_p_by_id(sched, id) == NULL && id != 0 && !sched->starting[id])
            set_idle(sched, id);
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
        give_away_fresh(pp);
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
        set_idle(sched, id);
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
            count_runnable(pp, gp);
            put_queue(pp, gp);
        }
    }
    if (RT_UNLIKELY(RT_LOAD(pp->mode) == RT_P_CLOSED))
        give_away_fresh(pp);            /* the spare's, while it is locked */
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
        put_queue(pp, gp);
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
        start_spinning(pp, rt_nanotime());
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
    end_spinning(pp, rt_nanotime());
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
        take_back(pp);
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
        set_idle(sched, pp->id);
    RT_YIELD_POINT();
    if (spun) {
        end_spinning(pp, rt_nanotime());
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
    if (!clear_idle(sched, pp->id))
        start_spinning(pp, rt_nanotime());      /* who took it out has counted it */
    else if (shared) {
        start_spinning(pp, rt_nanotime());
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
        take_back(pp);
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
            give_away_fresh(pp);
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
