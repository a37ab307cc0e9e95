/* model.h - a model of the scheduler's sleep and wake protocol, all of whose interleavings
 * are tried.
 *
 *   protocol.c    the functions of the scheduler (csrc/rt_sched.c, rt_ready.c, rt_p.c) and of the
 *                 poller's wake-up
 *   threads.c     what the threads of a scenario do with them, one move at a time
 *   scenarios.c   the scenarios, and the mistakes that can be planted
 *   check.c       makes all moves in all orders and says what is wrong
 *   seen.c        the states found so far and the ways to them
 *   steps.h       how protocol.c and threads.c are cut into steps; the memory model
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
    ALARM = LENT + ALL_PS,      /* bit mask of what a P's alarms make runnable, all of them due */
    SLOT = ALARM + ALL_PS,                                      /* private until TAIL says so */
    RAN = SLOT + ALL_PS * RING,                                 /* ghost: who has run */
    VARS
};

/* Where each function of a thread stands; no function calls itself. */
enum {
    F_MAIN, F_FIND, F_GLOBAL, F_STEAL, F_STOP, F_SLEEP, F_SHARED, F_TAKES, F_POLL, F_NPWAIT, F_PUT,
    F_WAKE_ONE, F_START, F_IDLE, F_SPARE, F_WAKE, F_PROCS, F_ALARMS, FUNCTIONS
};

typedef struct {
    uint8_t pc[FUNCTIONS];      /* 0: not running */
    uint8_t p;                  /* an M: its P */
    uint8_t spinning, pinned, runnext;  /* rt_p's plain fields; runnext: goroutine + 1 */
    uint8_t alive;              /* its thread was started */
    uint8_t ended;              /* or runs something that never returns */
    /* Locals; 0 while they mean nothing. */
    uint8_t gp, i, j, old, h, t, id, failed, n, got, from, listed, open, shared, spun, moved, due;
    uint8_t result, arg;
    uint8_t nstores;
    uint8_t stores[STORES][2];  /* variable, value; oldest first */
} thread;

typedef struct {
    uint8_t mem[VARS];
    thread th[THREADS];
} state;

/* ---- scenarios ---- */

typedef enum { NOTHING, M, PRODUCER, SUBMITTER, SET_PROCS, LENDER, STARTER, ALARMER } role;
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
        uint8_t p;              /* an M's; of a SUBMITTER or ALARMER, whose inbox or alarms it
                                   puts into; of a LENDER or STARTER, whose M is stuck or to
                                   be started */
        uint8_t items;          /* bit mask: what an M's queue of pinned ones holds, what a
                                   producer puts */
        uint8_t procs[2];       /* SET_PROCS: what it sets, one after the other; 0: nothing */
    } th[THREADS];
    struct {
        kind kind;
        uint8_t children;       /* bit mask */
    } item[ITEMS];
} scenario;

/* ---- planted mistakes ---- */

typedef enum {
    SOUND,
    NO_FENCE_IN_WAKE_ONE, NO_FENCE_BEFORE_SLEEP, NO_LOOK_AT_QUEUES, NO_LOOK_AT_INBOX,
    LOOK_BEFORE_SPINNING_ENDS, LOOK_BEFORE_LISTED, NO_WAKE_AFTER_FOUND, NO_SECOND_TRY,
    LISTED_BEFORE_DOZING, WAKE_WITHOUT_POLLER, POLLER_FORGETS_EARLY, NO_CHECK_BEFORE_POLL,
    NO_LOOK_AT_MODE, NO_FENCE_IN_SET_PROCS, CLOSED_KEEPS_QUIET, REOPENED_KEEPS_QUIET,
    STARTING_FOR_EVER, ONLY_FIRST_IS_STARTED, SPARE_NOT_WOKEN, LENT_ONCE,
    STEAL_WITHOUT_CAS, GLOBAL_SHRINKS_FIRST, SPARE_KEEPS_QUIET, TAKEN_BIT_NOT_COUNTED,
    BIT_OF_WHO_STARTS, STARTER_KEEPS_QUIET, ALARMS_BEFORE_DOZING, ALARM_WAKES_NOBODY,
    LENT_ALARMS_WAIT, MUTANTS
} mutant;

/* Ended by one without a name. */
extern const scenario scenarios[];
extern const scenario scenarios_large[];        /* these take minutes */
extern const char *const mutants[MUTANTS];      /* their names; none for SOUND */

extern mutant planted;
extern const scenario *sc;      /* the current one */
/* What changes in it: where nothing does, a look is not worth a step. */
typedef struct {
    bool procs;                 /* GOMAXPROCS and modes */
    bool by_id;                 /* which Ms were started */
    bool lent;                  /* lent Ps */
    bool alarms;
} scenario_changes;
extern scenario_changes changes;

void scenario_use(const scenario *sn);

/* ---- protocol.c: th makes its next step; results are in th's locals ---- */

typedef enum { FINISHED, PAUSED, BLOCKED } outcome;

/* th->gp: the goroutine to run + 1. */
outcome rt_sched_find(state *s, thread *th);
outcome rt_sched_put(state *s, thread *th, int gp);
outcome rt_sched_start(state *s, thread *th, int id);
outcome rt_sched_set_procs(state *s, thread *th, int n);
outcome rt_sched_lend(state *s, thread *th, int p);
outcome rt_p_put_fresh(state *s, thread *th, int gp);
outcome rt_p_lock(state *s, thread *th);
outcome rt_p_wake(state *s, thread *th, int p);
outcome rt_p_start_alarm(state *s, thread *th, int p, int gp);

/* ---- threads.c ---- */

/* A move is thread * 4 + the choice, or + FLUSH: its oldest store reaches memory. */
enum { FLUSH = 3, MOVES = THREADS * 4 };

extern const char *broken;      /* the rule that the move has broken, or NULL */
extern char said[200];          /* what the move did, for people */

state first_state(void);
/* Make a move; false: it is none. */
bool make_move(state *s, uint8_t move);

/* ---- seen.c ---- */

/* The number of a state; a new one is queued. */
uint32_t seen_add(const state *s, uint32_t from, uint8_t move);
/* The next state to be looked at, in the order of their numbers; false: that was all. */
bool seen_next(state *s);
void seen_add_edge(uint32_t from, uint32_t to);
/* Nothing can happen any more in this one. */
void seen_set_end(uint32_t at);
uint32_t seen_count(void);
/* The moves that led to a state, last one first; returns their number, at most max. */
uint32_t seen_way(uint32_t to, uint8_t *moves, uint32_t max);
/* The first state from which none of the ends can be reached; 0: there is none. */
uint32_t seen_trapped(void);
void seen_forget_all(void);

/* ---- check.c ---- */

/* Try all interleavings of a scenario.  True: all is well; unless quiet, a line about it is
   printed.  False: the way to the first failure was. */
bool check_scenario(const scenario *sn, bool quiet);

/* ---- bit masks ---- */

static inline uint8_t
bit(int i)
{
    return (uint8_t)(1 << i);
}

static inline int
popcount(uint8_t x)
{
    return __builtin_popcount(x);
}

static inline int
lowest(uint8_t x)
{
    return __builtin_ctz(x);
}

#endif
