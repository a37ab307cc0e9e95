/* perf_netpoll.c - what the poller's operations cost, beside the bare system calls
 * they are made of. */
#include "rt_netpoll.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rt_perf.h"

enum { N = 200000, MANY = 200 };

static void
must(bool ok)
{
    if (!ok)
        abort();
}

int
main(void)
{
    const rt_netpoll_ops *ops = rt_netpoll_default();
    static rt_poll_event ev[256];
    rt_netpoll *np;
    int fd[2], many[MANY][2];
    char c;
    uint64_t one = 1;
    must(ops->open(&np) == 0);
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) == 0);

    PERF("wait(0), nothing ready", N, for (int i = 0; i < N; i++) {
        must(ops->wait(np, ev, 256, 0, NULL) == 0);
    });
    PERF("wake, when a wake-up is under way", N, for (int i = 0; i < N; i++) {
        ops->wake(np);
    });
    must(ops->wait(np, ev, 256, -1, NULL) == 0);
    PERF("wake+wait", N, for (int i = 0; i < N; i++) {
        ops->wake(np);
        must(ops->wait(np, ev, 256, -1, NULL) == 0);
    });
    PERF("wake+wait(1 s): epoll_pwait2", N, for (int i = 0; i < N; i++) {
        ops->wake(np);
        must(ops->wait(np, ev, 256, 1000000000, NULL) == 0);
    });
    int efd = eventfd(0, EFD_NONBLOCK);
    PERF("bare eventfd write+read", N, for (int i = 0; i < N; i++) {
        must(write(efd, &one, 8) == 8);
        must(read(efd, &one, 8) == 8);
    });
    PERF("wait(1000 ns), times out", 10000, for (int i = 0; i < 10000; i++) {
        must(ops->wait(np, ev, 256, 1000, NULL) == 0);
    });
    PERF("add+remove", N, for (int i = 0; i < N; i++) {
        must(ops->add(np, fd[0], fd) == 0);
        must(ops->remove(np, fd[0]) == 0);
    });
    must(ops->add(np, fd[0], fd) == 0);
    PERF("modify+wait(0)", N, for (int i = 0; i < N; i++) {
        must(ops->modify(np, fd[0], fd) == 0);
        must(ops->wait(np, ev, 256, 0, NULL) == 1);
    });
    PERF("write+wait+read, a socket pair", N, for (int i = 0; i < N; i++) {
        must(write(fd[1], "x", 1) == 1);
        must(ops->wait(np, ev, 256, -1, NULL) == 1);
        must(read(fd[0], &c, 1) == 1);
        /* The reader's room for one more is an edge of its own. */
    });
    PERF("write+read, without the poller", N, for (int i = 0; i < N; i++) {
        must(write(fd[1], "x", 1) == 1);
        must(read(fd[0], &c, 1) == 1);
    });
    for (int i = 0; i < MANY; i++) {
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, many[i]) == 0);
        must(ops->add(np, many[i][0], many[i]) == 0);
    }
    must(ops->wait(np, ev, 256, 0, NULL) >= MANY);
    PERF("an event, 200 ready at a time (with its modify)", 1000 * MANY,
         for (int r = 0; r < 1000; r++) {
             for (int i = 0; i < MANY; i++)
                 must(ops->modify(np, many[i][0], many[i]) == 0);
             must(ops->wait(np, ev, 256, 0, NULL) == MANY);
         });
    ops->close(np);
    return 0;
}
