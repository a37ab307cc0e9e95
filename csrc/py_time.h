/* py_time.h - the channels of timers and tickers, as py_chan.c and select see them.
 *
 * Such a channel has a *clock*, which says when its next value is due, and nothing else: no
 * buffer, no value that lies about.  From then on a receiver finds the value there, which is
 * made for it; so one that was stopped or reset meanwhile can leave nothing stale behind.
 * Only while somebody waits to receive is the clock started as an alarm of a P.  So a
 * timer that nobody waits for costs nothing but its memory, and nothing keeps that.
 */
#ifndef PY_TIME_H
#define PY_TIME_H

#include "py_chan.h"

/* Guarded by the channel's lock. */
typedef struct py_clock py_clock;
struct py_clock {
    rt_timer alarm;             /* while it is started it owns a reference to ch */
    rt_alarms *home;            /* the set it was last started in, or NULL */
    int64_t when;               /* the next value is due, ns, py_now(); RT_FOREVER: stopped */
    int64_t period;             /* ns from value to value; 0: there is one only */
    Chan *ch;                   /* borrowed: whose it is */
    py_clock *next;             /* in py_m.dropped */
};

/* Receive without waiting: 1 *out set (owned), 0 would block.  The lock is held. */
int py_clock_take(Chan *ch, PyObject **out);
void py_clock_start_slow(Chan *ch);
void py_clock_stop_slow(Chan *ch);
void py_clock_prepare_slow(void);

/* How a receiver queues, in three steps that do for any channel: before it arms, instead of
   py_waitq_push(), and instead of py_waitq_remove(); the latter two with the lock held. */
static inline void
py_clock_prepare(Chan *ch)
{
    if (RT_UNLIKELY(ch->clock != NULL))
        py_clock_prepare_slow();
}
static inline void
py_clock_push(Chan *ch, py_waiter *w)
{
    py_waitq_push(&ch->recvq, w);
    if (RT_UNLIKELY(ch->clock != NULL))
        py_clock_start_slow(ch);
}
static inline void
py_clock_remove(Chan *ch, py_waiter *w)
{
    py_waitq_remove(w);
    if (RT_UNLIKELY(ch->clock != NULL) && ch->recvq.head == NULL)
        py_clock_stop_slow(ch);
}

#endif
