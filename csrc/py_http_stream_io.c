/* py_http_stream_io.c - bytes of a connection over a Python stream object; see py_http_stream.c.
 *
 * The stream is read by read(n), not into our memory: a stream that kept the buffer could
 * write there later.  What is sent is copied into bytes objects of at most PIECE, each with
 * write_timeout, so a peer must take so much in that time.
 */
#include "py_http_stream.h"

#include <errno.h>

#define PIECE 65536                     /* bytes written at a time */

static struct {                 /* interned str, for good */
    PyObject *read, *write, *close, *close_write, *set_read_deadline, *set_write_deadline;
} names;

/* ---- the stream object ---- */

void
http_stream_free(http_stream *st)
{
    Py_XDECREF(st->io);
    Py_XDECREF(st->context);
    Py_XDECREF(st->remote_addr);
    Py_XDECREF(st->tls);
    Py_XDECREF(st->server);
    PyMem_Free(st);
}

PyObject *
http_stream_remote_addr(const http_conn *c)
{
    return c->stream->remote_addr;
}

PyObject *
http_stream_tls(const http_conn *c)
{
    return c->stream->tls;
}

/* Call a method without a result.  -1 with an exception set. */
static int
call(PyObject *io, PyObject *name, PyObject *arg)
{
    PyObject *r = arg ? PyObject_CallMethodOneArg(io, name, arg)
                      : PyObject_CallMethodNoArgs(io, name);
    Py_XDECREF(r);
    return r ? 0 : -1;
}

int
http_stream_set_limit(http_stream *st, bool read, int64_t ns)
{
    _Atomic bool *limited = read ? &st->read_limited : &st->write_limited;
    if (ns == INT64_MAX && !RT_LOAD(*limited))
        return 0;
    PyObject *seconds = ns == INT64_MAX ? Py_NewRef(Py_None) : PyFloat_FromDouble((double)ns / 1e9);
    if (seconds == NULL)
        return -1;
    int r = call(st->io, read ? names.set_read_deadline : names.set_write_deadline, seconds);
    Py_DECREF(seconds);
    RT_STORE(*limited, ns != INT64_MAX);
    return r;
}

int
http_stream_error(void)
{
    int err = PyErr_ExceptionMatches(PyExc_TimeoutError) ? -ETIMEDOUT
              : PyErr_ExceptionMatches(PyExc_OSError) || PyErr_ExceptionMatches(PyExc_EOFError)
                  ? -EPIPE
                  : HTTP_STREAM_RAISED;
    if (err != HTTP_STREAM_RAISED)
        PyErr_Clear();
    return err;
}

/* Up to n bytes (a bytes object, empty at the end), or NULL with an exception set. */
static PyObject *
read_bytes(http_stream *st, Py_ssize_t n)
{
    PyObject *size = PyLong_FromSsize_t(n);
    PyObject *data = size ? PyObject_CallMethodOneArg(st->io, names.read, size) : NULL;
    Py_XDECREF(size);
    if (data == NULL || RT_LIKELY(PyBytes_Check(data) && PyBytes_GET_SIZE(data) <= n))
        return data;
    if (PyBytes_Check(data))
        PyErr_Format(PyExc_ValueError, "read(%zd) of a stream returned %zd bytes", n,
                     PyBytes_GET_SIZE(data));
    else
        PyErr_Format(PyExc_TypeError, "read() of a stream must return bytes, not %.200s",
                     Py_TYPE(data)->tp_name);
    Py_DECREF(data);
    return NULL;
}

/* Write all of data (stolen).  -1 with an exception set. */
static int
write_bytes(http_stream *st, PyObject *data)
{
    for (;;) {
        PyObject *written = PyObject_CallMethodOneArg(st->io, names.write, data);
        Py_ssize_t n = PyBytes_GET_SIZE(data), took = n;
        if (written != NULL && PyLong_Check(written))
            took = PyLong_AsSsize_t(written);
        Py_XDECREF(written);
        if (written != NULL && took >= 0 && took < n && !PyErr_Occurred()) {
            Py_SETREF(data, PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + took, n - took));
            if (data != NULL)
                continue;
        }
        Py_XDECREF(data);
        return PyErr_Occurred() ? -1 : 0;
    }
}

/* ---- bodies and responses, by whoever has them; the connection's lock is held ---- */

void
http_stream_leave_io(http_conn *c, bool *busy)
{
    *busy = false;
    if (RT_UNLIKELY(c->leaving))        /* its goroutine waits for that */
        py_waitq_wake_all(&c->readers, RT_WAKE_READY);
}

/* Is there to be no more I/O?  c is locked. */
static bool
is_over(http_conn *c)
{
    return http_is_cut(c) || c->leaving;
}

bool
http_stream_must_go(http_conn *c)
{
    py_acquire(&c->lock);
    bool go = is_over(c);
    py_release(&c->lock);
    return go;
}

static int64_t
own_deadline(const http_conn *c, bool read)
{
    return read ? c->pace.read_deadline : c->pace.write_deadline;
}

/* Before a read, or a write of n bytes, which c->reading or c->sending tell: set how long it may
   take.  The lock is let go of meanwhile.  0 or an error; *began: when that was. */
static int
begin_io(http_conn *c, bool read, int64_t n, int64_t *began)
{
    int64_t timeout = read ? c->server->read_timeout : c->server->write_timeout;
    *began = http_now(c);
    for (;; n = 0) {
        int64_t own = own_deadline(c, read);
        int64_t deadline = http_pace_deadline_stream(c, read, timeout, *began, n);
        py_release(&c->lock);
        int64_t left = deadline == RT_FOREVER ? INT64_MAX : deadline - http_now(c);
        int err = http_stream_set_limit(c->stream, read, left > 0 ? left : 0) < 0 ? http_stream_error() : 0;
        py_acquire(&c->lock);
        if (err != 0)
            return err;
        if (is_over(c))
            return -ECANCELED;
        if (RT_LIKELY(own == own_deadline(c, read)))
            return 0;
    }
}

void
http_stream_limit(http_conn *c, bool read)
{
    http_stream *st = c->stream;
    if (st->io == NULL || !(read ? c->reading && !st->watching : c->sending))
        return;                 /* begin_io() will see it */
    PyObject *io = Py_NewRef(st->io);
    int64_t deadline = own_deadline(c, read);
    RT_STORE(*(read ? &st->read_limited : &st->write_limited), true);
    py_release(&c->lock);
    int64_t left = deadline - http_now(c);
    PyObject *seconds = deadline == RT_FOREVER ? Py_NewRef(Py_None)
                                               : PyFloat_FromDouble((double)left / 1e9);
    if (seconds == NULL
        || call(io, read ? names.set_read_deadline : names.set_write_deadline, seconds) < 0)
        PyErr_Clear();          /* it is over */
    Py_XDECREF(seconds);
    if (http_stream_must_go(c))             /* what it was told meanwhile holds */
        http_stream_wake(io, read);
    Py_DECREF(io);
    py_acquire(&c->lock);
}

Py_ssize_t
http_stream_read(http_conn *c, char *dst, Py_ssize_t n)
{
    PyObject *data = read_bytes(c->stream, dst != NULL ? n : HTTP_STREAM_READ);
    if (data == NULL)
        return http_stream_error();
    Py_ssize_t got = PyBytes_GET_SIZE(data);
    HTTP_COUNT(bytes_read, (uint64_t)got);
    if (dst != NULL)
        memcpy(dst, PyBytes_AS_STRING(data), (size_t)got);
    else if (got > 0 && http_input_add(c, PyBytes_AS_STRING(data), (uint32_t)got) < 0) {
        PyErr_NoMemory();
        got = HTTP_STREAM_RAISED;
    }
    Py_DECREF(data);
    return got;
}

Py_ssize_t
http_stream_recv(http_conn *c, char *dst, Py_ssize_t n)
{
    if (is_over(c) || c->stream->io == NULL)
        return -ECANCELED;
    if (c->reading) {
        PyErr_SetString(PyExc_RuntimeError, "two goroutines read the body of a request at the "
                        "same time");
        return HTTP_STREAM_RAISED;
    }
    c->reading = true;
    int64_t began;
    Py_ssize_t got = begin_io(c, true, 0, &began);
    if (got == 0) {
        py_release(&c->lock);
        got = http_stream_read(c, dst, n < PIECE ? n : PIECE);
        if (got == 0 || got == -EPIPE)
            http_context_lost(c);
        py_acquire(&c->lock);
        http_pace_waited(c, true, began);
    }
    http_stream_leave_io(c, &c->reading);
    if (got != HTTP_STREAM_RAISED && is_over(c))
        return -ECANCELED;
    return got;
}

int
http_stream_send(http_conn *c, const char *extra, size_t nextra)
{
    http_out *out = &c->out;
    size_t done = 0;
    int err = 0;
    if (out->len - out->sent + nextra == 0)
        return 0;
    if (c->sending) {
        PyErr_SetString(PyExc_RuntimeError, "sending a response: another goroutine does so at the "
                        "same time");
        return HTTP_STREAM_RAISED;
    }
    c->sending = true;
    while (err == 0) {
        size_t nout = out->len - out->sent, n = nout + (nextra - done);
        if (n == 0)
            break;
        if (is_over(c) || c->stream->io == NULL) {
            err = -ECANCELED;
            break;
        }
        if (n > PIECE)
            n = PIECE;
        PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
        if (data == NULL) {
            err = HTTP_STREAM_RAISED;
            break;
        }
        size_t from_out = n < nout ? n : nout;
        if (from_out != 0)
            memcpy(PyBytes_AS_STRING(data), out->data + out->sent, from_out);
        if (n != from_out)
            memcpy(PyBytes_AS_STRING(data) + from_out, extra + done, n - from_out);
        out->sent += (uint32_t)from_out;
        done += n - from_out;
        int64_t began;
        err = begin_io(c, false, (int64_t)n, &began);
        py_release(&c->lock);
        if (err != 0)
            Py_DECREF(data);
        else if (write_bytes(c->stream, data) < 0)
            err = http_stream_error();
        else
            HTTP_COUNT(bytes_written, (uint64_t)n);
        if (err == -EPIPE)
            http_context_lost(c);
        py_acquire(&c->lock);
        http_pace_waited(c, false, began);
        if (err != 0 && err != HTTP_STREAM_RAISED && is_over(c))
            err = -ECANCELED;
    }
    http_stream_leave_io(c, &c->sending);
    return err;
}

/* ---- for others ---- */

int
http_stream_call(http_stream *st, http_stream_method method)
{
    return call(st->io, method == HTTP_STREAM_CLOSE ? names.close : names.close_write, NULL);
}

void
http_stream_close_quietly(PyObject *io)
{
    if (call(io, names.close, NULL) < 0)
        PyErr_Clear();          /* not the caller's affair */
}

void
http_stream_wake(PyObject *io, bool read)
{
    PyObject *now = PyFloat_FromDouble(0.0);
    if (now == NULL || call(io, read ? names.set_read_deadline : names.set_write_deadline, now) < 0) {
        PyErr_Clear();
        http_stream_close_quietly(io);
    }
    Py_XDECREF(now);
}

void
http_stream_expel(http_conn *c)
{
    bool reading = c->reading, sending = c->sending;
    PyObject *io = c->stream->io;       /* the caller's connection: it stays */
    py_release(&c->lock);
    PyObject *exc = py_take_exception();
    if (reading)
        http_stream_wake(io, true);
    if (sending)
        http_stream_wake(io, false);
    if (exc != NULL)
        py_raise(exc);
    py_acquire(&c->lock);
}

void
http_stream_close_elsewhere(PyObject *io)
{
    PyObject *close = PyObject_GetAttr(io, names.close);
    PyObject *gp = close ? py_go(names.close, &close, 1, NULL) : NULL;
    if (gp == NULL) {
        PyErr_Clear();
        http_stream_close_quietly(io);
    }
    Py_XDECREF(gp);
    Py_XDECREF(close);
}

int
http_stream_io_init(void)
{
    const struct {
        PyObject **name;
        const char *text;
    } all[] = {{&names.read, "read"}, {&names.write, "write"}, {&names.close, "close"},
               {&names.close_write, "close_write"},
               {&names.set_read_deadline, "set_read_deadline"},
               {&names.set_write_deadline, "set_write_deadline"}};
    for (size_t i = 0; i < RT_ARRAY_LEN(all); i++)
        if ((*all[i].name = PyUnicode_InternFromString(all[i].text)) == NULL)
            return -1;
    return 0;
}
