/* rt_slab.c - see rt_slab.h.
 *
 * A chunk of rt_arena is a slab of blocks of one size, a multiple of UNIT, with a header in
 * front.  Slabs with a free block are on the list of their size, the last to have got one
 * back first: that one is in the cache.  An empty slab goes back to the arena unless it is
 * the only one on its list, so that taking and returning one block never does.
 */
#include "rt_slab.h"

#include <string.h>

#define UNIT 16u

typedef struct slab slab;
struct slab {
    slab *prev, *next;          /* on the list of its size, if a block is free */
    void *free;                 /* blocks given back, linked by their first word */
    uint32_t size;              /* of a block, bytes */
    uint32_t used;              /* blocks handed out */
    uint32_t top;               /* offset of the first block that was never used */
};

#define FIRST_BLOCK 64u         /* offset: blocks begin at a cache line */

static slab *partial[RT_SLAB_MAX / UNIT + 1];

static inline slab *
slab_of(const void *p)
{
    return (slab *)((uintptr_t)p & ~(uintptr_t)(RT_CHUNK_SIZE - 1));
}

static inline bool
is_full(const slab *s)
{
    return s->free == NULL && s->top + s->size > RT_CHUNK_SIZE;
}

static void
link_slab(slab **list, slab *s)
{
    s->prev = NULL;
    s->next = *list;
    if (*list != NULL)
        (*list)->prev = s;
    *list = s;
}

static void
unlink_slab(slab **list, slab *s)
{
    *(s->prev ? &s->prev->next : list) = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
}

static RT_COLD slab *
new_slab_slow(slab **list, size_t size)
{
    slab *s = rt_arena_alloc();
    if (s == NULL)
        return NULL;
    *s = (slab){.size = (uint32_t)size, .top = FIRST_BLOCK};
    link_slab(list, s);
    return s;
}

void *
rt_slab_alloc(size_t n)
{
    size_t units = (n + UNIT - 1) / UNIT;
    slab **list = &partial[units], *s = *list;
    if (RT_UNLIKELY(s == NULL) && (s = new_slab_slow(list, units * UNIT)) == NULL)
        return NULL;
    void *p = s->free;
    if (RT_LIKELY(p != NULL))
        memcpy(&s->free, p, sizeof(s->free));
    else {
        p = (char *)s + s->top;
        s->top += s->size;
    }
    s->used++;
    if (RT_UNLIKELY(is_full(s)))
        unlink_slab(list, s);
    return p;
}

void
rt_slab_free(void *p)
{
    slab *s = slab_of(p), **list = &partial[s->size / UNIT];
    bool was_full = is_full(s);
    memcpy(p, &s->free, sizeof(s->free));
    s->free = p;
    s->used--;
    if (RT_UNLIKELY(was_full))
        link_slab(list, s);
    if (RT_UNLIKELY(s->used == 0) && (s->prev != NULL || s->next != NULL)) {
        unlink_slab(list, s);
        rt_arena_free(s);
    }
}

size_t
rt_slab_size(const void *p)
{
    return slab_of(p)->size;
}
