/* py_chan_view.c - Receiver and Sender: one direction of a channel.
 *
 * A view is a reference to the channel with fewer methods, so that a function can say, and
 * is held to, what it does with a channel.  All views of one direction are equal, and equal
 * to the channel.
 */
#include "py_chan.h"

#include "py_wait.h"

typedef struct {
    PyObject_HEAD
    Chan *ch;                   /* owned */
} View;

static PyObject *
view_new(PyTypeObject *type, Chan *ch)
{
    View *v = (View *)type->tp_alloc(type, 0);
    if (v != NULL)
        v->ch = (Chan *)Py_NewRef(ch);
    return (PyObject *)v;
}

PyObject *
py_chan_receiver(Chan *ch)
{
    return view_new(core->receiver_type, ch);
}

PyObject *
py_chan_sender(Chan *ch)
{
    return view_new(core->sender_type, ch);
}

Chan *
py_chan_to_recv(PyObject *op)
{
    if (RT_LIKELY(py_chan_check(op)))
        return (Chan *)op;
    return Py_IS_TYPE(op, core->receiver_type) ? ((View *)op)->ch : NULL;
}

Chan *
py_chan_to_send(PyObject *op)
{
    if (RT_LIKELY(py_chan_check(op)))
        return (Chan *)op;
    return Py_IS_TYPE(op, core->sender_type) ? ((View *)op)->ch : NULL;
}

/* ---- both ---- */

static Py_ssize_t
view_len(View *v)
{
    return PyObject_Size((PyObject *)v->ch);
}

static int
view_bool(View *Py_UNUSED(v))
{
    return 1;
}

static PyObject *
view_get_capacity(View *v, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(v->ch->capacity);
}

static PyObject *
view_get_closed(View *v, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(v->ch->closed);
}

static PyObject *
view_repr(View *v)
{
    return PyUnicode_FromFormat("<%s of %R>",
                                Py_IS_TYPE(v, core->receiver_type) ? "Receiver" : "Sender",
                                v->ch);
}

static PyObject *
view_richcompare(View *v, PyObject *other, int op)
{
    bool same = Py_IS_TYPE(other, Py_TYPE(v));
    if ((op != Py_EQ && op != Py_NE) || !(same || py_chan_check(other)))
        Py_RETURN_NOTIMPLEMENTED;
    Chan *ch = same ? ((View *)other)->ch : (Chan *)other;
    return PyBool_FromLong((v->ch == ch) == (op == Py_EQ));
}

static Py_hash_t
view_hash(View *v)
{
    return PyObject_Hash((PyObject *)v->ch);
}

static int
view_traverse(View *v, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(v));
    Py_VISIT(v->ch);
    return 0;
}

/* No tp_clear: a view never changes, and what makes a cycle with it can be cleared. */
static void
view_dealloc(View *v)
{
    PyTypeObject *type = Py_TYPE(v);
    PyObject_GC_UnTrack(v);
    Py_TRASHCAN_BEGIN(v, view_dealloc)
    Py_XDECREF(v->ch);
    type->tp_free(v);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyGetSetDef view_getset[] = {
    {"capacity", (getter)view_get_capacity, NULL, "Size of the buffer; 0: unbuffered.", NULL},
    {"closed", (getter)view_get_closed, NULL, "True once the channel was closed.", NULL},
    {0},
};

#define FASTKW(fn) (PyCFunction)(void (*)(void))fn, METH_FASTCALL | METH_KEYWORDS
#define VIEW_SLOTS \
    {Py_tp_dealloc, view_dealloc}, {Py_tp_traverse, view_traverse}, {Py_sq_length, view_len}, \
        {Py_nb_bool, view_bool}, {Py_tp_getset, view_getset}, {Py_tp_repr, view_repr}, \
        {Py_tp_richcompare, view_richcompare}, {Py_tp_hash, view_hash}
#define VIEW_FLAGS \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE \
     | Py_TPFLAGS_DISALLOW_INSTANTIATION)

/* ---- Receiver ---- */

static PyObject *
receiver_recv(View *v, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return py_chan_method_recv(v->ch, args, nargs, kwnames);
}

static PyObject *
receiver_recv_ok(View *v, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return py_chan_method_recv_ok(v->ch, args, nargs, kwnames);
}

static PyObject *
receiver_try_recv(View *v, PyObject *Py_UNUSED(ignored))
{
    return py_chan_method_try_recv(v->ch);
}

static PyObject *
receiver_next(View *v)
{
    return py_chan_method_next(v->ch);
}

static PyMethodDef receiver_methods[] = {
    {"recv", FASTKW(receiver_recv),
     "recv($self, timeout=None, *, ctx=None)\n--\n\nAs Chan.recv.\n\nGo: <-ch."},
    {"recv_ok", FASTKW(receiver_recv_ok),
     "recv_ok($self, timeout=None, *, ctx=None)\n--\n\n"
     "As Chan.recv_ok.\n\nGo: value, ok := <-ch."},
    {"try_recv", (PyCFunction)receiver_try_recv, METH_NOARGS,
     "try_recv($self)\n--\n\nAs Chan.try_recv."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     "Receiver[T], for type checkers."},
    {0},
};
static PyType_Slot receiver_slots[] = {
    VIEW_SLOTS,
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, receiver_next},
    {Py_tp_methods, receiver_methods},
    {Py_tp_doc,
     "A channel that can only be received from: Chan.receiver().\n\n"
     "    def consume(values: Receiver[int]) -> None:\n"
     "        for value in values:\n"
     "            print(value)\n\n"
     "Go: <-chan T."},
    {0, NULL},
};
static PyType_Spec receiver_spec = {"runtime.Receiver", sizeof(View), 0, VIEW_FLAGS,
                                    receiver_slots};

/* ---- Sender ---- */

static PyObject *
sender_send(View *v, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return py_chan_method_send(v->ch, args, nargs, kwnames);
}

static PyObject *
sender_try_send(View *v, PyObject *value)
{
    return py_chan_method_try_send(v->ch, value);
}

static PyObject *
sender_close(View *v, PyObject *Py_UNUSED(ignored))
{
    return py_chan_method_close(v->ch);
}

static PyMethodDef sender_methods[] = {
    {"send", FASTKW(sender_send),
     "send($self, value, /, timeout=None, *, ctx=None)\n--\n\nAs Chan.send.\n\nGo: ch <- value."},
    {"try_send", (PyCFunction)sender_try_send, METH_O,
     "try_send($self, value, /)\n--\n\nAs Chan.try_send."},
    {"close", (PyCFunction)sender_close, METH_NOARGS,
     "close($self)\n--\n\nAs Chan.close.\n\nGo: close(ch)."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, "Sender[T], for type checkers."},
    {0},
};
static PyType_Slot sender_slots[] = {
    VIEW_SLOTS,
    {Py_tp_methods, sender_methods},
    {Py_tp_doc,
     "A channel that can only be sent to, and closed: Chan.sender().\n\n"
     "    def produce(values: Sender[int]) -> None:\n"
     "        values.send(1)\n"
     "        values.close()\n\n"
     "Go: chan<- T."},
    {0, NULL},
};
static PyType_Spec sender_spec = {"runtime.Sender", sizeof(View), 0, VIEW_FLAGS, sender_slots};

int
py_chan_view_init_types(PyObject *module)
{
    if (py_add_type(module, &receiver_spec, &core->receiver_type, true) < 0)
        return -1;
    return py_add_type(module, &sender_spec, &core->sender_type, true);
}
