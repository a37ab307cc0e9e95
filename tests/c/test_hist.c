/* test_hist.c - the buckets of rt_hist.h. */
#include "rt_hist.h"

#include <string.h>

#include "rt_test.h"

static rt_hist hist;

static void
buckets_follow_each_other_without_gaps(void)
{
    CHECK_EQ(rt_hist_low(0), 0);
    for (uint32_t i = 0; i < RT_HIST_BUCKETS; i++) {
        int64_t low = rt_hist_low(i), high = rt_hist_low(i + 1) - 1;
        CHECK(low <= high);
        CHECK_EQ(rt_hist_bucket(low), i);
        CHECK_EQ(rt_hist_bucket(high), i);
        CHECK_EQ(rt_hist_bucket(low + (high - low) / 2), i);
    }
    CHECK_EQ(rt_hist_low(RT_HIST_BUCKETS), RT_HIST_MAX + 1);
}

static void
middle_of_a_bucket_is_off_by_a_32nd_at_most(void)
{
    for (uint32_t i = rt_hist_bucket(RT_HIST_MIN); i < RT_HIST_BUCKETS; i++) {
        int64_t low = rt_hist_low(i), high = rt_hist_low(i + 1) - 1;
        CHECK((high - low) / 2 <= low / 32);
    }
}

static void
what_is_too_long_or_negative_is_counted_at_the_ends(void)
{
    memset(&hist, 0, sizeof(hist));
    rt_hist_add(&hist, INT64_MAX);
    rt_hist_add(&hist, RT_HIST_MAX + 1);
    rt_hist_add(&hist, -5);
    CHECK_EQ(hist.count[RT_HIST_BUCKETS - 1], 2);
    CHECK_EQ(hist.count[0], 1);
}

static void
counts_and_sum_are_those_of_what_was_added(void)
{
    memset(&hist, 0, sizeof(hist));
    uint64_t seed = 1, sum = 0, n = 0;
    for (int i = 0; i < 100000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        int64_t ns = (int64_t)(seed >> (24 + (seed >> 59)));
        rt_hist_add(&hist, ns);
        sum += (uint64_t)ns;
    }
    for (uint32_t i = 0; i < RT_HIST_BUCKETS; i++)
        n += hist.count[i];
    CHECK_EQ(n, 100000);
    CHECK_EQ(hist.sum, sum);
}

int
main(void)
{
    RUN(buckets_follow_each_other_without_gaps);
    RUN(middle_of_a_bucket_is_off_by_a_32nd_at_most);
    RUN(what_is_too_long_or_negative_is_counted_at_the_ends);
    RUN(counts_and_sum_are_those_of_what_was_added);
    return 0;
}
