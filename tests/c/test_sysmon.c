/* test_sysmon.c - the policy of sysmon with a clock of the test's own, and its thread
 * with Ps that come and go.
 */
#include "rt_sysmon.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "rt_sched.h"
#include "rt_test.h"

#define MS 1000000LL

static rt_sched sched;
static rt_p ps[4];
static rt_sysmon *sm;

/* ---- a host that writes down what it is told ---- */

static int64_t fake_now;
static int64_t callback_takes;      /* ns the next preempt() needs */
static int preempted[4], withdrawn[4], stalls[4], traces;
static int64_t last_ns;

static int64_t
fake_clock(void)
{
    return fake_now;
}
static void
on_preempt(rt_p *pp, int64_t ns)
{
    preempted[pp->id]++;
    last_ns = ns;
    fake_now += callback_takes;
    callback_takes = 0;
}
static void
on_withdraw(rt_p *pp)
{
    withdrawn[pp->id]++;
}
static int refused;                 /* stalls to refuse */
static bool
on_stalled(rt_p *pp, int64_t ns)
{
    if (refused > 0) {
        refused--;
        return false;
    }
    stalls[pp->id]++;
    last_ns = ns;
    return true;
}
static void
on_trace(void)
{
    traces++;
}

static void
set_up(uint32_t n, int64_t stall_ns)
{
    memset((void *)&sched, 0, sizeof(sched));
    memset(ps, 0, sizeof(ps));
    for (uint32_t i = 0; i < n; i++) {
        ps[i].sched = &sched;
        ps[i].id = i;
        rt_alarms_init(&ps[i].alarms, &ps[i]);
        atomic_store(&ps[i].tick, 1);
        atomic_store(&sched.allp[i], &ps[i]);
    }
    atomic_store(&sched.nallp, n);
    memset(preempted, 0, sizeof(preempted));
    memset(withdrawn, 0, sizeof(withdrawn));
    memset(stalls, 0, sizeof(stalls));
    traces = 0;
    fake_now = 5000 * MS;
    sm = &sched.sysmon;
    rt_sysmon_init(sm, &sched,
                   (rt_sysmon_host){.clock = fake_clock, .preempt = on_preempt,
                                    .withdraw = on_withdraw, .stalled = on_stalled,
                                    .trace = on_trace});
    sm->stall_ns = stall_ns;
    rt_sysmon_look(sm);
}

static void
picks(rt_p *pp)
{
    atomic_fetch_add(&pp->tick, 1);
}
static void
answers(rt_p *pp)
{
    atomic_fetch_add(&pp->beat, 1);
}
static void
has_waiters(rt_p *pp, bool yes)
{
    pp->npd = yes;
}
static int64_t
look_after(int64_t ns)
{
    fake_now += ns;
    return rt_sysmon_look(sm);
}

/* ---- policy ---- */

static void
test_goroutine_is_asked_after_its_slice(void)
{
    set_up(1, 0);
    has_waiters(&ps[0], true);
    look_after(9 * MS);
    CHECK_EQ(preempted[0], 0);
    look_after(1 * MS);
    CHECK_EQ(preempted[0], 1);
    CHECK_EQ(last_ns, 1 * MS);      /* since it was first seen that somebody waits */
}

static void
test_goroutine_is_left_alone_while_nobody_waits(void)
{
    set_up(1, 100 * MS);
    for (int i = 0; i < 50; i++)
        look_after(10 * MS);
    CHECK_EQ(preempted[0], 0);
    CHECK_EQ(stalls[0], 0);
    has_waiters(&ps[0], true);      /* its slice is long over */
    look_after(10 * MS);
    CHECK_EQ(preempted[0], 1);
    CHECK_EQ(stalls[0], 0);
}

static void
test_p_that_picks_or_sleeps_is_left_alone(void)
{
    set_up(2, 100 * MS);
    has_waiters(&ps[0], true);
    has_waiters(&ps[1], true);
    atomic_store(&ps[1].sleeping, RT_SLEEPING);
    for (int i = 0; i < 50; i++) {
        picks(&ps[0]);
        look_after(10 * MS);
    }
    CHECK_EQ(preempted[0], 0);
    CHECK_EQ(preempted[1], 0);
}

static void
test_goroutine_that_answers_is_asked_at_every_look(void)
{
    set_up(1, 100 * MS);
    has_waiters(&ps[0], true);
    for (int i = 0; i < 50; i++) {
        look_after(10 * MS);
        answers(&ps[0]);
    }
    CHECK_EQ(preempted[0], 50);
    CHECK_EQ(withdrawn[0], 0);
    CHECK_EQ(stalls[0], 0);
}

static void
test_slice_of_who_follows_is_no_longer_than_the_first(void)
{
    set_up(1, 0);
    has_waiters(&ps[0], true);
    CHECK_EQ(look_after(10 * MS), RT_SYSMON_SOON);
    for (int i = 1; i <= 50; i++) {
        CHECK_EQ(preempted[0], i);
        picks(&ps[0]);
        CHECK_EQ(look_after(1 * MS), RT_SYSMON_TICK);
        CHECK_EQ(preempted[0], i);
        CHECK_EQ(look_after(10 * MS), RT_SYSMON_SOON);
    }
}

static void
test_ask_has_a_whole_tick_to_work(void)
{
    set_up(1, 0);
    has_waiters(&ps[0], true);
    look_after(10 * MS);
    CHECK_EQ(look_after(1 * MS), RT_SYSMON_TICK);
    CHECK_EQ(withdrawn[0], 0);
    look_after(10 * MS);
    CHECK_EQ(withdrawn[0], 1);
}

static void
test_asking_in_vain_becomes_rare(void)
{
    set_up(1, 0);
    has_waiters(&ps[0], true);
    int looks = 0, asks[8];
    for (int n = 0; n < 8; looks++) {
        look_after(10 * MS);
        if (preempted[0] > n) {
            CHECK_EQ(withdrawn[0], n);          /* asked once, withdrawn once */
            asks[n++] = looks;
        }
    }
    CHECK_EQ(asks[1] - asks[0], 2);
    CHECK_EQ(asks[2] - asks[1], 4);
    for (int n = 3; n < 8; n++)
        CHECK_EQ(asks[n] - asks[n - 1], RT_SYSMON_MAX_GAP + 1);
    answers(&ps[0]);
    look_after(10 * MS);
    CHECK_EQ(preempted[0], 9);
}

static void
test_ask_is_withdrawn_when_the_p_goes_on(void)
{
    set_up(1, 0);
    has_waiters(&ps[0], true);
    look_after(10 * MS);
    CHECK_EQ(preempted[0], 1);
    picks(&ps[0]);
    look_after(10 * MS);
    CHECK_EQ(withdrawn[0], 1);
    CHECK_EQ(preempted[0], 1);
    look_after(10 * MS);
    CHECK_EQ(preempted[0], 2);
    atomic_store(&ps[0].sleeping, RT_SLEEPING);
    look_after(10 * MS);
    CHECK_EQ(withdrawn[0], 2);
    look_after(10 * MS);
    CHECK_EQ(preempted[0], 2);
    CHECK_EQ(withdrawn[0], 2);
}

static void
test_stall_is_reported_once_each_time(void)
{
    set_up(2, 100 * MS);
    has_waiters(&ps[0], true);
    for (int i = 0; i < 10; i++)
        look_after(10 * MS);
    CHECK_EQ(stalls[0], 0);
    look_after(10 * MS);
    CHECK_EQ(stalls[0], 1);
    CHECK_EQ(last_ns, 100 * MS);
    for (int i = 0; i < 100; i++)
        look_after(10 * MS);
    CHECK_EQ(stalls[0], 1);
    picks(&ps[0]);
    for (int i = 0; i < 12; i++)
        look_after(10 * MS);
    CHECK_EQ(stalls[0], 2);
    CHECK_EQ(stalls[1], 0);
}

static void
test_stall_that_is_not_dealt_with_comes_again(void)
{
    set_up(1, 100 * MS);
    has_waiters(&ps[0], true);
    refused = 5;
    for (int i = 0; i < 16; i++)
        look_after(10 * MS);
    CHECK_EQ(refused, 0);
    CHECK_EQ(stalls[0], 1);
    CHECK_EQ(last_ns, 150 * MS);
}

static void
test_stall_counts_from_when_somebody_waits_and_nothing_reacts(void)
{
    set_up(1, 100 * MS);
    look_after(10 * MS);
    look_after(500 * MS - 10 * MS);
    has_waiters(&ps[0], true);
    look_after(10 * MS);
    answers(&ps[0]);
    look_after(10 * MS);
    for (int i = 0; i < 9; i++)
        look_after(10 * MS);
    CHECK_EQ(stalls[0], 0);
    look_after(10 * MS);
    CHECK_EQ(stalls[0], 1);
    CHECK_EQ(last_ns, 100 * MS);
}

static void
test_stall_reports_can_be_off(void)
{
    set_up(1, 0);
    has_waiters(&ps[0], true);
    for (int i = 0; i < 100; i++)
        look_after(10 * MS);
    CHECK_EQ(stalls[0], 0);
}

static void
test_time_that_sysmon_was_not_given_does_not_count(void)
{
    set_up(1, 100 * MS);
    has_waiters(&ps[0], true);
    look_after(10 * MS);
    look_after(3600 * 1000 * MS);   /* the process was stopped */
    CHECK_EQ(stalls[0], 0);
    for (int i = 0; i < 9; i++)
        look_after(10 * MS);
    CHECK_EQ(stalls[0], 0);
    look_after(10 * MS);
    CHECK_EQ(stalls[0], 1);
    CHECK(last_ns < 200 * MS);
}

static void
test_time_that_a_callback_waited_counts(void)
{
    set_up(1, 100 * MS);
    has_waiters(&ps[0], true);
    callback_takes = 500 * MS;      /* the host's lock was held all the time */
    look_after(10 * MS);
    CHECK_EQ(preempted[0], 1);
    look_after(10 * MS);
    CHECK_EQ(stalls[0], 1);
    CHECK_EQ(last_ns, 510 * MS);
}

static void
test_look_says_how_long_to_sleep(void)
{
    set_up(2, 0);
    for (int i = 0; i < 99; i++)
        CHECK_EQ(look_after(10 * MS), RT_SYSMON_TICK);
    CHECK_EQ(look_after(10 * MS), RT_SYSMON_DOZE);      /* they run, nobody waits */
    CHECK_EQ(look_after(1000 * MS), RT_SYSMON_DOZE);
    atomic_store(&ps[0].sleeping, RT_SLEEPING);
    CHECK_EQ(look_after(1000 * MS), RT_SYSMON_DOZE);
    atomic_store(&ps[1].sleeping, RT_SLEEPING);
    CHECK_EQ(look_after(1000 * MS), RT_FOREVER);
    picks(&ps[1]);
    CHECK_EQ(look_after(10 * MS), RT_SYSMON_TICK);
    CHECK_EQ(look_after(980 * MS), RT_SYSMON_TICK);
    CHECK_EQ(look_after(20 * MS), RT_FOREVER);
    atomic_store(&ps[0].sleeping, RT_AWAKE);
    has_waiters(&ps[0], true);
    for (int i = 0; i < 300; i++)
        CHECK(look_after(10 * MS) <= RT_SYSMON_TICK);
}

static void
test_alarm_that_is_due_counts_as_somebody_who_waits(void)
{
    rt_timer t = {0};
    set_up(2, 100 * MS);
    atomic_store(&sched.by_id[RT_SPARE_P], &ps[1]);
    rt_alarms_start(&ps[0].alarms, &t, fake_now + 50 * MS);
    for (int i = 0; i < 4; i++)
        look_after(10 * MS);
    CHECK_EQ(preempted[0], 0);
    look_after(10 * MS);
    CHECK_EQ(preempted[0], 1);
    for (int i = 0; i < 3; i++)
        look_after(10 * MS);
    CHECK(atomic_load(&ps[0].lent));
    CHECK(!atomic_load(&ps[1].lent));
    CHECK_EQ(preempted[1], 0);
    CHECK(rt_alarms_stop(&ps[0].alarms, &t));   /* another M has run it */
    int asked = preempted[0];
    for (int i = 0; i < 20; i++)
        look_after(10 * MS);
    CHECK_EQ(preempted[0], asked);
    CHECK_EQ(stalls[0], 0);
    rt_timers_fini(&ps[0].alarms.heap);
}

static void
test_look_sleeps_no_longer_than_to_the_alarm_of_a_busy_p(void)
{
    rt_timer t = {0}, first = {0};
    set_up(2, 0);
    atomic_store(&ps[1].sleeping, RT_SLEEPING);
    rt_alarms_start(&ps[0].alarms, &t, fake_now + 1300 * MS);
    rt_alarms_start(&ps[1].alarms, &first, fake_now + 1100 * MS);   /* its M sees to it */
    for (int i = 0; i < 99; i++)
        look_after(10 * MS);
    CHECK_EQ(look_after(10 * MS), 300 * MS);
    CHECK_EQ(look_after(300 * MS), RT_SYSMON_SOON);       /* it is asked to make way */
    CHECK_EQ(preempted[0], 1);
    rt_timers_fini(&ps[0].alarms.heap);
    rt_timers_fini(&ps[1].alarms.heap);
}

static void
test_coarse_clock_follows(void)
{
    set_up(1, 0);
    look_after(10 * MS);
    CHECK_EQ(atomic_load(&sched.coarse_ms), 5010);
    look_after(25 * MS);
    CHECK_EQ(atomic_load(&sched.coarse_ms), 5035);
}

static void
test_trace_comes_every_period(void)
{
    set_up(1, 0);
    sm->trace_ns = 100 * MS;
    sm->next_trace = fake_now + 100 * MS;
    for (int i = 0; i < 9; i++)
        look_after(10 * MS);
    CHECK_EQ(traces, 0);
    look_after(10 * MS);
    CHECK_EQ(traces, 1);
    look_after(15 * MS);
    for (int i = 0; i < 9; i++)
        look_after(10 * MS);        /* no drift: due at 200, not at 215 */
    CHECK_EQ(traces, 2);
    look_after(1000 * MS);
    CHECK_EQ(traces, 3);            /* those missed are not made up for */
}

/* ---- the thread ---- */

static _Atomic int asked[4];

static int64_t
real_clock(void)
{
    return rt_nanotime();
}
static void
count_asks(rt_p *pp, int64_t ns)
{
    (void)ns;
    atomic_fetch_add(&asked[pp->id], 1);
}
static void
ignore(rt_p *pp)
{
    (void)pp;
}
static bool
ignore_stall(rt_p *pp, int64_t ns)
{
    (void)pp;
    (void)ns;
    return true;
}

static _Atomic int left;
static void
on_leave(void)
{
    atomic_fetch_add(&left, 1);
}

static void
set_up_thread(uint32_t n)
{
    set_up(n, 0);
    for (int i = 0; i < 4; i++)
        atomic_store(&asked[i], 0);
    atomic_store(&left, 0);
    rt_sysmon_init(sm, &sched,
                   (rt_sysmon_host){.clock = real_clock, .preempt = count_asks,
                                    .withdraw = ignore, .stalled = ignore_stall,
                                    .leave = on_leave});
    sm->stall_ns = 20 * MS;
    for (uint32_t i = 0; i < n; i++)
        memset(&ps[i].mon, 0, sizeof(ps[i].mon));
}

static void
test_thread_starts_and_stops(void)
{
    set_up_thread(2);
    rt_sysmon_stop(sm);             /* was never started */
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(rt_sysmon_start(sm), 0);
        CHECK_EQ(rt_sysmon_start(sm), 0);
        CHECK_EQ(atomic_load(&sm->state), RT_SYSMON_AWAKE);
        rt_sysmon_stop(sm);
        CHECK_EQ(atomic_load(&sm->state), RT_SYSMON_OFF);
        CHECK_EQ(atomic_load(&left), i + 1);
    }
}

static void
test_thread_asks_who_hogs_its_p(void)
{
    set_up_thread(2);
    atomic_store(&ps[1].sleeping, RT_SLEEPING);
    has_waiters(&ps[0], true);
    CHECK_EQ(rt_sysmon_start(sm), 0);
    while (atomic_load(&asked[0]) < 3)
        sched_yield();
    CHECK_EQ(atomic_load(&asked[1]), 0);
    CHECK_EQ(atomic_load(&sm->state), RT_SYSMON_AWAKE);
    rt_sysmon_stop(sm);
}

/* An M: sleeps until all of them are let go, then hogs its P until it is asked. */
static _Atomic int turn;
static void *
m_main(void *arg)
{
    rt_p *pp = arg;
    for (int round = 1; round <= 3; round++) {
        atomic_store_explicit(&pp->sleeping, RT_SLEEPING, memory_order_seq_cst);
        while (atomic_load(&turn) < round)
            usleep(100);
        atomic_store_explicit(&pp->sleeping, RT_AWAKE, memory_order_seq_cst);
        rt_sysmon_wake_if_asleep(sm);
        if (pp->id % 2 == 0)
            picks(pp);
        int before = atomic_load(&asked[pp->id]);
        while (atomic_load(&asked[pp->id]) == before)
            usleep(100);
    }
    atomic_store_explicit(&pp->sleeping, RT_SLEEPING, memory_order_seq_cst);
    return NULL;
}

static void
test_thread_that_sleeps_is_woken_by_an_m_that_wakes(void)
{
    set_up_thread(4);
    atomic_store(&turn, 0);
    for (int i = 0; i < 4; i++)
        has_waiters(&ps[i], true);
    pthread_t ms[4];
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&ms[i], NULL, m_main, &ps[i]), 0);
    CHECK_EQ(rt_sysmon_start(sm), 0);
    for (int round = 1; round <= 3; round++) {
        while (atomic_load(&sm->state) != RT_SYSMON_ASLEEP)
            usleep(round);
        atomic_store(&turn, round);
        for (int i = 0; i < 4; i++)
            while (atomic_load(&asked[i]) < round)
                usleep(100);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(ms[i], NULL);
    rt_sysmon_stop(sm);
}

static void
test_thread_that_sleeps_can_be_stopped(void)
{
    set_up_thread(1);
    atomic_store(&ps[0].sleeping, RT_SLEEPING);
    CHECK_EQ(rt_sysmon_start(sm), 0);
    while (atomic_load(&sm->state) != RT_SYSMON_ASLEEP)
        usleep(1000);
    rt_sysmon_stop(sm);
    CHECK_EQ(atomic_load(&left), 1);
}

int
main(void)
{
    RUN(test_goroutine_is_asked_after_its_slice);
    RUN(test_goroutine_is_left_alone_while_nobody_waits);
    RUN(test_p_that_picks_or_sleeps_is_left_alone);
    RUN(test_goroutine_that_answers_is_asked_at_every_look);
    RUN(test_slice_of_who_follows_is_no_longer_than_the_first);
    RUN(test_ask_has_a_whole_tick_to_work);
    RUN(test_asking_in_vain_becomes_rare);
    RUN(test_ask_is_withdrawn_when_the_p_goes_on);
    RUN(test_stall_is_reported_once_each_time);
    RUN(test_stall_that_is_not_dealt_with_comes_again);
    RUN(test_stall_counts_from_when_somebody_waits_and_nothing_reacts);
    RUN(test_stall_reports_can_be_off);
    RUN(test_time_that_sysmon_was_not_given_does_not_count);
    RUN(test_time_that_a_callback_waited_counts);
    RUN(test_look_says_how_long_to_sleep);
    RUN(test_alarm_that_is_due_counts_as_somebody_who_waits);
    RUN(test_look_sleeps_no_longer_than_to_the_alarm_of_a_busy_p);
    RUN(test_coarse_clock_follows);
    RUN(test_trace_comes_every_period);
    RUN(test_thread_starts_and_stops);
    RUN(test_thread_asks_who_hogs_its_p);
    RUN(test_thread_that_sleeps_is_woken_by_an_m_that_wakes);
    RUN(test_thread_that_sleeps_can_be_stopped);
    return 0;
}
