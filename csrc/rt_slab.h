/* rt_slab.h - blocks of up to 4 KiB, taken and given back all the time.
 *
 * greenlet copies the C stack of who is switched away from to the heap, about 2 KB, and
 * frees the copy of who is switched to: one allocation a switch, of a size for which
 * malloc() takes its slow ways.  Here both are a dozen instructions.
 *
 * Not thread-safe: the caller holds a lock (the GIL).
 */
#ifndef RT_SLAB_H
#define RT_SLAB_H

#include "rt_arena.h"

#define RT_SLAB_MAX 4096u       /* bytes, the largest block */

/* A block of at least n bytes, 1 to RT_SLAB_MAX, aligned to 16; NULL: no memory here. */
void *rt_slab_alloc(size_t n);
/* Is p such a block? */
static inline bool
rt_slab_owns(const void *p)
{
    return rt_arena_owns(p);
}
void rt_slab_free(void *p);
/* How many bytes may be used at p. */
size_t rt_slab_size(const void *p);

#endif
