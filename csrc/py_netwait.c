/* py_netwait.c - how goroutines wait for a NetFD, and who wakes them.
 *
 * Goroutines of any M and plain threads use a NetFD at the same time.  What they share with
 * each other and with the pollers is in its py_pd, under one lock, which is held for
 * moments.  The only system call made under it is epoll_ctl, which waits for nothing.
 *
 * Calls.  A thread between netfd_begin() and netfd_end() uses the descriptor; close takes the
 * descriptor away, so that no further call begins, and then waits for those under way, as
 * Go's fdMutex does.  They do not block, so it never waits long, and the number of a
 * closed descriptor, which the system gives to the next one opened, is never used.  Where
 * there is a GIL it is held from begin to end, and nothing needs to be counted.
 *
 * Edges.  A poller may dispatch an edge on another thread at any time, also between a call
 * that found nothing and the wait that follows.  So each direction remembers in `quiet`
 * that no edge has come since its last call began, and that this call has left
 * nothing to do.  Every edge clears it, under the lock, and wakes who waits; who wants to
 * wait looks at it, under the lock, and tries again if it is cleared.  (With a GIL no
 * edge is dispatched during a call, so there it is enough to set it after.)
 *
 * A direction that is still quiet needs no call at all to know that it has to wait.  A TCP
 * read that returned less than it asked for has drained the socket and leaves it quiet, so
 * the next read waits without another try, unless the peer has hung up: the end of file
 * gives no second edge.  Other kinds of sockets may return less for other reasons
 * (AF_UNIX stops at passed descriptors), so they try.
 *
 * Registration.  A descriptor is registered when somebody first waits, for both directions
 * and edge-triggered, with the P of the goroutine that waits: who waits depends on no
 * M but its own.  Plain threads use the spare M's poller.  A descriptor that never makes
 * anybody wait costs no registration, and one that is handed to a goroutine of another M
 * before its first wait never involves two.  Who waits with another P than the one before
 * moves the registration.  If the other direction's waiter relies on it, there are two for a
 * while: that M may be inside a call which ends only when this wait does.  The second one
 * goes away with the first edge that it has no waiter for.  A new registration reports
 * readiness again, and every registration reports edges of both directions, so none is lost.
 *
 * Stale events.  An M may have taken an event from the kernel, and be about to dispatch it,
 * while the descriptor is closed elsewhere.  So what an event points to (py_pd) is never
 * freed, only used again, and on_edge() looks at nothing else; an event that finds a
 * later user is a spurious edge, which everybody expects anyway.
 *
 * Turns.  Each direction has one user at a time; others queue and are handed the
 * turn in order.  So a write is never interleaved with another one.
 *
 * Deadlines and close.  Who waits for an edge is woken when either changes, and looks
 * again; those who wait for the turn do so when it is handed to them.
 * RT_WAKE_TIMEOUT therefore means: look at the clock and at the deadline.
 *
 * Fork.  The child's poller knows of no descriptor, and those who had turns or waited are not
 * there: every py_pd starts anew.
 */
#include "py_netfd.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#define CHUNK 32

typedef struct pd_chunk {
    struct pd_chunk *next;
    py_pd pds[CHUNK];
} pd_chunk;

static struct {
    py_lock lock;
    py_pd *free;
    pd_chunk *chunks;           /* all there are */
} pool;

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

int
netfd_raise_errno(int err, const char *what)
{
    PyObject *text = PyUnicode_FromFormat("%s: %s", what, strerror(err));
    PyObject *exc = text ? PyObject_CallFunction(PyExc_OSError, "iO", err, text) : NULL;
    if (exc != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    Py_XDECREF(exc);
    Py_XDECREF(text);
    return -1;
}

/* The poller has refused the descriptor. */
static RT_COLD int
raise_unpollable(int err, const char *what)
{
    if (err == EPERM)
        PyErr_Format(PyExc_OSError, "%s: this kind of descriptor cannot be waited for", what);
    else if (err == EEXIST)
        PyErr_Format(PyExc_FileExistsError, "%s: something else waits for this descriptor, under "
                     "the same number: one NetFD may own it", what);
    else
        netfd_raise_errno(err, what);
    return -1;
}

/* ---- py_pds ---- */

static py_pd *
take_free(void)
{
    py_acquire(&pool.lock);
    py_pd *pd = pool.free;
    if (pd != NULL)
        pool.free = pd->next;
    py_release(&pool.lock);
    return pd;
}

/* The first of some new ones; the others are free. */
static RT_NOINLINE py_pd *
more_pds(void)
{
    pd_chunk *chunk = PyMem_RawCalloc(1, sizeof(*chunk));
    if (chunk == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (int i = 0; i < CHUNK; i++) {
        py_pd *pd = &chunk->pds[i];
        pd->fd = -1;
        pd->rd.deadline = pd->wr.deadline = RT_FOREVER;
        pd->next = pd + 1;
    }
    py_acquire(&pool.lock);
    chunk->next = pool.chunks;
    pool.chunks = chunk;
    chunk->pds[CHUNK - 1].next = pool.free;
    pool.free = &chunk->pds[1];
    py_release(&pool.lock);
    return &chunk->pds[0];
}

py_pd *
netfd_new_pd(void)
{
    py_pd *pd = take_free();
    return RT_LIKELY(pd != NULL) ? pd : more_pds();
}

static void
reset_direction(netfd_direction *d)
{
    d->io = d->turn = (py_waitq){0};
    d->deadline = RT_FOREVER;
    d->busy = false;
    RT_STORE(d->quiet, false);
}

void
netfd_free_pd(py_pd *pd)
{
    py_acquire(&pd->lock);
    reset_direction(&pd->rd);
    reset_direction(&pd->wr);
    RT_STORE(pd->drains, false);
    py_release(&pd->lock);
    py_acquire(&pool.lock);
    pd->next = pool.free;
    pool.free = pd;
    py_release(&pool.lock);
}

void
py_netfd_after_fork(void)
{
    memset(&pool.lock, 0, sizeof(pool.lock));
    for (pd_chunk *chunk = pool.chunks; chunk != NULL; chunk = chunk->next)
        for (int i = 0; i < CHUNK; i++) {
            py_pd *pd = &chunk->pds[i];
            int64_t rd = pd->rd.deadline, wr = pd->wr.deadline;
            memset(&pd->lock, 0, sizeof(pd->lock));
            pd->reg.pp = pd->extra.pp = NULL;
            pd->ncalls = 0;
            reset_direction(&pd->rd);
            reset_direction(&pd->wr);
            pd->rd.deadline = rd;
            pd->wr.deadline = wr;
        }
}

/* ---- edges and registration ---- */

/* The P whose poller tells gp of edges. */
static inline rt_p *
poller_of(const Goroutine *gp)
{
    return RT_UNLIKELY(gp->g.foreign) ? rt_p_by_id(&core->sched, RT_SPARE_P) : gp->g.pp;
}

/* Does somebody wait in d who relies on pp's poller? */
static inline bool
waits_with_locked(const netfd_direction *d, const rt_p *pp)
{
    return d->io.head != NULL && poller_of(d->io.head->g) == pp;
}

static inline void
on_edge_locked(py_pd *pd, uint32_t mode, py_waiter **reader, py_waiter **writer)
{
    *reader = *writer = NULL;
    if (mode & (RT_POLL_HUP | RT_POLL_ERR))
        RT_STORE(pd->drains, false);
    if (mode & RT_POLL_IN) {
        RT_STORE(pd->rd.quiet, false);
        *reader = py_waitq_claim(&pd->rd.io, RT_WAKE_READY);
    }
    if (mode & RT_POLL_OUT) {
        RT_STORE(pd->wr.quiet, false);
        *writer = py_waitq_claim(&pd->wr.io, RT_WAKE_READY);
    }
}

static inline void
ready_both(py_waiter *reader, py_waiter *writer)
{
    if (reader != NULL)
        py_ready(reader->g, false);
    if (writer != NULL)
        py_ready(writer->g, false);
}

static void
on_edge(rt_pd *reg, uint32_t mode)
{
    py_pd *pd = RT_CONTAINER_OF(reg, py_pd, reg);
    py_waiter *reader, *writer;
    py_acquire(&pd->lock);
    on_edge_locked(pd, mode, &reader, &writer);
    py_release(&pd->lock);
    ready_both(reader, writer);
}

static void
on_extra_edge(rt_pd *extra, uint32_t mode)
{
    py_pd *pd = RT_CONTAINER_OF(extra, py_pd, extra);
    py_waiter *reader, *writer;
    py_acquire(&pd->lock);
    on_edge_locked(pd, mode, &reader, &writer);
    if (!waits_with_locked(&pd->rd, extra->pp) && !waits_with_locked(&pd->wr, extra->pp))
        rt_pd_close_nop(extra);
    py_release(&pd->lock);
    ready_both(reader, writer);
}

/* See to it that pp's poller tells of edges; it does not by way of pd->reg.  0 or -errno. */
static RT_NOINLINE int
register_locked(py_pd *pd, const netfd_direction *d, rt_p *pp)
{
    const netfd_direction *other = d == &pd->rd ? &pd->wr : &pd->rd;
    if (pd->extra.pp == pp)
        return 0;
    bool keep = pd->reg.pp != NULL && waits_with_locked(other, pd->reg.pp);
    rt_pd *reg = keep ? &pd->extra : &pd->reg;
    rt_pd_close_nop(reg);
    return rt_pd_open(reg, pp, RT_LOAD(pd->fd), keep ? on_extra_edge : on_edge);
}

/* ---- waiting ---- */

/* The goroutine that calls and the P whose poller will tell it of edges; NULL with an
   exception set. */
static inline Goroutine *
current(const char *what, rt_p **pp)
{
    py_m *mp = py_tls_m;
    if (RT_LIKELY(mp != NULL && mp->curg != NULL)) {
        *pp = &mp->p;
        return mp->curg;
    }
    Goroutine *gp = py_current(what);
    if (gp == NULL || (gp->g.foreign && py_spare() == NULL))
        return NULL;
    *pp = poller_of(gp);
    return gp;
}

static inline bool
over(const py_wait *limits)
{
    return limits != NULL && limits->deadline != RT_FOREVER && limits->deadline <= rt_nanotime();
}

/* Park until a claim, the deadline, or what the limits say. */
static inline uint32_t
park_for(Goroutine *gp, int64_t deadline, const py_wait *limits)
{
    if (RT_LIKELY(limits == NULL))
        return py_park(gp, PY_WAIT_IO, deadline);
    py_wait wait = *limits;
    if (wait.deadline > deadline)
        wait.deadline = deadline;
    return py_wait_park(gp, PY_WAIT_IO, &wait);
}

static inline int
wait_edge(py_pd *pd, netfd_direction *d, const char *what, py_wait *limits)
{
    rt_p *pp;
    Goroutine *gp = current(what, &pp);
    if (RT_UNLIKELY(gp == NULL))
        return -1;
    int err = 0;
    rt_g_arm(&gp->g);
    py_acquire(&pd->lock);
    bool wait = RT_LOAD(d->quiet);
    if (RT_UNLIKELY(wait && pd->reg.pp != pp)) {
        err = register_locked(pd, d, pp);
        wait = err == 0;
    }
    int64_t deadline = d->deadline;
    bool expired = !wait && netfd_expired(d);
    if (RT_LIKELY(wait))
        py_waitq_push(&d->io, &gp->seat->waiter);
    py_release(&pd->lock);
    if (RT_UNLIKELY(!wait)) {
        py_stay(gp);
        return err < 0 ? raise_unpollable(-err, what) : expired ? raise_timeout(what) : 0;
    }
    uint32_t why = park_for(gp, deadline, limits);
    if (RT_LIKELY(why == RT_WAKE_READY))
        return 0;
    py_acquire(&pd->lock);
    py_waitq_remove(&gp->seat->waiter);
    bool closed = RT_LOAD(pd->fd) < 0;
    expired = netfd_expired(d);
    py_release(&pd->lock);
    if (why == RT_WAKE_INTERRUPT || why == RT_WAKE_CONTEXT)
        return -1;
    if (closed)
        return netfd_raise_closed(what);
    return expired || over(limits) ? raise_timeout(what) : 0;
}

int
netfd_wait_edge(py_pd *pd, netfd_direction *d, const char *what)
{
    return wait_edge(pd, d, what, NULL);
}

int
netfd_wait_edge_for(py_pd *pd, netfd_direction *d, const char *what, py_wait *limits)
{
    return wait_edge(pd, d, what, limits);
}

/* Queue for the turn that another has.  1: it is handed over, 0: look again, -1 with an
   exception set. */
static int
wait_turn(py_pd *pd, netfd_direction *d, const char *what, py_wait *limits)
{
    Goroutine *gp = py_current(what);
    if (gp == NULL)
        return -1;
    rt_g_arm(&gp->g);
    py_acquire(&pd->lock);
    bool wait = d->busy;
    int64_t deadline = d->deadline;
    if (RT_LIKELY(wait))
        py_waitq_push(&d->turn, &gp->seat->waiter);
    py_release(&pd->lock);
    if (RT_UNLIKELY(!wait)) {
        py_stay(gp);
        return 0;
    }
    uint32_t why = park_for(gp, deadline, limits);
    if (why == RT_WAKE_READY)
        return 1;               /* still busy, now with us */
    py_acquire(&pd->lock);
    py_waitq_remove(&gp->seat->waiter);
    py_release(&pd->lock);
    return why == RT_WAKE_INTERRUPT || why == RT_WAKE_CONTEXT ? -1 : 0;
}

int
netfd_enter_for(py_pd *pd, netfd_direction *d, const char *what, py_wait *limits)
{
    bool mine = false, late = false;
    for (;;) {
        py_acquire(&pd->lock);
        bool closed = RT_LOAD(pd->fd) < 0, expired = late || netfd_expired(d);
        if (!closed && !expired && !d->busy)
            d->busy = mine = true;
        py_release(&pd->lock);
        if (closed || expired) {
            if (mine)
                netfd_leave(pd, d);
            return closed ? netfd_raise_closed(what) : raise_timeout(what);
        }
        if (mine)
            return 0;
        int r = wait_turn(pd, d, what, limits);
        if (r < 0)
            return -1;
        mine = r > 0;
        late = !mine && over(limits);
    }
}

/* ---- what ends a wait ---- */

static inline void
move_deadline_locked(netfd_direction *d, int64_t deadline, py_waitq *woken)
{
    d->deadline = deadline;
    py_waitq_claim_all(&d->io, RT_WAKE_TIMEOUT, woken);
}

int
netfd_set_deadlines(py_pd *pd, bool rd, bool wr, int64_t deadline)
{
    py_waitq woken = {0};
    py_acquire(&pd->lock);
    bool closed = RT_LOAD(pd->fd) < 0;
    if (rd && !closed)
        move_deadline_locked(&pd->rd, deadline, &woken);
    if (wr && !closed)
        move_deadline_locked(&pd->wr, deadline, &woken);
    py_release(&pd->lock);
    py_ready_all(&woken);
    return closed ? netfd_raise_closed("set_deadline") : 0;
}

#ifdef Py_GIL_DISABLED
static void
wait_for_calls(py_pd *pd)
{
    for (;;) {
        py_acquire(&pd->lock);
        bool none = pd->ncalls == 0;
        py_release(&pd->lock);
        if (none)
            return;
        Py_BEGIN_ALLOW_THREADS
        sched_yield();
        Py_END_ALLOW_THREADS
    }
}
#else
static void
wait_for_calls(py_pd *Py_UNUSED(pd))
{
}
#endif

int
netfd_give_up_fd(py_pd *pd)
{
    py_waitq woken = {0};
    py_acquire(&pd->lock);
    int fd = RT_LOAD(pd->fd);
    if (fd >= 0) {
        rt_pd_close_nop(&pd->reg);
        rt_pd_close_nop(&pd->extra);
        RT_STORE(pd->fd, -1);
        RT_STORE(pd->rd.quiet, false);
        RT_STORE(pd->wr.quiet, false);
        py_waitq_claim_all(&pd->rd.io, RT_WAKE_CLOSED, &woken);
        py_waitq_claim_all(&pd->wr.io, RT_WAKE_CLOSED, &woken);
    }
    py_release(&pd->lock);
    py_ready_all(&woken);
    if (fd >= 0)
        wait_for_calls(pd);
    return fd;
}
