/* py_netfd.h - what the files of NetFD share.
 *
 *   py_netfd.c     the type: reading, writing, accepting, options, life
 *   py_netwait.c   waiting: registration with a poller, turns, deadlines, closing
 *
 * A method takes the turn of its direction (netfd_enter), tries the system call between
 * netfd_begin() and netfd_end(), waits for an edge while that would block
 * (netfd_wait_edge), and gives the turn back (netfd_leave).
 */
#ifndef PY_NETFD_H
#define PY_NETFD_H

#include "py_core.h"

typedef struct {                /* one direction; guarded by the lock of its py_pd */
    py_waitq io;                /* who has the turn and waits for an edge, if so */
    py_waitq turn;              /* who waits for the turn */
    int64_t deadline;           /* rt_nanotime() clock, RT_FOREVER: none */
    bool busy;                  /* somebody has the turn */
    _Atomic bool quiet;         /* open, the last call has left nothing to do, and no edge has
                                   come since it began; without the lock only a hint */
} netfd_direction;

/* All that the users of a descriptor and the pollers share.  Never freed, only used
   again: see "Stale events" in py_netwait.c. */
typedef struct py_pd py_pd;
struct py_pd {
    rt_pd reg;                  /* first; its registration, not open until somebody waits */
    rt_pd extra;                /* another one, while both directions wait on two Ms */
    py_pd *next;                /* in the free list */
    py_lock lock;               /* guards all the rest, and both registrations */
    _Atomic bool drains;        /* a short read leaves nothing to read: TCP, and no edge has
                                   told of a hang-up or an error yet */
    _Atomic int fd;             /* -1: closed or detached; written with the lock held */
    uint32_t ncalls;            /* system calls under way; not counted with a GIL */
    netfd_direction rd, wr;
};

typedef struct NetFD {
    PyObject_HEAD
    py_pd *pd;                  /* owned, for life */
    bool socket;                /* not a pipe or the like; never changes */
    bool tcp;                   /* never changes */
    PyObject *rest;             /* owned bytes to be read first (unread), or NULL; guarded by
                                   pd->lock */
    Py_ssize_t rest_at;         /* how much of them has been read; the same */
    PyObject *peer;             /* owned address or None; never changes */
    PyObject *weakrefs;
} NetFD;

/* Everything for a new NetFD; NULL with MemoryError set.  The caller sets fd and drains. */
py_pd *netfd_new_pd(void);
/* Take it back.  Its NetFD is closed, and nobody uses it any more. */
void netfd_free_pd(py_pd *pd);
/* Slow path of netfd_enter(), with its contract. */
int netfd_enter_slow(py_pd *pd, netfd_direction *d, const char *what);
/* Wait until an edge may have come for the direction whose turn the caller has.
   0: try again; -1: an exception is set.  Runs other goroutines. */
int netfd_wait_edge(py_pd *pd, netfd_direction *d, const char *what);
/* Set the deadlines of one or both directions and have who waits for an edge look at
   them.  -1 with ClosedError set. */
int netfd_set_deadlines(py_pd *pd, bool rd, bool wr, int64_t deadline);
/* Deregister, wake who waits, and return the descriptor or -1.  No system call on it is
   under way then, nor will be.  May detach for a moment. */
int netfd_give_up_fd(py_pd *pd);
/* Raise ClosedError.  Always -1. */
int netfd_raise_closed(const char *what);

static inline bool
netfd_expired(const netfd_direction *d)
{
    return d->deadline != RT_FOREVER && d->deadline <= rt_nanotime();
}

/* Take the turn; then the descriptor was open and the deadline had not passed.  -1
   with an exception set.  May run other goroutines.  `what` names the operation. */
static inline int
netfd_enter(py_pd *pd, netfd_direction *d, const char *what)
{
    py_acquire(&pd->lock);
    bool got = !d->busy && RT_LOAD(pd->fd) >= 0 && !netfd_expired(d);
    if (RT_LIKELY(got))
        d->busy = true;
    py_release(&pd->lock);
    return RT_LIKELY(got) ? 0 : netfd_enter_slow(pd, d, what);
}

/* Give the turn to who waits for it first. */
static inline void
netfd_leave(py_pd *pd, netfd_direction *d)
{
    py_acquire(&pd->lock);
    py_waiter *w = py_waitq_claim(&d->turn, RT_WAKE_READY);
    if (RT_LIKELY(w == NULL))
        d->busy = false;
    py_release(&pd->lock);
    if (RT_UNLIKELY(w != NULL))
        py_ready(w->g, false);
}

/* The descriptor for a system call that does not block, or -1 if it is closed; until
   netfd_end() it stays open.  Nothing in between may run Python, make or release objects, or
   park: the GIL, where there is one, is not let go.  d: the direction whose turn the caller
   has, or NULL. */
static inline int
netfd_begin(py_pd *pd, netfd_direction *d)
{
#ifdef Py_GIL_DISABLED
    py_acquire(&pd->lock);
    int fd = RT_LOAD(pd->fd);
    if (RT_LIKELY(fd >= 0)) {
        pd->ncalls++;
        if (d != NULL)
            RT_STORE(d->quiet, true);
    }
    py_release(&pd->lock);
    return fd;
#else
    (void)d;
    return RT_LOAD(pd->fd);
#endif
}

/* After netfd_begin() has returned a descriptor.  quiet: the call has left nothing to do,
   so there is no sense in another one until the next edge. */
static inline void
netfd_end(py_pd *pd, netfd_direction *d, bool quiet)
{
#ifdef Py_GIL_DISABLED
    py_acquire(&pd->lock);
    pd->ncalls--;
    if (d != NULL && !quiet)
        RT_STORE(d->quiet, false);
    py_release(&pd->lock);
#else
    (void)pd;
    if (d != NULL)
        RT_STORE(d->quiet, quiet);
#endif
}

#endif
