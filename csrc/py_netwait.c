/* py_netwait.c - how goroutines wait for a NetFD, and who wakes them.
 *
 * A descriptor is registered when somebody first waits, once, for both directions and
 * edge-triggered, with the P of the goroutine that waits.  A descriptor that never
 * makes anybody wait costs no registration, and one that is handed to a goroutine
 * of another M before its first wait never involves two Ms.
 *
 * Edges.  Nothing is dispatched between a call that found nothing and the park that
 * follows it, so an edge that belongs to the wait is always delivered to the
 * waiter, and an edge that comes while nobody waits needs no memory: whoever comes
 * next tries first.  There is one exception.  A TCP read that returned less than it
 * asked for has drained the socket, and the next read parks without another try.
 * That is right only if no edge was dispatched since: `drained` is cleared by
 * every incoming edge, and once the peer has hung up it is never set again, because
 * the end of file gives no second edge.  Other kinds of sockets may return
 * less for other reasons (AF_UNIX stops at passed descriptors), so they try.
 *
 * Moving.  A goroutine that waits on a descriptor registered with another P moves
 * the registration, unless someone waits there: that M may be inside a call that
 * never comes back to its poller.  Plain threads use the auxiliary M's poller, which
 * always comes back.  Registering again reports readiness again: no edge is lost.
 *
 * Stale events.  Another M may have taken an event from the kernel, and wait for
 * the GIL to dispatch it, while the descriptor is closed here.  So what an event
 * points to (py_pd) is never freed, only used again; an event that finds a
 * later user is a spurious edge, which everybody expects anyway.
 *
 * Turns.  Each direction has one user at a time; others queue and are handed the
 * turn in order.  So a write is never interleaved with another one.
 *
 * Deadlines and close.  Who waits for an edge is woken when either changes, and looks
 * again; those who wait for the turn do so when it is handed to them.
 * RT_WAKE_TIMEOUT therefore means: look at the clock and at the deadline.
 */
#include "py_netfd.h"

#include <errno.h>

/* What the poller's events point to; see "Stale events". */
struct py_pd {
    rt_pd pd;                   /* first: see on_edge() */
    NetFD *owner;               /* borrowed; NULL while unused */
    py_pd *next;                /* in the free list */
};

static py_pd *free_pds;         /* guarded by the GIL; never given back */

int
netfd_raise_closed(const char *what)
{
    PyErr_Format(core->exc_net_closed, "%s: use of closed network connection", what);
    return -1;
}

static int
raise_timeout(const char *what)
{
    py_raise_timeout(what);
    return -1;
}

/* ---- registration ---- */

static void
wake_one(py_waitq *q)
{
    py_waiter *w = py_waitq_claim(q, RT_WAKE_READY);
    if (w != NULL)
        py_ready(w->g, false);
}

static void
on_edge(rt_pd *pd, uint32_t mode)
{
    NetFD *self = ((py_pd *)pd)->owner;
    if (self == NULL)
        return;
    if (mode & (RT_POLL_HUP | RT_POLL_ERR))
        self->hup = true;
    if (mode & RT_POLL_IN) {
        self->drained = false;
        wake_one(&self->rd.io);
    }
    if (mode & RT_POLL_OUT)
        wake_one(&self->wr.io);
}

static RT_NOINLINE int
register_slow(NetFD *self, rt_p *pp)
{
    py_pd *pd = self->pd;
    if (pd == NULL) {
        pd = free_pds;
        if (pd != NULL)
            free_pds = pd->next;
        else if ((pd = PyMem_RawCalloc(1, sizeof(*pd))) == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        pd->owner = self;
        self->pd = pd;
    }
    else if (pd->pd.pp != NULL) {
        if (self->rd.io.head != NULL || self->wr.io.head != NULL)
            return 0;
        rt_pd_close(&pd->pd);
    }
    int err = rt_pd_open(&pd->pd, pp, self->fd, on_edge);
    if (err < 0) {
        pd->pd.pp = NULL;
        errno = -err;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

/* See to it that edges wake gp, from whichever M.  -1 with an exception set. */
static inline int
register_for(NetFD *self, Goroutine *gp)
{
    rt_p *pp = gp->g.pp;
    if (RT_UNLIKELY(gp->g.foreign)) {
        py_m *mp = py_spare();
        if (mp == NULL)
            return -1;
        pp = &mp->p;
    }
    if (RT_LIKELY(self->pd != NULL && self->pd->pd.pp == pp))
        return 0;
    return register_slow(self, pp);
}

static void
deregister(NetFD *self)
{
    py_pd *pd = self->pd;
    if (pd == NULL)
        return;
    rt_pd_close(&pd->pd);
    pd->owner = NULL;
    pd->next = free_pds;
    free_pds = pd;
    self->pd = NULL;
}

/* ---- waiting ---- */

int
netfd_wait_edge(NetFD *self, netfd_direction *d, const char *what)
{
    Goroutine *gp = py_current(what);
    if (gp == NULL || register_for(self, gp) < 0)
        return -1;
    rt_g_arm(&gp->g);
    py_waitq_push(&d->io, &gp->seat->waiter);
    uint32_t why = py_park(gp, PY_WAIT_IO, d->deadline);
    py_waitq_remove(&gp->seat->waiter);
    if (RT_UNLIKELY(why == RT_WAKE_INTERRUPT))
        return -1;
    if (RT_UNLIKELY(self->fd < 0))
        return netfd_raise_closed(what);
    if (RT_UNLIKELY(why == RT_WAKE_TIMEOUT && netfd_expired(d)))
        return raise_timeout(what);
    return 0;
}

/* Queue for the turn that another has.  0: it may be taken now. */
static int
wait_turn(NetFD *self, netfd_direction *d, const char *what)
{
    Goroutine *gp = py_current(what);
    if (gp == NULL)
        return -1;
    do {
        rt_g_arm(&gp->g);
        py_waitq_push(&d->turn, &gp->seat->waiter);
        uint32_t why = py_park(gp, PY_WAIT_IO, d->deadline);
        if (why == RT_WAKE_READY)
            return 0;           /* handed over: still busy, now with us */
        py_waitq_remove(&gp->seat->waiter);
        if (why == RT_WAKE_INTERRUPT)
            return -1;
        if (self->fd < 0)
            return netfd_raise_closed(what);
        if (netfd_expired(d))
            return raise_timeout(what);
    } while (d->busy);
    return 0;
}

int
netfd_enter_slow(NetFD *self, netfd_direction *d, const char *what)
{
    if (d->busy && wait_turn(self, d, what) < 0)
        return -1;
    d->busy = true;
    if (self->fd >= 0 && !netfd_expired(d))
        return 0;
    netfd_leave(d);
    return self->fd < 0 ? netfd_raise_closed(what) : raise_timeout(what);
}

/* ---- what ends a wait ---- */

void
netfd_move_deadline(netfd_direction *d, int64_t deadline)
{
    d->deadline = deadline;
    py_waitq_wake_all(&d->io, RT_WAKE_TIMEOUT);
}

int
netfd_give_up_fd(NetFD *self)
{
    int fd = self->fd;
    if (fd < 0)
        return -1;
    deregister(self);
    self->fd = -1;
    py_waitq_wake_all(&self->rd.io, RT_WAKE_CLOSED);
    py_waitq_wake_all(&self->wr.io, RT_WAKE_CLOSED);
    return fd;
}
