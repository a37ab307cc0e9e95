/* rt_arena.c - see rt_arena.h.
 *
 * One range of addresses is reserved once (64 GiB, or the largest power of two
 * below that the system grants, down to 1 GiB) and cut into slabs of 64 chunks.
 * A slab's state is one 64-bit word; two bitmaps over all slabs, each with two
 * levels of summary above it, find the lowest slab with a free chunk and the highest
 * empty one in three steps.  All of this lies outside the slabs, in zero-filled
 * memory that is not touched before it is needed, and is laid out so that zero
 * means "free": nothing is initialised.
 *
 * Taking the lowest address first is what lets memory go back: after a burst of
 * goroutines the survivors' slabs fill up again before any higher slab is used,
 * and the high ones run empty.  (A LIFO free list is a little faster and would
 * keep every slab in use for ever.)
 *
 * Invariants, under the lock:
 *   - slab s is in `full` iff used[s] == all ones
 *   - slab s is in `spare` iff used[s] == 0 and it may have memory behind it
 *   - slabs below `opened` are readable and writable, those above are not; slabs
 *     are opened in order, so all opened ones are one mapping
 *   - backed == slabs with a used chunk + spares
 *
 * Empty slabs are kept in some number because to fault a page in again costs more
 * than all else here (1 to 2 us), and goroutines often come in bursts.
 *
 * Huge pages are refused for the range: one would put memory behind the chunks'
 * untouched pages, four times what a parked goroutine needs.
 *
 * After fork the child has a copy of all chunks and goes on using them; fork takes
 * the lock, so the copy is a consistent one.
 */
#include "rt_arena.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RT_ARENA_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define RT_ARENA_ASAN 1
#endif
#ifdef RT_ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)0)
#define UNPOISON(p, n) ((void)0)
#endif

#define SLAB_CHUNKS 64u
#define SLAB_SIZE ((size_t)SLAB_CHUNKS * RT_CHUNK_SIZE)
#define MAX_SLABS 65536u
#define MAX_RANGE (MAX_SLABS * SLAB_SIZE)
#define MIN_RANGE ((size_t)1 << 30)
/* Empty slabs kept: RT_ARENA_SPARES, and one more for each KEEP_RATIO in use. */
#define KEEP_RATIO 8

/* A set of slab numbers with two levels of summary. */
typedef struct {
    uint64_t top;               /* bit i: see the functions */
    uint64_t mid[MAX_SLABS / 4096];
    uint64_t low[MAX_SLABS / 64];
} slab_set;

static struct {
    pthread_mutex_t lock;
    pthread_once_t once;
    _Atomic uintptr_t base;     /* both are written once, base before size */
    _Atomic size_t size;        /* 0: not reserved (yet) */
    /* All below is guarded by lock. */
    uint32_t opened;
    uint32_t backed;
    uint32_t spares;
    uint64_t chunks_used;
    slab_set full;              /* summary bit: all 64 below are set */
    slab_set spare;             /* summary bit: one of the 64 below is set */
    uint64_t used[MAX_SLABS];   /* bit c: chunk c is handed out */
} arena = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .once = PTHREAD_ONCE_INIT,
};

static inline unsigned
lowest(uint64_t word)
{
    return (unsigned)__builtin_ctzll(word);
}

static inline unsigned
highest(uint64_t word)
{
    return 63 - (unsigned)__builtin_clzll(word);
}

#define BIT(n) ((uint64_t)1 << ((n) & 63))

static inline void
full_add(uint32_t s)
{
    if ((arena.full.low[s >> 6] |= BIT(s)) == UINT64_MAX)
        if ((arena.full.mid[s >> 12] |= BIT(s >> 6)) == UINT64_MAX)
            arena.full.top |= BIT(s >> 12);
}

static inline void
full_remove(uint32_t s)
{
    arena.full.low[s >> 6] &= ~BIT(s);
    arena.full.mid[s >> 12] &= ~BIT(s >> 6);
    arena.full.top &= ~BIT(s >> 12);
}

/* The lowest slab with a free chunk; may lie beyond the range. */
static inline uint32_t
full_first_absent(void)
{
    unsigned i = lowest(~arena.full.top);
    if (RT_UNLIKELY(i >= RT_ARRAY_LEN(arena.full.mid)))
        return MAX_SLABS;
    unsigned j = i * 64 + lowest(~arena.full.mid[i]);
    return j * 64 + lowest(~arena.full.low[j]);
}

static inline void
spare_add(uint32_t s)
{
    arena.spare.low[s >> 6] |= BIT(s);
    arena.spare.mid[s >> 12] |= BIT(s >> 6);
    arena.spare.top |= BIT(s >> 12);
    arena.spares++;
}

static inline void
spare_remove(uint32_t s)
{
    if ((arena.spare.low[s >> 6] &= ~BIT(s)) == 0)
        if ((arena.spare.mid[s >> 12] &= ~BIT(s >> 6)) == 0)
            arena.spare.top &= ~BIT(s >> 12);
    arena.spares--;
}

static inline bool
spare_has(uint32_t s)
{
    return (arena.spare.low[s >> 6] & BIT(s)) != 0;
}

/* There is one. */
static inline uint32_t
spare_last(void)
{
    unsigned i = highest(arena.spare.top);
    unsigned j = i * 64 + highest(arena.spare.mid[i]);
    return j * 64 + highest(arena.spare.low[j]);
}

static inline uintptr_t
base(void)
{
    return atomic_load_explicit(&arena.base, memory_order_relaxed);
}

static void
lock_all(void)
{
    pthread_mutex_lock(&arena.lock);
}

static void
unlock_all(void)
{
    pthread_mutex_unlock(&arena.lock);
}

static RT_COLD void
reserve_once(void)
{
    for (size_t size = MAX_RANGE; size >= MIN_RANGE; size /= 2) {
        /* The system aligns to pages only. */
        char *got = mmap(NULL, size + RT_CHUNK_SIZE, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (got == MAP_FAILED)
            continue;
        if (pthread_atfork(lock_all, unlock_all, unlock_all) != 0) {
            munmap(got, size + RT_CHUNK_SIZE);
            return;
        }
        char *p = got + (-(uintptr_t)got & (RT_CHUNK_SIZE - 1));
#ifdef MADV_NOHUGEPAGE
        (void)madvise(p, size, MADV_NOHUGEPAGE);
#endif
        atomic_store_explicit(&arena.base, (uintptr_t)p, memory_order_relaxed);
        /* Release pairs with range_size: who sees the size sees the base. */
        atomic_store_explicit(&arena.size, size, memory_order_release);
        return;
    }
}

static inline size_t
range_size(void)
{
    return atomic_load_explicit(&arena.size, memory_order_acquire);
}

/* Put memory behind slab s, which has none. */
static RT_COLD bool
slab_open_slow_locked(uint32_t s)
{
    if (s >= arena.opened) {
        void *p = (void *)(base() + s * SLAB_SIZE);
        if (mprotect(p, SLAB_SIZE, PROT_READ | PROT_WRITE) != 0)
            return false;
        POISON(p, SLAB_SIZE);
        arena.opened = s + 1;
    }
    arena.backed++;
    return true;
}

/* Give empty slabs back to the system, the highest first, but keep this many. */
static RT_COLD void
give_back_slow_locked(uint32_t keep)
{
    while (arena.spares > keep) {
        uint32_t s = spare_last();
        spare_remove(s);
        arena.backed--;
        (void)madvise((void *)(base() + s * SLAB_SIZE), SLAB_SIZE, MADV_DONTNEED);
    }
}

void *
rt_arena_alloc(void)
{
    if (RT_UNLIKELY(range_size() == 0)) {
        pthread_once(&arena.once, reserve_once);
        if (range_size() == 0)
            return NULL;
    }
    void *p = NULL;
    pthread_mutex_lock(&arena.lock);
    uint32_t s = full_first_absent();
    if (RT_UNLIKELY(s >= range_size() / SLAB_SIZE))
        goto out;
    uint64_t used = arena.used[s];
    if (RT_UNLIKELY(used == 0)) {
        if (spare_has(s))
            spare_remove(s);
        else if (!slab_open_slow_locked(s))
            goto out;
    }
    unsigned c = lowest(~used);
    used |= BIT(c);
    arena.used[s] = used;
    if (used == UINT64_MAX)
        full_add(s);
    arena.chunks_used++;
    p = (void *)(base() + s * SLAB_SIZE + (size_t)c * RT_CHUNK_SIZE);
    UNPOISON(p, RT_CHUNK_SIZE);
out:
    pthread_mutex_unlock(&arena.lock);
    return p;
}

bool
rt_arena_owns(const void *p)
{
    size_t size = range_size();
    return (uintptr_t)p - base() < size;
}

void
rt_arena_free(void *p)
{
    size_t off = (uintptr_t)p - base();
    if (RT_UNLIKELY(off >= range_size() || off % RT_CHUNK_SIZE != 0))
        rt_throw("arena: freed address is no chunk");
    uint32_t s = (uint32_t)(off / SLAB_SIZE);
    unsigned c = (unsigned)(off % SLAB_SIZE / RT_CHUNK_SIZE);
    pthread_mutex_lock(&arena.lock);
    uint64_t used = arena.used[s];
    if (RT_UNLIKELY((used & BIT(c)) == 0))
        rt_throw("arena: chunk freed twice");
    POISON(p, RT_CHUNK_SIZE);
    if (used == UINT64_MAX)
        full_remove(s);
    used &= ~BIT(c);
    arena.used[s] = used;
    arena.chunks_used--;
    if (RT_UNLIKELY(used == 0)) {
        spare_add(s);
        uint32_t keep = RT_ARENA_SPARES + (arena.backed - arena.spares) / KEEP_RATIO;
        if (arena.spares > keep)
            give_back_slow_locked(keep);
    }
    pthread_mutex_unlock(&arena.lock);
}

void
rt_arena_trim(void)
{
    pthread_mutex_lock(&arena.lock);
    give_back_slow_locked(0);
    pthread_mutex_unlock(&arena.lock);
}

void
rt_arena_get_stats(rt_arena_stats *out)
{
    pthread_mutex_lock(&arena.lock);
    out->chunks_used = arena.chunks_used;
    out->slabs = arena.backed;
    pthread_mutex_unlock(&arena.lock);
}
