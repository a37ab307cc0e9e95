/* rt_netpoll_kqueue.c - the back-end of rt_netpoll.h for the BSDs and macOS.
 *
 * Only what all of them have is used: kqueue(), kevent() with one change at a time (an error
 * is then the call's), EV_CLEAR, and pselect() on the queue.  On Linux it is built with
 * RT_NETPOLL_KQUEUE, for tests, on the stand-in for kqueue in tests/kqueue.
 *
 * Two filters a descriptor, EVFILT_READ and EVFILT_WRITE, each with its own events.  Not
 * everything has both: the end of a pipe, or a device.  It is registered if it has one.
 * The systems refuse EVFILT_WRITE with EPIPE on a pipe whose other end is gone; a writer
 * that is about to wait must hear of that, so the end of file that EVFILT_READ reports
 * there counts as writable, too.  To be told twice is harmless.
 *
 * Regular files: kqueue takes them and calls them ready until the end of the file.  They
 * never make a reader wait, so add() refuses them, as epoll does.
 *
 * Signal masks: kevent() has none.  A queue is a descriptor that select() knows, so
 * pselect() waits with the mask, and kevent() then only collects.
 *
 * Fork: the child does not inherit queues, and its descriptor with the same number may be
 * another file by the time close() is called there.
 *
 * Wake-ups: an EVFILT_USER event, or where there is none (NetBSD before 10, OpenBSD) a
 * pipe.  For `woken` see rt_netpoll_epoll.c.
 */
#if !defined(__linux__) || defined(RT_NETPOLL_KQUEUE)

#include "rt_netpoll.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <sys/event.h>

enum { EVENTS_PER_WAIT = 256 };
/* Some systems refuse longer ones.  A wait may end early. */
static const int64_t LONGEST_WAIT = 86400 * (int64_t)1000000000;

struct rt_netpoll {
    int kq;
    int wakefd[2];              /* a pipe, or -1 where EVFILT_USER does it */
    pid_t pid;                  /* the process that has the queue */
    _Atomic int woken;          /* a wake-up is under way; any thread */
    fd_mask *select_bits;       /* owned: room for descriptor kq; used by wait() only */
    struct kevent events[EVENTS_PER_WAIT];      /* likewise */
};

/* One change.  0 or -errno. */
static int
change(rt_netpoll *np, uintptr_t ident, int filter, unsigned flags, unsigned fflags, void *data)
{
    struct kevent kev;
    EV_SET(&kev, ident, filter, flags, fflags, 0, data);
    /* EINTR comes from the wait after the change, which is done then. */
    return kevent(np->kq, &kev, 1, NULL, 0, NULL) < 0 && errno != EINTR ? -errno : 0;
}

/* ---- wake-ups ---- */

#ifdef EVFILT_USER

static int
open_wake(rt_netpoll *np)
{
    return change(np, 0, EVFILT_USER, EV_ADD | EV_CLEAR, 0, NULL);
}

static int
send_wake(rt_netpoll *np)
{
    return change(np, 0, EVFILT_USER, 0, NOTE_TRIGGER, NULL);
}

static inline bool
is_wake(const rt_netpoll *np, const struct kevent *kev)
{
    (void)np;
    return kev->filter == EVFILT_USER;
}

#else

static int
open_wake(rt_netpoll *np)
{
    if (pipe(np->wakefd) < 0)
        return -errno;
    for (int i = 0; i < 2; i++)
        if (fcntl(np->wakefd[i], F_SETFL, O_NONBLOCK) < 0
            || fcntl(np->wakefd[i], F_SETFD, FD_CLOEXEC) < 0)
            return -errno;
    return change(np, (uintptr_t)np->wakefd[0], EVFILT_READ, EV_ADD | EV_CLEAR, 0, NULL);
}

static int
send_wake(rt_netpoll *np)
{
    while (write(np->wakefd[1], "", 1) < 0) {
        if (errno == EAGAIN)            /* full: more than enough of them */
            return 0;
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static inline bool
is_wake(const rt_netpoll *np, const struct kevent *kev)
{
    char buf[64];
    if (kev->ident != (uintptr_t)np->wakefd[0])
        return false;
    while (read(np->wakefd[0], buf, sizeof(buf)) == (ssize_t)sizeof(buf))
        continue;
    return true;
}

#endif

static int
np_wake(rt_netpoll *np)
{
    /* Release: the work published before is seen by who turns the flag off. */
    if (atomic_exchange_explicit(&np->woken, 1, memory_order_acq_rel) != 0)
        return 0;
    int err = send_wake(np);
    if (err < 0)
        atomic_store_explicit(&np->woken, 0, memory_order_release);
    return err;
}

/* ---- life ---- */

static void
np_close(rt_netpoll *np)
{
    if (np->kq >= 0 && np->pid == getpid())
        close(np->kq);
    for (int i = 0; i < 2; i++)
        if (np->wakefd[i] >= 0)
            close(np->wakefd[i]);
    free(np->select_bits);
    free(np);
}

static int
np_open(rt_netpoll **out)
{
    int err;
    rt_netpoll *np = malloc(sizeof(*np));
    if (np == NULL)
        return -ENOMEM;
    np->wakefd[0] = np->wakefd[1] = -1;
    np->pid = getpid();
    np->select_bits = NULL;
    atomic_init(&np->woken, 0);
    np->kq = kqueue();
    if (np->kq < 0 || fcntl(np->kq, F_SETFD, FD_CLOEXEC) < 0) {
        err = -errno;
        goto fail;
    }
    np->select_bits = calloc((size_t)np->kq / NFDBITS + 1, sizeof(fd_mask));
    if (np->select_bits == NULL) {
        err = -ENOMEM;
        goto fail;
    }
    err = open_wake(np);
    if (err < 0)
        goto fail;
    *out = np;
    return 0;
fail:
    np_close(np);
    return err;
}

/* ---- registration ---- */

static int
np_add(rt_netpoll *np, int fd, void *data)
{
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return -EBADF;
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISBLK(st.st_mode))
        return -EPERM;
    /* EV_ADD would take it away from who has it. */
    if (change(np, (uintptr_t)fd, EVFILT_READ, EV_ENABLE, 0, data) == 0)
        return -EEXIST;
    int rd = change(np, (uintptr_t)fd, EVFILT_READ, EV_ADD | EV_CLEAR, 0, data);
    if (rd == -ENOMEM || rd == -EBADF)
        return rd;
    int wr = change(np, (uintptr_t)fd, EVFILT_WRITE, EV_ADD | EV_CLEAR, 0, data);
    if (wr == -ENOMEM && rd == 0)
        change(np, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, NULL);
    if (wr == -ENOMEM || wr == -EBADF)
        return wr;
    return rd == 0 || wr == 0 ? 0 : -EPERM;
}

static int
np_remove(rt_netpoll *np, int fd)
{
    if (fd < 0)
        return -EBADF;
    int rd = change(np, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, NULL);
    int wr = change(np, (uintptr_t)fd, EVFILT_WRITE, EV_DELETE, 0, NULL);
    return rd == 0 || wr == 0 ? 0 : rd;
}

static int
np_modify(rt_netpoll *np, int fd, void *data)
{
    /* Not EV_ADD alone: not everywhere does that report an old readiness again. */
    int err = np_remove(np, fd);
    return err < 0 ? err : np_add(np, fd, data);
}

/* ---- waiting ---- */

static inline uint32_t
mode_of(const struct kevent *kev)
{
    bool end = kev->flags & EV_EOF;
    uint32_t mode = kev->filter == EVFILT_READ ? RT_POLL_IN : RT_POLL_OUT;
    if (end)
        mode |= RT_POLL_HUP | (kev->filter == EVFILT_READ ? RT_POLL_OUT : 0);
    /* With EV_EOF fflags is the socket's error. */
    if (end && kev->fflags != 0)
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
    if (timeout_ns > LONGEST_WAIT)
        timeout_ns = LONGEST_WAIT;
    struct timespec ts = {0}, *limit = timeout_ns < 0 ? NULL : &ts;
    if (timeout_ns > 0) {
        ts.tv_sec = (time_t)(timeout_ns / 1000000000);
        ts.tv_nsec = (long)(timeout_ns % 1000000000);
    }
    if (sigmask != NULL) {
        np->select_bits[np->kq / NFDBITS] = (fd_mask)1 << np->kq % NFDBITS;
        if (pselect(np->kq + 1, (fd_set *)np->select_bits, NULL, NULL, limit, sigmask) < 0)
            return -errno;
        ts = (struct timespec){0};
        limit = &ts;
    }
    int n = kevent(np->kq, NULL, 0, np->events, max, limit);
    if (n < 0)
        return -errno;
    int out = 0;
    for (int i = 0; i < n; i++) {
        const struct kevent *kev = &np->events[i];
        if (is_wake(np, kev)) {
            /* Acquire pairs with the release in np_wake. */
            atomic_exchange_explicit(&np->woken, 0, memory_order_acq_rel);
            continue;
        }
        events[out++] = (rt_poll_event){.data = (void *)kev->udata, .mode = mode_of(kev)};
    }
    return out;
}

static const rt_netpoll_ops kqueue_ops = {
    .name = "kqueue",
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
    return &kqueue_ops;
}

#else

/* ISO C wants a declaration in every file. */
typedef int rt_netpoll_kqueue_unused;

#endif
