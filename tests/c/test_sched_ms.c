/* test_sched_ms.c - several Ms of rt_sched.h at a time, at random.  Built with
 * RT_RUNQ_CAP=256 and 4.
 *
 * Each M is a thread; goroutines are structs with a step function, which is called again each
 * time they are found.  RT_SEED=N repeats a run as far as threads allow; the seed is printed.
 * An alarm ends the program, and says what is where, if a wake-up is lost.
 */
#include "rt_sched.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "rt_park.h"
#include "rt_test.h"

typedef struct tg tg;
typedef enum { DONE, YIELDS, PARKS } outcome;

struct tg {
    rt_g g;                     /* first */
    outcome (*step)(tg *);      /* NULL: the M shall end */
    uint32_t id;
    /* Of its M, once it has begun; plain on purpose: TSan sees to it that it is handed over. */
    bool running;
    uint32_t phase;
    uint32_t seed;
    uint32_t left;
    uint32_t parks;
    int locks;
    bool timed;
    struct sem *sem;            /* what it waits for, or has got */
    struct child *child;
    rt_timer timer;
    rt_parker *parker;          /* of a foreign one */
    tg *next_waiter;            /* guarded by sem->lock */
    bool queued;                /* likewise */
    _Atomic uint32_t begun, ended;
    _Atomic uint32_t wakes;     /* claims that have won */
};

static tg *
g_of(rt_g *gp)
{
    return (tg *)gp;
}

typedef struct {
    rt_p p;                     /* first */
    pthread_t thread;
    bool ok;                    /* guarded by w.start_lock */
    tg quit;
} tm;

static struct world {
    rt_sched sched;
    tm *ms[RT_MAX_P + 1];       /* all that were ever started */
    int nms;
    pthread_mutex_t start_lock; /* guards the two, and tm.ok */
    uint32_t start_fails;       /* how often of 100 */
    bool quitting;              /* no M is started any more */
    tg *gs;
    uint32_t ngs;
    _Atomic uint32_t next_g;
    _Atomic uint32_t live;
    const char *test;
} w;

static uint64_t seed;

static uint32_t
rnd_of(uint32_t *state, uint32_t n)
{
    uint32_t x = *state;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    *state = x;
    return x % n;
}

static uint32_t
seed_for(uint64_t what)
{
    uint64_t x = (seed + what) * UINT64_C(0x9e3779b97f4a7c15);
    x ^= x >> 29;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 32;
    return (uint32_t)x | 1;
}

/* Between two looks at what another thread is to do.  At first others are only let
   in between; where all processors are busy they need more room. */
static void
relax(uint32_t *looks)
{
    if (++*looks % 16 != 0)
        sched_yield();
    else
        nanosleep(&(struct timespec){0, 20000}, NULL);
}

static void
on_alarm(int sig)
{
    (void)sig;
    dprintf(2, "%s: hangs; RT_SEED=%llu\n", w.test, (unsigned long long)seed);
    dprintf(2, "nprocs %u nspinning %d nidle %d idle %#llx global %u nlent %u live %u\n",
            RT_LOAD(w.sched.nprocs), RT_LOAD(w.sched.nspinning), RT_LOAD(w.sched.nidle),
            (unsigned long long)RT_LOAD(w.sched.idle[0]), RT_LOAD(w.sched.global.len),
            RT_LOAD(w.sched.nlent), RT_LOAD(w.live));
    for (int i = 0; i < w.nms; i++)
        dprintf(2, "P%u: mode %d sleeping %d tick %u ring %u inbox %d\n", w.ms[i]->p.id,
                RT_LOAD(w.ms[i]->p.mode), RT_LOAD(w.ms[i]->p.sleeping),
                RT_LOAD(w.ms[i]->p.tick), rt_runq_len(&w.ms[i]->p.fresh),
                !rt_inbox_empty(&w.ms[i]->p.inbox));
    _exit(1);
}

static void
run(tm *mp, tg *gp)
{
    CHECK(!gp->running);
    gp->running = true;
    if (!gp->g.started) {
        CHECK_EQ(atomic_fetch_add(&gp->begun, 1), 0);
        CHECK(!gp->g.pinned || gp->g.pp == &mp->p);
        gp->g.started = gp->g.pinned = 1;
        gp->g.pp = &mp->p;
    }
    CHECK(gp->g.pp == &mp->p);
    RT_STORE(gp->g.status, RT_G_RUNNING);
    switch (gp->step(gp)) {
    case YIELDS:
        gp->running = false;
        RT_STORE(gp->g.wake, RT_WAKE_READY);
        rt_p_put_yielded(&mp->p, &gp->g);
        break;
    case PARKS:
        /* It may be in the inbox already, but only this thread takes it out. */
        gp->running = false;
        break;
    case DONE:
        gp->running = false;
        RT_STORE(gp->g.status, RT_G_DEAD);
        CHECK_EQ(atomic_fetch_add(&gp->ended, 1), 0);
        atomic_fetch_sub(&w.live, 1);
    }
}

static void *
m_main(void *arg)
{
    tm *mp = arg;
    pthread_mutex_lock(&w.start_lock);
    bool ok = mp->ok;
    pthread_mutex_unlock(&w.start_lock);
    if (!ok)
        return NULL;
    for (;;) {
        tg *gp = g_of(rt_sched_find(&mp->p));
        if (gp->step == NULL)
            return NULL;
        run(mp, gp);
    }
}

static void
host_block(rt_p *pp, int64_t timeout)
{
    int n = rt_p_poll(pp, timeout, NULL);
    rt_p_dispatch(pp, n < 0 ? 0 : n);
}

static void
host_unpark(rt_g *gp)
{
    rt_parker_unpark(g_of(gp)->parker);
}

static int
start_m(uint32_t id, bool spinning)
{
    int err = 0;
    pthread_mutex_lock(&w.start_lock);
    if (w.quitting)
        err = -EAGAIN;
    else if (rt_p_by_id(&w.sched, id) == NULL) {
        tm *mp = rt_test_zeroed(sizeof(*mp));
        CHECK(pthread_create(&mp->thread, NULL, m_main, mp) == 0);
        CHECK_EQ(rt_p_init(&mp->p, &w.sched, id, spinning), 0);
        mp->ok = true;
        w.ms[w.nms++] = mp;
    }
    pthread_mutex_unlock(&w.start_lock);
    return err;
}

static int
host_start(rt_sched *s, uint32_t id)
{
    static _Atomic uint32_t calls;
    CHECK(s == &w.sched);
    uint32_t state = seed_for(atomic_fetch_add(&calls, 1));
    if (rnd_of(&state, 100) < w.start_fails)
        return -EAGAIN;
    return start_m(id, id != RT_SPARE_P);
}

static void
begin(uint32_t procs, int64_t spin_ns, uint32_t start_fails, uint32_t ngs)
{
    memset((void *)&w.sched, 0, sizeof(w.sched));
    rt_sched_init(&w.sched, rt_netpoll_default(),
                  (rt_host){.block = host_block, .unpark = host_unpark, .start = host_start});
    w.sched.spin_ns = spin_ns;
    w.nms = 0;
    w.quitting = false;
    w.start_fails = start_fails;
    w.ngs = ngs;
    w.gs = calloc(ngs, sizeof(*w.gs));
    CHECK(w.gs != NULL);
    for (uint32_t i = 0; i < ngs; i++) {
        w.gs[i].id = i;
        w.gs[i].seed = seed_for(i);
        w.gs[i].g.wake = RT_WAKE_READY;
    }
    atomic_store(&w.next_g, 0);
    atomic_store(&w.live, 0);
    alarm(280);
    CHECK_EQ(start_m(0, false), 0);
    rt_sched_set_procs(&w.sched, procs);
}

/* A goroutine to be put somewhere, or NULL when all are used up. */
static tg *
new_g(outcome (*step)(tg *))
{
    uint32_t i = atomic_fetch_add(&w.next_g, 1);
    if (i >= w.ngs)
        return NULL;
    w.gs[i].step = step;
    atomic_fetch_add(&w.live, 1);
    return &w.gs[i];
}

static void
wait_until_all_ended(void)
{
    for (uint32_t n = 0; atomic_load(&w.live) != 0;)
        relax(&n);
}

/* All Ms sleep, and what the scheduler counts is so. */
static void
check_quiet(void)
{
    rt_sched *s = &w.sched;
    uint64_t before, after;
    bool quiet;
    uint32_t looks = 0;
    do {
        relax(&looks);
        quiet = true;
        before = after = 0;
        uint32_t n = atomic_load(&s->nallp);
        for (uint32_t i = 0; i < n; i++) {
            before += RT_LOAD(s->allp[i]->count.blocking_polls);
            quiet = quiet && atomic_load(&s->allp[i]->sleeping) == RT_SLEEPING;
        }
        for (uint32_t i = 0; i < n; i++) {
            quiet = quiet && atomic_load(&s->allp[i]->sleeping) == RT_SLEEPING;
            after += RT_LOAD(s->allp[i]->count.blocking_polls);
        }
    } while (!quiet || before != after);
    uint32_t nprocs = atomic_load(&s->nprocs), bits = 0, lent = 0;
    CHECK_EQ(atomic_load(&s->nspinning), 0);
    for (uint32_t id = 0; id < RT_MAX_P; id++) {
        rt_p *pp = atomic_load(&s->by_id[id]);
        bool idle = atomic_load(&s->idle[id / 64]) >> id % 64 & 1;
        bits += idle;
        if (pp == NULL)
            CHECK_EQ(idle, id != 0 && id < nprocs);
        else {
            CHECK_EQ(idle, atomic_load(&pp->mode) == RT_P_OPEN);
            CHECK_EQ(rt_runq_len(&pp->fresh), 0);
            CHECK(rt_inbox_empty(&pp->inbox));
            lent += atomic_load(&pp->lent);
        }
    }
    CHECK_EQ(atomic_load(&s->nidle), bits);
    CHECK_EQ(atomic_load(&s->nlent), lent);
    CHECK_EQ(atomic_load(&s->global.len), 0);
}

static void
end(void)
{
    wait_until_all_ended();
    check_quiet();
    pthread_mutex_lock(&w.start_lock);
    w.quitting = true;
    pthread_mutex_unlock(&w.start_lock);
    for (int i = 0; i < w.nms; i++)
        rt_p_put_pinned(NULL, &w.ms[i]->p, &w.ms[i]->quit.g);
    for (int i = 0; i < w.nms; i++)
        CHECK(pthread_join(w.ms[i]->thread, NULL) == 0);
    uint32_t used = atomic_load(&w.next_g);
    for (uint32_t i = 0; i < used && i < w.ngs; i++) {
        CHECK_EQ(atomic_load(&w.gs[i].begun), 1);
        CHECK_EQ(atomic_load(&w.gs[i].ended), 1);
    }
    for (int i = 0; i < w.nms; i++) {
        w.sched.netpoll->close(w.ms[i]->p.np);
        rt_timers_fini(&w.ms[i]->p.timers);
        free(w.ms[i]);
    }
    free(w.gs);
    alarm(0);
}

static uint64_t
sum_of(size_t offset)
{
    uint64_t sum = 0;
    for (int i = 0; i < w.nms; i++)
        sum += RT_LOAD(*(_Atomic uint64_t *)((char *)&w.ms[i]->p.count + offset));
    return sum;
}
#define SUM(counter) sum_of(offsetof(rt_p_counters, counter))

/* ---- storms ---- */

static outcome
step_end(tg *gp)
{
    (void)gp;
    return DONE;
}

/* Spawns two that do the same, until all are used up. */
static outcome
step_spawn_two(tg *gp)
{
    for (int i = 0; i < 2; i++) {
        tg *child = new_g(step_spawn_two);
        if (child != NULL)
            rt_p_put_fresh(gp->g.pp, &child->g);
    }
    if (gp->phase++ == 0 && gp->id % 5 == 0)
        return YIELDS;
    return DONE;
}

static void
storm_from_one_p_runs_each_once(void)
{
    for (int i = 0; i < 4; i++) {
        begin(i < 2 ? 4 : 2, i % 2 ? 20000 : 0, 0, 30000);
        tg *first = new_g(step_spawn_two);
        rt_p_put_pinned(NULL, &w.ms[0]->p, &first->g);
        end();
    }
}

enum { PRODUCERS = 4 };

static void *
put_main(void *arg)
{
    (void)arg;
    for (tg *gp; (gp = new_g(step_end)) != NULL;)
        rt_sched_put(&w.sched, &gp->g);
    return NULL;
}

static void *
submit_main(void *arg)
{
    (void)arg;
    CHECK_EQ(start_m(RT_SPARE_P, false), 0);
    rt_p *spare = rt_p_by_id(&w.sched, RT_SPARE_P);
    for (tg *gp; (gp = new_g(step_spawn_two)) != NULL;)
        rt_p_submit(spare, &gp->g);
    return NULL;
}

static void
run_threads(void *(*fn)(void *), int n)
{
    pthread_t t[16];
    for (int i = 0; i < n; i++)
        CHECK(pthread_create(&t[i], NULL, fn, NULL) == 0);
    for (int i = 0; i < n; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
}

static void
storm_from_foreign_threads_runs_each_once(void)
{
    for (int i = 0; i < 4; i++) {
        begin(i < 2 ? 4 : 1, i % 2 ? 20000 : 0, 0, 20000);
        run_threads(put_main, PRODUCERS);
        end();
    }
}

static void
storm_given_to_the_spare_runs_each_once(void)
{
    for (int i = 0; i < 2; i++) {
        begin(1 + 2 * (uint32_t)i, 0, 0, 20000);
        run_threads(submit_main, PRODUCERS);
        end();
    }
}

/* ---- work never waits while a P is idle ---- */

typedef struct child {
    tg *gp;
    _Atomic bool ran;
} child;

static outcome
step_child(tg *gp)
{
    atomic_store(&gp->child->ran, true);
    return DONE;
}

/* Never leaves its M while it waits for what it has spawned. */
static outcome
step_busy_spawner(tg *gp)
{
    for (uint32_t i = 0; i < gp->left; i++) {
        child c = {new_g(step_child), false};
        c.gp->child = &c;
        rt_p_put_fresh(gp->g.pp, &c.gp->g);
        for (uint32_t n = 0; !atomic_load(&c.ran);)
            relax(&n);
        for (uint32_t n = 0; !atomic_load(&c.gp->ended);)
            relax(&n);
    }
    return DONE;
}

static void
busy_p_has_its_goroutines_run_by_others(void)
{
    for (int i = 0; i < 4; i++) {
        const uint32_t rounds = 3000;
        begin(i < 2 ? 2 : 3, i % 2 ? 20000 : 0, 0, 2 * rounds + 2);
        /* The second of two busy ones is started elsewhere, as the first stays. */
        for (int busy = 0; busy < (i < 2 ? 1 : 2); busy++) {
            tg *gp = new_g(step_busy_spawner);
            gp->left = rounds;
            rt_sched_put(&w.sched, &gp->g);
        }
        end();
    }
}

static void *
put_one_at_a_time_main(void *arg)
{
    (void)arg;
    for (int i = 0; i < 3000; i++) {
        child c = {new_g(step_child), false};
        c.gp->child = &c;
        rt_sched_put(&w.sched, &c.gp->g);
        for (uint32_t n = 0; !atomic_load(&c.ran) || !atomic_load(&c.gp->ended);)
            relax(&n);
    }
    return NULL;
}

static void
foreign_goroutine_starts_while_a_p_is_idle(void)
{
    for (int i = 0; i < 6; i++) {
        begin(1 + (uint32_t)i / 2, i % 2 ? 20000 : 0, 0, 6000);
        run_threads(put_one_at_a_time_main, 2);
        end();
    }
}

/* As many as there are Ps must run at the same time: none ends before all have begun. */
static _Atomic uint32_t in_barrier;
static uint32_t barrier_size;

static outcome
step_barrier(tg *gp)
{
    (void)gp;
    atomic_fetch_add(&in_barrier, 1);
    for (uint32_t n = 0; atomic_load(&in_barrier) < barrier_size;)
        relax(&n);
    return DONE;
}

static outcome
step_spawn_barrier(tg *gp)
{
    for (uint32_t i = 1; i < barrier_size; i++)
        rt_p_put_fresh(gp->g.pp, &new_g(step_barrier)->g);
    return step_barrier(gp);
}

static void
as_many_run_at_a_time_as_there_are_ps(void)
{
    enum { ROUNDS = 400, MOST = 4 };
    uint32_t state = seed_for(77);
    for (int spin = 0; spin < 2; spin++) {
        begin(MOST, spin ? 20000 : 0, 0, ROUNDS * (MOST + 1));
        for (int round = 0; round < ROUNDS; round++) {
            /* Ms that were closed or opened may be on their way to sleep. */
            for (uint32_t n = rnd_of(&state, 4); n > 0; n--)
                rt_sched_set_procs(&w.sched, 1 + rnd_of(&state, MOST));
            tg *pinned;
            barrier_size = RT_LOAD(w.sched.nprocs);
            atomic_store(&in_barrier, 0);
            switch (rnd_of(&state, 3)) {
            case 0:             /* from one busy P */
                rt_sched_put(&w.sched, &new_g(step_spawn_barrier)->g);
                break;
            case 1:             /* from outside */
                for (uint32_t i = 0; i < barrier_size; i++)
                    rt_sched_put(&w.sched, &new_g(step_barrier)->g);
                break;
            default:            /* one is pinned to an open P, which must not run another before */
                pinned = new_g(step_barrier);
                rt_p_put_pinned(NULL, &w.ms[0]->p, &pinned->g);
                for (uint32_t n = 0; !atomic_load(&pinned->begun);)
                    relax(&n);
                for (uint32_t i = 1; i < barrier_size; i++)
                    rt_sched_put(&w.sched, &new_g(step_barrier)->g);
            }
            for (uint32_t n = 0; atomic_load(&w.live) != 0;)
                relax(&n);
        }
        end();
    }
}

/* The same with one M stuck and lent: the spare stands in for it. */
static _Atomic bool stuck_ends;

static outcome
step_stuck(tg *gp)
{
    atomic_fetch_add(&in_barrier, 1);
    for (; gp->left > 0; gp->left--)
        rt_p_put_fresh(gp->g.pp, &new_g(step_barrier)->g);
    for (uint32_t n = 0; !atomic_load(&stuck_ends);)
        relax(&n);
    return DONE;
}

static void
spare_stands_in_for_a_stuck_m(void)
{
    enum { ROUNDS = 300 };
    uint32_t state = seed_for(78);
    for (uint32_t procs = 1; procs <= 3; procs++) {
        begin(procs, 0, 0, ROUNDS * 8);
        for (int round = 0; round < ROUNDS; round++) {
            bool spawns = rnd_of(&state, 2), late = rnd_of(&state, 2);
            atomic_store(&stuck_ends, false);
            atomic_store(&in_barrier, 0);
            tg *stuck = new_g(step_stuck);
            barrier_size = procs + 1;
            stuck->left = spawns ? procs : 0;
            if (!late)
                rt_sched_lend(&w.ms[0]->p);
            rt_p_put_pinned(NULL, &w.ms[0]->p, &stuck->g);
            for (uint32_t n = 0; !atomic_load(&stuck->begun);)
                relax(&n);
            for (uint32_t i = 0; i < (spawns ? 0 : procs); i++)
                rt_sched_put(&w.sched, &new_g(step_barrier)->g);
            /* As sysmon does: again and again. */
            for (uint32_t n = 0;
                 atomic_load(&in_barrier) < barrier_size || atomic_load(&w.live) > 1;
                 relax(&n))
                rt_sched_lend(&w.ms[0]->p);
            atomic_store(&stuck_ends, true);
            for (uint32_t n = 0; atomic_load(&w.live) != 0;)
                relax(&n);
        }
        end();
    }
}

/* ---- locking ---- */

static outcome
step_locks(tg *gp)
{
    rt_p *pp = gp->g.pp;
    if (gp->phase++ == 0) {
        rt_p_lock(pp, 1);
        for (int i = 0; i < 3; i++) {
            tg *child = new_g(step_end);
            if (child != NULL)
                rt_p_put_fresh(pp, &child->g);
        }
        CHECK_EQ(rt_runq_len(&pp->fresh), 0);
        return YIELDS;
    }
    rt_p_lock(pp, -1);
    return DONE;
}

static void
locked_ms_give_their_fresh_ones_away(void)
{
    for (uint32_t procs = 1; procs <= 3; procs += 2) {
        begin(procs, 0, 0, 8000);
        for (tg *gp; (gp = new_g(step_locks)) != NULL;)
            rt_sched_put(&w.sched, &gp->g);
        end();
    }
}

/* ---- claims ---- */

/* A counting semaphore, as the host's channels and locks are made. */
typedef struct sem {
    pthread_mutex_t lock;
    uint32_t count;
    tg *head, *tail;
} sem;

static void
sem_put(rt_p *cur, sem *s)
{
    tg *gp;
    pthread_mutex_lock(&s->lock);
    while ((gp = s->head) != NULL) {
        s->head = gp->next_waiter;
        if (s->head == NULL)
            s->tail = NULL;
        gp->queued = false;
        if (rt_g_claim(&gp->g, RT_WAKE_READY))
            break;
    }
    if (gp == NULL)
        s->count++;
    pthread_mutex_unlock(&s->lock);
    if (gp != NULL) {
        atomic_fetch_add(&gp->wakes, 1);
        rt_ready(cur, &gp->g, gp->id % 2);
    }
}

/* True: got it.  False: gp is in the queue, or has to take a wake-up, and parks. */
static bool
sem_take(sem *s, tg *gp)
{
    gp->parks++;
    rt_g_arm(&gp->g);
    pthread_mutex_lock(&s->lock);
    bool got = s->count > 0;
    if (got)
        s->count--;
    else {
        gp->next_waiter = NULL;
        *(s->tail ? &s->tail->next_waiter : &s->head) = gp;
        s->tail = gp;
        gp->queued = true;
    }
    pthread_mutex_unlock(&s->lock);
    gp->sem = s;
    if (!got)
        return false;
    gp->phase |= 0x100;         /* it has one, however it is woken */
    if (!rt_g_disarm(&gp->g))
        return false;
    atomic_fetch_add(&gp->wakes, 1);
    return true;
}

/* After a park in sem_take(): has it got one? */
static bool
sem_taken(tg *gp)
{
    sem *s = gp->sem;
    bool got = gp->phase & 0x100;
    gp->phase &= 0xff;
    if (got || RT_LOAD(gp->g.wake) == RT_WAKE_READY)
        return true;
    pthread_mutex_lock(&s->lock);
    if (gp->queued) {
        tg *before = NULL;
        for (tg *at = s->head; at != gp; at = at->next_waiter)
            before = at;
        *(before ? &before->next_waiter : &s->head) = gp->next_waiter;
        if (s->tail == gp)
            s->tail = before;
        gp->queued = false;
    }
    pthread_mutex_unlock(&s->lock);
    return false;
}

static bool
interrupt(rt_p *cur, tg *gp)
{
    if (RT_LOAD(gp->g.status) != RT_G_WAITING || !rt_g_claim(&gp->g, RT_WAKE_INTERRUPT))
        return false;
    atomic_fetch_add(&gp->wakes, 1);
    rt_ready(cur, &gp->g, false);
    return true;
}

static void
fire(rt_timer *t)
{
    tg *gp = RT_CONTAINER_OF(t, tg, timer);
    if (rt_g_claim(&gp->g, RT_WAKE_TIMEOUT)) {
        atomic_fetch_add(&gp->wakes, 1);
        rt_ready(gp->g.pp, &gp->g, false);
    }
}

static void
start_timer(tg *gp, int64_t ns)
{
    gp->timer.when = rt_nanotime() + ns;
    gp->timer.fire = fire;
    gp->timed = true;
    CHECK_EQ(rt_timers_start(&gp->g.pp->timers, &gp->timer), 0);
}

enum { SEMS = 3 };
static sem sems[SEMS];
static uint32_t sem_count[SEMS];
static _Atomic bool stop;

static void
make_sems(void)
{
    for (int i = 0; i < SEMS; i++) {
        sems[i] = (sem){.count = (uint32_t)i};
        sem_count[i] = (uint32_t)i;
        pthread_mutex_init(&sems[i].lock, NULL);
    }
}

static void
check_sems(void)
{
    for (int i = 0; i < SEMS; i++) {
        CHECK(sems[i].head == NULL && sems[i].tail == NULL);
        CHECK_EQ(sems[i].count, sem_count[i]);
    }
}

/* ---- everything at once ---- */

static uint32_t chaos_procs;

static outcome
chaos_park(tg *gp)
{
    switch (rnd_of(&gp->seed, 4)) {
    case 0:                     /* until somebody interrupts it, or the time is up */
        gp->parks++;
        gp->sem = NULL;
        rt_g_arm(&gp->g);
        start_timer(gp, rnd_of(&gp->seed, 300000));
        gp->phase = 1;
        return PARKS;
    case 1:
        if (sem_take(&sems[rnd_of(&gp->seed, SEMS)], gp)) {
            gp->phase = 3;
            return YIELDS;
        }
        start_timer(gp, rnd_of(&gp->seed, 200000));
        gp->phase |= 2;
        return PARKS;
    case 2:
        if (sem_take(&sems[1 + rnd_of(&gp->seed, SEMS - 1)], gp)) {
            gp->phase = 3;
            return YIELDS;
        }
        gp->phase |= 2;         /* the others see to it that it is woken */
        return PARKS;
    default:
        return YIELDS;
    }
}

static void
chaos_others(tg *gp)
{
    rt_p *pp = gp->g.pp;
    switch (rnd_of(&gp->seed, 40)) {
    case 0:
        rt_sched_set_procs(&w.sched, 1 + rnd_of(&gp->seed, chaos_procs));
        break;
    case 12:
        rt_sched_start(&w.sched, rnd_of(&gp->seed, chaos_procs));
        break;
    case 1:
    case 2:
        if (gp->locks == 0 || rnd_of(&gp->seed, 2)) {
            rt_p_lock(pp, 1);
            gp->locks++;
        }
        break;
    case 3:
    case 4:
    case 5:
        if (gp->locks > 0) {
            rt_p_lock(pp, -1);
            gp->locks--;
        }
        break;
    case 6:
        rt_p_look_soon(pp);
        break;
    case 7: {
        rt_p *other = rt_p_by_id(&w.sched, rnd_of(&gp->seed, chaos_procs));
        if (other != NULL)
            rt_p_wake(other);
        break;
    }
    case 8:
    case 9:
    case 10: {
        uint32_t n = RT_LOAD(w.next_g);
        interrupt(pp, &w.gs[rnd_of(&gp->seed, n < w.ngs ? n : w.ngs)]);
        break;
    }
    case 11: {
        rt_p *other = rt_p_by_id(&w.sched, rnd_of(&gp->seed, chaos_procs));
        tg *child = other ? new_g(step_end) : NULL;
        if (child != NULL)
            rt_p_put_pinned(pp, other, &child->g);
        break;
    }
    default:
        break;
    }
}

static outcome
step_chaos(tg *gp)
{
    if (gp->timed) {
        rt_timers_stop(&gp->g.pp->timers, &gp->timer);
        gp->timed = false;
    }
    bool has = (gp->phase & 0xff) == 3 || ((gp->phase & 0xff) == 2 && sem_taken(gp));
    if ((gp->phase & 0xff) != 3 && gp->parks != 0) {
        CHECK(RT_LOAD(gp->g.wake) != RT_WAKE_NONE);
        CHECK_EQ(atomic_load(&gp->wakes), gp->parks);
    }
    gp->phase = 0;
    if (gp->left == 0)
        gp->left = 2 + rnd_of(&gp->seed, 12);
    for (uint32_t n = rnd_of(&gp->seed, 8); n < 3; n++) {
        tg *child = new_g(step_chaos);
        if (child == NULL)
            break;
        if (n == 2)
            rt_sched_put(&w.sched, &child->g);
        else
            rt_p_put_fresh(gp->g.pp, &child->g);
    }
    chaos_others(gp);
    if (has)
        sem_put(gp->g.pp, gp->sem);
    if (--gp->left > 0)
        return chaos_park(gp);
    for (; gp->locks > 0; gp->locks--)
        rt_p_lock(gp->g.pp, -1);
    return DONE;
}

/* Spawns from outside, and wakes those that nobody else would. */
static void *
chaos_producer_main(void *arg)
{
    uint32_t state = seed_for(993 + (uintptr_t)arg);
    while (!atomic_load(&stop)) {
        tg *gp = rnd_of(&state, 20) == 0 ? new_g(step_chaos) : NULL;
        rt_p *spare = rt_p_by_id(&w.sched, RT_SPARE_P);
        if (gp != NULL && spare != NULL && rnd_of(&state, 2))
            rt_p_submit(spare, &gp->g);
        else if (gp != NULL)
            rt_sched_put(&w.sched, &gp->g);
        uint32_t n = RT_LOAD(w.next_g);
        n = n < w.ngs ? n : w.ngs;
        for (int i = 0; i < 8 && n != 0; i++)
            interrupt(NULL, &w.gs[rnd_of(&state, n)]);
        sched_yield();
    }
    return NULL;
}

/* A foreign goroutine: parks on an OS primitive. */
static void *
chaos_foreign_main(void *arg)
{
    (void)arg;
    rt_parker parker;
    tg me = {.parker = &parker, .seed = seed_for(991), .g = {.foreign = 1, .pp = &w.ms[0]->p}};
    CHECK_EQ(rt_parker_init(&parker), 0);
    while (!atomic_load(&stop)) {
        bool got = sem_take(&sems[2], &me);
        if (!got && !rt_parker_park(&parker, rt_nanotime() + rnd_of(&me.seed, 100000))
            && !rt_g_claim(&me.g, RT_WAKE_TIMEOUT))
            CHECK(rt_parker_park(&parker, RT_FOREVER));
        if (got || sem_taken(&me)) {
            me.phase = 0;
            sem_put(NULL, &sems[2]);
        }
    }
    rt_parker_fini(&parker);
    return NULL;
}

/* As sysmon does: looks at all Ps from outside, lends those that seem stuck. */
static void *
chaos_sysmon_main(void *arg)
{
    (void)arg;
    uint32_t state = seed_for(992), seen = 0;
    while (!atomic_load(&stop)) {
        uint32_t n = atomic_load(&w.sched.nallp);
        for (uint32_t i = 0; i < n; i++) {
            rt_p *pp = RT_LOAD(w.sched.allp[i]);
            seen += rt_p_has_work(pp) + RT_LOAD(pp->tick);
            if (rnd_of(&state, 30) == 0)
                rt_sched_lend(pp);
        }
        sched_yield();
    }
    CHECK(seen != 0);
    return NULL;
}

static void
chaos(uint32_t procs, int64_t spin_ns, uint32_t start_fails, bool lends, uint32_t ngs)
{
    begin(procs, spin_ns, start_fails, ngs);
    chaos_procs = procs;
    atomic_store(&stop, false);
    make_sems();
    pthread_t t[4];
    void *(*const mains[4])(void *) = {chaos_producer_main, chaos_producer_main,
                                       chaos_foreign_main,
                                       lends ? chaos_sysmon_main : chaos_foreign_main};
    for (int i = 0; i < 20; i++)
        rt_sched_put(&w.sched, &new_g(step_chaos)->g);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&t[i], NULL, mains[i], (void *)(uintptr_t)i) == 0);
    for (uint32_t n = 0; atomic_load(&w.live) != 0 || atomic_load(&w.next_g) < w.ngs;)
        relax(&n);
    atomic_store(&stop, true);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
    end();
    check_sems();
}

static void
chaos_keeps_the_rules(void)
{
    chaos(1, 0, 0, false, 4000);
    chaos(4, 0, 0, false, 8000);
    chaos(4, 20000, 0, true, 8000);
    chaos(8, 0, 30, true, 8000);
    chaos(70, 5000, 60, true, 4000);
}

/* ---- descriptors ---- */

typedef struct {
    rt_pd pd;                   /* first */
    tg *gp;
    int fds[2];
} pipe_end;
static pipe_end *pipes;

static void
pipe_ready(rt_pd *d, uint32_t mode)
{
    (void)mode;
    tg *gp = ((pipe_end *)d)->gp;
    if (RT_LOAD(gp->g.status) == RT_G_WAITING && rt_g_claim(&gp->g, RT_WAKE_READY))
        rt_ready(gp->g.pp, &gp->g, false);
}

/* Reads what a partner writes, byte by byte, parking in the poller. */
static outcome
step_reader(tg *gp)
{
    pipe_end *e = &pipes[gp->id / 2];
    if (gp->phase == 0) {
        gp->phase = 1;
        e->gp = gp;
        CHECK_EQ(rt_pd_open(&e->pd, gp->g.pp, e->fds[0], pipe_ready), 0);
    }
    for (char c; gp->left > 0; gp->left--) {
        ssize_t n = read(e->fds[0], &c, 1);
        if (n < 0) {
            CHECK_EQ(errno, EAGAIN);
            rt_g_arm(&gp->g);   /* an edge can only be seen by this M */
            return PARKS;
        }
        CHECK_EQ(n, 1);
    }
    rt_pd_close(&e->pd);
    return DONE;
}

static outcome
step_writer(tg *gp)
{
    pipe_end *e = &pipes[gp->id / 2];
    for (uint32_t n = 1 + rnd_of(&gp->seed, 3); n > 0 && gp->left > 0; n--, gp->left--)
        CHECK_EQ(write(e->fds[1], "x", 1), 1);
    return gp->left > 0 ? YIELDS : DONE;
}

static void
goroutines_wait_in_the_pollers_of_all_ms(void)
{
    enum { PIPES = 100, BYTES = 200 };
    for (int spin = 0; spin < 2; spin++) {
        begin(4, spin ? 20000 : 0, 0, 2 * PIPES);
        pipes = calloc(PIPES, sizeof(*pipes));
        CHECK(pipes != NULL);
        for (int i = 0; i < PIPES; i++)
            CHECK(pipe2(pipes[i].fds, O_NONBLOCK) == 0);
        for (uint32_t i = 0; i < 2 * PIPES; i++) {
            tg *gp = new_g(i % 2 ? step_writer : step_reader);
            gp->left = BYTES;
            rt_sched_put(&w.sched, &gp->g);
        }
        wait_until_all_ended();
        CHECK(SUM(poll_events) > 0);
        end();
        for (int i = 0; i < PIPES; i++)
            close(pipes[i].fds[0]), close(pipes[i].fds[1]);
        free(pipes);
    }
}

/* ---- counters ---- */

static void
counters_agree(void)
{
    begin(4, 0, 0, 20001);
    tg *first = new_g(step_spawn_two);
    rt_sched_put(&w.sched, &first->g);
    wait_until_all_ended();
    check_quiet();
    uint64_t yields = 0;
    for (uint32_t i = 0; i < w.ngs; i++)
        yields += i % 5 == 0;
    CHECK_EQ(SUM(ticks), w.ngs + yields);
    CHECK(SUM(stolen) >= SUM(steals));
    CHECK(SUM(polls) >= SUM(blocking_polls));
    end();
}

/* The watchdog knows which test it is. */
#define RUN_THREADS(fn)                                                      \
    do {                                                                     \
        w.test = #fn;                                                        \
        RUN(fn);                                                             \
    } while (0)

int
main(void)
{
    const char *given = getenv("RT_SEED");
    seed = given ? strtoull(given, NULL, 10) : (uint64_t)rt_nanotime() ^ (uint64_t)getpid() << 32;
    printf("RT_SEED=%llu\n", (unsigned long long)seed);
    signal(SIGALRM, on_alarm);
    pthread_mutex_init(&w.start_lock, NULL);
    RUN_THREADS(storm_from_one_p_runs_each_once);
    RUN_THREADS(storm_from_foreign_threads_runs_each_once);
    RUN_THREADS(storm_given_to_the_spare_runs_each_once);
    RUN_THREADS(busy_p_has_its_goroutines_run_by_others);
    RUN_THREADS(foreign_goroutine_starts_while_a_p_is_idle);
    RUN_THREADS(as_many_run_at_a_time_as_there_are_ps);
    RUN_THREADS(spare_stands_in_for_a_stuck_m);
    RUN_THREADS(locked_ms_give_their_fresh_ones_away);
    RUN_THREADS(goroutines_wait_in_the_pollers_of_all_ms);
    RUN_THREADS(chaos_keeps_the_rules);
    RUN_THREADS(counters_agree);
    return 0;
}
