/* py_http_gate.c - how many requests run at once, and who waits: max_requests.
 *
 * A request that finds no place waits in its goroutine, in a queue with a bound, for a time with
 * a bound; what is beyond either is answered with 503 and Retry-After.  A place that becomes free
 * is handed to the first who waits: nobody can overtake, so a waiting request waits no longer
 * than those before it.
 */
#include "py_http.h"
#include "py_wait.h"

bool
http_gate_enter(http_server *s, Goroutine *gp)
{
    http_gate *g = &s->gate;
    py_acquire(&g->lock);
    bool in = g->running < g->limit, wait = !in && RT_LOAD(g->waiting) < g->max_waiting
                                            && !RT_LOAD(s->aborted);
    if (in)
        g->running++;
    if (wait) {
        RT_COUNT(g->waiting, 1);
        rt_g_arm(&gp->g);
        py_waitq_push(&g->waiters, &gp->seat->waiter);
    }
    py_release(&g->lock);
    if (!wait)
        return in;
    int64_t now = s->bubbled ? py_now() : rt_nanotime();
    int64_t deadline = g->patience > RT_FOREVER - now ? RT_FOREVER : now + g->patience;
    uint32_t why = py_park(gp, s->bubbled ? PY_WAIT_SEMA : PY_WAIT_IO, deadline);
    if (why == RT_WAKE_INTERRUPT)
        PyErr_Clear();
    py_acquire(&g->lock);
    py_waitq_remove(&gp->seat->waiter);
    RT_COUNT(g->waiting, -1);
    py_release(&g->lock);
    return why == RT_WAKE_READY;
}

void
http_gate_leave(http_server *s)
{
    http_gate *g = &s->gate;
    py_acquire(&g->lock);
    py_waiter *w = py_waitq_claim(&g->waiters, RT_WAKE_READY);
    if (w == NULL)
        g->running--;
    py_release(&g->lock);
    if (w != NULL)
        py_ready(w->g, false);
}

void
http_gate_close(http_server *s)
{
    py_waitq woken = {0};
    py_acquire(&s->gate.lock);
    py_waitq_claim_all(&s->gate.waiters, RT_WAKE_CLOSED, &woken);
    py_release(&s->gate.lock);
    py_ready_all(&woken);
}

int
http_gate_refuse(http_conn *c)
{
    py_acquire(&c->lock);
    if (c->continue_due)
        c->close_after = true;  /* the client may or may not send the body */
    int r = http_simple_response(c, 503, "too many requests are being served",
                                 "Retry-After: 1\r\n");
    py_release(&c->lock);
    return r;
}

/* ---- limits ---- */

/* A number, 0 or more, or None for `none`; NULL: leave it. */
static int
number(PyObject *value, const char *name, int64_t max, int64_t none, int64_t *out)
{
    if (value == NULL)
        return 0;
    if (value == Py_None) {
        *out = none;
        return 0;
    }
    int64_t n = PyLong_AsLongLong(value);
    if (n == -1 && PyErr_Occurred())
        return -1;
    if (n < 0 || n > max) {
        PyErr_Format(PyExc_ValueError, "%s must be 0 to %lld, not %lld", name, (long long)max,
                     (long long)n);
        return -1;
    }
    *out = n;
    return 0;
}

PyObject *
http_server_set_limits(http_server *s, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"body_timeout", "min_read_rate", "min_write_rate", "rate_grace",
                            "max_requests", "max_waiting", "waiting_timeout",
                            "max_requests_per_connection", NULL};
    PyObject *body = NULL, *rd = NULL, *wr = NULL, *grace = NULL, *limit = NULL, *waiting = NULL,
             *patience = NULL, *served = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OOOOOOOO:set_limits", names, &body, &rd,
                                     &wr, &grace, &limit, &waiting, &patience, &served))
        return NULL;
    int64_t max_requests = 0, max_waiting = 0, max_served = 0;
    s->gate.patience = INT64_MAX;
    if (http_seconds(body, names[0], &s->body_timeout) < 0
        || number(rd, names[1], INT64_MAX, 0, &s->min_read_rate) < 0
        || number(wr, names[2], INT64_MAX, 0, &s->min_write_rate) < 0
        || http_seconds(grace, names[3], &s->rate_grace) < 0
        || number(limit, names[4], INT32_MAX, 0, &max_requests) < 0
        || number(waiting, names[5], INT32_MAX, INT32_MAX, &max_waiting) < 0
        || http_seconds(patience, names[6], &s->gate.patience) < 0
        || number(served, names[7], UINT32_MAX, 0, &max_served) < 0)
        return NULL;
    if ((limit != NULL && limit != Py_None && max_requests == 0)
        || (served != NULL && served != Py_None && max_served == 0)) {
        PyErr_SetString(PyExc_ValueError, "max_requests and max_requests_per_connection are 1 or "
                        "more; None is no limit");
        return NULL;
    }
    s->gate.limit = (uint32_t)max_requests;
    s->gate.max_waiting = (uint32_t)max_waiting;
    s->max_served = (uint32_t)max_served;
    Py_RETURN_NONE;
}
