/* py_http_stream.c - connections whose bytes go through a Python stream object.
 *
 * A TLS connection, an end of a pipe, one that carries the PROXY protocol, the program's own:
 * whatever has read(n), write(data), close(), set_read_deadline(seconds) and
 * set_write_deadline(seconds) as runtime.net's connections have.  Nothing tells when such a
 * stream has bytes, so a goroutine belongs to it from accept to close, as in Go: it reads the
 * heads, runs the handlers, and sends, by the code that serves sockets.  What differs is how
 * bytes come and go, and that time-outs are deadlines of the stream.
 *
 *     conn = server.admit(stream)          counts it; waits at max_connections
 *     conn.spawn(fn, ...)                  starts its goroutine, on the P a socket would get
 *     conn.serve(remote_addr, tls)         in that goroutine, until it is closed
 *     conn.abandon()                       instead of that
 *
 * Such a connection is in no list of its shard, which only lends it scratch space and counters;
 * c->readable is always false, so that the code that must not park finds nothing to read.
 *
 * Ending.  Closing a stream may wait (TLS says goodbye), so the server leaves it to the
 * connection's goroutine where it can: a silent one, about which nobody need be told, is marked
 * `doomed` and woken by a deadline that has passed.  The order of steps makes that safe: its
 * goroutine sets its deadline, then looks at the mark, then reads; the server marks, then sets
 * the deadline.  The same holds for `leaving` and `aborted`, and for deadlines that a handler
 * changes while another goroutine reads or writes.
 *
 * A connection that a handler has hijacked is off the server's list; its goroutine finds out when
 * the handler has returned.
 */
#include "py_http_stream.h"
#include "py_wait.h"

#include <errno.h>

#define MAX_LINGER (1024 * 1024)        /* bytes discarded before giving up */

/* What Python has of a connection until it is over. */
typedef struct {
    PyObject_HEAD
    _Atomic(http_conn *) conn;  /* owned reference, or NULL */
} StreamConn;

/* ---- the server's side ---- */

void
http_streams_close(http_server *s, bool abort)
{
    if (!RT_LOAD(s->streamed) || http_server_is_parents(s))
        return;
    PyObject *exc = py_take_exception();
    http_conn *first = NULL, **last = &first;
    py_acquire(&s->lock);
    for (http_link *link = s->streams.next; link != &s->streams; link = link->next) {
        http_conn *c = RT_CONTAINER_OF(link, http_conn, link);
        http_stream *st = c->stream;
        bool settled = RT_LOAD(s->hasten) || http_now(c) - st->quiet_since >= HTTP_SETTLED;
        if (abort ? st->aborted : st->doomed || !st->quiet || !settled)
            continue;
        st->doomed = true;
        st->aborted = abort;
        http_count(&c->refs, 1);
        *last = c;
        last = abort ? &st->next_aborted : &st->next_doomed;
    }
    *last = NULL;
    py_release(&s->lock);
    for (http_conn *c = first, *next; c != NULL; c = next) {
        next = abort ? c->stream->next_aborted : c->stream->next_doomed;
        if (abort) {
            py_acquire(&c->lock);
            c->aborted = true;
            py_release(&c->lock);
        }
        py_acquire(&s->lock);
        PyObject *io = Py_XNewRef(c->stream->io);
        py_release(&s->lock);
        if (io != NULL && abort)
            http_stream_close_elsewhere(io);
        else if (io != NULL)
            http_stream_wake(io, true);
        Py_XDECREF(io);
        http_conn_unref(c);
    }
    if (exc != NULL)
        py_raise(exc);
}

/* ---- a connection's life ---- */

void
http_stream_context(http_stream *st)
{
    PyObject *context = st->context ? PyContext_Copy(st->context) : NULL;
    if (context == NULL)
        PyErr_Clear();
    if (context != NULL || st->context == NULL)
        Py_XDECREF(py_swap_context(py_tls_m->tstate, context));
}

static void
set_state(http_conn *c, int state)
{
    http_server *s = c->server;
    py_acquire(&s->lock);
    RT_COUNT(s->nstreams[c->state], -1);
    RT_COUNT(s->nstreams[state], 1);
    c->state = (uint8_t)state;
    py_release(&s->lock);
    if (RT_UNLIKELY(s->watch != NULL) && (state == HTTP_ACTIVE || state == HTTP_IDLE))
        http_watch_note(c, state == HTTP_ACTIVE ? HTTP_CONN_ACTIVE : HTTP_CONN_IDLE);
}

/* Nothing of a request has come.  False: the server waits for none. */
static bool
begin_quiet(http_conn *c)
{
    http_server *s = c->server;
    py_acquire(&s->lock);
    bool go_on = !RT_LOAD(s->hasten) && !c->stream->doomed;
    if (!c->stream->quiet)      /* else since it was admitted */
        c->stream->quiet_since = http_now(c);
    c->stream->quiet = go_on;
    py_release(&s->lock);
    return go_on;
}

/* Something has come, or the wait is over.  False: the server has closed it meanwhile. */
static bool
end_quiet(http_conn *c)
{
    http_server *s = c->server;
    py_acquire(&s->lock);
    bool go_on = !c->stream->doomed;
    c->stream->quiet = false;
    py_release(&s->lock);
    return go_on;
}

enum {
    OVER,                       /* an exception may be set */
    REFUSED,                    /* the response is in c->out */
    REQUEST                     /* in c->req */
};

/* Wait for a whole head.  `fresh`: the first one of the connection. */
static int
next_head(http_conn *c, bool fresh)
{
    const int64_t *timeouts = c->server->timeouts;
    http_stream *st = c->stream;
    bool begun = fresh, timed = false;  /* the time for a head runs; the deadline is set */
    for (;;) {
        uint32_t avail = c->in_len - c->in_pos;
        if (avail > c->in_seen) {
            if (!http_conn_parse(c))
                return c->broken ? OVER : REFUSED;
            if (c->req != NULL)
                return REQUEST;
            if (!begun)
                timed = false;
            begun = true;
        }
        if (avail == 0 && c->in != NULL) {
            http_block_unref(c->in);
            c->in = NULL;
            c->in_pos = c->in_len = c->in_seen = 0;
        }
        int state = begun ? HTTP_HEAD : HTTP_IDLE;
        if (c->state != state)
            set_state(c, state);
        if (!timed && http_stream_set_limit(st, true, timeouts[state]) < 0) {
            http_stream_error();
            return OVER;
        }
        timed = true;
        if (avail == 0 && !begin_quiet(c))
            return OVER;
        Py_ssize_t n = http_stream_must_go(c) ? -ECANCELED : http_stream_read(c, NULL, 0);
        if (avail == 0 && !end_quiet(c))
            return OVER;
        if (n == -ETIMEDOUT && avail != 0) {
            c->close_after = true;
            c->body_done = false;
            return http_simple_response(c, 408, "the request head did not arrive in time", "") < 0
                       ? OVER : REFUSED;
        }
        if (n <= 0)
            return OVER;
    }
}

/* Discard what the handler has left of the body.  False: that was too much, or not all. */
static bool
drain(http_conn *c)
{
    set_state(c, HTTP_DRAIN);
    if (http_stream_set_limit(c->stream, true, c->server->timeouts[HTTP_DRAIN]) < 0) {
        http_stream_error();
        return false;
    }
    for (;;) {
        int d = http_body_discard(c);
        if (d != 0)
            return d > 0;
        if (http_stream_must_go(c) || http_stream_read(c, NULL, 0) <= 0)
            return false;
    }
}

/* Our last response is sent, and the peer may still be sending: closing now could destroy the
   response on its way (RFC 9112 section 9.6). */
static void
linger(http_conn *c)
{
    http_stream *st = c->stream;
    set_state(c, HTTP_LINGER);
    if (http_stream_call(st, HTTP_STREAM_CLOSE_WRITE) < 0
        || http_stream_set_limit(st, true, c->server->timeouts[HTTP_LINGER]) < 0) {
        if (PyErr_ExceptionMatches(PyExc_Exception))
            PyErr_Clear();      /* it cannot */
        return;
    }
    for (Py_ssize_t left = MAX_LINGER, n; left > 0 && !http_stream_must_go(c); left -= n) {
        c->in_pos = c->in_len = 0;
        if ((n = http_stream_read(c, NULL, 0)) <= 0)
            return;
    }
}

/* Send what is in c->out, the last response.  False: it is broken. */
static bool
send_last(http_conn *c)
{
    py_acquire(&c->lock);
    c->pace = (http_pace){0};   /* that was for the request before */
    c->paced = false;
    int err = http_send(c, NULL, 0);
    py_release(&c->lock);
    if (err < 0 && PyErr_ExceptionMatches(PyExc_Exception))
        PyErr_Clear();
    return err == 0;
}

/* Serve until the end.  HTTP_FORKED, or 0, perhaps with an exception set. */
static int
serve(http_conn *c, Goroutine *gp, PyObject **fatal)
{
    for (bool fresh = true;; fresh = false) {
        int found = next_head(c, fresh);
        if (found == OVER)
            return 0;
        if (found == REQUEST) {
            set_state(c, HTTP_ACTIVE);
            int err = http_conn_serve(c, gp, fatal);
            c->in_seen = 0;
            if (err == HTTP_FORKED)
                return err;
            if (err < 0 || *fatal != NULL)
                return 0;
        }
        else if (!send_last(c))
            return 0;
        bool silent = c->in_pos == c->in_len && c->body_done;
        if (c->close_after) {
            if (!silent)
                linger(c);
            return 0;
        }
        if (!c->body_done && !drain(c)) {
            if (!PyErr_Occurred())
                linger(c);
            return 0;
        }
        if (c->in_pos != c->in_len && py_yield(gp) < 0)  /* a pipelining client */
            return 0;
        http_stream_context(c->stream);
    }
}

PyObject *
http_stream_take(http_conn *c)
{
    http_server *s = c->server;
    py_acquire(&s->lock);
    c->link.prev->next = c->link.next;
    c->link.next->prev = c->link.prev;
    RT_COUNT(s->nstreams[c->state], -1);
    PyObject *io = c->stream->io;
    c->stream->io = NULL;
    py_release(&s->lock);
    return io;
}

/* Take it off the server and let go of everything; its stream is closed, or nobody's. */
static void
discard(http_conn *c)
{
    PyObject *io = http_stream_take(c);
    http_block_unref(c->in);
    c->in = NULL;
    http_out_release(&c->out);
    PyObject *exc = py_take_exception();
    if (c->id != 0)
        http_watch_note(c, HTTP_CONN_CLOSED);
    Py_CLEAR(c->stream->context);
    Py_DECREF(io);
    http_conn_discard(c);
    if (exc != NULL)
        py_raise(exc);
}

/* Close the stream, whatever exception is set. */
static void
close_stream(http_conn *c)
{
    PyObject *exc = py_take_exception();
    if (http_stream_call(c->stream, HTTP_STREAM_CLOSE) < 0
        && (exc != NULL || PyErr_ExceptionMatches(PyExc_Exception)))
        PyErr_Clear();
    discard(c);
    if (exc != NULL)
        py_raise(exc);
}

/* A handler has taken the stream: let go of the rest. */
static void
forget(http_conn *c)
{
    PyObject *exc = py_take_exception();
    Py_CLEAR(c->stream->context);
    http_hijack_end(c);
    if (exc != NULL)
        py_raise(exc);
}

/* ---- goroutines ---- */

/* arg: a tuple (owned) of a callable and its arguments. */
static PyObject *
spawned_main(Goroutine *gp)
{
    PyObject *args = gp->call.c.arg;
    PyObject *rest = PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args));
    PyObject *fn = Py_NewRef(PyTuple_GET_ITEM(args, 0));
    Py_DECREF(args);
    PyObject *result = rest ? PyObject_Call(fn, rest, NULL) : NULL;
    Py_DECREF(fn);
    Py_XDECREF(rest);
    return result;
}

static void
spawned_cancel(Goroutine *gp)
{
    Py_DECREF((PyObject *)gp->call.c.arg);
}

int
http_spawn(py_m *mp, PyObject *args)
{
    if (PyTuple_GET_SIZE(args) == 0) {
        PyErr_SetString(PyExc_TypeError, "spawn() needs a callable");
        return -1;
    }
    if (mp == NULL) {
        PyObject **items = &PyTuple_GET_ITEM(args, 0);
        PyObject *gp = py_go(NULL, items, (size_t)PyTuple_GET_SIZE(args), NULL);
        Py_XDECREF(gp);
        return gp ? 0 : -1;
    }
    if (py_g_spawn_c(mp, spawned_main, spawned_cancel, Py_NewRef(args)) == 0)
        return 0;
    Py_DECREF(args);
    return -1;
}

/* ---- what Python sees ---- */

PyObject *
http_server_admit_stream(http_server *s, PyObject *io)
{
    if (http_server_is_parents(s)) {
        PyErr_SetString(PyExc_RuntimeError, "the server is that of the parent process");
        return NULL;
    }
    int room = http_server_admit(s);
    if (room <= 0)
        return room < 0 ? NULL : Py_NewRef(Py_None);
    http_conn *c = http_conn_new(s, -1, &(struct sockaddr){.sa_family = AF_UNSPEC});
    http_stream *st = c ? PyMem_Calloc(1, sizeof(*st)) : NULL;
    StreamConn *self = st ? PyObject_New(StreamConn, core->stream_type) : NULL;
    if (self == NULL) {
        if (c != NULL) {
            c->stream = st;
            HTTP_COUNT(accepted, 1);
            http_conn_discard(c);
        }
        else
            http_server_closed_one(s, http_count(&s->nconns, -1));
        return PyErr_NoMemory();
    }
    st->io = Py_NewRef(io);
    st->quiet = true;
    c->stream = st;
    st->quiet_since = http_now(c);
    self->conn = c;
    HTTP_COUNT(accepted, 1);
    c->writable = false;
    py_acquire(&s->lock);
    if (!RT_LOAD(s->streamed)) {
        s->forks = core->forks;
        RT_STORE(s->streamed, true);
    }
    st->doomed = RT_LOAD(s->hasten);
    c->link.prev = s->streams.prev;
    c->link.next = &s->streams;
    c->link.prev->next = s->streams.prev = &c->link;
    RT_COUNT(s->nstreams[HTTP_HEAD], 1);
    py_release(&s->lock);
    return (PyObject *)self;
}

/* The connection, which is now the caller's to end; NULL with an exception set. */
static http_conn *
take(StreamConn *self)
{
    http_conn *c = atomic_exchange(&self->conn, NULL);
    if (c == NULL)
        PyErr_SetString(PyExc_RuntimeError, "the connection is being served, or over");
    return c;
}

static PyObject *
stream_serve(StreamConn *self, PyObject *args)
{
    PyObject *addr, *tls, *fatal = NULL;
    if (!PyArg_ParseTuple(args, "UO:serve", &addr, &tls))
        return NULL;
    Goroutine *gp = py_current("HTTPStream.serve()");
    py_m *mp = py_this_m();
    if (gp == NULL)
        return NULL;
    if (mp == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "HTTPStream.serve() must be called by a goroutine");
        return NULL;
    }
    http_conn *c = take(self);
    if (c == NULL)
        return NULL;
    http_stream *st = c->stream;
    st->remote_addr = Py_NewRef(addr);
    st->tls = Py_NewRef(tls);
    PyThreadState *ts = mp->tstate;
    st->context = Py_XNewRef(ts->context);
    c->shard = http_shard_get(c->server, mp);
    if (c->shard == NULL)
        PyErr_NoMemory();
    else {
        http_shard_count(c->shard, 1);
        if (RT_UNLIKELY(c->server->watch != NULL))
            http_watch_note(c, HTTP_CONN_NEW);
        http_stream_context(st);
        if (serve(c, gp, &fatal) == HTTP_FORKED)
            return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
        http_shard_count(c->shard, -1);
    }
    if (fatal != NULL) {
        PyErr_Clear();
        py_raise(fatal);
    }
    (c->hijacked ? forget : close_stream)(c);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* On the shard that a socket would be given to. */
static PyObject *
stream_spawn(StreamConn *self, PyObject *args)
{
    http_conn *c = self->conn;
    if (c == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the connection is being served, or over");
        return NULL;
    }
    http_server *s = c->server;
    if (http_spawn(RT_LOAD(s->mp) ? http_shard_choose(s)->mp : NULL, args) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
stream_abandon(StreamConn *self, PyObject *Py_UNUSED(ignored))
{
    http_conn *c = take(self);
    if (c == NULL)
        return NULL;
    close_stream(c);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static void
stream_dealloc(StreamConn *self)
{
    PyTypeObject *type = Py_TYPE(self);
    http_conn *c = self->conn;
    if (c != NULL)
        discard(c);             /* its goroutine never ran */
    PyObject_Free(self);
    Py_DECREF(type);
}

PyObject *
http_server_parse_request(http_server *s, PyObject *args)
{
    PyObject *data, *addr, *tls;
    if (!PyArg_ParseTuple(args, "SUO:parse_request", &data, &addr, &tls))
        return NULL;
    const char *text = PyBytes_AS_STRING(data);
    Py_ssize_t len = PyBytes_GET_SIZE(data);
    if (len > 1 << 30) {
        PyErr_SetString(PyExc_ValueError, "the request is larger than a GiB");
        return NULL;
    }
    rt_http1_field *fields = PyMem_New(rt_http1_field, s->limits.max_fields);
    http_conn *c = PyMem_Calloc(1, sizeof(*c));
    http_stream *st = PyMem_Calloc(1, sizeof(*st));
    http_block *b = http_block_new((uint32_t)len);
    http_request *r = NULL;
    if (fields == NULL || c == NULL || st == NULL || b == NULL) {
        PyErr_NoMemory();
        goto out;
    }
    memcpy(b->data, text, (size_t)len);
    rt_http1_req head = {.fields = fields};
    int n = rt_http1_parse_head(b->data, (uint32_t)len, 0, &s->limits, &head);
    if (n <= 0) {
        PyErr_Format(PyExc_ValueError, "no HTTP request: %s",
                     n < 0 ? head.error : "its head does not end");
        goto out;
    }
    /* It belongs to the Request: nobody serves it, and c->req is no reference. */
    c->refs = 1;
    c->server = s;
    c->stream = st;
    st->server = Py_NewRef((PyObject *)s);
    st->remote_addr = Py_NewRef(addr);
    st->tls = Py_NewRef(tls);
    c->in = b;
    c->in_len = (uint32_t)len;
    r = http_request_new(c, &head);
    if (r != NULL) {
        c->req = r;
        c->in_pos = (uint32_t)n;
        c->chunked = head.chunked;
        c->body_done = !head.chunked && head.content_length <= 0;
        c->body_left = head.chunked ? s->max_body : head.content_length;
        if (head.chunked)
            rt_http1_chunked_init(&c->decoder);
        r->tracked = true;      /* its Body refers to it */
        PyObject_GC_Track(r);
    }
    st = NULL;
    http_conn_unref(c);
    c = NULL;

out:
    PyMem_Free(fields);
    PyMem_Free(st);
    PyMem_Free(c);
    http_block_unref(b);        /* the Request has its own reference */
    return (PyObject *)r;
}

static PyMethodDef methods[] = {
    {"serve", (PyCFunction)stream_serve, METH_VARARGS,
     "serve($self, remote_addr, tls, /)\n--\n\n"
     "Serve the connection in the calling goroutine, until it is closed."},
    {"spawn", (PyCFunction)stream_spawn, METH_VARARGS,
     "spawn($self, fn, /, *args)\n--\n\n"
     "Start a goroutine where the connection should be served; by that of HTTPServer.spawn()."},
    {"abandon", (PyCFunction)stream_abandon, METH_NOARGS,
     "abandon($self, /)\n--\n\nClose it instead of serving it."},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_doc, "A connection of an HTTPServer over a stream object, until it is over."},
    {0, NULL},
};
static PyType_Spec spec = {
    "runtime._core.HTTPStream", sizeof(StreamConn), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};

int
http_stream_init(PyObject *module)
{
    if (http_stream_io_init() < 0)
        return -1;
    return py_add_type(module, &spec, &core->stream_type, true);
}
