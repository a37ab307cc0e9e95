/* perf_timer.c - what starting, stopping, moving and firing a timer costs. */
#include "rt_timer.h"

#include <stdlib.h>

#include "rt_perf.h"

enum { N = 1000000 };
static rt_timers ts;
static rt_timer *pool;
static uint32_t *perm;          /* a random order of the pool */
static uint64_t fired;

static void
on_fire(rt_timer *t)
{
    (void)t;
    fired++;
}

static uint64_t rng = 88172645463325252u;

static uint32_t
rnd(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 32);
}

static void
start(rt_timer *t, int64_t when)
{
    t->when = when;
    t->fire = on_fire;
    if (rt_timers_start(&ts, t) != 0)
        abort();
}

/* One more timer comes and goes in a heap of n: the time-out of one read. */
static void
start_stop(uint32_t n)
{
    char name[64];
    rt_timer t = {0};
    rt_timers_init(&ts);
    for (uint32_t i = 0; i < n; i++)
        start(&pool[i], 1000 + i);
    snprintf(name, sizeof(name), "start+stop, latest deadline, %u others", n);
    PERF(name, N, for (int i = 0; i < N; i++) {
        start(&t, 10000000 + i);
        rt_timers_stop(&ts, &t);
    });
    snprintf(name, sizeof(name), "start+stop, random deadline, %u others", n);
    PERF(name, N, for (int i = 0; i < N; i++) {
        start(&t, rnd() % (n + 1) + 1000);
        rt_timers_stop(&ts, &t);
    });
    rt_timers_fini(&ts);
}

/* A server's idle time-outs: n connections, each moves its own to the end. */
static void
move_random(uint32_t n)
{
    char name[64];
    rt_timers_init(&ts);
    for (uint32_t i = 0; i < n; i++)
        start(&pool[i], i);
    int64_t now = n;
    snprintf(name, sizeof(name), "move a random one to the end, %u timers", n);
    PERF(name, N, for (int i = 0; i < N; i++) {
        rt_timers_move(&ts, &pool[rnd() % n], now++);
    });
    snprintf(name, sizeof(name), "stop+start of a random one at the end, %u timers", n);
    PERF(name, N, for (int i = 0; i < N; i++) {
        rt_timer *t = &pool[rnd() % n];
        rt_timers_stop(&ts, t);
        start(t, now++);
    });
    rt_timers_fini(&ts);
}

static void
fire_all(uint32_t n)
{
    char name[64];
    rt_timers_init(&ts);
    uint32_t rounds = N / n;
    snprintf(name, sizeof(name), "start+fire, random deadlines, %u timers", n);
    PERF(name, rounds * n, for (uint32_t r = 0; r < rounds; r++) {
        for (uint32_t i = 0; i < n; i++)
            start(&pool[i], rnd());
        rt_timers_run(&ts, RT_FOREVER);
    });
    rt_timers_fini(&ts);
}

static void
cancel_all(uint32_t n)
{
    char name[64];
    rt_timers_init(&ts);
    snprintf(name, sizeof(name), "start %u, stop them in random order: a pair", n);
    PERF(name, n, {
        for (uint32_t i = 0; i < n; i++)
            start(&pool[i], i);
        for (uint32_t i = 0; i < n; i++)
            rt_timers_stop(&ts, &pool[perm[i]]);
    });
    rt_timers_fini(&ts);
}

int
main(void)
{
    pool = calloc(N, sizeof(*pool));
    perm = malloc(N * sizeof(*perm));
    if (pool == NULL || perm == NULL)
        return 1;
    for (uint32_t i = 0; i < N; i++) {
        uint32_t j = rnd() % (i + 1);
        perm[i] = perm[j];
        perm[j] = i;
    }
    start_stop(0);
    start_stop(16);
    start_stop(1000);
    start_stop(100000);
    move_random(1000);
    move_random(100000);
    move_random(1000000);
    fire_all(10);
    fire_all(1000);
    fire_all(100000);
    cancel_all(1000000);
    return fired == 0;
}
