/* py_stall.c - reports of goroutines that keep others waiting in a call: who, where, how long.
 *
 * Called by sysmon, for one that could not be made to yield.  A call that keeps the GIL shows
 * in that sysmon itself has to wait for it.  A thread that merely waits for the GIL, or for a
 * processor, is not to blame.
 */
#include "py_sysmon.h"

#include <stdlib.h>
#include <time.h>

#define REPORT_P 1000000000             /* ns between two reports about a P */
#define REPORT_SITE 10000000000         /* ns between two about a line */

#define PRE (&core->preempt)

/* ---- is it to blame? ---- */

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
void
py_stall_note_cpu_time(py_m *mp)
{
    if (mp->tstate == NULL || mp->preempt.cpu_tick == mp->p.mon.tick + 1)
        return;
    mp->preempt.cpu_tick = mp->p.mon.tick + 1;
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

void
py_stall_note_cpu_time(py_m *Py_UNUSED(mp))
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

/* ---- the report ---- */

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
    if (!py_sysmon_same_run(s->mp))
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
    const char *what = waited >= PY_KEEPS_GIL ? "keeps the GIL" : "blocks";
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

void
py_stall_report(py_m *mp, int64_t ns, int64_t waited)
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
    py_sysmon_detach();
    py_write_stderr(copy, len);
    free(copy);
}

bool
py_stall_seen(rt_p *pp, int64_t ns)
{
    py_m *mp = py_m_of(pp);
    if (mp->preempt.reported != 0 && rt_nanotime() - mp->preempt.reported < REPORT_P)
        return false;
    int64_t waited = py_sysmon_attach(mp);
    if (waited == PY_NO_MEMORY)
        return false;
    if (waited == PY_OTHERS) {
        py_sysmon_detach();
        return false;           /* it may just be waiting for the GIL, too */
    }
    py_stall_report(mp, ns + waited, waited);
    return true;
}
