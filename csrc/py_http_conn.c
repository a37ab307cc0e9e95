/* py_http_conn.c - the life of a connection.
 *
 *            head complete             response sent
 *   HEAD ------------------> ACTIVE ------------------> IDLE (then HEAD at the
 *    ^                         |                              next first byte)
 *    |   body unread, small    v
 *    +---------------------- DRAIN
 *
 *   LINGER: after a refusal, or a response with input unread, our side is shut down
 *   and input is discarded until the peer closes; closing at once would reset the
 *   connection and could destroy the response on its way (RFC 9112 section 9.6).
 *
 * In every state but ACTIVE the poller's callback owns the connection and may
 * destroy it; in ACTIVE the goroutine does, and the callback only notes edges.  All of
 * that is on the shard's M, and only while there is a request may others come in.
 */
#include "py_http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_DRAIN (256 * 1024)          /* bytes of an unread body */
#define MAX_LINGER (1024 * 1024)        /* bytes discarded before giving up */
#define FORKED HTTP_FORKED              /* this is a child the handler has forked, which
                                           must leave the connection alone */
#define MAX_PIPELINED 32                /* requests served before others get a turn */
#define FLUSH_AT (64 * 1024)            /* bytes of joined responses */

static void parse_pipelined(http_conn *c, int64_t now);

/* ---- birth and death ---- */

static void conn_ready(rt_pd *pd, uint32_t mode);

static void
keep_peer(http_conn *c, const struct sockaddr *peer)
{
    c->peer.family = peer->sa_family;
    if (peer->sa_family == AF_INET) {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)peer;
        c->peer.port = ntohs(in4->sin_port);
        memcpy(c->peer.ip, &in4->sin_addr, 4);
    }
    else if (peer->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)peer;
        c->peer.port = ntohs(in6->sin6_port);
        c->peer.scope = in6->sin6_scope_id;
        memcpy(c->peer.ip, &in6->sin6_addr, 16);
    }
}

http_conn *
http_conn_new(http_server *s, int fd, const struct sockaddr *peer)
{
    http_conn *c = PyMem_Calloc(1, sizeof(*c));
    if (c == NULL) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    c->refs = 1;
    c->pd.fd = fd;
    c->server = (http_server *)Py_NewRef((PyObject *)s);
    c->writable = true;
    keep_peer(c, peer);
    return c;
}

/* What remains to be done when its descriptor is closed. */
static void
conn_gone(http_conn *c)
{
    http_server *s = c->server;
    http_conn_unref(c);
    HTTP_COUNT(closed, 1);
    http_server_closed_one(s, http_count(&s->nconns, -1));
    Py_DECREF(s);
}

void
http_conn_discard(http_conn *c)
{
    if (c->stream == NULL)
        close(c->pd.fd);
    conn_gone(c);
}

void
http_conn_open(http_conn *c)
{
    if (rt_pd_open(&c->pd, &c->shard->mp->p, c->pd.fd, conn_ready) < 0)
        http_conn_discard(c);
    else
        http_shard_add(c);
}

void
http_conn_destroy(http_conn *c)
{
    if (RT_UNLIKELY(c->stream != NULL)) {
        c->broken = true;       /* its goroutine does it */
        return;
    }
    if (RT_UNLIKELY(c->hijacked)) {
        http_hijack_end(c);
        return;
    }
    if (RT_UNLIKELY(c->server->watch != NULL))
        http_watch_note(c, HTTP_CONN_CLOSED);
    http_shard_remove(c);
    int fd = c->pd.fd;
    rt_pd_close(&c->pd);
    close(fd);
    http_block_unref(c->in);
    http_out_release(&c->out);
    conn_gone(c);
}

void
http_conn_abort(http_conn *c)
{
    py_waitq woken = {0};
    py_acquire(&c->lock);
    if (c->hijacked) {          /* no longer ours */
        py_release(&c->lock);
        return;
    }
    c->aborted = true;
    c->readable = c->writable = true;
    shutdown(c->pd.fd, SHUT_RDWR);
    py_waitq_claim_all(&c->readers, RT_WAKE_READY, &woken);
    py_waitq_claim_all(&c->writers, RT_WAKE_READY, &woken);
    py_release(&c->lock);
    py_ready_all(&woken);
}

/* All input is used up: an idle connection keeps no buffer. */
static void
drop_input(http_conn *c)
{
    http_block_unref(c->in);
    c->in = NULL;
    c->in_pos = c->in_len = c->in_seen = 0;
}

/* ---- ending a connection politely ---- */

/* Discard input.  False: the connection is at its end. */
static bool
discard_input(http_conn *c)
{
    c->in_pos = c->in_len = 0;
    while (c->readable) {
        Py_ssize_t n = http_fill(c, 2048);
        if (n == -EAGAIN)
            break;
        if (n <= 0 || (c->drain_left -= n) < 0)
            return false;
        c->in_pos = c->in_len = 0;
    }
    return true;
}

/* The last response is sent.  Close now, or linger while the peer may still send. */
static void
close_politely(http_conn *c)
{
    bool quiet = c->in_pos == c->in_len && !c->readable && c->body_done;
    if (quiet || c->aborted || shutdown(c->pd.fd, SHUT_WR) < 0) {
        http_conn_destroy(c);
        return;
    }
    c->drain_left = MAX_LINGER;
    http_conn_set_state(c, HTTP_LINGER);
    if (!discard_input(c))
        http_conn_destroy(c);
}

/* Send what is in c->out without parking, then end the connection. */
static void
refuse(http_conn *c, int status, const char *why)
{
    c->close_after = true;
    c->body_done = false;       /* whatever follows is not read as a request */
    if (http_simple_response(c, status, why, "") == 0) {
        if (c->stream != NULL)
            return;             /* its goroutine sends it */
        /* A peer that does not even read this much gets no more of our time. */
        ssize_t n = send(c->pd.fd, c->out.data, c->out.len, MSG_NOSIGNAL);
        HTTP_COUNT(bytes_written, n < 0 ? 0 : (uint64_t)n);
        if (n == (ssize_t)c->out.len) {
            http_out_release(&c->out);
            close_politely(c);
            return;
        }
    }
    http_conn_destroy(c);
}

static bool read_head(http_conn *c);

void
http_conn_expired(http_conn *c)
{
    /* What came while this thread was busy, or the process was stopped, came in time. */
    if (c->state == HTTP_HEAD || c->state == HTTP_IDLE) {
        bool idle = c->state == HTTP_IDLE;
        c->readable = true;
        if (!read_head(c) || (idle && c->state == HTTP_HEAD))
            return;
    }
    if (c->state == HTTP_HEAD && c->in != NULL && c->in_len != c->in_pos)
        refuse(c, 408, "the request head did not arrive in time");
    else
        http_conn_destroy(c);
}

/* ---- running the handler ---- */

/* The status an HTTPError asks for. */
static int
error_status(PyObject *exc)
{
    PyObject *value = PyObject_GetAttrString(exc, "status");
    long status = value ? PyLong_AsLong(value) : -1;
    Py_XDECREF(value);
    if (status < 400 || status > 599) {
        PyErr_Clear();
        return 500;
    }
    return (int)status;
}

/* The handler has failed, or its response: build another one if that is still possible.  One
   that was chosen, by an HTTPError, has the header fields that were set so far.  After another
   exception nobody knows what of them is true: a cookie may be for what was not done.
   -1: the connection is broken.  *fatal: an exception (owned) that is not the handler's
   own affair.  *sent: the status of what is sent instead. */
static RT_COLD int
failed_response(http_conn *c, http_writer *w, PyObject **fatal, int *sent)
{
    if (w->hijack == HTTP_TAKEN && !PyErr_Occurred())
        return -1;              /* there is no response to finish */
    PyObject *exc = py_take_exception();
    bool head_sent = http_writer_cut(w);
    py_acquire(&c->lock);
    bool io_failed = c->io_failed, gone = c->aborted || c->peer_closed;
    py_release(&c->lock);
    int status = 500;
    bool chosen = PyErr_GivenExceptionMatches(exc, http_hooks.http_error);
    if (chosen)
        status = error_status(exc);
    else if (io_failed && !gone && PyErr_GivenExceptionMatches(exc, PyExc_TimeoutError))
        status = 408;
    else if (PyErr_GivenExceptionMatches(exc, PyExc_SystemExit)
             || PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt))
        *fatal = Py_NewRef(exc);
    else if (io_failed && PyErr_GivenExceptionMatches(exc, PyExc_ConnectionError))
        status = gone ? 0 : 400;
    if (status == 500 && *fatal == NULL)
        http_log_error(c, w->hijack  ? "a handler failed after it had hijacked the connection"
                          : head_sent ? "a handler failed after it had begun to respond"
                                      : "a handler failed", exc);
    Py_DECREF(exc);
    int err = head_sent || status == 0 ? -1 : 0;
    py_acquire(&c->lock);
    /* What was begun cannot be taken back: the cut tells the client.  After a 413 the rest of
       the body would only follow. */
    if (err < 0 || *fatal != NULL || c->continue_due || (status == 413 && !c->body_done))
        c->close_after = true;
    if (err == 0)
        err = chosen ? http_error_response(w, status) : http_simple_response(c, status, NULL, "");
    if (err == 0)
        *sent = status;
    py_release(&c->lock);
    return err;
}

/* Call the handler and build the response.  -1: the connection is broken.  *fatal: see
   failed_response().  *status: of the response; 0: there is none. */
static int
run_request(http_conn *c, PyObject **fatal, int *status)
{
    http_request *r = c->req;
    http_writer *w = http_writer_new(c);
    if (w == NULL) {
        PyErr_Clear();
        return -1;
    }
    PyObject *args[3] = {NULL, (PyObject *)w, (PyObject *)r};
    PyObject *value = PyObject_Vectorcall(c->server->handler, args + 1,
                                          2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    int err = 0;
    if (RT_UNLIKELY(http_server_is_parents(c->server))) {
        Py_XDECREF(value);
        return FORKED;
    }
    if (RT_LIKELY(value != NULL)) {
        if (value != Py_None)
            err = http_writer_returned(w, value);
        Py_DECREF(value);
    }
    else if (PyErr_ExceptionMatches(core->exc_goexit))
        PyErr_Clear();          /* the handler has ended itself */
    else
        err = -1;
    if (RT_LIKELY(err == 0))
        err = http_writer_finish(w);
    *status = w->head_sent ? w->status : 0;
    if (RT_UNLIKELY(err < 0))
        err = failed_response(c, w, fatal, status);
    Py_DECREF(w);
    return err;
}

/* The same where only so many may run at once. */
static int
run_gated(http_conn *c, Goroutine *gp, PyObject **fatal, int *status)
{
    if (!http_gate_enter(c->server, gp)) {
        *status = 503;
        return http_gate_refuse(c);
    }
    int err = run_request(c, fatal, status);
    if (err != FORKED)
        http_gate_leave(c->server);
    return err;
}

/* What one handler has left in its context is not for the next. */
static inline void
fresh_context(http_conn *c)
{
    if (RT_UNLIKELY(c->stream != NULL)) {
        http_stream_context(c->stream);
        return;
    }
    PyThreadState *ts = c->shard->mp->tstate;
    if (RT_UNLIKELY(ts->context != NULL))
        Py_XDECREF(py_swap_context(ts, NULL));
}

/* A response is broken off: what was written of it goes out, and whole ones before it. */
static RT_COLD void
send_rest(http_conn *c)
{
    if (c->hijacked || c->out.len == c->out.sent)
        return;
    py_acquire(&c->lock);
    int err = http_send(c, NULL, 0);
    py_release(&c->lock);
    if (err < 0)
        PyErr_Clear();
}

int
http_conn_serve(http_conn *c, Goroutine *gp, PyObject **fatal)
{
    for (int n = 1;; n++) {
        int status = 0;
        int err = RT_LIKELY(c->server->gate.limit == 0) ? run_request(c, fatal, &status)
                                                        : run_gated(c, gp, fatal, &status);
        if (RT_UNLIKELY(err == FORKED))
            return FORKED;
        http_shard *sh = c->shard;
        RT_COUNT(sh->requests, 1);
        RT_COUNT(sh->mp->http.requests, 1);
        http_sample sample = http_stats_sample(c->req, status);
        if (RT_UNLIKELY(http_request_end(c))) {
            py_acquire(&c->lock);
            if (c->stream != NULL && http_stream_recall(c, gp) < 0)
                PyErr_Clear();
            if ((c->reading || c->sending) && http_expel(c, gp) < 0)
                err = -1;
            py_release(&c->lock);
        }
        if (err < 0) {
            send_rest(c);
            http_stats_add(sh->mp, &sample);
            return -1;
        }
        bool done = c->body_done;
        if (RT_UNLIKELY(!done)) {
            c->drain_left = MAX_DRAIN;
            if (c->continue_due)
                c->close_after = true;      /* the client may or may not send it */
            else {
                int d = http_body_discard(c);
                if (d < 0)
                    c->close_after = true;
                done = d > 0;
            }
        }
        /* The next request, if its head is here already.  It begins where this one ends. */
        bool counted = false;
        if (done && !c->close_after && c->in_pos != c->in_len && n < MAX_PIPELINED
            && c->out.len < FLUSH_AT) {
            fresh_context(c);
            parse_pipelined(c, http_stats_add(sh->mp, &sample));
            if (c->req != NULL)
                continue;
            counted = true;
        }
        py_acquire(&c->lock);
        err = http_send(c, NULL, 0);
        py_release(&c->lock);
        if (err < 0)
            PyErr_Clear();
        if (!counted)
            http_stats_add(sh->mp, &sample);
        return err;
    }
}

/* The goroutine of a connection, from a complete head until the poller has it again. */
static PyObject *
conn_main(Goroutine *gp)
{
    http_conn *c = gp->call.c.arg;
    PyObject *fatal = NULL;
    int err = http_conn_serve(c, gp, &fatal);
    if (RT_UNLIKELY(err == FORKED))
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    if (RT_UNLIKELY(err < 0))
        goto broken;
    /* Back to the poller. */
    c->in_seen = 0;
    if (RT_UNLIKELY(c->close_after)) {
        close_politely(c);
    }
    else if (RT_UNLIKELY(!c->body_done)) {
        http_conn_set_state(c, HTTP_DRAIN);
        if (c->readable)
            conn_ready(&c->pd, 0);
    }
    else if (c->in_pos == c->in_len) {
        drop_input(c);
        http_conn_set_state(c, HTTP_IDLE);
        if (RT_LOAD(c->server->hasten))
            http_conn_destroy(c);
        else if (c->readable)
            conn_ready(&c->pd, 0);
    }
    else {
        http_conn_set_state(c, HTTP_HEAD);
        conn_ready(&c->pd, 0);
    }
    goto out;

broken:
    http_conn_destroy(c);
out:
    if (fatal != NULL) {
        py_raise(fatal);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- reading heads ---- */

/* The status to refuse a well-formed request with, or 0. */
static int
refusal(const http_server *s, const rt_http1_req *head, const char **why)
{
    if (head->content_length > s->max_body) {
        *why = "the request body is too large";
        return 413;
    }
    if (head->minor == 0 && head->content_length < 0
        && (head->method_id == RT_HM_POST || head->method_id == RT_HM_PUT)) {
        *why = "an HTTP/1.0 request with this method needs Content-Length";
        return 411;
    }
    return 0;
}

/* A complete, good head of n bytes: set up c->req.  -1: no memory, nothing done. */
static int
begin_request(http_conn *c, const rt_http1_req *head, int n, int64_t now)
{
    http_server *s = c->server;
    http_request *r = http_request_new(c, head);
    if (r == NULL) {
        PyErr_Clear();
        return -1;
    }
    py_acquire(&c->lock);       /* an old Request may be compared with it */
    c->req = r;
    py_release(&c->lock);
    r->began = now;
    c->io_failed = false;
    c->chunked = head->chunked;
    c->body_done = !head->chunked && head->content_length <= 0;
    c->body_left = head->chunked ? s->max_body : head->content_length;
    c->close_after = !head->keep_alive || RT_LOAD(s->retiring);
    if (RT_UNLIKELY(s->max_served != 0) && ++c->served >= s->max_served)
        c->close_after = true;
    c->continue_due = head->expect_continue && !c->body_done;
    if (RT_UNLIKELY(c->paced)) {
        c->pace = (http_pace){0};
        c->paced = false;
    }
    if (!c->body_done && s->body_timeout != INT64_MAX) {
        c->pace.read_until = http_now(c) + s->body_timeout;
        c->paced = true;
    }
    if (head->chunked)
        rt_http1_chunked_init(&c->decoder);
    c->in_pos += (uint32_t)n;
    c->in_seen = 0;
    return 0;
}

/* In ACTIVE, between pipelined requests: set c->req if a whole, good head is here.
   Anything else waits for the poller's side, after the responses are sent. */
static void
parse_pipelined(http_conn *c, int64_t now)
{
    http_server *s = c->server;
    const char *why;
    rt_http1_req head = {.fields = c->shard->scratch};
    int n = rt_http1_parse_head(c->in->data + c->in_pos, c->in_len - c->in_pos, 0, &s->limits,
                                &head);
    if (n > 0 && refusal(s, &head, &why) == 0)
        (void)begin_request(c, &head, n, now);
}

/* Look for a head in the unread input.  Sets c->req when there is one.  False: the
   connection was refused and may be gone. */
static bool
parse_input(http_conn *c)
{
    http_server *s = c->server;
    rt_http1_req head = {.fields = c->shard->scratch};
    const char *why;
    uint32_t avail = c->in_len - c->in_pos;
    int n = rt_http1_parse_head(c->in->data + c->in_pos, avail, c->in_seen, &s->limits, &head);
    if (n == 0) {
        c->in_seen = avail;
        return true;
    }
    int status = n < 0 ? -n : refusal(s, &head, &why);
    if (RT_UNLIKELY(status != 0)) {
        refuse(c, status, n < 0 ? head.error : why);
        return false;
    }
    int64_t now = c->stream == NULL ? rt_p_batch_time(&c->shard->mp->p) : rt_nanotime();
    if (begin_request(c, &head, n, now) < 0) {
        http_conn_destroy(c);
        return false;
    }
    return true;
}

bool
http_conn_parse(http_conn *c)
{
    return parse_input(c);
}

/* There is no memory for a goroutine: the connection is closed. */
static void
drop_request(http_conn *c)
{
    http_request_end(c);
    http_conn_destroy(c);
}

static void
conn_cancel(Goroutine *gp)
{
    drop_request(gp->call.c.arg);
}

/* HEAD and IDLE: read, parse, and start a goroutine on a complete head.  False: it does not
   wait for a head any more, and may be gone. */
static bool
read_head(http_conn *c)
{
    for (;;) {
        uint32_t avail = c->in_len - c->in_pos;
        if (avail > c->in_seen) {
            if (!parse_input(c))
                return false;
            if (c->req != NULL)
                break;
            if (c->state == HTTP_IDLE)
                http_conn_set_state(c, HTTP_HEAD);
        }
        if (!c->readable) {
            if (avail == 0)
                drop_input(c);
            return true;
        }
        Py_ssize_t n = http_fill(c, avail > 1024 ? avail : 1024);
        if (n <= 0 && n != -EAGAIN) {
            http_conn_destroy(c);
            return false;
        }
    }
    http_conn_set_state(c, HTTP_ACTIVE);
    if (py_g_spawn_c(c->shard->mp, conn_main, conn_cancel, c) < 0) {
        PyErr_Clear();
        drop_request(c);
    }
    return false;
}

/* ---- events ---- */

/* In ACTIVE: note the edge, wake who waits for it. */
static void
note_edge(http_conn *c, uint32_t mode)
{
    py_waitq woken = {0};
    PyObject *context = NULL;
    py_acquire(&c->lock);
    if (mode & (RT_POLL_IN | RT_POLL_HUP | RT_POLL_ERR)) {
        c->readable = true;
        py_waitq_claim_all(&c->readers, RT_WAKE_READY, &woken);
    }
    if (mode & (RT_POLL_OUT | RT_POLL_ERR)) {
        c->writable = true;
        py_waitq_claim_all(&c->writers, RT_WAKE_READY, &woken);
    }
    if (mode & (RT_POLL_HUP | RT_POLL_ERR)) {
        c->peer_closed = true;
        if (c->req != NULL && !c->aborted)      /* else the server ends them all */
            context = Py_XNewRef(c->req->context);
    }
    py_release(&c->lock);
    py_ready_all(&woken);
    if (RT_UNLIKELY(context != NULL))
        http_context_gone(c, context);
}

static void
conn_ready(rt_pd *pd, uint32_t mode)
{
    http_conn *c = http_conn_of(pd);
    if (c->state == HTTP_ACTIVE) {
        note_edge(c, mode);
        return;
    }
    if (mode & (RT_POLL_IN | RT_POLL_HUP | RT_POLL_ERR))
        c->readable = true;
    if (mode & (RT_POLL_OUT | RT_POLL_ERR))
        c->writable = true;
    if (mode & (RT_POLL_HUP | RT_POLL_ERR))
        c->peer_closed = true;
    switch (c->state) {
    case HTTP_DRAIN: {
        int d = http_body_discard(c);
        if (d < 0)
            close_politely(c);
        else if (d > 0 && RT_LOAD(c->server->hasten) && c->in_pos == c->in_len)
            http_conn_destroy(c);
        else if (d > 0) {
            http_conn_set_state(c, HTTP_IDLE);
            c->in_seen = 0;
            read_head(c);
        }
        break;
    }
    case HTTP_LINGER:
        if (!discard_input(c))
            http_conn_destroy(c);
        break;
    default:
        read_head(c);
    }
}

/* ---- whose it is ---- */

/* The digits of n at `at`; the end. */
static char *
add_number(char *at, uint32_t n)
{
    char digits[10];
    int i = 0;
    do
        digits[i++] = (char)('0' + n % 10);
    while ((n /= 10) != 0);
    while (i > 0)
        *at++ = digits[--i];
    return at;
}

size_t
http_conn_addr_text(const http_conn *c, char buf[HTTP_MAX_ADDR], size_t *nhost)
{
    char *at = buf;
    if (c->peer.family == AF_INET) {
        for (int i = 0; i < 4; i++) {
            at = add_number(at, c->peer.ip[i]);
            *at++ = '.';
        }
        at--;
    }
    else if (c->peer.family == AF_INET6) {
        *at++ = '[';
        inet_ntop(AF_INET6, c->peer.ip, at, INET6_ADDRSTRLEN);
        at += strlen(at);
        if (c->peer.scope != 0) {
            *at++ = '%';
            at = add_number(at, c->peer.scope);
        }
        *at++ = ']';
    }
    else {
        buf[0] = '@';           /* as Go for unix sockets */
        return *nhost = 1;
    }
    *nhost = (size_t)(at - buf);
    *at++ = ':';
    return (size_t)(add_number(at, c->peer.port) - buf);
}

PyObject *
http_conn_addr(const http_conn *c)
{
    char buf[HTTP_MAX_ADDR];
    size_t nhost;
    if (c->stream != NULL)
        return Py_NewRef(http_stream_remote_addr(c));
    return PyUnicode_FromStringAndSize(buf, (Py_ssize_t)http_conn_addr_text(c, buf, &nhost));
}
