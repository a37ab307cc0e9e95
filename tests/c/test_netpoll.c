/* test_netpoll.c - the poller contract of rt_netpoll.h, against real descriptors.
 *
 * Nothing in it knows the back-end except the parts marked EPOLL.  An alarm
 * ends the program if a wake-up is lost.
 */
#include "rt_netpoll.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "rt_base.h"
#include "rt_test.h"

#if defined(__linux__) && !defined(RT_NETPOLL_KQUEUE)
#define EPOLL
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#define MS 1000000LL
#define IN RT_POLL_IN
#define OUT RT_POLL_OUT
#define HUP RT_POLL_HUP
#define ERR RT_POLL_ERR

static const rt_netpoll_ops *ops;
static rt_netpoll *np;
static rt_poll_event ev[512];
static char tag_a, tag_b;       /* addresses serve as data */

static int
wait_for(int64_t timeout_ns)
{
    memset(ev, 0x5a, sizeof(ev));
    return ops->wait(np, ev, RT_ARRAY_LEN(ev), timeout_ns, NULL);
}

/* Events until nothing is left, joined by their data. */
static uint32_t
modes_of(void *data)
{
    uint32_t mode = 0;
    for (int n; (n = wait_for(0)) != 0;) {
        CHECK(n > 0);
        for (int i = 0; i < n; i++)
            if (ev[i].data == data)
                mode |= ev[i].mode;
    }
    return mode;
}

static void
setup(void)
{
    np = NULL;
    CHECK_EQ(ops->open(&np), 0);
    CHECK(np != NULL);
}

static void
teardown(void)
{
    ops->close(np);
    np = NULL;
}

static void
pair(int fd[2])
{
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
}

static void
close_pair(int fd[2])
{
    close(fd[0]);
    close(fd[1]);
}

static bool
fd_is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* ---- life ---- */

static void
table_is_complete(void)
{
    CHECK(ops == rt_netpoll_default());
    CHECK(ops->name != NULL && ops->name[0] != '\0');
    CHECK(ops->open && ops->add && ops->modify && ops->remove && ops->wait && ops->wake
          && ops->close);
}

static void
open_is_close_on_exec_and_close_leaves_nothing(void)
{
    bool before[256];
    int count = rt_test_open_fds();
    for (int fd = 0; fd < 256; fd++)
        before[fd] = fd_is_open(fd);
    setup();
    CHECK(rt_test_open_fds() > count);
    for (int fd = 0; fd < 256; fd++)
        if (!before[fd] && fd_is_open(fd))
            CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    teardown();
    CHECK_EQ(rt_test_open_fds(), count);
}

static void
open_fails_cleanly_without_descriptors(void)
{
    struct rlimit old, lim;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    int first_free = dup(0);
    CHECK(first_free >= 0);
    close(first_free);
    int count = rt_test_open_fds(), failures = 0;
    /* Room for n descriptors, until that is enough. */
    for (int n = 0;; n++) {
        lim = old;
        lim.rlim_cur = (rlim_t)(first_free + n);
        CHECK(setrlimit(RLIMIT_NOFILE, &lim) == 0);
        np = NULL;
        int err = ops->open(&np);
        CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
        if (err == 0)
            break;
        CHECK_EQ(err, -EMFILE);
        CHECK(np == NULL);
        CHECK_EQ(rt_test_open_fds(), count);
        failures++;
    }
    CHECK(failures >= 1);
    teardown();
}

/* ---- readiness ---- */

static void
add_reports_readiness_once_and_then_edges(void)
{
    int fd[2];
    char buf[16];
    setup();
    pair(fd);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
    CHECK_EQ(wait_for(0), 1);
    CHECK(ev[0].data == &tag_a);
    CHECK_EQ(ev[0].mode, OUT);
    CHECK_EQ(wait_for(0), 0);
    CHECK(write(fd[1], "x", 1) == 1);
    CHECK_EQ(wait_for(-1), 1);
    CHECK(ev[0].data == &tag_a);
    CHECK(ev[0].mode & IN);
    CHECK_EQ(wait_for(0), 0);           /* still readable, but no edge */
    CHECK(read(fd[0], buf, sizeof(buf)) == 1);
    CHECK(write(fd[1], "y", 1) == 1);
    CHECK(modes_of(&tag_a) & IN);
    close_pair(fd);
    teardown();
}

static void
socket_that_drains_becomes_writable(void)
{
    int fd[2];
    static char buf[65536];
    setup();
    pair(fd);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
    while (write(fd[0], buf, sizeof(buf)) > 0)
        continue;
    CHECK_EQ(errno, EAGAIN);
    modes_of(&tag_a);
    CHECK_EQ(wait_for(0), 0);
    while (read(fd[1], buf, sizeof(buf)) > 0)
        continue;
    CHECK(modes_of(&tag_a) & OUT);
    close_pair(fd);
    teardown();
}

static void
pipe_ends_report_their_direction(void)
{
    int fd[2];
    setup();
    CHECK(pipe(fd) == 0);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
    CHECK_EQ(ops->add(np, fd[1], &tag_b), 0);
    CHECK_EQ(wait_for(0), 1);
    CHECK(ev[0].data == &tag_b);
    CHECK_EQ(ev[0].mode, OUT);
    CHECK(write(fd[1], "x", 1) == 1);
    CHECK_EQ(modes_of(&tag_a), IN);
    close(fd[0]);
    uint32_t mode = modes_of(&tag_b);
    CHECK((mode & OUT) && (mode & (HUP | ERR)));
    close(fd[1]);
    teardown();
}

static void
peer_that_shuts_down_or_closes_is_hup(void)
{
    int fd[2];
    setup();
    pair(fd);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
    modes_of(&tag_a);
    CHECK(shutdown(fd[1], SHUT_WR) == 0);
    CHECK((modes_of(&tag_a) & (IN | HUP)) == (IN | HUP));
    close(fd[1]);
    CHECK((modes_of(&tag_a) & (IN | OUT | HUP)) == (IN | OUT | HUP));
    close(fd[0]);
    teardown();
}

static int
listener(struct sockaddr_in *addr)
{
    socklen_t len = sizeof(*addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *addr = (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    CHECK(fd >= 0);
    CHECK(bind(fd, (struct sockaddr *)addr, len) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)addr, &len) == 0);
    return fd;
}

static void
connections_are_accepted_and_refused(void)
{
    struct sockaddr_in addr;
    setup();
    int lfd = listener(&addr);
    CHECK(listen(lfd, 8) == 0);
    CHECK_EQ(ops->add(np, lfd, &tag_a), 0);
    CHECK(!(modes_of(&tag_a) & IN));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 || errno == EINPROGRESS);
    CHECK_EQ(ops->add(np, fd, &tag_b), 0);
    uint32_t a = 0, b = 0;
    while (!(a & IN) || !(b & OUT)) {
        int n = wait_for(-1);
        for (int i = 0; i < n; i++)
            *(ev[i].data == &tag_a ? &a : &b) |= ev[i].mode;
    }
    CHECK(!(b & (ERR | HUP)));
    close(fd);
    close(lfd);

    int closed = listener(&addr);       /* bound, but does not listen */
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK_EQ(ops->add(np, fd, &tag_b), 0);
    CHECK(connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == -1);
    b = 0;
    while (!(b & ERR)) {
        int n = wait_for(-1);
        CHECK(n >= 0);
        for (int i = 0; i < n; i++)
            b |= ev[i].mode;
    }
    CHECK((b & (IN | OUT | ERR)) == (IN | OUT | ERR));
    close(fd);
    close(closed);
    teardown();
}

static void
modify_reports_again_with_the_new_data(void)
{
    int fd[2];
    setup();
    pair(fd);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
    CHECK(write(fd[1], "x", 1) == 1);
    CHECK_EQ(modes_of(&tag_a), IN | OUT);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(wait_for(0), 0);
        CHECK_EQ(ops->modify(np, fd[0], &tag_b), 0);
        CHECK_EQ(modes_of(&tag_b), IN | OUT);
    }
    close_pair(fd);
    teardown();
}

static void
removed_descriptor_is_silent(void)
{
    int fd[2];
    setup();
    pair(fd);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
    CHECK_EQ(ops->remove(np, fd[0]), 0);
    CHECK(write(fd[1], "x", 1) == 1);
    CHECK_EQ(wait_for(0), 0);
    CHECK_EQ(ops->remove(np, fd[0]), -ENOENT);
    CHECK_EQ(ops->modify(np, fd[0], &tag_a), -ENOENT);
    CHECK_EQ(ops->add(np, fd[0], &tag_b), 0);
    CHECK_EQ(modes_of(&tag_b), IN | OUT);
    close_pair(fd);
    CHECK_EQ(wait_for(0), 0);           /* closing forgets, too */
    int again[2];
    pair(again);
    CHECK_EQ(again[0], fd[0]);          /* the same number */
    CHECK_EQ(ops->add(np, again[0], &tag_a), 0);
    CHECK_EQ(modes_of(&tag_b), 0);
    CHECK_EQ(ops->modify(np, again[0], &tag_a), 0);
    CHECK_EQ(modes_of(&tag_a), OUT);
    close_pair(again);
    teardown();
}

static void
wrong_descriptors_are_refused(void)
{
    int fd[2];
    setup();
    pair(fd);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
    CHECK_EQ(ops->add(np, fd[0], &tag_b), -EEXIST);
    close_pair(fd);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), -EBADF);
    CHECK_EQ(ops->modify(np, fd[0], &tag_a), -EBADF);
    CHECK_EQ(ops->remove(np, fd[0]), -EBADF);
    CHECK_EQ(ops->add(np, -1, &tag_a), -EBADF);
    FILE *f = tmpfile();
    CHECK(f != NULL);
    CHECK_EQ(ops->add(np, fileno(f), &tag_a), -EPERM);
    fclose(f);
    CHECK_EQ(wait_for(0), 0);
    teardown();
}

static void
few_slots_still_let_every_descriptor_through(void)
{
    enum { N = 300 };           /* more than one call of the system returns */
    static int fd[N][2];
    static int seen[N];
    setup();
    for (int i = 0; i < N; i++) {
        pair(fd[i]);
        CHECK_EQ(ops->add(np, fd[i][0], &seen[i]), 0);
    }
    CHECK_EQ(ops->wait(np, ev, 0, 0, NULL), -EINVAL);
    CHECK_EQ(ops->wait(np, ev, -1, 0, NULL), -EINVAL);
    CHECK_EQ(ops->wake(np), 0);
    int total = 0;
    for (int round = 0, max; total < N; round++) {
        max = round < 10 ? 7 : 512;
        int n = ops->wait(np, ev, max, 0, NULL);
        CHECK(n >= 0 && n <= max);
        CHECK(round < 1000);
        for (int i = 0; i < n; i++)
            CHECK_EQ((*(int *)ev[i].data)++, 0);
        total += n;
    }
    CHECK_EQ(wait_for(0), 0);
    for (int i = 0; i < N; i++) {
        CHECK_EQ(seen[i], 1);
        close_pair(fd[i]);
    }
    teardown();
}

/* ---- time ---- */

static void
check_timeout(int64_t ns)
{
    int64_t start = rt_nanotime();
    CHECK_EQ(wait_for(ns), 0);
    int64_t took = rt_nanotime() - start;
    CHECK(took >= ns);
    CHECK(took < ns + 2000 * MS);
}

static void
wait_lasts_as_long_as_asked(void)
{
    setup();
    check_timeout(0);
    check_timeout(1);
    check_timeout(200000);
    check_timeout(1 * MS + 1);
    check_timeout(5 * MS);
    teardown();
}

static void
event_ends_a_long_wait(void)
{
    static const int64_t timeouts[] = {-1, INT64_MIN, INT64_MAX, 3600 * 1000 * MS};
    int fd[2];
    setup();
    pair(fd);
    for (size_t i = 0; i < RT_ARRAY_LEN(timeouts); i++) {
        CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
        CHECK_EQ(wait_for(timeouts[i]), 1);
        CHECK_EQ(ops->remove(np, fd[0]), 0);
    }
    close_pair(fd);
    teardown();
}

/* ---- wake ---- */

static void
wake_before_wait_ends_it_and_several_count_as_one(void)
{
    setup();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i <= round; i++)
            CHECK_EQ(ops->wake(np), 0);
        CHECK_EQ(wait_for(-1), 0);
        CHECK_EQ(wait_for(0), 0);
        check_timeout(3 * MS);
        CHECK_EQ(ops->wake(np), 0);
        CHECK_EQ(wait_for(0), 0);       /* a look takes it, too */
        check_timeout(1 * MS);
    }
    teardown();
}

static void
wake_is_not_an_event(void)
{
    int fd[2];
    setup();
    pair(fd);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
    CHECK_EQ(ops->wake(np), 0);
    CHECK_EQ(wait_for(-1), 1);
    CHECK(ev[0].data == &tag_a);
    close_pair(fd);
    teardown();
}

static void *
wake_soon(void *arg)
{
    (void)arg;
    struct timespec ts = {0, 5 * MS};
    nanosleep(&ts, NULL);
    CHECK_EQ(ops->wake(np), 0);
    return NULL;
}

static void
wake_during_wait_ends_it(void)
{
    pthread_t t;
    setup();
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&t, NULL, wake_soon, NULL) == 0);
        CHECK_EQ(wait_for(i == 0 ? -1 : 3600 * 1000 * MS), 0);
        CHECK(pthread_join(t, NULL) == 0);
    }
    teardown();
}

enum { WAKERS = 3, WAKES = 20000 };
static _Atomic uint64_t work;

static void *
waker_main(void *arg)
{
    (void)arg;
    for (int i = 0; i < WAKES; i++) {
        atomic_fetch_add_explicit(&work, 1, memory_order_relaxed);
        CHECK_EQ(ops->wake(np), 0);
        if (i % 16 == 0)
            sched_yield();
    }
    return NULL;
}

/* A lost wake-up leaves the waiter asleep for ever. */
static void
no_wake_is_lost(void)
{
    pthread_t t[WAKERS];
    setup();
    atomic_store(&work, 0);
    for (int i = 0; i < WAKERS; i++)
        CHECK(pthread_create(&t[i], NULL, waker_main, NULL) == 0);
    while (atomic_load_explicit(&work, memory_order_relaxed) < WAKERS * WAKES)
        CHECK_EQ(wait_for(-1), 0);
    for (int i = 0; i < WAKERS; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
    teardown();
}

/* One goroutine's worth of work at a time: what a wake-up carries is published by
   it alone, which TSan checks. */
static uint64_t plain;
static _Atomic uint64_t taken;

static void *
publisher_main(void *arg)
{
    (void)arg;
    for (uint64_t i = 1; i <= 2000; i++) {
        plain = i;
        CHECK_EQ(ops->wake(np), 0);
        while (atomic_load_explicit(&taken, memory_order_acquire) < i)
            sched_yield();
    }
    return NULL;
}

static void
wake_publishes_what_was_written_before(void)
{
    pthread_t t;
    setup();
    plain = 0;
    atomic_store(&taken, 0);
    CHECK(pthread_create(&t, NULL, publisher_main, NULL) == 0);
    for (uint64_t i = 1; i <= 2000; i++) {
        CHECK_EQ(wait_for(-1), 0);
        CHECK_EQ(plain, i);
        atomic_store_explicit(&taken, i, memory_order_release);
    }
    CHECK(pthread_join(t, NULL) == 0);
    teardown();
}

enum { ADDED = 500 };
static int added[ADDED][2];

static void *
adder_main(void *arg)
{
    (void)arg;
    for (int i = 0; i < ADDED; i++) {
        CHECK_EQ(ops->add(np, added[i][0], &added[i]), 0);
        CHECK(write(added[i][1], "x", 1) == 1);
        CHECK_EQ(ops->modify(np, added[i][0], &added[i]), 0);
        if (i % 8 == 0)
            CHECK_EQ(ops->wake(np), 0);
    }
    return NULL;
}

static void
other_threads_may_register(void)
{
    pthread_t t;
    static bool readable[ADDED];
    int left = ADDED;
    setup();
    for (int i = 0; i < ADDED; i++)
        pair(added[i]);
    CHECK(pthread_create(&t, NULL, adder_main, NULL) == 0);
    while (left > 0) {
        int n = wait_for(-1);
        CHECK(n >= 0);
        for (int i = 0; i < n; i++) {
            ptrdiff_t who = (int (*)[2])ev[i].data - added;
            CHECK(who >= 0 && who < ADDED);
            if ((ev[i].mode & IN) && !readable[who]) {
                readable[who] = true;
                left--;
            }
        }
    }
    CHECK(pthread_join(t, NULL) == 0);
    for (int i = 0; i < ADDED; i++)
        close_pair(added[i]);
    teardown();
}

/* ---- signals ---- */

static volatile sig_atomic_t signals;

static void
on_signal(int sig)
{
    (void)sig;
    signals = signals + 1;
}

static void
install(int sig)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    CHECK(sigaction(sig, &sa, NULL) == 0);
    signals = 0;
}

static pthread_t waiting_thread;
static _Atomic bool interrupted;

static void *
signal_until_interrupted(void *arg)
{
    (void)arg;
    struct timespec ts = {0, 1 * MS};
    while (!atomic_load(&interrupted)) {
        pthread_kill(waiting_thread, SIGUSR1);
        nanosleep(&ts, NULL);
    }
    return NULL;
}

static void
signal_interrupts_the_wait(void)
{
    static const int64_t timeouts[] = {-1, 3600 * 1000 * MS};
    pthread_t t;
    setup();
    install(SIGUSR1);
    waiting_thread = pthread_self();
    for (size_t i = 0; i < RT_ARRAY_LEN(timeouts); i++) {
        atomic_store(&interrupted, false);
        CHECK(pthread_create(&t, NULL, signal_until_interrupted, NULL) == 0);
        CHECK_EQ(wait_for(timeouts[i]), -EINTR);
        atomic_store(&interrupted, true);
        CHECK(pthread_join(t, NULL) == 0);
        CHECK(signals > 0);
    }
    teardown();
}

static void
check_sigmask(int64_t timeout_ns)
{
    sigset_t block, old, during, now;
    install(SIGUSR2);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR2);
    CHECK(pthread_sigmask(SIG_BLOCK, &block, &old) == 0);
    during = old;
    sigdelset(&during, SIGUSR2);
    CHECK(raise(SIGUSR2) == 0);
    CHECK_EQ(ops->wait(np, ev, 16, 2 * MS, NULL), 0);
    CHECK_EQ(ops->wait(np, ev, 16, 2 * MS, &block), 0);
    CHECK_EQ(signals, 0);
    /* Pending already: the mask must let it in and end the wait in one step. */
    CHECK_EQ(ops->wait(np, ev, 16, timeout_ns, &during), -EINTR);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &now) == 0);
    CHECK(sigismember(&now, SIGUSR2) == 1);
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    CHECK_EQ(signals, 1);
}

static void
sigmask_holds_for_the_wait_only(void)
{
    setup();
    check_sigmask(-1);
    check_sigmask(3600 * 1000 * MS);
    teardown();
}

/* ---- fork ---- */

static void
in_child(void (*fn)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(60);
        fn();
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

static void
closing_in_a_forked_child_leaves_the_parents_instance(void)
{
    int fd[2];
    setup();
    pair(fd);
    CHECK_EQ(ops->add(np, fd[0], &tag_a), 0);
    modes_of(&tag_a);
    in_child(teardown);
    CHECK(write(fd[1], "x", 1) == 1);
    CHECK(modes_of(&tag_a) & IN);
    CHECK_EQ(ops->wake(np), 0);
    CHECK_EQ(wait_for(-1), 0);
    close_pair(fd);
    teardown();
}

#ifdef EPOLL

/* ---- Linux: the eventfd, and kernels without epoll_pwait2 ---- */

static void
eventfds_can_be_polled(void)
{
    setup();
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t v = 1;
    CHECK(fd >= 0);
    CHECK_EQ(ops->add(np, fd, &tag_a), 0);
    CHECK_EQ(modes_of(&tag_a), OUT);
    CHECK(write(fd, &v, sizeof(v)) == sizeof(v));
    CHECK_EQ(modes_of(&tag_a), IN | OUT);
    CHECK(read(fd, &v, sizeof(v)) == sizeof(v));
    close(fd);
    teardown();
}

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

static int refused_with;

static void
without_pwait2(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)refused_with),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = RT_ARRAY_LEN(code), .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0) {
        printf("  (no seccomp here: not tested)\n");
        fflush(stdout);
        return;
    }
    CHECK(syscall(SYS_epoll_pwait2, -1, ev, 1, NULL, NULL, 8) == -1);
    CHECK_EQ(errno, refused_with);
    wait_lasts_as_long_as_asked();
    event_ends_a_long_wait();
    sigmask_holds_for_the_wait_only();
}

static void
old_kernels_are_served_by_milliseconds(void)
{
    refused_with = ENOSYS;
    in_child(without_pwait2);
    refused_with = EPERM;
    in_child(without_pwait2);
}

#endif

int
main(void)
{
    alarm(300);
    ops = rt_netpoll_default();
    RUN(table_is_complete);
    RUN(open_is_close_on_exec_and_close_leaves_nothing);
    RUN(open_fails_cleanly_without_descriptors);
    RUN(add_reports_readiness_once_and_then_edges);
    RUN(socket_that_drains_becomes_writable);
    RUN(pipe_ends_report_their_direction);
    RUN(peer_that_shuts_down_or_closes_is_hup);
    RUN(connections_are_accepted_and_refused);
    RUN(modify_reports_again_with_the_new_data);
    RUN(removed_descriptor_is_silent);
    RUN(wrong_descriptors_are_refused);
    RUN(few_slots_still_let_every_descriptor_through);
    RUN(wait_lasts_as_long_as_asked);
    RUN(event_ends_a_long_wait);
    RUN(wake_before_wait_ends_it_and_several_count_as_one);
    RUN(wake_is_not_an_event);
    RUN(wake_during_wait_ends_it);
    RUN(no_wake_is_lost);
    RUN(wake_publishes_what_was_written_before);
    RUN(other_threads_may_register);
    RUN(signal_interrupts_the_wait);
    RUN(sigmask_holds_for_the_wait_only);
    RUN(closing_in_a_forked_child_leaves_the_parents_instance);
#ifdef EPOLL
    RUN(eventfds_can_be_polled);
    RUN(old_kernels_are_served_by_milliseconds);
#endif
    return 0;
}
