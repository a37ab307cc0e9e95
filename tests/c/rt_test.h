/* rt_test.h - the C tests' whole framework: CHECK and RUN, and what several need.
 *
 * A test is `static void name(void)`, called from its file's main by RUN(name).
 * The first failing CHECK prints where and what on stderr and exits with 1; a
 * program that passes prints each test's name and exits with 0.  CHECK may be
 * used on any thread and in a forked child (where it exits with _exit's status 1
 * too: the parent has to look at it).
 */
#ifndef RT_TEST_H
#define RT_TEST_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* UNDER_TSAN, UNDER_ASAN: built with a sanitizer. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define UNDER_TSAN 1
#endif
#ifdef __SANITIZE_ADDRESS__
#define UNDER_ASAN 1
#endif

/* The -cap4 configs call this at RT_YIELD_POINT(): now and then another thread runs. */
#ifdef RT_TEST_YIELD
#include <sched.h>
#include <stdint.h>
#include <time.h>

void rt_test_yield(void);
void
rt_test_yield(void)
{
    static _Thread_local uint32_t state;
    if (state == 0)
        state = (uint32_t)(uintptr_t)&state | 1;
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    if (state % 64 == 0) {
        struct timespec a_little = {0, (long)(state >> 8) % 100000};
        nanosleep(&a_little, NULL);
    }
    else if (state % 4 == 0)
        sched_yield();
}
#endif

#define CHECK(cond)                                                          \
    do {                                                                     \
        if (!(cond)) {                                                       \
            fprintf(stderr, "%s:%d: %s: CHECK failed: %s\n", __FILE__,       \
                    __LINE__, __func__, #cond);                              \
            fflush(NULL);                                                    \
            _exit(1);                                                        \
        }                                                                    \
    } while (0)

/* CHECK(a == b) for integers, printing both values. */
#define CHECK_EQ(a, b)                                                       \
    do {                                                                     \
        long long rt_test_a_ = (long long)(a), rt_test_b_ = (long long)(b);  \
        if (rt_test_a_ != rt_test_b_) {                                      \
            fprintf(stderr, "%s:%d: %s: CHECK failed: %s == %s (%lld, %lld)\n", \
                    __FILE__, __LINE__, __func__, #a, #b, rt_test_a_,        \
                    rt_test_b_);                                             \
            fflush(NULL);                                                    \
            _exit(1);                                                        \
        }                                                                    \
    } while (0)

#define RUN(fn)                                                              \
    do {                                                                     \
        printf("%s\n", #fn);                                                 \
        fflush(stdout);                                                      \
        fn();                                                                \
    } while (0)

/* Memory for what has cache lines of its own. */
static inline void *
rt_test_zeroed(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);
    CHECK(p != NULL);
    memset(p, 0, size);
    return p;
}

static inline int
rt_test_open_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

#endif
