/* perf_arena.c - taking and returning chunks, beside mapping and unmapping them. */
#include "rt_arena.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "rt_perf.h"

enum { N = 1000000, MANY = 100000 };
static char *chunks[MANY];

int
main(void)
{
    PERF("alloc+free, one at a time", N, for (int i = 0; i < N; i++) {
        rt_arena_free(rt_arena_alloc());
    });
    PERF("alloc+touch+free, one at a time", N, for (int i = 0; i < N; i++) {
        char *p = rt_arena_alloc();
        *(volatile char *)p = 1;
        rt_arena_free(p);
    });
    PERF("the same with mmap+munmap", 20000, for (int i = 0; i < 20000; i++) {
        char *p = mmap(NULL, RT_CHUNK_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        *(volatile char *)p = 1;
        munmap(p, RT_CHUNK_SIZE);
    });
    for (int n = 10; n <= MANY; n *= 100) {
        char name[64];
        int rounds = 100000 / n;
        snprintf(name, sizeof(name), "alloc+touch %d, free them in order: a pair", n);
        PERF(name, rounds * n, for (int r = 0; r < rounds; r++) {
            for (int i = 0; i < n; i++) {
                chunks[i] = rt_arena_alloc();
                *(volatile char *)chunks[i] = 1;
            }
            for (int i = 0; i < n; i++)
                rt_arena_free(chunks[i]);
        });
    }
    for (int i = 0; i < MANY; i++)
        chunks[i] = rt_arena_alloc();
    PERF("free+alloc of a random one of 100000", N, for (int i = 0; i < N; i++) {
        char **p = &chunks[(uint32_t)i * 2654435761u % MANY];
        rt_arena_free(*p);
        *p = rt_arena_alloc();
    });
    volatile bool sink = false;
    PERF("owns", N, for (int i = 0; i < N; i++) sink = rt_arena_owns(chunks[i % 8]));
    return sink ? 0 : 1;
}
