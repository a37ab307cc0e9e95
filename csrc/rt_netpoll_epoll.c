/* rt_netpoll_epoll.c - the Linux back-end of rt_netpoll.h.
 *
 * Needs nothing but libc: it is part of the core's sources and also compiled alone
 * into runtime._netpoll (netpoll_ffi.py).
 *
 * Wake-ups: an eventfd registered edge-triggered.  Each write is a new edge even
 * while the counter is not zero, so it is never read; at one write a wake-up the
 * 64-bit counter does not run full.  `woken` joins wake-ups: only the wake() that
 * turns it on writes, and wait() turns it off after it has received the event.
 *
 *   wake():  publish work; woken 0 -> 1 (then write)
 *   wait():  receive the event; woken -> 0; the caller looks for work
 *
 * A wake() that finds the flag on wrote its work before wait() turned the flag
 * off (both are read-modify-writes of one variable, so they are ordered), hence the
 * caller sees the work without another event.  To turn it off before the event
 * is received would be wrong: a later wake() could have its event swallowed while
 * its flag stays on, and no wake-up would come again.
 *
 * The kernel fills a buffer in the instance, not one on the stack: goroutines'
 * C stacks are copied when they switch.
 */
#if defined(__linux__) && !defined(RT_NETPOLL_KQUEUE)

#include "rt_netpoll.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441    /* the same number on every architecture */
#endif

enum { EVENTS_PER_WAIT = 256 };

struct rt_netpoll {
    int epfd;
    int wakefd;
    _Atomic int woken;          /* a wake-up is under way; any thread */
    struct epoll_event events[EVENTS_PER_WAIT]; /* used by wait() only */
};

/* The kernel's timespec, 64-bit everywhere, unlike libc's. */
struct ktimespec {
    int64_t sec;
    long long nsec;
};

/* Turned off, for good, by the first call that the system does not know. */
static _Atomic int have_pwait2 = 1;

static int
epoll_ctl_data(rt_netpoll *np, int op, int fd, uint32_t extra, void *data)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET | extra, .data.ptr = data};
    return epoll_ctl(np->epfd, op, fd, &ev) == 0 ? 0 : -errno;
}

static void
np_close(rt_netpoll *np)
{
    if (np->wakefd >= 0)
        close(np->wakefd);
    if (np->epfd >= 0)
        close(np->epfd);
    free(np);
}

static int
np_open(rt_netpoll **out)
{
    int err;
    rt_netpoll *np = malloc(sizeof(*np));
    if (np == NULL)
        return -ENOMEM;
    np->wakefd = -1;
    atomic_init(&np->woken, 0);
    np->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (np->epfd < 0)
        goto fail_errno;
    np->wakefd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (np->wakefd < 0)
        goto fail_errno;
    /* An address that no caller has. */
    err = epoll_ctl_data(np, EPOLL_CTL_ADD, np->wakefd, 0, &np->wakefd);
    if (err != 0)
        goto fail;
    *out = np;
    return 0;
fail_errno:
    err = -errno;
fail:
    np_close(np);
    return err;
}

static int
np_add(rt_netpoll *np, int fd, void *data)
{
    return epoll_ctl_data(np, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLRDHUP, data);
}

static int
np_modify(rt_netpoll *np, int fd, void *data)
{
    return epoll_ctl_data(np, EPOLL_CTL_MOD, fd, EPOLLOUT | EPOLLRDHUP, data);
}

static int
np_remove(rt_netpoll *np, int fd)
{
    return epoll_ctl_data(np, EPOLL_CTL_DEL, fd, 0, NULL);
}

static int
np_wake(rt_netpoll *np)
{
    /* Release: the work published before is seen by who turns the flag off. */
    if (atomic_exchange_explicit(&np->woken, 1, memory_order_acq_rel) != 0)
        return 0;
    const uint64_t one = 1;
    while (write(np->wakefd, &one, sizeof(one)) < 0) {
        if (errno != EINTR) {
            int err = -errno;
            atomic_store_explicit(&np->woken, 0, memory_order_release);
            return err;
        }
    }
    return 0;
}

static int
wait_ns(rt_netpoll *np, int max, int64_t timeout_ns, const sigset_t *sigmask)
{
    if (timeout_ns <= 0) {
        int ms = timeout_ns == 0 ? 0 : -1;
        return sigmask == NULL ? epoll_wait(np->epfd, np->events, max, ms)
                               : epoll_pwait(np->epfd, np->events, max, ms, sigmask);
    }
    if (atomic_load_explicit(&have_pwait2, memory_order_relaxed)) {
        const struct ktimespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        long n = syscall(SYS_epoll_pwait2, np->epfd, np->events, max, &ts, sigmask,
                         (size_t)_NSIG / 8);
        /* Some containers refuse calls they do not know with EPERM. */
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return (int)n;
        atomic_store_explicit(&have_pwait2, 0, memory_order_relaxed);
    }
    /* Rounded up: to wake early would make the caller spin until the deadline. */
    int64_t ms = (timeout_ns - 1) / 1000000 + 1;
    return epoll_pwait(np->epfd, np->events, max, ms < INT_MAX ? (int)ms : INT_MAX,
                       sigmask);
}

static inline uint32_t
mode_of(uint32_t ev)
{
    uint32_t mode = 0;
    if (ev & EPOLLIN)
        mode |= RT_POLL_IN;
    if (ev & EPOLLOUT)
        mode |= RT_POLL_OUT;
    if (ev & EPOLLRDHUP)
        mode |= RT_POLL_IN | RT_POLL_HUP;
    if (ev & EPOLLHUP)
        mode |= RT_POLL_IN | RT_POLL_OUT | RT_POLL_HUP;
    if (ev & EPOLLERR)
        mode |= RT_POLL_IN | RT_POLL_OUT | RT_POLL_ERR;
    return mode;
}

static int
np_wait(rt_netpoll *np, rt_poll_event *events, int max, int64_t timeout_ns,
        const sigset_t *sigmask)
{
    if (max <= 0)
        return -EINVAL;
    if (max > EVENTS_PER_WAIT)
        max = EVENTS_PER_WAIT;
    int n = wait_ns(np, max, timeout_ns, sigmask);
    if (n < 0)
        return -errno;
    int out = 0;
    for (int i = 0; i < n; i++) {
        void *data = np->events[i].data.ptr;
        if (data == &np->wakefd) {
            /* Acquire pairs with the release in np_wake. */
            atomic_exchange_explicit(&np->woken, 0, memory_order_acq_rel);
            continue;
        }
        events[out++] = (rt_poll_event){
            .data = data,
            .mode = mode_of(np->events[i].events),
        };
    }
    return out;
}

static const rt_netpoll_ops epoll_ops = {
    .name = "epoll",
    .open = np_open,
    .add = np_add,
    .modify = np_modify,
    .remove = np_remove,
    .wait = np_wait,
    .wake = np_wake,
    .close = np_close,
};

const rt_netpoll_ops *
rt_netpoll_default(void)
{
    return &epoll_ops;
}

#else

/* ISO C wants a declaration in every file. */
typedef int rt_netpoll_epoll_unused;

#endif
