/* py_chan.c - channels.
 *
 * A value goes straight from sender to receiver whenever one waits for the other;
 * the buffer is used only when nobody does.  Invariants: receivers wait only while
 * the buffer is empty and no sender waits; senders wait only while the buffer is
 * full (always, when the capacity is 0) and no receiver waits.  Both queues are
 * FIFO, and so is the buffer.
 *
 * A value in flight is owned by the waiter it sits in, until the other side has
 * claimed that waiter's park; a send that times out still has its value.
 */
#include "py_chan.h"

#include "py_bubble.h"
#include "py_wait.h"

#include <structmember.h>

PyObject *
py_chan_raise_closed(const char *what)
{
    PyErr_SetString(core->exc_closed, what);
    return NULL;
}

PyObject *
py_chan_raise_elsewhere(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this channel was made in a bubble of runtime.testing "
                    "and cannot be used outside of it");
    return NULL;
}

/* ---- what is not plain ---- */

bool
py_chan_is_elsewhere_slow(const Chan *ch)
{
    return !py_bubble_admits(ch->bubble);
}

RT_COLD int
py_chan_send_special(Chan *ch)
{
    return py_chan_is_elsewhere(ch) ? PY_CHAN_ELSEWHERE : ch->closed ? -1 : 0;
}

RT_COLD int
py_chan_recv_special(Chan *ch, PyObject **out)
{
    if (py_chan_is_elsewhere(ch))
        return PY_CHAN_ELSEWHERE;
    if (ch->timed)
        return py_clock_take(ch, out);
    return ch->closed && ch->len == 0 ? -1 : PY_CHAN_PLAIN;
}

/* ---- send ---- */

static RT_COLD int
raise_send(int r)
{
    if (r == PY_CHAN_ELSEWHERE)
        py_chan_raise_elsewhere();
    else
        py_chan_raise_closed("send on a closed channel");
    return -1;
}

/* py_chan_send_now(), lock and all. */
static inline int
try_send(Chan *ch, PyObject *value)
{
    py_waiter *served;
    py_acquire(&ch->lock);
    int r = py_chan_send_now(ch, value, &served);
    py_release(&ch->lock);
    if (served != NULL)
        py_ready(served->g, true);
    return RT_UNLIKELY(r < 0) ? raise_send(r) : r;
}

static int
send_slow(Chan *ch, PyObject *value, const py_limits *limits)
{
    py_wait wait;
    Goroutine *gp = py_current("Chan.send()");
    if (gp == NULL || py_wait_begin(&wait, limits) < 0)
        return -1;
    py_waiter *w = &gp->seat->waiter, *served;
    rt_g_arm(&gp->g);
    py_acquire(&ch->lock);
    int r = py_chan_send_now(ch, value, &served);
    if (RT_LIKELY(r == 0)) {
        w->value = Py_NewRef(value);
        py_chan_queue(ch, &ch->sendq, w);
    }
    py_release(&ch->lock);
    if (RT_UNLIKELY(r != 0)) {              /* things have changed meanwhile */
        if (served != NULL)
            py_ready(served->g, true);
        py_stay(gp);
        py_wait_end(&wait);
        return r < 0 ? raise_send(r) : r;
    }
    uint32_t why = py_wait_park(gp, PY_WAIT_CHAN_SEND, &wait);
    if (RT_LIKELY(why == RT_WAKE_READY)) {
        py_wait_end(&wait);
        return 0;
    }
    py_acquire(&ch->lock);
    py_waitq_remove(w);
    py_release(&ch->lock);
    Py_CLEAR(w->value);         /* the caller has it as well */
    py_wait_end(&wait);
    if (why == RT_WAKE_CLOSED)
        py_chan_raise_closed("send on a channel that was closed meanwhile");
    else if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("Chan.send()");
    return -1;
}

/* ---- receive ---- */

/* What py_chan_recv_now() has returned, as an exception; -2. */
static RT_COLD int
raise_recv(int r)
{
    if (r == PY_CHAN_ELSEWHERE)
        py_chan_raise_elsewhere();
    else
        PyErr_NoMemory();
    return -2;
}

/* py_chan_recv_now(), lock and all; -2 with an exception set. */
static inline int
try_recv(Chan *ch, PyObject **out)
{
    py_waiter *served;
    py_acquire(&ch->lock);
    int r = py_chan_recv_now(ch, out, &served);
    bool direct = ch->capacity == 0;
    py_release(&ch->lock);
    if (served != NULL)
        py_ready(served->g, direct);
    return RT_UNLIKELY(r < -1) ? raise_recv(r) : r;
}

/* As try_recv(), but waits. */
static int
recv_slow(Chan *ch, const py_limits *limits, PyObject **out)
{
    py_wait wait;
    Goroutine *gp = py_current("Chan.recv()");
    if (gp == NULL
        || (ch->reason == PY_WAIT_IO ? py_wait_begin_io(&wait, limits)
                                     : py_wait_begin(&wait, limits)) < 0)
        return -2;
    py_waiter *w = &gp->seat->waiter, *served;
    uint32_t why;
    py_clock_prepare(ch);
    do {
        rt_g_arm(&gp->g);
        py_acquire(&ch->lock);
        int r = py_chan_recv_now(ch, out, &served);
        if (RT_LIKELY(r == 0))
            py_chan_queue(ch, &ch->recvq, w);
        py_release(&ch->lock);
        if (RT_UNLIKELY(r != 0)) {
            if (served != NULL)
                py_ready(served->g, false);
            py_stay(gp);
            py_wait_end(&wait);
            return r < -1 ? raise_recv(r) : r;
        }
        why = py_wait_park(gp, ch->reason, &wait);
    } while (RT_UNLIKELY(why == RT_WAKE_CLOSED && ch->timed));
    if (RT_LIKELY(why == RT_WAKE_READY)) {
        *out = w->value;
        w->value = NULL;
        py_wait_end(&wait);
        return 1;
    }
    py_acquire(&ch->lock);
    py_chan_leave(ch, w);
    py_release(&ch->lock);
    py_wait_end(&wait);
    if (why == RT_WAKE_CLOSED)
        return -1;
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("Chan.recv()");
    return -2;
}

/* ---- methods ---- */

/* (None, False).  Made before a value is received: without memory none is lost. */
static PyObject *
new_pair(void)
{
    PyObject *pair = PyTuple_New(2);
    if (pair != NULL) {
        PyTuple_SET_ITEM(pair, 0, Py_NewRef(Py_None));
        PyTuple_SET_ITEM(pair, 1, Py_NewRef(Py_False));
    }
    return pair;
}

/* Make it (value, True); value is stolen. */
static void
set_pair(PyObject *pair, PyObject *value)
{
    PyTuple_SET_ITEM(pair, 0, value);
    PyTuple_SET_ITEM(pair, 1, Py_NewRef(Py_True));
    Py_DECREF(Py_None);
    Py_DECREF(Py_False);
    /* While it waited the collector may have found that nothing in it can be in a cycle. */
    if (RT_UNLIKELY(!PyObject_GC_IsTracked(pair)))
        PyObject_GC_Track(pair);
}

PyObject *
py_chan_method_send(Chan *ch, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    if (RT_UNLIKELY(py_limits_parse(&limits, "send(value, " PY_LIMITS_USAGE ")", 1, args, nargs,
                                    kwnames) < 0))
        return NULL;
    int r = try_send(ch, args[0]);
    if (r == 0)
        r = send_slow(ch, args[0], &limits);
    if (r < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
py_chan_method_recv(Chan *ch, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *value;
    py_limits limits;
    if (RT_UNLIKELY(py_limits_parse(&limits, "recv(" PY_LIMITS_USAGE ")", 0, args, nargs,
                                    kwnames) < 0))
        return NULL;
    int r = try_recv(ch, &value);
    if (r == 0)
        r = recv_slow(ch, &limits, &value);
    if (RT_LIKELY(r > 0))
        return value;
    return r == -1 ? py_chan_raise_closed("receive on a closed channel that is drained") : NULL;
}

PyObject *
py_chan_method_recv_ok(Chan *ch, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *value;
    py_limits limits;
    if (RT_UNLIKELY(py_limits_parse(&limits, "recv_ok(" PY_LIMITS_USAGE ")", 0, args, nargs,
                                    kwnames) < 0))
        return NULL;
    PyObject *result = new_pair();
    if (result == NULL)
        return NULL;
    int r = try_recv(ch, &value);
    if (r == 0)
        r = recv_slow(ch, &limits, &value);
    if (r > 0)
        set_pair(result, value);
    else if (r < -1)
        Py_CLEAR(result);
    return result;
}

PyObject *
py_chan_method_try_send(Chan *ch, PyObject *value)
{
    int r = try_send(ch, value);
    return r < 0 ? NULL : PyBool_FromLong(r);
}

PyObject *
py_chan_method_try_recv(Chan *ch)
{
    PyObject *value, *result = new_pair();
    if (result == NULL)
        return NULL;
    int r = try_recv(ch, &value);
    if (r > 0)
        set_pair(result, value);
    else if (r < 0) {
        Py_CLEAR(result);
        if (r == -1)
            py_chan_raise_closed("receive on a closed channel that is drained");
    }
    return result;
}

/* False: it was closed already. */
static bool
close_now(Chan *ch)
{
    py_waitq woken = {0};
    py_acquire(&ch->lock);
    bool was_closed = ch->closed;
    ch->closed = true;
    py_chan_changed(ch);
    py_waitq_claim_all(&ch->recvq, RT_WAKE_CLOSED, &woken);
    py_waitq_claim_all(&ch->sendq, RT_WAKE_CLOSED, &woken);
    py_release(&ch->lock);
    py_ready_all(&woken);
    return !was_closed;
}

PyObject *
py_chan_method_close(Chan *ch)
{
    if (py_chan_is_elsewhere(ch))
        return py_chan_raise_elsewhere();
    if (!close_now(ch))
        return py_chan_raise_closed("close of a closed channel");
    Py_RETURN_NONE;
}

/* For the runtime's own channels, which others use as well if made in a bubble: what its
   receivers wait for, for people.  "IO wait": their time limits are in real time. */
static PyObject *
chan_wait_as(Chan *ch, PyObject *reason)
{
    ch->bubbled = false;
    for (int i = 0; i < PY_WAIT_REASONS; i++) {
        if (PyUnicode_Check(reason)
            && PyUnicode_CompareWithASCIIString(reason, py_wait_reason(i)) == 0) {
            ch->reason = (uint8_t)i;
            Py_RETURN_NONE;
        }
    }
    PyErr_Format(PyExc_ValueError, "no wait reason: %R", reason);
    return NULL;
}

PyObject *
py_chan_method_next(Chan *ch)
{
    PyObject *value;
    int r = try_recv(ch, &value);
    if (r == 0)
        r = recv_slow(ch, &PY_NO_LIMITS, &value);
    return r > 0 ? value : NULL;        /* closed: StopIteration without an exception */
}

static Py_ssize_t
chan_len(Chan *ch)
{
    return ch->len;
}

static int
chan_bool(Chan *Py_UNUSED(ch))
{
    return 1;                   /* an empty channel is not false */
}

static PyObject *
chan_get_capacity(Chan *ch, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(ch->capacity);
}

static PyObject *
chan_get_closed(Chan *ch, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(ch->closed);
}

static PyObject *
chan_try_recv(Chan *ch, PyObject *Py_UNUSED(ignored))
{
    return py_chan_method_try_recv(ch);
}

static PyObject *
chan_close(Chan *ch, PyObject *Py_UNUSED(ignored))
{
    return py_chan_method_close(ch);
}

static PyObject *
chan_receiver(Chan *ch, PyObject *Py_UNUSED(ignored))
{
    return py_chan_receiver(ch);
}

static PyObject *
chan_sender(Chan *ch, PyObject *Py_UNUSED(ignored))
{
    return py_chan_sender(ch);
}

static PyObject *
chan_repr(Chan *ch)
{
    return PyUnicode_FromFormat("<Chan %zd/%zd%s at %p>", ch->len, ch->capacity,
                                ch->closed ? " closed" : "", (void *)ch);
}

/* ---- for the rest of the core ---- */

int
py_chan_try_send(PyObject *op, PyObject *value)
{
    Chan *ch = (Chan *)op;
    py_waiter *served;
    py_acquire(&ch->lock);
    int r = py_chan_send_now(ch, value, &served);
    py_release(&ch->lock);
    if (served != NULL)
        py_ready(served->g, false);
    return r;
}

int
py_chan_drain(PyObject *op)
{
    Chan *ch = (Chan *)op;
    py_acquire(&ch->lock);
    Py_ssize_t n = ch->len;
    py_release(&ch->lock);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *value;
        if (try_recv(ch, &value) <= 0)
            return (int)i;
        Py_DECREF(value);
    }
    return (int)n;
}

void
py_chan_close(PyObject *op)
{
    close_now((Chan *)op);
}

/* ---- life ---- */

PyObject *
py_chan_new(Py_ssize_t capacity)
{
    Chan *ch = (Chan *)core->chan_type->tp_alloc(core->chan_type, 0);
    if (ch == NULL)
        return NULL;
    if (capacity > 0) {
        ch->buf = PyMem_New(PyObject *, capacity);
        if (ch->buf == NULL) {
            Py_DECREF(ch);
            return PyErr_NoMemory();
        }
    }
    ch->capacity = capacity;
    ch->reason = PY_WAIT_CHAN_RECV;
    ch->bubble = (py_bubble *)Py_XNewRef((PyObject *)py_bubble_current());
    ch->bubbled = ch->bubble != NULL;
    return (PyObject *)ch;
}

static PyObject *
chan_new(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", NULL};
    Py_ssize_t capacity = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|n:Chan", names, &capacity))
        return NULL;
    if (capacity < 0) {
        PyErr_Format(PyExc_ValueError, "Chan(capacity): it must be 0 or more, not %zd", capacity);
        return NULL;
    }
    return py_chan_new(capacity);
}

static int
chan_traverse(Chan *ch, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(ch));
    for (Py_ssize_t i = 0; i < ch->len; i++)
        Py_VISIT(ch->buf[(ch->head + i) % ch->capacity]);
    return 0;
}

static int
chan_clear(Chan *ch)
{
    while (ch->len > 0)
        Py_DECREF(py_chan_pop(ch));
    return 0;
}

static void
chan_dealloc(Chan *ch)
{
    PyTypeObject *type = Py_TYPE(ch);
    PyObject_GC_UnTrack(ch);
    Py_TRASHCAN_BEGIN(ch, chan_dealloc)
    if (ch->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)ch);
    chan_clear(ch);
    PyMem_Free(ch->buf);
    PyMem_Free(ch->clock);
    Py_XDECREF((PyObject *)ch->bubble);
    type->tp_free(ch);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

#define FASTKW(fn) (PyCFunction)(void (*)(void))fn, METH_FASTCALL | METH_KEYWORDS

static PyMethodDef chan_methods[] = {
    {"send", FASTKW(py_chan_method_send),
     "send($self, value, /, timeout=None, *, ctx=None)\n--\n\n"
     "Send value, waiting until a receiver takes it or the buffer has room.\n\n"
     "Raises ChanClosed, TimeoutError after timeout seconds, or ctx.err() when the context\n"
     "ctx ends; then nothing was sent.\n\n"
     "Go: ch <- value."},
    {"recv", FASTKW(py_chan_method_recv),
     "recv($self, timeout=None, *, ctx=None)\n--\n\n"
     "Receive a value, waiting until there is one.\n\n"
     "Raises ChanClosed when the channel is closed and drained, TimeoutError after\n"
     "timeout seconds, or ctx.err() when the context ctx ends; then nothing was taken.\n\n"
     "Go: <-ch."},
    {"recv_ok", FASTKW(py_chan_method_recv_ok),
     "recv_ok($self, timeout=None, *, ctx=None)\n--\n\n"
     "Receive (value, True), or (None, False) when the channel is closed and drained.\n\n"
     "Go: value, ok := <-ch."},
    {"try_send", (PyCFunction)py_chan_method_try_send, METH_O,
     "try_send($self, value, /)\n--\n\nSend only if that needs no waiting; True if it was sent."},
    {"try_recv", (PyCFunction)chan_try_recv, METH_NOARGS,
     "try_recv($self)\n--\n\n"
     "(value, True) if one can be had without waiting, else (None, False).\n\n"
     "Raises ChanClosed when the channel is closed and drained."},
    {"close", (PyCFunction)chan_close, METH_NOARGS,
     "close($self)\n--\n\n"
     "Close the channel: receivers drain it and then stop, senders get ChanClosed.\n\n"
     "Raises ChanClosed if it is closed already.\n\n"
     "Go: close(ch)."},
    {"receiver", (PyCFunction)chan_receiver, METH_NOARGS,
     "receiver($self)\n--\n\n"
     "A view of the channel that can only receive.\n\n"
     "Go: (<-chan T)(ch)."},
    {"sender", (PyCFunction)chan_sender, METH_NOARGS,
     "sender($self)\n--\n\n"
     "A view of the channel that can only send, and close.\n\n"
     "Go: (chan<- T)(ch)."},
    {"_wait_as", (PyCFunction)chan_wait_as, METH_O, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, "Chan[T], for type checkers."},
    {0},
};
static PyGetSetDef chan_getset[] = {
    {"capacity", (getter)chan_get_capacity, NULL, "Size of the buffer; 0: unbuffered.", NULL},
    {"closed", (getter)chan_get_closed, NULL, "True once close() was called.", NULL},
    {0},
};
static PyMemberDef chan_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Chan, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot chan_slots[] = {
    {Py_tp_new, chan_new},
    {Py_tp_dealloc, chan_dealloc},
    {Py_tp_traverse, chan_traverse},
    {Py_tp_clear, chan_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, py_chan_method_next},
    {Py_sq_length, chan_len},
    {Py_nb_bool, chan_bool},
    {Py_tp_methods, chan_methods},
    {Py_tp_getset, chan_getset},
    {Py_tp_members, chan_members},
    {Py_tp_repr, chan_repr},
    {Py_tp_doc,
     "Chan(capacity=0)\n--\n\n"
     "A channel: values sent by one goroutine or thread are received by another, in order.\n\n"
     "Without capacity a send waits for its receiver; otherwise up to capacity values\n"
     "wait in the channel.  Iteration receives until the channel is closed and drained:\n\n"
     "    ch = Chan()\n"
     "    go(ch.send, 42)\n"
     "    ch.recv()\n\n"
     "Go: make(chan T, capacity)."},
    {0, NULL},
};
static PyType_Spec chan_spec = {
    "runtime.Chan", sizeof(Chan), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, chan_slots};

int
py_chan_init_types(PyObject *module)
{
    return py_add_type(module, &chan_spec, &core->chan_type, true);
}
