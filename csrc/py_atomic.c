/* py_atomic.c - runtime.atomic: Int64, Bool and Value.
 *
 * With the GIL all of it is atomic anyhow; these are for builds without one, and say what they
 * are for.
 */
#include "py_sync.h"

#include <structmember.h>

/* ---- Int64 ---- */

typedef struct {
    PyObject_HEAD
    _Atomic int64_t value;
    PyObject *weakrefs;
} Int64;

static int
as_int64(PyObject *op, int64_t *n)
{
    long long value = PyLong_AsLongLong(op);
    if (value == -1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_SetString(PyExc_OverflowError, "an Int64 is -2**63 to 2**63-1");
        return -1;
    }
    *n = value;
    return 0;
}

static PyObject *
int64_load(Int64 *a, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLongLong(atomic_load(&a->value));
}

static PyObject *
int64_store(Int64 *a, PyObject *arg)
{
    int64_t n;
    if (as_int64(arg, &n) < 0)
        return NULL;
    atomic_store(&a->value, n);
    Py_RETURN_NONE;
}

static PyObject *
int64_add(Int64 *a, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t n = 1;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: add(delta=1)");
        return NULL;
    }
    if (nargs == 1 && as_int64(args[0], &n) < 0)
        return NULL;
    uint64_t old = (uint64_t)atomic_fetch_add(&a->value, n);
    return PyLong_FromLongLong((int64_t)(old + (uint64_t)n));
}

static PyObject *
int64_swap(Int64 *a, PyObject *arg)
{
    int64_t n;
    return as_int64(arg, &n) < 0 ? NULL : PyLong_FromLongLong(atomic_exchange(&a->value, n));
}

static PyObject *
int64_and(Int64 *a, PyObject *arg)
{
    int64_t n;
    return as_int64(arg, &n) < 0 ? NULL : PyLong_FromLongLong(atomic_fetch_and(&a->value, n));
}

static PyObject *
int64_or(Int64 *a, PyObject *arg)
{
    int64_t n;
    return as_int64(arg, &n) < 0 ? NULL : PyLong_FromLongLong(atomic_fetch_or(&a->value, n));
}

static PyObject *
int64_compare_and_swap(Int64 *a, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t old, n;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: compare_and_swap(old, new)");
        return NULL;
    }
    if (as_int64(args[0], &old) < 0 || as_int64(args[1], &n) < 0)
        return NULL;
    return PyBool_FromLong(atomic_compare_exchange_strong(&a->value, &old, n));
}

static PyObject *
int64_repr(Int64 *a)
{
    return PyUnicode_FromFormat("Int64(%lld)", (long long)atomic_load(&a->value));
}

static PyObject *
int64_int(Int64 *a)
{
    return int64_load(a, NULL);
}

static PyObject *
int64_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"value", NULL};
    PyObject *value = NULL;
    int64_t n = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Int64", names, &value)
        || (value != NULL && as_int64(value, &n) < 0))
        return NULL;
    Int64 *a = (Int64 *)type->tp_alloc(type, 0);
    if (a != NULL)
        atomic_init(&a->value, n);
    return (PyObject *)a;
}

static PyMethodDef int64_methods[] = {
    {"load", (PyCFunction)int64_load, METH_NOARGS,
     "load($self)\n--\n\nThe value.  Go: atomic.Int64.Load."},
    {"store", (PyCFunction)int64_store, METH_O,
     "store($self, value, /)\n--\n\nSet the value.  Go: atomic.Int64.Store."},
    {"add", PY_FAST(int64_add),
     "add($self, delta=1, /)\n--\n\n"
     "Add delta and return the new value.  Go: atomic.Int64.Add."},
    {"swap", (PyCFunction)int64_swap, METH_O,
     "swap($self, value, /)\n--\n\nSet the value and return the old one.  Go: atomic.Int64.Swap."},
    {"compare_and_swap", PY_FAST(int64_compare_and_swap),
     "compare_and_swap($self, old, new, /)\n--\n\n"
     "Set the value to new if it is old; whether it was.  Go: atomic.Int64.CompareAndSwap."},
    {"and_", (PyCFunction)int64_and, METH_O,
     "and_($self, mask, /)\n--\n\n"
     "Set the value to value & mask and return the old one.  Go: atomic.Int64.And."},
    {"or_", (PyCFunction)int64_or, METH_O,
     "or_($self, mask, /)\n--\n\n"
     "Set the value to value | mask and return the old one.  Go: atomic.Int64.Or."},
    {0},
};
static PyMemberDef int64_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Int64, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot int64_slots[] = {
    {Py_tp_new, int64_new},
    {Py_tp_dealloc, py_sync_dealloc},
    {Py_tp_methods, int64_methods},
    {Py_tp_members, int64_members},
    {Py_tp_repr, int64_repr},
    {Py_nb_int, int64_int},
    {Py_tp_doc,
     "Int64(value=0)\n--\n\n"
     "A number that several goroutines and threads change without a lock.\n\n"
     "It has 64 bits and wraps around as in Go: 2**63-1 and one more is -2**63.  Arguments\n"
     "that are out of that range raise OverflowError.\n\n"
     "    hits = Int64()\n"
     "    hits.add()\n\n"
     "Go: sync/atomic.Int64."},
    {0, NULL},
};
static PyType_Spec int64_spec = {"runtime.atomic.Int64", sizeof(Int64), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, int64_slots};

/* ---- Bool ---- */

typedef struct {
    PyObject_HEAD
    _Atomic bool value;
    PyObject *weakrefs;
} Bool;

static PyObject *
bool_load(Bool *a, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(atomic_load(&a->value));
}

static PyObject *
bool_store(Bool *a, PyObject *arg)
{
    int b = PyObject_IsTrue(arg);
    if (b < 0)
        return NULL;
    atomic_store(&a->value, b);
    Py_RETURN_NONE;
}

static PyObject *
bool_swap(Bool *a, PyObject *arg)
{
    int b = PyObject_IsTrue(arg);
    return b < 0 ? NULL : PyBool_FromLong(atomic_exchange(&a->value, b));
}

static PyObject *
bool_compare_and_swap(Bool *a, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: compare_and_swap(old, new)");
        return NULL;
    }
    int old = PyObject_IsTrue(args[0]), b = old < 0 ? -1 : PyObject_IsTrue(args[1]);
    if (b < 0)
        return NULL;
    bool expected = old;
    return PyBool_FromLong(atomic_compare_exchange_strong(&a->value, &expected, b));
}

static PyObject *
bool_repr(Bool *a)
{
    return PyUnicode_FromString(atomic_load(&a->value) ? "Bool(True)" : "Bool(False)");
}

static PyObject *
bool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"value", NULL};
    int value = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:Bool", names, &value))
        return NULL;
    Bool *a = (Bool *)type->tp_alloc(type, 0);
    if (a != NULL)
        atomic_init(&a->value, value);
    return (PyObject *)a;
}

static PyMethodDef bool_methods[] = {
    {"load", (PyCFunction)bool_load, METH_NOARGS,
     "load($self)\n--\n\nThe value.  Go: atomic.Bool.Load."},
    {"store", (PyCFunction)bool_store, METH_O,
     "store($self, value, /)\n--\n\nSet the value.  Go: atomic.Bool.Store."},
    {"swap", (PyCFunction)bool_swap, METH_O,
     "swap($self, value, /)\n--\n\nSet the value and return the old one.  Go: atomic.Bool.Swap."},
    {"compare_and_swap", PY_FAST(bool_compare_and_swap),
     "compare_and_swap($self, old, new, /)\n--\n\n"
     "Set the value to new if it is old; whether it was.  Go: atomic.Bool.CompareAndSwap."},
    {0},
};
static PyMemberDef bool_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Bool, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot bool_slots[] = {
    {Py_tp_new, bool_new},
    {Py_tp_dealloc, py_sync_dealloc},
    {Py_tp_methods, bool_methods},
    {Py_tp_members, bool_members},
    {Py_tp_repr, bool_repr},
    {Py_tp_doc,
     "Bool(value=False)\n--\n\n"
     "A truth value that several goroutines and threads change without a lock.\n\n"
     "    if closed.compare_and_swap(False, True):\n"
     "        conn.close()        # once\n\n"
     "Go: sync/atomic.Bool."},
    {0, NULL},
};
static PyType_Spec bool_spec = {"runtime.atomic.Bool", sizeof(Bool), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, bool_slots};

/* ---- Value ---- */

typedef struct {
    PyObject_HEAD
    py_lock lock;
    PyObject *value;            /* owned; guarded by lock */
    PyObject *weakrefs;
} Value;

/* A new reference; once it was cleared by the collector there is nothing left. */
static PyObject *
value_load(Value *v, PyObject *Py_UNUSED(ignored))
{
    py_acquire(&v->lock);
    PyObject *value = Py_NewRef(v->value ? v->value : Py_None);
    py_release(&v->lock);
    return value;
}

/* Returns the old value (owned), or NULL if it had been cleared. */
static PyObject *
exchange(Value *v, PyObject *value)
{
    py_acquire(&v->lock);
    PyObject *old = v->value;
    v->value = Py_NewRef(value);
    py_release(&v->lock);
    return old;
}

static PyObject *
value_store(Value *v, PyObject *value)
{
    Py_XDECREF(exchange(v, value));
    Py_RETURN_NONE;
}

static PyObject *
value_swap(Value *v, PyObject *value)
{
    PyObject *old = exchange(v, value);
    return old ? old : Py_NewRef(Py_None);
}

static PyObject *
value_compare_and_swap(Value *v, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: compare_and_swap(old, new)");
        return NULL;
    }
    py_acquire(&v->lock);
    PyObject *old = v->value;
    bool same = old == args[0];
    if (same)
        v->value = Py_NewRef(args[1]);
    py_release(&v->lock);
    if (same)
        Py_DECREF(old);
    return PyBool_FromLong(same);
}

static PyObject *
value_repr(Value *v)
{
    PyObject *value = value_load(v, NULL), *repr = NULL;
    int r = Py_ReprEnter((PyObject *)v);
    if (r == 0) {
        repr = PyUnicode_FromFormat("Value(%R)", value);
        Py_ReprLeave((PyObject *)v);
    }
    else if (r > 0)
        repr = PyUnicode_FromString("Value(...)");
    Py_DECREF(value);
    return repr;
}

static PyObject *
value_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"value", NULL};
    PyObject *value = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Value", names, &value))
        return NULL;
    Value *v = (Value *)type->tp_alloc(type, 0);
    if (v != NULL)
        v->value = Py_NewRef(value);
    return (PyObject *)v;
}

static int
value_traverse(Value *v, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(v));
    Py_VISIT(v->value);
    return 0;
}

static int
value_clear(Value *v)
{
    Py_CLEAR(v->value);
    return 0;
}

static PyMethodDef value_methods[] = {
    {"load", (PyCFunction)value_load, METH_NOARGS,
     "load($self)\n--\n\nThe value.  Go: atomic.Value.Load."},
    {"store", (PyCFunction)value_store, METH_O,
     "store($self, value, /)\n--\n\nSet the value.  Go: atomic.Value.Store."},
    {"swap", (PyCFunction)value_swap, METH_O,
     "swap($self, value, /)\n--\n\n"
     "Set the value and return the old one.  Go: atomic.Value.Swap."},
    {"compare_and_swap", PY_FAST(value_compare_and_swap),
     "compare_and_swap($self, old, new, /)\n--\n\n"
     "Set the value to new if it is the object old (is, not ==); whether it was.\n\n"
     "Go: atomic.Pointer.CompareAndSwap."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, "Value[T], for type checkers."},
    {0},
};
static PyMemberDef value_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Value, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot value_slots[] = {
    {Py_tp_new, value_new},
    {Py_tp_dealloc, py_sync_dealloc_gc},
    {Py_tp_traverse, value_traverse},
    {Py_tp_clear, value_clear},
    {Py_tp_methods, value_methods},
    {Py_tp_members, value_members},
    {Py_tp_repr, value_repr},
    {Py_tp_doc,
     "Value(value=None)\n--\n\n"
     "An object that several goroutines and threads replace without a lock.\n\n"
     "    config = Value(load_config())\n"
     "    config.store(load_config())     # readers see the old one or the new one\n\n"
     "Go: sync/atomic.Value and Pointer."},
    {0, NULL},
};
static PyType_Spec value_spec = {
    "runtime.atomic.Value", sizeof(Value), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, value_slots};

int
py_atomic_init_types(PyObject *module)
{
    if (py_add_type(module, &int64_spec, &core->int64_type, true) < 0
        || py_add_type(module, &bool_spec, &core->bool_type, true) < 0)
        return -1;
    return py_add_type(module, &value_spec, &core->value_type, true);
}
