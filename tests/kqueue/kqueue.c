/* kqueue.c - kqueue on epoll, as far as sys/event.h beside it says.
 *
 * A queue is an epoll instance, so that select() knows it, which watches two more: one for
 * EVFILT_READ, one for EVFILT_WRITE, both edge-triggered, which is EV_CLEAR.  Hence each
 * filter has events of its own, as in the original.  That a closed descriptor is
 * forgotten, EBADF and ENOENT are epoll's own.  EVFILT_USER is an eventfd among the readers.
 *
 * Like the original, and unlike a descriptor of Linux, a queue is not inherited by a
 * forked child.
 */
#include "sys/event.h"

#undef close

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FD = 1 << 16, READ_SIDE = 0, WRITE_SIDE, SIDES, BATCH = 64 };

typedef struct {
    int epfd[SIDES];
    int user;                   /* an eventfd */
    unsigned turn;              /* which side is looked at first */
    void **udata[SIDES];        /* by descriptor; guarded by lock */
} queue;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static queue *queues[MAX_FD];   /* by descriptor; guarded by lock */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
free_queue(queue *q)
{
    for (int side = 0; side < SIDES; side++) {
        if (q->epfd[side] >= 0)
            close(q->epfd[side]);
        free(q->udata[side]);
    }
    if (q->user >= 0)
        close(q->user);
    free(q);
}

static void
lock_for_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void
unlock_in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

static void
drop_in_child(void)
{
    for (int fd = 0; fd < MAX_FD; fd++) {
        if (queues[fd] == NULL)
            continue;
        free_queue(queues[fd]);
        queues[fd] = NULL;
        close(fd);
    }
    pthread_mutex_unlock(&lock);
}

static void
install_fork_handlers(void)
{
    pthread_atfork(lock_for_fork, unlock_in_parent, drop_in_child);
}

static queue *
find(int kq)
{
    pthread_mutex_lock(&lock);
    queue *q = kq >= 0 && kq < MAX_FD ? queues[kq] : NULL;
    pthread_mutex_unlock(&lock);
    if (q == NULL)
        errno = EBADF;
    return q;
}

static int
watch(int epfd, int fd, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.fd = fd};
    return epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev);
}

int
kqueue(void)
{
    pthread_once(&once, install_fork_handlers);
    queue *q = calloc(1, sizeof(*q));
    if (q == NULL)
        return -1;
    int kq = epoll_create1(0);
    q->user = q->epfd[READ_SIDE] = q->epfd[WRITE_SIDE] = -1;
    for (int side = 0; side < SIDES; side++) {
        q->udata[side] = calloc(MAX_FD, sizeof(void *));
        q->epfd[side] = epoll_create1(EPOLL_CLOEXEC);
        if (q->udata[side] == NULL || watch(kq, q->epfd[side], EPOLLIN) < 0)
            goto fail;
    }
    q->user = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (q->user < 0 || kq >= MAX_FD)
        goto fail;
    pthread_mutex_lock(&lock);
    queues[kq] = q;
    pthread_mutex_unlock(&lock);
    return kq;
fail:;
    int err = errno == EBADF ? EMFILE : errno;  /* of the one that could not be opened */
    free_queue(q);
    if (kq >= 0)
        close(kq);
    errno = err;
    return -1;
}

int
kq_close(int fd)
{
    pthread_mutex_lock(&lock);
    queue *q = fd >= 0 && fd < MAX_FD ? queues[fd] : NULL;
    if (q != NULL)
        queues[fd] = NULL;
    pthread_mutex_unlock(&lock);
    if (q != NULL)
        free_queue(q);
    return close(fd);
}

static void
set_udata(queue *q, int side, int fd, void *udata)
{
    pthread_mutex_lock(&lock);
    q->udata[side][fd] = udata;
    pthread_mutex_unlock(&lock);
}

#ifdef EVFILT_USER
static int
change_user(queue *q, const struct kevent *kev)
{
    uint64_t one = 1;
    if (kev->flags & EV_ADD)
        return watch(q->epfd[READ_SIDE], q->user, EPOLLIN | EPOLLET);
    return kev->fflags & NOTE_TRIGGER ? (int)write(q->user, &one, sizeof(one)) : 0;
}
#endif

static int
apply(queue *q, const struct kevent *kev)
{
#ifdef EVFILT_USER
    if (kev->filter == EVFILT_USER)
        return change_user(q, kev);
#endif
    int side = kev->filter == EVFILT_READ ? READ_SIDE : WRITE_SIDE, fd = (int)kev->ident;
    struct epoll_event ev = {
        .events = EPOLLET | (side == READ_SIDE ? EPOLLIN | EPOLLRDHUP : EPOLLOUT),
        .data.fd = fd,
    };
    if (kev->flags & EV_DELETE)
        return epoll_ctl(q->epfd[side], EPOLL_CTL_DEL, fd, NULL);
    if (kev->flags & EV_ENABLE)     /* ENOENT if it is not there */
        return epoll_ctl(q->epfd[side], EPOLL_CTL_MOD, fd, &ev);
    if (fd >= MAX_FD) {
        errno = ENOMEM;
        return -1;
    }
    set_udata(q, side, fd, kev->udata);
    if (epoll_ctl(q->epfd[side], EPOLL_CTL_ADD, fd, &ev) == 0)
        return 0;
    return errno == EEXIST ? epoll_ctl(q->epfd[side], EPOLL_CTL_MOD, fd, &ev) : -1;
}

static bool
is_socket(int fd)
{
    int kind;
    socklen_t len = sizeof(kind);
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &len) == 0;
}

static struct kevent
event_of(queue *q, int side, const struct epoll_event *ev)
{
    int fd = ev->data.fd;
#ifdef EVFILT_USER
    if (fd == q->user)
        return (struct kevent){.filter = EVFILT_USER};
#endif
    struct kevent kev = {
        .ident = (uintptr_t)fd,
        .filter = side == READ_SIDE ? EVFILT_READ : EVFILT_WRITE,
    };
    if (ev->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        kev.flags = EV_EOF;
    /* To ask which error would clear it. */
    if ((ev->events & EPOLLERR) && is_socket(fd))
        kev.fflags = EIO;
    pthread_mutex_lock(&lock);
    kev.udata = q->udata[side][fd];
    pthread_mutex_unlock(&lock);
    return kev;
}

static int
collect(queue *q, struct kevent *events, int nevents)
{
    int n = 0;
    for (int i = 0; i < SIDES; i++) {
        int side = (int)(q->turn++ % SIDES), got = BATCH;
        while (n < nevents && got == BATCH) {
            struct epoll_event ev[BATCH];
            got = epoll_wait(q->epfd[side], ev, nevents - n < BATCH ? nevents - n : BATCH, 0);
            for (int j = 0; j < got; j++)
                events[n++] = event_of(q, side, &ev[j]);
        }
    }
    q->turn++;                  /* the other side first, next time */
    return n;
}

int
kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events, int nevents,
       const struct timespec *timeout)
{
    queue *q = find(kq);
    if (q == NULL)
        return -1;
    for (int i = 0; i < nchanges; i++)
        if (apply(q, &changes[i]) < 0)
            return -1;
    if (nevents == 0)
        return 0;
    int n = collect(q, events, nevents);
    if (n != 0)
        return n;
    struct pollfd pfd = {.fd = kq, .events = POLLIN};
    n = ppoll(&pfd, 1, timeout, NULL);
    return n <= 0 ? n : collect(q, events, nevents);
}
