/* rt_gcra.h - how often each of many keys may do something: GCRA in a table of fixed size.
 *
 * The generic cell rate algorithm (ITU-T I.371) keeps one time for each key: when all that it
 * has used will be paid off, at one unit an interval.  A key may use what leaves this time at
 * most burst intervals ahead.  So in any span of time t it gets no more than
 * burst + t / interval.
 *
 * The table has a fixed number of places, in sets of RT_GCRA_WAYS; a key's hash says which set,
 * and stands for the key.  A key that has no place takes that of the key of its set which is paid
 * off first, together with what this one has still to pay (as in Metwally's Space-Saving).  One
 * rule so serves for free places, places whose time has passed, and a full set:
 *
 *   - no key ever gets more than its limit, however many others there are: one that is
 *     pushed out and comes back has to pay as much as it had, or more;
 *   - in a full set a new key gets less, by what the least of the others has used;
 *   - to push out a key one must use as much as it has, with as many keys as there are ways, and
 *     have found ones of its set, which the secret hash does not tell.
 *
 * Any thread may use a table; stripes of locks guard the sets.
 */
#ifndef RT_GCRA_H
#define RT_GCRA_H

#include "rt_base.h"

#define RT_GCRA_WAYS 16

typedef struct rt_gcra rt_gcra;

typedef struct {
    int64_t interval;           /* ns that one unit takes, 1 or more */
    int64_t burst;              /* units at once, 1 or more; interval * burst <= RT_GCRA_SPAN */
} rt_gcra_rate;

#define RT_GCRA_SPAN (INT64_MAX / 4)

typedef struct {
    bool ok;                    /* the unit was there, and is taken */
    int64_t left;               /* units that are left now */
    int64_t wait;               /* ns until there is one, 0 where left > 0 */
    int64_t full;               /* ns until all of burst is there */
} rt_gcra_answer;

/* A table for nkeys keys; NULL: no memory.  It has twice as many places or more: keys fall into
   sets by chance, and with half of the places taken one set of 270 is full. */
rt_gcra *rt_gcra_new(uint64_t nkeys);
void rt_gcra_free(rt_gcra *t);
uint64_t rt_gcra_capacity(const rt_gcra *t);
/* Take one unit of the key with this hash, if it has one.  now: ns, 0 or more, from a clock that
   does not go back, but for who has read it a little before others. */
rt_gcra_answer rt_gcra_take(rt_gcra *t, const rt_gcra_rate *rate, uint64_t hash, int64_t now);
/* Forget all keys. */
void rt_gcra_clear(rt_gcra *t);

#endif
