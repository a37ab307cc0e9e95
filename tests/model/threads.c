/* threads.c - what the threads of a scenario do, one move at a time. */
#include <string.h>

#include "steps.h"

const char *broken;
char said[200];
uint32_t choice, choices;

static void
run_once(state *s, int gp)
{
    if (s->mem[RAN] & bit(gp))
        broken = "a goroutine runs twice";
    s->mem[RAN] |= bit(gp);
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
alarmer_main(state *s, thread *th, const scenario *sn, int self)
{
    BEGIN(F_MAIN)
    th->arg = sn->th[self].items;
    while (th->arg != 0) {
        CALL(rt_p_start_alarm(s, th, sn->th[self].p, lowest(th->arg)));
        th->arg &= (uint8_t)(th->arg - 1);
    }
    STOP;
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

static bool
alarms_started(const state *s)
{
    for (int i = 0; i < THREADS; i++)
        if (sc->th[i].role == ALARMER && !s->th[i].ended)
            return false;
    return true;
}

/* Sysmon lends a P, and again when it finds it stuck with something to do. */
static outcome
lender_main(state *s, thread *th, const scenario *sn, int self)
{
    BEGIN(F_MAIN)
    CALL(rt_sched_lend(s, th, sn->th[self].p));
    AWAIT(s->th[sn->th[self].p].ended && s->th[sn->th[self].p].nstores == 0
          && alarms_started(s));
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
    case ALARMER:
        return alarmer_main(s, th, sc, i);
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

state
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

bool
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
