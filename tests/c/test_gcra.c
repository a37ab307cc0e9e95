/* test_gcra.c - rates of many keys: exact for each, whatever the others do; SipHash. */
#include "rt_gcra.h"

#include <pthread.h>
#include <sys/resource.h>

#include "rt_siphash.h"
#include "rt_test.h"

#define S 1000000000ll

static const rt_gcra_rate PER_SECOND_10 = {S / 10, 10};

static uint64_t
random64(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static void
test_siphash_has_the_published_values(void)
{
    /* Of the paper's appendix, and what CPython says with PYTHONHASHSEED=0. */
    static const uint64_t counting[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908}, zero[2];
    static const unsigned char bytes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
    CHECK(rt_siphash(counting, bytes, 15, 2, 4) == 0xa129ca6149be45e5);
    CHECK(rt_siphash(counting, bytes, 0, 2, 4) == 0x726fdb47dd0e0e31);
    CHECK(rt_siphash(zero, "a", 1, 1, 3) == 0x407448d2b89b1813);
    CHECK(rt_siphash(zero, "abcdefg", 7, 1, 3) == 0x6db12aae9070f506);
    CHECK(rt_siphash(zero, "abcdefgh", 8, 1, 3) == 0x3f7b849c0b8e35ea);
    CHECK(rt_siphash(zero, "abcdefghijklmnop", 16, 1, 3) == 0x94f60d3d29e6a312);
    CHECK(rt_siphash(zero, bytes, 15, 1, 3) == 0xf30eb725bb91c9ea);
}

static void
test_burst_then_one_each_interval(void)
{
    rt_gcra *t = rt_gcra_new(100);
    int64_t now = 5 * S;
    for (int64_t i = 1; i <= 10; i++) {
        rt_gcra_answer a = rt_gcra_take(t, &PER_SECOND_10, 1, now);
        CHECK(a.ok);
        CHECK_EQ(a.left, 10 - i);
        CHECK_EQ(a.full, i * S / 10);
        CHECK_EQ(a.wait, i < 10 ? 0 : S / 10);
    }
    rt_gcra_answer a = rt_gcra_take(t, &PER_SECOND_10, 1, now);
    CHECK(!a.ok);
    CHECK_EQ(a.left, 0);
    CHECK_EQ(a.wait, S / 10);
    CHECK_EQ(rt_gcra_take(t, &PER_SECOND_10, 1, now + S / 10 - 1).wait, 1);
    CHECK(rt_gcra_take(t, &PER_SECOND_10, 1, now + S / 10).ok);
    CHECK(!rt_gcra_take(t, &PER_SECOND_10, 1, now + S / 10).ok);
    CHECK(rt_gcra_take(t, &PER_SECOND_10, 2, now).ok);
    rt_gcra_clear(t);
    CHECK_EQ(rt_gcra_take(t, &PER_SECOND_10, 1, now).left, 9);
    rt_gcra_free(t);
}

static void
test_extreme_rates_do_not_overflow(void)
{
    rt_gcra *t = rt_gcra_new(1);
    rt_gcra_rate slow = {RT_GCRA_SPAN, 1}, fast = {1, RT_GCRA_SPAN};
    CHECK(rt_gcra_take(t, &slow, 1, INT64_MAX / 2).ok);
    CHECK_EQ(rt_gcra_take(t, &slow, 1, INT64_MAX / 2).wait, RT_GCRA_SPAN);
    CHECK(rt_gcra_take(t, &slow, 1, INT64_MAX / 2 + RT_GCRA_SPAN).ok);
    CHECK_EQ(rt_gcra_take(t, &fast, 2, 0).left, RT_GCRA_SPAN - 1);
    rt_gcra_free(t);
}

static void
test_capacity_is_twice_what_was_asked_for_or_more(void)
{
    static const uint64_t asked[] = {0, 1, 8, 9, 1000, 1 << 20};
    for (size_t i = 0; i < RT_ARRAY_LEN(asked); i++) {
        rt_gcra *t = rt_gcra_new(asked[i]);
        CHECK(rt_gcra_capacity(t) >= 2 * asked[i]);
        CHECK(rt_gcra_capacity(t) <= 4 * asked[i] + RT_GCRA_WAYS);
        rt_gcra_free(t);
    }
    CHECK(rt_gcra_new(UINT64_MAX) == NULL);
}

/* Random keys, far more than there are places, in time that goes on: in each span of time none
   gets more than burst + span / interval, counted from each of its own requests. */
static void
test_no_key_gets_more_than_its_limit_when_the_table_is_full(void)
{
    enum { KEYS = 200, MOST = 4000 };
    static int64_t when[KEYS][MOST];
    static int count[KEYS];
    const rt_gcra_rate rate = {S / 20, 5};
    rt_gcra *t = rt_gcra_new(32);
    CHECK(rt_gcra_capacity(t) < KEYS);
    int64_t now = S;
    for (int i = 0; i < 400000; i++) {
        /* Some keys ask much more often than others. */
        uint64_t key = random64() % 4 ? random64() % 8 : random64() % KEYS;
        if (rt_gcra_take(t, &rate, key * 0x9e3779b97f4a7c15, now).ok && count[key] < MOST)
            when[key][count[key]++] = now;
        now += (int64_t)(random64() % (S / 500));
    }
    int rich = 0;
    for (int k = 0; k < KEYS; k++) {
        rich += count[k] > 100;
        for (int from = 0; from < count[k]; from++) {
            int to = from + 400 < count[k] ? from + 400 : count[k] - 1;
            for (int j = from; j <= to; j++)
                CHECK(j - from + 1 <= rate.burst + (when[k][j] - when[k][from]) / rate.interval);
        }
    }
    CHECK(rich >= 8);           /* and they do get something */
    rt_gcra_free(t);
}

/* As many keys as the table is for: hardly one shares its place. */
static void
test_keys_that_were_asked_for_have_places_of_their_own(void)
{
    enum { KEYS = 1 << 16 };
    rt_gcra *t = rt_gcra_new(KEYS);
    int less = 0;
    for (int i = 0; i < KEYS; i++)
        less += rt_gcra_take(t, &PER_SECOND_10, random64(), S).left != 9;
    CHECK(less < KEYS / 200);
    rt_gcra_free(t);
}

/* The most memory that this process has had, in bytes. */
static int64_t
peak_memory(void)
{
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
#ifdef __APPLE__
    return usage.ru_maxrss;
#else
    return (int64_t)usage.ru_maxrss * 1024;
#endif
}

#ifdef UNDER_TSAN               /* which takes ten times as long */
enum { FLOOD = 1500000 };
#else
enum { FLOOD = 5000000 };
#endif

/* Runs first: what others have freed could be used again unnoticed. */
static void
test_flood_of_keys_resets_nobody_and_takes_no_memory(void)
{
    enum { WARM = 100000 };
    rt_gcra *t = rt_gcra_new(1024);
    uint64_t victim = random64();
    int64_t now = S, before = 0;
    while (rt_gcra_take(t, &PER_SECOND_10, victim, now).ok)
        ;
    for (int i = 0; i < FLOOD; i++) {
        if (i == WARM)
            before = peak_memory();
        rt_gcra_take(t, &PER_SECOND_10, random64(), now + i * 10);
    }
    CHECK(peak_memory() - before < FLOOD);      /* a byte for each would be too much */
    CHECK(!rt_gcra_take(t, &PER_SECOND_10, victim, now + FLOOD * 10).ok);
    rt_gcra_free(t);
}

static void
test_place_whose_time_has_passed_goes_first(void)
{
    rt_gcra *t = rt_gcra_new(RT_GCRA_WAYS / 2);
    CHECK_EQ(rt_gcra_capacity(t), RT_GCRA_WAYS);
    for (uint64_t key = 0; key < RT_GCRA_WAYS; key++)
        for (int i = 0; i < 5; i++)
            CHECK(rt_gcra_take(t, &PER_SECOND_10, key, key == 3 ? 0 : S).ok);
    /* Key 3 owes nothing any more: a new one has all of its own. */
    CHECK_EQ(rt_gcra_take(t, &PER_SECOND_10, 99, S).left, 9);
    /* The next takes over what the least of the others has used: that of 99. */
    CHECK_EQ(rt_gcra_take(t, &PER_SECOND_10, 100, S).left, 8);
    CHECK_EQ(rt_gcra_take(t, &PER_SECOND_10, 5, S).left, 4);
    rt_gcra_free(t);
}

/* ---- threads ---- */

enum { THREADS = 4, SHARED = 3 };
static const rt_gcra_rate QUICK = {50000, 10};

static rt_gcra *shared;
static _Atomic int64_t taken[SHARED], ticks;

static void *
take_much(void *arg)
{
    uint64_t own = 1000 + (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < 60000; i++) {
        int64_t now = atomic_fetch_add(&ticks, 1) * 1000;
        int key = i % SHARED;
        if (rt_gcra_take(shared, &QUICK, (uint64_t)key, now).ok)
            atomic_fetch_add(&taken[key], 1);
        rt_gcra_take(shared, &QUICK, own << 32 | (uint64_t)i, now);
    }
    return NULL;
}

static void
test_threads_together_take_what_one_could(void)
{
    pthread_t threads[THREADS];
    shared = rt_gcra_new(1 << 20);
    atomic_store(&ticks, 1000);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, take_much, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    int64_t most = QUICK.burst + (atomic_load(&ticks) - 1000) * 1000 / QUICK.interval;
    for (int key = 0; key < SHARED; key++)
        CHECK(taken[key] == most || taken[key] == most - 1);
    rt_gcra_free(shared);
}

int
main(void)
{
    RUN(test_flood_of_keys_resets_nobody_and_takes_no_memory);
    RUN(test_siphash_has_the_published_values);
    RUN(test_burst_then_one_each_interval);
    RUN(test_extreme_rates_do_not_overflow);
    RUN(test_capacity_is_twice_what_was_asked_for_or_more);
    RUN(test_no_key_gets_more_than_its_limit_when_the_table_is_full);
    RUN(test_keys_that_were_asked_for_have_places_of_their_own);
    RUN(test_place_whose_time_has_passed_goes_first);
    RUN(test_threads_together_take_what_one_could);
    return 0;
}
