/* py_netfd.h - what the files of NetFD share.
 *
 *   py_netfd.c     the type: reading, writing, accepting, options, life
 *   py_netwait.c   waiting: registration with a poller, turns, deadlines, closing
 *
 * A method takes the turn of its direction (netfd_enter), tries the system call, waits
 * for an edge while that would block (netfd_wait_edge), and gives the turn back
 * (netfd_leave).
 */
#ifndef PY_NETFD_H
#define PY_NETFD_H

#include "py_core.h"

typedef struct py_pd py_pd;     /* py_netwait.c: what the poller knows of a NetFD */

typedef struct {                /* one direction */
    py_waitq io;                /* who has the turn and waits for an edge, if so */
    py_waitq turn;              /* who waits for the turn */
    int64_t deadline;           /* rt_nanotime() clock, RT_FOREVER: none */
    bool busy;                  /* somebody has the turn */
} netfd_direction;

typedef struct NetFD {
    PyObject_HEAD
    int fd;                     /* -1: closed or detached */
    bool socket;                /* not a pipe or the like */
    bool tcp;                   /* a short read means drained */
    bool drained;               /* nothing to read until the next edge */
    bool hup;                   /* an edge told of a hang-up or an error */
    py_pd *pd;                  /* owned; NULL until somebody has waited */
    netfd_direction rd, wr;
    PyObject *rest;             /* owned bytes to be read first (unread), or NULL */
    Py_ssize_t rest_at;         /* how much of them has been read */
    PyObject *peer;             /* owned address or None */
    PyObject *weakrefs;
} NetFD;

/* Slow path of netfd_enter(), with its contract. */
int netfd_enter_slow(NetFD *self, netfd_direction *d, const char *what);
/* Wait until an edge may have come for the direction whose turn the caller has.
   0: try again; -1: an exception is set.  Runs other goroutines. */
int netfd_wait_edge(NetFD *self, netfd_direction *d, const char *what);
/* Set d's deadline and have who waits for an edge look at it. */
void netfd_move_deadline(netfd_direction *d, int64_t deadline);
/* Deregister, wake who waits, and return the descriptor or -1. */
int netfd_give_up_fd(NetFD *self);
/* Raise ClosedError.  Always -1. */
int netfd_raise_closed(const char *what);

static inline bool
netfd_expired(const netfd_direction *d)
{
    return d->deadline != RT_FOREVER && d->deadline <= rt_nanotime();
}

/* Take the turn; then the descriptor is open and the deadline has not passed.  -1
   with an exception set.  May run other goroutines.  `what` names the operation. */
static inline int
netfd_enter(NetFD *self, netfd_direction *d, const char *what)
{
    if (RT_UNLIKELY(d->busy || self->fd < 0 || netfd_expired(d)))
        return netfd_enter_slow(self, d, what);
    d->busy = true;
    return 0;
}

/* Give the turn to who waits for it first. */
static inline void
netfd_leave(netfd_direction *d)
{
    py_waiter *w = py_waitq_claim(&d->turn, RT_WAKE_READY);
    if (RT_LIKELY(w == NULL))
        d->busy = false;
    else
        py_ready(w->g, false);
}

#endif
