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
    PyObject *weakrefs;
} Chan;

static inline bool
py_chan_check(PyObject *op)
{
    return Py_IS_TYPE(op, core->chan_type);
}

#endif
