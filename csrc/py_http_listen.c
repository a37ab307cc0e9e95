/* py_http_listen.c - the listeners of a server: which connections get in.
 *
 * Counting.  nconns goes up before a connection can be seen, and down after it is gone.
 * Whoever brings it to 0 wakes wait_closed(); whoever finds `full` set after
 * lowering it has accepting go on.  accept_ready() sets `full`, then looks at nconns once
 * more; both sides are sequentially consistent, so one of the two sees the other.
 */
#include "py_http_server.h"
#include "py_netfd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>
#include <unistd.h>

#define ACCEPT_BATCH 64                 /* connections taken before others get a turn */
#define BACKOFF_MIN 5000000             /* ns; doubles up to */
#define BACKOFF_MAX 1000000000

/* ---- accepting ---- */

static void
pause_accepting(http_listener *l)
{
    l->backoff = l->backoff ? l->backoff * 2 : BACKOFF_MIN;
    if (l->backoff > BACKOFF_MAX)
        l->backoff = BACKOFF_MAX;
    if (rt_timer_started(&l->retry))
        return;
    l->retry.when = rt_nanotime() + l->backoff;
    rt_timers_start(&http_server_home(l->server)->p.timers, &l->retry);
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
        RT_COUNT(http_server_home(s)->http.accepted, 1);
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

void
http_server_close_listeners(http_server *s, bool serve_last)
{
    rt_timers *timers = &http_server_home(s)->p.timers;
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
        http_server_wake_waiters(s);
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
        http_server_wake_waiters(s);        /* some may be in admit() */
        if (py_tls_m == http_server_home(s))
            accept_again(s);
        else if (http_server_home(s) != NULL
                 && http_server_ask(s, http_server_home(s), accept_again_main, s) < 0) {
            PyErr_Clear();
            atomic_store(&s->full, true);       /* the next that ends tries again */
        }
    }
    if (left == 0)
        http_server_wake_waiters(s);
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
        why = py_park(gp, http_server_wait_reason(s), RT_FOREVER);
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

static void
raise_errno(int err)
{
    errno = err;
    PyErr_SetFromErrno(PyExc_OSError);
}

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
    if (l == NULL || http_shard_get(s, http_server_home(s)) == NULL) {
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
    int err = rt_pd_open(&l->pd, &http_server_home(s)->p, fd, accept_ready);
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
    http_server_wake_waiters(s);
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
    if (py_g_spawn_c(http_server_home(s), listen_main, py_g_run_at_once, call) < 0) {
        PyErr_Clear();
        PyMem_Free(call);
        Py_DECREF(s);
        return -ENOMEM;
    }
    py_wait wait = {RT_FOREVER, NULL};
    PyObject *exc = NULL;
    py_acquire(&s->lock);
    while (http_server_wait_locked(s, gp, &call->done, &wait) == RT_WAKE_INTERRUPT) {
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

PyObject *
http_server_attach(http_server *s, PyObject *Py_UNUSED(ignored))
{
    bool here;
    if (s->bubbled)
        Py_RETURN_NONE;
    if (RT_LOAD(s->mp) == NULL)
        s->forks = core->forks;
    if (attach(s, &here) < 0)
        return NULL;
    if (http_shard_get(s, http_server_home(s)) == NULL)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject *
http_server_spawn(http_server *s, PyObject *args)
{
    if (http_spawn(http_server_home(s), args) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
http_server_listen(http_server *s, PyObject *arg)
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
