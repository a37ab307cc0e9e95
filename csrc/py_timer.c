/* py_timer.c - Timer and after_func(); see py_time.h. */
#include "py_time.h"

#include <structmember.h>

#define RETRY 1000000           /* ns until a goroutine there was no memory for is tried again */

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
    if (alarm->fire == py_clock_fired)
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
            timer_start(t, t->home, py_time_later(py_alarms_now(t->home), RETRY));
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

static PyObject *
m_after_func(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    if (nargs < 2) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: after_func(seconds, fn, *args)");
        return NULL;
    }
    if (py_seconds_to_ns(args[0], "after_func(seconds, fn)", false, &ns) < 0)
        return NULL;
    if (!PyCallable_Check(args[1])) {
        PyErr_Format(PyExc_TypeError, "after_func() needs a callable, got %.200s; write "
                     "after_func(s, f, x), not after_func(s, f(x))", Py_TYPE(args[1])->tp_name);
        return NULL;
    }
    if (py_alarms_need_home() < 0)
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
    timer_start(t, py_alarms_of(t->bubble), py_time_later(py_now_of(t->bubble), ns));
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

/* Stop it, and start it again unless `when` is PY_NEVER.  Was it pending? */
static bool
timer_set(Timer *t, int64_t when)
{
    bool pending;
    rt_alarms *as = when != PY_NEVER && has_function(t) ? py_alarms_of(t->bubble) : NULL;
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
    pending = t->alarm.when != PY_NEVER;
    if (ch == NULL)
        t->alarm.when = when;
    py_release(&t->lock);
    return ch != NULL ? py_clock_set(ch, when, 0) : pending;
}

static PyObject *
timer_new(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seconds", NULL};
    PyObject *seconds;
    int64_t ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Timer", names, &seconds)
        || py_seconds_to_ns(seconds, "Timer(seconds)", false, &ns) < 0)
        return NULL;
    Timer *t = timer_alloc(0);
    if (t != NULL)
        t->alarm.when = py_time_later(py_now_of(t->bubble), ns);
    return (PyObject *)t;
}

static PyObject *
timer_get_c(Timer *t, void *Py_UNUSED(closure))
{
    if (py_time_check_bubble(t->bubble, "Timer") < 0)
        return NULL;
    if (has_function(t)) {
        PyErr_SetString(PyExc_AttributeError, "a timer of after_func() has no channel");
        return NULL;
    }
    Chan *ch = timer_channel(t), *made = NULL;
    if (ch == NULL) {
        made = py_clock_channel(PY_NEVER, 0);
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
    if (py_time_check_bubble(t->bubble, "Timer") < 0)
        return NULL;
    return PyBool_FromLong(timer_set(t, PY_NEVER));
}

static PyObject *
timer_reset(Timer *t, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    PyObject *seconds = py_time_one_number(args, nargs, "Timer.reset(seconds)");
    if (seconds == NULL || py_time_check_bubble(t->bubble, "Timer") < 0
        || py_seconds_to_ns(seconds, "Timer.reset(seconds)", false, &ns) < 0
        || (has_function(t) && py_alarms_need_home() < 0))
        return NULL;
    if (RT_UNLIKELY(has_function(t) && RT_LOAD(core->sched.sysmon.state) != RT_SYSMON_AWAKE))
        py_sysmon_kick();
    return PyBool_FromLong(timer_set(t, py_time_later(py_now_of(t->bubble), ns)));
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
        pending = t->alarm.when != PY_NEVER;
    }
    py_release(&t->lock);
    if (ch != NULL) {
        py_acquire(&ch->lock);
        pending = ch->clock->when != PY_NEVER;
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

static PyMethodDef functions[] = {
    {"after_func", (PyCFunction)(void (*)(void))m_after_func, METH_FASTCALL,
     "after_func(seconds, fn, /, *args)\n--\n\n"
     "Call fn(*args) in a goroutine of its own, that long after now; returns a Timer.\n\n"
     "It runs in a copy of the caller's contextvars context, and it runs whether anybody\n"
     "refers to the Timer or not.  Timer.stop() says whether it could be prevented.  What fn\n"
     "raises is reported by runtime.excepthook.\n\n"
     "Go: time.AfterFunc."},
    {0},
};

int
py_timer_init(PyObject *module)
{
    if (py_add_type(module, &timer_spec, &core->timer_type, true) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
