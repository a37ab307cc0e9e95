/* py_http_server.c - the server object: listeners, time-outs, shutdown.
 *
 * Connections wait in one list a state.  A state's time-out is the same for all of
 * its connections, so each list is in order of deadline and one timer, set to the
 * earliest first entry, serves all of them: no timer heap per request.
 */
#include "py_http.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>
#include <unistd.h>

#define ACCEPT_BATCH 64                 /* connections taken before others get a turn */
#define BACKOFF_MIN 5000000             /* ns; doubles up to */
#define BACKOFF_MAX 1000000000

http_hooks_t http_hooks;

static void
raise_errno(int err)
{
    errno = err;
    PyErr_SetFromErrno(PyExc_OSError);
}

void
http_log_error(http_conn *c, const char *message, PyObject *exc)
{
    PyObject *request = c->req ? (PyObject *)c->req : Py_None;
    PyObject *r = PyObject_CallFunction(http_hooks.log_error, "sOO", message, request, exc);
    if (r == NULL)
        PyErr_WriteUnraisable(http_hooks.log_error);
    Py_XDECREF(r);
}

/* ---- time-outs ---- */

static void
sweep_fired(rt_timer *t)
{
    http_server *s = RT_CONTAINER_OF(t, http_server, sweep);
    /* Deadlines come from the coarse clock, which is late: by it none might be over. */
    int64_t now = rt_nanotime(), next = INT64_MAX;
    Py_INCREF(s);               /* the last connection may hold the last reference */
    for (int state = 0; state < HTTP_NSTATES; state++) {
        if (state == HTTP_ACTIVE)
            continue;
        http_conn *c;
        while ((c = s->list[state].head) != NULL && c->deadline <= now)
            http_conn_expired(c);
        if (c != NULL && c->deadline < next)
            next = c->deadline;
    }
    if (next != INT64_MAX && !rt_timer_started(t)) {
        t->when = next;
        rt_timers_start(&s->mp->p.timers, t);
    }
    Py_DECREF(s);
}

/* ---- accepting ---- */

static void
pause_accepting(http_listener *l)
{
    l->backoff = l->backoff ? l->backoff * 2 : BACKOFF_MIN;
    if (l->backoff > BACKOFF_MAX)
        l->backoff = BACKOFF_MAX;
    if (rt_timer_started(&l->retry))
        return;
    l->retry.when = rt_nanotime() + l->backoff;
    rt_timers_start(&l->server->mp->p.timers, &l->retry);
}

static void
rearm_listener(http_listener *l)
{
    rt_p *pp = &l->server->mp->p;
    pp->sched->netpoll->modify(pp->np, l->pd.fd, &l->pd);
}

static void
accept_ready(rt_pd *pd, uint32_t Py_UNUSED(mode))
{
    http_listener *l = (http_listener *)pd;
    http_server *s = l->server;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        if (s->nconns >= s->max_conns)
            return;             /* until http_server_accept_again() */
        union {
            struct sockaddr sa;
            struct sockaddr_in in4;
            struct sockaddr_in6 in6;
            struct sockaddr_un un;
        } peer;
        socklen_t len = sizeof(peer);
        peer.sa.sa_family = AF_UNSPEC;
        int fd = accept4(l->pd.fd, &peer.sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN)
                return;
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                pause_accepting(l);
                return;
            }
            continue;           /* this connection failed, the next may not */
        }
        l->backoff = 0;
        http_conn_start(s, fd, &peer.sa);
    }
    rearm_listener(l);          /* there may be more */
}

void
http_server_accept_again(http_server *s)
{
    for (int i = 0; i < s->nlisteners; i++)
        rearm_listener(s->listeners[i]);
}

static void
retry_fired(rt_timer *t)
{
    rearm_listener(RT_CONTAINER_OF(t, http_listener, retry));
}

static void
close_listeners(http_server *s)
{
    while (s->nlisteners > 0) {
        http_listener *l = s->listeners[--s->nlisteners];
        rt_timers_stop(&s->mp->p.timers, &l->retry);
        int fd = l->pd.fd;
        rt_pd_close(&l->pd);
        close(fd);
        PyMem_Free(l);
    }
    if (s->nconns == 0)
        py_waitq_wake_all(&s->waiters, RT_WAKE_READY);
}

/* ---- the object ---- */

static int
seconds_ns(PyObject *value, const char *name, int64_t *ns)
{
    if (value == NULL)
        return 0;
    if (value == Py_None) {
        *ns = INT64_MAX;
        return 0;
    }
    double s = PyFloat_AsDouble(value);
    if (s == -1.0 && PyErr_Occurred())
        return -1;
    if (!(s > 0)) {
        PyErr_Format(PyExc_ValueError, "%s must be a positive number of seconds or None", name);
        return -1;
    }
    *ns = s > 9e9 ? INT64_MAX : (int64_t)(s * 1e9);
    return 0;
}

static PyObject *
server_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"handler", "read_header_timeout", "idle_timeout", "read_timeout",
                            "write_timeout", "max_header_bytes", "max_headers",
                            "max_target_bytes", "max_body_bytes", "max_connections", NULL};
    PyObject *handler, *head = NULL, *idle = NULL, *rd = NULL, *wr = NULL, *body = NULL;
    unsigned int max_head = 65536, max_fields = 128, max_target = 16384, max_conns = 1 << 20;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOOIIIOI:HTTPServer", names, &handler,
                                     &head, &idle, &rd, &wr, &max_head, &max_fields,
                                     &max_target, &body, &max_conns))
        return NULL;
    if (max_head < 256 || max_head > 1 << 24 || max_fields < 1 || max_fields > 65536
        || max_target < 1 || max_conns < 1) {
        PyErr_SetString(PyExc_ValueError, "a limit of the server is out of range");
        return NULL;
    }
    http_server *s = (http_server *)type->tp_alloc(type, 0);
    if (s == NULL)
        return NULL;
    s->handler = Py_NewRef(handler);
    s->limits = (rt_http1_limits){
        .max_target = max_target, .max_head = max_head, .max_fields = max_fields};
    s->head_timeout = 10 * (int64_t)1000000000;
    s->idle_timeout = 120 * (int64_t)1000000000;
    s->read_timeout = s->write_timeout = 60 * (int64_t)1000000000;
    s->max_body = 64 << 20;
    s->max_conns = max_conns;
    s->sweep.fire = sweep_fired;
    s->scratch = PyMem_Malloc(max_fields * sizeof(rt_http1_field));
    if (s->scratch == NULL) {
        PyErr_NoMemory();
        goto fail;
    }
    if (body == Py_None)
        s->max_body = INT64_MAX;
    else if (body != NULL) {
        s->max_body = PyLong_AsLongLong(body);
        if (s->max_body < 0) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "max_body_bytes must be 0 or more, or None");
            goto fail;
        }
    }
    if (seconds_ns(head, "read_header_timeout", &s->head_timeout) < 0
        || seconds_ns(idle, "idle_timeout", &s->idle_timeout) < 0
        || seconds_ns(rd, "read_timeout", &s->read_timeout) < 0
        || seconds_ns(wr, "write_timeout", &s->write_timeout) < 0)
        goto fail;
    return (PyObject *)s;

fail:
    Py_DECREF(s);
    return NULL;
}

static int
server_traverse(http_server *s, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(s));
    Py_VISIT(s->handler);
    return 0;
}

static int
server_clear(http_server *s)
{
    Py_CLEAR(s->handler);
    return 0;
}

static void
server_dealloc(http_server *s)
{
    PyTypeObject *type = Py_TYPE(s);
    PyObject_GC_UnTrack(s);
    if (s->mp != NULL) {
        close_listeners(s);     /* connections hold references: there are none */
        rt_timers_stop(&s->mp->p.timers, &s->sweep);
    }
    server_clear(s);
    PyMem_Free(s->scratch);
    type->tp_free(s);
    Py_DECREF(type);
}

static PyObject *
server_listen(http_server *s, PyObject *arg)
{
    long fd = PyLong_AsLong(arg);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    py_m *mp = py_this_m();
    if (mp == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a plain thread cannot serve by itself: start the "
                        "server in a goroutine, runtime.go(server.serve)");
        return NULL;
    }
    if (s->mp != NULL && s->mp != mp) {
        PyErr_SetString(PyExc_RuntimeError, "the server runs on another thread already");
        return NULL;
    }
    if (s->nlisteners == HTTP_MAX_LISTENERS) {
        PyErr_Format(PyExc_ValueError, "a server has at most %d listeners", HTTP_MAX_LISTENERS);
        return NULL;
    }
    http_listener *l = PyMem_Calloc(1, sizeof(*l));
    if (l == NULL)
        return PyErr_NoMemory();
    s->mp = mp;
    l->server = s;
    l->retry.fire = retry_fired;
    /* Connections inherit it: small responses leave at once. */
    int one = 1;
    setsockopt((int)fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    int err = rt_pd_open(&l->pd, &mp->p, (int)fd, accept_ready);
    if (err < 0) {
        PyMem_Free(l);
        raise_errno(-err);
        return NULL;
    }
    s->listeners[s->nlisteners++] = l;
    Py_RETURN_NONE;
}

/* Connections, timers and the poller belong to the server's M: where another thread
   asks, a goroutine over there does it.  gp->arg: an owned reference to the server. */
static int
hand_over(http_server *s, PyObject *(*entry)(Goroutine *))
{
    Py_INCREF(s);
    if (py_g_spawn_c(s->mp, entry, s) == 0)
        return 0;
    Py_DECREF(s);
    return -1;
}

static void
begin_shutdown(http_server *s)
{
    close_listeners(s);
    http_conn *c, *next;
    for (c = s->list[HTTP_IDLE].head; c != NULL; c = next) {
        next = c->next;
        http_conn_destroy(c);
    }
    /* Connected, but nothing was asked yet. */
    for (c = s->list[HTTP_HEAD].head; c != NULL; c = next) {
        next = c->next;
        if (c->in_pos == c->in_len && !c->readable)
            http_conn_destroy(c);
    }
}

static PyObject *
begin_shutdown_main(Goroutine *gp)
{
    http_server *s = gp->call.c.arg;
    begin_shutdown(s);
    Py_DECREF(s);
    Py_RETURN_NONE;
}

static PyObject *
server_begin_shutdown(http_server *s, PyObject *Py_UNUSED(ignored))
{
    s->closing = true;
    if (s->mp != NULL && s->mp != py_this_m()) {
        if (hand_over(s, begin_shutdown_main) < 0)
            return NULL;
    }
    else if (s->mp != NULL)
        begin_shutdown(s);
    Py_RETURN_NONE;
}

static void
abort_all(http_server *s)
{
    close_listeners(s);
    for (int state = 0; state < HTTP_NSTATES; state++) {
        http_conn *c, *next;
        for (c = s->list[state].head; c != NULL; c = next) {
            next = c->next;
            if (state == HTTP_ACTIVE)
                http_conn_abort(c);
            else
                http_conn_destroy(c);
        }
    }
    s->aborted = true;
    py_waitq_wake_all(&s->waiters, RT_WAKE_READY);
}

static PyObject *
abort_main(Goroutine *gp)
{
    http_server *s = gp->call.c.arg;
    abort_all(s);
    Py_DECREF(s);
    Py_RETURN_NONE;
}

static PyObject *
server_abort(http_server *s, PyObject *Py_UNUSED(ignored))
{
    s->closing = true;
    if (s->mp != NULL && s->mp != py_this_m()) {
        if (hand_over(s, abort_main) < 0)
            return NULL;
        Py_RETURN_FALSE;
    }
    if (s->mp != NULL)
        abort_all(s);
    s->aborted = true;
    Py_RETURN_TRUE;
}

static PyObject *
server_wait_closed(http_server *s, PyObject *timeout)
{
    int64_t deadline;
    if (py_deadline(timeout, &deadline) < 0)
        return NULL;
    Goroutine *gp = py_current("HTTPServer.wait_closed()");
    if (gp == NULL)
        return NULL;
    while ((s->nconns != 0 || s->nlisteners != 0) && !s->aborted) {
        rt_g_arm(&gp->g);
        py_waitq_push(&s->waiters, &gp->seat->waiter);
        uint32_t why = py_park(gp, PY_WAIT_IO, deadline);
        py_waitq_remove(&gp->seat->waiter);
        if (why == RT_WAKE_TIMEOUT)
            Py_RETURN_FALSE;
        if (why != RT_WAKE_READY)
            return NULL;
    }
    return PyBool_FromLong(s->nconns == 0 && s->nlisteners == 0);
}

static PyObject *
server_stats(http_server *s, PyObject *Py_UNUSED(ignored))
{
    uint32_t count[HTTP_NSTATES] = {0};
    for (int state = 0; state < HTTP_NSTATES; state++)
        for (http_conn *c = s->list[state].head; c != NULL; c = c->next)
            count[state]++;
    return Py_BuildValue("{sI sI sI sI sI sK sK}", "connections", s->nconns, "reading",
                         count[HTTP_HEAD], "idle", count[HTTP_IDLE], "active",
                         count[HTTP_ACTIVE], "closing", count[HTTP_DRAIN] + count[HTTP_LINGER],
                         "accepted", (unsigned long long)s->accepted, "requests",
                         (unsigned long long)s->requests);
}

static PyMethodDef methods[] = {
    {"listen", (PyCFunction)server_listen, METH_O,
     "listen($self, fd, /)\n--\n\nAccept connections of a non-blocking listening socket, and own it."},
    {"begin_shutdown", (PyCFunction)server_begin_shutdown, METH_NOARGS,
     "begin_shutdown($self, /)\n--\n\nStop accepting, close idle connections; never blocks."},
    {"abort", (PyCFunction)server_abort, METH_NOARGS,
     "abort($self, /)\n--\n\nClose everything; running handlers fail at their next I/O.\n\n"
     "False where the server's own thread will do it, and then end wait_closed()."},
    {"wait_closed", (PyCFunction)server_wait_closed, METH_O,
     "wait_closed($self, timeout, /)\n--\n\n"
     "True once all is closed, False after timeout seconds, or after abort() while\n"
     "handlers still run."},
    {"stats", (PyCFunction)server_stats, METH_NOARGS,
     "stats($self, /)\n--\n\nConnections by state, and totals, as a dict."},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_new, server_new},
    {Py_tp_dealloc, server_dealloc},
    {Py_tp_traverse, server_traverse},
    {Py_tp_clear, server_clear},
    {Py_tp_methods, methods},
    {Py_tp_doc, "The C part of runtime.http.Server."},
    {0, NULL},
};
static PyType_Spec spec = {
    "runtime._core.HTTPServer", sizeof(http_server), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};

static PyObject *
m_set_http_hooks(PyObject *Py_UNUSED(module), PyObject *args)
{
    http_hooks_t h;
    if (!PyArg_ParseTuple(args, "OOOOOOO:_set_http_hooks", &h.parse_query, &h.parse_form,
                          &h.load_json, &h.dump_json, &h.log_error, &h.http_error,
                          &h.body_too_large))
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); i++)
        Py_INCREF(PyTuple_GET_ITEM(args, i));
    http_hooks = h;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"_set_http_hooks", m_set_http_hooks, METH_VARARGS, NULL},
    {0},
};

int
http_server_init(PyObject *module)
{
    if (PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return py_add_type(module, &spec, &core->server_type, true);
}

int
py_http_init_types(PyObject *module)
{
    if (http_headers_init(module) < 0 || http_request_init(module) < 0
        || http_writer_init(module) < 0)
        return -1;
    return http_server_init(module);
}
