/* py_bubble.h - bubbles: goroutines with a clock of their own, for tests.
 *
 * How it is put together is told in py_bubble.c.  What other files do for it:
 *
 *   clock     py_now() is the bubble's for its goroutines; a timer of one of them goes into
 *             bubble->timers, not into its P's; alarms into bubble->alarms.  Real time: I/O (PY_WAIT_IO, py_io_deadline()).
 *   park      py_park() of a goroutine of a bubble counts it as blocked if its wait is durable:
 *             only the bubble itself can end it.  py_bubble_is_durable() knows that of the plain
 *             waits (sleep, one channel, join).  Who waits for something else that may come from
 *             outside adds PY_WAIT_OUTSIDE to the reason: a select, say, with a channel that is
 *             not `bubbled`.
 *   channels  one that is made in a bubble is `bubbled`, and used only where py_bubble_admits().
 *   spawn     go() in a bubble starts a goroutine of that bubble; C code that starts one for a
 *             bubble makes it by py_g_new() and gives it to py_bubble_submit().
 */
#ifndef PY_BUBBLE_H
#define PY_BUBBLE_H

#include "py_core.h"

typedef struct py_explorer py_explorer;

/* A Python object: _core.Bubble.  All but what the lock guards belongs to mp's thread. */
struct py_bubble {
    PyObject_HEAD
    py_m *mp;                   /* runs its goroutines; NULL until start(), and in a fork's child */
    int64_t id;                 /* for people */
    int64_t now;                /* its clock, ns since it was made */
    rt_timers timers;           /* by that clock */
    rt_alarms alarms;           /* likewise; each owns what it belongs to */
    uint64_t total;             /* goroutines that have not ended; while there are any, they own a
                                   reference */
    uint64_t blocked;           /* of them in a durable wait, or woken from it and not yet running */
    Goroutine *root;            /* borrowed: the first one; NULL once it has ended */
    Goroutine *waiter;          /* borrowed: is in wait(), or NULL */
    py_bubble *prev, *next;     /* of mp->bubbles */
    bool listed;                /* it is there */
    bool firing;                /* its timers run now, on mp */
    py_explorer *explorer;      /* owned: decides who runs, see py_explore.h; or NULL */
    _Atomic bool doomed;        /* somebody wants all its goroutines cancelled */

    py_lock lock;               /* guards all of the following */
    py_waitq callers;           /* who is in run(), outside of the bubble */
    bool ended;                 /* all its goroutines have */
    bool stuck;                 /* all are blocked for ever; until run() is called again */
};

/* The bubble of the caller, a goroutine or a timer that fires (borrowed); NULL: it is in none. */
py_bubble *py_bubble_current_slow(py_m *mp);
static inline py_bubble *
py_bubble_current(void)
{
    py_m *mp = py_tls_m;
    if (mp == NULL || RT_LIKELY(mp->p.nbubbles == 0))
        return NULL;
    return py_bubble_current_slow(mp);
}
/* The bubble of gp, which is g.bubbled (borrowed). */
static inline py_bubble *
py_bubble_of(const Goroutine *gp)
{
    return gp->g.started ? gp->seat->bubble : gp->bubble;
}
static inline py_bubble *
py_bubble_of_alarms(const rt_alarms *as)
{
    return RT_CONTAINER_OF(as, py_bubble, alarms);
}
/* May the caller use what was made in b? */
bool py_bubble_admits(const py_bubble *b);

/* Queue gp (the scheduler's reference stolen), which has a context, as a goroutine of b.  On
   b's M, or before b has any. */
void py_bubble_submit(py_bubble *b, Goroutine *gp);
/* A goroutine of b begins on mp. */
void py_bubble_began(py_m *mp, py_bubble *b);
/* gp, of a bubble, has ended on mp.  May free the bubble. */
void py_bubble_left(py_m *mp, Goroutine *gp);
/* Is what gp, of b, is about to wait for in b's hands alone? reason: PY_WAIT_*. */
bool py_bubble_is_durable(const py_bubble *b, const Goroutine *gp, int reason);
/* host.quiet of the scheduler. */
bool py_bubble_quiet(rt_p *pp, bool busy);
/* In the child of a fork gp (or NULL) is all that is left; it is in no bubble any more. */
void py_bubble_after_fork(Goroutine *gp);

/* py_timer.c: let go of what an alarm, which is stopped, belongs to.  May run Python. */
void py_alarm_drop(rt_timer *alarm);

int py_bubble_init(PyObject *module);

#endif
