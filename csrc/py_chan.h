/* py_chan.h - channels, as their views, select, contexts and timers see them. */
#ifndef PY_CHAN_H
#define PY_CHAN_H

#include "py_core.h"

typedef struct {
    PyObject_HEAD
    py_lock lock;               /* guards all of the following but weakrefs */
    py_waitq recvq, sendq;
    PyObject **buf;             /* owned ring of owned values, `capacity` long */
    Py_ssize_t capacity, len, head;
    bool closed : 1;
    bool timed : 1;             /* it has a clock */
    bool bubbled : 1;           /* made in a bubble; never changes once others know it */
    uint8_t reason;             /* PY_WAIT_*: what its receivers wait for */
    struct py_clock *clock;     /* owned, or NULL: a timer's or ticker's, see py_time.h */
#ifdef Py_GIL_DISABLED
    _Atomic uint32_t changes;   /* how often it may have become ready for somebody; others may
                                   look: see py_select.c */
#endif
    py_bubble *bubble;          /* owned, or NULL: where it may be used */
    PyObject *weakrefs;
} Chan;

static inline bool
py_chan_check(PyObject *op)
{
    return Py_IS_TYPE(op, core->chan_type);
}

/* What follows takes a Chan, sets no exception but where it says so, never parks and may be
   called wherever the caller is attached, by the scheduler and by timers, too. */

/* A new reference, or NULL with MemoryError set. */
PyObject *py_chan_new(Py_ssize_t capacity);
/* 1 sent, 0 that would block, less: it is closed, say; value is borrowed. */
int py_chan_try_send(PyObject *ch, PyObject *value);
/* Drop what is in the buffer, at once if the capacity is 1, and return how many values that
   were.  Senders that wait get the room.  What is dropped may run Python. */
int py_chan_drain(PyObject *ch);
/* Close it unless it is closed; wakes all who wait. */
void py_chan_close(PyObject *ch);

/* ---- for py_chan.c, py_chan_view.c and py_select.c ---- */

/* The methods of Chan that its views have, too. */
PyObject *py_chan_method_send(Chan *ch, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_chan_method_recv(Chan *ch, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_chan_method_recv_ok(Chan *ch, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_chan_method_try_send(Chan *ch, PyObject *value);
PyObject *py_chan_method_try_recv(Chan *ch);
PyObject *py_chan_method_close(Chan *ch);
PyObject *py_chan_method_next(Chan *ch);
/* Raises ChanClosed; returns NULL. */
PyObject *py_chan_raise_closed(const char *what);
/* Raises RuntimeError, for PY_CHAN_ELSEWHERE; returns NULL. */
PyObject *py_chan_raise_elsewhere(void);
/* Is it of a bubble that the caller is not in? */
bool py_chan_is_elsewhere_slow(const Chan *ch);
static inline bool
py_chan_is_elsewhere(const Chan *ch)
{
    return RT_UNLIKELY(ch->bubbled) && py_chan_is_elsewhere_slow(ch);
}

/* The *_now functions are called with the channel's lock held and leave it to the caller to
   ready, once it has let go, the waiter they have served. */

#define PY_CHAN_ELSEWHERE (-3)  /* it belongs to a bubble that the caller is not in */
#define PY_CHAN_PLAIN (-4)      /* of py_chan_recv_special() alone: go on as with any other */

/* A channel that is closed or belongs to a bubble: what a send returns; 0: go on. */
int py_chan_send_special(Chan *ch);
/* One that also may have a clock: what py_chan_recv_now() returns, or PY_CHAN_PLAIN. */
int py_chan_recv_special(Chan *ch, PyObject **out);

/* py_clock.c: the channel of a timer has a clock, and nothing else.  Called with its lock. */

/* As py_chan_recv_now(). */
int py_clock_take(Chan *ch, PyObject **out);
/* Somebody waits to receive; and nobody does any more. */
void py_clock_start(Chan *ch);
void py_clock_stop(Chan *ch);
/* To be called before one arms who may have to wait to receive, without the lock. */
void py_clock_prepare_slow(void);
static inline void
py_clock_prepare(const Chan *ch)
{
    if (RT_UNLIKELY(ch->timed))
        py_clock_prepare_slow();
}

/* The channel, which is locked, may now be ready for who finds it later. */
static inline void
py_chan_changed(Chan *ch)
{
#ifdef Py_GIL_DISABLED
    RT_COUNT(ch->changes, 1);
#else
    (void)ch;
#endif
}

static inline void
py_chan_push(Chan *ch, PyObject *value)
{
    Py_ssize_t i = ch->head + ch->len++;
    ch->buf[i >= ch->capacity ? i - ch->capacity : i] = value;
    py_chan_changed(ch);
}

static inline PyObject *
py_chan_pop(Chan *ch)
{
    PyObject *value = ch->buf[ch->head];
    if (++ch->head == ch->capacity)
        ch->head = 0;
    ch->len--;
    py_chan_changed(ch);
    return value;
}

/* w waits in q, one of the channel's two. */
static inline void
py_chan_queue(Chan *ch, py_waitq *q, py_waiter *w)
{
    py_waitq_push(q, w);
    py_chan_changed(ch);
    if (RT_UNLIKELY(ch->timed))
        py_clock_start(ch);
}

/* It does not any more, or has not for a while. */
static inline void
py_chan_leave(Chan *ch, py_waiter *w)
{
    py_waitq_remove(w);
    if (RT_UNLIKELY(ch->timed) && ch->recvq.head == NULL)
        py_clock_stop(ch);
}

/* Send without waiting: 1 done, 0 would block, -1 closed, or PY_CHAN_ELSEWHERE (no exception
   set). */
static inline int
py_chan_send_now(Chan *ch, PyObject *value, py_waiter **served)
{
    *served = NULL;
    if (RT_UNLIKELY(ch->closed || ch->bubbled)) {
        int r = py_chan_send_special(ch);
        if (r != 0)
            return r;
    }
    py_waiter *w = py_waitq_claim(&ch->recvq, RT_WAKE_READY);
    if (w != NULL) {
        w->value = Py_NewRef(value);
        *served = w;
        return 1;
    }
    if (ch->len < ch->capacity) {
        py_chan_push(ch, Py_NewRef(value));
        return 1;
    }
    return 0;
}

/* Receive without waiting: 1 *out set (owned), 0 would block, -1 closed and drained, -2 no
   memory, or PY_CHAN_ELSEWHERE (no exception set).  Who waits on a channel with a clock, and
   is woken as if it were closed, must try again. */
static inline int
py_chan_recv_now(Chan *ch, PyObject **out, py_waiter **served)
{
    if (RT_UNLIKELY(ch->closed || ch->bubbled || ch->timed)) {
        *served = NULL;
        int r = py_chan_recv_special(ch, out);
        if (r != PY_CHAN_PLAIN)
            return r;
    }
    py_waiter *w = *served = py_waitq_claim(&ch->sendq, RT_WAKE_READY);
    if (ch->len > 0) {
        *out = py_chan_pop(ch);
        if (w != NULL)
            py_chan_push(ch, w->value);
    }
    else if (w != NULL)
        *out = w->value;
    else
        return 0;
    if (w != NULL)
        w->value = NULL;
    return 1;
}

/* py_chan_view.c */

/* The channel that one may receive from by way of op, a Chan or Receiver, or send to, a Chan
   or Sender (borrowed); or NULL, without an exception. */
Chan *py_chan_to_recv(PyObject *op);
Chan *py_chan_to_send(PyObject *op);
PyObject *py_chan_receiver(Chan *ch);
PyObject *py_chan_sender(Chan *ch);

#endif
