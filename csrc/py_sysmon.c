/* py_sysmon.c - the Python side of sysmon (rt_sysmon.h): what it does about a P that needs
 * attention, its settings, its life.
 *
 * It has a thread state of its own, made when it first needs the GIL or, on free-threaded
 * builds, touches objects.
 */
#include "py_sysmon.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PRE (&core->preempt)

/* ---- its thread state ---- */

int64_t
py_sysmon_attach(py_m *mp)
{
    int64_t start = rt_nanotime();
    bool others = mp != NULL && mp->tstate != NULL && py_gil_is_elsewhere(mp->tstate);
    PyThreadState *ts = atomic_load(&core->sysmon_tstate);
    if (ts == NULL) {
        ts = py_thread_state_new();
        if (ts == NULL)
            return PY_NO_MEMORY;
        atomic_store(&core->sysmon_tstate, ts);
    }
    if (mp != NULL && mp->tstate != NULL)
        py_demand_gil(mp->tstate);
    PyEval_RestoreThread(ts);
    int64_t waited = rt_nanotime() - start;
    return others && waited >= PY_KEEPS_GIL ? PY_OTHERS : waited;
}

void
py_sysmon_detach(void)
{
    PyEval_SaveThread();
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

/* ---- its callbacks ---- */

bool
py_sysmon_same_run(py_m *mp)
{
    return mp->curg != NULL && mp->tstate != NULL
           && atomic_load_explicit(&mp->p.tick, memory_order_relaxed) == mp->p.mon.tick;
}

static int64_t
host_clock(void)
{
    return rt_nanotime();
}

static void
host_preempt(rt_p *pp, int64_t ns)
{
    py_m *mp = py_m_of(pp);
    if (atomic_load(&mp->stopping))
        return;
    py_stall_note_cpu_time(mp);
    if (py_preempt_raise(mp))
        return;
    int64_t waited = py_sysmon_attach(mp);
    if (waited == PY_NO_MEMORY)
        return;
    if (core->sched.sysmon.stall_ns != 0 && waited >= PY_KEEPS_GIL
        && ns + waited >= core->sched.sysmon.stall_ns && !pp->mon.reported) {
        /* A call has kept the GIL until now, and is still to be seen. */
        pp->mon.reported = true;
        py_stall_report(mp, ns + waited, waited);
        py_sysmon_attach(mp);
    }
    if (py_sysmon_same_run(mp))
        py_preempt_ask(mp);
    py_sysmon_detach();
}

static void
host_withdraw(rt_p *pp)
{
    py_m *mp = py_m_of(pp);
    if (!py_preempt_must_withdraw(mp))
        return;
    if (py_sysmon_attach(mp) == PY_NO_MEMORY)
        return;
    py_preempt_withdraw(mp);
    py_sysmon_detach();
}

/* ---- output ---- */

void
py_write_stderr(const char *text, size_t len)
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

/* ---- settings ---- */

static void
bad_setting(const char *name, const char *value, const char *wanted)
{
    char line[256];
    int n = snprintf(line, sizeof(line), "gosched: %s=%.100s ignored: %s\n", name, value, wanted);
    py_write_stderr(line, n < (int)sizeof(line) ? (size_t)n : sizeof(line) - 1);
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
    PyObject *flags = PySys_GetObject("flags"), *dev_mode = NULL;
    if (flags != NULL)
        dev_mode = PyObject_GetAttrString(flags, "dev_mode");
    PRE->check_waits = dev_mode == Py_True;
    Py_XDECREF(dev_mode);
    PyErr_Clear();
    value = getenv("GOSCHED_CHECK_WAITS");
    if (value != NULL && (strcmp(value, "0") == 0 || strcmp(value, "1") == 0))
        PRE->check_waits = value[0] == '1';
    else if (value != NULL)
        bad_setting("GOSCHED_CHECK_WAITS", value, "expected 0 or 1");
    value = getenv("GOSCHED_TRACE");
    if (value != NULL)
        read_trace_setting(value);
}

/* ---- start and end ---- */

RT_COLD void
py_sysmon_kick(void)
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
py_sysmon_stop(void)
{
    PRE->leaving = true;
    Py_BEGIN_ALLOW_THREADS
    rt_sysmon_stop(&core->sched.sysmon);
    Py_END_ALLOW_THREADS
    py_preempt_end();
}

void
py_sysmon_after_fork(void)
{
    rt_sysmon *sm = &core->sched.sysmon;
    bool traced = sm->trace_ns != 0 && sm->running;
    rt_sysmon_after_fork(sm);
    atomic_store(&core->sysmon_tstate, NULL);       /* CPython has freed it */
    py_preempt_after_fork();
    if (traced)
        py_sysmon_kick();
}

void
py_sysmon_init(void)
{
    PRE->started = rt_nanotime();
    rt_sysmon_init(&core->sched.sysmon, &core->sched,
                   (rt_sysmon_host){.clock = host_clock, .preempt = host_preempt,
                                    .withdraw = host_withdraw, .stalled = py_stall_seen,
                                    .trace = py_schedtrace, .leave = host_leave});
    read_settings();
}
