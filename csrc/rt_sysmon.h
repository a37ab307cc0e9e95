/* rt_sysmon.h - sysmon: the one thread that has no P and watches all of them.
 *
 * It sees to it that nobody waits long for a P whose goroutine does not make way:
 *
 *  - A P that has run the same goroutine for RT_SYSMON_SLICE while somebody waits
 *    for it is asked to preempt it (host.preempt), again and again while that lasts.
 *  - Where this has no effect for RT_SYSMON_LEND its M is in C code, and other Ms
 *    may take the fresh goroutines it has, and run its alarms (rt_sched_lend).
 *  - After stall_ns of that it is reported (host.stalled).
 *
 * It sees what the Ps do from outside, by what they count: `tick` changes with each
 * goroutine picked, `beat` whenever one is found in Python code, where it could be
 * asked, but must not be left now.  Neither needs a lock, and a P pays nothing for
 * being watched.
 *
 * It looks every RT_SYSMON_TICK.  Go begins with 20 us because its sysmon also takes
 * back Ps from system calls; here a P stays with its M, a goroutine has its 10 ms
 * anyway, and each look costs a wake-up of a few microseconds: 0.05 % of a core at this
 * rate.  Only after an ask it looks again soon, to see when the next goroutine begins:
 * where several compute, their slices would otherwise be up to two ticks long, and so
 * would be the delay of a timer.
 *
 * Sleeping.  When no P has picked a goroutine for RT_SYSMON_QUIET and nobody waits,
 * there is nothing to watch: it stores RT_SYSMON_ASLEEP, looks at all Ps once more,
 * and waits without a time limit (or, while an M is busy with something of its own,
 * for RT_SYSMON_DOZE).  An M that comes out of a poll stores pp->sleeping, then looks
 * at the state.  Both orders are sequentially consistent, so at least one of the two
 * sees the other.
 *
 * Time that sysmon itself was not given a processor is not held against the Ps: a
 * process that was stopped, or a machine that was suspended, has no stalls.
 */
#ifndef RT_SYSMON_H
#define RT_SYSMON_H

#include <pthread.h>
#include <signal.h>

#include "rt_base.h"

typedef struct rt_p rt_p;
typedef struct rt_sched rt_sched;

#define RT_SYSMON_TICK 10000000         /* ns between looks */
#define RT_SYSMON_SLICE 10000000        /* ns a goroutine may run while others wait */
#define RT_SYSMON_SOON 1000000          /* ns from an ask to the next look */
#define RT_SYSMON_LEND 30000000         /* ns of no effect until rt_sched_lend() */
#define RT_SYSMON_QUIET 1000000000      /* ns without any change until it sleeps */
#define RT_SYSMON_DOZE 1000000000       /* ns of a sleep while some M does not sleep */
#define RT_SYSMON_MAX_GAP 7             /* looks between two asks without effect */

enum {                          /* rt_sysmon.state */
    RT_SYSMON_OFF,              /* not started yet */
    RT_SYSMON_AWAKE,            /* or no thread of it is wanted any more */
    RT_SYSMON_ASLEEP
};

/* What sysmon knows of a P; in rt_p, nobody else touches it.  Times are in ns of
   sysmon's own clock. */
typedef struct {
    uint32_t tick;              /* the last ones seen */
    uint32_t beat;
    int64_t since;              /* when this tick was first seen; 0: not yet */
    int64_t when;               /* of the last ask */
    int64_t waiting;            /* since when somebody waits for it; 0: nobody */
    int64_t alive;              /* when it was last known to be in Python code */
    uint32_t gap;               /* looks to leave out after the next ask in vain */
    uint32_t skip;              /* looks left out until the next ask */
    bool slept;                 /* as last seen */
    bool asked;                 /* host.preempt() was called and nothing has come of it */
    bool reported;              /* host.stalled() has dealt with it */
} rt_sysmon_p;

/* What sysmon needs from its host.  All are called on its thread. */
typedef struct {
    int64_t (*clock)(void);     /* monotonic, ns */
    /* Make the goroutine on pp yield soon.  Others have waited for ns. */
    void (*preempt)(rt_p *pp, int64_t ns);
    /* What was asked of pp is void: it has gone on, or did not react. */
    void (*withdraw)(rt_p *pp);
    /* Others have waited for pp for ns while its M did not react at all.  False: not
       now, try again. */
    bool (*stalled)(rt_p *pp, int64_t ns);
    void (*trace)(void);        /* every trace_ns; may be NULL */
    void (*leave)(void);        /* the thread ends; may be NULL */
} rt_sysmon_host;

typedef struct {
    _Atomic uint32_t state;     /* RT_SYSMON_* */
    rt_sched *sched;
    rt_sysmon_host host;
    int64_t stall_ns;           /* 0: no reports */
    int64_t trace_ns;           /* 0: no traces */

    /* Of the thread alone. */
    int64_t skew;               /* how much its own clock is behind host.clock() */
    int64_t expected;           /* when this look was due, host.clock(); 0: at no time */
    int64_t changed;            /* when a P last picked a goroutine */
    int64_t alarm;              /* the first of a P that runs, RT_FOREVER: none */
    int64_t next_trace;
    sigset_t sigmask;           /* of the thread that has started it; its own blocks all */

    pthread_mutex_t lock;
    pthread_cond_t cond;        /* on the monotonic clock */
    bool stop;                  /* guarded by lock */
    bool running;               /* the thread exists; of who starts and stops it */
    pthread_t thread;
} rt_sysmon;

void rt_sysmon_init(rt_sysmon *sm, rt_sched *sched, rt_sysmon_host host);
/* Start the thread unless it runs or is being started.  -errno. */
int rt_sysmon_start(rt_sysmon *sm);
/* End the thread and wait for that; the caller must hold no lock that a callback of
   the host needs.  It may be started again. */
void rt_sysmon_stop(rt_sysmon *sm);
/* In the child of a fork, where the thread does not exist. */
void rt_sysmon_after_fork(rt_sysmon *sm);

/* One look at all Ps.  Returns for how long to wait until the next, in ns: more
   than RT_SYSMON_TICK means that there is nothing to watch.  For the thread, and
   for tests. */
int64_t rt_sysmon_look(rt_sysmon *sm);

void rt_sysmon_wake(rt_sysmon *sm);

/* Called by an M that comes out of a blocking poll and by who gives a running P
   something to do.  Costs one load. */
static inline void
rt_sysmon_wake_if_asleep(rt_sysmon *sm)
{
    /* Reads what sysmon wrote before it looked at the Ps; see "Sleeping". */
    if (RT_UNLIKELY(atomic_load_explicit(&sm->state, memory_order_seq_cst)
                    == RT_SYSMON_ASLEEP))
        rt_sysmon_wake(sm);
}

#endif
