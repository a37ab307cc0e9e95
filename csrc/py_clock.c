/* py_clock.c - channels with a clock: those of timers and tickers; see py_time.h. */
#include "py_time.h"

void
py_clock_prepare_slow(void)
{
    if (py_alarms_need_home() < 0)
        PyErr_Clear();          /* not so: foreign threads that wait have a P to refer to */
}

/* The value that is due has been taken.  A ticker stays on its grid, and leaves out what
   nobody was there for. */
static inline void
clock_advance(py_clock *c, int64_t now)
{
    if (c->period == 0)
        c->when = PY_NEVER;
    else
        c->when = py_time_later(c->when, (now - c->when) / c->period * c->period + c->period);
}

int
py_clock_take(Chan *ch, PyObject **out)
{
    py_clock *c = ch->clock;
    int64_t now;
    if (c->when == PY_NEVER || c->when > (now = py_now_of(ch->bubble)))
        return 0;
    *out = PyFloat_FromDouble(py_ns_to_seconds(c->when));
    if (RT_UNLIKELY(*out == NULL)) {
        PyErr_Clear();
        return -2;
    }
    clock_advance(c, now);
    return 1;
}

static void
clock_start(py_clock *c, rt_alarms *as, int64_t when)
{
    c->home = as;
    Py_INCREF(c->ch);
    rt_p_start_alarm(as, &c->alarm, when);
}

/* Somebody waits to receive: the alarm must be started. */
void
py_clock_start(Chan *ch)
{
    py_clock *c = ch->clock;
    rt_alarms *here;
    if (c->when == PY_NEVER || (c->home != NULL && rt_alarms_has(c->home, &c->alarm)))
        return;
    here = py_alarms_of(ch->bubble);
    if (here != NULL)           /* in the child of a fork nobody waits, though some are queued */
        clock_start(c, here, c->when);
}

/* Nobody does any more, or not for this. */
void
py_clock_stop(Chan *ch)
{
    py_clock *c = ch->clock;
    if (c->home != NULL && rt_alarms_stop(c->home, &c->alarm))
        Py_DECREF(ch);          /* the caller has another */
}

bool
py_clock_set(Chan *ch, int64_t when, int64_t period)
{
    py_clock *c = ch->clock;
    py_this_m();                /* makes it one where it can be */
    py_acquire(&ch->lock);
    bool pending = c->when != PY_NEVER;
    c->when = when;
    c->period = period;
    py_chan_changed(ch);
    py_clock_stop(ch);
    if (ch->recvq.head != NULL)
        py_clock_start(ch);
    py_release(&ch->lock);
    return pending;
}

/* In a goroutine of an M that could not do it itself. */
static PyObject *
drop_channels(Goroutine *Py_UNUSED(gp))
{
    py_m *mp = py_tls_m;
    for (py_clock *c; (c = mp->dropped) != NULL;) {
        Chan *ch = c->ch;
        mp->dropped = c->next;
        py_acquire(&ch->lock);
        c->dropped = false;
        py_release(&ch->lock);
        Py_DECREF(ch);
    }
    Py_RETURN_NONE;
}

/* Those who waited have gone while the alarm fired: its reference may be the last, and what
   drops that may run Python. */
static RT_COLD void
drop_later_slow(py_clock *c)
{
    py_m *mp = py_tls_m;
    c->next = mp->dropped;
    mp->dropped = c;
    if (py_g_spawn_service(mp, drop_channels) < 0)
        PyErr_Clear();          /* the next one does it */
}

void
py_clock_fired(rt_timer *alarm)
{
    py_clock *c = RT_CONTAINER_OF(alarm, py_clock, alarm);
    Chan *ch = c->ch;
    PyObject *value = PyFloat_FromDouble(0);
    if (RT_UNLIKELY(value == NULL))
        PyErr_Clear();
    py_waiter *w = NULL;
    py_acquire(&ch->lock);
    int64_t now = py_alarms_now(c->home), when = c->when;
    bool waits = ch->recvq.head != NULL;
    /* Without memory a receiver is to see for itself. */
    if (when <= now)
        w = py_waitq_claim(&ch->recvq, value != NULL ? RT_WAKE_READY : RT_WAKE_CLOSED);
    if (RT_LIKELY(w != NULL && value != NULL)) {
        ((PyFloatObject *)value)->ob_fval = py_ns_to_seconds(when);     /* nobody knows it yet */
        w->value = value;
        value = NULL;
        clock_advance(c, now);
    }
    if (ch->recvq.head != NULL && c->when != PY_NEVER && !rt_alarms_has(c->home, alarm))
        clock_start(c, c->home, c->when);
    bool last = !waits && !c->dropped;
    if (RT_LIKELY(!last))
        Py_DECREF(ch);          /* who waited has another, or those have that will drop it */
    else
        c->dropped = true;
    py_release(&ch->lock);
    Py_XDECREF(value);
    if (w != NULL)
        py_ready(w->g, false);
    if (RT_UNLIKELY(last))
        drop_later_slow(c);
}

Chan *
py_clock_channel(int64_t when, int64_t period)
{
    py_clock *c = PyMem_Calloc(1, sizeof(*c));
    Chan *ch = c ? (Chan *)py_chan_new(0) : NULL;
    if (ch == NULL) {
        PyMem_Free(c);
        return c ? NULL : (Chan *)PyErr_NoMemory();
    }
    c->alarm.fire = py_clock_fired;
    c->when = when;
    c->period = period;
    c->ch = ch;
    ch->clock = c;
    ch->timed = true;
    PyObject_GC_UnTrack(ch);    /* it never refers to anything */
    return ch;
}

PyObject *
py_clock_receiver(int64_t when, int64_t period)
{
    Chan *ch = py_clock_channel(when, period);
    if (ch == NULL)
        return NULL;
    PyObject *receiver = py_chan_receiver(ch);
    Py_DECREF(ch);
    return receiver;
}
