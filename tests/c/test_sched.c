/* test_sched.c - the scheduler of rt_sched.h, function by function, on one thread.
 * Built with RT_RUNQ_CAP=256 and 4.
 *
 * The test is the only M and plays all the others; its host notes what the scheduler asks
 * for.  test_sched_ms.c has many threads.  RT_SEED=N repeats a run.
 */
#include "rt_sched.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "rt_test.h"

#define CAP RT_RUNQ_CAP
#define SECOND 1000000000LL
#define FAIR 61                 /* every so many ticks all sources are looked at */

typedef struct {
    rt_g g;                     /* first */
    uint32_t id;
    uint32_t begun;
    rt_timer timer;
} tg;

static tg *
g_of(rt_g *gp)
{
    return (tg *)gp;
}

static rt_sched *sched;
static struct {
    int starts[1024];            /* ids asked for */
    int nstarts;
    int start_rc;
    int unparked;
    int blocks;                 /* calls of host.block */
    int64_t timeout;            /* of the last one */
    void (*on_block)(rt_p *);   /* must make something runnable */
    int quiets, busies;         /* calls of host.quiet */
    bool (*on_quiet)(rt_p *);
} host;
static rt_p *ps[RT_MAX_P + 1];
static int nps;
static tg *pool;

static void
fake_block(rt_p *pp, int64_t timeout)
{
    host.blocks++;
    host.timeout = timeout;
    CHECK(host.on_block != NULL);
    host.on_block(pp);
}

static bool
fake_quiet(rt_p *pp, bool busy)
{
    CHECK(pp->nbubbles != 0);
    host.busies += busy;
    host.quiets += !busy;
    return !busy && host.on_quiet(pp);
}

static void
fake_unpark(rt_g *gp)
{
    CHECK(gp->foreign);
    host.unparked++;
}

static int
fake_start(rt_sched *s, uint32_t id)
{
    CHECK(s == sched);
    CHECK(host.nstarts < 1024);
    host.starts[host.nstarts++] = (int)id;
    return host.start_rc;
}

static rt_p *
new_p(uint32_t id)
{
    rt_p *pp = rt_test_zeroed(sizeof(*pp));
    uint64_t bit = UINT64_C(1) << id % 64;      /* who starts an M has taken it */
    if (id < RT_MAX_P && atomic_fetch_and(&sched->idle[id / 64], ~bit) & bit)
        atomic_fetch_sub(&sched->nidle, 1);
    CHECK_EQ(rt_p_init(pp, sched, id, false), 0);
    ps[nps++] = pp;
    return pp;
}

/* A scheduler with n Ps, of which the first `made` have an M. */
static void
setup(uint32_t n, uint32_t made)
{
    memset(&host, 0, sizeof(host));
    sched = rt_test_zeroed(sizeof(*sched));
    rt_sched_init(sched, rt_netpoll_default(),
                  (rt_host){.block = fake_block, .unpark = fake_unpark, .start = fake_start,
                            .quiet = fake_quiet});
    nps = 0;
    for (uint32_t id = 0; id < made; id++)
        new_p(id);
    host.start_rc = -EAGAIN;
    CHECK_EQ(rt_sched_set_procs(sched, n), 1);
    host.nstarts = host.start_rc = 0;
    pool = calloc(16 * CAP + 1024, sizeof(*pool));
    CHECK(pool != NULL);
    for (uint32_t i = 0; i < 16 * CAP + 1024; i++) {
        pool[i].id = i;
        pool[i].g.wake = RT_WAKE_READY;
    }
}

static void
teardown(void)
{
    for (int i = 0; i < nps; i++) {
        if (ps[i]->np != NULL)
            sched->netpoll->close(ps[i]->np);
        rt_timers_fini(&ps[i]->timers);
        rt_timers_fini(&ps[i]->alarms.heap);
        free(ps[i]);
    }
    free(sched);
    free(pool);
}

static rt_g *
G(uint32_t i)
{
    return &pool[i].g;
}

/* One that has begun on pp. */
static rt_g *
begun(rt_p *pp, uint32_t i)
{
    G(i)->pp = pp;
    G(i)->started = G(i)->pinned = 1;
    return G(i);
}

static int
find(rt_p *pp)
{
    rt_g *gp = rt_sched_find(pp);
    CHECK(gp != NULL);
    gp->pp = pp;
    gp->started = gp->pinned = 1;
    return (int)g_of(gp)->id;
}

static bool
is_idle(uint32_t id)
{
    return atomic_load(&sched->idle[id / 64]) >> id % 64 & 1;
}

static int
idle_bits(void)
{
    int n = 0;
    for (int i = 0; i < RT_MAX_P / 64; i++)
        n += __builtin_popcountll(atomic_load(&sched->idle[i]));
    return n;
}

/* ---- local queues ---- */

static void
fresh_ones_run_in_order(void)
{
    setup(1, 1);
    for (uint32_t i = 0; i < 3; i++)
        rt_p_put_fresh(ps[0], G(i));
    for (int i = 0; i < 3; i++)
        CHECK_EQ(find(ps[0]), i);
    CHECK(!rt_p_runnable(ps[0]));
    CHECK_EQ(atomic_load(&ps[0]->count.ticks), 3);
    teardown();
}

static void
full_ring_moves_half_to_global_and_back(void)
{
    setup(1, 1);
    uint32_t n = 3 * CAP + CAP / 2;
    for (uint32_t i = 0; i < n; i++)
        rt_p_put_fresh(ps[0], G(i));
    CHECK(atomic_load(&ps[0]->count.overflows) > 0);
    CHECK_EQ(atomic_load(&sched->global.len) + rt_runq_len(&ps[0]->fresh), n);
    for (uint32_t i = 0; i < n; i++)
        CHECK(pool[find(ps[0])].begun++ == 0);
    CHECK(!rt_p_runnable(ps[0]));
    CHECK_EQ(atomic_load(&sched->global.len), 0);
    CHECK(atomic_load(&ps[0]->count.global) > 0);
    teardown();
}

static void
spare_with_a_full_ring_keeps_what_it_was_given(void)
{
    setup(1, 1);
    rt_p *spare = new_p(RT_SPARE_P);
    for (uint32_t i = 0; i < 3 * CAP; i++)
        rt_p_submit(spare, G(i));
    for (uint32_t i = 0; i < 3 * CAP; i++) {
        CHECK_EQ(find(spare), i);
        CHECK_EQ(atomic_load(&sched->global.len), 0);
    }
    CHECK_EQ(atomic_load(&spare->count.inbox), 3 * CAP);
    CHECK(!rt_p_runnable(spare));
    teardown();
}

static void
kinds_take_turns_as_long_as_the_queue_was(void)
{
    setup(1, 1);
    rt_p_put_fresh(ps[0], G(0));
    rt_p_put_fresh(ps[0], G(1));
    rt_p_put_pinned(ps[0], ps[0], G(10));
    rt_p_put_pinned(ps[0], ps[0], G(11));
    CHECK_EQ(find(ps[0]), 0);
    rt_p_put_fresh(ps[0], G(2));
    CHECK_EQ(find(ps[0]), 1);
    CHECK_EQ(find(ps[0]), 10);
    rt_p_put_pinned(ps[0], ps[0], G(12));
    CHECK_EQ(find(ps[0]), 11);
    CHECK_EQ(find(ps[0]), 2);
    CHECK_EQ(find(ps[0]), 12);
    teardown();
}

static void
thieves_may_end_a_turn(void)
{
    setup(2, 2);
    for (uint32_t i = 0; i < 4; i++)
        rt_p_put_fresh(ps[0], G(i));
    rt_p_put_pinned(ps[0], ps[0], G(10));
    CHECK_EQ(find(ps[0]), 0);
    while (rt_runq_steal(&ps[0]->fresh, &ps[1]->fresh) != NULL)
        while (rt_runq_get(&ps[1]->fresh) != NULL)
            ;
    CHECK_EQ(find(ps[0]), 10);
    rt_p_put_fresh(ps[0], G(5));
    CHECK_EQ(find(ps[0]), 5);
    teardown();
}

static void
runnext_goes_first_and_what_it_displaces_last(void)
{
    setup(1, 1);
    rt_p_put_pinned(ps[0], ps[0], G(0));
    for (uint32_t i = 1; i < 4; i++) {
        rt_g *gp = begun(ps[0], i);
        rt_g_arm(gp);
        CHECK(rt_g_claim(gp, RT_WAKE_READY));
        rt_ready(ps[0], gp, i != 3);
        CHECK_EQ(atomic_load(&gp->status), RT_G_RUNNABLE);
    }
    CHECK_EQ(find(ps[0]), 2);
    CHECK_EQ(find(ps[0]), 0);
    CHECK_EQ(find(ps[0]), 1);
    CHECK_EQ(find(ps[0]), 3);
    CHECK_EQ(atomic_load(&ps[0]->count.runnext), 1);
    teardown();
}

static void
runnext_cannot_starve_the_queue(void)
{
    setup(1, 1);
    begun(ps[0], 0), begun(ps[0], 1);
    rt_p_put_pinned(ps[0], ps[0], G(2));
    rt_ready(ps[0], G(0), true);
    int finds = 0, at;
    /* Two that keep waking each other. */
    for (; (at = find(ps[0])) != 2; finds++) {
        CHECK(at == 0 || at == 1);
        rt_ready(ps[0], G(1 - (uint32_t)at), true);
    }
    CHECK_EQ(finds, RT_RUNNEXT_MAX);
    teardown();
}

static uint32_t rng_state;

static uint32_t
rnd(uint32_t n)
{
    rng_state ^= rng_state << 13, rng_state ^= rng_state >> 17, rng_state ^= rng_state << 5;
    return rng_state % n;
}

/* Whoever yields comes after all that are queued then, whatever the state of turns. */
static void
yielding_lets_all_queued_run_first(void)
{
    enum { MANY = 64 };
    for (uint32_t round = 0; round < 300; round++) {
        setup(1, 1);
        /* after[i]: a bit for each that must run before i; 0: i does not wait. */
        uint64_t queued = 0, after[MANY] = {0};
        uint32_t made = 0;
        int runs = -1;
        for (int op = 0; op < 200; op++) {
            uint32_t what = rnd(6);
            if (what < 3 && made < MANY && rt_runq_len(&ps[0]->fresh) < CAP) {
                if (what == 0)
                    rt_p_put_pinned(ps[0], ps[0], G(made));
                else
                    rt_p_put_fresh(ps[0], G(made));
                queued |= UINT64_C(1) << made++;
                continue;
            }
            if (runs >= 0 && what == 3) {
                after[runs] = queued;
                rt_p_put_yielded(ps[0], G((uint32_t)runs));
                queued |= UINT64_C(1) << runs;
                runs = -1;
            }
            if (queued != 0 && (runs < 0 || what == 4)) {
                runs = find(ps[0]);
                queued &= ~(UINT64_C(1) << runs);
                CHECK_EQ(after[runs], 0);
                for (int i = 0; i < MANY; i++)
                    after[i] &= ~(UINT64_C(1) << runs);
            }
        }
        teardown();
    }
}

/* ---- fair ticks ---- */

/* With a queue that is never empty: how many finds until `wanted` comes. */
static int
finds_until(rt_p *pp, int wanted, bool pinned)
{
    int n = 1, at;
    for (; (at = find(pp)) != wanted; n++) {
        CHECK(n < 20 * CAP + 1000);
        G((uint32_t)at)->started = G((uint32_t)at)->pinned = 0;
        if (pinned)
            rt_p_put_pinned(pp, pp, G((uint32_t)at));
        else
            rt_p_put_fresh(pp, G((uint32_t)at));
    }
    return n;
}

static void
global_queue_is_not_starved(void)
{
    /* By a ring with one in it, a half full one, and one that is always full. */
    for (uint32_t n = 1; n <= CAP; n += n < CAP / 2 ? CAP / 2 - 1 : CAP / 2) {
        setup(1, 1);
        for (uint32_t i = 0; i < n; i++)
            rt_p_put_fresh(ps[0], G(i));
        rt_sched_put(sched, G(1000));
        CHECK(finds_until(ps[0], 1000, false) <= FAIR + 2 * CAP);
        teardown();
    }
}

static void
inbox_is_not_starved(void)
{
    setup(1, 1);
    rt_p *other = new_p(1);
    rt_p_put_fresh(ps[0], G(0));
    rt_ready(other, begun(ps[0], 1000), true);
    CHECK(finds_until(ps[0], 1000, false) <= FAIR + 2);
    CHECK_EQ(atomic_load(&ps[0]->count.inbox), 1);
    teardown();
}

static rt_pd pd;
static uint32_t pd_modes;

static void
pd_ready(rt_pd *d, uint32_t mode)
{
    CHECK(d == &pd);
    pd_modes |= mode;
    rt_ready(d->pp, begun(d->pp, 1000), false);
}

static void
poller_is_not_starved(void)
{
    int fds[2];
    setup(1, 1);
    CHECK(pipe2(fds, O_NONBLOCK) == 0);
    pd_modes = 0;
    CHECK_EQ(rt_pd_open(&pd, ps[0], fds[0], pd_ready), 0);
    CHECK_EQ(write(fds[1], "x", 1), 1);
    rt_p_put_fresh(ps[0], G(0));
    CHECK(finds_until(ps[0], 1000, false) <= FAIR + 2);
    CHECK(pd_modes & RT_POLL_IN);
    rt_pd_close(&pd);
    CHECK_EQ(ps[0]->npd, 0);
    close(fds[0]), close(fds[1]);
    teardown();
}

static void
fire_ready(rt_timer *t)
{
    tg *gp = RT_CONTAINER_OF(t, tg, timer);
    if (rt_g_claim(&gp->g, RT_WAKE_TIMEOUT))
        rt_ready(gp->g.pp, &gp->g, false);
}

static void
timers_are_not_starved(void)
{
    setup(1, 1);
    begun(ps[0], 1000);
    rt_g_arm(G(1000));
    pool[1000].timer = (rt_timer){.when = rt_nanotime(), .fire = fire_ready};
    CHECK_EQ(rt_timers_start(&ps[0]->timers, &pool[1000].timer), 0);
    rt_p_put_fresh(ps[0], G(0));
    CHECK(finds_until(ps[0], 1000, false) <= 16 + 2);
    CHECK_EQ(atomic_load(&G(1000)->wake), RT_WAKE_TIMEOUT);
    CHECK_EQ(atomic_load(&ps[0]->count.timers_fired), 1);
    teardown();
}

static void
look_soon_makes_the_next_find_look_everywhere(void)
{
    for (uint32_t before = 0; before < 200; before += 7) {
        setup(1, 1);
        rt_p_put_fresh(ps[0], G(0));
        for (uint32_t i = 0; i < before; i++) {
            CHECK_EQ(find(ps[0]), 0);
            G(0)->started = G(0)->pinned = 0;
            rt_p_put_fresh(ps[0], G(0));
        }
        begun(ps[0], 1);
        rt_g_arm(G(1));
        pool[1].timer = (rt_timer){.when = rt_nanotime(), .fire = fire_ready};
        CHECK_EQ(rt_timers_start(&ps[0]->timers, &pool[1].timer), 0);
        rt_sched_put(sched, G(2));
        rt_p_look_soon(ps[0]);
        find(ps[0]);
        CHECK_EQ(atomic_load(&ps[0]->count.timers_fired), 1);
        CHECK_EQ(atomic_load(&ps[0]->count.global), 1);
        teardown();
    }
}

/* ---- parking ---- */

static void
one_claim_wins(void)
{
    setup(1, 1);
    rt_g *gp = begun(ps[0], 0);
    CHECK(!rt_g_claim(gp, RT_WAKE_READY));      /* it does not wait */
    rt_g_arm(gp);
    CHECK_EQ(atomic_load(&gp->status), RT_G_WAITING);
    CHECK(rt_g_claim(gp, RT_WAKE_TIMEOUT));
    CHECK(!rt_g_claim(gp, RT_WAKE_READY));
    CHECK(!rt_g_claim(gp, RT_WAKE_INTERRUPT));
    CHECK_EQ(atomic_load(&gp->wake), RT_WAKE_TIMEOUT);
    CHECK(!rt_g_disarm(gp));
    rt_ready(ps[0], gp, false);
    CHECK_EQ(find(ps[0]), 0);
    rt_g_arm(gp);
    CHECK(rt_g_disarm(gp));
    CHECK_EQ(atomic_load(&gp->status), RT_G_RUNNING);
    CHECK(!rt_g_claim(gp, RT_WAKE_INTERRUPT));
    teardown();
}

static void
foreign_one_is_unparked_by_the_host(void)
{
    setup(1, 1);
    G(0)->foreign = 1;
    G(0)->pp = ps[0];
    rt_ready(ps[0], G(0), true);
    rt_ready(NULL, G(0), false);
    CHECK_EQ(host.unparked, 2);
    CHECK(!rt_p_runnable(ps[0]));
    teardown();
}

static void
ready_from_elsewhere_goes_to_the_inbox_and_wakes(void)
{
    setup(2, 2);
    rt_poll_event ev[4];
    rt_ready(ps[1], begun(ps[0], 0), true);
    rt_ready(NULL, begun(ps[0], 1), true);
    CHECK(!rt_inbox_empty(&ps[0]->inbox));
    CHECK(ps[0]->runnext == NULL);
    /* Nobody slept: no wake-up is left in the poller. */
    CHECK_EQ(find(ps[0]), 0);
    CHECK_EQ(find(ps[0]), 1);
    atomic_store(&ps[0]->sleeping, RT_SLEEPING);
    rt_p_put_pinned(ps[1], ps[0], G(2));
    CHECK_EQ(atomic_load(&ps[0]->sleeping), RT_AWAKE);
    CHECK_EQ(sched->netpoll->wait(ps[0]->np, ev, 4, -1, NULL), 0);
    CHECK_EQ(find(ps[0]), 2);
    /* One that has yet to fall asleep is only told so. */
    atomic_store(&ps[0]->sleeping, RT_DOZING);
    rt_p_submit(ps[0], begun(ps[0], 3));
    CHECK_EQ(rt_p_poll(ps[0], RT_FOREVER, NULL), 0);
    atomic_store(&ps[0]->sleeping, RT_AWAKE);
    CHECK_EQ(find(ps[0]), 3);
    teardown();
}

/* ---- sleeping ---- */

static uint32_t block_gives;

static void
block_then_submit(rt_p *pp)
{
    CHECK_EQ(atomic_load(&pp->sleeping), RT_DOZING);
    CHECK_EQ(is_idle(pp->id < RT_MAX_P ? pp->id : 0), atomic_load(&pp->mode) == RT_P_OPEN);
    CHECK_EQ(atomic_load(&sched->nidle), idle_bits());
    CHECK(!pp->spinning);
    rt_p_submit(pp, begun(pp, block_gives));
    CHECK_EQ(rt_p_poll(pp, host.timeout, NULL), 0);
}

static void
find_sleeps_until_it_is_given_something(void)
{
    setup(1, 1);
    host.on_block = block_then_submit;
    block_gives = 7;
    CHECK_EQ(find(ps[0]), 7);
    CHECK_EQ(host.blocks, 1);
    CHECK_EQ(host.timeout, RT_FOREVER);
    CHECK_EQ(atomic_load(&ps[0]->sleeping), RT_AWAKE);
    CHECK_EQ(idle_bits(), 0);
    CHECK_EQ(atomic_load(&sched->nidle), 0);
    CHECK_EQ(atomic_load(&sched->nspinning), 0);
    CHECK_EQ(atomic_load(&ps[0]->count.blocking_polls), 1);
    teardown();
}

static bool
quiet_twice(rt_p *pp)
{
    if (host.quiets == 2)
        rt_ready(pp, begun(pp, 8), false);
    return host.quiets <= 2;
}

static void
quiet_p_asks_the_host_before_it_sleeps_and_now_and_then(void)
{
    setup(1, 1);
    ps[0]->nbubbles = 1;
    host.on_quiet = quiet_twice;
    CHECK_EQ(find(ps[0]), 8);
    CHECK_EQ(host.quiets, 2);
    host.on_block = block_then_submit;
    block_gives = 7;
    CHECK_EQ(find(ps[0]), 7);               /* it says no: sleep */
    CHECK_EQ(host.quiets, 3);
    CHECK_EQ(host.blocks, 1);
    int before = host.busies;
    for (int i = 0; i < 2 * FAIR; i++) {
        rt_p_put_yielded(ps[0], G(7));
        CHECK_EQ(find(ps[0]), 7);
    }
    CHECK_EQ(host.busies, before + 2);
    CHECK_EQ(host.quiets, 3);
    ps[0]->nbubbles = 0;
    teardown();
}

static void
block_for_real(rt_p *pp)
{
    CHECK_EQ(rt_p_poll(pp, host.timeout, NULL), 0);
}

static void
find_sleeps_until_the_first_timer(void)
{
    setup(1, 1);
    host.on_block = block_for_real;
    for (uint32_t i = 0; i < 2; i++) {
        begun(ps[0], i);
        rt_g_arm(G(i));
        pool[i].timer = (rt_timer){.when = rt_nanotime() + (i ? 20000000 : SECOND * 3600),
                                   .fire = fire_ready};
        CHECK_EQ(rt_timers_start(&ps[0]->timers, &pool[i].timer), 0);
    }
    CHECK_EQ(find(ps[0]), 1);
    CHECK(rt_nanotime() >= pool[1].timer.when);
    CHECK(host.blocks >= 1);
    CHECK(host.timeout > 0 && host.timeout <= 20000000);
    CHECK(rt_timers_stop(&ps[0]->timers, &pool[0].timer));
    teardown();
}

static void
fire_alarm(rt_timer *t)
{
    tg *gp = RT_CONTAINER_OF(t, tg, timer);
    if (rt_g_claim(&gp->g, RT_WAKE_TIMEOUT))
        rt_ready(NULL, &gp->g, false);
}

static void
start_alarm(rt_p *pp, uint32_t i, int64_t when)
{
    begun(pp, i);
    rt_g_arm(G(i));
    pool[i].timer = (rt_timer){.fire = fire_alarm};
    rt_p_start_alarm(&pp->alarms, &pool[i].timer, when);
}

static void
find_sleeps_until_the_first_alarm_or_timer(void)
{
    setup(1, 1);
    host.on_block = block_for_real;
    int64_t now = rt_nanotime();
    start_alarm(ps[0], 0, now + SECOND * 3600);
    start_alarm(ps[0], 1, now + 40000000);
    begun(ps[0], 2);
    rt_g_arm(G(2));
    pool[2].timer = (rt_timer){.when = now + 20000000, .fire = fire_ready};
    CHECK_EQ(rt_timers_start(&ps[0]->timers, &pool[2].timer), 0);
    CHECK_EQ(find(ps[0]), 2);
    CHECK_EQ(find(ps[0]), 1);
    CHECK(rt_nanotime() >= now + 40000000);
    CHECK(host.timeout > 0 && host.timeout <= 40000000);
    CHECK_EQ(atomic_load(&ps[0]->count.timers_fired), 2);
    CHECK(rt_alarms_stop(&ps[0]->alarms, &pool[0].timer));
    teardown();
}

static void
block_then_alarm(rt_p *pp)
{
    start_alarm(pp, 0, rt_nanotime());      /* from another thread, as it were */
    CHECK_EQ(rt_p_poll(pp, host.timeout, NULL), 0);
}

static void
alarm_wakes_who_sleeps_longer(void)
{
    setup(1, 1);
    start_alarm(ps[0], 1, rt_nanotime() + SECOND * 3600);
    host.on_block = block_then_alarm;
    CHECK_EQ(find(ps[0]), 0);
    CHECK_EQ(host.blocks, 1);
    atomic_store(&ps[0]->sleeping, RT_SLEEPING);
    start_alarm(ps[0], 2, rt_nanotime() + SECOND * 7200);   /* it wakes up before, anyhow */
    CHECK_EQ(atomic_load(&ps[0]->sleeping), RT_SLEEPING);
    start_alarm(ps[0], 3, rt_nanotime() + SECOND * 1800);
    CHECK_EQ(atomic_load(&ps[0]->sleeping), RT_AWAKE);
    for (uint32_t i = 1; i <= 3; i++)
        CHECK(rt_alarms_stop(&ps[0]->alarms, &pool[i].timer));
    teardown();
}

static void
alarms_of_a_lent_p_are_run_by_who_is_idle(void)
{
    setup(1, 1);
    rt_p *spare = new_p(RT_SPARE_P);
    host.on_block = block_for_real;
    int64_t now = rt_nanotime();
    start_alarm(ps[0], 0, now);
    start_alarm(ps[0], 1, now + SECOND * 3600);
    start_alarm(spare, 2, now + 20000000);
    CHECK_EQ(find(spare), 2);                   /* not its business */
    CHECK(rt_alarms_has(&ps[0]->alarms, &pool[0].timer));
    rt_sched_lend(ps[0]);
    start_alarm(spare, 3, now + 80000000);
    start_alarm(ps[0], 4, now + 40000000);
    CHECK_EQ(find(spare), 3);                   /* the other two were ps[0]'s */
    CHECK(!rt_alarms_has(&ps[0]->alarms, &pool[0].timer));
    CHECK(!rt_alarms_has(&ps[0]->alarms, &pool[4].timer));
    CHECK_EQ(find(ps[0]), 0);
    CHECK_EQ(find(ps[0]), 4);
    CHECK(rt_alarms_stop(&ps[0]->alarms, &pool[1].timer));
    teardown();
}

static void
spinning_m_sees_a_wake_up_before_it_sleeps(void)
{
    setup(1, 1);
    sched->spin_ns = SECOND * 3600;             /* it would not come to its poller */
    host.on_block = block_then_submit;
    block_gives = 3;
    CHECK_EQ(find(ps[0]), 3);
    teardown();
}

static void
closed_and_spare_ps_do_not_count_as_idle(void)
{
    setup(2, 2);
    rt_p *spare = new_p(RT_SPARE_P);
    rt_sched_set_procs(sched, 1);
    host.on_block = block_then_submit;
    block_gives = 0;
    CHECK_EQ(find(ps[1]), 0);
    CHECK_EQ(find(spare), 0);
    CHECK_EQ(host.blocks, 2);
    CHECK_EQ(idle_bits(), 0);
    teardown();
}

/* ---- waking Ms ---- */

static void
put_starts_one_m_at_a_time(void)
{
    setup(4, 1);
    CHECK_EQ(atomic_load(&sched->nidle), 3);
    rt_p_put_fresh(ps[0], G(0));
    rt_p_put_fresh(ps[0], G(1));
    CHECK_EQ(host.nstarts, 1);
    CHECK_EQ(host.starts[0], 1);
    CHECK_EQ(atomic_load(&sched->nspinning), 1);
    CHECK_EQ(atomic_load(&sched->nidle), 2);
    CHECK(!is_idle(1) && is_idle(2) && is_idle(3));
    /* It finds some: now another may be started. */
    rt_p *pp = rt_test_zeroed(sizeof(*pp));
    CHECK_EQ(rt_p_init(pp, sched, 1, true), 0);
    ps[nps++] = pp;
    CHECK_EQ(find(pp), 0);
    CHECK(!pp->spinning);
    CHECK_EQ(host.nstarts, 2);
    CHECK_EQ(host.starts[1], 2);
    CHECK_EQ(atomic_load(&sched->nspinning), 1);
    CHECK_EQ(atomic_load(&pp->count.steals), 1);
    CHECK_EQ(atomic_load(&pp->count.stolen), 1);
    teardown();
}

static void
m_that_cannot_be_started_stays_idle(void)
{
    setup(4, 1);
    host.start_rc = -EAGAIN;
    rt_p_put_fresh(ps[0], G(0));
    CHECK_EQ(host.nstarts, 3);                  /* each was tried */
    CHECK_EQ(atomic_load(&sched->nspinning), 0);
    CHECK_EQ(atomic_load(&sched->nidle), 3);
    CHECK_EQ(idle_bits(), 3);
    rt_sched_put(sched, G(1));
    CHECK_EQ(host.nstarts, 6);
    CHECK_EQ(find(ps[0]), 0);
    CHECK_EQ(find(ps[0]), 1);
    teardown();
}

static void
sleeping_m_is_woken_where_another_cannot_be_started(void)
{
    setup(3, 1);
    rt_p *pp = new_p(2);
    host.start_rc = -EAGAIN;
    atomic_fetch_or(&sched->idle[0], 4);        /* as if it slept */
    atomic_fetch_add(&sched->nidle, 1);
    atomic_store(&pp->sleeping, RT_SLEEPING);
    rt_p_put_fresh(ps[0], G(0));
    CHECK_EQ(atomic_load(&pp->sleeping), RT_AWAKE);
    CHECK(!is_idle(2) && is_idle(1));
    CHECK_EQ(atomic_load(&sched->nspinning), 1);
    CHECK_EQ(atomic_load(&sched->nidle), 1);
    teardown();
}

static void
m_is_started_on_demand_once(void)
{
    setup(3, 1);
    rt_sched_start(sched, 2);
    CHECK_EQ(host.nstarts, 1);
    CHECK_EQ(host.starts[0], 2);
    CHECK(is_idle(1) && !is_idle(2));
    CHECK_EQ(atomic_load(&sched->nidle), 1);
    CHECK_EQ(atomic_load(&sched->nspinning), 1);
    rt_sched_start(sched, 2);                   /* it is being started */
    rt_sched_start(sched, 0);                   /* it was, long ago */
    CHECK_EQ(host.nstarts, 1);
    CHECK_EQ(atomic_load(&sched->nspinning), 1);
    teardown();
}

static void
m_that_cannot_be_started_on_demand_stays_idle(void)
{
    setup(3, 1);
    host.start_rc = -EAGAIN;
    rt_sched_start(sched, 2);
    CHECK(is_idle(1) && is_idle(2));
    CHECK_EQ(atomic_load(&sched->nidle), 2);
    CHECK_EQ(atomic_load(&sched->nspinning), 0);
    teardown();
}

static void
m_being_started_keeps_its_bit_while_gomaxprocs_changes(void)
{
    setup(3, 1);
    rt_sched_start(sched, 1);
    rt_sched_set_procs(sched, 1);
    rt_sched_set_procs(sched, 3);
    CHECK(!is_idle(1) && is_idle(2));
    new_p(1)->spinning = true;
    rt_sched_set_procs(sched, 1);
    rt_sched_set_procs(sched, 3);
    CHECK(!is_idle(1) && is_idle(2));
    CHECK_EQ(atomic_load(&sched->nidle), 1);
    CHECK_EQ(atomic_load(&sched->nspinning), 1);
    teardown();
}

static void
one_p_wakes_nobody(void)
{
    setup(1, 1);
    rt_p_put_fresh(ps[0], G(0));
    rt_sched_put(sched, G(1));
    CHECK_EQ(host.nstarts, 0);
    CHECK_EQ(atomic_load(&sched->nspinning), 0);
    teardown();
}

static void
woken_m_counts_as_spinning_until_it_sleeps_again(void)
{
    setup(2, 2);
    host.on_block = block_then_submit;
    block_gives = 5;
    ps[1]->spinning = true;                     /* as if wake_one() had */
    atomic_store(&sched->nspinning, 1);
    CHECK_EQ(find(ps[1]), 5);
    CHECK_EQ(atomic_load(&sched->nspinning), 0);
    teardown();
}

/* ---- stealing ---- */

static void
thief_takes_half_and_runs_the_oldest(void)
{
    setup(2, 2);
    for (uint32_t i = 0; i < CAP; i++)
        rt_p_put_fresh(ps[0], G(i));
    CHECK_EQ(find(ps[1]), 0);
    CHECK_EQ(rt_runq_len(&ps[1]->fresh), CAP / 2 - 1);
    CHECK_EQ(rt_runq_len(&ps[0]->fresh), CAP / 2);
    CHECK_EQ(atomic_load(&ps[1]->count.stolen), CAP / 2);
    CHECK_EQ(atomic_load(&ps[1]->count.steals), 1);
    CHECK_EQ(atomic_load(&sched->nspinning), 0);
    for (uint32_t i = 1; i < CAP / 2; i++)
        CHECK_EQ(find(ps[1]), i);
    CHECK_EQ(find(ps[0]), CAP / 2);
    teardown();
}

static void
enough_thieves_are_enough(void)
{
    setup(4, 2);
    rt_p_put_fresh(ps[0], G(0));
    /* Two are busy, two idle; one spins already: half of the busy ones. */
    CHECK_EQ(atomic_load(&sched->nspinning), 1);
    CHECK_EQ(atomic_load(&sched->nidle), 1);
    atomic_store(&sched->nidle, 2);
    host.on_block = block_then_submit;
    block_gives = 9;
    /* It does not steal right away; but it does not sleep on work that it sees, either. */
    CHECK_EQ(find(ps[1]), 0);
    CHECK_EQ(host.blocks, 0);
    CHECK_EQ(atomic_load(&ps[1]->count.steals), 1);
    teardown();
}

static void
pinned_ones_are_never_stolen(void)
{
    setup(2, 2);
    rt_p_put_pinned(ps[0], ps[0], G(0));
    rt_ready(ps[0], begun(ps[0], 1), true);
    rt_ready(NULL, begun(ps[0], 2), true);
    host.on_block = block_then_submit;
    block_gives = 9;
    CHECK_EQ(find(ps[1]), 9);
    CHECK_EQ(find(ps[0]), 1);
    CHECK_EQ(find(ps[0]), 0);
    CHECK_EQ(find(ps[0]), 2);
    teardown();
}

/* ---- GOMAXPROCS ---- */

static void
set_procs_keeps_the_idle_mask(void)
{
    setup(1, 1);
    host.start_rc = -EAGAIN;
    CHECK_EQ(rt_sched_set_procs(sched, 130), 1);
    CHECK_EQ(atomic_load(&sched->nidle), idle_bits());
    CHECK(!is_idle(0) && is_idle(64) && is_idle(129) && !is_idle(130));
    rt_p *pp = new_p(100);
    CHECK(!is_idle(100));
    CHECK_EQ(rt_sched_set_procs(sched, 2), 130);
    CHECK_EQ(atomic_load(&pp->mode), RT_P_CLOSED);
    CHECK_EQ(atomic_load(&sched->nidle), idle_bits());
    CHECK(!is_idle(2) && !is_idle(64) && !is_idle(129));
    CHECK_EQ(rt_sched_set_procs(sched, RT_MAX_P), 2);
    CHECK_EQ(atomic_load(&pp->mode), RT_P_OPEN);
    CHECK(is_idle(RT_MAX_P - 1) && !is_idle(100));
    CHECK_EQ(rt_sched_set_procs(sched, 1), RT_MAX_P);
    CHECK_EQ(idle_bits(), 0);
    CHECK_EQ(atomic_load(&sched->nidle), 0);
    teardown();
}

static void
growing_wakes_one_for_what_is_queued(void)
{
    setup(1, 1);
    rt_p_put_fresh(ps[0], G(0));
    CHECK_EQ(host.nstarts, 0);
    rt_sched_set_procs(sched, 3);
    CHECK_EQ(host.nstarts, 1);
    teardown();
}

static void
closed_p_gives_away_what_is_fresh_and_runs_the_rest(void)
{
    setup(2, 2);
    rt_p_put_fresh(ps[1], G(0));
    rt_p_put_pinned(ps[1], ps[1], G(1));
    rt_sched_set_procs(sched, 1);
    rt_p_look_soon(ps[1]);
    CHECK_EQ(find(ps[1]), 1);
    CHECK_EQ(rt_runq_len(&ps[1]->fresh), 0);
    CHECK_EQ(atomic_load(&sched->global.len), 1);
    rt_p_put_fresh(ps[1], G(2));
    CHECK_EQ(rt_runq_len(&ps[1]->fresh), 0);
    host.on_block = block_then_submit;
    block_gives = 3;
    CHECK_EQ(find(ps[1]), 3);                   /* not what is shared */
    CHECK_EQ(find(ps[0]), 0);
    CHECK_EQ(find(ps[0]), 2);
    teardown();
}

/* ---- locked and lent Ms ---- */

static void
locked_m_takes_nothing_fresh(void)
{
    setup(1, 1);
    rt_p_put_fresh(ps[0], G(0));
    rt_p_put_pinned(ps[0], ps[0], G(1));
    rt_p_lock(ps[0], 1);
    CHECK_EQ(atomic_load(&ps[0]->mode), RT_P_CLOSED);
    CHECK_EQ(atomic_load(&sched->nlent), 1);
    CHECK_EQ(host.nstarts, 1);
    CHECK_EQ(host.starts[0], RT_SPARE_P);
    rt_p_lock(ps[0], 1);
    CHECK_EQ(atomic_load(&sched->nlent), 1);
    rt_p_put_fresh(ps[0], G(2));
    CHECK_EQ(find(ps[0]), 1);
    host.on_block = block_then_submit;
    block_gives = 3;
    CHECK_EQ(find(ps[0]), 3);
    rt_p *spare = new_p(RT_SPARE_P);
    CHECK_EQ(find(spare), 0);
    CHECK_EQ(find(spare), 2);
    rt_p_put_fresh(spare, G(4));
    rt_p_lock(ps[0], -1);
    CHECK_EQ(atomic_load(&ps[0]->mode), RT_P_CLOSED);
    rt_p_lock(ps[0], -1);
    CHECK_EQ(atomic_load(&ps[0]->mode), RT_P_OPEN);
    CHECK_EQ(atomic_load(&sched->nlent), 0);
    CHECK_EQ(find(ps[0]), 4);
    teardown();
}

static void
p_locked_and_above_gomaxprocs_stays_closed(void)
{
    setup(2, 2);
    rt_p_lock(ps[1], 1);
    rt_sched_set_procs(sched, 1);
    rt_p_lock(ps[1], -1);
    CHECK_EQ(atomic_load(&ps[1]->mode), RT_P_CLOSED);
    rt_p_lock(ps[1], 1);
    rt_sched_set_procs(sched, 2);
    CHECK_EQ(atomic_load(&ps[1]->mode), RT_P_CLOSED);
    rt_p_lock(ps[1], -1);
    CHECK_EQ(atomic_load(&ps[1]->mode), RT_P_OPEN);
    teardown();
}

static void
lent_p_is_taken_back_by_find(void)
{
    setup(1, 1);
    rt_p *spare = new_p(RT_SPARE_P);
    host.on_block = block_then_submit;
    rt_p_put_fresh(ps[0], G(0));
    rt_sched_put(sched, G(1));
    block_gives = 10;
    CHECK_EQ(find(spare), 10);                  /* not yet */
    atomic_store(&spare->sleeping, RT_SLEEPING);
    rt_sched_lend(ps[0]);
    CHECK_EQ(atomic_load(&spare->sleeping), RT_AWAKE);
    rt_sched_lend(ps[0]);
    CHECK_EQ(atomic_load(&sched->nlent), 1);
    CHECK_EQ(find(spare), 1);
    CHECK_EQ(find(spare), 0);
    rt_p_put_fresh(ps[0], G(2));
    rt_p_put_fresh(ps[0], G(3));
    CHECK_EQ(find(ps[0]), 2);
    CHECK_EQ(atomic_load(&sched->nlent), 0);
    CHECK(!atomic_load(&ps[0]->lent));
    block_gives = 11;
    CHECK_EQ(find(spare), 11);
    teardown();
}

static void
spare_is_started_again_after_a_failure(void)
{
    setup(1, 1);
    host.start_rc = -EAGAIN;
    rt_sched_lend(ps[0]);
    host.start_rc = 0;
    rt_sched_lend(ps[0]);
    CHECK_EQ(host.nstarts, 2);
    CHECK_EQ(atomic_load(&sched->nlent), 1);
    teardown();
}

static void
spare_is_woken_once_all_others_are_busy(void)
{
    setup(2, 2);
    rt_p *spare = new_p(RT_SPARE_P);
    rt_sched_lend(ps[0]);
    atomic_store(&spare->sleeping, RT_SLEEPING);
    rt_p_put_fresh(ps[1], G(0));
    CHECK_EQ(atomic_load(&spare->sleeping), RT_AWAKE);
    CHECK_EQ(find(spare), 0);
    teardown();
}

/* ---- descriptors ---- */

static rt_pd pds[3];
static int pds_seen;

static void
close_the_others(rt_pd *d, uint32_t mode)
{
    (void)mode;
    pds_seen++;
    for (int i = 0; i < 3; i++)
        if (&pds[i] != d)
            rt_pd_close(&pds[i]);
}

static void
closed_descriptor_gets_no_more_events(void)
{
    int fds[3][2];
    setup(1, 1);
    for (int i = 0; i < 3; i++) {
        CHECK(pipe2(fds[i], O_NONBLOCK) == 0);
        CHECK_EQ(write(fds[i][1], "x", 1), 1);
        CHECK_EQ(rt_pd_open(&pds[i], ps[0], fds[i][0], close_the_others), 0);
    }
    CHECK_EQ(ps[0]->npd, 3);
    int n = rt_p_poll(ps[0], 0, NULL);
    CHECK_EQ(n, 3);
    rt_p_dispatch(ps[0], n);
    CHECK_EQ(pds_seen, 1);
    CHECK_EQ(ps[0]->npd, 1);
    CHECK_EQ(atomic_load(&ps[0]->count.poll_events), 1);
    for (int i = 0; i < 3; i++) {
        rt_pd_close(&pds[i]);
        rt_pd_close(&pds[i]);                   /* again: nothing happens */
        close(fds[i][0]), close(fds[i][1]);
    }
    CHECK_EQ(ps[0]->npd, 0);
    CHECK(rt_pd_open(&pds[0], ps[0], fds[0][0], close_the_others) < 0);
    CHECK_EQ(ps[0]->npd, 0);
    teardown();
}

static int64_t batch_times[3];

static void
note_batch_time(rt_pd *d, uint32_t mode)
{
    (void)mode;
    batch_times[pds_seen++] = rt_p_batch_time(d->pp);
    for (int64_t now = rt_nanotime(); rt_nanotime() == now;)
        ;
}

static void
events_of_a_batch_share_the_time_it_was_first_asked_for(void)
{
    int fds[3][2];
    setup(1, 1);
    pds_seen = 0;
    for (int i = 0; i < 3; i++) {
        CHECK(pipe2(fds[i], O_NONBLOCK) == 0);
        CHECK_EQ(write(fds[i][1], "x", 1), 1);
        CHECK_EQ(rt_pd_open(&pds[i], ps[0], fds[i][0], note_batch_time), 0);
    }
    int64_t before = rt_p_batch_time(ps[0]);
    rt_p_dispatch(ps[0], rt_p_poll(ps[0], 0, NULL));
    CHECK_EQ(pds_seen, 3);
    CHECK(before <= batch_times[0]);
    CHECK_EQ(batch_times[1], batch_times[0]);
    CHECK_EQ(batch_times[2], batch_times[0]);
    CHECK(rt_p_batch_time(ps[0]) > batch_times[0]);     /* there is none any more */
    for (int i = 0; i < 3; i++) {
        rt_pd_close(&pds[i]);
        close(fds[i][0]), close(fds[i][1]);
    }
    teardown();
}

/* ---- the rest ---- */

static void
stopwatch_shows_what_goes_on_and_never_goes_down(void)
{
    rt_stopwatch watch = 0;
    int64_t seen = 0, began = rt_nanotime();
    for (int i = 0; i < 1000; i++) {
        rt_stopwatch_start(&watch, rt_nanotime());
        for (int k = 0; k < 3; k++) {
            int64_t now = rt_stopwatch_read(&watch);
            CHECK(now >= seen);
            seen = now;
        }
        rt_stopwatch_stop(&watch, rt_nanotime());
        CHECK(rt_stopwatch_read(&watch) >= seen);
        seen = rt_stopwatch_read(&watch);
        CHECK_EQ(rt_stopwatch_read(&watch), seen);      /* it stands still */
    }
    CHECK(seen > 0 && seen <= rt_nanotime() - began);
}

static void
has_work_sees_each_source(void)
{
    setup(2, 2);
    rt_p *pp = ps[1];
    CHECK(!rt_p_has_work(pp) && !rt_p_runnable(pp));
    rt_p_put_fresh(pp, G(0));
    CHECK(rt_p_has_work(pp) && rt_p_runnable(pp));
    CHECK_EQ(find(pp), 0);
    rt_p_put_pinned(pp, pp, G(1));
    CHECK(rt_p_has_work(pp) && rt_p_runnable(pp));
    CHECK_EQ(find(pp), 1);
    rt_ready(pp, G(1), true);
    CHECK(rt_p_has_work(pp) && rt_p_runnable(pp));
    CHECK_EQ(find(pp), 1);
    rt_ready(NULL, G(1), true);
    CHECK(rt_p_has_work(pp) && rt_p_runnable(pp));
    CHECK_EQ(find(pp), 1);
    rt_sched_put(sched, G(2));
    CHECK(rt_p_has_work(pp) && !rt_p_runnable(pp));
    rt_sched_set_procs(sched, 1);
    CHECK(!rt_p_has_work(pp));
    rt_sched_set_procs(sched, 2);
    CHECK_EQ(find(pp), 2);
    rt_g_arm(G(1));
    pool[1].timer = (rt_timer){.when = rt_nanotime() + SECOND * 3600, .fire = fire_ready};
    CHECK_EQ(rt_timers_start(&pp->timers, &pool[1].timer), 0);
    CHECK(rt_p_has_work(pp) && !rt_p_runnable(pp));
    rt_timers_stop(&pp->timers, &pool[1].timer);
    CHECK(!rt_p_has_work(pp));
    int fds[2];
    CHECK(pipe2(fds, O_NONBLOCK) == 0);
    CHECK_EQ(rt_pd_open(&pd, pp, fds[0], pd_ready), 0);
    CHECK(rt_p_has_work(pp) && !rt_p_runnable(pp));
    rt_pd_close(&pd);
    CHECK(!rt_p_has_work(pp));
    close(fds[0]), close(fds[1]);
    teardown();
}

static void
after_fork_only_the_forking_p_is_left(void)
{
    int fds[2];
    setup(3, 3);
    rt_p *me = ps[2];
    for (uint32_t i = 0; i < 3; i++)
        rt_p_put_fresh(ps[i], G(i));
    rt_sched_put(sched, G(3));
    rt_p_put_pinned(me, me, G(4));
    rt_ready(me, begun(me, 5), true);
    rt_ready(NULL, begun(me, 6), true);
    begun(me, 7);
    rt_g_arm(G(7));
    pool[7].timer = (rt_timer){.when = rt_nanotime(), .fire = fire_ready};
    CHECK_EQ(rt_timers_start(&me->timers, &pool[7].timer), 0);
    CHECK(pipe2(fds, O_NONBLOCK) == 0);
    CHECK_EQ(rt_pd_open(&pd, me, fds[0], pd_ready), 0);
    start_alarm(me, 8, rt_nanotime());
    start_alarm(ps[0], 9, rt_nanotime());
    rt_p_lock(me, 1);
    rt_sched_lend(me);
    atomic_store(&sched->nspinning, 2);
    atomic_store(&me->sleeping, RT_SLEEPING);
    rt_netpoll *one;
    int count = rt_test_open_fds();
    CHECK_EQ(sched->netpoll->open(&one), 0);
    int each = rt_test_open_fds() - count;
    sched->netpoll->close(one);
    rt_timer_slot *slots[] = {me->alarms.heap.slots, ps[0]->alarms.heap.slots};

    CHECK_EQ(rt_sched_after_fork(sched, me), 0);
    free(slots[0]), free(slots[1]);             /* left alone: others may have been at it */
    CHECK_EQ(rt_test_open_fds(), count - 2 * each);     /* the pollers of the other two are closed */
    CHECK_EQ(me->id, 0);
    CHECK_EQ(atomic_load(&me->mode), RT_P_OPEN);
    CHECK_EQ(atomic_load(&sched->nprocs), 3);
    CHECK_EQ(atomic_load(&sched->nallp), 1);
    CHECK(atomic_load(&sched->by_id[0]) == me && atomic_load(&sched->by_id[2]) == NULL);
    CHECK(!is_idle(0) && is_idle(1) && is_idle(2));
    CHECK_EQ(atomic_load(&sched->nidle), 2);
    CHECK_EQ(atomic_load(&sched->nspinning), 0);
    CHECK_EQ(atomic_load(&sched->nlent), 0);
    CHECK_EQ(atomic_load(&sched->global.len), 0);
    CHECK(!rt_p_has_work(me) && !rt_p_runnable(me));
    CHECK_EQ(me->npd, 0);
    CHECK(!rt_alarms_stop(&me->alarms, &pool[8].timer));
    CHECK(!rt_alarms_stop(&ps[0]->alarms, &pool[9].timer));
    /* It works: and starts others again. */
    host.nstarts = 0;
    rt_p_put_fresh(me, G(20));
    CHECK_EQ(host.nstarts, 1);
    CHECK_EQ(host.starts[0], 1);
    CHECK_EQ(find(me), 20);
    host.on_block = block_then_submit;
    block_gives = 21;
    CHECK_EQ(find(me), 21);
    close(fds[0]), close(fds[1]);
    teardown();
}

static void
after_fork_of_a_foreign_thread_there_is_no_p(void)
{
    setup(2, 2);
    CHECK_EQ(rt_sched_after_fork(sched, NULL), 0);
    CHECK_EQ(atomic_load(&sched->nallp), 0);
    CHECK_EQ(atomic_load(&sched->nidle), 1);
    rt_p *pp = new_p(0);
    rt_p_put_fresh(pp, G(0));
    CHECK_EQ(find(pp), 0);
    teardown();
}

static int
no_poller(rt_netpoll **out)
{
    (void)out;
    return -EMFILE;
}

static void
without_a_poller_there_is_no_p(void)
{
    setup(1, 0);
    rt_netpoll_ops ops = *sched->netpoll;
    const rt_netpoll_ops *real = sched->netpoll;
    ops.open = no_poller;
    sched->netpoll = &ops;
    rt_p *pp = rt_test_zeroed(sizeof(*pp));
    CHECK_EQ(rt_p_init(pp, sched, 0, false), -EMFILE);
    CHECK_EQ(atomic_load(&sched->nallp), 0);
    CHECK(atomic_load(&sched->by_id[0]) == NULL);
    sched->netpoll = real;
    free(pp);
    teardown();
}

int
main(void)
{
    const char *given = getenv("RT_SEED");
    rng_state = (given ? (uint32_t)strtoul(given, NULL, 10) : (uint32_t)rt_nanotime()) | 1;
    printf("RT_SEED=%u\n", rng_state);
    RUN(fresh_ones_run_in_order);
    RUN(full_ring_moves_half_to_global_and_back);
    RUN(spare_with_a_full_ring_keeps_what_it_was_given);
    RUN(kinds_take_turns_as_long_as_the_queue_was);
    RUN(thieves_may_end_a_turn);
    RUN(runnext_goes_first_and_what_it_displaces_last);
    RUN(runnext_cannot_starve_the_queue);
    RUN(yielding_lets_all_queued_run_first);
    RUN(global_queue_is_not_starved);
    RUN(inbox_is_not_starved);
    RUN(poller_is_not_starved);
    RUN(timers_are_not_starved);
    RUN(look_soon_makes_the_next_find_look_everywhere);
    RUN(one_claim_wins);
    RUN(foreign_one_is_unparked_by_the_host);
    RUN(ready_from_elsewhere_goes_to_the_inbox_and_wakes);
    RUN(find_sleeps_until_it_is_given_something);
    RUN(quiet_p_asks_the_host_before_it_sleeps_and_now_and_then);
    RUN(find_sleeps_until_the_first_timer);
    RUN(find_sleeps_until_the_first_alarm_or_timer);
    RUN(alarm_wakes_who_sleeps_longer);
    RUN(alarms_of_a_lent_p_are_run_by_who_is_idle);
    RUN(spinning_m_sees_a_wake_up_before_it_sleeps);
    RUN(closed_and_spare_ps_do_not_count_as_idle);
    RUN(put_starts_one_m_at_a_time);
    RUN(m_that_cannot_be_started_stays_idle);
    RUN(sleeping_m_is_woken_where_another_cannot_be_started);
    RUN(m_is_started_on_demand_once);
    RUN(m_that_cannot_be_started_on_demand_stays_idle);
    RUN(m_being_started_keeps_its_bit_while_gomaxprocs_changes);
    RUN(one_p_wakes_nobody);
    RUN(woken_m_counts_as_spinning_until_it_sleeps_again);
    RUN(thief_takes_half_and_runs_the_oldest);
    RUN(enough_thieves_are_enough);
    RUN(pinned_ones_are_never_stolen);
    RUN(set_procs_keeps_the_idle_mask);
    RUN(growing_wakes_one_for_what_is_queued);
    RUN(closed_p_gives_away_what_is_fresh_and_runs_the_rest);
    RUN(locked_m_takes_nothing_fresh);
    RUN(p_locked_and_above_gomaxprocs_stays_closed);
    RUN(lent_p_is_taken_back_by_find);
    RUN(spare_is_started_again_after_a_failure);
    RUN(spare_is_woken_once_all_others_are_busy);
    RUN(closed_descriptor_gets_no_more_events);
    RUN(events_of_a_batch_share_the_time_it_was_first_asked_for);
    RUN(stopwatch_shows_what_goes_on_and_never_goes_down);
    RUN(has_work_sees_each_source);
    RUN(after_fork_only_the_forking_p_is_left);
    RUN(after_fork_of_a_foreign_thread_there_is_no_p);
    RUN(without_a_poller_there_is_no_p);
    return 0;
}
