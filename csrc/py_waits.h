/* py_waits.h - whom goroutines wait for; see py_waits.c. */
#ifndef PY_WAITS_H
#define PY_WAITS_H

#include "py_core.h"

#define PY_MAX_WAITS_ON 16      /* of a select with more cases the first are told */

/* Id of the goroutine that holds a lock; 0: none of them, or a plain thread.  Only for who
   looks: it changes a little after the lock does. */
typedef _Atomic int64_t py_holder;

/* The caller holds it now. */
static inline void
py_holder_set(py_holder *holder)
{
    const py_m *mp = py_tls_m;
    RT_STORE(*holder, RT_LIKELY(mp != NULL && mp->curg != NULL) ? mp->curg->id : 0);
}

/* The objects gp waits for, a goroutine with the status RT_G_WAITING, while no other thread
   runs: at most PY_MAX_WAITS_ON, borrowed.  Returns how many. */
uint32_t py_waits_on(const Goroutine *gp, PyObject **on);
/* The id of the goroutine that can end a wait for this object, if a certain one can; or 0. */
int64_t py_waits_holder(PyObject *on);

/* Each by the file of the type: what has this queue. */
PyObject *py_mutex_of_queue(py_waitq *q);
PyObject *py_rwmutex_of_queue(py_waitq *q, bool write);
PyObject *py_once_of_queue(py_waitq *q);
PyObject *py_sema_of_queue(py_waitq *q);
PyObject *py_waitgroup_of_queue(py_waitq *q);
PyObject *py_event_of_queue(py_waitq *q);
/* Channels of a selection; returns how many, at most max. */
uint32_t py_select_channels(const void *waits_in, PyObject **channels, uint32_t max);
/* Likewise: who holds it, or 0. */
int64_t py_mutex_holder(PyObject *mutex);
int64_t py_rwmutex_holder(PyObject *rwmutex);
int64_t py_once_holder(PyObject *once);

#endif
