/* py_stack.c - where workers keep their Python frames.
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
 */
#include "py_core.h"
#include "rt_arena.h"

#define FIRST_CHUNK 1536

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
