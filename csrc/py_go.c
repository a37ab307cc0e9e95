/* py_go.c - runtime.go: new goroutines for Python functions. */
#include "py_bubble.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *name;             /* owned str or NULL */
} Go;

static int
copy_args(Goroutine *gp, PyObject *const *args, uint32_t npos, uint32_t nkw)
{
    uint32_t n = npos + nkw;
    if (RT_UNLIKELY(n > PY_G_INLINE_ARGS)) {
        PyObject **heap = PyMem_New(PyObject *, (size_t)n + 1);
        if (heap == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        gp->call.heap = heap;
        gp->heap_args = true;
    }
    PyObject **to = py_g_args(gp);
    for (uint32_t i = 0; i < n; i++)
        to[i] = Py_NewRef(args[i]);
    gp->nargs = npos;
    gp->nkw = nkw;
    return 0;
}

/* All but its context and what makes it run. */
static inline Goroutine *
g_new(PyThreadState *ts, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (RT_UNLIKELY(nargs < 1)) {
        PyErr_SetString(PyExc_TypeError, "go() needs a function: go(fn, *args, **kwargs)");
        return NULL;
    }
    PyObject *fn = args[0];
    if (RT_UNLIKELY(!PyCallable_Check(fn))) {
        PyErr_Format(PyExc_TypeError, "go() needs a callable, got %.200s; write go(f, x), "
                     "not go(f(x))", Py_TYPE(fn)->tp_name);
        return NULL;
    }
    Goroutine *gp = py_g_alloc();
    if (RT_UNLIKELY(gp == NULL))
        return NULL;
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (copy_args(gp, args + 1, (uint32_t)(nargs - 1), (uint32_t)nkw) < 0)
        goto fail;
    gp->fn = Py_NewRef(fn);
    if (nkw) {
        gp->kwnames = Py_NewRef(kwnames);
        gp->cold = true;
    }
    gp->code = py_caller(ts, &gp->lasti);
    return gp;

fail:
    Py_DECREF(gp);
    return NULL;
}

Goroutine *
py_g_new(PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    PyThreadState *ts = PyThreadState_GET();
    Goroutine *gp = g_new(ts, args, nargsf, kwnames);
    if (gp == NULL)
        return NULL;
    gp->cold = true;
    gp->context = ts->context ? PyContext_CopyCurrent() : PyContext_New();
    if (gp->context == NULL)
        Py_CLEAR(gp);
    return gp;
}

PyObject *
py_go(PyObject *name, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    PyThreadState *ts = PyThreadState_GET();
    Goroutine *gp = g_new(ts, args, nargsf, kwnames);
    if (RT_UNLIKELY(gp == NULL))
        return NULL;
    if (name != NULL) {
        gp->name = Py_NewRef(name);
        gp->cold = true;
    }
    Py_INCREF(gp);              /* the scheduler's reference */
    if (ts->context != NULL) {
        gp->cold = true;
        gp->context = PyContext_CopyCurrent();
        if (gp->context == NULL)
            goto fail;
        py_bubble *b = py_bubble_current();
        if (b != NULL) {        /* its goroutines always have a context */
            py_bubble_submit(b, gp);
            return (PyObject *)gp;
        }
    }
    if (py_submit(gp) < 0)
        goto fail;
    return (PyObject *)gp;

fail:
    Py_DECREF(gp);
    Py_DECREF(gp);
    return NULL;
}

static PyObject *
go_vectorcall(Go *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    return py_go(self->name, args, nargsf, kwnames);
}

static Go *
go_new(PyObject *name)
{
    Go *self = PyObject_New(Go, core->go_type);
    if (self == NULL)
        return NULL;
    self->vectorcall = (vectorcallfunc)go_vectorcall;
    self->name = Py_XNewRef(name);
    return self;
}

static void
go_dealloc(Go *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->name);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *
go_named(Go *Py_UNUSED(self), PyObject *name)
{
    if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "go.named() needs a str, got %.200s",
                     Py_TYPE(name)->tp_name);
        return NULL;
    }
    return (PyObject *)go_new(name);
}

static PyObject *
go_repr(Go *self)
{
    if (self->name == NULL)
        return PyUnicode_FromString("<function runtime.go>");
    return PyUnicode_FromFormat("<function runtime.go.named(%R)>", self->name);
}

static PyMethodDef go_methods[] = {
    {"named", (PyCFunction)go_named, METH_O,
     "named($self, name, /)\n--\n\n"
     "A go() that gives its goroutines a name, for error reports and dumps.\n\n"
     "    go.named(\"worker\")(fn, 1)"},
    {0},
};
static PyMemberDef go_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Go, vectorcall), READONLY, NULL},
    {0},
};
static PyType_Slot go_slots[] = {
    {Py_tp_dealloc, go_dealloc},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_methods, go_methods},
    {Py_tp_members, go_members},
    {Py_tp_repr, go_repr},
    {Py_tp_doc,
     "go(fn, *args, **kwargs)\n--\n\n"
     "Start fn(*args, **kwargs) as a goroutine and return its Goroutine.\n\n"
     "It runs when the caller next blocks, yields or ends, in a copy of the caller's\n"
     "contextvars context and with the whole recursion limit.  Keep the returned\n"
     "handle to join() it; drop it and a failure is reported by runtime.excepthook.\n"
     "Any thread may call go(): goroutines started by a thread that runs none itself\n"
     "run on a thread of the runtime's own.\n\n"
     "Go: the go statement."},
    {0, NULL},
};
static PyType_Spec go_spec = {
    "runtime._core.Go", sizeof(Go), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION
        | Py_TPFLAGS_IMMUTABLETYPE,
    go_slots};

int
py_go_init(PyObject *module)
{
    if (py_add_type(module, &go_spec, &core->go_type, false) < 0)
        return -1;
    Go *go = go_new(NULL);
    if (go == NULL)
        return -1;
    int r = PyModule_AddObjectRef(module, "go", (PyObject *)go);
    Py_DECREF(go);
    return r;
}
