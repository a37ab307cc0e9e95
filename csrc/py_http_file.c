/* py_http_file.c - files: as bodies of responses, and opened below a directory.
 *
 * A small file is read and goes the way of any other body, so that head and body leave in
 * one send.  Of a larger one the head waits in the socket (MSG_MORE) for the first bytes
 * that sendfile() moves.  The response's lock is not held over that call, nor the GIL, for
 * the disk may be slow; c->sending keeps others out, as it does while a send is parked.
 *
 * Rejected: MSG_ZEROCOPY and splice (more calls than they save at these sizes); reading
 * ahead on other threads (the page cache does so).
 *
 * To a stream the file is read and sent in pieces, as where sendfile() cannot.
 */
#include "py_core.h"                    /* first: Python's settings make off_t 64 bits wide */
#include "py_http.h"
#include "py_wait.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/openat2.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#else
#define MSG_MORE 0
#endif

#include "rt_http1_sniff.h"

#define SMALL (16 * 1024)               /* bytes that are copied rather than sent by the system */
#define STEP (1024 * 1024)              /* bytes moved by one call; then others get a turn */
#define COPY (128 * 1024)               /* bytes copied at once where sendfile() cannot */

typedef struct {
    int fd;
    int64_t offset, left;               /* of what is to be sent */
    int64_t moved;                      /* since others had a turn */
    char *copy;                         /* owned buffer of COPY bytes, or NULL */
} source;

/* Up to n bytes at `offset`: how many, fewer only at the file's end, or -errno.  Takes no
   lock and runs no Python. */
static Py_ssize_t
read_at(int fd, char *dst, size_t n, int64_t offset)
{
    size_t done = 0;
    while (done < n) {
        ssize_t got = pread(fd, dst + done, n - done, (off_t)(offset + (int64_t)done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (Py_ssize_t)done;
}

static int
raise_errno(int err)
{
    errno = err;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static int
raise_shorter(void)
{
    PyErr_SetString(PyExc_OSError, "the file became shorter while it was sent");
    return -1;
}

/* The bytes of a small file. */
static PyObject *
read_small(const source *src)
{
    Py_ssize_t n = (Py_ssize_t)src->left, got;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, n);
    if (bytes == NULL)
        return NULL;
    char *dst = PyBytes_AS_STRING(bytes);
    Py_BEGIN_ALLOW_THREADS
    got = read_at(src->fd, dst, (size_t)n, src->offset);
    Py_END_ALLOW_THREADS
    if (got == n)
        return bytes;
    if (got < 0)
        raise_errno((int)-got);
    else
        raise_shorter();
    Py_DECREF(bytes);
    return NULL;
}

/* ---- with the lock ---- */

/* Send c->out; the socket may keep it until what follows is there. */
static int
send_head(http_conn *c)
{
    http_out *out = &c->out;
    size_t n = out->len - out->sent;
    if (RT_LIKELY(!c->broken && !http_is_cut(c) && !http_server_is_parents(c->server) && n != 0
                  && c->stream == NULL)) {
        ssize_t sent = send(c->pd.fd, out->data + out->sent, n, MSG_NOSIGNAL | MSG_MORE);
        if (sent > 0) {
            out->sent += (uint32_t)sent;
            c->pace.sent += sent;
            HTTP_COUNT(bytes_written, (uint64_t)sent);
        }
    }
    return http_send(c, NULL, 0);
}

/* Bytes moved to the socket, 0 at the end of the file, or -errno. */
static Py_ssize_t
move(int to, source *src)
{
    if (src->copy != NULL)
        return read_at(src->fd, src->copy, src->left > COPY ? COPY : (size_t)src->left,
                       src->offset);
#ifdef __linux__
    size_t n = src->left > STEP ? STEP : (size_t)src->left;
    off_t offset = (off_t)src->offset;
    ssize_t sent;
    do
        sent = sendfile(to, src->fd, &offset, n);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
#else
    (void)to;
    return -ENOSYS;
#endif
}

/* The same with the lock let go of, and a turn for others where one is due.  *failed: an
   exception is set. */
static Py_ssize_t
move_unlocked(http_conn *c, source *src, bool *failed)
{
    Py_ssize_t n;
    c->sending = true;
    c->writable = false;                /* an edge may come while nobody looks */
    py_release(&c->lock);
    if (src->moved >= STEP) {
        Goroutine *gp = py_current("sending a file");
        src->moved = 0;
        *failed = gp == NULL || py_yield(gp) < 0;
    }
    Py_BEGIN_ALLOW_THREADS
    n = *failed ? 0 : move(c->pd.fd, src);
    Py_END_ALLOW_THREADS
    py_acquire(&c->lock);
    c->sending = false;
    if (RT_UNLIKELY(c->leaving))        /* the connection's goroutine waits for us */
        py_waitq_wake_all(&c->readers, RT_WAKE_READY);
    return n;
}

static int
send_bytes(http_conn *c, source *src)
{
    while (src->left > 0) {
        if (RT_UNLIKELY(http_is_cut(c) || c->leaving))
            return http_raise_gone(c);
        if (RT_UNLIKELY(c->paced) && http_pace_over(c, false)) {
            c->io_failed = true;
            py_raise_timeout("sending a response");
            return -1;
        }
        bool failed = false;
        Py_ssize_t n = move_unlocked(c, src, &failed);
        if (RT_UNLIKELY(failed))
            return -1;
        if (n == -EAGAIN) {
            if (http_wait_writable(c) < 0)
                return -1;
            continue;
        }
        if (src->copy == NULL && (n == -EINVAL || n == -ENOSYS || n == -EOPNOTSUPP)) {
            src->copy = PyMem_Malloc(COPY);
            if (src->copy == NULL) {
                PyErr_NoMemory();
                return -1;
            }
            continue;
        }
        if (n == 0)
            return raise_shorter();
        if (n == -EPIPE || n == -ECONNRESET) {
            c->peer_closed = true;
            return http_raise_gone(c);
        }
        if (n < 0)
            return raise_errno((int)-n);
        if (src->copy == NULL) {
            c->pace.sent += n;          /* as http_send() does */
            HTTP_COUNT(bytes_written, (uint64_t)n);
        }
        else if (http_send(c, src->copy, (size_t)n) < 0)
            return -1;
        src->offset += n;
        src->left -= n;
        src->moved += n;
    }
    return 0;
}

/* start: how the file begins. */
static int
send_locked(http_writer *w, source *src, const char *start, size_t nstart, PyObject **drop)
{
    http_conn *c = w->conn;
    w->wrote = true;
    if (http_writer_begin(w, start, nstart, drop) < 0)
        return -1;
    if (http_writer_count(w, src->left) < 0 || w->no_body)
        return w->no_body ? 0 : -1;
    if (w->chunked) {
        char size[20];
        int len = snprintf(size, sizeof(size), "%llx\r\n", (long long)src->left);
        if (http_out_reserve(&c->out, (size_t)len) < 0)
            goto no_memory;
        http_out_add(&c->out, size, (size_t)len);
    }
    if (c->stream != NULL && (src->copy = PyMem_Malloc(COPY)) == NULL)
        goto no_memory;
    /* From here on the response is whole or the connection ends. */
    if (send_head(c) < 0)
        return -1;
    if (send_bytes(c, src) < 0) {
        c->close_after = c->broken = true;
        return -1;
    }
    if (!w->chunked)
        return 0;
    if (http_out_reserve(&c->out, 2) < 0)
        goto no_memory;
    http_out_add(&c->out, "\r\n", 2);
    return 0;

no_memory:
    c->close_after = c->broken = true;
    PyErr_NoMemory();
    return -1;
}

/* ---- the method ---- */

static int
make_source(source *src, PyObject *file, long long offset, PyObject *count)
{
    struct stat st;
    *src = (source){.fd = PyObject_AsFileDescriptor(file), .offset = offset};
    if (src->fd < 0)
        return -1;
    if (offset < 0) {
        PyErr_SetString(PyExc_ValueError, "send_file(): the offset must be 0 or more");
        return -1;
    }
    int err = fstat(src->fd, &st) < 0 ? errno : 0;
    if (err != 0)
        return raise_errno(err);
    if (!S_ISREG(st.st_mode)) {
        PyErr_SetString(PyExc_ValueError, "send_file() needs a regular file; write() sends what "
                        "was read from another");
        return -1;
    }
    int64_t there = st.st_size > offset ? st.st_size - offset : 0;
    src->left = there;
    if (count != Py_None && (src->left = PyLong_AsLongLong(count)) == -1 && PyErr_Occurred())
        return -1;
    if (src->left < 0 || src->left > there || offset > st.st_size) {
        PyErr_Format(PyExc_ValueError, "send_file(): %lld bytes from %lld are asked for, and the "
                     "file has %lld", (long long)src->left, offset, (long long)st.st_size);
        return -1;
    }
    return 0;
}

PyObject *
http_writer_send_file(http_writer *w, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"file", "offset", "count", NULL};
    PyObject *file, *count = Py_None, *drop = NULL;
    long long offset = 0;
    source src;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|LO:send_file", names, &file, &offset,
                                     &count)
        || make_source(&src, file, offset, count) < 0)
        return NULL;
    if (src.left <= SMALL) {
        PyObject *bytes = read_small(&src);
        PyObject *result = bytes ? http_writer_write(w, bytes) : NULL;
        Py_XDECREF(bytes);
        return result;
    }
    char start[RT_HTTP1_SNIFF_LEN];     /* what a head that is still to come may tell of it */
    Py_ssize_t nstart = 0;
    if (!w->head_sent) {
        Py_BEGIN_ALLOW_THREADS
        nstart = read_at(src.fd, start, sizeof(start), src.offset);
        Py_END_ALLOW_THREADS
    }
    if (nstart < 0) {
        raise_errno((int)-nstart);
        return NULL;
    }
    http_conn *c = http_writer_enter(w);
    if (c == NULL)
        return NULL;
    int r = send_locked(w, &src, start, (size_t)nstart, &drop);
    py_release(&c->lock);
    Py_XDECREF(drop);
    PyMem_Free(src.copy);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- opening ---- */

/* open_beneath(root, path, links): a descriptor of root's path, which must not lead out of
   root.  OSError; ENOSYS: the system cannot tell. */
static PyObject *
m_open_beneath(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *root = NULL, *path = NULL, *result = NULL;
    int links, fd = -1, err = ENOSYS;
    if (!PyArg_ParseTuple(args, "O&O&p:_open_beneath", PyUnicode_FSConverter, &root,
                          PyUnicode_FSConverter, &path, &links))
        goto done;
#if defined(__linux__) && defined(SYS_openat2)
    const char *dir = PyBytes_AS_STRING(root), *name = PyBytes_AS_STRING(path);
    struct open_how how = {
        /* Nothing waits: not for a FIFO's other end either. */
        .flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (links ? 0 : RESOLVE_NO_SYMLINKS),
    };
    Py_BEGIN_ALLOW_THREADS
    int at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    err = errno;
    if (at >= 0) {
        /* EAGAIN: something was renamed meanwhile. */
        for (int tries = 0; fd < 0 && tries < 64; tries++) {
            fd = (int)syscall(SYS_openat2, at, name, &how, sizeof(how));
            err = errno;
            if (err != EINTR && err != EAGAIN)
                break;
        }
        close(at);
    }
    Py_END_ALLOW_THREADS
    if (fd < 0 && err == EPERM)         /* a sandbox that does not know the call */
        err = ENOSYS;
#endif
    if (fd < 0)
        raise_errno(err);
    else if ((result = PyLong_FromLong(fd)) == NULL)
        close(fd);
done:
    Py_XDECREF(root);
    Py_XDECREF(path);
    return result;
}

static PyObject *
m_detect_content_type(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    const char *type = rt_http1_sniff(view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyUnicode_FromString(type);
}

static PyMethodDef functions[] = {
    {"_open_beneath", m_open_beneath, METH_VARARGS, NULL},
    {"detect_content_type", m_detect_content_type, METH_O,
     "detect_content_type($module, data, /)\n--\n\n"
     "The media type of data, judged by its first 512 bytes: the one that a response gets\n"
     "whose handler sets no Content-Type.\n\n"
     "    detect_content_type(b\"<html>\")    # \"text/html; charset=utf-8\"\n\n"
     "\"application/octet-stream\" where nothing fits.  Go: http.DetectContentType; the WHATWG's\n"
     "MIME Sniffing Standard."},
    {0},
};

int
http_file_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
