/* py_http_server.c - the server object: listeners, shutdown.
 *
 * What concerns listeners and shards as a whole happens on the listeners' M; where another
 * thread asks for it, a goroutine over there does it, and one on each shard's M does
 * that shard's part.
 *
 * Counting.  nconns goes up before a connection can be seen, and down after it is gone.
 * Whoever brings it to 0 wakes wait_closed(); whoever finds `full` set after
 * lowering it has accepting go on.  accept_ready() sets `full`, then looks at nconns once
 * more; both sides are sequentially consistent, so one of the two sees the other.
 */
#include "py_http.h"
#include "py_bubble.h"
#include "py_netfd.h"
#include "py_wait.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>
#include <unistd.h>

#define ACCEPT_BATCH 64                 /* connections taken before others get a turn */
#define BACKOFF_MIN 5000000             /* ns; doubles up to */
#define BACKOFF_MAX 1000000000
#define ABORT_WAIT 100000000            /* ns that close() waits for an M that is stuck */

http_hooks_t http_hooks;

static void
raise_errno(int err)
{
    errno = err;
    PyErr_SetFromErrno(PyExc_OSError);
}

void
http_log_error(http_conn *c, const char *message, PyObject *exc)
{
    PyObject *request = c->req ? (PyObject *)c->req : Py_None;
    PyObject *r = PyObject_CallFunction(http_hooks.log_error, "sOO", message, request, exc);
    if (r == NULL)
        PyErr_WriteUnraisable(http_hooks.log_error);
    Py_XDECREF(r);
}

/* ---- accepting ---- */

static inline py_m *
home(http_server *s)
{
    return RT_LOAD(s->mp);
}

static void
pause_accepting(http_listener *l)
{
    l->backoff = l->backoff ? l->backoff * 2 : BACKOFF_MIN;
    if (l->backoff > BACKOFF_MAX)
        l->backoff = BACKOFF_MAX;
    if (rt_timer_started(&l->retry))
        return;
    l->retry.when = rt_nanotime() + l->backoff;
    rt_timers_start(&home(l->server)->p.timers, &l->retry);
}

static void
rearm_listener(http_listener *l)
{
    rt_p *pp = l->pd.pp;
    pp->sched->netpoll->modify(pp->np, l->pd.fd, &l->pd);
}

/* At max_conns?  Then accepting goes on when a connection ends. */
static bool
at_limit(http_server *s)
{
    if (RT_LIKELY(RT_LOAD(s->nconns) < s->max_conns))
        return false;
    atomic_store(&s->full, true);
    return atomic_load(&s->nconns) >= s->max_conns;
}

static void
accept_ready(rt_pd *pd, uint32_t Py_UNUSED(mode))
{
    http_listener *l = (http_listener *)pd;
    http_server *s = l->server;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        if (at_limit(s))
            return;
        union {
            struct sockaddr sa;
            struct sockaddr_in in4;
            struct sockaddr_in6 in6;
            struct sockaddr_un un;
        } peer;
        socklen_t len = sizeof(peer);
        peer.sa.sa_family = AF_UNSPEC;
        int fd = netfd_sys_accept(l->pd.fd, &peer.sa, &len);
        if (fd < 0) {
            if (netfd_would_block(fd))
                return;
            if (fd == -EINTR || netfd_lost_before_accept(-fd))
                continue;
            pause_accepting(l); /* no descriptor or no memory is left, or who knows what */
            return;
        }
        l->backoff = 0;
        if (RT_UNLIKELY(l->delays)) {
            int one = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        }
        http_conn *c = http_conn_new(s, fd, &peer.sa);
        if (c == NULL)
            continue;
        http_count(&s->nconns, 1);
        RT_COUNT(s->accepted, 1);
        RT_COUNT(home(s)->http.accepted, 1);
        http_shard_place(c);
    }
    rearm_listener(l);          /* there may be more */
}

static void
accept_again(http_server *s)
{
    for (int i = 0; i < RT_LOAD(s->nlisteners); i++)
        rearm_listener(s->listeners[i]);
}

static void
retry_fired(rt_timer *t)
{
    rearm_listener(RT_CONTAINER_OF(t, http_listener, retry));
}

/* Who waits in wait_closed() or listen() looks again. */
static void
wake_waiters(http_server *s)
{
    py_waitq woken = {0};
    py_acquire(&s->lock);
    py_waitq_claim_all(&s->waiters, RT_WAKE_READY, &woken);
    py_release(&s->lock);
    py_ready_all(&woken);
}

/* An M is stuck in a handler while the server is aborted: it does its part when it is
   back. */
static void
give_up_fired(rt_timer *t)
{
    http_server *s = RT_CONTAINER_OF(t, http_server, give_up);
    RT_STORE(s->aborted, true);
    http_gate_close(s);
    wake_waiters(s);
    Py_DECREF(s);
}

/* What has connected by now is still served, where that is wanted.  The caller has a
   reference to s. */
static void
close_listeners(http_server *s, bool serve_last)
{
    rt_timers *timers = &home(s)->p.timers;
    while (RT_LOAD(s->nlisteners) > 0) {
        http_listener *l = s->listeners[RT_LOAD(s->nlisteners) - 1];
        if (serve_last)
            accept_ready(&l->pd, 0);
        rt_timers_stop(timers, &l->retry);
        int fd = l->pd.fd;
        rt_pd_close(&l->pd);
        close(fd);
        PyMem_Free(l);
        RT_COUNT(s->nlisteners, -1);
        Py_DECREF(s);
    }
    if (!serve_last && rt_timers_stop(timers, &s->recall))
        Py_DECREF(s);
    if (atomic_load(&s->nconns) == 0)
        wake_waiters(s);
}

/* ---- asking other Ms ---- */

/* Have entry run on mp; its arg is s or one of its shards, and a reference to s, which it
   must drop. */
static int
ask(http_server *s, py_m *mp, PyObject *(*entry)(Goroutine *), void *arg)
{
    Py_INCREF(s);
    if (py_g_spawn_c(mp, entry, py_g_run_at_once, arg) == 0)
        return 0;
    Py_DECREF(s);
    return -1;
}

static PyObject *
accept_again_main(Goroutine *gp)
{
    http_server *s = gp->call.c.arg;
    accept_again(s);
    Py_DECREF(s);
    Py_RETURN_NONE;
}

void
http_server_closed_one(http_server *s, uint32_t left)
{
    if (RT_UNLIKELY(atomic_load(&s->full)) && atomic_exchange(&s->full, false)) {
        wake_waiters(s);        /* some may be in admit() */
        if (py_tls_m == home(s))
            accept_again(s);
        else if (home(s) != NULL && ask(s, home(s), accept_again_main, s) < 0) {
            PyErr_Clear();
            atomic_store(&s->full, true);       /* the next that ends tries again */
        }
    }
    if (left == 0)
        wake_waiters(s);
}

/* ---- the object ---- */

int
http_seconds(PyObject *value, const char *name, int64_t *ns)
{
    if (value == NULL)
        return 0;
    if (value == Py_None) {
        *ns = INT64_MAX;
        return 0;
    }
    double s = PyFloat_AsDouble(value);
    if (s == -1.0 && PyErr_Occurred())
        return -1;
    if (!(s > 0)) {
        PyErr_Format(PyExc_ValueError, "%s must be a positive number of seconds or None", name);
        return -1;
    }
    *ns = s > 9e9 ? INT64_MAX : (int64_t)(s * 1e9);
    return 0;
}

static PyObject *
server_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"handler", "read_header_timeout", "idle_timeout", "read_timeout",
                            "write_timeout", "max_header_bytes", "max_headers",
                            "max_target_bytes", "max_body_bytes", "max_connections", NULL};
    PyObject *handler, *head = NULL, *idle = NULL, *rd = NULL, *wr = NULL, *body = NULL;
    unsigned int max_head = 65536, max_fields = 128, max_target = 16384, max_conns = 1 << 20;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOOIIIOI:HTTPServer", names, &handler,
                                     &head, &idle, &rd, &wr, &max_head, &max_fields,
                                     &max_target, &body, &max_conns))
        return NULL;
    if (max_head < 256 || max_head > 1 << 24 || max_fields < 1 || max_fields > 65536
        || max_target < 1 || max_conns < 1) {
        PyErr_SetString(PyExc_ValueError, "a limit of the server is out of range");
        return NULL;
    }
    http_server *s = (http_server *)type->tp_alloc(type, 0);
    if (s == NULL)
        return NULL;
    http_stats_enter(s);
    s->handler = Py_NewRef(handler);
    s->limits = (rt_http1_limits){
        .max_target = max_target, .max_head = max_head, .max_fields = max_fields};
    int64_t *timeouts = s->timeouts;
    timeouts[HTTP_HEAD] = 10 * (int64_t)1000000000;
    timeouts[HTTP_IDLE] = 120 * (int64_t)1000000000;
    timeouts[HTTP_ACTIVE] = INT64_MAX;
    timeouts[HTTP_LINGER] = 2 * (int64_t)1000000000;
    s->read_timeout = s->write_timeout = 60 * (int64_t)1000000000;
    s->max_body = 64 << 20;
    s->max_conns = max_conns;
    s->body_timeout = INT64_MAX;
    s->recall.fire = http_shard_recall;
    s->give_up.fire = give_up_fired;
    s->streams.next = s->streams.prev = &s->streams;
    s->bubbled = py_bubble_current() != NULL;
    s->forks = core->forks;
    if (body == Py_None)
        s->max_body = INT64_MAX;
    else if (body != NULL) {
        s->max_body = PyLong_AsLongLong(body);
        if (s->max_body < 0) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "max_body_bytes must be 0 or more, or None");
            goto fail;
        }
    }
    if (http_seconds(head, "read_header_timeout", &timeouts[HTTP_HEAD]) < 0
        || http_seconds(idle, "idle_timeout", &timeouts[HTTP_IDLE]) < 0
        || http_seconds(rd, "read_timeout", &s->read_timeout) < 0
        || http_seconds(wr, "write_timeout", &s->write_timeout) < 0)
        goto fail;
    timeouts[HTTP_DRAIN] = s->read_timeout;
    return (PyObject *)s;

fail:
    Py_DECREF(s);
    return NULL;
}

static int
server_traverse(http_server *s, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(s));
    Py_VISIT(s->handler);
    Py_VISIT(s->contexts);
    return http_watch_traverse(s->watch, visit, arg);
}

static int
server_clear(http_server *s)
{
    Py_CLEAR(s->handler);
    Py_CLEAR(s->contexts);
    return 0;
}

static void
server_dealloc(http_server *s)
{
    PyTypeObject *type = Py_TYPE(s);
    PyObject_GC_UnTrack(s);
    http_stats_leave(s);
    /* Listeners, connections and timers hold references: there are none. */
    for (uint32_t id = 0; id <= RT_SPARE_P; id++)
        http_shard_free(RT_LOAD(s->shards[id]));
    server_clear(s);
    http_watch_free(s->watch);
    type->tp_free(s);
    Py_DECREF(type);
}

/* ---- waiting ---- */

static bool
all_closed(http_server *s)
{
    return atomic_load(&s->nconns) == 0 && atomic_load(&s->nlisteners) == 0;
}

/* Only the bubble of a server that was made in one can end a wait for it. */
static inline int
wait_reason(const http_server *s)
{
    return s->bubbled ? PY_WAIT_GROUP : PY_WAIT_IO;
}

/* Wait until *done, or until everything is closed where done is NULL; under s->lock, of
   which it lets go to park.  RT_WAKE_*. */
static uint32_t
wait_locked(http_server *s, Goroutine *gp, const bool *done, py_wait *wait)
{
    uint32_t why = RT_WAKE_READY;
    while (why == RT_WAKE_READY) {
        rt_g_arm(&gp->g);
        bool over = done ? *done : all_closed(s) || RT_LOAD(s->aborted);
        if (over && py_disarm(gp))
            break;
        if (!over)
            py_waitq_push(&s->waiters, &gp->seat->waiter);
        py_release(&s->lock);
        why = py_wait_park(gp, wait_reason(s), wait);
        py_acquire(&s->lock);
        py_waitq_remove(&gp->seat->waiter);
    }
    return why;
}

int
http_server_admit(http_server *s)
{
    Goroutine *gp = py_current("HTTPServer.admit()");
    uint32_t why = gp ? RT_WAKE_READY : RT_WAKE_INTERRUPT;
    int result = -1;
    py_acquire(&s->lock);
    while (why == RT_WAKE_READY && result < 0) {
        rt_g_arm(&gp->g);
        bool closing = RT_LOAD(s->closing), wait = !closing && at_limit(s);
        if (!wait && py_disarm(gp)) {
            result = !closing;
            break;
        }
        if (wait)
            py_waitq_push(&s->waiters, &gp->seat->waiter);
        py_release(&s->lock);
        why = py_park(gp, wait_reason(s), RT_FOREVER);
        py_acquire(&s->lock);
        py_waitq_remove(&gp->seat->waiter);
    }
    if (result > 0) {
        http_count(&s->nconns, 1);
        RT_COUNT(s->accepted, 1);
    }
    py_release(&s->lock);
    return result;
}

/* ---- listening ---- */

enum {                          /* why listen() fails, besides -errno */
    WAS_CLOSED = 1,
    TOO_MANY,
    RAISED                      /* an exception is set */
};

/* On the listeners' M.  0, -errno or one of the above. */
static int
open_listener(http_server *s, int fd)
{
    /* Pairs with close_from_here(): one of the two sees the other. */
    if (atomic_load(&s->closing))
        return WAS_CLOSED;
    if (RT_LOAD(s->nlisteners) == HTTP_MAX_LISTENERS)
        return TOO_MANY;
    http_listener *l = PyMem_Calloc(1, sizeof(*l));
    if (l == NULL || http_shard_get(s, home(s)) == NULL) {
        PyMem_Free(l);
        return -ENOMEM;
    }
    l->server = s;
    l->retry.fire = retry_fired;
    /* Small responses leave at once.  Connections inherit it, but for those that were there
       before it was set: of another's socket some may be. */
    int on = 0, one = 1;
    socklen_t len = sizeof(on);
    l->delays = getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &len) == 0 && !on
                && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0;
    int err = rt_pd_open(&l->pd, &home(s)->p, fd, accept_ready);
    if (err < 0) {
        PyMem_Free(l);
        return err;
    }
    Py_INCREF(s);
    s->forks = core->forks;
    s->listeners[RT_LOAD(s->nlisteners)] = l;
    RT_COUNT(s->nlisteners, 1);
    return 0;
}

typedef struct {
    http_server *server;        /* owned reference */
    int fd, err;
    bool done;                  /* guarded by the server's lock */
} listen_call;

static PyObject *
listen_main(Goroutine *gp)
{
    listen_call *call = gp->call.c.arg;
    http_server *s = call->server;
    call->err = open_listener(s, call->fd);
    py_acquire(&s->lock);
    call->done = true;          /* from now on it is the caller's alone */
    py_release(&s->lock);
    wake_waiters(s);
    Py_DECREF(s);
    Py_RETURN_NONE;
}

/* On another thread than the listeners' M.  What interrupts the wait is raised when that is
   done; *raised tells. */
static int
listen_elsewhere(http_server *s, int fd, bool *raised)
{
    Goroutine *gp = py_current("HTTPServer.listen()");
    listen_call *call = gp ? PyMem_Calloc(1, sizeof(*call)) : NULL;
    if (call == NULL) {
        PyErr_Clear();
        return -ENOMEM;
    }
    call->server = (http_server *)Py_NewRef((PyObject *)s);
    call->fd = fd;
    if (py_g_spawn_c(home(s), listen_main, py_g_run_at_once, call) < 0) {
        PyErr_Clear();
        PyMem_Free(call);
        Py_DECREF(s);
        return -ENOMEM;
    }
    py_wait wait = {RT_FOREVER, NULL};
    PyObject *exc = NULL;
    py_acquire(&s->lock);
    while (wait_locked(s, gp, &call->done, &wait) == RT_WAKE_INTERRUPT) {
        py_release(&s->lock);
        Py_XSETREF(exc, py_take_exception());
        py_acquire(&s->lock);
    }
    py_release(&s->lock);
    int err = call->err;
    PyMem_Free(call);
    *raised = exc != NULL;
    if (exc != NULL)
        py_raise(exc);
    return err;
}

/* Choose the listeners' M, if that has not been done.  *here: it is the calling one.  -1 with
   an exception set. */
static int
attach(http_server *s, bool *here)
{
    py_m *mp = py_this_m(), *home = NULL;
    *here = mp != NULL;
    if (mp == NULL && (mp = py_spare()) == NULL)
        return -1;
    if (!atomic_compare_exchange_strong(&s->mp, &home, mp))
        *here = *here && home == mp;
    else if (mp->p.id == RT_SPARE_P)
        s->leave_main = true;
    return 0;
}

static PyObject *
server_attach(http_server *s, PyObject *Py_UNUSED(ignored))
{
    bool here;
    if (s->bubbled)
        Py_RETURN_NONE;
    if (RT_LOAD(s->mp) == NULL)
        s->forks = core->forks;
    if (attach(s, &here) < 0)
        return NULL;
    if (http_shard_get(s, home(s)) == NULL)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *
server_spawn(http_server *s, PyObject *args)
{
    if (http_spawn(home(s), args) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
server_listen(http_server *s, PyObject *arg)
{
    long fd = PyLong_AsLong(arg);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    bool here, raised = false;
    int err = attach(s, &here) < 0 ? RAISED
              : here               ? open_listener(s, (int)fd)
                                   : listen_elsewhere(s, (int)fd, &raised);
    if (err != 0)
        close((int)fd);
    if (raised || err == RAISED)
        return NULL;
    if (err == 0)
        Py_RETURN_NONE;
    if (err == WAS_CLOSED)
        PyErr_SetString(PyExc_RuntimeError, "the server was closed");
    else if (err == TOO_MANY)
        PyErr_Format(PyExc_ValueError, "a server has at most %d listeners", HTTP_MAX_LISTENERS);
    else
        raise_errno(-err);
    return NULL;
}

/* ---- ending ---- */

static PyObject *
shutdown_shard_main(Goroutine *gp)
{
    http_shard *sh = gp->call.c.arg;
    http_server *s = sh->server;
    http_shard_shutdown(sh);
    Py_DECREF(s);
    Py_RETURN_NONE;
}

/* A shard has done its part of an abort; the last one tells. */
static void
aborted_one(http_server *s)
{
    if (http_count(&s->aborting, -1) != 0)
        return;
    RT_STORE(s->aborted, true);
    http_gate_close(s);
    wake_waiters(s);
}

static PyObject *
abort_shard_main(Goroutine *gp)
{
    http_shard *sh = gp->call.c.arg;
    http_server *s = sh->server;
    http_shard_abort(sh);
    aborted_one(s);
    Py_DECREF(s);
    Py_RETURN_NONE;
}

/* On the listeners' M: the end of everything (abort), or of what is idle.  Other Ms do
   their part later.  -1 with MemoryError set: one could not be asked. */
static int
close_all(http_server *s, bool abort)
{
    int result = 0;
    bool gentle = !abort && !RT_LOAD(s->hasten);
    close_listeners(s, gentle);
    if (abort)
        http_count(&s->aborting, 1);
    for (uint32_t id = 0; id <= RT_SPARE_P; id++) {
        http_shard *sh = RT_LOAD(s->shards[id]);
        if (sh == NULL)
            continue;
        if (!gentle)
            http_shard_forget(sh);
        if (abort)
            http_count(&s->aborting, 1);
        if (sh->mp != home(s)
            && ask(s, sh->mp, abort ? abort_shard_main : shutdown_shard_main, sh) == 0)
            continue;
        if (sh->mp == home(s))
            (abort ? http_shard_abort : http_shard_shutdown)(sh);
        else {
            PyErr_Clear();      /* the others first */
            result = -1;
        }
        if (abort)
            aborted_one(s);
    }
    if (abort)
        aborted_one(s);
    if (abort && !RT_LOAD(s->aborted) && !rt_timer_started(&s->give_up)) {
        s->give_up.when = rt_nanotime() + ABORT_WAIT;
        if (rt_timers_start(&home(s)->p.timers, &s->give_up) == 0)
            Py_INCREF(s);
    }
    if (result < 0)
        PyErr_NoMemory();
    return result;
}

static PyObject *
shutdown_main(Goroutine *gp)
{
    http_server *s = gp->call.c.arg;
    int r = close_all(s, false);
    Py_DECREF(s);
    return r < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
abort_main(Goroutine *gp)
{
    http_server *s = gp->call.c.arg;
    int r = close_all(s, true);
    Py_DECREF(s);
    return r < 0 ? NULL : Py_NewRef(Py_None);
}

/* From any thread.  -1 with an exception set. */
static int
close_from_here(http_server *s, bool abort)
{
    RT_STORE(s->retiring, true);
    if (abort) {
        RT_STORE(s->cut, true);
        RT_STORE(s->hasten, true);
    }
    atomic_store(&s->closing, true);
    py_m *mp = atomic_load(&s->mp);
    wake_waiters(s);            /* who waits for room for a connection */
    if (mp == NULL) {           /* of a bubble, or before it serves */
        if (abort) {
            RT_STORE(s->aborted, true);
            http_gate_close(s);
            wake_waiters(s);
        }
        return 0;
    }
    if (http_server_is_parents(s)) {
        /* Only the copies of the descriptors are ours. */
        for (int i = 0; i < RT_LOAD(s->nlisteners); i++)
            close(s->listeners[i]->pd.fd);
        RT_STORE(s->nlisteners, 0);
        RT_STORE(s->aborted, true);
        return 0;
    }
    if (mp != py_this_m())
        return ask(s, mp, abort ? abort_main : shutdown_main, s);
    return close_all(s, abort);
}

static PyObject *
server_begin_shutdown(http_server *s, PyObject *Py_UNUSED(ignored))
{
    int r = close_from_here(s, false);
    http_streams_close(s, false);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
server_close_idle(http_server *s, PyObject *unused)
{
    RT_STORE(s->hasten, true);
    return server_begin_shutdown(s, unused);
}

static PyObject *
server_retire(http_server *s, PyObject *Py_UNUSED(ignored))
{
    RT_STORE(s->retiring, true);
    Py_RETURN_NONE;
}

static PyObject *
server_abort(http_server *s, PyObject *Py_UNUSED(ignored))
{
    int r = close_from_here(s, true);
    http_streams_close(s, true);
    if (r < 0)
        return NULL;
    return PyBool_FromLong(RT_LOAD(s->aborted));
}

static PyObject *
server_wait_closed(http_server *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    py_wait wait;
    if (py_limits_parse(&limits, "wait_closed(" PY_LIMITS_USAGE ")", 0, args, nargs, kwnames) < 0)
        return NULL;
    Goroutine *gp = py_current("HTTPServer.wait_closed()");
    if (gp == NULL || (s->bubbled ? py_wait_begin : py_wait_begin_io)(&wait, &limits) < 0)
        return NULL;
    py_acquire(&s->lock);
    uint32_t why = wait_locked(s, gp, NULL, &wait);
    py_release(&s->lock);
    py_wait_end(&wait);
    if (why == RT_WAKE_READY)
        return PyBool_FromLong(all_closed(s));
    if (why == RT_WAKE_TIMEOUT)
        Py_RETURN_FALSE;
    return NULL;
}

static PyObject *
server_set_contexts(http_server *s, PyObject *contexts)
{
    Py_XSETREF(s->contexts, Py_NewRef(contexts));
    Py_RETURN_NONE;
}

static PyObject *
server_stats(http_server *s, PyObject *Py_UNUSED(ignored))
{
    uint32_t count[HTTP_NSTATES] = {0};
    uint64_t requests = 0;
    for (uint32_t id = 0; id <= RT_SPARE_P; id++) {
        http_shard *sh = atomic_load_explicit(&s->shards[id], memory_order_acquire);
        if (sh != NULL)
            requests += RT_LOAD(sh->requests);
    }
    http_stats_count_states(s, count);
    return Py_BuildValue("{sI sI sI sI sI sI sK sK}", "connections", RT_LOAD(s->nconns), "reading",
                         count[HTTP_HEAD], "idle", count[HTTP_IDLE], "active",
                         count[HTTP_ACTIVE], "closing", count[HTTP_DRAIN] + count[HTTP_LINGER],
                         "waiting", RT_LOAD(s->gate.waiting),
                         "accepted", (unsigned long long)RT_LOAD(s->accepted), "requests",
                         (unsigned long long)requests);
}

static PyMethodDef methods[] = {
    {"listen", (PyCFunction)server_listen, METH_O,
     "listen($self, fd, /)\n--\n\n"
     "Accept connections of a non-blocking listening socket.\n\n"
     "The server owns it, and has closed it where this fails.  All listeners belong to the\n"
     "thread that came first; if that runs no goroutines, to one of the runtime."},
    {"begin_shutdown", (PyCFunction)server_begin_shutdown, METH_NOARGS,
     "begin_shutdown($self, /)\n--\n\nStop accepting, close idle connections; never blocks."},
    {"close_idle", (PyCFunction)server_close_idle, METH_NOARGS,
     "close_idle($self, /)\n--\n\n"
     "After begin_shutdown(), which leaves connections that have just become idle, to close\n"
     "those, too."},
    {"retire", (PyCFunction)server_retire, METH_NOARGS,
     "retire($self, /)\n--\n\nSay Connection: close in each response from now on."},
    {"abort", (PyCFunction)server_abort, METH_NOARGS,
     "abort($self, /)\n--\n\nClose everything; running handlers fail at their next I/O.\n\n"
     "False where threads of the server will do it, and then end wait_closed()."},
    {"wait_closed", (PyCFunction)(void (*)(void))server_wait_closed,
     METH_FASTCALL | METH_KEYWORDS,
     "wait_closed($self, timeout=None, *, ctx=None)\n--\n\n"
     "True once all is closed, False after timeout seconds, or after abort() while\n"
     "handlers still run."},
    {"set_limits", (PyCFunction)(void (*)(void))http_server_set_limits,
     METH_VARARGS | METH_KEYWORDS,
     "set_limits($self, /, **limits)\n--\n\nSet more limits, before it serves."},
    {"set_watch", (PyCFunction)http_server_set_watch, METH_O,
     "set_watch($self, hook, /)\n--\n\n"
     "Call hook(id, what, remote_addr or None) as connections change, before it serves."},
    {"set_contexts", (PyCFunction)server_set_contexts, METH_O,
     "set_contexts($self, contexts, /)\n--\n\n"
     "What contexts of requests are made of, before it serves."},
    {"attach", (PyCFunction)server_attach, METH_NOARGS,
     "attach($self, /)\n--\n\n"
     "Let the server belong to a thread, as listen() does; to nothing in a bubble."},
    {"spawn", (PyCFunction)server_spawn, METH_VARARGS,
     "spawn($self, fn, /, *args)\n--\n\n"
     "Start a goroutine where the server belongs to."},
    {"admit", (PyCFunction)http_server_admit_stream, METH_O,
     "admit($self, conn, /)\n--\n\n"
     "Wait until there is room for one more connection and make it of a stream object.\n\n"
     "None: the server is closing."},
    {"parse_request", (PyCFunction)http_server_parse_request, METH_VARARGS,
     "parse_request($self, data, remote_addr, tls, /)\n--\n\n"
     "The Request that these bytes, head and body, are.  Raises ValueError."},
    {"stats", (PyCFunction)server_stats, METH_NOARGS,
     "stats($self, /)\n--\n\nConnections by state, and totals, as a dict."},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_new, server_new},
    {Py_tp_dealloc, server_dealloc},
    {Py_tp_traverse, server_traverse},
    {Py_tp_clear, server_clear},
    {Py_tp_methods, methods},
    {Py_tp_doc, "The C part of runtime.http.Server."},
    {0, NULL},
};
static PyType_Spec spec = {
    "runtime._core.HTTPServer", sizeof(http_server), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};

static PyObject *
m_set_http_hooks(PyObject *Py_UNUSED(module), PyObject *args)
{
    http_hooks_t h;
    if (!PyArg_ParseTuple(args, "OOOOOOOOO:_set_http_hooks", &h.parse_query, &h.make_forms,
                          &h.load_json, &h.dump_json, &h.log_error, &h.http_error,
                          &h.body_too_large, &h.parse_cookies, &h.parse_basic))
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); i++)
        Py_INCREF(PyTuple_GET_ITEM(args, i));
    http_hooks = h;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"_set_http_hooks", m_set_http_hooks, METH_VARARGS, NULL},
    {0},
};

int
http_server_init(PyObject *module)
{
    if (PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return py_add_type(module, &spec, &core->server_type, true);
}

int
py_http_init_types(PyObject *module)
{
    if (http_context_init(module) < 0 || http_headers_init(module) < 0
        || http_request_init(module) < 0 || http_body_init(module) < 0
        || http_writer_init(module) < 0 || http_head_init(module) < 0
        || http_hijack_init(module) < 0 || http_stream_init(module) < 0
        || http_mux_init(module) < 0 || http_file_init(module) < 0
        || http_ratelimit_init(module) < 0 || http_trace_init(module) < 0
        || http_log_init(module) < 0 || http_etag_init(module) < 0
        || http_forwarded_init(module) < 0 || http_stats_init(module) < 0)
        return -1;
    return http_server_init(module);
}
