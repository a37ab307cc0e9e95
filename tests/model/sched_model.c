/* sched_model.c - tries every interleaving of the scheduler's sleep and wake protocol.
 *
 *   sched_model              all scenarios but the large ones
 *   sched_model --large      the large ones
 *   sched_model NAME         one of them
 *   sched_model --list       the scenarios
 *   sched_model --mutants    the mistakes that can be planted
 *   sched_model --mutant M   all scenarios with mistake M: prints the way to the first failure
 *
 * The functions below are those of csrc/rt_sched.c and of the poller's wake-up, one by one
 * and with the same names, reduced to what the protocol needs: no timers, no descriptors,
 * no fairness, and a thief takes a single goroutine.  Each is cut into steps of one access to
 * shared memory; the checker lets every thread that can make the next step, in all
 * orders, and visits each state once.
 *
 * Left out on purpose: with GOMAXPROCS at 1 nobody is woken for what a P puts into its own
 * ring, and no fence is paid for; where GOMAXPROCS grows at that very moment it waits for
 * that P, or until sysmon lends it.
 *
 * Memory is that of x86 (TSO): a plain store goes to a buffer of its thread and reaches memory
 * at any later time, in order; read-modify-writes, sequentially consistent stores and fences
 * wait until the buffer is empty.  The unlocking of a mutex is a plain store here, as it is
 * on other processors.
 *
 * What must hold:
 *  - always: no goroutine runs twice, no M is started twice, no bit of the idle mask is set
 *    twice; the number of spinning Ms is never negative
 *  - where nothing can happen any more: every goroutine has run, but for what no P may run; no
 *    work waits while an open P sleeps or was not started; nobody counts as spinning; the idle
 *    mask names just the open Ps that sleep, and nidle is their number
 *  - such an end can be reached from every state: nobody goes round in circles
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PS = 3, SPARE = PS, ALL_PS, ITEMS = 4, RING = 4, THREADS = 5, STORES = 6 };

/* ---- the state ---- */

enum { OPEN, CLOSED, SPARE_MODE };
enum { AWAKE, DOZING, SLEEPING };

/* Shared variables, each one byte. */
enum {
    NSPINNING, NIDLE, IDLE, NPROCS, NLENT, LOCK, BY_ID, STARTING, /* IDLE and the
                                   last two: bit masks */
    GLOBAL, GLEN, GLOCK,        /* the global queue: bit mask of goroutines, its length, lock */
    HEAD, TAIL = HEAD + ALL_PS, INBOX = TAIL + ALL_PS, PSLEEP = INBOX + ALL_PS,
    WOKEN = PSLEEP + ALL_PS, EVENT = WOKEN + ALL_PS, MODE = EVENT + ALL_PS, LENT = MODE + ALL_PS,
    NLOCKS = LENT + ALL_PS,
    SLOT = NLOCKS + ALL_PS,                                     /* private until TAIL says so */
    RAN = SLOT + ALL_PS * RING,                                 /* ghost: who has run */
    VARS
};

/* Where each function of a thread stands; no function calls itself. */
enum {
    F_MAIN, F_FIND, F_GLOBAL, F_STEAL, F_STOP, F_SLEEP, F_SHARED, F_TAKES, F_POLL, F_NPWAIT, F_PUT,
    F_WAKE_ONE, F_START, F_IDLE, F_SPARE, F_WAKE, F_PROCS, F_GIVE, FUNCTIONS
};

typedef struct {
    uint8_t pc[FUNCTIONS];      /* 0: not running */
    uint8_t p;                  /* an M: its P */
    uint8_t spinning, pinned, runnext;  /* rt_p's plain fields; runnext: goroutine + 1 */
    uint8_t alive;              /* its thread was started */
    uint8_t ended;              /* or runs something that never returns */
    /* Locals; 0 while they mean nothing. */
    uint8_t gp, i, j, old, h, t, id, failed, n, got, from, listed, open, shared, spun, moved;
    uint8_t result;
    uint8_t to_wake, arg;
    uint8_t nstores;
    uint8_t stores[STORES][2];  /* variable, value; oldest first */
} thread;

typedef struct {
    uint8_t mem[VARS];
    thread th[THREADS];
} state;

/* ---- scenarios ---- */

typedef enum { NOTHING, M, PRODUCER, SUBMITTER, SET_PROCS, LENDER, STARTER } role;
typedef enum {
    RETURNS,                    /* a goroutine that runs and ends */
    STAYS,                      /* one that never gives its M back */
    SPAWNS,                     /* puts `children` into its P's queue and ends */
    SPAWNS_STAYS,
    LOCKS_STAYS                 /* locks its M, spawns `children`, stays */
} kind;

typedef struct {
    const char *name;
    const char *what;
    uint8_t nprocs;
    uint8_t started;            /* bit mask of Ps whose Ms run; SPARE, too */
    bool start_fails;           /* starting an M may fail */
    bool poller;                /* look into the poller, too */
    struct {
        role role;
        uint8_t p;              /* an M's; of a SUBMITTER, whom it submits to; of a LENDER or
                                   STARTER, whose M is stuck or to be started */
        uint8_t items;          /* bit mask: what an M's queue of pinned ones holds, what a
                                   producer puts */
        uint8_t procs[2];       /* SET_PROCS: what it sets, one after the other; 0: nothing */
    } th[THREADS];
    struct {
        kind kind;
        uint8_t children;       /* bit mask */
    } item[ITEMS];
} scenario;

static const scenario scenarios[] = {
    {"spawn", "a busy P spawns two, others look for work or fall asleep", 3, 7, false, false,
     {{M, 0, 1}, {M, 1}, {M, 2}},
     {{SPAWNS_STAYS, 2 | 4}}},
    {"spawn_long", "a busy P spawns one that stays and spawns another", 3, 7, false, false,
     {{M, 0, 1}, {M, 1}, {M, 2}},
     {{SPAWNS_STAYS, 2}, {SPAWNS_STAYS, 4}, {STAYS}}},
    {"foreign", "two threads put one each, one M", 1, 1, false, false,
     {{M, 0}, {PRODUCER, 0, 1}, {PRODUCER, 0, 2}},
     {{RETURNS}}},
    {"spawn_many", "a busy P spawns three of which one stays: thieves rob each other", 3, 7, false,
     false,
     {{M, 0, 1}, {M, 1}, {M, 2}},
     {{SPAWNS_STAYS, 2 | 4 | 8}, {STAYS}}},
    {"inbox", "two threads wake goroutines pinned to one M", 1, 1, false, true,
     {{M, 0}, {SUBMITTER, 0, 1}, {SUBMITTER, 0, 2 | 4}},
     {{RETURNS}}},
    {"inbox_and_global", "a pinned goroutine stays where work was to be looked for", 2, 3,
     false, false,
     {{M, 0}, {M, 1}, {SUBMITTER, 1, 1}, {PRODUCER, 0, 2}},
     {{STAYS}, {RETURNS}}},
    {"start", "a busy P spawns two, the other Ms were never started", 3, 1, false, false,
     {{M, 0, 1}, {M, 1}, {M, 2}},
     {{SPAWNS_STAYS, 2 | 4}, {STAYS}, {STAYS}}},
    {"start_fails", "an M cannot be started at times, another one sleeps", 3, 5, true, false,
     {{M, 0, 1}, {M, 1}, {M, 2}},
     {{SPAWNS_STAYS, 2}}},
    {"start_fails_foreign", "the same while a thread puts two", 2, 1, true, false,
     {{M, 0}, {M, 1}, {PRODUCER, 0, 1}, {PRODUCER, 0, 2}},
     {{STAYS}}},
    {"grow", "GOMAXPROCS grows while a thread puts; the M sleeps, closed", 1, 3, false, false,
     {{M, 0, 1}, {M, 1}, {PRODUCER, 0, 4}, {SET_PROCS, 0, 0, {2}}},
     {{STAYS}, {RETURNS}, {RETURNS}}},
    {"grow_start", "the same, and the M was never started", 1, 1, false, false,
     {{M, 0, 1}, {M, 1}, {PRODUCER, 0, 4}, {SET_PROCS, 0, 0, {2}}},
     {{STAYS}, {RETURNS}, {RETURNS}}},
    {"shrink_grow", "GOMAXPROCS shrinks and grows again while a thread puts", 2, 3, false, false,
     {{M, 0, 1}, {M, 1}, {PRODUCER, 0, 2}, {SET_PROCS, 0, 0, {1, 2}}},
     {{STAYS}, {RETURNS}}},
    {"shrink_grow_start", "the same while the M is being started", 2, 1, false, false,
     {{M, 0, 1}, {M, 1}, {PRODUCER, 0, 2}, {SET_PROCS, 0, 0, {1, 2}}},
     {{STAYS}, {RETURNS}}},
    {"shrink_grow_fails", "the same where it may fail", 2, 1, true, false,
     {{M, 0, 1}, {M, 1}, {PRODUCER, 0, 2}, {SET_PROCS, 0, 0, {1, 2}}},
     {{STAYS}, {RETURNS}}},
    {"demand", "an M is started on demand and by a thread that puts", 2, 1, false, false,
     {{M, 0, 1}, {M, 1}, {PRODUCER, 0, 2}, {STARTER, 1}},
     {{STAYS}, {RETURNS}}},
    {"demand_fails", "the same where it may fail", 2, 1, true, false,
     {{M, 0, 1}, {M, 1}, {PRODUCER, 0, 2}, {STARTER, 1}},
     {{STAYS}, {RETURNS}}},
    {"demand_shrink_grow", "the same while GOMAXPROCS shrinks and grows again", 2, 1, false, false,
     {{M, 0, 1}, {M, 1}, {PRODUCER, 0, 2}, {STARTER, 1}, {SET_PROCS, 0, 0, {1, 2}}},
     {{STAYS}, {RETURNS}}},
    {"lend", "the only M is stuck; it has spawned before, a thread puts", 1, 1 | 1 << SPARE,
     false, false,
     {{M, 0, 1}, {M, SPARE}, {PRODUCER, 0, 4}, {LENDER, 0}},
     {{SPAWNS_STAYS, 2}}},
    {"lend_steal", "an M that has spawned three is stuck: thieves, the spare M is one", 2,
     3 | 1 << SPARE, false, false,
     {{M, 0, 1}, {M, 1}, {M, SPARE}, {LENDER, 0}},
     {{SPAWNS_STAYS, 2 | 4 | 8}, {STAYS}}},
    {"lend_busy", "one M is stuck, another busy and spawns", 2, 3 | 1 << SPARE, false, false,
     {{M, 0, 1}, {M, 1, 2}, {M, SPARE}, {LENDER, 0}},
     {{STAYS}, {SPAWNS_STAYS, 4}}},
    {"lend_start", "the same, and the spare M was never started", 2, 3, false, false,
     {{M, 0, 1}, {M, 1, 2}, {M, SPARE}, {LENDER, 0}},
     {{STAYS}, {SPAWNS_STAYS, 4}}},
    {"lock", "the only M is locked, spawns and stays; a thread puts", 1, 1 | 1 << SPARE,
     false, false,
     {{M, 0, 1}, {M, SPARE}, {PRODUCER, 0, 4}},
     {{LOCKS_STAYS, 2}}},
    {"foreign_two", "two threads put one each, two Ms, one of them is lost for ever", 2, 3,
     false, false,
     {{M, 0}, {M, 1}, {PRODUCER, 0, 1}, {PRODUCER, 0, 2}},
     {{STAYS}}},
    {"shrink", "GOMAXPROCS shrinks while a thread puts: who was to look may be closed", 3, 7,
     false, false,
     {{M, 0, 1}, {M, 1}, {M, 2}, {PRODUCER, 0, 2}, {SET_PROCS, 0, 0, {2}}},
     {{STAYS}, {RETURNS}}},
    {"shrink_grow_two", "GOMAXPROCS shrinks and grows again while a thread puts two", 3, 7,
     false, false,
     {{M, 0, 1}, {M, 1}, {M, 2}, {PRODUCER, 0, 2 | 4}, {SET_PROCS, 0, 0, {2, 3}}},
     {{STAYS}, {STAYS}, {RETURNS}}},
};

/* These take minutes. */
static const scenario large[] = {
    {"shrink_grow_spawn", "GOMAXPROCS shrinks and grows again while a busy P spawns two", 3, 7,
     false, false,
     {{M, 0, 1}, {M, 1}, {M, 2}, {SET_PROCS, 0, 0, {2, 3}}},
     {{SPAWNS_STAYS, 2 | 4}, {STAYS}}},
    {"spawn_foreign", "a busy P spawns one that stays, a thread puts", 3, 7, false, false,
     {{M, 0, 1}, {M, 1}, {M, 2}, {PRODUCER, 0, 4}},
     {{SPAWNS_STAYS, 2}, {STAYS}}},
};

/* ---- planted mistakes ---- */

typedef enum {
    SOUND,
    NO_FENCE_IN_WAKE_ONE, NO_FENCE_BEFORE_SLEEP, NO_LOOK_AT_QUEUES, NO_LOOK_AT_INBOX,
    LOOK_BEFORE_SPINNING_ENDS, LOOK_BEFORE_LISTED, NO_WAKE_AFTER_FOUND, NO_SECOND_TRY,
    LISTED_BEFORE_DOZING, WAKE_WITHOUT_POLLER, POLLER_FORGETS_EARLY, NO_CHECK_BEFORE_POLL,
    NO_LOOK_AT_MODE, NO_FENCE_IN_SET_PROCS, CLOSED_KEEPS_QUIET, REOPENED_KEEPS_QUIET,
    STARTING_FOR_EVER, ONLY_FIRST_IS_STARTED, SPARE_NOT_WOKEN, LENT_ONCE,
    STEAL_WITHOUT_CAS, GLOBAL_SHRINKS_FIRST, SPARE_KEEPS_QUIET, TAKEN_BIT_NOT_COUNTED,
    BIT_OF_WHO_STARTS, STARTER_KEEPS_QUIET, MUTANTS
} mutant;
static const char *const mutants[MUTANTS] = {
    [NO_FENCE_IN_WAKE_ONE] = "no_fence_in_wake_one",
    [NO_FENCE_BEFORE_SLEEP] = "no_fence_before_sleep",
    [NO_LOOK_AT_QUEUES] = "no_look_at_queues",
    [NO_LOOK_AT_INBOX] = "no_look_at_inbox",
    [LOOK_BEFORE_SPINNING_ENDS] = "look_before_spinning_ends",
    [LOOK_BEFORE_LISTED] = "look_before_listed",
    [NO_WAKE_AFTER_FOUND] = "no_wake_after_found",
    [NO_SECOND_TRY] = "no_second_try",
    [LISTED_BEFORE_DOZING] = "listed_before_dozing",
    [WAKE_WITHOUT_POLLER] = "wake_without_poller",
    [POLLER_FORGETS_EARLY] = "poller_forgets_early",
    [NO_CHECK_BEFORE_POLL] = "no_check_before_poll",
    [NO_LOOK_AT_MODE] = "no_look_at_mode",
    [NO_FENCE_IN_SET_PROCS] = "no_fence_in_set_procs",
    [CLOSED_KEEPS_QUIET] = "closed_keeps_quiet",
    [REOPENED_KEEPS_QUIET] = "reopened_keeps_quiet",
    [STARTING_FOR_EVER] = "starting_for_ever",
    [ONLY_FIRST_IS_STARTED] = "only_first_is_started",
    [SPARE_NOT_WOKEN] = "spare_not_woken",
    [LENT_ONCE] = "lent_once",
    [STEAL_WITHOUT_CAS] = "steal_without_cas",
    [GLOBAL_SHRINKS_FIRST] = "global_shrinks_first",
    [SPARE_KEEPS_QUIET] = "spare_keeps_quiet",
    [TAKEN_BIT_NOT_COUNTED] = "taken_bit_not_counted",
    [BIT_OF_WHO_STARTS] = "bit_of_who_starts",
    [STARTER_KEEPS_QUIET] = "starter_keeps_quiet",
};
static mutant planted;
static const scenario *sc;
static struct {
    bool procs, by_id, lent;
} changes;

/* ---- steps ---- */

typedef enum { FINISHED, PAUSED, BLOCKED } outcome;

static const char *broken;      /* the rule that the step has broken, or NULL */
static uint32_t choice, choices;        /* which way to go, and how many there are */
static char said[200];          /* what the step did, for people */

static void
say(const char *what, int a, int b)
{
    if (said[0] == '\0')
        snprintf(said, sizeof(said), what, a, b);
}

/* A function's body stands between BEGIN and END; a step ends before each PAUSE.  Labels
   are line numbers, counted from BEGIN. */
#define BEGIN(f)                        \
    enum { base_ = __LINE__ };          \
    uint8_t *pc_ = &th->pc[f];          \
    switch (*pc_) {                     \
    case 0:
#define END                             \
    }                                   \
    *pc_ = 0;                           \
    return FINISHED
#define RETURN                          \
    do {                                \
        *pc_ = 0;                       \
        return FINISHED;                \
    } while (0)
#define PAUSE_(label)                   \
    do {                                \
        *pc_ = label;                   \
        return PAUSED;                  \
    case label:;                        \
    } while (0)
#define PAUSE PAUSE_(__LINE__ - base_)
/* Before a look at what changes in some scenarios only: GOMAXPROCS and modes, started Ms,
   lent Ps. */
#define PAUSE_PROCS if (changes.procs) PAUSE
#define PAUSE_BY_ID if (changes.by_id) PAUSE
#define PAUSE_LENT if (changes.lent) PAUSE
/* Within the poller, where that is looked at. */
#define PAUSE_POLLER if (sc->poller) PAUSE
/* Go on only once cond holds. */
#define AWAIT_(cond, label)             \
    do {                                \
        *pc_ = label;                   \
        return PAUSED;                  \
    case label:                         \
        if (!(cond))                    \
            return BLOCKED;             \
    } while (0)
#define AWAIT(cond) AWAIT_(cond, __LINE__ - base_)
#define FENCE AWAIT(th->nstores == 0)
/* call is evaluated again and again until it has finished. */
#define CALL_(call, label)              \
    do {                                \
        *pc_ = label;                   \
        __attribute__((fallthrough));   \
    case label: {                       \
        outcome o_ = call;              \
        if (o_ != FINISHED)             \
            return o_;                  \
    }                                   \
    } while (0)
#define STOP                            \
    do {                                \
        th->ended = 1;                  \
        AWAIT(false);                   \
    } while (0)
#define CALL(call) CALL_(call, __LINE__ - base_)

static uint8_t
load(const state *s, const thread *th, int var)
{
    for (int i = th->nstores; i-- > 0;)
        if (th->stores[i][0] == var)
            return th->stores[i][1];
    return s->mem[var];
}

/* A relaxed or release store. */
static void
store(thread *th, int var, uint8_t value)
{
    if (th->nstores == STORES) {
        fprintf(stderr, "sched_model: STORES is too small\n");
        exit(2);
    }
    th->stores[th->nstores][0] = (uint8_t)var;
    th->stores[th->nstores++][1] = value;
}

static uint8_t
bit(int i)
{
    return (uint8_t)(1 << i);
}
static int
popcount(uint8_t x)
{
    return __builtin_popcount(x);
}
static int
lowest(uint8_t x)
{
    return __builtin_ctz(x);
}

static void
run_once(state *s, int gp)
{
    if (s->mem[RAN] & bit(gp))
        broken = "a goroutine runs twice";
    s->mem[RAN] |= bit(gp);
}

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
set_idle(state *s, thread *th, int id)
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
clear_idle(state *s, thread *th, int id)
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

static outcome
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
        CALL(set_idle(s, th, id));
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

static outcome
rt_sched_start(state *s, thread *th, int id)
{
    BEGIN(F_PROCS)
    PAUSE_BY_ID;
    if (load(s, th, BY_ID) & bit(id))
        RETURN;
    FENCE;
    add_nspinning(s, 1);
    CALL(clear_idle(s, th, id));
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

static outcome
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

static outcome
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
    if (planted == LISTED_BEFORE_DOZING && th->listed)
        CALL(set_idle(s, th, th->p));
    if (planted == NO_FENCE_BEFORE_SLEEP) {
        store(th, PSLEEP + th->p, DOZING);
    }
    else {
        FENCE;
        s->mem[PSLEEP + th->p] = DOZING;
    }
    if (planted != LISTED_BEFORE_DOZING && th->listed)
        CALL(set_idle(s, th, th->p));
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
    PAUSE;
    if (!th->shared && !th->moved
        && (load(s, th, INBOX + th->p) == 0 || planted == NO_LOOK_AT_INBOX))
        CALL(rt_p_poll(s, th));
    th->moved = 0;
    FENCE;
    s->mem[PSLEEP + th->p] = AWAKE;
    if (th->listed) {
        CALL(clear_idle(s, th, th->p));
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

/* th->gp: the goroutine to run + 1. */
static outcome
rt_sched_find(state *s, thread *th)
{
    BEGIN(F_FIND)
    PAUSE_LENT;
    if (load(s, th, LENT + th->p)) {    /* take_back() */
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
        CALL(sleep_until_work(s, th));
    }
    END;
}

static outcome
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

static outcome
m_main(state *s, thread *th)
{
    BEGIN(F_MAIN)
    for (;;) {
        CALL(rt_sched_find(s, th));
        run_once(s, th->gp - 1);
        say("G%d: runs on P%d", th->gp - 1, th->p);
        if (sc->item[th->gp - 1].kind == LOCKS_STAYS)
            CALL(rt_p_lock(s, th));
        th->arg = sc->item[th->gp - 1].children;
        while (th->arg != 0) {
            CALL(rt_p_put_fresh(s, th, lowest(th->arg)));
            th->arg &= (uint8_t)(th->arg - 1);
        }
        if (sc->item[th->gp - 1].kind != RETURNS && sc->item[th->gp - 1].kind != SPAWNS)
            STOP;
        th->gp = 0;
    }
    END;
}

static outcome
producer_main(state *s, thread *th, const scenario *sn, int self)
{
    BEGIN(F_MAIN)
    th->arg = sn->th[self].items;
    while (th->arg != 0) {
        CALL(rt_sched_put(s, th, lowest(th->arg)));
        th->arg &= (uint8_t)(th->arg - 1);
    }
    STOP;
    END;
}

static outcome
submitter_main(state *s, thread *th, const scenario *sn, int self)
{
    BEGIN(F_MAIN)
    th->arg = sn->th[self].items;
    while (th->arg != 0) {
        FENCE;
        s->mem[INBOX + sn->th[self].p] |= bit(lowest(th->arg));
        say("G%d: to the inbox of P%d", lowest(th->arg), sn->th[self].p);
        CALL(rt_p_wake(s, th, sn->th[self].p));
        th->arg &= (uint8_t)(th->arg - 1);
    }
    STOP;
    END;
}

static outcome
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
            CALL(clear_idle(s, th, th->i));
            if (!th->result && planted != BIT_OF_WHO_STARTS)
                s->mem[STARTING] |= bit(th->i);
        }
    }
    for (th->i = th->t; th->i < n; th->i++) {
        PAUSE_BY_ID;
        if (!((load(s, th, BY_ID) | s->mem[STARTING]) & bit(th->i)) && th->i != 0)
            CALL(set_idle(s, th, th->i));
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

static outcome
set_procs_main(state *s, thread *th, const scenario *sn, int self)
{
    BEGIN(F_MAIN)
    for (th->arg = 0; th->arg < 2 && sn->th[self].procs[th->arg] != 0; th->arg++)
        CALL(rt_sched_set_procs(s, th, sn->th[self].procs[th->arg]));
    th->arg = 0;
    STOP;
    END;
}

static outcome
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

/* Sysmon lends a P, and again when it finds it stuck. */
static outcome
lender_main(state *s, thread *th, const scenario *sn, int self)
{
    BEGIN(F_MAIN)
    CALL(rt_sched_lend(s, th, sn->th[self].p));
    AWAIT(s->th[sn->th[self].p].ended && s->th[sn->th[self].p].nstores == 0);
    CALL(rt_sched_lend(s, th, sn->th[self].p));
    STOP;
    END;
}

static outcome
starter_main(state *s, thread *th, const scenario *sn, int self)
{
    BEGIN(F_MAIN)
    CALL(rt_sched_start(s, th, sn->th[self].p));
    STOP;
    END;
}

/* ---- the checker ---- */

static outcome
step(state *s, int i)
{
    thread *th = &s->th[i];
    if (!th->alive)
        return BLOCKED;
    switch (sc->th[i].role) {
    case M:
        return m_main(s, th);
    case PRODUCER:
        return producer_main(s, th, sc, i);
    case SUBMITTER:
        return submitter_main(s, th, sc, i);
    case SET_PROCS:
        return set_procs_main(s, th, sc, i);
    case LENDER:
        return lender_main(s, th, sc, i);
    case STARTER:
        return starter_main(s, th, sc, i);
    default:
        return BLOCKED;
    }
}

/* The oldest store of a thread reaches memory. */
static void
flush(state *s, thread *th)
{
    s->mem[th->stores[0][0]] = th->stores[0][1];
    memmove(th->stores[0], th->stores[1], sizeof(th->stores) - sizeof(th->stores[0]));
    th->nstores--;
    memset(th->stores[STORES - 1], 0, sizeof(th->stores[0]));
}

static state
first_state(void)
{
    state s;
    memset(&s, 0, sizeof(s));
    s.mem[NPROCS] = sc->nprocs;
    s.mem[BY_ID] = sc->started;
    s.mem[MODE + SPARE] = SPARE_MODE;
    for (int p = 0; p < PS; p++)
        s.mem[MODE + p] = p < sc->nprocs ? OPEN : CLOSED;
    for (int p = 1; p < sc->nprocs; p++) {
        if (!(sc->started & bit(p))) {
            s.mem[IDLE] |= bit(p);
            s.mem[NIDLE]++;
        }
    }
    for (int i = 0; i < THREADS; i++) {
        s.th[i].p = sc->th[i].p;
        s.th[i].alive = sc->th[i].role != NOTHING;
        if (sc->th[i].role == M) {
            s.th[i].alive = (sc->started & bit(sc->th[i].p)) != 0;
            s.th[i].pinned = sc->th[i].items;
        }
        /* Up to what it does first. */
        if (s.th[i].alive)
            step(&s, i);
    }
    return s;
}

/* What is wrong in a state where nothing can happen any more; NULL: nothing. */
static const char *
wrong_at_end(const state *s)
{
    uint8_t idle = 0, ran = s->mem[RAN], issued = 0, kept = s->mem[GLOBAL];
    bool waits = s->mem[GLOBAL] != 0, open_sleeps = false, spare_sleeps = false;
    for (int p = 0; p < ALL_PS; p++) {
        waits = waits || s->mem[HEAD + p] != s->mem[TAIL + p];
        for (int at = s->mem[HEAD + p]; at < s->mem[TAIL + p]; at++)
            kept |= bit(s->mem[SLOT + p * RING + at]);
        kept |= s->mem[INBOX + p];
        if (!(s->mem[BY_ID] & bit(p))) {
            if (p != 0 && p < s->mem[NPROCS]) {
                idle |= bit(p);
                open_sleeps = open_sleeps || !sc->start_fails;
            }
            if (p == SPARE && !sc->start_fails)
                spare_sleeps = true;
        }
    }
    for (int i = 0; i < THREADS; i++) {
        const thread *th = &s->th[i];
        if (sc->th[i].role != SUBMITTER || th->ended)
            issued |= sc->th[i].items;
        if (!th->alive || th->ended)
            continue;
        if (sc->th[i].role != M || th->pc[F_NPWAIT] == 0)
            return "a thread waits for ever, other than by sleeping";
        if (th->pinned || th->runnext || s->mem[INBOX + th->p]
            || s->mem[HEAD + th->p] != s->mem[TAIL + th->p])
            return "an M sleeps on work of its own";
        if (s->mem[MODE + th->p] == OPEN) {
            idle |= bit(th->p);
            open_sleeps = true;
        }
        spare_sleeps = spare_sleeps || th->p == SPARE;
    }
    for (int i = 0; i < THREADS; i++)
        kept |= s->th[i].pinned;
    for (int gp = 0; gp < ITEMS; gp++)
        if (ran & bit(gp))
            issued |= sc->item[gp].children;
    if (issued & (uint8_t)~(ran | kept))
        return "a goroutine is lost";
    if (waits && open_sleeps)
        return "work waits while an open P is idle";
    if (waits && spare_sleeps && s->mem[NLENT] != 0)
        return "work waits while the spare P is idle and stands in for another";
    if (s->mem[NSPINNING] != 0)
        return "nobody looks for work, but nspinning is not 0";
    if (s->mem[IDLE] != idle)
        return "the idle mask is not the open Ps that sleep";
    if (s->mem[NIDLE] != popcount(idle))
        return "nidle is not the number of bits in the idle mask";
    return NULL;
}

static uint64_t
fingerprint(const state *s)
{
    const uint8_t *p = (const uint8_t *)s;
    uint64_t h = UINT64_C(0x9e3779b97f4a7c15), word;
    for (size_t at = 0; at < sizeof(*s); at += sizeof(word)) {
        size_t n = sizeof(*s) - at < sizeof(word) ? sizeof(*s) - at : sizeof(word);
        word = 0;
        memcpy(&word, p + at, n);
        h = (h ^ word) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 29;
    }
    h *= UINT64_C(0xc4ceb9fe1a85ec53);
    h ^= h >> 32;
    return h != 0 ? h : 1;
}

/* A state is kept as its fingerprint, with the way that led there first; in full only
   while it waits to be looked at. */
static struct {
    uint64_t *table;            /* fingerprints; 0: free */
    uint32_t *index;            /* their states */
    uint64_t size;              /* a power of two */
    uint32_t *from;
    uint8_t *move;              /* thread * 4 + choice; + FLUSH */
    uint32_t count, room;
    state *queue, *next;
    uint32_t nqueue, nnext, next_room;
    uint32_t (*edges)[2];
    size_t nedges, edge_room;
} seen;

enum { FLUSH = 3 };

static void *
grown(void *p, size_t n)
{
    p = realloc(p, n);
    if (p == NULL) {
        fprintf(stderr, "sched_model: out of memory\n");
        exit(2);
    }
    return p;
}

static void
table_grow(void)
{
    uint64_t old = seen.size, *table = seen.table;
    uint32_t *index = seen.index;
    seen.size = old ? old * 2 : 1 << 16;
    seen.table = calloc(seen.size, sizeof(*seen.table));
    seen.index = calloc(seen.size, sizeof(*seen.index));
    if (seen.table == NULL || seen.index == NULL)
        exit(2);
    for (uint64_t i = 0; i < old; i++) {
        if (table[i] == 0)
            continue;
        uint64_t at = table[i] & (seen.size - 1);
        while (seen.table[at] != 0)
            at = (at + 1) & (seen.size - 1);
        seen.table[at] = table[i];
        seen.index[at] = index[i];
    }
    free(table);
    free(index);
}

/* The number of a state; a new one is queued. */
static uint32_t
add_state(const state *s, uint32_t from, uint8_t move)
{
    if (2 * (uint64_t)seen.count >= seen.size)
        table_grow();
    uint64_t h = fingerprint(s), at = h & (seen.size - 1);
    for (; seen.table[at] != 0; at = (at + 1) & (seen.size - 1))
        if (seen.table[at] == h)
            return seen.index[at];
    if (seen.count == seen.room) {
        seen.room = seen.room ? seen.room * 2 : 1 << 16;
        seen.from = grown(seen.from, seen.room * sizeof(*seen.from));
        seen.move = grown(seen.move, seen.room * sizeof(*seen.move));
    }
    if (seen.nnext == seen.next_room) {
        seen.next_room = seen.next_room ? seen.next_room * 2 : 1 << 12;
        seen.next = grown(seen.next, seen.next_room * sizeof(*seen.next));
        seen.queue = grown(seen.queue, seen.next_room * sizeof(*seen.queue));
    }
    seen.table[at] = h;
    seen.index[at] = seen.count;
    seen.from[seen.count] = from;
    seen.move[seen.count] = move;
    seen.next[seen.nnext++] = *s;
    return seen.count++;
}

static void
add_edge(uint32_t from, uint32_t to)
{
    if (seen.nedges == seen.edge_room) {
        seen.edge_room = seen.edge_room ? seen.edge_room * 2 : 1 << 16;
        seen.edges = grown(seen.edges, seen.edge_room * sizeof(*seen.edges));
    }
    seen.edges[seen.nedges][0] = from;
    seen.edges[seen.nedges++][1] = to;
}

static void
forget_all(void)
{
    free(seen.table);
    free(seen.index);
    free(seen.from);
    free(seen.move);
    free(seen.queue);
    free(seen.next);
    free(seen.edges);
    memset(&seen, 0, sizeof(seen));
}

/* Make a move; false: it is none. */
static bool
make_move(state *s, uint8_t move)
{
    int i = move / 4;
    said[0] = '\0';
    broken = NULL;
    if (move % 4 == FLUSH) {
        if (s->th[i].nstores == 0)
            return false;
        flush(s, &s->th[i]);
        return true;
    }
    choice = move % 4;
    choices = 1;
    return step(s, i) != BLOCKED && choice < choices;
}

static void
print_way(uint32_t to)
{
    static uint8_t moves[100000];
    uint32_t n = 0;
    for (uint32_t at = to; at != 0 && n < sizeof(moves); at = seen.from[at])
        moves[n++] = seen.move[at];
    state s = first_state();
    while (n-- > 0) {
        state before = s;
        make_move(&s, moves[n]);
        int i = moves[n] / 4;
        static const char *const roles[] = {"", "M", "producer", "submitter", "set_procs",
                                            "lender", "starter"};
        if (said[0] != '\0' || before.mem[NSPINNING] != s.mem[NSPINNING]) {
            printf("    %s%d%-*s", roles[sc->th[i].role], sc->th[i].role == M ? sc->th[i].p : i,
                   12 - (int)strlen(roles[sc->th[i].role]), ":");
            printf("%s%s", said, said[0] ? "; " : "");
            printf("spinning %d, idle %#x (%d)\n", s.mem[NSPINNING], s.mem[IDLE], s.mem[NIDLE]);
        }
    }
}

/* The first state from which none of the ends can be reached; 0: there is none. */
static uint32_t
trapped(const uint8_t *is_end)
{
    uint32_t n = seen.count, top = 0;
    size_t *first = calloc((size_t)n + 2, sizeof(*first));
    uint32_t *preds = malloc((seen.nedges + 1) * sizeof(*preds));
    uint32_t *stack = malloc(((size_t)n + 1) * sizeof(*stack));
    uint8_t *good = calloc((size_t)n + 1, 1);
    if (first == NULL || preds == NULL || stack == NULL || good == NULL)
        exit(2);
    for (size_t e = 0; e < seen.nedges; e++)
        first[seen.edges[e][1] + 2]++;
    for (uint32_t i = 1; i <= n; i++)
        first[i + 1] += first[i];
    for (size_t e = 0; e < seen.nedges; e++)
        preds[first[seen.edges[e][1] + 1]++] = seen.edges[e][0];
    for (uint32_t i = 0; i < n; i++)
        if (is_end[i])
            good[stack[top++] = i] = 1;
    while (top > 0) {
        uint32_t at = stack[--top];
        for (size_t e = first[at]; e < first[at + 1]; e++)
            if (!good[preds[e]])
                good[stack[top++] = preds[e]] = 1;
    }
    uint32_t bad = 0;
    while (bad < n && good[bad])
        bad++;
    free(first);
    free(preds);
    free(stack);
    free(good);
    return bad < n ? bad : 0;
}

static bool
failed(const char *why, uint32_t at)
{
    printf("%s: %s\n", sc->name, why);
    print_way(at);
    return false;
}

/* True: all is well. */
static bool
check_scenario(bool quiet)
{
    uint8_t *is_end = NULL;
    size_t end_room = 0;
    uint32_t ends = 0, at = 0;
    state s;
    bool well = true;
    memset(&changes, 0, sizeof(changes));
    for (int i = 0; i < THREADS; i++) {
        changes.procs = changes.procs || sc->th[i].role == SET_PROCS;
        changes.lent = changes.lent || sc->th[i].role == LENDER;
        changes.by_id = changes.by_id || (sc->th[i].role == M && !(sc->started & bit(sc->th[i].p)));
    }
    for (int i = 0; i < ITEMS; i++)
        if (sc->item[i].kind == LOCKS_STAYS)
            changes.procs = changes.lent = true;
    s = first_state();
    add_state(&s, 0, 0);
    while (well && seen.nnext > 0) {
        state *swap = seen.queue;
        seen.queue = seen.next;
        seen.next = swap;
        seen.nqueue = seen.nnext;
        seen.nnext = 0;
        if (end_room < (size_t)at + seen.nqueue) {
            size_t room = 2 * ((size_t)at + seen.nqueue);
            is_end = grown(is_end, room);
            memset(is_end + end_room, 0, room - end_room);
            end_room = room;
        }
        for (uint32_t q = 0; well && q < seen.nqueue; q++, at++) {
            bool moved = false;
            for (uint8_t move = 0; well && move < THREADS * 4; move++) {
                const thread *th = &seen.queue[q].th[move / 4];
                if (!th->alive || (move % 4 == FLUSH ? th->nstores == 0
                                                     : th->ended || (move % 4 && !sc->start_fails)))
                    continue;
                s = seen.queue[q];
                if (!make_move(&s, move))
                    continue;
                moved = true;
                uint32_t to = add_state(&s, at, move);
                add_edge(at, to);
                if (broken != NULL)
                    well = failed(broken, to);
            }
            if (well && !moved) {
                is_end[at] = 1;
                ends++;
                const char *wrong = wrong_at_end(&seen.queue[q]);
                if (wrong != NULL)
                    well = failed(wrong, at);
            }
        }
    }
    if (well) {
        uint32_t bad = trapped(is_end);
        if (bad != 0)
            well = failed("it may go round in circles for ever", bad);
    }
    if (well && !quiet)
        printf("%-20s %9u states, %5u ends: %s\n", sc->name, seen.count, ends, sc->what);
    fflush(stdout);
    free(is_end);
    forget_all();
    return well;
}

int
main(int argc, char **argv)
{
    const char *only = NULL;
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
            printf("%s\n", scenarios[i].name);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--mutants") == 0) {
        for (int i = SOUND + 1; i < MUTANTS; i++)
            printf("%s\n", mutants[i]);
        return 0;
    }
    if (argc >= 3 && strcmp(argv[1], "--mutant") == 0) {
        for (int i = SOUND + 1; i < MUTANTS; i++)
            if (strcmp(argv[2], mutants[i]) == 0)
                planted = (mutant)i;
        if (planted == SOUND) {
            fprintf(stderr, "sched_model: no mistake %s\n", argv[2]);
            return 2;
        }
        only = argc > 3 ? argv[3] : NULL;
    }
    else if (argc == 2)
        only = argv[1];
    bool found = false;
    const scenario *from = scenarios;
    size_t n = sizeof(scenarios) / sizeof(scenarios[0]);
    if (only != NULL && strcmp(only, "--large") == 0) {
        only = NULL;
        from = large;
        n = sizeof(large) / sizeof(large[0]);
    }
    for (size_t i = 0; i < n; i++) {
        sc = &from[i];
        if (only != NULL && strcmp(only, sc->name) != 0)
            continue;
        found = true;
        if (!check_scenario(planted != SOUND))
            return 1;
    }
    if (!found) {
        fprintf(stderr, "sched_model: no scenario %s\n", only);
        return 2;
    }
    return 0;
}
