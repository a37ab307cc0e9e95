/* py_ticker.c - Ticker; see py_time.h. */
#include "py_time.h"
#include "py_wait.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    Chan *ch;                   /* owned; its clock is the Ticker's state */
    PyObject *weakrefs;
} Ticker;

static PyObject *
ticker_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seconds", NULL};
    PyObject *seconds;
    int64_t ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Ticker", names, &seconds)
        || py_seconds_to_ns(seconds, "Ticker(seconds)", true, &ns) < 0)
        return NULL;
    Ticker *t = (Ticker *)type->tp_alloc(type, 0);
    if (t == NULL)
        return NULL;
    t->ch = py_clock_channel(py_time_later(py_now(), ns), ns);
    if (t->ch == NULL)
        Py_CLEAR(t);
    return (PyObject *)t;
}

static void
ticker_dealloc(Ticker *t)
{
    PyTypeObject *type = Py_TYPE(t);
    PyObject_ClearWeakRefs((PyObject *)t);
    Py_XDECREF(t->ch);
    type->tp_free(t);
    Py_DECREF(type);
}

static PyObject *
ticker_get_c(Ticker *t, void *Py_UNUSED(closure))
{
    return py_chan_receiver(t->ch);
}

/* Iterations end; those who receive from the channel wait on, for a reset(). */
static void
ticker_end(Ticker *t)
{
    Chan *ch = t->ch;
    py_waitq ended = {0};
    py_clock_set(ch, PY_NEVER, 0);
    py_acquire(&ch->lock);
    for (py_waiter *w = ch->recvq.head, *next; w != NULL; w = next) {
        next = w->next;
        if (!w->ticks)
            continue;
        py_waitq_remove(w);
        if (rt_g_claim(&w->g->g, RT_WAKE_CLOSED))
            py_waitq_push(&ended, w);
    }
    py_release(&ch->lock);
    py_ready_all(&ended);
}

static PyObject *
ticker_stop(Ticker *t, PyObject *Py_UNUSED(ignored))
{
    if (py_time_check_bubble(t->ch->bubble, "Ticker") < 0)
        return NULL;
    ticker_end(t);
    Py_RETURN_NONE;
}

static PyObject *
ticker_reset(Ticker *t, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t ns;
    PyObject *seconds = py_time_one_number(args, nargs, "Ticker.reset(seconds)");
    if (seconds == NULL || py_time_check_bubble(t->ch->bubble, "Ticker") < 0
        || py_seconds_to_ns(seconds, "Ticker.reset(seconds)", true, &ns) < 0)
        return NULL;
    py_clock_set(t->ch, py_time_later(py_now_of(t->ch->bubble), ns), ns);
    Py_RETURN_NONE;
}

static PyObject *
ticker_exit(Ticker *t, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    if (py_time_check_bubble(t->ch->bubble, "Ticker") < 0)
        return NULL;
    ticker_end(t);
    Py_RETURN_FALSE;
}

static PyObject *
ticker_self(Ticker *t, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef((PyObject *)t);
}

/* The next tick; NULL without an exception: it is stopped. */
static PyObject *
ticker_next(Ticker *t)
{
    Chan *ch = t->ch;
    PyObject *value = NULL;
    Goroutine *gp = py_current("Ticker");
    if (gp == NULL || py_time_check_bubble(ch->bubble, "Ticker") < 0)
        return NULL;
    py_waiter *w = &gp->seat->waiter;
    py_clock_prepare(ch);
    for (;;) {
        rt_g_arm(&gp->g);
        py_acquire(&ch->lock);
        int r = ch->clock->when != PY_NEVER ? py_clock_take(ch, &value) : -1;
        if (r == 0) {
            w->ticks = true;
            py_chan_queue(ch, &ch->recvq, w);
        }
        py_release(&ch->lock);
        if (r != 0) {
            py_stay(gp);
            return r == -2 ? PyErr_NoMemory() : value;
        }
        uint32_t why = py_park(gp, PY_WAIT_CHAN_RECV, RT_FOREVER);
        w->ticks = false;
        if (RT_LIKELY(why == RT_WAKE_READY)) {
            value = w->value;
            w->value = NULL;
            return value;
        }
        py_acquire(&ch->lock);
        py_chan_leave(ch, w);
        py_release(&ch->lock);
        if (why != RT_WAKE_CLOSED)
            return NULL;
    }
}

static PyObject *
ticker_repr(Ticker *t)
{
    py_acquire(&t->ch->lock);
    bool stopped = t->ch->clock->when == PY_NEVER;
    py_release(&t->ch->lock);
    return PyUnicode_FromFormat("<Ticker %s at %p>", stopped ? "stopped" : "running", (void *)t);
}

static PyMethodDef ticker_methods[] = {
    {"stop", (PyCFunction)ticker_stop, METH_NOARGS,
     "stop($self)\n--\n\n"
     "No more ticks: iterations end, receivers wait.  The channel is not closed.\n\n"
     "Go: time.Ticker.Stop."},
    {"reset", (PyCFunction)(void (*)(void))ticker_reset, METH_FASTCALL,
     "reset($self, seconds, /)\n--\n\n"
     "Begin anew with another period: the first tick comes that long after now.\n\n"
     "ValueError unless it is more than 0.  Go: time.Ticker.Reset."},
    {"__enter__", (PyCFunction)ticker_self, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))ticker_exit, METH_FASTCALL, NULL},
    {0},
};
static PyGetSetDef ticker_getset[] = {
    {"c", (getter)ticker_get_c, NULL, "A Receiver of the ticks.", NULL},
    {0},
};
static PyMemberDef ticker_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Ticker, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot ticker_slots[] = {
    {Py_tp_new, ticker_new},
    {Py_tp_dealloc, ticker_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, ticker_next},
    {Py_tp_methods, ticker_methods},
    {Py_tp_getset, ticker_getset},
    {Py_tp_members, ticker_members},
    {Py_tp_repr, ticker_repr},
    {Py_tp_doc,
     "Ticker(seconds)\n--\n\n"
     "Ticks at a fixed period, which must be more than 0: ValueError.\n\n"
     "Each tick is the time it was due at, in seconds, see now(), so ticks never drift.\n"
     "Who receives too slowly misses ticks; there is never more than one to receive at\n"
     "once.  Iterate over it, or receive from its channel, c.  As a context manager it\n"
     "stops at the end, which ends iterations, too.\n\n"
     "    with Ticker(1.0) as ticker:\n"
     "        for t in ticker:\n"
     "            ...\n\n"
     "Go: time.NewTicker."},
    {0, NULL},
};
static PyType_Spec ticker_spec = {"runtime.time.Ticker", sizeof(Ticker), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, ticker_slots};

int
py_ticker_init(PyObject *module)
{
    return py_add_type(module, &ticker_spec, &core->ticker_type, true);
}
