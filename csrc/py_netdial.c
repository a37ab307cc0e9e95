/* py_netdial.c - sockets that go out.
 *
 * Such a socket is made here, non-blocking from the start, so that nothing has to be asked
 * about it; what its owner wants set is set between new_socket() and connect().
 */
#include "py_netfd.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <unistd.h>

/* ---- new sockets ---- */

/* A descriptor or -errno. */
static int
sys_socket(int family, int kind)
{
#if defined(SOCK_NONBLOCK) && defined(SOCK_CLOEXEC)
    int fd = socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd >= 0 ? fd : -errno;
#else
    int fd = socket(family, kind, 0);
    if (fd < 0)
        return -errno;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd;
#endif
}

PyObject *
netfd_new_socket(PyTypeObject *type, PyObject *args)
{
    int family, kind;
    PyObject *peer;
    if (!PyArg_ParseTuple(args, "iiO:new_socket", &family, &kind, &peer))
        return NULL;
    int fd = sys_socket(family, kind);
    if (fd < 0) {
        netfd_raise_errno(-fd, "socket");
        return NULL;
    }
    NetFD *self = netfd_alloc(type, fd);
    if (self == NULL) {
        close(fd);
        return NULL;
    }
    self->socket = true;
    self->stream = kind == SOCK_STREAM;
    self->tcp = self->stream && (family == AF_INET || family == AF_INET6);
    self->family = family;
    RT_STORE(self->pd->drains, self->tcp);
    Py_SETREF(self->peer, Py_NewRef(peer));
    return (PyObject *)self;
}

PyObject *
netfd_bind(NetFD *self, PyObject *address)
{
    struct sockaddr_storage ss;
    socklen_t len;
    if (netfd_parse_address(self->family, address, &ss, &len) < 0)
        return NULL;
    int fd = netfd_begin(self->pd, NULL);
    if (fd < 0) {
        netfd_raise_closed("bind");
        return NULL;
    }
    int err = bind(fd, (struct sockaddr *)&ss, len) < 0 ? errno : 0;
    netfd_end(self->pd, NULL, false);
    if (err != 0) {
        netfd_raise_errno(err, "bind");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- connecting ---- */

/* 0 connected, or -errno; -EINPROGRESS: not yet.  (-EAGAIN is an error: the system has no more
   local ports, or the queue of an AF_UNIX peer is full, and nothing tells when that is over.) */
static int
sys_connect(int fd, const struct sockaddr_storage *ss, socklen_t len)
{
    if (connect(fd, (const struct sockaddr *)ss, len) == 0 || errno == EISCONN)
        return 0;
    return errno == EALREADY || errno == EINTR ? -EINPROGRESS : -errno;
}

/* 0 connected, or -errno; -EINPROGRESS: not yet.  An edge may be spurious, so it is asked for
   the peer; who has none is either waiting for it or has an error to tell. */
static RT_NOINLINE int
sys_connected(int fd)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    if (getpeername(fd, (struct sockaddr *)&ss, &len) == 0)
        return 0;
    int why = errno, err = 0;
    len = sizeof(err);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
        return -errno;
    if (err != 0)
        return -err;
    return why == ENOTCONN ? -EINPROGRESS : -why;
}

/* 1 connected, 0 not yet, -1 failed (exception set).  ss NULL: connect() was called before. */
static int
connected_now(py_pd *pd, const struct sockaddr_storage *ss, socklen_t len)
{
    int fd = netfd_begin(pd, &pd->wr);
    if (fd < 0)
        return netfd_raise_closed("connect");
    int r = ss != NULL ? sys_connect(fd, ss, len) : -EINPROGRESS;
    if (r == -EINPROGRESS)              /* to a peer on this machine it may be by now */
        r = sys_connected(fd);
    netfd_end(pd, &pd->wr, r == -EINPROGRESS);
    return r == 0 ? 1 : r == -EINPROGRESS ? 0 : netfd_raise_errno(-r, "connect");
}

/* With the turn.  The address is not kept on the stack of who waits. */
static RT_NOINLINE int
begin_connect(NetFD *self)
{
    struct sockaddr_storage ss;
    socklen_t len;
    if (netfd_parse_address(self->family, self->peer, &ss, &len) < 0)
        return -1;
    return connected_now(self->pd, &ss, len);
}

static PyObject *
connect_for(NetFD *self, bool begin, const char *usage, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    py_pd *pd = self->pd;
    py_limits limits;
    py_wait wait;
    if (py_limits_parse(&limits, usage, 0, args, nargs, kwnames) < 0
        || py_wait_begin_io(&wait, &limits) < 0)
        return NULL;
    int r = -1;
    if (netfd_enter_for(pd, &pd->wr, "connect", &wait) == 0) {
        r = begin ? begin_connect(self) : connected_now(pd, NULL, 0);
        while (r == 0)
            r = netfd_wait_edge_for(pd, &pd->wr, "connect", &wait) < 0
                    ? -1 : connected_now(pd, NULL, 0);
        netfd_leave(pd, &pd->wr);
    }
    py_wait_end(&wait);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
netfd_connect(NetFD *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return connect_for(self, true, "connect(" PY_LIMITS_USAGE ")", args, nargs, kwnames);
}

PyObject *
netfd_wait_connected(NetFD *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return connect_for(self, false, "wait_connected(" PY_LIMITS_USAGE ")", args, nargs, kwnames);
}
