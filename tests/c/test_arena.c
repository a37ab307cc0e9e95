/* test_arena.c - the chunk cache: order, what it gives back, fork, threads, and
 * what happens when the system refuses memory.
 *
 * The cache is one for the process, so each test returns all chunks, and those
 * that need it fresh or limited run in a forked child.
 */
#include "rt_arena.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "rt_test.h"

enum { PER_SLAB = 64 };

void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
/* The range begins at an odd page, as it may. */
void *
__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
    if (prot != PROT_NONE)
        return __real_mmap(addr, len, prot, flags, fd, off);
    char *p = __real_mmap(addr, len + 2 * RT_CHUNK_SIZE, prot, flags, fd, off);
    if (p == MAP_FAILED)
        return p;
    return p + (-(uintptr_t)p & (RT_CHUNK_SIZE - 1)) + 4096;
}

static rt_arena_stats
stats(void)
{
    rt_arena_stats s;
    rt_arena_get_stats(&s);
    return s;
}

static void
in_child(void (*fn)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        fn();
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

static void
child_dies(void (*fn)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(2);
        fn();
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(!(WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

/* How many of the chunk's pages have memory behind them. */
static int
resident_pages(void *chunk)
{
    unsigned char vec[RT_CHUNK_SIZE / 4096] = {0};
    int n = 0;
    if (mincore(chunk, RT_CHUNK_SIZE, vec) != 0)
        return -1;
    for (size_t i = 0; i < sizeof(vec); i++)
        n += vec[i] & 1;
    return n;
}

/* ---- refusals: in children, before anything is reserved ---- */

#ifndef UNDER_TSAN              /* it cannot live without address space itself */

static void
alloc_without_address_space(void)
{
    struct rlimit lim = {1 << 20, 1 << 20};
    CHECK(setrlimit(RLIMIT_AS, &lim) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(rt_arena_alloc() == NULL);
    CHECK(!rt_arena_owns(&lim) && !rt_arena_owns(NULL));
    CHECK_EQ(stats().slabs, 0);
}

static void
alloc_returns_null_without_address_space(void)
{
    rt_arena_trim();            /* of nothing */
    in_child(alloc_without_address_space);
}

/* Bytes of the process's address space now. */
static size_t
address_space(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f != NULL && fscanf(f, "%lu", &pages) == 1);
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void
alloc_from_a_small_range(void)
{
    rlim_t room = address_space() + ((size_t)3 << 29);      /* 1.5 GiB more */
    struct rlimit lim = {room, room};
    CHECK(setrlimit(RLIMIT_AS, &lim) == 0);
    char *first = rt_arena_alloc();
    CHECK(first != NULL);
    CHECK(rt_arena_owns(first + ((size_t)1 << 30) - 1));
    CHECK(!rt_arena_owns(first + ((size_t)1 << 30)));
    CHECK(!rt_arena_owns(first - 1));
    /* Use it up: 1 GiB of chunks, none of them touched. */
    for (size_t n = 1; n < ((size_t)1 << 30) / RT_CHUNK_SIZE; n++) {
        char *p = rt_arena_alloc();
        CHECK(p == first + n * RT_CHUNK_SIZE);
    }
    CHECK(rt_arena_alloc() == NULL);
    CHECK(rt_arena_alloc() == NULL);
    rt_arena_free(first + 12345 * (size_t)RT_CHUNK_SIZE);
    CHECK(rt_arena_alloc() == first + 12345 * (size_t)RT_CHUNK_SIZE);
    CHECK(rt_arena_alloc() == NULL);
    CHECK_EQ(stats().slabs, 1024);
}

static void
range_is_halved_until_it_fits(void)
{
    in_child(alloc_from_a_small_range);
}

#endif

/* ---- one thread ---- */

static void
chunks_are_aligned_owned_and_writable(void)
{
    int local;
    char *p = rt_arena_alloc(), *q = rt_arena_alloc();
    CHECK(p != NULL && q == p + RT_CHUNK_SIZE);
    CHECK_EQ((uintptr_t)p % RT_CHUNK_SIZE, 0);
    CHECK(rt_arena_owns(p) && rt_arena_owns(q) && rt_arena_owns(p + 1));
    CHECK(!rt_arena_owns(&local) && !rt_arena_owns(NULL));
    CHECK(!rt_arena_owns((char *)UINTPTR_MAX));
    memset(p, 1, RT_CHUNK_SIZE);
    memset(q, 2, RT_CHUNK_SIZE);
    CHECK(p[RT_CHUNK_SIZE - 1] == 1 && q[0] == 2);
    CHECK_EQ(stats().chunks_used, 2);
    rt_arena_free(p);
    rt_arena_free(q);
    CHECK_EQ(stats().chunks_used, 0);
}

static void
untouched_pages_cost_nothing(void)
{
    char *p = NULL, *chunks[4 * PER_SLAB];
    for (int i = 0; i < 4 * PER_SLAB; i++) {
        chunks[i] = p = rt_arena_alloc();
        p[100] = 1;
    }
    CHECK_EQ(resident_pages(p), 1);
    for (int i = 0; i < 4 * PER_SLAB; i++)
        rt_arena_free(chunks[i]);
}

static void
lowest_address_comes_first(void)
{
    enum { N = 10 * PER_SLAB };
    char *chunks[N];
    for (int i = 0; i < N; i++) {
        chunks[i] = rt_arena_alloc();
        CHECK(i == 0 || chunks[i] == chunks[i - 1] + RT_CHUNK_SIZE);
    }
    CHECK_EQ(stats().slabs, 10);
    static const int holes[] = {3, 70, 71, 200, 447, 639};
    for (size_t i = RT_ARRAY_LEN(holes); i-- > 0;)
        rt_arena_free(chunks[holes[(i * 5) % RT_ARRAY_LEN(holes)]]);
    for (size_t i = 0; i < RT_ARRAY_LEN(holes); i++)
        CHECK(rt_arena_alloc() == chunks[holes[i]]);
    for (int i = 0; i < N; i++)
        rt_arena_free(chunks[i]);
    CHECK_EQ(stats().slabs, 10);
}

/* Enough slabs to use all levels of the bitmaps: 5,000 of them. */
static void
many_slabs_are_found_and_given_back(void)
{
    enum { SLABS = 5000, N = SLABS * PER_SLAB };
    char *first = rt_arena_alloc();
    for (size_t i = 1; i < N; i++)
        CHECK(rt_arena_alloc() == first + i * RT_CHUNK_SIZE);
    CHECK_EQ(stats().slabs, SLABS);
    CHECK_EQ(stats().chunks_used, N);
    static const size_t holes[] = {0, 63, 64 * 64, 4095 * 64 + 5, 4096 * 64, N - 1};
    for (size_t i = 0; i < RT_ARRAY_LEN(holes); i++)
        rt_arena_free(first + holes[i] * RT_CHUNK_SIZE);
    for (size_t i = 0; i < RT_ARRAY_LEN(holes); i++)
        CHECK(rt_arena_alloc() == first + holes[i] * RT_CHUNK_SIZE);
    /* From the low end: the spares kept at the end are the lowest. */
    for (size_t i = 0; i < N; i++) {
        rt_arena_free(first + i * RT_CHUNK_SIZE);
        if (i % 997 == 0) {
            size_t in_use = SLABS - (i + 1) / PER_SLAB;
            CHECK(stats().slabs <= in_use + RT_ARENA_SPARES + in_use / 8);
        }
    }
    CHECK_EQ(stats().slabs, RT_ARENA_SPARES);
    CHECK_EQ(stats().chunks_used, 0);
    CHECK(rt_arena_alloc() == first);
    rt_arena_free(first);
}

static void
empty_slabs_are_given_back_highest_first(void)
{
    enum { SLABS = RT_ARENA_SPARES + 8, N = SLABS * PER_SLAB };
    static char *chunks[N];
    rt_arena_trim();
    for (int i = 0; i < N; i++) {
        chunks[i] = rt_arena_alloc();
        memset(chunks[i], i, RT_CHUNK_SIZE);
    }
    for (int i = 0; i < N; i++)
        rt_arena_free(chunks[i]);
    CHECK_EQ(stats().slabs, RT_ARENA_SPARES);
    for (int i = 0; i < N; i++)
        CHECK_EQ(resident_pages(chunks[i]), i < (int)RT_ARENA_SPARES * PER_SLAB ? 4 : 0);
    /* A slab that was given back can be used again, and reads as zero. */
    for (int i = 0; i < N; i++)
        CHECK(rt_arena_alloc() == chunks[i]);
    for (int i = (int)RT_ARENA_SPARES * PER_SLAB; i < N; i++)
        CHECK(chunks[i][77] == 0);
    for (int i = 0; i < N; i++)
        rt_arena_free(chunks[i]);
}

static void
burst_after_burst_keeps_its_pages(void)
{
    enum { SLABS = RT_ARENA_SPARES, N = SLABS * PER_SLAB };
    static char *chunks[N];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            chunks[i] = rt_arena_alloc();
            CHECK(round == 0 || chunks[i][5] == 7);
            chunks[i][5] = 7;
        }
        for (int i = 0; i < N; i++)
            rt_arena_free(chunks[i]);
        CHECK_EQ(stats().slabs, SLABS);
    }
}

static void
trim_gives_back_all_empty_slabs(void)
{
    char *low = rt_arena_alloc(), *high;
    char *chunks[3 * PER_SLAB];
    for (int i = 0; i < 3 * PER_SLAB; i++)
        chunks[i] = rt_arena_alloc();
    high = chunks[3 * PER_SLAB - 1];
    *low = *high = 3;
    for (int i = 0; i < 3 * PER_SLAB - 1; i++)
        rt_arena_free(chunks[i]);
    rt_arena_trim();
    CHECK_EQ(stats().slabs, 2);
    CHECK(*low == 3 && *high == 3);
    rt_arena_free(low);
    rt_arena_free(high);
    rt_arena_trim();
    CHECK_EQ(stats().slabs, 0);
    CHECK_EQ(resident_pages(low), 0);
    CHECK(rt_arena_alloc() == low);
    CHECK_EQ(*low, 0);
    rt_arena_free(low);
    rt_arena_trim();
    rt_arena_trim();
    CHECK_EQ(stats().slabs, 0);
}

static void
free_twice(void)
{
    void *keep = rt_arena_alloc(), *p = rt_arena_alloc();
    rt_arena_free(p);
    rt_arena_free(p);
    rt_arena_free(keep);
}

static void
free_inside(void)
{
    char *p = rt_arena_alloc();
    rt_arena_free(p + 4096);
}

static void
free_foreign(void)
{
    static char buf[RT_CHUNK_SIZE];
    free(rt_arena_alloc());
    rt_arena_free(buf);
}

static void
wrong_frees_are_fatal(void)
{
    child_dies(free_twice);
    child_dies(free_inside);
    child_dies(free_foreign);
}

#ifdef UNDER_ASAN
static char *volatile freed_chunk;

static void
touch_freed(void)
{
    freed_chunk[1] = 1;
}

static void
sanitizer_sees_use_after_free(void)
{
    freed_chunk = rt_arena_alloc();
    rt_arena_free(freed_chunk);
    child_dies(touch_freed);
}
#endif

/* Random order, against a model; each chunk keeps what its owner wrote. */
static void
random_operations_keep_chunks_apart(void)
{
    enum { N = 1000 };
    static char *chunks[N];
    static uint32_t mark[N];
    uint32_t rng = 12345, used = 0;
    for (int step = 0; step < 200000; step++) {
        rng = rng * 1664525 + 1013904223;
        /* Long phases of growing and of shrinking. */
        uint32_t i = (rng >> 8) % N;
        bool grow = (rng >> 28) % 8 < ((step / 20000) % 2 ? 2 : 6);
        if (grow && chunks[i] == NULL) {
            chunks[i] = rt_arena_alloc();
            CHECK(chunks[i] != NULL);
            mark[i] = rng;
            memcpy(chunks[i] + RT_CHUNK_SIZE - 4, &mark[i], 4);
            used++;
        } else if (!grow && chunks[i] != NULL) {
            CHECK(memcmp(chunks[i] + RT_CHUNK_SIZE - 4, &mark[i], 4) == 0);
            rt_arena_free(chunks[i]);
            chunks[i] = NULL;
            used--;
        }
        if (step % 1000 == 0)
            CHECK_EQ(stats().chunks_used, used);
    }
    for (int i = 0; i < N; i++)
        if (chunks[i] != NULL) {
            CHECK(memcmp(chunks[i] + RT_CHUNK_SIZE - 4, &mark[i], 4) == 0);
            rt_arena_free(chunks[i]);
            chunks[i] = NULL;
        }
    CHECK_EQ(stats().chunks_used, 0);
    CHECK(stats().slabs <= RT_ARENA_SPARES);
}

/* ---- threads and fork ---- */

static _Atomic bool stop_threads;

static void *
churn(void *arg)
{
    char *mine[100] = {0};
    uint32_t rng = (uint32_t)(uintptr_t)arg;
    uintptr_t rounds = 0;
    while (!atomic_load(&stop_threads) || rounds < 20000) {
        rng = rng * 1664525 + 1013904223;
        char **p = &mine[(rng >> 8) % RT_ARRAY_LEN(mine)];
        if (*p == NULL) {
            *p = rt_arena_alloc();
            CHECK(*p != NULL && rt_arena_owns(*p));
            **p = (char)(uintptr_t)arg;
        } else {
            CHECK(**p == (char)(uintptr_t)arg);
            rt_arena_free(*p);
            *p = NULL;
        }
        rounds++;
    }
    for (size_t i = 0; i < RT_ARRAY_LEN(mine); i++)
        if (mine[i] != NULL)
            rt_arena_free(mine[i]);
    return NULL;
}

static void
threads_share_the_cache(void)
{
    enum { N = 4 };
    pthread_t t[N];
    atomic_store(&stop_threads, true);
    for (uintptr_t i = 0; i < N; i++)
        CHECK(pthread_create(&t[i], NULL, churn, (void *)(i + 1)) == 0);
    for (int i = 0; i < N; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
    CHECK_EQ(stats().chunks_used, 0);
    CHECK(stats().slabs <= RT_ARENA_SPARES);
}

static char *shared_chunk;

static void
use_after_fork(void)
{
    alarm(30);
    uint64_t used = stats().chunks_used;
    CHECK(used >= 1);
    CHECK(shared_chunk[9] == 'p');
    shared_chunk[9] = 'c';
    char *p = rt_arena_alloc();
    CHECK(p != NULL && p != shared_chunk);
    p[0] = 1;
    rt_arena_free(p);
    rt_arena_free(shared_chunk);
    CHECK_EQ(stats().chunks_used, used - 1);
}

static void
forked_child_goes_on_while_threads_were_in_the_cache(void)
{
    enum { N = 2, FORKS = 30 };
    pthread_t t[N];
    shared_chunk = rt_arena_alloc();
    shared_chunk[9] = 'p';
    atomic_store(&stop_threads, false);
    for (uintptr_t i = 0; i < N; i++)
        CHECK(pthread_create(&t[i], NULL, churn, (void *)(i + 1)) == 0);
    for (int i = 0; i < FORKS; i++) {
        in_child(use_after_fork);
        sched_yield();
    }
    atomic_store(&stop_threads, true);
    for (int i = 0; i < N; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
    CHECK(shared_chunk[9] == 'p');
    rt_arena_free(shared_chunk);
    CHECK_EQ(stats().chunks_used, 0);
}

int
main(void)
{
#ifndef UNDER_TSAN
    RUN(alloc_returns_null_without_address_space);
    RUN(range_is_halved_until_it_fits);
#endif
    RUN(chunks_are_aligned_owned_and_writable);
    RUN(untouched_pages_cost_nothing);
    RUN(lowest_address_comes_first);
    RUN(many_slabs_are_found_and_given_back);
    RUN(empty_slabs_are_given_back_highest_first);
    RUN(burst_after_burst_keeps_its_pages);
    RUN(trim_gives_back_all_empty_slabs);
    RUN(wrong_frees_are_fatal);
#ifdef UNDER_ASAN
    RUN(sanitizer_sees_use_after_free);
#endif
    RUN(random_operations_keep_chunks_apart);
    RUN(threads_share_the_cache);
    RUN(forked_child_goes_on_while_threads_were_in_the_cache);
    return 0;
}
