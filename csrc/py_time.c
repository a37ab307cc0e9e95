/* py_time.c - Timer, Ticker, after_func() and what goes with them.
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
#include "py_bubble.h"
#include "py_chan.h"
#include "py_wait.h"

#include <math.h>
#include <structmember.h>

#define NEVER RT_FOREVER
#define LATEST (RT_FOREVER - 1)
#define RETRY 1000000           /* ns until what failed for want of memory is tried again */

typedef struct {
    PyObject_VAR_HEAD           /* ob_size: of args */
    rt_timer alarm;             /* fire: NULL unless it is after_func()'s.  Without channel
                                   only `when` means something: guarded by lock.  kind: where
                                   in code */
    rt_alarms *home;            /* the set it was last started in, or NULL; guarded by lock */
    py_bubble *bubble;          /* owned, or NULL: where it may be used */
    PyObject *target;           /* owned: the function, which never changes; or the Chan, or
                                   NULL as long as nobody has asked for it */
    PyObject *context;          /* owned contextvars context to run in, or NULL */
    PyObject *code;             /* owned code object of who has made it, or NULL */
    PyObject *weakrefs;
    py_lock lock;
    PyObject *args[];           /* owned, of the function */
} Timer;

typedef struct {
    PyObject_HEAD
    Chan *ch;                   /* owned; its clock is the Ticker's state */
    PyObject *weakrefs;
} Ticker;

/* Guarded by the channel's lock. */
typedef struct py_clock py_clock;
struct py_clock {
    rt_timer alarm;             /* while it is started it owns a reference to ch */
    rt_alarms *home;            /* the set it was last started in, or NULL */
    int64_t when;               /* the next value is due, ns, py_now(); RT_FOREVER: stopped */
    int64_t period;             /* ns from value to value; 0: there is one only */
    Chan *ch;                   /* borrowed: whose it is */
    py_clock *next;             /* in py_m.dropped */
};

/* ---- the time, and homes of alarms ---- */

/* The time for what was made in b, or in no bubble: NULL. */
static inline int64_t
now_of(const py_bubble *b)
{
    return RT_LIKELY(b == NULL) ? rt_nanotime() : b->now;
}

/* Where an alarm of what was made in b goes that the caller starts.  If b is NULL, to the
   caller's own P; on a thread that is no M to the spare P, as a goroutine, or any that exists,
   or NULL: there is none. */
static rt_alarms *
alarms_of(py_bubble *b)
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
static int64_t
alarms_now(const rt_alarms *as)
{
    return RT_LIKELY(as == &as->pp->alarms) ? rt_nanotime() : py_bubble_of_alarms(as)->now;
}

/* Is there an M for the caller's alarms?  -1 with an exception set: no, and none can be
   started. */
static int
need_home(void)
{
    if (RT_LIKELY(py_this_m() != NULL) || py_spare() != NULL)
        return 0;
    if (py_each_m(0) == NULL)
        return -1;
    PyErr_Clear();
    return 0;
}

void
py_clock_prepare_slow(void)
{
    if (need_home() < 0)
        PyErr_Clear();          /* not so: foreign threads that wait have a P to refer to */
}

/* A time in seconds as ns, at least 0; -1 with an exception set. */
static int
to_ns(PyObject *seconds, const char *usage, bool positive, int64_t *ns)
{
    double s = PyFloat_AsDouble(seconds);
    if (s == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "%s: seconds must be a number, not %.200s", usage,
                         Py_TYPE(seconds)->tp_name);
        return -1;
    }
    if (isnan(s) || (positive && s <= 0)) {
        PyErr_Format(PyExc_ValueError, "%s: seconds must be %s, not %R", usage,
                     positive ? "more than 0" : "a number", seconds);
        return -1;
    }
    *ns = s > 9e9 ? LATEST : s > 0 ? (int64_t)(s * 1e9) : 0;        /* 285 years */
    if (positive && *ns == 0)
        *ns = 1;
    return 0;
}

static inline int64_t
later(int64_t t, int64_t ns)
{
    return ns < LATEST - t ? t + ns : LATEST;
}

static inline double
to_seconds(int64_t ns)
{
    return (double)ns / 1e9;
}

/* ---- channels with a clock ---- */

/* The value that is due has been taken.  A ticker stays on its grid, and leaves out what
   nobody was there for. */
static inline void
clock_advance(py_clock *c, int64_t now)
{
    if (c->period == 0)
        c->when = NEVER;
    else
        c->when = later(c->when, (now - c->when) / c->period * c->period + c->period);
}

int
py_clock_take(Chan *ch, PyObject **out)
{
    py_clock *c = ch->clock;
    int64_t now;
    if (c->when == NEVER || c->when > (now = now_of(ch->bubble)))
        return 0;
    *out = PyFloat_FromDouble(to_seconds(c->when));
    if (RT_UNLIKELY(*out == NULL)) {
        PyErr_Clear();          /* later, then */
        return 0;
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
    if (c->when == NEVER || (c->home != NULL && rt_alarms_has(c->home, &c->alarm)))
        return;
    here = alarms_of(ch->bubble);
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

/* Stop it, or with another `when` let it go on.  True: its next value was still to be
   received. */
static bool
clock_set(Chan *ch, int64_t when, int64_t period)
{
    py_clock *c = ch->clock;
    py_this_m();                /* makes it one where it can be */
    py_acquire(&ch->lock);
    bool pending = c->when != NEVER;
    c->when = when;
    c->period = period;
    py_chan_changed(ch);
    py_clock_stop(ch);
    if (ch->recvq.head != NULL)
        py_clock_start(ch);
    py_release(&ch->lock);
    return pending;
}

/* For the scheduler: what lost its last reference here. */
static PyObject *
drop_channels(Goroutine *Py_UNUSED(gp))
{
    py_m *mp = py_tls_m;
    for (py_clock *c; (c = mp->dropped) != NULL;) {
        mp->dropped = c->next;
        Py_DECREF(c->ch);
    }
    Py_RETURN_NONE;
}

/* Those who waited have gone while the alarm fired: this reference may be the last, and
   what drops that may run Python. */
static RT_COLD void
drop_later_slow(py_clock *c)
{
    py_m *mp = py_tls_m;
    c->next = mp->dropped;
    mp->dropped = c;
    if (py_g_spawn_service(mp, drop_channels) < 0)
        PyErr_Clear();          /* the next one does it */
}

/* The alarm of a channel: by the scheduler. */
static void
clock_fired(rt_timer *alarm)
{
    py_clock *c = RT_CONTAINER_OF(alarm, py_clock, alarm);
    Chan *ch = c->ch;
    PyObject *value = PyFloat_FromDouble(0);
    if (RT_UNLIKELY(value == NULL))
        PyErr_Clear();
    py_waiter *w = NULL;
    py_acquire(&ch->lock);
    int64_t now = alarms_now(c->home), when = c->when;
    if (when <= now && value != NULL)
        w = py_waitq_claim(&ch->recvq, RT_WAKE_READY);
    if (RT_LIKELY(w != NULL)) {
        ((PyFloatObject *)value)->ob_fval = to_seconds(when);     /* nobody knows it yet */
        w->value = value;
        value = NULL;
        clock_advance(c, now);
    }
    if (ch->recvq.head != NULL && c->when != NEVER && !rt_alarms_has(c->home, alarm))
        clock_start(c, c->home, value == NULL && w == NULL ? later(now, RETRY) : c->when);
    py_release(&ch->lock);
    Py_XDECREF(value);
    if (RT_UNLIKELY(w == NULL))
        drop_later_slow(c);
    else {
        Py_DECREF(ch);          /* who is woken has another */
        py_ready(w->g, false);
    }
}

/* A channel whose first value is due at `when`. */
static Chan *
clock_channel(int64_t when, int64_t period)
{
    py_clock *c = PyMem_Calloc(1, sizeof(*c));
    Chan *ch = c ? (Chan *)py_chan_new(0) : NULL;
    if (ch == NULL) {
        PyMem_Free(c);
        return c ? NULL : (Chan *)PyErr_NoMemory();
    }
    c->alarm.fire = clock_fired;
    c->when = when;
    c->period = period;
    c->ch = ch;
    ch->clock = c;
    ch->timed = true;
    PyObject_GC_UnTrack(ch);    /* it never refers to anything */
    return ch;
}

/* The same for who sees nothing but its receiving side. */
static PyObject *
clock_receiver(int64_t when, int64_t period)
{
    Chan *ch = clock_channel(when, period);
    if (ch == NULL)
        return NULL;
    PyObject *receiver = py_chan_receiver(ch);
    Py_DECREF(ch);
    return receiver;
}

/* ---- after_func() ---- */

static Timer *
timer_alloc(Py_ssize_t nargs)
{
    /* tp_alloc() would add the room of one more. */
    Timer *t = PyObject_GC_NewVar(Timer, core->timer_type, nargs);
    if (t == NULL)
        return NULL;
    memset(&t->alarm, 0, sizeof(*t) - offsetof(Timer, alarm)
           + (size_t)nargs * sizeof(t->args[0]));
    t->bubble = (py_bubble *)Py_XNewRef((PyObject *)py_bubble_current());
    return t;
}

/* The collector sees only what it may have to collect: functions that nobody will call.  A
   million that are to be called must not make it slow. */
static inline void
track_locked(Timer *t, bool yes)
{
    if (yes == PyObject_GC_IsTracked((PyObject *)t))
        return;
    if (yes)
        PyObject_GC_Track(t);
    else
        PyObject_GC_UnTrack(t);
}

/* In its goroutine. */
static PyObject *
run_function(Goroutine *gp)
{
    Timer *t = gp->call.c.arg;
    PyObject *result = NULL, *context = NULL;
    if (t->context != NULL) {
        context = PyContext_Copy(t->context);
        if (context == NULL)
            goto done;
        Py_XDECREF(py_swap_context(PyThreadState_Get(), context));
    }
    result = PyObject_Vectorcall(t->target, t->args, (size_t)Py_SIZE(t), NULL);
done:
    Py_DECREF(t);
    return result;
}

/* There was no memory for its goroutine, which fails. */
static void
lose_function(Goroutine *gp)
{
    Py_DECREF((Timer *)gp->call.c.arg);
}

static void
timer_start(Timer *t, rt_alarms *as, int64_t when)
{
    t->home = as;
    rt_p_start_alarm(as, &t->alarm, when);
}

void
py_alarm_drop(rt_timer *alarm)
{
    if (alarm->fire == clock_fired)
        Py_DECREF(RT_CONTAINER_OF(alarm, py_clock, alarm)->ch);
    else {
        Timer *t = RT_CONTAINER_OF(alarm, Timer, alarm);
        py_acquire(&t->lock);
        track_locked(t, true);
        py_release(&t->lock);
        Py_DECREF(t);
    }
}

/* The alarm of a function: by the scheduler. */
static void
timer_fired(rt_timer *alarm)
{
    Timer *t = RT_CONTAINER_OF(alarm, Timer, alarm);
    Goroutine *gp = py_g_alloc();
    if (RT_UNLIKELY(gp == NULL)) {
        PyErr_Clear();
        py_acquire(&t->lock);
        bool restarted = rt_alarms_has(t->home, alarm);
        if (!restarted)
            timer_start(t, t->home, later(alarms_now(t->home), RETRY));
        py_release(&t->lock);
        if (restarted)          /* by reset(), with a reference of its own */
            Py_DECREF(t);
        return;
    }
    if (Py_REFCNT(t) > 1) {
        py_acquire(&t->lock);
        track_locked(t, !rt_alarms_has(t->home, alarm));
        py_release(&t->lock);
    }
    gp->call.c.entry = run_function;
    gp->call.c.cancel = lose_function;
    gp->call.c.arg = t;
    gp->code = Py_XNewRef(t->code);
    gp->lasti = (int)alarm->kind;
    if (RT_UNLIKELY(t->bubble != NULL))
        py_bubble_submit(t->bubble, gp);
    else
        py_submit(gp);          /* cannot fail on an M */
}

/* The calls that take one number. */
static PyObject *
one_number(PyObject *const *args, Py_ssize_t nargs, const char *usage)
{
    if (RT_LIKELY(nargs == 1))
        return args[0];
    PyErr_Format(PyExc_TypeError, "wrong arguments: %s", usage);
    return NULL;
}

static PyObject *
m_after_func(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    if (nargs < 2) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: after_func(seconds, fn, *args)");
        return NULL;
    }
    if (to_ns(args[0], "after_func(seconds, fn)", false, &ns) < 0)
        return NULL;
    if (!PyCallable_Check(args[1])) {
        PyErr_Format(PyExc_TypeError, "after_func() needs a callable, got %.200s; write "
                     "after_func(s, f, x), not after_func(s, f(x))", Py_TYPE(args[1])->tp_name);
        return NULL;
    }
    if (need_home() < 0)
        return NULL;
    Timer *t = timer_alloc(nargs - 2);
    if (t == NULL)
        return NULL;
    t->alarm.fire = timer_fired;
    t->target = Py_NewRef(args[1]);
    for (Py_ssize_t i = 2; i < nargs; i++)
        t->args[i - 2] = Py_NewRef(args[i]);
    PyThreadState *ts = PyThreadState_Get();
    if (ts->context != NULL) {
        t->context = PyContext_CopyCurrent();
        if (t->context == NULL) {
            Py_DECREF(t);
            return NULL;
        }
    }
    int lasti;
    t->code = py_caller(ts, &lasti);
    t->alarm.kind = (uint32_t)lasti;
    if (RT_UNLIKELY(RT_LOAD(core->sched.sysmon.state) != RT_SYSMON_AWAKE))
        py_sysmon_kick();       /* somebody must see to it that this M comes to it */
    Py_INCREF(t);
    timer_start(t, alarms_of(t->bubble), later(now_of(t->bubble), ns));
    return (PyObject *)t;
}

/* ---- Timer ---- */

static inline bool
has_function(const Timer *t)
{
    return t->alarm.fire != NULL;
}

/* The channel, if it has been asked for (borrowed): then that has all the state. */
static inline Chan *
timer_channel(Timer *t)
{
    return (Chan *)__atomic_load_n(&t->target, __ATOMIC_ACQUIRE);
}

/* Stop it, and start it again unless `when` is NEVER.  Was it pending? */
static bool
timer_set(Timer *t, int64_t when)
{
    bool pending;
    rt_alarms *as = when != NEVER && has_function(t) ? alarms_of(t->bubble) : NULL;
    py_acquire(&t->lock);
    if (has_function(t)) {
        pending = t->home != NULL && rt_alarms_stop(t->home, &t->alarm);
        if (as != NULL) {
            if (!pending)
                Py_INCREF(t);
            track_locked(t, false);
            timer_start(t, as, when);
        }
        else
            track_locked(t, true);
        py_release(&t->lock);
        if (pending && as == NULL)
            Py_DECREF(t);
        return pending;
    }
    Chan *ch = timer_channel(t);
    pending = t->alarm.when != NEVER;
    if (ch == NULL)
        t->alarm.when = when;
    py_release(&t->lock);
    return ch != NULL ? clock_set(ch, when, 0) : pending;
}

/* Was it made in a bubble, and is used outside of that?  -1 with an exception set. */
static inline int
check_bubble(const py_bubble *b, const char *what)
{
    if (RT_LIKELY(b == NULL) || py_bubble_admits(b))
        return 0;
    PyErr_Format(PyExc_RuntimeError, "this %s was made in a bubble of runtime.testing and cannot "
                 "be used outside of it", what);
    return -1;
}

static PyObject *
timer_new(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seconds", NULL};
    PyObject *seconds;
    int64_t ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Timer", names, &seconds)
        || to_ns(seconds, "Timer(seconds)", false, &ns) < 0)
        return NULL;
    Timer *t = timer_alloc(0);
    if (t != NULL)
        t->alarm.when = later(now_of(t->bubble), ns);
    return (PyObject *)t;
}

static PyObject *
timer_get_c(Timer *t, void *Py_UNUSED(closure))
{
    if (check_bubble(t->bubble, "Timer") < 0)
        return NULL;
    if (has_function(t)) {
        PyErr_SetString(PyExc_AttributeError, "a timer of after_func() has no channel");
        return NULL;
    }
    Chan *ch = timer_channel(t), *made = NULL;
    if (ch == NULL) {
        made = clock_channel(NEVER, 0);
        if (made == NULL)
            return NULL;
        if (t->bubble == NULL) {        /* the caller may be in one */
            made->bubbled = false;
            Py_CLEAR(made->bubble);
        }
        py_acquire(&t->lock);
        ch = timer_channel(t);
        if (ch == NULL) {
            made->clock->when = t->alarm.when;
            ch = made;
            made = NULL;
            __atomic_store_n(&t->target, (PyObject *)ch, __ATOMIC_RELEASE);
        }
        py_release(&t->lock);
        Py_XDECREF(made);
    }
    return py_chan_receiver(ch);
}

static PyObject *
timer_stop(Timer *t, PyObject *Py_UNUSED(ignored))
{
    if (check_bubble(t->bubble, "Timer") < 0)
        return NULL;
    return PyBool_FromLong(timer_set(t, NEVER));
}

static PyObject *
timer_reset(Timer *t, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    PyObject *seconds = one_number(args, nargs, "Timer.reset(seconds)");
    if (seconds == NULL || check_bubble(t->bubble, "Timer") < 0 || to_ns(seconds, "Timer.reset(seconds)", false, &ns) < 0
        || (has_function(t) && need_home() < 0))
        return NULL;
    if (RT_UNLIKELY(has_function(t) && RT_LOAD(core->sched.sysmon.state) != RT_SYSMON_AWAKE))
        py_sysmon_kick();
    return PyBool_FromLong(timer_set(t, later(now_of(t->bubble), ns)));
}

static bool
timer_pending(Timer *t)
{
    bool pending;
    Chan *ch = NULL;
    py_acquire(&t->lock);
    if (has_function(t))
        pending = t->home != NULL && rt_alarms_has(t->home, &t->alarm);
    else {
        ch = timer_channel(t);
        pending = t->alarm.when != NEVER;
    }
    py_release(&t->lock);
    if (ch != NULL) {
        py_acquire(&ch->lock);
        pending = ch->clock->when != NEVER;
        py_release(&ch->lock);
    }
    return pending;
}

static PyObject *
timer_repr(Timer *t)
{
    const char *state = timer_pending(t) ? "pending" : "stopped";
    if (has_function(t))
        return PyUnicode_FromFormat("<Timer %s of %R>", state, t->target);
    return PyUnicode_FromFormat("<Timer %s at %p>", state, (void *)t);
}

static int
timer_traverse(Timer *t, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(t));
    Py_VISIT(t->target);
    Py_VISIT(t->context);
    for (Py_ssize_t i = 0; i < Py_SIZE(t); i++)
        Py_VISIT(t->args[i]);
    return 0;
}

/* There is no clear(): like a tuple it never changes what it refers to, so that a cycle
   goes through something else, too. */
static void
timer_dealloc(Timer *t)
{
    PyTypeObject *type = Py_TYPE(t);
    track_locked(t, false);
    Py_TRASHCAN_BEGIN(t, timer_dealloc)
    if (t->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)t);
    Py_XDECREF(t->target);
    Py_XDECREF(t->context);
    Py_XDECREF(t->code);
    Py_XDECREF((PyObject *)t->bubble);
    for (Py_ssize_t i = 0; i < Py_SIZE(t); i++)
        Py_XDECREF(t->args[i]);
    PyObject_GC_Del(t);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyMethodDef timer_methods[] = {
    {"stop", (PyCFunction)timer_stop, METH_NOARGS,
     "stop($self)\n--\n\n"
     "Stop the timer.  True if that was in time: its value has not been received and never\n"
     "will be, its function has not been started and never will be.\n\n"
     "False if it had been stopped or was too late.  It does not wait for the function.\n\n"
     "Go: time.Timer.Stop."},
    {"reset", (PyCFunction)(void (*)(void))timer_reset, METH_FASTCALL,
     "reset($self, seconds, /)\n--\n\n"
     "Have the timer expire that long after now, whatever it was set to.\n\n"
     "Returns what stop() would have returned; a value of the old setting is not received\n"
     "any more.  If the function of after_func() has been started already it is started\n"
     "once more.\n\n"
     "Go: time.Timer.Reset."},
    {0},
};
static PyGetSetDef timer_getset[] = {
    {"c", (getter)timer_get_c, NULL,
     "A Receiver of the time the timer has expired at.", NULL},
    {0},
};
static PyMemberDef timer_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Timer, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot timer_slots[] = {
    {Py_tp_new, timer_new},
    {Py_tp_dealloc, timer_dealloc},
    {Py_tp_traverse, timer_traverse},
    {Py_tp_methods, timer_methods},
    {Py_tp_getset, timer_getset},
    {Py_tp_members, timer_members},
    {Py_tp_repr, timer_repr},
    {Py_tp_doc,
     "Timer(seconds)\n--\n\n"
     "A timer: when it expires the time can be received from its channel, c, once.\n\n"
     "The value is the time it expired at, in seconds, see now().  It is never lying about:\n"
     "after stop() or reset() nothing of an old setting is received.  A timer that nobody\n"
     "refers to needs no stop().\n\n"
     "    timer = Timer(0.5)\n"
     "    timer.c.recv()\n\n"
     "Go: time.NewTimer."},
    {0, NULL},
};
static PyType_Spec timer_spec = {
    "runtime.time.Timer", sizeof(Timer), sizeof(PyObject *),
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, timer_slots};

/* ---- Ticker ---- */

static PyObject *
ticker_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seconds", NULL};
    PyObject *seconds;
    int64_t ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Ticker", names, &seconds)
        || to_ns(seconds, "Ticker(seconds)", true, &ns) < 0)
        return NULL;
    Ticker *t = (Ticker *)type->tp_alloc(type, 0);
    if (t == NULL)
        return NULL;
    t->ch = clock_channel(later(py_now(), ns), ns);
    if (t->ch == NULL)
        Py_CLEAR(t);
    return (PyObject *)t;
}

static void
ticker_dealloc(Ticker *t)
{
    PyTypeObject *type = Py_TYPE(t);
    PyObject_ClearWeakRefs((PyObject *)t);
    Py_XDECREF(t->ch);
    type->tp_free(t);
    Py_DECREF(type);
}

static PyObject *
ticker_get_c(Ticker *t, void *Py_UNUSED(closure))
{
    return py_chan_receiver(t->ch);
}

/* Iterations end; those who receive from the channel wait on, for a reset(). */
static void
ticker_end(Ticker *t)
{
    Chan *ch = t->ch;
    py_waitq ended = {0};
    clock_set(ch, NEVER, 0);
    py_acquire(&ch->lock);
    for (py_waiter *w = ch->recvq.head, *next; w != NULL; w = next) {
        next = w->next;
        if (!w->ticks)
            continue;
        py_waitq_remove(w);
        if (rt_g_claim(&w->g->g, RT_WAKE_CLOSED))
            py_waitq_push(&ended, w);
    }
    py_release(&ch->lock);
    py_ready_all(&ended);
}

static PyObject *
ticker_stop(Ticker *t, PyObject *Py_UNUSED(ignored))
{
    if (check_bubble(t->ch->bubble, "Ticker") < 0)
        return NULL;
    ticker_end(t);
    Py_RETURN_NONE;
}

static PyObject *
ticker_reset(Ticker *t, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    PyObject *seconds = one_number(args, nargs, "Ticker.reset(seconds)");
    if (seconds == NULL || check_bubble(t->ch->bubble, "Ticker") < 0
        || to_ns(seconds, "Ticker.reset(seconds)", true, &ns) < 0)
        return NULL;
    clock_set(t->ch, later(now_of(t->ch->bubble), ns), ns);
    Py_RETURN_NONE;
}

static PyObject *
ticker_exit(Ticker *t, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    if (check_bubble(t->ch->bubble, "Ticker") < 0)
        return NULL;
    ticker_end(t);
    Py_RETURN_FALSE;
}

static PyObject *
ticker_self(Ticker *t, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef((PyObject *)t);
}

/* The next tick; NULL without an exception: it is stopped. */
static PyObject *
ticker_next(Ticker *t)
{
    Chan *ch = t->ch;
    PyObject *value = NULL;
    Goroutine *gp = py_current("Ticker");
    if (gp == NULL || check_bubble(ch->bubble, "Ticker") < 0)
        return NULL;
    py_waiter *w = &gp->seat->waiter;
    py_clock_prepare(ch);
    rt_g_arm(&gp->g);
    py_acquire(&ch->lock);
    bool stopped = ch->clock->when == NEVER;
    if (!stopped && py_clock_take(ch, &value) == 0) {
        w->ticks = true;
        py_chan_queue(ch, &ch->recvq, w);
    }
    py_release(&ch->lock);
    if (stopped || value != NULL) {
        py_stay(gp);
        return value;
    }
    uint32_t why = py_park(gp, PY_WAIT_CHAN_RECV, RT_FOREVER);
    w->ticks = false;
    if (RT_LIKELY(why == RT_WAKE_READY)) {
        value = w->value;
        w->value = NULL;
        return value;
    }
    py_acquire(&ch->lock);
    py_chan_leave(ch, w);
    py_release(&ch->lock);
    return NULL;
}

static PyObject *
ticker_repr(Ticker *t)
{
    py_acquire(&t->ch->lock);
    bool stopped = t->ch->clock->when == NEVER;
    py_release(&t->ch->lock);
    return PyUnicode_FromFormat("<Ticker %s at %p>", stopped ? "stopped" : "running", (void *)t);
}

static PyMethodDef ticker_methods[] = {
    {"stop", (PyCFunction)ticker_stop, METH_NOARGS,
     "stop($self)\n--\n\n"
     "No more ticks: iterations end, receivers wait.  The channel is not closed.\n\n"
     "Go: time.Ticker.Stop."},
    {"reset", (PyCFunction)(void (*)(void))ticker_reset, METH_FASTCALL,
     "reset($self, seconds, /)\n--\n\n"
     "Begin anew with another period: the first tick comes that long after now.\n\n"
     "ValueError unless it is more than 0.  Go: time.Ticker.Reset."},
    {"__enter__", (PyCFunction)ticker_self, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))ticker_exit, METH_FASTCALL, NULL},
    {0},
};
static PyGetSetDef ticker_getset[] = {
    {"c", (getter)ticker_get_c, NULL, "A Receiver of the ticks.", NULL},
    {0},
};
static PyMemberDef ticker_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Ticker, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot ticker_slots[] = {
    {Py_tp_new, ticker_new},
    {Py_tp_dealloc, ticker_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, ticker_next},
    {Py_tp_methods, ticker_methods},
    {Py_tp_getset, ticker_getset},
    {Py_tp_members, ticker_members},
    {Py_tp_repr, ticker_repr},
    {Py_tp_doc,
     "Ticker(seconds)\n--\n\n"
     "Ticks at a fixed period, which must be more than 0: ValueError.\n\n"
     "Each tick is the time it was due at, in seconds, see now(), so ticks never drift.\n"
     "Who receives too slowly misses ticks; there is never more than one to receive at\n"
     "once.  Iterate over it, or receive from its channel, c.  As a context manager it\n"
     "stops at the end, which ends iterations, too.\n\n"
     "    with Ticker(1.0) as ticker:\n"
     "        for t in ticker:\n"
     "            ...\n\n"
     "Go: time.NewTicker."},
    {0, NULL},
};
static PyType_Spec ticker_spec = {"runtime.time.Ticker", sizeof(Ticker), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, ticker_slots};

/* ---- functions ---- */

static PyObject *
m_after(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    PyObject *seconds = one_number(args, nargs, "after(seconds)");
    if (seconds == NULL || to_ns(seconds, "after(seconds)", false, &ns) < 0)
        return NULL;
    return clock_receiver(later(py_now(), ns), 0);
}

static PyObject *
m_tick(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    PyObject *seconds = one_number(args, nargs, "tick(seconds)");
    if (seconds == NULL || to_ns(seconds, "tick(seconds)", true, &ns) < 0)
        return NULL;
    return clock_receiver(later(py_now(), ns), ns);
}

static PyObject *
m_now(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble(to_seconds(py_now()));
}

static PyObject *
m_since(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *t = one_number(args, nargs, "since(t)");
    double start = t ? PyFloat_AsDouble(t) : -1.0;
    if (start == -1.0 && PyErr_Occurred())
        return NULL;
    return PyFloat_FromDouble(to_seconds(py_now()) - start);
}

#define FAST(fn) (PyCFunction)(void (*)(void))fn, METH_FASTCALL

static PyMethodDef functions[] = {
    {"after", FAST(m_after),
     "after(seconds, /)\n--\n\n"
     "A Receiver of the time, see now(), once, that long after now.\n\n"
     "It needs no stopping: one that nobody refers to is gone.\n\n"
     "    select(recv(replies), recv(after(1.5)))\n\n"
     "Go: time.After."},
    {"after_func", FAST(m_after_func),
     "after_func(seconds, fn, /, *args)\n--\n\n"
     "Call fn(*args) in a goroutine of its own, that long after now; returns a Timer.\n\n"
     "It runs in a copy of the caller's contextvars context, and it runs whether anybody\n"
     "refers to the Timer or not.  Timer.stop() says whether it could be prevented.  What fn\n"
     "raises is reported by runtime.excepthook.\n\n"
     "Go: time.AfterFunc."},
    {"tick", FAST(m_tick),
     "tick(seconds, /)\n--\n\n"
     "The Receiver of a Ticker that is never stopped.\n\n"
     "ValueError unless seconds is more than 0.\n\n"
     "Go: time.Tick."},
    {"now", m_now, METH_NOARGS,
     "now()\n--\n\n"
     "The time in seconds on the clock of time-outs and timers, which is that of\n"
     "time.monotonic(): it never jumps, and its zero means nothing.\n\n"
     "Go: time.Now."},
    {"since", FAST(m_since),
     "since(t, /)\n--\n\n"
     "The seconds that have passed since t, which was now() or came from a timer.\n\n"
     "Go: time.Since."},
    {0},
};

int
py_time_init_types(PyObject *module)
{
    if (py_add_type(module, &timer_spec, &core->timer_type, true) < 0
        || py_add_type(module, &ticker_spec, &core->ticker_type, true) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
