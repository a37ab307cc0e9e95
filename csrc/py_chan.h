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
    bool closed : 1;
    bool bubbled : 1;           /* made in a bubble; never changes once others know it */
    uint8_t reason;             /* PY_WAIT_*: what its receivers wait for */
    PyObject *weakrefs;
    py_bubble *bubble;          /* owned, or NULL: where it may be used */
} Chan;

static inline bool
py_chan_check(PyObject *op)
{
    return Py_IS_TYPE(op, core->chan_type);
}

#endif
