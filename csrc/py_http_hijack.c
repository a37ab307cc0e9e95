/* py_http_hijack.c - connections that handlers take over: upgrades, CONNECT (Go's Hijacker).
 *
 * The socket becomes a NetFD, and what was read beyond the head is put back there, so that
 * nothing is lost whoever reads.  The server forgets the connection at once: it is neither
 * counted nor closed nor waited for.  What remains is the C object, which the goroutine of
 * the handler frees when the handler has returned.
 *
 * Lists, timers and registration belong to the shard's M.  A handler that hijacks there, as
 * nearly all do, takes the socket itself.  On another thread it gets a duplicate: it cannot
 * wait for the shard's M, which may be waiting for that very thread.
 *
 * Of a stream the handler gets the object itself, wherever it runs.
 */
#include "py_http.h"
#include "py_netfd.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <unistd.h>

static struct {
    PyObject *conn_type;        /* (family, kind) -> type of net.Conn */
    PyObject *reader;           /* net.bufio.Reader */
} hooks;

typedef struct {
    int fd;                     /* owned, or -1 */
    PyObject *io;               /* owned: the object of a stream, or NULL */
    http_block *in;             /* owned reference, or NULL: unread input is */
    uint32_t pos, len;          /* in->data[pos, len) */
    http_server *server;        /* owned reference: c's own goes when the handler returns */
    uint32_t left;              /* its open connections */
} taken;

static int
refuse(const char *why)
{
    PyErr_SetString(PyExc_RuntimeError, why);
    return -1;
}

/* Send what is due before the handler may. */
static int
finish_http(http_writer *w, http_conn *c, Goroutine *gp, PyObject **drop)
{
    if (c->stream != NULL && http_stream_recall(c, gp) < 0)
        return -1;
    if (c->reading)
        return refuse("hijack(): a goroutine reads the body of the request");
    w->hijack = HTTP_TAKING;
    int r = 0;
    if (w->status != 0 || w->written != 0)
        r = http_writer_begin(w, NULL, 0, drop);
    if (r == 0)
        r = http_send(c, NULL, 0);
    if (r == 0 && (w->ended || c->leaving))
        r = refuse(HTTP_REQUEST_OVER);
    else if (r == 0 && c->reading)
        r = refuse("hijack(): a goroutine reads the body of the request");
    else if (r == 0 && c->sending)
        r = refuse("hijack(): a goroutine sends the response");
    else if (r == 0 && c->aborted) {
        PyErr_SetString(PyExc_ConnectionError,
                        "the server was closed while the request was running");
        r = -1;
    }
    if (r < 0)
        w->hijack = 0;
    return r;
}

/* With the lock held, which is let go of while earlier output is sent. */
static int
take_locked(http_writer *w, http_conn *c, Goroutine *gp, taken *t, PyObject **drop)
{
    if (finish_http(w, c, gp, drop) < 0)
        return -1;
    t->fd = c->pd.fd;
    t->io = NULL;
    if (c->stream != NULL) {
        c->hijacked = HTTP_TAKEN;
        t->io = http_stream_take(c);
    }
    else if (py_tls_m == c->shard->mp) {
        c->hijacked = HTTP_TAKEN;
        rt_pd_close(&c->pd);
        http_shard_remove(c);
    }
    else if ((t->fd = fcntl(t->fd, F_DUPFD_CLOEXEC, 3)) < 0) {
        w->hijack = 0;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    else
        c->hijacked = HTTP_COPIED;
    w->hijack = HTTP_TAKEN;
    w->ended = w->head_sent = true;
    c->close_after = true;
    t->in = c->in;
    t->pos = c->in_pos;
    t->len = c->in_len;
    c->in = NULL;
    c->in_pos = c->in_len = 0;
    t->server = (http_server *)Py_NewRef((PyObject *)c->server);
    t->left = http_count(&c->server->nconns, -1);
    return 0;
}

static PyObject *
peer_address(const http_conn *c)
{
    struct sockaddr_storage ss = {0};
    if (c->peer.family == AF_INET) {
        struct sockaddr_in *in4 = (struct sockaddr_in *)&ss;
        in4->sin_family = AF_INET;
        in4->sin_port = htons(c->peer.port);
        memcpy(&in4->sin_addr, c->peer.ip, 4);
        return netfd_address(&ss, sizeof(*in4));
    }
    if (c->peer.family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(c->peer.port);
        in6->sin6_scope_id = c->peer.scope;
        memcpy(&in6->sin6_addr, c->peer.ip, 16);
        return netfd_address(&ss, sizeof(*in6));
    }
    return Py_NewRef(Py_None);
}

static int
family_of(int fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    return getsockname(fd, (struct sockaddr *)&ss, &len) == 0 ? ss.ss_family : AF_UNSPEC;
}

/* The server's time-outs are not for who has a stream (stolen, and returned) now. */
static PyObject *
lift_limits(PyObject *io)
{
    static const char *const names[] = {"set_read_deadline", "set_write_deadline"};
    for (size_t i = 0; i < RT_ARRAY_LEN(names); i++) {
        PyObject *r = PyObject_CallMethod(io, names[i], "O", Py_None);
        if (r == NULL)
            PyErr_Clear();      /* it is closed: using it tells */
        Py_XDECREF(r);
    }
    return io;
}

/* A Conn for t->fd, which it owns from then on. */
static PyObject *
make_conn(const http_conn *c, taken *t)
{
    if (t->io != NULL)
        return lift_limits(Py_NewRef(t->io));
    PyObject *peer = peer_address(c);
    PyObject *type = peer ? PyObject_CallFunction(hooks.conn_type, "ii", family_of(t->fd),
                                                  SOCK_STREAM) : NULL;
    PyObject *conn = type ? PyObject_CallFunction(type, "iO", t->fd, peer) : NULL;
    if (conn != NULL)
        t->fd = -1;
    Py_XDECREF(type);
    Py_XDECREF(peer);
    return conn;
}

static int
put_back(PyObject *conn, const taken *t)
{
    if (t->in == NULL || t->pos == t->len)
        return 0;
    PyObject *data = PyBytes_FromStringAndSize(t->in->data + t->pos, t->len - t->pos);
    PyObject *r = data ? PyObject_CallMethod(conn, "unread", "O", data) : NULL;
    Py_XDECREF(data);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

static void
close_silently(PyObject *conn)
{
    PyObject *exc = py_take_exception();
    PyObject *r = PyObject_CallMethod(conn, "close", NULL);
    if (r == NULL)
        PyErr_Clear();
    Py_XDECREF(r);
    py_raise(exc);
}

PyObject *
http_writer_hijack(http_writer *w, PyObject *Py_UNUSED(ignored))
{
    Goroutine *gp = py_current("hijack()");
    http_conn *c = gp ? http_writer_enter(w) : NULL;
    if (c == NULL)
        return NULL;
    taken t;
    PyObject *drop = NULL;
    int r = take_locked(w, c, gp, &t, &drop);
    py_release(&c->lock);
    Py_XDECREF(drop);
    if (r < 0)
        return NULL;
    HTTP_COUNT(closed, 1);
    if (t.server->watch != NULL)
        http_watch_note(c, HTTP_CONN_HIJACKED);
    http_server_closed_one(t.server, t.left);
    Py_DECREF(t.server);

    PyObject *conn = make_conn(c, &t), *reader = NULL;
    if (conn != NULL && put_back(conn, &t) == 0)
        reader = PyObject_CallOneArg(hooks.reader, conn);
    if (conn != NULL && reader == NULL)
        close_silently(conn);
    PyObject *result = reader ? PyTuple_Pack(2, conn, reader) : NULL;
    if (reader != NULL && result == NULL)
        close_silently(conn);
    if (t.fd >= 0)
        close(t.fd);
    http_block_unref(t.in);
    Py_XDECREF(t.io);
    Py_XDECREF(conn);
    Py_XDECREF(reader);
    return result;
}

void
http_hijack_end(http_conn *c)
{
    if (c->hijacked == HTTP_COPIED) {
        int fd = c->pd.fd;
        http_shard_remove(c);
        rt_pd_close(&c->pd);
        close(fd);
    }
    http_block_unref(c->in);
    http_out_release(&c->out);
    http_server *s = c->server;
    http_conn_unref(c);
    Py_DECREF(s);
}

static PyObject *
m_set_hijack_hooks(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *conn_type, *reader;
    if (!PyArg_ParseTuple(args, "OO:_set_hijack_hooks", &conn_type, &reader))
        return NULL;
    Py_XSETREF(hooks.conn_type, Py_NewRef(conn_type));
    Py_XSETREF(hooks.reader, Py_NewRef(reader));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"_set_hijack_hooks", m_set_hijack_hooks, METH_VARARGS, NULL},
    {0},
};

int
http_hijack_init(PyObject *module)
{
    core->exc_hijacked = PyErr_NewExceptionWithDoc(
        "runtime.http.HijackedError",
        "The connection of this request was taken over by ResponseWriter.hijack().\n\n"
        "Go: http.ErrHijacked.",
        PyExc_RuntimeError, NULL);
    if (core->exc_hijacked == NULL
        || PyModule_AddObjectRef(module, "HijackedError", core->exc_hijacked) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
