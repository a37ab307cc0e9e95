/* py_http_io.c - a connection's bytes: buffers, body reading, sending.
 *
 * The socket is edge-triggered.  `readable` and `writable` remember edges: they are
 * cleared when a call finds the socket drained (a read shorter than asked, EAGAIN)
 * or full, and set by the next event; while one is clear its call is not tried.
 */
#include "py_http.h"
#include "py_wait.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>

/* ---- buffers ---- */

#ifdef Py_GIL_DISABLED
http_cache *
http_cache_slow(py_m *mp)
{
    if (mp == NULL)
        return NULL;
    return mp->http_cache = PyMem_RawCalloc(1, sizeof(http_cache));
}
#else
http_cache http_the_cache;
#endif

http_block *
http_block_new(uint32_t cap)
{
    http_cache *cache = http_cache_here();
    http_block *b;
    if (cap <= HTTP_BLOCK_SIZE) {
        if (cache != NULL && (b = cache->blocks) != NULL) {
            cache->blocks = b->next;
            cache->nblocks--;
            RT_STORE(b->refs, 1);
            return b;
        }
        cap = HTTP_BLOCK_SIZE;
    }
    b = PyMem_Malloc(sizeof(*b) + cap);
    if (b != NULL) {
        b->cap = cap;
        RT_STORE(b->refs, 1);
    }
    return b;
}

void
http_block_unref(http_block *b)
{
    if (b == NULL || http_count(&b->refs, -1) != 0)
        return;
    http_cache *cache = http_cache_here();
    if (b->cap == HTTP_BLOCK_SIZE && cache != NULL && cache->nblocks < HTTP_MAX_FREE_BLOCKS) {
        b->next = cache->blocks;
        cache->blocks = b;
        cache->nblocks++;
    }
    else
        PyMem_Free(b);
}

static RT_NOINLINE int
out_grow(http_out *out, size_t n)
{
    if (out->data == NULL && n <= HTTP_OUT_SIZE) {
        http_cache *cache = http_cache_here();
        out->data = cache != NULL && cache->nouts ? cache->outs[--cache->nouts]
                                                  : PyMem_Malloc(HTTP_OUT_SIZE);
        out->cap = out->data ? HTTP_OUT_SIZE : 0;
        return out->data ? 0 : -1;
    }
    size_t cap = out->cap ? out->cap : HTTP_OUT_SIZE;
    while (cap < out->len + n)
        cap *= 2;
    char *data = cap <= UINT32_MAX ? PyMem_Realloc(out->data, cap) : NULL;
    if (data == NULL)
        return -1;
    out->data = data;
    out->cap = (uint32_t)cap;
    return 0;
}

int
http_out_reserve(http_out *out, size_t n)
{
    return RT_LIKELY(out->cap - out->len >= n) ? 0 : out_grow(out, n);
}

void
http_out_release(http_out *out)
{
    if (out->data == NULL)
        return;
    http_cache *cache = http_cache_here();
    if (out->cap == HTTP_OUT_SIZE && cache != NULL && cache->nouts < HTTP_MAX_FREE_OUTS)
        cache->outs[cache->nouts++] = out->data;
    else
        PyMem_Free(out->data);
    *out = (http_out){0};
}

/* ---- waiting ---- */

int
http_raise_gone(http_conn *c)
{
    c->io_failed = true;
    PyErr_SetString(PyExc_ConnectionError,
                    c->leaving   ? HTTP_REQUEST_OVER
                    : c->aborted ? "the server was closed while the request was running"
                                 : "the client has closed the connection");
    return -1;
}

/* How long who waits on another thread than the connection's relies on edges, before it looks
   for itself: the connection's M may be stuck in the handler, which may wait for this. */
#define LOOK_MIN 20000000               /* ns; doubles up to */
#define LOOK_MAX 2000000000

/* Look at the socket; true: as after an edge. */
static RT_COLD bool
look(http_conn *c, bool read)
{
    struct pollfd p = {.fd = c->pd.fd, .events = read ? POLLIN : POLLOUT};
    if (poll(&p, 1, 0) <= 0)
        return false;
    *(read ? &c->readable : &c->writable) = true;
    return true;
}

/* Park gp until an edge has come.  RT_WAKE_*. */
static uint32_t
park_in(http_conn *c, Goroutine *gp, bool read, int64_t deadline)
{
    bool away = py_tls_m != c->shard->mp;
    for (int64_t patience = LOOK_MIN;; patience += patience < LOOK_MAX ? patience : 0) {
        rt_g_arm(&gp->g);
        bool now = c->aborted || c->leaving || (read ? c->readable : c->writable);
        if (now && py_disarm(gp))
            return RT_WAKE_READY;
        if (!now)
            py_waitq_push(read ? &c->readers : &c->writers, &gp->seat->waiter);
        int64_t until = away ? rt_nanotime() + patience : deadline;
        if (until > deadline)
            until = deadline;
        py_release(&c->lock);
        uint32_t why = py_park(gp, PY_WAIT_IO, until);
        py_acquire(&c->lock);
        py_waitq_remove(&gp->seat->waiter);
        /* At the deadline, too: this thread, or the process, may have been stopped. */
        if (why == RT_WAKE_TIMEOUT && look(c, read))
            return RT_WAKE_READY;
        if (why != RT_WAKE_TIMEOUT || until == deadline)
            return why;
    }
}

/* Wait until an edge may have come.  -1 with an exception set.  Neither c nor what the
   caller does with it is touched by others meanwhile: they find c->reading or c->sending,
   and the connection's goroutine waits until both are off. */
static int
wait_edge(http_conn *c, bool read, int64_t timeout, const char *what)
{
    bool *busy = read ? &c->reading : &c->sending;
    if (c->aborted || c->leaving)
        return http_raise_gone(c);
    if (*busy) {
        PyErr_Format(PyExc_RuntimeError, "%s: another goroutine does so at the same time", what);
        return -1;
    }
    *busy = true;
    py_release(&c->lock);
    Goroutine *gp = py_current(what);       /* may make one */
    py_acquire(&c->lock);
    uint32_t why = RT_WAKE_INTERRUPT;
    if (gp != NULL) {
        int64_t began = rt_nanotime();
        int64_t deadline = http_pace_deadline(c, read, timeout, began);
        do
            why = park_in(c, gp, read, deadline);
        while (why == RT_WAKE_TIMEOUT && http_pace_goes_on(c, read, timeout, began, &deadline));
        http_pace_waited(c, read, began);
    }
    *busy = false;
    /* The connection's goroutine waits for us: it gets no further than the lock, until the
       caller has left. */
    if (RT_UNLIKELY(c->leaving))
        py_waitq_wake_all(&c->readers, RT_WAKE_READY);
    if (why == RT_WAKE_READY)
        return c->aborted || c->leaving ? http_raise_gone(c) : 0;
    if (why == RT_WAKE_TIMEOUT) {
        c->io_failed = true;
        py_raise_timeout(what);
    }
    return -1;
}

int
http_expel(http_conn *c, Goroutine *gp)
{
    int err = c->sending ? -1 : 0;
    c->leaving = c->close_after = true;
    if (RT_UNLIKELY(c->stream != NULL))
        http_stream_expel(c);
    while (c->reading || c->sending) {
        py_waitq woken = {0};
        py_waitq_claim_all(&c->readers, RT_WAKE_READY, &woken);
        py_waitq_claim_all(&c->writers, RT_WAKE_READY, &woken);
        rt_g_arm(&gp->g);
        py_waitq_push(&c->readers, &gp->seat->waiter);
        py_release(&c->lock);
        py_ready_all(&woken);
        if (py_park(gp, PY_WAIT_IO, RT_FOREVER) == RT_WAKE_INTERRUPT)
            PyErr_Clear();
        py_acquire(&c->lock);
        py_waitq_remove(&gp->seat->waiter);
    }
    c->leaving = false;
    return err;
}

/* http_stream_send() or http_stream_recv() has returned err.  -1 with an exception set. */
static RT_COLD int
stream_failed(http_conn *c, Py_ssize_t err, const char *what)
{
    if (err == HTTP_STREAM_RAISED)
        return -1;
    if (err != -ETIMEDOUT) {
        c->peer_closed = c->peer_closed || err == -EPIPE;
        return http_raise_gone(c);
    }
    c->io_failed = true;
    py_raise_timeout(what);
    return -1;
}

/* ---- sending ---- */

int
http_wait_writable(http_conn *c)
{
    if (http_is_cut(c) || c->leaving)
        return http_raise_gone(c);
    while (!c->writable)
        if (wait_edge(c, false, c->server->write_timeout, "sending a response") < 0)
            return -1;
    return 0;
}

int
http_send(http_conn *c, const char *extra, size_t nextra)
{
    http_out *out = &c->out;
    size_t done = 0;
    if (RT_UNLIKELY(c->broken || http_server_is_parents(c->server))) {
        http_raise_gone(c);
        goto fail;
    }
    if (RT_UNLIKELY(c->paced) && out->len - out->sent + nextra != 0 && http_pace_over(c, false)) {
        c->io_failed = true;
        py_raise_timeout("sending a response");
        goto fail;
    }
    if (RT_UNLIKELY(c->stream != NULL)) {
        int err = http_stream_send(c, extra, nextra);
        if (err < 0) {
            stream_failed(c, err, "sending a response");
            goto fail;
        }
        http_out_release(out);
        return 0;
    }
    for (;;) {
        size_t nout = out->len - out->sent;
        if (nout + (nextra - done) == 0)
            break;
        if (http_is_cut(c)) {
            http_raise_gone(c);
            goto fail;
        }
        ssize_t n;
        if (nextra == done)
            n = send(c->pd.fd, out->data + out->sent, nout, MSG_NOSIGNAL);
        else {
            struct iovec iov[2] = {{out->data + out->sent, nout},
                                   {(char *)extra + done, nextra - done}};
            struct msghdr msg = {.msg_iov = iov + (nout == 0), .msg_iovlen = 1 + (nout != 0)};
            n = sendmsg(c->pd.fd, &msg, MSG_NOSIGNAL);
        }
        if (n >= 0) {
            HTTP_COUNT(bytes_written, (uint64_t)n);
            size_t from_out = (size_t)n < nout ? (size_t)n : nout;
            out->sent += (uint32_t)from_out;
            done += (size_t)n - from_out;
            if (RT_UNLIKELY(c->paced))
                c->pace.sent += n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN) {
            c->peer_closed = true;
            http_raise_gone(c);
            goto fail;
        }
        c->writable = false;
        if (http_wait_writable(c) < 0)
            goto fail;
    }
    http_out_release(out);
    return 0;

fail:
    c->close_after = c->broken = true;
    http_out_release(out);
    return -1;
}

/* ---- reading ---- */

/* Does no request refer to it any more?  Pairs with http_block_unref(): what it has read
   there may be overwritten. */
static inline bool
alone(const http_block *b)
{
    return atomic_load_explicit(&b->refs, memory_order_acquire) == 1;
}

/* Make in->data[in_len, ...) hold at least `want` free bytes: by moving the unread
   bytes into a new block where a request holds on to the old one or it is full. */
static int
make_room(http_conn *c, uint32_t want)
{
    uint32_t unread = c->in_len - c->in_pos;
    if (c->in != NULL) {
        if (unread == 0 && alone(c->in))
            c->in_pos = c->in_len = 0;
        if (c->in->cap - c->in_len >= want)
            return 0;
        if (alone(c->in) && c->in->cap - unread >= want) {
            memmove(c->in->data, c->in->data + c->in_pos, unread);
            c->in_pos = 0;
            c->in_len = unread;
            return 0;
        }
    }
    http_block *b = http_block_new(unread + want);
    if (b == NULL)
        return -ENOMEM;
    if (unread)
        memcpy(b->data, c->in->data + c->in_pos, unread);
    http_block_unref(c->in);
    c->in = b;
    c->in_pos = 0;
    c->in_len = unread;
    return 0;
}

int
http_input_add(http_conn *c, const char *data, uint32_t n)
{
    int err = make_room(c, n);
    if (err == 0) {
        memcpy(c->in->data + c->in_len, data, n);
        c->in_len += n;
    }
    return err;
}

Py_ssize_t
http_fill(http_conn *c, uint32_t want)
{
    int err = make_room(c, want);
    if (err < 0)
        return err;
    size_t room = c->in->cap - c->in_len;
    ssize_t n;
    do
        n = recv(c->pd.fd, c->in->data + c->in_len, room, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        c->readable = false;
        return -errno;
    }
    /* A short read has drained the socket; the end of the stream stays readable. */
    if ((size_t)n < room && n != 0 && !c->peer_closed)
        c->readable = false;
    c->in_len += (uint32_t)n;
    HTTP_COUNT(bytes_read, (uint64_t)n);
    return n;
}

/* ---- request bodies ---- */

static int
send_continue(http_conn *c)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    c->continue_due = false;
    if (http_out_reserve(&c->out, sizeof(text) - 1) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    http_out_add(&c->out, text, sizeof(text) - 1);
    /* Who sends now, an informational response, sends this, too. */
    return c->sending ? 0 : http_send(c, NULL, 0);
}

static int
body_broken(http_conn *c, const char *why)
{
    c->close_after = c->io_failed = true;
    if (c->aborted)             /* then it is us who have shut the socket down */
        return http_raise_gone(c);
    PyErr_SetString(PyExc_ConnectionError, why);
    return -1;
}

/* Why a body cannot be read, raised only where the lock is not held: these exceptions are
   Python classes. */
enum {
    MALFORMED = -2,
    TOO_LARGE = -3
};

/* For http_stream_recv(). */
static Py_ssize_t
recv_stream(http_conn *c, char *dst, Py_ssize_t n)
{
    Py_ssize_t got = http_stream_recv(c, dst, n);
    if (got > 0)
        return got;
    c->close_after = true;
    c->peer_closed = c->peer_closed || got == 0;
    if (got == 0)
        return body_broken(c, "the client closed the connection in the middle of the body");
    return stream_failed(c, got, "reading the request body");
}

/* Wait until the socket may have more, then recv.  As http_fill(), but parks. */
static Py_ssize_t
fill_parking(http_conn *c)
{
    if (RT_UNLIKELY(c->stream != NULL))
        return recv_stream(c, NULL, 0);
    for (;;) {
        if (!c->readable
            && wait_edge(c, true, c->server->read_timeout, "reading the request body") < 0) {
            c->close_after = true;
            return -1;
        }
        if (!c->readable)
            continue;
        Py_ssize_t n = http_fill(c, 2048);
        if (n > 0)
            return n;
        if (n == 0)
            return body_broken(c, "the client closed the connection in the middle of the body");
        if (n == -ENOMEM) {
            PyErr_NoMemory();
            return -1;
        }
        if (n != -EAGAIN)
            return body_broken(c, "the connection broke in the middle of the body");
    }
}

/* Take up to n decoded bytes off the input of a chunked body.  > 0, 0: end or needs
   input (see body_done), MALFORMED or TOO_LARGE. */
static Py_ssize_t
take_chunked(http_conn *c, char *dst, Py_ssize_t n)
{
    while (c->in_pos < c->in_len && !c->body_done) {
        uint32_t used, avail = c->in_len - c->in_pos;
        rt_slice run;
        /* No more input than the output holds, so that a run always fits. */
        if (avail > (size_t)n)
            avail = (uint32_t)n;
        const char *in = c->in->data + c->in_pos;
        bool trailer = c->decoder.in_trailers;
        int r = rt_http1_chunked_feed(&c->decoder, in, avail, &used, &run);
        if (r < 0) {
            c->close_after = true;
            return MALFORMED;
        }
        if (trailer && http_trailers_keep(c, in, used, r == 1) < 0) {
            c->close_after = true;
            return -1;
        }
        c->in_pos += used;
        c->body_done = r == 1;
        if (run.len != 0) {
            if ((c->body_left -= run.len) < 0) {
                c->close_after = true;
                return TOO_LARGE;
            }
            memcpy(dst, in + run.off, run.len);
            return run.len;
        }
    }
    return 0;
}

/* The rest of a body with Content-Length straight from the socket into dst. */
static Py_ssize_t
recv_sized(http_conn *c, char *dst, Py_ssize_t n)
{
    if (RT_UNLIKELY(c->stream != NULL))
        return recv_stream(c, dst, n);
    for (;;) {
        if (!c->readable
            && wait_edge(c, true, c->server->read_timeout, "reading the request body") < 0) {
            c->close_after = true;
            return -1;
        }
        if (!c->readable)
            continue;
        ssize_t got = recv(c->pd.fd, dst, (size_t)n, 0);
        if (got > 0) {
            HTTP_COUNT(bytes_read, (uint64_t)got);
            if (got < n && !c->peer_closed)
                c->readable = false;
            return got;
        }
        if (got == 0)
            return body_broken(c, "the client closed the connection in the middle of the body");
        if (errno == EAGAIN)
            c->readable = false;
        else if (errno != EINTR)
            return body_broken(c, "the connection broke in the middle of the body");
    }
}

/* With the lock held; besides -1, MALFORMED or TOO_LARGE. */
static Py_ssize_t
body_read_locked(http_conn *c, char *dst, Py_ssize_t n)
{
    if (c->body_done || n == 0)
        return 0;
    if (RT_UNLIKELY(c->hijacked)) {
        PyErr_SetString(core->exc_hijacked, "the connection was hijacked: read from it");
        return -1;
    }
    if (RT_UNLIKELY(c->reading)) {
        PyErr_SetString(PyExc_RuntimeError, "two goroutines read the body of a request at the "
                        "same time");
        return -1;
    }
    if (RT_UNLIKELY(c->paced) && http_pace_over(c, true)) {
        c->close_after = c->io_failed = true;
        py_raise_timeout("reading the request body");
        return -1;
    }
    if (c->continue_due && send_continue(c) < 0)
        return -1;
    if (c->chunked) {
        for (;;) {
            Py_ssize_t got = take_chunked(c, dst, n);
            if (got != 0 || c->body_done)
                return got;
            if (fill_parking(c) < 0)
                return -1;
        }
    }
    if (n > c->body_left)
        n = (Py_ssize_t)c->body_left;
    uint32_t unread = c->in_len - c->in_pos;
    Py_ssize_t got;
    if (unread != 0) {
        got = n < unread ? n : unread;
        memcpy(dst, c->in->data + c->in_pos, (size_t)got);
        c->in_pos += (uint32_t)got;
    }
    else if ((got = recv_sized(c, dst, n)) < 0)
        return -1;
    c->body_left -= got;
    c->body_done = c->body_left == 0;
    return got;
}

static RT_COLD void
raise_malformed(const char *why)
{
    PyObject *exc = PyObject_CallFunction(http_hooks.http_error, "is", 400, why);
    if (exc != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_XDECREF(exc);
}

Py_ssize_t
http_body_read(http_request *r, char *dst, Py_ssize_t n, int64_t *left)
{
    http_conn *c = r->conn;
    Py_ssize_t got = -1;
    const char *why = NULL;
    py_acquire(&c->lock);
    if (RT_UNLIKELY(c->req != r))
        PyErr_SetString(PyExc_RuntimeError, HTTP_REQUEST_OVER);
    else
        got = body_read_locked(c, dst, n);
    if (got >= 0)
        *left = http_body_left(c);
    else
        why = c->decoder.error;
    bool watch = c->stream != NULL && c->body_done && r->context != NULL;
    py_release(&c->lock);
    if (RT_UNLIKELY(watch))
        http_stream_watch(c);
    if (RT_UNLIKELY(got == MALFORMED))
        raise_malformed(why);
    else if (RT_UNLIKELY(got == TOO_LARGE))
        PyErr_Format(http_hooks.body_too_large, "the request body is larger than %lld bytes",
                     (long long)c->server->max_body);
    return got < 0 ? -1 : got;
}

int
http_body_discard(http_conn *c)
{
    while (!c->body_done) {
        uint32_t unread = c->in_len - c->in_pos;
        if (unread != 0) {
            uint32_t used = unread;
            if (c->chunked) {
                rt_slice run;
                int r = rt_http1_chunked_feed(&c->decoder, c->in->data + c->in_pos, unread,
                                              &used, &run);
                if (r < 0)
                    return -1;
                c->body_done = r == 1;
            }
            else {
                if (used > c->body_left)
                    used = (uint32_t)c->body_left;
                c->body_left -= used;
                c->body_done = c->body_left == 0;
            }
            c->in_pos += used;
            if ((c->drain_left -= used) < 0)
                return -1;
            continue;
        }
        if (!c->readable)
            return 0;
        Py_ssize_t n = http_fill(c, 2048);
        if (n == -EAGAIN)
            return 0;
        if (n <= 0)
            return -1;
    }
    return 1;
}
