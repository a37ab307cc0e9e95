/* py_netfd.c - NetFD: a non-blocking descriptor that goroutines wait on.
 *
 * A system call is tried first; only when it would block does the goroutine park
 * (py_netwait.c).  Non-blocking calls are made attached to the interpreter, with the GIL
 * held where there is one.
 */
#include "py_netfd.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <structmember.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_READ 65536
#define SMALL_READ 256          /* bytes; blocks of that size cost little */
#define BULK_READ 8192

/* ---- reading ---- */

static ssize_t
sys_read(const NetFD *self, int fd, char *buf, size_t n)
{
    for (;;) {
        ssize_t got = RT_LIKELY(self->socket) ? recv(fd, buf, n, 0) : read(fd, buf, n);
        if (RT_LIKELY(got >= 0))
            return got;
        if (errno != EINTR)
            return -errno;
    }
}

RT_NOINLINE Py_ssize_t
netfd_take_rest(NetFD *self, char *buf, Py_ssize_t n)
{
    py_acquire(&self->pd->lock);
    PyObject *rest = self->rest;
    Py_ssize_t at = self->rest_at, left = rest ? PyBytes_GET_SIZE(rest) - at : 0;
    if (n >= left) {
        n = left;
        __atomic_store_n(&self->rest, NULL, __ATOMIC_RELAXED);     /* now ours */
    }
    else {
        self->rest_at += n;
        Py_INCREF(rest);
    }
    py_release(&self->pd->lock);
    if (rest != NULL)
        memcpy(buf, PyBytes_AS_STRING(rest) + at, (size_t)n);
    Py_XDECREF(rest);
    return n;
}

/* Read at most n > 0 bytes without waiting, with the turn: their number, 0 at the
   end, -1 with an exception set, -2 if that would block. */
static inline Py_ssize_t
read_now(NetFD *self, char *buf, Py_ssize_t n, const char *what)
{
    py_pd *pd = self->pd;
    if (RT_UNLIKELY(netfd_has_rest(self))) {
        Py_ssize_t got = netfd_take_rest(self, buf, n);
        if (got > 0)
            return got;
    }
    if (RT_LOAD(pd->rd.quiet))
        return -2;
    int fd = netfd_begin(pd, &pd->rd);
    if (RT_UNLIKELY(fd < 0))
        return netfd_raise_closed(what);
    ssize_t got = sys_read(self, fd, buf, (size_t)n);
    if (RT_UNLIKELY(got < 0)) {
        netfd_end(pd, &pd->rd, netfd_would_block(got));
        return netfd_would_block(got) ? -2 : netfd_raise_errno((int)-got, what);
    }
    netfd_end(pd, &pd->rd, got < n && got > 0 && RT_LOAD(pd->drains));
    return got;
}

/* Where the M that calls reads to, DEFAULT_READ bytes; NULL: there is none. */
static inline char *
read_buffer(void)
{
    py_m *mp = py_tls_m;
    if (RT_UNLIKELY(mp == NULL))
        return NULL;
    if (RT_UNLIKELY(mp->read_buffer == NULL))
        mp->read_buffer = PyMem_RawMalloc(DEFAULT_READ);
    return mp->read_buffer;
}

/* The bytes of one read without waiting; NULL without an exception: that would
   block.  No buffer is kept while waiting, so that an idle reader costs no memory.  Most
   reads bring less than there is room for: copied from the M's buffer that costs less than
   a large block that is cut down.  Not so for those who transfer much. */
static PyObject *
read_bytes_now(NetFD *self, Py_ssize_t n)
{
    if (RT_LOAD(self->pd->rd.quiet) && !netfd_has_rest(self))
        return NULL;
    char *buffer = n > SMALL_READ && n <= DEFAULT_READ && !self->bulk ? read_buffer() : NULL;
    if (buffer != NULL) {
        Py_ssize_t got = read_now(self, buffer, n, "read");
        self->bulk = got > BULK_READ;
        return got < 0 ? NULL : PyBytes_FromStringAndSize(buffer, got);
    }
    PyObject *data = PyBytes_FromStringAndSize(NULL, n);
    if (data == NULL)
        return NULL;
    Py_ssize_t got = read_now(self, PyBytes_AS_STRING(data), n, "read");
    self->bulk = got > BULK_READ;
    if (RT_UNLIKELY(got < 0))
        Py_CLEAR(data);
    else if (got != n)
        _PyBytes_Resize(&data, got);
    return data;
}

static PyObject *
netfd_read(NetFD *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t n = DEFAULT_READ;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: read(n=65536)");
        return NULL;
    }
    if (nargs == 1) {
        n = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
        if (n == -1 && PyErr_Occurred())
            return NULL;
        if (n < 0) {
            PyErr_Format(PyExc_ValueError, "read(n): n must be 0 or more, not %zd", n);
            return NULL;
        }
    }
    py_pd *pd = self->pd;
    if (netfd_enter(pd, &pd->rd, "read") < 0)
        return NULL;
    PyObject *data;
    if (n == 0)
        data = PyBytes_FromStringAndSize(NULL, 0);
    else
        do
            data = read_bytes_now(self, n);
        while (data == NULL && !PyErr_Occurred() && netfd_wait_edge(pd, &pd->rd, "read") == 0);
    netfd_leave(pd, &pd->rd);
    return data;
}

static PyObject *
netfd_read_into(NetFD *self, PyObject *buffer)
{
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return NULL;
    py_pd *pd = self->pd;
    Py_ssize_t got = -1;
    if (netfd_enter(pd, &pd->rd, "read_into") == 0) {
        do
            got = view.len ? read_now(self, view.buf, view.len, "read_into") : 0;
        while (got == -2 && netfd_wait_edge(pd, &pd->rd, "read_into") == 0);
        netfd_leave(pd, &pd->rd);
    }
    PyBuffer_Release(&view);
    return got < 0 ? NULL : PyLong_FromSsize_t(got);
}

static PyObject *
netfd_unread(NetFD *self, PyObject *data)
{
    if (!PyBytes_Check(data)) {
        PyErr_Format(PyExc_TypeError, "unread() needs bytes, not %.200s", Py_TYPE(data)->tp_name);
        return NULL;
    }
    if (PyBytes_GET_SIZE(data) == 0)
        Py_RETURN_NONE;
    for (;;) {                  /* until no reader takes something meanwhile */
        py_acquire(&self->pd->lock);
        PyObject *old = Py_XNewRef(self->rest);
        Py_ssize_t at = self->rest_at;
        py_release(&self->pd->lock);
        PyObject *all = Py_NewRef(data);
        if (old != NULL)
            PyBytes_ConcatAndDel(&all, PyBytes_FromStringAndSize(PyBytes_AS_STRING(old) + at,
                                                                 PyBytes_GET_SIZE(old) - at));
        if (all == NULL) {
            Py_DECREF(old);
            return NULL;
        }
        py_acquire(&self->pd->lock);
        bool same = self->rest == old && (old == NULL || self->rest_at == at);
        PyObject *drop = same ? old : all;
        if (same) {
            __atomic_store_n(&self->rest, all, __ATOMIC_RELAXED);
            self->rest_at = 0;
        }
        py_release(&self->pd->lock);
        Py_XDECREF(drop);
        Py_XDECREF(old);
        if (same)
            Py_RETURN_NONE;
    }
}

/* ---- writing ---- */

static ssize_t
sys_write(const NetFD *self, int fd, const char *p, size_t n)
{
    for (;;) {
        ssize_t sent = RT_LIKELY(self->socket) ? send(fd, p, n, MSG_NOSIGNAL) : write(fd, p, n);
        if (RT_LIKELY(sent >= 0))
            return sent;
        if (errno != EINTR)
            return -errno;
    }
}

static inline int
write_turn(NetFD *self, const char *p, Py_ssize_t n, const char *what)
{
    py_pd *pd = self->pd;
    if (n == 0 && self->stream)         /* but an empty message is one */
        return 0;
    for (;;) {
        int fd = netfd_begin(pd, &pd->wr);
        if (RT_UNLIKELY(fd < 0))
            return netfd_raise_closed(what);
        ssize_t sent = sys_write(self, fd, p, (size_t)n);
        netfd_end(pd, &pd->wr, netfd_would_block(sent));
        if (RT_LIKELY(sent == n))
            return 0;
        if (sent >= 0) {
            p += sent;
            n -= sent;
        }
        else if (!netfd_would_block(sent))
            return netfd_raise_errno((int)-sent, what);
        else if (netfd_wait_edge(pd, &pd->wr, what) < 0)
            return -1;
    }
}

int
netfd_write_turn(NetFD *self, const char *p, Py_ssize_t n, const char *what)
{
    return write_turn(self, p, n, what);
}

/* Write n bytes, all of them unless an exception is set. */
static int
write_all(NetFD *self, const char *p, Py_ssize_t n)
{
    py_pd *pd = self->pd;
    if (netfd_enter(pd, &pd->wr, "write") < 0)
        return -1;
    int r = write_turn(self, p, n, "write");
    netfd_leave(pd, &pd->wr);
    return r;
}

/* Not in netfd_write(): the buffer would be on the stack of every parked writer. */
static RT_NOINLINE PyObject *
write_buffer(NetFD *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t n = view.len;
    int r = write_all(self, view.buf, n);
    PyBuffer_Release(&view);
    return r < 0 ? NULL : PyLong_FromSsize_t(n);
}

static PyObject *
netfd_write(NetFD *self, PyObject *data)
{
    if (RT_UNLIKELY(!PyBytes_CheckExact(data)))
        return PyList_Check(data) || PyTuple_Check(data) ? netfd_write_buffers(self, data)
                                                         : write_buffer(self, data);
    if (write_all(self, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) < 0)
        return NULL;
    return PyLong_FromSsize_t(PyBytes_GET_SIZE(data));
}

/* ---- accepting ---- */

NetFD *
netfd_alloc(PyTypeObject *type, int fd)
{
    py_pd *pd = netfd_new_pd();
    if (pd == NULL)
        return NULL;
    NetFD *self = (NetFD *)type->tp_alloc(type, 0);
    if (self == NULL) {
        netfd_free_pd(pd);
        return NULL;
    }
    RT_STORE(pd->fd, fd);
    self->pd = pd;
    self->peer = Py_NewRef(Py_None);
    return self;
}

int
netfd_sys_accept(int fd, struct sockaddr *sa, socklen_t *len)
{
#if defined(__linux__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__)
    int conn = accept4(fd, sa, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return conn >= 0 ? conn : -errno;
#else
    int conn = accept(fd, sa, len);
    if (conn < 0)
        return -errno;
    if (fcntl(conn, F_SETFD, FD_CLOEXEC) < 0 || fcntl(conn, F_SETFL, O_NONBLOCK) < 0) {
        int err = errno;
        close(conn);
        return -err;
    }
    return conn;
#endif
}

/* A connection of the given type; NULL without an exception: that would block. */
static RT_NOINLINE PyObject *
accept_now(NetFD *self, PyTypeObject *type)
{
    struct sockaddr_storage ss = {0};
    socklen_t len;
    int fd, listener = netfd_begin(self->pd, &self->pd->rd);
    if (listener < 0) {
        netfd_raise_closed("accept");
        return NULL;
    }
    do {
        len = sizeof(ss);
        fd = netfd_sys_accept(listener, (struct sockaddr *)&ss, &len);
    } while (fd == -EINTR || netfd_lost_before_accept(-fd));
    netfd_end(self->pd, &self->pd->rd, netfd_would_block(fd));
    if (fd < 0) {
        if (!netfd_would_block(fd))
            netfd_raise_errno(-fd, "accept");
        return NULL;
    }
    NetFD *conn = netfd_alloc(type, fd);
    if (conn == NULL) {
        close(fd);
        return NULL;
    }
    conn->socket = true;
    conn->stream = self->stream;
    conn->tcp = self->tcp;
    conn->family = self->family;
    RT_STORE(conn->pd->drains, self->tcp);
    Py_SETREF(conn->peer, netfd_address(&ss, len));
    if (conn->peer == NULL)
        Py_CLEAR(conn);
    return (PyObject *)conn;
}

static PyObject *
accept_for(NetFD *self, PyTypeObject *type, py_wait *limits)
{
    py_pd *pd = self->pd;
    if (netfd_enter_for(pd, &pd->rd, "accept", limits) < 0)
        return NULL;
    PyObject *conn;
    do
        conn = accept_now(self, type);
    while (conn == NULL && !PyErr_Occurred()
           && netfd_wait_edge_for(pd, &pd->rd, "accept", limits) == 0);
    netfd_leave(pd, &pd->rd);
    return conn;
}

static PyObject *
netfd_accept(NetFD *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char usage[] = "accept(type=NetFD, " PY_LIMITS_USAGE ")";
    PyTypeObject *type = core->netfd_type;
    py_limits limits;
    if (py_limits_parse(&limits, usage, nargs > 0, args, nargs, kwnames) < 0)
        return NULL;
    if (nargs > 0) {
        if (!PyType_Check(args[0]) || !PyType_IsSubtype((PyTypeObject *)args[0], type)) {
            PyErr_Format(PyExc_TypeError, "wrong arguments: %s", usage);
            return NULL;
        }
        type = (PyTypeObject *)args[0];
    }
    py_wait wait;
    if (py_wait_begin_io(&wait, &limits) < 0)
        return NULL;
    PyObject *conn = accept_for(self, type, &wait);
    py_wait_end(&wait);
    return conn;
}

/* ---- deadlines ---- */

static PyObject *
set_deadlines(NetFD *self, PyObject *seconds, bool rd, bool wr)
{
    int64_t deadline;
    if (py_io_deadline(seconds, &deadline) < 0
        || netfd_set_deadlines(self->pd, rd, wr, deadline) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
netfd_set_deadline(NetFD *self, PyObject *seconds)
{
    return set_deadlines(self, seconds, true, true);
}

static PyObject *
netfd_set_read_deadline(NetFD *self, PyObject *seconds)
{
    return set_deadlines(self, seconds, true, false);
}

static PyObject *
netfd_set_write_deadline(NetFD *self, PyObject *seconds)
{
    return set_deadlines(self, seconds, false, true);
}

/* ---- life ---- */

static void
drop_rest(NetFD *self)
{
    py_acquire(&self->pd->lock);
    PyObject *rest = self->rest;
    __atomic_store_n(&self->rest, NULL, __ATOMIC_RELAXED);
    py_release(&self->pd->lock);
    Py_XDECREF(rest);
}

static PyObject *
netfd_close(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    int fd = netfd_give_up_fd(self->pd);
    drop_rest(self);
    /* The descriptor is gone whatever close() says; the last two are no failures. */
    if (fd >= 0 && close(fd) < 0 && errno != EINTR && errno != ECONNRESET) {
        netfd_raise_errno(errno, "close");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
netfd_detach(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    int fd = netfd_give_up_fd(self->pd);
    if (fd < 0) {
        netfd_raise_closed("detach");
        return NULL;
    }
    return PyLong_FromLong(fd);
}

static PyObject *
netfd_fileno(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    int fd = RT_LOAD(self->pd->fd);
    if (fd < 0) {
        netfd_raise_closed("fileno");
        return NULL;
    }
    return PyLong_FromLong(fd);
}

/* Reads and writes of files never wait; they block the thread.  True with an exception set. */
static bool
refuse_file(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0
        || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISBLK(st.st_mode)))
        return false;
    PyObject *text = PyUnicode_FromFormat("NetFD: descriptor %d is a file, which cannot be waited "
                                          "for: use runtime.blocking() to read it", fd);
    PyObject *args = text ? Py_BuildValue("(iO)", EPERM, text) : NULL;
    if (args != NULL)
        PyErr_SetObject(PyExc_PermissionError, args);
    Py_XDECREF(args);
    Py_XDECREF(text);
    return true;
}

static PyObject *
netfd_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "peer", NULL};
    int fd;
    PyObject *peer = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|O:NetFD", names, &fd, &peer))
        return NULL;
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    bool socket = getsockname(fd, (struct sockaddr *)&ss, &len) == 0;
    int flags = fcntl(fd, F_GETFL), kind = SOCK_STREAM;
    if (flags < 0 || (!socket && refuse_file(fd)))
        return flags < 0 ? (netfd_raise_errno(errno, "NetFD"), NULL) : NULL;
    if (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        netfd_raise_errno(errno, "NetFD");
        return NULL;
    }
    NetFD *self = netfd_alloc(type, fd);
    if (self == NULL)
        return NULL;
    self->socket = socket;
    if (socket) {
        len = sizeof(kind);
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &len);
        self->family = ss.ss_family;
    }
    self->stream = kind == SOCK_STREAM;
    self->tcp = self->stream && (self->family == AF_INET || self->family == AF_INET6);
    RT_STORE(self->pd->drains, self->tcp);
    len = sizeof(ss);
    if (peer != Py_None)
        Py_SETREF(self->peer, Py_NewRef(peer));
    else if (self->socket && getpeername(fd, (struct sockaddr *)&ss, &len) == 0)
        Py_SETREF(self->peer, netfd_address(&ss, len));
    if (self->peer == NULL) {
        RT_STORE(self->pd->fd, -1);     /* still the caller's */
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void
netfd_finalize(PyObject *op)
{
    NetFD *self = (NetFD *)op;
    if (RT_LOAD(self->pd->fd) < 0)
        return;
    PyObject *saved = py_take_exception();
    if (PyErr_ResourceWarning(op, 1, "unclosed %R", op) < 0) {
        if (PyErr_ExceptionMatches(PyExc_Warning))
            PyErr_WriteUnraisable(op);
        else
            PyErr_Clear();
    }
    int fd = netfd_give_up_fd(self->pd);
    if (fd >= 0)
        close(fd);
    if (saved != NULL)
        py_raise(saved);
}

static void
netfd_dealloc(NetFD *self)
{
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0)
        return;
    PyTypeObject *type = Py_TYPE(self);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    netfd_free_pd(self->pd);
    Py_XDECREF(self->rest);
    Py_XDECREF(self->peer);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
netfd_repr(NetFD *self)
{
    const char *name = Py_TYPE(self)->tp_name, *dot = strrchr(name, '.');
    name = dot ? dot + 1 : name;
    int fd = RT_LOAD(self->pd->fd);
    if (fd < 0)
        return PyUnicode_FromFormat("<%s closed>", name);
    return PyUnicode_FromFormat("<%s fd=%d>", name, fd);
}

static PyObject *
netfd_get_closed(NetFD *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(RT_LOAD(self->pd->fd) < 0);
}

#define FAST(fn) (PyCFunction)(void (*)(void))fn, METH_FASTCALL
#define FASTKW(fn) (PyCFunction)(void (*)(void))fn, METH_FASTCALL | METH_KEYWORDS

static PyMethodDef netfd_methods[] = {
    {"read", FAST(netfd_read),
     "read($self, n=65536, /)\n--\n\n"
     "Read at least 1 and at most n bytes, waiting until there are some; b\"\" at the end.\n\n"
     "Raises TimeoutError once the read deadline has passed, ClosedError when the\n"
     "connection is closed here (also while waiting), ConnectionResetError and other\n"
     "OSErrors for what happens on the network.  Several readers take turns.\n\n"
     "Go: net.Conn.Read, with b\"\" in place of io.EOF."},
    {"read_into", (PyCFunction)netfd_read_into, METH_O,
     "read_into($self, buffer, /)\n--\n\n"
     "As read(), into a writable buffer; returns the number of bytes, 0 at the end.\n\n"
     "Go: net.Conn.Read."},
    {"unread", (PyCFunction)netfd_unread, METH_O,
     "unread($self, data, /)\n--\n\n"
     "Put bytes back: they are what the next reads return."},
    {"write", (PyCFunction)netfd_write, METH_O,
     "write($self, data, /)\n--\n\n"
     "Write all of data, waiting while the peer does not keep up; returns the number of\n"
     "bytes.  data is bytes or another buffer, or a list or tuple of such, which are written\n"
     "one after another without being joined.\n\n"
     "Writes of several goroutines are never interleaved.  Raises TimeoutError once the\n"
     "write deadline has passed, ClosedError when the connection is closed here,\n"
     "BrokenPipeError and other OSErrors; then part of data may have been sent.\n\n"
     "Go: net.Conn.Write."},
    {"accept", FASTKW(netfd_accept),
     "accept($self, type=NetFD, /, timeout=None, *, ctx=None)\n--\n\n"
     "Wait for a connection and return it as an object of that type (NetFD or a subclass,\n"
     "made without calling __init__).\n\n"
     "Raises TimeoutError after timeout seconds or once the read deadline has passed, the\n"
     "error of the context ctx, ClosedError, or OSError, for instance with EMFILE when the\n"
     "process has too many open files."},
    {"new_socket", (PyCFunction)netfd_new_socket, METH_VARARGS | METH_CLASS,
     "new_socket($type, family, kind, peer, /)\n--\n\n"
     "An object of this type with a new socket (socket.AF_* and SOCK_*), for connect(); peer is\n"
     "the address that it is to be connected to, in the form of the socket module, with a literal\n"
     "host."},
    {"bind", (PyCFunction)netfd_bind, METH_O,
     "bind($self, address, /)\n--\n\n"
     "Give the socket a local address, in the form of the socket module, with a literal host.\n"
     "Raises ValueError for what is no such address, ClosedError, and OSErrors."},
    {"connect", FASTKW(netfd_connect),
     "connect($self, timeout=None, *, ctx=None)\n--\n\n"
     "Connect to peer, and wait until that has succeeded.\n\n"
     "Raises ValueError if peer is no such address, and what wait_connected() raises."},
    {"wait_connected", FASTKW(netfd_wait_connected),
     "wait_connected($self, timeout=None, *, ctx=None)\n--\n\n"
     "After a connect() that is in progress: wait until it has succeeded.\n\n"
     "Raises what it failed with, TimeoutError after timeout seconds or once the write\n"
     "deadline has passed, or the error of the context ctx."},
    {"set_deadline", (PyCFunction)netfd_set_deadline, METH_O,
     "set_deadline($self, seconds, /)\n--\n\n"
     "Let reads and writes fail with TimeoutError from so many seconds from now on, those\n"
     "that wait already included; None: never.\n\n"
     "It holds until it is set again: a limit for each read needs one call each.  With 0\n"
     "or less everything fails at once.\n\n"
     "Go: net.Conn.SetDeadline, which takes a point in time instead."},
    {"set_read_deadline", (PyCFunction)netfd_set_read_deadline, METH_O,
     "set_read_deadline($self, seconds, /)\n--\n\nset_deadline() for reads only."},
    {"set_write_deadline", (PyCFunction)netfd_set_write_deadline, METH_O,
     "set_write_deadline($self, seconds, /)\n--\n\nset_deadline() for writes only."},
    {"close", (PyCFunction)netfd_close, METH_NOARGS,
     "close($self)\n--\n\n"
     "Close; whoever waits in a read or write gets ClosedError.  Twice is harmless.\n\n"
     "Go: net.Conn.Close."},
    {"detach", (PyCFunction)netfd_detach, METH_NOARGS,
     "detach($self)\n--\n\n"
     "Give the (non-blocking) descriptor away: return it, and be closed without closing it."},
    {"fileno", (PyCFunction)netfd_fileno, METH_NOARGS,
     "fileno($self)\n--\n\nThe descriptor; it still belongs to this object.  Raises ClosedError."},
    {"recv_from", FAST(netfd_recv_from),
     "recv_from($self, n=65536, /)\n--\n\n"
     "Receive a datagram: (bytes, address of the sender in the form of the socket module, or\n"
     "None).  What is longer than n bytes is cut.  Raises what read() raises.\n\n"
     "Go: net.PacketConn.ReadFrom."},
    {"recv_from_into", (PyCFunction)netfd_recv_from_into, METH_O,
     "recv_from_into($self, buffer, /)\n--\n\n"
     "As recv_from(), into a writable buffer: (number of bytes, address)."},
    {"send_to", FAST(netfd_send_to),
     "send_to($self, data, address, /)\n--\n\n"
     "Send data as one datagram to an address in the form of the socket module, with a\n"
     "literal host; None: to whom the socket is connected to.  Returns the number of bytes.\n"
     "Raises ValueError for what is no such address, and what write() raises.\n\n"
     "Go: net.PacketConn.WriteTo."},
    {"recv_fds", (PyCFunction)netfd_recv_fds, METH_VARARGS,
     "recv_fds($self, n, maxfds, /)\n--\n\n"
     "Read at most n bytes and the descriptors that were passed with them, at most maxfds:\n"
     "(bytes, list of descriptors, which are the caller's and not inheritable).  Raises OSError\n"
     "with EMSGSIZE, and closes what has come, if there were more, or too many files are\n"
     "open; and what read() raises.\n\n"
     "Go: net.UnixConn.ReadMsgUnix."},
    {"send_fds", (PyCFunction)netfd_send_fds, METH_VARARGS,
     "send_fds($self, data, fds, /)\n--\n\n"
     "Write all of data, of which there must be some, and pass descriptors with its first\n"
     "byte.  fds holds descriptors or objects that have one.  Returns the number of bytes.\n\n"
     "Go: net.UnixConn.WriteMsgUnix."},
    {"write_file", (PyCFunction)netfd_write_file, METH_VARARGS,
     "write_file($self, fd, offset, count, /)\n--\n\n"
     "Write count bytes (negative: all up to the end) of the regular file fd, from offset on;\n"
     "returns how many there were.  No other write comes in between."},
    {"dup", (PyCFunction)netfd_dup, METH_NOARGS,
     "dup($self)\n--\n\nA duplicate of the descriptor, not inheritable; it is the caller's."},
    {"shutdown", (PyCFunction)netfd_shutdown, METH_O,
     "shutdown($self, how, /)\n--\n\nShut down one or both directions: a socket.SHUT_* number."},
    {"getsockname", (PyCFunction)netfd_getsockname, METH_NOARGS,
     "getsockname($self)\n--\n\nThe local address, in the form the socket module uses."},
    {"getpeername", (PyCFunction)netfd_getpeername, METH_NOARGS,
     "getpeername($self)\n--\n\nThe remote address, in the form the socket module uses."},
    {"setsockopt", (PyCFunction)netfd_setsockopt, METH_VARARGS,
     "setsockopt($self, level, option, value, /)\n--\n\n"
     "Set a socket option: a number, or bytes that hold a structure."},
    {"getsockopt", (PyCFunction)netfd_getsockopt, METH_VARARGS,
     "getsockopt($self, level, option, size=0, /)\n--\n\n"
     "A socket option: a number, or where a size is given bytes, at most so many."},
    {0},
};
static PyGetSetDef netfd_getset[] = {
    {"closed", (getter)netfd_get_closed, NULL, "True once it is closed or detached.", NULL},
    {0},
};
static PyMemberDef netfd_members[] = {
    {"peer", T_OBJECT, offsetof(NetFD, peer), READONLY,
     "The remote address when the object was made, in the form the socket module uses, or\n"
     "the one given to the constructor; None: there was none."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(NetFD, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot netfd_slots[] = {
    {Py_tp_new, netfd_new},
    {Py_tp_dealloc, netfd_dealloc},
    {Py_tp_finalize, netfd_finalize},
    {Py_tp_methods, netfd_methods},
    {Py_tp_getset, netfd_getset},
    {Py_tp_members, netfd_members},
    {Py_tp_repr, netfd_repr},
    {Py_tp_doc,
     "NetFD(fd, /, peer=None)\n--\n\n"
     "An open descriptor (of a socket, pipe or the like) that goroutines and threads wait\n"
     "on instead of blocking.  The object owns fd from now on and makes it non-blocking.\n"
     "peer is the remote address, by default that of a connected socket.\n\n"
     "The base of runtime.net.Conn.  Go: internal/poll.FD."},
    {0, NULL},
};
static PyType_Spec netfd_spec = {
    "runtime._core.NetFD", sizeof(NetFD), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE, netfd_slots};

int
py_netfd_init_types(PyObject *module)
{
    core->exc_net_closed = PyErr_NewExceptionWithDoc(
        "runtime.net.ClosedError",
        "The connection or listener was closed on this side.\n\nGo: net.ErrClosed.",
        PyExc_OSError, NULL);
    if (core->exc_net_closed == NULL
        || PyModule_AddObjectRef(module, "ClosedError", core->exc_net_closed) < 0)
        return -1;
    return py_add_type(module, &netfd_spec, &core->netfd_type, true);
}
