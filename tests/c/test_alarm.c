/* test_alarm.c - alarms against a brute-force model, without memory, after a fork, and with
 * several threads that start, stop and run them.
 *
 * Linked with --wrap=realloc: while `no_memory` is set every call fails.
 */
#include "rt_alarm.h"

#include <sched.h>
#include <string.h>

#include "rt_test.h"

static _Atomic bool no_memory;

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);

void *
__wrap_realloc(void *p, size_t n)
{
    return no_memory ? NULL : __real_realloc(p, n);
}

static uint32_t
rnd(uint32_t *state, uint32_t n)
{
    uint32_t x = *state;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    *state = x;
    return x % n;
}

/* ---- one thread ---- */

#define N 300

static rt_timer ts[N];
static int64_t when[N];         /* the model: RT_FOREVER: stopped */
static rt_alarms as;
static int64_t run_now;
static uint32_t nfired;

static void
on_fire(rt_timer *t)
{
    size_t i = (size_t)(t - ts);
    CHECK(when[i] <= run_now);
    CHECK_EQ(t->when, when[i]);
    when[i] = RT_FOREVER;
    nfired++;
    CHECK(!rt_alarms_stop(&as, t));
}

static int64_t
first(void)
{
    int64_t least = RT_FOREVER;
    for (int i = 0; i < N; i++)
        if (when[i] < least)
            least = when[i];
    return least;
}

static void
set_up(void)
{
    rt_alarms_init(&as, NULL);
    memset(ts, 0, sizeof(ts));
    for (int i = 0; i < N; i++) {
        ts[i].fire = on_fire;
        when[i] = RT_FOREVER;
    }
}

static void
tear_down(void)
{
    rt_timers_fini(&as.heap);
}

/* Whatever happens while there is no memory, next is right, and each fires or is stopped. */
static void
random_operations_match_the_model(void)
{
    uint32_t state = 4711;
    for (int round = 0; round < 8; round++) {
        set_up();
        uint32_t lack = (uint32_t)round * 10;      /* percent of the time */
        for (int n = 0; n < 4000; n++) {
            if (n % 50 == 0)
                no_memory = rnd(&state, 100) < lack;
            uint32_t i = rnd(&state, N);
            int64_t t = rnd(&state, 50);
            switch (rnd(&state, 8)) {
            case 0: {
                uint32_t due = 0;
                run_now = t / 4;
                nfired = 0;
                for (int j = 0; j < N; j++)
                    due += when[j] <= run_now;
                CHECK_EQ(rt_alarms_run(&as, run_now), due);
                CHECK_EQ(nfired, due);
                break;
            }
            case 1: case 2:
                CHECK_EQ(rt_alarms_stop(&as, &ts[i]), when[i] != RT_FOREVER);
                when[i] = RT_FOREVER;
                break;
            default:
                if (when[i] == RT_FOREVER) {
                    CHECK_EQ(rt_alarms_start(&as, &ts[i], t), t < first());
                    when[i] = t;
                }
            }
            CHECK_EQ(rt_alarms_has(&as, &ts[i]), when[i] != RT_FOREVER);
            CHECK_EQ(rt_alarms_next(&as), first());
        }
        no_memory = false;
        tear_down();
    }
}

static void
without_memory_alarms_fire_and_stop_as_well(void)
{
    set_up();
    no_memory = true;
    for (int i = 0; i < N; i++) {
        rt_alarms_start(&as, &ts[i], i);
        when[i] = i;
    }
    CHECK_EQ(as.heap.len, 0);
    for (int i = 0; i < N; i += 2) {
        CHECK(rt_alarms_stop(&as, &ts[i]));
        when[i] = RT_FOREVER;
    }
    nfired = 0;
    run_now = N / 2;
    CHECK_EQ(rt_alarms_run(&as, run_now), N / 4);
    CHECK_EQ(rt_alarms_next(&as), first());
    no_memory = false;
    CHECK_EQ(rt_alarms_run(&as, run_now), 0);
    CHECK_EQ(as.heap.len, N / 4);               /* they have found room */
    run_now = N;
    CHECK_EQ(rt_alarms_run(&as, run_now), N / 4);
    CHECK_EQ(rt_alarms_next(&as), RT_FOREVER);
    tear_down();
}

static void
equal_deadlines_fire_in_the_order_of_starting(void)
{
    set_up();
    for (int i = N; i-- > 0;) {
        when[i] = 7;
        rt_alarms_start(&as, &ts[i], 7);
    }
    for (int i = N; i-- > 0;)
        CHECK(as.heap.slots[ts[i].slot - 1].t->seq == (uint64_t)(N - 1 - i));
    nfired = 0;
    run_now = 7;
    CHECK_EQ(rt_alarms_run(&as, 7), N);
    tear_down();
}

static void
after_fork_all_are_stopped_and_can_be_started(void)
{
    set_up();
    for (int i = 0; i < N; i++) {
        no_memory = i >= N / 2;
        rt_alarms_start(&as, &ts[i], i);
    }
    no_memory = false;
    CHECK(as.homeless != NULL);
    rt_timer_slot *old = as.heap.slots;
    pthread_mutex_lock(&as.lock);               /* by a thread that is not in the child */
    rt_alarms_after_fork(&as);
    CHECK_EQ(rt_alarms_next(&as), RT_FOREVER);
    for (int i = 0; i < N; i += 3)
        CHECK(!rt_alarms_stop(&as, &ts[i]));
    for (int i = 0; i < N; i++) {
        CHECK(!rt_alarms_has(&as, &ts[i]));
        rt_alarms_start(&as, &ts[i], i);
        when[i] = i;
    }
    run_now = N;
    CHECK_EQ(rt_alarms_run(&as, N), N);
    free(old);
    tear_down();
}

/* ---- several threads ---- */

#define PER_THREAD 64
#define STARTERS 3
#define RUNNERS 2
#define ROUNDS 20000

typedef struct {
    rt_timer t;                 /* first */
    uint32_t starts;            /* of its thread */
    uint32_t stops;             /* that were in time */
    _Atomic uint32_t fired;
} counted;

static rt_alarms shared;
static _Atomic int64_t now;
static _Atomic int starters;

static void
count_fire(rt_timer *t)
{
    atomic_fetch_add(&((counted *)t)->fired, 1);
}

static void *
starter_main(void *arg)
{
    counted *mine = arg;
    uint32_t state = (uint32_t)(uintptr_t)arg | 1;
    for (int n = 0; n < ROUNDS; n++) {
        counted *c = &mine[rnd(&state, PER_THREAD)];
        if (c->starts == c->stops + atomic_load(&c->fired)) {
            c->starts++;
            rt_alarms_start(&shared, &c->t, atomic_load(&now) + rnd(&state, 20));
        }
        else if (rt_alarms_stop(&shared, &c->t))
            c->stops++;
        if (n % 256 == 0)
            sched_yield();
    }
    atomic_fetch_sub(&starters, 1);
    return NULL;
}

static void *
runner_main(void *arg)
{
    uint32_t *fired = arg;
    while (atomic_load(&starters) != 0 || rt_alarms_next(&shared) != RT_FOREVER) {
        int64_t t = atomic_fetch_add(&now, 1);
        if (rt_alarms_next(&shared) <= t)
            *fired += rt_alarms_run(&shared, t);
        sched_yield();
    }
    return NULL;
}

/* Each start is followed by one fire, or one stop in time. */
static void
threads_stop_or_fire_each_once(void)
{
    static counted all[STARTERS][PER_THREAD];
    pthread_t th[STARTERS + RUNNERS];
    uint32_t fired[RUNNERS] = {0}, starts = 0, stops = 0;
    memset((void *)all, 0, sizeof(all));
    rt_alarms_init(&shared, NULL);
    starters = STARTERS;
    for (int i = 0; i < STARTERS; i++) {
        for (int j = 0; j < PER_THREAD; j++)
            all[i][j].t.fire = count_fire;
        CHECK(pthread_create(&th[i], NULL, starter_main, all[i]) == 0);
    }
    for (int i = 0; i < RUNNERS; i++)
        CHECK(pthread_create(&th[STARTERS + i], NULL, runner_main, &fired[i]) == 0);
    for (int i = 0; i < STARTERS + RUNNERS; i++)
        pthread_join(th[i], NULL);
    for (int i = 0; i < STARTERS; i++)
        for (int j = 0; j < PER_THREAD; j++) {
            const counted *c = &all[i][j];
            CHECK_EQ(c->starts, c->stops + c->fired);
            starts += c->starts;
            stops += c->stops;
        }
    CHECK_EQ(starts, stops + fired[0] + fired[1]);
    CHECK(stops > 0 && starts > stops);
    rt_timers_fini(&shared.heap);
}

int
main(void)
{
    RUN(random_operations_match_the_model);
    RUN(without_memory_alarms_fire_and_stop_as_well);
    RUN(equal_deadlines_fire_in_the_order_of_starting);
    RUN(after_fork_all_are_stopped_and_can_be_started);
    RUN(threads_stop_or_fire_each_once);
    return 0;
}
