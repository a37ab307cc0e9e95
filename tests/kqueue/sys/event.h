/* sys/event.h - a stand-in for kqueue on Linux, for tests of rt_netpoll_kqueue.c.
 *
 * What that back-end uses of kqueue, with the meaning that the manuals of FreeBSD and
 * macOS give it: EVFILT_READ and EVFILT_WRITE on descriptors with EV_CLEAR, EVFILT_USER with
 * ident 0, one change or one wait a call.  See kqueue.c.
 *
 * KQ_NO_USER leaves EVFILT_USER out, as on systems that have none.
 */
#ifndef KQ_SYS_EVENT_H
#define KQ_SYS_EVENT_H

#include <stdint.h>
#include <time.h>

#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)
#ifndef KQ_NO_USER
#define EVFILT_USER (-11)
#define NOTE_TRIGGER 0x01000000u
#endif

#define EV_ADD 0x0001u
#define EV_DELETE 0x0002u
#define EV_ENABLE 0x0004u
#define EV_CLEAR 0x0020u
#define EV_EOF 0x8000u

struct kevent {
    uintptr_t ident;
    int16_t filter;
    uint16_t flags;
    uint32_t fflags;
    intptr_t data;
    void *udata;
};

#define EV_SET(kev, a, b, c, d, e, f) \
    (*(kev) = (struct kevent){.ident = (a), .filter = (int16_t)(b), .flags = (uint16_t)(c), \
                              .fflags = (d), .data = (e), .udata = (f)})

int kqueue(void);
int kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events,
           int nevents, const struct timespec *timeout);

/* Closing a queue frees all there is of it. */
int kq_close(int fd);
#define close(fd) kq_close(fd)

#endif
