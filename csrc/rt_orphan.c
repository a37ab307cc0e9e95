/* rt_orphan.c - see rt_orphan.h. */
#include "rt_orphan.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#define STACK_SIZE (256 << 10)

static _Atomic int64_t grace = 30000000000;     /* ns; any thread writes, the watcher reads */

static int64_t
now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void *
watch(void *arg)
{
    struct pollfd end = {.fd = (int)(intptr_t)arg, .events = POLLIN};
    while (poll(&end, 1, -1) < 0 && errno == EINTR)
        ;
    kill(getpid(), SIGTERM);
    int64_t since = now();
    /* In steps: the grace may be changed meanwhile. */
    while (now() - since < atomic_load(&grace))
        poll(NULL, 0, 50);
    kill(getpid(), SIGKILL);
    return NULL;
}

void
rt_orphan_set_grace(int64_t ns)
{
    atomic_store(&grace, ns);
}

int
rt_orphan_watch(int fd)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, old;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);   /* signals are for the other threads */
    int err = pthread_create(&thread, &attr, watch, (void *)(intptr_t)fd);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -err;
}
