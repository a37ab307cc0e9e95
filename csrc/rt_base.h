/* rt_base.h - what every rt_ file may use: compiler helpers, fatal errors, time.
 *
 * rt_ code is C11, knows nothing of Python, returns 0 or -errno, and can be
 * compiled on its own for the C tests (tests/c) under ASan, UBSan and TSan.
 */
#ifndef RT_BASE_H
#define RT_BASE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define RT_LIKELY(x) __builtin_expect(!!(x), 1)
#define RT_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define RT_NOINLINE __attribute__((noinline))
#define RT_COLD __attribute__((noinline, cold))
#define RT_CONTAINER_OF(ptr, type, field) \
    ((type *)((char *)(ptr) - offsetof(type, field)))
#define RT_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Counters and flags that others may look at while their owner writes: no order. */
#define RT_LOAD(x) atomic_load_explicit(&(x), memory_order_relaxed)
#define RT_STORE(x, v) atomic_store_explicit(&(x), (v), memory_order_relaxed)
#define RT_COUNT(x, n) RT_STORE(x, RT_LOAD(x) + (n))     /* by the owner only */

/* In a loop that waits for another core. */
#if defined(__x86_64__) || defined(__i386__)
#define rt_cpu_relax() __builtin_ia32_pause()
#else
#define rt_cpu_relax() ((void)0)
#endif

/* Report a broken invariant on stderr and abort.  Never returns. */
_Noreturn void rt_throw(const char *msg);

/* Monotonic clock in nanoseconds (22 ns a call on the reference machine). */
static inline int64_t
rt_nanotime(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

#define RT_FOREVER INT64_MAX

/* Between two steps that other threads may come in between of: tests make them do so. */
#ifdef RT_TEST_YIELD
void rt_test_yield(void);
#define RT_YIELD_POINT() rt_test_yield()
#else
#define RT_YIELD_POINT() ((void)0)
#endif

#endif
