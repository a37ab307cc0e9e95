/* check.c - tries every interleaving of a scenario.
 *
 * Every thread that can make the next step makes it, in all orders, and each state is visited
 * once.  What must hold:
 *  - always: no goroutine runs twice, no M is started twice, no bit of the idle mask is set
 *    twice; the number of spinning Ms is never negative
 *  - where nothing can happen any more: every goroutine has run, but for what no P may run; no
 *    work waits while an open P sleeps or was not started; nobody counts as spinning; the idle
 *    mask names just the open Ps that sleep, and nidle is their number
 *  - such an end can be reached from every state: nobody goes round in circles
 */
#include <stdio.h>
#include <string.h>

#include "model.h"

/* What is wrong in a state where nothing can happen any more; NULL: nothing. */
static const char *
wrong_at_end(const state *s)
{
    uint8_t idle = 0, ran = s->mem[RAN], issued = 0, kept = s->mem[GLOBAL];
    bool waits = s->mem[GLOBAL] != 0, alarm_waits = false, open_sleeps = false, spare_sleeps = false;
    for (int p = 0; p < ALL_PS; p++) {
        waits = waits || s->mem[HEAD + p] != s->mem[TAIL + p];
        for (int at = s->mem[HEAD + p]; at < s->mem[TAIL + p]; at++)
            kept |= bit(s->mem[SLOT + p * RING + at]);
        kept |= s->mem[INBOX + p] | s->mem[ALARM + p];
        alarm_waits = alarm_waits || (s->mem[LENT + p] && s->mem[ALARM + p]);
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
        if ((sc->th[i].role != SUBMITTER && sc->th[i].role != ALARMER) || th->ended)
            issued |= sc->th[i].items;
        if (!th->alive || th->ended)
            continue;
        if (sc->th[i].role != M || th->pc[F_NPWAIT] == 0)
            return "a thread waits for ever, other than by sleeping";
        if (th->pinned || th->runnext || s->mem[INBOX + th->p] || s->mem[ALARM + th->p]
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
    if (alarm_waits && spare_sleeps)
        return "the alarm of a stuck M waits while the spare P is idle";
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

static void
print_way(uint32_t to)
{
    static uint8_t moves[100000];
    uint32_t n = seen_way(to, moves, sizeof(moves));
    state s = first_state();
    while (n-- > 0) {
        state before = s;
        make_move(&s, moves[n]);
        int i = moves[n] / 4;
        static const char *const roles[] = {"", "M", "producer", "submitter", "set_procs",
                                            "lender", "starter", "alarmer"};
        if (said[0] != '\0' || before.mem[NSPINNING] != s.mem[NSPINNING]) {
            printf("    %s%d%-*s", roles[sc->th[i].role], sc->th[i].role == M ? sc->th[i].p : i,
                   12 - (int)strlen(roles[sc->th[i].role]), ":");
            printf("%s%s", said, said[0] ? "; " : "");
            printf("spinning %d, idle %#x (%d)\n", s.mem[NSPINNING], s.mem[IDLE], s.mem[NIDLE]);
        }
    }
}

static bool
failed(const char *why, uint32_t at)
{
    printf("%s: %s\n", sc->name, why);
    print_way(at);
    return false;
}

bool
check_scenario(const scenario *sn, bool quiet)
{
    uint32_t ends = 0;
    state now, s;
    bool well = true;
    scenario_use(sn);
    s = first_state();
    seen_add(&s, 0, 0);
    for (uint32_t at = 0; well && seen_next(&now); at++) {
        bool moved = false;
        for (uint8_t move = 0; well && move < MOVES; move++) {
            const thread *th = &now.th[move / 4];
            if (!th->alive || (move % 4 == FLUSH ? th->nstores == 0
                                                 : th->ended || (move % 4 && !sc->start_fails)))
                continue;
            s = now;
            if (!make_move(&s, move))
                continue;
            moved = true;
            uint32_t to = seen_add(&s, at, move);
            seen_add_edge(at, to);
            if (broken != NULL)
                well = failed(broken, to);
        }
        if (well && !moved) {
            seen_set_end(at);
            ends++;
            const char *wrong = wrong_at_end(&now);
            if (wrong != NULL)
                well = failed(wrong, at);
        }
    }
    if (well) {
        uint32_t bad = seen_trapped();
        if (bad != 0)
            well = failed("it may go round in circles for ever", bad);
    }
    if (well && !quiet)
        printf("%-20s %9u states, %5u ends: %s\n", sc->name, seen_count(), ends, sc->what);
    fflush(stdout);
    seen_forget_all();
    return well;
}
