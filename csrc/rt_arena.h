/* rt_arena.h - a cache of 16 KiB chunks for the data stacks of greenlets.
 *
 * CPython maps a 16 KiB chunk for each new greenlet's data stack and unmaps it
 * when the greenlet ends: two system calls, a page fault and their TLB flushes,
 * most of the cost of a new greenlet.  Here chunks come from 1 MiB slabs inside
 * one reserved range of addresses, lowest address first, so that
 *  - taking and returning one is a few instructions,
 *  - pages that were never touched cost nothing (a parked goroutine touches one),
 *  - a slab whose chunks are all free goes back to the system, except that some
 *    are kept: RT_ARENA_SPARES, and one more for each eight in use, so that bursts
 *    of goroutines find their pages still there,
 *  - neighbouring slabs stay one mapping, far from the system's limit on mappings.
 * Thread-safe; one short lock.  Works on in the child after fork.
 */
#ifndef RT_ARENA_H
#define RT_ARENA_H

#include "rt_base.h"

#define RT_CHUNK_SIZE 16384u

/* Empty slabs (1 MiB, 64 chunks) kept at least.  A chunk of which one page was
   touched holds 4 KiB, so these usually hold 4 MiB. */
#define RT_ARENA_SPARES 16u

/* A chunk of RT_CHUNK_SIZE bytes, aligned to that, with any contents, or NULL: the
   range is used up or could not be reserved; the caller then uses the system
   allocator. */
void *rt_arena_alloc(void);
/* True if p is the address of a chunk of this cache. */
bool rt_arena_owns(const void *p);
/* Return a chunk (rt_arena_owns(p) must hold). */
void rt_arena_free(void *p);
/* Give all empty slabs back to the system, for a program that has become idle. */
void rt_arena_trim(void);

typedef struct {
    uint64_t chunks_used;       /* handed out now */
    uint64_t slabs;             /* 1 MiB slabs with memory behind them */
} rt_arena_stats;
void rt_arena_get_stats(rt_arena_stats *out);

#endif
