/* steps.h - functions that stop before each access to shared memory and go on from there.
 *
 * A function of the model is cut into steps of one access to shared memory.  Where it stands
 * and its locals are in its thread's struct, so a copy of the state can go on another way.
 *
 * Memory is that of x86 (TSO): a plain store goes to a buffer of its thread and reaches memory
 * at any later time, in order; read-modify-writes, sequentially consistent stores and fences
 * wait until the buffer is empty.  The unlocking of a mutex is a plain store here, as it is
 * on other processors.
 */
#ifndef STEPS_H
#define STEPS_H

#include <stdio.h>
#include <stdlib.h>

#include "model.h"

extern uint32_t choice, choices;        /* which way a step goes, and how many there are */

static inline void
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
   lent Ps, alarms. */
#define PAUSE_PROCS if (changes.procs) PAUSE
#define PAUSE_BY_ID if (changes.by_id) PAUSE
#define PAUSE_LENT if (changes.lent) PAUSE
#define PAUSE_ALARMS if (changes.alarms) PAUSE
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

static inline uint8_t
load(const state *s, const thread *th, int var)
{
    for (int i = th->nstores; i-- > 0;)
        if (th->stores[i][0] == var)
            return th->stores[i][1];
    return s->mem[var];
}

/* A relaxed or release store. */
static inline void
store(thread *th, int var, uint8_t value)
{
    if (th->nstores == STORES) {
        fprintf(stderr, "sched_model: STORES is too small\n");
        exit(2);
    }
    th->stores[th->nstores][0] = (uint8_t)var;
    th->stores[th->nstores++][1] = value;
}

#endif
