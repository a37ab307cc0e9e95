/* py_time.h - timers and tickers: what their files share.
 *
 *   py_time.c     now(), after() and their kin
 *   py_clock.c    channels with a clock
 *   py_timer.c    Timer and after_func()
 *   py_ticker.c   Ticker
 *
 * There are two kinds of timers.  What after_func() starts is an alarm from when it is
 * started until it fires or is stopped; as long it owns a reference to its Timer, which
 * the goroutine inherits that runs the function.  Any other has a channel with a *clock*,
 * made when it is first asked for.
 *
 * A clock says when the next value is due, and nothing else: no buffer, no value that lies
 * about.  From then on a receiver finds the value there, which is made for it; so one that
 * was stopped or reset meanwhile can leave nothing stale behind.  Only while somebody waits
 * to receive is the clock started as an alarm.  So a timer that nobody waits for costs
 * nothing but its memory, and nothing keeps that.
 *
 * Which M fires an alarm does not matter: a receiver is readied wherever it belongs, and a
 * function runs in a fresh goroutine.  Firing runs no Python and drops no last reference.
 *
 * Lock order: Timer.lock or Chan.lock, then that of the alarms.
 */
#ifndef PY_TIME_H
#define PY_TIME_H

#include "py_bubble.h"
#include "py_chan.h"

#define PY_NEVER RT_FOREVER             /* when something is due that is stopped */
#define PY_LATEST (RT_FOREVER - 1)      /* the last time there is */

/* Guarded by the channel's lock. */
typedef struct py_clock py_clock;
struct py_clock {
    rt_timer alarm;             /* while it is started it owns a reference to ch */
    rt_alarms *home;            /* the set it was last started in, or NULL */
    int64_t when;               /* the next value is due, ns, py_now(); RT_FOREVER: stopped */
    int64_t period;             /* ns from value to value; 0: there is one only */
    Chan *ch;                   /* borrowed: whose it is */
    bool dropped;               /* in the list that begins at some M's `dropped`, which owns a
                                   reference to ch then */
    py_clock *next;             /* there */
};

/* ---- the time, and homes of alarms ---- */

/* The time for what was made in b, or in no bubble: NULL. */
static inline int64_t
py_now_of(const py_bubble *b)
{
    return RT_LIKELY(b == NULL) ? rt_nanotime() : b->now;
}

/* Where an alarm of what was made in b goes that the caller starts.  If b is NULL, to the
   caller's own P; on a thread that is no M to the spare P, as a goroutine, or any that exists,
   or NULL: there is none. */
static inline rt_alarms *
py_alarms_of(py_bubble *b)
{
    if (RT_UNLIKELY(b != NULL))
        return &b->alarms;
    py_m *mp = py_tls_m;
    rt_p *pp = mp ? &mp->p : rt_p_by_id(&core->sched, RT_SPARE_P);
    if (RT_UNLIKELY(pp == NULL) && (mp = py_each_m(0)) != NULL)
        pp = &mp->p;
    return pp ? &pp->alarms : NULL;
}

/* The time on the clock of a set's alarms, for who fires one of them. */
static inline int64_t
py_alarms_now(const rt_alarms *as)
{
    return RT_LIKELY(as == &as->pp->alarms) ? rt_nanotime() : py_bubble_of_alarms(as)->now;
}

/* Is there an M for the caller's alarms?  -1 with an exception set: no, and none can be
   started. */
static inline int
py_alarms_need_home(void)
{
    if (RT_LIKELY(py_this_m() != NULL) || py_spare() != NULL)
        return 0;
    if (py_each_m(0) == NULL)
        return -1;
    PyErr_Clear();
    return 0;
}

/* A time in seconds as ns, at least 0; -1 with an exception set. */
int py_seconds_to_ns(PyObject *seconds, const char *usage, bool positive, int64_t *ns);

/* ns after t, but PY_LATEST at most. */
static inline int64_t
py_time_later(int64_t t, int64_t ns)
{
    return ns < PY_LATEST - t ? t + ns : PY_LATEST;
}

static inline double
py_ns_to_seconds(int64_t ns)
{
    return (double)ns / 1e9;
}

/* The calls that take one number. */
static inline PyObject *
py_time_one_number(PyObject *const *args, Py_ssize_t nargs, const char *usage)
{
    if (RT_LIKELY(nargs == 1))
        return args[0];
    PyErr_Format(PyExc_TypeError, "wrong arguments: %s", usage);
    return NULL;
}

/* Was it made in a bubble, and is used outside of that?  -1 with an exception set. */
static inline int
py_time_check_bubble(const py_bubble *b, const char *what)
{
    if (RT_LIKELY(b == NULL) || py_bubble_admits(b))
        return 0;
    PyErr_Format(PyExc_RuntimeError, "this %s was made in a bubble of runtime.testing and cannot "
                 "be used outside of it", what);
    return -1;
}

/* ---- py_clock.c, besides what is in py_chan.h ---- */

/* A channel whose first value is due at `when`. */
Chan *py_clock_channel(int64_t when, int64_t period);
/* The same for who sees nothing but its receiving side. */
PyObject *py_clock_receiver(int64_t when, int64_t period);
/* Stop it, or with another `when` let it go on.  True: its next value was still to be
   received. */
bool py_clock_set(Chan *ch, int64_t when, int64_t period);
/* The alarm of a channel: by the scheduler. */
void py_clock_fired(rt_timer *alarm);

int py_timer_init(PyObject *module);
int py_ticker_init(PyObject *module);

#endif
