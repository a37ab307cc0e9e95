/* py_netfd.h - what the files of NetFD share.
 *
 *   py_netfd.c     the type: reading, writing, accepting, life
 *   py_netdial.c   new sockets, and connecting them
 *   py_netmsg.c    what takes more than a buffer: datagrams, several buffers, descriptors, files
 *   py_netaddr.c   addresses and options
 *   py_netwait.c   waiting: registration with a poller, turns, deadlines, closing
 *
 * A method takes the turn of its direction (netfd_enter), tries the system call between
 * netfd_begin() and netfd_end(), waits for an edge while that would block
 * (netfd_wait_edge), and gives the turn back (netfd_leave).
 */
#ifndef PY_NETFD_H
#define PY_NETFD_H

#include "py_core.h"
#include "py_wait.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/types.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0          /* macOS; Python ignores SIGPIPE */
#endif

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
    bool stream;                /* no message boundaries; never changes */
    bool tcp;                   /* never changes */
    bool bulk;                  /* the last read was a big one; only a hint */
    int family;                 /* AF_*, 0 where it is no socket; never changes */
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
/* netfd_enter() for at most as long as limits say (NULL: no limits but the deadline). */
int netfd_enter_for(py_pd *pd, netfd_direction *d, const char *what, py_wait *limits);
/* Wait until an edge may have come for the direction whose turn the caller has.
   0: try again; -1: an exception is set.  Runs other goroutines. */
int netfd_wait_edge(py_pd *pd, netfd_direction *d, const char *what);
int netfd_wait_edge_for(py_pd *pd, netfd_direction *d, const char *what, py_wait *limits);
/* Set the deadlines of one or both directions and have who waits for an edge look at
   them.  -1 with ClosedError set. */
int netfd_set_deadlines(py_pd *pd, bool rd, bool wr, int64_t deadline);
/* Deregister, wake who waits, and return the descriptor or -1.  No system call on it is
   under way then, nor will be.  May detach for a moment. */
int netfd_give_up_fd(py_pd *pd);
/* Raise ClosedError.  Always -1. */
int netfd_raise_closed(const char *what);
/* Raise the OSError for what a system call has failed with.  Always -1. */
int netfd_raise_errno(int err, const char *what);

/* The results of system calls are their values or -errno: between netfd_begin() and
   netfd_end() nothing can be raised. */
static inline bool
netfd_would_block(ssize_t r)
{
    return r == -EAGAIN || r == -EWOULDBLOCK;
}

/* Accept a connection, which is non-blocking and not inherited: its descriptor or -errno. */
int netfd_sys_accept(int fd, struct sockaddr *sa, socklen_t *len);

/* What accept() says of a connection that was gone before it was accepted: the next may
   not be.  (Linux passes on its network errors.) */
static inline bool
netfd_lost_before_accept(int err)
{
    return err == ECONNABORTED || err == EPROTO || err == ENETDOWN || err == ENOPROTOOPT
           || err == EHOSTDOWN || err == EHOSTUNREACH || err == ENETUNREACH
           || err == ETIMEDOUT
#ifdef ENONET
           || err == ENONET
#endif
        ;
}

/* py_netfd.c */
/* An object of that type (NetFD or a subclass) for fd, without a peer; the rest is the
   caller's to fill in.  NULL with an exception set: fd is still the caller's. */
NetFD *netfd_alloc(PyTypeObject *type, int fd);
/* Write n bytes, or one message, with the turn.  -1 with an exception set: then part of
   it may have been written. */
int netfd_write_turn(NetFD *self, const char *p, Py_ssize_t n, const char *what);
/* Bytes that were put back, moved into buf, at most n; 0: there are none. */
Py_ssize_t netfd_take_rest(NetFD *self, char *buf, Py_ssize_t n);
static inline bool
netfd_has_rest(const NetFD *self)
{
    return __atomic_load_n(&self->rest, __ATOMIC_RELAXED) != NULL;
}

/* py_netaddr.c */
/* An address as the socket module shows it; new reference. */
PyObject *netfd_address(const struct sockaddr_storage *ss, socklen_t len);
/* The reverse, for a socket of that family.  -1 with an exception set. */
int netfd_parse_address(int family, PyObject *address, struct sockaddr_storage *ss,
                        socklen_t *len);
PyObject *netfd_getsockname(NetFD *self, PyObject *ignored);
PyObject *netfd_getpeername(NetFD *self, PyObject *ignored);
PyObject *netfd_setsockopt(NetFD *self, PyObject *args);
PyObject *netfd_getsockopt(NetFD *self, PyObject *args);
PyObject *netfd_shutdown(NetFD *self, PyObject *how);
PyObject *netfd_dup(NetFD *self, PyObject *ignored);

/* py_netdial.c */
PyObject *netfd_new_socket(PyTypeObject *type, PyObject *args);
PyObject *netfd_bind(NetFD *self, PyObject *address);
PyObject *netfd_connect(NetFD *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *netfd_wait_connected(NetFD *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);

/* py_netmsg.c */
/* Write the buffers of a list or tuple; returns the number of bytes. */
PyObject *netfd_write_buffers(NetFD *self, PyObject *buffers);
PyObject *netfd_recv_from(NetFD *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *netfd_recv_from_into(NetFD *self, PyObject *buffer);
PyObject *netfd_send_to(NetFD *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *netfd_recv_fds(NetFD *self, PyObject *args);
PyObject *netfd_send_fds(NetFD *self, PyObject *args);
PyObject *netfd_write_file(NetFD *self, PyObject *args);

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
    return RT_LIKELY(got) ? 0 : netfd_enter_for(pd, d, what, NULL);
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
