/* rt_netpoll.h - the poller contract (portable part).
 *
 * A back-end (epoll, kqueue) supplies one table of functions.  What each must keep, and
 * tests/c/test_netpoll.c checks of each:
 *
 *  - A descriptor is registered once, for both directions, edge-triggered.  A
 *    back-end reports an edge at least once after each transition to ready, and
 *    once after registration if the descriptor is ready already.  Both directions may come
 *    as one event or as two; an event may be spurious.
 *  - An end or an error that would end a wait counts as an edge of the directions it
 *    ends: the peer's end of sending is IN | HUP, its going away IN | OUT | HUP, an error
 *    IN | OUT | ERR.  A pipe that nobody reads is OUT with HUP or ERR.
 *  - Closing a descriptor ends its registration, unless another one shares what it
 *    stands for (dup, fork).  Its number may be registered again at once.
 *  - Descriptors that are always ready (regular files, directories) are refused, -EPERM;
 *    numbers that are not open with -EBADF, those not registered with -ENOENT, those
 *    registered already with -EEXIST.
 *  - `data` is handed back unchanged with each event; the back-end never looks
 *    into it.
 *  - Only the M that owns the instance calls wait().  add, modify, remove and
 *    wake may be called from any thread.
 *  - wake() makes a concurrent or the next wait() return at once; several wake()
 *    calls before one wait() count as one.  wait() never reports the wake-up
 *    itself as an event.
 *  - Nothing here calls back; but for open(), nothing allocates.
 *  - A forked child may only close() the instances of its parent, which leaves the
 *    parent's alone.
 *  - Every function returns 0 (wait: the number of events) or -errno.
 */
#ifndef RT_NETPOLL_H
#define RT_NETPOLL_H

#include <signal.h>
#include <stdint.h>

enum {
    RT_POLL_IN = 1,     /* readable, or a connection waits to be accepted */
    RT_POLL_OUT = 2,    /* writable, or connected */
    RT_POLL_HUP = 4,    /* the peer closed (at least) its sending side */
    RT_POLL_ERR = 8     /* an error is pending on the descriptor */
};

typedef struct {
    void *data;
    uint32_t mode;      /* RT_POLL_* bits */
    uint32_t unused;
} rt_poll_event;

typedef struct rt_netpoll rt_netpoll;   /* opaque, one a P */

typedef struct {
    const char *name;                   /* "epoll", "kqueue" */
    /* Create an instance in *out. */
    int (*open)(rt_netpoll **out);
    /* Register fd for both directions, edge-triggered.  -EPERM: not pollable. */
    int (*add)(rt_netpoll *np, int fd, void *data);
    /* Change data and re-report the current readiness (re-arm the edges). */
    int (*modify)(rt_netpoll *np, int fd, void *data);
    /* Forget fd.  Call it before close(fd) when the descriptor may be shared. */
    int (*remove)(rt_netpoll *np, int fd);
    /* Wait at most timeout_ns (0: only look, negative: no limit), with the
       thread's signal mask replaced by *sigmask for the time of the wait where
       sigmask is not NULL (atomically, as ppoll does).  -EINTR when a signal was
       handled. */
    int (*wait)(rt_netpoll *np, rt_poll_event *events, int max,
                int64_t timeout_ns, const sigset_t *sigmask);
    int (*wake)(rt_netpoll *np);
    /* Free the instance and its descriptors. */
    void (*close)(rt_netpoll *np);
} rt_netpoll_ops;

/* The table of the back-end this platform uses. */
const rt_netpoll_ops *rt_netpoll_default(void);

#endif
