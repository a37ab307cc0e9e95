/* rt_sched.h - goroutines and Ps as the scheduler sees them, and find_runnable.
 *
 * G  a goroutine.  *Fresh* until it first runs: any P may run it.  *Started*
 *    afterwards: it owns a place on the C stack of one thread, so it is pinned to
 *    that thread's P for good.  A fresh one can be pinned, too.
 * P  the right to run goroutines, bound to one M (OS thread): run queues, timers,
 *    a netpoll instance, counters.  Everything in it is touched only by its own
 *    M, but for the fresh ring (thieves), the inbox and what is marked atomic.
 *
 * Ps with an id below nprocs (GOMAXPROCS) are *open*: they run what nobody is pinned
 * to, from their own rings, the global queue and, by stealing, from the rings of all
 * others.  A *closed* P, above nprocs or with its thread locked, runs only what is
 * pinned to it.  The *spare* P runs what is given to it, and acts as an open one
 * while the M of another P is stuck in a call or locked (*lent*); it can be locked, too.
 *
 * Waking a goroutine.  Whoever wants to wake a parked one must first claim its park:
 * rt_g_claim() moves g->wake from 0 to a reason, and only one claimer wins.  The
 * winner calls rt_ready().  A goroutine readied from its own thread goes to the
 * P's queues; from another thread it goes to the P's inbox.  Since a pinned
 * goroutine can only be taken up by its own M, and that M does so in
 * rt_sched_find(), nobody can run a goroutine that has not finished parking.
 *
 * Sleeping.  An M that finds nothing says so (pp->sleeping, then the idle mask), stops
 * spinning, then looks at its inbox, the global queue, all rings and its alarms once
 * more, then polls.  A producer stores its goroutine or alarm, then looks at those.  Both
 * orders are sequentially consistent, so at least one of the two sees the other.  Whoever moves
 * goroutines from one queue to another shows them in the second before they leave the first,
 * or wakes an M afterwards.
 *
 * Waking an M.  As in Go: who puts a fresh goroutine somewhere wakes an idle P, unless
 * an M is *spinning*, that is looking for work; the last spinning M that finds some
 * wakes the next.  So work never waits while a P is idle, and at most one M too
 * many is woken.  A P whose M was never started counts as idle; waking starts it.
 * Who takes a P out of the idle mask has counted its M as spinning; the M finds out
 * when it takes itself out.  tests/model checks all of this.
 *
 * Fairness.  The order of sources in rt_sched_find() and the 61st tick follow Go.
 * runnext, for goroutines that were just handed something, is used at most
 * RT_RUNNEXT_MAX times in a row, so that two that keep waking each other cannot starve
 * the queues.  Fresh ones never sit there: thieves could not take them.
 *
 * Samples.  Of the goroutines that its own M makes runnable, a P times one in
 * RT_SAMPLE_EVERY: how long it waits until it runs, and then how long it runs.  What
 * other threads wake counts from when the M takes it from the inbox.
 */
#ifndef RT_SCHED_H
#define RT_SCHED_H

#include "rt_alarm.h"
#include "rt_hist.h"
#include "rt_netpoll.h"
#include "rt_runq.h"
#include "rt_sysmon.h"
#include "rt_timer.h"

typedef struct rt_p rt_p;
typedef struct rt_sched rt_sched;

enum {                          /* rt_g.status */
    RT_G_RUNNABLE,
    RT_G_RUNNING,
    RT_G_WAITING,
    RT_G_DEAD
};

enum {                          /* rt_g.wake */
    RT_WAKE_NONE = 0,           /* parked, or about to park: may be claimed */
    RT_WAKE_READY,              /* what it waited for has happened */
    RT_WAKE_CLOSED,             /* the channel or descriptor was closed */
    RT_WAKE_TIMEOUT,
    RT_WAKE_INTERRUPT,          /* an exception is pending for it */
    RT_WAKE_CONTEXT             /* the context of what it does has ended */
};

struct rt_g {
    rt_glink link;              /* first: see rt_runq.h */
    rt_p *pp;                   /* home once pinned, NULL before; of a foreign
                                   thread: any P, to reach the host */
    _Atomic uint8_t wake;       /* RT_WAKE_*; see "Waking a goroutine" */
    _Atomic uint8_t status;     /* RT_G_*; written by the M that owns it and by who
                                   has claimed its park */
    uint8_t started : 1;        /* has a place on pp's C stack; implies pinned */
    uint8_t pinned : 1;         /* only pp may run it */
    uint8_t foreign : 1;        /* stands for an OS thread that is not an M */
    uint8_t service : 1;        /* of the host: its own, for a short while; not counted */
    uint8_t bubbled : 1;        /* of the host: belongs to a bubble; implies pinned */
    uint8_t held : 1;           /* when it is runnable host.hold() is told; implies pinned */
    uint8_t sampled : 1;        /* it is runnable, and is a sample */
    uint8_t reason;             /* why it waits, for people; the host's codes */
    uint32_t since;             /* when it began to wait, sched->coarse_ms; of a sample: when
                                   it became runnable, in RT_SAMPLE_UNITs */
};

/* A descriptor registered with a P's netpoll. */
typedef struct rt_pd rt_pd;
struct rt_pd {
    int fd;
    rt_p *pp;                   /* whose netpoll it is registered with, or NULL */
    /* An edge has come.  Runs on pp's M, must not block; mode: RT_POLL_*. */
    void (*_Atomic ready)(rt_pd *pd, uint32_t mode);
};

typedef struct {                /* only ever grow; written by the P's M */
    _Atomic uint64_t ticks;     /* goroutines picked to run */
    _Atomic uint64_t runnext;   /* of them from runnext */
    _Atomic uint64_t global;    /* of them from the global queue */
    _Atomic uint64_t inbox;     /* goroutines from other threads */
    _Atomic uint64_t steals;    /* times it found something to steal */
    _Atomic uint64_t stolen;    /* fresh goroutines taken from other Ps */
    _Atomic uint64_t overflows; /* times half the ring went to the global queue */
    _Atomic uint64_t polls;     /* looks at the netpoll, blocking ones included */
    _Atomic uint64_t blocking_polls;
    _Atomic uint64_t poll_events;
    _Atomic uint64_t timers_fired;
    _Atomic uint64_t preemptions;
    _Atomic uint64_t wakeups;   /* times another thread woke it while it slept, or was about to */
} rt_p_counters;

/* How much time somebody has spent at something, ns.  One word, so that who reads it sees
   what goes on, too: while it does, minus the moment at which it would have begun from 0. */
typedef _Atomic int64_t rt_stopwatch;

/* By the owner only, in turns; now: rt_nanotime(). */
static inline void
rt_stopwatch_start(rt_stopwatch *w, int64_t now)
{
    RT_STORE(*w, RT_LOAD(*w) - now);
}
static inline void
rt_stopwatch_stop(rt_stopwatch *w, int64_t now)
{
    RT_STORE(*w, RT_LOAD(*w) + now);
}
/* By anybody; it never goes down. */
static inline int64_t
rt_stopwatch_read(const rt_stopwatch *w)
{
    int64_t ns = RT_LOAD(*w);
    return ns < 0 ? ns + rt_nanotime() : ns;
}

#define RT_RUNNEXT_MAX 16
#define RT_SAMPLE_EVERY 16
#define RT_SAMPLE_UNIT 256      /* ns: 32 bits of them are 18 minutes */
#define RT_POLL_BATCH 128
#define RT_MAX_P 256            /* largest GOMAXPROCS */
#define RT_SPARE_P RT_MAX_P     /* id of the spare P */

enum {                          /* rt_p.mode */
    RT_P_OPEN,
    RT_P_CLOSED,
    RT_P_SPARE
};

enum {                          /* rt_p.sleeping */
    RT_AWAKE,
    RT_DOZING,                  /* looks at this flag before it sleeps: no need to wake it */
    RT_SLEEPING                 /* in the netpoll */
};

struct rt_p {
    rt_sched *sched;
    uint32_t id;
    _Atomic uint32_t tick;      /* changes with each goroutine picked; read by sysmon */
    _Atomic uint32_t beat;      /* likewise: see rt_sysmon.h */
    rt_sysmon_p mon;            /* sysmon's */
    _Atomic(rt_g *) runnext;    /* runs before the queues; others may look whether there is one */
    rt_g *found;                /* what it will run next, while it wakes another M first */
    uint32_t runnext_streak;
    uint32_t turn_left;         /* goroutines left in the turn of one kind */
    bool turn_pinned;           /* the turn is the pinned ones' */
    bool spinning;              /* counted in sched->nspinning */
    _Atomic uint8_t mode;       /* RT_P_*; written by whoever changes GOMAXPROCS */
    _Atomic bool lent;          /* counted in sched->nlent; set by sysmon, cleared by the M */
    rt_glist pinned;            /* runnable pinned goroutines, oldest first */
    rt_glist preempted;         /* likewise, those that had to be made to yield: they come
                                   after all others */
    rt_glist spill;             /* of the spare: fresh ones its ring has no room for */
    rt_runq fresh;              /* runnable fresh goroutines */
    rt_timers timers;
    rt_alarms alarms;           /* any thread */
    rt_netpoll *np;
    _Atomic uint32_t npd;       /* descriptors registered; any thread */
    uint32_t seed;              /* of the random order of stealing */
    int nlocks;                 /* goroutines that have locked the M; guarded by
                                   sched->lock */
    int64_t now;                /* the clock when it was last read */
    uint32_t nbubbles;          /* of the host: host.quiet() is called while there are any */
    rt_p_counters count;
    rt_stopwatch idle;          /* asleep in the poller */
    rt_stopwatch looking;       /* spinning, or looking on before it sleeps */
    uint32_t sample_in;         /* goroutines until the next sample */
    int64_t sample_began;       /* to run, and runs still; or 0 */
    rt_hist latency, run;       /* of the samples, ns */
    rt_poll_event events[RT_POLL_BATCH];    /* here, not on a stack that is copied */
    int event, nevents;         /* next and number of events being dispatched */
    int64_t batch_at;           /* when that was first asked for; -1 not yet, 0: there are none */

    _Alignas(64) rt_inbox inbox;            /* any thread */
    _Atomic uint8_t sleeping;               /* RT_AWAKE ...; see "Sleeping" */
};

/* What the scheduler needs from its host (the Python layer, or a C test). */
typedef struct {
    /* Poll for at most timeout ns (RT_FOREVER: no limit) with whatever lock the
       host holds released, by way of rt_p_poll().  May ready goroutines.  Called
       only when pp has nothing to run. */
    void (*block)(rt_p *pp, int64_t timeout);
    /* Wake the thread a foreign goroutine stands for. */
    void (*unpark)(rt_g *gp);
    /* Start the M of the P with this id; but for the spare one it is spinning already.
       0 or -errno. */
    int (*start)(rt_sched *sched, uint32_t id);
    /* Called while pp->nbubbles is not 0: before pp sleeps, for it has nothing to run; and
       every now and then while it is `busy`.  May ready goroutines; true: look again. */
    bool (*quiet)(rt_p *pp, bool busy);
    /* A held goroutine has become runnable, woken by another thread if `inbox` is set.  Called
       by its P's M, to whom rt_p_put_pinned() gives it when it is to run. */
    void (*hold)(rt_g *gp, bool inbox);
} rt_host;

struct rt_sched {
    const rt_netpoll_ops *netpoll;
    rt_host host;
    int64_t spin_ns;            /* how long an M that has found nothing looks on before it
                                   sleeps; 0 where Ms share a lock anyway */
    _Atomic(rt_p *) allp[RT_MAX_P + 1];     /* in order of creation; never freed */
    _Atomic uint32_t nallp;
    _Atomic(rt_p *) by_id[RT_MAX_P + 1];
    pthread_mutex_t lock;       /* guards the creation of Ps and changes of nprocs */
    _Atomic uint32_t nprocs;    /* GOMAXPROCS */
    _Atomic uint32_t coarse_ms; /* the clock in ms, a little late; see rt_g.since */
    _Atomic uint32_t nlent;     /* Ps whose M is stuck or locked */

    _Alignas(64) _Atomic int32_t nspinning;
    _Atomic int32_t nidle;      /* bits set in idle */
    _Atomic uint64_t idle[RT_MAX_P / 64];   /* open Ps whose M sleeps or was not started */
    /* Another thread has taken the bit to start the M, GOMAXPROCS has gone down meanwhile:
       the bit is still that thread's when it goes up.  Guarded by lock. */
    bool starting[RT_MAX_P];
    rt_globq global;
    rt_sysmon sysmon;
};

void rt_sched_init(rt_sched *sched, const rt_netpoll_ops *ops, rt_host host);
/* A P for the calling thread, or one about to be started; spinning: by wake_one(), which
   has counted it.  0 or -errno. */
int rt_p_init(rt_p *pp, rt_sched *sched, uint32_t id, bool spinning);
/* Change GOMAXPROCS, 1 to RT_MAX_P; returns what it was.  Any thread. */
uint32_t rt_sched_set_procs(rt_sched *sched, uint32_t n);
/* In the child of a fork: only pp is left, with a new poller and nothing to run, or
   no P at all (NULL).  0 or -errno. */
int rt_sched_after_fork(rt_sched *sched, rt_p *pp);

/* The P with this id, or NULL: its M was never started.  Any thread. */
static inline rt_p *
rt_p_by_id(rt_sched *sched, uint32_t id)
{
    return atomic_load_explicit(&sched->by_id[id], memory_order_acquire);
}

/* Begin a park: from now on gp may be claimed. */
static inline void
rt_g_arm(rt_g *gp)
{
    RT_STORE(gp->status, RT_G_WAITING);
    atomic_store_explicit(&gp->wake, RT_WAKE_NONE, memory_order_release);
}

/* Claim gp's current park.  True: the caller won and must call rt_ready(). */
static inline bool
rt_g_claim(rt_g *gp, uint8_t why)
{
    uint8_t none = RT_WAKE_NONE;
    return atomic_compare_exchange_strong_explicit(
        &gp->wake, &none, why, memory_order_acq_rel, memory_order_relaxed);
}

/* Take back rt_g_arm(), by gp itself.  False: somebody has claimed the park meanwhile, who
   calls rt_ready(); gp must park for real, and is woken at once. */
static inline bool
rt_g_disarm(rt_g *gp)
{
    if (!rt_g_claim(gp, RT_WAKE_READY))
        return false;
    RT_STORE(gp->status, RT_G_RUNNING);
    return true;
}

/* Make a claimed goroutine runnable.  cur is the calling thread's P or NULL.
   next: run it before the queues (it was handed something). */
void rt_ready(rt_p *cur, rt_g *gp, bool next);
/* Put a fresh goroutine into the queues of the calling thread's own P. */
void rt_p_put_fresh(rt_p *pp, rt_g *gp);
/* Put a goroutine that is pinned to pp into its queue; cur as for rt_ready(). */
void rt_p_put_pinned(rt_p *cur, rt_p *pp, rt_g *gp);
/* Hand a fresh goroutine to whichever open P is free first. */
void rt_sched_put(rt_sched *sched, rt_g *gp);
/* Hand a goroutine to another thread's P. */
void rt_p_submit(rt_p *pp, rt_g *gp);
/* Put a started, running goroutine at the tail (it yields). */
void rt_p_put_yielded(rt_p *pp, rt_g *gp);
/* Put a preempted one behind all that waits for pp, also in its poller. */
void rt_p_put_preempted(rt_p *pp, rt_g *gp);
/* Make pp's M look at its queues if it sleeps.  Any thread. */
void rt_p_wake(rt_p *pp);
/* Start an alarm, and see to it that somebody looks in time.  Any thread. */
void rt_p_start_alarm(rt_alarms *as, rt_timer *t, int64_t when);
/* Have somebody look for work, if a P is idle. */
void rt_sched_wake_one(rt_sched *sched);
/* Start the M of an open P, unless that was done or is being done. */
void rt_sched_start(rt_sched *sched, uint32_t id);
/* pp's M is stuck in a call: the spare P shall run what it cannot.  Any thread.  Ends
   when pp next looks for work. */
void rt_sched_lend(rt_p *pp);
/* pp's M takes nothing but pinned goroutines from now on (+1), or one reason less for
   that (-1).  By that M. */
void rt_p_lock(rt_p *pp, int change);
/* The next rt_sched_find() looks at all sources, timers and netpoll among them. */
void rt_p_look_soon(rt_p *pp);
/* Does anybody wait on pp, but for its alarms?  A hint, for any thread. */
bool rt_p_has_work(const rt_p *pp);
/* Is there anything pp would run? By its M. */
bool rt_p_runnable(const rt_p *pp);

/* The next goroutine to run on pp.  Blocks while there is none. */
rt_g *rt_sched_find(rt_p *pp);

/* Poll and dispatch events; returns how many, or -errno.  In two halves for a
   host that must not hold its lock while waiting but must hold it while
   dispatching. */
int rt_p_poll(rt_p *pp, int64_t timeout, const sigset_t *sigmask);
void rt_p_dispatch(rt_p *pp, int nevents);
/* The time for what an event has brought, by pp->ready(): the same for all of a batch, so that
   the clock is read once.  Now, where no events are dispatched. */
static inline int64_t
rt_p_batch_time(rt_p *pp)
{
    if (pp->batch_at > 0)
        return pp->batch_at;
    int64_t now = rt_nanotime();
    if (pp->batch_at < 0)
        pp->batch_at = now;
    return now;
}

/* Register fd with pp's netpoll.  Any thread.  0 or -errno; then pd is not open. */
int rt_pd_open(rt_pd *pd, rt_p *pp, int fd, void (*ready)(rt_pd *, uint32_t));
/* Deregister, by pp's M.  Events of the current batch for pd are dropped, so pd may be freed. */
void rt_pd_close(rt_pd *pd);
/* The same by any thread, if pd is never freed: pp's M may have taken an event for it, and
   calls pd->ready() still, whatever pd is used for by then. */
void rt_pd_close_nop(rt_pd *pd);

#endif
