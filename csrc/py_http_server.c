/* py_http_server.c - the server object; see py_http_server.h. */
#include "py_http_server.h"
#include "py_bubble.h"

http_hooks_t http_hooks;

void
http_log_error(http_conn *c, const char *message, PyObject *exc)
{
    PyObject *request = c->req ? (PyObject *)c->req : Py_None;
    PyObject *r = PyObject_CallFunction(http_hooks.log_error, "sOO", message, request, exc);
    if (r == NULL)
        PyErr_WriteUnraisable(http_hooks.log_error);
    Py_XDECREF(r);
}

/* ---- waiting, and asking other Ms ---- */

void
http_server_wake_waiters(http_server *s)
{
    py_waitq woken = {0};
    py_acquire(&s->lock);
    py_waitq_claim_all(&s->waiters, RT_WAKE_READY, &woken);
    py_release(&s->lock);
    py_ready_all(&woken);
}

uint32_t
http_server_wait_locked(http_server *s, Goroutine *gp, const bool *done, py_wait *wait)
{
    uint32_t why = RT_WAKE_READY;
    while (why == RT_WAKE_READY) {
        rt_g_arm(&gp->g);
        bool over = done ? *done : http_server_all_closed(s) || RT_LOAD(s->aborted);
        if (over && py_disarm(gp))
            break;
        if (!over)
            py_waitq_push(&s->waiters, &gp->seat->waiter);
        py_release(&s->lock);
        why = py_wait_park(gp, http_server_wait_reason(s), wait);
        py_acquire(&s->lock);
        py_waitq_remove(&gp->seat->waiter);
    }
    return why;
}

int
http_server_ask(http_server *s, py_m *mp, PyObject *(*entry)(Goroutine *), void *arg)
{
    Py_INCREF(s);
    if (py_g_spawn_c(mp, entry, py_g_run_at_once, arg) == 0)
        return 0;
    Py_DECREF(s);
    return -1;
}

/* ---- the object ---- */

int
http_seconds(PyObject *value, const char *name, int64_t *ns)
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
    http_stats_enter(s);
    s->handler = Py_NewRef(handler);
    s->limits = (rt_http1_limits){
        .max_target = max_target, .max_head = max_head, .max_fields = max_fields};
    int64_t *timeouts = s->timeouts;
    timeouts[HTTP_HEAD] = 10 * (int64_t)1000000000;
    timeouts[HTTP_IDLE] = 120 * (int64_t)1000000000;
    timeouts[HTTP_ACTIVE] = INT64_MAX;
    timeouts[HTTP_LINGER] = 2 * (int64_t)1000000000;
    s->read_timeout = s->write_timeout = 60 * (int64_t)1000000000;
    s->max_body = 64 << 20;
    s->max_conns = max_conns;
    s->body_timeout = INT64_MAX;
    s->recall.fire = http_shard_recall;
    s->give_up.fire = http_server_give_up;
    s->streams.next = s->streams.prev = &s->streams;
    s->bubbled = py_bubble_current() != NULL;
    s->forks = core->forks;
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
    if (http_seconds(head, "read_header_timeout", &timeouts[HTTP_HEAD]) < 0
        || http_seconds(idle, "idle_timeout", &timeouts[HTTP_IDLE]) < 0
        || http_seconds(rd, "read_timeout", &s->read_timeout) < 0
        || http_seconds(wr, "write_timeout", &s->write_timeout) < 0)
        goto fail;
    timeouts[HTTP_DRAIN] = s->read_timeout;
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
    Py_VISIT(s->contexts);
    return http_watch_traverse(s->watch, visit, arg);
}

static int
server_clear(http_server *s)
{
    Py_CLEAR(s->handler);
    Py_CLEAR(s->contexts);
    return 0;
}

static void
server_dealloc(http_server *s)
{
    PyTypeObject *type = Py_TYPE(s);
    PyObject_GC_UnTrack(s);
    http_stats_leave(s);
    /* Listeners, connections and timers hold references: there are none. */
    for (uint32_t id = 0; id <= RT_SPARE_P; id++)
        http_shard_free(RT_LOAD(s->shards[id]));
    server_clear(s);
    http_watch_free(s->watch);
    type->tp_free(s);
    Py_DECREF(type);
}

static PyObject *
server_set_contexts(http_server *s, PyObject *contexts)
{
    Py_XSETREF(s->contexts, Py_NewRef(contexts));
    Py_RETURN_NONE;
}

static PyObject *
server_stats(http_server *s, PyObject *Py_UNUSED(ignored))
{
    uint32_t count[HTTP_NSTATES] = {0};
    uint64_t requests = 0;
    for (uint32_t id = 0; id <= RT_SPARE_P; id++) {
        http_shard *sh = atomic_load_explicit(&s->shards[id], memory_order_acquire);
        if (sh != NULL)
            requests += RT_LOAD(sh->requests);
    }
    http_stats_count_states(s, count);
    return Py_BuildValue("{sI sI sI sI sI sI sK sK}", "connections", RT_LOAD(s->nconns), "reading",
                         count[HTTP_HEAD], "idle", count[HTTP_IDLE], "active",
                         count[HTTP_ACTIVE], "closing", count[HTTP_DRAIN] + count[HTTP_LINGER],
                         "waiting", RT_LOAD(s->gate.waiting),
                         "accepted", (unsigned long long)RT_LOAD(s->accepted), "requests",
                         (unsigned long long)requests);
}

static PyMethodDef methods[] = {
    {"listen", (PyCFunction)http_server_listen, METH_O,
     "listen($self, fd, /)\n--\n\n"
     "Accept connections of a non-blocking listening socket.\n\n"
     "The server owns it, and has closed it where this fails.  All listeners belong to the\n"
     "thread that came first; if that runs no goroutines, to one of the runtime."},
    {"begin_shutdown", (PyCFunction)http_server_begin_shutdown, METH_NOARGS,
     "begin_shutdown($self, /)\n--\n\nStop accepting, close idle connections; never blocks."},
    {"close_idle", (PyCFunction)http_server_close_idle, METH_NOARGS,
     "close_idle($self, /)\n--\n\n"
     "After begin_shutdown(), which leaves connections that have just become idle, to close\n"
     "those, too."},
    {"retire", (PyCFunction)http_server_retire, METH_NOARGS,
     "retire($self, /)\n--\n\nSay Connection: close in each response from now on."},
    {"abort", (PyCFunction)http_server_abort, METH_NOARGS,
     "abort($self, /)\n--\n\nClose everything; running handlers fail at their next I/O.\n\n"
     "False where threads of the server will do it, and then end wait_closed()."},
    {"wait_closed", (PyCFunction)(void (*)(void))http_server_wait_closed,
     METH_FASTCALL | METH_KEYWORDS,
     "wait_closed($self, timeout=None, *, ctx=None)\n--\n\n"
     "True once all is closed, False after timeout seconds, or after abort() while\n"
     "handlers still run."},
    {"set_limits", (PyCFunction)(void (*)(void))http_server_set_limits,
     METH_VARARGS | METH_KEYWORDS,
     "set_limits($self, /, **limits)\n--\n\nSet more limits, before it serves."},
    {"set_watch", (PyCFunction)http_server_set_watch, METH_O,
     "set_watch($self, hook, /)\n--\n\n"
     "Call hook(id, what, remote_addr or None) as connections change, before it serves."},
    {"set_contexts", (PyCFunction)server_set_contexts, METH_O,
     "set_contexts($self, contexts, /)\n--\n\n"
     "What contexts of requests are made of, before it serves."},
    {"attach", (PyCFunction)http_server_attach, METH_NOARGS,
     "attach($self, /)\n--\n\n"
     "Let the server belong to a thread, as listen() does; to nothing in a bubble."},
    {"spawn", (PyCFunction)http_server_spawn, METH_VARARGS,
     "spawn($self, fn, /, *args)\n--\n\n"
     "Start a goroutine where the server belongs to."},
    {"admit", (PyCFunction)http_server_admit_stream, METH_O,
     "admit($self, conn, /)\n--\n\n"
     "Wait until there is room for one more connection and make it of a stream object.\n\n"
     "None: the server is closing."},
    {"parse_request", (PyCFunction)http_server_parse_request, METH_VARARGS,
     "parse_request($self, data, remote_addr, tls, /)\n--\n\n"
     "The Request that these bytes, head and body, are.  Raises ValueError."},
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
    if (!PyArg_ParseTuple(args, "OOOOOOOOO:_set_http_hooks", &h.parse_query, &h.make_forms,
                          &h.load_json, &h.dump_json, &h.log_error, &h.http_error,
                          &h.body_too_large, &h.parse_cookies, &h.parse_basic))
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
    if (http_context_init(module) < 0 || http_headers_init(module) < 0
        || http_request_init(module) < 0 || http_body_init(module) < 0
        || http_writer_init(module) < 0 || http_head_init(module) < 0
        || http_hijack_init(module) < 0 || http_stream_init(module) < 0
        || http_mux_init(module) < 0 || http_file_init(module) < 0
        || http_ratelimit_init(module) < 0 || http_trace_init(module) < 0
        || http_log_init(module) < 0 || http_etag_init(module) < 0
        || http_forwarded_init(module) < 0 || http_stats_init(module) < 0)
        return -1;
    return http_server_init(module);
}
