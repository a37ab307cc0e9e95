/* rt_gcra.c - see rt_gcra.h. */
#include "rt_gcra.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define STRIPES 64u

/* A free place is one that was paid off at time 0. */
typedef struct {
    uint64_t hash[RT_GCRA_WAYS];
    int64_t paid_off[RT_GCRA_WAYS];
} set;

typedef struct {
    _Alignas(64) pthread_mutex_t lock;
} stripe;

struct rt_gcra {
    stripe stripes[STRIPES];    /* set i is guarded by the one of i % STRIPES */
    uint64_t nsets;             /* a power of two */
    set *sets;                  /* pages that no key has come to take no memory */
};

rt_gcra *
rt_gcra_new(uint64_t nkeys)
{
    uint64_t nsets = 1;
    while (nsets * (RT_GCRA_WAYS / 2) < nkeys) {
        if (nsets > SIZE_MAX / sizeof(set) / 4)
            return NULL;
        nsets *= 2;
    }
    rt_gcra *t = aligned_alloc(_Alignof(rt_gcra), sizeof(*t));
    if (t == NULL)
        return NULL;
    t->nsets = nsets;
    t->sets = calloc(nsets, sizeof(set));
    if (t->sets == NULL) {
        free(t);
        return NULL;
    }
    for (uint32_t i = 0; i < STRIPES; i++)
        pthread_mutex_init(&t->stripes[i].lock, NULL);
    return t;
}

void
rt_gcra_free(rt_gcra *t)
{
    if (t == NULL)
        return;
    for (uint32_t i = 0; i < STRIPES; i++)
        pthread_mutex_destroy(&t->stripes[i].lock);
    free(t->sets);
    free(t);
}

uint64_t
rt_gcra_capacity(const rt_gcra *t)
{
    return t->nsets * RT_GCRA_WAYS;
}

/* The place of hash, or that of the key which is paid off first. */
static uint32_t
find(const set *s, uint64_t hash)
{
    for (uint32_t i = 0; i < RT_GCRA_WAYS; i++)
        if (s->hash[i] == hash)
            return i;
    uint32_t first = 0;
    for (uint32_t i = 1; i < RT_GCRA_WAYS; i++)
        if (s->paid_off[i] < s->paid_off[first])
            first = i;
    return first;
}

rt_gcra_answer
rt_gcra_take(rt_gcra *t, const rt_gcra_rate *rate, uint64_t hash, int64_t now)
{
    /* The low bits choose the set: those that are in one still differ in the high ones. */
    uint64_t at = hash & (t->nsets - 1);
    set *s = &t->sets[at];
    pthread_mutex_t *lock = &t->stripes[at % STRIPES].lock;
    int64_t span = rate->interval * rate->burst;
    pthread_mutex_lock(lock);
    uint32_t i = find(s, hash);
    int64_t debt = s->paid_off[i] > now ? s->paid_off[i] - now : 0;
    bool ok = debt <= span - rate->interval;
    if (ok) {
        debt += rate->interval;
        s->hash[i] = hash;
        s->paid_off[i] = now + debt;
    }
    pthread_mutex_unlock(lock);
    int64_t room = span > debt ? span - debt : 0;
    return (rt_gcra_answer){
        .ok = ok,
        .left = room / rate->interval,
        .wait = room >= rate->interval ? 0 : debt - (span - rate->interval),
        .full = debt,
    };
}

void
rt_gcra_clear(rt_gcra *t)
{
    for (uint64_t i = 0; i < t->nsets; i++) {
        pthread_mutex_t *lock = &t->stripes[i % STRIPES].lock;
        pthread_mutex_lock(lock);
        memset(&t->sets[i], 0, sizeof(set));
        pthread_mutex_unlock(lock);
    }
}
