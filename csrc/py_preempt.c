/* py_preempt.c - how a goroutine that computes is made to yield.
 *
 * sysmon (rt_sysmon.h) says when.  A goroutine can be left only between two
 * instructions of Python, on its own thread; so somebody must make the eval loop call
 * us there, and cost nothing while nobody is asked:
 *
 *  - The main thread, by a signal handler: sysmon marks SIGURG as having come
 *    (py_raise_signal; no signal is sent, so no system call is interrupted).  That
 *    needs no GIL and takes a microsecond.
 *  - Other threads on 3.11, by a C trace function in their thread state, which takes
 *    itself out again.
 *  - Other threads on 3.12 and newer, by sys.monitoring: sysmon turns on JUMP and
 *    PY_START events of a tool, and the callback turns them off.  Events concern all
 *    threads; those that were not asked return at once, and where the asked one sits
 *    in C code they are turned off at the next look.  Code that was suspended while
 *    they were on may come back instrumented later; its first event then returns
 *    DISABLE, so it gets rid of them, too.
 *  - Other threads of free-threaded builds, by a token: see there.
 *  - The main thread, in the way of the others, where it did not react, because the
 *    program has put its own handler in SIGURG's place.
 *
 * sysmon attaches a thread state of its own to do the last four.
 *
 * The tool id is taken when it is first needed and kept until the end: a debugger or
 * profiler that looks for a free one sees the name, while one that is given back after
 * each preemption could be taken away.
 *
 * Rejected: pending calls (one that switches keeps all others from running), a real
 * SIGURG as in Go (C libraries would see EINTR), asynchronous exceptions (they cannot
 * be taken back), PEP 523 frame evaluation (slows down every call).
 *
 * A preempted goroutine raises nothing: an exception on its way to it waits for its next
 * blocking point, for anything else would strike between any two instructions.
 */
#include "py_sysmon.h"

#include <signal.h>

#define PRE (&core->preempt)

/* ---- yielding ---- */

/* Why the goroutine that runs on mp, the caller's, is not left; NULL: it is.  asked: by
   sysmon; tracing: how deep in trace functions we are on our own account. */
static const char *
pinned(py_m *mp, bool asked, int tracing)
{
    if (asked && PRE->off)
        return "GOSCHED_PREEMPT=0";         /* sysmon just wants to know where it is */
    if (asked && mp->curg->g.held && !(core->main_g && py_g_has_pending(core->main_g)))
        return "explore()";                 /* whose turn it is does not depend on time */
    if (mp->curg->seat->nopreempt != 0)
        return "nopreempt()";
    if (mp->tstate->tracing > tracing)
        return "a trace function";
    return py_frames_pinned(&PRE->zones, mp->tstate, mp->curg->g.held);
}

const char *
py_preempt_pinned(py_m *mp)
{
    return pinned(mp, false, 1);
}

/* Does what was asked of mp concern the goroutine that runs now?  Another one may have
   parked in time, or may be innocent. */
static bool
concerned(py_m *mp)
{
    return mp->curg != NULL && RT_LOAD(mp->preempt.tick) == RT_LOAD(mp->p.tick);
}

void
py_preempt_beat(py_m *mp)
{
    uint32_t n = atomic_load_explicit(&mp->p.beat, memory_order_relaxed);
    atomic_store_explicit(&mp->p.beat, n + 1, memory_order_relaxed);
}

/* The SIGURG handler: the goroutine that runs shall make way, because sysmon says so,
   or because main is to get its KeyboardInterrupt.  Where it cannot be left now, the
   signal is raised again, for the next time the eval loop looks: never between two
   instructions where a function is traced, for on 3.11 that is before the same one. */
static PyObject *
m_on_preempt(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    py_m *mp = py_tls_m;
    if (mp == NULL)
        Py_RETURN_NONE;
    bool asked = atomic_exchange(&mp->preempt.by_signal, false) && concerned(mp);
    if (mp->curg == NULL
        || !(asked || (mp->curg != core->main_g && py_g_has_pending(core->main_g))))
        Py_RETURN_NONE;
    int between = py_between_instructions(&PRE->zones, mp->tstate);
    if (between > 0 && pinned(mp, asked, 0) == NULL) {
        py_give_way(mp);
        Py_RETURN_NONE;
    }
    if (between != 0) {
        py_preempt_beat(mp);
        if (asked || core->sched.sysmon.running || mp->tstate->c_tracefunc != NULL)
            Py_RETURN_NONE;     /* sysmon will ask again */
    }
    if (asked)
        atomic_store(&mp->preempt.by_signal, true);
    PyErr_SetInterruptEx(SIGURG);
    Py_RETURN_NONE;
}

/* In a trace function or monitoring callback. */
static void
yield_in_event(py_m *mp)
{
    if (pinned(mp, true, 1) != NULL) {
        py_preempt_beat(mp);
        return;
    }
    py_give_way(mp);
}

/* ---- asking by events ---- */

#if PY_VERSION_HEX < 0x030C0000

/* A goroutine is left where the eval loop would look for signals: when a function begins,
   or a loop its next turn.  Between two lines it may just have taken a lock. */
static bool
turns(py_m *mp, PyFrameObject *frame)
{
    int lasti = PyFrame_GetLasti(frame);
    bool back = mp->preempt.traced == frame && lasti <= mp->preempt.traced_lasti;
    mp->preempt.traced = frame;
    mp->preempt.traced_lasti = lasti;
    return back;
}

static int
on_trace(PyObject *Py_UNUSED(obj), PyFrameObject *frame, int what, PyObject *Py_UNUSED(arg))
{
    py_m *mp = py_tls_m;
    if (what != PyTrace_CALL && !(what == PyTrace_LINE && turns(mp, frame)))
        return 0;
    mp->tstate->c_tracefunc = NULL;     /* CPython updates what follows from it */
    atomic_store(&mp->preempt.by_event, false);
    if (concerned(mp))
        yield_in_event(mp);
    return 0;
}

/* Fields are set here as _PyEval_SetTrace() would; that one raises an audit event, and
   nobody has called sys.settrace(). */
static void
arm(py_m *mp)
{
    PyThreadState *ts = mp->tstate;
    if (ts->c_tracefunc != NULL || ts->tracing != 0 || ts->cframe->current_frame == NULL)
        return;                 /* a debugger's, or ours still */
    atomic_store(&mp->preempt.by_event, true);
    mp->preempt.traced = NULL;
    ts->c_tracefunc = on_trace;
    ts->cframe->use_tracing = 255;
}

static void
disarm(py_m *mp)
{
    PyThreadState *ts = mp->tstate;
    atomic_store(&mp->preempt.by_event, false);
    if (ts->c_tracefunc != on_trace)
        return;
    ts->c_tracefunc = NULL;
    ts->cframe->use_tracing = ts->tracing == 0 && ts->c_profilefunc != NULL ? 255 : 0;
}

/* Nobody else pays for it, and it goes away by itself when the thread comes back. */
#define MUST_WITHDRAW 0

static void
release_tool(void)
{
}

#else

static void
set_events(PyObject *args)
{
    PyObject *r = PyObject_CallObject(PRE->set_events, args);
    if (r == NULL)
        PyErr_Clear();          /* somebody has freed our tool id: arm() takes another */
    Py_XDECREF(r);
}

/* mp need not be asked any more.  True: this call has changed that. */
static bool
unask(py_m *mp)
{
    if (!atomic_exchange(&mp->preempt.by_event, false))
        return false;
    if (atomic_fetch_sub(&PRE->armed, 1) == 1)
        set_events(PRE->args_off);
    return true;
}

static PyObject *
on_event(PyObject *Py_UNUSED(module), PyObject *const *Py_UNUSED(args),
         Py_ssize_t Py_UNUSED(nargs))
{
    py_m *mp = py_tls_m;
    if (mp != NULL && atomic_load_explicit(&mp->preempt.by_event, memory_order_relaxed)) {
        if (unask(mp) && concerned(mp))
            yield_in_event(mp);
    }
    else if (atomic_load_explicit(&PRE->armed, memory_order_relaxed) == 0)
        return Py_NewRef(PRE->disable);
    Py_RETURN_NONE;
}
static PyMethodDef on_event_def = {"on_event", (PyCFunction)(void (*)(void))on_event,
                                   METH_FASTCALL, NULL};

/* Take a tool id unless we have one.  Not 0 to 2 and 5: by convention these belong to
   debuggers, coverage tools, profilers and optimizers.  -1 with an exception set. */
static int
take_tool(void)
{
    PyObject *monitoring = PySys_GetObject("monitoring"), *ours = NULL, *callback = NULL;
    PyObject *r = NULL;
    int events = 0, result = -1;
    if (monitoring == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "there is no sys.monitoring");
        return -1;
    }
    if (PRE->tool >= 0) {
        ours = PyObject_CallMethod(monitoring, "get_tool", "i", PRE->tool);
        if (ours == NULL)
            return -1;
        bool still = PyUnicode_Check(ours) && PyUnicode_CompareWithASCIIString(ours, "gosched") == 0;
        Py_DECREF(ours);
        if (still && PRE->tool_ready)
            return 0;
        if (!still)
            PRE->tool = -1;
        PRE->tool_ready = false;
    }
    static const int ids[] = {4, 3};
    for (size_t i = 0; i < RT_ARRAY_LEN(ids) && PRE->tool < 0; i++) {
        r = PyObject_CallMethod(monitoring, "use_tool_id", "is", ids[i], "gosched");
        if (r != NULL)
            PRE->tool = ids[i];
        Py_XDECREF(r);
        PyErr_Clear();
    }
    if (PRE->tool < 0) {
        PyErr_SetString(PyExc_RuntimeError, "no tool id of sys.monitoring is free");
        return -1;
    }
    callback = PyCFunction_New(&on_event_def, NULL);
    PyObject *constants = PyObject_GetAttrString(monitoring, "events");
    static const char *const names[] = {"JUMP", "PY_START"};
    for (size_t i = 0; constants != NULL && callback != NULL && i < RT_ARRAY_LEN(names); i++) {
        PyObject *event = PyObject_GetAttrString(constants, names[i]);
        if (event == NULL)
            goto done;
        events |= (int)PyLong_AsLong(event);
        r = PyObject_CallMethod(monitoring, "register_callback", "iOO", PRE->tool, event,
                                callback);
        Py_DECREF(event);
        if (r == NULL)
            goto done;
        Py_DECREF(r);
    }
    Py_XSETREF(PRE->set_events, PyObject_GetAttrString(monitoring, "set_events"));
    Py_XSETREF(PRE->disable, PyObject_GetAttrString(monitoring, "DISABLE"));
    Py_XSETREF(PRE->args_on, Py_BuildValue("(ii)", PRE->tool, events));
    Py_XSETREF(PRE->args_off, Py_BuildValue("(ii)", PRE->tool, 0));
    if (constants && callback && PRE->set_events && PRE->disable && PRE->args_on
        && PRE->args_off) {
        PRE->tool_ready = true;
        result = 0;
    }
done:
    Py_XDECREF(constants);
    Py_XDECREF(callback);
    return result;
}

static void
arm(py_m *mp)
{
    if (atomic_load(&mp->preempt.by_event))
        return;
    if (take_tool() < 0) {
        PyErr_Clear();          /* then this thread cannot be preempted */
        return;
    }
    atomic_store(&mp->preempt.by_event, true);
    if (atomic_fetch_add(&PRE->armed, 1) == 0)
        set_events(PRE->args_on);
}

static void
disarm(py_m *mp)
{
    unask(mp);
}

#define MUST_WITHDRAW 1

static void
release_tool(void)
{
    PyObject *monitoring = PySys_GetObject("monitoring");
    if (PRE->tool < 0 || monitoring == NULL)
        return;
    PyObject *r = PyObject_CallMethod(monitoring, "free_tool_id", "i", PRE->tool);
    if (r == NULL)
        PyErr_Clear();
    Py_XDECREF(r);
    PRE->tool = -1;
}

#endif

/* ---- asking by a token ----
 *
 * Changing the events of sys.monitoring stops the world in free-threaded builds: all
 * threads would wait until the one that is asked comes out of the C code it may be in.
 * But there a thread that drops an object of another thread's leaves it to that thread,
 * which looks after it between two instructions.  So each M makes an object, the
 * token; sysmon drops it, and its deallocation is the call we want, on the thread that
 * we want.  (The collector may come first: then there is no token until the M has
 * been asked in the other way.)
 */

#ifdef Py_GIL_DISABLED

typedef struct {
    PyObject_HEAD
    py_m *mp;
} Token;

/* NULL: no memory. */
static PyObject *
make_token(py_m *mp)
{
    Token *token = PyObject_New(Token, PRE->token_type);
    if (token == NULL)
        PyErr_Clear();
    else
        token->mp = mp;
    return (PyObject *)token;
}

static void
new_token(py_m *mp)
{
    PyObject *token = make_token(mp);
    if (token == NULL)
        return;
    PyObject *old = atomic_exchange(&mp->preempt.token, token);
    Py_XDECREF(old);            /* none but in a race: then it is a call for nothing */
}

/* Ask mp, the caller's, once more, for the next time that its eval loop looks. */
static void
ask_again(py_m *mp)
{
    PyObject *token = make_token(mp);
    if (token == NULL)
        return;                 /* sysmon will */
    atomic_store(&mp->preempt.by_token, true);
    _Py_DecRefShared(token);    /* as another thread drops it */
}

static void
token_dealloc(Token *token)
{
    py_m *mp = token->mp;
    PyTypeObject *type = Py_TYPE(token);
    PyObject_Free(token);
    Py_DECREF(type);
    atomic_store(&mp->preempt.by_token, false);
    if (mp != py_tls_m || PRE->leaving)
        return;
    if (atomic_load(&mp->preempt.token) == NULL)
        new_token(mp);
    if (!concerned(mp))
        return;
    /* After a call the lock that it has taken does not show yet. */
    int between = py_between_instructions(&PRE->zones, mp->tstate);
    if (between == 0)
        ask_again(mp);
    else if (between > 0 && pinned(mp, true, 0) == NULL)
        py_give_way(mp);
    else
        py_preempt_beat(mp);
}

static PyType_Slot token_slots[] = {{Py_tp_dealloc, token_dealloc}, {0, NULL}};
static PyType_Spec token_spec = {
    "runtime._Token", sizeof(Token), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    token_slots};

void
py_preempt_m_init(py_m *mp)
{
    if (PRE->token_type != NULL)
        new_token(mp);
}

/* False: there is none. */
static bool
drop_token(py_m *mp)
{
    if (atomic_load(&mp->preempt.by_token))
        return true;            /* asked already */
    PyObject *token = atomic_exchange(&mp->preempt.token, NULL);
    if (token == NULL)
        return false;
    atomic_store(&mp->preempt.by_token, true);
    Py_DECREF(token);
    return true;
}

#else

void
py_preempt_m_init(py_m *Py_UNUSED(mp))
{
}

static bool
drop_token(py_m *Py_UNUSED(mp))
{
    return false;
}

#endif

/* ---- for sysmon ---- */

bool
py_preempt_raise(py_m *mp)
{
    RT_STORE(mp->preempt.tick, mp->p.mon.tick);
    if (!mp->is_main || atomic_exchange(&mp->preempt.by_signal, true))
        return false;
    py_raise_signal(mp->tstate, SIGURG);
    return true;
}

void
py_preempt_ask(py_m *mp)
{
    if (!drop_token(mp))
        arm(mp);
}

bool
py_preempt_must_withdraw(py_m *mp)
{
    return MUST_WITHDRAW && atomic_load(&mp->preempt.by_event);
}

void
py_preempt_withdraw(py_m *mp)
{
    disarm(mp);
}

void
py_preempt_end(void)
{
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        if (atomic_load(&mp->preempt.by_event))
            disarm(mp);
    release_tool();
}

void
py_preempt_after_fork(void)
{
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        if (mp == py_tls_m && atomic_load(&mp->preempt.by_event))
            disarm(mp);
        atomic_store(&mp->preempt.by_signal, false);
        atomic_store(&mp->preempt.by_event, false);
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (atomic_exchange(&PRE->armed, 0) != 0)
        set_events(PRE->args_off);
#endif
}

/* ---- nopreempt() ---- */

static PyObject *
guard_enter(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    py_m *mp = py_tls_m;
    if (mp != NULL && mp->curg != NULL)
        mp->curg->seat->nopreempt++;
    Py_RETURN_NONE;
}

static PyObject *
guard_exit(PyObject *Py_UNUSED(self), PyObject *const *Py_UNUSED(args),
           Py_ssize_t Py_UNUSED(nargs))
{
    py_m *mp = py_tls_m;
    if (mp != NULL && mp->curg != NULL) {
        if (mp->curg->seat->nopreempt == 0) {
            PyErr_SetString(PyExc_RuntimeError, "nopreempt(): this goroutine has not entered "
                            "the section it leaves");
            return NULL;
        }
        mp->curg->seat->nopreempt--;
    }
    Py_RETURN_NONE;
}

static PyMethodDef guard_methods[] = {
    {"__enter__", guard_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))guard_exit, METH_FASTCALL, NULL},
    {0},
};
static PyType_Slot guard_slots[] = {
    {Py_tp_methods, guard_methods},
    {Py_tp_doc, "What nopreempt() returns, for a with statement."},
    {0, NULL},
};
static PyType_Spec guard_spec = {
    "runtime._NoPreempt", sizeof(PyObject), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    guard_slots};

static PyObject *
m_nopreempt(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(PRE->guard);
}

/* ---- the module's part ---- */

/* Called once by the package. */
static PyObject *
m_set_preempt(PyObject *module, PyObject *args)
{
    PyObject *files, *functions, *exempt, *thread_locks, *raw_io, *generator_cm, *exit_stack;
    PyObject *report;
    const char *resumes;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "OOOOOOOy#O:_set_preempt", &files, &functions, &exempt,
                          &thread_locks, &raw_io, &generator_cm, &exit_stack, &resumes, &n,
                          &report))
        return NULL;
    if (py_zones_init(&PRE->zones, module, files, functions, exempt, thread_locks, raw_io,
                      generator_cm, exit_stack, resumes, n) < 0)
        return NULL;
    PRE->report = Py_NewRef(report);
    if (core->sched.sysmon.trace_ns != 0)
        py_sysmon_kick();
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"nopreempt", m_nopreempt, METH_NOARGS,
     "nopreempt()\n--\n\n"
     "A section that the goroutine is not made to leave while it computes.\n\n"
     "    with runtime.nopreempt():\n"
     "        ...\n\n"
     "For code that holds a lock of the thread in a way that cannot be seen, or that\n"
     "must not be interleaved with other goroutines of its thread.  It may still block,\n"
     "which lets others run.  Sections may be nested."},
    {"_on_preempt", m_on_preempt, METH_VARARGS, NULL},
    {"_set_preempt", m_set_preempt, METH_VARARGS, NULL},
    {0},
};

int
py_preempt_init(PyObject *module)
{
    PRE->tool = -1;
    PyTypeObject *type;
    if (py_add_type(module, &guard_spec, &type, false) < 0)
        return -1;
    PRE->guard = type->tp_alloc(type, 0);
    Py_DECREF(type);
#ifdef Py_GIL_DISABLED
    if (py_add_type(module, &token_spec, &PRE->token_type, false) < 0)
        return -1;
    if (core->m0 != NULL)       /* it was there first */
        py_preempt_m_init(core->m0);
#endif
    if (PRE->guard == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
