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
 * destroy it; in ACTIVE the goroutine does, and the callback only notes edges.
 */
#include "py_http.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/un.h>
#include <unistd.h>

#define LINGER_TIMEOUT 2000000000       /* ns */
#define MAX_DRAIN (256 * 1024)          /* bytes of an unread body */
#define MAX_LINGER (1024 * 1024)        /* bytes discarded before giving up */
#define MAX_PIPELINED 32                /* requests served before others get a turn */
#define FLUSH_AT (64 * 1024)            /* bytes of joined responses */

static void parse_pipelined(http_conn *c);

/* ---- lists and time-outs ---- */

static int64_t
state_timeout(http_server *s, int state)
{
    switch (state) {
    case HTTP_HEAD:
        return s->head_timeout;
    case HTTP_IDLE:
        return s->idle_timeout;
    case HTTP_DRAIN:
        return s->read_timeout;
    case HTTP_LINGER:
        return LINGER_TIMEOUT;
    default:
        return INT64_MAX;
    }
}

static void
unlink_conn(http_conn *c)
{
    http_server *s = c->server;
    *(c->prev ? &c->prev->next : &s->list[c->state].head) = c->next;
    *(c->next ? &c->next->prev : &s->list[c->state].tail) = c->prev;
}

static void
link_conn(http_conn *c, int state)
{
    http_server *s = c->server;
    c->state = (uint8_t)state;
    c->next = NULL;
    c->prev = s->list[state].tail;
    *(c->prev ? &c->prev->next : &s->list[state].head) = c;
    s->list[state].tail = c;
    int64_t timeout = state_timeout(s, state);
    if (timeout == INT64_MAX)
        return;
    c->deadline = http_coarse_now() + timeout;
    /* Lists are in order of deadline, so only a first entry can be the earliest. */
    if (!rt_timer_started(&s->sweep)) {
        s->sweep.when = c->deadline;
        rt_timers_start(&s->mp->p.timers, &s->sweep);   /* no memory: no time-outs */
    }
    else if (c->prev == NULL && c->deadline < s->sweep.when)
        rt_timers_move(&s->mp->p.timers, &s->sweep, c->deadline);
}

void
http_conn_set_state(http_conn *c, int state)
{
    unlink_conn(c);
    link_conn(c, state);
}

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

int
http_conn_start(http_server *s, int fd, const struct sockaddr *peer)
{
    http_conn *c = PyMem_Calloc(1, sizeof(*c));
    int err = c ? rt_pd_open(&c->pd, &s->mp->p, fd, conn_ready) : -ENOMEM;
    if (err < 0) {
        PyMem_Free(c);
        close(fd);
        return err;
    }
    c->server = s;
    Py_INCREF(s);
    c->writable = true;
    keep_peer(c, peer);
    link_conn(c, HTTP_HEAD);
    s->nconns++;
    s->accepted++;
    core->http.accepted++;
    return 0;
}

void
http_conn_destroy(http_conn *c)
{
    http_server *s = c->server;
    unlink_conn(c);
    int fd = c->pd.fd;
    rt_pd_close(&c->pd);
    close(fd);
    http_block_unref(c->in);
    http_out_release(&c->out);
    PyMem_Free(c);
    if (RT_UNLIKELY(s->nconns == s->max_conns))
        http_server_accept_again(s);
    if (--s->nconns == 0)
        py_waitq_wake_all(&s->waiters, RT_WAKE_READY);
    Py_DECREF(s);
}

void
http_conn_abort(http_conn *c)
{
    c->aborted = true;
    c->readable = c->writable = true;
    shutdown(c->pd.fd, SHUT_RDWR);
    py_waitq_wake_all(&c->readers, RT_WAKE_READY);
    py_waitq_wake_all(&c->writers, RT_WAKE_READY);
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
    if (http_simple_response(c, status, why) == 0) {
        /* A peer that does not even read this much gets no more of our time. */
        ssize_t n = send(c->pd.fd, c->out.data, c->out.len, MSG_NOSIGNAL);
        if (n == (ssize_t)c->out.len) {
            http_out_release(&c->out);
            close_politely(c);
            return;
        }
    }
    http_conn_destroy(c);
}

void
http_conn_expired(http_conn *c)
{
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

/* Call the handler and build the response.  -1: the connection is broken. */
static int
run_request(http_conn *c)
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
    PyObject *fatal = NULL;
    if (RT_UNLIKELY(err < 0)) {
        PyObject *exc = py_take_exception();
        int status = 500;
        if (PyErr_GivenExceptionMatches(exc, http_hooks.http_error))
            status = error_status(exc);
        else if (c->io_failed && !c->aborted && !c->peer_closed
                 && PyErr_GivenExceptionMatches(exc, PyExc_TimeoutError))
            status = 408;
        else if (PyErr_GivenExceptionMatches(exc, PyExc_SystemExit)
                 || PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt))
            fatal = Py_NewRef(exc);
        else if (c->io_failed && PyErr_GivenExceptionMatches(exc, PyExc_ConnectionError))
            status = c->peer_closed || c->aborted ? 0 : 400;
        if (status == 500 && fatal == NULL)
            http_log_error(c, w->head_sent ? "a handler failed after it had begun to respond"
                                           : "a handler failed", exc);
        Py_DECREF(exc);
        /* What was begun cannot be taken back: the cut tells the client. */
        if (w->head_sent || status == 0 || fatal != NULL || c->continue_due)
            c->close_after = true;
        if (w->head_sent || status == 0)
            err = -1;
        else
            err = http_simple_response(c, status, NULL);
        if (err < 0)
            PyErr_Clear();
    }
    http_writer_end(w);
    if (fatal != NULL)
        py_raise(fatal);
    return err;
}

/* The handler has returned while a goroutine it started is parked in the connection's
   I/O: that one must fail before the connection goes on, or away.  -1: the response is
   not whole. */
static RT_COLD int
expel_others(http_conn *c, Goroutine *gp)
{
    int err = c->sending ? -1 : 0;
    bool aborted = c->aborted;
    c->aborted = c->close_after = true;
    py_waitq_wake_all(&c->readers, RT_WAKE_READY);
    py_waitq_wake_all(&c->writers, RT_WAKE_READY);
    while (c->reading || c->sending)
        if (py_yield(gp) < 0)
            PyErr_Clear();
    c->aborted = aborted;
    return err;
}

/* What one handler has left in its context is not for the next. */
static inline void
fresh_context(http_conn *c)
{
    PyThreadState *ts = c->server->mp->tstate;
    if (RT_UNLIKELY(ts->context != NULL))
        Py_XDECREF(py_swap_context(ts, NULL));
}

/* The goroutine of a connection: handlers of the request in c->req and of those
   pipelined behind it. */
static PyObject *
conn_main(Goroutine *gp)
{
    http_conn *c = gp->call.c.arg;
    PyObject *fatal = NULL;
    for (int n = 1;; n++) {
        int err = run_request(c);
        if (RT_UNLIKELY(PyErr_Occurred() != NULL))
            fatal = py_take_exception();
        http_request *r = c->req;
        c->req = NULL;
        c->served++;
        c->server->requests++;
        core->http.requests++;
        http_request_end(r);
        if (RT_UNLIKELY(c->reading || c->sending) && expel_others(c, gp) < 0)
            err = -1;
        if (err < 0)
            goto broken;
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
        /* The next request, if its head is here already. */
        if (done && !c->close_after && c->in_pos != c->in_len && n < MAX_PIPELINED
            && c->out.len < FLUSH_AT) {
            fresh_context(c);
            parse_pipelined(c);
            if (c->req != NULL)
                continue;
        }
        if (http_send(c, NULL, 0) < 0) {
            PyErr_Clear();
            goto broken;
        }
        break;
    }
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
        if (c->server->closing)
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
begin_request(http_conn *c, const rt_http1_req *head, int n)
{
    http_server *s = c->server;
    http_request *r = http_request_new(c, head);
    if (r == NULL) {
        PyErr_Clear();
        return -1;
    }
    c->req = r;
    c->io_failed = false;
    c->chunked = head->chunked;
    c->body_done = !head->chunked && head->content_length <= 0;
    c->body_left = head->chunked ? s->max_body : head->content_length;
    c->close_after = !head->keep_alive || s->closing;
    c->continue_due = head->expect_continue && !c->body_done;
    if (head->chunked)
        rt_http1_chunked_init(&c->decoder);
    c->in_pos += (uint32_t)n;
    c->in_seen = 0;
    return 0;
}

/* In ACTIVE, between pipelined requests: set c->req if a whole, good head is here.
   Anything else waits for the poller's side, after the responses are sent. */
static void
parse_pipelined(http_conn *c)
{
    http_server *s = c->server;
    const char *why;
    rt_http1_req head = {.fields = s->scratch};
    int n = rt_http1_parse_head(c->in->data + c->in_pos, c->in_len - c->in_pos, 0, &s->limits,
                                &head);
    if (n > 0 && refusal(s, &head, &why) == 0)
        (void)begin_request(c, &head, n);
}

/* Look for a head in the unread input.  Sets c->req when there is one.  False: the
   connection was refused and may be gone. */
static bool
parse_input(http_conn *c)
{
    http_server *s = c->server;
    rt_http1_req head = {.fields = s->scratch};
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
    if (begin_request(c, &head, n) < 0) {
        http_conn_destroy(c);
        return false;
    }
    return true;
}

/* HEAD and IDLE: read, parse, and start a goroutine on a complete head. */
static void
read_head(http_conn *c)
{
    for (;;) {
        uint32_t avail = c->in_len - c->in_pos;
        if (avail > c->in_seen) {
            if (!parse_input(c))
                return;
            if (c->req != NULL)
                break;
            if (c->state == HTTP_IDLE)
                http_conn_set_state(c, HTTP_HEAD);
        }
        if (!c->readable) {
            if (avail == 0)
                drop_input(c);
            return;
        }
        Py_ssize_t n = http_fill(c, avail > 1024 ? avail : 1024);
        if (n <= 0 && n != -EAGAIN) {
            http_conn_destroy(c);
            return;
        }
    }
    http_conn_set_state(c, HTTP_ACTIVE);
    if (py_g_spawn_c(c->server->mp, conn_main, c) < 0) {
        PyErr_Clear();
        http_request *r = c->req;
        c->req = NULL;
        http_request_end(r);
        http_conn_destroy(c);
    }
}

/* ---- events ---- */

static void
conn_ready(rt_pd *pd, uint32_t mode)
{
    http_conn *c = http_conn_of(pd);
    if (mode & (RT_POLL_IN | RT_POLL_HUP | RT_POLL_ERR))
        c->readable = true;
    if (mode & (RT_POLL_OUT | RT_POLL_ERR))
        c->writable = true;
    if (mode & (RT_POLL_HUP | RT_POLL_ERR))
        c->peer_closed = true;
    switch (c->state) {
    case HTTP_ACTIVE:
        if (c->readable)
            py_waitq_wake_all(&c->readers, RT_WAKE_READY);
        if (c->writable)
            py_waitq_wake_all(&c->writers, RT_WAKE_READY);
        break;
    case HTTP_DRAIN: {
        int d = http_body_discard(c);
        if (d < 0)
            close_politely(c);
        else if (d > 0 && c->server->closing && c->in_pos == c->in_len)
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
