/* py_chan.h - channels, as select, contexts and timers see them. */
#ifndef PY_CHAN_H
#define PY_CHAN_H

#include "py_core.h"

typedef struct {
    PyObject_HEAD
    py_lock lock;               /* guards all of the following but weakrefs */
    py_waitq recvq, sendq;
    PyObject **buf;             /* owned ring of owned values, `capacity` long */
    Py_ssize_t capacity, len, head;
    bool closed;
    uint8_t reason;             /* PY_WAIT_*: what its receivers wait for */
    struct py_clock *clock;     /* owned, or NULL: it is a timer's, see py_time.h */
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
/* 1 sent, 0 that would block, -1 it is closed; value is borrowed. */
int py_chan_try_send(PyObject *ch, PyObject *value);
/* Drop what is in the buffer, at once if the capacity is 1, and return how many values that
   were.  Senders that wait get the room.  What is dropped may run Python. */
int py_chan_drain(PyObject *ch);
/* Close it unless it is closed; wakes all who wait. */
void py_chan_close(PyObject *ch);

#endif
