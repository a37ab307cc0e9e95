/* py_inspect.c - looking at the scheduler from outside: counters. */
#include "py_core.h"

static PyObject *
p_stats(py_m *mp)
{
    const rt_p_counters *c = &mp->p.count;
    return Py_BuildValue(
        "{sI sI sK sK sK sK sK sK sK sK sK sK sK sK sK sK sI sI sI sO}", "id", mp->p.id, "runq",
        (mp->p.runnext != NULL) + mp->p.pinned.len + mp->p.spill.len
            + rt_runq_len(&mp->p.fresh),
        "ticks", RT_LOAD(c->ticks), "switches", RT_LOAD(mp->switches), "workers",
        RT_LOAD(mp->workers), "runnext", RT_LOAD(c->runnext), "global", RT_LOAD(c->global),
        "inbox", RT_LOAD(c->inbox), "steals", RT_LOAD(c->steals), "stolen", RT_LOAD(c->stolen),
        "overflows", RT_LOAD(c->overflows), "preemptions", RT_LOAD(c->preemptions), "polls",
        RT_LOAD(c->polls), "blocking_polls", RT_LOAD(c->blocking_polls), "poll_events",
        RT_LOAD(c->poll_events), "timers_fired", RT_LOAD(c->timers_fired), "idle_workers",
        mp->nidle, "timers", mp->p.timers.len, "descriptors", mp->p.npd, "sleeping",
        atomic_load(&mp->p.sleeping) != RT_AWAKE ? Py_True : Py_False);
}

PyObject *
py_stats(void)
{
    PyObject *ps = PyList_New(0);
    if (ps == NULL)
        return NULL;
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        PyObject *p = p_stats(mp);
        if (p == NULL || PyList_Append(ps, p) < 0) {
            Py_XDECREF(p);
            Py_DECREF(ps);
            return NULL;
        }
        Py_DECREF(p);
    }
    uint64_t accepted = 0, closed = 0, requests = 0;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        closed += RT_LOAD(mp->http.closed);
        requests += RT_LOAD(mp->http.requests);
    }
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        accepted += RT_LOAD(mp->http.accepted);     /* after: none is counted closed only */
    uint64_t created, finished, now = py_num_goroutine(&created, &finished);
    return Py_BuildValue(
        "{sK sK sK sI sI sI sN s{sK sK sK}}", "goroutines", now, "created", created, "finished",
        finished, "global_runq", (unsigned)RT_LOAD(core->sched.global.len), "gomaxprocs",
        (unsigned)RT_LOAD(core->sched.nprocs), "spinning",
        (unsigned)RT_LOAD(core->sched.nspinning), "ps", ps, "http", "connections",
        accepted - closed, "accepted", accepted, "requests", requests);
}

