/* py_http_context.c - the contexts of requests: r.context.
 *
 * One is made by Python (http/context.py) when a handler asks for it, so that others pay
 * nothing.  It must end with the request and with the connection, whoever is first:
 *
 *   - who makes it puts it into the request, then looks whether it should have ended by now;
 *   - who ends the request, or notes that the client has gone, says so, then looks for it.
 *
 * Both under the connection's lock, so one of them sees the other; to end it twice is
 * harmless.  That the client has gone is found by the poller, which must not run Python: a
 * goroutine of the shard's M ends the context.  No byte is read to find that out, so what
 * is pipelined, or an unread body, is no hindrance.
 *
 * A stream tells nothing by itself: see py_http_stream_watch.c.
 */
#include "py_http.h"

/* Owned; set once, by _set_http_contexts(). */
static PyObject *make_hook;     /* (contexts or None) -> context */
static PyObject *check_hook;    /* (object) -> context, or TypeError */
static PyObject *end_hook;      /* (context, why or None) */

#define CLIENT_GONE "the client has closed the connection"

static void
end_context(PyObject *context, const char *why)
{
    PyObject *r = PyObject_CallFunction(end_hook, "Oz", context, why);
    if (r == NULL)
        PyErr_WriteUnraisable(context);
    Py_XDECREF(r);
}

void
http_context_end(PyObject *context)
{
    end_context(context, NULL);
}

static PyObject *
gone_main(Goroutine *gp)
{
    PyObject *context = gp->call.c.arg;
    end_context(context, CLIENT_GONE);
    Py_DECREF(context);
    Py_RETURN_NONE;
}

/* There is no memory to run it: the context ends with the request. */
static void
gone_cancel(Goroutine *gp)
{
    Py_DECREF((PyObject *)gp->call.c.arg);
}

void
http_context_gone(http_conn *c, PyObject *context)
{
    if (py_g_spawn_c(c->shard->mp, gone_main, gone_cancel, context) < 0) {
        PyErr_Clear();
        Py_DECREF(context);
    }
}

void
http_context_lost(http_conn *c)
{
    py_acquire(&c->lock);
    bool ours = !c->aborted && !c->leaving && c->req != NULL;
    PyObject *context = ours ? Py_XNewRef(c->req->context) : NULL;
    c->peer_closed = c->peer_closed || ours;
    py_release(&c->lock);
    if (context != NULL)
        end_context(context, CLIENT_GONE);
    Py_XDECREF(context);
}

int
http_context_check(PyObject *ctx)
{
    PyObject *r = PyObject_CallOneArg(check_hook, ctx);
    Py_XDECREF(r);
    return r != NULL ? 0 : -1;
}

PyObject *
http_request_context(http_request *r)
{
    http_conn *c = r->conn;
    py_acquire(&c->lock);
    PyObject *context = Py_XNewRef(r->context), *contexts = NULL;
    if (context == NULL && c->req == r)         /* else the server may be no more */
        contexts = Py_XNewRef(c->server->contexts);
    py_release(&c->lock);
    if (context != NULL)
        return context;
    PyObject *made = PyObject_CallOneArg(make_hook, contexts ? contexts : Py_None);
    Py_XDECREF(contexts);
    if (made == NULL)
        return NULL;
    py_acquire(&c->lock);
    if (r->context == NULL) {
        r->context = Py_NewRef(made);
        RT_STORE(r->made, true);
    }
    context = Py_NewRef(r->context);
    bool over = c->req != r, gone = c->peer_closed && !c->aborted;
    py_release(&c->lock);
    Py_DECREF(made);
    if (over || gone)
        end_context(context, over ? NULL : CLIENT_GONE);
    else if (c->stream != NULL)
        http_stream_watch(c);
    return context;
}

static PyObject *
m_set_http_contexts(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *make, *check, *end;
    if (!PyArg_ParseTuple(args, "OOO:_set_http_contexts", &make, &check, &end))
        return NULL;
    Py_XSETREF(make_hook, Py_NewRef(make));
    Py_XSETREF(check_hook, Py_NewRef(check));
    Py_XSETREF(end_hook, Py_NewRef(end));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"_set_http_contexts", m_set_http_contexts, METH_VARARGS, NULL},
    {0},
};

int
http_context_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
