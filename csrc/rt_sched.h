/* rt_sched.h - goroutines and Ps as the scheduler sees them, and find_runnable.
 *
 * G  a goroutine.  *Fresh* until it first runs: any P may run it.  *Started*
 *    afterwards: it owns a place on the C stack of one thread, so it is pinned to
 *    that thread's P for good.
 * P  the right to run goroutines, bound to one M (OS thread): run queues, timers,
 *    a netpoll instance, counters.  Everything in it is touched only by its own
 *    M, but for the fresh ring (thieves), the inbox and `sleeping`.
 *
 * Waking.  Whoever wants to wake a parked goroutine must first claim its park:
 * rt_g_claim() moves g->wake from 0 to a reason, and only one claimer wins.  The
 * winner calls rt_ready().  A goroutine readied from its own thread goes to the
 * P's queues; from another thread it goes to the P's inbox.  Since a pinned
 * goroutine can only be taken up by its own M, and that M does so in
 * rt_sched_find(), nobody can run a goroutine that has not finished parking.
 *
 * Sleeping.  An M that finds nothing stores pp->sleeping, then looks at its inbox
 * and the global queue once more, then polls.  A producer stores its goroutine,
 * then looks at pp->sleeping.  Both orders are sequentially consistent, so at
 * least one of the two sees the other.
 *
 * Fairness.  The order of sources in rt_sched_find() and the 61st tick follow Go.
 * runnext is used at most RT_RUNNEXT_MAX times in a row, so that two goroutines
 * that keep waking each other cannot starve the queues.
 */
#ifndef RT_SCHED_H
#define RT_SCHED_H

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
    RT_WAKE_INTERRUPT           /* an exception is pending for it */
};

struct rt_g {
    rt_glink link;              /* first: see rt_runq.h */
    rt_p *pp;                   /* home once started, NULL while fresh; of a foreign
                                   thread: any P, to reach the host */
    _Atomic uint32_t wake;      /* RT_WAKE_*; see "Waking" */
    uint8_t status;             /* RT_G_*; written by the M that owns it */
    uint8_t started;            /* pinned to pp */
    uint8_t foreign;            /* stands for an OS thread that is not an M */
    uint8_t reason;             /* why it waits, for people; the host's codes */
};

/* A descriptor registered with a P's netpoll. */
typedef struct rt_pd rt_pd;
struct rt_pd {
    int fd;
    rt_p *pp;                   /* whose netpoll it is registered with */
    /* An edge has come.  Runs on pp's M, must not block; mode: RT_POLL_*. */
    void (*ready)(rt_pd *pd, uint32_t mode);
};

typedef struct {                /* only ever grow; written by the P's M */
    uint64_t ticks;             /* goroutines picked to run */
    uint64_t runnext;           /* of them from runnext */
    uint64_t global;            /* of them from the global queue */
    uint64_t inbox;             /* wake-ups from other threads */
    uint64_t stolen;            /* fresh goroutines taken from other Ps */
    uint64_t overflows;         /* times half the ring went to the global queue */
    uint64_t polls;             /* looks at the netpoll, blocking ones included */
    uint64_t blocking_polls;
    uint64_t poll_events;
    uint64_t timers_fired;
    uint64_t wakes_sent;        /* sleeping Ms woken */
} rt_p_counters;

#define RT_RUNNEXT_MAX 16
#define RT_POLL_BATCH 128

struct rt_p {
    rt_sched *sched;
    uint32_t id;
    _Atomic uint32_t tick;      /* changes with each goroutine picked */
    _Atomic uint32_t beat;      /* see rt_sysmon.h */
    rt_sysmon_p mon;            /* sysmon's */
    rt_g *runnext;              /* runs before the queues */
    uint32_t runnext_streak;
    uint32_t turn_left;         /* goroutines left in the turn of one kind */
    bool turn_started;          /* the turn is the started ones' */
    bool takes_global;          /* may this P run goroutines of the global queue */
    rt_glist started;           /* runnable started goroutines, oldest first */
    rt_glist preempted;         /* likewise, those that had to be made to yield */
    rt_runq fresh;              /* runnable fresh goroutines */
    rt_timers timers;
    rt_netpoll *np;
    uint32_t npd;               /* descriptors registered */
    int64_t now;                /* the clock when it was last read */
    rt_p_counters count;
    rt_poll_event events[RT_POLL_BATCH];    /* here, not on a stack that is copied */
    int event, nevents;         /* next and number of events being dispatched */

    _Alignas(64) rt_inbox inbox;            /* any thread */
    _Atomic bool sleeping;                  /* see "Sleeping" */
};

/* What the scheduler needs from its host (the Python layer, or a C test). */
typedef struct {
    /* Poll for at most timeout ns (RT_FOREVER: no limit) with whatever lock the
       host holds released, by way of rt_p_poll().  May ready goroutines.  Called
       only when pp has nothing to run. */
    void (*block)(rt_p *pp, int64_t timeout);
    /* Wake the thread a foreign goroutine stands for. */
    void (*unpark)(rt_g *gp);
} rt_host;

#define RT_MAX_PS 256

struct rt_sched {
    const rt_netpoll_ops *netpoll;
    rt_host host;
    rt_globq global;
    _Atomic(rt_p *) allp[RT_MAX_PS];
    _Atomic uint32_t nallp;
    _Atomic uint32_t coarse_ms;
    rt_sysmon sysmon;
};

void rt_sched_init(rt_sched *sched, const rt_netpoll_ops *ops, rt_host host);
int rt_p_init(rt_p *pp, rt_sched *sched, uint32_t id);

/* Begin a park: from now on gp may be claimed. */
static inline void
rt_g_arm(rt_g *gp)
{
    atomic_store_explicit(&gp->wake, RT_WAKE_NONE, memory_order_release);
}

/* Claim gp's current park.  True: the caller won and must call rt_ready(). */
static inline bool
rt_g_claim(rt_g *gp, uint32_t why)
{
    uint32_t none = RT_WAKE_NONE;
    return atomic_compare_exchange_strong_explicit(
        &gp->wake, &none, why, memory_order_acq_rel, memory_order_relaxed);
}

/* Make a claimed goroutine runnable.  cur is the calling thread's P or NULL.
   next: run it before the queues (it was handed something). */
void rt_ready(rt_p *cur, rt_g *gp, bool next);
/* Put a fresh goroutine into the queues of the calling thread's own P. */
void rt_p_put_fresh(rt_p *pp, rt_g *gp, bool next);
/* Hand a fresh goroutine to another thread's P. */
void rt_p_submit(rt_p *pp, rt_g *gp);
/* Put a started, running goroutine at the tail (it yields). */
void rt_p_put_yielded(rt_p *pp, rt_g *gp);
/* Make pp's M look at its queues if it sleeps.  Any thread. */
void rt_p_wake(rt_p *pp);

/* Put a preempted one behind all that waits for this P, also in its poller. */
void rt_p_put_preempted(rt_p *pp, rt_g *gp);
/* Does somebody wait for pp?  A racy hint, from any thread. */
bool rt_p_has_work(rt_p *pp);
/* Let other Ms take the fresh goroutines of pp, whose M is in C code. */
void rt_sched_lend(rt_sched *sched, rt_p *pp);

/* The next goroutine to run on pp.  Blocks while there is none. */
rt_g *rt_sched_find(rt_p *pp);

/* Poll and dispatch events; returns how many, or -errno.  In two halves for a
   host that must not hold its lock while waiting but must hold it while
   dispatching. */
int rt_p_poll(rt_p *pp, int64_t timeout, const sigset_t *sigmask);
void rt_p_dispatch(rt_p *pp, int nevents);

int rt_pd_open(rt_pd *pd, rt_p *pp, int fd, void (*ready)(rt_pd *, uint32_t));
/* Deregister.  Events of the current batch for pd are dropped. */
void rt_pd_close(rt_pd *pd);

#endif
