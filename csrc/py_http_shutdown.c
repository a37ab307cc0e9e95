/* py_http_shutdown.c - how a server ends: shutdown, abort, and who waits for them. */
#include "py_http_server.h"

#include <unistd.h>

#define ABORT_WAIT 100000000            /* ns that close() waits for an M that is stuck */

/* Nobody is waited for any more. */
static void
tell_aborted(http_server *s)
{
    RT_STORE(s->aborted, true);
    http_gate_close(s);
    http_server_wake_waiters(s);
}

void
http_server_give_up(rt_timer *t)
{
    http_server *s = RT_CONTAINER_OF(t, http_server, give_up);
    tell_aborted(s);
    Py_DECREF(s);
}

static PyObject *
shutdown_shard_main(Goroutine *gp)
{
    http_shard *sh = gp->call.c.arg;
    http_server *s = sh->server;
    http_shard_shutdown(sh);
    Py_DECREF(s);
    Py_RETURN_NONE;
}

/* A shard has done its part of an abort; the last one tells. */
static void
aborted_one(http_server *s)
{
    if (http_count(&s->aborting, -1) == 0)
        tell_aborted(s);
}

static PyObject *
abort_shard_main(Goroutine *gp)
{
    http_shard *sh = gp->call.c.arg;
    http_server *s = sh->server;
    http_shard_abort(sh);
    aborted_one(s);
    Py_DECREF(s);
    Py_RETURN_NONE;
}

/* On the listeners' M: the end of everything (abort), or of what is idle.  Other Ms do
   their part later.  -1 with MemoryError set: one could not be asked. */
static int
close_all(http_server *s, bool abort)
{
    int result = 0;
    bool gentle = !abort && !RT_LOAD(s->hasten);
    http_server_close_listeners(s, gentle);
    if (abort)
        http_count(&s->aborting, 1);
    for (uint32_t id = 0; id <= RT_SPARE_P; id++) {
        http_shard *sh = RT_LOAD(s->shards[id]);
        if (sh == NULL)
            continue;
        if (!gentle)
            http_shard_forget(sh);
        if (abort)
            http_count(&s->aborting, 1);
        if (sh->mp != http_server_home(s)
            && http_server_ask(s, sh->mp, abort ? abort_shard_main : shutdown_shard_main, sh) == 0)
            continue;
        if (sh->mp == http_server_home(s))
            (abort ? http_shard_abort : http_shard_shutdown)(sh);
        else {
            PyErr_Clear();      /* the others first */
            result = -1;
        }
        if (abort)
            aborted_one(s);
    }
    if (abort)
        aborted_one(s);
    if (abort && !RT_LOAD(s->aborted) && !rt_timer_started(&s->give_up)) {
        s->give_up.when = rt_nanotime() + ABORT_WAIT;
        if (rt_timers_start(&http_server_home(s)->p.timers, &s->give_up) == 0)
            Py_INCREF(s);
    }
    if (result < 0)
        PyErr_NoMemory();
    return result;
}

static PyObject *
shutdown_main(Goroutine *gp)
{
    http_server *s = gp->call.c.arg;
    int r = close_all(s, false);
    Py_DECREF(s);
    return r < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
abort_main(Goroutine *gp)
{
    http_server *s = gp->call.c.arg;
    int r = close_all(s, true);
    Py_DECREF(s);
    return r < 0 ? NULL : Py_NewRef(Py_None);
}

/* From any thread.  -1 with an exception set. */
static int
close_from_here(http_server *s, bool abort)
{
    RT_STORE(s->retiring, true);
    if (abort) {
        RT_STORE(s->cut, true);
        RT_STORE(s->hasten, true);
    }
    atomic_store(&s->closing, true);
    py_m *mp = atomic_load(&s->mp);
    http_server_wake_waiters(s);            /* who waits for room for a connection */
    if (mp == NULL) {           /* of a bubble, or before it serves */
        if (abort) {
            RT_STORE(s->aborted, true);
            http_gate_close(s);
            http_server_wake_waiters(s);
        }
        return 0;
    }
    if (http_server_is_parents(s)) {
        /* Only the copies of the descriptors are ours. */
        for (int i = 0; i < RT_LOAD(s->nlisteners); i++)
            close(s->listeners[i]->pd.fd);
        RT_STORE(s->nlisteners, 0);
        RT_STORE(s->aborted, true);
        return 0;
    }
    if (mp != py_this_m())
        return http_server_ask(s, mp, abort ? abort_main : shutdown_main, s);
    return close_all(s, abort);
}

PyObject *
http_server_begin_shutdown(http_server *s, PyObject *Py_UNUSED(ignored))
{
    int r = close_from_here(s, false);
    http_streams_close(s, false);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
http_server_close_idle(http_server *s, PyObject *unused)
{
    RT_STORE(s->hasten, true);
    return http_server_begin_shutdown(s, unused);
}

PyObject *
http_server_retire(http_server *s, PyObject *Py_UNUSED(ignored))
{
    RT_STORE(s->retiring, true);
    Py_RETURN_NONE;
}

PyObject *
http_server_abort(http_server *s, PyObject *Py_UNUSED(ignored))
{
    int r = close_from_here(s, true);
    http_streams_close(s, true);
    if (r < 0)
        return NULL;
    return PyBool_FromLong(RT_LOAD(s->aborted));
}

PyObject *
http_server_wait_closed(http_server *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    py_wait wait;
    if (py_limits_parse(&limits, "wait_closed(" PY_LIMITS_USAGE ")", 0, args, nargs, kwnames) < 0)
        return NULL;
    Goroutine *gp = py_current("HTTPServer.wait_closed()");
    if (gp == NULL || (s->bubbled ? py_wait_begin : py_wait_begin_io)(&wait, &limits) < 0)
        return NULL;
    py_acquire(&s->lock);
    uint32_t why = http_server_wait_locked(s, gp, NULL, &wait);
    py_release(&s->lock);
    py_wait_end(&wait);
    if (why == RT_WAKE_READY)
        return PyBool_FromLong(http_server_all_closed(s));
    if (why == RT_WAKE_TIMEOUT)
        Py_RETURN_FALSE;
    return NULL;
}
