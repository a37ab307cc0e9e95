/* test_timer.c - the timer heap against a brute-force model, its behaviour during a
 * run, its memory, and allocation failures.
 *
 * Linked with --wrap=realloc: `fail_in` makes the n-th call from now on fail.
 */
#include "rt_timer.h"

#include <errno.h>
#include <string.h>

#include "rt_test.h"

static int fail_in = -1;        /* calls until the one that fails; -1: never */
static size_t last_size;        /* bytes asked for by the latest call */

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);

void *
__wrap_realloc(void *p, size_t n)
{
    if (fail_in >= 0 && fail_in-- == 0)
        return NULL;
    last_size = n;
    return __real_realloc(p, n);
}

static void
check_heap(const rt_timers *ts)
{
    CHECK(ts->held == 0 || ts->running);
    CHECK(ts->len + ts->held <= ts->cap);
    for (uint32_t i = 0; i < ts->len + ts->held; i++) {
        const rt_timer_slot *s = &ts->slots[i];
        CHECK_EQ(s->t->slot, i + 1);
        CHECK_EQ(s->t->when, s->when);
        if (i >= ts->len) {
            CHECK(s->when <= ts->run_now);
        } else if (i > 0) {
            const rt_timer_slot *p = &ts->slots[(i - 1) / 4];
            CHECK(p->when < s->when || (p->when == s->when && p->t->seq < s->t->seq));
        }
    }
}

static uint64_t rng_state = 88172645463325252u;

static uint32_t
rnd(uint32_t n)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)(rng_state >> 32) % n;
}

static rt_timer *fired[4096];
static uint32_t nfired;

static void
on_fire(rt_timer *t)
{
    CHECK(!rt_timer_started(t));
    CHECK(nfired < RT_ARRAY_LEN(fired));
    fired[nfired++] = t;
}

static void
timer_init(rt_timer *t, int64_t when)
{
    memset(t, 0, sizeof(*t));
    t->when = when;
    t->fire = on_fire;
}

static void
empty_heap_has_no_deadline(void)
{
    rt_timers ts;
    rt_timers_init(&ts);
    CHECK(rt_timers_next(&ts) == RT_FOREVER);
    CHECK_EQ(rt_timers_run(&ts, RT_FOREVER), 0);
    rt_timers_fini(&ts);
}

static void
equal_deadlines_fire_in_start_order(void)
{
    enum { N = 500 };
    static rt_timer t[N];
    rt_timers ts;
    rt_timers_init(&ts);
    for (int i = 0; i < N; i++) {
        timer_init(&t[i], 7);
        CHECK_EQ(rt_timers_start(&ts, &t[i]), 0);
    }
    /* Stopped and started again: it goes to the end, as does a moved one. */
    CHECK(rt_timers_stop(&ts, &t[0]));
    CHECK_EQ(rt_timers_start(&ts, &t[0]), 0);
    rt_timers_move(&ts, &t[1], 7);
    CHECK_EQ(rt_timers_next(&ts), 7);
    nfired = 0;
    CHECK_EQ(rt_timers_run(&ts, 6), 0);
    CHECK_EQ(rt_timers_run(&ts, 7), N);
    for (int i = 2; i < N; i++)
        CHECK(fired[i - 2] == &t[i]);
    CHECK(fired[N - 2] == &t[0] && fired[N - 1] == &t[1]);
    rt_timers_fini(&ts);
}

static void
stop_says_whether_it_was_started(void)
{
    rt_timers ts;
    rt_timer t;
    rt_timers_init(&ts);
    timer_init(&t, 1);
    CHECK(!rt_timers_stop(&ts, &t));
    CHECK_EQ(rt_timers_start(&ts, &t), 0);
    CHECK(rt_timer_started(&t));
    CHECK(rt_timers_stop(&ts, &t));
    CHECK(!rt_timer_started(&t));
    CHECK(!rt_timers_stop(&ts, &t));
    CHECK_EQ(rt_timers_run(&ts, 100), 0);
    rt_timers_fini(&ts);
}

static void
extreme_deadlines_are_ordinary(void)
{
    rt_timers ts;
    rt_timer lo, hi;
    rt_timers_init(&ts);
    timer_init(&lo, INT64_MIN);
    timer_init(&hi, RT_FOREVER);
    CHECK_EQ(rt_timers_start(&ts, &hi), 0);
    CHECK_EQ(rt_timers_start(&ts, &lo), 0);
    nfired = 0;
    CHECK_EQ(rt_timers_run(&ts, 0), 1);
    CHECK_EQ(rt_timers_run(&ts, RT_FOREVER - 1), 0);
    CHECK_EQ(rt_timers_run(&ts, RT_FOREVER), 1);
    CHECK(fired[0] == &lo && fired[1] == &hi);
    rt_timers_fini(&ts);
}

static void
fini_forgets_started_timers(void)
{
    rt_timers ts;
    rt_timer t;
    rt_timers_init(&ts);
    timer_init(&t, 1);
    CHECK_EQ(rt_timers_start(&ts, &t), 0);
    rt_timers_fini(&ts);
    CHECK(!rt_timer_started(&t));
    rt_timers_init(&ts);
    CHECK_EQ(rt_timers_start(&ts, &t), 0);
    CHECK(rt_timers_stop(&ts, &t));
    rt_timers_fini(&ts);
}

/* Random operations; the model is an array searched from end to end. */
static void
random_operations_match_the_model(void)
{
    enum { N = 300 };
    static rt_timer t[N];
    static uint64_t order[N];   /* model of seq; 0: not started */
    uint64_t next = 1;
    rt_timers ts;
    rt_timers_init(&ts);
    memset(order, 0, sizeof(order));
    for (int i = 0; i < N; i++)
        timer_init(&t[i], 0);
    int64_t now = 0;
    for (int step = 0; step < 100000; step++) {
        int i = (int)rnd(N);
        switch (rnd(8)) {
        case 0: case 1: case 2:
            if (!rt_timer_started(&t[i])) {
                t[i].when = now + rnd(50);
                CHECK_EQ(rt_timers_start(&ts, &t[i]), 0);
                order[i] = next++;
            }
            break;
        case 3: case 4:
            CHECK_EQ(rt_timers_stop(&ts, &t[i]), order[i] != 0);
            order[i] = 0;
            break;
        case 5: case 6:
            if (rt_timer_started(&t[i])) {
                rt_timers_move(&ts, &t[i], now + rnd(50));
                order[i] = next++;
            }
            break;
        default:
            now += rnd(10);
            nfired = 0;
            uint32_t n = rt_timers_run(&ts, now);
            CHECK_EQ(n, nfired);
            for (uint32_t k = 0; k < n; k++) {
                int best = -1;
                for (int j = 0; j < N; j++)
                    if (order[j] != 0 && t[j].when <= now
                        && (best < 0 || t[j].when < t[best].when
                            || (t[j].when == t[best].when && order[j] < order[best])))
                        best = j;
                CHECK(best >= 0 && fired[k] == &t[best]);
                order[best] = 0;
            }
            for (int j = 0; j < N; j++)
                CHECK(order[j] == 0 || t[j].when > now);
        }
        if (step % 64 == 0)
            check_heap(&ts);
    }
    rt_timers_fini(&ts);
}

static rt_timers *run_ts;
static rt_timer *run_other;
static int64_t run_when;
static bool run_expect;

static void
fire_restart(rt_timer *t)
{
    on_fire(t);
    t->when = run_when;
    CHECK_EQ(rt_timers_start(run_ts, t), 0);
    check_heap(run_ts);
}

static void
timer_restarted_when_due_waits_for_the_next_run(void)
{
    enum { N = 40 };
    static rt_timer t[N];
    rt_timers ts;
    rt_timers_init(&ts);
    run_ts = &ts;
    for (int i = 0; i < N; i++) {
        timer_init(&t[i], i);
        t[i].fire = fire_restart;
        CHECK_EQ(rt_timers_start(&ts, &t[i]), 0);
    }
    rt_timer late;
    timer_init(&late, 1000);
    CHECK_EQ(rt_timers_start(&ts, &late), 0);
    for (int round = 0; round < 3; round++) {
        nfired = 0;
        run_when = -round;      /* earlier than all that are still due */
        CHECK_EQ(rt_timers_run(&ts, N), N);
        check_heap(&ts);
        CHECK_EQ(ts.len, N + 1);
        CHECK_EQ(rt_timers_next(&ts), -round);
        for (int i = 0; i < N; i++)
            CHECK(fired[i] == &t[i]);
    }
    rt_timers_fini(&ts);
}

static void
fire_stop_other(rt_timer *t)
{
    on_fire(t);
    CHECK_EQ(rt_timers_stop(run_ts, run_other), run_expect);
    check_heap(run_ts);
}

static void
due_timer_stopped_by_an_earlier_one_does_not_fire(void)
{
    rt_timers ts;
    rt_timer a, b;
    rt_timers_init(&ts);
    timer_init(&a, 1);
    timer_init(&b, 2);
    a.fire = fire_stop_other;
    run_ts = &ts;
    run_other = &b;
    run_expect = true;
    CHECK_EQ(rt_timers_start(&ts, &a), 0);
    CHECK_EQ(rt_timers_start(&ts, &b), 0);
    nfired = 0;
    CHECK_EQ(rt_timers_run(&ts, 10), 1);
    CHECK(!rt_timer_started(&b));

    /* And the other way round: what has fired cannot be stopped. */
    run_other = &a;
    run_expect = false;
    a.fire = on_fire;
    b.fire = fire_stop_other;
    CHECK_EQ(rt_timers_start(&ts, &a), 0);
    CHECK_EQ(rt_timers_start(&ts, &b), 0);
    CHECK_EQ(rt_timers_run(&ts, 10), 2);
    rt_timers_fini(&ts);
}

static void
fire_free(rt_timer *t)
{
    on_fire(t);
    free(t);
}

static void
fire_function_may_free_its_timer(void)
{
    rt_timers ts;
    rt_timers_init(&ts);
    for (int i = 0; i < 10; i++) {
        rt_timer *t = malloc(sizeof(*t));
        CHECK(t != NULL);
        timer_init(t, i);
        t->fire = fire_free;
        CHECK_EQ(rt_timers_start(&ts, t), 0);
    }
    nfired = 0;
    CHECK_EQ(rt_timers_run(&ts, 100), 10);
    rt_timers_fini(&ts);
}

enum { CHAOS = 64 };
static rt_timer chaos[CHAOS];
static uint64_t chaos_fired_in[CHAOS];  /* number of the run it fired in last */
static uint64_t chaos_held_in[CHAOS];   /* number of the run that must not fire it */
static uint64_t chaos_run;

static void
fire_chaos(rt_timer *t)
{
    int self = (int)(t - chaos);
    CHECK(!rt_timer_started(t));
    CHECK(chaos_fired_in[self] != chaos_run);
    CHECK(chaos_held_in[self] != chaos_run);
    chaos_fired_in[self] = chaos_run;
    for (int k = (int)rnd(6); k > 0; k--) {
        int i = (int)rnd(CHAOS);
        int64_t when = run_when + (int64_t)rnd(20) - 10;
        if (!rt_timer_started(&chaos[i])) {
            chaos[i].when = when;
            CHECK_EQ(rt_timers_start(run_ts, &chaos[i]), 0);
            if (when <= run_when)
                chaos_held_in[i] = chaos_run;
        } else if (rnd(2)) {
            rt_timers_move(run_ts, &chaos[i], when);
            chaos_held_in[i] = when <= run_when ? chaos_run : 0;
        } else {
            CHECK(rt_timers_stop(run_ts, &chaos[i]));
            chaos_held_in[i] = 0;
        }
        check_heap(run_ts);
    }
}

static void
fire_functions_may_change_everything(void)
{
    rt_timers ts;
    rt_timers_init(&ts);
    run_ts = &ts;
    memset(chaos_fired_in, 0, sizeof(chaos_fired_in));
    memset(chaos_held_in, 0, sizeof(chaos_held_in));
    for (int i = 0; i < CHAOS; i++) {
        timer_init(&chaos[i], i);
        chaos[i].fire = fire_chaos;
    }
    run_when = 0;
    for (chaos_run = 1; chaos_run < 5000; chaos_run++) {
        run_when += rnd(4);
        for (int k = 0; k < 4; k++) {
            int i = (int)rnd(CHAOS);
            if (!rt_timer_started(&chaos[i])) {
                chaos[i].when = run_when + rnd(10);
                CHECK_EQ(rt_timers_start(&ts, &chaos[i]), 0);
                chaos_held_in[i] = 0;
            }
        }
        rt_timers_run(&ts, run_when);
        check_heap(&ts);
        for (int i = 0; i < CHAOS; i++)
            CHECK(!rt_timer_started(&chaos[i]) || chaos[i].when > run_when
                  || chaos_held_in[i] == chaos_run);
    }
    rt_timers_fini(&ts);
}

static void
array_shrinks_with_hysteresis(void)
{
    enum { N = 100000 };
    rt_timer *t = calloc(N, sizeof(*t));
    CHECK(t != NULL);
    rt_timers ts;
    rt_timers_init(&ts);
    for (int i = 0; i < N; i++) {
        timer_init(&t[i], rnd(1000000));
        CHECK_EQ(rt_timers_start(&ts, &t[i]), 0);
    }
    CHECK(ts.cap >= N);
    for (int i = 0; i < N; i++) {
        CHECK(rt_timers_stop(&ts, &t[i]));
        CHECK(ts.cap <= 64 || ts.cap < 4 * ts.len + 4);
    }
    CHECK_EQ(ts.cap, 64);
    CHECK_EQ(last_size, 64 * sizeof(rt_timer_slot));

    /* At the border, neither the next start nor the next stop resizes. */
    for (int i = 0; i < 65; i++)
        CHECK_EQ(rt_timers_start(&ts, &t[i]), 0);
    uint32_t cap = ts.cap;
    CHECK_EQ(cap, 128);
    fail_in = 0;
    for (int k = 0; k < 100; k++) {
        CHECK(rt_timers_stop(&ts, &t[64]));
        CHECK_EQ(rt_timers_start(&ts, &t[64]), 0);
    }
    CHECK_EQ(fail_in, 0);
    fail_in = -1;
    for (int i = 64; ts.cap == cap; i--)
        CHECK(rt_timers_stop(&ts, &t[i]));
    CHECK_EQ(ts.len, 32);
    rt_timers_fini(&ts);
    free(t);
}

static void
failed_allocation_leaves_the_timer_stopped(void)
{
    enum { N = 1000 };
    static rt_timer t[N];
    /* The n-th allocation fails, for every n. */
    for (int n = 0; n < 6; n++) {
        rt_timers ts;
        rt_timers_init(&ts);
        int failures = 0;
        fail_in = n;
        for (int i = 0; i < N; i++) {
            timer_init(&t[i], N - i);
            int err = rt_timers_start(&ts, &t[i]);
            CHECK_EQ(rt_timer_started(&t[i]), err == 0);
            if (err != 0) {
                CHECK_EQ(err, -ENOMEM);
                check_heap(&ts);
                CHECK(!rt_timers_stop(&ts, &t[i]));
                CHECK_EQ(rt_timers_start(&ts, &t[i]), 0);
                failures++;
            }
        }
        CHECK_EQ(failures, n < 5);
        fail_in = -1;
        nfired = 0;
        CHECK_EQ(rt_timers_run(&ts, N), N);
        for (int i = 0; i < N; i++)
            CHECK(fired[i] == &t[N - 1 - i]);
        rt_timers_fini(&ts);
    }
}

static void
failed_shrink_changes_nothing(void)
{
    enum { N = 1000 };
    static rt_timer t[N];
    rt_timers ts;
    rt_timers_init(&ts);
    for (int i = 0; i < N; i++) {
        timer_init(&t[i], i);
        CHECK_EQ(rt_timers_start(&ts, &t[i]), 0);
    }
    uint32_t cap = ts.cap;
    for (int i = 0; i < N - 10; i++) {
        fail_in = 0;
        CHECK(rt_timers_stop(&ts, &t[i]));
    }
    fail_in = -1;
    CHECK_EQ(ts.cap, cap);
    check_heap(&ts);
    nfired = 0;
    CHECK_EQ(rt_timers_run(&ts, N), 10);
    CHECK(ts.cap < cap);
    rt_timers_fini(&ts);
}

int
main(void)
{
    RUN(empty_heap_has_no_deadline);
    RUN(equal_deadlines_fire_in_start_order);
    RUN(stop_says_whether_it_was_started);
    RUN(extreme_deadlines_are_ordinary);
    RUN(fini_forgets_started_timers);
    RUN(random_operations_match_the_model);
    RUN(timer_restarted_when_due_waits_for_the_next_run);
    RUN(due_timer_stopped_by_an_earlier_one_does_not_fire);
    RUN(fire_function_may_free_its_timer);
    RUN(fire_functions_may_change_everything);
    RUN(array_shrinks_with_hysteresis);
    RUN(failed_allocation_leaves_the_timer_stopped);
    RUN(failed_shrink_changes_nothing);
    return 0;
}
