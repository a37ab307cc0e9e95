/* py_event.c - Event: a flag that can be waited for. */
#include "py_sync.h"
#include "py_waits.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    _Atomic bool set;           /* written under lock; others may look */
    py_lock lock;               /* guards waiters */
    py_waitq waiters;           /* empty while it is set */
    PyObject *weakrefs;
} Event;

PyObject *
py_event_of_queue(py_waitq *q)
{
    return (PyObject *)RT_CONTAINER_OF(q, Event, waiters);
}

static inline bool
event_is_set(Event *ev)
{
    return atomic_load_explicit(&ev->set, memory_order_acquire);
}

static PyObject *
event_set(Event *ev, PyObject *Py_UNUSED(ignored))
{
    py_waitq woken = {0};
    py_acquire(&ev->lock);
    atomic_store_explicit(&ev->set, true, memory_order_release);
    py_waitq_claim_all(&ev->waiters, RT_WAKE_READY, &woken);
    py_release(&ev->lock);
    py_ready_all(&woken);
    Py_RETURN_NONE;
}

static PyObject *
event_clear(Event *ev, PyObject *Py_UNUSED(ignored))
{
    py_acquire(&ev->lock);
    RT_STORE(ev->set, false);
    py_release(&ev->lock);
    Py_RETURN_NONE;
}

static PyObject *
event_wait(Event *ev, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    py_wait wait;
    if (py_limits_parse(&limits, "wait(" PY_LIMITS_USAGE ")", 0, args, nargs, kwnames) < 0)
        return NULL;
    if (event_is_set(ev))
        Py_RETURN_NONE;
    Goroutine *gp = py_current("Event.wait()");
    if (gp == NULL || py_wait_begin(&wait, &limits) < 0)
        return NULL;
    rt_g_arm(&gp->g);
    py_acquire(&ev->lock);
    bool set = event_is_set(ev);
    if (RT_LIKELY(!set))
        py_waitq_push(&ev->waiters, &gp->seat->waiter);
    py_release(&ev->lock);
    if (RT_UNLIKELY(set)) {
        py_stay(gp);
        py_wait_end(&wait);
        Py_RETURN_NONE;
    }
    uint32_t why = py_wait_park(gp, PY_WAIT_EVENT, &wait);
    if (RT_UNLIKELY(why != RT_WAKE_READY)) {
        py_acquire(&ev->lock);
        py_waitq_remove(&gp->seat->waiter);
        py_release(&ev->lock);
    }
    py_wait_end(&wait);
    if (RT_LIKELY(why == RT_WAKE_READY))
        Py_RETURN_NONE;
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("Event.wait()");
    return NULL;
}

static PyObject *
event_get_set(Event *ev, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(event_is_set(ev));
}

static PyObject *
event_repr(Event *ev)
{
    return PyUnicode_FromFormat("<Event %s at %p>", event_is_set(ev) ? "set" : "not set",
                                (void *)ev);
}

static PyMethodDef event_methods[] = {
    {"set", (PyCFunction)event_set, METH_NOARGS,
     "set($self)\n--\n\nSet the flag and wake all who wait for it."},
    {"clear", (PyCFunction)event_clear, METH_NOARGS,
     "clear($self)\n--\n\n"
     "Take the flag back.  Those it has woken are woken, whether they have run or not."},
    {"is_set", (PyCFunction)event_get_set, METH_NOARGS,
     "is_set($self)\n--\n\nWhether the flag is set."},
    {"wait", PY_FASTKW(event_wait),
     "wait($self, timeout=None, *, ctx=None)\n--\n\n"
     "Wait until the flag is set.\n\n"
     "Raises TimeoutError after timeout seconds, or ctx.err() when the context ctx ends."},
    {0},
};
static PyMemberDef event_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Event, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot event_slots[] = {
    {Py_tp_dealloc, py_sync_dealloc},
    {Py_tp_methods, event_methods},
    {Py_tp_members, event_members},
    {Py_tp_repr, event_repr},
    {Py_tp_doc,
     "Event()\n--\n\n"
     "A flag that goroutines and threads can wait for, and that can be taken back.\n\n"
     "Unlike threading.Event.wait(), wait() raises TimeoutError.  A channel that is closed\n"
     "does the same once, and can be used in select()."},
    {0, NULL},
};
static PyType_Spec event_spec = {"runtime.sync.Event", sizeof(Event), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, event_slots};

int
py_event_init_types(PyObject *module)
{
    return py_add_type(module, &event_spec, &core->event_type, true);
}
