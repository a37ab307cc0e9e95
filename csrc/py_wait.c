/* py_wait.c - see py_wait.h.
 *
 * A call with a context waits in two places: where it waits anyhow, and in the queue of
 * the receivers of the context's done channel.  Whoever claims its park there does so with
 * RT_WAKE_CONTEXT, whatever it does to the channel.
 */
#include "py_wait.h"

#include "py_bubble.h"
#include "py_chan.h"

#include <math.h>

struct py_context_wait {
    py_waiter waiter;           /* in done's queue while the caller is parked */
    PyObject *ctx;              /* owned */
    Chan *done;                 /* owned */
    bool ended;                 /* it has ended the wait */
};

/* ---- contexts ---- */

/* Its done channel (owned), also where done() is a view of it, or None if it never ends. */
static PyObject *
context_done(PyObject *ctx)
{
    PyObject *done = PyObject_CallMethod(ctx, "done", NULL);
    if (done == NULL && PyErr_ExceptionMatches(PyExc_AttributeError))
        PyErr_Format(PyExc_TypeError, "ctx must be a context or None, not %.200s",
                     Py_TYPE(ctx)->tp_name);
    if (done == NULL || done == Py_None)
        return done;
    PyObject *ch = Py_XNewRef((PyObject *)py_chan_to_recv(done));
    if (ch == NULL)
        PyErr_Format(PyExc_TypeError, "ctx.done() must be a Chan, a Receiver or None, not %.200s",
                     Py_TYPE(done)->tp_name);
    Py_DECREF(done);
    return ch;
}

/* The context has ended: raise why. */
static void
raise_context_error(PyObject *ctx)
{
    PyObject *err = PyObject_CallMethod(ctx, "err", NULL);
    if (err != NULL && PyExceptionInstance_Check(err))
        PyErr_SetObject((PyObject *)Py_TYPE(err), err);
    else if (err != NULL)
        PyErr_Format(PyExc_TypeError, "ctx.err() must be an exception once done() is closed, "
                     "not %.200s", Py_TYPE(err)->tp_name);
    Py_XDECREF(err);
}

static bool
is_closed(Chan *ch)
{
    py_acquire(&ch->lock);
    bool closed = ch->closed;
    py_release(&ch->lock);
    return closed;
}

/* ---- arguments ---- */

int
py_limits_parse_slow(py_limits *limits, const char *usage, Py_ssize_t npos,
                     PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    bool timeout = nargs == npos + 1;
    if (timeout)
        limits->timeout = args[npos];
    if (nargs < npos || nargs > npos + 1)
        goto wrong;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i), *value = args[nargs + i];
        if (!timeout && PyUnicode_CompareWithASCIIString(name, "timeout") == 0) {
            timeout = true;
            limits->timeout = value;
        }
        else if (PyUnicode_CompareWithASCIIString(name, "ctx") == 0)
            limits->ctx = value != Py_None ? value : NULL;
        else
            goto wrong;
    }
    return py_limits_check(limits);

wrong:
    PyErr_Format(PyExc_TypeError, "wrong arguments: %s", usage);
    return -1;
}

int
py_limits_check(const py_limits *limits)
{
    if (limits->ctx == NULL)
        return 0;
    PyObject *done = context_done(limits->ctx);
    if (done != NULL && done != Py_None && is_closed((Chan *)done))
        raise_context_error(limits->ctx);
    Py_XDECREF(done);
    return PyErr_Occurred() ? -1 : 0;
}

/* ---- waiting ---- */

/* The part that a context has in it. */
static int
begin_context(py_wait *wait, const py_limits *limits)
{
    wait->context = NULL;
    if (RT_LIKELY(limits->ctx == NULL))
        return 0;
    PyObject *done = context_done(limits->ctx);
    if (done == NULL)
        return -1;
    if (done == Py_None) {
        Py_DECREF(done);
        return 0;
    }
    py_context_wait *context = PyMem_Calloc(1, sizeof(*context));
    if (context == NULL) {
        Py_DECREF(done);
        PyErr_NoMemory();
        return -1;
    }
    context->waiter.kind = PY_WAITER_CONTEXT;
    context->ctx = Py_NewRef(limits->ctx);
    context->done = (Chan *)done;
    wait->context = context;
    return 0;
}

int
py_wait_begin_slow(py_wait *wait, const py_limits *limits)
{
    return py_deadline(limits->timeout, &wait->deadline) < 0 ? -1 : begin_context(wait, limits);
}

int
py_wait_begin_io(py_wait *wait, const py_limits *limits)
{
    return py_io_deadline(limits->timeout, &wait->deadline) < 0 ? -1 : begin_context(wait, limits);
}

uint32_t
py_wait_park_context(Goroutine *gp, int reason, py_wait *wait)
{
    py_context_wait *context = wait->context;
    Chan *done = context->done;
    uint32_t why = RT_WAKE_CONTEXT;
    context->waiter.g = gp;
    py_acquire(&done->lock);
    bool ended = done->closed && rt_g_claim(&gp->g, RT_WAKE_CONTEXT);
    if (!done->closed)
        py_waitq_push(&done->recvq, &context->waiter);
    py_release(&done->lock);
    if (ended)
        RT_STORE(gp->g.status, RT_G_RUNNING);
    else {
        if (gp->g.bubbled && !done->bubbled)
            reason |= PY_WAIT_OUTSIDE;
        why = py_park(gp, reason, wait->deadline);
        py_acquire(&done->lock);
        py_waitq_remove(&context->waiter);
        py_release(&done->lock);
    }
    context->ended = why == RT_WAKE_CONTEXT;
    return why;
}

void
py_wait_end_slow(py_wait *wait)
{
    py_context_wait *context = wait->context;
    wait->context = NULL;
    if (context->ended && !PyErr_Occurred())
        raise_context_error(context->ctx);
    PyObject *exc = py_take_exception();    /* what is dropped here may run Python */
    Py_XDECREF(context->waiter.value);
    Py_DECREF(context->done);
    Py_DECREF(context->ctx);
    PyMem_Free(context);
    if (exc != NULL)
        py_raise(exc);
}

/* ---- time ---- */

int64_t
py_now(void)
{
    py_bubble *b = py_bubble_current();
    return RT_UNLIKELY(b != NULL) ? b->now : rt_nanotime();
}

/* timeout seconds after now. */
static RT_NOINLINE int
deadline_after(int64_t now, PyObject *timeout, int64_t *deadline)
{
    double s = PyFloat_AsDouble(timeout);
    if (s == -1.0 && PyErr_Occurred())
        return -1;
    if (isnan(s)) {
        PyErr_SetString(PyExc_ValueError, "a time in seconds must be a number, not NaN");
        return -1;
    }
    if (s > 9e9                 /* 285 years */
        || __builtin_add_overflow(now, s > 0 ? (int64_t)(s * 1e9) : 0, deadline))
        *deadline = RT_FOREVER;
    return 0;
}

int
py_deadline(PyObject *timeout, int64_t *deadline)
{
    *deadline = RT_FOREVER;
    if (timeout == NULL || timeout == Py_None)
        return 0;
    return deadline_after(py_now(), timeout, deadline);
}

int
py_io_deadline(PyObject *timeout, int64_t *deadline)
{
    *deadline = RT_FOREVER;
    if (timeout == NULL || timeout == Py_None)
        return 0;
    return deadline_after(rt_nanotime(), timeout, deadline);
}

PyObject *
py_raise_timeout(const char *what)
{
    PyErr_Format(PyExc_TimeoutError, "%s: the time is up", what);
    return NULL;
}
