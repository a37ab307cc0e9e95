/* py_stack.c - where the stacks of goroutines are: their Python frames, and the copies that
 * greenlet makes of their C stacks.
 *
 * CPython keeps frames in chunks of 16 KiB, at least one a greenlet, of which a
 * parked goroutine uses a few hundred bytes; since they are mapped, each costs a
 * whole page.  So a worker begins with a chunk of FIRST_CHUNK bytes from the heap,
 * enough for eight or ten frames, and gets chunks of the usual size only for
 * what goes deeper.  Those come from rt_arena's cache, because a call that crosses
 * the border takes one and its return gives it back.
 *
 * CPython frees chunks through the arena allocator and says how large they are;
 * no other user of that allocator asks for FIRST_CHUNK bytes.
 *
 * greenlet allocates its copies with PyMem_Realloc(), which takes them from malloc().  While
 * one of our switches is under way they come from rt_slab instead.
 */
#include "py_core.h"
#include "rt_arena.h"
#include "rt_slab.h"

#define FIRST_CHUNK 1536

/* ---- Python frames ---- */

/* The allocator that was there before: all else goes to it. */
static PyObjectArenaAllocator system_arena;

static void *
arena_alloc(void *Py_UNUSED(ctx), size_t size)
{
    if (size == RT_CHUNK_SIZE) {
        void *p = rt_arena_alloc();
        if (p != NULL)
            return p;
    }
    return system_arena.alloc(system_arena.ctx, size);
}

static void
arena_free(void *Py_UNUSED(ctx), void *p, size_t size)
{
    if (size == FIRST_CHUNK)
        PyMem_RawFree(p);
    else if (size == RT_CHUNK_SIZE && rt_arena_owns(p))
        rt_arena_free(p);
    else
        system_arena.free(system_arena.ctx, p, size);
}

/* ---- copies of C stacks ---- */

#ifndef Py_GIL_DISABLED         /* else several threads use this domain at once */

bool py_stack_copying;

#define MIN_COPY 512            /* what is not larger pymalloc has itself, and fast */

static PyMemAllocatorEx system_mem;

static void *
mem_malloc(void *ctx, size_t n)
{
    return system_mem.malloc(ctx, n);
}

static void *
mem_calloc(void *ctx, size_t n, size_t size)
{
    return system_mem.calloc(ctx, n, size);
}

static RT_NOINLINE void *
slab_realloc_slow(void *ctx, void *p, size_t n)
{
    size_t size = rt_slab_size(p);
    if (n <= size && n > size / 2)
        return p;
    void *copy = system_mem.malloc(ctx, n);
    if (copy != NULL) {
        memcpy(copy, p, n < size ? n : size);
        rt_slab_free(p);
    }
    return copy;
}

static void *
mem_realloc(void *ctx, void *p, size_t n)
{
    if (p == NULL && py_stack_copying && n > MIN_COPY && n <= RT_SLAB_MAX) {
        void *block = rt_slab_alloc(n);
        if (block != NULL)
            return block;
    }
    if (RT_UNLIKELY(p != NULL && rt_slab_owns(p)))
        return slab_realloc_slow(ctx, p, n);
    return system_mem.realloc(ctx, p, n);
}

static void
mem_free(void *ctx, void *p)
{
    if (rt_slab_owns(p))
        rt_slab_free(p);
    else
        system_mem.free(ctx, p);
}

/* Whoever has put an allocator of his own there may put back what was there before, without
   knowing of ours; then the blocks that are ours would be given to a stranger. */
static bool
is_known_allocator(void)
{
    PyAPI_FUNC(const char *) _PyMem_GetCurrentAllocatorName(void);
    const char *name = _PyMem_GetCurrentAllocatorName();
    return name != NULL && (strcmp(name, "pymalloc") == 0 || strcmp(name, "malloc") == 0);
}

static void
install_copies(void)
{
    if (!is_known_allocator())
        return;
    PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &system_mem);
    PyMemAllocatorEx ours = {system_mem.ctx, mem_malloc, mem_calloc, mem_realloc, mem_free};
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &ours);
}

#else

static void
install_copies(void)
{
}

#endif

void
py_stack_install(void)
{
    PyObjectArenaAllocator now;
    PyObject_GetArenaAllocator(&now);
    if (now.alloc == arena_alloc)
        return;                 /* the module was loaded before, in vain */
    system_arena = now;
    PyObjectArenaAllocator ours = {NULL, arena_alloc, arena_free};
    PyObject_SetArenaAllocator(&ours);
    install_copies();
}

void
py_stack_seed(PyThreadState *ts)
{
    if (ts->datastack_chunk != NULL)
        return;
    _PyStackChunk *chunk = PyMem_RawMalloc(FIRST_CHUNK);
    if (chunk == NULL)
        return;                 /* CPython will take one of its own */
    chunk->previous = NULL;
    chunk->size = FIRST_CHUNK;
    chunk->top = 0;
    ts->datastack_chunk = chunk;
    /* CPython leaves the first slot of a root chunk free, so that popping a frame
       never pops the root. */
    ts->datastack_top = &chunk->data[1];
    ts->datastack_limit = (PyObject **)((char *)chunk + FIRST_CHUNK);
}
