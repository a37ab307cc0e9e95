/* test_slab.c - blocks for copies of stacks: sizes, contents, reuse, what goes back. */
#include "rt_slab.h"

#include <stdlib.h>
#include <string.h>

#include "rt_test.h"

static uint64_t
chunks_used(void)
{
    rt_arena_stats s;
    rt_arena_get_stats(&s);
    return s.chunks_used;
}

static void
test_size_holds_what_was_asked_for(void)
{
    for (size_t n = 1; n <= RT_SLAB_MAX; n++) {
        unsigned char *p = rt_slab_alloc(n);
        CHECK(p != NULL);
        CHECK((uintptr_t)p % 16 == 0);
        CHECK(rt_slab_owns(p));
        CHECK(rt_slab_size(p) >= n && rt_slab_size(p) < n + 16);
        memset(p, 0xa5, rt_slab_size(p));
        rt_slab_free(p);
    }
}

static void
test_block_given_back_is_next(void)
{
    void *p = rt_slab_alloc(2000);
    uint64_t before = chunks_used();
    for (int i = 0; i < 1000; i++) {
        rt_slab_free(p);
        CHECK(rt_slab_alloc(2000) == p);
    }
    CHECK_EQ(chunks_used(), before);
    rt_slab_free(p);
}

static void
test_foreign_address_is_not_owned(void)
{
    int here;
    void *heap = malloc(2000);
    CHECK(!rt_slab_owns(&here));
    CHECK(!rt_slab_owns(heap));
    CHECK(!rt_slab_owns(NULL));
    free(heap);
}

/* Random sizes, many alive: no two overlap, contents stay, and all but one slab of each
   size go back in the end. */
static void
test_random_use_keeps_contents_and_gives_back(void)
{
    enum { N = 10000 };
    static struct {
        unsigned char *p;
        size_t n;
        unsigned char mark;
    } live[N];
    uint64_t before = chunks_used(), most = 0;
    srand(1);
    for (int step = 0; step < 200000; step++) {
        int i = rand() % N;
        if (live[i].p != NULL) {
            for (size_t k = 0; k < live[i].n; k++)
                CHECK_EQ(live[i].p[k], live[i].mark);
            rt_slab_free(live[i].p);
            live[i].p = NULL;
            continue;
        }
        live[i].n = 1 + (size_t)rand() % (rand() % 4 ? 200 : RT_SLAB_MAX);
        live[i].mark = (unsigned char)rand();
        live[i].p = rt_slab_alloc(live[i].n);
        CHECK(live[i].p != NULL);
        memset(live[i].p, live[i].mark, live[i].n);
        if (chunks_used() > most)
            most = chunks_used();
    }
    for (int i = 0; i < N; i++)
        if (live[i].p != NULL) {
            rt_slab_free(live[i].p);
            live[i].p = NULL;
        }
    CHECK(most > before);
    CHECK(chunks_used() <= RT_SLAB_MAX / 16);
}

int
main(void)
{
    RUN(test_size_holds_what_was_asked_for);
    RUN(test_block_given_back_is_next);
    RUN(test_foreign_address_is_not_owned);
    RUN(test_random_use_keeps_contents_and_gives_back);
    return 0;
}
