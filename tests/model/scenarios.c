/* scenarios.c - the scenarios, and the mistakes that can be planted. */
#include "model.h"

#include <string.h>

const scenario scenarios[] = {
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
    {"alarms", "two threads start alarms of one M", 1, 1, false, true,
     {{M, 0}, {ALARMER, 0, 1}, {ALARMER, 0, 2}},
     {{RETURNS}}},
    {"lend_alarm", "the only M is stuck, a thread starts an alarm of it", 1, 1 | 1 << SPARE,
     false, false,
     {{M, 0, 1}, {M, SPARE}, {ALARMER, 0, 2}, {LENDER, 0}},
     {{STAYS}, {RETURNS}}},
    {"lend_alarm_start", "the same, and the spare M was never started", 1, 1, false, false,
     {{M, 0, 1}, {M, SPARE}, {ALARMER, 0, 2}, {LENDER, 0}},
     {{STAYS}, {RETURNS}}},
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
    {NULL},
};

const scenario scenarios_large[] = {
    {"shrink_grow_spawn", "GOMAXPROCS shrinks and grows again while a busy P spawns two", 3, 7,
     false, false,
     {{M, 0, 1}, {M, 1}, {M, 2}, {SET_PROCS, 0, 0, {2, 3}}},
     {{SPAWNS_STAYS, 2 | 4}, {STAYS}}},
    {"spawn_foreign", "a busy P spawns one that stays, a thread puts", 3, 7, false, false,
     {{M, 0, 1}, {M, 1}, {M, 2}, {PRODUCER, 0, 4}},
     {{SPAWNS_STAYS, 2}, {STAYS}}},
    {NULL},
};

const char *const mutants[MUTANTS] = {
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
    [ALARMS_BEFORE_DOZING] = "alarms_before_dozing",
    [ALARM_WAKES_NOBODY] = "alarm_wakes_nobody",
    [LENT_ALARMS_WAIT] = "lent_alarms_wait",
};

mutant planted;
const scenario *sc;
scenario_changes changes;

void
scenario_use(const scenario *sn)
{
    sc = sn;
    memset(&changes, 0, sizeof(changes));
    for (int i = 0; i < THREADS; i++) {
        changes.procs = changes.procs || sc->th[i].role == SET_PROCS;
        changes.lent = changes.lent || sc->th[i].role == LENDER;
        changes.alarms = changes.alarms || sc->th[i].role == ALARMER;
        changes.by_id = changes.by_id || (sc->th[i].role == M && !(sc->started & bit(sc->th[i].p)));
    }
    for (int i = 0; i < ITEMS; i++)
        if (sc->item[i].kind == LOCKS_STAYS)
            changes.procs = changes.lent = true;
}
