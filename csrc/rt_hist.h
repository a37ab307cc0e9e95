/* rt_hist.h - histograms of durations: a fixed array of counters, always on.
 *
 * A bucket is as wide as a sixteenth of the power of two it lies in, so what is read from
 * one is off by 1/32 at most; below RT_HIST_MIN, by half of that.  What is longer than
 * RT_HIST_MAX is counted as that.  One thread adds; others may read meanwhile, and see
 * each counter as it was at some moment.
 */
#ifndef RT_HIST_H
#define RT_HIST_H

#include "rt_base.h"

#define RT_HIST_UNIT_BITS 6     /* 64 ns: the first buckets' width */
#define RT_HIST_SUB_BITS 4
#define RT_HIST_SUB (1u << RT_HIST_SUB_BITS)
#define RT_HIST_OCTAVES 32
#define RT_HIST_BUCKETS ((RT_HIST_OCTAVES + 1) * RT_HIST_SUB)
#define RT_HIST_MIN (1ll << (RT_HIST_UNIT_BITS + RT_HIST_SUB_BITS))             /* 1 us */
#define RT_HIST_MAX ((RT_HIST_MIN << RT_HIST_OCTAVES) - 1)                      /* 73 min */

typedef struct {
    _Atomic uint64_t count[RT_HIST_BUCKETS];
    _Atomic uint64_t sum;       /* ns */
} rt_hist;

/* Where ns, not negative, is counted. */
static inline uint32_t
rt_hist_bucket(int64_t ns)
{
    uint64_t units = (uint64_t)ns >> RT_HIST_UNIT_BITS;
    if (units < RT_HIST_SUB)
        return (uint32_t)units;
    uint32_t octave = 63 - (uint32_t)__builtin_clzll(units) - RT_HIST_SUB_BITS;
    if (octave >= RT_HIST_OCTAVES)
        return RT_HIST_BUCKETS - 1;
    return (octave + 1) * RT_HIST_SUB + (uint32_t)(units >> octave) - RT_HIST_SUB;
}

/* The shortest duration, in ns, that is counted in a bucket; of RT_HIST_BUCKETS, what is
   too long for all of them. */
static inline int64_t
rt_hist_low(uint32_t bucket)
{
    if (bucket < RT_HIST_SUB)
        return (int64_t)bucket << RT_HIST_UNIT_BITS;
    uint32_t octave = bucket / RT_HIST_SUB - 1;
    return (int64_t)(bucket % RT_HIST_SUB + RT_HIST_SUB) << (octave + RT_HIST_UNIT_BITS);
}

static inline void
rt_hist_add(rt_hist *h, int64_t ns)
{
    if (ns < 0)
        ns = 0;
    RT_COUNT(h->count[rt_hist_bucket(ns)], 1);
    RT_COUNT(h->sum, (uint64_t)ns);
}

#endif
