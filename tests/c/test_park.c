/* test_park.c - the one-token parker of rt_park.h. */
#include "rt_park.h"

#include <pthread.h>

#include "rt_test.h"

#define MS 1000000LL

static rt_parker pk;

static void
token_is_kept_for_the_next_park(void)
{
    CHECK_EQ(rt_parker_init(&pk), 0);
    rt_parker_unpark(&pk);
    CHECK(rt_parker_park(&pk, RT_FOREVER));
    rt_parker_fini(&pk);
}

static void
many_tokens_count_as_one(void)
{
    CHECK_EQ(rt_parker_init(&pk), 0);
    for (int i = 0; i < 3; i++)
        rt_parker_unpark(&pk);
    CHECK(rt_parker_park(&pk, RT_FOREVER));
    CHECK(!rt_parker_park(&pk, rt_nanotime()));
    rt_parker_fini(&pk);
}

static void
park_ends_at_its_deadline_and_not_before(void)
{
    CHECK_EQ(rt_parker_init(&pk), 0);
    int64_t deadline = rt_nanotime() + 3 * MS;
    CHECK(!rt_parker_park(&pk, deadline));
    CHECK(rt_nanotime() >= deadline);
    CHECK(!rt_parker_park(&pk, 0));
    CHECK(!rt_parker_park(&pk, rt_nanotime() - 1));
    rt_parker_fini(&pk);
}

static void
token_counts_even_after_the_deadline(void)
{
    CHECK_EQ(rt_parker_init(&pk), 0);
    rt_parker_unpark(&pk);
    CHECK(rt_parker_park(&pk, 0));
    rt_parker_fini(&pk);
}

/* Two threads hand a plain counter to and fro: each unpark() publishes what was written
   before it. */
enum { ROUNDS = 20000 };
static rt_parker ping, pong;
static int counter;

static void *
pong_main(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        CHECK(rt_parker_park(&ping, RT_FOREVER));
        CHECK_EQ(counter, 2 * i + 1);
        counter++;
        rt_parker_unpark(&pong);
    }
    return NULL;
}

static void
token_hands_over_what_was_written(void)
{
    pthread_t t;
    CHECK_EQ(rt_parker_init(&ping), 0);
    CHECK_EQ(rt_parker_init(&pong), 0);
    counter = 0;
    CHECK(pthread_create(&t, NULL, pong_main, NULL) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(counter, 2 * i);
        counter++;
        rt_parker_unpark(&ping);
        CHECK(rt_parker_park(&pong, RT_FOREVER));
    }
    CHECK(pthread_join(t, NULL) == 0);
    rt_parker_fini(&ping);
    rt_parker_fini(&pong);
}

/* A waker races with a deadline: a token that is lost to the time-out is there for the
   next park. */
static _Atomic int given;

static void *
waker_main(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        while (atomic_load(&given) != i)
            ;
        rt_parker_unpark(&pk);
    }
    return NULL;
}

static void
no_token_is_lost_to_a_deadline(void)
{
    pthread_t t;
    CHECK_EQ(rt_parker_init(&pk), 0);
    atomic_store(&given, -1);
    CHECK(pthread_create(&t, NULL, waker_main, NULL) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        atomic_store(&given, i);
        if (!rt_parker_park(&pk, rt_nanotime() + i % 7 * 500))
            CHECK(rt_parker_park(&pk, RT_FOREVER));
    }
    CHECK(pthread_join(t, NULL) == 0);
    CHECK(!rt_parker_park(&pk, 0));
    rt_parker_fini(&pk);
}

int
main(void)
{
    RUN(token_is_kept_for_the_next_park);
    RUN(many_tokens_count_as_one);
    RUN(park_ends_at_its_deadline_and_not_before);
    RUN(token_counts_even_after_the_deadline);
    RUN(token_hands_over_what_was_written);
    RUN(no_token_is_lost_to_a_deadline);
    return 0;
}
