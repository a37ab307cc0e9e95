/* rt_timer.c - see rt_timer.h.
 *
 * A 4-ary heap is half as deep as a binary one, and the four children of a node
 * are neighbours in memory; the deadline lies beside the pointer, so a heap of a
 * million timers is searched without touching the timers themselves.  A stopped
 * timer leaves at once: the usual alternative, to mark it and drop it when it
 * reaches the top, keeps the memory of a million cancelled time-outs until the
 * last would have fired.
 *
 * Invariants (i, j indices into slots):
 *   - slots[i].t->slot == i + 1 and slots[i].when == slots[i].t->when for all
 *     i < len + held; a timer that is not started has slot 0
 *   - for i < len no node sorts before its parent, by (when, seq)
 *   - held == 0 unless running; for len <= i < len + held: slots[i].when <= run_now
 *   - len + held <= cap; cap is 0 or MIN_CAP times a power of two
 *
 * Held timers: one that is started during a run and is due already must not fire
 * in that run, or a timer that restarts itself would never let the run end.  It
 * waits unsorted behind the heap and joins it when the run is over.
 */
#include "rt_timer.h"

#include <errno.h>
#include <stdlib.h>

enum {
    MIN_CAP = 64,       /* never shrunk below this */
    MAX_CAP = 1 << 30   /* keeps len + held and slot within 32 bits */
};

static inline bool
before(int64_t when, const rt_timer *t, const rt_timer_slot *other)
{
    return when != other->when ? when < other->when : t->seq < other->t->seq;
}

static inline void
put(rt_timers *ts, size_t i, rt_timer_slot s)
{
    ts->slots[i] = s;
    s.t->slot = (uint32_t)i + 1;
}

/* Place s at i or above. */
static void
sift_up(rt_timers *ts, size_t i, rt_timer_slot s)
{
    while (i > 0) {
        size_t parent = (i - 1) / 4;
        if (!before(s.when, s.t, &ts->slots[parent]))
            break;
        put(ts, i, ts->slots[parent]);
        i = parent;
    }
    put(ts, i, s);
}

/* Place s at i or below. */
static void
sift_down(rt_timers *ts, size_t i, rt_timer_slot s)
{
    size_t len = RT_LOAD(ts->len);
    for (;;) {
        size_t child = 4 * i + 1;
        if (child >= len)
            break;
        size_t end = child + 4 < len ? child + 4 : len;
        size_t least = child;
        for (child++; child < end; child++) {
            if (before(ts->slots[child].when, ts->slots[child].t, &ts->slots[least]))
                least = child;
        }
        if (before(s.when, s.t, &ts->slots[least]))
            break;
        put(ts, i, ts->slots[least]);
        i = least;
    }
    put(ts, i, s);
}

static int
resize(rt_timers *ts, uint32_t cap)
{
    rt_timer_slot *slots = realloc(ts->slots, cap * sizeof(slots[0]));
    if (slots == NULL)
        return -ENOMEM;
    ts->slots = slots;
    ts->cap = cap;
    return 0;
}

static RT_COLD int
grow_slow(rt_timers *ts)
{
    if (ts->cap >= MAX_CAP)
        return -ENOMEM;
    return resize(ts, ts->cap ? ts->cap * 2 : MIN_CAP);
}

/* After a shrink the array is half full: neither the next start nor the next stop
   resizes it again. */
static RT_COLD void
shrink_slow(rt_timers *ts)
{
    /* A failure leaves the old array, which is as good. */
    (void)resize(ts, ts->cap / 2);
}

/* Put t, whose when is set, behind all equal deadlines.  There is room. */
static inline void
insert(rt_timers *ts, rt_timer *t)
{
    rt_timer_slot s = {t->when, t};
    t->seq = ts->next_seq++;
    size_t len = RT_LOAD(ts->len);
    if (RT_UNLIKELY(ts->running)) {
        if (s.when <= ts->run_now) {
            put(ts, len + ts->held++, s);
            return;
        }
        if (ts->held != 0)      /* the held ones are in no order */
            put(ts, len + ts->held, ts->slots[len]);
    }
    RT_STORE(ts->len, (uint32_t)len + 1);
    sift_up(ts, len, s);
}

/* Take out the timer at i, which keeps its slot field. */
static inline void
take(rt_timers *ts, size_t i)
{
    size_t len = RT_LOAD(ts->len);
    if (RT_UNLIKELY(i >= len)) {
        size_t last = len + --ts->held;
        if (i != last)
            put(ts, i, ts->slots[last]);
        return;
    }
    size_t last = len - 1;
    RT_STORE(ts->len, (uint32_t)last);
    rt_timer_slot s = ts->slots[last];
    if (RT_UNLIKELY(ts->held != 0))
        put(ts, last, ts->slots[last + ts->held]);
    if (i == last)
        return;
    if (i > 0 && before(s.when, s.t, &ts->slots[(i - 1) / 4]))
        sift_up(ts, i, s);
    else
        sift_down(ts, i, s);
}

static inline size_t
index_of(const rt_timers *ts, const rt_timer *t)
{
    size_t i = (size_t)t->slot - 1;
    if (RT_UNLIKELY(i >= (size_t)RT_LOAD(ts->len) + ts->held || ts->slots[i].t != t))
        rt_throw("timer: not in this heap");
    return i;
}

static inline void
stop(rt_timers *ts, rt_timer *t)
{
    take(ts, index_of(ts, t));
    t->slot = 0;
    if (RT_UNLIKELY((RT_LOAD(ts->len) + ts->held) * 4 <= ts->cap && ts->cap > MIN_CAP))
        shrink_slow(ts);
}

void
rt_timers_init(rt_timers *ts)
{
    *ts = (rt_timers){0};
}

void
rt_timers_fini(rt_timers *ts)
{
    for (size_t i = 0; i < (size_t)RT_LOAD(ts->len) + ts->held; i++)
        ts->slots[i].t->slot = 0;
    free(ts->slots);
    *ts = (rt_timers){0};
}

int
rt_timers_start(rt_timers *ts, rt_timer *t)
{
    if (RT_UNLIKELY(t->slot != 0))
        rt_throw("timer: started twice");
    if (RT_UNLIKELY(RT_LOAD(ts->len) + ts->held == ts->cap)) {
        int err = grow_slow(ts);
        if (err != 0)
            return err;
    }
    insert(ts, t);
    return 0;
}

bool
rt_timers_stop(rt_timers *ts, rt_timer *t)
{
    if (t->slot == 0)
        return false;
    stop(ts, t);
    return true;
}

void
rt_timers_move(rt_timers *ts, rt_timer *t, int64_t when)
{
    size_t i = index_of(ts, t);
    if (RT_UNLIKELY(ts->running)) {
        take(ts, i);
        t->when = when;
        insert(ts, t);
        return;
    }
    int64_t old = t->when;
    t->when = when;
    t->seq = ts->next_seq++;
    rt_timer_slot s = {when, t};
    /* The new seq is the highest: with an equal deadline it can only sink. */
    if (when < old)
        sift_up(ts, i, s);
    else
        sift_down(ts, i, s);
}

/* Let the held timers join the heap, in place. */
static RT_COLD void
release_held_slow(rt_timers *ts)
{
    uint32_t held = ts->held;
    ts->held = 0;
    for (uint32_t n = 0; n < held; n++) {
        size_t len = RT_LOAD(ts->len);
        rt_timer_slot s = ts->slots[len];
        RT_STORE(ts->len, (uint32_t)len + 1);
        sift_up(ts, len, s);
    }
}

uint32_t
rt_timers_run(rt_timers *ts, int64_t now)
{
    uint32_t fired = 0;
    if (RT_UNLIKELY(ts->running))
        rt_throw("timer: run called by a fire function");
    if (RT_LOAD(ts->len) == 0 || ts->slots[0].when > now)
        return 0;
    ts->running = true;
    ts->run_now = now;
    do {
        rt_timer *t = ts->slots[0].t;
        stop(ts, t);
        fired++;
        t->fire(t);     /* may free t */
    } while (RT_LOAD(ts->len) != 0 && ts->slots[0].when <= now);
    ts->running = false;
    if (ts->held != 0)
        release_held_slow(ts);
    return fired;
}
