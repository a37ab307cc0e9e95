/* py_http_stream_watch.c - noticing that the client of a stream goes while a handler runs.
 *
 * A stream tells nothing by itself, so somebody must read.  Once a handler has asked for the
 * request's context and the body is read to its end, a goroutine reads ahead, as Go's server
 * does: the end of the stream ends the context.  Bytes are those of the next request; they stay
 * in c->in, and what comes after them is not looked for.
 *
 * It is in I/O like who reads a body (c->reading).  When the request ends, or its connection is
 * hijacked, it is recalled by a deadline that has passed, so a read that fails at its deadline
 * must lose nothing: what has come by then is there for the next one.
 *
 * It runs on the shard's M, as does who waits for its end.  In a bubble it is of that.
 */
#include "py_http_stream.h"

#include <errno.h>

#define CAPSULE "gosched.http_stream_watch"

static void
ended(http_conn *c)
{
    py_acquire(&c->lock);
    c->stream->watching = false;
    http_stream_leave_io(c, &c->reading);
    if (c->stream->recalled)
        py_waitq_wake_all(&c->readers, RT_WAKE_READY);
    py_release(&c->lock);
}

/* Must it not begin to read?  The deadline has been set before. */
static bool
must_end(http_conn *c)
{
    py_acquire(&c->lock);
    bool end = c->aborted || c->leaving || c->stream->recalled;
    py_release(&c->lock);
    return end;
}

static PyObject *
watch(PyObject *capsule, PyObject *Py_UNUSED(ignored))
{
    http_conn *c = PyCapsule_GetPointer(capsule, CAPSULE);
    Py_ssize_t got;
    if (http_stream_set_limit(c->stream, true, INT64_MAX) < 0)
        got = http_stream_error();
    else
        got = must_end(c) ? 1 : http_stream_read(c, NULL, 0);
    if (got == 0 || got == -EPIPE)
        http_context_lost(c);
    /* Here: the capsule may stay for a while. */
    PyCapsule_SetContext(capsule, c);
    ended(c);
    return got == HTTP_STREAM_RAISED ? NULL : Py_NewRef(Py_None);
}

static void
forget(PyObject *capsule)
{
    http_conn *c = PyCapsule_GetPointer(capsule, CAPSULE);
    if (PyCapsule_GetContext(capsule) == NULL)      /* it never ran */
        ended(c);
    http_conn_unref(c);
}

static PyMethodDef watch_def = {"http_stream_watch", watch, METH_NOARGS, NULL};

void
http_stream_watch(http_conn *c)
{
    py_acquire(&c->lock);
    http_stream *st = c->stream;
    http_request *r = c->req;
    bool due = r != NULL && r->context != NULL && st->io != NULL && c->shard != NULL
               && !c->reading && c->body_done && c->in_pos == c->in_len && !c->peer_closed
               && !c->aborted && !c->leaving && !c->hijacked && !st->recalled;
    if (due)
        c->reading = st->watching = true;
    py_release(&c->lock);
    if (!due)
        return;
    http_count(&c->refs, 1);
    PyObject *capsule = PyCapsule_New(c, CAPSULE, forget);
    if (capsule == NULL) {
        ended(c);
        http_conn_unref(c);
    }
    PyObject *fn = capsule ? PyCFunction_New(&watch_def, capsule) : NULL;
    Py_XDECREF(capsule);
    PyObject *args = fn ? PyTuple_Pack(1, fn) : NULL;
    Py_XDECREF(fn);
    if (args == NULL || http_spawn(c->server->bubbled ? NULL : c->shard->mp, args) < 0)
        PyErr_Clear();          /* then the next I/O tells */
    Py_XDECREF(args);
}

int
http_stream_recall(http_conn *c, Goroutine *gp)
{
    http_stream *st = c->stream;
    if (!st->watching)
        return 0;
    PyObject *io = st->io, *exc = py_take_exception();
    st->recalled = true;
    py_release(&c->lock);
    RT_STORE(st->read_limited, true);
    http_stream_wake(io, true);
    py_acquire(&c->lock);
    while (st->watching) {
        rt_g_arm(&gp->g);
        py_waitq_push(&c->readers, &gp->seat->waiter);
        py_release(&c->lock);
        if (py_park(gp, PY_WAIT_IO, RT_FOREVER) == RT_WAKE_INTERRUPT)
            Py_XSETREF(exc, py_take_exception());
        py_acquire(&c->lock);
        py_waitq_remove(&gp->seat->waiter);
    }
    st->recalled = false;
    if (exc == NULL)
        return 0;
    py_raise(exc);
    return -1;
}
