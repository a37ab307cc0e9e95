/* py_preempt.c - how a goroutine that computes is made to yield, and what is said about
 * one that cannot be.
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
#include "py_inspect.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define KEEPS_GIL (20 * 1000000)        /* ns of waiting for the GIL that tell that a call
                                           keeps it: it is handed over every 5 ms */
#define REPORT_P 1000000000             /* ns between two reports about a P */
#define REPORT_SITE 10000000000         /* ns between two about a line */

#define PRE (&core->preempt)

/* ---- yielding ---- */

/* Why the goroutine that runs on mp, the caller's, is not left; NULL: it is.  asked: by
   sysmon; tracing: how deep in trace functions we are on our own account. */
static const char *
pinned(py_m *mp, bool asked, int tracing)
{
    if (asked && PRE->off)
        return "GOSCHED_PREEMPT=0";         /* sysmon just wants to know where it is */
    if (mp->curg->seat->nopreempt != 0)
        return "nopreempt()";
    if (mp->tstate->tracing > tracing)
        return "a trace function";
    return py_frames_pinned(&PRE->zones, mp->tstate);
}

/* Does what was asked of mp concern the goroutine that runs now?  Another one may have
   parked in time, or may be innocent. */
static bool
concerned(py_m *mp)
{
    return mp->curg != NULL && RT_LOAD(mp->preempt.tick) == RT_LOAD(mp->p.tick);
}

/* It was found in Python code: sysmon need not think that it is stuck. */
static void
beat(py_m *mp)
{
    uint32_t n = atomic_load_explicit(&mp->p.beat, memory_order_relaxed);
    atomic_store_explicit(&mp->p.beat, n + 1, memory_order_relaxed);
}

/* The SIGURG handler: the goroutine that runs shall make way, because sysmon says so,
   or because main is to get its KeyboardInterrupt.  Where it cannot be left now, the
   signal is raised again, for the next time the eval loop looks. */
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
    if (py_between_instructions(&PRE->zones, mp->tstate)) {
        if (pinned(mp, asked, 0) == NULL) {
            py_give_way(mp);
            Py_RETURN_NONE;
        }
        beat(mp);
        if (asked || core->sched.sysmon.running)
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
        beat(mp);
        return;
    }
    py_give_way(mp);
}

/* ---- asking by events ---- */

#if PY_VERSION_HEX < 0x030C0000

static int
on_trace(PyObject *Py_UNUSED(obj), PyFrameObject *Py_UNUSED(frame), int what,
         PyObject *Py_UNUSED(arg))
{
    py_m *mp = py_tls_m;
    if (what != PyTrace_LINE && what != PyTrace_CALL)
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

static void
new_token(py_m *mp)
{
    Token *token = PyObject_New(Token, PRE->token_type);
    if (token == NULL) {
        PyErr_Clear();
        return;
    }
    token->mp = mp;
    PyObject *old = atomic_exchange(&mp->preempt.token, (PyObject *)token);
    Py_XDECREF(old);            /* none but in a race: then it is a call for nothing */
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
    if (pinned(mp, true, 0) == NULL)
        py_give_way(mp);
    else
        beat(mp);
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

/* ---- sysmon's callbacks ---- */

#define OTHERS INT64_MIN
#define NO_MEMORY (INT64_MIN + 1)

/* Give sysmon's thread the right to touch Python; mp, which it is about, need not finish
   its 5 ms with the GIL (NULL: it may).  Returns the ns that took, OTHERS where that was
   long and not mp had the GIL, or NO_MEMORY: then nothing is done. */
static int64_t
attach(py_m *mp)
{
    int64_t start = rt_nanotime();
    bool others = mp != NULL && mp->tstate != NULL && py_gil_is_elsewhere(mp->tstate);
    PyThreadState *ts = atomic_load(&core->sysmon_tstate);
    if (ts == NULL) {
        ts = py_thread_state_new();
        if (ts == NULL)
            return NO_MEMORY;
        atomic_store(&core->sysmon_tstate, ts);
    }
    if (mp != NULL && mp->tstate != NULL)
        py_demand_gil(mp->tstate);
    PyEval_RestoreThread(ts);
    int64_t waited = rt_nanotime() - start;
    return others && waited >= KEEPS_GIL ? OTHERS : waited;
}

static void
detach(void)
{
    PyEval_SaveThread();
}

#ifdef Py_GIL_DISABLED

static int64_t
cpu_time(py_m *mp)
{
    clockid_t clock;
    struct timespec ts;
    if (pthread_getcpuclockid((pthread_t)mp->tstate->thread_id, &clock) != 0
        || clock_gettime(clock, &ts) != 0)
        return 0;
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* The first ask of a tick: remember what is compared when it comes to a report. */
static void
note_cpu_time(py_m *mp)
{
    if (mp->tstate == NULL || mp->preempt.cpu_tick == mp->p.mon.tick)
        return;
    mp->preempt.cpu_tick = mp->p.mon.tick;
    mp->preempt.cpu = cpu_time(mp);
}

/* Does the thread run, so that stopping it for a look at its stack would keep all others
   waiting, too?  (Where there is a GIL it does not run while we have it.) */
static bool
runs(py_m *mp)
{
    return __atomic_load_n(&mp->tstate->state, __ATOMIC_RELAXED) != 0;
}

/* ... or would it run if it had a processor? */
static bool
starves(py_m *mp, int64_t ns)
{
    return cpu_time(mp) - mp->preempt.cpu < ns / 2;
}

#else

static void
note_cpu_time(py_m *Py_UNUSED(mp))
{
}
static bool
runs(py_m *Py_UNUSED(mp))
{
    return false;
}
static bool
starves(py_m *Py_UNUSED(mp), int64_t Py_UNUSED(ns))
{
    return false;
}

#endif

static void report_stall(py_m *mp, int64_t ns, int64_t waited);

/* Does mp run what sysmon's last look saw?  Called attached. */
static bool
same_run(py_m *mp)
{
    return mp->curg != NULL && mp->tstate != NULL
           && atomic_load_explicit(&mp->p.tick, memory_order_relaxed) == mp->p.mon.tick;
}

static void
host_preempt(rt_p *pp, int64_t ns)
{
    py_m *mp = py_m_of(pp);
    if (atomic_load(&mp->stopping))
        return;
    RT_STORE(mp->preempt.tick, pp->mon.tick);
    note_cpu_time(mp);
    if (mp->is_main && !atomic_exchange(&mp->preempt.by_signal, true)) {
        py_raise_signal(mp->tstate, SIGURG);
        return;
    }
    int64_t waited = attach(mp);
    if (waited == NO_MEMORY)
        return;
    if (core->sched.sysmon.stall_ns != 0 && waited >= KEEPS_GIL
        && ns + waited >= core->sched.sysmon.stall_ns && !pp->mon.reported) {
        /* A call has kept the GIL until now, and is still to be seen. */
        pp->mon.reported = true;
        report_stall(mp, ns + waited, waited);
        attach(mp);
    }
    if (same_run(mp) && !drop_token(mp))
        arm(mp);
    detach();
}

static void
host_withdraw(rt_p *pp)
{
    py_m *mp = py_m_of(pp);
    if (!MUST_WITHDRAW || !atomic_load(&mp->preempt.by_event))
        return;
    if (attach(mp) == NO_MEMORY)
        return;
    disarm(mp);
    detach();
}

static bool
host_stalled(rt_p *pp, int64_t ns)
{
    py_m *mp = py_m_of(pp);
    if (mp->preempt.reported != 0 && rt_nanotime() - mp->preempt.reported < REPORT_P)
        return false;
    int64_t waited = attach(mp);
    if (waited == NO_MEMORY)
        return false;
    if (waited == OTHERS) {
        detach();
        return false;           /* it may just be waiting for the GIL, too */
    }
    report_stall(mp, ns + waited, waited);
    return true;
}

static void
host_leave(void)
{
    PyThreadState *ts = atomic_load(&core->sysmon_tstate);
    if (ts == NULL)
        return;
    PyEval_RestoreThread(ts);
    atomic_store(&core->sysmon_tstate, NULL);
    PyThreadState_Clear(ts);
    PyThreadState_DeleteCurrent();
}

static int64_t
host_clock(void)
{
    return rt_nanotime();
}

/* ---- stall reports ---- */

/* To stderr past sys.stderr, whose locks the goroutine may hold that this is about. */
static void
write_stderr(const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n < 0 && errno != EINTR)
            return;
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
}

/* Was this line reported lately?  If not, it is now. */
static bool
site_is_known(PyObject *frames, int64_t now)
{
    Py_ssize_t n = PyList_GET_SIZE(frames);
    Py_hash_t site = n ? PyObject_Hash(PyList_GET_ITEM(frames, n - 1)) : 0;
    size_t i = (size_t)site % PY_STALL_SITES;
    if (PRE->sites[i].site == site && PRE->sites[i].when != 0
        && now - PRE->sites[i].when < REPORT_SITE)
        return true;
    PRE->sites[i].site = site;
    PRE->sites[i].when = now;
    return false;
}

typedef struct {
    py_m *mp;
    Goroutine *gp;              /* owned: what it runs; NULL: not what sysmon has seen */
    py_stack stack;
} snapshot;

static void
take_snapshot(void *arg)
{
    snapshot *s = arg;
    if (!same_run(s->mp))
        return;
    s->gp = (Goroutine *)Py_NewRef(s->mp->curg);
    py_stack_take(&s->stack, s->mp->tstate);
}

/* The text about mp, which others have waited for ns for; NULL: nothing to say. */
static PyObject *
stall_text(py_m *mp, int64_t ns, int64_t waited)
{
    int64_t now = rt_nanotime();
    if (PRE->report == NULL)
        return NULL;
    static snapshot snap;       /* sysmon's alone, and its stack is small */
    snapshot *s = &snap;
    s->mp = mp;
    s->gp = NULL;
    s->stack.n = 0;
    const char *what = waited >= KEEPS_GIL ? "keeps the GIL" : "blocks";
    if (mp->tstate == NULL)
        return NULL;
    if (!runs(mp))
        py_stop_world(take_snapshot, s);
    else if (starves(mp, ns))
        return NULL;
    else
        what = "runs";
    PyObject *text = NULL, *frames = NULL, *g = Py_None;
    if (s->gp != NULL) {
        /* Not in a call: it is Python code that waits for the GIL, which others have. */
        if (!py_stack_in_call(&PRE->zones, &s->stack))
            goto done;
        g = (PyObject *)s->gp;
    }
    else if (what[0] == 'k' && waited >= core->sched.sysmon.stall_ns)
        what = "has kept the GIL";
    else if (what[0] != 'r')
        goto done;
    frames = py_stack_list(&s->stack);
    if (frames == NULL || (g != Py_None && site_is_known(frames, now)))
        goto done;
    mp->preempt.reported = now;
    text = PyObject_CallFunction(PRE->report, "IOsLO", mp->p.id, g, what,
                                 (long long)(ns / 1000000), frames);
done:
    Py_XDECREF(frames);
    Py_XDECREF(s->gp);
    py_stack_drop(&s->stack);
    return text;
}

/* Called attached; detaches, because writing may block. */
static void
report_stall(py_m *mp, int64_t ns, int64_t waited)
{
    PyObject *text = stall_text(mp, ns, waited);
    PyObject *bytes = text ? PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace") : NULL;
    char *copy = NULL;
    size_t len = 0;
    if (bytes != NULL && (copy = malloc((size_t)PyBytes_GET_SIZE(bytes))) != NULL) {
        len = (size_t)PyBytes_GET_SIZE(bytes);
        memcpy(copy, PyBytes_AS_STRING(bytes), len);
    }
    Py_XDECREF(text);
    Py_XDECREF(bytes);
    PyErr_Clear();
    detach();
    write_stderr(copy, len);
    free(copy);
}

/* ---- scheduler traces ----
 *
 * One line is written without the GIL, from numbers that may be a little old.  The
 * details need it for the list of goroutines.
 */

typedef struct {
    char *text;                 /* by malloc() */
    size_t len, cap;
} trace_buf;

static void __attribute__((format(printf, 2, 3)))
put(trace_buf *b, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
    if (b->len + len > b->cap) {
        size_t cap = (b->len + len) * 2 + 4096;
        char *text = realloc(b->text, cap);
        if (text == NULL)
            return;
        b->text = text;
        b->cap = cap;
    }
    memcpy(b->text + b->len, line, len);
    b->len += len;
}

/* Read what belongs to another thread: a number that may be old. */
#define PEEK(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

static uint32_t
runq_len(rt_p *pp)
{
    return (PEEK(pp->runnext) != NULL) + PEEK(pp->pinned.len) + PEEK(pp->preempted.len)
           + PEEK(pp->spill.len) + rt_runq_len(&pp->fresh);
}

static void
put_summary(trace_buf *b)
{
    uint32_t idle = 0, sleeping = 0, threads = 1;
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        threads++;
        if (atomic_load(&mp->p.sleeping) == RT_AWAKE)
            continue;
        sleeping++;
        idle += RT_LOAD(mp->p.mode) == RT_P_OPEN;
    }
    put(b, "SCHED %lldms: gomaxprocs=%u idleprocs=%u threads=%u spinningthreads=%d "
        "idlethreads=%u runqueue=%u [", (long long)(rt_nanotime() - PRE->started) / 1000000,
        RT_LOAD(core->sched.nprocs), idle, threads, RT_LOAD(core->sched.nspinning), sleeping,
        RT_LOAD(core->sched.global.len));
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        put(b, i == 0 ? "%u" : " %u", runq_len(&mp->p));
    put(b, "]\n");
}

/* As in Go: 1 runnable, 2 running, 4 waiting. */
static void
put_g(trace_buf *b, const py_g_info *info, int m)
{
    const char *reason = info->state == RT_G_WAITING ? py_wait_reason(info->reason) : "";
    put(b, "  G%lld: status=%d(%s) m=", (long long)info->id,
        info->state == RT_G_WAITING ? 4 : info->state == RT_G_RUNNING ? 2 : 1, reason);
    if (m < 0)
        put(b, "nil lockedm=nil\n");
    else if (info->locked)
        put(b, "%d lockedm=%d\n", m, m);
    else
        put(b, "%d lockedm=nil\n", m);
}

static void
put_details(trace_buf *b, const py_g_info *gs, size_t n)
{
    py_m *mp;
    for (int m = 0; (mp = py_each_m((uint32_t)m)) != NULL; m++) {
        rt_p *pp = &mp->p;
        put(b, "  P%u: status=%d schedtick=%llu m=%d runqsize=%u timerslen=%u descriptors=%u "
            "polls=%llu preemptions=%llu\n", pp->id, atomic_load(&pp->sleeping) == RT_AWAKE,
            (unsigned long long)RT_LOAD(pp->count.ticks), m, runq_len(pp), PEEK(pp->timers.len),
            PEEK(pp->npd), (unsigned long long)RT_LOAD(pp->count.polls),
            (unsigned long long)RT_LOAD(pp->count.preemptions));
    }
    for (int m = 0; (mp = py_each_m((uint32_t)m)) != NULL; m++) {
        long long curg = 0;
        for (size_t i = 0; i < n && curg == 0; i++)
            if (gs[i].state == RT_G_RUNNING && gs[i].p == (int32_t)mp->p.id)
                curg = gs[i].id;
        put(b, "  M%d: p=%u curg=", m, mp->p.id);
        if (curg != 0)
            put(b, "%lld", curg);
        else
            put(b, "nil");
        put(b, " spinning=%s blocked=%s idleworkers=%u\n", PEEK(mp->p.spinning) ? "true" : "false",
            atomic_load(&mp->p.sleeping) == RT_SLEEPING ? "true" : "false", PEEK(mp->nidle));
    }
    for (size_t i = 0; i < n; i++) {
        int m = -1;
        for (int at = 0; gs[i].p >= 0 && (mp = py_each_m((uint32_t)at)) != NULL; at++)
            if (gs[i].p == (int32_t)mp->p.id)
                m = at;
        put_g(b, &gs[i], m);
    }
}

static void
host_trace(void)
{
    trace_buf b = {0};
    put_summary(&b);
    if (PRE->trace_detail && attach(NULL) != NO_MEMORY) {
        py_g_info *gs = NULL;
        size_t n = 0;
        if (py_snapshot(&gs, &n) < 0)
            PyErr_Clear();
        put_details(&b, gs, n);
        py_snapshot_free(gs, n);
        detach();
    }
    write_stderr(b.text, b.len);
    free(b.text);
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

/* ---- settings ---- */

static void
bad_setting(const char *name, const char *value, const char *wanted)
{
    char line[256];
    int n = snprintf(line, sizeof(line), "gosched: %s=%.100s ignored: %s\n", name, value, wanted);
    write_stderr(line, n < (int)sizeof(line) ? (size_t)n : sizeof(line) - 1);
}

/* A number from 0 to max, or -1. */
static long
parse_number(const char *text, size_t len, long max)
{
    long value = 0;
    if (len == 0)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        value = value * 10 + (text[i] - '0');
        if (value > max)
            return -1;
    }
    return value;
}

#define MAX_MS 1000000000L

static void
read_trace_setting(const char *value)
{
    for (const char *p = value, *end; *p != '\0'; p = end + (*end == ',')) {
        end = p + strcspn(p, ",");
        const char *eq = memchr(p, '=', (size_t)(end - p));
        size_t name = eq ? (size_t)(eq - p) : 0;
        long number = eq ? parse_number(eq + 1, (size_t)(end - eq - 1), MAX_MS) : -1;
        if (name == 10 && memcmp(p, "schedtrace", 10) == 0 && number >= 0)
            core->sched.sysmon.trace_ns = number * 1000000LL;
        else if (name == 11 && memcmp(p, "scheddetail", 11) == 0 && number >= 0 && number <= 1)
            PRE->trace_detail = number == 1;
        else {
            bad_setting("GOSCHED_TRACE", value,
                        "expected e.g. schedtrace=1000,scheddetail=1 (ms; 0 or 1)");
            core->sched.sysmon.trace_ns = 0;
            return;
        }
    }
}

static void
read_settings(void)
{
    core->sched.sysmon.stall_ns = 100 * 1000000LL;
    const char *value = getenv("GOSCHED_STALL_MS");
    if (value != NULL) {
        long ms = parse_number(value, strlen(value), MAX_MS);
        if (ms >= 0)
            core->sched.sysmon.stall_ns = ms * 1000000LL;
        else
            bad_setting("GOSCHED_STALL_MS", value, "expected milliseconds (0: no reports)");
    }
    value = getenv("GOSCHED_PREEMPT");
    if (value != NULL && strcmp(value, "0") == 0)
        PRE->off = true;
    else if (value != NULL && strcmp(value, "1") != 0)
        bad_setting("GOSCHED_PREEMPT", value, "expected 0 or 1");
    value = getenv("GOSCHED_TRACE");
    if (value != NULL)
        read_trace_setting(value);
}

/* ---- start and end ---- */

RT_COLD void
py_preempt_kick(void)
{
    rt_sysmon *sm = &core->sched.sysmon;
    if (atomic_load(&sm->state) == RT_SYSMON_ASLEEP)
        rt_sysmon_wake(sm);
    else if (PRE->leaving)
        atomic_store(&sm->state, RT_SYSMON_AWAKE);      /* do not come here again */
    else
        rt_sysmon_start(sm);    /* where this fails, the next one who comes here tries again */
}

void
py_preempt_stop(void)
{
    PRE->leaving = true;
    Py_BEGIN_ALLOW_THREADS
    rt_sysmon_stop(&core->sched.sysmon);
    Py_END_ALLOW_THREADS
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        if (atomic_load(&mp->preempt.by_event))
            disarm(mp);
    release_tool();
}

void
py_preempt_after_fork(void)
{
    rt_sysmon *sm = &core->sched.sysmon;
    bool traced = sm->trace_ns != 0 && sm->running;
    rt_sysmon_after_fork(sm);
    atomic_store(&core->sysmon_tstate, NULL);       /* CPython has freed it */
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
    if (traced)
        py_preempt_kick();
}

/* Called once by the package. */
static PyObject *
m_set_preempt(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *files, *functions, *raw_io, *generator_cm, *exit_stack, *report;
    const char *resumes;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "OOOOOy#O:_set_preempt", &files, &functions, &raw_io,
                          &generator_cm, &exit_stack, &resumes, &n, &report))
        return NULL;
    if (py_zones_init(&PRE->zones, files, functions, raw_io, generator_cm, exit_stack, resumes,
                      n) < 0)
        return NULL;
    PRE->report = Py_NewRef(report);
    if (core->sched.sysmon.trace_ns != 0)
        py_preempt_kick();
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
    PRE->started = rt_nanotime();
    PRE->tool = -1;
    rt_sysmon_init(&core->sched.sysmon, &core->sched,
                   (rt_sysmon_host){.clock = host_clock, .preempt = host_preempt,
                                    .withdraw = host_withdraw, .stalled = host_stalled,
                                    .trace = host_trace, .leave = host_leave});
    read_settings();
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
