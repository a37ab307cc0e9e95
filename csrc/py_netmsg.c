/* py_netmsg.c - what NetFD transfers besides one buffer of a stream: datagrams with their
 * addresses, several buffers at once, descriptors, files.
 *
 * Each attempt is a function of its own, which is not inlined: what the system call
 * needs, such as room for an address, is not on the stack of who waits.
 */
#include "py_netfd.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/sendfile.h>
#endif

#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0      /* macOS: done after */
#endif
#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

#define DATAGRAM 65536          /* what recv_from() has room for, unless told */
#define MAX_FDS 253             /* Linux's SCM_MAX_FD */
#define FILE_STEP (128 << 10)   /* bytes of a file taken by one call: others wait meanwhile */

/* ---- datagrams ---- */

/* Receive once: the length, -2 if that would block, -1 with an exception set.  *from: its
   sender (owned). */
static RT_NOINLINE Py_ssize_t
receive(NetFD *self, char *buf, size_t n, const char *what, PyObject **from)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    ss.ss_family = AF_UNSPEC;
    int fd = netfd_begin(self->pd, &self->pd->rd);
    if (fd < 0)
        return netfd_raise_closed(what);
    ssize_t got;
    do
        got = recvfrom(fd, buf, n, 0, (struct sockaddr *)&ss, &len);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        got = -errno;
    netfd_end(self->pd, &self->pd->rd, netfd_would_block(got));
    if (netfd_would_block(got))
        return -2;
    if (got < 0)
        return netfd_raise_errno((int)-got, what);
    if (len == 0)
        ss.ss_family = AF_UNSPEC;
    *from = netfd_address(&ss, len);
    return *from ? got : -1;
}

/* NULL without an exception: that would block. */
static PyObject *
recv_from_now(NetFD *self, Py_ssize_t n)
{
    if (RT_LOAD(self->pd->rd.quiet))
        return NULL;
    PyObject *from = NULL, *data = PyBytes_FromStringAndSize(NULL, n);
    if (data == NULL)
        return NULL;
    Py_ssize_t got = receive(self, PyBytes_AS_STRING(data), (size_t)n, "recv_from", &from);
    if (got < 0) {
        Py_DECREF(data);
        return NULL;
    }
    if (got != n)
        _PyBytes_Resize(&data, got);
    PyObject *pair = data ? PyTuple_Pack(2, data, from) : NULL;
    Py_XDECREF(data);
    Py_DECREF(from);
    return pair;
}

PyObject *
netfd_recv_from(NetFD *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t n = nargs == 1 ? PyNumber_AsSsize_t(args[0], PyExc_OverflowError) : DATAGRAM;
    if (PyErr_Occurred())
        return NULL;
    if (nargs > 1 || n < 0) {
        PyErr_SetString(nargs > 1 ? PyExc_TypeError : PyExc_ValueError,
                        "wrong arguments: recv_from(n=65536), where n is 0 or more");
        return NULL;
    }
    py_pd *pd = self->pd;
    if (netfd_enter(pd, &pd->rd, "recv_from") < 0)
        return NULL;
    PyObject *pair;
    do
        pair = recv_from_now(self, n);
    while (pair == NULL && !PyErr_Occurred()
           && netfd_wait_edge(pd, &pd->rd, "recv_from") == 0);
    netfd_leave(pd, &pd->rd);
    return pair;
}

PyObject *
netfd_recv_from_into(NetFD *self, PyObject *buffer)
{
    Py_buffer view;
    PyObject *from = NULL;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return NULL;
    py_pd *pd = self->pd;
    Py_ssize_t got = -1;
    if (netfd_enter(pd, &pd->rd, "recv_from_into") == 0) {
        do
            got = receive(self, view.buf, (size_t)view.len, "recv_from_into", &from);
        while (got == -2 && netfd_wait_edge(pd, &pd->rd, "recv_from_into") == 0);
        netfd_leave(pd, &pd->rd);
    }
    PyBuffer_Release(&view);
    return got < 0 ? NULL : Py_BuildValue("(nN)", got, from);
}

/* One attempt.  0: sent, -2: that would block, -1: an exception is set. */
static RT_NOINLINE int
send_to_now(NetFD *self, const Py_buffer *view, PyObject *address)
{
    struct sockaddr_storage ss;
    socklen_t len = 0;
    if (address != Py_None && netfd_parse_address(self->family, address, &ss, &len) < 0)
        return -1;
    int fd = netfd_begin(self->pd, &self->pd->wr);
    if (fd < 0)
        return netfd_raise_closed("send_to");
    ssize_t sent;
    do
        sent = sendto(fd, view->buf, (size_t)view->len, MSG_NOSIGNAL,
                      len ? (struct sockaddr *)&ss : NULL, len);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        sent = -errno;
    netfd_end(self->pd, &self->pd->wr, netfd_would_block(sent));
    if (netfd_would_block(sent))
        return -2;
    return sent < 0 ? netfd_raise_errno((int)-sent, "send_to") : 0;
}

PyObject *
netfd_send_to(NetFD *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_buffer view;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: send_to(data, address)");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    py_pd *pd = self->pd;
    Py_ssize_t n = view.len;
    int r = netfd_enter(pd, &pd->wr, "send_to");
    if (r == 0) {
        do
            r = send_to_now(self, &view, args[1]);
        while (r == -2 && netfd_wait_edge(pd, &pd->wr, "send_to") == 0);
        netfd_leave(pd, &pd->wr);
    }
    PyBuffer_Release(&view);
    return r < 0 ? NULL : PyLong_FromSsize_t(n);
}

/* ---- several buffers ---- */

typedef struct {                /* on the heap: it outlives waits */
    PyObject *owner;            /* owned tuple of the objects */
    Py_ssize_t n;               /* buffers that are held */
    Py_ssize_t at;              /* the first that has not been written whole */
    Py_ssize_t total;           /* bytes */
    Py_buffer *views;           /* room for all of them, and behind it the iovecs */
    struct iovec *iov;
} buffers;

static void
free_buffers(buffers *b)
{
    for (Py_ssize_t i = 0; i < b->n; i++)
        PyBuffer_Release(&b->views[i]);
    PyMem_Free(b->views);
    Py_DECREF(b->owner);
    PyMem_Free(b);
}

static buffers *
hold_buffers(PyObject *objects)
{
    PyObject *owner = PySequence_Tuple(objects);    /* a list may change meanwhile */
    if (owner == NULL)
        return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(owner);
    buffers *b = PyMem_Calloc(1, sizeof(*b));
    Py_buffer *views = b ? PyMem_Calloc((size_t)n + 1, sizeof(*views) + sizeof(struct iovec)) : NULL;
    if (views == NULL) {
        PyMem_Free(b);
        Py_DECREF(owner);
        PyErr_NoMemory();
        return NULL;
    }
    b->owner = owner;
    b->views = views;
    b->iov = (struct iovec *)(views + n + 1);
    for (; b->n < n; b->n++) {
        Py_buffer *view = &views[b->n];
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(owner, b->n), view, PyBUF_SIMPLE) < 0) {
            free_buffers(b);
            return NULL;
        }
        b->iov[b->n] = (struct iovec){.iov_base = view->buf, .iov_len = (size_t)view->len};
        b->total += view->len;
    }
    return b;
}

/* So many bytes have been written. */
static void
advance(buffers *b, size_t sent)
{
    for (; b->at < b->n && sent >= b->iov[b->at].iov_len; b->at++)
        sent -= b->iov[b->at].iov_len;
    if (sent > 0) {
        struct iovec *iov = &b->iov[b->at];
        iov->iov_base = (char *)iov->iov_base + sent;
        iov->iov_len -= sent;
    }
}

static RT_NOINLINE ssize_t
sys_write_buffers(const NetFD *self, int fd, const buffers *b)
{
    Py_ssize_t left = b->n - b->at;
    /* A message cannot be sent in parts: with too many buffers the call fails. */
    size_t n = (size_t)(left < IOV_MAX || !self->stream ? left : IOV_MAX);
    struct msghdr msg = {.msg_iov = b->iov + b->at, .msg_iovlen = n};
    for (;;) {
        ssize_t sent = self->socket ? sendmsg(fd, &msg, MSG_NOSIGNAL)
                                    : writev(fd, msg.msg_iov, (int)n);
        if (sent >= 0 || errno != EINTR)
            return sent >= 0 ? sent : -errno;
    }
}

static int
write_buffers_turn(NetFD *self, buffers *b)
{
    py_pd *pd = self->pd;
    if (b->total == 0 && self->stream)
        return 0;
    do {
        int fd = netfd_begin(pd, &pd->wr);
        if (fd < 0)
            return netfd_raise_closed("write");
        ssize_t sent = sys_write_buffers(self, fd, b);
        netfd_end(pd, &pd->wr, netfd_would_block(sent));
        if (sent >= 0)
            advance(b, (size_t)sent);
        else if (!netfd_would_block(sent))
            return netfd_raise_errno((int)-sent, "write");
        else if (netfd_wait_edge(pd, &pd->wr, "write") < 0)
            return -1;
    } while (b->at < b->n);
    return 0;
}

PyObject *
netfd_write_buffers(NetFD *self, PyObject *objects)
{
    buffers *b = hold_buffers(objects);
    if (b == NULL)
        return NULL;
    Py_ssize_t total = b->total;
    int r = netfd_enter(self->pd, &self->pd->wr, "write");
    if (r == 0) {
        r = write_buffers_turn(self, b);
        netfd_leave(self->pd, &self->pd->wr);
    }
    free_buffers(b);
    return r < 0 ? NULL : PyLong_FromSsize_t(total);
}

/* ---- descriptors ---- */

typedef union {                 /* aligned as the system wants it */
    struct cmsghdr head;
    char room[CMSG_SPACE(MAX_FDS * sizeof(int))];
} control;

/* Send at least one byte with the descriptors: how many bytes, or -errno. */
static RT_NOINLINE ssize_t
sys_send_fds(int fd, char *p, size_t n, const int *fds, size_t nfds)
{
    control c = {0};
    struct iovec iov = {.iov_base = p, .iov_len = n};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nfds > 0) {
        msg.msg_control = &c;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(nfds * sizeof(int));
        memcpy(CMSG_DATA(head), fds, nfds * sizeof(int));
    }
    for (;;) {
        ssize_t sent = sendmsg(fd, &msg, MSG_NOSIGNAL);
        if (sent >= 0 || errno != EINTR)
            return sent >= 0 ? sent : -errno;
    }
}

static int
send_fds_turn(NetFD *self, char *p, Py_ssize_t n, const int *fds, size_t nfds)
{
    py_pd *pd = self->pd;
    do {
        int fd = netfd_begin(pd, &pd->wr);
        if (fd < 0)
            return netfd_raise_closed("send_fds");
        ssize_t sent = sys_send_fds(fd, p, (size_t)n, fds, nfds);
        netfd_end(pd, &pd->wr, netfd_would_block(sent));
        if (sent == n)
            return 0;
        if (sent >= 0)
            return netfd_write_turn(self, p + sent, n - sent, "send_fds");
        if (!netfd_would_block(sent))
            return netfd_raise_errno((int)-sent, "send_fds");
    } while (netfd_wait_edge(pd, &pd->wr, "send_fds") == 0);
    return -1;
}

/* The descriptors of a sequence (PyMem_Malloc); NULL with an exception set. */
static int *
descriptors_of(PyObject *objects, size_t *nfds)
{
    PyObject *seq = PySequence_Tuple(objects);
    if (seq == NULL)
        return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(seq);
    int *fds = NULL;
    if (n > MAX_FDS)
        PyErr_Format(PyExc_ValueError, "send_fds(): at most %d descriptors at once, not %zd",
                     MAX_FDS, n);
    else if ((fds = PyMem_Malloc((size_t)(n + 1) * sizeof(int))) == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; fds != NULL && i < n; i++) {
        fds[i] = PyObject_AsFileDescriptor(PyTuple_GET_ITEM(seq, i));
        if (fds[i] < 0) {
            PyMem_Free(fds);
            fds = NULL;
        }
    }
    Py_DECREF(seq);
    *nfds = (size_t)n;
    return fds;
}

PyObject *
netfd_send_fds(NetFD *self, PyObject *args)
{
    Py_buffer view;
    PyObject *objects;
    size_t nfds;
    if (!PyArg_ParseTuple(args, "y*O:send_fds", &view, &objects))
        return NULL;
    Py_ssize_t n = view.len;
    int r = -1, *fds = NULL;
    if (n == 0)
        PyErr_SetString(PyExc_ValueError, "send_fds(): descriptors need at least one byte of data "
                        "to travel with");
    else if ((fds = descriptors_of(objects, &nfds)) != NULL
             && netfd_enter(self->pd, &self->pd->wr, "send_fds") == 0) {
        r = send_fds_turn(self, view.buf, n, fds, nfds);
        netfd_leave(self->pd, &self->pd->wr);
    }
    PyMem_Free(fds);
    PyBuffer_Release(&view);
    return r < 0 ? NULL : PyLong_FromSsize_t(n);
}

static void
close_all(const int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++)
        close(fds[i]);
}

/* The descriptors of a message as a list, or NULL with an exception set and all closed. */
static PyObject *
take_fds(struct msghdr *msg)
{
    int fds[MAX_FDS];
    size_t n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (more > MAX_FDS - n)
            more = MAX_FDS - n;
        memcpy(fds + n, CMSG_DATA(c), more * sizeof(int));
        n += more;
    }
    for (size_t i = 0; MSG_CMSG_CLOEXEC == 0 && i < n; i++)
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
    PyObject *list = NULL;
    if (msg->msg_flags & MSG_CTRUNC)
        netfd_raise_errno(EMSGSIZE, "recv_fds: more descriptors than were asked for, or than may "
                          "be open");
    else
        list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list != NULL && i < n; i++) {
        PyObject *fd = PyLong_FromLong(fds[i]);
        if (fd == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, fd);
    }
    if (list == NULL)
        close_all(fds, n);
    return list;
}

/* NULL without an exception: that would block. */
static RT_NOINLINE PyObject *
recv_fds_now(NetFD *self, Py_ssize_t n, int maxfds)
{
    PyObject *data = PyBytes_FromStringAndSize(NULL, n), *fds = NULL, *pair = NULL;
    if (data == NULL)
        return NULL;
    control c;
    struct iovec iov = {.iov_base = PyBytes_AS_STRING(data), .iov_len = (size_t)n};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c,
        .msg_controllen = CMSG_LEN((size_t)maxfds * sizeof(int)),
    };
    ssize_t got = netfd_has_rest(self) ? netfd_take_rest(self, iov.iov_base, n) : 0;
    if (got > 0)
        msg.msg_controllen = 0;
    else {
        int fd = netfd_begin(self->pd, &self->pd->rd);
        if (fd < 0) {
            netfd_raise_closed("recv_fds");
            goto done;
        }
        do
            got = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
        while (got < 0 && errno == EINTR);
        if (got < 0)
            got = -errno;
        netfd_end(self->pd, &self->pd->rd, netfd_would_block(got));
        if (got < 0) {
            if (!netfd_would_block(got))
                netfd_raise_errno((int)-got, "recv_fds");
            goto done;
        }
    }
    fds = take_fds(&msg);
    if (fds != NULL && got != n)
        _PyBytes_Resize(&data, got);
    if (fds != NULL && data != NULL)
        pair = PyTuple_Pack(2, data, fds);
    if (pair == NULL && fds != NULL)
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(fds); i++)
            close((int)PyLong_AsLong(PyList_GET_ITEM(fds, i)));
done:
    Py_XDECREF(data);
    Py_XDECREF(fds);
    return pair;
}

PyObject *
netfd_recv_fds(NetFD *self, PyObject *args)
{
    Py_ssize_t n;
    int maxfds;
    if (!PyArg_ParseTuple(args, "ni:recv_fds", &n, &maxfds))
        return NULL;
    if (n < 1 || maxfds < 0 || maxfds > MAX_FDS) {
        PyErr_Format(PyExc_ValueError, "recv_fds(n, maxfds): n must be 1 or more, and maxfds "
                     "0 to %d", MAX_FDS);
        return NULL;
    }
    py_pd *pd = self->pd;
    if (netfd_enter(pd, &pd->rd, "recv_fds") < 0)
        return NULL;
    PyObject *pair;
    do
        pair = recv_fds_now(self, n, maxfds);
    while (pair == NULL && !PyErr_Occurred() && netfd_wait_edge(pd, &pd->rd, "recv_fds") == 0);
    netfd_leave(pd, &pd->rd);
    return pair;
}

/* ---- files ---- */

/* Send from the file without copying: how many bytes, 0 at its end, or -errno. */
static ssize_t
sys_sendfile(int to, int from, off_t offset, size_t n)
{
#ifdef __linux__
    for (;;) {
        ssize_t sent = sendfile(to, from, &offset, n);
        if (sent >= 0 || errno != EINTR)
            return sent >= 0 ? sent : -errno;
    }
#else
    (void)to, (void)from, (void)offset, (void)n;
    return -ENOSYS;
#endif
}

/* Copy a piece of the file.  How many bytes, 0 at its end, -1 with an exception set. */
static Py_ssize_t
copy_piece(NetFD *self, int from, off_t offset, size_t n, char *buf)
{
    ssize_t got;
    do
        got = pread(from, buf, n, offset);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return netfd_raise_errno(errno, "sendfile");
    if (got > 0 && netfd_write_turn(self, buf, got, "sendfile") < 0)
        return -1;
    return got;
}

/* With the turn.  *sent bytes have been written; -1 with an exception set. */
static int
sendfile_turn(NetFD *self, int from, off_t offset, int64_t count, int64_t *sent)
{
    py_pd *pd = self->pd;
    char *buf = NULL;
    int r = 0;
    while (r == 0 && (count < 0 || *sent < count)) {
        size_t n = count < 0 || count - *sent > FILE_STEP ? FILE_STEP : (size_t)(count - *sent);
        if (buf != NULL) {
            Py_ssize_t copied = copy_piece(self, from, offset + *sent, n, buf);
            if (copied <= 0) {
                r = (int)copied;
                break;
            }
            *sent += copied;
            continue;
        }
        int fd = netfd_begin(pd, &pd->wr);
        if (fd < 0)
            return netfd_raise_closed("sendfile");
        ssize_t moved = sys_sendfile(fd, from, offset + *sent, n);
        netfd_end(pd, &pd->wr, netfd_would_block(moved));
        if (moved == 0)
            break;
        if (moved > 0)
            *sent += moved;
        else if (netfd_would_block(moved))
            r = netfd_wait_edge(pd, &pd->wr, "sendfile");
        else if (*sent == 0 && (moved == -EINVAL || moved == -ENOSYS || moved == -EOPNOTSUPP)) {
            buf = PyMem_RawMalloc(FILE_STEP);   /* not from this kind of file */
            if (buf == NULL) {
                PyErr_NoMemory();
                r = -1;
            }
        }
        else
            r = netfd_raise_errno((int)-moved, "sendfile");
    }
    PyMem_RawFree(buf);
    return r;
}

PyObject *
netfd_write_file(NetFD *self, PyObject *args)
{
    int from;
    long long offset, count;
    struct stat st;
    if (!PyArg_ParseTuple(args, "iLL:write_file", &from, &offset, &count))
        return NULL;
    if (offset < 0) {
        PyErr_SetString(PyExc_ValueError, "write_file(): the offset must be 0 or more");
        return NULL;
    }
    int err = fstat(from, &st) < 0 ? errno : S_ISREG(st.st_mode) ? 0 : EINVAL;
    if (err != 0) {
        netfd_raise_errno(err, "write_file: a regular file is needed");
        return NULL;
    }
    int64_t sent = 0;
    int r = netfd_enter(self->pd, &self->pd->wr, "sendfile");
    if (r == 0) {
        r = sendfile_turn(self, from, (off_t)offset, count, &sent);
        netfd_leave(self->pd, &self->pd->wr);
    }
    return r < 0 ? NULL : PyLong_FromLongLong(sent);
}
