/* py_waits.c - whom goroutines wait for, read off what they are queued in.
 *
 * Nothing is recorded when a goroutine parks: its waiter knows the queue that it is in, its
 * reason tells the type of the object that the queue is a part of, and the caller of the
 * method that waits keeps that object alive.  Only select() and Cond.wait(), which queue
 * waiters of their own, leave a word in the seat; and locks say who has taken them.
 *
 * Inside of bubbles the HTTP server waits with reasons that are Semaphore's and WaitGroup's
 * outside of them, so these two are not looked for there.
 */
#include "py_waits.h"

#include "py_chan.h"

static PyObject *
owner_of_queue(const Goroutine *gp, py_waitq *q)
{
    switch (gp->g.reason) {
    case PY_WAIT_CHAN_SEND:
        return (PyObject *)RT_CONTAINER_OF(q, Chan, sendq);
    case PY_WAIT_CHAN_RECV:
        return (PyObject *)RT_CONTAINER_OF(q, Chan, recvq);
    case PY_WAIT_JOIN:
        return (PyObject *)RT_CONTAINER_OF(q, Goroutine, joiners);
    case PY_WAIT_MUTEX:
        return py_mutex_of_queue(q);
    case PY_WAIT_RWMUTEX_LOCK:
        return py_rwmutex_of_queue(q, true);
    case PY_WAIT_RWMUTEX_RLOCK:
        return py_rwmutex_of_queue(q, false);
    case PY_WAIT_ONCE:
        return py_once_of_queue(q);
    case PY_WAIT_EVENT:
        return py_event_of_queue(q);
    case PY_WAIT_GROUP:
        return gp->g.bubbled ? NULL : py_waitgroup_of_queue(q);
    case PY_WAIT_SEMA:
        return gp->g.bubbled ? NULL : py_sema_of_queue(q);
    default:
        return NULL;
    }
}

uint32_t
py_waits_on(const Goroutine *gp, PyObject **on)
{
    const py_seat *seat = gp->seat;
    if (seat->waits_in != NULL && gp->g.reason == PY_WAIT_SELECT)
        return py_select_channels(seat->waits_in, on, PY_MAX_WAITS_ON);
    if (seat->waits_in != NULL && gp->g.reason == PY_WAIT_COND)
        on[0] = (PyObject *)seat->waits_in;
    else
        on[0] = seat->waiter.queue ? owner_of_queue(gp, seat->waiter.queue) : NULL;
    return on[0] != NULL;
}

int64_t
py_waits_holder(PyObject *on)
{
    PyTypeObject *type = Py_TYPE(on);
    if (type == core->mutex_type)
        return py_mutex_holder(on);
    if (type == core->rwmutex_type)
        return py_rwmutex_holder(on);
    if (type == core->once_type)
        return py_once_holder(on);
    return type == core->goroutine_type ? ((Goroutine *)on)->id : 0;
}
