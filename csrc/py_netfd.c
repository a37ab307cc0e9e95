/* py_netfd.c - NetFD: a non-blocking descriptor that goroutines wait on.
 *
 * A system call is tried first; only when it would block does the goroutine park
 * (py_netwait.c).  Non-blocking calls are made with the GIL held.
 */
#include "py_netfd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <structmember.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_READ 65536

static int
raise_errno(void)
{
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static inline bool
would_block(int err)
{
    return err == EAGAIN || err == EWOULDBLOCK;
}

/* ---- reading ---- */

static Py_ssize_t
sys_read(const NetFD *self, char *buf, size_t n)
{
    ssize_t got;
    do
        got = RT_LIKELY(self->socket) ? recv(self->fd, buf, n, 0) : read(self->fd, buf, n);
    while (RT_UNLIKELY(got < 0 && errno == EINTR));
    return got;
}

/* Move what was put back into buf, at most n bytes. */
static RT_NOINLINE Py_ssize_t
take_rest(NetFD *self, char *buf, Py_ssize_t n)
{
    Py_ssize_t left = PyBytes_GET_SIZE(self->rest) - self->rest_at;
    if (n > left)
        n = left;
    memcpy(buf, PyBytes_AS_STRING(self->rest) + self->rest_at, (size_t)n);
    self->rest_at += n;
    if (n == left)
        Py_CLEAR(self->rest);
    return n;
}

/* Read at most n > 0 bytes without waiting, with the turn: their number, 0 at the
   end, -1 with an exception set, -2 if that would block. */
static inline Py_ssize_t
read_now(NetFD *self, char *buf, Py_ssize_t n)
{
    if (RT_UNLIKELY(self->rest != NULL))
        return take_rest(self, buf, n);
    if (self->drained)
        return -2;
    Py_ssize_t got = sys_read(self, buf, (size_t)n);
    if (RT_UNLIKELY(got < 0))
        return would_block(errno) ? -2 : raise_errno();
    self->drained = got < n && got > 0 && self->tcp && !self->hup;
    return got;
}

/* The bytes of one read without waiting; NULL without an exception: that would
   block.  No buffer is kept while waiting, so that an idle reader costs no memory. */
static PyObject *
read_bytes_now(NetFD *self, Py_ssize_t n)
{
    if (self->drained && self->rest == NULL)
        return NULL;
    PyObject *data = PyBytes_FromStringAndSize(NULL, n);
    if (data == NULL)
        return NULL;
    Py_ssize_t got = read_now(self, PyBytes_AS_STRING(data), n);
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
    if (netfd_enter(self, &self->rd, "read") < 0)
        return NULL;
    PyObject *data;
    if (n == 0)
        data = PyBytes_FromStringAndSize(NULL, 0);
    else
        do
            data = read_bytes_now(self, n);
        while (data == NULL && !PyErr_Occurred() && netfd_wait_edge(self, &self->rd, "read") == 0);
    netfd_leave(&self->rd);
    return data;
}

static PyObject *
netfd_read_into(NetFD *self, PyObject *buffer)
{
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return NULL;
    Py_ssize_t got = -1;
    if (netfd_enter(self, &self->rd, "read_into") == 0) {
        do
            got = view.len ? read_now(self, view.buf, view.len) : 0;
        while (got == -2 && netfd_wait_edge(self, &self->rd, "read_into") == 0);
        netfd_leave(&self->rd);
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
    PyObject *all = Py_NewRef(data);
    if (self->rest != NULL) {
        PyObject *later = PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(self->rest) + self->rest_at,
            PyBytes_GET_SIZE(self->rest) - self->rest_at);
        PyBytes_ConcatAndDel(&all, later);
        if (all == NULL)
            return NULL;
    }
    Py_XSETREF(self->rest, all);
    self->rest_at = 0;
    Py_RETURN_NONE;
}

/* ---- writing ---- */

/* Write n bytes, all of them unless an exception is set. */
static int
write_all(NetFD *self, const char *p, Py_ssize_t n)
{
    if (netfd_enter(self, &self->wr, "write") < 0)
        return -1;
    int r = 0;
    while (n > 0) {
        ssize_t sent = RT_LIKELY(self->socket) ? send(self->fd, p, (size_t)n, MSG_NOSIGNAL)
                                               : write(self->fd, p, (size_t)n);
        if (RT_LIKELY(sent >= 0)) {
            p += sent;
            n -= sent;
        }
        else if (errno != EINTR) {
            r = would_block(errno) ? netfd_wait_edge(self, &self->wr, "write") : raise_errno();
            if (r < 0)
                break;
        }
    }
    netfd_leave(&self->wr);
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
        return write_buffer(self, data);
    if (write_all(self, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) < 0)
        return NULL;
    return PyLong_FromSsize_t(PyBytes_GET_SIZE(data));
}

/* ---- addresses ---- */

/* As the socket module shows them. */
static PyObject *
address_object(const struct sockaddr_storage *ss, socklen_t len)
{
    char host[INET6_ADDRSTRLEN];
    if (ss->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)ss;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        return Py_BuildValue("(si)", host, (int)ntohs(in->sin_port));
    }
    if (ss->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        return Py_BuildValue("(siII)", host, (int)ntohs(in6->sin6_port),
                             (unsigned)ntohl(in6->sin6_flowinfo), (unsigned)in6->sin6_scope_id);
    }
    if (ss->ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)ss;
        size_t n = len > offsetof(struct sockaddr_un, sun_path)
                       ? len - offsetof(struct sockaddr_un, sun_path) : 0;
        if (n > 0 && un->sun_path[0] == '\0')   /* Linux's abstract names: not C strings */
            return PyBytes_FromStringAndSize(un->sun_path, (Py_ssize_t)n);
        return PyUnicode_DecodeFSDefaultAndSize(un->sun_path,
                                                (Py_ssize_t)strnlen(un->sun_path, n));
    }
    Py_RETURN_NONE;
}

static PyObject *
address_of(NetFD *self, int (*get)(int, struct sockaddr *, socklen_t *), const char *what)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    if (self->fd < 0)
        netfd_raise_closed(what);
    else if (get(self->fd, (struct sockaddr *)&ss, &len) < 0)
        raise_errno();
    else
        return address_object(&ss, len);
    return NULL;
}

static PyObject *
netfd_getsockname(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    return address_of(self, getsockname, "getsockname");
}

static PyObject *
netfd_getpeername(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    return address_of(self, getpeername, "getpeername");
}

/* ---- accepting and connecting ---- */

static NetFD *
netfd_alloc(PyTypeObject *type, int fd)
{
    NetFD *self = (NetFD *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->fd = fd;
        self->rd.deadline = self->wr.deadline = RT_FOREVER;
        self->peer = Py_NewRef(Py_None);
    }
    return self;
}

static int
sys_accept(int fd, struct sockaddr *sa, socklen_t *len)
{
#if defined(__linux__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__)
    return accept4(fd, sa, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
    int conn = accept(fd, sa, len);
    if (conn >= 0
        && (fcntl(conn, F_SETFD, FD_CLOEXEC) < 0 || fcntl(conn, F_SETFL, O_NONBLOCK) < 0)) {
        int err = errno;
        close(conn);
        errno = err;
        conn = -1;
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
    int fd;
    do {
        len = sizeof(ss);
        fd = sys_accept(self->fd, (struct sockaddr *)&ss, &len);
        /* The latter two: a connection that was gone before it was accepted. */
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EPROTO));
    if (fd < 0) {
        if (!would_block(errno))
            raise_errno();
        return NULL;
    }
    NetFD *conn = netfd_alloc(type, fd);
    if (conn == NULL) {
        close(fd);
        return NULL;
    }
    conn->socket = true;
    conn->tcp = self->tcp;
    Py_SETREF(conn->peer, address_object(&ss, len));
    if (conn->peer == NULL)
        Py_CLEAR(conn);
    return (PyObject *)conn;
}

static PyObject *
netfd_accept(NetFD *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyTypeObject *type = core->netfd_type;
    if (nargs == 1 && PyType_Check(args[0]) && PyType_IsSubtype((PyTypeObject *)args[0], type))
        type = (PyTypeObject *)args[0];
    else if (nargs != 0) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: accept(type=NetFD)");
        return NULL;
    }
    if (netfd_enter(self, &self->rd, "accept") < 0)
        return NULL;
    PyObject *conn;
    do
        conn = accept_now(self, type);
    while (conn == NULL && !PyErr_Occurred() && netfd_wait_edge(self, &self->rd, "accept") == 0);
    netfd_leave(&self->rd);
    return conn;
}

/* 1 connected, 0 not yet, -1 failed (exception set). */
static RT_NOINLINE int
connected_now(NetFD *self)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(int);
    int err = 0;
    if (getsockopt(self->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
        return raise_errno();
    if (err != 0) {
        errno = err;
        return raise_errno();
    }
    /* An edge may be spurious, so ask. */
    len = sizeof(ss);
    if (getpeername(self->fd, (struct sockaddr *)&ss, &len) == 0)
        return 1;
    return errno == ENOTCONN ? 0 : raise_errno();
}

static PyObject *
netfd_wait_connected(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    if (netfd_enter(self, &self->wr, "connect") < 0)
        return NULL;
    int r;
    do
        r = connected_now(self);
    while (r == 0 && netfd_wait_edge(self, &self->wr, "connect") == 0);
    netfd_leave(&self->wr);
    if (r <= 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- deadlines ---- */

static PyObject *
set_deadlines(NetFD *self, PyObject *seconds, bool rd, bool wr)
{
    int64_t deadline;
    if (py_deadline(seconds, &deadline) < 0)
        return NULL;
    if (self->fd < 0) {
        netfd_raise_closed("set_deadline");
        return NULL;
    }
    if (rd)
        netfd_move_deadline(&self->rd, deadline);
    if (wr)
        netfd_move_deadline(&self->wr, deadline);
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

/* ---- options ---- */

static PyObject *
netfd_setsockopt(NetFD *self, PyObject *args)
{
    int level, option, value;
    if (!PyArg_ParseTuple(args, "iii:setsockopt", &level, &option, &value))
        return NULL;
    if (self->fd < 0)
        netfd_raise_closed("setsockopt");
    else if (setsockopt(self->fd, level, option, &value, sizeof(value)) < 0)
        raise_errno();
    else
        Py_RETURN_NONE;
    return NULL;
}

static PyObject *
netfd_getsockopt(NetFD *self, PyObject *args)
{
    int level, option, value = 0;
    socklen_t len = sizeof(value);
    if (!PyArg_ParseTuple(args, "ii:getsockopt", &level, &option))
        return NULL;
    if (self->fd < 0)
        netfd_raise_closed("getsockopt");
    else if (getsockopt(self->fd, level, option, &value, &len) < 0)
        raise_errno();
    else
        return PyLong_FromLong(value);
    return NULL;
}

static PyObject *
netfd_shutdown(NetFD *self, PyObject *arg)
{
    long how = PyLong_AsLong(arg);
    if (how == -1 && PyErr_Occurred())
        return NULL;
    if (self->fd < 0)
        netfd_raise_closed("shutdown");
    else if (shutdown(self->fd, (int)how) < 0)
        raise_errno();
    else
        Py_RETURN_NONE;
    return NULL;
}

/* ---- life ---- */

static PyObject *
netfd_close(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    int fd = netfd_give_up_fd(self);
    Py_CLEAR(self->rest);
    /* The descriptor is gone whatever close() says; the last two are no failures. */
    if (fd >= 0 && close(fd) < 0 && errno != EINTR && errno != ECONNRESET) {
        raise_errno();
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
netfd_detach(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    int fd = netfd_give_up_fd(self);
    if (fd < 0) {
        netfd_raise_closed("detach");
        return NULL;
    }
    return PyLong_FromLong(fd);
}

static PyObject *
netfd_fileno(NetFD *self, PyObject *Py_UNUSED(ignored))
{
    if (self->fd < 0) {
        netfd_raise_closed("fileno");
        return NULL;
    }
    return PyLong_FromLong(self->fd);
}

static PyObject *
netfd_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "peer", NULL};
    int fd;
    PyObject *peer = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|O:NetFD", names, &fd, &peer))
        return NULL;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)) {
        raise_errno();
        return NULL;
    }
    NetFD *self = netfd_alloc(type, fd);
    if (self == NULL)
        return NULL;
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    int kind = 0;
    if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0) {
        self->socket = true;
        len = sizeof(kind);
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &len);
        self->tcp = kind == SOCK_STREAM && (ss.ss_family == AF_INET || ss.ss_family == AF_INET6);
    }
    len = sizeof(ss);
    if (peer != Py_None)
        Py_SETREF(self->peer, Py_NewRef(peer));
    else if (self->socket && getpeername(fd, (struct sockaddr *)&ss, &len) == 0)
        Py_SETREF(self->peer, address_object(&ss, len));
    if (self->peer == NULL) {
        self->fd = -1;          /* still the caller's */
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void
netfd_finalize(PyObject *op)
{
    NetFD *self = (NetFD *)op;
    if (self->fd < 0)
        return;
    PyObject *saved = py_take_exception();
    if (PyErr_ResourceWarning(op, 1, "unclosed %R", op) < 0) {
        if (PyErr_ExceptionMatches(PyExc_Warning))
            PyErr_WriteUnraisable(op);
        else
            PyErr_Clear();
    }
    int fd = netfd_give_up_fd(self);
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
    if (self->fd < 0)
        return PyUnicode_FromFormat("<%s closed>", name);
    return PyUnicode_FromFormat("<%s fd=%d>", name, self->fd);
}

static PyObject *
netfd_get_closed(NetFD *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->fd < 0);
}

#define FAST(fn) (PyCFunction)(void (*)(void))fn, METH_FASTCALL

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
     "Write all of data (bytes or another buffer), waiting while the peer does not keep\n"
     "up; returns the number of bytes.\n\n"
     "Writes of several goroutines are never interleaved.  Raises TimeoutError once the\n"
     "write deadline has passed, ClosedError when the connection is closed here,\n"
     "BrokenPipeError and other OSErrors; then part of data may have been sent.\n\n"
     "Go: net.Conn.Write."},
    {"accept", FAST(netfd_accept),
     "accept($self, type=NetFD, /)\n--\n\n"
     "Wait for a connection and return it as an object of that type (NetFD or a subclass,\n"
     "made without calling __init__).\n\n"
     "Raises TimeoutError once the read deadline has passed, ClosedError, or OSError, for\n"
     "instance with EMFILE when the process has too many open files."},
    {"wait_connected", (PyCFunction)netfd_wait_connected, METH_NOARGS,
     "wait_connected($self)\n--\n\n"
     "After a connect() that is in progress: wait until it has succeeded.\n\n"
     "Raises what it failed with, or TimeoutError once the write deadline has passed."},
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
    {"shutdown", (PyCFunction)netfd_shutdown, METH_O,
     "shutdown($self, how, /)\n--\n\nShut down one or both directions: a socket.SHUT_* number."},
    {"getsockname", (PyCFunction)netfd_getsockname, METH_NOARGS,
     "getsockname($self)\n--\n\nThe local address, in the form the socket module uses."},
    {"getpeername", (PyCFunction)netfd_getpeername, METH_NOARGS,
     "getpeername($self)\n--\n\nThe remote address, in the form the socket module uses."},
    {"setsockopt", (PyCFunction)netfd_setsockopt, METH_VARARGS,
     "setsockopt($self, level, option, value, /)\n--\n\nSet a socket option that is a number."},
    {"getsockopt", (PyCFunction)netfd_getsockopt, METH_VARARGS,
     "getsockopt($self, level, option, /)\n--\n\nA socket option that is a number."},
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
