/* protocol.c - the scheduler's sleep and wake protocol.
 *
 * The functions below are those of csrc/rt_sched.c, rt_ready.c and rt_p.c, and of the poller's
 * wake-up, one by one and with the same names, reduced to what the protocol needs: no timers, no
 * descriptors, no fairness; an alarm is due as soon as it is started.  Each is cut into steps
 * (steps.h).
 *
 * Left out on purpose: with GOMAXPROCS at 1 nobody is woken for what a P puts into its own
 * ring, and no fence is paid for; where GOMAXPROCS grows at that very moment it waits for
 * that P, or until sysmon lends it.
 */
#include "steps.h"

/* After FENCE, in the same step: read-modify-writes. */
static void
add_nspinning(state *s, int n)
{
    s->mem[NSPINNING] = (uint8_t)(s->mem[NSPINNING] + n);
    if (s->mem[NSPINNING] > THREADS)
        broken = "negative number of spinning Ms";
}

/* The mutex of rt_sched; its unlocking is a plain store. */
#define LOCK_SCHED                      \
    do {                                \
        AWAIT(th->nstores == 0 && s->mem[LOCK] == 0); \
        s->mem[LOCK] = 1;               \
    } while (0)

static outcome
rt_idle_set(state *s, thread *th, int id)
{
    BEGIN(F_IDLE)
    FENCE;
    if (s->mem[IDLE] & bit(id))
        broken = "an idle bit is set twice";
    s->mem[IDLE] |= bit(id);
    say("P%d: idle bit set", id, 0);
    FENCE;
    s->mem[NIDLE]++;
    END;
}

/* th->result: was it set? */
static outcome
rt_idle_clear(state *s, thread *th, int id)
{
    BEGIN(F_IDLE)
    FENCE;
    th->result = (s->mem[IDLE] & bit(id)) != 0;
    s->mem[IDLE] &= (uint8_t)~bit(id);
    if (th->result) {
        say("P%d: idle bit cleared", id, 0);
        FENCE;
        s->mem[NIDLE]--;
    }
    END;
}

outcome
rt_p_wake(state *s, thread *th, int p)
{
    BEGIN(F_WAKE)
    if (planted == NO_FENCE_IN_SET_PROCS) {
        PAUSE;
        if (load(s, th, PSLEEP + p) == AWAKE)
            RETURN;
    }
    FENCE;                              /* all callers have had one: no delay */
    if (s->mem[PSLEEP + p] == AWAKE)
        RETURN;
    th->old = s->mem[PSLEEP + p];
    s->mem[PSLEEP + p] = AWAKE;
    say("P%d: told to wake up", p, 0);
    if (th->old == SLEEPING && planted != WAKE_WITHOUT_POLLER) {
        FENCE;                          /* np_wake() */
        th->old = s->mem[WOKEN + p];
        s->mem[WOKEN + p] = 1;
        if (th->old == 0) {
            PAUSE_POLLER;
            s->mem[EVENT + p] = 1;      /* the eventfd is written */
            say("P%d: poller woken", p, 0);
        }
    }
    th->old = 0;
    END;
}

outcome
rt_p_start_alarm(state *s, thread *th, int p, int gp)
{
    BEGIN(F_ALARMS)
    FENCE;
    s->mem[ALARM + p] |= bit(gp);
    say("G%d: to the alarms of P%d", gp, p);
    if (planted != ALARM_WAKES_NOBODY)
        CALL(rt_p_wake(s, th, p));
    END;
}

/* host.start(): th->result, 0 or 1 for a failure. */
static outcome
host_start(state *s, thread *th, int id)
{
    BEGIN(F_START)
    PAUSE;
    choices = sc->start_fails ? 2 : 1;
    if (choice == 1) {
        th->result = 1;
        say("P%d: could not be started", id, 0);
        RETURN;
    }
    LOCK_SCHED;                         /* rt_p_init() */
    if (s->mem[BY_ID] & bit(id)) {
        if (id != SPARE)
            broken = "an M is started twice";
        store(th, LOCK, 0);
        RETURN;
    }
    if (id != SPARE) {
        PAUSE_PROCS;
        s->mem[MODE + id] = id < load(s, th, NPROCS) ? OPEN : CLOSED;   /* nobody knows it yet */
    }
    store(th, BY_ID, (uint8_t)(load(s, th, BY_ID) | bit(id)));
    if (id != SPARE && planted != STARTING_FOR_EVER)
        s->mem[STARTING] &= (uint8_t)~bit(id);  /* guarded by the lock */
    store(th, LOCK, 0);
    FENCE;
    for (int i = 0; i < THREADS; i++) {
        if (sc->th[i].role == M && sc->th[i].p == id) {
            s->th[i].alive = 1;
            s->th[i].spinning = id != SPARE;
        }
    }
    say("P%d: started", id, 0);
    th->result = 0;
    END;
}

/* Take an idle P out of the mask, `from` or above; th->id, or PS: none. */
static outcome
take_idle(state *s, thread *th)
{
    BEGIN(F_SHARED)
    FENCE;
    th->id = (uint8_t)(s->mem[IDLE] >> th->from << th->from);
    th->id = th->id == 0 ? PS : (uint8_t)lowest(th->id);
    if (th->id == PS)
        RETURN;
    s->mem[IDLE] &= (uint8_t)~bit(th->id);
    say("P%d: idle bit cleared", th->id, 0);
    FENCE;
    s->mem[NIDLE]--;
    END;
}

/* th->result: does it still count as idle? */
static outcome
put_back_idle(state *s, thread *th, int id)
{
    BEGIN(F_SHARED)
    LOCK_SCHED;
    PAUSE_PROCS;
    th->result = load(s, th, NPROCS) > id;
    if (planted != STARTING_FOR_EVER)
        s->mem[STARTING] &= (uint8_t)~bit(id);
    if (th->result)
        CALL(rt_idle_set(s, th, id));
    store(th, LOCK, 0);
    END;
}

static outcome
wake_spare(state *s, thread *th)
{
    BEGIN(F_SPARE)
    PAUSE_BY_ID;
    if (load(s, th, BY_ID) & bit(SPARE))
        CALL(rt_p_wake(s, th, SPARE));
    else
        CALL(host_start(s, th, SPARE));
    th->result = 0;
    END;
}

static outcome
rt_sched_wake_one(state *s, thread *th)
{
    BEGIN(F_WAKE_ONE)
    for (;;) {
        if (planted == NO_FENCE_IN_WAKE_ONE)
            PAUSE;
        else
            FENCE;
        if (load(s, th, NIDLE) == 0)
            break;
        PAUSE;
        if (load(s, th, NSPINNING) != 0)
            RETURN;
        if (planted == NO_FENCE_IN_WAKE_ONE) {
            FENCE;
            if (s->mem[NSPINNING] != 0)
                RETURN;
        }
        s->mem[NSPINNING] = 1;          /* the buffer is empty: the CAS succeeds */
        th->failed = 0;
        for (th->from = 0;; th->from = th->id + 1) {
            CALL(take_idle(s, th));
            if (th->id == PS)
                break;
            PAUSE_BY_ID;
            if (load(s, th, BY_ID) & bit(th->id)) {
                th->result = 0;
                CALL(rt_p_wake(s, th, th->id));
                th->id = th->from = th->failed = 0;
                RETURN;
            }
            CALL(host_start(s, th, th->id));
            if (th->result == 0) {
                th->id = th->from = th->failed = 0;
                RETURN;
            }
            CALL(put_back_idle(s, th, th->id));
            th->failed = (uint8_t)(th->failed + th->result);
            th->result = 0;
            if (planted == ONLY_FIRST_IS_STARTED)
                break;
        }
        th->from = th->id = 0;
        FENCE;
        add_nspinning(s, -1);
        PAUSE;
        th->got = load(s, th, NIDLE) <= th->failed;
        th->failed = 0;
        if (th->got || planted == NO_SECOND_TRY || planted == ONLY_FIRST_IS_STARTED) {
            th->got = 0;
            break;
        }
    }
    PAUSE_LENT;
    if (load(s, th, NLENT) != 0 && planted != SPARE_NOT_WOKEN) {
        PAUSE;
        if (load(s, th, NSPINNING) == 0)
            CALL(wake_spare(s, th));
    }
    END;
}

outcome
rt_sched_start(state *s, thread *th, int id)
{
    BEGIN(F_PROCS)
    PAUSE_BY_ID;
    if (load(s, th, BY_ID) & bit(id))
        RETURN;
    FENCE;
    add_nspinning(s, 1);
    CALL(rt_idle_clear(s, th, id));
    if (th->result) {
        th->result = 0;
        PAUSE_BY_ID;
        if (load(s, th, BY_ID) & bit(id)) {
            CALL(rt_p_wake(s, th, id));
            RETURN;
        }
        CALL(host_start(s, th, id));
        if (th->result == 0)
            RETURN;
        CALL(put_back_idle(s, th, id));
        th->result = 0;
    }
    FENCE;
    add_nspinning(s, -1);
    if (planted != STARTER_KEEPS_QUIET)
        CALL(rt_sched_wake_one(s, th));
    END;
}

outcome
rt_sched_put(state *s, thread *th, int gp)
{
    BEGIN(F_PUT)
    AWAIT(th->nstores == 0 && s->mem[GLOCK] == 0);      /* rt_globq_put() */
    s->mem[GLOBAL] |= bit(gp);
    s->mem[GLEN]++;
    say("G%d: to the global queue", gp, 0);
    CALL(rt_sched_wake_one(s, th));
    END;
}

/* No step of its own: nobody sees it before it leaves the buffer. */
static void
ring_put(state *s, thread *th, int gp)
{
    uint8_t tail = load(s, th, TAIL + th->p);
    if (tail == RING) {
        fprintf(stderr, "sched_model: RING is too small\n");
        exit(2);
    }
    s->mem[SLOT + th->p * RING + tail] = (uint8_t)gp;
    store(th, TAIL + th->p, tail + 1);
    say("G%d: to the ring of P%d", gp, th->p);
}

outcome
rt_p_put_fresh(state *s, thread *th, int gp)
{
    BEGIN(F_PROCS)
    PAUSE_PROCS;
    if (load(s, th, MODE + th->p) == CLOSED) {
        CALL(rt_sched_put(s, th, gp));
        RETURN;
    }
    ring_put(s, th, gp);
    PAUSE_PROCS;
    if (load(s, th, NPROCS) > 1)
        CALL(rt_sched_wake_one(s, th));
    END;
}

/* th->result: may this P run what is nobody's in particular? */
static outcome
takes_shared(state *s, thread *th)
{
    BEGIN(F_TAKES)
    PAUSE_PROCS;
    th->result = load(s, th, MODE + th->p) == OPEN;
    if (load(s, th, MODE + th->p) == SPARE_MODE) {
        PAUSE_LENT;
        th->result = load(s, th, NLENT) != 0;
    }
    END;
}

/* Take one from the own ring, or half of another's, all but the first of them to the own.
   th->gp: the goroutine + 1, or 0. */
static outcome
ring_get(state *s, thread *th, int from)
{
    BEGIN(F_SHARED)
    for (;;) {
        PAUSE;                          /* both at once: the CAS below makes up for it */
        th->h = load(s, th, HEAD + from);
        th->t = load(s, th, TAIL + from);
        if (th->t <= th->h) {
            th->h = th->t = th->gp = 0;
            RETURN;
        }
        th->t = (uint8_t)(from == th->p ? 1 : (th->t - th->h + 1) / 2);
        FENCE;
        if (s->mem[HEAD + from] == th->h || planted == STEAL_WITHOUT_CAS) {
            s->mem[HEAD + from] = (uint8_t)(th->h + th->t);
            say("G%d: out of the ring of P%d", s->mem[SLOT + from * RING + th->h], from);
            th->gp = (uint8_t)(s->mem[SLOT + from * RING + th->h] + 1);
            for (int i = 1; i < th->t; i++)
                ring_put(s, th, s->mem[SLOT + from * RING + th->h + i]);
            th->h = th->t = 0;
            RETURN;
        }
    }
    END;
}

/* A share of the global queue goes to the ring; th->result: any?  Never is some of it in
   neither place for those who look. */
static outcome
take_global(state *s, thread *th)
{
    BEGIN(F_GLOBAL)
    th->result = 0;
    PAUSE;
    if (load(s, th, GLEN) == 0)
        RETURN;
    CALL(takes_shared(s, th));
    if (!th->result)
        RETURN;
    th->result = 0;
    PAUSE;
    th->n = (uint8_t)(load(s, th, GLEN) / load(s, th, NPROCS) + 1);
    AWAIT(th->nstores == 0 && s->mem[GLOCK] == 0);      /* rt_globq_move() */
    s->mem[GLOCK] = 1;
    th->t = load(s, th, GLEN);
    if (planted == GLOBAL_SHRINKS_FIRST)
        store(th, GLEN, th->t > th->n ? th->t - th->n : 0);
    for (; th->n > 0 && s->mem[GLOBAL] != 0; th->n--) {
        ring_put(s, th, lowest(s->mem[GLOBAL]));
        s->mem[GLOBAL] &= (uint8_t)(s->mem[GLOBAL] - 1);
        th->result = 1;
    }
    if (planted != GLOBAL_SHRINKS_FIRST)
        store(th, GLEN, (uint8_t)popcount(s->mem[GLOBAL]));
    store(th, GLOCK, 0);
    th->n = th->t = 0;
    END;
}

/* th->result: found something; it is in th->runnext. */
static outcome
steal(state *s, thread *th)
{
    BEGIN(F_STEAL)
    th->result = 0;
    PAUSE_BY_ID;
    th->n = load(s, th, BY_ID);
    if (popcount(th->n) == 1)
        goto none;
    CALL(takes_shared(s, th));
    if (!th->result)
        goto none;
    th->result = 0;
    if (!th->spinning && th->p != SPARE) {
        PAUSE;
        if (2 * load(s, th, NSPINNING)
            >= (int)load(s, th, NPROCS) - (int)load(s, th, NIDLE))
            goto none;
        th->spinning = 1;
        FENCE;
        add_nspinning(s, 1);
    }
    for (th->i = 0; th->i < ALL_PS; th->i++) {
        if (th->i == th->p || !(th->n & bit(th->i)))
            continue;
        CALL(ring_get(s, th, th->i));
        if (th->gp != 0) {
            th->runnext = th->gp;
            th->gp = 0;
            /* For a moment the rest was nowhere to be seen. */
            if (!th->spinning && planted != SPARE_KEEPS_QUIET)
                CALL(rt_sched_wake_one(s, th));
            th->result = 1;
            break;
        }
    }
none:
    th->gp = th->i = th->n = 0;
    END;
}

static outcome
stop_spinning(state *s, thread *th)
{
    BEGIN(F_STOP)
    th->spinning = 0;
    FENCE;
    add_nspinning(s, -1);
    if (planted != NO_WAKE_AFTER_FOUND)
        CALL(rt_sched_wake_one(s, th));
    END;
}

/* th->shared: is there fresh work that is not this P's own? */
static outcome
shared_work(state *s, thread *th)
{
    BEGIN(F_SHARED)
    th->shared = 0;
    PAUSE;
    if (load(s, th, GLEN) != 0) {
        th->shared = 1;
        RETURN;
    }
    PAUSE_BY_ID;
    th->n = load(s, th, BY_ID);
    for (th->i = 0; th->i < ALL_PS; th->i++) {
        if (th->i == th->p || !(th->n & bit(th->i)))
            continue;
        PAUSE;
        th->shared = load(s, th, TAIL + th->i) != load(s, th, HEAD + th->i);
        if (th->shared)
            break;
    }
    th->i = th->n = 0;
    END;
}

/* th->due: is an alarm due that this M is to run? */
static outcome
next_alarm(state *s, thread *th)
{
    BEGIN(F_ALARMS)
    PAUSE_ALARMS;
    th->due = load(s, th, ALARM + th->p) != 0;
    PAUSE_LENT;
    if (th->due || load(s, th, NLENT) == 0 || planted == LENT_ALARMS_WAIT)
        RETURN;
    CALL(takes_shared(s, th));
    if (!th->result)
        RETURN;
    th->result = 0;
    for (th->i = 0; th->i < ALL_PS; th->i++) {
        PAUSE_ALARMS;
        th->due = load(s, th, LENT + th->i) && load(s, th, ALARM + th->i) != 0;
        if (th->due)
            break;
    }
    th->i = 0;
    END;
}

/* th->result: were there any? */
static outcome
run_lent_alarms(state *s, thread *th)
{
    BEGIN(F_ALARMS)
    PAUSE_LENT;
    if (load(s, th, NLENT) == 0)
        RETURN;
    CALL(takes_shared(s, th));
    if (!th->result)
        RETURN;
    th->result = 0;
    for (th->i = 0; th->i < ALL_PS; th->i++) {
        PAUSE_ALARMS;
        if (!load(s, th, LENT + th->i) || load(s, th, ALARM + th->i) == 0)
            continue;
        FENCE;                          /* rt_alarms_run(): the lock */
        th->result = s->mem[ALARM + th->i] != 0;
        th->pinned |= s->mem[ALARM + th->i];
        s->mem[ALARM + th->i] = 0;
        say("P%d: runs the alarms of P%d", th->p, th->i);
    }
    th->i = 0;
    END;
}

/* The poller's wait(): with nothing but wake-ups to wait for. */
static outcome
np_wait(state *s, thread *th, bool block)
{
    BEGIN(F_NPWAIT)
    if (planted == POLLER_FORGETS_EARLY) {
        FENCE;
        s->mem[WOKEN + th->p] = 0;
    }
    if (block) {
        say("P%d: sleeps", th->p, 0);
        AWAIT(s->mem[EVENT + th->p] != 0);
    }
    else
        PAUSE;
    if (s->mem[EVENT + th->p] == 0)
        RETURN;
    s->mem[EVENT + th->p] = 0;
    say("P%d: its poller returns", th->p, 0);
    if (planted != POLLER_FORGETS_EARLY) {
        PAUSE_POLLER;                   /* the buffer is empty */
        s->mem[WOKEN + th->p] = 0;
    }
    END;
}

static outcome
rt_p_poll(state *s, thread *th)
{
    BEGIN(F_POLL)
    FENCE;
    th->j = s->mem[PSLEEP + th->p] == DOZING;
    if (th->j || planted == NO_CHECK_BEFORE_POLL) {
        th->j = 1;
        s->mem[PSLEEP + th->p] = SLEEPING;
    }
    CALL(np_wait(s, th, th->j));
    th->j = 0;
    END;
}

static outcome
sleep_until_work(state *s, thread *th)
{
    BEGIN(F_SLEEP)
    PAUSE_PROCS;
    th->listed = load(s, th, MODE + th->p) == OPEN;
    if (planted == LOOK_BEFORE_LISTED)
        CALL(shared_work(s, th));
    if (planted == ALARMS_BEFORE_DOZING)
        CALL(next_alarm(s, th));
    if (planted == LISTED_BEFORE_DOZING && th->listed)
        CALL(rt_idle_set(s, th, th->p));
    if (planted == NO_FENCE_BEFORE_SLEEP) {
        store(th, PSLEEP + th->p, DOZING);
    }
    else {
        FENCE;
        s->mem[PSLEEP + th->p] = DOZING;
    }
    if (planted != LISTED_BEFORE_DOZING && th->listed)
        CALL(rt_idle_set(s, th, th->p));
    th->spun = th->spinning;
    if (planted == LOOK_BEFORE_SPINNING_ENDS)
        CALL(shared_work(s, th));
    if (th->spinning) {
        th->spinning = 0;
        FENCE;
        add_nspinning(s, -1);
    }
    if (planted == NO_LOOK_AT_QUEUES)
        th->shared = 0;
    else if (planted != LOOK_BEFORE_LISTED && planted != LOOK_BEFORE_SPINNING_ENDS)
        CALL(shared_work(s, th));
    PAUSE_PROCS;
    th->open = load(s, th, MODE + th->p) == OPEN;
    th->moved = th->open != th->listed;
    if (th->shared && th->spun && planted != CLOSED_KEEPS_QUIET
        && !(th->open && (th->listed || planted == REOPENED_KEEPS_QUIET)))
        CALL(rt_sched_wake_one(s, th));
    th->spun = 0;
    if (th->shared && !th->open) {
        CALL(takes_shared(s, th));
        th->shared = th->result;
        th->result = 0;
    }
    th->open = 0;
    if (planted == NO_LOOK_AT_MODE)
        th->moved = 0;
    if (changes.alarms && planted != ALARMS_BEFORE_DOZING)
        CALL(next_alarm(s, th));
    PAUSE;
    if (!th->shared && !th->moved && !th->due
        && (load(s, th, INBOX + th->p) == 0 || planted == NO_LOOK_AT_INBOX))
        CALL(rt_p_poll(s, th));
    th->moved = th->due = 0;
    FENCE;
    s->mem[PSLEEP + th->p] = AWAKE;
    if (th->listed) {
        CALL(rt_idle_clear(s, th, th->p));
        if (!th->result)
            th->spinning = planted != TAKEN_BIT_NOT_COUNTED;
        else if (th->shared) {
            th->spinning = 1;
            FENCE;
            add_nspinning(s, 1);
        }
    }
    th->listed = th->shared = th->result = 0;
    END;
}

outcome
rt_sched_find(state *s, thread *th)
{
    BEGIN(F_FIND)
    PAUSE_LENT;
    if (load(s, th, LENT + th->p)) {    /* rt_p_take_back() */
        FENCE;
        th->old = s->mem[LENT + th->p];
        s->mem[LENT + th->p] = 0;
        if (th->old) {
            FENCE;
            s->mem[NLENT]--;
        }
        th->old = 0;
    }
    for (;;) {
        if (th->runnext != 0) {         /* take_local() */
            th->gp = th->runnext;
            th->runnext = 0;
        }
        else if (th->pinned != 0) {
            th->gp = (uint8_t)(lowest(th->pinned) + 1);
            th->pinned &= (uint8_t)(th->pinned - 1);
        }
        else
            CALL(ring_get(s, th, th->p));
        if (th->gp != 0) {
            if (th->spinning)
                CALL(stop_spinning(s, th));
            RETURN;
        }
        PAUSE_ALARMS;
        if (load(s, th, ALARM + th->p) != 0) {  /* run_timers() */
            FENCE;
            th->pinned |= s->mem[ALARM + th->p];
            s->mem[ALARM + th->p] = 0;
            continue;
        }
        PAUSE;
        if (load(s, th, INBOX + th->p) != 0) {  /* take_inbox() */
            FENCE;
            th->pinned |= s->mem[INBOX + th->p];
            s->mem[INBOX + th->p] = 0;
            continue;
        }
        CALL(take_global(s, th));
        if (th->result) {
            th->result = 0;
            continue;
        }
        CALL(steal(s, th));
        if (th->result) {
            th->result = 0;
            continue;
        }
        if (changes.alarms && changes.lent) {
            CALL(run_lent_alarms(s, th));
            if (th->result) {
                th->result = 0;
                continue;
            }
        }
        CALL(sleep_until_work(s, th));
    }
    END;
}

outcome
rt_p_lock(state *s, thread *th)
{
    BEGIN(F_IDLE)
    LOCK_SCHED;
    store(th, MODE + th->p, CLOSED);
    store(th, LOCK, 0);
    FENCE;
    s->mem[NLENT]++;                    /* the ring is empty: nothing to give away */
    END;
}

outcome
rt_sched_set_procs(state *s, thread *th, int n)
{
    BEGIN(F_PROCS)
    LOCK_SCHED;
    PAUSE_PROCS;
    th->t = load(s, th, NPROCS);
    FENCE;
    s->mem[NPROCS] = (uint8_t)n;
    say("GOMAXPROCS: %d", n, 0);
    for (th->i = 0; th->i < PS; th->i++) {
        PAUSE_BY_ID;
        if (!(load(s, th, BY_ID) & bit(th->i)))
            continue;
        if ((load(s, th, MODE + th->i) == OPEN) == (th->i < n))
            continue;                   /* as it is: not worth a step */
        store(th, MODE + th->i, th->i < n ? OPEN : CLOSED);
    }
    for (th->i = (uint8_t)n; th->i < th->t; th->i++) {
        PAUSE_BY_ID;
        if (!(load(s, th, BY_ID) & bit(th->i))) {
            CALL(rt_idle_clear(s, th, th->i));
            if (!th->result && planted != BIT_OF_WHO_STARTS)
                s->mem[STARTING] |= bit(th->i);
        }
    }
    for (th->i = th->t; th->i < n; th->i++) {
        PAUSE_BY_ID;
        if (!((load(s, th, BY_ID) | s->mem[STARTING]) & bit(th->i)) && th->i != 0)
            CALL(rt_idle_set(s, th, th->i));
    }
    th->result = 0;
    store(th, LOCK, 0);
    if (planted != NO_FENCE_IN_SET_PROCS)
        FENCE;
    for (th->i = (uint8_t)(n < th->t ? n : th->t); th->i < (n < th->t ? th->t : n); th->i++) {
        PAUSE_BY_ID;
        if (load(s, th, BY_ID) & bit(th->i))
            CALL(rt_p_wake(s, th, th->i));
    }
    th->i = 0;
    if (n > th->t)
        CALL(rt_sched_wake_one(s, th));
    th->t = 0;
    END;
}

outcome
rt_sched_lend(state *s, thread *th, int p)
{
    BEGIN(F_PROCS)
    FENCE;
    th->old = s->mem[LENT + p];
    s->mem[LENT + p] = 1;
    say("P%d: lent", p, 0);
    if (!th->old) {
        FENCE;
        s->mem[NLENT]++;
    }
    else if (planted == LENT_ONCE) {
        th->old = 0;
        RETURN;
    }
    th->old = 0;
    CALL(wake_spare(s, th));
    END;
}
