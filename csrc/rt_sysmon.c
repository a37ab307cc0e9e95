/* rt_sysmon.c - see rt_sysmon.h for the rules. */
#include "rt_sysmon.h"

#include <errno.h>
#include <string.h>

#include "rt_sched.h"

/* It runs Python to write a report, with a few frames. */
#define STACK_SIZE (1 << 20)

void
rt_sysmon_init(rt_sysmon *sm, rt_sched *sched, rt_sysmon_host host)
{
    memset(sm, 0, sizeof(*sm));
    sm->sched = sched;
    sm->host = host;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&sm->lock, NULL);
    pthread_cond_init(&sm->cond, &attr);
    pthread_condattr_destroy(&attr);
}

static void
block_signals(sigset_t *old)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, old);
}

/* ---- policy ---- */

enum { P_SLEEPS, P_RUNS, P_PICKED, P_ASKED };

/* Nothing that was asked of pp concerns what it does now. */
static void
forget(rt_sysmon *sm, rt_p *pp)
{
    rt_sysmon_p *mon = &pp->mon;
    if (mon->asked)
        sm->host.withdraw(pp);
    mon->asked = mon->reported = false;
    mon->gap = mon->skip = 0;
    mon->waiting = 0;
}

/* It has run too long.  Asks it to make way, at most every other look while that is in
   vain: where being asked slows down other threads, as it does by sys.monitoring, they
   must not pay for long because this one sits in C code.  True: this call has asked. */
static bool
ask(rt_sysmon *sm, rt_p *pp, int64_t now)
{
    rt_sysmon_p *mon = &pp->mon;
    if (mon->asked && now - mon->when < RT_SYSMON_TICK)
        return false;           /* it still has time */
    if (mon->asked) {
        mon->asked = false;
        sm->host.withdraw(pp);
        mon->gap = 2 * mon->gap + 1;
        if (mon->gap > RT_SYSMON_MAX_GAP)
            mon->gap = RT_SYSMON_MAX_GAP;
        mon->skip = mon->gap;
    }
    if (mon->skip != 0) {
        mon->skip--;
        return false;
    }
    mon->asked = true;
    mon->when = now;
    sm->host.preempt(pp, now - mon->waiting);
    return true;
}

static int
look_at(rt_sysmon *sm, rt_p *pp, int64_t now, int64_t real)
{
    rt_sysmon_p *mon = &pp->mon;
    uint32_t tick = atomic_load_explicit(&pp->tick, memory_order_relaxed);
    uint32_t beat = atomic_load_explicit(&pp->beat, memory_order_relaxed);
    bool sleeping = atomic_load_explicit(&pp->sleeping, memory_order_seq_cst) != RT_AWAKE;
    bool picked = tick != mon->tick || (mon->slept && !sleeping) || mon->since == 0;
    mon->slept = sleeping;
    if (picked || sleeping) {
        forget(sm, pp);
        mon->tick = tick;
        mon->beat = beat;
        mon->since = mon->alive = now;
        return picked ? P_PICKED : P_SLEEPS;
    }
    int64_t alarm = rt_alarms_next(&pp->alarms);
    if (alarm < sm->alarm)
        sm->alarm = alarm;
    if (!rt_p_has_work(pp) && alarm > real) {
        forget(sm, pp);
        return P_RUNS;
    }
    if (mon->waiting == 0)
        mon->waiting = now;
    if (beat != mon->beat) {
        mon->beat = beat;
        mon->alive = now;
        mon->asked = false;
        mon->gap = mon->skip = 0;
    }
    if (now - mon->since < RT_SYSMON_SLICE)
        return P_PICKED;
    bool asked = ask(sm, pp, now);
    int64_t stuck = now - (mon->alive > mon->waiting ? mon->alive : mon->waiting);
    if (stuck >= RT_SYSMON_LEND
        && (rt_runq_len(&pp->fresh) != 0 || RT_LOAD(sm->sched->global.len) != 0
            || alarm <= real)) {
        /* A thread that this starts must not inherit that signals are blocked. */
        pthread_sigmask(SIG_SETMASK, &sm->sigmask, NULL);
        rt_sched_lend(pp);
        rt_sched_wake_one(sm->sched);   /* the start of a thread may have failed before */
        block_signals(NULL);
    }
    if (sm->stall_ns != 0 && stuck >= sm->stall_ns && !mon->reported)
        mon->reported = sm->host.stalled(pp, stuck);
    return asked ? P_ASKED : P_PICKED;
}

static void
trace(rt_sysmon *sm, int64_t now)
{
    if (sm->trace_ns == 0 || sm->host.trace == NULL || now < sm->next_trace)
        return;
    sm->next_trace = now - sm->next_trace < sm->trace_ns ? sm->next_trace + sm->trace_ns
                                                         : now + sm->trace_ns;
    sm->host.trace();
}

int64_t
rt_sysmon_look(rt_sysmon *sm)
{
    int64_t real = sm->host.clock();
    atomic_store_explicit(&sm->sched->coarse_ms, (uint32_t)(real / 1000000),
                          memory_order_relaxed);
    /* The timer's usual lateness is no reason to stop the clock. */
    if (sm->expected != 0 && real - sm->expected > RT_SYSMON_TICK)
        sm->skew += real - sm->expected;
    int64_t now = real - sm->skew;
    int most = P_SLEEPS;
    sm->alarm = RT_FOREVER;
    uint32_t n = atomic_load_explicit(&sm->sched->nallp, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++) {
        rt_p *pp = atomic_load_explicit(&sm->sched->allp[i], memory_order_acquire);
        int seen = pp ? look_at(sm, pp, now, real) : P_SLEEPS;
        if (seen > most)
            most = seen;
    }
    trace(sm, real);
    /* Callbacks may have waited for the host's lock, and that time does count. */
    real = sm->host.clock();
    if (most >= P_PICKED)
        sm->changed = real;
    int64_t timeout = most == P_ASKED ? RT_SYSMON_SOON : RT_SYSMON_TICK;
    if (real - sm->changed >= RT_SYSMON_QUIET)
        timeout = most == P_RUNS ? RT_SYSMON_DOZE : RT_FOREVER;
    /* Whoever runs until then must make way, or be stood in for. */
    if (sm->alarm != RT_FOREVER && sm->alarm - real < timeout)
        timeout = sm->alarm - real > RT_SYSMON_SOON ? sm->alarm - real : RT_SYSMON_SOON;
    sm->expected = timeout <= RT_SYSMON_TICK ? real + timeout : 0;
    return timeout;
}

/* ---- the thread ---- */

/* Is what the last look saw still so?  Otherwise there may be something to watch. */
static bool
still_quiet(rt_sysmon *sm)
{
    uint32_t n = atomic_load_explicit(&sm->sched->nallp, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++) {
        rt_p *pp = atomic_load_explicit(&sm->sched->allp[i], memory_order_acquire);
        if (pp == NULL)
            continue;
        if (atomic_load_explicit(&pp->tick, memory_order_relaxed) != pp->mon.tick)
            return false;
        if (atomic_load_explicit(&pp->sleeping, memory_order_seq_cst) == RT_AWAKE
            && (pp->mon.slept || rt_p_has_work(pp) || rt_alarms_next(&pp->alarms) < sm->alarm))
            return false;
    }
    return true;
}

static void
wait_locked(rt_sysmon *sm, int64_t timeout)
{
    uint32_t state = timeout > RT_SYSMON_TICK ? RT_SYSMON_ASLEEP : RT_SYSMON_AWAKE;
    /* Pairs with rt_sysmon_wake_if_asleep(): see "Sleeping". */
    atomic_store_explicit(&sm->state, state, memory_order_seq_cst);
    int64_t now = sm->host.clock(), until = timeout == RT_FOREVER ? RT_FOREVER : now + timeout;
    if (sm->trace_ns != 0 && sm->next_trace < until)
        until = sm->next_trace;
    struct timespec ts = {until / 1000000000, until % 1000000000};
    bool quiet = state == RT_SYSMON_AWAKE || still_quiet(sm);
    while (quiet && !sm->stop) {
        if (until == RT_FOREVER)
            pthread_cond_wait(&sm->cond, &sm->lock);
        else if (pthread_cond_timedwait(&sm->cond, &sm->lock, &ts) == ETIMEDOUT)
            break;
        quiet = atomic_load_explicit(&sm->state, memory_order_relaxed) == state;
    }
    if (!quiet)                 /* an M woke up, and will pick a goroutine soon */
        sm->changed = sm->host.clock();
    atomic_store_explicit(&sm->state, RT_SYSMON_AWAKE, memory_order_seq_cst);
}

static void *
run(void *arg)
{
    rt_sysmon *sm = arg;
    pthread_mutex_lock(&sm->lock);
    while (!sm->stop) {
        pthread_mutex_unlock(&sm->lock);
        int64_t timeout = rt_sysmon_look(sm);
        pthread_mutex_lock(&sm->lock);
        wait_locked(sm, timeout);
    }
    pthread_mutex_unlock(&sm->lock);
    if (sm->host.leave != NULL)
        sm->host.leave();
    return NULL;
}

int
rt_sysmon_start(rt_sysmon *sm)
{
    uint32_t off = RT_SYSMON_OFF;
    if (!atomic_compare_exchange_strong_explicit(&sm->state, &off, RT_SYSMON_AWAKE,
                                                 memory_order_seq_cst, memory_order_relaxed))
        return 0;
    uint32_t n = atomic_load_explicit(&sm->sched->nallp, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++) {
        rt_p *pp = atomic_load_explicit(&sm->sched->allp[i], memory_order_acquire);
        if (pp != NULL)
            memset(&pp->mon, 0, sizeof(pp->mon));       /* what was seen is long ago */
    }
    sm->stop = false;
    sm->expected = 0;
    sm->changed = sm->next_trace = sm->host.clock();
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    /* Signals are for the host's threads. */
    block_signals(&sm->sigmask);
    int err = pthread_create(&sm->thread, &attr, run, sm);
    pthread_sigmask(SIG_SETMASK, &sm->sigmask, NULL);
    pthread_attr_destroy(&attr);
    sm->running = err == 0;
    if (err != 0)
        atomic_store_explicit(&sm->state, RT_SYSMON_OFF, memory_order_seq_cst);
#ifdef __linux__
    if (err == 0)
        pthread_setname_np(sm->thread, "gosched-sysmon");
#endif
    return -err;
}

void
rt_sysmon_stop(rt_sysmon *sm)
{
    if (!sm->running)
        return;
    pthread_mutex_lock(&sm->lock);
    sm->stop = true;
    pthread_cond_signal(&sm->cond);
    pthread_mutex_unlock(&sm->lock);
    pthread_join(sm->thread, NULL);
    sm->running = false;
    atomic_store_explicit(&sm->state, RT_SYSMON_OFF, memory_order_seq_cst);
}

void
rt_sysmon_after_fork(rt_sysmon *sm)
{
    int64_t stall_ns = sm->stall_ns, trace_ns = sm->trace_ns;
    /* Its lock and condition are in whatever state the other thread left them. */
    rt_sysmon_init(sm, sm->sched, sm->host);
    sm->stall_ns = stall_ns;
    sm->trace_ns = trace_ns;
}

RT_COLD void
rt_sysmon_wake(rt_sysmon *sm)
{
    uint32_t asleep = RT_SYSMON_ASLEEP;
    if (!atomic_compare_exchange_strong_explicit(&sm->state, &asleep, RT_SYSMON_AWAKE,
                                                 memory_order_seq_cst, memory_order_relaxed))
        return;
    atomic_store_explicit(&sm->sched->coarse_ms, (uint32_t)(sm->host.clock() / 1000000),
                          memory_order_relaxed);
    pthread_mutex_lock(&sm->lock);
    pthread_cond_signal(&sm->cond);
    pthread_mutex_unlock(&sm->lock);
}
