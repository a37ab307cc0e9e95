/* test_runq.c - the queues of rt_runq.h: what they do on one thread, then under
 * concurrent use.  Built with RT_RUNQ_CAP=256 and 4.
 *
 * The threaded tests write and read a plain field of each goroutine: TSan then
 * reports a hand-over that does not publish what the giver wrote.
 */
#include "rt_runq.h"

#include <sched.h>
#include <string.h>

#include "rt_test.h"

struct rt_g {
    rt_glink link;
    uint32_t id;
    uint32_t seq;               /* within its producer */
    uint64_t visits;            /* plain on purpose: owned by who holds the g */
    _Atomic uint32_t seen;
};

#define CAP RT_RUNQ_CAP

static rt_g *
make_gs(uint32_t n)
{
    rt_g *g = calloc(n, sizeof(*g));
    CHECK(g != NULL);
    for (uint32_t i = 0; i < n; i++)
        g[i].id = i;
    return g;
}

/* ---- one thread ---- */

static void
glist_is_fifo(void)
{
    rt_g *g = make_gs(6);
    rt_glist a = {0}, b = {0};
    CHECK(rt_glist_pop(&a) == NULL);
    rt_glist_append(&a, &b);
    CHECK(a.head == NULL && a.tail == NULL && a.len == 0);
    for (int i = 0; i < 3; i++)
        rt_glist_push(&a, &g[i]);
    for (int i = 3; i < 6; i++)
        rt_glist_push(&b, &g[i]);
    rt_glist_append(&a, &b);
    CHECK(b.head == NULL && b.tail == NULL && b.len == 0);
    rt_glist_append(&a, &b);
    CHECK_EQ(a.len, 6);
    rt_glist_append(&b, &a);    /* into an empty one */
    CHECK_EQ(a.len, 0);
    for (int i = 0; i < 6; i++) {
        CHECK(rt_glist_pop(&b) == &g[i]);
        CHECK(g[i].link.next == NULL);
    }
    CHECK(b.tail == NULL && b.len == 0 && rt_glist_pop(&b) == NULL);
    rt_glist_push(&b, &g[2]);
    CHECK(b.head == &g[2] && b.tail == &g[2]);
    free(g);
}

/* Counters start just below their wrap-around. */
static void
runq_near_wrap(rt_runq *q)
{
    memset(q, 0, sizeof(*q));
    atomic_store(&q->head, UINT32_MAX - CAP / 2);
    atomic_store(&q->tail, UINT32_MAX - CAP / 2);
}

static void
runq_is_fifo_and_bounded(void)
{
    static rt_runq q;
    rt_g *g = make_gs(CAP + 1);
    runq_near_wrap(&q);
    for (int round = 0; round < 5; round++) {
        CHECK(rt_runq_get(&q) == NULL);
        CHECK_EQ(rt_runq_len(&q), 0);
        for (uint32_t i = 0; i < CAP; i++) {
            CHECK(rt_runq_put(&q, &g[i]));
            CHECK_EQ(rt_runq_len(&q), i + 1);
        }
        CHECK(!rt_runq_put(&q, &g[CAP]));
        CHECK(rt_runq_get(&q) == &g[0]);
        CHECK(rt_runq_put(&q, &g[CAP]));
        for (uint32_t i = 1; i <= CAP; i++)
            CHECK(rt_runq_get(&q) == &g[i]);
    }
    free(g);
}

static void
runq_get_half_takes_the_oldest_half_of_a_full_ring(void)
{
    static rt_runq q;
    rt_glist out = {0};
    rt_g *g = make_gs(CAP);
    runq_near_wrap(&q);
    for (uint32_t i = 0; i < CAP; i++) {
        CHECK_EQ(rt_runq_get_half(&q, &out), 0);
        CHECK(rt_runq_put(&q, &g[i]));
    }
    CHECK_EQ(rt_runq_get_half(&q, &out), CAP / 2);
    CHECK_EQ(out.len, CAP / 2);
    CHECK_EQ(rt_runq_len(&q), CAP / 2);
    for (uint32_t i = 0; i < CAP / 2; i++)
        CHECK(rt_glist_pop(&out) == &g[i]);
    for (uint32_t i = CAP / 2; i < CAP; i++)
        CHECK(rt_runq_get(&q) == &g[i]);
    free(g);
}

static void
runq_steal_takes_the_oldest_half_rounded_up(void)
{
    static rt_runq from, to;
    rt_g *g = make_gs(CAP);
    for (uint32_t n = 0; n <= CAP; n++) {
        runq_near_wrap(&from);
        runq_near_wrap(&to);
        for (uint32_t i = 0; i < n; i++)
            CHECK(rt_runq_put(&from, &g[i]));
        uint32_t half = n - n / 2;
        CHECK(rt_runq_steal(&from, &to) == (n != 0 ? &g[0] : NULL));
        CHECK_EQ(rt_runq_len(&from), n - half);
        CHECK_EQ(rt_runq_len(&to), half != 0 ? half - 1 : 0);
        for (uint32_t i = 1; i < half; i++)
            CHECK(rt_runq_get(&to) == &g[i]);
        for (uint32_t i = half; i < n; i++)
            CHECK(rt_runq_get(&from) == &g[i]);
    }
    free(g);
}

static void
inbox_take_returns_all_oldest_first(void)
{
    rt_inbox in = {NULL};
    rt_glist out = {0};
    rt_g *g = make_gs(10);
    CHECK(rt_inbox_empty(&in));
    CHECK_EQ(rt_inbox_take(&in, &out), 0);
    rt_glist_push(&out, &g[0]);
    for (int i = 1; i < 10; i++) {
        CHECK_EQ(rt_inbox_put(&in, &g[i]), i == 1);
        CHECK(!rt_inbox_empty(&in));
    }
    CHECK_EQ(rt_inbox_take(&in, &out), 9);
    CHECK(rt_inbox_empty(&in));
    CHECK_EQ(out.len, 10);
    for (int i = 0; i < 10; i++)
        CHECK(rt_glist_pop(&out) == &g[i]);
    CHECK(rt_inbox_put(&in, &g[3]));
    CHECK_EQ(rt_inbox_take(&in, &out), 1);
    CHECK(rt_glist_pop(&out) == &g[3] && out.tail == NULL);
    free(g);
}

static void
globq_get_takes_at_most_max(void)
{
    rt_globq q;
    rt_glist batch = {0}, out = {0};
    rt_g *g = make_gs(10);
    rt_globq_init(&q);
    CHECK_EQ(rt_globq_get(&q, &out, 5), 0);
    for (int i = 0; i < 10; i++) {
        rt_glist_push(&batch, &g[i]);
        if (i % 5 == 4) {
            rt_globq_put(&q, &batch);
            CHECK(batch.head == NULL && batch.len == 0);
        }
    }
    CHECK_EQ(atomic_load(&q.len), 10);
    CHECK_EQ(rt_globq_get(&q, &out, 0), 0);
    CHECK_EQ(rt_globq_get(&q, &out, 3), 3);
    CHECK_EQ(atomic_load(&q.len), 7);
    CHECK_EQ(rt_globq_get(&q, &out, 100), 7);
    CHECK_EQ(rt_globq_get(&q, &out, 100), 0);
    for (int i = 0; i < 10; i++)
        CHECK(rt_glist_pop(&out) == &g[i]);
    free(g);
}

/* ---- many threads ---- */

enum { THIEVES = 3, ITEMS = 60000 };

static rt_g *items;
static rt_runq rings[THIEVES + 1];      /* 0 is the owner's */
static rt_globq globq;
static _Atomic uint32_t consumed;

static void
consume(rt_g *gp)
{
    /* Relaxed: a stronger order would itself publish what the queue must. */
    CHECK_EQ(atomic_fetch_add_explicit(&gp->seen, 1, memory_order_relaxed), 0);
    CHECK_EQ(gp->visits, gp->id + 1u);
    gp->visits = 0;
    atomic_fetch_add_explicit(&consumed, 1, memory_order_relaxed);
}

static void *
owner_main(void *arg)
{
    rt_runq *q = arg;
    for (uint32_t i = 0; i < ITEMS; i++) {
        items[i].visits = items[i].id + 1u;
        while (!rt_runq_put(q, &items[i])) {
            rt_glist over = {0};
            if (i % 3 == 0) {
                rt_g *gp = rt_runq_get(q);
                if (gp != NULL)
                    consume(gp);
            } else if (rt_runq_get_half(q, &over) != 0) {
                rt_globq_put(&globq, &over);
            }
        }
        if (i % 7 == 0) {
            rt_g *gp = rt_runq_get(q);
            if (gp != NULL)
                consume(gp);
        }
        /* On few cores the thieves would else only ever meet an empty ring. */
        if (i % 64 == 0)
            sched_yield();
    }
    for (rt_g *gp; (gp = rt_runq_get(q)) != NULL;)
        consume(gp);
    return NULL;
}

static void *
thief_main(void *arg)
{
    rt_runq *mine = arg;
    while (atomic_load_explicit(&consumed, memory_order_relaxed) < ITEMS) {
        rt_g *gp = rt_runq_steal(&rings[0], mine);
        if (gp == NULL) {
            rt_glist out = {0};
            rt_globq_get(&globq, &out, CAP / 2);
            gp = rt_glist_pop(&out);
            for (rt_g *more; (more = rt_glist_pop(&out)) != NULL;)
                CHECK(rt_runq_put(mine, more));
        }
        if (gp == NULL) {
            sched_yield();
            continue;
        }
        do {
            consume(gp);
        } while ((gp = rt_runq_get(mine)) != NULL);
    }
    return NULL;
}

static void
every_item_is_taken_exactly_once(void)
{
    pthread_t t[THIEVES + 1];
    items = make_gs(ITEMS);
    rt_globq_init(&globq);
    atomic_store(&consumed, 0);
    for (int i = 0; i <= THIEVES; i++) {
        runq_near_wrap(&rings[i]);
        CHECK(pthread_create(&t[i], NULL, i == 0 ? owner_main : thief_main, &rings[i]) == 0);
    }
    for (int i = 0; i <= THIEVES; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
    CHECK_EQ(atomic_load(&consumed), ITEMS);
    for (uint32_t i = 0; i < ITEMS; i++)
        CHECK_EQ(atomic_load(&items[i].seen), 1);
    free(items);
}

/* A chain: the owner fills ring 0, the relay steals from it into ring 1, the last
   steals from there and meets the owner's writes only through the relay. */
static void *
relay_main(void *arg)
{
    (void)arg;
    while (atomic_load_explicit(&consumed, memory_order_relaxed) < ITEMS) {
        rt_g *gp = NULL;
        if (rt_runq_len(&rings[1]) == 0)
            gp = rt_runq_steal(&rings[0], &rings[1]);
        if (gp != NULL)
            consume(gp);
        else
            sched_yield();
    }
    return NULL;
}

static void *
chain_end_main(void *arg)
{
    (void)arg;
    while (atomic_load_explicit(&consumed, memory_order_relaxed) < ITEMS) {
        rt_g *gp = rt_runq_steal(&rings[1], &rings[2]);
        if (gp == NULL)
            sched_yield();
        for (; gp != NULL; gp = rt_runq_get(&rings[2]))
            consume(gp);
    }
    return NULL;
}

static void *
chain_start_main(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < ITEMS; i++) {
        items[i].visits = items[i].id + 1u;
        while (!rt_runq_put(&rings[0], &items[i]))
            sched_yield();
    }
    return NULL;
}

static void
stolen_items_can_be_stolen_again(void)
{
    static void *(*const mains[])(void *) = {chain_start_main, relay_main, chain_end_main};
    pthread_t t[3];
    items = make_gs(ITEMS);
    atomic_store(&consumed, 0);
    for (int i = 0; i < 3; i++)
        runq_near_wrap(&rings[i]);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&t[i], NULL, mains[i], NULL) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
    for (uint32_t i = 0; i < ITEMS; i++)
        CHECK_EQ(atomic_load(&items[i].seen), 1);
    free(items);
}

/* A fixed set of goroutines runs round and round on workers that all steal from
   each other, so slots and links are reused all the time. */
enum { WORKERS = 4, TOKENS = 3 * CAP + 1, ROUNDS = 30000 };

static void *
worker_main(void *arg)
{
    rt_runq *mine = arg;
    uint32_t self = (uint32_t)(mine - rings);
    uint32_t done = 0;
    uint64_t found = 0;
    for (uint32_t tick = 0; done < ROUNDS; tick++) {
        rt_g *gp = NULL;
        if (tick % 61 == 0) {
            rt_glist out = {0};
            rt_globq_get(&globq, &out, 1);
            gp = rt_glist_pop(&out);
        }
        if (gp == NULL)
            gp = rt_runq_get(mine);
        if (gp == NULL) {
            rt_glist out = {0};
            rt_globq_get(&globq, &out, CAP / 2);
            gp = rt_glist_pop(&out);
            for (rt_g *more; (more = rt_glist_pop(&out)) != NULL;)
                CHECK(rt_runq_put(mine, more));
        }
        for (uint32_t i = 1; gp == NULL && i < WORKERS; i++)
            gp = rt_runq_steal(&rings[(self + i) % WORKERS], mine);
        if (gp == NULL) {
            sched_yield();
            continue;
        }
        /* Two holders at once would meet in `seen`, lose a visit, or be seen by
           TSan (which relaxed operations do not blind). */
        CHECK_EQ(atomic_exchange_explicit(&gp->seen, 1, memory_order_relaxed), 0);
        gp->visits++;
        atomic_store_explicit(&gp->seen, 0, memory_order_relaxed);
        done++;
        found++;
        while (!rt_runq_put(mine, gp)) {
            rt_glist over = {0};
            if (rt_runq_get_half(mine, &over) != 0) {
                rt_glist_push(&over, gp);
                rt_globq_put(&globq, &over);
                break;
            }
        }
        if (tick % 128 == 0)
            sched_yield();
    }
    return (void *)(uintptr_t)found;
}

static void
goroutines_are_neither_lost_nor_doubled(void)
{
    pthread_t t[WORKERS];
    uint64_t found = 0, visits = 0;
    rt_glist all = {0};
    items = make_gs(TOKENS);
    rt_globq_init(&globq);
    for (uint32_t i = 0; i < TOKENS; i++)
        rt_glist_push(&all, &items[i]);
    rt_globq_put(&globq, &all);
    for (int i = 0; i < WORKERS; i++)
        runq_near_wrap(&rings[i]);
    for (int i = 0; i < WORKERS; i++)
        CHECK(pthread_create(&t[i], NULL, worker_main, &rings[i]) == 0);
    for (int i = 0; i < WORKERS; i++) {
        void *n;
        CHECK(pthread_join(t[i], &n) == 0);
        found += (uintptr_t)n;
    }
    rt_globq_get(&globq, &all, UINT32_MAX);
    for (int i = 0; i < WORKERS; i++)
        for (rt_g *gp; (gp = rt_runq_get(&rings[i])) != NULL;)
            rt_glist_push(&all, gp);
    CHECK_EQ(all.len, TOKENS);
    for (rt_g *gp; (gp = rt_glist_pop(&all)) != NULL;) {
        CHECK_EQ(atomic_exchange(&gp->seen, 1), 0);
        visits += gp->visits;
    }
    CHECK_EQ(visits, found);
    free(items);
}

enum { PRODUCERS = 4, PER_PRODUCER = 20000 };

static rt_inbox inbox;
static _Atomic uint32_t was_empty;

static void *
producer_main(void *arg)
{
    rt_g *mine = arg;
    for (uint32_t i = 0; i < PER_PRODUCER; i++) {
        mine[i].seq = i;
        mine[i].visits = 1;
        if (rt_inbox_put(&inbox, &mine[i]))
            atomic_fetch_add(&was_empty, 1);
        if (i % 32 == 0)
            sched_yield();
    }
    return NULL;
}

static void
inbox_keeps_the_order_of_each_producer(void)
{
    pthread_t t[PRODUCERS];
    uint32_t next[PRODUCERS] = {0};
    uint32_t total = 0, batches = 0;
    items = make_gs(PRODUCERS * PER_PRODUCER);
    atomic_store(&was_empty, 0);
    for (int i = 0; i < PRODUCERS; i++)
        CHECK(pthread_create(&t[i], NULL, producer_main, &items[i * PER_PRODUCER]) == 0);
    while (total < PRODUCERS * PER_PRODUCER) {
        rt_glist out = {0};
        uint32_t n = rt_inbox_take(&inbox, &out);
        CHECK_EQ(n, out.len);
        if (n == 0)
            sched_yield();
        else
            batches++;
        for (rt_g *gp; (gp = rt_glist_pop(&out)) != NULL; total++) {
            uint32_t who = gp->id / PER_PRODUCER;
            CHECK_EQ(gp->seq, next[who]);
            CHECK_EQ(gp->visits, 1);
            gp->visits = 2;
            next[who]++;
        }
    }
    for (int i = 0; i < PRODUCERS; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
    /* A batch begins with exactly one put into an empty inbox. */
    CHECK_EQ(atomic_load(&was_empty), batches);
    free(items);
}

static void *
globq_main(void *arg)
{
    rt_g *mine = arg;
    for (uint32_t i = 0; i < PER_PRODUCER; i++) {
        rt_glist l = {0};
        mine[i].visits = mine[i].id + 1u;
        rt_glist_push(&l, &mine[i]);
        rt_globq_put(&globq, &l);
        rt_globq_get(&globq, &l, i % 3);
        for (rt_g *gp; (gp = rt_glist_pop(&l)) != NULL;)
            consume(gp);
    }
    return NULL;
}

static void
globq_hands_out_each_item_once(void)
{
    pthread_t t[PRODUCERS];
    rt_glist rest = {0};
    items = make_gs(PRODUCERS * PER_PRODUCER);
    rt_globq_init(&globq);
    atomic_store(&consumed, 0);
    for (int i = 0; i < PRODUCERS; i++)
        CHECK(pthread_create(&t[i], NULL, globq_main, &items[i * PER_PRODUCER]) == 0);
    for (int i = 0; i < PRODUCERS; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
    rt_globq_get(&globq, &rest, UINT32_MAX);
    for (rt_g *gp; (gp = rt_glist_pop(&rest)) != NULL;)
        consume(gp);
    CHECK_EQ(atomic_load(&consumed), PRODUCERS * PER_PRODUCER);
    CHECK_EQ(atomic_load(&globq.len), 0);
    free(items);
}

int
main(void)
{
    RUN(glist_is_fifo);
    RUN(runq_is_fifo_and_bounded);
    RUN(runq_get_half_takes_the_oldest_half_of_a_full_ring);
    RUN(runq_steal_takes_the_oldest_half_rounded_up);
    RUN(inbox_take_returns_all_oldest_first);
    RUN(globq_get_takes_at_most_max);
    RUN(every_item_is_taken_exactly_once);
    RUN(stolen_items_can_be_stolen_again);
    RUN(goroutines_are_neither_lost_nor_doubled);
    RUN(inbox_keeps_the_order_of_each_producer);
    RUN(globq_hands_out_each_item_once);
    return 0;
}
